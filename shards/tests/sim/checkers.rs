//! What must hold at every moment, whatever the faults.
//!
//! - A shard has at most one leader per term.
//! - Replicas of a shard at the same applied index have the same digest, keys and bytes.
//! - The applied index of a life never goes back, and never exceeds the commit index.
//! - No replica stops for good.
//! - A shard holds no more bytes than it may.
//!
//! What clients see is checked in `workload.rs`.

use std::collections::{BTreeMap, BTreeSet};

use shards::contract::{Event, Role};
use shards::engine::Core;
use shards::ids::{Address, Index, NodeId, ShardId, Term};

/// A replica's state at an applied index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    digest: u64,
    keys: u64,
    bytes: u64,
}

/// All checkers of the engine's inside.
#[derive(Debug, Default)]
pub struct Checkers {
    leaders: BTreeMap<(ShardId, Term), (Address, u64)>,
    prints: BTreeMap<(ShardId, Index), (Print, Address)>,
    applied: BTreeMap<(ShardId, Address), Index>,
    violation: Option<String>,
    /// Offices taken.
    pub elections: u64,
    /// Snapshots restored.
    pub restores: u64,
    /// Newcomers that became voters.
    pub promotions: u64,
    /// Cores whose log cannot be written any more, and which may stop.
    pub failed_disks: BTreeSet<Address>,
    /// Those of them that have been told: they must say nothing any more.
    pub silent: BTreeSet<Address>,
}

impl Checkers {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets leaders and states: a shard that is formed anew starts from its first term again.
    pub fn forget(&mut self) {
        self.leaders.clear();
        self.prints.clear();
        self.applied.clear();
    }

    /// A life of `node` begins: what it applies again was applied before.
    pub fn boot(&mut self, node: NodeId) {
        self.applied.retain(|(_, at), _| at.node != node);
        self.failed_disks.retain(|at| at.node != node);
        self.silent.retain(|at| at.node != node);
    }

    /// Notes a violation; the first one counts.
    pub fn violation(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    /// The violation, if there was one.
    pub fn verdict(&self) -> Result<(), String> {
        match &self.violation {
            Some(text) => Err(text.clone()),
            None => Ok(()),
        }
    }

    /// Takes an event of the core at `at` in its life `life`.
    pub fn event(&mut self, at: Address, life: u64, event: &Event, core: Option<&Core>) {
        match event {
            Event::BecameLeader(shard, term) => {
                self.elections += 1;
                let leader = *self.leaders.entry((*shard, *term)).or_insert((at, life));
                // The only voter of its shard leads before its log says so: it asks nobody, and
                // nobody hears of what it does before that is durable.
                let status = core.and_then(|core| core.status(*shard));
                let is_alone = status.is_some_and(|status| status.replicas.len() == 1);
                let is_again = is_alone && leader.0.node == at.node;
                if leader != (at, life) && !is_again {
                    self.violation(format!(
                        "shard {shard} has two leaders in term {term}: {leader:?} and {at}"
                    ));
                }
            }
            Event::ReplicaStopped(..) if self.failed_disks.contains(&at) => {}
            Event::ReplicaStopped(shard, reason) => {
                self.violation(format!("{at} stopped shard {shard}: {reason}"));
            }
            Event::SnapshotRestored(..) => self.restores += 1,
            Event::Promoted(..) => self.promotions += 1,
            Event::Joining(shard) => {
                self.applied.remove(&(*shard, at));
            }
            Event::Formed(shard) => {
                self.applied.remove(&(*shard, at));
            }
            Event::LostLeadership(..) | Event::LeaderChanged(..) => {}
        }
    }

    /// Looks at all replicas of a core after a turn.
    pub fn observe(&mut self, at: Address, core: &Core, shards: u16) {
        for shard in (0..shards).map(ShardId) {
            let Some(status) = core.status(shard) else { continue };
            if status.applied == Index(0) {
                continue;
            }
            if status.applied > status.commit {
                self.violation(format!("{at} has applied more than is committed: {status:?}"));
            }
            let last = self.applied.insert((shard, at), status.applied);
            if last == Some(status.applied) {
                continue;
            }
            if last > Some(status.applied) {
                self.violation(format!("{at} went back from {last:?}: {status:?}"));
            }
            if status.bytes > status.bytes_max {
                self.violation(format!("{at} holds too many bytes: {status:?}"));
            }
            if status.role == Role::Outside {
                continue;
            }
            let Some(store) = core.store(shard) else { continue };
            let print = Print { digest: store.digest(), keys: store.keys(), bytes: store.bytes() };
            let (known, who) = *self.prints.entry((shard, status.applied)).or_insert((print, at));
            if known != print {
                self.violation(format!(
                    "replicas of shard {shard} differ at {}: {who} {known:?}, {at} {print:?}",
                    status.applied
                ));
            }
        }
    }
}
