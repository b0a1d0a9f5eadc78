//! What each request is, and its bytes.
//!
//! The load generator must cost less than the servers it measures, so a request is not encoded
//! from its parts. Everything but the key's number, the opaque and the value is laid out once;
//! sending copies that template and patches it. The requests of a trace differ in more than that;
//! `replayed` encodes them, and a key's number is the request's position in the trace there.

mod replayed;

use std::sync::Arc;

use client::Protocol;

use crate::keys::{DEFAULT_THETA, Distribution, KeyChooser};
use crate::newest::Newest;
use crate::options::{KEY_DIGITS, Options, Writes};
use crate::random::Random;
use crate::values::Values;
use replayed::Replayed;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads a key.
    Read,
    /// Writes a key.
    Write,
    /// Writes a key that will expire.
    WriteExpiring,
    /// Writes what was read.
    WriteBack,
    /// Writes a key that there was not.
    Insert,
    /// Reads a key in order to write it.
    Modify,
    /// Reads a key, and if there is none writes it.
    Lookup,
    /// Writes what was not found.
    Fill,
    /// Removes a key.
    Delete,
}

impl Kind {
    /// Whether it changes nothing.
    pub fn is_read(self) -> bool {
        matches!(self, Kind::Read | Kind::Modify | Kind::Lookup)
    }

    /// Whether something is left to do when it is done.
    #[inline]
    pub fn has_sequel(self) -> bool {
        match self {
            Kind::Read | Kind::Write | Kind::WriteExpiring | Kind::WriteBack => false,
            Kind::Insert | Kind::Modify | Kind::Lookup | Kind::Fill | Kind::Delete => true,
        }
    }
}

/// Decides what is requested and encodes it.
#[derive(Clone, Debug)]
pub struct Workload {
    keys: KeyChooser,
    /// Draws of 64 bits below this are reads.
    reads_below: u128,
    /// Of the writes, draws below this expire.
    expiring_below: u128,
    writes: Writes,
    /// The keys of this thread, if it inserts.
    newest: Option<Newest>,
    /// Whether reads prefer them.
    prefers_newest: bool,
    theta: f64,
    key_count: u64,
    values: Values,
    key_prefix: Vec<u8>,
    protocol: Protocol,
    read: Template,
    write: Template,
    write_expiring: Template,
    /// What encodes the requests, if they are those of a trace.
    replayed: Option<Box<Replayed>>,
}

/// The bytes of a request. What varies with the length of the value stands apart.
#[derive(Clone, Debug)]
struct Template {
    /// All before the value, its key's digits zero. In RESP without the value's length.
    head: Vec<u8>,
    /// Where the digits stand.
    digits_at: usize,
    /// All after the value.
    tail: Vec<u8>,
}

/// Bytes of a binary header, and where in it the body length and the opaque stand.
const HEADER_BYTES: usize = 24;
const BODY_LENGTH_AT: usize = 8;
const OPAQUE_AT: usize = 12;

impl Template {
    fn resp(arguments: usize, name: &str, prefix: &[u8], tail: &str) -> Template {
        let key_bytes = prefix.len() + KEY_DIGITS;
        let start = format!("*{arguments}\r\n${}\r\n{name}\r\n${key_bytes}\r\n", name.len());
        let mut head = [start.as_bytes(), prefix].concat();
        let digits_at = head.len();
        head.extend_from_slice(&[b'0'; KEY_DIGITS]);
        Template { head, digits_at, tail: tail.as_bytes().to_vec() }
    }

    /// A read, with the frame extras that say who may answer it.
    fn binary_read(frame_extras: &[u8], prefix: &[u8]) -> Template {
        let mut template = Template::binary(GET_OPCODE, frame_extras, prefix);
        if !frame_extras.is_empty() {
            // In this framing two bytes tell the lengths of frame extras and key.
            template.head[0] = proto::memcached::FLEXIBLE_REQUEST_MAGIC;
            template.head[2] = frame_extras.len() as u8;
            template.head[4] = 0;
        }
        template
    }

    fn binary(opcode: u8, extras: &[u8], prefix: &[u8]) -> Template {
        let key_bytes = prefix.len() + KEY_DIGITS;
        let mut head = vec![0; HEADER_BYTES];
        head[0] = proto::memcached::REQUEST_MAGIC;
        head[1] = opcode;
        head[2..4].copy_from_slice(&(key_bytes as u16).to_be_bytes());
        head[4] = extras.len() as u8;
        let body = (extras.len() + key_bytes) as u32;
        head[BODY_LENGTH_AT..BODY_LENGTH_AT + 4].copy_from_slice(&body.to_be_bytes());
        head.extend_from_slice(extras);
        head.extend_from_slice(prefix);
        let digits_at = head.len();
        head.extend_from_slice(&[b'0'; KEY_DIGITS]);
        Template { head, digits_at, tail: Vec::new() }
    }
}

const GET_OPCODE: u8 = 0x00;
const SET_OPCODE: u8 = 0x01;

impl Workload {
    /// The workload of these options, which have been checked.
    pub fn new(options: &Options) -> Workload {
        let prefix = options.key_prefix.as_bytes();
        let ttl = options.time_to_live;
        let seconds = ttl.map_or(0, |ttl| ttl.seconds);
        // What has requests of another kind takes keys and values only, and no template.
        let protocol = options.mode.protocol().unwrap_or(Protocol::Resp);
        let (read, write, write_expiring) = match protocol {
            Protocol::Resp => {
                let text = seconds.to_string();
                let expires = format!("\r\n$2\r\nEX\r\n${}\r\n{text}\r\n", text.len());
                (
                    Template::resp(2, "GET", prefix, "\r\n"),
                    Template::resp(3, "SET", prefix, "\r\n"),
                    Template::resp(5, "SET", prefix, &expires),
                )
            }
            Protocol::Binary => {
                let mut extras = [0; 8];
                let write = Template::binary(SET_OPCODE, &extras, prefix);
                extras[4..].copy_from_slice(&seconds.to_be_bytes());
                (
                    Template::binary_read(options.read_from.frame_extras(), prefix),
                    write,
                    Template::binary(SET_OPCODE, &extras, prefix),
                )
            }
        };
        Workload {
            keys: KeyChooser::new(options.distribution, options.keys, options.seed),
            reads_below: threshold(options.read_share),
            expiring_below: threshold(ttl.map_or(0.0, |ttl| ttl.share)),
            writes: options.writes,
            newest: None,
            prefers_newest: matches!(options.distribution, Distribution::Latest { .. }),
            theta: match options.distribution {
                Distribution::Latest { theta } => theta,
                _ => DEFAULT_THETA,
            },
            key_count: options.keys,
            values: Values::new(options.value_size),
            key_prefix: prefix.to_vec(),
            protocol,
            read,
            write,
            write_expiring,
            replayed: options.trace.as_ref().map(|trace| {
                Box::new(Replayed::new(Arc::clone(trace), protocol, options.read_from))
            }),
        }
    }

    /// As one of several threads draws it.
    pub fn of_thread(mut self, index: u32, threads: u32) -> Workload {
        self.newest = (self.writes == Writes::Insert)
            .then(|| Newest::new(self.key_count, self.theta, index, threads));
        self
    }

    /// The next request: its key and what it does.
    #[inline]
    pub fn draw(&mut self, random: &mut Random) -> (u64, Kind) {
        if self.writes != Writes::Update {
            return self.draw_with_sequels(random);
        }
        let kind = if u128::from(random.bits()) < self.reads_below {
            Kind::Read
        } else if self.expiring_below > 0 && u128::from(random.bits()) < self.expiring_below {
            Kind::WriteExpiring
        } else {
            Kind::Write
        };
        (self.keys.next(random), kind)
    }

    fn draw_with_sequels(&mut self, random: &mut Random) -> (u64, Kind) {
        let is_read = u128::from(random.bits()) < self.reads_below;
        match (&mut self.newest, is_read) {
            (Some(newest), false) => (newest.insert(), Kind::Insert),
            (Some(newest), true) if self.prefers_newest => (newest.draw(random), Kind::Read),
            (_, true) => (self.keys.next(random), Kind::Read),
            (None, false) => (self.keys.next(random), Kind::Modify),
        }
    }

    /// The insert of a key has ended, one way or the other.
    pub fn settle_insert(&mut self, key: u64) {
        if let Some(newest) = &mut self.newest {
            newest.settle(key);
        }
    }

    /// Appends the request. RESP ignores the opaque.
    #[inline]
    pub fn encode(&self, key: u64, kind: Kind, opaque: u32, out: &mut Vec<u8>) {
        if let Some(replayed) = &self.replayed {
            return replayed.encode(key, kind, opaque, out);
        }
        let template = match kind {
            Kind::Read | Kind::Modify => &self.read,
            Kind::WriteExpiring => &self.write_expiring,
            // The other ones write; what only traces have does not come here.
            _ => &self.write,
        };
        let start = out.len();
        out.extend_from_slice(&template.head);
        let digits_at = start + template.digits_at;
        if let Some(digits) = out.get_mut(digits_at..digits_at + KEY_DIGITS) {
            write_digits(key, digits);
        }
        if self.protocol == Protocol::Binary {
            patch(out, start + OPAQUE_AT, opaque);
        }
        if kind.is_read() {
            out.extend_from_slice(&template.tail);
            return;
        }
        let size = self.values.size(key);
        match self.protocol {
            Protocol::Resp => {
                out.extend_from_slice(b"\r\n$");
                append_decimal(size as u64, out);
                out.extend_from_slice(b"\r\n");
            }
            Protocol::Binary => {
                let body = template.head.len() - HEADER_BYTES + size;
                patch(out, start + BODY_LENGTH_AT, body as u32);
            }
        }
        self.values.append(key, out);
        out.extend_from_slice(&template.tail);
    }

    /// Appends a key that is no trace's, as encoded requests have it.
    pub fn append_key(&self, key: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.key_prefix);
        let mut digits = [0; KEY_DIGITS];
        write_digits(key, &mut digits);
        out.extend_from_slice(&digits);
    }

    /// Appends the value of a key that is no trace's.
    pub fn append_value(&self, key: u64, out: &mut Vec<u8>) {
        self.values.append(key, out);
    }

    /// Whether this may be the length of the key's value. In a trace it has many.
    #[inline]
    pub fn is_value_length(&self, key: u64, length: usize) -> bool {
        self.values.size(key) == length || self.replayed.is_some()
    }

    /// Whether these bytes are the key's value.
    pub fn is_value(&self, key: u64, bytes: &[u8]) -> bool {
        match &self.replayed {
            Some(replayed) => replayed.is_value(key, bytes),
            None => self.values.matches(key, bytes),
        }
    }

    /// The slot of the key.
    #[inline]
    pub fn slot(&self, key: u64) -> u16 {
        if let Some(replayed) = &self.replayed {
            return replayed.slot(key);
        }
        let mut bytes = [0; 256];
        let end = self.key_prefix.len() + KEY_DIGITS;
        let Some(name) = bytes.get_mut(..end) else { return 0 };
        let (prefix, digits) = name.split_at_mut(self.key_prefix.len());
        prefix.copy_from_slice(&self.key_prefix);
        write_digits(key, digits);
        proto::slot::slot_of(name)
    }
}

/// What part of all 64-bit numbers `share` is.
fn threshold(share: f64) -> u128 {
    (share.clamp(0.0, 1.0) * (1u128 << 64) as f64) as u128
}

#[inline]
fn patch(out: &mut [u8], at: usize, number: u32) {
    if let Some(field) = out.get_mut(at..at + 4) {
        field.copy_from_slice(&number.to_be_bytes());
    }
}

/// The decimal digits of every number below 100.
static PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// Fills `digits`, an even number of bytes, with the number, leading zeros included.
#[inline]
fn write_digits(mut number: u64, digits: &mut [u8]) {
    for pair in digits.rchunks_exact_mut(2) {
        pair.copy_from_slice(&PAIRS[(number % 100) as usize]);
        number /= 100;
    }
}

// Left to itself the compiler calls it for every drawn write since traces use it, too.
#[inline(always)]
fn append_decimal(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    write_digits(number, &mut digits);
    let start = digits.iter().position(|digit| *digit != b'0').unwrap_or(digits.len() - 1);
    out.extend_from_slice(digits.get(start..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Mode, TimeToLive};
    use crate::values::ValueSize;
    use client::{Command, SetOptions};
    use std::time::Duration;

    fn options(mode: Mode) -> Options {
        let address = "127.0.0.1:1".parse().expect("an address");
        Options {
            value_size: ValueSize { min: 0, max: 1200 },
            time_to_live: Some(TimeToLive { share: 0.25, seconds: 60 }),
            read_share: 0.6,
            ..Options::new(vec![address], mode)
        }
    }

    /// The templates must give what the client's encoder gives for the same command.
    #[test]
    fn templates_agree_with_the_encoder() {
        for mode in [Mode::Binary, Mode::Resp] {
            let workload = Workload::new(&options(mode));
            for key in [0, 1, 42, 99_999, 999_999_999_999] {
                let name = format!("key:{key:012}");
                let mut value = Vec::new();
                workload.values.append(key, &mut value);
                let expires = SetOptions {
                    time_to_live: Some(Duration::from_secs(60)),
                    ..SetOptions::default()
                };
                for (kind, set_options) in [
                    (Kind::Read, None),
                    (Kind::Write, Some(SetOptions::default())),
                    (Kind::WriteExpiring, Some(expires)),
                ] {
                    let command = match set_options {
                        None => Command::Get { key: name.as_bytes() },
                        Some(options) => {
                            Command::Set { key: name.as_bytes(), value: &value, options }
                        }
                    };
                    let mut expected = Vec::new();
                    let protocol = mode.protocol().expect("a protocol of the client");
                    protocol
                        .encode(&command, client::ReadFrom::Leader, 0x0102_0304, &mut expected)
                        .expect("an encoding");
                    let mut expected = String::from_utf8_lossy(&expected).into_owned();
                    // The client counts in milliseconds where the template has seconds.
                    expected = expected.replace("$2\r\nPX\r\n$5\r\n60000", "$2\r\nEX\r\n$2\r\n60");
                    let mut encoded = vec![];
                    workload.encode(key, kind, 0x0102_0304, &mut encoded);
                    assert_eq!(String::from_utf8_lossy(&encoded), expected);
                }
            }
        }
    }

    #[test]
    fn binary_reads_say_who_may_answer_as_the_client_does() {
        for read_from in [client::ReadFrom::Replica, client::ReadFrom::Stale] {
            let workload = Workload::new(&Options { read_from, ..options(Mode::Binary) });
            let name = format!("{}{:0KEY_DIGITS$}", options(Mode::Binary).key_prefix, 7);
            let command = Command::Get { key: name.as_bytes() };
            let (mut expected, mut encoded) = (Vec::new(), Vec::new());
            client::Protocol::Binary
                .encode(&command, read_from, 9, &mut expected)
                .expect("an encoding");
            workload.encode(7, Kind::Read, 9, &mut encoded);
            assert_eq!(encoded, expected);
        }
    }

    #[test]
    fn shares_hold() {
        let mut workload = Workload::new(&options(Mode::Resp));
        let mut random = Random::stream(1, 1);
        let mut counts = [0u32; 3];
        for _ in 0..100_000 {
            counts[workload.draw(&mut random).1 as usize] += 1;
        }
        // Six standard deviations are 930.
        for (count, expected) in counts.into_iter().zip([60_000, 30_000, 10_000]) {
            assert!(u32::abs_diff(count, expected) < 930, "{counts:?}");
        }
    }

    #[test]
    fn extreme_shares_are_exact() {
        for (read_share, kind) in [(1.0, Kind::Read), (0.0, Kind::Write)] {
            let options = Options { read_share, time_to_live: None, ..options(Mode::Resp) };
            let mut workload = Workload::new(&options);
            let mut random = Random::stream(1, 1);
            assert!((0..10_000).all(|_| workload.draw(&mut random).1 == kind));
        }
    }

    #[test]
    fn slots_are_those_of_the_key_as_sent() {
        let workload = Workload::new(&options(Mode::RespCluster));
        assert_eq!(workload.slot(42), proto::slot::slot_of(b"key:000000000042"));
    }
}
