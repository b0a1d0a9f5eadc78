//! The end of a core whose log cannot be written any more.
//!
//! What it knows can no longer be made durable, so it says nothing to any other core, for all its
//! groups: a leader that only stopped voting would keep its followers waiting for ever. Its own
//! clients are told what became of what they asked, and that nothing will be done from now on.

use super::Core;
use crate::command::RequestBatch;
use crate::contract::{DiskError, Event, Outputs};
use crate::defect::{self, Defect};
use crate::ids::{Nanos, ShardId};
use crate::reply::{Reply, Status};

impl Core {
    /// Falls silent, and answers the connections of this core.
    pub(super) fn poison(&mut self, error: DiskError, outputs: &mut Outputs) {
        for shard in (0..self.homes.len() as u16).map(ShardId) {
            if self.homes[usize::from(shard.0)].is_some() {
                outputs.events.push(Event::ReplicaStopped(shard, error.to_string()));
            }
        }
        if defect::is(Defect::HeartbeatsWhilePoisoned) {
            return;
        }
        self.poisoned = Some(error);
        for shard in (0..self.homes.len() as u16).map(ShardId) {
            // Answers for other cores gather with everything else that will never leave.
            self.with_replica(shard, outputs, |replica, courier| replica.retire(courier));
        }
        self.router.put_back(&mut self.returned);
        self.router.end(&mut self.verdicts);
        self.siblings.expire(Nanos(u64::MAX), &mut self.verdicts);
        self.deliver_verdicts(outputs);
    }

    /// Refuses requests: nothing will be done here any more.
    pub(super) fn refuse(batch: &RequestBatch, outputs: &mut Outputs) {
        for request in batch.requests() {
            outputs.replies.push(Reply::bare(request.token, Status::ShuttingDown), None);
        }
    }
}
