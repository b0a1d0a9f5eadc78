//! A store as bytes, and back.
//!
//! A snapshot holds everything that decides the future: entries with their slots, versions,
//! deadlines and recency numbers, the free slots in the order of their reuse, the stamp, the
//! limits, the counter behind the recency numbers. The restored store is the same from the next
//! command on. What can be derived (table, links, expiry index) is built anew, and the digest
//! carried along must come out again.
//!
//! Format, little-endian: magic (8 bytes), format version (4), bytes allowed (8), longest value
//! (8), stamp (8), next recency number (8), slots (4), entries (4), bytes held (8), digest (8);
//! the free slots (4 each); the entries by slot: slot (4), flags (4), version (8), deadline (8),
//! recency (8), key length (2), value length (4), key, value; at the end XXH3 of all before (8).

use super::digest::hash_bytes;
use super::slab::NO_DEADLINE;
use super::{DEADLINE_MAX, Store, StoreSettings, entry_bytes};
use crate::command::VALUE_BYTES_MAX;
use crate::ids::{Millis, Version};

const MAGIC: [u8; 8] = *b"CRCLSTOR";
const FORMAT_VERSION: u32 = 1;
/// Magic and format version.
const OPENING_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 8;
/// Bytes of an entry before its key.
const ENTRY_FIXED_BYTES: usize = 38;

/// Why bytes are not a snapshot that can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// They do not begin as a snapshot does.
    #[error("this is not a snapshot of a store")]
    NotASnapshot,
    /// Another version of the program wrote it.
    #[error("snapshot format {0} is unknown")]
    UnknownFormat(u32),
    /// They are damaged or cut short.
    #[error("the snapshot's checksum does not match")]
    Checksum,
    /// The checksum matches, but the content makes no sense.
    #[error("the snapshot is inconsistent: {0}")]
    Inconsistent(&'static str),
    /// The restored state is not the one that was saved.
    #[error("the restored store has digest {restored:016x} instead of {saved:016x}")]
    Digest {
        /// The one in the snapshot.
        saved: u64,
        /// The one of the restored store.
        restored: u64,
    },
}

impl Store {
    /// Appends a snapshot to `out`.
    pub fn snapshot(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        for word in [self.bytes_max, self.value_bytes_max, self.stamp.0, self.recency.next_number()]
        {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&(self.slab.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.table.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.digest().to_le_bytes());
        for slot in self.slab.free_slots() {
            out.extend_from_slice(&slot.to_le_bytes());
        }
        for (slot, entry) in self.slab.entries() {
            out.extend_from_slice(&slot.to_le_bytes());
            out.extend_from_slice(&entry.flags.to_le_bytes());
            for word in [entry.version.0, entry.deadline, entry.recency] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.extend_from_slice(&(entry.key().len() as u16).to_le_bytes());
            out.extend_from_slice(&(entry.value().len() as u32).to_le_bytes());
            out.extend_from_slice(entry.key());
            out.extend_from_slice(entry.value());
        }
        let checksum = hash_bytes(&out[start..]);
        out.extend_from_slice(&checksum.to_le_bytes());
    }

    /// The store that `bytes` are a snapshot of. The limits come from the snapshot; of `settings`
    /// only the seed of the table counts. Statistics start at zero.
    pub fn restore(bytes: &[u8], settings: StoreSettings) -> Result<Store, RestoreError> {
        let mut opening = Reader { bytes };
        if opening.array() != Ok(MAGIC) {
            return Err(RestoreError::NotASnapshot);
        }
        let format = u32::from_le_bytes(opening.array()?);
        if format != FORMAT_VERSION {
            return Err(RestoreError::UnknownFormat(format));
        }
        let end = bytes.len() - CHECKSUM_BYTES.min(bytes.len());
        if hash_bytes(&bytes[..end]).to_le_bytes() != bytes[end..] {
            return Err(RestoreError::Checksum);
        }
        let body = bytes.get(OPENING_BYTES..end).ok_or(RestoreError::Checksum)?;
        let mut reader = Reader { bytes: body };
        let mut store = Store::new(StoreSettings {
            bytes_max: reader.word()?,
            value_bytes_max: reader.word()?,
            hash_seed: settings.hash_seed,
        });
        store.stamp = Millis(reader.word()?);
        let next_recency = reader.word()?;
        let slots = reader.half_word()?;
        let entries = reader.half_word()?;
        let bytes_held = reader.word()?;
        let saved = reader.word()?;
        let free = slots.checked_sub(entries).ok_or(INCONSISTENT_SLOTS)?;
        let free_list = reader.take(free as usize * size_of::<u32>())?;
        if entries as usize > reader.bytes.len() / ENTRY_FIXED_BYTES {
            return Err(RestoreError::Inconsistent("it ends too early"));
        }
        for _ in 0..entries {
            store.restore_entry(&mut reader, slots)?;
        }
        store.slab.push_restored(slots as usize, None);
        store.restore_free_slots(free_list)?;
        store.restore_recency(next_recency)?;
        if !reader.bytes.is_empty() {
            return Err(RestoreError::Inconsistent("bytes are left over"));
        }
        if store.bytes != bytes_held || store.bytes > store.bytes_max {
            return Err(RestoreError::Inconsistent("the byte count is wrong"));
        }
        let restored = store.digest();
        if restored != saved {
            return Err(RestoreError::Digest { saved, restored });
        }
        Ok(store)
    }

    /// Takes the next entry in, unlinked, with free slots up to its own.
    fn restore_entry(&mut self, reader: &mut Reader<'_>, slots: u32) -> Result<(), RestoreError> {
        let slot = reader.half_word()?;
        let flags = reader.half_word()?;
        let (version, deadline, recency) = (reader.word()?, reader.word()?, reader.word()?);
        let key_len = usize::from(u16::from_le_bytes(reader.array()?));
        let value_len = reader.half_word()? as usize;
        let key = reader.take(key_len)?;
        let value = reader.take(value_len)?;
        if (slot as usize) < self.slab.len() || slot >= slots {
            return Err(INCONSISTENT_SLOTS);
        }
        if value_len > VALUE_BYTES_MAX || (deadline > DEADLINE_MAX && deadline != NO_DEADLINE) {
            return Err(RestoreError::Inconsistent("a field is out of range"));
        }
        let hash = self.table.hash(key);
        if self.table.find(&self.slab, hash, key).is_some() {
            return Err(RestoreError::Inconsistent("a key occurs twice"));
        }
        self.slab.push_restored(slot as usize, Some((key, value)));
        let entry = &mut self.slab[slot];
        entry.flags = flags;
        entry.version = Version(version);
        entry.deadline = deadline;
        entry.recency = recency;
        self.bytes += entry_bytes(key_len + value_len);
        self.terms.add(self.slab[slot].term(slot));
        self.table.insert(hash, slot);
        self.expiry.update(&mut self.slab, slot);
        Ok(())
    }

    /// Rebuilds the list of free slots from its numbers, first to last.
    fn restore_free_slots(&mut self, free_list: &[u8]) -> Result<(), RestoreError> {
        let mut seen = vec![false; self.slab.len()];
        for number in free_list.rchunks_exact(size_of::<u32>()) {
            let slot = u32::from_le_bytes([number[0], number[1], number[2], number[3]]);
            let seen = seen.get_mut(slot as usize).ok_or(INCONSISTENT_SLOTS)?;
            if *seen || !self.slab[slot].is_vacant() {
                return Err(INCONSISTENT_SLOTS);
            }
            *seen = true;
            self.slab.push_restored_free(slot);
        }
        Ok(())
    }

    /// Rebuilds the recency list from the numbers in the entries.
    fn restore_recency(&mut self, next: u64) -> Result<(), RestoreError> {
        let mut order: Vec<(u64, u32)> =
            self.slab.entries().map(|(slot, entry)| (entry.recency, slot)).collect();
        order.sort_unstable();
        let is_strict = order.is_sorted_by(|older, newer| older.0 < newer.0);
        if !is_strict || order.last().is_some_and(|(newest, _)| *newest >= next) {
            return Err(RestoreError::Inconsistent("the recency numbers are not unique"));
        }
        self.recency = super::RecencyList::new(next);
        for (_, slot) in order {
            self.recency.link(&mut self.slab, slot);
        }
        Ok(())
    }
}

const INCONSISTENT_SLOTS: RestoreError =
    RestoreError::Inconsistent("the slots of entries and free slots do not add up");

/// What is left to read.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], RestoreError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(length)
            .ok_or(RestoreError::Inconsistent("it ends too early"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RestoreError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn word(&mut self) -> Result<u64, RestoreError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn half_word(&mut self) -> Result<u32, RestoreError> {
        Ok(u32::from_le_bytes(self.array()?))
    }
}
