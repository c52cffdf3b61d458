//! What the members of a share group keep to themselves: the client logs what it is refused, and
//! asks again for ever.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use krafka::share_consumer::ShareConsumer;
use mq_core::{Error, ErrorKind, Result};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::{CONSUME, Sharing, unsupported};
use crate::{
    consumer::{KafkaEvent, presence::Presence},
    error::is_passing,
    topology,
};

impl Sharing {
    /// Looks from time to time at what would leave the consumer silent for ever or untrue to its
    /// promise, and ends it then.
    pub(super) async fn watch(&self) {
        let (inner, config) = (&self.inner, &self.inner.config);
        let patience = config.unreachable_after;
        let mut presence = Presence::new(&inner.admin, &self.topic, self.topic_id, patience);
        let mut standing = Standing::new(patience, config.request_timeout());
        let mut waiting = Waiting::new();
        let pause = WATCH.min(patience / 2);
        let mut looked = Instant::now();
        loop {
            sleep(pause.min(config.stalled_after)).await;
            self.tell_stalled();
            if looked.elapsed() < pause {
                continue;
            }
            looked = Instant::now();
            let look = self.look(&mut presence, &mut standing, &mut waiting);
            if let Err(error) = look.await {
                return self.locks.end(Some(error));
            }
        }
    }

    async fn look(
        &self,
        presence: &mut Presence<'_>,
        standing: &mut Standing,
        waiting: &mut Waiting,
    ) -> Result<()> {
        let (inner, topic) = (&self.inner, &*self.topic);
        let found = presence.ask().await?;
        let (total, now) = (self.locks.total(), Instant::now());
        let passed = now - std::mem::replace(&mut standing.looked, now);
        if total > standing.total {
            // They come without the group's coordinator too.
            standing.goes_on(total);
            waiting.answered = now;
        } else if found.is_none() {
            // While nobody answers at all, that is what counts.
            standing.had += passed;
            waiting.answered += passed;
        }
        let Some(found) = found else {
            return Ok(());
        };
        topology::check_leaders(CONSUME, topic, &found)?;
        let limits = topology::share_group_limits(inner, CONSUME, topic).await;
        if let Some(limits) = lasting(limits)? {
            // Also if it is over: what it still holds goes by them.
            self.locks.limit(limits);
            topology::check_deliveries(CONSUME, topic, limits)?;
        }
        let members = self.locks.lanes.get().map_or(&[][..], |lanes| lanes);
        standing.ask(members, topic).await?;
        self.look_for_more(waiting, found.partitions.len()).await
    }

    /// Tells of messages that are with their handlers for too long.
    fn tell_stalled(&self) {
        let source = self.locks.source.name();
        for stalled in self.locks.newly_overdue(self.inner.config.stalled_after) {
            let (partition, offset, time) = (stalled.partition, stalled.offset, stalled.time);
            warn!(%source, partition, offset, ?time, "a message is with its handler for too long");
            self.inner.events.tell(KafkaEvent::Stalled {
                subscription: Arc::clone(source),
                partition,
                offset,
                time,
            });
        }
    }

    /// Tells of messages that the broker counts and does not give. Where it cannot count them for too
    /// long, it can give none: both take the group's state.
    async fn look_for_more(&self, waiting: &mut Waiting, partitions: usize) -> Result<()> {
        let (source, had) = (self.locks.source.name(), self.locks.had());
        let config = &self.inner.config;
        let mut lag = 0;
        if had.is_some() {
            let asked = topology::share_group_lag(&self.inner, CONSUME, &self.topic, partitions);
            match asked.await {
                Ok(found) => lag = found,
                Err(error) if waiting.answered.elapsed() < config.unreachable_after => {
                    debug!(%source, %error, "the lag is not known now");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        waiting.answered = Instant::now();
        if let Some(time) = waiting.saw(had, lag, config.stalled_after) {
            warn!(%source, lag, ?time, "the broker has messages, and gives this consumer none");
            self.inner.events.tell(KafkaEvent::Starved {
                subscription: Arc::clone(source),
                lag,
                time,
            });
        }
        Ok(())
    }
}

/// An error that stays until somebody changes something; the others are counted as silence.
fn lasting<T>(result: Result<T>) -> Result<Option<T>> {
    use ErrorKind::{Config, Permission, Unsupported};
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), Config | Permission | Unsupported) => Err(error),
        Err(error) => {
            debug!(%error, "not looked at now");
            Ok(None)
        }
    }
}

/// Whether the group keeps the members, and gives them partitions.
struct Standing {
    unreachable_after: Duration,
    /// How long a heartbeat may take.
    request_timeout: Duration,
    looked: Instant,
    /// How many records had come by then.
    total: u64,
    /// When a member was told to have some, last.
    had: Instant,
    /// Who asks next. Rights and the group are the same for all.
    turn: usize,
}

impl Standing {
    fn new(unreachable_after: Duration, request_timeout: Duration) -> Self {
        Self {
            unreachable_after,
            request_timeout,
            looked: Instant::now(),
            total: 0,
            had: Instant::now(),
            turn: 0,
        }
    }

    /// Its patience begins anew.
    fn goes_on(&mut self, total: u64) {
        (self.total, self.had) = (total, Instant::now());
    }

    /// Has a member send a heartbeat here: those that the client sends fail in its log alone.
    async fn ask(&mut self, members: &[ShareConsumer], topic: &str) -> Result<()> {
        let Some(member) = members.get(self.turn % members.len().max(1)) else {
            return Ok(());
        };
        self.turn += 1;
        let text = match timeout(self.request_timeout, member.subscribe([topic])).await {
            Ok(Ok(())) if members.iter().any(|m| !m.assignment().is_empty()) => {
                self.had = Instant::now();
                return Ok(());
            }
            Ok(Ok(())) => "the share group gives this consumer no partition",
            Ok(Err(error)) if !is_passing(&error) => {
                return Err(unsupported(error).with("share group", topic));
            }
            Ok(Err(_)) | Err(_) => "the share group has not answered for too long",
        };
        match self.had.elapsed() < self.unreachable_after {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Lost, CONSUME, text).with("share group", topic)),
        }
    }
}

/// Since when there are messages, and none of them comes.
struct Waiting {
    /// How many records had come by then.
    had: Option<u64>,
    since: Option<Instant>,
    told: bool,
    /// When the broker last said how many there are, or records were held.
    answered: Instant,
}

impl Waiting {
    fn new() -> Self {
        Self {
            had: None,
            since: None,
            told: false,
            answered: Instant::now(),
        }
    }

    /// For how long, if that is too long now and was not told. A consumer that holds records
    /// (`None`) waits for its handlers.
    fn saw(&mut self, had: Option<u64>, lag: u64, too_long: Duration) -> Option<Duration> {
        if had.is_none() || had != self.had || lag == 0 {
            (self.had, self.since, self.told) = (had, None, false);
        }
        if had.is_none() || lag == 0 {
            return None;
        }
        let time = self.since.get_or_insert_with(Instant::now).elapsed();
        let newly = time >= too_long && !self.told;
        self.told |= newly;
        newly.then_some(time)
    }
}

const WATCH: Duration = Duration::from_secs(5);
