//! Whole turns of engines, without sockets and disks: a round is a turn of the leader and one (two
//! with a disk) of each follower, so that a figure is what all nodes together spend per request,
//! from the bytes of the request to those of the reply.

use benches::cluster::{Asked, Cluster, Measured, Shape};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use shards::contract::Durability;
use shards::ids::Nanos;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Between two rounds; what is done per time comes in as it does under such a load.
const ROUND: Nanos = Nanos(50_000);

fn turn(criterion: &mut Criterion) {
    for nodes in [1, 3] {
        for durability in [Durability::Memory, Durability::Fsync] {
            let mut group = criterion.benchmark_group(format!("turn/{nodes}/{durability:?}"));
            let mut cluster = Cluster::start(Shape { nodes, durability });
            cluster.settle();
            for (name, asked) in [("set", Asked::Set), ("get", Asked::Get)] {
                for commands in [1, 16, 256, 1_024] {
                    group.throughput(Throughput::Elements(commands as u64));
                    group.bench_function(BenchmarkId::new(name, commands), |bencher| {
                        bencher.iter(|| {
                            cluster.pass(ROUND);
                            cluster.ask(asked, commands);
                            cluster.round(Measured::Nobody);
                        });
                    });
                    cluster.finish();
                }
            }
            group.finish();
        }
    }
}

criterion_group!(benches, turn);
criterion_main!(benches);
