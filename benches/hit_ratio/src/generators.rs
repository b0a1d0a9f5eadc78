//! Traces drawn from a seed.
//!
//! - zipf: ranks of a zipf distribution, scattered over the keys.
//! - scan: the same, but every twentieth request asks for a key that nobody asked for before.
//! - loop: half of the requests are zipf, the others walk round a loop that is a fifth larger than
//!   the room: the worst that can happen to LRU.
//! - shift: zipf whose ranks are scattered anew ten times: what was hot is cold at once.
//!
//! The same seed and sizes give the same trace on every machine and in every version: numbers and
//! distributions come from the load generator, which promises that.

use loadgen::{Distribution, KeyChooser, Random};

use crate::trace::{KeyId, Kind, Request, Trace};

/// Of so many requests one belongs to the scan.
const SCAN_EVERY: usize = 20;
/// How often the hot set of the shifting trace is another one.
const SHIFTS: usize = 10;

/// Which trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Generator {
    /// Zipf alone.
    Zipf,
    /// Zipf with every twentieth request of a scan.
    Scan,
    /// Zipf and a loop larger than the room, half each.
    Loop,
    /// Zipf with a hot set that changes ten times.
    Shift,
}

/// What traces are drawn from.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Keys of the zipf distribution.
    pub keys: u32,
    /// Its exponent.
    pub theta: f64,
    /// Requests.
    pub requests: usize,
    /// Entries that the contestants hold.
    pub room: u32,
    /// The seed.
    pub seed: u64,
}

impl Generator {
    /// The name on the command line and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Generator::Zipf => "zipf",
            Generator::Scan => "scan",
            Generator::Loop => "loop",
            Generator::Shift => "shift",
        }
    }

    /// Draws the trace.
    pub fn draw(self, sizes: &Sizes) -> Trace {
        let distribution = Distribution::Zipf { theta: sizes.theta };
        let chooser = |seed| KeyChooser::new(distribution, u64::from(sizes.keys), seed);
        let mut hot_set = chooser(sizes.seed);
        let mut random = Random::stream(sizes.seed, 1);
        let shift_every = sizes.requests.div_ceil(SHIFTS + 1).max(1);
        let loop_keys = (u64::from(sizes.room) * 6).div_ceil(5).max(1) as u32;
        let mut beyond = 0;
        let mut requests = Vec::with_capacity(sizes.requests);
        for position in 0..sizes.requests {
            if self == Generator::Shift && position > 0 && position % shift_every == 0 {
                hot_set = chooser(sizes.seed.wrapping_add((position / shift_every) as u64));
            }
            let apart = match self {
                Generator::Scan if position % SCAN_EVERY == SCAN_EVERY - 1 => Some(Kind::Scan),
                Generator::Loop if random.bits() & 1 == 1 => Some(Kind::Read),
                _ => None,
            };
            let request = match apart {
                Some(kind) => {
                    let offset = if kind == Kind::Read { beyond % loop_keys } else { beyond };
                    beyond += 1;
                    Request { key: KeyId(sizes.keys + offset), kind }
                }
                None => {
                    let key = hot_set.next(&mut random) as u32;
                    Request { key: KeyId(key), kind: Kind::Read }
                }
            };
            requests.push(request);
        }
        let keys = requests.iter().map(|request| request.key.index() + 1).max().unwrap_or(0);
        Trace { name: self.name().into(), requests, keys: keys.max(sizes.keys as usize) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const ALL: [Generator; 4] =
        [Generator::Zipf, Generator::Scan, Generator::Loop, Generator::Shift];

    fn sizes(seed: u64) -> Sizes {
        Sizes { keys: 1_000, theta: 0.99, requests: 11_000, room: 100, seed }
    }

    #[test]
    fn a_seed_gives_the_same_trace_again_and_another_seed_another_one() {
        for generator in ALL {
            let trace = generator.draw(&sizes(7));
            assert_eq!(trace, generator.draw(&sizes(7)));
            assert_ne!(trace, generator.draw(&sizes(8)));
            assert_eq!(trace.requests.len(), 11_000);
            assert!(trace.requests.iter().all(|request| request.key.index() < trace.keys));
        }
    }

    #[test]
    fn every_twentieth_request_of_the_scan_asks_for_a_fresh_key() {
        let trace = Generator::Scan.draw(&sizes(1));
        let scanned: Vec<u32> = trace
            .requests
            .iter()
            .filter(|request| request.kind == Kind::Scan)
            .map(|request| request.key.0)
            .collect();
        assert_eq!(scanned, (1_000..1_550).collect::<Vec<_>>());
        assert_eq!(trace.requests[19].kind, Kind::Scan);
    }

    #[test]
    fn the_loop_walks_round_more_keys_than_there_is_room_for() {
        let trace = Generator::Loop.draw(&sizes(1));
        let looped: Vec<u32> = trace
            .requests
            .iter()
            .map(|request| request.key.0)
            .filter(|&key| key >= 1_000)
            .collect();
        assert!(looped.iter().zip((1_000..1_120).cycle()).all(|(&key, expected)| key == expected));
        assert!(looped.len().abs_diff(5_500) < 400, "{}", looped.len());
    }

    #[test]
    fn the_hot_set_shifts() {
        let trace = Generator::Shift.draw(&sizes(1));
        let hot = |part: usize| -> HashSet<u32> {
            let mut counts = vec![0; trace.keys];
            let part = &trace.requests[part * 1_000..(part + 1) * 1_000];
            part.iter().for_each(|request| counts[request.key.index()] += 1);
            (0..).zip(counts).filter(|(_, count)| *count > 20).map(|(key, _)| key).collect()
        };
        for part in 0..10 {
            assert!(!hot(part).is_empty());
            assert!(hot(part).intersection(&hot(part + 1)).count() < 2, "part {part}");
        }
    }

    #[test]
    fn small_ranks_are_drawn_as_often_as_zipf_says() {
        let trace = Generator::Zipf.draw(&sizes(3));
        let mut counts = vec![0u32; trace.keys];
        trace.requests.iter().for_each(|request| counts[request.key.index()] += 1);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        // The sum of k^-0.99 for k up to 1,000 is 7.73, so the first has 12.9 % of the requests;
        // six standard deviations of 11,000 draws are 1.9 points.
        let first = f64::from(counts[0]) / 110.0;
        assert!((first - 12.9).abs() < 1.9, "{first}");
    }
}
