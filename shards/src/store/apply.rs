//! One write command: what it does to the store, and what it came to.
//!
//! Set, Extend, Increment and Expire follow Redis, Count follows memcached. Where one of them has
//! a choice the contract in `command.rs` decides. A condition that names a version never creates
//! a key. A command that is refused changes nothing, not even the order of use; one that takes
//! effect makes its key the one used last.
//!
//! The hot path, per command and on every replica: [`Store::apply`] for `Set`. What must not be
//! added there: a view of the whole entry (`Entries::get`) where one field is wanted, a copy of a
//! value that nobody asked for.

use super::arena::Address;
use super::entries::{Content, NO_DEADLINE};
use super::numbers::{Decimal, parse_signed, parse_unsigned};
use super::policy::ActivePolicy;
use super::table::KeyHash;
use super::{
    Answer, DEADLINE_MAX, Outcome, SHARD_BYTES_MAX, Store, accounted_bytes, point, time_left,
};
use crate::command::{Command, End, ExpireCondition, Expiry, Operation, SetCondition};
use crate::ids::{Millis, Version};
use crate::reply::Status;

/// What a command works on.
#[derive(Clone, Copy)]
struct Target<'a> {
    key: &'a [u8],
    hash: KeyHash,
    /// The live entry, if there is one.
    found: Option<Address>,
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
    Entry(Address),
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
    /// The entry that was written, which is not evicted for its own sake.
    written: Address,
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
            written: Address::NONE,
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
            Operation::Limit { bytes_max: limit, eviction } => {
                let limit = limit.map_or(self.bytes_max, |limit| limit.min(SHARD_BYTES_MAX));
                let number = std::mem::replace(&mut self.bytes_max, limit);
                if let Some(eviction) = eviction.filter(|wanted| *wanted != self.eviction()) {
                    self.policy = ActivePolicy::new(eviction, Address::NONE);
                }
                Effect { number, ..Effect::bare(Status::Ok) }
            }
            _ => self.apply_to_key(version, command, answer),
        };
        self.make_room(bytes_max, effect.written);
        Outcome {
            status: effect.status,
            flags: effect.flags,
            version: effect.version,
            number: effect.number,
            expires_in: time_left(effect.deadline, self.stamp),
            expires_at: point(effect.deadline),
            value: match effect.value {
                Source::None => None,
                Source::Entry(entry) => Some(self.entries.get(entry).value()),
                Source::Parting => Some(&self.parting),
            },
        }
    }

    fn apply_to_key(&mut self, version: Version, command: &Command<'_>, answer: Answer) -> Effect {
        let key = command.key;
        let hash = self.hash(key);
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
                    (None, Some(entry)) => self.part_with(entry, old),
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
    fn find_live(&mut self, hash: KeyHash, key: &[u8]) -> Option<Address> {
        let entry = self.find(hash, key)?;
        if self.entries.deadline(entry) <= self.stamp.0 {
            self.remove(entry);
            self.statistics.expired += 1;
            return None;
        }
        Some(entry)
    }

    /// The outcome of a command that changes nothing: it describes the entry as it is.
    fn refuse(&self, target: Target<'_>, status: Status, old: OldValue) -> Effect {
        let Some(entry) = target.found else { return Effect::bare(status) };
        let value = if old == OldValue::Keep { Source::Entry(entry) } else { Source::None };
        Effect { status, value, number: 0, ..self.describe(entry) }
    }

    /// The outcome that describes an entry: `number` is the value's length.
    fn describe(&self, address: Address) -> Effect {
        let entry = self.entries.get(address);
        Effect {
            flags: entry.flags(),
            version: entry.version(),
            number: entry.value().len() as u64,
            deadline: entry.deadline(),
            ..Effect::bare(Status::Ok)
        }
    }

    /// The outcome that describes an entry that was written.
    fn describe_written(&self, written: Address) -> Effect {
        Effect { written, ..self.describe(written) }
    }

    /// Whether a value is too long for its setting, or for the limit even if it had a deadline and
    /// flags.
    fn is_too_large(&self, key: &[u8], value_len: usize) -> bool {
        value_len as u64 > self.value_bytes_max
            || accounted_bytes(key.len(), value_len, true, true) > self.bytes_max
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
            (SetCondition::IfVersion(version), Some(entry)) => {
                (self.entries.version(entry) != version).then_some(Status::ConditionFailed)
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
            Some(entry) => (version != Version(0) && version != self.entries.version(entry))
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
        let current = match (expiry, target.found) {
            (Expiry::Keep, Some(entry)) => self.entries.deadline(entry),
            _ => NO_DEADLINE,
        };
        let deadline = match self.life(expiry, current) {
            Life::Beyond => return self.refuse(target, Status::Invalid, OldValue::Drop),
            Life::Until(deadline) => deadline,
            Life::Over => {
                let parted = target.found.map(|entry| self.part_with(entry, old));
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
        let content = Content {
            version: target.version,
            flags,
            deadline,
            key: target.key,
            value: [value, &[]],
        };
        let Some(entry) = target.found else {
            let entry = self.insert(target.hash, &content);
            return Effect { written: entry, ..written };
        };
        let mut effect = written;
        if old == OldValue::Keep {
            let former = self.entries.get(entry);
            effect.flags = former.flags();
            effect.value = Source::Parting;
            self.parting = former.value().to_vec();
        }
        effect.written = self.rewrite(target.hash, entry, &content);
        effect
    }

    fn extend(&mut self, target: Target<'_>, end: End, addition: &[u8]) -> Effect {
        let old_len = target.found.map_or(0, |entry| self.entries.get(entry).value().len());
        if self.is_too_large(target.key, old_len + addition.len()) {
            return self.refuse(target, Status::TooLarge, OldValue::Drop);
        }
        let number = (old_len + addition.len()) as u64;
        let Some(entry) = target.found else { return self.create(target, addition, number) };
        let (flags, deadline) = {
            let entry = self.entries.get(entry);
            (entry.flags(), entry.deadline())
        };
        let version = target.version;
        if end == End::Back && self.entries.has_block(entry) {
            let entry = self.rewrite_with(target.hash, entry, deadline, |entries| {
                entries.append_to_block(entry, addition);
                entries.set_fields(entry, version, flags, deadline);
                entry
            });
            return self.describe_written(entry);
        }
        let old = self.entries.get(entry).value().to_vec();
        let value = match end {
            End::Front => [addition, &old],
            End::Back => [&old, addition],
        };
        let content = Content { version, flags, deadline, key: target.key, value };
        let entry = self.rewrite(target.hash, entry, &content);
        self.describe_written(entry)
    }

    fn increment(&mut self, target: Target<'_>, delta: i64) -> Effect {
        let current = match target.found {
            None => Some(0),
            Some(entry) => parse_signed(self.entries.get(entry).value()),
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
        if let Some(entry) = target.found {
            let Some(current) = parse_unsigned(self.entries.get(entry).value()) else {
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
        let Some(entry) = target.found else { return self.create(target, text, number) };
        let content = {
            let entry = self.entries.get(entry);
            Content {
                version: target.version,
                flags: entry.flags(),
                deadline: entry.deadline(),
                key: target.key,
                value: [text, &[]],
            }
        };
        let entry = self.rewrite(target.hash, entry, &content);
        Effect { number, ..self.describe_written(entry) }
    }

    /// Stores a new entry without flags and deadline.
    fn create(&mut self, target: Target<'_>, value: &[u8], number: u64) -> Effect {
        let content = Content {
            version: target.version,
            flags: 0,
            deadline: NO_DEADLINE,
            key: target.key,
            value: [value, &[]],
        };
        let written = self.insert(target.hash, &content);
        Effect { version: target.version, number, written, ..Effect::bare(Status::Ok) }
    }

    /// Removes an entry. The outcome has what was before, but for version and deadline.
    fn part_with(&mut self, entry: Address, old: OldValue) -> Effect {
        let before = self.describe(entry);
        let mut effect = Effect { version: Version(0), number: 0, deadline: NO_DEADLINE, ..before };
        if old == OldValue::Keep {
            self.parting = self.entries.get(entry).value().to_vec();
            effect.value = Source::Parting;
        }
        self.remove(entry);
        effect
    }

    fn expire(
        &mut self,
        target: Target<'_>,
        expiry: Expiry,
        condition: ExpireCondition,
        value: OldValue,
    ) -> Effect {
        let Some(entry) = target.found else { return Effect::bare(Status::NotFound) };
        let (current, version) = {
            let entry = self.entries.get(entry);
            (entry.deadline(), entry.version())
        };
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
            let number = self.entries.get(entry).value().len() as u64;
            return Effect { number, ..self.part_with(entry, value) };
        }
        let entry = self.renew(target.hash, entry, version, new);
        let source = if value == OldValue::Keep { Source::Entry(entry) } else { Source::None };
        Effect { value: source, ..self.describe_written(entry) }
    }
}

/// Which way memcached's counter goes.
#[derive(Clone, Copy)]
enum Change {
    Up(u64),
    Down(u64),
}
