//! What is read out of the broker's words.

use super::*;

fn question(arguments: &[(&str, AMQPValue)]) -> Question {
    Question {
        durable: true,
        exclusive: false,
        auto_delete: false,
        internal: false,
        kind: "topic".into(),
        arguments: arguments
            .iter()
            .map(|(name, value)| ((*name).into(), value.clone()))
            .collect(),
        assumed: None,
    }
}

#[test]
fn asks_for_what_is_there() {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut question = question(&[
        ("x-delivery-limit", AMQPValue::LongLongInt(20)),
        ("x-overflow", text("reject-publish")),
        ("x-single-active-consumer", AMQPValue::Boolean(true)),
        ("x-queue-type", text("quorum")),
    ]);
    assert_eq!(question.foreign(), "x-max-priority");
    for (argument, there) in [
        ("x-delivery-limit", "'7'"),
        ("x-message-ttl", "the value '5' of type 'signedint'"),
        ("x-overflow", "none"),
        ("x-single-active-consumer", "'false'"),
        ("x-queue-type", "'classic'"),
        (
            "x-dead-letter-exchange",
            "the value 'it's' of type 'longstr'",
        ),
        ("durable", "'false'"),
        (TYPE, "'fanout'"),
    ] {
        assert!(question.adopt(argument, there), "{argument}");
    }
    let arguments: Vec<_> = question
        .arguments
        .iter()
        .map(|(n, v)| (n.as_str(), v))
        .collect();
    assert_eq!(
        arguments,
        [
            ("x-dead-letter-exchange", &text("it's")),
            ("x-delivery-limit", &AMQPValue::LongLongInt(7)),
            ("x-message-ttl", &AMQPValue::LongLongInt(5)),
            ("x-queue-type", &text("classic")),
            ("x-single-active-consumer", &AMQPValue::Boolean(false)),
        ]
    );
    assert_eq!(question.foreign(), "x-delivery-limit");
    assert!(!question.durable);
    assert_eq!(question.kind, "fanout");
}

#[test]
fn what_cannot_be_read_ends_the_comparison() {
    let mut question = question(&[]);
    for there in ["the value [1] of type 'array'", "something", ""] {
        assert!(!question.adopt("x-strange", there), "{there}");
    }
}

#[test]
fn the_other_type_has_the_other_foreign_argument() {
    let kind = |text: &str| [(QUEUE_TYPE, AMQPValue::LongString(text.into()))];
    for (asked, there) in [(QUORUM, CLASSIC), (CLASSIC, QUORUM)] {
        let mut question = question(&kind(asked));
        let before = question.foreign();
        question.assume_the_other();
        assert_eq!(question.assumed, Some(asked));
        assert_eq!(question.is_classic(), there == CLASSIC);
        assert_ne!(question.foreign(), before);
    }
}
