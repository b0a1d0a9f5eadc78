//! What a client can ask of one key, and what it gets.
//!
//! The commands are those that both protocols can express. Anything else would make a program
//! depend on the protocol it happens to use.

use std::time::Duration;

use crate::wire::Answer;

/// Under which condition a set stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    #[default]
    Always,
    /// Only if the key is absent.
    IfAbsent,
    /// Only if the key is there.
    IfPresent,
    /// Only if the entry has this version, which is not 0. Binary protocol only.
    IfVersion(u64),
}

/// How a set stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetOptions {
    /// How long the entry lives; for ever without. The binary protocol counts in whole seconds,
    /// rounded up here, so that nothing expires early.
    pub time_to_live: Option<Duration>,
    /// When to store at all.
    pub condition: Condition,
    /// Bits that come back with the value. Binary protocol only; RESP drops them.
    pub flags: u32,
}

/// A request for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Read the value.
    Get {
        /// Whose.
        key: &'a [u8],
    },
    /// Store a value.
    Set {
        /// Where.
        key: &'a [u8],
        /// What.
        value: &'a [u8],
        /// How.
        options: SetOptions,
    },
    /// Remove the key.
    Delete {
        /// Which.
        key: &'a [u8],
    },
    /// Add to a counter; an absent one counts as 0. The binary protocol stops at 0 downwards.
    Increment {
        /// Which.
        key: &'a [u8],
        /// How much.
        delta: i64,
    },
    /// Give an entry a new time to live.
    Expire {
        /// Which.
        key: &'a [u8],
        /// From now on.
        time_to_live: Duration,
    },
}

/// A value that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The flags it was stored with; 0 in RESP.
    pub flags: u32,
    /// The entry's version, for [`Condition::IfVersion`]; 0 in RESP.
    pub version: u64,
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The value, or none: the reply to a get.
    Value(Option<Value>),
    /// The value was stored, with the new version (0 in RESP).
    Stored {
        /// The new version.
        version: u64,
    },
    /// A set's condition did not hold; nothing changed.
    ConditionFailed,
    /// Whether there was such a key: the reply to a delete and an expire.
    Existed(bool),
    /// The counter's new value.
    Counter(i64),
}

impl<'a> Command<'a> {
    /// The key.
    pub fn key(&self) -> &'a [u8] {
        match *self {
            Command::Get { key }
            | Command::Set { key, .. }
            | Command::Delete { key }
            | Command::Increment { key, .. }
            | Command::Expire { key, .. } => key,
        }
    }

    /// The value, for those that carry one.
    pub fn value(&self) -> Option<&'a [u8]> {
        match *self {
            Command::Set { value, .. } => Some(value),
            _ => None,
        }
    }

    /// Whether it changes nothing, and so may be tried again whatever happened.
    pub fn is_read(&self) -> bool {
        matches!(self, Command::Get { .. })
    }

    /// What `answer` means as the answer to this command; `None` if it cannot be one.
    pub fn reply(&self, answer: &Answer<'_>) -> Option<Reply> {
        match (self, answer) {
            (Command::Get { .. }, Answer::Value { bytes, flags, version }) => {
                let value = Value { bytes: bytes.to_vec(), flags: *flags, version: *version };
                Some(Reply::Value(Some(value)))
            }
            (Command::Get { .. }, Answer::Missing) => Some(Reply::Value(None)),
            (Command::Set { .. }, Answer::Done { version }) => {
                Some(Reply::Stored { version: *version })
            }
            (Command::Set { .. }, Answer::Missing | Answer::ConditionFailed) => {
                Some(Reply::ConditionFailed)
            }
            (Command::Delete { .. } | Command::Expire { .. }, Answer::Done { .. }) => {
                Some(Reply::Existed(true))
            }
            (Command::Delete { .. } | Command::Expire { .. }, Answer::Missing) => {
                Some(Reply::Existed(false))
            }
            (Command::Delete { .. } | Command::Expire { .. }, Answer::Number(count)) => {
                Some(Reply::Existed(*count > 0))
            }
            (Command::Increment { .. }, Answer::Number(counter)) => Some(Reply::Counter(*counter)),
            // A counter comes as eight bytes in the binary protocol, which the decoder cannot
            // tell from a value of that length.
            (Command::Increment { .. }, Answer::Value { bytes, .. }) => {
                let counter = u64::from_be_bytes((*bytes).try_into().ok()?);
                Some(Reply::Counter(i64::try_from(counter).unwrap_or(i64::MAX)))
            }
            _ => None,
        }
    }
}
