//! One interval of a run, of all threads together: a second, unless the options say otherwise.

use hdrhistogram::Histogram;

use crate::record::{Counts, Interval, Phase};

/// One interval of a run, of all threads together.
#[derive(Clone, Debug)]
pub struct Second {
    /// The part of the run.
    pub phase: Phase,
    /// When it starts, in nanoseconds on the clock of the run.
    pub start_ns: u64,
    /// How long it lasts. Where two phases or stages meet it is shorter than the others.
    pub length_ns: u64,
    /// Requests that were due in it, if the loop is open. Of random arrivals it is their mean.
    pub offered: Option<f64>,
    /// Latencies of the reads that ended in it, in nanoseconds.
    pub reads: Histogram<u64>,
    /// Latencies of the writes that ended in it, in nanoseconds.
    pub writes: Histogram<u64>,
    /// Latencies of requests that the warm-up left over.
    pub carried: Histogram<u64>,
    /// Counts of this second.
    pub counts: Counts,
    /// Requests that the warm-up left over.
    pub carried_done: u64,
}

impl Second {
    /// Adds up the parts of all threads; nothing without parts.
    pub(crate) fn merge(parts: &[&Interval]) -> Option<Second> {
        let (first, rest) = parts.split_first()?;
        let mut end_ns = first.end_ns;
        let mut second = Second {
            phase: first.phase,
            start_ns: first.start_ns,
            length_ns: 0,
            offered: None,
            reads: first.reads.clone(),
            writes: first.writes.clone(),
            carried: first.carried.clone(),
            counts: first.counts.clone(),
            carried_done: first.carried_done,
        };
        for part in rest {
            second.start_ns = second.start_ns.min(part.start_ns);
            end_ns = end_ns.max(part.end_ns);
            add(&mut second.reads, &part.reads);
            add(&mut second.writes, &part.writes);
            add(&mut second.carried, &part.carried);
            second.counts.add(&part.counts);
            second.carried_done += part.carried_done;
        }
        second.length_ns = end_ns.saturating_sub(second.start_ns);
        Some(second)
    }

    /// Requests that were answered in it.
    pub fn done(&self) -> u64 {
        self.counts.done() + self.carried_done
    }

    /// Requests answered per second.
    pub fn rate(&self) -> f64 {
        per_second(self.done(), self.length_ns)
    }

    /// The latencies of all requests that were answered in it.
    pub fn latencies(&self) -> Histogram<u64> {
        let mut all = self.reads.clone();
        add(&mut all, &self.writes);
        add(&mut all, &self.carried);
        all
    }

    /// The live line.
    pub fn line(&self, since_ns: u64) -> String {
        let all = self.latencies();
        let phase = match self.phase {
            Phase::Warmup => "  warm-up",
            Phase::Measured => "",
            Phase::Drain => "  draining",
        };
        let at_s = (self.start_ns + self.length_ns).saturating_sub(since_ns) as f64 / 1e9;
        format!(
            "{at_s:>6.1} s {:>11.0} op/s  p50 {:>9}  p99 {:>9}  p99.9 {:>9}  max {:>9}  \
             errors {}{phase}",
            self.rate(),
            milliseconds(all.value_at_quantile(0.5)),
            milliseconds(all.value_at_quantile(0.99)),
            milliseconds(all.value_at_quantile(0.999)),
            milliseconds(all.max()),
            self.counts.failed(),
        )
    }
}

/// Adds a histogram to another one of this crate.
pub(crate) fn add(sum: &mut Histogram<u64>, part: &Histogram<u64>) {
    // Adding can only fail between histograms of different ranges; all here have the same.
    let _ = sum.add(part);
}

/// A count over a length as a rate.
pub(crate) fn per_second(count: u64, length_ns: u64) -> f64 {
    if length_ns == 0 { 0.0 } else { count as f64 * 1e9 / length_ns as f64 }
}

/// For people.
pub(crate) fn milliseconds(nanoseconds: u64) -> String {
    format!("{:.3} ms", nanoseconds as f64 / 1e6)
}
