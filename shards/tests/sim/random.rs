//! Random numbers from a seed, one stream per subsystem.
//!
//! Each subsystem (network, processes, clients, ...) has a stream of its own, salted with its name,
//! so that one more draw in one of them does not shift what all the others do.

/// A stream: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of the subsystem `name` under `seed`.
    pub fn stream(seed: u64, name: &str) -> Self {
        let salt = xxhash_rust::xxh3::xxh3_64(name.as_bytes());
        let mut random = Random(seed ^ salt);
        random.next();
        random
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `limit`, which must not be zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in `per_mille` of 1,000 cases.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    /// One of `choices`.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// A number around `mean` with a long tail, at most sixteen times the mean: exponential but
    /// for its granularity.
    pub fn around(&mut self, mean: u64) -> u64 {
        // The logarithm of a uniform number in (0, 1], in 1/1024 of its natural unit, by counting
        // halvings and interpolating within the last: no floating point, alike on all machines.
        let uniform = self.next() | 1;
        let halvings = u64::from(uniform.leading_zeros());
        let fraction = (uniform << halvings) >> 53 & 1_023;
        let thousandths = (halvings + 1) * 710 - fraction * 710 / 1_024;
        (u128::from(mean) * u128::from(thousandths) / 1_024).min(u128::from(mean) * 16) as u64
    }
}
