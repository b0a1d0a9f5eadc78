//! The identifiers of the cluster, each a type of its own so that two of them cannot be swapped.
//!
//! They carry no behaviour beyond what their number means. Everything that leaves the process
//! encodes them in little-endian order with the width of the type given here.

use std::fmt;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }
    };
}

identifier!(
    /// A node: one process of the cluster. Operators number them from 1.
    NodeId(u16)
);
identifier!(
    /// A core of a node: one pinned executor and the replicas it owns. Counted from 0.
    CoreIndex(u16)
);
identifier!(
    /// A shard: a contiguous range of hash slots. Counted from 0.
    ShardId(u16)
);
identifier!(
    /// A Raft term.
    Term(u64)
);
identifier!(
    /// A position in a shard's Raft log.
    Index(u64)
);
identifier!(
    /// The version of an entry of the store, which is also its CAS token.
    ///
    /// From the high bits down: 14 bits of shard epoch, 40 bits of log index, 10 bits of ordinal
    /// within the log entry. Zero is no version.
    Version(u64)
);
identifier!(
    /// A point in shard time, or a span of it, in milliseconds. Points count from the Unix epoch.
    Millis(u64)
);
identifier!(
    /// A point of the monotonic clock (CLOCK_BOOTTIME), or a span of it, in nanoseconds.
    Nanos(u64)
);
identifier!(
    /// The Raft id of one incarnation of one replica: 16 bits of node, 48 random bits.
    ReplicaId(u64)
);

impl ReplicaId {
    /// The id of the replica on `node` in the life named by the low 48 bits of `incarnation`.
    /// Raft reserves zero, therefore an incarnation of zero becomes one.
    pub fn new(node: NodeId, incarnation: u64) -> Self {
        let life = (incarnation & ((1 << 48) - 1)).max(1);
        ReplicaId(u64::from(node.0) << 48 | life)
    }

    /// The node this replica lives on.
    pub fn node(self) -> NodeId {
        NodeId((self.0 >> 48) as u16)
    }
}

impl Version {
    /// Number of ordinals one log entry has room for: the limit of commands in one entry.
    pub const ORDINALS: usize = 1 << 10;
    /// Log indices that fit into a version.
    pub const INDEX_MAX: u64 = (1 << 40) - 1;
    /// Epochs that fit into a version.
    pub const EPOCH_MAX: u64 = (1 << 14) - 1;

    /// The version that the command at `ordinal` of the entry at `index` gives to what it writes.
    ///
    /// # Panics
    /// If a part is out of its range: an index can only get there after 10^12 entries, and the
    /// engine keeps the others within bounds itself.
    pub fn new(epoch: u64, index: Index, ordinal: usize) -> Self {
        assert!(epoch <= Self::EPOCH_MAX, "the epoch {epoch} does not fit into a version");
        assert!(index.0 <= Self::INDEX_MAX, "the index {index} does not fit into a version");
        assert!(ordinal < Self::ORDINALS, "the ordinal {ordinal} does not fit into a version");
        Version(epoch << 50 | index.0 << 10 | ordinal as u64)
    }

    /// The index of the entry that wrote it.
    pub fn index(self) -> Index {
        Index(self.0 >> 10 & Self::INDEX_MAX)
    }
}

/// Which entries are evicted first when room is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eviction {
    /// Those that were not used for longest.
    #[default]
    Lru,
    /// Those that a hand, going from the oldest to the newest, finds unused since it last passed.
    Sieve,
}

impl Eviction {
    /// The number that stands for it where it is stored.
    pub fn code(self) -> u8 {
        match self {
            Eviction::Lru => 0,
            Eviction::Sieve => 1,
        }
    }

    /// The name that people know it by.
    pub fn name(self) -> &'static str {
        match self {
            Eviction::Lru => "lru",
            Eviction::Sieve => "sieve",
        }
    }

    /// What a name stands for.
    pub fn from_name(name: &str) -> Option<Self> {
        [Eviction::Lru, Eviction::Sieve].into_iter().find(|eviction| eviction.name() == name)
    }

    /// What a number stands for.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Eviction::Lru),
            1 => Some(Eviction::Sieve),
            _ => None,
        }
    }
}

/// The members a shard is formed by, and the epoch it is formed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formation {
    /// The epoch, which stands in the high bits of versions.
    pub epoch: u64,
    /// The Raft ids of all members, ascending.
    pub members: Vec<ReplicaId>,
}

/// One core of one node: where a frame goes to or comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The node.
    pub node: NodeId,
    /// The core on that node.
    pub core: CoreIndex,
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.node, self.core)
    }
}
