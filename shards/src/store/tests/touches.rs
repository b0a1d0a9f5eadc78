//! Reads that count as uses: what they leave, and what applying it does.

use super::cost;
use super::{Bench, settings};
use crate::command::{Command, Expiry, Operation, SetCondition};
use crate::ids::{Millis, Version};
use crate::store::{Store, TOUCH_BYTES};

const INTERVAL: u64 = 5_000;
const GET: Operation<'_> = Operation::Get { peek: false };

fn set(value: &[u8]) -> Operation<'_> {
    let condition = SetCondition::Always;
    Operation::Set { value, flags: 0, condition, expiry: Expiry::Never, return_old: false }
}

/// A store with three keys that were last used an interval ago, in this order.
fn long_unused(bytes_max: u64) -> Bench {
    let mut bench = Bench::new(bytes_max);
    bench.at(1_000);
    for key in ["a", "b", "c"] {
        bench.apply(key, set(b"1"));
    }
    bench.at(1_000 + INTERVAL);
    bench.at(1_001 + 2 * INTERVAL);
    bench
}

fn taken(bench: &mut Bench) -> Vec<u8> {
    let mut touches = Vec::new();
    bench.store.take_touches(usize::MAX, &mut touches);
    touches
}

#[test]
fn a_read_moves_nothing_and_its_touch_does() {
    let mut bench = long_unused(1 << 20);
    let digest = bench.store.digest();
    bench.read("b", GET);
    bench.read("a", Operation::Inspect { peek: false });
    assert_eq!(bench.store.digest(), digest);
    assert_eq!(bench.order(), ["c", "b", "a"]);
    let touches = taken(&mut bench);
    assert_eq!(touches.len(), 2 * TOUCH_BYTES);
    bench.store.apply_touches(&touches);
    bench.store.check();
    assert_eq!(bench.order(), ["a", "b", "c"]);
    assert_eq!(bench.store.touched(), 2);
}

#[test]
fn every_touch_of_an_entry_counts_in_its_order_however_many_there_are() {
    let mut bench = Bench::new(1 << 20);
    bench.at(1_000);
    let keys: Vec<String> = (0..150).map(|number| format!("key {number}")).collect();
    for key in &keys {
        bench.apply_unchecked(key, set(b"1"));
    }
    bench.at(1_000 + INTERVAL);
    bench.at(1_001 + 2 * INTERVAL);
    for key in keys.iter().rev() {
        bench.read(key, GET);
    }
    let touches = taken(&mut bench);
    assert_eq!(touches.len(), 150 * TOUCH_BYTES);
    bench.store.apply_touches(&touches);
    bench.store.check();
    assert_eq!(bench.order(), keys);
    assert_eq!(bench.store.touched(), 150);
}

#[test]
fn a_touched_key_outlives_one_that_was_written_later() {
    let mut bench = long_unused(3 * cost(1, 1));
    bench.read("a", GET);
    let touches = taken(&mut bench);
    bench.store.apply_touches(&touches);
    bench.apply("d", set(b"1"));
    assert_eq!(bench.order(), ["d", "a", "c"]);
}

#[test]
fn reads_within_the_interval_misses_and_peeks_leave_no_touch() {
    let mut bench = long_unused(1 << 20);
    bench.read("a", Operation::Get { peek: true });
    bench.read("b", Operation::Inspect { peek: true });
    bench.read("none", GET);
    bench.apply("c", set(b"2"));
    bench.read("c", GET);
    assert_eq!(taken(&mut bench), [0; 0]);
    bench.read("a", GET);
    bench.read("a", GET);
    assert_eq!(taken(&mut bench).len(), TOUCH_BYTES);
}

#[test]
fn the_running_clock_counts_where_nothing_is_written() {
    let mut bench = long_unused(1 << 20);
    bench.apply("a", set(b"2"));
    let stamp = bench.store.stamp().0;
    for (running, expected) in [(stamp + INTERVAL / 2, 0), (stamp + 3 * INTERVAL, TOUCH_BYTES)] {
        let _ = bench.store.read(&Command { key: b"a", operation: GET }, Millis(running));
        assert_eq!(taken(&mut bench).len(), expected, "at {running}");
    }
}

#[test]
fn a_touch_of_what_is_gone_does_nothing_and_of_what_was_written_since_counts() {
    let mut bench = long_unused(1 << 20);
    for key in ["a", "b", "c"] {
        bench.read(key, GET);
    }
    let touches = taken(&mut bench);
    bench.apply("a", set(b"2"));
    bench.apply("b", Operation::Delete { version: Version(0), return_old: false });
    bench.apply("d", set(b"in b's place"));
    let before = bench.store.digest();
    bench.store.apply_touches(&touches[TOUCH_BYTES..2 * TOUCH_BYTES]);
    assert_eq!(bench.store.digest(), before);
    bench.store.apply_touches(&touches);
    assert_eq!(bench.order(), ["c", "a", "d"]);
    let beyond = [0xff; TOUCH_BYTES];
    bench.store.apply_touches(&beyond);
    bench.store.check();
}

#[test]
fn a_snapshot_shows_the_order_before_a_touch_that_came_during_it() {
    let mut bench = long_unused(1 << 20);
    let expected = bench.snapshot();
    assert!(bench.store.begin_snapshot());
    for key in ["c", "a"] {
        bench.read(key, GET);
    }
    let touches = taken(&mut bench);
    bench.store.apply_touches(&touches);
    let mut pieces = Vec::new();
    while bench.store.snapshot_chunk(&mut pieces, 50) == crate::store::SnapshotProgress::More {}
    let restored = Store::restore(&pieces, settings(1)).expect("a snapshot of our own");
    let mut again = Vec::new();
    restored.snapshot(&mut again);
    assert_eq!(again, expected);
}

#[test]
fn where_entries_are_evicted_sooner_than_an_interval_goes_by_the_order_counts() {
    let mut bench = Bench::new(16 * cost(2, 1));
    bench.at(1_000);
    for number in 10..26 {
        bench.apply(&number.to_string(), set(b"v"));
    }
    for (key, touches) in [("25", 0), ("24", 0), ("23", 1), ("10", 1)] {
        bench.read(key, GET);
        assert_eq!(taken(&mut bench).len(), touches * TOUCH_BYTES, "{key}");
    }
}
