//! An engine in a map: runs requests in order, answers them in any order.

use std::collections::HashMap;

use shards::command::{
    Command, End, ExpireCondition, Expiry, Operation, RequestBatch, SetCondition,
};
use shards::ids::{Eviction, Millis, ShardId};
use shards::reply::{Reply, Status, Token};

/// A seeded generator that shuffles (SplitMix64).
pub(crate) struct Shuffle(u64);

impl Shuffle {
    pub fn new(seed: u64) -> Self {
        Shuffle(seed)
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % end.max(1) as u64) as usize
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for position in (1..items.len()).rev() {
            items.swap(position, self.below(position + 1));
        }
    }
}

#[derive(Clone)]
struct Entry {
    shard: ShardId,
    value: Vec<u8>,
    deadline: Option<Millis>,
}

#[derive(Default)]
pub(crate) struct FakeEngine {
    entries: HashMap<Vec<u8>, Entry>,
    /// The limits that were set.
    pub limits: Vec<(ShardId, Option<u64>, Option<Eviction>)>,
    /// How many reads counted as uses of their keys, and how many did not.
    pub uses_and_peeks: (usize, usize),
    /// What every command comes to, instead of running.
    pub failure: Option<Status>,
    /// What commands on this key come to, instead of running.
    pub key_failure: Option<(Vec<u8>, Status)>,
}

impl FakeEngine {
    pub fn run(&mut self, batch: &RequestBatch, wall: Millis) -> Vec<(Reply, Option<Vec<u8>>)> {
        let mut replies = Vec::new();
        for request in batch.requests() {
            let bytes = batch.command_bytes(request);
            let (command, length) = Command::decode(bytes).expect("an encoded command");
            assert_eq!(length, bytes.len());
            assert_eq!(command.operation.is_read(), request.is_read);
            match command.operation {
                Operation::Get { peek: false } | Operation::Inspect { peek: false } => {
                    self.uses_and_peeks.0 += 1;
                }
                Operation::Get { peek: true } | Operation::Inspect { peek: true } => {
                    self.uses_and_peeks.1 += 1;
                }
                _ => {}
            }
            let key_failure = self.key_failure.as_ref().filter(|(key, _)| key == command.key);
            let failure = self.failure.or(key_failure.map(|&(_, status)| status));
            replies.push(match failure {
                Some(status) => (Reply::bare(request.token, status), None),
                None => self.apply(request.token, request.shard, &command, wall),
            });
        }
        replies
    }

    fn apply(
        &mut self,
        token: Token,
        shard: ShardId,
        command: &Command<'_>,
        wall: Millis,
    ) -> (Reply, Option<Vec<u8>>) {
        self.entries.retain(|_, entry| entry.deadline.is_none_or(|deadline| deadline > wall));
        let bare = |status| Reply::bare(token, status);
        let old = self.entries.get(command.key).cloned();
        let deadline = |expiry| match expiry {
            Expiry::Never => None,
            Expiry::Keep => old.as_ref().and_then(|old| old.deadline),
            Expiry::In(span) => Some(Millis(wall.0.saturating_add(span.0))),
            Expiry::At(point) => Some(point),
        };
        let found = |entry: &Entry, with_value: bool| {
            let reply = Reply {
                number: entry.value.len() as u64,
                expires_at: entry.deadline,
                expires_in: entry.deadline.map(|deadline| Millis(deadline.0 - wall.0)),
                ..bare(Status::Ok)
            };
            (reply, with_value.then(|| entry.value.clone()))
        };
        let mut store = |value: Vec<u8>, deadline: Option<Millis>| {
            self.entries.insert(command.key.to_vec(), Entry { shard, value, deadline });
        };
        match (command.operation, &old) {
            (Operation::KeyCount, _) => {
                let count = self.entries.values().filter(|entry| entry.shard == shard).count();
                (Reply { number: count as u64, ..bare(Status::Ok) }, None)
            }
            (Operation::Limit { bytes_max, eviction }, _) => {
                self.limits.push((shard, bytes_max, eviction));
                (bare(Status::Ok), None)
            }
            (Operation::Flush, _) => {
                self.entries.retain(|_, entry| entry.shard != shard);
                (bare(Status::Ok), None)
            }
            (Operation::Get { .. }, Some(old)) => found(old, true),
            (Operation::Inspect { .. }, Some(old)) => found(old, false),
            (Operation::Set { value, condition, expiry, return_old, .. }, _) => {
                let status = match (condition, &old) {
                    (SetCondition::IfAbsent, Some(_)) => Status::Exists,
                    (SetCondition::IfPresent, None) => Status::NotFound,
                    _ => Status::Ok,
                };
                if status == Status::Ok {
                    store(value.to_vec(), deadline(expiry));
                }
                (bare(status), old.filter(|_| return_old).map(|old| old.value))
            }
            (Operation::Extend { end: End::Back, value, create: true, .. }, _) => {
                let kept = deadline(Expiry::Keep);
                let longer =
                    [old.map(|old| old.value).unwrap_or_default(), value.to_vec()].concat();
                let number = longer.len() as u64;
                store(longer, kept);
                (Reply { number, ..bare(Status::Ok) }, None)
            }
            (Operation::Increment { delta }, old) => {
                let text = old.as_ref().map_or(&b"0"[..], |old| &old.value);
                let Some(number) = proto::resp::parse_integer(text) else {
                    return (bare(Status::NotANumber), None);
                };
                let Some(sum) = number.checked_add(delta) else {
                    return (bare(Status::Overflow), None);
                };
                store(sum.to_string().into_bytes(), deadline(Expiry::Keep));
                (Reply { number: sum as u64, ..bare(Status::Ok) }, None)
            }
            (Operation::Delete { return_old, .. }, Some(old)) => {
                let value = return_old.then(|| old.value.clone());
                self.entries.remove(command.key);
                (bare(Status::Ok), value)
            }
            (Operation::Expire { expiry, condition, return_value }, Some(old)) => {
                let new = deadline(expiry);
                let order = |deadline: Option<Millis>| deadline.unwrap_or(Millis(u64::MAX));
                let holds = match condition {
                    ExpireCondition::Always => true,
                    ExpireCondition::IfNone => old.deadline.is_none(),
                    ExpireCondition::IfSome => old.deadline.is_some(),
                    ExpireCondition::IfLater => order(new) > order(old.deadline),
                    ExpireCondition::IfEarlier => order(new) < order(old.deadline),
                };
                if !holds {
                    return (bare(Status::ConditionFailed), None);
                }
                store(old.value.clone(), new);
                (bare(Status::Ok), return_value.then(|| old.value.clone()))
            }
            (_, None) => (bare(Status::NotFound), None),
            (other, _) => panic!("no RESP command sends {other:?}"),
        }
    }
}
