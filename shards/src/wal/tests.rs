//! Logs written, crashed, damaged and read again.
//!
//! A model says what each shard's log must come to after each durable frame. The crash is played
//! at every write, with any part of the write on the disk.

use std::collections::BTreeMap;

use raft::eraftpb::{ConfState, Entry, HardState};

use super::*;
use crate::contract::{CoreConfig, DiskOperation, Durability, ReadMode, STUB_BYTES_MIN};
use crate::entry::EntryBuilder;
use crate::ids::{Formation, Index, Millis, Nanos, ReplicaId, ShardId, Term};
use crate::placement::Placement;
use crate::store::Opening;

const IDENTITY: LogIdentity =
    LogIdentity { cluster: 7, node: NodeId(1), layout: 1, core: CoreIndex(0) };
const SEGMENT: u64 = 64 << 10;

/// A configuration as good as any.
pub(crate) fn config() -> CoreConfig {
    CoreConfig {
        node: NodeId(1),
        core: CoreIndex(0),
        cores: 1,
        placement: Placement::new(vec![NodeId(1), NodeId(2), NodeId(3)], 4).expect("a layout"),
        shard_bytes_max: 1 << 20,
        eviction: crate::ids::Eviction::Lru,
        value_bytes_max: 1 << 16,
        durability: Durability::Fsync,
        reads: ReadMode::Quorum,
        log: IDENTITY,
        segment_bytes: SEGMENT,
        tick: Nanos(50_000_000),
        election_ticks: 6,
        request_deadline: Nanos(2_000_000_000),
        touch_interval: Millis(5_000),
        stub_bytes_min: STUB_BYTES_MIN,
        scrub_bytes_per_second: 8 << 20,
        parked_bytes_max: 1 << 20,
        seed: 1,
    }
}

/// The files of a log.
#[derive(Clone, Debug, Default)]
struct Files(BTreeMap<u64, Vec<u8>>);

impl Files {
    /// Carries out the first `part` bytes of a write.
    fn write(&mut self, operation: &DiskOperation, part: usize) {
        match operation {
            DiskOperation::Write { segment, segment_bytes, offset, bytes, .. } => {
                // A recycled file holds what it held.
                let file =
                    self.0.entry(*segment).or_insert_with(|| vec![0xa5; *segment_bytes as usize]);
                let start = *offset as usize;
                let part = part.min(bytes.len());
                file[start..start + part].copy_from_slice(&bytes[..part]);
            }
            DiskOperation::Release { before } => self.0.retain(|number, _| number >= before),
        }
    }

    fn read(&self) -> Result<Recovered, ReadError> {
        let segments: Vec<_> = self
            .0
            .iter()
            .map(|(&number, bytes)| Segment { number, created_bytes: bytes.len() as u64, bytes })
            .collect();
        read(IDENTITY, &segments)?.restore(&config())
    }
}

fn formation() -> Formation {
    Formation { epoch: 3, members: vec![ReplicaId(11), ReplicaId(12), ReplicaId(13)] }
}

fn entry(index: u64, term: u64, random: &mut Dice) -> Entry {
    let mut builder = EntryBuilder::new();
    let key = format!("key{}", random.below(30));
    let value = vec![b'v'; random.below(400) as usize];
    let command = crate::command::Command {
        key: key.as_bytes(),
        operation: crate::command::Operation::Set {
            value: &value,
            flags: 0,
            expiry: crate::command::Expiry::Never,
            condition: crate::command::SetCondition::Always,
            return_old: false,
        },
    };
    let mut encoded = Vec::new();
    command.encode(&mut encoded);
    builder.push(&encoded);
    Entry { index, term, data: builder.finish(Opening::at(Millis(index * 10))), ..Entry::default() }
}

/// A small generator of numbers: enough to mix schedules.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// What one shard's log must come to.
#[derive(Clone, Debug, Default)]
struct Expected {
    is_there: bool,
    entries: Vec<Entry>,
    hard_state: HardState,
}

impl Expected {
    fn check(&self, shard: ShardId, recovered: &Recovered) {
        let Some(replica) = recovered.replicas.get(&shard) else {
            assert!(!self.is_there, "shard {shard} is missing");
            return;
        };
        assert_eq!(replica.record.id, ReplicaId(11));
        assert_eq!(replica.hard_state.term, self.hard_state.term.max(1));
        assert_eq!(replica.hard_state.vote, self.hard_state.vote);
        let applied = replica.applied.0.0;
        assert!(applied >= self.hard_state.commit.max(1));
        let behind: Vec<_> = self.entries.iter().filter(|e| e.index > applied).cloned().collect();
        assert_eq!(replica.entries, behind);
        let mut store = crate::store::Store::new(crate::store::StoreSettings::of(&config()));
        for entry in self.entries.iter().filter(|e| e.index <= applied) {
            let reader = crate::entry::EntryReader::new(&entry.data).expect("an entry");
            crate::upkeep::begin_entry(&mut store, reader.opening(), reader.len());
            for (ordinal, command) in reader.commands().enumerate() {
                let version = crate::ids::Version::new(3, Index(entry.index), ordinal);
                store.apply(version, &command, crate::store::Answer::Unwanted);
            }
        }
        assert_eq!(replica.store.digest(), store.digest(), "shard {shard} at {applied}");
    }
}

/// A log being written by three replicas, and what it must come to.
struct Play {
    dice: Dice,
    writer: Writer,
    files: Files,
    expected: Vec<Expected>,
    /// States as of the frames that are not durable yet, with the frame that makes them so.
    later: Vec<(BatchNumber, Vec<Expected>)>,
    durable: Vec<Expected>,
    checkpoints: u64,
}

impl Play {
    fn new(seed: u64) -> Self {
        Play {
            dice: Dice(seed),
            writer: Writer::resume(IDENTITY, SEGMENT, &Recovered::default()),
            files: Files::default(),
            expected: vec![Expected::default(); 3],
            later: Vec::new(),
            durable: vec![Expected::default(); 3],
            checkpoints: 0,
        }
    }

    /// Adds records to the log.
    fn record(&mut self) {
        let shard = self.dice.below(3) as usize;
        let id = ShardId(shard as u16);
        let expected = &mut self.expected[shard];
        if !expected.is_there {
            let stage = Stage::Member(formation());
            self.writer.replica(id, &ReplicaRecord { id: ReplicaId(11), stage });
            expected.is_there = true;
            expected.hard_state.term = 1;
            expected.hard_state.commit = 1;
        }
        let commit = expected.hard_state.commit;
        match self.dice.below(12) {
            0 if self.checkpoint(shard) => {}
            1..=3 => {
                let last = self.expected[shard].entries.last().map_or(1, |entry| entry.index);
                let expected = &mut self.expected[shard];
                expected.hard_state.commit = commit + self.dice.below(last - commit + 1);
                expected.hard_state.vote = self.dice.below(3) + 11;
                self.writer.hard_state(id, &expected.hard_state);
            }
            _ => {
                let expected = &mut self.expected[shard];
                let last = expected.entries.last().map_or(1, |entry| entry.index);
                let mut first = last + 1;
                if self.dice.below(5) == 0 {
                    // A new leader's entries take the place of what was not committed.
                    expected.hard_state.term += 1;
                    first = commit + 1 + self.dice.below(last - commit + 1);
                    expected.entries.retain(|entry| entry.index < first);
                }
                let term = expected.hard_state.term;
                let count = 1 + self.dice.below(4);
                let entries: Vec<_> =
                    (first..first + count).map(|i| entry(i, term, &mut self.dice)).collect();
                self.writer.entries(id, entries.iter());
                self.writer.hard_state(id, &expected.hard_state);
                expected.entries.extend(entries);
            }
        }
        let state = (self.writer.batch(), self.expected.clone());
        self.later.push(state);
    }

    /// A checkpoint of `shard` as of its commit index.
    fn checkpoint(&mut self, shard: usize) -> bool {
        let expected = &self.expected[shard];
        let commit = expected.hard_state.commit;
        let Some(last) = expected.entries.iter().find(|entry| entry.index == commit) else {
            return false;
        };
        let id = ShardId(shard as u16);
        let head = CheckpointHead {
            id: ReplicaId(11),
            formation: formation(),
            applied: (Index(commit), Term(last.term)),
            conf_state: ConfState { voters: vec![11, 12, 13], ..ConfState::default() },
            hard_state: expected.hard_state.clone(),
        };
        let mut store = crate::store::Store::new(crate::store::StoreSettings::of(&config()));
        for entry in expected.entries.iter().filter(|entry| entry.index <= commit) {
            let reader = crate::entry::EntryReader::new(&entry.data).expect("an entry");
            crate::upkeep::begin_entry(&mut store, reader.opening(), reader.len());
            for (ordinal, command) in reader.commands().enumerate() {
                let version = crate::ids::Version::new(3, Index(entry.index), ordinal);
                store.apply(version, &command, crate::store::Answer::Unwanted);
            }
        }
        let mut snapshot = Vec::new();
        store.snapshot(&mut snapshot);
        self.checkpoints += 1;
        let tail = expected.entries.iter().filter(|entry| entry.index > commit);
        let generation = self.writer.begin_checkpoint(id, &head, tail);
        for chunk in snapshot.chunks(3_000) {
            self.writer.checkpoint_chunk(id, generation, |out| out.extend_from_slice(chunk));
        }
        if self.dice.below(4) > 0 {
            self.writer.end_checkpoint(id, generation);
        }
        true
    }

    /// The next write, if there is one.
    fn next(&mut self) -> Option<DiskOperation> {
        match self.dice.below(4) {
            0 => self.writer.tick(),
            _ => self.writer.want(),
        }
        self.writer.next_write()
    }

    fn complete(&mut self, operation: &DiskOperation) {
        self.files.write(operation, usize::MAX);
        let DiskOperation::Write { id, .. } = operation else { return };
        let durable = self.writer.complete(*id);
        while self.later.first().is_some_and(|(batch, _)| *batch <= durable) {
            self.durable = self.later.remove(0).1;
        }
        if let Some(release) = self.writer.release() {
            self.files.write(&release, 0);
        }
    }

    fn check(&self, recovered: &Recovered) {
        for (shard, expected) in self.durable.iter().enumerate() {
            expected.check(ShardId(shard as u16), recovered);
        }
    }
}

#[test]
fn what_was_durable_comes_back_whatever_part_of_the_next_write_is_there() {
    for seed in 1..=40 {
        let mut play = Play::new(seed);
        for _ in 0..120 {
            for _ in 0..play.dice.below(6) {
                play.record();
            }
            let Some(operation) = play.next() else { continue };
            let DiskOperation::Write { bytes, .. } = &operation else { unreachable!() };
            for part in [0, 1, FRAME_HEADER_BYTES - 1, BLOCK_BYTES / 2, bytes.len() / 2] {
                let mut torn = play.files.clone();
                torn.write(&operation, part);
                let recovered = torn.read();
                let recovered = recovered.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                // A larger part may be the whole frame, since the rest is padding.
                if part < FRAME_HEADER_BYTES {
                    play.check(&recovered);
                }
            }
            play.complete(&operation);
            let recovered = play.files.read().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            play.check(&recovered);
            if play.dice.below(10) == 0 {
                // A restart: what nobody waited for is lost, and the log goes on elsewhere.
                play.writer = Writer::resume(IDENTITY, SEGMENT, &recovered);
                play.expected = play.durable.clone();
                play.later.clear();
            }
        }
        assert!(play.checkpoints > 3, "seed {seed}");
        assert!(play.files.0.len() < 40, "nothing is released");
        assert!(play.files.0.keys().next().is_some_and(|first| *first > 1), "nothing is released");
    }
}

/// A log of some frames, sealed; and where its frames end in its last segment.
fn sealed_log() -> Play {
    let mut play = Play::new(99);
    for _ in 0..12 {
        for _ in 0..3 {
            play.record();
        }
        play.writer.want();
        let operation = play.writer.next_write().expect("a write");
        play.complete(&operation);
    }
    play.writer.tick();
    let operation = play.writer.next_write().expect("a seal");
    play.complete(&operation);
    play
}

#[test]
fn a_flipped_bit_in_what_was_durable_is_never_taken_for_a_torn_tail() {
    let play = sealed_log();
    let whole = play.files.read().expect("a sound log");
    let mut refused = 0;
    for (&number, bytes) in &play.files.0 {
        for place in (0..bytes.len()).step_by(61) {
            let mut files = play.files.clone();
            files.0.get_mut(&number).expect("a file")[place] ^= 1 << (place % 8);
            match files.read() {
                Err(ReadError::Damaged(_)) => refused += 1,
                Err(error) => panic!("{error}"),
                // Padding, or what lies behind the end.
                Ok(recovered) => {
                    play.check(&recovered);
                    assert_eq!(recovered.next_sequence, whole.next_sequence, "byte {place}");
                }
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn misdirected_lost_and_shortened_parts_are_damage() {
    let play = sealed_log();
    let (&last, bytes) = play.files.0.last_key_value().expect("a file");
    assert!(bytes.len() >= 4 * BLOCK_BYTES);
    let mut copied = play.files.clone();
    let file = copied.0.get_mut(&last).expect("a file");
    file.copy_within(0..BLOCK_BYTES, BLOCK_BYTES);
    assert!(matches!(copied.read(), Err(ReadError::Damaged(_))));
    let mut zeroed = play.files.clone();
    zeroed.0.get_mut(&last).expect("a file")[..BLOCK_BYTES].fill(0);
    assert!(matches!(zeroed.read(), Err(ReadError::Damaged(_))));
    let segments =
        [Segment { number: last, created_bytes: SEGMENT, bytes: &bytes[..BLOCK_BYTES * 3] }];
    assert!(matches!(read(IDENTITY, &segments), Err(ReadError::Damaged(_))));
}

#[test]
fn a_log_of_another_core_node_or_cluster_is_foreign() {
    let play = sealed_log();
    let segments: Vec<_> = play
        .files
        .0
        .iter()
        .map(|(&number, bytes)| Segment { number, created_bytes: bytes.len() as u64, bytes })
        .collect();
    for other in [
        LogIdentity { cluster: 8, ..IDENTITY },
        LogIdentity { node: NodeId(2), ..IDENTITY },
        LogIdentity { layout: 2, ..IDENTITY },
        LogIdentity { core: CoreIndex(1), ..IDENTITY },
    ] {
        assert!(matches!(read(other, &segments), Err(ReadError::Foreign(_))));
    }
}

#[test]
fn a_log_that_is_written_anew_holds_the_same_and_nothing_else() {
    let play = sealed_log();
    let mut recovered = play.files.read().expect("a sound log");
    let mut files = Files::default();
    let written = rewrite(IDENTITY, SEGMENT, &mut recovered.replicas, &mut |operation| {
        files.write(&operation, usize::MAX);
        Ok::<(), ()>(())
    });
    assert_eq!(written, Ok(()));
    play.check(&files.read().expect("a sound log"));
}

#[test]
fn a_record_longer_than_a_segment_gets_one_of_its_own() {
    let mut writer = Writer::resume(IDENTITY, SEGMENT, &Recovered::default());
    let mut files = Files::default();
    let stage = Stage::Member(formation());
    writer.replica(ShardId(0), &ReplicaRecord { id: ReplicaId(11), stage });
    let mut long = entry(2, 1, &mut Dice(1));
    let mut builder = EntryBuilder::new();
    let value = vec![b'x'; 300 << 10];
    let mut encoded = Vec::new();
    crate::command::Command {
        key: b"long",
        operation: crate::command::Operation::Set {
            value: &value,
            flags: 0,
            expiry: crate::command::Expiry::Never,
            condition: crate::command::SetCondition::Always,
            return_old: false,
        },
    }
    .encode(&mut encoded);
    builder.push(&encoded);
    long.data = builder.finish(Opening::at(Millis(5)));
    writer.entries(ShardId(0), [long.clone()].iter());
    writer.want();
    let operation = writer.next_write().expect("a write");
    files.write(&operation, usize::MAX);
    let recovered = files.read().expect("a sound log");
    assert_eq!(recovered.replicas[&ShardId(0)].entries, [long]);
}
