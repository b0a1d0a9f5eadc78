//! The entries: how one lies in memory.
//!
//! An entry is one item of the arena: 23 bytes of header, what it has beyond the ordinary, key and
//! value. One that is too long for an item keeps key and value in a block of its own.
//!
//! | at | field (bytes, little-endian) |
//! |--|--|
//! | 0 | version (8), zero in a free item |
//! | 8 | neighbour that was used before it (4), neighbour that was used after it (4) |
//! | 16 | when it was used, in the counting of `touches` (2) |
//! | 18 | the number of the last snapshot that it is no part of any more (1) |
//! | 19 | which of the following there are, and whether it was visited (1) |
//! | 20 | length of the value (2), of the key (1) |
//! | 23 | the key's length beyond the byte (1), if it is long |
//! | | deadline (8), place in the expiry index (4), if it has a deadline |
//! | | flags (4), unless they are zero |
//! | | key and value, or the number of their block (4) |
//!
//! What an entry counts for is the same sum, so that the limit means real memory: see
//! [`Shape::accounted_bytes`].
//!
//! This file knows nothing of the order of use, of the table or of the digest; those who change an
//! entry's address put that right.

use super::arena::{self, Address, Arena, ITEM_BYTES_MAX};
use super::blocks::Blocks;
use super::digest;
use crate::ids::Version;

/// The deadline of an entry without one.
pub(super) const NO_DEADLINE: u64 = u64::MAX;
/// Where a place in the expiry index is expected: none.
pub(super) const NO_PLACE: u32 = u32::MAX;

const OLDER_AT: usize = 8;
const NEWER_AT: usize = 12;
const USED_AT: usize = 16;
const SNAPSHOT_AT: usize = 18;
const BITS_AT: usize = 19;
const VALUE_LEN_AT: usize = 20;
const KEY_LEN_AT: usize = 22;
const HEADER_BYTES: usize = 23;
const DEADLINE_BYTES: usize = 12;
const FLAGS_BYTES: usize = 4;
const BLOCK_NUMBER_BYTES: usize = 4;

/// Read since the hand passed, for the policy that asks.
const VISITED: u8 = 1;
const HAS_DEADLINE: u8 = 2;
const HAS_FLAGS: u8 = 4;
const HAS_LONG_KEY: u8 = 8;
const HAS_BLOCK: u8 = 16;

/// Bytes of the table per entry, on the average.
const TABLE_BYTES: u64 = 7;
/// Bytes of a deadline's place in the expiry index.
const EXPIRY_BYTES: u64 = 24;
/// What a block is counted for beside its bytes: what tells where it lies, and a sixteenth of it
/// for being rounded up and for what is free around it.
const BLOCK_HEAD_BYTES: u64 = 24;
const BLOCK_ROUNDING: u64 = 16;

/// What decides how much memory an entry takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub key_len: usize,
    pub value_len: usize,
    pub has_deadline: bool,
    pub has_flags: bool,
}

impl Shape {
    /// Bytes in front of the key, or of the block's number.
    #[inline]
    fn head_bytes(self) -> usize {
        HEADER_BYTES
            + usize::from(self.key_len > usize::from(u8::MAX))
            + DEADLINE_BYTES * usize::from(self.has_deadline)
            + FLAGS_BYTES * usize::from(self.has_flags)
    }

    #[inline]
    fn has_block(self) -> bool {
        self.head_bytes() + self.key_len + self.value_len > ITEM_BYTES_MAX
    }

    /// Bytes of the item.
    #[inline]
    fn item_bytes(self) -> usize {
        let behind = match self.has_block() {
            true => BLOCK_NUMBER_BYTES,
            false => self.key_len + self.value_len,
        };
        self.head_bytes() + behind
    }

    /// What the entry counts for: its item, its share of the table, its place in the expiry index
    /// and its block, rounded up as they are in memory. A formula over lengths alone, because the
    /// limit decides what is evicted, and that must come out alike on every replica. Changing it
    /// changes the meaning of logs that were already written.
    #[inline]
    pub fn accounted_bytes(self) -> u64 {
        let item = arena::item_bytes(self.item_bytes()) as u64 + TABLE_BYTES;
        let expiry = if self.has_deadline { EXPIRY_BYTES } else { 0 };
        let block = match self.has_block() {
            true => {
                let bytes = (self.key_len + self.value_len) as u64;
                bytes + bytes / BLOCK_ROUNDING + BLOCK_HEAD_BYTES
            }
            false => 0,
        };
        item + expiry + block
    }

    fn bits(self) -> u8 {
        let given = |bit: u8, is_given: bool| if is_given { bit } else { 0 };
        given(HAS_DEADLINE, self.has_deadline)
            | given(HAS_FLAGS, self.has_flags)
            | given(HAS_LONG_KEY, self.key_len > usize::from(u8::MAX))
            | given(HAS_BLOCK, self.has_block())
    }
}

/// What an entry is given when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content<'a> {
    pub version: Version,
    pub flags: u32,
    /// In milliseconds of shard time, or [`NO_DEADLINE`].
    pub deadline: u64,
    pub key: &'a [u8],
    /// The value, in two parts that follow each other.
    pub value: [&'a [u8]; 2],
}

impl Content<'_> {
    /// What decides how much memory it takes.
    #[inline]
    pub fn shape(&self) -> Shape {
        Shape {
            key_len: self.key.len(),
            value_len: self.value[0].len() + self.value[1].len(),
            has_deadline: self.deadline != NO_DEADLINE,
            has_flags: self.flags != 0,
        }
    }
}

/// An entry's bytes, to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    item: &'a [u8],
    /// Key and value.
    data: &'a [u8],
    key_len: usize,
    /// The hash that is kept of a block.
    block_hash: Option<u64>,
}

impl<'a> Entry<'a> {
    /// What last wrote it.
    #[inline]
    pub fn version(&self) -> Version {
        Version(word_at(self.item, 0))
    }

    /// When it expires, in milliseconds of shard time, or [`NO_DEADLINE`].
    #[inline]
    pub fn deadline(&self) -> u64 {
        deadline_of(self.item)
    }

    /// The client's flags.
    #[inline]
    pub fn flags(&self) -> u32 {
        match self.item[BITS_AT] & HAS_FLAGS {
            0 => 0,
            _ => half_at(self.item, flags_at(self.item)),
        }
    }

    /// Whether it was read since the hand passed.
    #[inline]
    pub fn is_visited(&self) -> bool {
        self.item[BITS_AT] & VISITED != 0
    }

    /// The key.
    #[inline]
    pub fn key(&self) -> &'a [u8] {
        &self.data[..self.key_len]
    }

    /// The value.
    #[inline]
    pub fn value(&self) -> &'a [u8] {
        &self.data[self.key_len..]
    }

    /// Key and value, one behind the other.
    #[inline]
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// What decides how much memory it takes.
    #[inline]
    pub fn shape(&self) -> Shape {
        Shape {
            key_len: self.key_len,
            value_len: self.data.len() - self.key_len,
            has_deadline: self.item[BITS_AT] & HAS_DEADLINE != 0,
            has_flags: self.item[BITS_AT] & HAS_FLAGS != 0,
        }
    }

    /// The entry's term of the digest: everything but its place in the order.
    #[inline]
    pub fn term(&self) -> u64 {
        self.term_with(self.block_hash.unwrap_or_else(|| digest::hash_bytes(self.data)))
    }

    /// The hash of the bytes as it was when they were written, if it is kept: for blocks.
    pub fn kept_hash(&self) -> Option<u64> {
        self.block_hash
    }

    /// The term by the bytes as they are, whatever hash was kept.
    pub fn term_anew(&self) -> u64 {
        self.term_with(digest::hash_bytes(self.data))
    }

    /// The term, given the hash of the bytes as they are.
    pub fn term_with(&self, hash: u64) -> u64 {
        let lengths_and_flags = (self.key_len as u64) << 32 | u64::from(self.flags());
        digest::absorb(hash, [lengths_and_flags, self.version().0, self.deadline()])
    }
}

/// All entries of a store.
#[derive(Debug)]
pub(super) struct Entries {
    arena: Arena,
    blocks: Blocks,
}

impl Entries {
    /// Without entries.
    pub fn new() -> Self {
        Entries { arena: Arena::new(), blocks: Blocks::default() }
    }

    /// Reads an entry.
    #[inline]
    pub fn get(&self, address: Address) -> Entry<'_> {
        let item = self.arena.item(address);
        let bits = item[BITS_AT];
        let key_len = key_len_of(item);
        if bits & HAS_BLOCK != 0 {
            let (data, hash) = self.blocks.get(half_at(item, data_at(item)));
            return Entry { item, data, key_len, block_hash: Some(hash) };
        }
        let value_len =
            usize::from(u16::from_le_bytes([item[VALUE_LEN_AT], item[VALUE_LEN_AT + 1]]));
        let start = data_at(item);
        Entry { item, data: &item[start..start + key_len + value_len], key_len, block_hash: None }
    }

    /// Adds an entry without neighbours.
    pub fn insert(&mut self, content: &Content<'_>) -> Address {
        let shape = content.shape();
        let address = self.arena.allocate(shape.item_bytes());
        let [first, second] = content.value;
        let block = shape.has_block().then(|| self.blocks.add([content.key, first, second]));
        compose(self.arena.item_mut(address), shape, content, block);
        address
    }

    /// Writes an entry anew: where it is if there is room, or else elsewhere. Neighbours, use,
    /// place in the expiry index and visit stay with it. Returns where it is then; where that is
    /// another address the former one is still in use, and the caller releases it.
    ///
    /// A part of `content.value` may not borrow from the entry, which is why the caller has it.
    pub fn rewrite(&mut self, address: Address, content: &Content<'_>) -> Address {
        let shape = content.shape();
        let place = self.due(address);
        let item = self.arena.item(address);
        let had_block = item[BITS_AT] & HAS_BLOCK != 0;
        if had_block || !self.arena.fits(address, shape.item_bytes()) || shape.has_block() {
            let moved = self.insert(content);
            let mut carried = [0; BITS_AT - OLDER_AT];
            carried.copy_from_slice(&self.arena.item(address)[OLDER_AT..BITS_AT]);
            let visited = self.arena.item(address)[BITS_AT] & VISITED;
            let item = self.arena.item_mut(moved);
            item[OLDER_AT..BITS_AT].copy_from_slice(&carried);
            item[BITS_AT] |= visited;
            self.set_due(moved, place);
            return moved;
        }
        let item = self.arena.item_mut(address);
        let visited = item[BITS_AT] & VISITED;
        compose_keeping_links(item, shape, content);
        item[BITS_AT] |= visited;
        self.set_due(address, place);
        address
    }

    /// Gives an entry another version and deadline: where it is if that leaves its shape, or else
    /// elsewhere. Returns where it is then, as [`Entries::rewrite`] does.
    pub fn set_version_and_deadline(
        &mut self,
        address: Address,
        version: Version,
        deadline: u64,
    ) -> Address {
        let entry = self.get(address);
        let flags = entry.flags();
        let former = entry.shape();
        let shape = Shape { has_deadline: deadline != NO_DEADLINE, ..former };
        if shape == former {
            self.set_fields(address, version, flags, deadline);
            return address;
        }
        if former.has_block() && shape.has_block() {
            return self.hand_block_over(address, version, deadline, shape);
        }
        let mut buffer = [0; ITEM_BYTES_MAX];
        let data = &mut buffer[..entry.data().len()];
        data.copy_from_slice(entry.data());
        let (key, value) = data.split_at(former.key_len);
        let content = Content { version, flags, deadline, key, value: [value, &[]] };
        self.rewrite(address, &content)
    }

    /// Makes a new item for an entry, which takes the block along.
    fn hand_block_over(
        &mut self,
        address: Address,
        version: Version,
        deadline: u64,
        shape: Shape,
    ) -> Address {
        let moved = self.arena.allocate(shape.item_bytes());
        let item = self.arena.item(address);
        let (flags, block) = (self.get(address).flags(), half_at(item, data_at(item)));
        let place = self.due(address);
        let mut carried = [0; BITS_AT - OLDER_AT];
        carried.copy_from_slice(&item[OLDER_AT..BITS_AT]);
        let visited = item[BITS_AT] & VISITED;
        let content = Content { version, flags, deadline, key: &[], value: [&[], &[]] };
        let item = self.arena.item_mut(moved);
        compose(item, shape, &content, Some(block));
        item[OLDER_AT..BITS_AT].copy_from_slice(&carried);
        item[BITS_AT] |= visited;
        self.set_due(moved, place);
        self.arena.item_mut(address)[BITS_AT] &= !HAS_BLOCK;
        moved
    }

    /// Copies an entry to where its page's being emptied wants it. The former address is still in
    /// use, and the caller releases it with [`Entries::release_moved`].
    pub fn copy(&mut self, address: Address) -> Address {
        let bytes = self.arena.room(address);
        let moved = self.arena.allocate(bytes);
        let mut buffer = [0; ITEM_BYTES_MAX];
        buffer[..bytes].copy_from_slice(&self.arena.item(address)[..bytes]);
        self.arena.item_mut(moved)[..bytes].copy_from_slice(&buffer[..bytes]);
        moved
    }

    /// Releases the item of an entry that was copied: its block has gone with the copy.
    pub fn release_moved(&mut self, address: Address) {
        self.arena.release(address);
    }

    /// An entry that should be copied elsewhere, so that its page becomes empty.
    pub fn next_to_move(&mut self) -> Option<Address> {
        self.arena.next_to_move()
    }

    /// Changes version, flags and deadline of an entry whose shape they leave as it is.
    pub fn set_fields(&mut self, address: Address, version: Version, flags: u32, deadline: u64) {
        let item = self.arena.item_mut(address);
        item[..8].copy_from_slice(&version.0.to_le_bytes());
        if item[BITS_AT] & HAS_DEADLINE != 0 {
            let at = deadline_at(item);
            item[at..at + 8].copy_from_slice(&deadline.to_le_bytes());
        }
        if item[BITS_AT] & HAS_FLAGS != 0 {
            let at = flags_at(item);
            item[at..at + 4].copy_from_slice(&flags.to_le_bytes());
        }
    }

    /// Replaces a value by one of the same length.
    pub fn overwrite_value(&mut self, address: Address, value: &[u8]) {
        let item = self.arena.item_mut(address);
        let at = data_at(item);
        let key_len = key_len_of(item);
        if item[BITS_AT] & HAS_BLOCK == 0 {
            item[at + key_len..][..value.len()].copy_from_slice(value);
            return;
        }
        self.blocks.overwrite(half_at(item, at), key_len, value);
    }

    /// Adds bytes behind a value that has a block, which grows in place where there is room.
    pub fn append_to_block(&mut self, address: Address, addition: &[u8]) {
        let item = self.arena.item(address);
        debug_assert!(item[BITS_AT] & HAS_BLOCK != 0);
        self.blocks.append(half_at(item, data_at(item)), addition);
    }

    /// Whether the entry has a block.
    pub fn has_block(&self, address: Address) -> bool {
        self.arena.item(address)[BITS_AT] & HAS_BLOCK != 0
    }

    /// Frees an entry.
    pub fn release(&mut self, address: Address) {
        let item = self.arena.item(address);
        if item[BITS_AT] & HAS_BLOCK != 0 {
            self.blocks.release(half_at(item, data_at(item)));
        }
        self.arena.release(address);
    }

    /// Gives up to about `count_max` pages and blocks back, for entries that are not needed any
    /// more. Returns how many.
    pub fn tear_down(&mut self, count_max: usize) -> usize {
        let count = self.arena.tear_down(count_max);
        count + self.blocks.tear_down(count_max.saturating_sub(count))
    }

    /// The neighbour that was used before.
    #[inline]
    pub fn older(&self, address: Address) -> Address {
        Address::from_bits(half_at(self.arena.item(address), OLDER_AT))
    }

    /// The neighbour that was used after.
    #[inline]
    pub fn newer(&self, address: Address) -> Address {
        Address::from_bits(half_at(self.arena.item(address), NEWER_AT))
    }

    #[inline]
    pub fn set_older(&mut self, address: Address, older: Address) {
        self.set_half(address, OLDER_AT, older.bits());
    }

    #[inline]
    pub fn set_newer(&mut self, address: Address, newer: Address) {
        self.set_half(address, NEWER_AT, newer.bits());
    }

    /// The deadline alone, or [`NO_DEADLINE`].
    #[inline]
    pub fn deadline(&self, address: Address) -> u64 {
        deadline_of(self.arena.item(address))
    }

    /// The version alone.
    #[inline]
    pub fn version(&self, address: Address) -> Version {
        Version(word_at(self.arena.item(address), 0))
    }

    /// When the entry was used, in the counting of `touches`.
    #[inline]
    pub fn used(&self, address: Address) -> u16 {
        let item = self.arena.item(address);
        u16::from_le_bytes([item[USED_AT], item[USED_AT + 1]])
    }

    /// Sets when the entry was used.
    #[inline]
    pub fn set_used(&mut self, address: Address, used: u16) {
        self.arena.item_mut(address)[USED_AT..USED_AT + 2].copy_from_slice(&used.to_le_bytes());
    }

    /// The number of the last snapshot that the entry is no part of any more.
    #[inline]
    pub fn snapshot(&self, address: Address) -> u8 {
        self.arena.item(address)[SNAPSHOT_AT]
    }

    /// Sets that number.
    #[inline]
    pub fn set_snapshot(&mut self, address: Address, number: u8) {
        self.arena.item_mut(address)[SNAPSHOT_AT] = number;
    }

    /// Whether the entry was read since the hand passed.
    #[inline]
    pub fn is_visited(&self, address: Address) -> bool {
        self.arena.item(address)[BITS_AT] & VISITED != 0
    }

    #[inline]
    pub fn set_visited(&mut self, address: Address, is_visited: bool) {
        let bits = &mut self.arena.item_mut(address)[BITS_AT];
        *bits &= !VISITED;
        if is_visited {
            *bits |= VISITED;
        }
    }

    /// The place in the expiry index, or [`NO_PLACE`].
    #[inline]
    pub fn due(&self, address: Address) -> u32 {
        let item = self.arena.item(address);
        match item[BITS_AT] & HAS_DEADLINE {
            0 => NO_PLACE,
            _ => half_at(item, deadline_at(item) + 8),
        }
    }

    /// Sets the place in the expiry index of an entry that has a deadline.
    #[inline]
    pub fn set_due(&mut self, address: Address, place: u32) {
        let item = self.arena.item_mut(address);
        if item[BITS_AT] & HAS_DEADLINE != 0 {
            let at = deadline_at(item) + 8;
            item[at..at + 4].copy_from_slice(&place.to_le_bytes());
        }
    }

    /// The entry's first byte, to bring it into the caches.
    #[inline]
    pub fn first_byte(&self, address: Address) -> u8 {
        self.arena.item(address)[0]
    }

    /// The first entry at or behind an address in memory.
    pub fn next_in_memory(&self, from: Address) -> Option<Address> {
        self.arena.next_in_use(from)
    }

    /// Flips a bit of an entry's value or key: damage, for tests.
    #[cfg(any(test, feature = "defects"))]
    pub fn flip_bit(&mut self, address: Address, nth_byte: usize) {
        let item = self.arena.item(address);
        let at = data_at(item);
        if item[BITS_AT] & HAS_BLOCK != 0 {
            self.blocks.flip_bit(half_at(item, at), nth_byte);
        } else {
            let length = self.get(address).data().len();
            if length > 0 {
                self.arena.item_mut(address)[at + nth_byte % length] ^= 1;
            }
        }
    }

    /// Chunks of small blocks, for tests.
    #[cfg(test)]
    pub fn small_chunks(&self) -> usize {
        self.blocks.small_chunks()
    }

    /// Pages of the arena, for tests.
    #[cfg(test)]
    pub fn pages(&self) -> usize {
        self.arena.pages()
    }

    /// Moves some blocks to where they leave less unused.
    pub fn move_blocks(&mut self) {
        self.blocks.move_some();
    }

    /// Checks the arena and the blocks, for tests.
    pub fn check(&self) {
        self.arena.check();
        self.blocks.check();
    }

    fn set_half(&mut self, address: Address, at: usize, half: u32) {
        self.arena.item_mut(address)[at..at + 4].copy_from_slice(&half.to_le_bytes());
    }
}

/// Writes an entry without neighbours into an item.
fn compose(item: &mut [u8], shape: Shape, content: &Content<'_>, block: Option<u32>) {
    item[OLDER_AT..NEWER_AT].copy_from_slice(&Address::NONE.bits().to_le_bytes());
    item[NEWER_AT..USED_AT].copy_from_slice(&Address::NONE.bits().to_le_bytes());
    item[USED_AT..BITS_AT].fill(0);
    compose_head(item, shape, content);
    let start = shape.head_bytes();
    match block {
        Some(number) => item[start..start + 4].copy_from_slice(&number.to_le_bytes()),
        None => compose_data(&mut item[start..], content),
    }
    if shape.has_deadline {
        let at = deadline_at(item) + 8;
        item[at..at + 4].copy_from_slice(&NO_PLACE.to_le_bytes());
    }
}

/// Writes an entry without a block over the former one, but for what links it to others.
fn compose_keeping_links(item: &mut [u8], shape: Shape, content: &Content<'_>) {
    compose_head(item, shape, content);
    compose_data(&mut item[shape.head_bytes()..], content);
}

fn compose_head(item: &mut [u8], shape: Shape, content: &Content<'_>) {
    item[..8].copy_from_slice(&content.version.0.to_le_bytes());
    item[BITS_AT] = shape.bits();
    let value_len = if shape.has_block() { 0 } else { shape.value_len as u16 };
    item[VALUE_LEN_AT..KEY_LEN_AT].copy_from_slice(&value_len.to_le_bytes());
    let [low, high] = (shape.key_len as u16).to_le_bytes();
    item[KEY_LEN_AT] = low;
    if item[BITS_AT] & HAS_LONG_KEY != 0 {
        item[HEADER_BYTES] = high;
    }
    if shape.has_deadline {
        let at = deadline_at(item);
        item[at..at + 8].copy_from_slice(&content.deadline.to_le_bytes());
    }
    if shape.has_flags {
        let at = flags_at(item);
        item[at..at + 4].copy_from_slice(&content.flags.to_le_bytes());
    }
}

fn compose_data(mut room: &mut [u8], content: &Content<'_>) {
    for bytes in [content.key, content.value[0], content.value[1]] {
        let (place, rest) = room.split_at_mut(bytes.len());
        place.copy_from_slice(bytes);
        room = rest;
    }
}

#[inline]
fn key_len_of(item: &[u8]) -> usize {
    let low = usize::from(item[KEY_LEN_AT]);
    match item[BITS_AT] & HAS_LONG_KEY {
        0 => low,
        _ => low | usize::from(item[HEADER_BYTES]) << 8,
    }
}

#[inline]
fn deadline_of(item: &[u8]) -> u64 {
    match item[BITS_AT] & HAS_DEADLINE {
        0 => NO_DEADLINE,
        _ => word_at(item, deadline_at(item)),
    }
}

/// Where the deadline is, if there is one.
#[inline]
fn deadline_at(item: &[u8]) -> usize {
    HEADER_BYTES + usize::from(item[BITS_AT] & HAS_LONG_KEY != 0)
}

/// Where the flags are, if there are any.
#[inline]
fn flags_at(item: &[u8]) -> usize {
    deadline_at(item) + DEADLINE_BYTES * usize::from(item[BITS_AT] & HAS_DEADLINE != 0)
}

/// Where key and value are, or the number of their block.
#[inline]
fn data_at(item: &[u8]) -> usize {
    flags_at(item) + FLAGS_BYTES * usize::from(item[BITS_AT] & HAS_FLAGS != 0)
}

#[inline]
fn word_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[inline]
fn half_at(bytes: &[u8], at: usize) -> u32 {
    let mut half = [0; 4];
    half.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(half)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content<'a>(key: &'a [u8], value: &'a [u8], flags: u32, deadline: u64) -> Content<'a> {
        Content { version: Version(7), flags, deadline, key, value: [value, &[]] }
    }

    fn assert_is(entry: Entry<'_>, content: &Content<'_>) {
        assert_eq!(entry.version(), content.version);
        assert_eq!(entry.flags(), content.flags);
        assert_eq!(entry.deadline(), content.deadline);
        assert_eq!(entry.key(), content.key);
        assert_eq!(entry.value(), content.value.concat());
        assert_eq!(entry.shape(), content.shape());
        assert_eq!(entry.term(), entry.term_anew());
    }

    #[test]
    fn an_entry_of_any_shape_is_what_was_written_and_keeps_its_links_when_rewritten() {
        let long = vec![b'x'; 70_000];
        let mut shapes = Vec::new();
        for key_len in [0, 1, 16, 255, 256, 5_000, 65_535] {
            for value_len in [0, 1, 64, 200, 3_000, 4_060, 4_096, 70_000] {
                for flags in [0, 9] {
                    for deadline in [1_000, NO_DEADLINE] {
                        shapes.push((key_len, value_len, flags, deadline));
                    }
                }
            }
        }
        let mut entries = Entries::new();
        for (number, &(key_len, value_len, flags, deadline)) in shapes.iter().enumerate() {
            let first = content(&long[..key_len], &long[..value_len], flags, deadline);
            let mut address = entries.insert(&first);
            assert_is(entries.get(address), &first);
            let (older, newer) = (Address::from_bits(11), Address::from_bits(12));
            entries.set_older(address, older);
            entries.set_newer(address, newer);
            entries.set_visited(address, true);
            entries.set_used(address, 500);
            entries.set_due(address, 77);
            for step in [1, 5, 13, 101] {
                let (_, value_len, flags, deadline) = shapes[(number + step) % shapes.len()];
                let next = content(&long[..key_len], &long[..value_len], flags, deadline);
                let had_deadline = entries.get(address).shape().has_deadline;
                let moved = entries.rewrite(address, &next);
                if moved != address {
                    entries.release(address);
                }
                address = moved;
                assert_is(entries.get(address), &next);
                assert_eq!((entries.older(address), entries.newer(address)), (older, newer));
                assert_eq!((entries.is_visited(address), entries.used(address)), (true, 500));
                if had_deadline && deadline != NO_DEADLINE {
                    assert_eq!(entries.due(address), 77);
                }
                entries.set_due(address, 77);
            }
            let copied = entries.copy(address);
            entries.release_moved(address);
            assert_eq!(entries.get(copied).key(), first.key);
            assert_eq!(entries.older(copied), older);
            entries.check();
            if number % 3 == 0 {
                entries.release(copied);
            }
        }
        entries.check();
    }

    #[test]
    fn a_small_entry_takes_no_more_than_thirty_two_bytes_beside_key_and_value() {
        for value_len in [64, 200] {
            let shape = Shape { key_len: 16, value_len, has_deadline: false, has_flags: false };
            let beside = shape.accounted_bytes() - 16 - value_len as u64;
            assert!(beside <= 32, "{beside} bytes beside a value of {value_len}");
        }
    }
}
