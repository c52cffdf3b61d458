//! Consuming a queue through a share group (KIP-932): a few members, so that what one of them holds
//! keeps none of the others from records, and the tasks that serve them.
//!
//! The client gives a member more only once all that it has is settled. One member for a whole
//! consumer would stand still for its slowest handler.

mod lane;
mod watch;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{join_all, try_join_all},
};
use krafka::{
    CloseOptions, KrafkaError,
    share_consumer::{AcknowledgementMode, AcquireMode, ShareConsumer},
};
use mq_core::{Delivery, Error, ErrorKind, Result, flow::FlowKind, stale};
use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{CONSUME, assignment::Assigned, events, log::Common};
use crate::{
    connection::{Inner, handle},
    error::{self, Stage, closed},
    publisher::KafkaPublisher,
    settle::{Locks, Origin, Taken, copy_moved},
    topology::{self, Topic},
};

/// Reads a queue.
pub(super) struct ShareReader {
    pub(super) locks: Arc<Locks>,
    pub(super) assigned: Arc<Assigned>,
    /// The last word of its task.
    stopped: Option<oneshot::Receiver<Result<()>>>,
    within: Duration,
}

/// What its task works with.
struct Sharing {
    inner: Arc<Inner>,
    locks: Arc<Locks>,
    assigned: Arc<Assigned>,
    topic: Arc<str>,
    topic_id: [u8; 16],
    stop: CancellationToken,
}

impl ShareReader {
    /// Joins the group. Its tasks end with the consumer.
    pub(super) async fn start(common: &Common<'_>, topic: Arc<str>, found: Topic) -> Result<Self> {
        let (inner, config) = (common.inner, &common.inner.config);
        topology::check_one_leader(inner, CONSUME, &topic, &found).await?;
        let limits = topology::prepare_share_group(inner, CONSUME, &topic).await?;
        let locks = Locks::new(
            common.subscription.clone(),
            Arc::clone(common.window),
            common.homes.clone(),
            limits,
            inner.watch.clone(),
            inner.events.clone(),
        );
        let members = shares(common.plan.prefetch);
        let members = members
            .into_iter()
            .enumerate()
            .map(|(lane, records)| member(inner, &topic, lane, records, Arc::downgrade(&locks)));
        let lanes = try_join_all(members).await?;
        // It is set here alone.
        let _ = locks
            .lanes
            .set(lanes.into_iter().filter_map(|mut j| j.0.take()).collect());
        let sharing = Sharing {
            inner: Arc::clone(inner),
            locks: Arc::clone(&locks),
            assigned: Arc::new(Assigned::new()),
            topic: Arc::clone(&topic),
            topic_id: found.id,
            stop: common.stop.clone(),
        };
        locks.tell_consumer(FlowKind::Opened);
        let assigned = Arc::clone(&sharing.assigned);
        let within = FETCH + ANSWER + config.publish_timeout + config.request_timeout() * 2;
        let (done, stopped) = oneshot::channel();
        let copying = CancellationToken::new();
        let origin = Origin {
            topic,
            is_copy: false,
        };
        let publisher = KafkaPublisher::new(Arc::clone(inner));
        tokio::spawn(copy_moved(
            Arc::clone(&locks),
            publisher,
            origin,
            copying.clone(),
        ));
        tokio::spawn(async move {
            // The copies are needed to the last.
            let _copying = copying.drop_guard();
            // The consumer may be gone; then nobody asks.
            let _ = done.send(sharing.run().await);
        });
        Ok(Self {
            locks,
            assigned,
            stopped: Some(stopped),
            within,
        })
    }

    /// Waits until the broker has every verdict that was given.
    pub(super) async fn settled(&self) -> Result<()> {
        let locks = &self.locks;
        loop {
            let mut progress = std::pin::pin!(locks.progress.notified());
            progress.as_mut().enable();
            if !locks.is_copying() || locks.has_ended() {
                break;
            }
            progress.await;
        }
        let refused = commit(locks).await;
        if locks.take_lost() {
            return Err(stale(locks.source.name()));
        }
        if let Some(error) = locks.failure() {
            return Err(error);
        }
        // Those may be told a moment later by the callback.
        match refused? {
            false => Ok(()),
            true => Err(stale(locks.source.name())),
        }
    }

    /// Hands out what is at hand.
    pub(super) fn take(&self, into: &mut Vec<Delivery>, max: usize) -> Taken {
        let taken = self.locks.take(into, max);
        if let Taken::Some(taken) = taken {
            self.locks.handed_out(&into[into.len() - taken..]);
        }
        taken
    }

    /// Waits until it has closed down, once it was told to stop.
    pub(super) async fn stopped(&mut self) -> Result<()> {
        let Some(stopped) = self.stopped.take() else {
            return Ok(());
        };
        match timeout(self.within, stopped).await {
            Ok(stopped) => stopped.unwrap_or_else(|_| Err(closed("close"))),
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                "close",
                "the share group was not left in time",
            )),
        }
    }
}

/// Sends what is left to send, and waits for the answers. True if the broker refused some of it.
async fn commit(locks: &Locks) -> Result<bool> {
    let lanes = locks.lanes.get().into_iter().flatten();
    let answers = join_all(lanes.map(ShareConsumer::commit)).await;
    let failed = |e| error::map("settle", Stage::Before, e).with("source", locks.source.name());
    let mut refused = false;
    for answer in answers {
        for result in answer.map_err(failed)?.into_values() {
            match result {
                Ok(()) => {}
                Err(KrafkaError::Broker { .. }) => refused = true,
                Err(error) => return Err(failed(error)),
            }
        }
    }
    Ok(refused)
}

/// How many records each member may have, of so many in all.
fn shares(prefetch: u16) -> Vec<i32> {
    let members = prefetch.clamp(1, MEMBERS);
    let one = |n| i32::from(prefetch / members + u16::from(n < prefetch % members));
    (0..members).map(one).collect()
}

/// A member that has joined, with connections of its own: while a request waits for records at the
/// broker, no other one of its connection is answered.
async fn member(
    inner: &Inner,
    topic: &str,
    lane: usize,
    records: i32,
    locks: Weak<Locks>,
) -> Result<Joined> {
    let failed = |e| unsupported(e).with("share group", topic);
    let kafka = handle(&inner.config).await?;
    let member = kafka
        .share_consumer(topic)
        .acknowledgement_mode(AcknowledgementMode::Explicit)
        // Exactly so many: each holds a lock.
        .acquire_mode(AcquireMode::RecordLimit)
        .max_poll_records(records)
        .fetch_max_bytes(super::FETCH_BYTES)
        .fetch_max_wait(FETCH)
        .metrics_push(false)
        .acknowledgement_commit_callback(move |commit| {
            if let Some(locks) = locks.upgrade() {
                locks.answered(
                    lane,
                    commit.partition,
                    &commit.offsets,
                    commit.result.is_ok(),
                );
            }
        })
        .build()
        .await
        .map_err(failed)?;
    let joined = Joined(Some(member.clone()));
    member.subscribe([topic]).await.map_err(failed)?;
    // The group assigns within a second, and would tell so at the next heartbeat, 5 s later.
    let asked = Instant::now();
    while member.assignment().is_empty() && asked.elapsed() < ASSIGNED {
        sleep(AGAIN).await;
        member.subscribe([topic]).await.map_err(failed)?;
    }
    Ok(joined)
}

/// A member of a consumer that is not open yet. Dropped, it leaves the group: a member that is only
/// silent would keep its partitions for 45 s.
struct Joined(Option<ShareConsumer>);

impl Drop for Joined {
    fn drop(&mut self) {
        if let (Some(member), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move {
                if let Err(error) = member.close().await {
                    debug!(%error, "a member of a share group has not left it");
                }
            });
        }
    }
}

/// An error of a member; where the broker is too old for one, it says so.
fn unsupported(error: KrafkaError) -> Error {
    let mapped = error::map(CONSUME, Stage::Before, error);
    match mapped.kind() {
        ErrorKind::Unsupported | ErrorKind::Config => Error::new(
            ErrorKind::Unsupported,
            CONSUME,
            "this broker is too old for share groups with a limit of records (KIP-1206)",
        )
        .help("take another GroupProtocol, or Kafka 4.2 or later")
        .caused_by(mapped),
        _ => mapped,
    }
}

impl Sharing {
    /// Reads until it is stopped or ends in an error; then closes down. Returns how that went.
    async fn run(self) -> Result<()> {
        let lanes = self.locks.lanes.get().into_iter().flatten().enumerate();
        tokio::select! {
            _ = join_all(lanes.map(|(lane, member)| self.read(lane, member))) => {}
            () = self.watch() => {}
            () = self.stop.cancelled() => {}
        }
        let error = self.inner.closing.is_cancelled().then(|| closed(CONSUME));
        self.locks.end(error);
        self.close().await
    }

    /// Tells how the assignment of the members has changed.
    fn saw(&self, lane: usize, now: Vec<i32>) {
        if let Some(changed) = self.locks.assigned(lane, now) {
            let (events, source) = (&self.inner.events, self.locks.source.name());
            events.tell_partitions(events::assigned, source, &changed.new);
            events.tell_partitions(events::revoked, source, &changed.gone);
            self.assigned.tell(changed.after);
        }
    }

    /// Takes in what the last requests of the members still bring. What one of them gave back
    /// meanwhile would go to the next, and the broker counts each time: a single close could make a
    /// message reach its limit. And what the client keeps for itself nobody could copy before that.
    async fn drain(&self) {
        let lanes = self.locks.lanes.get().into_iter().flatten().enumerate();
        let asking: Vec<_> = lanes
            .filter(|(lane, _)| self.locks.is_free(*lane))
            .collect();
        if asking.is_empty() {
            return;
        }
        let asked = Instant::now();
        sleep(FETCH + ANSWER).await;
        for (lane, member) in asking {
            // What is there comes at once; dropped at once, it asks the broker for nothing more.
            if let Some(Ok(records)) = member.poll(Duration::ZERO).now_or_never() {
                self.take_in(lane, member, records, asked);
            }
        }
    }

    /// Settlements from now on are stale; those given before are copied and sent, what is left is
    /// given back; then the group is left.
    async fn close(&self) -> Result<()> {
        let locks = &self.locks;
        self.drain().await;
        locks.give_back();
        let copied = async {
            loop {
                let mut progress = std::pin::pin!(locks.progress.notified());
                progress.as_mut().enable();
                if !locks.is_copying() {
                    break;
                }
                progress.await;
            }
        };
        let config = &self.inner.config;
        let copied = timeout(config.publish_timeout, copied).await.is_ok();
        let sent = match timeout(config.request_timeout(), commit(locks)).await {
            Ok(Ok(false)) => Ok(()),
            Ok(Ok(true)) | Err(_) => Err(stale(locks.source.name())),
            Ok(Err(error)) => Err(error),
        };
        let lost = locks.take_lost();
        for lane in 0..locks.lanes.get().map_or(0, Vec::len) {
            self.saw(lane, Vec::new());
        }
        let options = CloseOptions::new().timeout(config.request_timeout());
        let lanes = locks.lanes.get().into_iter().flatten();
        let left = join_all(lanes.map(|lane| lane.close_with(options))).await;
        if let Some(error) = locks.failure().filter(|e| e.kind() != ErrorKind::Closed) {
            return Err(error);
        }
        sent?;
        if lost || !copied {
            return Err(stale(locks.source.name()));
        }
        let failed = |e| error::map("close", Stage::Before, e).with("source", locks.source.name());
        left.into_iter().collect::<Result<(), _>>().map_err(failed)
    }
}

/// A task that is gone half-way, with its runtime, leaves nobody waiting for it.
impl Drop for Sharing {
    fn drop(&mut self) {
        self.locks.end(Some(closed(CONSUME)));
        self.assigned.end();
        self.locks.tell_consumer(FlowKind::Closed);
    }
}

/// A broker takes 200 members for a group (`group.share.max.size`).
const MEMBERS: u16 = 4;
const AGAIN: Duration = Duration::from_millis(250);
const ASSIGNED: Duration = Duration::from_secs(6);
/// How long the broker keeps a request of a member that finds no records.
const FETCH: Duration = Duration::from_millis(500);
/// How much later its answer may be here.
const ANSWER: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_members_share_out_the_whole_prefetch() {
        for (prefetch, expected) in [(1, vec![1]), (3, vec![1; 3]), (10, vec![3, 3, 2, 2])] {
            assert_eq!(shares(prefetch), expected, "{prefetch}");
        }
        assert_eq!(shares(u16::MAX).iter().sum::<i32>(), i32::from(u16::MAX));
    }
}
