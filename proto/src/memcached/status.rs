//! The status field of a response: what a request came to, and how sure that is.
//!
//! The codes below 0x100 are those of memcached and of its vbucket dialect; this server gives
//! no code a meaning of its own. A status that nobody here knows stays representable, because
//! a client must survive a newer server. The class is the promise a client builds its retries
//! on: *done* means the request ran and this is its outcome, *not done* means it did not run and
//! never will, *unknown* means it may have run or may still run.

use std::fmt;

/// How sure an outcome is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The request ran; the status says what it came to.
    Done,
    /// The request did not run and never will. A retry is safe.
    NotDone,
    /// The request may have run, or may still run. A retry is safe only if it is idempotent.
    Unknown,
}

/// The status code of a response, as on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub u16);

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $class:ident, $text:literal;)*) => {
        impl Status {
            $($(#[$doc])* pub const $name: Status = Status($code);)*

            /// Every status with a name, in the order of their codes.
            pub const ALL: &'static [Status] = &[$(Status::$name),*];

            /// How sure this outcome is. A code without a name counts as [`Class::Unknown`]:
            /// the one assumption that cannot make a client repeat a write by mistake.
            pub fn class(self) -> Class {
                match self {
                    $(Status::$name => Class::$class,)*
                    _ => Class::Unknown,
                }
            }

            /// The text a response with this status carries unless it has a better one.
            pub fn text(self) -> &'static str {
                match self {
                    $(Status::$name => $text,)*
                    _ => "Unknown status",
                }
            }

            /// The name of the constant, for people and counters.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Status::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    /// It ran and did what was asked.
    OK = 0x00, Done, "";
    /// There is no such key, or no such group of statistics.
    NOT_FOUND = 0x01, Done, "Not found";
    /// The key exists where it must not, or has another version than the one named.
    EXISTS = 0x02, Done, "Data exists for key";
    /// The value would exceed the limit. Nothing changed.
    TOO_LARGE = 0x03, NotDone, "Too large";
    /// The request contradicts the protocol. Nothing changed.
    INVALID_ARGUMENTS = 0x04, NotDone, "Invalid arguments";
    /// There is nothing to append to or to prepend to.
    NOT_STORED = 0x05, Done, "Not stored";
    /// The value is not the number that a counter needs.
    NOT_A_NUMBER = 0x06, Done, "Non-numeric server-side value for incr or decr";
    /// This core does not lead the shard that the vbucket field names. The body is the cluster
    /// map.
    NOT_MY_VBUCKET = 0x07, NotDone, "Not my vbucket";
    /// Authentication failed or is not possible.
    AUTH_ERROR = 0x20, NotDone, "Auth failure";
    /// Authentication needs another step.
    AUTH_CONTINUE = 0x21, NotDone, "Auth continue";
    /// The request carries a frame extra that this server does not act on.
    UNKNOWN_FRAME_EXTRA = 0x80, NotDone, "Unknown frame extra";
    /// There is no such command.
    UNKNOWN_COMMAND = 0x81, NotDone, "Unknown command";
    /// There is no memory for it.
    OUT_OF_MEMORY = 0x82, NotDone, "Out of memory";
    /// The command exists, but not here.
    NOT_SUPPORTED = 0x83, NotDone, "Not supported";
    /// The server has a fault of its own, and does not know what became of the request.
    INTERNAL_ERROR = 0x84, Unknown, "Internal error";
    /// A bounded queue is full. Try again later.
    BUSY = 0x85, NotDone, "Busy";
    /// It cannot be done at this moment, for instance while a shard elects a leader.
    TEMPORARY_FAILURE = 0x86, NotDone, "Temporary failure";
    /// The outcome is not known: the write may have happened, or may still happen.
    AMBIGUOUS = 0xa3, Unknown, "The outcome is not known";
}

impl fmt::Debug for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => formatter.write_str(name),
            None => write!(formatter, "Status(0x{:02x})", self.0),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_ascending_and_have_a_text() {
        for pair in Status::ALL.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{:?} and {:?}", pair[0], pair[1]);
        }
        for status in Status::ALL {
            assert_eq!(status.text().is_empty(), *status == Status::OK, "{status:?}");
        }
    }

    #[test]
    fn a_code_without_a_name_is_never_taken_for_not_done() {
        assert_eq!(Status(0x7777).class(), Class::Unknown);
        assert_eq!(format!("{:?}", Status(0x77)), "Status(0x77)");
    }
}
