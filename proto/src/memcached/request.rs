//! Requests of the binary protocol: from bytes to meaning and back.
//!
//! The parser reads one packet in place from the start of a buffer and keeps nothing: the same
//! bytes give the same result however they arrived. Everything that can be wrong with a request
//! shows in its header, so a request is refused as soon as its header is there, and its body can
//! be skipped as it arrives instead of being gathered first. Refused is not broken: the next
//! packet starts where the header said. Only a packet whose lengths contradict each other, or
//! that starts with a foreign byte, makes the rest of the stream unusable.
//!
//! What this file does not do: it gives no request a meaning on a store, and answers nothing.

use super::frame::{
    Body, Echo, FLEXIBLE_REQUEST_MAGIC, FrameError, HEADER_BYTES, Header, Lengths, REQUEST_MAGIC,
    Sections,
};
use super::status::Status;

/// Longest key in bytes unless a connection negotiated more: memcached's own limit.
pub const KEY_BYTES_MAX: u16 = 250;
/// Longest value in bytes unless the server is set to another limit: memcached's own default.
pub const VALUE_BYTES_MAX: u32 = 1 << 20;
/// Longest body in bytes that is skipped for the sake of the packets behind it. Four times the
/// longest value that a server can be set to: above this it is no value that grew too large, and
/// closing is cheaper for both sides than reading on.
pub const SKIPPED_BODY_BYTES_MAX: u32 = 64 << 20;

/// What a connection accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest key in bytes.
    pub key_bytes_max: u16,
    /// Longest value in bytes.
    pub value_bytes_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { key_bytes_max: KEY_BYTES_MAX, value_bytes_max: VALUE_BYTES_MAX }
    }
}

/// Whether a request wants to hear of its success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loudness {
    /// Every outcome is answered.
    Loud,
    /// Only what is unusual is answered: hits of reads, failures of everything else.
    Quiet,
}

/// What a read returns beside the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnKey {
    /// The value alone.
    No,
    /// The key as well.
    Yes,
}

/// When a `Store` stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreMode {
    /// Always.
    Set,
    /// Only if the key is absent.
    Add,
    /// Only if the key is there.
    Replace,
}

/// Which end of a value an `Extend` adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After the last byte.
    Append,
    /// Before the first byte.
    Prepend,
}

/// Which way a `Count` goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Upwards.
    Increment,
    /// Downwards.
    Decrement,
}

/// What a request asks for. Expirations are as on the wire: 0 is never, up to 30 days relative
/// seconds, above that seconds of the Unix clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Read a value.
    Get {
        /// Which.
        key: &'a [u8],
        /// Whether the response repeats it.
        return_key: ReturnKey,
    },
    /// Store a value.
    Store {
        /// When.
        mode: StoreMode,
        /// Where.
        key: &'a [u8],
        /// What.
        value: &'a [u8],
        /// The client's flags.
        flags: u32,
        /// Until when.
        expiration: u32,
    },
    /// Remove a key.
    Delete {
        /// Which.
        key: &'a [u8],
    },
    /// Count up or down.
    Count {
        /// Which way.
        direction: Direction,
        /// Where.
        key: &'a [u8],
        /// How far.
        delta: u64,
        /// What an absent key starts with.
        initial: u64,
        /// Until when the new key lives; [`NO_CREATE`] for not creating it.
        expiration: u32,
    },
    /// Close the connection.
    Quit,
    /// Remove everything.
    Flush {
        /// When; absent for at once.
        expiration: Option<u32>,
    },
    /// Nothing: a mark in the order of responses.
    Noop,
    /// Which version the server is.
    Version,
    /// Add to one end of a value.
    Extend {
        /// Which end.
        end: End,
        /// Where.
        key: &'a [u8],
        /// What.
        value: &'a [u8],
    },
    /// Statistics.
    Stat {
        /// Which group; empty for the general ones.
        group: &'a [u8],
    },
    /// Change what the server logs.
    Verbosity {
        /// How much.
        level: u32,
    },
    /// Change a deadline.
    Touch {
        /// Whose.
        key: &'a [u8],
        /// The new one.
        expiration: u32,
    },
    /// Change a deadline and read the value.
    GetAndTouch {
        /// Whose.
        key: &'a [u8],
        /// The new one.
        expiration: u32,
        /// Whether the response repeats the key.
        return_key: ReturnKey,
    },
    /// Negotiate features.
    Hello {
        /// The client's name.
        agent: &'a [u8],
        /// Feature codes of two bytes each; [`features`] reads them.
        features: &'a [u8],
    },
    /// Which ways to authenticate there are.
    SaslList,
    /// Authenticate.
    SaslAuth {
        /// In which way.
        mechanism: &'a [u8],
        /// With what.
        data: &'a [u8],
    },
    /// Go on authenticating.
    SaslStep {
        /// In which way.
        mechanism: &'a [u8],
        /// With what.
        data: &'a [u8],
    },
    /// The cluster map.
    ClusterConfig,
}

/// The expiration with which a `Count` on an absent key does not create it.
pub const NO_CREATE: u32 = u32::MAX;

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What is asked.
    pub command: Command<'a>,
    /// Whether success is answered. Always loud where the protocol has no quiet opcode.
    pub loudness: Loudness,
    /// The shard; 0 from clients that know no vbuckets.
    pub vbucket: u16,
    /// Echoed by the response.
    pub opaque: u32,
    /// The version that the request insists on; 0 for any.
    pub cas: u64,
    /// Frame extras as they came; empty for most.
    pub frame_extras: &'a [u8],
}

/// Why a request is refused. The connection goes on behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No command has this opcode.
    #[error("Unknown command")]
    UnknownOpcode,
    /// The command has no such extras.
    #[error("Invalid arguments: extras length")]
    Extras,
    /// The command needs a key.
    #[error("Invalid arguments: key missing")]
    KeyMissing,
    /// The key is longer than the connection's limit.
    #[error("Invalid arguments: key too long")]
    KeyTooLong,
    /// The command has no key.
    #[error("Invalid arguments: unexpected key")]
    UnexpectedKey,
    /// The command has no value.
    #[error("Invalid arguments: unexpected value")]
    UnexpectedValue,
    /// The value is longer than the connection's limit.
    #[error("Too large")]
    ValueTooLong,
    /// The list of features is not a list of two-byte codes.
    #[error("Invalid arguments: feature list")]
    Features,
    /// Only raw bytes (0) are known.
    #[error("Invalid arguments: data type")]
    DataType,
}

impl Refusal {
    /// The status that says so.
    pub fn status(self) -> Status {
        match self {
            Refusal::UnknownOpcode => Status::UNKNOWN_COMMAND,
            Refusal::ValueTooLong => Status::TOO_LARGE,
            _ => Status::INVALID_ARGUMENTS,
        }
    }
}

/// What stands at the start of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParsedRequest<'a> {
    /// Not enough to say. The packet, or its header, ends `needed` bytes from the start of the
    /// buffer, which is more than there are. Never more than [`packet_bytes_max`].
    Incomplete {
        /// Bytes from the start of the buffer.
        needed: usize,
    },
    /// A request.
    Request {
        /// It.
        request: Request<'a>,
        /// Its length in bytes, at most that of the buffer.
        length: usize,
    },
    /// A request that is answered with a status and then skipped.
    Refused {
        /// What to answer to.
        echo: Echo,
        /// Why.
        refusal: Refusal,
        /// Length of the packet in bytes. It may exceed that of the buffer; then the rest has to
        /// be skipped as it arrives.
        length: usize,
    },
}

/// Longest packet in bytes that a connection with these limits has to gather.
pub fn packet_bytes_max(limits: &Limits) -> usize {
    let sections = 2 * usize::from(u8::MAX) + usize::from(limits.key_bytes_max);
    HEADER_BYTES + sections + limits.value_bytes_max as usize
}

/// Reads the request at the start of `bytes`.
///
/// # Errors
/// If no request can start here, or its announced lengths make no sense. The connection has to be
/// closed, after an answer if the error has an [`Echo`].
pub fn parse_request<'a>(
    bytes: &'a [u8],
    limits: &Limits,
) -> Result<ParsedRequest<'a>, FrameError> {
    let Some(&magic) = bytes.first() else {
        return Ok(ParsedRequest::Incomplete { needed: HEADER_BYTES });
    };
    if magic != REQUEST_MAGIC && magic != FLEXIBLE_REQUEST_MAGIC {
        return Err(FrameError::Magic(magic));
    }
    let Some(header) = Header::read(bytes) else {
        return Ok(ParsedRequest::Incomplete { needed: HEADER_BYTES });
    };
    let sections = header.sections(SKIPPED_BODY_BYTES_MAX)?;
    let length = sections.packet();
    let accepted = shape_of(header.opcode)
        .and_then(|shape| shape.accept(&header, &sections, limits).map(|()| shape));
    let shape = match accepted {
        Ok(shape) => shape,
        Err(refusal) => {
            return Ok(ParsedRequest::Refused { echo: header.echo(), refusal, length });
        }
    };
    let Some(body) = sections.cut(bytes) else {
        return Ok(ParsedRequest::Incomplete { needed: length });
    };
    let Some(command) = shape.kind.command(&body) else {
        // The shape has checked the extras' length, so this is out of reach; refusing is still
        // the right answer to extras that cannot be read.
        let refusal = Refusal::Extras;
        return Ok(ParsedRequest::Refused { echo: header.echo(), refusal, length });
    };
    let request = Request {
        command,
        loudness: shape.loudness,
        vbucket: header.vbucket_or_status,
        opaque: header.opaque,
        cas: header.cas,
        frame_extras: body.frame_extras,
    };
    Ok(ParsedRequest::Request { request, length })
}

/// The feature codes of a [`Command::Hello`].
pub fn features(list: &[u8]) -> impl Iterator<Item = u16> + '_ {
    list.chunks_exact(2).filter_map(|code| code.try_into().ok().map(u16::from_be_bytes))
}

/// Which command an opcode stands for, without its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Get(ReturnKey),
    Store(StoreMode),
    Delete,
    Count(Direction),
    Quit,
    Flush,
    Noop,
    Version,
    Extend(End),
    Stat,
    Verbosity,
    Touch,
    GetAndTouch(ReturnKey),
    Hello,
    SaslList,
    SaslAuth,
    SaslStep,
    ClusterConfig,
}

/// Whether a section of a packet has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Required,
    Optional,
    Forbidden,
}

/// What packets of one opcode look like.
#[derive(Clone, Copy, Debug)]
struct Shape {
    kind: Kind,
    loudness: Loudness,
}

const fn shape_of(opcode: u8) -> Result<Shape, Refusal> {
    use Loudness::{Loud, Quiet};
    let (kind, loudness) = match opcode {
        0x00 => (Kind::Get(ReturnKey::No), Loud),
        0x01 => (Kind::Store(StoreMode::Set), Loud),
        0x02 => (Kind::Store(StoreMode::Add), Loud),
        0x03 => (Kind::Store(StoreMode::Replace), Loud),
        0x04 => (Kind::Delete, Loud),
        0x05 => (Kind::Count(Direction::Increment), Loud),
        0x06 => (Kind::Count(Direction::Decrement), Loud),
        0x07 => (Kind::Quit, Loud),
        0x08 => (Kind::Flush, Loud),
        0x09 => (Kind::Get(ReturnKey::No), Quiet),
        0x0a => (Kind::Noop, Loud),
        0x0b => (Kind::Version, Loud),
        0x0c => (Kind::Get(ReturnKey::Yes), Loud),
        0x0d => (Kind::Get(ReturnKey::Yes), Quiet),
        0x0e => (Kind::Extend(End::Append), Loud),
        0x0f => (Kind::Extend(End::Prepend), Loud),
        0x10 => (Kind::Stat, Loud),
        0x11 => (Kind::Store(StoreMode::Set), Quiet),
        0x12 => (Kind::Store(StoreMode::Add), Quiet),
        0x13 => (Kind::Store(StoreMode::Replace), Quiet),
        0x14 => (Kind::Delete, Quiet),
        0x15 => (Kind::Count(Direction::Increment), Quiet),
        0x16 => (Kind::Count(Direction::Decrement), Quiet),
        0x17 => (Kind::Quit, Quiet),
        0x18 => (Kind::Flush, Quiet),
        0x19 => (Kind::Extend(End::Append), Quiet),
        0x1a => (Kind::Extend(End::Prepend), Quiet),
        0x1b => (Kind::Verbosity, Loud),
        0x1c => (Kind::Touch, Loud),
        0x1d => (Kind::GetAndTouch(ReturnKey::No), Loud),
        0x1e => (Kind::GetAndTouch(ReturnKey::No), Quiet),
        0x1f => (Kind::Hello, Loud),
        0x20 => (Kind::SaslList, Loud),
        0x21 => (Kind::SaslAuth, Loud),
        0x22 => (Kind::SaslStep, Loud),
        0x23 => (Kind::GetAndTouch(ReturnKey::Yes), Loud),
        0x24 => (Kind::GetAndTouch(ReturnKey::Yes), Quiet),
        0xb5 => (Kind::ClusterConfig, Loud),
        _ => return Err(Refusal::UnknownOpcode),
    };
    Ok(Shape { kind, loudness })
}

impl Shape {
    fn accept(self, header: &Header, sections: &Sections, limits: &Limits) -> Result<(), Refusal> {
        if header.data_type != 0 {
            return Err(Refusal::DataType);
        }
        if !self.kind.extras_lengths().contains(&sections.extras()) {
            return Err(Refusal::Extras);
        }
        let (key, value) = self.kind.presence();
        match key {
            Presence::Required if sections.key() == 0 => return Err(Refusal::KeyMissing),
            Presence::Forbidden if sections.key() != 0 => return Err(Refusal::UnexpectedKey),
            _ if sections.key() > usize::from(limits.key_bytes_max) => {
                return Err(Refusal::KeyTooLong);
            }
            _ => {}
        }
        if value == Presence::Forbidden && sections.value() != 0 {
            return Err(Refusal::UnexpectedValue);
        }
        if sections.value() > limits.value_bytes_max as usize {
            return Err(Refusal::ValueTooLong);
        }
        if self.kind == Kind::Hello && !sections.value().is_multiple_of(2) {
            return Err(Refusal::Features);
        }
        Ok(())
    }
}

impl Kind {
    fn extras_lengths(self) -> &'static [usize] {
        match self {
            Kind::Store(_) => &[8],
            Kind::Count(_) => &[20],
            Kind::Flush => &[0, 4],
            Kind::Verbosity | Kind::Touch | Kind::GetAndTouch(_) => &[4],
            _ => &[0],
        }
    }

    /// Of the key and of the value.
    fn presence(self) -> (Presence, Presence) {
        use Presence::{Forbidden, Optional, Required};
        match self {
            Kind::Store(_) | Kind::Extend(_) | Kind::SaslAuth | Kind::SaslStep => {
                (Required, Optional)
            }
            Kind::Get(_) | Kind::Delete | Kind::Count(_) | Kind::Touch | Kind::GetAndTouch(_) => {
                (Required, Forbidden)
            }
            Kind::Stat => (Optional, Forbidden),
            Kind::Hello => (Optional, Optional),
            Kind::Quit
            | Kind::Flush
            | Kind::Noop
            | Kind::Version
            | Kind::Verbosity
            | Kind::SaslList
            | Kind::ClusterConfig => (Forbidden, Forbidden),
        }
    }

    fn command<'a>(self, body: &Body<'a>) -> Option<Command<'a>> {
        let Body { extras, key, value, .. } = *body;
        Some(match self {
            Kind::Get(return_key) => Command::Get { key, return_key },
            Kind::Store(mode) => {
                let (flags, expiration) = (u32_at(extras, 0)?, u32_at(extras, 4)?);
                Command::Store { mode, key, value, flags, expiration }
            }
            Kind::Delete => Command::Delete { key },
            Kind::Count(direction) => {
                let (delta, initial) = (u64_at(extras, 0)?, u64_at(extras, 8)?);
                let expiration = u32_at(extras, 16)?;
                Command::Count { direction, key, delta, initial, expiration }
            }
            Kind::Quit => Command::Quit,
            Kind::Flush => Command::Flush { expiration: u32_at(extras, 0) },
            Kind::Noop => Command::Noop,
            Kind::Version => Command::Version,
            Kind::Extend(end) => Command::Extend { end, key, value },
            Kind::Stat => Command::Stat { group: key },
            Kind::Verbosity => Command::Verbosity { level: u32_at(extras, 0)? },
            Kind::Touch => Command::Touch { key, expiration: u32_at(extras, 0)? },
            Kind::GetAndTouch(return_key) => {
                Command::GetAndTouch { key, expiration: u32_at(extras, 0)?, return_key }
            }
            Kind::Hello => Command::Hello { agent: key, features: value },
            Kind::SaslList => Command::SaslList,
            Kind::SaslAuth => Command::SaslAuth { mechanism: key, data: value },
            Kind::SaslStep => Command::SaslStep { mechanism: key, data: value },
            Kind::ClusterConfig => Command::ClusterConfig,
        })
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|field| u32::from_be_bytes(*field))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().map(|field| u64::from_be_bytes(*field))
}

/// Why a request cannot be put on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The length field has 16 bits; behind frame extras, 8.
    #[error("a key of {0} bytes does not fit into a packet")]
    KeyTooLong(usize),
    /// The length field has 32 bits for the whole body.
    #[error("a body of {0} bytes does not fit into a packet")]
    BodyTooLong(usize),
    /// The length field has 8 bits.
    #[error("frame extras of {0} bytes do not fit into a packet")]
    FrameExtrasTooLong(usize),
    /// The protocol has no quiet opcode for this command.
    #[error("the command has no quiet form")]
    NoQuietForm,
}

/// Extras of a request: at most 20 bytes, gathered on the stack.
struct Extras {
    bytes: [u8; 20],
    length: u8,
}

impl Extras {
    fn new() -> Self {
        Extras { bytes: [0; 20], length: 0 }
    }

    fn add<const N: usize>(mut self, field: [u8; N]) -> Self {
        let start = usize::from(self.length);
        self.bytes[start..start + N].copy_from_slice(&field);
        self.length += N as u8;
        self
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl<'a> Request<'a> {
    /// A loud request without CAS, vbucket and frame extras.
    pub fn new(command: Command<'a>, opaque: u32) -> Self {
        Request { command, loudness: Loudness::Loud, vbucket: 0, opaque, cas: 0, frame_extras: &[] }
    }

    /// The opcode, or nothing if the command has no quiet form and is quiet.
    pub fn opcode(&self) -> Option<u8> {
        let (loud, quiet) = match self.command {
            Command::Get { return_key: ReturnKey::No, .. } => (0x00, Some(0x09)),
            Command::Get { return_key: ReturnKey::Yes, .. } => (0x0c, Some(0x0d)),
            Command::Store { mode: StoreMode::Set, .. } => (0x01, Some(0x11)),
            Command::Store { mode: StoreMode::Add, .. } => (0x02, Some(0x12)),
            Command::Store { mode: StoreMode::Replace, .. } => (0x03, Some(0x13)),
            Command::Delete { .. } => (0x04, Some(0x14)),
            Command::Count { direction: Direction::Increment, .. } => (0x05, Some(0x15)),
            Command::Count { direction: Direction::Decrement, .. } => (0x06, Some(0x16)),
            Command::Quit => (0x07, Some(0x17)),
            Command::Flush { .. } => (0x08, Some(0x18)),
            Command::Noop => (0x0a, None),
            Command::Version => (0x0b, None),
            Command::Extend { end: End::Append, .. } => (0x0e, Some(0x19)),
            Command::Extend { end: End::Prepend, .. } => (0x0f, Some(0x1a)),
            Command::Stat { .. } => (0x10, None),
            Command::Verbosity { .. } => (0x1b, None),
            Command::Touch { .. } => (0x1c, None),
            Command::GetAndTouch { return_key: ReturnKey::No, .. } => (0x1d, Some(0x1e)),
            Command::GetAndTouch { return_key: ReturnKey::Yes, .. } => (0x23, Some(0x24)),
            Command::Hello { .. } => (0x1f, None),
            Command::SaslList => (0x20, None),
            Command::SaslAuth { .. } => (0x21, None),
            Command::SaslStep { .. } => (0x22, None),
            Command::ClusterConfig => (0xb5, None),
        };
        match self.loudness {
            Loudness::Loud => Some(loud),
            Loudness::Quiet => quiet,
        }
    }

    fn sections(&self) -> (Extras, &'a [u8], &'a [u8]) {
        let none = Extras::new();
        match self.command {
            Command::Get { key, .. } | Command::Delete { key } => (none, key, &[]),
            Command::Store { key, value, flags, expiration, .. } => {
                (none.add(flags.to_be_bytes()).add(expiration.to_be_bytes()), key, value)
            }
            Command::Count { key, delta, initial, expiration, .. } => {
                let counts = none.add(delta.to_be_bytes()).add(initial.to_be_bytes());
                (counts.add(expiration.to_be_bytes()), key, &[])
            }
            Command::Flush { expiration: Some(expiration) } => {
                (none.add(expiration.to_be_bytes()), &[], &[])
            }
            Command::Extend { key, value, .. } => (none, key, value),
            Command::Stat { group } => (none, group, &[]),
            Command::Verbosity { level } => (none.add(level.to_be_bytes()), &[], &[]),
            Command::Touch { key, expiration } | Command::GetAndTouch { key, expiration, .. } => {
                (none.add(expiration.to_be_bytes()), key, &[])
            }
            Command::Hello { agent, features } => (none, agent, features),
            Command::SaslAuth { mechanism, data } | Command::SaslStep { mechanism, data } => {
                (none, mechanism, data)
            }
            Command::Quit
            | Command::Flush { expiration: None }
            | Command::Noop
            | Command::Version
            | Command::SaslList
            | Command::ClusterConfig => (none, &[], &[]),
        }
    }

    /// Appends the packet to `out`.
    ///
    /// # Errors
    /// If a section does not fit into its length field, or there is no such opcode; `out` is
    /// unchanged then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let opcode = self.opcode().ok_or(EncodeError::NoQuietForm)?;
        let (extras, key, value) = self.sections();
        let frame_extras_length = u8::try_from(self.frame_extras.len())
            .map_err(|_| EncodeError::FrameExtrasTooLong(self.frame_extras.len()))?;
        let flexible = frame_extras_length != 0;
        let key_bytes_max = if flexible { usize::from(u8::MAX) } else { usize::from(u16::MAX) };
        if key.len() > key_bytes_max {
            return Err(EncodeError::KeyTooLong(key.len()));
        }
        let extras = extras.as_bytes();
        let body = self.frame_extras.len() + extras.len() + key.len();
        let body = value.len().saturating_add(body);
        let header = Header {
            magic: if flexible { FLEXIBLE_REQUEST_MAGIC } else { REQUEST_MAGIC },
            opcode,
            lengths: Lengths {
                frame_extras: frame_extras_length,
                extras: extras.len() as u8,
                key: key.len() as u16,
                body: u32::try_from(body).map_err(|_| EncodeError::BodyTooLong(body))?,
            },
            data_type: 0,
            vbucket_or_status: self.vbucket,
            opaque: self.opaque,
            cas: self.cas,
        };
        out.reserve(HEADER_BYTES + body);
        out.extend_from_slice(&header.bytes());
        for section in [self.frame_extras, extras, key, value] {
            out.extend_from_slice(section);
        }
        Ok(())
    }
}
