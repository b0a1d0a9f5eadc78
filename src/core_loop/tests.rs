//! Cores with real sockets: what clients see of connections, and what nodes see of each other.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::peer::Settings;
use shards::contract::{CoreConfig, Durability, ReadMode, STUB_BYTES_MIN};
use shards::ids::{Address, CoreIndex, Millis, Nanos, NodeId};
use shards::placement::Placement;
use shards::wal::{LogIdentity, SEGMENT_BYTES};

use super::client::Next;
use super::table::ConnectionId;
use super::{CorePorts, CoreStart, NodeBoard, Seats, Shared, assemble, clock, run};
use crate::cluster_map::{ClusterLayout, Ports};
use crate::config::Advertise;
use crate::control::messages::{ControlRequest, CoreReport};
use crate::mesh;
use crate::net::listener::{Listener, Sharing};
use crate::net::runtime::{ExecutorSettings, ExecutorThread, start_executor};
use crate::net::stream::Stream;
use crate::peers::PeerConfig;
use crate::session::context::NodeTotals;
use crate::session::{PortKind, ServerFacts};

/// How long anything may take before a test fails.
const DEADLINE: Duration = Duration::from_secs(20);

/// A node of one or more cores that runs in this process.
struct TestNode {
    cores: Vec<TestCore>,
}

struct TestCore {
    any_core: SocketAddr,
    own: SocketAddr,
    peer: SocketAddr,
    control: flume::Sender<ControlRequest>,
    thread: Option<ExecutorThread<std::io::Result<()>>>,
}

/// What the nodes of a test have in common.
#[derive(Clone)]
struct Plan {
    nodes: u16,
    cores: u16,
    connections: usize,
    peer_port: u16,
    shards: u16,
}

impl Plan {
    fn single() -> Plan {
        Plan { nodes: 1, cores: 1, connections: 4_096, peer_port: 0, shards: 8 }
    }

    fn start(&self, node: u16) -> TestNode {
        let seats = Seats::new(self.connections);
        let board = Arc::new(NodeBoard::new(self.cores));
        let incarnation = crate::startup::random().expect("randomness").max(1);
        let parts = mesh::connect(self.cores).into_iter().zip(0..);
        let cores = parts.map(|(mesh, core)| {
            let ports = self.bind(node, core);
            let (control, requests) = flume::bounded(8);
            let [any_core, own, peer] =
                [&ports.any_core, &ports.own, &ports.peer].map(|port| port.address());
            let start = CoreStart {
                engine: self.engine(node, core),
                log: None,
                layout: self.layout(node, core),
                peers: self.peers(node, core, incarnation),
                facts: facts(self.cores),
                ports,
                control: requests,
                mesh,
                seats: seats.clone(),
                board: board.clone(),
            };
            let settings = ExecutorSettings {
                name: format!("test{node}-{core}"),
                cpu: None,
                spin: Duration::ZERO,
            };
            let thread = start_executor(&settings, move || run(start)).expect("an executor");
            TestCore {
                any_core: any_core.expect("an address"),
                own: own.expect("an address"),
                peer: peer.expect("an address"),
                control,
                thread: Some(thread),
            }
        });
        TestNode { cores: cores.collect() }
    }

    /// A core without tasks, for tests that do by hand what they would do.
    fn assemble(&self) -> Rc<Shared> {
        let (_, requests) = flume::bounded(1);
        let start = CoreStart {
            engine: self.engine(1, 0),
            log: None,
            layout: self.layout(1, 0),
            peers: self.peers(1, 0, 1),
            facts: facts(1),
            ports: self.bind(1, 0),
            control: requests,
            mesh: mesh::connect(1).remove(0),
            seats: Seats::new(self.connections),
            board: Arc::new(NodeBoard::new(1)),
        };
        assemble(start).expect("no log is in the way").shared
    }

    fn bind(&self, node: u16, core: u16) -> CorePorts {
        let bind = |port| {
            Listener::bind(SocketAddr::new(host(node), port), Sharing::Exclusive).expect("a port")
        };
        let peer = if self.peer_port == 0 { 0 } else { self.peer_port + core };
        CorePorts { any_core: bind(0), own: bind(0), peer: bind(peer) }
    }

    fn placement(&self) -> Placement {
        Placement::new((1..=self.nodes).map(NodeId).collect(), self.shards).expect("a layout")
    }

    fn engine(&self, node: u16, core: u16) -> CoreConfig {
        CoreConfig {
            node: NodeId(node),
            core: CoreIndex(core),
            cores: self.cores,
            placement: self.placement(),
            shard_bytes_max: 64 << 20,
            eviction: shards::ids::Eviction::Lru,
            value_bytes_max: 1 << 20,
            durability: Durability::Memory,
            reads: ReadMode::Lease,
            log: LogIdentity { cluster: 0, node: NodeId(node), layout: 1, core: CoreIndex(core) },
            segment_bytes: SEGMENT_BYTES,
            tick: Nanos(20_000_000),
            election_ticks: 6,
            request_deadline: Nanos(5_000_000_000),
            touch_interval: Millis(5_000),
            stub_bytes_min: STUB_BYTES_MIN,
            scrub_bytes_per_second: 8 << 20,
            parked_bytes_max: 16 << 20,
            // A replica's identity is drawn from it, and must never be that of an earlier life.
            seed: crate::startup::random().expect("randomness"),
        }
    }

    fn layout(&self, node: u16, core: u16) -> ClusterLayout {
        ClusterLayout {
            name: "test".to_owned(),
            placement: self.placement(),
            hosts: (1..=self.nodes).map(host).collect(),
            node: NodeId(node),
            core: CoreIndex(core),
            cores: self.cores,
            ports: Ports { any_core: 1, core_base: 2, peer_base: self.peer_port, http: 3 },
            advertise: Advertise::Core,
        }
    }

    fn peers(&self, node: u16, core: u16, incarnation: u64) -> PeerConfig {
        let others = (1..=self.nodes).filter(|&other| other != node);
        PeerConfig {
            here: Address { node: NodeId(node), core: CoreIndex(core) },
            cores: self.cores,
            incarnation,
            settings: Settings {
                cluster: "test".to_owned(),
                members: (1..=self.nodes).collect(),
                shards: self.shards,
                replication: self.placement().replication() as u16,
                tick_us: 20_000,
                election_ticks: 6,
                value_bytes_max: 1 << 20,
                shard_bytes_max: 64 << 20,
                eviction: 0,
                durability: proto::peer::Durability::Memory,
            },
            hosts: others.map(|other| (NodeId(other), host(other))).collect(),
            port_base: self.peer_port,
        }
    }
}

fn host(node: u16) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 7, node as u8))
}

/// A port that is free on the addresses of nodes 1 to 3, with its successor. Other processes may
/// take it, but nothing else uses these addresses.
fn free_peer_port() -> u16 {
    loop {
        let bound =
            Listener::bind(SocketAddr::new(host(1), 0), Sharing::Exclusive).expect("a port");
        let port = bound.address().expect("an address").port();
        let is_free = |&(node, port): &(u16, u16)| {
            Listener::bind(SocketAddr::new(host(node), port), Sharing::Exclusive).is_ok()
        };
        let others = [(2, port), (3, port), (1, port + 1), (2, port + 1), (3, port + 1)];
        if port < u16::MAX && others.iter().all(is_free) {
            return port;
        }
    }
}

fn facts(cores: u16) -> ServerFacts {
    ServerFacts {
        run_id: "0".repeat(40),
        process_id: 1,
        started: clock::now(),
        cores,
        port: 1,
        memory_bytes: 1 << 30,
        eviction: shards::ids::Eviction::Lru,
        connections_max: 100,
        value_bytes_max: 1 << 20,
        durability: Durability::Memory,
        totals: NodeTotals::default(),
    }
}

impl TestNode {
    fn connect(&self) -> TcpStream {
        connect(self.cores[0].any_core)
    }

    fn report(&self, core: usize) -> CoreReport {
        let (answer, report) = flume::bounded(1);
        self.cores[core].control.send(ControlRequest::Status(answer)).expect("a core that runs");
        report.recv_timeout(DEADLINE).expect("a report")
    }

    fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        for core in &self.cores {
            let _ = core.control.send(ControlRequest::Stop);
        }
        for core in &mut self.cores {
            if let Some(thread) = core.thread.take() {
                thread.join().expect("an executor that ends").expect("a core that ends well");
            }
        }
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.set_write_timeout(Some(DEADLINE)).expect("a timeout");
    stream
}

/// Sends `request` and receives as many bytes as `reply` has.
fn exchange(stream: &mut TcpStream, request: &[u8], reply: &[u8]) {
    stream.write_all(request).expect("written");
    expect(stream, reply);
}

fn expect(stream: &mut TcpStream, reply: &[u8]) {
    let mut received = vec![0; reply.len()];
    stream.read_exact(&mut received).expect("a reply");
    assert_eq!(String::from_utf8_lossy(&received), String::from_utf8_lossy(reply));
}

fn expect_end(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("an end without a reset");
    assert_eq!(String::from_utf8_lossy(&rest), "");
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < DEADLINE, "in vain: {what}");
        std::thread::yield_now();
    }
}

fn set(key: &str, value: &str) -> Vec<u8> {
    format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n{value}\r\n", key.len(), value.len())
        .into_bytes()
}

fn get(key: &str) -> Vec<u8> {
    format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len()).into_bytes()
}

fn bulk(value: &str) -> Vec<u8> {
    format!("${}\r\n{value}\r\n", value.len()).into_bytes()
}

#[test]
fn a_pipeline_is_answered_in_its_order_over_shards_and_local_commands() {
    let node = Plan { cores: 2, ..Plan::single() }.start(1);
    let mut stream = node.connect();
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    for number in 0..500 {
        let (key, value) = (format!("key{number}"), format!("value{number}"));
        requests.extend(set(&key, &value));
        replies.extend(b"+OK\r\n");
        requests.extend(b"PING\r\n");
        replies.extend(b"+PONG\r\n");
        requests.extend(get(&key));
        replies.extend(bulk(&value));
    }
    exchange(&mut stream, &requests, &replies);
    let counters = [node.report(0).counters, node.report(1).counters];
    assert_eq!(counters.iter().map(|core| core.commands).sum::<u64>(), 1_500);
    assert!(counters.iter().map(|core| core.commands_to_siblings).sum::<u64>() > 0);
}

#[test]
fn requests_in_pieces_of_any_size_get_the_same_replies() {
    let node = Plan::single().start(1);
    let mut requests = set("key", &"v".repeat(40_000));
    requests.extend(get("key"));
    requests.extend(b"PING\r\n");
    let mut replies = b"+OK\r\n".to_vec();
    replies.extend(bulk(&"v".repeat(40_000)));
    replies.extend(b"+PONG\r\n");
    for size in [1_usize, 7, 1_000, 17_000, 39_999] {
        let mut stream = node.connect();
        stream.set_nodelay(true).expect("no delay");
        // A byte at a time through 40 kB says no more than a few of them do at each end.
        let whole = if size == 1 { 40_000 } else { 0 };
        for piece in requests[..30].chunks(size) {
            stream.write_all(piece).expect("written");
        }
        for piece in requests[30..30 + whole].chunks(10_000) {
            stream.write_all(piece).expect("written");
        }
        for piece in requests[30 + whole..].chunks(size) {
            stream.write_all(piece).expect("written");
        }
        expect(&mut stream, &replies);
    }
}

#[test]
fn a_client_that_ends_its_input_gets_all_replies_and_then_the_end() {
    let node = Plan::single().start(1);
    let mut stream = node.connect();
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    for number in 0..2_000 {
        requests.extend(set("key", &number.to_string()));
        replies.extend(b"+OK\r\n");
        requests.extend(get("key"));
        replies.extend(bulk(&number.to_string()));
    }
    stream.write_all(&requests).expect("written");
    stream.shutdown(Shutdown::Write).expect("shut down");
    expect(&mut stream, &replies);
    expect_end(&mut stream);
    wait_until("the connection is gone", || node.report(0).counters.connections == 0);
}

#[test]
fn quit_is_answered_before_the_end_and_what_follows_it_resets_nothing() {
    let node = Plan::single().start(1);
    let mut stream = node.connect();
    let mut requests = set("key", "value");
    requests.extend(b"QUIT\r\n");
    // More than is received at once, so that some of it is unread when the connection closes.
    requests.extend(std::iter::repeat_n(b"PING\r\n", 500_000).flatten());
    exchange(&mut stream, &requests, b"+OK\r\n+OK\r\n");
    expect_end(&mut stream);
}

#[test]
fn one_connection_too_many_is_told_so_and_the_others_stay() {
    let node = Plan { connections: 3, ..Plan::single() }.start(1);
    let mut streams: Vec<_> = (0..3).map(|_| node.connect()).collect();
    for stream in &mut streams {
        exchange(stream, b"PING\r\n", b"+PONG\r\n");
    }
    let mut refused = node.connect();
    expect(&mut refused, super::NO_ROOM);
    expect_end(&mut refused);
    for stream in &mut streams {
        exchange(stream, b"PING\r\n", b"+PONG\r\n");
    }
    assert_eq!(node.report(0).counters.connections_refused, 1);
    drop(streams.pop());
    wait_until("a seat is free", || node.report(0).counters.connections == 2);
    exchange(&mut node.connect(), b"PING\r\n", b"+PONG\r\n");
}

#[test]
fn two_thousand_connections_are_served_side_by_side() {
    crate::startup::check_host(1, 1).expect("a host that can");
    let node = Plan::single().start(1);
    let mut streams: Vec<_> = (0..2_000).map(|_| node.connect()).collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&set(&format!("key{number}"), &number.to_string())).expect("written");
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        expect(stream, b"+OK\r\n");
        exchange(stream, &get(&format!("key{number}")), &bulk(&number.to_string()));
    }
    assert_eq!(node.report(0).counters.connections, 2_000);
}

#[test]
fn a_client_that_does_not_read_is_not_read_either_and_loses_nothing() {
    const REQUESTS: usize = 400;
    let node = Plan::single().start(1);
    // All replies together stay below what a connection may owe, and far above what sockets hold.
    let value = "x".repeat(100_000);
    let mut stream = node.connect();
    exchange(&mut stream, &set("large", &value), b"+OK\r\n");
    let mut writer = stream.try_clone().expect("a second handle");
    let writing = std::thread::spawn(move || {
        for number in 0..REQUESTS {
            writer.write_all(&get("large")).expect("written");
            writer.write_all(&set("number", &number.to_string())).expect("written");
        }
    });
    exchange(&mut node.connect(), b"PING\r\n", b"+PONG\r\n");
    let reply = [bulk(&value), b"+OK\r\n".to_vec()].concat();
    let mut received = vec![0; reply.len()];
    for _ in 0..REQUESTS {
        stream.read_exact(&mut received).expect("a reply");
        assert!(received == reply, "a reply is not the one that was due");
    }
    writing.join().expect("all was written");
    exchange(&mut stream, &get("number"), &bulk(&(REQUESTS - 1).to_string()));
}

#[test]
fn a_client_that_vanishes_with_requests_under_way_harms_nobody() {
    let node = Plan::single().start(1);
    for round in 0..200 {
        let mut stream = node.connect();
        for number in 0..50 {
            stream.write_all(&set(&format!("key{number}"), &round.to_string())).expect("written");
        }
        // Unread replies make this a reset.
        drop(stream);
        exchange(&mut node.connect(), &set("own", "1"), b"+OK\r\n");
    }
    wait_until("all are gone", || node.report(0).counters.connections == 0);
}

#[test]
fn a_core_that_stops_answers_what_is_under_way_and_ends_every_connection() {
    let node = Plan::single().start(1);
    let mut idle = node.connect();
    exchange(&mut idle, b"PING\r\n", b"+PONG\r\n");
    let mut silent = node.connect();
    let mut own_port = connect(node.cores[0].own);
    exchange(&mut own_port, b"PING\r\n", b"+PONG\r\n");
    let address = node.cores[0].any_core;
    node.stop();
    for stream in [&mut idle, &mut silent, &mut own_port] {
        expect_end(stream);
    }
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn strangers_on_the_peer_port_are_closed() {
    let node = Plan::single().start(1);
    let mut stream = connect(node.cores[0].peer);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("written");
    let mut rest = Vec::new();
    // Closing with unread input may reset the connection; both is an end.
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty());
    exchange(&mut node.connect(), b"PING\r\n", b"+PONG\r\n");
}

fn three_nodes(cores: u16) -> (Plan, Vec<Option<TestNode>>) {
    let plan = Plan { nodes: 3, cores, peer_port: free_peer_port(), ..Plan::single() };
    let nodes = (1..=3).map(|node| Some(plan.start(node))).collect();
    (plan, nodes)
}

#[test]
fn nodes_link_up_and_serve_each_others_keys() {
    let (_, nodes) = three_nodes(2);
    let mut streams: Vec<_> = nodes.iter().flatten().map(TestNode::connect).collect();
    for number in 0..100 {
        let (key, value) = (format!("key{number}"), number.to_string());
        exchange(&mut streams[number % 3], &set(&key, &value), b"+OK\r\n");
        exchange(&mut streams[(number + 1) % 3], &get(&key), &bulk(&value));
    }
    for node in nodes.iter().flatten() {
        for core in 0..2 {
            wait_until("all links are up", || node.report(core).counters.peer_links == 4);
        }
    }
}

#[test]
fn a_node_that_comes_back_in_a_new_life_is_linked_again() {
    let (plan, mut nodes) = three_nodes(1);
    let mut stream = nodes[0].as_ref().expect("node 1").connect();
    for number in 0..50 {
        exchange(&mut stream, &set(&format!("key{number}"), "before"), b"+OK\r\n");
    }
    for _ in 0..2 {
        nodes[1].take().expect("node 2").stop();
        for number in 0..50 {
            exchange(&mut stream, &get(&format!("key{number}")), &bulk("before"));
        }
        nodes[1] = Some(plan.start(2));
        let second = nodes[1].as_ref().expect("node 2");
        wait_until("node 2 is linked", || second.report(0).counters.peer_links == 2);
        let mut through_second = second.connect();
        for number in 0..50 {
            exchange(&mut through_second, &get(&format!("key{number}")), &bulk("before"));
        }
    }
}

#[test]
fn nodes_with_other_settings_stay_apart() {
    let plan = Plan { nodes: 3, peer_port: free_peer_port(), ..Plan::single() };
    let first = plan.start(1);
    let _second = plan.start(2);
    let stranger = Plan { shards: 9, ..plan.clone() }.start(3);
    wait_until("the first two are linked", || first.report(0).counters.peer_links == 1);
    wait_until("frames flow", || first.report(0).counters.peer_frames_in > 10);
    assert_eq!(stranger.report(0).counters.peer_links, 0);
    assert_eq!(stranger.report(0).counters.peer_frames_in, 0);
    assert_eq!(first.report(0).counters.peer_links, 1);
}

/// A connection that a core without tasks has taken in, and its other end.
fn open_by_hand(shared: &Shared) -> (ConnectionId, TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let local = listener.local_addr().expect("an address");
    let far = connect(local);
    let (near, peer) = listener.accept().expect("accepted");
    let stream = Rc::new(Stream::new(near.into()).expect("a stream"));
    let mut state = shared.state.borrow_mut();
    let opened = state.open_client(stream, PortKind::AnyCore, (peer, local));
    (opened.expect("room"), far)
}

#[test]
fn who_begins_a_request_and_does_not_go_on_is_closed_and_who_is_idle_is_not() {
    let test = || async {
        let shared = Plan::single().assemble();
        let (idle, _idle_far) = open_by_hand(&shared);
        let (stalled, mut stalled_far) = open_by_hand(&shared);
        let (slow, mut slow_far) = open_by_hand(&shared);
        stalled_far.write_all(b"*2\r\n$3\r\nGET\r\n$10\r\nhalf").expect("written");
        slow_far.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n").expect("written");
        let mut later = clock::now();
        let mut last = NodeTotals::default();
        for id in [idle, stalled, slow] {
            assert_eq!(shared.read_client(id), Next::Readable);
        }
        let is_open = |id| shared.state.borrow_mut().read_client(id).0 == Next::Readable;
        for second in 1..=25 {
            later.monotonic.0 += 1_000_000_000;
            if second % 5 == 0 {
                slow_far.write_all(&[b'v'; 40_000]).expect("written");
                assert!(is_open(slow), "closed in second {second}");
            }
            let mut state = shared.state.borrow_mut();
            state.now = later;
            state.look_after(&mut last);
        }
        assert!(is_open(idle), "who owes nothing may stay");
        assert!(!is_open(stalled), "half a request is not kept for ever");
        assert!(is_open(slow), "who goes on may take its time");
    };
    let settings = ExecutorSettings { name: "by-hand".to_owned(), cpu: None, spin: Duration::ZERO };
    start_executor(&settings, test).expect("an executor").join().expect("the test holds");
}
