//! What is on disk: all nodes lose their power at once, one loses its disk, one its disk's honesty.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cluster::{Cluster, Shape};
use crate::wire::{Resp, Value};

const DEADLINE: Duration = Duration::from_secs(60);
/// Connections that write at the same time.
const WRITERS: usize = 12;

fn shape() -> Shape {
    let extra = vec!["--segment-bytes=128KiB".into()];
    Shape { shards: 8, durability: "fsync", extra, ..Shape::default() }
}

/// Writes unique keys to one node, one after the other, until it answers no more or is told to
/// stop. Ends with the keys that were acknowledged.
fn writer(
    name: String,
    node: SocketAddr,
    acknowledged: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> JoinHandle<Vec<String>> {
    std::thread::spawn(move || {
        let mut done = Vec::new();
        let mut connection = Resp::connect(node).expect("the node accepts connections");
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let key = format!("{name}:{number}");
            match connection.call(&[b"SET", key.as_bytes(), key.as_bytes()]) {
                Ok(reply) if reply.is_ok() => done.push(key),
                Ok(_) => continue,
                Err(_) => break,
            }
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        done
    })
}

/// Lets writers work on all nodes until so many writes were acknowledged, then `interrupt`s them.
fn write_until(
    cluster: &mut Cluster,
    round: &str,
    count: usize,
    interrupt: impl FnOnce(&mut Cluster),
) -> Vec<String> {
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let node = cluster.socket(number as u16 % 3 + 1, 7400);
            writer(format!("{round}:{number}"), node, acknowledged.clone(), stop.clone())
        })
        .collect();
    cluster.wait("enough writes are acknowledged", DEADLINE, || {
        acknowledged.load(Ordering::Relaxed) >= count
    });
    interrupt(cluster);
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().flat_map(|writer| writer.join().expect("a writer")).collect()
}

/// Every key has itself as its value, asked of `node`.
fn check(cluster: &Cluster, node: u16, keys: &[String]) {
    let mut connection = cluster.resp(node, 7400);
    for chunk in keys.chunks(200) {
        let request = |key: &String| Resp::encode(&[b"GET", key.as_bytes()]);
        connection.send(&chunk.iter().flat_map(request).collect::<Vec<u8>>()).expect("sent");
        for key in chunk {
            let value = connection.receive().expect("a reply");
            assert_eq!(value, Value::Bulk(key.clone().into_bytes()), "{key} is lost");
        }
    }
}

/// SIGKILL of all nodes before any of them can notice.
fn kill_all(cluster: &mut Cluster) {
    for node in cluster.running() {
        // SAFETY: a signal to a child that has not been waited for, so the id is still its own.
        unsafe { libc::kill(cluster.process_id(node), libc::SIGKILL) };
    }
    for node in cluster.running() {
        cluster.kill(node);
    }
}

fn start_all(cluster: &mut Cluster) {
    for node in 1..=cluster.shape.nodes {
        cluster.start_node(node);
    }
    cluster.wait_until_ready();
}

/// The segments of a node's logs, ascending.
fn segments(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(segments(&path)),
            false if path.extension().is_some_and(|extension| extension == "log") => {
                found.push(path);
            }
            false => {}
        }
    }
    found.sort();
    found
}

#[test]
fn power_loss_of_all_nodes_keeps_every_acknowledged_write() {
    let mut cluster = Cluster::start(shape());
    let mut keys = Vec::new();
    // The last round moves nothing: the logs have been moved back and forth by then.
    for (round, cores) in [("first", 1), ("second", 2), ("third", 1), ("fourth", 1)] {
        keys.extend(write_until(&mut cluster, round, 1_500, kill_all));
        cluster.shape.cores = cores;
        start_all(&mut cluster);
        for node in 1..=3 {
            check(&cluster, node, &keys);
        }
    }
    assert!(keys.len() >= 6_000, "{} keys", keys.len());
}

#[test]
fn a_node_without_its_disk_is_filled_by_the_others() {
    let mut cluster = Cluster::start(shape());
    let mut keys = write_until(&mut cluster, "wiped", 1_000, |cluster| cluster.kill(2));
    std::fs::remove_dir_all(cluster.data_path(2)).expect("the data directory");
    cluster.start_node(2);
    cluster.wait_until_ready();
    // It counts for a majority again, with its disk. That it does so everybody knows for certain
    // when they have stored something after it did.
    keys.extend(write_until(&mut cluster, "filled", 1_000, kill_all));
    cluster.start_node(1);
    cluster.start_node(2);
    cluster.wait("two nodes serve everything", DEADLINE, || {
        let Ok(mut connection) = Resp::connect(cluster.socket(2, 7400)) else { return false };
        let mut get = |key: &String| connection.call(&[b"GET", key.as_bytes()]);
        keys.iter().step_by(7).all(|key| matches!(get(key), Ok(Value::Bulk(_))))
    });
    check(&cluster, 2, &keys);
}

#[test]
fn a_log_with_a_flipped_bit_is_set_aside_and_filled_by_the_others() {
    let mut cluster = Cluster::start(shape());
    let keys = write_until(&mut cluster, "flipped", 1_500, |cluster| cluster.kill(3));
    let logs = segments(&cluster.data_path(3));
    assert!(logs.len() > 2, "{logs:?}");
    // A bit of a payload in the first frame of a segment that others follow.
    let mut bytes = std::fs::read(&logs[1]).expect("a segment");
    bytes[50] ^= 0x10;
    std::fs::write(&logs[1], bytes).expect("a write");
    cluster.start_node(3);
    cluster.wait_until_ready();
    assert!(cluster.data_path(3).join("damaged-1-0-1").is_dir());
    let log = std::fs::read_to_string(cluster.log_path(3)).expect("the log");
    let said = log.lines().find(|line| line.contains("damaged")).expect("a line that says so");
    assert!(said.contains("ERROR") && said.contains("damaged-1-0-1"), "{said}");
    check(&cluster, 3, &keys);
}

/// Starts a server on the data directory of node 1, which must end at once with one line.
fn refused(cluster: &Cluster, extra: &[&str], part: &str) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_coracle"))
        .args(["serve", "--log=warn", "--data-dir"])
        .arg(cluster.data_path(1))
        .args(extra)
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(part) && said.lines().count() == 1, "{said}");
}

#[test]
fn a_data_directory_has_one_owner_and_one_cluster() {
    let mut cluster = Cluster::start(Shape { nodes: 1, ..shape() });
    refused(&cluster, &[], &format!("in use by process {}", cluster.process_id(1)));
    cluster.kill(1);
    refused(&cluster, &["--shards=16"], "another number of shards");
    refused(&cluster, &["--shards=8", "--cluster=other"], "of another cluster");
}
