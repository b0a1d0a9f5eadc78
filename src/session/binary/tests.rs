//! What clients of the binary protocol are promised, byte by byte.

mod harness;

use proto::memcached::{
    Command, Direction, End, HEADER_BYTES, Loudness, NO_CREATE, Request, ReturnKey, Status as Wire,
    StoreMode,
};
use shards::command::{Command as EngineCommand, Expiry, Operation};
use shards::contract::LeaderView;
use shards::ids::{Millis, NodeId, ShardId, Term};
use shards::reply::Status;

use crate::cluster_map::ClusterMap;
use crate::session::PortKind;
use harness::{Answer, Harness, Seeded, VALUE_BYTES_MAX, count, encoded, get, quiet, store};

/// A header with a body of zeros.
fn raw(opcode: u8, key: u16, extras: u8, body: u32) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES + body as usize];
    bytes[..2].copy_from_slice(&[0x80, opcode]);
    bytes[2..4].copy_from_slice(&key.to_be_bytes());
    bytes[4] = extras;
    bytes[8..12].copy_from_slice(&body.to_be_bytes());
    bytes[12..16].copy_from_slice(&0x0bad_cafe_u32.to_be_bytes());
    bytes
}

#[test]
fn every_opcode_is_answered_and_the_next_request_as_well() {
    for opcode in 0..=u8::MAX {
        for (key, extras) in [(0, 0), (1, 0), (1, 4), (1, 8), (1, 20), (0, 4), (300, 255)] {
            let mut harness = Harness::new(PortKind::AnyCore);
            harness.send(&encoded(&[Request::new(Command::Noop, 1)]));
            let mut bytes = raw(opcode, key, extras, u32::from(key) + u32::from(extras));
            bytes.extend(encoded(&[Request::new(Command::Noop, 99)]));
            harness.send(&bytes);
            let answers = harness.responses();
            let is_quit = [0x07, 0x17].contains(&opcode) && (key, extras) == (0, 0);
            assert_eq!(harness.session.is_closing(), is_quit, "opcode {opcode:#04x}");
            for answer in &answers[1..answers.len() - usize::from(!is_quit)] {
                assert_eq!((answer.opcode, answer.opaque), (opcode, 0x0bad_cafe));
            }
            if !is_quit {
                assert_eq!(answers.last().map(|last| last.opaque), Some(99));
            }
            let is_known = opcode <= 0x1f || [0x23, 0x24, 0xb5].contains(&opcode);
            let is_sasl = (0x20..=0x22).contains(&opcode);
            let is_unknown = answers.iter().any(|answer| answer.status == Wire::UNKNOWN_COMMAND);
            assert!(is_sasl || is_known != is_unknown, "opcode {opcode:#04x}: {answers:?}");
        }
    }
}

#[test]
fn a_value_comes_back_with_its_flags_and_its_version() {
    let mut harness = Harness::new(PortKind::AnyCore);
    let cas = harness.set(b"key", b"value");
    assert_ne!(cas, 0);
    let answer = harness.ask(Request::new(get(b"key"), 0x0102_0304));
    let expected = Answer {
        opcode: 0,
        status: Wire::OK,
        opaque: 0x0102_0304,
        cas,
        flags: Some(0xdead_beef),
        key: Vec::new(),
        value: b"value".to_vec(),
    };
    assert_eq!(answer, expected);
    let with_key = Command::Get { key: b"key", return_key: ReturnKey::Yes };
    let answer = harness.ask(Request::new(with_key, 5));
    assert_eq!(answer, Answer { opcode: 0x0c, opaque: 5, key: b"key".to_vec(), ..expected });
}

#[test]
fn a_miss_names_the_key_where_the_request_asked_for_it() {
    let mut harness = Harness::new(PortKind::AnyCore);
    let answer = harness.ask(Request::new(get(b"key"), 1));
    assert_eq!((answer.status, &answer.value[..]), (Wire::NOT_FOUND, &b"Not found"[..]));
    let with_key = Command::Get { key: b"key", return_key: ReturnKey::Yes };
    let answer = harness.ask(Request::new(with_key, 1));
    assert_eq!((answer.status, &answer.key[..]), (Wire::NOT_FOUND, &b"key"[..]));
    assert!(answer.value.is_empty());
}

#[test]
fn quiet_requests_answer_only_what_is_unusual_and_in_order() {
    let mut harness = Harness::new(PortKind::AnyCore);
    harness.shuffle = Some(Seeded::new("quiet_requests_answer_only_what_is_unusual"));
    let get_with_key = |key| Command::Get { key, return_key: ReturnKey::Yes };
    let requests = [
        quiet(store(StoreMode::Set, b"a", b"1"), 1),
        quiet(store(StoreMode::Add, b"a", b"2"), 2),
        quiet(store(StoreMode::Replace, b"b", b"2"), 3),
        quiet(get(b"a"), 4),
        quiet(get(b"missing"), 5),
        quiet(get_with_key(b"missing"), 6),
        quiet(get_with_key(b"a"), 7),
        quiet(count(b"a", Direction::Increment, 0), 8),
        quiet(count(b"missing", Direction::Increment, NO_CREATE), 9),
        quiet(Command::Extend { end: End::Append, key: b"a", value: b"x" }, 10),
        quiet(Command::Extend { end: End::Prepend, key: b"b", value: b"x" }, 11),
        quiet(Command::Delete { key: b"a" }, 12),
        quiet(Command::Delete { key: b"a" }, 13),
        quiet(Command::Flush { expiration: None }, 14),
        quiet(Command::GetAndTouch { key: b"a", expiration: 9, return_key: ReturnKey::No }, 15),
        Request::new(Command::Noop, 16),
    ];
    harness.send(&encoded(&requests));
    let answers: Vec<(u32, Wire)> =
        harness.responses().iter().map(|answer| (answer.opaque, answer.status)).collect();
    let expected = [
        (2, Wire::EXISTS),
        (3, Wire::NOT_FOUND),
        (4, Wire::OK),
        (7, Wire::OK),
        (9, Wire::NOT_FOUND),
        (11, Wire::NOT_STORED),
        (13, Wire::NOT_FOUND),
        (16, Wire::OK),
    ];
    assert_eq!(answers, expected);
}

#[test]
fn counters_create_count_stop_at_zero_and_refuse_text() {
    let mut harness = Harness::new(PortKind::AnyCore);
    let up = |expiration| Request::new(count(b"n", Direction::Increment, expiration), 1);
    assert_eq!(harness.ask(up(NO_CREATE)).status, Wire::NOT_FOUND);
    let answer = harness.ask(up(0));
    assert_eq!(answer.value, 40_u64.to_be_bytes());
    assert_ne!(answer.cas, 0);
    assert_eq!(harness.ask(up(NO_CREATE)).value, 45_u64.to_be_bytes());
    let down = Command::Count {
        direction: Direction::Decrement,
        key: b"n",
        delta: 1_000,
        initial: 0,
        expiration: 0,
    };
    assert_eq!(harness.ask(Request::new(down, 1)).value, 0_u64.to_be_bytes());
    harness.set(b"n", b"text");
    assert_eq!(harness.ask(up(0)).status, Wire::NOT_A_NUMBER);
}

#[test]
fn a_version_is_insisted_on() {
    let mut harness = Harness::new(PortKind::AnyCore);
    let cas = harness.set(b"key", b"1");
    for mode in [StoreMode::Set, StoreMode::Add, StoreMode::Replace] {
        let stale = Request { cas: cas + 100, ..Request::new(store(mode, b"key", b"2"), 1) };
        assert_eq!(harness.ask(stale).status, Wire::EXISTS);
        let absent = Request { cas, ..Request::new(store(mode, b"absent", b"2"), 1) };
        assert_eq!(harness.ask(absent).status, Wire::NOT_FOUND);
    }
    let delete = Request::new(Command::Delete { key: b"key" }, 1);
    assert_eq!(harness.ask(Request { cas: cas + 1, ..delete }).status, Wire::EXISTS);
    let extend = Command::Extend { end: End::Append, key: b"key", value: b"x" };
    let extend = Request::new(extend, 1);
    assert_eq!(harness.ask(Request { cas: cas + 1, ..extend }).status, Wire::EXISTS);
    let extended = harness.ask(Request { cas, ..extend });
    assert_eq!(extended.status, Wire::OK);
    let deleted = harness.ask(Request { cas: extended.cas, ..delete });
    assert_eq!((deleted.status, deleted.cas), (Wire::OK, 0));
}

#[test]
fn touches_return_flags_and_gets_with_them_the_value() {
    let mut harness = Harness::new(PortKind::AnyCore);
    harness.set(b"key", b"value");
    let touch = harness.ask(Request::new(Command::Touch { key: b"key", expiration: 9 }, 1));
    assert_eq!((touch.status, touch.flags), (Wire::OK, Some(0xdead_beef)));
    assert!(touch.value.is_empty() && touch.cas != 0);
    for (return_key, key) in [(ReturnKey::No, &b""[..]), (ReturnKey::Yes, b"key")] {
        let command = Command::GetAndTouch { key: b"key", expiration: 9, return_key };
        let answer = harness.ask(Request::new(command, 1));
        assert_eq!((&answer.value[..], &answer.key[..]), (&b"value"[..], key));
    }
    let miss = harness.ask(Request::new(Command::Touch { key: b"none", expiration: 9 }, 1));
    assert_eq!(miss.status, Wire::NOT_FOUND);
}

#[test]
fn expirations_reach_the_engine_in_its_own_terms() {
    let mut harness = Harness::new(PortKind::AnyCore);
    let month = 30 * 24 * 60 * 60;
    for (expiration, expected) in [
        (0, Expiry::Never),
        (month, Expiry::In(Millis(u64::from(month) * 1_000))),
        (month + 1, Expiry::At(Millis(u64::from(month + 1) * 1_000))),
    ] {
        harness.seen.clear();
        let set =
            Command::Store { mode: StoreMode::Set, key: b"k", value: b"", flags: 0, expiration };
        harness.ask(Request::new(set, 1));
        harness.ask(Request::new(Command::Touch { key: b"k", expiration }, 1));
        harness.ask(Request::new(count(b"n", Direction::Increment, expiration), 1));
        let seen: Vec<Expiry> = harness
            .seen
            .iter()
            .filter_map(|(_, bytes)| {
                match EngineCommand::decode(bytes).expect("valid").0.operation {
                    Operation::Set { expiry, .. } | Operation::Expire { expiry, .. } => {
                        Some(expiry)
                    }
                    Operation::Count { initial, .. } => initial.map(|(_, expiry)| expiry),
                    _ => None,
                }
            })
            .collect();
        assert_eq!(seen, [expected; 3]);
    }
}

/// Requests of all kinds over few keys, so that they meet.
fn random_requests(seeded: &mut Seeded, requests: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for opaque in 0..requests as u32 {
        let key: &[u8] = [&b"a"[..], b"b", b"c{a}", b"d"][seeded.below(4)];
        let value: &[u8] = [&b""[..], b"1", b"text", &[b'v'; 1_001]][seeded.below(4)];
        let number = seeded.next();
        let return_key = if number.is_multiple_of(2) { ReturnKey::No } else { ReturnKey::Yes };
        let command = match seeded.below(12) {
            0 | 1 => Command::Get { key, return_key },
            2 => store(StoreMode::Set, key, value),
            3 => store(StoreMode::Add, key, value),
            4 => store(StoreMode::Replace, key, value),
            5 => Command::Delete { key },
            6 => count(key, Direction::Increment, [0, NO_CREATE][seeded.below(2)]),
            7 => count(key, Direction::Decrement, [0, NO_CREATE][seeded.below(2)]),
            8 => Command::Extend { end: End::Append, key, value },
            9 => Command::GetAndTouch { key, expiration: number as u32, return_key },
            10 => Command::Stat { group: [&b""[..], b"shards", b"none"][seeded.below(3)] },
            _ if number.is_multiple_of(5) => Command::Flush { expiration: None },
            _ => Command::Noop,
        };
        let mut request = Request::new(command, opaque);
        if seeded.below(2) == 0 {
            request.loudness = Loudness::Quiet;
            if request.opcode().is_none() {
                request.loudness = Loudness::Loud;
            }
        }
        request.encode(&mut bytes).expect("an encodable request");
    }
    bytes
}

#[test]
fn replies_in_any_order_come_out_in_the_order_of_their_requests() {
    let mut seeded = Seeded::new("replies_in_any_order_come_out_in_the_order_of_their_requests");
    for round in 0..60 {
        let bytes = random_requests(&mut seeded, 80);
        let mut in_order = Harness::new(PortKind::AnyCore);
        in_order.send(&bytes);
        let mut shuffled = Harness::new(PortKind::AnyCore);
        shuffled.shuffle = Some(Seeded(round));
        shuffled.send(&bytes);
        assert!(in_order.received == shuffled.received, "round {round}");
        assert_eq!(shuffled.session.outstanding(), 0);
    }
}

#[test]
fn split_input_gives_the_same_responses() {
    let mut seeded = Seeded::new("split_input_gives_the_same_responses");
    for round in 0..40 {
        let mut bytes = random_requests(&mut seeded, 12);
        if round % 2 == 1 {
            let position = seeded.below(bytes.len() - 1) + 1;
            bytes[position] ^= 1 << seeded.below(8);
        }
        let mut whole = Harness::new(PortKind::AnyCore);
        whole.send(&bytes);
        for pieces in [1, 7, 24, 1 + seeded.below(bytes.len())] {
            let mut split = Harness::new(PortKind::AnyCore);
            for piece in bytes.chunks(pieces) {
                if !split.session.is_closing() {
                    split.send(piece);
                }
            }
            assert!(split.received == whole.received, "round {round}, pieces of {pieces}");
        }
    }
}

#[test]
fn mutated_streams_never_panic_and_never_stall() {
    let mut seeded = Seeded::new("mutated_streams_never_panic_and_never_stall");
    for _ in 0..1_500 {
        let mut bytes = random_requests(&mut seeded, 6);
        for _ in 0..=seeded.below(3) {
            let position = seeded.below(bytes.len() - 1) + 1;
            bytes[position] = seeded.next() as u8;
        }
        let mut harness = Harness::new(PortKind::Core);
        harness.send(&bytes);
        assert_eq!(harness.session.outstanding(), 0);
        let is_done = harness.unconsumed.is_empty() || harness.session.is_closing();
        assert!(is_done || harness.session.is_within_request());
    }
}

#[test]
fn a_value_above_the_limit_is_refused_and_skipped_without_being_kept() {
    let mut harness = Harness::new(PortKind::AnyCore);
    let value = vec![b'v'; VALUE_BYTES_MAX + 1];
    assert_eq!(
        harness.ask(Request::new(store(StoreMode::Set, b"k", &value[1..]), 1)).status,
        Wire::OK
    );
    let mut bytes = encoded(&[Request::new(store(StoreMode::Set, b"k", &value), 2)]);
    bytes.extend(encoded(&[Request::new(Command::Noop, 3)]));
    for piece in bytes.chunks(100) {
        harness.send(piece);
        assert!(harness.unconsumed.len() < HEADER_BYTES, "{} kept", harness.unconsumed.len());
    }
    let answers = harness.responses();
    let outcome: Vec<_> = answers.iter().map(|answer| (answer.opaque, answer.status)).collect();
    assert_eq!(outcome, [(2, Wire::TOO_LARGE), (3, Wire::OK)]);
    assert!(!harness.session.is_within_request());
}

#[test]
fn a_request_under_way_is_told_from_an_idle_connection() {
    let mut harness = Harness::new(PortKind::AnyCore);
    let noop = encoded(&[Request::new(Command::Noop, 1)]);
    harness.send(&noop);
    assert!(!harness.session.is_within_request());
    harness.send(&noop[..10]);
    assert!(harness.session.is_within_request());
    harness.send(&noop[10..]);
    assert!(!harness.session.is_within_request());
    harness.send(&raw(0xee, 0, 0, 50)[..30]);
    assert!(harness.session.is_within_request());
    harness.send(&[0; 44]);
    assert!(!harness.session.is_within_request());
}

#[test]
fn broken_frames_are_answered_after_what_came_before_and_end_the_connection() {
    for (bytes, status) in [
        (raw(1, 9, 8, 16), Some(Wire::INVALID_ARGUMENTS)),
        (raw(0, 2, 0, 1), Some(Wire::INVALID_ARGUMENTS)),
        (b"GET / HTTP/1.1\r\n\r\nxxxxxxxxxxx".to_vec(), None),
        (vec![0x81; 24], None),
    ] {
        let mut harness = Harness::new(PortKind::AnyCore);
        let mut stream = encoded(&[Request::new(get(b"k"), 1)]);
        stream.extend(&bytes);
        stream.extend(encoded(&[Request::new(Command::Noop, 3)]));
        harness.send(&stream);
        let statuses: Vec<Wire> = harness.responses().iter().map(|answer| answer.status).collect();
        let expected: Vec<Wire> = [Wire::NOT_FOUND].into_iter().chain(status).collect();
        assert_eq!(statuses, expected);
        assert!(harness.session.is_closing());
        assert_eq!(harness.counters.protocol_errors, 1);
    }
    for length in [i32::MAX as u32, i32::MAX as u32 + 1, u32::MAX] {
        let mut header = raw(1, 1, 8, 0);
        header[8..12].copy_from_slice(&length.to_be_bytes());
        let mut harness = Harness::new(PortKind::AnyCore);
        harness.send(&header);
        assert_eq!(harness.responses()[0].status, Wire::TOO_LARGE);
        assert!(harness.session.is_closing());
    }
}

#[test]
fn quitting_ends_the_connection_and_nothing_behind_it_runs() {
    for (request, answered) in [(Request::new(Command::Quit, 2), 2), (quiet(Command::Quit, 2), 1)] {
        let mut harness = Harness::new(PortKind::AnyCore);
        let set = Request::new(store(StoreMode::Set, b"a", b"1"), 1);
        let behind = Request::new(store(StoreMode::Set, b"b", b"1"), 3);
        harness.send(&encoded(&[set, request, behind]));
        assert_eq!(harness.responses().len(), answered);
        assert!(harness.session.is_closing());
        assert_eq!(harness.model.entries.len(), 1);
    }
}

#[test]
fn statistics_end_with_an_empty_line() {
    let mut harness = Harness::new(PortKind::AnyCore);
    for (group, lines) in [
        (&b""[..], 26),
        (b"settings", 14),
        (b"shards", 32),
        (b"items", 0),
        (b"sizes", 0),
        (b"reset", 0),
    ] {
        harness.request(Request::new(Command::Stat { group }, 6));
        let answers = harness.responses();
        assert_eq!(answers.len(), lines + 1, "{}", String::from_utf8_lossy(group));
        let (last, lines) = answers.split_last().expect("an end");
        assert!(last.key.is_empty() && last.value.is_empty());
        assert!(lines.iter().all(|line| !line.key.is_empty() && !line.value.is_empty()));
        assert!(answers.iter().all(|line| (line.opaque, line.status) == (6, Wire::OK)));
    }
    let unknown = harness.ask(Request::new(Command::Stat { group: b"slabs" }, 6));
    assert_eq!(unknown.status, Wire::NOT_FOUND);
}

#[test]
fn the_shards_are_listed_with_their_leaders() {
    let mut harness = Harness::new(PortKind::AnyCore);
    harness.cluster.set_leader(ShardId(1), LeaderView { term: Term(9), leader: None });
    harness.request(Request::new(Command::Stat { group: b"shards" }, 1));
    let answers = harness.responses();
    let line = |shard: usize| {
        let Answer { key, value, .. } = &answers[shard];
        format!("{} {}", String::from_utf8_lossy(key), String::from_utf8_lossy(value))
    };
    assert_eq!(line(0), "shard_0 slots=0-511 leader=1/0 addr=127.0.0.1:7401 term=1");
    assert_eq!(line(1), "shard_1 slots=512-1023 leader=none term=9");
    assert_eq!(line(4), "shard_4 slots=2048-2559 leader=2/1 addr=127.0.0.2:7402 term=1");
}

#[test]
fn a_flush_reaches_every_shard_that_the_connection_is_served() {
    const STRICT: &[u8] = &[0xc0, 0x01];
    for (port, features, shards) in [
        (PortKind::AnyCore, &[][..], 32),
        (PortKind::AnyCore, STRICT, 32),
        (PortKind::Core, &[], 32),
        (PortKind::Core, STRICT, 6),
    ] {
        let mut harness = Harness::new(port);
        harness.ask(Request::new(Command::Hello { agent: b"test", features }, 1));
        for expiration in [None, Some(0)] {
            harness.seen.clear();
            let answer = harness.ask(Request::new(Command::Flush { expiration }, 1));
            assert_eq!((answer.status, answer.cas), (Wire::OK, 0));
            assert_eq!(harness.seen.len(), shards);
        }
        harness.seen.clear();
        let delayed = harness.ask(Request::new(Command::Flush { expiration: Some(1) }, 1));
        assert_eq!(delayed.status, Wire::INVALID_ARGUMENTS);
        assert!(harness.seen.is_empty());
    }
}

#[test]
fn failures_keep_their_class_even_where_the_request_was_quiet() {
    for (status, expected) in [
        (Status::NoLeader, Wire::TEMPORARY_FAILURE),
        (Status::Overloaded, Wire::BUSY),
        (Status::DeadlinePassed, Wire::AMBIGUOUS),
        (Status::TooLarge, Wire::TOO_LARGE),
    ] {
        let mut harness = Harness::new(PortKind::AnyCore);
        harness.model.failure = Some(status);
        for command in [
            get(b"k"),
            store(StoreMode::Set, b"k", b"v"),
            Command::Delete { key: b"k" },
            Command::Flush { expiration: None },
        ] {
            for request in [Request::new(command, 1), quiet(command, 1)] {
                let answer = harness.ask(request);
                assert_eq!(answer.status, expected, "{request:?}");
                assert_eq!(answer.value, status.text().as_bytes());
            }
        }
    }
}

/// A key of each of the first 32 shards.
fn key_of(cluster: &ClusterMap, shard: ShardId) -> Vec<u8> {
    let key = |number: u32| number.to_string().into_bytes();
    (0..).map(key).find(|key| cluster.shard_of_key(key) == shard).expect("a key")
}

#[test]
fn the_vbucket_is_believed_only_from_those_who_mean_it() {
    const STRICT: &[u8] = &[0xc0, 0x01];
    // Shard 0 and 6 are led by this core, shard 3 by its sibling, shard 1 by another node.
    let cases = [
        (PortKind::AnyCore, &[][..], 0, 3, None),
        (PortKind::AnyCore, &[], 17, 1, None),
        (PortKind::Core, &[], 0, 6, None),
        (PortKind::Core, &[], 0, 3, None),
        (PortKind::Core, &[], 6, 6, None),
        (PortKind::Core, &[], 3, 3, Some(Wire::NOT_MY_VBUCKET)),
        (PortKind::Core, &[], 6, 0, Some(Wire::INVALID_ARGUMENTS)),
        (PortKind::Core, &[], 32, 0, Some(Wire::NOT_MY_VBUCKET)),
        (PortKind::Core, STRICT, 0, 0, None),
        (PortKind::Core, STRICT, 0, 6, Some(Wire::INVALID_ARGUMENTS)),
        (PortKind::Core, STRICT, 1, 1, Some(Wire::NOT_MY_VBUCKET)),
        (PortKind::AnyCore, STRICT, 6, 6, None),
        (PortKind::AnyCore, STRICT, 3, 3, Some(Wire::NOT_MY_VBUCKET)),
        (PortKind::AnyCore, STRICT, u16::MAX, 3, Some(Wire::NOT_MY_VBUCKET)),
    ];
    for (port, features, vbucket, shard, refusal) in cases {
        let mut harness = Harness::new(port);
        harness.ask(Request::new(Command::Hello { agent: b"test", features }, 1));
        let key = key_of(&harness.cluster, ShardId(shard));
        let request = Request { vbucket, ..Request::new(store(StoreMode::Set, &key, b"v"), 1) };
        let answer = harness.ask(request);
        let case = format!("{port:?} {features:?} vbucket {vbucket} shard {shard}");
        assert_eq!(answer.status, refusal.unwrap_or(Wire::OK), "{case}");
        if refusal == Some(Wire::NOT_MY_VBUCKET) {
            let map: serde_json::Value = serde_json::from_slice(&answer.value).expect("the map");
            assert!(map["vBucketServerMap"]["vBucketMap"].is_array());
        }
        let reached: Vec<ShardId> = harness.seen.iter().map(|(shard, _)| *shard).collect();
        let expected = if refusal.is_none() { vec![ShardId(shard)] } else { Vec::new() };
        assert_eq!(reached, expected, "{case}");
    }
}

#[test]
fn a_shard_without_leader_waits_in_the_engine() {
    let mut harness = Harness::new(PortKind::Core);
    harness.ask(Request::new(Command::Hello { agent: b"", features: &[0xc0, 0x01] }, 1));
    harness.cluster.set_leader(ShardId(3), LeaderView { term: Term(2), leader: None });
    let key = key_of(&harness.cluster, ShardId(3));
    let request = Request { vbucket: 3, ..Request::new(get(&key), 1) };
    assert_eq!(harness.ask(request).status, Wire::NOT_FOUND);
}

#[test]
fn the_cluster_map_is_sent_once_per_revision_to_those_who_ask_for_that() {
    let mut harness = Harness::new(PortKind::Core);
    let key = key_of(&harness.cluster, ShardId(3));
    let astray = Request { vbucket: 3, ..Request::new(get(&key), 1) };
    for _ in 0..2 {
        assert!(!harness.ask(astray).value.is_empty());
    }
    harness.ask(Request::new(Command::Hello { agent: b"", features: &[0x00, 0x1e] }, 1));
    assert!(harness.ask(astray).value.is_empty());
    let leader = Some(NodeId(2));
    harness.cluster.set_leader(ShardId(3), LeaderView { term: Term(5), leader });
    assert!(!harness.ask(astray).value.is_empty());
    assert!(harness.ask(astray).value.is_empty());
    let config = harness.ask(Request::new(Command::ClusterConfig, 1));
    assert_eq!(config.status, Wire::OK);
    assert!(serde_json::from_slice::<serde_json::Value>(&config.value).is_ok());
    assert_eq!(harness.counters.redirections, 5);
}

#[test]
fn hello_grants_what_is_known_and_keys_may_then_be_long() {
    let mut harness = Harness::new(PortKind::AnyCore);
    let key = vec![b'k'; 65_535];
    let refused = harness.ask(Request::new(get(&key), 1));
    assert_eq!(refused.status, Wire::INVALID_ARGUMENTS);
    let features = [0x00, 0x01, 0xc0, 0x02];
    let hello =
        harness.ask(Request::new(Command::Hello { agent: b"test", features: &features }, 1));
    assert_eq!((hello.status, &hello.value[..]), (Wire::OK, &[0xc0, 0x02][..]));
    assert_eq!(harness.ask(Request::new(get(&key), 1)).status, Wire::NOT_FOUND);
}

#[test]
fn frame_extras_that_nobody_acts_on_are_refused_and_empty_ones_are_not() {
    let mut harness = Harness::new(PortKind::AnyCore);
    harness.ask(Request::new(Command::Noop, 1));
    let with_extras = Request { frame_extras: &[0x11, 1], ..Request::new(get(b"k"), 1) };
    assert_eq!(harness.ask(with_extras).status, Wire::UNKNOWN_FRAME_EXTRA);
    assert!(harness.seen.is_empty());
    let mut empty = encoded(&[Request::new(get(b"k"), 2)]);
    empty[0] = 0x08;
    harness.send(&empty);
    assert_eq!(harness.responses()[0].status, Wire::NOT_FOUND);
}

#[test]
fn authentication_is_said_to_be_off() {
    let mut harness = Harness::new(PortKind::AnyCore);
    for command in [
        Command::SaslList,
        Command::SaslAuth { mechanism: b"PLAIN", data: b"\0user\0secret" },
        Command::SaslStep { mechanism: b"PLAIN", data: b"" },
    ] {
        let answer = harness.ask(Request::new(command, 1));
        assert_eq!(answer.status, Wire::UNKNOWN_COMMAND);
        assert_eq!(answer.value, b"Authentication is not enabled");
    }
}

#[test]
fn the_version_and_the_verbosity_are_answered() {
    let mut harness = Harness::new(PortKind::AnyCore);
    let version = harness.ask(Request::new(Command::Version, 1));
    let numbers = String::from_utf8(version.value).expect("text");
    let numbers: Vec<u8> = numbers.split('.').map(|part| part.parse().expect("a number")).collect();
    assert_eq!(numbers.len(), 3);
    assert_ne!(numbers[0], 0, "libmemcached refuses a server of version zero");
    let verbosity = harness.ask(Request::new(Command::Verbosity { level: 2 }, 1));
    assert_eq!((verbosity.status, verbosity.value.len()), (Wire::OK, 0));
}
