//! Which entry goes first when room is needed.
//!
//! A policy sees the entries as a line, and every policy is one file with one implementation of
//! [`Policy`]. It is part of the replicated state: the same log leads to the same line and to the
//! same victims on every replica. Therefore a policy knows nothing but what it is called with: no
//! clock, no random number, no memory address's value.

mod lru;
mod sieve;

use super::arena::Address;
use super::order::Queue;
use crate::ids::Eviction;
use lru::Lru;
use sieve::Sieve;

/// The contract of an eviction policy.
///
/// The store calls it for every entry: [`insert`](Policy::insert) once, then any number of
/// [`touch`](Policy::touch) and of pairs of [`lift`](Policy::lift) and [`lower`](Policy::lower),
/// then [`remove`](Policy::remove) once. What a policy remembers beside the line it must be able
/// to give away ([`hand`](Policy::hand)) and to take back; a snapshot carries that and the line
/// with its visited marks, and nothing else.
pub(super) trait Policy {
    /// Puts an entry that was just written for the first time into the line.
    fn insert(&mut self, queue: &mut Queue<'_>, entry: Address);

    /// An entry was read.
    fn touch(&mut self, queue: &mut Queue<'_>, entry: Address);

    /// An entry is about to be written over: its version will change, and the line's digest must
    /// not hold the former one any more.
    fn lift(&mut self, queue: &mut Queue<'_>, entry: Address);

    /// The entry that was lifted from `former` has been written, and is now at `entry`, which may
    /// be another address; its links have come along. Whether it was in the line meanwhile is the
    /// policy's affair.
    fn lower(&mut self, queue: &mut Queue<'_>, former: Address, entry: Address);

    /// Takes an entry out of the line, for good.
    fn remove(&mut self, queue: &mut Queue<'_>, entry: Address);

    /// The entry that is evicted next. It stays in the line until it is removed. There is at least
    /// one entry besides `spared`, which was just written and is not the answer.
    fn victim(&mut self, queue: &mut Queue<'_>, spared: Address) -> Address;

    /// An entry that the policy remembers, or [`Address::NONE`].
    fn hand(&self) -> Address;

    /// Whether a touch of the entry would change anything, by what a reader can see at hand.
    fn wants_touch(&self, is_visited: bool, is_fresh: bool) -> bool;

    /// An entry has moved in memory, with its links.
    fn entry_moved(&mut self, old: Address, new: Address);
}

/// The policy of a store.
#[derive(Clone, Copy, Debug)]
pub(super) enum ActivePolicy {
    Lru(Lru),
    Sieve(Sieve),
}

impl ActivePolicy {
    /// A policy, with the entry that it remembered where it was left.
    pub fn new(eviction: Eviction, hand: Address) -> Self {
        match eviction {
            Eviction::Lru => ActivePolicy::Lru(Lru),
            Eviction::Sieve => ActivePolicy::Sieve(Sieve::new(hand)),
        }
    }

    /// Which one it is.
    pub fn eviction(&self) -> Eviction {
        match self {
            ActivePolicy::Lru(_) => Eviction::Lru,
            ActivePolicy::Sieve(_) => Eviction::Sieve,
        }
    }

    /// The policy as such.
    #[inline]
    fn policy(&mut self) -> &mut dyn Policy {
        match self {
            ActivePolicy::Lru(lru) => lru,
            ActivePolicy::Sieve(sieve) => sieve,
        }
    }
}

impl Policy for ActivePolicy {
    #[inline]
    fn insert(&mut self, queue: &mut Queue<'_>, entry: Address) {
        self.policy().insert(queue, entry);
    }

    #[inline]
    fn touch(&mut self, queue: &mut Queue<'_>, entry: Address) {
        self.policy().touch(queue, entry);
    }

    #[inline]
    fn lift(&mut self, queue: &mut Queue<'_>, entry: Address) {
        self.policy().lift(queue, entry);
    }

    #[inline]
    fn lower(&mut self, queue: &mut Queue<'_>, former: Address, entry: Address) {
        self.policy().lower(queue, former, entry);
    }

    #[inline]
    fn remove(&mut self, queue: &mut Queue<'_>, entry: Address) {
        self.policy().remove(queue, entry);
    }

    #[inline]
    fn victim(&mut self, queue: &mut Queue<'_>, spared: Address) -> Address {
        self.policy().victim(queue, spared)
    }

    fn hand(&self) -> Address {
        match self {
            ActivePolicy::Lru(lru) => lru.hand(),
            ActivePolicy::Sieve(sieve) => sieve.hand(),
        }
    }

    #[inline]
    fn wants_touch(&self, is_visited: bool, is_fresh: bool) -> bool {
        match self {
            ActivePolicy::Lru(lru) => lru.wants_touch(is_visited, is_fresh),
            ActivePolicy::Sieve(sieve) => sieve.wants_touch(is_visited, is_fresh),
        }
    }

    #[inline]
    fn entry_moved(&mut self, old: Address, new: Address) {
        self.policy().entry_moved(old, new);
    }
}
