//! From a stream of bytes, split anywhere, to a store.
//!
//! The bytes come from other nodes or from a disk, and nothing they say is believed: memory grows
//! with what has arrived and not with what is announced, and a store comes out only if every slot
//! has come once, all numbers add up, and the checksum and the digest are right.
//!
//! Entries get their slots while they arrive. Table, order of use and expiry index are built at
//! the end, each at once.

use super::super::digest::StreamHash;
use super::super::expiry::ExpiryIndex;
use super::super::recency::RecencyBuilder;
use super::super::slab::{NO_DEADLINE, NONE, Slot};
use super::super::table::TableBuilder;
use super::super::{DEADLINE_MAX, Store, StoreSettings, entry_bytes};
use super::{
    EARLY_ENTRY, EARLY_FREE, END, END_BYTES, ENTRY, ENTRY_DATA_AT, ENTRY_FIXED_BYTES, FREE,
    FREE_BYTES, HEADER_BYTES, Header, RestoreError, Turn, check_opening, half_at, word_at,
};
use crate::command::VALUE_BYTES_MAX;
use crate::defect::{self, Defect};
use crate::ids::{Millis, Version};
use std::fmt;

const INCONSISTENT_SLOTS: RestoreError =
    RestoreError::Inconsistent("the slots of entries and free slots do not add up");
const INCONSISTENT_COUNT: RestoreError =
    RestoreError::Inconsistent("the number of entries or bytes is wrong");
const INCONSISTENT_RECENCY: RestoreError =
    RestoreError::Inconsistent("the recency numbers are not unique or too large");
const BYTES_LEFT_OVER: RestoreError = RestoreError::Inconsistent("bytes are left over");
const UNKNOWN_RECORD: RestoreError = RestoreError::Inconsistent("a record is of no known kind");

/// Bytes read before they enter the checksum: while they are still in the nearest caches.
const WINDOW_BYTES: usize = 32 << 10;

/// Takes the pieces of a snapshot, and makes a store of them.
pub struct Restorer {
    settings: StoreSettings,
    bytes_at_hand: usize,
    /// A header or record that has not arrived whole.
    partial: Vec<u8>,
    stage: Stage,
    checksum: StreamHash,
}

enum Stage {
    Opening,
    Records(Box<Building>),
    Ended(Box<Building>),
    Failed(RestoreError),
}

impl fmt::Debug for Restorer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Opening => "opening",
            Stage::Records(_) => "records",
            Stage::Ended(_) => "ended",
            Stage::Failed(_) => "failed",
        };
        formatter.debug_struct("Restorer").field("stage", &stage).finish_non_exhaustive()
    }
}

impl Restorer {
    /// Waits for a snapshot. Its limits will be those of the store; of `settings` only the seed of
    /// the table counts.
    pub fn new(settings: StoreSettings) -> Self {
        Restorer::with_hint(settings, 0)
    }

    /// The same, where `bytes_at_hand` bytes of the snapshot are known to be there: memory may be
    /// taken in advance for as many entries as they can hold.
    pub fn with_hint(settings: StoreSettings, bytes_at_hand: usize) -> Self {
        Restorer {
            settings,
            bytes_at_hand,
            partial: Vec::new(),
            stage: Stage::Opening,
            checksum: StreamHash::new(),
        }
    }

    /// Takes the next bytes. After an error every further call fails with the same one.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        if let Stage::Failed(error) = self.stage {
            return Err(error);
        }
        let taken = self.take(bytes);
        if let Err(error) = taken {
            self.stage = Stage::Failed(error);
            self.partial = Vec::new();
        }
        taken
    }

    /// The restored store, once the whole snapshot has been fed. Statistics start at zero.
    pub fn finish(self) -> Result<Store, RestoreError> {
        match self.stage {
            Stage::Opening if self.partial.is_empty() => Err(RestoreError::NotASnapshot),
            Stage::Opening | Stage::Records(_) => Err(RestoreError::Truncated),
            Stage::Ended(building) => building.finish(),
            Stage::Failed(error) => Err(error),
        }
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), RestoreError> {
        while !bytes.is_empty() {
            if self.partial.is_empty() {
                let window = &bytes[..bytes.len().min(WINDOW_BYTES)];
                let taken = self.take_whole(window)?;
                bytes = &bytes[taken..];
                if taken > 0 {
                    continue;
                }
            }
            bytes = self.complete(bytes)?;
        }
        Ok(())
    }

    /// Completes the partial record from the front of `bytes`, and takes it once it is whole.
    /// Returns the bytes behind.
    fn complete<'a>(&mut self, mut bytes: &'a [u8]) -> Result<&'a [u8], RestoreError> {
        loop {
            let missing = self.length_needed(&self.partial)? - self.partial.len();
            if missing == 0 {
                let mut partial = std::mem::take(&mut self.partial);
                self.take_whole(&partial)?;
                partial.clear();
                self.partial = partial;
                return Ok(bytes);
            }
            if bytes.is_empty() {
                return Ok(bytes);
            }
            let (head, rest) = bytes.split_at(missing.min(bytes.len()));
            self.partial.extend_from_slice(head);
            bytes = rest;
        }
    }

    /// How many bytes of the header or record that begins with `bytes` must be there to go on: not
    /// fewer than there are, and as many if it is whole.
    fn length_needed(&self, bytes: &[u8]) -> Result<usize, RestoreError> {
        match &self.stage {
            Stage::Opening => check_opening(bytes).map(|()| HEADER_BYTES),
            Stage::Records(_) => match bytes.first() {
                None => Ok(1),
                Some(&(ENTRY | EARLY_ENTRY)) => match bytes.first_chunk() {
                    None => Ok(ENTRY_FIXED_BYTES),
                    Some(fixed) => Ok(ENTRY_DATA_AT + data_bytes(fixed)?),
                },
                Some(&(FREE | EARLY_FREE)) => Ok(FREE_BYTES),
                Some(&END) => Ok(END_BYTES),
                Some(_) => Err(UNKNOWN_RECORD),
            },
            Stage::Ended(_) => Err(BYTES_LEFT_OVER),
            Stage::Failed(error) => Err(*error),
        }
    }

    /// Takes the header and the records that `bytes` begin with and hold whole, and returns how
    /// many bytes those have.
    fn take_whole(&mut self, bytes: &[u8]) -> Result<usize, RestoreError> {
        let mut taken = 0;
        if let Stage::Opening = self.stage {
            check_opening(bytes)?;
            let Some(header) = bytes.first_chunk() else { return Ok(0) };
            let building =
                Building::new(Header::decode(header)?, self.settings, self.bytes_at_hand);
            self.stage = Stage::Records(Box::new(building));
            taken = HEADER_BYTES;
        }
        let Stage::Records(building) = &mut self.stage else {
            self.length_needed(bytes)?;
            return Ok(0);
        };
        let mut end = None;
        while let Some(kind) = bytes.get(taken) {
            let rest = &bytes[taken..];
            let turn = match *kind {
                ENTRY | FREE => Turn::InOrder,
                _ => Turn::Early,
            };
            match *kind {
                ENTRY | EARLY_ENTRY => {
                    let Some(fixed) = rest.first_chunk() else { break };
                    let end = ENTRY_DATA_AT + data_bytes(fixed)?;
                    let Some(data) = rest.get(ENTRY_DATA_AT..end) else { break };
                    building.take_entry(turn, fixed, data)?;
                    taken += end;
                }
                FREE | EARLY_FREE => {
                    let Some(record) = rest.first_chunk::<FREE_BYTES>() else { break };
                    building.take_free(turn, half_at(record, 1), half_at(record, 5))?;
                    taken += FREE_BYTES;
                }
                END => {
                    end = rest.first_chunk::<END_BYTES>();
                    break;
                }
                _ => return Err(UNKNOWN_RECORD),
            }
        }
        match end {
            None => self.checksum.update(&bytes[..taken]),
            Some(end) => {
                self.checksum.update(&bytes[..=taken]);
                self.end(word_at(end, 1))?;
                taken += END_BYTES;
            }
        }
        Ok(taken)
    }

    /// Ends the snapshot, whose checksum this is.
    fn end(&mut self, checksum: u64) -> Result<(), RestoreError> {
        if checksum != self.checksum.finish() {
            return Err(RestoreError::Checksum);
        }
        if let Stage::Records(building) = std::mem::replace(&mut self.stage, Stage::Opening) {
            self.stage = Stage::Ended(building);
        }
        Ok(())
    }
}

/// Bytes of an entry's key length, key and value.
#[inline]
fn data_bytes(fixed: &[u8; ENTRY_FIXED_BYTES]) -> Result<usize, RestoreError> {
    let value = half_at(fixed, 33) as usize;
    if value > VALUE_BYTES_MAX {
        return Err(RestoreError::Inconsistent("a value is too long"));
    }
    let key = usize::from(u16::from_le_bytes([fixed[ENTRY_DATA_AT], fixed[ENTRY_DATA_AT + 1]]));
    Ok(ENTRY_FIXED_BYTES - ENTRY_DATA_AT + key + value)
}

/// A store that is being restored.
struct Building {
    header: Header,
    /// The slab with the slots that came in order, and gaps for those that came early; the sums.
    store: Store,
    entries: u32,
    /// Slots that came early.
    early: Vec<(u32, Slot)>,
    /// Gaps left for them so far.
    gaps: usize,
    table: TableBuilder,
    expiry: ExpiryIndex,
    recency: RecencyBuilder,
}

impl Building {
    fn new(header: Header, settings: StoreSettings, bytes_at_hand: usize) -> Self {
        let Header { bytes_max, value_bytes_max, .. } = header;
        let settings = StoreSettings { bytes_max, value_bytes_max, ..settings };
        let entries = (header.entries as usize).min(bytes_at_hand / ENTRY_FIXED_BYTES);
        let mut store = Store::new(settings);
        store.stamp = Millis(header.stamp);
        Building {
            header,
            store,
            entries: 0,
            early: Vec::new(),
            gaps: 0,
            table: TableBuilder::new(settings.hash_seed, entries),
            expiry: ExpiryIndex::default(),
            recency: RecencyBuilder::new(header.next_recency, header.slots, entries),
        }
    }

    #[inline]
    fn take_entry(
        &mut self,
        turn: Turn,
        fixed: &[u8; ENTRY_FIXED_BYTES],
        data: &[u8],
    ) -> Result<(), RestoreError> {
        let slot = half_at(fixed, 1);
        let mut entry = Slot::restored(data);
        entry.flags = half_at(fixed, 5);
        entry.version = Version(word_at(fixed, 9));
        entry.deadline = word_at(fixed, 17);
        entry.recency = word_at(fixed, 25);
        if entry.deadline > DEADLINE_MAX && entry.deadline != NO_DEADLINE {
            return Err(RestoreError::Inconsistent("a deadline is out of range"));
        }
        self.entries += 1;
        self.store.bytes += entry_bytes(entry.key_and_value_len());
        if self.entries > self.header.entries || self.store.bytes > self.header.bytes {
            return Err(INCONSISTENT_COUNT);
        }
        self.store.terms.add(entry.term(slot));
        self.table.push(entry.key(), slot);
        if !self.recency.push(entry.recency, slot) {
            return Err(INCONSISTENT_RECENCY);
        }
        self.expiry.push_unsorted(&entry, slot);
        self.place(turn, slot, entry)
    }

    #[inline]
    fn take_free(&mut self, turn: Turn, slot: u32, next: u32) -> Result<(), RestoreError> {
        if next >= self.header.slots && next != NONE {
            return Err(INCONSISTENT_SLOTS);
        }
        self.place(turn, slot, Slot::vacant(next))
    }

    /// Puts a slot where it belongs, or aside if that is not there yet.
    #[inline(always)]
    fn place(&mut self, turn: Turn, slot: u32, content: Slot) -> Result<(), RestoreError> {
        if slot >= self.header.slots {
            return Err(INCONSISTENT_SLOTS);
        }
        match turn {
            Turn::Early => self.early.push((slot, content)),
            Turn::InOrder => {
                self.leave_gaps(slot)?;
                self.store.slab.push_restored(content);
            }
        }
        Ok(())
    }

    /// Leaves gaps up to `slot`, for slots that came early.
    #[inline]
    fn leave_gaps(&mut self, slot: u32) -> Result<(), RestoreError> {
        if slot as usize == self.store.slab.len() {
            return Ok(());
        }
        let gaps = (slot as usize).checked_sub(self.store.slab.len()).ok_or(INCONSISTENT_SLOTS)?;
        self.gaps += gaps;
        if self.gaps > self.early.len() {
            return Err(INCONSISTENT_SLOTS);
        }
        for _ in 0..gaps {
            self.store.slab.push_restored(Slot::gap());
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Store, RestoreError> {
        let Header { slots, entries, first_free, bytes, digest, .. } = self.header;
        self.leave_gaps(slots)?;
        if self.gaps != self.early.len() {
            return Err(INCONSISTENT_SLOTS);
        }
        let mut store = self.store;
        for (slot, content) in self.early {
            if !store.slab.fill_gap(slot, content) {
                return Err(INCONSISTENT_SLOTS);
            }
        }
        if self.entries != entries || store.bytes != bytes {
            return Err(INCONSISTENT_COUNT);
        }
        if !store.slab.restore_free_list(first_free, (slots - entries) as usize) {
            return Err(INCONSISTENT_SLOTS);
        }
        store.table = self
            .table
            .build(&store.slab)
            .ok_or(RestoreError::Inconsistent("a key occurs twice"))?;
        store.recency = self.recency.build(&mut store.slab).ok_or(INCONSISTENT_RECENCY)?;
        self.expiry.sort(&mut store.slab);
        store.expiry = self.expiry;
        let is_relisted = defect::is(Defect::FreeSlotsNotRestored);
        if is_relisted {
            store.slab.relist_free();
        }
        let restored = store.digest();
        if restored != digest && !is_relisted {
            return Err(RestoreError::Digest { saved: digest, restored });
        }
        Ok(store)
    }
}
