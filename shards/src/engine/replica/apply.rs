//! Applying: the only place where the store changes, and where reads meet it.
//!
//! Entries are applied in order, each whole. Commands of this replica's own origins get their
//! outcome here; so do reads that ride on an entry or are barred by it. What cannot be read stops
//! the replica: an entry is never skipped.
//!
//! The hot path, per command and on every replica: the loops of [`Replica::apply_commands`] and
//! [`Replica::run_batch`]. What must not be added there: an allocation, a second decoding of a
//! command (checking it takes its lengths, warming its key), a lookup beside that in the store's
//! table.

use raft::ProgressState;
use raft::eraftpb::{ConfChange, Entry, EntryType};

use super::{Proposed, Replica};
use crate::command::Command;
use crate::contract::{Event, Now};
use crate::defect::{self, Defect};
use crate::engine::journal::Journal;
use crate::engine::reads::ReadBatch;
use crate::engine::{Courier, Parcel};
use crate::entry::{EntryReader, Keys};
use crate::ids::{Index, Millis, Term, Version};
use crate::reply::Status;
use crate::store::{Answer, Opening, ReadOutcome, ShardClock, WARM_COMMANDS_MAX};
use crate::upkeep;

/// Log bytes kept although nobody is known to lack them: by a follower, which does not know who
/// lacks what, in case it leads next. With many shards they are many times this.
const LOG_REST_BYTES: usize = 32 << 10;
/// Log bytes kept for members that are not heard of, should they come back.
const LOG_TAIL_BYTES: usize = 1 << 20;
/// Log bytes at which even entries that a follower lacks are cut; it gets a snapshot then.
const LOG_BYTES_MAX: usize = 16 << 20;

impl Replica {
    pub(super) fn restore(
        &mut self,
        now: Now,
        (index, term): (Index, Term),
        conf_state: raft::eraftpb::ConfState,
        journal: &mut Journal,
        courier: &mut Courier<'_>,
    ) {
        let Some(staged) = self.staged.take().filter(|staged| staged.index == index) else {
            // raft-rs accepts a snapshot only from `receive_snapshot`, which has staged it.
            self.stop("raft-rs accepted a snapshot that had not arrived".into(), courier);
            return;
        };
        self.log.restore(index, term, conf_state);
        self.store.replace_with(*staged.store);
        // The snapshot stands for what was not applied yet, too.
        self.committed.clear();
        self.committed_bytes = 0;
        self.clock = ShardClock::resume(self.store.stamp(), now);
        self.formation = Some(staged.formation);
        self.applied = (index, term);
        // raft-rs counts a snapshot as applied only when it is told so, and takes the word for it
        // only when the snapshot is durable. A campaign before that would look for entries that
        // the snapshot stands for, and panic. What it says to others waits for the disk anyway.
        self.raw.raft.raft_log.applied = index.0;
        if let Some(head) = self.checkpoint_head()
            && let Some(writer) = journal.writer()
        {
            writer.replace(self.shard, &head, &staged.bytes);
            journal.checkpoint.take_if(|checkpoint| checkpoint.shard == self.shard);
        }
        while let Some(proposed) = self.take_proposed_up_to(index) {
            self.fail_proposed(&proposed, Status::CoveredBySnapshot, Status::ReadTimeout, courier);
            while let Some(batch) = self.reads.take_barred(proposed.index, proposed.term) {
                self.fail_batch(&batch, Status::ReadTimeout, courier);
            }
        }
        courier.event(Event::SnapshotRestored(self.shard, index));
        self.end_quarantine(now.monotonic, courier);
        self.note_applied(courier);
        self.note_membership(courier);
    }

    /// Applies what is committed, as far as the turn's share of work allows.
    pub(super) fn apply(&mut self, now: Now, courier: &mut Courier<'_>) {
        let mut last = None;
        while self.stopped.is_none() && !self.committed.is_empty() && courier.work.may_apply() {
            let Some(entry) = self.committed.pop_front() else { break };
            let data_len = self.log.data_len(Index(entry.index));
            self.committed_bytes -= data_len;
            let removed = self.store.expired() + self.store.evicted();
            let (index, term) = (Index(entry.index), Term(entry.term));
            let own = self.take_own(index, term, courier);
            match entry.entry_type() {
                EntryType::EntryNormal => {
                    if let Err(reason) = self.apply_data(now, (index, term), own, courier) {
                        self.stop(reason, courier);
                        return;
                    }
                }
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    if let Err(reason) = self.apply_change(&entry) {
                        self.stop(reason, courier);
                        return;
                    }
                    self.log.set_applied(index, term);
                    self.note_membership(courier);
                }
            }
            self.applied = (index, term);
            self.log.set_applied(index, term);
            self.note_applied(courier);
            let removed = self.store.expired() + self.store.evicted() - removed;
            courier.work.spend(removed, data_len);
            last = Some(index);
        }
        if let Some(last) = last {
            self.raw.advance_apply_to(last.0);
            self.compact();
        }
    }

    /// Whether it leads, and more is to be removed than entries that it would propose anyway do.
    pub fn wants_removal(&self) -> bool {
        self.leads() && self.removal_wanted && !self.removal_allowed
    }

    /// Lets it propose one entry for the sake of removal.
    pub fn allow_removal(&mut self) {
        self.removal_allowed = true;
    }

    /// Takes out an entry that was proposed here for an index up to `index`.
    pub(super) fn take_proposed_up_to(&mut self, index: Index) -> Option<Proposed> {
        let doubtful = self.doubtful.iter().position(|proposed| proposed.index <= index);
        let taken = match doubtful {
            Some(place) => Some(self.doubtful.swap_remove(place)),
            None if self.proposed.front().is_some_and(|front| front.index <= index) => {
                self.proposed.pop_front()
            }
            None => None,
        }?;
        self.proposed_bytes -= taken.bytes;
        Some(taken)
    }

    /// What this replica knows of the entry at `index`, if it proposed it. If another leader's
    /// entry stands in its place, its commands are not done, and never will be. Reads that it
    /// barred end with it: later writes of their connections may have run elsewhere since.
    pub(super) fn take_own(
        &mut self,
        index: Index,
        term: Term,
        courier: &mut Courier<'_>,
    ) -> Option<Proposed> {
        let mut own = None;
        while let Some(proposed) = self.take_proposed_up_to(index) {
            if proposed.index == index && proposed.term == term {
                own = Some(proposed);
                continue;
            }
            while let Some(batch) = self.reads.take_barred(proposed.index, proposed.term) {
                self.fail_batch(&batch, Status::Superseded, courier);
                self.reads.recycle(batch);
            }
            self.fail_proposed(&proposed, Status::Superseded, Status::Superseded, courier);
        }
        own
    }

    /// Applies what the log has at a committed index. What a leader begins its term with is empty.
    fn apply_data(
        &mut self,
        now: Now,
        (index, term): (Index, Term),
        own: Option<Proposed>,
        courier: &mut Courier<'_>,
    ) -> Result<(), String> {
        let log = self.log.clone();
        let applied = log.with_data(index, term, |data| match data.is_empty() {
            true => Ok(()),
            false => self.apply_commands(now, index, data, own, courier),
        });
        applied.unwrap_or_else(|| Err(format!("entry {index} is committed and not in the log")))
    }

    fn apply_commands(
        &mut self,
        now: Now,
        index: Index,
        data: &[u8],
        own: Option<Proposed>,
        courier: &mut Courier<'_>,
    ) -> Result<(), String> {
        let reader = EntryReader::new(data)
            .map_err(|error| format!("entry {index} cannot be read: {error}"))?;
        courier.work.spend(reader.len() as u64, 0);
        let epoch = self.formation.as_ref().map_or(0, |formation| formation.epoch);
        let view = self.view();
        if self.leads() {
            self.clock.raise_to(reader.stamp(), now);
        } else {
            self.clock.follow(reader.stamp(), now);
        }
        let expires_by = match defect::is(Defect::ExpiryByLocalClock) {
            true => now.wall,
            false => reader.stamp(),
        };
        let opening = Opening { stamp: expires_by, ..reader.opening() };
        upkeep::begin_entry(&mut self.store, opening, reader.len());
        let mut ahead = reader.keys();
        let Some(own) = own else {
            for (ordinal, command) in reader.commands().enumerate() {
                self.warm_ahead(ordinal, reader.len(), &mut ahead);
                let version = Version::new(epoch, index, ordinal);
                self.store.apply(version, &command, Answer::Unwanted);
            }
            self.operations += reader.len() as u64;
            return Ok(());
        };
        while let Some(batch) = self.reads.take_barred(own.index, own.term) {
            self.warm_batch(&batch);
            self.run_batch(reader.stamp(), batch.iter(), None, courier);
            self.reads.recycle(batch);
        }
        let mut riders = own.riders.iter();
        let mut rider = riders.next();
        for (ordinal, command) in reader.commands().enumerate() {
            self.warm_ahead(ordinal, reader.len(), &mut ahead);
            while let Some((position, parcel)) = rider
                && position <= ordinal
            {
                self.run_batch(reader.stamp(), std::iter::once(parcel), None, courier);
                rider = riders.next();
            }
            let version = Version::new(epoch, index, ordinal);
            let is_swapped = defect::is(Defect::SwappedReplies) && ordinal ^ 1 < reader.len();
            let whose = if is_swapped { ordinal ^ 1 } else { ordinal };
            match own.waiting.at(whose) {
                Some((origin, _)) if self.can_tell(&command.operation) => {
                    let outcome = self.store.apply(version, &command, Answer::Wanted);
                    courier.deliver(self.shard, view, origin, &outcome);
                }
                Some((origin, _)) => {
                    self.store.apply(version, &command, Answer::Unwanted);
                    courier.fail(self.shard, view, &[origin], Status::ReplicaStopped);
                }
                None => {
                    self.store.apply(version, &command, Answer::Unwanted);
                }
            }
        }
        let rest = rider.into_iter().chain(riders).map(|(_, parcel)| parcel);
        self.run_batch(reader.stamp(), rest, None, courier);
        self.spare_lists.keep(own.waiting);
        // Where more keys are due, or above the limit, than one entry removes, the next goes on.
        self.removal_wanted |= self.store.is_above_limit()
            || self.store.next_due().is_some_and(|due| due <= self.store.stamp());
        Ok(())
    }

    /// Once per so many commands, brings what the next ones need into the caches. For a single one
    /// that would be to look everything up twice.
    fn warm_ahead(&self, ordinal: usize, commands: usize, ahead: &mut Keys<'_>) {
        if commands > 1 && ordinal.is_multiple_of(WARM_COMMANDS_MAX) {
            self.store.warm(ahead.take(WARM_COMMANDS_MAX));
        }
    }

    fn warm_batch(&self, batch: &ReadBatch) {
        if batch.len() > 1 {
            self.store.warm(batch.keys());
        }
    }

    pub(super) fn apply_change(&mut self, entry: &Entry) -> Result<(), String> {
        let describe = |error: &dyn std::fmt::Display| {
            format!("entry {} changes the configuration impossibly: {error}", entry.index)
        };
        let conf_state = if entry.entry_type() == EntryType::EntryConfChange {
            let change: ConfChange =
                prost_011::Message::decode(&entry.data[..]).map_err(|error| describe(&error))?;
            self.raw.apply_conf_change(&change).map_err(|error| describe(&error))?
        } else {
            let change: raft::eraftpb::ConfChangeV2 =
                prost_011::Message::decode(&entry.data[..]).map_err(|error| describe(&error))?;
            self.raw.apply_conf_change(&change).map_err(|error| describe(&error))?
        };
        let is_member = conf_state.voters.contains(&self.me.0);
        self.log.set_conf_state(conf_state);
        if !is_member && self.leads() {
            // Another leader proposed it, and was deposed. raft-rs lets such a leader go on, and
            // panics when its log is persisted.
            self.raw.raft.become_follower(self.raw.raft.term, 0);
        }
        Ok(())
    }

    /// Cuts the log. A leader keeps what a live follower lacks, within a bound, and for one that is
    /// not heard of what it keeps anyway, within a closer one.
    pub(super) fn compact(&mut self) {
        if self.log.bytes() <= 2 * LOG_REST_BYTES {
            return;
        }
        if !self.leads() {
            self.log.compact(self.applied.0, LOG_REST_BYTES);
            return;
        }
        let members = || self.raw.raft.prs().iter().map(|(_, progress)| progress);
        let lacked_by_nobody = members().map(|progress| Index(progress.matched)).min();
        let served = members().filter_map(|progress| match progress.state {
            // It is not heard of; if it returns late, a snapshot serves it.
            ProgressState::Probe => None,
            ProgressState::Replicate => Some(Index(progress.matched)),
            ProgressState::Snapshot => Some(Index(progress.pending_snapshot)),
        });
        self.log.compact(lacked_by_nobody.unwrap_or(self.applied.0), LOG_REST_BYTES);
        self.log.compact(served.min().unwrap_or(self.applied.0), LOG_TAIL_BYTES);
        self.log.compact(self.applied.0, LOG_BYTES_MAX);
    }

    pub(super) fn run_reads(&mut self, now: Now, courier: &mut Courier<'_>) {
        if !self.leads() || self.withholds() {
            return;
        }
        let mut running = None;
        while let Some((batch, barred_by)) = self.reads.next_runnable(self.applied.0) {
            let running = *running.get_or_insert_with(|| self.clock.running(now));
            self.warm_batch(&batch);
            self.run_batch(running, batch.iter(), barred_by, courier);
            self.reads.recycle(batch);
        }
    }

    /// Runs reads, which `barred_by` bars, at the applied state and as of shard time `running`.
    pub(super) fn run_batch<'p>(
        &mut self,
        running: Millis,
        parcels: impl Iterator<Item = Parcel<'p>>,
        barred_by: Option<(Index, Term)>,
        courier: &mut Courier<'_>,
    ) {
        let view = self.view();
        let withholds = self.withholds();
        for parcel in parcels {
            if withholds {
                courier.fail(self.shard, view, &[parcel.origin], Status::ReadTimeout);
                continue;
            }
            let Ok((command, _)) = Command::decode(parcel.command) else {
                // Commands are encoded by this code base or checked when a frame is read.
                courier.fail(self.shard, view, &[parcel.origin], Status::Invalid);
                continue;
            };
            match self.store.read(&command, running) {
                ReadOutcome::Done(outcome) => {
                    courier.deliver(self.shard, view, parcel.origin, &outcome);
                }
                ReadOutcome::Due => self.reads.push_due(&parcel, barred_by),
            }
        }
    }
}
