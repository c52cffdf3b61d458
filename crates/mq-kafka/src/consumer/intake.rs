//! The task that polls: takes records in while there is room, keeps the membership while there is
//! none, notices a broker that no longer answers, and closes down.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use krafka::{
    CloseOptions, ConsumerRecord, KrafkaError,
    admin::{AdminClient, DescribeTopicsOptions, OffsetSpec},
    error::ErrorCode,
};
use mq_core::{
    Error, ErrorKind, Filter, Position, Received, Result, flow::FlowKind, headers as names,
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::assignment::Assigned;
use crate::{
    error::{self, Stage, closed, is_passing},
    headers,
    settle::{Group, Incoming, Ledger},
    topology::edges,
};

pub(super) struct Intake {
    pub(super) group: Arc<Group>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) assigned: Arc<Assigned>,
    pub(super) admin: Arc<AdminClient>,
    pub(super) source: Arc<str>,
    pub(super) filter: Filter,
    pub(super) topic_id: [u8; 16],
    /// The connection closes.
    pub(super) closing: CancellationToken,
    /// The consumer closes.
    pub(super) stop: CancellationToken,
    pub(super) unreachable_after: Duration,
    pub(super) publish_timeout: Duration,
    /// A broker answers again after none did.
    pub(super) back: AtomicBool,
}

impl Intake {
    /// Subscribes; for an ephemeral subscription also fixes where it starts.
    pub(super) async fn start(&self, grouped: bool) -> Result<()> {
        let topic = &*self.group.topic;
        let failed = |e: KrafkaError| error::map("consume", Stage::Before, e).with("topic", topic);
        let consumer = &self.group.consumer;
        consumer.subscribe([topic]).await.map_err(failed)?;
        if grouped {
            return Ok(());
        }
        let partitions = consumer
            .assignment()
            .await
            .remove(topic)
            .unwrap_or_default();
        let ends = edges(
            &self.admin,
            "consume",
            topic,
            &partitions,
            OffsetSpec::Latest,
        )
        .await?;
        for (partition, end) in ends {
            consumer.seek(topic, partition, end).await.map_err(failed)?;
            self.ledger.assign(partition, end, "");
        }
        self.assigned.tell(self.ledger.partitions());
        Ok(())
    }

    /// Polls until it is stopped or ends in an error; then closes down. Returns how that went.
    pub(super) async fn run(self) -> Result<()> {
        // These two never end by themselves: only the poll, which must not be dropped half-way, does.
        let watch = async {
            self.watch().await;
            std::future::pending().await
        };
        let wake = async {
            self.stop.cancelled().await;
            self.group.consumer.wakeup();
            std::future::pending().await
        };
        tokio::select! {
            () = self.poll() => {}
            () = watch => {}
            () = wake => {}
        }
        let error = self.closing.is_cancelled().then(|| closed("consume"));
        self.ledger.end(error);
        self.close().await
    }

    async fn poll(&self) {
        let mut paused: HashSet<i32> = HashSet::new();
        let consumer = &self.group.consumer;
        let topic = &*self.group.topic;
        while !self.stop.is_cancelled() && !self.ledger.has_ended() {
            if self.back.swap(false, Relaxed) {
                self.fetch_now().await;
            }
            let room = self.ledger.has_room();
            let pause: HashSet<i32> = match room {
                true => self.ledger.clogged().into_iter().collect(),
                false => self.ledger.partitions().into_iter().collect(),
            };
            let resume: Vec<i32> = paused.difference(&pause).copied().collect();
            if !resume.is_empty() {
                consumer.resume(topic, &resume).await;
            }
            if !pause.is_empty() {
                consumer
                    .pause(topic, &pause.iter().copied().collect::<Vec<_>>())
                    .await;
            }
            paused = pause;
            // A listener may be at work inside it.
            let wait = if room { POLL } else { Duration::ZERO };
            match consumer.poll(wait).await {
                Ok(records) if records.is_empty() => {}
                Ok(records) => self.take_in(records),
                // The loop looks at why it was woken.
                Err(KrafkaError::Wakeup) => {}
                Err(error) => self.failed(error).await,
            }
            if !room {
                tokio::select! {
                    () = self.ledger.room.notified() => {}
                    () = self.stop.cancelled() => {}
                    () = sleep(KEEP) => {}
                }
            }
        }
    }

    /// krafka asks a partition that failed again only after a while, which doubles up to 30 s. A seek to where the partition
    /// is makes it ask now. Between two polls, so that no record is on its way.
    async fn fetch_now(&self) {
        for (partition, next) in self.ledger.ends() {
            let sought = self
                .group
                .consumer
                .seek(&self.group.topic, partition, next)
                .await;
            if let Err(error) = sought {
                // It was given up since.
                debug!(source = %self.source, partition, %error, "not asked again at once");
            }
        }
    }

    fn take_in(&self, records: Vec<ConsumerRecord>) {
        let now = SystemTime::now();
        let incoming = records
            .into_iter()
            .map(|record| self.incoming(record, now))
            .collect();
        self.ledger.push(incoming);
    }

    fn incoming(&self, record: ConsumerRecord, now: SystemTime) -> Incoming {
        let (partition, offset) = (record.partition, record.offset);
        let skipped = Incoming {
            partition,
            offset,
            received: None,
        };
        if headers::is_expired(&record, now) {
            return skipped;
        }
        let (message, key) = headers::from_record(record);
        if !self.filter.takes(key.as_deref(), message.headers()) {
            return skipped;
        }
        let before = message.headers().text(names::ATTEMPT);
        let attempt = before
            .and_then(|text| text.parse::<u32>().ok())
            .unwrap_or(0);
        let position = Position {
            partition: u32::try_from(partition).unwrap_or_default(),
            offset: u64::try_from(offset).unwrap_or_default(),
        };
        let received = Received::new(message, Arc::clone(&self.source), key)
            .with_attempt(attempt.saturating_add(1))
            .with_position(position);
        Incoming {
            received: Some(received),
            ..skipped
        }
    }

    async fn failed(&self, error: KrafkaError) {
        debug!(source = %self.source, %error, "poll failed");
        match error {
            // Without a group the client finds partitions that are added later by itself; all of
            // such a partition is new.
            KrafkaError::NoOffset { partitions }
                if !self.group.commits && partitions.iter().all(|(_, p)| !self.ledger.owns(*p)) =>
            {
                let new: Vec<i32> = partitions.iter().map(|(_, p)| *p).collect();
                let topic = &*self.group.topic;
                let starts = edges(&self.admin, "consume", topic, &new, OffsetSpec::Earliest);
                // What fails here is asked for again by the next poll.
                for (partition, first) in starts.await.unwrap_or_default() {
                    if self
                        .group
                        .consumer
                        .seek(topic, partition, first)
                        .await
                        .is_ok()
                    {
                        self.ledger.assign(partition, first, "");
                    }
                }
                self.assigned.tell(self.ledger.partitions());
            }
            // The watch counts how long it goes on.
            error if is_passing(&error) => sleep(BACKOFF).await,
            error => {
                let shown = unreadable(&error).map(ToOwned::to_owned);
                let partition = match &error {
                    KrafkaError::NoOffset { partitions } => partitions.first().map(|(_, p)| *p),
                    _ => None,
                };
                let mut error = error::map("consume", Stage::Before, error);
                if let Some(partition) = partition {
                    error = error.with("partition", partition);
                }
                if let Some(shown) = shown {
                    let help = "to go on without it, move the group's offset behind it";
                    error = error.with("client", shown).help(help);
                }
                self.ledger.end(Some(error.with("source", &self.source)));
            }
        }
    }

    /// Asks the cluster for the topic from time to time: krafka's poll stays silent about a cluster
    /// that is gone and about a topic that was deleted.
    async fn watch(&self) {
        let mut answered = Instant::now();
        let mut silent = false;
        let topic = &*self.group.topic;
        let ended = |kind, text| Error::new(kind, "consume", text).with("topic", topic);
        while !self.ledger.has_ended() {
            let pause = if silent { BACKOFF } else { WATCH };
            sleep(pause.min(self.unreachable_after)).await;
            let asked = Instant::now();
            let options = DescribeTopicsOptions::default();
            let answer = self.admin.describe_topics([topic], options).await;
            match answer.map(|mut topics| topics.remove(topic)) {
                Ok(Some(Ok(found))) if found.topic_id == self.topic_id => {
                    answered = Instant::now();
                    // The client tries for a while by itself: a late answer too may be the first one after a silence.
                    if silent || asked.elapsed() > LATE {
                        self.back.store(true, Relaxed);
                        self.group.consumer.wakeup();
                    }
                    silent = false;
                }
                Ok(Some(
                    Ok(_)
                    | Err(KrafkaError::Broker {
                        code: ErrorCode::UnknownTopicOrPartition,
                        ..
                    }),
                )) => {
                    let text = "the topic was deleted, or deleted and made again";
                    return self.ledger.end(Some(ended(ErrorKind::Lost, text)));
                }
                _ if answered.elapsed() >= self.unreachable_after => {
                    let text = "no broker has answered for too long";
                    return self.ledger.end(Some(ended(ErrorKind::Disconnected, text)));
                }
                _ => silent = true,
            }
        }
    }

    /// Settlements from now on are stale; those given before are copied and committed; then the
    /// group is left.
    async fn close(&self) -> Result<()> {
        let partitions = self.ledger.partitions();
        self.ledger.drain(&partitions);
        let copied = async {
            loop {
                let mut progress = std::pin::pin!(self.ledger.progress.notified());
                progress.as_mut().enable();
                if !self.ledger.is_copying() {
                    return;
                }
                progress.await;
            }
        };
        let copied = timeout(self.publish_timeout, copied).await.is_ok();
        let committed = self.group.commit(&self.ledger, None).await;
        self.ledger.remove(&partitions, FlowKind::Revoked);
        self.assigned.tell(self.ledger.partitions());
        let lost = self.ledger.take_lost();
        let options = CloseOptions::new().timeout(self.group.deadline);
        let left = self.group.consumer.close_with(options).await;
        if let Some(error) = self
            .ledger
            .failure()
            .filter(|e| e.kind() != ErrorKind::Closed)
        {
            return Err(error);
        }
        let failed = |e| error::map("close", Stage::Before, e).with("source", &self.source);
        committed.map_err(failed)?;
        if lost || !copied {
            return Err(mq_core::stale(&self.source));
        }
        left.map_err(failed)
    }
}

/// What krafka says of a record that cannot be decoded: only its text tells which one.
fn unreadable(error: &KrafkaError) -> Option<&str> {
    match error {
        KrafkaError::Protocol { message, .. } => message.split(';').next(),
        _ => None,
    }
}

/// A task that is gone half-way, with its runtime, leaves nobody waiting for it.
impl Drop for Intake {
    fn drop(&mut self) {
        self.ledger.end(Some(closed("consume")));
        self.ledger
            .remove(&self.ledger.partitions(), FlowKind::Lost);
        self.assigned.end();
        self.ledger.tell_consumer(FlowKind::Closed);
    }
}

/// How long one poll waits for records.
const POLL: Duration = Duration::from_millis(250);
/// How often the membership is kept up while the buffer is full.
const KEEP: Duration = Duration::from_millis(100);
const BACKOFF: Duration = Duration::from_millis(200);
const WATCH: Duration = Duration::from_secs(5);
/// An answer that took longer came from a broker, or over a link, that was away in between.
const LATE: Duration = Duration::from_secs(1);
