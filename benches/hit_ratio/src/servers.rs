//! Processes of the contestants: started on loopback addresses with empty directories, waited for,
//! counted, killed. What one of them writes goes into a file that is shown if it does not start.
//!
//! All of them end with the value that holds them. If this program is killed they outlive it, and
//! the next run refuses to take them for its own; an interrupt from a terminal reaches them too.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::replay::Servers;
use crate::wire::{Connection, Protocol, WireError};

/// How long a contestant may take to start.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long an address may be taken by a contestant that has ended.
const FREE_DEADLINE: Duration = Duration::from_secs(3);
/// How long one question to a server may take.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// The pause between two looks at a server that starts.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// How much of a server's output is shown.
const SHOWN_BYTES: usize = 2_000;

/// Port of redis-server.
const REDIS_PORT: u16 = 17_379;
/// Port of memcached.
const MEMCACHED_PORT: u16 = 17_211;
/// Coracle's port that takes any key.
const CORACLE_PORT: u16 = 7_400;
/// Coracle's port for HTTP.
const CORACLE_HTTP_PORT: u16 = 7_480;

/// Why a contestant could not take part.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A process could not be started.
    #[error("{program} does not start: {source}")]
    Spawn {
        /// Which program.
        program: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A directory or file could not be made.
    #[error("no directory for a server: {0}")]
    Directory(#[from] std::io::Error),
    /// Somebody else serves there, for instance what a killed run has left behind.
    #[error("{0} is taken: somebody else listens there")]
    Taken(SocketAddr),
    /// It does not come up in time.
    #[error("not within {} s: {what}; the server says:\n{output}", START_DEADLINE.as_secs())]
    NotReady {
        /// What did not come.
        what: String,
        /// The end of what it wrote.
        output: String,
    },
    /// It does not answer a question.
    #[error("{question} is not answered: {source}")]
    Ask {
        /// Which.
        question: &'static str,
        /// What went wrong.
        source: WireError,
    },
    /// It answers a question with something else.
    #[error("{question} is answered by `{answer}`")]
    Answer {
        /// Which.
        question: &'static str,
        /// The answer.
        answer: String,
    },
}

/// What kind of server, with how many processes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum System {
    /// redis-server, with so many replicas.
    Redis {
        /// Replicas beside the primary.
        replicas: u8,
    },
    /// memcached.
    Memcached,
    /// Coracle.
    Coracle {
        /// Nodes, 1 or 3.
        nodes: u8,
        /// More arguments of `coracle serve`.
        arguments: Vec<String>,
    },
}

/// How Coracle is started.
#[derive(Clone, Debug)]
pub struct CoracleSettings {
    /// The program.
    pub binary: PathBuf,
    /// Cores of each node.
    pub cores: u16,
    /// Shards.
    pub shards: u16,
    /// `memory` or `fsync`.
    pub durability: String,
    /// Arguments for all contestants.
    pub arguments: Vec<String>,
}

/// The processes of a contestant.
pub struct Running {
    system: System,
    processes: Mutex<Vec<Child>>,
    hosts: Vec<Ipv4Addr>,
    directory: TempDir,
}

impl System {
    /// The smallest step by which its memory is set, in bytes.
    pub fn memory_step_bytes(&self) -> u64 {
        match self {
            System::Memcached => 1 << 20,
            System::Redis { .. } | System::Coracle { .. } => 1,
        }
    }

    /// What an entry costs besides its key and value, roughly: where calibration begins.
    pub fn overhead_guess_bytes(&self) -> u64 {
        match self {
            System::Redis { .. } => 90,
            System::Memcached => 64,
            System::Coracle { .. } => 128,
        }
    }

    /// The program, if it is not Coracle.
    pub fn program(&self) -> Option<&'static str> {
        match self {
            System::Redis { .. } => Some("redis-server"),
            System::Memcached => Some("memcached"),
            System::Coracle { .. } => None,
        }
    }

    fn protocol(&self) -> Protocol {
        match self {
            System::Memcached => Protocol::Memcached,
            System::Redis { .. } | System::Coracle { .. } => Protocol::Resp,
        }
    }

    fn port(&self) -> u16 {
        match self {
            System::Redis { .. } => REDIS_PORT,
            System::Memcached => MEMCACHED_PORT,
            System::Coracle { .. } => CORACLE_PORT,
        }
    }

    fn nodes(&self) -> u8 {
        match self {
            System::Redis { replicas } => replicas + 1,
            System::Memcached => 1,
            System::Coracle { nodes, .. } => *nodes,
        }
    }

    /// Starts it, empty, with so much memory for each process, and waits until it serves.
    /// `network` are the first three numbers of the addresses.
    ///
    /// # Errors
    /// If it does not start, or does not serve in time.
    pub fn start(
        &self,
        memory_bytes: u64,
        value_bytes: usize,
        network: [u8; 3],
        coracle: &CoracleSettings,
    ) -> Result<Running, ServerError> {
        let [a, b, c] = network;
        let running = Running {
            system: self.clone(),
            processes: Mutex::new(Vec::new()),
            hosts: (1..=self.nodes()).map(|node| Ipv4Addr::new(a, b, c, node)).collect(),
            directory: TempDir::with_prefix("coracle-hit-ratio-")?,
        };
        for node in 0..usize::from(self.nodes()) {
            let address = running.address(node);
            wait_until_free(address)?;
            let data = running.directory.path().join(format!("data-{node}"));
            fs::create_dir(&data)?;
            let command = match self {
                System::Redis { .. } => redis(&running.hosts, node, memory_bytes, &data),
                System::Memcached => memcached(&running.hosts, memory_bytes),
                System::Coracle { arguments, .. } => {
                    let mut command = coracle.command(&running.hosts, node, memory_bytes, &data);
                    // Each shard has to have room for two of the largest values.
                    command.args(["--value-bytes-max", &value_bytes.max(1).to_string()]);
                    command.args(arguments);
                    command
                }
            };
            running.spawn(command, node)?;
        }
        running.wait_until_ready()?;
        Ok(running)
    }
}

/// Nobody may listen where a server is to be. The last contestant may do so for a moment after its
/// end: the kernel takes back what an io_uring holds behind the scenes.
fn wait_until_free(address: SocketAddr) -> Result<(), ServerError> {
    let deadline = Instant::now() + FREE_DEADLINE;
    while TcpStream::connect_timeout(&address, ASK_DEADLINE).is_ok() {
        if Instant::now() > deadline {
            return Err(ServerError::Taken(address));
        }
        thread::sleep(LOOK_PAUSE);
    }
    Ok(())
}

fn redis(hosts: &[Ipv4Addr], node: usize, memory_bytes: u64, data: &Path) -> Command {
    let mut command = Command::new("redis-server");
    command.args(["--port", &REDIS_PORT.to_string(), "--bind", &hosts[node].to_string()]);
    command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
    command.args(["--protected-mode", "no"]);
    command.arg("--dir").arg(data);
    command.args(["--maxmemory", &memory_bytes.to_string(), "--maxmemory-policy", "allkeys-lru"]);
    if node > 0 {
        command.args(["--replicaof", &hosts[0].to_string(), &REDIS_PORT.to_string()]);
        command.args(["--repl-diskless-load", "on-empty-db", "--repl-diskless-sync-delay", "0"]);
    }
    command
}

fn memcached(hosts: &[Ipv4Addr], memory_bytes: u64) -> Command {
    let mut command = Command::new("memcached");
    // -R: requests of one connection that are answered in a row, which a batch should be.
    command.args(["-u", "root", "-U", "0", "-R", "1000"]);
    command.args(["-l", &hosts[0].to_string(), "-p", &MEMCACHED_PORT.to_string()]);
    // The largest item has to be at most half of the memory, and that may be one mebibyte.
    command.args(["-m", &(memory_bytes >> 20).max(1).to_string(), "-I", "512k"]);
    command
}

impl CoracleSettings {
    fn command(&self, hosts: &[Ipv4Addr], node: usize, memory: u64, data: &Path) -> Command {
        let members: Vec<String> =
            (1..).zip(hosts).map(|(node, host)| format!("{node}={host}")).collect();
        let mut command = Command::new(&self.binary);
        command.args(["serve", "--pin", "float", "--node-id", &(node + 1).to_string()]);
        command.args(["--members", &members.join(","), "--cores", &self.cores.to_string()]);
        command.args(["--shards", &self.shards.to_string(), "--memory", &memory.to_string()]);
        command.args(["--durability", &self.durability]).arg("--data-dir").arg(data);
        command.args(&self.arguments);
        command
    }
}

impl Running {
    fn spawn(&self, mut command: Command, node: usize) -> Result<(), ServerError> {
        let output = File::create(self.output_file(node))?;
        let program = command.get_program().to_string_lossy().into_owned();
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().map_err(|source| ServerError::Spawn { program, source })?;
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).push(child);
        Ok(())
    }

    fn output_file(&self, node: usize) -> PathBuf {
        self.directory.path().join(format!("output-{node}"))
    }

    fn address(&self, node: usize) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.hosts[node]), self.system.port())
    }

    /// How clients reach it. With `begin_at` more than one they are spread over so many nodes.
    pub fn servers(&self, begin_at: usize, read_replicas: bool) -> Servers {
        let addresses = (0..self.hosts.len()).map(|node| self.address(node)).collect();
        Servers { protocol: self.system.protocol(), addresses, begin_at, read_replicas }
    }

    fn ask(&self, node: usize, question: &'static str) -> Result<String, ServerError> {
        let failed = |source| ServerError::Ask { question, source };
        let connection = Connection::open(self.address(node), self.system.protocol(), ASK_DEADLINE);
        connection.map_err(failed)?.ask(question).map_err(failed)
    }

    fn wait_until_ready(&self) -> Result<(), ServerError> {
        let deadline = Instant::now() + START_DEADLINE;
        for node in 0..self.hosts.len() {
            while !self.is_ready(node) {
                if Instant::now() > deadline || self.has_ended(node) {
                    let what = format!("node {} is ready", node + 1);
                    return Err(ServerError::NotReady { what, output: self.output(node) });
                }
                thread::sleep(LOOK_PAUSE);
            }
        }
        Ok(())
    }

    fn is_ready(&self, node: usize) -> bool {
        let answers = |question, expected: &str| {
            self.ask(node, question).is_ok_and(|answer| answer.contains(expected))
        };
        match self.system {
            System::Redis { .. } if node > 0 => {
                answers("INFO replication", "master_link_status:up")
            }
            System::Redis { .. } => answers("PING", "PONG"),
            System::Memcached => answers("version", "VERSION"),
            System::Coracle { .. } => http_says_ready(self.hosts[node]).unwrap_or(false),
        }
    }

    fn has_ended(&self, node: usize) -> bool {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        processes.get_mut(node).is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    fn output(&self, node: usize) -> String {
        let output = fs::read(self.output_file(node)).unwrap_or_default();
        let end = output.len().saturating_sub(SHOWN_BYTES);
        String::from_utf8_lossy(&output[end..]).into_owned()
    }

    /// How many entries it holds: what the first node says that is alive.
    ///
    /// # Errors
    /// If it does not answer with a number.
    pub fn entries(&self) -> Result<u64, ServerError> {
        let node = (0..self.hosts.len()).find(|&node| !self.has_ended(node)).unwrap_or(0);
        let (question, answer) = match self.system {
            System::Memcached => ("stats", self.memcached_items()?),
            _ => ("DBSIZE", self.ask(node, "DBSIZE")?),
        };
        answer.parse().map_err(|_| ServerError::Answer { question, answer })
    }

    fn memcached_items(&self) -> Result<String, ServerError> {
        let question = "stats";
        let failed = |source| ServerError::Ask { question, source };
        let mut connection =
            Connection::open(self.address(0), Protocol::Memcached, ASK_DEADLINE).map_err(failed)?;
        let mut line = connection.ask("stats").map_err(failed)?;
        while !line.is_empty() {
            if let Some(items) = line.strip_prefix("STAT curr_items ") {
                return Ok(items.to_owned());
            }
            line = connection.next_text().map_err(failed)?;
        }
        Err(ServerError::Answer { question, answer: "nothing about curr_items".into() })
    }

    /// Kills the first node; with redis its replica is promoted then.
    ///
    /// # Errors
    /// If it cannot be killed, or the replica does not take the office.
    pub fn fail_over(&self) -> Result<(), ServerError> {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = processes.first_mut() {
            first.kill()?;
            first.wait()?;
        }
        drop(processes);
        if matches!(self.system, System::Redis { replicas: 1.. }) {
            let question = "REPLICAOF NO ONE";
            let answer = self.ask(1, question)?;
            if answer != "OK" {
                return Err(ServerError::Answer { question, answer });
            }
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let processes = self.processes.get_mut().unwrap_or_else(PoisonError::into_inner);
        for child in processes {
            // It may have been killed before, and there is nothing else to do about it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn http_says_ready(host: Ipv4Addr) -> std::io::Result<bool> {
    let address = SocketAddr::new(IpAddr::V4(host), CORACLE_HTTP_PORT);
    let mut stream = TcpStream::connect_timeout(&address, ASK_DEADLINE)?;
    stream.set_read_timeout(Some(ASK_DEADLINE))?;
    stream.set_write_timeout(Some(ASK_DEADLINE))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: coracle\r\nconnection: close\r\n\r\n")?;
    let mut start = [0; 12];
    stream.read_exact(&mut start)?;
    Ok(start.ends_with(b" 200"))
}
