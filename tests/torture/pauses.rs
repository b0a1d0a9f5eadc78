//! A node that was stopped (SIGSTOP) while others wrote never serves a stale read when it wakes.
//!
//! Counters only ever grow, also by increments whose answers got lost. So a read is stale exactly
//! if it is smaller than a sum that was acknowledged before the read was sent. Reads are sent to
//! the node before it stops, while it is stopped (they wait in its sockets) and after it woke, on
//! any-core ports and core ports, with and without READONLY. In every second trial the node is cut
//! off from the others as well, until some time after it woke: then nobody tells it that it leads
//! no more, and only its own clock can.

use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::{ANY_CORE_PORT, CORE_PORT, Cluster, Durability, Shape, pairs, pause};
use crate::proxy::Rule;
use crate::wire::{self, Resp, Value};

/// How long a writer waits before it asks somebody else. Short, so that writers are not held up by
/// what they have asked the stopped node through another one.
const WRITER_PATIENCE: Duration = Duration::from_millis(250);
/// How long an answer may take after the node woke.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// Reads go on for so long before the stop and after the end of it.
const MARGIN: Duration = Duration::from_millis(300);
/// Time between two reads of a connection.
const READ_PERIOD: Duration = Duration::from_millis(15);
/// Time between two writes to a key.
const WRITE_PERIOD: Duration = Duration::from_millis(10);
/// How long a node may take to lead its share of the shards again.
const LEADING_DEADLINE: Duration = Duration::from_secs(60);
const KEYS: usize = 16;
const SHARDS: u16 = 8;

fn key(number: usize) -> String {
    format!("counter:{number}")
}

/// The sums that were acknowledged.
type Sums = Arc<Vec<AtomicU64>>;

/// Increments one counter until told to stop, through one node after the other.
fn writer(
    number: usize,
    nodes: Vec<SocketAddr>,
    sums: Sums,
    stop: Arc<AtomicBool>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut node = number;
        let mut connection: Option<Resp> = None;
        while !stop.load(Ordering::Relaxed) {
            let Some(open) = connection.as_mut() else {
                node += 1;
                let address = nodes[node % nodes.len()];
                connection = wire::connect(address, WRITER_PATIENCE).ok().map(Resp::over);
                continue;
            };
            match open.call(&[b"INCR", key(number).as_bytes()]) {
                Ok(Value::Integer(sum)) => {
                    sums[number].fetch_max(sum as u64, Ordering::SeqCst);
                    pause(WRITE_PERIOD);
                }
                Ok(_) => pause(WRITE_PERIOD),
                Err(_) => connection = None,
            }
        }
    })
}

/// A connection on which reads are sent without waiting for their answers.
struct Reader {
    stream: TcpStream,
    /// For each read under way: its key, and what was acknowledged before it was sent.
    sent: Vec<(usize, u64)>,
    label: String,
}

impl Reader {
    fn open(label: &str, address: SocketAddr, is_readonly: bool) -> Self {
        let stream = wire::connect(address, ANSWER_DEADLINE).expect("the node accepts connections");
        let mut reader =
            Reader { stream, sent: Vec::new(), label: format!("{label} of {address}") };
        if is_readonly {
            reader.label.push_str(", READONLY");
            let mut resp = Resp::over(reader.stream.try_clone().expect("a handle"));
            assert!(resp.command("READONLY").is_ok());
        }
        reader
    }

    fn send(&mut self, number: usize, sums: &Sums) {
        let floor = sums[number].load(Ordering::SeqCst);
        let request = Resp::encode(&[b"GET", key(number).as_bytes()]);
        self.stream.write_all(&request).expect("a read is sent");
        self.sent.push((number, floor));
    }

    /// Reads all answers. Returns how many gave a value.
    fn judge(self) -> usize {
        let mut resp = Resp::over(self.stream);
        let mut values = 0;
        for (place, (number, floor)) in self.sent.into_iter().enumerate() {
            let reply = match resp.receive() {
                Ok(reply) => reply,
                // A node that was away for long may find its connections given up.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{}: no answer to read {place}: {error}", self.label),
            };
            let found: u64 = match &reply {
                Value::Bulk(bytes) => {
                    String::from_utf8_lossy(bytes).parse().expect("a counter is a number")
                }
                Value::Nil => 0,
                Value::Error(error) => {
                    let class = error.split(' ').next().unwrap_or_default();
                    let known = ["MOVED", "TRYAGAIN", "CLUSTERDOWN", "UNKNOWN"];
                    assert!(known.contains(&class), "{}: {error}", self.label);
                    continue;
                }
                other => panic!("{}: {other:?}", self.label),
            };
            assert!(
                found >= floor,
                "stale read: {} answered {found} for {} to read {place}, sent when {floor} was \
                 acknowledged",
                self.label,
                key(number)
            );
            values += 1;
        }
        values
    }
}

/// Stops a node for `duration` and reads from it before, meanwhile and afterwards. Returns the
/// number of reads sent while it was stopped, and how many values all reads gave.
fn trial(
    cluster: &mut Cluster,
    victim: u16,
    duration: Duration,
    is_cut_off: bool,
    sums: &Sums,
) -> (usize, usize) {
    let (any_core, core) =
        (cluster.socket(victim, ANY_CORE_PORT), cluster.socket(victim, CORE_PORT));
    let open = || {
        vec![
            Reader::open("any-core port", any_core, false),
            Reader::open("core port", core, false),
            Reader::open("core port", core, true),
        ]
    };
    let mut readers = open();
    let read_for = |readers: &mut Vec<Reader>, duration: Duration| {
        let until = Instant::now() + duration;
        let mut number = 0;
        while Instant::now() < until {
            for reader in readers.iter_mut() {
                number += 1;
                reader.send(number % KEYS, sums);
            }
            std::thread::park_timeout(READ_PERIOD);
        }
        number
    };
    let cut = |cluster: &Cluster, rule: Rule| {
        for (from, to) in pairs(cluster.shape.nodes) {
            if is_cut_off && (from == victim || to == victim) {
                cluster.proxy.set(from, to, rule);
            }
        }
    };
    read_for(&mut readers, MARGIN);
    cluster.stop(victim);
    cut(cluster, Rule::Hold);
    let meanwhile = read_for(&mut readers, duration);
    cluster.carry_on(victim);
    read_for(&mut readers, MARGIN);
    readers.extend(open());
    read_for(&mut readers, MARGIN);
    cut(cluster, Rule::Pass);
    (meanwhile, readers.into_iter().map(Reader::judge).sum())
}

/// The durations of so many trials: mostly short, some long, one in fifty half a minute.
fn durations(trials: usize) -> Vec<Duration> {
    let of = |trial: usize| match trial % 50 {
        49 => 30_000,
        // Multiplying by 37 visits all remainders in an order that is not that of their size.
        place if place % 10 == 9 => 4_000 + (trial * 37 % 60) as u64 * 100,
        place if place % 3 == 2 => 1_000 + (trial * 37 % 30) as u64 * 100,
        _ => 200 + (trial * 37 % 80) as u64 * 10,
    };
    (0..trials).map(|trial| Duration::from_millis(of(trial))).collect()
}

/// Waits until a node leads its share of the shards.
fn await_leadership(cluster: &Cluster, node: u16) {
    let began = Instant::now();
    let leads =
        |shard: &&serde_json::Value| shard["leader"]["node"].as_u64() == Some(u64::from(node));
    let share = usize::from(SHARDS / cluster.shape.nodes);
    let has_share = || {
        let document = cluster.document(node, "/v1/shards?local=true")?;
        Some(document["shards"].as_array()?.iter().filter(leads).count() >= share)
    };
    while has_share() != Some(true) {
        assert!(began.elapsed() < LEADING_DEADLINE, "node {node} does not lead again");
        pause(WRITE_PERIOD);
    }
}

fn stop_and_read(reads: &'static str) {
    let trials: usize = std::env::var("CORACLE_PAUSE_TRIALS")
        .ok()
        .and_then(|trials| trials.parse().ok())
        .unwrap_or(4);
    let _turn = crate::turn();
    let shape = Shape {
        nodes: 3,
        shards: SHARDS,
        durability: Durability::Memory,
        reads,
        extra: Vec::new(),
    };
    let mut cluster = Cluster::start(shape).expect("the cluster starts");
    cluster.await_whole().expect("the cluster is ready in time");
    let sums: Sums = Arc::new((0..KEYS).map(|_| AtomicU64::new(0)).collect());
    let stop = Arc::new(AtomicBool::new(false));
    let nodes: Vec<_> = (1..=3).map(|node| cluster.socket(node, ANY_CORE_PORT)).collect();
    let start_writer = |number| writer(number, nodes.clone(), sums.clone(), stop.clone());
    let writers: Vec<_> = (0..KEYS).map(start_writer).collect();
    let (mut meanwhile, mut values) = (0, 0);
    for (place, duration) in durations(trials).into_iter().enumerate() {
        let victim = (place % 3) as u16 + 1;
        await_leadership(&cluster, victim);
        let is_cut_off = place % 2 == 1;
        let (sent, given) = trial(&mut cluster, victim, duration, is_cut_off, &sums);
        meanwhile += sent;
        values += given;
    }
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().expect("a writer ends"));
    let written: u64 = sums.iter().map(|sum| sum.load(Ordering::SeqCst)).sum();
    println!(
        "--reads {reads}, {trials} trials: {written} increments, {meanwhile} reads sent to a \
         stopped node, {values} reads gave values, none of them stale"
    );
    assert!(values > 0 && written > 0);
}

#[test]
fn paused_leader_never_serves_a_stale_read_by_lease() {
    stop_and_read("lease");
}

#[test]
fn paused_leader_never_serves_a_stale_read_by_quorum() {
    stop_and_read("quorum");
}
