//! What an entry counts for: a formula over lengths alone.
//!
//! The limit of a shard decides which entries are evicted, and eviction must come out alike on
//! every replica. An allocator's figure differs between machines and builds, so bytes are logical:
//! `key length + value length + ENTRY_OVERHEAD_BYTES`. Changing the formula changes the meaning of
//! logs that were already written.

/// Bytes of an entry besides its key and value, in real memory:
///
/// - 64: the slot in the slab, one cache line;
/// - 20: the table: 9 bytes per place at a load between 7/16 and 7/8;
/// - 24: the place in the expiry index, counted for entries without a deadline too, so that
///   setting one never evicts;
/// - 20: the length prefix in front of the key, the list of pages, and what the allocator rounds
///   blocks of some ten to some hundred bytes up by.
///
/// A million entries with keys of 16 and values of 64 bytes took 106 bytes more than those each,
/// and 133 with deadlines (mimalloc; `benches/benches/store.rs` measures it). Blocks of 512 bytes
/// and more may be rounded up by a quarter at worst: that is left to the margin that the memory
/// setting keeps.
pub const ENTRY_OVERHEAD_BYTES: u64 = 128;

/// The accounted bytes of an entry whose key and value have `key_and_value` bytes together.
#[inline]
pub(super) fn entry_bytes(key_and_value: usize) -> u64 {
    key_and_value as u64 + ENTRY_OVERHEAD_BYTES
}
