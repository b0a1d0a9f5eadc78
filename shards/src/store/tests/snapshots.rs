//! Snapshots: taken in pieces while commands go on they are the state of one moment; restored
//! from pieces they are that state again; and nothing else is taken for one.

use super::replicas::{apply_entry, mixed, random_log};
use super::{Bench, Random, settings};
use crate::command::{Expiry, Operation, SetCondition};
use crate::ids::{Index, Millis, Version};
use crate::store::digest::hash_bytes;
use crate::store::{
    Answer, ENTRY_OVERHEAD_BYTES, FREED_PER_ENTRY_MAX, RestoreError, Restorer, SnapshotProgress,
    Store, StoreSettings,
};

const HEADER_BYTES: usize = 72;
const SLOTS_AT: usize = 44;
const FIRST_FREE_AT: usize = 52;
const KEY_AT: usize = 39;
const FREE_BYTES: usize = 9;
const END_BYTES: usize = 9;
const ENTRY: u8 = 1;
const FREE: u8 = 2;
const EARLY_ENTRY: u8 = 3;
const EARLY_FREE: u8 = 4;
const END: u8 = 5;

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
            let length = match rest[0] {
                FREE | EARLY_FREE => FREE_BYTES,
                _ => KEY_AT + half_at(rest, 33) as usize + usize::from(rest[37]),
            };
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
        hash_seed: random.next(),
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
    assert!(store.slab.free_slots().eq(other.slab.free_slots()), "free slots, {context}");
    let entries = store.slab.entries().zip(other.slab.entries());
    for ((slot, entry), (other_slot, other_entry)) in entries {
        assert_eq!(slot, other_slot, "slots, {context}");
        assert_eq!(entry.data(), other_entry.data(), "slot {slot}, {context}");
        let fields = [entry, other_entry]
            .map(|entry| (entry.version, entry.deadline, entry.recency, entry.flags));
        assert_eq!(fields[0], fields[1], "slot {slot}, {context}");
    }
    let [words, other_words] = [store, other].map(|store| {
        let next_recency = store.recency.next_number();
        (store.keys(), store.bytes(), store.bytes_max(), store.stamp(), next_recency)
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
    early_entries: usize,
    early_free: usize,
    free: usize,
    evicted: u64,
    expired: u64,
    flushed: u64,
}

/// Applies a random log to a store that takes snapshots of itself meanwhile, and to a replica that
/// waits at the moment of each. The store restored from the snapshot must be that replica, and
/// both must do the same from there on.
fn run(seed: u64, entries: u64, keys: u64, bytes_max: u64, chunk_bytes_max: u64) -> Met {
    println!("seed {seed}: {entries} entries, {keys} keys, {bytes_max} bytes");
    let log = random_log(seed, entries, keys, bytes_max);
    let mut random = Random(seed);
    let mut store = Store::new(settings(bytes_max));
    let mut reference = Store::new(settings(bytes_max));
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
        met.early_entries += parts.kinds(EARLY_ENTRY);
        met.early_free += parts.kinds(EARLY_FREE);
        met.free += parts.kinds(FREE);
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
        let met = run(seed, 1_500, 40, 20 * (ENTRY_OVERHEAD_BYTES + 30), 200);
        println!("{met:?}");
        assert!(met.snapshots > 50 && met.early_entries > 200 && met.early_free > 20, "{met:?}");
        assert!(met.free > 50 && met.evicted > 50 && met.expired > 50, "{met:?}");
        assert!(met.flushed > 0, "{met:?}");
    }
    for seed in 20..=22 {
        let met = run(seed, 1_200, 300, 50 * (ENTRY_OVERHEAD_BYTES + 30), 300);
        println!("{met:?}");
        assert!(met.early_entries > 200 && met.early_free > 20 && met.evicted > 20, "{met:?}");
    }
}

fn set(value: &[u8]) -> Operation<'_> {
    let condition = SetCondition::Always;
    Operation::Set { value, flags: 0, condition, expiry: Expiry::Never, return_old: false }
}

const DELETE: Operation<'_> = Operation::Delete { version: Version(0), return_old: false };

/// A small snapshot with records of every kind: entries and free slots, in order and early.
fn snapshot_with_all_kinds() -> (Vec<u8>, Store) {
    let mut bench = mixed();
    for key in ["g", "h", "i", "j", "k"] {
        bench.apply(key, set(key.as_bytes()));
    }
    for key in ["j", "g", "ccc", "h"] {
        bench.apply(key, DELETE);
    }
    let mut whole = Vec::new();
    bench.store.snapshot(&mut whole);
    let reference = Store::restore(&whole, settings(1)).expect("a snapshot of our own");
    assert!(bench.store.begin_snapshot());
    let mut stream = Vec::new();
    assert_eq!(bench.store.snapshot_chunk(&mut stream, 1), SnapshotProgress::More);
    bench.apply("i", set(b"later"));
    bench.apply("new", set(b"taking the free slot"));
    let rest = bench.store.snapshot_chunk(&mut stream, 10_000);
    assert_eq!(rest, SnapshotProgress::Done);
    let parts = Parts::of(&stream);
    for kind in [ENTRY, FREE, EARLY_ENTRY, EARLY_FREE] {
        assert!(parts.kinds(kind) > 0, "no record of kind {kind}");
    }
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
    bench.at(200);
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
    for number in 0..5_000 {
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
    let held = |bench: &Bench| bench.store.retired.iter().map(Vec::len).sum::<usize>();
    let mut before = held(&bench);
    assert!(before > 5_000);
    let stamp = bench.store.stamp().0;
    while before > 0 {
        bench.at(stamp);
        let after = held(&bench);
        assert_eq!(before - after, before.min(FREED_PER_ENTRY_MAX));
        before = after;
    }
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
                // A record that came in its turn may as well have come early.
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
fn a_snapshot_with_impossible_slots_is_refused() {
    let (stream, reference) = snapshot_with_all_kinds();
    let parts = Parts::of(&stream);
    let unchanged = parts.changed(|_| {}).expect("it is as it was");
    assert_same_state(&unchanged, &reference, "unchanged");
    let in_order: Vec<usize> = (0..parts.records.len())
        .filter(|&at| matches!(parts.records[at][0], ENTRY | FREE))
        .collect();
    let early = parts.records.iter().position(|record| record[0] == EARLY_ENTRY);
    let early = early.expect("an early entry");
    let last = parts.records.len() - 1;
    let first_slot = |slot: u32| slot.to_le_bytes();
    let mut refusals: Vec<(&str, Result<Store, RestoreError>)> = vec![
        ("unsorted", parts.changed(|parts| parts.records.swap(in_order[0], in_order[1]))),
        ("missing", parts.changed(|parts| drop(parts.records.remove(in_order[1])))),
        ("early one missing", parts.changed(|parts| drop(parts.records.remove(early)))),
        ("early one last", parts.changed(|parts| parts.records.swap(early, last))),
        (
            "slot twice",
            parts.changed(|parts| {
                let slot = parts.records[in_order[0]][1..5].to_vec();
                parts.records[in_order[1]][1..5].copy_from_slice(&slot);
            }),
        ),
        (
            "early slot of another",
            parts.changed(|parts| {
                parts.records[early][1..5].copy_from_slice(&first_slot(0));
            }),
        ),
        ("more slots", parts.changed(|parts| parts.header[SLOTS_AT] += 1)),
        ("fewer slots", parts.changed(|parts| parts.header[SLOTS_AT] -= 1)),
    ];
    for out_of_range in [100, u32::MAX - 1, u32::MAX] {
        for at in [in_order[0], early, last] {
            refusals.push((
                "out of range",
                parts.changed(|parts| {
                    parts.records[at][1..5].copy_from_slice(&first_slot(out_of_range));
                }),
            ));
            refusals.push((
                "out of a larger range",
                parts.changed(|parts| {
                    parts.header[SLOTS_AT..SLOTS_AT + 4].copy_from_slice(&[0xff; 4]);
                    parts.records[at][1..5].copy_from_slice(&first_slot(out_of_range));
                }),
            ));
        }
    }
    for (what, refused) in refusals {
        let refused = refused.err();
        let is_about_slots = matches!(
            refused,
            Some(RestoreError::Inconsistent(why)) if why.contains("slots")
        );
        assert!(is_about_slots, "{what}: {refused:?}");
    }
}

#[test]
fn a_snapshot_with_two_records_of_one_free_slot_is_refused_though_the_state_were_right() {
    let mut bench = Bench::new(1 << 20);
    for key in ["entry", "last", "first"] {
        bench.apply(key, set(b"value"));
    }
    bench.apply("last", DELETE);
    bench.apply("first", DELETE);
    let parts = Parts::of(&bench.snapshot());
    assert_eq!((parts.records[1][0], parts.records[1][1]), (FREE, 1));
    let refused = parts.changed(|parts| {
        // The last of the list is left to be a gap, which has no successor either.
        parts.records[1] = parts.records[2].clone();
        parts.records[1][0] = EARLY_FREE;
        parts.records.swap(0, 1);
    });
    assert!(matches!(refused, Err(RestoreError::Inconsistent(why)) if why.contains("slots")));
}

#[test]
fn a_snapshot_whose_free_slots_are_no_list_is_refused() {
    let (stream, _) = snapshot_with_all_kinds();
    let parts = Parts::of(&stream);
    let free: Vec<usize> = (0..parts.records.len())
        .filter(|&at| matches!(parts.records[at][0], FREE | EARLY_FREE))
        .collect();
    assert!(free.len() >= 3);
    let slots = half_at(&parts.header, SLOTS_AT);
    for next in (0..=slots).chain([u32::MAX - 1, u32::MAX]) {
        for &at in &free {
            let link = next.to_le_bytes();
            if parts.records[at][5..9] != link {
                let refused = parts.changed(|parts| parts.records[at][5..9].copy_from_slice(&link));
                assert!(matches!(refused, Err(RestoreError::Inconsistent(_))), "{next}");
            }
        }
        let first = next.to_le_bytes();
        if parts.header[FIRST_FREE_AT..FIRST_FREE_AT + 4] != first {
            let refused = parts.changed(|parts| {
                parts.header[FIRST_FREE_AT..FIRST_FREE_AT + 4].copy_from_slice(&first);
            });
            assert!(matches!(refused, Err(RestoreError::Inconsistent(_))), "{next}");
        }
    }
}

#[test]
fn a_snapshot_with_a_key_or_a_recency_number_twice_is_refused() {
    let mut bench = Bench::new(1 << 20);
    for key in ["a", "b", "c"] {
        bench.apply(key, set(b"value"));
    }
    let parts = Parts::of(&bench.snapshot());
    for early in [false, true] {
        let cases = [(KEY_AT, "a key occurs twice"), (25, "the recency numbers")];
        for (at, expected) in cases {
            let refused = parts.changed(|parts| {
                parts.records[1][at] = parts.records[0][at];
                if early {
                    parts.records[1][0] = EARLY_ENTRY;
                    parts.records.swap(0, 1);
                }
            });
            assert!(
                matches!(refused, Err(RestoreError::Inconsistent(why)) if why.contains(expected)),
                "{expected}"
            );
        }
    }
    let beyond = parts.changed(|parts| parts.records[2][25] = 4);
    assert!(matches!(beyond, Err(RestoreError::Inconsistent(why)) if why.contains("recency")));
}

#[test]
fn announced_lengths_of_a_snapshot_take_no_memory() {
    let (stream, _) = snapshot_with_all_kinds();
    let mut huge = stream[..HEADER_BYTES].to_vec();
    huge[12..20].copy_from_slice(&u64::MAX.to_le_bytes());
    huge[SLOTS_AT..SLOTS_AT + 8].copy_from_slice(&[0xff; 8]);
    huge[56..64].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut restorer = Restorer::with_hint(settings(1), 1_000);
    restorer.feed(&huge).expect("a header as good as any");
    let mut record = vec![0; KEY_AT];
    record[0] = ENTRY;
    record[33..37].copy_from_slice(&(16_u32 << 20).to_le_bytes());
    restorer.feed(&record).expect("a record may announce as much as a value may have");
    assert_eq!(restorer.finish().err(), Some(RestoreError::Truncated));
    let mut restorer = Restorer::new(settings(1));
    restorer.feed(&huge).expect("a header as good as any");
    record[33] = 1;
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
