//! What each event changes, and what it contradicts.

use crate::history::{Event, Op, Seen};

use super::{
    Class,
    evidence::{Pattern, Want},
    messages::Id,
    offsets::Epoch,
    order,
    owners::{Grace, Moment},
    pass::{Pass, TOO_LARGE},
    progress::Gap,
    transactions::{CommitOf, EffectOf, End, Waiting},
};

impl Pass<'_> {
    pub(super) fn send(&mut self, event: &Event<'_>) -> Result<(), &'static str> {
        let id = self.id(event)?;
        self.messages.sent_mut(id).begin();
        let transaction = event.transaction().map(|tx| self.transactions.number(tx));
        self.messages.set_transaction(id, transaction);
        if let Some(transaction) = transaction {
            self.transactions.wait(transaction, Waiting::Send(id));
        }
        Ok(())
    }

    pub(super) fn outcome(
        &mut self,
        event: &Event<'_>,
        seen: &Seen<'_>,
    ) -> Result<(), &'static str> {
        let id = self.id(event)?;
        self.messages.sent_mut(id).end();
        if event.op == Op::Rejected {
            self.messages.sent_mut(id).rejected();
            // It is no part of its transaction.
            self.messages.set_transaction(id, None);
            return Ok(());
        }
        self.lies_at(event, id, seen.number)?;
        let transaction = self.messages.transaction(id);
        match transaction.map(|transaction| self.transactions.end_of(transaction)) {
            // Decided when it ends.
            Some(End::Open) => {}
            // It was sent and is not stored; that it was sent is known.
            Some(End::Aborted) => {}
            None if event.op == Op::Unknown => self.messages.sent_mut(id).maybe(),
            None | Some(End::Committed) => self.confirm(id, seen.number),
        }
        Ok(())
    }

    pub(super) fn deliver(
        &mut self,
        event: &Event<'_>,
        seen: &Seen<'_>,
    ) -> Result<(), &'static str> {
        self.counts.deliveries += 1;
        let group = self.group(event.group());
        if event.run().is_some() {
            return Ok(());
        }
        let id = self.id(event)?;
        if self.messages.had_mut(group, id).delivery() {
            self.suspect(Class::DuplicateDelivery, |pass| {
                let first = Pattern::message(Op::Deliver, id, Some(group));
                let wants = vec![Want::First(first), Want::Event(seen.number)];
                (
                    format!("{} twice to {}", pass.tell(id), pass.tell_group(group)),
                    wants,
                )
            });
        }
        self.lies_at(event, id, seen.number)?;
        if let Some((partition, offset)) = self.place(event) {
            let place = (group, partition);
            let record = (offset, seen.number);
            self.offsets.delivered(place, record, id, &self.messages);
        }
        Ok(())
    }

    pub(super) fn corrupt(&mut self, event: &Event<'_>, number: u64) -> Result<(), &'static str> {
        self.counts.deliveries += 1;
        let group = self.group(event.group());
        let id = match event.message() {
            Some(_) if event.run().is_none() => Some(self.id(event)?),
            _ => None,
        };
        self.suspect(Class::Corrupt, |pass| {
            let group = pass.tell_group(group);
            match id {
                Some(id) => {
                    let sent = Want::First(Pattern::message(Op::Send, id, None));
                    let text = format!("bytes to {group} that read as {}", pass.tell(id));
                    (text, vec![sent, Want::Event(number)])
                }
                None => (
                    format!("bytes to {group} that are no tag"),
                    vec![Want::Event(number)],
                ),
            }
        });
        if let Some(id) = id.filter(|id| self.messages.sent(*id).was_sent()) {
            // It is missing because it is corrupt: one finding for it.
            self.excuse(group, id);
        }
        Ok(())
    }

    pub(super) fn effect(
        &mut self,
        event: &Event<'_>,
        seen: &Seen<'_>,
    ) -> Result<(), &'static str> {
        self.counts.effects += 1;
        let group = self.group(event.group());
        let number = seen.number;
        if let Some(run) = event.run() {
            self.suspect(Class::Unexpected, |pass| {
                let group = pass.tell_group(group);
                let text = format!("an effect in {group} of a message of the run {run:?}");
                (text, vec![Want::Event(number)])
            });
            return Ok(());
        }
        let id = self.id(event)?;
        self.in_time(event, seen, group, self.claim.effect_grace());
        let key = order::key(event.key());
        let effect = EffectOf {
            group,
            id,
            key,
            number,
        };
        let transaction = event.transaction().map(|tx| self.transactions.number(tx));
        match transaction.map(|transaction| (transaction, self.transactions.end_of(transaction))) {
            Some((transaction, End::Open)) => {
                self.transactions.wait(transaction, Waiting::Effect(effect));
            }
            Some((_, End::Aborted)) => {}
            None | Some((_, End::Committed)) => self.apply_effect(effect),
        }
        Ok(())
    }

    pub(super) fn ack(&mut self, event: &Event<'_>) -> Result<(), &'static str> {
        self.counts.acks += 1;
        let group = self.group(event.group());
        if event.run().is_none() {
            let id = self.id(event)?;
            self.messages.had_mut(group, id).ack();
        }
        Ok(())
    }

    pub(super) fn commit(&mut self, event: &Event<'_>, seen: &Seen<'_>) {
        self.counts.commits += 1;
        let group = self.group(event.group());
        let Some((partition, next)) = self.place(event) else {
            return;
        };
        self.in_time(event, seen, group, 0);
        let commit = CommitOf {
            group,
            partition,
            epoch: event.epoch.map_or(Epoch::File(seen.file), Epoch::Number),
            next,
            number: seen.number,
        };
        let transaction = event.transaction().map(|tx| self.transactions.number(tx));
        match transaction.map(|transaction| (transaction, self.transactions.end_of(transaction))) {
            Some((transaction, End::Open)) => {
                self.transactions.wait(transaction, Waiting::Commit(commit));
            }
            Some((_, End::Aborted)) => {}
            None | Some((_, End::Committed)) => self.apply_commit(commit),
        }
    }

    pub(super) fn ownership(&mut self, event: &Event<'_>, seen: &Seen<'_>) {
        let group = self.group(event.group());
        let (Some(partition), Some(epoch)) = (event.partition, event.epoch) else {
            return;
        };
        let partition = self.names.partition(event.log(), partition);
        let now = Moment {
            at: event.at,
            number: seen.number,
        };
        match event.op {
            Op::Assign => self
                .owners
                .assign((group, partition), seen.file, epoch, now),
            _ => self
                .owners
                .let_go((group, partition), seen.file, epoch, now),
        }
    }

    pub(super) fn end(&mut self, event: &Event<'_>, end: End, number: u64) {
        let Some(tx) = event.transaction() else {
            return;
        };
        let transaction = self.transactions.number(tx);
        let mut waiting = self.transactions.end(transaction, end);
        let committed = self.transactions.end_of(transaction) == End::Committed;
        // All of it happens at once, so an offset may be recorded before the effect it stands for.
        waiting.sort_by_key(Waiting::rank);
        for waiting in waiting {
            match waiting {
                Waiting::Send(id) if self.messages.transaction(id) == Some(transaction) => {
                    self.messages.sent_mut(id).end_all();
                    if committed {
                        self.confirm(id, number);
                    }
                }
                Waiting::Effect(effect) if committed => self.apply_effect(effect),
                Waiting::Commit(commit) if committed => self.apply_commit(commit),
                _ => {}
            }
        }
    }

    /// The message has to appear from now on.
    fn confirm(&mut self, id: Id, number: u64) {
        if !self.messages.sent(id).is_ok() {
            self.messages.sent_mut(id).ok();
            let missing = |group| !self.messages.had(group, id).is_accounted_for();
            self.progress.confirmed(self.last.0, number, missing);
        }
    }

    fn apply_effect(&mut self, effect: EffectOf) {
        let EffectOf {
            group,
            id,
            key,
            number,
        } = effect;
        let sent = self.messages.sent(id);
        let had = self.messages.had_mut(group, id);
        let awaited = sent.is_ok() && !had.is_accounted_for();
        if had.effect() {
            self.suspect(Class::DuplicateEffect, |pass| {
                let first = Pattern::message(Op::Effect, id, Some(group));
                let wants = vec![Want::First(first), Want::Event(number)];
                (
                    format!("{} twice in {}", pass.tell(id), pass.tell_group(group)),
                    wants,
                )
            });
            return;
        }
        let ordered = key.filter(|_| !sent.was_resent());
        if let Some(later) = ordered.and_then(|key| self.order.first_effect(group, id, key)) {
            self.suspect(Class::Reordered, |pass| {
                let first = Pattern::message(Op::Effect, later, Some(group));
                let wants = vec![Want::First(first), Want::Event(number)];
                let (later, group) = (pass.tell(later), pass.tell_group(group));
                (format!("{} after {later} in {group}", pass.tell(id)), wants)
            });
        }
        let gap = self.progress.done(group, self.last.0, self.last.1, awaited);
        self.stuck(gap.as_slice());
    }

    fn apply_commit(&mut self, commit: CommitOf) {
        let CommitOf {
            group,
            partition,
            epoch,
            next,
            number,
        } = commit;
        let place = (group, partition);
        if let Some(earlier) = self.offsets.back(place, epoch, (next, number)) {
            self.suspect(Class::CommitBack, |pass| {
                let wants = vec![Want::Event(earlier), Want::Event(number)];
                let (place, group) = (pass.names.tell(partition), pass.tell_group(group));
                (format!("{group} goes back to {next} in {place}"), wants)
            });
        }
        if let Some(offset) = self.offsets.ahead(place, next, &self.messages) {
            self.suspect(Class::CommitAhead, |pass| {
                let given = Pattern::Given(group, partition, offset);
                let wants = vec![Want::LastBefore(given, number), Want::Event(number)];
                let (place, group) = (pass.names.tell(partition), pass.tell_group(group));
                (
                    format!("{group} commits {next} in {place}, and {offset} is not done"),
                    wants,
                )
            });
        }
    }

    fn in_time(&mut self, event: &Event<'_>, seen: &Seen<'_>, group: u32, own: u64) {
        let Some((partition, _)) = self.place(event) else {
            return;
        };
        let fence = self.claim.fence_grace();
        let grace = Grace { own, fence };
        let place = (group, partition);
        let stale = self
            .owners
            .write(place, seen.file, event.epoch, event.at, grace);
        if let Some(since) = stale {
            self.suspect(Class::StaleWrite, |pass| {
                let (place, group) = (pass.names.tell(partition), pass.tell_group(group));
                let text = format!("{group} writes for {place}, which it no longer has");
                (text, vec![Want::Event(since), Want::Event(seen.number)])
            });
        }
    }

    fn lies_at(&mut self, event: &Event<'_>, id: Id, number: u64) -> Result<(), &'static str> {
        let Some((partition, offset)) = self.place(event) else {
            return Ok(());
        };
        let packed = id.packed().ok_or(TOO_LARGE)?;
        if let Some(other) = self.offsets.put(partition, offset, packed) {
            self.suspect(Class::InconsistentOffset, |pass| {
                let first = Want::First(Pattern::Record(partition, offset));
                let place = pass.names.tell(partition);
                let (id, other) = (pass.tell(id), pass.tell(other));
                let text = format!("offset {offset} of {place} is {other} and {id}");
                (text, vec![first, Want::Event(number)])
            });
        }
        Ok(())
    }

    pub(super) fn stuck(&mut self, gaps: &[Gap]) {
        for gap in gaps
            .iter()
            .filter(|gap| self.is_judged(gap.group))
            .copied()
            .collect::<Vec<_>>()
        {
            self.suspect(Class::Stuck, |pass| {
                let group = pass.tell_group(gap.group);
                let seconds = gap.micros as f64 / 1e6;
                let waiting = gap.waiting;
                let text = format!("{group} did nothing for {seconds:.3} s, {waiting} waiting");
                (text, vec![Want::Event(gap.from), Want::Event(gap.to)])
            });
        }
    }

    /// The message need not appear in this group any more.
    pub(super) fn excuse(&mut self, group: u32, id: Id) {
        let awaited = self.messages.sent(id).is_ok();
        let had = self.messages.had_mut(group, id);
        if awaited && !had.is_accounted_for() {
            self.progress.excused(group);
        }
        had.excuse();
    }
}
