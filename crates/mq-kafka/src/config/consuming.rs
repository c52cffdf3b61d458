//! Settings of consuming: membership of a group, commits, and what is told of a slow handler.

use std::{sync::Arc, time::Duration};

use super::KafkaBuilder;

impl KafkaBuilder {
    /// How consumers of a group share its partitions. Default: [`Classic`](GroupProtocol::Classic),
    /// which every broker speaks. Nothing is chosen silently: a cluster that does not have the one
    /// that is asked for is [`Unsupported`](mq_core::ErrorKind::Unsupported) at `connect`.
    ///
    /// [`product`](mq_core::Broker::product) and
    /// [`Kafka::group_protocol`](crate::Kafka::group_protocol) name the one in use.
    pub fn group_protocol(mut self, protocol: GroupProtocol) -> Self {
        self.group_protocol = protocol;
        self
    }

    /// Makes consumers static members of their groups under this name (`group.instance.id`,
    /// KIP-345): it has to be unique in the group and the same after a restart, such as the name
    /// of a pod of a stateful set. Not set by default.
    ///
    /// A static member that closes keeps its partitions until its session is over: if it is back
    /// before, no partition moves. So scaling down takes a session longer than it does with other
    /// members.
    ///
    /// # Errors
    /// Two live consumers of one group and name are a mistake that costs one of them its place.
    /// Under [`Classic`](GroupProtocol::Classic) the *older* one ends with
    /// [`Lost`](mq_core::ErrorKind::Lost), under [`Consumer`](GroupProtocol::Consumer) the *newer*
    /// one is refused with [`InUse`](mq_core::ErrorKind::InUse); both are not to be tried again as
    /// they are. Under the latter this is so too after a member was killed, until its session is
    /// over: the broker cannot tell the one from the other.
    pub fn instance_id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.instance_id = Some(id.into());
        self
    }

    /// Under the classic protocol: after how much silence the group gives a consumer's partitions
    /// to others. Default 10 s; the broker's own limits are 6 s to 30 min unless changed there.
    /// Heartbeats come three times in it.
    ///
    /// It is how long the messages of a killed process wait. Under the newer protocol that is the
    /// broker's `group.consumer.session.timeout.ms`, 45 s unless changed there.
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout;
        self
    }

    /// How long handlers may take to end what they have of a partition that the group takes away.
    /// What they end in that time is committed; what they end later is stale, and comes again at
    /// the partition's next owner. Default 5 s, at most 60 s: the whole group waits for it.
    pub fn drain(mut self, timeout: Duration) -> Self {
        self.drain = timeout;
        self
    }

    /// How long a settlement waits for its commit at most, and so what a crash repeats, beside what
    /// was in work. Default 250 ms; 10 ms to 60 s.
    pub fn commit_every(mut self, time: Duration) -> Self {
        self.commit_every = time;
        self
    }

    /// After how many settlements a commit is made whatever the clock says. Default 5000, at
    /// least 1. After twice as many without a commit nothing more is handed out.
    pub fn commit_after(mut self, settlements: u32) -> Self {
        self.commit_after = settlements.into();
        self
    }

    /// How long a message may be with its handler before
    /// [`KafkaEvent::Stalled`](crate::KafkaEvent::Stalled) and a warning tell of it, once for each
    /// message; how long a transaction may keep a partition's messages from being read before
    /// [`KafkaEvent::TransactionOpen`](crate::KafkaEvent::TransactionOpen) does; and how long a share
    /// group may give a consumer nothing before [`KafkaEvent::Starved`](crate::KafkaEvent::Starved) does.
    /// Default 5 min.
    ///
    /// A slow handler loses nothing, neither its message nor the membership; the messages behind it
    /// in its partition are handled, and wait with their commit.
    pub fn stalled_after(mut self, time: Duration) -> Self {
        self.stalled_after = time;
        self
    }

    /// Checks these against each other.
    pub(super) fn check_consuming(&self) -> Result<(), &'static str> {
        if self.session_timeout < Duration::from_secs(1) {
            return Err("session_timeout is at least 1 s");
        }
        let id = self.instance_id.as_deref();
        if id.is_some_and(|id| id.is_empty() || id.len() > 249 || !id.chars().all(is_legal)) {
            return Err(
                "an instance_id has 1 to 249 letters, digits, dots, underscores and hyphens",
            );
        }
        if self.drain > Duration::from_mins(1) {
            return Err("drain is at most 60 s");
        }
        let range = Duration::from_millis(10)..=Duration::from_mins(1);
        if !range.contains(&self.commit_every) {
            return Err("commit_every is 10 ms to 60 s");
        }
        if self.commit_after == 0 {
            return Err("commit_after is at least 1");
        }
        if self.stalled_after.is_zero() {
            return Err("stalled_after is over 0");
        }
        Ok(())
    }
}

/// Kafka's alphabet of names; the broker refuses an instance id with others.
fn is_legal(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// How the members of a group share out its partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum GroupProtocol {
    /// By the members themselves, cooperatively and stickily (KIP-429): only partitions that move
    /// are given up. Every broker has it.
    ///
    /// All members pause for one to two seconds when one joins or leaves; if one was killed, until
    /// its session is over. krafka 0.28 sends a member's heartbeat behind its waiting join, and then
    /// may take the outdated answer for a lost membership. That is kept away from what is usual; a
    /// rebalance that waits for a killed member may still cost another one all of its partitions
    /// for as long as a session, told as [`Lost`](crate::KafkaEvent::Lost). No message is lost; what
    /// was in work comes again.
    #[default]
    Classic,
    /// By the broker (KIP-848), from Kafka 4.0 on: a partition moves when its old owner has let it
    /// go, and nobody else notices. It cannot share a group with the classic protocol before 4.0.
    Consumer,
    /// By nobody (KIP-932, from Kafka 4.2 on): a *share group*, whose members take records of any
    /// partition one by one, each under a lock. A queue is then read as other brokers have it: more
    /// consumers than partitions all get work, and a slow handler holds up nobody. No order is kept,
    /// and what a crash repeats is what it held, not what lies behind it.
    ///
    /// **Young**: what it does not keep yet is told in the crate's documentation, under *Queues over share groups*. Not for messages
    /// that must not be lost.
    ///
    /// It is for queues. Durable subscriptions and retry topics are read by classic groups.
    ///
    /// The broker counts how often it delivers a record and archives it after five times, unless
    /// changed there. That is not to be left to it: a record whose next delivery could be the last is
    /// copied first, to the dead-letter home if nobody ever settled it, else to the end of its
    /// queue. The attempt of a delivery is the broker's count plus what its header tells: it may be
    /// too high, since the broker counts what a consumer that closed had not handed out, too.
    ///
    /// Locks are prolonged for as long as a handler takes (KIP-1222). One that is lost all the same
    /// is told as [`LockLost`](crate::KafkaEvent::LockLost), and settling its record is
    /// [`Stale`](mq_core::ErrorKind::Stale).
    ///
    /// A queue that is declared under it has one partition unless told otherwise; a share group needs
    /// no more. With several, what a consumer has in work of a partition that the group moves to
    /// another one comes again when its lock ends, 30 s later unless changed there, and in a cluster
    /// of several brokers its consumers are refused.
    ///
    /// A consumer is up to four members, each of which gets more once all that it had is settled.
    Share,
}

impl GroupProtocol {
    pub(crate) fn setting(self) -> krafka::consumer::GroupProtocol {
        match self {
            // What is not a queue, and retry topics.
            Self::Classic | Self::Share => krafka::consumer::GroupProtocol::Classic,
            Self::Consumer => krafka::consumer::GroupProtocol::Consumer,
        }
    }

    /// Kafka's own word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Consumer => "consumer",
            Self::Share => "share",
        }
    }
}
