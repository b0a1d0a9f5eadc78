//! What others may see of a replica: its role, its members, and the bytes of a snapshot.

use raft::StateRole;

use super::Replica;
use crate::contract::{ReplicaStatus, Role};
use crate::engine::held::Held;
use crate::ids::{Formation, Index, Nanos, ReplicaId, Term};
use crate::raft_log::RaftLog;
use crate::reader::Reader;
use crate::store::{SnapshotProgress, Store};
use crate::wal::CheckpointHead;

/// Members of a shard that a snapshot may list.
const MEMBERS_MAX: u64 = 16;
/// Bytes of the longest opening.
const OPENING_BYTES_MAX: usize = 16 + 8 * MEMBERS_MAX as usize;

impl Replica {
    /// What a checkpoint at the applied index says beside the store; `None` for a replica that was
    /// not taken in.
    pub fn checkpoint_head(&self) -> Option<CheckpointHead> {
        Some(CheckpointHead {
            id: self.me,
            formation: self.formation.clone()?,
            applied: self.applied,
            conf_state: self.log.conf_state(),
            hard_state: self.log.hard_state(),
        })
    }

    /// Begins a snapshot at the applied index for another replica; returns what goes before the
    /// store. `None` while there is another snapshot under way, or nothing sound to show.
    pub fn begin_transfer(&mut self) -> Option<Vec<u8>> {
        let formation = self.formation.as_ref().filter(|_| !self.is_quarantined())?;
        let mut opening = Vec::new();
        opening.extend_from_slice(&formation.epoch.to_le_bytes());
        opening.extend_from_slice(&(formation.members.len() as u64).to_le_bytes());
        for member in &formation.members {
            opening.extend_from_slice(&member.0.to_le_bytes());
        }
        self.store.begin_snapshot().then_some(opening)
    }

    /// Begins a snapshot at the applied index for the log; returns what goes with it.
    pub fn begin_checkpoint(&mut self) -> Option<CheckpointHead> {
        let head = self.checkpoint_head().filter(|_| !self.is_quarantined())?;
        self.store.begin_snapshot().then_some(head)
    }

    /// Appends the next piece of the snapshot under way.
    pub fn snapshot_chunk(&mut self, out: &mut Vec<u8>, bytes_max: usize) -> SnapshotProgress {
        self.store.snapshot_chunk(out, bytes_max)
    }

    /// Gives up the snapshot under way.
    pub fn abandon_snapshot(&mut self) {
        self.store.abandon_snapshot();
    }

    /// Whether a snapshot is under way.
    pub fn is_snapshotting(&self) -> bool {
        self.store.is_snapshotting()
    }

    /// Visits the entries behind the applied index.
    pub fn with_unapplied<T>(
        &self,
        visit: impl FnOnce(&mut dyn Iterator<Item = &raft::eraftpb::Entry>) -> T,
    ) -> T {
        self.log.with_unapplied(visit)
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

    /// Adds what is under way here.
    pub fn add_held(&self, held: &mut Held) {
        held.gathered_bytes += self.gathered_bytes + self.reads.gathered_bytes();
        held.proposed_bytes += self.proposed_bytes;
        held.undecided += self.doubtful.len() + self.proposed.len() + self.reads.len();
        held.rounds += self.raw.raft.read_only.pending_read_index.len();
        held.committed_bytes += self.committed_bytes;
        held.aside_bytes += self.log.aside_bytes();
        held.log_bytes += self.log.bytes();
    }

    /// Term and hash of the entry at `index`, if the log still has it.
    pub fn entry(&self, index: Index) -> Option<(Term, u64)> {
        self.log.print_at(index)
    }

    /// Its log.
    pub fn log(&self) -> &RaftLog {
        &self.log
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
                health: self.health_of(id),
            })
            .collect();
        members.sort_by_key(|member| member.node);
        members
    }
}

/// What goes before the store in a snapshot for another replica, as it arrives.
#[derive(Debug, Default)]
pub struct SnapshotOpening {
    bytes: Vec<u8>,
    formation: Option<Formation>,
}

impl SnapshotOpening {
    /// Takes the next bytes; returns those that are not part of it any more. `None` if they make no
    /// sense.
    pub fn feed<'b>(&mut self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        if self.formation.is_some() {
            return Some(bytes);
        }
        let known = self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(OPENING_BYTES_MAX)]);
        let mut reader = Reader(&self.bytes);
        let (Some(epoch), Some(count)) = (reader.u64(), reader.u64()) else { return Some(&[]) };
        if count == 0 || count > MEMBERS_MAX {
            return None;
        }
        let members = (0..count).map(|_| reader.u64().map(ReplicaId)).collect::<Option<Vec<_>>>();
        let Some(members) = members else { return Some(&[]) };
        self.formation = Some(Formation { epoch, members });
        let opening_bytes = 16 + 8 * count as usize;
        bytes.get(opening_bytes - known..)
    }

    /// The formation, once the opening is whole.
    pub fn finish(self) -> Option<Formation> {
        self.formation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_may_arrive_split_anywhere() {
        let formation = Formation { epoch: 7, members: vec![ReplicaId(3), ReplicaId(9)] };
        let mut whole = Vec::new();
        for word in [7_u64, 2, 3, 9] {
            whole.extend_from_slice(&word.to_le_bytes());
        }
        whole.extend_from_slice(b"the store");
        for first in 0..whole.len() {
            for second in first..whole.len() {
                let mut opening = SnapshotOpening::default();
                let pieces = [&whole[..first], &whole[first..second], &whole[second..]];
                let rest: Vec<_> =
                    pieces.iter().map(|piece| opening.feed(piece).expect("sense")).collect();
                assert_eq!(rest.concat(), b"the store", "split at {first} and {second}");
                assert_eq!(opening.finish().as_ref(), Some(&formation));
            }
        }
    }

    #[test]
    fn an_opening_that_announces_too_many_members_is_refused() {
        let mut opening = SnapshotOpening::default();
        assert_eq!(opening.feed(&[255; 16]), None);
    }
}
