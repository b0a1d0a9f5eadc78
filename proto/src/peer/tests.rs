//! What the greeting compares, and what hostile bytes come to.

use super::*;
use crate::seeded::Seeded;

const HERE: Endpoint = Endpoint { node: 2, core: 1 };

fn settings() -> Settings {
    Settings {
        cluster: "coracle".to_owned(),
        members: vec![1, 2, 3],
        shards: 32,
        replication: 3,
        tick_us: 50_000,
        election_ticks: 6,
        value_bytes_max: 1 << 20,
        shard_bytes_max: 32 << 20,
        eviction: 0,
        durability: Durability::Memory,
    }
}

fn hello() -> Hello {
    Hello {
        settings: settings(),
        from: Endpoint { node: 1, core: 0 },
        cores: 2,
        incarnation: 0xfeed_face_cafe_beef,
        lane: Lane::Bulk,
        to: HERE,
    }
}

fn bytes_of(hello: &Hello) -> Vec<u8> {
    let mut bytes = Vec::new();
    hello.encode(&mut bytes);
    bytes
}

#[test]
fn greetings_survive_their_encoding_and_every_prefix_is_incomplete() {
    let mut bytes = bytes_of(&hello());
    let length = bytes.len();
    for cut in 0..length {
        let needed = if cut < GREETING_HEADER_BYTES { GREETING_HEADER_BYTES } else { length };
        assert_eq!(Hello::parse(&bytes[..cut]), Ok(Parsed::Incomplete { needed }), "{cut}");
    }
    bytes.extend_from_slice(b"frames");
    assert_eq!(Hello::parse(&bytes), Ok(Parsed::Complete { item: hello(), length }));

    let accepted = Acceptance { endpoint: HERE, cores: 2, incarnation: 9 };
    for reply in [HelloReply::Accepted(accepted), HelloReply::Refused("because".to_owned())] {
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        let length = bytes.len();
        for cut in 0..length {
            let parsed = HelloReply::parse(&bytes[..cut]);
            assert!(matches!(parsed, Ok(Parsed::Incomplete { needed }) if needed > cut));
        }
        assert_eq!(HelloReply::parse(&bytes), Ok(Parsed::Complete { item: reply, length }));
    }
}

#[test]
fn a_node_with_the_same_settings_is_accepted() {
    assert_eq!(check(&hello(), &settings(), HERE), Ok(()));
}

#[test]
fn every_setting_that_differs_is_refused_by_name() {
    type Change = fn(&mut Hello);
    let changes: [(Change, &str); 14] = [
        (|hello| hello.settings.cluster.push('!'), "the cluster is \"coracle\" here"),
        (|hello| hello.settings.members.push(4), "the members are [1, 2, 3] here"),
        (|hello| hello.settings.shards = 31, "the number of shards is 32 here and 31 at node 1"),
        (|hello| hello.settings.replication = 1, "the replication is 3 here and 1"),
        (|hello| hello.settings.tick_us = 1, "the tick in microseconds is 50000 here"),
        (|hello| hello.settings.election_ticks = 7, "the election in ticks is 6 here and 7"),
        (|hello| hello.settings.value_bytes_max = 1, "the value limit in bytes is 1048576"),
        (|hello| hello.settings.shard_bytes_max = 1, "the memory limit of a shard in bytes is"),
        (|hello| hello.settings.eviction = 1, "the number of the eviction policy is"),
        (|hello| hello.settings.durability = Durability::Fsync, "the durability is memory here"),
        (|hello| hello.to.core = 0, "this is core 1 of node 2 and not core 0 of node 2"),
        (|hello| hello.from.node = 2, "node 2 greets itself"),
        (|hello| hello.from.node = 4, "node 4 is not a member"),
        (|hello| hello.from.core = 2, "core 2 of node 1 does not exist: it has 2"),
    ];
    for (change, expected) in changes {
        let mut hello = hello();
        change(&mut hello);
        let refusal = check(&hello, &settings(), HERE).expect_err(expected);
        assert!(refusal.to_string().contains(expected), "{refusal}");
    }
}

#[test]
fn strangers_and_other_versions_are_told_apart_by_their_first_bytes() {
    for stranger in [&b"GET / HTTP/1.1"[..], b"\x80", b"*1\r\n", b"\x16\x03\x01", b"CRCM"] {
        assert_eq!(Hello::parse(stranger), Err(PeerError::Magic));
    }
    let mut bytes = bytes_of(&hello());
    assert_eq!(HelloReply::parse(&bytes), Err(PeerError::Kind));
    bytes[4] = 2;
    assert_eq!(Hello::parse(&bytes[..6]), Err(PeerError::Version(2)));
}

#[test]
fn greetings_with_impossible_lengths_or_damage_are_refused() {
    let bytes = bytes_of(&hello());
    for length in [MESSAGE_BYTES_MAX as u32 + 1, i32::MAX as u32, u32::MAX] {
        let mut bytes = bytes.clone();
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        assert_eq!(Hello::parse(&bytes[..12]), Err(PeerError::GreetingTooLong(length)));
    }
    let mut edge = bytes[..GREETING_HEADER_BYTES].to_vec();
    edge[8..12].copy_from_slice(&(MESSAGE_BYTES_MAX as u32).to_le_bytes());
    assert_eq!(Hello::parse(&edge), Ok(Parsed::Incomplete { needed: GREETING_BYTES_MAX }));
    for position in GREETING_HEADER_BYTES..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[position] ^= 0x10;
        assert_eq!(Hello::parse(&damaged), Err(PeerError::CheckSum));
    }
}

#[test]
fn fields_with_impossible_values_are_refused() {
    let greeting = |change: fn(&mut wire::Hello)| {
        let mut message = wire::Hello::decode(&bytes_of(&hello())[GREETING_HEADER_BYTES..])
            .expect("a message of our own");
        change(&mut message);
        let mut bytes = Vec::new();
        encode_greeting(Kind::Hello, &message, &mut bytes);
        Hello::parse(&bytes)
    };
    let changes: [fn(&mut wire::Hello); 8] = [
        |hello| hello.settings = None,
        |hello| hello.node = 65_536,
        |hello| hello.cores = u32::MAX,
        |hello| hello.incarnation = 0,
        |hello| hello.lane = 0,
        |hello| hello.lane = 99,
        |hello| hello.settings.as_mut().expect("settings").members.push(65_536),
        |hello| hello.settings.as_mut().expect("settings").durability = 7,
    ];
    for change in changes {
        assert!(matches!(greeting(change), Err(PeerError::Greeting(_))));
    }
    let mut bytes = Vec::new();
    encode_greeting(Kind::Reply, &wire::HelloReply { outcome: None }, &mut bytes);
    assert!(matches!(HelloReply::parse(&bytes), Err(PeerError::Greeting(_))));
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let reason = "ß".repeat(4_000);
    let mut bytes = Vec::new();
    HelloReply::Refused(reason.clone()).encode(&mut bytes);
    let Ok(Parsed::Complete { item: HelloReply::Refused(cut), .. }) = HelloReply::parse(&bytes)
    else {
        panic!("no refusal")
    };
    assert_eq!(cut.len(), 1_024);
    assert!(reason.starts_with(&cut));
}

#[test]
fn frames_survive_any_split() {
    let mut seeded = Seeded::new("frames_survive_any_split");
    let (mut bytes, mut payloads) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        let mut payload = seeded.bytes(100);
        payload.push(1);
        bytes.extend_from_slice(&frame_header(&payload).expect("a frame"));
        bytes.extend_from_slice(&payload);
        payloads.push(payload);
    }
    for size in 1..70 {
        let (mut buffer, mut seen) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(size) {
            buffer.extend_from_slice(piece);
            while let Parsed::Complete { item, length } = parse_frame(&buffer).expect("frames") {
                seen.push(item.to_vec());
                buffer.drain(..length);
            }
        }
        assert_eq!(seen, payloads);
    }
}

#[test]
fn frames_with_impossible_lengths_are_refused_before_their_payload_arrives() {
    assert_eq!(parse_frame(&[0; 4]), Err(PeerError::FrameEmpty));
    assert_eq!(frame_header(&[]), Err(PeerError::FrameEmpty));
    for length in [FRAME_BYTES_MAX as u32 + 1, i32::MAX as u32, u32::MAX] {
        assert_eq!(parse_frame(&length.to_le_bytes()), Err(PeerError::FrameTooLong(length)));
    }
    for length in [FRAME_BYTES_MAX as u32 - 1, FRAME_BYTES_MAX as u32] {
        let header = [length.to_le_bytes(), [0; 4]].concat();
        let needed = FRAME_HEADER_BYTES + length as usize;
        assert_eq!(parse_frame(&header), Ok(Parsed::Incomplete { needed }));
    }
    let largest = vec![7; FRAME_BYTES_MAX + 1];
    assert!(frame_header(&largest[..FRAME_BYTES_MAX]).is_ok());
    let too_long = Err(PeerError::FrameTooLong(FRAME_BYTES_MAX as u32 + 1));
    assert_eq!(frame_header(&largest), too_long);
}

#[test]
fn a_damaged_payload_is_found() {
    let payload = b"a payload that matters";
    let mut bytes = frame_header(payload).expect("a frame").to_vec();
    bytes.extend_from_slice(payload);
    for position in 4..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1 << bit;
            assert_eq!(parse_frame(&damaged), Err(PeerError::CheckSum));
        }
    }
}

#[test]
fn mutated_greetings_and_frames_never_panic() {
    let mut seeded = Seeded::new("mutated_greetings_and_frames_never_panic");
    for _ in 0..20_000 {
        let mut bytes = bytes_of(&hello());
        let message_start = GREETING_HEADER_BYTES;
        if seeded.one_in(2) {
            let mut message = bytes.split_off(message_start);
            seeded.mutate(&mut message);
            bytes[8..12].copy_from_slice(&(message.len() as u32).to_le_bytes());
            bytes[12..16].copy_from_slice(&crc32c::crc32c(&message).to_le_bytes());
            bytes.extend_from_slice(&message);
        } else {
            seeded.mutate(&mut bytes);
        }
        match Hello::parse(&bytes) {
            Ok(Parsed::Complete { length, .. }) => assert!(length <= bytes.len()),
            Ok(Parsed::Incomplete { needed }) => assert!(needed > bytes.len()),
            Err(_) => {}
        }
        if let Some(kind) = bytes.get_mut(6) {
            *kind = Kind::Reply as u8;
        }
        let _ = HelloReply::parse(&bytes);
        let _ = parse_frame(&bytes);
    }
}
