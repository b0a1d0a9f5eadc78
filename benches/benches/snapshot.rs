//! Snapshots of one shard's store with a million keys of 16 bytes and values of 64 bytes: taking
//! one in pieces, what it costs the commands in between, and restoring one.
//!
//! Every entry has been written three times, in three orders without pattern, and its length has
//! changed, so that neither the slots nor the entries' bytes lie in memory in the order of use;
//! one in `DEADLINE_ONE_IN` has a deadline. The time of the first restore is printed too: it takes
//! its memory fresh from the operating system, as a process that starts does, while the measured
//! ones reuse what the one before gave back. Freeing a restored store is not measured.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use shards::command::{Command, Expiry, Operation, SetCondition};
use shards::ids::{Eviction, Millis, Version};
use shards::store::{Answer, Opening, Restorer, SnapshotProgress, Store, StoreSettings};
use std::hint::black_box;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: u64 = 1_000_000;
const ACCOUNTED_BYTES: u64 = 160;
const SETTINGS: StoreSettings = StoreSettings {
    bytes_max: KEYS * ACCOUNTED_BYTES,
    value_bytes_max: 1 << 20,
    eviction: Eviction::Lru,
    touch_interval: Millis(5_000),
};
const VALUE: [u8; 64] = [b'v'; 64];
const DEADLINE_ONE_IN: u64 = 8;
/// Bytes of a piece, as they go to a peer.
const PIECE_BYTES: usize = 128 << 10;
/// Commands between two pieces.
const COMMANDS_PER_PIECE: u64 = 256;

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    let mut rest = number;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// A store and the version of its last command.
struct Shard {
    store: Store,
    version: u64,
}

impl Shard {
    /// A store with all keys.
    fn full() -> Self {
        let mut shard = Shard { store: Store::new(SETTINGS), version: 0 };
        shard.store.begin_entry(Opening::at(Millis(1)));
        // Steps that share no factor with the number of keys visit each of them.
        for (step, length) in [(617_411, 64), (324_433, 40), (910_219, 64)] {
            for round in 0..KEYS {
                shard.set(round * step % KEYS, &VALUE[..length]);
            }
        }
        assert_eq!((shard.store.keys(), shard.store.evicted()), (KEYS, 0));
        shard
    }

    fn set(&mut self, number: u64, value: &[u8]) {
        self.version += 1;
        let expiry = match number % DEADLINE_ONE_IN {
            0 => Expiry::In(Millis(1_000_000 + self.version % 100_000)),
            _ => Expiry::Never,
        };
        let condition = SetCondition::Always;
        let operation = Operation::Set { value, flags: 0, condition, expiry, return_old: false };
        let command = Command { key: &key(number), operation };
        black_box(self.store.apply(Version(self.version), &command, Answer::Unwanted).status);
    }

    /// Runs the commands between two pieces, and says how long it took.
    fn write(&mut self) -> Duration {
        let started = Instant::now();
        for _ in 0..COMMANDS_PER_PIECE {
            self.set(self.version * 618_033 % KEYS, &VALUE);
        }
        started.elapsed()
    }
}

/// Takes a snapshot with commands between the pieces. Returns the time that the pieces took, the
/// time of the longest one, and that of the commands.
fn snapshot_under_writes(shard: &mut Shard) -> [Duration; 3] {
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    let [mut pieces, mut longest, mut commands] = [Duration::ZERO; 3];
    assert!(shard.store.begin_snapshot());
    loop {
        piece.clear();
        let started = Instant::now();
        let progress = shard.store.snapshot_chunk(&mut piece, PIECE_BYTES);
        let elapsed = started.elapsed();
        pieces += elapsed;
        longest = longest.max(elapsed);
        if progress == SnapshotProgress::Done {
            return [pieces, longest, commands];
        }
        commands += shard.write();
    }
}

fn restore(bytes: &[u8]) -> Store {
    let mut restorer = Restorer::with_hint(SETTINGS, bytes.len());
    for piece in bytes.chunks(PIECE_BYTES) {
        restorer.feed(piece).expect("a piece of our own");
    }
    restorer.finish().expect("a snapshot of our own")
}

fn snapshot(criterion: &mut Criterion) {
    let mut shard = Shard::full();
    let mut bytes = Vec::new();
    shard.store.snapshot(&mut bytes);
    println!("a snapshot of {KEYS} entries takes {} bytes", bytes.len());
    let started = Instant::now();
    let restored = restore(&bytes);
    println!("the first restore took {:?}", started.elapsed());
    assert_eq!(restored.digest(), shard.store.digest());
    drop(restored);

    let [pieces, longest, commands] = snapshot_under_writes(&mut shard);
    let count = bytes.len() / PIECE_BYTES;
    let before: Duration = (0..count).map(|_| shard.write()).sum();
    println!(
        "{count} pieces took {pieces:?}, the longest of them {longest:?}; {COMMANDS_PER_PIECE} \
         commands after each of them took {commands:?}, and {before:?} without a snapshot"
    );

    let mut group = criterion.benchmark_group("snapshot");
    group.sample_size(20);
    group.throughput(Throughput::Elements(KEYS));
    group.bench_function("take_in_pieces", |bencher| {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        bencher.iter(|| {
            assert!(shard.store.begin_snapshot());
            loop {
                piece.clear();
                if shard.store.snapshot_chunk(&mut piece, PIECE_BYTES) == SnapshotProgress::Done {
                    break;
                }
            }
        });
    });
    group.bench_function("restore", |bencher| {
        bencher.iter_batched(|| (), |()| restore(&bytes), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, snapshot);
criterion_main!(benches);
