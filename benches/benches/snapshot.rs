//! Snapshots of one shard's store with a million keys of 16 bytes and values of 64 bytes: writing
//! one whole, and restoring one.
//!
//! The store has been written in random order, so that neither the slots nor the entries' bytes
//! lie in memory in the order of use; one in every `DEADLINE_ONE_IN` entries has a deadline. The
//! time of the first restore is printed too: it takes its memory fresh from the operating system,
//! as a process that starts does, while the measured ones reuse what the one before gave back.
//! Freeing a restored store is not measured.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use shards::command::{Command, Expiry, Operation, SetCondition};
use shards::ids::{Millis, Version};
use shards::store::{Answer, ENTRY_OVERHEAD_BYTES, Store, StoreSettings};
use std::hint::black_box;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: u64 = 1_000_000;
const ACCOUNTED_BYTES: u64 = 16 + 64 + ENTRY_OVERHEAD_BYTES;
const SETTINGS: StoreSettings =
    StoreSettings { bytes_max: KEYS * ACCOUNTED_BYTES, value_bytes_max: 1 << 20, hash_seed: 1 };
const VALUE: [u8; 64] = [b'v'; 64];
const DEADLINE_ONE_IN: u64 = 8;

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    let mut rest = number;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// A store with all keys, written in an order without pattern.
fn full_store() -> Store {
    let mut store = Store::new(SETTINGS);
    store.begin_entry(Millis(1));
    let mut number = 1;
    let mut version = 0;
    // An odd step visits every number below a power of two; those that are no key are left out.
    for _ in 0..2 * KEYS.next_power_of_two() {
        number = (number * 5 + 12_345) % KEYS.next_power_of_two();
        if number >= KEYS {
            continue;
        }
        version += 1;
        let expiry = match number % DEADLINE_ONE_IN {
            0 => Expiry::In(Millis(1_000_000 + version % 100_000)),
            _ => Expiry::Never,
        };
        let condition = SetCondition::Always;
        let operation =
            Operation::Set { value: &VALUE, flags: 0, condition, expiry, return_old: false };
        let command = Command { key: &key(number), operation };
        black_box(store.apply(Version(version), &command, Answer::Unwanted).status);
        if version % 3 == 0 {
            let other = key((number * 7_919 + 13) % KEYS);
            let command = Command { key: &other, operation };
            version += 1;
            black_box(store.apply(Version(version), &command, Answer::Unwanted).status);
        }
    }
    assert_eq!((store.keys(), store.evicted()), (KEYS, 0));
    store
}

fn snapshot(criterion: &mut Criterion) {
    let store = full_store();
    let mut bytes = Vec::new();
    store.snapshot(&mut bytes);
    println!("a snapshot of {KEYS} entries takes {} bytes", bytes.len());
    let started = Instant::now();
    let restored = Store::restore(&bytes, SETTINGS).expect("a snapshot of our own");
    println!("the first restore took {:?}", started.elapsed());
    assert_eq!(restored.digest(), store.digest());
    drop(restored);

    let mut group = criterion.benchmark_group("snapshot");
    group.sample_size(20);
    group.bench_function("write_whole", |bencher| {
        bencher.iter(|| {
            bytes.clear();
            store.snapshot(&mut bytes);
        });
    });
    drop(store);
    group.bench_function("restore", |bencher| {
        let routine = |()| Store::restore(&bytes, SETTINGS).expect("a snapshot of our own");
        bencher.iter_batched(|| (), routine, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, snapshot);
criterion_main!(benches);
