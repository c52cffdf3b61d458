//! The settings of a queue.

use std::{fmt, time::Duration};

use lapin::types::{AMQPValue, FieldTable};
use mq_core::{DeadLetters, Destination, Error, ErrorKind, Result, check_name, time};

/// The settings of a queue: of what kind it is, what it may hold, and what the broker does with the
/// rest.
///
/// Named for a queue by [`AmqpBuilder::queue`](crate::AmqpBuilder::queue). A queue that is not named
/// there is [`quorum`](Self::quorum).
///
/// ```
/// use mq_amqp::{Overflow, QueueSettings};
///
/// let orders = QueueSettings::quorum().max_length(100_000).delivery_limit(50);
/// let prices = QueueSettings::classic().max_length(1_000).overflow(Overflow::DropHead);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "settings do nothing before they are given to `AmqpBuilder::queue`"]
pub struct QueueSettings {
    kind: Kind,
    delivery_limit: Option<u32>,
    max_length: Option<u32>,
    max_bytes: Option<u64>,
    overflow: Option<Overflow>,
    message_ttl: Option<Duration>,
    expires: Option<Duration>,
    single_active_consumer: bool,
    consumer_timeout: Option<Duration>,
    broker_dead_letters: DeadLetters,
}

/// What a queue does with a message for which it has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// The new message is refused: its publish is [`Rejected`](ErrorKind::Rejected). The default.
    RejectPublish,
    /// The oldest message makes room, and goes where the broker's own dead letters go, or is gone.
    /// Its publisher had it confirmed, and is not told.
    DropHead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Quorum,
    Classic,
    Exclusive,
}

impl QueueSettings {
    /// A quorum queue: durable, replicated over the nodes of a cluster. The default.
    ///
    /// What it confirmed is written and synced by a majority of its members. It counts failed
    /// deliveries, also those that ended their consumer's process.
    pub fn quorum() -> Self {
        Self::of(Kind::Quorum)
    }

    /// A classic queue: durable, on one node.
    ///
    /// It is unavailable while its node is down. It counts nothing: a failure that is requeued is a
    /// copy with its attempt in the headers, and a message that ends its consumer's process is not
    /// counted.
    pub fn classic() -> Self {
        Self::of(Kind::Classic)
    }

    /// A queue of this connection alone, in memory of one node, which is gone with the connection.
    ///
    /// Its dead-letter home is durable, as for every queue. A durable subscription cannot be one.
    pub fn exclusive() -> Self {
        Self::of(Kind::Exclusive)
    }

    fn of(kind: Kind) -> Self {
        Self {
            kind,
            delivery_limit: None,
            max_length: None,
            max_bytes: None,
            overflow: None,
            message_ttl: None,
            expires: None,
            single_active_consumer: false,
            consumer_timeout: None,
            broker_dead_letters: DeadLetters::Default,
        }
    }

    /// How many failed deliveries of a message a quorum queue lets through before the broker itself
    /// dead-letters it. At least 1, default 20.
    pub fn delivery_limit(mut self, deliveries: u32) -> Self {
        self.delivery_limit = Some(deliveries);
        self
    }

    /// The most messages that are ready in the queue; what is delivered and not settled does not
    /// count. At least 1, default no limit. A quorum queue takes a few more.
    ///
    /// On a classic queue the copy of a failed message needs room too: in a full one that refuses,
    /// the consumer ends with [`Rejected`](ErrorKind::Rejected), and the message stays.
    pub fn max_length(mut self, messages: u32) -> Self {
        self.max_length = Some(messages);
        self
    }

    /// The most bytes of payload that are ready in the queue. At least 1, default no limit.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// What happens at a limit. Default [`Overflow::RejectPublish`].
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = Some(overflow);
        self
    }

    /// How long a message may wait in this queue, in whole milliseconds; then it is a dead letter of
    /// the broker. Above 0, at most ten years, default for ever. The shorter one holds where the
    /// message has an expiry of its own.
    pub fn message_ttl(mut self, ttl: Duration) -> Self {
        self.message_ttl = Some(ttl);
        self
    }

    /// How long the queue itself stays while nobody consumes from it or declares it, in whole
    /// milliseconds; then it is deleted with all that it holds. Above 0, at most ten years, default
    /// for ever.
    pub fn expires(mut self, unused: Duration) -> Self {
        self.expires = Some(unused);
        self
    }

    /// One consumer at a time gets messages, the others stand by; the next takes over when it closes
    /// or dies. Default off. A consume plan that asks for it needs a queue with this setting.
    ///
    /// With a prefetch of 1 order holds when the active one dies. A close hands over first and gives
    /// back then: what was on its way to the old one comes behind what the new one has got by then.
    pub fn single_active_consumer(mut self) -> Self {
        self.single_active_consumer = true;
        self
    }

    /// The most time that a delivery from a quorum queue may be unsettled; then the broker cancels its
    /// consumer, which ends with [`Lost`](ErrorKind::Lost), and gives its messages to the next. Above
    /// 0, at most a day, in whole milliseconds; default that of the broker, 30 min.
    ///
    /// RabbitMQ 4.3 keeps it exactly; earlier ones look once a minute. Deadlines of handlers have to
    /// be shorter.
    pub fn consumer_timeout(mut self, unsettled: Duration) -> Self {
        self.consumer_timeout = Some(unsettled);
        self
    }

    /// Where the broker itself puts what expired, what went over the delivery limit or was pushed
    /// out (the queue's dead-letter exchange). Default: the queue's dead-letter home.
    ///
    /// A place that is named here has to be there. What a consumer rejects is not asked here: its
    /// copy goes to the dead-letter home of the consume plan.
    ///
    /// From a quorum queue that refuses at its limit the broker's letters are confirmed. From all
    /// others they are sent once, and lost with a crash in between.
    pub fn broker_dead_letters(mut self, to: DeadLetters) -> Self {
        self.broker_dead_letters = to;
        self
    }

    /// How many failed deliveries are let through, where the broker counts them.
    pub(crate) fn deliveries(&self) -> Option<u32> {
        (self.kind == Kind::Quorum).then(|| self.delivery_limit.unwrap_or(DELIVERY_LIMIT))
    }

    pub(super) fn is_quorum(&self) -> bool {
        self.kind == Kind::Quorum
    }

    pub(super) fn is_single_active(&self) -> bool {
        self.single_active_consumer
    }

    pub(crate) fn unsettled_at_most(&self) -> Option<Duration> {
        self.consumer_timeout
    }

    pub(super) fn has_expiry(&self) -> bool {
        self.expires.is_some()
    }

    /// True if the broker does not wait until its own dead letters are stored.
    pub(super) fn sends_letters_once(&self) -> bool {
        self.kind != Kind::Quorum || self.overflow == Some(Overflow::DropHead)
    }

    pub(super) fn is_exclusive(&self) -> bool {
        self.kind == Kind::Exclusive
    }

    /// True if it refuses a message for which it has no room.
    pub(super) fn refuses(&self) -> bool {
        let limited = self.max_length.is_some() || self.max_bytes.is_some();
        limited && self.overflow != Some(Overflow::DropHead)
    }

    /// Where the broker's own dead letters go; `home` is that of the queue.
    pub(super) fn letters(&self, home: Option<Destination>) -> Option<Destination> {
        match &self.broker_dead_letters {
            DeadLetters::Default => home,
            DeadLetters::To(to) => Some(to.clone()),
            _ => None,
        }
    }

    /// A place for the broker's dead letters that is not ours to make.
    pub(super) fn named_letters(&self) -> Option<&Destination> {
        match &self.broker_dead_letters {
            DeadLetters::To(to) => Some(to),
            _ => None,
        }
    }

    /// Refuses what the broker would, and what would lose messages without a word.
    pub(super) fn check(
        &self,
        operation: &'static str,
        queue: &str,
        transient: bool,
    ) -> Result<()> {
        check_name(operation, queue)?;
        let wrong = |text| Error::new(ErrorKind::Config, operation, text).with("queue", queue);
        let clash = |one: &str, other: &str, help| {
            Err(wrong("two settings of a queue exclude each other")
                .with("setting", one)
                .with("against", other)
                .help(help))
        };
        let kind = self.kind.to_string();
        for (setting, value, most) in [
            ("delivery_limit", self.delivery_limit.map(u64::from), MAX),
            ("max_length", self.max_length.map(u64::from), MAX),
            ("max_bytes", self.max_bytes, MAX),
            ("message_ttl", self.message_ttl.map(time::millis), MAX_TTL),
            ("expires", self.expires.map(time::millis), MAX_TTL),
            (
                "consumer_timeout",
                self.consumer_timeout.map(time::millis),
                DAY,
            ),
        ] {
            if value.is_some_and(|value| value == 0 || value > most) {
                return Err(wrong("a setting of a queue is out of range")
                    .with("setting", setting)
                    .with("least", 1)
                    .with("most", most));
            }
        }
        if self.delivery_limit.is_some() && self.kind != Kind::Quorum {
            return clash(
                "delivery_limit",
                &kind,
                "only a quorum queue counts deliveries",
            );
        }
        if self.consumer_timeout.is_some() && self.kind != Kind::Quorum {
            return clash(
                "consumer_timeout",
                &kind,
                "only a quorum queue looks at the time that its consumers take",
            );
        }
        if let Some(overflow) = self.overflow
            && self.max_length.is_none()
            && self.max_bytes.is_none()
        {
            return clash(
                &format!("overflow {overflow}"),
                "no limit",
                "name the limit too: `max_length` or `max_bytes`",
            );
        }
        if transient && self.kind == Kind::Quorum {
            return clash(
                "transient",
                &kind,
                "a quorum queue writes every message: make it classic, or leave out `transient`",
            );
        }
        let home = Destination::queue(queue).dead_letter_home();
        if self.kind == Kind::Quorum && self.broker_dead_letters == DeadLetters::None {
            return clash(
                "broker_dead_letters none",
                &kind,
                "messages over its delivery limit would be lost: name a place, or make it classic",
            );
        }
        if self.delivery_limit.is_some() && self.letters(home).is_none() {
            return clash(
                "delivery_limit",
                "no dead-letter home",
                "messages over the limit would be lost: name a place with `broker_dead_letters`",
            );
        }
        if let Some(to) = self.named_letters() {
            check_name(operation, to.name())?;
            if to.is_queue() && &**to.name() == queue {
                return clash(
                    "broker_dead_letters",
                    "the queue itself",
                    "the broker drops what goes in a circle: name another place",
                );
            }
        }
        Ok(())
    }

    /// The arguments of a declaration. `letters` is where the broker's own dead letters go.
    ///
    /// Where the broker can confirm them it does, and the queue refuses what it could not keep: the
    /// safety net behind the copies that this crate makes loses nothing.
    pub(super) fn arguments(&self, letters: Option<&Destination>) -> FieldTable {
        let text = |text: &str| AMQPValue::LongString(text.into());
        let number =
            |number: u64| AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX));
        let limited = self.max_length.is_some() || self.max_bytes.is_some();
        let overflow = self.overflow.unwrap_or(Overflow::RejectPublish);
        let confirmed = self.kind == Kind::Quorum && overflow == Overflow::RejectPublish;
        let letters = letters.map(|to| match to.is_queue() {
            true => ("", Some(&**to.name())),
            false => (&**to.name(), to.key()),
        });
        let kind = match self.kind {
            Kind::Quorum => "quorum",
            Kind::Classic | Kind::Exclusive => "classic",
        };
        let arguments = [
            ("x-queue-type", Some(text(kind))),
            (
                "x-delivery-limit",
                self.deliveries().map(|limit| number(limit.into())),
            ),
            (
                "x-max-length",
                self.max_length.map(|limit| number(limit.into())),
            ),
            ("x-max-length-bytes", self.max_bytes.map(number)),
            (
                "x-overflow",
                (limited || (confirmed && letters.is_some())).then(|| text(&overflow.to_string())),
            ),
            (
                "x-message-ttl",
                self.message_ttl.map(|ttl| number(time::millis(ttl))),
            ),
            (
                "x-expires",
                self.expires.map(|unused| number(time::millis(unused))),
            ),
            (
                SINGLE_ACTIVE,
                self.single_active_consumer
                    .then_some(AMQPValue::Boolean(true)),
            ),
            (
                "x-consumer-timeout",
                self.consumer_timeout
                    .map(|unsettled| number(time::millis(unsettled))),
            ),
            (
                "x-dead-letter-exchange",
                letters.map(|(exchange, _)| text(exchange)),
            ),
            (
                "x-dead-letter-routing-key",
                letters.and_then(|(_, key)| key).map(text),
            ),
            (
                "x-dead-letter-strategy",
                (confirmed && letters.is_some()).then(|| text("at-least-once")),
            ),
        ];
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            if let Some(value) = value {
                table.insert(name.into(), value);
            }
        }
        table
    }
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self::quorum()
    }
}

impl fmt::Display for QueueSettings {
    /// The kind, and each setting that is not the default.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        let millis = |time: Option<Duration>| time.map(|time| format!("{} ms", time::millis(time)));
        let letters = match &self.broker_dead_letters {
            DeadLetters::Default => None,
            DeadLetters::To(to) => Some(to.to_string()),
            _ => Some("none".to_owned()),
        };
        for (name, value) in [
            ("delivery_limit", self.delivery_limit.map(|n| n.to_string())),
            ("max_length", self.max_length.map(|n| n.to_string())),
            ("max_bytes", self.max_bytes.map(|n| n.to_string())),
            ("overflow", self.overflow.map(|o| o.to_string())),
            ("message_ttl", millis(self.message_ttl)),
            ("expires", millis(self.expires)),
            ("consumer_timeout", millis(self.consumer_timeout)),
            ("broker_dead_letters", letters),
        ] {
            if let Some(value) = value {
                write!(f, ", {name} {value}")?;
            }
        }
        match self.single_active_consumer {
            true => f.write_str(", single_active_consumer"),
            false => Ok(()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
            Self::Exclusive => "exclusive",
        })
    }
}

impl fmt::Display for Overflow {
    /// As the broker names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RejectPublish => "reject-publish",
            Self::DropHead => "drop-head",
        })
    }
}

/// How often a quorum queue delivers a failed message before the broker itself dead-letters it.
const DELIVERY_LIMIT: u32 = 20;
/// The largest number that an argument can have.
const MAX: u64 = i64::MAX as u64;
/// Ten years in milliseconds: the broker refuses anything above.
const MAX_TTL: u64 = 315_360_000_000;
/// In milliseconds.
const DAY: u64 = 86_400_000;
pub(super) const SINGLE_ACTIVE: &str = "x-single-active-consumer";

#[cfg(test)]
mod tests;
