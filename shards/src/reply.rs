//! What a command came to: the status with its class, and the buffer that carries replies out.
//!
//! A reply is a fixed header plus a range of a shared byte buffer, so that a turn's replies cost
//! no allocation each. The class of a status is the promise of DESIGN §1.4: *done* is the outcome
//! of a command that ran, *not done* means it did not run and never will, *unknown* means it may
//! or may not have run, now or later.

use crate::ids::{Millis, Version};

/// What the connection layer gives with a request and gets back with its reply. The engine only
/// carries it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    /// The connection.
    pub connection: u32,
    /// The request on that connection.
    pub sequence: u32,
    /// The part of a request that was split over several keys or shards.
    pub part: u32,
}

/// How sure an outcome is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The command ran; the status says what it came to.
    Done,
    /// The command did not run and never will.
    NotDone,
    /// The command may have run, or may still run.
    Unknown,
}

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $class:ident, $text:literal;)*) => {
        /// The outcome of a command.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Status {
            $($(#[$doc])* $name = $code,)*
        }

        impl Status {
            /// Every status, in the order of their codes.
            pub const ALL: &'static [Status] = &[$(Status::$name),*];

            /// How sure this outcome is.
            pub fn class(self) -> Class {
                match self { $(Status::$name => Class::$class,)* }
            }

            /// A short English sentence for people, without a full stop.
            pub fn text(self) -> &'static str {
                match self { $(Status::$name => $text,)* }
            }

            /// The status with this code, which travels between nodes.
            pub fn from_code(code: u8) -> Option<Status> {
                match code { $($code => Some(Status::$name),)* _ => None }
            }
        }
    };
}

statuses! {
    /// It ran and did what was asked.
    Ok = 0, Done, "ok";
    /// There is no such key.
    NotFound = 1, Done, "no such key";
    /// A condition asked for the key's absence, and it exists.
    Exists = 2, Done, "the key exists";
    /// A condition named a version (or a deadline order) that does not hold.
    ConditionFailed = 3, Done, "the condition does not hold";
    /// The value is not the number the command needs.
    NotANumber = 4, Done, "the value is not an integer";
    /// The result does not fit into the number.
    Overflow = 5, Done, "the result would overflow";
    /// The entry would exceed the limit of a value, or of the whole shard.
    TooLarge = 6, Done, "the value is too large";
    /// An argument makes no sense, for instance a deadline beyond the end of time.
    Invalid = 7, Done, "an argument is invalid";

    /// The shard had no leader for as long as the request was allowed to wait.
    NoLeader = 64, NotDone, "the shard has no leader";
    /// A bounded queue was full.
    Overloaded = 65, NotDone, "overloaded";
    /// Another leader's entry was applied in the place of the command's.
    Superseded = 66, NotDone, "leadership changed before the command was replicated";
    /// The node is shutting down, or its shard moved away.
    ShuttingDown = 67, NotDone, "the node is shutting down";
    /// The replica asked does not lead. Between cores and nodes only: the origin retries.
    NotLeader = 68, NotDone, "not the leader of this shard";
    /// A read could not be confirmed by a majority in time. Reads have no effect.
    ReadTimeout = 69, NotDone, "a majority did not confirm the read in time";

    /// The deadline passed while the command was on its way through the log.
    DeadlinePassed = 128, Unknown, "the deadline passed before the outcome was known";
    /// The link to the leader broke after the command was sent.
    LinkLost = 129, Unknown, "the link to the leader broke before it answered";
    /// A snapshot replaced the log at the place where the command was.
    CoveredBySnapshot = 130, Unknown, "a snapshot covered the outcome";
    /// The replica stopped, and with it what it knew of the command.
    ReplicaStopped = 131, Unknown, "the replica stopped before the outcome was known";
}

/// The outcome of one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Whose reply it is.
    pub token: Token,
    /// What came of it.
    pub status: Status,
    /// The client flags of the value, for what returns a value.
    pub flags: u32,
    /// The version of the entry after the command; zero where there is none.
    pub version: Version,
    /// A number: the counter for increments (two's complement), the value's length in bytes for
    /// `Inspect` and `Extend`, the count of keys for `KeyCount`.
    pub number: u64,
    /// Time left until the entry expires; `None` for an entry without deadline.
    pub expires_in: Option<Millis>,
    /// The deadline of the entry in shard time; `None` for an entry without deadline.
    pub expires_at: Option<Millis>,
    /// Where the value stands in [`Replies::bytes`]; `None` where no value is returned.
    pub value: Option<(u32, u32)>,
}

impl Reply {
    /// A reply that says only what became of the command.
    pub fn bare(token: Token, status: Status) -> Self {
        Reply {
            token,
            status,
            flags: 0,
            version: Version(0),
            number: 0,
            expires_in: None,
            expires_at: None,
            value: None,
        }
    }
}

/// Replies of a turn: headers, and the bytes of their values.
#[derive(Debug, Default)]
pub struct Replies {
    /// The headers, in the order in which the outcomes became known.
    pub headers: Vec<Reply>,
    /// The bytes the headers' `value` ranges (start, end) refer to.
    pub bytes: Vec<u8>,
}

impl Replies {
    /// Adds a reply with a value.
    pub fn push(&mut self, mut reply: Reply, value: Option<&[u8]>) {
        reply.value = value.map(|value| {
            let start = self.bytes.len() as u32;
            self.bytes.extend_from_slice(value);
            (start, self.bytes.len() as u32)
        });
        self.headers.push(reply);
    }

    /// The value of `reply`, which must be one of these headers.
    pub fn value(&self, reply: &Reply) -> Option<&[u8]> {
        reply.value.map(|(start, end)| &self.bytes[start as usize..end as usize])
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.headers.clear();
        self.bytes.clear();
    }

    /// Whether there is no reply.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }
}
