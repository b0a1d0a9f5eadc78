//! A doubly linked list of keys in arrays: what LRU, FIFO and SIEVE are made of.

use crate::trace::KeyId;

/// No key.
const NONE: u32 = u32::MAX;
/// The predecessor of a key that is not in the list.
const ABSENT: u32 = u32::MAX - 1;

/// Keys in an order; each is in it at most once.
pub(super) struct List {
    /// Towards the front.
    before: Vec<u32>,
    /// Towards the back.
    behind: Vec<u32>,
    front: u32,
    back: u32,
    len: usize,
}

impl List {
    /// An empty list for keys below `keys`.
    pub(super) fn new(keys: usize) -> List {
        let (before, behind) = (vec![ABSENT; keys], vec![NONE; keys]);
        List { before, behind, front: NONE, back: NONE, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn contains(&self, key: KeyId) -> bool {
        self.before[key.index()] != ABSENT
    }

    pub(super) fn back(&self) -> Option<KeyId> {
        key(self.back)
    }

    /// The neighbour of a key of the list towards the front.
    pub(super) fn towards_front(&self, of: KeyId) -> Option<KeyId> {
        key(self.before[of.index()])
    }

    /// Adds a key that is not in the list.
    pub(super) fn push_front(&mut self, added: KeyId) {
        debug_assert!(!self.contains(added), "{added:?} is in the list");
        self.before[added.index()] = NONE;
        self.behind[added.index()] = self.front;
        match key(self.front) {
            Some(front) => self.before[front.index()] = added.0,
            None => self.back = added.0,
        }
        self.front = added.0;
        self.len += 1;
    }

    /// Takes a key of the list out of it.
    pub(super) fn unlink(&mut self, removed: KeyId) {
        debug_assert!(self.contains(removed), "{removed:?} is not in the list");
        let (before, behind) = (self.before[removed.index()], self.behind[removed.index()]);
        match key(before) {
            Some(before) => self.behind[before.index()] = behind,
            None => self.front = behind,
        }
        match key(behind) {
            Some(behind) => self.before[behind.index()] = before,
            None => self.back = before,
        }
        self.before[removed.index()] = ABSENT;
        self.len -= 1;
    }
}

fn key(raw: u32) -> Option<KeyId> {
    (raw < ABSENT).then_some(KeyId(raw))
}
