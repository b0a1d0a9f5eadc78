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

    const PAGE: &str = include_str!("../../docs/protocol.md");

    /// The cells of the rows of the page's table whose head begins with these cells.
    fn table(head: &str) -> Vec<Vec<&'static str>> {
        let mut lines = PAGE.lines().skip_while(|line| !line.starts_with(head));
        assert!(lines.next().is_some(), "there is no table {head}");
        let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
        rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
    }

    /// The words between backticks.
    fn names(cell: &str) -> impl Iterator<Item = &str> {
        cell.split('`').skip(1).step_by(2)
    }

    fn status(name: &str) -> Status {
        let found = Status::ALL.iter().find(|status| format!("{status:?}") == name);
        *found.unwrap_or_else(|| panic!("the page names {name}, which is no outcome"))
    }

    #[test]
    fn the_page_has_every_outcome_once_and_no_other() {
        let rows = table("| outcome | class |");
        let listed: Vec<_> = rows.iter().flat_map(|row| names(row[0])).map(status).collect();
        assert_eq!(listed, Status::ALL);
    }

    #[test]
    fn every_failure_has_a_path_that_leads_to_it_and_no_read_is_unknown() {
        let mut writes = Vec::new();
        let mut reads = Vec::new();
        for row in table("| the request is | and then |") {
            assert_eq!(row.len(), 4, "{row:?}");
            writes.extend(names(row[2]).map(status));
            reads.extend(names(row[3]).map(status));
        }
        for &status in reads.iter().chain(&writes) {
            assert_ne!(status.class(), Class::Done, "{status:?} is no failure");
        }
        assert!(reads.iter().all(|status| status.class() == Class::NotDone), "{reads:?}");
        for &status in Status::ALL.iter().filter(|status| status.class() != Class::Done) {
            let is_led_to = writes.contains(&status) || reads.contains(&status);
            // Origins take what does not lead to whoever does, and tell no client.
            assert_eq!(is_led_to, status != Status::NotLeader, "{status:?}");
        }
    }

    /// The codes of the errors in the sources of sessions and commands: capitals and a blank, at
    /// the start of a literal that becomes an error.
    fn codes_in_sources() -> std::collections::BTreeSet<String> {
        let mut codes = std::collections::BTreeSet::new();
        for folder in ["src/commands", "src/session"] {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let text = text.split("#[cfg(test)]").next().unwrap_or_default();
                for start in ["error(\"", "format!(\"", ": &str = \"", "=> \""] {
                    for rest in text.split(start).skip(1) {
                        let word = rest.split(' ').next().unwrap_or_default();
                        let is_code =
                            word.len() > 2 && word.bytes().all(|b| b.is_ascii_uppercase());
                        codes.extend(is_code.then(|| word.to_owned()));
                    }
                }
            }
        }
        codes
    }

    #[test]
    fn the_page_has_every_code_with_the_class_that_clients_take_it_for() {
        let mut listed = std::collections::BTreeSet::new();
        for row in table("| code | class | when |") {
            let code = names(row[0]).next().expect("a code");
            listed.insert(code.to_owned());
            let reply = match code {
                "MOVED" => "-MOVED 1 127.0.0.1:7401\r\n".to_owned(),
                code => format!("-{code} words\r\n"),
            };
            let class = match client::Protocol::Resp.decode(reply.as_bytes()) {
                Ok(client::Decoded::Answer { answer: client::Answer::Redirect(_), .. }) => {
                    "not done"
                }
                Ok(client::Decoded::Answer {
                    answer: client::Answer::Refused(refusal), ..
                }) => match refusal.class {
                    client::Class::NotDone if code == "ERR" => "done",
                    client::Class::NotDone => "not done",
                    client::Class::Unknown => "unknown",
                },
                other => panic!("{code}: {other:?}"),
            };
            assert_eq!(row[1], class, "{code}");
        }
        assert_eq!(codes_in_sources(), listed);
    }
}
