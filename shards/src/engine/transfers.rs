//! Snapshots on their way to and from other replicas, in chunks on the bulk lane.
//!
//! A snapshot is serialized when raft-rs decides to send one, at the applied index of that moment,
//! and then leaves in chunks with a window of unacknowledged bytes, a few snapshots per core at a
//! time. raft-rs may not send further ones meanwhile. The receiver grows its buffer with the bytes
//! that arrive, in order; a gap, a stall or a lost link ends the transfer, and raft-rs tries again.

use std::collections::{BTreeMap, VecDeque};

use super::frames::{SnapshotAck, SnapshotChunk};
use super::outbox::Outbox;
use crate::contract::Lane;
use crate::ids::{Address, ReplicaId, ShardId};

/// Outgoing snapshots of one core at a time: their bytes are held in memory.
const OUTGOING_MAX: usize = 2;
/// Bytes of one chunk.
const CHUNK_BYTES: usize = 128 << 10;
/// Bytes under way without acknowledgement.
const WINDOW_BYTES: u64 = 1 << 20;
/// Ticks without progress after which a transfer is given up (5 s).
const STALL_TICKS: u32 = 100;

#[derive(Debug)]
struct Outgoing {
    transfer: u64,
    shard: ShardId,
    to: ReplicaId,
    address: Address,
    raft: Vec<u8>,
    bytes: Vec<u8>,
    sent: u64,
    acknowledged: u64,
    idle_ticks: u32,
}

#[derive(Debug)]
struct Incoming {
    transfer: u64,
    from: Address,
    total: u64,
    bytes: Vec<u8>,
}

/// How an outgoing transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whose snapshot.
    pub shard: ShardId,
    /// To whom.
    pub to: ReplicaId,
    /// Whether all of it arrived.
    pub is_done: bool,
}

/// A snapshot that has arrived whole.
#[derive(Debug)]
pub struct Arrived {
    /// The Raft message that goes with it.
    pub raft: Vec<u8>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// All transfers of a core.
#[derive(Debug)]
pub struct Transfers {
    next: u64,
    outgoing: VecDeque<Outgoing>,
    incoming: BTreeMap<ShardId, Incoming>,
}

impl Transfers {
    /// None under way. They are numbered from `first`, which must differ from life to life: an
    /// acknowledgement of a former life's transfer must not be taken for one of this life's.
    pub fn new(first: u64) -> Self {
        Transfers { next: first >> 1, outgoing: VecDeque::new(), incoming: BTreeMap::new() }
    }

    /// Whether another snapshot may be sent.
    pub fn has_room(&self) -> bool {
        self.outgoing.len() < OUTGOING_MAX
    }

    /// Starts to send a snapshot.
    pub fn start(
        &mut self,
        shard: ShardId,
        to: ReplicaId,
        address: Address,
        raft: Vec<u8>,
        bytes: Vec<u8>,
    ) {
        self.next += 1;
        self.outgoing.push_back(Outgoing {
            transfer: self.next,
            shard,
            to,
            address,
            raft,
            bytes,
            sent: 0,
            acknowledged: 0,
            idle_ticks: 0,
        });
    }

    /// Sends what the windows allow.
    pub fn pump(&mut self, outbox: &mut Outbox) {
        for transfer in &mut self.outgoing {
            let total = transfer.bytes.len() as u64;
            while transfer.sent < total && transfer.sent - transfer.acknowledged < WINDOW_BYTES {
                let Some(frame) = outbox.frame(transfer.address, Lane::Bulk) else { break };
                let start = transfer.sent as usize;
                let end = (start + CHUNK_BYTES).min(transfer.bytes.len());
                let is_last = end == transfer.bytes.len();
                frame.snapshot_chunk(&SnapshotChunk {
                    shard: transfer.shard,
                    transfer: transfer.transfer,
                    to: transfer.to,
                    offset: transfer.sent,
                    total,
                    raft: if is_last { &transfer.raft } else { &[] },
                    bytes: &transfer.bytes[start..end],
                });
                transfer.sent = end as u64;
            }
        }
    }

    /// Takes an acknowledgement; returns the transfer if that ended it.
    pub fn acknowledge(
        &mut self,
        from: Address,
        shard: ShardId,
        ack: SnapshotAck,
    ) -> Option<Ended> {
        let place = self.outgoing.iter().position(|transfer| {
            (transfer.transfer, transfer.shard, transfer.address) == (ack.transfer, shard, from)
        })?;
        let transfer = &mut self.outgoing[place];
        let total = transfer.bytes.len() as u64;
        let is_done = ack.received == total;
        if !is_done && ack.received != SnapshotAck::REFUSED {
            if ack.received <= transfer.sent && ack.received > transfer.acknowledged {
                transfer.acknowledged = ack.received;
                transfer.idle_ticks = 0;
            }
            return None;
        }
        let to = transfer.to;
        self.outgoing.remove(place);
        Some(Ended { shard, to, is_done })
    }

    /// Counts a tick; returns transfers that are given up because nothing moves.
    pub fn tick(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        self.outgoing.retain_mut(|transfer| {
            transfer.idle_ticks += 1;
            let goes_on = transfer.idle_ticks < STALL_TICKS;
            if !goes_on {
                ended.push(Ended { shard: transfer.shard, to: transfer.to, is_done: false });
            }
            goes_on
        });
        ended
    }

    /// A link is gone; returns the transfers that ended with it.
    pub fn link_down(&mut self, address: Address) -> Vec<Ended> {
        self.incoming.retain(|_, incoming| incoming.from != address);
        let mut ended = Vec::new();
        self.outgoing.retain(|transfer| {
            let goes_on = transfer.address != address;
            if !goes_on {
                ended.push(Ended { shard: transfer.shard, to: transfer.to, is_done: false });
            }
            goes_on
        });
        ended
    }

    /// Takes a chunk; `bytes_max` bounds what a snapshot may come to. Returns what to acknowledge,
    /// and the snapshot if this was its last piece (which is acknowledged when it proved sound).
    pub fn receive(
        &mut self,
        from: Address,
        chunk: &SnapshotChunk<'_>,
        bytes_max: u64,
    ) -> (SnapshotAck, Option<Arrived>) {
        let refusal = SnapshotAck { transfer: chunk.transfer, received: SnapshotAck::REFUSED };
        if chunk.offset == 0 {
            let (transfer, total) = (chunk.transfer, chunk.total);
            let incoming = Incoming { transfer, from, total, bytes: Vec::new() };
            self.incoming.insert(chunk.shard, incoming);
        }
        let Some(incoming) = self.incoming.get_mut(&chunk.shard) else {
            return (refusal, None);
        };
        let fits = (incoming.transfer, incoming.from, incoming.total)
            == (chunk.transfer, from, chunk.total)
            && chunk.offset == incoming.bytes.len() as u64
            && chunk.total <= bytes_max
            && chunk.offset + chunk.bytes.len() as u64 <= chunk.total;
        if !fits {
            self.incoming.remove(&chunk.shard);
            return (refusal, None);
        }
        incoming.bytes.extend_from_slice(chunk.bytes);
        let received = incoming.bytes.len() as u64;
        let ack = SnapshotAck { transfer: chunk.transfer, received };
        if received < chunk.total {
            return (ack, None);
        }
        let arrived = self
            .incoming
            .remove(&chunk.shard)
            .map(|incoming| Arrived { raft: chunk.raft.to_vec(), bytes: incoming.bytes });
        (ack, arrived)
    }
}
