//! How long turns keep a core busy: a count for each of a fixed set of durations.
//!
//! Ten bounds per decade from 1 µs to 10 s, so that a duration is known to a quarter of itself
//! anywhere, and 1 to 10 ms, where people draw the line, in steps of one to two. Counts only grow,
//! so that any number of observers can take differences; a gauge of the worst since somebody last
//! looked belongs to one observer alone. To count is a search among some seventy numbers, once per
//! turn.

/// Bounds in each decade, as hundredths of its beginning.
const MANTISSAS: [u64; 10] = [100, 125, 150, 200, 250, 300, 400, 500, 600, 800];
/// Decades from the first bound to the last.
const DECADES: usize = 7;
/// The lowest bound in nanoseconds.
const FIRST_NS: u64 = 1_000;
/// Number of bounds.
pub const BOUNDS: usize = DECADES * MANTISSAS.len() + 1;
/// The bounds in nanoseconds, ascending. A duration belongs to the first that is not below it.
pub const BOUNDS_NS: [u64; BOUNDS] = bounds();

const fn bounds() -> [u64; BOUNDS] {
    let mut bounds = [0; BOUNDS];
    let mut decade = FIRST_NS;
    let mut next = 0;
    while next < BOUNDS {
        bounds[next] = decade * MANTISSAS[next % MANTISSAS.len()] / 100;
        next += 1;
        if next.is_multiple_of(MANTISSAS.len()) {
            decade *= 10;
        }
    }
    bounds
}

/// Durations of one core's turns since it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnTimes {
    /// By the bound it belongs to; the last is for those beyond all bounds.
    counts: [u64; BOUNDS + 1],
    sum_ns: u64,
    max_ns: u64,
}

impl Default for TurnTimes {
    fn default() -> Self {
        TurnTimes { counts: [0; BOUNDS + 1], sum_ns: 0, max_ns: 0 }
    }
}

impl TurnTimes {
    /// Counts a turn that took `ns` nanoseconds.
    pub fn record(&mut self, ns: u64) {
        self.counts[BOUNDS_NS.partition_point(|&bound| bound < ns)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Number of turns.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What all turns took together, in nanoseconds.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// The longest turn, in nanoseconds.
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// Each bound in nanoseconds with the number of turns that took no longer.
    pub fn cumulated(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut sum = 0;
        BOUNDS_NS.iter().zip(&self.counts).map(move |(&bound, &count)| {
            sum += count;
            (bound, sum)
        })
    }

    /// A duration in nanoseconds that so many millionths of the turns did not exceed: the bound of
    /// the turn that stands there, and never more than the longest. Zero without turns.
    pub fn quantile_ns(&self, millionths: u64) -> u64 {
        let count = u128::from(self.count());
        let rank = (count * u128::from(millionths)).div_ceil(1_000_000).max(1);
        let found = self.cumulated().find(|&(_, sum)| u128::from(sum) >= rank);
        found.map_or(self.max_ns, |(bound, _)| bound.min(self.max_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_ascend_and_name_whole_milliseconds() {
        assert!(BOUNDS_NS.is_sorted_by(|lower, higher| lower < higher));
        assert_eq!(BOUNDS_NS.first().zip(BOUNDS_NS.last()), Some((&1_000, &10_000_000_000)));
        for milliseconds in [1, 2, 3, 4, 5, 6, 8, 10] {
            assert!(BOUNDS_NS.contains(&(milliseconds * 1_000_000)), "{milliseconds} ms");
        }
    }

    #[test]
    fn a_turn_counts_at_every_bound_that_it_does_not_exceed() {
        let mut times = TurnTimes::default();
        for ns in [0, 5_000_000, 5_000_001, u64::MAX] {
            times.record(ns);
        }
        let at = |ns| times.cumulated().find(|&(bound, _)| bound == ns).map(|(_, count)| count);
        assert_eq!(at(1_000), Some(1));
        assert_eq!(at(4_000_000), Some(1));
        assert_eq!(at(5_000_000), Some(2));
        assert_eq!(at(6_000_000), Some(3));
        assert_eq!(at(10_000_000_000), Some(3), "what exceeds all bounds is in the count alone");
        assert_eq!((times.count(), times.max_ns()), (4, u64::MAX));
    }

    #[test]
    fn quantiles_are_within_a_quarter_and_never_beyond_the_longest() {
        let mut times = TurnTimes::default();
        assert_eq!(times.quantile_ns(990_000), 0);
        for turn in 1..=1_000 {
            times.record(turn * 10_000);
        }
        for (millionths, exact) in [(500_000, 5_000_000), (990_000, 9_900_000)] {
            let told = times.quantile_ns(millionths);
            assert!((exact..=exact * 5 / 4).contains(&told), "{millionths}: {told}");
        }
        assert_eq!(times.quantile_ns(1_000_000), 10_000_000);
        times.record(10_000_007);
        assert_eq!(times.quantile_ns(1_000_000), 10_000_007);
    }
}
