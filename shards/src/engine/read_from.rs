//! Reads that another replica than the leader may answer, seen from the core that takes them.
//!
//! If this node has a replica of the shard, that one answers, on this core or on a sibling. It
//! must follow a leader that can be reached from here; otherwise the read goes to the leader like
//! any other. So does a read behind an unanswered write of its connection, and, when a write
//! follows, every read of the connection that is not answered yet: only the leader knows the order
//! of both.

use super::frames::{Items, RepliesHeader, ReplyItem, RequestsHeader};
use super::reads::ReadBatch;
use super::siblings::Answered;
use super::{Core, Courier, Origin, Parcel};
use crate::command::ReadFrom;
use crate::contract::{LeaderView, Now, Outputs};
use crate::ids::{Address, Nanos, ShardId};
use crate::reply::{Reply, Status, Token};

impl Core {
    /// Takes a read of a connection of this core that `read_from` may answer. Says whether it was
    /// taken; if not, the leader has to answer.
    pub(super) fn take_replica_read(
        &mut self,
        shard: ShardId,
        token: Token,
        read_from: ReadFrom,
        parcel: &Parcel<'_>,
        outputs: &mut Outputs,
    ) -> bool {
        if self.config.placement.rank(shard, self.own.node).is_none() {
            return false;
        }
        let home = self.outbox.home(shard, self.own.node);
        let taken = if home == self.own {
            self.read_here(shard, read_from, parcel, outputs)
        } else {
            let leader = self.router.view(shard).leader;
            let is_of_use = match read_from {
                ReadFrom::Leader => false,
                // A leader next door gets it on the usual way, which keeps order.
                ReadFrom::Replica => leader.is_some_and(|leader| leader != self.own.node),
                ReadFrom::Stale => true,
            };
            is_of_use.then(|| self.siblings.push(shard, home, token, read_from, parcel))
        };
        if let Some(Err(status)) = taken {
            outputs.replies.push(Reply::bare(token, status), None);
        }
        taken.is_some()
    }

    /// Lets this core's own replica take a read that `read_from` may answer, if it can.
    fn read_here(
        &mut self,
        shard: ShardId,
        read_from: ReadFrom,
        parcel: &Parcel<'_>,
        outputs: &mut Outputs,
    ) -> Option<Result<(), Status>> {
        match read_from {
            ReadFrom::Leader => None,
            ReadFrom::Replica => {
                let leader = self.replica_mut(shard)?.follows()?;
                if !self.outbox.reaches(self.outbox.home(shard, leader)) {
                    return None;
                }
                self.mark_dirty(shard);
                Some(self.replica_mut(shard)?.submit_as_follower(parcel))
            }
            ReadFrom::Stale => {
                let read = |replica: &mut super::Replica, courier: &mut Courier<'_>| {
                    replica.read_as_it_is(parcel, courier)
                };
                self.with_replica(shard, outputs, read)?.then_some(Ok(()))
            }
        }
    }

    /// Takes the reads back that `connection` has asked replicas of `shard`, and lets the leader
    /// answer them, in front of the write that follows.
    pub(super) fn recall(&mut self, shard: ShardId, connection: u32, outputs: &mut Outputs) {
        if self.config.placement.rank(shard, self.own.node).is_none() {
            return;
        }
        let recalled = match self.replica_mut(shard) {
            Some(replica) => replica.recall(connection),
            None => self.siblings.recall(shard, connection),
        };
        self.leave_to_leader(shard, &recalled, outputs);
    }

    fn leave_to_leader(&mut self, shard: ShardId, batch: &ReadBatch, outputs: &mut Outputs) {
        for parcel in batch.iter() {
            if let Origin::Local(token) = parcel.origin {
                self.take_for_leader(shard, token, &parcel, outputs);
            }
        }
    }

    /// Takes a request that only the leader may answer.
    pub(super) fn take_for_leader(
        &mut self,
        shard: ShardId,
        token: Token,
        parcel: &Parcel<'_>,
        outputs: &mut Outputs,
    ) {
        let outcome = if self.router.is_clear(shard) && self.leads(shard) {
            self.submit(shard, parcel)
        } else {
            self.router.route(shard, token, parcel, &self.outbox)
        };
        if let Err(status) = outcome {
            outputs.replies.push(Reply::bare(token, status), None);
        }
    }

    /// Runs a sibling's reads for this core's replica, or says that it cannot.
    pub(super) fn take_sibling_reads(
        &mut self,
        now: Now,
        from: Address,
        header: RequestsHeader,
        mut items: Items<'_>,
        outputs: &mut Outputs,
    ) {
        let deadline = Nanos(now.monotonic.0 + self.config.request_deadline.0);
        let shard = header.shard;
        let is_known = self.router.has(shard);
        let view = if is_known { self.router.view(shard) } else { LeaderView::default() };
        let mut ordinal = 0;
        while let Some(Ok((flags, command))) = items.next_request() {
            let origin = Origin::Remote { to: from, batch: header.batch, ordinal };
            let is_read = crate::command::is_encoded_read(command);
            let parcel = Parcel { origin, ordered: false, is_read, command, deadline };
            let read_from = flags.read_from();
            let taken = match is_read && is_known && from.node == self.own.node {
                true if read_from != ReadFrom::Stale && self.leads(shard) => {
                    Some(self.submit(shard, &parcel))
                }
                true => self.read_here(shard, read_from, &parcel, outputs),
                false => None,
            };
            if let Err(status) = taken.unwrap_or(Err(Status::NotLeader))
                && let Some(frame) = self.outbox.reply_frame(from)
            {
                let header = RepliesHeader { shard, batch: header.batch, view };
                frame.reply(header, &ReplyItem::bare(ordinal, status));
            }
            ordinal += 1;
        }
    }

    /// Takes a sibling's answer to a read for its replica. Returns the token to answer.
    pub(super) fn take_sibling_answer(
        &mut self,
        from: Address,
        header: RepliesHeader,
        item: &ReplyItem<'_>,
        outputs: &mut Outputs,
    ) -> Option<Token> {
        match self.siblings.answer(header.batch, from, item.ordinal, item.status) {
            Answered::Token(token) => Some(token),
            Answered::Returned(batch) => {
                self.leave_to_leader(header.shard, &batch, outputs);
                None
            }
            Answered::Nobody => None,
        }
    }
}
