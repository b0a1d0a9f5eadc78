//! A bit flips in the memory of one replica while clients work: it is found, taken out of service
//! and filled anew, and the clients notice nothing. The binary has an endpoint for that, in builds
//! with the feature `defects` alone.
//!
//! The flipped bit is in a value that the clients do not read meanwhile: until it is found, a
//! reader of it would be told what is there.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Shape, pause};
use crate::http;
use crate::wire::{Resp, Value};

const DEADLINE: Duration = Duration::from_secs(60);
const COLD_KEYS: usize = 20_000;
const HOT_KEYS: u64 = 50;
const PIPELINE: usize = 100;
/// The shard that is damaged; node 1 leads it, and node 2 follows.
const SHARD: u16 = 0;

fn cold_value(number: usize) -> Vec<u8> {
    format!("the value of {number:08} ").repeat(10).into_bytes()
}

fn fill(cluster: &Cluster) {
    let mut connection = cluster.resp(1, 7400);
    for first in (0..COLD_KEYS).step_by(PIPELINE) {
        let mut bytes = Vec::new();
        for number in first..first + PIPELINE {
            let key = format!("cold:{number}");
            bytes.extend(Resp::encode(&[b"SET", key.as_bytes(), &cold_value(number)]));
        }
        connection.send(&bytes).expect("sent");
        for _ in 0..PIPELINE {
            assert!(connection.receive().expect("a reply").is_ok());
        }
    }
}

/// Reads everything that was written before, from the replicas of `node`.
fn check_cold(cluster: &Cluster, node: u16) {
    let mut connection = cluster.resp(node, 7400);
    assert!(connection.call(&[b"READONLY"]).expect("a reply").is_ok());
    for first in (0..COLD_KEYS).step_by(PIPELINE) {
        let keys: Vec<_> = (first..first + PIPELINE).map(|n| (n, format!("cold:{n}"))).collect();
        let bytes: Vec<_> =
            keys.iter().flat_map(|(_, key)| Resp::encode(&[b"GET", key.as_bytes()])).collect();
        connection.send(&bytes).expect("sent");
        for (number, key) in keys {
            let value = connection.receive().expect("a reply");
            assert_eq!(value, Value::Bulk(cold_value(number)), "{key} at node {node}");
        }
    }
}

/// A client that writes keys of its own and reads them from any replica, until it is told to stop.
fn work(mut connection: Resp, name: u16, stop: &AtomicBool, done: &AtomicU64) {
    assert!(connection.call(&[b"READONLY"]).expect("a reply").is_ok());
    let mut round = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        for number in 0..HOT_KEYS {
            let (key, value) = (format!("hot:{name}:{number}"), format!("{round}"));
            let reply = connection.call(&[b"SET", key.as_bytes(), value.as_bytes()]);
            let reply = reply.expect("a reply");
            assert!(reply.is_ok(), "SET {key} {value}: {reply:?}");
            let reply = connection.call(&[b"GET", key.as_bytes()]).expect("a reply");
            assert_eq!(reply, Value::Bulk(value.into_bytes()), "GET {key}");
            done.fetch_add(2, Ordering::Relaxed);
        }
    }
}

fn metric(cluster: &Cluster, node: u16, name: &str) -> Option<u64> {
    let (_, page) = http::get(cluster.socket(node, 7480), "/metrics")?;
    let lines = page.lines().filter(|line| line.starts_with(name));
    let values: Vec<u64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

fn flip(cluster: &Cluster, node: u16, nth_byte: u64) {
    let address = cluster.socket(node, 7480);
    let body = nth_byte.to_string();
    let head = format!("POST /v1/shards/{SHARD}/flip HTTP/1.1\r\nHost: {address}\r\n");
    let request = format!(
        "{head}Content-Length: {}\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = http::ask(address, &request);
    assert_eq!(answer.map(|(code, _)| code), Some(200));
}

/// Waits until what `/v1/replicas` says of the shard is equal everywhere, and sound.
fn wait_until_whole(cluster: &Cluster) {
    cluster.wait("all replicas are sound and equal", DEADLINE, || {
        let answer = http::get(cluster.socket(3, 7480), "/v1/replicas");
        let Some((200, body)) = answer else { return false };
        let all: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let own: Vec<_> = all["replicas"]
            .as_array()
            .expect("replicas")
            .iter()
            .filter(|replica| replica["shard"] == SHARD)
            .collect();
        own.len() == 3
            && own.iter().all(|replica| {
                replica["health"] == "sound"
                    && (replica["role"] == "leader" || replica["role"] == "follower")
                    && (&replica["applied"], &replica["digest"])
                        == (&own[0]["applied"], &own[0]["digest"])
            })
    });
}

#[test]
fn a_flipped_bit_in_memory_is_found_and_its_replica_rebuilt_while_clients_notice_nothing() {
    let cluster = Cluster::start(Shape { durability: "fsync", ..Shape::default() });
    fill(&cluster);
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (1..=3)
        .map(|node| {
            let (stop, done) = (stop.clone(), done.clone());
            let connection = cluster.resp(node, 7400);
            std::thread::spawn(move || work(connection, node, &stop, &done))
        })
        .collect();
    for (node, what) in [(2, "a follower"), (1, "the leader")] {
        let is_clean = metric(&cluster, node, "coracle_replicas_quarantined_total");
        assert_eq!(is_clean, Some(0), "nothing has happened yet");
        flip(&cluster, node, 1_000);
        let flipped = Instant::now();
        cluster.wait("the damage is found", DEADLINE, || {
            metric(&cluster, node, "coracle_replicas_quarantined_total") == Some(1)
        });
        let found = flipped.elapsed();
        cluster.wait("the replica is rebuilt", DEADLINE, || {
            metric(&cluster, node, "coracle_replicas_rebuilt_total") == Some(1)
        });
        println!(
            "{what}: found {} ms after the flip, rebuilt {} ms after that",
            found.as_millis(),
            (flipped.elapsed() - found).as_millis()
        );
        assert_eq!(metric(&cluster, node, "coracle_shards_quarantined"), Some(0));
        cluster.wait_until_ready();
        let before = done.load(Ordering::Relaxed);
        while done.load(Ordering::Relaxed) < before + 1_000 {
            assert!(!clients.iter().any(|client| client.is_finished()), "a client complained");
            pause();
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("the client saw no error and no wrong value");
    }
    wait_until_whole(&cluster);
    (1..=3).for_each(|node| check_cold(&cluster, node));
    let digest = Command::new(env!("CARGO_BIN_EXE_coracle"))
        .args(["shards", "--addr", &cluster.socket(1, 7480).to_string(), "digest"])
        .output()
        .expect("the command runs");
    assert!(digest.status.success(), "{digest:?}");
}
