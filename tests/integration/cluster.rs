//! A cluster of `coracle serve` processes on a loopback network of its own.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http;
use crate::wire::Resp;

/// Clusters run one after the other.
static TURN: Mutex<()> = Mutex::new(());
static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// How long a cluster may take to start on a busy machine.
pub const START_DEADLINE: Duration = Duration::from_secs(60);

/// What a cluster looks like.
#[derive(Clone, Debug)]
pub struct Shape {
    pub nodes: u16,
    pub cores: u16,
    pub shards: u16,
    pub durability: &'static str,
    pub memory: &'static str,
    pub extra: Vec<String>,
}

impl Default for Shape {
    fn default() -> Self {
        let (durability, memory) = ("memory", "256MiB");
        Shape { nodes: 3, cores: 1, shards: 8, durability, memory, extra: Vec::new() }
    }
}

/// A running cluster. Its processes and its directory end with it.
pub struct Cluster {
    pub shape: Shape,
    network: u32,
    directory: tempfile::TempDir,
    nodes: Vec<Option<Child>>,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts all nodes, and waits until each of them is ready.
    pub fn start(shape: Shape) -> Self {
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let network = std::process::id() % 20_000 * 3 + NETWORKS.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let nodes = (0..shape.nodes).map(|_| None).collect();
        let mut cluster = Cluster { shape, network, directory, nodes, _turn: turn };
        for node in 1..=cluster.shape.nodes {
            cluster.start_node(node);
        }
        cluster.wait_until_ready();
        cluster
    }

    pub fn address(&self, node: u16) -> IpAddr {
        let [_, _, high, low] = (self.network % 0xffff).to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(127, 32 + (high >> 1), low, (high & 1) << 7 | node as u8))
    }

    pub fn socket(&self, node: u16, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(node), port)
    }

    pub fn log_path(&self, node: u16) -> PathBuf {
        self.directory.path().join(format!("node-{node}.log"))
    }

    /// The data directory of a node. Nothing is in it with `durability` memory.
    pub fn data_path(&self, node: u16) -> PathBuf {
        self.directory.path().join(format!("data-{node}"))
    }

    pub fn start_node(&mut self, node: u16) {
        let members: Vec<_> =
            (1..=self.shape.nodes).map(|n| format!("{n}={}", self.address(n))).collect();
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.log_path(node))
            .expect("a log file");
        let child = Command::new(env!("CARGO_BIN_EXE_coracle"))
            .arg("serve")
            .args(["--node-id", &node.to_string(), "--members", &members.join(",")])
            .args(["--cores", &self.shape.cores.to_string(), "--pin", "float"])
            .args(["--shards", &self.shape.shards.to_string(), "--memory", self.shape.memory])
            .args(["--durability", self.shape.durability])
            .arg("--data-dir")
            .arg(self.data_path(node))
            .args(&self.shape.extra)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a handle"))
            .stderr(log)
            .spawn()
            .expect("the server starts");
        self.nodes[usize::from(node) - 1] = Some(child);
    }

    /// SIGKILL.
    pub fn kill(&mut self, node: u16) {
        let mut child = self.nodes[usize::from(node) - 1].take().expect("a running node");
        child.kill().expect("the node can be killed");
        child.wait().expect("the node ends");
    }

    pub fn process_id(&self, node: u16) -> i32 {
        self.nodes[usize::from(node) - 1].as_ref().expect("a running node").id() as i32
    }

    /// SIGTERM; returns whether the node ended with success within `deadline`.
    pub fn terminate(&mut self, node: u16, deadline: Duration) -> bool {
        let mut child = self.nodes[usize::from(node) - 1].take().expect("a running node");
        // SAFETY: a signal to a child that has not been waited for, so the id is still its own.
        unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
        let start = Instant::now();
        while start.elapsed() < deadline {
            if let Some(status) = child.try_wait().expect("the node can be waited for") {
                return status.success();
            }
            pause();
        }
        child.kill().expect("the node can be killed");
        child.wait().expect("the node ends");
        false
    }

    /// Waits until a node that was just started handles SIGTERM itself.
    pub fn wait_until_it_handles_signals(&self, node: u16) {
        let path = format!("/proc/{}/status", self.process_id(node));
        self.wait("SIGTERM has a handler", START_DEADLINE, || {
            let status = std::fs::read_to_string(&path).unwrap_or_default();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            caught.is_some_and(|mask| mask >> (libc::SIGTERM - 1) & 1 == 1)
        });
    }

    pub fn running(&self) -> Vec<u16> {
        (1..=self.shape.nodes).filter(|n| self.nodes[usize::from(*n) - 1].is_some()).collect()
    }

    pub fn wait_until_ready(&self) {
        self.wait("every running node is ready", START_DEADLINE, || {
            self.running().iter().all(|&node| {
                http::get(self.socket(node, 7480), "/readyz").is_some_and(|(code, _)| code == 200)
            })
        });
    }

    /// `/v1/shards` of a node.
    pub fn shards(&self, node: u16) -> Option<Vec<Value>> {
        let (code, body) = http::get(self.socket(node, 7480), "/v1/shards")?;
        let value: Value = serde_json::from_str(&body).ok()?;
        (code == 200).then(|| value["shards"].as_array().cloned())?
    }

    /// Waits for a condition, and shows the nodes' logs if it does not come true.
    pub fn wait(&self, what: &str, deadline: Duration, mut is_true: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_true() {
            if start.elapsed() > deadline {
                for node in 1..=self.shape.nodes {
                    let log = std::fs::read_to_string(self.log_path(node)).unwrap_or_default();
                    let lines: Vec<_> = log.lines().collect();
                    let tail = lines[lines.len().saturating_sub(30)..].join("\n");
                    eprintln!("--- end of the log of node {node}\n{tail}");
                    let readiness = http::get(self.socket(node, 7480), "/readyz");
                    eprintln!("--- readiness of node {node}: {readiness:?}");
                }
                panic!("not within {deadline:?}: {what}");
            }
            pause();
        }
    }

    pub fn resp(&self, node: u16, port: u16) -> Resp {
        Resp::connect(self.socket(node, port)).expect("the node accepts connections")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The step of a wait for a condition.
pub fn pause() {
    std::thread::park_timeout(Duration::from_millis(10));
}
