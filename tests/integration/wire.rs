//! Small blocking clients, written against the protocols' documents and not against our codecs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A RESP value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Value>),
}

impl Value {
    pub fn is_ok(&self) -> bool {
        *self == Value::Simple("OK".into())
    }

    pub fn array(&self) -> &[Value] {
        match self {
            Value::Array(items) => items,
            other => panic!("not an array: {other:?}"),
        }
    }

    pub fn integer(&self) -> i64 {
        match self {
            Value::Integer(number) => *number,
            other => panic!("not an integer: {other:?}"),
        }
    }

    pub fn text(&self) -> String {
        match self {
            Value::Simple(text) => text.clone(),
            Value::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("not a text: {other:?}"),
        }
    }
}

/// A connection on which nothing takes longer than `deadline`.
pub fn connect(address: SocketAddr, deadline: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(deadline))?;
    stream.set_write_timeout(Some(deadline))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A RESP2 connection.
pub struct Resp {
    stream: BufReader<TcpStream>,
}

impl Resp {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        connect(address, Duration::from_secs(10)).map(Self::over)
    }

    /// Over a connection that is there already.
    pub fn over(stream: TcpStream) -> Self {
        Resp { stream: BufReader::new(stream) }
    }

    pub fn encode(arguments: &[&[u8]]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
            bytes.extend_from_slice(argument);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    pub fn call(&mut self, arguments: &[&[u8]]) -> io::Result<Value> {
        self.send(&Self::encode(arguments))?;
        self.receive()
    }

    pub fn command(&mut self, line: &str) -> Value {
        let arguments: Vec<_> = line.split(' ').map(str::as_bytes).collect();
        self.call(&arguments).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches("\r\n").to_owned())
    }

    pub fn receive(&mut self) -> io::Result<Value> {
        let line = self.line()?;
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, line.clone());
        let (kind, rest) = line.split_at_checked(1).ok_or_else(malformed)?;
        Ok(match kind {
            "+" => Value::Simple(rest.to_owned()),
            "-" => Value::Error(rest.to_owned()),
            ":" => Value::Integer(rest.parse().map_err(|_| malformed())?),
            "$" if rest == "-1" => Value::Nil,
            "$" => {
                let length: usize = rest.parse().map_err(|_| malformed())?;
                let mut bytes = vec![0; length + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(length);
                Value::Bulk(bytes)
            }
            "*" if rest == "-1" => Value::Nil,
            "*" => {
                let length: usize = rest.parse().map_err(|_| malformed())?;
                Value::Array((0..length).map(|_| self.receive()).collect::<io::Result<_>>()?)
            }
            _ => return Err(malformed()),
        })
    }
}

/// A frame of memcached's binary protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct BinaryReply {
    pub opcode: u8,
    pub status: u16,
    pub opaque: u32,
    pub cas: u64,
    pub extras: Vec<u8>,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

/// Encodes a request of memcached's binary protocol.
pub fn binary_request(opcode: u8, opaque: u32, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    binary_request_with_cas(opcode, opaque, 0, extras, key, value)
}

/// The same, insisting on a version.
pub fn binary_request_with_cas(
    opcode: u8,
    opaque: u32,
    cas: u64,
    extras: &[u8],
    key: &[u8],
    value: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![0x80, opcode];
    bytes.extend_from_slice(&(key.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&[extras.len() as u8, 0, 0, 0]);
    let body = (extras.len() + key.len() + value.len()) as u32;
    bytes.extend_from_slice(&body.to_be_bytes());
    bytes.extend_from_slice(&opaque.to_be_bytes());
    bytes.extend_from_slice(&cas.to_be_bytes());
    for part in [extras, key, value] {
        bytes.extend_from_slice(part);
    }
    bytes
}

/// Reads one response of memcached's binary protocol.
pub fn read_binary(stream: &mut impl Read) -> io::Result<BinaryReply> {
    let mut header = [0; 24];
    stream.read_exact(&mut header)?;
    if header[0] != 0x81 {
        let text = format!("not a response: {header:?}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let key_length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let extras_length = usize::from(header[4]);
    let body_length = u32::from_be_bytes([header[8], header[9], header[10], header[11]]) as usize;
    let mut body = vec![0; body_length];
    stream.read_exact(&mut body)?;
    let value = body.split_off(extras_length + key_length);
    let key = body.split_off(extras_length);
    Ok(BinaryReply {
        opcode: header[1],
        status: u16::from_be_bytes([header[6], header[7]]),
        opaque: u32::from_be_bytes([header[12], header[13], header[14], header[15]]),
        cas: u64::from_be_bytes(header[16..24].try_into().expect("eight bytes")),
        extras: body,
        key,
        value,
    })
}
