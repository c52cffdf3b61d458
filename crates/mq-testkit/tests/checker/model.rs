//! The checker against a naive model: the definitions once more, over the whole list of events.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::histories::{Step, try_check};
use mq_testkit::checker::{Claim, Class};
use proptest::prelude::*;

type Message = (String, u64);
type Place = (String, u32);

const STUCK: u64 = 3_000;
const DEADLINE: u64 = 2_000;

/// An effect that counts: when it does, and when it was recorded.
#[derive(Debug, Clone)]
struct Done {
    at: usize,
    own: usize,
    message: Message,
    group: String,
    key: Option<String>,
}

struct Model<'a> {
    steps: &'a [Step],
    effects: Vec<Done>,
}

impl<'a> Model<'a> {
    fn new(steps: &'a [Step]) -> Self {
        let effects = Vec::new();
        let mut model = Self { steps, effects };
        for (own, step) in model.ours("effect") {
            let at = match &step.tx {
                None => own,
                Some(tx) => match model.end_of(tx) {
                    Some((end, true)) => end,
                    _ => continue,
                },
            };
            model.effects.push(Done {
                at,
                own,
                message: step.message.clone().expect("a message"),
                group: group(step),
                key: step.key.clone(),
            });
        }
        model.effects.sort_by_key(|done| (done.at, done.own));
        model
    }

    /// The events of an op whose message is of this run.
    fn ours(&self, op: &'static str) -> Vec<(usize, &'a Step)> {
        let all = self.steps.iter().enumerate();
        all.filter(|(_, step)| step.op == op && step.run.is_none())
            .collect()
    }

    fn of(&self, message: &Message) -> Vec<(usize, &'a Step)> {
        let all = self.steps.iter().enumerate();
        all.filter(|(_, step)| step.message.as_ref() == Some(message))
            .collect()
    }

    /// Where a transaction ended, and whether it was committed.
    fn end_of(&self, tx: &str) -> Option<(usize, bool)> {
        let ends = |step: &Step| step.op == "committed" || step.op == "aborted";
        let end = |step: &Step| ends(step) && step.tx.as_deref() == Some(tx);
        let at = self.steps.iter().position(end)?;
        Some((at, self.steps[at].op == "committed"))
    }

    /// The transaction that a message is in before an event.
    fn tx_of(&self, message: &Message, before: usize) -> Option<String> {
        let last = self
            .of(message)
            .into_iter()
            .rev()
            .find(|(at, step)| *at < before && (step.op == "send" || step.op == "rejected"))?;
        last.1.tx.clone().filter(|_| last.1.op == "send")
    }

    fn was_sent(&self, message: &Message, before: usize) -> bool {
        let ops = ["send", "ok", "unknown", "rejected"];
        let mut of = self.of(message).into_iter();
        of.any(|(at, step)| at < before && ops.contains(&&*step.op))
    }

    fn was_resent(&self, message: &Message, before: usize) -> bool {
        let mut of = self.of(message).into_iter();
        of.any(|(at, step)| at < before && step.op == "send" && self.was_sent(message, at))
    }

    /// From which event on the message has to appear.
    fn ok_at(&self, message: &Message) -> Option<usize> {
        (0..self.steps.len()).find(|at| {
            let step = &self.steps[*at];
            if step.op == "committed" {
                let tx = step.tx.clone().expect("a transaction");
                let first = self.end_of(&tx) == Some((*at, true));
                return first && self.tx_of(message, *at) == Some(tx);
            }
            let own = step.message.as_ref() == Some(message);
            step.op == "ok" && own && self.tx_of(message, *at).is_none()
        })
    }

    fn is_unknown(&self, message: &Message) -> bool {
        if self.ok_at(message).is_some() {
            return false;
        }
        let end = self.steps.len();
        let open_end = self
            .tx_of(message, end)
            .is_some_and(|tx| self.end_of(&tx).is_none());
        let alone = |at| self.tx_of(message, at).is_none();
        let mut of = self.of(message).into_iter();
        let maybe = of.any(|(at, step)| step.op == "unknown" && alone(at));
        open_end || maybe || self.attempts(message, end) > 0
    }

    /// Attempts without an outcome.
    fn attempts(&self, message: &Message, before: usize) -> u32 {
        let mut open = 0_u32;
        for (at, step) in self.steps[..before].iter().enumerate() {
            let own = step.message.as_ref() == Some(message);
            match &*step.op {
                "send" if own => open += 1,
                "ok" | "rejected" | "unknown" if own => open = open.saturating_sub(1),
                "committed" | "aborted" => {
                    let tx = step.tx.clone().expect("a transaction");
                    if self.end_of(&tx).is_some_and(|(end, _)| end == at)
                        && self.tx_of(message, at) == Some(tx)
                    {
                        open = 0;
                    }
                }
                _ => {}
            }
        }
        open
    }

    /// Up to and with an event.
    fn has_effect(&self, message: &Message, group: &str, at: usize) -> bool {
        let of = |done: &&Done| done.message == *message && done.group == group;
        self.effects.iter().filter(of).any(|done| done.at <= at)
    }

    /// It is corrupt, or its effect is in a transaction without an end.
    fn is_excused(&self, message: &Message, group: &str, at: usize) -> bool {
        self.of(message).into_iter().any(|(own, step)| {
            let here = step.group.as_deref() == Some(group) && step.run.is_none();
            let corrupt = step.op == "corrupt" && self.was_sent(message, own) && own <= at;
            let open = step.tx.as_ref().is_some_and(|tx| self.end_of(tx).is_none());
            let open = step.op == "effect" && open && at + 1 >= self.steps.len();
            here && (corrupt || open)
        })
    }

    fn is_accounted(&self, message: &Message, group: &str, at: usize) -> bool {
        self.has_effect(message, group, at) || self.is_excused(message, group, at)
    }

    fn messages(&self) -> BTreeSet<Message> {
        let own = |step: &&Step| step.run.is_none();
        self.steps
            .iter()
            .filter(own)
            .filter_map(|step| step.message.clone())
            .collect()
    }

    fn groups(&self) -> BTreeSet<String> {
        let named: BTreeSet<String> = self.steps.iter().filter_map(|s| s.group.clone()).collect();
        match named.is_empty() {
            true => BTreeSet::from([String::new()]),
            false => named,
        }
    }

    fn duplicates(&self, counts: &mut BTreeMap<Class, u64>) {
        let mut given = BTreeSet::new();
        for (_, step) in self.ours("deliver") {
            add(
                counts,
                Class::DuplicateDelivery,
                !given.insert((&step.message, &step.group)),
            );
        }
        let mut done = BTreeSet::new();
        let mut before: Vec<(&Done, bool)> = Vec::new();
        for effect in &self.effects {
            let first = done.insert((&effect.message, &effect.group));
            add(counts, Class::DuplicateEffect, !first);
            if first {
                let ordered = effect.key.is_some() && !self.was_resent(&effect.message, effect.at);
                let later = |(other, counts): &(&Done, bool)| {
                    *counts
                        && other.group == effect.group
                        && other.key == effect.key
                        && other.message.0 == effect.message.0
                        && other.message.1 > effect.message.1
                };
                add(
                    counts,
                    Class::Reordered,
                    ordered && before.iter().any(later),
                );
                before.push((effect, ordered));
            }
        }
    }

    fn commits(&self, counts: &mut BTreeMap<Class, u64>) {
        let mut highest: BTreeMap<(String, Place, Result<u64, String>), u64> = BTreeMap::new();
        let mut commits: Vec<(usize, usize, &Step)> = Vec::new();
        for (own, step) in self
            .steps
            .iter()
            .enumerate()
            .filter(|(_, step)| step.op == "commit")
        {
            match &step.tx {
                None => commits.push((own, own, step)),
                Some(tx) => match self.end_of(tx) {
                    Some((end, true)) => commits.push((end, own, step)),
                    _ => continue,
                },
            }
        }
        commits.sort_by_key(|(at, own, _)| (*at, *own));
        for (at, _, step) in commits {
            let (place, next) = place(step).expect("a place");
            let epoch = step.epoch.ok_or(step.process.clone());
            let highest = highest
                .entry((group(step), place.clone(), epoch))
                .or_insert(next);
            add(counts, Class::CommitBack, next < *highest);
            *highest = next.max(*highest);
            let finished = |message: &Message, at: usize| {
                let acked = |(own, ack): (usize, &Step)| {
                    own < at && ack.message.as_ref() == Some(message) && ack.group == step.group
                };
                self.has_effect(message, &group(step), at)
                    || self.ours("ack").into_iter().any(acked)
            };
            // Of several messages at one offset the last one counts.
            let mut given = BTreeMap::new();
            for (own, deliver) in self.ours("deliver") {
                let message = deliver.message.clone().expect("a message");
                let here = deliver.group == step.group && own < at;
                if let Some((other, offset)) = self::place(deliver)
                    && here
                    && other == place
                    && offset < next
                    && !finished(&message, own)
                {
                    given.insert(offset, message);
                }
            }
            let ahead = given.values().any(|message| !finished(message, at));
            add(counts, Class::CommitAhead, ahead);
        }
    }

    fn stale(&self, exactly_once: bool, counts: &mut BTreeMap<Class, u64>) {
        for (own, step) in self.steps.iter().enumerate() {
            let grace = match &*step.op {
                "commit" => 0,
                "effect" if step.run.is_none() && exactly_once => 0,
                "effect" if step.run.is_none() => DEADLINE,
                _ => continue,
            };
            let Some((place, _)) = place(step) else {
                continue;
            };
            let about =
                |other: &&Step| other.group == step.group && assigned(other) == Some(place.clone());
            let before: Vec<&Step> = self.steps[..own].iter().filter(about).collect();
            let assigns = |s: &&&Step| s.op == "assign";
            let mine = before
                .iter()
                .rposition(|s| s.op == "assign" && s.process == step.process);
            let Some(epoch) = step.epoch.or(mine.and_then(|at| before[at].epoch)) else {
                continue;
            };
            let mut too_late = false;
            if let Some(mine) = mine {
                let given = before[mine];
                let over = before[mine..].iter().find(|s| {
                    s.op != "assign" && s.process == step.process && s.epoch == given.epoch
                });
                let since = match given.epoch.expect("an epoch") {
                    newer if newer > epoch => Some(given.at),
                    same if same == epoch => over.map(|s| s.at),
                    _ => None,
                };
                too_late |= since.is_some_and(|since| step.at > since + grace);
            }
            let top = before.iter().filter(assigns).max_by(|a, b| {
                // Of equal ones the first, which `max_by` would not take.
                a.epoch.cmp(&b.epoch).then(b.at.cmp(&a.at))
            });
            too_late |= top.is_some_and(|top| {
                top.epoch > Some(epoch)
                    && top.process != step.process
                    && step.at > top.at + DEADLINE
            });
            add(counts, Class::StaleWrite, too_late);
        }
    }

    fn offsets(&self, counts: &mut BTreeMap<Class, u64>) -> BTreeMap<(Place, u64), Message> {
        let mut records: BTreeMap<(Place, u64), Message> = BTreeMap::new();
        for step in self.steps.iter().filter(|step| step.run.is_none()) {
            if let Some(place) = place(step)
                && ["ok", "unknown", "deliver"].contains(&&*step.op)
            {
                let message = step.message.clone().expect("a message");
                let first = records.entry(place).or_insert(message.clone());
                add(counts, Class::InconsistentOffset, *first != message);
            }
        }
        records
    }

    /// The groups that stood still at the end.
    fn stuck(&self, counts: &mut BTreeMap<Class, u64>) -> BTreeSet<String> {
        let mut still = BTreeSet::new();
        for name in self.groups() {
            let messages = self.messages();
            // What is resolved by the end of the history is only known there.
            let last = self.steps.len() - 1;
            let waits = |message: &Message, at: usize| {
                self.ok_at(message).is_some_and(|ok| ok <= at)
                    && !self.is_accounted(message, &name, at)
            };
            let waiting = |at: usize| messages.iter().filter(|m| waits(m, at)).count();
            let there = self
                .steps
                .iter()
                .position(|s| s.group.as_ref() == Some(&name));
            let (mut since, mut faults, mut judged) = (None, 0_u32, true);
            let (mut first, mut healed) = (None, 0);
            for (at, step) in self.steps.iter().enumerate() {
                let before = match at.checked_sub(1) {
                    // Not the end yet, even where the model would say so.
                    Some(before) => messages
                        .iter()
                        .filter(|m| waits(m, before.min(last.saturating_sub(1))))
                        .count(),
                    None => 0,
                };
                let confirms = messages.iter().filter(|m| self.ok_at(m) == Some(at));
                let confirms: Vec<&Message> = confirms.collect();
                if !confirms.is_empty() {
                    first.get_or_insert(step.at);
                }
                if Some(at) == there {
                    since = Some(first.unwrap_or(0).max(healed));
                }
                let is_there = there.is_some_and(|there| there <= at);
                let missing = confirms.iter().filter(|m| match at.checked_sub(1) {
                    Some(before) => {
                        !self.is_accounted(m, &name, before.min(last.saturating_sub(1)))
                    }
                    None => true,
                });
                let missing = missing.count();
                if is_there && before == 0 && missing > 0 {
                    since = Some(step.at);
                }
                let late = |since: Option<u64>| since.is_some_and(|since| step.at - since > STUCK);
                let firsts = self.effects.iter().filter(|done| {
                    done.at == at
                        && done.group == name
                        && !(at > 0 && self.has_effect(&done.message, &name, at - 1))
                });
                if firsts.count() > 0 {
                    let gap = judged && faults == 0 && before + missing > 0 && late(since);
                    add(counts, Class::Stuck, gap);
                    since = Some(step.at);
                }
                match &*step.op {
                    "fault" => {
                        let gap = judged && faults == 0 && before > 0 && late(since);
                        add(counts, Class::Stuck, gap);
                        faults += 1;
                    }
                    "healed" => {
                        faults = faults.saturating_sub(1);
                        if faults == 0 {
                            healed = step.at;
                            since = since.map(|since: u64| since.max(step.at));
                        }
                    }
                    "drained" => judged = false,
                    _ => {}
                }
                if at == last && there.is_none() {
                    since = Some(first.unwrap_or(0).max(healed));
                }
                if at == last && judged && faults == 0 && waiting(at) > 0 && late(since) {
                    add(counts, Class::Stuck, true);
                    still.insert(name.clone());
                }
            }
        }
        still
    }

    fn counts(&self, exactly_once: bool, rejected_may_appear: bool) -> BTreeMap<Class, u64> {
        let mut counts = BTreeMap::new();
        self.duplicates(&mut counts);
        self.commits(&mut counts);
        self.stale(exactly_once, &mut counts);
        let records = self.offsets(&mut counts);
        let still = self.stuck(&mut counts);
        let last = self.steps.len() - 1;
        for step in self.steps {
            add(&mut counts, Class::Corrupt, step.op == "corrupt");
            let foreign = step.op == "effect" && step.run.is_some();
            add(&mut counts, Class::Unexpected, foreign);
        }
        for group in self.groups() {
            let mut visible: BTreeMap<String, [bool; 2]> = BTreeMap::new();
            for message in self.messages() {
                let there = self.has_effect(&message, &group, last);
                let sent = self.was_sent(&message, last + 1);
                let stored = self.ok_at(&message).is_some() || self.is_unknown(&message);
                let mut of = self.of(&message).into_iter();
                let rejected = of.any(|(_, step)| step.op == "rejected");
                add(&mut counts, Class::Unexpected, there && !sent);
                let absent = sent && !stored && !(rejected_may_appear && rejected);
                add(&mut counts, Class::AbortedRead, there && absent);
                let tx = self.tx_of(&message, last + 1);
                let tx = tx.filter(|tx| self.end_of(tx).is_none_or(|(_, committed)| committed));
                if let Some(tx) = tx {
                    let part = visible.entry(tx).or_default();
                    part[0] |= there;
                    part[1] |= !self.is_accounted(&message, &group, last);
                }
            }
            let torn = |tx: &Option<String>| {
                tx.as_ref()
                    .is_some_and(|tx| visible.get(tx) == Some(&[true, true]))
            };
            for part in visible.values() {
                add(&mut counts, Class::TornTransaction, *part == [true, true]);
            }
            let given = self.ours("deliver");
            let given = given
                .iter()
                .filter(|(_, step)| step.group.as_ref() == Some(&group));
            let given: Vec<&Step> = given.map(|(_, step)| *step).collect();
            for message in self.messages() {
                let missing = self.ok_at(&message).is_some()
                    && !self.is_accounted(&message, &group, last)
                    && !torn(&self.tx_of(&message, last + 1));
                let was_given = given
                    .iter()
                    .any(|step| step.message.as_ref() == Some(&message));
                let jumped = records.iter().any(|((place, offset), lies)| {
                    *lies == message
                        && given
                            .iter()
                            .filter_map(|step| self::place(step))
                            .any(|(p, o)| p == *place && o > *offset)
                });
                let skipped = missing && !was_given && jumped;
                add(&mut counts, Class::Skipped, skipped);
                add(
                    &mut counts,
                    Class::Lost,
                    missing && !skipped && !still.contains(&group),
                );
            }
        }
        counts
    }
}

fn add(counts: &mut BTreeMap<Class, u64>, class: Class, yes: bool) {
    *counts.entry(class).or_default() += u64::from(yes);
}

fn group(step: &Step) -> String {
    step.group.clone().unwrap_or_default()
}

fn place(step: &Step) -> Option<(Place, u64)> {
    let (log, partition, offset) = step.place.clone()?;
    Some(((log, partition), offset?))
}

fn assigned(step: &Step) -> Option<Place> {
    let ops = ["assign", "revoke", "lost"];
    let (log, partition, _) = step.place.clone()?;
    ops.contains(&&*step.op).then_some((log, partition))
}

const OPS: [&str; 17] = [
    "send", "send", "ok", "ok", "rejected", "unknown", "deliver", "deliver", "effect", "effect",
    "ack", "commit", "assign", "revoke", "tx", "fault", "rare",
];

prop_compose! {
    fn step()(
        op in prop::sample::select(&OPS[..]), rare in 0_u8..4, process in 0_u8..3, pause in 1_u64..1_500,
        producer in 0_u8..2, seq in 0_u64..4, key in prop::option::of(0_u8..2), group in 0_u8..2,
        partition in 0_u32..2, offset in 0_u64..4, placed: bool, epoch in 1_u64..4,
        tx in prop::option::weighted(0.3, 0_u8..3), foreign in 0_u8..12,
    ) -> (u64, Step) {
        let op = match (op, rare) {
            ("tx", 0) => "aborted",
            ("tx", _) => "committed",
            ("fault", 0 | 1) => "healed",
            ("rare", 0) => "drained",
            ("rare", 1) => "lost",
            ("rare", _) => "corrupt",
            (op, _) => op,
        };
        let of_message = ["send", "ok", "rejected", "unknown", "deliver", "effect", "ack", "corrupt"];
        let of_group = ["deliver", "effect", "ack", "corrupt", "commit", "assign", "revoke", "lost"];
        let owner = ["assign", "revoke", "lost"].contains(&op);
        let needs_place = owner || op == "commit";
        let may_have_place = ["ok", "unknown", "deliver", "effect"].contains(&op);
        let process = ["a", "b", "c"][usize::from(process)].to_owned();
        let message = of_message.contains(&op).then(|| (format!("p{producer}"), seq));
        let place = (needs_place || (may_have_place && placed))
            .then(|| ("q".to_owned(), partition, (!owner).then_some(offset)));
        let ends = ["committed", "aborted"].contains(&op);
        let tx = if ends { Some(tx.unwrap_or(0)) } else { tx };
        let in_tx = ends || ["send", "effect", "commit"].contains(&op);
        let may_be_foreign = ["deliver", "effect", "ack", "corrupt"].contains(&op);
        let epoch = (owner || (["effect", "commit"].contains(&op) && placed)).then_some(epoch);
        (pause, Step {
            at: 0,
            process,
            op: op.to_owned(),
            message,
            key: key.filter(|_| op == "effect").map(|key| format!("k{key}")),
            group: of_group.contains(&op).then(|| format!("g{group}")),
            place,
            epoch,
            tx: tx.filter(|_| in_tx).map(|tx| format!("t{tx}")),
            run: (may_be_foreign && foreign == 0).then(|| "other".to_owned()),
            name: ["fault", "healed"].contains(&op).then(|| "n".to_owned()),
        })
    }
}

/// What no program records: a transaction that is used after its end, or three sends of one
/// message at once, which the checker does not tell apart.
fn sane(steps: Vec<(u64, Step)>) -> Vec<Step> {
    let mut kept: Vec<Step> = Vec::new();
    let mut at = 0;
    for (pause, mut step) in steps {
        at += pause;
        step.at = at;
        let ended = |tx: &String| {
            kept.iter()
                .any(|s| s.tx.as_ref() == Some(tx) && s.op.ends_with("ted"))
        };
        let sends = kept
            .iter()
            .filter(|s| s.op == "send" && s.message == step.message)
            .count();
        let third = step.op == "send" && sends >= 2;
        if !third && !step.tx.as_ref().is_some_and(ended) {
            kept.push(step);
        }
    }
    kept
}

fn claims() -> impl Strategy<Value = (Claim, bool, bool)> {
    (0_u8..4, any::<bool>()).prop_map(|(name, rejected)| {
        let claim = match name {
            0 => Claim::at_most_once(),
            1 => Claim::at_least_once(),
            2 => Claim::effectively_once(),
            _ => Claim::exactly_once(),
        };
        let claim = claim
            .stuck_after(Duration::from_micros(STUCK))
            .handler_deadline(Duration::from_micros(DEADLINE));
        let claim = if rejected {
            claim.rejected_may_appear()
        } else {
            claim
        };
        (claim, name == 3, rejected)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_checker_counts_what_the_definitions_say(
        steps in prop::collection::vec(step(), 1..40), (claim, exact, rejected) in claims(),
    ) {
        let steps = sane(steps);
        prop_assume!(!steps.is_empty());
        let report = try_check(claim.clone(), &steps).expect("a whole history");
        let expected = Model::new(&steps).counts(exact, rejected);
        for class in Class::ALL {
            let expected = expected.get(&class).copied().unwrap_or(0);
            prop_assert_eq!(report.count(class), expected, "{}\n{}", class, report);
        }
        // Every finding has its evidence, except where a whole group is missing.
        for finding in report.findings() {
            prop_assert!(!finding.evidence.is_empty(), "{}", report);
        }
        prop_assert!(Class::ALL.iter().all(|c| claim.allows(*c) || report.count(*c) == 0 || report.broken().contains(c)));
    }

    #[test]
    fn no_numbers_make_it_panic(
        steps in prop::collection::vec((step(), any::<[bool; 4]>()), 1..40), (claim, _, _) in claims(),
    ) {
        let far = |((pause, mut step), [late, high, new, next]): ((u64, Step), [bool; 4])| {
            step.epoch = step.epoch.map(|epoch| if new { u64::MAX } else { epoch });
            step.message = step.message.map(|(p, seq)| (p, if next { (1 << 40) - 1 } else { seq }));
            step.place = step.place.map(|(log, partition, offset)| match high {
                true => (log, u32::MAX, offset.map(|_| u64::MAX)),
                false => (log, partition, offset),
            });
            step.at = if late { u64::MAX } else { pause };
            step
        };
        let mut steps: Vec<Step> = steps.into_iter().map(far).collect();
        steps.sort_by_key(|step| step.at);
        let report = try_check(claim, &steps).expect("a whole history");
        prop_assert!(!report.to_string().is_empty());
        let json: Result<serde_json::Value, _> = serde_json::from_str(&report.to_json());
        prop_assert!(json.is_ok());
    }
}
