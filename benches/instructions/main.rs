//! Runs each case of the instruction counts once, for callgrind: see `run` beside this file.
//!
//! callgrind collects only while `measured_turn` runs, and writes what it has collected whenever
//! `end_of_case` is called. A line on the standard output names each case, in the same order, with
//! its requests and allocations.

use benches::allocations;
use benches::cluster::{Asked, Cluster, Measured, Shape};
use shards::contract::Durability;
use shards::ids::Nanos;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// Commands per turn, and how many turns are measured.
const BATCHES: [(usize, usize); 4] = [(1, 1_024), (16, 256), (256, 32), (1_024, 8)];

fn main() {
    for nodes in [3, 1] {
        for durability in [Durability::Memory, Durability::Fsync] {
            let mut cluster = Cluster::start(Shape { nodes, durability });
            for (commands, turns) in BATCHES {
                let mut run = |asked, measured| {
                    warm(&mut cluster, asked, commands);
                    measure(&mut cluster, (asked, commands), turns, measured);
                    let counts = allocations::take();
                    println!(
                        "{nodes} {durability:?} {asked:?} {commands} {measured:?} {} {} {}",
                        commands * turns,
                        counts.count,
                        counts.bytes
                    );
                    end_of_case();
                };
                run(Asked::Set, Measured::Leader);
                if nodes > 1 {
                    run(Asked::Set, Measured::Follower);
                }
                if durability == Durability::Memory {
                    run(Asked::Get, Measured::Leader);
                }
            }
        }
    }
}

/// Every buffer has found its size when this ends.
fn warm(cluster: &mut Cluster, asked: Asked, commands: usize) {
    cluster.settle();
    measure(cluster, (asked, commands), 64.max(4_096 / commands), Measured::Nobody);
}

fn measure(
    cluster: &mut Cluster,
    (asked, commands): (Asked, usize),
    turns: usize,
    measured: Measured,
) {
    // In the first turn nothing comes back yet of a turn before.
    for turn in 0..=turns {
        cluster.ask(asked, commands);
        cluster.round(if turn == 0 { Measured::Nobody } else { measured });
        cluster.pass(Nanos(1_000));
    }
    cluster.finish();
}

/// callgrind looks for calls of this function.
#[inline(never)]
fn end_of_case() {
    std::hint::black_box(());
}
