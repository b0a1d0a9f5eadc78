//! What is measured: histograms of latency and counts of everything else, per second.
//!
//! A worker records into its current interval, which nobody else sees, and hands it over when
//! the second is full. Totals are sums of intervals, made by the collector. So the hot path has
//! no lock, no atomic and no second histogram.
//!
//! Every request belongs to the phase in which it was *meant* to start. One that was meant to
//! start during the warm-up and ends after it counts as work done in that second but not as a
//! measured latency. Thus the measured requests are exactly those that were due in the measured
//! time, and each of them ends in one count: done, refused, lost, malformed or never sent.

use hdrhistogram::Histogram;

use client::Class;

use crate::workload::Kind;

/// Longest latency told apart, in nanoseconds; longer ones count as this long. A run with a
/// longer stall than ten minutes needs no more precision.
pub const LATENCY_NS_MAX: u64 = 600_000_000_000;
/// Decimal digits to which latencies are exact.
const DIGITS: u8 = 3;
/// Different error codes that are told apart; further ones are counted together.
const CODES_MAX: usize = 16;

/// A histogram of latencies in nanoseconds.
pub fn histogram() -> Histogram<u64> {
    // The bounds are constants that the crate accepts, which a test shows.
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS)
        .unwrap_or_else(|error| unreachable!("constant bounds: {error}"))
}

/// What part of a run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before anything is measured.
    Warmup,
    /// Requests start and are measured.
    Measured,
    /// No new requests; replies to measured ones still come.
    Drain,
}

/// Counts of one interval, or of many.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Reads that were answered: hits and misses.
    pub reads: u64,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Reads that found a value.
    pub hits: u64,
    /// Writes that followed a read that found nothing.
    pub fills: u64,
    /// Removals, of keys that were there or not; they count as writes, too.
    pub deletes: u64,
    /// Requests the server refused and has not done.
    pub refused_not_done: u64,
    /// Requests of which the server said that it does not know.
    pub refused_unknown: u64,
    /// Reads on a connection that was lost or silent for too long.
    pub lost_not_done: u64,
    /// Writes on a connection that was lost or silent for too long.
    pub lost_unknown: u64,
    /// Requests that were due and never sent.
    pub unsent: u64,
    /// Requests whose reply was malformed, of the wrong kind, or not the value written.
    pub malformed: u64,
    /// Values whose length is not what this run writes: another run's data.
    pub foreign_values: u64,
    /// Attempts to connect that failed.
    pub connects_failed: u64,
    /// Connections that ended although they should not have.
    pub connections_lost: u64,
    /// Of these, connections that owed replies for too long.
    pub timeouts: u64,
    /// Redirects that were followed.
    pub redirects: u64,
    /// Cluster maps fetched.
    pub maps: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Sends that were late by the generator's own fault.
    pub late_sends: u64,
    /// By how much they were late, together, in nanoseconds.
    pub lateness_ns_sum: u64,
    /// The latest of them, in nanoseconds.
    pub lateness_ns_max: u64,
    /// Errors by the code the server gave.
    pub codes: Vec<(String, u64)>,
}

impl Counts {
    /// Adds the counts of another interval or worker.
    pub fn add(&mut self, other: &Counts) {
        for (sum, part) in [
            (&mut self.reads, other.reads),
            (&mut self.writes, other.writes),
            (&mut self.hits, other.hits),
            (&mut self.fills, other.fills),
            (&mut self.deletes, other.deletes),
            (&mut self.refused_not_done, other.refused_not_done),
            (&mut self.refused_unknown, other.refused_unknown),
            (&mut self.lost_not_done, other.lost_not_done),
            (&mut self.lost_unknown, other.lost_unknown),
            (&mut self.unsent, other.unsent),
            (&mut self.malformed, other.malformed),
            (&mut self.foreign_values, other.foreign_values),
            (&mut self.connects_failed, other.connects_failed),
            (&mut self.connections_lost, other.connections_lost),
            (&mut self.timeouts, other.timeouts),
            (&mut self.redirects, other.redirects),
            (&mut self.maps, other.maps),
            (&mut self.bytes_sent, other.bytes_sent),
            (&mut self.bytes_received, other.bytes_received),
            (&mut self.late_sends, other.late_sends),
            (&mut self.lateness_ns_sum, other.lateness_ns_sum),
        ] {
            *sum += part;
        }
        self.lateness_ns_max = self.lateness_ns_max.max(other.lateness_ns_max);
        for (code, count) in &other.codes {
            self.add_code(code, *count);
        }
    }

    fn add_code(&mut self, code: &str, count: u64) {
        if let Some((_, sum)) = self.codes.iter_mut().find(|(known, _)| known == code) {
            *sum += count;
        } else if self.codes.len() < CODES_MAX {
            self.codes.push((code.to_owned(), count));
        } else if let Some((_, sum)) = self.codes.last_mut() {
            *sum += count;
        }
    }

    /// Requests that were answered as asked.
    pub fn done(&self) -> u64 {
        self.reads + self.writes
    }

    /// Requests that failed and certainly did not happen.
    pub fn not_done(&self) -> u64 {
        self.refused_not_done + self.lost_not_done + self.unsent
    }

    /// Requests of which nobody knows whether they happened.
    pub fn unknown(&self) -> u64 {
        self.refused_unknown + self.lost_unknown
    }

    /// Requests that failed, in whichever way.
    pub fn failed(&self) -> u64 {
        self.not_done() + self.unknown() + self.malformed
    }
}

/// One interval of one worker.
#[derive(Clone, Debug)]
pub struct Interval {
    /// The part of the run.
    pub phase: Phase,
    /// When it starts, in nanoseconds from the start of the run.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// Latencies of reads that belong to this phase.
    pub reads: Histogram<u64>,
    /// Latencies of writes that belong to this phase.
    pub writes: Histogram<u64>,
    /// Latencies of requests that were meant to start in the warm-up and ended after it.
    pub carried: Histogram<u64>,
    /// Counts of requests that belong to this phase, and of everything that is no request.
    pub counts: Counts,
    /// Requests in `carried`.
    pub carried_done: u64,
}

impl Interval {
    /// An empty interval.
    pub fn new(phase: Phase, start_ns: u64) -> Interval {
        Interval {
            phase,
            start_ns,
            end_ns: start_ns,
            reads: histogram(),
            writes: histogram(),
            carried: histogram(),
            counts: Counts::default(),
            carried_done: 0,
        }
    }
}

impl Interval {
    /// Empties it for another use. Its memory stays, and has been touched.
    pub fn clear(&mut self) {
        self.reads.reset();
        self.writes.reset();
        self.carried.reset();
        self.counts = Counts::default();
        self.carried_done = 0;
    }
}

/// Where a worker records.
#[derive(Debug)]
pub struct Recorder {
    interval: Box<Interval>,
    /// Requests meant to start before this do not belong to the phase.
    belongs_from_ns: u64,
    /// A send this much after its time is late.
    late_from_ns: u64,
}

impl Recorder {
    /// Starts with an interval. A send at least `late_from_ns` after its time will be late, if
    /// nothing but the generator itself held it up.
    pub fn new(interval: Box<Interval>, late_from_ns: u64) -> Recorder {
        Recorder { interval, belongs_from_ns: 0, late_from_ns }
    }

    /// Ends the current interval and starts the next one, which must be empty. Requests meant to
    /// start before `belongs_from_ns` do not belong to its phase.
    pub fn rotate(
        &mut self,
        mut next: Box<Interval>,
        phase: Phase,
        now_ns: u64,
        belongs_from_ns: u64,
    ) -> Box<Interval> {
        (next.phase, next.start_ns) = (phase, now_ns);
        let mut ended = std::mem::replace(&mut self.interval, next);
        ended.end_ns = now_ns;
        self.belongs_from_ns = belongs_from_ns;
        ended
    }

    /// Counts of everything that is no request of its own.
    #[inline]
    pub fn counts(&mut self) -> &mut Counts {
        &mut self.interval.counts
    }

    /// A request was answered as asked.
    #[inline]
    pub fn done(&mut self, kind: Kind, hit: bool, intended_ns: u64, now_ns: u64) {
        let latency = now_ns.saturating_sub(intended_ns).max(1);
        let interval = &mut *self.interval;
        if intended_ns < self.belongs_from_ns {
            interval.carried.saturating_record(latency);
            interval.carried_done += 1;
        } else if kind.is_read() {
            interval.reads.saturating_record(latency);
            interval.counts.reads += 1;
            interval.counts.hits += u64::from(hit);
        } else {
            interval.writes.saturating_record(latency);
            interval.counts.writes += 1;
        }
    }

    /// Counts what is told apart from other writes, besides [`Recorder::done`].
    pub fn done_apart(&mut self, kind: Kind, intended_ns: u64) {
        if intended_ns >= self.belongs_from_ns {
            let counts = &mut self.interval.counts;
            counts.fills += u64::from(kind == Kind::Fill);
            counts.deletes += u64::from(kind == Kind::Delete);
        }
    }

    /// A request failed.
    pub fn failed(&mut self, failure: Failure<'_>, intended_ns: u64) {
        if intended_ns < self.belongs_from_ns {
            return;
        }
        let counts = &mut self.interval.counts;
        match failure {
            Failure::Refused { class: Class::NotDone, code } => {
                counts.refused_not_done += 1;
                counts.add_code(code, 1);
            }
            Failure::Refused { class: Class::Unknown, code } => {
                counts.refused_unknown += 1;
                counts.add_code(code, 1);
            }
            Failure::Lost(Class::NotDone) => counts.lost_not_done += 1,
            Failure::Lost(Class::Unknown) => counts.lost_unknown += 1,
            Failure::Unsent => counts.unsent += 1,
            Failure::Malformed => counts.malformed += 1,
        }
    }

    /// A request was sent `lateness_ns` after it was due, by the generator's own fault.
    #[inline]
    pub fn sent_late(&mut self, lateness_ns: u64) {
        if lateness_ns >= self.late_from_ns {
            let counts = &mut self.interval.counts;
            counts.late_sends += 1;
            counts.lateness_ns_sum += lateness_ns;
            counts.lateness_ns_max = counts.lateness_ns_max.max(lateness_ns);
        }
    }
}

/// How a request failed.
#[derive(Clone, Copy, Debug)]
pub enum Failure<'a> {
    /// The server said so.
    Refused {
        /// What it says about the request.
        class: Class,
        /// The code it gave.
        code: &'a str,
    },
    /// There was no reply.
    Lost(Class),
    /// It was due and never sent.
    Unsent,
    /// The reply was not one to this request.
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_exact_to_three_digits_up_to_the_limit() {
        let mut histogram = histogram();
        for latency in [1, 999, 12_345, 1_234_567, 59_999_000_000, LATENCY_NS_MAX] {
            histogram.saturating_record(latency);
            let shown = histogram.max();
            assert!(shown.abs_diff(latency) as f64 <= latency as f64 * 0.001, "{latency}: {shown}");
        }
        histogram.saturating_record(u64::MAX);
    }

    #[test]
    fn requests_belong_to_the_phase_in_which_they_were_due() {
        let fresh = || Box::new(Interval::new(Phase::Warmup, 0));
        let mut recorder = Recorder::new(fresh(), 1000);
        recorder.done(Kind::Read, true, 10, 20);
        let warmup = recorder.rotate(fresh(), Phase::Measured, 100, 100);
        assert_eq!((warmup.counts.reads, warmup.counts.hits), (1, 1));
        recorder.done(Kind::Write, false, 99, 150);
        recorder.failed(Failure::Unsent, 99);
        recorder.done(Kind::Write, false, 100, 150);
        recorder.failed(Failure::Lost(Class::Unknown), 101);
        let measured = recorder.rotate(fresh(), Phase::Drain, 200, 100);
        assert_eq!((measured.carried_done, measured.carried.len()), (1, 1));
        assert_eq!((measured.counts.writes, measured.counts.failed()), (1, 1));
        assert_eq!(measured.writes.max(), 50);
    }

    #[test]
    fn a_send_is_late_from_the_limit_on() {
        let fresh = || Box::new(Interval::new(Phase::Measured, 0));
        let mut recorder = Recorder::new(fresh(), 1000);
        [0, 999, 1000, 5000].into_iter().for_each(|lateness_ns| recorder.sent_late(lateness_ns));
        let counts = recorder.rotate(fresh(), Phase::Drain, 1, 0).counts.clone();
        assert_eq!((counts.late_sends, counts.lateness_ns_sum), (2, 6000));
        assert_eq!(counts.lateness_ns_max, 5000);
    }

    #[test]
    fn a_cleared_interval_is_an_empty_one() {
        let mut recorder = Recorder::new(Box::new(Interval::new(Phase::Measured, 0)), 1000);
        recorder.done(Kind::Read, true, 10, 20);
        recorder.failed(Failure::Malformed, 10);
        let next = Box::new(Interval::new(Phase::Measured, 0));
        let mut used = recorder.rotate(next, Phase::Measured, 100, 15);
        recorder.done(Kind::Read, true, 10, 20);
        used.clear();
        assert_eq!((used.reads.len(), used.reads.max(), &used.counts), (0, 0, &Counts::default()));
    }

    #[test]
    fn counts_add_up_and_codes_stay_bounded() {
        let fresh = || Box::new(Interval::new(Phase::Measured, 0));
        let mut recorder = Recorder::new(fresh(), 1000);
        for number in 0..100 {
            let code = format!("E{number}");
            recorder.failed(Failure::Refused { class: Class::NotDone, code: &code }, 0);
        }
        let counts = recorder.rotate(fresh(), Phase::Drain, 1, 0).counts.clone();
        assert_eq!(counts.codes.len(), CODES_MAX);
        let mut sum = Counts::default();
        sum.add(&counts);
        sum.add(&counts);
        assert_eq!(sum.not_done(), 200);
        assert_eq!(sum.codes.iter().map(|(_, count)| count).sum::<u64>(), 200);
    }
}
