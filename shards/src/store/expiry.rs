//! The deadlines, earliest first: an indexed four-ary heap ordered by (deadline, version).
//!
//! Entries know their place in the heap, so a change of deadline moves one element instead of
//! leaving dead ones behind. New deadlines are mostly later than those there, and then cost one
//! comparison. The arrangement within the heap is of no consequence: versions are unique, so the
//! order in which entries come out is total, and it is the same on every replica.

use super::pages::Pages;
use super::slab::{NO_DEADLINE, NONE, Slab, Slot};

/// Children of one element.
const ARITY: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Due {
    deadline: u64,
    version: u64,
    slot: u32,
}

impl Due {
    fn is_before(&self, other: &Due) -> bool {
        (self.deadline, self.version) < (other.deadline, other.version)
    }
}

/// The entries that have a deadline.
#[derive(Debug, Default)]
pub(super) struct ExpiryIndex {
    heap: Pages<Due>,
}

impl ExpiryIndex {
    /// The earliest deadline and its slot.
    pub fn first(&self) -> Option<(u64, u32)> {
        self.heap.first().map(|due| (due.deadline, due.slot))
    }

    /// Brings the index in line with the deadline and version that `slot` has now.
    pub fn update(&mut self, slab: &mut Slab, slot: u32) {
        let entry = &slab[slot];
        let due = Due { deadline: entry.deadline, version: entry.version.0, slot };
        match (entry.due, entry.deadline) {
            (NONE, NO_DEADLINE) => {}
            (NONE, _) => {
                self.heap.push(due);
                self.rise(slab, self.heap.len() - 1, due);
            }
            (_, NO_DEADLINE) => self.remove(slab, slot),
            (position, _) => self.place(slab, position as usize, due),
        }
    }

    /// Takes `slot` out, if it is there.
    pub fn remove(&mut self, slab: &mut Slab, slot: u32) {
        let position = slab[slot].due;
        if position == NONE {
            return;
        }
        slab[slot].due = NONE;
        let last = self.heap.pop();
        if let Some(last) = last.filter(|last| last.slot != slot) {
            self.place(slab, position as usize, last);
        }
    }

    /// Counts the entries whose deadline is at or before `stamp`. The cost is that of the result.
    pub fn count_due(&self, stamp: u64) -> u64 {
        let mut count = 0;
        let mut open = vec![0];
        while let Some(position) = open.pop() {
            if position < self.heap.len() && self.heap[position].deadline <= stamp {
                count += 1;
                open.extend((1..=ARITY).map(|child| position * ARITY + child));
            }
        }
        count
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.heap = Pages::default();
    }

    /// Adds an entry of a slab that is being restored, if it has a deadline. The order comes with
    /// [`ExpiryIndex::sort`].
    #[inline]
    pub fn push_unsorted(&mut self, entry: &Slot, slot: u32) {
        if entry.deadline != NO_DEADLINE {
            self.heap.push(Due { deadline: entry.deadline, version: entry.version.0, slot });
        }
    }

    /// Makes a heap of what was pushed without order, in a time proportional to it: every element
    /// sinks to its place, the last ones first (R. W. Floyd, "Algorithm 245: Treesort 3", 1964).
    pub fn sort(&mut self, slab: &mut Slab) {
        let parents = self.heap.len().saturating_sub(1).div_ceil(ARITY);
        for position in (0..parents).rev() {
            let due = self.heap[position];
            let place = self.sink_through(position, due, |heap, position, due| {
                heap[position] = due;
            });
            self.heap[place] = due;
        }
        for (position, due) in self.heap.iter().enumerate() {
            slab[due.slot].due = position as u32;
        }
    }

    /// Puts `due` at `position`, whose element is gone, or where the order wants it from there.
    fn place(&mut self, slab: &mut Slab, position: usize, due: Due) {
        if position > 0 && due.is_before(&self.heap[(position - 1) / ARITY]) {
            self.rise(slab, position, due);
        } else {
            self.sink(slab, position, due);
        }
    }

    fn rise(&mut self, slab: &mut Slab, mut position: usize, due: Due) {
        while position > 0 {
            let parent = (position - 1) / ARITY;
            if !due.is_before(&self.heap[parent]) {
                break;
            }
            self.set(slab, position, self.heap[parent]);
            position = parent;
        }
        self.set(slab, position, due);
    }

    fn sink(&mut self, slab: &mut Slab, position: usize, due: Due) {
        let place = self.sink_through(position, due, |heap, position, due| {
            heap[position] = due;
            slab[due.slot].due = position as u32;
        });
        self.set(slab, place, due);
    }

    /// Finds the place for `due` at or below `position`, and lets `set` move up what stands in
    /// between.
    fn sink_through(
        &mut self,
        mut position: usize,
        due: Due,
        mut set: impl FnMut(&mut Pages<Due>, usize, Due),
    ) -> usize {
        loop {
            let first = position * ARITY + 1;
            let children = first..(first + ARITY).min(self.heap.len());
            let earlier = |left: usize, right: usize| {
                if self.heap[right].is_before(&self.heap[left]) { right } else { left }
            };
            match children.reduce(earlier) {
                Some(child) if self.heap[child].is_before(&due) => {
                    let risen = self.heap[child];
                    set(&mut self.heap, position, risen);
                    position = child;
                }
                _ => return position,
            }
        }
    }

    fn set(&mut self, slab: &mut Slab, position: usize, due: Due) {
        self.heap[position] = due;
        slab[due.slot].due = position as u32;
    }

    /// Checks the heap against the entries, for tests.
    pub fn check(&self, slab: &Slab) {
        for (position, due) in self.heap.iter().enumerate() {
            let entry = &slab[due.slot];
            assert_eq!(entry.due as usize, position, "slot {}", due.slot);
            assert_eq!((entry.deadline, entry.version.0), (due.deadline, due.version));
            assert!(position == 0 || !due.is_before(&self.heap[(position - 1) / ARITY]));
        }
        let with_deadline = slab.entries().filter(|(_, entry)| entry.deadline != NO_DEADLINE);
        assert_eq!(with_deadline.count(), self.heap.len());
    }
}
