//! The bytes stored under each key: derived from the key, so that every reply can be checked.
//!
//! A value is eight bytes that name the key and a cut from a block of random bytes, at an offset
//! the key decides. Writing one is a copy, checking one a comparison; neither computes anything
//! per byte. The bytes do not depend on the run's seed: what one run has loaded, another can
//! verify, if prefix and sizes are the same. They do not compress.

use std::str::FromStr;

use crate::random::{Random, mix};

/// How many different cuts of the block there are.
const OFFSETS: usize = 4096;
/// Bytes at a value's start that name its key.
const NAME_BYTES: usize = 8;

/// How long values are, in bytes. Between unequal bounds each key has a length of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueSize {
    /// The shortest.
    pub min: usize,
    /// The longest.
    pub max: usize,
}

impl FromStr for ValueSize {
    type Err = String;

    fn from_str(text: &str) -> Result<ValueSize, String> {
        let size = |part: &str| {
            crate::units::bytes(part).and_then(|bytes| {
                let limit = proto::limits::VALUE_BYTES_MAX as u64;
                if bytes > limit {
                    return Err(format!("`{part}` is longer than {limit} bytes"));
                }
                Ok(bytes as usize)
            })
        };
        let (min, max) = match text.split_once('-') {
            Some((min, max)) => (size(min)?, size(max)?),
            None => (size(text)?, size(text)?),
        };
        if min > max {
            return Err(format!("in `{text}` the shortest is longer than the longest"));
        }
        Ok(ValueSize { min, max })
    }
}

impl std::fmt::Display for ValueSize {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.min == self.max {
            write!(formatter, "{}", self.min)
        } else {
            write!(formatter, "{}-{}", self.min, self.max)
        }
    }
}

/// Makes and checks values.
#[derive(Clone, Debug)]
pub struct Values {
    size: ValueSize,
    block: Vec<u8>,
}

impl Values {
    /// Values of these lengths.
    pub fn new(size: ValueSize) -> Values {
        let mut random = Random::stream(0, 0x7661_6c75_6573);
        let words = (size.max + OFFSETS).div_ceil(8);
        let block = (0..words).flat_map(|_| random.bits().to_le_bytes()).collect();
        Values { size, block }
    }

    /// The length of the key's value in bytes.
    #[inline]
    pub fn size(&self, key: u64) -> usize {
        let ValueSize { min, max } = self.size;
        if min == max {
            return min;
        }
        min + (mix(!key) % (max - min + 1) as u64) as usize
    }

    #[inline]
    fn parts(&self, key: u64, size: usize) -> ([u8; NAME_BYTES], &[u8]) {
        let name = mix(key);
        let rest = size.saturating_sub(NAME_BYTES);
        let offset = name as usize % OFFSETS;
        (name.to_le_bytes(), self.block.get(offset..offset + rest).unwrap_or_default())
    }

    /// Appends the key's value.
    #[inline]
    pub fn append(&self, key: u64, out: &mut Vec<u8>) {
        self.append_sized(key, self.size(key), out);
    }

    /// Appends a value of the key of `size` bytes, which is at most the longest.
    #[inline]
    pub fn append_sized(&self, key: u64, size: usize, out: &mut Vec<u8>) {
        let (name, rest) = self.parts(key, size);
        let name = &name[..size.min(NAME_BYTES)];
        out.extend_from_slice(name);
        out.extend_from_slice(rest);
    }

    /// Whether these bytes are the key's value.
    pub fn matches(&self, key: u64, bytes: &[u8]) -> bool {
        bytes.len() == self.size(key) && self.matches_sized(key, bytes)
    }

    /// Whether these bytes are a value of the key, whatever its length.
    pub fn matches_sized(&self, key: u64, bytes: &[u8]) -> bool {
        let (name, rest) = self.parts(key, bytes.len());
        bytes.len() <= self.size.max
            && match bytes.split_at_checked(NAME_BYTES) {
                Some((start, end)) => start == name && end == rest,
                None => name.starts_with(bytes),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(values: &Values, key: u64) -> Vec<u8> {
        let mut out = Vec::new();
        values.append(key, &mut out);
        out
    }

    #[test]
    fn values_have_their_length_and_match_only_their_key() {
        for (min, max) in [(0, 0), (1, 1), (7, 7), (8, 8), (9, 9), (64, 64), (3, 300)] {
            let values = Values::new(ValueSize { min, max });
            for key in 0..200 {
                let bytes = value(&values, key);
                assert_eq!(bytes.len(), values.size(key));
                assert!((min..=max).contains(&bytes.len()));
                assert!(values.matches(key, &bytes));
                if bytes.len() >= NAME_BYTES {
                    assert!(!values.matches(key + 1, &bytes));
                    assert!(!values.matches(key, &bytes[1..]));
                    let mut damaged = bytes.clone();
                    let last = damaged.len() - 1;
                    damaged[last] ^= 1;
                    assert!(!values.matches(key, &damaged));
                    assert!(!values.matches_sized(key, &damaged));
                }
            }
        }
    }

    #[test]
    fn a_key_has_a_value_of_every_length() {
        let values = Values::new(ValueSize { min: 0, max: 300 });
        for size in 0..=300 {
            let mut bytes = Vec::new();
            values.append_sized(7, size, &mut bytes);
            assert_eq!((bytes.len(), values.matches_sized(7, &bytes)), (size, true));
            assert!(size < NAME_BYTES || !values.matches_sized(8, &bytes));
        }
        assert!(!values.matches_sized(7, &[0; 301]));
    }

    #[test]
    fn lengths_use_their_whole_range() {
        let values = Values::new(ValueSize { min: 10, max: 13 });
        let mut seen = [0; 4];
        (0..1000).for_each(|key| seen[values.size(key) - 10] += 1);
        assert!(seen.iter().all(|count| *count > 180), "{seen:?}");
    }

    #[test]
    fn sizes_are_parsed_and_mistakes_refused() {
        assert_eq!("64".parse(), Ok(ValueSize { min: 64, max: 64 }));
        assert_eq!("10-1KiB".parse(), Ok(ValueSize { min: 10, max: 1024 }));
        assert_eq!("16MiB".parse(), Ok(ValueSize { min: 16 << 20, max: 16 << 20 }));
        for wrong in ["", "-", "9-1", "64b", "1-2-3", "17MiB", "1.5", "-5"] {
            assert!(wrong.parse::<ValueSize>().is_err(), "{wrong}");
        }
    }
}
