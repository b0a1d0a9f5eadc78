//! A store as a stream of bytes, and back.
//!
//! A snapshot holds everything that decides the future: entries with their slots, versions,
//! deadlines and recency numbers, the free slots in the order of their reuse, the stamp, the
//! limits, the counter behind the recency numbers. The restored store is the same from the next
//! command on. What can be derived (table, links, expiry index) is built anew, and the digest
//! carried along must come out again.
//!
//! It shows the store at one moment, and is written in pieces while commands go on: [`cursor`]
//! says how. It is read in pieces too, split anywhere: [`Restorer`].
//!
//! The format, little-endian: a header, one record for each slot, the end.
//!
//! | part | field (bytes) |
//! |--|--|
//! | header | magic (8), format version (4), bytes allowed (8), longest value (8), |
//! | | stamp (8), next recency number (8), slots (4), entries (4), |
//! | | first free slot (4), bytes held (8), digest (8) |
//! | entry | kind 1 or 3 (1), slot (4), flags (4), version (8), deadline (8), |
//! | | recency number (8), value length (4), key length (2), key, value |
//! | free slot | kind 2 or 4 (1), slot (4), the free slot used after it (4) |
//! | end | kind 5 (1), XXH3 of all bytes before this field (8) |
//!
//! Records of kinds 1 and 2 come in the order of their slots. Those of kinds 3 and 4 come early:
//! their slots changed before it was their turn. So a reader knows of a slot that is passed over
//! that its record has come before, and never has to make room for more slots than have arrived.

mod cursor;
mod restorer;

pub(super) use cursor::Cursor;
pub use restorer::Restorer;

use super::slab::{NONE, Slab, Slot};
use super::{Store, StoreSettings};

const MAGIC: [u8; 8] = *b"CRCLSTOR";
const FORMAT_VERSION: u32 = 2;
/// Bytes of magic and format version.
const OPENING_BYTES: usize = 12;
/// Bytes of the header, with the opening.
const HEADER_BYTES: usize = 72;
/// Where the key length, the key and the value begin in the record of an entry: they stand there
/// as they do in memory.
const ENTRY_DATA_AT: usize = 37;
/// Bytes of an entry's record before its key.
const ENTRY_FIXED_BYTES: usize = ENTRY_DATA_AT + 2;
/// Bytes of a free slot's record.
const FREE_BYTES: usize = 9;
/// Bytes of the end.
const END_BYTES: usize = 9;

/// What a record begins with.
const ENTRY: u8 = 1;
const FREE: u8 = 2;
const EARLY_ENTRY: u8 = 3;
const EARLY_FREE: u8 = 4;
const END: u8 = 5;

/// How far a snapshot has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum SnapshotProgress {
    /// There is more to come.
    More,
    /// That was its end.
    Done,
    /// None is under way: it was abandoned, or begun on a store that another one has replaced.
    Abandoned,
}

/// Why bytes are not a snapshot that can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// They do not begin as a snapshot does.
    #[error("this is not a snapshot of a store")]
    NotASnapshot,
    /// Another version of the program wrote it.
    #[error("snapshot format {0} is unknown")]
    UnknownFormat(u32),
    /// They end before the snapshot does.
    #[error("the snapshot is cut short")]
    Truncated,
    /// They are damaged.
    #[error("the snapshot's checksum does not match")]
    Checksum,
    /// The content makes no sense.
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
    /// Begins a snapshot of the state as it is now. Says whether it did: there is one at a time.
    ///
    /// This costs a bit for each slot. From now on an entry that changes before the snapshot has
    /// reached it is copied first, so the bytes that wait to be read grow with what is written
    /// meanwhile, up to the size of the whole store; a flush keeps what it removes until the
    /// snapshot has ended. A reader in a hurry keeps both small.
    pub fn begin_snapshot(&mut self) -> bool {
        if self.cursor.is_some() {
            return false;
        }
        self.cursor = Some(Box::new(Cursor::begin(self)));
        true
    }

    /// Appends the next piece of the snapshot under way to `out`, of at most `bytes_max` bytes
    /// (but at least one). The pieces together are what [`Restorer`] takes.
    pub fn snapshot_chunk(&mut self, out: &mut Vec<u8>, bytes_max: usize) -> SnapshotProgress {
        let Some(cursor) = &mut self.cursor else { return SnapshotProgress::Abandoned };
        let progress = cursor.write(&self.slab, out, bytes_max);
        if progress == SnapshotProgress::Done {
            self.abandon_snapshot();
        }
        progress
    }

    /// Ends the snapshot under way, if there is one.
    pub fn abandon_snapshot(&mut self) {
        if let Some(mut cursor) = self.cursor.take() {
            self.retired.append(&mut cursor.kept_pages());
        }
    }

    /// Whether a snapshot is under way.
    pub fn is_snapshotting(&self) -> bool {
        self.cursor.is_some()
    }

    /// Appends a whole snapshot to `out`, whether or not one is under way. For small stores and
    /// for tests: it takes as long as the store is large.
    pub fn snapshot(&self, out: &mut Vec<u8>) {
        let done = Cursor::begin(self).write(&self.slab, out, usize::MAX);
        assert_eq!(done, SnapshotProgress::Done, "a piece without limit is the whole");
    }

    /// The store that `bytes` are a snapshot of, whole. The limits come from the snapshot; of
    /// `settings` only the seed of the table counts. Statistics start at zero.
    pub fn restore(bytes: &[u8], settings: StoreSettings) -> Result<Store, RestoreError> {
        let mut restorer = Restorer::with_hint(settings, bytes.len());
        restorer.feed(bytes)?;
        restorer.finish()
    }

    /// Takes the state of `restored`, which came from a snapshot. Statistics go on, a snapshot of
    /// the former state is abandoned, and the former entries' memory is freed as after a flush: a
    /// little at the start of each log entry, since a million frees at once take a tenth of a
    /// second.
    pub fn replace_with(&mut self, restored: Store) {
        self.abandon_snapshot();
        let former = std::mem::replace(self, restored);
        self.statistics = former.statistics;
        self.retired.extend(former.retired);
        self.retired.extend(former.slab.into_pages());
    }

    /// Lets the snapshot under way have `slot`, which is about to change. Without one it costs a
    /// branch.
    #[inline]
    pub(super) fn spare(&mut self, slot: u32) {
        if self.cursor.is_some() {
            self.spare_for_cursor(slot);
        }
    }

    /// [`Store::spare`] for the slot that the next new entry takes.
    #[inline]
    pub(super) fn spare_next_free(&mut self) {
        if self.cursor.is_some() && self.slab.first_free() != NONE {
            self.spare_for_cursor(self.slab.first_free());
        }
    }

    #[cold]
    fn spare_for_cursor(&mut self, slot: u32) {
        if let Some(cursor) = &mut self.cursor {
            cursor.spare(&self.slab, slot);
        }
    }
}

/// What a snapshot begins with.
#[derive(Clone, Copy, Debug)]
struct Header {
    bytes_max: u64,
    value_bytes_max: u64,
    stamp: u64,
    next_recency: u64,
    slots: u32,
    entries: u32,
    /// The slot that is reused next, or [`NONE`].
    first_free: u32,
    bytes: u64,
    digest: u64,
}

impl Header {
    fn of(store: &Store) -> Self {
        Header {
            bytes_max: store.bytes_max,
            value_bytes_max: store.value_bytes_max,
            stamp: store.stamp.0,
            next_recency: store.recency.next_number(),
            slots: store.slab.len() as u32,
            entries: store.table.len() as u32,
            first_free: store.slab.first_free(),
            bytes: store.bytes,
            digest: store.digest(),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        for word in [self.bytes_max, self.value_bytes_max, self.stamp, self.next_recency] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for half in [self.slots, self.entries, self.first_free] {
            out.extend_from_slice(&half.to_le_bytes());
        }
        for word in [self.bytes, self.digest] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, RestoreError> {
        check_opening(bytes)?;
        Ok(Header {
            bytes_max: word_at(bytes, 12),
            value_bytes_max: word_at(bytes, 20),
            stamp: word_at(bytes, 28),
            next_recency: word_at(bytes, 36),
            slots: half_at(bytes, 44),
            entries: half_at(bytes, 48),
            first_free: half_at(bytes, 52),
            bytes: word_at(bytes, 56),
            digest: word_at(bytes, 64),
        })
    }
}

/// Checks the magic and the format version, as far as there are bytes.
fn check_opening(bytes: &[u8]) -> Result<(), RestoreError> {
    let magic = &bytes[..bytes.len().min(MAGIC.len())];
    if !MAGIC.starts_with(magic) {
        return Err(RestoreError::NotASnapshot);
    }
    match bytes.first_chunk::<OPENING_BYTES>() {
        Some(opening) if half_at(opening, MAGIC.len()) != FORMAT_VERSION => {
            Err(RestoreError::UnknownFormat(half_at(opening, MAGIC.len())))
        }
        _ => Ok(()),
    }
}

/// The eight bytes at `at`, which is a constant within bounds.
#[inline]
fn word_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// The four bytes at `at`, which is a constant within bounds.
#[inline]
fn half_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    let mut half = [0; 4];
    half.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(half)
}

/// Whether a slot's record comes in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// In the order of slots.
    InOrder,
    /// Before.
    Early,
}

/// Appends the record of a slot.
fn push_record(out: &mut Vec<u8>, slab: &Slab, slot: u32, turn: Turn) {
    let entry: &Slot = &slab[slot];
    if entry.is_vacant() {
        out.push(if turn == Turn::Early { EARLY_FREE } else { FREE });
        out.extend_from_slice(&slot.to_le_bytes());
        out.extend_from_slice(&entry.older.to_le_bytes());
        return;
    }
    let mut fixed = [0; ENTRY_DATA_AT];
    fixed[0] = if turn == Turn::Early { EARLY_ENTRY } else { ENTRY };
    fixed[1..5].copy_from_slice(&slot.to_le_bytes());
    fixed[5..9].copy_from_slice(&entry.flags.to_le_bytes());
    fixed[9..17].copy_from_slice(&entry.version.0.to_le_bytes());
    fixed[17..25].copy_from_slice(&entry.deadline.to_le_bytes());
    fixed[25..33].copy_from_slice(&entry.recency.to_le_bytes());
    fixed[33..37].copy_from_slice(&(entry.value().len() as u32).to_le_bytes());
    out.extend_from_slice(&fixed);
    out.extend_from_slice(entry.data());
}
