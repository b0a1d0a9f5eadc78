//! What clients say before anything else, and what they ask of the server.

use super::dialogue;
use crate::commands::table::COMMANDS;
use crate::session::PortKind;
use crate::session::tests::Rig;
use shards::ids::Eviction;

#[test]
fn a_connection_is_greeted_named_and_left() {
    let mut rig = Rig::new(PortKind::AnyCore);
    dialogue(
        &mut rig,
        &[
            ("PING", "+PONG"),
            ("PING hello", "$5 hello"),
            ("PING a b", "-ERR_wrong_number_of_arguments_for_'ping'_command"),
            ("ECHO x", "$1 x"),
            ("SELECT 0", "+OK"),
            ("SELECT 1", "-ERR_SELECT_is_not_allowed_in_cluster_mode"),
            ("SELECT x", "-ERR_invalid_DB_index"),
            ("AUTH default anything", "+OK"),
            ("AUTH me x", "-WRONGPASS_invalid_username-password_pair_or_user_is_disabled."),
            ("CLIENT ID", ":1"),
            ("CLIENT GETNAME", "$-1"),
            ("CLIENT SETNAME me", "+OK"),
            ("CLIENT GETNAME", "$2 me"),
            ("CLIENT SETINFO LIB-NAME redis-py", "+OK"),
            ("CLIENT setinfo lib-ver 5.0", "+OK"),
            ("CLIENT SETINFO FOO x", "-ERR_Unrecognized_option_'FOO'"),
            ("CLIENT NO-EVICT on", "+OK"),
            ("CLIENT NO-TOUCH OFF", "+OK"),
            ("CLIENT NO-TOUCH maybe", "-ERR_syntax_error"),
            ("CLIENT TRACKING ON", "-ERR_unknown_subcommand_'TRACKING'._Try_CLIENT_HELP."),
            ("READONLY", "+OK"),
            ("READWRITE", "+OK"),
            ("ASKING", "+OK"),
            ("WAIT 1 100", ":1"),
            ("WAIT x 100", "-ERR_value_is_not_an_integer_or_out_of_range"),
            ("RESET", "+RESET"),
            ("CLIENT GETNAME", "$-1"),
        ],
    );
    assert!(rig.command("AUTH x").starts_with("-ERR AUTH <password> called without any password"));
    let info = rig.command("CLIENT INFO");
    for part in ["id=1 ", "addr=127.0.0.9:50000", " lib-name=redis-py ", " cmd=", "resp=2"] {
        assert!(info.contains(part), "{part} in {info}");
    }
    assert!(rig.command("CLIENT LIST").contains("id=1 "));
    assert!(rig.command("CLIENT LIST ID 1 2").contains("id=1 "));
    assert!(!rig.command("CLIENT LIST ID 2").contains("id=1 "));
    assert!(!rig.command("CLIENT LIST TYPE master").contains("id=1 "));
    assert_eq!(rig.exchange(b"QUIT\r\nSET a stolen\r\n"), b"+OK\r\n");
    assert!(rig.session.is_closing() && rig.requests.is_empty());
    rig.session.close(&mut rig.clients, &mut rig.buffers);
    assert_eq!(rig.clients.len(), 0);
}

#[test]
fn names_hold_no_blanks_and_have_a_limit() {
    let mut rig = Rig::new(PortKind::AnyCore);
    let refused = "-ERR Client names cannot contain spaces, newlines or special characters.\r\n";
    for name in [&b"a b"[..], b"a\nb", b"\xff", b"a\0"] {
        assert_eq!(rig.request(&[b"CLIENT", b"SETNAME", name]), refused);
        assert_eq!(rig.request(&[b"HELLO", b"2", b"SETNAME", name]), refused);
    }
    for (length, is_accepted) in [(255, true), (256, true), (257, false)] {
        let reply = rig.request(&[b"CLIENT", b"SETNAME", &vec![b'n'; length]]);
        assert_eq!(reply == "+OK\r\n", is_accepted, "{length}");
    }
    assert_eq!(rig.request(&[b"CLIENT", b"SETNAME", b""]), "+OK\r\n");
}

#[test]
fn hello_switches_the_version_for_what_follows_it() {
    let mut rig = Rig::new(PortKind::AnyCore);
    let output = rig.exchange(b"GET none\r\nMGET none\r\nHELLO 3 SETNAME me\r\nGET none\r\n");
    let output = String::from_utf8(output).expect("text");
    assert!(output.starts_with("$-1\r\n*1\r\n$-1\r\n%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n"));
    assert!(output.contains("$5\r\nproto\r\n:3\r\n"));
    assert!(output.contains("$4\r\nmode\r\n$7\r\ncluster\r\n"));
    assert!(output.ends_with("$7\r\nmodules\r\n*0\r\n_\r\n"));
    assert_eq!(rig.command("CLIENT GETNAME"), "$2\r\nme\r\n");
    assert!(rig.command("HELLO").contains(":3\r\n"));
    assert!(rig.command("HELLO 2").starts_with("*14\r\n"));
    assert!(rig.command("HELLO 3 AUTH default x SETNAME you").starts_with("%7\r\n"));
    dialogue(
        &mut rig,
        &[
            ("HELLO 4", "-NOPROTO_unsupported_protocol_version"),
            ("HELLO 1", "-NOPROTO_unsupported_protocol_version"),
            ("HELLO x", "-ERR_Protocol_version_is_not_an_integer_or_out_of_range"),
            ("HELLO 3 FOO", "-ERR_Syntax_error_in_HELLO_option_'FOO'"),
            ("HELLO 3 AUTH x", "-ERR_Syntax_error_in_HELLO_option_'AUTH'"),
            ("HELLO 2 AUTH me x", "-WRONGPASS_invalid_username-password_pair_or_user_is_disabled."),
            ("CLIENT GETNAME", "$3 you"),
            ("RESET", "+RESET"),
            ("GET none", "$-1"),
        ],
    );
    rig.command("HELLO 3");
    assert_eq!(rig.command("GET none"), "_\r\n");
    for _ in 0..1_000 {
        assert!(rig.command("AUTH me wrong").starts_with("-WRONGPASS"));
    }
}

#[test]
fn replies_can_be_switched_off() {
    let mut rig = Rig::new(PortKind::AnyCore);
    let output = rig.exchange(
        b"CLIENT REPLY SKIP\r\nSET a 1\r\nGET a\r\nCLIENT REPLY OFF\r\nGET a\r\nPING\r\n\
          MGET a b\r\nNONSENSE\r\nCLIENT REPLY SKIP\r\nPING\r\nCLIENT REPLY ON\r\nPING\r\n",
    );
    assert_eq!(String::from_utf8_lossy(&output), "$1\r\n1\r\n+OK\r\n+PONG\r\n");
}

#[test]
fn the_commands_describe_themselves() {
    let mut rig = Rig::new(PortKind::AnyCore);
    let count = COMMANDS.len();
    assert_eq!(rig.command("COMMAND COUNT"), format!(":{count}\r\n"));
    assert!(rig.command("COMMAND").starts_with(&format!("*{count}\r\n*10\r\n$3\r\nget\r\n:2\r\n")));
    assert!(rig.command("COMMAND LIST").starts_with(&format!("*{count}\r\n")));
    let get = "*10\r\n$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n";
    let info = rig.command("COMMAND INFO get nonsense client|id");
    assert!(info.starts_with(&format!("*3\r\n{get}")), "{info}");
    assert!(info.contains("*-1\r\n*10\r\n$9\r\nclient|id\r\n:2\r\n"), "{info}");
    assert!(rig.command("COMMAND DOCS").starts_with(&format!("*{}\r\n", count * 2)));
    let docs = rig.command("COMMAND DOCS get");
    assert!(docs.starts_with("*2\r\n$3\r\nget\r\n*6\r\n$7\r\nsummary\r\n"), "{docs}");
    dialogue(
        &mut rig,
        &[
            ("COMMAND GETKEYS MSET a 1 b 2", "*2 $1 a $1 b"),
            ("COMMAND GETKEYS get a", "*1 $1 a"),
            ("COMMAND GETKEYS DEL a b c", "*3 $1 a $1 b $1 c"),
            ("COMMAND GETKEYSANDFLAGS GET a", "*1 *2 $1 a *2 +RO +access"),
            ("COMMAND GETKEYS PING", "-ERR_The_command_has_no_key_arguments"),
            ("COMMAND GETKEYS GET", "-ERR_Invalid_number_of_arguments_specified_for_command"),
            ("COMMAND GETKEYS NONSENSE a", "-ERR_Invalid_command_specified"),
            ("COMMAND FOO", "-ERR_unknown_subcommand_'FOO'._Try_COMMAND_HELP."),
        ],
    );
    for container in ["CLIENT", "COMMAND", "CONFIG", "CLUSTER"] {
        assert!(rig.command(&format!("{container} HELP")).contains("Subcommands are:"));
    }
}

#[test]
fn the_configuration_answers_what_tools_ask() {
    let mut rig = Rig::new(PortKind::AnyCore);
    dialogue(
        &mut rig,
        &[
            ("CONFIG GET save", "*2 $4 save $0 "),
            ("CONFIG GET appendonly", "*2 $10 appendonly $2 no"),
            ("CONFIG GET DATABASES", "*2 $9 databases $1 1"),
            (
                "CONFIG GET maxmem*y",
                "*4 $9 maxmemory $10 1073741824 $16 maxmemory-policy $11 allkeys-lru",
            ),
            ("CONFIG GET nonsense", "*0"),
            ("CONFIG GET replica-read-only nonsense", "*2 $17 replica-read-only $3 yes"),
        ],
    );
    assert!(rig.command("CONFIG GET *").starts_with("*34\r\n"));
    assert!(rig.command("CONFIG SET save x").starts_with("-ERR CONFIG SET failed"));
    assert!(rig.command("CONFIG SET foo x").starts_with("-ERR Unknown option"));
    assert!(rig.command("CONFIG SET maxmemory").starts_with("-ERR wrong number"));
    for wrong in ["x", "1tb", "-1", "", "1 mb", "18446744073709551615kb", "1kb"] {
        let reply = rig.command(&format!("CONFIG SET maxmemory '{wrong}'"));
        assert!(reply.starts_with("-ERR"), "{wrong}: {reply}");
    }
    assert_eq!(rig.engine.limits, []);
    assert_eq!(rig.command("CONFIG SET MaxMemory 2gb"), "+OK\r\n");
    let shards = rig.cluster.shards().count();
    let placement = &rig.cluster.layout().placement;
    let expected = (2 << 30) / placement.replicas_per_node_max();
    assert_eq!(rig.engine.limits.len(), shards);
    assert!(rig.engine.limits.iter().all(|limit| (limit.1, limit.2) == (Some(expected), None)));
    rig.engine.limits.clear();
    let both = "CONFIG SET maxmemory 1gb Maxmemory-Policy allkeys-SIEVE";
    assert_eq!(rig.command(both), "+OK\r\n");
    let expected = (Some(expected / 2), Some(Eviction::Sieve));
    assert_eq!(rig.engine.limits.len(), shards);
    assert!(rig.engine.limits.iter().all(|limit| (limit.1, limit.2) == expected));
    let refused = rig.command("CONFIG SET maxmemory-policy noeviction");
    assert!(refused.contains("must be one of"), "{refused}");
}

#[test]
fn info_has_the_fields_that_tools_parse() {
    let mut rig = Rig::new(PortKind::AnyCore);
    rig.facts.totals.keys_led = 5;
    let info = rig.command("INFO");
    for field in [
        "redis_version:7.2.",
        "redis_mode:cluster",
        "coracle_version:",
        "loading:0",
        "role:master",
        "connected_clients:1",
        "master_repl_offset:0",
        "cluster_enabled:1",
        "used_memory:0",
        "maxmemory:1073741824",
        "maxmemory_policy:allkeys-lru",
        "evicted_keys:0",
        "expired_keys:0",
        "keyspace_hits:0",
        "keyspace_misses:0",
        "instantaneous_ops_per_sec:0",
        "db0:keys=5",
        "uptime_in_seconds:5",
        "shards_led_by_core:6",
        "used_cpu_user:0",
    ] {
        assert!(info.contains(&format!("\r\n{field}")), "{field} in {info}");
    }
    let section = rig.command("INFO replication");
    assert!(section.contains("# Replication") && !section.contains("# Server"));
    let sections = rig.command("INFO SERVER cluster");
    assert!(sections.contains("# Server") && sections.contains("# Cluster"));
    assert_eq!(rig.command("INFO nonsense"), "$0\r\n\r\n");
    assert!(rig.command("INFO everything").contains("# Coracle"));
    assert!(rig.command("TIME").starts_with("*2\r\n$10\r\n1700000000\r\n$1\r\n0\r\n"));
    assert_eq!(rig.command("ROLE"), "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n");
}
