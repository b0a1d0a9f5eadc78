//! The clairvoyant optimum (Belady 1966): evicted is what is read again last, or never.
//!
//! An entry that is written or removed before it is read again is worth nothing until then, so it
//! counts as never read. The newest entry may be the one that goes at once: no cache has to hold
//! what it was given.
//!
//! The order of the entries is a heap with lazy removal. An entry that was accessed leaves its
//! former place in the heap behind; a place counts only if it is the one that the entry has now.
//! The heap is made anew when most of it is left behind, so it stays within a few times the room.

use std::collections::BinaryHeap;

use super::Policy;
use crate::trace::{KeyId, Kind, Trace};

/// Never read again.
const NEVER: u32 = u32::MAX;
/// Not held. Position 0 is nobody's next read.
const ABSENT: u32 = 0;
/// The heap is made anew beyond so many times the room.
const HEAP_PER_ROOM: usize = 8;

/// A cache that knows the rest of its trace.
pub(super) struct Optimum {
    /// For each request the position of the next read of its key.
    next_reads: Vec<u32>,
    /// The position of the request that comes next.
    position: usize,
    /// For each key that is held, when it is read next.
    held: Vec<u32>,
    order: BinaryHeap<(u32, KeyId)>,
    len: usize,
    room: usize,
}

impl Optimum {
    pub(super) fn new(trace: &Trace, room: usize) -> Optimum {
        let mut next_reads = vec![NEVER; trace.requests.len()];
        let mut next_of_key = vec![NEVER; trace.keys];
        for (position, request) in trace.requests.iter().enumerate().rev() {
            next_reads[position] = next_of_key[request.key.index()];
            next_of_key[request.key.index()] = match request.kind {
                Kind::Read | Kind::Scan => position as u32,
                Kind::Write | Kind::Delete => NEVER,
            };
        }
        let held = vec![ABSENT; trace.keys];
        Optimum { next_reads, position: 0, held, order: BinaryHeap::new(), len: 0, room }
    }

    fn evict(&mut self) {
        while let Some((next_read, key)) = self.order.pop() {
            if self.held[key.index()] == next_read {
                self.held[key.index()] = ABSENT;
                self.len -= 1;
                return;
            }
        }
    }

    fn drop_what_was_left_behind(&mut self) {
        let held = &self.held;
        self.order.retain(|&(next_read, key)| held[key.index()] == next_read);
    }
}

impl Policy for Optimum {
    fn access(&mut self, key: KeyId) -> bool {
        let next_read = self.next_reads[self.position];
        self.position += 1;
        let before = std::mem::replace(&mut self.held[key.index()], next_read);
        // An entry that is never read again may be accessed by writes: it has its place already.
        if before != next_read {
            self.order.push((next_read, key));
        }
        if before == ABSENT {
            self.len += 1;
        }
        if self.len > self.room {
            self.evict();
        }
        if self.order.len() > HEAP_PER_ROOM * self.room.max(1_024) {
            self.drop_what_was_left_behind();
        }
        before != ABSENT
    }

    fn remove(&mut self, key: KeyId) {
        self.position += 1;
        if self.held[key.index()] != ABSENT {
            self.held[key.index()] = ABSENT;
            self.len -= 1;
        }
    }
}
