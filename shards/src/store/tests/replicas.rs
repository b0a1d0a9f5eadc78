//! Stores that applied the same log hold the same state: whatever their hash seed, whether or not
//! somebody waits for outcomes, and restored from a snapshot at any point.

use super::model::Model;
use super::random::Generator;
use super::{Bench, Random, settings};
use super::{cost, policy};
use crate::command::{Command, Expiry, Operation, SetCondition};
use crate::entry::{EntryBuilder, EntryReader};
use crate::ids::Eviction;
use crate::ids::{Index, Millis, Version};
use crate::store::{Answer, Opening, Store, StoreSettings};

pub(super) fn apply_entry(store: &mut Store, index: Index, bytes: &[u8], answer: Answer) {
    let entry = EntryReader::new(bytes).expect("an entry of our own");
    store.begin_entry(entry.opening());
    for (ordinal, command) in entry.commands().enumerate() {
        store.apply(Version::new(3, index, ordinal), &command, answer);
    }
}

fn snapshot_of(store: &Store) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.snapshot(&mut bytes);
    bytes
}

/// A log of random entries over so many keys.
pub(super) fn random_log(seed: u64, entries: u64, keys: u64, bytes_max: u64) -> Vec<Vec<u8>> {
    let mut generator = Generator::new(seed, keys);
    let value_bytes_max = settings(bytes_max).value_bytes_max;
    let mut model = Model::new(bytes_max, value_bytes_max, Eviction::Lru);
    let mut builder = EntryBuilder::new();
    let mut encoded = Vec::new();
    let mut log = Vec::new();
    for index in 0..entries {
        let stamp = generator.stamp(model.stamp);
        model.begin_entry(stamp);
        for ordinal in 0..generator.random.below(12) as usize {
            let command = generator.write(&model);
            encoded.clear();
            command.encode(&mut encoded);
            builder.push(&encoded);
            model.apply(Version::new(3, Index(index), ordinal), &command);
        }
        let key_secret = (index == 0).then_some(seed | 1);
        log.push(builder.finish(Opening { stamp: Millis(stamp), touches: &[], key_secret }));
    }
    log
}

/// What some reads leave, on either of two replicas.
fn touches_of(random: &mut Random, stores: [&mut Store; 2]) -> Vec<u8> {
    let mut touches = Vec::new();
    for store in stores {
        for _ in 0..random.below(3) {
            let number = random.below(store.keys().max(1)) as usize;
            let Some(key) = store.keys_in_recency_order().nth(number).map(<[u8]>::to_vec) else {
                continue;
            };
            let get = Command { key: &key, operation: Operation::Get { peek: false } };
            let running = store.stamp();
            let _ = store.read(&get, running);
        }
        store.take_touches(usize::MAX, &mut touches);
    }
    touches
}

#[test]
fn replicas_agree_at_every_index_also_when_restored_from_a_snapshot() {
    for seed in 1..=6 {
        println!("seed {seed}");
        let bytes_max = 20 * cost(10, 20);
        let mut random = Random(seed);
        // What readers leave depends on the interval, which is each replica's own.
        let eviction = if seed % 2 == 0 { Eviction::Lru } else { Eviction::Sieve };
        let settings_of = |interval| StoreSettings {
            eviction,
            touch_interval: Millis(interval),
            ..settings(bytes_max)
        };
        let mut leader = Store::new(settings_of(20));
        let mut follower = Store::new(settings_of(1));
        let mut restored = Store::new(settings_of(5_000));
        let mut restores = 0;
        for (index, bytes) in random_log(seed, 1_500, 40, bytes_max).iter().enumerate() {
            let context = format!("index {index}, seed {seed}");
            let index = Index(index as u64);
            apply_entry(&mut leader, index, bytes, Answer::Wanted);
            apply_entry(&mut follower, index, bytes, Answer::Unwanted);
            apply_entry(&mut restored, index, bytes, Answer::Unwanted);
            let touches = touches_of(&mut random, [&mut leader, &mut follower]);
            let stamp = leader.stamp();
            let opening = Opening { touches: &touches, ..Opening::at(stamp) };
            let bytes = EntryBuilder::new().finish(opening);
            for store in [&mut leader, &mut follower, &mut restored] {
                apply_entry(store, index, &bytes, Answer::Unwanted);
            }
            let expected = snapshot_of(&leader);
            for other in [&follower, &restored] {
                assert_eq!(other.digest(), leader.digest(), "digest at {context}");
                assert!(other.keys_in_recency_order().eq(leader.keys_in_recency_order()));
                assert_eq!(other.bytes(), leader.bytes(), "bytes at {context}");
                assert_eq!(other.next_due(), leader.next_due(), "deadlines at {context}");
                assert!(snapshot_of(other) == expected, "snapshots differ at {context}");
            }
            if random.once_in(7) {
                let fresh = StoreSettings {
                    bytes_max: 1,
                    value_bytes_max: 1,
                    eviction: Eviction::Lru,
                    touch_interval: Millis(5_000),
                };
                restored = Store::restore(&expected, fresh).expect("a snapshot of our own");
                restored.check();
                restores += 1;
            }
        }
        assert!(leader.touched() > 100, "{} touches", leader.touched());
        assert!(restores > 100 && leader.evicted() > 100 && leader.expired() > 100);
    }
}

#[test]
fn the_log_of_a_seed_always_leads_to_the_same_digest() {
    let bytes_max = 20 * cost(10, 20);
    let mut store = Store::new(settings(bytes_max));
    for (index, bytes) in random_log(42, 500, 40, bytes_max).iter().enumerate() {
        apply_entry(&mut store, Index(index as u64), bytes, Answer::Unwanted);
    }
    assert_eq!(store.digest(), DIGEST_OF_SEED_42, "replicas of two versions would differ");
}

/// Changes only with the random log itself, or with the meaning of a log, which no release may
/// change silently.
const DIGEST_OF_SEED_42: u64 = 16_517_815_542_879_155_140;

fn set(value: &[u8], flags: u32, expiry: Expiry) -> Operation<'_> {
    Operation::Set { value, flags, condition: SetCondition::Always, expiry, return_old: false }
}

/// A store with entries, deadlines, and places that entries have left.
pub(super) fn mixed() -> Bench {
    let mut bench = Bench::new(1 << 20);
    bench.at(100);
    for key in ["a", "bb", "ccc", "dddd", "e", "f"] {
        bench.apply(key, set(b"value", 1, Expiry::Never));
    }
    bench.apply("bb", set(b"12", 2, Expiry::In(Millis(500))));
    bench.apply("e", Operation::Delete { version: Version(0), return_old: false });
    bench.apply("a", Operation::Delete { version: Version(0), return_old: false });
    bench.apply("f", set(b"", 3, Expiry::At(Millis(900))));
    bench
}

#[test]
fn any_difference_of_state_shows_in_the_digest() {
    let variants: [fn(&mut Bench); 12] = [
        |_| {},
        |bench| drop(bench.apply("bb", set(b"12", 2, Expiry::In(Millis(500))))),
        |bench| drop(bench.apply("bb", set(b"12", 2, Expiry::In(Millis(501))))),
        |bench| drop(bench.apply("bb", set(b"12", 3, Expiry::In(Millis(500))))),
        |bench| drop(bench.apply("bb", set(b"13", 2, Expiry::In(Millis(500))))),
        |bench| drop(bench.apply("b", set(b"212", 2, Expiry::In(Millis(500))))),
        |bench| drop(bench.apply("ccc", set(b"value", 1, Expiry::Never))),
        |bench| bench.store.begin_entry(Opening::at(Millis(101))),
        |bench| drop(bench.apply("", Operation::Flush)),
        |bench| bench.store.bytes_max -= 1,
        |bench| bench.store.key_secret = 1,
        |bench| drop(bench.apply("", policy(Eviction::Sieve))),
    ];
    let mut digests: Vec<u64> = variants
        .iter()
        .map(|vary| {
            let mut bench = mixed();
            vary(&mut bench);
            bench.store.digest()
        })
        .collect();
    // The same uses in another order: with SIEVE that leaves no trace, with LRU it does.
    let used_in_order = |keys: [&str; 2], eviction| {
        let mut bench = mixed();
        bench.apply("", policy(eviction));
        for key in keys {
            let entry = bench.store.find(bench.store.hash(key.as_bytes()), key.as_bytes());
            bench.store.touch(entry.expect("it is there"));
        }
        bench.store.digest()
    };
    let [forth, back] = [["ccc", "dddd"], ["dddd", "ccc"]];
    digests.push(used_in_order(forth, Eviction::Sieve));
    assert_eq!(digests.last(), Some(&used_in_order(back, Eviction::Sieve)));
    digests.extend([forth, back].map(|keys| used_in_order(keys, Eviction::Lru)));
    let variants = digests.len();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), variants);
}
