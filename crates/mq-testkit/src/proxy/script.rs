//! A script: faults and quiet phases, one after the other, drawn from a seed or written by hand.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::oneshot, task::AbortHandle, time::sleep};

use super::{Direction, Fault, ProxyError, random::Random, registry::Shared};

/// Faults and quiet phases, one after the other.
///
/// Printed as text (`Display`) and read from it (`FromStr`), in whole milliseconds, so that a run can
/// be replayed:
///
/// ```
/// use mq_testkit::proxy::Script;
///
/// let text = "seed 42\n1500ms both ways: latency 200ms ±100ms\n2000ms quiet\n0ms to client: reset";
/// let script: Script = text.parse()?;
/// assert_eq!(script.to_string(), text);
/// # Ok::<_, mq_testkit::proxy::ProxyError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a script is for Proxy::run"]
pub struct Script {
    seed: u64,
    steps: Vec<Step>,
}

/// A part of a script. When it ends, its fault is cleared.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// How long it lasts.
    pub lasts: Duration,
    /// The fault; none in a quiet phase.
    pub fault: Option<(Direction, Fault)>,
}

impl Script {
    /// A script without steps. The seed is that of the jitter.
    pub fn new(seed: u64) -> Self {
        Self::of(seed, Vec::new())
    }

    /// Draws a script: one of these faults in one of its directions, a quiet phase, and so on until
    /// `total` is used up. The last phase is quiet. How long each lasts is drawn evenly from the two
    /// ranges, in whole milliseconds. Equal arguments make an equal script.
    ///
    /// Without faults, or with a range that begins above `total`, it is one quiet phase.
    pub fn random(
        seed: u64,
        faults: &[(Direction, Fault)],
        lasts: RangeInclusive<Duration>,
        quiet: RangeInclusive<Duration>,
        total: Duration,
    ) -> Self {
        let mut random = Random::new(seed);
        let unit = Duration::from_millis(1);
        let mut draw = |range: &RangeInclusive<Duration>| {
            random.between(*range.start(), *range.end(), unit).max(unit)
        };
        let mut script = Self::new(seed);
        let mut left = total;
        let mut chosen = Random::of(seed, 1);
        while !faults.is_empty() {
            let (fault_lasts, pause) = (draw(&lasts), draw(&quiet));
            if fault_lasts + pause > left {
                break;
            }
            left -= fault_lasts + pause;
            let at = chosen.below(u64::try_from(faults.len()).unwrap_or(1));
            let fault = usize::try_from(at).ok().and_then(|at| faults.get(at));
            let Some((direction, fault)) = fault else {
                break;
            };
            script = script.step(*direction, *fault, fault_lasts).quiet(pause);
        }
        if left >= unit {
            script = script.quiet(left);
        }
        script
    }

    /// Adds a fault.
    pub fn step(mut self, direction: Direction, fault: Fault, lasts: Duration) -> Self {
        let fault = Some((direction, fault));
        self.steps.push(Step { lasts, fault });
        self
    }

    /// Adds a phase without a fault.
    pub fn quiet(mut self, lasts: Duration) -> Self {
        self.steps.push(Step { lasts, fault: None });
        self
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The steps, in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub(super) fn of(seed: u64, steps: Vec<Step>) -> Self {
        Self { seed, steps }
    }
}

/// A script that runs. Dropped, it stops, and all faults of the proxy are cleared.
#[derive(Debug)]
#[must_use = "a script that is dropped stops"]
pub struct Run {
    task: Option<AbortHandle>,
    done: oneshot::Receiver<()>,
    shared: Arc<Shared>,
}

impl Run {
    pub(super) fn start(shared: &Arc<Shared>, handle: &Handle, script: Script) -> Self {
        let (says, done) = oneshot::channel();
        let inner = Arc::clone(shared);
        let task = shared.spawn(handle, async move {
            inner.reseed(script.seed);
            for step in script.steps {
                let Some((direction, fault)) = step.fault else {
                    sleep(step.lasts).await;
                    continue;
                };
                inner.set(direction, fault);
                sleep(step.lasts).await;
                inner.clear();
            }
            // Who does not wait for it, need not know.
            let _ = says.send(());
        });
        let shared = Arc::clone(shared);
        Self { task, done, shared }
    }

    /// Waits until the last step is over.
    ///
    /// # Errors
    /// [`ProxyError::Closed`] if the proxy was closed before.
    ///
    /// # Cancel safety
    /// Dropped before it is done, it stops the script as dropping the run does.
    pub async fn finished(mut self) -> Result<(), ProxyError> {
        (&mut self.done).await.map_err(|_| ProxyError::Closed)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(task) = &self.task
            && !task.is_finished()
        {
            task.abort();
            self.shared.clear();
        }
    }
}
