//! Who waits for the commands of an entry, and until when.
//!
//! An entry gathers commands of many connections, forwarded ones among them, and each has its own
//! deadline: commands that have waited for a leader stand beside fresh ones. When a deadline
//! passes, whoever set it is answered, and the rest of the entry waits on.

use super::super::reads::ReadBatch;
use super::super::{Origin, Parcel};
use crate::ids::Nanos;

/// The origins of an entry's commands, in the order of the commands.
#[derive(Debug)]
pub(super) struct Waiting {
    /// `None` for one that was answered.
    origins: Vec<(Option<Origin>, Nanos)>,
    /// The earliest deadline of those that were not answered.
    earliest: Nanos,
}

impl Default for Waiting {
    fn default() -> Self {
        Waiting { origins: Vec::new(), earliest: Nanos(u64::MAX) }
    }
}

/// Entries' lists whose memory a replica keeps for later ones.
const SPARES_MAX: usize = 2;
/// A list with room for more commands is not kept.
const SPARE_COMMANDS_MAX: usize = 256;

/// Memory for the lists of later entries: those of earlier ones, bounded, since every replica has
/// some.
#[derive(Debug, Default)]
pub(super) struct SpareLists(Vec<Waiting>);

impl SpareLists {
    /// An empty list.
    pub(super) fn take(&mut self) -> Waiting {
        self.0.pop().unwrap_or_default()
    }

    /// Keeps the memory of a list that is not needed any more.
    pub(super) fn keep(&mut self, mut list: Waiting) {
        if self.0.len() < SPARES_MAX && list.origins.capacity() <= SPARE_COMMANDS_MAX {
            list.origins.clear();
            list.earliest = Nanos(u64::MAX);
            self.0.push(list);
        }
    }
}

impl Waiting {
    /// Adds the origin of the next command.
    pub(super) fn push(&mut self, origin: Origin, deadline: Nanos) {
        self.origins.push((Some(origin), deadline));
        self.earliest = self.earliest.min(deadline);
    }

    /// The earliest deadline; the end of time if nobody waits.
    pub(super) fn earliest(&self) -> Nanos {
        self.earliest
    }

    /// Who waits for the command at `ordinal`, and until when.
    pub(super) fn at(&self, ordinal: usize) -> Option<(Origin, Nanos)> {
        let &(origin, deadline) = self.origins.get(ordinal)?;
        origin.map(|origin| (origin, deadline))
    }

    /// Takes out who waits for the command at `ordinal`.
    pub(super) fn take_at(&mut self, ordinal: usize) -> Option<Origin> {
        self.origins.get_mut(ordinal)?.0.take()
    }

    /// All who wait.
    pub(super) fn iter(&self) -> impl Iterator<Item = Origin> + '_ {
        self.origins.iter().filter_map(|(origin, _)| *origin)
    }

    /// Takes out those whose deadline has passed.
    pub(super) fn take_overdue(&mut self, now: Nanos) -> Vec<Origin> {
        let mut overdue = Vec::new();
        if self.earliest > now {
            return overdue;
        }
        self.earliest = Nanos(u64::MAX);
        for (origin, deadline) in &mut self.origins {
            if *deadline <= now {
                overdue.extend(origin.take());
            } else if origin.is_some() {
                self.earliest = self.earliest.min(*deadline);
            }
        }
        overdue
    }
}

/// Reads that run while an entry is applied, each before the command at its position.
#[derive(Debug, Default)]
pub(super) struct Riders {
    batch: ReadBatch,
    positions: Vec<usize>,
}

impl Riders {
    /// Adds a read that runs before the command at `position`.
    pub(super) fn push(&mut self, position: usize, parcel: &Parcel<'_>) {
        self.positions.push(position);
        self.batch.push(parcel);
    }

    /// The reads, with their positions ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, Parcel<'_>)> {
        self.positions.iter().copied().zip(self.batch.iter())
    }

    /// The reads.
    pub(super) fn batch(&self) -> &ReadBatch {
        &self.batch
    }

    /// Takes out those whose deadline has passed.
    pub(super) fn take_overdue(&mut self, now: Nanos) -> ReadBatch {
        let mut overdue = ReadBatch::default();
        if self.batch.deadline() > now {
            return overdue;
        }
        let riders = std::mem::take(self);
        for (position, parcel) in riders.iter() {
            if parcel.deadline <= now {
                overdue.push(&parcel);
            } else {
                self.push(position, &parcel);
            }
        }
        overdue
    }
}
