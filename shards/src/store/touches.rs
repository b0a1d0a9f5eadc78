//! Touches: reads on their way into the order of use.
//!
//! A read moves nothing where it happens, or the replicas would part. It leaves a touch: the name
//! of the key that it hit, which is 48 bits of its hash. Touches travel to the leader, which adds
//! them to the next log entry, and applying that entry counts as a use, on every replica alike.
//!
//! An entry is touched at most once per interval of shard time. To tell when an entry was used last
//! takes two bytes of it: uses are counted in generations, a new one whenever a sixteenth of the
//! entries was used or an eighth of an interval has gone by, and a few samples of (stamp,
//! generation) tell which are an interval old. An entry that was not used for 65,536 generations
//! may pass for a fresh one and is touched a little later. What is gathered and not yet applied is
//! remembered apart, for an eighth of an interval: a touch too many does no harm.
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

use super::table::KeyName;
use crate::ids::Millis;

/// Touches that wait for a log entry, or for a message to the leader, at most.
const GATHERED_MAX: usize = 8_192;
/// Samples within an interval: the resolution with which it is kept.
const SAMPLES: u64 = 8;
/// Generations in which each entry is used once, on the average.
const GENERATIONS: u64 = 16;
/// The first generation: what a restored store holds, whose use nobody knows, has number 0 and is
/// old.
const FIRST_GENERATION: u64 = 1 << 15;
/// Bytes of an encoded touch.
pub const TOUCH_BYTES: usize = KeyName::BYTES;

/// The names that `bytes` hold. A rest that is none is passed over.
pub(super) fn decode_all(bytes: &[u8]) -> impl Iterator<Item = KeyName> + '_ {
    let (touches, _) = bytes.as_chunks::<TOUCH_BYTES>();
    touches.iter().map(|touch| KeyName::from_bytes(*touch))
}

/// The touches of one replica that are not proposed yet.
#[derive(Debug)]
pub(super) struct Touches {
    /// In milliseconds of shard time; zero if reads leave no touches.
    interval: u64,
    /// The generation that a use now belongs to.
    generation: u64,
    /// Uses in it.
    uses: u64,
    /// Generations that began at some stamps within the interval, oldest first.
    samples: VecDeque<(u64, u64)>,
    /// Entries of earlier generations were not used for an interval.
    horizon: u64,
    gathered: VecDeque<KeyName>,
    /// Keys with a touch that was gathered since `marked_since`.
    marked: HashSet<KeyName, ahash::RandomState>,
    /// In shard time.
    marked_since: u64,
}

impl Touches {
    /// None, for the given interval.
    pub fn new(interval: Millis) -> Self {
        Touches {
            interval: interval.0,
            generation: FIRST_GENERATION,
            uses: 0,
            samples: VecDeque::new(),
            horizon: 0,
            gathered: VecDeque::new(),
            // Names are hashes under a secret already, so any seeds do.
            marked: HashSet::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4)),
            marked_since: 0,
        }
    }

    /// Makes `now`, in shard time, the point that an interval is counted back from. `applied` is
    /// the stamp that was applied last.
    #[inline]
    pub fn turn_to(&mut self, now: Millis, applied: Millis) {
        if self.interval == 0 {
            return;
        }
        let step = (self.interval / SAMPLES).max(1);
        if self.marked_since + step <= now.0 {
            self.marked_since = now.0;
            self.marked.clear();
        }
        if applied.0.saturating_add(self.interval) <= now.0 {
            self.begin_generation();
            self.horizon = self.generation;
            self.samples.clear();
            return;
        }
        if self.samples.back().is_none_or(|&(last, _)| last + step <= applied.0) {
            self.begin_generation();
            self.samples.push_back((applied.0, self.generation));
        }
        while let Some(&(stamp, generation)) = self.samples.front()
            && stamp.saturating_add(self.interval) <= now.0
        {
            self.horizon = generation;
            self.samples.pop_front();
        }
    }

    /// Counts a use, and returns what an entry that is used keeps of it. `keys` is the number of
    /// entries.
    #[inline]
    pub fn use_one(&mut self, keys: u64) -> u16 {
        let used = self.generation as u16;
        self.uses += 1;
        if self.uses * GENERATIONS >= keys {
            self.begin_generation();
        }
        used
    }

    fn begin_generation(&mut self) {
        if self.uses > 0 {
            self.generation += 1;
            self.uses = 0;
        }
    }

    /// The generation of an entry's last use.
    #[inline]
    fn generation_of(&self, used: u16) -> u64 {
        let age = (self.generation as u16).wrapping_sub(used);
        self.generation.saturating_sub(u64::from(age))
    }

    /// Whether an entry was used so lately that a touch of it is not worth its bytes: within the
    /// interval, and among the newest eighth if the use of the `oldest` is given.
    #[inline]
    pub fn is_fresh(&self, used: u16, oldest: Option<u16>) -> bool {
        let newest_eighth = oldest.map_or(0, |oldest| {
            self.generation - (self.generation - self.generation_of(oldest)) / 8
        });
        self.generation_of(used) >= self.horizon.max(newest_eighth)
    }

    /// Adds a touch, unless the key has one or there are too many.
    pub fn add(&mut self, name: KeyName) {
        if self.interval > 0 && self.gathered.len() < GATHERED_MAX && self.marked.insert(name) {
            self.gathered.push_back(name);
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
            out.extend_from_slice(&touch.to_bytes());
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u8) -> KeyName {
        KeyName::from_bytes([number, 0, 0, 0, 0, 0])
    }

    fn taken(touches: &mut Touches) -> Vec<KeyName> {
        let mut bytes = Vec::new();
        let count = touches.take(usize::MAX, &mut bytes);
        let names: Vec<KeyName> = decode_all(&bytes).collect();
        assert_eq!(names.len(), count);
        names
    }

    /// More keys than uses, so that only time makes generations.
    const MANY: u64 = 1 << 40;

    #[test]
    fn an_entry_is_fresh_for_an_interval_of_shard_time() {
        let mut touches = Touches::new(Millis(800));
        touches.turn_to(Millis(1_000), Millis(1_000));
        let first = touches.use_one(MANY);
        touches.turn_to(Millis(1_100), Millis(1_100));
        let second = touches.use_one(MANY);
        for (now, expected) in
            [(1_799, (true, true)), (1_899, (true, true)), (1_900, (false, true))]
        {
            touches.turn_to(Millis(now), Millis(1_150));
            let fresh = (touches.is_fresh(first, None), touches.is_fresh(second, None));
            assert_eq!(fresh, expected, "at {now}");
        }
        touches.turn_to(Millis(1_950), Millis(1_150));
        assert!(!touches.is_fresh(second, None), "nothing was applied for an interval");
    }

    #[test]
    fn an_entry_that_is_not_among_the_newest_eighth_is_not_fresh_if_that_counts() {
        let mut touches = Touches::new(Millis(800));
        touches.turn_to(Millis(1_000), Millis(1_000));
        let used: Vec<u16> = (0..160).map(|_| touches.use_one(160)).collect();
        let oldest = used.first().copied();
        assert!(used.iter().all(|used| touches.is_fresh(*used, None)));
        let fresh = used.iter().filter(|used| touches.is_fresh(**used, oldest)).count();
        assert_eq!(fresh, 160 / 8);
    }

    #[test]
    fn what_came_from_a_snapshot_is_old() {
        let mut touches = Touches::new(Millis(800));
        touches.turn_to(Millis(1_000), Millis(1_000));
        assert!(touches.is_fresh(0, None), "no interval has gone by yet");
        touches.turn_to(Millis(1_800), Millis(1_000));
        assert!(!touches.is_fresh(0, None));
    }

    #[test]
    fn a_key_is_touched_once_in_an_eighth_of_the_interval() {
        let mut touches = Touches::new(Millis(80));
        for _ in 0..3 {
            touches.add(name(7));
        }
        assert_eq!(taken(&mut touches), [name(7)]);
        touches.add(name(7));
        assert_eq!(taken(&mut touches), []);
        touches.turn_to(Millis(10), Millis(0));
        touches.add(name(7));
        assert_eq!(taken(&mut touches), [name(7)]);
    }

    #[test]
    fn what_waits_is_bounded_and_comes_out_in_order() {
        let mut touches = Touches::new(Millis(80));
        let names = || {
            (0..=u16::MAX).map(|number| {
                let [low, high] = number.to_le_bytes();
                KeyName::from_bytes([low, high, 0, 0, 0, 0])
            })
        };
        names().for_each(|name| touches.add(name));
        assert_eq!(touches.len(), GATHERED_MAX);
        let mut bytes = Vec::new();
        assert_eq!(touches.take(2, &mut bytes), 2);
        assert_eq!(bytes.len(), 2 * TOUCH_BYTES);
        assert!(taken(&mut touches).into_iter().eq(names().take(GATHERED_MAX).skip(2)));
    }

    #[test]
    fn without_an_interval_nothing_is_noted() {
        let mut touches = Touches::new(Millis(0));
        touches.turn_to(Millis(100_000), Millis(10));
        touches.add(name(1));
        assert_eq!(touches.len(), 0);
    }
}
