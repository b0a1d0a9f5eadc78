//! Memory for blocks: chunks that are divided into runs of units.
//!
//! Size classes, as the arena has them, would leave a sparse page per class and shard, and pages
//! for long blocks are large. Here a block takes as many units as it needs, from the shortest free
//! run that is long enough, and runs that are free side by side become one.
//!
//! [`SmallChunks`], for blocks of 2 to 32 KiB, have units of 256 bytes. Holes that no block fits
//! into are the price; so while more is free than a sixteenth of what is in use and a chunk, the
//! emptiest of some chunks is emptied: its blocks move elsewhere, a few at a time, and the chunk is
//! given back. [`LargeChunks`] have pages of the operating system for units, and each run is given
//! back when it is freed: a hole there is nothing but address space.
//!
//! A general allocator cannot move blocks. Its pages for such sizes stay half empty when the sizes
//! of values change, and took 1.3 times what lay in them.
//!
//! It does not know what lies in a run, only who has to be told that it moved: a number.
//!
//! Invariants: the runs of a chunk follow each other without a gap and fill it; no two free runs
//! are neighbours; the free runs of all chunks but the one that is being emptied are in `free`.

use super::pieces::Pieces;
use std::collections::BTreeSet;

/// Bytes of a chunk for small blocks, and of a region of them.
const SMALL_CHUNK_BYTES: usize = 512 << 10;
const SMALL_REGION_BYTES: usize = 4 << 20;
/// Bytes of a chunk for large blocks, which is a region.
const LARGE_CHUNK_BYTES: usize = 32 << 20;
/// Bytes of a page of most operating systems. With larger ones less is given back.
const PAGE_BYTES: usize = 4 << 10;
/// Chunks are emptied when more than one in so many units is free, beyond those of one chunk.
const FREE_SHARE: usize = 16;
/// Chunks that are looked at for the emptiest: all of a shard with 256 MiB.
const CANDIDATES: usize = 512;
/// Moves end when so many chunks were emptied without there being fewer, until there is a chunk
/// more, or a chunk's worth of free units.
const IN_VAIN_MAX: usize = 16;
/// The owner of a free run.
const NOBODY: u32 = u32::MAX;

/// Chunks for blocks of 2 to 32 KiB.
pub(super) type SmallChunks = Chunks<256, SMALL_CHUNK_BYTES, SMALL_REGION_BYTES>;
/// Chunks for longer blocks.
pub(super) type LargeChunks = Chunks<PAGE_BYTES, LARGE_CHUNK_BYTES, LARGE_CHUNK_BYTES>;

/// Where a run begins: the chunk, and behind it the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Start(u32);

#[derive(Clone, Copy, Debug)]
struct Run {
    start: u16,
    units: u16,
    owner: u32,
}

impl Run {
    fn is_free(&self) -> bool {
        self.owner == NOBODY
    }
}

#[derive(Debug)]
struct Chunk {
    /// By start; none where the chunk was given back. They are few: searching and inserting touch
    /// some cache lines.
    runs: Vec<Run>,
    /// Units in use.
    used: usize,
}

/// A run that was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub owner: u32,
    pub start: Start,
    pub bytes: usize,
}

/// Chunks of runs.
#[derive(Debug, Default)]
pub(super) struct Chunks<
    const UNIT_BYTES: usize,
    const CHUNK_BYTES: usize,
    const REGION_BYTES: usize,
> {
    bytes: Pieces<CHUNK_BYTES, REGION_BYTES>,
    chunks: Vec<Chunk>,
    /// Free runs by length.
    free: BTreeSet<(u16, Start)>,
    /// Units in use.
    used: usize,
    /// The chunk that is being emptied.
    emptied: Option<u32>,
    /// Where the search for the emptiest chunk goes on.
    search_at: usize,
    /// Some lengths fill chunks so badly that moving leads nowhere: the fewest chunks that moves
    /// have led to, the units that were moved since then, and how many were free when that was.
    fewest: usize,
    moved_in_vain: usize,
    free_before: usize,
}

impl<const UNIT_BYTES: usize, const CHUNK_BYTES: usize, const REGION_BYTES: usize>
    Chunks<UNIT_BYTES, CHUNK_BYTES, REGION_BYTES>
{
    const UNITS: usize = {
        assert!(CHUNK_BYTES / UNIT_BYTES <= 1 << 15, "runs count units in 16 bits");
        CHUNK_BYTES / UNIT_BYTES
    };
    /// The longest run. For small chunks it is a sixteenth of one, so that the end of a chunk that
    /// is left over is no more than may be free.
    pub const RUN_BYTES_MAX: usize =
        if CHUNK_BYTES == SMALL_CHUNK_BYTES { CHUNK_BYTES / FREE_SHARE } else { CHUNK_BYTES };

    fn units(bytes: usize) -> u16 {
        assert!((1..=Self::RUN_BYTES_MAX).contains(&bytes), "a run of {bytes} bytes");
        bytes.div_ceil(UNIT_BYTES) as u16
    }

    fn start(chunk: usize, unit: u16) -> Start {
        Start((chunk * Self::UNITS) as u32 + u32::from(unit))
    }

    /// The chunk of a run, and at which unit it begins.
    #[inline]
    fn place(start: Start) -> (usize, u16) {
        (start.0 as usize / Self::UNITS, (start.0 as usize % Self::UNITS) as u16)
    }

    /// The chunk of a run, and at which byte it begins.
    #[inline]
    fn byte_place(start: Start) -> (u32, usize) {
        let (chunk, unit) = Self::place(start);
        (chunk as u32, usize::from(unit) * UNIT_BYTES)
    }

    /// The bytes of a run.
    #[inline]
    pub fn bytes(&self, start: Start, len: usize) -> &[u8] {
        {
            let (chunk, offset) = Self::byte_place(start);
            &self.bytes.get(chunk)[offset..][..len]
        }
    }

    /// The same, to be written.
    #[inline]
    pub fn bytes_mut(&mut self, start: Start, len: usize) -> &mut [u8] {
        {
            let (chunk, offset) = Self::byte_place(start);
            &mut self.bytes.get_mut(chunk)[offset..][..len]
        }
    }

    /// A run of 1 to `RUN_BYTES_MAX` bytes with anything in it, for an owner who is told where it
    /// goes.
    pub fn allocate(&mut self, bytes: usize, owner: u32) -> Start {
        debug_assert!(owner != NOBODY);
        let wanted = Self::units(bytes);
        let found = self.free.range((wanted, Start(0))..).next().copied();
        let (length, start) = found.unwrap_or_else(|| self.add_chunk());
        self.free.remove(&(length, start));
        let (number, unit) = Self::place(start);
        let chunk = &mut self.chunks[number];
        let at = chunk.find(unit);
        chunk.runs[at] = Run { start: unit, units: wanted, owner };
        chunk.used += usize::from(wanted);
        self.used += usize::from(wanted);
        if length > wanted {
            let run = Run { start: unit + wanted, units: length - wanted, owner: NOBODY };
            chunk.runs.insert(at + 1, run);
            self.free.insert((run.units, Self::start(number, run.start)));
        }
        start
    }

    /// Frees a run.
    pub fn release(&mut self, start: Start) {
        let (number, unit) = Self::place(start);
        let is_emptied = self.emptied == Some(number as u32);
        let chunk = &mut self.chunks[number];
        let mut at = chunk.find(unit);
        let released = usize::from(chunk.runs[at].units);
        chunk.used -= released;
        self.used -= released;
        if UNIT_BYTES >= PAGE_BYTES {
            let (number, offset) = Self::byte_place(start);
            self.bytes.give_back(number, offset, released * UNIT_BYTES);
        }
        if chunk.used == 0 {
            self.give_back(number);
            return;
        }
        chunk.runs[at].owner = NOBODY;
        if chunk.runs.get(at + 1).is_some_and(Run::is_free) {
            let next = chunk.runs.remove(at + 1);
            chunk.runs[at].units += next.units;
            if !is_emptied {
                self.free.remove(&(next.units, Self::start(number, next.start)));
            }
        }
        if at > 0 && chunk.runs[at - 1].is_free() {
            let run = chunk.runs.remove(at);
            at -= 1;
            let former = chunk.runs[at];
            chunk.runs[at].units += run.units;
            if !is_emptied {
                self.free.remove(&(former.units, Self::start(number, former.start)));
            }
        }
        if !is_emptied {
            let run = chunk.runs[at];
            self.free.insert((run.units, Self::start(number, run.start)));
        }
    }

    /// Makes a run as long as `bytes` where it is, if what follows is free. Says whether it did.
    pub fn grow(&mut self, start: Start, bytes: usize) -> bool {
        let (number, unit) = Self::place(start);
        let is_emptied = self.emptied == Some(number as u32);
        let chunk = &mut self.chunks[number];
        let at = chunk.find(unit);
        let Some(more) = Self::units(bytes).checked_sub(chunk.runs[at].units) else { return true };
        if more == 0 {
            return true;
        }
        let Some(&next) = chunk.runs.get(at + 1) else { return false };
        if is_emptied || !next.is_free() || next.units < more {
            return false;
        }
        self.free.remove(&(next.units, Self::start(number, next.start)));
        chunk.runs[at].units += more;
        chunk.used += usize::from(more);
        self.used += usize::from(more);
        if next.units == more {
            chunk.runs.remove(at + 1);
        } else {
            let rest = Run { start: next.start + more, units: next.units - more, owner: NOBODY };
            chunk.runs[at + 1] = rest;
            self.free.insert((rest.units, Self::start(number, rest.start)));
        }
        true
    }

    /// Copies what lies in one run to another one.
    pub fn copy(&mut self, from: Start, to: Start, bytes: usize) {
        self.bytes.copy(Self::byte_place(from), Self::byte_place(to), bytes);
    }

    /// Moves a run out of a chunk that is to become empty; nothing while little is free. Whoever
    /// asks tells the owner.
    pub fn move_one(&mut self) -> Option<Moved> {
        if self.emptied.is_none() {
            if !self.is_sparse() {
                return None;
            }
            let emptiest = self.emptiest();
            for run in self.chunks[emptiest].runs.iter().filter(|run| run.is_free()) {
                self.free.remove(&(run.units, Self::start(emptiest, run.start)));
            }
            self.emptied = Some(emptiest as u32);
        }
        let number = self.emptied? as usize;
        // A chunk without a run in use has been given back, and is not the one any more.
        let run = *self.chunks[number].runs.iter().find(|run| !run.is_free())?;
        let bytes = usize::from(run.units) * UNIT_BYTES;
        let (fewest, moved_in_vain, before) = (self.fewest, self.moved_in_vain, self.free_before);
        let start = self.allocate(bytes, run.owner);
        let former = Self::start(number, run.start);
        self.copy(former, start, bytes);
        self.release(former);
        // A chunk that was added for the moved run is no reason to begin anew.
        (self.fewest, self.free_before) = (fewest, before);
        self.moved_in_vain = moved_in_vain + usize::from(run.units);
        if self.bytes.in_use() < fewest || self.free_units() > self.free_before + Self::UNITS {
            self.begin_moving();
        }
        Some(Moved { owner: run.owner, start, bytes })
    }

    /// Gives about `bytes_max` bytes back at once, with whatever lies in them. Returns how many,
    /// zero when none are left. No run can be used any more.
    pub fn tear_down(&mut self, bytes_max: usize) -> usize {
        if UNIT_BYTES < PAGE_BYTES {
            return self.bytes.tear_down(bytes_max);
        }
        // Nothing but the runs in use is resident, and that may be little of a large chunk.
        let mut given = 0;
        while given < bytes_max
            && let Some(chunk) = self.chunks.last_mut()
        {
            match chunk.runs.pop() {
                Some(run) if !run.is_free() => {
                    let bytes = usize::from(run.units) * UNIT_BYTES;
                    let number = self.chunks.len() as u32 - 1;
                    self.bytes.give_back(number, usize::from(run.start) * UNIT_BYTES, bytes);
                    given += bytes;
                }
                Some(_) => {}
                None => {
                    self.chunks.pop();
                    self.bytes.drop_region();
                    given += UNIT_BYTES;
                }
            }
        }
        given
    }

    /// Chunks in use, for tests.
    #[cfg(test)]
    pub fn in_use(&self) -> usize {
        self.bytes.in_use()
    }

    /// The chunk that is being emptied, for tests.
    #[cfg(test)]
    pub fn emptied(&self) -> Option<u32> {
        self.emptied
    }

    /// The chunk of a run, for tests.
    #[cfg(test)]
    pub fn chunk_of(start: Start) -> u32 {
        Self::byte_place(start).0
    }

    /// Runs in use, for tests.
    pub fn runs_in_use(&self) -> usize {
        self.chunks.iter().flat_map(|chunk| &chunk.runs).filter(|run| !run.is_free()).count()
    }

    fn is_sparse(&self) -> bool {
        let free = self.free_units();
        free > self.used / FREE_SHARE + Self::UNITS
            && (self.moved_in_vain < IN_VAIN_MAX * Self::UNITS
                || free > self.free_before + Self::UNITS)
    }

    fn free_units(&self) -> usize {
        self.bytes.in_use() * Self::UNITS - self.used
    }

    /// Begins to count moves in vain.
    fn begin_moving(&mut self) {
        self.fewest = self.bytes.in_use();
        self.moved_in_vain = 0;
        self.free_before = self.free_units();
    }

    /// The chunk with the fewest units in use among some.
    fn emptiest(&mut self) -> usize {
        let in_use = (0..self.chunks.len())
            .map(|offset| (self.search_at + offset) % self.chunks.len())
            .filter(|number| self.chunks[*number].used > 0)
            .take(CANDIDATES);
        let emptiest = in_use.min_by_key(|number| self.chunks[*number].used);
        self.search_at = (self.search_at + CANDIDATES) % self.chunks.len();
        emptiest.expect("what is sparse has chunks")
    }

    /// Adds a chunk, and says which free run it is.
    fn add_chunk(&mut self) -> (u16, Start) {
        let run = Run { start: 0, units: Self::UNITS as u16, owner: NOBODY };
        let chunk = Chunk { runs: vec![run], used: 0 };
        let number = self.bytes.add() as usize;
        assert!((number + 1) * Self::UNITS <= u32::MAX as usize, "units count in 32 bits");
        match self.chunks.get_mut(number) {
            Some(vacant) => *vacant = chunk,
            None => self.chunks.push(chunk),
        }
        self.begin_moving();
        let free = (run.units, Self::start(number, 0));
        self.free.insert(free);
        free
    }

    /// Gives back a chunk whose last run is released.
    fn give_back(&mut self, number: usize) {
        let is_emptied = self.emptied == Some(number as u32);
        if is_emptied {
            self.emptied = None;
        }
        let chunk = &mut self.chunks[number];
        for run in std::mem::take(&mut chunk.runs).iter().filter(|run| run.is_free()) {
            if !is_emptied {
                self.free.remove(&(run.units, Self::start(number, run.start)));
            }
        }
        self.bytes.release(number as u32);
    }

    /// Checks the invariants by counting anew, for tests.
    pub fn check(&self) {
        let mut free = BTreeSet::new();
        let mut used = 0;
        let mut chunks = 0;
        for (number, chunk) in self.chunks.iter().enumerate() {
            if chunk.used == 0 {
                assert!(chunk.runs.is_empty(), "chunk {number} is vacant");
                continue;
            }
            chunks += 1;
            let mut end = 0;
            for (at, run) in chunk.runs.iter().enumerate() {
                assert_eq!(run.start, end, "a gap in chunk {number}");
                end += run.units;
                let is_next_free = chunk.runs.get(at + 1).is_some_and(Run::is_free);
                assert!(!(run.is_free() && is_next_free), "free neighbours in chunk {number}");
                if run.is_free() && self.emptied != Some(number as u32) {
                    free.insert((run.units, Self::start(number, run.start)));
                }
            }
            assert_eq!(usize::from(end), Self::UNITS);
            let in_use = chunk.runs.iter().filter(|run| !run.is_free());
            assert_eq!(chunk.used, in_use.map(|run| usize::from(run.units)).sum::<usize>());
            used += chunk.used;
        }
        assert_eq!((self.used, self.bytes.in_use()), (used, chunks));
        assert_eq!(self.free, free);
    }
}

impl Chunk {
    /// Which run begins at a unit.
    fn find(&self, unit: u16) -> usize {
        let found = self.runs.binary_search_by_key(&unit, |run| run.start);
        found.expect("a run that was allocated")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN_BYTES_MAX: usize = SmallChunks::RUN_BYTES_MAX;
    const UNIT_BYTES: usize = SMALL_CHUNK_BYTES / SmallChunks::UNITS;

    /// Numbers that look random.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
            (self.0 >> 33) as usize % bound
        }
    }

    /// Runs with what lies in them; the owner of each is its place here.
    struct Filled {
        chunks: SmallChunks,
        runs: Vec<Option<(Start, usize)>>,
        random: Random,
    }

    impl Filled {
        fn new() -> Self {
            Filled { chunks: SmallChunks::default(), runs: Vec::new(), random: Random(7) }
        }

        fn letter(owner: usize) -> u8 {
            (owner % 251) as u8
        }

        fn add(&mut self, bytes: usize) {
            let owner = self.runs.len();
            let start = self.chunks.allocate(bytes, owner as u32);
            self.chunks.bytes_mut(start, bytes).fill(Filled::letter(owner));
            self.runs.push(Some((start, bytes)));
        }

        fn remove_one(&mut self) {
            let from = self.random.below(self.runs.len());
            let order = (from..self.runs.len()).chain(0..from);
            if let Some(owner) = order.into_iter().find(|owner| self.runs[*owner].is_some()) {
                let (start, bytes) = self.runs[owner].take().unwrap_or_else(|| unreachable!());
                let letter = Filled::letter(owner);
                assert!(self.chunks.bytes(start, bytes).iter().all(|byte| *byte == letter));
                self.chunks.release(start);
            }
        }

        fn grow_one(&mut self) {
            let owner = self.random.below(self.runs.len());
            let Some((start, bytes)) = self.runs[owner] else { return };
            let longer = (bytes + self.random.below(9_000)).min(RUN_BYTES_MAX);
            if self.chunks.grow(start, longer) {
                self.chunks.bytes_mut(start, longer).fill(Filled::letter(owner));
                self.runs[owner] = Some((start, longer));
            }
        }

        /// Moves one run, and says how many bytes it has.
        fn move_one(&mut self) -> Option<usize> {
            let Moved { owner, start, bytes } = self.chunks.move_one()?;
            let (place, _) = self.runs[owner as usize].as_mut().expect("an owner of a run");
            *place = start;
            Some(bytes)
        }

        fn check(&self) {
            self.chunks.check();
            for (owner, (start, bytes)) in
                self.runs.iter().enumerate().filter_map(|(owner, run)| Some((owner, (*run)?)))
            {
                let letter = Filled::letter(owner);
                assert!(self.chunks.bytes(start, bytes).iter().all(|byte| *byte == letter));
            }
        }
    }

    #[test]
    fn runs_do_not_overlap_and_keep_what_lies_in_them_wherever_they_go() {
        let mut filled = Filled::new();
        for round in 0..30_000 {
            let longest = [4_000, 20_000, RUN_BYTES_MAX][round / 10_000];
            let bytes = 1 + filled.random.below(longest);
            match filled.random.below(10) {
                0..4 => filled.add(bytes),
                4..8 if round > 500 => filled.remove_one(),
                8 if round > 0 => filled.grow_one(),
                9 => {
                    filled.move_one();
                }
                _ => {}
            }
            if round % 1_000 == 0 {
                filled.check();
            }
        }
        filled.check();
        while filled.runs.iter().any(Option::is_some) {
            filled.remove_one();
        }
        filled.check();
        assert_eq!(filled.chunks.bytes.in_use(), 0);
        assert!(filled.chunks.free.is_empty());
    }

    #[test]
    fn a_long_run_that_is_freed_is_not_resident_and_its_neighbours_are() {
        let mut chunks = LargeChunks::default();
        let starts: Vec<Start> = (0..40).map(|owner| chunks.allocate(100_000, owner)).collect();
        starts.iter().for_each(|start| chunks.bytes_mut(*start, 100_000).fill(1));
        let room = 100_000_usize.next_multiple_of(PAGE_BYTES);
        let resident = |chunks: &LargeChunks, start| {
            super::super::pieces::resident_bytes(chunks.bytes(start, room))
        };
        assert!(starts.iter().all(|start| resident(&chunks, *start) == room));
        starts.iter().step_by(2).for_each(|start| chunks.release(*start));
        for (number, start) in starts.iter().enumerate() {
            assert_eq!(resident(&chunks, *start), number % 2 * room, "run {number}");
        }
        assert!(chunks.bytes(starts[7], 100_000).iter().all(|byte| *byte == 1));
    }

    #[test]
    fn moving_ends_even_where_lengths_fill_chunks_badly() {
        for bytes in [32_768, 32_513, 30_900, 29_000, 27_100, 17_300, 15_500, 2_305] {
            let mut filled = Filled::new();
            (0..600).for_each(|_| filled.add(bytes));
            (0..300).for_each(|_| filled.remove_one());
            let mut moved = 0;
            while let Some(bytes) = filled.move_one() {
                moved += bytes;
                assert!(moved <= 64 * SMALL_CHUNK_BYTES, "{moved} bytes moved, for {bytes} each");
            }
            filled.check();
        }
    }

    #[test]
    fn when_sizes_change_no_more_than_an_eighth_and_a_chunk_stays_free() {
        let mut filled = Filled::new();
        let phases = [(2_100, 3_000), (9_000, 12_000), (2_100, 32_000), (30_000, 31_000)];
        for (shortest, longest) in phases.into_iter().cycle().take(12) {
            let mut moved = 0;
            let mut written = 0;
            for _ in 0..3_000 {
                let bytes = shortest + filled.random.below(longest - shortest);
                filled.add(bytes);
                written += bytes;
                while filled.chunks.used * UNIT_BYTES > 16 << 20 {
                    filled.remove_one();
                }
                let mut moved_now = 0;
                while moved_now < 2 * bytes
                    && let Some(bytes) = filled.move_one()
                {
                    moved_now += bytes;
                }
                moved += moved_now;
            }
            // What is left to do ends.
            let mut rest = 0;
            while let Some(bytes) = filled.move_one() {
                rest += bytes;
                assert!(
                    rest <= (IN_VAIN_MAX + 4) * SMALL_CHUNK_BYTES,
                    "{rest} bytes of moves were left"
                );
            }
            let used = filled.chunks.used;
            let room = filled.chunks.bytes.in_use() * SmallChunks::UNITS;
            assert!(room <= used + used / 8 + SmallChunks::UNITS, "{room} units for {used}");
            println!("{shortest} to {longest}: {:.2} moved", moved as f64 / written as f64);
            filled.check();
        }
    }
}
