//! What must hold at every moment, whatever the faults.
//!
//! - A shard has at most one leader per term.
//! - Logs match: what is applied at an index is the same entry of the same term on every replica,
//!   in every life. What was acknowledged once is therefore at its index for ever; and at the end
//!   every replica has applied as much.
//! - Replicas of a shard at the same applied index have the same digest, keys and bytes.
//! - The applied index of a life never goes back, and never exceeds the commit index.
//! - No replica stops for good.
//! - A shard holds no more bytes than it may, and a core holds no more of what is under way than
//!   its clients can have asked for.
//! - A core whose log cannot be written says nothing.
//! - Only replicas whose memory was damaged are taken out of service, and of each shard one at a
//!   time is rebuilt. What damaged ones hold agrees with nobody.
//!
//! What clients see is checked in `workload.rs`.

use std::collections::{BTreeMap, BTreeSet};

use shards::contract::{Event, Role, ShardStatus};
use shards::engine::{Core, Held};
use shards::ids::{Address, Index, NodeId, ShardId, Term};

/// Bytes that the clients of a seed together can have asked for, somewhat generously.
const ASKED_BYTES_MAX: usize = 4 << 20;
/// Bytes of the tails of a core's logs: some mebibytes per shard before they are cut.
const LOG_BYTES_MAX: usize = 64 << 20;
/// Bytes of records that wait for the disk.
const UNWRITTEN_BYTES_MAX: usize = 8 << 20;
/// Rounds of reads that raft-rs keeps: one is under way per shard, and its repetitions.
const ROUNDS_MAX: usize = 128;

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
    entries: BTreeMap<(ShardId, Index), ((Term, u64), Address)>,
    applied: BTreeMap<(ShardId, Address), Index>,
    /// The highest limit that each shard has had.
    limits: BTreeMap<ShardId, u64>,
    /// The last index with an acknowledged write.
    acknowledged: BTreeMap<ShardId, Index>,
    /// The epochs with which the operator let shards go on.
    recovered: BTreeMap<ShardId, u64>,
    violation: Option<String>,
    /// The nodes with a vote in each shard, by the word of the latest leader.
    voters: BTreeMap<ShardId, (Term, BTreeSet<NodeId>)>,
    /// Replicas whose memory was damaged, until they are given up or restored.
    pub damaged: BTreeSet<(ShardId, Address)>,
    /// Replicas that may be on their way out because they were damaged, whatever became of them
    /// since, and until when.
    pub leaving: BTreeMap<(ShardId, NodeId), u64>,
    /// Replicas that were given up and are not voters again.
    rebuilding: BTreeSet<(ShardId, Address)>,
    /// Replicas taken out of service, and given up, and how often replicas were found to differ.
    pub quarantined: u64,
    /// See `quarantined`.
    pub given_up: u64,
    /// See `quarantined`.
    pub differences: u64,
    /// Bytes that clients can have asked for.
    pub asked_bytes_max: usize,
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
        Checkers { asked_bytes_max: ASKED_BYTES_MAX, ..Self::default() }
    }

    /// Forgets leaders and states: a shard that is formed anew starts from its first term again.
    pub fn forget(&mut self) {
        self.leaders.clear();
        self.voters.clear();
        self.prints.clear();
        self.entries.clear();
        self.acknowledged.clear();
        self.applied.clear();
    }

    /// A life of `node` begins: what it applies again was applied before.
    pub fn boot(&mut self, node: NodeId) {
        self.applied.retain(|(_, at), _| at.node != node);
        self.failed_disks.retain(|at| at.node != node);
        self.damaged.retain(|(_, at)| at.node != node);
        self.rebuilding.retain(|(_, at)| at.node != node);
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
            Event::SnapshotRestored(shard, _) => {
                self.restores += 1;
                self.damaged.remove(&(*shard, at));
            }
            Event::Promoted(shard) => {
                self.promotions += 1;
                self.rebuilding.remove(&(*shard, at));
                self.leaving.remove(&(*shard, at.node));
            }
            Event::Joining(shard) => {
                self.applied.remove(&(*shard, at));
            }
            Event::Quarantined(shard, finding) => {
                self.quarantined += 1;
                if !self.damaged.contains(&(*shard, at)) {
                    self.violation(format!("{at} mistrusts its sound shard {shard}: {finding}"));
                }
            }
            Event::GivenUp(shard) => {
                self.given_up += 1;
                self.applied.remove(&(*shard, at));
                self.damaged.remove(&(*shard, at));
                let is_another =
                    |(known, other): &&(ShardId, Address)| known == shard && *other != at;
                if let Some((_, other)) = self.rebuilding.iter().find(is_another) {
                    let text = format!("{at} and {other} rebuild shard {shard} at the same time");
                    self.violation(text);
                }
                self.rebuilding.insert((*shard, at));
            }
            Event::Rebuilt(..) => {}
            Event::DigestsDiffer(shard, difference) => {
                self.differences += 1;
                if !self.damaged.iter().any(|(damaged, _)| damaged == shard) {
                    let text = format!("{at} sees shard {shard} differ: {difference:?}");
                    self.violation(text);
                }
            }
            Event::Formed(shard) => {
                self.applied.remove(&(*shard, at));
            }
            // Indices begin anew, and what was acknowledged may be lost: the operator said so.
            Event::Recovered(shard, epoch) => {
                self.forget();
                self.recovered.insert(*shard, *epoch);
            }
            Event::RecoverRefused(..) => {}
            Event::LostLeadership(..) | Event::LeaderChanged(..) => {}
        }
    }

    /// Looks at all replicas of a core after a turn.
    pub fn observe(&mut self, at: Address, core: &Core, shards: u16) {
        for shard in (0..shards).map(ShardId) {
            let Some(status) = core.status(shard) else { continue };
            // What is left of a formation that the operator has ended agrees with nobody.
            let is_over =
                self.recovered.get(&shard).is_some_and(|&epoch| core.epoch(shard) != Some(epoch));
            if status.applied == Index(0) || is_over {
                continue;
            }
            self.note_voters(&status);
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
            for index in
                (last.map_or(status.applied.0, |last| last.0 + 1)..=status.applied.0).map(Index)
            {
                self.match_entry(at, core, shard, index);
            }
            // After it was lowered a limit is reached in steps; at rest it must hold.
            let most = self.limits.entry(shard).or_default();
            *most = status.bytes_max.max(*most);
            if status.bytes > *most {
                self.violation(format!("{at} holds too many bytes: {status:?}"));
            }
            if status.role == Role::Outside || self.damaged.contains(&(shard, at)) {
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

    fn note_voters(&mut self, status: &ShardStatus) {
        let term = status.leader.term;
        let is_news = self.voters.get(&status.shard).is_none_or(|(known, _)| *known <= term);
        if is_news && !status.replicas.is_empty() {
            let voters = status.replicas.iter().filter(|replica| replica.role != Role::Learner);
            let nodes = voters.map(|replica| replica.node).collect();
            self.voters.insert(status.shard, (term, nodes));
        }
    }

    /// Whether `node` has a vote in `shard`, as far as anybody who led it knew.
    pub fn votes(&self, shard: ShardId, node: NodeId) -> bool {
        self.voters.get(&shard).is_none_or(|(_, nodes)| nodes.contains(&node))
    }

    /// Compares what is applied at `index` with what others have applied there.
    fn match_entry(&mut self, at: Address, core: &Core, shard: ShardId, index: Index) {
        let Some(entry) = core.entry(shard, index) else { return };
        let (known, who) = *self.entries.entry((shard, index)).or_insert((entry, at));
        if known != entry {
            self.violation(format!(
                "shard {shard} has two entries at {index}: {known:?} on {who}, {entry:?} on {at}"
            ));
        }
    }

    /// Looks at what a core holds.
    pub fn weigh(&mut self, at: Address, held: Held) {
        let asked = held.routed_bytes + held.gathered_bytes + held.proposed_bytes;
        let is_bounded = asked <= self.asked_bytes_max
            && held.log_bytes <= LOG_BYTES_MAX
            && held.unwritten_bytes <= UNWRITTEN_BYTES_MAX
            && held.rounds <= ROUNDS_MAX;
        if !is_bounded {
            self.violation(format!("{at} holds too much: {held:?}"));
        }
    }

    /// Notes that a write at `index` was acknowledged.
    pub fn acknowledge(&mut self, shard: ShardId, index: Index) {
        let last = self.acknowledged.entry(shard).or_insert(index);
        *last = index.max(*last);
    }

    /// The last index of `shard` with an acknowledged write.
    pub fn acknowledged(&self, shard: ShardId) -> Index {
        self.acknowledged.get(&shard).copied().unwrap_or(Index(0))
    }
}
