//! SIGKILL of a node under load: nothing acknowledged is lost, all shards serve again, and every
//! error says whether the write happened.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Shape};
use crate::wire::{Resp, Value};

/// What one writer has seen.
#[derive(Default)]
struct Seen {
    acknowledged: Vec<String>,
    not_done: Vec<String>,
    errors: BTreeMap<String, usize>,
    unclassified: Vec<String>,
    /// The longest time between two acknowledgements.
    longest_gap: Duration,
}

/// Writes unique keys until told to stop; connects elsewhere when its node dies.
fn writer(name: usize, nodes: Vec<SocketAddr>, stop: Arc<AtomicBool>) -> JoinHandle<Seen> {
    std::thread::spawn(move || {
        let mut seen = Seen::default();
        let mut node = name % nodes.len();
        let mut connection = None;
        let mut last = Instant::now();
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            let Some(open) = connection.as_mut() else {
                connection = Resp::connect(nodes[node]).ok();
                node = (node + 1) % nodes.len();
                continue;
            };
            let key = format!("unique:{name}:{number}");
            number += 1;
            match open.call(&[b"SET", key.as_bytes(), key.as_bytes()]) {
                Ok(reply) if reply.is_ok() => {
                    seen.longest_gap = seen.longest_gap.max(last.elapsed());
                    last = Instant::now();
                    seen.acknowledged.push(key);
                }
                Ok(Value::Error(error)) => {
                    let class = error.split(' ').next().unwrap_or_default().to_owned();
                    match class.as_str() {
                        "UNKNOWN" => {}
                        "TRYAGAIN" | "CLUSTERDOWN" | "LOADING" | "OOM" => seen.not_done.push(key),
                        _ => seen.unclassified.push(error),
                    }
                    *seen.errors.entry(class).or_default() += 1;
                }
                Ok(other) => seen.unclassified.push(format!("{other:?}")),
                // The connection broke with its node: whether the write happened is unknown.
                Err(_) => {
                    *seen.errors.entry("connection".into()).or_default() += 1;
                    connection = None;
                }
            }
        }
        seen
    })
}

fn check(cluster: &Cluster, seen: &[Seen]) {
    let survivor = cluster.running()[0];
    let mut connection = cluster.resp(survivor, 7400);
    for (keys, expected) in seen
        .iter()
        .map(|seen| (&seen.acknowledged, true))
        .chain(seen.iter().map(|seen| (&seen.not_done, false)))
    {
        for chunk in keys.chunks(200) {
            let mut pipeline = Vec::new();
            for key in chunk {
                pipeline.extend(Resp::encode(&[b"GET", key.as_bytes()]));
            }
            connection.send(&pipeline).expect("the pipeline is sent");
            for key in chunk {
                let value = connection.receive().expect("a reply");
                match expected {
                    true => {
                        assert_eq!(value, Value::Bulk(key.clone().into_bytes()), "{key} is lost")
                    }
                    false => assert_eq!(value, Value::Nil, "{key} was reported as not done"),
                }
            }
        }
    }
}

#[test]
fn kill_9_under_load_loses_nothing_acknowledged() {
    let trials: usize = std::env::var("CORACLE_KILL_TRIALS")
        .ok()
        .and_then(|trials| trials.parse().ok())
        .unwrap_or(3);
    let mut cluster =
        Cluster::start(Shape { shards: 16, extra: vec!["--log=warn".into()], ..Shape::default() });
    let mut windows = Vec::new();
    for trial in 0..trials {
        let victim = (trial % 3) as u16 + 1;
        let stop = Arc::new(AtomicBool::new(false));
        let nodes: Vec<_> = (1..=3).map(|node| cluster.socket(node, 7400)).collect();
        let writers: Vec<_> =
            (0..8).map(|name| writer(trial * 8 + name, nodes.clone(), stop.clone())).collect();
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(700) {
            crate::cluster::pause();
        }
        cluster.kill(victim);
        cluster.wait("the others lead everything", Duration::from_secs(20), || {
            cluster.running().iter().all(|&node| {
                cluster.shards(node).is_some_and(|shards| {
                    shards.len() == 16
                        && shards.iter().all(|shard| {
                            shard["leader"]["node"]
                                .as_u64()
                                .is_some_and(|node| node != u64::from(victim))
                        })
                })
            })
        });
        let survivors = cluster.running();
        for number in 0..200 {
            let key = format!("after:{trial}:{number}");
            let mut connection = cluster.resp(survivors[number % 2], 7400);
            assert!(connection.command(&format!("SET {key} x")).is_ok(), "{key}");
        }
        stop.store(true, Ordering::Relaxed);
        let seen: Vec<_> =
            writers.into_iter().map(|writer| writer.join().expect("a writer ends")).collect();
        check(&cluster, &seen);
        let unclassified: Vec<_> = seen.iter().flat_map(|seen| &seen.unclassified).collect();
        assert!(unclassified.is_empty(), "{unclassified:?}");
        let window = seen.iter().map(|seen| seen.longest_gap).max().unwrap_or_default();
        let acknowledged: usize = seen.iter().map(|seen| seen.acknowledged.len()).sum();
        let mut errors = BTreeMap::new();
        for (class, count) in seen.iter().flat_map(|seen| &seen.errors) {
            *errors.entry(class.as_str()).or_insert(0) += count;
        }
        println!(
            "trial {trial}: node {victim} killed, {acknowledged} writes acknowledged, all there; \
             longest wait {} ms; errors {errors:?}",
            window.as_millis()
        );
        windows.push(window);
        cluster.start_node(victim);
        cluster.wait_until_ready();
    }
    windows.sort();
    println!(
        "window in which writes failed or waited, {trials} trials: median {} ms, worst {} ms",
        windows[windows.len() / 2].as_millis(),
        windows[windows.len() - 1].as_millis()
    );
}
