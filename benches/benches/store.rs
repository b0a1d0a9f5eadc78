//! One shard's store with a million keys of 16 bytes and values of 64 bytes: what one command
//! costs where nothing is in the caches. Before the measurements it says how much memory an entry
//! takes and how much it is accounted for.
//!
//! Keys are drawn at random beforehand; drawing them is not measured.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use shards::command::{Command, Expiry, Operation, SetCondition};
use shards::ids::{Eviction, Millis, Version};
use shards::store::{Answer, Opening, ReadOutcome, Store, StoreSettings, accounted_bytes};
use std::hint::black_box;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: u64 = 1_000_000;
const VALUE: [u8; 64] = [b'v'; 64];

type Key = [u8; 16];

fn key(number: u64) -> Key {
    let mut key = *b"key:000000000000";
    let mut rest = number;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// Keys below `KEYS` in an order without pattern.
struct RandomKeys(u64);

impl RandomKeys {
    fn next(&mut self) -> Key {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        key((self.0 >> 33) % KEYS)
    }
}

fn set(key: &Key, expiry: Expiry) -> Command<'_> {
    let condition = SetCondition::Always;
    let operation =
        Operation::Set { value: &VALUE, flags: 0, condition, expiry, return_old: false };
    Command { key, operation }
}

/// A store and the version of its last command.
struct Shard {
    store: Store,
    version: u64,
}

impl Shard {
    fn full() -> Self {
        let settings = StoreSettings {
            bytes_max: KEYS * accounted_bytes(16, 64, true, false),
            value_bytes_max: 1 << 20,
            eviction: Eviction::Lru,
            touch_interval: Millis(5_000),
        };
        let mut shard = Shard { store: Store::new(settings), version: 0 };
        shard.store.begin_entry(Opening::at(Millis(1)));
        (0..KEYS).for_each(|number| shard.apply(&set(&key(number), Expiry::Never)));
        assert_eq!((shard.store.keys(), shard.store.evicted()), (KEYS, 0));
        shard
    }

    fn apply(&mut self, command: &Command<'_>) {
        self.version += 1;
        black_box(self.store.apply(Version(self.version), command, Answer::Wanted).status);
    }
}

/// The process's resident memory.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 =
        statm.split(' ').nth(1).and_then(|field| field.parse().ok()).unwrap_or_default();
    pages * 4096
}

fn store(criterion: &mut Criterion) {
    let before = resident_bytes();
    let mut shard = Shard::full();
    let real = (resident_bytes() - before) / KEYS;
    let accounted = shard.store.bytes() / KEYS;
    println!("an entry takes {real} bytes of memory and is accounted for {accounted}");
    let mut keys = RandomKeys(1);
    let mut group = criterion.benchmark_group("store");

    group.bench_function("get_hit", |bencher| {
        let routine = |key: Key| {
            let get = Command { key: &key, operation: Operation::Get { peek: false } };
            match shard.store.read(&get, Millis(1)) {
                ReadOutcome::Done(outcome) => outcome.value.map(|value| value[0]),
                ReadOutcome::Due => None,
            }
        };
        bencher.iter_batched(|| keys.next(), routine, BatchSize::SmallInput);
    });
    group.bench_function("set_same_length", |bencher| {
        let routine = |key: Key| shard.apply(&set(&key, Expiry::Never));
        bencher.iter_batched(|| keys.next(), routine, BatchSize::SmallInput);
    });
    let mut fresh = KEYS;
    group.bench_function("set_new_key_and_evict", |bencher| {
        let next = || {
            fresh += 1;
            key(fresh)
        };
        let routine = |key: Key| shard.apply(&set(&key, Expiry::Never));
        bencher.iter_batched(next, routine, BatchSize::SmallInput);
    });
    (0..KEYS).for_each(|number| shard.apply(&set(&key(number), Expiry::In(Millis(1_000)))));
    let mut span = 0;
    group.bench_function("set_with_deadline", |bencher| {
        let next = || {
            span += 1;
            (keys.next(), Expiry::In(Millis(1_000 + span / 1_000)))
        };
        let routine = |(key, expiry): (Key, Expiry)| shard.apply(&set(&key, expiry));
        bencher.iter_batched(next, routine, BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(benches, store);
criterion_main!(benches);
