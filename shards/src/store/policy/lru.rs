//! Least recently used: the line is the order of use, and the oldest goes.
//!
//! A touch moves an entry to the end of the line, which is why readers leave one only where the
//! last use was long enough ago to matter.

use super::super::arena::Address;
use super::super::order::Queue;
use super::Policy;

/// The policy; all it needs is the line.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Lru;

impl Policy for Lru {
    fn insert(&mut self, queue: &mut Queue<'_>, entry: Address) {
        queue.push_newest(entry);
    }

    fn touch(&mut self, queue: &mut Queue<'_>, entry: Address) {
        queue.move_to_newest(entry);
    }

    fn lift(&mut self, queue: &mut Queue<'_>, entry: Address) {
        queue.unlink(entry);
    }

    fn lower(&mut self, queue: &mut Queue<'_>, _former: Address, entry: Address) {
        queue.push_newest(entry);
    }

    fn remove(&mut self, queue: &mut Queue<'_>, entry: Address) {
        queue.unlink(entry);
    }

    fn victim(&mut self, queue: &mut Queue<'_>, _spared: Address) -> Address {
        queue.oldest()
    }

    fn hand(&self) -> Address {
        Address::NONE
    }

    fn wants_touch(&self, _is_visited: bool, is_fresh: bool) -> bool {
        !is_fresh
    }

    fn entry_moved(&mut self, _old: Address, _new: Address) {}
}
