//! Progress: is anything being done while messages wait?

/// How the groups get on.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Longest time without a first effect that is still fine; `None`: not judged.
    limit: Option<u64>,
    groups: Vec<Group>,
    /// Confirmed messages so far, and the first of them.
    confirmed: u64,
    first: Moment,
    faults: u64,
    healed: Moment,
    drained: bool,
    longest: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Moment {
    at: u64,
    number: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Group {
    /// Confirmed messages that it has not done.
    waiting: u64,
    /// Since when nothing was done, faults apart.
    since: Moment,
    /// Since when nothing was done, faults included.
    idle: u64,
}

/// A gap that was too long: since when, in which event it was seen, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) group: u32,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) micros: u64,
    pub(super) waiting: u64,
}

impl Progress {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// A group is there; everything confirmed so far waits for it.
    pub(super) fn add_groups(&mut self, count: usize) {
        let since = self.first.max(self.healed);
        let group = Group {
            waiting: self.confirmed,
            since,
            idle: self.first.at,
        };
        while self.groups.len() < count {
            self.groups.push(group);
        }
    }

    /// A message has to appear; `missing` says in which groups it has not yet.
    pub(super) fn confirmed(&mut self, at: u64, number: u64, missing: impl Fn(u32) -> bool) {
        let now = Moment { at, number };
        if self.confirmed == 0 {
            self.first = now;
        }
        self.confirmed += 1;
        for (index, group) in (0_u32..).zip(&mut self.groups) {
            if missing(index) {
                if group.waiting == 0 {
                    group.since = now;
                    group.idle = at;
                }
                group.waiting += 1;
            }
        }
    }

    /// The first effect of a message that may have been waited for.
    pub(super) fn done(&mut self, group: u32, at: u64, number: u64, awaited: bool) -> Option<Gap> {
        let gap = self.gap(group, at, number);
        let own = &mut self.groups[group as usize];
        if own.waiting > 0 && !self.drained {
            self.longest = self.longest.max(at.saturating_sub(own.idle));
        }
        own.since = Moment { at, number };
        own.idle = at;
        if awaited {
            own.waiting -= 1;
        }
        gap
    }

    /// A message need not be waited for any more.
    pub(super) fn excused(&mut self, group: u32) {
        let group = &mut self.groups[group as usize];
        group.waiting = group.waiting.saturating_sub(1);
    }

    /// A fault begins: the clock stands still.
    pub(super) fn fault(&mut self, at: u64, number: u64) -> Vec<Gap> {
        let gaps = self.gaps(at, number);
        self.faults += 1;
        gaps
    }

    /// A fault is over. With the last one, the clock starts anew.
    pub(super) fn healed(&mut self, at: u64, number: u64) {
        self.faults = self.faults.saturating_sub(1);
        if self.faults == 0 {
            self.healed = Moment { at, number };
            for group in &mut self.groups {
                group.since = group.since.max(self.healed);
            }
        }
    }

    /// Nothing is left to read: from here on nobody can be stuck.
    pub(super) fn drained(&mut self) {
        // Who says so waited a while to be sure; that is no standstill.
        self.drained = true;
    }

    /// The end of the history.
    pub(super) fn end(&mut self, at: u64, number: u64) -> Vec<Gap> {
        if !self.drained {
            let waits = self.groups.iter().filter(|group| group.waiting > 0);
            let idle = waits.map(|group| at.saturating_sub(group.idle)).max();
            self.longest = self.longest.max(idle.unwrap_or(0));
        }
        self.gaps(at, number)
    }

    /// The longest time without a first effect while messages waited, faults included.
    pub(super) fn longest(&self) -> u64 {
        self.longest
    }

    fn gaps(&self, at: u64, number: u64) -> Vec<Gap> {
        let groups = 0..self.groups.len() as u32;
        groups
            .filter_map(|group| self.gap(group, at, number))
            .collect()
    }

    fn gap(&self, index: u32, at: u64, number: u64) -> Option<Gap> {
        let limit = self.limit.filter(|_| self.faults == 0 && !self.drained)?;
        let group = &self.groups[index as usize];
        let micros = at.saturating_sub(group.since.at);
        (group.waiting > 0 && micros > limit).then_some(Gap {
            group: index,
            from: group.since.number,
            to: number,
            micros,
            waiting: group.waiting,
        })
    }
}
