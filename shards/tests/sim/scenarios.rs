//! Schedules played by hand: each is the way in which an obvious version of the engine fails, and
//! too rare to be left to random faults.

use history::register::{Condition, Input};
use shards::command::RequestBatch;
use shards::contract::Role;
use shards::ids::{Address, CoreIndex, NodeId, ShardId};

use crate::options::{Faults, Keys, MICRO, MILLI, Options, SECOND};
use crate::world::{Mail, TICK_NS, World};

const SHARD: ShardId = ShardId(0);
const FIRST: Address = Address { node: NodeId(1), core: CoreIndex(0) };
const SECOND_NODE: Address = Address { node: NodeId(2), core: CoreIndex(0) };
/// What each direction of the first node's links consists of.
const TO_FIRST: [(NodeId, NodeId); 2] = [(NodeId(2), NodeId(1)), (NodeId(3), NodeId(1))];
const FROM_FIRST: [(NodeId, NodeId); 2] = [(NodeId(1), NodeId(2)), (NodeId(1), NodeId(3))];

/// Three nodes with one shard, nobody asking anything, nothing failing; node 1 leads.
fn quiet_cluster(wall_skew_ms: [i64; 3]) -> World {
    let options = Options {
        cores: vec![1; 3],
        shards: 1,
        shard_bytes_max: 1 << 20,
        request_deadline: 2 * SECOND,
        parked_bytes_max: 1 << 20,
        delay_min: 100 * MICRO,
        delay_mean: 100 * MICRO,
        gather_max: 10 * MICRO,
        disk_max: 0,
        wall_skew_ms: 0,
        faults: Faults::default(),
        keys: Keys::Expiring,
        keys_per_shard: 1,
        single_clients: 0,
        pipelining_clients: 0,
        ..Options::draw(1)
    };
    let mut world = World::new(options, false);
    for (process, skew) in world.processes.iter_mut().zip(wall_skew_ms) {
        process.wall_offset_ms = skew;
    }
    pass(&mut world, 2 * SECOND);
    assert!(leads(&world, FIRST), "node 1 is preferred");
    world
}

fn pass(world: &mut World, time: u64) {
    let until = world.now + time;
    world.run_until(until).expect("no violation");
}

fn leads(world: &World, at: Address) -> bool {
    let status = world.seat(at).and_then(|seat| seat.core.status(SHARD));
    status.is_some_and(|status| status.role == Role::Leader)
}

fn set(text: &str, lives: Option<u64>) -> Input {
    let value = text.as_bytes().into();
    Input::Set { value, condition: Condition::Always, lives, return_old: false }
}

/// Sends a request through the connection of client `place`.
fn ask(world: &mut World, at: Address, place: usize, input: Input) {
    let mut batch = RequestBatch::default();
    world.request(place, SHARD, 0, input, &mut batch);
    world.mail(at, None, Mail::Requests(batch));
}

fn block(world: &mut World, pairs: [(NodeId, NodeId); 2]) {
    for (from, to) in pairs {
        world.network.block(from, to);
    }
}

#[test]
fn a_read_behind_a_write_that_another_leader_committed_is_not_stale() {
    let mut world = quiet_cluster([0; 3]);
    let (early, late) = (world.add_client(FIRST), world.add_client(SECOND_NODE));
    ask(&mut world, FIRST, early, set("first", None));
    // The entry leaves; the answers to it do not come.
    block(&mut world, TO_FIRST);
    pass(&mut world, MILLI);
    world.freeze(FIRST, SECOND);
    pass(&mut world, 800 * MILLI);
    assert!(leads(&world, SECOND_NODE), "node 2 is next");
    ask(&mut world, SECOND_NODE, late, set("second", None));
    pass(&mut world, 50 * MILLI);
    // The old leader has not heard of all that when it takes the read.
    ask(&mut world, FIRST, early, Input::Get);
    pass(&mut world, MILLI);
    world.unblock(&TO_FIRST);
    pass(&mut world, 3 * SECOND);
    assert!(!world.workload.is_waiting());
    world.workload.judge(Keys::Expiring).expect("the read sees the second write");
}

#[test]
fn late_confirmations_of_a_read_do_not_confirm_its_repetition() {
    let mut met = 0;
    for offset in 0..12 {
        let mut world = quiet_cluster([0; 3]);
        let (early, late) = (world.add_client(FIRST), world.add_client(SECOND_NODE));
        ask(&mut world, FIRST, early, set("first", None));
        pass(&mut world, 100 * MILLI + offset * TICK_NS / 2);
        // The question reaches the others; their confirmations are held up.
        block(&mut world, TO_FIRST);
        ask(&mut world, FIRST, early, Input::Get);
        pass(&mut world, 5 * MILLI);
        block(&mut world, FROM_FIRST);
        let confirmations = world.take_held(FIRST);
        for _ in 0..20 {
            pass(&mut world, 20 * MILLI);
            if leads(&world, SECOND_NODE) {
                break;
            }
        }
        ask(&mut world, SECOND_NODE, late, set("second", None));
        pass(&mut world, 5 * MILLI);
        // One confirmation ends the first read's round, the other comes into the second's.
        let (one, other): (Vec<_>, Vec<_>) =
            confirmations.into_iter().partition(|flight| flight.ends.0 == SECOND_NODE);
        for flight in one {
            world.hand_over(flight);
        }
        pass(&mut world, MILLI);
        let reader = world.add_client(FIRST);
        ask(&mut world, FIRST, reader, Input::Get);
        pass(&mut world, MILLI);
        met += u64::from(leads(&world, FIRST) && leads(&world, SECOND_NODE));
        for flight in other {
            world.hand_over(flight);
        }
        pass(&mut world, TICK_NS);
        world.heal();
        pass(&mut world, 3 * SECOND);
        assert!(!world.workload.is_waiting());
        world.workload.judge(Keys::Expiring).expect("no read is stale");
    }
    assert!(met > 0, "the deposed leader never heard the late confirmations in office");
}

#[test]
fn a_shard_whose_members_lose_their_memory_one_after_the_other_forms_anew() {
    for gap in [100, 150, 250, 400, 600] {
        let mut world = quiet_cluster([0; 3]);
        // The second goes before the first is taken in: the majority is gone.
        for node in [1, 2, 3].map(NodeId) {
            world.crash(node);
            pass(&mut world, 50 * MILLI);
            world.boot(node);
            pass(&mut world, gap * MILLI);
        }
        world.checkers.forget();
        world.heal();
        pass(&mut world, 10 * SECOND);
        let roles = [1, 2, 3].map(|node| {
            let at = Address { node: NodeId(node), core: CoreIndex(0) };
            world.seat(at).and_then(|seat| seat.core.status(SHARD)).map(|status| status.role)
        });
        let [follower, leader] = [Some(Role::Follower), Some(Role::Leader)];
        assert_eq!(roles, [leader, follower, follower], "gap {gap} ms");
    }
}

#[test]
fn a_new_leader_with_a_fast_wall_clock_expires_nothing_early() {
    let hour_ms = 3_600_000;
    let mut world = quiet_cluster([0, hour_ms, hour_ms]);
    let client = world.add_client(FIRST);
    ask(&mut world, FIRST, client, set("value", Some(10 * SECOND)));
    // The others have the entry, and have not been told that it is committed.
    pass(&mut world, 2 * MILLI);
    assert!(!world.workload.is_waiting(), "the write is acknowledged");
    world.crash(NodeId(1));
    pass(&mut world, SECOND);
    assert!(leads(&world, SECOND_NODE), "node 2 is next");
    let reader = world.add_client(SECOND_NODE);
    for _ in 0..2 {
        ask(&mut world, SECOND_NODE, reader, Input::Get);
        pass(&mut world, SECOND);
    }
    assert!(!world.workload.is_waiting());
    world.workload.judge(Keys::Expiring).expect("the value lives for ten seconds");
}
