//! The search for an order in which the operations of a history can have happened.
//!
//! Calls and returns stand in a list in the order of their times. The search takes the first call
//! in the list whose operation the model accepts, lifts call and return out, and starts over; at a
//! return whose call was not taken it must go back. Pairs of the set of operations taken and the
//! state they led to are remembered, since what follows depends on nothing else.
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
    GaveUp,
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

struct Search<'a, M: Model> {
    model: &'a M,
    operations: &'a [Operation<M::Input, M::Output>],
    nodes: Vec<Node>,
    return_node: Vec<Option<usize>>,
    taken: Taken,
    seen: HashSet<(Taken, M::State)>,
    /// The calls taken, each with the state before it and which successor of it was chosen.
    path: Vec<(usize, M::State, usize)>,
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
        nodes.push(Node {
            kind: Kind::Return,
            operation: usize::MAX,
            previous: count - 1,
            next: 1,
        });
        let mut return_node = vec![None; operations.len()];
        for (place, &(_, _, operation, kind)) in events.iter().enumerate() {
            let node = place + 1;
            if kind == Kind::Return {
                return_node[operation] = Some(node);
            }
            nodes.push(Node { kind, operation, previous: node - 1, next: (node + 1) % count });
        }
        nodes[HEAD].next = 1 % count;
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
        let mut state = self.model.initial();
        let mut node = self.nodes[HEAD].next;
        let mut successor = 0;
        let mut longest = Vec::new();
        let mut stuck_at = 0;
        for _ in 0..steps {
            if self.open == 0 {
                return Ok(self.order());
            }
            if self.nodes[node].kind == Kind::Call {
                if let Some(next) = self.take(node, &state, successor) {
                    state = next;
                    node = self.nodes[HEAD].next;
                } else {
                    node = self.nodes[node].next;
                }
                successor = 0;
                continue;
            }
            if self.path.len() >= longest.len() {
                longest = self.order();
                stuck_at = self.nodes[node].operation;
            }
            let Some((call, before, chosen)) = self.path.pop() else {
                return Err(Violation::NotLinearizable { longest, stuck_at });
            };
            self.put_back(call);
            (node, state, successor) = (call, before, chosen + 1);
        }
        Err(Violation::GaveUp)
    }

    /// Takes the call at `node` if the model accepts it in a way not seen before, beginning with
    /// its successor number `first`.
    fn take(&mut self, node: usize, state: &M::State, first: usize) -> Option<M::State> {
        let place = self.nodes[node].operation;
        let operation = &self.operations[place];
        if !operation.after.iter().all(|&before| is_in(&self.taken, before)) {
            return None;
        }
        let mut successors = Vec::new();
        self.model.step(state, operation, &mut successors);
        self.taken[place / 64] |= 1 << (place % 64);
        for (chosen, next) in successors.into_iter().enumerate().skip(first) {
            if self.seen.insert((self.taken.clone(), next.clone())) {
                self.path.push((node, state.clone(), chosen));
                self.unlink(node);
                if let Some(end) = self.return_node[place] {
                    self.unlink(end);
                    self.open -= 1;
                }
                return Some(next);
            }
        }
        self.taken[place / 64] &= !(1 << (place % 64));
        None
    }

    fn put_back(&mut self, node: usize) {
        let place = self.nodes[node].operation;
        if let Some(end) = self.return_node[place] {
            self.link(end);
            self.open += 1;
        }
        self.link(node);
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
        self.path.iter().map(|&(node, ..)| self.nodes[node].operation).collect()
    }
}

fn is_in(taken: &Taken, place: usize) -> bool {
    taken[place / 64] >> (place % 64) & 1 == 1
}
