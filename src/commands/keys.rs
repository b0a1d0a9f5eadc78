//! Commands on keys whatever their values: deletion, existence, deadlines, whole-shard commands.

use proto::resp::parse_integer;
use proto::resp::request::Arguments;
use shards::command::{Command, ExpireCondition, Expiry, Operation};
use shards::ids::{Millis, Version};

use crate::commands::render::Shape;
use crate::commands::{Execution, errors};
use crate::session::replies::Aggregate;

fn count(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>, operation: Operation<'_>) {
    let keys = arguments.from(1);
    // One key is by far the commonest case, and needs no parts.
    if keys.len() == 1 {
        return execution.request_key(Shape::OneOrZero, arguments, operation);
    }
    if execution.check_keys(keys.iter()) {
        let commands = keys.iter().map(|key| Command { key, operation });
        execution.request_parts(Shape::Number, Aggregate::CountOk, commands);
    }
}

/// DEL key \[key ...\] and UNLINK
pub(super) fn delete(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    count(execution, arguments, Operation::Delete { version: Version(0), return_old: false });
}

/// EXISTS key \[key ...\]
pub(super) fn exists(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    count(execution, arguments, Operation::Inspect { peek: true });
}

/// TOUCH key \[key ...\], which counts as a use even after CLIENT NO-TOUCH ON
pub(super) fn touch(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    count(execution, arguments, Operation::Inspect { peek: false });
}

/// TYPE key
pub(super) fn value_type(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    execution.request_key(Shape::Type, arguments, Operation::Inspect { peek: true });
}

/// TTL key
pub(super) fn seconds_left(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    execution.request_key(Shape::SecondsLeft, arguments, Operation::Inspect { peek: true });
}

/// PTTL key
pub(super) fn millis_left(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    execution.request_key(Shape::MillisLeft, arguments, Operation::Inspect { peek: true });
}

/// EXPIRETIME key
pub(super) fn deadline_seconds(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    execution.request_key(Shape::DeadlineSeconds, arguments, Operation::Inspect { peek: true });
}

/// PEXPIRETIME key
pub(super) fn deadline_millis(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    execution.request_key(Shape::DeadlineMillis, arguments, Operation::Inspect { peek: true });
}

/// PERSIST key
pub(super) fn persist(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let operation = Operation::Expire {
        expiry: Expiry::Never,
        condition: ExpireCondition::IfSome,
        return_value: false,
    };
    execution.request_key(Shape::OneOrZero, arguments, operation);
}

/// EXPIRE key seconds \[NX | XX | GT | LT\]
pub(super) fn expire_seconds(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    expire(execution, arguments, "expire", 1_000, Origin::Now);
}

/// PEXPIRE key milliseconds \[NX | XX | GT | LT\]
pub(super) fn expire_millis(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    expire(execution, arguments, "pexpire", 1, Origin::Now);
}

/// EXPIREAT key seconds \[NX | XX | GT | LT\]
pub(super) fn expire_at_seconds(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    expire(execution, arguments, "expireat", 1_000, Origin::Epoch);
}

/// PEXPIREAT key milliseconds \[NX | XX | GT | LT\]
pub(super) fn expire_at_millis(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    expire(execution, arguments, "pexpireat", 1, Origin::Epoch);
}

/// Where a time counts from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Now,
    Epoch,
}

fn expire(
    execution: &mut Execution<'_, '_>,
    arguments: Arguments<'_>,
    name: &str,
    unit_ms: i64,
    origin: Origin,
) {
    let condition = match expire_condition(arguments.from(3)) {
        Ok(condition) => condition,
        Err(text) => return execution.error(&text),
    };
    let Some(time) = parse_integer(arguments.at(2)) else {
        return execution.error(errors::NOT_AN_INTEGER);
    };
    let base = match origin {
        Origin::Now => i64::try_from(execution.context.now.wall.0).unwrap_or(i64::MAX),
        Origin::Epoch => 0,
    };
    let millis = time.checked_mul(unit_ms).filter(|millis| millis.checked_add(base).is_some());
    let Some(millis) = millis else {
        return execution.error(&format!("ERR invalid expire time in '{name}' command"));
    };
    // A time that has passed removes the key, however long ago it was.
    let millis = Millis(u64::try_from(millis).unwrap_or(0));
    let expiry = match origin {
        Origin::Now => Expiry::In(millis),
        Origin::Epoch => Expiry::At(millis),
    };
    let operation = Operation::Expire { expiry, condition, return_value: false };
    execution.request_key(Shape::OneOrZero, arguments, operation);
}

fn expire_condition(options: Arguments<'_>) -> Result<ExpireCondition, String> {
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for option in options.iter() {
        match option {
            option if option.eq_ignore_ascii_case(b"NX") => nx = true,
            option if option.eq_ignore_ascii_case(b"XX") => xx = true,
            option if option.eq_ignore_ascii_case(b"GT") => gt = true,
            option if option.eq_ignore_ascii_case(b"LT") => lt = true,
            other => {
                return Err(format!("ERR Unsupported option {}", super::shown(other, 128)));
            }
        }
    }
    match (nx, xx, gt, lt) {
        (true, true, _, _) | (true, _, true, _) | (true, _, _, true) => {
            Err("ERR NX and XX, GT or LT options at the same time are not compatible".to_owned())
        }
        (_, _, true, true) => {
            Err("ERR GT and LT options at the same time are not compatible".to_owned())
        }
        // The log has one condition per command. GT implies that there is a deadline, LT does not.
        (_, true, _, true) => {
            Err("ERR XX and LT options at the same time are not supported".to_owned())
        }
        (true, ..) => Ok(ExpireCondition::IfNone),
        (_, _, true, _) => Ok(ExpireCondition::IfLater),
        (_, _, _, true) => Ok(ExpireCondition::IfEarlier),
        (_, true, ..) => Ok(ExpireCondition::IfSome),
        (false, false, false, false) => Ok(ExpireCondition::Always),
    }
}

/// DBSIZE
pub(super) fn database_size(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    execution.request_shards(Shape::Number, Aggregate::Sum, Operation::KeyCount);
}

/// FLUSHALL \[ASYNC | SYNC\] and FLUSHDB
pub(super) fn flush(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let is_known = |option: &[u8]| {
        option.eq_ignore_ascii_case(b"ASYNC") || option.eq_ignore_ascii_case(b"SYNC")
    };
    if arguments.len() > 2 || !arguments.get(1).is_none_or(is_known) {
        return execution.error(errors::SYNTAX);
    }
    execution.request_shards(Shape::Ok, Aggregate::AllOk, Operation::Flush);
}
