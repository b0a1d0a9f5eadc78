//! Fetches the cluster map: the resolver.
//!
//! Each fetch uses a connection of its own, made for it and closed after it. The connections
//! that carry requests may be stuck behind the very server whose loss made the map out of date,
//! and fetches are rare: callers limit their rate.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use proto::resp::reply::{Scanned, Scanner};

use crate::address::Address;
use crate::channel::ANSWER_BYTES_MAX;
use crate::cluster_map::{ClusterMap, MapError};
use crate::error::{Class, Error};
use crate::picker::ReadFrom;
use crate::wire::CLUSTER_SLOTS;

/// How long one server may take to give its map before the next one is asked.
const TRY_MAX: Duration = Duration::from_millis(500);

/// Asks the servers in turn, from the one after `turn` on, until one gives a map that covers at
/// least one slot, or the deadline passes. `turn` ends at the server that answered. Servers list
/// replicas to those who want to read from them.
///
/// # Errors
/// The reason of the server that failed last.
///
/// # Panics
/// Never; without servers the error says so.
pub fn fetch_map(
    servers: &[Address],
    turn: &mut usize,
    read_from: ReadFrom,
    deadline: Instant,
) -> Result<ClusterMap, Error> {
    let mut last = Error::Invalid("no server to ask for the cluster map".into());
    for _ in 0..servers.len() {
        *turn = (*turn + 1) % servers.len();
        let Some(address) = servers.get(*turn) else { continue };
        let now = Instant::now();
        if now >= deadline {
            break;
        }
        match fetch_map_from(address, read_from, deadline.min(now + TRY_MAX)) {
            Ok(map) if map.servers().is_empty() => {
                let text = format!("{address} knows no server of any slot");
                last = Error::Refused { class: Class::NotDone, text };
            }
            Ok(map) => return Ok(map),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Asks one server.
fn fetch_map_from(
    address: &Address,
    read_from: ReadFrom,
    deadline: Instant,
) -> Result<ClusterMap, Error> {
    let mut requests = read_from.greeting().map(<[u8]>::to_vec).unwrap_or_default();
    requests.extend_from_slice(CLUSTER_SLOTS);
    let greetings = usize::from(read_from.greeting().is_some());
    let reply = converse(address, &requests, greetings, deadline)
        .map_err(|source| Error::Connect { address: address.clone(), source })?;
    ClusterMap::from_slots_reply(&reply, address).map_err(|error| match error {
        MapError::Refused(text) => Error::Refused { class: Class::NotDone, text },
        other => Error::Protocol { reason: other.to_string(), class: Class::NotDone },
    })
}

/// Sends one RESP request over a connection of its own and returns the whole reply.
///
/// # Errors
/// If there is no whole reply by the deadline, or what comes is no RESP.
pub fn round_trip(address: &Address, request: &[u8], deadline: Instant) -> io::Result<Vec<u8>> {
    converse(address, request, 0, deadline)
}

/// Sends RESP requests over a connection of their own and returns the reply to the last one, after
/// `skipped` others.
fn converse(
    address: &Address,
    requests: &[u8],
    mut skipped: usize,
    deadline: Instant,
) -> io::Result<Vec<u8>> {
    let left = || {
        deadline
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
            .ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))
    };
    let mut stream = TcpStream::connect_timeout(&address.resolve()?, left()?)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(requests)?;
    let mut reply = Vec::new();
    let mut scanner = Scanner::default();
    let mut chunk = [0; 16 << 10];
    loop {
        stream.set_read_timeout(Some(left()?))?;
        let received = match stream.read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // What a passed timeout is called differs between systems.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        };
        reply.extend_from_slice(chunk.get(..received).unwrap_or_default());
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        loop {
            match scanner.scan(&reply).map_err(invalid)? {
                Scanned::Reply { consumed, .. } if skipped > 0 => {
                    skipped -= 1;
                    reply.drain(..consumed);
                    scanner = Scanner::default();
                }
                Scanned::Reply { consumed, .. } => {
                    reply.truncate(consumed);
                    return Ok(reply);
                }
                Scanned::Incomplete { .. } if reply.len() > ANSWER_BYTES_MAX => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the reply is too long",
                    ));
                }
                Scanned::Incomplete { .. } => break,
            }
        }
    }
}
