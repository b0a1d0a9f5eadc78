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
/// Bytes of small blocks that are moved at the start of each log entry if they have to be, and how
/// many more for each byte that was added. With two for one, values that suddenly had other sizes
/// left a third of the memory unused for some seconds.
const MOVED_BYTES: usize = 64 << 10;
const MOVED_PER_ADDED: usize = 6;
/// Bytes that are moved at the start of one log entry at most, and that may be owed to later ones.
const MOVED_AT_ONCE_MAX: usize = 1 << 20;
const OWED_BYTES_MAX: usize = 32 << 20;
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
    /// Bytes that may be moved for what was added.
    owed: usize,
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
        let place = match len {
            ..=SMALL_BYTES_MAX => {
                self.owe(len);
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
        let len = longer as u32;
        if longer <= SMALL_BYTES_MAX {
            self.owe(longer);
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
        let mut budget = (MOVED_BYTES + self.owed).min(MOVED_AT_ONCE_MAX);
        self.owed -= self.owed.min(budget);
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

    /// Small chunks in use, for tests.
    #[cfg(test)]
    pub fn small_chunks(&self) -> usize {
        self.small.in_use()
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

    /// Notes that a small block of so many bytes was added.
    fn owe(&mut self, bytes: usize) {
        self.owed = (self.owed + bytes * MOVED_PER_ADDED).min(OWED_BYTES_MAX);
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

    /// Blocks with what is in them.
    struct Filled {
        blocks: Blocks,
        live: Vec<(u32, Vec<u8>)>,
        random: u64,
    }

    impl Filled {
        fn below(&mut self, bound: usize) -> usize {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.random >> 33) as usize % bound
        }

        fn add(&mut self, len: usize) {
            let bytes = vec![self.below(256) as u8; len];
            self.live.push((self.blocks.add([&[], &bytes, &[]]), bytes));
        }

        fn append(&mut self, place: usize, len: usize) {
            let addition = vec![self.below(256) as u8; len];
            let (number, bytes) = &mut self.live[place];
            self.blocks.append(*number, &addition);
            bytes.extend(addition);
        }

        fn remove_until(&mut self, bytes_max: usize) {
            let mut total: usize = self.live.iter().map(|(_, bytes)| bytes.len()).sum();
            while total > bytes_max {
                let place = self.below(self.live.len());
                let (number, bytes) = self.live.swap_remove(place);
                assert!(self.blocks.get(number).0 == bytes);
                self.blocks.release(number);
                total -= bytes.len();
            }
        }

        /// A block in the chunk that is being emptied.
        fn in_emptied(&self) -> Option<usize> {
            let emptied = self.blocks.small.emptied()?;
            self.live.iter().position(|(number, _)| {
                matches!(self.blocks.blocks[*number as usize].place,
                    Place::Small { start, .. } if SmallChunks::chunk_of(start) == emptied)
            })
        }

        fn check(&self) {
            self.blocks.check();
            for (number, bytes) in &self.live {
                assert!(self.blocks.get(*number) == (bytes, digest::hash_bytes(bytes)));
            }
        }
    }

    #[test]
    fn blocks_keep_their_bytes_while_chunks_are_emptied_and_they_grow_on_the_way() {
        let mut filled = Filled { blocks: Blocks::default(), live: Vec::new(), random: 9 };
        let lengths = [
            (2_100, 3_000),
            (9_000, 12_000),
            (2_100, 32_000),
            (30_000, 34_000),
            (2_049, 2_400),
            (20_000, 90_000),
        ];
        let (mut moved, mut grown) = (0, 0);
        for (shortest, longest) in lengths {
            for round in 0..2_000 {
                let len = shortest + filled.below(longest - shortest);
                filled.add(len);
                filled.remove_until(8 << 20);
                if round % 3 == 0 {
                    let (place, len) = (filled.below(filled.live.len()), filled.below(5_000));
                    filled.append(place, len);
                }
                if let Some(place) = filled.in_emptied().filter(|_| round % 2 == 0) {
                    filled.append(place, 300);
                    grown += 1;
                }
                filled.blocks.owed = filled.blocks.owed.min(2_000);
                filled.blocks.move_some();
                moved += usize::from(filled.blocks.small.emptied().is_some());
                if round % 500 == 0 {
                    filled.check();
                }
            }
            filled.check();
        }
        assert!(moved > 500 && grown > 100, "{moved} moves, {grown} blocks grown meanwhile");
        filled.remove_until(0);
        filled.check();
    }

    #[test]
    fn long_blocks_keep_their_bytes_while_they_grow_around_each_other() {
        let mut filled = Filled { blocks: Blocks::default(), live: Vec::new(), random: 5 };
        (0..30).for_each(|number| filled.add(40_000 + 1_000 * number));
        for round in 0..300 {
            let len = 1 + filled.below(9_000);
            filled.append(round * 7 % 30, len);
        }
        filled.check();
        // The longest there can be, and one that is as long after it has grown.
        filled.add(KEY_BYTES_MAX + VALUE_BYTES_MAX);
        filled.add(KEY_BYTES_MAX + VALUE_BYTES_MAX - 1);
        filled.add(40_000);
        filled.append(31, 1);
        filled.check();
        filled.remove_until(0);
        filled.check();
    }

    #[test]
    fn moving_is_bounded_whatever_was_added() {
        let mut filled = Filled { blocks: Blocks::default(), live: Vec::new(), random: 3 };
        (0..2_000).for_each(|_| filled.add(10_000));
        filled.remove_until(10 << 20);
        filled.add(VALUE_BYTES_MAX);
        filled.append(0, 10);
        let mut calls = 0;
        loop {
            let starts: Vec<Place> = filled.blocks.blocks.iter().map(|block| block.place).collect();
            filled.blocks.move_some();
            let moved = filled.blocks.blocks.iter().zip(starts);
            let moved = moved.filter(|(block, former)| {
                matches!((block.place, former), (Place::Small { start, .. },
                    Place::Small { start: former, .. }) if start != *former)
            });
            let bytes = moved.count() * 10_240;
            assert!(bytes <= MOVED_AT_ONCE_MAX + 10_240, "{bytes} bytes at once");
            if bytes == 0 {
                break;
            }
            calls += 1;
        }
        assert!(calls >= 3, "{calls} calls");
        filled.check();
    }

    #[test]
    fn memory_is_given_back_in_steps_of_bounded_size() {
        let mut blocks = Blocks::default();
        for len in [2_100, 40_000, 4 << 20, 100_000].into_iter().cycle().take(200) {
            blocks.add([&[], &vec![0; len], &[]]);
        }
        let mut steps = 0;
        while let freed @ 1.. = blocks.tear_down(64) {
            assert!(freed <= 64 + (4 << 20) / STEP_BYTES, "{freed} steps at once");
            steps += 1;
        }
        assert!(steps > 40, "all in {steps} steps");
        assert_eq!(blocks.blocks.len(), 0);
    }
}
