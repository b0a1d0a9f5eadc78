//! What a core tells of its replicas: to operators, and to the checkers of the simulator.

use super::Core;
use super::homes::Member;
use crate::contract::{Role, ShardStatus};
use crate::ids::{Index, ReplicaId, ShardId};

impl Core {
    /// The state of the replica of `shard`, if it lives on this core.
    pub fn status(&self, shard: ShardId) -> Option<ShardStatus> {
        let home = self.homes.get(usize::from(shard.0))?.as_ref()?;
        let leader = self.router.view(shard);
        let mut status = ShardStatus {
            shard,
            role: Role::Outside,
            health: home.health(),
            leader,
            commit: Index(0),
            applied: Index(0),
            keys: 0,
            bytes: 0,
            bytes_max: self.config.shard_bytes_max,
            eviction: self.config.eviction,
            digest: 0,
            evicted: 0,
            expired: 0,
            operations: 0,
            hits: 0,
            misses: 0,
            touches_sent: 0,
            touches_applied: 0,
            lease: None,
            replicas: Vec::new(),
        };
        if let Member::Replica(replica) = &home.member {
            let store = replica.store();
            status.role = replica.role();
            (status.commit, status.applied) = replica.indices();
            status.keys = store.keys();
            status.bytes = store.bytes();
            status.bytes_max = store.bytes_max();
            status.eviction = store.eviction();
            status.digest = store.digest();
            status.evicted = store.evicted();
            status.expired = store.expired();
            status.operations = replica.operations();
            status.hits = store.hits();
            status.misses = store.misses();
            status.touches_sent = store.touches_taken();
            status.touches_applied = store.touched();
            status.lease = replica.lease_left(self.clock);
            status.replicas = replica.members();
        }
        Some(status)
    }

    /// The Raft id of the replica of `shard` on this core: for checkers.
    pub fn replica_id(&self, shard: ShardId) -> Option<ReplicaId> {
        self.homes.get(usize::from(shard.0))?.as_ref().map(|home| home.id)
    }

    /// The store of `shard`'s replica on this core: for checkers.
    pub fn store(&self, shard: ShardId) -> Option<&crate::store::Store> {
        match &self.homes.get(usize::from(shard.0))?.as_ref()?.member {
            Member::Replica(replica) => Some(replica.store()),
            Member::Outsider(_) => None,
        }
    }
}
