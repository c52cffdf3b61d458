//! What is known of each message: one byte for its sending, one for each group.

use super::{names::Names, pages::Pages};

/// One message: the number of its producer, and its own among that producer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) producer: u32,
    pub(super) seq: u64,
}

/// What became of a message's sending.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sent(u8);

/// What a group had of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Had(u8);

/// The messages of a history.
#[derive(Debug, Default)]
pub(super) struct Messages {
    pub(super) producers: Names,
    sent: Vec<Pages<Sent>>,
    /// The transaction of the last send, plus one; only where there are transactions.
    transactions: Vec<Pages<u32>>,
    /// By group, then by producer.
    had: Vec<Vec<Pages<Had>>>,
}

impl Id {
    /// In one number, for tables by offset; `None` if it is too large for any recorder.
    pub(super) fn packed(self) -> Option<u64> {
        let fits = self.seq < 1 << SEQ_BITS && self.producer < 1 << (63 - SEQ_BITS);
        fits.then(|| (u64::from(self.producer) << SEQ_BITS) | self.seq)
    }

    pub(super) fn unpacked(packed: u64) -> Self {
        Self {
            producer: (packed >> SEQ_BITS) as u32,
            seq: packed & ((1 << SEQ_BITS) - 1),
        }
    }
}

impl Messages {
    pub(super) fn sent(&self, id: Id) -> Sent {
        let pages = self.sent.get(id.producer as usize);
        pages.map_or(Sent(0), |pages| pages.get(id.seq))
    }

    pub(super) fn sent_mut(&mut self, id: Id) -> &mut Sent {
        entry(&mut self.sent, id.producer).get_mut(id.seq)
    }

    pub(super) fn had(&self, group: u32, id: Id) -> Had {
        let producers = self.had.get(group as usize);
        let pages = producers.and_then(|producers| producers.get(id.producer as usize));
        pages.map_or(Had(0), |pages| pages.get(id.seq))
    }

    pub(super) fn had_mut(&mut self, group: u32, id: Id) -> &mut Had {
        // The sweep goes over what was sent; a message that was not has to be met there too.
        self.sent_mut(id);
        let producers = entry(&mut self.had, group);
        entry(producers, id.producer).get_mut(id.seq)
    }

    /// The transaction of the last send.
    pub(super) fn transaction(&self, id: Id) -> Option<u32> {
        let pages = self.transactions.get(id.producer as usize)?;
        pages.get(id.seq).checked_sub(1)
    }

    pub(super) fn set_transaction(&mut self, id: Id, transaction: Option<u32>) {
        if transaction.is_some() || self.transaction(id).is_some() {
            let number = transaction.map_or(0, |number| number + 1);
            *entry(&mut self.transactions, id.producer).get_mut(id.seq) = number;
        }
    }

    /// Each message that any event named, by producer and number.
    pub(super) fn all(&self) -> impl Iterator<Item = (Id, Sent)> {
        let producers = (0_u32..).zip(&self.sent);
        producers.flat_map(|(producer, pages)| {
            let pages = pages.sorted();
            pages.map(move |(seq, sent)| (Id { producer, seq }, sent))
        })
    }

    pub(super) fn pages(&self) -> usize {
        let had = self.had.iter().flatten();
        let had: usize = had.map(Pages::count).sum();
        let sent: usize = self.sent.iter().map(Pages::count).sum();
        let transactions: usize = self.transactions.iter().map(Pages::count).sum();
        had + sent + transactions
    }

    pub(super) fn bytes(&self) -> usize {
        let had: usize = self.had.iter().flatten().map(Pages::bytes).sum();
        let sent: usize = self.sent.iter().map(Pages::bytes).sum();
        let transactions: usize = self.transactions.iter().map(Pages::bytes).sum();
        had + sent + transactions + self.producers.bytes()
    }
}

impl Sent {
    /// One more attempt.
    pub(super) fn begin(&mut self) {
        if self.was_sent() {
            self.0 |= RESENT;
        }
        self.0 |= SENT;
        if self.0 & OPEN != OPEN {
            self.0 += OPEN_ONE;
        }
    }

    /// An attempt ended. Three at once are not told apart: they stay open.
    pub(super) fn end(&mut self) {
        if self.0 & OPEN != 0 && self.0 & OPEN != OPEN {
            self.0 -= OPEN_ONE;
        }
    }

    /// The transaction of the attempts ended.
    pub(super) fn end_all(&mut self) {
        self.0 &= !OPEN;
    }

    pub(super) fn ok(&mut self) {
        self.0 |= SENT | OK;
    }

    pub(super) fn maybe(&mut self) {
        self.0 |= SENT | MAYBE;
    }

    pub(super) fn rejected(&mut self) {
        self.0 |= SENT | REJECTED;
    }

    pub(super) fn was_sent(self) -> bool {
        self.0 & SENT != 0
    }

    pub(super) fn was_resent(self) -> bool {
        self.0 & RESENT != 0
    }

    /// It has to appear.
    pub(super) fn is_ok(self) -> bool {
        self.0 & OK != 0
    }

    /// It may appear or not.
    pub(super) fn is_unknown(self) -> bool {
        !self.is_ok() && self.0 & (MAYBE | OPEN) != 0
    }

    pub(super) fn was_rejected(self) -> bool {
        self.0 & REJECTED != 0
    }
}

impl Had {
    /// Counts a delivery; true if there was one before.
    pub(super) fn delivery(&mut self) -> bool {
        let before = self.0 & DELIVERED != 0;
        if !before {
            self.0 |= DELIVERED;
        }
        before
    }

    /// Counts an effect; true if there was one before.
    pub(super) fn effect(&mut self) -> bool {
        let before = self.has_effect();
        self.0 |= EFFECT;
        before
    }

    /// It may have its effect, or is accounted for in another way.
    pub(super) fn excuse(&mut self) {
        self.0 |= EXCUSED;
    }

    pub(super) fn ack(&mut self) {
        self.0 |= ACKED;
    }

    pub(super) fn skip(&mut self) {
        self.0 |= SKIPPED;
    }

    pub(super) fn was_delivered(self) -> bool {
        self.0 & DELIVERED != 0
    }

    pub(super) fn has_effect(self) -> bool {
        self.0 & EFFECT != 0
    }

    /// Nothing is missing here.
    pub(super) fn is_accounted_for(self) -> bool {
        self.0 & (EFFECT | EXCUSED) != 0
    }

    /// A commit may pass it.
    pub(super) fn is_finished(self) -> bool {
        self.0 & (EFFECT | ACKED) != 0
    }

    pub(super) fn was_skipped(self) -> bool {
        self.0 & SKIPPED != 0
    }
}

fn entry<T: Default>(list: &mut Vec<T>, index: u32) -> &mut T {
    let index = index as usize;
    if list.len() <= index {
        list.resize_with(index + 1, T::default);
    }
    &mut list[index]
}

const SENT: u8 = 1;
const RESENT: u8 = 1 << 1;
/// Two bits: attempts whose outcome is not recorded.
const OPEN: u8 = 0b1100;
const OPEN_ONE: u8 = 0b0100;
const OK: u8 = 1 << 4;
const MAYBE: u8 = 1 << 5;
const REJECTED: u8 = 1 << 6;

const DELIVERED: u8 = 1;
const EFFECT: u8 = 1 << 1;
const EXCUSED: u8 = 1 << 2;
const ACKED: u8 = 1 << 3;
const SKIPPED: u8 = 1 << 4;

/// A recorder would count for 34 years at 1,000 messages a second.
const SEQ_BITS: u32 = 40;
