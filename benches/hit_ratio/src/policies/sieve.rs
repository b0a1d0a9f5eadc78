//! SIEVE (Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024): a queue in order of arrival, a
//! mark that an access sets, and a hand that walks from the oldest to the newest and around. It
//! takes the marks away and evicts the first entry without one. Entries never move, so what is
//! wanted again sinks through the queue, and newcomers in front of the hand are sorted out first.

use super::Policy;
use super::list::List;
use crate::trace::KeyId;

/// A SIEVE cache.
pub(super) struct Sieve {
    list: List,
    visited: Vec<bool>,
    /// Where the next eviction begins; the back of the queue if it is nowhere.
    hand: Option<KeyId>,
    room: usize,
}

impl Sieve {
    pub(super) fn new(keys: usize, room: usize) -> Sieve {
        Sieve { list: List::new(keys), visited: vec![false; keys], hand: None, room }
    }

    fn evict(&mut self) {
        let mut place = self.hand.or(self.list.back());
        while let Some(key) = place
            && std::mem::take(&mut self.visited[key.index()])
        {
            place = self.list.towards_front(key).or(self.list.back());
        }
        if let Some(key) = place {
            self.hand = self.list.towards_front(key);
            self.list.unlink(key);
        }
    }
}

impl Policy for Sieve {
    fn access(&mut self, key: KeyId) -> bool {
        if self.list.contains(key) {
            self.visited[key.index()] = true;
            return true;
        }
        if self.list.len() == self.room {
            self.evict();
        }
        self.visited[key.index()] = false;
        self.list.push_front(key);
        false
    }

    fn remove(&mut self, key: KeyId) {
        if self.list.contains(key) {
            if self.hand == Some(key) {
                self.hand = self.list.towards_front(key);
            }
            self.list.unlink(key);
        }
    }
}
