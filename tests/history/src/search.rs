//! The search for an order in which the operations of a history can have happened.
//!
//! Calls and returns stand in a list in the order of their times. What may come next is any call
//! before the first return that is left; taking an operation lifts its call and return out. Pairs
//! of the set of operations taken and the state they led to are remembered, since what follows
//! depends on nothing else.
//!
//! What keeps the search short without making it miss anything:
//! - An operation that leaves the state as it is, such as a read, is taken at once wherever it is
//!   accepted: later is never better.
//! - The others are tried in the order of the model's [`rank`](Model::rank). Those with an unknown
//!   outcome come last, because most of them never happened or were never seen.
//! - An operation of unknown outcome is taken only where the next one shows a trace of it: if that
//!   leads to the same state without it, it can as well come later, or never.
//! - Two of unknown outcome that commute are taken in one of both orders only.
//!
//! Times that are equal count as overlapping: a clock too coarse makes the check weaker, not wrong.

use std::collections::HashSet;

use crate::{Model, Operation, Outcome};

/// Why a history was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// No order exists. The longest one found, and the operation whose return could not be passed.
    NotLinearizable {
        /// Places of operations in an order that the model accepts as far as it goes.
        longest: Vec<usize>,
        /// The operation that had to be next and could not.
        stuck_at: usize,
    },
    /// The search took more than the steps it was allowed: neither proof nor disproof. A failure
    /// all the same.
    GaveUp {
        /// As above.
        longest: Vec<usize>,
        /// As above.
        stuck_at: usize,
    },
}

/// Looks for an order of `operations` that `model` accepts, in at most `steps` steps, and returns
/// the places of the operations in that order.
///
/// # Errors
/// If there is none, or if it takes too long to tell.
pub fn check<M: Model>(
    model: &M,
    operations: &[Operation<M::Input, M::Output>],
    steps: u64,
) -> Result<Vec<usize>, Violation> {
    Search::new(model, operations).run(steps)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Call,
    Return,
}

/// A place in the list of calls and returns. The list is circular around a head that is neither.
struct Node {
    kind: Kind,
    operation: usize,
    previous: usize,
    next: usize,
}

const HEAD: usize = 0;

/// The set of operations taken.
type Taken = Vec<u64>;

/// A state on the path, and what is still to be tried from it.
struct Level<S> {
    state: S,
    /// The call whose operation led here; none at the start.
    came_by: Option<usize>,
    /// Calls that may be next, the most promising one last.
    candidates: Vec<usize>,
    /// The call being tried, and the states it may yet lead to.
    trying: usize,
    successors: Vec<S>,
}

struct Search<'a, M: Model> {
    model: &'a M,
    operations: &'a [Operation<M::Input, M::Output>],
    nodes: Vec<Node>,
    return_node: Vec<Option<usize>>,
    taken: Taken,
    seen: HashSet<(Taken, M::State)>,
    path: Vec<Level<M::State>>,
    /// Operations with a known outcome that are not taken yet.
    open: usize,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, operations: &'a [Operation<M::Input, M::Output>]) -> Self {
        let mut events = Vec::with_capacity(2 * operations.len());
        for (place, operation) in operations.iter().enumerate() {
            events.push((operation.called, 0, place, Kind::Call));
            if let Outcome::Returned { at, .. } = operation.outcome {
                events.push((at.max(operation.called), 1, place, Kind::Return));
            }
        }
        events.sort_by_key(|&(time, order, place, _)| (time, order, place));
        let count = events.len() + 1;
        let mut nodes = Vec::with_capacity(count);
        nodes.push(Node { kind: Kind::Return, operation: 0, previous: count - 1, next: 1 % count });
        let mut return_node = vec![None; operations.len()];
        for (place, &(_, _, operation, kind)) in events.iter().enumerate() {
            let node = place + 1;
            if kind == Kind::Return {
                return_node[operation] = Some(node);
            }
            nodes.push(Node { kind, operation, previous: node - 1, next: (node + 1) % count });
        }
        Search {
            model,
            operations,
            nodes,
            open: return_node.iter().flatten().count(),
            return_node,
            taken: vec![0; operations.len().div_ceil(64)],
            seen: HashSet::new(),
            path: Vec::new(),
        }
    }

    fn run(mut self, steps: u64) -> Result<Vec<usize>, Violation> {
        let mut longest = Vec::new();
        let mut stuck_at = 0;
        self.enter(self.model.initial(), None);
        for _ in 0..steps {
            if self.open == 0 {
                return Ok(self.order());
            }
            if let Some((call, state)) = self.choose() {
                self.lift(call);
                self.enter(state, Some(call));
                continue;
            }
            if self.path.len() > longest.len() {
                longest = self.order();
                stuck_at = self.nodes[self.first_return()].operation;
            }
            match self.path.pop().and_then(|level| level.came_by) {
                Some(call) => self.put_back(call),
                None => return Err(Violation::NotLinearizable { longest, stuck_at }),
            }
        }
        Err(Violation::GaveUp { longest, stuck_at })
    }

    /// Goes on from `state`, which the call `came_by` led to.
    fn enter(&mut self, state: M::State, came_by: Option<usize>) {
        let mut candidates = Vec::new();
        let mut node = self.nodes[HEAD].next;
        while self.nodes[node].kind == Kind::Call {
            let operation = &self.operations[self.nodes[node].operation];
            if operation.after.iter().all(|&before| is_in(&self.taken, before)) {
                let is_unknown = operation.output().is_none();
                candidates.push((is_unknown, self.model.rank(operation), node));
            }
            node = self.nodes[node].next;
        }
        candidates.sort_unstable_by(|one, other| other.cmp(one));
        let candidates = candidates.into_iter().map(|(.., node)| node).collect();
        let successors = Vec::new();
        self.path.push(Level { state, came_by, candidates, trying: HEAD, successors });
        self.choose_at_once();
    }

    /// If a candidate leaves the state as it is, nothing else need be tried.
    fn choose_at_once(&mut self) {
        let Some(level) = self.path.last_mut() else { return };
        let mut successors = Vec::new();
        for &node in level.candidates.iter().rev() {
            let operation = &self.operations[self.nodes[node].operation];
            if operation.output().is_none() {
                break;
            }
            successors.clear();
            self.model.step(&level.state, operation, &mut successors);
            if successors.contains(&level.state) {
                level.candidates.clear();
                level.trying = node;
                level.successors = vec![level.state.clone()];
                return;
            }
        }
    }

    /// The next call to take from where the path ends, and the state it leads to.
    fn choose(&mut self) -> Option<(usize, M::State)> {
        loop {
            let level = self.path.last_mut()?;
            while let Some(state) = level.successors.pop() {
                let place = self.nodes[level.trying].operation;
                self.taken[place / 64] |= 1 << (place % 64);
                if self.seen.insert((self.taken.clone(), state.clone())) {
                    return Some((level.trying, state));
                }
                self.taken[place / 64] &= !(1 << (place % 64));
            }
            level.trying = level.candidates.pop()?;
            let operation = &self.operations[self.nodes[level.trying].operation];
            self.model.step(&level.state, operation, &mut level.successors);
            self.prune();
        }
    }

    /// Takes successors out that can be reached without the operation of unknown outcome that the
    /// path ends with, or by taking it after the one that is tried now.
    fn prune(&mut self) {
        let [.., earlier, level] = &mut self.path[..] else { return };
        let Some(last) = level.came_by.map(|node| self.nodes[node].operation) else { return };
        let tried = self.nodes[level.trying].operation;
        let (last_one, tried_one) = (&self.operations[last], &self.operations[tried]);
        if last_one.output().is_some() {
            return;
        }
        let mut without = Vec::new();
        self.model.step(&earlier.state, tried_one, &mut without);
        let mut swapped = Vec::new();
        if tried_one.output().is_none() && tried < last {
            for state in &without {
                self.model.step(state, last_one, &mut swapped);
            }
        }
        level.successors.retain(|state| !without.contains(state) && !swapped.contains(state));
    }

    fn first_return(&self) -> usize {
        let mut node = self.nodes[HEAD].next;
        while self.nodes[node].kind == Kind::Call {
            node = self.nodes[node].next;
        }
        node
    }

    fn lift(&mut self, call: usize) {
        self.unlink(call);
        if let Some(end) = self.return_node[self.nodes[call].operation] {
            self.unlink(end);
            self.open -= 1;
        }
    }

    fn put_back(&mut self, call: usize) {
        let place = self.nodes[call].operation;
        if let Some(end) = self.return_node[place] {
            self.link(end);
            self.open += 1;
        }
        self.link(call);
        self.taken[place / 64] &= !(1 << (place % 64));
    }

    fn unlink(&mut self, node: usize) {
        let Node { previous, next, .. } = self.nodes[node];
        self.nodes[previous].next = next;
        self.nodes[next].previous = previous;
    }

    fn link(&mut self, node: usize) {
        let Node { previous, next, .. } = self.nodes[node];
        self.nodes[previous].next = node;
        self.nodes[next].previous = node;
    }

    fn order(&self) -> Vec<usize> {
        let calls = self.path.iter().filter_map(|level| level.came_by);
        calls.map(|node| self.nodes[node].operation).collect()
    }
}

fn is_in(taken: &Taken, place: usize) -> bool {
    taken[place / 64] >> (place % 64) & 1 == 1
}
