//! What a replica may do to the world while it works: answer, send, report.
//!
//! Answers go to this core's replies or into frames for those who sent the commands; Raft messages
//! into frames, or, with a snapshot, into a transfer. Whether anything arrives is nobody's promise:
//! Raft and the request router repeat what matters.
//!
//! Long entries are stubs to raft-rs (`raft_log.rs`). Here their data is put in their place while
//! their message is encoded, and messages are cut where they become too long, which raft-rs cannot
//! see.

use raft::eraftpb::{Entry, Message, MessageType};

use super::frames::{self, RepliesHeader, ReplyItem};
use super::outbox::Outbox;
use super::replica::{MESSAGE_BYTES_MAX, Replica};
use super::router::Parked;
use super::transfers::Transfers;
use super::work::Work;
use super::{Origin, Parcel, siblings};
use crate::contract::{CareCounts, Event, Lane, LeaderView, ReadCounts};
use crate::defect::{self, Defect};
use crate::ids::{Address, Index, ReplicaId, ShardId};
use crate::raft_log::{RaftLog, is_stub};
use crate::reply::{Replies, Reply, Status};
use crate::store::Outcome;

/// A Raft message with more bytes of entries has a frame of its own.
const LONG_MESSAGE_BYTES: usize = 64 << 10;

/// What a replica may do to the world while it works: answer, send, report.
pub(super) struct Courier<'a> {
    pub outbox: &'a mut Outbox,
    pub replies: &'a mut Replies,
    pub events: &'a mut Vec<Event>,
    pub returned: &'a mut Vec<(ShardId, Parked)>,
    pub transfers: &'a mut Transfers,
    pub refusals: &'a mut Refusals,
    pub counts: &'a mut ReadCounts,
    pub care: &'a mut CareCounts,
    pub work: &'a mut Work,
}

/// The last batch of each origin core and shard that was refused, or given back after it had been
/// taken. One entry per shard and core of the cluster at most. It stays when the link to the origin
/// is lost, since the origin's link to here may live on, with later batches on it. A new life of
/// the origin counts batches from elsewhere, and may see one refused for nothing.
pub(super) type Refusals = std::collections::BTreeMap<(ShardId, Address), u64>;

impl Courier<'_> {
    /// Hands an outcome to its origin.
    pub fn deliver(
        &mut self,
        shard: ShardId,
        view: LeaderView,
        origin: Origin,
        outcome: &Outcome<'_>,
    ) {
        match origin {
            Origin::Local(token) => outcome.push_to(self.replies, token),
            Origin::Remote { to, batch, ordinal } => {
                if let Some(frame) = self.outbox.reply_frame(to) {
                    let item = ReplyItem {
                        ordinal,
                        status: outcome.status,
                        flags: outcome.flags,
                        version: outcome.version,
                        number: outcome.number,
                        expires: outcome.expires_in.zip(outcome.expires_at),
                        value: outcome.value,
                    };
                    frame.reply(RepliesHeader { shard, batch, view }, &item);
                }
            }
        }
    }

    /// Ends commands without an outcome of their own.
    pub fn fail(&mut self, shard: ShardId, view: LeaderView, origins: &[Origin], status: Status) {
        for &origin in origins {
            match origin {
                Origin::Local(token) => self.replies.push(Reply::bare(token, status), None),
                Origin::Remote { to, batch, ordinal } => {
                    if let Some(frame) = self.outbox.reply_frame(to) {
                        let header = RepliesHeader { shard, batch, view };
                        frame.reply(header, &ReplyItem::bare(ordinal, status));
                    }
                }
            }
        }
    }

    /// Returns a command that certainly did not run: to this core's router, or to its sender, who
    /// takes it to the leader.
    pub fn give_back(&mut self, shard: ShardId, view: LeaderView, parcel: &Parcel<'_>) {
        match parcel.origin {
            Origin::Local(token) => self.returned.push((shard, Parked::new(token, parcel))),
            Origin::Remote { to, batch, .. } => {
                if !siblings::is_for_replica(batch) {
                    // A later one may have been refused before this one was given back.
                    let last = self.refusals.entry((shard, to)).or_insert(batch);
                    *last = batch.max(*last);
                }
                self.fail(shard, view, &[parcel.origin], Status::NotLeader);
            }
        }
    }

    /// Reports what has happened.
    pub fn event(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Sends a Raft message of `replica`; a snapshot becomes a transfer.
    pub fn send(&mut self, replica: &mut Replica, shard: ShardId, message: Message) {
        let address = self.outbox.home(shard, ReplicaId(message.to).node());
        if message.msg_type() == MessageType::MsgSnapshot {
            self.send_snapshot(replica, shard, address, &message);
        } else if message.entries.iter().any(is_stub) {
            self.send_long(replica.log(), shard, address, message);
        } else {
            self.put(shard, address, &message);
        }
    }

    fn put(&mut self, shard: ShardId, to: Address, message: &Message) {
        let bytes = message.entries.iter().map(|entry| entry.data.len()).sum::<usize>();
        let frame = match bytes > LONG_MESSAGE_BYTES {
            true => self.outbox.new_frame(to, Lane::Turn),
            false => self.outbox.frame(to, Lane::Turn),
        };
        if let Some(frame) = frame {
            frame.raft(shard, message);
        }
    }

    /// Sends a message with long entries, as several if need be.
    fn send_long(&mut self, log: &RaftLog, shard: ShardId, to: Address, mut message: Message) {
        if !self.outbox.reaches(to) {
            return;
        }
        if log.lend(&mut message.entries) {
            in_parts(&mut message, MESSAGE_BYTES_MAX as usize, |part| self.put(shard, to, part));
        }
        log.take_back(&mut message.entries);
    }

    fn send_snapshot(
        &mut self,
        replica: &mut Replica,
        shard: ShardId,
        to: Address,
        message: &Message,
    ) {
        let index = Index(message.get_snapshot().get_metadata().index);
        let (_, applied) = replica.indices();
        let is_current = index == applied || defect::is(Defect::ApplyTwiceAfterSnapshot);
        let can_start = self.outbox.reaches(to) && self.transfers.has_room() && is_current;
        let Some(opening) = can_start.then(|| replica.begin_transfer()).flatten() else {
            replica.report_snapshot(ReplicaId(message.to), false);
            return;
        };
        let mut raft = Vec::new();
        frames::encode_raft(message, &mut raft);
        self.transfers.start(shard, ReplicaId(message.to), to, raft, opening);
    }
}

/// Visits a message of appended entries as several, each with one entry, or with as many as are not
/// too long together. The last one's position stays in the message.
fn in_parts(message: &mut Message, bytes_max: usize, mut visit: impl FnMut(&Message)) {
    let mut entries = std::mem::take(&mut message.entries);
    let mut rest = &mut entries[..];
    while !rest.is_empty() {
        let (part, behind) = rest.split_at_mut(fitting(rest, bytes_max));
        message.entries.extend(part.iter_mut().map(std::mem::take));
        visit(message);
        for (place, entry) in part.iter_mut().zip(message.entries.drain(..)) {
            (message.index, message.log_term) = (entry.index, entry.term);
            *place = entry;
        }
        rest = behind;
    }
    message.entries = entries;
}

/// How many of the first entries a message takes: one, and more while all are not too long.
fn fitting(entries: &[Entry], bytes_max: usize) -> usize {
    let mut bytes = 0;
    let fits = |entry: &&Entry| {
        bytes += entry.data.len();
        bytes <= bytes_max
    };
    entries.iter().take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_where_it_becomes_too_long_and_its_parts_follow_each_other() {
        let entry = |index, term, length| {
            let data = vec![index as u8; length];
            Entry { index, term, data, ..Entry::default() }
        };
        let lengths = [(5, 2, 60), (6, 2, 40), (7, 2, 1), (8, 3, 500), (9, 3, 30), (10, 3, 30)];
        let entries: Vec<_> =
            lengths.iter().map(|&(index, term, length)| entry(index, term, length)).collect();
        let mut message = Message { index: 4, log_term: 1, commit: 6, ..Message::default() };
        message.entries = entries.clone();
        let mut parts = Vec::new();
        in_parts(&mut message, 100, |part| {
            assert_eq!(part.commit, 6);
            parts.push((part.index, part.log_term, part.entries.clone()));
        });
        let expected = [
            (4, 1, entries[..2].to_vec()),
            (6, 2, entries[2..3].to_vec()),
            (7, 2, entries[3..4].to_vec()),
            (8, 3, entries[4..].to_vec()),
        ];
        assert_eq!(parts, expected);
        assert_eq!(message.entries, entries, "the data can be taken back");
    }
}
