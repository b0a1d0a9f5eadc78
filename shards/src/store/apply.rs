//! One write command: what it does to the store, and what it came to.
//!
//! Set, Extend, Increment and Expire follow Redis, Count follows memcached. Where one of them has
//! a choice the contract in `command.rs` decides. A condition that names a version never creates
//! a key. A command that is refused changes nothing, not even the order of use; one that takes
//! effect makes its key the one used last.

use super::accounting::entry_bytes;
use super::numbers::{Decimal, parse_signed, parse_unsigned};
use super::slab::{self, NO_DEADLINE};
use super::table::KeyHash;
use super::{Answer, DEADLINE_MAX, Outcome, Store, point, time_left};
use crate::command::{Command, End, ExpireCondition, Expiry, Operation, SetCondition};
use crate::ids::{Millis, Version};
use crate::reply::Status;

/// What a command works on.
#[derive(Clone, Copy)]
struct Target<'a> {
    key: &'a [u8],
    hash: KeyHash,
    /// The live entry, if there is one.
    found: Option<u32>,
    /// What a write gives to the entry.
    version: Version,
}

/// Whether the value from before goes into the outcome.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OldValue {
    Keep,
    Drop,
}

/// Where the outcome's value is found once all is done.
#[derive(Clone, Copy)]
enum Source {
    None,
    Entry(u32),
    Parting,
}

/// An outcome that does not borrow yet.
#[derive(Clone, Copy)]
struct Effect {
    status: Status,
    flags: u32,
    version: Version,
    number: u64,
    deadline: u64,
    value: Source,
}

impl Effect {
    fn bare(status: Status) -> Self {
        Effect {
            status,
            flags: 0,
            version: Version(0),
            number: 0,
            deadline: NO_DEADLINE,
            value: Source::None,
        }
    }
}

/// What an [`Expiry`] comes to at a stamp.
enum Life {
    /// The entry lives until this deadline, which may be [`NO_DEADLINE`].
    Until(u64),
    /// It is over.
    Over,
    /// The deadline cannot be expressed.
    Beyond,
}

impl Store {
    /// Applies one write command. `version` is unique to it. Evicts afterwards while the bytes
    /// exceed the limit, or what they were before if that was more: a limit that was lowered is
    /// reached in steps, at the start of entries. With [`Answer::Unwanted`] the outcome carries no
    /// value.
    ///
    /// A command that is not a write changes nothing and comes to [`Status::Invalid`].
    pub fn apply(
        &mut self,
        version: Version,
        command: &Command<'_>,
        answer: Answer,
    ) -> Outcome<'_> {
        let bytes_max = self.bytes.max(self.bytes_max);
        let effect = match command.operation {
            Operation::Get { .. } | Operation::Inspect { .. } | Operation::KeyCount => {
                Effect::bare(Status::Invalid)
            }
            Operation::Flush => {
                let number = self.keys();
                self.flush();
                Effect { number, ..Effect::bare(Status::Ok) }
            }
            Operation::Limit { bytes_max } => {
                let number = std::mem::replace(&mut self.bytes_max, bytes_max);
                Effect { number, ..Effect::bare(Status::Ok) }
            }
            _ => self.apply_to_key(version, command, answer),
        };
        self.evict_to(bytes_max);
        Outcome {
            status: effect.status,
            flags: effect.flags,
            version: effect.version,
            number: effect.number,
            expires_in: time_left(effect.deadline, self.stamp),
            expires_at: point(effect.deadline),
            value: match effect.value {
                Source::None => None,
                Source::Entry(slot) => Some(self.slab[slot].value()),
                Source::Parting => Some(slab::value_of(&self.parting)),
            },
        }
    }

    fn apply_to_key(&mut self, version: Version, command: &Command<'_>, answer: Answer) -> Effect {
        let key = command.key;
        let hash = self.table.hash(key);
        let found = self.find_live(hash, key);
        let target = Target { key, hash, found, version };
        let old_value = |wanted: bool| match answer {
            Answer::Wanted if wanted => OldValue::Keep,
            _ => OldValue::Drop,
        };
        match command.operation {
            Operation::Set { value, flags, condition, expiry, return_old } => {
                let old = old_value(return_old);
                match self.set_refusal(target, value, condition) {
                    Some(status) => self.refuse(target, status, old),
                    None => self.set(target, value, flags, expiry, old),
                }
            }
            Operation::Extend { end, value, create, version } => {
                match self.version_refusal(target, version, create) {
                    Some(status) => self.refuse(target, status, OldValue::Drop),
                    None => self.extend(target, end, value),
                }
            }
            Operation::Increment { delta } => self.increment(target, delta),
            Operation::Count { delta, decrement, initial, version } => {
                let change = if decrement { Change::Down(delta) } else { Change::Up(delta) };
                match self.version_refusal(target, version, initial.is_some()) {
                    Some(status) => self.refuse(target, status, OldValue::Drop),
                    None => self.count(target, change, initial),
                }
            }
            Operation::Delete { version, return_old } => {
                let old = old_value(return_old);
                match (self.version_refusal(target, version, false), found) {
                    (None, Some(slot)) => self.part_with(slot, old),
                    (status, _) => self.refuse(target, status.unwrap_or(Status::NotFound), old),
                }
            }
            Operation::Expire { expiry, condition, return_value } => {
                self.expire(target, expiry, condition, old_value(return_value))
            }
            Operation::Get { .. }
            | Operation::Inspect { .. }
            | Operation::KeyCount
            | Operation::Flush
            | Operation::Limit { .. } => Effect::bare(Status::Invalid),
        }
    }

    /// The live entry of `key`. One that is due is removed, as its turn would have come anyway.
    fn find_live(&mut self, hash: KeyHash, key: &[u8]) -> Option<u32> {
        let slot = self.table.find(&self.slab, hash, key)?;
        if self.slab[slot].is_due(self.stamp.0) {
            self.remove(slot);
            self.statistics.expired += 1;
            return None;
        }
        Some(slot)
    }

    /// The outcome of a command that changes nothing: it describes the entry as it is.
    fn refuse(&self, target: Target<'_>, status: Status, old: OldValue) -> Effect {
        let Some(slot) = target.found else { return Effect::bare(status) };
        let value = if old == OldValue::Keep { Source::Entry(slot) } else { Source::None };
        Effect { status, value, number: 0, ..self.describe(slot) }
    }

    /// The outcome that describes an entry: `number` is the value's length.
    fn describe(&self, slot: u32) -> Effect {
        let entry = &self.slab[slot];
        Effect {
            status: Status::Ok,
            flags: entry.flags,
            version: entry.version,
            number: entry.value().len() as u64,
            deadline: entry.deadline,
            value: Source::None,
        }
    }

    fn is_too_large(&self, key: &[u8], value_len: usize) -> bool {
        value_len as u64 > self.value_bytes_max
            || entry_bytes(key.len() + value_len) > self.bytes_max
    }

    fn set_refusal(
        &self,
        target: Target<'_>,
        value: &[u8],
        condition: SetCondition,
    ) -> Option<Status> {
        if self.is_too_large(target.key, value.len()) {
            return Some(Status::TooLarge);
        }
        match (condition, target.found) {
            (SetCondition::IfAbsent, Some(_)) => Some(Status::Exists),
            (SetCondition::IfPresent | SetCondition::IfVersion(_), None) => Some(Status::NotFound),
            (SetCondition::IfVersion(version), Some(slot)) => {
                (self.slab[slot].version != version).then_some(Status::ConditionFailed)
            }
            _ => None,
        }
    }

    /// Why a command that asks for `version` (zero for any) must not run.
    fn version_refusal(
        &self,
        target: Target<'_>,
        version: Version,
        create: bool,
    ) -> Option<Status> {
        match target.found {
            None => (!create || version != Version(0)).then_some(Status::NotFound),
            Some(slot) => (version != Version(0) && version != self.slab[slot].version)
                .then_some(Status::ConditionFailed),
        }
    }

    fn life(&self, expiry: Expiry, current: u64) -> Life {
        let deadline = match expiry {
            Expiry::Never => return Life::Until(NO_DEADLINE),
            Expiry::Keep => return Life::Until(current),
            Expiry::In(span) => self.stamp.0.saturating_add(span.0),
            Expiry::At(Millis(point)) => point,
        };
        if deadline > DEADLINE_MAX {
            Life::Beyond
        } else if deadline <= self.stamp.0 {
            Life::Over
        } else {
            Life::Until(deadline)
        }
    }

    fn set(
        &mut self,
        target: Target<'_>,
        value: &[u8],
        flags: u32,
        expiry: Expiry,
        old: OldValue,
    ) -> Effect {
        let current = target.found.map_or(NO_DEADLINE, |slot| self.slab[slot].deadline);
        let deadline = match self.life(expiry, current) {
            Life::Beyond => return self.refuse(target, Status::Invalid, OldValue::Drop),
            Life::Until(deadline) => deadline,
            Life::Over => {
                let parted = target.found.map(|slot| self.part_with(slot, old));
                let number = u64::from(parted.is_some());
                return Effect { number, ..parted.unwrap_or(Effect::bare(Status::Ok)) };
            }
        };
        let written = Effect {
            flags,
            version: target.version,
            number: u64::from(target.found.is_some()),
            deadline,
            ..Effect::bare(Status::Ok)
        };
        let Some(slot) = target.found else {
            self.insert(target.hash, target.key, value, |entry| {
                (entry.version, entry.flags, entry.deadline) = (target.version, flags, deadline);
            });
            return written;
        };
        let mut parting = None;
        let old_flags = self.slab[slot].flags;
        self.change(slot, |entry| {
            match old {
                OldValue::Keep => parting = Some(entry.exchange_value(value)),
                OldValue::Drop => entry.write_value(value),
            }
            (entry.version, entry.flags, entry.deadline) = (target.version, flags, deadline);
        });
        match parting {
            None => written,
            Some(parting) => {
                self.parting = parting;
                Effect { flags: old_flags, value: Source::Parting, ..written }
            }
        }
    }

    fn extend(&mut self, target: Target<'_>, end: End, addition: &[u8]) -> Effect {
        let old_len = target.found.map_or(0, |slot| self.slab[slot].value().len());
        if self.is_too_large(target.key, old_len + addition.len()) {
            return self.refuse(target, Status::TooLarge, OldValue::Drop);
        }
        let number = (old_len + addition.len()) as u64;
        let Some(slot) = target.found else { return self.create(target, addition, number) };
        self.change(slot, |entry| {
            match end {
                End::Front => entry.prepend(addition),
                End::Back => entry.append(addition),
            }
            entry.version = target.version;
        });
        self.describe(slot)
    }

    fn increment(&mut self, target: Target<'_>, delta: i64) -> Effect {
        let current = match target.found {
            None => Some(0),
            Some(slot) => parse_signed(self.slab[slot].value()),
        };
        let Some(current) = current else {
            return self.refuse(target, Status::NotANumber, OldValue::Drop);
        };
        match current.checked_add(delta) {
            None => self.refuse(target, Status::Overflow, OldValue::Drop),
            Some(sum) => self.write_number(target, &Decimal::signed(sum), sum as u64),
        }
    }

    fn count(
        &mut self,
        target: Target<'_>,
        change: Change,
        initial: Option<(u64, Expiry)>,
    ) -> Effect {
        if let Some(slot) = target.found {
            let Some(current) = parse_unsigned(self.slab[slot].value()) else {
                return self.refuse(target, Status::NotANumber, OldValue::Drop);
            };
            let number = match change {
                Change::Up(delta) => current.wrapping_add(delta),
                Change::Down(delta) => current.saturating_sub(delta),
            };
            return self.write_number(target, &Decimal::unsigned(number), number);
        }
        let Some((number, expiry)) = initial else { return Effect::bare(Status::NotFound) };
        let text = Decimal::unsigned(number);
        if self.is_too_large(target.key, text.as_bytes().len()) {
            return Effect::bare(Status::TooLarge);
        }
        let created = self.set(target, text.as_bytes(), 0, expiry, OldValue::Drop);
        let number = if created.status == Status::Ok { number } else { 0 };
        Effect { number, ..created }
    }

    /// Stores a counter's text; flags and deadline stay.
    fn write_number(&mut self, target: Target<'_>, text: &Decimal, number: u64) -> Effect {
        let text = text.as_bytes();
        if self.is_too_large(target.key, text.len()) {
            return self.refuse(target, Status::TooLarge, OldValue::Drop);
        }
        let Some(slot) = target.found else { return self.create(target, text, number) };
        self.change(slot, |entry| {
            entry.write_value(text);
            entry.version = target.version;
        });
        Effect { number, ..self.describe(slot) }
    }

    /// Stores a new entry without flags and deadline.
    fn create(&mut self, target: Target<'_>, value: &[u8], number: u64) -> Effect {
        self.insert(target.hash, target.key, value, |entry| entry.version = target.version);
        Effect { version: target.version, number, ..Effect::bare(Status::Ok) }
    }

    /// Removes an entry. The outcome has what was before, but for version and deadline.
    fn part_with(&mut self, slot: u32, old: OldValue) -> Effect {
        let before = self.describe(slot);
        let parting = self.remove(slot);
        let mut effect = Effect { version: Version(0), number: 0, deadline: NO_DEADLINE, ..before };
        if old == OldValue::Keep {
            self.parting = parting;
            effect.value = Source::Parting;
        }
        effect
    }

    fn expire(
        &mut self,
        target: Target<'_>,
        expiry: Expiry,
        condition: ExpireCondition,
        value: OldValue,
    ) -> Effect {
        let Some(slot) = target.found else { return Effect::bare(Status::NotFound) };
        let current = self.slab[slot].deadline;
        let life = self.life(expiry, current);
        let new = match life {
            Life::Beyond => return self.refuse(target, Status::Invalid, OldValue::Drop),
            Life::Until(deadline) => deadline,
            Life::Over => self.stamp.0,
        };
        let holds = match condition {
            ExpireCondition::Always => true,
            ExpireCondition::IfNone => current == NO_DEADLINE,
            ExpireCondition::IfSome => current != NO_DEADLINE,
            ExpireCondition::IfLater => new > current,
            ExpireCondition::IfEarlier => new < current,
        };
        if !holds {
            return self.refuse(target, Status::ConditionFailed, value);
        }
        if matches!(life, Life::Over) {
            let number = self.slab[slot].value().len() as u64;
            return Effect { number, ..self.part_with(slot, value) };
        }
        self.change(slot, |entry| entry.deadline = new);
        let source = if value == OldValue::Keep { Source::Entry(slot) } else { Source::None };
        Effect { value: source, ..self.describe(slot) }
    }
}

/// Which way memcached's counter goes.
#[derive(Clone, Copy)]
enum Change {
    Up(u64),
    Down(u64),
}
