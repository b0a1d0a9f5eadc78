//! Writes replies, each appended to a buffer of the caller.
//!
//! Where the versions differ, the functions take the version and write what a client of that
//! version expects: a RESP2 client gets a map as a flat array, a double as a bulk string, and so
//! on. Aggregates are written as a header with the number of elements; the elements follow as
//! calls of their own, and the caller sees to it that the number holds.

use super::Version;

/// A simple string. `text` must hold no line end.
pub fn simple(out: &mut Vec<u8>, text: &str) {
    debug_assert!(!text.contains(['\r', '\n']));
    out.push(b'+');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// `+OK`.
pub fn ok(out: &mut Vec<u8>) {
    out.extend_from_slice(b"+OK\r\n");
}

/// An error. `text` begins with its code ("ERR ..."); line ends in it, which may stem from a
/// client, become blanks.
pub fn error(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'-');
    out.extend(text.iter().map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
    out.extend_from_slice(b"\r\n");
}

/// An integer.
pub fn integer(out: &mut Vec<u8>, number: i64) {
    if (0..10).contains(&number) {
        out.extend_from_slice(&[b':', b'0' + number as u8, b'\r', b'\n']);
        return;
    }
    out.push(b':');
    decimal(out, number);
    out.extend_from_slice(b"\r\n");
}

/// A bulk string: any bytes.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len() + 16);
    header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// No value.
pub fn nil(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(match version {
        Version::Resp2 => b"$-1\r\n",
        Version::Resp3 => b"_\r\n",
    });
}

/// No array, where a command's reply otherwise is one.
pub fn nil_array(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(match version {
        Version::Resp2 => b"*-1\r\n",
        Version::Resp3 => b"_\r\n",
    });
}

/// The header of an array of `length` elements.
pub fn array(out: &mut Vec<u8>, length: usize) {
    header(out, b'*', length);
}

/// The header of a map of `pairs` keys and values.
pub fn map(out: &mut Vec<u8>, version: Version, pairs: usize) {
    match version {
        Version::Resp2 => header(out, b'*', pairs * 2),
        Version::Resp3 => header(out, b'%', pairs),
    }
}

/// The header of a set of `length` elements.
pub fn set(out: &mut Vec<u8>, version: Version, length: usize) {
    match version {
        Version::Resp2 => header(out, b'*', length),
        Version::Resp3 => header(out, b'~', length),
    }
}

/// The header of a message that answers no request. RESP2 has only arrays for it.
pub fn push(out: &mut Vec<u8>, version: Version, length: usize) {
    match version {
        Version::Resp2 => header(out, b'*', length),
        Version::Resp3 => header(out, b'>', length),
    }
}

/// A truth value; RESP2 clients get 1 or 0.
pub fn boolean(out: &mut Vec<u8>, version: Version, value: bool) {
    out.extend_from_slice(match (version, value) {
        (Version::Resp2, false) => b":0\r\n",
        (Version::Resp2, true) => b":1\r\n",
        (Version::Resp3, false) => b"#f\r\n",
        (Version::Resp3, true) => b"#t\r\n",
    });
}

/// A floating-point number; RESP2 clients get its text as a bulk string.
pub fn double(out: &mut Vec<u8>, version: Version, number: f64) {
    let text = if number.is_nan() {
        "nan".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "inf".to_owned() } else { "-inf".to_owned() }
    } else {
        number.to_string()
    };
    match version {
        Version::Resp2 => bulk(out, text.as_bytes()),
        Version::Resp3 => {
            out.push(b',');
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Text for people, as `INFO` answers with it; RESP2 clients get a bulk string.
pub fn verbatim(out: &mut Vec<u8>, version: Version, text: &[u8]) {
    match version {
        Version::Resp2 => bulk(out, text),
        Version::Resp3 => {
            header(out, b'=', text.len() + 4);
            out.extend_from_slice(b"txt:");
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Appends `number` in decimal.
pub fn decimal(out: &mut Vec<u8>, number: i64) {
    if number < 0 {
        out.push(b'-');
    }
    decimal_unsigned(out, number.unsigned_abs());
}

/// Appends `number` in decimal.
pub fn decimal_unsigned(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

fn header(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.push(kind);
    decimal_unsigned(out, length as u64);
    out.extend_from_slice(b"\r\n");
}

/// A request as clients send it: an array of bulk strings.
pub fn request(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    array(out, arguments.len());
    for argument in arguments {
        bulk(out, argument);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn integers_are_written_in_full() {
        for number in [0, 7, 9, 10, -1, 12_345, i64::MAX, i64::MIN] {
            assert_eq!(written(|out| integer(out, number)), format!(":{number}\r\n"));
        }
        assert_eq!(written(|out| decimal_unsigned(out, u64::MAX)), u64::MAX.to_string());
    }

    #[test]
    fn each_version_gets_its_own_types() {
        use Version::{Resp2, Resp3};
        type Write = fn(&mut Vec<u8>, Version);
        let cases: [(Write, &str, &str); 10] = [
            (nil, "$-1\r\n", "_\r\n"),
            (nil_array, "*-1\r\n", "_\r\n"),
            (|out, version| map(out, version, 2), "*4\r\n", "%2\r\n"),
            (|out, version| set(out, version, 2), "*2\r\n", "~2\r\n"),
            (|out, version| push(out, version, 3), "*3\r\n", ">3\r\n"),
            (|out, version| boolean(out, version, true), ":1\r\n", "#t\r\n"),
            (|out, version| boolean(out, version, false), ":0\r\n", "#f\r\n"),
            (|out, version| double(out, version, 1.5), "$3\r\n1.5\r\n", ",1.5\r\n"),
            (|out, version| double(out, version, f64::NEG_INFINITY), "$4\r\n-inf\r\n", ",-inf\r\n"),
            (|out, version| verbatim(out, version, b"a"), "$1\r\na\r\n", "=5\r\ntxt:a\r\n"),
        ];
        for (write, resp2, resp3) in cases {
            assert_eq!(written(|out| write(out, Resp2)), resp2);
            assert_eq!(written(|out| write(out, Resp3)), resp3);
        }
    }

    #[test]
    fn an_error_stays_one_line() {
        assert_eq!(written(|out| error(out, b"ERR a\r\nb")), "-ERR a  b\r\n");
    }
}
