//! Reads that a follower answers, and the questions about them that its leader answers.
//!
//! The leader answers a question as it confirms reads of its own: by its lease, by a clock that was
//! read after the question had come in, or by a round to a majority that was sent after that; and
//! never before an entry of its own term is committed. What it cannot answer it refuses, so that
//! nobody waits in vain.

use raft::StateRole;

use super::{GATHERED_BYTES_MAX, Replica};
use crate::command::Command;
use crate::contract::{Lane, Now};
use crate::engine::follower_reads::ReadPoint;
use crate::engine::frames::{Answer, Question};
use crate::engine::reads::ReadBatch;
use crate::engine::{Courier, Parcel};
use crate::ids::{Address, Index, NodeId, ReplicaId, ShardId, Term};
use crate::reply::Status;
use crate::store::ReadOutcome;

/// A follower that lacks more entries than this leaves its reads to the leader.
const LAG_ENTRIES_MAX: u64 = 256;

/// A question that waits for the leader's answer.
#[derive(Debug)]
pub(super) struct Asked {
    to: Address,
    question: Question,
    /// Whether the round under way was sent after it had come in.
    in_round: bool,
}

impl Replica {
    /// Whether it may answer reads: it votes, is sound, and follows a leader. Says who that is.
    pub fn follows(&self) -> Option<NodeId> {
        let leader = ReplicaId(self.raw.raft.leader_id);
        let follows = self.stopped.is_none()
            && !self.is_quarantined()
            && self.raw.raft.state == StateRole::Follower
            && self.formation.is_some()
            && leader.0 != 0
            && self.is_voter();
        follows.then(|| leader.node())
    }

    /// Takes a read while it [`follows`](Self::follows).
    pub fn submit_as_follower(&mut self, parcel: &Parcel<'_>) -> Result<(), Status> {
        if self.follower_reads.held_bytes() + parcel.command.len() > GATHERED_BYTES_MAX {
            return Err(Status::Overloaded);
        }
        self.operations += 1;
        self.follower_reads.push(parcel);
        Ok(())
    }

    /// Answers a read at once from what is applied here. Says whether there is anything.
    pub fn read_as_it_is(&mut self, parcel: &Parcel<'_>, courier: &mut Courier<'_>) -> bool {
        if self.stopped.is_some() || self.formation.is_none() || self.withholds() {
            return false;
        }
        let Ok((command, _)) = Command::decode(parcel.command) else { return false };
        let view = self.view();
        let stamp = self.store.stamp();
        if let ReadOutcome::Done(outcome) = self.store.read(&command, stamp) {
            self.operations += 1;
            courier.counts.stale += 1;
            courier.deliver(self.shard, view, parcel.origin, &outcome);
            return true;
        }
        false
    }

    /// Takes out the reads of `connection` that wait here: a write follows them.
    pub fn recall(&mut self, connection: u32) -> ReadBatch {
        self.follower_reads.recall(connection)
    }

    /// Asks the leader about what has gathered.
    pub(super) fn ask_leader(&mut self, courier: &mut Courier<'_>) {
        if self.follower_reads.is_empty() {
            return;
        }
        if self.follows().is_none() {
            for batch in self.follower_reads.take_unconfirmed() {
                self.leave_to_leader(&batch, courier);
            }
        } else if let Some(attempt) = self.follower_reads.ask() {
            self.send_question(attempt, courier);
        }
    }

    fn send_question(&mut self, attempt: u64, courier: &mut Courier<'_>) {
        let Some(leader) = self.follows() else { return };
        let to = courier.outbox.home(self.shard, leader);
        if let Some(frame) = courier.outbox.frame(to, Lane::Turn) {
            courier.counts.questions += 1;
            frame.question(self.shard, Question { asker: self.me, attempt });
        }
    }

    fn leave_to_leader(&self, batch: &ReadBatch, courier: &mut Courier<'_>) {
        let view = self.view();
        for parcel in batch.iter() {
            courier.give_back(self.shard, view, &parcel);
        }
    }

    /// Counts a tick: repeats questions, and leaves to the leader what has waited for long.
    pub(super) fn tick_follower_reads(&mut self, now: Now, courier: &mut Courier<'_>) {
        if self.follower_reads.is_empty() {
            return;
        }
        for batch in self.follower_reads.take_overdue(now.monotonic) {
            self.fail_batch(&batch, Status::ReadTimeout, courier);
        }
        if let Some(attempt) = self.follower_reads.tick() {
            self.send_question(attempt, courier);
        }
        for batch in self.follower_reads.take_aged() {
            self.leave_to_leader(&batch, courier);
        }
    }

    /// Leaves everything to whoever leads.
    pub(super) fn abandon_follower_reads(&mut self, courier: &mut Courier<'_>) {
        for batch in self.follower_reads.take_all() {
            self.leave_to_leader(&batch, courier);
        }
    }

    /// Takes the leader's answer to a question.
    pub fn take_answer(&mut self, answer: &Answer) {
        if answer.asker != self.me {
            return;
        }
        match answer.point {
            Some(point) if point.index.0 <= self.log.last().0 + LAG_ENTRIES_MAX => {
                self.follower_reads.confirm(answer.attempt, point);
            }
            _ => self.follower_reads.refuse(answer.attempt),
        }
    }

    /// Makes use of what answers have told of the commit index: followers hear of it with the next
    /// append or heartbeat only, which may be a tick away. Two logs that have an entry of the same
    /// index and term are the same up to it.
    pub(super) fn follow_commit(&mut self) {
        let Some(point) = self.follower_reads.furthest() else { return };
        if self.stopped.is_some() || self.raw.raft.state != StateRole::Follower {
            return;
        }
        let log = &mut self.raw.raft.raft_log;
        let is_news = point.index.0 > log.committed && point.index.0 <= log.last_index();
        if is_news && log.match_term(point.index.0, point.term.0) {
            log.commit_to(point.index.0);
        }
    }

    /// Runs the reads whose point is applied.
    pub(super) fn run_follower_reads(&mut self, courier: &mut Courier<'_>) {
        for batch in self.follower_reads.take_refused() {
            self.leave_to_leader(&batch, courier);
        }
        let view = self.view();
        loop {
            let stamp = self.store.stamp();
            let runnable = self.follower_reads.next_runnable(self.applied.0, stamp);
            let Some((batch, running)) = runnable else { return };
            for parcel in batch.iter() {
                let Ok((command, _)) = Command::decode(parcel.command) else {
                    courier.fail(self.shard, view, &[parcel.origin], Status::Invalid);
                    continue;
                };
                match self.store.read(&command, running) {
                    ReadOutcome::Done(outcome) => {
                        courier.counts.follower += 1;
                        courier.deliver(self.shard, view, parcel.origin, &outcome);
                    }
                    ReadOutcome::Due => self.follower_reads.push_due(&parcel, running),
                }
            }
        }
    }

    /// Takes a follower's question. Of each follower only the latest counts that no round was sent
    /// for: its answer serves the earlier ones as well.
    pub fn take_question(&mut self, from: Address, question: Question) {
        let is_same = |asked: &Asked| !asked.in_round && asked.question.asker == question.asker;
        self.questions.retain(|asked| !is_same(asked));
        if question.asker.node() == from.node {
            self.questions.push(Asked { to: from, question, in_round: false });
        }
    }

    /// The round that is about to be sent serves every question that has come in.
    pub(super) fn take_questions_along(&mut self) {
        for asked in &mut self.questions {
            asked.in_round = true;
        }
    }

    /// Answers all questions by the lease, which holds.
    pub(super) fn answer_all(&mut self, now: Now, courier: &mut Courier<'_>) {
        let index = Index(self.raw.raft.raft_log.committed);
        for asked in std::mem::take(&mut self.questions) {
            self.answer(now, index, &asked, courier);
        }
    }

    /// Answers the questions that the round was sent for which a majority has confirmed for
    /// `index`.
    pub(super) fn answer_round(&mut self, now: Now, index: Index, courier: &mut Courier<'_>) {
        if self.questions.is_empty() || !self.leads() {
            return;
        }
        let all = std::mem::take(&mut self.questions);
        let (answered, waiting): (Vec<_>, Vec<_>) = all.into_iter().partition(|q| q.in_round);
        self.questions = waiting;
        for asked in answered {
            self.answer(now, index, &asked, courier);
        }
    }

    fn answer(&mut self, now: Now, index: Index, asked: &Asked, courier: &mut Courier<'_>) {
        let conf = self.log.conf_state();
        let is_member = conf.voters.contains(&asked.question.asker.0);
        let term = self.raw.raft.raft_log.term(index.0).ok().filter(|_| is_member).map(Term);
        let running = self.clock.running(now);
        let point = term.map(|term| ReadPoint { index, term, running });
        // Whoever reads there waits for an entry that says so.
        self.stamp_wanted |= self.store.next_due().is_some_and(|due| due <= running);
        send_answer(self.shard, asked, point, courier);
    }

    /// Refuses all questions: this replica does not lead.
    pub(super) fn refuse_questions(&mut self, courier: &mut Courier<'_>) {
        for asked in std::mem::take(&mut self.questions) {
            send_answer(self.shard, &asked, None, courier);
        }
    }
}

fn send_answer(shard: ShardId, asked: &Asked, point: Option<ReadPoint>, courier: &mut Courier<'_>) {
    if let Some(frame) = courier.outbox.frame(asked.to, Lane::Turn) {
        let Question { asker, attempt } = asked.question;
        frame.answer(shard, &Answer { asker, attempt, point });
    }
}
