//! Touches: reads on their way into the order of use.
//!
//! A read moves nothing where it happens, or the replicas would part. It leaves a touch: the slot
//! that it hit and a check of what it found there. Touches travel to the leader, which adds them to
//! the next log entry, and applying that entry moves the slots, on every replica alike.
//!
//! An entry is touched at most once per interval of shard time. That needs no mark in the entry:
//! what was used within the interval has a greater recency number than any that was given out
//! before it, and a few samples of (stamp, next number) tell which those are. What is gathered and
//! not yet applied is remembered apart, for an eighth of an interval: a touch too many does no
//! harm.
//!
//! Where entries are evicted sooner than an interval goes by, the interval is too long: there an
//! entry is touched as soon as it is not among the newest eighth any more.
//!
//! None of this is replicated, since it decides only what is proposed. A touch that gets lost, as
//! with a leader that fails, costs an entry at most one interval of its recency.
//!
//! Invariant: at most [`GATHERED_MAX`] touches wait. Beyond it hits are not noted; the entries
//! that they concern are hit again if they are worth keeping.

use std::collections::VecDeque;

use hashbrown::HashSet;

use crate::ids::{Millis, Version};

/// Touches that wait for a log entry, or for a message to the leader, at most.
const GATHERED_MAX: usize = 8_192;
/// Samples within an interval: the resolution with which it is kept.
const SAMPLES: u64 = 8;
/// Bytes of an encoded touch: slot (4), check (2), little-endian.
pub const TOUCH_BYTES: usize = 6;

/// A read's trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Touch {
    pub slot: u32,
    check: u16,
}

impl Touch {
    /// A touch of the entry in `slot` that has this version.
    pub fn new(slot: u32, version: Version) -> Self {
        Touch { slot, check: check(version) }
    }

    /// Whether it means the entry with this version. Another one that has come into the slot since
    /// is mistaken for it once in 65,536 times, by all replicas alike.
    pub fn means(self, version: Version) -> bool {
        self.check == check(version)
    }

    /// The touches that `bytes` hold. A rest that is none is passed over.
    pub fn decode_all(bytes: &[u8]) -> impl Iterator<Item = Touch> + '_ {
        let (touches, _) = bytes.as_chunks::<TOUCH_BYTES>();
        touches.iter().map(|&[a, b, c, d, low, high]| Touch {
            slot: u32::from_le_bytes([a, b, c, d]),
            check: u16::from_le_bytes([low, high]),
        })
    }

    fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.slot.to_le_bytes());
        out.extend_from_slice(&self.check.to_le_bytes());
    }
}

fn check(Version(version): Version) -> u16 {
    (version ^ version >> 16 ^ version >> 32 ^ version >> 48) as u16
}

/// The touches of one replica that are not proposed yet.
#[derive(Debug)]
pub(super) struct Touches {
    /// In milliseconds of shard time; zero if reads leave no touches.
    interval: u64,
    /// The next recency number as of some stamps within the interval, oldest first.
    samples: VecDeque<(u64, u64)>,
    /// Entries with a lower recency number were not used for an interval.
    horizon: u64,
    gathered: VecDeque<Touch>,
    /// Slots with a touch that was gathered since `marked_since`.
    marked: HashSet<u32, ahash::RandomState>,
    /// In shard time.
    marked_since: u64,
}

impl Touches {
    /// None, for the given interval.
    pub fn new(interval: Millis) -> Self {
        Touches {
            interval: interval.0,
            samples: VecDeque::new(),
            horizon: 0,
            gathered: VecDeque::new(),
            // Slot numbers are nobody's choice, so any seeds do.
            marked: HashSet::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4)),
            marked_since: 0,
        }
    }

    /// Makes `now`, in shard time, the point that an interval is counted back from. `applied` is
    /// the stamp that was applied last, and `next_number` the recency number that comes next:
    /// whatever has a lower one was used by then.
    #[inline]
    pub fn turn_to(&mut self, now: Millis, applied: Millis, next_number: u64) {
        if self.interval == 0 {
            return;
        }
        let step = (self.interval / SAMPLES).max(1);
        if self.marked_since + step <= now.0 {
            self.marked_since = now.0;
            self.marked.clear();
        }
        if applied.0.saturating_add(self.interval) <= now.0 {
            self.horizon = next_number;
            self.samples.clear();
            return;
        }
        if self.samples.back().is_none_or(|&(last, _)| last + step <= applied.0) {
            self.samples.push_back((applied.0, next_number));
        }
        while let Some(&(stamp, number)) = self.samples.front()
            && stamp.saturating_add(self.interval) <= now.0
        {
            self.horizon = number;
            self.samples.pop_front();
        }
    }

    /// Notes a hit on the entry in `slot`, unless it was used lately: within the interval, and not
    /// before what has the recency number `fresh_from`.
    #[inline]
    pub fn note(&mut self, slot: u32, version: Version, recency: u64, fresh_from: u64) {
        if recency < self.horizon.max(fresh_from) {
            self.add(Touch::new(slot, version));
        }
    }

    /// Adds a touch, unless the slot has one or there are too many.
    pub fn add(&mut self, touch: Touch) {
        if self.interval > 0 && self.gathered.len() < GATHERED_MAX && self.marked.insert(touch.slot)
        {
            self.gathered.push_back(touch);
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.gathered.len()
    }

    /// Moves up to `count_max` touches to `out`, encoded, the earliest first. Returns how many.
    pub fn take(&mut self, count_max: usize, out: &mut Vec<u8>) -> usize {
        let count = count_max.min(self.gathered.len());
        for touch in self.gathered.drain(..count) {
            touch.encode(out);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(touches: &mut Touches) -> Vec<u32> {
        let mut bytes = Vec::new();
        let count = touches.take(usize::MAX, &mut bytes);
        let slots: Vec<u32> = Touch::decode_all(&bytes).map(|touch| touch.slot).collect();
        assert_eq!(slots.len(), count);
        slots
    }

    /// Which of these recency numbers are touched now.
    fn touched(touches: &mut Touches, numbers: &[u64]) -> Vec<u32> {
        touches.marked.clear();
        numbers.iter().for_each(|&number| touches.note(number as u32, Version(1), number, 0));
        taken(touches)
    }

    #[test]
    fn an_entry_that_was_used_within_the_interval_is_not_touched() {
        let mut touches = Touches::new(Millis(800));
        // The numbers below 10 were given out up to 1,000, those below 20 up to 1,100.
        touches.turn_to(Millis(1_000), Millis(1_000), 10);
        touches.turn_to(Millis(1_100), Millis(1_100), 20);
        for (now, expected) in [(1_799, vec![]), (1_800, vec![9]), (1_899, vec![9])] {
            touches.turn_to(Millis(now), Millis(1_150), 21);
            assert_eq!(touched(&mut touches, &[9, 10, 19, 20]), expected, "at {now}");
        }
        touches.turn_to(Millis(1_900), Millis(1_150), 21);
        assert_eq!(touched(&mut touches, &[19, 20]), [19]);
    }

    #[test]
    fn an_entry_that_is_not_among_the_newest_is_touched_within_the_interval() {
        let mut touches = Touches::new(Millis(800));
        touches.turn_to(Millis(1_000), Millis(1_000), 10);
        touches.note(3, Version(1), 3, 4);
        touches.note(4, Version(1), 4, 4);
        assert_eq!(taken(&mut touches), [3]);
    }

    #[test]
    fn time_goes_on_where_nothing_is_written() {
        let mut touches = Touches::new(Millis(800));
        touches.turn_to(Millis(1_000), Millis(1_000), 10);
        touches.turn_to(Millis(1_799), Millis(1_000), 12);
        assert_eq!(touched(&mut touches, &[11]), [0; 0]);
        touches.turn_to(Millis(1_800), Millis(1_000), 12);
        assert_eq!(touched(&mut touches, &[11]), [11]);
    }

    #[test]
    fn a_slot_is_touched_once_in_an_eighth_of_the_interval() {
        let mut touches = Touches::new(Millis(80));
        for _ in 0..3 {
            touches.add(Touch::new(7, Version(1)));
        }
        assert_eq!(taken(&mut touches), [7]);
        touches.add(Touch::new(7, Version(1)));
        assert_eq!(taken(&mut touches), [0; 0]);
        touches.turn_to(Millis(10), Millis(0), 1);
        touches.add(Touch::new(7, Version(1)));
        assert_eq!(taken(&mut touches), [7]);
    }

    #[test]
    fn what_waits_is_bounded_and_comes_out_in_order() {
        let mut touches = Touches::new(Millis(80));
        for slot in 0..2 * GATHERED_MAX as u32 {
            touches.add(Touch::new(slot, Version(1)));
        }
        assert_eq!(touches.len(), GATHERED_MAX);
        let mut bytes = Vec::new();
        assert_eq!(touches.take(2, &mut bytes), 2);
        assert_eq!(bytes.len(), 2 * TOUCH_BYTES);
        assert!(taken(&mut touches).into_iter().eq(2..GATHERED_MAX as u32));
    }

    #[test]
    fn without_an_interval_nothing_is_noted() {
        let mut touches = Touches::new(Millis(0));
        touches.turn_to(Millis(100_000), Millis(10), 5);
        touches.note(1, Version(1), 1, 9);
        touches.add(Touch::new(1, Version(1)));
        assert_eq!(touches.len(), 0);
    }

    #[test]
    fn another_version_is_not_meant() {
        let touch = Touch::new(3, Version(0x0001_0000_0000_1000));
        assert!(touch.means(Version(0x0001_0000_0000_1000)));
        assert!(!touch.means(Version(0x0001_0000_0000_1001)));
        assert!(!touch.means(Version(0x0002_0000_0000_1000)));
    }
}
