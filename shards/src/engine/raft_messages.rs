//! Raft messages as bytes: raft-rs' own protobuf encoding, written and read without a library.
//!
//! There are several such messages per log entry on every replica, and what a general encoder
//! spends on them (the length of everything twice, a call per field, each entry's data copied
//! twice) was an eighth of what an unpipelined write cost the engine. The bytes are those that
//! prost makes, which the tests hold; snapshots' metadata is rare and still goes through prost.
//!
//! What must not be added here: a second pass over a message, an allocation per field. Bytes that
//! are no message are `None`, never a panic, and nothing is reserved by a length that was not
//! checked against the bytes that are there.

use prost_011::Message as _;
use raft::eraftpb::{Entry, Message};

/// Field numbers of messages.
mod field {
    pub const TYPE: u32 = 1;
    pub const TO: u32 = 2;
    pub const FROM: u32 = 3;
    pub const TERM: u32 = 4;
    pub const LOG_TERM: u32 = 5;
    pub const INDEX: u32 = 6;
    pub const ENTRIES: u32 = 7;
    pub const COMMIT: u32 = 8;
    pub const SNAPSHOT: u32 = 9;
    pub const REJECT: u32 = 10;
    pub const REJECT_HINT: u32 = 11;
    pub const CONTEXT: u32 = 12;
    pub const REQUEST_SNAPSHOT: u32 = 13;
    pub const DEPRECATED_PRIORITY: u32 = 14;
    pub const COMMIT_TERM: u32 = 15;
    pub const PRIORITY: u32 = 16;
}

/// Field numbers of entries.
mod entry_field {
    pub const TYPE: u32 = 1;
    pub const TERM: u32 = 2;
    pub const INDEX: u32 = 3;
    pub const DATA: u32 = 4;
    pub const SYNC_LOG: u32 = 5;
    pub const CONTEXT: u32 = 6;
}

/// Wire types.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED_32: u64 = 5;

/// A varint has at most so many bytes.
const VARINT_BYTES_MAX: usize = 10;
/// Fields that are put together at once: more than a message's numbers have, each with its key,
/// as a number is written as eight bytes at least.
const HEAD_BYTES_MAX: usize = 8 * (VARINT_BYTES_MAX + 2);

/// The bit of each byte of a varint that says that another byte follows.
const CONTINUED: u64 = 0x8080_8080_8080_8080;

/// The lower 56 bits of `value` in groups of seven, one per byte.
#[inline]
fn spread(value: u64) -> u64 {
    let halves = (value & 0x00ff_ffff_f000_0000) << 4 | value & 0x0fff_ffff;
    let quarters = (halves & 0x0fff_c000_0fff_c000) << 2 | halves & 0x0000_3fff_0000_3fff;
    (quarters & 0x3f80_3f80_3f80_3f80) << 1 | quarters & 0x007f_007f_007f_007f
}

/// What [`spread`] has spread.
#[inline]
fn gather(groups: u64) -> u64 {
    let quarters = (groups & 0x7f00_7f00_7f00_7f00) >> 1 | groups & 0x007f_007f_007f_007f;
    let halves = (quarters & 0x3fff_0000_3fff_0000) >> 2 | quarters & 0x0000_3fff_0000_3fff;
    (halves & 0x0fff_ffff_0000_0000) >> 4 | halves & 0x0fff_ffff
}

/// Numbers on their way into a buffer that is long enough for all of them.
struct Head {
    bytes: [u8; HEAD_BYTES_MAX],
    length: usize,
}

impl Head {
    fn new() -> Self {
        Head { bytes: [0; HEAD_BYTES_MAX], length: 0 }
    }

    #[inline]
    fn varint(&mut self, value: u64) {
        if value < 0x80 {
            self.bytes[self.length] = value as u8;
            self.length += 1;
            return;
        }
        let length = varint_len(value);
        if length <= 8 {
            // All groups but the last say that another follows.
            let follows = CONTINUED & ((1 << (8 * (length - 1))) - 1);
            let word = spread(value) | follows;
            self.bytes[self.length..self.length + 8].copy_from_slice(&word.to_le_bytes());
        } else {
            let groups = self.bytes[self.length..self.length + length].iter_mut();
            for (place, group) in groups.enumerate() {
                *group = (value >> (7 * place)) as u8 | 0x80;
            }
            self.bytes[self.length + length - 1] &= 0x7f;
        }
        self.length += length;
    }

    /// The key of one of the first fifteen fields is a byte.
    #[inline(always)]
    fn key(&mut self, field: u32, wire_type: u64) {
        if field < 16 {
            self.bytes[self.length] = (field << 3) as u8 | wire_type as u8;
            self.length += 1;
        } else {
            self.varint(u64::from(field) << 3 | wire_type);
        }
    }

    /// A number, unless it is zero, which is what an absent one means.
    #[inline(always)]
    fn number(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.key(field, VARINT);
            self.varint(value);
        }
    }

    /// What precedes so many bytes, unless there are none.
    #[inline]
    fn length_of(&mut self, field: u32, length: usize) {
        if length != 0 {
            self.key(field, LENGTH_DELIMITED);
            self.varint(length as u64);
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Length of a field whose key has one byte, or zero if its value is.
fn number_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

fn bytes_len(length: usize) -> usize {
    if length == 0 { 0 } else { 1 + varint_len(length as u64) + length }
}

/// The number that an enumeration's value is on the wire.
fn code(value: i32) -> u64 {
    i64::from(value) as u64
}

fn entry_len(entry: &Entry) -> usize {
    number_len(code(entry.entry_type))
        + number_len(entry.term)
        + number_len(entry.index)
        + bytes_len(entry.data.len())
        + number_len(u64::from(entry.sync_log))
        + bytes_len(entry.context.len())
}

fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    let mut head = Head::new();
    head.key(field::ENTRIES, LENGTH_DELIMITED);
    head.varint(entry_len(entry) as u64);
    head.number(entry_field::TYPE, code(entry.entry_type));
    head.number(entry_field::TERM, entry.term);
    head.number(entry_field::INDEX, entry.index);
    head.length_of(entry_field::DATA, entry.data.len());
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(&entry.data);
    if entry.sync_log || !entry.context.is_empty() {
        let mut rest = Head::new();
        rest.number(entry_field::SYNC_LOG, u64::from(entry.sync_log));
        rest.length_of(entry_field::CONTEXT, entry.context.len());
        out.extend_from_slice(rest.as_bytes());
        out.extend_from_slice(&entry.context);
    }
}

/// Appends the encoding of `message` to `out`.
pub fn encode_raft(message: &Message, out: &mut Vec<u8>) {
    if message.snapshot.is_some() {
        // Encoding into a vector only fails for lack of capacity, and a vector grows.
        let encoded = message.encode(out);
        assert!(encoded.is_ok(), "a Raft message did not encode into a vector");
        return;
    }
    // A vector that grows while a large value is copied to it would have to copy all of it again.
    let entries_len = |entry: &Entry| entry.data.len() + entry.context.len() + HEAD_BYTES_MAX;
    let entries = message.entries.iter().map(entries_len).sum::<usize>();
    out.reserve(2 * HEAD_BYTES_MAX + message.context.len() + entries);
    let mut head = Head::new();
    head.number(field::TYPE, code(message.msg_type));
    head.number(field::TO, message.to);
    head.number(field::FROM, message.from);
    head.number(field::TERM, message.term);
    head.number(field::LOG_TERM, message.log_term);
    head.number(field::INDEX, message.index);
    out.extend_from_slice(head.as_bytes());
    for entry in &message.entries {
        encode_entry(entry, out);
    }
    let mut middle = Head::new();
    middle.number(field::COMMIT, message.commit);
    middle.number(field::REJECT, u64::from(message.reject));
    middle.number(field::REJECT_HINT, message.reject_hint);
    middle.length_of(field::CONTEXT, message.context.len());
    out.extend_from_slice(middle.as_bytes());
    out.extend_from_slice(&message.context);
    let numbers = [
        (field::REQUEST_SNAPSHOT, message.request_snapshot),
        (field::DEPRECATED_PRIORITY, message.deprecated_priority),
        (field::COMMIT_TERM, message.commit_term),
        (field::PRIORITY, message.priority as u64),
    ];
    if numbers.iter().any(|(_, value)| *value != 0) {
        let mut rest = Head::new();
        numbers.iter().for_each(|(field, value)| rest.number(*field, *value));
        out.extend_from_slice(rest.as_bytes());
    }
}

/// A field's value.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a wire type that no known field has.
    Other,
}

impl<'a> Value<'a> {
    fn number(self) -> Option<u64> {
        match self {
            Value::Number(number) => Some(number),
            Value::Bytes(_) | Value::Other => None,
        }
    }

    fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Value::Bytes(bytes) => Some(bytes),
            Value::Number(_) | Value::Other => None,
        }
    }
}

/// Fields that have not been read yet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    #[inline]
    fn varint(&mut self) -> Option<u64> {
        let (&first, rest) = self.0.split_first()?;
        if first < 0x80 {
            self.0 = rest;
            return Some(u64::from(first));
        }
        if let Some(word) = self.0.first_chunk() {
            let word = u64::from_le_bytes(*word);
            let ends = !word & CONTINUED;
            if ends != 0 {
                let bits = ends.trailing_zeros() + 1;
                self.0 = &self.0[bits as usize / 8..];
                return Some(gather(word & (u64::MAX >> (64 - bits)) & !CONTINUED));
            }
        }
        self.long_varint()
    }

    /// A varint of more than eight bytes, or one near the end.
    fn long_varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (place, &byte) in self.0.iter().take(VARINT_BYTES_MAX).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                self.0 = &self.0[place + 1..];
                // The tenth byte has room for one bit.
                return (place + 1 < VARINT_BYTES_MAX || byte < 2).then_some(value);
            }
        }
        None
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    /// The next field and its value; what is not there must not be asked for.
    #[inline(always)]
    fn next(&mut self) -> Option<(u32, Value<'a>)> {
        let key = u32::try_from(self.varint()?).ok()?;
        let field = Some(key >> 3).filter(|field| *field != 0)?;
        let value = match u64::from(key & 7) {
            VARINT => Value::Number(self.varint()?),
            LENGTH_DELIMITED => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            FIXED_64 => self.take(8).map(|_| Value::Other)?,
            FIXED_32 => self.take(4).map(|_| Value::Other)?,
            _ => return None,
        };
        Some((field, value))
    }
}

fn decode_entry(bytes: &[u8]) -> Option<Entry> {
    let mut entry = Entry::default();
    let mut fields = Fields(bytes);
    while !fields.0.is_empty() {
        let (field, value) = fields.next()?;
        match field {
            entry_field::TYPE => entry.entry_type = value.number()? as i32,
            entry_field::TERM => entry.term = value.number()?,
            entry_field::INDEX => entry.index = value.number()?,
            entry_field::DATA => entry.data = value.bytes()?.to_vec(),
            entry_field::SYNC_LOG => entry.sync_log = value.number()? != 0,
            entry_field::CONTEXT => entry.context = value.bytes()?.to_vec(),
            _ => {}
        }
    }
    Some(entry)
}

/// Decodes a message. Fields that are not known are passed over.
pub fn decode_raft(bytes: &[u8]) -> Option<Message> {
    let mut message = Message::default();
    let mut fields = Fields(bytes);
    while !fields.0.is_empty() {
        let (field, value) = fields.next()?;
        match field {
            field::TYPE => message.msg_type = value.number()? as i32,
            field::TO => message.to = value.number()?,
            field::FROM => message.from = value.number()?,
            field::TERM => message.term = value.number()?,
            field::LOG_TERM => message.log_term = value.number()?,
            field::INDEX => message.index = value.number()?,
            field::ENTRIES => {
                // Nearly all have one, and a vector's own choice would be room for four.
                if message.entries.is_empty() {
                    message.entries.reserve_exact(1);
                }
                message.entries.push(decode_entry(value.bytes()?)?);
            }
            field::COMMIT => message.commit = value.number()?,
            field::SNAPSHOT => return Message::decode(bytes).ok(),
            field::REJECT => message.reject = value.number()? != 0,
            field::REJECT_HINT => message.reject_hint = value.number()?,
            field::CONTEXT => message.context = value.bytes()?.to_vec(),
            field::REQUEST_SNAPSHOT => message.request_snapshot = value.number()?,
            field::DEPRECATED_PRIORITY => message.deprecated_priority = value.number()?,
            field::COMMIT_TERM => message.commit_term = value.number()?,
            field::PRIORITY => message.priority = value.number()? as i64,
            _ => {}
        }
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Numbers of every length.
    fn number() -> impl Strategy<Value = u64> {
        (0..=64_u32, any::<u64>()).prop_map(|(bits, any)| any.checked_shr(64 - bits).unwrap_or(0))
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let bytes = || vec(any::<u8>(), 0..300);
        (0..3_i32, number(), number(), bytes(), any::<bool>(), vec(any::<u8>(), 0..4)).prop_map(
            |(entry_type, term, index, data, sync_log, context)| Entry {
                entry_type,
                term,
                index,
                data,
                context,
                sync_log,
            },
        )
    }

    fn message() -> impl Strategy<Value = Message> {
        let numbers = vec(number(), 11);
        let entries = vec(entry(), 0..5);
        let context = vec(any::<u8>(), 0..40);
        (0..19_i32, numbers, entries, context, any::<bool>(), any::<bool>()).prop_map(
            |(msg_type, numbers, entries, context, reject, has_snapshot)| Message {
                msg_type,
                to: numbers[0],
                from: numbers[1],
                term: numbers[2],
                log_term: numbers[3],
                index: numbers[4],
                entries,
                commit: numbers[5],
                commit_term: numbers[6],
                snapshot: (has_snapshot && reject).then(|| raft::eraftpb::Snapshot {
                    data: context.clone(),
                    ..Default::default()
                }),
                request_snapshot: numbers[7],
                reject,
                reject_hint: numbers[8],
                context,
                deprecated_priority: numbers[9],
                priority: numbers[10] as i64,
            },
        )
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_prost_and_are_read_alike(message in message()) {
            let mut ours = Vec::new();
            encode_raft(&message, &mut ours);
            prop_assert_eq!(&ours, &message.encode_to_vec());
            prop_assert_eq!(decode_raft(&ours), Some(message));
        }

        #[test]
        fn damaged_bytes_are_refused_or_read_as_prost_reads_them(
            message in message(),
            place in any::<prop::sample::Index>(),
            bit in 0..8_u32,
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = message.encode_to_vec();
            if bytes.is_empty() {
                return Ok(());
            }
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            if let Some(read) = decode_raft(&bytes) {
                prop_assert_eq!(Message::decode(&bytes[..]).ok(), Some(read));
            }
            let _ = decode_raft(&bytes[..cut.index(bytes.len())]);
        }
    }

    #[test]
    fn numbers_of_every_length_are_written_and_read_as_prost_does_it() {
        for bits in 0..64 {
            for value in [1 << bits, (1 << bits) - 1, u64::MAX >> bits, (1 << bits) | 0x55] {
                let mut head = Head::new();
                head.varint(value);
                let mut expected = Vec::new();
                prost_011::encoding::encode_varint(value, &mut expected);
                assert_eq!(head.as_bytes(), expected, "{value:x}");
                for behind in [&b""[..], &[0xff; 9], &[0; 9]] {
                    let bytes = [head.as_bytes(), behind].concat();
                    let mut fields = Fields(&bytes);
                    assert_eq!((fields.varint(), fields.0), (Some(value), behind), "{value:x}");
                }
            }
        }
    }

    #[test]
    fn an_unknown_field_is_passed_over_and_a_number_too_large_is_refused() {
        let mut bytes = Vec::new();
        encode_raft(&Message { to: 5, ..Message::default() }, &mut bytes);
        bytes.extend_from_slice(&[17 << 3 & 0x7f | 0x80, 1, 9]);
        assert_eq!(decode_raft(&bytes), Some(Message { to: 5, ..Message::default() }));
        let mut number = vec![2 << 3];
        number.extend_from_slice(&[0xff; 9]);
        for (last, is_read) in [(1, true), (2, false), (0x81, false)] {
            let bytes = [&number[..], &[last]].concat();
            assert_eq!(decode_raft(&bytes).is_some(), is_read, "{last}");
        }
    }
}
