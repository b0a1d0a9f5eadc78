//! The order of use: an intrusive doubly linked list through the slots.
//!
//! Every entry also carries a number from a counter that only grows, and the list is always
//! sorted by it. So the order survives a snapshot as numbers, and links are rebuilt from them.

use crate::defect::{self, Defect};

use super::slab::{NONE, Slab};

/// The list's ends and the counter.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecencyList {
    newest: u32,
    oldest: u32,
    /// The number that the next use gets.
    next: u64,
}

impl RecencyList {
    /// An empty list that goes on counting from `next`.
    pub fn new(next: u64) -> Self {
        RecencyList { newest: NONE, oldest: NONE, next }
    }

    /// The number that the next use gets.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// The number from which on entries are among the newest eighth, by the numbers given out
    /// since the oldest was used.
    #[inline]
    pub fn newest_eighth(&self, slab: &Slab) -> u64 {
        match self.oldest {
            NONE => self.next,
            oldest => self.next - (self.next - slab[oldest].recency) / 8,
        }
    }

    /// The entry unused for longest, or [`NONE`].
    pub fn oldest(&self) -> u32 {
        self.oldest
    }

    /// Adds an entry as the newest.
    pub fn push(&mut self, slab: &mut Slab, slot: u32) {
        slab[slot].recency = self.next;
        self.next += 1;
        self.link(slab, slot);
    }

    /// Makes an entry of the list the newest.
    pub fn renew(&mut self, slab: &mut Slab, slot: u32) {
        if self.newest == slot {
            slab[slot].recency = self.next;
            self.next += 1;
        } else {
            self.remove(slab, slot);
            self.push(slab, slot);
        }
    }

    /// Takes an entry out.
    pub fn remove(&mut self, slab: &mut Slab, slot: u32) {
        let (older, newer) = (slab[slot].older, slab[slot].newer);
        match newer {
            NONE => self.newest = older,
            newer => slab[newer].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => slab[older].newer = newer,
        }
    }

    /// Adds an entry that has its number already, one above all in the list.
    fn link(&mut self, slab: &mut Slab, slot: u32) {
        slab[slot].older = self.newest;
        slab[slot].newer = NONE;
        match self.newest {
            NONE => self.oldest = slot,
            newest => slab[newest].newer = slot,
        }
        self.newest = slot;
    }

    /// The slots of the list, newest first.
    pub fn iter<'a>(&self, slab: &'a Slab) -> impl Iterator<Item = u32> + 'a {
        slab.chain(self.newest, |slot| slot.older)
    }
}

/// Collects entries with their numbers, in any order, for a list that is built at once.
#[derive(Debug)]
pub(super) struct RecencyBuilder {
    /// The number that the next use gets; those of the entries are below it.
    next: u64,
    numbers: Numbers,
}

/// Numbers, each with its slot in the low bits.
#[derive(Debug)]
enum Numbers {
    /// Both fit into one word, as they do unless a shard has been used for years.
    Narrow { words: Vec<u64>, slot_bits: u32 },
    /// The slot has its own half word.
    Wide(Vec<u128>),
}

impl RecencyBuilder {
    /// Without entries, but with room for so many of them. Their slots are below `slots`, and
    /// their numbers will be below `next`.
    pub fn new(next: u64, slots: u32, entries: usize) -> Self {
        let slot_bits = u32::BITS - slots.leading_zeros();
        let numbers = match next.leading_zeros() >= slot_bits {
            true => Numbers::Narrow { words: Vec::with_capacity(entries), slot_bits },
            false => Numbers::Wide(Vec::with_capacity(entries)),
        };
        RecencyBuilder { next, numbers }
    }

    /// Adds an entry. Says whether its number is below the next one.
    #[inline]
    pub fn push(&mut self, number: u64, slot: u32) -> bool {
        match &mut self.numbers {
            Numbers::Narrow { words, slot_bits } => {
                words.push(number << *slot_bits | u64::from(slot));
            }
            Numbers::Wide(words) => words.push(u128::from(number) << u32::BITS | u128::from(slot)),
        }
        number < self.next
    }

    /// Links the entries, which are all of `slab`. Nothing comes of it if two have one number.
    pub fn build(self, slab: &mut Slab) -> Option<RecencyList> {
        let ends = match self.numbers {
            Numbers::Narrow { mut words, slot_bits } => {
                words.sort_unstable();
                let slot_mask = (1 << slot_bits) - 1;
                if defect::is(Defect::LruOrderNotRestored) {
                    words.sort_unstable_by_key(|word| word & slot_mask);
                }
                link_all(slab, &words, |word| (word >> slot_bits, (word & slot_mask) as u32))
            }
            Numbers::Wide(mut words) => {
                words.sort_unstable();
                link_all(slab, &words, |word| ((word >> u32::BITS) as u64, word as u32))
            }
        };
        ends.map(|(oldest, newest)| RecencyList { newest, oldest, next: self.next })
    }
}

/// Links the slots of sorted words, oldest first, and returns both ends; nothing if a number
/// occurs twice.
fn link_all<W: Copy>(
    slab: &mut Slab,
    words: &[W],
    split: impl Fn(W) -> (u64, u32),
) -> Option<(u32, u32)> {
    let mut older = NONE;
    let mut rest = words.iter().copied().map(split).peekable();
    let oldest = rest.peek().map_or(NONE, |(_, slot)| *slot);
    while let Some((number, slot)) = rest.next() {
        let newer = rest.peek().copied();
        if newer.is_some_and(|(newer, _)| newer == number) {
            return None;
        }
        let entry = &mut slab[slot];
        entry.older = older;
        entry.newer = newer.map_or(NONE, |(_, slot)| slot);
        older = slot;
    }
    Some((oldest, older))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slab of so many entries, and the list of them built from `numbers`.
    fn built(numbers: &[u64], next: u64) -> Option<Vec<u32>> {
        let mut slab = Slab::new();
        let mut builder = RecencyBuilder::new(next, numbers.len() as u32, 0);
        for (slot, number) in numbers.iter().enumerate() {
            assert_eq!(slab.occupy(b"key", b"value"), slot as u32);
            assert!(builder.push(*number, slot as u32));
        }
        let list = builder.build(&mut slab)?;
        assert_eq!(list.next_number(), next);
        let order: Vec<u32> = list.iter(&slab).collect();
        let backward: Vec<u32> = slab.chain(list.oldest(), |slot| slot.newer).collect();
        assert!(backward.iter().rev().eq(order.iter()), "the links differ by direction");
        Some(order)
    }

    #[test]
    fn a_list_is_built_in_the_order_of_its_numbers_however_large_they_are() {
        for scale in [1, 1 << 20, 1 << 57, 1 << 60] {
            for next in [10 * scale, u64::MAX] {
                let numbers = [3, 1, 9, 4, 5, 8].map(|number| number * scale);
                assert_eq!(built(&numbers, next), Some(vec![2, 5, 4, 3, 0, 1]));
                assert_eq!(built(&[3 * scale, scale, 3 * scale], next), None);
            }
        }
        assert_eq!(built(&[], 7), Some(vec![]));
        assert!(!RecencyBuilder::new(7, 1, 0).push(7, 0));
    }
}
