//! A message: identity, ordering key, headers, payload and its standard properties.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    Error, ErrorKind, Result,
    headers::{HeaderValue, Headers},
    time::to_millis,
};

/// A message (EIP *Message*; with [`json`](Message::json) a *Document Message*).
///
/// Its id and creation time are made when they are first read or put on a wire. A clone has the
/// same id as its original, so a message that is sent again is recognised as the same one.
pub struct Message {
    id: OnceLock<MessageId>,
    /// Milliseconds since 1970, or [`NO_TIME`].
    time: AtomicU64,
    key: Option<Key>,
    headers: Headers,
    payload: Option<Bytes>,
    content_type: Option<Cow<'static, str>>,
    /// What few messages have: a message is moved often on its way.
    rare: Option<Box<Rare>>,
}

/// Fields that few messages have.
#[derive(Debug, Clone, Default)]
struct Rare {
    correlation_id: Option<Arc<str>>,
    reply_to: Option<Arc<str>>,
    expires_in: Option<Duration>,
    priority: Option<u8>,
}

/// The time of a message whose time nobody has asked for yet.
const NO_TIME: u64 = u64::MAX;

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
            time: AtomicU64::new(NO_TIME),
            key: None,
            headers: Headers::new(),
            payload,
            content_type: None,
            rare: None,
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
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.millis())
    }

    /// The creation time in milliseconds since 1970. The first who asks sets it.
    fn millis(&self) -> u64 {
        let time = self.time.load(Ordering::Relaxed);
        if time != NO_TIME {
            return time;
        }
        let now = to_millis(SystemTime::now());
        let set = self
            .time
            .compare_exchange(NO_TIME, now, Ordering::Relaxed, Ordering::Relaxed);
        set.map_or_else(|earlier| earlier, |_| now)
    }

    fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
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
        self.rare.as_ref()?.correlation_id.as_deref()
    }

    /// Where answers go (EIP *Return Address*).
    pub fn reply_to(&self) -> Option<&str> {
        self.rare.as_ref()?.reply_to.as_deref()
    }

    /// How long the message is worth delivering, from its publish on (EIP *Message Expiration*).
    pub fn expires_in(&self) -> Option<Duration> {
        self.rare.as_ref()?.expires_in
    }

    /// The priority; higher is sooner, where the broker knows priorities.
    pub fn priority(&self) -> Option<u8> {
        self.rare.as_ref()?.priority
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
        Self {
            id: self.id.clone(),
            time: self.millis().into(),
            key: self.key.clone(),
            headers: self.headers.clone(),
            payload: self.payload.clone(),
            content_type: self.content_type.clone(),
            rare: self.rare.clone(),
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
        self.0.time = to_millis(time).min(NO_TIME - 1).into();
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
        self.0.rare_mut().correlation_id = Some(id.into());
        self
    }

    /// Sets where answers go (EIP *Return Address*).
    pub fn reply_to(mut self, reply_to: impl Into<Arc<str>>) -> Self {
        self.0.rare_mut().reply_to = Some(reply_to.into());
        self
    }

    /// Sets how long the message is worth delivering, from its publish on, in whole milliseconds
    /// (EIP *Message Expiration*).
    pub fn expires_in(mut self, expires_in: impl Into<Option<Duration>>) -> Self {
        self.0.rare_mut().expires_in = expires_in.into();
        self
    }

    /// Sets the priority; higher is sooner, where the broker knows priorities.
    pub fn priority(mut self, priority: u8) -> Self {
        self.0.rare_mut().priority = Some(priority);
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
        // A UUID in its usual form is kept as one, so that both forms are equal and cost nothing.
        if let Some(uuid) = canonical(text) {
            return Ok(Self(Repr::Uuid(uuid)));
        }
        let plain = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        let odd = || !text.bytes().all(plain) && text.contains(char::is_control);
        if text.is_empty() || text.len() > Self::MAX || odd() {
            return Err(Error::new(
                ErrorKind::InvalidMessage,
                "message id",
                "an id has 1 to 255 bytes and no control characters",
            )
            .with("bytes", text.len()));
        }
        Ok(Self(Repr::Text(text.into())))
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

/// A UUID in the one form that we write it in: hyphens, and digits in lower case. Every delivery has an id to be read, and this takes
/// a fifth of the time of a parser for all forms.
fn canonical(text: &str) -> Option<Uuid> {
    let text: &[u8; 36] = text.as_bytes().try_into().ok()?;
    if [8, 13, 18, 23].iter().any(|at| text[*at] != b'-') {
        return None;
    }
    let mut digits = text.iter().filter(|byte| **byte != b'-');
    let mut digit = || match *digits.next()? {
        digit @ b'0'..=b'9' => Some(digit - b'0'),
        digit @ b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 16];
    for byte in &mut bytes {
        *byte = digit()? << 4 | digit()?;
    }
    // With a hyphen too many a digit is missing.
    Some(Uuid::from_bytes(bytes))
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
    fn a_time_is_kept_in_whole_milliseconds_that_every_clock_has() {
        let of = |time: SystemTime| Message::new("").time(time).build().time();
        let second = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        assert_eq!(
            of(second + Duration::from_nanos(2_999_999)),
            second + Duration::from_millis(2)
        );
        assert_eq!(
            of(SystemTime::UNIX_EPOCH - Duration::from_secs(1)),
            SystemTime::UNIX_EPOCH
        );
        // The furthest time there is must not be taken for none.
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::MAX >> 1);
        assert_eq!(of(far), of(far));
        assert!(of(far) > SystemTime::now());
    }

    #[test]
    fn an_uuid_as_text_is_the_same_id() {
        let id = MessageId::unique();
        assert_eq!(MessageId::new(id.to_string()).ok(), Some(id.clone()));
        assert_ne!(MessageId::new(id.to_string().to_uppercase()).ok(), Some(id));
    }

    #[test]
    fn what_is_no_uuid_in_its_usual_form_stays_the_text_it_is() {
        let uuid = MessageId::unique().to_string();
        let moved = format!("{}-{}", &uuid[..7], &uuid[8..]).replacen("--", "-a", 1);
        let (more, other) = (uuid.replacen('-', "a", 1), format!("{}g", &uuid[..35]));
        let hyphens = format!("{}-{}", &uuid[..34], &uuid[35..]);
        for text in [
            &moved,
            &more,
            &other,
            &hyphens,
            &uuid.to_uppercase(),
            &uuid.replace('-', ""),
        ] {
            let id = MessageId::new(text).expect("an id");
            assert!(matches!(id.0, Repr::Text(_)), "{text}");
            assert_eq!(id.to_string(), *text);
        }
    }

    #[test]
    fn ids_of_other_alphabets_are_taken_and_their_control_characters_refused() {
        assert!(MessageId::new("заказ 7 · ✓").is_ok());
        assert!(MessageId::new("заказ\u{85}").is_err());
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
