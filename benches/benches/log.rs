//! From commands to the log: building an entry, checking and reading it, and its way into a frame
//! of the log with the frame's checksum. Nothing is written anywhere.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use raft::eraftpb::Entry;
use shards::command::{Command, Expiry, Operation, SetCondition};
use shards::contract::DiskOperation;
use shards::entry::{EntryBuilder, EntryReader};
use shards::ids::{CoreIndex, Millis, NodeId, ShardId};
use shards::store::Opening;
use shards::wal::{LogIdentity, Recovered, SEGMENT_BYTES, Writer};
use std::hint::black_box;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn set() -> Vec<u8> {
    let operation = Operation::Set {
        value: &[b'v'; 64],
        flags: 0,
        condition: SetCondition::Always,
        expiry: Expiry::Never,
        return_old: false,
    };
    let mut out = Vec::new();
    Command { key: b"key:000000012345", operation }.encode(&mut out);
    out
}

fn build(builder: &mut EntryBuilder, command: &[u8], commands: usize) -> Vec<u8> {
    (0..commands).for_each(|_| builder.push(command));
    builder.finish(Opening::at(Millis(1_800_000_000_000)))
}

fn log(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log");
    let command = set();
    for commands in [1, 16, 256, 1_024] {
        group.throughput(Throughput::Elements(commands as u64));
        let mut builder = EntryBuilder::new();
        group.bench_function(BenchmarkId::new("entry_build", commands), |bencher| {
            bencher.iter(|| build(&mut builder, black_box(&command), commands));
        });
        let data = build(&mut builder, &command, commands);
        group.bench_function(BenchmarkId::new("entry_read", commands), |bencher| {
            bencher.iter(|| {
                let reader = EntryReader::new(black_box(&data));
                let reader = reader.unwrap_or_else(|error| panic!("{error}"));
                reader.commands().map(|command| command.key.len()).sum::<usize>()
            });
        });
        let node = NodeId(1);
        let identity = LogIdentity { cluster: 1, node, layout: 0, core: CoreIndex(0) };
        let mut writer = Writer::resume(identity, SEGMENT_BYTES, &Recovered::default());
        let entries = [Entry { term: 1, index: 2, data, ..Entry::default() }];
        group.bench_function(BenchmarkId::new("frame_of_one_entry", commands), |bencher| {
            bencher.iter(|| {
                writer.entries(ShardId(0), black_box(&entries).iter());
                writer.want();
                if let Some(DiskOperation::Write { id, bytes, .. }) = writer.next_write() {
                    writer.complete(id);
                    writer.recycle(bytes);
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, log);
criterion_main!(benches);
