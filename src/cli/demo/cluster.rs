//! The nodes of a demonstration: real processes of this same program on loopback addresses.
//!
//! Invariant: no node outlives this process. Each asks the kernel for a SIGKILL at its parent's
//! death, before it becomes the node; beyond that, dropping a [`Cluster`] kills what still runs.
//! The nodes are in process groups of their own, so that a Ctrl-C reaches only the parent, which
//! stops them in order.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::DemoOptions;
use crate::cli::CommandError;
use crate::config::ENVIRONMENT_PREFIX;
use crate::control::{DRAIN_DEADLINE, STOP_DEADLINE, fetch};

/// How long the cluster may take until every node is ready.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// How long one question about readiness may take.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// Time between two looks at a node.
const LOOK_PERIOD: Duration = Duration::from_millis(50);
/// What a node may take to stop beyond its own deadlines.
const STOP_MARGIN: Duration = Duration::from_secs(2);
/// Lines of a node's log shown when it fails.
const LOG_LINES_SHOWN: usize = 15;

/// The ports of a demonstration, all counted from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The any-core data port.
    pub data: u16,
    /// Data port of core 0.
    pub core_base: u16,
    /// HTTP.
    pub http: u16,
    /// Peer port of core 0.
    pub peer_base: u16,
}

impl Ports {
    /// The ports from `data` on, with the distances of the defaults; `None` if they run out.
    pub fn from_base(data: u16, cores: u16) -> Option<Ports> {
        let peer_base = data.checked_add(101)?;
        peer_base.checked_add(cores.saturating_sub(1))?;
        Some(Ports { data, core_base: data + 1, http: data + 80, peer_base })
    }
}

/// One node.
#[derive(Debug)]
struct Node {
    id: u16,
    child: Child,
    log: PathBuf,
    /// Set once it has ended.
    ended: Option<ExitStatus>,
}

/// The running nodes and their directory.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    ports: Ports,
    /// Dropped after the nodes have ended, which removes it.
    directory: TempDir,
}

/// The loopback address of a node.
pub fn host(id: u16) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 0, 0)) + u32::from(id)))
}

impl Cluster {
    /// Starts the nodes. Those that did start are killed if one does not.
    pub fn start(options: &DemoOptions) -> Result<Cluster, CommandError> {
        let cores = options.cores_per_node();
        let Some(ports) = Ports::from_base(options.port, cores) else {
            let reason = format!("--port {}: the ports above it run out", options.port);
            return Err(CommandError::NotBegun(reason));
        };
        check_ports(options.nodes, cores, ports)?;
        let not_begun = |error: io::Error| {
            CommandError::NotBegun(format!("cannot make a temporary directory: {error}"))
        };
        let directory = tempfile::Builder::new().prefix("coracle-demo-").tempdir();
        let directory = directory.map_err(not_begun)?;
        let mut cluster = Cluster { nodes: Vec::new(), ports, directory };
        for id in 1..=options.nodes {
            let node = cluster.spawn(id, options).map_err(|error| {
                CommandError::NotBegun(format!("cannot start node {id}: {error}"))
            })?;
            cluster.nodes.push(node);
        }
        Ok(cluster)
    }

    fn spawn(&self, id: u16, options: &DemoOptions) -> io::Result<Node> {
        let directory = self.directory.path().join(format!("node-{id}"));
        std::fs::create_dir(&directory)?;
        let log = self.directory.path().join(format!("node-{id}.log"));
        let log_file = File::create(&log)?;
        let members: Vec<String> =
            (1..=options.nodes).map(|id| format!("{id}={}", host(id))).collect();
        let mut command = Command::new(std::env::current_exe()?);
        // What configures this shell's own nodes is not meant for these.
        for (variable, _) in std::env::vars_os() {
            let name = variable.to_string_lossy();
            if name.starts_with(ENVIRONMENT_PREFIX) && name != "CORACLE_LOG" {
                command.env_remove(&variable);
            }
        }
        command
            .arg("serve")
            .arg(format!("--node-id={id}"))
            .arg(format!("--members={}", members.join(",")))
            .arg("--cluster=coracle-demo")
            .arg(format!("--data-dir={}", directory.display()))
            .arg(format!("--cores={}", options.cores_per_node()))
            .arg("--pin=float")
            .arg(format!("--shards={}", options.shards))
            .arg(format!("--memory={}", options.memory))
            .arg(format!("--port={}", self.ports.data))
            .arg(format!("--core-port-base={}", self.ports.core_base))
            .arg(format!("--http-port={}", self.ports.http))
            .arg(format!("--peer-port-base={}", self.ports.peer_base))
            .arg("--log-format=pretty")
            .stdin(Stdio::null())
            .stdout(log_file.try_clone()?)
            .stderr(log_file)
            .process_group(0);
        die_with_parent(&mut command);
        Ok(Node { id, child: command.spawn()?, log, ended: None })
    }

    /// Waits until every node says that it is ready.
    pub async fn wait_until_ready(&mut self) -> Result<(), CommandError> {
        let deadline = Instant::now() + READY_DEADLINE;
        for position in 0..self.nodes.len() {
            let address = self.http_address(self.nodes[position].id);
            loop {
                self.check_alive()?;
                let last = match fetch::get(address, "/readyz", ASK_DEADLINE).await {
                    Ok(answer) if answer.status.is_success() => break,
                    Ok(answer) => String::from_utf8_lossy(&answer.body).into_owned(),
                    Err(error) => error.to_string(),
                };
                if Instant::now() >= deadline {
                    let node = &self.nodes[position];
                    return Err(node.failure(&format!("is not ready: {last}")));
                }
                tokio::time::sleep(LOOK_PERIOD).await;
            }
        }
        Ok(())
    }

    /// Fails if a node has ended.
    fn check_alive(&mut self) -> Result<(), CommandError> {
        for node in &mut self.nodes {
            if let Some(status) = node.look() {
                return Err(node.failure(&format!("has ended: {}", describe(status))));
            }
        }
        Ok(())
    }

    /// The nodes that have ended since the last call, with how.
    pub fn newly_ended(&mut self) -> Vec<(u16, String)> {
        let mut ended = Vec::new();
        for node in &mut self.nodes {
            if node.ended.is_none()
                && let Some(status) = node.look()
            {
                ended.push((node.id, describe(status)));
            }
        }
        ended
    }

    /// Stops the nodes one after another with SIGTERM, so that each but the last hands its
    /// leaderships over. One that does not stop is killed and named.
    pub async fn stop(&mut self) -> Vec<String> {
        let mut complaints = Vec::new();
        for node in &mut self.nodes {
            if node.look().is_some() {
                continue;
            }
            node.signal(libc::SIGTERM);
            let deadline = Instant::now() + DRAIN_DEADLINE + STOP_DEADLINE + STOP_MARGIN;
            while node.look().is_none() && Instant::now() < deadline {
                tokio::time::sleep(LOOK_PERIOD).await;
            }
            match node.look() {
                Some(status) if status.success() => {}
                Some(status) => {
                    complaints.push(format!("node {} ended: {}", node.id, describe(status)));
                }
                None => complaints.push(format!("node {} did not stop and was killed", node.id)),
            }
            node.kill();
        }
        complaints
    }

    /// Process id of a node, for those who want to harm it.
    pub fn process_ids(&self) -> Vec<(u16, u32)> {
        self.nodes.iter().map(|node| (node.id, node.child.id())).collect()
    }

    /// The any-core data addresses.
    pub fn data_addresses(&self) -> Vec<SocketAddr> {
        let address = |node: &Node| SocketAddr::new(host(node.id), self.ports.data);
        self.nodes.iter().map(address).collect()
    }

    /// Where a node serves HTTP.
    pub fn http_address(&self, id: u16) -> SocketAddr {
        SocketAddr::new(host(id), self.ports.http)
    }

    /// The ports of all nodes.
    pub fn ports(&self) -> Ports {
        self.ports
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.kill();
        }
    }
}

impl Node {
    /// How it ended, if it has.
    fn look(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: kill has no preconditions. The process is our child and was not waited for, so
        // its id cannot belong to another.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// Ends it now, and waits for that.
    fn kill(&mut self) {
        if self.look().is_none() {
            // It cannot be gone without having been waited for, and a SIGKILL is not refused.
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }

    /// An error with the end of the node's log.
    fn failure(&self, what: &str) -> CommandError {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n  ");
        CommandError::Failed(format!("node {} {what}\n  {tail}", self.id))
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "for no known reason".to_owned(),
    }
}

/// Has the kernel kill the process when its parent dies, however that happens.
fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let prepare = move || {
        // SAFETY: prctl with these arguments only sets a flag of the calling process.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: getppid has no preconditions.
        if unsafe { libc::getppid() } as u32 != parent {
            // The parent died before the flag was set, and nobody would tell us.
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe functions may run: prctl and getppid
    // are plain system calls, and neither error allocates.
    unsafe { command.pre_exec(prepare) };
}

/// Says which port is in use before any node starts, rather than leaving it to a node's log.
fn check_ports(nodes: u16, cores: u16, ports: Ports) -> Result<(), CommandError> {
    let core_ports = (0..cores).flat_map(|core| [ports.core_base + core, ports.peer_base + core]);
    let all: Vec<u16> = [ports.data, ports.http].into_iter().chain(core_ports).collect();
    for id in 1..=nodes {
        for port in &all {
            let address = SocketAddr::new(host(id), *port);
            let reason = match TcpListener::bind(address) {
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    format!("{address} is in use; --port moves all ports of the demo")
                }
                Err(error) => format!("cannot listen on {address}: {error}"),
            };
            return Err(CommandError::NotBegun(reason));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ports_move_with_the_base() {
        let ports = Ports { data: 7_400, core_base: 7_401, http: 7_480, peer_base: 7_501 };
        assert_eq!(Ports::from_base(7_400, 8), Some(ports));
        assert_eq!(Ports::from_base(65_434, 1).map(|ports| ports.peer_base), Some(65_535));
        assert_eq!(Ports::from_base(65_435, 1), None);
    }

    #[test]
    fn a_port_in_use_is_named_with_the_flag_that_moves_it() {
        let taken = TcpListener::bind((host(7), 0)).expect("a free port");
        let data = taken.local_addr().expect("a bound address").port();
        let ports = Ports { data, core_base: data, http: data, peer_base: data };
        let error = check_ports(7, 0, ports).expect_err("it is taken on node 7").to_string();
        assert!(error.contains(&format!("127.0.0.7:{data}")), "{error}");
        assert!(error.contains("--port"), "{error}");
    }

    #[test]
    fn hosts_are_loopback_addresses() {
        assert_eq!(host(1), IpAddr::from([127, 0, 0, 1]));
        assert_eq!(host(300), IpAddr::from([127, 0, 1, 44]));
    }
}
