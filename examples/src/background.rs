//! A worker that runs while the program goes on.

use mq_core::{Run, rejection::chain};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{Error, Result};

/// A worker in a task of its own. Dropped, it stops as [`stop`](Self::stop) has it, and nobody
/// waits for it.
#[derive(Debug)]
#[must_use = "dropped, it stops"]
pub struct Background {
    stop: oneshot::Sender<()>,
    task: JoinHandle<mq_core::Result<()>>,
}

impl Background {
    /// Starts it.
    pub fn start(run: Run) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let run = run.with_graceful_shutdown(async {
            let _ = stopped.await;
        });
        let task = tokio::spawn(async {
            let result = run.await;
            if let Err(error) = &result {
                // Said at once: the program may be waiting for what this worker no longer does.
                eprintln!("a worker ended: {}", chain(error));
            }
            result
        });
        Self { stop, task }
    }

    /// Waits until it ends on its own, which is always too early, and says why.
    pub async fn ended(&mut self) -> Error {
        match (&mut self.task).await {
            Ok(Ok(())) => "the worker ended too early".into(),
            Ok(Err(error)) => error.into(),
            Err(error) => error.into(),
        }
    }

    /// Stops it once it has settled what it has in hand.
    ///
    /// # Errors
    /// What ended it before, or kept it from settling.
    pub async fn stop(self) -> Result<()> {
        let _ = self.stop.send(());
        Ok(self.task.await??)
    }
}
