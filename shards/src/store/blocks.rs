//! Blocks: key and value of entries that are too long for an item of the arena.
//!
//! Up to 32 KiB they lie in small chunks, where they can be moved so that little is left unused. A
//! longer one is rounded up to the operating system's pages, by an eighth at most. They are given
//! back the moment it is freed.
//!
//! Every block has a number, which stays while it moves, and the hash of its bytes, so that a
//! change of the deadline does not read a megabyte.

use super::chunks::{LargeChunks, Moved, SmallChunks, Start};
use super::digest;
use super::pages::Pages;
use crate::command::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// Blocks up to so many bytes lie in small chunks.
const SMALL_BYTES_MAX: usize = SmallChunks::RUN_BYTES_MAX;
/// Bytes of blocks that are moved at the start of a log entry at most, and how many more for each
/// byte that was added since. With two for one, values that suddenly had other sizes left a third
/// of the memory unused for some seconds.
const MOVED_BYTES: usize = 64 << 10;
const MOVED_PER_ADDED: usize = 6;
/// A long block that grows is given so much more room than it needs: one part in so many, which is
/// not resident until it is used.
const GROWTH_SHARE: usize = 8;
/// What counts as one step when memory is given back: that many bytes.
const STEP_BYTES: usize = 16 << 10;

const _: () = assert!(
    KEY_BYTES_MAX + VALUE_BYTES_MAX + (VALUE_BYTES_MAX + KEY_BYTES_MAX) / GROWTH_SHARE
        <= LargeChunks::RUN_BYTES_MAX
);

#[derive(Debug)]
struct Block {
    place: Place,
    hash: u64,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Nowhere,
    Small { start: Start, len: u32 },
    Large { start: Start, len: u32 },
}

/// All blocks of a store.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    blocks: Pages<Block>,
    free: Pages<u32>,
    small: SmallChunks,
    large: LargeChunks,
    /// Bytes that were added since blocks were moved last.
    added: usize,
}

impl Blocks {
    /// Adds a block of the given parts, which are not all empty, and returns its number.
    pub fn add(&mut self, parts: [&[u8]; 3]) -> u32 {
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.blocks.push(Block { place: Place::Nowhere, hash: 0 });
                (self.blocks.len() - 1) as u32
            }
        };
        let len = parts.iter().map(|part| part.len()).sum();
        self.added += len;
        let place = match len {
            ..=SMALL_BYTES_MAX => {
                Place::Small { start: self.small.allocate(len, number), len: len as u32 }
            }
            _ => Place::Large { start: self.large.allocate(len, number), len: len as u32 },
        };
        let mut room = self.room(place);
        for part in parts {
            let (start, rest) = room.split_at_mut(part.len());
            start.copy_from_slice(part);
            room = rest;
        }
        self.blocks[number as usize].place = place;
        self.hash_anew(number);
        number
    }

    /// A block's bytes, and their hash as it was when they were written.
    #[inline]
    pub fn get(&self, number: u32) -> (&[u8], u64) {
        let block = &self.blocks[number as usize];
        let bytes = match block.place {
            Place::Nowhere => &[],
            Place::Small { start, len } => self.small.bytes(start, len as usize),
            Place::Large { start, len } => self.large.bytes(start, len as usize),
        };
        (bytes, block.hash)
    }

    /// Writes over a part of a block.
    pub fn overwrite(&mut self, number: u32, at: usize, bytes: &[u8]) {
        let place = self.blocks[number as usize].place;
        self.room(place)[at..][..bytes.len()].copy_from_slice(bytes);
        self.hash_anew(number);
    }

    /// Adds bytes behind a block's, in place if there is room.
    pub fn append(&mut self, number: u32, addition: &[u8]) {
        self.added += addition.len();
        let former = self.blocks[number as usize].place;
        let former_len = self.get(number).0.len();
        let longer = former_len + addition.len();
        let len = longer as u32;
        let place = match former {
            Place::Small { start, .. }
                if longer <= SMALL_BYTES_MAX && self.small.grow(start, longer) =>
            {
                Place::Small { start, len }
            }
            Place::Large { start, .. } if self.large.grow(start, longer) => {
                Place::Large { start, len }
            }
            _ => self.copy_to_more_room(former, former_len, longer, number),
        };
        self.room(place)[former_len..].copy_from_slice(addition);
        self.blocks[number as usize].place = place;
        self.hash_anew(number);
    }

    /// Copies a block to a place where it can have `longer` bytes, and frees the former one.
    fn copy_to_more_room(
        &mut self,
        former: Place,
        former_len: usize,
        longer: usize,
        number: u32,
    ) -> Place {
        self.added += former_len;
        let len = longer as u32;
        if longer <= SMALL_BYTES_MAX {
            let start = self.small.allocate(longer, number);
            if let Place::Small { start: former, .. } = former {
                self.small.copy(former, start, former_len);
                self.small.release(former);
            }
            return Place::Small { start, len };
        }
        let start = self.large.allocate(longer + longer / GROWTH_SHARE, number);
        match former {
            Place::Nowhere => {}
            Place::Small { start: former, .. } => {
                let target = self.large.bytes_mut(start, former_len);
                target.copy_from_slice(self.small.bytes(former, former_len));
                self.small.release(former);
            }
            Place::Large { start: former, .. } => {
                self.large.copy(former, start, former_len);
                self.large.release(former);
            }
        }
        Place::Large { start, len }
    }

    /// Frees a block.
    pub fn release(&mut self, number: u32) {
        match std::mem::replace(&mut self.blocks[number as usize].place, Place::Nowhere) {
            Place::Nowhere => {}
            Place::Small { start, .. } => self.small.release(start),
            Place::Large { start, .. } => self.large.release(start),
        }
        self.free.push(number);
    }

    /// Moves some blocks out of chunks that little lies in.
    pub fn move_some(&mut self) {
        let mut budget = MOVED_BYTES + std::mem::take(&mut self.added) * MOVED_PER_ADDED;
        while budget > 0
            && let Some(Moved { owner, start: moved, bytes }) = self.small.move_one()
        {
            if let Place::Small { start, .. } = &mut self.blocks[owner as usize].place {
                *start = moved;
            }
            budget = budget.saturating_sub(bytes);
        }
    }

    /// Gives memory back in about `count_max` steps, for blocks that are not needed any more.
    /// Returns in how many.
    pub fn tear_down(&mut self, count_max: usize) -> usize {
        let mut bytes = self.small.tear_down(count_max * STEP_BYTES);
        bytes += self.large.tear_down((count_max * STEP_BYTES).saturating_sub(bytes));
        let count = bytes.div_ceil(STEP_BYTES);
        count + self.blocks.tear_down(count_max.saturating_sub(count))
    }

    /// Flips a bit of a block: damage, for tests.
    #[cfg(any(test, feature = "defects"))]
    pub fn flip_bit(&mut self, number: u32, nth_byte: usize) {
        let place = self.blocks[number as usize].place;
        let bytes = self.room(place);
        let byte = nth_byte % bytes.len();
        bytes[byte] ^= 1;
    }

    /// Checks that blocks and chunks agree, for tests.
    pub fn check(&self) {
        self.small.check();
        self.large.check();
        let blocks = || self.blocks.iter().map(|block| block.place);
        let small = blocks().filter(|place| matches!(place, Place::Small { .. })).count();
        let large = blocks().filter(|place| matches!(place, Place::Large { .. })).count();
        let runs = (self.small.runs_in_use(), self.large.runs_in_use());
        assert_eq!((small, large), runs);
    }

    fn room(&mut self, place: Place) -> &mut [u8] {
        match place {
            Place::Nowhere => &mut [],
            Place::Small { start, len } => self.small.bytes_mut(start, len as usize),
            Place::Large { start, len } => self.large.bytes_mut(start, len as usize),
        }
    }

    fn hash_anew(&mut self, number: u32) {
        let hash = digest::hash_bytes(self.get(number).0);
        self.blocks[number as usize].hash = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_any_length_is_what_was_written_while_others_come_and_go() {
        let mut blocks = Blocks::default();
        let mut expected: Vec<(u32, Vec<u8>)> = Vec::new();
        let lengths = [2_000, 2_049, 5_000, 32_767, 32_768, 32_769, 70_000, 300_000, 9_000];
        for round in 0..600_usize {
            let len = lengths[round % lengths.len()];
            let bytes = vec![(round % 251) as u8; len];
            let (key, value) = bytes.split_at(round % 100);
            let (first, second) = value.split_at(len / 3);
            expected.push((blocks.add([key, first, second]), bytes));
            let picked = round * 7 % expected.len();
            match round % 5 {
                0 => {
                    let (number, bytes) = &mut expected[picked];
                    blocks.append(*number, &[1; 700]);
                    bytes.extend([1; 700]);
                }
                1 => {
                    let (number, bytes) = &mut expected[picked];
                    blocks.overwrite(*number, 17, &[2; 50]);
                    bytes[17..67].fill(2);
                }
                2 | 3 => blocks.release(expected.swap_remove(picked).0),
                _ => blocks.move_some(),
            }
            if round % 50 == 0 {
                blocks.check();
                for (number, bytes) in &expected {
                    let (data, hash) = blocks.get(*number);
                    assert!(data == bytes, "block {number} in round {round}");
                    assert_eq!(hash, digest::hash_bytes(bytes));
                }
            }
        }
        expected.into_iter().for_each(|(number, _)| blocks.release(number));
        blocks.check();
        assert_eq!(blocks.small.runs_in_use() + blocks.large.runs_in_use(), 0);
    }

    #[test]
    fn a_block_that_grows_by_little_keeps_its_bytes_from_run_to_memory_of_its_own() {
        let mut blocks = Blocks::default();
        let number = blocks.add([b"key", &[], &[b'x'; 2_100]]);
        blocks.add([b"neighbour", &[], &[b'y'; 2_100]]);
        let mut expected = [&b"key"[..], &[b'x'; 2_100]].concat();
        for step in 0..300_usize {
            let addition = vec![step as u8; 1 + step * 13 % 1_500];
            blocks.append(number, &addition);
            expected.extend(addition);
            assert!(blocks.get(number) == (&expected, digest::hash_bytes(&expected)));
        }
        assert!(expected.len() > 2 * SMALL_BYTES_MAX);
        blocks.check();
    }

    #[test]
    fn memory_is_given_back_in_steps_of_bounded_size() {
        let mut blocks = Blocks::default();
        for len in [2_100, 40_000, 4 << 20, 100_000].into_iter().cycle().take(200) {
            blocks.add([&[], &vec![0; len], &[]]);
        }
        let mut steps = 0;
        while let freed @ 1.. = blocks.tear_down(64) {
            assert!(freed <= 128, "{freed} steps at once");
            steps += 1;
        }
        assert!(steps > 200, "all in {steps} steps");
        assert_eq!(blocks.blocks.len(), 0);
    }
}
