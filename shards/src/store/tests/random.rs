//! The store against the model, over random commands in a space so small that evictions,
//! expiries and conditions that hold happen all the time.

use super::model::Model;
use super::{Random, Seen, settings};
use super::{cost, policy};
use crate::command::{Command, End, ExpireCondition, Expiry, Operation, SetCondition};
use crate::ids::Eviction;
use crate::ids::{Millis, Version};
use crate::store::{Answer, Opening, ReadOutcome, Store, StoreSettings};

/// A command with the bytes it borrows.
pub(super) struct Generator {
    pub random: Random,
    keys: Vec<Vec<u8>>,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Generator {
    pub fn new(seed: u64, keys: u64) -> Self {
        let key = |number: u64| format!("{}{number}", "k".repeat(number as usize % 9)).into_bytes();
        Generator {
            random: Random(seed),
            keys: (0..keys).map(key).collect(),
            key: Vec::new(),
            value: Vec::new(),
        }
    }

    pub fn key(&mut self) -> Vec<u8> {
        self.random.pick(&self.keys)
    }

    fn expiry(&mut self, stamp: u64) -> Expiry {
        match self.random.below(20) {
            0..8 => Expiry::Never,
            8..11 => Expiry::Keep,
            11..16 => Expiry::In(Millis(self.random.below(60))),
            16..19 => Expiry::At(Millis((stamp + self.random.below(60)).saturating_sub(15))),
            _ => {
                let edge = self.random.pick(&[u64::MAX, i64::MAX as u64, i64::MAX as u64 + 1]);
                let at = Expiry::At(Millis(edge));
                self.random.pick(&[at, Expiry::In(Millis(edge))])
            }
        }
    }

    fn fill_value(&mut self) {
        self.value.clear();
        match self.random.below(10) {
            0..4 => {
                let length = self.random.below(40);
                self.value.extend((0..length).map(|_| self.random.next() as u8));
            }
            4..6 => self.value.extend_from_slice(b"the same length"),
            6..9 => {
                let numbers =
                    ["0", "7", "-3", "007", "9223372036854775807", "18446744073709551615", "99"];
                self.value.extend_from_slice(self.random.pick(&numbers).as_bytes());
            }
            _ => {
                let length = 250 + self.random.below(12);
                self.value.resize(length as usize, b'x');
            }
        }
    }

    /// A version that an entry may have, or not.
    fn version(&mut self, model: &Model) -> Version {
        let key = self.random.pick(&self.keys);
        match self.random.below(4) {
            0 => Version(self.random.below(1_000)),
            1 => model.version_of(&key).unwrap_or_default(),
            _ => model.version_of(&self.key).unwrap_or(Version(3)),
        }
    }

    pub fn write(&mut self, model: &Model) -> Command<'_> {
        self.key = self.key();
        self.fill_value();
        let version = if self.random.once_in(3) { self.version(model) } else { Version(0) };
        let expiry = self.expiry(model.stamp);
        let flags = self.random.below(3) as u32;
        let yes = self.random.once_in(2);
        let also = self.random.once_in(2);
        let operation = match self.random.below(200) {
            0..80 => {
                let of_that_version = SetCondition::IfVersion(self.version(model));
                let condition = self.random.pick(&[
                    SetCondition::Always,
                    SetCondition::Always,
                    SetCondition::Always,
                    SetCondition::IfAbsent,
                    SetCondition::IfPresent,
                    of_that_version,
                ]);
                Operation::Set { value: &self.value, flags, condition, expiry, return_old: yes }
            }
            80..100 => {
                let end = if also { End::Front } else { End::Back };
                Operation::Extend { end, value: &self.value, create: yes, version }
            }
            100..120 => {
                let deltas = [1, -1, 1_000, i64::MAX, i64::MIN];
                Operation::Increment { delta: self.random.pick(&deltas) }
            }
            120..145 => Operation::Count {
                delta: self.random.pick(&[0, 1, 95, u64::MAX]),
                decrement: also,
                initial: yes.then_some((self.random.below(200), expiry)),
                version,
            },
            145..165 => Operation::Delete { version, return_old: yes },
            165..199 => Operation::Expire {
                expiry,
                condition: self.random.pick(&[
                    ExpireCondition::Always,
                    ExpireCondition::IfNone,
                    ExpireCondition::IfSome,
                    ExpireCondition::IfLater,
                    ExpireCondition::IfEarlier,
                ]),
                return_value: yes,
            },
            _ => return Command { key: b"", operation: Operation::Flush },
        };
        Command { key: &self.key, operation }
    }

    /// The stamp of the next entry: mostly a little later, at times much later or earlier.
    pub fn stamp(&mut self, stamp: u64) -> u64 {
        match self.random.below(30) {
            0 => stamp.saturating_sub(10),
            1 => stamp + self.random.below(500),
            _ => stamp + self.random.below(6),
        }
    }
}

fn compare(store: &Store, model: &Model, context: &str) {
    store.check();
    assert!(store.keys_in_recency_order().eq(model.order_newest_first()), "order {context}");
    assert_eq!(store.bytes(), model.bytes(), "bytes {context}");
    assert_eq!(store.keys(), model.keys() as u64, "keys {context}");
    assert_eq!(store.evicted(), model.evicted, "evicted {context}");
    assert_eq!(store.expired(), model.expired, "expired {context}");
    assert_eq!(store.stamp(), Millis(model.stamp), "stamp {context}");
}

fn compare_reads(store: &mut Store, model: &Model, generator: &mut Generator, context: &str) {
    for operation in
        [Operation::Get { peek: false }, Operation::Inspect { peek: false }, Operation::KeyCount]
    {
        let key = generator.key();
        let running = (model.stamp + generator.random.below(20)).saturating_sub(3);
        let command = Command { key: &key, operation };
        let seen = match store.read(&command, Millis(running)) {
            ReadOutcome::Done(outcome) => Some(Seen::from(outcome)),
            ReadOutcome::Due => None,
        };
        assert_eq!(seen, model.read(&command, running), "{command:?} at {running} {context}");
    }
}

fn run(seed: u64, entries: u64, keys: u64, bytes_max: u64, eviction: Eviction) {
    println!("seed {seed}: {entries} entries, {keys} keys, {bytes_max} bytes, {eviction:?}");
    let mut generator = Generator::new(seed, keys);
    let mut store = Store::new(StoreSettings { eviction, ..settings(bytes_max) });
    let mut model = Model::new(bytes_max, settings(bytes_max).value_bytes_max, eviction);
    let mut version = 0;
    for entry in 0..entries {
        let stamp = generator.stamp(model.stamp);
        store.begin_entry(Opening::at(Millis(stamp)));
        model.begin_entry(stamp);
        compare(&store, &model, &format!("at the start of entry {entry}, seed {seed}"));
        for _ in 0..generator.random.below(6) {
            version += 1;
            // Below this, values are refused that the model does not look at.
            let eighths = generator.random.pick(&[4, 5, 8, 8]);
            let limit = (bytes_max * eighths / 8).max(bytes_max.min(4 * cost(10, 20)));
            let global = match generator.random.below(400) {
                0..10 => Some(Operation::Limit { bytes_max: Some(limit), eviction: None }),
                10 => Some(policy(Eviction::Lru)),
                11 => Some(policy(Eviction::Sieve)),
                _ => None,
            };
            let command = match global {
                Some(operation) => Command { key: b"", operation },
                None => generator.write(&model),
            };
            let context = format!("after {command:?} in entry {entry}, seed {seed}");
            let expected = model.apply(Version(version), &command);
            let seen = Seen::from(store.apply(Version(version), &command, Answer::Wanted));
            assert_eq!(seen, expected, "{context}");
            compare(&store, &model, &context);
            compare_reads(&mut store, &model, &mut generator, &context);
        }
    }
    assert!(model.evicted > entries / 50, "only {} evictions, seed {seed}", model.evicted);
    assert!(model.expired > entries / 150, "only {} expiries, seed {seed}", model.expired);
}

fn with_each_policy(seed: u64) -> [(u64, Eviction); 2] {
    [Eviction::Lru, Eviction::Sieve].map(|eviction| (seed, eviction))
}

#[test]
fn random_commands_do_what_the_model_does() {
    for (seed, eviction) in (1..=12).flat_map(with_each_policy) {
        run(seed, 4_000, 24, 12 * cost(10, 30), eviction);
    }
}

#[test]
fn a_store_with_room_for_one_or_two_entries_does_what_the_model_does() {
    for (seed, eviction) in (100..=106).flat_map(with_each_policy) {
        run(seed, 2_000, 6, 2 * cost(10, 60), eviction);
        run(seed, 2_000, 6, cost(10, 60), eviction);
    }
}
