//! Hash slots as Redis Cluster defines them, so that its clients find our shards unchanged.
//!
//! A slot is the CRC16/XMODEM of the key modulo 16,384. If the key holds a `{`, and a `}` after
//! it with at least one byte between them, only the bytes between the first `{` and the first `}`
//! after it are hashed (the *hash tag*): keys with equal tags share a slot. One table of 256
//! entries does, because keys are short and the hash runs once per request.

/// Number of hash slots.
pub const SLOTS: u16 = 16_384;

/// The CRC of each byte value, by the polynomial x^16 + x^12 + x^5 + 1.
const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// CRC16/XMODEM: polynomial 0x1021, initial value 0, nothing reflected or inverted.
pub fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| crc << 8 ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

/// The part of `key` that is hashed: its hash tag, or all of it.
pub fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else { return key };
    let after = &key[open + 1..];
    match memchr::memchr(b'}', after) {
        Some(length) if length > 0 => &after[..length],
        _ => key,
    }
}

/// The slot of `key`, below [`SLOTS`].
pub fn slot_of(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) & (SLOTS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_agrees_with_the_published_check_value() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(crc16(b""), 0);
    }

    #[test]
    fn slots_agree_with_redis() {
        for (key, slot) in [
            (&b""[..], 0),
            (b"foo", 12_182),
            (b"bar", 5_061),
            (b"hello", 866),
            (b"somekey", 11_058),
            (b"foo{hash_tag}", 2_515),
            (b"bar{hash_tag}", 2_515),
        ] {
            assert_eq!(slot_of(key), slot, "{}", String::from_utf8_lossy(key));
        }
    }

    #[test]
    fn only_the_first_tag_that_is_not_empty_counts() {
        for (key, hashed) in [
            (&b"{user1000}.following"[..], &b"user1000"[..]),
            (b"foo{}{bar}", b"foo{}{bar}"),
            (b"foo{{bar}}zap", b"{bar"),
            (b"foo{bar}{zap}", b"bar"),
            (b"{}", b"{}"),
            (b"{}{x}", b"{}{x}"),
            (b"{", b"{"),
            (b"}{", b"}{"),
            (b"a}b{c}", b"c"),
            (b"{\0\r\n}", b"\0\r\n"),
        ] {
            assert_eq!(hash_tag(key), hashed, "{}", String::from_utf8_lossy(key));
            assert_eq!(slot_of(key), slot_of(hashed));
        }
    }

    #[test]
    fn every_slot_is_in_range_and_reachable() {
        let mut seen = vec![false; usize::from(SLOTS)];
        for number in 0..400_000u32 {
            seen[usize::from(slot_of(number.to_string().as_bytes()))] = true;
        }
        assert!(seen.iter().all(|&seen| seen));
    }
}
