//! First in, first out: no access moves anything, the oldest entry is evicted.

use super::Policy;
use super::list::List;
use crate::trace::KeyId;

/// A FIFO cache.
pub(super) struct Fifo {
    list: List,
    room: usize,
}

impl Fifo {
    pub(super) fn new(keys: usize, room: usize) -> Fifo {
        Fifo { list: List::new(keys), room }
    }
}

impl Policy for Fifo {
    fn access(&mut self, key: KeyId) -> bool {
        if self.list.contains(key) {
            return true;
        }
        if self.list.len() == self.room
            && let Some(first) = self.list.back()
        {
            self.list.unlink(first);
        }
        self.list.push_front(key);
        false
    }

    fn remove(&mut self, key: KeyId) {
        if self.list.contains(key) {
            self.list.unlink(key);
        }
    }
}
