//! A trace: what is asked for, in order.
//!
//! Keys are dense numbers, so that offline policies keep their state in arrays; on the wire a key
//! is sixteen hexadecimal digits of a bijection of its number, so that neighbours in a trace are
//! none in anybody's hash. All values are of one size, because the room of the contestants is made
//! equal in entries: what a server charges for a byte is another question than whom it evicts.

use loadgen::mix;
use serde::Serialize;

/// Bytes of a key on the wire.
pub const KEY_BYTES: usize = 16;

/// The number of a key, below [`Trace::keys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub u32);

impl KeyId {
    /// The position of the key's state in an array.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// The key as servers see it.
    pub fn on_the_wire(self) -> [u8; KEY_BYTES] {
        let bits = mix(u64::from(self.0));
        std::array::from_fn(|digit| b"0123456789abcdef"[(bits >> (60 - 4 * digit)) as usize & 15])
    }
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads, and writes on a miss. Counts.
    Read,
    /// As a read, but part of a scan, whose misses say nothing about the policy. Does not count.
    Scan,
    /// Writes without reading before.
    Write,
    /// Removes the key.
    Delete,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which key.
    pub key: KeyId,
    /// What happens to it.
    pub kind: Kind,
}

/// Requests in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// What it is called in tables and file names.
    pub name: String,
    /// The requests.
    pub requests: Vec<Request>,
    /// How many keys there are; every key's number is below.
    pub keys: usize,
}

impl Trace {
    /// A trace that writes each of `keys` keys once.
    pub fn fill(keys: u32) -> Trace {
        let request = |key| Request { key: KeyId(key), kind: Kind::Write };
        let requests = (0..keys).map(request).collect();
        Trace { name: "fill".into(), requests, keys: keys as usize }
    }
}

/// What became of reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Reads that found their key.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Reads without an answer, or with an error or a wrong value for one.
    pub errors: u64,
}

impl Tally {
    /// Counts one answered read.
    pub fn count(&mut self, found: bool) {
        match found {
            true => self.hits += 1,
            false => self.misses += 1,
        }
    }

    /// Adds what another one counted.
    pub fn add(&mut self, other: &Tally) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.errors += other.errors;
    }

    /// Hits of a hundred reads. An error is no hit: whoever asked did not get the value. `None`
    /// without any read.
    pub fn percent(&self) -> Option<f64> {
        let all = self.hits + self.misses + self.errors;
        (all > 0).then(|| self.hits as f64 * 100.0 / all as f64)
    }
}

/// The parts that a trace is counted in: all of the same number of requests, within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Windows {
    /// Requests of the trace.
    pub requests: usize,
    /// How many windows there are.
    pub count: usize,
    /// How many of them, from the first, are the warm-up, which is shown but not counted.
    pub warm_up: usize,
}

impl Windows {
    /// Splits `requests` into `count` windows of which the first `warm_up` (0 to 1) warms up.
    pub fn new(requests: usize, count: usize, warm_up: f64) -> Windows {
        let count = count.clamp(1, requests.max(1));
        let warm_up = (count as f64 * warm_up).round() as usize;
        Windows { requests, count, warm_up: warm_up.min(count - 1) }
    }

    /// The window of the request at `position`.
    pub fn of(&self, position: usize) -> usize {
        (position as u128 * self.count as u128 / self.requests.max(1) as u128) as usize
    }

    /// The position of the first request of `window`.
    pub fn start(&self, window: usize) -> usize {
        (window as u128 * self.requests as u128).div_ceil(self.count as u128) as usize
    }

    /// The window at whose start a server fails: in the middle, and not within the warm-up.
    pub fn failover(&self) -> usize {
        (self.count / 2).max(self.warm_up)
    }

    /// The sum of what was counted behind the warm-up.
    pub fn total(&self, tallies: &[Tally]) -> Tally {
        let mut total = Tally::default();
        tallies.iter().skip(self.warm_up).for_each(|tally| total.add(tally));
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_have_sixteen_digits_and_differ() {
        let keys: HashSet<[u8; 16]> = (0..10_000).map(|id| KeyId(id).on_the_wire()).collect();
        assert_eq!(keys.len(), 10_000);
        assert!(keys.iter().flatten().all(u8::is_ascii_hexdigit));
    }

    #[test]
    fn windows_cover_the_trace_without_gap() {
        for (requests, count) in [(1, 1), (7, 3), (100, 7), (5, 9), (1_000_000, 120)] {
            let windows = Windows::new(requests, count, 1.0 / 3.0);
            for window in 0..windows.count {
                let start = windows.start(window);
                assert_eq!(windows.of(start), window, "{requests} in {count}");
                assert!(start == 0 || windows.of(start - 1) + 1 == window);
            }
            assert_eq!(windows.start(windows.count), requests);
            assert!(windows.warm_up <= windows.failover() && windows.failover() < windows.count);
        }
    }

    #[test]
    fn the_warm_up_is_not_counted_and_an_error_is_no_hit() {
        let windows = Windows::new(6, 3, 0.34);
        let tally = |hits, misses, errors| Tally { hits, misses, errors };
        let total = windows.total(&[tally(9, 9, 9), tally(3, 1, 0), tally(3, 2, 1)]);
        assert_eq!(total, tally(6, 3, 1));
        assert_eq!(total.percent(), Some(60.0));
        assert_eq!(Tally::default().percent(), None);
    }
}
