//! A thread's way through a trace: which request is next, and when.
//!
//! Every key belongs to one thread, and within a thread to one connection of those that lead to
//! its server, both decided by its number alone. So the requests of a key are sent in the order of
//! the trace. A thread passes over the requests of others; in an open loop all threads step through
//! the same starts, so that each request has the start of its place in the whole trace.

use std::sync::Arc;

use crate::arrivals::Schedule;
use crate::csv::Operation;
use crate::random::mix;
use crate::trace::Trace;
use crate::workload::Kind;

/// What follows a read that found nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Misses {
    /// Nothing.
    #[default]
    Count,
    /// The key is written, with the size and the time to live that the trace gives for the read,
    /// as users of a cache do.
    Fill,
}

/// When the requests of a trace start.
#[derive(Clone, Debug)]
pub(crate) enum Pace {
    /// As soon as there is room.
    Room,
    /// In the trace's own time.
    Recorded {
        /// When the first one is due, in nanoseconds from the start of the run.
        start_ns: u64,
        /// How many seconds of the trace pass in one.
        speed: f64,
    },
    /// One by one as arrivals that do not know the trace.
    Arrivals(Box<Schedule>),
}

/// A thread's way through a trace.
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    trace: Arc<Trace>,
    index: u32,
    threads: u32,
    misses: Misses,
    pace: Pace,
    /// The position of the next request of this thread; the number of all if there is none.
    position: u64,
    /// When it is due.
    next_ns: u64,
}

impl Replay {
    /// From the first request of a thread on.
    pub fn new(trace: Arc<Trace>, index: u32, threads: u32, misses: Misses, pace: Pace) -> Replay {
        let mut replay = Replay { trace, index, threads, misses, pace, position: 0, next_ns: 0 };
        replay.settle();
        replay
    }

    /// When the next request is due, in nanoseconds from the start of the run: at once where there
    /// is room. Nothing at the end of the trace.
    #[inline]
    pub fn next_ns(&self) -> Option<u64> {
        (self.position < self.trace.requests()).then_some(self.next_ns)
    }

    /// Whether the starts of requests do not depend on replies.
    #[inline]
    pub fn is_open(&self) -> bool {
        !matches!(self.pace, Pace::Room)
    }

    /// Takes the next request: its position in the trace, and what it does.
    #[inline(never)]
    pub fn take(&mut self) -> Option<(u64, Kind)> {
        let position = self.position;
        let record = self.trace.record_at(position)?;
        let kind = match (record.operation, self.misses) {
            (Operation::Read, Misses::Count) => Kind::Read,
            (Operation::Read, Misses::Fill) => Kind::Lookup,
            (Operation::Write, _) => Kind::Write,
            (Operation::Delete, _) => Kind::Delete,
        };
        self.step();
        self.settle();
        Some((position, kind))
    }

    fn step(&mut self) {
        self.position += 1;
        if let Pace::Arrivals(schedule) = &mut self.pace {
            schedule.advance();
        }
    }

    /// Goes on to a request of this thread, if the next one is not.
    fn settle(&mut self) {
        while let Some(record) = self.trace.record_at(self.position) {
            if part_of(u64::from(record.key), self.threads) == self.index {
                self.next_ns = match &self.pace {
                    Pace::Room => 0,
                    Pace::Recorded { start_ns, speed } => {
                        start_ns.saturating_add((record.due_ns as f64 / speed) as u64)
                    }
                    Pace::Arrivals(schedule) => schedule.next_ns(),
                };
                return;
            }
            self.step();
        }
    }

    /// Gives up all requests of this thread that are due before `end_ns`, and says how many.
    pub fn abandon_before(&mut self, end_ns: u64) -> u64 {
        let mut abandoned = 0;
        while self.is_open() && self.next_ns().is_some_and(|due_ns| due_ns < end_ns) {
            self.take();
            abandoned += 1;
        }
        abandoned
    }

    /// Which of so many connections takes the request at a position.
    #[inline]
    pub fn connection_of(&self, position: u64, connections: usize) -> usize {
        let key = self.trace.record_at(position).map_or(0, |record| u64::from(record.key));
        // The threads divide the keys by the upper bits of one hash, connections by another one.
        mix(mix(key)).checked_rem(connections as u64).unwrap_or(0) as usize
    }
}

/// Which of so many threads a key belongs to.
#[inline]
fn part_of(key: u64, threads: u32) -> u32 {
    ((u128::from(mix(key)) * u128::from(threads)) >> 64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrivals::{Arrivals, Share};
    use crate::shape::{Profile, Shape};

    const SECOND_NS: u64 = 1_000_000_000;

    fn trace() -> Arc<Trace> {
        let line = |number: u64| {
            let operation = ["get", "set", "delete"][number as usize % 3];
            format!("{}.0,k{},1,{operation}\n{}.5,other,1,get\n", number, mix(number) % 50, number)
        };
        let lines: String = (0..500).map(line).collect();
        Arc::new(Trace::read(lines.as_bytes(), "t", u64::MAX).expect("a trace"))
    }

    /// All that a thread replays, and when.
    fn taken(mut replay: Replay) -> Vec<(u64, u64, Kind)> {
        let mut taken = Vec::new();
        while let Some(due_ns) = replay.next_ns() {
            let (position, kind) = replay.take().expect("a request");
            taken.push((position, due_ns, kind));
        }
        assert_eq!(replay.take(), None);
        taken
    }

    #[test]
    fn threads_share_a_trace_by_key_and_lose_none_of_its_order() {
        let trace = trace();
        for threads in [1, 2, 7] {
            let parts: Vec<Vec<(u64, u64, Kind)>> = (0..threads)
                .map(|index| {
                    let pace = Pace::Room;
                    taken(Replay::new(Arc::clone(&trace), index, threads, Misses::Count, pace))
                })
                .collect();
            let mut all: Vec<u64> = parts.iter().flatten().map(|(place, ..)| *place).collect();
            assert!(parts.iter().all(|part| part.is_sorted_by_key(|(place, ..)| *place)));
            all.sort_unstable();
            assert!(all.iter().copied().eq(0..trace.requests()), "{threads} threads");
            let mut thread_of = vec![None; trace.keys() as usize];
            for (index, part) in parts.iter().enumerate() {
                for (position, ..) in part {
                    let key = trace.record_at(*position).expect("a record").key;
                    assert_eq!(*thread_of[key as usize].get_or_insert(index), index);
                }
            }
            assert!(parts.iter().all(|part| part.len() > 20), "{threads} threads");
        }
    }

    #[test]
    fn requests_are_due_at_their_times_divided_by_the_factor() {
        for speed in [1.0, 0.5, 20.0] {
            let pace = Pace::Recorded { start_ns: 7, speed };
            let replay = Replay::new(trace(), 0, 1, Misses::Count, pace);
            for (position, due_ns, _) in taken(replay) {
                let expected = 7 + (position as f64 / 2.0 * SECOND_NS as f64 / speed) as u64;
                assert!(due_ns.abs_diff(expected) <= 1, "{position}: {due_ns}, not {expected}");
            }
        }
    }

    #[test]
    fn arrivals_are_those_of_the_place_in_the_whole_trace() {
        let profile = Arc::new(Profile::new(&Shape::Constant(1000.0), 0, 0));
        for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
            let replays = |threads: u32| {
                let replay = |index| {
                    let share = Share { index: 0, sources: 1 };
                    let schedule = Schedule::new(arrivals, &profile, share, 9);
                    let pace = Pace::Arrivals(Box::new(schedule));
                    taken(Replay::new(trace(), index, threads, Misses::Count, pace))
                };
                let mut all: Vec<_> = (0..threads).flat_map(replay).collect();
                all.sort_unstable_by_key(|(position, ..)| *position);
                all
            };
            assert_eq!(replays(1), replays(3), "{arrivals:?}");
            assert!(replays(3).is_sorted_by_key(|(_, due_ns, _)| *due_ns));
        }
    }

    #[test]
    fn reads_fill_only_where_that_is_wanted() {
        for (misses, read) in [(Misses::Count, Kind::Read), (Misses::Fill, Kind::Lookup)] {
            let mut replay = Replay::new(trace(), 0, 1, misses, Pace::Room);
            let kinds: Vec<Kind> = (0..6).filter_map(|_| Some(replay.take()?.1)).collect();
            assert_eq!(kinds, [read, read, Kind::Write, read, Kind::Delete, read]);
        }
    }

    #[test]
    fn what_is_given_up_is_counted_to_its_end() {
        let pace = Pace::Recorded { start_ns: 0, speed: 1.0 };
        let mut replay = Replay::new(trace(), 0, 1, Misses::Count, pace);
        assert_eq!(replay.abandon_before(10 * SECOND_NS), 20);
        assert_eq!(replay.next_ns(), Some(10 * SECOND_NS));
        let mut closed = Replay::new(trace(), 0, 1, Misses::Count, Pace::Room);
        assert_eq!(closed.abandon_before(u64::MAX), 0);
    }
}
