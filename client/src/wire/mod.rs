//! Commands to bytes and bytes to answers, the same for both protocols.
//!
//! Sans IO: encoding appends to a buffer, decoding reads in place from the start of one. What an
//! answer means depends on the command it answers; [`Command::reply`](crate::Command::reply)
//! settles that. Here an answer is only told apart: a value, a miss, a redirect, an error with
//! its class.

mod binary;
mod resp;

use crate::address::Address;
use crate::command::Command;
use crate::error::Class;
use crate::picker::ReadFrom;

pub use resp::{ASKING, CLUSTER_SLOTS, READONLY, READONLY_STALE};

/// Which protocol a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The memcached binary protocol.
    Binary,
    /// RESP2, the protocol of Redis.
    Resp,
}

/// What a server said.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer<'a> {
    /// It is done. `version` is that of the entry, 0 where the protocol has none.
    Done {
        /// The entry's version.
        version: u64,
    },
    /// A value.
    Value {
        /// The bytes.
        bytes: &'a [u8],
        /// The client's flags; 0 where the protocol has none.
        flags: u32,
        /// The entry's version; 0 where the protocol has none.
        version: u64,
    },
    /// A number: a counter, or how many keys were concerned.
    Number(i64),
    /// There is no such key, or in RESP also: the condition did not hold.
    Missing,
    /// The condition of a store did not hold.
    ConditionFailed,
    /// Another server is responsible.
    Redirect(Redirect),
    /// An error.
    Refused(Refusal<'a>),
    /// An aggregate, as it came, type byte included.
    Aggregate(&'a [u8]),
}

/// Who is responsible instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// For how long.
    pub scope: RedirectScope,
    /// The slot of the key.
    pub slot: u16,
    /// The server. An empty host means the one that was asked.
    pub address: Address,
}

/// For how long a redirect holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectScope {
    /// From now on: the map was out of date (MOVED).
    Moved,
    /// For this request alone, which ASKING must precede (ASK).
    Ask,
}

/// An error from a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// What it says about the request.
    pub class: Class,
    /// Whether the same request may succeed a little later.
    pub transient: bool,
    /// The error's code, for counting.
    pub code: &'a str,
    /// The server's words; in RESP they start with the code.
    pub text: &'a [u8],
}

/// What the start of a buffer holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded<'a> {
    /// The answer is not whole. The buffer must grow to `needed` bytes at least.
    Incomplete {
        /// Bytes from the start of the buffer, more than there are.
        needed: usize,
    },
    /// An answer.
    Answer {
        /// It.
        answer: Answer<'a>,
        /// The opaque of the request it answers; `None` in RESP, which answers in order.
        opaque: Option<u32>,
        /// Its length in bytes.
        consumed: usize,
    },
    /// A message that answers nothing, to be passed over.
    Push {
        /// Its length in bytes.
        consumed: usize,
    },
}

/// Why bytes are not an answer. The connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They are no RESP reply.
    #[error(transparent)]
    Resp(#[from] proto::resp::reply::ReplyError),
    /// They are no packet of the binary protocol.
    #[error(transparent)]
    Binary(#[from] proto::memcached::FrameError),
    /// The reply is well-formed but no answer to anything this client sends.
    #[error("a reply of an unexpected kind")]
    UnexpectedKind,
}

/// Why a command cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The protocol has no such command or option.
    #[error("the protocol has no {0}")]
    Unsupported(&'static str),
    /// A key must have at least one byte and at most as many as the protocol allows.
    #[error("a key of {0} bytes")]
    KeyLength(usize),
    /// The value is longer than any server takes.
    #[error("a value of {0} bytes is too long")]
    ValueTooLong(usize),
}

impl Protocol {
    /// Appends `command` to `out`. RESP ignores the opaque, and `read_from`, which is a matter of
    /// the whole connection there ([`ReadFrom::greeting`]).
    ///
    /// # Errors
    /// If the protocol cannot express it; `out` is unchanged then.
    pub fn encode(
        self,
        command: &Command<'_>,
        read_from: ReadFrom,
        opaque: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        if let Some(value) = command.value()
            && value.len() > proto::limits::VALUE_BYTES_MAX
        {
            return Err(EncodeError::ValueTooLong(value.len()));
        }
        match self {
            Protocol::Binary => binary::encode(command, read_from, opaque, out),
            Protocol::Resp => resp::encode(command, out),
        }
    }

    /// Reads the answer at the start of `input`.
    ///
    /// # Errors
    /// If no answer can start so.
    #[inline]
    pub fn decode(self, input: &[u8]) -> Result<Decoded<'_>, DecodeError> {
        match self {
            Protocol::Binary => binary::decode(input),
            Protocol::Resp => resp::decode(input),
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Protocol::Binary => "binary",
            Protocol::Resp => "resp",
        })
    }
}
