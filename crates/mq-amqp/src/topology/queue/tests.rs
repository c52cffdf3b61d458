//! What is declared for each setting, and which pairs are refused.

use super::*;

fn shown(settings: &QueueSettings, letters: Option<Destination>) -> Vec<String> {
    let show = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => text.to_string(),
        AMQPValue::LongLongInt(number) => number.to_string(),
        AMQPValue::Boolean(yes) => yes.to_string(),
        other => format!("{other:?}"),
    };
    let arguments = settings.arguments(letters.as_ref());
    let arguments = arguments.inner().iter();
    arguments
        .map(|(name, value)| format!("{name}={}", show(value)))
        .collect()
}

/// The two settings that an error names.
fn clash(settings: QueueSettings, queue: &str, transient: bool) -> (String, String) {
    let error = settings
        .check("connect", queue, transient)
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert_eq!(error.context("queue"), Some(queue), "{error}");
    let side = |name| error.context(name).unwrap_or_default().to_owned();
    (side("setting"), side("against"))
}

#[test]
fn the_default_confirms_its_dead_letters_and_limits_deliveries() {
    let home = Destination::queue("q.dead");
    assert_eq!(
        shown(&QueueSettings::default(), Some(home)),
        [
            "x-dead-letter-exchange=",
            "x-dead-letter-routing-key=q.dead",
            "x-dead-letter-strategy=at-least-once",
            "x-delivery-limit=20",
            "x-overflow=reject-publish",
            "x-queue-type=quorum",
        ]
    );
    assert_eq!(
        shown(&QueueSettings::default(), None),
        ["x-delivery-limit=20", "x-queue-type=quorum"]
    );
}

#[test]
fn each_setting_is_its_argument() {
    let settings = QueueSettings::classic()
        .max_length(7)
        .max_bytes(8)
        .message_ttl(Duration::from_secs(9))
        .expires(Duration::from_millis(10))
        .single_active_consumer();
    let topic = Destination::topic("expired").routing_key("k");
    assert_eq!(
        shown(&settings, Some(topic)),
        [
            "x-dead-letter-exchange=expired",
            "x-dead-letter-routing-key=k",
            "x-expires=10",
            "x-max-length=7",
            "x-max-length-bytes=8",
            "x-message-ttl=9000",
            "x-overflow=reject-publish",
            "x-queue-type=classic",
            "x-single-active-consumer=true",
        ]
    );
    let dropping = QueueSettings::quorum()
        .delivery_limit(3)
        .max_length(7)
        .overflow(Overflow::DropHead);
    // With it the broker confirms no dead letters, so it is not asked to.
    assert_eq!(
        shown(&dropping, Some(Destination::queue("q.dead"))),
        [
            "x-dead-letter-exchange=",
            "x-dead-letter-routing-key=q.dead",
            "x-delivery-limit=3",
            "x-max-length=7",
            "x-overflow=drop-head",
            "x-queue-type=quorum",
        ]
    );
    assert_eq!(
        shown(&QueueSettings::exclusive(), None),
        ["x-queue-type=classic"]
    );
}

#[test]
fn settings_that_exclude_each_other_are_both_named() {
    let quorum = QueueSettings::quorum;
    let itself = DeadLetters::To(Destination::queue("q"));
    for (settings, queue, transient, setting, against) in [
        (quorum(), "q", true, "transient", "quorum"),
        (
            quorum().broker_dead_letters(DeadLetters::None),
            "q",
            false,
            "broker_dead_letters none",
            "quorum",
        ),
        (
            quorum().delivery_limit(5),
            "q.dead",
            false,
            "delivery_limit",
            "no dead-letter home",
        ),
        (
            QueueSettings::classic().delivery_limit(5),
            "q",
            false,
            "delivery_limit",
            "classic",
        ),
        (
            QueueSettings::exclusive().delivery_limit(5),
            "q",
            false,
            "delivery_limit",
            "exclusive",
        ),
        (
            quorum().overflow(Overflow::DropHead),
            "q",
            false,
            "overflow drop-head",
            "no limit",
        ),
        (
            quorum().broker_dead_letters(itself),
            "q",
            false,
            "broker_dead_letters",
            "the queue itself",
        ),
    ] {
        assert_eq!(
            clash(settings, queue, transient),
            (setting.to_owned(), against.to_owned())
        );
    }
    let elsewhere = DeadLetters::To(Destination::queue("grave"));
    for settings in [
        quorum().delivery_limit(5).broker_dead_letters(elsewhere),
        QueueSettings::classic().broker_dead_letters(DeadLetters::None),
    ] {
        settings
            .check("connect", "q.dead", false)
            .expect("fits together");
    }
    QueueSettings::classic()
        .check("connect", "q", true)
        .expect("transient");
}

#[test]
fn numbers_out_of_range_are_named() {
    let classic = QueueSettings::classic;
    let eleven_years = Duration::from_hours(11 * 365 * 24);
    for (settings, name) in [
        (QueueSettings::quorum().delivery_limit(0), "delivery_limit"),
        (classic().max_length(0), "max_length"),
        (classic().max_bytes(0), "max_bytes"),
        (classic().max_bytes(u64::MAX), "max_bytes"),
        (
            classic().message_ttl(Duration::from_micros(999)),
            "message_ttl",
        ),
        (classic().message_ttl(eleven_years), "message_ttl"),
        (classic().expires(Duration::ZERO), "expires"),
        (classic().expires(Duration::MAX), "expires"),
    ] {
        let error = settings.check("connect", "q", false).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Config);
        assert_eq!(error.context("setting"), Some(name), "{error}");
    }
    let name = classic().check("connect", "", false).expect_err("no name");
    assert_eq!(name.kind(), ErrorKind::InvalidName);
}
