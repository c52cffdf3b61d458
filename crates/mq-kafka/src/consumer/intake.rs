//! The task that polls: takes records in while there is room, keeps the membership while there is
//! none, notices a broker that no longer answers, and closes down.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use krafka::{
    CloseOptions, ConsumerRecord, KrafkaError,
    admin::{AdminClient, OffsetSpec},
};
use mq_core::{
    Error, ErrorKind, Filter, Position, Received, Result, flow::FlowKind, headers as names,
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    assignment::Assigned,
    calls::{Calls, Join, POLL, SYNC, generation},
    events::{self, Events, KafkaEvent},
    identity::{Holder, Identity},
    listener::Listener,
    presence::Presence,
};
use crate::{
    error::{self, Stage, closed, is_fenced, is_passing},
    headers,
    settle::{Group, Incoming, Ledger, Wait},
    topology::{edges, readable_ends},
};

pub(super) struct Intake {
    pub(super) group: Arc<Group>,
    pub(super) listener: Arc<Listener>,
    /// Of a static member under the classic protocol.
    pub(super) identity: Option<Identity>,
    /// Of a member under the classic protocol.
    pub(super) calls: Option<Calls>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) assigned: Arc<Assigned>,
    pub(super) admin: Arc<AdminClient>,
    pub(super) source: Arc<str>,
    pub(super) filter: Filter,
    /// How long a record waits at most, if this is a retry topic.
    pub(super) tier: Option<Duration>,
    pub(super) topic_id: [u8; 16],
    /// How many the topic had when the consumer was opened.
    pub(super) partitions: usize,
    pub(super) read_committed: bool,
    pub(super) events: Events,
    pub(super) stalled_after: Duration,
    /// The connection closes.
    pub(super) closing: CancellationToken,
    /// The consumer closes.
    pub(super) stop: CancellationToken,
    pub(super) unreachable_after: Duration,
    pub(super) publish_timeout: Duration,
    /// A broker answers again after none did.
    pub(super) back: AtomicBool,
    /// The topic has partitions that nobody was given yet.
    pub(super) grown: AtomicBool,
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
        // The others never end by themselves: only the poll, which must not be dropped half-way, does.
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
            () = self.listen() => {}
            () = wake => {}
        }
        let error = self.closing.is_cancelled().then(|| closed("consume"));
        self.ledger.end(error);
        self.close().await
    }

    async fn poll(&self) {
        let mut paused: HashSet<i32> = HashSet::new();
        let mut waiting: Option<Instant> = None;
        let mut join: Option<Join> = None;
        let mut joined = false;
        let consumer = &self.group.consumer;
        let topic = &*self.group.topic;
        while !self.stop.is_cancelled() && !self.ledger.has_ended() {
            if self.back.swap(false, Relaxed) {
                self.fetch_now().await;
            }
            // What a join brought is taken first: until then the member would say that it has less.
            if join.is_none() && !std::mem::take(&mut joined) {
                join = self.is_to_join().await.map(Join::leaving);
            }
            if self.listener.anew.swap(false, Relaxed) {
                self.place_anew().await;
            }
            let unplaced = self.place(&mut waiting).await;
            let room = self.ledger.has_room();
            let mut pause: HashSet<i32> = match room {
                true => self.ledger.clogged().into_iter().collect(),
                false => self.ledger.partitions().into_iter().collect(),
            };
            pause.extend(unplaced);
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
            if let Some(identity) = &self.identity {
                identity.note(consumer).await;
            }
            if let Some(on_its_way) = &join
                && !on_its_way.is_open(consumer).await
            {
                join = None;
            }
            // A listener may be at work inside it.
            let wait = if room && join.is_none() {
                POLL
            } else {
                Duration::ZERO
            };
            let asked = Instant::now();
            match self.group.polls.poll(consumer, wait).await {
                Ok(records) if records.is_empty() => {
                    self.look_at_polls();
                    if asked.elapsed() < wait {
                        self.free(&paused).await;
                    }
                }
                Ok(records) => {
                    // The client reads none while it joins.
                    join = None;
                    self.take_in(records);
                }
                // The loop looks at why it was woken.
                Err(KrafkaError::Wakeup) => {}
                Err(error) => self.failed(error).await,
            }
            if let Some(on_its_way) = &join {
                tokio::select! {
                    goes_on = on_its_way.goes_on(consumer) => {
                        joined = !goes_on;
                        join = join.filter(|_| goes_on);
                    }
                    () = self.stop.cancelled() => {}
                    () = self.ledger.until(Ledger::has_ended) => {}
                }
            } else if !room {
                tokio::select! {
                    () = self.ledger.room.notified() => {}
                    () = self.stop.cancelled() => {}
                    () = sleep(KEEP) => {}
                }
            }
        }
    }

    /// Ends the consumer whose client answers nothing any more: another one has a handle of its own.
    fn look_at_polls(&self) {
        if self.group.polls.are_lost_for(self.unreachable_after) {
            let text = "the client waits for answers that do not come";
            let error = Error::new(ErrorKind::Disconnected, "consume", text);
            let error = error.help("open the consumer again");
            self.ledger.end(Some(error.with("source", &self.source)));
        }
    }

    /// Has what is still the member's, and was lost in between, wait for a place like what is new.
    async fn place_anew(&self) {
        let mut owned = self.group.consumer.assignment().await;
        let mut again = owned.remove(&*self.group.topic).unwrap_or_default();
        let unplaced = self.ledger.unplaced();
        again.retain(|p| !self.ledger.owns(*p) && !unplaced.contains(p));
        self.ledger.hold_back(&again);
        self.events
            .tell_partitions(events::assigned, &self.source, &again);
    }

    /// Gives partitions that wait for it a place to read from, here where no record is on its way. Returns those that still wait.
    async fn place(&self, waiting: &mut Option<Instant>) -> Vec<i32> {
        let unplaced = self.ledger.unplaced();
        if unplaced.is_empty() {
            *waiting = None;
            return unplaced;
        }
        let since = *waiting.get_or_insert_with(Instant::now);
        let (source, partitions) = (&self.source, &unplaced);
        match self.listener.place(&self.group).await {
            Ok(()) => *waiting = None,
            Err(error) if error.is_retryable() && since.elapsed() < HELD => {
                debug!(%source, ?partitions, %error, "no place to read from yet");
                if since.elapsed() > LATE {
                    warn!(%source, ?partitions, %error, "a transaction holds the offsets");
                }
                sleep(BACKOFF).await;
            }
            Err(error) => self.ledger.end(Some(error.with("source", source))),
        }
        self.ledger.unplaced()
    }

    /// After a poll that ended early with nothing: krafka asks nobody while what it has buffered of paused partitions is as much as it
    /// may buffer, and does not wait then. A seek to where a partition is makes it forget its buffer.
    async fn free(&self, paused: &HashSet<i32>) {
        for (partition, next) in self.ledger.ends() {
            if paused.contains(&partition) {
                self.seek(partition, next).await;
            }
        }
        // Whatever else ends polls early, this loop does not turn without a pause.
        sleep(EARLY).await;
    }

    /// krafka asks a partition that failed again only after a while, which doubles up to 30 s. A seek to where the partition
    /// is makes it ask now. Between two polls, so that no record is on its way.
    async fn fetch_now(&self) {
        for (partition, next) in self.ledger.ends() {
            self.seek(partition, next).await;
        }
    }

    /// Between two polls, so that no record is on its way.
    async fn seek(&self, partition: i32, next: i64) {
        let (consumer, topic) = (&self.group.consumer, &self.group.topic);
        if let Err(error) = consumer.seek(topic, partition, next).await {
            // It was given up since.
            debug!(source = %self.source, partition, %error, "not asked again at once");
        }
    }

    /// A static member was told to be fenced. True if its name is its own all the same: then the
    /// next poll joins again, and what it had is told as lost.
    async fn is_still_itself(&self) -> bool {
        let Some(identity) = &self.identity else {
            return false;
        };
        let holder = identity.holder(&self.group.consumer, &self.admin);
        let holder = tokio::select! {
            holder = holder => holder,
            () = self.stop.cancelled() => return true,
            () = self.ledger.until(Ledger::has_ended) => return true,
        };
        debug!(source = %self.source, ?holder, "a static member was told to be fenced");
        holder == Holder::Itself
    }

    async fn listen(&self) {
        match &self.calls {
            Some(calls) => calls.listen(&self.group.consumer).await,
            None => std::future::pending().await,
        }
    }

    /// The generation that is to be left, if the next poll begins a join.
    async fn is_to_join(&self) -> Option<i32> {
        let grown = self.grown.swap(false, Relaxed);
        let Some(calls) = &self.calls else {
            // Without a group the client takes all that it finds when it subscribes.
            if grown && !self.group.commits && !self.join_again().await {
                self.grown.store(true, Relaxed);
            }
            return None;
        };
        let consumer = &self.group.consumer;
        // What was given up goes to its next owner in a further round, which the client begins.
        let gave_up = self.listener.gave_up.take();
        let now = generation(consumer).await;
        let called = calls.take(consumer).await;
        let lost = self.identity.is_some() && self.listener.rejoin.take();
        if called.is_some() || lost || grown {
            let begins = self.join_again().await;
            if lost && !begins {
                self.listener.rejoin.still();
            }
            if grown && !begins {
                self.grown.store(true, Relaxed);
            }
            return called.or(now).filter(|_| begins);
        }
        match (gave_up, now) {
            (None, _) => None,
            (Some(then), Some(now)) if then == now => Some(now),
            // That round came to its end in the poll that began it, or is about to.
            _ => {
                sleep(SYNC).await;
                None
            }
        }
    }

    /// Has the next poll join the group once more, which with what it owns now is a rebalance. The
    /// client does so when the list of topics changes, and here it changes and changes back. False
    /// if that could not be done.
    async fn join_again(&self) -> bool {
        let topic = &*self.group.topic;
        for topics in [&[topic, topic][..], &[topic]] {
            let subscribed = self.group.consumer.subscribe(topics);
            let subscribed = tokio::select! {
                subscribed = timeout(LOOK, subscribed) => subscribed,
                () = self.stop.cancelled() => return false,
            };
            match subscribed {
                Ok(Ok(())) => {}
                not => {
                    debug!(source = %self.source, ?not, "not joined again");
                    return false;
                }
            }
        }
        true
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
            time: record.timestamp,
            wait: None,
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
        let due = || received.headers().text(names::DUE)?.parse().ok();
        Incoming {
            // Without a due time of ours it is due.
            wait: self.tier.and_then(|most| Wait::until(due()?, most)),
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
            // Its place is asked for before the next poll.
            KrafkaError::NoOffset { partitions }
                if partitions
                    .iter()
                    .all(|(_, p)| self.ledger.unplaced().contains(p)) =>
            {
                sleep(BACKOFF).await;
            }
            // The watch counts how long it goes on.
            error if is_passing(&error) => sleep(BACKOFF).await,
            error if is_fenced(&error) && self.is_still_itself().await => {}
            error => {
                if is_fenced(&error) {
                    let subscription = Arc::clone(&self.source);
                    self.events.tell(KafkaEvent::Fenced { subscription });
                }
                let shown = unreadable(&error).map(ToOwned::to_owned);
                // What lies before a record that cannot be read is handed out first: who moves the group behind that record on
                // the word of this error would lose it. Meanwhile the client answers the same again.
                if shown.is_some() && self.ledger.has_ready() {
                    return sleep(BACKOFF).await;
                }
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

    /// Asks the cluster for the topic from time to time.
    async fn watch(&self) {
        let (topic, patience) = (&*self.group.topic, self.unreachable_after);
        let mut presence = Presence::new(&self.admin, topic, self.topic_id, patience);
        let mut silent = false;
        let mut partitions = self.partitions;
        let mut given = partitions;
        while !self.ledger.has_ended() {
            let pause = if silent { BACKOFF } else { WATCH };
            let pause = pause.min(patience).min(self.stalled_after);
            sleep(pause).await;
            self.tell_stalled();
            self.tell_held();
            let asked = Instant::now();
            let found = match presence.ask().await {
                Ok(Some(found)) => found,
                Ok(None) => {
                    silent = true;
                    continue;
                }
                Err(error) => return self.ledger.end(Some(error)),
            };
            // The client tries for a while by itself: a late answer too may be the first one after a silence.
            if silent || asked.elapsed() > LATE {
                self.back.store(true, Relaxed);
                self.group.consumer.wakeup();
            }
            silent = false;
            let now = found.partitions.len();
            self.tell_partitions(&mut partitions, now);
            if now > given && self.has_found(given..now).await {
                given = now;
                self.grown.store(true, Relaxed);
                self.group.consumer.wakeup();
            }
            self.look_at_ends().await;
        }
    }

    /// Tells of messages that hold up the commits of their partitions for too long.
    fn tell_stalled(&self) {
        for stalled in self.ledger.newly_stalled(self.stalled_after) {
            let (partition, offset, time) = (stalled.partition, stalled.offset, stalled.time);
            warn!(
                source = %self.source, partition, offset, ?time,
                "a message is with its handler, or waits for one, for too long; no offset behind it is committed"
            );
            self.events.tell(KafkaEvent::Stalled {
                subscription: Arc::clone(&self.source),
                partition,
                offset,
                time,
            });
        }
    }

    /// Tells of transactions that keep what lies behind them from being read for too long.
    fn tell_held(&self) {
        for held in self.ledger.newly_held(self.stalled_after) {
            let (partition, offset, time) = (held.partition, held.offset, held.time);
            warn!(
                source = %self.source, partition, offset, ?time,
                "a transaction is open for too long; nothing behind it is read"
            );
            self.events.tell(KafkaEvent::TransactionOpen {
                subscription: Arc::clone(&self.source),
                partition,
                offset,
                time,
            });
        }
    }

    /// Has the client find partitions that were added. Under the classic protocol nobody but a member notices them, and the client,
    /// which keeps what it knows of a topic for five minutes, does not: each member joins again, since the one among them that
    /// shares out partitions has to. To be asked where a partition begins makes the client look for it.
    async fn has_found(&self, added: Range<usize>) -> bool {
        let added: Vec<i32> = added.filter_map(|p| i32::try_from(p).ok()).collect();
        let topic = &*self.group.topic;
        let starts = edges(&self.admin, "consume", topic, &added, OffsetSpec::Earliest);
        matches!(timeout(LOOK, starts).await, Ok(Ok(_)))
    }

    /// Tells of another number of partitions: a key may go to another one since.
    fn tell_partitions(&self, before: &mut usize, now: usize) {
        if *before == now {
            return;
        }
        warn!(
            source = %self.source, before, now,
            "the topic has another number of partitions: messages of one key may lie in two of them"
        );
        self.events.tell(KafkaEvent::PartitionsChanged {
            subscription: Arc::clone(&self.source),
            before: *before,
            now,
        });
        *before = now;
    }

    /// Notes where the logs end, for the lag. What does not answer now is asked again later.
    async fn look_at_ends(&self) {
        let partitions = self.ledger.partitions();
        let topic = &*self.group.topic;
        let looked = async {
            let ends = readable_ends(&self.admin, topic, &partitions, self.read_committed).await;
            let high = match self.read_committed {
                true => readable_ends(&self.admin, topic, &partitions, false).await,
                false => HashMap::new(),
            };
            ends.into_iter()
                .map(move |(p, end)| (p, (end, high.get(&p).map_or(end, |high| *high))))
        };
        if let Ok(ends) = timeout(LOOK, looked).await {
            self.ledger.saw_ends(ends);
        }
    }

    /// Settlements from now on are stale; those given before are copied and committed; then the
    /// group is left.
    async fn close(&self) -> Result<()> {
        let partitions = self.ledger.partitions();
        if self.ledger.is_transactional() {
            // What an abort gave back in earlier days came again since.
            self.ledger.take_lost();
        }
        self.ledger.drain(&partitions);
        if self.ledger.is_transactional() {
            self.end_transaction(&partitions).await;
        }
        let copied = self.ledger.until(|ledger| !ledger.is_copying());
        let copied = timeout(self.publish_timeout, copied).await.is_ok();
        let failure = || {
            let failure = self.ledger.failure();
            failure.filter(|error| error.kind() != ErrorKind::Closed)
        };
        let committed = match failure() {
            // It may have lost its name to another consumer, and would take it back by joining.
            Some(_) => self.group.commit(&self.ledger, None).await,
            None => self.group.commit_last(&self.ledger).await,
        };
        // Others than at first, where the group moved meanwhile.
        let partitions = self.ledger.partitions();
        let removed = self.ledger.remove(&partitions, FlowKind::Revoked);
        self.assigned.tell(self.ledger.partitions());
        self.events
            .tell_partitions(events::revoked, &self.source, &removed);
        let lost = self.ledger.take_lost();
        let options = CloseOptions::new().timeout(self.group.deadline);
        let left = self.group.consumer.close_with(options).await;
        if let Some(error) = failure() {
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

impl Intake {
    /// Waits until what was settled is committed, or its transaction has come to another end.
    async fn end_transaction(&self, partitions: &[i32]) {
        self.ledger.request_flush();
        let over = self
            .ledger
            .until(|ledger| ledger.failure().is_some() || ledger.is_transacted(partitions));
        // What is not committed by then is counted as lost when the partitions go.
        let _ = timeout(self.publish_timeout, over).await;
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

/// How often the membership is kept up while the buffer is full.
const KEEP: Duration = Duration::from_millis(100);
const EARLY: Duration = Duration::from_millis(10);
const BACKOFF: Duration = Duration::from_millis(200);
const WATCH: Duration = Duration::from_secs(5);
/// How long what is asked on the way may take: it is milliseconds, or not now.
const LOOK: Duration = Duration::from_secs(2);
/// How long an open transaction may hold the offsets of a partition: a broker lets none be open for longer (`transaction.max.timeout.ms`),
/// and looks every 10 s.
const HELD: Duration = Duration::from_secs(16 * 60);
/// An answer that took longer came from a broker, or over a link, that was away in between.
const LATE: Duration = Duration::from_secs(1);
