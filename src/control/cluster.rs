//! What a node says about all shards: its own knowledge, completed by asking the leaders' nodes.
//!
//! One hop and no more: the nodes asked are asked for what they know themselves (`local=true`). A
//! node that does not answer within [`PEER_DEADLINE`] leaves its shards as this node knows them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use shards::ids::{NodeId, ShardId};
use tokio::task::JoinSet;

use super::collector::Collector;
use super::fetch;
use super::view::{ReplicaState, ReplicasView, RoleView, ShardView, ShardsView};

/// How long another node may take to answer.
pub const PEER_DEADLINE: Duration = Duration::from_millis(500);

/// Every shard, in full where its leader's node can be reached.
pub async fn all_shards(collector: &Collector) -> Vec<ShardView> {
    let report = collector.report().await;
    let mut shards = collector.local_shards(&report);
    let nodes = nodes_that_know_more(collector, &shards);
    let answers = ask_nodes::<ShardsView>(collector, nodes, "/v1/shards?local=true").await;
    for answer in answers.into_values() {
        for theirs in answer.shards {
            if let Some(ours) = shards.get_mut(usize::from(theirs.shard))
                && knows_better(&theirs, ours)
            {
                *ours = theirs;
            }
        }
    }
    shards
}

/// What every replica holds, by shard and node, and who did not say.
pub async fn all_replicas(collector: &Collector) -> ReplicasView {
    let report = collector.report().await;
    let mut replicas = collector.local_replicas(&report);
    let others = other_nodes(collector);
    let answers =
        ask_nodes::<ReplicasView>(collector, others.clone(), "/v1/replicas?local=true").await;
    let unanswered = others.iter().filter(|node| !answers.contains_key(node));
    let unanswered = unanswered.map(|node| node.0).collect();
    for (node, answer) in answers {
        replicas.extend(answer.replicas.into_iter().filter(|replica| replica.node == node.0));
    }
    replicas.sort_by_key(|replica: &ReplicaState| (replica.shard, replica.node));
    ReplicasView { replicas, unanswered }
}

fn other_nodes(collector: &Collector) -> BTreeSet<NodeId> {
    let own = collector.config().node;
    collector.placement().nodes().iter().copied().filter(|node| *node != own).collect()
}

/// The leaders' nodes; and where no leader is known, all that may have one.
fn nodes_that_know_more(collector: &Collector, shards: &[ShardView]) -> BTreeSet<NodeId> {
    let mut nodes = BTreeSet::new();
    for view in shards {
        match &view.leader {
            Some(leader) => {
                nodes.insert(NodeId(leader.node));
            }
            None => nodes.extend(collector.placement().replicas(ShardId(view.shard))),
        }
    }
    nodes.remove(&collector.config().node);
    nodes
}

/// Whether another node's view of a shard takes the place of ours: it is newer, or as new and
/// that of the leader itself.
fn knows_better(theirs: &ShardView, ours: &ShardView) -> bool {
    let rank = |view: &ShardView| {
        let leader = view.leader.as_ref().map(|leader| leader.node);
        let told_by_leader = view
            .replicas
            .iter()
            .any(|replica| Some(replica.node) == leader && replica.role == RoleView::Leader);
        (view.term, told_by_leader, leader.is_some())
    };
    rank(theirs) > rank(ours)
}

/// Asks several nodes at once, and gives the answers of those that gave one.
async fn ask_nodes<T: DeserializeOwned + Send + 'static>(
    collector: &Collector,
    nodes: BTreeSet<NodeId>,
    path: &'static str,
) -> BTreeMap<NodeId, T> {
    let mut asked = JoinSet::new();
    for node in nodes {
        if let Some(address) = collector.config().http_address(node) {
            asked.spawn(async move { (node, ask_node(address, path).await) });
        }
    }
    let mut answers = BTreeMap::new();
    while let Some(finished) = asked.join_next().await {
        if let Ok((node, Some(answer))) = finished {
            answers.insert(node, answer);
        }
    }
    answers
}

async fn ask_node<T: DeserializeOwned>(address: SocketAddr, path: &str) -> Option<T> {
    match fetch::get(address, path, PEER_DEADLINE).await {
        Ok(answer) if answer.status.is_success() => serde_json::from_slice(&answer.body)
            .inspect_err(|error| tracing::warn!(%address, %error, "a node's answer is no answer"))
            .ok(),
        Ok(answer) => {
            tracing::debug!(%address, status = %answer.status, "a node could not say");
            None
        }
        Err(error) => {
            tracing::debug!(%error, "a node did not answer");
            None
        }
    }
}
