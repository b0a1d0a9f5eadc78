//! What waits for the core's log: readies of replicas, and promises of outsiders.
//!
//! With [`Durability::Memory`](crate::contract::Durability) there is no log, and nothing waits.
//! Otherwise the records of a turn go to the [`Writer`], and whoever must not act before they are
//! durable waits here. Writes complete in order, and therefore so do those who wait.
//!
//! It also decides when a shard's checkpoint is due: when the log has outgrown the stores. One is
//! made at a time, a chunk per write, so that it never holds up what somebody waits for by more
//! than a chunk.

use std::collections::VecDeque;

use super::frames::Message;
use super::replica::Persisting;
use crate::contract::{CoreConfig, DiskOperation, Durability};
use crate::ids::{NodeId, ShardId};
use crate::wal::{BatchNumber, Recovered, Writer};

/// A log of fewer segments than this is never too long.
const SEGMENTS_MIN: u64 = 4;
/// The log may grow to so many times what the stores hold. Each checkpoint of everything then
/// makes room for as much new data as it costs itself.
const GROWTH: u64 = 2;
/// Ticks for which a write may be under way before this core hands its leaderships over (500 ms):
/// nothing that it proposes can be applied before its own disk has it.
const STALLED_TICKS: u32 = 10;

/// Something to be done when a write is durable.
#[derive(Debug)]
pub enum Waiting {
    /// A ready of a replica.
    Ready(Persisting),
    /// A message of an outsider that binds it.
    Formation(ShardId, NodeId, Message<'static>),
}

/// A checkpoint under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointUnderWay {
    /// Whose.
    pub shard: ShardId,
    /// Its name in the log.
    pub generation: u64,
}

/// See the module's description.
#[derive(Debug)]
pub struct Journal {
    writer: Option<Writer>,
    waiting: VecDeque<(BatchNumber, Waiting)>,
    /// The checkpoint under way.
    pub checkpoint: Option<CheckpointUnderWay>,
    busy_ticks: u32,
}

impl Journal {
    /// The journal of a core whose log goes on behind `recovered`.
    pub fn new(config: &CoreConfig, recovered: &Recovered) -> Self {
        let writer = match config.durability {
            Durability::Memory => None,
            Durability::Fsync => Some(Writer::resume(config.log, config.segment_bytes, recovered)),
        };
        Journal { writer, waiting: VecDeque::new(), checkpoint: None, busy_ticks: 0 }
    }

    /// The log, if there is one.
    pub fn writer(&mut self) -> Option<&mut Writer> {
        self.writer.as_mut()
    }

    /// Lets `waiting` wait until everything added so far is durable.
    pub fn wait(&mut self, waiting: Waiting) {
        if let Some(writer) = &mut self.writer {
            writer.want();
            self.waiting.push_back((writer.batch(), waiting));
        }
    }

    /// Lets `waiting` wait for those who wait already, and no longer.
    pub fn wait_behind(&mut self, waiting: Waiting) {
        match self.waiting.back() {
            Some((batch, _)) => self.waiting.push_back((*batch, waiting)),
            None => self.wait(waiting),
        }
    }

    /// Takes the completion of a write; returns how many of those who wait may go on.
    pub fn complete(&mut self, id: u64) -> usize {
        let Some(writer) = &mut self.writer else {
            panic!("disk operation {id} completed, and there is no log")
        };
        let durable = writer.complete(id);
        self.busy_ticks = 0;
        self.waiting.iter().take_while(|(batch, _)| *batch <= durable).count()
    }

    /// Whether a write is under way.
    pub fn is_busy(&self) -> bool {
        self.writer.as_ref().is_some_and(Writer::is_busy)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes that are not under way to the disk yet.
    pub fn unwritten_bytes(&self) -> usize {
        self.writer.as_ref().map_or(0, Writer::unwritten_bytes)
    }

    /// Takes out who has waited longest.
    pub fn next_ripe(&mut self) -> Option<Waiting> {
        self.waiting.pop_front().map(|(_, waiting)| waiting)
    }

    /// Once per tick, with what the core's stores hold in all. Says whether a checkpoint is due.
    pub fn tick(&mut self, store_bytes: u64, segment_bytes: u64) -> bool {
        let Some(writer) = &mut self.writer else { return false };
        writer.tick();
        self.busy_ticks = match writer.is_busy() {
            true => self.busy_ticks.saturating_add(1),
            false => 0,
        };
        let allowed = (GROWTH * store_bytes).max(SEGMENTS_MIN * segment_bytes);
        self.checkpoint.is_none() && writer.live_bytes() > allowed
    }

    /// Whether the disk has not answered for so long that others should lead.
    pub fn is_stalled(&self) -> bool {
        self.busy_ticks >= STALLED_TICKS
    }

    /// Hands what is wanted and possible to the driver. `spare` is memory for later records.
    pub fn flush(&mut self, disk: &mut Vec<DiskOperation>, spare: &mut Vec<Vec<u8>>) {
        let Some(writer) = &mut self.writer else { return };
        if let Some(write) = writer.next_write() {
            disk.push(write);
            writer.recycle(spare.pop().unwrap_or_default());
        }
        disk.extend(writer.release());
    }
}
