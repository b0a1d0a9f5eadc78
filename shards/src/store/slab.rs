//! The entries: slots of one cache line each, in pages, with a list of free slots inside.
//!
//! Slot numbers are replicated state (touches name them), so the choice of the next slot is
//! deterministic: the slot freed last, else one behind the last. Key and value live in one
//! allocation, behind two bytes of key length; a slot with no allocation is free. What links a
//! slot into the recency list and the expiry index lives in the slot too, but those modules change
//! it.

use super::digest::{self, Sum};
use super::pages::Pages;
use crate::ids::Version;
use std::ops::{Index, IndexMut};

/// Where a slot number is expected: no slot.
pub(super) const NONE: u32 = u32::MAX;
/// In a vacant slot's link to the newer neighbour: the slot is a gap that is yet to be filled.
const GAP: u32 = NONE - 1;
/// The deadline of an entry without one.
pub(super) const NO_DEADLINE: u64 = u64::MAX;
/// Bytes in front of the key: its length.
const PREFIX_BYTES: usize = 2;

/// One entry, or a free slot.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Slot {
    /// Key length (2 bytes, little-endian), key, value; empty if the slot is free.
    data: Box<[u8]>,
    /// Hash of `data`, for the digest.
    content: u64,
    /// What last wrote the entry.
    pub version: Version,
    /// When it expires, in milliseconds of shard time, or [`NO_DEADLINE`].
    pub deadline: u64,
    /// Its place in the recency order: greater is newer.
    pub recency: u64,
    /// The neighbour towards the tail; in a free slot, the next free one.
    pub older: u32,
    /// The neighbour towards the head.
    pub newer: u32,
    /// The client's flags.
    pub flags: u32,
    /// Its place in the expiry index, or [`NONE`].
    pub due: u32,
}

const _: () = assert!(size_of::<Slot>() == 64);

impl Slot {
    /// A slot without an entry, and the free slot that is used after it.
    pub fn vacant(next: u32) -> Self {
        Slot {
            data: Box::default(),
            content: 0,
            version: Version(0),
            deadline: NO_DEADLINE,
            recency: 0,
            older: next,
            newer: NONE,
            flags: 0,
            due: NONE,
        }
    }

    /// A slot with an entry's bytes: key length, key, value. Version, deadline, recency and flags
    /// are the caller's to set.
    #[inline]
    pub fn restored(data: &[u8]) -> Self {
        Slot { data: data.into(), content: digest::hash_bytes(data), ..Slot::vacant(NONE) }
    }

    /// A place for a slot that comes later, while a slab is restored.
    pub fn gap() -> Self {
        Slot { newer: GAP, ..Slot::vacant(NONE) }
    }

    /// Whether the slot holds no entry.
    pub fn is_vacant(&self) -> bool {
        self.data.is_empty()
    }

    /// The first byte of the allocation, to bring it into the caches.
    #[inline]
    pub fn first_byte(&self) -> u8 {
        self.data.first().copied().unwrap_or(0)
    }

    /// Key length, key and value, as they stand in memory.
    #[inline]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The key.
    #[inline]
    pub fn key(&self) -> &[u8] {
        &self.data[PREFIX_BYTES..value_start(&self.data)]
    }

    /// The value.
    #[inline]
    pub fn value(&self) -> &[u8] {
        value_of(&self.data)
    }

    /// Bytes of key and value together.
    #[inline]
    pub fn key_and_value_len(&self) -> usize {
        self.data.len() - PREFIX_BYTES
    }

    /// Whether the entry is due at `stamp`, in milliseconds of shard time.
    #[inline]
    pub fn is_due(&self, stamp: u64) -> bool {
        self.deadline <= stamp
    }

    /// Replaces the value within the same allocation if its length allows.
    pub fn write_value(&mut self, value: &[u8]) {
        let start = value_start(&self.data);
        if self.data.len() - start == value.len() {
            self.data[start..].copy_from_slice(value);
        } else {
            self.data = allocate(&self.data[PREFIX_BYTES..start], value);
        }
        self.content = digest::hash_bytes(&self.data);
    }

    /// Replaces the value and hands out the allocation with the old one.
    pub fn exchange_value(&mut self, value: &[u8]) -> Box<[u8]> {
        let data = allocate(self.key(), value);
        self.content = digest::hash_bytes(&data);
        std::mem::replace(&mut self.data, data)
    }

    /// Adds bytes behind the value. The allocation grows in place where the allocator can.
    pub fn append(&mut self, addition: &[u8]) {
        let mut data = std::mem::take(&mut self.data).into_vec();
        data.reserve_exact(addition.len());
        data.extend_from_slice(addition);
        self.data = data.into_boxed_slice();
        self.content = digest::hash_bytes(&self.data);
    }

    /// Adds bytes in front of the value.
    pub fn prepend(&mut self, addition: &[u8]) {
        let start = value_start(&self.data);
        let mut data = std::mem::take(&mut self.data).into_vec();
        let old_end = data.len();
        data.reserve_exact(addition.len());
        data.resize(old_end + addition.len(), 0);
        data.copy_within(start..old_end, start + addition.len());
        data[start..start + addition.len()].copy_from_slice(addition);
        self.data = data.into_boxed_slice();
        self.content = digest::hash_bytes(&self.data);
    }

    /// The entry's term of the digest.
    #[inline]
    pub fn term(&self, slot: u32) -> u64 {
        let slot_and_flags = u64::from(slot) << 32 | u64::from(self.flags);
        digest::absorb(self.content, [slot_and_flags, self.version.0, self.deadline, self.recency])
    }

    /// Whether the stored hash belongs to the bytes.
    pub fn content_is_intact(&self) -> bool {
        self.content == digest::hash_bytes(&self.data)
    }
}

/// The value within an entry's allocation, which outlives its slot while a reply needs it.
#[inline]
pub(super) fn value_of(data: &[u8]) -> &[u8] {
    &data[value_start(data)..]
}

#[inline]
fn value_start(data: &[u8]) -> usize {
    PREFIX_BYTES + usize::from(u16::from_le_bytes([data[0], data[1]]))
}

fn allocate(key: &[u8], value: &[u8]) -> Box<[u8]> {
    debug_assert!(key.len() <= crate::command::KEY_BYTES_MAX);
    let mut data = Vec::with_capacity(PREFIX_BYTES + key.len() + value.len());
    data.extend_from_slice(&(key.len() as u16).to_le_bytes());
    data.extend_from_slice(key);
    data.extend_from_slice(value);
    data.into_boxed_slice()
}

/// All slots, used and free.
#[derive(Debug)]
pub(super) struct Slab {
    slots: Pages<Slot>,
    /// The slot that is reused next, or [`NONE`].
    free: u32,
    /// Terms of the free slots.
    free_sum: Sum,
}

impl Slab {
    /// A slab without slots.
    pub fn new() -> Self {
        Slab { slots: Pages::default(), free: NONE, free_sum: Sum::default() }
    }

    /// Number of slots, used and free.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Stores an entry in the next free slot and names it. Version, deadline, recency and flags
    /// are the caller's to set.
    pub fn occupy(&mut self, key: &[u8], value: &[u8]) -> u32 {
        let data = allocate(key, value);
        let slot = if self.free == NONE {
            let slot = self.slots.len() as u32;
            assert!(slot < NONE, "a shard cannot hold more than 2^32 - 2 entries");
            self.slots.push(Slot::vacant(NONE));
            slot
        } else {
            let slot = self.free;
            self.free = self[slot].older;
            self.free_sum.subtract(digest::free_slot_term(slot, self.free));
            slot
        };
        self.fill(slot, data);
        slot
    }

    /// Frees a slot, and hands out its allocation.
    pub fn vacate(&mut self, slot: u32) -> Box<[u8]> {
        let next = self.free;
        let old = std::mem::replace(&mut self[slot], Slot::vacant(next));
        self.free = slot;
        self.free_sum.add(digest::free_slot_term(slot, next));
        old.data
    }

    /// The slot that is reused next, or [`NONE`].
    #[inline]
    pub fn first_free(&self) -> u32 {
        self.free
    }

    /// The free slots, the one that is reused next first.
    pub fn free_slots(&self) -> impl Iterator<Item = u32> {
        self.chain(self.free, |slot| slot.older)
    }

    /// The slots that `next` leads to, from `first` until there is [`NONE`].
    pub fn chain(&self, first: u32, next: fn(&Slot) -> u32) -> impl Iterator<Item = u32> {
        let slot_of = |number: u32| (number != NONE).then_some(number);
        std::iter::successors(slot_of(first), move |slot| slot_of(next(&self[*slot])))
    }

    /// What the free slots and their order add to the digest.
    pub fn free_words(&self) -> [u64; 3] {
        [self.free_sum.finish([]), u64::from(self.free), self.slots.len() as u64]
    }

    /// The used slots in the order of their numbers.
    pub fn entries(&self) -> impl Iterator<Item = (u32, &Slot)> {
        let numbered = self.slots.iter().enumerate().map(|(slot, entry)| (slot as u32, entry));
        numbered.filter(|(_, entry)| !entry.is_vacant())
    }

    /// Hands out all slots, for the caller to drop at leisure.
    pub fn into_pages(self) -> Vec<Vec<Slot>> {
        self.slots.into_pages()
    }

    /// Restores a slab: adds a slot behind the last.
    #[inline(always)]
    pub fn push_restored(&mut self, slot: Slot) {
        self.slots.push(slot);
    }

    /// Restores a slab: puts a slot where a gap is; says whether there was one.
    pub fn fill_gap(&mut self, slot: u32, content: Slot) -> bool {
        let place = &mut self[slot];
        let is_gap = place.is_vacant() && place.newer == GAP;
        if is_gap {
            *place = content;
        }
        is_gap
    }

    /// Restores the list of free slots, whose links lead within the slab: all `count` of them must
    /// follow from `first`, or the answer is no.
    pub fn restore_free_list(&mut self, first: u32, count: usize) -> bool {
        let mut next = first;
        for _ in 0..count {
            let is_there = next != NONE && (next as usize) < self.len();
            if !is_there || !self[next].is_vacant() {
                return false;
            }
            let slot = next;
            next = self[slot].older;
            self.free_sum.add(digest::free_slot_term(slot, next));
        }
        self.free = first;
        // A list that comes to its end passes no slot twice.
        next == NONE
    }

    /// Lists the free slots anew, in the order of their numbers: what a restored store must not do.
    pub fn relist_free(&mut self) {
        (self.free, self.free_sum) = (NONE, Sum::default());
        for slot in (0..self.len() as u32).rev() {
            if self[slot].is_vacant() {
                self.vacate(slot);
            }
        }
    }

    fn fill(&mut self, slot: u32, data: Box<[u8]>) {
        let entry = &mut self[slot];
        entry.content = digest::hash_bytes(&data);
        entry.data = data;
        entry.older = NONE;
    }
}

impl Index<u32> for Slab {
    type Output = Slot;

    #[inline]
    fn index(&self, slot: u32) -> &Slot {
        &self.slots[slot as usize]
    }
}

impl IndexMut<u32> for Slab {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut Slot {
        &mut self.slots[slot as usize]
    }
}
