//! Traces in the common CSV form: `timestamp,key,size,operation,TTL`, one request a line.
//!
//! - timestamp: seconds, a number that is not negative.
//! - key: any text without a comma.
//! - size: bytes of the value, a whole number.
//! - operation: `get`, `gets` and `read` read; `set`, `add`, `replace`, `cas`, `append`, `prepend`,
//!   `incr`, `decr` and `write` write; `delete` and `remove` remove. Upper or lower case.
//! - TTL: seconds, a whole number, 0 for none; may be left out with its comma.
//!
//! Empty lines, lines that begin with `#`, and a first line whose first field is `timestamp` or
//! `time` are skipped. Anything else is an error with the number of its line: a trace that was read
//! in part would be another one. Nothing is allocated per line.

use std::io::{BufRead, Read};

/// Longest line, in bytes, with its end.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// Why a trace was refused.
#[derive(Debug, thiserror::Error)]
pub enum CsvError {
    /// It could not be read.
    #[error("the trace cannot be read behind line {line}: {source}")]
    Read {
        /// The last line that was read, from 1.
        line: u64,
        /// What the system says.
        source: std::io::Error,
    },
    /// A line is wrong.
    #[error("line {line} of the trace: {what}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
    /// No line has a request.
    #[error("the trace has no request")]
    Empty,
}

/// What a request of a trace does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It reads a key.
    Read,
    /// It writes a key.
    Write,
    /// It removes a key.
    Delete,
}

/// A request as its line says it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request<'a> {
    /// The number of its line, from 1.
    pub line: u64,
    /// When it was made, in seconds; finite and not negative.
    pub timestamp_s: f64,
    /// Its key; not empty.
    pub key: &'a str,
    /// Bytes of the value.
    pub size: u64,
    /// What it does.
    pub operation: Operation,
    /// How long what it writes lives, in seconds; 0 for ever.
    pub ttl_s: u64,
}

/// The requests of a trace, line by line.
#[derive(Debug)]
pub struct Requests<R> {
    input: R,
    line: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Requests<R> {
    /// From the first line on.
    pub fn new(input: R) -> Requests<R> {
        Requests { input, line: Vec::new(), number: 0 }
    }

    /// The next request; none behind the last one.
    ///
    /// # Errors
    /// If the line is wrong, with its number, or cannot be read.
    pub fn next_request(&mut self) -> Result<Option<Request<'_>>, CsvError> {
        loop {
            if !self.read_line()? {
                return Ok(None);
            }
            if !is_skipped(self.text()?, self.number) {
                break;
            }
        }
        let (number, text) = (self.number, self.text()?);
        parse(text, number).map(Some).map_err(|what| CsvError::Line { line: number, what })
    }

    /// Reads a line. False at the end.
    fn read_line(&mut self) -> Result<bool, CsvError> {
        self.line.clear();
        let mut limited = Read::take(&mut self.input, LINE_BYTES_MAX as u64 + 1);
        let bytes = limited
            .read_until(b'\n', &mut self.line)
            .map_err(|source| CsvError::Read { line: self.number, source })?;
        if bytes == 0 {
            return Ok(false);
        }
        self.number += 1;
        if bytes > LINE_BYTES_MAX {
            let what = format!("longer than {LINE_BYTES_MAX} bytes");
            return Err(CsvError::Line { line: self.number, what });
        }
        Ok(true)
    }

    fn text(&self) -> Result<&str, CsvError> {
        let text = std::str::from_utf8(&self.line).map(str::trim);
        text.map_err(|_| CsvError::Line { line: self.number, what: "not UTF-8".into() })
    }
}

/// Whether a line has no request and need not have one.
fn is_skipped(text: &str, number: u64) -> bool {
    let is_title = || {
        let head = text.split(',').next().unwrap_or_default().trim();
        ["timestamp", "time"].iter().any(|title| head.eq_ignore_ascii_case(title))
    };
    text.is_empty() || text.starts_with('#') || (number == 1 && is_title())
}

/// The request of a line, or what is wrong with it.
fn parse(text: &str, line: u64) -> Result<Request<'_>, String> {
    let (mut fields, mut count) = ([""; 5], 0);
    for field in text.split(',') {
        if let Some(place) = fields.get_mut(count) {
            *place = field.trim();
        }
        count += 1;
    }
    if count != 4 && count != 5 {
        return Err(format!("{count} fields, not 4 or 5"));
    }
    let [timestamp, key, size, operation, ttl] = fields;
    let timestamp_s = match timestamp.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => seconds,
        _ => return Err(format!("the timestamp `{timestamp}` is not a number of seconds")),
    };
    if key.is_empty() {
        return Err("the key is empty".into());
    }
    let size = size.parse().map_err(|_| format!("the size `{size}` is not a number of bytes"))?;
    let ttl_s = match ttl {
        "" => 0,
        _ => ttl.parse().map_err(|_| format!("the TTL `{ttl}` is not a number of seconds"))?,
    };
    let operation = operation_of(operation)
        .ok_or_else(|| format!("the operation `{operation}` is none that is known"))?;
    Ok(Request { line, timestamp_s, key, size, operation, ttl_s })
}

fn operation_of(name: &str) -> Option<Operation> {
    const READS: [&str; 3] = ["get", "gets", "read"];
    const WRITES: [&str; 9] =
        ["set", "add", "replace", "cas", "append", "prepend", "incr", "decr", "write"];
    const DELETES: [&str; 2] = ["delete", "remove"];
    let is_one_of = |names: &[&str]| names.iter().any(|known| name.eq_ignore_ascii_case(known));
    if is_one_of(&READS) {
        Some(Operation::Read)
    } else if is_one_of(&WRITES) {
        Some(Operation::Write)
    } else {
        is_one_of(&DELETES).then_some(Operation::Delete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parts = (f64, String, u64, Operation, u64);

    fn parts(text: &[u8]) -> Result<Vec<Parts>, String> {
        let mut requests = Requests::new(text);
        let mut parts = Vec::new();
        while let Some(r) = requests.next_request().map_err(|error| error.to_string())? {
            parts.push((r.timestamp_s, r.key.to_owned(), r.size, r.operation, r.ttl_s));
        }
        Ok(parts)
    }

    #[test]
    fn a_trace_is_read_with_and_without_titles() {
        let lines = "0,a,10,get,0\r\n1.5, b ,0,SET,60\n\n# a remark\n2,a,10,delete\n2,b,1,gets,\n";
        let (a, b) = (String::from("a"), String::from("b"));
        let expected = vec![
            (0.0, a.clone(), 10, Operation::Read, 0),
            (1.5, b.clone(), 0, Operation::Write, 60),
            (2.0, a, 10, Operation::Delete, 0),
            (2.0, b, 1, Operation::Read, 0),
        ];
        assert_eq!(parts(lines.as_bytes()), Ok(expected.clone()));
        let titled = format!("timestamp,key,size,op,ttl\n{lines}");
        assert_eq!(parts(titled.as_bytes()), Ok(expected));
        for nothing in ["", "\n\n", "Time,key,size,op,ttl\n"] {
            assert_eq!(parts(nothing.as_bytes()), Ok(vec![]));
        }
    }

    #[test]
    fn every_operation_of_the_form_is_known() {
        for (names, operation) in [
            ("get gets READ", Operation::Read),
            ("set add replace cas append prepend incr decr Write", Operation::Write),
            ("delete remove", Operation::Delete),
        ] {
            for name in names.split(' ') {
                assert_eq!(operation_of(name), Some(operation), "{name}");
            }
        }
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
            let text = format!("0,a,1,get,0\n\n{line}\n");
            let error = parts(text.as_bytes()).expect_err(line);
            assert!(error.starts_with("line 3 ") && error.contains(word), "{line}: {error}");
        }
        let long = format!("0,a,1,get,0\n1,{},1,get,0\n", "k".repeat(LINE_BYTES_MAX));
        assert!(parts(long.as_bytes()).expect_err("too long").starts_with("line 2 "));
        let error = parts(b"0,a,1,get,0\n0,\xff,1,get,0\n").expect_err("not text");
        assert!(error.starts_with("line 2 ") && error.contains("UTF-8"), "{error}");
    }
}
