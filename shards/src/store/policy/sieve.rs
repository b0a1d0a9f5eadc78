//! SIEVE: entries stand in the order of their arrival, and a hand goes from the oldest to the
//! newest. It takes the mark from each visited entry that it comes by, and evicts the first one
//! without. (Y. Zhang and others, "SIEVE is Simpler than LRU", NSDI 2024.)
//!
//! Using an entry sets its mark and moves nothing. So a touch is needed only where there is no
//! mark, once for each round of the hand, and recency costs next to nothing to replicate. What is
//! used once goes soon, wherever the popular entries stand: a scan does not flush them.
//!
//! After [`MARKS_TAKEN_MAX`] marks the hand evicts whatever comes next. The algorithm has no such
//! bound, and where every entry is marked one write would pay for a walk along all of them.
//!
//! Invariant: the hand is an entry of the line, or none, and then the next round begins with the
//! oldest.

use super::super::arena::Address;
use super::super::order::Queue;
use super::Policy;

/// Marks that the hand takes away for one victim, at most.
const MARKS_TAKEN_MAX: usize = 256;

/// The policy, with its hand.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Sieve {
    hand: Address,
}

impl Sieve {
    /// A hand that points to this entry, or to none.
    pub fn new(hand: Address) -> Self {
        Sieve { hand }
    }
}

impl Policy for Sieve {
    fn insert(&mut self, queue: &mut Queue<'_>, entry: Address) {
        queue.push_newest(entry);
    }

    fn touch(&mut self, queue: &mut Queue<'_>, entry: Address) {
        queue.set_visited(entry, true);
    }

    fn lift(&mut self, queue: &mut Queue<'_>, entry: Address) {
        queue.set_apart(entry);
    }

    fn lower(&mut self, queue: &mut Queue<'_>, former: Address, entry: Address) {
        if former != entry {
            queue.entry_moved(former, entry);
            self.entry_moved(former, entry);
        }
        queue.set_back(entry);
        queue.set_visited(entry, true);
    }

    fn remove(&mut self, queue: &mut Queue<'_>, entry: Address) {
        if self.hand == entry {
            self.hand = queue.newer(entry);
        }
        queue.unlink(entry);
    }

    fn victim(&mut self, queue: &mut Queue<'_>, spared: Address) -> Address {
        let mut entry = self.hand.some().unwrap_or(queue.oldest());
        let mut marks_taken = 0;
        while entry == spared || (marks_taken < MARKS_TAKEN_MAX && queue.is_visited(entry)) {
            if entry != spared {
                queue.set_visited(entry, false);
                marks_taken += 1;
            }
            entry = queue.newer(entry).some().unwrap_or(queue.oldest());
        }
        self.hand = entry;
        entry
    }

    fn hand(&self) -> Address {
        self.hand
    }

    fn wants_touch(&self, is_visited: bool, _is_fresh: bool) -> bool {
        !is_visited
    }

    fn entry_moved(&mut self, old: Address, new: Address) {
        if self.hand == old {
            self.hand = new;
        }
    }
}
