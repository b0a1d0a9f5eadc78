//! Shard time against wall clocks that step: how long keys live by the clock of the world.
//!
//! Clocks step by an hour and by thirty days, at the leader, at followers or everywhere, before a
//! key is written or while it lives, and leaders change between nodes whose clocks differ by an
//! hour. A key lives its time to live and at most a hundredth and a second more. An absolute
//! deadline is a point of shard time, which began with the first leader's wall clock: a step moves
//! it for nobody, and no leader reaches it before its time.
//!
//! The nodes' monotonic clocks run as the world's does; how they drift is drawn by the seeds.

use shards::command::{Command, ExpireCondition, Expiry, Operation, ReadFrom, RequestBatch};
use shards::ids::{Millis, NodeId};
use shards::reply::Token;

use history::register::Input;

use crate::options::{MILLI, Options, SECOND};
use crate::scenarios::{SHARD, Stage, at, quiet, set};
use crate::workload::{NOBODY, key_name};
use crate::world::{Loss, Mail};

const HOUR_MS: i64 = 3_600_000;
const DAYS_MS: i64 = 30 * 24 * HOUR_MS;
const STEPS_MS: [i64; 4] = [HOUR_MS, -HOUR_MS, DAYS_MS, -DAYS_MS];
/// How often a key is looked at when its end is near.
const LOOK_NS: u64 = 5 * MILLI;
/// How long requests take here, at most.
const ANSWER_NS: u64 = 100 * MILLI;
/// Deadlines are counted in milliseconds.
const GRAIN_NS: u64 = MILLI;

/// Whether the key is there, asked at a node. `None` if nobody answered in time.
fn is_there(stage: &mut Stage, node: u16) -> Option<bool> {
    stage.ask_anew(node, Input::Get);
    let until = stage.world.now + ANSWER_NS;
    while stage.world.workload.is_waiting() && stage.world.now < until {
        stage.pass(MILLI / 5).expect("no violation");
    }
    stage.world.workload.last_found()
}

fn write(stage: &mut Stage, node: u16, lives: u64) {
    stage.ask_anew(node, set("value", Some(lives)));
    let until = stage.world.now + ANSWER_NS;
    while stage.world.workload.is_waiting() && stage.world.now < until {
        stage.pass(MILLI / 5).expect("no violation");
    }
    assert!(!stage.world.workload.is_waiting(), "the write was not answered");
}

fn step_clocks(stage: &mut Stage, nodes: &[u16], step_ms: i64) {
    for &node in nodes {
        stage.world.processes[usize::from(node) - 1].wall_offset_ms += step_ms;
    }
}

/// Waits for the key's end and returns how long it lived since `written`, a moment before and a
/// moment after that end. Requests go to `node`.
fn life_of(stage: &mut Stage, node: u16, written: u64, time_to_live: u64) -> (u64, u64) {
    let near = written + time_to_live - time_to_live / 50;
    if near > stage.world.now {
        stage.pass(near - stage.world.now).expect("no violation");
    }
    let mut seen = 0;
    loop {
        let asked = stage.world.now;
        match is_there(stage, node) {
            Some(true) => seen = asked - written,
            Some(false) => return (seen, stage.world.now - written),
            None => {}
        }
        assert!(asked < written + 2 * time_to_live + 10 * SECOND, "the key lives for ever");
        stage.pass(LOOK_NS).expect("no violation");
    }
}

fn check_life(context: &str, (seen, gone): (u64, u64), time_to_live: u64) {
    assert!(gone + GRAIN_NS >= time_to_live, "{context}: gone after {gone} ns");
    let longest = time_to_live + time_to_live / 100 + SECOND;
    assert!(seen <= longest, "{context}: still there after {seen} ns");
}

/// Hands the leadership over. The preferred leader takes it back some seconds later.
fn hand_over(stage: &mut Stage, from: u16, to: u16) {
    stage.transfer(from, to);
    let until = stage.world.now + SECOND;
    while !stage.leads(to) {
        assert!(stage.world.now < until, "{to} does not lead after {from}");
        stage.pass(MILLI).expect("no violation");
    }
}

fn settled(wall_skew_ms: &[i64]) -> Stage {
    Stage::settled_with_skew(quiet(), wall_skew_ms).expect("node 1 leads")
}

#[test]
fn clock_steps_at_leaders_and_followers_end_no_life_early_and_prolong_none() {
    for step_ms in STEPS_MS {
        for nodes in [&[1_u16][..], &[2, 3], &[1, 2, 3]] {
            for (time_to_live, is_before) in
                [(SECOND, false), (20 * SECOND, false), (20 * SECOND, true), (200 * SECOND, true)]
            {
                let mut stage = settled(&[]);
                if is_before {
                    step_clocks(&mut stage, nodes, step_ms);
                    stage.pass(3 * SECOND).expect("no violation");
                }
                let written = stage.world.now;
                write(&mut stage, 1, time_to_live);
                stage.pass(time_to_live / 3).expect("no violation");
                if !is_before {
                    step_clocks(&mut stage, nodes, step_ms);
                }
                let life = life_of(&mut stage, 1, written, time_to_live);
                let context = format!("{step_ms} ms at {nodes:?}, before {is_before}");
                check_life(&context, life, time_to_live);
            }
        }
    }
}

#[test]
fn leaders_whose_clocks_differ_by_an_hour_end_no_life_early_and_prolong_none() {
    let time_to_live = 30 * SECOND;
    for skews in [[0, HOUR_MS, HOUR_MS], [0, -HOUR_MS, -HOUR_MS], [0, HOUR_MS, -HOUR_MS]] {
        for is_crash in [false, true] {
            let mut stage = settled(&skews);
            let written = stage.world.now;
            write(&mut stage, 1, time_to_live);
            stage.pass(time_to_live / 3).expect("no violation");
            match is_crash {
                true => stage.world.crash(NodeId(1), Loss::Everything),
                false => hand_over(&mut stage, 1, 2),
            }
            let life = life_of(&mut stage, 2, written, time_to_live);
            assert!(!is_crash || stage.leads(2) || stage.leads(3), "nobody leads after node 1");
            check_life(&format!("{skews:?}, crash {is_crash}"), life, time_to_live);
        }
    }
}

#[test]
fn leaders_that_take_turns_with_clocks_an_hour_apart_add_no_time_to_a_life() {
    let time_to_live = 60 * SECOND;
    let mut stage = settled(&[0, HOUR_MS, -HOUR_MS]);
    let written = stage.world.now;
    write(&mut stage, 1, time_to_live);
    for _ in 0..10 {
        hand_over(&mut stage, 1, 2);
        stage.pass(700 * MILLI).expect("no violation");
        hand_over(&mut stage, 2, 3);
        stage.pass(4 * SECOND).expect("no violation");
        assert!(stage.leads(1), "the preferred leader takes it back");
    }
    let life = life_of(&mut stage, 1, written, time_to_live);
    check_life("thirty leaders", life, time_to_live);
}

/// EXPIREAT for the key, at this point of shard time, sent to the leader.
fn expire_at(stage: &mut Stage, node: u16, deadline: Millis) {
    let operation = Operation::Expire {
        expiry: Expiry::At(deadline),
        condition: ExpireCondition::Always,
        return_value: false,
    };
    let mut batch = RequestBatch::default();
    let key = key_name(0);
    let token = Token { connection: NOBODY, sequence: 0, part: 0 };
    let command = Command { key: &key, operation };
    batch.push_read(SHARD, token, false, ReadFrom::Leader, &command);
    stage.world.mail(at(node), None, Mail::Requests(batch));
    stage.pass(ANSWER_NS).expect("no violation");
}

#[test]
fn absolute_deadlines_are_in_wall_time_and_no_step_or_leader_reaches_them_early() {
    let away = 20 * SECOND;
    for step_ms in [0, HOUR_MS, -HOUR_MS] {
        for changes_leader in [false, true] {
            let skews = [0, step_ms, -step_ms];
            let mut stage = settled(&skews);
            write(&mut stage, 1, 3_600 * SECOND);
            let written = stage.world.now;
            let deadline = Millis(stage.world.wall_ms() + away / MILLI);
            expire_at(&mut stage, 1, deadline);
            match changes_leader {
                true => hand_over(&mut stage, 1, 2),
                false => step_clocks(&mut stage, &[1], step_ms),
            }
            let life = life_of(&mut stage, 1, written, away);
            let context = format!("step {step_ms}, another leader {changes_leader}");
            check_life(&context, life, away);
        }
    }
}

#[test]
fn an_absolute_deadline_that_has_passed_ends_a_life_at_once() {
    let mut stage = Stage::settled_with_skew(Options { shards: 1, ..quiet() }, &[]).expect("leads");
    write(&mut stage, 1, 3_600 * SECOND);
    assert_eq!(is_there(&mut stage, 1), Some(true));
    let past = Millis(stage.world.wall_ms() - 1_000);
    expire_at(&mut stage, 1, past);
    assert_eq!(is_there(&mut stage, 1), Some(false));
}
