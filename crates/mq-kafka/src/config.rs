//! Settings of a connection, typed, with the passwords kept out of every output.

mod consuming;
mod publishing;
mod tls;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use krafka::auth::AuthConfig;
use mq_core::{
    Error, ErrorKind, Result,
    flow::{Flow, FlowSink},
    trace::{Propagator, Tracer},
};

pub use self::tls::Tls;
use crate::{
    capabilities::WORDS,
    connection::Kafka,
    metrics::Watch,
    spans::KafkaSpans,
    topology::{TopicSettings, WeakTopics, topic_name},
};

pub use consuming::GroupProtocol;
pub use publishing::Compression;

/// Settings of a connection to a Kafka cluster; made by [`Kafka::builder`].
#[derive(Debug, Clone)]
#[must_use = "nothing is connected until `connect` is awaited"]
pub struct KafkaBuilder {
    pub(crate) servers: String,
    pub(crate) tls: Option<Tls>,
    pub(crate) sasl: Option<Sasl>,
    topics: TopicSettings,
    named: BTreeMap<String, TopicSettings>,
    pub(crate) weak_topics: WeakTopics,
    pub(crate) delays: Vec<Duration>,
    pub(crate) connect_timeout: Duration,
    pub(crate) publish_timeout: Duration,
    pub(crate) compression: Compression,
    pub(crate) linger: Duration,
    batch_bytes: usize,
    pub(crate) group_protocol: GroupProtocol,
    pub(crate) instance_id: Option<Arc<str>>,
    pub(crate) session_timeout: Duration,
    pub(crate) drain: Duration,
    pub(crate) commit_every: Duration,
    pub(crate) commit_after: u64,
    pub(crate) stalled_after: Duration,
    pub(crate) unreachable_after: Duration,
    pub(crate) window: usize,
    pub(crate) name: String,
    flow: Flow,
    propagator: Option<Arc<dyn Propagator>>,
}

impl KafkaBuilder {
    pub(crate) fn new(servers: impl Into<String>) -> Self {
        Self {
            servers: servers.into(),
            tls: None,
            sasl: None,
            topics: TopicSettings::new(),
            named: BTreeMap::new(),
            weak_topics: WeakTopics::Warn,
            delays: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            publish_timeout: Duration::from_secs(30),
            compression: Compression::None,
            linger: Duration::ZERO,
            batch_bytes: 512 * 1024,
            group_protocol: GroupProtocol::Classic,
            instance_id: None,
            session_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(5),
            commit_every: Duration::from_millis(250),
            commit_after: 5000,
            stalled_after: Duration::from_mins(5),
            unreachable_after: Duration::from_secs(60),
            window: 32 * 1024 * 1024,
            name: "mq-kafka".into(),
            flow: Flow::default(),
            propagator: None,
        }
    }

    /// Speaks TLS. Without it the connection is not encrypted.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Logs in with a user and password.
    pub fn sasl(mut self, sasl: Sasl) -> Self {
        self.sasl = Some(sasl);
        self
    }

    /// How `declare` stores the queue or topic of this name; what is not set here is as
    /// [`topics`](Self::topics) says. A second call for a name replaces the first.
    pub fn topic(mut self, name: impl Into<String>, settings: TopicSettings) -> Self {
        self.named.insert(name.into(), settings);
        self
    }

    /// How `declare` stores every queue and topic, as far as [`topic`](Self::topic) does not say
    /// otherwise for its name.
    pub fn topics(mut self, settings: TopicSettings) -> Self {
        self.topics = settings;
        self
    }

    /// [`TopicSettings::partitions`] for every queue and topic, beside what
    /// [`topics`](Self::topics) says.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.topics = self.topics.partitions(partitions);
        self
    }

    /// What to do with a queue or topic whose settings cannot carry the guarantee of a confirmed
    /// message. Default: [`WeakTopics::Warn`].
    pub fn weak_topics(mut self, weak: WeakTopics) -> Self {
        self.weak_topics = weak;
        self
    }

    /// The delays for which `declare` creates retry topics, for each queue and each durable
    /// subscription: `orders.retry.10` for the delay of 10 s of the queue `orders`,
    /// `events.billing.retry.10` for that of the subscription `billing` of `events`. A dead-letter
    /// queue has none. Default none: then [`defer`](mq_core::Settlement::defer) is *unsupported*, save
    /// [in place](mq_core::Deferred::InPlace).
    ///
    /// Each is rounded up to whole seconds, at least 1 s. A message that is deferred waits in the
    /// shortest delay that is long enough, and is due to the millisecond; for longer than the
    /// longest one it goes there again. A consumer reads every retry topic of its subscription that
    /// is there when it opens, whoever declared it; each costs it one more membership of a group
    /// and one more connection to each broker.
    pub fn delays(mut self, delays: impl IntoIterator<Item = Duration>) -> Self {
        self.delays = delays.into_iter().collect();
        self
    }

    /// How long a TCP or TLS connection may take. Default 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a publish may take, first for room in the window, then for the broker's answer: each of the two.
    /// Default 30 s, at least 1 s. After the client has lost a publish those that come next wait for another producer of it before: for
    /// twice as long and 10 s, at the most.
    pub fn publish_timeout(mut self, timeout: Duration) -> Self {
        self.publish_timeout = timeout;
        self
    }

    /// How long a consumer may find no broker before it ends with
    /// [`Disconnected`](ErrorKind::Disconnected). Default 60 s.
    ///
    /// Until then it goes on by itself as soon as a broker answers.
    pub fn unreachable_after(mut self, timeout: Duration) -> Self {
        self.unreachable_after = timeout;
        self
    }

    /// How many bytes of messages may wait for their outcome; `enqueue` waits for room.
    /// Default 32 MiB.
    pub fn window(mut self, bytes: usize) -> Self {
        self.window = bytes;
        self
    }

    /// The name that the broker knows the client by, as in its quotas and request logs (Kafka's
    /// `client.id`); it is the client's name in flow events and spans too. Default `mq-kafka`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self.flow = self.flow.renamed(&self.name);
        self
    }

    /// Tells every step of its messages to a sink; see [`mq_core::flow`].
    ///
    /// *Published* is told when the client library has taken the message; *confirmed* and
    /// *rejected* when the broker answered, *unknown* when no answer came. *Acked* and *requeued*
    /// are marks in this process. The broker learns of them by the offset: *committed* is told when
    /// it answered a commit that moved it. *Assigned* is told when the consumer knows where to read
    /// on, *revoked* when the last commit before a hand-over is made.
    pub fn flow(mut self, sink: Arc<dyn FlowSink>) -> Self {
        self.flow = Flow::new(&self.name, &WORDS, sink);
        self
    }

    /// Carries trace context through the headers of messages; see [`mq_core::trace`].
    pub fn propagator(mut self, propagator: Arc<dyn Propagator>) -> Self {
        self.propagator = Some(propagator);
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config), [`Connect`](ErrorKind::Connect), [`Auth`](ErrorKind::Auth),
    /// [`Timeout`](ErrorKind::Timeout).
    ///
    /// # Cancel safety
    /// Dropped, nothing stays open.
    pub async fn connect(self) -> Result<Kafka> {
        Kafka::open(self).await
    }

    /// Checks what krafka would refuse later with less to say, and takes the scheme off.
    pub(crate) fn check(mut self) -> Result<Self> {
        let config = |text| Err(Error::new(ErrorKind::Config, "connect", text));
        if let Some(rest) = self.servers.strip_prefix("kafka://") {
            self.servers = rest.trim_end_matches('/').to_owned();
        }
        if self.servers.contains('@') {
            // The text is not shown: what stands before the @ may be a password.
            return config("give user and password with `sasl`, not in the address");
        }
        if !self.servers.split(',').all(is_address) {
            return config("the servers are `host:port`, separated by commas");
        }
        for (name, settings) in &self.named {
            topic_name("connect", name)?;
            let refused = |text| Error::new(ErrorKind::Config, "connect", text).with("topic", name);
            settings.or(self.topics).check().map_err(refused)?;
        }
        if let Err(text) = self.topics.check() {
            return config(text);
        }
        if self
            .delays
            .iter()
            .any(|delay| delay.is_zero() || *delay > LONGEST)
        {
            return config("a delay is over 0 and at most 10 years");
        }
        self.delays.sort_unstable();
        if self.publish_timeout < Duration::from_secs(1) {
            return config("publish_timeout is at least 1 s");
        }
        if self.connect_timeout.is_zero() || self.connect_timeout > self.request_timeout() {
            return config("connect_timeout is over 0 and at most 10 s, and below publish_timeout");
        }
        let more = [self.check_publishing(), self.check_consuming()];
        if let Some(text) = more.into_iter().find_map(Result::err) {
            return config(text);
        }
        if self.window == 0 {
            return config("the window has at least 1 byte");
        }
        if let Some(tls) = &self.tls {
            tls.check()?;
        }
        Ok(self)
    }

    /// What was set for a queue or topic.
    pub(crate) fn settings_of(&self, name: &str) -> TopicSettings {
        match self.named.get(name) {
            Some(own) => own.or(self.topics),
            None => self.topics,
        }
    }

    /// What was set for a dead-letter topic, and what it takes from its source.
    pub(crate) fn settings_of_home(&self, home: &str, source: &str) -> TopicSettings {
        let source = self.settings_of(source).for_home();
        match self.named.get(home) {
            Some(own) => own.or(source),
            None => source,
        }
    }

    /// What was set for a retry topic, and what it takes from its source.
    pub(crate) fn settings_of_tier(
        &self,
        tier: &str,
        source: &str,
        delay: Duration,
    ) -> TopicSettings {
        let source = self.settings_of(source).for_tier(delay);
        match self.named.get(tier) {
            Some(own) => own.or(source),
            None => source,
        }
    }

    /// How long one request may take: krafka wants it below the deadline of a publish, so that at
    /// least one answer can be waited for.
    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_secs(10).min(self.publish_timeout.saturating_sub(self.linger))
    }

    /// What a new connection tells, traces and counts.
    pub(crate) fn watch(&self) -> Watch {
        let spans = KafkaSpans::new(self.name.clone(), &self.servers);
        Watch {
            flow: self.flow.clone(),
            tracer: Tracer::new(spans, self.propagator.clone()),
            counters: Arc::default(),
        }
    }

    pub(crate) fn security(&self) -> Option<AuthConfig> {
        let tls = self.tls.as_ref().map(Tls::config);
        match (&self.sasl, tls) {
            (Some(sasl), Some(tls)) => Some(sasl.config().with_tls(tls)),
            (Some(sasl), None) => Some(sasl.config()),
            (None, Some(tls)) => Some(AuthConfig::ssl(tls)),
            (None, None) => None,
        }
    }
}

pub(crate) fn is_address(server: &str) -> bool {
    server
        .trim()
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
}

/// The longest delay: a retry topic keeps messages longer than that.
const LONGEST: Duration = Duration::from_hours(10 * 365 * 24);

/// A user and password, and how they are shown to the broker (SASL).
#[derive(Clone)]
pub struct Sasl {
    mechanism: Mechanism,
    user: String,
    password: String,
}

#[derive(Debug, Clone, Copy)]
enum Mechanism {
    Plain,
    ScramSha256,
    ScramSha512,
}

impl Sasl {
    /// The password as it is (mechanism PLAIN): only with TLS, or on a network that is trusted.
    pub fn plain(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::new(Mechanism::Plain, user, password)
    }

    /// A proof of the password (mechanism SCRAM-SHA-256).
    pub fn scram_sha_256(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::new(Mechanism::ScramSha256, user, password)
    }

    /// A proof of the password (mechanism SCRAM-SHA-512).
    pub fn scram_sha_512(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::new(Mechanism::ScramSha512, user, password)
    }

    fn new(mechanism: Mechanism, user: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            mechanism,
            user: user.into(),
            password: password.into(),
        }
    }

    fn config(&self) -> AuthConfig {
        match self.mechanism {
            Mechanism::Plain => AuthConfig::sasl_plain(&self.user, &self.password),
            Mechanism::ScramSha256 => AuthConfig::sasl_scram_sha256(&self.user, &self.password),
            Mechanism::ScramSha512 => AuthConfig::sasl_scram_sha512(&self.user, &self.password),
        }
    }
}

impl fmt::Debug for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sasl")
            .field("mechanism", &self.mechanism)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_no_secret() {
        let builder = KafkaBuilder::new("h:9092")
            .sasl(Sasl::plain("alice", "hunter2"))
            .tls(Tls::new().identity("CHAIN-SECRET", "KEY-SECRET"));
        let text = format!("{builder:?}");
        assert!(text.contains("alice"), "{text}");
        assert!(
            !text.contains("hunter2") && !text.contains("SECRET"),
            "{text}"
        );
    }

    #[test]
    fn takes_addresses_with_and_without_scheme() {
        for good in ["h:9092", "kafka://h:9092", "kafka://a:1,b:2/", "[::1]:9092"] {
            let checked = KafkaBuilder::new(good).check().expect(good);
            assert!(!checked.servers.contains("//"), "{}", checked.servers);
        }
    }

    #[test]
    fn refuses_settings_that_make_no_sense_without_repeating_a_password() {
        let new = KafkaBuilder::new;
        let bad = [
            new(""),
            new("host"),
            new("host:0"),
            new("kafka://alice:hunter2@host:9092"),
            new("h:1").partitions(0),
            new("h:1").topics(TopicSettings::new().replication(0)),
            new("h:1").topic("orders", TopicSettings::new().partitions(0)),
            // Each is right alone, and both are wrong.
            new("h:1")
                .topics(TopicSettings::new().replication(2))
                .topic("orders", TopicSettings::new().min_in_sync_replicas(3)),
            new("h:1").publish_timeout(Duration::ZERO),
            new("h:1").connect_timeout(Duration::from_secs(60)),
            new("h:1").window(0),
            new("h:1").delays([Duration::ZERO]),
            new("h:1").delays([Duration::MAX]),
        ];
        for builder in bad {
            let error = builder.check().expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }
}
