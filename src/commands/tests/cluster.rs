//! Core ports, redirections, and what clients are told about the cluster.

use shards::contract::LeaderView;
use shards::ids::{NodeId, ShardId, Term};

use crate::cluster_map::tests::{layout, preferred_leaders};
use crate::cluster_map::{ClusterLayout, ClusterMap};
use crate::config::Advertise;
use crate::session::PortKind;
use crate::session::tests::Rig;

/// A key of the slot `slot`.
fn key_in(slot: u16) -> String {
    (0u32..)
        .map(|number| number.to_string())
        .find(|key| proto::slot::slot_of(key.as_bytes()) == slot)
        .expect("every slot has a key")
}

#[test]
fn a_core_port_serves_what_its_core_leads_and_redirects_the_rest() {
    let mut rig = Rig::new(PortKind::Core);
    // Shards have 512 slots each. Core 0 of node 1 leads shard 0, core 1 of it shard 3, core 0 of
    // node 2 shard 1, and core 1 of node 3 shard 5.
    for (slot, expected) in [
        (0, "$-1\r\n".to_owned()),
        (511, "$-1\r\n".to_owned()),
        (512, "-MOVED 512 127.0.0.2:7401\r\n".to_owned()),
        (1_536, "-MOVED 1536 127.0.0.1:7402\r\n".to_owned()),
        (2_560, "-MOVED 2560 127.0.0.3:7402\r\n".to_owned()),
    ] {
        assert_eq!(rig.command(&format!("GET {}", key_in(slot))), expected);
    }
    assert_eq!(rig.counters.redirections, 3);
    let led = format!("{{{}}}", key_in(5));
    assert_eq!(rig.command(&format!("MSET {led}a 1 {led}b 2")), "+OK\r\n");
    assert_eq!(rig.command(&format!("MGET {led}a {led}b")), "*2\r\n$1\r\n1\r\n$1\r\n2\r\n");
    assert_eq!(rig.command(&format!("DEL {led}a {led}b {led}c")), ":2\r\n");
    let other = format!("{{{}}}", key_in(600));
    assert_eq!(rig.command(&format!("MGET {other}a {other}b")), "-MOVED 600 127.0.0.2:7401\r\n");
}

#[test]
fn after_readonly_a_core_port_serves_reads_of_what_its_core_follows() {
    use shards::command::ReadFrom;
    // Core 0 of node 1 leads shard 0 and follows shard 1; shard 4 is on core 1.
    let mut rig = Rig::new(PortKind::Core);
    let (followed, other) = (key_in(512), key_in(2_048));
    let moved = |slot: u16, port: u16| format!("-MOVED {slot} 127.0.0.2:{port}\r\n");
    assert_eq!(rig.command(&format!("GET {followed}")), moved(512, 7401));
    for (words, read_from) in [("READONLY", ReadFrom::Replica), ("readonly stale", ReadFrom::Stale)]
    {
        assert_eq!(rig.command(words), "+OK\r\n");
        for read in ["GET", "TTL", "EXISTS", "MGET", "STRLEN"] {
            let reply = rig.command(&format!("{read} {followed}"));
            assert!(!reply.starts_with('-'), "{read}: {reply}");
        }
        let asked: Vec<_> = rig.sent.iter().map(|request| request.read_from).collect();
        assert_eq!(asked, [read_from; 5]);
        rig.sent.clear();
        // Writes go to the leader, and so do reads of what this core does not hold.
        assert_eq!(rig.command(&format!("SET {followed} v")), moved(512, 7401));
        assert_eq!(rig.command(&format!("GETDEL {followed}")), moved(512, 7401));
        assert_eq!(rig.command(&format!("GET {other}")), moved(2_048, 7402));
    }
    assert_eq!(rig.command("READONLY FRESH"), "-ERR syntax error\r\n");
    for back in ["READWRITE", "RESET"] {
        assert_eq!(rig.command("READONLY"), "+OK\r\n");
        assert!(rig.command(back).starts_with('+'));
        assert_eq!(rig.command(&format!("GET {followed}")), moved(512, 7401));
    }
}

#[test]
fn replicas_show_in_slots_after_readonly_and_each_owner_as_a_master_before() {
    use proto::resp::reply::{Scanned, scan};
    let mut rig = Rig::new(PortKind::Core);
    let plain = rig.command("CLUSTER SLOTS");
    assert_eq!(rig.command("READONLY"), "+OK\r\n");
    let listed = rig.command("CLUSTER SLOTS");
    let Ok(Scanned::Reply { consumed, .. }) = scan(listed.as_bytes()) else { panic!("{listed}") };
    assert_eq!(consumed, listed.len());
    // Six owners by themselves, and 32 shards with two replicas each.
    assert!(listed.starts_with("*38\r\n*3\r\n:0\r\n:0\r\n*4\r\n"), "{listed}");
    assert_eq!(listed.matches("127.0.0.").count(), 6 + 32 * 3);
    assert_eq!(plain.matches("127.0.0.").count(), 32);
    let covered: u32 = listed
        .split("\r\n")
        .filter_map(|line| line.strip_prefix(':'))
        .map(|number| number.parse::<u32>().expect("a number"))
        .filter(|number| !(7_401..=7_402).contains(number))
        .collect::<Vec<_>>()
        .chunks(2)
        .map(|range| range[1] - range[0] + 1)
        .sum();
    assert_eq!(covered, 16_384);
}

#[test]
fn keys_of_several_slots_do_not_go_together_on_a_core_port() {
    let mut rig = Rig::new(PortKind::Core);
    let (one, two) = (key_in(1), key_in(2));
    let error = "-CROSSSLOT Keys in request don't hash to the same slot\r\n";
    for words in [
        format!("MGET {one} {two}"),
        format!("MSET {one} 1 {two} 2"),
        format!("DEL {one} {two}"),
        format!("EXISTS {one} {two}"),
    ] {
        assert_eq!(rig.command(&words), error, "{words}");
    }
    assert!(rig.requests.is_empty());
}

#[test]
fn a_core_port_leaves_shards_without_leader_to_the_engine() {
    let mut rig = Rig::new(PortKind::Core);
    rig.cluster.set_leader(ShardId(1), LeaderView { term: Term(2), leader: None });
    assert_eq!(rig.command(&format!("SET {} v", key_in(512))), "+OK\r\n");
}

#[test]
fn whole_shard_commands_cover_what_the_port_speaks_for() {
    let mut any_core = Rig::new(PortKind::AnyCore);
    any_core.feed(b"DBSIZE\r\n");
    assert_eq!(any_core.requests.requests().len(), 32);
    let mut core = Rig::new(PortKind::Core);
    core.feed(b"FLUSHALL\r\n");
    // Six of the eleven shards of node 1 are at home on its core 0.
    assert_eq!(core.requests.requests().len(), 6);
    assert_eq!(core.exchange(b""), b"+OK\r\n");
    for shard in core.cluster.shards() {
        core.cluster.set_leader(shard, LeaderView { term: Term(9), leader: Some(NodeId(2)) });
    }
    assert_eq!(core.exchange(b"DBSIZE\r\nFLUSHALL\r\n"), b":0\r\n+OK\r\n");
}

#[test]
fn slots_lists_each_range_with_its_leader() {
    let mut rig = Rig::new(PortKind::Core);
    rig.cluster.set_leader(ShardId(1), LeaderView { term: Term(3), leader: Some(NodeId(3)) });
    // Shards 1 and 2 have the same leader and core now, and are one range.
    let reply = rig.command("CLUSTER SLOTS");
    let lines: Vec<&str> = reply.split("\r\n").collect();
    assert_eq!(lines[..8], ["*31", "*3", ":0", ":511", "*4", "$9", "127.0.0.1", ":7401"]);
    assert_eq!(lines[11..19], ["*3", ":512", ":1535", "*4", "$9", "127.0.0.3", ":7401", "$40"]);
    assert_eq!(reply.matches("\r\n*3\r\n").count(), 31);
}

#[test]
fn nodes_has_one_line_per_core_and_exactly_one_myself() {
    for (advertise, members) in [(Advertise::Core, 6), (Advertise::Node, 3)] {
        for port in [PortKind::Core, PortKind::AnyCore] {
            let mut rig = Rig::new(port);
            rig.cluster = ClusterMap::new(ClusterLayout { advertise, ..layout(32) });
            preferred_leaders(&mut rig.cluster);
            let reply = rig.command("CLUSTER NODES");
            let lines: Vec<&str> = reply.lines().filter(|line| line.contains('@')).collect();
            assert_eq!(lines.len(), members);
            assert!(lines.iter().all(|line| line.contains("master - 0 ")));
            let own: Vec<&&str> =
                lines.iter().filter(|line| line.contains(" myself,master ")).collect();
            assert_eq!(own.len(), 1);
            let id = rig.command("CLUSTER MYID");
            assert!(own[0].starts_with(&id[5..45]), "{id} in {}", own[0]);
            let slots: u32 = lines
                .iter()
                .flat_map(|line| line.split(' ').skip(8))
                .map(|range| match range.split_once('-') {
                    Some((first, last)) => {
                        let number = |text: &str| text.parse::<u32>().expect("a slot");
                        number(last) - number(first) + 1
                    }
                    None => 1,
                })
                .sum();
            assert_eq!(slots, 16_384);
        }
    }
}

#[test]
fn shards_lists_every_shard_with_its_replicas() {
    let mut rig = Rig::new(PortKind::Core);
    rig.cluster.set_leader(ShardId(0), LeaderView { term: Term(3), leader: Some(NodeId(3)) });
    let reply = rig.command("CLUSTER SHARDS");
    assert!(reply.starts_with(
        "*32\r\n*4\r\n$5\r\nslots\r\n*2\r\n:0\r\n:511\r\n$5\r\nnodes\r\n*3\r\n*14\r\n"
    ));
    assert_eq!(reply.matches("$6\r\nmaster\r\n").count(), 32);
    assert_eq!(reply.matches("$7\r\nreplica\r\n").count(), 64);
    let first = &reply[..reply.find(":512").expect("the second shard")];
    let leader = first.find("master").expect("a leader");
    assert!(first[..leader].contains("127.0.0.3") && !first[..leader].contains("127.0.0.1"));
    rig.command("HELLO 3");
    assert!(rig.command("CLUSTER SHARDS").starts_with("*32\r\n%2\r\n$5\r\nslots\r\n"));
}

#[test]
fn info_tells_the_state_of_the_cluster() {
    let mut rig = Rig::new(PortKind::Core);
    let info = rig.command("CLUSTER INFO");
    for field in [
        "cluster_state:ok",
        "cluster_slots_assigned:16384",
        "cluster_slots_ok:16384",
        "cluster_known_nodes:6",
        "cluster_size:6",
        "cluster_current_epoch:1",
    ] {
        assert!(info.contains(&format!("{field}\r\n")), "{field} in {info}");
    }
    rig.cluster.set_leader(ShardId(1), LeaderView { term: Term(2), leader: None });
    let info = rig.command("CLUSTER INFO");
    assert!(info.contains("cluster_state:fail\r\n"));
    assert!(
        info.contains(
            "cluster_slots_ok:15872\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:512\r\n"
        )
    );
}

#[test]
fn key_slots_and_refused_changes() {
    let mut rig = Rig::new(PortKind::Core);
    assert_eq!(rig.command("CLUSTER KEYSLOT foo"), ":12182\r\n");
    assert_eq!(rig.command("CLUSTER KEYSLOT {foo}x"), ":12182\r\n");
    assert!(
        rig.command("CLUSTER MEET 127.0.0.1 7000").starts_with("-ERR the layout of the cluster")
    );
    assert!(
        rig.command("CLUSTER FOO").starts_with("-ERR unknown subcommand 'FOO'. Try CLUSTER HELP.")
    );
}
