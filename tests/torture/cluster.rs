//! The processes under test: nodes of the built binary on a loopback network of their own, every
//! link between them through a [`Proxy`].
//!
//! Everything that is started is ended by its id, also when the test panics; should the test
//! itself be killed, the kernel ends them with it. The directory with the nodes' logs stays only
//! when something went wrong.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http;
use crate::proxy::{Proxy, Route};
use crate::small_disk;

/// The port that serves any key on any core.
pub const ANY_CORE_PORT: u16 = 7400;
/// The port of core 0.
pub const CORE_PORT: u16 = 7401;
const PEER_PORT: u16 = 7501;
const HTTP_PORT: u16 = 7480;
/// Cores a node may have; so many peer ports are proxied.
pub const CORES_MAX: u16 = 3;
/// How long a cluster may take to start on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long a node may take from SIGTERM to its end.
const TERMINATION_DEADLINE: Duration = Duration::from_secs(15);

static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// What an acknowledged write has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The memory of a majority.
    Memory,
    /// The disks of a majority.
    Fsync,
}

impl Durability {
    /// As the command line spells it.
    pub fn name(self) -> &'static str {
        match self {
            Durability::Memory => "memory",
            Durability::Fsync => "fsync",
        }
    }
}

/// What a cluster looks like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Number of nodes, at most 9.
    pub nodes: u16,
    /// Number of shards.
    pub shards: u16,
    /// What it keeps where.
    pub durability: Durability,
    /// `lease` or `quorum`.
    pub reads: &'static str,
    /// More arguments for every node.
    pub extra: Vec<String>,
}

/// A node's process.
struct Node {
    child: Option<Child>,
    cores: u16,
    is_stopped: bool,
}

/// The processes, and the network between them.
pub struct Cluster {
    /// As it was asked for.
    pub shape: Shape,
    /// The network.
    pub proxy: Proxy,
    network: u32,
    directory: PathBuf,
    nodes: Vec<Node>,
    keeps_directory: bool,
}

impl Cluster {
    /// Starts the network and all nodes, with a core each. They are not ready yet.
    ///
    /// The thread that calls this has to outlive the cluster: the kernel takes its end for the
    /// end of the test.
    pub fn start(shape: Shape) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("coracle-torture-").tempdir()?.keep();
        Self::start_in(directory, shape)
    }

    /// The same in a directory that is there already, which is removed at the end.
    pub fn start_in(directory: PathBuf, shape: Shape) -> io::Result<Self> {
        let network = std::process::id() * 4 + NETWORKS.fetch_add(1, Ordering::Relaxed);
        let nodes = 1..=shape.nodes;
        let mut routes = Vec::new();
        for (from, to) in pairs(shape.nodes) {
            let (listen, target) = (link_address(network, from, to), own_address(network, to));
            routes.push(Route { from, to, listen, target });
        }
        let mut ports: Vec<u16> = (0..CORES_MAX).map(|core| PEER_PORT + core).collect();
        ports.push(HTTP_PORT);
        let proxy = Proxy::start(&routes, &ports)?;
        let slots = nodes.clone().map(|_| Node { child: None, cores: 1, is_stopped: false });
        let nodes_of = slots.collect();
        let mut cluster =
            Cluster { shape, proxy, network, directory, nodes: nodes_of, keeps_directory: false };
        for node in nodes {
            cluster.start_node(node, 1)?;
        }
        Ok(cluster)
    }

    /// Where a node listens for clients.
    pub fn socket(&self, node: u16, port: u16) -> SocketAddr {
        SocketAddr::new(own_address(self.network, node), port)
    }

    /// What stands for what in redirections: nodes name each other by the addresses of their
    /// links, which only nodes may use.
    pub fn translations(&self) -> Vec<(IpAddr, IpAddr)> {
        let links = pairs(self.shape.nodes);
        links
            .map(|(a, b)| (link_address(self.network, a, b), own_address(self.network, b)))
            .collect()
    }

    /// The data directory of a node.
    pub fn data_directory(&self, node: u16) -> PathBuf {
        data_directory(&self.directory, node)
    }

    fn log_path(&self, node: u16) -> PathBuf {
        self.directory.join(format!("node-{node}.log"))
    }

    /// Keeps the directory after the end.
    pub fn keep_directory(&mut self) {
        self.keeps_directory = true;
    }

    /// Starts a node that does not run.
    pub fn start_node(&mut self, node: u16, cores: u16) -> io::Result<()> {
        let address_of = |other: u16| match other == node {
            true => own_address(self.network, node),
            false => link_address(self.network, node, other),
        };
        let members: Vec<_> =
            (1..=self.shape.nodes).map(|other| format!("{other}={}", address_of(other))).collect();
        let log = File::options().append(true).create(true).open(self.log_path(node))?;
        let mut command = Command::new(binary());
        command
            .arg("serve")
            .args(["--node-id", &node.to_string(), "--members", &members.join(",")])
            .args(["--cores", &cores.to_string(), "--pin", "float"])
            .args(["--shards", &self.shape.shards.to_string(), "--memory", "256MiB"])
            .args(["--durability", self.shape.durability.name(), "--reads", self.shape.reads])
            .args(["--log", "info", "--log-format", "json"])
            .arg("--data-dir")
            .arg(self.data_directory(node))
            .args(&self.shape.extra)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and
        // touches no memory of ours.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let child = command.spawn()?;
        self.nodes[usize::from(node) - 1] = Node { child: Some(child), cores, is_stopped: false };
        Ok(())
    }

    fn node(&mut self, node: u16) -> &mut Node {
        &mut self.nodes[usize::from(node) - 1]
    }

    /// Number of cores the node was last started with.
    pub fn cores(&self, node: u16) -> u16 {
        self.nodes[usize::from(node) - 1].cores
    }

    /// Whether the node was started and not ended since.
    pub fn is_started(&self, node: u16) -> bool {
        self.nodes[usize::from(node) - 1].child.is_some()
    }

    /// The nodes that ended without being told to, with how.
    pub fn ended_by_themselves(&mut self) -> Vec<(u16, ExitStatus)> {
        let mut ended = Vec::new();
        for (place, node) in self.nodes.iter_mut().enumerate() {
            if let Some(child) = node.child.as_mut()
                && let Ok(Some(status)) = child.try_wait()
            {
                ended.push((place as u16 + 1, status));
                node.child = None;
            }
        }
        ended
    }

    /// SIGKILL, to one that runs, is stopped, or does not run.
    pub fn kill(&mut self, node: u16) {
        let slot = self.node(node);
        slot.is_stopped = false;
        if let Some(mut child) = slot.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP.
    pub fn stop(&mut self, node: u16) {
        self.signal(node, libc::SIGSTOP);
        self.node(node).is_stopped = true;
    }

    /// SIGCONT.
    pub fn carry_on(&mut self, node: u16) {
        self.signal(node, libc::SIGCONT);
        self.node(node).is_stopped = false;
    }

    /// The nodes that are stopped.
    pub fn stopped(&self) -> Vec<u16> {
        (1..=self.shape.nodes).filter(|n| self.nodes[usize::from(*n) - 1].is_stopped).collect()
    }

    fn signal(&mut self, node: u16, signal: i32) {
        if let Some(child) = &self.node(node).child {
            // SAFETY: a child that was not waited for, so the id is still its own.
            unsafe { libc::kill(child.id() as i32, signal) };
        }
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// If it takes too long or the node does not end with success.
    pub fn terminate(&mut self, node: u16) -> Result<Duration, String> {
        self.await_handlers(node);
        self.signal(node, libc::SIGTERM);
        let Some(mut child) = self.node(node).child.take() else { return Ok(Duration::ZERO) };
        let began = Instant::now();
        while began.elapsed() < TERMINATION_DEADLINE {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(began.elapsed()),
                Ok(Some(status)) => return Err(format!("node {node} ended on SIGTERM: {status}")),
                Ok(None) => pause(Duration::from_millis(10)),
                Err(error) => return Err(format!("node {node} cannot be waited for: {error}")),
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(format!("node {node} did not end within {TERMINATION_DEADLINE:?} of SIGTERM"))
    }

    /// Waits until a node that was just started handles SIGTERM itself: before that the kernel ends
    /// it, as any process.
    fn await_handlers(&mut self, node: u16) {
        let Some(child) = &self.node(node).child else { return };
        let path = format!("/proc/{}/status", child.id());
        let began = Instant::now();
        while began.elapsed() < TERMINATION_DEADLINE {
            let status = std::fs::read_to_string(&path).unwrap_or_default();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            if caught.is_none_or(|mask| mask >> (libc::SIGTERM - 1) & 1 == 1) {
                return;
            }
            pause(Duration::from_millis(1));
        }
    }

    /// A document of a node's HTTP port.
    pub fn document(&self, node: u16, path: &str) -> Option<Value> {
        let (code, body) = http::get(self.socket(node, HTTP_PORT), path)?;
        (code == 200).then(|| serde_json::from_str(&body).ok())?
    }

    /// Whether a node says that it is ready.
    pub fn is_ready(&self, node: u16) -> bool {
        self.document(node, "/readyz").is_some()
    }

    /// Asks a node to hand a shard over, and says whether that was done.
    pub fn transfer(&self, ask: u16, shard: u16, to: u16) -> bool {
        let body = format!("{{\"to\":{to}}}");
        let request = format!(
            "POST /v1/shards/{shard}/transfer HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        http::ask(self.socket(ask, HTTP_PORT), &request).is_some_and(|(code, _)| code == 200)
    }

    /// What a node says of its own replicas.
    pub fn replicas(&self, node: u16) -> Option<Vec<Value>> {
        let document = self.document(node, "/v1/replicas?local=true")?;
        document["replicas"].as_array().cloned()
    }

    /// Whether every shard's replica on `node` votes and has applied what it knows is committed.
    pub fn is_whole(&self, node: u16) -> bool {
        let votes = |replica: &Value| {
            matches!(replica["role"].as_str(), Some("leader" | "follower"))
                && replica["applied"].as_u64() == replica["commit"].as_u64()
        };
        let shards = usize::from(self.shape.shards);
        self.is_ready(node)
            && self
                .replicas(node)
                .is_some_and(|replicas| replicas.len() == shards && replicas.iter().all(votes))
    }

    /// Waits until every node is whole.
    ///
    /// # Errors
    /// If that takes too long for a start.
    pub fn await_whole(&self) -> Result<(), String> {
        let began = Instant::now();
        while !(1..=self.shape.nodes).all(|node| self.is_whole(node)) {
            if began.elapsed() > START_DEADLINE {
                return Err("the cluster is not ready in time".into());
            }
            pause(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The last lines of a node's log.
    pub fn log_tail(&self, node: u16, lines: usize) -> String {
        let log = std::fs::read(self.log_path(node)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let all: Vec<_> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Lines of the logs that tell of a panic.
    pub fn panics(&self) -> Vec<String> {
        let mut panics = Vec::new();
        for node in 1..=self.shape.nodes {
            let log = std::fs::read(self.log_path(node)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines = log.lines().filter(|line| line.contains("panicked at"));
            panics.extend(lines.map(|line| format!("node {node}: {line}")));
        }
        panics
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(child) = node.child.as_mut() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if self.keeps_directory || std::thread::panicking() {
            println!("the nodes' logs and data are in {}", self.directory.display());
        } else {
            for node in 1..=self.shape.nodes {
                small_disk::unmount(&self.data_directory(node));
            }
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

/// Where a node's data is below the directory of a cluster.
pub fn data_directory(directory: &Path, node: u16) -> PathBuf {
    directory.join(format!("data-{node}"))
}

/// The binary under test: the one just built, unless another one is named.
fn binary() -> PathBuf {
    let named = std::env::var_os("CORACLE_TORTURE_BINARY");
    named.unwrap_or_else(|| env!("CARGO_BIN_EXE_coracle").into()).into()
}

/// All ordered pairs of different nodes.
pub fn pairs(nodes: u16) -> impl Iterator<Item = (u16, u16)> {
    (1..=nodes).flat_map(move |from| (1..=nodes).map(move |to| (from, to))).filter(|(a, b)| a != b)
}

/// Waits without doing anything.
pub fn pause(duration: Duration) {
    let until = Instant::now() + duration;
    while let Some(left) = until.checked_duration_since(Instant::now())
        && !left.is_zero()
    {
        std::thread::park_timeout(left);
    }
}

fn address(network: u32, last: u16) -> IpAddr {
    let [_, _, high, low] = (network % 8_192).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 96 + high, low, last as u8))
}

fn own_address(network: u32, node: u16) -> IpAddr {
    address(network, node)
}

/// The address under which `from` knows `to`.
fn link_address(network: u32, from: u16, to: u16) -> IpAddr {
    address(network, from * 16 + to)
}
