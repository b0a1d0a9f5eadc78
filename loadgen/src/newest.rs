//! Keys that a thread inserts during a run, and reads that prefer the newest of them.
//!
//! The distribution is YCSB's *latest*: the newest key is rank one of a zipf distribution, the one
//! before it rank two, and so on to the oldest. Each thread knows the keys that were there before
//! and its own, as independent clients would; a key can be read once its insert, and every earlier
//! one of the thread, has been settled. Inserts of different threads never meet: each takes the
//! numbers of its own residue.

use std::collections::VecDeque;

use crate::keys::Zipf;
use crate::random::Random;

/// The keys of a thread that inserts.
#[derive(Clone, Debug)]
pub(crate) struct Newest {
    zipf: Zipf,
    /// Keys that were there before.
    base: u64,
    index: u64,
    threads: u64,
    /// Inserts of this thread that can be read.
    known: u64,
    /// Those behind them, and whether they are settled: as many as were started since the oldest
    /// that is still under way.
    under_way: VecDeque<bool>,
}

impl Newest {
    /// Behind `base` keys, for one of several threads.
    pub fn new(base: u64, theta: f64, index: u32, threads: u32) -> Newest {
        Newest {
            zipf: Zipf::new(base, theta),
            base,
            index: u64::from(index),
            threads: u64::from(threads),
            known: 0,
            under_way: VecDeque::new(),
        }
    }

    fn key_of(&self, number: u64) -> u64 {
        self.base + number * self.threads + self.index
    }

    /// The next key to insert.
    pub fn insert(&mut self) -> u64 {
        let number = self.known + self.under_way.len() as u64;
        self.under_way.push_back(false);
        self.key_of(number)
    }

    /// The insert of a key has ended, one way or the other.
    pub fn settle(&mut self, key: u64) {
        let number = key.saturating_sub(self.base) / self.threads.max(1);
        let place = number.checked_sub(self.known).and_then(|place| usize::try_from(place).ok());
        if let Some(settled) = place.and_then(|place| self.under_way.get_mut(place)) {
            *settled = true;
        }
        while self.under_way.front() == Some(&true) {
            self.under_way.pop_front();
            self.known += 1;
            self.zipf.grow(self.base + self.known);
        }
    }

    /// A key to read.
    pub fn draw(&self, random: &mut Random) -> u64 {
        let rank = self.zipf.rank(random);
        match self.known.checked_sub(rank + 1) {
            Some(number) => self.key_of(number),
            None => (self.base - 1).saturating_sub(rank - self.known),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_insert_different_keys_behind_those_that_were_there() {
        let mut threads: Vec<Newest> =
            (0..3).map(|index| Newest::new(100, 0.99, index, 3)).collect();
        let mut keys: Vec<u64> =
            threads.iter_mut().flat_map(|newest| [newest.insert(), newest.insert()]).collect();
        keys.sort_unstable();
        assert_eq!(keys, [100, 101, 102, 103, 104, 105]);
    }

    #[test]
    fn a_key_is_read_once_its_insert_and_all_before_it_are_settled() {
        let mut newest = Newest::new(1, 8.0, 0, 1);
        let keys: Vec<u64> = (0..3).map(|_| newest.insert()).collect();
        let mut random = Random::stream(1, 1);
        // With an exponent of eight hardly anything but the newest is asked for.
        let mut read = |newest: &Newest| {
            let mut drawn: Vec<u64> = (0..101).map(|_| newest.draw(&mut random)).collect();
            drawn.sort_unstable();
            drawn[50]
        };
        assert_eq!(read(&newest), 0);
        newest.settle(keys[1]);
        assert_eq!(read(&newest), 0);
        newest.settle(keys[0]);
        assert_eq!(read(&newest), keys[1]);
        newest.settle(keys[2]);
        assert_eq!(read(&newest), keys[2]);
    }

    #[test]
    fn ranks_after_growth_are_those_of_a_distribution_of_that_size() {
        let mut newest = Newest::new(10, 0.99, 0, 1);
        for _ in 0..10 {
            let key = newest.insert();
            newest.settle(key);
        }
        let (mut random, mut counts) = (Random::stream(7, 0), [0u32; 20]);
        let draws = 200_000;
        (0..draws).for_each(|_| counts[newest.draw(&mut random) as usize] += 1);
        let total: f64 = (1..=20).map(|rank| f64::from(rank).powf(-0.99)).sum();
        for (key, count) in counts.into_iter().enumerate() {
            let share = (20.0 - key as f64).powf(-0.99) / total;
            let expected = share * f64::from(draws);
            let spread = 6.0 * expected.sqrt();
            assert!((f64::from(count) - expected).abs() < spread, "{key}: {count} of {expected}");
        }
    }
}
