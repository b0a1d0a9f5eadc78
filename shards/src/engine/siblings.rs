//! Reads on their way to a replica on another core of this node, seen from the core that took them.
//!
//! They travel beside the requests to leaders, which wait for each other and keep an order; these
//! have none. What the sibling cannot answer goes to the leader, like what is recalled because a
//! write of its connection follows. A batch has a number apart from those of requests to leaders,
//! so that its answers are told apart, and so that giving back one of them bars no other batch.

use std::collections::BTreeMap;

use super::frames::{RequestFlags, RequestsHeader};
use super::outbox::Outbox;
use super::reads::ReadBatch;
use super::{Origin, Parcel};
use crate::command::ReadFrom;
use crate::contract::Lane;
use crate::ids::{Address, Nanos, ShardId};
use crate::reply::{Status, Token};

/// Set in the number of every batch of reads for a replica, and of no batch for a leader.
const REPLICA_BATCH: u64 = 1 << 63;

/// Whether a batch with this number is one of reads for a replica.
pub fn is_for_replica(batch: u64) -> bool {
    batch & REPLICA_BATCH != 0
}

#[derive(Debug)]
struct Item {
    token: Token,
    read_from: ReadFrom,
    deadline: Nanos,
    /// Whether it waits for the sibling's answer.
    is_open: bool,
    /// Where the command ends in the batch's bytes.
    end: u32,
}

#[derive(Debug)]
struct Batch {
    shard: ShardId,
    to: Address,
    bytes: Vec<u8>,
    items: Vec<Item>,
}

impl Batch {
    fn command(&self, ordinal: usize) -> &[u8] {
        let start = if ordinal == 0 { 0 } else { self.items[ordinal - 1].end };
        &self.bytes[start as usize..self.items[ordinal].end as usize]
    }

    fn is_over(&self) -> bool {
        self.items.iter().all(|item| !item.is_open)
    }
}

/// What the answer of a sibling means for whoever asked.
#[derive(Debug)]
pub enum Answered {
    /// It is the outcome.
    Token(Token),
    /// The sibling cannot answer: these go to the leader.
    Returned(ReadBatch),
    /// Nobody waits for it any more.
    Nobody,
}

/// See the module's description.
#[derive(Debug)]
pub struct SiblingReads {
    batches: BTreeMap<u64, Batch>,
    /// The batches that this turn is filling.
    filling: Vec<u64>,
    next_batch: u64,
    held_bytes: usize,
    held_bytes_max: usize,
}

impl SiblingReads {
    /// None under way, and room for so many bytes of commands. Batches are numbered from
    /// `first_batch`, which must differ from life to life.
    pub fn new(held_bytes_max: usize, first_batch: u64) -> Self {
        SiblingReads {
            batches: BTreeMap::new(),
            filling: Vec::new(),
            next_batch: first_batch >> 2,
            held_bytes: 0,
            held_bytes_max,
        }
    }

    /// Adds a read of `shard` for the replica at `to`; an error if there is no room.
    pub fn push(
        &mut self,
        shard: ShardId,
        to: Address,
        token: Token,
        read_from: ReadFrom,
        parcel: &Parcel<'_>,
    ) -> Result<(), Status> {
        if self.held_bytes + parcel.command.len() > self.held_bytes_max {
            return Err(Status::Overloaded);
        }
        self.held_bytes += parcel.command.len();
        let is_open = |id: &u64| self.batches.get(id).is_some_and(|batch| batch.shard == shard);
        let id = match self.filling.iter().copied().find(is_open) {
            Some(id) => id,
            None => {
                let id = self.next_batch | REPLICA_BATCH;
                self.next_batch += 1;
                self.filling.push(id);
                let batch = Batch { shard, to, bytes: Vec::new(), items: Vec::new() };
                self.batches.insert(id, batch);
                id
            }
        };
        if let Some(batch) = self.batches.get_mut(&id) {
            batch.bytes.extend_from_slice(parcel.command);
            let end = batch.bytes.len() as u32;
            let deadline = parcel.deadline;
            batch.items.push(Item { token, read_from, deadline, is_open: true, end });
        }
        Ok(())
    }

    /// Encodes the batches this turn has filled.
    pub fn seal(&mut self, outbox: &mut Outbox) {
        for id in self.filling.drain(..) {
            let Some(batch) = self.batches.get(&id) else { continue };
            let Some(frame) = outbox.frame(batch.to, Lane::Turn) else { continue };
            let header = RequestsHeader { shard: batch.shard, batch: id, oldest: id };
            let requests = batch.items.iter().enumerate().map(|(ordinal, item)| {
                (RequestFlags::of_read(item.read_from), batch.command(ordinal))
            });
            frame.requests(header, requests);
        }
    }

    /// Takes the sibling's answer to one read of a batch.
    pub fn answer(&mut self, id: u64, from: Address, ordinal: u32, status: Status) -> Answered {
        let Some(batch) = self.batches.get_mut(&id).filter(|batch| batch.to == from) else {
            return Answered::Nobody;
        };
        let ordinal = ordinal as usize;
        let Some(item) = batch.items.get_mut(ordinal).filter(|item| item.is_open) else {
            return Answered::Nobody;
        };
        item.is_open = false;
        let token = item.token;
        let mut returned = ReadBatch::default();
        if status == Status::NotLeader {
            returned.push(&parcel_of(batch, ordinal));
        }
        self.forget_if_over(id);
        match returned.is_empty() {
            true => Answered::Token(token),
            false => Answered::Returned(returned),
        }
    }

    /// Takes back what a connection of this core has asked of `shard`: a write follows it.
    pub fn recall(&mut self, shard: ShardId, connection: u32) -> ReadBatch {
        let mut recalled = ReadBatch::default();
        let of_shard = self.batches.iter_mut().filter(|(_, batch)| batch.shard == shard);
        let ids: Vec<u64> = of_shard
            .map(|(&id, batch)| {
                for ordinal in 0..batch.items.len() {
                    let item = &mut batch.items[ordinal];
                    if item.is_open && item.token.connection == connection {
                        item.is_open = false;
                        recalled.push(&parcel_of(batch, ordinal));
                    }
                }
                id
            })
            .collect();
        for id in ids {
            self.forget_if_over(id);
        }
        recalled
    }

    /// Ends what has waited past its deadline.
    pub fn expire(&mut self, now: Nanos, verdicts: &mut Vec<(Token, Status)>) {
        let mut over = Vec::new();
        for (&id, batch) in &mut self.batches {
            for item in batch.items.iter_mut().filter(|item| item.is_open && item.deadline <= now) {
                item.is_open = false;
                verdicts.push((item.token, Status::ReadTimeout));
            }
            over.extend(batch.is_over().then_some(id));
        }
        for id in over {
            self.forget_if_over(id);
        }
    }

    fn forget_if_over(&mut self, id: u64) {
        // A batch that was not sent yet goes out as it is; its answers find nobody.
        if self.filling.contains(&id) {
            return;
        }
        if let Some(batch) = self.batches.get(&id)
            && batch.is_over()
        {
            self.held_bytes -= batch.bytes.len();
            self.batches.remove(&id);
        }
    }
}

fn parcel_of(batch: &Batch, ordinal: usize) -> Parcel<'_> {
    let item = &batch.items[ordinal];
    Parcel {
        origin: Origin::Local(item.token),
        ordered: false,
        is_read: true,
        command: batch.command(ordinal),
        deadline: item.deadline,
    }
}
