//! Linearizable reads of one replica that follows: gathered, asked about, then run.
//!
//! The reads of a turn share one question to the leader: how far must this replica have come? The
//! answer is the leader's commit index at a moment after the question had arrived, and so after
//! the reads had. Once that index is applied here, the store shows everything that was
//! acknowledged, or shown by any replica, before the reads came in.
//!
//! Each question carries a number that is never used again, also not by a repetition or by a later
//! life of the replica. An answer serves every read that was asked about by it or by an earlier
//! question; a late one is as good. Questions and answers may be lost, hence the repetition after
//! a few ticks. Whoever has waited for longer goes to the leader.
//!
//! A follower has no say in time: whether a key has expired is decided by the applied stamp alone.
//! The answer tells what time it is for the leader. A read that finds a key due by then, but not by
//! the stamp, waits until an entry with such a stamp is applied, which the leader proposes anyway.
//! So a replica shows a key absent only once an entry says so, and every later question is answered
//! with an index that covers this entry: what one replica has shown absent, no other shows.
//!
//! Invariant: reads in here are not ordered with others of their connections. Those that are go to
//! the leader, and are taken out of here when a write follows them.

use std::collections::VecDeque;

use super::reads::ReadBatch;
use super::{Origin, Parcel};
use crate::defect::{self, Defect};
use crate::ids::{Index, Millis, Nanos, Term};

/// Ticks after which a question is asked again.
const RETRY_TICKS: u32 = 3;
/// Ticks after which reads are left to the leader.
const PATIENCE_TICKS: u32 = 6;

/// How far a replica must have come to answer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPoint {
    /// The leader's commit index.
    pub index: Index,
    /// The term of the entry there, by which the replica knows whether its own log has it.
    pub term: Term,
    /// Shard time at the leader.
    pub running: Millis,
}

/// How far a batch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It waits for the next question.
    Gathering,
    /// The question with this number was the first after it had come in.
    Asked(u64),
    /// It runs when this point is applied.
    Confirmed(ReadPoint),
    /// It runs when the applied stamp says it is this late.
    Due(Millis),
    /// The answer leaves it to the leader.
    Refused,
}

#[derive(Debug)]
struct Pending {
    stage: Stage,
    age_ticks: u32,
    batch: ReadBatch,
}

/// All reads of a replica that follows. See the module's description.
#[derive(Debug)]
pub struct FollowerReads {
    pending: VecDeque<Pending>,
    /// Questions of this life have greater numbers than the first, up to the latest.
    first_attempt: u64,
    latest_attempt: u64,
}

impl FollowerReads {
    /// None yet. Questions are numbered from `first_attempt`, which must differ from life to life.
    pub fn new(first_attempt: u64) -> Self {
        let first_attempt = first_attempt >> 1;
        FollowerReads { pending: VecDeque::new(), first_attempt, latest_attempt: first_attempt }
    }

    /// Adds a read to the next question.
    pub fn push(&mut self, parcel: &Parcel<'_>) {
        match self.pending.back_mut() {
            Some(pending) if pending.stage == Stage::Gathering => pending.batch.push(parcel),
            _ => self.add(Stage::Gathering, parcel),
        }
    }

    /// Sets a read aside until the applied stamp is at `running`.
    pub fn push_due(&mut self, parcel: &Parcel<'_>, running: Millis) {
        let is_same = |pending: &&mut Pending| pending.stage == Stage::Due(running);
        match self.pending.iter_mut().find(is_same) {
            Some(pending) => pending.batch.push(parcel),
            None => self.add(Stage::Due(running), parcel),
        }
    }

    fn add(&mut self, stage: Stage, parcel: &Parcel<'_>) {
        let mut batch = ReadBatch::default();
        batch.push(parcel);
        self.pending.push_back(Pending { stage, age_ticks: 0, batch });
    }

    /// Bytes of the commands that wait.
    pub fn held_bytes(&self) -> usize {
        self.pending.iter().map(|pending| pending.batch.bytes_len()).sum()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The number of a question, if there are reads that none was asked for.
    pub fn ask(&mut self) -> Option<u64> {
        // What gathers stands at the end, or before reads that are due.
        let is_gathering = |pending: &&mut Pending| pending.stage == Stage::Gathering;
        let mut gathering = self.pending.iter_mut().filter(is_gathering).peekable();
        gathering.peek()?;
        self.latest_attempt += 1;
        for pending in gathering {
            pending.stage = Stage::Asked(self.latest_attempt);
        }
        Some(self.latest_attempt)
    }

    /// Counts a tick; returns the number of a new question if an old one has to be repeated.
    pub fn tick(&mut self) -> Option<u64> {
        let mut is_late = false;
        for pending in &mut self.pending {
            pending.age_ticks += 1;
            is_late |= matches!(pending.stage, Stage::Asked(_))
                && pending.age_ticks.is_multiple_of(RETRY_TICKS);
        }
        is_late.then(|| {
            self.latest_attempt += 1;
            self.latest_attempt
        })
    }

    /// Takes the answer to the question `attempt`.
    pub fn confirm(&mut self, attempt: u64, point: ReadPoint) {
        for pending in self.answered_by(attempt) {
            pending.stage = Stage::Confirmed(point);
        }
    }

    /// Notes that the question `attempt` will not be answered. Its reads stay until the end of the
    /// turn, where they can still be recalled.
    pub fn refuse(&mut self, attempt: u64) {
        for pending in self.answered_by(attempt) {
            pending.stage = Stage::Refused;
        }
    }

    /// Takes out the reads whose question was not answered.
    pub fn take_refused(&mut self) -> Vec<ReadBatch> {
        self.take(|pending| pending.stage == Stage::Refused)
    }

    /// The batches that an answer to `attempt` concerns; none if no such question was asked in this
    /// life.
    fn answered_by(&mut self, attempt: u64) -> impl Iterator<Item = &mut Pending> {
        let is_mine = attempt > self.first_attempt && attempt <= self.latest_attempt;
        self.pending.iter_mut().filter(move |pending| {
            is_mine && matches!(pending.stage, Stage::Asked(asked) if asked <= attempt)
        })
    }

    /// The furthest point that reads wait for.
    pub fn furthest(&self) -> Option<ReadPoint> {
        let points = self.pending.iter().filter_map(|pending| match pending.stage {
            Stage::Confirmed(point) => Some(point),
            _ => None,
        });
        points.max_by_key(|point| point.index)
    }

    /// The next batch that may run now that `applied` is applied, with this stamp, and as of which
    /// shard time.
    pub fn next_runnable(&mut self, applied: Index, stamp: Millis) -> Option<(ReadBatch, Millis)> {
        let may_run = |pending: &Pending| match pending.stage {
            Stage::Confirmed(point) => {
                point.index <= applied || defect::is(Defect::FollowerReadsAtOnce)
            }
            Stage::Due(running) => running <= stamp,
            Stage::Gathering | Stage::Asked(_) | Stage::Refused => false,
        };
        let place = self.pending.iter().position(may_run)?;
        let pending = self.pending.remove(place)?;
        let running = match pending.stage {
            Stage::Confirmed(point) => point.running,
            _ => stamp,
        };
        Some((pending.batch, running))
    }

    /// Takes out what the leader has not confirmed yet: this replica follows nobody any more.
    pub fn take_unconfirmed(&mut self) -> Vec<ReadBatch> {
        self.take(|pending| matches!(pending.stage, Stage::Gathering | Stage::Asked(_)))
    }

    /// Takes out what has waited for so long that the leader may as well answer it.
    pub fn take_aged(&mut self) -> Vec<ReadBatch> {
        self.take(|pending| pending.age_ticks >= PATIENCE_TICKS)
    }

    /// Takes everything out.
    pub fn take_all(&mut self) -> Vec<ReadBatch> {
        self.take(|_| true)
    }

    fn take(&mut self, is_wanted: impl Fn(&Pending) -> bool) -> Vec<ReadBatch> {
        let wanted = self.pending.iter_mut().filter(|pending| is_wanted(pending));
        let taken = wanted.map(|pending| std::mem::take(&mut pending.batch)).collect();
        self.forget_empty();
        taken
    }

    /// Takes out every read whose deadline has passed.
    pub fn take_overdue(&mut self, now: Nanos) -> Vec<ReadBatch> {
        let overdue = |pending: &mut Pending| pending.batch.take_overdue(now);
        let overdue: Vec<_> = self.pending.iter_mut().map(overdue).collect();
        self.forget_empty();
        overdue
    }

    /// Takes out the reads of `connection` of this core: a write follows them.
    pub fn recall(&mut self, connection: u32) -> ReadBatch {
        let mut recalled = ReadBatch::default();
        for pending in &mut self.pending {
            let is_of_connection = |parcel: &Parcel<'_>| match parcel.origin {
                Origin::Local(token) => token.connection == connection,
                Origin::Remote { .. } => false,
            };
            for parcel in pending.batch.take_if(is_of_connection).iter() {
                recalled.push(&parcel);
            }
        }
        self.forget_empty();
        recalled
    }

    fn forget_empty(&mut self) {
        self.pending.retain(|pending| !pending.batch.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Token;

    const LIFE: u64 = 1 << 40;

    fn parcel(sequence: u32) -> Parcel<'static> {
        let origin = Origin::Local(Token { connection: sequence % 2, sequence, part: 0 });
        Parcel { origin, ordered: false, is_read: true, command: b"get", deadline: Nanos(100) }
    }

    fn point(index: u64, running: u64) -> ReadPoint {
        ReadPoint { index: Index(index), term: Term(1), running: Millis(running) }
    }

    fn runnable(reads: &mut FollowerReads, applied: u64, stamp: u64) -> Vec<Origin> {
        let mut origins = Vec::new();
        while let Some((batch, _)) = reads.next_runnable(Index(applied), Millis(stamp)) {
            origins.extend(batch.iter().map(|parcel| parcel.origin));
        }
        origins
    }

    #[test]
    fn an_answer_serves_only_what_came_in_before_its_question() {
        let mut reads = FollowerReads::new(LIFE);
        reads.push(&parcel(1));
        let first = reads.ask().expect("a question");
        reads.push(&parcel(2));
        let second = reads.ask().expect("another");
        reads.push(&parcel(3));
        reads.confirm(first, point(5, 0));
        assert_eq!(runnable(&mut reads, 4, 0), []);
        assert_eq!(runnable(&mut reads, 5, 0), [parcel(1).origin]);
        reads.confirm(second, point(6, 0));
        assert_eq!(runnable(&mut reads, 6, 0), [parcel(2).origin]);
        assert!(reads.ask().is_some());
    }

    #[test]
    fn a_later_answer_serves_earlier_questions_and_a_late_one_is_as_good() {
        let mut reads = FollowerReads::new(LIFE);
        reads.push(&parcel(1));
        let first = reads.ask().expect("a question");
        let retries: Vec<_> = (0..RETRY_TICKS).filter_map(|_| reads.tick()).collect();
        assert_eq!(retries, [first + 1]);
        reads.confirm(first, point(5, 0));
        assert_eq!(runnable(&mut reads, 5, 0), [parcel(1).origin]);
        reads.push(&parcel(2));
        reads.ask();
        reads.push(&parcel(3));
        let last = reads.ask().expect("a question");
        reads.confirm(last, point(5, 0));
        assert_eq!(runnable(&mut reads, 5, 0), [parcel(2).origin, parcel(3).origin]);
    }

    #[test]
    fn answers_to_questions_of_another_life_are_nobodys() {
        let mut reads = FollowerReads::new(LIFE);
        reads.push(&parcel(1));
        let asked = reads.ask().expect("a question");
        for attempt in [0, asked - 1, asked + 1, u64::MAX] {
            reads.confirm(attempt, point(1, 0));
            reads.refuse(attempt);
            assert!(reads.take_refused().is_empty());
        }
        assert_eq!(runnable(&mut reads, 9, 9), []);
    }

    #[test]
    fn a_key_due_by_the_leaders_time_is_read_once_the_stamp_is_as_late() {
        let mut reads = FollowerReads::new(LIFE);
        reads.push(&parcel(1));
        let asked = reads.ask().expect("a question");
        reads.confirm(asked, point(5, 70));
        let (batch, running) = reads.next_runnable(Index(5), Millis(60)).expect("it may run");
        assert_eq!(running, Millis(70));
        for parcel in batch.iter() {
            reads.push_due(&parcel, running);
        }
        assert_eq!(runnable(&mut reads, 9, 69), []);
        assert_eq!(runnable(&mut reads, 9, 70), [parcel(1).origin]);
    }

    #[test]
    fn recalled_reads_are_those_of_the_connection_in_any_stage() {
        let mut reads = FollowerReads::new(LIFE);
        for sequence in [1, 2, 3] {
            reads.push(&parcel(sequence));
        }
        let asked = reads.ask().expect("a question");
        reads.push(&parcel(5));
        reads.confirm(asked, point(1, 0));
        let recalled: Vec<_> = reads.recall(1).iter().map(|parcel| parcel.origin).collect();
        assert_eq!(recalled, [1, 3, 5].map(|sequence| parcel(sequence).origin));
        assert_eq!(runnable(&mut reads, 1, 0), [parcel(2).origin]);
        assert!(reads.is_empty());
    }
}
