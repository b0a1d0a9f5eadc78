//! What the HTTP endpoints say, as types: the JSON of a node's answers is exactly these.
//!
//! The same types read the answers of other nodes and, in the command line, of any node, so they
//! are both written and read. Unknown fields of a newer node are passed over. Ids are plain
//! numbers here: this is the edge, and the engine's types need not know of JSON.

use serde::{Deserialize, Serialize};
use shards::contract::{Health, Role};

/// The answer of `/v1/shards`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardsView {
    /// Every shard of the cluster, in the order of their numbers.
    pub shards: Vec<ShardView>,
}

/// A shard, as its leader knows it, or else as far as the answering node does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardView {
    /// Its number.
    pub shard: u16,
    /// First and last slot.
    pub slots: [u16; 2],
    /// Who leads; `null` if nobody is known to.
    pub leader: Option<LeaderPlace>,
    /// The highest term heard of.
    pub term: u64,
    /// Commit index.
    pub commit: u64,
    /// Applied index.
    pub applied: u64,
    /// Milliseconds left of the leader's lease; `null` where reads do not use leases.
    pub lease_ms: Option<u64>,
    /// Live keys.
    pub keys: u64,
    /// Accounted bytes.
    pub bytes: u64,
    /// Commands per second, over the last full second.
    pub ops_per_s: u64,
    /// The members; only the answering node's own replica where the leader did not tell.
    pub replicas: Vec<ReplicaView>,
}

/// Where a shard is led.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderPlace {
    /// The node.
    pub node: u16,
    /// The core on it.
    pub core: u16,
    /// The data address that clients are told.
    pub addr: String,
}

/// A replica of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// The node it lives on.
    pub node: u16,
    /// The core on that node.
    pub core: u16,
    /// What it is to its group.
    pub role: RoleView,
    /// The last index it is known to have.
    #[serde(rename = "match")]
    pub matched: u64,
    /// How many entries it lacks.
    pub lag: u64,
    /// Whether it is what it should be; the leader knows only who said otherwise.
    #[serde(default)]
    pub health: HealthView,
}

/// What a replica is to its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleView {
    /// Leads.
    Leader,
    /// Follows, and votes.
    Follower,
    /// Seeks election.
    Candidate,
    /// Follows without a vote.
    Learner,
    /// Is not part of the group.
    Outside,
    /// Stopped for good.
    Stopped,
}

impl From<Role> for RoleView {
    fn from(role: Role) -> Self {
        match role {
            Role::Leader => RoleView::Leader,
            Role::Follower => RoleView::Follower,
            Role::Candidate => RoleView::Candidate,
            Role::Learner => RoleView::Learner,
            Role::Outside => RoleView::Outside,
            Role::Stopped => RoleView::Stopped,
        }
    }
}

/// Whether a replica is what it should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthView {
    /// As far as anybody knows.
    #[default]
    Sound,
    /// It is not, and serves nobody.
    Quarantined,
    /// It is being filled anew.
    Rebuilding,
}

impl From<Health> for HealthView {
    fn from(health: Health) -> Self {
        match health {
            Health::Sound => HealthView::Sound,
            Health::Quarantined => HealthView::Quarantined,
            Health::Rebuilding => HealthView::Rebuilding,
        }
    }
}

impl HealthView {
    /// The word for people, as in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            HealthView::Sound => "sound",
            HealthView::Quarantined => "quarantined",
            HealthView::Rebuilding => "rebuilding",
        }
    }
}

impl RoleView {
    /// The word for people, as in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            RoleView::Leader => "leader",
            RoleView::Follower => "follower",
            RoleView::Candidate => "candidate",
            RoleView::Learner => "learner",
            RoleView::Outside => "outside",
            RoleView::Stopped => "stopped",
        }
    }
}

/// The answer of `/v1/replicas`: what each replica holds, to be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicasView {
    /// The replicas of the nodes that answered, by shard and node.
    pub replicas: Vec<ReplicaState>,
    /// Nodes that did not answer in time.
    pub unanswered: Vec<u16>,
}

/// What one replica holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaState {
    /// The shard.
    pub shard: u16,
    /// The node it lives on.
    pub node: u16,
    /// The core on that node.
    pub core: u16,
    /// What it is to its group.
    pub role: RoleView,
    /// Whether it is what it should be.
    #[serde(default)]
    pub health: HealthView,
    /// The highest term it has heard of.
    pub term: u64,
    /// Commit index.
    pub commit: u64,
    /// Applied index.
    pub applied: u64,
    /// Digest of the state at the applied index, in hexadecimal: JSON numbers end at 2^53.
    pub digest: String,
    /// Live keys.
    pub keys: u64,
    /// Accounted bytes.
    pub bytes: u64,
    /// Accounted bytes allowed.
    pub bytes_max: u64,
}

/// The answer of `/readyz`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadinessView {
    /// Whether clients should be sent here.
    pub ready: bool,
    /// Why not; at most ten reasons.
    pub reasons: Vec<String>,
}

/// The answer of `/v1/cores`: the cores of the node that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoresView {
    /// The cores that answered in time, in the order of their numbers.
    pub cores: Vec<CoreView>,
    /// Those that did not.
    pub unanswered: Vec<u16>,
}

/// What a core has done since the node started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreView {
    /// Its number.
    pub core: u16,
    /// Client connections that are open.
    pub connections: u64,
    /// Commands taken from clients.
    pub commands: u64,
    /// Replicas that live on it,
    pub replicas: u64,
    /// and those of them that lead.
    pub leaders: u64,
    /// Turns of its loop.
    pub turns: u64,
    /// Microseconds in which it was busy.
    pub busy_us: u64,
    /// Microseconds that half of the turns did not exceed,
    pub turn_p50_us: u64,
    /// 99 of 100,
    pub turn_p99_us: u64,
    /// 999 of 1,000,
    pub turn_p999_us: u64,
    /// and all.
    pub turn_max_us: u64,
    /// The longest of the last ten to twenty seconds.
    pub turn_worst_us: u64,
}

/// What is posted to `/v1/shards/{shard}/transfer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferWish {
    /// The node that shall lead.
    pub to: u16,
}

/// The answer of `/v1/limits`: all replicas of the node that was asked, together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsView {
    /// Accounted bytes that they may hold.
    pub memory_bytes: u64,
    /// Accounted bytes that they hold.
    pub used_bytes: u64,
    /// Entries evicted since the node started.
    pub evicted: u64,
    /// Which entries are evicted first: `lru` or `sieve`.
    pub eviction: String,
}

/// What is posted to `/v1/limits`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsWish {
    /// Accounted bytes that each node may hold, if that is to change.
    pub memory_bytes: Option<u64>,
    /// Which entries are evicted first, if that is to change: `lru` or `sieve`.
    pub eviction: Option<String>,
}

/// What is posted to `/v1/shards/{shard}/recover`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoverWish {
    /// The node whose replica the shard shall go on from.
    pub from: u16,
    /// That what only the others had is lost.
    #[serde(default)]
    pub accept_data_loss: bool,
}

/// The answer to a transfer that took place, or to a recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferDone {
    /// The shard.
    pub shard: u16,
    /// The node that leads it now.
    pub leader: u16,
}

/// The answer to anything that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorView {
    /// What, in a sentence.
    pub error: String,
}
