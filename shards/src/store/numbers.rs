//! Counters as decimal text, read and written without allocation.
//!
//! Redis and memcached differ in what they take for a number, and both are kept: Redis refuses
//! leading zeros and a plus sign, memcached's unsigned counters may start with zeros. Neither
//! skips spaces.

/// The longest text: `u64::MAX` and `i64::MIN` both have 20 characters.
const TEXT_BYTES_MAX: usize = 20;

/// Reads a signed integer in the one form that [`Decimal::signed`] writes.
pub(super) fn parse_signed(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    let magnitude = parse_unsigned(digits)?;
    if negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// Reads an unsigned integer; leading zeros are allowed.
pub(super) fn parse_unsigned(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > TEXT_BYTES_MAX {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| match byte {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// The decimal text of a number.
pub(super) struct Decimal {
    text: [u8; TEXT_BYTES_MAX],
    start: usize,
}

impl Decimal {
    /// The text of `number`.
    pub fn unsigned(mut number: u64) -> Self {
        let mut decimal = Decimal { text: [b'0'; TEXT_BYTES_MAX], start: TEXT_BYTES_MAX };
        loop {
            decimal.start -= 1;
            decimal.text[decimal.start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return decimal;
            }
        }
    }

    /// The text of `number`, with a minus sign if it is negative.
    pub fn signed(number: i64) -> Self {
        let mut decimal = Self::unsigned(number.unsigned_abs());
        if number < 0 {
            decimal.start -= 1;
            decimal.text[decimal.start] = b'-';
        }
        decimal
    }

    /// The characters.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_numbers_read_back() {
        for number in [0, 1, 9, 10, 4711, u64::MAX / 10, u64::MAX - 1, u64::MAX] {
            assert_eq!(Decimal::unsigned(number).as_bytes(), number.to_string().as_bytes());
            assert_eq!(parse_unsigned(Decimal::unsigned(number).as_bytes()), Some(number));
        }
        for number in [0, 1, -1, 10, -10, i64::MAX, i64::MIN, i64::MIN + 1] {
            assert_eq!(Decimal::signed(number).as_bytes(), number.to_string().as_bytes());
            assert_eq!(parse_signed(Decimal::signed(number).as_bytes()), Some(number));
        }
    }

    #[test]
    fn what_redis_refuses_is_refused() {
        let refused = [
            "",
            "-",
            "+1",
            "-0",
            "00",
            "01",
            "-01",
            " 1",
            "1 ",
            "1.0",
            "1e3",
            "0x1",
            "a",
            "9223372036854775808",
            "-9223372036854775809",
            "18446744073709551616",
            "100000000000000000000000000000000000000",
        ];
        for text in refused {
            assert_eq!(parse_signed(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn what_memcached_refuses_is_refused() {
        for text in
            ["", "-1", "+1", " 1", "1 ", "a", "18446744073709551616", "000000000000000000001"]
        {
            assert_eq!(parse_unsigned(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse_unsigned(b"007"), Some(7));
    }
}
