//! Why a message is rejected, and the copy that goes to the dead-letter home.

use std::{fmt, time::SystemTime};

use crate::{BoxError, Message, Received, headers, time};

/// Why a message is moved to the dead-letter home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    reason: Reason,
    error: String,
    attempts: Option<u32>,
    first_failure: Option<SystemTime>,
}

/// The class of a [`Rejection`], as written in the header
/// [`DEAD_REASON`](crate::headers::DEAD_REASON).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The handler says that no retry can help.
    Permanent,
    /// The attempts are used up.
    Exhausted,
    /// The payload or a header cannot be read (EIP *Invalid Message*).
    Undecodable,
    /// The handler, or whoever settles by hand, rejected it.
    Rejected,
}

impl Reason {
    /// The text in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permanent => "permanent",
            Self::Exhausted => "exhausted",
            Self::Undecodable => "undecodable",
            Self::Rejected => "rejected",
        }
    }

    /// The class that a header names; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Permanent,
            Self::Exhausted,
            Self::Undecodable,
            Self::Rejected,
        ]
        .into_iter()
        .find(|reason| reason.as_str() == text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Rejection {
    /// A rejection with its class and the text of the error.
    pub fn new(reason: Reason, error: impl Into<String>) -> Self {
        Self {
            reason,
            error: error.into(),
            attempts: None,
            first_failure: None,
        }
    }

    /// A rejection with the error and the errors that caused it, joined by colons.
    pub fn from_error(reason: Reason, error: &BoxError) -> Self {
        Self::new(reason, chain(&**error))
    }

    /// Sets how many attempts were made, where that is not the number of the delivery's attempt.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// Sets when the first attempt failed, where that was before now.
    #[must_use]
    pub fn first_failure(mut self, time: SystemTime) -> Self {
        self.first_failure = Some(time);
        self
    }

    /// The class.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The error's text.
    pub fn error(&self) -> &str {
        &self.error
    }
}

impl<T: Into<String>> From<T> for Rejection {
    fn from(error: T) -> Self {
        Self::new(Reason::Rejected, error)
    }
}

/// The copy of a message that goes to a dead-letter home.
///
/// It has the id, key, payload, properties and headers of the original, no expiry (a dead letter
/// waits for a person), and the headers of the table in [`headers`]. Every backend writes this
/// copy, so that dead letters read the same on every broker.
pub fn dead_letter_copy(received: &Received, rejection: &Rejection) -> Message {
    let now = SystemTime::now();
    let message = received.message().clone();
    let mut copied = message.headers().clone();
    // A retry copy knows more than this delivery of it.
    let before = copied.text(headers::RETRY_FIRST);
    let before = before.and_then(|text| time::from_millis(text.parse().ok()?));
    let first = rejection.first_failure.or(before).unwrap_or(now);
    let origin = copied.text(headers::RETRY_ORIGIN);
    let origin = origin.and_then(|text| Some(text.split_once(':')?.1.to_owned()));
    copied.insert(headers::DEAD_ORIGIN, received.source().to_string());
    copied.insert(headers::DEAD_REASON, rejection.reason.as_str());
    copied.insert(headers::DEAD_ERROR, cut(&rejection.error).to_owned());
    let attempts = rejection.attempts.unwrap_or_else(|| received.attempt());
    copied.insert(headers::DEAD_ATTEMPTS, u64::from(attempts));
    copied.insert(headers::DEAD_FIRST, time::to_millis(first));
    copied.insert(headers::DEAD_LAST, time::to_millis(now));
    copied.remove(headers::DEAD_POSITION);
    let position = || received.position().map(|position| position.to_string());
    if let Some(position) = origin.or_else(position) {
        copied.insert(headers::DEAD_POSITION, position);
    }
    // The copy goes to a queue, which has none: without it nobody could publish the message anew.
    if let Some(key) = received.routing_key() {
        copied.insert(headers::DEAD_ROUTING_KEY, key.to_owned());
    }
    // What it went through is told above; in the dead-letter queue it starts anew.
    for name in [
        headers::ATTEMPT,
        headers::DUE,
        headers::RETRY_ORIGIN,
        headers::RETRY_FIRST,
    ] {
        copied.remove(name);
    }
    message.edit().headers(copied).expires_in(None).build()
}

/// An error and its causes in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause.filter(|_| text.len() < MAX_ERROR) {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

/// At most 2 KiB, so that an error cannot make a message too large for its broker.
fn cut(text: &str) -> &str {
    match text
        .char_indices()
        .map(|(i, c)| i + c.len_utf8())
        .take_while(|end| *end <= MAX_ERROR)
        .last()
    {
        Some(end) if end < text.len() => &text[..end],
        _ => text,
    }
}

const MAX_ERROR: usize = 2048;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{MessageId, Position};

    fn received(message: impl Into<Message>) -> Received {
        Received::new(message.into(), "orders".into(), None)
    }

    #[test]
    fn the_copy_keeps_everything_but_the_expiry() {
        let original = Message::new("x")
            .key("k")
            .header("trace", "1")
            .id(MessageId::new("order-1").expect("an id"))
            .expires_in(Duration::from_secs(1))
            .build();
        let position = Position {
            partition: 2,
            offset: 7,
        };
        let received = received(original).with_attempt(3).with_position(position);
        let copy = dead_letter_copy(&received, &Rejection::new(Reason::Exhausted, "boom"));
        assert_eq!(copy.id().to_string(), "order-1");
        assert_eq!(copy.key().and_then(|k| k.as_str()), Some("k"));
        assert_eq!(copy.expires_in(), None);
        let text = |name| copy.headers().text(name);
        assert_eq!(text("trace"), Some("1"));
        assert_eq!(text(headers::DEAD_ORIGIN), Some("orders"));
        assert_eq!(text(headers::DEAD_REASON), Some("exhausted"));
        assert_eq!(text(headers::DEAD_ATTEMPTS), Some("3"));
        assert_eq!(text(headers::DEAD_POSITION), Some("2:7"));
    }

    #[test]
    fn the_copy_tells_the_routing_key_also_when_it_is_rejected_once_more() {
        let original = Message::new("x").build();
        let received = Received::new(original, "s@t".into(), Some("eu.paid".into()));
        let first = dead_letter_copy(&received, &Rejection::from("boom"));
        let again = Received::new(first.clone(), "t.s.dead".into(), None);
        let second = dead_letter_copy(&again, &Rejection::from("boom"));
        for copy in [first, second] {
            let told = copy.headers().text(headers::DEAD_ROUTING_KEY);
            assert_eq!(told, Some("eu.paid"));
        }
    }

    #[test]
    fn the_copy_of_a_retry_copy_tells_the_original() {
        let original = Message::new("x")
            .header(headers::ATTEMPT, "2")
            .header(headers::DUE, "1700000009000")
            .header(headers::RETRY_ORIGIN, "orders:3:17")
            .header(headers::RETRY_FIRST, "1700000000000")
            .build();
        let position = Position {
            partition: 1,
            offset: 2,
        };
        let received = received(original).with_position(position);
        let copy = dead_letter_copy(&received, &Rejection::from("boom"));
        let text = |name| copy.headers().text(name);
        assert_eq!(text(headers::DEAD_POSITION), Some("3:17"));
        assert_eq!(text(headers::DEAD_FIRST), Some("1700000000000"));
        let gone = [headers::DUE, headers::RETRY_ORIGIN, headers::RETRY_FIRST];
        assert_eq!(gone.map(text), [None; 3]);
    }

    #[test]
    fn a_long_error_is_cut_at_a_character() {
        let error = "ä".repeat(3000);
        let copy = dead_letter_copy(&received(Message::new("")), &Rejection::from(error));
        let text = copy
            .headers()
            .text(headers::DEAD_ERROR)
            .expect("still UTF-8");
        assert_eq!(text.len(), 2048);
    }

    #[test]
    fn every_reason_reads_back() {
        assert_eq!(
            Reason::parse(Reason::Undecodable.as_str()),
            Some(Reason::Undecodable)
        );
        assert_eq!(Reason::parse("expired"), None);
    }
}
