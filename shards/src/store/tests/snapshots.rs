//! Snapshots: taken in pieces while commands go on they are the state of one moment; restored
//! from pieces they are that state again; and nothing else is taken for one.

use super::replicas::{apply_entry, mixed, random_log};
use super::{Bench, Random, cost, policy, settings};
use crate::command::{Expiry, Operation, SetCondition};
use crate::ids::{Eviction, Index, Millis, Version};
use crate::store::digest::hash_bytes;
use crate::store::{Answer, RestoreError, Restorer, SnapshotProgress, Store, StoreSettings};

const HEADER_BYTES: usize = 76;
const ENTRIES_AT: usize = 56;
const VERSION_AT: usize = 12;
const IN_FRONT_OF_AT: usize = 28;
const KEY_AT: usize = 36;
const END_BYTES: usize = 9;
const IN_ORDER: u8 = 1;
const EARLY: u8 = 2;
const END: u8 = 3;

fn half_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// A snapshot taken apart: its header and its records, without the end.
#[derive(Clone)]
struct Parts {
    header: Vec<u8>,
    records: Vec<Vec<u8>>,
}

impl Parts {
    fn of(stream: &[u8]) -> Self {
        let (header, mut rest) = stream.split_at(HEADER_BYTES);
        let mut records = Vec::new();
        while rest[0] != END {
            let length = KEY_AT + usize::from(rest[2]) + half_at(rest, 4) as usize;
            let (record, behind) = rest.split_at(length);
            records.push(record.to_vec());
            rest = behind;
        }
        assert_eq!(rest.len(), END_BYTES);
        Parts { header: header.to_vec(), records }
    }

    /// Puts it together with a checksum that matches.
    fn join(&self) -> Vec<u8> {
        let mut stream = self.header.clone();
        stream.extend(self.records.iter().flatten());
        seal(stream)
    }

    fn kinds(&self, kind: u8) -> usize {
        self.records.iter().filter(|record| record[0] == kind).count()
    }

    fn changed(&self, change: impl FnOnce(&mut Parts)) -> Result<Store, RestoreError> {
        let mut changed = self.clone();
        change(&mut changed);
        Store::restore(&changed.join(), settings(1))
    }
}

/// Adds the end to a header and records.
fn seal(mut stream: Vec<u8>) -> Vec<u8> {
    stream.push(END);
    let checksum = hash_bytes(&stream);
    stream.extend_from_slice(&checksum.to_le_bytes());
    stream
}

fn restore_in_pieces(stream: &[u8], random: &mut Random) -> Result<Store, RestoreError> {
    let hint = random.pick(&[0, stream.len(), 10 * stream.len()]);
    let fresh = StoreSettings {
        bytes_max: 1,
        value_bytes_max: 1,
        eviction: Eviction::Lru,
        touch_interval: Millis(5_000),
    };
    let mut restorer = Restorer::with_hint(fresh, hint);
    let longest = random.pick(&[1, 7, 60, 5_000]);
    let mut rest = stream;
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(rest.len().min(random.below(longest + 1) as usize));
        restorer.feed(piece)?;
        rest = behind;
    }
    restorer.finish()
}

/// Everything that decides the future, in terms that do not need the digest.
fn assert_same_state(store: &Store, other: &Store, context: &str) {
    store.check();
    other.check();
    assert!(store.keys_in_recency_order().eq(other.keys_in_recency_order()), "order, {context}");
    let entries = store.order.iter(&store.entries).zip(other.order.iter(&other.entries));
    for (entry, other_entry) in entries {
        let (entry, other_entry) = (store.entries.get(entry), other.entries.get(other_entry));
        assert_eq!(entry.data(), other_entry.data(), "{context}");
        let fields = [entry, other_entry]
            .map(|entry| (entry.version(), entry.deadline(), entry.flags(), entry.is_visited()));
        assert_eq!(fields[0], fields[1], "{context}");
    }
    let [words, other_words] = [store, other].map(|store| {
        let policy = (store.eviction(), store.hand(), store.key_secret);
        (store.keys(), store.bytes(), store.bytes_max(), store.stamp(), policy)
    });
    assert_eq!(words, other_words, "{context}");
    assert_eq!(store.value_bytes_max, other.value_bytes_max, "{context}");
    assert_eq!(store.next_due(), other.next_due(), "{context}");
    assert_eq!(store.digest(), other.digest(), "{context}");
}

/// What the snapshots of a run met.
#[derive(Debug, Default)]
struct Met {
    snapshots: u64,
    early: usize,
    evicted: u64,
    expired: u64,
    flushed: u64,
}

/// Applies a random log to a store that takes snapshots of itself meanwhile, and to a replica that
/// waits at the moment of each. The store restored from the snapshot must be that replica, and
/// both must do the same from there on.
fn run(seed: u64, entries: u64, keys: u64, bytes_max: u64, chunk_bytes_max: u64) -> Met {
    let eviction = if seed.is_multiple_of(2) { Eviction::Lru } else { Eviction::Sieve };
    println!("seed {seed}: {entries} entries, {keys} keys, {bytes_max} bytes, {eviction:?}");
    let log = random_log(seed, entries, keys, bytes_max);
    let mut random = Random(seed);
    let settings = StoreSettings { eviction, ..settings(bytes_max) };
    let (mut store, mut reference) = (Store::new(settings), Store::new(settings));
    let mut met = Met::default();
    let mut applied = 0;
    while applied < log.len() {
        let begun = (applied + random.below(8) as usize).min(log.len());
        for (index, bytes) in log[..begun].iter().enumerate().skip(applied) {
            apply_entry(&mut store, Index(index as u64), bytes, Answer::Unwanted);
            apply_entry(&mut reference, Index(index as u64), bytes, Answer::Unwanted);
        }
        let context = format!("snapshot before entry {begun}, seed {seed}");
        let (evicted, expired) = (store.evicted(), store.expired());
        assert!(store.begin_snapshot(), "{context}");
        assert!(!store.begin_snapshot(), "there is one at a time");
        applied = begun;
        let mut stream = Vec::new();
        loop {
            let bytes_max = random.below(chunk_bytes_max) as usize;
            let before = stream.len();
            let progress = store.snapshot_chunk(&mut stream, bytes_max);
            assert!(stream.len() - before <= bytes_max.max(1), "{context}");
            if progress == SnapshotProgress::Done {
                break;
            }
            assert_eq!(progress, SnapshotProgress::More);
            assert!(stream.len() > before, "no progress, {context}");
            if applied < log.len() && random.once_in(2) {
                let keys = store.keys();
                apply_entry(&mut store, Index(applied as u64), &log[applied], Answer::Wanted);
                met.flushed += u64::from(store.keys() + 12 < keys);
                applied += 1;
            }
        }
        assert!(!store.is_snapshotting());
        met.snapshots += 1;
        met.evicted += store.evicted() - evicted;
        met.expired += store.expired() - expired;
        let parts = Parts::of(&stream);
        met.early += parts.kinds(EARLY);
        let mut restored = restore_in_pieces(&stream, &mut random).expect(&context);
        assert_same_state(&restored, &reference, &context);
        for (index, bytes) in log[..applied].iter().enumerate().skip(begun) {
            for other in [&mut restored, &mut reference] {
                apply_entry(other, Index(index as u64), bytes, Answer::Unwanted);
            }
            assert_same_state(&restored, &reference, &format!("entry {index} after {context}"));
        }
        assert_same_state(&restored, &store, &format!("caught up after {context}"));
        if random.once_in(3) {
            store = restored;
        }
    }
    met
}

#[test]
fn a_snapshot_taken_in_pieces_under_writes_is_the_state_at_its_beginning() {
    for seed in 1..=12 {
        let met = run(seed, 1_500, 40, 20 * cost(10, 20), 200);
        println!("{met:?}");
        assert!(met.snapshots > 50 && met.early > 200, "{met:?}");
        assert!(met.evicted > 50 && met.expired > 50, "{met:?}");
        assert!(met.flushed > 0, "{met:?}");
    }
    for seed in 20..=22 {
        let met = run(seed, 1_200, 300, 50 * cost(10, 20), 300);
        println!("{met:?}");
        assert!(met.early > 200 && met.evicted > 20, "{met:?}");
    }
}

fn set(value: &[u8]) -> Operation<'_> {
    let condition = SetCondition::Always;
    Operation::Set { value, flags: 0, condition, expiry: Expiry::Never, return_old: false }
}

const DELETE: Operation<'_> = Operation::Delete { version: Version(0), return_old: false };

/// A small snapshot with records of both kinds, some of which came early in front of others that
/// came early too.
fn snapshot_with_all_kinds() -> (Vec<u8>, Store) {
    let mut bench = mixed();
    for key in ["g", "h", "i", "j", "k"] {
        bench.apply(key, set(key.as_bytes()));
    }
    let mut whole = Vec::new();
    bench.store.snapshot(&mut whole);
    let reference = Store::restore(&whole, settings(1)).expect("a snapshot of our own");
    assert!(bench.store.begin_snapshot());
    let mut stream = Vec::new();
    assert_eq!(bench.store.snapshot_chunk(&mut stream, 1), SnapshotProgress::More);
    bench.apply("i", set(b"later"));
    bench.apply("h", DELETE);
    bench.apply("j", set(b"later"));
    bench.apply("k", set(b"later"));
    bench.apply("new", set(b"not part of it"));
    let rest = bench.store.snapshot_chunk(&mut stream, 10_000);
    assert_eq!(rest, SnapshotProgress::Done);
    let parts = Parts::of(&stream);
    assert_eq!((parts.kinds(IN_ORDER), parts.kinds(EARLY)), (5, 4));
    (stream, reference)
}

#[test]
fn a_snapshot_is_restored_wherever_it_is_split() {
    let (stream, reference) = snapshot_with_all_kinds();
    for first in 0..=stream.len() {
        for second in first..=stream.len() {
            let mut restorer = Restorer::new(settings(1));
            for piece in [&stream[..first], &stream[first..second], &stream[second..]] {
                restorer.feed(piece).expect("a piece of our own");
            }
            let restored = restorer.finish().expect("a snapshot of our own");
            assert_eq!(restored.digest(), reference.digest(), "split at {first} and {second}");
        }
    }
    let mut random = Random(5);
    for _ in 0..200 {
        let restored = restore_in_pieces(&stream, &mut random).expect("a snapshot of our own");
        assert_same_state(&restored, &reference, "random pieces");
    }
}

#[test]
fn a_snapshot_is_the_same_bytes_whatever_the_pieces() {
    let bench = mixed();
    let whole = bench.snapshot();
    for bytes_max in 0..=whole.len() + 1 {
        let mut bench = mixed();
        assert!(bench.store.begin_snapshot());
        let mut stream = Vec::new();
        while bench.store.snapshot_chunk(&mut stream, bytes_max) == SnapshotProgress::More {}
        assert!(stream == whole, "pieces of {bytes_max} bytes");
    }
}

#[test]
fn a_flush_leaves_the_snapshot_under_way_whole() {
    let mut bench = mixed();
    let expected = bench.snapshot();
    assert!(bench.store.begin_snapshot());
    let mut stream = Vec::new();
    assert_eq!(bench.store.snapshot_chunk(&mut stream, 80), SnapshotProgress::More);
    for round in 0..2 {
        bench.apply("", Operation::Flush);
        for key in ["x", "bb", "y"] {
            bench.apply(key, set(b"another life"));
        }
        assert!(bench.store.is_snapshotting(), "round {round}");
    }
    assert_eq!(bench.store.snapshot_chunk(&mut stream, 10_000), SnapshotProgress::Done);
    assert!(stream == expected);
    assert!(!bench.store.retired.is_empty(), "what was kept is given up at the end");
    for _ in 0..10 {
        bench.at(200);
    }
    assert!(bench.store.retired.is_empty());
}

#[test]
fn an_abandoned_snapshot_yields_nothing_and_a_new_one_may_begin() {
    let mut bench = mixed();
    let mut out = Vec::new();
    assert_eq!(bench.store.snapshot_chunk(&mut out, 100), SnapshotProgress::Abandoned);
    assert!(bench.store.begin_snapshot() && bench.store.is_snapshotting());
    assert_eq!(bench.store.snapshot_chunk(&mut out, 100), SnapshotProgress::More);
    bench.apply("", Operation::Flush);
    bench.store.abandon_snapshot();
    assert!(!bench.store.is_snapshotting() && !bench.store.retired.is_empty());
    out.clear();
    assert_eq!(bench.store.snapshot_chunk(&mut out, 100), SnapshotProgress::Abandoned);
    assert!(out.is_empty());
    bench.apply("key", set(b"value"));
    assert!(bench.store.begin_snapshot());
    assert_eq!(bench.store.snapshot_chunk(&mut out, 10_000), SnapshotProgress::Done);
    let restored = Store::restore(&out, settings(1)).expect("a snapshot of our own");
    assert_same_state(&restored, &bench.store, "the second one");
}

#[test]
fn a_store_that_takes_a_restored_state_frees_the_former_one_little_by_little() {
    let mut bench = mixed();
    let restored = Store::restore(&bench.snapshot(), settings(1)).expect("a snapshot of our own");
    for number in 0..20_000 {
        bench.apply_unchecked(&format!("key{number}"), set(b"value"));
    }
    bench.get("key7");
    assert!(bench.store.begin_snapshot());
    let mut piece = Vec::new();
    assert_eq!(bench.store.snapshot_chunk(&mut piece, 200), SnapshotProgress::More);
    bench.apply("", Operation::Flush);
    bench.apply("after", set(b"the flush"));
    bench.store.replace_with(restored);
    assert_same_state(&bench.store, &mixed().store, "replaced");
    assert!(!bench.store.is_snapshotting());
    assert_eq!(bench.store.hits(), 1, "statistics go on");
    let stamp = bench.store.stamp().0;
    let mut steps = 0;
    while !bench.store.retired.is_empty() {
        bench.at(stamp);
        steps += 1;
        assert!(steps < 100, "memory is given back");
    }
    assert!(steps > 3, "{steps} steps");
    assert_same_state(&bench.store, &mixed().store, "and freed");
}

#[test]
fn a_damaged_or_cut_snapshot_is_refused() {
    let (stream, _) = snapshot_with_all_kinds();
    let mut random = Random(3);
    for position in 0..stream.len() {
        for bit in 0..8 {
            let mut damaged = stream.clone();
            damaged[position] ^= 1 << bit;
            let context = format!("byte {position} bit {bit}");
            assert!(Store::restore(&damaged, settings(1)).is_err(), "{context}");
            assert!(restore_in_pieces(&damaged, &mut random).is_err(), "{context}");
        }
    }
    for length in 0..stream.len() {
        let refused = Store::restore(&stream[..length], settings(1)).err();
        let expected = match length {
            0 => RestoreError::NotASnapshot,
            _ => RestoreError::Truncated,
        };
        assert_eq!(refused, Some(expected), "length {length}");
    }
    for length in 0..stream.len() - 1 {
        let missing = [&stream[..length], &stream[length + 1..]].concat();
        assert!(Store::restore(&missing, settings(1)).is_err(), "without byte {length}");
    }
    let longer = [&stream[..], b"\0"].concat();
    let refused = Store::restore(&longer, settings(1)).err();
    assert!(matches!(refused, Some(RestoreError::Inconsistent(why)) if why.contains("left over")));
}

#[test]
fn a_snapshot_whose_checksum_was_made_to_match_is_refused_too() {
    let (stream, reference) = snapshot_with_all_kinds();
    let body = stream.len() - END_BYTES;
    let mut still_right = 0;
    let mut by_digest = 0;
    for position in 0..body {
        for bit in 0..8 {
            let mut damaged = stream[..body].to_vec();
            damaged[position] ^= 1 << bit;
            let context = format!("byte {position} bit {bit}");
            match Store::restore(&seal(damaged), settings(1)) {
                Err(RestoreError::Digest { .. }) => by_digest += 1,
                Err(_) => {}
                // With nothing early behind it, the newest may as well have come early.
                Ok(store) => {
                    assert_same_state(&store, &reference, &context);
                    still_right += 1;
                }
            }
        }
    }
    assert!(still_right <= Parts::of(&stream).records.len());
    assert!(by_digest > body, "only {by_digest} were left to the digest");
    for length in HEADER_BYTES..body {
        let cut = seal(stream[..length].to_vec());
        assert!(Store::restore(&cut, settings(1)).is_err(), "length {length}");
    }
}

#[test]
fn a_snapshot_whose_order_does_not_add_up_is_refused() {
    let (stream, reference) = snapshot_with_all_kinds();
    let parts = Parts::of(&stream);
    let unchanged = parts.changed(|_| {}).expect("it is as it was");
    assert_same_state(&unchanged, &reference, "unchanged");
    let of_kind = |kind| -> Vec<usize> {
        let records = parts.records.iter().enumerate();
        records.filter(|(_, record)| record[0] == kind).map(|(at, _)| at).collect()
    };
    let (in_order, early) = (of_kind(IN_ORDER), of_kind(EARLY));
    let last = parts.records.len() - 1;
    let put = |at: usize, version: u64| {
        parts.changed(|parts| {
            parts.records[at][IN_FRONT_OF_AT..KEY_AT].copy_from_slice(&version.to_le_bytes());
        })
    };
    let version_of = |at: usize| {
        let bytes = &parts.records[at][VERSION_AT..VERSION_AT + 8];
        u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
    };
    // Both in front of each other.
    let circle = parts.changed(|parts| {
        for (at, other) in [(early[0], early[1]), (early[1], early[0])] {
            let version = version_of(other).to_le_bytes();
            parts.records[at][IN_FRONT_OF_AT..KEY_AT].copy_from_slice(&version);
        }
    });
    let refusals = [
        ("unsorted", parts.changed(|parts| parts.records.swap(in_order[0], in_order[1]))),
        ("missing", parts.changed(|parts| drop(parts.records.remove(in_order[1])))),
        ("early one missing", parts.changed(|parts| drop(parts.records.remove(early[0])))),
        ("in front of nothing", put(early[0], 12_345)),
        ("in front of itself", put(early[0], version_of(early[0]))),
        ("in front of what came before", put(early[2], version_of(in_order[0]))),
        ("in order and in front of another", put(in_order[0], version_of(last))),
        ("a circle", circle),
        ("more entries", parts.changed(|parts| parts.header[ENTRIES_AT] += 1)),
        ("fewer entries", parts.changed(|parts| parts.header[ENTRIES_AT] -= 1)),
    ];
    for (what, refused) in refusals {
        let is_refused = matches!(
            refused.as_ref().err(),
            Some(RestoreError::Inconsistent(_) | RestoreError::Digest { .. })
        );
        assert!(is_refused, "{what}: {refused:?}");
    }
}

#[test]
fn a_snapshot_of_entries_that_all_changed_in_reverse_is_linked_without_recursion() {
    let mut bench = Bench::new(64 << 20);
    let count = 100_000;
    for number in 0..count {
        bench.apply_unchecked(&number.to_string(), set(b"value"));
    }
    let expected = bench.store.digest();
    assert!(bench.store.begin_snapshot());
    let mut stream = Vec::new();
    assert_eq!(bench.store.snapshot_chunk(&mut stream, 1), SnapshotProgress::More);
    for number in 1..count {
        bench.apply_unchecked(&number.to_string(), set(b"later"));
    }
    while bench.store.snapshot_chunk(&mut stream, 1 << 20) == SnapshotProgress::More {}
    let restored = Store::restore(&stream, settings(1)).expect("a snapshot of our own");
    assert_eq!(restored.digest(), expected);
}

#[test]
fn a_snapshot_with_a_key_twice_is_refused() {
    let mut bench = Bench::new(1 << 20);
    for key in ["a", "b", "c"] {
        bench.apply(key, set(b"value"));
    }
    let parts = Parts::of(&bench.snapshot());
    let refused = parts.changed(|parts| parts.records[1][KEY_AT] = parts.records[0][KEY_AT]);
    assert!(matches!(refused, Err(RestoreError::Inconsistent(why)) if why.contains("twice")));
}

#[test]
fn snapshots_that_never_end_do_not_spoil_a_later_one() {
    let mut bench = Bench::new(1 << 20);
    for key in ["a", "b", "c", "d"] {
        bench.apply(key, set(b"value"));
    }
    let mut piece = Vec::new();
    for round in 0..1_000 {
        assert!(bench.store.begin_snapshot());
        piece.clear();
        // The first entry goes out in each of them, the others in none.
        let progress = bench.store.snapshot_chunk(&mut piece, HEADER_BYTES + 1);
        assert_eq!(progress, SnapshotProgress::More);
        bench.store.abandon_snapshot();
        if round % 100 == 0 {
            bench.apply("d", set(b"value"));
        }
    }
    let expected = bench.snapshot();
    assert!(bench.store.begin_snapshot());
    piece.clear();
    assert_eq!(bench.store.snapshot_chunk(&mut piece, 10_000), SnapshotProgress::Done);
    assert!(piece == expected);
}

#[test]
fn the_hand_of_the_policy_and_its_marks_are_in_the_snapshot() {
    let mut bench = Bench::new(8 * cost(1, 5));
    bench.apply("", policy(Eviction::Sieve));
    for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        bench.apply(key, set(b"value"));
    }
    for key in ["a", "b", "d"] {
        bench.apply(key, set(b"again"));
    }
    bench.apply("i", set(b"value"));
    assert_eq!(bench.order(), ["i", "h", "g", "f", "e", "d", "b", "a"]);
    let mut restored = Store::restore(&bench.snapshot(), settings(1)).expect("our own");
    assert_same_state(&restored, &bench.store, "with a hand");
    for (number, key) in ["j", "k", "l", "m"].into_iter().enumerate() {
        bench.apply(key, set(b"value"));
        let command = crate::command::Command { key: key.as_bytes(), operation: set(b"value") };
        restored.apply(Version(bench.version), &command, Answer::Unwanted);
        assert_same_state(&restored, &bench.store, &format!("{number} more"));
    }
}

#[test]
fn announced_lengths_of_a_snapshot_take_no_memory() {
    let (stream, _) = snapshot_with_all_kinds();
    let mut huge = stream[..HEADER_BYTES].to_vec();
    huge[12..20].copy_from_slice(&u64::MAX.to_le_bytes());
    huge[ENTRIES_AT..ENTRIES_AT + 12].copy_from_slice(&[0xff; 12]);
    let mut restorer = Restorer::with_hint(settings(1), 1_000);
    restorer.feed(&huge).expect("a header as good as any");
    let mut record = vec![0; KEY_AT];
    record[0] = IN_ORDER;
    record[4..8].copy_from_slice(&(16_u32 << 20).to_le_bytes());
    restorer.feed(&record).expect("a record may announce as much as a value may have");
    assert_eq!(restorer.finish().err(), Some(RestoreError::Truncated));
    let mut restorer = Restorer::new(settings(1));
    restorer.feed(&huge).expect("a header as good as any");
    record[4] = 1;
    let refused = restorer.feed(&record);
    assert!(matches!(refused, Err(RestoreError::Inconsistent(why)) if why.contains("too long")));
    assert_eq!(restorer.feed(b"more"), refused, "what failed stays failed");
    assert_eq!(restorer.finish().err(), refused.err());
}

#[test]
fn a_snapshot_names_its_format() {
    let mut bytes = mixed().snapshot();
    bytes[8] = 9;
    assert_eq!(Store::restore(&bytes, settings(1)).err(), Some(RestoreError::UnknownFormat(9)));
    bytes[0] = b'x';
    assert_eq!(Store::restore(&bytes, settings(1)).err(), Some(RestoreError::NotASnapshot));
    assert_eq!(Store::restore(&[], settings(1)).err(), Some(RestoreError::NotASnapshot));
    assert_eq!(Store::restore(b"CRCx", settings(1)).err(), Some(RestoreError::NotASnapshot));
}

#[test]
fn an_empty_store_and_a_flushed_one_survive_a_snapshot() {
    let empty = Bench::new(1 << 20);
    let mut flushed = mixed();
    flushed.apply("", Operation::Flush);
    for bench in [empty, flushed] {
        let restored = Store::restore(&bench.snapshot(), settings(1)).expect("a snapshot");
        assert_same_state(&restored, &bench.store, "without entries");
        assert_eq!(restored.bytes_max(), 1 << 20);
        assert_eq!(restored.keys(), 0);
    }
}

#[test]
fn large_values_survive_a_snapshot_in_small_pieces() {
    let mut bench = Bench::new(64 << 20);
    bench.store.value_bytes_max = 4 << 20;
    let large: Vec<u8> = (0..3_000_000_u32).map(|number| (number * 7) as u8).collect();
    for key in ["a", "b", "c"] {
        bench.apply(key, set(&large));
    }
    let expected = bench.store.digest();
    assert!(bench.store.begin_snapshot());
    bench.apply(
        "c",
        Operation::Expire {
            expiry: Expiry::In(Millis(5)),
            condition: crate::command::ExpireCondition::Always,
            return_value: false,
        },
    );
    let mut restorer = Restorer::new(settings(1));
    let mut piece = Vec::new();
    loop {
        piece.clear();
        let progress = bench.store.snapshot_chunk(&mut piece, 100_000);
        assert!(piece.len() <= 100_000);
        restorer.feed(&piece).expect("a piece of our own");
        if progress == SnapshotProgress::Done {
            break;
        }
    }
    let restored = restorer.finish().expect("a snapshot of our own");
    restored.check();
    assert_eq!(restored.digest(), expected);
}
