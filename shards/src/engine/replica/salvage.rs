//! The end of a replica: it gives everything back, and hands over what it holds.

use raft::eraftpb::EntryType;

use super::Replica;
use crate::contract::Now;
use crate::engine::Courier;
use crate::entry::EntryReader;
use crate::ids::{Index, NodeId, ReplicaId, Term, Version};
use crate::store::{Answer, ShardClock, SnapshotProgress, Store, StoreSettings};
use crate::upkeep;

impl Replica {
    /// The term it has come to.
    pub fn term(&self) -> Term {
        Term(self.raw.raft.term)
    }

    /// Whether nothing of what raft-rs has decided waits to be worked off.
    pub fn is_settled(&self) -> bool {
        !self.raw.has_ready() && self.committed.is_empty()
    }

    /// Whether a member of the group, with or without a vote, lives on `node`.
    pub fn has_member_on(&self, node: NodeId) -> bool {
        let conf = self.log.conf_state();
        conf.voters.iter().chain(&conf.learners).any(|&id| ReplicaId(id).node() == node)
    }

    /// Goes on by another's clock.
    pub fn set_clock(&mut self, clock: ShardClock) {
        self.clock = clock;
    }

    /// Answers everybody who waits: this replica comes to an end.
    pub fn retire(&mut self, courier: &mut Courier<'_>) {
        self.abandon(courier);
    }

    /// Comes to an end, and hands over its store and its clock; `None` if it has nothing. Entries
    /// that are not known to be committed are applied first: who wrote them may have been told
    /// that they are.
    pub fn salvage(
        &mut self,
        settings: StoreSettings,
        now: Now,
        courier: &mut Courier<'_>,
    ) -> Result<Option<(Box<Store>, ShardClock)>, &'static str> {
        if self.stopped.is_some() {
            return Err("its replica here has stopped: what it holds cannot be trusted");
        }
        self.retire(courier);
        let Some(epoch) = self.formation.as_ref().map(|formation| formation.epoch) else {
            return Ok(None);
        };
        let (store, clock) = (&mut self.store, &mut self.clock);
        self.log.with_unapplied(|entries| {
            for entry in entries.filter(|entry| !entry.data.is_empty()) {
                if entry.entry_type() != EntryType::EntryNormal {
                    continue;
                }
                let Ok(reader) = EntryReader::new(&entry.data) else {
                    return Err("an entry of its log cannot be read");
                };
                clock.follow(reader.stamp(), now);
                upkeep::begin_entry(store, reader.opening(), reader.len());
                for (ordinal, command) in reader.commands().enumerate() {
                    let version = Version::new(epoch, Index(entry.index), ordinal);
                    store.apply(version, &command, Answer::Unwanted);
                }
            }
            Ok(())
        })?;
        let empty = Box::new(Store::new(settings));
        Ok(Some((std::mem::replace(&mut self.store, empty), self.clock)))
    }

    /// The bytes of a snapshot of the store, as a whole.
    pub fn whole_snapshot(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.store.is_snapshotting() {
            self.store.abandon_snapshot();
        }
        if self.store.begin_snapshot() {
            while self.store.snapshot_chunk(&mut bytes, usize::MAX) == SnapshotProgress::More {}
        }
        bytes
    }
}
