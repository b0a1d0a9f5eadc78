//! Reply n belongs to request n, whatever the engine's order and the splits of the input.

use proto::resp::encode;
use shards::ids::Version;
use shards::reply::{Reply, Status, Token};

use super::{Rig, Shuffle};
use crate::session::PortKind;

/// A pipeline with every kind of reply slot, and the replies it gets.
fn pipeline(count: usize) -> (Vec<u8>, Vec<u8>) {
    let (mut input, mut expected) = (Vec::new(), Vec::new());
    for number in 0..count {
        let (key, value) = (format!("key{number}"), format!("value{number}"));
        let (key, value) = (key.as_bytes(), value.as_bytes());
        match number % 7 {
            0 | 1 => {
                encode::request(&mut input, &[b"SET", key, value]);
                encode::ok(&mut expected);
                encode::request(&mut input, &[b"GET", key]);
                encode::bulk(&mut expected, value);
            }
            2 => {
                encode::request(&mut input, &[b"ECHO", value]);
                encode::bulk(&mut expected, value);
            }
            3 => {
                let other = format!("other{number}");
                encode::request(&mut input, &[b"MSET", key, value, other.as_bytes(), b"x"]);
                encode::ok(&mut expected);
                encode::request(&mut input, &[b"MGET", other.as_bytes(), b"none", key]);
                encode::array(&mut expected, 3);
                encode::bulk(&mut expected, b"x");
                encode::nil(&mut expected, proto::resp::Version::Resp2);
                encode::bulk(&mut expected, value);
            }
            4 => {
                encode::request(&mut input, &[b"INCRBY", key, number.to_string().as_bytes()]);
                encode::integer(&mut expected, number as i64);
                encode::request(&mut input, &[b"DEL", key, b"none", b"none2"]);
                encode::integer(&mut expected, 1);
            }
            5 => {
                encode::request(&mut input, &[b"NONSENSE"]);
                encode::error(
                    &mut expected,
                    b"ERR unknown command 'NONSENSE', with args beginning with: ",
                );
            }
            _ => {
                input.extend_from_slice(b"\r\n*0\r\nping\r\n");
                encode::simple(&mut expected, "PONG");
            }
        }
    }
    (input, expected)
}

#[test]
fn reply_n_belongs_to_request_n_whatever_the_order_of_the_engine() {
    let (input, expected) = pipeline(200);
    for seed in 0..50 {
        println!("seed {seed}");
        let mut rig = Rig::with_seed(PortKind::AnyCore, seed);
        assert_eq!(rig.exchange(&input), expected);
        assert_eq!(rig.session.outstanding(), 0);
    }
}

#[test]
fn split_input_gives_the_same_output() {
    let (input, expected) = pipeline(21);
    for split in 0..=input.len() {
        let mut rig = Rig::with_seed(PortKind::AnyCore, split as u64);
        let mut output = rig.exchange(&input[..split]);
        output.extend(rig.exchange(&input[split..]));
        assert_eq!(output, expected, "split at {split}");
    }
    let mut rig = Rig::new(PortKind::AnyCore);
    let output: Vec<u8> = input.iter().flat_map(|&byte| rig.exchange(&[byte])).collect();
    assert_eq!(output, expected);
}

#[test]
fn replies_that_trickle_in_are_still_in_order_and_the_stash_stays_bounded() {
    println!("seed 42");
    let mut shuffle = Shuffle::new(42);
    let mut rig = Rig::new(PortKind::AnyCore);
    let value = vec![b'v'; 1_000];
    let mut waiting = Vec::new();
    let (mut sent, mut expected, mut output) = (0u32, Vec::new(), Vec::new());
    let mut were_live = false;
    for _ in 0..5_000 {
        while waiting.len() < 100 && rig.session.wants_input() {
            let mut input = Vec::new();
            encode::request(&mut input, &[b"GET", sent.to_string().as_bytes()]);
            rig.feed(&input);
            waiting.extend(rig.requests.requests().iter().map(|request| request.token));
            rig.requests.clear();
            encode::bulk(&mut expected, &[sent.to_string().as_bytes(), &value].concat());
            sent += 1;
        }
        // The head is rarely answered, so that the stash is hardly ever empty.
        let position = shuffle.below(waiting.len());
        let token: Token = waiting.swap_remove(position);
        let value = [token.sequence.to_string().as_bytes(), &value].concat();
        let reply = Reply { version: Version(1), ..Reply::bare(token, Status::Ok) };
        rig.session.reply(&reply, Some(&value), &mut rig.buffers);
        output.extend(rig.output());
        let live = rig.session.connection.replies.buffered_bytes();
        let held = rig.session.connection.replies.stash_bytes();
        assert!(held <= 2 * live + (80 << 10), "{held} bytes for {live}");
        were_live |= live > 50_000 && held > live;
    }
    assert!(expected.starts_with(&output));
    assert!(were_live && output.len() > 1 << 20);
}

#[test]
fn sequence_numbers_wrap_round() {
    let mut rig = Rig::new(PortKind::AnyCore);
    rig.session.connection.replies.start_at(u32::MAX - 3);
    let (input, expected) = pipeline(50);
    assert_eq!(rig.exchange(&input), expected);
}

#[test]
fn replies_that_nobody_waits_for_are_ignored() {
    let mut rig = Rig::new(PortKind::AnyCore);
    rig.feed(b"GET a\r\nMGET a b\r\nGET c\r\n");
    for (sequence, part) in [(3, 0), (u32::MAX, 0), (1, 2), (1, u32::MAX)] {
        let token = Token { connection: 7, sequence, part };
        rig.session.reply(&Reply::bare(token, Status::Ok), None, &mut rig.buffers);
    }
    for _ in 0..2 {
        for (sequence, part) in [(1, 1), (2, 0)] {
            let token = Token { connection: 7, sequence, part };
            rig.session.reply(&Reply::bare(token, Status::NotFound), None, &mut rig.buffers);
        }
    }
    assert!(rig.output().is_empty());
    assert_eq!(rig.session.outstanding(), 2);
    rig.answer();
    assert_eq!(rig.output(), b"$-1\r\n*2\r\n$-1\r\n$-1\r\n$-1\r\n");
}

#[test]
fn reads_and_writes_that_must_not_overtake_each_other_are_marked() {
    let mut rig = Rig::new(PortKind::AnyCore);
    let marks = |rig: &Rig| -> Vec<bool> {
        rig.requests.requests().iter().map(|request| request.ordered).collect()
    };
    rig.feed(b"GET {a}1\r\nGET {a}2\r\nSET {a}1 x\r\nGET {a}2\r\n");
    rig.feed(b"GET {b}1\r\nDEL {c}1\r\nSET {c} x\r\n");
    assert_eq!(marks(&rig), [false, false, true, true, false, false, false]);
    rig.answer();
    rig.feed(b"GET {a}1\r\nMSET {a}1 x {b}1 y\r\nMGET {a}1 {b}2 {c}3\r\n");
    assert_eq!(marks(&rig), [false, true, false, true, true, false]);
}

#[test]
fn a_failed_part_fails_the_whole() {
    let mut rig = Rig::new(PortKind::AnyCore);
    rig.command("SET a 1");
    rig.engine.key_failure = Some((b"b".to_vec(), Status::NoLeader));
    assert_eq!(rig.command("MGET a b c"), "-CLUSTERDOWN Hash slot not served\r\n");
    assert_eq!(rig.command("EXISTS a b"), "-CLUSTERDOWN Hash slot not served\r\n");
    // Nothing was deleted, as the only other key does not exist.
    assert_eq!(rig.command("DEL none b"), "-CLUSTERDOWN Hash slot not served\r\n");
    rig.engine.key_failure = Some((b"b".to_vec(), Status::LinkLost));
    let unknown = "-UNKNOWN the link to the leader broke before it answered\r\n";
    assert_eq!(rig.command("MSET a 1 b 2"), unknown);
    rig.engine.key_failure = Some((b"b".to_vec(), Status::TooLarge));
    assert!(rig.command("MSET a 1 b 2").starts_with("-ERR string exceeds maximum"));
}

#[test]
fn a_write_that_is_done_in_part_is_never_reported_as_not_done() {
    let mut rig = Rig::new(PortKind::AnyCore);
    rig.engine.key_failure = Some((b"b".to_vec(), Status::Overloaded));
    let partly = "-UNKNOWN only a part of the command was carried out\r\n";
    assert_eq!(rig.command("MSET a 1 b 2"), partly);
    assert_eq!(rig.command("DEL a b"), partly);
    assert_eq!(rig.command("MSET b 2"), "-TRYAGAIN overloaded\r\n");
}

#[test]
fn every_failure_of_the_engine_is_an_error_to_every_shape_of_reply() {
    for &status in Status::ALL {
        if status.class() == shards::reply::Class::Done {
            continue;
        }
        let mut rig = Rig::new(PortKind::AnyCore);
        rig.fail_with(Some(status));
        let expected = format!("-{}\r\n", crate::commands::errors::of_status(status));
        for words in [
            "GET a",
            "SET a b",
            "SET a b NX",
            "SETNX a b",
            "STRLEN a",
            "TYPE a",
            "TTL a",
            "PTTL a",
            "EXPIRETIME a",
            "PEXPIRETIME a",
            "INCR a",
            "MGET a b",
            "MSET a b c d",
            "DEL a",
            "DEL a b",
            "EXPIRE a 1",
            "PERSIST a",
            "GETEX a",
            "GETDEL a",
            "DBSIZE",
            "FLUSHALL",
        ] {
            assert_eq!(rig.command(words), expected, "{words} with {status:?}");
        }
    }
}
