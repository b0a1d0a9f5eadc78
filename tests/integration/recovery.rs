//! A majority of replicas that is lost for good: shards stand still, and go on from the survivor
//! when the operator says so.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::cluster::{Cluster, Shape};
use crate::wire::Value;

const KEYS: usize = 200;

fn recover(cluster: &Cluster, asked: u16, shard: u16, from: u16, flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coracle"))
        .args(["shards", "--addr", &format!("{}:7480", cluster.address(asked))])
        .args(["recover", &shard.to_string(), "--from", &from.to_string()])
        .args(flags)
        .stdin(Stdio::null())
        .output()
        .expect("the command runs")
}

fn leaders(cluster: &Cluster) -> Option<usize> {
    let shards = cluster.shards(3)?;
    Some(shards.iter().filter(|shard| !shard["leader"].is_null()).count())
}

#[test]
fn a_shard_that_lost_its_majority_goes_on_from_the_survivor_when_the_operator_says_so() {
    let mut cluster = Cluster::start(Shape { shards: 2, ..Shape::default() });
    let mut connection = cluster.resp(3, 7400);
    for key in 0..KEYS {
        let name = format!("key:{key}");
        let reply = connection.call(&[b"SET", name.as_bytes(), name.as_bytes()]);
        assert!(reply.expect("a reply").is_ok());
    }
    drop(connection);
    // A shard with a leader is left alone.
    let refused = recover(&cluster, 1, 0, 3, &["--accept-data-loss"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("has a leader"), "{refused:?}");

    for node in [1, 2] {
        cluster.kill(node);
    }
    for node in [1, 2] {
        cluster.start_node(node);
    }
    cluster.wait("no shard has a leader", Duration::from_secs(20), || leaders(&cluster) == Some(0));
    // Without a word about the loss nothing happens.
    let refused = recover(&cluster, 3, 0, 3, &[]);
    assert_eq!(refused.status.code(), Some(2));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("are lost") && told.contains("--accept-data-loss"), "{told}");
    assert_eq!(leaders(&cluster), Some(0));

    // Any node may be asked.
    for (asked, shard) in [(3, 0), (1, 1)] {
        let done = recover(&cluster, asked, shard, 3, &["--accept-data-loss"]);
        assert!(done.status.success(), "{done:?}");
    }
    cluster.wait_until_ready();
    for node in 1..=3 {
        let mut connection = cluster.resp(node, 7400);
        for key in 0..KEYS {
            let name = format!("key:{key}");
            let reply = connection.call(&[b"GET", name.as_bytes()]).expect("a reply");
            assert_eq!(reply, Value::Bulk(name.clone().into_bytes()), "at node {node}");
        }
        let name = format!("new:{node}");
        let reply = connection.call(&[b"SET", name.as_bytes(), b"v"]).expect("a reply");
        assert!(reply.is_ok(), "{reply:?}");
    }
}
