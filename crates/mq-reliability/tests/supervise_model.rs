//! The supervisor against a model of what it promises, over random ends of children, times and
//! stops, on Tokio's paused clock.

#![allow(clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{collections::BTreeSet, time::Duration};

use mq_reliability::supervise::{GaveUp, Supervisor};
use proptest::{prelude::*, sample::select};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use support::{End, Stage, settle};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    task::JoinHandle,
    time::sleep,
};

prop_state_machine! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn does_what_the_model_says(sequential 1..50 => Real);
}

/// In milliseconds.
type Ms = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    OneForOne,
    OneForAll,
    RestForOne,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Permanent,
    Transient,
    Temporary,
}

/// A time is known from its earliest to its latest, since waits are random.
type Between = (Ms, Ms);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running(Between),
    Due(Between),
    Done,
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Completed,
    Stopped,
    GaveUp(usize),
}

#[derive(Debug, Clone)]
enum Step {
    /// These children end, in this order, before the supervisor sees any of it.
    End(Vec<(usize, End)>),
    Wait(Ms),
    Stop,
}

#[derive(Debug, Clone)]
struct Model {
    strategy: Plan,
    intensity: usize,
    period: Ms,
    kinds: Vec<Kind>,
    states: Vec<State>,
    streaks: Vec<u32>,
    restarts: Vec<Ms>,
    now: Ms,
    over: Option<Over>,
    /// What the last step made happen.
    events: Vec<String>,
    /// The limits of the waits that the last step made.
    waits: Vec<Ms>,
}

const INITIAL: Ms = 100;
const MAX: Ms = 10_000;
/// Timers fire at the next millisecond.
const LATE: Ms = 2;

fn name(index: usize) -> String {
    format!("child {index}")
}

impl Model {
    fn say(&mut self, index: usize, what: &str) {
        self.events.push(format!("{} {what}", name(index)));
    }

    /// True if it is certain who has started by then and who not.
    fn is_certain_at(&self, time: Ms) -> bool {
        self.states.iter().all(|state| match state {
            State::Due((from, to)) => time < *from || time >= to + LATE,
            _ => true,
        })
    }

    /// True if it is certain whether a child that ends now was healthy.
    fn is_certain_to_end(&self, index: usize) -> bool {
        match self.states[index] {
            State::Running((from, to)) => {
                self.now - to >= self.period || self.now - from < self.period
            }
            _ => false,
        }
    }

    fn wait(&mut self, time: Ms) {
        self.now += time;
        for index in 0..self.states.len() {
            if let State::Due((from, to)) = self.states[index]
                && self.now >= to + LATE
            {
                self.states[index] = State::Running((from, to + LATE));
                self.say(index, "started");
            }
        }
    }

    fn end(&mut self, mut ends: Vec<(usize, End)>) {
        while self.over.is_none() && !ends.is_empty() {
            let (index, end) = ends.remove(0);
            self.end_one(index, end, &mut ends);
        }
        let over = |state: &State| matches!(state, State::Done | State::Gone);
        if self.over.is_none() && self.states.iter().all(over) {
            self.over = Some(Over::Completed);
        }
    }

    fn say_end(&mut self, index: usize, end: End) {
        self.say(
            index,
            match end {
                End::Normal => "ended",
                End::Error => "failed: told to fail",
                End::Fatal => "failed: connect: wrong password",
                End::Panic => "panicked: told to panic",
            },
        );
    }

    fn end_one(&mut self, index: usize, end: End, others: &mut Vec<(usize, End)>) {
        let State::Running((_, since)) = self.states[index] else {
            panic!("{} does not run", name(index));
        };
        self.say_end(index, end);
        self.states[index] = match self.kinds[index] {
            Kind::Temporary => State::Gone,
            _ => State::Done,
        };
        match (self.kinds[index], end) {
            (Kind::Temporary, _) | (Kind::Transient, End::Normal) => return,
            _ => {}
        }
        self.restarts.retain(|at| self.now - at <= self.period);
        if end != End::Fatal {
            self.restarts.push(self.now);
        }
        if end == End::Fatal || self.restarts.len() > self.intensity {
            self.say(index, "gave up");
            self.stop_from(0, others);
            self.over = Some(Over::GaveUp(index));
            return;
        }
        let healthy = self.now - since >= self.period;
        self.streaks[index] = if healthy { 1 } else { self.streaks[index] + 1 };
        let limit = (INITIAL << (self.streaks[index] - 1).min(20)).min(MAX);
        self.waits.push(limit);
        self.say(index, "restarting");
        let due = State::Due((self.now + limit / 2, self.now + limit));
        let first = match self.strategy {
            Plan::OneForOne => {
                self.states[index] = due;
                return;
            }
            Plan::OneForAll => 0,
            Plan::RestForOne => index,
        };
        self.stop_from(first, others);
        for index in first..self.states.len() {
            self.states[index] = match self.kinds[index] {
                Kind::Temporary => State::Gone,
                _ => due,
            };
        }
    }

    fn stop_from(&mut self, first: usize, ended: &mut Vec<(usize, End)>) {
        for index in (first..self.states.len()).rev() {
            if matches!(self.states[index], State::Running(_)) {
                match ended.iter().position(|(other, _)| *other == index) {
                    Some(place) => {
                        let (_, end) = ended.remove(place);
                        self.say_end(index, end);
                    }
                    None => self.say(index, "stopped"),
                }
            }
            self.states[index] = State::Done;
        }
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        let strategy = select(vec![Plan::OneForOne, Plan::OneForAll, Plan::RestForOne]);
        let kind = select(vec![
            Kind::Permanent,
            Kind::Permanent,
            Kind::Transient,
            Kind::Temporary,
        ]);
        let kinds = prop::collection::vec(kind, 1..6);
        let period = select(vec![1_000, 5_000, 60_000]);
        (strategy, 0_usize..12, period, kinds)
            .prop_map(|(strategy, intensity, period, kinds)| {
                let children = kinds.len();
                let mut model = Self {
                    strategy,
                    intensity,
                    period,
                    states: vec![State::Running((0, 0)); children],
                    streaks: vec![0; children],
                    kinds,
                    restarts: Vec::new(),
                    now: 0,
                    over: None,
                    events: Vec::new(),
                    waits: Vec::new(),
                };
                (0..children).for_each(|index| model.say(index, "started"));
                model
            })
            .boxed()
    }

    fn transitions(model: &Self) -> BoxedStrategy<Step> {
        let mut steps = Vec::new();
        let waits = [1, 20, 49, 300, 1_000, 2_500, 10_002, 61_000];
        let soonest = model.states.iter().filter_map(|state| match state {
            State::Due((from, _)) => from.checked_sub(model.now + 1),
            _ => None,
        });
        let all_due = model.states.iter().filter_map(|state| match state {
            State::Due((_, to)) => Some(to + LATE - model.now),
            _ => None,
        });
        let waits = waits.into_iter().chain(soonest.min()).chain(all_due.max());
        for wait in waits.filter(|wait| model.is_certain_at(model.now + wait)) {
            steps.push((1, Just(Step::Wait(wait)).boxed()));
        }
        if model.over.is_none() {
            steps.push((1, Just(Step::Stop).boxed()));
            let can_end: Vec<usize> = (0..model.states.len())
                .filter(|index| model.is_certain_to_end(*index))
                .collect();
            if !can_end.is_empty() {
                let most = can_end.len().min(3);
                let who = prop::sample::subsequence(can_end, 1..=most).prop_shuffle();
                let end = prop_oneof![
                    4 => Just(End::Normal), 6 => Just(End::Error), 4 => Just(End::Panic),
                    1 => Just(End::Fatal),
                ];
                let ends = who.prop_flat_map(move |who| {
                    let ends = prop::collection::vec(end.clone(), who.len());
                    ends.prop_map(move |mut ends: Vec<End>| {
                        // A later one may be asked to stop before it is seen to end: how it ended
                        // shows then only if it failed.
                        let later = ends.iter_mut().skip(1);
                        later
                            .filter(|end| **end == End::Normal)
                            .for_each(|end| *end = End::Error);
                        who.iter().copied().zip(ends).collect()
                    })
                });
                steps.push((24, ends.prop_map(Step::End).boxed()));
            }
        }
        prop::strategy::Union::new_weighted(steps).boxed()
    }

    fn preconditions(model: &Self, step: &Step) -> bool {
        match step {
            Step::Wait(wait) => model.is_certain_at(model.now + wait),
            Step::Stop => model.over.is_none(),
            Step::End(ends) => {
                let can = |(index, _): &(usize, End)| model.is_certain_to_end(*index);
                model.over.is_none() && ends.iter().all(can)
            }
        }
    }

    fn apply(mut model: Self, step: &Step) -> Self {
        model.events.clear();
        model.waits.clear();
        match step {
            Step::Wait(time) => model.wait(*time),
            Step::End(ends) => model.end(ends.clone()),
            Step::Stop => {
                model.stop_from(0, &mut Vec::new());
                model.over = Some(Over::Stopped);
            }
        }
        model
    }
}

/// The supervisor itself.
struct Real {
    runtime: Runtime,
    stage: Stage,
    stop: Option<oneshot::Sender<()>>,
    run: Option<JoinHandle<Result<(), GaveUp>>>,
    result: Option<Result<(), GaveUp>>,
}

impl Real {
    fn compare(&mut self, model: &Model) {
        let Self {
            runtime,
            stage,
            run,
            result,
            ..
        } = self;
        runtime.block_on(settle());
        let (mut expected, mut events) = (model.events.clone(), stage.events());
        if model.strategy == Plan::OneForOne && model.waits.is_empty() {
            // Waits of several children that are over: each is random, and so is their order.
            if expected.iter().all(|event| event.ends_with("started")) {
                expected.sort();
                events.sort();
            }
        }
        assert_eq!(events, expected);
        let waits = stage.waits();
        assert_eq!(waits.len(), model.waits.len());
        for (wait, limit) in waits.into_iter().zip(&model.waits) {
            let limit = Duration::from_millis(*limit);
            assert!(wait >= limit / 2 && wait <= limit, "{wait:?} of {limit:?}");
        }
        let running = |(index, state): (usize, &State)| {
            matches!(state, State::Running(_)).then(|| name(index))
        };
        let running = model.states.iter().enumerate().filter_map(running);
        assert_eq!(
            stage.alive(),
            Vec::from_iter(running.collect::<BTreeSet<_>>())
        );

        if run.as_ref().is_some_and(JoinHandle::is_finished) {
            let ended = runtime.block_on(run.take().expect("it is there"));
            *result = Some(ended.expect("it does not panic"));
        }
        match (model.over, result) {
            (None, None) | (Some(Over::Stopped | Over::Completed), Some(Ok(()))) => {}
            (Some(Over::GaveUp(index)), Some(Err(error))) => {
                assert_eq!(error.child(), name(index));
            }
            (over, result) => panic!("expected {over:?}, got {result:?}"),
        }
    }
}

impl StateMachineTest for Real {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(model: &Model) -> Self {
        silence_panics();
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let stage = Stage::default();
        let supervisor = match model.strategy {
            Plan::OneForOne => Supervisor::one_for_one("model"),
            Plan::OneForAll => Supervisor::one_for_all("model"),
            Plan::RestForOne => Supervisor::rest_for_one("model"),
        };
        let ms = Duration::from_millis;
        let supervisor = supervisor
            .intensity(model.intensity, ms(model.period))
            .backoff(ms(INITIAL), ms(MAX))
            .on_event(stage.sink());
        let kinds = model.kinds.iter().enumerate();
        let supervisor = kinds.fold(supervisor, |supervisor, (index, kind)| {
            let child = stage.child(&name(index));
            supervisor.child(match kind {
                Kind::Permanent => child,
                Kind::Transient => child.transient(),
                Kind::Temporary => child.temporary(),
            })
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let run = runtime.spawn(supervisor.run_until(async { drop(stopped.await) }));
        let mut real = Self {
            runtime,
            stage,
            stop: Some(stop),
            run: Some(run),
            result: None,
        };
        real.compare(model);
        real
    }

    fn apply(mut real: Self, model: &Model, step: Step) -> Self {
        match step {
            Step::Wait(time) => real
                .runtime
                .block_on(async { sleep(Duration::from_millis(time)).await }),
            Step::End(ends) => {
                for (index, end) in ends {
                    real.stage.tell(&name(index), end);
                }
            }
            Step::Stop => drop(real.stop.take()),
        }
        real.compare(model);
        real
    }

    fn teardown(real: Self, _: Model) {
        // Dropped, it leaves nothing running.
        let Self {
            runtime,
            stage,
            run,
            ..
        } = real;
        if let Some(run) = run {
            run.abort();
            assert!(runtime.block_on(run).is_err());
        }
        runtime.block_on(settle());
        assert_eq!(stage.alive(), Vec::<String>::new());
    }
}

/// The children's panics are wanted; those of the test itself are printed.
fn silence_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload_as_str() != Some("told to panic") {
                print(panic);
            }
        }));
    });
}
