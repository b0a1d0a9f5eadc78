//! Commands on keys and values.

use super::dialogue;
use crate::session::PortKind;
use crate::session::tests::{Rig, WALL_MS};

#[test]
fn values_are_set_read_and_deleted() {
    let mut rig = Rig::new(PortKind::AnyCore);
    dialogue(
        &mut rig,
        &[
            ("GET k", "$-1"),
            ("SET k v", "+OK"),
            ("get k", "$1 v"),
            ("GETSET k w", "$1 v"),
            ("GETSET fresh w", "$-1"),
            ("STRLEN k", ":1"),
            ("STRLEN none", ":0"),
            ("APPEND k xyz", ":4"),
            ("APPEND new xyz", ":3"),
            ("GET k", "$4 wxyz"),
            ("SETNX k 1", ":0"),
            ("SETNX n 1", ":1"),
            ("TYPE k", "+string"),
            ("TYPE none", "+none"),
            ("EXISTS k n none k", ":3"),
            ("EXISTS none", ":0"),
            ("TOUCH k none", ":1"),
            ("GETDEL n", "$1 1"),
            ("GETDEL n", "$-1"),
            ("DBSIZE", ":3"),
            ("DEL k none", ":1"),
            ("DEL k", ":0"),
            ("UNLINK new fresh", ":2"),
            ("MSET a 1 b 2 a 3", "+OK"),
            ("MGET a b c", "*3 $1 3 $1 2 $-1"),
            ("FLUSHALL", "+OK"),
            ("DBSIZE", ":0"),
            ("FLUSHDB ASYNC", "+OK"),
            ("FLUSHALL sync", "+OK"),
            ("FLUSHALL now", "-ERR_syntax_error"),
            ("MSET a 1 b", "-ERR_wrong_number_of_arguments_for_'mset'_command"),
        ],
    );
}

#[test]
fn every_option_of_set_works_and_contradictions_are_syntax_errors() {
    let mut rig = Rig::new(PortKind::AnyCore);
    dialogue(
        &mut rig,
        &[
            ("SET k 1 XX", "$-1"),
            ("SET k 1 nx", "+OK"),
            ("SET k 2 NX", "$-1"),
            ("SET k 2 XX", "+OK"),
            ("SET k 3 GET", "$1 2"),
            ("SET none 3 XX GET", "$-1"),
            ("SET k 4 NX GET", "$1 3"),
            ("GET k", "$1 3"),
            ("SET k 4 EX 100", "+OK"),
            ("TTL k", ":100"),
            ("SET k 5 KEEPTTL", "+OK"),
            ("PTTL k", ":100000"),
            ("SET k 5 PX 1500", "+OK"),
            ("PTTL k", ":1500"),
            ("TTL k", ":2"),
            ("SET k 5 EXAT 1700000100", "+OK"),
            ("TTL k", ":100"),
            ("EXPIRETIME k", ":1700000100"),
            ("SET k 5 PXAT 1700000000123", "+OK"),
            ("PEXPIRETIME k", ":1700000000123"),
            ("SET k 5 get ex 7 xx", "$1 5"),
            ("TTL k", ":7"),
            ("SET k 6", "+OK"),
            ("TTL k", ":-1"),
            ("SET k 6 EXAT 1", "+OK"),
            ("GET k", "$-1"),
        ],
    );
    for options in [
        "NX XX",
        "XX NX",
        "EX",
        "EX 1 PX 1",
        "KEEPTTL EX 1",
        "EX 1 KEEPTTL",
        "GARBAGE",
        "PXAT",
        "NX GARBAGE",
        "EX 1 2",
    ] {
        assert_eq!(
            rig.command(&format!("SET k v {options}")),
            "-ERR syntax error\r\n",
            "{options}"
        );
    }
    for (options, is_integer) in [
        ("EX 0", true),
        ("EX -1", true),
        ("PX 0", true),
        ("EXAT 0", true),
        ("PXAT -5", true),
        ("EX 9223372036854775807", true),
        ("PX 9223372036854775807", true),
        ("EXAT 9223372036854775", false),
        ("EX 9223372036854775808", false),
        ("EX 1.5", false),
        ("EX abc", false),
        ("EX +1", false),
    ] {
        let reply = rig.command(&format!("SET k v {options}"));
        match (options, is_integer) {
            ("EXAT 9223372036854775", _) => assert_eq!(reply, "+OK\r\n"),
            (_, true) => {
                assert_eq!(reply, "-ERR invalid expire time in 'set' command\r\n", "{options}");
            }
            (_, false) => {
                assert_eq!(reply, "-ERR value is not an integer or out of range\r\n", "{options}")
            }
        }
    }
}

#[test]
fn values_with_a_time_to_live() {
    let mut rig = Rig::new(PortKind::AnyCore);
    dialogue(
        &mut rig,
        &[
            ("SETEX k 10 v", "+OK"),
            ("TTL k", ":10"),
            ("PSETEX k 10 v", "+OK"),
            ("PTTL k", ":10"),
            ("SETEX k 0 v", "-ERR_invalid_expire_time_in_'setex'_command"),
            ("PSETEX k -1 v", "-ERR_invalid_expire_time_in_'psetex'_command"),
            ("SETEX k x v", "-ERR_value_is_not_an_integer_or_out_of_range"),
            ("GETEX k", "$1 v"),
            ("PTTL k", ":10"),
            ("GETEX k EX 20", "$1 v"),
            ("TTL k", ":20"),
            ("GETEX k PERSIST", "$1 v"),
            ("TTL k", ":-1"),
            ("GETEX none EX 20", "$-1"),
            ("GETEX k EX 0", "-ERR_invalid_expire_time_in_'getex'_command"),
            ("GETEX k KEEPTTL", "-ERR_syntax_error"),
            ("GETEX k EX", "-ERR_syntax_error"),
            ("GETEX k EX 1 PX", "-ERR_syntax_error"),
            ("GETEX k PERSIST 1", "-ERR_syntax_error"),
            ("TTL none", ":-2"),
            ("PTTL none", ":-2"),
            ("EXPIRETIME none", ":-2"),
            ("PEXPIRETIME k", ":-1"),
        ],
    );
}

#[test]
fn deadlines_change_under_conditions() {
    let mut rig = Rig::new(PortKind::AnyCore);
    let later = (WALL_MS + 50_000).to_string();
    dialogue(
        &mut rig,
        &[
            ("SET k v", "+OK"),
            ("PERSIST k", ":0"),
            ("EXPIRE none 10", ":0"),
            ("EXPIRE k 10 XX", ":0"),
            ("EXPIRE k 10 GT", ":0"),
            ("EXPIRE k 10 NX", ":1"),
            ("EXPIRE k 10 NX", ":0"),
            ("EXPIRE k 20 GT", ":1"),
            ("EXPIRE k 15 gt", ":0"),
            ("EXPIRE k 30 LT", ":0"),
            ("EXPIRE k 5 lt", ":1"),
            ("TTL k", ":5"),
            ("PEXPIRE k 7000 xx", ":1"),
            ("PTTL k", ":7000"),
            ("EXPIRE k 70 XX GT", ":1"),
            ("PEXPIREAT k LATER", ":1"),
            ("PTTL k", ":50000"),
            ("EXPIREAT k 1700000020", ":1"),
            ("TTL k", ":20"),
            ("PERSIST k", ":1"),
            ("TTL k", ":-1"),
            ("EXPIRE k 1.5", "-ERR_value_is_not_an_integer_or_out_of_range"),
            ("EXPIRE k 9223372036854775807", "-ERR_invalid_expire_time_in_'expire'_command"),
            ("PEXPIRE k 9223372036854775807", "-ERR_invalid_expire_time_in_'pexpire'_command"),
            ("EXPIREAT k 9223372036854775807", "-ERR_invalid_expire_time_in_'expireat'_command"),
            ("EXPIRE k -9223372036854775808", "-ERR_invalid_expire_time_in_'expire'_command"),
            ("PEXPIREAT k 9223372036854775807", ":1"),
            ("EXPIRE k 1 FOO", "-ERR_Unsupported_option_FOO"),
            (
                "EXPIRE k 1 NX GT",
                "-ERR_NX_and_XX,_GT_or_LT_options_at_the_same_time_are_not_compatible",
            ),
            ("EXPIRE k 1 GT LT", "-ERR_GT_and_LT_options_at_the_same_time_are_not_compatible"),
            ("EXPIRE k -1", ":1"),
            ("GET k", "$-1"),
        ]
        .map(|(words, reply)| (words.replace("LATER", &later), reply))
        .iter()
        .map(|(words, reply)| (words.as_str(), *reply))
        .collect::<Vec<_>>(),
    );
}

#[test]
fn counters_count_and_refuse_what_is_no_number() {
    let mut rig = Rig::new(PortKind::AnyCore);
    dialogue(
        &mut rig,
        &[
            ("INCR n", ":1"),
            ("INCRBY n 41", ":42"),
            ("DECR n", ":41"),
            ("DECRBY n 1", ":40"),
            ("INCRBY n -50", ":-10"),
            ("DECRBY n -9", ":-1"),
            ("INCRBY n 9223372036854775807", ":9223372036854775806"),
            ("INCR n", ":9223372036854775807"),
            ("INCR n", "-ERR_increment_or_decrement_would_overflow"),
            ("INCRBY n 9223372036854775808", "-ERR_value_is_not_an_integer_or_out_of_range"),
            ("INCRBY n +1", "-ERR_value_is_not_an_integer_or_out_of_range"),
            ("INCRBY n 1.0", "-ERR_value_is_not_an_integer_or_out_of_range"),
            ("INCRBY n 1e3", "-ERR_value_is_not_an_integer_or_out_of_range"),
            ("INCRBY n -0", "-ERR_value_is_not_an_integer_or_out_of_range"),
            ("DECRBY n -9223372036854775808", "-ERR_decrement_would_overflow"),
            ("DECRBY n x", "-ERR_value_is_not_an_integer_or_out_of_range"),
            ("SET s abc", "+OK"),
            ("INCR s", "-ERR_value_is_not_an_integer_or_out_of_range"),
        ],
    );
}

#[test]
fn keys_and_values_may_hold_any_bytes() {
    let mut rig = Rig::new(PortKind::AnyCore);
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(rig.request(&[b"SET", &bytes, &bytes]), "+OK\r\n");
    let mut input = Vec::new();
    proto::resp::encode::request(&mut input, &[b"GET", &bytes]);
    let reply = rig.exchange(&input);
    assert_eq!(reply, [b"$256\r\n", &bytes[..], b"\r\n"].concat());
}

#[test]
fn reads_of_values_count_as_uses_unless_the_connection_only_looks() {
    let mut rig = Rig::new(PortKind::AnyCore);
    let used = ["GET k", "MGET k", "STRLEN k", "TOUCH k"];
    let looked_at = ["EXISTS k", "TYPE k", "TTL k", "PTTL k", "EXPIRETIME k", "PEXPIRETIME k"];
    rig.command("SET k v");
    for (switch, uses) in [("PING", 4), ("CLIENT NO-TOUCH ON", 1), ("CLIENT NO-TOUCH OFF", 4)] {
        rig.engine.uses_and_peeks = (0, 0);
        assert!(rig.command(switch).starts_with('+'));
        for command in used.iter().chain(&looked_at) {
            assert!(!rig.command(command).starts_with('-'), "{command}");
        }
        assert_eq!(rig.engine.uses_and_peeks, (uses, 10 - uses), "after {switch}");
    }
    rig.command("CLIENT NO-TOUCH ON");
    rig.command("RESET");
    rig.engine.uses_and_peeks = (0, 0);
    rig.command("GET k");
    assert_eq!(rig.engine.uses_and_peeks, (1, 0));
}
