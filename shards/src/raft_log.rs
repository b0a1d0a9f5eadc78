//! The in-memory part of one group's Raft log, and raft-rs' view of it.
//!
//! raft-rs reads entries, terms and the snapshot's position through [`Storage`]; the replica
//! appends what a `Ready` hands out. The durable copy is the business of the disk operations the
//! engine emits; this is the tail that replication and apply read from. It is bounded: applied
//! entries are cut away by [`RaftLog::compact`].
//!
//! Every log begins *after* index 1, term 1, which stands for the formation of the shard. A
//! replica that joins later starts with nothing at all, and therefore always through a snapshot,
//! because the members' configuration at the formation is not an entry of the log.
//!
//! Entries that raft-rs asks for in order to send them are copies. Committed ones, which it only
//! hands back to be applied, come without the data of commands: who applies them reads it here,
//! where it stays until then. So an entry of a megabyte is not copied to be read once.
//!
//! raft-rs copies an entry several times on its way into the log and once per follower. The data of
//! a long one it never sees: what it is given, keeps and hands out is a stub of a byte. Until the
//! entry is appended its data is kept beside the log ([`RaftLog::lay_aside`]), afterwards in it,
//! and who sends an entry borrows the data from there ([`RaftLog::lend`]). Stubs are never written
//! to a disk or sent.
//!
//! A snapshot handed to raft-rs holds no data: its bytes travel in chunks beside the Raft messages.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::defect::{self, Defect};
use crate::entry::EntryReader;
use crate::ids::{Index, Millis, Term};

/// Index and term at which every shard is formed.
pub const FORMATION: (Index, Term) = (Index(1), Term(1));

/// What one entry costs beside its data, in bytes, for the bound on the log's memory.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// What raft-rs has instead of long data. No log entry is as short, or of this format version.
const STUB: [u8; 1] = [0];
/// Long data is kept in the buffer that it came in if the rest of that is so small a share of it.
const SPARE_SHARE: usize = 8;

/// A shared handle: raft-rs owns one, the replica another.
#[derive(Clone, Debug, Default)]
pub struct RaftLog {
    inner: Rc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: RefCell<State>,
    /// Entries whose data has at least so many bytes are stubs to raft-rs. With zero none are.
    stub_bytes_min: Cell<usize>,
    /// Whether a snapshot may be handed out now. raft-rs asks from within its own calls, and gets
    /// "not now" while all places for outgoing snapshots are taken.
    snapshot_allowed: Cell<bool>,
}

#[derive(Debug, Default)]
struct State {
    hard_state: HardState,
    /// The configuration as of the applied index.
    conf_state: ConfState,
    /// The last entry that was cut away: index and term.
    base: (u64, u64),
    entries: VecDeque<Entry>,
    bytes: usize,
    applied: (u64, u64),
    /// Data of entries that raft-rs has, or may take, as stubs, and has not yet handed out to be
    /// appended; by index and term.
    aside: BTreeMap<(u64, u64), Vec<u8>>,
}

impl State {
    fn last_index(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    fn entry(&self, index: Index) -> Option<&Entry> {
        self.entries.get(index.0.checked_sub(self.base.0 + 1)? as usize)
    }

    fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first().map(|entry| entry.index) else { return };
        assert!(first > self.base.0, "entry {first} is behind the log's base {}", self.base.0);
        assert!(first <= self.last_index() + 1, "entry {first} leaves a hole in the log");
        while self.last_index() >= first {
            if let Some(entry) = self.entries.pop_back() {
                self.bytes -= entry_bytes(&entry);
            }
        }
        self.bytes += entries.iter().map(entry_bytes).sum::<usize>();
        self.entries.extend(entries);
    }

    /// The data of an entry that raft-rs has as a stub.
    fn data_mut(&mut self, index: u64, term: u64) -> Option<&mut Vec<u8>> {
        if let Some(data) = self.aside.get_mut(&(index, term)) {
            return Some(data);
        }
        let place = index.checked_sub(self.base.0 + 1)? as usize;
        let entry = self.entries.get_mut(place).filter(|entry| entry.term == term)?;
        Some(&mut entry.data)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.0 {
            return Ok(self.base.1);
        }
        if index < self.base.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        self.entries
            .get((index - self.base.0 - 1) as usize)
            .map(|entry| entry.term)
            .ok_or(raft::Error::Store(StorageError::Unavailable))
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    entry.data.len() + ENTRY_OVERHEAD_BYTES
}

fn without_data(entry: &Entry) -> Entry {
    let &Entry { entry_type, term, index, .. } = entry;
    Entry { entry_type, term, index, ..Entry::default() }
}

fn as_stub(entry: &Entry) -> Entry {
    Entry { data: STUB.to_vec(), ..without_data(entry) }
}

/// Whether an entry's data is elsewhere.
pub fn is_stub(entry: &Entry) -> bool {
    entry.data == STUB
}

impl RaftLog {
    /// The log of a member of a shard that is being formed by `voters`.
    pub fn formed(voters: Vec<u64>) -> Self {
        let log = RaftLog::default();
        {
            let mut state = log.inner.state.borrow_mut();
            state.conf_state.voters = voters;
            state.base = (FORMATION.0.0, FORMATION.1.0);
            state.applied = state.base;
            state.hard_state.term = FORMATION.1.0;
            state.hard_state.commit = FORMATION.0.0;
        }
        log
    }

    /// The log of a replica that waits to be taken in.
    pub fn joining() -> Self {
        RaftLog::default()
    }

    /// The log of a replica that comes back: `entries` follow the applied index.
    pub fn recovered(
        applied: (Index, Term),
        hard_state: HardState,
        conf_state: ConfState,
        entries: Vec<Entry>,
    ) -> Self {
        let log = RaftLog::default();
        {
            let mut state = log.inner.state.borrow_mut();
            state.hard_state = hard_state;
            state.conf_state = conf_state;
            state.base = (applied.0.0, applied.1.0);
            state.applied = state.base;
            state.append(entries);
        }
        log
    }

    /// Makes stubs of entries with so many bytes of data or more from now on.
    pub fn make_stubs_from(&self, bytes: usize) {
        self.inner.stub_bytes_min.set(bytes);
    }

    fn is_long(&self, data: &[u8]) -> bool {
        let bytes_min = self.inner.stub_bytes_min.get();
        bytes_min > 0 && data.len() >= bytes_min
    }

    /// Term, vote and commit index.
    pub fn hard_state(&self) -> HardState {
        self.inner.state.borrow().hard_state.clone()
    }

    /// Visits the entries behind the applied index, in order.
    pub fn with_unapplied<T>(
        &self,
        visit: impl FnOnce(&mut dyn Iterator<Item = &Entry>) -> T,
    ) -> T {
        let state = self.inner.state.borrow();
        let applied = state.applied.0;
        visit(&mut state.entries.iter().filter(|entry| entry.index > applied))
    }

    /// Length of the data of the entry at `index` in bytes; zero if the log does not have it.
    pub fn data_len(&self, index: Index) -> usize {
        self.inner.state.borrow().entry(index).map_or(0, |entry| entry.data.len())
    }

    /// Visits the data of the entry at `index` in `term`, if the log has it. Meanwhile the log can
    /// be read, and not changed.
    pub fn with_data<T>(
        &self,
        index: Index,
        term: Term,
        visit: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        let state = self.inner.state.borrow();
        let entry = state.entry(index).filter(|entry| entry.term == term.0)?;
        Some(visit(&entry.data))
    }

    /// Keeps the data of long entries that raft-rs is about to be given, and makes stubs of them.
    pub fn lay_aside(&self, entries: &mut [Entry]) {
        for entry in entries.iter_mut().filter(|entry| !entry.data.is_empty()) {
            if entry.entry_type() == EntryType::EntryNormal {
                let (index, term) = (Index(entry.index), Term(entry.term));
                entry.data = self.lay_data_aside(index, term, std::mem::take(&mut entry.data));
            }
        }
    }

    /// The same for one entry: keeps its data if it is long, and returns what raft-rs gets.
    pub fn lay_data_aside(&self, index: Index, term: Term, mut data: Vec<u8>) -> Vec<u8> {
        if !self.is_long(&data) {
            return data;
        }
        // The log counts what lies in its entries, not what they might have room for.
        if data.capacity() - data.len() > data.len() / SPARE_SHARE {
            data.shrink_to_fit();
        }
        self.inner.state.borrow_mut().aside.insert((index.0, term.0), data);
        STUB.to_vec()
    }

    /// Bytes that are kept for entries which are not appended yet.
    pub fn aside_bytes(&self) -> usize {
        self.inner.state.borrow().aside.values().map(Vec::len).sum()
    }

    /// Hands the data of stubs out, so that they can be sent; it is missing here until
    /// [`RaftLog::take_back`]. Returns whether all of it was there: what has been cut away since
    /// raft-rs wanted to send it is not.
    pub fn lend(&self, entries: &mut [Entry]) -> bool {
        let mut state = self.inner.state.borrow_mut();
        entries.iter_mut().filter(|entry| is_stub(entry)).all(|entry| {
            let data = state.data_mut(entry.index, entry.term);
            data.map(|data| std::mem::swap(data, &mut entry.data)).is_some()
        })
    }

    /// Takes data back that was lent.
    pub fn take_back(&self, entries: &mut [Entry]) {
        let mut state = self.inner.state.borrow_mut();
        for entry in entries {
            let data = state.data_mut(entry.index, entry.term);
            if let Some(data) = data.filter(|data| **data == STUB) {
                std::mem::swap(data, &mut entry.data);
            }
        }
    }

    /// Visits the entries from `first` on, in order.
    pub fn with_tail<T>(
        &self,
        first: Index,
        visit: impl FnOnce(&mut dyn Iterator<Item = &Entry>) -> T,
    ) -> T {
        let state = self.inner.state.borrow();
        let place = first.0.saturating_sub(state.base.0 + 1) as usize;
        visit(&mut state.entries.range(place.min(state.entries.len())..))
    }

    /// Appends `entries`, all that raft-rs has and the log has not, replacing what stands at their
    /// indices and after. What is aside and not among them raft-rs has not taken, and is forgotten.
    ///
    /// # Panics
    /// If they would leave a hole or replace what has been cut away: raft-rs never asks for it. If
    /// a stub's data is not aside.
    pub fn append(&self, mut entries: Vec<Entry>) {
        let mut state = self.inner.state.borrow_mut();
        let mut aside = std::mem::take(&mut state.aside);
        for entry in entries.iter_mut().filter(|entry| is_stub(entry)) {
            let data = aside.remove(&(entry.index, entry.term));
            assert!(data.is_some(), "the data of entry {} is gone", entry.index);
            entry.data = data.unwrap_or_default();
        }
        state.append(entries);
    }

    /// Replaces the whole log by a snapshot's position.
    pub fn restore(&self, index: Index, term: Term, conf_state: ConfState) {
        let mut state = self.inner.state.borrow_mut();
        assert!(index.0 > state.applied.0, "a snapshot may not take the log back");
        state.entries.clear();
        state.bytes = 0;
        state.base = (index.0, term.0);
        state.applied = state.base;
        state.conf_state = conf_state;
        state.hard_state.commit = state.hard_state.commit.max(index.0);
    }

    /// Remembers term, vote and commit index.
    pub fn set_hard_state(&self, hard_state: HardState) {
        self.inner.state.borrow_mut().hard_state = hard_state;
    }

    /// Remembers the configuration that an applied entry brought.
    pub fn set_conf_state(&self, conf_state: ConfState) {
        self.inner.state.borrow_mut().conf_state = conf_state;
    }

    /// The configuration as of the applied index.
    pub fn conf_state(&self) -> ConfState {
        self.inner.state.borrow().conf_state.clone()
    }

    /// Says how far the store has come.
    pub fn set_applied(&self, index: Index, term: Term) {
        let mut state = self.inner.state.borrow_mut();
        assert!(index.0 >= state.applied.0, "the applied index went back");
        state.applied = (index.0, term.0);
    }

    /// How far the store has come.
    pub fn applied(&self) -> (Index, Term) {
        let state = self.inner.state.borrow();
        (Index(state.applied.0), Term(state.applied.1))
    }

    /// Whether raft-rs may send snapshots from now on.
    pub fn allow_snapshots(&self, allowed: bool) {
        self.inner.snapshot_allowed.set(allowed);
    }

    /// Memory the entries take, in bytes.
    pub fn bytes(&self) -> usize {
        self.inner.state.borrow().bytes
    }

    /// Index of the last entry.
    pub fn last(&self) -> Index {
        Index(self.inner.state.borrow().last_index())
    }

    /// The term at `index`, if the log still has it.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.inner.state.borrow().term(index.0).ok().map(Term)
    }

    /// Term and hash of the entry at `index`, if the log still has it.
    pub fn print_at(&self, index: Index) -> Option<(Term, u64)> {
        let state = self.inner.state.borrow();
        let entry = state.entry(index)?;
        let hash = xxhash_rust::xxh3::xxh3_64_with_seed(&entry.data, entry.entry_type as u64);
        Some((Term(entry.term), hash))
    }

    /// The stamp of the last entry that carries one, if it is not applied yet.
    pub fn last_unapplied_stamp(&self) -> Option<Millis> {
        let state = self.inner.state.borrow();
        let entries = state.entries.iter().rev();
        let mut unapplied = entries.take_while(|entry| entry.index > state.applied.0);
        unapplied.find_map(|entry| match entry.entry_type() {
            EntryType::EntryNormal => EntryReader::new(&entry.data).ok().map(|read| read.stamp()),
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => None,
        })
    }

    /// Cuts applied entries away until `keep_bytes` are left, but never past `needed`, the last
    /// index every follower that is being served has.
    pub fn compact(&self, needed: Index, keep_bytes: usize) {
        let mut state = self.inner.state.borrow_mut();
        let limit = needed.0.min(state.applied.0);
        while state.bytes > keep_bytes && state.base.0 < limit {
            let Some(entry) = state.entries.pop_front() else { break };
            state.bytes -= entry_bytes(&entry);
            state.base = (entry.index, entry.term);
        }
    }
}

impl Storage for RaftLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let state = self.inner.state.borrow();
        Ok(RaftState::new(state.hard_state.clone(), state.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        // What may be fetched later is for others. Everything else is for this replica.
        let is_to_be_sent = context.can_async();
        let state = self.inner.state.borrow();
        if low <= state.base.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > state.last_index() + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let budget = max_size.into().unwrap_or(u64::MAX);
        let range = (low - state.base.0 - 1) as usize..(high - state.base.0 - 1) as usize;
        let mut size = 0;
        let mut entries = Vec::with_capacity(range.len().min(256));
        for entry in state.entries.range(range) {
            size += entry_bytes(entry) as u64;
            if !entries.is_empty() && size > budget {
                break;
            }
            let is_normal = entry.entry_type() == EntryType::EntryNormal;
            entries.push(match is_to_be_sent {
                true if is_normal && self.is_long(&entry.data) => as_stub(entry),
                false if is_normal => without_data(entry),
                _ => entry.clone(),
            });
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.inner.state.borrow().term(index)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.inner.state.borrow().base.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.inner.state.borrow().last_index())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let state = self.inner.state.borrow();
        if !self.inner.snapshot_allowed.get() || state.applied.0 < request_index.max(1) {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = match defect::is(Defect::ApplyTwiceAfterSnapshot) {
            true => state.base,
            false => state.applied,
        };
        metadata.set_conf_state(state.conf_state.clone());
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![0; 10], ..Entry::default() }
    }

    #[test]
    fn a_conflict_replaces_the_tail_and_the_bytes_follow() {
        let log = RaftLog::formed(vec![1]);
        log.append(vec![entry(2, 1), entry(3, 1), entry(4, 1)]);
        log.append(vec![entry(3, 2)]);
        assert_eq!(log.last(), Index(3));
        assert_eq!(log.term_at(Index(3)), Some(Term(2)));
        assert_eq!(log.bytes(), 2 * (10 + ENTRY_OVERHEAD_BYTES));
    }

    #[test]
    fn who_applies_an_entry_reads_its_data_here_and_who_sends_it_gets_a_copy() {
        let log = RaftLog::formed(vec![1]);
        let mut change = entry(3, 1);
        change.set_entry_type(EntryType::EntryConfChange);
        log.append(vec![entry(2, 1), change.clone()]);
        let entries = |can_async| log.entries(2, 4, None, GetEntriesContext::empty(can_async));
        assert_eq!(entries(true).expect("entries"), [entry(2, 1), change.clone()]);
        let bare = Entry { data: Vec::new(), ..entry(2, 1) };
        assert_eq!(entries(false).expect("entries"), [bare, change]);
        assert_eq!(log.with_data(Index(2), Term(1), <[u8]>::to_vec), Some(vec![0; 10]));
        assert_eq!(log.with_data(Index(2), Term(2), <[u8]>::to_vec), None, "another entry");
        assert_eq!((log.data_len(Index(2)), log.data_len(Index(4))), (10, 0));
    }

    #[test]
    fn long_data_is_beside_the_log_until_it_is_appended_and_lent_to_who_sends_it() {
        let log = RaftLog::formed(vec![1]);
        log.make_stubs_from(11);
        let long = |index, term| Entry { data: vec![index as u8; 11], ..entry(index, term) };
        let mut given = [entry(2, 1), long(3, 1), long(4, 1)];
        given[2].set_entry_type(EntryType::EntryConfChange);
        let whole = given.clone();
        log.lay_aside(&mut given);
        assert_eq!(given, [entry(2, 1), as_stub(&long(3, 1)), whole[2].clone()]);
        for is_appended in [false, true] {
            if is_appended {
                log.append(given.to_vec());
            }
            let mut lent = given.to_vec();
            assert!(log.lend(&mut lent));
            assert_eq!(lent, whole, "{is_appended}");
            log.take_back(&mut lent);
            assert_eq!(lent[1].data, STUB);
        }
        assert_eq!(log.with_data(Index(3), Term(1), <[u8]>::to_vec), Some(vec![3; 11]));
        assert_eq!(
            log.with_tail(Index(3), |entries| entries.cloned().collect::<Vec<_>>()),
            [long(3, 1), whole[2].clone()]
        );
        assert_eq!(log.bytes(), 10 + 11 + 11 + 3 * ENTRY_OVERHEAD_BYTES);
        let entries = |can_async| log.entries(2, 5, None, GetEntriesContext::empty(can_async));
        assert_eq!(entries(true).expect("entries"), given);
    }

    #[test]
    fn data_that_raft_did_not_take_is_forgotten_and_what_is_gone_is_not_lent() {
        let log = RaftLog::formed(vec![1]);
        log.make_stubs_from(1);
        let mut refused = [entry(2, 1), entry(3, 1)];
        log.lay_aside(&mut refused);
        let mut taken = [entry(2, 2)];
        log.lay_aside(&mut taken);
        log.append(taken.to_vec());
        assert!(!log.lend(&mut refused.clone()));
        assert_eq!(log.aside_bytes(), 0);
        let mut lent = taken.to_vec();
        lent.extend(refused);
        assert!(!log.lend(&mut lent), "one of them is gone");
        log.take_back(&mut lent);
        assert_eq!(log.data_len(Index(2)), 10, "the other one is back");
        log.lay_aside(&mut [entry(4, 2)]);
        assert_eq!(log.aside_bytes(), 10);
        log.append(Vec::new());
        assert_eq!(log.aside_bytes(), 0);
    }

    #[test]
    fn compaction_stops_at_what_is_applied_and_needed() {
        let log = RaftLog::formed(vec![1]);
        log.append((2..=9).map(|index| entry(index, 1)).collect());
        log.compact(Index(9), 0);
        assert_eq!(log.first_index().expect("an index"), 2, "nothing is applied");
        log.set_applied(Index(6), Term(1));
        log.compact(Index(4), 0);
        assert_eq!(log.first_index().expect("an index"), 5);
        log.compact(Index(9), 0);
        assert_eq!(log.first_index().expect("an index"), 7);
        assert_eq!(log.term_at(Index(6)), Some(Term(1)), "the base keeps its term");
        assert_eq!(log.term_at(Index(5)), None);
    }
}
