//! A snapshot under way: a walk over the slots, and what had to be saved before it.
//!
//! The walk goes from the first slot to the last one there was at the beginning, as many as fit
//! into each piece. A slot that is about to change (an entry that is written, used, removed; a
//! free one that is taken) and that the walk has not reached is encoded into a queue first, and
//! marked, so that the walk passes over it. The queue goes out before the walk goes on. So every
//! slot is written once, as it was at the beginning. Free slots carry the link to the next one, so
//! their list needs no walk of its own, however long it is.
//!
//! A flush hands the old slots over as a whole; the walk goes on over them.
//!
//! The queue is bounded by the size of the store at the beginning: each slot enters it once at
//! most.

use super::super::Store;
use super::super::digest::StreamHash;
use super::super::slab::{Slab, Slot};
use super::{END, Header, SnapshotProgress, Turn, push_record};
use std::collections::VecDeque;

/// A snapshot under way.
#[derive(Debug)]
pub(in crate::store) struct Cursor {
    /// Slots at the beginning.
    slots: u32,
    /// The slot that the walk comes to next.
    next: u32,
    /// For each slot whether it was saved before the walk came to it: one bit each.
    saved: Vec<u64>,
    queue: Queue,
    /// The slots, once a flush has taken them from the store.
    kept: Option<Slab>,
    checksum: StreamHash,
    /// Whether the end has been written, or stands in the queue.
    is_ended: bool,
}

impl Cursor {
    /// Begins a snapshot of `store` as it is now.
    pub fn begin(store: &Store) -> Self {
        let header = Header::of(store);
        let mut queue = Queue::default();
        queue.push(|block| header.encode(block));
        Cursor {
            slots: header.slots,
            next: 0,
            saved: vec![0; header.slots.div_ceil(u64::BITS) as usize],
            queue,
            kept: None,
            checksum: StreamHash::new(),
            is_ended: false,
        }
    }

    /// Saves `slot`, which is about to change, if the walk still needs it.
    pub fn spare(&mut self, slab: &Slab, slot: u32) {
        let is_behind = slot < self.next || slot >= self.slots;
        if is_behind || self.kept.is_some() || self.was_saved(slot) {
            return;
        }
        let (word, bit) = place(slot);
        self.saved[word] |= bit;
        self.queue.push(|block| push_record(block, slab, slot, Turn::Early));
    }

    /// Takes the slots over that a flush removes. Hands them back if they are not needed.
    pub fn keep(&mut self, slab: Slab) -> Option<Slab> {
        if self.kept.is_some() || self.next == self.slots {
            return Some(slab);
        }
        self.kept = Some(slab);
        None
    }

    /// Gives the pages up that were kept.
    pub fn kept_pages(&mut self) -> Vec<Vec<Slot>> {
        self.kept.take().map(Slab::into_pages).unwrap_or_default()
    }

    /// Appends the next `bytes_max` bytes (one if it is zero) to `out`, or what is left.
    pub fn write(&mut self, slab: &Slab, out: &mut Vec<u8>, bytes_max: usize) -> SnapshotProgress {
        let start = out.len();
        let end = start.saturating_add(bytes_max.max(1));
        self.queue.pop(out, end - start);
        if !self.is_ended {
            let slab = self.kept.as_ref().unwrap_or(slab);
            while out.len() < end && self.next < self.slots {
                if !self.was_saved(self.next) {
                    push_record(out, slab, self.next, Turn::InOrder);
                }
                self.next += 1;
            }
            self.queue.push_excess(out, end);
            self.checksum.update(&out[start..]);
            if self.queue.is_empty() && self.next == self.slots && out.len() < end {
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

    fn was_saved(&self, slot: u32) -> bool {
        let (word, bit) = place(slot);
        self.saved[word] & bit != 0
    }
}

/// The word and the bit of a slot.
fn place(slot: u32) -> (usize, u64) {
    ((slot / u64::BITS) as usize, 1 << (slot % u64::BITS))
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
