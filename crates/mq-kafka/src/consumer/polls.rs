//! Polls that end.
//!
//! krafka 0.28 loses a request that it is given at the moment at which the connection ends, and waits for its answer for ever
//! (decision 0030). A poll that is dropped is as if it had never been, says the client, and the next one asks on another connection.

use std::{
    pin::pin,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use krafka::{ConsumerRecord, KrafkaError, consumer::Consumer};
use tokio::time::timeout;
use tracing::warn;

/// The polls of one consumer.
pub(crate) struct Polls {
    /// Its listener is at work, inside a poll.
    listeners: AtomicUsize,
    /// How often it was.
    calls: AtomicUsize,
    /// Polls that were given up, one after the other.
    given_up: AtomicU32,
    /// How long a poll may take beyond what it waits for records.
    patience: Duration,
}

/// A listener at work. The poll that it is in lasts as long as it does: half a rebalance is none.
pub(crate) struct AtWork<'a>(&'a AtomicUsize);

impl Polls {
    /// `request` is how long the client waits for one answer, and connects at most.
    pub(crate) fn new(request: Duration) -> Self {
        Self {
            listeners: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            given_up: AtomicU32::new(0),
            patience: request * REQUESTS,
        }
    }

    pub(crate) fn at_work(&self) -> AtWork<'_> {
        self.calls.fetch_add(1, Relaxed);
        self.listeners.fetch_add(1, Relaxed);
        AtWork(&self.listeners)
    }

    /// True if one poll after the other had to be given up for so long: what the client has lost is more than one request, and
    /// another poll does not help.
    pub(crate) fn are_lost_for(&self, long: Duration) -> bool {
        let given_up = self.given_up.load(Relaxed);
        given_up >= IN_A_ROW && self.patience.saturating_mul(given_up) >= long
    }

    /// A poll, which is empty if the client does not end it.
    pub(crate) async fn poll(
        &self,
        consumer: &Consumer,
        wait: Duration,
    ) -> Result<Vec<ConsumerRecord>, KrafkaError> {
        let mut poll = pin!(consumer.poll(wait));
        loop {
            let (working, calls) = (self.listeners.load(Relaxed), self.calls.load(Relaxed));
            if let Ok(polled) = timeout(wait + self.patience, &mut poll).await {
                self.given_up.store(0, Relaxed);
                return polled;
            }
            // A listener that has ended meanwhile may have left the rest of its poll no time.
            let still = self.listeners.load(Relaxed) > 0;
            if working == 0 && !still && calls == self.calls.load(Relaxed) {
                self.given_up.fetch_add(1, Relaxed);
                warn!(patience = ?self.patience, "the client waits for an answer that does not come; it is asked anew");
                return Ok(Vec::new());
            }
        }
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Requests that one poll may need, a connection among them, each of which may take its whole time.
const REQUESTS: u32 = 3;
/// Polls that are given up in a row before the consumer is.
const IN_A_ROW: u32 = 3;

#[cfg(test)]
mod tests {
    use krafka::{
        consumer::AutoOffsetReset,
        testing::{ApiKey, Control, FakeBroker},
    };
    use tokio::time::{Instant, sleep};

    use super::*;

    /// A reader at the client's own fake of a broker. Its requests have no end of their own, like one that is lost.
    async fn reader(fake: &FakeBroker) -> Consumer {
        fake.create_topic("orders", 1);
        let kafka = fake.kafka().request_timeout(Duration::from_secs(3600));
        let kafka = kafka.connect().await.unwrap();
        let consumer = kafka
            .consumer_without_group()
            .enable_auto_commit(false)
            .auto_offset_reset(AutoOffsetReset::Earliest)
            .build()
            .await
            .unwrap();
        consumer.subscribe(["orders"]).await.unwrap();
        let producer = fake.kafka().connect().await.unwrap().producer();
        let producer = producer.build().await.unwrap();
        let sent = producer.send(krafka::Record::new("orders", "one")).await;
        let _ = sent.unwrap();
        consumer
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_is_not_answered_is_given_up_and_the_next_one_reads() {
        for lost in [ApiKey::Fetch, ApiKey::ListOffsets] {
            let fake = FakeBroker::start_in_memory(1);
            let consumer = reader(&fake).await;
            // The fake answers in turn, also what is asked anew.
            fake.on_once(lost, |_| Control::Delay((REQUESTS + 1) * REQUEST));
            let polls = Polls::new(REQUEST);
            let start = Instant::now();
            let first = polls.poll(&consumer, WAIT).await.unwrap();
            assert_eq!(first.len(), 0, "{lost:?}");
            assert!(start.elapsed() >= WAIT + REQUESTS * REQUEST, "{lost:?}");
            let second = polls.poll(&consumer, WAIT).await.unwrap();
            assert_eq!(second.len(), 1, "{lost:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn polls_that_are_given_up_one_after_the_other_are_told() {
        let fake = FakeBroker::start_in_memory(1);
        let consumer = reader(&fake).await;
        let polls = Polls::new(REQUEST);
        fake.on_once(ApiKey::Fetch, |_| Control::Delay((REQUESTS + 1) * REQUEST));
        for (poll, records) in [0, 1].into_iter().enumerate() {
            let polled = polls.poll(&consumer, WAIT).await.unwrap();
            assert_eq!(polled.len(), records, "poll {poll}");
        }
        fake.on(ApiKey::Fetch, |_| Control::Silence);
        for poll in 1..=IN_A_ROW {
            assert!(!polls.are_lost_for(REQUEST), "before poll {poll}");
            polls.poll(&consumer, WAIT).await.unwrap();
        }
        assert!(polls.are_lost_for(IN_A_ROW * REQUESTS * REQUEST));
        assert!(!polls.are_lost_for((IN_A_ROW * REQUESTS + 1) * REQUEST));
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_is_with_the_listener_is_not_given_up() {
        let fake = FakeBroker::start_in_memory(1);
        let consumer = reader(&fake).await;
        fake.on_once(ApiKey::Fetch, |_| Control::Silence);
        let polls = Polls::new(REQUEST);
        let start = Instant::now();
        let busy = 10 * REQUESTS * REQUEST;
        let listener = async {
            let at_work = polls.at_work();
            sleep(busy).await;
            drop(at_work);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            polled = polls.poll(&consumer, WAIT) => assert_eq!(polled.unwrap().len(), 0),
            () = listener => {}
        }
        assert!(start.elapsed() > busy, "{:?}", start.elapsed());
    }

    const REQUEST: Duration = Duration::from_secs(10);
    const WAIT: Duration = Duration::from_millis(250);
}
