//! Checks histories of operations for linearizability.
//!
//! A *history* lists operations with the times of their calls and returns, as their clients saw
//! them. It is linearizable if every operation can be given one moment between its call and its
//! return such that a sequential [`Model`], fed in the order of these moments, answers the same.
//! [`check`] searches for such an order: the algorithm of Wing and Gong with the improvements of
//! Lowe (memory of visited states), on one key at a time, since keys are independent of each other.
//!
//! An operation whose outcome nobody knows may have happened at any time after its call, or never.
//! One that certainly did not happen must be left out of the history; if it had an effect after
//! all, the history will not be linearizable.
//!
//! The crate knows nothing of the system under test and depends on nothing. What it does not do:
//! find operations that were never answered, or compare replicas.

mod order;
pub mod register;
mod search;
mod sessions;

pub use order::{Misordered, Stamped, versions_follow_time};
pub use search::{Violation, check};
pub use sessions::{Effect, Session, SessionViolation};

use std::hash::Hash;

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<O> {
    /// It was answered at this time, with this answer.
    Returned {
        /// When, on the same clock as the calls.
        at: u64,
        /// What.
        output: O,
    },
    /// It may have happened at any time since its call, may yet happen, or never will.
    Unknown,
}

/// One operation of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<I, O> {
    /// What was asked.
    pub input: I,
    /// When it was asked.
    pub called: u64,
    /// What came of it.
    pub outcome: Outcome<O>,
    /// Places in the history of operations that must take effect before this one although they
    /// overlap with it: those sent earlier on the same connection. Their outcomes must be known.
    pub after: Vec<usize>,
    /// The same for operations of unknown outcome. They may take effect later all the same, or
    /// never; the search begins with orders in which they do not come later.
    pub likely_after: Vec<usize>,
}

impl<I, O> Operation<I, O> {
    /// The answer, if there is one.
    pub fn output(&self) -> Option<&O> {
        match &self.outcome {
            Outcome::Returned { output, .. } => Some(output),
            Outcome::Unknown => None,
        }
    }

    /// When it was answered: the end of time if nobody knows.
    pub fn returned(&self) -> u64 {
        match self.outcome {
            Outcome::Returned { at, .. } => at,
            Outcome::Unknown => u64::MAX,
        }
    }
}

/// A sequential specification.
pub trait Model {
    /// What it remembers.
    type State: Clone + Eq + Hash;
    /// What it is asked.
    type Input;
    /// What it answers.
    type Output;

    /// The state before the first operation.
    fn initial(&self) -> Self::State;

    /// A guess where the operation belongs, smaller is earlier: it decides what the search tries
    /// first, and not what it accepts.
    fn rank(&self, operation: &Operation<Self::Input, Self::Output>) -> u64 {
        operation.called
    }

    /// Appends to `next` every state in which `operation`, run in `state`, may leave the model:
    /// none if its answer is impossible there, several if its effect is not determined.
    fn step(
        &self,
        state: &Self::State,
        operation: &Operation<Self::Input, Self::Output>,
        next: &mut Vec<Self::State>,
    );
}
