//! Linearizable reads of one replica that leads: gathered, confirmed, then run.
//!
//! Reads of a turn share one ReadIndex round of raft-rs. One round is under way at a time; what
//! arrives meanwhile gathers for the next, so that load makes rounds larger and not more frequent.
//! Each attempt carries a number that is never used again, also not by a retry: raft-rs matches
//! acknowledgements by context, and late ones of an earlier attempt could otherwise confirm a
//! deposed leader. raft-rs drops rounds silently (no commit in its term, lost heartbeats), hence
//! the retry after a few ticks and the deadline.
//!
//! A confirmed batch waits until its index is applied. A read that finds a key due by the running
//! clock, but not by the applied stamp, waits for an entry with a newer stamp.
//!
//! Order within a connection: a write that must not overtake earlier reads *bars* them, by the
//! index and term of its entry. Just before that entry is applied, whatever is still barred by it
//! runs: the entry was proposed after those reads came in, so that its commit confirms them as
//! well. That holds after the replica has left office, too, and barred reads wait for it: tried
//! again elsewhere, they could see the write that came after them. If the entry is superseded, so
//! are they.
//! A read behind a write that was already proposed waits for that write's index, besides its
//! round: the write's commit alone says nothing about the time after it. Reads behind writes that
//! are not proposed yet do not come here at all; they travel with the write's entry.

use std::collections::VecDeque;

use super::{Origin, Parcel};
use crate::command::Command;
use crate::defect::{self, Defect};
use crate::ids::{Index, Nanos, Term};

/// Ticks after which an unconfirmed round is tried again.
const RETRY_TICKS: u32 = 3;
/// Batches whose memory is kept.
const SPARES_MAX: usize = 8;

/// Encoded read commands with their origins.
#[derive(Debug, Default)]
pub struct ReadBatch {
    /// The commands' bytes, one after the other.
    bytes: Vec<u8>,
    items: Vec<Item>,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    origin: Origin,
    ordered: bool,
    deadline: Nanos,
    /// Where the command ends.
    end: u32,
}

impl ReadBatch {
    /// Adds a command.
    pub fn push(&mut self, parcel: &Parcel<'_>) {
        self.bytes.extend_from_slice(parcel.command);
        let Parcel { origin, ordered, deadline, .. } = *parcel;
        self.items.push(Item { origin, ordered, deadline, end: self.bytes.len() as u32 });
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Bytes of their commands.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// When the first of them must be answered; the end of time if there is none.
    pub fn deadline(&self) -> Nanos {
        self.items.iter().map(|item| item.deadline).min().unwrap_or(Nanos(u64::MAX))
    }

    /// The commands in order.
    pub fn iter(&self) -> impl Iterator<Item = Parcel<'_>> {
        let mut start = 0;
        self.items.iter().map(move |&Item { origin, ordered, deadline, end }| {
            let command = &self.bytes[start..end as usize];
            start = end as usize;
            Parcel { origin, ordered, is_read: true, command, deadline }
        })
    }

    /// The keys of the commands in order.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.items.iter().filter_map(move |item| {
            let command = &self.bytes[start..item.end as usize];
            start = item.end as usize;
            Some(Command::key(command).ok()?.0)
        })
    }

    /// Takes out those whose deadline has passed.
    pub fn take_overdue(&mut self, now: Nanos) -> ReadBatch {
        match self.deadline() <= now {
            true => self.take_if(|parcel| parcel.deadline <= now),
            false => ReadBatch::default(),
        }
    }

    /// Takes out those for which `is_wanted` holds.
    pub fn take_if(&mut self, is_wanted: impl Fn(&Parcel<'_>) -> bool) -> ReadBatch {
        let mut taken = ReadBatch::default();
        for parcel in std::mem::take(self).iter() {
            let batch = if is_wanted(&parcel) { &mut taken } else { &mut *self };
            batch.push(&parcel);
        }
        taken
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.items.clear();
    }
}

/// How far a batch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It waits for the next round.
    Gathering,
    /// It is part of the round under way.
    Asked,
    /// A majority has confirmed it for this index.
    Confirmed(Index),
    /// Only the entry that bars it decides.
    Stranded,
}

#[derive(Debug)]
struct Pending {
    stage: Stage,
    /// It runs when this index is applied, at the earliest.
    not_before: Index,
    /// It must have run before this entry is applied.
    barred_by: Option<(Index, Term)>,
    batch: ReadBatch,
}

/// A round under way.
#[derive(Debug)]
struct Round {
    /// Its first attempt and its latest. Each was made after all its reads had come in.
    first: u64,
    latest: u64,
    /// The clock before the first attempt was sent.
    asked_at: Nanos,
    ticks_left: u32,
}

/// A round that a majority has confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// The clock before it was sent: then, at least, this replica led.
    pub asked_at: Nanos,
    /// How many reads had waited for it.
    pub reads: usize,
}

/// All reads of a replica.
#[derive(Debug)]
pub struct Reads {
    pending: VecDeque<Pending>,
    /// The round under way.
    round: Option<Round>,
    attempts: u64,
    gathered_bytes: usize,
    due: ReadBatch,
    spares: Vec<ReadBatch>,
}

impl Reads {
    /// None yet. Attempts are numbered from `first_attempt`, which must differ from life to life: a
    /// replica may come back under its id.
    pub fn new(first_attempt: u64) -> Self {
        Reads {
            pending: VecDeque::new(),
            round: None,
            attempts: first_attempt >> 1,
            gathered_bytes: 0,
            due: ReadBatch::default(),
            spares: Vec::new(),
        }
    }

    /// Adds a read to the next round, to be run when `not_before` is applied at the earliest.
    pub fn push(&mut self, parcel: &Parcel<'_>, not_before: Index) {
        self.gathered_bytes += parcel.command.len();
        let open = self
            .pending
            .iter_mut()
            .rev()
            .take_while(|pending| pending.stage == Stage::Gathering && pending.barred_by.is_none())
            .find(|pending| pending.not_before == not_before);
        match open {
            Some(pending) => pending.batch.push(parcel),
            None => {
                let mut batch = self.spares.pop().unwrap_or_default();
                batch.push(parcel);
                let stage = Stage::Gathering;
                self.pending.push_back(Pending { stage, not_before, barred_by: None, batch });
            }
        }
    }

    /// Batches that wait for anything.
    pub fn len(&self) -> usize {
        self.pending.len() + usize::from(!self.due.is_empty())
    }

    /// Bytes that wait for the next round.
    pub fn gathered_bytes(&self) -> usize {
        self.gathered_bytes
    }

    /// Bars all reads that have come in so far from running after the entry at `index` in `term`.
    pub fn bar(&mut self, index: Index, term: Term) {
        for pending in self.pending.iter_mut().rev() {
            if pending.barred_by.is_some() {
                break;
            }
            pending.barred_by = Some((index, term));
        }
    }

    /// Takes out the next batch that is barred by the entry at `index` in `term`.
    pub fn take_barred(&mut self, index: Index, term: Term) -> Option<ReadBatch> {
        let is_barred = |pending: &Pending| pending.barred_by == Some((index, term));
        let place = self.pending.iter().position(is_barred)?;
        let pending = self.pending.remove(place)?;
        if pending.stage == Stage::Gathering {
            self.gathered_bytes -= pending.batch.bytes.len();
        }
        Some(pending.batch)
    }

    /// Whether reads wait for a round.
    pub fn is_gathering(&self) -> bool {
        self.pending.iter().any(|pending| pending.stage == Stage::Gathering)
    }

    /// Whether a round is under way.
    pub fn has_round(&self) -> bool {
        self.round.is_some()
    }

    /// Confirms everything gathered for `index` without a round, by a lease. Says how many reads
    /// that were.
    pub fn confirm_gathered(&mut self, index: Index) -> usize {
        self.gathered_bytes = 0;
        self.confirm_stage(Stage::Gathering, index)
    }

    fn confirm_stage(&mut self, stage: Stage, index: Index) -> usize {
        let mut reads = 0;
        for pending in self.pending.iter_mut().filter(|pending| pending.stage == stage) {
            pending.stage = Stage::Confirmed(index.max(pending.not_before));
            reads += pending.batch.len();
        }
        reads
    }

    /// Starts a round for everything gathered, when the clock says `now`. Returns the attempt's
    /// number.
    pub fn start_round(&mut self, now: Nanos) -> u64 {
        for pending in &mut self.pending {
            if pending.stage == Stage::Gathering {
                pending.stage = Stage::Asked;
            }
        }
        self.gathered_bytes = 0;
        self.attempts += u64::from(!defect::is(Defect::ReusedReadContext));
        let first = self.attempts;
        let (asked_at, ticks_left) = (now, RETRY_TICKS);
        self.round = Some(Round { first, latest: first, asked_at, ticks_left });
        first
    }

    /// Counts a tick; returns the number of a new attempt if the round has to be tried again.
    pub fn tick(&mut self) -> Option<u64> {
        let round = self.round.as_mut()?;
        round.ticks_left = round.ticks_left.saturating_sub(1);
        if round.ticks_left > 0 {
            return None;
        }
        self.attempts += u64::from(!defect::is(Defect::ReusedReadContext));
        round.latest = self.attempts;
        round.ticks_left = RETRY_TICKS;
        Some(self.attempts)
    }

    /// Takes a confirmation by a majority that the group's commit index was `index`. Any attempt
    /// of the round will do: where messages take longer than a retry, the latest never returns.
    pub fn confirm(&mut self, attempt: u64, index: Index) -> Option<Confirmed> {
        let round = self.round.take_if(|round| (round.first..=round.latest).contains(&attempt))?;
        let reads = self.confirm_stage(Stage::Asked, index);
        Some(Confirmed { asked_at: round.asked_at, reads })
    }

    /// The next batch that may run now that `applied` is applied, and what bars it.
    pub fn next_runnable(&mut self, applied: Index) -> Option<(ReadBatch, Option<(Index, Term)>)> {
        let place = self.pending.iter().position(
            |pending| matches!(pending.stage, Stage::Confirmed(index) if index <= applied),
        )?;
        self.pending.remove(place).map(|pending| (pending.batch, pending.barred_by))
    }

    /// Keeps a batch's memory for the next.
    pub fn recycle(&mut self, mut batch: ReadBatch) {
        if self.spares.len() < SPARES_MAX {
            batch.clear();
            self.spares.push(batch);
        }
    }

    /// Sets a read aside until a newer stamp is applied. One that is barred waits for the entry
    /// that bars it, and runs as of that entry's stamp.
    pub fn push_due(&mut self, parcel: &Parcel<'_>, barred_by: Option<(Index, Term)>) {
        if barred_by.is_none() {
            self.due.push(parcel);
            return;
        }
        let waits = |p: &&mut Pending| p.barred_by == barred_by && p.stage == Stage::Stranded;
        match self.pending.iter_mut().find(waits) {
            Some(pending) => pending.batch.push(parcel),
            None => {
                let mut batch = self.spares.pop().unwrap_or_default();
                batch.push(parcel);
                let (stage, not_before) = (Stage::Stranded, Index(0));
                self.pending.push_front(Pending { stage, not_before, barred_by, batch });
            }
        }
    }

    /// Whether reads wait for a newer stamp.
    pub fn wants_stamp(&self) -> bool {
        !self.due.is_empty()
    }

    /// Notes that the entry at `index` carries a newer stamp.
    pub fn stamped(&mut self, index: Index) {
        if !self.due.is_empty() {
            let batch = std::mem::take(&mut self.due);
            let (stage, not_before) = (Stage::Confirmed(index), index);
            self.pending.push_back(Pending { stage, not_before, barred_by: None, batch });
        }
    }

    /// Takes out every read whose deadline has passed.
    pub fn take_overdue(&mut self, now: Nanos) -> Vec<ReadBatch> {
        let mut overdue = vec![self.due.take_overdue(now)];
        for pending in &mut self.pending {
            let batch = pending.batch.take_overdue(now);
            if pending.stage == Stage::Gathering {
                self.gathered_bytes -= batch.bytes.len();
            }
            overdue.push(batch);
        }
        overdue.retain(|batch| !batch.is_empty());
        self.pending.retain(|pending| !pending.batch.is_empty());
        if !overdue.is_empty() && !self.pending.iter().any(|p| p.stage == Stage::Asked) {
            self.round = None;
        }
        overdue
    }

    /// Whether anything would be given back if the replica led no more.
    pub fn has_unbarred(&self) -> bool {
        !self.due.is_empty() || self.pending.iter().any(|pending| pending.barred_by.is_none())
    }

    /// Takes out what no entry bars, oldest first: the replica leads no more. The rest waits for
    /// the fate of the entries that bar it.
    pub fn take_unbarred(&mut self) -> Vec<ReadBatch> {
        let mut all = vec![std::mem::take(&mut self.due)];
        for mut pending in std::mem::take(&mut self.pending) {
            if pending.barred_by.is_some() {
                pending.stage = Stage::Stranded;
                self.pending.push_back(pending);
            } else {
                all.push(pending.batch);
            }
        }
        all.retain(|batch| !batch.is_empty());
        self.round = None;
        self.gathered_bytes = 0;
        all
    }

    /// Takes everything out, oldest first.
    pub fn take_all(&mut self) -> Vec<ReadBatch> {
        let mut all = self.take_unbarred();
        all.extend(self.pending.drain(..).map(|pending| pending.batch));
        all
    }
}
