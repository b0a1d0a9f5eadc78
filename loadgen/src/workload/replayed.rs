//! The bytes of a trace's requests.
//!
//! Keys, sizes and times to live differ from request to request, so nothing can be laid out once as
//! for drawn ones; but nothing is allocated here, either. A request is known by its position in the
//! trace. Values derive from the bytes of the key: what one run has written, another can verify,
//! whatever trace it came from and whatever its length.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use client::{Protocol, ReadFrom};

use super::{GET_OPCODE, HEADER_BYTES, Kind, SET_OPCODE};
use crate::trace::{Record, Trace, key_hash};
use crate::values::{ValueSize, Values};

const DELETE_OPCODE: u8 = 0x04;
/// Longest expiration that the binary protocol takes as a span; larger numbers are dates.
const RELATIVE_SECONDS_MAX: u32 = 30 * 24 * 60 * 60;

/// Encodes the requests of a trace.
#[derive(Clone, Debug)]
pub(super) struct Replayed {
    trace: Arc<Trace>,
    values: Values,
    protocol: Protocol,
    read_from: ReadFrom,
    /// The time of day at the start, in seconds, for what lives longer than a span may be.
    started_s: u64,
}

impl Replayed {
    /// For connections of one protocol.
    pub fn new(trace: Arc<Trace>, protocol: Protocol, read_from: ReadFrom) -> Replayed {
        let values = Values::new(ValueSize { min: 0, max: trace.sizes().max });
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Replayed { trace, values, protocol, read_from, started_s: since.as_secs() }
    }

    /// The slot of the key at a position.
    pub fn slot(&self, position: u64) -> u16 {
        self.request(position).map_or(0, |(_, key)| proto::slot::slot_of(key))
    }

    /// Whether these bytes are a value of the key at a position.
    pub fn is_value(&self, position: u64, bytes: &[u8]) -> bool {
        self.request(position)
            .is_some_and(|(_, key)| self.values.matches_sized(key_hash(key), bytes))
    }

    #[inline]
    fn request(&self, position: u64) -> Option<(&Record, &[u8])> {
        let record = self.trace.record_at(position)?;
        Some((record, self.trace.key(record.key)))
    }

    /// Appends the request at a position. RESP ignores the opaque.
    #[inline(never)]
    pub fn encode(&self, position: u64, kind: Kind, opaque: u32, out: &mut Vec<u8>) {
        // Positions come from the trace itself.
        let Some((record, key)) = self.request(position) else { return };
        match self.protocol {
            Protocol::Resp => self.encode_resp(record, key, kind, out),
            Protocol::Binary => self.encode_binary(record, key, kind, opaque, out),
        }
    }

    fn encode_resp(&self, record: &Record, key: &[u8], kind: Kind, out: &mut Vec<u8>) {
        let expires = record.ttl_s > 0;
        out.extend_from_slice(match kind {
            Kind::Read | Kind::Lookup | Kind::Modify => b"*2\r\n$3\r\nGET\r\n$",
            Kind::Delete => b"*2\r\n$3\r\nDEL\r\n$",
            _ if expires => b"*5\r\n$3\r\nSET\r\n$",
            _ => b"*3\r\n$3\r\nSET\r\n$",
        });
        decimal(key.len() as u64, out);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(key);
        out.extend_from_slice(b"\r\n");
        if kind.is_read() || kind == Kind::Delete {
            return;
        }
        out.push(b'$');
        decimal(u64::from(record.size), out);
        out.extend_from_slice(b"\r\n");
        self.values.append_sized(key_hash(key), record.size as usize, out);
        out.extend_from_slice(b"\r\n");
        if expires {
            out.extend_from_slice(b"$2\r\nEX\r\n$");
            let digits = record.ttl_s.ilog10() + 1;
            decimal(u64::from(digits), out);
            out.extend_from_slice(b"\r\n");
            decimal(u64::from(record.ttl_s), out);
            out.extend_from_slice(b"\r\n");
        }
    }

    fn encode_binary(
        &self,
        record: &Record,
        key: &[u8],
        kind: Kind,
        opaque: u32,
        out: &mut Vec<u8>,
    ) {
        let is_read = kind.is_read();
        let writes = !is_read && kind != Kind::Delete;
        let frame_extras = if is_read { self.read_from.frame_extras() } else { &[] };
        let extras_bytes = if writes { 8 } else { 0 };
        let size = if writes { record.size as usize } else { 0 };
        let body = frame_extras.len() + extras_bytes + key.len() + size;
        let mut header = [0; HEADER_BYTES];
        header[0] = proto::memcached::REQUEST_MAGIC;
        header[1] = match kind {
            _ if is_read => GET_OPCODE,
            Kind::Delete => DELETE_OPCODE,
            _ => SET_OPCODE,
        };
        header[2..4].copy_from_slice(&(key.len() as u16).to_be_bytes());
        if !frame_extras.is_empty() {
            // In this framing two bytes tell the lengths of frame extras and key.
            header[0] = proto::memcached::FLEXIBLE_REQUEST_MAGIC;
            (header[2], header[3]) = (frame_extras.len() as u8, key.len() as u8);
        }
        header[4] = extras_bytes as u8;
        header[8..12].copy_from_slice(&(body as u32).to_be_bytes());
        header[12..16].copy_from_slice(&opaque.to_be_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(frame_extras);
        if writes {
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&self.expiration(record.ttl_s).to_be_bytes());
        }
        out.extend_from_slice(key);
        if writes {
            self.values.append_sized(key_hash(key), size, out);
        }
    }

    /// A time to live as the binary protocol has it: a date if it is too long for a span.
    fn expiration(&self, ttl_s: u32) -> u32 {
        if ttl_s <= RELATIVE_SECONDS_MAX {
            return ttl_s;
        }
        // The protocol reserves the highest number.
        let date_s = self.started_s.saturating_add(u64::from(ttl_s));
        u32::try_from(date_s).unwrap_or(u32::MAX).min(u32::MAX - 1)
    }
}

/// Appends a number, once in the code for all uses here.
#[inline(never)]
fn decimal(number: u64, out: &mut Vec<u8>) {
    super::append_decimal(number, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::{Command, SetOptions};
    use std::time::Duration;

    fn replayed(protocol: Protocol, read_from: ReadFrom) -> Replayed {
        let longest = "k".repeat(250);
        let lines = format!(
            "0,a,0,get\n0,user:17,7,set,0\n0,{longest},1200,set,60\n0,b,9,set,2592000\n\
             0,c,65536,set,2592001\n0,{longest},5,delete\n"
        );
        let trace = Trace::read(lines.as_bytes(), "t", u64::MAX).expect("a trace");
        Replayed::new(Arc::new(trace), protocol, read_from)
    }

    /// What is sent must be what the client's encoder gives for the same command.
    #[test]
    fn replayed_requests_agree_with_the_encoder() {
        for protocol in [Protocol::Resp, Protocol::Binary] {
            for read_from in [ReadFrom::Leader, ReadFrom::Replica, ReadFrom::Stale] {
                let replayed = replayed(protocol, read_from);
                for position in 0..6 {
                    let (record, key) = replayed.request(position).expect("a request");
                    let mut value = Vec::new();
                    replayed.values.append_sized(key_hash(key), record.size as usize, &mut value);
                    assert!(replayed.is_value(position, &value));
                    let life = Duration::from_secs(record.ttl_s.into());
                    let life = (record.ttl_s > 0).then_some(life);
                    let options = SetOptions { time_to_live: life, ..SetOptions::default() };
                    for (kind, command) in [
                        (Kind::Read, Command::Get { key }),
                        (Kind::Lookup, Command::Get { key }),
                        (Kind::Write, Command::Set { key, value: &value, options }),
                        (Kind::Fill, Command::Set { key, value: &value, options }),
                        (Kind::Delete, Command::Delete { key }),
                    ] {
                        let (mut expected, mut encoded) = (Vec::new(), Vec::new());
                        protocol
                            .encode(&command, read_from, 0x0102_0304, &mut expected)
                            .expect("an encoding");
                        replayed.encode(position, kind, 0x0102_0304, &mut encoded);
                        let expected = in_seconds(expected, record.ttl_s);
                        let name = format!("{protocol} {position} {kind:?}");
                        assert_eq!(without_date(encoded), without_date(expected), "{name}");
                    }
                }
            }
        }
    }

    /// The client counts in milliseconds where a trace has seconds.
    fn in_seconds(mut bytes: Vec<u8>, ttl_s: u32) -> Vec<u8> {
        let milliseconds = format!("{}000", u64::from(ttl_s));
        let end = format!("$2\r\nPX\r\n${}\r\n{milliseconds}\r\n", milliseconds.len());
        if ttl_s > 0 && bytes.ends_with(end.as_bytes()) {
            bytes.truncate(bytes.len() - end.len());
            let seconds = ttl_s.to_string();
            let end = format!("$2\r\nEX\r\n${}\r\n{seconds}\r\n", seconds.len());
            bytes.extend_from_slice(end.as_bytes());
        }
        bytes
    }

    /// A date differs by the seconds that pass between two looks at the clock.
    fn without_date(mut bytes: Vec<u8>) -> Vec<u8> {
        if bytes.first() == Some(&proto::memcached::REQUEST_MAGIC) && bytes[1] == SET_OPCODE {
            let field: [u8; 4] = bytes[28..32].try_into().expect("four bytes");
            if u32::from_be_bytes(field) > RELATIVE_SECONDS_MAX {
                assert!(u32::from_be_bytes(field) > 1_700_000_000);
                bytes[28..32].fill(0);
            }
        }
        bytes
    }

    #[test]
    fn slots_are_those_of_the_key_as_sent() {
        let replayed = replayed(Protocol::Resp, ReadFrom::Leader);
        assert_eq!(replayed.slot(1), proto::slot::slot_of(b"user:17"));
    }
}
