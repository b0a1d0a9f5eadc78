//! The records within the frames of a log.
//!
//! Kinds are persistent: a kind that this version does not know is damage, never skipped.

use raft::eraftpb::{ConfState, Entry, EntryType, HardState};

use super::LogIdentity;
use crate::ids::{CoreIndex, Formation, Index, NodeId, ReplicaId, ShardId, Term};
use crate::reader::Reader;

mod kind {
    pub const SEGMENT: u8 = 1;
    pub const REPLICA: u8 = 2;
    pub const HARD_STATE: u8 = 3;
    pub const ENTRIES: u8 = 4;
    pub const CHECKPOINT_BEGIN: u8 = 5;
    pub const CHECKPOINT_CHUNK: u8 = 6;
    pub const CHECKPOINT_END: u8 = 7;
}

mod stage {
    pub const OUTSIDER: u8 = 0;
    pub const MEMBER: u8 = 1;
    pub const NEWCOMER: u8 = 2;
}

/// How far a replica has come in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It has nothing, and has promised to stay empty for this formation.
    Outsider(Formation),
    /// It is part of the shard that was formed thus.
    Member(Formation),
    /// It waits to be taken into a shard.
    Newcomer,
}

/// Who a replica is. A record with another id than the one before ends the former replica: nothing
/// from before is its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaRecord {
    /// Its Raft id.
    pub id: ReplicaId,
    /// How far it has come.
    pub stage: Stage,
}

/// The beginning of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointRecord {
    /// Names the checkpoint among those of its shard in this log.
    pub generation: u64,
    /// The applied index and its term.
    pub applied: (Index, Term),
    /// Whether the log is replaced as a whole: what stands in it before the checkpoint's end is
    /// gone. Otherwise entries behind the applied index go on.
    pub replaces_log: bool,
    /// The replica.
    pub id: ReplicaId,
    /// The formation it is part of.
    pub formation: Formation,
    /// The members as of the applied index.
    pub conf_state: ConfState,
}

/// A record, borrowed from its frame.
#[derive(Debug)]
pub(super) enum Record<'a> {
    /// Whose log this is.
    Segment(LogIdentity),
    Replica(ReplicaRecord),
    HardState(HardState),
    Entries(EntryRefs<'a>),
    CheckpointBegin(CheckpointRecord),
    CheckpointChunk(u64, &'a [u8]),
    CheckpointEnd(u64),
}

/// Adds a record of any kind.
fn push(out: &mut Vec<u8>, kind: u8, shard: ShardId, content: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    out.extend_from_slice(&shard.0.to_le_bytes());
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    content(out);
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

fn push_words(out: &mut Vec<u8>, words: &[u64]) {
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

fn push_formation(out: &mut Vec<u8>, formation: &Formation) {
    out.extend_from_slice(&(formation.members.len() as u16).to_le_bytes());
    push_words(out, &[formation.epoch]);
    formation.members.iter().for_each(|member| push_words(out, &[member.0]));
}

pub(super) fn push_segment(out: &mut Vec<u8>, identity: LogIdentity) {
    push(out, kind::SEGMENT, ShardId(0), |out| {
        out.extend_from_slice(&super::FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&identity.node.0.to_le_bytes());
        out.extend_from_slice(&identity.core.0.to_le_bytes());
        push_words(out, &[identity.cluster, identity.layout]);
    });
}

pub(super) fn push_replica(out: &mut Vec<u8>, shard: ShardId, record: &ReplicaRecord) {
    push(out, kind::REPLICA, shard, |out| {
        push_words(out, &[record.id.0]);
        match &record.stage {
            Stage::Outsider(formation) => {
                out.push(stage::OUTSIDER);
                push_formation(out, formation);
            }
            Stage::Member(formation) => {
                out.push(stage::MEMBER);
                push_formation(out, formation);
            }
            Stage::Newcomer => out.push(stage::NEWCOMER),
        }
    });
}

pub(super) fn push_hard_state(out: &mut Vec<u8>, shard: ShardId, state: &HardState) {
    push(out, kind::HARD_STATE, shard, |out| {
        push_words(out, &[state.term, state.vote, state.commit]);
    });
}

pub(super) fn push_entries<'e>(
    out: &mut Vec<u8>,
    shard: ShardId,
    entries: impl Iterator<Item = &'e Entry>,
) {
    push(out, kind::ENTRIES, shard, |out| {
        for entry in entries {
            push_words(out, &[entry.index, entry.term]);
            out.push(entry.entry_type as u8);
            out.extend_from_slice(&(entry.data.len() as u32).to_le_bytes());
            out.extend_from_slice(&entry.data);
        }
    });
}

pub(super) fn push_checkpoint_begin(out: &mut Vec<u8>, shard: ShardId, begin: &CheckpointRecord) {
    push(out, kind::CHECKPOINT_BEGIN, shard, |out| {
        let (index, term) = begin.applied;
        push_words(out, &[begin.generation, index.0, term.0]);
        out.push(u8::from(begin.replaces_log));
        push_words(out, &[begin.id.0]);
        push_formation(out, &begin.formation);
        // Encoding into a vector only fails for lack of capacity, and a vector grows.
        let encoded = prost_011::Message::encode(&begin.conf_state, out);
        assert!(encoded.is_ok(), "a configuration did not encode into a vector");
    });
}

pub(super) fn push_checkpoint_chunk(
    out: &mut Vec<u8>,
    shard: ShardId,
    generation: u64,
    fill: impl FnOnce(&mut Vec<u8>),
) {
    push(out, kind::CHECKPOINT_CHUNK, shard, |out| {
        push_words(out, &[generation]);
        fill(out);
    });
}

pub(super) fn push_checkpoint_end(out: &mut Vec<u8>, shard: ShardId, generation: u64) {
    push(out, kind::CHECKPOINT_END, shard, |out| push_words(out, &[generation]));
}

/// The entries of a record, decoded one by one.
#[derive(Clone, Copy, Debug)]
pub(super) struct EntryRefs<'a>(Reader<'a>);

/// An entry, borrowed from its frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct EntryRef<'a> {
    pub index: u64,
    pub term: u64,
    pub entry_type: EntryType,
    pub data: &'a [u8],
}

impl EntryRef<'_> {
    pub fn to_entry(self) -> Entry {
        let mut entry = Entry {
            index: self.index,
            term: self.term,
            data: self.data.to_vec(),
            ..Entry::default()
        };
        entry.set_entry_type(self.entry_type);
        entry
    }
}

impl<'a> Iterator for EntryRefs<'a> {
    type Item = Option<EntryRef<'a>>;

    /// `Some(None)` where the bytes are no entry; the end follows.
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.0.is_empty() {
            return None;
        }
        let entry = decode_entry(&mut self.0);
        if entry.is_none() {
            self.0 = Reader(&[]);
        }
        Some(entry)
    }
}

fn decode_entry<'a>(reader: &mut Reader<'a>) -> Option<EntryRef<'a>> {
    let (index, term) = (reader.u64()?, reader.u64()?);
    let entry_type = EntryType::from_i32(i32::from(reader.u8()?))?;
    let length = reader.u32()? as usize;
    Some(EntryRef { index, term, entry_type, data: reader.take(length)? })
}

fn decode_formation(reader: &mut Reader<'_>) -> Option<Formation> {
    let count = reader.u16()?;
    let epoch = reader.u64()?;
    let members = (0..count).map(|_| reader.u64().map(ReplicaId)).collect::<Option<Vec<_>>>()?;
    (!members.is_empty()).then_some(Formation { epoch, members })
}

/// Takes the next record off `reader`, with its shard.
pub(super) fn next<'a>(reader: &mut Reader<'a>) -> Option<(ShardId, Record<'a>)> {
    let kind = reader.u8()?;
    let shard = ShardId(reader.u16()?);
    let length = reader.u32()? as usize;
    let mut content = Reader(reader.take(length)?);
    let record = decode(kind, &mut content)?;
    content.0.is_empty().then_some((shard, record))
}

fn decode<'a>(kind: u8, content: &mut Reader<'a>) -> Option<Record<'a>> {
    Some(match kind {
        kind::SEGMENT => {
            if content.u32()? != super::FORMAT_VERSION {
                return None;
            }
            let (node, core) = (NodeId(content.u16()?), CoreIndex(content.u16()?));
            let (cluster, layout) = (content.u64()?, content.u64()?);
            Record::Segment(LogIdentity { cluster, node, layout, core })
        }
        kind::REPLICA => {
            let id = ReplicaId(content.u64()?);
            let stage = match content.u8()? {
                stage::OUTSIDER => Stage::Outsider(decode_formation(content)?),
                stage::MEMBER => Stage::Member(decode_formation(content)?),
                stage::NEWCOMER => Stage::Newcomer,
                _ => return None,
            };
            Record::Replica(ReplicaRecord { id, stage })
        }
        kind::HARD_STATE => {
            let (term, vote, commit) = (content.u64()?, content.u64()?, content.u64()?);
            Record::HardState(HardState { term, vote, commit })
        }
        kind::ENTRIES => Record::Entries(EntryRefs(Reader(content.rest()))),
        kind::CHECKPOINT_BEGIN => {
            let generation = content.u64()?;
            let applied = (Index(content.u64()?), Term(content.u64()?));
            let replaces_log = content.u8()? != 0;
            let id = ReplicaId(content.u64()?);
            let formation = decode_formation(content)?;
            let conf_state = prost_011::Message::decode(content.rest()).ok()?;
            Record::CheckpointBegin(CheckpointRecord {
                generation,
                applied,
                replaces_log,
                id,
                formation,
                conf_state,
            })
        }
        kind::CHECKPOINT_CHUNK => Record::CheckpointChunk(content.u64()?, content.rest()),
        kind::CHECKPOINT_END => Record::CheckpointEnd(content.u64()?),
        _ => return None,
    })
}
