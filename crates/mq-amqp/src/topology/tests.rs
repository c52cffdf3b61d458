//! What is declared for each name and filter.

use mq_core::DeadLetters;

use super::*;

fn names(what: impl Into<Declaration>) -> Result<Vec<String>> {
    names_by(ExchangeKind::Topic, what)
}

/// With the topic `events` of this kind.
fn names_by(kind: ExchangeKind, what: impl Into<Declaration>) -> Result<Vec<String>> {
    let mut named = Named::default();
    named.set_exchange("events".into(), kind);
    names_with(&named, what)
}

fn names_with(named: &Named, what: impl Into<Declaration>) -> Result<Vec<String>> {
    let show = |part: Part| match part {
        Part::Queue { name, letters, .. } => {
            let letters = letters.map(|to| to.name().to_string());
            format!("queue {name} -> {}", letters.unwrap_or_default())
        }
        Part::Exchange { name, kind } => format!("{kind:?} {name}"),
        Part::Hang { to, from, .. } => format!("{from} -> {to}"),
        Part::Bind {
            queue,
            exchange,
            key,
            ..
        } => format!("{exchange} -{key}-> {queue}"),
    };
    Ok(parts("declare", &what.into(), named)?
        .into_iter()
        .map(show)
        .collect())
}

#[test]
fn declares_the_home_before_its_queue() {
    assert_eq!(
        names(Destination::queue("orders")).expect("parts"),
        ["queue orders.dead -> ", "queue orders -> orders.dead"]
    );
    assert_eq!(
        names(Destination::queue("orders.dead")).expect("parts"),
        ["queue orders.dead -> "]
    );
}

#[test]
fn binds_a_subscription_by_its_filter() {
    let all = Subscription::durable("events", "billing");
    let queues = [
        "queue events.billing.dead -> ",
        "queue billing@events -> events.billing.dead",
    ];
    let with = |rest: &[&str]| {
        queues
            .iter()
            .chain(rest)
            .map(|s| (*s).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(&all).expect("parts"),
        with(&["events -#-> billing@events"])
    );
    let pattern = all.clone().filter(Filter::pattern("eu.*"));
    assert_eq!(
        names(pattern).expect("parts"),
        with(&["events -eu.*-> billing@events"])
    );
    let headers = all.filter(Filter::AllHeaders(vec![("a".into(), "b".into())]));
    assert_eq!(
        names(headers).expect("parts"),
        with(&[
            "Headers events.headers",
            "events -> events.headers",
            "events.headers --> billing@events"
        ])
    );
}

#[test]
fn refuses_filters_and_names_that_mean_something_else_to_the_broker() {
    let refused = |what: Declaration| names(what).expect_err("refused").kind();
    let durable = |filter| Subscription::durable("events", "b").filter(filter).into();
    assert_eq!(refused(durable(Filter::exact("eu.*"))), ErrorKind::Config);
    assert_eq!(
        refused(durable(Filter::pattern("#.a.#.b.#"))),
        ErrorKind::Config
    );
    assert_eq!(
        refused(durable(Filter::AnyHeader(vec![]))),
        ErrorKind::Config
    );
    assert_eq!(
        refused(durable(Filter::exact("k".repeat(256)))),
        ErrorKind::Config
    );
    assert_eq!(
        refused(Destination::queue("amq.mine").into()),
        ErrorKind::InvalidName
    );
    assert_eq!(
        refused(Destination::queue("q".repeat(300)).into()),
        ErrorKind::InvalidName
    );
    assert_eq!(
        refused(Subscription::ephemeral("events").into()),
        ErrorKind::Unsupported
    );
}

#[test]
fn each_kind_of_exchange_keeps_its_own_filters() {
    use ExchangeKind::{Direct, Fanout, Topic};
    let headers = || Filter::AnyHeader(vec![("a".into(), "b".into())]);
    let cases = [
        (Filter::All, vec![Topic, Fanout]),
        (Filter::exact("eu"), vec![Topic, Direct]),
        (Filter::exact("eu.*"), vec![Direct]),
        (Filter::pattern("eu.*"), vec![Topic]),
        (headers(), vec![Topic, Fanout]),
    ];
    for (filter, kept) in cases {
        for kind in [Topic, Direct, Fanout] {
            let subscription = Subscription::durable("events", "s").filter(filter.clone());
            let declared = names_by(kind, subscription);
            assert_eq!(
                declared.is_ok(),
                kept.contains(&kind),
                "{filter:?} on {kind}"
            );
        }
    }
    let topic = |kind| names_by(kind, Destination::topic("events")).expect("parts");
    assert_eq!(topic(Topic), ["Topic events"]);
    assert_eq!(topic(Direct), ["Direct events"]);
    assert_eq!(topic(Fanout), ["Fanout events"]);
}

#[test]
fn refuses_headers_that_the_broker_would_take_for_something_else() {
    let refused = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(n, v)| ((*n).into(), (*v).into()));
        let filter = Filter::AllHeaders(pairs.collect());
        let error = names(Subscription::durable("events", "s").filter(filter));
        error.expect_err("refused").to_string()
    };
    // The broker would keep the last one alone.
    assert!(refused(&[("a", "1"), ("a", "2")]).contains("names each header once"));
    assert!(refused(&[("x-match", "any")]).contains("x-match"));
}

#[test]
fn the_brokers_own_letters_go_where_they_are_told() {
    let mut named = Named::default();
    let settings = QueueSettings::classic().message_ttl(Duration::from_secs(1));
    let elsewhere = DeadLetters::To(Destination::topic("expired"));
    named.set_queue(
        "orders".into(),
        settings.clone().broker_dead_letters(elsewhere),
    );
    named.set_queue(
        "prices".into(),
        settings.broker_dead_letters(DeadLetters::None),
    );
    for (queue, letters) in [
        ("orders", "expired"),
        ("prices", ""),
        ("other", "other.dead"),
    ] {
        assert_eq!(
            names_with(&named, Destination::queue(queue)).expect("parts"),
            [
                format!("queue {queue}.dead -> "),
                format!("queue {queue} -> {letters}")
            ]
        );
    }
}

#[test]
fn a_durable_subscription_is_never_exclusive() {
    let mut named = Named::default();
    named.set_queue("billing@events".into(), QueueSettings::exclusive());
    let subscription = Subscription::durable("events", "billing");
    let error = names_with(&named, &subscription).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(error.context("setting"), Some("exclusive"));
    assert_eq!(error.context("against"), Some("durable subscription"));
    // A queue of that name is something else.
    assert!(names_with(&named, Destination::queue("billing@events")).is_ok());
}
