//! Random numbers from a seed, one stream per purpose.
//!
//! A stream is salted with its name, so that one more draw in one place shifts nothing elsewhere.

/// A stream: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream `name` of `seed`.
    pub fn stream(seed: u64, name: &str) -> Self {
        // FNV-1a spreads short names well enough to tell streams apart.
        let fold = |salt: u64, byte: u8| (salt ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let mut random = Random(seed ^ name.bytes().fold(0xcbf2_9ce4_8422_2325, fold));
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

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A number from `low` to `high` whose magnitude is drawn evenly: mostly short times, a few
    /// long ones.
    pub fn magnitude(&mut self, low: u64, high: u64) -> u64 {
        let mut most = high;
        let halvings = u64::from((high / low.max(1)).max(1).ilog2()) + 1;
        most >>= self.below(halvings);
        self.between(low, most.max(low))
    }
}
