//! What is warned of, and what cannot be asked for.

use std::{collections::BTreeSet, time::Duration};

use mq_core::{DeadLetters, Destination};

use super::*;
use crate::{Binding, ExchangeKind, Overflow, Topology};

#[test]
fn what_can_lose_messages_is_named() {
    let safe = Topology::new()
        .exchange("t", ExchangeKind::Topic)
        .queue("q", QueueSettings::quorum().max_length(9))
        .bind(Binding::queue("q", "t"));
    assert_eq!(safe.lints(), []);
    let drops = QueueSettings::quorum()
        .max_length(9)
        .overflow(Overflow::DropHead);
    let names = |what: &str| what.to_owned();
    let risky = Topology::new()
        .exchange("t", ExchangeKind::Topic)
        .queue("a", drops)
        .queue(
            "b",
            QueueSettings::classic().expires(Duration::from_secs(9)),
        )
        .queue("c.dead", QueueSettings::quorum());
    assert_eq!(
        risky.lints(),
        [
            Lint::Unbound {
                exchange: names("t")
            },
            Lint::LettersUnconfirmed { queue: names("a") },
            Lint::LettersUnconfirmed { queue: names("b") },
            Lint::Expires { queue: names("b") },
            Lint::LettersDropped {
                queue: names("c.dead")
            },
        ]
    );
    for lint in risky.lints() {
        let text = lint.to_string();
        assert!(
            ["t", "a", "b", "c.dead"]
                .iter()
                .any(|n| text.contains(&format!(" {n}"))),
            "{text}"
        );
    }
}

/// Whatever is set, of all that the broker has given up nothing is sent: no mirroring (`x-ha-…`), no
/// lazy mode, no old version of classic queues, no native delayed retry, no transient queue that
/// others share.
#[test]
fn what_the_broker_would_punish_cannot_be_said() {
    let known: BTreeSet<&str> = [
        "x-queue-type",
        "x-delivery-limit",
        "x-max-length",
        "x-max-length-bytes",
        "x-overflow",
        "x-message-ttl",
        "x-expires",
        "x-single-active-consumer",
        "x-consumer-timeout",
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-dead-letter-strategy",
    ]
    .into();
    let all = |settings: QueueSettings| {
        settings
            .max_length(1)
            .max_bytes(1)
            .overflow(Overflow::DropHead)
            .message_ttl(Duration::from_secs(1))
            .expires(Duration::from_secs(1))
            .single_active_consumer()
            .broker_dead_letters(DeadLetters::To(Destination::topic("t").routing_key("k")))
    };
    let quorum = || {
        QueueSettings::quorum()
            .delivery_limit(7)
            .consumer_timeout(Duration::from_secs(9))
    };
    for settings in [
        all(quorum()),
        all(QueueSettings::classic()),
        all(QueueSettings::exclusive()),
        QueueSettings::quorum(),
        QueueSettings::classic(),
        QueueSettings::exclusive(),
    ] {
        let letters = settings.letters(None);
        let arguments = settings.arguments(letters.as_ref());
        for name in arguments.inner().keys() {
            assert!(known.contains(name.as_str()), "{name}");
        }
        // A quorum queue has a limit in any case, and it is never -1.
        assert_eq!(
            settings.is_quorum(),
            settings.deliveries().is_some_and(|limit| limit > 0)
        );
    }
    // One without a place for what goes over the limit is refused, as is a limit of 0.
    for wrong in [
        QueueSettings::quorum().broker_dead_letters(DeadLetters::None),
        QueueSettings::quorum().delivery_limit(0),
    ] {
        assert!(wrong.check("declare", "q", false).is_err(), "{wrong}");
    }
}
