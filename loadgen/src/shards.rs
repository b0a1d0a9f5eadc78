//! What each shard of a cluster did: requests, latencies, and the windows in which it served
//! nobody.
//!
//! A shard is a run of slots with one leader in the map that the run started with; later moves do
//! not change the division. A shard was *unavailable* from the time a request for it was due that
//! nobody served, to its next success, if that took at least [`UNAVAILABLE_NS_MIN`] and no request
//! for it succeeded in between. So a window needs somebody who waited: a shard that nobody asked
//! for is not down.
//!
//! Each thread keeps its own gaps between successes; a shard was unavailable where the gaps of all
//! threads that asked for it overlap. What is kept per shard is bounded.

use client::ClusterMap;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::report::Latency;

/// Shortest window that is reported.
pub const UNAVAILABLE_NS_MIN: u64 = 100_000_000;
/// Most shards that are told apart; the last one stands for all further ones.
const SHARDS_MAX: usize = 1024;
/// Gaps that a thread keeps of each shard.
const GAPS_MAX: usize = 256;
/// Rows over time, of all shards together, that a thread keeps.
const ROWS_MAX: usize = 1 << 22;

/// Which shard a slot belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Division {
    shard_of_slot: Vec<u16>,
    /// The first and the last slot of each shard.
    pub ranges: Vec<(u16, u16)>,
}

impl Division {
    /// The division of a map: a new shard begins wherever the leader changes.
    pub fn of(map: &ClusterMap) -> Division {
        Division::by(|slot| map.leader(slot).map(usize::from))
    }

    fn by(leader: impl Fn(u16) -> Option<usize>) -> Division {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        let mut shard_of_slot = Vec::new();
        let mut before = None;
        for slot in 0..proto::slot::SLOTS {
            let now = leader(slot);
            let continues = before == Some(now) || ranges.len() >= SHARDS_MAX;
            match ranges.last_mut() {
                Some(last) if continues => last.1 = slot,
                _ => ranges.push((slot, slot)),
            }
            before = Some(now);
            shard_of_slot.push((ranges.len() - 1) as u16);
        }
        Division { shard_of_slot, ranges }
    }
}

/// A span between two successes of a shard, as one thread saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap {
    /// The success before it.
    served_ns: u64,
    /// When somebody is known to have begun to wait.
    since_ns: u64,
    /// The success after it, or the end of the run.
    again_ns: u64,
    /// Whether there was one.
    recovered: bool,
}

impl Gap {
    fn is_unavailability(&self) -> bool {
        self.again_ns.saturating_sub(self.since_ns) >= UNAVAILABLE_NS_MIN
    }
}

/// A shard as one thread sees it.
#[derive(Clone, Debug)]
struct Shard {
    latencies: Histogram<u64>,
    failed: u64,
    last_done_ns: u64,
    /// Since when a request that has failed was due, if there was no success since.
    owed_since_ns: Option<u64>,
    gaps: Vec<Gap>,
    done_in_row: u32,
    rows: Vec<u32>,
}

/// What a thread knows about all shards.
#[derive(Clone, Debug)]
pub(crate) struct Shards {
    division: Division,
    shards: Vec<Shard>,
}

impl Shards {
    /// From `start_ns` on.
    pub fn new(division: Division, start_ns: u64) -> Shards {
        let shard = Shard {
            latencies: histogram(),
            failed: 0,
            last_done_ns: start_ns,
            owed_since_ns: None,
            gaps: Vec::new(),
            done_in_row: 0,
            rows: Vec::new(),
        };
        let shards = vec![shard; division.ranges.len()];
        Shards { division, shards }
    }

    fn shard(&mut self, slot: u16) -> Option<&mut Shard> {
        let shard = *self.division.shard_of_slot.get(usize::from(slot))?;
        self.shards.get_mut(usize::from(shard))
    }

    /// A request was answered as asked.
    pub fn done(&mut self, slot: u16, intended_ns: u64, now_ns: u64) {
        let Some(shard) = self.shard(slot) else { return };
        shard.latencies.saturating_record(now_ns.saturating_sub(intended_ns).max(1));
        shard.done_in_row += 1;
        let since_ns = intended_ns.max(shard.last_done_ns);
        if now_ns.saturating_sub(shard.last_done_ns) >= UNAVAILABLE_NS_MIN {
            let since_ns = shard.owed_since_ns.unwrap_or(since_ns).min(since_ns);
            shard.note(Gap {
                served_ns: shard.last_done_ns,
                since_ns,
                again_ns: now_ns,
                recovered: true,
            });
        } else if now_ns.saturating_sub(intended_ns) >= UNAVAILABLE_NS_MIN
            && let Some(gap) = shard.gaps.last_mut()
        {
            // One that waited through the latest gap, and longer than the one that ended it.
            gap.since_ns = gap.since_ns.min(intended_ns.max(gap.served_ns));
        }
        shard.last_done_ns = shard.last_done_ns.max(now_ns);
        shard.owed_since_ns = None;
    }

    /// A request failed.
    pub fn failed(&mut self, slot: u16, intended_ns: u64) {
        let Some(shard) = self.shard(slot) else { return };
        shard.failed += 1;
        let since_ns = intended_ns.max(shard.last_done_ns);
        shard.owed_since_ns = Some(shard.owed_since_ns.unwrap_or(since_ns).min(since_ns));
    }

    /// A row over time is over.
    pub fn end_row(&mut self) {
        let rows_max = ROWS_MAX / self.shards.len().max(1);
        for shard in &mut self.shards {
            if shard.rows.len() < rows_max {
                shard.rows.push(shard.done_in_row);
            }
            shard.done_in_row = 0;
        }
    }

    /// The run is over.
    pub fn end(&mut self, now_ns: u64) {
        for shard in &mut self.shards {
            if let Some(since_ns) = shard.owed_since_ns {
                let served_ns = shard.last_done_ns;
                shard.note(Gap { served_ns, since_ns, again_ns: now_ns, recovered: false });
            }
        }
    }
}

impl Shard {
    /// Keeps a gap. Those in which nobody is known to have waited make room first.
    fn note(&mut self, gap: Gap) {
        if self.gaps.len() >= GAPS_MAX {
            match self.gaps.iter().position(|gap| !gap.is_unavailability()) {
                Some(idle) => {
                    self.gaps.remove(idle);
                }
                None => return,
            }
        }
        self.gaps.push(gap);
    }
}

fn histogram() -> Histogram<u64> {
    // From a microsecond on, to two digits: a cluster may have many shards. The bounds are
    // constants that the crate accepts, which every test here shows.
    Histogram::new_with_bounds(1000, crate::record::LATENCY_NS_MAX, 2)
        .unwrap_or_else(|error| unreachable!("constant bounds: {error}"))
}

/// A window in which a shard served nobody.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// When the first request was due that nobody served, in seconds from the start of the load.
    pub start_s: f64,
    /// When a request succeeded again, or the run ended.
    pub end_s: f64,
    /// Whether one did.
    pub recovered: bool,
}

/// A shard in the report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardSummary {
    /// Its first and last slot.
    pub slots: (u16, u16),
    /// Latencies, to two digits; the warm-up counts.
    pub latency: Latency,
    /// Requests that failed.
    pub failed: u64,
    /// When it served nobody although somebody asked.
    pub unavailable: Vec<Window>,
    /// Requests answered in each row over time.
    pub done: Vec<u32>,
}

/// Adds up what all threads know; nothing where nothing was tracked.
pub(crate) fn summarize(threads: &[Shards], start_ns: u64) -> Vec<ShardSummary> {
    let Some(first) = threads.first() else { return Vec::new() };
    let ranges = first.division.ranges.iter().enumerate();
    let summary = |(number, slots): (usize, &(u16, u16))| {
        let parts: Vec<&Shard> =
            threads.iter().filter_map(|thread| thread.shards.get(number)).collect();
        let mut latencies = histogram();
        for part in &parts {
            // Adding can only fail between histograms of different ranges.
            let _ = latencies.add(&part.latencies);
        }
        let rows = parts.iter().map(|part| part.rows.len()).max().unwrap_or(0);
        let row = |row: usize| parts.iter().filter_map(|part| part.rows.get(row)).sum();
        let seconds = |at_ns: u64| at_ns.saturating_sub(start_ns) as f64 / 1e9;
        ShardSummary {
            slots: *slots,
            latency: Latency::of(&latencies),
            failed: parts.iter().map(|part| part.failed).sum(),
            unavailable: overlap(&parts)
                .into_iter()
                .map(|gap| Window {
                    start_s: seconds(gap.since_ns),
                    end_s: seconds(gap.again_ns),
                    recovered: gap.recovered,
                })
                .collect(),
            done: (0..rows).map(row).collect(),
        }
    };
    ranges.map(summary).collect()
}

/// The spans in which no thread had a success though one of them had waited long enough.
fn overlap(parts: &[&Shard]) -> Vec<Gap> {
    let asked = parts.iter().filter(|part| part.failed + part.latencies.len() > 0);
    let mut common: Option<Vec<Gap>> = None;
    for part in asked {
        common = Some(match common {
            None => part.gaps.clone(),
            Some(gaps) => gaps
                .iter()
                .flat_map(|left| part.gaps.iter().filter_map(|right| meet(*left, *right)))
                .collect(),
        });
    }
    let mut gaps = common.unwrap_or_default();
    gaps.retain(Gap::is_unavailability);
    gaps
}

fn meet(left: Gap, right: Gap) -> Option<Gap> {
    let served_ns = left.served_ns.max(right.served_ns);
    let again_ns = left.again_ns.min(right.again_ns);
    (served_ns < again_ns).then(|| Gap {
        served_ns,
        since_ns: left.since_ns.min(right.since_ns).max(served_ns),
        again_ns,
        recovered: left.recovered || right.recovered,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SLOT: u16 = 7;

    fn shards() -> Shards {
        Shards::new(Division::by(|slot| Some(usize::from(slot >= 100))), 0)
    }

    /// Answers given as (due, answered) in milliseconds.
    fn served(answers: &[(u64, u64)]) -> Shards {
        let mut shards = shards();
        answers.iter().for_each(|(due, at)| shards.done(SLOT, due * MS, at * MS));
        shards
    }

    fn windows(threads: &[Shards]) -> Vec<(u64, u64, bool)> {
        let millisecond = |seconds: f64| (seconds * 1000.0).round() as u64;
        let windows = summarize(threads, 0)[0].unavailable.clone();
        let times = |window: Window| {
            (millisecond(window.start_s), millisecond(window.end_s), window.recovered)
        };
        windows.into_iter().map(times).collect()
    }

    #[test]
    fn a_division_begins_anew_where_the_leader_changes_and_is_bounded() {
        assert_eq!(shards().division.ranges, [(0, 99), (100, 16_383)]);
        let each = Division::by(|slot| Some(usize::from(slot)));
        assert_eq!(each.ranges.len(), SHARDS_MAX);
        assert_eq!(each.ranges.last(), Some(&(SHARDS_MAX as u16 - 1, 16_383)));
        assert_eq!(usize::from(*each.shard_of_slot.last().expect("slots")), SHARDS_MAX - 1);
    }

    #[test]
    fn a_window_runs_from_the_first_that_waited_to_the_next_success_in_whatever_order() {
        // Due every 10 ms; nobody is served between 20 and 500 ms.
        let mut waited: Vec<(u64, u64)> = (3..50).map(|number| (number * 10, 500)).collect();
        for reversed in [false, true] {
            if reversed {
                waited.reverse();
            }
            let mut answers = vec![(0, 1), (10, 11), (20, 21)];
            // Replies that come at once or one after the other.
            answers.extend(waited.iter().zip(0..).map(|((due, at), late)| (*due, at + late / 10)));
            assert_eq!(windows(&[served(&answers)]), [(30, 500, true)], "reversed {reversed}");
        }
    }

    #[test]
    fn a_shard_that_nobody_asked_for_is_not_down() {
        assert_eq!(windows(&[served(&[(0, 1), (5000, 5001), (9000, 9002)])]), []);
        // Slow, but others were served meanwhile.
        let steady: Vec<(u64, u64)> =
            (0..100).map(|number| (number * 10, number * 10 + 1)).collect();
        let slow = [&steady[..], &[(100, 995)]].concat();
        assert_eq!(windows(&[served(&slow)]), []);
    }

    #[test]
    fn failures_count_from_when_they_were_due_to_the_next_success_or_the_end() {
        let mut shards = served(&[(0, 10)]);
        shards.failed(SLOT, 50 * MS);
        shards.failed(SLOT, 60 * MS);
        shards.done(SLOT, 400 * MS, 401 * MS);
        assert_eq!(windows(&[shards.clone()]), [(50, 401, true)]);
        shards.failed(SLOT, 500 * MS);
        shards.end(900 * MS);
        assert_eq!(windows(&[shards.clone()]), [(50, 401, true), (500, 900, false)]);
        let summaries = summarize(&[shards], 0);
        assert_eq!((summaries[0].failed, summaries[1].unavailable.len()), (3, 0));
    }

    #[test]
    fn a_shard_is_down_only_where_it_is_for_all_threads_that_ask() {
        let down = served(&[(0, 1), (100, 600)]);
        let shorter = served(&[(140, 150), (200, 700)]);
        let idle_then = served(&[(0, 1), (800, 801)]);
        let up: Vec<(u64, u64)> = (0..80).map(|number| (number * 10, number * 10 + 1)).collect();
        assert_eq!(windows(&[down.clone(), shards()]), [(100, 600, true)], "one does not ask");
        assert_eq!(windows(&[down.clone(), shorter]), [(150, 600, true)]);
        assert_eq!(windows(&[down.clone(), idle_then]), [(100, 600, true)]);
        assert_eq!(windows(&[down, served(&up)]), []);
    }

    #[test]
    fn rows_add_up_over_threads_and_gaps_are_bounded() {
        let mut first = served(&[(0, 1), (2, 3)]);
        first.end_row();
        first.done(SLOT, 5 * MS, 6 * MS);
        first.end_row();
        let mut second = served(&[(0, 1)]);
        second.end_row();
        second.end_row();
        assert_eq!(summarize(&[first, second], 0)[0].done, [3, 1]);
        let many: Vec<(u64, u64)> = (1..2000).map(|n| (n * 1000, n * 1000 + 500)).collect();
        assert_eq!(windows(&[served(&many)]).len(), GAPS_MAX);
    }
}
