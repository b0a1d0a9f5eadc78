//! RESP as a client sees it: requests as arrays of bulk strings, replies told apart.

use std::io::Write;
use std::time::Duration;

use proto::resp::reply::{Kind, Scanned, scan};

use super::{Answer, DecodeError, Decoded, EncodeError, Redirect, RedirectScope, Refusal};
use crate::address::Address;
use crate::command::{Command, Condition};
use crate::error::Class;

/// Asks for the cluster map.
pub const CLUSTER_SLOTS: &[u8] = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n";
/// Must precede a request that an ASK redirect sent elsewhere.
pub const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";
/// Lets a connection read from a replica.
pub const READONLY: &[u8] = b"*1\r\n$8\r\nREADONLY\r\n";
/// Lets a connection read from a replica as it is.
pub const READONLY_STALE: &[u8] = b"*2\r\n$8\r\nREADONLY\r\n$5\r\nSTALE\r\n";

/// Errors after which the same request may succeed a little later.
const TRANSIENT: [&str; 6] =
    ["TRYAGAIN", "CLUSTERDOWN", "LOADING", "BUSY", "MASTERDOWN", "READONLY"];

/// Further errors that servers give instead of running a command.
const NOT_DONE: [&str; 13] = [
    "ERR",
    "WRONGTYPE",
    "OOM",
    "CROSSSLOT",
    "NOAUTH",
    "WRONGPASS",
    "NOPERM",
    "NOPROTO",
    "MISCONF",
    "NOREPLICAS",
    "DENIED",
    "EXECABORT",
    "NOSCRIPT",
];

pub(super) fn encode(command: &Command<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let key = command.key();
    if key.len() > proto::limits::KEY_BYTES_MAX {
        return Err(EncodeError::KeyLength(key.len()));
    }
    match *command {
        Command::Get { .. } => request(out, &[b"GET", key]),
        Command::Delete { .. } => request(out, &[b"DEL", key]),
        Command::Increment { delta, .. } => {
            request(out, &[b"INCRBY", key, delta.to_string().as_bytes()]);
        }
        Command::Expire { time_to_live, .. } => {
            request(out, &[b"PEXPIRE", key, millis(time_to_live).as_bytes()]);
        }
        Command::Set { value, options, .. } => {
            let condition: Option<&[u8]> = match options.condition {
                Condition::Always => None,
                Condition::IfAbsent => Some(b"NX"),
                Condition::IfPresent => Some(b"XX"),
                Condition::IfVersion(_) => {
                    return Err(EncodeError::Unsupported("set by version"));
                }
            };
            let time_to_live = options.time_to_live.map(millis);
            let mut arguments: [&[u8]; 6] = [b"SET", key, value, &[], &[], &[]];
            let mut length = 3;
            if let Some(time_to_live) = &time_to_live {
                arguments[3] = b"PX";
                arguments[4] = time_to_live.as_bytes();
                length = 5;
            }
            if let Some(condition) = condition {
                arguments[length] = condition;
                length += 1;
            }
            request(out, &arguments[..length]);
        }
    }
    Ok(())
}

/// Whole milliseconds, rounded up and at least one: zero would be refused or expire at once.
fn millis(span: Duration) -> String {
    span.as_nanos().div_ceil(1_000_000).max(1).to_string()
}

fn request(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "*{}\r\n", arguments.len());
    for argument in arguments {
        let _ = write!(out, "${}\r\n", argument.len());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

#[inline]
pub(super) fn decode(input: &[u8]) -> Result<Decoded<'_>, DecodeError> {
    let (kind, consumed) = match scan(input)? {
        Scanned::Incomplete { needed } => {
            return Ok(Decoded::Incomplete { needed: input.len() + needed });
        }
        Scanned::Reply { kind, consumed } => (kind, consumed),
    };
    let answer = match kind {
        Kind::Simple { .. } | Kind::Boolean(true) => Answer::Done { version: 0 },
        Kind::Bulk { start, end } | Kind::Number { start, end } => {
            let bytes = input.get(start..end).ok_or(DecodeError::UnexpectedKind)?;
            Answer::Value { bytes, flags: 0, version: 0 }
        }
        Kind::Integer(number) => Answer::Number(number),
        Kind::Nil | Kind::Boolean(false) => Answer::Missing,
        Kind::Error { start, end } => {
            error(input.get(start..end).ok_or(DecodeError::UnexpectedKind)?)
        }
        Kind::Array { .. } | Kind::Map { .. } => {
            Answer::Aggregate(input.get(..consumed).ok_or(DecodeError::UnexpectedKind)?)
        }
        Kind::Push { .. } => return Ok(Decoded::Push { consumed }),
    };
    Ok(Decoded::Answer { answer, opaque: None, consumed })
}

/// Tells an error's class by its code. An unknown code says nothing about the request.
fn error(text: &[u8]) -> Answer<'_> {
    let code = text.split(|&byte| byte == b' ').next().unwrap_or_default();
    let code = std::str::from_utf8(code).unwrap_or("?");
    let scope = match code {
        "MOVED" => Some(RedirectScope::Moved),
        "ASK" => Some(RedirectScope::Ask),
        _ => None,
    };
    if let Some(redirect) = scope.and_then(|scope| redirect(scope, text)) {
        return Answer::Redirect(redirect);
    }
    let transient = TRANSIENT.contains(&code);
    let not_done = transient || scope.is_some() || NOT_DONE.contains(&code);
    let class = if not_done { Class::NotDone } else { Class::Unknown };
    Answer::Refused(Refusal { class, transient, code, text })
}

fn redirect(scope: RedirectScope, text: &[u8]) -> Option<Redirect> {
    let mut words = std::str::from_utf8(text).ok()?.split(' ').skip(1);
    let slot: u16 = words.next()?.parse().ok().filter(|slot| *slot < proto::slot::SLOTS)?;
    let (host, port) = words.next()?.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    Some(Redirect { scope, slot, address: Address { host: host.into(), port } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::SetOptions;

    fn encoded(command: Command<'_>) -> String {
        let mut out = Vec::new();
        encode(&command, &mut out).expect("an encoding");
        String::from_utf8(out).expect("text")
    }

    fn answer(input: &[u8]) -> Answer<'_> {
        match decode(input) {
            Ok(Decoded::Answer { answer, consumed, .. }) if consumed == input.len() => answer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_are_arrays_of_bulk_strings() {
        assert_eq!(encoded(Command::Get { key: b"k" }), "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
        let options = SetOptions {
            time_to_live: Some(Duration::from_micros(1500)),
            condition: Condition::IfAbsent,
            flags: 0,
        };
        assert_eq!(
            encoded(Command::Set { key: b"k", value: b"v\r\n", options }),
            "*6\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\nv\r\n\r\n$2\r\nPX\r\n$1\r\n2\r\n$2\r\nNX\r\n"
        );
        assert_eq!(
            encoded(Command::Increment { key: b"k", delta: -7 }),
            "*3\r\n$6\r\nINCRBY\r\n$1\r\nk\r\n$2\r\n-7\r\n"
        );
    }

    #[test]
    fn a_condition_by_version_is_refused_and_writes_nothing() {
        let options = SetOptions { condition: Condition::IfVersion(4), ..SetOptions::default() };
        let mut out = Vec::new();
        let command = Command::Set { key: b"k", value: b"v", options };
        assert!(matches!(encode(&command, &mut out), Err(EncodeError::Unsupported(_))));
        assert!(out.is_empty());
    }

    #[test]
    fn errors_have_a_class_and_strange_ones_count_as_unknown() {
        for (reply, class, transient) in [
            (&b"-ERR no\r\n"[..], Class::NotDone, false),
            (b"-OOM full\r\n", Class::NotDone, false),
            (b"-TRYAGAIN later\r\n", Class::NotDone, true),
            (b"-CLUSTERDOWN x\r\n", Class::NotDone, true),
            (b"-LOADING\r\n", Class::NotDone, true),
            (b"-UNKNOWN outcome\r\n", Class::Unknown, false),
            (b"-SOMETHING new\r\n", Class::Unknown, false),
            (b"-\r\n", Class::Unknown, false),
            (b"-MOVED nonsense\r\n", Class::NotDone, false),
        ] {
            match answer(reply) {
                Answer::Refused(refusal) => {
                    assert_eq!((refusal.class, refusal.transient), (class, transient), "{reply:?}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn redirects_are_read() {
        let address = Address { host: "127.0.0.2".into(), port: 7402 };
        assert_eq!(
            answer(b"-MOVED 3999 127.0.0.2:7402\r\n"),
            Answer::Redirect(Redirect { scope: RedirectScope::Moved, slot: 3999, address })
        );
        let Answer::Redirect(redirect) = answer(b"-ASK 1 :7402\r\n") else {
            panic!("a redirect");
        };
        assert_eq!((redirect.scope, &*redirect.address.host), (RedirectScope::Ask, ""));
        assert!(matches!(answer(b"-MOVED 16384 h:1\r\n"), Answer::Refused(_)));
    }

    #[test]
    fn incomplete_answers_say_how_much_is_needed() {
        assert_eq!(decode(b"$5\r\nhel"), Ok(Decoded::Incomplete { needed: 11 }));
        assert!(matches!(decode(b""), Ok(Decoded::Incomplete { needed: 1.. })));
        assert!(decode(b"HTTP").is_err());
    }
}
