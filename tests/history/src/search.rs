//! The search for an order in which the operations of a history can have happened.
//!
//! Calls and returns stand in a list in the order of their times. What may come next is any call
//! before the first return that is left; taking an operation lifts its call and return out. What
//! was visited is remembered as the set of operations taken and the state they led to, since what
//! follows depends on nothing else.
//!
//! What keeps the search short without making it miss anything:
//! - An operation that leaves the state as it is, such as a read, is taken at once wherever it is
//!   accepted: later is never better.
//! - The others are tried in the order of the model's [`rank`](Model::rank). Those with an unknown
//!   outcome come last, because most of them never happened or were never seen.
//! - An operation of unknown outcome is taken only where the next one shows a trace of it: if that
//!   leads to the same state without it, it can as well come later, or never.
//! - A state that was visited with the same operations of known outcome and fewer of unknown
//!   outcome is not visited again: whatever can follow could follow then.
//!
//! Times that are equal count as overlapping: a clock too coarse makes the check weaker, not wrong.

use std::collections::HashMap;

use crate::{Model, Operation, Outcome};

/// Why a history was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// No order exists. The longest one found, and the operation whose return could not be passed.
    NotLinearizable {
        /// Places of operations in an order that the model accepts as far as it goes, with as
        /// many of known outcome as was possible.
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
    let mut verdict = Err(Violation::GaveUp { longest: Vec::new(), stuck_at: 0 });
    for unknown_in_a_row in UNKNOWN_IN_A_ROW {
        let steps = steps / UNKNOWN_IN_A_ROW.len() as u64;
        verdict = Search::new(model, operations, unknown_in_a_row).run(steps);
        if verdict.is_ok() {
            break;
        }
    }
    verdict
}

/// The search begins with orders that have few operations of unknown outcome in a row, and these
/// in the order of their connections: where many of them overlap, there are too many others. The
/// last attempt has no such limits, and only its verdict counts against a history.
const UNKNOWN_IN_A_ROW: [usize; 5] = [1, 2, 4, 12, usize::MAX];

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

/// A set of operations.
type Set = Vec<u64>;

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
    /// The operations taken whose outcome is known, and the others.
    taken: Set,
    taken_unknown: Set,
    /// The place of each operation in its set.
    bits: Vec<usize>,
    /// What was visited: by operations of known outcome and state, those of unknown outcome.
    seen: HashMap<(Set, M::State), Vec<Set>>,
    path: Vec<Level<M::State>>,
    /// Operations with a known outcome that are not taken yet.
    open: usize,
    /// Operations of unknown outcome that may follow each other.
    unknown_in_a_row: usize,
    /// Operations that each operation of unknown outcome likely came before.
    likely_before: Vec<Vec<usize>>,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(
        model: &'a M,
        operations: &'a [Operation<M::Input, M::Output>],
        unknown_in_a_row: usize,
    ) -> Self {
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
        let mut counts = [0_usize; 2];
        let bits = operations.iter().map(|operation| {
            let count = &mut counts[usize::from(operation.output().is_none())];
            *count += 1;
            *count - 1
        });
        let bits = bits.collect();
        let mut likely_before = vec![Vec::new(); operations.len()];
        if unknown_in_a_row < usize::MAX {
            for (place, operation) in operations.iter().enumerate() {
                for &earlier in &operation.likely_after {
                    likely_before[earlier].push(place);
                }
            }
        }
        Search {
            model,
            operations,
            nodes,
            open: return_node.iter().flatten().count(),
            return_node,
            taken: vec![0; counts[0].div_ceil(64)],
            taken_unknown: vec![0; counts[1].div_ceil(64)],
            bits,
            seen: HashMap::new(),
            path: Vec::new(),
            unknown_in_a_row,
            likely_before,
        }
    }

    fn run(mut self, steps: u64) -> Result<Vec<usize>, Violation> {
        let mut longest = Vec::new();
        let mut stuck_at = 0;
        let mut least_open = usize::MAX;
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
            if self.open < least_open {
                least_open = self.open;
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
        let is_unknown =
            |call: &usize| self.operations[self.nodes[*call].operation].output().is_none();
        let path = self.path.iter().rev().filter_map(|level| level.came_by);
        let in_a_row = came_by.into_iter().chain(path).take_while(is_unknown);
        let takes_unknown = in_a_row.take(self.unknown_in_a_row).count() < self.unknown_in_a_row;
        let mut node = self.nodes[HEAD].next;
        while self.nodes[node].kind == Kind::Call {
            let place = self.nodes[node].operation;
            let operation = &self.operations[place];
            let is_in_order = operation.after.iter().all(|&before| self.is_taken(before))
                && !self.likely_before[place].iter().any(|&later| self.is_taken(later));
            if is_in_order {
                let is_unknown = operation.output().is_none();
                if takes_unknown || !is_unknown {
                    candidates.push((is_unknown, self.model.rank(operation), node));
                }
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
            let call = level.trying;
            if let Some(state) = level.successors.pop() {
                self.flip(self.nodes[call].operation);
                if self.visit(&state) {
                    return Some((call, state));
                }
                self.flip(self.nodes[call].operation);
                continue;
            }
            level.trying = level.candidates.pop()?;
            let operation = &self.operations[self.nodes[level.trying].operation];
            self.model.step(&level.state, operation, &mut level.successors);
            self.prune();
        }
    }

    /// Takes successors out that can be reached without the operation of unknown outcome that the
    /// path ends with.
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
        level.successors.retain(|state| !without.contains(state));
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
        self.flip(place);
    }

    /// Notes that `state` is visited with what is taken now; says whether that is worth while.
    fn visit(&mut self, state: &M::State) -> bool {
        let visits = self.seen.entry((self.taken.clone(), state.clone())).or_default();
        let is_part = |one: &Set| one.iter().zip(&self.taken_unknown).all(|(a, b)| a & !b == 0);
        let is_new = !visits.iter().any(is_part);
        if is_new {
            visits.push(self.taken_unknown.clone());
        }
        is_new
    }

    fn is_taken(&self, place: usize) -> bool {
        let bit = self.bits[place];
        let set = match self.operations[place].output() {
            Some(_) => &self.taken,
            None => &self.taken_unknown,
        };
        set[bit / 64] >> (bit % 64) & 1 == 1
    }

    /// Puts an operation into its set, or takes it out.
    fn flip(&mut self, place: usize) {
        let bit = self.bits[place];
        let set = match self.operations[place].output() {
            Some(_) => &mut self.taken,
            None => &mut self.taken_unknown,
        };
        set[bit / 64] ^= 1 << (bit % 64);
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
