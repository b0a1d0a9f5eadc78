//! Histories made by hand: good ones are accepted, and each kind of bad one is not.

use history::register::{Condition, Eviction, Input, Output, Register, Status, Value};
use history::{Operation, Outcome, Violation, check};

type Step = Operation<Input, Output>;

const STEPS: u64 = 1_000_000;

fn value(text: &str) -> Value {
    text.as_bytes().into()
}

fn step(called: u64, at: u64, input: Input, output: Output) -> Step {
    Operation {
        input,
        called,
        outcome: Outcome::Returned { at, output },
        after: Vec::new(),
        likely_after: Vec::new(),
    }
}

fn unknown(called: u64, input: Input) -> Step {
    Operation {
        input,
        called,
        outcome: Outcome::Unknown,
        after: Vec::new(),
        likely_after: Vec::new(),
    }
}

fn bare(status: Status, version: u64) -> Output {
    Output { status, version, value: None, number: 0 }
}

fn set_input(text: &str, condition: Condition) -> Input {
    Input::Set { value: value(text), condition, lives: None, return_old: false }
}

/// A set of an absent key.
fn set(called: u64, at: u64, text: &str, version: u64) -> Step {
    step(called, at, set_input(text, Condition::Always), bare(Status::Ok, version))
}

/// A set of a key that is there.
fn reset(called: u64, at: u64, text: &str, version: u64) -> Step {
    let output = Output { number: 1, ..bare(Status::Ok, version) };
    step(called, at, set_input(text, Condition::Always), output)
}

fn hit(called: u64, at: u64, text: &str, version: u64) -> Step {
    let output = Output { value: Some(value(text)), ..bare(Status::Ok, version) };
    step(called, at, Input::Get, output)
}

fn miss(called: u64, at: u64) -> Step {
    step(called, at, Input::Get, bare(Status::NotFound, 0))
}

fn increment(called: u64, at: u64, sum: i64, version: u64) -> Step {
    let output = Output { number: sum as u64, ..bare(Status::Ok, version) };
    step(called, at, Input::Increment(1), output)
}

fn append(called: u64, at: u64, text: &str, length: u64, version: u64) -> Step {
    let output = Output { number: length, ..bare(Status::Ok, version) };
    step(called, at, Input::Append(value(text)), output)
}

fn delete(called: u64, at: u64) -> Step {
    step(called, at, Input::Delete { return_old: false }, bare(Status::Ok, 0))
}

fn verdict(eviction: Eviction, steps: &[Step]) -> Result<Vec<usize>, Violation> {
    check(&Register { eviction }, steps, STEPS)
}

#[track_caller]
fn good(steps: &[Step]) {
    let verdict = verdict(Eviction::Impossible, steps);
    assert!(verdict.is_ok(), "{verdict:?}");
}

#[track_caller]
fn bad(steps: &[Step]) {
    let verdict = verdict(Eviction::Impossible, steps);
    assert!(matches!(verdict, Err(Violation::NotLinearizable { .. })), "{verdict:?}");
}

#[test]
fn sequential_histories_are_accepted() {
    good(&[]);
    good(&[
        miss(0, 1),
        set(2, 3, "a", 5),
        hit(4, 5, "a", 5),
        delete(6, 7),
        miss(8, 9),
        append(10, 11, "xy", 2, 6),
        append(12, 13, "z", 3, 7),
        hit(14, 15, "xyz", 7),
        reset(16, 17, "41", 8),
        increment(18, 19, 42, 9),
        hit(20, 21, "42", 9),
    ]);
}

#[test]
fn the_order_of_overlapping_operations_is_found() {
    good(&[set(0, 10, "a", 1), reset(0, 10, "b", 2), hit(11, 12, "b", 2), hit(3, 4, "a", 1)]);
    good(&[increment(0, 10, 2, 2), increment(0, 10, 1, 1), increment(0, 10, 3, 3)]);
}

#[test]
fn a_stale_read_is_found() {
    bad(&[set(0, 1, "a", 1), reset(2, 3, "b", 2), hit(4, 5, "a", 1)]);
    bad(&[set(0, 1, "a", 1), reset(2, 10, "b", 2), hit(3, 4, "b", 2), hit(5, 6, "a", 1)]);
}

#[test]
fn a_lost_write_is_found() {
    bad(&[set(0, 1, "a", 1), set(2, 3, "b", 2)]);
    bad(&[set(0, 1, "a", 1), miss(2, 3)]);
    bad(&[append(0, 1, "a", 1, 1), append(2, 3, "b", 1, 2)]);
}

#[test]
fn a_write_applied_twice_is_found() {
    bad(&[increment(0, 1, 1, 1), increment(2, 3, 3, 3)]);
    bad(&[append(0, 1, "a", 1, 1), hit(2, 3, "aa", 1)]);
}

#[test]
fn a_value_that_returns_after_it_was_seen_absent_is_found() {
    let steps = [set(0, 1, "a", 1), miss(2, 3), hit(4, 5, "a", 1)];
    bad(&steps);
    assert!(verdict(Eviction::Possible, &steps).is_err());
    assert!(verdict(Eviction::Possible, &steps[..2]).is_ok());
}

#[test]
fn a_value_nobody_wrote_is_found() {
    bad(&[hit(0, 1, "ghost", 1)]);
    // What a client was told is not done stays out of the history, and must have no effect.
    bad(&[set(0, 1, "a", 1), hit(2, 3, "refused", 2)]);
}

#[test]
fn an_unknown_write_may_have_happened_late_or_never() {
    let write = unknown(0, set_input("late", Condition::Always));
    good(&[write.clone(), set(1, 2, "a", 1), hit(3, 4, "a", 1)]);
    good(&[write.clone(), set(1, 2, "a", 1), hit(3, 4, "late", 2), hit(5, 6, "late", 2)]);
    bad(&[write.clone(), set(1, 2, "a", 1), hit(3, 4, "late", 2), hit(5, 6, "a", 1)]);
    bad(&[write, set(1, 2, "a", 1), hit(3, 4, "late", 2), hit(5, 6, "late", 3)]);
    let early = unknown(10, set_input("early", Condition::Always));
    bad(&[early, hit(0, 9, "early", 1)]);
}

#[test]
fn swapped_replies_are_found() {
    let other = set(0, 1, "a", 1);
    let exists = step(
        2,
        3,
        Input::Set {
            value: value("b"),
            condition: Condition::IfAbsent,
            lives: None,
            return_old: true,
        },
        Output { value: Some(value("c")), ..bare(Status::Exists, 1) },
    );
    bad(&[other, exists]);
    bad(&[set(0, 1, "a", 1), increment(2, 3, 1, 2)]);
}

#[test]
fn a_condition_follows_the_version() {
    let compare = |called, wanted, status, version| {
        let input = set_input("c", Condition::IfVersion(wanted));
        let number = u64::from(status == Status::Ok);
        step(called, called + 1, input, Output { number, ..bare(status, version) })
    };
    let start = set(0, 1, "a", 7);
    good(&[start.clone(), compare(2, 7, Status::Ok, 8), hit(4, 5, "c", 8)]);
    good(&[start.clone(), compare(2, 6, Status::ConditionFailed, 7)]);
    good(&[compare(2, 6, Status::NotFound, 0)]);
    bad(&[start.clone(), compare(2, 6, Status::Ok, 8)]);
    bad(&[start.clone(), compare(2, 7, Status::ConditionFailed, 7)]);
    bad(&[start.clone(), compare(2, 7, Status::Ok, 8), compare(4, 7, Status::Ok, 9)]);
    bad(&[start, compare(2, 7, Status::NotFound, 0)]);
}

#[test]
fn answers_that_tell_no_versions_are_judged_by_what_they_tell() {
    use history::register::UNTOLD;
    let told = |called, at, input, value: Option<&str>, number| {
        let value = value.map(self::value);
        step(called, at, input, Output { status: Status::Ok, version: UNTOLD, value, number })
    };
    let set = |called, at, text| told(called, at, set_input(text, Condition::Always), None, UNTOLD);
    let get = |called, at, text| told(called, at, Input::Get, Some(text), 0);
    let append =
        |called, at, text, length| told(called, at, Input::Append(value(text)), None, length);
    let delete = |called, at| told(called, at, Input::Delete { return_old: false }, None, 0);
    good(&[set(0, 1, "a"), get(2, 3, "a"), append(4, 5, "b", 2), get(6, 7, "ab")]);
    good(&[set(0, 1, "a"), delete(2, 3), miss(4, 5), append(6, 7, "b", UNTOLD), get(8, 9, "b")]);
    bad(&[set(0, 1, "a"), set(2, 3, "b"), get(4, 5, "a")]);
    bad(&[set(0, 1, "a"), append(2, 3, "b", 1)]);
    bad(&[set(0, 1, "a"), miss(2, 3)]);
    bad(&[set(0, 1, "a"), delete(2, 3), get(4, 5, "a")]);

    let swap = |called, at, wanted, status| {
        let input = set_input("c", Condition::IfVersion(wanted));
        step(called, at, input, Output { status, version: UNTOLD, value: None, number: UNTOLD })
    };
    let shown = hit(2, 3, "a", 7);
    good(&[set(0, 1, "a"), shown.clone(), swap(4, 5, 7, Status::Ok), get(6, 7, "c")]);
    good(&[set(0, 1, "a"), shown.clone(), set(4, 5, "b"), swap(6, 7, 7, Status::ConditionFailed)]);
    bad(&[set(0, 1, "a"), shown.clone(), set(4, 5, "b"), swap(6, 7, 7, Status::Ok)]);
    bad(&[set(0, 1, "a"), shown, swap(4, 5, 7, Status::ConditionFailed)]);
}

#[test]
fn a_key_set_only_if_absent_has_one_winner() {
    let attempt = |called, at, text: &str, status, version| {
        step(called, at, set_input(text, Condition::IfAbsent), bare(status, version))
    };
    good(&[attempt(0, 10, "a", Status::Ok, 1), attempt(0, 10, "b", Status::Exists, 1)]);
    bad(&[attempt(0, 10, "a", Status::Ok, 1), attempt(0, 10, "b", Status::Ok, 2)]);
    bad(&[attempt(0, 10, "a", Status::Exists, 1)]);
}

#[test]
fn a_value_does_not_expire_early() {
    let write = |called| {
        let input = Input::Set {
            value: value("a"),
            condition: Condition::Always,
            lives: Some(100),
            return_old: false,
        };
        step(called, called + 5, input, bare(Status::Ok, 1))
    };
    good(&[write(0), hit(50, 51, "a", 1), miss(100, 101), miss(200, 201)]);
    good(&[write(0), hit(500, 501, "a", 1)]);
    bad(&[write(0), miss(98, 99)]);
    bad(&[write(0), miss(100, 101), hit(102, 103, "a", 1)]);
}

#[test]
fn operations_of_one_connection_keep_their_order() {
    let mut read = miss(0, 10);
    good(&[set(0, 10, "a", 1), read.clone()]);
    read.after = vec![0];
    bad(&[set(0, 10, "a", 1), read]);
    let mut write = set(0, 10, "a", 1);
    write.after = vec![1];
    bad(&[write, hit(0, 10, "a", 1)]);
}

#[test]
fn a_loss_makes_counters_start_over_and_not_jump() {
    let steps = [increment(0, 1, 1, 1), increment(2, 3, 2, 2), increment(4, 5, 1, 3)];
    bad(&steps);
    assert!(verdict(Eviction::Possible, &steps).is_ok());
    let lost = [increment(0, 1, 1, 1), unknown(2, Input::Increment(1)), increment(4, 5, 2, 3)];
    assert!(verdict(Eviction::Possible, &lost).is_ok());
    let jump = [increment(0, 1, 1, 1), increment(4, 5, 3, 3)];
    assert!(verdict(Eviction::Possible, &jump).is_err());
}

#[test]
fn a_search_that_takes_too_long_is_no_acceptance() {
    let steps = [set(0, 1, "a", 1), hit(2, 3, "a", 1)];
    let verdict = check(&Register { eviction: Eviction::Impossible }, &steps, 1);
    assert!(matches!(verdict, Err(Violation::GaveUp { .. })), "{verdict:?}");
}

#[test]
fn random_histories_of_a_real_register_are_accepted_and_damaged_ones_are_not() {
    for seed in 1..200_u64 {
        let mut random = seed;
        let mut draw = |limit: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % limit
        };
        let mut steps = Vec::new();
        let mut held: Option<(String, u64)> = None;
        for moment in 1..120_u64 {
            let time = moment * 10;
            let (called, at) = (time - draw(40).min(time), time + draw(40));
            match (draw(3), &held) {
                (0, _) => {
                    let write = if held.is_some() { reset } else { set };
                    steps.push(write(called, at, &format!("v{moment}"), moment));
                    held = Some((format!("v{moment}"), moment));
                }
                (_, Some((text, version))) => steps.push(hit(called, at, text, *version)),
                (_, None) => steps.push(miss(called, at)),
            }
        }
        good(&steps);
        let last = steps.iter().rposition(|step| matches!(step.input, Input::Set { .. }));
        let Some(last) = last else { continue };
        let time = 100_000;
        let overwritten = steps[..last]
            .iter()
            .filter_map(|step| step.output()?.value.clone())
            .find(|old| held.as_ref().is_some_and(|(text, _)| text.as_bytes() != &old[..]));
        if let Some(old) = overwritten {
            let output = Output { value: Some(old), ..bare(Status::Ok, 1) };
            steps.push(step(time, time + 1, Input::Get, output));
            bad(&steps);
        }
    }
}
