//! The model of one key of a cache: GET, SET with its conditions, DEL, GETDEL, INCR, APPEND.
//!
//! Three kinds of key, told apart by what may make a value vanish:
//! - *strict*: nothing but commands. A miss after a write is then a violation.
//! - *expiring*: a value set with a time to live may be gone once that time has passed since its
//!   call, and not before. That it must be gone some time later is not this model's business.
//! - *lossy*: eviction may take any value at any time.
//!
//! A loss is folded into the first operation that notices it, so that the search does not branch.
//! What was seen absent stays absent until somebody writes: a value that returns is a violation in
//! all three kinds. Versions are CAS tokens; the version of a write nobody got an answer to is
//! learnt from the first operation that shows it.

use std::collections::HashSet;
use std::sync::Arc;

use crate::{Model, Operation, Outcome, Violation};

/// A value.
pub type Value = Arc<[u8]>;

/// When a [`Input::Set`] stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    Always,
    /// Only if the key is absent.
    IfAbsent,
    /// Only if the key is there.
    IfPresent,
    /// Only if it has this version.
    IfVersion(u64),
}

/// What is asked of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Its value and version.
    Get,
    /// To hold a value.
    Set {
        /// The value.
        value: Value,
        /// When to store it.
        condition: Condition,
        /// Time to live, in the unit of the history's clock.
        lives: Option<u64>,
        /// Whether the answer carries the value from before.
        return_old: bool,
    },
    /// To add to the number it holds; an absent key counts as zero.
    Increment(i64),
    /// To add bytes to its end; an absent key counts as empty.
    Append(Value),
    /// To be absent.
    Delete {
        /// Whether the answer carries the value from before.
        return_old: bool,
    },
}

impl Input {
    /// Whether it changes nothing. Reads with an unknown outcome say nothing and should be left
    /// out of a history.
    pub fn is_read(&self) -> bool {
        matches!(self, Input::Get)
    }
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It did what was asked.
    Ok,
    /// The key was absent.
    NotFound,
    /// The key was there, and should not have been.
    Exists,
    /// The key had another version.
    ConditionFailed,
    /// The value was not a number.
    NotANumber,
}

/// A version, length or count that an answer should have and the protocol does not tell.
pub const UNTOLD: u64 = u64::MAX;

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: Status,
    /// The version of the key after it; zero where there is none, or [`UNTOLD`].
    pub version: u64,
    /// The value, where one was asked for.
    pub value: Option<Value>,
    /// The sum after an increment, the length after an append; for a set that stored, 1 if the key
    /// was there before and 0 if not. The latter two may be [`UNTOLD`].
    pub number: u64,
}

/// What the key holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing.
    Absent,
    /// A value.
    Present {
        /// The value.
        value: Value,
        /// Its version; zero while nobody has seen it.
        version: u64,
        /// The earliest time at which it may vanish by itself; the end of time for never.
        vanishes_from: u64,
    },
}

/// Whether eviction may take values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// It may not.
    Impossible,
    /// It may, at any time.
    Possible,
}

/// The model of one key, absent at first.
#[derive(Clone, Copy, Debug)]
pub struct Register {
    /// Whether eviction may take its value.
    pub eviction: Eviction,
}

/// Checks the history of one key: [`crate::check`], with first attempts that believe in appends
/// and increments of unknown outcome only where somebody has seen what they lead to, or has seen
/// its length. Most histories are accepted by them; without them, those that nobody saw are tried
/// in all orders everywhere.
///
/// # Errors
/// As [`crate::check`].
pub fn check(
    register: Register,
    operations: &[Operation<Input, Output>],
    steps: u64,
) -> Result<Vec<usize>, Violation> {
    let mut guided = Guided { register, traces: Traces::of(operations), is_strict: true };
    crate::check(&guided, operations, steps / 4)
        .or_else(|_| {
            guided.is_strict = false;
            crate::check(&guided, operations, steps / 4)
        })
        .or_else(|_| crate::check(&register, operations, steps / 2))
}

/// What the answers of a history show of the values a key held.
struct Traces<'a> {
    /// All beginnings of all values that were seen.
    beginnings: HashSet<&'a [u8]>,
    /// The lengths that appends of known outcome found.
    lengths: HashSet<u64>,
    /// The numbers that increments of known outcome found.
    numbers: HashSet<i64>,
}

impl<'a> Traces<'a> {
    fn of(operations: &'a [Operation<Input, Output>]) -> Self {
        let mut traces =
            Traces { beginnings: HashSet::new(), lengths: HashSet::new(), numbers: HashSet::new() };
        // Only appends lead from one value to a longer one.
        let grows = operations.iter().any(|other| matches!(other.input, Input::Append(_)));
        for operation in operations {
            let Some(output) = operation.output() else { continue };
            let value = output.value.as_deref().unwrap_or_default();
            let shortest = if grows { 1 } else { value.len().max(1) };
            traces.beginnings.extend((shortest..=value.len()).map(|length| &value[..length]));
            match &operation.input {
                Input::Append(tail) if output.status == Status::Ok => {
                    traces.lengths.insert(output.number.wrapping_sub(tail.len() as u64));
                }
                Input::Increment(delta) if output.status == Status::Ok => {
                    traces.numbers.insert((output.number as i64).wrapping_sub(*delta));
                }
                _ => {}
            }
        }
        traces
    }

    /// Whether an append or an increment that led to `state` left a trace; a strict one, or any.
    fn show(&self, input: &Input, state: &State, is_strict: bool) -> bool {
        let Some(value) = value_of(state) else { return true };
        self.beginnings.contains(&value[..])
            || match input {
                Input::Append(_) => !is_strict && self.lengths.contains(&(value.len() as u64)),
                Input::Increment(_) => number(value).is_some_and(|n| self.numbers.contains(&n)),
                _ => true,
            }
    }
}

/// A register in which nothing of unknown outcome happens without a trace.
struct Guided<'a> {
    register: Register,
    traces: Traces<'a>,
    is_strict: bool,
}

impl Model for Guided<'_> {
    type State = State;
    type Input = Input;
    type Output = Output;

    fn initial(&self) -> State {
        self.register.initial()
    }

    fn rank(&self, operation: &Operation<Input, Output>) -> u64 {
        self.register.rank(operation)
    }

    fn step(&self, state: &State, operation: &Operation<Input, Output>, next: &mut Vec<State>) {
        self.register.step(state, operation, next);
        // On an absent key it matters already that there is a value, whichever.
        if operation.output().is_none() && *state != State::Absent {
            next.retain(|state| self.traces.show(&operation.input, state, self.is_strict));
        }
    }
}

impl Register {
    fn may_vanish(&self, state: &State, operation: &Operation<Input, Output>) -> bool {
        match state {
            State::Absent => false,
            State::Present { vanishes_from, .. } => {
                self.eviction == Eviction::Possible || *vanishes_from <= operation.returned()
            }
        }
    }
}

impl Model for Register {
    type State = State;
    type Input = Input;
    type Output = Output;

    fn initial(&self) -> State {
        State::Absent
    }

    fn step(&self, state: &State, operation: &Operation<Input, Output>, next: &mut Vec<State>) {
        let vanished = self.may_vanish(state, operation).then_some(State::Absent);
        for state in std::iter::once(state).chain(&vanished) {
            let after = match &operation.outcome {
                Outcome::Returned { output, .. } => explain(state, operation, output),
                Outcome::Unknown => effect(state, operation),
            };
            next.extend(after.filter(|after| !next.contains(after)));
        }
    }
}

/// The state after an operation whose answer nobody got, if it has an effect at all. Without one
/// it need not be placed in the order.
fn effect(state: &State, operation: &Operation<Input, Output>) -> Option<State> {
    let (value, vanishes_from) = match state {
        State::Absent => (None, u64::MAX),
        State::Present { value, vanishes_from, .. } => (Some(value), *vanishes_from),
    };
    match &operation.input {
        Input::Get => Some(state.clone()),
        Input::Set { value: new, condition, lives, .. } => {
            let holds = match (condition, state) {
                (Condition::Always, _)
                | (Condition::IfAbsent, State::Absent)
                | (Condition::IfPresent, State::Present { .. }) => true,
                // Whoever names a version has it from an operation that came before and showed it.
                (Condition::IfVersion(wanted), State::Present { version, .. }) => version == wanted,
                _ => false,
            };
            let vanishes_from = lives.map_or(u64::MAX, |lives| operation.called + lives);
            holds.then(|| State::Present { value: new.clone(), version: 0, vanishes_from })
        }
        Input::Increment(delta) => {
            let sum = value.map_or(Some(0), |value| number(value))?.checked_add(*delta)?;
            let value = sum.to_string().into_bytes().into();
            Some(State::Present { value, version: 0, vanishes_from })
        }
        Input::Append(tail) => {
            let head = value.map_or(&[][..], |value| value);
            let value = [head, tail].concat().into();
            Some(State::Present { value, version: 0, vanishes_from })
        }
        Input::Delete { .. } => value.map(|_| State::Absent),
    }
}

/// The state after an operation that got this answer, if it can get it in `state`.
fn explain(state: &State, operation: &Operation<Input, Output>, output: &Output) -> Option<State> {
    let is_absent = *state == State::Absent;
    let shows_old = match &operation.input {
        Input::Set { return_old, .. } | Input::Delete { return_old } => *return_old,
        Input::Get => true,
        Input::Increment(_) | Input::Append(_) => false,
    };
    match (&operation.input, output.status) {
        (Input::Get, Status::Ok) => observe(state, output.value.as_ref()?, output.version),
        (
            Input::Get
            | Input::Delete { .. }
            | Input::Set { condition: Condition::IfPresent | Condition::IfVersion(_), .. },
            Status::NotFound,
        ) => is_absent.then_some(State::Absent),
        (Input::Set { condition: Condition::IfAbsent, .. }, Status::Exists) => {
            refused(state, output, shows_old)
        }
        (Input::Set { condition: Condition::IfVersion(wanted), .. }, Status::ConditionFailed) => {
            let held = match state {
                State::Present { version, .. } => *version,
                State::Absent => 0,
            };
            let differs = output.version != *wanted && held != *wanted;
            refused(state, output, shows_old).filter(|_| differs)
        }
        (Input::Increment(_), Status::NotANumber) => {
            let State::Present { value, .. } = state else { return None };
            number(value).is_none().then(|| state.clone())
        }
        (_, Status::Ok) => {
            if shows_old && output.value.as_ref() != value_of(state) {
                return None;
            }
            if matches!(operation.input, Input::Set { .. })
                && output.number != u64::from(!is_absent)
                && output.number != UNTOLD
            {
                return None;
            }
            let after = effect(state, operation)?;
            match &operation.input {
                Input::Increment(_) => {
                    let State::Present { value, .. } = &after else { return None };
                    (number(value)? as u64 == output.number).then_some(())?;
                }
                Input::Append(_) => {
                    let State::Present { value, .. } = &after else { return None };
                    let is_told = output.number != UNTOLD;
                    (!is_told || value.len() as u64 == output.number).then_some(())?;
                }
                _ => {}
            }
            with_version(after, output.version)
        }
        _ => None,
    }
}

fn value_of(state: &State) -> Option<&Value> {
    match state {
        State::Absent => None,
        State::Present { value, .. } => Some(value),
    }
}

/// `state`, if it holds `value` at `version`; the version may be new to it.
fn observe(state: &State, value: &Value, version: u64) -> Option<State> {
    match state {
        State::Present { value: held, version: known, vanishes_from }
            if held == value && (*known == 0 || *known == version || version == UNTOLD) =>
        {
            let version = if version == UNTOLD { *known } else { version };
            Some(State::Present { value: held.clone(), version, vanishes_from: *vanishes_from })
        }
        _ => None,
    }
}

/// A command that was refused shows the version that stood in its way, and the value if asked.
fn refused(state: &State, output: &Output, shows_value: bool) -> Option<State> {
    let held = value_of(state)?;
    if shows_value && output.value.as_ref() != Some(held) {
        return None;
    }
    observe(state, held, output.version)
}

fn with_version(state: State, seen: u64) -> Option<State> {
    match state {
        State::Absent => matches!(seen, 0 | UNTOLD).then_some(State::Absent),
        State::Present { value, vanishes_from, .. } => {
            let version = if seen == UNTOLD { 0 } else { seen };
            (seen != 0).then_some(State::Present { value, version, vanishes_from })
        }
    }
}

fn number(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
