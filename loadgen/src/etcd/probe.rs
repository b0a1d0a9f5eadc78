//! Whether a server is there and speaks etcd's API: one read over a connection of its own.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Instant;

use bytes::Bytes;
use client::{Address, Answer};

use super::Streams;
use crate::connection::{Flight, Purpose};
use crate::options::Options;
use crate::run::{Error, PROBE_MAX};
use crate::wire::Wire;
use crate::workload::Kind;

/// What etcd says first where users need passwords.
const NO_USER: &str = "etcdserver: user name is empty";

/// Asks a server for a key.
///
/// # Errors
/// If it cannot be reached, does not answer like an etcd, or wants a password. A refusal is no
/// error: the run will tell.
pub(crate) fn probe(options: &Options, address: &Address) -> Result<(), Error> {
    let deadline = Instant::now() + PROBE_MAX;
    let unreachable = |source| Error::Connect { address: address.clone(), source };
    let stream = connect(address, deadline).map_err(unreachable)?;
    let answered = converse(stream, Streams::new(options, address), deadline);
    match answered {
        Ok(Some(text)) if text.contains(NO_USER) => {
            Err(Error::Protocol(format!("{address} wants a password: {text}")))
        }
        Ok(_) => Ok(()),
        Err(error) => {
            let text = format!("{address} does not answer in etcd's v3 API: {error}");
            Err(Error::Protocol(text))
        }
    }
}

fn connect(address: &Address, deadline: Instant) -> io::Result<TcpStream> {
    let mut latest = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for socket in (&*address.host, address.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&socket, left(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => latest = error,
        }
    }
    Err(latest)
}

/// The time that is left.
fn left(deadline: Instant) -> io::Result<std::time::Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Reads a key. Returns the words of a refusal, if it was refused.
fn converse(
    mut stream: TcpStream,
    mut wire: Streams,
    deadline: Instant,
) -> io::Result<Option<String>> {
    let broken = |broken| io::Error::other(format!("{broken:?}").to_lowercase());
    let (mut output, mut chunk, mut answered) = (Vec::new(), [0; 4096], None);
    wire.begin(0, &mut output)?;
    let purpose = Purpose::Operation(Kind::Read);
    let flight = Flight { intended_ns: 0, key: 0, purpose, redirects: 0, slot: 0 };
    wire.read(flight, Bytes::from_static(b"loadgen:probe"), 0);
    loop {
        wire.gather(&mut output).map_err(broken)?;
        stream.set_write_timeout(Some(left(deadline)?))?;
        stream.write_all(&output)?;
        output.clear();
        if let Some(refused) = answered {
            return Ok(refused);
        }
        stream.set_read_timeout(Some(left(deadline)?))?;
        let received = match stream.read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(received) => chunk.get(..received).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let take = |_, answer: Answer<'_>| {
            answered = Some(match answer {
                Answer::Refused(refusal) => {
                    Some(String::from_utf8_lossy(refusal.text).into_owned())
                }
                _ => None,
            });
        };
        wire.answers(received, 0, &mut 0, take).map_err(broken)?;
    }
}
