//! Codecs: values to payloads and back.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{BoxError, Error, ErrorKind, Result};

/// Writes values into payloads and reads them back.
///
/// Decoding takes bytes from strangers: it must neither panic nor allocate more than a small
/// multiple of the input.
pub trait Codec: Send + Sync + 'static {
    /// The content type written beside the payload.
    const CONTENT_TYPE: &'static str;

    /// Writes a value.
    ///
    /// # Errors
    /// [`Codec`](ErrorKind::Codec) if the value has no form in this codec.
    fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes>;

    /// Reads a value; the whole payload must be used up.
    ///
    /// # Errors
    /// [`Codec`](ErrorKind::Codec) if the bytes are not one value of this type.
    fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T>;
}

/// JSON (RFC 8259), content type `application/json`.
#[cfg(feature = "json")]
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct JsonCodec;

#[cfg(feature = "json")]
impl Codec for JsonCodec {
    const CONTENT_TYPE: &'static str = "application/json";

    fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes> {
        serde_json::to_vec(value)
            .map(Bytes::from)
            .map_err(|e| unwritable::<T>("JSON", e))
    }

    fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T> {
        serde_json::from_slice(payload).map_err(|e| unreadable::<T>("JSON", payload, e))
    }
}

/// postcard 1, content type `application/x-postcard`.
#[cfg(feature = "postcard")]
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct PostcardCodec;

#[cfg(feature = "postcard")]
impl Codec for PostcardCodec {
    const CONTENT_TYPE: &'static str = "application/x-postcard";

    fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes> {
        postcard::to_stdvec(value)
            .map(Bytes::from)
            .map_err(|e| unwritable::<T>("postcard", e))
    }

    fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T> {
        match postcard::take_from_bytes(payload) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => Err(trailing::<T>("postcard", payload, rest.len())),
            Err(e) => Err(unreadable::<T>("postcard", payload, e)),
        }
    }
}

/// bincode 2 in its standard configuration, content type `application/x-bincode`.
///
/// Decoding claims at most [`LIMIT`](BincodeCodec::LIMIT) bytes, whatever lengths the payload names.
#[cfg(feature = "bincode")]
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct BincodeCodec;

#[cfg(feature = "bincode")]
impl BincodeCodec {
    /// The most bytes that decoding one payload may claim: 16 MiB, RabbitMQ's own message limit.
    pub const LIMIT: usize = 16 * 1024 * 1024;
}

#[cfg(feature = "bincode")]
impl Codec for BincodeCodec {
    const CONTENT_TYPE: &'static str = "application/x-bincode";

    fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes> {
        bincode::serde::encode_to_vec(value, bincode::config::standard())
            .map(Bytes::from)
            .map_err(|e| unwritable::<T>("bincode", e))
    }

    fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T> {
        let config = bincode::config::standard().with_limit::<{ Self::LIMIT }>();
        match bincode::serde::decode_from_slice(payload, config) {
            Ok((value, used)) if used == payload.len() => Ok(value),
            Ok((_, used)) => Err(trailing::<T>("bincode", payload, payload.len() - used)),
            Err(e) => Err(unreadable::<T>("bincode", payload, e)),
        }
    }
}

#[allow(dead_code, reason = "unused when no codec feature is on")]
fn unwritable<T: ?Sized>(codec: &'static str, cause: impl Into<BoxError>) -> Error {
    Error::new(ErrorKind::Codec, "encode", "the value cannot be written")
        .with("codec", codec)
        .with("type", std::any::type_name::<T>())
        .caused_by(cause)
}

#[allow(dead_code, reason = "unused when no codec feature is on")]
fn unreadable<T>(codec: &'static str, payload: &[u8], cause: impl Into<BoxError>) -> Error {
    let cause = cause.into();
    Error::new(
        ErrorKind::Codec,
        "decode",
        format!("the payload cannot be read: {cause}"),
    )
    .with("codec", codec)
    .with("type", std::any::type_name::<T>())
    .with("bytes", payload.len())
    .caused_by(cause)
}

#[allow(
    dead_code,
    reason = "unused when JSON is the only codec, or none is on"
)]
fn trailing<T>(codec: &'static str, payload: &[u8], rest: usize) -> Error {
    Error::new(
        ErrorKind::Codec,
        "decode",
        "bytes are left over behind the value",
    )
    .with("codec", codec)
    .with("type", std::any::type_name::<T>())
    .with("bytes", payload.len())
    .with("left", rest)
}
