//! Messages as the oldest records that there are: a key and a payload.

use std::sync::Arc;

use bytes::Bytes;
use mq_core::{Destination, Error, ErrorKind, Message, Position, Received, Result, headers};

use super::error::unsupported;
use crate::headers::place_id;

/// Checks that nothing of a message would be left behind.
///
/// Its id and time are, always: a message that was cloned has them whether they were set or not.
pub(super) fn check(operation: &'static str, to: &Destination, message: &Message) -> Result<()> {
    if let Some((name, _)) = message
        .headers()
        .iter()
        .find(|(n, _)| headers::is_mapped(n))
    {
        return Err(Error::new(
            ErrorKind::InvalidMessage,
            operation,
            "this header name belongs to a field of the message; set the field",
        )
        .with("header", name));
    }
    let mut names = message.headers().iter().map(|(name, _)| name);
    let repeated = |name: &&str| message.headers().all(name).nth(1).is_some();
    if let Some(name) = names.find(repeated) {
        return Err(Error::new(
            ErrorKind::InvalidMessage,
            operation,
            "a header name may not stand more than once here",
        )
        .with("header", name));
    }
    let set = [
        ("headers", !message.headers().is_empty()),
        ("content type", message.content_type().is_some()),
        ("correlation id", message.correlation_id().is_some()),
        ("reply-to", message.reply_to().is_some()),
        ("expiry", message.expires_in().is_some()),
        ("priority", message.priority().is_some()),
        ("routing key", !to.is_queue() && to.key().is_some()),
        ("mandatory", !to.is_queue() && to.is_mandatory()),
    ];
    match set.into_iter().find(|(_, is_set)| *is_set) {
        Some((field, _)) => Err(unsupported(
            operation,
            "a record of the legacy client has a key and a payload, and nothing else: this would be \
             left behind",
        )
        .with("field", field)
        .with("destination", to)),
        None => Ok(()),
    }
}

/// A record as it was fetched.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) key: Bytes,
    pub(super) value: Bytes,
}

impl Fetched {
    /// The client tells neither a missing key from an empty one nor a tombstone from an empty payload.
    /// An empty key is taken as none, a missing payload as empty: nobody deletes anything for it.
    pub(super) fn received(self, source: &Arc<str>) -> Received {
        let mut message = Message::new(self.value);
        if !self.key.is_empty() {
            message = message.key(self.key);
        }
        if let Some(id) = place_id(source, self.partition, self.offset) {
            message = message.id(id);
        }
        let received = Received::new(message.build(), Arc::clone(source), None);
        match (u32::try_from(self.partition), u64::try_from(self.offset)) {
            (Ok(partition), Ok(offset)) => received.with_position(Position { partition, offset }),
            _ => received,
        }
    }
}

/// The partition of a key, as Java's and this crate's default client have it. The client's own rule
/// would put keys elsewhere.
pub(super) fn partition_of(key: &[u8], partitions: usize) -> i32 {
    let hash = (murmur2(key) & 0x7fff_ffff) as usize;
    i32::try_from(hash % partitions.max(1)).unwrap_or_default()
}

/// MurmurHash2 with the seed of Kafka's own producer.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = 0x9747_b28c ^ length;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_kafkas_own_tests() {
        // The signed values of UtilsTest in Apache Kafka.
        let known: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ];
        for (text, hash) in known {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
    }

    #[test]
    fn names_the_field_that_would_be_left_behind() {
        let queue = Destination::queue("orders");
        let message = Message::new("x").header("region", "eu").build();
        let error = check("publish", &queue, &message).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.context("field"), Some("headers"));
        let topic = Destination::topic("events").routing_key("eu");
        let error = check("publish", &topic, &Message::new("x").build()).expect_err("refused");
        assert_eq!(error.context("field"), Some("routing key"));
        assert!(check("publish", &queue, &Message::new("x").key("k").build()).is_ok());
    }
}
