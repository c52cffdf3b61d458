//! Messages on the wire: JSON, with bytes as hexadecimal digits.

use std::time::Duration;

use mq_core::{
    Destination, Error, ErrorKind, Headers, Message, MessageId, Result,
    headers::{self, HeaderValue},
    time,
};
use serde::{Deserialize, Serialize};

/// A message on the wire: every field, none of them made up.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Wire {
    id: String,
    time: u64,
    key: Option<String>,
    headers: Vec<(String, Option<String>)>,
    payload: Option<String>,
    content_type: Option<String>,
    correlation_id: Option<String>,
    reply_to: Option<String>,
    pub(crate) expires_in: Option<u64>,
    priority: Option<u8>,
}

// guide: check
/// Refuses what must never be sent; nothing has left the process then.
pub(crate) fn check(to: &Destination, message: &Message) -> Result<()> {
    let wrong = |kind, text| Error::new(kind, "publish", text).with("destination", to);
    if message.size() > LIMIT {
        let error = wrong(ErrorKind::TooLarge, "the message is over the size limit");
        return Err(error.with("bytes", message.size()).with("limit", LIMIT));
    }
    let mapped = message
        .headers()
        .iter()
        .find(|(name, _)| headers::is_mapped(name));
    match mapped {
        Some((name, _)) => {
            let text = "this header stands for a field of the message: set the field";
            Err(wrong(ErrorKind::InvalidMessage, text).with("header", name))
        }
        None => Ok(()),
    }
}
// guide: end

impl From<&Message> for Wire {
    fn from(message: &Message) -> Self {
        let header = |(name, value): (&str, &HeaderValue)| {
            (name.to_owned(), value.as_bytes().map(|bytes| hex(bytes)))
        };
        Self {
            id: message.id().to_string(),
            time: time::to_millis(message.time()),
            key: message.key().map(|key| hex(key.as_bytes())),
            headers: message.headers().iter().map(header).collect(),
            payload: message.payload().map(|bytes| hex(bytes)),
            content_type: message.content_type().map(str::to_owned),
            correlation_id: message.correlation_id().map(str::to_owned),
            reply_to: message.reply_to().map(str::to_owned),
            expires_in: message.expires_in().map(time::millis),
            priority: message.priority(),
        }
    }
}

impl Wire {
    /// The message; what another client wrote may be no message at all.
    pub(crate) fn read(self) -> Option<Message> {
        let mut message = match self.payload {
            Some(digits) => Message::new(bytes(&digits)?),
            None => Message::tombstone(),
        };
        let mut headers = Headers::new();
        for (name, value) in self.headers {
            let value: HeaderValue = match value {
                Some(digits) => bytes(&digits)?.into(),
                None => HeaderValue::null(),
            };
            headers.append(name, value);
        }
        message = message
            .id(MessageId::new(self.id).ok()?)
            .time(time::from_millis(self.time)?)
            .headers(headers)
            .expires_in(self.expires_in.map(Duration::from_millis));
        if let Some(digits) = self.key {
            message = message.key(bytes(&digits)?);
        }
        if let Some(text) = self.content_type {
            message = message.content_type(text);
        }
        if let Some(text) = self.correlation_id {
            message = message.correlation_id(text);
        }
        if let Some(text) = self.reply_to {
            message = message.reply_to(text);
        }
        if let Some(priority) = self.priority {
            message = message.priority(priority);
        }
        Some(message.build())
    }
}

/// How many attempts the message carries: a header that makes no sense counts as none.
pub(crate) fn attempts(message: &Message) -> u32 {
    let text = message.headers().text(headers::ATTEMPT);
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from(DIGITS[usize::from(n)]);
    let two = |byte: &u8| [digit(byte >> 4), digit(byte & 15)];
    bytes.iter().flat_map(two).collect()
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16);
    let byte = |two: &[u8]| match two {
        [high, low] => u8::try_from(value(*high)? * 16 + value(*low)?).ok(),
        _ => None,
    };
    digits.as_bytes().chunks(2).map(byte).collect()
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";
const LIMIT: usize = 16 * 1024 * 1024;
