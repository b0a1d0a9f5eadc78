//! The words of errors: one table for what the engine reports, and the texts Redis has for what a
//! client did wrong, which client libraries and test suites compare.
//!
//! The code in front tells a client the class of DESIGN §1.4. MOVED, TRYAGAIN, CLUSTERDOWN and
//! CROSSSLOT mean *not done*, UNKNOWN means that the outcome is not known; ERR and the others
//! mean that the command was looked at and changed nothing.

use shards::reply::Status;

/// A keyword or its arguments make no sense.
pub const SYNTAX: &str = "ERR syntax error";
/// An argument is no integer, or the value of a key is not.
pub const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
/// A counter would leave its range.
pub const OVERFLOW: &str = "ERR increment or decrement would overflow";
/// DECRBY by the one number that has no negation.
pub const DECREMENT_OVERFLOW: &str = "ERR decrement would overflow";
/// Keys of different slots where they must share one.
pub const CROSS_SLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";
/// A write of which only parts were carried out.
pub const PARTLY_DONE: &str = "UNKNOWN only a part of the command was carried out";

/// The error that stands for `status`, its code in front.
pub fn of_status(status: Status) -> &'static str {
    match status {
        Status::Ok => "ERR unexpected outcome: ok",
        Status::NotFound => "ERR no such key",
        Status::Exists => "ERR unexpected outcome: the key exists",
        Status::ConditionFailed => "ERR unexpected outcome: the condition does not hold",
        Status::NotANumber => NOT_AN_INTEGER,
        Status::Overflow => OVERFLOW,
        Status::TooLarge => {
            "ERR string exceeds maximum allowed size (of a value or of its shard's memory)"
        }
        Status::Invalid => "ERR invalid expire time",

        Status::NoLeader => "CLUSTERDOWN Hash slot not served",
        Status::Overloaded => "TRYAGAIN overloaded",
        Status::Superseded => "TRYAGAIN leadership changed before the command was replicated",
        Status::ShuttingDown => "CLUSTERDOWN the node is shutting down",
        Status::NotLeader => "TRYAGAIN not the leader of this shard",
        Status::ReadTimeout => "TRYAGAIN a majority did not confirm the read in time",

        Status::DeadlinePassed => "UNKNOWN the deadline passed before the outcome was known",
        Status::LinkLost => "UNKNOWN the link to the leader broke before it answered",
        Status::CoveredBySnapshot => "UNKNOWN a snapshot covered the outcome",
        Status::ReplicaStopped => "UNKNOWN the replica stopped before the outcome was known",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shards::reply::Class;

    #[test]
    fn every_status_has_an_error_whose_code_tells_its_class() {
        for &status in Status::ALL {
            let text = of_status(status);
            let (code, words) = text.split_once(' ').expect("a code and words");
            assert!(!words.is_empty());
            assert!(!text.contains(['\r', '\n']));
            let class = match code {
                "ERR" => Class::Done,
                "CLUSTERDOWN" | "TRYAGAIN" => Class::NotDone,
                "UNKNOWN" => Class::Unknown,
                other => panic!("{status:?} has the code {other}"),
            };
            assert_eq!(class, status.class(), "{status:?}");
        }
    }
}
