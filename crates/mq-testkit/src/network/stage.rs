//! What a case has at hand: two proxies, clients, a queue, and the history.

use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    future::Future,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mq_core::{
    Broker, ConsumePlan, Consumer, DeadLetters, Delivery, Destination, Message, MessageId,
    Publisher, Receipt, Subscription,
};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

use super::{
    Proxied,
    matrix::{Cell, Toxic},
    sockets::Sockets,
};
use crate::{
    Check, Failure,
    checker::{Checker, Claim, Verdict},
    failure::ensure,
    history::{Event, Recorder, Tag, Tags},
    proxy::{Counters, Proxy},
};

/// What a case has at hand.
pub(super) struct Stage<F: Proxied> {
    fixture: Arc<F>,
    pub(super) cell: Cell,
    /// Where the fault strikes.
    pub(super) proxy: Proxy,
    /// The way of the client that is not struck, so that what it leaves is seen too.
    clear: Proxy,
    queue: Destination,
    folder: PathBuf,
    recorder: Arc<Recorder>,
    tags: Tags,
    sockets: Sockets,
    /// Clients and consumers there were.
    opened: AtomicUsize,
    /// What the broker confirmed, and what was received.
    confirmed: BTreeSet<u64>,
    received: BTreeSet<u64>,
}

/// Messages whose outcome is missing.
pub(super) type InFlight<P> = VecDeque<(Tag, <P as Publisher>::Pending)>;
type PublisherOf<F> = <<F as Proxied>::Broker as Broker>::Publisher;
pub(super) type ConsumerOf<F> = <<F as Proxied>::Broker as Broker>::Consumer;

impl<F: Proxied> Stage<F> {
    pub(super) async fn new(fixture: Arc<F>, cell: Cell) -> Check<Self> {
        let id = MessageId::unique().to_string();
        let run = format!("net-{}", id.rsplit('-').next().unwrap_or_default());
        let folder = std::env::temp_dir().join(&run);
        let recorder = Arc::new(Recorder::create(&folder, &run, "case")?);
        let proxy = fixture.proxy().await?;
        proxy.record_to(Arc::clone(&recorder));
        Ok(Self {
            clear: fixture.proxy().await?,
            fixture,
            cell,
            proxy,
            queue: Destination::queue(format!("mq-test.{run}")),
            tags: recorder.tags(),
            folder,
            recorder,
            sockets: Sockets::default(),
            opened: AtomicUsize::new(0),
            confirmed: BTreeSet::new(),
            received: BTreeSet::new(),
        })
    }

    /// A client that no fault strikes, after it declared the queue.
    pub(super) async fn outsider(&self) -> Check<F::Broker> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let client = within("connecting", self.fixture.connect(&self.clear)).await??;
        within("declaring", client.declare(&self.queue)).await??;
        Ok(client)
    }

    pub(super) fn queue(&self) -> &Destination {
        &self.queue
    }

    /// A client behind the fault.
    pub(super) async fn connect(&self) -> Check<mq_core::Result<F::Broker>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        within("connecting", self.fixture.connect(&self.proxy)).await
    }

    pub(super) async fn consumer(
        &self,
        client: &F::Broker,
    ) -> Check<mq_core::Result<ConsumerOf<F>>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let source = Subscription::queue(Arc::clone(self.queue.name()));
        let plan = ConsumePlan::new().dead_letters(DeadLetters::None);
        within("opening a consumer", client.consumer(&source, plan)).await
    }

    /// Publishes without waiting for outcomes, until one is not taken.
    pub(super) async fn enqueue(
        &mut self,
        client: &F::Broker,
        count: usize,
        bytes: usize,
    ) -> Check<InFlight<PublisherOf<F>>> {
        let publisher = client.publisher();
        let mut pending = VecDeque::new();
        for _ in 0..count {
            let tag = self.tags.next("");
            self.recorder.record(Event::send(&tag))?;
            let message = Message::new(tag.to_payload(bytes));
            match within("enqueue", publisher.enqueue(&self.queue, message)).await? {
                Ok(one) => pending.push_back((tag, one)),
                Err(error) => {
                    self.came(&tag, &Err(error))?;
                    break;
                }
            }
        }
        Ok(pending)
    }

    /// Waits for outcomes; true if all are confirmed.
    pub(super) async fn outcomes(&mut self, pending: InFlight<PublisherOf<F>>) -> Check<bool> {
        let mut confirmed = true;
        for (tag, one) in pending {
            let outcome = within("the outcome of a publish", one).await?;
            confirmed &= outcome.is_ok();
            self.came(&tag, &outcome)?;
        }
        Ok(confirmed)
    }

    /// Publishes, and waits until all are confirmed.
    pub(super) async fn publish(
        &mut self,
        client: &F::Broker,
        count: usize,
        bytes: usize,
    ) -> Check {
        let all = self.try_publish(client, count, bytes).await?;
        ensure!(all, "a publish without a fault was not confirmed");
        Ok(())
    }

    /// Publishes, waits for the outcomes, and says whether all are confirmed.
    pub(super) async fn try_publish(
        &mut self,
        client: &F::Broker,
        count: usize,
        bytes: usize,
    ) -> Check<bool> {
        let pending = self.enqueue(client, count, bytes).await?;
        let entered = pending.len() == count;
        Ok(self.outcomes(pending).await? && entered)
    }

    fn came(&mut self, tag: &Tag, outcome: &mq_core::Result<Receipt>) -> Check {
        if outcome.is_ok() {
            self.confirmed.insert(tag.seq());
        }
        let log = self.queue.name();
        Ok(self.recorder.record(Event::outcome(tag, log, outcome))?)
    }

    /// Handles a delivery, up to its acknowledgement.
    pub(super) fn handle(&mut self, delivery: &Delivery) -> Check {
        let log = Arc::clone(self.queue.name());
        let tag = self.recorder.received(&log, delivery.received())?;
        let tag = tag.map_err(|corrupt| Failure::new(format!("{corrupt:?}")))?;
        self.recorder
            .record(Event::effect(delivery.source(), &tag))?;
        self.received.insert(tag.seq());
        Ok(())
    }

    /// True once all that was confirmed has been received.
    pub(super) fn has_all(&self) -> bool {
        self.confirmed.is_subset(&self.received)
    }

    /// Receives and acknowledges until all that was confirmed has been received. False if the consumer ended before.
    pub(super) async fn receive(&mut self, consumer: &mut ConsumerOf<F>) -> Check<bool> {
        while !self.has_all() {
            match within("a delivery", consumer.receive()).await? {
                Ok(Some(delivery)) => {
                    self.handle(&delivery)?;
                    // Too late is an answer as well: then it comes again.
                    let _ = delivery.ack();
                }
                Ok(None) | Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// As [`receive`](Self::receive), under a fault: a consumer that waits until the network is back
    /// sees it come back.
    pub(super) async fn receive_through(
        &mut self,
        consumer: &mut ConsumerOf<F>,
        before: u64,
    ) -> Check<bool> {
        if self.cell.survivable() {
            return self.receive(consumer).await;
        }
        if let Ok(done) = timeout(FAULT_LASTS, self.receive(consumer)).await {
            return done;
        }
        self.acted(before).await?;
        self.proxy.clear();
        self.receive(consumer).await
    }

    /// Receives so many without a fault, unsettled.
    pub(super) async fn take(
        &mut self,
        consumer: &mut ConsumerOf<F>,
        count: usize,
    ) -> Check<Vec<Delivery>> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let next = within("a delivery", consumer.receive()).await??;
            let next = next.ok_or_else(|| Failure::new("the consumer ended without a fault"))?;
            self.handle(&next)?;
            taken.push(next);
        }
        Ok(taken)
    }

    /// Notes the sockets there are, to see them go.
    pub(super) fn look(&mut self) {
        self.sockets.look(self.proxy.address());
        self.sockets.look(self.clear.address());
    }

    /// Sets the cell's fault, beside what makes its moment. Returns how often faults had acted before.
    pub(super) fn strike(&self) -> u64 {
        let before = self.proxy.counters().acted;
        let (direction, fault) = self.cell.fault();
        self.proxy.set(direction, fault);
        before
    }

    /// Puts the cell's fault in the place of what makes its moment.
    pub(super) fn strike_alone(&self) -> u64 {
        let before = self.proxy.counters().acted;
        let (direction, fault) = self.cell.fault();
        self.proxy.replace(direction, fault);
        before
    }

    /// Opens something while the fault strikes: during the handshake. Returns also how often faults
    /// had acted before.
    pub(super) async fn struck_meanwhile<T>(
        &self,
        opening: impl Future<Output = Check<T>>,
    ) -> Check<(T, u64)> {
        if self.cell.toxic != Toxic::Reset {
            let before = self.strike();
            return Ok((opening.await?, before));
        }
        // What can be reset has to be there.
        let passed = self.proxy.counters();
        let striking = async {
            self.until(|now| now.to_client > passed.to_client).await?;
            Ok(self.strike())
        };
        tokio::try_join!(opening, striking)
    }

    /// Waits until the moment has come.
    pub(super) async fn until(&self, wanted: impl FnMut(Counters) -> bool) -> Check<Counters> {
        let reached = timeout(MOMENT, self.proxy.until(wanted)).await;
        let late = |_| {
            Failure::new(format!(
                "the moment did not come: {:?}",
                self.proxy.counters()
            ))
        };
        reached.map_err(late)
    }

    /// A queue of this case's own that nobody has declared yet. Its name is long: its request takes a
    /// while on a narrow network.
    pub(super) fn another(&self, number: usize) -> Destination {
        Destination::queue(format!(
            "{}.{number}.{}",
            self.queue.name(),
            "x".repeat(100)
        ))
    }

    /// Waits until the fault has acted more often than that.
    pub(super) async fn acted(&self, before: u64) -> Check {
        let acted = timeout(BITES, self.proxy.until(|counters| counters.acted > before));
        let late = |_| {
            Failure::new(format!(
                "the fault did not act: {:?}",
                self.proxy.counters()
            ))
        };
        acted.await.map(drop).map_err(late)
    }

    /// Closes a client, which ends, in whatever way.
    pub(super) async fn close(&mut self, client: F::Broker) -> Check {
        self.look();
        // What keeps it from a regular end is a typed error, and it has ended all the same.
        let _ = within("close", client.close()).await?;
        Ok(())
    }

    /// Reads what is left, then lets the checker judge, and looks for what is left of the clients.
    pub(super) async fn judge(mut self, outsider: F::Broker, reader: F::Broker) -> Check {
        let mut consumer = self.consumer(&reader).await??;
        // What does not come is for the checker to find.
        let all = timeout(DRAIN, self.receive(&mut consumer)).await;
        while let Ok(next) = timeout(QUIET, consumer.receive()).await {
            let next = next?.ok_or_else(|| Failure::new("the consumer ended without a fault"))?;
            self.handle(&next)?;
            next.ack()?;
        }
        if !self.has_all() {
            self.recorder.record(Event::drained())?;
            let report = Checker::new(Claim::at_least_once()).check(&self.folder)?;
            return Err(Failure::new(format!("not all came ({all:?}): {report}")));
        }
        within("settled", consumer.settled()).await??;
        self.look();
        within("closing the consumer", consumer.close()).await??;
        within("close", reader.close()).await??;
        within("close", outsider.close()).await??;
        drop((reader, outsider));
        self.recorder.record(Event::drained())?;
        let report = Checker::new(Claim::at_least_once()).check(&self.folder)?;
        ensure!(report.verdict() == Verdict::Holds, "{}", report);
        fs::remove_dir_all(&self.folder)?;
        self.gone().await
    }

    /// No task and no socket is left.
    async fn gone(self) -> Check {
        let Self {
            fixture,
            proxy,
            clear,
            sockets,
            opened,
            ..
        } = self;
        let linux = cfg!(target_os = "linux");
        ensure!(!linux || sockets.seen() > 0, "no socket was seen");
        for proxy in [proxy, clear] {
            let closed = timeout(GONE, proxy.until(|counters| counters.open == 0)).await;
            let counters = proxy.counters();
            ensure!(closed.is_ok(), "connections are left: {counters:?}");
            proxy.close().await;
        }
        let timers = fixture.timers_left() * opened.load(Ordering::Relaxed);
        let start = Instant::now();
        loop {
            let (tasks, sockets) = (
                Handle::current().metrics().num_alive_tasks(),
                sockets.left(),
            );
            if tasks <= timers && sockets == 0 {
                return Ok(());
            }
            let late = start.elapsed() > GONE;
            ensure!(!late, "{tasks} tasks and {sockets} sockets are left");
            // Nobody tells when a task or a socket ends.
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The deadline of every public future.
pub(super) async fn within<T>(what: &str, wait: impl Future<Output = T>) -> Check<T> {
    let start = Instant::now();
    match timeout(DEADLINE, wait).await {
        Ok(done) => Ok(done),
        Err(_) => Err(Failure::new(format!(
            "{what} did not end within {:?}",
            start.elapsed()
        ))),
    }
}

const DEADLINE: Duration = Duration::from_secs(30);
/// A fault that has not acted by then was in vain.
const MOMENT: Duration = Duration::from_secs(15);
const BITES: Duration = Duration::from_secs(10);
/// What was left on its way by a publish without an outcome comes in that time, or was never stored.
const QUIET: Duration = Duration::from_millis(500);
/// Longer than a client takes to find a silent broker lost.
const FAULT_LASTS: Duration = Duration::from_secs(15);
const DRAIN: Duration = Duration::from_secs(40);
/// A timer of a client library may run for a minute, and a request without an answer for half of one.
const GONE: Duration = Duration::from_secs(75);
