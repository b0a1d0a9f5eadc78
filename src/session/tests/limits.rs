//! Bounded queues: what is taken, when input stops, and what an idle connection holds.

use proto::limits::{OUTPUT_BYTES_MAX, OUTPUT_HIGH_WATER_BYTES, REQUESTS_IN_FLIGHT_MAX};
use proto::resp::encode;
use shards::reply::{Reply, Status, Token};

use super::Rig;
use crate::session::PortKind;

#[test]
fn no_more_requests_are_taken_than_may_be_in_flight() {
    let mut rig = Rig::new(PortKind::AnyCore);
    let total = REQUESTS_IN_FLIGHT_MAX * 2 + 10;
    let received = rig.feed(&b"GET a\r\n".repeat(total));
    assert_eq!(rig.requests.requests().len(), REQUESTS_IN_FLIGHT_MAX);
    assert_eq!(received.needed, 0);
    assert!(!rig.session.wants_input());
    // Local commands wait for their turn as well.
    rig.answer();
    assert!(rig.session.wants_input());
    rig.feed(b"");
    assert_eq!(rig.requests.requests().len(), REQUESTS_IN_FLIGHT_MAX);
    rig.answer();
    rig.feed(b"");
    assert_eq!(rig.requests.requests().len(), 10);
    assert!(rig.pending.is_empty());
    rig.answer();
    assert_eq!(rig.output(), b"$-1\r\n".repeat(total));
}

#[test]
fn a_large_multi_key_request_is_taken_whole_and_stops_the_next() {
    let mut rig = Rig::new(PortKind::AnyCore);
    let keys: Vec<String> = (0..10_000).map(|key| key.to_string()).collect();
    let mut arguments: Vec<&[u8]> = vec![b"MSET"];
    for key in &keys {
        arguments.extend([key.as_bytes(), b"value"]);
    }
    let mut input = Vec::new();
    encode::request(&mut input, &arguments);
    encode::request(&mut input, &[b"PING"]);
    rig.feed(&input);
    assert_eq!(rig.session.outstanding(), 10_000);
    assert!(!rig.session.wants_input());
    assert_eq!(rig.exchange(b""), b"+OK\r\n+PONG\r\n");
    assert_eq!(rig.command("DBSIZE"), ":10000\r\n");
}

#[test]
fn input_stops_while_replies_are_not_fetched() {
    let mut rig = Rig::new(PortKind::AnyCore);
    rig.request(&[b"SET", b"k", &vec![b'v'; 1 << 20]]);
    rig.feed(b"GET k\r\nGET k\r\nPING\r\n");
    rig.answer();
    assert!(!rig.session.wants_input());
    let received = rig.feed(b"PING\r\n");
    assert_eq!((received.consumed, received.needed), (0, 0));
    let unsent = rig.session.output().len();
    rig.session.consume_output(unsent - OUTPUT_HIGH_WATER_BYTES, &mut rig.buffers);
    assert!(!rig.session.wants_input());
    rig.session.consume_output(1, &mut rig.buffers);
    assert!(rig.session.wants_input());
    assert!(rig.exchange(b"").ends_with(b"+PONG\r\n+PONG\r\n"));
}

#[test]
fn a_connection_that_owes_too_much_is_closed() {
    for is_head_answered in [true, false] {
        let mut rig = Rig::new(PortKind::AnyCore);
        let first = u32::from(!is_head_answered);
        rig.feed(&b"GET k\r\n".repeat(100));
        let value = vec![b'v'; 1 << 20];
        let mut answered = 0;
        for sequence in first..100 {
            let token = Token { connection: 7, sequence, part: 0 };
            let reply = Reply::bare(token, Status::Ok);
            rig.session.reply(&reply, Some(&value), &mut rig.buffers);
            if rig.session.is_aborted() {
                break;
            }
            answered += 1;
        }
        assert_eq!(answered, OUTPUT_BYTES_MAX / (1 << 20) - 1);
        assert!(rig.session.is_closing());
        assert!(!rig.session.wants_input());
        assert_eq!(rig.session.connection.replies.buffered_bytes(), 0);
    }
}

#[test]
fn an_idle_session_holds_no_buffers() {
    let mut rig = Rig::new(PortKind::AnyCore);
    rig.exchange(&b"SET a b\r\nMGET a b c\r\nPING\r\n".repeat(100));
    rig.session.trim();
    assert_eq!(rig.session.connection.replies.capacity_bytes(), 0);
    assert_eq!(rig.command("GET a"), "$1\r\nb\r\n");
    // What a connection costs without its socket.
    assert!(size_of::<crate::session::Session>() <= 640);
}

#[test]
fn a_request_beyond_the_limit_of_a_value_is_refused_and_the_next_is_served() {
    let mut rig = Rig::new(PortKind::AnyCore);
    rig.facts.value_bytes_max = 100_000;
    assert_eq!(rig.request(&[b"SET", b"k", &vec![b'v'; 99_999]]), "+OK\r\n");
    assert_eq!(rig.request(&[b"SET", b"k", &vec![b'v'; 100_000]]), "+OK\r\n");
    assert_eq!(
        rig.request(&[b"SET", b"k", &vec![b'v'; 100_001]]),
        "-ERR an argument of 100001 bytes exceeds the limit of 100000 bytes\r\n"
    );
    rig.facts.value_bytes_max = 10;
    for (command, arguments) in [
        ("SET", vec![&b"k"[..]]),
        ("SETNX", vec![b"k"]),
        ("SETEX", vec![b"k", b"1"]),
        ("PSETEX", vec![b"k", b"1"]),
        ("GETSET", vec![b"k"]),
        ("APPEND", vec![b"k"]),
        ("MSET", vec![b"a", b"b", b"k"]),
    ] {
        let request = [vec![command.as_bytes()], arguments, vec![&[b'v'; 11]]].concat();
        assert_eq!(
            rig.request(&request),
            "-ERR a value of 11 bytes exceeds the limit of 10\r\n",
            "{command}"
        );
    }
    assert_eq!(rig.command("STRLEN k"), ":100000\r\n");
}

#[test]
fn a_key_may_have_as_many_bytes_as_the_limit() {
    let mut rig = Rig::new(PortKind::AnyCore);
    for length in [0, 1, 250, 512, 65_534, 65_535] {
        let key = vec![b'k'; length];
        assert_eq!(rig.request(&[b"SET", &key, b"v"]), "+OK\r\n", "{length}");
        assert_eq!(rig.request(&[b"GET", &key]), "$1\r\nv\r\n", "{length}");
    }
    let key = vec![b'k'; 65_536];
    let error = "-ERR a key of 65536 bytes exceeds the limit of 65535\r\n";
    for request in [
        vec![&b"SET"[..], &key, b"v"],
        vec![b"GET", &key],
        vec![b"MGET", b"a", &key],
        vec![b"DEL", &key, b"a"],
        vec![b"MSET", b"a", b"b", &key, b"c"],
        vec![b"EXPIRE", &key, b"1"],
    ] {
        assert_eq!(rig.request(&request), error);
    }
    assert!(rig.requests.is_empty());
}
