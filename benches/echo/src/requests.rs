//! Where the requests in received bytes end, and what each is answered with.
//!
//! Requests are arrays of bulk strings (RESP). Of each only the lengths are read and the name of
//! the command; keys and values are passed over. Anything else than an array of bulk strings is
//! malformed, inline commands included: no load generator sends them.
//!
//! Invariants: nothing is allocated by an announced length, and no announced length makes a number
//! overflow.

/// A bulk string may be announced with so many bytes, and a request with so many strings.
const NUMBER_MAX: usize = 1 << 20;

/// What was sent is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What every request is answered with.
#[derive(Debug)]
pub struct Answers {
    value: Vec<u8>,
}

impl Answers {
    /// Answers in which every value has so many bytes.
    pub fn new(value_bytes: usize) -> Self {
        let mut value = format!("${value_bytes}\r\n").into_bytes();
        value.resize(value.len() + value_bytes, b'v');
        value.extend_from_slice(b"\r\n");
        Answers { value }
    }

    /// Appends an answer for each whole request in `bytes` to `out`. Returns how many bytes they
    /// take up together.
    ///
    /// # Errors
    /// If what follows the last whole request is not the beginning of one. The answers before are
    /// appended nevertheless.
    pub fn answer(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, Malformed> {
        let mut used = 0;
        while let Some((name, end)) = request(bytes, used)? {
            out.extend_from_slice(self.answer_to(name));
            used = end;
        }
        Ok(used)
    }

    fn answer_to(&self, name: &[u8]) -> &[u8] {
        if name.eq_ignore_ascii_case(b"GET") {
            &self.value
        } else if name.eq_ignore_ascii_case(b"SET") {
            b"+OK\r\n"
        } else if name.eq_ignore_ascii_case(b"PING") {
            b"+PONG\r\n"
        } else {
            b"-ERR unknown command\r\n"
        }
    }
}

/// The name of the command that begins at `start`, and where the request ends; `None` if its end
/// has not come.
fn request(bytes: &[u8], start: usize) -> Result<Option<(&[u8], usize)>, Malformed> {
    let Some((strings, mut end)) = announced(bytes, start, b'*')? else { return Ok(None) };
    let mut name = None;
    for _ in 0..strings {
        let Some((length, begin)) = announced(bytes, end, b'$')? else { return Ok(None) };
        end = begin + length + 2;
        if end > bytes.len() {
            return Ok(None);
        }
        name.get_or_insert(&bytes[begin..begin + length]);
    }
    name.map(|name| Some((name, end))).ok_or(Malformed)
}

/// The number of a line that begins with `marker`, and where the line ends; `None` if its end has
/// not come.
fn announced(bytes: &[u8], start: usize, marker: u8) -> Result<Option<(usize, usize)>, Malformed> {
    match bytes.get(start) {
        None => return Ok(None),
        Some(&byte) if byte != marker => return Err(Malformed),
        Some(_) => {}
    }
    let (mut number, mut place) = (0, start + 1);
    loop {
        match bytes.get(place) {
            None => return Ok(None),
            Some(&digit @ b'0'..=b'9') => number = number * 10 + usize::from(digit - b'0'),
            Some(b'\r') if place > start + 1 => break,
            Some(_) => return Err(Malformed),
        }
        if number > NUMBER_MAX {
            return Err(Malformed);
        }
        place += 1;
    }
    match bytes.get(place + 1) {
        None => Ok(None),
        Some(b'\n') => Ok(Some((number, place + 2))),
        Some(_) => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_request_is_malformed_and_what_has_not_come_is_not() {
        let answers = Answers::new(3);
        let answer = |bytes: &[u8]| answers.answer(bytes, &mut Vec::new());
        let whole = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
        for end in 0..whole.len() {
            assert_eq!(answer(&whole[..end]), Ok(0), "{end} bytes");
        }
        assert_eq!(answer(whole), Ok(whole.len()));
        let malformed: [&[u8]; 9] = [
            b"GET k\r\n",
            b"*\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"*1\rx",
            b"*1\r\n:3\r\n",
            b"*1\r\n$-1\r\n",
            b"*1\r\n$99999999999999999999999",
            b"\x80\x00",
        ];
        for bytes in malformed {
            assert_eq!(answer(bytes), Err(Malformed), "{}", bytes.escape_ascii());
        }
        assert_eq!(answer(b"*1048576\r\n$1048576\r\n"), Ok(0), "the longest that may be announced");
        assert_eq!(answer(b"*1048577\r\n"), Err(Malformed));
    }
}
