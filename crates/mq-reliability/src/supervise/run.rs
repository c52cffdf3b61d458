//! The loop of a supervisor: starts what is due, judges what ended, stops in order.

use std::{collections::VecDeque, future::Future, pin::pin, sync::Arc, time::Duration};

use mq_core::BoxError;
use tokio::{
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Cause, Child, ChildError, Event, GaveUp, Stop, Supervisor, What,
    child::Restart,
    error::{Panicked, panic_text, shared},
    pace::{Backoff, Intensity, Streak, Window},
    supervisor::{Sink, Strategy},
};

/// A supervisor that runs.
pub(super) struct Tree {
    name: Arc<str>,
    strategy: Strategy,
    intensity: Intensity,
    backoff: Backoff,
    window: Window,
    children: Vec<Kept>,
    sink: Option<Sink>,
    /// Dropping the set aborts the children, so dropping this leaves no task behind.
    tasks: JoinSet<Result<(), BoxError>>,
    /// Ends that came while another child's end was waited for.
    ends: VecDeque<(Id, Exit)>,
}

/// A child and what it is doing.
struct Kept {
    child: Child,
    state: State,
    streak: Streak,
}

enum State {
    /// Starts at this time.
    Due(Instant),
    Running(Task),
    /// Ended normally; started again only with others.
    Done,
    /// Temporary, and over.
    Gone,
}

struct Task {
    id: Id,
    stop: CancellationToken,
    abort: AbortHandle,
    since: Instant,
}

/// How a child ended.
enum Exit {
    Normal,
    Failed(ChildError),
    Panicked(Arc<str>),
}

/// A child that cannot be ended, by index.
struct Stuck(usize);

impl Tree {
    pub(super) fn new(supervisor: Supervisor) -> Self {
        let now = Instant::now();
        let children = supervisor.children.into_iter().map(|child| Kept {
            child,
            state: State::Due(now),
            streak: Streak::default(),
        });
        Self {
            name: supervisor.name,
            strategy: supervisor.strategy,
            intensity: supervisor.intensity,
            backoff: supervisor.backoff,
            window: Window::new(supervisor.intensity),
            children: children.collect(),
            sink: supervisor.sink,
            tasks: JoinSet::new(),
            ends: VecDeque::new(),
        }
    }

    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), GaveUp> {
        let mut stop = pin!(stop);
        loop {
            self.start_due();
            let next = self.next_due();
            if next.is_none() && self.tasks.is_empty() && self.ends.is_empty() {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = &mut stop => {
                    self.stop_from(0).await;
                    return Ok(());
                }
                Some((id, exit)) = next_end(&mut self.ends, &mut self.tasks) => {
                    self.ended(id, exit).await?;
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        for index in 0..self.children.len() {
            let kept = &mut self.children[index];
            if !matches!(kept.state, State::Due(at) if at <= now) {
                continue;
            }
            let token = CancellationToken::new();
            let (start, stop) = (Arc::clone(&kept.child.start), Stop::new(token.clone()));
            // The function is called inside the task, so that a panic of it is the child's own.
            let abort = self.tasks.spawn(async move { start(stop).await });
            kept.state = State::Running(Task {
                id: abort.id(),
                stop: token,
                abort,
                since: now,
            });
            self.tell(index, What::Started);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let due = self.children.iter().filter_map(|kept| match kept.state {
            State::Due(at) => Some(at),
            _ => None,
        });
        due.min()
    }

    /// Judges the end of a child that nobody asked for.
    async fn ended(&mut self, id: Id, exit: Exit) -> Result<(), GaveUp> {
        let found = self.children.iter().position(|kept| kept.runs(id));
        let Some(index) = found else {
            return Ok(()); // one that was stuck has ended after all
        };
        let now = Instant::now();
        let kept = &mut self.children[index];
        let ran = match &kept.state {
            State::Running(task) => now.duration_since(task.since),
            _ => Duration::ZERO,
        };
        kept.state = State::Done;
        let again = match kept.child.restart {
            Restart::Permanent => true,
            Restart::Transient => !matches!(exit, Exit::Normal),
            Restart::Temporary => {
                kept.state = State::Gone;
                false
            }
        };
        let error = exit.error();
        self.tell(index, exit.into_what(What::Ended));
        if !again {
            return Ok(());
        }
        let kept = &mut self.children[index];
        if error
            .as_ref()
            .is_some_and(|error| (kept.child.fatal)(&**error))
        {
            return Err(self.give_up(index, Cause::Fatal, error).await);
        }
        if !self.window.admits(now) {
            return Err(self.give_up(index, Cause::TooManyRestarts, error).await);
        }
        let wait = kept.streak.failed(ran, self.intensity, self.backoff);
        self.tell(index, What::Restarting(wait));
        let at = now + wait;
        let first = match self.strategy {
            Strategy::OneForOne => {
                self.children[index].state = State::Due(at);
                return Ok(());
            }
            Strategy::OneForAll => 0,
            Strategy::RestForOne => index,
        };
        if let Some(Stuck(index)) = self.stop_from(first).await {
            return Err(self.give_up(index, Cause::Stuck, None).await);
        }
        for kept in &mut self.children[first..] {
            match kept.child.restart {
                Restart::Temporary => kept.state = State::Gone,
                _ => kept.state = State::Due(at),
            }
        }
        Ok(())
    }

    /// Stops all that run, and makes the error.
    async fn give_up(&mut self, index: usize, cause: Cause, error: Option<ChildError>) -> GaveUp {
        self.tell(index, What::GaveUp);
        self.stop_from(0).await;
        GaveUp {
            supervisor: Arc::clone(&self.name),
            child: Arc::clone(&self.children[index].child.name),
            cause,
            error,
        }
    }

    /// Stops the children from this one on, in reverse order. Names one that cannot be ended.
    async fn stop_from(&mut self, first: usize) -> Option<Stuck> {
        let mut stuck = None;
        for index in (first..self.children.len()).rev() {
            let kept = &mut self.children[index];
            let within = kept.child.stop_within;
            let State::Running(task) = std::mem::replace(&mut kept.state, State::Done) else {
                continue;
            };
            if !self.stop_one(index, task, within).await {
                stuck = Some(Stuck(index));
            }
        }
        stuck
    }

    /// Stops one child, by force at its deadline. False if it runs even then.
    async fn stop_one(&mut self, index: usize, task: Task, within: Option<Duration>) -> bool {
        while let Some(joined) = self.tasks.try_join_next_with_id() {
            self.ends.push_back(exit(joined));
        }
        if let Some(exit) = self.take_end(task.id) {
            // It had ended before it could be asked.
            self.tell(index, exit.into_what(What::Ended));
            return true;
        }
        task.stop.cancel();
        let deadline = within.map(|within| Instant::now() + within);
        if let Some(exit) = self.end_of(task.id, deadline).await {
            self.tell(index, exit.into_what(What::Stopped));
            return true;
        }
        task.abort.abort();
        let gone = self.end_of(task.id, Some(Instant::now() + ABORT)).await;
        self.tell(index, What::Aborted);
        if gone.is_none() {
            let (supervisor, child) = (&*self.name, &*self.children[index].child.name);
            tracing::error!(
                supervisor,
                child,
                "the child blocks its thread: it is aborted and runs on until it waits for something"
            );
        }
        gone.is_some()
    }

    fn take_end(&mut self, id: Id) -> Option<Exit> {
        let place = self.ends.iter().position(|(ended, _)| *ended == id)?;
        self.ends.remove(place).map(|(_, exit)| exit)
    }

    /// Waits for the end of one child; what others end with meanwhile is kept for later.
    async fn end_of(&mut self, id: Id, deadline: Option<Instant>) -> Option<Exit> {
        loop {
            let next = self.tasks.join_next_with_id();
            let ended = match deadline {
                Some(deadline) => timeout_at(deadline, next).await.ok()?,
                None => next.await,
            };
            let (ended, exit) = exit(ended?);
            if ended == id {
                return Some(exit);
            }
            self.ends.push_back((ended, exit));
        }
    }

    fn tell(&self, index: usize, what: What) {
        let event = Event {
            supervisor: Arc::clone(&self.name),
            child: Arc::clone(&self.children[index].child.name),
            what,
        };
        match &event.what {
            What::GaveUp => tracing::error!("{event}"),
            What::Started | What::Ended | What::Stopped => tracing::info!("{event}"),
            _ => tracing::warn!("{event}"),
        }
        if let Some(sink) = &self.sink {
            sink(&event);
        }
    }
}

impl Kept {
    fn runs(&self, id: Id) -> bool {
        matches!(&self.state, State::Running(task) if task.id == id)
    }
}

impl Exit {
    fn error(&self) -> Option<ChildError> {
        match self {
            Self::Normal => None,
            Self::Failed(error) => Some(Arc::clone(error)),
            Self::Panicked(text) => Some(Arc::new(Panicked(Arc::clone(text)))),
        }
    }

    fn into_what(self, normal: What) -> What {
        match self {
            Self::Normal => normal,
            Self::Failed(error) => What::Failed(error),
            Self::Panicked(text) => What::Panicked(text),
        }
    }
}

/// The next end of a child. `None` only if none runs.
async fn next_end(
    ends: &mut VecDeque<(Id, Exit)>,
    tasks: &mut JoinSet<Result<(), BoxError>>,
) -> Option<(Id, Exit)> {
    match ends.pop_front() {
        Some(end) => Some(end),
        None => tasks.join_next_with_id().await.map(exit),
    }
}

type Joined = Result<(Id, Result<(), BoxError>), JoinError>;

fn exit(joined: Joined) -> (Id, Exit) {
    match joined {
        Ok((id, Ok(()))) => (id, Exit::Normal),
        Ok((id, Err(error))) => (id, Exit::Failed(shared(error))),
        Err(error) => {
            let id = error.id();
            match error.try_into_panic() {
                Ok(panic) => (id, Exit::Panicked(panic_text(&*panic))),
                // Aborted, by this supervisor or with its runtime.
                Err(aborted) => (id, Exit::Failed(shared(aborted.into()))),
            }
        }
    }
}

/// How long an aborted child may take until it is gone: as long as it computes without waiting.
const ABORT: Duration = Duration::from_secs(1);
