//! Settings of a connection, by URL or one by one.

mod tls;

use std::{fmt, sync::Arc, time::Duration};

use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use mq_core::{
    Destination, Error, ErrorKind, Result, Subscription,
    flow::{Flow, FlowSink},
    trace::{Propagator, Tracer},
};
use url::{Host, Url};

pub(crate) use self::tls::Connector;
pub use self::tls::Tls;
#[cfg(feature = "tls")]
pub(crate) use self::tls::rustls_error;
use crate::{
    Amqp, ExchangeKind, QueueSettings, Recovery, Topology,
    capabilities::WORDS,
    connection::{Events, PLACEHOLDER},
    error::CONNECT,
    metrics::Counters,
    spans::AmqpSpans,
    topology::Named,
};

/// Settings of an [`Amqp`] connection. Made by [`Amqp::builder`].
///
/// `Debug` shows no password.
#[derive(Clone)]
#[must_use = "nothing is connected before `connect`"]
pub struct AmqpBuilder(Settings);

#[derive(Clone)]
pub(crate) struct Settings {
    tls: Option<Tls>,
    host: String,
    port: Option<u16>,
    /// The other nodes, with the port of the first where they name none.
    others: Vec<(String, Option<u16>)>,
    user: String,
    password: String,
    virtual_host: String,
    pub(crate) name: String,
    heartbeat: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) operation_timeout: Duration,
    pub(crate) publish_timeout: Duration,
    pub(crate) publish_window: usize,
    pub(crate) max_message_size: usize,
    pub(crate) recovery: Recovery,
    pub(crate) resend: bool,
    pub(crate) named: Arc<Named>,
    pub(crate) flow: Flow,
    propagator: Option<Arc<dyn Propagator>>,
    /// These three are made anew by `connect`.
    pub(crate) tracer: Tracer,
    pub(crate) counters: Arc<Counters>,
    pub(crate) events: Events,
}

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    host: String,
    port: u16,
}

impl AmqpBuilder {
    pub(crate) fn new() -> Self {
        Self(Settings {
            tls: None,
            host: "localhost".into(),
            port: None,
            others: Vec::new(),
            user: "guest".into(),
            password: "guest".into(),
            virtual_host: "/".into(),
            name: "mq-amqp".into(),
            heartbeat: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(10),
            operation_timeout: Duration::from_secs(10),
            publish_timeout: Duration::from_secs(30),
            publish_window: 1000,
            max_message_size: 16 * 1024 * 1024,
            recovery: Recovery::endless(),
            resend: true,
            named: Arc::default(),
            flow: Flow::default(),
            propagator: None,
            tracer: Tracer::default(),
            counters: Arc::default(),
            events: Events::new(),
        })
    }

    /// Takes scheme, host, port, user, password and virtual host from a URL such as
    /// `amqp://user:password@host:5672/vhost`, as the [RabbitMQ URI specification] has them.
    ///
    /// `amqps` turns TLS on. Without a path the virtual host is `/`, which a path writes as `/%2f`.
    /// The queries `heartbeat` (seconds) and `connection_timeout` (milliseconds) are known.
    ///
    /// [RabbitMQ URI specification]: https://www.rabbitmq.com/docs/uri-spec
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) says what is wrong, without the URL, which may hold a password.
    pub fn url(mut self, url: &str) -> Result<Self> {
        let wrong = |text: String| config(text).help("write amqp://user:password@host:5672/vhost");
        let parsed = Url::parse(url).map_err(|e| wrong(format!("this is no URL: {e}")))?;
        if !matches!(parsed.scheme(), "amqp" | "amqps") {
            return Err(wrong(
                "the scheme of the URL is neither amqp nor amqps".into(),
            ));
        }
        let host = match parsed.host() {
            // The client would take `localhost` for an IPv6 address.
            Some(Host::Ipv6(address)) => Some(address.to_string()),
            Some(Host::Ipv4(address)) => Some(address.to_string()),
            Some(Host::Domain(_)) => None,
            None => return Err(wrong("the URL has no host".into())),
        };
        let known = |(name, _): &(_, _)| *name != "heartbeat" && *name != "connection_timeout";
        if let Some((name, _)) = parsed.query_pairs().find(known) {
            return Err(wrong("the URL has a query that is not known".into()).with("query", name));
        }
        // Its error repeats the URL, so it is not told.
        let uri: AMQPUri = url
            .parse()
            .map_err(|_| wrong("a part of the URL cannot be read".into()))?;
        self.0.tls = (uri.scheme == AMQPScheme::AMQPS).then(|| self.0.tls.unwrap_or_default());
        self.0.host = host.unwrap_or(uri.authority.host);
        self.0.port = Some(uri.authority.port);
        self.0.user = uri.authority.userinfo.username;
        self.0.password = uri.authority.userinfo.password;
        self.0.virtual_host = uri.vhost;
        if let Some(seconds) = uri.query.heartbeat {
            self.0.heartbeat = Duration::from_secs(seconds.into());
        }
        if let Some(millis) = uri.query.connection_timeout {
            self.0.connect_timeout = Duration::from_millis(millis);
        }
        Ok(self)
    }

    /// Host name or address. Default `localhost`.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.0.host = host.into();
        self
    }

    /// Port. Default 5672, with TLS 5671.
    pub fn port(mut self, port: u16) -> Self {
        self.0.port = Some(port);
        self
    }

    /// Another node of the same cluster, such as `rabbit-2` or `rabbit-2:5673`; without a port it is
    /// that of the first. Nodes are tried in turn, when connecting and when a connection is lost.
    pub fn another_host(mut self, host: impl Into<String>) -> Self {
        let host = host.into();
        // An IPv6 address has colons of its own, unless it stands in brackets.
        let split = host.rsplit_once(':').filter(|(name, _)| {
            !name.contains(':') || (name.starts_with('[') && name.ends_with(']'))
        });
        let other = split.and_then(|(name, port)| {
            let name = name.trim_start_matches('[').trim_end_matches(']');
            Some((name.to_owned(), Some(port.parse().ok()?)))
        });
        self.0.others.push(other.unwrap_or((host, None)));
        self
    }

    /// User name. Default `guest`, which RabbitMQ lets in from its own host alone.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.0.user = user.into();
        self
    }

    /// Password. Default `guest`. It is never printed.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.0.password = password.into();
        self
    }

    /// Virtual host. Default `/`.
    pub fn virtual_host(mut self, virtual_host: impl Into<String>) -> Self {
        self.0.virtual_host = virtual_host.into();
        self
    }

    /// Turns TLS on, with these settings; so does `amqps` in [`url`](Self::url), with the defaults of
    /// [`Tls`]. Needs the feature `tls`, which is on by default. There is no falling back to plain
    /// text.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.0.tls = Some(tls);
        self
    }

    /// The name that the broker shows for the connections, followed by what each is for; it is the
    /// client's name in flow events and spans too. Default `mq-amqp`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.0.name = name.into();
        self.0.flow = self.0.flow.renamed(&self.0.name);
        self
    }

    /// Tells every step of its messages to a sink; see [`mq_core::flow`].
    ///
    /// *Published* is told when the message is given to the client library to be written;
    /// *confirmed*, *unroutable* and *rejected* when the broker has answered and its answers are
    /// told apart; *unknown* with the channel's end or at the deadline. *Acked*, *requeued* and
    /// *released* are told when they are given to the client library: the broker answers none of
    /// them, and those that are lost with the connection are delivered again.
    pub fn flow(mut self, sink: Arc<dyn FlowSink>) -> Self {
        self.0.flow = Flow::new(&self.0.name, &WORDS, sink);
        self
    }

    /// Carries trace context through the headers of messages; see [`mq_core::trace`].
    pub fn propagator(mut self, propagator: Arc<dyn Propagator>) -> Self {
        self.0.propagator = Some(propagator);
        self
    }

    /// A peer that is silent for about two of these is lost. 5 to 600 s, default 20 s: below 5 s a
    /// busy broker is taken for a dead one.
    pub fn heartbeat(mut self, heartbeat: Duration) -> Self {
        self.0.heartbeat = heartbeat;
        self
    }

    /// The most time for each of the two connections to be up. Default 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.0.connect_timeout = timeout;
        self
    }

    /// The most time for the answer to a declaration, an opening, a closing or `settled`.
    /// Default 10 s.
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.0.operation_timeout = timeout;
        self
    }

    /// The most time for room in the window, and then for the outcome of a publish. Default 30 s.
    /// After it the outcome is [`Unknown`](ErrorKind::Unknown).
    pub fn publish_timeout(mut self, timeout: Duration) -> Self {
        self.0.publish_timeout = timeout;
        self
    }

    /// The most publishes whose outcome is missing. 1 to 10,000, default 1000. A fault leaves at
    /// most this many outcomes unknown.
    pub fn publish_window(mut self, publishes: usize) -> Self {
        self.0.publish_window = publishes;
        self
    }

    /// The largest payload in bytes. Default 16 MiB, as RabbitMQ's own `max_message_size`.
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.0.max_message_size = bytes;
        self
    }

    /// What is done when a connection is lost. Default: [`Recovery::endless`].
    pub fn recovery(mut self, recovery: Recovery) -> Self {
        self.0.recovery = recovery;
        self
    }

    /// Whether a publish whose answer went down with its channel is sent again, with the same id,
    /// once there is a new one. Default true: *at least once*, and a fault makes at most one
    /// duplicate of each publish in the window. With false it is handed back as
    /// [`Unknown`](ErrorKind::Unknown).
    pub fn resend(mut self, resend: bool) -> Self {
        self.0.resend = resend;
        self
    }

    /// Says which kind of exchange the topic of this name is. Default for every topic:
    /// [`ExchangeKind::Topic`].
    ///
    /// `declare` creates the exchange in that kind, and refuses one of another kind that is there
    /// already ([`Mismatch`](ErrorKind::Mismatch)); so does whatever binds to it. A filter that the
    /// kind cannot keep is refused with [`Config`](ErrorKind::Config).
    pub fn exchange(mut self, topic: impl Into<String>, kind: ExchangeKind) -> Self {
        self.named().set_exchange(topic.into(), kind);
        self
    }

    /// Says what the queue of this name is like. Default for every queue:
    /// [`QueueSettings::quorum`]. The queue of a durable subscription is named
    /// `subscription@topic`, and a dead-letter home is a queue too.
    ///
    /// `declare` creates the queue so, and refuses one with other settings that is there already
    /// ([`Mismatch`](ErrorKind::Mismatch)); `verify` compares. Settings of a queue are fixed for
    /// its life.
    pub fn queue(mut self, name: impl Into<String>, settings: QueueSettings) -> Self {
        self.named().set_queue(name.into(), settings);
        self
    }

    /// Says of each exchange and queue of a topology what [`exchange`](Self::exchange) and
    /// [`queue`](Self::queue) would say of one.
    pub fn topology(mut self, topology: &Topology) -> Self {
        self.named().set_topology(topology);
        self
    }

    /// Gives this client's consumers of a subscription a priority. Default 0; negative ones are less.
    ///
    /// Messages go to the consumers of the highest priority, and to others while those have their
    /// prefetch full ([consumer priorities]). Of a single active consumer it decides who takes over.
    ///
    /// [consumer priorities]: https://www.rabbitmq.com/docs/consumer-priority
    pub fn consumer_priority(mut self, subscription: &Subscription, priority: i32) -> Self {
        self.named().set_priority(subscription, priority);
        self
    }

    /// Makes what this client publishes to this queue or topic transient (delivery mode 1): the
    /// broker need not write it to disk, and confirms it none the less. Default for all: persistent.
    ///
    /// A classic queue loses transient messages when its broker is killed or restarted. A quorum
    /// queue writes them all the same, so the pair is refused for a queue; the queues of a topic are
    /// not looked at. A dead letter and the copy of a failed message are persistent.
    pub fn transient(mut self, to: Destination) -> Self {
        self.named().set_transient(&to);
        self
    }

    /// Connects, publishing and consuming apart.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) for a setting out of range, for two that exclude each other,
    /// which are both named, or for certificates that cannot be read,
    /// [`InvalidName`](ErrorKind::InvalidName) for an exchange or a queue,
    /// [`Unsupported`](ErrorKind::Unsupported) for TLS in a build without it,
    /// [`Connect`](ErrorKind::Connect) or [`Timeout`](ErrorKind::Timeout) if the broker cannot be
    /// reached, [`Connect`](ErrorKind::Connect) also for a certificate of the broker that does not
    /// pass, which is not worth a retry, [`Auth`](ErrorKind::Auth) for user and password and for the
    /// client certificate, [`NotFound`](ErrorKind::NotFound) for the virtual host and
    /// [`Permission`](ErrorKind::Permission).
    ///
    /// # Cancel safety
    /// Dropped, nothing stays connected.
    pub async fn connect(mut self) -> Result<Amqp> {
        self.0.check()?;
        self.0.counters = Arc::default();
        self.0.tracer = self.0.tracer();
        Amqp::open(self.0).await
    }

    fn named(&mut self) -> &mut Named {
        Arc::make_mut(&mut self.0.named)
    }
}

impl Settings {
    fn check(&self) -> Result<()> {
        let range = |what, ok: bool, range| match ok {
            true => Ok(()),
            false => Err(config("a setting is out of range").with(what, range)),
        };
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        range(
            "heartbeat",
            (5 * second..=600 * second).contains(&self.heartbeat),
            "5 to 600 s",
        )?;
        range(
            "publish_window",
            (1..=10_000).contains(&self.publish_window),
            "1 to 10,000",
        )?;
        for (what, timeout) in [
            ("connect_timeout", self.connect_timeout),
            ("operation_timeout", self.operation_timeout),
            ("publish_timeout", self.publish_timeout),
        ] {
            range(
                what,
                !timeout.is_zero() && timeout <= hour,
                "above 0, at most 1 h",
            )?;
        }
        range(
            "virtual_host",
            self.virtual_host.len() <= 255,
            "at most 255 bytes",
        )?;
        if let Err(bounds) = self.recovery.check() {
            range("recovery", false, bounds)?;
        }
        self.named.check()?;
        self.connector()?;
        Ok(())
    }

    /// Its spans name the first node: which one a link is to changes.
    fn tracer(&self) -> Tracer {
        let port = self.port.unwrap_or_else(|| self.scheme().default_port());
        let spans = AmqpSpans::new(self.name.clone(), self.host.clone(), port);
        Tracer::new(spans, self.propagator.clone())
    }

    /// Where the nodes are, in the order in which they are tried.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        let port = self.port.unwrap_or_else(|| self.scheme().default_port());
        let first = (self.host.clone(), None);
        let all = std::iter::once(&first).chain(&self.others);
        all.map(|(host, own)| Address {
            host: host.clone(),
            port: own.unwrap_or(port),
        })
        .collect()
    }

    fn scheme(&self) -> AMQPScheme {
        if self.tls.is_some() {
            AMQPScheme::AMQPS
        } else {
            AMQPScheme::AMQP
        }
    }

    pub(crate) fn uri(&self, address: &Address) -> AMQPUri {
        let heartbeat = u16::try_from(self.heartbeat.as_secs()).unwrap_or(u16::MAX);
        AMQPUri {
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo {
                    username: self.user.clone(),
                    // The client library never has it.
                    password: PLACEHOLDER.to_owned(),
                },
                host: address.host.clone(),
                port: address.port,
            },
            scheme: self.scheme(),
            vhost: self.virtual_host.clone(),
            query: AMQPQueryString {
                heartbeat: Some(heartbeat),
                ..AMQPQueryString::default()
            },
        }
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// What makes TLS of a TCP connection; `None` if it stays plain.
    pub(crate) fn connector(&self) -> Result<Option<Connector>> {
        self.tls.as_ref().map(Tls::connector).transpose()
    }

    /// The name to look for in the broker's certificate.
    pub(crate) fn server_name<'a>(&'a self, address: &'a Address) -> &'a str {
        let tls = self.tls.as_ref();
        tls.map_or(&address.host, |tls| tls.name(&address.host))
    }

    pub(crate) fn virtual_host(&self) -> &str {
        &self.virtual_host
    }

    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// User and password.
    pub(crate) fn login(&self) -> (&str, &str) {
        (&self.user, &self.password)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for AmqpBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpBuilder")
            .field("tls", &self.tls)
            .field("addresses", &self.addresses())
            .field("user", &self.user)
            .field("password", &"…")
            .field("virtual_host", &self.virtual_host)
            .field("heartbeat", &self.heartbeat)
            .field("connect_timeout", &self.connect_timeout)
            .field("operation_timeout", &self.operation_timeout)
            .field("publish_timeout", &self.publish_timeout)
            .field("publish_window", &self.publish_window)
            .field("max_message_size", &self.max_message_size)
            .field("recovery", &self.recovery)
            .field("resend", &self.resend)
            .field("named", &self.named)
            .finish_non_exhaustive()
    }
}

fn config(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Config, CONNECT, text)
}

#[cfg(test)]
mod tests;
