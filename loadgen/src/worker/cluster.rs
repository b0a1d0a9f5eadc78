//! Starting operations where each key has an owner, and keeping up with who that is.

use client::{Address, ClusterMap, Redirect, RedirectScope};

use super::routes::{Endpoint, PARKED_MAX, find_or_add};
use super::{CONNECT_NS_MAX, Worker};
use crate::arrivals::Schedules;
use crate::connection::{Flight, Purpose, State};
use crate::options::Pacing;
use crate::record::Failure;
use crate::wire::Wire;

/// Redirects that one request follows. Two servers that name each other end here.
const REDIRECTS_MAX: u8 = 5;
/// Shortest time between two questions for the map.
const MAP_INTERVAL_NS: u64 = 100_000_000;

impl<W: Wire> Worker<W> {
    /// Starts what is due, then what redirects and reconnections have freed.
    pub(super) fn issue_to_cluster(&mut self, now_ns: u64) {
        self.follow_redirects(now_ns);
        self.take_map(now_ns);
        match self.options.pacing {
            Pacing::Open { .. } if self.schedules.is_some() => self.issue_due_to_cluster(now_ns),
            _ => {
                let connections = self.share.connections.len();
                let budget = (connections * self.pipeline) as u64;
                while self.sink.outstanding < budget {
                    let Some((flight, _)) = self.next_operation(now_ns) else { break };
                    self.route(flight, now_ns);
                }
            }
        }
    }

    fn issue_due_to_cluster(&mut self, now_ns: u64) {
        let mut parked = self.parked();
        while let Some((start_ns, _)) = self.schedules.as_ref().and_then(Schedules::next) {
            if start_ns > now_ns || start_ns >= self.times.end_ns || parked >= PARKED_MAX {
                break;
            }
            if let Some(schedules) = &mut self.schedules {
                schedules.take();
            }
            let Some((flight, _)) = self.next_operation(start_ns) else { break };
            if self.route(flight, now_ns) {
                self.sink.record.sent_late(now_ns - start_ns);
            } else {
                parked += 1;
            }
        }
    }

    fn parked(&self) -> usize {
        let homeless = self.routes.as_ref().map_or(0, |routes| routes.homeless.len());
        homeless + self.endpoints.iter().map(|endpoint| endpoint.parked.len()).sum::<usize>()
    }

    /// Gives an operation to its owner. False if it has to wait.
    pub(super) fn route(&mut self, mut flight: Flight, now_ns: u64) -> bool {
        let slot = self.sink.workload.slot(flight.key);
        flight.slot = slot;
        let Some(routes) = &mut self.routes else { return false };
        let is_read = matches!(flight.purpose, Purpose::Operation(kind) if kind.is_read());
        let server = if is_read { routes.reader(slot) } else { routes.owner(slot) };
        match server {
            Some(endpoint) => self.give(flight, endpoint, now_ns),
            None => {
                if routes.homeless.is_empty() {
                    routes.homeless_since_ns = now_ns;
                }
                routes.homeless.push_back(flight);
                routes.map_wanted = true;
                false
            }
        }
    }

    /// Gives an operation to a server. False if it has to wait there.
    fn give(&mut self, flight: Flight, endpoint: usize, now_ns: u64) -> bool {
        if self.is_replaying() {
            let index = self.connection_to(endpoint, &flight);
            return self.bind(flight, index, now_ns);
        }
        let Some(index) = self.next_available(endpoint) else {
            self.endpoints[endpoint].park(flight, now_ns);
            self.grow(endpoint, now_ns);
            return false;
        };
        self.push(index, flight, now_ns);
        true
    }

    /// The connection that can take a request to a server now, if there is one.
    fn available_for(&mut self, flight: &Flight, endpoint: usize) -> Option<usize> {
        if !self.is_replaying() {
            return self.next_available(endpoint);
        }
        let index = self.connection_to(endpoint, flight);
        let connection = &self.connections[index];
        (connection.waiting.is_empty() && connection.has_room(self.pipeline)).then_some(index)
    }

    /// The connection for the next request to a server. In a closed loop one is filled before
    /// the next is used, so that requests gather in few writes; in an open loop they take turns,
    /// as independent users do.
    fn next_available(&mut self, endpoint: usize) -> Option<usize> {
        let available = &mut self.endpoints[endpoint].available;
        if self.schedules.is_some() && available.len() > 1 {
            available.rotate_left(1);
        }
        available.back().copied()
    }

    fn push(&mut self, index: usize, flight: Flight, now_ns: u64) {
        let Purpose::Operation(kind) = flight.purpose else { return };
        self.connections[index].push(flight, kind, &self.sink.workload, now_ns);
        if !self.connections[index].has_room(self.pipeline) {
            self.delist(index);
        }
        self.mark_dirty(index);
    }

    /// Opens one more connection to a server, if requests wait for more than are being opened.
    fn grow(&mut self, endpoint: usize, now_ns: u64) {
        let Endpoint { connections, parked, .. } = &self.endpoints[endpoint];
        if connections.len() >= self.share.connections.len() {
            return;
        }
        let opening = connections
            .iter()
            .filter(|index| self.connections[**index].state != State::Open)
            .count();
        let wanted = parked.len().div_ceil(self.pipeline);
        if opening >= wanted {
            return;
        }
        self.add_connection(endpoint);
        let index = self.connections.len() - 1;
        if self.open(index, now_ns + CONNECT_NS_MAX).is_err() {
            self.not_opened(index, now_ns);
        }
    }

    /// Lists a connection that has room, and gives it what waits.
    pub(super) fn list(&mut self, index: usize, now_ns: u64) {
        let endpoint = self.connections[index].endpoint;
        while self.connections[index].has_room(self.pipeline) {
            if !self.connections[index].listed {
                self.connections[index].listed = true;
                self.endpoints[endpoint].available.push_back(index);
            }
            let Some(flight) = self.endpoints[endpoint].unpark(now_ns) else { break };
            self.push(index, flight, now_ns);
        }
    }

    /// A connection takes no requests until it is listed again.
    pub(super) fn delist(&mut self, index: usize) {
        if !self.connections[index].listed {
            return;
        }
        self.connections[index].listed = false;
        let available = &mut self.endpoints[self.connections[index].endpoint].available;
        // The one that has just been filled is the last one.
        if available.back() == Some(&index) {
            available.pop_back();
        } else if let Some(position) = available.iter().position(|listed| *listed == index) {
            available.remove(position);
        }
    }

    /// The map may be out of date.
    pub(super) fn want_map(&mut self) {
        if let Some(routes) = &mut self.routes {
            routes.map_wanted = true;
        }
    }

    /// Whether a connection that is closed should be opened again.
    pub(super) fn is_needed(&self, index: usize) -> bool {
        let endpoint = &self.endpoints[self.connections[index].endpoint];
        let waits = !endpoint.parked.is_empty() || !self.connections[index].waiting.is_empty();
        self.routes.is_none() || endpoint.leads || waits
    }

    pub(super) fn follow_redirects(&mut self, now_ns: u64) {
        if self.sink.redirected.is_empty() {
            return;
        }
        let mut redirected = std::mem::take(&mut self.sink.redirected);
        for (flight, redirect) in redirected.drain(..) {
            self.follow(flight, &redirect, now_ns);
        }
        self.sink.redirected = redirected;
    }

    fn follow(&mut self, mut flight: Flight, redirect: &Redirect, now_ns: u64) {
        let refusal = Failure::Refused { class: client::Class::NotDone, code: "REDIRECTS" };
        if flight.redirects >= REDIRECTS_MAX {
            return self.sink.failed(flight, refusal);
        }
        let Some(endpoint) = find_or_add(&redirect.address, &mut self.endpoints) else {
            return self.sink.failed(flight, refusal);
        };
        flight.redirects += 1;
        self.sink.record.counts().redirects += 1;
        let Some(routes) = &mut self.routes else { return };
        match redirect.scope {
            RedirectScope::Moved => {
                routes.moved(redirect.slot, endpoint);
                self.endpoints[usize::from(endpoint)].leads = true;
                self.give(flight, usize::from(endpoint), now_ns);
            }
            RedirectScope::Ask => {
                match self.available_for(&flight, usize::from(endpoint)) {
                    Some(index) => {
                        let asking = client::ASKING;
                        self.connections[index].push_encoded(asking, Purpose::Asking, now_ns);
                        self.push(index, flight, now_ns);
                    }
                    // The owner will say so again once this server can be reached.
                    None => {
                        self.grow(usize::from(endpoint), now_ns);
                        self.route(flight, now_ns);
                    }
                }
            }
        }
    }

    /// Takes over a map that has come, and routes anew what waited for it.
    pub(super) fn take_map(&mut self, now_ns: u64) {
        let Some(reply) = self.sink.map_reply.take() else { return };
        // Coracle and Redis name every host; should one not, it is the seed's.
        let unnamed = self.options.addresses.first().cloned();
        let unnamed = unnamed.unwrap_or(Address { host: "".into(), port: 0 });
        let Some(routes) = &mut self.routes else { return };
        let Ok(map) = ClusterMap::from_slots_reply(&reply, &unnamed) else { return };
        if map.servers().is_empty() {
            return;
        }
        self.sink.record.counts().maps += 1;
        routes.apply(&map, &mut self.endpoints);
        routes.map_wanted = map.slots_uncovered() > 0;
        let mut waiting = std::mem::take(&mut routes.homeless);
        for endpoint in self.endpoints.iter_mut() {
            waiting.append(&mut endpoint.parked);
        }
        for connection in self.connections.iter_mut() {
            waiting.append(&mut connection.waiting);
        }
        self.waiting = 0;
        for flight in waiting {
            self.route(flight, now_ns);
        }
        for endpoint in 0..self.endpoints.len() {
            if self.endpoints[endpoint].leads && self.endpoints[endpoint].connections.is_empty() {
                self.add_pool(endpoint);
            }
        }
    }

    /// Asks for the map if it is wanted, and gives up what has waited too long.
    pub(super) fn check_routes(&mut self, now_ns: u64) {
        let timeout_ns = self.options.timeout.as_nanos() as u64;
        let Some(routes) = &mut self.routes else { return };
        let waits_too_long = |since_ns: u64| now_ns.saturating_sub(since_ns) > timeout_ns;
        if !routes.homeless.is_empty() && waits_too_long(routes.homeless_since_ns) {
            for flight in routes.homeless.drain(..) {
                self.sink.failed(flight, Failure::Lost(client::Class::NotDone));
            }
        }
        for endpoint in self.endpoints.iter_mut() {
            if !endpoint.parked.is_empty() && waits_too_long(endpoint.parked_since_ns) {
                for flight in endpoint.parked.drain(..) {
                    self.sink.failed(flight, Failure::Lost(client::Class::NotDone));
                }
            }
            // A server that leads but is out of reach may have lost its office.
            let out_of_reach = endpoint.leads && !endpoint.parked.is_empty();
            routes.map_wanted |= out_of_reach && waits_too_long_for_map(endpoint, now_ns);
        }
        if !routes.map_wanted || now_ns < routes.map_asked_ns + MAP_INTERVAL_NS {
            return;
        }
        let count = self.connections.len();
        let open = |index: &usize| self.connections[*index].state == State::Open;
        let next = (1..=count).map(|step| (routes.map_turn + step) % count).find(open);
        if let Some(index) = next {
            (routes.map_turn, routes.map_asked_ns) = (index, now_ns);
            // Wanted until an answer comes; the answer may be lost with its connection.
            self.connections[index].push_encoded(client::CLUSTER_SLOTS, Purpose::Map, now_ns);
            self.mark_dirty(index);
        }
    }

    /// Gives up everything that still waits for a server.
    pub(super) fn settle_parked(&mut self) {
        let redirected = std::mem::take(&mut self.sink.redirected);
        let mut waiting: Vec<Flight> = redirected.into_iter().map(|(flight, _)| flight).collect();
        waiting.extend(self.routes.iter_mut().flat_map(|routes| routes.homeless.drain(..)));
        waiting.extend(self.endpoints.iter_mut().flat_map(|e| e.parked.drain(..)));
        for flight in waiting {
            self.sink.failed(flight, Failure::Unsent);
        }
        self.settle_waiting();
    }
}

/// Whether requests have waited for a server so long that somebody else may lead by now.
fn waits_too_long_for_map(endpoint: &Endpoint, now_ns: u64) -> bool {
    now_ns.saturating_sub(endpoint.parked_since_ns) > MAP_INTERVAL_NS
}
