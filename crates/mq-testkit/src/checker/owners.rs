//! Owners: who holds a partition, in which epoch, and who writes when it no longer does.

use std::collections::HashMap;

/// Who was given a partition of a group, and who let go of it.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// By group, partition and file: that process's latest epoch.
    own: HashMap<(u32, u32, usize), Own>,
    /// By group and partition: the highest epoch of all.
    top: HashMap<(u32, u32), Top>,
}

#[derive(Debug, Clone, Copy)]
struct Own {
    epoch: u64,
    since: Moment,
    /// When it let go.
    over: Option<Moment>,
}

#[derive(Debug, Clone, Copy)]
struct Top {
    epoch: u64,
    file: usize,
    since: Moment,
}

/// A time and its event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) at: u64,
    pub(super) number: u64,
}

/// How late a write may be, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grace {
    /// After its own process let go.
    pub(super) own: u64,
    /// After another process took over.
    pub(super) fence: u64,
}

impl Owners {
    pub(super) fn assign(
        &mut self,
        (group, partition): (u32, u32),
        file: usize,
        epoch: u64,
        since: Moment,
    ) {
        let over = None;
        let own = Own { epoch, since, over };
        self.own.insert((group, partition, file), own);
        let top = Top { epoch, file, since };
        let highest = self.top.entry((group, partition)).or_insert(top);
        if epoch > highest.epoch {
            *highest = top;
        }
    }

    pub(super) fn let_go(
        &mut self,
        (group, partition): (u32, u32),
        file: usize,
        epoch: u64,
        now: Moment,
    ) {
        if let Some(own) = self.own.get_mut(&(group, partition, file))
            && own.epoch == epoch
        {
            own.over.get_or_insert(now);
        }
    }

    /// An effect or commit; returns the event since which it was too late.
    pub(super) fn write(
        &self,
        (group, partition): (u32, u32),
        file: usize,
        epoch: Option<u64>,
        at: u64,
        grace: Grace,
    ) -> Option<u64> {
        let own = self.own.get(&(group, partition, file));
        let epoch = epoch.or(own.map(|own| own.epoch))?;
        let late = |since: Moment, grace: u64| at > since.at.saturating_add(grace);
        let own = own.and_then(|own| match own.epoch {
            newer if newer > epoch => Some(own.since),
            same if same == epoch => own.over,
            _ => None,
        });
        if let Some(since) = own.filter(|since| late(*since, grace.own)) {
            return Some(since.number);
        }
        let top = self.top.get(&(group, partition))?;
        let taken_over = top.epoch > epoch && top.file != file && late(top.since, grace.fence);
        taken_over.then_some(top.since.number)
    }
}
