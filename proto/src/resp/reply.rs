//! Finds whole replies in what a client has received, without copying and without recursion.
//!
//! [`scan`] says what kind of reply the input starts with and how many bytes it takes, nested
//! aggregates included. [`Scanner`] does the same over many calls on growing input and goes on
//! where it stopped, so that a reply that arrives in a thousand pieces costs no more than one
//! that arrives whole. Nesting is limited to [`REPLY_DEPTH_MAX`], lengths to [`BULK_BYTES_MAX`].

use crate::limits::{BULK_SKIP_BYTES_MAX, NUMBER_LINE_BYTES_MAX, REPLY_DEPTH_MAX};
use crate::resp::parse_integer;

/// Longest bulk string a reply may hold, in bytes.
pub const BULK_BYTES_MAX: u64 = BULK_SKIP_BYTES_MAX;
/// Longest line of a simple string or an error, in bytes.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Most elements an aggregate may announce.
const ELEMENTS_MAX: i64 = i32::MAX as i64;

/// What a reply is, with where its content stands relative to the reply's first byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A simple string: `start..end` without the type byte and the line end.
    Simple {
        /// First byte.
        start: usize,
        /// Byte after the last.
        end: usize,
    },
    /// An error, its code first: `start..end`. Bulk errors of RESP3 count as this too.
    Error {
        /// First byte.
        start: usize,
        /// Byte after the last.
        end: usize,
    },
    /// An integer.
    Integer(i64),
    /// A bulk string, or a verbatim string with its format prefix: `start..end`.
    Bulk {
        /// First byte.
        start: usize,
        /// Byte after the last.
        end: usize,
    },
    /// No value, in any of its three notations.
    Nil,
    /// A truth value.
    Boolean(bool),
    /// A double or a big number as text: `start..end`.
    Number {
        /// First byte.
        start: usize,
        /// Byte after the last.
        end: usize,
    },
    /// An array, set or push message whose `length` elements start at `start`.
    Array {
        /// Number of elements.
        length: usize,
        /// First byte of the first element.
        start: usize,
    },
    /// A map whose `pairs` keys and values, alternating, start at `start`.
    Map {
        /// Number of pairs.
        pairs: usize,
        /// First byte of the first key.
        start: usize,
    },
    /// A push message, which answers no request; otherwise like an array.
    Push {
        /// Number of elements.
        length: usize,
        /// First byte of the first element.
        start: usize,
    },
}

/// Why bytes are not a reply. The connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The first byte is no reply type.
    #[error("a reply cannot start with byte {0:#04x}")]
    UnknownType(u8),
    /// A number is malformed or out of its range.
    #[error("a length or number in a reply is malformed")]
    BadNumber,
    /// A line is too long or does not end in CR LF.
    #[error("a line in a reply is malformed")]
    BadLine,
    /// Aggregates are nested too deeply.
    #[error("a reply is nested too deeply")]
    TooDeep,
}

/// What the input starts with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scanned {
    /// The reply is not whole; at least `needed` more bytes must come.
    Incomplete {
        /// Bytes, at least one.
        needed: usize,
    },
    /// A whole reply of `consumed` bytes.
    Reply {
        /// What it is.
        kind: Kind,
        /// Its length in bytes.
        consumed: usize,
    },
}

/// What one element (without the elements of an aggregate) is, and where it ends.
enum Element {
    Incomplete { needed: usize },
    Whole { kind: Kind, end: usize, children: u64 },
}

/// A scan that may be interrupted by the end of the input at any byte.
///
/// The input given to [`Scanner::scan`] must start at the reply's first byte each time; bytes
/// seen once must not change. After a whole reply or an error it starts anew.
#[derive(Clone, Debug, Default)]
pub struct Scanner {
    /// Bytes of whole elements that were passed.
    position: usize,
    /// Kind of the outermost element, once known.
    kind: Option<Kind>,
    /// How many elements are left at each level, outermost first.
    pending: [u64; REPLY_DEPTH_MAX],
    depth: usize,
}

impl Scanner {
    /// Looks for a whole reply at the start of `input`.
    pub fn scan(&mut self, input: &[u8]) -> Result<Scanned, ReplyError> {
        let scanned = self.advance(input);
        if !matches!(scanned, Ok(Scanned::Incomplete { .. })) {
            (self.position, self.kind, self.depth) = (0, None, 0);
        }
        scanned
    }

    fn advance(&mut self, input: &[u8]) -> Result<Scanned, ReplyError> {
        loop {
            let (kind, end, children) = match element(input, self.position)? {
                Element::Incomplete { needed } => return Ok(Scanned::Incomplete { needed }),
                Element::Whole { kind, end, children } => (kind, end, children),
            };
            self.position = end;
            let outermost = *self.kind.get_or_insert(kind);
            if children > 0 {
                let level = self.pending.get_mut(self.depth).ok_or(ReplyError::TooDeep)?;
                *level = children;
                self.depth += 1;
                continue;
            }
            // An element has ended, and with it each aggregate whose last element it was.
            while self.depth > 0 {
                let level = &mut self.pending[self.depth - 1];
                *level -= 1;
                if *level > 0 {
                    break;
                }
                self.depth -= 1;
            }
            if self.depth == 0 {
                return Ok(Scanned::Reply { kind: outermost, consumed: end });
            }
        }
    }
}

/// Looks for a whole reply at the start of `input`, in one go.
pub fn scan(input: &[u8]) -> Result<Scanned, ReplyError> {
    // The commonest replies are told apart without setting up a scanner.
    match element(input, 0)? {
        Element::Incomplete { needed } => Ok(Scanned::Incomplete { needed }),
        Element::Whole { kind, end, children: 0 } => Ok(Scanned::Reply { kind, consumed: end }),
        Element::Whole { .. } => Scanner::default().scan(input),
    }
}

fn element(input: &[u8], position: usize) -> Result<Element, ReplyError> {
    let rest = input.get(position..).unwrap_or_default();
    let Some((&type_byte, body)) = rest.split_first() else {
        return Ok(Element::Incomplete { needed: 1 });
    };
    let line_max = match type_byte {
        b'+' | b'-' | b',' | b'(' => LINE_BYTES_MAX,
        b':' | b'$' | b'!' | b'=' | b'*' | b'~' | b'>' | b'%' | b'|' | b'_' | b'#' => {
            NUMBER_LINE_BYTES_MAX
        }
        other => return Err(ReplyError::UnknownType(other)),
    };
    let searched = &body[..body.len().min(line_max)];
    let Some(line_end) = memchr::memchr(b'\n', searched) else {
        if body.len() >= line_max {
            return Err(ReplyError::BadLine);
        }
        return Ok(Element::Incomplete { needed: if body.is_empty() { 2 } else { 1 } });
    };
    let line = searched[..line_end].strip_suffix(b"\r").ok_or(ReplyError::BadLine)?;
    let start = position + 1;
    let after_line = start + line_end + 1;
    let whole = |kind| Ok(Element::Whole { kind, end: after_line, children: 0 });
    let text_end = start + line.len();
    match type_byte {
        b'+' => whole(Kind::Simple { start, end: text_end }),
        b'-' => whole(Kind::Error { start, end: text_end }),
        b',' | b'(' => whole(Kind::Number { start, end: text_end }),
        b':' => whole(Kind::Integer(parse_signed(line).ok_or(ReplyError::BadNumber)?)),
        b'_' if line.is_empty() => whole(Kind::Nil),
        b'#' => match line {
            b"t" => whole(Kind::Boolean(true)),
            b"f" => whole(Kind::Boolean(false)),
            _ => Err(ReplyError::BadNumber),
        },
        b'$' | b'!' | b'=' => bulk(type_byte, line, rest.len(), position, after_line),
        b'*' | b'~' | b'>' | b'%' | b'|' => aggregate(type_byte, line, after_line),
        _ => Err(ReplyError::BadNumber),
    }
}

fn bulk(
    type_byte: u8,
    line: &[u8],
    available: usize,
    position: usize,
    start: usize,
) -> Result<Element, ReplyError> {
    let length = parse_integer(line).ok_or(ReplyError::BadNumber)?;
    if length == -1 && type_byte == b'$' {
        return Ok(Element::Whole { kind: Kind::Nil, end: start, children: 0 });
    }
    let length = u64::try_from(length).map_err(|_| ReplyError::BadNumber)?;
    if length > BULK_BYTES_MAX {
        return Err(ReplyError::BadNumber);
    }
    let content_end = start + length as usize;
    let end = content_end + 2;
    let received = position + available;
    if received < end {
        return Ok(Element::Incomplete { needed: end - received });
    }
    let kind = if type_byte == b'!' {
        Kind::Error { start, end: content_end }
    } else {
        Kind::Bulk { start, end: content_end }
    };
    Ok(Element::Whole { kind, end, children: 0 })
}

fn aggregate(type_byte: u8, line: &[u8], start: usize) -> Result<Element, ReplyError> {
    let length = parse_integer(line).ok_or(ReplyError::BadNumber)?;
    if length == -1 && type_byte == b'*' {
        return Ok(Element::Whole { kind: Kind::Nil, end: start, children: 0 });
    }
    if !(0..=ELEMENTS_MAX).contains(&length) {
        return Err(ReplyError::BadNumber);
    }
    let length = length as usize;
    let (kind, children) = match type_byte {
        b'%' => (Kind::Map { pairs: length, start }, length as u64 * 2),
        // An attribute is a map followed by the reply it belongs to: one more element.
        b'|' => (Kind::Map { pairs: length, start }, length as u64 * 2 + 1),
        b'>' => (Kind::Push { length, start }, length as u64),
        _ => (Kind::Array { length, start }, length as u64),
    };
    Ok(Element::Whole { kind, end: start, children })
}

/// RESP3 allows a plus sign before integers in replies.
fn parse_signed(line: &[u8]) -> Option<i64> {
    parse_integer(line.strip_prefix(b"+").unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: &[&[u8]] = &[
        b"+OK\r\n",
        b"-MOVED 3999 127.0.0.1:6381\r\n",
        b":-42\r\n",
        b"$5\r\nhel\r\n\r\n",
        b"$0\r\n\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"_\r\n",
        b"#t\r\n",
        b",1.5\r\n",
        b"(123456789012345678901234567890\r\n",
        b"=5\r\ntxt:a\r\n",
        b"!5\r\nERR x\r\n",
        b"*0\r\n",
        b"*2\r\n$1\r\na\r\n*2\r\n:1\r\n*0\r\n",
        b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n_\r\n",
        b"~1\r\n+x\r\n",
        b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n",
        b"|1\r\n+ttl\r\n:3\r\n$1\r\nv\r\n",
    ];

    fn position_check(input: &[u8], range: std::ops::Range<usize>) -> &[u8] {
        input.get(range).expect("a range within the reply")
    }

    #[test]
    fn every_reply_is_found_whole_and_incomplete_before() {
        for sample in SAMPLES {
            for length in 0..sample.len() {
                match scan(&sample[..length]) {
                    Ok(Scanned::Incomplete { needed }) => {
                        assert!(needed >= 1 && length + needed <= sample.len(), "{sample:?}");
                    }
                    other => panic!("{sample:?} cut at {length}: {other:?}"),
                }
            }
            let mut with_more = sample.to_vec();
            with_more.extend_from_slice(b"+next\r\n");
            let Ok(Scanned::Reply { consumed, kind }) = scan(&with_more) else {
                panic!("{sample:?} is a reply");
            };
            assert_eq!(consumed, sample.len());
            if let Kind::Bulk { start, end } | Kind::Simple { start, end } = kind {
                position_check(sample, start..end);
            }
        }
    }

    #[test]
    fn input_byte_by_byte_gives_the_same_replies() {
        let stream = SAMPLES.concat();
        let (mut start, mut found) = (0, 0);
        let mut scanner = Scanner::default();
        for end in 1..=stream.len() {
            if let Scanned::Reply { consumed, .. } =
                scanner.scan(&stream[start..end]).expect("replies")
            {
                assert_eq!(&stream[start..start + consumed], SAMPLES[found]);
                start += consumed;
                found += 1;
            }
        }
        assert_eq!((start, found), (stream.len(), SAMPLES.len()));
    }

    #[test]
    fn the_content_is_where_the_kind_says() {
        let reply = b"$3\r\nabc\r\n";
        let Ok(Scanned::Reply { kind: Kind::Bulk { start, end }, .. }) = scan(reply) else {
            panic!("a bulk string");
        };
        assert_eq!(position_check(reply, start..end), b"abc");
        assert_eq!(
            scan(b":9223372036854775807\r\n"),
            Ok(Scanned::Reply { kind: Kind::Integer(i64::MAX), consumed: 22 })
        );
    }

    #[test]
    fn nesting_is_limited() {
        let nested = |depth: usize| [b"*1\r\n".repeat(depth), b":1\r\n".to_vec()].concat();
        assert!(matches!(scan(&nested(REPLY_DEPTH_MAX)), Ok(Scanned::Reply { .. })));
        assert_eq!(scan(&nested(REPLY_DEPTH_MAX + 1)), Err(ReplyError::TooDeep));
        assert_eq!(scan(&nested(100_000)), Err(ReplyError::TooDeep));
    }

    #[test]
    fn malformed_replies_are_errors() {
        for (bytes, error) in [
            (&b"HTTP/1.1 400\r\n"[..], ReplyError::UnknownType(b'H')),
            (b"$-2\r\n", ReplyError::BadNumber),
            (b"$536870913\r\n", ReplyError::BadNumber),
            (b"$x\r\n", ReplyError::BadNumber),
            (b"*99999999999\r\n", ReplyError::BadNumber),
            (b"+a\n", ReplyError::BadLine),
            (b"#x\r\n", ReplyError::BadNumber),
        ] {
            assert_eq!(scan(bytes), Err(error), "{bytes:?}");
        }
        assert_eq!(scan(&[b':'; 40]), Err(ReplyError::BadLine));
    }

    #[test]
    fn mutated_replies_never_panic_and_stay_within_the_input() {
        let mut random = crate::seeded::Seeded::new("reply scanner");
        for _ in 0..20_000 {
            let mut stream = SAMPLES.concat();
            random.mutate(&mut stream);
            let mut rest = &stream[..];
            while let Ok(Scanned::Reply { consumed, .. }) = scan(rest) {
                assert!(consumed > 0 && consumed <= rest.len());
                rest = &rest[consumed..];
            }
        }
    }
}
