//! What drains and alarms were to keep to.

use serde::Serialize;

use crate::{
    broker::{OPEN, WINDOW},
    conductor::Done,
    gaps::{Effects, Spread},
};

/// The ends of processes that were told to end.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Drains {
    pub(super) count: usize,
    /// From SIGTERM to the end, of those that consume.
    pub(super) consumers: Spread,
    pub(super) producers: Spread,
    /// How many took longer than their deadline and a second.
    pub(super) late: usize,
    /// Deliveries that were open at the deadline. They come again.
    pub(super) left: usize,
}

/// What the producers and consumers did under the alarms.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Alarms {
    pub(super) count: usize,
    pub(super) blocked: Spread,
    pub(super) not_blocked: usize,
    pub(super) growth_kib: u64,
    /// Producers, of each alarm, whose window was not full all the time.
    pub(super) not_full: usize,
    /// The fewest effects during an alarm.
    pub(super) fewest_effects: usize,
}

impl Drains {
    pub(super) fn of(faults: &[Done]) -> Option<Self> {
        let drains: Vec<_> = faults
            .iter()
            .filter_map(|done| Some((done.step.target, done.drain?)))
            .collect();
        let took = |consumers: bool| {
            let of_role = drains
                .iter()
                .filter(|(target, _)| is_consumer(target) == consumers);
            Spread::of(
                of_role
                    .map(|(_, drain)| drain.took.as_micros() as u64)
                    .collect(),
            )
        };
        (!drains.is_empty()).then(|| Self {
            count: drains.len(),
            consumers: took(true),
            producers: took(false),
            late: drains
                .iter()
                .filter(|(_, drain)| drain.took > drain.limit)
                .count(),
            left: drains
                .iter()
                .filter(|(target, _)| is_consumer(target))
                .map(|(_, drain)| drain.left)
                .sum(),
        })
    }

    /// What comes again is told apart only where nothing else makes deliveries come again.
    pub(super) fn problems(&self, again: Option<u64>) -> Vec<String> {
        let mut problems = Vec::new();
        if self.late > 0 {
            problems.push(format!("{} processes ended later than they may", self.late));
        }
        if let Some(again) = again.filter(|again| *again > self.left as u64) {
            let left = self.left;
            problems.push(format!(
                "{again} deliveries again, and {left} were open at a deadline"
            ));
        }
        problems
    }
}

impl Alarms {
    pub(super) fn of(faults: &[Done], effects: &Effects) -> Option<Self> {
        let alarms: Vec<_> = faults
            .iter()
            .filter_map(|done| Some((done, done.alarm.as_ref()?)))
            .collect();
        let blocked = alarms.iter().flat_map(|(_, alarm)| &alarm.blocked_ms);
        let blocked = Spread::of(blocked.map(|millis| (millis * 1e3) as u64).collect());
        // Of what was open when the alarm came, nothing is counted.
        let effects = alarms
            .iter()
            .map(|(done, _)| effects.between(done.from + 2_000_000, done.to));
        (!alarms.is_empty()).then(|| Self {
            count: alarms.len(),
            blocked,
            not_blocked: alarms.iter().map(|(_, alarm)| alarm.not_blocked).sum(),
            growth_kib: alarms
                .iter()
                .map(|(_, alarm)| alarm.growth_kib)
                .max()
                .unwrap_or(0),
            not_full: alarms
                .iter()
                .map(|(_, alarm)| crate::broker::PRODUCERS - alarm.full)
                .sum(),
            fewest_effects: effects.min().unwrap_or(0),
        })
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.not_blocked > 0 {
            let count = self.not_blocked;
            problems.push(format!(
                "{count} times a producer was not told that it is blocked"
            ));
        }
        if self.blocked.max > BLOCKED_WITHIN_MS {
            problems.push(format!("a producer was told after {} ms", self.blocked.max));
        }
        if self.growth_kib > GROWTH_KIB {
            problems.push(format!("a producer grew by {} KiB", self.growth_kib));
        }
        if self.not_full > 0 {
            let count = self.not_full;
            problems.push(format!("{count} times a producer had room under an alarm"));
        }
        // More than they can have without acknowledging.
        if self.fewest_effects <= 2 * OPEN {
            let few = self.fewest_effects;
            problems.push(format!("only {few} effects under an alarm"));
        }
        problems
    }
}

fn is_consumer(target: &crate::schedule::Target) -> bool {
    use crate::{process::Role, schedule::Target};
    matches!(target, Target::Process(Role::Consumer, _))
}

const BLOCKED_WITHIN_MS: f64 = 1_000.0;
/// The bytes of a window, with what is around a payload of 200 bytes, and 32 MiB.
const GROWTH_KIB: u64 = WINDOW as u64 + 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_that_is_kept_to_is_no_problem_and_each_breach_is_one() {
        let good = Alarms {
            count: 2,
            blocked: Spread {
                p50: 10.0,
                p99: 900.0,
                max: 1_000.0,
            },
            not_blocked: 0,
            growth_kib: 32 * 1024,
            not_full: 0,
            fewest_effects: 201,
        };
        assert_eq!(good.problems(), Vec::<String>::new());
        let mut late = good.clone();
        late.blocked.max = 1_001.0;
        let breaches = [
            late,
            Alarms {
                not_blocked: 1,
                ..good.clone()
            },
            Alarms {
                growth_kib: 33 * 1024,
                ..good.clone()
            },
            Alarms {
                not_full: 1,
                ..good.clone()
            },
            Alarms {
                fewest_effects: 200,
                ..good
            },
        ];
        for breach in breaches {
            assert_eq!(breach.problems().len(), 1, "{breach:?}");
        }
    }

    #[test]
    fn a_late_end_and_a_delivery_again_that_was_not_open_are_problems() {
        let drains = |late, left| Drains {
            count: 5,
            consumers: Spread::default(),
            producers: Spread::default(),
            late,
            left,
        };
        assert_eq!(drains(0, 3).problems(Some(3)), Vec::<String>::new());
        assert_eq!(drains(0, 3).problems(Some(4)).len(), 1);
        assert_eq!(drains(1, 3).problems(Some(3)).len(), 1);
        assert_eq!(drains(0, 3).problems(None), Vec::<String>::new());
    }
}
