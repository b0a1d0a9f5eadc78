//! The cluster map as clients of the vbucket dialect read it: one JSON object.
//!
//! ```text
//! {"rev":N,"name":"…","nodeLocator":"vbucket",
//!  "vBucketServerMap":{"hashAlgorithm":"CRC16","numReplicas":2,
//!    "serverList":["127.0.0.1:7401",…],
//!    "vBucketMap":[[leader,replica,replica],…],
//!    "slots":[[first,last],…]}}
//! ```
//!
//! A vbucket is a shard: entry `s` of `vBucketMap` lists positions in `serverList`, the leader
//! first, -1 in its place while none is known; entry `s` of `slots` is the range of hash slots it
//! owns, which is what a client needs to find the shard of a key. The text is written by hand:
//! it has no strings that could need escaping but the name.

use std::fmt::Write as _;

use crate::cluster_map::{ClusterMap, Member};

/// The revision of `map`: it grows whenever a shard gets a new term or learns who leads it.
pub fn revision(map: &ClusterMap) -> u64 {
    map.shards().fold(1, |revision: u64, shard| {
        let view = map.leader(shard);
        let step = view.term.0.wrapping_mul(2) + u64::from(view.leader.is_some());
        revision.wrapping_add(step)
    })
}

/// The map as JSON.
pub fn cluster_config(map: &ClusterMap) -> String {
    let members: Vec<Member> = map.members().collect();
    let mut text = format!("{{\"rev\":{},\"name\":", revision(map));
    quote(&map.layout().name, &mut text);
    let replicas = map.layout().placement.replication() - 1;
    let head = "\"nodeLocator\":\"vbucket\",\"vBucketServerMap\":{\"hashAlgorithm\":\"CRC16\"";
    push(&mut text, format_args!(",{head},\"numReplicas\":{replicas},\"serverList\":["));
    for (position, &member) in members.iter().enumerate() {
        let (host, port) = map.advertised_address(member);
        let address = std::net::SocketAddr::new(host, port);
        push(&mut text, format_args!("{}\"{address}\"", comma(position)));
    }
    text.push_str("],\"vBucketMap\":[");
    for shard in map.shards() {
        let owner = map.leader(shard).leader.map(|_| map.listed_owner(shard));
        push(&mut text, format_args!("{}[{}", comma(shard.0.into()), place(&members, owner)));
        let replicas = map.listed_replicas(shard);
        // Without a leader the one that stands in for it is a replica like the others.
        let stand_in = owner.is_none().then(|| map.listed_owner(shard));
        for replica in stand_in.into_iter().chain(replicas).take(replicas_max(map)) {
            push(&mut text, format_args!(",{}", place(&members, Some(replica))));
        }
        text.push(']');
    }
    text.push_str("],\"slots\":[");
    for shard in map.shards() {
        let (first, last) = map.slots(shard);
        push(&mut text, format_args!("{}[{first},{last}]", comma(shard.0.into())));
    }
    text.push_str("]}}");
    text
}

fn replicas_max(map: &ClusterMap) -> usize {
    map.layout().placement.replication() - 1
}

fn comma(position: usize) -> &'static str {
    if position == 0 { "" } else { "," }
}

/// The position of `member` in the list of servers, -1 for none.
fn place(members: &[Member], member: Option<Member>) -> i64 {
    let position = member.and_then(|member| members.iter().position(|other| *other == member));
    position.map_or(-1, |position| position as i64)
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing into a string cannot fail.
    let _ = text.write_fmt(arguments);
}

fn quote(name: &str, text: &mut String) {
    text.push('"');
    for character in name.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            control if u32::from(control) < 0x20 => {
                push(text, format_args!("\\u{:04x}", u32::from(control)));
            }
            other => text.push(other),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster_map::ClusterLayout;
    use crate::cluster_map::tests::{layout, preferred_leaders};
    use serde_json::Value;
    use shards::contract::LeaderView;
    use shards::ids::{NodeId, ShardId, Term};

    fn parsed(map: &ClusterMap) -> Value {
        serde_json::from_str(&cluster_config(map)).expect("JSON")
    }

    #[test]
    fn every_shard_has_its_leader_first_and_its_slots() {
        let mut map = ClusterMap::new(layout(32));
        preferred_leaders(&mut map);
        let config = parsed(&map);
        let server_map = &config["vBucketServerMap"];
        let servers = server_map["serverList"].as_array().expect("servers");
        assert_eq!(servers.len(), 6);
        assert_eq!(server_map["numReplicas"], 2);
        assert_eq!(server_map["vBucketMap"].as_array().expect("a map").len(), 32);
        // Shard 4 prefers node 2 and lives on core 1 everywhere.
        let of_4: Vec<&str> = server_map["vBucketMap"][4]
            .as_array()
            .expect("replicas")
            .iter()
            .map(|place| servers[place.as_u64().expect("a place") as usize].as_str().expect("text"))
            .collect();
        assert_eq!(of_4, ["127.0.0.2:7402", "127.0.0.3:7402", "127.0.0.1:7402"]);
        assert_eq!(server_map["slots"][0], serde_json::json!([0, 511]));
        assert_eq!(server_map["slots"][31], serde_json::json!([15_872, 16_383]));
    }

    #[test]
    fn a_shard_without_leader_says_so_and_keeps_its_replicas() {
        let map = ClusterMap::new(layout(32));
        assert_eq!(parsed(&map)["vBucketServerMap"]["vBucketMap"][0][0], -1);
    }

    #[test]
    fn the_revision_grows_with_every_change_of_a_leader() {
        let mut map = ClusterMap::new(layout(32));
        let mut last = revision(&map);
        for (term, leader) in [(1, None), (1, Some(1)), (2, None), (2, Some(3)), (7, Some(1))] {
            map.set_leader(ShardId(3), LeaderView { term: Term(term), leader: leader.map(NodeId) });
            assert!(revision(&map) > last);
            last = revision(&map);
        }
        assert_eq!(parsed(&map)["rev"], last);
    }

    #[test]
    fn a_name_with_quotes_stays_one_string() {
        let name = "a\"b\\c\n\u{1}ü".to_owned();
        let map = ClusterMap::new(ClusterLayout { name: name.clone(), ..layout(1) });
        assert_eq!(parsed(&map)["name"], name);
    }
}
