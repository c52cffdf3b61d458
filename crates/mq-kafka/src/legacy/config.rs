//! Settings of a connection to an older cluster.

use std::time::Duration;

use mq_core::{Error, ErrorKind, Result};

use super::connection::LegacyKafka;

/// Settings of a connection to a cluster up to Kafka 3.9; made by [`LegacyKafka::builder`].
#[derive(Debug, Clone)]
#[must_use = "nothing is connected until `connect` is awaited"]
pub struct LegacyBuilder {
    pub(super) servers: String,
    pub(super) request_timeout: Duration,
    pub(super) publish_timeout: Duration,
    pub(super) unreachable_after: Duration,
    pub(super) window: usize,
    pub(super) read_uncommitted: bool,
    pub(super) name: String,
}

impl LegacyBuilder {
    pub(super) fn new(servers: impl Into<String>) -> Self {
        Self {
            servers: servers.into(),
            request_timeout: Duration::from_secs(10),
            publish_timeout: Duration::from_secs(30),
            unreachable_after: Duration::from_secs(60),
            window: 32 * 1024 * 1024,
            read_uncommitted: false,
            name: "mq-kafka".into(),
        }
    }

    /// How long one call to the cluster may take, a new connection included. Default 10 s, at least
    /// 1 s.
    ///
    /// The client below cannot be told to give up earlier than after 120 s: a call that takes longer
    /// than this is left to a thread of its own, which ends when the call does: after these 120 s, or, for
    /// a commit, when its coordinator is there again. While eight of them are left behind, further
    /// calls fail at once; publishing and the rest each have eight of their own.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long a publish may take, first for room in the window, then until it is sent. The answer is
    /// waited for as long as [`request_timeout`](Self::request_timeout) says. Default 30 s, at least
    /// 1 s.
    pub fn publish_timeout(mut self, timeout: Duration) -> Self {
        self.publish_timeout = timeout;
        self
    }

    /// How long a consumer may find no broker before it ends with
    /// [`Disconnected`](ErrorKind::Disconnected). Default 60 s.
    pub fn unreachable_after(mut self, timeout: Duration) -> Self {
        self.unreachable_after = timeout;
        self
    }

    /// How many bytes of messages may wait for their outcome; `enqueue` waits for room.
    /// Default 32 MiB, at least 1 KiB.
    pub fn window(mut self, bytes: usize) -> Self {
        self.window = bytes;
        self
    }

    /// Consumers may read records of transactions that were aborted, or are still open: this client
    /// cannot tell them from others. Without it a consumer whose plan is
    /// [`read_committed`](mq_core::ConsumePlan::read_committed), as it is by default, is refused.
    ///
    /// Right for topics to which nobody writes in transactions.
    pub fn read_uncommitted(mut self) -> Self {
        self.read_uncommitted = true;
        self
    }

    /// The name that the broker knows the client by (Kafka's `client.id`). Default `mq-kafka`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config); [`Unsupported`](ErrorKind::Unsupported) for a cluster that no
    /// longer answers this client (Kafka 4.0, KIP-896) or never did (before 0.10);
    /// [`Connect`](ErrorKind::Connect); [`Timeout`](ErrorKind::Timeout).
    ///
    /// # Cancel safety
    /// Dropped, nothing stays open once the call that is under way has ended.
    pub async fn connect(self) -> Result<LegacyKafka> {
        LegacyKafka::open(self.check()?).await
    }

    fn check(mut self) -> Result<Self> {
        let config = |text| Err(Error::new(ErrorKind::Config, "connect", text));
        if let Some(rest) = self.servers.strip_prefix("kafka://") {
            self.servers = rest.trim_end_matches('/').to_owned();
        }
        if self.servers.contains('@') {
            // The text is not shown: what stands before the @ may be a password.
            return config("this client cannot log in: it speaks neither SASL nor TLS");
        }
        if !self.servers.split(',').all(crate::config::is_address) {
            return config("the servers are `host:port`, separated by commas");
        }
        if self.request_timeout < Duration::from_secs(1) {
            return config("request_timeout is at least 1 s");
        }
        if self.publish_timeout < Duration::from_secs(1) {
            return config("publish_timeout is at least 1 s");
        }
        if self.request_timeout.max(self.publish_timeout) > MOST {
            return config("request_timeout and publish_timeout are at most a day");
        }
        if self.window < 1024 || self.window > 1024 * 1024 * 1024 {
            return config("the window has 1 KiB to 1 GiB");
        }
        if i16::try_from(self.name.len()).is_err() {
            return config("the name has at most 32,767 bytes");
        }
        Ok(self)
    }
}

const MOST: Duration = Duration::from_hours(24);
