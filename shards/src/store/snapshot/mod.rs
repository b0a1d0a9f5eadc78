//! A store as a stream of bytes, and back.
//!
//! A snapshot holds everything that decides the future: entries with their versions, deadlines and
//! visits, in the order of eviction; what the policy remembers; the stamp, the limits, the secret
//! under which keys are hashed. The restored store is the same from the next command on. What can
//! be derived (table, expiry index) is built anew, and the digest carried along must come out
//! again.
//!
//! It shows the store at one moment, and is written in pieces while commands go on: [`cursor`]
//! says how. It is read in pieces too, split anywhere: [`Restorer`].
//!
//! The format, little-endian: a header, one record for each entry, the end.
//!
//! | part | field (bytes) |
//! |--|--|
//! | header | magic (8), format version (4), bytes allowed (8), longest value (8), |
//! | | stamp (8), key secret (8), version of the entry that the policy remembers or 0 (8), |
//! | | policy (4), entries (4), bytes held (8), digest (8) |
//! | entry | kind 1 or 2 (1), visited (1), key length (2), value length (4), flags (4), |
//! | | version (8), deadline (8), in front of (8), key, value |
//! | end | kind 3 (1), XXH3 of all bytes before this field (8) |
//!
//! Records of kind 1 come in order, the oldest first. Those of kind 2 come early, because their
//! entries changed before it was their turn: they stood in front of the entry with the version they
//! name, or were the newest (0), at the moment when they were saved. That one's own record comes
//! later. Of several in front of the same one the last to come is the oldest.

mod cursor;
mod restorer;

pub(super) use cursor::Cursor;
pub use restorer::Restorer;

use super::arena::Address;
use super::entries::Entries;
use super::{Store, StoreSettings};
use crate::ids::{Eviction, Version};

const MAGIC: [u8; 8] = *b"CRCLSTOR";
const FORMAT_VERSION: u32 = 3;
/// Bytes of magic and format version.
const OPENING_BYTES: usize = 12;
/// Bytes of the header, with the opening.
const HEADER_BYTES: usize = 76;
/// Bytes of an entry's record before its key.
const ENTRY_FIXED_BYTES: usize = 36;
/// Bytes of the end.
const END_BYTES: usize = 9;
/// Snapshots in a row that may stay unfinished before the marks of all entries are set anew.
/// Beyond 255 a mark could be mistaken for that of an earlier snapshot with the same number.
const UNFINISHED_MAX: u8 = 250;

/// What a record begins with.
const IN_ORDER: u8 = 1;
const EARLY: u8 = 2;
const END: u8 = 3;

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
    /// From now on an entry that changes before the snapshot has reached it is copied first, so the
    /// bytes that wait to be read grow with what is written meanwhile, up to the size of the whole
    /// store; a flush keeps what it removes until the snapshot has ended. A reader in a hurry keeps
    /// both small.
    pub fn begin_snapshot(&mut self) -> bool {
        if self.cursor.is_some() {
            return false;
        }
        if self.unfinished_snapshots == UNFINISHED_MAX {
            self.unfinished_snapshots = 0;
            let order: Vec<Address> = self.order.iter(&self.entries).collect();
            order.into_iter().for_each(|entry| self.entries.set_snapshot(entry, self.snapshots));
        }
        self.snapshots = self.snapshots.wrapping_add(1);
        self.unfinished_snapshots += 1;
        self.cursor = Some(Box::new(Cursor::begin(self)));
        true
    }

    /// Appends the next piece of the snapshot under way to `out`, of at most `bytes_max` bytes
    /// (but at least one). The pieces together are what [`Restorer`] takes.
    pub fn snapshot_chunk(&mut self, out: &mut Vec<u8>, bytes_max: usize) -> SnapshotProgress {
        let Some(cursor) = &mut self.cursor else { return SnapshotProgress::Abandoned };
        let progress = cursor.write(&mut self.entries, out, bytes_max);
        if progress == SnapshotProgress::Done {
            self.unfinished_snapshots = 0;
            self.abandon_snapshot();
        }
        progress
    }

    /// Ends the snapshot under way, if there is one.
    pub fn abandon_snapshot(&mut self) {
        if let Some(mut cursor) = self.cursor.take() {
            self.retired.add(cursor.kept(), None, None);
        }
    }

    /// Whether a snapshot is under way.
    pub fn is_snapshotting(&self) -> bool {
        self.cursor.is_some()
    }

    /// Appends a whole snapshot to `out`, whether or not one is under way. For small stores and
    /// for tests: it takes as long as the store is large.
    pub fn snapshot(&self, out: &mut Vec<u8>) {
        let start = out.len();
        Header::of(self).encode(out);
        let mut next = self.order.oldest();
        while let Some(entry) = next.some() {
            push_record(out, &self.entries, entry, IN_ORDER, Version(0));
            next = self.entries.newer(entry);
        }
        out.push(END);
        let checksum = super::digest::hash_bytes(&out[start..]);
        out.extend_from_slice(&checksum.to_le_bytes());
    }

    /// The store that `bytes` are a snapshot of, whole. The limits and the policy come from the
    /// snapshot; of `settings` only the touch interval counts. Statistics start at zero.
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
        self.retired.append(former.retired);
        self.retired.add(Some(former.entries), Some(former.table), Some(former.expiry));
    }
}

/// What a snapshot begins with.
#[derive(Clone, Copy, Debug)]
struct Header {
    bytes_max: u64,
    value_bytes_max: u64,
    stamp: u64,
    key_secret: u64,
    /// The version of the entry that the policy remembers, or zero.
    hand: u64,
    eviction: Eviction,
    entries: u32,
    bytes: u64,
    digest: u64,
}

impl Header {
    fn of(store: &Store) -> Self {
        let hand = store.hand();
        Header {
            bytes_max: store.bytes_max,
            value_bytes_max: store.value_bytes_max,
            stamp: store.stamp.0,
            key_secret: store.key_secret,
            hand: hand.0,
            eviction: store.eviction(),
            entries: store.table.len() as u32,
            bytes: store.bytes,
            digest: store.digest(),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        let words = [self.bytes_max, self.value_bytes_max, self.stamp, self.key_secret, self.hand];
        for word in words {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for half in [u32::from(self.eviction.code()), self.entries] {
            out.extend_from_slice(&half.to_le_bytes());
        }
        for word in [self.bytes, self.digest] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, RestoreError> {
        check_opening(bytes)?;
        let eviction = u8::try_from(half_at(bytes, 52)).ok().and_then(Eviction::from_code);
        Ok(Header {
            bytes_max: word_at(bytes, 12),
            value_bytes_max: word_at(bytes, 20),
            stamp: word_at(bytes, 28),
            key_secret: word_at(bytes, 36),
            hand: word_at(bytes, 44),
            eviction: eviction.ok_or(RestoreError::Inconsistent("the policy is unknown"))?,
            entries: half_at(bytes, 56),
            bytes: word_at(bytes, 60),
            digest: word_at(bytes, 68),
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

/// Appends the record of an entry, of kind [`IN_ORDER`] or [`EARLY`].
fn push_record(
    out: &mut Vec<u8>,
    entries: &Entries,
    entry: Address,
    kind: u8,
    in_front_of: Version,
) {
    let entry = entries.get(entry);
    let mut fixed = [0; ENTRY_FIXED_BYTES];
    fixed[0] = kind;
    fixed[1] = u8::from(entry.is_visited());
    fixed[2..4].copy_from_slice(&(entry.key().len() as u16).to_le_bytes());
    fixed[4..8].copy_from_slice(&(entry.value().len() as u32).to_le_bytes());
    fixed[8..12].copy_from_slice(&entry.flags().to_le_bytes());
    fixed[12..20].copy_from_slice(&entry.version().0.to_le_bytes());
    fixed[20..28].copy_from_slice(&entry.deadline().to_le_bytes());
    fixed[28..36].copy_from_slice(&in_front_of.0.to_le_bytes());
    out.extend_from_slice(&fixed);
    out.extend_from_slice(entry.data());
}
