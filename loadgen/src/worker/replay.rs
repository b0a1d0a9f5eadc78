//! Starting the requests of a trace, in its order.
//!
//! A thread takes its requests one by one and gives each to the connection that its key belongs to.
//! One without room keeps the request waiting, behind those that wait there already, so that the
//! requests of a key are sent in order; those of other keys go past. How far is bounded: a closed
//! loop has no more requests under way, waiting ones included, than its connections have room for,
//! and an open one lets [`WAITING_MAX`] wait.
//!
//! In an open loop a request that waits keeps its intended start, and the wait is part of its
//! latency. In a closed loop latency counts from the send.

use std::sync::Arc;

use super::routes::PARKED_MAX;
use super::{Operations, Worker};
use crate::arrivals::{Schedule, Share as ScheduleShare};
use crate::connection::{Flight, Purpose, State};
use crate::options::Pacing;
use crate::record::Failure;
use crate::replay::{Pace, Replay};
use crate::trace::Trace;
use crate::wire::Wire;

/// Requests that wait in an open loop before no more are taken.
const WAITING_MAX: usize = PARKED_MAX;
/// How long requests wait for a server out of reach before another one may be in its place.
const OUT_OF_REACH_NS: u64 = 100_000_000;

impl<W: Wire> Worker<W> {
    /// This thread's way through the trace. Times and profile of the run are set.
    pub(super) fn replay(&self, trace: &Arc<Trace>) -> Replay {
        let pace = match (&self.options.pacing, &self.profile) {
            (Pacing::Recorded { speed }, _) => {
                Pace::Recorded { start_ns: self.times.start_ns, speed: *speed }
            }
            // One schedule for all threads: the place in the trace decides when a request is due.
            (Pacing::Open { arrivals, .. }, Some(profile)) => {
                let share = ScheduleShare { index: 0, sources: 1 };
                let schedule = Schedule::new(*arrivals, profile, share, self.options.seed);
                Pace::Arrivals(Box::new(schedule))
            }
            _ => Pace::Room,
        };
        let (index, threads) = (self.share.index, self.share.threads);
        Replay::new(Arc::clone(trace), index, threads, self.options.misses, pace)
    }

    /// Whether a trace is being replayed.
    #[inline]
    pub(super) fn is_replaying(&self) -> bool {
        matches!(self.operations, Operations::Replayed(_))
    }

    /// Whether nothing is to be done before the next request of the trace is due.
    pub(super) fn waits_for_its_time(&self, now_ns: u64) -> bool {
        let Operations::Replayed(replay) = &self.operations else { return false };
        let next_ns = replay.next_ns().filter(|_| replay.is_open());
        self.sink.outstanding == 0 && next_ns.is_some_and(|due_ns| due_ns > now_ns)
    }

    /// When the next request of the trace is due, unless so many wait that it is not taken.
    pub(super) fn next_replayed(&self, replay: &Replay) -> Option<u64> {
        let is_next = |due_ns: &u64| *due_ns < self.times.end_ns && self.waits() < WAITING_MAX;
        replay.next_ns().filter(|due_ns| replay.is_open() && is_next(due_ns))
    }

    fn waits(&self) -> usize {
        self.waiting + self.routes.as_ref().map_or(0, |routes| routes.homeless.len())
    }

    /// Starts what is due, or what there is room for.
    pub(super) fn issue_replayed(&mut self, now_ns: u64) {
        if self.routes.is_some() {
            self.follow_redirects(now_ns);
            self.take_map(now_ns);
        }
        let budget = (self.share.connections.len() * self.pipeline) as u64;
        loop {
            let Operations::Replayed(replay) = &self.operations else { return };
            let Some(due_ns) = replay.next_ns() else { return };
            let is_open = replay.is_open();
            let start_ns = if is_open { due_ns } else { now_ns };
            if start_ns > now_ns || (!is_open && self.sink.outstanding >= budget) {
                return;
            }
            if is_open && self.waits() >= WAITING_MAX {
                self.full_until_ns = now_ns;
                return;
            }
            let Some((flight, _)) = self.next_operation(start_ns) else { return };
            let sent = if self.routes.is_some() {
                self.route(flight, now_ns)
            } else {
                let index = self.place_among(&flight, self.connections.len());
                self.bind(flight, index, now_ns)
            };
            if sent && start_ns >= self.full_until_ns {
                self.sink.record.sent_late(now_ns - start_ns);
            }
        }
    }

    /// Which of so many connections the key of a request belongs to.
    fn place_among(&self, flight: &Flight, connections: usize) -> usize {
        match &self.operations {
            Operations::Replayed(replay) => replay.connection_of(flight.key, connections),
            _ => 0,
        }
    }

    /// The connection to a server that the key of a request belongs to.
    pub(super) fn connection_to(&mut self, endpoint: usize, flight: &Flight) -> usize {
        if self.endpoints[endpoint].connections.is_empty() {
            self.add_pool(endpoint);
        }
        let connections = &self.endpoints[endpoint].connections;
        connections[self.place_among(flight, connections.len())]
    }

    /// Connections to a server that was not known when the run began. A replayed key keeps its
    /// connection, so they are made all at once; otherwise more are made when they are needed.
    pub(super) fn add_pool(&mut self, endpoint: usize) {
        let servers = self.endpoints.iter().filter(|endpoint| endpoint.leads).count().max(1);
        let share = self.share.connections.len() / servers;
        let count = if self.is_replaying() { share.max(1) } else { 1 };
        (0..count).for_each(|_| self.add_connection(endpoint));
    }

    /// Gives a request to a connection. False if it has to wait there.
    pub(super) fn bind(&mut self, flight: Flight, index: usize, now_ns: u64) -> bool {
        let connection = &mut self.connections[index];
        if connection.waiting.is_empty() && connection.has_room(self.pipeline) {
            self.send(flight, index, now_ns);
            return true;
        }
        connection.wait(flight, now_ns);
        self.waiting += 1;
        false
    }

    fn send(&mut self, flight: Flight, index: usize, now_ns: u64) {
        let Purpose::Operation(kind) = flight.purpose else { return };
        self.connections[index].push(flight, kind, &self.sink.workload, now_ns);
        self.mark_dirty(index);
    }

    /// A connection may have room for what waits there.
    pub(super) fn admit(&mut self, index: usize, now_ns: u64) {
        let is_closed = self.options.pacing == Pacing::Closed;
        if is_closed && now_ns >= self.times.end_ns {
            return self.forget(index);
        }
        while self.connections[index].has_room(self.pipeline) {
            let Some(mut flight) = self.connections[index].next_waiting(now_ns) else { return };
            self.waiting -= 1;
            if is_closed {
                flight.intended_ns = now_ns;
            }
            self.send(flight, index, now_ns);
        }
    }

    /// Gives up what waits on a connection of a closed loop, where nothing is due that is not sent.
    fn forget(&mut self, index: usize) {
        let forgotten = self.connections[index].waiting.drain(..).count();
        self.waiting -= forgotten;
        self.sink.outstanding -= forgotten as u64;
    }

    /// Gives up what has waited too long for a connection that cannot be made.
    pub(super) fn check_waiting(&mut self, now_ns: u64) {
        if self.waiting == 0 {
            return;
        }
        let timeout_ns = self.options.timeout.as_nanos() as u64;
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            if connection.waiting.is_empty() || connection.state == State::Open {
                continue;
            }
            if self.options.pacing == Pacing::Closed && now_ns >= self.times.end_ns {
                self.forget(index);
                continue;
            }
            let waited_ns = now_ns.saturating_sub(connection.waiting_since_ns);
            if waited_ns > timeout_ns {
                self.waiting -= connection.waiting.len();
                for flight in connection.waiting.drain(..) {
                    self.sink.failed(flight, Failure::Lost(client::Class::NotDone));
                }
            }
            if waited_ns > OUT_OF_REACH_NS {
                self.want_map();
            }
        }
    }

    /// Gives up everything that still waits for room.
    pub(super) fn settle_waiting(&mut self) {
        let is_closed = self.options.pacing == Pacing::Closed;
        for index in 0..self.connections.len() {
            if is_closed {
                self.forget(index);
                continue;
            }
            for flight in std::mem::take(&mut self.connections[index].waiting) {
                self.sink.failed(flight, Failure::Unsent);
            }
        }
        self.waiting = 0;
    }
}
