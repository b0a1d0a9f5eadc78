//! `/readyz`: whether clients should be sent to this node.
//!
//! A node is ready when every core answers and can write its log, every shard of the cluster has a
//! leader as far as the node knows, and its own replicas are members of their groups, have caught
//! up, and are neither damaged nor being rebuilt. A node that is about to stop is not ready, so
//! that load balancers turn away before it goes.

use shards::contract::{Health, Role, ShardStatus};
use shards::ids::ShardId;

use super::collector::{Collector, NodeReport};
use super::messages::CoreReport;
use super::view::ReadinessView;

/// How many committed entries a replica may have yet to apply and still count as caught up: less
/// than what a busy leader sends in the time between two looks.
const LAG_MAX: u64 = 1_024;

/// Reasons that are listed; the first few tell as much as hundreds.
const REASONS_MAX: usize = 10;

/// Judges a report. `draining` tells that the node is about to stop.
pub fn judge(collector: &Collector, report: &NodeReport, draining: bool) -> ReadinessView {
    let mut reasons = Vec::new();
    if draining {
        reasons.push("the node is about to stop".to_owned());
    }
    for (core, answer) in report.cores.iter().enumerate() {
        if answer.is_none() {
            reasons.push(format!("core {core} does not answer"));
        }
    }
    for CoreReport { core, counters, .. } in report.cores.iter().flatten() {
        if counters.log.failed > 0 {
            reasons.push(format!("the log of core {core} could not be written"));
        } else if counters.log.disk_full > 0 {
            reasons.push(format!("the disk has no room for the log of core {core}"));
        }
    }
    let placement = collector.placement();
    for shard in (0..placement.shards()).map(ShardId) {
        if report.leader(shard).leader.is_none() {
            reasons.push(format!("shard {shard} has no known leader"));
        }
    }
    let mut present = vec![false; usize::from(placement.shards())];
    for (_, status) in report.replicas() {
        if let Some(present) = present.get_mut(usize::from(status.shard.0)) {
            *present = true;
        }
        reasons.extend(replica_reason(status));
    }
    for shard in (0..placement.shards()).map(ShardId) {
        let wanted = placement.rank(shard, collector.config().node).is_some();
        if wanted && !present[usize::from(shard.0)] {
            reasons.push(format!("the replica of shard {shard} has not started"));
        }
    }
    let ready = reasons.is_empty();
    reasons.truncate(REASONS_MAX);
    ReadinessView { ready, reasons }
}

fn replica_reason(status: &ShardStatus) -> Option<String> {
    let shard = status.shard;
    let lag = status.commit.0.saturating_sub(status.applied.0);
    match status.health {
        Health::Sound => {}
        Health::Quarantined => {
            return Some(format!("the replica of shard {shard} is damaged, and out of service"));
        }
        Health::Rebuilding => {
            return Some(format!("the replica of shard {shard} was damaged, and is being rebuilt"));
        }
    }
    match status.role {
        Role::Leader | Role::Follower if lag <= LAG_MAX => None,
        Role::Leader | Role::Follower => Some(format!("shard {shard} lacks {lag} entries")),
        Role::Candidate => Some(format!("shard {shard} seeks election")),
        Role::Learner => Some(format!("shard {shard} is not a voter yet")),
        Role::Outside => Some(format!("shard {shard} has not been taken into its group yet")),
        Role::Stopped => Some(format!("the replica of shard {shard} has stopped for good")),
    }
}
