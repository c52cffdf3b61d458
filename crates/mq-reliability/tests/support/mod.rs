//! Children that do as they are told, and a record of what their supervisor tells of them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    reason = "each test program uses a part of it, and one that cannot go on has failed"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use mq_core::{BoxError, Error, ErrorKind};
use mq_reliability::supervise::{Child, Event, Stop, What};
use tokio::{sync::oneshot, task::yield_now};

/// How a child ends when it is told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Normal,
    Error,
    Fatal,
    Panic,
}

/// Where the children stand.
#[derive(Debug, Clone, Default)]
pub struct Stage(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    doors: BTreeMap<String, oneshot::Sender<End>>,
    alive: BTreeSet<String>,
    events: Vec<String>,
    waits: Vec<Duration>,
}

impl Stage {
    /// A child that runs until it is told to end, or to stop.
    pub fn child(&self, name: &str) -> Child {
        self.play(name, false)
    }

    /// One that does not listen when it shall stop.
    pub fn deaf(&self, name: &str) -> Child {
        self.play(name, true)
    }

    fn play(&self, name: &str, deaf: bool) -> Child {
        let (stage, name) = (self.clone(), name.to_owned());
        Child::new(name.clone(), move |mut stop: Stop| {
            let (door, told) = oneshot::channel();
            let alive = stage.enter(&name, door);
            async move {
                let _alive = alive;
                let end = tokio::select! {
                    biased;
                    end = told => end.expect("the door is open"),
                    () = &mut stop, if !deaf => return Ok(()),
                };
                match end {
                    End::Normal => Ok(()),
                    End::Error => Err(BoxError::from("told to fail")),
                    End::Fatal => {
                        Err(Error::new(ErrorKind::Auth, "connect", "wrong password").into())
                    }
                    End::Panic => panic!("told to panic"),
                }
            }
        })
    }

    fn enter(&self, name: &str, door: oneshot::Sender<End>) -> Alive {
        let mut inner = self.0.lock().expect("no panic");
        inner.doors.insert(name.to_owned(), door);
        assert!(inner.alive.insert(name.to_owned()), "{name} runs twice");
        Alive(self.clone(), name.to_owned())
    }

    /// Tells a child to end.
    pub fn tell(&self, name: &str, end: End) {
        let door = self.0.lock().expect("no panic").doors.remove(name);
        door.expect("it runs").send(end).expect("it listens");
    }

    /// For [`on_event`](mq_reliability::supervise::Supervisor::on_event).
    pub fn sink(&self) -> impl Fn(&Event) + Send + Sync + 'static {
        let stage = self.clone();
        move |event| {
            let what = match &event.what {
                What::Started => "started".into(),
                What::Ended => "ended".into(),
                What::Failed(error) => format!("failed: {error}"),
                What::Panicked(message) => format!("panicked: {message}"),
                What::Restarting(_) => "restarting".into(),
                What::GaveUp => "gave up".into(),
                What::Stopped => "stopped".into(),
                What::Aborted => "aborted".into(),
                other => format!("{other:?}"),
            };
            let mut inner = stage.0.lock().expect("no panic");
            if let What::Restarting(wait) = event.what {
                inner.waits.push(wait);
            }
            inner.events.push(format!("{} {what}", event.child));
        }
    }

    /// The events since the last call.
    pub fn events(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no panic").events)
    }

    /// The waits before restarts since the last call.
    pub fn waits(&self) -> Vec<Duration> {
        std::mem::take(&mut self.0.lock().expect("no panic").waits)
    }

    /// The children that run now.
    pub fn alive(&self) -> Vec<String> {
        self.0
            .lock()
            .expect("no panic")
            .alive
            .iter()
            .cloned()
            .collect()
    }
}

/// A child that runs, until this is dropped.
struct Alive(Stage, String);

impl Drop for Alive {
    fn drop(&mut self) {
        if let Ok(mut inner) = self.0.0.lock() {
            inner.alive.remove(&self.1);
        }
    }
}

/// Lets every task go as far as it gets without time passing.
pub async fn settle() {
    for _ in 0..50 {
        yield_now().await;
    }
}
