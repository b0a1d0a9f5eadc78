//! Which servers hold which slots, as CLUSTER SLOTS tells it.
//!
//! The map is a snapshot that may be out of date the moment it arrives; servers correct it by
//! MOVED. One table of 16,384 numbers answers for every slot without a search, because it is
//! asked once per request. A MOVED changes the one slot it names: the rest comes with the next
//! whole map, which the caller fetches.
//!
//! Invariants: every range index in the table is that of a range, every server index in a range
//! that of a server; the number of servers is bounded whatever a reply says.

use proto::resp::reply::{Kind, Scanned, scan};
use proto::slot::SLOTS;

use crate::address::Address;

/// Most servers a map may name. Real clusters stay below a thousand; each costs a socket.
pub const SERVERS_MAX: usize = 4096;

/// The index of a server in [`ClusterMap::servers`].
pub type ServerIndex = u16;

const NO_RANGE: u16 = u16::MAX;

/// Who leads and who follows, per slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterMap {
    servers: Vec<Address>,
    /// The servers of each distinct range, leader first. Never empty lists.
    ranges: Vec<Vec<ServerIndex>>,
    /// The range of each slot, or `NO_RANGE`.
    range_of_slot: Vec<u16>,
}

/// Why a reply is no cluster map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The server refused: it is no cluster, for instance.
    #[error("the server gives no cluster map: {0}")]
    Refused(String),
    /// The reply is not what CLUSTER SLOTS returns.
    #[error("the reply to CLUSTER SLOTS is malformed")]
    Malformed,
    /// The reply names more servers or ranges than any cluster has.
    #[error("the cluster map is too large")]
    TooLarge,
}

impl Default for ClusterMap {
    fn default() -> ClusterMap {
        ClusterMap {
            servers: Vec::new(),
            ranges: Vec::new(),
            range_of_slot: vec![NO_RANGE; usize::from(SLOTS)],
        }
    }
}

impl ClusterMap {
    /// Reads the whole reply to CLUSTER SLOTS that `asked` gave. Hosts that the server leaves
    /// open (empty or unknown) are the one that was asked.
    ///
    /// # Errors
    /// If the reply is an error or not a map.
    pub fn from_slots_reply(reply: &[u8], asked: &Address) -> Result<ClusterMap, MapError> {
        let mut elements = Elements::new(reply);
        let ranges = match elements.next()? {
            Element::Array(ranges) => ranges,
            Element::Error(text) => {
                return Err(MapError::Refused(String::from_utf8_lossy(text).into_owned()));
            }
            _ => return Err(MapError::Malformed),
        };
        if ranges > usize::from(SLOTS) {
            return Err(MapError::TooLarge);
        }
        let mut map = ClusterMap::default();
        for _ in 0..ranges {
            map.read_range(&mut elements, asked)?;
        }
        Ok(map)
    }

    fn read_range(&mut self, elements: &mut Elements<'_>, asked: &Address) -> Result<(), MapError> {
        let Element::Array(fields) = elements.next()? else { return Err(MapError::Malformed) };
        let (first, last) = (elements.slot()?, elements.slot()?);
        if fields < 2 || first > last {
            return Err(MapError::Malformed);
        }
        let mut servers = Vec::new();
        for _ in 2..fields {
            let Element::Array(parts) = elements.next()? else { return Err(MapError::Malformed) };
            if parts < 2 {
                return Err(MapError::Malformed);
            }
            let host = match elements.next()? {
                Element::Text(b"" | b"?") | Element::Nil => &asked.host,
                Element::Text(host) => {
                    &std::str::from_utf8(host).map_err(|_| MapError::Malformed)?.into()
                }
                _ => return Err(MapError::Malformed),
            };
            let Element::Integer(port) = elements.next()? else { return Err(MapError::Malformed) };
            let port = u16::try_from(port).map_err(|_| MapError::Malformed)?;
            for _ in 2..parts {
                elements.skip()?;
            }
            // A server that has no port yet cannot be talked to.
            if port != 0 {
                let server = self.intern(Address { host: host.clone(), port });
                servers.push(server.ok_or(MapError::TooLarge)?);
            }
        }
        if !servers.is_empty() {
            self.assign(first..=last, servers);
        }
        Ok(())
    }

    fn assign(&mut self, slots: std::ops::RangeInclusive<u16>, servers: Vec<ServerIndex>) {
        let known = self.ranges.iter().position(|range| *range == servers);
        let range = known.unwrap_or_else(|| {
            self.ranges.push(servers);
            self.ranges.len() - 1
        });
        // There are at most as many ranges as assignments, one per slot between two maps; the
        // caller replaces the map long before, but must not be relied upon.
        let Ok(range) = u16::try_from(range) else { return };
        for slot in slots {
            if let Some(entry) = self.range_of_slot.get_mut(usize::from(slot)) {
                *entry = range;
            }
        }
    }

    fn intern(&mut self, address: Address) -> Option<ServerIndex> {
        let index = self.servers.iter().position(|known| *known == address).or_else(|| {
            (self.servers.len() < SERVERS_MAX).then(|| {
                self.servers.push(address);
                self.servers.len() - 1
            })
        })?;
        ServerIndex::try_from(index).ok()
    }

    /// Notes that the leader of `slot` is `address` now (MOVED). Followers stay as they were.
    /// Nothing changes if the map already names as many servers as it may.
    pub fn moved(&mut self, slot: u16, address: &Address) {
        let Some(leader) = self.intern(address.clone()) else { return };
        let mut servers = vec![leader];
        servers.extend(self.holders(slot).iter().copied().filter(|server| *server != leader));
        self.assign(slot..=slot, servers);
    }

    /// All servers that any slot names or named.
    pub fn servers(&self) -> &[Address] {
        &self.servers
    }

    /// The servers that hold `slot`, its leader first; none if the slot is not covered.
    #[inline]
    pub fn holders(&self, slot: u16) -> &[ServerIndex] {
        let range = self.range_of_slot.get(usize::from(slot)).copied().unwrap_or(NO_RANGE);
        self.ranges.get(usize::from(range)).map_or(&[], Vec::as_slice)
    }

    /// The leader of `slot`.
    #[inline]
    pub fn leader(&self, slot: u16) -> Option<ServerIndex> {
        self.holders(slot).first().copied()
    }

    /// How many slots no server holds.
    pub fn slots_uncovered(&self) -> usize {
        self.range_of_slot.iter().filter(|range| **range == NO_RANGE).count()
    }
}

/// One element of a reply; the elements of an array follow it.
enum Element<'a> {
    Array(usize),
    Text(&'a [u8]),
    Integer(i64),
    Nil,
    Error(&'a [u8]),
    Other,
}

/// Walks the elements of a whole reply, depth first, without recursion.
struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    fn new(reply: &'a [u8]) -> Elements<'a> {
        Elements { rest: reply }
    }

    fn next(&mut self) -> Result<Element<'a>, MapError> {
        let Ok(Scanned::Reply { kind, consumed }) = scan(self.rest) else {
            return Err(MapError::Malformed);
        };
        let text = |start, end| self.rest.get(start..end).ok_or(MapError::Malformed);
        let (element, length) = match kind {
            Kind::Array { length, start } => (Element::Array(length), start),
            Kind::Simple { start, end } | Kind::Bulk { start, end } => {
                (Element::Text(text(start, end)?), consumed)
            }
            Kind::Error { start, end } => (Element::Error(text(start, end)?), consumed),
            Kind::Integer(number) => (Element::Integer(number), consumed),
            Kind::Nil => (Element::Nil, consumed),
            _ => (Element::Other, consumed),
        };
        self.rest = self.rest.get(length..).ok_or(MapError::Malformed)?;
        Ok(element)
    }

    /// Passes over one element with everything in it.
    fn skip(&mut self) -> Result<(), MapError> {
        match scan(self.rest) {
            Ok(Scanned::Reply { consumed, .. }) => {
                self.rest = self.rest.get(consumed..).ok_or(MapError::Malformed)?;
                Ok(())
            }
            _ => Err(MapError::Malformed),
        }
    }

    fn slot(&mut self) -> Result<u16, MapError> {
        match self.next()? {
            Element::Integer(slot) => {
                u16::try_from(slot).ok().filter(|slot| *slot < SLOTS).ok_or(MapError::Malformed)
            }
            _ => Err(MapError::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Address {
        "127.0.0.1:7401".parse().expect("an address")
    }

    type Servers<'a> = &'a [(&'a str, u16)];

    fn reply(ranges: &[(u16, u16, Servers<'_>)]) -> Vec<u8> {
        let mut text = format!("*{}\r\n", ranges.len());
        for (first, last, servers) in ranges {
            text += &format!("*{}\r\n:{first}\r\n:{last}\r\n", servers.len() + 2);
            for (host, port) in *servers {
                text += &format!("*4\r\n${}\r\n{host}\r\n:{port}\r\n", host.len());
                text += "$2\r\nid\r\n*2\r\n+hostname\r\n+x\r\n";
            }
        }
        text.into_bytes()
    }

    fn leader(map: &ClusterMap, slot: u16) -> Option<String> {
        map.leader(slot).map(|server| map.servers()[usize::from(server)].to_string())
    }

    #[test]
    fn every_slot_has_the_servers_of_its_range() {
        let bytes = reply(&[
            (0, 8191, &[("127.0.0.1", 7401), ("127.0.0.2", 7401)]),
            (8192, 16383, &[("", 7402), ("127.0.0.1", 7401)]),
        ]);
        let map = ClusterMap::from_slots_reply(&bytes, &asked()).expect("a map");
        assert_eq!(leader(&map, 0).as_deref(), Some("127.0.0.1:7401"));
        assert_eq!(leader(&map, 8191).as_deref(), Some("127.0.0.1:7401"));
        assert_eq!(leader(&map, 8192).as_deref(), Some("127.0.0.1:7402"));
        assert_eq!(leader(&map, 16383).as_deref(), Some("127.0.0.1:7402"));
        assert_eq!(map.holders(5), [0, 1]);
        assert_eq!(map.holders(9000), [2, 0]);
        assert_eq!(map.slots_uncovered(), 0);
    }

    #[test]
    fn gaps_and_servers_without_a_port_leave_slots_uncovered() {
        let bytes = reply(&[(10, 19, &[("127.0.0.1", 7401)]), (20, 29, &[("127.0.0.1", 0)])]);
        let map = ClusterMap::from_slots_reply(&bytes, &asked()).expect("a map");
        assert_eq!(map.leader(9), None);
        assert_eq!(map.leader(25), None);
        assert_eq!(map.slots_uncovered(), 16_384 - 10);
        let empty = ClusterMap::from_slots_reply(b"*0\r\n", &asked()).expect("a map");
        assert_eq!(empty, ClusterMap::default());
    }

    #[test]
    fn a_move_changes_one_slot_and_keeps_the_followers() {
        let bytes = reply(&[(0, 16383, &[("127.0.0.1", 7401), ("127.0.0.2", 7401)])]);
        let mut map = ClusterMap::from_slots_reply(&bytes, &asked()).expect("a map");
        map.moved(7, &"127.0.0.2:7401".parse().expect("an address"));
        assert_eq!(map.holders(7), [1, 0]);
        assert_eq!(map.holders(8), [0, 1]);
        map.moved(8, &"127.0.0.3:7401".parse().expect("an address"));
        assert_eq!(map.holders(8), [2, 0, 1]);
    }

    #[test]
    fn endless_moves_stay_bounded() {
        let mut map = ClusterMap::default();
        for number in 0..(2 * SERVERS_MAX as u16) {
            let address = Address { host: "h".into(), port: number + 1 };
            map.moved(number % SLOTS, &address);
        }
        assert_eq!(map.servers().len(), SERVERS_MAX);
    }

    #[test]
    fn malformed_maps_are_errors_at_every_cut() {
        let bytes = reply(&[(0, 16383, &[("127.0.0.1", 7401), ("127.0.0.2", 7401)])]);
        for length in 0..bytes.len() {
            let cut = ClusterMap::from_slots_reply(&bytes[..length], &asked());
            assert_eq!(cut, Err(MapError::Malformed), "cut at {length}");
        }
        for wrong in [
            &b"+OK\r\n"[..],
            b"*1\r\n:1\r\n",
            b"*1\r\n*2\r\n:5\r\n:4\r\n",
            b"*1\r\n*2\r\n:0\r\n:16384\r\n",
            b"*1\r\n*3\r\n:0\r\n:1\r\n*1\r\n$1\r\nh\r\n",
            b"*1\r\n*3\r\n:0\r\n:1\r\n*2\r\n$1\r\nh\r\n:65536\r\n",
        ] {
            assert!(ClusterMap::from_slots_reply(wrong, &asked()).is_err(), "{wrong:?}");
        }
        assert!(matches!(
            ClusterMap::from_slots_reply(b"-ERR no cluster\r\n", &asked()),
            Err(MapError::Refused(_))
        ));
    }
}
