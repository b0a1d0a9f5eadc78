//! CLUSTER and what else cluster-aware clients say: who owns which slots, at which address.
//!
//! Every core of every node is a cluster node of its own (with `advertise = node`, every node).
//! A core may lead some shards and hold replicas of others, but clients give each address one
//! role: the first one that CLUSTER SLOTS mentions it in, for redis-py. In SLOTS and NODES
//! everyone is therefore a master of what it leads. Replicas show in SHARDS, and in SLOTS to a
//! connection that has said READONLY; to it, each owner shows once by itself before any replica.

use std::fmt::Write;

use proto::resp::request::Arguments;
use proto::resp::{Version, encode};
use proto::slot::{self, SLOTS};
use shards::command::ReadFrom;

use crate::cluster_map::{ClusterMap, Member};
use crate::commands::{Execution, errors};

/// ASKING: shards do not move slot by slot, so there is nothing to ask for.
pub(super) fn accept(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    execution.ok();
}

/// READONLY \[STALE\]: replicas may answer the connection's reads; with STALE as they are.
pub(super) fn read_only(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let read_from = match (arguments.get(1), arguments.len()) {
        (None, _) => ReadFrom::Replica,
        (Some(word), 2) if word.eq_ignore_ascii_case(b"STALE") => ReadFrom::Stale,
        (Some(_), 2) => return execution.error(errors::SYNTAX),
        _ => return execution.wrong_number_of_arguments("readonly"),
    };
    execution.connection.replies.set_read_from(read_from);
    execution.ok();
}

/// READWRITE: leaders answer everything.
pub(super) fn read_write(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    execution.connection.replies.set_read_from(ReadFrom::Leader);
    execution.ok();
}

/// CLUSTER KEYSLOT key
pub(super) fn key_slot(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let slot = slot::slot_of(arguments.at(2));
    execution.answer(|out, _| encode::integer(out, i64::from(slot)));
}

/// CLUSTER MYID
pub(super) fn my_id(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    let cluster = execution.context.cluster;
    let id = cluster.member_id(cluster.myself());
    execution.answer(|out, _| encode::bulk(out, id.as_bytes()));
}

/// CLUSTER SLOTS
pub(super) fn slots(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    let cluster = execution.context.cluster;
    let with_replicas = execution.connection.replies.read_from() != ReadFrom::Leader;
    execution.answer(|out, version| match with_replicas {
        false => {
            let ranges = cluster.slot_ranges();
            encode::array(out, ranges.len());
            for range in ranges {
                let slots = (range.first, range.last);
                slot_entry(out, version, cluster, slots, &[range.owner]);
            }
        }
        true => slots_with_replicas(out, version, cluster),
    });
}

/// One entry per shard, with its replicas. Before any replica, each owner shows once by itself,
/// with the first slot of its first shard: who keeps the first role it meets takes it for a master.
fn slots_with_replicas(out: &mut Vec<u8>, version: Version, cluster: &ClusterMap) {
    let mut met = Vec::new();
    let mut alone = Vec::new();
    let mut entries = Vec::new();
    for shard in cluster.shards() {
        let owner = cluster.listed_owner(shard);
        let (mut first, last) = cluster.slots(shard);
        if !met.contains(&owner) {
            met.push(owner);
            alone.push((first, vec![owner]));
            first += 1;
        }
        if first <= last {
            let members = std::iter::once(owner).chain(cluster.listed_replicas(shard));
            entries.push(((first, last), members.collect::<Vec<_>>()));
        }
    }
    encode::array(out, alone.len() + entries.len());
    for (slot, members) in alone {
        slot_entry(out, version, cluster, (slot, slot), &members);
    }
    for (slots, members) in entries {
        slot_entry(out, version, cluster, slots, &members);
    }
}

fn slot_entry(
    out: &mut Vec<u8>,
    version: Version,
    cluster: &ClusterMap,
    (first, last): (u16, u16),
    members: &[Member],
) {
    encode::array(out, 2 + members.len());
    encode::integer(out, i64::from(first));
    encode::integer(out, i64::from(last));
    for &member in members {
        let (host, port) = cluster.advertised_address(member);
        encode::array(out, 4);
        encode::bulk(out, host.to_string().as_bytes());
        encode::integer(out, i64::from(port));
        encode::bulk(out, cluster.member_id(member).as_bytes());
        encode::map(out, version, 0);
    }
}

/// CLUSTER SHARDS: one entry per shard, each being a replication group of its own.
pub(super) fn shards(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    let cluster = execution.context.cluster;
    execution.answer(|out, version| {
        encode::array(out, cluster.shards().len());
        for shard in cluster.shards() {
            let (first, last) = cluster.slots(shard);
            encode::map(out, version, 2);
            encode::bulk(out, b"slots");
            encode::array(out, 2);
            encode::integer(out, i64::from(first));
            encode::integer(out, i64::from(last));
            encode::bulk(out, b"nodes");
            encode::array(out, 1 + cluster.listed_replicas(shard).count());
            shard_member(out, version, cluster, cluster.listed_owner(shard), "master");
            for member in cluster.listed_replicas(shard) {
                shard_member(out, version, cluster, member, "replica");
            }
        }
    });
}

fn shard_member(
    out: &mut Vec<u8>,
    version: Version,
    cluster: &ClusterMap,
    member: Member,
    role: &str,
) {
    let (host, port) = cluster.advertised_address(member);
    let host = host.to_string();
    let id = cluster.member_id(member);
    encode::map(out, version, 7);
    encode::bulk(out, b"id");
    encode::bulk(out, id.as_bytes());
    encode::bulk(out, b"port");
    encode::integer(out, i64::from(port));
    for (key, value) in [("ip", &host[..]), ("endpoint", &host), ("role", role)] {
        encode::bulk(out, key.as_bytes());
        encode::bulk(out, value.as_bytes());
    }
    encode::bulk(out, b"replication-offset");
    encode::integer(out, 0);
    encode::bulk(out, b"health");
    encode::bulk(out, b"online");
}

/// CLUSTER NODES
pub(super) fn nodes(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    let text = describe_nodes(execution.context.cluster, execution.context.now.wall.0);
    execution.answer(|out, version| encode::verbatim(out, version, text.as_bytes()));
}

fn describe_nodes(cluster: &ClusterMap, wall_ms: u64) -> String {
    let ranges = cluster.slot_ranges();
    let epoch = cluster.term_max();
    let mut text = String::new();
    for member in cluster.members() {
        let (host, port) = cluster.advertised_address(member);
        let is_myself = member == cluster.myself();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{} {host}:{port}@{} {}master - 0 {} {epoch} connected",
            cluster.member_id(member),
            cluster.peer_port(member),
            if is_myself { "myself," } else { "" },
            if is_myself { 0 } else { wall_ms },
        );
        for range in ranges.iter().filter(|range| range.owner == member) {
            push_range(&mut text, range.first, range.last);
        }
        text.push('\n');
    }
    text
}

fn push_range(text: &mut String, first: u16, last: u16) {
    let _ = match first == last {
        true => write!(text, " {first}"),
        false => write!(text, " {first}-{last}"),
    };
}

/// CLUSTER INFO
pub(super) fn info(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    let cluster = execution.context.cluster;
    let without_leader: u16 = cluster
        .shards()
        .filter(|&shard| cluster.leader(shard).leader.is_none())
        .map(|shard| cluster.slots(shard))
        .map(|(first, last)| last - first + 1)
        .sum();
    let mut owners: Vec<Member> =
        cluster.shards().map(|shard| cluster.listed_owner(shard)).collect();
    owners.sort_unstable();
    owners.dedup();
    let text = format!(
        "cluster_state:{}\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{}\r\n\
         cluster_slots_pfail:0\r\ncluster_slots_fail:{without_leader}\r\n\
         cluster_known_nodes:{}\r\ncluster_size:{}\r\ncluster_current_epoch:{epoch}\r\n\
         cluster_my_epoch:{epoch}\r\ncluster_stats_messages_sent:0\r\n\
         cluster_stats_messages_received:0\r\n\
         total_cluster_links_buffer_limit_exceeded:0\r\n",
        if without_leader == 0 { "ok" } else { "fail" },
        SLOTS - without_leader,
        cluster.members().count(),
        owners.len(),
        epoch = cluster.term_max(),
    );
    execution.answer(|out, version| encode::verbatim(out, version, text.as_bytes()));
}

/// The subcommands by which operators of Redis change a cluster.
pub(super) fn refuse_change(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    execution.error(
        "ERR the layout of the cluster is fixed by its configuration; leaders are moved with \
         `coracle shards transfer`",
    );
}

/// CLUSTER HELP
pub(super) fn help(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    execution.help("CLUSTER");
}
