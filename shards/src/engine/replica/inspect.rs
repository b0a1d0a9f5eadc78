//! What others may see of a replica: its role, its members, and the bytes of a snapshot.

use raft::StateRole;

use super::Replica;
use crate::contract::{ReplicaStatus, Role};
use crate::engine::frames::Formation;
use crate::ids::{Index, Nanos, ReplicaId, Term};
use crate::store::{Store, StoreSettings};

impl Replica {
    /// The bytes of a snapshot at the applied index.
    pub fn snapshot_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(formation) = &self.formation {
            bytes.extend_from_slice(&formation.epoch.to_le_bytes());
            bytes.extend_from_slice(&(formation.members.len() as u64).to_le_bytes());
            for member in &formation.members {
                bytes.extend_from_slice(&member.0.to_le_bytes());
            }
        }
        self.store.snapshot(&mut bytes);
        bytes
    }

    /// Its part in the group.
    pub fn role(&self) -> Role {
        if self.stopped.is_some() {
            return Role::Stopped;
        }
        let conf = self.log.conf_state();
        if conf.learners.contains(&self.me.0) {
            return Role::Learner;
        }
        if !conf.voters.contains(&self.me.0) {
            return Role::Outside;
        }
        match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        }
    }

    /// The store, for inspection.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Commit and applied index.
    pub fn indices(&self) -> (Index, Index) {
        (Index(self.raw.raft.raft_log.committed), self.applied.0)
    }

    /// Commands taken so far.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// What is left of its lease at `now`; `None` where it holds none.
    pub fn lease_left(&self, now: Nanos) -> Option<Nanos> {
        let left = self.lease.left(Term(self.raw.raft.term), now);
        (self.leads() && left > 0).then_some(Nanos(left))
    }

    /// All members as the leader sees them; empty elsewhere.
    pub fn members(&self) -> Vec<ReplicaStatus> {
        if !self.leads() {
            return Vec::new();
        }
        let last = self.raw.raft.raft_log.last_index();
        let conf = self.log.conf_state();
        let mut members: Vec<_> = self
            .raw
            .raft
            .prs()
            .iter()
            .map(|(&id, progress)| ReplicaStatus {
                node: ReplicaId(id).node(),
                role: match id {
                    id if id == self.me.0 => Role::Leader,
                    id if conf.learners.contains(&id) => Role::Learner,
                    _ => Role::Follower,
                },
                matched: Index(progress.matched),
                lag: last.saturating_sub(progress.matched),
            })
            .collect();
        members.sort_by_key(|member| member.node);
        members
    }
}

/// Reads what [`Replica::snapshot_bytes`] wrote.
pub(super) fn decode_snapshot(bytes: &[u8], settings: StoreSettings) -> Option<(Formation, Store)> {
    let (epoch, rest) = bytes.split_first_chunk::<8>()?;
    let (count, mut rest) = rest.split_first_chunk::<8>()?;
    let count = u64::from_le_bytes(*count);
    if count == 0 || count > 16 {
        return None;
    }
    let mut members = Vec::new();
    for _ in 0..count {
        let (member, after) = rest.split_first_chunk::<8>()?;
        members.push(ReplicaId(u64::from_le_bytes(*member)));
        rest = after;
    }
    let store = Store::restore(rest, settings).ok()?;
    Some((Formation { epoch: u64::from_le_bytes(*epoch), members }, store))
}
