//! The tag that a message of a recorded run carries: who sent it, as which, and whether it is whole.

use std::{fmt, str, sync::Arc};

use super::HistoryError;

/// Says which message of which run this is.
///
/// It is put into the payload ([`to_payload`](Tag::to_payload)), or, where the payload is the
/// program's own, into a header ([`to_header`](Tag::to_header)); its checksum covers the payload in
/// both cases. A message that is sent again, retried, copied or replayed keeps its tag.
///
/// The text is `mqt1:<checksum>:<run>:<producer>:<seq>:<bytes of the key>:<key>`; the checksum is
/// FNV-1a (64 bits, 16 hex digits) of what follows it and of the payload's other bytes.
///
/// ```
/// use mq_testkit::history::Tag;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tag = Tag::new("run-1", "shop", 7, "alice")?;
/// let payload = tag.to_payload(200);
/// assert_eq!(Tag::from_payload(&payload)?, tag);
/// assert!(Tag::from_payload(&payload[..150]).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tag {
    run: Arc<str>,
    producer: Arc<str>,
    seq: u64,
    key: Arc<str>,
}

/// The bytes are no tag, or not those that were sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corrupt {
    why: &'static str,
    reads_as: Option<Tag>,
}

impl Tag {
    /// The header that a tag is meant to be put into.
    pub const HEADER: &'static str = "mqt-tag";

    /// A tag. `seq` counts the messages of a producer from 0, without gaps; messages with one
    /// non-empty `key` are expected in the order of their `seq`.
    ///
    /// [`Tags`](super::Tags) counts for you.
    ///
    /// # Errors
    /// [`HistoryError::Name`] if run or producer are not 1 to 100 letters, digits, dots, dashes or
    /// underscores, or the key has more than 1,024 bytes.
    pub fn new(run: &str, producer: &str, seq: u64, key: &str) -> Result<Self, HistoryError> {
        let (run, producer) = (name("run", run)?, name("producer", producer)?);
        if key.len() > KEY_BYTES {
            return Err(refused("key", key, "at most 1,024 bytes"));
        }
        let key = key.into();
        Ok(Self {
            run,
            producer,
            seq,
            key,
        })
    }

    /// The next tag of a producer whose names were checked.
    pub(super) fn of(run: &Arc<str>, producer: &Arc<str>, seq: u64, key: &str) -> Self {
        let end = key.floor_char_boundary(KEY_BYTES);
        Self {
            run: Arc::clone(run),
            producer: Arc::clone(producer),
            seq,
            key: key[..end].into(),
        }
    }

    /// The run.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// The producer.
    pub fn producer(&self) -> &str {
        &self.producer
    }

    /// The number among the producer's messages, from 0.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The ordering key; empty for a message that has no order.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The tag as a payload, padded to `size` bytes if it is shorter.
    pub fn to_payload(&self, size: usize) -> Vec<u8> {
        let body = self.body();
        let length = PREFIX + body.len();
        // Not one byte over and over: a client's compression would make nothing of it.
        let fill = (0..size.saturating_sub(length)).map(|at| b' ' + (at % 89) as u8);
        let padding: Vec<u8> = fill.collect();
        let mut payload = self.text(body, &padding).into_bytes();
        payload.extend_from_slice(&padding);
        payload
    }

    /// Reads a payload made by [`to_payload`](Tag::to_payload).
    ///
    /// # Errors
    /// [`Corrupt`] for any other bytes.
    pub fn from_payload(payload: &[u8]) -> Result<Self, Corrupt> {
        let (tag, sum, end) = parse(payload)?;
        tag.checked(sum, payload, end, b"")
    }

    /// The tag as a header for a payload of the program's own.
    pub fn to_header(&self, payload: &[u8]) -> String {
        self.text(self.body(), payload)
    }

    /// Reads a header made by [`to_header`](Tag::to_header) for this payload.
    ///
    /// # Errors
    /// [`Corrupt`] if it is another text, or the payload other bytes.
    pub fn from_header(header: &str, payload: &[u8]) -> Result<Self, Corrupt> {
        let bytes = header.as_bytes();
        let (tag, sum, end) = parse(bytes)?;
        if end != bytes.len() {
            return Err(corrupt("something follows the key"));
        }
        tag.checked(sum, bytes, end, payload)
    }

    /// What follows the checksum.
    fn body(&self) -> String {
        let Self {
            run,
            producer,
            seq,
            key,
        } = self;
        format!("{run}:{producer}:{seq}:{}:{key}", key.len())
    }

    fn text(&self, body: String, rest: &[u8]) -> String {
        let sum = fnv(fnv(FNV_START, body.as_bytes()), rest);
        format!("{MAGIC}{sum:016x}:{body}")
    }

    fn checked(self, sum: u64, text: &[u8], end: usize, payload: &[u8]) -> Result<Self, Corrupt> {
        let (body, padding) = text[PREFIX..].split_at(end - PREFIX);
        if fnv(fnv(fnv(FNV_START, body), padding), payload) == sum {
            return Ok(self);
        }
        let why = "the checksum differs: these are not the bytes that were sent";
        let reads_as = Some(self);
        Err(Corrupt { why, reads_as })
    }
}

impl Corrupt {
    /// The tag that the bytes would be but for the checksum. Do not rely on it.
    pub fn reads_as(&self) -> Option<&Tag> {
        self.reads_as.as_ref()
    }
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no tag of a recorded run: {}", self.why)
    }
}

impl std::error::Error for Corrupt {}

/// A name that can be part of a file's name and of a tag.
pub(super) fn name(what: &'static str, name: &str) -> Result<Arc<str>, HistoryError> {
    match is_name(name, NAME_BYTES) {
        true => Ok(name.into()),
        false => Err(refused(what, name, NAME)),
    }
}

/// The name of a process: short, since the names of its producers are made from it.
pub(super) fn process(name: &str) -> Result<(), HistoryError> {
    match is_name(name, PROCESS_BYTES) {
        true => Ok(()),
        false => Err(refused("process", name, PROCESS)),
    }
}

fn is_name(name: &str, limit: usize) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let short = (1..=limit).contains(&name.len());
    short && name.chars().all(allowed) && !name.starts_with('.')
}

fn refused(what: &'static str, name: &str, rule: &'static str) -> HistoryError {
    let name = name[..name.floor_char_boundary(NAME_BYTES)].to_owned();
    HistoryError::Name { what, name, rule }
}

/// The tag, its checksum, and where the tag ends.
fn parse(bytes: &[u8]) -> Result<(Tag, u64, usize), Corrupt> {
    let rest = bytes
        .strip_prefix(MAGIC.as_bytes())
        .ok_or(corrupt("it does not begin as one"))?;
    let (sum, rest) = field(rest, 16)?;
    let digits = sum.len() == 16 && sum.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let sum = u64::from_str_radix(sum, 16).ok().filter(|_| digits);
    let sum = sum.ok_or(corrupt("its checksum is no number"))?;
    let (run, rest) = field(rest, NAME_BYTES)?;
    let (producer, rest) = field(rest, NAME_BYTES)?;
    let (seq, rest) = number(rest)?;
    let (length, rest) = number(rest)?;
    let length = usize::try_from(length).ok().filter(|l| *l <= KEY_BYTES);
    let key = length.and_then(|length| rest.get(..length));
    let key = key.ok_or(corrupt("its key is cut off or too long"))?;
    let end = bytes.len() - rest.len() + key.len();
    let key = str::from_utf8(key).map_err(|_| corrupt("its key is no text"))?;
    let tag = Tag::new(run, producer, seq, key).map_err(|_| corrupt("a name is not allowed"))?;
    Ok((tag, sum, end))
}

fn field(bytes: &[u8], limit: usize) -> Result<(&str, &[u8]), Corrupt> {
    let end = bytes.iter().take(limit + 1).position(|b| *b == b':');
    let end = end.ok_or(corrupt("a field is cut off or too long"))?;
    let text = str::from_utf8(&bytes[..end]).map_err(|_| corrupt("a field is no text"))?;
    Ok((text, &bytes[end + 1..]))
}

/// A number in its one way to be written, so that a tag has one text.
fn number(bytes: &[u8]) -> Result<(u64, &[u8]), Corrupt> {
    let (text, rest) = field(bytes, 20)?;
    let digits =
        text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let number = text.parse().ok().filter(|_| digits);
    Ok((number.ok_or(corrupt("a field is no number"))?, rest))
}

fn corrupt(why: &'static str) -> Corrupt {
    let reads_as = None;
    Corrupt { why, reads_as }
}

fn fnv(sum: u64, bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(sum, step)
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;
const MAGIC: &str = "mqt1:";
/// The magic, the checksum and its colon.
const PREFIX: usize = MAGIC.len() + 17;
const NAME_BYTES: usize = 100;
const NAME: &str = "1 to 100 letters, digits, dots, dashes or underscores, no dot in front";
const PROCESS_BYTES: usize = 60;
const PROCESS: &str = "1 to 60 letters, digits, dots, dashes or underscores, no dot in front";
const KEY_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tag() -> Tag {
        Tag::new("run-1", "shop.0", 7, "alice:é").expect("a tag")
    }

    proptest! {
        #[test]
        fn a_tag_is_read_as_it_was_written(
            run in "[a-zA-Z0-9_-]{1,20}", producer in "[a-z0-9_-][a-z0-9._-]{0,20}",
            seq: u64, key in "\\PC{0,40}", size in 0_usize..400, payload: Vec<u8>,
        ) {
            let tag = Tag::new(&run, &producer, seq, &key).expect("allowed");
            prop_assert_eq!(Tag::from_payload(&tag.to_payload(size)), Ok(tag.clone()));
            prop_assert!(tag.to_payload(size).len() >= size);
            prop_assert_eq!(Tag::from_header(&tag.to_header(&payload), &payload), Ok(tag));
        }

        #[test]
        fn any_changed_byte_is_seen(at: prop::sample::Index, change in 1_u8..) {
            let mut payload = tag().to_payload(120);
            let at = at.index(payload.len());
            payload[at] ^= change;
            prop_assert!(Tag::from_payload(&payload).is_err(), "{}", String::from_utf8_lossy(&payload));
        }

        #[test]
        fn hostile_bytes_are_corrupt_and_nothing_else(bytes: Vec<u8>, cut in 0_usize..60) {
            let mut payload = tag().to_payload(0);
            payload.truncate(cut);
            payload.extend(&bytes);
            prop_assume!(payload != tag().to_payload(0));
            prop_assert!(Tag::from_payload(&payload).is_err());
            prop_assert!(Tag::from_payload(&bytes).is_err());
        }
    }

    #[test]
    fn a_cut_payload_still_says_whose_it_was() {
        let payload = tag().to_payload(200);
        let corrupt = Tag::from_payload(&payload[..199]).expect_err("cut");
        assert_eq!(corrupt.reads_as(), Some(&tag()));
        let header = tag().to_header(b"two boxes");
        let corrupt = Tag::from_header(&header, b"two boxe").expect_err("another payload");
        assert_eq!(corrupt.reads_as(), Some(&tag()));
    }

    #[test]
    fn names_that_would_break_a_file_or_a_tag_are_refused() {
        for bad in ["", "a:b", "a/b", "..", "é", &"x".repeat(101)] {
            assert!(Tag::new(bad, "p", 0, "").is_err(), "{bad}");
            assert!(Tag::new("r", bad, 0, "").is_err(), "{bad}");
        }
        assert!(Tag::new("r", "p", 0, &"k".repeat(1025)).is_err());
    }

    #[test]
    fn lengths_and_numbers_that_lie_are_corrupt() {
        for text in [
            "mqt1:0000000000000000:r:p:0:18446744073709551615:",
            "mqt1:0000000000000000:r:p:0:99:k",
            "mqt1:0000000000000000:r:p:-1:0:",
            "mqt1:0000000000000000:r:p:+1:0:",
            "mqt1:0000000000000000:r:p:01:0:",
            "mqt1:00000000000000:r:p:1:0:",
            "mqt1:",
            "",
        ] {
            assert!(Tag::from_payload(text.as_bytes()).is_err(), "{text}");
        }
    }
}
