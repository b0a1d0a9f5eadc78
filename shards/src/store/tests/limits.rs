//! Edges: sizes, many due keys at once, memory that is given back.

use super::{Bench, cost, settings};
use crate::command::{Command, End, Expiry, KEY_BYTES_MAX, Operation, SetCondition};
use crate::ids::{Millis, Version};
use crate::reply::Status;
use crate::store::{
    Answer, EVICTED_PER_ENTRY_MAX, EXPIRED_PER_ENTRY_MAX, Opening, Store, StoreSettings,
    accounted_bytes,
};

const DELETE: Operation<'_> = Operation::Delete { version: Version(0), return_old: false };

fn set(value: &[u8]) -> Operation<'_> {
    set_at(value, Expiry::Never)
}

fn set_at(value: &[u8], expiry: Expiry) -> Operation<'_> {
    let condition = SetCondition::Always;
    Operation::Set { value, flags: 0, condition, expiry, return_old: false }
}

fn append(value: &[u8]) -> Operation<'_> {
    Operation::Extend { end: End::Back, value, create: true, version: Version(0) }
}

#[test]
fn a_value_may_have_the_longest_length_and_no_more() {
    let mut bench = Bench::new(1 << 20);
    for (length, status) in [(255, Status::Ok), (256, Status::Ok), (257, Status::TooLarge)] {
        let value = vec![b'v'; length];
        assert_eq!(bench.apply("set", set(&value)).status, status, "{length}");
        bench.apply("append", set(&value[..100]));
        assert_eq!(bench.apply("append", append(&value[100..])).status, status, "{length}");
        assert_eq!(bench.apply("create", append(&value)).status, status, "{length}");
        bench.apply("create", Operation::Delete { version: Version(0), return_old: false });
    }
    assert_eq!(bench.get("set").number, 256);
    assert_eq!(bench.get("append").number, 100);
    assert_eq!(bench.store.evicted(), 0);
}

#[test]
fn an_entry_may_fill_the_shard_and_no_more() {
    // There must be room for a deadline and flags besides.
    let limit = accounted_bytes(3, 100, true, true);
    let end = (101..).find(|length| accounted_bytes(3, *length, true, true) > limit);
    let end = end.expect("some value is too long");
    for (length, status) in [(99, Status::Ok), (end - 1, Status::Ok), (end, Status::TooLarge)] {
        let mut bench = Bench::new(limit);
        bench.apply("old", set(&[b'1'; 60]));
        assert_eq!(bench.apply("key", set(&vec![b'v'; length])).status, status, "{length}");
        let survivor = if status == Status::Ok { "key" } else { "old" };
        assert_eq!(bench.order(), [survivor]);
        assert_eq!(bench.apply("key", append(b"")).status, Status::Ok);
        let rest = vec![b'v'; length - bench.get("key").number as usize];
        assert_eq!(bench.apply("key", append(&rest)).status, status, "{length}");
    }
    let mut tiny = Bench::new(accounted_bytes(0, 1, true, true));
    let long = "n".repeat(10);
    assert_eq!(tiny.apply(&long, Operation::Increment { delta: 1 }).status, Status::TooLarge);
    assert_eq!(tiny.apply("", Operation::Increment { delta: 9 }).status, Status::Ok);
    let grown = Operation::Increment { delta: 1_000_000_000 };
    assert_eq!(tiny.apply("", grown).status, Status::TooLarge);
    assert_eq!(tiny.get("").number, 1);
}

#[test]
fn the_longest_and_the_empty_key_are_keys() {
    let mut bench = Bench::new(1 << 20);
    let long = "k".repeat(KEY_BYTES_MAX);
    for key in [long.as_str(), ""] {
        bench.apply(key, set(b"value"));
        assert_eq!(bench.get(key).value.as_deref(), Some(&b"value"[..]));
    }
    assert_eq!(bench.store.bytes(), cost(KEY_BYTES_MAX, 5) + cost(0, 5));
    let restored = Store::restore(&bench.snapshot(), settings(1)).expect("a snapshot");
    restored.check();
    assert_eq!(restored.digest(), bench.store.digest());
}

#[test]
fn key_and_value_do_not_run_into_each_other() {
    let mut bench = Bench::new(1 << 20);
    bench.apply("ab", set(b"c"));
    bench.apply("a", set(b"bc"));
    assert_eq!(bench.get("ab").value.as_deref(), Some(&b"c"[..]));
    assert_eq!(bench.get("a").value.as_deref(), Some(&b"bc"[..]));
}

#[test]
fn an_entry_removes_a_bounded_number_of_due_keys_the_earliest_first() {
    let count = EXPIRED_PER_ENTRY_MAX + 33;
    let mut bench = Bench::new(1 << 30);
    for number in 0..count {
        let key = format!("{number:05}");
        // Deadlines fall while versions rise, in groups of equal deadlines.
        let deadline = Millis(10_000 - number as u64 / 10);
        let operation = set_at(b"value", Expiry::At(deadline));
        let command = Command { key: key.as_bytes(), operation };
        bench.store.apply(Version(number as u64 + 1), &command, Answer::Unwanted);
    }
    assert_eq!(bench.store.next_due(), Some(Millis(10_000 - (count as u64 - 1) / 10)));
    bench.at(20_000);
    assert_eq!(bench.store.keys(), 33);
    assert_eq!(bench.read("", Operation::KeyCount).number, 0);
    let mut left: Vec<_> = bench.order().into_iter().map(String::from).collect();
    left.sort_unstable();
    let mut expected: Vec<_> = (0..count).collect();
    expected.sort_by_key(|number| (10_000 - number / 10, *number));
    let mut expected: Vec<_> =
        expected[EXPIRED_PER_ENTRY_MAX..].iter().map(|number| format!("{number:05}")).collect();
    expected.sort_unstable();
    assert_eq!(left, expected);
    assert!(bench.store.next_due() < Some(bench.store.stamp()));
    bench.at(20_000);
    assert_eq!((bench.store.keys(), bench.store.next_due()), (0, None));
    assert_eq!(bench.store.expired(), count as u64);
}

#[test]
fn memory_of_a_flushed_shard_is_freed_bit_by_bit() {
    let count = 50_000;
    let mut store = Store::new(settings(1 << 30));
    for number in 0..count {
        let key = number.to_string();
        let command = Command { key: key.as_bytes(), operation: set(b"value") };
        store.apply(Version(number as u64 + 1), &command, Answer::Unwanted);
    }
    store.check();
    let flush = Command { key: b"", operation: Operation::Flush };
    store.apply(Version(u64::MAX), &flush, Answer::Unwanted);
    assert_eq!((store.retired.is_empty(), store.keys()), (false, 0));
    let mut steps = 0;
    while !store.retired.is_empty() {
        store.begin_entry(Opening::at(Millis(1)));
        store.check();
        steps += 1;
    }
    assert!((5..100).contains(&steps), "{steps} steps");
}

#[test]
fn flush_after_flush_leaves_a_bounded_amount_behind() {
    let long = vec![7; 3 << 20];
    for (value, count) in [(&b"value"[..], 1_000), (&long, 60)] {
        let mut bench = Bench::new(1 << 30);
        let mut waiting_max = 0;
        for _ in 0..count {
            bench.apply_unchecked("key", set(value));
            bench.apply_unchecked("", Operation::Flush);
            bench.store.begin_entry(Opening::at(Millis(1)));
            waiting_max = waiting_max.max(bench.store.retired.waiting());
        }
        assert!(waiting_max <= 16, "{waiting_max} of {count} wait");
    }
}

#[test]
fn keys_that_share_a_place_and_a_tag_are_told_apart() {
    let mut bench = Bench::new(1 << 20);
    let places = |number: u32| {
        let [tag, .., part] = bench.store.hash(&number.to_le_bytes()).name().to_bytes();
        ((tag, part), number)
    };
    let mut hashed: Vec<_> = (0..3_000).map(places).collect();
    hashed.sort_unstable();
    let pair = hashed.windows(2).find(|pair| pair[0].0 == pair[1].0).expect("a collision");
    let [one, other] = [pair[0].1.to_le_bytes(), pair[1].1.to_le_bytes()];
    for (victim, survivor) in [(one, other), (other, one)] {
        bench.apply("", Operation::Flush);
        for (version, key) in [(Version(1), &one), (Version(2), &other)] {
            let command = Command { key, operation: set(key) };
            bench.store.apply(version, &command, Answer::Unwanted);
            bench.store.check();
        }
        assert_eq!(bench.store.keys(), 2);
        let operation = Operation::Delete { version: Version(0), return_old: true };
        let command = Command { key: &victim, operation };
        let deleted = bench.store.apply(Version(3), &command, Answer::Wanted);
        assert_eq!(deleted.value, Some(&victim[..]));
        bench.store.check();
        assert!(bench.store.keys_in_recency_order().eq([&survivor[..]]));
    }
}

#[test]
fn memory_that_one_size_of_values_leaves_serves_another() {
    let mut bench = Bench::new(1 << 30);
    bench.at(1);
    let small = vec![b's'; 100];
    let count = 20_000;
    for number in 0..count {
        bench.apply_unchecked(&number.to_string(), set(&small));
    }
    let full = bench.store.entries.pages();
    // Nine of ten leave, one on every page stays.
    for number in (0..count).filter(|number| number % 10 != 0) {
        let delete = Operation::Delete { version: Version(0), return_old: false };
        bench.apply_unchecked(&number.to_string(), delete);
    }
    for _ in 0..40 {
        bench.at(1);
    }
    let left = bench.store.entries.pages();
    assert!(left <= full / 10 * 9 / 8 + 4, "{left} of {full} pages for a tenth of the entries");
    for number in (0..count).filter(|number| number % 10 == 0) {
        assert_eq!(bench.get(&number.to_string()).number, 100);
    }
}

#[test]
fn a_lowered_limit_is_reached_in_steps_and_nothing_grows_meanwhile() {
    let count = 2 * EVICTED_PER_ENTRY_MAX as u64 + 100;
    let entry = cost(8, 1);
    let mut bench = Bench::new(count * entry);
    bench.at(1);
    for number in 0..count {
        bench.apply_unchecked(&format!("{number:08}"), set(b"v"));
    }
    let limit = |bytes_max| Operation::Limit { bytes_max: Some(bytes_max), eviction: None };
    assert_eq!(bench.apply_unchecked("", limit(50 * entry)).number, count * entry);
    assert_eq!(bench.store.keys(), count, "nothing goes at once");
    assert!(bench.store.is_above_limit());
    // A write makes as much room as it takes.
    bench.apply_unchecked("new key!", set(b"v"));
    assert_eq!(bench.store.keys(), count);
    for left in [count - EVICTED_PER_ENTRY_MAX as u64, 100, 50] {
        let mut restored = Store::restore(&bench.snapshot(), settings(1)).expect("our own");
        bench.at(1);
        restored.begin_entry(Opening::at(Millis(1)));
        assert_eq!(restored.digest(), bench.store.digest());
        assert_eq!(bench.store.keys(), left);
    }
    assert!(!bench.store.is_above_limit());
    assert_eq!(bench.order()[0], "new key!");
    assert_eq!(bench.apply("", limit(count * entry)).number, 50 * entry);
    assert_eq!(bench.apply("more", set(b"v")).status, Status::Ok);
    assert_eq!(bench.store.keys(), 51);
}

#[test]
fn blocks_that_stay_move_together_when_most_are_deleted() {
    let mut bench = Bench {
        store: Store::new(StoreSettings { value_bytes_max: 10_000, ..settings(64 << 20) }),
        version: 0,
    };
    let keys: Vec<String> = (0..4_000).map(|number| number.to_string()).collect();
    for key in &keys {
        bench.apply_unchecked(key, set(&[7; 5_000]));
    }
    let full = bench.store.entries.small_chunks();
    for key in keys.iter().filter(|key| !key.ends_with('3')) {
        bench.apply_unchecked(key, DELETE);
    }
    (0..100).for_each(|_| bench.store.begin_entry(Opening::at(Millis(1))));
    let sparse = bench.store.entries.small_chunks();
    assert!(sparse <= full / 10 + full / 100 + 2, "{sparse} of {full} chunks for a tenth");
    bench.store.check();
}
