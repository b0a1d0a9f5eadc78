//! A trace in memory: which key is asked for when, what is done to it, with which size and time to
//! live.
//!
//! What it costs: [`RECORD_BYTES`] for each request, and for each distinct key its length and 8
//! bytes, with up to 10 more while the file is read. Records lie in chunks, so that reading many of
//! them never copies what is there already. Nothing changes once it has been read; all threads of a
//! run share one.
//!
//! Times count from the first request. Where every timestamp is a whole number of seconds, the
//! requests of a second are spread evenly over it: the trace does not say when in the second they
//! were made, and to start them all at once would invent a burst.

use std::io::BufRead;

use hashbrown::HashTable;

use crate::csv::{CsvError, Operation, Request, Requests};
use crate::random::mix;
use crate::values::ValueSize;

/// Most requests of a trace: the numbers of its keys fit 32 bits.
pub const TRACE_REQUESTS_MAX: u64 = u32::MAX as u64;
/// Requests that are read unless the options say otherwise: 2.4 GB.
pub const TRACE_REQUESTS_DEFAULT: u64 = 100_000_000;
/// Bytes of memory for each request.
pub const RECORD_BYTES: usize = size_of::<Record>();
/// Longest key, in bytes: what memcached takes.
pub const TRACE_KEY_BYTES_MAX: usize = 250;

/// Records of a chunk: 1.5 MiB.
const CHUNK_RECORDS: usize = 1 << 16;
/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// A request of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// When it is due, in nanoseconds from the first one.
    pub due_ns: u64,
    /// The number of its key.
    pub key: u32,
    /// Bytes of the value.
    pub size: u32,
    /// How long what it writes lives, in seconds; 0 for ever.
    pub ttl_s: u32,
    /// What it does.
    pub operation: Operation,
}

const _: () = assert!(RECORD_BYTES == 24);

/// The distinct keys, numbered as they appear.
#[derive(Default)]
struct Keys {
    bytes: Vec<u8>,
    /// Where each begins in `bytes`, and in the lowest eight bits its length.
    spans: Vec<u64>,
}

impl Keys {
    fn get(&self, key: u32) -> &[u8] {
        let span = self.spans.get(key as usize).copied().unwrap_or(0);
        let (start, length) = ((span >> 8) as usize, (span & 0xff) as usize);
        self.bytes.get(start..start + length).unwrap_or_default()
    }

    /// Adds a key that is not there, and returns its number.
    fn add(&mut self, key: &[u8]) -> u32 {
        let number = self.spans.len() as u32;
        self.spans.push(((self.bytes.len() as u64) << 8) | key.len() as u64);
        self.bytes.extend_from_slice(key);
        number
    }
}

/// A trace.
pub struct Trace {
    name: String,
    chunks: Vec<Vec<Record>>,
    requests: u64,
    reads: u64,
    keys: Keys,
    sizes: ValueSize,
    is_cut: bool,
    /// The first line whose timestamp is before that of the line above.
    unordered_line: Option<u64>,
}

impl std::fmt::Debug for Trace {
    /// Without its requests, which may be very many.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = formatter.debug_struct("Trace");
        out.field("name", &self.name).field("requests", &self.requests);
        out.field("keys", &self.keys.spans.len()).finish_non_exhaustive()
    }
}

impl Trace {
    /// Reads a trace in the form of [`crate::csv`], at most `requests_max` requests of it.
    ///
    /// # Errors
    /// The first line that is wrong, with its number: also where its key is longer than
    /// [`TRACE_KEY_BYTES_MAX`] or not printable, or its value longer than any server takes.
    pub fn read(input: impl BufRead, name: &str, requests_max: u64) -> Result<Trace, CsvError> {
        let mut trace = Trace {
            name: name.into(),
            chunks: Vec::new(),
            requests: 0,
            reads: 0,
            keys: Keys::default(),
            sizes: ValueSize { min: usize::MAX, max: 0 },
            is_cut: false,
            unordered_line: None,
        };
        let mut numbers = HashTable::new();
        let mut times = Timestamps::default();
        let mut requests = Requests::new(input);
        while let Some(request) = requests.next_request()? {
            if trace.requests >= requests_max.min(TRACE_REQUESTS_MAX) {
                trace.is_cut = true;
                break;
            }
            let line = request.line;
            let due_ns = times.take(request.timestamp_s);
            if times.went_back {
                trace.unordered_line.get_or_insert(line);
            }
            let record = trace
                .record(&request, due_ns, &mut numbers)
                .map_err(|what| CsvError::Line { line, what })?;
            trace.push(record);
        }
        if trace.requests == 0 {
            return Err(CsvError::Empty);
        }
        if times.are_whole {
            trace.spread();
        }
        Ok(trace)
    }

    fn record(
        &mut self,
        request: &Request<'_>,
        due_ns: u64,
        numbers: &mut HashTable<u32>,
    ) -> Result<Record, String> {
        let Request { key, size, operation, ttl_s, .. } = *request;
        if key.len() > TRACE_KEY_BYTES_MAX {
            let length = key.len();
            return Err(format!("a key of {length} bytes, more than {TRACE_KEY_BYTES_MAX}"));
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "the key `{}` has characters that are no printable ASCII, or a blank",
                key.escape_default()
            ));
        }
        let size_max = proto::limits::VALUE_BYTES_MAX;
        if size > size_max as u64 {
            return Err(format!("a value of {size} bytes, more than {size_max}"));
        }
        let ttl_s = u32::try_from(ttl_s)
            .map_err(|_| format!("a TTL of {ttl_s} s, more than {}", u32::MAX))?;
        let key = self.number(key.as_bytes(), numbers);
        Ok(Record { due_ns, key, size: size as u32, ttl_s, operation })
    }

    /// The number of a key, a new one if need be.
    fn number(&mut self, key: &[u8], numbers: &mut HashTable<u32>) -> u32 {
        let hash = key_hash(key);
        if let Some(known) = numbers.find(hash, |number| self.keys.get(*number) == key) {
            return *known;
        }
        let fresh = self.keys.add(key);
        numbers.insert_unique(hash, fresh, |number| key_hash(self.keys.get(*number)));
        fresh
    }

    fn push(&mut self, record: Record) {
        self.requests += 1;
        self.reads += u64::from(record.operation == Operation::Read);
        self.sizes.min = self.sizes.min.min(record.size as usize);
        self.sizes.max = self.sizes.max.max(record.size as usize);
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK_RECORDS => chunk.push(record),
            _ => self.chunks.push(vec![record]),
        }
    }

    /// Spreads the requests of each second evenly over it.
    fn spread(&mut self) {
        let mut first = 0;
        while let Some(second_ns) = self.record_at(first).map(|record| record.due_ns) {
            let in_second = |position: &u64| {
                self.record_at(*position).is_some_and(|record| record.due_ns == second_ns)
            };
            let count = (first..).take_while(in_second).count() as u64;
            for number in 0..count {
                let offset_ns = u128::from(SECOND_NS) * u128::from(number) / u128::from(count);
                if let Some(record) = self.record_at_mut(first + number) {
                    record.due_ns = record.due_ns.saturating_add(offset_ns as u64);
                }
            }
            first += count;
        }
    }

    fn record_at_mut(&mut self, position: u64) -> Option<&mut Record> {
        let (chunk, place) = place_of(position);
        self.chunks.get_mut(chunk)?.get_mut(place)
    }

    /// The request at a position, from 0.
    #[inline]
    pub(crate) fn record_at(&self, position: u64) -> Option<&Record> {
        let (chunk, place) = place_of(position);
        self.chunks.get(chunk)?.get(place)
    }

    /// The bytes of a key, by its number.
    #[inline]
    pub(crate) fn key(&self, key: u32) -> &[u8] {
        self.keys.get(key)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many requests it has.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// How many distinct keys they ask for.
    pub fn keys(&self) -> u64 {
        self.keys.spans.len() as u64
    }

    /// The part of the requests that read, in 0 to 1.
    pub fn read_share(&self) -> f64 {
        self.reads as f64 / self.requests.max(1) as f64
    }

    /// The shortest and the longest value.
    pub fn sizes(&self) -> ValueSize {
        self.sizes
    }

    /// Whether the file has more requests than were to be read.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The first line, from 1, whose timestamp is before that of the line above, if there is one.
    pub fn unordered_line(&self) -> Option<u64> {
        self.unordered_line
    }

    /// When the last request is due, in seconds from the first one.
    pub fn length_s(&self) -> f64 {
        let last = self.record_at(self.requests.saturating_sub(1));
        last.map_or(0.0, |record| record.due_ns as f64 / SECOND_NS as f64)
    }

    /// How many requests are due before a time, in nanoseconds from the first one, in a trace whose
    /// lines are in order.
    pub(crate) fn due_before(&self, at_ns: u64) -> u64 {
        let is_before = |record: &Record| record.due_ns < at_ns;
        let whole = self.chunks.partition_point(|chunk| chunk.last().is_some_and(is_before));
        let rest = self.chunks.get(whole).map_or(0, |chunk| chunk.partition_point(is_before));
        // Every chunk but the last one is full.
        ((whole * CHUNK_RECORDS + rest) as u64).min(self.requests)
    }
}

/// The chunk of a position, and the place in it.
#[inline]
fn place_of(position: u64) -> (usize, usize) {
    let chunk = usize::try_from(position / CHUNK_RECORDS as u64).unwrap_or(usize::MAX);
    (chunk, (position % CHUNK_RECORDS as u64) as usize)
}

/// A hash of a key's bytes that is the same in every run.
#[inline]
pub(crate) fn key_hash(key: &[u8]) -> u64 {
    let (words, rest) = key.as_chunks::<8>();
    let hash = words
        .iter()
        .fold(mix(key.len() as u64), |hash, word| mix(hash ^ u64::from_le_bytes(*word)));
    let last = rest.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte));
    mix(hash ^ last)
}

/// What the timestamps of a trace have in common.
struct Timestamps {
    first_s: Option<f64>,
    latest_s: f64,
    are_whole: bool,
    /// Whether the last one was before the one in front of it.
    went_back: bool,
}

impl Default for Timestamps {
    fn default() -> Timestamps {
        Timestamps { first_s: None, latest_s: 0.0, are_whole: true, went_back: false }
    }
}

impl Timestamps {
    /// Takes the next timestamp; returns its distance to the first one in nanoseconds.
    fn take(&mut self, timestamp_s: f64) -> u64 {
        let first_s = *self.first_s.get_or_insert(timestamp_s);
        self.went_back = timestamp_s < self.latest_s;
        self.latest_s = timestamp_s;
        self.are_whole &= timestamp_s.fract() == 0.0;
        // What is too far away, or before the first one, ends at the bounds of the type.
        ((timestamp_s - first_s) * SECOND_NS as f64).round() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, requests_max: u64) -> Result<Trace, String> {
        Trace::read(text.as_bytes(), "t", requests_max).map_err(|error| error.to_string())
    }

    fn due_ms(text: &str) -> Vec<u64> {
        let trace = read(text, 100).expect("a trace");
        (0..trace.requests())
            .map(|position| trace.record_at(position).expect("a record").due_ns / 1_000_000)
            .collect()
    }

    #[test]
    fn sizes_times_and_operations_are_kept_and_equal_keys_are_one() {
        let trace =
            read("7,a,10,get,0\n8.25,b,0,SET,60\n8.25,a,77,delete\n", 100).expect("a trace");
        let record = |due_ns, key, size, ttl_s, operation| {
            Some(Record { due_ns, key, size, ttl_s, operation })
        };
        let found: Vec<Option<Record>> =
            (0..4).map(|position| trace.record_at(position).copied()).collect();
        let expected = [
            record(0, 0, 10, 0, Operation::Read),
            record(1_250_000_000, 1, 0, 60, Operation::Write),
            record(1_250_000_000, 0, 77, 0, Operation::Delete),
            None,
        ];
        assert_eq!(found, expected);
        assert_eq!((trace.requests(), trace.keys(), trace.length_s()), (3, 2, 1.25));
        assert_eq!((trace.key(0), trace.key(1)), (&b"a"[..], &b"b"[..]));
        assert_eq!(trace.sizes(), ValueSize { min: 0, max: 77 });
        assert_eq!((trace.is_cut(), trace.unordered_line()), (false, None));
    }

    #[test]
    fn whole_seconds_are_spread_and_fractions_are_kept() {
        let whole = "5,a,1,get\n5,b,1,get\n5,a,1,get\n5,a,1,get\n7,a,1,get\n7,a,1,get\n";
        assert_eq!(due_ms(whole), [0, 250, 500, 750, 2000, 2500]);
        let exact = "5,a,1,get\n5,b,1,get\n5.5,a,1,get\n7,a,1,get\n7,a,1,get\n";
        assert_eq!(due_ms(exact), [0, 0, 500, 2000, 2000]);
    }

    #[test]
    fn a_trace_that_goes_back_in_time_names_the_first_such_line() {
        let trace = read("5,a,1,get\n\n6,a,1,get\n5,a,1,get\n4,a,1,get\n", 100).expect("a trace");
        assert_eq!(trace.unordered_line(), Some(4));
    }

    #[test]
    fn a_line_that_no_server_would_take_is_refused_with_its_number() {
        let longest = format!("1,{},16777216,set,4294967295", "k".repeat(250));
        assert!(read(&longest, 100).is_ok());
        for (line, word) in [
            (format!("1,{},1,get,0", "k".repeat(251)), "251 bytes"),
            ("1,a b,1,get,0".into(), "printable"),
            ("1,k\u{e4}se,1,get,0".into(), "printable"),
            ("1,a\u{7f},1,get,0".into(), "printable"),
            ("1,a,16777217,get,0".into(), "16777217 bytes"),
            ("1,a,1,set,4294967296".into(), "TTL"),
            ("1,a,1,got,0".into(), "operation"),
        ] {
            let error = read(&format!("0,a,1,get,0\n{line}\n"), 100).expect_err(&line);
            assert!(error.starts_with("line 2 ") && error.contains(word), "{line}: {error}");
        }
        assert!(read("# nothing\n", 100).expect_err("empty").contains("no request"));
    }

    #[test]
    fn more_requests_than_wanted_are_cut_and_it_is_known() {
        let lines = "0,a,1,get\n1,b,1,get\n2,c,1,get\n";
        for (requests_max, requests, is_cut) in [(2, 2, true), (3, 3, false), (4, 3, false)] {
            let trace = read(lines, requests_max).expect("a trace");
            assert_eq!((trace.requests(), trace.is_cut()), (requests, is_cut));
        }
    }

    #[test]
    fn many_records_keep_their_places_and_are_found_by_time() {
        let count = 2 * CHUNK_RECORDS as u64 + 7;
        let lines: String =
            (0..count).map(|number| format!("{number}.5,k{},1,get\n", number % 1000)).collect();
        let trace = read(&lines, u64::MAX).expect("a trace");
        assert_eq!((trace.requests(), trace.keys()), (count, 1000));
        for position in [0, 1, CHUNK_RECORDS as u64 - 1, CHUNK_RECORDS as u64, count - 1] {
            let record = trace.record_at(position).expect("a record");
            assert_eq!(
                (record.due_ns, u64::from(record.key)),
                (position * SECOND_NS, position % 1000)
            );
            assert_eq!(trace.due_before(record.due_ns), position);
            assert_eq!(trace.due_before(record.due_ns + 1), position + 1);
        }
        assert_eq!(trace.due_before(u64::MAX), count);
    }

    #[test]
    fn hashes_differ_where_keys_do() {
        let keys = ["", "a", "b", "aa", "ab", "abcdefgh", "abcdefgi", "abcdefgha", "abcdefghb"];
        let mut hashes: Vec<u64> = keys.iter().map(|key| key_hash(key.as_bytes())).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), keys.len());
    }
}
