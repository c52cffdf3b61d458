//! Workers that hand on what they get, and the wait for it.

use std::collections::BTreeSet;

use mq_core::{BoxError, Json, Received, State, Worker, dynamic::AnyBroker};
use mq_examples::{Background, Result, within};
use tokio::sync::mpsc;

use crate::tour::Tour;

/// A message that a worker got.
#[derive(Debug)]
pub(crate) struct Taken {
    /// The name of its subscriber.
    pub(crate) by: &'static str,
    /// Which of the workers, from 0.
    pub(crate) worker: usize,
    pub(crate) text: String,
    received: Received,
}

/// Workers in the background. Their messages are texts.
pub(crate) struct Workers<'a> {
    tour: &'a Tour,
    running: Vec<Background>,
    sender: mpsc::Sender<Taken>,
    receiver: mpsc::Receiver<Taken>,
}

impl<'a> Workers<'a> {
    /// None yet.
    pub(crate) fn new(tour: &'a Tour) -> Self {
        let (sender, receiver) = mpsc::channel(16);
        Self {
            tour,
            running: Vec::new(),
            sender,
            receiver,
        }
    }

    /// Starts one for the subscriber of this name.
    pub(crate) fn start(&mut self, by: &'static str, worker: Worker<AnyBroker>) {
        let me = (by, self.running.len(), self.sender.clone());
        let run = worker.state(me).run(hand_on);
        self.running.push(Background::start(run));
    }

    /// Waits for so many messages of this run, and stops. One that a subscriber gets again, as *at
    /// least once* allows, is taken once.
    pub(crate) async fn take(mut self, messages: usize) -> Result<Vec<Taken>> {
        drop(self.sender);
        let mut seen = BTreeSet::new();
        let mut all = Vec::new();
        while all.len() < messages {
            let due = format!("message {} of {messages}", all.len() + 1);
            let next = within(&due, self.receiver.recv()).await?;
            let taken = next.ok_or("all workers ended")?;
            let id = taken.received.id().to_string();
            if self.tour.ours(&taken.received) && seen.insert((taken.by, id)) {
                all.push(taken);
            }
        }
        // What comes late is not waited for.
        drop(self.receiver);
        for worker in self.running {
            worker.stop().await?;
        }
        Ok(all)
    }
}

/// The texts that a subscriber took, in this order.
pub(crate) fn texts<'a>(all: &'a [Taken], by: &str) -> Vec<&'a str> {
    let by = all.iter().filter(|taken| taken.by == by);
    by.map(|taken| taken.text.as_str()).collect()
}

async fn hand_on(
    State((by, worker, to)): State<(&'static str, usize, mpsc::Sender<Taken>)>,
    Json(text): Json<String>,
    received: Received,
) -> Result<(), BoxError> {
    let taken = Taken {
        by,
        worker,
        text,
        received,
    };
    // Nobody waits for it any more, so nobody misses it.
    let _ = to.send(taken).await;
    Ok(())
}
