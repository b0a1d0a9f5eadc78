//! What can go wrong, and what that says about the request.
//!
//! Every error belongs to one of two classes, because a caller's next step depends on nothing
//! else: *not done* may be tried again without a thought, *unknown* only if doing it twice does
//! no harm. A read has no effect, so its errors are always *not done*.

use std::io;

use crate::address::Address;

/// What an error says about the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The request has not happened and never will.
    NotDone,
    /// The request may have happened, or may still happen.
    Unknown,
}

impl Class {
    /// The class of a request that was sent and never answered.
    pub fn of_unanswered(is_read: bool) -> Class {
        if is_read { Class::NotDone } else { Class::Unknown }
    }
}

impl std::fmt::Display for Class {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Class::NotDone => "not done",
            Class::Unknown => "unknown",
        })
    }
}

/// Why a request has no reply.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The options or the request make no sense; nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// No server could be reached.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Who was tried last.
        address: Address,
        /// Why it failed.
        source: io::Error,
    },
    /// The connection ended before the reply came.
    #[error("the connection to {address} was lost ({class})")]
    ConnectionLost {
        /// With whom.
        address: Address,
        /// Whether the request may have run.
        class: Class,
    },
    /// The deadline passed.
    #[error("the deadline passed ({class})")]
    DeadlinePassed {
        /// Whether the request may have run.
        class: Class,
    },
    /// The server answered with an error.
    #[error("{text} ({class})")]
    Refused {
        /// What the server says about the request.
        class: Class,
        /// The server's words, its code first.
        text: String,
    },
    /// The server's bytes are no reply, or not the reply to this request.
    #[error("the reply is malformed: {reason} ({class})")]
    Protocol {
        /// What is wrong with it.
        reason: String,
        /// Whether the request may have run.
        class: Class,
    },
    /// The client has no event queue or socket left.
    #[error("the operating system refused: {0}")]
    System(io::Error),
}

impl Error {
    /// What the error says about the request.
    pub fn class(&self) -> Class {
        match self {
            Error::Invalid(_) | Error::Connect { .. } | Error::System(_) => Class::NotDone,
            Error::ConnectionLost { class, .. }
            | Error::DeadlinePassed { class }
            | Error::Refused { class, .. }
            | Error::Protocol { class, .. } => *class,
        }
    }
}
