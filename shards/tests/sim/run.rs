//! A seed from its start to its verdict: a troubled phase, then a calm one that must come to rest.

use shards::contract::{Health, Role};
use shards::engine::Held;
use shards::ids::{Address, Index, ShardId};

use crate::options::{LEASE_DRIFT_MAX_PPM, MILLI, Options, SECOND};
use crate::world::World;

/// With all nodes up and connected, every shard serves a write within this time.
const SERVED_WITHIN: u64 = 4 * SECOND;
/// So long after that, all replicas are voters again and the preferred ones lead. An operator's
/// transfer keeps a preferred leader away for ten seconds.
const BALANCED_WITHIN: u64 = 30 * SECOND;
/// With nobody asking anything any more, all replicas are equal within this time. A follower whose
/// snapshot arrived, and whose word of that was lost, hears of nothing newer for five seconds.
const EQUAL_WITHIN: u64 = 7 * SECOND;
/// And so long after that, nothing is held any more: a snapshot whose last word was lost is given
/// up after as long.
const RESTS_WITHIN: u64 = 6 * SECOND;
/// How often it is looked whether the cluster has come to rest.
const LOOK_EVERY: u64 = 50 * MILLI;

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The hash of everything the cores put out.
    pub trace: u64,
    /// Turns of all cores.
    pub turns: u64,
    /// Requests of all clients.
    pub requests: usize,
    /// Leaders elected.
    pub elections: u64,
    /// Snapshots restored.
    pub restores: u64,
    /// Newcomers that became voters.
    pub promotions: u64,
    /// Replicas given up because of damaged memory.
    pub given_up: u64,
    /// Reads that followers alive at the end have answered.
    pub follower_reads: u64,
    /// Entries that the replicas alive at the end have evicted.
    pub evicted: u64,
    /// Entries that they have expired.
    pub expired: u64,
    /// Keys whose history had too many unknown outcomes to be judged.
    pub undecided: u64,
    /// Times all nodes stopped at once, and came back with their disks.
    pub power_losses: u64,
    /// Starts of a node from what its disk held.
    pub recoveries: u64,
    /// Damages done to disks.
    pub damages: u64,
    /// Logs that were found damaged.
    pub logs_set_aside: u64,
    /// Disks that failed.
    pub failed_disks: u64,
    /// Moves to another number of cores, and how many of them ended in a crash.
    pub moves: (u64, u64),
    /// Segments of logs that were released.
    pub released_segments: u64,
    /// Raft messages lost, doubled or delayed.
    pub mischiefs: u64,
    /// How long after the end of all faults the last shard answered, in nanoseconds.
    pub served_after: u64,
    /// How long after the end of all faults the preferred leaders led, in nanoseconds.
    pub balanced_after: u64,
    /// Answers by the code of their status.
    pub answers: std::collections::BTreeMap<u8, u64>,
}

/// Plays `options`; `Err` says what was violated.
pub fn run(options: Options, is_verbose: bool) -> Result<Report, String> {
    let mut world = World::new(options, is_verbose);
    world.run_until(world.options.faults_last)?;
    world.heal();
    let healed_at = world.now;
    world.start_probes();
    let shards = usize::from(world.placement.shards());
    wait(&mut world, SERVED_WITHIN, "every shard serves", |world| {
        if world.workload.served.len() == shards { Ok(()) } else { Err(states(world)) }
    })?;
    let served_after = world.now - healed_at;
    wait(&mut world, BALANCED_WITHIN, "the preferred replicas lead", balance)?;
    let balanced_after = world.now - healed_at;
    world.workload.stop();
    wait(&mut world, 3 * SECOND, "everybody is answered", |world| {
        if world.workload.is_waiting() { Err("somebody waits".into()) } else { Ok(()) }
    })?;
    wait(&mut world, EQUAL_WITHIN, "all replicas are equal", equality)?;
    wait(&mut world, RESTS_WITHIN, "nobody holds anything", rest)?;
    world.read_everything();
    wait(&mut world, SECOND, "everything is read", |world| {
        if world.workload.is_waiting() { Err("somebody waits".into()) } else { Ok(()) }
    })?;
    let undecided = world.workload.judge(world.options.keys)?;
    let statuses = world.living().into_iter().flat_map(|at| {
        let seat = world.seat(at);
        (0..world.placement.shards())
            .filter_map(move |shard| seat.and_then(|seat| seat.core.status(ShardId(shard))))
    });
    let (evicted, expired) =
        statuses.fold((0, 0), |sum, status| (sum.0 + status.evicted, sum.1 + status.expired));
    Ok(Report {
        trace: world.trace(),
        turns: world.turns,
        requests: world.workload.len(),
        elections: world.checkers.elections,
        restores: world.checkers.restores,
        promotions: world.checkers.promotions,
        given_up: world.checkers.given_up,
        follower_reads: world
            .living()
            .into_iter()
            .filter_map(|at| world.seat(at))
            .map(|seat| seat.core.read_counts().follower)
            .sum(),
        evicted,
        expired,
        undecided,
        power_losses: world.tally.power_losses,
        recoveries: world.tally.recoveries,
        damages: world.tally.damages,
        logs_set_aside: world.tally.logs_set_aside,
        failed_disks: world.tally.failed_disks,
        moves: (world.tally.moves, world.tally.deaths_in_moves),
        released_segments: world.tally.released_segments,
        mischiefs: world.network.mischiefs,
        served_after,
        balanced_after,
        answers: world.workload.answers.clone(),
    })
}

/// Lets time pass until `is_so` holds, at most `within`.
fn wait(
    world: &mut World,
    within: u64,
    what: &str,
    mut is_so: impl FnMut(&World) -> Result<(), String>,
) -> Result<(), String> {
    let slowest = 1_000_000 - world.options.drift_max_ppm;
    let until = world.now + within * 1_000_000 / slowest;
    loop {
        let state = is_so(world);
        match state {
            Ok(()) => return Ok(()),
            Err(state) if world.now >= until => {
                return Err(format!("waited {} ms until {what}: {state}", within / MILLI));
            }
            Err(_) => world.run_until(world.now + LOOK_EVERY)?,
        }
    }
}

/// All replicas of all shards as a text.
fn states(world: &World) -> String {
    let mut text = format!("served: {:?}\n", world.workload.served);
    for shard in (0..world.placement.shards()).map(ShardId) {
        for at in replicas(world, shard) {
            let status = world.seat(at).and_then(|seat| seat.core.status(shard));
            text.push_str(&format!("  {at} {status:?}\n"));
        }
    }
    text
}

fn replicas(world: &World, shard: ShardId) -> Vec<Address> {
    let nodes = world.placement.replicas(shard);
    nodes
        .map(|node| Address { node, core: world.placement.core(shard, world.process(node).cores) })
        .collect()
}

fn balance(world: &World) -> Result<(), String> {
    // Where clocks run as they like, the preferred leader may seem silent to another for ever.
    let clocks_are_right = world.options.drift_max_ppm <= LEASE_DRIFT_MAX_PPM;
    let is_balanced = world.draining.is_empty()
        && (0..world.placement.shards()).map(ShardId).all(|shard| {
            replicas(world, shard).iter().enumerate().all(|(rank, &at)| {
                let wanted = if rank == 0 { Role::Leader } else { Role::Follower };
                let status = world.seat(at).and_then(|seat| seat.core.status(shard));
                status.is_some_and(|status| {
                    let has_role = match clocks_are_right {
                        true => status.role == wanted,
                        false => matches!(status.role, Role::Leader | Role::Follower),
                    };
                    has_role && status.health == Health::Sound
                })
            })
        });
    if is_balanced { Ok(()) } else { Err(states(world)) }
}

/// Whether nobody holds anything, now that nobody has anything to do.
fn rest(world: &World) -> Result<(), String> {
    for at in world.living() {
        let held = world.seat(at).map(|seat| seat.core.held().at_rest()).unwrap_or_default();
        if held != Held::default() {
            return Err(format!("{at} has nothing to do, and holds {held:?}"));
        }
    }
    Ok(())
}

/// Whether the replicas of each shard are at the same index, with the same keys in the same order
/// of use. Where they are, each store is checked from within as well.
fn equality(world: &World) -> Result<(), String> {
    for shard in (0..world.placement.shards()).map(ShardId) {
        let mut first: Option<(Index, u64, u64, Vec<Vec<u8>>)> = None;
        for at in replicas(world, shard) {
            let core = &world.seat(at).ok_or_else(|| states(world))?.core;
            let status = core.status(shard).ok_or_else(|| states(world))?;
            let store = core.store(shard).ok_or_else(|| states(world))?;
            let order = store.keys_in_recency_order().map(<[u8]>::to_vec).collect();
            let acknowledged = world.checkers.acknowledged(shard);
            if status.applied < acknowledged {
                return Err(format!("{at} lacks a write acknowledged at {acknowledged}"));
            }
            if status.bytes > status.bytes_max {
                return Err(format!("{at} holds more than it may: {status:?}"));
            }
            let state = (status.applied, store.digest(), store.bytes(), order);
            if first.get_or_insert_with(|| state.clone()) != &state {
                return Err(format!("{first:?} and {state:?}\n{}", states(world)));
            }
        }
        for at in replicas(world, shard) {
            if let Some(store) = world.seat(at).and_then(|seat| seat.core.store(shard)) {
                store.check();
            }
        }
    }
    Ok(())
}
