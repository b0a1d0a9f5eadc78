//! The memory limit is replicated state: set on one node, it holds on all, and after a restart.

use std::process::Command;
use std::time::Duration;

use crate::cluster::{Cluster, Shape};
use crate::http;
use crate::wire::{Resp, Value};

const DEADLINE: Duration = Duration::from_secs(30);
const KEYS: usize = 12_000;

/// The value of a parameter as CONFIG GET says it.
fn parameter(connection: &mut Resp, name: &str) -> String {
    let reply = connection.call(&[b"CONFIG", b"GET", name.as_bytes()]).expect("a reply");
    reply.array().get(1).map(Value::text).unwrap_or_default()
}

/// The bytes that all replicas of a node hold, and those that they may hold.
fn held(cluster: &Cluster, node: u16) -> (u64, u64) {
    let page = http::get(cluster.socket(node, 7480), "/metrics").map(|(_, body)| body);
    let page = page.unwrap_or_default();
    let sum = |name: &str| {
        let lines = page.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.split(' ').next_back()?.parse::<u64>().ok()).sum()
    };
    (sum("coracle_shard_bytes{"), sum("coracle_shard_limit_bytes{"))
}

#[test]
fn a_limit_set_on_one_node_holds_on_all_and_survives_their_restart() {
    let extra = vec!["--value-bytes-max=1KiB".to_owned()];
    let shape = Shape { memory: "8MiB", durability: "fsync", extra, ..Shape::default() };
    let mut cluster = Cluster::start(shape);
    let mut connection = cluster.resp(1, 7400);
    for number in 0..KEYS {
        let key = format!("key:{number:08}");
        connection.send(&Resp::encode(&[b"SET", key.as_bytes(), &[b'v'; 100]])).expect("sent");
        if number % 100 == 99 {
            let replies = (0..100).map(|_| connection.receive().expect("a reply"));
            assert!(replies.into_iter().all(|reply| reply.is_ok()));
        }
    }
    assert_eq!(parameter(&mut connection, "maxmemory"), (8 << 20).to_string());
    assert!(held(&cluster, 1).0 > 1 << 20);

    let set = |connection: &mut Resp, value: &str| {
        connection.call(&[b"CONFIG", b"SET", b"maxmemory", value.as_bytes()]).expect("a reply")
    };
    for wrong in ["1kb", "much", "-1", "99999999999gb"] {
        assert!(matches!(set(&mut connection, wrong), Value::Error(_)), "{wrong}");
    }
    // Core ports set it for the whole cluster, too.
    assert!(set(&mut cluster.resp(2, 7401), "1mb").is_ok());
    for node in 1..=3 {
        cluster.wait("every node holds what it may", DEADLINE, || {
            let (bytes, limit) = held(&cluster, node);
            limit == 1 << 20 && bytes <= limit
        });
        let mut connection = cluster.resp(node, 7400);
        cluster.wait("every node says so", DEADLINE, || {
            parameter(&mut connection, "maxmemory") == (1 << 20).to_string()
        });
    }

    drop(connection);
    for node in 1..=3 {
        cluster.kill(node);
    }
    for node in 1..=3 {
        cluster.start_node(node);
    }
    cluster.wait_until_ready();
    for node in 1..=3 {
        assert_eq!(held(&cluster, node).1, 1 << 20, "node {node} after the restart");
    }
    assert!(set(&mut cluster.resp(3, 7400), "16mb").is_ok());
    cluster.wait("the limit is raised again", DEADLINE, || held(&cluster, 1).1 == 16 << 20);
}

/// What the command line says about a node's limits, and whether it succeeded.
fn limits(cluster: &Cluster, node: u16, arguments: &[&str]) -> (bool, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_coracle"))
        .args(["limits", "--addr", &cluster.socket(node, 7480).to_string()])
        .args(arguments)
        .output()
        .expect("the command runs");
    let text = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn the_command_line_changes_the_limit_of_all_nodes_or_says_why_not() {
    let extra = vec!["--value-bytes-max=1KiB".to_owned()];
    let cluster = Cluster::start(Shape { memory: "8MiB", extra, ..Shape::default() });
    let (is_done, text) = limits(&cluster, 1, &[]);
    assert!(is_done && text.contains("of 8.00 MiB are in use"), "{text}");
    let (is_done, text) = limits(&cluster, 1, &["set", "--memory", "12MiB"]);
    assert!(is_done, "{text}");
    cluster.wait("another node shows it", DEADLINE, || {
        limits(&cluster, 2, &[]).1.contains("of 12.0 MiB")
    });
    let (is_done, text) = limits(&cluster, 3, &["set", "--memory", "1KiB"]);
    assert!(!is_done && text.contains("must fit"), "{text}");
    assert!(limits(&cluster, 1, &[]).1.contains("evicted by lru"));
    let (is_done, text) = limits(&cluster, 1, &["set", "--eviction", "sieve"]);
    assert!(is_done, "{text}");
    cluster.wait("another node evicts by the new policy", DEADLINE, || {
        limits(&cluster, 2, &[]).1.contains("evicted by sieve")
    });
    let mut connection = cluster.resp(3, 7400);
    cluster.wait("clients see it", DEADLINE, || {
        parameter(&mut connection, "maxmemory-policy") == "allkeys-sieve"
    });
    assert_eq!(held(&cluster, 3).1, 12 << 20);
}
