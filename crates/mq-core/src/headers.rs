//! Message headers, and the table of header names on the wire.
//!
//! # Names on the wire
//!
//! These names are part of the public contract of every crate of this family: a peer in any
//! language can read and write them. Values are plain UTF-8 text unless the table says otherwise.
//! *Mapped* names are taken out of the headers on receipt and refused in the headers of a publish;
//! *open* names stay in [`Headers`].
//!
//! | name | meaning | RabbitMQ | Kafka |
//! |---|---|---|---|
//! | [`ID`] | message id | property `message-id` | header, mapped |
//! | [`KEY`] | ordering key (bytes) | header, mapped | record key |
//! | [`TIME`] | creation time, milliseconds since 1970 | header beside property `timestamp`, mapped | record timestamp; on a retry copy and a dead letter, whose record has the time of the copy, header, mapped |
//! | [`PUBLISH_NUMBER`] | number of a publish, for the life of a connection | header, mapped | – |
//! | [`TOMBSTONE`] | `1`: the message has no payload | header, mapped | null value |
//! | [`EXPIRES`] | expiry, milliseconds since 1970 | property `expiration`; on a message that waits, header, mapped | header, mapped |
//! | [`PRIORITY`] | priority 0–255 | property `priority`; on a message that waits, header, mapped | header, mapped |
//! | [`CORRELATION_ID`] | correlation id | property `correlation-id` | header, mapped |
//! | [`REPLY_TO`] | reply-to | property `reply-to` | header, mapped |
//! | [`CONTENT_TYPE`] | content type | property `content-type` | header, mapped |
//! | [`ROUTING_KEY`] | routing key of a topic publish | routing key; on a copy that goes to its queue, header, mapped | header, mapped |
//! | [`ATTEMPT`] | attempts that a retry copy has behind it | header, open | header, open |
//! | [`DUE`] | before when a delayed message is not delivered, milliseconds since 1970 | header, open | header, open |
//! | [`RETRY_ORIGIN`] | `topic:partition:offset` of the original of a retry copy, where it has one | – | header, open |
//! | [`RETRY_FIRST`] | when the original of a retry copy failed first, milliseconds since 1970 | – | header, open |
//! | [`DEAD_ORIGIN`] | the subscription that rejected it | header, open | header, open |
//! | [`DEAD_REASON`] | why: `permanent`, `exhausted`, `undecodable` or `rejected` | header, open | header, open |
//! | [`DEAD_ERROR`] | the error's text, at most 2 KiB | header, open | header, open |
//! | [`DEAD_ATTEMPTS`] | attempts made before it was rejected | header, open | header, open |
//! | [`DEAD_FIRST`], [`DEAD_LAST`] | first and last failure, milliseconds since 1970 | header, open | header, open |
//! | [`DEAD_POSITION`] | `partition:offset` of the original, where it has one | – | header, open |
//! | [`DEAD_ROUTING_KEY`] | routing key of the original, where it came through a topic with one | header, open | header, open |
//! | [`TRACEPARENT`], [`TRACESTATE`], [`BAGGAGE`] | trace context, as W3C has it: see [`trace`](crate::trace) | header, open | header, open |

use std::{borrow::Cow, fmt};

use bytes::Bytes;

/// Message id.
pub const ID: &str = "mq-id";
/// Ordering key.
pub const KEY: &str = "mq-key";
/// Creation time.
pub const TIME: &str = "mq-time";
/// Number of a publish, unique for the life of its connection.
pub const PUBLISH_NUMBER: &str = "mq-pub";
/// Marks a message without payload.
pub const TOMBSTONE: &str = "mq-tombstone";
/// When the message expires.
pub const EXPIRES: &str = "mq-expires";
/// Priority.
pub const PRIORITY: &str = "mq-priority";
/// Correlation id.
pub const CORRELATION_ID: &str = "mq-correlation-id";
/// Reply-to.
pub const REPLY_TO: &str = "mq-reply-to";
/// Content type.
pub const CONTENT_TYPE: &str = "content-type";
/// Routing key of a topic publish.
pub const ROUTING_KEY: &str = "mq-routing-key";
/// Attempts that a retry copy has behind it.
pub const ATTEMPT: &str = "mq-attempt";
/// Before when a delayed message is not delivered.
pub const DUE: &str = "mq-due";
/// Where the original of a retry copy lies.
pub const RETRY_ORIGIN: &str = "mq-retry-origin";
/// When the original of a retry copy failed first.
pub const RETRY_FIRST: &str = "mq-retry-first";
/// The subscription that rejected a dead letter.
pub const DEAD_ORIGIN: &str = "mq-dead-origin";
/// Why a dead letter was rejected.
pub const DEAD_REASON: &str = "mq-dead-reason";
/// The error's text of a dead letter.
pub const DEAD_ERROR: &str = "mq-dead-error";
/// Attempts made before a dead letter was rejected.
pub const DEAD_ATTEMPTS: &str = "mq-dead-attempts";
/// Time of the first failure of a dead letter.
pub const DEAD_FIRST: &str = "mq-dead-first";
/// Time of the last failure of a dead letter.
pub const DEAD_LAST: &str = "mq-dead-last";
/// Where the original of a dead letter lies.
pub const DEAD_POSITION: &str = "mq-dead-position";
/// Routing key of the original of a dead letter.
pub const DEAD_ROUTING_KEY: &str = "mq-dead-routing-key";
/// Trace and span that the message belongs to (W3C Trace Context).
pub const TRACEPARENT: &str = "traceparent";
/// What tracing systems add to it (W3C Trace Context).
pub const TRACESTATE: &str = "tracestate";
/// What applications add to it (W3C Baggage).
pub const BAGGAGE: &str = "baggage";

/// True for a name that a backend maps to a field of the message.
///
/// A publish whose [`Headers`] hold one is refused with
/// [`InvalidMessage`](crate::ErrorKind::InvalidMessage): the field and the header could disagree.
pub fn is_mapped(name: &str) -> bool {
    match name {
        CONTENT_TYPE => true,
        _ if !name.starts_with("mq-") => false,
        ID | KEY | TIME | PUBLISH_NUMBER | TOMBSTONE | EXPIRES | PRIORITY | CORRELATION_ID
        | REPLY_TO | ROUTING_KEY => true,
        _ => false,
    }
}

/// Headers of a message, in the order they were added.
///
/// Names are case-sensitive. A name may stand more than once where the broker keeps repeated
/// headers (see [`Capability::RepeatedHeaders`](crate::Capability::RepeatedHeaders)).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Cow<'static, str>, HeaderValue)>);

/// The value of a header: text, bytes or null.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HeaderValue(Option<Bytes>);

impl Headers {
    /// No headers. Allocates nothing.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Number of headers, repeated ones counted each.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets a header; earlier values of the name are removed.
    pub fn insert(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<HeaderValue>,
    ) -> &mut Self {
        let name = name.into();
        self.0.retain(|(n, _)| *n != name);
        self.0.push((name, value.into()));
        self
    }

    /// Adds a header; earlier values of the name stay.
    pub fn append(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<HeaderValue>,
    ) -> &mut Self {
        self.0.push((name.into(), value.into()));
        self
    }

    /// Removes every value of a name; true if there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(n, _)| n != name);
        self.0.len() != before
    }

    /// The value of a name; the last one if it stands more than once.
    pub fn get(&self, name: &str) -> Option<&HeaderValue> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// The text of a name; `None` if it is missing, null or no UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    /// All values of a name, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a HeaderValue> {
        self.0
            .iter()
            .filter(move |(n, _)| n == name)
            .map(|(_, v)| v)
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HeaderValue)> {
        self.0.iter().map(|(n, v)| (&**n, v))
    }

    /// The first name that stands more than once.
    pub fn repeated(&self) -> Option<&str> {
        (1..self.0.len()).find_map(|i| {
            let name = &self.0[i].0;
            self.0[..i]
                .iter()
                .any(|(n, _)| n == name)
                .then_some(&**name)
        })
    }
}

impl<N: Into<Cow<'static, str>>, V: Into<HeaderValue>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(n, v)| (n.into(), v.into()))
                .collect(),
        )
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl HeaderValue {
    /// The null value, which is not an empty one.
    pub const fn null() -> Self {
        Self(None)
    }

    /// True for the null value.
    pub fn is_null(&self) -> bool {
        self.0.is_none()
    }

    /// The bytes; `None` if null.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        self.0.as_ref()
    }

    /// The text; `None` if null or no UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(self.0.as_deref()?).ok()
    }
}

impl fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0, self.as_str()) {
            (None, _) => f.write_str("null"),
            (_, Some(text)) => write!(f, "{text:?}"),
            (Some(bytes), None) => write!(f, "{bytes:?}"),
        }
    }
}

impl From<&'static str> for HeaderValue {
    fn from(text: &'static str) -> Self {
        Self(Some(Bytes::from_static(text.as_bytes())))
    }
}

impl From<String> for HeaderValue {
    fn from(text: String) -> Self {
        Self(Some(text.into()))
    }
}

impl From<Vec<u8>> for HeaderValue {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Some(bytes.into()))
    }
}

impl From<Bytes> for HeaderValue {
    fn from(bytes: Bytes) -> Self {
        Self(Some(bytes))
    }
}

impl From<Option<Bytes>> for HeaderValue {
    fn from(bytes: Option<Bytes>) -> Self {
        Self(bytes)
    }
}

impl From<u64> for HeaderValue {
    fn from(number: u64) -> Self {
        number.to_string().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insert_replaces_and_append_keeps() {
        let mut headers = Headers::new();
        headers.append("a", "1").append("a", "2").append("b", "3");
        assert_eq!(headers.text("a"), Some("2"));
        assert_eq!(headers.all("a").count(), 2);
        assert_eq!(headers.repeated(), Some("a"));
        headers.insert("a", "4");
        assert_eq!((headers.len(), headers.text("a")), (2, Some("4")));
        assert_eq!(headers.repeated(), None);
    }

    #[test]
    fn null_is_not_empty() {
        let headers: Headers = [("null", HeaderValue::null()), ("empty", "".into())]
            .into_iter()
            .collect();
        assert_eq!(headers.get("null").map(HeaderValue::is_null), Some(true));
        assert_eq!(headers.text("empty"), Some(""));
    }

    #[test]
    fn names_of_dead_letters_stay_open() {
        assert!(is_mapped(ID) && is_mapped(CONTENT_TYPE) && is_mapped(ROUTING_KEY));
        assert!(!is_mapped(ATTEMPT) && !is_mapped(DEAD_REASON) && !is_mapped("traceparent"));
    }
}
