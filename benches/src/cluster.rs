//! A cluster of engines in one process, without sockets, threads, clocks and files.
//!
//! What one engine puts out is the other's input, at once; disk operations succeed at once. Each
//! node has one core, and all requests go to the first, for shards that it leads: they come as
//! RESP, and the replies leave as RESP, so that a turn has the stages it has in the server, except
//! for the bookkeeping of connections.
//!
//! Time is a counter that the caller moves. What the engine does per time rather than per request
//! (ticks, heartbeats, scrubbing) happens only in as far as it moves.

use proto::resp::Version;
use proto::resp::encode;
use proto::resp::request::{Parsed, RequestParser};
use proto::slot::slot_of;
use shards::command::{Command, Expiry, Operation, RequestBatch, SetCondition};
use shards::contract::{
    CoreConfig, DiskOperation, Durability, Input, Now, Outputs, ReadMode, STUB_BYTES_MIN,
};
use shards::engine::Core;
use shards::ids::{Address, CoreIndex, Eviction, Millis, Nanos, NodeId, ShardId};
use shards::placement::Placement;
use shards::reply::{Status, Token};
use shards::wal::{LogIdentity, SEGMENT_BYTES};

use crate::allocations;

/// Shards of the cluster, as many as one has by default.
pub const SHARDS: u16 = 32;
/// Keys that the first node leads, and that are set before anything is measured.
pub const KEYS: usize = 100_000;
/// Bytes of a value.
pub const VALUE_BYTES: usize = 64;
/// A tick of the engines.
const TICK: Nanos = Nanos(50_000_000);
/// Commands in one turn while the keys are set.
const FILL_COMMANDS: usize = 256;

/// A key of 16 bytes.
pub type Key = [u8; 16];

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `GET key`.
    Get,
    /// `SET key value`, with a value of [`VALUE_BYTES`].
    Set,
}

impl Asked {
    /// Appends the request, as a client would send it.
    pub fn encode(self, key: &Key, out: &mut Vec<u8>) {
        match self {
            Asked::Get => encode::request(out, &[b"GET", key]),
            Asked::Set => encode::request(out, &[b"SET", key, &[b'v'; VALUE_BYTES]]),
        }
    }
}

/// How a cluster is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Number of nodes.
    pub nodes: u16,
    /// What an acknowledgement means.
    pub durability: Durability,
}

/// A node: its engine, and what waits for its next turn.
#[derive(Debug)]
struct Node {
    here: Address,
    placement: Placement,
    core: Core,
    outputs: Outputs,
    frames: Vec<(Address, Vec<u8>)>,
    written: Vec<u64>,
    parser: RequestParser,
    batch: RequestBatch,
    input: Vec<u8>,
    replies: Vec<u8>,
    replied: usize,
}

impl Node {
    fn new(shape: Shape, node: NodeId, placement: &Placement) -> Self {
        let here = Address { node, core: CoreIndex(0) };
        let core = Core::new(CoreConfig {
            node,
            core: here.core,
            cores: 1,
            placement: placement.clone(),
            shard_bytes_max: 64 << 20,
            eviction: Eviction::Lru,
            value_bytes_max: 1 << 20,
            durability: shape.durability,
            reads: ReadMode::Lease,
            log: LogIdentity { cluster: 1, node, layout: 0, core: here.core },
            segment_bytes: SEGMENT_BYTES,
            touch_interval: Millis(5_000),
            stub_bytes_min: STUB_BYTES_MIN,
            scrub_bytes_per_second: 16 << 20,
            tick: TICK,
            election_ticks: 6,
            request_deadline: Nanos(2_000_000_000),
            parked_bytes_max: 64 << 20,
            seed: u64::from(node.0),
        });
        Node {
            here,
            placement: placement.clone(),
            core,
            outputs: Outputs::default(),
            frames: Vec::new(),
            written: Vec::new(),
            parser: RequestParser::default(),
            batch: RequestBatch::default(),
            input: Vec::new(),
            replies: Vec::new(),
            replied: 0,
        }
    }

    fn has_mail(&self) -> bool {
        !self.frames.is_empty() || !self.written.is_empty()
    }

    /// One turn, as the core loop of the server runs it.
    #[inline(never)]
    fn turn(&mut self, now: Now) {
        for (from, bytes) in self.frames.drain(..) {
            self.core.step(now, Input::Frame { from, bytes: &bytes }, &mut self.outputs);
            self.outputs.recycle(bytes);
        }
        for id in self.written.drain(..) {
            self.core.step(now, Input::Disk { id, result: Ok(()) }, &mut self.outputs);
        }
        if !self.input.is_empty() {
            self.parse();
            self.core.step(now, Input::Requests(&self.batch), &mut self.outputs);
            self.batch.clear();
        }
        self.core.step(now, Input::EndOfTurn, &mut self.outputs);
        self.reply();
    }

    #[inline(never)]
    fn parse(&mut self) {
        let mut rest = &self.input[..];
        let mut sequence = 0;
        while let Ok(Parsed::Request { consumed }) = self.parser.parse(rest, 1 << 20) {
            let arguments = self.parser.arguments(rest);
            let key = arguments.at(1);
            let operation = match arguments.len() {
                2 => Operation::Get { peek: false },
                _ => Operation::Set {
                    value: arguments.at(2),
                    flags: 0,
                    condition: SetCondition::Always,
                    expiry: Expiry::Never,
                    return_old: false,
                },
            };
            let shard = self.placement.shard_of_slot(slot_of(key));
            let token = Token { connection: 1, sequence, part: 0 };
            self.batch.push(shard, token, false, &Command { key, operation });
            rest = &rest[consumed..];
            sequence += 1;
        }
        assert!(rest.is_empty(), "the requests are not whole");
        self.input.clear();
    }

    #[inline(never)]
    fn reply(&mut self) {
        let replies = &mut self.outputs.replies;
        for reply in &replies.headers {
            match (reply.status, replies.value(reply)) {
                (Status::Ok, Some(value)) => encode::bulk(&mut self.replies, value),
                (Status::Ok, None) => encode::ok(&mut self.replies),
                (Status::NotFound, _) => encode::nil(&mut self.replies, Version::Resp2),
                (status, _) => panic!("{status:?}: {}", status.text()),
            }
        }
        self.replied += replies.headers.len();
        replies.clear();
    }
}

/// A turn that counts: callgrind collects while this function runs, and allocations are counted.
#[inline(never)]
fn measured_turn(node: &mut Node, now: Now) {
    allocations::start();
    node.turn(now);
    allocations::stop();
}

/// Which part of a cluster is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// The node that gets the requests.
    Leader,
    /// The second of the others.
    Follower,
    /// None.
    Nobody,
}

/// A cluster in which the first node leads its share of the shards.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    /// The keys of the shards that the first node leads.
    pub keys: Vec<Key>,
    now: Now,
    random: u64,
    asked: usize,
}

impl Cluster {
    /// Forms a cluster, and sets all keys.
    ///
    /// # Panics
    /// If the cluster does not come up, or refuses a request.
    pub fn start(shape: Shape) -> Self {
        let placement = Placement::new((1..=shape.nodes).map(NodeId).collect(), SHARDS)
            .unwrap_or_else(|error| panic!("{error}"));
        let nodes =
            placement.nodes().iter().map(|&node| Node::new(shape, node, &placement)).collect();
        let is_led = |shard: &ShardId| placement.rank(*shard, NodeId(1)) == Some(0);
        let all = (0..).map(key);
        let led = all.filter(|key| is_led(&placement.shard_of_slot(slot_of(key))));
        let now = Now { monotonic: Nanos(1_000_000_000), wall: Millis(1_800_000_000_000) };
        let keys = led.take(KEYS).collect();
        let mut cluster = Cluster { nodes, keys, now, random: 1, asked: 0 };
        cluster.link();
        for _ in 0..1_000 {
            let leads = |shard: ShardId| {
                let leader = cluster.nodes[0].core.leaders()[usize::from(shard.0)].leader;
                leader == placement.replicas(shard).next()
            };
            if (0..SHARDS).map(ShardId).all(leads) {
                break;
            }
            cluster.pass(TICK);
            cluster.exchange();
        }
        cluster.fill();
        cluster
    }

    fn link(&mut self) {
        let addresses: Vec<_> = self.nodes.iter().map(|node| node.here).collect();
        for node in &mut self.nodes {
            for &to in addresses.iter().filter(|&&to| to != node.here) {
                node.core.step(self.now, Input::LinkUp { to, cores: 1 }, &mut node.outputs);
            }
        }
    }

    fn fill(&mut self) {
        for first in (0..self.keys.len()).step_by(FILL_COMMANDS) {
            for key in self.keys.iter().skip(first).take(FILL_COMMANDS) {
                Asked::Set.encode(key, &mut self.nodes[0].input);
                self.asked += 1;
            }
            self.round(Measured::Nobody);
            self.pass(Nanos(1_000_000));
        }
        self.finish();
    }

    /// Lets time pass.
    pub fn pass(&mut self, span: Nanos) {
        let before = self.now.monotonic.0;
        self.now.monotonic.0 += span.0;
        self.now.wall.0 += self.now.monotonic.0 / 1_000_000 - before / 1_000_000;
    }

    /// Gives the first node `count` requests with random keys.
    pub fn ask(&mut self, asked: Asked, count: usize) {
        for _ in 0..count {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let place = (self.random >> 33) as usize % self.keys.len();
            asked.encode(&self.keys[place], &mut self.nodes[0].input);
        }
        self.asked += count;
    }

    /// A turn of the first node, and then of the others, who hear of it in the same round; the
    /// first hears of them in the next. A disk has written what it was given before its core's
    /// next turn, which a follower has in the same round.
    pub fn round(&mut self, measured: Measured) {
        for place in 0..self.nodes.len() {
            let is_measured = match measured {
                Measured::Leader => place == 0,
                Measured::Follower => place == 2,
                Measured::Nobody => false,
            };
            self.turn(place, is_measured);
            if place > 0 && !self.nodes[place].written.is_empty() {
                self.turn(place, is_measured);
            }
        }
        let replies = &mut self.nodes[0].replies;
        std::hint::black_box(&*replies);
        replies.clear();
    }

    fn turn(&mut self, place: usize, is_measured: bool) {
        match is_measured {
            true => measured_turn(&mut self.nodes[place], self.now),
            false => self.nodes[place].turn(self.now),
        }
        let node = &mut self.nodes[place];
        let from = node.here;
        let mut frames = std::mem::take(&mut node.outputs.frames);
        node.outputs.events.clear();
        let mut disk = std::mem::take(&mut node.outputs.disk);
        for operation in disk.drain(..) {
            if let DiskOperation::Write { id, bytes, .. } = operation {
                node.written.push(id);
                node.outputs.recycle(bytes);
            }
        }
        node.outputs.disk = disk;
        for frame in frames.drain(..) {
            self.nodes[usize::from(frame.to.node.0) - 1].frames.push((from, frame.bytes));
        }
        self.nodes[place].outputs.frames = frames;
    }

    /// Runs until nothing is on its way any more.
    fn exchange(&mut self) {
        for _ in 0..100 {
            self.round(Measured::Nobody);
            if !self.nodes.iter().any(Node::has_mail) {
                return;
            }
        }
        panic!("the nodes do not come to rest");
    }

    /// Runs until every request is answered.
    ///
    /// # Panics
    /// If one is not.
    pub fn finish(&mut self) {
        self.exchange();
        assert_eq!(self.nodes[0].replied, self.asked, "requests without reply");
    }

    /// Brings the cluster into the state that it is in under steady load, with leases held and no
    /// tick due soon.
    pub fn settle(&mut self) {
        for _ in 0..8 {
            self.pass(TICK);
            self.ask(Asked::Get, 8 * usize::from(SHARDS));
            self.finish();
        }
    }
}

fn key(number: u64) -> Key {
    let mut key = *b"key:000000000000";
    let mut rest = number;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}
