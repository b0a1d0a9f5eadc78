//! What a core holds in memory beside its stores, and what its replicas have applied: for the
//! checkers of the simulator. All of it is bounded, and nearly all of it is nothing at rest.

use super::{Core, Member};
use crate::ids::{Index, ShardId, Term};

/// Bytes and numbers of what is under way on a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Bytes of requests that wait for leaders or for other cores.
    pub routed_bytes: usize,
    /// Bytes of commands that wait to be proposed or confirmed.
    pub gathered_bytes: usize,
    /// Bytes of entries that are proposed and not applied.
    pub proposed_bytes: usize,
    /// Bytes of entries that are committed and not applied.
    pub committed_bytes: usize,
    /// Entries whose fate is not known, and batches of reads.
    pub undecided: usize,
    /// Rounds of reads that raft-rs keeps.
    pub rounds: usize,
    /// Bytes of entries that Raft is given and has not handed out to be appended.
    pub aside_bytes: usize,
    /// Bytes of the logs' tails in memory.
    pub log_bytes: usize,
    /// Bytes of records that wait to be written, and how many wait for them.
    pub unwritten_bytes: usize,
    /// See `unwritten_bytes`.
    pub unwritten: usize,
    /// Snapshots on their way from or to other replicas.
    pub transfers: usize,
}

impl Held {
    /// Without what stays where nothing is under way: tails of logs, and rounds that were given up.
    pub fn at_rest(self) -> Self {
        Held { log_bytes: 0, rounds: 0, ..self }
    }
}

impl Core {
    /// What is under way on this core.
    pub fn held(&self) -> Held {
        let mut held = Held {
            routed_bytes: self.router.held_bytes(),
            unwritten_bytes: self.journal.unwritten_bytes(),
            unwritten: self.journal.waiting(),
            transfers: self.transfers.len(),
            ..Held::default()
        };
        for home in self.homes.iter().flatten() {
            if let Member::Replica(replica) = &home.member {
                replica.add_held(&mut held);
            }
        }
        held
    }

    /// Term and hash of the entry at `index`, if the replica of `shard` on this core still has it.
    pub fn entry(&self, shard: ShardId, index: Index) -> Option<(Term, u64)> {
        match &self.homes.get(usize::from(shard.0))?.as_ref()?.member {
            Member::Replica(replica) => replica.entry(index),
            Member::Outsider(_) => None,
        }
    }
}
