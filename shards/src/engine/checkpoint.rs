//! Checkpoints of the core's own replicas, into its log.
//!
//! The shard that holds the oldest segment goes first, until the log is short enough again. A
//! chunk goes with each write, and a completed write asks for the next, so that the disk sets the
//! pace and nobody waits behind more than one chunk.

use super::Core;
use super::homes::{Home, Member};
use super::journal::CheckpointUnderWay;
use crate::store::SnapshotProgress;
use crate::wal::{ReplicaRecord, Stage};

/// Bytes of a checkpoint that go with one write, about.
const CHUNK_BYTES: usize = 128 << 10;

impl Core {
    /// Once per tick: begins a checkpoint if the log has outgrown what the stores hold.
    pub(super) fn tick_journal(&mut self) {
        if self.journal.writer().is_none() {
            return;
        }
        let stores = self.homes.iter().flatten().map(|home| match &home.member {
            Member::Replica(replica) => replica.store().bytes(),
            Member::Outsider(_) => 0,
        });
        let store_bytes = stores.sum();
        if self.journal.tick(store_bytes, self.config.segment_bytes) {
            self.begin_checkpoint();
        }
    }

    fn begin_checkpoint(&mut self) {
        let Some(writer) = self.journal.writer() else { return };
        let Some(shard) = writer.oldest_shard() else { return };
        let Some(Some(home)) = self.homes.get_mut(usize::from(shard.0)) else { return };
        let head = match &mut home.member {
            Member::Replica(replica) => replica.begin_checkpoint(),
            Member::Outsider(_) => None,
        };
        match (&mut home.member, head) {
            (Member::Replica(replica), Some(head)) => {
                let generation = replica
                    .with_unapplied(|entries| writer.begin_checkpoint(shard, &head, entries));
                self.journal.checkpoint = Some(CheckpointUnderWay { shard, generation });
            }
            (Member::Replica(replica), None) if replica.formation().is_some() => {
                // Its snapshot is on its way to another replica: at another tick.
            }
            _ => {
                if let Some(record) = record_of(home) {
                    writer.restate(shard, &record);
                }
            }
        }
    }

    /// Adds the next chunk of the checkpoint under way, unless a write is.
    pub(super) fn pump_checkpoint(&mut self) {
        let Some(CheckpointUnderWay { shard, generation }) = self.journal.checkpoint else {
            return;
        };
        let is_idle = self.journal.writer().is_some_and(|writer| !writer.is_busy());
        if !is_idle {
            return;
        }
        let Some(writer) = self.journal.writer() else { return };
        let mut progress = SnapshotProgress::Abandoned;
        if let Some(Some(Home { member: Member::Replica(replica), .. })) =
            self.homes.get_mut(usize::from(shard.0))
        {
            writer.checkpoint_chunk(shard, generation, |out| {
                progress = replica.snapshot_chunk(out, CHUNK_BYTES);
            });
        }
        match progress {
            SnapshotProgress::More => {}
            SnapshotProgress::Done => {
                writer.end_checkpoint(shard, generation);
                self.journal.checkpoint = None;
            }
            SnapshotProgress::Abandoned => {
                writer.abandon_checkpoint(shard, generation);
                self.journal.checkpoint = None;
            }
        }
        if let Some(writer) = self.journal.writer() {
            writer.want();
        }
    }
}

/// What the log must know of a replica that has no state yet.
fn record_of(home: &Home) -> Option<ReplicaRecord> {
    let stage = match &home.member {
        Member::Outsider(outsider) => Stage::Outsider(outsider.promised()?.clone()),
        Member::Replica(_) => Stage::Newcomer,
    };
    Some(ReplicaRecord { id: home.id, stage })
}
