//! Seeded randomness for the tests of this crate: a generator and a mutator of byte strings.
//!
//! Tests run with a fixed seed, so that a failure seen once is seen again; `CORACLE_TEST_SEED`
//! (a decimal number) sets another. Every run prints its seed, which the test harness shows when
//! the test fails.

/// SplitMix64: small, and good enough to pick bytes.
pub struct Seeded(u64);

impl Seeded {
    /// A generator for the test called `name`.
    pub fn new(name: &str) -> Self {
        let seed = std::env::var("CORACLE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(0x0c0_7ac1e);
        println!("{name}: CORACLE_TEST_SEED={seed}");
        Seeded(seed)
    }

    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of `choices`.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// Up to `max` random bytes.
    pub fn bytes(&mut self, max: usize) -> Vec<u8> {
        let length = self.below(max + 1);
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// Changes `bytes` in a few places: bits, edge values, cuts, repetitions.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let position = self.below(bytes.len());
            match self.below(6) {
                0 if !bytes.is_empty() => bytes[position] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => {
                    bytes[position] = *self.pick(&[0, 1, 0x7f, 0x80, 0xff, 250, 251]);
                }
                2 => bytes.truncate(position),
                3 => bytes.insert(position, self.next() as u8),
                4 => {
                    let end = position + self.below(bytes.len() - position + 1);
                    bytes.extend_from_within(position..end);
                }
                _ if bytes.len() >= position + 4 => {
                    let edge = *self.pick(&[0, 1, i32::MAX as u32, 1 << 31, u32::MAX, 1 << 20]);
                    bytes[position..position + 4].copy_from_slice(&edge.to_be_bytes());
                }
                _ => {}
            }
        }
    }
}
