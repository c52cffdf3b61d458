//! Which partitions a consumer has.

use std::sync::Arc;

use tokio::sync::watch;

/// The partitions that a [`KafkaConsumer`](crate::KafkaConsumer) has, now and later. A clone looks
/// at the same consumer.
///
/// For a queue or a durable subscription they are what the group gave this member: none while it
/// stands by since there are more members than partitions, and none once it was closed, dropped or
/// lost its place. For an ephemeral subscription they are all partitions of the topic.
///
/// A partition is among them from when the consumer knows where to read on until its settlements
/// are stale.
#[derive(Debug, Clone)]
pub struct Assignment {
    watch: watch::Receiver<State>,
    /// What this handle told last.
    told: Arc<[u32]>,
}

impl Assignment {
    /// The partitions, in ascending order.
    pub fn partitions(&self) -> Vec<u32> {
        self.watch.borrow().partitions.to_vec()
    }

    /// Waits until the partitions are others than this handle told last, or than they were when it
    /// was made; returns them. What changes and changes back in between is not told.
    ///
    /// `None` once the consumer is gone and its last change was told.
    ///
    /// # Cancel safety
    /// Dropped, the next call tells what this one would have told.
    pub async fn changed(&mut self) -> Option<Vec<u32>> {
        loop {
            let gone = {
                let now = self.watch.borrow_and_update();
                if now.partitions != self.told {
                    self.told = Arc::clone(&now.partitions);
                    return Some(self.told.to_vec());
                }
                now.gone
            };
            if gone {
                return None;
            }
            self.watch.changed().await.ok()?;
        }
    }
}

/// Tells of the partitions.
#[derive(Debug)]
pub(super) struct Assigned(watch::Sender<State>);

#[derive(Debug, Default)]
struct State {
    partitions: Arc<[u32]>,
    gone: bool,
}

impl Assigned {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(State::default()))
    }

    /// These are ours from now on.
    pub(super) fn tell(&self, partitions: Vec<i32>) {
        let numbers = partitions.into_iter().filter_map(|p| u32::try_from(p).ok());
        let mut now: Vec<u32> = numbers.collect();
        now.sort_unstable();
        self.0.send_modify(|state| state.partitions = now.into());
    }

    /// None is ours any more, for ever.
    pub(super) fn end(&self) {
        self.0.send_modify(|state| {
            *state = State {
                partitions: Arc::default(),
                gone: true,
            };
        });
    }

    pub(super) fn watch(&self) -> Assignment {
        let watch = self.0.subscribe();
        let told = Arc::clone(&watch.borrow().partitions);
        Assignment { watch, told }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn tells_each_change_once_and_then_that_nothing_comes() {
        let assigned = Assigned::new();
        let mut handle = assigned.watch();
        assert_eq!(handle.changed().now_or_never(), None);
        assigned.tell(vec![2, 0, 1]);
        assigned.tell(vec![2, 0]);
        assert_eq!(handle.partitions(), [0, 2]);
        let mut clone = handle.clone();
        for handle in [&mut handle, &mut clone] {
            assert_eq!(handle.changed().now_or_never(), Some(Some(vec![0, 2])));
            assigned.tell(vec![0, 2]);
            assert_eq!(handle.changed().now_or_never(), None);
        }
        assigned.end();
        assert_eq!(handle.changed().now_or_never(), Some(Some(vec![])));
        assert_eq!(handle.changed().now_or_never(), Some(None));
    }
}
