//! The memcached binary protocol as a client sees it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::memcached::{
    Class as StatusClass, Command as Packet, Direction, ParsedResponse, Request, ReturnKey, Status,
    StoreMode, parse_response,
};

use super::{Answer, DecodeError, Decoded, EncodeError, Refusal};
use crate::command::{Command, Condition};
use crate::error::Class;
use crate::picker::ReadFrom;

/// Longest body of a response: the longest value and what may stand beside it.
const BODY_BYTES_MAX: u32 = (proto::limits::VALUE_BYTES_MAX + (1 << 20)) as u32;

/// Longest relative expiration in seconds; larger numbers are taken as a date.
const RELATIVE_SECONDS_MAX: u64 = 30 * 24 * 60 * 60;

pub(super) fn encode(
    command: &Command<'_>,
    read_from: ReadFrom,
    opaque: u32,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let key = command.key();
    if key.is_empty() || key.len() > usize::from(u16::MAX) {
        return Err(EncodeError::KeyLength(key.len()));
    }
    let mut cas = 0;
    let packet = match *command {
        Command::Get { key } => Packet::Get { key, return_key: ReturnKey::No },
        Command::Delete { key } => Packet::Delete { key },
        Command::Set { key, value, options } => {
            let mode = match options.condition {
                Condition::Always => StoreMode::Set,
                Condition::IfAbsent => StoreMode::Add,
                Condition::IfPresent => StoreMode::Replace,
                Condition::IfVersion(0) => return Err(EncodeError::Unsupported("version 0")),
                Condition::IfVersion(version) => {
                    cas = version;
                    StoreMode::Set
                }
            };
            let expiration = options.time_to_live.map_or(0, expiration);
            Packet::Store { mode, key, value, flags: options.flags, expiration }
        }
        Command::Increment { key, delta } => {
            let downwards = delta < 0;
            Packet::Count {
                direction: if downwards { Direction::Decrement } else { Direction::Increment },
                key,
                delta: delta.unsigned_abs(),
                initial: if downwards { 0 } else { delta.unsigned_abs() },
                expiration: 0,
            }
        }
        Command::Expire { key, time_to_live } => {
            Packet::Touch { key, expiration: expiration(time_to_live) }
        }
    };
    let frame_extras = if command.is_read() { read_from.frame_extras() } else { &[] };
    Request { cas, frame_extras, ..Request::new(packet, opaque) }
        .encode(out)
        .map_err(|_| EncodeError::KeyLength(key.len()))
}

/// Whole seconds, rounded up and at least one, as a date if they are too many to be relative.
fn expiration(span: Duration) -> u32 {
    let seconds = span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0)).max(1);
    let absolute = if seconds > RELATIVE_SECONDS_MAX {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        seconds.saturating_add(now.as_secs())
    } else {
        seconds
    };
    // The protocol reserves the highest number.
    u32::try_from(absolute).unwrap_or(u32::MAX).min(u32::MAX - 1)
}

#[inline]
pub(super) fn decode(input: &[u8]) -> Result<Decoded<'_>, DecodeError> {
    let (response, consumed) = match parse_response(input, BODY_BYTES_MAX)? {
        ParsedResponse::Incomplete { needed } => return Ok(Decoded::Incomplete { needed }),
        ParsedResponse::Response { response, length } => (response, length),
    };
    let answer = match response.status {
        Status::OK if response.extras.is_empty() && response.value.is_empty() => {
            Answer::Done { version: response.cas }
        }
        Status::OK => Answer::Value {
            bytes: response.value,
            flags: response.flags().unwrap_or(0),
            version: response.cas,
        },
        Status::NOT_FOUND => Answer::Missing,
        Status::EXISTS | Status::NOT_STORED => Answer::ConditionFailed,
        status => {
            let class = match status.class() {
                StatusClass::Unknown => Class::Unknown,
                StatusClass::NotDone | StatusClass::Done => Class::NotDone,
            };
            let transient = matches!(status, Status::BUSY | Status::TEMPORARY_FAILURE);
            let code = status.name().unwrap_or("STATUS");
            // The cluster map that comes with some errors is no text.
            let told = status != Status::NOT_MY_VBUCKET && !response.value.is_empty();
            let text = if told { response.value } else { status.text().as_bytes() };
            Answer::Refused(Refusal { class, transient, code, text })
        }
    };
    Ok(Decoded::Answer { answer, opaque: Some(response.opaque), consumed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Reply, SetOptions};
    use proto::memcached::{Echo, Limits, ParsedRequest, parse_request};

    fn sent(command: &Command<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        encode(command, ReadFrom::Leader, 77, &mut out).expect("an encoding");
        out
    }

    fn replied(write: impl FnOnce(Echo, &mut Vec<u8>), command: &Command<'_>) -> Option<Reply> {
        let mut out = Vec::new();
        write(Echo { opcode: 0, opaque: 77 }, &mut out);
        match decode(&out) {
            Ok(Decoded::Answer { answer, opaque: Some(77), consumed }) => {
                assert_eq!(consumed, out.len());
                command.reply(&answer)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_server_understands_what_is_sent() {
        let options = SetOptions {
            time_to_live: Some(Duration::from_millis(1001)),
            condition: Condition::IfVersion(9),
            flags: 5,
        };
        let bytes = sent(&Command::Set { key: b"key", value: b"value", options });
        let Ok(ParsedRequest::Request { request, .. }) = parse_request(&bytes, &Limits::default())
        else {
            panic!("a request");
        };
        assert_eq!((request.cas, request.opaque), (9, 77));
        assert_eq!(
            request.command,
            Packet::Store {
                mode: StoreMode::Set,
                key: b"key",
                value: b"value",
                flags: 5,
                expiration: 2,
            }
        );
    }

    #[test]
    fn responses_become_replies() {
        let get = Command::Get { key: b"k" };
        let Some(Reply::Value(Some(value))) =
            replied(|echo, out| echo.value(out, 4, 5, b"", b""), &get)
        else {
            panic!("an empty value is a value");
        };
        assert_eq!((value.bytes.len(), value.flags, value.version), (0, 5, 4));
        let missing = replied(|echo, out| echo.error(out, Status::NOT_FOUND, b"no"), &get);
        assert_eq!(missing, Some(Reply::Value(None)));
        let increment = Command::Increment { key: b"k", delta: 2 };
        let counter = replied(|echo, out| echo.counter(out, 1, 42), &increment);
        assert_eq!(counter, Some(Reply::Counter(42)));
        let set = Command::Set { key: b"k", value: b"v", options: SetOptions::default() };
        assert_eq!(replied(|echo, out| echo.ok(out, 8), &set), Some(Reply::Stored { version: 8 }));
        let exists = replied(|echo, out| echo.error(out, Status::EXISTS, b""), &set);
        assert_eq!(exists, Some(Reply::ConditionFailed));
    }

    #[test]
    fn statuses_keep_their_class() {
        for (status, class, transient) in [
            (Status::TEMPORARY_FAILURE, Class::NotDone, true),
            (Status::BUSY, Class::NotDone, true),
            (Status::TOO_LARGE, Class::NotDone, false),
            (Status::AMBIGUOUS, Class::Unknown, false),
            (Status(0x1234), Class::Unknown, false),
        ] {
            let mut out = Vec::new();
            Echo::default().error(&mut out, status, b"text");
            let Ok(Decoded::Answer { answer: Answer::Refused(refusal), .. }) = decode(&out) else {
                panic!("a refusal");
            };
            assert_eq!((refusal.class, refusal.transient), (class, transient));
        }
    }

    #[test]
    fn long_lives_are_dates_and_short_ones_at_least_a_second() {
        assert_eq!(expiration(Duration::ZERO), 1);
        assert_eq!(expiration(Duration::from_secs(RELATIVE_SECONDS_MAX)), 2_592_000);
        assert!(expiration(Duration::from_secs(RELATIVE_SECONDS_MAX + 1)) > 1_700_000_000);
        assert_eq!(expiration(Duration::MAX), u32::MAX - 1);
    }
}
