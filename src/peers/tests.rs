//! Whose frames count, and what a peer that does not read comes to.

use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use proto::peer::{Durability, FRAME_HEADER_BYTES, Settings};
use shards::contract::{Lane, OutFrame};
use shards::ids::{Address, CoreIndex, NodeId};
use socket2::Socket;

use super::writer::{WAITING_BYTES_MAX, Writer, Written};
use super::{Need, PeerConfig, Peers, Sent};
use crate::net::runtime::{ExecutorSettings, start_executor};
use crate::net::stream::Stream;

/// Runs `test` on an executor of its own.
fn on_executor<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F + Send + 'static) {
    let settings = ExecutorSettings { name: "peers".to_owned(), cpu: None, spin: Duration::ZERO };
    start_executor(&settings, test).expect("an executor").join().expect("the test holds");
}

/// Two ends of a connection, one of them on the executor.
fn pair() -> (Rc<Stream>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let far = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
    let (near, _) = listener.accept().expect("accepted");
    far.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    (Rc::new(Stream::new(Socket::from(near)).expect("a stream")), far)
}

/// Whether the other end has closed.
fn is_closed(far: &mut TcpStream) -> bool {
    far.set_nonblocking(true).expect("non-blocking");
    matches!(far.read(&mut [0; 1]), Ok(0))
}

const THERE: Address = Address { node: NodeId(2), core: CoreIndex(0) };

fn peers() -> Peers {
    let mut peers = Peers::new(PeerConfig {
        here: Address { node: NodeId(1), core: CoreIndex(0) },
        cores: 1,
        incarnation: 7,
        settings: Settings {
            cluster: "test".to_owned(),
            members: vec![1, 2],
            shards: 1,
            replication: 2,
            tick_us: 50_000,
            election_ticks: 6,
            value_bytes_max: 1 << 20,
            shard_bytes_max: 1 << 20,
            eviction: 0,
            durability: Durability::Memory,
        },
        hosts: vec![(NodeId(2), IpAddr::V4(Ipv4Addr::LOCALHOST))],
        port_base: 7_501,
    });
    assert_eq!(peers.note_cores(NodeId(2), 1), vec![THERE]);
    peers
}

fn frame(lane: Lane, bytes: &[u8]) -> OutFrame {
    OutFrame { to: THERE, lane, bytes: bytes.to_vec() }
}

#[test]
fn only_the_newest_connection_of_a_sender_and_lane_counts() {
    on_executor(|| async {
        let mut peers = peers();
        let (first, mut first_far) = pair();
        let (second, mut second_far) = pair();
        let (bulk, _bulk_far) = pair();
        peers.note_life(NodeId(2), 100).expect("the first life");
        let earlier = peers.admit(THERE, Lane::Turn, 100, first);
        let other_lane = peers.admit(THERE, Lane::Bulk, 100, bulk);
        assert!(peers.is_current(THERE, Lane::Turn, earlier));
        let later = peers.admit(THERE, Lane::Turn, 100, second);
        assert!(!peers.is_current(THERE, Lane::Turn, earlier));
        assert!(peers.is_current(THERE, Lane::Turn, later));
        assert!(peers.is_current(THERE, Lane::Bulk, other_lane));
        assert!(is_closed(&mut first_far));
        assert!(!is_closed(&mut second_far));
        // The end of the earlier one, noticed late, leaves the later one alone.
        peers.dismiss(THERE, Lane::Turn, earlier);
        assert!(peers.is_current(THERE, Lane::Turn, later));
    });
}

#[test]
fn a_new_life_ends_what_the_old_one_opened_and_what_leads_to_it() {
    on_executor(|| async {
        let mut peers = peers();
        let (opened, mut opened_far) = pair();
        let (link, mut link_far) = pair();
        peers.note_life(NodeId(2), 100).expect("the first life");
        let old = peers.admit(THERE, Lane::Turn, 100, opened);
        peers.set_up(THERE, link, 100);
        assert_eq!(peers.note_life(NodeId(2), 200), Ok(vec![THERE]));
        assert!(!peers.is_current(THERE, Lane::Turn, old));
        assert!(is_closed(&mut opened_far));
        assert!(peers.take_down(THERE, None));
        assert!(is_closed(&mut link_far));
        assert!(!peers.take_down(THERE, None));
        assert!(peers.note_life(NodeId(2), 100).is_err(), "the old life is never heard again");
        assert_eq!(peers.note_life(NodeId(2), 200), Ok(Vec::new()));
    });
}

#[test]
fn the_end_of_an_earlier_life_of_a_link_leaves_the_present_one_alone() {
    on_executor(|| async {
        let mut peers = peers();
        let (first, _first_far) = pair();
        let (second, mut second_far) = pair();
        let earlier = peers.set_up(THERE, first, 100);
        assert!(peers.take_down(THERE, Some(earlier)));
        let later = peers.set_up(THERE, second, 100);
        assert!(!peers.take_down(THERE, Some(earlier)));
        assert!(!is_closed(&mut second_far));
        assert!(peers.take_down(THERE, Some(later)));
    });
}

#[test]
fn bulk_waits_for_its_own_connection_and_goes_out_on_it_in_order() {
    on_executor(|| async {
        let mut peers = peers();
        assert!(matches!(peers.send(frame(Lane::Turn, b"lost")), Sent::Dropped));
        let (turn, mut turn_far) = pair();
        let serial = peers.set_up(THERE, turn, 100);
        assert!(matches!(peers.send(frame(Lane::Turn, b"turn")), Sent::Accepted(_, None)));
        let Sent::Accepted(_, Some(pending)) = peers.send(frame(Lane::Bulk, b"one")) else {
            panic!("the first bulk frame asks for a connection")
        };
        assert_eq!((pending.need, pending.serial), (Need::Connection, serial));
        assert!(matches!(peers.send(frame(Lane::Bulk, b"two")), Sent::Accepted(_, None)));
        let (bulk, mut bulk_far) = pair();
        peers.set_bulk(THERE, serial, bulk).expect("the link is up");
        assert_eq!(peers.write_on(pending), Some(Written::Sent));
        assert!(matches!(peers.send(frame(Lane::Bulk, b"three")), Sent::Accepted(_, None)));
        let receive = |far: &mut TcpStream, payload: &[u8]| {
            let mut bytes = vec![0; FRAME_HEADER_BYTES + payload.len()];
            far.read_exact(&mut bytes).expect("a frame");
            assert_eq!(&bytes[FRAME_HEADER_BYTES..], payload);
        };
        receive(&mut turn_far, b"turn");
        for payload in [&b"one"[..], b"two", b"three"] {
            receive(&mut bulk_far, payload);
        }
    });
}

#[test]
fn a_peer_that_does_not_read_costs_a_bounded_buffer_and_then_the_link() {
    on_executor(|| async {
        let (stream, far) = pair();
        let mut writer = Writer::new(stream);
        let body = vec![1; 1 << 20];
        let (mut written, mut asked) = (0, 0);
        loop {
            match writer.write(&[0; FRAME_HEADER_BYTES], &body) {
                Written::Sent | Written::Queued => {}
                Written::NeedsRoom => asked += 1,
                Written::NeedsConnection => panic!("there is one"),
                Written::Broken(_) => break,
            }
            written += 1;
            assert!(written < 1_000, "it is never too much");
        }
        assert_eq!(asked, 1, "one task waits for room");
        assert!(written >= WAITING_BYTES_MAX >> 20);
        drop(far);
    });
}

#[test]
fn what_found_no_room_arrives_in_order_once_there_is_room() {
    on_executor(|| async {
        let (stream, mut far) = pair();
        let mut writer = Writer::new(stream.clone());
        let total = 32 << 20;
        let reading = std::thread::spawn(move || {
            let mut received = vec![0; total];
            far.read_exact(&mut received).expect("all of it");
            far.write_all(b"!").expect("written");
            received
        });
        let mut expected = Vec::new();
        let mut attending = false;
        for number in 0..total / (64 << 10) {
            let body = vec![number as u8; (64 << 10) - FRAME_HEADER_BYTES];
            let header = [!number as u8; FRAME_HEADER_BYTES];
            expected.extend_from_slice(&header);
            expected.extend_from_slice(&body);
            attending |= writer.write(&header, &body) == Written::NeedsRoom;
        }
        while attending {
            stream.writable().await.expect("a stream");
            attending = writer.write_on() == Written::NeedsRoom;
        }
        stream.readable().await.expect("the reader is done");
        assert!(reading.join().expect("read") == expected);
    });
}
