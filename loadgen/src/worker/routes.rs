//! Which server owns which slot, and what waits for whom.
//!
//! Only a run in cluster mode has routes. Each server has a pool of connections: a request takes
//! one that has room, else it is parked with its server and another connection is opened, up to
//! the number the whole run was given. Requests for slots that nobody owns wait apart until a
//! newer map names an owner. Parked requests keep their intended start, so the wait is part of
//! their latency; one that waits longer than the timeout is *not done*.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use client::{Address, ClusterMap, ReadFrom};

use crate::connection::Flight;

/// Requests that one thread parks; an open loop starts no more until there is room. They are
/// small, and more than a second's worth at any rate one thread reaches hardly helps anybody.
pub(super) const PARKED_MAX: usize = 1 << 20;

const NOBODY: u16 = u16::MAX;

/// A server and the connections to it.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub address: Address,
    pub socket: SocketAddr,
    /// All connections to it, by their index.
    pub connections: Vec<usize>,
    /// Those that can take a request.
    pub available: VecDeque<usize>,
    /// Requests that wait for a connection.
    pub parked: VecDeque<Flight>,
    /// Since when the oldest of them waits.
    pub parked_since_ns: u64,
    /// Whether it serves any slot, as its leader or to readers.
    pub leads: bool,
}

impl Endpoint {
    /// A server without connections.
    pub fn new(address: Address) -> io::Result<Endpoint> {
        let socket = address.resolve()?;
        Ok(Endpoint {
            address,
            socket,
            connections: Vec::new(),
            available: VecDeque::new(),
            parked: VecDeque::new(),
            parked_since_ns: 0,
            leads: false,
        })
    }

    /// Parks a request.
    pub fn park(&mut self, flight: Flight, now_ns: u64) {
        if self.parked.is_empty() {
            self.parked_since_ns = now_ns;
        }
        self.parked.push_back(flight);
    }

    /// Takes the oldest parked request.
    pub fn unpark(&mut self, now_ns: u64) -> Option<Flight> {
        self.parked_since_ns = now_ns;
        self.parked.pop_front()
    }
}

/// Who owns which slot.
#[derive(Debug)]
pub(super) struct Routes {
    owner_of_slot: Vec<u16>,
    /// All who may answer reads of a slot, where that is not the owner alone.
    readers_of_slot: Vec<Vec<u16>>,
    read_from: ReadFrom,
    /// Which of them is next.
    reader_turn: usize,
    /// Requests for slots without an owner.
    pub homeless: VecDeque<Flight>,
    /// Since when the oldest of them waits.
    pub homeless_since_ns: u64,
    /// Whether the map is known to be out of date.
    pub map_wanted: bool,
    /// When the map was last asked for.
    pub map_asked_ns: u64,
    /// Which connection to ask next.
    pub map_turn: usize,
}

impl Routes {
    /// Routes by this map; reads go to whoever `read_from` lets answer. Servers that are new are
    /// added to `endpoints`.
    pub fn new(map: &ClusterMap, read_from: ReadFrom, endpoints: &mut Vec<Endpoint>) -> Routes {
        let slots = usize::from(proto::slot::SLOTS);
        let mut routes = Routes {
            owner_of_slot: vec![NOBODY; slots],
            readers_of_slot: Vec::new(),
            read_from,
            reader_turn: 0,
            homeless: VecDeque::new(),
            homeless_since_ns: 0,
            map_wanted: false,
            map_asked_ns: 0,
            map_turn: 0,
        };
        routes.apply(map, endpoints);
        routes
    }

    /// Takes over a newer map.
    pub fn apply(&mut self, map: &ClusterMap, endpoints: &mut Vec<Endpoint>) {
        endpoints.iter_mut().for_each(|endpoint| endpoint.leads = false);
        // Only who serves something is resolved and connected to.
        let mut endpoint_of_server = vec![None; map.servers().len()];
        if self.read_from != ReadFrom::Leader {
            self.readers_of_slot = (0..proto::slot::SLOTS)
                .map(|slot| readers(map, slot, &mut endpoint_of_server, endpoints))
                .collect();
        }
        for (slot, owner) in (0u16..).zip(self.owner_of_slot.iter_mut()) {
            *owner = NOBODY;
            let Some(server) = map.leader(slot).map(usize::from) else { continue };
            let Some(known) = endpoint_of_server.get_mut(server) else { continue };
            let index = *known.get_or_insert_with(|| {
                map.servers().get(server).and_then(|address| find_or_add(address, endpoints))
            });
            if let Some(index) = index {
                *owner = index;
                if let Some(endpoint) = endpoints.get_mut(usize::from(index)) {
                    endpoint.leads = true;
                }
            }
        }
    }

    /// The slot's owner, as an index of an endpoint.
    #[inline]
    pub fn owner(&self, slot: u16) -> Option<usize> {
        let owner = self.owner_of_slot.get(usize::from(slot)).copied().unwrap_or(NOBODY);
        (owner != NOBODY).then_some(usize::from(owner))
    }

    /// The server for the next read of the slot, as an index of an endpoint: all who may answer
    /// take turns.
    #[inline]
    pub fn reader(&mut self, slot: u16) -> Option<usize> {
        let Some(readers) = self.readers_of_slot.get(usize::from(slot)) else {
            return self.owner(slot);
        };
        self.reader_turn = self.reader_turn.wrapping_add(1);
        let place = self.reader_turn.checked_rem(readers.len());
        let reader = place.and_then(|place| readers.get(place));
        reader.map(|reader| usize::from(*reader)).or_else(|| self.owner(slot))
    }

    /// Notes that a slot has another owner (MOVED).
    pub fn moved(&mut self, slot: u16, endpoint: u16) {
        if let Some(owner) = self.owner_of_slot.get_mut(usize::from(slot)) {
            *owner = endpoint;
        }
        self.map_wanted = true;
    }
}

/// All holders of a slot, as indices of endpoints.
fn readers(
    map: &ClusterMap,
    slot: u16,
    endpoint_of_server: &mut [Option<Option<u16>>],
    endpoints: &mut Vec<Endpoint>,
) -> Vec<u16> {
    let mut readers = Vec::new();
    for server in map.holders(slot).iter().map(|server| usize::from(*server)) {
        let Some(known) = endpoint_of_server.get_mut(server) else { continue };
        let index = *known.get_or_insert_with(|| {
            map.servers().get(server).and_then(|address| find_or_add(address, endpoints))
        });
        readers.extend(index);
        if let Some(endpoint) = index.and_then(|index| endpoints.get_mut(usize::from(index))) {
            endpoint.leads = true;
        }
    }
    readers
}

/// The endpoint with this address; none if there are too many or the host is not known.
pub(super) fn find_or_add(address: &Address, endpoints: &mut Vec<Endpoint>) -> Option<u16> {
    let known = endpoints.iter().position(|endpoint| endpoint.address == *address);
    let index = known.or_else(|| {
        if endpoints.len() >= client::SERVERS_MAX {
            return None;
        }
        endpoints.push(Endpoint::new(address.clone()).ok()?);
        Some(endpoints.len() - 1)
    })?;
    u16::try_from(index).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(reply: &[u8]) -> ClusterMap {
        let asked = "127.0.0.9:9".parse().expect("an address");
        ClusterMap::from_slots_reply(reply, &asked).expect("a map")
    }

    #[test]
    fn a_newer_map_moves_slots_and_keeps_known_servers() {
        let first = map(b"*2\r\n*3\r\n:0\r\n:99\r\n*2\r\n$9\r\n127.0.0.1\r\n:1\r\n\
            *3\r\n:100\r\n:199\r\n*2\r\n$9\r\n127.0.0.2\r\n:1\r\n");
        let mut endpoints = Vec::new();
        let mut routes = Routes::new(&first, ReadFrom::Leader, &mut endpoints);
        assert_eq!(
            (routes.owner(0), routes.owner(100), routes.owner(200)),
            (Some(0), Some(1), None)
        );
        let second = map(b"*1\r\n*4\r\n:0\r\n:199\r\n*2\r\n$9\r\n127.0.0.2\r\n:1\r\n\
            *2\r\n$9\r\n127.0.0.3\r\n:1\r\n");
        routes.apply(&second, &mut endpoints);
        assert_eq!((routes.owner(0), routes.owner(150)), (Some(1), Some(1)));
        let leads: Vec<bool> = endpoints.iter().map(|endpoint| endpoint.leads).collect();
        assert_eq!(leads, [false, true], "followers are not connected to");
        routes.moved(7, 0);
        assert_eq!((routes.owner(7), routes.map_wanted), (Some(0), true));
    }

    #[test]
    fn reads_take_turns_over_all_holders_where_replicas_may_answer() {
        let map = map(b"*1\r\n*4\r\n:0\r\n:199\r\n*2\r\n$9\r\n127.0.0.2\r\n:1\r\n\
            *2\r\n$9\r\n127.0.0.3\r\n:1\r\n");
        for (read_from, expected) in [
            (ReadFrom::Leader, [0, 0, 0, 0]),
            (ReadFrom::Replica, [1, 0, 1, 0]),
            (ReadFrom::Stale, [1, 0, 1, 0]),
        ] {
            let mut endpoints = Vec::new();
            let mut routes = Routes::new(&map, read_from, &mut endpoints);
            assert_eq!([(); 4].map(|()| routes.reader(7)), expected.map(Some));
            assert_eq!((routes.owner(7), routes.reader(200)), (Some(0), None));
        }
    }
}
