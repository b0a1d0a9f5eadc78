//! What readers use stays: reads on any replica count as uses on all of them, and a new leader
//! goes on with the old one's order.

use std::time::Duration;

use crate::cluster::{Cluster, Shape};
use crate::wire::{Resp, Value};

const DEADLINE: Duration = Duration::from_secs(30);
const SHARDS: u16 = 8;
const HOT: usize = 100;
/// What a shard can hold of entries of this test is about 600: 128 KiB at some 210 bytes each.
const ROOM: usize = 600 * SHARDS as usize;
const PIPELINE: usize = 100;

/// Sends requests in batches and returns their replies.
fn call_all(connection: &mut Resp, requests: &[Vec<Vec<u8>>]) -> Vec<Value> {
    let mut replies = Vec::new();
    for batch in requests.chunks(PIPELINE) {
        let mut bytes = Vec::new();
        for request in batch {
            let words: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
            bytes.extend(Resp::encode(&words));
        }
        connection.send(&bytes).expect("sent");
        replies.extend((0..batch.len()).map(|_| connection.receive().expect("a reply")));
    }
    replies
}

fn get(key: String) -> Vec<Vec<u8>> {
    vec![b"GET".to_vec(), key.into_bytes()]
}

fn set(key: String) -> Vec<Vec<u8>> {
    vec![b"SET".to_vec(), key.into_bytes(), vec![b'v'; 64]]
}

/// How many of the hot keys are there. To look counts as a use, too.
fn hot_keys(connection: &mut Resp) -> usize {
    let requests: Vec<_> = (0..HOT).map(|number| get(format!("hot:{number}"))).collect();
    let replies = call_all(connection, &requests);
    replies.iter().filter(|reply| matches!(reply, Value::Bulk(_))).count()
}

/// Writes so many keys that nobody reads.
fn write_cold(connection: &mut Resp, from: usize, count: usize) {
    let requests: Vec<_> = (from..from + count).map(|n| set(format!("cold:{n:08}"))).collect();
    let replies = call_all(connection, &requests);
    let refused = replies.iter().filter(|reply| !reply.is_ok()).count();
    assert_eq!(refused, 0, "{:?}", replies.iter().find(|reply| !reply.is_ok()));
}

fn reader(cluster: &Cluster, node: u16) -> Resp {
    let mut connection = cluster.resp(node, 7400);
    assert!(connection.call(&[b"READONLY"]).expect("a reply").is_ok());
    connection
}

#[test]
fn what_readers_use_outlives_what_is_only_written_and_a_failover() {
    let extra = ["--value-bytes-max=1KiB", "--touch-interval=20ms"].map(String::from).into();
    let shape = Shape { shards: SHARDS, memory: "1MiB", extra, ..Shape::default() };
    let mut cluster = Cluster::start(shape);
    let mut writer = cluster.resp(1, 7400);
    let requests: Vec<_> = (0..HOT).map(|number| set(format!("hot:{number}"))).collect();
    assert!(call_all(&mut writer, &requests).iter().all(Value::is_ok));
    let mut readers: Vec<Resp> = (1..=3).map(|node| reader(&cluster, node)).collect();
    let step = ROOM / 12;
    let mut written = 0;
    while written < 3 * ROOM {
        write_cold(&mut writer, written, step);
        written += step;
        // Each time another node's clients read: two of three replicas there follow.
        let node = written / step % readers.len();
        assert_eq!(hot_keys(&mut readers[node]), HOT, "after {written} other keys");
    }
    let first = call_all(&mut writer, &[get("cold:00000000".to_owned())]);
    assert!(matches!(first[0], Value::Nil), "nothing was evicted: {first:?}");

    drop((writer, readers));
    cluster.kill(1);
    let mut writer = cluster.resp(2, 7400);
    cluster.wait("all shards serve again", DEADLINE, || {
        let replies =
            call_all(&mut writer, &(0..64).map(|n| set(format!("probe:{n}"))).collect::<Vec<_>>());
        replies.iter().all(Value::is_ok)
    });
    // The hot keys were used last, so that much can be written before they would go.
    write_cold(&mut writer, written, ROOM / 2);
    assert_eq!(hot_keys(&mut reader(&cluster, 3)), HOT, "after the failover");
}
