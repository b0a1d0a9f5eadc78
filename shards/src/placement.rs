//! Which node and which core owns which shard: arithmetic that every node does alike.
//!
//! Shard `s` has its replicas on the nodes at positions `(s + k) mod N` of the member list and
//! prefers its leader on the first of them. On every node it lives on core `(s / N) mod C`, so
//! that leaders spread over nodes *and* over the cores of each node: `s mod C` would put all
//! leaders of a node on one core when N = C. Slots map to shards by contiguous ranges.
//!
//! Nothing here depends on what is up or down.

use crate::ids::{CoreIndex, NodeId, ShardId};

/// Number of hash slots, as in Redis Cluster.
pub const SLOTS: u16 = 16_384;
/// Replicas of a shard where the cluster has that many nodes.
pub const REPLICAS_MAX: usize = 3;

/// The fixed layout of a cluster: its members in order, and its number of shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    nodes: Vec<NodeId>,
    shards: u16,
    replicas_max: usize,
}

/// Why a layout is impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// There must be at least one node.
    #[error("a cluster needs at least one member")]
    NoMembers,
    /// A node is listed twice.
    #[error("node {0} is listed twice")]
    DuplicateNode(NodeId),
    /// Node ids start from 1 because Raft reserves the id zero.
    #[error("node ids start from 1")]
    NodeZero,
    /// The number of shards must lie between 1 and the number of slots.
    #[error("the number of shards must lie between 1 and {SLOTS}, not {0}")]
    Shards(u16),
}

impl Placement {
    /// Lays out `shards` shards over `nodes`; the order of `nodes` does not matter.
    pub fn new(nodes: Vec<NodeId>, shards: u16) -> Result<Self, PlacementError> {
        Self::with_replicas(nodes, shards, REPLICAS_MAX)
    }

    /// The same with groups of another size, at least one. Larger groups than a cluster has are
    /// for the simulator: some schedules that the engine must survive need five replicas.
    pub fn with_replicas(
        mut nodes: Vec<NodeId>,
        shards: u16,
        replicas_max: usize,
    ) -> Result<Self, PlacementError> {
        nodes.sort_unstable();
        if nodes.is_empty() {
            return Err(PlacementError::NoMembers);
        }
        if nodes[0] == NodeId(0) {
            return Err(PlacementError::NodeZero);
        }
        if let Some(pair) = nodes.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(PlacementError::DuplicateNode(pair[0]));
        }
        if shards == 0 || shards > SLOTS {
            return Err(PlacementError::Shards(shards));
        }
        Ok(Placement { nodes, shards, replicas_max: replicas_max.max(1) })
    }

    /// All members, in ascending order.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// Number of shards.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// Number of replicas of each shard.
    pub fn replication(&self) -> usize {
        self.nodes.len().min(self.replicas_max)
    }

    /// The nodes that hold `shard`, the preferred leader first.
    pub fn replicas(&self, shard: ShardId) -> impl Iterator<Item = NodeId> + '_ {
        let count = self.nodes.len();
        (0..self.replication()).map(move |k| self.nodes[(usize::from(shard.0) + k) % count])
    }

    /// The position of `node` among the replicas of `shard`: 0 for the preferred leader.
    pub fn rank(&self, shard: ShardId, node: NodeId) -> Option<usize> {
        self.replicas(shard).position(|replica| replica == node)
    }

    /// Replicas on the node that holds most: what a node's memory is divided by.
    pub fn replicas_per_node_max(&self) -> u64 {
        let held = |node: &NodeId| {
            (0..self.shards()).filter(|&shard| self.rank(ShardId(shard), *node).is_some()).count()
        };
        self.nodes().iter().map(held).max().unwrap_or(1).max(1) as u64
    }

    /// The core that is home to `shard` on any node that has `cores` cores.
    pub fn core(&self, shard: ShardId, cores: u16) -> CoreIndex {
        CoreIndex(shard.0 / self.nodes.len() as u16 % cores.max(1))
    }

    /// The shard that owns `slot`.
    ///
    /// # Panics
    /// If `slot` is not below [`SLOTS`].
    pub fn shard_of_slot(&self, slot: u16) -> ShardId {
        assert!(slot < SLOTS, "slot {slot} does not exist");
        ShardId((u32::from(slot) * u32::from(self.shards) / u32::from(SLOTS)) as u16)
    }

    /// The first and the last slot of `shard`.
    pub fn slots(&self, shard: ShardId) -> (u16, u16) {
        let first = |shard: u32| (shard * u32::from(SLOTS)).div_ceil(u32::from(self.shards)) as u16;
        (first(u32::from(shard.0)), first(u32::from(shard.0) + 1) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(nodes: u16, shards: u16) -> Placement {
        Placement::new((1..=nodes).map(NodeId).collect(), shards).expect("a valid layout")
    }

    #[test]
    fn preferred_leaders_spread_over_nodes_and_cores() {
        let placement = placement(3, 32);
        let mut per_core = std::collections::BTreeMap::new();
        for shard in (0..32).map(ShardId) {
            let node = placement.replicas(shard).next().expect("a preferred leader");
            *per_core.entry((node, placement.core(shard, 2))).or_insert(0) += 1;
        }
        assert_eq!(per_core.len(), 6);
        assert!(per_core.values().all(|&leaders| leaders == 5 || leaders == 6), "{per_core:?}");
    }

    #[test]
    fn slot_ranges_are_contiguous_and_cover_everything() {
        for shards in [1, 2, 3, 7, 32, 100, 1_024, 16_383, 16_384] {
            let placement = placement(3, shards);
            let mut next = 0;
            for shard in (0..shards).map(ShardId) {
                let (first, last) = placement.slots(shard);
                assert_eq!(first, next, "of {shards} shards, {shard}");
                assert!(last >= first);
                assert_eq!(placement.shard_of_slot(first), shard);
                assert_eq!(placement.shard_of_slot(last), shard);
                next = last + 1;
            }
            assert_eq!(next, SLOTS);
        }
    }

    #[test]
    fn impossible_layouts_are_refused() {
        assert_eq!(Placement::new(vec![], 1), Err(PlacementError::NoMembers));
        assert_eq!(Placement::new(vec![NodeId(0)], 1), Err(PlacementError::NodeZero));
        assert_eq!(
            Placement::new(vec![NodeId(2), NodeId(1), NodeId(2)], 1),
            Err(PlacementError::DuplicateNode(NodeId(2)))
        );
        assert_eq!(Placement::new(vec![NodeId(1)], 0), Err(PlacementError::Shards(0)));
        assert_eq!(Placement::new(vec![NodeId(1)], 16_385), Err(PlacementError::Shards(16_385)));
    }
}
