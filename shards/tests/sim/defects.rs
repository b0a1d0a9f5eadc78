//! That the simulator would notice: the obvious wrong versions of the engine, each played until a
//! checker objects.
//!
//! A defect is met by a scenario made for it, or by random seeds with the faults that it cannot
//! stand. What was played up to the objection is then played without the defect, and must pass:
//! otherwise the objection says nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use shards::contract::{Durability, ReadMode};
use shards::defect::{Defect, activate};

use crate::options::{Faults, Keys, MILLI, Options, SECOND};
use crate::run::run;
use crate::scenarios::{self, Scenario};

/// A defect that is not caught within this time fails the test. Most take a second.
const CAUGHT_WITHIN_SECONDS: f64 = 60.0;
/// Seeds that are played, however fast they are.
const SEEDS_MAX: u64 = 2_000;

/// How a defect is met.
#[derive(Clone, Copy)]
enum Play {
    /// By a schedule made for it.
    Scenario(Scenario),
    /// By seeds whose options are these.
    Seeds(fn(Options) -> Options),
}

const DEFECTS: [(Defect, Play); 29] = [
    (Defect::ReusedReadContext, Play::Scenario(scenarios::LATE_CONFIRMATIONS)),
    (Defect::LeaseOfRaftRs, Play::Scenario(scenarios::PAUSED_LEADER)),
    (Defect::LeaseAfterTimeoutNow, Play::Scenario(scenarios::READ_AFTER_HANDING_OVER)),
    (Defect::TickBurst, Play::Scenario(scenarios::PAUSED_FOLLOWERS)),
    (Defect::OldIdAfterWipe, Play::Seeds(crashing)),
    (Defect::ReplyBeforeCommit, Play::Seeds(crashing)),
    (Defect::ApplyTwiceAfterSnapshot, Play::Seeds(crashing)),
    (Defect::EvictionOnFollowersOwn, Play::Seeds(evicting)),
    (Defect::RecencyMovedByReads, Play::Seeds(evicting)),
    (Defect::ExpiryByLocalClock, Play::Seeds(expiring)),
    (Defect::SwappedReplies, Play::Seeds(pipelining)),
    (Defect::NotDoneForTruncated, Play::Scenario(scenarios::TRUNCATED_HERE_ALIVE_ELSEWHERE)),
    (Defect::ExpiryByRunningClock, Play::Scenario(scenarios::SEEN_ABSENT_BEFORE_HANDING_OVER)),
    (Defect::FormedOnStaleEmpty, Play::Scenario(scenarios::EMPTY_ANSWERS_OF_FORMER_LIVES)),
    (Defect::ReadConfirmedByEarlierWrite, Play::Scenario(scenarios::READ_BEHIND_A_WRITE)),
    (Defect::ForsakenForEver, Play::Scenario(scenarios::MEMORY_LOST_ONE_BY_ONE)),
    (Defect::VoteRightAfterRestart, Play::Scenario(scenarios::VOTER_STARTS_ANEW)),
    (Defect::HeartbeatsWhilePoisoned, Play::Scenario(scenarios::POISONED_LEADER)),
    (Defect::SkippedSync, Play::Seeds(losing_power)),
    (Defect::IgnoredChecksum, Play::Seeds(damaged)),
    (Defect::OldLayoutReadAgain, Play::Seeds(moving)),
    (Defect::OldIdAfterWipe, Play::Seeds(wiped)),
    (Defect::KeySecretNotRestored, Play::Seeds(evicting_and_crashing)),
    (Defect::LruOrderNotRestored, Play::Seeds(evicting_and_crashing)),
    (Defect::FollowerReadsAtOnce, Play::Seeds(reading_from_replicas)),
    (Defect::AnswersWithoutProof, Play::Scenario(scenarios::PAUSED_WITH_A_FOLLOWER)),
    (Defect::LeaseReadOnLaggingStore, Play::Scenario(scenarios::LEADER_BEHIND_ITS_FOLLOWERS)),
    (Defect::NoTimeSinceOwnStamp, Play::Scenario(scenarios::ELECTED_AGAIN)),
    (Defect::NewLeaderByOwnClock, Play::Scenario(scenarios::FAST_WALL_CLOCK)),
];

/// Without any reason for a key to vanish.
fn strict(options: Options) -> Options {
    Options { keys: Keys::Strict, shard_bytes_max: 4 << 20, ..options }
}

fn crashing(options: Options) -> Options {
    let faults = Faults {
        crash_every: 500 * MILLI,
        crash_lasts: 100 * MILLI,
        partition_every: SECOND,
        partition_lasts: 300 * MILLI,
        detection_max: SECOND,
        ..options.faults
    };
    Options { cores: vec![1; 3], faults, ..strict(options) }
}

/// With disks, and crashes of which so many take the disk along or damage it, per mille.
fn with_disks(options: Options, wipe_share: u64, damage_share: u64) -> Options {
    let faults = Faults {
        crash_every: 400 * MILLI,
        crash_lasts: 50 * MILLI,
        wipe_share,
        damage_share,
        disk_stall_every: 0,
        disk_fail_every: 0,
        ..options.faults
    };
    let durability = Durability::Fsync;
    Options { cores: vec![1; 3], faults, durability, ..strict(options) }
}

fn losing_power(options: Options) -> Options {
    let options = with_disks(options, 0, 0);
    Options { faults: Faults { power_loss_every: SECOND, ..options.faults }, ..options }
}

fn damaged(options: Options) -> Options {
    with_disks(options, 0, 1_000)
}

fn moving(options: Options) -> Options {
    let options = with_disks(options, 0, 0);
    Options { faults: Faults { recore: true, ..options.faults }, ..options }
}

fn wiped(options: Options) -> Options {
    with_disks(options, 1_000, 0)
}

fn evicting(options: Options) -> Options {
    let (keys, shard_bytes_max) = (Keys::Evicted, 900);
    Options { cores: vec![1; 3], keys, shard_bytes_max, keys_per_shard: 18, ..options }
}

fn evicting_and_crashing(options: Options) -> Options {
    let options = crashing(options);
    evicting(Options { durability: Durability::Memory, ..options })
}

fn expiring(options: Options) -> Options {
    Options { cores: vec![1; 3], keys: Keys::Expiring, shard_bytes_max: 4 << 20, ..options }
}

fn pipelining(options: Options) -> Options {
    Options { cores: vec![1; 3], pipelining_clients: 4, reads: ReadMode::Lease, ..options }
}

fn reading_from_replicas(options: Options) -> Options {
    let faults =
        Faults { raft_delay: 300, raft_delay_lasts: 100 * MILLI, raft_drop: 50, ..options.faults };
    Options { cores: vec![1; 3], faults, replica_read_share: 1_000, ..options }
}

impl Play {
    /// Number of different plays.
    fn count(self) -> u64 {
        match self {
            Play::Scenario(scenario) => scenario.variants,
            Play::Seeds(_) => SEEDS_MAX,
        }
    }

    /// Plays number `place`; a panic of the engine counts as an objection.
    fn play(self, place: u64) -> Result<(), String> {
        let played = catch_unwind(AssertUnwindSafe(|| match self {
            Play::Scenario(scenario) => (scenario.play)(place).map(|_| ()),
            Play::Seeds(bias) => run(bias(Options::draw(1 + place)), false).map(|_| ()),
        }));
        played.unwrap_or_else(|panic| Err(format!("panic: {}", crate::panic_text(&*panic))))
    }
}

/// Plays with the defect until a checker objects, and then the same without it. Returns what is
/// to be told of it, or why it is not caught.
#[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "the time is limited")]
fn catch(defect: Defect, play: Play) -> Result<String, String> {
    let start = std::time::Instant::now();
    let mut objection = None;
    activate(Some(defect));
    for place in 0..play.count() {
        if let Err(violation) = play.play(place) {
            objection = Some((place, violation));
            break;
        }
        if start.elapsed().as_secs_f64() > CAUGHT_WITHIN_SECONDS {
            break;
        }
    }
    activate(None);
    let seconds = start.elapsed().as_secs_f64();
    let Some((place, violation)) = objection else {
        return Err(format!("{defect:?}: nobody objected within {seconds:.1} s"));
    };
    let line = violation.lines().next().unwrap_or_default();
    for place in 0..=place {
        if let Err(violation) = play.play(place) {
            return Err(format!("{defect:?}: without it, play {place} fails too: {violation}"));
        }
    }
    Ok(format!("{defect:?}: play {} after {seconds:.2} s: {line}", place + 1))
}

#[test]
fn every_seeded_defect_is_caught() {
    let waiting = Mutex::new(DEFECTS.iter());
    let failures = Mutex::new(Vec::new());
    let work = || {
        loop {
            let next = waiting.lock().expect("no panic").next();
            let Some(&(defect, play)) = next else { break };
            match catch(defect, play) {
                Ok(text) => println!("{text}"),
                Err(text) => {
                    println!("NOT CAUGHT {text}");
                    failures.lock().expect("no panic").push(text);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().expect("no panic");
    assert!(failures.is_empty(), "{failures:#?}");
}
