//! The deadlines, earliest first: an indexed four-ary heap ordered by (deadline, version).
//!
//! Entries know their place in the heap, so a change of deadline moves one element instead of
//! leaving dead ones behind. New deadlines are mostly later than those there, and then cost one
//! comparison. The arrangement within the heap is of no consequence: versions are unique, so the
//! order in which entries come out is total, and it is the same on every replica.

use super::arena::Address;
use super::entries::{Entries, Entry, NO_DEADLINE, NO_PLACE};
use super::pages::Pages;
use crate::ids::Version;

/// Children of one element.
const ARITY: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Due {
    deadline: u64,
    version: u64,
    entry: Address,
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
    /// The earliest deadline and its entry.
    pub fn first(&self) -> Option<(u64, Address)> {
        self.heap.first().map(|due| (due.deadline, due.entry))
    }

    /// Brings the index in line with the deadline and version that the entry at `address` has now.
    pub fn update(&mut self, entries: &mut Entries, address: Address) {
        let deadline = entries.deadline(address);
        if deadline == NO_DEADLINE {
            return;
        }
        let Version(version) = entries.version(address);
        let due = Due { deadline, version, entry: address };
        match entries.due(address) {
            NO_PLACE => {
                self.heap.push(due);
                self.rise(entries, self.heap.len() - 1, due);
            }
            position => self.place(entries, position as usize, due),
        }
    }

    /// Takes the entry at `address` out, if it is there.
    pub fn remove(&mut self, entries: &mut Entries, address: Address) {
        let position = entries.due(address);
        if position == NO_PLACE {
            return;
        }
        entries.set_due(address, NO_PLACE);
        let last = self.heap.pop();
        if let Some(last) = last.filter(|last| last.entry != address) {
            self.place(entries, position as usize, last);
        }
    }

    /// Follows an entry that has moved in memory.
    pub fn entry_moved(&mut self, entries: &Entries, new: Address) {
        match entries.due(new) {
            NO_PLACE => {}
            position => self.heap[position as usize].entry = new,
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

    /// Gives up to `count_max` pages back, of an index that is not needed any more. Returns how
    /// many.
    pub fn tear_down(&mut self, count_max: usize) -> usize {
        self.heap.tear_down(count_max)
    }

    /// Adds an entry of a store that is being restored, if it has a deadline. The order comes with
    /// [`ExpiryIndex::sort`].
    #[inline]
    pub fn push_unsorted(&mut self, entry: &Entry<'_>, address: Address) {
        if entry.deadline() != NO_DEADLINE {
            let Version(version) = entry.version();
            self.heap.push(Due { deadline: entry.deadline(), version, entry: address });
        }
    }

    /// Makes a heap of what was pushed without order, in a time proportional to it: every element
    /// sinks to its place, the last ones first (R. W. Floyd, "Algorithm 245: Treesort 3", 1964).
    pub fn sort(&mut self, entries: &mut Entries) {
        let parents = self.heap.len().saturating_sub(1).div_ceil(ARITY);
        for position in (0..parents).rev() {
            let due = self.heap[position];
            let place = self.sink_through(position, due, |heap, position, due| {
                heap[position] = due;
            });
            self.heap[place] = due;
        }
        for (position, due) in self.heap.iter().enumerate() {
            entries.set_due(due.entry, position as u32);
        }
    }

    /// Puts `due` at `position`, whose element is gone, or where the order wants it from there.
    fn place(&mut self, entries: &mut Entries, position: usize, due: Due) {
        if position > 0 && due.is_before(&self.heap[(position - 1) / ARITY]) {
            self.rise(entries, position, due);
        } else {
            self.sink(entries, position, due);
        }
    }

    fn rise(&mut self, entries: &mut Entries, mut position: usize, due: Due) {
        while position > 0 {
            let parent = (position - 1) / ARITY;
            if !due.is_before(&self.heap[parent]) {
                break;
            }
            self.set(entries, position, self.heap[parent]);
            position = parent;
        }
        self.set(entries, position, due);
    }

    fn sink(&mut self, entries: &mut Entries, position: usize, due: Due) {
        let place = self.sink_through(position, due, |heap, position, due| {
            heap[position] = due;
            entries.set_due(due.entry, position as u32);
        });
        self.set(entries, place, due);
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

    fn set(&mut self, entries: &mut Entries, position: usize, due: Due) {
        self.heap[position] = due;
        entries.set_due(due.entry, position as u32);
    }

    /// Checks the heap against the entries, for tests. Returns their number.
    pub fn check(&self, entries: &Entries) -> usize {
        for (position, due) in self.heap.iter().enumerate() {
            let entry = entries.get(due.entry);
            assert_eq!(entries.due(due.entry) as usize, position, "an entry's place");
            assert_eq!((entry.deadline(), entry.version().0), (due.deadline, due.version));
            assert!(position == 0 || !due.is_before(&self.heap[(position - 1) / ARITY]));
        }
        self.heap.len()
    }
}
