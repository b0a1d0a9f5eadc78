//! Hash slots as Redis Cluster defines them, so that its clients find our shards unchanged.
//!
//! A slot is the CRC16/XMODEM of the key modulo 16,384. If the key holds a `{`, and a `}` after
//! it with at least one byte between them, only the bytes between the first `{` and the first `}`
//! after it are hashed (the *hash tag*): keys with equal tags share a slot. The hash runs once per
//! request, and byte by byte each step would wait for the one before. Eight tables (4 KiB) take
//! eight bytes in one step.

/// Number of hash slots.
pub const SLOTS: u16 = 16_384;

/// Bytes taken in one step.
const STRIDE: usize = 8;

/// `TABLES[zeros][byte]` is the CRC, by the polynomial x^16 + x^12 + x^5 + 1, of the byte with so
/// many zero bytes behind it.
static TABLES: [[u16; 256]; STRIDE] = {
    let mut tables = [[0; 256]; STRIDE];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < STRIDE {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[zeros - 1][byte];
            tables[zeros][byte] = crc << 8 ^ tables[0][(crc >> 8) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
};

/// CRC16/XMODEM: polynomial 0x1021, initial value 0, nothing reflected or inverted.
pub fn crc16(bytes: &[u8]) -> u16 {
    let (strides, rest) = bytes.as_chunks::<STRIDE>();
    let mut crc = 0;
    for &[first, second, ref others @ ..] in strides {
        let [high, low] = u16::to_be_bytes(crc);
        crc = TABLES[STRIDE - 1][usize::from(first ^ high)]
            ^ TABLES[STRIDE - 2][usize::from(second ^ low)];
        for (position, &byte) in others.iter().enumerate() {
            crc ^= TABLES[STRIDE - 3 - position][usize::from(byte)];
        }
    }
    rest.iter().fold(crc, |crc, &byte| crc << 8 ^ TABLES[0][usize::from((crc >> 8) as u8 ^ byte)])
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
    fn a_step_of_many_bytes_agrees_with_many_steps_of_a_bit() {
        let bitwise = |bytes: &[u8]| {
            bytes.iter().fold(0u16, |crc, &byte| {
                (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| {
                    if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
                })
            })
        };
        let mut random = crate::seeded::Seeded::new("crc16");
        for _ in 0..2_000 {
            let bytes = random.bytes(40);
            assert_eq!(crc16(&bytes), bitwise(&bytes), "{bytes:?}");
        }
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
