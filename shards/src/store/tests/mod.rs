//! The store's tests: `semantics` is a table of what each command does, `limits` looks at edges,
//! `random` compares the store with the naive one in `model` over random commands, and `replicas`
//! compares stores that applied the same log; `snapshots` takes and restores them in pieces;
//! `touches` is about reads that count as uses.

mod limits;
mod model;
mod random;
mod replicas;
mod semantics;
mod snapshots;
mod touches;

use super::{Answer, Opening, ReadOutcome, Store, StoreSettings, accounted_bytes};
use crate::command::{Command, Operation};
use crate::ids::{Eviction, Millis, Version};
use crate::reply::Status;

/// An outcome that owns its value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    status: Status,
    flags: u32,
    version: Version,
    number: u64,
    expires_at: Option<Millis>,
    value: Option<Vec<u8>>,
}

impl From<super::Outcome<'_>> for Seen {
    fn from(outcome: super::Outcome<'_>) -> Self {
        Seen {
            status: outcome.status,
            flags: outcome.flags,
            version: outcome.version,
            number: outcome.number,
            expires_at: outcome.expires_at,
            value: outcome.value.map(<[u8]>::to_vec),
        }
    }
}

fn settings(bytes_max: u64) -> StoreSettings {
    StoreSettings {
        bytes_max,
        value_bytes_max: 256,
        eviction: Eviction::Lru,
        touch_interval: Millis(5_000),
    }
}

/// A change of the policy.
fn policy(eviction: Eviction) -> Operation<'static> {
    Operation::Limit { bytes_max: None, eviction: Some(eviction) }
}

/// What an entry without deadline and flags counts for.
fn cost(key_len: usize, value_len: usize) -> u64 {
    accounted_bytes(key_len, value_len, false, false)
}

/// A store with a counter for versions, checked after every command.
struct Bench {
    store: Store,
    version: u64,
}

impl Bench {
    fn new(bytes_max: u64) -> Self {
        Bench { store: Store::new(settings(bytes_max)), version: 0 }
    }

    /// Begins an entry at this stamp.
    fn at(&mut self, stamp: u64) -> &mut Self {
        self.store.begin_entry(Opening::at(Millis(stamp)));
        self.store.check();
        self
    }

    fn apply(&mut self, key: &str, operation: Operation<'_>) -> Seen {
        let seen = self.apply_unchecked(key, operation);
        self.store.check();
        seen
    }

    /// The same for large stores, whose check takes long.
    fn apply_unchecked(&mut self, key: &str, operation: Operation<'_>) -> Seen {
        self.version += 1;
        let command = Command { key: key.as_bytes(), operation };
        self.store.apply(Version(self.version), &command, Answer::Wanted).into()
    }

    fn get(&mut self, key: &str) -> Seen {
        self.read(key, Operation::Get { peek: false })
    }

    fn read(&mut self, key: &str, operation: Operation<'_>) -> Seen {
        let running = self.store.stamp();
        match self.store.read(&Command { key: key.as_bytes(), operation }, running) {
            ReadOutcome::Done(outcome) => outcome.into(),
            ReadOutcome::Due => panic!("{key} is due by its own stamp and was not answered"),
        }
    }

    fn order(&self) -> Vec<&str> {
        let keys = self.store.keys_in_recency_order();
        keys.map(|key| std::str::from_utf8(key).expect("a text key")).collect()
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.store.snapshot(&mut bytes);
        bytes
    }
}

/// A small generator of random numbers, the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True once in `times` calls.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize].clone()
    }
}
