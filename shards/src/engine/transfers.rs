//! Snapshots on their way to and from other replicas, in chunks on the bulk lane.
//!
//! A snapshot shows the applied index of the moment when raft-rs decided to send it. It is read
//! from the store as its chunks leave, with a window of unacknowledged bytes that sets the pace,
//! and a few snapshots per core at a time. raft-rs may not send further ones meanwhile. The
//! receiver builds the store from the chunks as they arrive, in order; a gap, a stall or a lost
//! link ends the transfer, and raft-rs tries again.

use std::collections::{BTreeMap, VecDeque};

use super::frames::{SnapshotAck, SnapshotChunk};
use super::outbox::Outbox;
use super::replica::SnapshotOpening;
use crate::contract::{CoreConfig, Durability, Lane};
use crate::ids::{Address, Formation, ReplicaId, ShardId};
use crate::store::{Restorer, SnapshotProgress, Store, StoreSettings};

/// Outgoing snapshots of one core at a time: what changes meanwhile is held in memory.
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
    /// What goes before the store; taken by the first chunk.
    opening: Vec<u8>,
    sent: u64,
    acknowledged: u64,
    /// Whether the store has been read to its end.
    is_read: bool,
    idle_ticks: u32,
}

impl Outgoing {
    fn ended(&self, is_done: bool) -> Ended {
        Ended { shard: self.shard, to: self.to, is_done, is_reading: !self.is_read }
    }
}

#[derive(Debug)]
struct Incoming {
    transfer: u64,
    from: Address,
    received: u64,
    /// The opening and the store that the bytes so far come to.
    opening: SnapshotOpening,
    restorer: Restorer,
    /// The store's snapshot as it came, if it must go into a log.
    bytes: Option<Vec<u8>>,
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
    /// Whether the store is still being read for it.
    pub is_reading: bool,
}

/// A snapshot that has arrived whole.
#[derive(Debug)]
pub struct Arrived {
    /// The Raft message that goes with it.
    pub raft: Vec<u8>,
    /// The formation its replicas are part of.
    pub formation: Formation,
    /// The state.
    pub store: Store,
    /// The store's snapshot as it came; empty where there is no log.
    pub bytes: Vec<u8>,
}

/// All transfers of a core.
#[derive(Debug)]
pub struct Transfers {
    next: u64,
    outgoing: VecDeque<Outgoing>,
    incoming: BTreeMap<ShardId, Incoming>,
    /// Memory for a chunk.
    scratch: Vec<u8>,
}

impl Transfers {
    /// None under way. They are numbered from `first`, which must differ from life to life: an
    /// acknowledgement of a former life's transfer must not be taken for one of this life's.
    pub fn new(first: u64) -> Self {
        Transfers {
            next: first >> 1,
            outgoing: VecDeque::new(),
            incoming: BTreeMap::new(),
            scratch: Vec::new(),
        }
    }

    /// Snapshots under way.
    pub fn len(&self) -> usize {
        self.outgoing.len() + self.incoming.len()
    }

    /// Whether another snapshot may be sent.
    pub fn has_room(&self) -> bool {
        self.outgoing.len() < OUTGOING_MAX
    }

    /// Starts to send a snapshot, whose store is being read from now on. `opening` goes first.
    pub fn start(
        &mut self,
        shard: ShardId,
        to: ReplicaId,
        address: Address,
        raft: Vec<u8>,
        opening: Vec<u8>,
    ) {
        self.next += 1;
        self.outgoing.push_back(Outgoing {
            transfer: self.next,
            shard,
            to,
            address,
            raft,
            opening,
            sent: 0,
            acknowledged: 0,
            is_read: false,
            idle_ticks: 0,
        });
    }

    /// Sends what the windows allow. `read` appends the next piece of a shard's store. Returns the
    /// transfers that ended because their store is being read no more.
    pub fn pump(
        &mut self,
        outbox: &mut Outbox,
        mut read: impl FnMut(ShardId, &mut Vec<u8>, usize) -> SnapshotProgress,
    ) -> Vec<Ended> {
        let mut ended = Vec::new();
        let mut bytes = std::mem::take(&mut self.scratch);
        self.outgoing.retain_mut(|transfer| {
            while !transfer.is_read && transfer.sent - transfer.acknowledged < WINDOW_BYTES {
                let Some(frame) = outbox.frame(transfer.address, Lane::Bulk) else { break };
                bytes.clear();
                bytes.append(&mut transfer.opening);
                match read(transfer.shard, &mut bytes, CHUNK_BYTES) {
                    SnapshotProgress::More => {}
                    SnapshotProgress::Done => transfer.is_read = true,
                    SnapshotProgress::Abandoned => {
                        transfer.is_read = true;
                        ended.push(transfer.ended(false));
                        return false;
                    }
                }
                let (offset, end) = (transfer.sent, transfer.sent + bytes.len() as u64);
                frame.snapshot_chunk(&SnapshotChunk {
                    shard: transfer.shard,
                    transfer: transfer.transfer,
                    to: transfer.to,
                    offset,
                    total: if transfer.is_read { end } else { 0 },
                    raft: if transfer.is_read { &transfer.raft } else { &[] },
                    bytes: &bytes,
                });
                transfer.sent = end;
            }
            true
        });
        self.scratch = bytes;
        ended
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
        let is_done = transfer.is_read && ack.received == transfer.sent;
        if !is_done && ack.received != SnapshotAck::REFUSED {
            if ack.received <= transfer.sent && ack.received > transfer.acknowledged {
                transfer.acknowledged = ack.received;
                transfer.idle_ticks = 0;
            }
            return None;
        }
        self.outgoing.remove(place).map(|transfer| transfer.ended(is_done))
    }

    /// Counts a tick; returns transfers that are given up because nothing moves.
    pub fn tick(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        self.outgoing.retain_mut(|transfer| {
            transfer.idle_ticks += 1;
            let goes_on = transfer.idle_ticks < STALL_TICKS;
            if !goes_on {
                ended.push(transfer.ended(false));
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
                ended.push(transfer.ended(false));
            }
            goes_on
        });
        ended
    }

    /// Takes a chunk. Returns what to acknowledge, and the snapshot if this was its last piece
    /// (which is acknowledged when it proved sound).
    pub fn receive(
        &mut self,
        config: &CoreConfig,
        from: Address,
        chunk: &SnapshotChunk<'_>,
    ) -> (SnapshotAck, Option<Arrived>) {
        let refusal = SnapshotAck { transfer: chunk.transfer, received: SnapshotAck::REFUSED };
        if chunk.offset == 0 {
            self.incoming.insert(chunk.shard, Incoming::new(config, from, chunk));
        }
        let Some(mut incoming) = self.incoming.remove(&chunk.shard) else {
            return (refusal, None);
        };
        let is_next = (incoming.transfer, incoming.from, incoming.received)
            == (chunk.transfer, from, chunk.offset);
        if !is_next || !incoming.feed(config, chunk.bytes) {
            return (refusal, None);
        }
        let received = incoming.received;
        let ack = SnapshotAck { transfer: chunk.transfer, received };
        if chunk.total == 0 {
            self.incoming.insert(chunk.shard, incoming);
            return (ack, None);
        }
        match incoming.finish(chunk.raft) {
            Some(arrived) if chunk.total == received => (ack, Some(arrived)),
            _ => (refusal, None),
        }
    }
}

impl Incoming {
    fn new(config: &CoreConfig, from: Address, chunk: &SnapshotChunk<'_>) -> Self {
        Incoming {
            transfer: chunk.transfer,
            from,
            received: 0,
            opening: SnapshotOpening::default(),
            restorer: Restorer::new(StoreSettings::of(config)),
            bytes: (config.durability == Durability::Fsync).then(Vec::new),
        }
    }

    /// Takes the next bytes; says whether they make sense.
    fn feed(&mut self, config: &CoreConfig, bytes: &[u8]) -> bool {
        self.received += bytes.len() as u64;
        // A snapshot carries keys and values and somewhat less than the accounted overhead.
        let bytes_max = 2 * config.shard_bytes_max + (64 << 20);
        let Some(rest) = self.opening.feed(bytes) else { return false };
        if let Some(kept) = &mut self.bytes {
            kept.extend_from_slice(rest);
        }
        self.received <= bytes_max && self.restorer.feed(rest).is_ok()
    }

    fn finish(self, raft: &[u8]) -> Option<Arrived> {
        Some(Arrived {
            raft: raft.to_vec(),
            formation: self.opening.finish()?,
            store: self.restorer.finish().ok()?,
            bytes: self.bytes.unwrap_or_default(),
        })
    }
}
