//! The rolling digest of a store: one number that is equal on two replicas exactly when their
//! states are, but for collisions.
//!
//! It is made of sums: one term per entry, one per pair of neighbours in the order of eviction, one
//! per visited entry. So a change costs the old term and the new one, whatever the size of the
//! store, and the order of the changes leaves no trace. The bytes of key and value enter through
//! XXH3, whose result is stable across versions and machines. A use changes an entry's neighbours
//! and not its own term, so it does not read the value; for long values the hash is kept. The rest
//! is mixed in by multiplications that are bijective in each field: a change of a single field
//! always changes the term.
//!
//! It guards against divergence and damage, not against somebody who seeks collisions.

use std::fmt;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

/// The seed of everything: persistent, because digests are compared between nodes.
const SEED: u64 = 0x436f_7261_636c_6531;
/// An odd multiplier with well spread bits.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash of an entry's bytes.
#[inline]
pub(super) fn hash_bytes(bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, SEED)
}

/// [`hash_bytes`] of bytes that come in pieces: the checksum of a snapshot.
pub(super) struct StreamHash(Xxh3);

impl StreamHash {
    /// Of no bytes so far.
    pub fn new() -> Self {
        StreamHash(Xxh3::with_seed(SEED))
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all bytes so far.
    pub fn finish(&self) -> u64 {
        self.0.digest()
    }
}

impl fmt::Debug for StreamHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "StreamHash({:016x})", self.finish())
    }
}

/// Mixes `words` into `state`, in order.
#[inline]
pub(super) fn absorb<const N: usize>(state: u64, words: [u64; N]) -> u64 {
    words.into_iter().fold(state, |state, word| {
        let mixed = (state ^ word).wrapping_mul(MULTIPLIER);
        mixed ^ (mixed >> 29)
    })
}

/// A sum of terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum(u64);

impl Sum {
    /// Counts a term in.
    #[inline]
    pub fn add(&mut self, term: u64) {
        self.0 = self.0.wrapping_add(term);
    }

    /// Takes a term out that was counted in.
    #[inline]
    pub fn subtract(&mut self, term: u64) {
        self.0 = self.0.wrapping_sub(term);
    }

    /// The sum mixed with `words`.
    pub fn finish<const N: usize>(self, words: [u64; N]) -> u64 {
        absorb(absorb(SEED, [self.0]), words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hashes_never_change() {
        assert_eq!(hash_bytes(b"coracle"), 0xcb8a_0742_13f8_43e9);
        assert_eq!(absorb(1, [2, 3]), 0xe295_b5cc_cca3_c295);
        let mut stream = StreamHash::new();
        stream.update(b"cora");
        stream.update(b"cle");
        assert_eq!(stream.finish(), hash_bytes(b"coracle"));
    }

    #[test]
    fn every_field_changes_the_term() {
        let base = absorb(7, [1, 2, 3, 4]);
        for field in 0..4 {
            for bit in 0..64 {
                let mut words = [1, 2, 3, 4];
                words[field] ^= 1 << bit;
                assert_ne!(absorb(7, words), base);
            }
        }
    }
}
