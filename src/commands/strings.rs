//! Commands on the values of keys: GET, SET and their kin, counters, lengths.

use proto::resp::parse_integer;
use proto::resp::request::Arguments;
use shards::command::{Command, End, ExpireCondition, Expiry, Operation, SetCondition};
use shards::ids::{Millis, Version};

use crate::commands::render::Shape;
use crate::commands::{Execution, errors};
use crate::session::replies::Aggregate;

const ANY_VERSION: Version = Version(0);

/// A SET without any option.
fn plain_set(value: &[u8]) -> Operation<'_> {
    Operation::Set {
        value,
        flags: 0,
        condition: SetCondition::Always,
        expiry: Expiry::Never,
        return_old: false,
    }
}

/// GET key
pub(super) fn get(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let peek = execution.connection.replies.is_peeking();
    execution.request_key(Shape::Value, arguments, Operation::Get { peek });
}

/// SET key value \[NX | XX\] \[GET\] \[EX s | PX ms | EXAT s | PXAT ms | KEEPTTL\]
pub(super) fn set(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let (key, value) = (arguments.at(1), arguments.at(2));
    if !execution.check_value(value) {
        return;
    }
    let mut options = SetOptions::default();
    if arguments.len() > 3
        && let Err(error) = options.read(arguments.from(3), execution.context.now.wall)
    {
        return execution.error(&error.text("set"));
    }
    let shape = match (options.get, options.condition) {
        (true, _) => Shape::Value,
        (false, SetCondition::Always) => Shape::Ok,
        (false, _) => Shape::OkOrNil,
    };
    let operation = Operation::Set {
        value,
        flags: 0,
        condition: options.condition,
        expiry: options.expiry.unwrap_or(Expiry::Never),
        return_old: options.get,
    };
    if let Some(shard) = execution.route(key) {
        execution.request(shape, shard, key, operation);
    }
}

/// Why options are refused.
enum OptionError {
    Syntax,
    NotAnInteger,
    InvalidExpiry,
}

impl OptionError {
    fn text(&self, command: &str) -> String {
        match self {
            OptionError::Syntax => errors::SYNTAX.to_owned(),
            OptionError::NotAnInteger => errors::NOT_AN_INTEGER.to_owned(),
            OptionError::InvalidExpiry => format!("ERR invalid expire time in '{command}' command"),
        }
    }
}

#[derive(Default)]
struct SetOptions {
    condition: SetCondition,
    expiry: Option<Expiry>,
    get: bool,
}

impl SetOptions {
    fn read(&mut self, arguments: Arguments<'_>, wall: Millis) -> Result<(), OptionError> {
        let mut position = 0;
        while let Some(option) = arguments.get(position) {
            position += 1;
            let is = |name: &[u8]| option.eq_ignore_ascii_case(name);
            if is(b"NX") && self.condition != SetCondition::IfPresent {
                self.condition = SetCondition::IfAbsent;
            } else if is(b"XX") && self.condition != SetCondition::IfAbsent {
                self.condition = SetCondition::IfPresent;
            } else if is(b"GET") {
                self.get = true;
            } else if is(b"KEEPTTL") && self.expiry.is_none_or(|expiry| expiry == Expiry::Keep) {
                self.expiry = Some(Expiry::Keep);
            } else if let Some(unit) = ExpiryUnit::named(option)
                && self.expiry.is_none()
            {
                let time = arguments.get(position).ok_or(OptionError::Syntax)?;
                position += 1;
                self.expiry = Some(unit.read(time, wall)?);
            } else {
                return Err(OptionError::Syntax);
            }
        }
        Ok(())
    }
}

/// The unit and the origin of an expiry option.
#[derive(Clone, Copy)]
enum ExpiryUnit {
    Seconds,
    Millis,
    SecondsSinceEpoch,
    MillisSinceEpoch,
}

impl ExpiryUnit {
    fn named(option: &[u8]) -> Option<Self> {
        let units = [
            (&b"EX"[..], ExpiryUnit::Seconds),
            (b"PX", ExpiryUnit::Millis),
            (b"EXAT", ExpiryUnit::SecondsSinceEpoch),
            (b"PXAT", ExpiryUnit::MillisSinceEpoch),
        ];
        units.iter().find(|(name, _)| option.eq_ignore_ascii_case(name)).map(|&(_, unit)| unit)
    }

    /// Reads a time that must be positive and must not lead beyond the range of an `i64`.
    fn read(self, time: &[u8], wall: Millis) -> Result<Expiry, OptionError> {
        let time = parse_integer(time).ok_or(OptionError::NotAnInteger)?;
        let time = u64::try_from(time).ok().filter(|&time| time > 0);
        let time = time.ok_or(OptionError::InvalidExpiry)?;
        let millis = match self {
            ExpiryUnit::Seconds | ExpiryUnit::SecondsSinceEpoch => time.checked_mul(1_000),
            ExpiryUnit::Millis | ExpiryUnit::MillisSinceEpoch => Some(time),
        };
        let is_relative = matches!(self, ExpiryUnit::Seconds | ExpiryUnit::Millis);
        let origin = if is_relative { wall.0 } else { 0 };
        let fits = |&millis: &u64| {
            millis.checked_add(origin).is_some_and(|deadline| deadline <= i64::MAX as u64)
        };
        let millis = Millis(millis.filter(fits).ok_or(OptionError::InvalidExpiry)?);
        Ok(if is_relative { Expiry::In(millis) } else { Expiry::At(millis) })
    }
}

/// SETNX key value
pub(super) fn set_if_absent(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let value = arguments.at(2);
    if !execution.check_value(value) {
        return;
    }
    let operation = Operation::Set {
        value,
        flags: 0,
        condition: SetCondition::IfAbsent,
        expiry: Expiry::Never,
        return_old: false,
    };
    execution.request_key(Shape::OneOrZero, arguments, operation);
}

/// SETEX key seconds value
pub(super) fn set_seconds(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    set_with_expiry(execution, arguments, "setex", ExpiryUnit::Seconds);
}

/// PSETEX key milliseconds value
pub(super) fn set_millis(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    set_with_expiry(execution, arguments, "psetex", ExpiryUnit::Millis);
}

fn set_with_expiry(
    execution: &mut Execution<'_, '_>,
    arguments: Arguments<'_>,
    name: &str,
    unit: ExpiryUnit,
) {
    let value = arguments.at(3);
    if !execution.check_value(value) {
        return;
    }
    match unit.read(arguments.at(2), execution.context.now.wall) {
        Err(error) => execution.error(&error.text(name)),
        Ok(expiry) => {
            let operation = Operation::Set {
                value,
                flags: 0,
                condition: SetCondition::Always,
                expiry,
                return_old: false,
            };
            execution.request_key(Shape::Ok, arguments, operation);
        }
    }
}

/// GETSET key value
pub(super) fn get_and_set(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let value = arguments.at(2);
    if !execution.check_value(value) {
        return;
    }
    let operation = Operation::Set {
        value,
        flags: 0,
        condition: SetCondition::Always,
        expiry: Expiry::Never,
        return_old: true,
    };
    execution.request_key(Shape::Value, arguments, operation);
}

/// GETDEL key
pub(super) fn get_and_delete(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let operation = Operation::Delete { version: ANY_VERSION, return_old: true };
    execution.request_key(Shape::Value, arguments, operation);
}

/// GETEX key \[EX s | PX ms | EXAT s | PXAT ms | PERSIST\]
pub(super) fn get_and_expire(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let expiry = match (arguments.get(2), arguments.get(3)) {
        (None, _) => return get(execution, arguments),
        (Some(option), None) if option.eq_ignore_ascii_case(b"PERSIST") => Ok(Expiry::Never),
        (Some(option), Some(time)) if arguments.len() == 4 => match ExpiryUnit::named(option) {
            Some(unit) => unit.read(time, execution.context.now.wall),
            None => Err(OptionError::Syntax),
        },
        _ => Err(OptionError::Syntax),
    };
    match expiry {
        Err(error) => execution.error(&error.text("getex")),
        Ok(expiry) => {
            let condition = ExpireCondition::Always;
            let operation = Operation::Expire { expiry, condition, return_value: true };
            execution.request_key(Shape::Value, arguments, operation);
        }
    }
}

/// MGET key \[key ...\]
pub(super) fn get_many(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let keys = arguments.from(1);
    if execution.check_keys(keys.iter()) {
        let peek = execution.connection.replies.is_peeking();
        let commands = keys.iter().map(|key| Command { key, operation: Operation::Get { peek } });
        execution.request_parts(Shape::Value, Aggregate::Array, commands);
    }
}

/// MSET key value \[key value ...\]
pub(super) fn set_many(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let pairs = arguments.from(1);
    if !pairs.len().is_multiple_of(2) {
        return execution.wrong_number_of_arguments("mset");
    }
    let keys = pairs.iter().step_by(2);
    let values = pairs.iter().skip(1).step_by(2);
    if !values.clone().all(|value| execution.check_value(value))
        || !execution.check_keys(keys.clone())
    {
        return;
    }
    let commands =
        keys.zip(values).map(|(key, value)| Command { key, operation: plain_set(value) });
    execution.request_parts(Shape::Ok, Aggregate::AllOk, commands);
}

/// STRLEN key
pub(super) fn length(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let peek = execution.connection.replies.is_peeking();
    execution.request_key(Shape::Number, arguments, Operation::Inspect { peek });
}

/// APPEND key value
pub(super) fn append(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let value = arguments.at(2);
    if execution.check_value(value) {
        let operation =
            Operation::Extend { end: End::Back, value, create: true, version: ANY_VERSION };
        execution.request_key(Shape::Number, arguments, operation);
    }
}

/// INCR key
pub(super) fn increment(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    execution.request_key(Shape::Number, arguments, Operation::Increment { delta: 1 });
}

/// DECR key
pub(super) fn decrement(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    execution.request_key(Shape::Number, arguments, Operation::Increment { delta: -1 });
}

/// INCRBY key increment
pub(super) fn increment_by(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    match parse_integer(arguments.at(2)) {
        Some(delta) => {
            execution.request_key(Shape::Number, arguments, Operation::Increment { delta });
        }
        None => execution.error(errors::NOT_AN_INTEGER),
    }
}

/// DECRBY key decrement
pub(super) fn decrement_by(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let Some(amount) = parse_integer(arguments.at(2)) else {
        return execution.error(errors::NOT_AN_INTEGER);
    };
    match amount.checked_neg() {
        Some(delta) => {
            execution.request_key(Shape::Number, arguments, Operation::Increment { delta });
        }
        None => execution.error(errors::DECREMENT_OVERFLOW),
    }
}
