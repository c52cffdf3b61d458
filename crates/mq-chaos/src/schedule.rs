//! The schedule of a run: which fault, on whom, when and for how long. The same seed, scenario, broker and length give the
//! same schedule.

use std::{fmt, str::FromStr, time::Duration};

use serde::Serialize;

use crate::{
    broker::{CONSUMERS, Kind, PRODUCERS},
    process::Role,
};

/// Which faults there are, and how many of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// `kill -9`: broker 40 %, producers 30 %, consumers 30 %.
    Crash,
    /// Processes that are stopped and go on, and a broker that is frozen.
    Pause,
    /// What an operator does: SIGTERM of processes, restarts of the broker.
    Restart,
    /// Faults of the network between the broker and all producers, or all consumers.
    Network,
    /// All of them, half of them crashes.
    Mixed,
    /// SIGTERM of processes under load, some of whose handlers outlive the deadline of their shutdown.
    Drains,
    /// Memory and disk alarms of RabbitMQ, while the producers publish as fast as they are let.
    Alarms,
    /// Every connection ends 0.5 to 1.5 s after it began, all the time.
    Lives,
}

/// How much of it there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// As many faults as there is time for.
    Minutes(u64),
    /// So many faults.
    Faults(usize),
}

/// Whom a fault is made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Broker,
    /// The process of this role with this number, from 1.
    Process(Role, usize),
    /// The network between the broker and all processes of this role.
    Link(Role),
    /// The network between the broker and all processes.
    Links,
}

/// What is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// `kill -9`, and started again after a while.
    Kill,
    /// SIGSTOP and SIGCONT; a broker's container is frozen.
    Pause,
    /// A pause of a process that outlives the session of a Kafka group (10 s) and two heartbeats of AMQP (5 s each): others
    /// have taken over when it goes on.
    Stall,
    /// SIGTERM, the end awaited, and started again.
    Restart,
    /// What the proxy between the processes and the broker does.
    Network(Toxic),
    /// A broker that lets nobody publish, since it says that it runs out of memory.
    MemoryAlarm,
    /// The same, of disk.
    DiskAlarm,
    /// Connections that end again and again.
    Lives,
}

/// A fault of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Toxic {
    /// 200 ms more, give or take 100.
    Latency,
    /// 64 KiB a second on each connection.
    Bandwidth,
    /// Nothing passes, and nobody is told.
    BlackHole,
    /// Nothing comes back from the broker.
    HalfOpen,
    /// Every connection is reset.
    Reset,
    /// Every connection is reset, and new ones are too.
    Refuse,
    /// One byte a write.
    Slices,
    /// Each connection ends after 20,000 bytes from the broker.
    CutAfter,
}

/// One fault of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Not before this time since the load began, nor before the step before it is over.
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
    pub(crate) target: Target,
    /// How long the fault lasts; recovery comes on top.
    pub(crate) lasts: Duration,
}

/// The faults of a run, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule(pub(crate) Vec<Step>);

impl Schedule {
    /// Throws the dice.
    pub(crate) fn new(kind: Kind, scenario: Scenario, length: Length, seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ fnv(kind.word()) ^ fnv(scenario.word()));
        let (end, most) = match length {
            Length::Minutes(minutes) => (
                Duration::from_secs(minutes * 60).saturating_sub(LAST_QUIET),
                usize::MAX,
            ),
            Length::Faults(faults) => (Duration::MAX, faults),
        };
        if scenario == Scenario::Lives {
            return Self(vec![Step {
                at: FIRST_QUIET,
                fault: Fault::Lives,
                target: Target::Links,
                lasts: end.saturating_sub(FIRST_QUIET),
            }]);
        }
        let mut steps = Vec::new();
        let mut deck: Vec<Card> = Vec::new();
        let mut at = FIRST_QUIET;
        loop {
            if steps.len() == most {
                return Self(steps);
            }
            if deck.is_empty() {
                // From a shuffled deck: so the shares hold in short runs too.
                deck = scenario.deck(&mut dice);
                dice.shuffle(&mut deck);
            }
            let Some((fault, whom)) = deck.pop() else {
                return Self(steps);
            };
            let target = match whom {
                Whom::Broker => Target::Broker,
                Whom::Link(role) => Target::Link(role),
                Whom::One(role) => {
                    let many = match role {
                        Role::Producer => PRODUCERS,
                        Role::Consumer => CONSUMERS,
                    };
                    Target::Process(role, 1 + dice.below(many as u64) as usize)
                }
            };
            let lasts = lasts(fault, target, &mut dice);
            if at + lasts > end {
                return Self(steps);
            }
            steps.push(Step {
                at,
                fault,
                target,
                lasts,
            });
            at += lasts + dice.between(QUIET);
            if steps.len() % LONG_QUIET_EVERY == 0 {
                at += LONG_QUIET;
            }
        }
    }
}

impl Scenario {
    pub(crate) const ALL: [Self; 8] = [
        Self::Crash,
        Self::Pause,
        Self::Restart,
        Self::Network,
        Self::Mixed,
        Self::Drains,
        Self::Alarms,
        Self::Lives,
    ];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Pause => "pause",
            Self::Restart => "restart",
            Self::Network => "network",
            Self::Mixed => "mixed",
            Self::Drains => "drains",
            Self::Alarms => "alarms",
            Self::Lives => "lives",
        }
    }

    /// True if there are faults of the network, so that everyone connects through a proxy.
    pub(crate) fn needs_proxy(self) -> bool {
        matches!(self, Self::Network | Self::Mixed | Self::Lives)
    }

    /// The faults whose shares it has.
    fn deck(self, dice: &mut Dice) -> Vec<Card> {
        use Fault::{Kill, Network, Pause, Restart, Stall};
        let cards = |fault, [broker, producers, consumers]: [usize; 3]| {
            let whom = [
                (Whom::Broker, broker),
                (Whom::One(Role::Producer), producers),
                (Whom::One(Role::Consumer), consumers),
            ];
            whom.into_iter()
                .flat_map(move |(whom, many)| std::iter::repeat_n((fault, whom), many))
        };
        let links = [Whom::Link(Role::Producer), Whom::Link(Role::Consumer)];
        match self {
            Self::Crash => cards(Kill, [4, 3, 3]).collect(),
            Self::Pause => cards(Pause, [3, 2, 2])
                .chain(cards(Stall, [0, 1, 2]))
                .collect(),
            Self::Restart => cards(Restart, [3, 3, 4]).collect(),
            Self::Network => Toxic::ALL
                .into_iter()
                .flat_map(|toxic| links.map(|link| (Network(toxic), link)))
                .collect(),
            Self::Mixed => cards(Kill, [3, 3, 3])
                .chain(cards(Pause, [1, 1, 0]))
                .chain(cards(Stall, [0, 0, 1]))
                .chain(cards(Restart, [1, 1, 1]))
                .chain(links.map(|link| (Network(dice.toxic()), link)))
                .chain(links.map(|link| (Network(dice.toxic()), link)))
                .collect(),
            Self::Drains => cards(Restart, [0, 2, 3]).collect(),
            Self::Alarms => cards(Fault::MemoryAlarm, [1, 0, 0])
                .chain(cards(Fault::DiskAlarm, [1, 0, 0]))
                .collect(),
            // It is one fault, and no deck.
            Self::Lives => Vec::new(),
        }
    }
}

/// A fault and to whom it is made.
type Card = (Fault, Whom);

/// To whom, before the dice say which of them.
#[derive(Clone, Copy)]
enum Whom {
    Broker,
    One(Role),
    Link(Role),
}

impl Toxic {
    pub(crate) const ALL: [Self; 8] = [
        Self::Latency,
        Self::Bandwidth,
        Self::BlackHole,
        Self::HalfOpen,
        Self::Reset,
        Self::Refuse,
        Self::Slices,
        Self::CutAfter,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Bandwidth => "bandwidth",
            Self::BlackHole => "black-hole",
            Self::HalfOpen => "half-open",
            Self::Reset => "reset",
            Self::Refuse => "refuse",
            Self::Slices => "slices",
            Self::CutAfter => "cut-after",
        }
    }
}

fn lasts(fault: Fault, target: Target, dice: &mut Dice) -> Duration {
    match (fault, target) {
        // Dead for a moment, or for long enough that every client has seen it.
        (Fault::Kill, Target::Broker) => dice.between([0, 4_000]),
        (Fault::Pause, Target::Broker) => dice.between([500, 6_000]),
        (Fault::Stall, _) => dice.between([16_000, 20_000]),
        (Fault::Pause, _) => dice.between([500, 4_000]),
        // Started again at once, and awaited.
        (Fault::Kill, _) | (Fault::Restart, _) | (Fault::Network(Toxic::Reset), _) => {
            Duration::ZERO
        }
        (Fault::MemoryAlarm | Fault::DiskAlarm, _) => dice.between([30_000, 32_000]),
        (Fault::Lives, _) => Duration::ZERO,
        // Some outlive two heartbeats of AMQP, most do not.
        (Fault::Network(Toxic::BlackHole | Toxic::HalfOpen), _) => dice.between([2_000, 14_000]),
        (Fault::Network(_), _) => dice.between([2_000, 6_000]),
    }
}

/// Numbers that follow from a seed (SplitMix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below this one, which is not 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn toxic(&mut self) -> Toxic {
        Toxic::ALL[self.below(Toxic::ALL.len() as u64) as usize]
    }

    pub(crate) fn between(&mut self, [from, to]: [u64; 2]) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    pub(crate) fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let all = Self::ALL.map(Self::word).join(", ");
        let mut known = Self::ALL.into_iter();
        known
            .find(|scenario| scenario.word() == word)
            .ok_or_else(|| format!("{word:?} is no scenario: {all}"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Stall => "stall",
            Self::Restart => "restart",
            Self::Network(toxic) => toxic.word(),
            Self::MemoryAlarm => "memory-alarm",
            Self::DiskAlarm => "disk-alarm",
            Self::Lives => "short-lives",
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broker => f.write_str("broker"),
            Self::Process(role, number) => write!(f, "{}-{number}", role.word()),
            Self::Link(role) => write!(f, "link-of-{}s", role.word()),
            Self::Links => f.write_str("all-links"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, lasts) = (self.at.as_secs_f64(), self.lasts.as_secs_f64());
        write!(
            f,
            "{at:>7.1} s  {:10} {} for {lasts:.1} s",
            self.fault, self.target
        )
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl Serialize for Schedule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(ToString::to_string))
    }
}

/// FNV-1a: the same in every build, unlike the hashes of the standard library.
fn fnv(text: &str) -> u64 {
    let step = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// No fault for this long at the beginning: a queue younger than 3 s may lose what it confirmed (and everyone has to start).
const FIRST_QUIET: Duration = Duration::from_secs(4);
/// No fault for this long at the end.
const LAST_QUIET: Duration = Duration::from_secs(8);
/// Milliseconds between a fault and the next one.
const QUIET: [u64; 2] = [3_000, 9_000];
/// After so many faults there is a quiet phase in which everything comes to rest.
const LONG_QUIET_EVERY: usize = 8;
const LONG_QUIET: Duration = Duration::from_secs(12);

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(scenario: Scenario, minutes: u64, seed: u64) -> Schedule {
        Schedule::new(Kind::RabbitMq, scenario, Length::Minutes(minutes), seed)
    }

    /// Those whose faults the dice draw.
    fn drawn() -> impl Iterator<Item = Scenario> {
        let all = Scenario::ALL.into_iter();
        all.filter(|scenario| *scenario != Scenario::Lives)
    }

    #[test]
    fn the_same_seed_gives_the_same_schedule_and_another_one_another() {
        for scenario in drawn() {
            assert_eq!(schedule(scenario, 5, 7), schedule(scenario, 5, 7));
            assert_ne!(schedule(scenario, 5, 7), schedule(scenario, 5, 8));
        }
        let kafka = Schedule::new(Kind::Kafka, Scenario::Crash, Length::Minutes(5), 7);
        assert_ne!(schedule(Scenario::Crash, 5, 7), kafka);
    }

    #[test]
    fn a_schedule_is_the_same_in_every_build() {
        // If this changes, seeds of earlier reports no longer replay: say so in their page.
        let first: Vec<String> = schedule(Scenario::Crash, 1, 7)
            .0
            .iter()
            .take(3)
            .map(ToString::to_string)
            .collect();
        let expected = [
            "    4.0 s  kill       producer-2 for 0.0 s",
            "   10.4 s  kill       consumer-3 for 0.0 s",
            "   17.4 s  kill       broker for 1.7 s",
        ];
        assert_eq!(first, expected);
    }

    #[test]
    fn a_longer_run_begins_as_a_shorter_one() {
        let (short, long) = (
            schedule(Scenario::Mixed, 2, 3),
            schedule(Scenario::Mixed, 9, 3),
        );
        assert_eq!(short.0, long.0[..short.0.len()]);
    }

    #[test]
    fn a_run_of_so_many_faults_has_as_many_and_begins_as_one_of_minutes() {
        let length = Length::Faults(50);
        let steps = Schedule::new(Kind::RabbitMq, Scenario::Crash, length, 3).0;
        assert_eq!(steps.len(), 50);
        let of_broker = |step: &&Step| step.target == Target::Broker;
        assert_eq!(steps.iter().filter(of_broker).count(), 20);
        let short = schedule(Scenario::Crash, 2, 3).0;
        assert_eq!(short, steps[..short.len()]);
    }

    #[test]
    fn connections_have_short_lives_all_the_time() {
        let steps = schedule(Scenario::Lives, 2, 1).0;
        assert_eq!(steps.len(), 1);
        let end = Duration::from_secs(120) - LAST_QUIET;
        assert_eq!(steps[0].at + steps[0].lasts, end);
    }

    #[test]
    fn crashes_are_shared_out_four_three_three() {
        for seed in 0..20 {
            let steps = schedule(Scenario::Crash, 60, seed).0;
            let whole = &steps[..steps.len() / 10 * 10];
            let share = |is: fn(&Target) -> bool| {
                whole.iter().filter(|step| is(&step.target)).count() * 10 / whole.len()
            };
            assert_eq!(share(|target| *target == Target::Broker), 4);
            assert_eq!(
                share(|target| matches!(target, Target::Process(Role::Producer, _))),
                3
            );
            assert_eq!(
                share(|target| matches!(target, Target::Process(Role::Consumer, _))),
                3
            );
            assert!(steps.iter().all(|step| step.fault == Fault::Kill));
        }
    }

    #[test]
    fn there_is_quiet_before_between_and_after() {
        for seed in 0..50 {
            for scenario in drawn() {
                let steps = schedule(scenario, 3, seed).0;
                assert!(
                    steps[0].at >= Duration::from_secs(3),
                    "a queue younger than 3 s"
                );
                for pair in steps.windows(2) {
                    assert!(pair[1].at >= pair[0].at + pair[0].lasts + Duration::from_secs(3));
                }
                let last = steps[steps.len() - 1];
                assert!(last.at + last.lasts + LAST_QUIET <= Duration::from_secs(180));
                for step in steps {
                    if let Target::Process(_, number) = step.target {
                        assert!((1..=PRODUCERS).contains(&number));
                    }
                }
            }
        }
    }

    #[test]
    fn a_scenario_has_the_faults_of_its_name() {
        let faults = |scenario| {
            let steps = schedule(scenario, 10, 1).0;
            let mut faults: Vec<Fault> = steps.iter().map(|step| step.fault).collect();
            faults.sort_unstable();
            faults.dedup();
            faults
        };
        assert_eq!(faults(Scenario::Crash), [Fault::Kill]);
        assert_eq!(faults(Scenario::Pause), [Fault::Pause, Fault::Stall]);
        assert_eq!(faults(Scenario::Restart), [Fault::Restart]);
        assert_eq!(faults(Scenario::Drains), [Fault::Restart]);
        let alarms = [Fault::MemoryAlarm, Fault::DiskAlarm];
        assert_eq!(faults(Scenario::Alarms), alarms);
        let network = faults(Scenario::Network);
        assert!(
            network
                .iter()
                .all(|fault| matches!(fault, Fault::Network(_)))
        );
        assert_eq!(network.len(), Toxic::ALL.len());
        let mixed = faults(Scenario::Mixed);
        let plain = [Fault::Kill, Fault::Pause, Fault::Stall, Fault::Restart];
        assert!(mixed.starts_with(&plain) && mixed.len() > plain.len());
    }

    #[test]
    fn a_word_that_is_no_scenario_is_refused_with_those_that_are() {
        assert_eq!("crash".parse(), Ok(Scenario::Crash));
        let error = "crush".parse::<Scenario>().unwrap_err();
        assert!(error.contains("crash, pause"), "{error}");
    }
}
