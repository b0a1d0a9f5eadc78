//! The leader's lease: for how long a replica may answer reads without asking a majority again.
//!
//! A round that a majority confirmed proves that this replica led when the round was sent. Its
//! followers refuse votes for an election timeout after they heard of it (check_quorum), which is
//! at least `election_ticks - 1` whole ticks, since a tick is never delivered early. Until then
//! nobody else can be elected, and therefore nobody else can have acknowledged a write. A tenth is
//! taken off for clocks that run at different speeds.
//!
//! It holds no longer than its term. Once the leader has asked another to take over, the election
//! ignores what followers have heard, so that the lease is forgone for the rest of the term.
//! raft-rs' own lease is not used: it counts ticks, and a paused process counts none.
//!
//! What this file does not do: it says nothing of what has been applied. The caller lets a read
//! run only at a state that has everything committed at the check.

use crate::contract::{CoreConfig, ReadMode};
use crate::ids::{Nanos, Term};

/// Ticks without reads after which a lease is no longer renewed: idle shards ask nobody.
const IDLE_TICKS: u32 = 20;

/// See the module's description.
#[derive(Debug)]
pub struct Lease {
    mode: ReadMode,
    duration: Nanos,
    held: Option<(Term, Nanos)>,
    forgone: Option<Term>,
    /// Ticks since a read asked for it.
    idle_ticks: u32,
}

impl Lease {
    /// No lease yet.
    pub fn new(config: &CoreConfig) -> Self {
        let ticks = u64::from(config.election_ticks.saturating_sub(1));
        Lease {
            mode: config.reads,
            duration: Nanos(ticks * config.tick.0 / 10 * 9),
            held: None,
            forgone: None,
            idle_ticks: IDLE_TICKS,
        }
    }

    /// Counts a tick.
    pub fn tick(&mut self) {
        self.idle_ticks = self.idle_ticks.saturating_add(1);
    }

    /// Takes the proof that this replica led in `term` when the clock said `asked_at`.
    pub fn extend(&mut self, term: Term, asked_at: Nanos) {
        let until = Nanos(asked_at.0 + self.duration.0);
        if self.forgone != Some(term) && self.held.is_none_or(|held| held < (term, until)) {
            self.held = Some((term, until));
        }
    }

    /// Whether a read may run now, in `term`. Notes that reads make use of the lease.
    pub fn holds(&mut self, term: Term, now: Nanos) -> bool {
        self.idle_ticks = 0;
        self.left(term, now) > 0
    }

    /// Nanoseconds that are left of it.
    pub fn left(&self, term: Term, now: Nanos) -> u64 {
        match self.held {
            Some((held, until)) if held == term && self.mode == ReadMode::Lease => {
                until.0.saturating_sub(now.0)
            }
            _ => 0,
        }
    }

    /// Whether a round should be sent for its sake: reads use it, and half of it is over.
    pub fn wants_renewal(&self, term: Term, now: Nanos) -> bool {
        self.mode == ReadMode::Lease
            && self.forgone != Some(term)
            && self.idle_ticks < IDLE_TICKS
            && self.left(term, now) < self.duration.0 / 2
    }

    /// Gives it up for the rest of `term`.
    pub fn forgo(&mut self, term: Term) {
        self.held = None;
        self.forgone = Some(term);
    }
}
