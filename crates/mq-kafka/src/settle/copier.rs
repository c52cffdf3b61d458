//! Moves records: copy to their new home, confirmed, then settled.

use std::{sync::Arc, time::SystemTime};

use mq_core::{Destination, Error, Message, Received, Result, dead_letter_copy, headers, time};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    ledger::Ledger,
    moves::{Move, What},
};
use crate::{publisher::KafkaPublisher, topology::Tiers};

/// Where the records of a consumer go that leave their topic.
#[derive(Debug, Clone, Default)]
pub(crate) struct Homes {
    /// For rejected ones.
    pub(crate) dead: Option<Destination>,
    /// For deferred ones.
    pub(crate) tiers: Tiers,
}

/// Where the record at hand lies.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) topic: Arc<str>,
    /// It is a retry copy already: what was written about the original stays.
    pub(crate) is_copy: bool,
}

/// Whose records are moved: what holds the deliveries of a consumer.
pub(crate) trait Moves: Send + Sync + 'static {
    /// Where they go.
    fn homes(&self) -> &Homes;
    /// Told when there are some.
    fn moving(&self) -> &Notify;
    /// Those that nobody took yet.
    fn take_moves(&self) -> Vec<Move>;
    /// The copy of a record is confirmed.
    fn copied(&self, moved: &Move);
    /// The copy of a record was not confirmed, which ends the consumer.
    fn failed(&self, moved: &Move, error: Error);
}

impl Moves for Ledger {
    fn homes(&self) -> &Homes {
        &self.homes
    }

    fn moving(&self) -> &Notify {
        &self.moving
    }

    fn take_moves(&self) -> Vec<Move> {
        Ledger::take_moves(self)
    }

    fn copied(&self, moved: &Move) {
        Ledger::copied(self, moved);
    }

    fn failed(&self, moved: &Move, error: Error) {
        self.not_copied(moved);
        self.end(Some(error));
    }
}

/// Copies records until it is stopped.
pub(crate) async fn copy_moved(
    ledger: Arc<impl Moves>,
    publisher: KafkaPublisher,
    origin: Origin,
    stop: CancellationToken,
) {
    loop {
        let moves = ledger.take_moves();
        if moves.is_empty() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = ledger.moving().notified() => continue,
            }
        }
        let mut copies = Vec::with_capacity(moves.len());
        for moved in moves {
            let enqueued = match ledger.homes().copy(&moved, &origin) {
                Ok((home, copy)) => publisher.enqueue_to(&home, &copy).await,
                Err(error) => Err(error),
            };
            copies.push((enqueued, moved));
        }
        for (enqueued, moved) in copies {
            // Each one ends by the publish deadline.
            let confirmed = match enqueued {
                Ok(outcome) => outcome.await,
                Err(error) => Err(error),
            };
            match confirmed {
                Ok(_) => ledger.copied(&moved),
                Err(error) => ledger.failed(&moved, error.with("source", moved.received.source())),
            }
        }
    }
}

impl Homes {
    pub(crate) fn is_empty(&self) -> bool {
        self.dead.is_none() && self.tiers.is_empty()
    }

    /// The copy of a record, and where it goes.
    pub(crate) fn copy(&self, moved: &Move, origin: &Origin) -> Result<(Destination, Message)> {
        let received = &moved.received;
        let home = match &moved.what {
            What::Reject(why) => {
                let dead = self.dead.clone();
                dead.map(|home| (home, dead_letter_copy(received, why)))
            }
            What::Again { attempts } => {
                let mut copied = received.headers().clone();
                copied.insert(headers::ATTEMPT, u64::from(*attempts));
                let copy = received.message().clone().edit().headers(copied).build();
                Some((Destination::queue(Arc::clone(&origin.topic)), copy))
            }
            What::Defer { due, attempts } | What::GoOn { due, attempts } => {
                let copy = retry_copy(received, origin, *due, *attempts);
                self.retry_home(received, *due).map(|home| (home, copy))
            }
        };
        // No verdict is taken that has no home.
        home.ok_or_else(|| mq_core::stale(received.source()))
    }

    /// The retry topic for a message that is due then, with the routing key that it keeps.
    pub(crate) fn retry_home(&self, received: &Received, due: u64) -> Option<Destination> {
        let rest = time::from_millis(due).map(|due| due.duration_since(SystemTime::now()));
        let rest = rest.map_or(std::time::Duration::MAX, Result::unwrap_or_default);
        let topic = Arc::clone(&self.tiers.fitting(rest)?.topic);
        Some(match received.routing_key() {
            // A queue has none, and the header is written for a topic alone.
            Some(key) => Destination::topic(topic).routing_key(key),
            None => Destination::queue(topic),
        })
    }
}

/// The copy of a message that waits in a retry topic until it is due, with so many attempts behind
/// it. Whatever was deferred before has the same number of headers again.
pub(crate) fn retry_copy(received: &Received, origin: &Origin, due: u64, attempts: u32) -> Message {
    let mut copied = received.headers().clone();
    copied.insert(headers::ATTEMPT, u64::from(attempts));
    copied.insert(headers::DUE, due);
    if !origin.is_copy {
        // What another queue's copy may have left is not about this message.
        let now = time::to_millis(SystemTime::now());
        copied.insert(headers::RETRY_FIRST, now);
        copied.remove(headers::RETRY_ORIGIN);
        if let Some(position) = received.position() {
            copied.insert(
                headers::RETRY_ORIGIN,
                format!("{}:{position}", origin.topic),
            );
        }
    }
    received.message().clone().edit().headers(copied).build()
}

#[cfg(test)]
mod tests {
    use mq_core::Position;

    use super::*;

    #[test]
    fn headers_are_written_once_and_do_not_grow() {
        let message = Message::new("x").header("kept", "yes").key("k").build();
        let position = Position {
            partition: 3,
            offset: 17,
        };
        let received = Received::new(message, "orders".into(), None).with_position(position);
        let origin = Origin {
            topic: "orders".into(),
            is_copy: false,
        };
        let mut copy = retry_copy(&received, &origin, 1_700_000_000_000, 1);
        let first = copy.headers().text(headers::RETRY_FIRST).map(str::to_owned);
        assert!(first.is_some());
        for hop in 2..=6 {
            assert_eq!(copy.headers().len(), 5, "{:?}", copy.headers());
            let text = |name| copy.headers().text(name);
            assert_eq!(text("kept"), Some("yes"));
            assert_eq!(text(headers::RETRY_ORIGIN), Some("orders:3:17"));
            assert_eq!(text(headers::RETRY_FIRST), first.as_deref());
            assert_eq!(
                text(headers::ATTEMPT),
                Some((hop - 1).to_string()).as_deref()
            );
            let received = Received::new(copy.clone(), "orders".into(), None);
            let received = received.with_position(Position {
                partition: 0,
                offset: hop,
            });
            let origin = Origin {
                topic: "orders.retry.1".into(),
                is_copy: true,
            };
            copy = retry_copy(&received, &origin, 1_700_000_000_000, hop as u32);
        }
    }
}
