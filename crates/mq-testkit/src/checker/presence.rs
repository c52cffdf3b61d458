//! Presence: what is there and should not be, and what is missing, once the history is over.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::Op;

use super::{
    Class,
    evidence::{Pattern, Want},
    messages::{Id, Sent},
    names::Names,
    pass::Pass,
    transactions::End,
};

/// The part of a transaction that a group has, with one message of each kind.
#[derive(Debug, Default)]
struct Part {
    visible: Option<Id>,
    missing: Option<Id>,
}

impl Pass<'_> {
    /// Goes over all messages once; `stuck` are the groups that stood still at the end.
    pub(super) fn presence(&mut self, stuck: &[u32]) {
        let groups: Vec<u32> = (0..self.names.groups.len() as u32).collect();
        let judged: Vec<u32> = groups
            .iter()
            .copied()
            .filter(|group| self.is_judged(*group))
            .collect();
        let torn = self.torn(&judged);
        self.skipped(&judged, &torn);
        // The messages are taken out, so that findings can be noted on the way.
        let messages = std::mem::take(&mut self.messages);
        let mut found = Vec::new();
        for (id, sent) in messages.all() {
            self.counts.messages += u64::from(sent.was_sent());
            self.counts.confirmed += u64::from(sent.is_ok());
            self.counts.unknown += u64::from(sent.is_unknown());
            let refused = sent.was_sent() && !sent.is_ok() && !sent.is_unknown();
            self.counts.rejected += u64::from(refused);
            let transaction = messages.transaction(id);
            let mut appeared = false;
            for group in &groups {
                let had = messages.had(*group, id);
                appeared |= had.has_effect();
                if had.has_effect() && !sent.was_sent() {
                    found.push((Class::Unexpected, id, *group));
                }
                let absent = !sent.was_rejected() || self.claim.rejected_is_absent();
                if had.has_effect() && refused && absent {
                    found.push((Class::AbortedRead, id, *group));
                }
            }
            self.counts.recovered += u64::from(appeared && sent.is_unknown());
            for group in judged.iter().filter(|_| sent.is_ok()) {
                let had = messages.had(*group, id);
                let explained = had.is_accounted_for()
                    || had.was_skipped()
                    || stuck.contains(group)
                    || transaction.is_some_and(|t| torn.contains(&(t, *group)));
                if !explained {
                    found.push((Class::Lost, id, *group));
                }
            }
            for (class, id, group) in found.drain(..) {
                let about = (id, sent, transaction);
                self.note(class, about, group, &messages.producers);
            }
        }
        self.messages = messages;
    }

    /// Notes what was found about one message.
    fn note(
        &mut self,
        class: Class,
        (id, sent, transaction): (Id, Sent, Option<u32>),
        group: u32,
        producers: &Names,
    ) {
        let name = format_args!("{}#{}", producers.name(id.producer), id.seq).to_string();
        let of = |op| Want::First(Pattern::message(op, id, None));
        let by = |op| Want::First(Pattern::message(op, id, Some(group)));
        let again = sent.was_resent() || transaction.is_some();
        let end = transaction.map(|transaction| Want::First(Pattern::End(transaction)));
        self.suspect(class, |pass| {
            let group = pass.tell_group(group);
            match class {
                Class::Lost => {
                    let mut wants = vec![of(Op::Ok), by(Op::Deliver), by(Op::Ack)];
                    // Which of several sends is owed shows only beside the first one.
                    wants.extend(again.then(|| of(Op::Send)));
                    wants.push(Want::Otherwise(Pattern::message(Op::Send, id, None)));
                    wants.extend(end);
                    (format!("{name} never had its effect in {group}"), wants)
                }
                Class::AbortedRead => {
                    let mut wants = vec![of(Op::Rejected), by(Op::Effect)];
                    wants.extend(end);
                    (
                        format!("{name} was not stored and had its effect in {group}"),
                        wants,
                    )
                }
                _ => {
                    let text = format!("{name} was never sent and had its effect in {group}");
                    (text, vec![by(Op::Effect)])
                }
            }
        });
    }

    /// The transactions of which a group has a part.
    fn torn(&mut self, judged: &[u32]) -> BTreeSet<(u32, u32)> {
        let mut parts: BTreeMap<(u32, u32), Part> = BTreeMap::new();
        if self.transactions.len() > 0 {
            for (id, _) in self.messages.all() {
                let transaction = self.messages.transaction(id);
                let whole = |t: &u32| self.transactions.end_of(*t) != End::Aborted;
                let Some(transaction) = transaction.filter(whole) else {
                    continue;
                };
                for group in judged {
                    let part = parts.entry((transaction, *group)).or_default();
                    let had = self.messages.had(*group, id);
                    if had.has_effect() {
                        part.visible.get_or_insert(id);
                    } else if !had.is_accounted_for() {
                        part.missing.get_or_insert(id);
                    }
                }
            }
        }
        let mut torn = BTreeSet::new();
        for ((transaction, group), part) in parts {
            if let (Some(visible), Some(missing)) = (part.visible, part.missing) {
                torn.insert((transaction, group));
                self.suspect(Class::TornTransaction, |pass| {
                    let wants = vec![
                        Want::First(Pattern::message(Op::Send, missing, None)),
                        Want::First(Pattern::End(transaction)),
                        Want::First(Pattern::message(Op::Effect, visible, Some(group))),
                    ];
                    let (one, other) = (pass.tell(visible), pass.tell(missing));
                    let name = pass.transactions.names.name(transaction);
                    let group = pass.tell_group(group);
                    (
                        format!("{group} has {one} of {name} and not {other}"),
                        wants,
                    )
                });
            }
        }
        torn
    }

    /// Confirmed records that a group was never given, below one that it was.
    fn skipped(&mut self, judged: &[u32], torn: &BTreeSet<(u32, u32)>) {
        for group in judged {
            let missing: Vec<(u32, u64, Id, u64)> = self
                .offsets
                .below(*group)
                .filter(|(_, _, id, _)| {
                    let had = self.messages.had(*group, *id);
                    let transaction = self.messages.transaction(*id);
                    self.messages.sent(*id).is_ok()
                        && !had.is_accounted_for()
                        && !had.was_delivered()
                        && transaction.is_none_or(|t| !torn.contains(&(t, *group)))
                })
                .collect();
            for (partition, offset, id, higher) in missing {
                let had = self.messages.had_mut(*group, id);
                if had.was_skipped() {
                    continue;
                }
                had.skip();
                self.suspect(Class::Skipped, |pass| {
                    let stored = Want::First(Pattern::message(Op::Ok, id, None));
                    let (id, place) = (pass.tell(id), pass.names.tell(partition));
                    let group = pass.tell_group(*group);
                    let text = format!("{group} never got {id} at {offset} of {place}");
                    (text, vec![stored, Want::Event(higher)])
                });
            }
        }
    }
}
