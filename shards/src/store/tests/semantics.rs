//! What each command does.

use super::cost;
use super::{Bench, Seen};
use crate::command::{Command, End, ExpireCondition, Expiry, Operation, SetCondition};
use crate::ids::{Millis, Version};
use crate::reply::{Replies, Status, Token};
use crate::store::{Answer, ReadOutcome, accounted_bytes};

const SECOND: Millis = Millis(1_000);

fn set(value: &str) -> Operation<'_> {
    set_if(value, SetCondition::Always)
}

fn set_if(value: &str, condition: SetCondition) -> Operation<'_> {
    Operation::Set {
        value: value.as_bytes(),
        flags: 5,
        condition,
        expiry: Expiry::Never,
        return_old: false,
    }
}

fn set_for(value: &str, expiry: Expiry) -> Operation<'_> {
    Operation::Set {
        value: value.as_bytes(),
        flags: 0,
        condition: SetCondition::Always,
        expiry,
        return_old: false,
    }
}

fn extend(end: End, value: &str, create: bool) -> Operation<'_> {
    Operation::Extend { end, value: value.as_bytes(), create, version: Version(0) }
}

fn count_up(delta: u64) -> Operation<'static> {
    Operation::Count { delta, decrement: false, initial: None, version: Version(0) }
}

fn count_down(delta: u64) -> Operation<'static> {
    Operation::Count { delta, decrement: true, initial: None, version: Version(0) }
}

fn expire(expiry: Expiry, condition: ExpireCondition) -> Operation<'static> {
    Operation::Expire { expiry, condition, return_value: false }
}

fn delete() -> Operation<'static> {
    Operation::Delete { version: Version(0), return_old: false }
}

fn value_of(seen: &Seen) -> &str {
    std::str::from_utf8(seen.value.as_deref().expect("a value")).expect("text")
}

fn bench() -> Bench {
    let mut bench = Bench::new(1 << 20);
    bench.at(1_000);
    bench
}

#[test]
fn what_was_set_is_read_with_flags_version_and_length() {
    let mut bench = bench();
    let written = bench.apply("key", set("value"));
    assert_eq!((written.status, written.number, written.version), (Status::Ok, 0, Version(1)));
    let read = bench.get("key");
    assert_eq!(value_of(&read), "value");
    assert_eq!(
        (read.status, read.flags, read.version, read.number),
        (Status::Ok, 5, Version(1), 5)
    );
    let inspected = bench.read("key", Operation::Inspect { peek: false });
    assert_eq!(inspected, Seen { value: None, ..read });
    assert_eq!(bench.apply("key", set("")).number, 1);
    assert_eq!(value_of(&bench.get("key")), "");
    assert_eq!(bench.get("other").status, Status::NotFound);
    assert_eq!((bench.store.hits(), bench.store.misses()), (3, 1));
}

#[test]
fn a_set_with_a_condition_stores_only_if_it_holds() {
    let mut bench = bench();
    assert_eq!(bench.apply("key", set_if("a", SetCondition::IfPresent)).status, Status::NotFound);
    let of_that = |version| SetCondition::IfVersion(Version(version));
    assert_eq!(bench.apply("key", set_if("a", of_that(1))).status, Status::NotFound);
    assert_eq!(bench.apply("key", set_if("a", SetCondition::IfAbsent)).status, Status::Ok);
    let refused = bench.apply("key", set_if("b", SetCondition::IfAbsent));
    assert_eq!((refused.status, refused.version), (Status::Exists, Version(3)));
    assert_eq!(bench.apply("key", set_if("b", of_that(2))).status, Status::ConditionFailed);
    assert_eq!(value_of(&bench.get("key")), "a");
    assert_eq!(bench.apply("key", set_if("b", of_that(3))).status, Status::Ok);
    assert_eq!(bench.apply("key", set_if("c", SetCondition::IfPresent)).status, Status::Ok);
    assert_eq!((bench.get("key").version, value_of(&bench.get("key"))), (Version(7), "c"));
}

#[test]
fn a_set_returns_the_old_value_stored_or_not_and_only_to_who_waits() {
    let mut bench = bench();
    let set_and_return = |value: &'static str, condition| Operation::Set {
        value: value.as_bytes(),
        flags: 9,
        condition,
        expiry: Expiry::Never,
        return_old: true,
    };
    assert_eq!(bench.apply("key", set_and_return("a", SetCondition::Always)).value, None);
    bench.apply("key", set("b"));
    let replaced = bench.apply("key", set_and_return("c", SetCondition::Always));
    assert_eq!((value_of(&replaced), replaced.flags, replaced.version), ("b", 5, Version(3)));
    let refused = bench.apply("key", set_and_return("d", SetCondition::IfAbsent));
    assert_eq!((refused.status, value_of(&refused), refused.flags), (Status::Exists, "c", 9));
    let command = Command { key: b"key", operation: set_and_return("e", SetCondition::Always) };
    assert_eq!(bench.store.apply(Version(99), &command, Answer::Unwanted).value, None);
    assert_eq!(value_of(&bench.get("key")), "e");
}

#[test]
fn expiry_of_a_set_is_kept_replaced_or_removed() {
    let mut bench = bench();
    let cases = [
        (Expiry::In(SECOND), Some(2_000)),
        (Expiry::Keep, Some(2_000)),
        (Expiry::At(Millis(5_000)), Some(5_000)),
        (Expiry::Never, None),
        (Expiry::Keep, None),
    ];
    for (expiry, deadline) in cases {
        let written = bench.apply("key", set_for("a", expiry));
        assert_eq!(written.expires_at, deadline.map(Millis), "{expiry:?}");
        assert_eq!(bench.get("key").expires_at, deadline.map(Millis), "{expiry:?}");
        assert_eq!(bench.store.next_due(), deadline.map(Millis), "{expiry:?}");
    }
    assert_eq!(bench.apply("new", set_for("a", Expiry::Keep)).expires_at, None);
}

#[test]
fn a_set_that_has_expired_already_removes_the_key() {
    for expiry in [Expiry::In(Millis(0)), Expiry::At(Millis(1_000)), Expiry::At(Millis(0))] {
        let mut bench = bench();
        assert_eq!(bench.apply("key", set_for("a", expiry)).status, Status::Ok);
        bench.apply("key", set("old"));
        let removed = bench.apply("key", set_for("a", expiry));
        assert_eq!((removed.status, removed.number), (Status::Ok, 1), "{expiry:?}");
        assert_eq!(removed.version, Version(0));
        assert_eq!(bench.get("key").status, Status::NotFound);
        assert_eq!(bench.store.keys(), 0);
    }
}

#[test]
fn a_deadline_beyond_the_end_of_time_is_invalid_and_changes_nothing() {
    let last = i64::MAX as u64;
    let mut bench = bench();
    bench.apply("key", set("a"));
    for expiry in [
        Expiry::In(Millis(u64::MAX)),
        Expiry::In(Millis(last - 999)),
        Expiry::At(Millis(u64::MAX)),
        Expiry::At(Millis(last + 1)),
    ] {
        assert_eq!(bench.apply("key", set_for("b", expiry)).status, Status::Invalid, "{expiry:?}");
        let refused = bench.apply("key", expire(expiry, ExpireCondition::Always));
        assert_eq!(refused.status, Status::Invalid, "{expiry:?}");
        let initial = Some((1, expiry));
        let count = Operation::Count { delta: 1, decrement: false, initial, version: Version(0) };
        assert_eq!(bench.apply("new", count).status, Status::Invalid, "{expiry:?}");
    }
    assert_eq!((value_of(&bench.get("key")), bench.get("key").expires_at), ("a", None));
    assert_eq!(bench.store.keys(), 1);
    for expiry in [Expiry::In(Millis(last - 1_000)), Expiry::At(Millis(last))] {
        assert_eq!(bench.apply("key", set_for("b", expiry)).expires_at, Some(Millis(last)));
    }
}

#[test]
fn extend_adds_at_either_end_and_leaves_flags_and_deadline() {
    let mut bench = bench();
    assert_eq!(bench.apply("key", extend(End::Back, "x", false)).status, Status::NotFound);
    let created = bench.apply("key", extend(End::Front, "mid", true));
    assert_eq!((created.status, created.number, created.flags), (Status::Ok, 3, 0));
    let flagged = Operation::Set {
        value: b"mid",
        flags: 8,
        condition: SetCondition::Always,
        expiry: Expiry::In(SECOND),
        return_old: false,
    };
    bench.apply("key", flagged);
    assert_eq!(bench.apply("key", extend(End::Front, "<<", false)).number, 5);
    let extended = bench.apply("key", extend(End::Back, ">", false));
    assert_eq!((extended.number, extended.version), (6, Version(5)));
    let read = bench.get("key");
    assert_eq!((value_of(&read), read.flags, read.version), ("<<mid>", 8, Version(5)));
    assert_eq!(read.expires_at, Some(Millis(2_000)));
    let at_version = |version| Operation::Extend {
        end: End::Back,
        value: b"!",
        create: true,
        version: Version(version),
    };
    assert_eq!(bench.apply("key", at_version(4)).status, Status::ConditionFailed);
    assert_eq!(bench.apply("key", at_version(5)).number, 7);
    assert_eq!(bench.apply("absent", at_version(5)).status, Status::NotFound);
}

#[test]
fn increment_counts_as_redis_does() {
    let mut bench = bench();
    let by = |delta| Operation::Increment { delta };
    assert_eq!(bench.apply("n", by(5)).number, 5);
    assert_eq!(bench.apply("n", by(-7)).number as i64, -2);
    assert_eq!(value_of(&bench.get("n")), "-2");
    bench.apply("n", set(&i64::MAX.to_string()));
    assert_eq!(bench.apply("n", by(1)).status, Status::Overflow);
    assert_eq!(bench.apply("n", by(0)).number, i64::MAX as u64);
    bench.apply("n", set(&i64::MIN.to_string()));
    assert_eq!(bench.apply("n", by(-1)).status, Status::Overflow);
    assert_eq!(bench.apply("n", by(i64::MAX)).number as i64, -1);
    for text in ["", "1.5", "abc", " 1", "1 ", "01", "+1", "9223372036854775808"] {
        bench.apply("n", set(text));
        assert_eq!(bench.apply("n", by(1)).status, Status::NotANumber, "{text:?}");
        assert_eq!(value_of(&bench.get("n")), text);
    }
    bench.apply("n", set_for("9", Expiry::In(SECOND)));
    bench.apply("n", by(1));
    assert_eq!(bench.get("n").expires_at, Some(Millis(2_000)));
}

#[test]
fn count_counts_as_memcached_does() {
    let mut bench = bench();
    assert_eq!(bench.apply("n", count_up(1)).status, Status::NotFound);
    let initial = |value| Operation::Count {
        delta: 1,
        decrement: false,
        initial: Some((value, Expiry::In(SECOND))),
        version: Version(0),
    };
    let created = bench.apply("n", initial(10));
    assert_eq!((created.number, created.expires_at), (10, Some(Millis(2_000))));
    assert_eq!(bench.apply("n", initial(10)).number, 11);
    assert_eq!(bench.apply("n", count_up(u64::MAX)).number, 10);
    assert_eq!(bench.apply("n", count_down(11)).number, 0);
    assert_eq!(value_of(&bench.get("n")), "0");
    assert_eq!(bench.get("n").expires_at, Some(Millis(2_000)));
    bench.apply("n", set("18446744073709551615"));
    assert_eq!(bench.apply("n", count_up(2)).number, 1);
    for text in ["", "-1", "x", "18446744073709551616"] {
        bench.apply("n", set(text));
        assert_eq!(bench.apply("n", count_up(1)).status, Status::NotANumber, "{text:?}");
    }
    let written = bench.apply("n", set("7")).version;
    let at_version = |version| Operation::Count {
        delta: 1,
        decrement: true,
        initial: Some((3, Expiry::Never)),
        version,
    };
    assert_eq!(bench.apply("n", at_version(Version(1))).status, Status::ConditionFailed);
    assert_eq!(bench.apply("n", at_version(written)).number, 6);
    assert_eq!(bench.apply("absent", at_version(written)).status, Status::NotFound);
}

#[test]
fn delete_removes_once_and_returns_the_old_value() {
    let mut bench = bench();
    assert_eq!(bench.apply("key", delete()).status, Status::NotFound);
    let version = bench.apply("key", set("a")).version;
    let at_version = |version| Operation::Delete { version, return_old: true };
    assert_eq!(bench.apply("key", at_version(Version(1))).status, Status::ConditionFailed);
    let deleted = bench.apply("key", at_version(version));
    assert_eq!((deleted.status, value_of(&deleted), deleted.flags), (Status::Ok, "a", 5));
    assert_eq!(deleted.version, Version(0));
    assert_eq!(bench.apply("key", at_version(version)).status, Status::NotFound);
    assert_eq!((bench.store.keys(), bench.store.bytes()), (0, 0));
}

#[test]
fn expire_changes_the_deadline_under_its_condition() {
    use ExpireCondition::{Always, IfEarlier, IfLater, IfNone, IfSome};
    let at = |point| Expiry::At(Millis(point));
    let never = Expiry::Never;
    let cases = [
        (None, at(5_000), Always, true),
        (None, at(5_000), IfNone, true),
        (None, at(5_000), IfSome, false),
        (None, at(5_000), IfLater, false),
        (None, at(5_000), IfEarlier, true),
        (None, never, IfSome, false),
        (None, never, IfLater, false),
        (Some(4_000), at(5_000), Always, true),
        (Some(4_000), at(5_000), IfNone, false),
        (Some(4_000), at(5_000), IfSome, true),
        (Some(4_000), at(5_000), IfLater, true),
        (Some(4_000), at(4_000), IfLater, false),
        (Some(4_000), at(5_000), IfEarlier, false),
        (Some(4_000), at(4_000), IfEarlier, false),
        (Some(4_000), at(3_000), IfEarlier, true),
        (Some(4_000), never, IfSome, true),
        (Some(4_000), never, IfLater, true),
        (Some(4_000), never, IfEarlier, false),
        (Some(4_000), Expiry::Keep, Always, true),
    ];
    for (current, new, condition, holds) in cases {
        let context = format!("{current:?} to {new:?} {condition:?}");
        let mut bench = bench();
        let initial = current.map_or(never, at);
        let written = bench.apply("key", set_for("value", initial));
        let changed = bench.apply("key", expire(new, condition));
        let expected = if holds { Status::Ok } else { Status::ConditionFailed };
        assert_eq!(changed.status, expected, "{context}");
        let deadline = match new {
            Expiry::At(point) if holds => Some(point),
            Expiry::Never if holds => None,
            _ => current.map(Millis),
        };
        assert_eq!(changed.expires_at, deadline, "{context}");
        assert_eq!(bench.get("key").expires_at, deadline, "{context}");
        assert_eq!(changed.version, written.version, "a deadline is not part of the version");
    }
    assert_eq!(bench().apply("absent", expire(never, Always)).status, Status::NotFound);
}

#[test]
fn expire_into_the_past_removes_the_key_and_still_returns_its_value() {
    let mut bench = bench();
    bench.apply("key", set("value"));
    let refused = bench.apply("key", expire(Expiry::At(Millis(5)), ExpireCondition::IfSome));
    assert_eq!(refused.status, Status::ConditionFailed);
    let past = |return_value| Operation::Expire {
        expiry: Expiry::At(Millis(5)),
        condition: ExpireCondition::Always,
        return_value,
    };
    let removed = bench.apply("key", past(true));
    assert_eq!((removed.status, value_of(&removed), removed.number), (Status::Ok, "value", 5));
    assert_eq!((removed.flags, removed.version, removed.expires_at), (5, Version(0), None));
    assert_eq!(bench.get("key").status, Status::NotFound);
    bench.apply("key", set("value"));
    assert_eq!(bench.apply("key", past(false)).value, None);
    assert_eq!(bench.store.keys(), 0);
}

#[test]
fn expire_that_returns_the_value_is_a_get() {
    let mut bench = bench();
    bench.apply("key", set("value"));
    let seen = bench.apply(
        "key",
        Operation::Expire {
            expiry: Expiry::In(SECOND),
            condition: ExpireCondition::Always,
            return_value: true,
        },
    );
    assert_eq!(seen, bench.get("key"));
}

#[test]
fn flush_removes_everything() {
    let mut bench = bench();
    for number in 0..5 {
        bench.apply(&number.to_string(), set_for("value", Expiry::In(SECOND)));
    }
    bench.apply("1", delete());
    bench.apply("3", delete());
    let flushed = bench.apply("", Operation::Flush);
    assert_eq!((flushed.status, flushed.number), (Status::Ok, 3));
    assert_eq!((bench.store.keys(), bench.store.bytes(), bench.store.next_due()), (0, 0, None));
    assert_eq!(bench.get("0").status, Status::NotFound);
    bench.apply("new", set("value"));
    assert_eq!(bench.order(), ["new"]);
}

#[test]
fn what_is_due_by_the_stamp_is_absent_for_every_command() {
    let operations = [
        (Operation::Get { peek: false }, Status::NotFound),
        (Operation::Inspect { peek: false }, Status::NotFound),
        (set_if("new", SetCondition::IfPresent), Status::NotFound),
        (set_if("new", SetCondition::IfAbsent), Status::Ok),
        (set_if("new", SetCondition::IfVersion(Version(1))), Status::NotFound),
        (extend(End::Back, "1", false), Status::NotFound),
        (Operation::Increment { delta: 1 }, Status::Ok),
        (count_up(1), Status::NotFound),
        (delete(), Status::NotFound),
        (expire(Expiry::Never, ExpireCondition::Always), Status::NotFound),
    ];
    for (operation, status) in operations {
        let mut bench = bench();
        bench.apply("key", set_for("5", Expiry::In(SECOND)));
        // Moves the stamp without the removal that comes with a new entry, as when more keys are
        // due than one entry removes.
        bench.store.stamp = Millis(2_000);
        let seen = match operation.is_read() {
            true => bench.read("key", operation),
            false => bench.apply("key", operation),
        };
        assert_eq!(seen.status, status, "{operation:?}");
        if matches!(operation, Operation::Increment { .. }) {
            assert_eq!(seen.number, 1, "the old number was used");
        }
        assert_eq!(bench.read("", Operation::KeyCount).number, u64::from(status == Status::Ok));
    }
}

#[test]
fn a_read_waits_for_a_stamp_only_where_a_key_is_due_by_the_clock_alone() {
    let mut bench = bench();
    bench.apply("key", set_for("value", Expiry::In(SECOND)));
    let command = Command { key: b"key", operation: Operation::Get { peek: false } };
    let ReadOutcome::Done(before) = bench.store.read(&command, Millis(1_999)) else {
        panic!("the key has a millisecond left");
    };
    assert_eq!(before.expires_in, Some(Millis(1)));
    assert_eq!(bench.store.read(&command, Millis(2_000)), ReadOutcome::Due);
    assert_eq!((bench.store.hits(), bench.store.misses()), (1, 0));
    bench.at(2_000);
    let ReadOutcome::Done(after) = bench.store.read(&command, Millis(1_500)) else {
        panic!("the stamp says that the key is gone");
    };
    assert_eq!(after.status, Status::NotFound);
    assert_eq!(bench.store.expired(), 1);
}

#[test]
fn the_stamp_never_goes_back() {
    let mut bench = bench();
    bench.at(500);
    assert_eq!(bench.store.stamp(), Millis(1_000));
    assert_eq!(
        bench.apply("key", set_for("a", Expiry::In(SECOND))).expires_at,
        Some(Millis(2_000))
    );
}

#[test]
fn writes_renew_and_refusals_do_not() {
    let mut bench = bench();
    for key in ["a", "b", "c", "d"] {
        bench.apply(key, set("1"));
    }
    assert_eq!(bench.order(), ["d", "c", "b", "a"]);
    bench.apply("a", Operation::Increment { delta: 1 });
    bench.apply("b", expire(Expiry::In(SECOND), ExpireCondition::Always));
    assert_eq!(bench.order(), ["b", "a", "d", "c"]);
    bench.apply("c", set_if("x", SetCondition::IfAbsent));
    bench.apply("d", expire(Expiry::Never, ExpireCondition::IfSome));
    bench.get("c");
    assert_eq!(bench.order(), ["b", "a", "d", "c"]);
    bench.apply("d", extend(End::Back, "x", false));
    bench.apply("d", set("x"));
    assert_eq!(bench.order(), ["d", "b", "a", "c"]);
}

#[test]
fn the_keys_unused_for_longest_make_room() {
    let mut bench = Bench::new(3 * accounted_bytes(1, 30, false, true));
    let value = "x".repeat(30);
    for key in ["a", "b", "c"] {
        bench.apply(key, set(&value));
    }
    assert_eq!(bench.store.evicted(), 0);
    bench.apply("a", set(&value));
    bench.apply("d", set(&value));
    assert_eq!(bench.order(), ["d", "a", "c"]);
    let big = "x".repeat(cost(1, 30) as usize + 30);
    bench.apply("e", set(&big));
    assert_eq!(bench.order(), ["e", "d"]);
    assert_eq!(bench.store.evicted(), 3);
}

#[test]
fn due_keys_make_room_before_live_ones() {
    let mut bench = Bench::new(3 * cost(1, 1) + 40);
    bench.apply("a", set("1"));
    bench.apply("b", set_for("1", Expiry::At(Millis(10))));
    bench.apply("c", set("1"));
    bench.store.stamp = Millis(10);
    bench.apply("d", set("1"));
    assert_eq!(bench.order(), ["d", "c", "a"]);
    assert_eq!((bench.store.evicted(), bench.store.expired()), (0, 1));
}

#[test]
fn reads_are_no_writes_and_writes_no_reads() {
    let mut bench = bench();
    bench.apply("key", set("a"));
    let digest = bench.store.digest();
    for operation in
        [Operation::Get { peek: false }, Operation::Inspect { peek: false }, Operation::KeyCount]
    {
        assert_eq!(bench.apply("key", operation).status, Status::Invalid);
    }
    assert_eq!(bench.read("key", delete()).status, Status::Invalid);
    assert_eq!(bench.read("", Operation::Flush).status, Status::Invalid);
    assert_eq!(bench.store.digest(), digest);
}

#[test]
fn an_outcome_becomes_a_reply() {
    let mut bench = bench();
    let token = Token { connection: 1, sequence: 2, part: 3 };
    let mut replies = Replies::default();
    let operation = set_for("value", Expiry::In(SECOND));
    let command = Command { key: b"key", operation };
    bench.store.apply(Version(4), &command, Answer::Wanted).push_to(&mut replies, token);
    let get = Command { key: b"key", operation: Operation::Get { peek: false } };
    let ReadOutcome::Done(read) = bench.store.read(&get, Millis(1_400)) else {
        panic!("the key is not due");
    };
    read.push_to(&mut replies, token);
    let [written, read] = &replies.headers[..] else { panic!("two replies") };
    assert_eq!((written.token, written.status, written.value), (token, Status::Ok, None));
    assert_eq!((read.version, read.number), (Version(4), 5));
    assert_eq!((read.expires_in, read.expires_at), (Some(Millis(600)), Some(Millis(2_000))));
    assert_eq!(replies.value(read), Some(&b"value"[..]));
}
