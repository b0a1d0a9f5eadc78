//! What a client asks, over either protocol, and what the answer is worth.
//!
//! An answer is sorted by docs/protocol.md and by nothing else: a write that was answered as *not
//! done* is left out of the history, so that the checker finds out if it was done after all.

use std::io::{self, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use history::register::{Condition, Input, Output, Status, UNTOLD, Value};

use crate::wire::{self, BinaryReply, Resp};

/// How long a client waits for an answer: more than twice what a request may wait in a server, so
/// that only a stopped or dead one makes it wait in vain.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// Which protocol a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2.
    Resp,
    /// Memcached's binary protocol.
    Binary,
}

/// What came back.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It was carried out, with this outcome.
    Done(Output),
    /// It was not and will not be, for a reason of this class.
    NotDone(String),
    /// Somebody else leads: certainly not done.
    Moved(SocketAddr),
    /// Nobody knows.
    Unknown(String),
    /// No answer within the deadline; nobody knows.
    Late,
    /// The protocol has no such answer.
    Unexpected(String),
}

/// An open connection with nothing under way.
pub enum Connection {
    /// RESP2.
    Resp(Resp),
    /// Memcached's binary protocol, and the number of the last request.
    Binary(BufReader<TcpStream>, u32),
}

impl Connection {
    /// Connects.
    pub fn open(protocol: Protocol, address: SocketAddr) -> io::Result<Self> {
        let stream = wire::connect(address, ANSWER_DEADLINE)?;
        Ok(match protocol {
            Protocol::Resp => Connection::Resp(Resp::over(stream)),
            Protocol::Binary => Connection::Binary(BufReader::new(stream), 0),
        })
    }

    /// Lets replicas answer reads on this connection; they must be as fresh as any.
    pub fn let_replicas_answer(&mut self) -> io::Result<()> {
        let Connection::Resp(resp) = self else { return Err(io::ErrorKind::Unsupported.into()) };
        match resp.call(&[b"READONLY"])? {
            reply if reply.is_ok() => Ok(()),
            other => Err(io::Error::other(format!("READONLY was answered by {other:?}"))),
        }
    }

    /// Asks, and waits for the answer. After `Unknown`, `Late` and `Unexpected` the connection must
    /// not be used again.
    pub fn ask(&mut self, key: &str, input: &Input) -> Answer {
        let outcome = match self {
            Connection::Resp(resp) => ask_resp(resp, key, input),
            Connection::Binary(stream, number) => {
                *number += 1;
                ask_binary(stream, *number, key, input)
            }
        };
        outcome.unwrap_or_else(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Answer::Late,
            io::ErrorKind::InvalidData => Answer::Unexpected(error.to_string()),
            _ => Answer::Unknown("connection".into()),
        })
    }
}

fn done(status: Status, value: Option<Value>, number: u64) -> Answer {
    Answer::Done(Output { status, version: UNTOLD, value, number })
}

fn ask_resp(resp: &mut Resp, key: &str, input: &Input) -> io::Result<Answer> {
    let key = key.as_bytes();
    let delta;
    let padded;
    let arguments: Vec<&[u8]> = match input {
        Input::Get => vec![b"GET", key],
        Input::Set { value, condition, return_old, .. } => {
            padded = pad(value);
            let mut arguments: Vec<&[u8]> = vec![b"SET", key, &padded];
            match condition {
                Condition::Always => {}
                Condition::IfAbsent => arguments.push(b"NX"),
                Condition::IfPresent => arguments.push(b"XX"),
                Condition::IfVersion(_) => return Ok(Answer::NotDone("no such command".into())),
            }
            if *return_old {
                arguments.push(b"GET");
            }
            arguments
        }
        Input::Increment(by) => {
            delta = by.to_string();
            vec![b"INCRBY", key, delta.as_bytes()]
        }
        Input::Append(tail) => vec![b"APPEND", key, tail],
        Input::Delete { return_old: false } => vec![b"DEL", key],
        Input::Delete { return_old: true } => vec![b"GETDEL", key],
    };
    let reply = resp.call(&arguments)?;
    Ok(read_resp(input, reply))
}

fn read_resp(input: &Input, reply: wire::Value) -> Answer {
    use wire::Value::{Bulk, Error, Integer, Nil, Simple};
    let value = |bytes: &Vec<u8>| Some(unpad(bytes));
    match (input, &reply) {
        (_, Error(text)) => read_error(input, text),
        (Input::Get, Bulk(bytes)) => done(Status::Ok, value(bytes), 0),
        (Input::Get, Nil) => done(Status::NotFound, None, 0),
        (Input::Set { return_old: true, .. }, Bulk(bytes)) => {
            done(Status::Ok, value(bytes), UNTOLD)
        }
        (Input::Set { return_old: true, .. }, Nil) => done(Status::Ok, None, UNTOLD),
        (Input::Set { .. }, Simple(text)) if text == "OK" => done(Status::Ok, None, UNTOLD),
        (Input::Set { condition: Condition::IfAbsent, .. }, Nil) => done(Status::Exists, None, 0),
        (Input::Set { condition: Condition::IfPresent, .. }, Nil) => {
            done(Status::NotFound, None, 0)
        }
        (Input::Increment(_) | Input::Append(_), Integer(number)) => {
            done(Status::Ok, None, *number as u64)
        }
        (Input::Delete { return_old: false }, Integer(1)) => done(Status::Ok, None, 0),
        (Input::Delete { return_old: false }, Integer(0)) => done(Status::NotFound, None, 0),
        (Input::Delete { return_old: true }, Bulk(bytes)) => done(Status::Ok, value(bytes), 0),
        (Input::Delete { return_old: true }, Nil) => done(Status::NotFound, None, 0),
        _ => Answer::Unexpected(format!("{input:?} was answered by {reply:?}")),
    }
}

fn read_error(input: &Input, text: &str) -> Answer {
    let code = text.split(' ').next().unwrap_or_default();
    match code {
        "MOVED" => match text.split(' ').nth(2).and_then(|address| address.parse().ok()) {
            Some(address) => Answer::Moved(address),
            None => Answer::Unexpected(text.to_owned()),
        },
        "TRYAGAIN" | "CLUSTERDOWN" | "LOADING" | "OOM" => Answer::NotDone(code.to_owned()),
        "UNKNOWN" => Answer::Unknown(code.to_owned()),
        "ERR" if matches!(input, Input::Increment(_)) && text.contains("not an integer") => {
            done(Status::NotANumber, None, 0)
        }
        _ => Answer::Unexpected(text.to_owned()),
    }
}

const GET: u8 = 0x00;
const SET: u8 = 0x01;
const ADD: u8 = 0x02;
const REPLACE: u8 = 0x03;
const DELETE: u8 = 0x04;
const INCREMENT: u8 = 0x05;

fn ask_binary(
    stream: &mut BufReader<TcpStream>,
    number: u32,
    key: &str,
    input: &Input,
) -> io::Result<Answer> {
    let key = key.as_bytes();
    let request = |opcode, cas, extras: &[u8], value: &[u8]| {
        wire::binary_request_with_cas(opcode, number, cas, extras, key, value)
    };
    let bytes = match input {
        Input::Get => request(GET, 0, &[], &[]),
        Input::Set { value, condition, return_old: false, .. } => {
            let value = pad(value);
            match condition {
                Condition::Always => request(SET, 0, &[0; 8], &value),
                Condition::IfAbsent => request(ADD, 0, &[0; 8], &value),
                Condition::IfPresent => request(REPLACE, 0, &[0; 8], &value),
                Condition::IfVersion(version) => request(SET, *version, &[0; 8], &value),
            }
        }
        Input::Increment(by) => {
            let by = by.to_be_bytes();
            request(INCREMENT, 0, &[&by[..], &by[..], &[0; 4]].concat(), &[])
        }
        Input::Delete { return_old: false } => request(DELETE, 0, &[], &[]),
        Input::Set { .. } | Input::Append(_) | Input::Delete { .. } => {
            return Ok(Answer::NotDone("no such command".into()));
        }
    };
    stream.get_mut().write_all(&bytes)?;
    let reply = wire::read_binary(stream)?;
    if reply.opaque != number || reply.opcode != bytes[1] {
        let text = format!("request {number} of opcode {} was answered by {reply:?}", bytes[1]);
        return Ok(Answer::Unexpected(text));
    }
    Ok(read_binary_reply(input, &reply))
}

fn read_binary_reply(input: &Input, reply: &BinaryReply) -> Answer {
    let told =
        |status, value, number| Answer::Done(Output { status, version: reply.cas, value, number });
    match (reply.status, input) {
        (0x00, Input::Get) => told(Status::Ok, Some(unpad(&reply.value)), 0),
        (0x00, Input::Set { .. }) => told(Status::Ok, None, UNTOLD),
        (0x00, Input::Increment(_)) => match reply.value[..].try_into() {
            Ok(counter) => told(Status::Ok, None, u64::from_be_bytes(counter)),
            Err(_) => Answer::Unexpected(format!("{reply:?}")),
        },
        (0x00, Input::Delete { .. }) => done(Status::Ok, None, 0),
        (0x01, Input::Get | Input::Delete { .. }) => done(Status::NotFound, None, 0),
        (0x01, Input::Set { condition: Condition::IfPresent | Condition::IfVersion(_), .. }) => {
            done(Status::NotFound, None, 0)
        }
        (0x02, Input::Set { condition: Condition::IfAbsent, .. }) => done(Status::Exists, None, 0),
        (0x02, Input::Set { condition: Condition::IfVersion(_), .. }) => {
            done(Status::ConditionFailed, None, 0)
        }
        (0x06, Input::Increment(_)) => done(Status::NotANumber, None, 0),
        (0x85, _) => Answer::NotDone("busy".into()),
        (0x86, _) => Answer::NotDone("temporary failure".into()),
        (0xa3, _) => Answer::Unknown("0xa3".into()),
        _ => Answer::Unexpected(format!("{input:?} was answered by {reply:?}")),
    }
}

/// The bytes that stand for a value on the wire. A value `name:length:` is followed by so many
/// bytes that can be told from all others, so that histories stay small while values do not.
fn pad(value: &[u8]) -> Vec<u8> {
    let mut bytes = value.to_vec();
    let length = padding_length(value).map_or(0, |(_, length)| length);
    bytes.extend(padding(value).take(length));
    bytes
}

/// The value that stands for bytes of the wire: themselves, unless their padding is as it must be.
fn unpad(bytes: &[u8]) -> Value {
    if let Some((head, length)) = padding_length(bytes)
        && bytes.len().checked_sub(head) == Some(length)
        && bytes[head..].iter().copied().eq(padding(&bytes[..head]).take(length))
    {
        return bytes[..head].into();
    }
    bytes.into()
}

/// Length of the part before the padding, and of the padding.
fn padding_length(bytes: &[u8]) -> Option<(usize, usize)> {
    let first = bytes.iter().position(|&byte| byte == b':')?;
    let second = first + 1 + bytes[first + 1..].iter().position(|&byte| byte == b':')?;
    let length = std::str::from_utf8(&bytes[first + 1..second]).ok()?.parse().ok()?;
    Some((second + 1, length))
}

fn padding(head: &[u8]) -> impl Iterator<Item = u8> {
    let salt = head.iter().fold(0u64, |salt, &byte| salt.wrapping_mul(31) + u64::from(byte));
    (0u64..).map(move |place| (salt.wrapping_add(place).wrapping_mul(0x9e37_79b9) >> 24) as u8)
}
