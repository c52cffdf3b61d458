//! What a client asks: which answers will have to be rewritten.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::{
    messages::{ApiKey, RequestHeader},
    protocol::Decodable,
};

use super::limits::{Judgement, judge};
use crate::proxy::{ProxyError, pump::Tap};

/// The requests of one connection, frame by frame: the first bytes of each are looked at, and the
/// rest passes.
#[derive(Default)]
pub(super) struct Requests {
    pending: Pending,
    /// The beginning of a frame that is not yet understood.
    head: BytesMut,
    /// What is left of the frame that passes.
    left: usize,
}

/// Requests whose answers are to be rewritten.
#[derive(Clone, Default)]
pub(super) struct Pending(Arc<Mutex<VecDeque<Asked>>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) correlation: i32,
    pub(super) key: ApiKey,
    pub(super) version: i16,
}

impl Requests {
    pub(super) fn pending(&self) -> Pending {
        self.pending.clone()
    }

    /// Looks at the beginning of a frame; true if it may go on.
    fn understood(&mut self) -> Result<bool, ProxyError> {
        let mut head = &self.head[..];
        if head.first() == Some(&TLS_HANDSHAKE) {
            return Err(ProxyError::Tls);
        }
        if head.len() < HEAD {
            return Ok(false);
        }
        let size = frame_size(head.get_i32())?;
        let (key, version) = (head.get_i16(), head.get_i16());
        let correlation = head.get_i32();
        match judge(key, version) {
            Judgement::Passes => {}
            Judgement::Refused => {
                return Err(ProxyError::Kafka(format!(
                    "request {key} in version {version} is not understood; \
                     the client must heed ApiVersions"
                )));
            }
            Judgement::Downgraded => {
                let unknown = i16::MAX.to_be_bytes();
                self.head[6..8].copy_from_slice(&unknown);
                self.expect(correlation, ApiKey::ApiVersions, 0)?;
            }
            Judgement::Rewritten(ApiKey::Produce) => {
                let whole = self.head.len() >= 4 + size;
                match acknowledged(&self.head[4..], version) {
                    None if !whole && self.head.len() < MOST_HEAD => return Ok(false),
                    None => return Err(ProxyError::Kafka("a Produce request is not whole".into())),
                    Some(true) => self.expect(correlation, ApiKey::Produce, version)?,
                    Some(false) => {}
                }
            }
            Judgement::Rewritten(key) => self.expect(correlation, key, version)?,
        }
        self.left = 4 + size;
        Ok(true)
    }

    fn expect(&self, correlation: i32, key: ApiKey, version: i16) -> Result<(), ProxyError> {
        let mut pending = self
            .pending
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if pending.len() >= MOST_PENDING {
            let why = format!("{MOST_PENDING} requests without an answer");
            return Err(ProxyError::Kafka(why));
        }
        pending.push_back(Asked {
            correlation,
            key,
            version,
        });
        Ok(())
    }
}

impl Tap for Requests {
    fn pass(&mut self, mut bytes: &[u8], to: &mut BytesMut) -> Result<(), ProxyError> {
        while !bytes.is_empty() {
            if self.left == 0 {
                // Never past this frame: what is kept back is a head, whatever comes behind it.
                let wanted = if self.head.len() < HEAD {
                    HEAD - self.head.len()
                } else {
                    let size = frame_size(i32::from_be_bytes([
                        self.head[0],
                        self.head[1],
                        self.head[2],
                        self.head[3],
                    ]))?;
                    4 + size - self.head.len()
                };
                let (head, rest) = bytes.split_at(wanted.min(bytes.len()));
                self.head.extend_from_slice(head);
                bytes = rest;
                if self.understood()? {
                    self.left -= self.head.len();
                    to.unsplit(self.head.split());
                }
            } else {
                let (now, rest) = bytes.split_at(self.left.min(bytes.len()));
                to.extend_from_slice(now);
                self.left -= now.len();
                bytes = rest;
            }
        }
        Ok(())
    }

    fn end(&mut self, to: &mut BytesMut) {
        to.unsplit(self.head.split());
    }
}

impl Pending {
    /// Whose answer this is, if it is to be rewritten.
    pub(super) fn answered(&self, correlation: i32) -> Option<Asked> {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = pending
            .iter()
            .position(|asked| asked.correlation == correlation)?;
        pending.remove(at)
    }
}

/// The length of a frame after its first four bytes.
pub(super) fn frame_size(size: i32) -> Result<usize, ProxyError> {
    match usize::try_from(size) {
        Ok(size) if (SMALLEST..=LARGEST).contains(&size) => Ok(size),
        _ => Err(ProxyError::Kafka(format!(
            "a frame of {size} bytes: this is not Kafka's protocol"
        ))),
    }
}

/// Whether a Produce request of version 9 or later will be answered: with acks=0 it is not. None if
/// there is too little of it to tell.
fn acknowledged(frame: &[u8], version: i16) -> Option<bool> {
    let mut frame = Bytes::copy_from_slice(frame);
    let header = ApiKey::Produce.request_header_version(version);
    RequestHeader::decode(&mut frame, header).ok()?;
    skip_compact_string(&mut frame)?;
    Some(frame.try_get_i16().ok()? != 0)
}

/// Past the transaction's name. A length of one more than it is, in groups of seven bits.
fn skip_compact_string(frame: &mut Bytes) -> Option<()> {
    let mut length = 0;
    for shift in (0..35).step_by(7) {
        let byte = frame.try_get_u8().ok()?;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let bytes = length.saturating_sub(1);
            (bytes <= frame.remaining()).then(|| frame.advance(bytes))?;
            return Some(());
        }
    }
    None
}

/// Size, key, version, correlation.
const HEAD: usize = 12;
/// More than any header that a client writes.
const MOST_HEAD: usize = 128 * 1024;
const MOST_PENDING: usize = 4096;
/// The first byte of a TLS connection. As the first byte of a size it would be 352 MiB.
const TLS_HANDSHAKE: u8 = 0x16;
/// Correlation alone.
const SMALLEST: usize = 4;
pub(super) const LARGEST: usize = 128 * 1024 * 1024;
