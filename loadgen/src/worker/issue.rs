//! Starting operations, where any connection takes any key.

use std::sync::Arc;

use client::ReadFrom;

use super::{Operations, Worker};
use crate::arrivals::{Arrivals, Schedule, Schedules, Share as ScheduleShare};
use crate::connection::{Flight, Purpose};
use crate::shape::Profile;
use crate::wire::Wire;
use crate::workload::Kind;

impl<W: Wire> Worker<W> {
    /// The schedules of an open loop: one for each connection, or in a cluster one for all,
    /// because there the key decides about the connection.
    pub(super) fn schedules(&self, profile: &Arc<Profile>, arrivals: Arrivals) -> Schedules {
        let (indexes, sources) = if self.routes.is_some() {
            (self.share.index..self.share.index + 1, self.share.threads)
        } else {
            (self.share.connections.clone(), self.options.connections)
        };
        let schedule = |index| {
            let share = ScheduleShare { index, sources };
            Schedule::new(arrivals, profile, share, self.options.seed)
        };
        Schedules::new(indexes.map(schedule).collect())
    }

    /// Whether there may be operations left to start.
    pub(super) fn has_operations(&self, now_ns: u64) -> bool {
        match &self.operations {
            Operations::Prefill { next, end } => {
                !self.is_stopped() && (next < end || !self.sink.repeated.is_empty())
            }
            Operations::Replayed(replay) => match replay.next_ns() {
                // As below.
                Some(due_ns) if replay.is_open() => due_ns < self.times.end_ns,
                Some(_) => now_ns < self.times.end_ns,
                None => false,
            },
            Operations::Drawn { left: Some(0) } => false,
            Operations::Drawn { .. } => match &self.schedules {
                // Starts that are due and were not taken yet still count after the end.
                Some(_) => now_ns < self.times.end_ns || self.owes_starts(),
                None => now_ns < self.times.end_ns,
            },
        }
    }

    fn owes_starts(&self) -> bool {
        let schedules = self.schedules.as_ref();
        schedules.is_some_and(|schedules| schedules.owes_before(self.times.end_ns))
    }

    /// The next intended start of an open loop that is not held up.
    pub(super) fn next_start(&self) -> Option<u64> {
        if let Operations::Replayed(replay) = &self.operations {
            return self.next_replayed(replay);
        }
        let (start_ns, _) = self.schedules.as_ref()?.next()?;
        (start_ns < self.times.end_ns && self.has_operations(start_ns)).then_some(start_ns)
    }

    /// The next operation, meant to start at `intended_ns`.
    #[inline]
    pub(super) fn next_operation(&mut self, intended_ns: u64) -> Option<(Flight, Kind)> {
        let (key, kind) = match &mut self.operations {
            Operations::Prefill { next, end } => {
                let key = match self.sink.repeated.pop() {
                    Some(key) => key,
                    None if *next < *end => {
                        *next += 1;
                        *next - 1
                    }
                    None => return None,
                };
                (key, Kind::Write)
            }
            Operations::Drawn { left } => {
                if intended_ns >= self.times.end_ns {
                    return None;
                }
                if let Some(left) = left
                    && intended_ns >= self.times.measure_ns
                {
                    *left = left.checked_sub(1)?;
                }
                self.sink.workload.draw(&mut self.random)
            }
            Operations::Replayed(replay) => {
                if intended_ns >= self.times.end_ns {
                    return None;
                }
                replay.take()?
            }
        };
        self.sink.outstanding += 1;
        let purpose = Purpose::Operation(kind);
        Some((Flight { intended_ns, key, purpose, redirects: 0, slot: 0 }, kind))
    }

    /// Starts what is due.
    pub(super) fn issue(&mut self, now_ns: u64) {
        if self.is_replaying() {
            return self.issue_replayed(now_ns);
        }
        match (self.routes.is_some(), self.schedules.is_some()) {
            (true, _) => self.issue_to_cluster(now_ns),
            (false, true) => self.issue_due(now_ns),
            // Replies start the next operations, in `refill`.
            (false, false) => {}
        }
    }

    /// Open loop: each connection starts what its own schedule says.
    fn issue_due(&mut self, now_ns: u64) {
        while let Some((start_ns, index)) = self.schedules.as_ref().and_then(Schedules::next) {
            if start_ns > now_ns || start_ns >= self.times.end_ns {
                break;
            }
            let Some(schedules) = &mut self.schedules else { break };
            if !self.connections[index].has_room(self.pipeline) {
                schedules.hold();
                continue;
            }
            schedules.take();
            let Some((flight, kind)) = self.next_operation(start_ns) else { break };
            let connection = &mut self.connections[index];
            connection.push(flight, kind, &self.sink.workload, now_ns);
            if start_ns >= connection.excused_until_ns {
                self.sink.record.sent_late(now_ns - start_ns);
            }
            self.mark_dirty(index);
        }
    }

    /// Sends what follows reads that were answered. A connection that has just answered the read
    /// has room for what follows.
    #[inline]
    pub(super) fn write_what_was_read(&mut self, index: usize, now_ns: u64) {
        if self.sink.read_to_write.is_empty() {
            return;
        }
        let mut flights = std::mem::take(&mut self.sink.read_to_write);
        // A fill goes the way of its read, ahead of what waits for room there, unless a replica
        // has answered.
        let elsewhere = self.routes.is_some()
            && !(self.is_replaying() && self.options.read_from == ReadFrom::Leader);
        for flight in flights.drain(..) {
            if elsewhere {
                self.route(flight, now_ns);
                continue;
            }
            let Purpose::Operation(kind) = flight.purpose else { continue };
            self.connections[index].push(flight, kind, &self.sink.workload, now_ns);
            self.mark_dirty(index);
        }
        self.sink.read_to_write = flights;
    }

    /// Closed loop: a connection gets as many requests as it has room for, in one write.
    pub(super) fn refill(&mut self, index: usize, now_ns: u64) {
        while self.connections[index].has_room(self.pipeline) {
            let Some((flight, kind)) = self.next_operation(now_ns) else { break };
            self.connections[index].push(flight, kind, &self.sink.workload, now_ns);
        }
        if self.connections[index].has_output() {
            self.flush(index, now_ns);
        }
    }

    /// A connection may have room again.
    pub(super) fn has_room(&mut self, index: usize, now_ns: u64) {
        if self.is_replaying() {
            self.admit(index, now_ns);
        } else if self.routes.is_some() {
            self.list(index, now_ns);
        } else if let Some(schedules) = &mut self.schedules {
            let connection = &mut self.connections[index];
            if schedules.is_held(index) && connection.has_room(self.pipeline) {
                connection.excused_until_ns = now_ns;
                schedules.release(index);
            }
        } else {
            self.refill(index, now_ns);
        }
    }
}
