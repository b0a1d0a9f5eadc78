//! A naive store: a sorted map, a list of keys, and the rules written down a second time.

use super::Seen;
use crate::command::{Command, End, ExpireCondition, Expiry, Operation, SetCondition};
use crate::ids::Eviction;
use crate::ids::{Millis, Version};
use crate::reply::Status;
use crate::store::{EVICTED_PER_ENTRY_MAX, EXPIRED_PER_ENTRY_MAX, accounted_bytes};
use std::collections::{BTreeMap, BTreeSet};

const NEVER: u64 = u64::MAX;

#[derive(Clone, Debug)]
struct Entry {
    value: Vec<u8>,
    flags: u32,
    version: Version,
    deadline: u64,
}

pub(super) struct Model {
    entries: BTreeMap<Vec<u8>, Entry>,
    /// Oldest first.
    order: Vec<Vec<u8>>,
    pub stamp: u64,
    bytes_max: u64,
    value_bytes_max: u64,
    eviction: Eviction,
    visited: BTreeSet<Vec<u8>>,
    /// The key that the hand of SIEVE points to.
    hand: Option<Vec<u8>>,
    pub evicted: u64,
    pub expired: u64,
}

/// What a command does to its key.
enum Verdict {
    Refuse(Status),
    Store { entry: Entry, number: u64 },
    Remove { number: u64 },
}

impl Model {
    pub fn new(bytes_max: u64, value_bytes_max: u64, eviction: Eviction) -> Self {
        Model {
            entries: BTreeMap::new(),
            order: Vec::new(),
            stamp: 0,
            bytes_max,
            value_bytes_max,
            eviction,
            visited: BTreeSet::new(),
            hand: None,
            evicted: 0,
            expired: 0,
        }
    }

    pub fn keys(&self) -> usize {
        self.entries.len()
    }

    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|(key, entry)| cost(key, entry)).sum()
    }

    pub fn order_newest_first(&self) -> impl Iterator<Item = &[u8]> {
        self.order.iter().rev().map(Vec::as_slice)
    }

    pub fn version_of(&self, key: &[u8]) -> Option<Version> {
        self.entries.get(key).map(|entry| entry.version)
    }

    fn forget(&mut self, key: &[u8]) {
        self.entries.remove(key);
        self.visited.remove(key);
        if self.hand.as_deref() == Some(key) {
            let behind = self.order.iter().skip_while(|other| *other != key).nth(1);
            self.hand = behind.cloned();
        }
        self.order.retain(|other| other != key);
    }

    /// The key that goes next, where `written` does not.
    fn victim(&mut self, written: &[u8]) -> Vec<u8> {
        if self.eviction == Eviction::Lru {
            return self.order[0].clone();
        }
        let start = self.order.iter().position(|key| Some(key) == self.hand.as_ref());
        let mut at = start.unwrap_or(0);
        let mut taken = 0;
        loop {
            let key = self.order[at].clone();
            if key != written {
                if taken == 256 || !self.visited.remove(&key) {
                    self.hand = Some(key.clone());
                    return key;
                }
                taken += 1;
            }
            at = (at + 1) % self.order.len();
        }
    }

    fn first_due(&self) -> Option<Vec<u8>> {
        let due = self.entries.iter().filter(|(_, entry)| entry.deadline <= self.stamp);
        due.min_by_key(|(_, entry)| (entry.deadline, entry.version)).map(|(key, _)| key.clone())
    }

    pub fn begin_entry(&mut self, stamp: u64) {
        self.stamp = self.stamp.max(stamp);
        for _ in 0..EXPIRED_PER_ENTRY_MAX {
            let Some(key) = self.first_due() else { break };
            self.forget(&key);
            self.expired += 1;
        }
        for _ in 0..EVICTED_PER_ENTRY_MAX {
            if self.bytes() > self.bytes_max {
                self.evict_one(b"none has this key");
            }
        }
    }

    fn evict_one(&mut self, written: &[u8]) {
        let due = self.first_due();
        *(if due.is_some() { &mut self.expired } else { &mut self.evicted }) += 1;
        let victim = due.unwrap_or_else(|| self.victim(written));
        self.forget(&victim);
    }

    /// The reply to a read, or `None` if the key is due by `running` but not by the stamp.
    pub fn read(&self, command: &Command<'_>, running: u64) -> Option<Seen> {
        if command.operation == Operation::KeyCount {
            let live = self.entries.values().filter(|entry| entry.deadline > self.stamp);
            return Some(Seen { number: live.count() as u64, ..bare(Status::Ok) });
        }
        match self.entries.get(command.key).filter(|entry| entry.deadline > self.stamp) {
            None => Some(bare(Status::NotFound)),
            Some(entry) if entry.deadline <= running => None,
            Some(entry) => {
                let value =
                    matches!(command.operation, Operation::Get { .. }).then(|| entry.value.clone());
                let number = entry.value.len() as u64;
                Some(Seen { number, value, ..describe(Some(entry), Status::Ok) })
            }
        }
    }

    pub fn apply(&mut self, version: Version, command: &Command<'_>) -> Seen {
        if command.operation == Operation::Flush {
            let number = self.entries.len() as u64;
            self.entries.clear();
            self.order.clear();
            self.visited.clear();
            self.hand = None;
            return Seen { number, ..bare(Status::Ok) };
        }
        if let Operation::Limit { bytes_max, eviction } = command.operation {
            let number = self.bytes_max;
            self.bytes_max = bytes_max.unwrap_or(number);
            if eviction.is_some_and(|eviction| eviction != self.eviction) {
                self.hand = None;
            }
            self.eviction = eviction.unwrap_or(self.eviction);
            return Seen { number, ..bare(Status::Ok) };
        }
        let bytes_max = self.bytes_max.max(self.bytes());
        let key = command.key;
        if self.entries.get(key).is_some_and(|entry| entry.deadline <= self.stamp) {
            self.forget(key);
            self.expired += 1;
        }
        let before = self.entries.get(key).cloned();
        let mut verdict = self.judge(version, command, before.as_ref());
        if let Verdict::Store { entry, .. } = &verdict {
            let grew = before.as_ref().is_none_or(|old| old.value != entry.value);
            if grew && self.is_too_large(key, &entry.value) {
                verdict = Verdict::Refuse(Status::TooLarge);
            }
        }
        let seen = outcome(command, before.as_ref(), &verdict);
        match verdict {
            Verdict::Refuse(_) => {}
            Verdict::Remove { .. } => self.forget(key),
            Verdict::Store { entry, .. } => {
                let was_there = self.entries.insert(key.to_vec(), entry).is_some();
                if self.eviction == Eviction::Sieve && was_there {
                    self.visited.insert(key.to_vec());
                } else {
                    self.order.retain(|other| other != key);
                    self.order.push(key.to_vec());
                }
            }
        }
        while self.bytes() > bytes_max {
            self.evict_one(key);
        }
        seen
    }

    fn judge(&self, version: Version, command: &Command<'_>, before: Option<&Entry>) -> Verdict {
        let asked = match command.operation {
            Operation::Extend { version, .. }
            | Operation::Count { version, .. }
            | Operation::Delete { version, .. } => version,
            _ => Version(0),
        };
        if asked != Version(0) {
            match before {
                None => return Verdict::Refuse(Status::NotFound),
                Some(entry) if entry.version != asked => {
                    return Verdict::Refuse(Status::ConditionFailed);
                }
                Some(_) => {}
            }
        }
        let fresh = Entry { value: Vec::new(), flags: 0, version, deadline: NEVER };
        let base = before.cloned().map_or(fresh, |entry| Entry { version, ..entry });
        match command.operation {
            Operation::Set { value, flags, condition, expiry, .. } => {
                let entry = Entry { value: value.to_vec(), flags, ..base };
                self.judge_set(command.key, entry, condition, expiry, before)
            }
            Operation::Extend { end, value, create, .. } => {
                if before.is_none() && !create {
                    return Verdict::Refuse(Status::NotFound);
                }
                let value = match end {
                    End::Front => [value, &base.value].concat(),
                    End::Back => [&base.value, value].concat(),
                };
                Verdict::Store { number: value.len() as u64, entry: Entry { value, ..base } }
            }
            Operation::Increment { delta } => {
                let text = before.map_or("0".into(), |entry| text_of(&entry.value));
                let Some(number) = text.parse::<i64>().ok().filter(|n| n.to_string() == text)
                else {
                    return Verdict::Refuse(Status::NotANumber);
                };
                match number.checked_add(delta) {
                    None => Verdict::Refuse(Status::Overflow),
                    Some(sum) => {
                        let value = sum.to_string().into_bytes();
                        Verdict::Store { entry: Entry { value, ..base }, number: sum as u64 }
                    }
                }
            }
            Operation::Count { delta, decrement, initial, .. } => {
                self.judge_count(base, before, delta, decrement, initial)
            }
            Operation::Delete { .. } if before.is_none() => Verdict::Refuse(Status::NotFound),
            Operation::Delete { .. } => Verdict::Remove { number: 0 },
            Operation::Expire { expiry, condition, .. } => {
                self.judge_expire(before, expiry, condition)
            }
            _ => Verdict::Refuse(Status::Invalid),
        }
    }

    /// The deadline that an expiry means: `Err(Invalid)` if there is no such time.
    fn deadline(&self, expiry: Expiry, current: u64) -> Result<u64, Status> {
        let deadline = match expiry {
            Expiry::Never => return Ok(NEVER),
            Expiry::Keep => return Ok(current),
            Expiry::In(span) => u128::from(self.stamp) + u128::from(span.0),
            Expiry::At(point) => u128::from(point.0),
        };
        match u64::try_from(deadline) {
            Ok(deadline) if deadline <= i64::MAX as u64 => Ok(deadline.max(self.stamp)),
            _ => Err(Status::Invalid),
        }
    }

    fn is_too_large(&self, key: &[u8], value: &[u8]) -> bool {
        value.len() as u64 > self.value_bytes_max
            || accounted_bytes(key.len(), value.len(), true, true) > self.bytes_max
    }

    fn judge_set(
        &self,
        key: &[u8],
        entry: Entry,
        condition: SetCondition,
        expiry: Expiry,
        before: Option<&Entry>,
    ) -> Verdict {
        let refused = match (condition, before) {
            (SetCondition::IfAbsent, Some(_)) => Some(Status::Exists),
            (SetCondition::IfPresent, None) => Some(Status::NotFound),
            (SetCondition::IfVersion(_), None) => Some(Status::NotFound),
            (SetCondition::IfVersion(version), Some(before)) if version != before.version => {
                Some(Status::ConditionFailed)
            }
            _ => None,
        };
        let too_large = self.is_too_large(key, &entry.value);
        if let Some(status) = refused.filter(|_| !too_large) {
            return Verdict::Refuse(status);
        }
        let number = u64::from(before.is_some());
        match self.deadline(expiry, before.map_or(NEVER, |before| before.deadline)) {
            _ if too_large => Verdict::Refuse(Status::TooLarge),
            Err(status) => Verdict::Refuse(status),
            Ok(deadline) if deadline <= self.stamp => Verdict::Remove { number },
            Ok(deadline) => Verdict::Store { entry: Entry { deadline, ..entry }, number },
        }
    }

    fn judge_count(
        &self,
        base: Entry,
        before: Option<&Entry>,
        delta: u64,
        decrement: bool,
        initial: Option<(u64, Expiry)>,
    ) -> Verdict {
        let Some(before) = before else {
            let Some((number, expiry)) = initial else {
                return Verdict::Refuse(Status::NotFound);
            };
            let value = number.to_string().into_bytes();
            return match self.deadline(expiry, NEVER) {
                Err(status) => Verdict::Refuse(status),
                Ok(deadline) if deadline <= self.stamp => Verdict::Remove { number },
                Ok(deadline) => Verdict::Store { entry: Entry { value, deadline, ..base }, number },
            };
        };
        let text = text_of(&before.value);
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let Some(current) = text.parse::<u64>().ok().filter(|_| digits && text.len() <= 20) else {
            return Verdict::Refuse(Status::NotANumber);
        };
        let number =
            if decrement { current.saturating_sub(delta) } else { current.wrapping_add(delta) };
        Verdict::Store { entry: Entry { value: number.to_string().into_bytes(), ..base }, number }
    }

    fn judge_expire(
        &self,
        before: Option<&Entry>,
        expiry: Expiry,
        condition: ExpireCondition,
    ) -> Verdict {
        let Some(before) = before else { return Verdict::Refuse(Status::NotFound) };
        let deadline = match self.deadline(expiry, before.deadline) {
            Ok(deadline) => deadline,
            Err(status) => return Verdict::Refuse(status),
        };
        let holds = match condition {
            ExpireCondition::Always => true,
            ExpireCondition::IfNone => before.deadline == NEVER,
            ExpireCondition::IfSome => before.deadline != NEVER,
            ExpireCondition::IfLater => deadline > before.deadline,
            ExpireCondition::IfEarlier => deadline < before.deadline,
        };
        let number = before.value.len() as u64;
        if !holds {
            Verdict::Refuse(Status::ConditionFailed)
        } else if deadline <= self.stamp {
            Verdict::Remove { number }
        } else {
            Verdict::Store { entry: Entry { deadline, ..before.clone() }, number }
        }
    }
}

fn cost(key: &[u8], entry: &Entry) -> u64 {
    let has_deadline = entry.deadline != NEVER;
    accounted_bytes(key.len(), entry.value.len(), has_deadline, entry.flags != 0)
}

fn text_of(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

fn bare(status: Status) -> Seen {
    describe(None, status)
}

fn describe(entry: Option<&Entry>, status: Status) -> Seen {
    Seen {
        status,
        flags: entry.map_or(0, |entry| entry.flags),
        version: entry.map_or(Version(0), |entry| entry.version),
        number: 0,
        expires_at: entry
            .filter(|entry| entry.deadline != NEVER)
            .map(|entry| Millis(entry.deadline)),
        value: None,
    }
}

/// The reply to a write.
fn outcome(command: &Command<'_>, before: Option<&Entry>, verdict: &Verdict) -> Seen {
    let (wanted, is_expire) = match command.operation {
        Operation::Set { return_old, .. } | Operation::Delete { return_old, .. } => {
            (return_old, false)
        }
        Operation::Expire { return_value, .. } => (return_value, true),
        _ => (false, false),
    };
    let old = before.filter(|_| wanted).map(|entry| entry.value.clone());
    let old_flags = before.map_or(0, |entry| entry.flags);
    match verdict {
        Verdict::Refuse(Status::Invalid) => describe(before, Status::Invalid),
        Verdict::Refuse(status) => Seen { value: old, ..describe(before, *status) },
        Verdict::Remove { number } => {
            Seen { number: *number, flags: old_flags, value: old, ..bare(Status::Ok) }
        }
        Verdict::Store { entry, number } => {
            let flags = if wanted && before.is_some() { old_flags } else { entry.flags };
            let value = if is_expire && wanted { Some(entry.value.clone()) } else { old };
            Seen { number: *number, flags, value, ..describe(Some(entry), Status::Ok) }
        }
    }
}
