//! Publishes in flight: each is polled only when the client woke it, and the task once a burst.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;

/// A set of futures, each known by a number.
///
/// [`drain`](Self::drain) returns *every* future that completed before the last one it returns: a
/// completed future has put its slot on the list before the client completes the next one. The
/// join of returns rests on this, and a `FuturesUnordered` does not promise it.
#[derive(Debug)]
pub(crate) struct InFlight<F> {
    slots: Vec<Slot<F>>,
    free: Vec<usize>,
    woken: Arc<Woken>,
}

#[derive(Debug)]
struct Slot<F> {
    number: u64,
    /// The box is kept and filled again, so that a publish allocates none.
    future: Pin<Box<Option<F>>>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Woken {
    slots: Mutex<Vec<usize>>,
    task: AtomicWaker,
}

struct SlotWaker {
    slot: usize,
    woken: Arc<Woken>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut slots = self.woken.lock();
        slots.push(self.slot);
        let first = slots.len() == 1;
        drop(slots);
        if first {
            self.woken.task.wake();
        }
    }
}

impl Woken {
    fn lock(&self) -> MutexGuard<'_, Vec<usize>> {
        // A list of slots is whole after any panic.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Future> InFlight<F> {
    /// An empty set.
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            woken: Arc::default(),
        }
    }

    /// Adds a future and polls it once; yields its output if it is there at once.
    pub(crate) fn push(&mut self, number: u64, future: F) -> Option<F::Output> {
        let at = self.free.pop().unwrap_or_else(|| {
            let slot = self.slots.len();
            let waker = Waker::from(Arc::new(SlotWaker {
                slot,
                woken: Arc::clone(&self.woken),
            }));
            self.slots.push(Slot {
                number,
                future: Box::pin(None),
                waker,
            });
            slot
        });
        let slot = &mut self.slots[at];
        slot.number = number;
        slot.future.set(Some(future));
        self.poll_slot(at).map(|(_, output)| output)
    }

    /// True if every future has completed.
    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Polls what was woken, until nothing is, and appends what completed.
    pub(crate) fn drain(&mut self, into: &mut Vec<(u64, F::Output)>) {
        loop {
            let woken = std::mem::take(&mut *self.woken.lock());
            if woken.is_empty() {
                return;
            }
            for at in woken {
                into.extend(self.poll_slot(at));
            }
        }
    }

    /// Waits until something was woken since the last drain.
    pub(crate) fn ready(&self) -> impl Future<Output = ()> + use<F> {
        let woken = Arc::clone(&self.woken);
        std::future::poll_fn(move |cx| {
            woken.task.register(cx.waker());
            if woken.lock().is_empty() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
    }

    /// A slot may be woken more often than it completes: an empty one yields nothing.
    fn poll_slot(&mut self, at: usize) -> Option<(u64, F::Output)> {
        let slot = self.slots.get_mut(at)?;
        let future = slot.future.as_mut().as_pin_mut()?;
        match future.poll(&mut Context::from_waker(&slot.waker)) {
            Poll::Pending => None,
            Poll::Ready(output) => {
                slot.future.set(None);
                self.free.push(at);
                Some((slot.number, output))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn yields_every_completion_before_the_last_one() {
        let mut set = InFlight::new();
        let mut senders = Vec::new();
        for number in 0..100 {
            let (sender, receiver) = oneshot::channel::<u64>();
            assert!(set.push(number, receiver).is_none());
            senders.push(sender);
        }
        let mut done = Vec::new();
        set.drain(&mut done);
        assert!(done.is_empty());
        for (i, sender) in senders.into_iter().enumerate() {
            sender.send(i as u64).expect("received");
        }
        set.ready().await;
        set.drain(&mut done);
        assert_eq!(done.len(), 100);
        assert!(
            done.iter()
                .all(|(number, output)| output.as_ref() == Ok(number))
        );
        // The slots are used again.
        assert!(set.is_empty() && set.push(7, oneshot::channel::<u64>().1).is_none());
        assert_eq!(set.slots.len(), 100);
    }
}
