//! Where leaders are, and that every face of the cluster says the same.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::Value as Json;

use crate::cluster::{Cluster, Shape};
use crate::wire::Value;

fn shape() -> Shape {
    Shape { cores: 2, shards: 32, ..Shape::default() }
}

/// Leaders per (node, core) as `/v1/shards` has them.
fn spread(shards: &[Json]) -> BTreeMap<(u64, u64), usize> {
    let mut spread = BTreeMap::new();
    for shard in shards {
        let leader = &shard["leader"];
        if let (Some(node), Some(core)) = (leader["node"].as_u64(), leader["core"].as_u64()) {
            *spread.entry((node, core)).or_insert(0) += 1;
        }
    }
    spread
}

fn is_even(spread: &BTreeMap<(u64, u64), usize>) -> bool {
    let per_node = |node| spread.range((node, 0)..=(node, u64::MAX)).map(|(_, n)| n).sum::<usize>();
    spread.len() == 6
        && spread.values().all(|&leaders| leaders == 5 || leaders == 6)
        && (1..=3).all(|node| per_node(node) == 10 || per_node(node) == 11)
}

/// Slot ranges and the address of their leader, merged where neighbours share it.
fn merged(mut ranges: Vec<(i64, i64, String)>) -> Vec<(i64, i64, String)> {
    ranges.sort();
    let mut merged: Vec<(i64, i64, String)> = Vec::new();
    for (first, last, address) in ranges {
        match merged.last_mut() {
            Some(previous) if previous.1 + 1 == first && previous.2 == address => previous.1 = last,
            _ => merged.push((first, last, address)),
        }
    }
    merged
}

fn ranges_of_json(shards: &[Json]) -> Vec<(i64, i64, String)> {
    merged(
        shards
            .iter()
            .map(|shard| {
                let slot = |at: usize| shard["slots"][at].as_i64().expect("a slot");
                let address = shard["leader"]["addr"].as_str().unwrap_or("none").to_owned();
                (slot(0), slot(1), address)
            })
            .collect(),
    )
}

/// `CLUSTER SHARDS`: the master of each group of slot ranges.
fn ranges_of_cluster_shards(reply: &Value) -> Vec<(i64, i64, String)> {
    let field = |map: &[Value], name: &str| {
        let at = map.iter().step_by(2).position(|key| key.text() == name).expect("the field");
        map[2 * at + 1].clone()
    };
    let mut ranges = Vec::new();
    for shard in reply.array() {
        let (slots, nodes) = (field(shard.array(), "slots"), field(shard.array(), "nodes"));
        let master = nodes
            .array()
            .iter()
            .find(|node| field(node.array(), "role").text() == "master")
            .expect("a master");
        let ip = field(master.array(), "ip").text();
        let port = field(master.array(), "port").integer();
        for pair in slots.array().chunks(2) {
            ranges.push((pair[0].integer(), pair[1].integer(), format!("{ip}:{port}")));
        }
    }
    merged(ranges)
}

fn assert_all_faces_agree(cluster: &Cluster) {
    let mut difference = String::new();
    cluster.wait("all faces agree", Duration::from_secs(20), || {
        let running = cluster.running();
        let Some(shards) = cluster.shards(running[0]) else { return false };
        let truth = ranges_of_json(&shards);
        let mut views = vec![];
        for &node in &running {
            views.push((
                format!("/v1/shards of {node}"),
                cluster.shards(node).map(|s| ranges_of_json(&s)),
            ));
            let mut connection = cluster.resp(node, 7401);
            let reply = connection.command("CLUSTER SHARDS");
            views.push((
                format!("CLUSTER SHARDS of {node}"),
                Some(ranges_of_cluster_shards(&reply)),
            ));
        }
        let output = Command::new(env!("CARGO_BIN_EXE_coracle"))
            .args(["shards", "--json", "--addr", &cluster.socket(running[0], 7480).to_string()])
            .output()
            .expect("coracle shards runs");
        let json: Json = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let listed = json["shards"].as_array().map(|shards| ranges_of_json(shards));
        views.push(("coracle shards".into(), listed));
        difference = format!("{:?}", views.iter().find(|(_, view)| view.as_ref() != Some(&truth)));
        views.iter().all(|(_, view)| view.as_ref() == Some(&truth))
    });
}

#[test]
fn leaders_spread_over_nodes_and_cores_and_return_after_a_restart() {
    let mut cluster = Cluster::start(shape());
    let is_spread = |cluster: &Cluster| {
        cluster.shards(cluster.running()[0]).is_some_and(|shards| is_even(&spread(&shards)))
    };
    cluster.wait("leaders are spread", Duration::from_secs(30), || is_spread(&cluster));
    println!("leaders per (node, core): {:?}", spread(&cluster.shards(1).expect("shards")));
    assert_all_faces_agree(&cluster);

    let mut connection = cluster.resp(1, 7400);
    for number in 0..500 {
        assert!(connection.command(&format!("SET before:{number} {number}")).is_ok());
    }
    cluster.kill(3);
    cluster.wait("the others lead everything", Duration::from_secs(20), || {
        cluster.shards(1).is_some_and(|shards| {
            let spread = spread(&shards);
            spread.values().sum::<usize>() == 32 && spread.keys().all(|(node, _)| *node != 3)
        })
    });
    assert_all_faces_agree(&cluster);
    for number in 0..500 {
        let value = connection.command(&format!("GET before:{number}"));
        assert_eq!(value, Value::Bulk(number.to_string().into_bytes()));
        assert!(connection.command(&format!("SET during:{number} {number}")).is_ok());
    }

    cluster.start_node(3);
    cluster.wait_until_ready();
    cluster.wait("leaders are spread again", Duration::from_secs(30), || is_spread(&cluster));
    assert_all_faces_agree(&cluster);
    let mut restarted = cluster.resp(3, 7400);
    for number in 0..500 {
        for phase in ["before", "during"] {
            let value = restarted.command(&format!("GET {phase}:{number}"));
            assert_eq!(value, Value::Bulk(number.to_string().into_bytes()), "{phase}:{number}");
        }
    }
}

#[test]
fn sigterm_hands_leaderships_over_without_an_error_at_any_client() {
    let mut cluster = Cluster::start(Shape { cores: 1, shards: 8, ..shape() });
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = {
        let (stop, mut connection) = (stop.clone(), cluster.resp(1, 7400));
        std::thread::spawn(move || {
            let mut written = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let reply = connection.command(&format!("SET drain:{written} {written}"));
                assert!(reply.is_ok(), "write {written}: {reply:?}");
                written += 1;
            }
            written
        })
    };
    assert!(cluster.terminate(2, Duration::from_secs(10)), "the node stops in time, with success");
    cluster.wait("the others lead everything", Duration::from_secs(20), || {
        cluster.shards(1).is_some_and(|shards| spread(&shards).keys().all(|(node, _)| *node != 2))
    });
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let written = writer.join().expect("no write failed");
    assert!(written > 0);
    let mut connection = cluster.resp(3, 7400);
    for number in 0..written {
        let value = connection.command(&format!("GET drain:{number}"));
        assert_eq!(value, Value::Bulk(number.to_string().into_bytes()));
    }
}
