//! Settings of publishing: compression, and how records are gathered into batches.

use std::time::Duration;

use super::KafkaBuilder;

impl KafkaBuilder {
    /// How batches are compressed (KIP-110 for zstd). Default [`Compression::None`].
    ///
    /// A topic whose own `compression.type` is another than `producer` stores them compressed anew
    /// by that. With a codec the broker weighs the compressed batch against the topic's
    /// `max.message.bytes`, so a message over it is refused by the broker's answer
    /// ([`TooLarge`](mq_core::ErrorKind::TooLarge)), no longer before it is sent.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// How long a batch waits for more records while its partition has nothing on its way (Kafka's
    /// `linger.ms`). Default 0: a single publish does not wait, and while one batch is on its way
    /// the next one fills, so that load makes batches by itself.
    ///
    /// More than 0 makes a single publish that much later, and saves requests where many programs
    /// publish little to many partitions each. At most half of
    /// [`publish_timeout`](Self::publish_timeout).
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// How many bytes a batch of one partition may have (Kafka's `batch.size`); at least 1, and never
    /// more than the [`window`](Self::window). Default 512 KiB.
    ///
    /// One batch of a partition is on its way at a time, so this over the round trip is what one
    /// partition can take. Messages without a key stay in one partition for so many bytes, then go
    /// to the next (KIP-794).
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.batch_bytes = bytes;
        self
    }

    /// The most bytes of a batch; krafka takes no more than the window.
    pub(crate) fn batch_size(&self) -> usize {
        self.batch_bytes.min(self.window)
    }

    /// Checks these against each other.
    pub(super) fn check_publishing(&self) -> Result<(), &'static str> {
        if self.batch_bytes == 0 {
            return Err("batch_bytes is at least 1");
        }
        if self.linger > self.publish_timeout / 2 {
            return Err("linger is at most half of publish_timeout");
        }
        if self.compression == Compression::Zstd && !cfg!(feature = "zstd") {
            return Err("compression by zstd needs the feature `zstd` of mq-kafka");
        }
        Ok(())
    }
}

/// How a publisher compresses its batches. A consumer of this crate reads all of them, whatever its
/// features are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip: small, and slow to make.
    Gzip,
    /// Snappy: fast.
    Snappy,
    /// LZ4: fast.
    Lz4,
    /// Zstandard: small and fairly fast. Needs the feature `zstd`, which brings in a C library;
    /// without it `connect` is a [`Config`](mq_core::ErrorKind::Config) error.
    Zstd,
}

impl Compression {
    pub(crate) fn setting(self) -> krafka::Compression {
        match self {
            Self::None => krafka::Compression::None,
            Self::Gzip => krafka::Compression::Gzip,
            Self::Snappy => krafka::Compression::Snappy,
            Self::Lz4 => krafka::Compression::Lz4,
            Self::Zstd => krafka::Compression::Zstd,
        }
    }
}
