//! Masses of keys that go at once: in small steps on every replica, and soon.
//!
//! What one turn of a core does is counted here by what it removes. Between two looks at a node
//! lie a few turns, as simulated cores are quick.

use shards::command::{Command, Expiry, Operation, ReadFrom, RequestBatch, SetCondition};
use shards::ids::{Millis, ShardId};
use shards::reply::Token;

use crate::options::{MILLI, Options, SECOND};
use crate::scenarios::{Stage, at, quiet};
use crate::workload::NOBODY;
use crate::world::Mail;

const SHARDS: u16 = 9;
const KEYS: u64 = 60_000;
/// Time between two looks.
const LOOK_NS: u64 = 2 * MILLI;
/// Three leaders remove some five hundred entries every two milliseconds, and the first look may
/// fall a turn late.
const STEP_MAX: u64 = 2 * 3 * 512;

fn settled() -> Stage {
    let options = Options { shards: SHARDS, shard_bytes_max: 64 << 20, ..quiet() };
    Stage::settled_with_skew(options, &[]).expect("node 1 leads")
}

/// Sends a command to a shard; nobody looks at its outcome.
fn send(stage: &mut Stage, shard: ShardId, commands: &[(Vec<u8>, Operation<'_>)]) {
    let mut batch = RequestBatch::default();
    for (key, operation) in commands {
        let token = Token { connection: NOBODY, sequence: 0, part: 0 };
        let command = Command { key, operation: *operation };
        batch.push_read(shard, token, false, ReadFrom::Leader, &command);
    }
    stage.world.mail(at(1), None, Mail::Requests(batch));
    stage.pass(MILLI).expect("no violation");
}

fn fill(stage: &mut Stage, expiry: Expiry) {
    let operation = Operation::Set {
        value: b"value",
        flags: 0,
        condition: SetCondition::Always,
        expiry,
        return_old: false,
    };
    let numbers: Vec<u64> = (0..KEYS).collect();
    for (place, some) in numbers.chunks(500).enumerate() {
        let named = |number: &u64| (format!("mass{number}").into_bytes(), operation);
        let commands: Vec<_> = some.iter().map(named).collect();
        send(stage, ShardId(place as u16 % SHARDS), &commands);
    }
    stage.pass(100 * MILLI).expect("no violation");
    for node in 1..=3 {
        assert_eq!(keys(stage, node), KEYS, "node {node}");
    }
}

fn keys(stage: &Stage, node: u16) -> u64 {
    let core = &stage.world.seat(at(node)).expect("it lives").core;
    (0..SHARDS).filter_map(|shard| core.status(ShardId(shard))).map(|status| status.keys).sum()
}

/// Waits until no more than `left` keys are left anywhere, and checks the steps there.
fn check_steps(stage: &mut Stage, left: u64, within: u64) {
    let until = stage.world.now + within;
    let mut before = [1, 2, 3].map(|node| keys(stage, node));
    while before.iter().any(|&keys| keys > left) {
        assert!(stage.world.now < until, "still there: {before:?}");
        stage.pass(LOOK_NS).expect("no violation");
        let now = [1, 2, 3].map(|node| keys(stage, node));
        for (node, (before, now)) in (1..).zip(before.iter().zip(&now)) {
            let step = before - now;
            assert!(step <= STEP_MAX, "node {node} removed {step} keys at once");
        }
        before = now;
    }
}

#[test]
fn keys_that_expire_in_the_same_moment_go_in_small_steps_on_every_replica() {
    let mut stage = settled();
    let deadline = stage.world.wall_ms() + 3_000;
    fill(&mut stage, Expiry::At(Millis(deadline)));
    assert!(stage.world.wall_ms() < deadline - 500, "the filling took too long");
    stage.pass((deadline - 100 - stage.world.wall_ms()) * MILLI).expect("no violation");
    check_steps(&mut stage, 0, SECOND);
}

#[test]
fn a_lowered_limit_is_reached_in_small_steps_on_every_replica() {
    let mut stage = settled();
    fill(&mut stage, Expiry::Never);
    let held = stage.world.seat(at(1)).and_then(|seat| seat.core.status(ShardId(0)));
    let bytes_max = held.expect("a replica").bytes / 10;
    let limit = Operation::Limit { bytes_max: Some(bytes_max), eviction: None };
    for shard in 0..SHARDS {
        send(&mut stage, ShardId(shard), &[(Vec::new(), limit)]);
    }
    check_steps(&mut stage, KEYS / 9, SECOND);
}
