//! The addresses of a cluster, computed from one node's configuration.
//!
//! All nodes use the same ports, each on the address it has among the members, so there is
//! nothing to exchange and nothing that could be out of date. Where a port depends on a core of
//! another node, the caller knows how many cores that node has from the peers' handshake.

use std::net::{IpAddr, SocketAddr};

use shards::ids::{CoreIndex, NodeId};

use super::{Advertise, NodeConfig};

impl NodeConfig {
    /// The address of a member; `None` if it is not one.
    pub fn host(&self, node: NodeId) -> Option<IpAddr> {
        self.members.get(&node).copied()
    }

    /// Where `node` serves any key on any core.
    pub fn data_address(&self, node: NodeId) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.host(node)?, self.port))
    }

    /// Where one core of `node` serves what it leads. `None` also if the port does not exist.
    pub fn core_address(&self, node: NodeId, core: CoreIndex) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.host(node)?, self.core_port_base.checked_add(core.0)?))
    }

    /// Where the control thread of `node` serves HTTP.
    pub fn http_address(&self, node: NodeId) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.host(node)?, self.http_port))
    }

    /// The data address that clients are told for what `core` of `node` owns.
    pub fn advertised_address(&self, node: NodeId, core: CoreIndex) -> Option<SocketAddr> {
        match self.advertise {
            Advertise::Core => self.core_address(node, core),
            Advertise::Node => self.data_address(node),
        }
    }

    /// Where this node listens for clients on all cores.
    pub fn data_listen_address(&self) -> SocketAddr {
        SocketAddr::new(self.bind, self.port)
    }

    /// Where `core` of this node listens for clients of its own. The port exists: the
    /// configuration was checked for the number of cores this node has.
    pub fn core_listen_address(&self, core: CoreIndex) -> SocketAddr {
        SocketAddr::new(self.bind, self.core_port_base.saturating_add(core.0))
    }

    /// Where `core` of this node listens for its peers.
    pub fn peer_listen_address(&self, core: CoreIndex) -> SocketAddr {
        SocketAddr::new(self.bind, self.peer_port_base.saturating_add(core.0))
    }

    /// Where this node's control thread listens.
    pub fn http_listen_address(&self) -> SocketAddr {
        SocketAddr::new(self.bind, self.http_port)
    }
}
