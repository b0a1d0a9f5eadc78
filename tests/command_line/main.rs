//! The command line as people use it: exit codes, the demo from its start to every kind of end,
//! and the operator's commands against a running cluster.
//!
//! Only the binary is used. Clusters run one after another; their ports lie below those that the
//! system gives out by itself, and each cluster has a range of its own.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Clusters run one after another: locked memory is limited per user.
static TURN: Mutex<()> = Mutex::new(());
/// Longer than anything takes on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first of a range of ports that no other cluster of this process uses, and few others.
fn port_base() -> u16 {
    static RANGES: AtomicU16 = AtomicU16::new(0);
    let range = std::process::id() as u16 % 40 + RANGES.fetch_add(1, Ordering::Relaxed);
    20_000 + range * 200
}

fn coracle(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command that ends by itself.
fn run(arguments: &[&str]) -> Output {
    coracle(arguments).output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until `condition` gives something.
fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Whether a process runs. One that has ended and was not waited for does not.
fn runs(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name may hold anything, so the state is what follows its last parenthesis.
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn signal(process: u32, signal: libc::c_int) {
    // SAFETY: kill has no preconditions. The process is a child that was not waited for, or was
    // seen to run just before.
    unsafe { libc::kill(process as libc::pid_t, signal) };
}

/// A demo that stays up.
struct Demo {
    child: Child,
    out: BufReader<ChildStdout>,
    nodes: Vec<u32>,
    port: u16,
    directory: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Demo {
    /// Starts one without load, and waits until it says how to connect.
    fn start() -> Demo {
        let turn = turn();
        let directory = tempfile::tempdir().expect("a directory");
        let port = port_base();
        let mut child = coracle(&["demo", "--seconds=0", "--cores=1", "--shards=6"])
            .arg(format!("--port={port}"))
            .env("TMPDIR", directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut nodes = Vec::new();
        let mut line = String::new();
        while !line.contains("stays up until Ctrl-C") {
            line.clear();
            assert_ne!(out.read_line(&mut line).expect("a line"), 0, "the demo ended early");
            let process = line.split_once("(process ").and_then(|(_, rest)| rest.split(')').next());
            nodes.extend(process.map(|id| id.parse::<u32>().expect("a process id")));
        }
        assert_eq!(nodes.len(), 3);
        Demo { child, out, nodes, port, directory, _turn: turn }
    }

    fn http(&self, node: u16) -> String {
        format!("--addr=127.0.0.{node}:{}", self.port + 80)
    }

    fn shards(&self, node: u16) -> Value {
        let output = run(&["shards", "--json", &self.http(node)]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Waits for the end, and gives the exit code and what was printed since the start.
    fn end(mut self) -> (Option<i32>, String) {
        let status = wait_for("the end of the demo", || self.child.try_wait().expect("a child"));
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).expect("text");
        for node in &self.nodes {
            wait_for("the end of the nodes", || (!runs(*node)).then_some(()));
        }
        if status.code().is_some() {
            assert_eq!(entries(self.directory.path()), Vec::<PathBuf>::new(), "left behind");
        }
        (status.code(), rest)
    }
}

/// A failed test leaves nothing running either.
impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.nodes.iter().filter(|node| runs(**node)).for_each(|node| signal(*node, libc::SIGKILL));
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("a readable directory");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

#[test]
fn the_demo_shows_leaders_and_latencies_and_leaves_nothing_behind() {
    let _turn = turn();
    let directory = tempfile::tempdir().expect("a directory");
    let output = coracle(&["demo", "--exit", "--seconds=1", "--cores=1", "--shards=6"])
        .arg(format!("--port={}", port_base()))
        .env("TMPDIR", directory.path())
        .output()
        .expect("the binary runs");
    let (shown, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{shown}{said}");
    for part in ["Node 1 leads 2", "Node 2 leads 2", "Node 3 leads 2", "p99.99", "throughput"] {
        assert!(shown.contains(part), "{part} is missing in:\n{shown}{said}");
    }
    assert_eq!(entries(directory.path()), Vec::<PathBuf>::new());
}

#[test]
fn an_interrupted_demo_stops_its_nodes() {
    let demo = Demo::start();
    signal(demo.child.id(), libc::SIGINT);
    let (code, rest) = demo.end();
    assert_eq!(code, Some(0), "{rest}");
    assert!(rest.contains("stopping"), "{rest}");
}

#[test]
fn the_nodes_of_a_killed_demo_die_with_it() {
    let demo = Demo::start();
    signal(demo.child.id(), libc::SIGKILL);
    assert_eq!(demo.end().0, None);
}

#[test]
fn the_demo_tells_of_a_node_that_ended_and_goes_on() {
    let mut demo = Demo::start();
    signal(demo.nodes[1], libc::SIGKILL);
    let mut line = String::new();
    while !line.contains("node 2 has ended") {
        line.clear();
        assert_ne!(demo.out.read_line(&mut line).expect("a line"), 0, "the demo ended");
    }
    wait_for("the other nodes lead every shard", || {
        let view = demo.shards(1);
        let leaders = view["shards"].as_array().expect("shards").iter();
        let all = leaders.map(|shard| shard["leader"]["node"].as_u64()).collect::<Vec<_>>();
        (all.len() == 6 && all.iter().all(|node| matches!(node, Some(1 | 3)))).then_some(())
    });
    signal(demo.child.id(), libc::SIGTERM);
    assert_eq!(demo.end().0, Some(0));
}

#[test]
fn operators_see_and_move_leaders_from_any_node() {
    let demo = Demo::start();
    let table = run(&["shards", &demo.http(3)]);
    assert!(text(&table.stdout).contains("6 shards. Node 1 leads 2"), "{}", text(&table.stdout));
    let moved = run(&["shards", "transfer", "1", "--to=3", &demo.http(1)]);
    assert_eq!(text(&moved.stdout), "shard 1 is led by node 3\n", "{}", text(&moved.stderr));
    for node in 1..=3 {
        wait_for("every node has heard of the new leader", || {
            (demo.shards(node)["shards"][1]["leader"]["node"] == 3).then_some(())
        });
    }
    let nowhere = run(&["shards", "transfer", "1", "--to=4", &demo.http(1)]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(text(&nowhere.stderr).contains("on the nodes 2, 3, 1"), "{}", text(&nowhere.stderr));
    let digest = run(&["shards", "digest", &demo.http(2)]);
    assert_eq!(digest.status.code(), Some(0), "{}", text(&digest.stderr));
    assert_eq!(text(&digest.stdout).matches("1,2,3").count(), 6, "{}", text(&digest.stdout));
    signal(demo.child.id(), libc::SIGTERM);
    assert_eq!(demo.end().0, Some(0));
}

#[test]
fn a_port_in_use_is_said_with_the_flag_that_changes_it() {
    // A port the system hands out could be in use on another of the demo's addresses.
    let port = port_base().to_string();
    let _taken = TcpListener::bind(format!("127.0.0.2:{port}")).expect("a free port");
    let demo = run(&["demo", "--exit", "--cores=1", "--port", &port]);
    assert_eq!(demo.status.code(), Some(2));
    let said = text(&demo.stderr);
    assert!(said.contains(&format!("127.0.0.2:{port} is in use")), "{said}");
    assert!(said.contains("--port"), "{said}");
    let base = port_base();
    let serve = [
        "serve".to_owned(),
        "--members=2=127.0.0.2".to_owned(),
        format!("--http-port={port}"),
        format!("--port={base}"),
        format!("--core-port-base={}", base + 1),
        format!("--peer-port-base={}", base + 101),
        "--cores=1".to_owned(),
        "--durability=memory".to_owned(),
    ];
    let serve = run(&serve.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(serve.status.code(), Some(2));
    let said = text(&serve.stderr);
    assert!(said.contains("--http-port"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn what_cannot_begin_has_exit_code_2_and_one_line_that_names_it() {
    for (arguments, part) in [
        (&["serve", "--memory=10gbb"][..], "`memory`"),
        (&["serve", "--durability=fsync"], "--durability memory"),
        (&["serve", "--config=/nonexistent.toml"], "/nonexistent.toml"),
        (&["shards", "--addr=:x:"], "--addr"),
        (&["shards", "--json", "digest"], "--json"),
    ] {
        let output = run(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(part) && said.lines().count() == 1, "{arguments:?}: {said}");
        assert!(output.stdout.is_empty());
    }
    for arguments in [&["serve", "--shrads=1"][..], &["bogus"], &[], &["demo", "--nodes=0"]] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let typo = coracle(&["serve"]).env("CORACLE_SHRADS", "1").output().expect("the binary runs");
    assert_eq!(typo.status.code(), Some(2));
    assert!(text(&typo.stderr).contains("`CORACLE_SHARDS`"), "{}", text(&typo.stderr));
}

#[test]
fn a_node_that_is_not_there_is_a_failure_and_not_a_panic() {
    let output = run(&["shards", "--addr=127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("127.0.0.1:1"), "{}", text(&output.stderr));
    let version = run(&["version"]);
    assert!(text(&version.stdout).starts_with("coracle "), "{}", text(&version.stdout));
}
