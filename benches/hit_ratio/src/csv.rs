//! Traces from CSV files, whose form `loadgen::csv` documents and reads.
//!
//! Equal keys become one number. Lines stand in order of time already, and only their order
//! counts: the trace is not replayed in its own time, so that a deadline would mean something else
//! and TTLs are not used. Nor are sizes: see `trace.rs`.

use std::collections::HashMap;
use std::io::BufRead;

use loadgen::csv::{CsvError, Operation, Requests};

use crate::trace::{KeyId, Kind, Request, Trace};

/// Most requests of a trace: their positions fit 32 bits.
const REQUESTS_MAX: usize = u32::MAX as usize - 1;

/// Reads a trace, at most `requests_max` requests of it.
///
/// # Errors
/// The first line that is wrong, with its number.
pub fn read(
    input: impl BufRead,
    name: &str,
    requests_max: Option<usize>,
) -> Result<Trace, CsvError> {
    let requests_max = requests_max.unwrap_or(REQUESTS_MAX).min(REQUESTS_MAX);
    let mut keys: HashMap<Box<str>, KeyId> = HashMap::new();
    let mut requests = Vec::new();
    let mut lines = Requests::new(input);
    while requests.len() < requests_max {
        let Some(line) = lines.next_request()? else { break };
        let kind = match line.operation {
            Operation::Read => Kind::Read,
            Operation::Write => Kind::Write,
            Operation::Delete => Kind::Delete,
        };
        let key = match keys.get(line.key) {
            Some(&known) => known,
            None => {
                let fresh = KeyId(keys.len() as u32);
                keys.insert(line.key.into(), fresh);
                fresh
            }
        };
        requests.push(Request { key, kind });
    }
    match requests.is_empty() {
        true => Err(CsvError::Empty),
        false => Ok(Trace { name: name.into(), requests, keys: keys.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_are_one_number_and_operations_keep_their_kind() {
        let lines = "0,a,10,get,0\n1.5,b,0,SET,60\n2,a,10,delete\n2,b,1,gets,\n";
        let trace = read(lines.as_bytes(), "t", None).expect("a trace");
        let kinds: Vec<(u32, Kind)> = trace.requests.iter().map(|r| (r.key.0, r.kind)).collect();
        let expected = [(0, Kind::Read), (1, Kind::Write), (0, Kind::Delete), (1, Kind::Read)];
        assert_eq!((kinds.as_slice(), trace.keys), (&expected[..], 2));
        let trace = read(lines.as_bytes(), "t", Some(2)).expect("a trace");
        assert_eq!((trace.requests.len(), trace.keys), (2, 2));
    }

    #[test]
    fn a_wrong_line_and_a_trace_without_requests_are_refused() {
        let error = read(&b"0,a,1,get,0\n1,a,ten,get,0\n"[..], "t", None).expect_err("a size");
        assert!(matches!(error, CsvError::Line { line: 2, .. }), "{error}");
        let error = read(&b"timestamp,key,size,op,ttl\n"[..], "t", None).expect_err("nothing");
        assert!(matches!(error, CsvError::Empty), "{error}");
    }
}
