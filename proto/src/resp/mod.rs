//! RESP, the protocol of Redis, in its versions 2 and 3.
//!
//! [`request`] takes a server's input apart, [`encode`] writes a server's replies, [`reply`]
//! finds the replies in a client's input. All three work in place: nothing is allocated per
//! message once a connection is warm, and nothing is allocated by a length that was announced
//! but not received.

pub mod encode;
pub mod reply;
pub mod request;

/// The version of RESP a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// What a connection starts with.
    #[default]
    Resp2,
    /// What `HELLO 3` switches to.
    Resp3,
}

impl Version {
    /// The number that HELLO names it by.
    pub fn number(self) -> i64 {
        match self {
            Version::Resp2 => 2,
            Version::Resp3 => 3,
        }
    }
}

/// Reads a decimal integer as strictly as Redis does: an optional minus, digits without leading
/// zeros, nothing else, within the range of an `i64`.
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    // Nineteen digits always fit into a u64, and a longer number never fits into an i64.
    if digits.len() > 19 {
        return None;
    }
    let mut magnitude = 0u64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        magnitude = magnitude * 10 + u64::from(digit - b'0');
    }
    if negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_strictly_as_redis_does() {
        for (text, number) in [
            ("0", Some(0)),
            ("1", Some(1)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("18446744073709551616", None),
            ("99999999999999999999", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("+1", None),
            (" 1", None),
            ("1 ", None),
            ("01", None),
            ("1.0", None),
            ("1e3", None),
            ("blabla", None),
        ] {
            assert_eq!(parse_integer(text.as_bytes()), number, "{text:?}");
        }
    }
}
