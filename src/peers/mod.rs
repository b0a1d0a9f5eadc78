//! The links between the nodes.
//!
//! Every core keeps one link to every core of every other node. Whoever sends opens the
//! connection, one per lane, and only frames of the opener travel on it; what the other core has
//! to say comes on a connection of its own. So a connection carries the frames of one sender to
//! one receiver in order, and its end is the end of the link ([`outbound`]). The accepting side
//! ([`inbound`]) checks who greets and keeps frames of an earlier life of a node out.
//!
//! The connection of the bulk lane is opened when the first bulk frame wants to be sent. If either
//! connection of a link ends, the whole link is down and the engine is told; both lanes start anew.
//!
//! A node is told apart from its earlier lives by its incarnation, a random number. The latest one
//! that greeted is the current one, and those it replaced are never accepted again.
//!
//! Invariants: a frame is passed on only from the newest connection of its sender and lane, and
//! only in the sender's current life. The engine hears of a link's end before a later frame is
//! sent on it.

pub mod inbound;
pub mod lives;
pub mod outbound;
pub mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use proto::peer::{Endpoint, Hello, Settings};
use shards::contract::{Lane, OutFrame};
use shards::ids::{Address, CoreIndex, NodeId};

use crate::core_loop::Signal;
use crate::net::stream::Stream;
use lives::{Lives, Outlived};
use writer::{Writer, Written};

/// How long a host may acknowledge nothing until its connections are given up.
pub const SILENCE_DEADLINE: Duration = Duration::from_secs(2);

/// What a core's links need to know from the start.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// This core.
    pub here: Address,
    /// Number of cores of this node.
    pub cores: u16,
    /// This life of this node; never zero.
    pub incarnation: u64,
    /// What all nodes must agree on.
    pub settings: Settings,
    /// The other nodes with their addresses.
    pub hosts: Vec<(NodeId, IpAddr)>,
    /// Peer port of core 0; core `c` has this plus `c`.
    pub port_base: u16,
}

/// One link to a core of another node.
#[derive(Debug, Default)]
struct Link {
    /// Counts the connections made, so that what belongs to an earlier one leaves this one alone.
    serial: u64,
    standing: Option<Standing>,
    /// Raised when the other node has shown that it is there, so that a pause ends early.
    nudge: Rc<Signal>,
}

/// What a link is made of while it is up.
#[derive(Debug)]
struct Standing {
    incarnation: u64,
    turn: Writer,
    bulk: Option<Writer>,
}

/// What has to be done so that bytes which found no room are sent after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// On which link,
    pub to: Address,
    /// in which of its lives,
    pub serial: u64,
    /// and on which lane.
    pub lane: Lane,
    /// How.
    pub need: Need,
}

/// What a lane waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Room in the socket.
    Room,
    /// A connection.
    Connection,
}

/// What became of a frame.
#[derive(Debug)]
pub enum Sent {
    /// It was sent or will be; its buffer is free again.
    Accepted(Vec<u8>, Option<Pending>),
    /// There is no link.
    Dropped,
    /// The link broke over it, and is down from now on.
    Broken(&'static str),
}

/// A connection that a peer opened.
#[derive(Debug)]
struct Opened {
    serial: u64,
    incarnation: u64,
    stream: Rc<Stream>,
}

/// All links of a core, in both directions.
#[derive(Debug)]
pub struct Peers {
    config: PeerConfig,
    links: BTreeMap<Address, Link>,
    cores: BTreeMap<NodeId, u16>,
    lives: BTreeMap<NodeId, Lives>,
    opened: BTreeMap<(Address, Lane), Opened>,
    serials: u64,
}

impl Peers {
    /// No links yet.
    pub fn new(config: PeerConfig) -> Self {
        Peers {
            config,
            links: BTreeMap::new(),
            cores: BTreeMap::new(),
            lives: BTreeMap::new(),
            opened: BTreeMap::new(),
            serials: 0,
        }
    }

    /// What was fixed at the start.
    pub fn config(&self) -> &PeerConfig {
        &self.config
    }

    /// Where a core of another node takes links.
    pub fn address(&self, to: Address) -> Option<SocketAddr> {
        let (_, host) = self.config.hosts.iter().find(|(node, _)| *node == to.node)?;
        Some(SocketAddr::new(*host, self.config.port_base.checked_add(to.core.0)?))
    }

    /// Notes how many cores a node has, and returns those that have no link yet.
    pub fn note_cores(&mut self, node: NodeId, cores: u16) -> Vec<Address> {
        self.cores.insert(node, cores);
        let addresses = (0..cores).map(|core| Address { node, core: CoreIndex(core) });
        let new: Vec<Address> = addresses.filter(|to| !self.links.contains_key(to)).collect();
        self.links.extend(new.iter().map(|&to| (to, Link::default())));
        new
    }

    /// Whether there should be a link to `to`. One to a core that its node turned out not to have
    /// is forgotten here.
    pub fn is_wanted(&mut self, to: Address) -> bool {
        if self.cores.get(&to.node).is_some_and(|&cores| to.core.0 >= cores) {
            self.links.remove(&to);
        }
        self.links.contains_key(&to)
    }

    /// Raised when the node of `to` has shown that it is there.
    pub fn nudge_of(&mut self, to: Address) -> Option<Rc<Signal>> {
        Some(self.links.get(&to)?.nudge.clone())
    }

    /// Ends the pauses of links to `node`, which is there.
    pub fn nudge(&self, node: NodeId) {
        let to_node = self.links.iter().filter(|(to, _)| to.node == node);
        to_node.for_each(|(_, link)| link.nudge.raise());
    }

    /// How many links are up.
    pub fn up_count(&self) -> usize {
        self.links.values().filter(|link| link.standing.is_some()).count()
    }

    /// The greeting for a connection to `to`.
    pub fn hello(&self, to: Address, lane: Lane) -> Hello {
        Hello {
            settings: self.config.settings.clone(),
            from: endpoint(self.config.here),
            cores: self.config.cores,
            incarnation: self.config.incarnation,
            lane: wire_lane(lane),
            to: endpoint(to),
        }
    }

    /// Takes the connection of the turn lane over, which makes the link one that is up. Returns
    /// its serial number.
    pub fn set_up(&mut self, to: Address, stream: Rc<Stream>, incarnation: u64) -> u64 {
        self.serials += 1;
        let link = self.links.entry(to).or_default();
        link.serial = self.serials;
        let standing = Standing { incarnation, turn: Writer::new(stream), bulk: None };
        let earlier = link.standing.replace(standing);
        assert!(earlier.is_none(), "the link to {to} came up twice");
        self.serials
    }

    /// Takes the connection of the bulk lane over, which the frames that were waiting for it are
    /// sent on. `None` if the link it was opened for is no more.
    pub fn set_bulk(&mut self, to: Address, serial: u64, stream: Rc<Stream>) -> Option<()> {
        self.standing(to, serial)?.bulk.as_mut()?.connect(stream);
        Some(())
    }

    /// Ends a link, and says whether it was up until now. With a serial number it ends only that
    /// life of the link.
    pub fn take_down(&mut self, to: Address, serial: Option<u64>) -> bool {
        let Some(link) = self.links.get_mut(&to) else { return false };
        if serial.is_some_and(|serial| serial != link.serial) {
            return false;
        }
        let Some(standing) = link.standing.take() else { return false };
        standing.turn.shutdown();
        if let Some(bulk) = standing.bulk {
            bulk.shutdown();
        }
        true
    }

    /// Sends a frame to another node.
    pub fn send(&mut self, frame: OutFrame) -> Sent {
        let OutFrame { to, lane, bytes } = frame;
        let Some(link) = self.links.get_mut(&to) else { return Sent::Dropped };
        let Some(standing) = link.standing.as_mut() else { return Sent::Dropped };
        let pending = |need| Pending { to, serial: link.serial, lane, need };
        let writer = match lane {
            Lane::Turn => &mut standing.turn,
            Lane::Bulk => standing.bulk.get_or_insert_with(Writer::unconnected),
        };
        let outcome = match proto::peer::frame_header(&bytes) {
            Ok(header) => writer.write(&header, &bytes),
            Err(_) => Written::Broken("a frame has an impossible length"),
        };
        match outcome {
            Written::Sent | Written::Queued => Sent::Accepted(bytes, None),
            Written::NeedsRoom => Sent::Accepted(bytes, Some(pending(Need::Room))),
            Written::NeedsConnection => Sent::Accepted(bytes, Some(pending(Need::Connection))),
            Written::Broken(reason) => Sent::Broken(reason),
        }
    }

    /// Writes on where a lane's socket was full.
    pub fn write_on(&mut self, pending: Pending) -> Option<Written> {
        Some(self.writer(pending)?.write_on())
    }

    /// The stream of a lane, to wait for room on.
    pub fn stream(&mut self, pending: Pending) -> Option<Rc<Stream>> {
        self.writer(pending)?.stream()
    }

    fn writer(&mut self, pending: Pending) -> Option<&mut Writer> {
        let standing = self.standing(pending.to, pending.serial)?;
        match pending.lane {
            Lane::Turn => Some(&mut standing.turn),
            Lane::Bulk => standing.bulk.as_mut(),
        }
    }

    fn standing(&mut self, to: Address, serial: u64) -> Option<&mut Standing> {
        let link = self.links.get_mut(&to).filter(|link| link.serial == serial)?;
        link.standing.as_mut()
    }

    /// Notes which life of a node spoke, and returns the links that led to an earlier one. The
    /// connections that an earlier one opened are closed.
    ///
    /// # Errors
    /// If this life was replaced by a later one before.
    pub fn note_life(&mut self, node: NodeId, incarnation: u64) -> Result<Vec<Address>, Outlived> {
        if !self.lives.entry(node).or_default().note(incarnation)? {
            return Ok(Vec::new());
        }
        self.opened.retain(|(from, _), opened| {
            let stays = from.node != node || opened.incarnation == incarnation;
            if !stays {
                opened.stream.shutdown(Shutdown::Both);
            }
            stays
        });
        let outlived = |(&to, link): (&Address, &Link)| {
            let other = link.standing.as_ref()?.incarnation != incarnation;
            (to.node == node && other).then_some(to)
        };
        Ok(self.links.iter().filter_map(outlived).collect())
    }

    /// Takes a connection in that a peer opened, in place of the one it opened before. Returns its
    /// serial number.
    pub fn admit(
        &mut self,
        from: Address,
        lane: Lane,
        incarnation: u64,
        stream: Rc<Stream>,
    ) -> u64 {
        self.serials += 1;
        let opened = Opened { serial: self.serials, incarnation, stream };
        if let Some(earlier) = self.opened.insert((from, lane), opened) {
            earlier.stream.shutdown(Shutdown::Both);
        }
        self.serials
    }

    /// Whether a connection is still the newest of its sender and lane.
    pub fn is_current(&self, from: Address, lane: Lane, serial: u64) -> bool {
        self.opened.get(&(from, lane)).is_some_and(|opened| opened.serial == serial)
    }

    /// Forgets a connection that has ended.
    pub fn dismiss(&mut self, from: Address, lane: Lane, serial: u64) {
        if self.is_current(from, lane, serial) {
            self.opened.remove(&(from, lane));
        }
    }

    /// Ends everything, because the node stops.
    pub fn stop(&mut self) {
        for link in self.links.values_mut() {
            if let Some(standing) = link.standing.take() {
                standing.turn.shutdown();
                if let Some(bulk) = standing.bulk {
                    bulk.shutdown();
                }
            }
        }
        self.links.clear();
        for opened in self.opened.values() {
            opened.stream.shutdown(Shutdown::Both);
        }
        self.opened.clear();
    }
}

/// An address as the handshake spells it.
pub fn endpoint(address: Address) -> Endpoint {
    Endpoint { node: address.node.0, core: address.core.0 }
}

/// An address from the handshake.
pub fn address(endpoint: Endpoint) -> Address {
    Address { node: NodeId(endpoint.node), core: CoreIndex(endpoint.core) }
}

/// A lane as the handshake spells it.
pub fn wire_lane(lane: Lane) -> proto::peer::Lane {
    match lane {
        Lane::Turn => proto::peer::Lane::Turn,
        Lane::Bulk => proto::peer::Lane::Bulk,
    }
}

/// A lane from the handshake.
pub fn lane(lane: proto::peer::Lane) -> Lane {
    match lane {
        proto::peer::Lane::Turn => Lane::Turn,
        proto::peer::Lane::Bulk => Lane::Bulk,
    }
}
