//! Dead letters, read back: where a rejected message came from, why, after how many attempts, when
//! (EIP *Dead Letter Channel*, *Invalid Message Channel*).
//!
//! A message that is rejected goes to the dead-letter home of its subscription: `orders.dead` for
//! the queue `orders`. There it is an ordinary message in an ordinary queue, with its own id, key,
//! payload and headers, and with the headers that [`DeadLetter`] reads. The names of those headers
//! are in the table of [`mq_core::headers`]; any language can read them.
//!
//! # Promise
//!
//! A rejected message is in its dead-letter home at least once, with everything that it had. The
//! backend stores the copy with the broker's confirmation first, then settles the original. Every
//! broker's dead letters have the same headers.
//!
//! # What can still go wrong
//!
//! * A crash between copy and settlement leaves both: the message is delivered again, and may be
//!   rejected again. Count dead letters by message id.
//! * RabbitMQ moves a message itself once its own delivery limit is reached, as after many crashes
//!   of the consumer. Such a message has none of the headers, and reads as
//!   [`Unreadable::Missing`].
//! * The time of the first failure is known to the process that saw it. A failure before a crash
//!   is counted in the attempts, but has no time.
//!
//! # What it asks of the broker
//!
//! That the home exists: `declare` creates it with the queue or subscription. A consumer whose
//! home is missing is refused when it is opened.
//!
//! # Cost
//!
//! One confirmed publish for each rejected message; nothing for the others.
//!
//! # Tests
//!
//! `tests/dead_letter.rs` in process; on each broker the cases `dead-letter: …` of
//! `tests/promises.rs`, and the conformance suite for the headers.
//!
//! # Example
//!
//! A worker over the dead-letter home takes [`DeadLetter`] as an argument of its handler, and needs
//! to be told where the messages go that it rejects itself. By hand it is [`DeadLetter::of`]:
//!
//! ```
//! use mq_core::{Broker, Consumer, ConsumePlan, Destination, Message, Publisher, Reason, Subscription};
//! use mq_memory::Memory;
//! use mq_reliability::dead_letter::DeadLetter;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = Memory::new();
//! let orders = Destination::queue("orders");
//! broker.declare(&orders).await?;
//! broker.publisher().publish(&orders, Message::new("17 kg of tea")).await?;
//!
//! let mut consumer = broker.consumer(&Subscription::queue("orders"), ConsumePlan::new()).await?;
//! let delivery = consumer.receive().await?.ok_or("the consumer ended")?;
//! delivery.into_settlement().reject("no tea left")?;
//!
//! let mut dead = broker.consumer(&Subscription::queue("orders.dead"), ConsumePlan::new()).await?;
//! let delivery = dead.receive().await?.ok_or("the consumer ended")?;
//! let letter = DeadLetter::of(delivery.received())?;
//! assert_eq!(letter.origin(), "orders");
//! assert_eq!(letter.reason(), Reason::Rejected);
//! assert_eq!(letter.error(), "no tea left");
//! assert_eq!(letter.attempts(), 1);
//! delivery.ack()?;
//! # Ok(())
//! # }
//! ```

mod error;
mod letter;

pub use error::Unreadable;
pub use letter::DeadLetter;

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use mq_core::{
        HeaderValue, Headers, Message, Position, Reason, Received, Rejection, dead_letter_copy,
        headers,
    };
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 7] = [
        headers::DEAD_ORIGIN,
        headers::DEAD_REASON,
        headers::DEAD_ERROR,
        headers::DEAD_ATTEMPTS,
        headers::DEAD_FIRST,
        headers::DEAD_LAST,
        headers::DEAD_POSITION,
    ];

    fn received(message: impl Into<Message>) -> Received {
        Received::new(message.into(), "orders".into(), None)
    }

    fn dead() -> Received {
        let position = Position {
            partition: 2,
            offset: 7,
        };
        let original = received(Message::new("x"))
            .with_attempt(2)
            .with_position(position);
        received(dead_letter_copy(
            &original,
            &Rejection::new(Reason::Exhausted, "boom"),
        ))
    }

    fn with(name: &'static str, value: impl Into<HeaderValue>) -> Received {
        let mut headers = dead().headers().clone();
        headers.insert(name, value);
        received(dead().message().clone().edit().headers(headers))
    }

    #[test]
    fn names_the_header_that_is_missing() {
        for name in NAMES {
            let mut headers: Headers = dead().headers().clone();
            headers.remove(name);
            let read = DeadLetter::of(&received(Message::new("x").headers(headers)));
            if name == headers::DEAD_POSITION {
                assert_eq!(read.map(|letter| letter.position()), Ok(None));
            } else {
                assert_eq!(read, Err(Unreadable::Missing(name)));
            }
        }
    }

    #[test]
    fn refuses_values_of_another_form_and_names_the_header() {
        for (name, value) in [
            (headers::DEAD_REASON, "bored"),
            (headers::DEAD_ATTEMPTS, "-1"),
            (headers::DEAD_ATTEMPTS, "4294967296"),
            (headers::DEAD_FIRST, "yesterday"),
            (headers::DEAD_LAST, "18446744073709551616"),
            (headers::DEAD_POSITION, "7"),
            (headers::DEAD_POSITION, "1:2:3"),
        ] {
            let read = DeadLetter::of(&with(name, value.to_owned()));
            assert_eq!(read, Err(Unreadable::Malformed(name)), "{name}: {value}");
        }
        let binary = DeadLetter::of(&with(headers::DEAD_ERROR, vec![0xff]));
        assert_eq!(binary, Err(Unreadable::Malformed(headers::DEAD_ERROR)));
        let null = DeadLetter::of(&with(headers::DEAD_ORIGIN, HeaderValue::null()));
        assert_eq!(null, Err(Unreadable::Malformed(headers::DEAD_ORIGIN)));
    }

    #[test]
    fn the_error_shows_no_value() {
        let error = DeadLetter::of(&with(headers::DEAD_ATTEMPTS, "hunter2")).expect_err("refused");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    proptest! {
        #[test]
        fn reads_back_what_a_rejection_wrote(
            error in ".{0,100}",
            attempts in 1_u32..,
            millis in 0_u64..4_000_000_000_000,
            place: Option<(u32, u64)>,
            reason in 0_usize..4,
        ) {
            let reason = [
                Reason::Permanent, Reason::Exhausted, Reason::Undecodable, Reason::Rejected,
            ][reason];
            let first = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            let place = place.map(|(partition, offset)| Position { partition, offset });
            let mut original = received(Message::new("x")).with_attempt(attempts);
            if let Some(place) = place {
                original = original.with_position(place);
            }
            let rejection = Rejection::new(reason, error.clone()).first_failure(first);
            let letter = DeadLetter::of(&received(dead_letter_copy(&original, &rejection)));
            let letter = letter.expect("readable");
            prop_assert_eq!(letter.origin(), "orders");
            prop_assert_eq!(letter.reason(), reason);
            prop_assert_eq!(letter.error(), error);
            prop_assert_eq!(letter.attempts(), attempts);
            prop_assert_eq!(letter.first_failure(), first);
            prop_assert!(letter.last_failure() <= SystemTime::now());
            prop_assert_eq!(letter.position(), place);
        }

        #[test]
        fn never_panics_on_hostile_headers(values: [Option<Vec<u8>>; 7]) {
            let mut headers = Headers::new();
            for (name, value) in NAMES.into_iter().zip(values) {
                if let Some(value) = value {
                    headers.append(name, value);
                }
            }
            let _ = DeadLetter::of(&received(Message::new("x").headers(headers)));
        }
    }
}
