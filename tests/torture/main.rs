//! Torture: real processes, a network that misbehaves, clients of both protocols, and a checker
//! that knows nothing of the server but what its clients saw.
//!
//! - [`cluster`] starts and ends the processes; [`proxy`] is the network between them.
//! - [`schedule`] draws faults from a seed, [`nemesis`] commits them.
//! - [`clients`] work on [`keys`] through [`connection`]s; [`keeper`] replaces and judges the keys.
//! - [`record`] is what they share.
//! - [`pauses`] looks at one fault more closely: a leader that sleeps and wakes.
//!
//! A seed gives the same faults and the same wishes of the clients again, and not the same run:
//! processes and threads are not deterministic. So a failure prints everything there is to know
//! about it and keeps the nodes' logs.
//!
//! - `CORACLE_TORTURE_SECONDS`: how long faults happen, per run.
//! - `CORACLE_TORTURE_SEED`: what they are drawn from; `random` draws the seed from the clock.
//! - `CORACLE_TORTURE_DURABILITY`: `memory` or `fsync`, where only one of them is wanted.
//! - `CORACLE_TORTURE_BINARY`: another binary than the one just built.

mod ballast;
mod clients;
mod cluster;
mod connection;
mod damage;
#[path = "../integration/http.rs"]
mod http;
mod keeper;
mod keys;
mod nemesis;
mod pauses;
mod proxy;
mod random;
mod record;
mod schedule;
mod small_disk;
#[path = "../integration/wire.rs"]
#[allow(dead_code, reason = "shared with another test that uses more of it")]
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use clients::Directory;
use cluster::{ANY_CORE_PORT, Cluster, Durability, Shape, pause};
use keeper::{Findings, Keeper};
use nemesis::Nemesis;
use record::Record;
use schedule::Schedule;

const NODES: u16 = 3;
/// Seconds of faults where nobody says otherwise: enough for each frequent kind of fault to happen.
const SECONDS: u64 = 15;
/// The seed where nobody says otherwise.
const SEED: u64 = 1;
/// How long clients go on after everything was healed.
const AFTERMATH: Duration = Duration::from_secs(2);
/// How long replicas may take to come to the same index once nobody writes.
const AGREEMENT_DEADLINE: Duration = Duration::from_secs(30);
/// A shard that has a majority and answers nothing for so long does not serve.
const GAP_MAX: Duration = Duration::from_secs(30);

/// Clusters run one after the other.
static TURN: Mutex<()> = Mutex::new(());

/// Held while a cluster runs.
fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn seed() -> u64 {
    let from_clock = || {
        let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        elapsed.map_or(SEED, |elapsed| elapsed.as_nanos() as u64 % 1_000_000_000)
    };
    match std::env::var("CORACLE_TORTURE_SEED").as_deref() {
        Ok("random") => from_clock(),
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("no seed: {text}")),
        Err(_) => SEED,
    }
}

#[test]
fn memory_survives_the_loss_of_any_minority() {
    run(Durability::Memory, "lease");
}

#[test]
fn what_is_on_disks_survives_the_loss_of_all_processes() {
    run(Durability::Fsync, "lease");
}

fn run(durability: Durability, reads: &'static str) {
    let wanted = std::env::var("CORACLE_TORTURE_DURABILITY").ok();
    if wanted.is_some_and(|wanted| wanted != durability.name()) {
        return;
    }
    let _turn = turn();
    let seed = seed();
    let seconds = number("CORACLE_TORTURE_SECONDS").unwrap_or(SECONDS);
    let name = durability.name();
    println!("torture: seed {seed}, {seconds} s, durability {name}, reads {reads}");
    let extra = match durability {
        Durability::Memory => Vec::new(),
        // Small segments, so that logs are cut and their files recycled all the time.
        Durability::Fsync => vec!["--segment-bytes=256KiB".to_owned()],
    };
    let shape = Shape { nodes: NODES, shards: 8, durability, reads, extra };
    let directory = tempfile::Builder::new().prefix("coracle-torture-").tempdir();
    let directory = directory.expect("a temporary directory").keep();
    let small_disk = (durability == Durability::Fsync).then_some(NODES).filter(|node| {
        let mounted = small_disk::mount(&cluster::data_directory(&directory, *node));
        mounted.inspect_err(|error| println!("no disk is filled, for want of one: {error}")).is_ok()
    });
    let mut cluster = Cluster::start_in(directory, shape).expect("the cluster starts");
    let failures = torture(&mut cluster, seed, Duration::from_secs(seconds), small_disk);
    if !failures.is_empty() {
        cluster.keep_directory();
        panic!(
            "{} failures; the first:\n{}\nagain: CORACLE_TORTURE_SEED={seed} \
             CORACLE_TORTURE_SECONDS={seconds} CORACLE_TORTURE_DURABILITY={name} \
             cargo test --test torture -- --nocapture",
            failures.len(),
            failures[0]
        );
    }
}

/// A whole run. Returns what happened that must not.
fn torture(
    cluster: &mut Cluster,
    seed: u64,
    duration: Duration,
    small_disk: Option<u16>,
) -> Vec<String> {
    let Shape { nodes, shards, .. } = cluster.shape;
    if let Err(error) = cluster.await_whole() {
        return vec![error];
    }
    if let Err(error) = ballast::write(cluster.socket(1, ANY_CORE_PORT)) {
        return vec![format!("before anything went wrong: {error}")];
    }
    let record = Arc::new(Record::new(nodes, shards));
    let directory = Directory::of(cluster);
    let clients = clients::start(&record, &directory, seed);
    let keeper = Keeper::new(record.clone(), directory, nodes, seed);
    let keeping = std::thread::spawn(move || {
        let mut keeper = keeper;
        keeper.run();
        keeper
    });
    let mut schedule = Schedule::new(seed, &cluster.shape, small_disk);
    let mut nemesis = Nemesis::new(cluster, &record);
    nemesis.run(&mut schedule, Instant::now() + duration);
    if !record.has_failed() {
        nemesis.wait_until_all_serve();
        pause(AFTERMATH);
    }
    record.stop();
    for client in clients {
        client.join().expect("a client ends");
    }
    let mut keeper = keeping.join().expect("the keeper ends");
    if !record.has_failed() {
        keeper.finish();
    }
    report(&record, &nemesis, &keeper.findings);
    if !record.has_failed() {
        check_end(cluster, &record);
    }
    cluster.panics().into_iter().for_each(|panic| record.fail(panic));
    record.failures()
}

fn check_end(cluster: &mut Cluster, record: &Record) {
    for node in 1..=cluster.shape.nodes {
        match ballast::check(cluster.socket(node, ANY_CORE_PORT)) {
            Ok(count) => println!("node {node}: {count} keys written at first are all there"),
            Err(error) => record.fail(error),
        }
    }
    match record.judge_versions() {
        Ok(count) => println!("{count} writes took their places in their logs in order of time"),
        Err(error) => record.fail(error),
    }
    match agreement(cluster) {
        Ok(text) => println!("{text}"),
        Err(error) => record.fail(error),
    }
}

/// Waits until all replicas of each shard say the same.
fn agreement(cluster: &Cluster) -> Result<String, String> {
    let began = Instant::now();
    loop {
        let mut replicas: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
        for node in 1..=cluster.shape.nodes {
            for replica in cluster.replicas(node).unwrap_or_default() {
                replicas.entry(replica["shard"].as_u64().unwrap_or(0)).or_default().push(replica);
            }
        }
        let of = |replica: &Value| {
            ["applied", "digest", "keys", "bytes"].map(|field| replica[field].clone())
        };
        let is_same = |replicas: &Vec<Value>| {
            replicas.len() == usize::from(cluster.shape.nodes)
                && replicas.iter().all(|replica| of(replica) == of(&replicas[0]))
        };
        if replicas.len() == usize::from(cluster.shape.shards) && replicas.values().all(is_same) {
            let sum = |field: &str| -> u64 {
                replicas.values().filter_map(|replicas| replicas[0][field].as_u64()).sum()
            };
            return Ok(format!(
                "all replicas of {} shards agree: {} keys, {} bytes",
                replicas.len(),
                sum("keys"),
                sum("bytes")
            ));
        }
        if began.elapsed() > AGREEMENT_DEADLINE {
            let different = replicas.into_iter().filter(|(_, replicas)| !is_same(replicas));
            return Err(format!("replicas differ: {:#?}", different.collect::<Vec<_>>()));
        }
        pause(Duration::from_millis(200));
    }
}

fn report(record: &Record, nemesis: &Nemesis<'_>, findings: &Findings) {
    println!("faults: {:?}", nemesis.counts);
    println!("operations answered: {}", record.operations());
    println!("other outcomes: {:#?}", record.outcomes());
    println!(
        "judged: {} keys with {} operations ({} unknown) in {:.1} s; {} keys compared at the end",
        findings.keys,
        findings.operations,
        findings.unknown,
        findings.judging.as_secs_f64(),
        findings.settled
    );
    let mut worst: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
    for gap in record.gaps() {
        let took = (gap.to - gap.from) / 1_000_000;
        let (any, with_majority) = worst.entry(gap.shard).or_default();
        *any = took.max(*any);
        if nemesis.had_majority(&gap) {
            *with_majority = took.max(*with_majority);
            if took > GAP_MAX.as_millis() as u64 {
                record.fail(format!(
                    "shard {} had a majority and answered nothing for {took} ms, from {:.3}",
                    gap.shard,
                    gap.from as f64 / 1e9
                ));
            }
        }
    }
    println!("longest time without an answer by shard: (any, with a majority untouched), ms");
    println!("{worst:?}");
}
