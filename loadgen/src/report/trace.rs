//! What a report says about the trace that was replayed.

use serde::{Deserialize, Serialize};

use crate::options::{Options, Pacing};
use crate::record::Counts;
use crate::replay::Misses;

/// A trace that was replayed, and what became of its requests in the measured time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceSummary {
    /// What it is called.
    pub name: String,
    /// Requests that were read of it; fewer are measured where the duration or a warm-up cut it.
    pub requests: u64,
    /// Distinct keys that they ask for.
    pub keys: u64,
    /// Whether the file has more requests.
    pub is_cut: bool,
    /// When the last request is due, in seconds from the first one and in the trace's own time.
    pub length_s: f64,
    /// How many seconds of the trace passed in one, if it was replayed in its own time.
    pub speed: Option<f64>,
    /// Whether reads that found nothing were followed by a write.
    pub fills_misses: bool,
    /// Reads that found a value.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Writes of the trace.
    pub writes: u64,
    /// Removals of the trace, of keys that were there or not.
    pub deletes: u64,
    /// Writes that followed a miss: operations besides those of the trace.
    pub fills: u64,
}

impl TraceSummary {
    /// Of a run that has yet to begin.
    pub(super) fn of(options: &Options) -> Option<TraceSummary> {
        let trace = options.trace.as_ref()?;
        Some(TraceSummary {
            name: trace.name().into(),
            requests: trace.requests(),
            keys: trace.keys(),
            is_cut: trace.is_cut(),
            length_s: trace.length_s(),
            speed: match options.pacing {
                Pacing::Recorded { speed } => Some(speed),
                Pacing::Closed | Pacing::Open { .. } => None,
            },
            fills_misses: options.misses == Misses::Fill,
            hits: 0,
            misses: 0,
            writes: 0,
            deletes: 0,
            fills: 0,
        })
    }

    /// Takes over what was counted.
    pub(super) fn count(&mut self, counts: &Counts) {
        self.hits = counts.hits;
        self.misses = counts.reads - counts.hits;
        self.fills = counts.fills;
        self.deletes = counts.deletes;
        self.writes = counts.writes - counts.fills - counts.deletes;
    }
}
