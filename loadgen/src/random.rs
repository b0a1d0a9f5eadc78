//! Seeded random numbers: xoshiro256++ filled by SplitMix64.
//!
//! A run must be repeatable from its `--seed`, on every machine and in every version, so the
//! generator is part of this crate rather than a dependency that may change its streams. It is
//! not for secrets. Streams of different purposes are separated by [`Random::stream`], so that
//! for instance a longer warm-up does not change which keys a connection asks for.

/// Spreads the bits of `value` over the whole word; a bijection (the finalizer of SplitMix64).
pub fn mix(value: u64) -> u64 {
    let mut bits = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The stream that belongs to `seed` and `purpose`.
    pub fn stream(seed: u64, purpose: u64) -> Random {
        let mut word = mix(seed ^ mix(purpose));
        let state = std::array::from_fn(|_| {
            word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(word)
        });
        Random { state }
    }

    /// 64 random bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number in `0..bound`. The bias is below `bound / 2^64`.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `[0, 1)` with 53 random bits.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_stream_and_purposes_differ() {
        let draw = |seed, purpose| {
            let mut random = Random::stream(seed, purpose);
            std::array::from_fn::<u64, 8, _>(|_| random.bits())
        };
        assert_eq!(draw(7, 1), draw(7, 1));
        assert_ne!(draw(7, 1), draw(7, 2));
        assert_ne!(draw(7, 1), draw(8, 1));
    }

    #[test]
    fn numbers_stay_below_their_bound_and_cover_it() {
        let mut random = Random::stream(3, 0);
        let mut seen = [0u32; 10];
        for _ in 0..100_000 {
            seen[random.below(10) as usize] += 1;
            let unit = random.unit();
            assert!((0.0..1.0).contains(&unit));
        }
        // Six standard deviations of a binomial with n = 100,000 and p = 0.1 are 570.
        assert!(seen.iter().all(|count| count.abs_diff(10_000) < 570), "{seen:?}");
    }
}
