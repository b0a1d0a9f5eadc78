//! From a stream of bytes, split anywhere, to a store.
//!
//! The bytes come from other nodes or from a disk, and nothing they say is believed: memory grows
//! with what has arrived and not with what is announced, and a store comes out only if every entry
//! that was announced has come, all numbers add up, and the checksum and the digest are right.
//!
//! Records that come in order are linked while they arrive. One that came early waits under the
//! version in front of which it stood; when that one is linked, those that wait for it are linked
//! first, the last to come first, each with those that wait for it in turn. Table and expiry index
//! are built at the end, each at once.

use super::super::arena::Address;
use super::super::digest::StreamHash;
use super::super::entries::{Content, NO_DEADLINE};
use super::super::expiry::ExpiryIndex;
use super::super::order::Order;
use super::super::policy::ActivePolicy;
use super::super::table::TableBuilder;
use super::super::{DEADLINE_MAX, Store, StoreSettings};
use super::{
    EARLY, END, END_BYTES, ENTRY_FIXED_BYTES, HEADER_BYTES, Header, IN_ORDER, RestoreError,
    check_opening, half_at, word_at,
};
use crate::command::VALUE_BYTES_MAX;
use crate::defect::{self, Defect};
use crate::ids::{Millis, Version};
use std::collections::BTreeMap;
use std::fmt;

const INCONSISTENT_COUNT: RestoreError =
    RestoreError::Inconsistent("the number of entries or bytes is wrong");
const INCONSISTENT_ORDER: RestoreError =
    RestoreError::Inconsistent("the order of the entries does not add up");
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
    /// Waits for a snapshot. Its limits will be those of the store; of `settings` only the touch
    /// interval counts.
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
                Some(&(IN_ORDER | EARLY)) => match bytes.first_chunk() {
                    None => Ok(ENTRY_FIXED_BYTES),
                    Some(fixed) => Ok(ENTRY_FIXED_BYTES + data_bytes(fixed)?),
                },
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
            match *kind {
                IN_ORDER | EARLY => {
                    let Some(fixed) = rest.first_chunk() else { break };
                    let end = ENTRY_FIXED_BYTES + data_bytes(fixed)?;
                    let Some(data) = rest.get(ENTRY_FIXED_BYTES..end) else { break };
                    building.take_entry(fixed, data)?;
                    taken += end;
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

/// Bytes of an entry's key and value.
#[inline]
fn data_bytes(fixed: &[u8; ENTRY_FIXED_BYTES]) -> Result<usize, RestoreError> {
    let value = half_at(fixed, 4) as usize;
    if value > VALUE_BYTES_MAX {
        return Err(RestoreError::Inconsistent("a value is too long"));
    }
    Ok(key_len(fixed) + value)
}

fn key_len(fixed: &[u8; ENTRY_FIXED_BYTES]) -> usize {
    usize::from(u16::from_le_bytes([fixed[2], fixed[3]]))
}

/// What comes to be a store.
struct Building {
    header: Header,
    store: Store,
    entries: u32,
    /// Entries that came early, under the version in front of which they stood, in the order in
    /// which they came.
    early: BTreeMap<Version, Vec<Address>>,
    hand: Address,
    table: TableBuilder,
    expiry: ExpiryIndex,
}

impl Building {
    fn new(header: Header, settings: StoreSettings, bytes_at_hand: usize) -> Self {
        let Header { bytes_max, value_bytes_max, eviction, .. } = header;
        let settings = StoreSettings { bytes_max, value_bytes_max, eviction, ..settings };
        let entries = (header.entries as usize).min(bytes_at_hand / ENTRY_FIXED_BYTES);
        let mut store = Store::new(settings);
        store.bytes_max = bytes_max;
        store.stamp = Millis(header.stamp);
        store.key_secret = header.key_secret;
        if defect::is(Defect::KeySecretNotRestored) {
            store.key_secret ^= 1;
        }
        Building {
            header,
            store,
            entries: 0,
            early: BTreeMap::new(),
            hand: Address::NONE,
            table: TableBuilder::new(entries),
            expiry: ExpiryIndex::default(),
        }
    }

    #[inline]
    fn take_entry(
        &mut self,
        fixed: &[u8; ENTRY_FIXED_BYTES],
        data: &[u8],
    ) -> Result<(), RestoreError> {
        let (key, value) = data.split_at(key_len(fixed));
        let content = Content {
            version: Version(word_at(fixed, 12)),
            flags: half_at(fixed, 8),
            deadline: word_at(fixed, 20),
            key,
            value: [value, &[]],
        };
        let is_visited = match fixed[1] {
            0 => false,
            1 => true,
            _ => return Err(RestoreError::Inconsistent("a visit is neither there nor not")),
        };
        if content.deadline > DEADLINE_MAX && content.deadline != NO_DEADLINE {
            return Err(RestoreError::Inconsistent("a deadline is out of range"));
        }
        if content.version == Version(0) {
            return Err(RestoreError::Inconsistent("an entry has no version"));
        }
        self.entries += 1;
        self.store.bytes += content.shape().accounted_bytes();
        if self.entries > self.header.entries || self.store.bytes > self.header.bytes {
            return Err(INCONSISTENT_COUNT);
        }
        let address = self.store.entries.insert(&content);
        self.store.entries.set_visited(address, is_visited);
        let entry = self.store.entries.get(address);
        self.store.terms.add(entry.term());
        self.expiry.push_unsorted(&entry, address);
        self.table.push(self.store.hash(key), address);
        if content.version.0 == self.header.hand {
            self.hand = address;
        }
        let in_front_of = Version(word_at(fixed, 28));
        if fixed[0] == EARLY {
            self.early.entry(in_front_of).or_default().push(address);
            return Ok(());
        }
        if in_front_of != Version(0) {
            return Err(INCONSISTENT_ORDER);
        }
        if !self.early.is_empty() {
            self.link_early(content.version);
        }
        self.link(address);
        Ok(())
    }

    /// Links what came early and stood in front of the entry with this version.
    fn link_early(&mut self, in_front_of: Version) {
        // What waits for an entry is linked before the entry: each level of the stack are the
        // entries that are yet to be linked in front of the last one of the level below.
        let mut stack = vec![self.early.remove(&in_front_of).unwrap_or_default()];
        while let Some(level) = stack.last_mut() {
            let Some(&entry) = level.last() else {
                stack.pop();
                if let Some(entry) = stack.last_mut().and_then(Vec::pop) {
                    self.link(entry);
                }
                continue;
            };
            let version = self.store.entries.version(entry);
            stack.push(self.early.remove(&version).unwrap_or_default());
        }
    }

    fn link(&mut self, entry: Address) {
        self.store.order.push_newest(&mut self.store.entries, entry);
    }

    fn finish(mut self) -> Result<Store, RestoreError> {
        let Header { entries, bytes, digest, hand, eviction, .. } = self.header;
        self.link_early(Version(0));
        if !self.early.is_empty() || self.hand.is_some() != (hand != 0) {
            return Err(INCONSISTENT_ORDER);
        }
        let mut store = self.store;
        if self.entries != entries || store.bytes != bytes {
            return Err(INCONSISTENT_COUNT);
        }
        store.policy = ActivePolicy::new(eviction, self.hand);
        let same_key = |one, other| store.entries.get(one).key() == store.entries.get(other).key();
        store.table =
            self.table.build(same_key).ok_or(RestoreError::Inconsistent("a key occurs twice"))?;
        self.expiry.sort(&mut store.entries);
        store.expiry = self.expiry;
        if defect::is(Defect::LruOrderNotRestored) {
            let mut entries: Vec<_> = store.order.iter(&store.entries).collect();
            entries.sort();
            store.order = Order::new();
            entries
                .into_iter()
                .for_each(|entry| store.order.push_newest(&mut store.entries, entry));
            return Ok(store);
        }
        let restored = store.digest();
        if restored != digest && !defect::is(Defect::KeySecretNotRestored) {
            return Err(RestoreError::Digest { saved: digest, restored });
        }
        Ok(store)
    }
}
