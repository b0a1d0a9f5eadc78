//! Promises about what is on disks, each by seeds that are all about it.

use shards::contract::Durability;

use crate::options::{Faults, Keys, MILLI, Options, SECOND};
use crate::run::{Report, run};

/// Nodes with disks, and nothing that fails but what `change` adds. No value may vanish.
fn play(seeds: std::ops::Range<u64>, change: impl Fn(&mut Options)) -> Vec<Report> {
    seeds
        .map(|seed| {
            let mut options = Options {
                cores: vec![1; 3],
                replicas: 3,
                durability: Durability::Fsync,
                faults: Faults { crash_lasts: 100 * MILLI, ..Faults::default() },
                keys: Keys::Strict,
                shard_bytes_max: 4 << 20,
                ..Options::draw(seed)
            };
            change(&mut options);
            run(options, false).unwrap_or_else(|error| panic!("seed {seed}: {error}"))
        })
        .collect()
}

fn sum(reports: &[Report], count: impl Fn(&Report) -> u64) -> u64 {
    reports.iter().map(count).sum()
}

#[test]
fn a_power_loss_of_all_nodes_loses_nothing_acknowledged() {
    let reports = play(1..13, |options| options.faults.power_loss_every = SECOND);
    assert!(sum(&reports, |report| report.power_losses) > 30);
    assert!(sum(&reports, |report| report.recoveries) > 90);
}

#[test]
fn a_damaged_log_is_set_aside_and_its_shards_come_back_whole() {
    let reports = play(1..13, |options| {
        options.faults.crash_every = 500 * MILLI;
        options.faults.damage_share = 1_000;
    });
    assert!(sum(&reports, |report| report.logs_set_aside) > 10);
}

#[test]
fn a_restart_with_another_number_of_cores_loses_nothing_also_when_it_is_cut_short() {
    let reports = play(1..13, |options| {
        options.faults.crash_every = 500 * MILLI;
        options.faults.recore = true;
        options.disk.death_in_move_share = 500;
    });
    assert!(sum(&reports, |report| report.moves.0) > 30);
    assert!(sum(&reports, |report| report.moves.1) > 5);
}

#[test]
fn a_node_whose_disk_fails_comes_back_from_what_is_durable() {
    let reports = play(1..13, |options| options.faults.disk_fail_every = 300 * MILLI);
    assert!(sum(&reports, |report| report.failed_disks) > 50);
}
