//! The order of creation, and what is refused.

use super::*;

fn order(topology: &Topology) -> Vec<String> {
    let parts = topology.parts("declare").expect("parts");
    let show = |part: Part| match part {
        Part::Queue { name, letters, .. } => match letters {
            Some(to) => format!("queue {name} -> {}", to.name()),
            None => format!("queue {name}"),
        },
        Part::Exchange { name, kind } => format!("{kind} {name}"),
        Part::Hang { to, from, key, .. } => format!("{from} -{key}-> exchange {to}"),
        Part::Bind {
            queue,
            exchange,
            key,
            ..
        } => format!("{exchange} -{key}-> queue {queue}"),
    };
    parts.into_iter().map(show).collect()
}

#[test]
fn creates_exchanges_then_homes_then_queues_then_bindings() {
    let by_header = || Filter::AnyHeader(vec![("a".into(), "b".into())]);
    let topology = Topology::new()
        .queue("b", QueueSettings::quorum())
        .queue("b.dead", QueueSettings::quorum().max_length(9))
        .queue("a", QueueSettings::classic())
        .exchange("t", ExchangeKind::Topic)
        .exchange("h", ExchangeKind::Headers)
        .bind(Binding::queue("a", "t").filter(by_header()))
        .bind(Binding::queue("b", "t").filter(by_header()))
        .bind(Binding::queue("b", "h").filter(by_header()))
        .bind(Binding::exchange("h", "t").filter(Filter::pattern("x.#")));
    assert_eq!(
        order(&topology),
        [
            "headers h",
            "topic t",
            "queue a.dead",
            "queue b.dead",
            "queue a -> a.dead",
            "queue b -> b.dead",
            "headers t.headers",
            "t -#-> exchange t.headers",
            "t.headers --> queue a",
            "t.headers --> queue b",
            "h --> queue b",
            "t -x.#-> exchange h",
        ]
    );
}

#[test]
fn what_cannot_be_is_refused_and_named() {
    let base = || {
        Topology::new()
            .exchange("t", ExchangeKind::Topic)
            .exchange("d", ExchangeKind::Direct)
            .queue("q", QueueSettings::quorum())
    };
    let refused = |topology: Topology| topology.parts("declare").expect_err("refused");
    let long = "x".repeat(241);
    for name in ["amq.mine", "", &long] {
        let error = refused(base().exchange(name, ExchangeKind::Topic));
        assert_eq!(error.kind(), ErrorKind::InvalidName, "{error}");
        let error = refused(base().queue(name, QueueSettings::quorum()));
        assert_eq!(error.kind(), ErrorKind::InvalidName, "{error}");
    }
    for (binding, named) in [
        (Binding::queue("none", "t"), "none"),
        (Binding::queue("q", "other"), "other"),
        (Binding::exchange("gone", "t"), "gone"),
        (
            Binding::queue("q", "t").filter(Filter::pattern("#.a.#.b.#")),
            "at most two",
        ),
        (
            Binding::queue("q", "d").filter(Filter::pattern("a.*")),
            "direct",
        ),
        (
            Binding::queue("q", "t").filter(Filter::exact("k".repeat(256))),
            "255 bytes",
        ),
    ] {
        let error = refused(base().bind(binding));
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
    let endless = QueueSettings::quorum().delivery_limit(0);
    let error = refused(Topology::new().queue("q", endless));
    assert_eq!(error.context("setting"), Some("delivery_limit"), "{error}");
}

#[test]
fn equal_topologies_are_equal() {
    let one = Topology::new()
        .queue("a", QueueSettings::quorum())
        .queue("b", QueueSettings::classic());
    let other = Topology::new()
        .queue("b", QueueSettings::classic())
        .queue("a", QueueSettings::quorum());
    assert_eq!(one, other);
    assert_ne!(one, other.queue("a", QueueSettings::quorum().max_length(1)));
}
