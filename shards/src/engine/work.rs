//! How much of what can wait a core does in one turn.
//!
//! While a core is in a turn it hears nobody. What comes in bounds most of what a turn does, but
//! not all: a follower that has lagged behind is handed megabytes of committed entries at once, and
//! a million keys may be due in the same second, in all shards. Such work is cut here, by a count
//! and not by a clock, so that the same inputs still give the same outputs. What is left over is
//! taken up by the next turn, which follows soon.
//!
//! Two things are held back. *Applying*: replicas that got nothing of a turn's share come first in
//! the next one. *Removing* for its own sake: shards in which more is to expire or to evict queue,
//! and now and then the leader of one of them may propose an entry for no other reason; not while
//! applying lags behind. What is removed is out of sight already, or only too much, so there is
//! time: as fast as it could be done it would take the CPU from those who are waiting. Messages,
//! proposals of commands and what goes to the log do not wait, so that no election depends on how
//! much there is to do.

use std::collections::VecDeque;

use crate::ids::{Nanos, ShardId};

/// What may be applied in one turn, in units. A unit is about what a small command takes, or the
/// removal of an entry: some three tenths of a microsecond when memory is cold.
const UNITS_PER_TURN: u64 = 4_096;
/// A unit for so many bytes of an entry, since values are copied and hashed.
const BYTES_PER_UNIT: u64 = 1_024;
/// How often a core proposes an entry for no other reason than that there is more to remove. Some
/// five hundred entries are removed by each, which makes a quarter of a million per second; every
/// follower has as much to do with it as the leader has.
const REMOVAL_INTERVAL: Nanos = Nanos(2_000_000);

/// What is left of a turn's share, and who waits for the next. See the module's description.
#[derive(Debug, Default)]
pub struct Work {
    units: u64,
    has_refused: bool,
    /// Shards that were refused in this turn.
    hungry: Vec<ShardId>,
    /// Shards that have more to remove.
    removals: VecDeque<ShardId>,
    /// When the next of them may go on.
    next_removal: Nanos,
}

impl Work {
    /// A turn begins. Adds the shards that come first, as they got nothing in the last.
    pub fn begin_turn(&mut self, first: &mut Vec<ShardId>) {
        self.units = UNITS_PER_TURN;
        first.append(&mut self.hungry);
    }

    /// Whether something may be applied. The last of it may exceed the share. A refusal is
    /// remembered.
    pub fn may_apply(&mut self) -> bool {
        self.has_refused |= self.units == 0;
        self.units > 0
    }

    /// An entry was applied: so many commands and removals, and its length in bytes.
    pub fn spend(&mut self, operations: u64, bytes: usize) {
        let units = 1 + operations + bytes as u64 / BYTES_PER_UNIT;
        self.units = self.units.saturating_sub(units);
    }

    /// Ends a shard's part of the turn. Says whether it was refused something: then it comes first
    /// in the next turn.
    pub fn end_part(&mut self, shard: ShardId) -> bool {
        let was_refused = std::mem::take(&mut self.has_refused);
        if was_refused {
            self.hungry.push(shard);
        }
        was_refused
    }

    /// A shard that is not among them already joins those with more to remove.
    pub fn queue_removal(&mut self, shard: ShardId) {
        self.removals.push_back(shard);
    }

    /// Takes the shard out that may go on removing in the turn that begins, if any.
    pub fn take_removal(&mut self, now: Nanos) -> Option<ShardId> {
        if now < self.next_removal {
            return None;
        }
        let shard = self.removals.pop_front()?;
        self.next_removal = Nanos(now.0 + REMOVAL_INTERVAL.0);
        Some(shard)
    }

    /// When a turn is due for what was left over, if anything was.
    pub fn next_turn(&self, now: Nanos) -> Option<Nanos> {
        match (self.hungry.is_empty(), self.removals.is_empty()) {
            (false, _) => Some(now),
            (true, false) => Some(self.next_removal.max(now)),
            (true, true) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_applies_until_its_share_is_spent_and_who_was_refused_comes_first_in_the_next() {
        let mut work = Work::default();
        let mut first = Vec::new();
        work.begin_turn(&mut first);
        assert!(first.is_empty());
        work.spend(UNITS_PER_TURN - 2, 0);
        assert!(work.may_apply());
        assert!(!work.end_part(ShardId(1)) && work.next_turn(Nanos(7)).is_none());
        work.spend(0, 0);
        assert!(!work.may_apply());
        assert!(work.end_part(ShardId(2)) && work.next_turn(Nanos(7)) == Some(Nanos(7)));
        assert!(!work.end_part(ShardId(3)), "it asked for nothing");
        work.begin_turn(&mut first);
        assert_eq!(first, [ShardId(2)]);
        work.spend(0, (UNITS_PER_TURN * BYTES_PER_UNIT) as usize);
        assert!(!work.may_apply(), "a large value is work as well");
    }

    #[test]
    fn shards_go_on_removing_one_after_the_other_at_a_steady_pace() {
        let mut work = Work::default();
        let shards: Vec<_> = (0..32).map(ShardId).collect();
        shards.iter().for_each(|&shard| work.queue_removal(shard));
        let mut now = Nanos(5);
        for &shard in &shards {
            assert_eq!(work.next_turn(now), Some(now));
            assert_eq!(work.take_removal(now), Some(shard));
            assert_eq!(work.take_removal(now), None, "not two at once");
            now = Nanos(now.0 + REMOVAL_INTERVAL.0);
        }
        assert_eq!((work.next_turn(now), work.take_removal(now)), (None, None));
    }
}
