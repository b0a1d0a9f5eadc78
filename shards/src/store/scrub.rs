//! Looking at the whole store again and again for bytes that have changed by themselves.
//!
//! The rolling digest of a store says what its state should be, and is not recomputed: a byte that
//! memory lost shows in it only when its entry changes next, if then. Therefore the entries are
//! visited one after the other in the background, a few bytes at a time, in the order in which they
//! lie in memory, and their terms are computed anew from the bytes as they are. The sum of a whole
//! pass must be the sum that was kept. What changes meanwhile changes both sums where the pass has
//! been already, and only the kept one where it has yet to come; so nothing needs to stand still,
//! and no small entry has to keep a hash. A long value is hashed a piece at a time; if it is
//! written meanwhile, it is as fresh as can be, and this pass has no more to do with it.
//!
//! It finds damage in keys, values, versions, deadlines and flags. It does not look at the order,
//! the table and the expiry index.

use super::Store;
use super::arena::Address;
use super::digest::{StreamHash, Sum};
use super::entries::Entry;

/// Keys and values up to so many bytes are hashed at once, whatever is left to look at.
const HASHED_AT_ONCE: usize = 4 << 10;

/// How far a look at the whole store has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubProgress {
    /// There is more to look at.
    More,
    /// Everything has been looked at since the pass began, and nothing was found. The next call
    /// begins anew.
    Intact,
    /// Some entry's bytes are not those that were written.
    Damaged,
}

/// A pass under way.
#[derive(Debug)]
pub(super) struct Scrub {
    /// Entries at lower addresses have been looked at.
    next: Address,
    /// Their terms, by the bytes that they had.
    seen: Sum,
    /// The entry at `next` or behind, if it is long and has been looked at in part.
    begun: Option<Box<Begun>>,
}

/// A part of a long entry's bytes.
#[derive(Debug)]
struct Begun {
    address: Address,
    /// The hash that its bytes had when they were written.
    kept: Option<u64>,
    hash: StreamHash,
    /// Bytes of key and value that went into the hash.
    hashed: usize,
}

impl Scrub {
    /// A pass that has seen nothing yet.
    pub fn new() -> Self {
        Scrub { next: Address::FIRST, seen: Sum::default(), begun: None }
    }

    /// An entry has come to be at `address`, whose term this is.
    #[inline]
    pub fn count_in(&mut self, address: Address, term: u64) {
        if address < self.next {
            self.seen.add(term);
        }
    }

    /// The entry at `address`, whose term this is, is about to change or to go.
    #[inline]
    pub fn count_out(&mut self, address: Address, term: u64) {
        if address < self.next {
            self.seen.subtract(term);
        }
    }
}

impl Begun {
    fn new(address: Address, entry: &Entry<'_>) -> Self {
        Begun { address, kept: entry.kept_hash(), hash: StreamHash::new(), hashed: 0 }
    }
}

impl Store {
    /// Looks at the next entries, until about `bytes_max` accounted bytes were looked at.
    pub fn scrub(&mut self, bytes_max: usize) -> ScrubProgress {
        let mut left = bytes_max;
        while let Some(address) = self.entries.next_in_memory(self.scrub.next) {
            if left == 0 {
                return ScrubProgress::More;
            }
            let entry = self.entries.get(address);
            let begun = self.scrub.begun.take().filter(|begun| begun.address == address);
            let is_short = entry.data().len() <= HASHED_AT_ONCE;
            let term = if is_short || begun.as_ref().is_some_and(|b| b.kept != entry.kept_hash()) {
                left = left.saturating_sub(entry.shape().accounted_bytes() as usize);
                if is_short { entry.term_anew() } else { entry.term() }
            } else {
                let mut begun = begun.unwrap_or_else(|| Box::new(Begun::new(address, &entry)));
                let rest = &entry.data()[begun.hashed..];
                let piece = &rest[..rest.len().min(left)];
                begun.hash.update(piece);
                begun.hashed += piece.len();
                left -= piece.len();
                if piece.len() < rest.len() {
                    self.scrub.begun = Some(begun);
                    return ScrubProgress::More;
                }
                entry.term_with(begun.hash.finish())
            };
            self.scrub.seen.add(term);
            self.scrub.next = address.following();
        }
        let seen = std::mem::replace(&mut self.scrub, Scrub::new()).seen;
        if seen == self.terms { ScrubProgress::Intact } else { ScrubProgress::Damaged }
    }

    /// Flips a bit in a byte of all keys and values, counted over the entries from the oldest on
    /// and from the first again behind the last. Says whether there was one. For tests of what
    /// becomes of damaged memory.
    #[cfg(any(test, feature = "defects"))]
    pub fn flip_bit(&mut self, nth_byte: u64) -> bool {
        self.flip_within(nth_byte, |_| 0)
    }

    /// The same for the bytes of values alone: an entry whose key has changed cannot be removed,
    /// and the attempt ends the process.
    #[cfg(feature = "defects")]
    pub fn flip_bit_of_value(&mut self, nth_byte: u64) -> bool {
        self.flip_within(nth_byte, |entry| entry.key().len())
    }

    #[cfg(any(test, feature = "defects"))]
    fn flip_within(&mut self, nth_byte: u64, spared: fn(&Entry<'_>) -> usize) -> bool {
        let entries = self.order.iter(&self.entries).map(|address| {
            let entry = self.entries.get(address);
            (address, spared(&entry), (entry.data().len() - spared(&entry)) as u64)
        });
        let mut entries: Vec<_> = entries.collect();
        entries.reverse();
        let total: u64 = entries.iter().map(|(_, _, length)| length).sum();
        let Some(mut left) = nth_byte.checked_rem(total) else { return false };
        for (address, spared, length) in entries {
            if left < length {
                self.entries.flip_bit(address, spared + left as usize);
                return true;
            }
            left -= length;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, ExpireCondition, Expiry, Operation, SetCondition};
    use crate::ids::{Eviction, Index, Millis, Version};
    use crate::store::{Answer, Opening, StoreSettings};

    const VALUE: &[u8] = b"a value";

    fn set(store: &mut Store, number: u64, index: u64, value: &[u8]) {
        let key = number.to_string();
        let operation = Operation::Set {
            value,
            flags: 0,
            condition: SetCondition::Always,
            expiry: Expiry::Never,
            return_old: false,
        };
        let command = Command { key: key.as_bytes(), operation };
        store.apply(Version::new(1, Index(index), 0), &command, Answer::Unwanted);
    }

    fn filled(entries: u64) -> Store {
        let mut store = Store::new(StoreSettings {
            bytes_max: 1 << 20,
            value_bytes_max: 64 << 10,
            eviction: Eviction::Lru,
            touch_interval: Millis(0),
        });
        store.begin_entry(Opening::at(Millis(1)));
        (0..entries).for_each(|number| set(&mut store, number, 2 + number, VALUE));
        store
    }

    #[test]
    fn a_pass_looks_at_everything_in_steps_and_begins_anew() {
        let mut store = filled(100);
        for _ in 0..3 {
            let mut steps = 1;
            while store.scrub(400) == ScrubProgress::More {
                steps += 1;
            }
            assert!((8..20).contains(&steps), "{steps} steps for {} bytes", store.bytes());
        }
        assert_eq!(filled(0).scrub(1), ScrubProgress::Intact);
        assert_eq!(filled(3).scrub(usize::MAX), ScrubProgress::Intact);
    }

    #[test]
    fn writes_during_a_pass_are_no_damage() {
        let mut store = filled(50);
        let mut passes = 0;
        for round in 0..3_000_u64 {
            let value = vec![b'v'; (round * 37 % 5_000) as usize];
            set(&mut store, round * 7 % 80, 1_000 + round, &value);
            if round % 50 == 0 {
                store.begin_entry(Opening::at(Millis(round)));
            }
            match store.scrub(if round.is_multiple_of(3) { 1 } else { 400 }) {
                ScrubProgress::More => {}
                ScrubProgress::Intact => passes += 1,
                ScrubProgress::Damaged => panic!("damage in round {round}"),
            }
            if round == 1_500 {
                let flush = Command { key: b"", operation: Operation::Flush };
                store.apply(Version::new(1, Index(round), 1), &flush, Answer::Unwanted);
            }
        }
        assert!(passes > 10, "{passes} passes");
    }

    #[test]
    fn every_flipped_bit_of_a_key_or_value_is_found_within_a_pass() {
        for long in [false, true] {
            let mut store = filled(20);
            if long {
                set(&mut store, 3, 100, &[7; 5_000]);
            }
            let lengths = store.order.iter(&store.entries);
            let lengths = lengths.map(|entry| store.entries.get(entry).data().len() as u64);
            let bytes: u64 = lengths.sum();
            for nth_byte in (0..bytes).step_by(if long { 97 } else { 1 }) {
                let digest = store.digest();
                assert!(store.flip_bit(nth_byte));
                assert_eq!(store.digest(), digest, "it does not show in the digest");
                let passes = (0..100).map(|_| store.scrub(if long { 700 } else { 1 }));
                let found = passes.into_iter().find(|found| *found != ScrubProgress::More);
                assert_eq!(found, Some(ScrubProgress::Damaged), "byte {nth_byte}");
                assert!(store.flip_bit(nth_byte), "and back");
            }
            assert_eq!(store.scrub(usize::MAX), ScrubProgress::Intact);
        }
        assert!(!filled(0).flip_bit(1));
    }

    #[test]
    fn an_entry_whose_key_was_damaged_goes_without_ending_the_process_and_is_found() {
        let mut store = filled(2_000);
        // The first byte of the oldest entry is its key's.
        assert!(store.flip_bit(0));
        let oldest = store.order.oldest();
        store.remove(oldest);
        assert_eq!((store.keys(), store.order.check(&store.entries)), (1_999, 1_999));
        (0..2_000).for_each(|number| set(&mut store, number, 3_000 + number, VALUE));
        assert_eq!(store.scrub(usize::MAX), ScrubProgress::Damaged);
    }

    #[test]
    fn a_long_value_is_looked_at_in_pieces_of_the_size_that_was_asked_for() {
        let mut store = filled(0);
        set(&mut store, 1, 2, &[7; 60_000]);
        let steps = (1..).find(|_| store.scrub(1_000) != ScrubProgress::More);
        assert_eq!(steps, Some(61));
    }

    #[test]
    fn a_long_value_that_is_written_again_and_again_does_not_hold_a_pass_up() {
        let mut store = filled(0);
        set(&mut store, 1, 2, &[7; 60_000]);
        let mut passes = 0;
        for round in 0..100_u64 {
            set(&mut store, 1, 3 + round, &[round as u8; 60_000]);
            for _ in 0..30 {
                let progress = store.scrub(1_000);
                assert_ne!(progress, ScrubProgress::Damaged, "round {round}");
                passes += u32::from(progress == ScrubProgress::Intact);
            }
        }
        assert!(passes >= 50, "{passes} passes");
    }

    #[test]
    fn damage_is_found_in_a_long_value_whose_deadline_changes_all_the_time() {
        let mut store = filled(0);
        set(&mut store, 1, 2, &[7; 60_000]);
        assert!(store.flip_bit(40_000));
        let found = (3..1_000_u64).find_map(|index| {
            let operation = Operation::Expire {
                expiry: Expiry::In(Millis(1_000_000 + index)),
                condition: ExpireCondition::Always,
                return_value: false,
            };
            let command = Command { key: b"1", operation };
            store.apply(Version::new(1, Index(index), 0), &command, Answer::Unwanted);
            let progress = store.scrub(1_000);
            (progress != ScrubProgress::More).then_some(progress)
        });
        assert_eq!(found, Some(ScrubProgress::Damaged));
    }

    #[test]
    fn damage_is_found_although_its_entry_was_written_over() {
        let mut store = filled(20);
        assert!(store.flip_bit(3));
        (0..20).for_each(|number| set(&mut store, number, 100 + number, VALUE));
        assert_eq!(store.scrub(usize::MAX), ScrubProgress::Damaged);
    }
}
