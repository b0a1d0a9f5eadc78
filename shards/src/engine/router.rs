//! The origin's side of requests: where each goes, what waits for a leader, what is under way.
//!
//! A request goes to the core that leads its shard: this core, a sibling, or another node's core.
//! While the leader is unknown or out of reach it is *parked*, in order, bounded in bytes and
//! time, so that clients see latency and no errors. What was forwarded is kept until it is
//! answered, because a `NotLeader` (certainly not done) sends it around again; a forwarded request
//! is never forwarded a second time by its receiver.
//!
//! Order: a connection's requests to a shard run in the order it sent them. Therefore
//! - requests of one shard are under way to one destination at a time; newer ones wait;
//! - what comes back goes to its old place in the queue, by the number it got when it came in;
//! - a batch names the oldest one under way, and a receiver that refused that one or a later one
//!   refuses this one too: it may have taken office in between;
//! - a read whose answer was lost is not tried again when a later write of its connection may have
//!   run meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::frames::{RequestFlags, RequestsHeader};
use super::outbox::Outbox;
use super::{Origin, Parcel};
use crate::contract::{Lane, LeaderView};
use crate::ids::{Address, Nanos, NodeId, ShardId, Term};
use crate::reply::{Status, Token};

/// A request that waits for a leader.
#[derive(Debug)]
pub struct Parked {
    /// Its place among all requests of this core.
    number: u64,
    token: Token,
    is_read: bool,
    ordered: bool,
    deadline: Nanos,
    command: Box<[u8]>,
}

impl Parked {
    /// Keeps a request of this core's own connections.
    pub fn new(token: Token, parcel: &Parcel<'_>) -> Self {
        Parked {
            number: 0,
            token,
            is_read: parcel.is_read,
            ordered: parcel.ordered,
            deadline: parcel.deadline,
            command: parcel.command.into(),
        }
    }

    fn parcel(&self) -> Parcel<'_> {
        Parcel {
            origin: Origin::Local(self.token),
            ordered: self.ordered,
            is_read: self.is_read,
            command: &self.command,
            deadline: self.deadline,
        }
    }
}

/// A request that is under way in a batch.
#[derive(Debug)]
struct Sent {
    number: u64,
    token: Token,
    is_read: bool,
    ordered: bool,
    answered: bool,
    /// Its receiver did not run it: it goes back to the queue.
    returned: bool,
    deadline: Nanos,
    /// Where the command ends in the batch's bytes.
    end: u32,
}

/// Requests sent to one destination in one turn. Kept until all are answered.
#[derive(Debug)]
struct Batch {
    shard: ShardId,
    to: Address,
    deadline: Nanos,
    unanswered: usize,
    bytes: Vec<u8>,
    items: Vec<Sent>,
}

impl Batch {
    /// The items with their commands, in order.
    fn iter(&self) -> impl DoubleEndedIterator<Item = (&Sent, &[u8])> {
        (0..self.items.len()).map(|ordinal| {
            let start = if ordinal == 0 { 0 } else { self.items[ordinal - 1].end };
            let item = &self.items[ordinal];
            (item, &self.bytes[start as usize..item.end as usize])
        })
    }
}

/// Batches whose memory is kept for the next ones.
const SPARES_MAX: usize = 64;
/// A batch that has grown beyond this many bytes is not kept.
const SPARE_BYTES_MAX: usize = 256 << 10;

/// A leader that says it is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Denied {
    term: Term,
    leader: NodeId,
    /// It did not know of its term yet: it is asked again after a tick, and not at once, so that
    /// the question does not go back and forth all the time.
    is_unaware: bool,
}

/// What the core knows and holds of one shard.
#[derive(Debug, Default)]
struct Route {
    view: LeaderView,
    /// A leader of this term that has answered that it does not lead.
    denied: Option<Denied>,
    /// In ascending order of their numbers.
    parked: VecDeque<Parked>,
    /// Batches under way in ascending order, and to whom.
    under_way: BTreeSet<u64>,
    target: Option<Address>,
    /// The batch that this turn is filling.
    filling: Option<u64>,
}

impl Route {
    fn is_denied(&self, view: LeaderView) -> bool {
        self.denied
            .is_some_and(|denied| (view.term, view.leader) == (denied.term, Some(denied.leader)))
    }
}

/// The number of the last write of unknown fate of each connection with a shard.
type LostWrites = BTreeMap<(ShardId, u32), u64>;

/// An outcome that the router itself came to.
pub type Verdict = (Token, Status);

/// All routes of a core.
#[derive(Debug)]
pub struct Router {
    own: Address,
    routes: Vec<Route>,
    batches: BTreeMap<u64, Batch>,
    next_batch: u64,
    /// The number of the next request, and of the next one that goes before all others.
    next_number: u64,
    next_number_in_front: u64,
    filled: Vec<u64>,
    held_bytes: usize,
    held_bytes_max: usize,
    /// Shards whose parked requests may find a way now.
    stirred: Vec<ShardId>,
    spares: Vec<Batch>,
}

impl Router {
    /// A router for `shards` shards that holds at most `held_bytes_max` bytes of commands.
    ///
    /// Batches are numbered from `first_batch`, which must differ from life to life: an answer to
    /// a batch of a former life must not be taken for one to a batch of this life.
    pub fn new(own: Address, shards: u16, held_bytes_max: usize, first_batch: u64) -> Self {
        Router {
            own,
            routes: (0..shards).map(|_| Route::default()).collect(),
            batches: BTreeMap::new(),
            next_batch: first_batch >> 1,
            next_number: 1 << 63,
            next_number_in_front: (1 << 63) - 1,
            filled: Vec::new(),
            held_bytes: 0,
            held_bytes_max,
            stirred: Vec::new(),
            spares: Vec::new(),
        }
    }

    /// Bytes of commands it holds.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Who leads `shard`, as far as known.
    pub fn view(&self, shard: ShardId) -> LeaderView {
        self.routes[usize::from(shard.0)].view
    }

    /// Whether `shard` exists.
    pub fn has(&self, shard: ShardId) -> bool {
        usize::from(shard.0) < self.routes.len()
    }

    /// Learns of a leader. Says whether that was news.
    pub fn observe(&mut self, shard: ShardId, view: LeaderView) -> bool {
        let Some(route) = self.routes.get_mut(usize::from(shard.0)) else { return false };
        if route.is_denied(view) {
            return false;
        }
        let is_newer = view.term > route.view.term
            || view.term == route.view.term && route.view.leader.is_none() && view.leader.is_some();
        if is_newer {
            let changed = route.view.leader != view.leader || view.leader.is_none();
            route.view = view;
            self.stirred.push(shard);
            return changed || view.leader.is_some();
        }
        false
    }

    /// What this core's own replica sees replaces whatever was heard: it is closest to the truth.
    pub fn observe_own(&mut self, shard: ShardId, view: LeaderView) -> bool {
        let route = &mut self.routes[usize::from(shard.0)];
        if view.term < route.view.term || route.view == view || route.is_denied(view) {
            return false;
        }
        route.view = view;
        self.stirred.push(shard);
        true
    }

    /// Whether a request may go straight to the replica on this core, if that leads.
    pub fn is_clear(&self, shard: ShardId) -> bool {
        let route = &self.routes[usize::from(shard.0)];
        route.parked.is_empty() && route.under_way.is_empty()
    }

    /// Takes a request that this core does not run itself, or not now. `Err` gives the status
    /// with which it ends at once.
    pub fn route(
        &mut self,
        shard: ShardId,
        token: Token,
        parcel: &Parcel<'_>,
        outbox: &Outbox,
    ) -> Result<(), Status> {
        if self.held_bytes + parcel.command.len() > self.held_bytes_max {
            return Err(Status::Overloaded);
        }
        self.held_bytes += parcel.command.len();
        let number = self.next_number;
        self.next_number += 1;
        match self.destination(shard, outbox) {
            Some(to) if self.routes[usize::from(shard.0)].parked.is_empty() => {
                self.send(shard, to, number, token, parcel);
            }
            _ => {
                let parked = Parked { number, ..Parked::new(token, parcel) };
                self.routes[usize::from(shard.0)].parked.push_back(parked);
            }
        }
        Ok(())
    }

    /// Puts requests back that this core's own replica could not run, in order, before all that
    /// wait.
    pub fn put_back(&mut self, returned: &mut Vec<(ShardId, Parked)>) {
        for (shard, mut parked) in returned.drain(..).rev() {
            self.empty_filling(shard);
            self.held_bytes += parked.command.len();
            parked.number = self.next_number_in_front;
            self.next_number_in_front -= 1;
            self.routes[usize::from(shard.0)].parked.push_front(parked);
            self.stirred.push(shard);
        }
    }

    /// Where requests of `shard` may be sent now: to a reachable leader elsewhere, unless others
    /// are still under way to somebody else.
    fn destination(&self, shard: ShardId, outbox: &Outbox) -> Option<Address> {
        let route = &self.routes[usize::from(shard.0)];
        let to = outbox.home(shard, route.view.leader?);
        let is_free = route.under_way.is_empty() || route.target == Some(to);
        (to != self.own && outbox.reaches(to) && is_free).then_some(to)
    }

    fn send(
        &mut self,
        shard: ShardId,
        to: Address,
        number: u64,
        token: Token,
        parcel: &Parcel<'_>,
    ) {
        let route = &mut self.routes[usize::from(shard.0)];
        let id = match route.filling {
            Some(id) => id,
            None => {
                let id = self.next_batch;
                self.next_batch += 1;
                route.filling = Some(id);
                route.under_way.insert(id);
                route.target = Some(to);
                self.filled.push(id);
                let (bytes, items) = match self.spares.pop() {
                    Some(spare) => (spare.bytes, spare.items),
                    None => (Vec::new(), Vec::new()),
                };
                let deadline = parcel.deadline;
                let batch = Batch { shard, to, deadline, unanswered: 0, bytes, items };
                self.batches.insert(id, batch);
                id
            }
        };
        if let Some(batch) = self.batches.get_mut(&id) {
            batch.unanswered += 1;
            batch.deadline = batch.deadline.min(parcel.deadline);
            batch.bytes.extend_from_slice(parcel.command);
            batch.items.push(Sent {
                number,
                token,
                is_read: parcel.is_read,
                ordered: parcel.ordered,
                answered: false,
                returned: false,
                deadline: parcel.deadline,
                end: batch.bytes.len() as u32,
            });
        }
    }

    /// Tries again what is parked where something has changed; hands to `run_here` what this
    /// core's own replica now leads (it says whether it took it).
    pub fn stir(
        &mut self,
        outbox: &Outbox,
        mut run_here: impl FnMut(ShardId, &Parcel<'_>) -> bool,
    ) {
        for shard in std::mem::take(&mut self.stirred) {
            self.stir_one(shard, outbox, &mut run_here);
        }
    }

    fn stir_one(
        &mut self,
        shard: ShardId,
        outbox: &Outbox,
        run_here: &mut impl FnMut(ShardId, &Parcel<'_>) -> bool,
    ) {
        loop {
            let route = &mut self.routes[usize::from(shard.0)];
            let Some(front) = route.parked.front() else { return };
            let leads_here =
                route.view.leader.is_some_and(|node| outbox.home(shard, node) == self.own);
            if leads_here {
                if !route.under_way.is_empty() || !run_here(shard, &front.parcel()) {
                    return;
                }
                if let Some(parked) = route.parked.pop_front() {
                    self.held_bytes -= parked.command.len();
                }
                continue;
            }
            let Some(to) = self.destination(shard, outbox) else { return };
            if let Some(parked) = self.routes[usize::from(shard.0)].parked.pop_front() {
                self.send(shard, to, parked.number, parked.token, &parked.parcel());
            }
        }
    }

    /// Everything that may have become possible by a change of links.
    pub fn stir_all(&mut self) {
        for (shard, route) in self.routes.iter().enumerate() {
            if !route.parked.is_empty() {
                self.stirred.push(ShardId(shard as u16));
            }
        }
    }

    /// Encodes the batches this turn has filled.
    pub fn seal(&mut self, outbox: &mut Outbox) {
        for id in self.filled.drain(..) {
            let Some(batch) = self.batches.get(&id) else { continue };
            let route = &mut self.routes[usize::from(batch.shard.0)];
            route.filling = None;
            let oldest = route.under_way.first().copied().unwrap_or(id);
            // A destination that went away within the turn is reported by `link_down`.
            if let Some(frame) = outbox.frame(batch.to, Lane::Turn) {
                frame.requests(
                    RequestsHeader { shard: batch.shard, batch: id, oldest },
                    batch.iter().map(|(sent, command)| (RequestFlags::new(sent.ordered), command)),
                );
            }
        }
    }

    /// Takes the answer to one request of a batch: the token to answer, or `None` where it was
    /// answered before, or will be tried again.
    pub fn answer(
        &mut self,
        id: u64,
        from: Address,
        ordinal: u32,
        status: Status,
    ) -> Option<Token> {
        let batch = self.batches.get_mut(&id).filter(|batch| batch.to == from)?;
        let sent = batch
            .items
            .get_mut(ordinal as usize)
            .filter(|sent| !sent.answered && !sent.returned)?;
        // What its receiver did not run goes back to the queue, in order, when the fate of the
        // whole batch is known.
        let token = (status != Status::NotLeader).then_some(sent.token);
        sent.answered = token.is_some();
        sent.returned = token.is_none();
        batch.unanswered -= 1;
        if batch.unanswered == 0 {
            self.close(id);
        }
        token
    }

    /// Ends a batch: what is still unanswered goes back to its place in the queue.
    fn close(&mut self, id: u64) {
        let Some(mut batch) = self.batches.remove(&id) else { return };
        let route = &mut self.routes[usize::from(batch.shard.0)];
        route.under_way.remove(&id);
        if route.filling == Some(id) {
            route.filling = None;
        }
        for (sent, command) in batch.iter().rev() {
            if sent.answered {
                self.held_bytes -= command.len();
            } else {
                let place = route.parked.partition_point(|other| other.number < sent.number);
                route.parked.insert(
                    place,
                    Parked {
                        number: sent.number,
                        token: sent.token,
                        is_read: sent.is_read,
                        ordered: sent.ordered,
                        deadline: sent.deadline,
                        command: command.into(),
                    },
                );
            }
        }
        if !route.parked.is_empty() {
            self.stirred.push(batch.shard);
            self.empty_filling(batch.shard);
        }
        if self.spares.len() < SPARES_MAX && batch.bytes.capacity() <= SPARE_BYTES_MAX {
            batch.bytes.clear();
            batch.items.clear();
            self.spares.push(batch);
        }
    }

    /// Takes the requests of a batch that was not sent yet back into the queue: something older has
    /// come back to it, and must not be added behind them.
    fn empty_filling(&mut self, shard: ShardId) {
        if let Some(filling) = self.routes[usize::from(shard.0)].filling.take() {
            self.close(filling);
        }
    }

    /// `from` says it does not lead `shard`, and what it knows instead. Nothing is sent there again
    /// before somebody announces a leader, or it has had time to learn that it leads.
    pub fn disbelieve(&mut self, shard: ShardId, from: Address, theirs: LeaderView) {
        let route = &mut self.routes[usize::from(shard.0)];
        let term = route.view.term;
        if route.view.leader == Some(from.node) && theirs.leader != Some(from.node) {
            route.view.leader = None;
            // A candidate may have won since it said so; who has left office in this very term says
            // the same, and is asked in vain once per tick.
            let is_unaware = theirs.term < term || theirs == LeaderView { term, leader: None };
            route.denied = Some(Denied { term, leader: from.node, is_unaware });
        }
    }

    /// Counts a tick: leaders that did not know of their office are asked again.
    pub fn tick(&mut self) {
        for (shard, route) in self.routes.iter_mut().enumerate() {
            if let Some(denied) = route.denied.filter(|denied| denied.is_unaware) {
                route.denied = None;
                if route.view == (LeaderView { term: denied.term, leader: None }) {
                    route.view.leader = Some(denied.leader);
                    self.stirred.push(ShardId(shard as u16));
                }
            }
        }
    }

    /// A link is gone: writes that were under way on it have an unknown fate, reads go around
    /// again.
    pub fn link_down(&mut self, to: Address, verdicts: &mut Vec<Verdict>) {
        let lost: Vec<u64> =
            self.batches.iter().filter(|(_, b)| b.to == to).map(|(&id, _)| id).collect();
        let writes = self.lost_writes(&lost);
        for id in lost.into_iter().rev() {
            self.give_up(id, Status::LinkLost, &writes, verdicts);
        }
    }

    /// The last write of unknown fate of each connection, if these batches are lost. What was sent
    /// again stands in a later batch than what followed it: the order of batches says nothing.
    fn lost_writes(&self, lost: &[u64]) -> LostWrites {
        let mut writes = LostWrites::new();
        for id in lost.iter().filter(|id| !self.filled.contains(id)) {
            let Some(batch) = self.batches.get(id) else { continue };
            let unknown = |sent: &&Sent| !sent.is_read && !sent.answered && !sent.returned;
            for sent in batch.items.iter().filter(unknown) {
                let last = writes.entry((batch.shard, sent.token.connection)).or_insert(0);
                *last = sent.number.max(*last);
            }
        }
        writes
    }

    /// Ends a batch whose answers will not be waited for. Of what was sent, writes have an unknown
    /// fate; reads go around again, unless a later one of the `writes` is their connection's.
    fn give_up(
        &mut self,
        id: u64,
        status: Status,
        writes: &LostWrites,
        verdicts: &mut Vec<Verdict>,
    ) {
        let was_sent = !self.filled.contains(&id);
        if let Some(batch) = self.batches.get_mut(&id)
            && was_sent
        {
            let is_followed = |sent: &Sent| {
                let last = writes.get(&(batch.shard, sent.token.connection));
                last.is_some_and(|&last| sent.number < last)
            };
            for sent in batch.items.iter_mut().rev().filter(|sent| !sent.answered) {
                if sent.returned {
                    continue;
                }
                if !sent.is_read {
                    sent.answered = true;
                    verdicts.push((sent.token, status));
                } else if status == Status::DeadlinePassed || is_followed(sent) {
                    sent.answered = true;
                    verdicts.push((sent.token, Status::ReadTimeout));
                }
            }
        }
        self.close(id);
    }

    /// Ends everything: this core says nothing to others any more. Writes under way have an unknown
    /// fate, what is parked will not be done.
    pub fn end(&mut self, verdicts: &mut Vec<Verdict>) {
        let under_way: Vec<u64> = self.batches.keys().copied().collect();
        let writes = self.lost_writes(&under_way);
        for id in under_way.into_iter().rev() {
            self.give_up(id, Status::LinkLost, &writes, verdicts);
        }
        for parked in self.routes.iter_mut().flat_map(|route| route.parked.drain(..)) {
            verdicts.push((parked.token, Status::ShuttingDown));
        }
        self.held_bytes = 0;
    }

    /// Ends what has waited past its deadline.
    pub fn expire(&mut self, now: Nanos, verdicts: &mut Vec<Verdict>) {
        let overdue: Vec<u64> =
            self.batches.iter().filter(|(_, b)| b.deadline <= now).map(|(&id, _)| id).collect();
        for id in overdue.into_iter().rev() {
            self.give_up(id, Status::DeadlinePassed, &LostWrites::new(), verdicts);
        }
        for route in &mut self.routes {
            let held_bytes = &mut self.held_bytes;
            route.parked.retain(|parked| {
                let waits_on = parked.deadline > now;
                if !waits_on {
                    *held_bytes -= parked.command.len();
                    let status =
                        if parked.is_read { Status::ReadTimeout } else { Status::NoLeader };
                    verdicts.push((parked.token, status));
                }
                waits_on
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::CoreIndex;

    const SHARD: ShardId = ShardId(0);

    fn at(node: u16) -> Address {
        Address { node: NodeId(node), core: CoreIndex(0) }
    }

    fn view(term: u64, leader: Option<u16>) -> LeaderView {
        LeaderView { term: Term(term), leader: leader.map(NodeId) }
    }

    #[test]
    fn a_leader_that_did_not_know_of_its_office_is_asked_again() {
        // What it said was older than its election: of a former term, or as a candidate of this.
        for theirs in [view(3, None), view(3, Some(2)), view(4, None)] {
            let mut router = Router::new(at(9), 1, 1 << 20, 0);
            assert!(router.observe(SHARD, view(4, Some(1))));
            router.disbelieve(SHARD, at(1), theirs);
            assert_eq!(router.view(SHARD), view(4, None), "not at once");
            router.tick();
            assert_eq!(router.view(SHARD), view(4, Some(1)), "after {theirs:?}");
        }
    }
}
