//! Commands: what a client asks of one key (or of one whole shard), and how the log carries it.
//!
//! One encoding serves everywhere: the batch a connection task fills, the forward to another core
//! or node, the parked queue and the log entry. A command is therefore encoded once, and from
//! there on only copied. Relative times stay relative: the log entry's stamp turns them into
//! deadlines when they are applied, so that waiting costs no life time.
//!
//! The encoding is little-endian: operation (1 byte), modifiers (1), key length (2), value length
//! (4), the operation's fixed fields, key, value. Operation codes are persistent; they are never
//! reused. Bytes that are not a command are an error, never a panic.

use crate::ids::{Eviction, Millis, ShardId, Version};
use crate::reply::Token;

/// Longest key in bytes: the length field's range.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;
/// Longest value in bytes that any setting may allow.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// Bytes before an operation's fixed fields.
const HEADER_BYTES: usize = 8;

/// What becomes of an entry's deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// No deadline (and an earlier one is removed).
    #[default]
    Never,
    /// The deadline stays as it is.
    Keep,
    /// So long after the stamp of the log entry. Zero expires at once.
    In(Millis),
    /// At this point of shard time. One that has passed expires at once.
    At(Millis),
}

/// Under which condition a `Set` stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetCondition {
    /// Always.
    #[default]
    Always,
    /// Only if the key is absent (NX, memcached's add); else the status is `Exists`.
    IfAbsent,
    /// Only if the key is there (XX, memcached's replace); else `NotFound`.
    IfPresent,
    /// Only if the entry has this version; else `NotFound` or `ConditionFailed`.
    IfVersion(Version),
}

/// Under which condition an `Expire` changes the deadline; else the status is `ConditionFailed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExpireCondition {
    /// Always.
    #[default]
    Always,
    /// Only if the entry has no deadline (NX).
    IfNone,
    /// Only if the entry has a deadline (XX).
    IfSome,
    /// Only if the new deadline is later; no deadline counts as infinitely late (GT).
    IfLater,
    /// Only if the new deadline is earlier; no deadline counts as infinitely late (LT).
    IfEarlier,
}

/// Which end of a value an `Extend` adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Before the first byte.
    Front,
    /// After the last byte.
    Back,
}

/// What to do with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Read: the value with flags, version, deadline; or `NotFound`.
    Get {
        /// Whether it does not count as a use of the key.
        peek: bool,
    },
    /// Read: like `Get` without the value; `number` is the value's length.
    Inspect {
        /// Whether it does not count as a use of the key.
        peek: bool,
    },
    /// Read, of the shard named by the request rather than of a key: `number` is its live keys.
    KeyCount,
    /// Store a value. `number` is 1 if the key was there before.
    Set {
        /// The bytes.
        value: &'a [u8],
        /// The client's flags.
        flags: u32,
        /// When to store at all.
        condition: SetCondition,
        /// The deadline.
        expiry: Expiry,
        /// Whether the reply carries the value from before, stored or not.
        return_old: bool,
    },
    /// Add bytes at one end. `number` is the new length. Flags and deadline stay.
    Extend {
        /// Where to add.
        end: End,
        /// What to add.
        value: &'a [u8],
        /// Whether an absent key counts as an empty one; else the status is `NotFound`.
        create: bool,
        /// Only at this version; zero for any.
        version: Version,
    },
    /// Redis' counter: a signed 64-bit integer in decimal; an absent key counts as 0. `number` is
    /// the result; `NotANumber` or `Overflow` change nothing. Flags and deadline stay.
    Increment {
        /// What to add.
        delta: i64,
    },
    /// memcached's counter: an unsigned 64-bit integer in decimal that wraps upwards and stops at
    /// zero downwards. `number` is the result. Flags and deadline stay.
    Count {
        /// How far.
        delta: u64,
        /// Downwards instead of upwards.
        decrement: bool,
        /// The value and deadline an absent key gets; without it the status is `NotFound`.
        initial: Option<(u64, Expiry)>,
        /// Only at this version; zero for any.
        version: Version,
    },
    /// Remove the key.
    Delete {
        /// Only at this version; zero for any.
        version: Version,
        /// Whether the reply carries the value from before.
        return_old: bool,
    },
    /// Change the deadline; the reply is that of `Get` or `Inspect` after the change.
    Expire {
        /// The new deadline.
        expiry: Expiry,
        /// When to change it.
        condition: ExpireCondition,
        /// Whether the reply carries the value.
        return_value: bool,
    },
    /// Remove every key of the shard named by the request. The key is empty.
    Flush,
    /// Change how many accounted bytes the shard named by the request may hold, or which entries
    /// it evicts first. `number` is how many bytes it could hold before. If it holds more than the
    /// new limit, it evicts down to that over the next entries. The key is empty.
    Limit {
        /// The new limit, or as it was.
        bytes_max: Option<u64>,
        /// The new policy, or as it was.
        eviction: Option<Eviction>,
    },
}

/// An operation and its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// The key; empty for operations on a whole shard.
    pub key: &'a [u8],
    /// What to do.
    pub operation: Operation<'a>,
}

/// Why bytes are not a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("the command is cut short")]
    Truncated,
    /// The operation code is not known. A log that holds one was written by a newer version.
    #[error("operation code {0} is unknown")]
    UnknownOperation(u8),
    /// A field has a value that nothing encodes to.
    #[error("a field of the command has an impossible value")]
    BadField,
}

const GET: u8 = 1;
const INSPECT: u8 = 2;
const KEY_COUNT: u8 = 3;
const SET: u8 = 16;
const EXTEND: u8 = 17;
const INCREMENT: u8 = 18;
const COUNT: u8 = 19;
const DELETE: u8 = 20;
const EXPIRE: u8 = 21;
const FLUSH: u8 = 22;
const LIMIT: u8 = 23;

/// Whether `encoded`, which is an encoded command, only reads.
pub fn is_encoded_read(encoded: &[u8]) -> bool {
    matches!(encoded.first(), Some(&(GET | INSPECT | KEY_COUNT)))
}

impl Operation<'_> {
    /// Whether it changes nothing, and so never enters the log.
    pub fn is_read(&self) -> bool {
        matches!(self, Operation::Get { .. } | Operation::Inspect { .. } | Operation::KeyCount)
    }
}

impl<'a> Command<'a> {
    /// Appends the encoding to `out`.
    ///
    /// # Panics
    /// If the key or the value is longer than [`KEY_BYTES_MAX`] or [`VALUE_BYTES_MAX`]: the
    /// protocol layer has refused those.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let value: &[u8] = match self.operation {
            Operation::Set { value, .. } | Operation::Extend { value, .. } => value,
            _ => &[],
        };
        assert!(self.key.len() <= KEY_BYTES_MAX, "a key of {} bytes", self.key.len());
        assert!(value.len() <= VALUE_BYTES_MAX, "a value of {} bytes", value.len());
        let mut header = |code: u8, modifiers: u8| {
            out.extend_from_slice(&[code, modifiers]);
            out.extend_from_slice(&(self.key.len() as u16).to_le_bytes());
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        };
        match self.operation {
            Operation::Get { peek } => header(GET, u8::from(peek)),
            Operation::Inspect { peek } => header(INSPECT, u8::from(peek)),
            Operation::KeyCount => header(KEY_COUNT, 0),
            Operation::Flush => header(FLUSH, 0),
            Operation::Limit { bytes_max, eviction } => {
                let code = eviction.map_or(0, |eviction| eviction.code() + 1);
                header(LIMIT, u8::from(bytes_max.is_some()) | code << 1);
                out.extend_from_slice(&bytes_max.unwrap_or(0).to_le_bytes());
            }
            Operation::Set { flags, condition, expiry, return_old, .. } => {
                let (condition_code, version) = match condition {
                    SetCondition::Always => (0, Version(0)),
                    SetCondition::IfAbsent => (1, Version(0)),
                    SetCondition::IfPresent => (2, Version(0)),
                    SetCondition::IfVersion(version) => (3, version),
                };
                let (expiry_code, millis) = expiry_parts(expiry);
                header(SET, condition_code | expiry_code << 2 | u8::from(return_old) << 4);
                out.extend_from_slice(&flags.to_le_bytes());
                out.extend_from_slice(&version.0.to_le_bytes());
                out.extend_from_slice(&millis.to_le_bytes());
            }
            Operation::Extend { end, create, version, .. } => {
                header(EXTEND, u8::from(end == End::Back) | u8::from(create) << 1);
                out.extend_from_slice(&version.0.to_le_bytes());
            }
            Operation::Increment { delta } => {
                header(INCREMENT, 0);
                out.extend_from_slice(&delta.to_le_bytes());
            }
            Operation::Count { delta, decrement, initial, version } => {
                let (initial_value, expiry) = initial.unwrap_or((0, Expiry::Never));
                let (expiry_code, millis) = expiry_parts(expiry);
                let has_initial = u8::from(initial.is_some()) << 1;
                header(COUNT, u8::from(decrement) | has_initial | expiry_code << 2);
                for field in [delta, initial_value, millis, version.0] {
                    out.extend_from_slice(&field.to_le_bytes());
                }
            }
            Operation::Delete { version, return_old } => {
                header(DELETE, u8::from(return_old));
                out.extend_from_slice(&version.0.to_le_bytes());
            }
            Operation::Expire { expiry, condition, return_value } => {
                let (expiry_code, millis) = expiry_parts(expiry);
                header(EXPIRE, u8::from(return_value) | expiry_code << 1 | (condition as u8) << 3);
                out.extend_from_slice(&millis.to_le_bytes());
            }
        }
        out.extend_from_slice(self.key);
        out.extend_from_slice(value);
    }

    /// Length in bytes of the command at the start of `bytes`.
    ///
    /// # Errors
    /// Exactly those of [`decode`](Self::decode), of which it does only what can fail: each command
    /// is checked in every entry on every replica.
    #[inline]
    pub fn check(bytes: &[u8]) -> Result<usize, DecodeError> {
        let layout = Layout::of(bytes)?;
        match layout.code {
            LIMIT | EXPIRE => Command::decode(bytes).map(|(_, length)| length),
            _ => Ok(layout.end),
        }
    }

    /// The key of the command at the start of `bytes`, and the length of the whole.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), except that fields are not looked at.
    #[inline]
    pub fn key(bytes: &[u8]) -> Result<(&[u8], usize), DecodeError> {
        let Layout { key_start, value_start, end, .. } = Layout::of(bytes)?;
        Ok((&bytes[key_start..value_start], end))
    }

    /// Decodes the command at the start of `bytes`, and says how many bytes it takes.
    pub fn decode(bytes: &'a [u8]) -> Result<(Command<'a>, usize), DecodeError> {
        let Layout { code, modifiers, key_start, value_start, end } = Layout::of(bytes)?;
        let body = &bytes[..end];
        let fields = Fields(&body[HEADER_BYTES..key_start]);
        let value = &body[value_start..];
        let operation = match code {
            GET => Operation::Get { peek: modifiers & 1 == 1 },
            INSPECT => Operation::Inspect { peek: modifiers & 1 == 1 },
            KEY_COUNT => Operation::KeyCount,
            FLUSH => Operation::Flush,
            LIMIT => Operation::Limit {
                bytes_max: (modifiers & 1 == 1).then(|| fields.u64_at(0)),
                eviction: match modifiers >> 1 {
                    0 => None,
                    code => Some(Eviction::from_code(code - 1).ok_or(DecodeError::BadField)?),
                },
            },
            SET => Operation::Set {
                value,
                flags: fields.u32_at(0),
                condition: match modifiers & 3 {
                    0 => SetCondition::Always,
                    1 => SetCondition::IfAbsent,
                    2 => SetCondition::IfPresent,
                    _ => SetCondition::IfVersion(Version(fields.u64_at(4))),
                },
                expiry: expiry_from(modifiers >> 2 & 3, fields.u64_at(12)),
                return_old: modifiers >> 4 & 1 == 1,
            },
            EXTEND => Operation::Extend {
                end: if modifiers & 1 == 1 { End::Back } else { End::Front },
                value,
                create: modifiers >> 1 & 1 == 1,
                version: Version(fields.u64_at(0)),
            },
            INCREMENT => Operation::Increment { delta: fields.u64_at(0) as i64 },
            COUNT => Operation::Count {
                delta: fields.u64_at(0),
                decrement: modifiers & 1 == 1,
                initial: (modifiers >> 1 & 1 == 1).then(|| {
                    (fields.u64_at(8), expiry_from(modifiers >> 2 & 3, fields.u64_at(16)))
                }),
                version: Version(fields.u64_at(24)),
            },
            DELETE => Operation::Delete {
                version: Version(fields.u64_at(0)),
                return_old: modifiers & 1 == 1,
            },
            EXPIRE => Operation::Expire {
                expiry: expiry_from(modifiers >> 1 & 3, fields.u64_at(0)),
                condition: match modifiers >> 3 {
                    0 => ExpireCondition::Always,
                    1 => ExpireCondition::IfNone,
                    2 => ExpireCondition::IfSome,
                    3 => ExpireCondition::IfLater,
                    4 => ExpireCondition::IfEarlier,
                    _ => return Err(DecodeError::BadField),
                },
                return_value: modifiers & 1 == 1,
            },
            other => return Err(DecodeError::UnknownOperation(other)),
        };
        Ok((Command { key: &body[key_start..value_start], operation }, end))
    }
}

/// Where the parts of an encoded command are.
#[derive(Clone, Copy)]
struct Layout {
    code: u8,
    modifiers: u8,
    key_start: usize,
    value_start: usize,
    end: usize,
}

impl Layout {
    /// That of the command at the start of `bytes`, all of which is there.
    #[inline]
    fn of(bytes: &[u8]) -> Result<Self, DecodeError> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(DecodeError::Truncated)?;
        let (code, modifiers) = (header[0], header[1]);
        let key_length = usize::from(u16::from_le_bytes([header[2], header[3]]));
        let value_length =
            u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if value_length > VALUE_BYTES_MAX {
            return Err(DecodeError::BadField);
        }
        let fixed_length = match code {
            GET | INSPECT | KEY_COUNT | FLUSH => 0,
            SET => 20,
            EXTEND | INCREMENT | DELETE | EXPIRE | LIMIT => 8,
            COUNT => 32,
            other => return Err(DecodeError::UnknownOperation(other)),
        };
        let key_start = HEADER_BYTES + fixed_length;
        let value_start = key_start + key_length;
        let end = value_start + value_length;
        if end > bytes.len() {
            return Err(DecodeError::Truncated);
        }
        if !matches!(code, SET | EXTEND) && value_length != 0 {
            return Err(DecodeError::BadField);
        }
        Ok(Layout { code, modifiers, key_start, value_start, end })
    }
}

fn expiry_parts(expiry: Expiry) -> (u8, u64) {
    match expiry {
        Expiry::Never => (0, 0),
        Expiry::Keep => (1, 0),
        Expiry::In(span) => (2, span.0),
        Expiry::At(point) => (3, point.0),
    }
}

fn expiry_from(code: u8, millis: u64) -> Expiry {
    match code & 3 {
        0 => Expiry::Never,
        1 => Expiry::Keep,
        2 => Expiry::In(Millis(millis)),
        _ => Expiry::At(Millis(millis)),
    }
}

/// The fixed fields of an operation, whose length `decode` has checked.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32_at(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[offset..offset + 4]);
        u32::from_le_bytes(bytes)
    }

    fn u64_at(&self, offset: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[offset..offset + 8]);
        u64::from_le_bytes(bytes)
    }
}

/// Who may answer a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReadFrom {
    /// The shard's leader.
    #[default]
    Leader,
    /// The replica on the node that takes the request, if there is one: as fresh as the leader's
    /// answer, for which that replica asks the leader how far it must have come.
    Replica,
    /// The same replica, as it is: the answer may be old, and answers of different replicas need
    /// not agree.
    Stale,
}

/// One request of a [`RequestBatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The shard that owns the key.
    pub shard: ShardId,
    /// Whose reply it will be.
    pub token: Token,
    /// Whether it only reads.
    pub is_read: bool,
    /// Whether the same connection has an unanswered request to this shard that this one must not
    /// overtake: a write, for a read; a read, for a write.
    pub ordered: bool,
    /// Who may answer it, if it is a read.
    pub read_from: ReadFrom,
    /// Where the encoded command starts in the batch's bytes.
    pub start: u32,
    /// Where it ends.
    pub end: u32,
}

/// The requests that the connections of one core gathered in one turn.
#[derive(Debug, Default)]
pub struct RequestBatch {
    requests: Vec<Request>,
    bytes: Vec<u8>,
}

impl RequestBatch {
    /// Adds a request. Writes of one connection to one shard run in the order of their pushes, and
    /// so do its reads and writes if `ordered` says where they meet (see [`Request::ordered`]).
    pub fn push(&mut self, shard: ShardId, token: Token, ordered: bool, command: &Command<'_>) {
        self.push_read(shard, token, ordered, ReadFrom::Leader, command);
    }

    /// Adds a request as [`push`](Self::push) does; a read may be answered by `read_from`.
    pub fn push_read(
        &mut self,
        shard: ShardId,
        token: Token,
        ordered: bool,
        read_from: ReadFrom,
        command: &Command<'_>,
    ) {
        let start = self.bytes.len() as u32;
        command.encode(&mut self.bytes);
        self.requests.push(Request {
            shard,
            token,
            is_read: command.operation.is_read(),
            ordered,
            read_from,
            start,
            end: self.bytes.len() as u32,
        });
    }

    /// The requests in order.
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// The encoded command of `request`, which must be one of [`requests`](Self::requests).
    pub fn command_bytes(&self, request: &Request) -> &[u8] {
        &self.bytes[request.start as usize..request.end as usize]
    }

    /// Encoded bytes gathered so far. Callers hand the batch over before it exceeds 1 GiB.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.requests.clear();
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Command<'static>> {
        let operations = [
            Operation::Get { peek: false },
            Operation::Inspect { peek: false },
            Operation::Set {
                value: b"value",
                flags: 0xdead_beef,
                condition: SetCondition::IfVersion(Version(77)),
                expiry: Expiry::At(Millis(1 << 45)),
                return_old: true,
            },
            Operation::Set {
                value: b"",
                flags: 0,
                condition: SetCondition::IfAbsent,
                expiry: Expiry::In(Millis(5)),
                return_old: false,
            },
            Operation::Extend { end: End::Front, value: b"x", create: true, version: Version(3) },
            Operation::Extend { end: End::Back, value: b"x", create: false, version: Version(0) },
            Operation::Increment { delta: i64::MIN },
            Operation::Count {
                delta: u64::MAX,
                decrement: true,
                initial: Some((9, Expiry::In(Millis(4)))),
                version: Version(1),
            },
            Operation::Count { delta: 1, decrement: false, initial: None, version: Version(0) },
            Operation::Delete { version: Version(8), return_old: true },
            Operation::Expire {
                expiry: Expiry::Never,
                condition: ExpireCondition::IfEarlier,
                return_value: true,
            },
            Operation::Expire {
                expiry: Expiry::At(Millis(9)),
                condition: ExpireCondition::IfSome,
                return_value: false,
            },
        ];
        let mut commands: Vec<_> =
            operations.into_iter().map(|operation| Command { key: b"key", operation }).collect();
        commands.push(Command { key: b"", operation: Operation::Flush });
        for eviction in [None, Some(Eviction::Lru), Some(Eviction::Sieve)] {
            for bytes_max in [None, Some(1 << 40)] {
                let operation = Operation::Limit { bytes_max, eviction };
                commands.push(Command { key: b"", operation });
            }
        }
        commands.push(Command { key: b"", operation: Operation::KeyCount });
        commands
    }

    #[test]
    fn every_command_survives_its_encoding() {
        for command in samples() {
            let mut bytes = Vec::new();
            command.encode(&mut bytes);
            bytes.extend_from_slice(b"trailing");
            let (decoded, length) = Command::decode(&bytes).expect("a command");
            assert_eq!(decoded, command);
            assert_eq!(length, bytes.len() - 8);
        }
    }

    #[test]
    fn every_prefix_is_truncated_and_no_byte_string_panics() {
        for command in samples() {
            let mut bytes = Vec::new();
            command.encode(&mut bytes);
            for length in 0..bytes.len() {
                assert_eq!(Command::decode(&bytes[..length]), Err(DecodeError::Truncated));
                assert_eq!(Command::check(&bytes[..length]), Err(DecodeError::Truncated));
            }
            for position in 0..bytes.len() {
                for bit in 0..8 {
                    let mut damaged = bytes.clone();
                    damaged[position] ^= 1 << bit;
                    let decoded = Command::decode(&damaged);
                    assert_eq!(Command::check(&damaged), decoded.map(|(_, length)| length));
                    if let Ok((command, length)) = decoded {
                        assert_eq!(Command::key(&damaged), Ok((command.key, length)));
                        assert_eq!(is_encoded_read(&damaged), command.operation.is_read());
                    }
                }
            }
        }
        assert_eq!(Command::decode(&[200; 64]), Err(DecodeError::BadField));
        assert_eq!(
            Command::decode(&[200, 0, 0, 0, 0, 0, 0, 0]),
            Err(DecodeError::UnknownOperation(200))
        );
    }
}
