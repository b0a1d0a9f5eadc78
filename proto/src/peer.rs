//! Links between cores of different nodes: the greeting, and the frames behind it.
//!
//! A link is one TCP connection per direction and lane, opened by the core that has frames to
//! send. It greets with a [`Hello`]; the other side answers with a [`HelloReply`]; from then on
//! frames flow one way and nothing flows back. One direction per connection keeps the two sides
//! from racing for a shared one, and lets a lane be slow without holding up the other.
//!
//! ```text
//! greeting  magic "CRCL", version (2 bytes), kind (2), length (4), CRC32C of the message (4),
//!           message
//! frame     length (4), CRC32C of the payload (4), payload
//! ```
//!
//! All numbers are little-endian. Magic and version stand before the message, so that a node of
//! another version is told apart from a stranger whatever becomes of the message. The check sum
//! is there because the one of TCP misses damage that this one finds; it protects against
//! accidents and not against people. What a payload means is the engine's business.
//!
//! Invariants: parsers work in place, never panic, and never allocate by an announced length; a
//! greeting takes at most [`GREETING_BYTES_MAX`] and a frame at most [`FRAME_BYTES_MAX`] of a
//! receive buffer. After any error the link has to be closed.

use std::fmt;

use prost::Message as _;

/// The generated messages. Their numbers are unchecked, so they do not leave this file.
#[allow(missing_docs, clippy::all)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/coracle.peer.rs"));
}

/// The first bytes of a greeting.
pub const MAGIC: [u8; 4] = *b"CRCL";
/// Version of the greeting, of the frames, and of what the engine puts into them. Nodes of
/// different versions refuse each other.
pub const VERSION: u16 = 1;
/// Longest message of a greeting in bytes. A hello of a hundred members has some 600.
pub const MESSAGE_BYTES_MAX: usize = 4_096;
/// Bytes of a greeting before its message.
pub const GREETING_HEADER_BYTES: usize = 16;
/// Longest greeting in bytes.
pub const GREETING_BYTES_MAX: usize = GREETING_HEADER_BYTES + MESSAGE_BYTES_MAX;
/// Bytes of a frame before its payload.
pub const FRAME_HEADER_BYTES: usize = 8;
/// Longest payload of a frame in bytes: four of the largest values, so that a turn's messages fit
/// into one frame even when large values are among them, and small enough that one peer cannot
/// fill the memory of a core.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
/// Longest reason of a refusal in bytes; the rest is cut off.
const REASON_BYTES_MAX: usize = 1_024;

/// Which connection of a link a frame takes, so that bulk does not delay the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Raft messages, forwarded requests and their replies.
    Turn,
    /// Snapshot chunks.
    Bulk,
}

/// What an acknowledged write has survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It is in the memory of a majority.
    Memory,
    /// It is on the disks of a majority.
    Fsync,
}

impl fmt::Display for Durability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Durability::Memory => "memory",
            Durability::Fsync => "fsync",
        })
    }
}

/// A core of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The node, from 1.
    pub node: u16,
    /// The core, from 0.
    pub core: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "core {} of node {}", self.core, self.node)
    }
}

/// What all nodes of a cluster have to agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of the cluster.
    pub cluster: String,
    /// Ids of all members, ascending.
    pub members: Vec<u16>,
    /// Number of shards.
    pub shards: u16,
    /// Replicas of each shard.
    pub replication: u16,
    /// One Raft tick, in microseconds.
    pub tick_us: u64,
    /// Ticks without a leader until the first successor campaigns.
    pub election_ticks: u32,
    /// Longest value a client may store, in bytes.
    pub value_bytes_max: u64,
    /// Accounted bytes a shard may hold.
    pub shard_bytes_max: u64,
    /// Number of the eviction policy that a new shard has.
    pub eviction: u32,
    /// What an acknowledgement means.
    pub durability: Durability,
}

/// The first message of a link, from the core that opened it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The cluster settings of the sender.
    pub settings: Settings,
    /// The sender.
    pub from: Endpoint,
    /// Number of cores of the sender's node.
    pub cores: u16,
    /// One life of the sender's process: random, never zero.
    pub incarnation: u64,
    /// What the connection is for.
    pub lane: Lane,
    /// Whom the sender means to reach.
    pub to: Endpoint,
}

/// Who was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// The core.
    pub endpoint: Endpoint,
    /// Number of cores of its node.
    pub cores: u16,
    /// One life of its process: random, never zero.
    pub incarnation: u64,
}

/// The answer to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloReply {
    /// Frames may follow.
    Accepted(Acceptance),
    /// The connection is closed, for this reason.
    Refused(String),
}

/// Why a link cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The other side is no node of any cluster.
    #[error("the bytes are no greeting of a node")]
    Magic,
    /// The other side speaks another version.
    #[error("the other node speaks version {0} of the peer protocol, this one version {VERSION}")]
    Version(u16),
    /// A reply in the place of a hello, or the other way round.
    #[error("the greeting is of another kind than the one that is due")]
    Kind,
    /// The greeting is longer than [`MESSAGE_BYTES_MAX`].
    #[error("a greeting of {0} bytes is too long")]
    GreetingTooLong(u32),
    /// The message is none, or a field has an impossible value.
    #[error("the greeting cannot be read: {0}")]
    Greeting(&'static str),
    /// A frame has no payload.
    #[error("the frame is empty")]
    FrameEmpty,
    /// A frame is longer than [`FRAME_BYTES_MAX`].
    #[error("a frame of {0} bytes is too long")]
    FrameTooLong(u32),
    /// The bytes are not those that were sent.
    #[error("the check sum does not match: the bytes were damaged on their way")]
    CheckSum,
}

/// What stands at the start of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// Not enough to say. What is due, or its header, ends `needed` bytes from the start of the
    /// buffer, which is more than there are.
    Incomplete {
        /// Bytes from the start of the buffer.
        needed: usize,
    },
    /// All of it.
    Complete {
        /// What stands there.
        item: T,
        /// Its length in bytes, at most that of the buffer.
        length: usize,
    },
}

/// Which message a greeting carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Hello = 1,
    Reply = 2,
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|field| u32::from_le_bytes(*field))
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().map(|field| u16::from_le_bytes(*field))
}

/// The message of the greeting at the start of `bytes`, checked but not decoded.
fn parse_greeting(bytes: &[u8], due: Kind) -> Result<Parsed<&[u8]>, PeerError> {
    let at_hand = bytes.len().min(MAGIC.len());
    if bytes[..at_hand] != MAGIC[..at_hand] {
        return Err(PeerError::Magic);
    }
    let incomplete = Ok(Parsed::Incomplete { needed: GREETING_HEADER_BYTES });
    let Some(version) = u16_at(bytes, 4) else { return incomplete };
    if version != VERSION {
        return Err(PeerError::Version(version));
    }
    let Some(kind) = u16_at(bytes, 6) else { return incomplete };
    if kind != due as u16 {
        return Err(PeerError::Kind);
    }
    let Some(announced) = u32_at(bytes, 8) else { return incomplete };
    let length = announced as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(PeerError::GreetingTooLong(announced));
    }
    let Some(sum) = u32_at(bytes, 12) else { return incomplete };
    let end = GREETING_HEADER_BYTES + length;
    let Some(message) = bytes.get(GREETING_HEADER_BYTES..end) else {
        return Ok(Parsed::Incomplete { needed: end });
    };
    if crc32c::crc32c(message) != sum {
        return Err(PeerError::CheckSum);
    }
    Ok(Parsed::Complete { item: message, length: end })
}

fn encode_greeting(kind: Kind, message: &impl prost::Message, out: &mut Vec<u8>) {
    let message = message.encode_to_vec();
    assert!(message.len() <= MESSAGE_BYTES_MAX, "a greeting of {} bytes", message.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(kind as u16).to_le_bytes());
    out.extend_from_slice(&(message.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(&message).to_le_bytes());
    out.extend_from_slice(&message);
}

fn narrow(number: u32, what: &'static str) -> Result<u16, PeerError> {
    u16::try_from(number).map_err(|_| PeerError::Greeting(what))
}

fn incarnation(number: u64) -> Result<u64, PeerError> {
    if number == 0 { Err(PeerError::Greeting("the incarnation is zero")) } else { Ok(number) }
}

impl Settings {
    fn to_wire(&self) -> wire::Settings {
        let durability = match self.durability {
            Durability::Memory => wire::Durability::Memory,
            Durability::Fsync => wire::Durability::Fsync,
        };
        wire::Settings {
            cluster: self.cluster.clone(),
            members: self.members.iter().copied().map(u32::from).collect(),
            shards: self.shards.into(),
            replication: self.replication.into(),
            tick_us: self.tick_us,
            election_ticks: self.election_ticks,
            value_bytes_max: self.value_bytes_max,
            shard_bytes_max: self.shard_bytes_max,
            eviction: self.eviction,
            durability: durability.into(),
        }
    }

    fn from_wire(settings: wire::Settings) -> Result<Self, PeerError> {
        let durability = match settings.durability() {
            wire::Durability::Memory => Durability::Memory,
            wire::Durability::Fsync => Durability::Fsync,
            wire::Durability::Unspecified => {
                return Err(PeerError::Greeting("the durability is unknown"));
            }
        };
        let member = |&id: &u32| narrow(id, "a member's id is too large");
        Ok(Settings {
            members: settings.members.iter().map(member).collect::<Result<_, _>>()?,
            shards: narrow(settings.shards, "the number of shards is too large")?,
            replication: narrow(settings.replication, "the replication is too large")?,
            tick_us: settings.tick_us,
            election_ticks: settings.election_ticks,
            value_bytes_max: settings.value_bytes_max,
            shard_bytes_max: settings.shard_bytes_max,
            eviction: settings.eviction,
            durability,
            cluster: settings.cluster,
        })
    }
}

impl Hello {
    /// Appends the greeting to `out`.
    ///
    /// # Panics
    /// If it is longer than [`GREETING_BYTES_MAX`]: that takes a cluster of more than a thousand
    /// members or a name of kilobytes, which the configuration refuses.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let lane = match self.lane {
            Lane::Turn => wire::Lane::Turn,
            Lane::Bulk => wire::Lane::Bulk,
        };
        let hello = wire::Hello {
            settings: Some(self.settings.to_wire()),
            node: self.from.node.into(),
            core: self.from.core.into(),
            cores: self.cores.into(),
            incarnation: self.incarnation,
            lane: lane.into(),
            to_node: self.to.node.into(),
            to_core: self.to.core.into(),
        };
        encode_greeting(Kind::Hello, &hello, out);
    }

    /// Reads the hello at the start of `bytes`.
    ///
    /// # Errors
    /// If there stands something else.
    pub fn parse(bytes: &[u8]) -> Result<Parsed<Hello>, PeerError> {
        let (message, length) = match parse_greeting(bytes, Kind::Hello)? {
            Parsed::Incomplete { needed } => return Ok(Parsed::Incomplete { needed }),
            Parsed::Complete { item, length } => (item, length),
        };
        let hello = wire::Hello::decode(message)
            .map_err(|_| PeerError::Greeting("the message is malformed"))?;
        let lane = match hello.lane() {
            wire::Lane::Turn => Lane::Turn,
            wire::Lane::Bulk => Lane::Bulk,
            wire::Lane::Unspecified => return Err(PeerError::Greeting("the lane is unknown")),
        };
        let settings = hello.settings.ok_or(PeerError::Greeting("the settings are missing"))?;
        let item = Hello {
            settings: Settings::from_wire(settings)?,
            from: endpoint(hello.node, hello.core)?,
            cores: narrow(hello.cores, "the number of cores is too large")?,
            incarnation: incarnation(hello.incarnation)?,
            lane,
            to: endpoint(hello.to_node, hello.to_core)?,
        };
        Ok(Parsed::Complete { item, length })
    }
}

fn endpoint(node: u32, core: u32) -> Result<Endpoint, PeerError> {
    Ok(Endpoint {
        node: narrow(node, "the id of the node is too large")?,
        core: narrow(core, "the core is too large")?,
    })
}

impl HelloReply {
    /// Appends the greeting to `out`. A reason of more than 1,024 bytes is cut.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let outcome = match self {
            HelloReply::Accepted(acceptance) => {
                wire::hello_reply::Outcome::Accepted(wire::Accepted {
                    node: acceptance.endpoint.node.into(),
                    core: acceptance.endpoint.core.into(),
                    cores: acceptance.cores.into(),
                    incarnation: acceptance.incarnation,
                })
            }
            HelloReply::Refused(reason) => {
                let end = reason.floor_char_boundary(REASON_BYTES_MAX);
                let reason = reason[..end].to_owned();
                wire::hello_reply::Outcome::Refused(wire::Refused { reason })
            }
        };
        encode_greeting(Kind::Reply, &wire::HelloReply { outcome: Some(outcome) }, out);
    }

    /// Reads the reply at the start of `bytes`.
    ///
    /// # Errors
    /// If there stands something else.
    pub fn parse(bytes: &[u8]) -> Result<Parsed<HelloReply>, PeerError> {
        let (message, length) = match parse_greeting(bytes, Kind::Reply)? {
            Parsed::Incomplete { needed } => return Ok(Parsed::Incomplete { needed }),
            Parsed::Complete { item, length } => (item, length),
        };
        let reply = wire::HelloReply::decode(message)
            .map_err(|_| PeerError::Greeting("the message is malformed"))?;
        let item = match reply.outcome {
            Some(wire::hello_reply::Outcome::Accepted(accepted)) => {
                HelloReply::Accepted(Acceptance {
                    endpoint: endpoint(accepted.node, accepted.core)?,
                    cores: narrow(accepted.cores, "the number of cores is too large")?,
                    incarnation: incarnation(accepted.incarnation)?,
                })
            }
            Some(wire::hello_reply::Outcome::Refused(refused)) => {
                HelloReply::Refused(refused.reason)
            }
            None => return Err(PeerError::Greeting("the reply has no outcome")),
        };
        Ok(Parsed::Complete { item, length })
    }
}

/// Why a core does not take the link of another. The text goes to both logs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloRefusal {
    /// The two nodes belong to different clusters.
    #[error("the cluster is {ours:?} here and {theirs:?} at node {node}")]
    Cluster {
        /// Who greeted.
        node: u16,
        /// The name here.
        ours: String,
        /// The name there.
        theirs: String,
    },
    /// The two nodes know different members.
    #[error("the members are {ours:?} here and {theirs:?} at node {node}")]
    Members {
        /// Who greeted.
        node: u16,
        /// The members here.
        ours: Vec<u16>,
        /// The members there.
        theirs: Vec<u16>,
    },
    /// A setting that the whole cluster shares differs.
    #[error("{setting} is {ours} here and {theirs} at node {node}")]
    Setting {
        /// Who greeted.
        node: u16,
        /// Which, with its unit.
        setting: &'static str,
        /// The value here.
        ours: String,
        /// The value there.
        theirs: String,
    },
    /// The greeting is for somebody else: an address leads to another node than its sender thinks,
    /// or the number of cores has changed.
    #[error("this is {here} and not {meant}")]
    Addressee {
        /// Who was reached.
        here: Endpoint,
        /// Who was meant.
        meant: Endpoint,
    },
    /// The sender is no member.
    #[error("node {0} is not a member of this cluster")]
    NotAMember(u16),
    /// The sender has this node's own id.
    #[error("node {0} greets itself, or two nodes have the same id")]
    OwnId(u16),
    /// The sender's core does not exist by its own count.
    #[error("core {core} of node {node} does not exist: it has {cores}")]
    NoSuchCore {
        /// The node.
        node: u16,
        /// The core.
        core: u16,
        /// Number of cores it says it has.
        cores: u16,
    },
}

/// Whether the core `here`, with these settings, takes the link of who greets.
///
/// # Errors
/// The first thing that differs, the most telling ones first.
pub fn check(hello: &Hello, settings: &Settings, here: Endpoint) -> Result<(), HelloRefusal> {
    let (node, theirs) = (hello.from.node, &hello.settings);
    if settings.cluster != theirs.cluster {
        let (ours, theirs) = (settings.cluster.clone(), theirs.cluster.clone());
        return Err(HelloRefusal::Cluster { node, ours, theirs });
    }
    if settings.members != theirs.members {
        let (ours, theirs) = (settings.members.clone(), theirs.members.clone());
        return Err(HelloRefusal::Members { node, ours, theirs });
    }
    let numbers: [(&'static str, u64, u64); 7] = [
        ("the number of shards", settings.shards.into(), theirs.shards.into()),
        ("the replication", settings.replication.into(), theirs.replication.into()),
        ("the tick in microseconds", settings.tick_us, theirs.tick_us),
        ("the election in ticks", settings.election_ticks.into(), theirs.election_ticks.into()),
        ("the value limit in bytes", settings.value_bytes_max, theirs.value_bytes_max),
        ("the memory limit of a shard in bytes", settings.shard_bytes_max, theirs.shard_bytes_max),
        ("the number of the eviction policy", settings.eviction.into(), theirs.eviction.into()),
    ];
    for (setting, ours, theirs) in numbers {
        if ours != theirs {
            let (ours, theirs) = (ours.to_string(), theirs.to_string());
            return Err(HelloRefusal::Setting { node, setting, ours, theirs });
        }
    }
    if settings.durability != theirs.durability {
        let (ours, theirs) = (settings.durability.to_string(), theirs.durability.to_string());
        return Err(HelloRefusal::Setting { node, setting: "the durability", ours, theirs });
    }
    if hello.to != here {
        return Err(HelloRefusal::Addressee { here, meant: hello.to });
    }
    if node == here.node {
        return Err(HelloRefusal::OwnId(node));
    }
    if !settings.members.contains(&node) {
        return Err(HelloRefusal::NotAMember(node));
    }
    if hello.from.core >= hello.cores {
        let Hello { from: Endpoint { core, .. }, cores, .. } = *hello;
        return Err(HelloRefusal::NoSuchCore { node, core, cores });
    }
    Ok(())
}

/// The bytes that go before `payload` on a link.
///
/// # Errors
/// If the payload is empty or longer than [`FRAME_BYTES_MAX`]: the other side would close.
pub fn frame_header(payload: &[u8]) -> Result<[u8; FRAME_HEADER_BYTES], PeerError> {
    if payload.is_empty() {
        return Err(PeerError::FrameEmpty);
    }
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    if payload.len() > FRAME_BYTES_MAX {
        return Err(PeerError::FrameTooLong(length));
    }
    let [l0, l1, l2, l3] = length.to_le_bytes();
    let [c0, c1, c2, c3] = crc32c::crc32c(payload).to_le_bytes();
    Ok([l0, l1, l2, l3, c0, c1, c2, c3])
}

/// The payload of the frame at the start of `bytes`.
///
/// # Errors
/// If the announced length is impossible, which shows before the payload arrives, or if the bytes
/// were damaged.
pub fn parse_frame(bytes: &[u8]) -> Result<Parsed<&[u8]>, PeerError> {
    let Some(announced) = u32_at(bytes, 0) else {
        return Ok(Parsed::Incomplete { needed: FRAME_HEADER_BYTES });
    };
    let length = announced as usize;
    if length == 0 {
        return Err(PeerError::FrameEmpty);
    }
    if length > FRAME_BYTES_MAX {
        return Err(PeerError::FrameTooLong(announced));
    }
    let Some(sum) = u32_at(bytes, 4) else {
        return Ok(Parsed::Incomplete { needed: FRAME_HEADER_BYTES });
    };
    let end = FRAME_HEADER_BYTES + length;
    let Some(payload) = bytes.get(FRAME_HEADER_BYTES..end) else {
        return Ok(Parsed::Incomplete { needed: end });
    };
    if crc32c::crc32c(payload) != sum {
        return Err(PeerError::CheckSum);
    }
    Ok(Parsed::Complete { item: payload, length: end })
}

#[cfg(test)]
mod tests;
