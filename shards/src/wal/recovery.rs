//! From the bytes of a log to the replicas that wrote it.
//!
//! [`read`] checks frames and sorts records by shard without copying anything; it says whether the
//! log is sound. [`Log::restore`] builds the stores: each from its last complete checkpoint, with
//! the entries behind it that are known to be committed. What is not known to be committed stays
//! in the Raft log. Nothing here trusts the disk: what makes no sense is damage, and damage is
//! said and not repaired.

use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb::{ConfChange, ConfChangeType, ConfState, Entry, EntryType, HardState};

use super::record::{CheckpointRecord, EntryRef, Record, ReplicaRecord, Stage};
use super::writer::{CheckpointHead, Writer};
use super::{
    BLOCK_BYTES, CHECKED_FROM, FRAME_HEADER_BYTES, FRAME_MAGIC, LogIdentity, record, whole_blocks,
};
use crate::contract::CoreConfig;
use crate::defect::{self, Defect};
use crate::entry::EntryReader;
use crate::ids::{Formation, Index, ShardId, Term, Version};
use crate::raft_log::FORMATION;
use crate::reader::Reader;
use crate::store::{Answer, Restorer, SnapshotProgress, Store, StoreSettings};
use crate::upkeep;

/// A segment as it was found.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Its number.
    pub number: u64,
    /// The length it was created with. A file that is shorter was damaged.
    pub created_bytes: u64,
    /// What it holds.
    pub bytes: &'a [u8],
}

/// Why a log cannot be gone on with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It is the log of another core, node or cluster.
    #[error("the log belongs to {0}")]
    Foreign(String),
    /// Something that was durable is there no more.
    #[error("the log is damaged: {0}")]
    Damaged(String),
}

/// Bytes of one chunk of a checkpoint in a log that is written anew.
const CHUNK_BYTES: usize = 256 << 10;
/// Entries that are looked at for the number of commands in a log.
const SAMPLED_ENTRIES: usize = 64;
/// Bytes per command that are assumed at least where room is made for its key.
const COMMAND_BYTES_MIN: usize = 32;

/// A checkpoint, or what there is of it.
#[derive(Debug)]
struct Checkpoint<'a> {
    begin: CheckpointRecord,
    segment: u64,
    chunks: Vec<&'a [u8]>,
}

/// What a log holds of one shard.
#[derive(Debug, Default)]
struct ShardLog<'a> {
    record: Option<ReplicaRecord>,
    hard_state: HardState,
    entries: VecDeque<EntryRef<'a>>,
    checkpoint: Option<Checkpoint<'a>>,
    unfinished: Option<Checkpoint<'a>>,
    /// The segment of its first record.
    start: u64,
}

/// A sound log.
#[derive(Debug)]
pub struct Log<'a> {
    shards: BTreeMap<ShardId, ShardLog<'a>>,
    segments: Vec<(u64, u64)>,
    next_sequence: u64,
    next_generation: u64,
}

/// A replica that comes back.
#[derive(Debug)]
pub struct RecoveredReplica {
    /// Who it is.
    pub record: ReplicaRecord,
    /// Term, vote and commit index.
    pub hard_state: HardState,
    /// The applied index and its term; zero for a replica that was never taken in.
    pub applied: (Index, Term),
    /// The members as of the applied index.
    pub conf_state: ConfState,
    /// The entries behind the applied index.
    pub entries: Vec<Entry>,
    /// The state as of the applied index.
    pub store: Box<Store>,
}

/// What comes out of a core's log. Without a log, nothing: the default.
#[derive(Debug)]
pub struct Recovered {
    /// The replicas, by shard.
    pub replicas: BTreeMap<ShardId, RecoveredReplica>,
    pub(super) starts: BTreeMap<ShardId, u64>,
    pub(super) segments: Vec<(u64, u64)>,
    pub(super) last_segment: u64,
    pub(super) next_sequence: u64,
    pub(super) next_generation: u64,
}

impl Default for Recovered {
    fn default() -> Self {
        Recovered {
            replicas: BTreeMap::new(),
            starts: BTreeMap::new(),
            segments: Vec::new(),
            last_segment: 0,
            next_sequence: 1,
            next_generation: 1,
        }
    }
}

fn damaged<T>(what: impl Into<String>) -> Result<T, ReadError> {
    Err(ReadError::Damaged(what.into()))
}

/// The frame at `offset`, if there is a valid one: its sequence, its payload and its length.
fn frame_at<'a>(segment: &Segment<'a>, offset: usize) -> Option<(u64, &'a [u8], usize)> {
    let bytes = segment.bytes.get(offset..)?;
    let mut header = Reader(bytes.get(..FRAME_HEADER_BYTES)?);
    if header.u32()? != FRAME_MAGIC {
        return None;
    }
    let length = header.u32()?;
    let checksum = header.u32()?;
    let frame = bytes.get(..length as usize)?;
    let checked = frame.get(CHECKED_FROM..)?;
    let _zero = header.u32()?;
    let (number, sequence) = (header.u64()?, header.u64()?);
    let is_sound =
        crc32c::crc32c_append(length, checked) == checksum || defect::is(Defect::IgnoredChecksum);
    let is_valid = is_sound && number == segment.number;
    is_valid.then_some((sequence, frame.get(FRAME_HEADER_BYTES..)?, length as usize))
}

/// Reads the log `identity` from its segments, which stand in ascending order.
///
/// # Errors
/// If it is another's, or if something that was durable is missing or damaged.
pub fn read<'a>(identity: LogIdentity, segments: &[Segment<'a>]) -> Result<Log<'a>, ReadError> {
    let mut log =
        Log { shards: BTreeMap::new(), segments: Vec::new(), next_sequence: 1, next_generation: 1 };
    let mut expected = None;
    for (place, segment) in segments.iter().enumerate() {
        if (segment.bytes.len() as u64) < segment.created_bytes {
            return damaged(format!(
                "segment {} has {} of its {} bytes",
                segment.number,
                segment.bytes.len(),
                segment.created_bytes
            ));
        }
        let before = expected;
        let goes_on = segments.get(place + 1).and_then(|next| frame_at(next, 0));
        let goes_on_with = goes_on.map(|(sequence, ..)| sequence);
        read_segment(identity, segment, goes_on_with, &mut expected, &mut log)?;
        // One that was made ahead of need holds nothing yet, and is the next to be written.
        if expected != before {
            log.segments.push((segment.number, segment.created_bytes));
        }
    }
    log.next_sequence = expected.unwrap_or(1);
    Ok(log)
}

/// Reads one segment up to its end, or up to a torn tail. `goes_on_with` is the sequence that the
/// next segment begins with.
fn read_segment<'a>(
    identity: LogIdentity,
    segment: &Segment<'a>,
    goes_on_with: Option<u64>,
    expected: &mut Option<u64>,
    log: &mut Log<'a>,
) -> Result<(), ReadError> {
    let mut offset = 0;
    let mut is_named = false;
    while let Some((sequence, payload, length)) = frame_at(segment, offset) {
        if expected.is_some_and(|expected| expected != sequence) {
            break;
        }
        is_named |= read_frame(identity, segment, payload, log)?;
        if !is_named {
            return damaged(format!("segment {} does not say whose it is", segment.number));
        }
        *expected = Some(sequence + 1);
        offset += whole_blocks(length);
    }
    // Where the next segment goes on without a gap, nothing is missing here, and the rest of the
    // segment, which may be most of it, need not be read.
    if expected.is_some() && *expected == goes_on_with {
        return Ok(());
    }
    let later = (offset..segment.bytes.len()).step_by(BLOCK_BYTES).find_map(|offset| {
        let (sequence, ..) = frame_at(segment, offset)?;
        expected.is_none_or(|expected| sequence >= expected).then_some((offset, sequence))
    });
    match later {
        None => Ok(()),
        Some((found_at, sequence)) => damaged(format!(
            "segment {} holds no frame {} at byte {offset}, but frame {sequence} at byte \
             {found_at}",
            segment.number,
            expected.map_or_else(String::new, |expected| expected.to_string()),
        )),
    }
}

/// Sorts a frame's records in; says whether one of them names the log.
fn read_frame<'a>(
    identity: LogIdentity,
    segment: &Segment<'a>,
    payload: &'a [u8],
    log: &mut Log<'a>,
) -> Result<bool, ReadError> {
    let mut reader = Reader(payload);
    let mut is_named = false;
    while !reader.0.is_empty() {
        let Some((shard, record)) = record::next(&mut reader) else {
            return damaged(format!("segment {} holds an unknown record", segment.number));
        };
        if let Record::Segment(found) = record {
            if found != identity {
                return Err(ReadError::Foreign(format!("{found:?} and not to {identity:?}")));
            }
            is_named = true;
            continue;
        }
        if let Record::CheckpointBegin(begin) = &record {
            log.next_generation = log.next_generation.max(begin.generation + 1);
        }
        let known = log
            .shards
            .entry(shard)
            .or_insert_with(|| ShardLog { start: segment.number, ..ShardLog::default() });
        if let Err(what) = known.take(segment.number, record) {
            return damaged(format!("shard {shard}: {what}"));
        }
    }
    Ok(is_named)
}

impl<'a> ShardLog<'a> {
    fn take(&mut self, segment: u64, record: Record<'a>) -> Result<(), &'static str> {
        match record {
            Record::Segment(_) => {}
            Record::Replica(record) => {
                if self.record.as_ref().is_none_or(|known| known.id != record.id) {
                    *self = ShardLog { start: segment, ..ShardLog::default() };
                }
                self.record = Some(record);
            }
            Record::HardState(state) => self.hard_state = state,
            Record::Entries(entries) => {
                for entry in entries {
                    self.take_entry(entry.ok_or("an entry is cut short")?);
                }
            }
            Record::CheckpointBegin(begin) => {
                // One that replaces the log under another id does so when it is whole: until then
                // the former replica is what there is.
                let is_first = match &self.record {
                    None => true,
                    Some(known) => known.id != begin.id && !begin.replaces_log,
                };
                if is_first {
                    let stage = Stage::Member(begin.formation.clone());
                    let record = Some(ReplicaRecord { id: begin.id, stage });
                    *self = ShardLog { start: segment, record, ..ShardLog::default() };
                }
                self.unfinished = Some(Checkpoint { begin, segment, chunks: Vec::new() });
            }
            Record::CheckpointChunk(generation, bytes) => {
                if let Some(unfinished) = &mut self.unfinished
                    && unfinished.begin.generation == generation
                {
                    unfinished.chunks.push(bytes);
                }
            }
            Record::CheckpointEnd(generation) => {
                let is_its_end =
                    |checkpoint: &mut Checkpoint<'_>| checkpoint.begin.generation == generation;
                if let Some(checkpoint) = self.unfinished.take_if(is_its_end) {
                    self.finish(checkpoint);
                }
            }
        }
        Ok(())
    }

    /// Adds an entry; what stood at its index and after is gone. Where it does not join on to
    /// what is there, that is a rest of before a checkpoint, and of no use.
    fn take_entry(&mut self, entry: EntryRef<'a>) {
        while self.entries.back().is_some_and(|last| last.index >= entry.index) {
            self.entries.pop_back();
        }
        if self.entries.back().is_some_and(|last| last.index + 1 != entry.index) {
            self.entries.clear();
        }
        self.entries.push_back(entry);
    }

    fn finish(&mut self, checkpoint: Checkpoint<'a>) {
        let applied = checkpoint.begin.applied.0.0;
        if checkpoint.begin.replaces_log {
            self.entries.clear();
        }
        if self.record.as_ref().is_some_and(|known| known.id != checkpoint.begin.id) {
            self.hard_state = HardState::default();
        }
        while self.entries.front().is_some_and(|first| first.index <= applied) {
            self.entries.pop_front();
        }
        let formation = checkpoint.begin.formation.clone();
        self.record =
            Some(ReplicaRecord { id: checkpoint.begin.id, stage: Stage::Member(formation) });
        self.start = checkpoint.segment;
        self.checkpoint = Some(checkpoint);
    }

    /// Builds the replica.
    fn restore(&self, config: &CoreConfig) -> Result<Option<RecoveredReplica>, String> {
        let Some(record) = self.record.clone() else {
            return Err("it has records, but no replica".into());
        };
        let settings = StoreSettings::of(config);
        let (applied, conf_state, store) = match (&self.checkpoint, &record.stage) {
            (Some(checkpoint), _) => {
                let store = restore_store(&checkpoint.chunks, settings)?;
                (checkpoint.begin.applied, checkpoint.begin.conf_state.clone(), store)
            }
            (None, Stage::Member(formation)) => {
                let voters = formation.members.iter().map(|id| id.0).collect();
                let conf_state = ConfState { voters, ..ConfState::default() };
                (FORMATION, conf_state, Store::new(settings))
            }
            (None, Stage::Outsider(_) | Stage::Newcomer) => {
                ((Index(0), Term(0)), ConfState::default(), Store::new(settings))
            }
        };
        let mut replica = RecoveredReplica {
            record,
            hard_state: self.hard_state.clone(),
            applied,
            conf_state,
            entries: Vec::new(),
            store: Box::new(store),
        };
        let last = self.entries.back().map_or(applied.0.0, |last| last.index);
        let first = self.entries.front().map_or(applied.0.0 + 1, |first| first.index);
        if first != applied.0.0 + 1 {
            return Err(format!("entries begin at {first} behind index {}", applied.0));
        }
        let hard_state = &mut replica.hard_state;
        hard_state.commit = hard_state.commit.max(applied.0.0);
        hard_state.term = hard_state.term.max(applied.1.0);
        if hard_state.commit > last {
            return Err(format!(
                "entries up to {} are committed, and {last} is the last",
                hard_state.commit
            ));
        }
        replica.replay(&self.entries)?;
        Ok(Some(replica))
    }
}

fn restore_store(chunks: &[&[u8]], settings: StoreSettings) -> Result<Store, String> {
    let length = chunks.iter().map(|chunk| chunk.len()).sum();
    let mut restorer = Restorer::with_hint(settings, length);
    for chunk in chunks {
        restorer.feed(chunk).map_err(|error| error.to_string())?;
    }
    restorer.finish().map_err(|error| error.to_string())
}

impl RecoveredReplica {
    /// The formation it is part of.
    pub fn formation(&self) -> Option<&Formation> {
        match &self.record.stage {
            Stage::Member(formation) => Some(formation),
            Stage::Outsider(_) | Stage::Newcomer => None,
        }
    }

    /// Applies the entries that are known to be committed; keeps the rest.
    fn replay(&mut self, entries: &VecDeque<EntryRef<'_>>) -> Result<(), String> {
        let epoch = self.formation().map_or(0, |formation| formation.epoch);
        self.store.expect_keys(new_keys_at_most(entries, self.hard_state.commit));
        for entry in entries {
            if entry.index > self.hard_state.commit {
                self.entries.push(entry.to_entry());
                continue;
            }
            match entry.entry_type {
                EntryType::EntryNormal if entry.data.is_empty() => {}
                EntryType::EntryNormal => self.replay_commands(epoch, entry)?,
                EntryType::EntryConfChange => {
                    let change: ConfChange = prost_011::Message::decode(entry.data)
                        .map_err(|error| format!("entry {}: {error}", entry.index))?;
                    change_members(&mut self.conf_state, &change);
                }
                EntryType::EntryConfChangeV2 => {
                    return Err(format!("entry {} changes several members", entry.index));
                }
            }
            self.applied = (Index(entry.index), Term(entry.term));
        }
        self.store.expect_no_more_keys();
        Ok(())
    }

    fn replay_commands(&mut self, epoch: u64, entry: &EntryRef<'_>) -> Result<(), String> {
        let reader = EntryReader::new(entry.data)
            .map_err(|error| format!("entry {} cannot be read: {error}", entry.index))?;
        upkeep::begin_entry(&mut self.store, reader.opening(), reader.len());
        for (ordinal, command) in reader.commands().enumerate() {
            let version = Version::new(epoch, Index(entry.index), ordinal);
            self.store.apply(version, &command, Answer::Unwanted);
        }
        Ok(())
    }

    /// Writes everything of the replica into a fresh log; `pump` carries out what has gathered.
    pub(super) fn write<E>(
        &mut self,
        shard: ShardId,
        writer: &mut Writer,
        pump: &mut dyn FnMut(&mut Writer) -> Result<(), E>,
    ) -> Result<(), E> {
        let Stage::Member(formation) = &self.record.stage else {
            writer.replica(shard, &self.record);
            writer.hard_state(shard, &self.hard_state);
            return pump(writer);
        };
        let head = CheckpointHead {
            id: self.record.id,
            formation: formation.clone(),
            applied: self.applied,
            conf_state: self.conf_state.clone(),
            hard_state: self.hard_state.clone(),
        };
        let generation = writer.begin_checkpoint(shard, &head, self.entries.iter());
        self.store.begin_snapshot();
        let mut progress = SnapshotProgress::More;
        while progress == SnapshotProgress::More {
            writer.checkpoint_chunk(shard, generation, |out| {
                progress = self.store.snapshot_chunk(out, CHUNK_BYTES);
            });
            pump(writer)?;
        }
        writer.end_checkpoint(shard, generation);
        pump(writer)
    }
}

/// About how many commands there are in the entries up to `commit`, by a sample of them. Bounded
/// by their bytes, so that what is reserved for it is less than a quarter of the log.
fn new_keys_at_most(entries: &VecDeque<EntryRef<'_>>, commit: u64) -> usize {
    let committed = || entries.iter().take_while(|entry| entry.index <= commit);
    let bytes: usize = committed().map(|entry| entry.data.len()).sum();
    let (mut sample_bytes, mut sample_commands) = (0, 0);
    for entry in entries.iter().step_by(entries.len() / SAMPLED_ENTRIES + 1) {
        let commands = EntryReader::new(entry.data).map_or(0, |reader| reader.len());
        sample_commands += commands;
        sample_bytes += entry.data.len();
    }
    let command_bytes = sample_bytes.checked_div(sample_commands).unwrap_or(usize::MAX);
    bytes / command_bytes.max(COMMAND_BYTES_MIN)
}

/// Applies a simple change, as raft-rs does.
fn change_members(conf_state: &mut ConfState, change: &ConfChange) {
    let id = change.node_id;
    conf_state.voters.retain(|&voter| voter != id);
    conf_state.learners.retain(|&learner| learner != id);
    match change.get_change_type() {
        ConfChangeType::AddNode => conf_state.voters.push(id),
        ConfChangeType::AddLearnerNode => conf_state.learners.push(id),
        ConfChangeType::RemoveNode => {}
    }
}

impl Log<'_> {
    /// The shards it knows of.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.shards.keys().copied()
    }

    /// Builds the replicas: in time and memory in proportion to the log.
    ///
    /// # Errors
    /// If what the log holds does not fit together.
    pub fn restore(&self, config: &CoreConfig) -> Result<Recovered, ReadError> {
        let mut replicas = BTreeMap::new();
        for (&shard, known) in &self.shards {
            match known.restore(config) {
                Ok(Some(replica)) => {
                    replicas.insert(shard, replica);
                }
                Ok(None) => {}
                Err(what) => return damaged(format!("shard {shard}: {what}")),
            }
        }
        Ok(Recovered {
            replicas,
            starts: self.shards.iter().map(|(&shard, known)| (shard, known.start)).collect(),
            segments: self.segments.clone(),
            last_segment: self.segments.last().map_or(0, |(number, _)| *number),
            next_sequence: self.next_sequence,
            next_generation: self.next_generation,
        })
    }
}
