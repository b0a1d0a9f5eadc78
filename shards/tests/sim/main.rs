//! The engine in a simulated cluster: no threads, no clocks, one seed.

use std::collections::VecDeque;

use shards::command::{Command, Expiry, Operation, RequestBatch, SetCondition};
use shards::contract::{
    CoreConfig, DiskOperation, Durability, Event, Input, Now, OutFrame, Outputs, Role,
};
use shards::engine::Core;
use shards::ids::{Address, CoreIndex, Millis, Nanos, NodeId, ShardId};
use shards::placement::Placement;
use shards::reply::{Reply, Status, Token};

struct World {
    now: Now,
    cores: Vec<(Address, Core, Outputs)>,
    mail: VecDeque<(Address, OutFrame)>,
    replies: Vec<Reply>,
    events: Vec<(Address, Event)>,
}

impl World {
    fn new(nodes: u16, shards: u16) -> Self {
        let now = Now { monotonic: Nanos(1_000_000_000), wall: Millis(1_800_000_000_000) };
        let placement = Placement::new((1..=nodes).map(NodeId).collect(), shards).expect("layout");
        let cores = (1..=nodes)
            .map(|node| {
                let config = CoreConfig {
                    node: NodeId(node),
                    core: CoreIndex(0),
                    cores: 1,
                    placement: placement.clone(),
                    shard_bytes_max: 1 << 20,
                    value_bytes_max: 1 << 16,
                    durability: Durability::Memory,
                    tick: Nanos(50_000_000),
                    election_ticks: 6,
                    request_deadline: Nanos(2_000_000_000),
                    parked_bytes_max: 1 << 20,
                    seed: u64::from(node),
                };
                let address = Address { node: NodeId(node), core: CoreIndex(0) };
                (address, Core::new(config), Outputs::default())
            })
            .collect();
        let mut world =
            World { now, cores, mail: VecDeque::new(), replies: vec![], events: vec![] };
        for at in 0..world.cores.len() {
            for to in 1..=nodes {
                let to = Address { node: NodeId(to), core: CoreIndex(0) };
                if to != world.cores[at].0 {
                    world.step(at, Input::LinkUp { to, cores: 1 });
                }
            }
        }
        world
    }

    fn step(&mut self, at: usize, input: Input<'_>) {
        let (address, core, outputs) = &mut self.cores[at];
        core.step(self.now, input, outputs);
        core.step(self.now, Input::EndOfTurn, outputs);
        while !outputs.disk.is_empty() {
            for operation in std::mem::take(&mut outputs.disk) {
                let DiskOperation::Append { id, .. } = operation;
                core.step(self.now, Input::Disk { id, result: Ok(()) }, outputs);
            }
            core.step(self.now, Input::EndOfTurn, outputs);
        }
        for event in outputs.events.drain(..) {
            self.events.push((*address, event));
        }
        self.replies.append(&mut outputs.replies.headers);
        for frame in outputs.frames.drain(..) {
            self.mail.push_back((*address, frame));
        }
    }

    fn run(&mut self, millis: u64) {
        for _ in 0..millis {
            self.now.monotonic.0 += 1_000_000;
            self.now.wall.0 += 1;
            for at in 0..self.cores.len() {
                self.step(at, Input::EndOfTurn);
            }
            while let Some((from, frame)) = self.mail.pop_front() {
                let at = self.cores.iter().position(|(a, ..)| *a == frame.to).expect("a core");
                self.step(at, Input::Frame { from, bytes: &frame.bytes });
            }
        }
    }
}

#[test]
fn three_nodes_form_and_acknowledge_writes() {
    let mut world = World::new(3, 8);
    world.run(1_500);
    for shard in (0..8).map(ShardId) {
        let leaders = world
            .cores
            .iter()
            .filter(|(_, core, _)| core.status(shard).expect("here").role == Role::Leader);
        assert_eq!(leaders.count(), 1, "{:?}", world.events);
    }
    let mut batch = RequestBatch::default();
    for shard in 0..8 {
        let token = Token { connection: 1, sequence: u32::from(shard), part: 0 };
        let operation = Operation::Set {
            value: b"v",
            flags: 0,
            condition: SetCondition::Always,
            expiry: Expiry::Never,
            return_old: false,
        };
        batch.push(ShardId(shard), token, false, &Command { key: b"k", operation });
        let token = Token { connection: 1, sequence: 100 + u32::from(shard), part: 0 };
        batch.push(ShardId(shard), token, true, &Command { key: b"k", operation: Operation::Get });
    }
    world.step(0, Input::Requests(&batch));
    world.run(5);
    assert_eq!(world.replies.len(), 16, "{:?}", world.replies);
    assert!(world.replies.iter().all(|reply| reply.status == Status::Ok));
    world.run(100);
    for shard in (0..8).map(ShardId) {
        let digests: Vec<_> = world
            .cores
            .iter()
            .map(|(_, core, _)| core.status(shard).expect("here").digest)
            .collect();
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
    }
}
