//! The write-ahead log of one core: its format, its writer, and what comes out of it after a crash.
//!
//! All replicas of a core share one log, so that a turn costs one write however many shards it
//! touched. The engine decides every byte and where it goes; the driver only carries out
//! [`DiskOperation`](crate::contract::DiskOperation)s. Reading is a pure function of the bytes, so
//! that the simulator can crash a core at any point and damage what it likes.
//!
//! # Format
//!
//! A log is a row of *segments* with ascending numbers. A segment is a row of *frames*, each
//! beginning at a block boundary, little-endian: magic (4 bytes), length without padding (4),
//! CRC32C of everything after it (4), zero (4), segment number (8), sequence (8), payload, zeros up
//! to the next block. The payload is a row of records: kind (1), shard (2), length (4), content
//! ([`record`]). The first frame of each
//! segment has a record that says whose log it is. Sequences count frames
//! over the whole log. Frames of a file's former life carry another segment number, so that
//! recycled files need no wiping.
//!
//! # What a crash may leave
//!
//! One frame is written at a time, and the next only when it is durable. An invalid frame with
//! nothing valid after it is therefore a write that nobody was told of: the *torn tail*, which is
//! cut. An invalid frame before a valid one was durable once: *damage*, and the log is refused,
//! since a replica that forgot what it acknowledged could elect a leader that never knew it. So
//! that the last frame of a quiet log is not mistaken for a torn one, an empty frame, the *seal*,
//! follows it after a tick. After a restart the writer begins a new segment; nothing is ever
//! written behind a torn tail.
//!
//! # Checkpoints
//!
//! A replica's state goes into the same log, in chunks between other records, as of its applied
//! index; with it everything else that is needed of the replica from there on. When it is
//! complete, what the log holds of that replica from before is of no use, and segments that are of
//! no use to anybody are released. There are no snapshot files, and no second way to be consistent.

pub mod record;
mod recovery;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

pub use record::{ReplicaRecord, Stage};
pub use recovery::{Log, ReadError, Recovered, RecoveredReplica, Segment, read};
pub use writer::{BatchNumber, CheckpointHead, Writer, rewrite};

use crate::defect::{self, Defect};
use crate::ids::{CoreIndex, NodeId};

/// Frames begin at multiples of this many bytes, and writes are as many long.
pub const BLOCK_BYTES: usize = 4096;
/// Bytes of a segment unless configured otherwise. A frame that is longer gets one of its own.
pub const SEGMENT_BYTES: u64 = 16 << 20;

/// The version of the format described above.
const FORMAT_VERSION: u32 = 1;
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"CRFR");
/// Bytes of a frame before its payload.
const FRAME_HEADER_BYTES: usize = 32;
/// Where in a frame the part begins that its checksum covers.
const CHECKED_FROM: usize = 12;

/// Whose log it is. A log that says something else is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// Stands for the cluster's fixed settings: members and shards.
    pub cluster: u64,
    /// The node.
    pub node: NodeId,
    /// Which layout of the node's shards over its cores the log is part of. Counted up when the
    /// number of cores changes.
    pub layout: u64,
    /// The core.
    pub core: CoreIndex,
}

/// `length` rounded up to whole blocks.
const fn whole_blocks(length: usize) -> usize {
    length.next_multiple_of(BLOCK_BYTES)
}

/// The layout that counts among the complete ones. Of two, the later was written from the earlier,
/// which only a crash has kept from being removed.
pub fn current_layout(complete: impl Iterator<Item = u64>) -> Option<u64> {
    match defect::is(Defect::OldLayoutReadAgain) {
        true => complete.min(),
        false => complete.max(),
    }
}
