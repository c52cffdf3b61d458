//! One direction of one connection: reads, applies the faults, writes.

use std::{collections::VecDeque, io, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::AsyncWriteExt,
    net::tcp::{ReadHalf, WriteHalf},
    sync::watch,
    task::coop::consume_budget,
    time::{Instant, sleep_until},
};

use super::{
    counters::Count,
    faults::{CutAfter, Faults},
    random::Random,
};

/// What reads along with what passes, and may change it. It is behind the faults, as seen from the
/// client: they act on what the client really sends and gets.
pub(super) trait Tap: Send {
    /// Takes bytes, and gives those that can go on.
    fn pass(&mut self, bytes: &[u8], to: &mut BytesMut) -> Result<(), super::ProxyError>;

    /// The stream ended: what was kept back goes on as it is.
    fn end(&mut self, to: &mut BytesMut);
}

pub(super) struct Pump<'a, T> {
    read: ReadHalf<'a>,
    write: WriteHalf<'a>,
    faults: watch::Receiver<Faults>,
    count: &'a Count,
    to_broker: bool,
    number: u64,
    tap: T,
    buffer: Vec<u8>,
    /// On their way.
    queue: VecDeque<Chunk>,
    queued: usize,
    /// Past all faults; the receiver is slow.
    out: BytesMut,
    ended: Option<Instant>,
    random: Random,
    seed: u64,
    /// No chunk arrives before the one in front of it.
    latest: Instant,
    /// Bandwidth: nothing goes on before.
    free_at: Instant,
    cut: Option<(CutAfter, u64)>,
    /// What a black hole keeps waiting was counted.
    held: bool,
}

struct Chunk {
    bytes: Bytes,
    due: Instant,
}

/// Why a direction did not come to its regular end.
#[derive(Debug)]
pub(super) enum Stop {
    /// So many bytes have passed.
    Cut,
    /// One side has broken off.
    Broken,
    /// What passes cannot be understood.
    Failed(super::ProxyError),
}

impl<'a, T: Tap> Pump<'a, T> {
    pub(super) fn new(
        read: ReadHalf<'a>,
        write: WriteHalf<'a>,
        faults: watch::Receiver<Faults>,
        count: &'a Count,
        to_broker: bool,
        number: u64,
        tap: T,
    ) -> Self {
        let now = Instant::now();
        let seed = faults.borrow().seed;
        Self {
            read,
            write,
            faults,
            count,
            to_broker,
            number,
            tap,
            buffer: vec![0; READ],
            queue: VecDeque::new(),
            queued: 0,
            out: BytesMut::new(),
            ended: None,
            random: random(seed, number, to_broker),
            seed,
            latest: now,
            free_at: now,
            cut: None,
            held: false,
        }
    }

    /// Runs until the end of this direction has been passed on.
    pub(super) async fn run(mut self) -> Result<(), Stop> {
        loop {
            let faults = *self.faults.borrow_and_update();
            let now = Instant::now();
            self.apply(&faults, now);
            if !faults.black_hole && self.out.is_empty() {
                if self.cut.is_some_and(|(_, left)| left == 0) {
                    return Err(Stop::Cut);
                }
                self.release(&faults, now)?;
                if !self.out.is_empty() {
                    // Most often there is room; if not, that is waited for below.
                    self.write_some()?;
                    consume_budget().await;
                    if self.out.is_empty() {
                        continue;
                    }
                }
                if self.out.is_empty()
                    && self.queue.is_empty()
                    && self.close_at(&faults, now) <= Some(now)
                    && self.ended.is_some()
                {
                    return self.close(&faults).await;
                }
            }
            let wake = self.wake_at(&faults, now);
            let writes = !self.out.is_empty() && !faults.black_hole;
            let room = self.queued < room(&faults);
            let reads = self.ended.is_none() && if faults.black_hole { !self.held } else { room };
            let waits = faults.black_hole
                && !self.held
                && (self.ended.is_some() || !self.queue.is_empty() || !self.out.is_empty());
            if waits {
                self.hold();
                continue;
            }
            tokio::select! {
                // A fault that is set comes before what is read after it.
                biased;
                changed = self.faults.changed() => changed.map_err(|_| Stop::Broken)?,
                () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
                ready = self.write.writable(), if writes => {
                    ready.map_err(|_| Stop::Broken)?;
                    self.write_some()?;
                }
                ready = self.read.readable(), if reads => {
                    ready.map_err(|_| Stop::Broken)?;
                    if self.faults.has_changed().unwrap_or(true) {
                        continue;
                    }
                    if faults.black_hole {
                        self.hold();
                    } else {
                        self.read_some(&faults)?;
                    }
                }
            }
        }
    }

    fn apply(&mut self, faults: &Faults, now: Instant) {
        if faults.seed != self.seed {
            self.seed = faults.seed;
            self.random = random(faults.seed, self.number, self.to_broker);
        }
        if faults.latency.is_none() && self.latest > now {
            self.latest = now;
            for chunk in &mut self.queue {
                chunk.due = chunk.due.min(now);
            }
        }
        if faults.bytes_per_second.is_none() {
            self.free_at = self.free_at.min(now);
        }
        if faults.cut_after != self.cut.map(|(cut, _)| cut) {
            self.cut = faults.cut_after.map(|cut| (cut, cut.bytes));
        }
        self.held &= faults.black_hole;
    }

    /// Lets the next bytes past the faults, if it is time.
    fn release(&mut self, faults: &Faults, now: Instant) -> Result<(), Stop> {
        let Some(chunk) = self.queue.front_mut() else {
            return Ok(());
        };
        if chunk.due > now || self.free_at > now {
            return Ok(());
        }
        let mut count = chunk.bytes.len();
        if let Some(slice) = faults.slice.filter(|slice| *slice < count) {
            count = slice;
            self.count.acted();
        }
        if let Some(speed) = faults.bytes_per_second {
            let burst = usize::try_from(speed / BURSTS_PER_SECOND).unwrap_or(usize::MAX);
            count = count.min(burst.max(1));
        }
        if let Some((_, left)) = &mut self.cut {
            count = count.min(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= u64::try_from(count).unwrap_or(u64::MAX).min(*left);
        }
        if let Some(speed) = faults.bytes_per_second {
            let bytes = u64::try_from(count).unwrap_or(u64::MAX);
            let nanos = bytes.saturating_mul(1_000_000_000) / speed;
            // What could have gone on a moment ago may catch up: timers are coarse.
            let earliest = now.checked_sub(BURST).unwrap_or(now);
            self.free_at = self.free_at.max(earliest) + Duration::from_nanos(nanos);
            self.count.acted();
        }
        let bytes = chunk.bytes.split_to(count);
        if chunk.bytes.is_empty() {
            self.queue.pop_front();
        }
        self.queued -= count;
        if self.to_broker {
            self.tap.pass(&bytes, &mut self.out).map_err(Stop::Failed)
        } else {
            self.out.extend_from_slice(&bytes);
            Ok(())
        }
    }

    fn read_some(&mut self, faults: &Faults) -> Result<(), Stop> {
        let count = match self.read.try_read(&mut self.buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(_) => return Err(Stop::Broken),
        };
        let read = &self.buffer[..count];
        let mut bytes = BytesMut::new();
        match (count, self.to_broker) {
            (0, false) => self.tap.end(&mut bytes),
            (_, false) => self.tap.pass(read, &mut bytes).map_err(Stop::Failed)?,
            (_, true) => bytes.extend_from_slice(read),
        }
        let now = Instant::now();
        let due = match faults.latency {
            Some((mean, jitter)) => {
                self.count.acted();
                let delay = self.random.between(mean - jitter, mean + jitter, UNIT);
                self.latest.max(now + delay)
            }
            None => now,
        };
        self.latest = due;
        if !bytes.is_empty() {
            self.queued += bytes.len();
            let bytes = bytes.freeze();
            self.queue.push_back(Chunk { bytes, due });
        }
        if count == 0 {
            self.ended = Some(due);
        }
        Ok(())
    }

    fn write_some(&mut self) -> Result<(), Stop> {
        match self.write.try_write(&self.out) {
            Ok(count) => {
                self.out.advance(count);
                self.count.passed(self.to_broker, count);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(_) => Err(Stop::Broken),
        }
    }

    /// When the end that came may go on.
    fn close_at(&self, faults: &Faults, now: Instant) -> Option<Instant> {
        let ended = self.ended?;
        let ended = if faults.latency.is_some() {
            ended
        } else {
            ended.min(now)
        };
        Some(ended + faults.slow_close.unwrap_or_default())
    }

    async fn close(mut self, faults: &Faults) -> Result<(), Stop> {
        if self.to_broker {
            self.tap.end(&mut self.out);
            let written = self.write.write_all(&self.out).await;
            written.map_err(|_| Stop::Broken)?;
        }
        if faults.slow_close.is_some() {
            self.count.acted();
        }
        self.write.shutdown().await.map_err(|_| Stop::Broken)
    }

    fn hold(&mut self) {
        self.held = true;
        self.count.acted();
    }

    /// When there is something to do though nothing happens.
    fn wake_at(&self, faults: &Faults, now: Instant) -> Option<Instant> {
        if faults.black_hole || !self.out.is_empty() {
            return None;
        }
        match self.queue.front() {
            Some(chunk) => Some(chunk.due.max(self.free_at)),
            None => self.close_at(faults, now),
        }
    }
}

/// The bytes that may be on their way.
fn room(faults: &Faults) -> usize {
    if faults.latency.is_some() {
        READ * 16
    } else {
        READ
    }
}

fn random(seed: u64, number: u64, to_broker: bool) -> Random {
    Random::of(seed, number * 2 + u64::from(to_broker))
}

const READ: usize = 65536;
const BURSTS_PER_SECOND: u64 = 20;
const BURST: Duration = Duration::from_millis(50);
/// The step between two delays that can be drawn.
const UNIT: Duration = Duration::from_micros(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_jitter_for_the_same_connection_and_direction() {
        let delays = |seed, number, to_broker| -> Vec<Duration> {
            let mut random = random(seed, number, to_broker);
            let most = Duration::from_millis(200);
            (0..50)
                .map(|_| random.between(Duration::ZERO, most, UNIT))
                .collect()
        };
        let drawn = delays(7, 0, true);
        assert_eq!(drawn, delays(7, 0, true));
        for other in [delays(8, 0, true), delays(7, 1, true), delays(7, 0, false)] {
            assert_ne!(drawn, other);
        }
    }
}
