//! The engine of one core. Under construction: the interface stands, the body follows.

use crate::contract::{CoreConfig, Input, LeaderView, Now, Outputs, ShardStatus};
use crate::ids::ShardId;

/// All replicas that live on one core, and the routing of that core's requests.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    leaders: Vec<LeaderView>,
}

impl Core {
    /// An engine without memory of an earlier life.
    pub fn new(config: CoreConfig) -> Self {
        let leaders = vec![LeaderView::default(); usize::from(config.placement.shards())];
        Core { config, leaders }
    }

    /// Takes one input, and appends what follows from it to `outputs`.
    pub fn step(&mut self, _now: Now, _input: Input<'_>, _outputs: &mut Outputs) {}

    /// Who leads each shard as far as this core knows, by shard id.
    pub fn leaders(&self) -> &[LeaderView] {
        &self.leaders
    }

    /// The cores that `node` is known to have, and this node's own number before it is known.
    pub fn cores_of(&self, _node: crate::ids::NodeId) -> u16 {
        self.config.cores
    }

    /// The state of the replica of `shard`, if it lives on this core.
    pub fn status(&self, _shard: ShardId) -> Option<ShardStatus> {
        None
    }
}
