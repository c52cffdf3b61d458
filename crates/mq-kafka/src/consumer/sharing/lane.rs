//! One member of a share group: it is asked for records whenever it has none, and keeps the locks of
//! those that it has.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use krafka::{ConsumerRecord, KrafkaError, share_consumer::ShareConsumer};
use mq_core::{Position, Received, headers as names};
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::{Sharing, unsupported};
use crate::{error::is_passing, headers};

impl Sharing {
    /// Ends with the locks.
    pub(super) async fn read(&self, lane: usize, member: &ShareConsumer) {
        let mut heard = Instant::now();
        while !self.locks.has_ended() {
            if heard.elapsed() >= LOOK {
                heard = Instant::now();
                self.locks.keep(lane);
            }
            let now = member.assignment().remove(&*self.topic);
            self.saw(lane, now.unwrap_or_default());
            let mut progress = std::pin::pin!(self.locks.progress.notified());
            progress.as_mut().enable();
            if !self.locks.is_free(lane) {
                let _ = timeout(LOOK, progress).await;
                continue;
            }
            let asked = Instant::now();
            match member.poll(POLL).await {
                Ok(records) => self.take_in(lane, member, records, asked),
                Err(KrafkaError::Wakeup) => {}
                // The watch counts how long it goes on.
                Err(error) if is_passing(&error) => {
                    debug!(source = %self.locks.source, %error, "poll failed");
                    sleep(LOOK).await;
                }
                Err(error) => {
                    let error = unsupported(error).with("source", self.locks.source.name());
                    self.locks.end(Some(error));
                }
            }
        }
    }

    pub(super) fn take_in(
        &self,
        lane: usize,
        member: &ShareConsumer,
        records: Vec<ConsumerRecord>,
        asked: Instant,
    ) {
        let now = SystemTime::now();
        let mut taken = Vec::with_capacity(records.len());
        for record in records {
            if headers::is_expired(&record, now) {
                // An error: its lock is gone, and it comes again.
                let _ = member.ack(&record);
            } else {
                taken.push(self.received(record));
            }
        }
        if !taken.is_empty() {
            self.locks.take_in(lane, taken, asked);
        }
    }

    /// The message, and how often the broker has delivered it. Its attempt is that, and those that
    /// the message carries.
    fn received(&self, record: ConsumerRecord) -> (Received, u32) {
        let position = Position {
            partition: u32::try_from(record.partition).unwrap_or_default(),
            offset: u64::try_from(record.offset).unwrap_or_default(),
        };
        let deliveries = record.delivery_count.and_then(|n| u32::try_from(n).ok());
        let deliveries = deliveries.unwrap_or(1).max(1);
        let (message, key) = headers::from_record(record);
        let before = message.headers().text(names::ATTEMPT);
        let before: u32 = before.and_then(|text| text.parse().ok()).unwrap_or(0);
        let source = Arc::clone(self.locks.source.name());
        let received = Received::new(message, source, key)
            .with_attempt(before.saturating_add(deliveries))
            .with_inexact_attempt()
            .with_position(position);
        (received, deliveries)
    }
}

/// How long one poll waits for records.
const POLL: Duration = Duration::from_secs(1);
/// How often locks are looked at.
const LOOK: Duration = Duration::from_millis(500);
