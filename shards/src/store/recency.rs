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

    /// Rebuilds the list of the entries of `slab`, all of which `order` names with their numbers,
    /// and goes on counting from `next`. Nothing comes of it if the numbers are not unique or
    /// reach `next`.
    pub fn restore(slab: &mut Slab, mut order: Vec<(u64, u32)>, next: u64) -> Option<Self> {
        order.sort_unstable();
        let is_strict = order.is_sorted_by(|older, newer| older.0 < newer.0);
        if !is_strict || order.last().is_some_and(|(newest, _)| *newest >= next) {
            return None;
        }
        if defect::is(Defect::LruOrderNotRestored) {
            order.sort_unstable_by_key(|(_, slot)| *slot);
        }
        let mut list = RecencyList::new(next);
        for (_, slot) in order {
            list.link(slab, slot);
        }
        Some(list)
    }

    /// The slots of the list, newest first.
    pub fn iter<'a>(&self, slab: &'a Slab) -> impl Iterator<Item = u32> + 'a {
        slab.chain(self.newest, |slot| slot.older)
    }
}
