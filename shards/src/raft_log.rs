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
//! A snapshot handed to raft-rs holds no data: its bytes travel in chunks beside the Raft messages.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
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

/// A shared handle: raft-rs owns one, the replica another.
#[derive(Clone, Debug, Default)]
pub struct RaftLog {
    inner: Rc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: RefCell<State>,
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
}

impl State {
    fn last_index(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    fn entry(&self, index: Index) -> Option<&Entry> {
        self.entries.get(index.0.checked_sub(self.base.0 + 1)? as usize)
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
        }
        log.append(entries);
        log
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

    /// Appends `entries`, replacing what stands at their indices and after.
    ///
    /// # Panics
    /// If they would leave a hole or replace what has been cut away: raft-rs never asks for it.
    pub fn append(&self, entries: Vec<Entry>) {
        let Some(first) = entries.first().map(|entry| entry.index) else { return };
        let mut state = self.inner.state.borrow_mut();
        assert!(first > state.base.0, "entry {first} is behind the log's base {}", state.base.0);
        assert!(first <= state.last_index() + 1, "entry {first} leaves a hole in the log");
        while state.last_index() >= first {
            if let Some(entry) = state.entries.pop_back() {
                state.bytes -= entry_bytes(&entry);
            }
        }
        state.bytes += entries.iter().map(entry_bytes).sum::<usize>();
        state.entries.extend(entries);
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
            let is_whole = is_to_be_sent || entry.entry_type() != EntryType::EntryNormal;
            entries.push(if is_whole { entry.clone() } else { without_data(entry) });
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
