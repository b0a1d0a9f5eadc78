//! The order of entries: a doubly linked list through them, and its share of the digest.
//!
//! A policy decides who stands where and who goes first; what it may do to the order it does
//! through a [`Queue`], which keeps the digest right and lets a snapshot under way save an entry
//! before its place is lost.
//!
//! The digest holds one term for each pair of neighbours and one for each visited entry. Pairs
//! determine an order, and moving an entry changes three of them at most, whatever the length.
//!
//! Invariants: the links of both directions are each other's reverse; the sums are those of the
//! links and visits.

use super::arena::Address;
use super::digest::{self, Sum};
use super::entries::Entries;
use super::snapshot::Cursor;
use crate::ids::Version;

/// What sets the terms of visits apart from those of neighbours.
const VISIT: u64 = 0x7669_7369_7465_6421;

/// The ends of the list, and the sums over it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    newest: Address,
    oldest: Address,
    pairs: Sum,
    visits: Sum,
}

impl Order {
    /// An empty order.
    pub fn new() -> Self {
        Order {
            newest: Address::NONE,
            oldest: Address::NONE,
            pairs: Sum::default(),
            visits: Sum::default(),
        }
    }

    /// The entry that stands first in line, or [`Address::NONE`].
    pub fn oldest(&self) -> Address {
        self.oldest
    }

    /// What the order adds to the digest.
    pub fn words(&self) -> [u64; 2] {
        [self.pairs.finish([]), self.visits.finish([])]
    }

    /// The entries, newest first.
    pub fn iter<'a>(&self, entries: &'a Entries) -> impl Iterator<Item = Address> + 'a {
        std::iter::successors(self.newest.some(), |address| entries.older(*address).some())
    }

    /// Lets neighbours and ends know that an entry has moved in memory.
    pub fn entry_moved(&mut self, entries: &mut Entries, old: Address, new: Address) {
        let (older, newer) = (entries.older(new), entries.newer(new));
        match older.some() {
            Some(older) => entries.set_newer(older, new),
            None => self.oldest = new,
        }
        match newer.some() {
            Some(newer) => entries.set_older(newer, new),
            None => self.newest = new,
        }
        debug_assert!(old != new);
    }

    /// Adds an entry that has no neighbours yet as the newest.
    pub fn push_newest(&mut self, entries: &mut Entries, address: Address) {
        let newest = self.newest;
        entries.set_older(address, newest);
        entries.set_newer(address, Address::NONE);
        match newest.some() {
            Some(newest) => {
                entries.set_newer(newest, address);
                self.pairs.add(pair(entries, newest, address));
            }
            None => self.oldest = address,
        }
        self.newest = address;
        if entries.is_visited(address) {
            self.visits.add(visit(entries.version(address)));
        }
    }

    /// Takes an entry out. Its own links are left as they were.
    fn unlink(&mut self, entries: &mut Entries, address: Address) {
        self.set_apart(entries, address);
        let (older, newer) = (entries.older(address), entries.newer(address));
        match older.some() {
            Some(older) => entries.set_newer(older, newer),
            None => self.oldest = newer,
        }
        match newer.some() {
            Some(newer) => entries.set_older(newer, older),
            None => self.newest = older,
        }
        if older.is_some() && newer.is_some() {
            self.pairs.add(pair(entries, older, newer));
        }
    }

    /// Takes an entry's terms out of the sums while its version changes; it stays where it is.
    fn set_apart(&mut self, entries: &Entries, address: Address) {
        let (older, newer) = (entries.older(address), entries.newer(address));
        if older.is_some() {
            self.pairs.subtract(pair(entries, older, address));
        }
        if newer.is_some() {
            self.pairs.subtract(pair(entries, address, newer));
        }
        if entries.is_visited(address) {
            self.visits.subtract(visit(entries.version(address)));
        }
    }

    /// Takes the terms back in.
    fn set_back(&mut self, entries: &Entries, address: Address) {
        let (older, newer) = (entries.older(address), entries.newer(address));
        if older.is_some() {
            self.pairs.add(pair(entries, older, address));
        }
        if newer.is_some() {
            self.pairs.add(pair(entries, address, newer));
        }
        if entries.is_visited(address) {
            self.visits.add(visit(entries.version(address)));
        }
    }

    /// Checks links and sums, for tests. Returns the length.
    pub fn check(&self, entries: &Entries) -> usize {
        let mut anew = Order { newest: self.newest, oldest: self.oldest, ..Order::new() };
        let mut length = 0;
        let mut last = Address::NONE;
        for address in self.iter(entries) {
            assert_eq!(entries.newer(address), last, "the links differ by direction");
            if last.is_some() {
                anew.pairs.add(pair(entries, address, last));
            }
            if entries.is_visited(address) {
                anew.visits.add(visit(entries.version(address)));
            }
            last = address;
            length += 1;
        }
        assert_eq!(last, self.oldest, "the order ends elsewhere");
        assert_eq!((anew.pairs, anew.visits), (self.pairs, self.visits), "a sum has drifted");
        length
    }
}

#[inline]
fn pair(entries: &Entries, older: Address, newer: Address) -> u64 {
    let Version(older) = entries.version(older);
    let Version(newer) = entries.version(newer);
    digest::absorb(older, [newer, 1])
}

#[inline]
fn visit(Version(version): Version) -> u64 {
    digest::absorb(VISIT, [version])
}

/// The order as a policy sees it.
pub(super) struct Queue<'a> {
    pub entries: &'a mut Entries,
    pub order: &'a mut Order,
    /// The snapshot under way.
    pub cursor: &'a mut Option<Box<Cursor>>,
}

impl Queue<'_> {
    /// The entry that stands first in line, or [`Address::NONE`].
    #[inline]
    pub fn oldest(&self) -> Address {
        self.order.oldest
    }

    /// The neighbour that came after, or [`Address::NONE`].
    #[inline]
    pub fn newer(&self, entry: Address) -> Address {
        self.entries.newer(entry)
    }

    /// Whether the entry is visited.
    #[inline]
    pub fn is_visited(&self, entry: Address) -> bool {
        self.entries.is_visited(entry)
    }

    /// Marks an entry as visited, or takes the mark away.
    pub fn set_visited(&mut self, entry: Address, is_visited: bool) {
        if self.entries.is_visited(entry) == is_visited {
            return;
        }
        self.spare_in_place(entry);
        self.entries.set_visited(entry, is_visited);
        let term = visit(self.entries.version(entry));
        match is_visited {
            true => self.order.visits.add(term),
            false => self.order.visits.subtract(term),
        }
    }

    /// Puts a new entry at the end of the line.
    pub fn push_newest(&mut self, entry: Address) {
        self.order.push_newest(self.entries, entry);
    }

    /// Takes an entry out of the line.
    pub fn unlink(&mut self, entry: Address) {
        if let Some(cursor) = self.cursor {
            cursor.spare(self.entries, entry);
        }
        self.order.unlink(self.entries, entry);
    }

    /// Moves an entry to the end of the line.
    pub fn move_to_newest(&mut self, entry: Address) {
        self.unlink(entry);
        self.push_newest(entry);
    }

    /// Before an entry that keeps its place gets another version.
    pub fn set_apart(&mut self, entry: Address) {
        self.spare_in_place(entry);
        self.order.set_apart(self.entries, entry);
    }

    /// After it got it.
    pub fn set_back(&mut self, entry: Address) {
        self.order.set_back(self.entries, entry);
    }

    /// Lets the neighbours know that an entry of the line has moved in memory.
    pub fn entry_moved(&mut self, old: Address, new: Address) {
        self.order.entry_moved(self.entries, old, new);
        if let Some(cursor) = self.cursor {
            cursor.entry_moved(old, new);
        }
    }

    fn spare_in_place(&mut self, entry: Address) {
        if let Some(cursor) = self.cursor {
            cursor.spare_in_place(self.entries, entry);
        }
    }
}
