//! A snapshot under way: a walk along the entries, and what had to be saved before it.
//!
//! The walk goes from the oldest entry to the newest there was at the beginning, as many as fit
//! into each piece. An entry that is about to change its content or its place (it is written, used,
//! visited, removed) and that the walk has not reached is encoded into a queue first, together with
//! the neighbour in front of which it stood. The queue goes out before the walk goes on. So every
//! entry is written once, as it was at the beginning, and its place can be found again.
//!
//! Every entry carries the number of the last snapshot that it is no part of any more: because it
//! was written, or because it came into being or changed later. Entries that came into being or
//! moved stand behind all that the walk still has to reach, since the only place for them is the
//! newest. Others changed where they stand; of those the cursor knows the version that they had,
//! for the sake of who stands in front of them, and the walk passes over them. It ends at the
//! first entry with its number that is none of those.
//!
//! A flush hands the old entries over as a whole; the walk goes on along them. Where an entry lies
//! in memory plays no part, so entries may be moved meanwhile.
//!
//! The queue and the list of changed entries are bounded by the size of the store at the beginning:
//! each entry enters them once at most.

use super::super::Store;
use super::super::arena::Address;
use super::super::digest::StreamHash;
use super::super::entries::Entries;
use super::{EARLY, END, Header, IN_ORDER, SnapshotProgress, push_record};
use crate::ids::Version;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// Entries that one piece of the walk comes by, at most.
const STEPS_MAX: usize = 16_384;

/// A snapshot under way.
#[derive(Debug)]
pub(in crate::store) struct Cursor {
    /// The number that entries carry which are no part of it any more.
    number: u8,
    /// The entry that the walk comes to next, or [`Address::NONE`] at its end.
    next: Address,
    /// Entries that the walk will pass over, with the versions they had at the beginning.
    changed_in_place: HashMap<Address, Version, ahash::RandomState>,
    queue: Queue,
    /// The entries, once a flush has taken them from the store.
    kept: Option<Entries>,
    checksum: StreamHash,
    /// Whether the end has been written, or stands in the queue.
    is_ended: bool,
}

impl Cursor {
    /// Begins a snapshot of `store` as it is now. No entry has the store's number of snapshots.
    pub fn begin(store: &Store) -> Self {
        let header = Header::of(store);
        let mut queue = Queue::default();
        queue.push(|block| header.encode(block));
        Cursor {
            number: store.snapshots,
            next: store.order.oldest(),
            // Addresses are nobody's choice, so any seeds do.
            changed_in_place: HashMap::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4)),
            queue,
            kept: None,
            checksum: StreamHash::new(),
            is_ended: false,
        }
    }

    /// Saves an entry, which is about to change where it stands, if the walk still needs it.
    pub fn spare_in_place(&mut self, entries: &mut Entries, entry: Address) {
        let version = entries.version(entry);
        if !self.save(entries, entry) {
            return;
        }
        if entry == self.next {
            self.next = entries.newer(entry);
        } else {
            self.changed_in_place.insert(entry, version);
        }
    }

    /// Saves an entry, which is about to lose its place, if the walk still needs it.
    pub fn spare(&mut self, entries: &mut Entries, entry: Address) {
        if self.kept.is_none() {
            self.save(entries, entry);
            self.changed_in_place.remove(&entry);
            if entry == self.next {
                self.next = entries.newer(entry);
            }
        }
    }

    /// Saves an entry if the walk still needs it; says whether it did.
    fn save(&mut self, entries: &mut Entries, entry: Address) -> bool {
        if self.kept.is_some() || entries.snapshot(entry) == self.number {
            return false;
        }
        let (kind, in_front_of) = match entry == self.next {
            true => (IN_ORDER, Version(0)),
            false => (EARLY, self.version_at_beginning(entries, entries.newer(entry))),
        };
        self.queue.push(|block| push_record(block, entries, entry, kind, in_front_of));
        entries.set_snapshot(entry, self.number);
        true
    }

    /// The version that an entry had at the beginning, or zero if it was not there.
    fn version_at_beginning(&self, entries: &Entries, entry: Address) -> Version {
        match entry.some() {
            Some(entry) if entries.snapshot(entry) != self.number => entries.version(entry),
            Some(entry) => self.changed_in_place.get(&entry).copied().unwrap_or(Version(0)),
            None => Version(0),
        }
    }

    /// Follows an entry that has moved in memory.
    pub fn entry_moved(&mut self, old: Address, new: Address) {
        if self.kept.is_some() {
            return;
        }
        if self.next == old {
            self.next = new;
        }
        if let Some(version) = self.changed_in_place.remove(&old) {
            self.changed_in_place.insert(new, version);
        }
    }

    /// Takes the entries over that a flush removes. Hands them back if they are not needed.
    pub fn keep(&mut self, entries: Entries) -> Option<Entries> {
        if self.kept.is_some() || !self.next.is_some() {
            return Some(entries);
        }
        self.kept = Some(entries);
        None
    }

    /// Gives the entries up that were kept.
    pub fn kept(&mut self) -> Option<Entries> {
        self.kept.take()
    }

    /// Appends the next `bytes_max` bytes (one if it is zero) to `out`, or what is left.
    pub fn write(
        &mut self,
        entries: &mut Entries,
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> SnapshotProgress {
        let start = out.len();
        let end = start.saturating_add(bytes_max.max(1));
        self.queue.pop(out, end - start);
        if !self.is_ended {
            let mut kept = self.kept.take();
            let entries = kept.as_mut().unwrap_or(entries);
            let mut steps = STEPS_MAX;
            while let Some(entry) = self.next.some().filter(|_| out.len() < end && steps > 0) {
                steps -= 1;
                if entries.snapshot(entry) != self.number {
                    push_record(out, entries, entry, IN_ORDER, Version(0));
                    entries.set_snapshot(entry, self.number);
                } else if self.changed_in_place.remove(&entry).is_none() {
                    self.next = Address::NONE;
                    break;
                }
                self.next = entries.newer(entry);
            }
            self.kept = kept;
            self.queue.push_excess(out, end);
            self.checksum.update(&out[start..]);
            if self.queue.is_empty() && !self.next.is_some() && out.len() < end {
                self.checksum.update(&[END]);
                out.push(END);
                out.extend_from_slice(&self.checksum.finish().to_le_bytes());
                self.queue.push_excess(out, end);
                self.is_ended = true;
            }
        }
        if self.is_ended && self.queue.is_empty() {
            SnapshotProgress::Done
        } else {
            SnapshotProgress::More
        }
    }
}

/// Bytes that wait to be read, in blocks, so that a long queue is not copied when it grows, and
/// gives its memory back while it is read.
#[derive(Debug, Default)]
struct Queue {
    blocks: VecDeque<Vec<u8>>,
    /// Bytes of the first block that have been read.
    read: usize,
}

impl Queue {
    /// Bytes after which a block is full. One may grow beyond it by one record.
    const BLOCK_BYTES: usize = 64 << 10;

    fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Adds what `write` appends.
    fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        match self.blocks.back_mut().filter(|block| block.len() < Self::BLOCK_BYTES) {
            Some(block) => write(block),
            None => {
                let mut block = Vec::new();
                write(&mut block);
                self.blocks.push_back(block);
            }
        }
    }

    /// Adds what `out` has beyond `end`, and takes it off there.
    fn push_excess(&mut self, out: &mut Vec<u8>, end: usize) {
        if out.len() > end {
            self.push(|block| block.extend_from_slice(&out[end..]));
            out.truncate(end);
        }
    }

    /// Moves up to `bytes_max` bytes to `out`.
    fn pop(&mut self, out: &mut Vec<u8>, bytes_max: usize) {
        let mut room = bytes_max;
        while let Some(block) = self.blocks.front().filter(|_| room > 0) {
            let bytes = &block[self.read..];
            let taken = bytes.len().min(room);
            out.extend_from_slice(&bytes[..taken]);
            room -= taken;
            self.read += taken;
            if self.read == block.len() {
                self.blocks.pop_front();
                self.read = 0;
            }
        }
    }
}
