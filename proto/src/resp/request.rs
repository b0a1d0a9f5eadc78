//! Takes a server's input apart into requests: arrays of bulk strings, or inline commands.
//!
//! The parser works over the caller's buffer in place. Arguments are spans of that buffer, kept in
//! a vector that is reused, so that a warm connection allocates nothing per request. It keeps its
//! place between calls: a value of 16 MiB that arrives byte by byte is looked at once.
//!
//! Nothing is reserved by an announced number: spans grow with arguments received. A request that
//! exceeds a size limit is skipped as it arrives and reported once it has ended, so that the
//! connection can answer with an error and live on. Anything that is not RESP is a
//! [`ProtocolError`] with Redis' wording; after it the input has no meaning and the connection must
//! be closed.
//!
//! The hot path, per argument: `header` and `content`. What must not be added there: an allocation,
//! a search where a number of one or two digits stands.
//!
//! Stricter than Redis: lines must end in CR LF, and so must bulk strings; only inline commands may
//! end in a bare LF.

use crate::limits::{
    ARGUMENTS_MAX, BULK_SKIP_BYTES_MAX, INLINE_BYTES_MAX, NUMBER_LINE_BYTES_MAX, REQUEST_BYTES_MAX,
};
use crate::resp::parse_integer;

/// Spans kept between requests: more than all but the largest commands have.
const SPANS_KEPT: usize = 16;

/// Why the input is not RESP. The texts are those of Redis, without the leading `ERR `.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The number after `*` is malformed or too high.
    #[error("Protocol error: invalid multibulk length")]
    MultibulkLength,
    /// The number after `$` is malformed, negative or too high.
    #[error("Protocol error: invalid bulk length")]
    BulkLength,
    /// Something else than a bulk string within a request.
    #[error("Protocol error: expected '$', got '{}'", Printable(*.0))]
    ExpectedBulk(u8),
    /// A bulk string is not followed by CR LF.
    #[error("Protocol error: expected CRLF after a bulk string")]
    BulkEnd,
    /// An inline command with a quote that is not closed, or with text right after a closing one.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// An inline command beyond [`INLINE_BYTES_MAX`].
    #[error("Protocol error: too big inline request")]
    InlineTooBig,
    /// The line after `*` does not end.
    #[error("Protocol error: too big mbulk count string")]
    MultibulkLine,
    /// The line after `$` does not end.
    #[error("Protocol error: too big bulk count string")]
    BulkLine,
}

/// Shows a byte from a client in a message without control characters.
struct Printable(u8);

impl std::fmt::Display for Printable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            b' '..=b'~' => write!(formatter, "{}", char::from(self.0)),
            other => write!(formatter, "\\x{other:02x}"),
        }
    }
}

/// Which limit a skipped request exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLarge {
    /// An argument of so many bytes.
    Argument(u64),
    /// The request as a whole, beyond [`REQUEST_BYTES_MAX`].
    Request,
}

/// What the input starts with. `consumed` bytes belong to it; the caller drops them from its
/// buffer, after it has used the arguments of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The request is not whole. At least `needed` bytes must follow before another call helps.
    Incomplete {
        /// Bytes, at least one: what is left of an argument whose length is known. Errors never
        /// have to wait for them.
        needed: usize,
    },
    /// A request; see [`RequestParser::arguments`]. It has at least one argument.
    Request {
        /// Its length in bytes.
        consumed: usize,
    },
    /// Something that is no request and gets no answer: an empty line, `*0`, `*-1`.
    Ignored {
        /// Its length in bytes.
        consumed: usize,
    },
    /// A part of a request that is too large. It goes on.
    Skipped {
        /// Bytes, at least one.
        consumed: usize,
    },
    /// The end of a request that is too large, and gets an error for an answer.
    TooLarge {
        /// Bytes, at least one.
        consumed: usize,
        /// What was too large.
        reason: TooLarge,
    },
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// At the first byte of a request.
    #[default]
    Start,
    /// Within an inline command, of which so many bytes hold no line end.
    Inline { searched: usize },
    /// Before the `$` of an argument.
    Header,
    /// Before the content of an argument of so many bytes.
    Content { length: usize },
    /// Before so many bytes that are dropped.
    Skip { left: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    length: u32,
}

/// The parser of one connection.
#[derive(Debug, Default)]
pub struct RequestParser {
    state: State,
    /// How much of the input is dealt with, from the request's first byte.
    position: usize,
    /// Arguments to come.
    remaining: usize,
    spans: Vec<Span>,
    /// The arguments of an inline command, unquoted; the spans refer to it if it is not empty.
    unquoted: Vec<u8>,
    too_large: Option<TooLarge>,
}

/// The arguments of a request, the command's name first.
#[derive(Clone, Copy, Debug)]
pub struct Arguments<'a> {
    base: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Arguments<'a> {
    /// Their number, with the command's name.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is none, which a parsed request never has.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The argument at `position`; the command's name is at 0.
    pub fn get(&self, position: usize) -> Option<&'a [u8]> {
        let span = self.spans.get(position)?;
        self.base.get(span.start as usize..span.start as usize + span.length as usize)
    }

    /// The argument at `position`, or nothing where there is none: for positions that the
    /// command's arity has vouched for.
    pub fn at(&self, position: usize) -> &'a [u8] {
        self.get(position).unwrap_or_default()
    }

    /// All of them in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let base = self.base;
        self.spans.iter().map(move |span| {
            base.get(span.start as usize..span.start as usize + span.length as usize)
                .unwrap_or_default()
        })
    }

    /// The arguments from `position` on.
    pub fn from(&self, position: usize) -> Arguments<'a> {
        Arguments { base: self.base, spans: self.spans.get(position..).unwrap_or_default() }
    }
}

impl RequestParser {
    /// Looks for a request at the start of `input`, which must begin where the bytes consumed so
    /// far ended, and hold what it held at the last call. `argument_bytes_max` is the longest
    /// argument that is kept.
    pub fn parse(
        &mut self,
        input: &[u8],
        argument_bytes_max: usize,
    ) -> Result<Parsed, ProtocolError> {
        loop {
            let step = match self.state {
                State::Start => self.start(input)?,
                State::Inline { searched } => self.inline(input, searched)?,
                State::Header => self.header(input, argument_bytes_max)?,
                State::Content { length } => self.content(input, length)?,
                State::Skip { left } => self.skip(input, left),
            };
            match step {
                None => {}
                Some(Parsed::Incomplete { .. })
                    if self.too_large.is_some() && self.position > 0 =>
                {
                    let consumed = std::mem::take(&mut self.position);
                    return Ok(Parsed::Skipped { consumed });
                }
                Some(parsed) => return Ok(parsed),
            }
        }
    }

    /// The arguments of the request that the last [`parse`](Self::parse) of this `input` found.
    pub fn arguments<'a>(&'a self, input: &'a [u8]) -> Arguments<'a> {
        let base = if self.unquoted.is_empty() { input } else { &self.unquoted };
        Arguments { base, spans: &self.spans }
    }

    /// Whether a request has begun and not ended, and input is owed by the client.
    pub fn is_within_request(&self) -> bool {
        !matches!(self.state, State::Start)
    }

    fn start(&mut self, input: &[u8]) -> Result<Option<Parsed>, ProtocolError> {
        self.position = 0;
        self.spans.clear();
        self.unquoted.clear();
        self.too_large = None;
        if self.spans.capacity() > SPANS_KEPT {
            self.spans = Vec::with_capacity(SPANS_KEPT);
        }
        if self.unquoted.capacity() > 0 {
            self.unquoted = Vec::new();
        }
        match input.first() {
            None => Ok(Some(Parsed::Incomplete { needed: 1 })),
            Some(b'*') => self.multibulk(input),
            Some(_) => {
                self.state = State::Inline { searched: 0 };
                Ok(None)
            }
        }
    }

    fn multibulk(&mut self, input: &[u8]) -> Result<Option<Parsed>, ProtocolError> {
        let (count, line_bytes) = match number_line(input.get(1..).unwrap_or_default()) {
            NumberLine::Incomplete => return Ok(Some(Parsed::Incomplete { needed: 1 })),
            NumberLine::TooLong => return Err(ProtocolError::MultibulkLine),
            NumberLine::Malformed => return Err(ProtocolError::MultibulkLength),
            NumberLine::Number { number, bytes } => (number, bytes),
        };
        let consumed = 1 + line_bytes;
        if count <= 0 {
            return Ok(Some(Parsed::Ignored { consumed }));
        }
        self.remaining = usize::try_from(count)
            .ok()
            .filter(|&count| count <= ARGUMENTS_MAX)
            .ok_or(ProtocolError::MultibulkLength)?;
        self.position = consumed;
        self.state = State::Header;
        Ok(None)
    }

    fn header(
        &mut self,
        input: &[u8],
        argument_bytes_max: usize,
    ) -> Result<Option<Parsed>, ProtocolError> {
        let rest = input.get(self.position..).unwrap_or_default();
        let Some((&first, line)) = rest.split_first() else {
            return Ok(Some(Parsed::Incomplete { needed: 1 }));
        };
        if first != b'$' {
            return Err(ProtocolError::ExpectedBulk(first));
        }
        let (length, line_bytes) = match number_line(line) {
            NumberLine::Incomplete => return Ok(Some(Parsed::Incomplete { needed: 1 })),
            NumberLine::TooLong => return Err(ProtocolError::BulkLine),
            NumberLine::Malformed => return Err(ProtocolError::BulkLength),
            NumberLine::Number { number, bytes } => (number, bytes),
        };
        let length = u64::try_from(length)
            .ok()
            .filter(|&length| length <= BULK_SKIP_BYTES_MAX)
            .ok_or(ProtocolError::BulkLength)?;
        self.position += 1 + line_bytes;
        if self.too_large.is_none() {
            if length > argument_bytes_max as u64 {
                self.too_large = Some(TooLarge::Argument(length));
            } else if self.position + length as usize > REQUEST_BYTES_MAX {
                self.too_large = Some(TooLarge::Request);
            }
        }
        if self.too_large.is_some() {
            self.spans = Vec::new();
            self.state = State::Skip { left: length + 2 };
            return Ok(None);
        }
        let length = length as usize;
        self.state = State::Content { length };
        self.content(input, length)
    }

    fn content(&mut self, input: &[u8], length: usize) -> Result<Option<Parsed>, ProtocolError> {
        let end = self.position + length;
        match input.get(end..end + 2) {
            Some(b"\r\n") => {}
            Some(_) => return Err(ProtocolError::BulkEnd),
            None => {
                let needed = (end + 2).saturating_sub(input.len());
                return Ok(Some(Parsed::Incomplete { needed }));
            }
        }
        self.spans.push(Span { start: self.position as u32, length: length as u32 });
        self.position = end + 2;
        Ok(self.end_of_argument())
    }

    fn skip(&mut self, input: &[u8], left: u64) -> Option<Parsed> {
        let available = input.len().saturating_sub(self.position);
        let dropped = left.min(available as u64);
        self.position += dropped as usize;
        if dropped < left {
            self.state = State::Skip { left: left - dropped };
            return Some(Parsed::Incomplete { needed: 1 });
        }
        self.end_of_argument()
    }

    fn end_of_argument(&mut self) -> Option<Parsed> {
        self.remaining -= 1;
        if self.remaining > 0 {
            self.state = State::Header;
            return None;
        }
        self.state = State::Start;
        let consumed = self.position;
        Some(match self.too_large {
            None => Parsed::Request { consumed },
            Some(reason) => Parsed::TooLarge { consumed, reason },
        })
    }

    fn inline(&mut self, input: &[u8], searched: usize) -> Result<Option<Parsed>, ProtocolError> {
        let window = &input[..input.len().min(INLINE_BYTES_MAX + 2)];
        let found = memchr::memchr(b'\n', window.get(searched..).unwrap_or_default());
        let Some(line_end) = found.map(|offset| searched + offset) else {
            if input.len() > INLINE_BYTES_MAX + 1 {
                return Err(ProtocolError::InlineTooBig);
            }
            self.state = State::Inline { searched: window.len() };
            return Ok(Some(Parsed::Incomplete { needed: 1 }));
        };
        let line = &window[..line_end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > INLINE_BYTES_MAX {
            return Err(ProtocolError::InlineTooBig);
        }
        self.state = State::Start;
        let consumed = line_end + 1;
        self.split_inline(line)?;
        Ok(Some(if self.spans.is_empty() {
            Parsed::Ignored { consumed }
        } else {
            Parsed::Request { consumed }
        }))
    }

    /// Splits a line at blanks; quotes and escapes work as in Redis.
    fn split_inline(&mut self, line: &[u8]) -> Result<(), ProtocolError> {
        // The first byte keeps `unquoted` from being empty where all arguments are.
        self.unquoted.push(0);
        let mut rest = line;
        loop {
            rest = rest.trim_ascii_start();
            if rest.is_empty() {
                return Ok(());
            }
            let start = self.unquoted.len();
            rest = unquote(rest, &mut self.unquoted)?;
            let length = self.unquoted.len() - start;
            self.spans.push(Span { start: start as u32, length: length as u32 });
        }
    }
}

/// Appends the first word of `text`, unquoted, to `out`, and returns what follows it.
fn unquote<'a>(mut text: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match text {
            [] => return Ok(text),
            [b' ' | b'\t' | b'\r' | b'\n', rest @ ..] => return Ok(rest),
            [quote @ (b'"' | b'\''), rest @ ..] => {
                text = quoted(rest, *quote, out)?;
                if text.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
                    return Err(ProtocolError::UnbalancedQuotes);
                }
            }
            [byte, rest @ ..] => {
                out.push(*byte);
                text = rest;
            }
        }
    }
}

/// Appends what stands before the closing `quote`, and returns what follows it.
fn quoted<'a>(mut text: &'a [u8], quote: u8, out: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, rest) = match text {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [byte, rest @ ..] if *byte == quote => return Ok(rest),
            [b'\\', b'\'', rest @ ..] if quote == b'\'' => (b'\'', rest),
            [b'\\', b'x', high, low, rest @ ..]
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex_digit(*high) << 4 | hex_digit(*low), rest)
            }
            [b'\\', escaped, rest @ ..] if quote == b'"' => {
                let byte = match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                };
                (byte, rest)
            }
            [byte, rest @ ..] => (*byte, rest),
        };
        out.push(byte);
        text = rest;
    }
}

fn hex_digit(digit: u8) -> u8 {
    char::from(digit).to_digit(16).unwrap_or_default() as u8
}

enum NumberLine {
    Incomplete,
    TooLong,
    Malformed,
    Number { number: i64, bytes: usize },
}

/// Reads the number on the line that `text` starts with.
#[inline]
fn number_line(text: &[u8]) -> NumberLine {
    // Nearly every number has one or two digits, and its line is there.
    let digit = |byte: u8| i64::from(byte - b'0');
    match *text {
        [ones @ b'0'..=b'9', b'\r', b'\n', ..] => {
            NumberLine::Number { number: digit(ones), bytes: 3 }
        }
        [tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', b'\n', ..] => {
            NumberLine::Number { number: 10 * digit(tens) + digit(ones), bytes: 4 }
        }
        _ => any_number_line(text),
    }
}

fn any_number_line(text: &[u8]) -> NumberLine {
    let window = &text[..text.len().min(NUMBER_LINE_BYTES_MAX)];
    let Some(line_end) = window.iter().position(|&byte| byte == b'\n') else {
        return if text.len() < NUMBER_LINE_BYTES_MAX {
            NumberLine::Incomplete
        } else {
            NumberLine::TooLong
        };
    };
    match window[..line_end].strip_suffix(b"\r").and_then(parse_integer) {
        Some(number) => NumberLine::Number { number, bytes: line_end + 1 },
        None => NumberLine::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 100;

    /// What a parser made of a stream: requests, oversized ones, and the error it ended in.
    #[derive(Debug, Default, PartialEq, Eq, Clone)]
    struct Outcome {
        requests: Vec<Vec<Vec<u8>>>,
        too_large: Vec<(usize, TooLarge)>,
        error: Option<ProtocolError>,
        left: usize,
    }

    /// Feeds `stream` in pieces that end at `ends`, keeping unconsumed bytes as a driver does.
    fn run(stream: &[u8], ends: impl IntoIterator<Item = usize>) -> Outcome {
        let mut parser = RequestParser::default();
        let mut outcome = Outcome::default();
        let mut start = 0;
        let mut wanted = 0;
        for end in ends.into_iter().chain([stream.len()]) {
            if end < wanted {
                continue;
            }
            loop {
                let input = &stream[start..end];
                match parser.parse(input, LIMIT) {
                    Ok(Parsed::Incomplete { needed }) => {
                        assert!(needed > 0);
                        wanted = end + needed;
                        break;
                    }
                    Ok(Parsed::Request { consumed }) => {
                        let arguments = parser.arguments(input);
                        assert!(!arguments.is_empty());
                        outcome.requests.push(arguments.iter().map(<[u8]>::to_vec).collect());
                        start += consumed;
                    }
                    Ok(Parsed::Ignored { consumed } | Parsed::Skipped { consumed }) => {
                        assert!(consumed > 0);
                        start += consumed;
                    }
                    Ok(Parsed::TooLarge { consumed, reason }) => {
                        outcome.too_large.push((outcome.requests.len(), reason));
                        start += consumed;
                    }
                    Err(error) => {
                        outcome.error = Some(error);
                        return outcome;
                    }
                }
            }
        }
        outcome.left = stream.len() - start;
        outcome
    }

    fn whole(stream: &[u8]) -> Outcome {
        run(stream, [])
    }

    fn request(arguments: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        crate::resp::encode::request(&mut out, arguments);
        out
    }

    fn stream_of_everything() -> Vec<u8> {
        [
            request(&[b"GET", b"key"]),
            b"\r\n*0\r\n*-1\r\n*-10\r\n\n".to_vec(),
            b"SET a \"b \\x41\\n\"\r\n".to_vec(),
            request(&[b"SET", b"a\r\n\0b", b""]),
            request(&[b"SET", b"k", &[b'v'; LIMIT]]),
            request(&[b"SET", b"k", &[b'v'; LIMIT + 1], b"EX", b"1"]),
            b"  ping  \n".to_vec(),
            request(&[b"MGET", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8"]),
            request(&[&[b'x'; LIMIT * 3]]),
            b"get ''\n".to_vec(),
        ]
        .concat()
    }

    #[test]
    fn short_numbers_are_those_that_any_number_is() {
        let same = |text: &[u8]| match (number_line(text), any_number_line(text)) {
            (
                NumberLine::Number { number, bytes },
                NumberLine::Number { number: other, bytes: others },
            ) => (number, bytes) == (other, others),
            (NumberLine::Number { .. }, _) | (_, NumberLine::Number { .. }) => false,
            _ => true,
        };
        for first in 0..=u8::MAX {
            for second in 0..=u8::MAX {
                for rest in [&b"\r\n"[..], b"\n", b"\r", b"", b"0\r\n"] {
                    let text = [&[first, second], rest].concat();
                    assert!(same(&text) && same(&text[1..]), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn requests_are_found_in_order() {
        let outcome = whole(&stream_of_everything());
        assert_eq!(outcome.requests.len(), 7);
        assert_eq!(outcome.requests[1], [&b"SET"[..], b"a", b"b A\n"]);
        assert_eq!(outcome.requests[2], [&b"SET"[..], b"a\r\n\0b", b""]);
        assert_eq!(outcome.requests[6], [&b"get"[..], b""]);
        assert_eq!(
            outcome.too_large,
            [(4, TooLarge::Argument(LIMIT as u64 + 1)), (6, TooLarge::Argument(LIMIT as u64 * 3))]
        );
        assert_eq!((outcome.error, outcome.left), (None, 0));
    }

    #[test]
    fn split_input_gives_the_same_requests() {
        let stream = stream_of_everything();
        let expected = whole(&stream);
        for split in 0..stream.len() {
            assert_eq!(run(&stream, [split]), expected, "split at {split}");
        }
        for step in 1..9 {
            assert_eq!(run(&stream, (0..stream.len()).step_by(step)), expected, "by {step}");
        }
    }

    #[test]
    fn the_hint_never_asks_for_more_than_the_request_has() {
        let stream = request(&[b"SET", b"key", b"value"]);
        for cut in 0..stream.len() {
            match RequestParser::default().parse(&stream[..cut], LIMIT) {
                Ok(Parsed::Incomplete { needed }) => assert!(cut + needed <= stream.len()),
                other => panic!("cut at {cut}: {other:?}"),
            }
        }
    }

    #[test]
    fn malformed_input_is_refused_in_redis_words() {
        for (stream, message) in [
            ("*3000000000\r\n", "invalid multibulk length"),
            ("*1048577\r\n", "invalid multibulk length"),
            ("*99999999999999999999\r\n", "invalid multibulk length"),
            ("*+1\r\n", "invalid multibulk length"),
            ("* 1\r\n", "invalid multibulk length"),
            ("*1\n", "invalid multibulk length"),
            ("*blabla\r\n", "invalid multibulk length"),
            ("*1\r\n$-10\r\n", "invalid bulk length"),
            ("*1\r\n$2000000000\r\n", "invalid bulk length"),
            ("*1\r\n$blabla\r\n", "invalid bulk length"),
            ("*1\r\nfoo\r\n", "expected '$', got 'f'"),
            ("*1\r\n:1\r\n", "expected '$', got ':'"),
            ("*2\r\n*1\r\n", "expected '$', got '*'"),
            ("*1\r\n\r\n", "expected '$', got '\\x0d'"),
            ("*1\r\n$1\r\nab\r\n", "expected CRLF after a bulk string"),
            ("get \"foo\r\n", "unbalanced quotes in request"),
            ("get 'foo\r\n", "unbalanced quotes in request"),
            ("get \"foo\"bar\r\n", "unbalanced quotes in request"),
        ] {
            let expected = format!("Protocol error: {message}");
            let outcome = whole(stream.as_bytes());
            assert_eq!(outcome.error.map(|error| error.to_string()), Some(expected), "{stream:?}");
            assert_eq!(run(stream.as_bytes(), 0..stream.len()), outcome, "{stream:?} by bytes");
        }
    }

    #[test]
    fn endless_lines_are_refused() {
        let endless = vec![b'x'; INLINE_BYTES_MAX + 2];
        for (start, error) in [
            ("*", ProtocolError::MultibulkLine),
            ("*1\r\n$", ProtocolError::BulkLine),
            ("", ProtocolError::InlineTooBig),
            ("$", ProtocolError::InlineTooBig),
            ("\0", ProtocolError::InlineTooBig),
        ] {
            let stream = [start.as_bytes(), &endless].concat();
            assert_eq!(whole(&stream).error, Some(error), "{start:?}");
        }
    }

    #[test]
    fn an_inline_command_may_have_as_many_bytes_as_the_limit() {
        for (length, refused) in
            [(INLINE_BYTES_MAX - 1, false), (INLINE_BYTES_MAX, false), (INLINE_BYTES_MAX + 1, true)]
        {
            for line_end in ["\n", "\r\n"] {
                let stream = [vec![b'x'; length], line_end.as_bytes().to_vec()].concat();
                let outcome = whole(&stream);
                assert_eq!(outcome.error.is_some(), refused, "{length}");
                assert_eq!(run(&stream, [length, length + 1]), outcome);
            }
        }
    }

    #[test]
    fn a_request_may_have_as_many_arguments_as_the_limit() {
        let mut stream = format!("*{ARGUMENTS_MAX}\r\n").into_bytes();
        stream.extend(b"$0\r\n\r\n".repeat(ARGUMENTS_MAX));
        let outcome = whole(&stream);
        assert_eq!(outcome.requests.first().map(Vec::len), Some(ARGUMENTS_MAX));
        assert_eq!(
            whole(format!("*{}\r\n", ARGUMENTS_MAX + 1).as_bytes()).error,
            Some(ProtocolError::MultibulkLength)
        );
    }

    #[test]
    fn a_request_above_the_limit_of_all_its_arguments_is_skipped() {
        let value = vec![b'v'; 16 << 20];
        let stream = [
            request(&[b"MSET", b"a", &value, b"b", &value, b"c", &value, b"d", &value]),
            request(&[
                b"MSET", b"a", &value, b"b", &value, b"c", &value, b"d", &value, b"e", &value,
            ]),
            request(&[b"PING"]),
        ]
        .concat();
        let mut parser = RequestParser::default();
        let mut found = Vec::new();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let parsed = parser.parse(rest, value.len()).expect("valid input");
            let (Parsed::Request { consumed } | Parsed::TooLarge { consumed, .. }) = parsed else {
                panic!("{parsed:?}");
            };
            found.push(parsed);
            rest = &rest[consumed..];
        }
        assert!(matches!(
            found[..],
            [
                Parsed::Request { .. },
                Parsed::TooLarge { reason: TooLarge::Request, .. },
                Parsed::Request { .. }
            ]
        ));
    }

    #[test]
    fn announced_numbers_reserve_nothing() {
        let mut parser = RequestParser::default();
        let input = b"*1048576\r\n$3\r\nSET\r\n$104857600\r\n";
        assert!(matches!(parser.parse(input, 1 << 30), Ok(Parsed::Skipped { .. })));
        let mut parser = RequestParser::default();
        let input = b"*1048576\r\n$3\r\nSET\r\n$16777216\r\nabc";
        assert!(matches!(parser.parse(input, 16 << 20), Ok(Parsed::Incomplete { .. })));
        assert!(parser.spans.capacity() <= SPANS_KEPT);
    }

    #[test]
    fn a_large_value_byte_by_byte_is_looked_at_once() {
        let stream = request(&[b"SET", b"key", &vec![b'v'; 1 << 20]]);
        let mut parser = RequestParser::default();
        let mut calls = 0u32;
        let mut length = 0;
        loop {
            calls += 1;
            match parser.parse(&stream[..length], 1 << 20).expect("valid input") {
                Parsed::Incomplete { needed } => length += needed,
                Parsed::Request { consumed } => break assert_eq!(consumed, stream.len()),
                other => panic!("{other:?}"),
            }
            assert!(calls < 60, "the hint spares calls");
        }
    }

    #[test]
    fn random_bytes_never_panic_and_splits_agree() {
        let mut random = crate::seeded::Seeded::new("request parser, random bytes");
        let alphabet = b"**$$::0123456789-\r\n\r\n\r\n \"'\\xabGET\0\xff";
        for _ in 0..20_000 {
            let length = random.below(60);
            let stream: Vec<u8> =
                (0..length).map(|_| alphabet[random.below(alphabet.len())]).collect();
            let expected = whole(&stream);
            let split = random.below(length + 1);
            assert_eq!(run(&stream, [split]), expected, "{stream:?} split at {split}");
            assert_eq!(run(&stream, 0..stream.len()), expected, "{stream:?} by bytes");
        }
    }

    #[test]
    fn mutated_requests_never_panic_and_splits_agree() {
        let mut random = crate::seeded::Seeded::new("request parser, mutated requests");
        for _ in 0..5_000 {
            let mut stream = stream_of_everything();
            random.mutate(&mut stream);
            let expected = whole(&stream);
            let split = random.below(stream.len() + 1);
            assert_eq!(run(&stream, [split]), expected, "{stream:?} split at {split}");
        }
    }
}
