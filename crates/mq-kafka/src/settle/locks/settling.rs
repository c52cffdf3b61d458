//! Verdicts, and the copies that some of them ask for.

use mq_core::{Error, ErrorKind, Received, Result, Settle, Verdict, flow::FlowKind, stale};
use tokio::sync::Notify;
use tracing::error;

use super::{Held, Locks, Phase, State, mark};
use crate::settle::{
    copier::{Homes, Moves},
    moves::{Move, What},
    waiting::due,
};

impl Locks {
    /// Tells and counts the settlement of a delivery that is held no more.
    fn settled(&self, kind: FlowKind, received: &Received) {
        self.tell(kind, received);
        self.watch.counters.settled(kind);
        self.window.back(1);
        self.window.deliverable.notify_one();
        self.progress.notify_waiters();
    }

    /// Gives the broker a verdict on a record that is held no more; false if its lock is gone.
    fn answer(&self, held: &Held, accept: bool) -> bool {
        let at = mark(&held.received);
        let answered = self.lane(held.lane).map(|lane| match accept {
            true => lane.ack(&at),
            false => lane.release(&at),
        });
        matches!(answered, Some(Ok(())))
    }

    fn move_out(&self, state: &mut State, key: u64, received: &Received, what: What) {
        if let Some(held) = state.held.get_mut(&key) {
            held.phase = Phase::Moving;
        }
        self.push_move(state, key, received.clone(), what);
    }
}

impl Settle for Locks {
    fn settle(&self, key: u64, verdict: Verdict, received: &Received) -> Result<()> {
        let source = self.source.name();
        let unsupported =
            |text| Error::new(ErrorKind::Unsupported, "settle", text).with("source", source);
        let state = &mut *self.lock();
        // After the end nothing is sure to reach the broker any more.
        let held = match state.ended {
            None => state.held.get_mut(&key),
            Some(_) => None,
        };
        let Some(held) = held.filter(|held| matches!(held.phase, Phase::Out(..))) else {
            return Err(stale(source));
        };
        let what = match verdict {
            Verdict::Release => {
                // It stays locked for us, so the broker counts nothing.
                held.phase = Phase::Ready;
                state.ready.push_front(key);
                self.settled(FlowKind::Released, received);
                return Ok(());
            }
            Verdict::Requeue if state.limits.ends_at(held.deliveries + 1) => What::Again {
                attempts: received.attempt(),
            },
            Verdict::Ack | Verdict::Requeue => {
                let accept = matches!(verdict, Verdict::Ack);
                let Some(held) = state.held.remove(&key) else {
                    return Err(stale(source));
                };
                if !self.answer(&held, accept) {
                    state.held.insert(key, held);
                    self.lose(state, &[key]);
                    return Err(stale(source));
                }
                let kind = match accept {
                    true => FlowKind::Acked,
                    false => FlowKind::Requeued,
                };
                self.settled(kind, received);
                return Ok(());
            }
            Verdict::Defer(_) if self.homes.tiers.is_empty() => {
                return Err(unsupported("this subscription has no retry topics").help(
                    "give its delays to KafkaBuilder::delays and declare it, then open it anew",
                ));
            }
            Verdict::Defer(delay) => What::Defer {
                due: due(delay),
                attempts: received.attempt(),
            },
            Verdict::Reject(_) if self.homes.dead.is_none() => {
                return Err(unsupported("this consumer has no dead-letter home"));
            }
            Verdict::Reject(why) => What::Reject(why),
        };
        self.move_out(state, key, received, what);
        Ok(())
    }
}

impl Moves for Locks {
    fn homes(&self) -> &Homes {
        &self.homes
    }

    fn moving(&self) -> &Notify {
        &self.moving
    }

    fn take_moves(&self) -> Vec<Move> {
        std::mem::take(&mut self.lock().moves)
    }

    /// The record is done, as far as its lock is still ours: else it comes again beside its copy.
    fn copied(&self, moved: &Move) {
        let state = &mut *self.lock();
        state.moves_open -= 1;
        state.condemned.remove(&moved.tag.seq);
        self.window.deliverable.notify_one();
        let received = &moved.received;
        let kind = match (&moved.what, &self.homes.dead) {
            (What::Reject(_), Some(home)) => {
                let flow = &self.watch.flow;
                flow.dead_lettered(&self.source, received, None, home);
                self.watch.counters.dead_lettered();
                FlowKind::Acked
            }
            (What::Defer { .. }, _) => {
                self.tell(FlowKind::Deferred, received);
                self.watch.counters.deferred();
                FlowKind::Acked
            }
            _ => FlowKind::Requeued,
        };
        let held = state.held.remove(&moved.tag.seq);
        state.lost |= held.is_none_or(|held| !self.answer(&held, true));
        self.settled(kind, received);
    }

    /// The record is delivered again, and the consumer ends. On its last delivery it would be
    /// archived instead: it goes to the end of its queue, where the broker counts anew. Until that
    /// is confirmed it is tried for as long as this process holds the record.
    fn failed(&self, moved: &Move, error: Error) {
        let state = &mut *self.lock();
        let key = moved.tag.seq;
        let handed = !state.condemned.contains(&key);
        let source = &self.source;
        match state.held.remove(&key) {
            Some(held) if held.deliveries >= state.limits.deliveries => {
                let at = held.received.position();
                let text = "the last delivery of a record, and its copy is not confirmed";
                let again = match &moved.what {
                    What::Again { .. } if state.ended.is_some() => {
                        error!(%source, ?at, %error, "{text}: the broker archives it; `Kafka::reader` still reads it");
                        None
                    }
                    What::Again { .. } => {
                        error!(%source, ?at, %error, "{text}; trying again");
                        // It may take long, and the others are not to wait for it.
                        state.condemned.remove(&key);
                        state.late.push(moved.clone());
                        Some(held)
                    }
                    _ => {
                        error!(%source, ?at, %error, "{text}; it goes to the end of its queue");
                        let attempts = held.received.attempt() - u32::from(!handed);
                        let what = What::Again { attempts };
                        state.moves.push(Move {
                            what,
                            ..moved.clone()
                        });
                        self.moving.notify_one();
                        Some(held)
                    }
                };
                if let Some(held) = again {
                    state.held.insert(key, held);
                    self.window.deliverable.notify_one();
                    return;
                }
            }
            Some(held) => {
                // An error: the lock is gone already.
                self.answer(&held, false);
            }
            None => state.lost = true,
        }
        state.condemned.remove(&key);
        state.moves_open -= 1;
        self.settled(FlowKind::Requeued, &moved.received);
        state.ended.get_or_insert(Some(error));
        self.window.deliverable.notify_one();
    }
}
