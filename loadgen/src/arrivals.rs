//! When requests of an open loop are due, independent of how the server does.
//!
//! In an open loop the next request does not wait for the last reply. A schedule is arithmetic:
//! it holds the next intended start and the rule for the one after, and nothing is queued. While
//! a connection can take no more, its schedule simply stands still, and later it hands out the
//! starts that passed in the meantime. Each keeps its intended time, from which its latency
//! counts, so a stalled server cannot hide the requests that it kept from being sent
//! (coordinated omission), however long the stall, and in constant memory.
//!
//! [`Schedules`] merges many schedules in the order of their starts. Many Poisson processes of
//! rate r/n are together one of rate r, and n constant ones with shifted starts are together a
//! constant one, so every connection can have its own. Where the rate changes over time, the same
//! is true of positions instead of times: sources step through the numbers of all requests, and
//! the profile of the run says when each number is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::random::Random;
use crate::shape::{Piece, Profile};

/// How the starts of an open loop are spaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrivals {
    /// At equal distances.
    #[default]
    Constant,
    /// At exponentially distributed distances: independent users.
    Poisson,
}

/// The intended starts of one source of requests, in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    next_ns: u64,
    sources: u64,
    spacing: Spacing,
    /// The part of the profile that the next start lies in.
    piece: Piece,
    piece_number: usize,
    profile: Arc<Profile>,
}

#[derive(Clone, Debug)]
enum Spacing {
    /// The number of the next start among those of all sources, exact however long the run.
    Constant { position: u64 },
    /// The same as a real number, unrounded.
    Poisson { position: f64, random: Random },
}

impl Schedule {
    /// The starts of one of several sources, which together start what the profile says.
    ///
    /// # Panics
    /// If the share's index is not below its sources.
    pub fn new(arrivals: Arrivals, profile: &Arc<Profile>, share: Share, seed: u64) -> Schedule {
        assert!(share.index < share.sources, "{share:?}");
        let spacing = match arrivals {
            Arrivals::Constant => Spacing::Constant { position: u64::from(share.index) },
            Arrivals::Poisson => {
                let random = Random::stream(seed, u64::from(share.index));
                Spacing::Poisson { position: 0.0, random }
            }
        };
        let mut schedule = Schedule {
            next_ns: 0,
            sources: u64::from(share.sources),
            spacing,
            piece: profile.piece(0),
            piece_number: 0,
            profile: Arc::clone(profile),
        };
        match arrivals {
            Arrivals::Constant => schedule.place(f64::from(share.index)),
            Arrivals::Poisson => schedule.advance(),
        }
        schedule
    }

    /// The next intended start.
    #[inline]
    pub fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// Goes on to the start after the next.
    #[inline]
    pub fn advance(&mut self) {
        let position = match &mut self.spacing {
            Spacing::Constant { position } => {
                *position += self.sources;
                *position as f64
            }
            Spacing::Poisson { position, random } => {
                // 1 - unit lies in (0, 1], where the logarithm is finite.
                *position -= self.sources as f64 * (1.0 - random.unit()).ln();
                *position
            }
        };
        self.place(position);
    }

    #[inline]
    fn place(&mut self, position: f64) {
        while position >= self.piece.end {
            self.piece_number += 1;
            self.piece = self.profile.piece(self.piece_number);
        }
        self.next_ns = self.piece.due_ns(position).round() as u64;
    }

    /// Gives up all starts before `end_ns`, one by one as they may be random, and says how many
    /// they were.
    pub fn abandon_before(&mut self, end_ns: u64) -> u64 {
        let mut abandoned = 0;
        while self.next_ns() < end_ns {
            self.advance();
            abandoned += 1;
        }
        abandoned
    }
}

/// Which part of the whole rate a source has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Which source it is, from 0.
    pub index: u32,
    /// How many sources there are.
    pub sources: u32,
}

/// Several schedules, merged by their next start.
///
/// A source that cannot take its next start is *held*: it leaves the order and keeps its place
/// in time.
#[derive(Debug)]
pub(crate) struct Schedules {
    schedules: Vec<Schedule>,
    order: BinaryHeap<Reverse<(u64, usize)>>,
    held: Vec<bool>,
}

impl Schedules {
    /// Merges the schedules. Sources are numbered as given.
    pub fn new(schedules: Vec<Schedule>) -> Schedules {
        let order = schedules
            .iter()
            .enumerate()
            .map(|(source, schedule)| Reverse((schedule.next_ns(), source)))
            .collect();
        let held = vec![false; schedules.len()];
        Schedules { schedules, order, held }
    }

    /// The earliest start of a source that is not held, and the source.
    #[inline]
    pub fn next(&self) -> Option<(u64, usize)> {
        self.order.peek().map(|Reverse(next)| *next)
    }

    /// The earliest start has been taken.
    #[inline]
    pub fn take(&mut self) {
        if let Some(mut top) = self.order.peek_mut() {
            let source = top.0.1;
            let schedule = &mut self.schedules[source];
            schedule.advance();
            top.0.0 = schedule.next_ns();
        }
    }

    /// The earliest start's source cannot take it.
    pub fn hold(&mut self) {
        if let Some(Reverse((_, source))) = self.order.pop() {
            self.held[source] = true;
        }
    }

    /// The source can take starts again. Nothing changes if it was not held.
    #[inline]
    pub fn release(&mut self, source: usize) {
        if self.held.get(source).copied().unwrap_or(false) {
            self.held[source] = false;
            self.order.push(Reverse((self.schedules[source].next_ns(), source)));
        }
    }

    /// Whether the source is held.
    #[inline]
    pub fn is_held(&self, source: usize) -> bool {
        self.held.get(source).copied().unwrap_or(false)
    }

    /// Whether any source has a start before `end_ns` left, held or not.
    pub fn owes_before(&self, end_ns: u64) -> bool {
        self.schedules.iter().any(|schedule| schedule.next_ns() < end_ns)
    }

    /// Ends all schedules at `end_ns` and says how many starts before it were never taken.
    pub fn abandon_before(&mut self, end_ns: u64) -> u64 {
        self.order.clear();
        self.held.fill(true);
        self.schedules.iter_mut().map(|schedule| schedule.abandon_before(end_ns)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;

    const SECOND_NS: u64 = 1_000_000_000;

    fn shaped(arrivals: Arrivals, shape: &Shape, count: u32) -> Schedules {
        let profile = Arc::new(Profile::new(shape, 0, 0));
        let schedule =
            |index| Schedule::new(arrivals, &profile, Share { index, sources: count }, 42);
        Schedules::new((0..count).map(schedule).collect())
    }

    fn sources(arrivals: Arrivals, rate: f64, count: u32) -> Schedules {
        shaped(arrivals, &Shape::Constant(rate), count)
    }

    fn starts_before(schedules: &mut Schedules, end_ns: u64) -> Vec<u64> {
        let mut starts = Vec::new();
        while let Some((start, _)) = schedules.next().filter(|(start, _)| *start < end_ns) {
            starts.push(start);
            schedules.take();
        }
        starts
    }

    #[test]
    fn constant_sources_interleave_into_one_constant_rate() {
        let mut schedules = sources(Arrivals::Constant, 1000.0, 7);
        let starts = starts_before(&mut schedules, SECOND_NS);
        assert_eq!(starts.len(), 1000);
        assert!(starts.windows(2).all(|pair| (pair[1] - pair[0]).abs_diff(1_000_000) <= 1));
    }

    #[test]
    fn a_long_run_does_not_drift() {
        let mut schedules = sources(Arrivals::Constant, 333_333.0, 3);
        let count = starts_before(&mut schedules, 10 * SECOND_NS).len();
        assert!(count.abs_diff(3_333_330) <= 1, "{count}");
    }

    #[test]
    fn poisson_sources_have_the_rate_and_the_spread_of_one_process() {
        let mut schedules = sources(Arrivals::Poisson, 100_000.0, 16);
        let starts = starts_before(&mut schedules, SECOND_NS);
        // Six standard deviations of a Poisson count.
        assert!(starts.len().abs_diff(100_000) < 1900, "{}", starts.len());
        let gaps: Vec<f64> = starts.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let over_twice_the_mean = gaps.iter().filter(|gap| **gap > 2.0 * mean).count() as f64;
        let expected = (-2f64).exp();
        let share = over_twice_the_mean / gaps.len() as f64;
        assert!((share - expected).abs() < 0.01, "{share} instead of {expected}");
    }

    #[test]
    fn a_held_source_loses_no_start() {
        let mut schedules = sources(Arrivals::Constant, 1000.0, 2);
        let (_, held) = schedules.next().expect("a start");
        schedules.hold();
        let others = starts_before(&mut schedules, SECOND_NS).len();
        assert_eq!(others, 500);
        schedules.release(held);
        schedules.release(held);
        let late = starts_before(&mut schedules, SECOND_NS);
        assert_eq!(late.len(), 500);
        assert_eq!(late[0], 0);
    }

    #[test]
    fn starts_that_were_never_taken_are_counted() {
        for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
            let mut taken = sources(arrivals, 5000.0, 4);
            let all = starts_before(&mut taken, SECOND_NS).len() as u64;
            let mut schedules = sources(arrivals, 5000.0, 4);
            let half = starts_before(&mut schedules, SECOND_NS / 2).len() as u64;
            schedules.hold();
            assert_eq!(schedules.abandon_before(SECOND_NS), all - half);
            assert_eq!(schedules.next(), None);
        }
    }

    #[test]
    fn each_stage_of_a_shape_starts_what_its_rate_says() {
        let shape: Shape = "steps:2000,8000,1000@1s".parse().expect("a shape");
        for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
            let mut schedules = shaped(arrivals, &shape, 7);
            for (end, expected) in [(1, 2000), (2, 8000), (3, 1000), (4, 1000)] {
                let count = starts_before(&mut schedules, end * SECOND_NS).len();
                // Six standard deviations of a Poisson count.
                let spread = match arrivals {
                    Arrivals::Constant => 0,
                    Arrivals::Poisson => 6 * (expected as f64).sqrt() as usize,
                };
                assert!(count.abs_diff(expected) <= spread, "{arrivals:?} to {end}: {count}");
            }
        }
    }

    #[test]
    fn a_spike_keeps_the_distances_of_its_rates() {
        let shape: Shape = "spike:1000,10000@1s-2s".parse().expect("a shape");
        let mut schedules = shaped(Arrivals::Constant, &shape, 3);
        let starts = starts_before(&mut schedules, 3 * SECOND_NS);
        assert_eq!(starts.len(), 1000 + 10_000 + 1000);
        for pair in starts.windows(2) {
            let in_spike = pair[0] >= SECOND_NS && pair[1] < 2 * SECOND_NS;
            let interval_ns = if in_spike { 100_000 } else { 1_000_000 };
            let crosses = (pair[0] < 2 * SECOND_NS) != (pair[1] < 2 * SECOND_NS);
            assert!(crosses || (pair[1] - pair[0]).abs_diff(interval_ns) <= 1, "{pair:?}");
        }
    }
}
