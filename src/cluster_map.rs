//! What a core tells its clients about the cluster: who owns which slots, and at which address.
//!
//! One map per core, changed only by its core loop: leaders and the number of cores of other nodes
//! are learnt at runtime, everything else is fixed at the start. It only describes. Requests are
//! routed by the engine; a map that is out of date costs a client one redirection or forward.
//!
//! Every core of every node is a node of its own to cluster-aware clients, with an id that is a
//! function of the cluster's name, the node and the core, and so survives restarts. With
//! [`Advertise::Node`] there is one per node instead, under its any-core port.
//!
//! Where no leader is known, the last known one stands in for it, or else the preferred one: a
//! client that is sent there waits for the election instead of failing.

use std::net::IpAddr;

use proto::slot::SLOTS;
use shards::contract::LeaderView;
use shards::ids::{CoreIndex, NodeId, ShardId, Term};
use shards::placement::Placement;

use crate::config::Advertise;

/// The ports that all nodes of a cluster share; see DESIGN §10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Data port that every core of a node listens on.
    pub any_core: u16,
    /// Data port of core 0; core `c` has this plus `c`.
    pub core_base: u16,
    /// Peer port of core 0; core `c` has this plus `c`.
    pub peer_base: u16,
    /// HTTP port of the control thread.
    pub http: u16,
}

/// What is fixed when a core starts.
#[derive(Clone, Debug)]
pub struct ClusterLayout {
    /// Name of the cluster; it enters the ids that clients see.
    pub name: String,
    /// Members and shards.
    pub placement: Placement,
    /// The address of each member, in the order of [`Placement::nodes`].
    pub hosts: Vec<IpAddr>,
    /// This node.
    pub node: NodeId,
    /// This core.
    pub core: CoreIndex,
    /// Number of cores of this node, taken for that of the others until they say theirs.
    pub cores: u16,
    /// The ports of every node.
    pub ports: Ports,
    /// Which ports clients are told.
    pub advertise: Advertise,
}

/// A node of the cluster as clients see it: a core, or a whole node with [`Advertise::Node`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// The core; always 0 with [`Advertise::Node`].
    pub core: CoreIndex,
}

/// Adjacent slots with the same owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRange {
    /// First slot.
    pub first: u16,
    /// Last slot.
    pub last: u16,
    /// Who serves it.
    pub owner: Member,
}

/// Where a request for a shard belongs, seen from a core port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// This core leads the shard.
    Here,
    /// Another one leads it.
    Elsewhere(Member),
    /// No leader is known; the engine lets requests wait for the next one.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct ShardEntry {
    view: LeaderView,
    /// The leader of the view, or who leads or should lead as far as one can tell without it.
    listed: NodeId,
    ownership: Ownership,
}

/// The map of one core. See the module's description.
#[derive(Clone, Debug)]
pub struct ClusterMap {
    layout: ClusterLayout,
    cores: Vec<u16>,
    shards: Vec<ShardEntry>,
}

impl ClusterMap {
    /// A map without any leader.
    ///
    /// # Panics
    /// If there is not one host per member: the configuration has made sure of that.
    pub fn new(layout: ClusterLayout) -> Self {
        assert_eq!(layout.hosts.len(), layout.placement.nodes().len(), "one host per member");
        let cores = vec![layout.cores.max(1); layout.hosts.len()];
        let shards = (0..layout.placement.shards())
            .map(|shard| ShardEntry {
                view: LeaderView::default(),
                listed: layout.placement.replicas(ShardId(shard)).next().unwrap_or(layout.node),
                ownership: Ownership::Unknown,
            })
            .collect();
        ClusterMap { layout, cores, shards }
    }

    /// Notes how many cores `node` has. Unknown nodes are ignored.
    pub fn set_cores(&mut self, node: NodeId, cores: u16) {
        let Some(position) = self.position(node) else { return };
        if self.cores[position] == cores || cores == 0 {
            return;
        }
        self.cores[position] = cores;
        for shard in 0..self.shards.len() {
            self.shards[shard].ownership =
                self.ownership_of(ShardId(shard as u16), self.shards[shard].view);
        }
    }

    /// Notes who leads each shard, in the order of their ids.
    pub fn set_leaders(&mut self, views: &[LeaderView]) {
        for (shard, &view) in views.iter().enumerate().take(self.shards.len()) {
            self.set_leader(ShardId(shard as u16), view);
        }
    }

    /// Notes who leads one shard. A shard or a leader that does not exist is ignored.
    pub fn set_leader(&mut self, shard: ShardId, view: LeaderView) {
        let Some(entry) = self.shards.get(usize::from(shard.0)) else { return };
        if entry.view == view || view.leader.is_some_and(|node| self.position(node).is_none()) {
            return;
        }
        let ownership = self.ownership_of(shard, view);
        let entry = &mut self.shards[usize::from(shard.0)];
        entry.view = view;
        entry.ownership = ownership;
        entry.listed = view.leader.unwrap_or(entry.listed);
    }

    fn ownership_of(&self, shard: ShardId, view: LeaderView) -> Ownership {
        let Some(leader) = view.leader else { return Ownership::Unknown };
        let core = self.home_core(shard, leader);
        if leader == self.layout.node && core == self.layout.core {
            return Ownership::Here;
        }
        Ownership::Elsewhere(Member { node: leader, core })
    }

    /// What was fixed at the start.
    pub fn layout(&self) -> &ClusterLayout {
        &self.layout
    }

    /// Number of shards.
    pub fn shard_count(&self) -> u16 {
        self.layout.placement.shards()
    }

    /// All shards.
    pub fn shards(&self) -> impl ExactSizeIterator<Item = ShardId> + use<> {
        (0..self.shard_count()).map(ShardId)
    }

    /// The shard of `slot`; slots beyond the last wrap round.
    pub fn shard_of_slot(&self, slot: u16) -> ShardId {
        self.layout.placement.shard_of_slot(slot % SLOTS)
    }

    /// The shard of `key`.
    pub fn shard_of_key(&self, key: &[u8]) -> ShardId {
        self.shard_of_slot(proto::slot::slot_of(key))
    }

    /// The first and last slot of `shard`.
    pub fn slots(&self, shard: ShardId) -> (u16, u16) {
        self.layout.placement.slots(shard)
    }

    /// Who serves `shard`, seen from this core.
    pub fn ownership(&self, shard: ShardId) -> Ownership {
        self.shards.get(usize::from(shard.0)).map_or(Ownership::Unknown, |entry| entry.ownership)
    }

    /// Whether this core has a replica of `shard`, whoever leads it.
    pub fn holds(&self, shard: ShardId) -> bool {
        self.layout.placement.rank(shard, self.layout.node).is_some()
            && self.home_core(shard, self.layout.node) == self.layout.core
    }

    /// The leader of `shard` as far as known.
    pub fn leader(&self, shard: ShardId) -> LeaderView {
        self.shards.get(usize::from(shard.0)).map_or(LeaderView::default(), |entry| entry.view)
    }

    /// The highest term of any shard.
    pub fn term_max(&self) -> Term {
        self.shards.iter().map(|entry| entry.view.term).max().unwrap_or_default()
    }

    /// The address of the core port of the leader of `shard`, if one is known.
    pub fn leader_address(&self, shard: ShardId) -> Option<(IpAddr, u16)> {
        let leader = self.leader(shard).leader?;
        self.core_address(leader, self.home_core(shard, leader))
    }

    /// The host of `node`, if it is a member.
    pub fn host(&self, node: NodeId) -> Option<IpAddr> {
        self.position(node).map(|position| self.layout.hosts[position])
    }

    /// How many cores `node` has, as far as known.
    pub fn cores_of(&self, node: NodeId) -> u16 {
        self.position(node).map_or(self.layout.cores, |position| self.cores[position])
    }

    /// The core of `node` that is home to `shard`.
    pub fn home_core(&self, shard: ShardId, node: NodeId) -> CoreIndex {
        self.layout.placement.core(shard, self.cores_of(node))
    }

    /// The address of the core port of a core, if the node is a member.
    pub fn core_address(&self, node: NodeId, core: CoreIndex) -> Option<(IpAddr, u16)> {
        Some((self.host(node)?, self.layout.ports.core_base.saturating_add(core.0)))
    }

    /// The address at which clients find `member`.
    pub fn advertised_address(&self, member: Member) -> (IpAddr, u16) {
        let local_host = || self.layout.hosts.first().copied();
        let host = self.host(member.node).or_else(local_host);
        let host = host.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
        match self.layout.advertise {
            Advertise::Core => (host, self.layout.ports.core_base.saturating_add(member.core.0)),
            Advertise::Node => (host, self.layout.ports.any_core),
        }
    }

    /// The port under which peers find `member`.
    pub fn peer_port(&self, member: Member) -> u16 {
        self.layout.ports.peer_base.saturating_add(member.core.0)
    }

    /// All members as clients see them.
    pub fn members(&self) -> impl Iterator<Item = Member> + '_ {
        self.layout.placement.nodes().iter().flat_map(move |&node| {
            let cores = match self.layout.advertise {
                Advertise::Core => self.cores_of(node),
                Advertise::Node => 1,
            };
            (0..cores).map(move |core| Member { node, core: CoreIndex(core) })
        })
    }

    /// The member that this core is, or belongs to.
    pub fn myself(&self) -> Member {
        self.as_member(self.layout.node, self.layout.core)
    }

    /// Who serves `shard`; see the module's description for when nobody is known to.
    pub fn listed_owner(&self, shard: ShardId) -> Member {
        let listed =
            self.shards.get(usize::from(shard.0)).map_or(self.layout.node, |entry| entry.listed);
        self.as_member(listed, self.home_core(shard, listed))
    }

    /// Who holds copies of `shard` besides its owner, in order of rank.
    pub fn listed_replicas(&self, shard: ShardId) -> impl Iterator<Item = Member> + '_ {
        let owner = self.listed_owner(shard).node;
        self.layout
            .placement
            .replicas(shard)
            .filter(move |&node| node != owner)
            .map(move |node| self.as_member(node, self.home_core(shard, node)))
    }

    /// All slots, in order, as ranges with one owner each.
    pub fn slot_ranges(&self) -> Vec<SlotRange> {
        let mut ranges: Vec<SlotRange> = Vec::new();
        for shard in self.shards() {
            let (first, last) = self.slots(shard);
            let owner = self.listed_owner(shard);
            match ranges.last_mut() {
                Some(range) if range.owner == owner => range.last = last,
                _ => ranges.push(SlotRange { first, last, owner }),
            }
        }
        ranges
    }

    /// The id of a member: 40 hexadecimal digits, a function of its arguments and the cluster's
    /// name only.
    pub fn member_id(&self, member: Member) -> String {
        self.stable_id(u64::from(member.node.0) << 32 | u64::from(member.core.0))
    }

    fn stable_id(&self, subject: u64) -> String {
        let mut state = fnv1a(self.layout.name.as_bytes()) ^ mix(subject);
        let mut id = String::with_capacity(48);
        for _ in 0..3 {
            state = mix(state);
            id.push_str(&format!("{state:016x}"));
        }
        id.truncate(40);
        id
    }

    fn as_member(&self, node: NodeId, core: CoreIndex) -> Member {
        match self.layout.advertise {
            Advertise::Core => Member { node, core },
            Advertise::Node => Member { node, core: CoreIndex(0) },
        }
    }

    fn position(&self, node: NodeId) -> Option<usize> {
        self.layout.placement.nodes().binary_search(&node).ok()
    }
}

/// FNV-1a of 64 bits. It need not resist anyone, only be the same everywhere for ever.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// One step of SplitMix64, so that close inputs give ids without likeness.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// Three nodes on 127.0.0.1 to 127.0.0.3 with two cores each, seen from core 0 of node 1.
    pub(crate) fn layout(shards: u16) -> ClusterLayout {
        ClusterLayout {
            name: "test".to_owned(),
            placement: Placement::new((1..=3).map(NodeId).collect(), shards).expect("a layout"),
            hosts: (1..=3).map(|last| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))).collect(),
            node: NodeId(1),
            core: CoreIndex(0),
            cores: 2,
            ports: Ports { any_core: 7400, core_base: 7401, peer_base: 7501, http: 7480 },
            advertise: Advertise::Core,
        }
    }

    /// Every shard led by its preferred leader.
    pub(crate) fn preferred_leaders(map: &mut ClusterMap) {
        for shard in map.shards() {
            let leader = map.layout().placement.replicas(shard).next();
            map.set_leader(shard, LeaderView { term: Term(1), leader });
        }
    }

    #[test]
    fn a_request_belongs_to_the_core_that_is_home_to_its_shard_on_the_leader() {
        let mut map = ClusterMap::new(layout(32));
        assert_eq!(map.ownership(ShardId(0)), Ownership::Unknown);
        assert_eq!(map.leader_address(ShardId(0)), None);
        preferred_leaders(&mut map);
        assert_eq!(map.ownership(ShardId(0)), Ownership::Here);
        // Shard 3 is on core 1 of node 1, shard 1 on core 0 of node 2.
        let elsewhere =
            |node, core| Ownership::Elsewhere(Member { node: NodeId(node), core: CoreIndex(core) });
        assert_eq!(map.ownership(ShardId(3)), elsewhere(1, 1));
        assert_eq!(map.ownership(ShardId(1)), elsewhere(2, 0));
        assert_eq!(
            map.leader_address(ShardId(4)),
            Some((IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), 7402))
        );
    }

    #[test]
    fn the_cores_of_another_node_are_learnt() {
        let mut map = ClusterMap::new(layout(32));
        preferred_leaders(&mut map);
        map.set_cores(NodeId(2), 1);
        let only_core = Member { node: NodeId(2), core: CoreIndex(0) };
        assert_eq!(map.ownership(ShardId(4)), Ownership::Elsewhere(only_core));
        assert_eq!(map.members().count(), 5);
    }

    #[test]
    fn a_shard_without_leader_is_listed_under_its_last_one() {
        let mut map = ClusterMap::new(layout(32));
        assert_eq!(map.listed_owner(ShardId(1)).node, NodeId(2));
        map.set_leader(ShardId(1), LeaderView { term: Term(4), leader: Some(NodeId(3)) });
        map.set_leader(ShardId(1), LeaderView { term: Term(5), leader: None });
        assert_eq!(map.listed_owner(ShardId(1)).node, NodeId(3));
        assert_eq!(map.ownership(ShardId(1)), Ownership::Unknown);
    }

    #[test]
    fn ranges_cover_all_slots_once_and_merge() {
        for advertise in [Advertise::Core, Advertise::Node] {
            for shards in [1, 3, 32, 1_000] {
                let mut map = ClusterMap::new(ClusterLayout { advertise, ..layout(shards) });
                preferred_leaders(&mut map);
                let ranges = map.slot_ranges();
                let mut next = 0;
                for range in &ranges {
                    assert_eq!(range.first, next);
                    next = range.last + 1;
                }
                assert_eq!(next, SLOTS);
            }
        }
        let single = ClusterLayout {
            placement: Placement::new(vec![NodeId(1)], 8).expect("a layout"),
            hosts: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            advertise: Advertise::Node,
            ..layout(8)
        };
        assert_eq!(ClusterMap::new(single).slot_ranges().len(), 1);
    }

    #[test]
    fn ids_are_stable_and_all_different() {
        let map = ClusterMap::new(layout(32));
        let ids: std::collections::BTreeSet<String> =
            map.members().map(|member| map.member_id(member)).collect();
        assert_eq!(ids.len(), 6);
        assert!(ids.iter().all(|id| {
            id.len() == 40 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        }));
        let seen_from_elsewhere =
            ClusterMap::new(ClusterLayout { node: NodeId(3), cores: 4, ..layout(32) });
        assert_eq!(map.member_id(map.myself()), seen_from_elsewhere.member_id(map.myself()));
        // A change of the derivation would give all clusters new ids at an upgrade.
        assert_eq!(map.member_id(map.myself()), "3dbf82657cb9f6873600804fa575f6d60a9937d3");
    }

    #[test]
    fn with_one_entry_per_node_the_any_core_port_is_listed() {
        let mut map = ClusterMap::new(ClusterLayout { advertise: Advertise::Node, ..layout(32) });
        preferred_leaders(&mut map);
        assert_eq!(map.members().count(), 3);
        assert_eq!(map.advertised_address(map.listed_owner(ShardId(4))).1, 7400);
    }
}
