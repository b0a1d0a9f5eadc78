//! Gathers records into frames, and frames into segments.
//!
//! Records that nobody waits for (a commit index that rose, chunks of a checkpoint) wait for the
//! next frame that somebody does wait for, or for the next tick. What has been gathered and not
//! written is bounded by what the engine has under way: entries by the replicas' own limits,
//! checkpoints by one chunk per frame, and received snapshots by their size.
//!
//! The hot path, per turn of a core: [`Writer::entries`], [`Writer::next_write`] and
//! [`Writer::release`]. What must not be added there: anything that visits every shard, a second
//! copy of an entry's bytes.
//!
//! Invariants: one write is under way at most; frames are written in the order of their sequences;
//! a frame that has begun to be written is never touched again.

use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb::{ConfState, Entry, HardState};

use super::record::{self, CheckpointRecord};
use super::recovery::{Recovered, RecoveredReplica};
use super::{
    BLOCK_BYTES, CHECKED_FROM, FRAME_HEADER_BYTES, FRAME_MAGIC, LogIdentity, ReplicaRecord,
    whole_blocks,
};
use crate::contract::DiskOperation;
use crate::ids::{Formation, Index, ReplicaId, ShardId, Term};

/// A frame that has come to this many bytes is closed, and records go into the next. It bounds
/// how long other shards' records wait behind one shard's.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// What the record that names a segment adds to its first frame, at most.
const SEGMENT_RECORD_BYTES: usize = 64;
/// Bytes of a checkpoint's chunk where it is cut from a whole.
const CHUNK_BYTES: usize = 256 << 10;

/// A frame by its sequence. Records handed over now are durable when this frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchNumber(pub u64);

/// What a checkpoint says about its replica, beside the store.
#[derive(Clone, Debug)]
pub struct CheckpointHead {
    /// The replica.
    pub id: ReplicaId,
    /// The formation it is part of.
    pub formation: Formation,
    /// The applied index and its term.
    pub applied: (Index, Term),
    /// The members as of the applied index.
    pub conf_state: ConfState,
    /// Term, vote and commit index.
    pub hard_state: HardState,
}

/// A checkpoint that is not durable yet.
#[derive(Debug)]
struct Checkpoint {
    shard: ShardId,
    generation: u64,
    /// The frame with its beginning, and the segment of that frame once it is known.
    begins: (BatchNumber, Option<u64>),
    /// The frame with its end, once there is one.
    ends: Option<BatchNumber>,
}

/// The end of a core's log.
#[derive(Debug)]
pub struct Writer {
    identity: LogIdentity,
    segment_bytes: u64,
    /// The segment that is being written, its length, and how far it is written.
    segment: u64,
    length: u64,
    offset: u64,
    /// Payloads that are not under way, each behind room for a frame's header. The last is open.
    batches: VecDeque<Vec<u8>>,
    /// The sequence of the first of them.
    first: BatchNumber,
    /// Somebody waits for frames up to this one.
    wanted: Option<BatchNumber>,
    under_way: Option<(u64, BatchNumber)>,
    next_operation: u64,
    /// Whether the last frame written has records, so that a seal must follow it.
    is_unsealed: bool,
    /// The first segment that each shard needs.
    starts: BTreeMap<ShardId, u64>,
    /// Shards whose first record is in a frame that is not written yet.
    unplaced: Vec<ShardId>,
    checkpoints: Vec<Checkpoint>,
    next_generation: u64,
    /// Lengths of the segments that were not released.
    segments: VecDeque<(u64, u64)>,
    /// Whether anything has changed that may let segments go.
    may_release: bool,
    spare: Vec<u8>,
}

impl Writer {
    /// The writer of a log that is empty, or goes on behind what `recovered` was read from.
    pub fn resume(identity: LogIdentity, segment_bytes: u64, recovered: &Recovered) -> Self {
        Writer {
            identity,
            segment_bytes,
            segment: recovered.last_segment,
            length: 0,
            offset: 0,
            batches: VecDeque::from([vec![0; FRAME_HEADER_BYTES]]),
            first: BatchNumber(recovered.next_sequence),
            wanted: None,
            under_way: None,
            next_operation: 1,
            is_unsealed: false,
            starts: recovered.starts.clone(),
            unplaced: Vec::new(),
            checkpoints: Vec::new(),
            next_generation: recovered.next_generation,
            segments: recovered.segments.iter().copied().collect(),
            may_release: true,
            spare: Vec::new(),
        }
    }

    /// The open batch: records go here.
    fn open(&mut self, shard: ShardId) -> &mut Vec<u8> {
        if !self.starts.contains_key(&shard) && !self.unplaced.contains(&shard) {
            self.unplaced.push(shard);
        }
        let is_full = self.batches.back().is_none_or(|batch| batch.len() >= FRAME_BYTES_MAX);
        if is_full {
            self.batches.push_back(vec![0; FRAME_HEADER_BYTES]);
        }
        let last = self.batches.len() - 1;
        &mut self.batches[last]
    }

    /// The frame that the last record went into.
    pub fn batch(&self) -> BatchNumber {
        BatchNumber(self.first.0 + self.batches.len() as u64 - 1)
    }

    /// Bytes of records that wait to be written.
    pub fn unwritten_bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.len() - FRAME_HEADER_BYTES).sum()
    }

    /// Whether something waits to be written.
    fn has_records(&self) -> bool {
        self.batches.iter().any(|batch| batch.len() > FRAME_HEADER_BYTES)
    }

    /// Says who the replica of `shard` is. What the log holds of a former one is of no use then.
    pub fn replica(&mut self, shard: ShardId, record: &ReplicaRecord) {
        record::push_replica(self.open(shard), shard, record);
    }

    /// Adds term, vote and commit index.
    pub fn hard_state(&mut self, shard: ShardId, state: &HardState) {
        record::push_hard_state(self.open(shard), shard, state);
    }

    /// Adds entries, which replace what stands at their indices and after.
    pub fn entries<'e>(&mut self, shard: ShardId, entries: impl Iterator<Item = &'e Entry>) {
        record::push_entries(self.open(shard), shard, entries);
    }

    /// Begins a checkpoint: what follows the head are the entries behind the applied index.
    /// Returns its generation, which names it. It takes the place of an unfinished one.
    pub fn begin_checkpoint<'e>(
        &mut self,
        shard: ShardId,
        head: &CheckpointHead,
        entries: impl Iterator<Item = &'e Entry>,
    ) -> u64 {
        let generation = self.begin(shard, head, false);
        self.hard_state(shard, &head.hard_state);
        self.entries(shard, entries);
        generation
    }

    fn begin(&mut self, shard: ShardId, head: &CheckpointHead, replaces_log: bool) -> u64 {
        let generation = self.next_generation;
        self.next_generation += 1;
        let begin = CheckpointRecord {
            generation,
            applied: head.applied,
            replaces_log,
            id: head.id,
            formation: head.formation.clone(),
            conf_state: head.conf_state.clone(),
        };
        record::push_checkpoint_begin(self.open(shard), shard, &begin);
        self.checkpoints.retain(|checkpoint| checkpoint.shard != shard);
        self.may_release = true;
        let begins = (self.batch(), None);
        self.checkpoints.push(Checkpoint { shard, generation, begins, ends: None });
        generation
    }

    /// Adds a chunk of the store's snapshot to a checkpoint, which `fill` appends.
    pub fn checkpoint_chunk(
        &mut self,
        shard: ShardId,
        generation: u64,
        fill: impl FnOnce(&mut Vec<u8>),
    ) {
        record::push_checkpoint_chunk(self.open(shard), shard, generation, fill);
    }

    /// Ends a checkpoint.
    pub fn end_checkpoint(&mut self, shard: ShardId, generation: u64) {
        record::push_checkpoint_end(self.open(shard), shard, generation);
        let batch = self.batch();
        for checkpoint in &mut self.checkpoints {
            if (checkpoint.shard, checkpoint.generation) == (shard, generation) {
                checkpoint.ends = Some(batch);
            }
        }
    }

    /// Gives an unfinished checkpoint of `shard` up.
    pub fn abandon_checkpoint(&mut self, shard: ShardId, generation: u64) {
        self.checkpoints.retain(|known| (known.shard, known.generation) != (shard, generation));
        self.may_release = true;
    }

    /// Adds a snapshot that came from another replica and takes the place of the whole log.
    pub fn replace(&mut self, shard: ShardId, head: &CheckpointHead, snapshot: &[u8]) {
        let generation = self.begin(shard, head, true);
        for chunk in snapshot.chunks(CHUNK_BYTES) {
            self.checkpoint_chunk(shard, generation, |out| out.extend_from_slice(chunk));
        }
        self.end_checkpoint(shard, generation);
        self.hard_state(shard, &head.hard_state);
    }

    /// Somebody waits for everything that was added.
    pub fn want(&mut self) {
        self.wanted = Some(self.batch());
    }

    /// Once per tick: what nobody waits for is written too, and a quiet log sealed.
    pub fn tick(&mut self) {
        if self.wanted.is_none() && (self.has_records() || self.is_unsealed) {
            self.want();
        }
    }

    /// Whether a write is under way.
    pub fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// The next write, if one is wanted and none is under way. `spare` becomes the next batch.
    pub fn next_write(&mut self) -> Option<DiskOperation> {
        let wanted = self.wanted?;
        if self.under_way.is_some() {
            return None;
        }
        let batch = self.first;
        let mut bytes = self.batches.pop_front()?;
        self.first = BatchNumber(batch.0 + 1);
        if self.batches.is_empty() {
            let mut next = std::mem::take(&mut self.spare);
            next.clear();
            next.resize(FRAME_HEADER_BYTES, 0);
            self.batches.push_back(next);
        }
        if wanted <= batch {
            self.wanted = None;
        }
        self.is_unsealed = bytes.len() > FRAME_HEADER_BYTES;
        self.place(&mut bytes);
        for checkpoint in &mut self.checkpoints {
            if checkpoint.begins.0 == batch {
                checkpoint.begins.1 = Some(self.segment);
            }
        }
        self.may_release |= !self.unplaced.is_empty();
        for shard in self.unplaced.drain(..) {
            self.starts.entry(shard).or_insert(self.segment);
        }
        let offset = self.offset;
        seal(&mut bytes, self.segment, batch);
        self.offset += bytes.len() as u64;
        let id = self.next_operation;
        self.next_operation += 1;
        self.under_way = Some((id, batch));
        let (segment, segment_bytes) = (self.segment, self.length);
        Some(DiskOperation::Write { id, segment, segment_bytes, offset, bytes })
    }

    /// Finds the place of a frame; where it does not fit any more, a new segment begins with it.
    fn place(&mut self, bytes: &mut Vec<u8>) {
        if self.offset + whole_blocks(bytes.len()) as u64 <= self.length {
            return;
        }
        let needed = whole_blocks(bytes.len() + SEGMENT_RECORD_BYTES) as u64;
        self.length = needed.max(self.segment_bytes.next_multiple_of(BLOCK_BYTES as u64));
        self.segment += 1;
        self.may_release = true;
        self.offset = 0;
        self.segments.push_back((self.segment, self.length));
        record::push_segment(bytes, self.identity);
    }

    /// Takes the completion of the write `id`: everything up to the returned frame is durable.
    ///
    /// # Panics
    /// If another write was under way: the driver must report each once, in order.
    pub fn complete(&mut self, id: u64) -> BatchNumber {
        let (expected, batch) = match self.under_way.take() {
            Some(under_way) => under_way,
            None => panic!("disk operation {id} completed, and none was under way"),
        };
        assert_eq!(expected, id, "disk operations must complete in order");
        let mut complete = Vec::new();
        self.checkpoints.retain(|checkpoint| {
            let is_complete = checkpoint.ends.is_some_and(|end| end <= batch);
            if let (true, Some(segment)) = (is_complete, checkpoint.begins.1) {
                complete.push((checkpoint.shard, segment));
            }
            !is_complete
        });
        self.may_release |= !complete.is_empty();
        self.starts.extend(complete);
        batch
    }

    /// Gives the memory of a write back.
    pub fn recycle(&mut self, bytes: Vec<u8>) {
        if bytes.capacity() <= 2 * FRAME_BYTES_MAX {
            self.spare = bytes;
        }
    }

    /// Releases segments that nobody needs any more. It is called after every write; it looks at
    /// all shards only where a segment was begun, a shard came, or a checkpoint ended.
    pub fn release(&mut self) -> Option<DiskOperation> {
        if !std::mem::take(&mut self.may_release) {
            return None;
        }
        let unfinished = self.checkpoints.iter().filter_map(|checkpoint| checkpoint.begins.1);
        let before = self.starts.values().copied().chain(unfinished).min()?.min(self.segment);
        let count = self.segments.len();
        while self.segments.front().is_some_and(|(number, _)| *number < before) {
            self.segments.pop_front();
        }
        (self.segments.len() < count).then_some(DiskOperation::Release { before })
    }

    /// Bytes of all segments that were not released.
    pub fn live_bytes(&self) -> u64 {
        self.segments.iter().map(|(_, length)| length).sum()
    }

    /// The shard that holds the oldest segment, unless that is the one being written.
    pub fn oldest_shard(&self) -> Option<ShardId> {
        let is_under_way =
            |shard: &ShardId| self.checkpoints.iter().any(|known| known.shard == *shard);
        let starts = self.starts.iter().filter(|(shard, _)| !is_under_way(shard));
        let (shard, start) = starts.min_by_key(|(shard, start)| (**start, **shard))?;
        (*start < self.segment).then_some(*shard)
    }

    /// Forgets what the log holds of `shard`, except for `record`, which is added anew.
    pub fn restate(&mut self, shard: ShardId, record: &ReplicaRecord) {
        self.checkpoints.retain(|checkpoint| checkpoint.shard != shard);
        self.may_release = true;
        self.replica(shard, record);
        let generation = self.next_generation;
        self.next_generation += 1;
        let batch = self.batch();
        let begins = (batch, None);
        self.checkpoints.push(Checkpoint { shard, generation, begins, ends: Some(batch) });
    }
}

/// Fills in the header, and zeros up to the next block.
fn seal(bytes: &mut Vec<u8>, segment: u64, batch: BatchNumber) {
    let length = bytes.len() as u32;
    bytes[0..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[12..16].copy_from_slice(&[0; 4]);
    bytes[16..24].copy_from_slice(&segment.to_le_bytes());
    bytes[24..32].copy_from_slice(&batch.0.to_le_bytes());
    let checksum = crc32c::crc32c_append(length, &bytes[CHECKED_FROM..]);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    bytes.resize(whole_blocks(bytes.len()), 0);
}

/// Writes a fresh log that holds `replicas` and nothing else: for a move to another number of
/// cores. Each operation must be carried out, durably, before `carry_out` returns.
///
/// # Errors
/// The first of `carry_out`; the log is of no use then.
pub fn rewrite<E>(
    identity: LogIdentity,
    segment_bytes: u64,
    replicas: &mut BTreeMap<ShardId, RecoveredReplica>,
    carry_out: &mut dyn FnMut(DiskOperation) -> Result<(), E>,
) -> Result<(), E> {
    let mut writer = Writer::resume(identity, segment_bytes, &Recovered::default());
    let mut pump = |writer: &mut Writer| {
        writer.want();
        while let Some(operation) = writer.next_write() {
            let DiskOperation::Write { id, .. } = operation else { continue };
            carry_out(operation)?;
            writer.complete(id);
        }
        Ok(())
    };
    for (&shard, replica) in replicas.iter_mut() {
        replica.write(shard, &mut writer, &mut pump)?;
    }
    // A log without records still says whose it is; and its end is sealed.
    pump(&mut writer)
}
