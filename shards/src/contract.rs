//! The engine's contract: what a driver gives to a [`Core`](crate::engine::Core), and what it gets.
//!
//! A driver owns clocks, sockets, files and threads, and runs *turns*: it feeds everything that
//! has arrived, ends the turn with [`Input::EndOfTurn`], and drains [`Outputs`]. The glommio core
//! loop and the simulator are two drivers of the same engine. The engine never blocks, never
//! reads a clock, and draws random numbers only from the seed it was given.
//!
//! What a driver must keep:
//! - Disk operations complete in the order they were given, each once, as [`Input::Disk`].
//! - Frames of one link arrive in the order they were sent, whole, or not at all. A link that
//!   lost a frame is reported down before a later frame is sent on it.
//! - The clock of [`Now`] never goes back.
//! - After a `step`, all outputs are drained before the next one is of use: they are appended to.

use crate::command::RequestBatch;
use crate::ids::{Address, CoreIndex, Eviction, Index, Millis, Nanos, NodeId, ShardId, Term};
use crate::placement::Placement;
use crate::reply::Replies;
use crate::wal::LogIdentity;

/// The clocks, read by the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_BOOTTIME: it goes on while the machine sleeps, and never back.
    pub monotonic: Nanos,
    /// The wall clock, which may jump.
    pub wall: Millis,
}

/// What an acknowledged write has survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It is in the memory of a majority. The engine asks for no disk operations.
    Memory,
    /// It is on the disks of a majority.
    Fsync,
}

/// How a leader makes sure that it still leads when it answers a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// By its lease, and by asking a majority while it holds none.
    Lease,
    /// By asking a majority, once per shard and turn.
    Quorum,
}

/// Log entries that are shorter are cheaper to copy a few times than to keep in two places.
pub const STUB_BYTES_MIN: usize = 16 << 10;

/// What a core is told at its start. All cores of a cluster agree on everything but `node`,
/// `core`, `cores` and `seed`.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// The node this core belongs to.
    pub node: NodeId,
    /// The core.
    pub core: CoreIndex,
    /// Number of cores of this node.
    pub cores: u16,
    /// Members and shards.
    pub placement: Placement,
    /// Accounted bytes one shard may hold.
    pub shard_bytes_max: u64,
    /// Which entries are evicted first.
    pub eviction: Eviction,
    /// Longest value a client may store, in bytes.
    pub value_bytes_max: usize,
    /// What an acknowledgement means.
    pub durability: Durability,
    /// How reads are made linearizable.
    pub reads: ReadMode,
    /// Whose log it is. Without meaning with [`Durability::Memory`].
    pub log: LogIdentity,
    /// Bytes of a segment of the log. Default [`SEGMENT_BYTES`](crate::wal::SEGMENT_BYTES).
    pub segment_bytes: u64,
    /// How long after a use reads leave no further touch of an entry, in shard time; zero if they
    /// never do, and only writes count as uses. Default 5 s.
    pub touch_interval: Millis,
    /// Accounted bytes of its stores that a core looks at per second for damage; zero for none.
    /// Default 16 MiB.
    pub scrub_bytes_per_second: u64,
    /// One Raft tick. Default 50 ms.
    pub tick: Nanos,
    /// Ticks without a leader before the first successor campaigns. Default 6.
    pub election_ticks: u32,
    /// How long a request may wait for a leader or its outcome. Default 2 s.
    pub request_deadline: Nanos,
    /// Raft has only stubs of log entries with so many bytes or more, which spares copies; zero for
    /// none. Default [`STUB_BYTES_MIN`].
    pub stub_bytes_min: usize,
    /// Encoded bytes of requests that may wait for leaders on this core. Default 64 MiB.
    pub parked_bytes_max: usize,
    /// Random seed: from the operating system in production, fixed in the simulator.
    pub seed: u64,
}

/// An operation on the disk that the driver carries out. There are none with
/// [`Durability::Memory`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskOperation {
    /// Write `bytes` into a segment of the core's log and report [`Input::Disk`] once they are
    /// durable, together with the segment's length and its entry in the directory. Offset and
    /// length are multiples of [`BLOCK_BYTES`](crate::wal::BLOCK_BYTES). At most one is under way.
    Write {
        /// Named in the completion.
        id: u64,
        /// Number of the segment. What an older file left in it does no harm.
        segment: u64,
        /// Length of the segment in bytes. One that was not written before is created with it.
        segment_bytes: u64,
        /// Where in the segment.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// No segment before this number is needed any more: their files may be deleted, or become
    /// later segments. There is no completion.
    Release {
        /// The first segment that is kept.
        before: u64,
    },
}

/// What an operator asks of one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminCommand {
    /// Hand the leadership of a shard that this core leads to `to`, and stay away from taking it
    /// back for a while (ten seconds).
    Transfer {
        /// Which shard.
        shard: ShardId,
        /// The new leader.
        to: NodeId,
    },
    /// Let a shard whose majority is lost for good go on from this core's replica, or anew and
    /// empty where that has nothing. What only the others had is lost. Refused while a leader is
    /// known.
    Recover {
        /// Which shard.
        shard: ShardId,
    },
    /// Hand all leaderships over and never lead again: the node is about to stop.
    Drain,
    /// Flip a bit of the values that this core's replica of a shard holds, as failing memory does.
    #[cfg(feature = "defects")]
    FlipBit {
        /// Which shard.
        shard: ShardId,
        /// Which byte, counted over all its values.
        nth_byte: u64,
    },
}

/// Something that happened outside of the engine.
#[derive(Debug)]
pub enum Input<'a> {
    /// Requests of this core's own connections.
    Requests(&'a RequestBatch),
    /// A frame from another core of this node or of another node.
    Frame {
        /// Who sent it.
        from: Address,
        /// Its bytes, as [`OutFrame::bytes`] had them there.
        bytes: &'a [u8],
    },
    /// The link *to* a core of another node is up. Frames for it are sent from now on. Links
    /// between the cores of one node are always up.
    LinkUp {
        /// The other end.
        to: Address,
        /// Number of cores the other node says it has.
        cores: u16,
    },
    /// The link *to* a core of another node is gone, with what was under way on it; or the other
    /// end has restarted, so that it never will answer what it was asked.
    LinkDown {
        /// The other end.
        to: Address,
    },
    /// A disk operation has ended.
    Disk {
        /// Which.
        id: u64,
        /// How.
        result: Result<(), DiskError>,
    },
    /// A wish of the operator.
    Admin(AdminCommand),
    /// Everything that has arrived was fed: propose, send, apply, answer. Also due whenever
    /// [`Outputs::next_deadline`] has passed.
    EndOfTurn,
}

/// A failed disk operation. The core that owned it falls silent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log could not be written: {0}")]
pub struct DiskError(pub String);

/// Which connection of a link a frame takes, so that bulk does not delay the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Raft messages, forwarded requests and their replies.
    Turn,
    /// Snapshot chunks.
    Bulk,
}

/// A frame to another core.
#[derive(Debug)]
pub struct OutFrame {
    /// To whom. The own node stands for a sibling core.
    pub to: Address,
    /// On which connection.
    pub lane: Lane,
    /// The bytes. The driver may keep the vector or give it back through [`Outputs::recycle`].
    pub bytes: Vec<u8>,
}

/// Something worth a log line, a metric or a checker's look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// This core's replica took office.
    BecameLeader(ShardId, Term),
    /// This core's replica left office.
    LostLeadership(ShardId, Term),
    /// Somebody leads the shard now, as far as this core knows.
    LeaderChanged(ShardId, LeaderView),
    /// The shard was formed with this core's replica as a member.
    Formed(ShardId),
    /// This core's replica asks to be taken into a shard that goes on without it.
    Joining(ShardId),
    /// This core's replica, which joined late, has become a voter.
    Promoted(ShardId),
    /// A snapshot was restored up to this index.
    SnapshotRestored(ShardId, Index),
    /// The operator let the shard go on from this core's replica alone, with this epoch.
    Recovered(ShardId, u64),
    /// The operator wanted that, and it was not done.
    RecoverRefused(ShardId, &'static str),
    /// This core's replica is not what it should be: it serves nobody any more, and is rebuilt as
    /// soon as the others can spare it.
    Quarantined(ShardId, Finding),
    /// This core's replica was given up, and comes back empty under a new id, to be filled.
    GivenUp(ShardId),
    /// It is a voter again, so long after something was found.
    Rebuilt(ShardId, Nanos),
    /// Replicas of a shard that this core leads differ.
    DigestsDiffer(ShardId, Difference),
    /// A replica stopped for good: its log holds what this version cannot read, or its state
    /// differs. A human must look.
    ReplicaStopped(ShardId, String),
}

/// What the driver must do. Appended to by each step, drained by the driver, reused.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Replies to this core's own connections.
    pub replies: Replies,
    /// Frames to other cores, one per destination and lane at the end of a turn, and others for
    /// long messages.
    pub frames: Vec<OutFrame>,
    /// Operations on the disk.
    pub disk: Vec<DiskOperation>,
    /// What happened.
    pub events: Vec<Event>,
    /// Spare buffers for frames.
    pub spare: Vec<Vec<u8>>,
    /// When the engine wants its next [`Input::EndOfTurn`], at the latest.
    pub next_deadline: Nanos,
}

/// Bytes of all spare buffers that are kept. Some may hold the frame of a large value, as memory
/// that is touched for the first time costs more than what is copied to it.
const SPARE_BYTES_MAX: usize = 16 << 20;
/// Number of spare buffers kept.
const SPARES_MAX: usize = 64;

impl Outputs {
    /// Gives a frame's buffer back, so that the next frame needs no allocation.
    pub fn recycle(&mut self, mut bytes: Vec<u8>) {
        let kept = self.spare.iter().map(Vec::capacity).sum::<usize>();
        if self.spare.len() < SPARES_MAX && kept + bytes.capacity() <= SPARE_BYTES_MAX {
            bytes.clear();
            self.spare.push(bytes);
        }
    }
}

/// Who leads a shard, as far as a core knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaderView {
    /// The highest term heard of.
    pub term: Term,
    /// Its leader, if known.
    pub leader: Option<NodeId>,
}

/// How reads were answered by a core since its start, and what that took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadCounts {
    /// Reads that a leader answered under its lease, without a message.
    pub lease: u64,
    /// Reads that a leader answered after it had asked a majority.
    pub quorum: u64,
    /// Reads that a follower answered, as fresh as a leader's.
    pub follower: u64,
    /// Reads answered as the replica was, because the request allowed it.
    pub stale: u64,
    /// Rounds to a majority, for reads and for the renewal of leases, repetitions included.
    pub rounds: u64,
    /// Questions of followers to their leaders, repetitions included.
    pub questions: u64,
}

/// What was found wrong with a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// An entry is not what was written.
    #[error("bytes of an entry have changed in memory")]
    Damage,
    /// It differs from what a majority of the members holds.
    #[error("its digest at index {index} is {own:016x}, and that of a majority {agreed:016x}")]
    Odd {
        /// The applied index at which they were compared.
        index: Index,
        /// Its digest there.
        own: u64,
        /// The digest of the majority.
        agreed: u64,
    },
    /// The end of its log is gone, which it had said was durable.
    #[error("its log ends at index {last}, and it has acknowledged index {acknowledged}")]
    Forgotten {
        /// The last index of its log.
        last: Index,
        /// What a leader knows it had, at least.
        acknowledged: Index,
    },
}

/// A difference between replicas at one applied index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The index.
    pub index: Index,
    /// The digest that a majority of all members has; `None` if there is none, and nobody knows
    /// who is right.
    pub agreed: Option<u64>,
    /// The digests of all members that told.
    pub digests: Vec<(NodeId, u64)>,
}

/// Whether a replica is what it should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// As far as anybody knows.
    #[default]
    Sound,
    /// It is not, serves nobody, and waits to be rebuilt.
    Quarantined,
    /// It was given up, and is being filled again.
    Rebuilding,
}

/// What a core has found out about the state of its replicas since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CareCounts {
    /// Accounted bytes looked at for damage.
    pub scrubbed_bytes: u64,
    /// Times that a whole store was looked at and nothing was found.
    pub scrub_passes: u64,
    /// Damaged entries found.
    pub damages: u64,
    /// Comparisons of the replicas of a shard that is led here.
    pub comparisons: u64,
    /// Comparisons that found a difference.
    pub mismatches: u64,
    /// Replicas here that were quarantined.
    pub quarantined: u64,
    /// Replicas here that were rebuilt after that.
    pub rebuilt: u64,
}

/// What a replica is to its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Leads.
    Leader,
    /// Follows, and votes.
    Follower,
    /// Seeks election.
    Candidate,
    /// Follows without a vote, on its way to become a voter.
    Learner,
    /// Is not (yet) part of the group.
    Outside,
    /// Stopped for good.
    Stopped,
}

/// A replica as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Where it lives.
    pub node: NodeId,
    /// What it is.
    pub role: Role,
    /// The last index it is known to have.
    pub matched: Index,
    /// How many entries it lacks.
    pub lag: u64,
    /// What it said of itself. The leader does not know who is being rebuilt; a learner may be.
    pub health: Health,
}

/// A shard as one core sees it. Only the leader knows `replicas`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStatus {
    /// The shard.
    pub shard: ShardId,
    /// What this core's replica is.
    pub role: Role,
    /// Whether it is what it should be.
    pub health: Health,
    /// Who leads, as far as known.
    pub leader: LeaderView,
    /// Commit index.
    pub commit: Index,
    /// Applied index.
    pub applied: Index,
    /// Live entries.
    pub keys: u64,
    /// Accounted bytes.
    pub bytes: u64,
    /// Accounted bytes allowed.
    pub bytes_max: u64,
    /// Which entries are evicted first.
    pub eviction: Eviction,
    /// Digest of the state at the applied index.
    pub digest: u64,
    /// Entries evicted by this replica since its start.
    pub evicted: u64,
    /// Entries expired by this replica since its start.
    pub expired: u64,
    /// Commands applied or read since the start of this replica.
    pub operations: u64,
    /// Reads that found their key, and those that did not.
    pub hits: u64,
    /// See `hits`.
    pub misses: u64,
    /// Touches that reads here have left and that were proposed, or sent to the leader.
    pub touches_sent: u64,
    /// Touches applied since the start of this replica.
    pub touches_applied: u64,
    /// Time left of the leader's lease; `None` where it holds none.
    pub lease: Option<Nanos>,
    /// All members; empty unless this replica leads.
    pub replicas: Vec<ReplicaStatus>,
}
