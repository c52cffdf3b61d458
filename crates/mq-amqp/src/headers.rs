//! Messages to AMQP properties and header tables, and back.

use std::time::Duration;

use bytes::Bytes;
use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, ByteArray, FieldTable, LongString, ShortString},
};
use mq_core::{
    Destination, Error, ErrorKind, HeaderValue, Headers, Message, MessageId, Received, Result,
    check_name, headers, time,
};

use crate::topology::cascade::{Later, is_of_cascade};

/// A message in its AMQP form, but for the number that the writer gives it.
#[derive(Debug, Clone)]
pub(crate) struct Outbound {
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) mandatory: bool,
    pub(crate) payload: Bytes,
    properties: BasicProperties,
    table: FieldTable,
}

/// What a message in its AMQP form is made of, kept until its outcome is known: it may have to be
/// made again for another channel.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    pub(crate) to: Destination,
    pub(crate) message: Message,
    /// It need not be written to disk.
    pub(crate) transient: bool,
    /// The routing key of the original, which a copy to a queue would lose.
    pub(crate) original_key: Option<std::sync::Arc<str>>,
    /// It waits in the delay cascade first.
    pub(crate) later: Option<Later>,
}

impl Letter {
    pub(crate) fn new(to: Destination, message: Message) -> Self {
        Self {
            to,
            message,
            transient: false,
            original_key: None,
            later: None,
        }
    }

    /// Its AMQP form.
    pub(crate) fn outbound(&self, limits: Limits) -> Result<Outbound> {
        let mut outbound = match &self.later {
            Some(later) => Outbound::later(&self.to, &self.message, later.clone(), limits)?,
            None => Outbound::new(&self.to, &self.message, limits)?,
        };
        if self.transient {
            outbound.transient();
        }
        if let Some(key) = &self.original_key {
            outbound
                .table
                .insert(headers::ROUTING_KEY.into(), text(&**key));
        }
        Ok(outbound)
    }
}

/// What one connection lets through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of payload: RabbitMQ's `max_message_size`.
    pub(crate) payload: usize,
    /// Bytes of properties and headers: they have to fit into one frame.
    pub(crate) headers: usize,
}

impl Outbound {
    /// The AMQP form of a message that waits in the delay cascade before it gets to a queue.
    ///
    /// Its expiry and priority go into headers: as properties the one would let the message out of a
    /// level early, and the other let it in front of messages whose time has come.
    pub(crate) fn later(
        to: &Destination,
        message: &Message,
        later: Later,
        limits: Limits,
    ) -> Result<Self> {
        let limits = Limits {
            headers: limits.headers.saturating_sub(DEATHS),
            ..limits
        };
        let mut headers = message.headers().clone();
        headers.insert(headers::DUE, time::to_millis(later.due));
        let told = message.clone().edit().headers(headers).build();
        let mut outbound = Self::new(to, &told, limits)?;
        outbound.properties = lasting(message)?;
        if let Some(life) = message.expires_in() {
            let expires = time::to_millis(message.time()).saturating_add(time::millis(life));
            outbound
                .table
                .insert(headers::EXPIRES.into(), text(expires.to_string()));
        }
        if let Some(priority) = message.priority() {
            let name = headers::PRIORITY.into();
            outbound.table.insert(name, text(priority.to_string()));
        }
        (outbound.exchange, outbound.routing_key) = (later.exchange, later.key);
        Ok(outbound)
    }

    /// The AMQP form of a message for a destination.
    pub(crate) fn new(to: &Destination, message: &Message, limits: Limits) -> Result<Self> {
        check_name("publish", to.name())?;
        let (exchange, routing_key) = if to.is_queue() {
            (
                ShortString::default(),
                short("queue", to.name(), ErrorKind::InvalidName)?,
            )
        } else {
            let key = to.key().unwrap_or_default();
            (
                short("topic", to.name(), ErrorKind::InvalidName)?,
                short("routing key", key, ErrorKind::InvalidName)?,
            )
        };
        let payload = message.payload().cloned().unwrap_or_default();
        if payload.len() > limits.payload {
            return Err(too_large(
                "the payload is over the size limit",
                payload.len(),
                limits.payload,
            )
            .help("raise `max_message_size` here and at the broker, or send a claim check"));
        }
        let table = table(message)?;
        let properties = properties(message)?;
        let size = encoded_size(&table) + PROPERTIES;
        if size > limits.headers {
            return Err(too_large(
                "the headers do not fit into one frame",
                size,
                limits.headers,
            ));
        }
        let mandatory = to.is_mandatory();
        Ok(Self {
            exchange,
            routing_key,
            mandatory,
            payload,
            properties,
            table,
        })
    }

    /// Leaves it to the queue whether the message is written to disk.
    pub(crate) fn transient(&mut self) {
        let properties = std::mem::take(&mut self.properties);
        self.properties = properties.with_delivery_mode(TRANSIENT);
    }

    /// The properties, with the number of this publish among the headers.
    pub(crate) fn numbered(&mut self, number: u64) -> BasicProperties {
        self.table
            .insert(headers::PUBLISH_NUMBER.into(), text(number.to_string()));
        self.unnumbered()
    }

    /// The properties, for a publish that nobody answers.
    pub(crate) fn unnumbered(&mut self) -> BasicProperties {
        let table = std::mem::take(&mut self.table);
        std::mem::take(&mut self.properties).with_headers(table)
    }
}

/// The number of the publish that a returned message was.
pub(crate) fn number(properties: &BasicProperties) -> Option<u64> {
    match properties
        .headers()
        .as_ref()?
        .inner()
        .get(headers::PUBLISH_NUMBER)?
    {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok()?.parse().ok(),
        _ => None,
    }
}

/// A delivery as the application sees it. Whatever a stranger wrote, it is read without failing:
/// what has no meaning here is left out.
pub(crate) fn received(delivery: &mut Delivery, source: std::sync::Arc<str>) -> Received {
    let properties = &delivery.properties;
    let table = properties.headers().as_ref().map(FieldTable::inner);
    let find = |name: &str| table.and_then(|t| t.get(name)).and_then(value);
    let find_number = |name: &str| -> Option<u64> {
        match table?.get(name)? {
            // As it is nearly always: read where it lies.
            AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok()?.parse().ok(),
            other => value(other)?.as_str()?.parse().ok(),
        }
    };

    // Its exchange and routing key are those of its way through the delay cascade.
    let waited = is_of_cascade(delivery.exchange.as_str());
    let tombstone = delivery.data.is_empty() && find(headers::TOMBSTONE).is_some();
    let mut message = if tombstone {
        Message::tombstone()
    } else {
        Message::new(std::mem::take(&mut delivery.data))
    };
    let mut kept = Headers::new();
    for (name, value) in table.into_iter().flatten() {
        let name = name.as_str();
        let of_its_way = waited && DEATH.iter().any(|death| name.starts_with(death));
        if !headers::is_mapped(name)
            && !COUNTERS.contains(&name)
            && !of_its_way
            && let Some(value) = self::value(value)
        {
            kept.append(name.to_owned(), value);
        }
    }
    message = message.headers(kept);
    if let Some(key) = find(headers::KEY).as_ref().and_then(HeaderValue::as_bytes) {
        message = message.key(key.clone());
    }
    let seconds = || {
        properties
            .timestamp()
            .as_ref()
            .and_then(|s| s.checked_mul(1000))
    };
    if let Some(at) = find_number(headers::TIME)
        .or_else(seconds)
        .and_then(time::from_millis)
    {
        message = message.time(at);
    }
    if let Some(id) = properties
        .message_id()
        .as_ref()
        .and_then(|id| MessageId::new(id.as_str()).ok())
    {
        message = message.id(id);
    }
    if let Some(kind) = properties.content_type() {
        message = message.content_type(kind.as_str().to_owned());
    }
    if let Some(id) = properties.correlation_id() {
        message = message.correlation_id(id.as_str());
    }
    if let Some(to) = properties.reply_to() {
        message = message.reply_to(to.as_str());
    }
    if let Some(expiry) = properties
        .expiration()
        .as_ref()
        .and_then(|e| e.as_str().parse().ok())
    {
        message = message.expires_in(Duration::from_millis(expiry));
    } else if waited
        && let Some(at) = find_number(headers::EXPIRES)
        && let Some(made) = find_number(headers::TIME)
    {
        message = message.expires_in(Duration::from_millis(at.saturating_sub(made)));
    }
    let priority = properties.priority().or_else(|| {
        let told = waited.then(|| find_number(headers::PRIORITY))??;
        u8::try_from(told).ok()
    });
    if let Some(priority) = priority {
        message = message.priority(priority);
    }

    let attempt = [find_number(headers::ATTEMPT), find_number(DELIVERY_COUNT)]
        .into_iter()
        .flatten()
        .fold(1u64, u64::saturating_add);
    let routing_key = if waited || delivery.exchange.as_str().is_empty() {
        // A copy that came back to its queue brings the key of its original.
        find(headers::ROUTING_KEY).and_then(|original| original.as_str().map(Into::into))
    } else {
        Some(delivery.routing_key.as_str().into())
    };
    Received::new(
        message.build(),
        source,
        routing_key.filter(|key: &std::sync::Arc<str>| !key.is_empty()),
    )
    .with_attempt(u32::try_from(attempt).unwrap_or(u32::MAX))
    .with_redelivered(delivery.redelivered)
}

/// True if the broker counts the deliveries of this message: a quorum queue does, a classic one
/// redelivers without a count.
pub(crate) fn is_counted(delivery: &Delivery) -> bool {
    let table = delivery
        .properties
        .headers()
        .as_ref()
        .map(FieldTable::inner);
    !delivery.redelivered
        || table.is_some_and(|table| COUNTERS.iter().any(|name| table.contains_key(*name)))
}

/// The copy of a failed message that goes back to a queue that does not count, with the attempt in
/// its headers.
pub(crate) fn retry_copy(received: &Received, to: &Destination) -> Letter {
    Letter {
        original_key: received.routing_key().map(Into::into),
        ..Letter::new(to.clone(), attempted(received))
    }
}

/// The copy of a message that comes back to its queue later, with the attempt in its headers.
pub(crate) fn deferred_copy(received: &Received, to: &Destination, later: Later) -> Letter {
    Letter {
        later: Some(later),
        ..retry_copy(received, to)
    }
}

/// A message that has its attempt behind it.
fn attempted(received: &Received) -> Message {
    let mut copied = received.message().headers().clone();
    copied.insert(headers::ATTEMPT, u64::from(received.attempt()));
    received.message().clone().edit().headers(copied).build()
}

fn table(message: &Message) -> Result<FieldTable> {
    if let Some(name) = message.headers().repeated() {
        return Err(invalid(
            "RabbitMQ keeps one value for each header name",
            name,
        ));
    }
    let mut table = FieldTable::default();
    for (name, value) in message.headers().iter() {
        if headers::is_mapped(name) {
            return Err(invalid("this name belongs to a field of the message", name));
        }
        // The broker reads these as further routing keys and closes the channel over other types.
        if name == "CC" || name == "BCC" {
            return Err(invalid(
                "RabbitMQ takes this header for further routing keys",
                name,
            ));
        }
        table.insert(
            short("header name", name, ErrorKind::InvalidMessage)?,
            amqp(value),
        );
    }
    if let Some(key) = message.key() {
        table.insert(headers::KEY.into(), amqp(&key.as_bytes().clone().into()));
    }
    if message.payload().is_none() {
        table.insert(headers::TOMBSTONE.into(), text("1"));
    }
    table.insert(
        headers::TIME.into(),
        text(time::to_millis(message.time()).to_string()),
    );
    Ok(table)
}

/// The properties that mean the same to every queue.
fn lasting(message: &Message) -> Result<BasicProperties> {
    let field = |what, text: &str| short(what, text, ErrorKind::InvalidMessage);
    let mut buffer = [0; 36];
    let mut properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_message_id(field("message id", message.id().encode(&mut buffer))?)
        .with_timestamp(time::to_millis(message.time()) / 1000);
    if let Some(kind) = message.content_type() {
        properties = properties.with_content_type(field("content type", kind)?);
    }
    if let Some(id) = message.correlation_id() {
        properties = properties.with_correlation_id(field("correlation id", id)?);
    }
    if let Some(to) = message.reply_to() {
        properties = properties.with_reply_to(field("reply-to", to)?);
    }
    Ok(properties)
}

/// All of them.
fn properties(message: &Message) -> Result<BasicProperties> {
    let mut properties = lasting(message)?;
    if let Some(expiry) = message.expires_in().map(time::millis) {
        if expiry > MAX_EXPIRY {
            return Err(invalid(
                "RabbitMQ knows no expiry beyond ten years",
                "expires_in",
            ));
        }
        let expiry = short("expiry", &expiry.to_string(), ErrorKind::InvalidMessage)?;
        properties = properties.with_expiration(expiry);
    }
    if let Some(priority) = message.priority() {
        properties = properties.with_priority(priority);
    }
    Ok(properties)
}

/// Text where it is text, so that a peer in another language reads it as such.
fn amqp(value: &HeaderValue) -> AMQPValue {
    match (value.as_bytes(), value.as_str()) {
        (None, _) => AMQPValue::Void,
        (_, Some(text)) => self::text(text),
        (Some(bytes), None) => AMQPValue::ByteArray(ByteArray::from(bytes.as_ref())),
    }
}

/// What a stranger wrote, as text or bytes; tables and arrays have no such form.
fn value(value: &AMQPValue) -> Option<HeaderValue> {
    Some(match value {
        AMQPValue::LongString(text) => HeaderValue::from(text.as_bytes().to_vec()),
        AMQPValue::ByteArray(bytes) => HeaderValue::from(bytes.as_slice().to_vec()),
        AMQPValue::ShortString(text) => text.to_string().into(),
        AMQPValue::Void => HeaderValue::null(),
        AMQPValue::Boolean(v) => v.to_string().into(),
        AMQPValue::ShortShortInt(v) => v.to_string().into(),
        AMQPValue::ShortShortUInt(v) => v.to_string().into(),
        AMQPValue::ShortInt(v) => v.to_string().into(),
        AMQPValue::ShortUInt(v) => v.to_string().into(),
        AMQPValue::LongInt(v) => v.to_string().into(),
        AMQPValue::LongUInt(v) => v.to_string().into(),
        AMQPValue::LongLongInt(v) => v.to_string().into(),
        AMQPValue::Timestamp(v) => v.to_string().into(),
        AMQPValue::Float(v) => v.to_string().into(),
        AMQPValue::Double(v) => v.to_string().into(),
        AMQPValue::DecimalValue(_) | AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) => {
            return None;
        }
    })
}

/// A short string: the client would panic on more than 255 bytes.
fn short(what: &'static str, text: &str, kind: ErrorKind) -> Result<ShortString> {
    ShortString::try_new(text).map_err(|_| {
        Error::new(kind, "publish", "AMQP allows at most 255 bytes here")
            .with("field", what)
            .with("bytes", text.len())
    })
}

fn text(text: impl Into<LongString>) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn invalid(wrong: &'static str, name: &str) -> Error {
    Error::new(ErrorKind::InvalidMessage, "publish", wrong).with("header", name.escape_debug())
}

fn too_large(wrong: &'static str, bytes: usize, limit: usize) -> Error {
    Error::new(ErrorKind::TooLarge, "publish", wrong)
        .with("bytes", bytes)
        .with("limit", limit)
}

/// Bytes on the wire of what [`table`] makes: name, type, length and value of each header.
fn encoded_size(table: &FieldTable) -> usize {
    let value = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => 4 + text.as_bytes().len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.as_slice().len(),
        _ => 0,
    };
    table
        .inner()
        .iter()
        .map(|(name, v)| 2 + name.as_str().len() + value(v))
        .sum()
}

/// Room for all properties, each a short string of at most 255 bytes, and the publish number.
const PROPERTIES: usize = 8 * 256;
/// Delivery modes (AMQP 0-9-1, section 4.6).
const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;
/// Ten years: the broker closes the channel over anything above.
const MAX_EXPIRY: u64 = 315_360_000_000;
const DELIVERY_COUNT: &str = "x-delivery-count";
/// What the broker writes into what left a queue of the cascade; `x-death` itself is an array.
const DEATH: [&str; 2] = ["x-first-death-", "x-last-death-"];
/// Room for `x-death`, which has an entry of less than 256 bytes for each level on the way.
const DEATHS: usize = 28 * 256 + 1024;
/// What a quorum queue writes into what it delivers; the first only since 4.3.
const COUNTERS: [&str; 2] = ["x-acquired-count", DELIVERY_COUNT];

#[cfg(test)]
mod tests;
