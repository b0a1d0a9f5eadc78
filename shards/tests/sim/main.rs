//! The engine in a simulated cluster: no threads, no clocks, one seed.
//!
//! A seed draws a cluster, a workload and a mix of faults (`options.rs`), plays them, heals the
//! cluster and waits for it to come to rest (`run.rs`). Environment:
//! - `CORACLE_SIM_SEEDS`: how many seeds `seeds_without_violation` plays.
//! - `CORACLE_SIM_FIRST`: the first of them.
//! - `CORACLE_SIM_SEED`: the seed that `replay` plays, telling what happens.

mod boot;
mod checkers;
#[cfg(feature = "defects")]
mod damage;
#[cfg(feature = "defects")]
mod defects;
mod disk;
mod faults;
mod network;
mod options;
mod promises;
mod random;
mod removal;
mod run;
mod scenarios;
mod shard_time;
mod workload;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use options::{Faults, Keys, MILLI, Options, SECOND};
use run::{Report, run};

/// Seeds played where nobody says how many: as many as take about a minute on one core.
const SEEDS: u64 = 600;
/// Every seed that ever failed, with a line why.
const FAILED_ONCE: &str = include_str!("seeds.txt");

#[expect(
    clippy::disallowed_methods,
    reason = "the test is configured from outside, not the engine"
)]
fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The first seed to play and how many, unless the environment says otherwise.
fn seeds(count: u64) -> (u64, u64) {
    let first = number_from_environment("CORACLE_SIM_FIRST").unwrap_or(1);
    (first, number_from_environment("CORACLE_SIM_SEEDS").unwrap_or(count))
}

/// What a panic said.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default().to_owned()
}

/// Plays a seed; a panic of the engine counts as a violation.
fn play(seed: u64, is_verbose: bool) -> Result<Report, String> {
    let options = Options::draw(seed);
    let played = catch_unwind(AssertUnwindSafe(|| run(options, is_verbose)));
    let result = played.unwrap_or_else(|panic| Err(format!("panic: {}", panic_text(&*panic))));
    result.map_err(|violation| {
        format!(
            "seed {seed}: {violation}\n{:#?}\nreplay: CORACLE_SIM_SEED={seed} \
             cargo test -p shards --test sim replay -- --nocapture",
            Options::draw(seed)
        )
    })
}

/// What all seeds of a run came to.
#[derive(Debug, Default)]
struct Total {
    requests: u64,
    follower_reads: u64,
    turns: u64,
    elections: u64,
    snapshots_restored: u64,
    power_losses: u64,
    recoveries: u64,
    damages: u64,
    logs_set_aside: u64,
    failed_disks: u64,
    moves: u64,
    deaths_in_moves: u64,
    released_segments: u64,
    /// Seeds with a key that had too many unknown outcomes to be judged.
    undecided_seeds: u64,
}

impl Total {
    fn add(&mut self, report: &Report) {
        self.requests += report.requests as u64;
        self.follower_reads += report.follower_reads;
        self.turns += report.turns;
        self.elections += report.elections;
        self.snapshots_restored += report.restores;
        self.power_losses += report.power_losses;
        self.recoveries += report.recoveries;
        self.damages += report.damages;
        self.logs_set_aside += report.logs_set_aside;
        self.failed_disks += report.failed_disks;
        self.moves += report.moves.0;
        self.deaths_in_moves += report.moves.1;
        self.released_segments += report.released_segments;
        self.undecided_seeds += u64::from(report.undecided > 0);
    }
}

#[test]
#[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "only to print the rate")]
fn seeds_without_violation() {
    let (first, count) = seeds(SEEDS);
    let start = std::time::Instant::now();
    let mut failures = Vec::new();
    let mut total = Total::default();
    for seed in first..first + count {
        match play(seed, false) {
            Ok(report) => total.add(&report),
            Err(failure) => {
                println!("{failure}");
                failures.push(seed);
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{count} seeds from {first} in {seconds:.1} s ({:.0} seeds per minute): {total:?}",
        count as f64 * 60.0 / seconds
    );
    let undecided = total.undecided_seeds;
    assert!(undecided <= 1 + count / 50, "too many histories cannot be judged");
    assert!(failures.is_empty(), "violations under the seeds {failures:?}");
}

#[test]
fn seeds_that_failed_once_stay_good() {
    for line in FAILED_ONCE.lines().filter(|line| !line.starts_with('#')) {
        let Some(seed) = line.split_whitespace().next() else { continue };
        let seed = seed.parse().expect("a line starts with its seed");
        if let Err(failure) = play(seed, false) {
            panic!("{failure}");
        }
    }
}

#[test]
fn the_same_seed_and_inputs_give_byte_identical_outputs() {
    let mut traces = std::collections::BTreeSet::new();
    for seed in 1_000_000..1_000_006 {
        let (once, again) = (play(seed, false), play(seed, false));
        assert_eq!(once, again);
        traces.insert(once.expect("no violation").trace);
    }
    assert_eq!(traces.len(), 6, "different seeds play differently");
}

/// Every replica's digest, keys and bytes are compared at every equal index while the commands run;
/// at the end, the order of use as well.
#[test]
fn replicas_agree_after_random_commands_with_reordered_and_repeated_messages() {
    for seed in 1..=8 {
        let options = Options {
            cores: vec![1; 3],
            shards: 2,
            shard_bytes_max: 1_200,
            faults_last: 6 * SECOND,
            faults: Faults {
                raft_duplicate: 400,
                raft_delay: 400,
                raft_delay_lasts: 20 * MILLI,
                ..Faults::default()
            },
            keys: Keys::Evicted,
            keys_per_shard: 20,
            think_time: 10 * MILLI,
            read_share: 200,
            padding_max: 300,
            ..Options::draw(seed)
        };
        let report = run(options, false).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(report.mischiefs > 1_000, "seed {seed}: {report:?}");
        assert!(report.evicted > 100 && report.expired > 20, "seed {seed}: {report:?}");
    }
}

#[test]
fn replay() {
    if let Some(seed) = number_from_environment("CORACLE_SIM_SEED") {
        match play(seed, true) {
            Ok(report) => println!("{:#?}\nseed {seed}: {report:#?}", Options::draw(seed)),
            Err(failure) => panic!("{failure}"),
        }
    }
}
