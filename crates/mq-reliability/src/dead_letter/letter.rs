//! A dead letter: why a message was rejected, read from its headers.

use std::{str::FromStr, time::SystemTime};

use mq_core::{
    FromReceived, Headers, Outcome, Position, Reason, Received,
    extract::{Context, undecodable},
    headers, time,
};

use super::Unreadable;

/// Why and when a message was moved to a dead-letter home.
///
/// It is written by every backend in the same headers, so it reads the same on every broker. The
/// message itself, with its id, key and payload, is the [`Received`] it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    origin: String,
    reason: Reason,
    error: String,
    attempts: u32,
    first_failure: SystemTime,
    last_failure: SystemTime,
    position: Option<Position>,
    routing_key: Option<String>,
}

impl DeadLetter {
    /// Reads the headers of a message that came from a dead-letter home.
    ///
    /// # Errors
    /// [`Unreadable`] names the first header that is missing or malformed. One that is missing
    /// means that no settlement put the message there: somebody published to that queue, or
    /// the broker itself moved the message (RabbitMQ does at its delivery limit).
    pub fn of(received: &Received) -> Result<Self, Unreadable> {
        let headers = received.headers();
        Ok(Self {
            origin: text(headers, headers::DEAD_ORIGIN)?.to_owned(),
            reason: read(headers, headers::DEAD_REASON, Reason::parse)?,
            error: text(headers, headers::DEAD_ERROR)?.to_owned(),
            attempts: read(headers, headers::DEAD_ATTEMPTS, number)?,
            first_failure: read(headers, headers::DEAD_FIRST, timestamp)?,
            last_failure: read(headers, headers::DEAD_LAST, timestamp)?,
            position: match headers.get(headers::DEAD_POSITION) {
                None => None,
                Some(_) => Some(read(headers, headers::DEAD_POSITION, position)?),
            },
            routing_key: match headers.get(headers::DEAD_ROUTING_KEY) {
                None => None,
                Some(_) => Some(text(headers, headers::DEAD_ROUTING_KEY)?.to_owned()),
            },
        })
    }

    /// The full name of the subscription that rejected it: `orders` for the queue `orders`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The class of the rejection.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The text of the last error, at most 2 KiB. It comes from a handler: do not show it to
    /// strangers.
    pub fn error(&self) -> &str {
        &self.error
    }

    /// How many times it was attempted.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// When it failed first, as far as the rejecting process knew; whole milliseconds.
    pub fn first_failure(&self) -> SystemTime {
        self.first_failure
    }

    /// When it failed last; whole milliseconds.
    pub fn last_failure(&self) -> SystemTime {
        self.last_failure
    }

    /// Where in the origin's log the original lies; `None` on a broker without positions.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// The routing key that the original was published with; `None` if it did not come through a
    /// topic, or without one.
    pub fn routing_key(&self) -> Option<&str> {
        self.routing_key.as_deref()
    }
}

/// For the handler of a worker over a dead-letter home. A message that does not read as a dead
/// letter is rejected.
impl<S, U> FromReceived<S, U> for DeadLetter {
    fn from_received(context: &Context<'_, S, U>) -> Result<Self, Outcome> {
        Self::of(context.received()).map_err(undecodable)
    }
}

fn text<'a>(headers: &'a Headers, name: &'static str) -> Result<&'a str, Unreadable> {
    let value = headers.get(name).ok_or(Unreadable::Missing(name))?;
    value.as_str().ok_or(Unreadable::Malformed(name))
}

fn read<T>(
    headers: &Headers,
    name: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, Unreadable> {
    parse(text(headers, name)?).ok_or(Unreadable::Malformed(name))
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn timestamp(text: &str) -> Option<SystemTime> {
    time::from_millis(number(text)?)
}

fn position(text: &str) -> Option<Position> {
    let (partition, offset) = text.split_once(':')?;
    Some(Position {
        partition: number(partition)?,
        offset: number(offset)?,
    })
}
