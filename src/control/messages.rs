//! What the control thread and the cores say to each other, over bounded flume channels.
//!
//! A core receives [`ControlRequest`]s at the end of a turn and never waits for the control
//! thread: every answer goes into a channel that the request brought along and that has room for
//! it, so `try_send` is enough, and an answer that finds nobody is dropped. The control thread in
//! turn sends with `try_send` and waits with a deadline: a core that is busy or gone costs it an
//! answer, never its life.
//!
//! Counters are plain numbers that a core counts for itself and copies into a report when asked,
//! so that the hot path shares no cache line with the control thread.

use shards::contract::{AdminCommand, CareCounts, LeaderView, ReadCounts, ShardStatus};
use shards::ids::{CoreIndex, NodeId};

use crate::core_loop::turn_times::TurnTimes;
use crate::disk::writer::LogCounters;

/// Requests that may wait in a core's control channel. Whoever finds it full is told at once that
/// the core does not answer.
pub const CONTROL_QUEUE_MAX: usize = 64;

/// What the control thread asks of a core.
#[derive(Debug)]
pub enum ControlRequest {
    /// Report what you own and what you have done. The channel has room for one report.
    Status(flume::Sender<CoreReport>),
    /// Feed this to the engine, and answer when it was fed. What came of it shows in later
    /// reports. The channel has room for one answer.
    Admin(AdminCommand, flume::Sender<()>),
    /// Take no new connections, hand all leaderships over ([`AdminCommand::Drain`]), serve what is
    /// under way, and answer once no replica of this core leads. The channel has room for one
    /// answer; nobody waits for it longer than [`DRAIN_DEADLINE`](super::DRAIN_DEADLINE).
    Drain(flume::Sender<()>),
    /// Answer what can be answered, close everything and end.
    Stop,
}

/// What one core knows and has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreReport {
    /// Which core.
    pub core: CoreIndex,
    /// The replicas that live on it.
    pub shards: Vec<ShardStatus>,
    /// Who leads each shard of the cluster as far as this core knows, by shard id.
    pub leaders: Vec<LeaderView>,
    /// How many cores each member has, as far as this core knows.
    pub cores_of: Vec<(NodeId, u16)>,
    /// What it has counted.
    pub counters: CoreCounters,
    /// How long its turns took since it started.
    pub turn_times: TurnTimes,
}

/// What a core counts. All but the gauges only grow during the life of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreCounters {
    /// Client connections that are open now (a gauge).
    pub connections: u64,
    /// Client connections accepted.
    pub connections_accepted: u64,
    /// Client connections turned away because there were too many.
    pub connections_refused: u64,
    /// Client connections closed for what they sent.
    pub protocol_errors: u64,
    /// Commands taken from client connections.
    pub commands: u64,
    /// Of those, the ones whose shard lives on another core of this node.
    pub commands_to_siblings: u64,
    /// Of those, the ones whose shard is led by another node.
    pub commands_to_nodes: u64,
    /// Bytes received from clients.
    pub client_bytes_in: u64,
    /// Bytes sent to clients.
    pub client_bytes_out: u64,
    /// Links to cores of other nodes that are up now (a gauge).
    pub peer_links: u64,
    /// Frames received from other nodes.
    pub peer_frames_in: u64,
    /// Frames sent to other nodes.
    pub peer_frames_out: u64,
    /// Bytes received from other nodes.
    pub peer_bytes_in: u64,
    /// Bytes sent to other nodes.
    pub peer_bytes_out: u64,
    /// Frames to other nodes dropped because a link was down or its queue full.
    pub peer_frames_dropped: u64,
    /// How reads were answered.
    pub reads: ReadCounts,
    /// What was found out about the state of replicas.
    pub care: CareCounts,
    /// The longest turn since the last report, in nanoseconds (a gauge).
    pub turn_ns_max: u64,
    /// How late the loop came to the deadline the engine had asked for, at worst since the last
    /// report, in nanoseconds (a gauge).
    pub lateness_ns_max: u64,
    /// What the core's log counts; nothing without a log.
    pub log: LogCounters,
}
