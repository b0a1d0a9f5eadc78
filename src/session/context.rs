//! What a session needs from the core it runs on, lent for the time of a call.

use std::time::Duration;

use shards::command::RequestBatch;
use shards::contract::{Durability, Now};
use shards::ids::Eviction;

use crate::cluster_map::ClusterMap;
use crate::config::NodeConfig;
use crate::session::clients::ClientDirectory;

/// Lent to a session by the core loop.
#[derive(Debug)]
pub struct SessionContext<'a> {
    /// The clocks, read once per batch of input.
    pub now: Now,
    /// Where requests for the engine go.
    pub requests: &'a mut RequestBatch,
    /// Who owns what.
    pub cluster: &'a ClusterMap,
    /// What the server says about itself.
    pub facts: &'a ServerFacts,
    /// The connections of this core.
    pub clients: &'a mut ClientDirectory,
    /// Output buffers of this core.
    pub buffers: &'a mut BufferPool,
    /// What sessions count.
    pub counters: &'a mut SessionCounters,
}

/// What the sessions of a core have counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCounters {
    /// Commands taken.
    pub commands: u64,
    /// Connections closed for what they sent.
    pub protocol_errors: u64,
    /// Commands answered with an error before they reached the engine.
    pub refused: u64,
    /// Of those, the ones answered with a redirection.
    pub redirections: u64,
}

/// Totals over all cores of the node, as last published. What is not known yet is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeTotals {
    /// Open client connections.
    pub connections: u64,
    /// Client connections accepted.
    pub connections_accepted: u64,
    /// Client connections turned away.
    pub connections_refused: u64,
    /// Commands taken.
    pub commands: u64,
    /// Commands taken in the last second.
    pub commands_per_second: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Live keys of the shards led here.
    pub keys_led: u64,
    /// Live keys of all replicas here.
    pub keys: u64,
    /// Accounted bytes of all replicas here.
    pub bytes: u64,
    /// Accounted bytes that all replicas here may hold.
    pub limit_bytes: u64,
    /// Which entries are evicted first, once that is known.
    pub eviction: Option<Eviction>,
    /// Reads that found their key.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Entries evicted.
    pub evicted: u64,
    /// Entries expired.
    pub expired: u64,
    /// Sum of the applied indices of all replicas here.
    pub applied: u64,
    /// Resident memory of the process, in bytes.
    pub resident_bytes: u64,
    /// Processor time used in user mode.
    pub cpu_user: Duration,
    /// Processor time used in the kernel.
    pub cpu_system: Duration,
}

/// What the server says about itself.
#[derive(Clone, Debug)]
pub struct ServerFacts {
    /// 40 hexadecimal digits, new for each life of the process.
    pub run_id: String,
    /// Process id.
    pub process_id: u32,
    /// When the process started.
    pub started: Now,
    /// Number of cores of this node.
    pub cores: u16,
    /// The any-core data port.
    pub port: u16,
    /// Accounted bytes this node may hold.
    pub memory_bytes: u64,
    /// Client connections this node takes.
    pub connections_max: u32,
    /// Longest value a client may store, in bytes.
    pub value_bytes_max: usize,
    /// What an acknowledgement means.
    pub durability: Durability,
    /// Which entries are evicted first, as configured.
    pub eviction: Eviction,
    /// Totals of the node, refreshed by the core loop about once a second.
    pub totals: NodeTotals,
}

impl ServerFacts {
    /// Accounted bytes that this node may hold: as last set for the cluster, once that is known.
    pub fn memory_limit(&self) -> u64 {
        match self.totals.limit_bytes {
            0 => self.memory_bytes,
            limit => limit,
        }
    }

    /// Which entries are evicted first, in Redis' words: as last set for the cluster.
    pub fn eviction_policy(&self) -> &'static str {
        match self.totals.eviction.unwrap_or(self.eviction) {
            Eviction::Lru => "allkeys-lru",
            Eviction::Sieve => "allkeys-sieve",
        }
    }
}

impl ServerFacts {
    /// The facts that follow from the configuration, `started` now.
    pub fn new(config: &NodeConfig, cores: u16, run_id: String, started: Now) -> Self {
        ServerFacts {
            run_id,
            process_id: std::process::id(),
            started,
            cores,
            port: config.port,
            memory_bytes: config.memory_bytes,
            eviction: config.eviction,
            connections_max: config.connections_max,
            value_bytes_max: config.value_bytes_max.min(proto::limits::VALUE_BYTES_MAX),
            durability: config.durability,
            totals: NodeTotals::default(),
        }
    }
}

/// Output buffers that no connection needs right now, for those that do. The last one given back
/// is the next one taken, as it is likely to be in the processor's cache.
#[derive(Debug, Default)]
pub struct BufferPool {
    buffers: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
}

/// Size of a new buffer, in bytes.
const BUFFER_BYTES: usize = 4 << 10;
/// Largest buffer that is kept, in bytes.
const BUFFER_KEPT_BYTES: usize = 256 << 10;
/// Number of buffers that are kept: as many as connections are likely to be flushed in one turn.
const BUFFERS_KEPT: usize = 256;
/// Number of larger buffers that are kept for large values, and the largest of them in bytes:
/// memory that is touched for the first time costs more than what is copied to it.
const LARGE_BUFFERS_KEPT: usize = 4;
const LARGE_BUFFER_KEPT_BYTES: usize = 4 << 20;

impl BufferPool {
    /// An empty buffer with some capacity.
    pub fn take(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
    }

    /// An empty buffer for about so many bytes. Its capacity may be less.
    pub fn take_for(&mut self, bytes: usize) -> Vec<u8> {
        let large = if bytes > BUFFER_KEPT_BYTES { self.large.pop() } else { None };
        large.unwrap_or_else(|| self.take())
    }

    /// Takes a buffer back, or frees it if it is too large or there are enough.
    pub fn give(&mut self, mut buffer: Vec<u8>) {
        let is_useful = (1..=BUFFER_KEPT_BYTES).contains(&buffer.capacity());
        if is_useful && self.buffers.len() < BUFFERS_KEPT {
            buffer.clear();
            self.buffers.push(buffer);
        } else if (BUFFER_KEPT_BYTES + 1..=LARGE_BUFFER_KEPT_BYTES).contains(&buffer.capacity())
            && self.large.len() < LARGE_BUFFERS_KEPT
        {
            buffer.clear();
            self.large.push(buffer);
        }
    }
}
