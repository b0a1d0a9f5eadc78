//! What a leader has gathered for its next entries, and the entries that it has proposed.
//!
//! Commands are gathered in the order in which they come, into entries as full as entries may be;
//! when they are proposed is the business of the turn. Gathering a command copies it, and in steady
//! state allocates nothing: every entry begins with as much memory as the last one needed, and
//! lists of who waits are used again.

use super::super::{Courier, Parcel};
use super::Replica;
use super::waiting::{Riders, Waiting};
use crate::entry::{EntryBuilder, EntryReader};
use crate::ids::{Index, Nanos, Term};
use crate::reply::Status;
use crate::store::Opening;

/// Commands gathered for an entry.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub builder: EntryBuilder,
    pub waiting: Waiting,
    pub riders: Riders,
    /// Whether a connection has reads under way that this entry must not overtake.
    pub bars_reads: bool,
}

impl Gathered {
    /// Takes it apart again: visits its commands, and the reads between them, in order.
    pub fn scatter(mut self, mut visit: impl FnMut(&Parcel<'_>)) {
        let ordered = self.bars_reads;
        let entry = self.builder.finish(Opening::default());
        let Ok(reader) = EntryReader::new(&entry) else { return };
        let mut riders = self.riders.iter().peekable();
        let mut encoded = Vec::new();
        for (ordinal, command) in reader.commands().enumerate() {
            while let Some((_, parcel)) = riders.next_if(|(position, _)| *position <= ordinal) {
                visit(&parcel);
            }
            encoded.clear();
            command.encode(&mut encoded);
            if let Some((origin, deadline)) = self.waiting.at(ordinal) {
                visit(&Parcel { origin, ordered, is_read: false, command: &encoded, deadline });
            }
        }
        for (_, parcel) in riders {
            visit(&parcel);
        }
    }
}

/// An entry on its way through the log.
#[derive(Debug)]
pub(super) struct Proposed {
    pub index: Index,
    pub term: Term,
    pub bytes: usize,
    pub waiting: Waiting,
    pub riders: Riders,
}

impl Proposed {
    /// Whether nobody waits for it.
    pub fn is_settled(&self) -> bool {
        self.waiting.earliest() == Nanos(u64::MAX) && self.riders.batch().is_empty()
    }
}

impl Replica {
    /// Adds a write to the entry that will be proposed next.
    pub(super) fn gather(&mut self, parcel: &Parcel<'_>) {
        let has_room = self
            .gathered
            .back()
            .is_some_and(|gathered| gathered.builder.has_room_for(parcel.command.len()));
        if !has_room {
            self.gathered.push_back(Gathered {
                builder: EntryBuilder::with_reserve(self.last_entry_bytes),
                waiting: self.spare_lists.take(),
                ..Gathered::default()
            });
        }
        if let Some(gathered) = self.gathered.back_mut() {
            gathered.builder.push(parcel.command);
            gathered.waiting.push(parcel.origin, parcel.deadline);
            gathered.bars_reads |= parcel.ordered;
            self.gathered_bytes += parcel.command.len();
        }
    }

    /// Answers what was gathered and has waited too long, and gathers the rest anew.
    pub(super) fn expire_gathered(&mut self, now: Nanos, courier: &mut Courier<'_>) {
        let is_overdue = |gathered: &Gathered| {
            gathered.waiting.earliest() <= now || gathered.riders.batch().deadline() <= now
        };
        if !self.gathered.iter().any(is_overdue) {
            return;
        }
        let view = self.view();
        self.gathered_bytes = 0;
        for gathered in std::mem::take(&mut self.gathered) {
            gathered.scatter(|parcel| match (parcel.deadline <= now, parcel.is_read) {
                (true, true) => {
                    courier.fail(self.shard, view, &[parcel.origin], Status::ReadTimeout);
                }
                (true, false) => {
                    courier.fail(self.shard, view, &[parcel.origin], Status::NoLeader);
                }
                (false, false) => self.gather(parcel),
                (false, true) => match self.gathered.back_mut() {
                    Some(gathered) => gathered.riders.push(gathered.builder.len(), parcel),
                    // The write it was to follow is not there any more.
                    None => self.reads.push(parcel, Index(0)),
                },
            });
        }
    }
}
