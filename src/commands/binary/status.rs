//! The table from the engine's outcomes to the status codes of the binary protocol.
//!
//! One table, so that docs/protocol.md has one place to agree with. It keeps the classes apart:
//! what the engine calls *unknown* becomes the one status that says so, what it calls *not done*
//! becomes a status that invites a retry, and no outcome changes its class on the way.

use proto::memcached;
use shards::reply::Status;

/// Which command an outcome belongs to, as far as its status depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// An append or a prepend: its absent key is not an error of looking up but of storing.
    Extend,
    /// Any other command.
    Other,
}

/// The status that tells a client of `status`.
pub fn wire_status(status: Status, context: Context) -> memcached::Status {
    use memcached::Status as Wire;
    match status {
        Status::Ok => Wire::OK,
        Status::NotFound if context == Context::Extend => Wire::NOT_STORED,
        Status::NotFound => Wire::NOT_FOUND,
        Status::Exists | Status::ConditionFailed => Wire::EXISTS,
        Status::NotANumber => Wire::NOT_A_NUMBER,
        Status::TooLarge => Wire::TOO_LARGE,
        Status::Overflow | Status::Invalid => Wire::INVALID_ARGUMENTS,
        Status::Overloaded => Wire::BUSY,
        Status::NoLeader
        | Status::Superseded
        | Status::ShuttingDown
        | Status::NotLeader
        | Status::ReadTimeout => Wire::TEMPORARY_FAILURE,
        Status::DeadlinePassed
        | Status::LinkLost
        | Status::CoveredBySnapshot
        | Status::ReplicaStopped => Wire::AMBIGUOUS,
    }
}

/// The text that goes with `wire`: the engine's own words where it knows more than the code says.
pub fn wire_text(status: Status, wire: memcached::Status) -> &'static str {
    match wire.class() {
        memcached::Class::Done => wire.text(),
        memcached::Class::NotDone | memcached::Class::Unknown => status.text(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shards::reply::Class;

    #[test]
    fn every_outcome_keeps_its_class() {
        for &status in Status::ALL {
            for context in [Context::Extend, Context::Other] {
                let wire = wire_status(status, context);
                let expected = match (status.class(), status) {
                    // The engine has run these and refused them; the client may as well take it
                    // that they never ran, because nothing changed.
                    (Class::Done, Status::TooLarge | Status::Invalid | Status::Overflow) => {
                        memcached::Class::NotDone
                    }
                    (Class::Done, _) => memcached::Class::Done,
                    (Class::NotDone, _) => memcached::Class::NotDone,
                    (Class::Unknown, _) => memcached::Class::Unknown,
                };
                assert_eq!(wire.class(), expected, "{status:?} became {wire:?}");
                assert_eq!(wire == memcached::Status::OK, status == Status::Ok, "{status:?}");
                assert_eq!(wire_text(status, wire).is_empty(), status == Status::Ok, "{status:?}");
            }
        }
    }

    #[test]
    fn only_an_extension_of_an_absent_key_is_not_stored() {
        let not_stored = wire_status(Status::NotFound, Context::Extend);
        assert_eq!(not_stored, memcached::Status::NOT_STORED);
        assert_eq!(wire_status(Status::NotFound, Context::Other), memcached::Status::NOT_FOUND);
    }
}
