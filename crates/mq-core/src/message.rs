//! A message: identity, ordering key, headers, payload and its standard properties.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    Error, ErrorKind, Result,
    headers::{HeaderValue, Headers},
};

/// A message (EIP *Message*; with [`json`](Message::json) a *Document Message*).
///
/// Its id and creation time are made when they are first read or put on a wire. A clone has the
/// same id as its original, so a message that is sent again is recognised as the same one.
pub struct Message {
    id: OnceLock<MessageId>,
    time: OnceLock<SystemTime>,
    key: Option<Key>,
    headers: Headers,
    payload: Option<Bytes>,
    content_type: Option<Cow<'static, str>>,
    correlation_id: Option<Arc<str>>,
    reply_to: Option<Arc<str>>,
    expires_in: Option<Duration>,
    priority: Option<u8>,
}

impl Message {
    /// A message with these bytes and nothing else set.
    #[expect(
        clippy::new_ret_no_self,
        reason = "publishing takes the builder as it is"
    )]
    pub fn new(payload: impl Into<Bytes>) -> MessageBuilder {
        MessageBuilder(Self::with_payload(Some(payload.into())))
    }

    /// A message without payload: in a compacted log it deletes its key.
    pub fn tombstone() -> MessageBuilder {
        MessageBuilder(Self::with_payload(None))
    }

    /// A message with a value as JSON, content type `application/json`.
    ///
    /// # Errors
    /// [`Codec`](ErrorKind::Codec) if the value cannot be written as JSON.
    #[cfg(feature = "json")]
    pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<MessageBuilder> {
        Self::encode::<crate::codec::JsonCodec, T>(value)
    }

    /// A message with a value written by a codec, with the codec's content type.
    ///
    /// # Errors
    /// [`Codec`](ErrorKind::Codec) if the value cannot be written.
    pub fn encode<C: crate::codec::Codec, T: serde::Serialize + ?Sized>(
        value: &T,
    ) -> Result<MessageBuilder> {
        Ok(Self::new(C::encode(value)?).content_type(C::CONTENT_TYPE))
    }

    fn with_payload(payload: Option<Bytes>) -> Self {
        Self {
            id: OnceLock::new(),
            time: OnceLock::new(),
            key: None,
            headers: Headers::new(),
            payload,
            content_type: None,
            correlation_id: None,
            reply_to: None,
            expires_in: None,
            priority: None,
        }
    }

    /// The id: the given one, or a UUIDv7 made now and kept.
    pub fn id(&self) -> &MessageId {
        self.id.get_or_init(MessageId::unique)
    }

    /// The creation time: the given one, or now, and kept.
    ///
    /// Whole milliseconds: more does not survive any broker.
    pub fn time(&self) -> SystemTime {
        *self
            .time
            .get_or_init(|| whole_milliseconds(SystemTime::now()))
    }

    /// The ordering key.
    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// The headers.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The headers, for the trace context that a publish adds.
    pub(crate) fn headers_mut(&mut self) -> &mut Headers {
        &mut self.headers
    }

    /// The payload; `None` for a tombstone, which is not an empty payload.
    pub fn payload(&self) -> Option<&Bytes> {
        self.payload.as_ref()
    }

    /// The content type.
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// The correlation id (EIP *Correlation Identifier*).
    pub fn correlation_id(&self) -> Option<&str> {
        self.correlation_id.as_deref()
    }

    /// Where answers go (EIP *Return Address*).
    pub fn reply_to(&self) -> Option<&str> {
        self.reply_to.as_deref()
    }

    /// How long the message is worth delivering, from its publish on (EIP *Message Expiration*).
    pub fn expires_in(&self) -> Option<Duration> {
        self.expires_in
    }

    /// The priority; higher is sooner, where the broker knows priorities.
    pub fn priority(&self) -> Option<u8> {
        self.priority
    }

    /// The same message, to be changed; id and all other fields stay.
    pub fn edit(self) -> MessageBuilder {
        MessageBuilder(self)
    }

    /// Bytes of payload, key and headers: what counts against size limits, framing apart.
    pub fn size(&self) -> usize {
        let header = |(n, v): (&str, &HeaderValue)| n.len() + v.as_bytes().map_or(0, Bytes::len);
        self.payload.as_ref().map_or(0, Bytes::len)
            + self.key.as_ref().map_or(0, |k| k.as_bytes().len())
            + self.headers.iter().map(header).sum::<usize>()
    }
}

// By hand: a clone that made an id of its own would break every resend.
impl Clone for Message {
    fn clone(&self) -> Self {
        self.id();
        self.time();
        Self {
            id: self.id.clone(),
            time: self.time.clone(),
            key: self.key.clone(),
            headers: self.headers.clone(),
            payload: self.payload.clone(),
            content_type: self.content_type.clone(),
            correlation_id: self.correlation_id.clone(),
            reply_to: self.reply_to.clone(),
            expires_in: self.expires_in,
            priority: self.priority,
        }
    }
}

impl fmt::Debug for Message {
    /// Prints sizes, not contents: payloads and keys may be personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id.get())
            .field("key_bytes", &self.key.as_ref().map(|k| k.as_bytes().len()))
            .field("headers", &self.headers.len())
            .field("payload_bytes", &self.payload.as_ref().map(Bytes::len))
            .field("content_type", &self.content_type)
            .finish_non_exhaustive()
    }
}

/// A [`Message`] being put together; publishing takes it as it is.
#[derive(Debug, Clone)]
#[must_use = "a message is sent only when it is published"]
pub struct MessageBuilder(Message);

impl MessageBuilder {
    /// Sets the id, instead of a UUIDv7.
    pub fn id(mut self, id: MessageId) -> Self {
        self.0.id = OnceLock::from(id);
        self
    }

    /// Sets the creation time, instead of now. Kept in whole milliseconds.
    pub fn time(mut self, time: SystemTime) -> Self {
        self.0.time = OnceLock::from(whole_milliseconds(time));
        self
    }

    /// Sets the ordering key: messages of one key keep their order where the broker and the worker
    /// keep it.
    pub fn key(mut self, key: impl Into<Key>) -> Self {
        self.0.key = Some(key.into());
        self
    }

    /// Adds a header; earlier values of the name stay.
    pub fn header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<HeaderValue>,
    ) -> Self {
        self.0.headers.append(name, value);
        self
    }

    /// Replaces all headers.
    pub fn headers(mut self, headers: Headers) -> Self {
        self.0.headers = headers;
        self
    }

    /// Sets the content type.
    pub fn content_type(mut self, content_type: impl Into<Cow<'static, str>>) -> Self {
        self.0.content_type = Some(content_type.into());
        self
    }

    /// Sets the correlation id (EIP *Correlation Identifier*).
    pub fn correlation_id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.0.correlation_id = Some(id.into());
        self
    }

    /// Sets where answers go (EIP *Return Address*).
    pub fn reply_to(mut self, reply_to: impl Into<Arc<str>>) -> Self {
        self.0.reply_to = Some(reply_to.into());
        self
    }

    /// Sets how long the message is worth delivering, from its publish on, in whole milliseconds
    /// (EIP *Message Expiration*).
    pub fn expires_in(mut self, expires_in: impl Into<Option<Duration>>) -> Self {
        self.0.expires_in = expires_in.into();
        self
    }

    /// Sets the priority; higher is sooner, where the broker knows priorities.
    pub fn priority(mut self, priority: u8) -> Self {
        self.0.priority = Some(priority);
        self
    }

    /// The finished message.
    #[must_use]
    pub fn build(self) -> Message {
        self.0
    }
}

impl From<MessageBuilder> for Message {
    fn from(builder: MessageBuilder) -> Self {
        builder.0
    }
}

/// The identity of a message: the same for a resend, a retry copy and a dead letter.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MessageId(Repr);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    Uuid(Uuid),
    Text(Arc<str>),
}

impl MessageId {
    /// The longest id in bytes: what an AMQP short string holds.
    pub const MAX: usize = 255;

    /// A new UUIDv7.
    pub fn unique() -> Self {
        Self(Repr::Uuid(Uuid::now_v7()))
    }

    /// An id given by the application, such as an order number.
    ///
    /// # Errors
    /// [`InvalidMessage`](ErrorKind::InvalidMessage) if it is empty, longer than
    /// [`MAX`](Self::MAX) bytes, or has control characters.
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref();
        if text.is_empty() || text.len() > Self::MAX || text.contains(char::is_control) {
            return Err(Error::new(
                ErrorKind::InvalidMessage,
                "message id",
                "an id has 1 to 255 bytes and no control characters",
            )
            .with("bytes", text.len()));
        }
        // A UUID in its usual form is kept as one, so that both forms are equal and cost nothing.
        let canonical = Uuid::try_parse(text)
            .ok()
            .filter(|uuid| uuid.hyphenated().encode_lower(&mut [0; 36]) == text);
        Ok(Self(
            canonical.map_or_else(|| Repr::Text(text.into()), Repr::Uuid),
        ))
    }

    /// The id as text; `buffer` is used where it has to be made.
    pub fn encode<'a>(&'a self, buffer: &'a mut [u8; 36]) -> &'a str {
        match &self.0 {
            Repr::Uuid(uuid) => uuid.hyphenated().encode_lower(buffer),
            Repr::Text(text) => text,
        }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encode(&mut [0; 36]))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.encode(&mut [0; 36]))
    }
}

/// An ordering key: any bytes. Messages of one key are one sequence.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Bytes);

impl Key {
    /// The bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The text; `None` if it is no UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<&String> for Key {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<Vec<u8>> for Key {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<Bytes> for Key {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

fn whole_milliseconds(time: SystemTime) -> SystemTime {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => SystemTime::UNIX_EPOCH + Duration::from_millis(crate::time::millis(since)),
        Err(_) => SystemTime::UNIX_EPOCH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_has_the_id_of_its_original() {
        let message = Message::new("x").build();
        assert_eq!(message.clone().id(), message.id());
        assert_eq!(message.clone().time(), message.time());
    }

    #[test]
    fn an_uuid_as_text_is_the_same_id() {
        let id = MessageId::unique();
        assert_eq!(MessageId::new(id.to_string()).ok(), Some(id.clone()));
        assert_ne!(MessageId::new(id.to_string().to_uppercase()).ok(), Some(id));
    }

    #[test]
    fn refuses_ids_that_no_wire_carries() {
        for bad in ["", "a\nb", &"x".repeat(256)] {
            let error = MessageId::new(bad).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::InvalidMessage);
        }
    }

    #[test]
    fn debug_shows_no_content() {
        let message = Message::new("4111 1111")
            .key("alice")
            .header("card", "4111")
            .build();
        let text = format!("{message:?}");
        assert!(!text.contains("4111") && !text.contains("alice"), "{text}");
    }
}
