//! One connection to a server, and the two protocols that caches speak: RESP and memcached's text
//! protocol, no more of them than a look-aside cache needs.
//!
//! Everything blocks, with a deadline on each read and write. Replies are handed out where they
//! lie in the connection's buffer, which grows with the bytes that came and not with a length that
//! was announced.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::trace::{KEY_BYTES, KeyId};

/// Longest value or line that a reply may have, in bytes.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes asked of the system at a time.
const READ_BYTES: usize = 64 * 1024;

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2.
    Resp,
    /// memcached's text protocol.
    Memcached,
}

/// What a server answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// A value.
    Value(&'a [u8]),
    /// There is none.
    Missing,
    /// Anything else that is no error: the line without its end and mark.
    Line(&'a [u8]),
    /// An error: its line.
    Error(&'a [u8]),
}

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection broke, or nothing came within the deadline.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The server sent what is no reply.
    #[error("the server sent what is no reply: {0}")]
    Malformed(String),
}

impl Protocol {
    /// Appends a request for the value of a key.
    pub fn get(self, key: KeyId, into: &mut Vec<u8>) {
        let key = key.on_the_wire();
        match self {
            Protocol::Resp => into.extend_from_slice(b"*2\r\n$3\r\nGET\r\n$16\r\n"),
            Protocol::Memcached => into.extend_from_slice(b"get "),
        }
        into.extend_from_slice(&key);
        into.extend_from_slice(b"\r\n");
    }

    /// Appends a request to keep the value that belongs to a key, in `value_bytes` bytes.
    pub fn set(self, key: KeyId, value_bytes: usize, into: &mut Vec<u8>) {
        let name = key.on_the_wire();
        let head = match self {
            Protocol::Resp => format!("${value_bytes}\r\n"),
            Protocol::Memcached => format!(" 0 0 {value_bytes}\r\n"),
        };
        match self {
            Protocol::Resp => into.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$16\r\n"),
            Protocol::Memcached => into.extend_from_slice(b"set "),
        }
        into.extend_from_slice(&name);
        if self == Protocol::Resp {
            into.extend_from_slice(b"\r\n");
        }
        into.extend_from_slice(head.as_bytes());
        into.extend(name.iter().cycle().take(value_bytes));
        into.extend_from_slice(b"\r\n");
    }

    /// Appends a request to remove a key.
    pub fn delete(self, key: KeyId, into: &mut Vec<u8>) {
        match self {
            Protocol::Resp => into.extend_from_slice(b"*2\r\n$3\r\nDEL\r\n$16\r\n"),
            Protocol::Memcached => into.extend_from_slice(b"delete "),
        }
        into.extend_from_slice(&key.on_the_wire());
        into.extend_from_slice(b"\r\n");
    }

    /// The reply at the beginning of `bytes` with its length; `None` if it is not whole yet.
    fn parse(self, bytes: &[u8]) -> Result<Option<(Reply<'_>, usize)>, WireError> {
        let Some(end) = memchr::memchr(b'\n', bytes) else { return Ok(None) };
        let line = bytes[..end].strip_suffix(b"\r").ok_or_else(|| malformed(&bytes[..end]))?;
        let length = end + 1;
        match self {
            Protocol::Resp => match line.split_first() {
                Some((b'+' | b':', rest)) => Ok(Some((Reply::Line(rest), length))),
                Some((b'-', rest)) => Ok(Some((Reply::Error(rest), length))),
                Some((b'$', b"-1")) => Ok(Some((Reply::Missing, length))),
                Some((b'$', announced)) => with_value(bytes, length, announced, b"\r\n"),
                _ => Err(malformed(line)),
            },
            Protocol::Memcached => match line {
                b"END" => Ok(Some((Reply::Missing, length))),
                b"ERROR" => Ok(Some((Reply::Error(line), length))),
                _ if line.starts_with(b"SERVER_ERROR") || line.starts_with(b"CLIENT_ERROR") => {
                    Ok(Some((Reply::Error(line), length)))
                }
                _ if line.starts_with(b"VALUE ") => {
                    let announced = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
                    with_value(bytes, length, announced, b"\r\nEND\r\n")
                }
                _ => Ok(Some((Reply::Line(line), length))),
            },
        }
    }
}

/// The value of the announced length behind the line, if it and what ends it have come.
fn with_value<'a>(
    bytes: &'a [u8],
    line: usize,
    announced: &[u8],
    ending: &[u8],
) -> Result<Option<(Reply<'a>, usize)>, WireError> {
    let announced = std::str::from_utf8(announced).ok().and_then(|text| text.parse().ok());
    let value_bytes = announced
        .filter(|&announced: &usize| announced <= REPLY_BYTES_MAX)
        .ok_or_else(|| malformed(&bytes[..line]))?;
    let end = line + value_bytes;
    let Some(found) = bytes.get(end..end + ending.len()) else { return Ok(None) };
    match found == ending {
        true => Ok(Some((Reply::Value(&bytes[line..end]), end + ending.len()))),
        false => Err(malformed(found)),
    }
}

fn malformed(bytes: &[u8]) -> WireError {
    let shown = &bytes[..bytes.len().min(80)];
    WireError::Malformed(String::from_utf8_lossy(shown).escape_debug().to_string())
}

/// Whether `value` is what [`Protocol::set`] keeps under `key`.
pub fn belongs(value: &[u8], key: KeyId, value_bytes: usize) -> bool {
    let compared = value_bytes.min(KEY_BYTES);
    value.len() == value_bytes && value[..compared] == key.on_the_wire()[..compared]
}

/// A connection.
pub struct Connection {
    stream: TcpStream,
    protocol: Protocol,
    buffer: Vec<u8>,
    taken: usize,
}

impl Connection {
    /// Connects; `timeout` bounds this and every later read and write.
    ///
    /// # Errors
    /// If nobody answers there.
    pub fn open(
        address: SocketAddr,
        protocol: Protocol,
        timeout: Duration,
    ) -> Result<Connection, WireError> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Connection { stream, protocol, buffer: Vec::new(), taken: 0 })
    }

    /// Sends requests.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn send(&mut self, requests: &[u8]) -> Result<(), WireError> {
        Ok(self.stream.write_all(requests)?)
    }

    /// Waits for the next reply and gives it to `take`.
    ///
    /// # Errors
    /// If none comes.
    pub fn reply<R>(&mut self, take: impl FnOnce(Reply<'_>) -> R) -> Result<R, WireError> {
        loop {
            if let Some((reply, length)) = self.protocol.parse(&self.buffer[self.taken..])? {
                let result = take(reply);
                self.taken += length;
                return Ok(result);
            }
            self.receive()?;
        }
    }

    /// Sends a line and returns the text of the reply.
    ///
    /// # Errors
    /// If none comes.
    pub fn ask(&mut self, line: &str) -> Result<String, WireError> {
        self.send(format!("{line}\r\n").as_bytes())?;
        self.next_text()
    }

    /// The text of the next reply; empty if it says that there is none.
    ///
    /// # Errors
    /// If none comes.
    pub fn next_text(&mut self) -> Result<String, WireError> {
        self.reply(|reply| match reply {
            Reply::Value(text) | Reply::Line(text) | Reply::Error(text) => {
                String::from_utf8_lossy(text).into_owned()
            }
            Reply::Missing => String::new(),
        })
    }

    fn receive(&mut self) -> Result<(), WireError> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        if self.buffer.len() > REPLY_BYTES_MAX {
            return Err(malformed(&self.buffer));
        }
        let held = self.buffer.len();
        self.buffer.resize(held + READ_BYTES, 0);
        let received = self.stream.read(&mut self.buffer[held..]);
        self.buffer.truncate(held + received.as_ref().map_or(0, |received| *received));
        match received? {
            0 => Err(WireError::Io(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The replies in `bytes`, and how many bytes are left.
    fn replies(protocol: Protocol, mut bytes: &[u8]) -> (Vec<Reply<'_>>, usize) {
        let mut replies = Vec::new();
        while let Some((reply, length)) = protocol.parse(bytes).expect("replies") {
            replies.push(reply);
            bytes = &bytes[length..];
        }
        (replies, bytes.len())
    }

    #[test]
    fn replies_are_told_apart_and_an_incomplete_one_waits() {
        let resp = b"+OK\r\n$-1\r\n$3\r\na\r\n\r\n:7\r\n-ERR no\r\n$3\r\nab";
        let expected = [
            Reply::Line(b"OK"),
            Reply::Missing,
            Reply::Value(b"a\r\n"),
            Reply::Line(b"7"),
            Reply::Error(b"ERR no"),
        ];
        assert_eq!(replies(Protocol::Resp, resp), (expected.to_vec(), 6));
        let text =
            b"STORED\r\nEND\r\nVALUE k 0 3\r\nEND\r\nEND\r\nSERVER_ERROR out\r\nVALUE k 0 3\r\n";
        let expected = [
            Reply::Line(b"STORED"),
            Reply::Missing,
            Reply::Value(b"END"),
            Reply::Error(b"SERVER_ERROR out"),
        ];
        assert_eq!(replies(Protocol::Memcached, text), (expected.to_vec(), 13));
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        let wrong: [&[u8]; 6] =
            [b"?\r\n", b"$x\r\n", b"$99999999999\r\n", b"$1\r\nabc", b"\r\n", b"+OK\n"];
        for bytes in wrong {
            assert!(Protocol::Resp.parse(bytes).is_err(), "{bytes:?}");
        }
        for bytes in [&b"VALUE k 0 x\r\n"[..], b"VALUE k 0 1\r\naEND\r\n.."] {
            assert!(Protocol::Memcached.parse(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn requests_are_what_the_protocols_say() {
        let text = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = Vec::new();
            write(&mut bytes);
            String::from_utf8(bytes).expect("text")
        };
        let key = KeyId(7);
        let name = String::from_utf8(key.on_the_wire().to_vec()).expect("text");
        let value = format!("{name}{}", &name[..4]);
        let [resp, memcached] = [Protocol::Resp, Protocol::Memcached];
        assert_eq!(text(&|b| resp.get(key, b)), format!("*2\r\n$3\r\nGET\r\n$16\r\n{name}\r\n"));
        let set = format!("*3\r\n$3\r\nSET\r\n$16\r\n{name}\r\n$20\r\n{value}\r\n");
        assert_eq!(text(&|b| resp.set(key, 20, b)), set);
        assert_eq!(text(&|b| resp.delete(key, b)), format!("*2\r\n$3\r\nDEL\r\n$16\r\n{name}\r\n"));
        assert_eq!(text(&|b| memcached.get(key, b)), format!("get {name}\r\n"));
        assert_eq!(
            text(&|b| memcached.set(key, 20, b)),
            format!("set {name} 0 0 20\r\n{value}\r\n")
        );
        assert_eq!(text(&|b| memcached.delete(key, b)), format!("delete {name}\r\n"));
        assert!(belongs(value.as_bytes(), key, 20) && !belongs(value.as_bytes(), KeyId(8), 20));
        assert!(!belongs(name.as_bytes(), key, 20));
    }
}
