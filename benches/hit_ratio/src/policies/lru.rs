//! Least recently used, exactly: every access moves its entry to the front, the back is evicted.

use super::Policy;
use super::list::List;
use crate::trace::KeyId;

/// An exact LRU cache.
pub(super) struct Lru {
    list: List,
    room: usize,
}

impl Lru {
    pub(super) fn new(keys: usize, room: usize) -> Lru {
        Lru { list: List::new(keys), room }
    }
}

impl Policy for Lru {
    fn access(&mut self, key: KeyId) -> bool {
        let held = self.list.contains(key);
        if held {
            self.list.unlink(key);
        } else if self.list.len() == self.room
            && let Some(oldest) = self.list.back()
        {
            self.list.unlink(oldest);
        }
        self.list.push_front(key);
        held
    }

    fn remove(&mut self, key: KeyId) {
        if self.list.contains(key) {
            self.list.unlink(key);
        }
    }
}
