//! SIGKILL of a node under load: nothing acknowledged is lost, all shards serve again, and every
//! error says whether the write happened. How long each shard took no writes is measured by one
//! writer per shard, which asks the nodes that stay.

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

/// Writes to one shard until told to stop, and returns when each write was acknowledged.
fn prober(name: usize, node: SocketAddr, stop: Arc<AtomicBool>) -> JoinHandle<Vec<Instant>> {
    std::thread::spawn(move || {
        let key = format!("probe:{{{}}}", tag_of_shard(name));
        let mut acknowledged = Vec::new();
        let mut connection = None;
        while !stop.load(Ordering::Relaxed) {
            let Some(open) = connection.as_mut() else {
                connection = Resp::connect(node).ok();
                continue;
            };
            match open.call(&[b"SET", key.as_bytes(), b"x"]) {
                Ok(reply) if reply.is_ok() => {
                    acknowledged.push(Instant::now());
                    std::thread::park_timeout(PROBE_PERIOD);
                }
                Ok(_) => {}
                Err(_) => connection = None,
            }
        }
        acknowledged
    })
}

/// Time between two writes of a prober, which is how exactly it measures.
const PROBE_PERIOD: Duration = Duration::from_millis(4);
const SHARDS: u16 = 32;

/// A hash tag in a shard.
fn tag_of_shard(shard: usize) -> String {
    let shard_of = |tag: &String| {
        usize::from(proto::slot::slot_of(tag.as_bytes())) * usize::from(SHARDS) / 16_384
    };
    (0..).map(|salt: u32| salt.to_string()).find(|tag| shard_of(tag) == shard).unwrap_or_default()
}

/// The longest time without an acknowledgement.
fn longest_gap(acknowledged: &[Instant]) -> Duration {
    acknowledged.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

fn median_and_worst(times: &mut [Duration]) -> (u128, u128) {
    times.sort();
    let at = |place: usize| times.get(place).copied().unwrap_or_default().as_millis();
    (at(times.len() / 2), at(times.len().saturating_sub(1)))
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
    kill_9_under_load("memory");
}

#[test]
fn kill_9_under_load_loses_nothing_with_logs_on_disk() {
    kill_9_under_load("fsync");
}

fn kill_9_under_load(durability: &'static str) {
    let trials: usize = std::env::var("CORACLE_KILL_TRIALS")
        .ok()
        .and_then(|trials| trials.parse().ok())
        .unwrap_or(3);
    let extra = vec!["--log=warn".into()];
    let shape = Shape { shards: SHARDS, durability, extra, ..Shape::default() };
    let mut cluster = Cluster::start(shape);
    let (mut windows, mut by_shard) = (Vec::new(), Vec::new());
    for trial in 0..trials {
        let victim = (trial % 3) as u16 + 1;
        let led = await_leaderships(&cluster, victim);
        let stop = Arc::new(AtomicBool::new(false));
        let stays = cluster.socket(victim % 3 + 1, 7400);
        let probers: Vec<_> = led.iter().map(|&shard| prober(shard, stays, stop.clone())).collect();
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
                    shards.len() == usize::from(SHARDS)
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
        let mut gaps: Vec<_> = probers
            .into_iter()
            .map(|prober| longest_gap(&prober.join().expect("a prober ends")))
            .collect();
        by_shard.extend(gaps.iter().copied());
        let (median, worst) = median_and_worst(&mut gaps);
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
             longest wait of a writer {} ms; {} shards it led took no writes for {median} ms \
             (median), {worst} ms (worst); errors {errors:?}",
            window.as_millis(),
            gaps.len()
        );
        windows.push(window);
        cluster.start_node(victim);
        cluster.wait_until_ready();
    }
    let (median, worst) = median_and_worst(&mut windows);
    println!(
        "{durability}: longest wait of a writer, {trials} trials: median {median} ms, worst \
         {worst} ms"
    );
    let count = by_shard.len();
    let (median, worst) = median_and_worst(&mut by_shard);
    println!(
        "{durability}: a shard whose leader was killed took no writes, {trials} trials, {count} \
         shards: median {median} ms, worst {worst} ms"
    );
}

/// Waits until leaders are where they are preferred, and returns the shards that `node` leads.
fn await_leaderships(cluster: &Cluster, node: u16) -> Vec<usize> {
    let mut led = Vec::new();
    cluster.wait("leaders are spread", Duration::from_secs(60), || {
        let Some(shards) = cluster.shards(node) else { return false };
        let leads =
            |shard: &&serde_json::Value| shard["leader"]["node"].as_u64() == Some(u64::from(node));
        let numbers = shards.iter().filter(leads).filter_map(|shard| shard["shard"].as_u64());
        led = numbers.map(|number| number as usize).collect();
        (SHARDS / 3..=SHARDS / 3 + 1).contains(&(led.len() as u16))
    });
    led
}
