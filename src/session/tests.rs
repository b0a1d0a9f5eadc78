//! Sessions driven with bytes, against a small engine in memory that answers in shuffled order.

mod fake_engine;
mod limits;
mod malformed;
mod ordering;

use std::net::SocketAddr;

use shards::command::{Request, RequestBatch};
use shards::contract::{Durability, Now};
use shards::ids::{CoreIndex, Millis, Nanos};
use shards::reply::{Reply, Status};

use crate::cluster_map::ClusterMap;
use crate::cluster_map::tests::{layout, preferred_leaders};
use crate::session::clients::ClientDirectory;
use crate::session::context::{NodeTotals, SessionCounters};
use crate::session::{BufferPool, PortKind, Received, ServerFacts, Session, SessionContext};

pub(crate) use fake_engine::{FakeEngine, Shuffle};

pub(crate) const WALL_MS: u64 = 1_700_000_000_000;

/// A session with everything around it.
pub(crate) struct Rig {
    pub session: Session,
    pub engine: FakeEngine,
    pub cluster: ClusterMap,
    pub facts: ServerFacts,
    pub clients: ClientDirectory,
    pub buffers: BufferPool,
    pub counters: SessionCounters,
    pub requests: RequestBatch,
    /// What the engine was asked so far.
    pub sent: Vec<Request>,
    pub now: Now,
    /// Input that was not consumed.
    pub pending: Vec<u8>,
    shuffle: Shuffle,
}

pub(crate) fn facts() -> ServerFacts {
    ServerFacts {
        run_id: "0".repeat(40),
        process_id: 1,
        started: Now::default(),
        cores: 2,
        port: 7400,
        memory_bytes: 1 << 30,
        eviction: shards::ids::Eviction::Lru,
        connections_max: 10_000,
        value_bytes_max: 1 << 20,
        durability: Durability::Memory,
        totals: NodeTotals::default(),
    }
}

impl Rig {
    /// A connection to a cluster whose shards all have their preferred leaders.
    pub fn new(port: PortKind) -> Self {
        let mut cluster = ClusterMap::new(layout(32));
        preferred_leaders(&mut cluster);
        let now = Now { monotonic: Nanos(5_000_000_000), wall: Millis(WALL_MS) };
        let mut clients = ClientDirectory::new(CoreIndex(0), 2);
        let peer = SocketAddr::from(([127, 0, 0, 9], 50_000));
        let local = SocketAddr::from(([127, 0, 0, 1], 7_400));
        Rig {
            session: Session::new(7, port, peer, local, now, &mut clients),
            engine: FakeEngine::default(),
            cluster,
            facts: facts(),
            clients,
            buffers: BufferPool::default(),
            counters: SessionCounters::default(),
            requests: RequestBatch::default(),
            sent: Vec::new(),
            now,
            pending: Vec::new(),
            shuffle: Shuffle::new(1),
        }
    }

    pub fn with_seed(port: PortKind, seed: u64) -> Self {
        Rig { shuffle: Shuffle::new(seed), ..Rig::new(port) }
    }

    /// Gives the session more input, without letting the engine run.
    pub fn feed(&mut self, input: &[u8]) -> Received {
        self.pending.extend_from_slice(input);
        let mut context = SessionContext {
            now: self.now,
            requests: &mut self.requests,
            cluster: &self.cluster,
            facts: &self.facts,
            clients: &mut self.clients,
            buffers: &mut self.buffers,
            counters: &mut self.counters,
        };
        let received = self.session.receive(&self.pending, &mut context);
        assert!(received.consumed <= self.pending.len());
        self.pending.drain(..received.consumed);
        received
    }

    /// Lets the engine answer what it was asked, in shuffled order.
    pub fn answer(&mut self) {
        let mut replies: Vec<(Reply, Option<Vec<u8>>)> =
            self.engine.run(&self.requests, self.now.wall);
        self.sent.extend(self.requests.requests());
        self.requests.clear();
        self.shuffle.shuffle(&mut replies);
        for (reply, value) in replies {
            self.session.reply(&reply, value.as_deref(), &mut self.buffers);
        }
    }

    /// Takes the output.
    pub fn output(&mut self) -> Vec<u8> {
        let output = self.session.output().to_vec();
        self.session.consume_output(output.len(), &mut self.buffers);
        output
    }

    /// Feeds `input`, and lets session and engine work until nothing moves any more.
    pub fn exchange(&mut self, input: &[u8]) -> Vec<u8> {
        self.feed(input);
        let mut output = Vec::new();
        loop {
            self.answer();
            output.extend(self.output());
            let left = self.pending.len();
            if left == 0 || !self.session.wants_input() {
                break;
            }
            self.feed(b"");
            if self.pending.len() == left && self.requests.is_empty() {
                break;
            }
        }
        self.answer();
        output.extend(self.output());
        output
    }

    /// Sends a command, given as words, and returns the reply as text.
    pub fn command(&mut self, words: &str) -> String {
        let arguments: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        self.request(&arguments)
    }

    /// Sends a command and returns the reply as text.
    pub fn request(&mut self, arguments: &[&[u8]]) -> String {
        let mut input = Vec::new();
        proto::resp::encode::request(&mut input, arguments);
        String::from_utf8_lossy(&self.exchange(&input)).into_owned()
    }

    /// Like `request`, with replies of this status from the engine from now on.
    pub fn fail_with(&mut self, status: Option<Status>) {
        self.engine.failure = status;
    }
}
