//! Traces in the common CSV form: `timestamp,key,size,operation,TTL`, one request a line.
//!
//! - timestamp: seconds, a number that is not negative; lines stand in order of time already, and
//!   only their order counts.
//! - key: any text without a comma; equal texts are one key.
//! - size: bytes of the value, a whole number. Checked, and not used: see `trace.rs`.
//! - operation: `get`, `gets` and `read` read; `set`, `add`, `replace`, `cas`, `append`, `prepend`,
//!   `incr`, `decr` and `write` write; `delete` and `remove` remove. Upper or lower case.
//! - TTL: seconds, a whole number, 0 for none; may be left out with its comma. Checked, and not
//!   used: the trace is not replayed in its own time, so that a deadline would mean something else.
//!
//! Empty lines, lines that begin with `#`, and a first line whose first field is `timestamp` or
//! `time` are skipped. Anything else is an error with the number of its line: a trace that was read
//! in part would be another one.

use std::collections::HashMap;
use std::io::BufRead;

use crate::trace::{KeyId, Kind, Request, Trace};

/// Longest line, in bytes, with its end.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Most requests of a trace: their positions fit 32 bits.
const REQUESTS_MAX: usize = u32::MAX as usize - 1;

/// Why a trace was refused.
#[derive(Debug, thiserror::Error)]
pub enum CsvError {
    /// It could not be read.
    #[error("the trace cannot be read behind line {line}: {source}")]
    Read {
        /// The last line that was read, from 1.
        line: usize,
        /// What the system says.
        source: std::io::Error,
    },
    /// A line is wrong.
    #[error("line {line} of the trace: {what}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// No line has a request.
    #[error("the trace has no request")]
    Empty,
}

/// Reads a trace, at most `requests_max` requests of it.
///
/// # Errors
/// The first line that is wrong, with its number.
pub fn read(
    mut input: impl BufRead,
    name: &str,
    requests_max: Option<usize>,
) -> Result<Trace, CsvError> {
    let requests_max = requests_max.unwrap_or(REQUESTS_MAX).min(REQUESTS_MAX);
    let mut keys: HashMap<Box<str>, KeyId> = HashMap::new();
    let mut requests = Vec::new();
    let mut line = Vec::new();
    let mut number = 0;
    while requests.len() < requests_max {
        line.clear();
        let mut limited = std::io::Read::take(&mut input, LINE_BYTES_MAX as u64 + 1);
        let bytes = limited
            .read_until(b'\n', &mut line)
            .map_err(|source| CsvError::Read { line: number, source })?;
        if bytes == 0 {
            break;
        }
        number += 1;
        let wrong = |what: String| CsvError::Line { line: number, what };
        if bytes > LINE_BYTES_MAX {
            return Err(wrong(format!("longer than {LINE_BYTES_MAX} bytes")));
        }
        let text = std::str::from_utf8(&line).map_err(|_| wrong("not UTF-8".into()))?.trim();
        let head = text.split(',').next().unwrap_or_default().trim().to_ascii_lowercase();
        let titles = number == 1 && (head == "timestamp" || head == "time");
        if text.is_empty() || text.starts_with('#') || titles {
            continue;
        }
        let (key, kind) = parse(text).map_err(wrong)?;
        let key = match keys.get(key) {
            Some(&known) => known,
            None => {
                let fresh = KeyId(keys.len() as u32);
                keys.insert(key.into(), fresh);
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

/// The key and the kind of a line, or what is wrong with it.
fn parse(text: &str) -> Result<(&str, Kind), String> {
    let fields: Vec<&str> = text.split(',').map(str::trim).collect();
    let (timestamp, key, size, operation, ttl) = match fields[..] {
        [timestamp, key, size, operation] => (timestamp, key, size, operation, ""),
        [timestamp, key, size, operation, ttl] => (timestamp, key, size, operation, ttl),
        _ => return Err(format!("{} fields, not 4 or 5", fields.len())),
    };
    match timestamp.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => {}
        _ => return Err(format!("the timestamp `{timestamp}` is not a number of seconds")),
    }
    if key.is_empty() {
        return Err("the key is empty".into());
    }
    size.parse::<u64>().map_err(|_| format!("the size `{size}` is not a number of bytes"))?;
    if !ttl.is_empty() {
        ttl.parse::<u64>().map_err(|_| format!("the TTL `{ttl}` is not a number of seconds"))?;
    }
    let kind = match operation.to_ascii_lowercase().as_str() {
        "get" | "gets" | "read" => Kind::Read,
        "set" | "add" | "replace" | "cas" | "append" | "prepend" | "incr" | "decr" | "write" => {
            Kind::Write
        }
        "delete" | "remove" => Kind::Delete,
        _ => return Err(format!("the operation `{operation}` is none that is known")),
    };
    Ok((key, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Result<Vec<(u32, Kind)>, String> {
        let trace = read(text.as_bytes(), "t", None).map_err(|error| error.to_string())?;
        Ok(trace.requests.iter().map(|request| (request.key.0, request.kind)).collect())
    }

    #[test]
    fn a_trace_is_read_with_and_without_titles() {
        let lines = "0,a,10,get,0\r\n1.5, b ,0,SET,60\n\n# a remark\n2,a,10,delete\n2,b,1,gets,\n";
        let expected = vec![(0, Kind::Read), (1, Kind::Write), (0, Kind::Delete), (1, Kind::Read)];
        assert_eq!(kinds(lines), Ok(expected.clone()));
        assert_eq!(kinds(&format!("timestamp,key,size,op,ttl\n{lines}")), Ok(expected));
        let trace = read(lines.as_bytes(), "t", Some(2)).expect("a trace");
        assert_eq!((trace.requests.len(), trace.keys), (2, 2));
    }

    #[test]
    fn a_wrong_line_is_refused_with_its_number() {
        for (line, word) in [
            ("1,a,10", "fields"),
            ("1,a,10,get,0,7", "fields"),
            ("x,a,10,get,0", "timestamp"),
            ("-1,a,10,get,0", "timestamp"),
            ("NaN,a,10,get,0", "timestamp"),
            ("1,,10,get,0", "key"),
            ("1,a,ten,get,0", "size"),
            ("1,a,-1,get,0", "size"),
            ("1,a,10,got,0", "operation"),
            ("1,a,10,get,soon", "TTL"),
            ("timestamp,key,size,operation,ttl", "timestamp"),
        ] {
            let error = kinds(&format!("0,a,1,get,0\n\n{line}\n")).expect_err(line);
            assert!(error.starts_with("line 3 ") && error.contains(word), "{line}: {error}");
        }
        let long = format!("0,a,1,get,0\n1,{},1,get,0\n", "k".repeat(LINE_BYTES_MAX));
        assert!(kinds(&long).expect_err("too long").starts_with("line 2 "));
        let error = read(&b"0,a,1,get,0\n0,\xff,1,get,0\n"[..], "t", None).expect_err("not text");
        assert!(matches!(error, CsvError::Line { line: 2, .. }), "{error}");
        for nothing in ["", "\n\n", "timestamp,key,size,op,ttl\n"] {
            assert!(kinds(nothing).expect_err("empty").contains("no request"));
        }
    }
}
