//! Policies computed offline, over the same trace and with the same number of entries as the
//! contestants: what the figures of real servers are compared with.
//!
//! They see the trace in its exact order, one request at a time, and write on a miss at once. Keys
//! are dense numbers, so all state lies in arrays and nothing is hashed.

mod fifo;
mod list;
mod lru;
mod optimum;
mod sieve;

use crate::trace::{KeyId, Kind, Tally, Trace, Windows};

/// A cache of a fixed number of entries that sees the requests of one trace in order.
trait Policy {
    /// A read (which writes on a miss) or a write. Says whether the key was held before; it is
    /// held afterwards, unless the policy had no better use for any other entry.
    fn access(&mut self, key: KeyId) -> bool;

    /// A removal.
    fn remove(&mut self, key: KeyId);
}

/// Which policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// Least recently used, exactly.
    Lru,
    /// SIEVE.
    Sieve,
    /// First in, first out.
    Fifo,
    /// The clairvoyant optimum.
    Optimum,
}

impl Reference {
    /// All of them.
    pub const ALL: [Reference; 4] =
        [Reference::Lru, Reference::Sieve, Reference::Fifo, Reference::Optimum];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Reference::Lru => "exact LRU",
            Reference::Sieve => "SIEVE",
            Reference::Fifo => "FIFO",
            Reference::Optimum => "optimum",
        }
    }

    /// What a cache of `room` entries (at least 1) under this policy makes of the trace.
    pub fn simulate(self, trace: &Trace, room: usize, windows: &Windows) -> Vec<Tally> {
        let room = room.max(1);
        match self {
            Reference::Lru => play(lru::Lru::new(trace.keys, room), trace, windows),
            Reference::Sieve => play(sieve::Sieve::new(trace.keys, room), trace, windows),
            Reference::Fifo => play(fifo::Fifo::new(trace.keys, room), trace, windows),
            Reference::Optimum => play(optimum::Optimum::new(trace, room), trace, windows),
        }
    }
}

fn play(mut policy: impl Policy, trace: &Trace, windows: &Windows) -> Vec<Tally> {
    let mut tallies = vec![Tally::default(); windows.count];
    for (position, request) in trace.requests.iter().enumerate() {
        match request.kind {
            Kind::Read => tallies[windows.of(position)].count(policy.access(request.key)),
            Kind::Scan | Kind::Write => {
                policy.access(request.key);
            }
            Kind::Delete => policy.remove(request.key),
        }
    }
    tallies
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generators::{Generator, Sizes};
    use crate::trace::Request;

    /// A trace of letters: lower case reads, upper case writes, a letter behind `-` is removed.
    fn trace(text: &str) -> Trace {
        let mut requests = Vec::new();
        let mut kind = None;
        for letter in text.bytes() {
            if letter == b'-' {
                kind = Some(Kind::Delete);
                continue;
            }
            let given = if letter.is_ascii_uppercase() { Kind::Write } else { Kind::Read };
            let key = KeyId(u32::from(letter.to_ascii_lowercase() - b'a'));
            requests.push(Request { key, kind: kind.take().unwrap_or(given) });
        }
        Trace { name: "letters".into(), requests, keys: 26 }
    }

    /// One character for each read: `+` for a hit, `.` for a miss.
    fn outcome(reference: Reference, room: usize, text: &str) -> String {
        let trace = trace(text);
        let windows = Windows::new(trace.requests.len(), trace.requests.len(), 0.0);
        let tallies = reference.simulate(&trace, room, &windows);
        let symbol = |tally: &Tally| match (tally.hits, tally.misses) {
            (1, 0) => "+",
            (0, 1) => ".",
            _ => "",
        };
        tallies.iter().map(symbol).collect()
    }

    #[test]
    fn lru_evicts_what_was_used_longest_ago() {
        // abc fill; a is renewed; d evicts b; b evicts c; a is held; c evicts d.
        assert_eq!(outcome(Reference::Lru, 3, "abcadbac"), "...+..+.");
        // A write renews as a read does, and a removal makes room.
        assert_eq!(outcome(Reference::Lru, 2, "abAcab"), "...+.");
        assert_eq!(outcome(Reference::Lru, 2, "ab-acb"), "...+");
    }

    #[test]
    fn fifo_evicts_what_came_first() {
        // a is not renewed: d evicts a, then a evicts b, b evicts c, and d is held.
        assert_eq!(outcome(Reference::Fifo, 3, "abcadabd"), "...+...+");
        assert_eq!(outcome(Reference::Fifo, 2, "ab-acb"), "...+");
    }

    #[test]
    fn sieve_passes_over_what_was_visited_and_goes_on_from_there() {
        // a is visited: d takes a's mark and evicts b, the hand is at c; e evicts c, then the hand
        // is at d; f evicts d although a is older and unmarked; so a, e, f are held.
        assert_eq!(outcome(Reference::Sieve, 3, "abcadefaef"), "...+...+++");
        // All are marked: the hand clears all of them and evicts the oldest.
        assert_eq!(outcome(Reference::Sieve, 2, "ababcab"), "..++...");
        // c, where the hand stands, is removed: it goes on at d, which f evicts, and not at a.
        assert_eq!(outcome(Reference::Sieve, 3, "abcad-cefaf"), "...+...++");
    }

    #[test]
    fn the_optimum_evicts_what_is_wanted_last() {
        // At d, c is wanted last: it goes. When it comes again, d is of no more use.
        assert_eq!(outcome(Reference::Optimum, 3, "abcdabdcab"), "....+++.++");
        // What is never wanted again does not enter.
        assert_eq!(outcome(Reference::Optimum, 1, "abaca"), "..+.+");
        // What is written before it is read again needs not be held.
        assert_eq!(outcome(Reference::Optimum, 1, "abAb"), "..+");
        assert_eq!(outcome(Reference::Optimum, 1, "ab-ab"), "..+");
        // b was worth nothing until it was written, and is worth keeping since.
        assert_eq!(outcome(Reference::Optimum, 1, "bBab"), "..+");
    }

    #[test]
    fn no_policy_beats_the_optimum_and_all_hits_need_room() {
        let sizes = Sizes { keys: 500, theta: 0.9, requests: 20_000, room: 50, seed: 5 };
        for generator in [Generator::Zipf, Generator::Scan, Generator::Loop, Generator::Shift] {
            let trace = generator.draw(&sizes);
            let windows = Windows::new(trace.requests.len(), 10, 0.3);
            let hits = |reference: Reference, room| {
                windows.total(&reference.simulate(&trace, room, &windows)).hits
            };
            let best = hits(Reference::Optimum, 50);
            for reference in [Reference::Lru, Reference::Sieve, Reference::Fifo] {
                assert!(hits(reference, 50) < best, "{generator:?} {reference:?}");
                assert!(hits(reference, 50) < hits(reference, 100), "{generator:?} {reference:?}");
            }
            // With room for all, all policies are one.
            let all = hits(Reference::Optimum, trace.keys);
            assert!(Reference::ALL.iter().all(|other| hits(*other, trace.keys) == all));
        }
    }
}
