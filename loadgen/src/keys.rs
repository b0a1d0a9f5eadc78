//! Which key a request asks for: uniform, zipf or hot set, over a fixed number of keys.
//!
//! Skewed distributions are drawn as a *rank* (0 is the most popular) and then scattered over the
//! key space by a seeded permutation. Without it the popular keys would be neighbours, and a
//! server that splits its keyspace by anything but a good hash would look better or worse than
//! it is. Zipf ranks come from rejection-inversion (Hörmann and Derflinger, 1996): constant time
//! and no tables whatever the number of keys, so a run over 10^9 keys starts at once.
//!
//! Not done here: nothing remembers which keys exist. A key is a number below `keys`.

use std::str::FromStr;

use crate::random::{Random, mix};

/// How the popularity of keys is distributed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Every key is equally popular.
    Uniform,
    /// The key of rank k (from 1) has a weight of k^-theta.
    Zipf {
        /// The exponent, above 0. YCSB uses 0.99.
        theta: f64,
    },
    /// The newest key is the most popular one, of rank 1 in a zipf distribution, and so on to the
    /// oldest: YCSB's *latest*. Keys are as old as their numbers are small.
    Latest {
        /// The exponent, above 0.
        theta: f64,
    },
    /// A part of the keys gets a larger part of the requests; uniform within both parts.
    Hot {
        /// Which part of the keys is hot, in (0, 1).
        fraction: f64,
        /// Which part of the requests goes to it, in [0, 1].
        share: f64,
    },
}

/// The exponent of a zipf distribution that names none.
pub const DEFAULT_THETA: f64 = 0.99;
/// The largest exponent accepted: beyond it every request asks for the same key.
pub const THETA_MAX: f64 = 8.0;

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Distribution, String> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let numbers = parts
            .map(|part| {
                part.parse::<f64>().map_err(|_| format!("`{part}` in `{text}` is not a number"))
            })
            .collect::<Result<Vec<f64>, String>>()?;
        match (name, numbers.as_slice()) {
            ("uniform", []) => Ok(Distribution::Uniform),
            ("zipf", []) => Ok(Distribution::Zipf { theta: DEFAULT_THETA }),
            ("zipf", &[theta]) if theta > 0.0 && theta <= THETA_MAX => {
                Ok(Distribution::Zipf { theta })
            }
            ("latest", []) => Ok(Distribution::Latest { theta: DEFAULT_THETA }),
            ("latest", &[theta]) if theta > 0.0 && theta <= THETA_MAX => {
                Ok(Distribution::Latest { theta })
            }
            ("zipf" | "latest", &[_]) => {
                Err(format!("theta must be above 0 and at most {THETA_MAX}"))
            }
            ("hot", &[fraction, share]) => {
                if fraction <= 0.0 || fraction >= 1.0 {
                    Err("the hot part of the keys must lie between 0 and 1".into())
                } else if !(0.0..=1.0).contains(&share) {
                    Err("the hot part's share of the requests must lie in 0 to 1".into())
                } else {
                    Ok(Distribution::Hot { fraction, share })
                }
            }
            _ => Err(format!(
                "`{text}` is none of uniform, zipf[:THETA], latest[:THETA], hot:FRACTION:SHARE"
            )),
        }
    }
}

impl std::fmt::Display for Distribution {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Distribution::Uniform => formatter.write_str("uniform"),
            Distribution::Zipf { theta } => write!(formatter, "zipf:{theta}"),
            Distribution::Latest { theta } => write!(formatter, "latest:{theta}"),
            Distribution::Hot { fraction, share } => write!(formatter, "hot:{fraction}:{share}"),
        }
    }
}

/// Draws keys.
#[derive(Clone, Debug)]
pub struct KeyChooser {
    keys: u64,
    ranks: Ranks,
    scatter: Permutation,
}

#[derive(Clone, Debug)]
enum Ranks {
    Uniform,
    Zipf(Zipf),
    Latest(Zipf),
    Hot { hot_keys: u64, share: f64 },
}

impl KeyChooser {
    /// Draws from `keys` keys. Equal seeds scatter ranks in the same way, whoever draws.
    ///
    /// # Panics
    /// If `keys` is 0; the options have refused that.
    pub fn new(distribution: Distribution, keys: u64, seed: u64) -> KeyChooser {
        assert!(keys > 0, "no keys to choose from");
        let ranks = match distribution {
            Distribution::Uniform => Ranks::Uniform,
            Distribution::Zipf { theta } => Ranks::Zipf(Zipf::new(keys, theta)),
            Distribution::Latest { theta } => Ranks::Latest(Zipf::new(keys, theta)),
            Distribution::Hot { fraction, share } => {
                let hot_keys = ((keys as f64 * fraction).round() as u64).clamp(1, keys);
                Ranks::Hot { hot_keys, share }
            }
        };
        KeyChooser { keys, ranks, scatter: Permutation::new(keys, seed) }
    }

    /// The next key, below the number of keys.
    #[inline]
    pub fn next(&self, random: &mut Random) -> u64 {
        match &self.ranks {
            // Scattering a uniform draw would change nothing but its cost.
            Ranks::Uniform => random.below(self.keys),
            Ranks::Zipf(zipf) => self.scatter.apply(zipf.rank(random)),
            Ranks::Latest(zipf) => self.keys - 1 - zipf.rank(random),
            Ranks::Hot { hot_keys, share } => {
                let cold_keys = self.keys - hot_keys;
                let rank = if cold_keys == 0 || random.unit() < *share {
                    random.below(*hot_keys)
                } else {
                    hot_keys + random.below(cold_keys)
                };
                self.scatter.apply(rank)
            }
        }
    }
}

/// Zipf-distributed ranks by rejection-inversion.
///
/// `area(x)` is the integral of x^-theta from 1; inverting it turns a uniform draw into a real
/// `x` whose nearest integer is the candidate. The few candidates for which the histogram bar
/// lies outside the area under the curve are rejected.
#[derive(Clone, Debug)]
pub(crate) struct Zipf {
    ranks: f64,
    theta: f64,
    area_low: f64,
    area_high: f64,
    /// A candidate this close above `x` needs no second look.
    accept_within: f64,
}

impl Zipf {
    /// Ranks below this number, which is at least 1.
    pub fn new(ranks: u64, theta: f64) -> Zipf {
        let ranks = ranks as f64;
        let area_low = area(1.5, theta) - 1.0;
        let area_high = area(ranks + 0.5, theta);
        let accept_within = 2.0 - area_inverse(area(2.5, theta) - 2f64.powf(-theta), theta);
        Zipf { ranks, theta, area_low, area_high, accept_within }
    }

    /// From now on there are more ranks.
    pub fn grow(&mut self, ranks: u64) {
        self.ranks = ranks as f64;
        self.area_high = area(self.ranks + 0.5, self.theta);
    }

    /// A rank from 0.
    #[inline]
    pub fn rank(&self, random: &mut Random) -> u64 {
        loop {
            let drawn = self.area_high + random.unit() * (self.area_low - self.area_high);
            let x = area_inverse(drawn, self.theta);
            let candidate = x.round().clamp(1.0, self.ranks);
            if candidate - x <= self.accept_within
                || drawn >= area(candidate + 0.5, self.theta) - candidate.powf(-self.theta)
            {
                return candidate as u64 - 1;
            }
        }
    }
}

/// The integral of t^-theta from 1 to x, stable around theta = 1 where it becomes ln(x).
fn area(x: f64, theta: f64) -> f64 {
    let logarithm = x.ln();
    let exponent = (1.0 - theta) * logarithm;
    if exponent.abs() < 1e-9 { logarithm } else { logarithm * exponent.exp_m1() / exponent }
}

/// The inverse of [`area`] in its first argument.
#[inline]
fn area_inverse(area: f64, theta: f64) -> f64 {
    // Rounding may carry the product just below -1, where the logarithm ends.
    let scaled = (area * (1.0 - theta)).max(-1.0);
    if scaled.abs() < 1e-9 { area.exp() } else { (area * scaled.ln_1p() / scaled).exp() }
}

/// A seeded bijection of `0..size`.
///
/// It mixes within the next power of two by steps that are each reversible, and walks on while
/// the result lies outside: fewer than two rounds on average.
#[derive(Clone, Debug)]
struct Permutation {
    size: u64,
    mask: u64,
    shift: u32,
    multipliers: [u64; 2],
    offset: u64,
}

impl Permutation {
    fn new(size: u64, seed: u64) -> Permutation {
        let bits = u64::BITS - (size - 1).leading_zeros();
        Permutation {
            size,
            mask: if bits == u64::BITS { u64::MAX } else { (1 << bits) - 1 },
            shift: (bits / 2).max(1),
            multipliers: [mix(seed ^ 1) | 1, mix(seed ^ 2) | 1],
            offset: mix(seed ^ 3),
        }
    }

    #[inline]
    fn apply(&self, index: u64) -> u64 {
        let mut bits = index;
        loop {
            bits = bits.wrapping_add(self.offset) & self.mask;
            for multiplier in self.multipliers {
                bits = bits.wrapping_mul(multiplier) & self.mask;
                bits ^= bits >> self.shift;
            }
            if bits < self.size {
                return bits;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scatter_is_a_permutation() {
        for size in [1u64, 2, 3, 7, 8, 9, 1000, 1024, 4097] {
            for seed in 0..3 {
                let permutation = Permutation::new(size, seed);
                let mut images: Vec<u64> = (0..size).map(|rank| permutation.apply(rank)).collect();
                images.sort_unstable();
                assert!(images.iter().copied().eq(0..size), "size {size}, seed {seed}");
            }
        }
    }

    #[test]
    fn popular_keys_are_no_neighbours_whatever_the_skew() {
        let hot = Distribution::Hot { fraction: 0.001, share: 1.0 };
        for distribution in [Distribution::Zipf { theta: 1.5 }, hot] {
            let chooser = KeyChooser::new(distribution, 100_000, 1);
            let mut random = Random::stream(1, 0);
            let mut keys: Vec<u64> = (0..500).map(|_| chooser.next(&mut random)).collect();
            keys.sort_unstable();
            keys.dedup();
            let close = keys.windows(2).filter(|pair| pair[1] - pair[0] < 20).count();
            assert!(close * 4 < keys.len(), "{distribution}: {close} of {} are close", keys.len());
        }
    }

    /// Compares observed rank counts with their expectation by a chi-squared statistic.
    fn check_zipf(keys: u64, theta: f64) {
        let draws = 400_000u64;
        let zipf = Zipf::new(keys, theta);
        let mut random = Random::stream(11, 0);
        let mut counts = vec![0u64; keys as usize];
        for _ in 0..draws {
            counts[zipf.rank(&mut random) as usize] += 1;
        }
        let total: f64 = (1..=keys).map(|rank| (rank as f64).powf(-theta)).sum();
        let (mut statistic, mut cells) = (0.0, 0u32);
        let (mut rest_expected, mut rest_observed) = (0.0, 0u64);
        for rank in 1..=keys {
            rest_expected += draws as f64 * (rank as f64).powf(-theta) / total;
            rest_observed += counts[rank as usize - 1];
            // Cells with a small expectation are joined, as the statistic demands.
            if rest_expected >= 20.0 {
                statistic += (rest_observed as f64 - rest_expected).powi(2) / rest_expected;
                cells += 1;
                (rest_expected, rest_observed) = (0.0, 0);
            }
        }
        // The statistic has a mean of `cells` and a variance of twice that.
        let bound = f64::from(cells) + 5.0 * (2.0 * f64::from(cells)).sqrt();
        assert!(
            statistic < bound,
            "theta {theta}, {keys} keys: {statistic} over {cells} cells, bound {bound}"
        );
    }

    #[test]
    fn zipf_ranks_follow_the_distribution() {
        for theta in [0.2, 0.5, 0.99, 1.0, 1.0 + 1e-12, 1.3, 3.0] {
            check_zipf(1000, theta);
        }
        for keys in [1, 2, 3, 10] {
            check_zipf(keys, DEFAULT_THETA);
        }
    }

    #[test]
    fn zipf_stays_in_range_for_very_many_keys() {
        for theta in [0.01, 0.99, 1.0, THETA_MAX] {
            let chooser = KeyChooser::new(Distribution::Zipf { theta }, 1 << 40, 5);
            let mut random = Random::stream(5, 0);
            assert!((0..10_000).all(|_| chooser.next(&mut random) < 1 << 40));
        }
    }

    #[test]
    fn a_hot_set_gets_its_share() {
        let hot = Distribution::Hot { fraction: 0.01, share: 0.9 };
        let chooser = KeyChooser::new(hot, 10_000, 9);
        let mut random = Random::stream(9, 0);
        let mut counts = vec![0u64; 10_000];
        for _ in 0..200_000 {
            counts[chooser.next(&mut random) as usize] += 1;
        }
        counts.sort_unstable_by(|left, right| right.cmp(left));
        let hottest: u64 = counts[..100].iter().sum();
        // 900 is more than six standard deviations of the binomial.
        assert!(hottest.abs_diff(180_000) < 900, "{hottest}");
    }

    #[test]
    fn distributions_are_parsed_and_mistakes_refused() {
        assert_eq!("uniform".parse(), Ok(Distribution::Uniform));
        assert_eq!("zipf".parse(), Ok(Distribution::Zipf { theta: 0.99 }));
        assert_eq!("latest".parse(), Ok(Distribution::Latest { theta: 0.99 }));
        assert_eq!("zipf:1.2".parse(), Ok(Distribution::Zipf { theta: 1.2 }));
        let hot = Distribution::Hot { fraction: 0.1, share: 0.9 };
        assert_eq!("hot:0.1:0.9".parse(), Ok(hot));
        for wrong in [
            "",
            "zip",
            "zipf:",
            "zipf:0",
            "zipf:-1",
            "zipf:NaN",
            "zipf:9",
            "zipf:1:2",
            "hot",
            "hot:0.1",
            "hot:0:0.5",
            "hot:1:0.5",
            "hot:0.1:1.1",
            "hot:0.1:x",
            "uniform:1",
        ] {
            assert!(wrong.parse::<Distribution>().is_err(), "{wrong}");
        }
    }
}
