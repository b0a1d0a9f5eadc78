//! A rolling restart by SIGTERM under load shows no client an error.
//!
//! What a client is here: it follows redirections, and when its node says goodbye it goes to the
//! next one. A goodbye is an end of the connection in order, which leaves requests unanswered only
//! if the node did not look at them; so the client repeats what was not answered, also what must
//! not happen twice. Every client increments a counter of its own and expects each sum to be the
//! one before plus one: neither a lost increment nor one done twice would pass. Error replies,
//! broken connections and answers that are late count as errors.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Shape};
use crate::wire::{Resp, Value};

/// Pause between two requests of a client.
const PERIOD: Duration = Duration::from_millis(2);
/// How long a client looks for a node that takes connections.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Seen {
    increments: u64,
    redirections: u64,
    goodbyes: u64,
    longest_wait: Duration,
}

struct Client {
    name: String,
    nodes: Vec<SocketAddr>,
    at: usize,
    connection: Resp,
    seen: Seen,
}

/// Connects to the first node that takes connections, beginning with number `at`.
fn connect(nodes: &[SocketAddr], at: &mut usize) -> Resp {
    let began = Instant::now();
    loop {
        match Resp::connect(nodes[*at % nodes.len()]) {
            Ok(resp) => return resp,
            // A node that is down takes no connection, so nothing was asked of it.
            Err(error) => assert!(began.elapsed() < CONNECT_DEADLINE, "nobody listens: {error}"),
        }
        *at += 1;
    }
}

impl Client {
    /// Increments once, whatever it takes.
    fn increment(&mut self) -> Result<i64, String> {
        loop {
            match self.connection.call(&[b"INCR", self.name.as_bytes()]) {
                Ok(Value::Integer(sum)) => return Ok(sum),
                Ok(Value::Error(error)) if error.starts_with("MOVED ") => {
                    self.seen.redirections += 1;
                    let address = error.split(' ').nth(2).and_then(|text| text.parse().ok());
                    let address: SocketAddr = address.ok_or(error)?;
                    match Resp::connect(address) {
                        Ok(resp) => self.connection = resp,
                        // The node stopped since; another one knows who leads now.
                        Err(_) => self.go_on(),
                    }
                }
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => self.go_on(),
                other => return Err(format!("{other:?}")),
            }
        }
    }

    fn go_on(&mut self) {
        self.seen.goodbyes += 1;
        self.at += 1;
        self.connection = connect(&self.nodes, &mut self.at);
    }
}

fn client(
    number: usize,
    nodes: Vec<SocketAddr>,
    stop: Arc<AtomicBool>,
) -> JoinHandle<Result<Seen, String>> {
    std::thread::spawn(move || {
        let mut at = number;
        let connection = connect(&nodes, &mut at);
        let name = format!("rolling:{number}:{}", nodes[0].port());
        let mut client = Client { name, nodes, at, connection, seen: Seen::default() };
        while !stop.load(Ordering::Relaxed) {
            let asked = Instant::now();
            let expected = client.seen.increments as i64 + 1;
            match client.increment() {
                Ok(sum) if sum == expected => client.seen.increments += 1,
                Ok(sum) => return Err(format!("{}: {sum} instead of {expected}", client.name)),
                Err(error) => return Err(format!("{}: {error}", client.name)),
            }
            client.seen.longest_wait = client.seen.longest_wait.max(asked.elapsed());
            std::thread::park_timeout(PERIOD);
        }
        Ok(client.seen)
    })
}

#[test]
fn rolling_restart_by_sigterm_under_load_shows_no_client_an_error() {
    roll("fsync");
}

#[test]
fn rolling_restart_without_disks_shows_no_client_an_error() {
    roll("memory");
}

fn roll(durability: &'static str) {
    let rounds: usize = std::env::var("CORACLE_TEST_ROLLING_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(1);
    let mut cluster = Cluster::start(Shape { shards: 16, durability, ..Shape::default() });
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for port in [7400, 7401] {
        let nodes: Vec<_> = (1..=3).map(|node| cluster.socket(node, port)).collect();
        clients.extend((0..6).map(|number| client(number, nodes.clone(), stop.clone())));
    }
    for _ in 0..rounds {
        for node in 1..=3 {
            let in_time = cluster.terminate(node, Duration::from_secs(15));
            assert!(in_time, "node {node} stops in time, with success");
            cluster.start_node(node);
            cluster.wait_until_ready();
        }
    }
    stop.store(true, Ordering::Relaxed);
    let seen: Vec<Seen> = clients
        .into_iter()
        .map(|client| client.join().expect("a client ends"))
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("a client saw an error: {error}"));
    let sum = |of: fn(&Seen) -> u64| seen.iter().map(of).sum::<u64>();
    let longest = seen.iter().map(|seen| seen.longest_wait).max().unwrap_or_default();
    let (goodbyes, redirections) = (sum(|seen| seen.goodbyes), sum(|seen| seen.redirections));
    println!(
        "{durability}: {rounds} rolling restarts: {} increments, each done once; {goodbyes} \
         goodbyes, {redirections} redirections, no error; longest wait {} ms",
        sum(|seen| seen.increments),
        longest.as_millis()
    );
    assert!(goodbyes >= 3, "every node said goodbye to somebody");
}

/// Another process has the node's port, so that the node waits for it, and does not serve.
#[test]
fn a_node_that_does_not_serve_yet_ends_in_order_on_sigterm() {
    let shape = Shape { nodes: 1, ..Shape::default() };
    let mut cluster = Cluster::start(shape);
    cluster.kill(1);
    let mut holder = None;
    // The kernel takes the listeners of a killed process apart late.
    cluster.wait("the port of the node is free", CONNECT_DEADLINE, || {
        holder = TcpListener::bind(cluster.socket(1, 7400)).ok();
        holder.is_some()
    });
    cluster.start_node(1);
    cluster.wait_until_it_handles_signals(1);
    assert!(cluster.terminate(1, Duration::from_secs(4)), "it ends with success, and at once");
}
