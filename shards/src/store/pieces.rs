//! Memory in pieces of equal size, each of which goes back to the operating system when it is
//! freed.
//!
//! Pieces lie in regions of address space, of which only what is in use is resident. An allocator
//! puts several pieces on a page of its own and gives that back when the last of them is gone:
//! where the sizes of values had changed, a quarter more was resident than in use. And a mapping
//! for each piece would come to the number that a process may have, 65,530.
//!
//! A few freed pieces stay resident, so that a number of them that swings costs no system calls.
//! What lies in a piece that is taken is anything.
//!
//! A huge page of the system is resident as a whole with the first byte that is used of it, but
//! spares readers of much memory a look into its tables for almost every access. So who has little
//! gets none, and who has much gets them for what he begins to use.
//!
//! Where a page of the system is larger than what is given back, or does not begin with it, less is
//! given back: never more than was asked for.

use memmap2::{Advice, MmapMut, MmapOptions, UncheckedAdvice};

/// Freed pieces that stay resident: one for so many in use.
const WARM_SHARE: usize = 32;
/// Bytes that are given back in one step when all are.
const STEP_BYTES: usize = 1 << 20;

/// Bytes from which further ones lie on huge pages. The last of these, of 2 MiB on most machines,
/// may be resident for nothing: a sixteenth at most, and half of that on the average.
const HUGE_FROM_BYTES: usize = 32 << 20;

/// Pieces of so many bytes, in regions of so many: powers of two.
#[derive(Debug, Default)]
pub(super) struct Pieces<const BYTES: usize, const REGION_BYTES: usize> {
    regions: Vec<Region>,
    /// Pieces that were ever in use: those before this number.
    begun: usize,
    /// Freed and resident.
    warm: Vec<u32>,
    /// Freed and given back.
    cold: Vec<u32>,
    /// Bytes of the last region, at the end of its pieces, that were given back because everything
    /// is.
    torn: usize,
}

#[derive(Debug)]
enum Region {
    Mapped(MmapMut),
    /// Where the system grants no mapping. Nothing of it is given back.
    Allocated(Box<[u8]>),
}

impl Region {
    fn new(bytes: usize) -> Self {
        // Reserved address space is not memory that somebody will use.
        match MmapOptions::new().len(bytes).no_reserve_swap().map_anon() {
            Ok(mapped) => Region::Mapped(mapped),
            Err(_) => Region::Allocated(vec![0; bytes].into_boxed_slice()),
        }
    }

    /// Whether what is used of it for the first time from now on gets huge pages.
    fn advise_huge(&self, is_huge: bool) {
        if let Region::Mapped(mapped) = self {
            let advice = if is_huge { Advice::HugePage } else { Advice::NoHugePage };
            // Where the system knows no huge pages there are none to be had or refused.
            let _refused = mapped.advise(advice);
        }
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        match self {
            Region::Mapped(mapped) => mapped,
            Region::Allocated(bytes) => bytes,
        }
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Region::Mapped(mapped) => mapped,
            Region::Allocated(bytes) => bytes,
        }
    }

    /// Gives the system's pages that lie within a range back, if its pages have so many bytes. What
    /// lies in the range is anything then.
    fn give_back(&mut self, start: usize, len: usize, page_bytes: usize) {
        let end = (start + len) / page_bytes * page_bytes;
        let start = start.next_multiple_of(page_bytes);
        if let Region::Mapped(mapped) = self
            && start < end
        {
            // SAFETY: the mapping is private, has no file, and is borrowed mutably here, so nobody
            // refers to its bytes; they are zero afterwards, which are bytes as good as any. Safe
            // code could only unmap whole regions, which wants them empty (module documentation).
            let given = unsafe {
                mapped.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start)
            };
            debug_assert!(given.is_ok(), "whole pages of a mapping of ours: {given:?}");
        }
    }
}

impl<const BYTES: usize, const REGION_BYTES: usize> Pieces<BYTES, REGION_BYTES> {
    const PER_REGION: usize = REGION_BYTES / BYTES;

    /// The bytes of a piece.
    #[inline]
    pub fn get(&self, number: u32) -> &[u8] {
        let (region, place) = Self::place(number);
        &self.regions[region].bytes()[place..place + BYTES]
    }

    /// The same, to be written.
    #[inline]
    pub fn get_mut(&mut self, number: u32) -> &mut [u8] {
        let (region, place) = Self::place(number);
        &mut self.regions[region].bytes_mut()[place..place + BYTES]
    }

    /// Copies `len` bytes from one piece to one, which may be the same.
    pub fn copy(&mut self, from: (u32, usize), to: (u32, usize), len: usize) {
        let (source, start) = Self::place(from.0);
        let (target, end) = Self::place(to.0);
        let (start, end) = (start + from.1, end + to.1);
        match self.regions.get_disjoint_mut([source, target]) {
            Ok([source, target]) => target.bytes_mut()[end..end + len]
                .copy_from_slice(&source.bytes()[start..start + len]),
            Err(_) => self.regions[source].bytes_mut().copy_within(start..start + len, end),
        }
    }

    /// Takes a piece: one that was freed, or else the next number.
    pub fn add(&mut self) -> u32 {
        if let Some(number) = self.warm.pop().or_else(|| self.cold.pop()) {
            return number;
        }
        if self.begun == self.regions.len() * Self::PER_REGION {
            self.begin_region();
        }
        self.begun += 1;
        (self.begun - 1) as u32
    }

    /// Only in the last region are pieces used for the first time. What is freed and used again in
    /// others would be whole huge pages for single pieces.
    fn begin_region(&mut self) {
        if let Some(former) = self.regions.last().filter(|_| self.is_huge()) {
            former.advise_huge(false);
        }
        let region = Region::new(REGION_BYTES);
        self.regions.push(region);
        if let Some(region) = self.regions.last() {
            region.advise_huge(self.is_huge());
        }
    }

    /// Whether the last region has huge pages. Where pieces are regions they are not used in order.
    fn is_huge(&self) -> bool {
        Self::PER_REGION > 1 && self.regions.len() * REGION_BYTES > HUGE_FROM_BYTES
    }

    /// Frees a piece.
    pub fn release(&mut self, number: u32) {
        self.warm.push(number);
        while self.warm.len() > self.in_use() / WARM_SHARE {
            let coldest = self.warm.swap_remove(0);
            self.give_back(coldest, 0, BYTES);
            self.cold.push(coldest);
        }
    }

    /// Gives a part of a piece in use back, in which then lies anything.
    pub fn give_back(&mut self, number: u32, start: usize, len: usize) {
        let (region, place) = Self::place(number);
        self.regions[region].give_back(place + start, len, rustix::param::page_size());
    }

    /// Gives the last region back at once, for users who have given back what was resident of it.
    pub fn drop_region(&mut self) {
        self.regions.pop();
    }

    /// Pieces in use.
    pub fn in_use(&self) -> usize {
        self.begun - self.warm.len() - self.cold.len()
    }

    /// Gives memory back, whoever uses it: at most `bytes_max`, but for a step. Returns how much;
    /// zero when none is left. No piece can be used any more.
    pub fn tear_down(&mut self, bytes_max: usize) -> usize {
        let mut given = 0;
        while given < bytes_max
            && let former = self.regions.len().saturating_sub(1) * Self::PER_REGION
            && let Some(region) = self.regions.last_mut()
        {
            // What was never in use is not resident.
            let left = (self.begun - former) * BYTES - self.torn;
            let step = left.min(STEP_BYTES);
            region.give_back(left - step, step, rustix::param::page_size());
            self.torn += step;
            given += step;
            if left == step {
                self.regions.pop();
                self.begun = former;
                self.torn = 0;
            }
        }
        given
    }

    #[inline]
    fn place(number: u32) -> (usize, usize) {
        (number as usize / Self::PER_REGION, number as usize % Self::PER_REGION * BYTES)
    }
}

/// How many bytes of a slice that begins with a page of the system are resident, for tests.
#[cfg(test)]
#[expect(clippy::disallowed_types, reason = "a look at this process")]
pub(super) fn resident_bytes(bytes: &[u8]) -> usize {
    use std::os::unix::fs::FileExt as _;
    let page = rustix::param::page_size();
    let mut states = vec![0; bytes.len() / page * 8];
    let map = std::fs::File::open("/proc/self/pagemap").expect("a Linux system");
    map.read_exact_at(&mut states, (bytes.as_ptr() as usize / page * 8) as u64).expect("a mapping");
    // The highest bit of each page's eight bytes says that it is present.
    states.chunks_exact(8).filter(|state| state[7] & 0x80 != 0).count() * page
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: usize = 16 << 10;
    const REGION: usize = 4 << 20;

    #[test]
    fn pieces_keep_their_bytes_and_freed_ones_are_taken_again() {
        let mut pieces = Pieces::<PIECE, REGION>::default();
        let count = REGION / PIECE * 2 + 5;
        let numbers: Vec<u32> = (0..count).map(|_| pieces.add()).collect();
        for &number in &numbers {
            pieces.get_mut(number).fill(number as u8);
        }
        numbers.iter().step_by(3).for_each(|number| pieces.release(*number));
        assert_eq!(pieces.in_use(), count - count.div_ceil(3));
        for number in numbers.iter().filter(|number| *number % 3 != 0) {
            assert!(pieces.get(*number).iter().all(|byte| *byte == *number as u8));
        }
        pieces.copy((1, 7), (400, 9), 100);
        assert_eq!(pieces.get(400)[8..110], [&[400_u32 as u8][..], &[1; 100], &[144]].concat());
        let mut again: Vec<u32> = (0..count.div_ceil(3)).map(|_| pieces.add()).collect();
        again.sort_unstable();
        assert!(again.iter().eq(numbers.iter().step_by(3)), "the freed ones");
        assert_eq!(pieces.add() as usize, count);
    }

    #[test]
    fn what_is_freed_is_not_resident_even_where_its_neighbours_are_in_use() {
        let mut pieces = Pieces::<PIECE, REGION>::default();
        let numbers: Vec<u32> = (0..1_000).map(|_| pieces.add()).collect();
        let resident = |pieces: &Pieces<PIECE, REGION>| {
            numbers.iter().map(|number| resident_bytes(pieces.get(*number))).sum::<usize>()
        };
        assert_eq!(resident(&pieces), 0, "what was not used");
        numbers.iter().for_each(|number| pieces.get_mut(*number).fill(1));
        let full = resident(&pieces);
        assert_eq!(full, 1_000 * PIECE);
        numbers.iter().filter(|number| *number % 8 != 0).for_each(|number| pieces.release(*number));
        let sparse = resident(&pieces);
        assert!(sparse <= full / 8 + full / 8 / WARM_SHARE, "{sparse} of {full} bytes");
    }

    #[test]
    fn pieces_smaller_than_a_page_of_the_system_take_nothing_from_their_neighbours() {
        let mut pieces = Pieces::<1024, REGION>::default();
        let numbers: Vec<u32> = (0..64).map(|_| pieces.add()).collect();
        numbers.iter().for_each(|number| pieces.get_mut(*number).fill(1 + *number as u8));
        numbers.iter().step_by(5).for_each(|number| pieces.release(*number));
        for number in numbers.iter().filter(|number| *number % 5 != 0) {
            assert_eq!(pieces.get(*number), [1 + *number as u8; 1024], "piece {number}");
        }
        // Parts that do not end where pages do.
        let mut pieces = Pieces::<PIECE, REGION>::default();
        let number = pieces.add();
        pieces.get_mut(number).fill(7);
        pieces.give_back(number, 4_000, 9_000);
        let bytes = pieces.get(number);
        assert!(bytes[..4_000].iter().chain(&bytes[13_000..]).all(|byte| *byte == 7));
    }

    /// The flags of the mapping that an address lies in, as `/proc` names them.
    fn mapping_flags(address: usize) -> Vec<String> {
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("a Linux system");
        let mut is_inside = false;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let bound = |text| usize::from_str_radix(text, 16).ok();
            if let Some((start, end)) = range.and_then(|(start, end)| bound(start).zip(bound(end)))
            {
                is_inside = (start..end).contains(&address);
            } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| is_inside) {
                return flags.split_whitespace().map(String::from).collect();
            }
        }
        panic!("no mapping has the address {address:#x}")
    }

    #[test]
    fn large_stores_begin_further_memory_on_huge_pages_and_small_ones_do_not() {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            return;
        }
        let mut pieces = Pieces::<PIECE, REGION>::default();
        let per_region = REGION / PIECE;
        let small = HUGE_FROM_BYTES / PIECE;
        let mut flags_of_newest = Vec::new();
        for number in 0..small + 2 * per_region {
            let piece = pieces.add();
            if number % per_region == 0 {
                flags_of_newest.push(mapping_flags(pieces.get(piece).as_ptr() as usize));
            }
        }
        let is_huge = |flags: &Vec<String>| flags.iter().any(|flag| flag == "hg");
        let huge: Vec<bool> = flags_of_newest.iter().map(is_huge).collect();
        let regions = small / per_region;
        assert_eq!(huge, [vec![false; regions], vec![true; 2]].concat());
        // Freed pieces of a region that is not the last are used one by one.
        let former = pieces.get((small + 1) as u32).as_ptr() as usize;
        assert!(!is_huge(&mapping_flags(former)), "of the last but one");
    }

    #[test]
    fn everything_is_given_back_in_steps() {
        let mut pieces = Pieces::<PIECE, REGION>::default();
        for _ in 0..REGION / PIECE + 1 {
            let number = pieces.add();
            pieces.get_mut(number).fill(1);
        }
        let mut steps = 0;
        while pieces.tear_down(STEP_BYTES) > 0 {
            steps += 1;
        }
        assert_eq!(steps, REGION / STEP_BYTES, "what was in use and no more");
        assert!(pieces.regions.is_empty());
    }
}
