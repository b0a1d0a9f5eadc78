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
    use crate::commands::errors;
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

    /// The rows of docs/protocol.md that start with `cell`.
    fn documented(cell: &str) -> Vec<&'static str> {
        let page = include_str!("../../../docs/protocol.md");
        page.lines().filter(|line| line.starts_with(&format!("| `{cell}` |"))).collect()
    }

    #[test]
    fn the_page_has_every_outcome_with_its_class_and_codes() {
        for &status in Status::ALL {
            let rows = documented(&format!("{status:?}"));
            let [row] = rows[..] else { panic!("{} rows for {status:?}", rows.len()) };
            let class = match status.class() {
                Class::Done => "| done |",
                Class::NotDone => "| not done |",
                Class::Unknown => "| unknown |",
            };
            assert!(row.contains(class), "{row}");
            for context in [Context::Extend, Context::Other] {
                let code = format!("`0x{:02x}`", wire_status(status, context).0);
                assert!(row.contains(&code), "{row} lacks {code}");
            }
            let resp = errors::of_status(status).split(' ').next().unwrap_or_default();
            let is_error = status.class() != Class::Done;
            assert!(!is_error || row.contains(&format!("`{resp}`")), "{row} lacks {resp}");
        }
    }

    #[test]
    fn the_page_has_every_status_that_can_be_sent_with_its_class() {
        use memcached::Status as Wire;
        let outcomes = Status::ALL.iter().flat_map(|&status| {
            [Context::Extend, Context::Other].map(|context| wire_status(status, context))
        });
        let refusals = [Wire::NOT_MY_VBUCKET, Wire::UNKNOWN_COMMAND, Wire::UNKNOWN_FRAME_EXTRA];
        for wire in outcomes.chain(refusals) {
            let rows = documented(&format!("0x{:02x}", wire.0));
            let [row] = rows[..] else { panic!("{} rows for {wire:?}", rows.len()) };
            let class = match wire.class() {
                memcached::Class::Done => "| done |",
                memcached::Class::NotDone => "| not done |",
                memcached::Class::Unknown => "| unknown |",
            };
            assert!(row.contains(class), "{row}");
        }
    }
}
