//! Values up to the limit, in and out through any node, beside small requests.

use crate::cluster::{Cluster, START_DEADLINE, Shape};
use crate::wire::{Resp, Value};

/// The longest value here, in bytes.
const LIMIT: usize = 16 << 20;
/// Rounds in which a large value is written while another connection asks for small ones.
const ROUNDS: usize = 8;

/// Bytes that differ wherever a piece could be lost, doubled or misplaced.
fn pattern(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let words = (0..length.div_ceil(4)).flat_map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_le_bytes()
    });
    words.take(length).collect()
}

fn is_bytes(reply: &Value, expected: &[u8]) -> bool {
    matches!(reply, Value::Bulk(bytes) if bytes == expected)
}

#[test]
fn values_up_to_the_limit_come_back_whole_from_every_node_and_longer_ones_are_refused() {
    let extra = vec!["--value-bytes-max=16MiB".to_owned()];
    let shape =
        Shape { memory: "512MiB", durability: "fsync", shards: 2, extra, ..Shape::default() };
    let cluster = Cluster::start(shape);
    let mut writer = cluster.resp(1, 7400);
    for (seed, length) in [(1, 65_537), (2, 1 << 20), (3, LIMIT - 1), (4, LIMIT)] {
        let value = pattern(length, seed);
        let key = format!("large:{length}");
        // On a busy disk a large value may take longer than a request may.
        cluster.wait("the value is written", START_DEADLINE, || {
            writer.call(&[b"SET", key.as_bytes(), &value]).expect("a reply").is_ok()
        });
        for node in 1..=3 {
            let reply = cluster.resp(node, 7400).call(&[b"GET", key.as_bytes()]).expect("a reply");
            assert!(is_bytes(&reply, &value), "{length} bytes from node {node}");
        }
    }
    let beyond = pattern(LIMIT + 1, 5);
    match writer.call(&[b"SET", b"beyond", &beyond]) {
        Ok(reply) => assert!(matches!(reply, Value::Error(_)), "a value beyond the limit"),
        // The server need not read the rest of what it refuses.
        Err(error) => assert!(error.kind() != std::io::ErrorKind::TimedOut, "{error}"),
    }
    let reply = cluster.resp(2, 7400).call(&[b"EXISTS", b"beyond"]).expect("a reply");
    assert_eq!(reply.integer(), 0);
}

#[test]
fn small_requests_are_answered_while_large_values_are_on_their_way() {
    let extra = vec!["--value-bytes-max=16MiB".to_owned()];
    let shape = Shape { memory: "512MiB", shards: 2, extra, ..Shape::default() };
    let cluster = Cluster::start(shape);
    let (mut large, mut small) = (cluster.resp(1, 7400), cluster.resp(1, 7400));
    let value = pattern(LIMIT, 7);
    for round in 0..ROUNDS {
        let request = Resp::encode(&[b"SET", b"large", &value]);
        let (first, rest) = request.split_at(request.len() / 2);
        large.send(first).expect("sent");
        // Half of a large value lies at the server, and nobody waits for the rest of it.
        let text = format!("value {round}");
        let key = format!("small:{round}");
        assert!(small.call(&[b"SET", key.as_bytes(), text.as_bytes()]).expect("a reply").is_ok());
        large.send(rest).expect("sent");
        let reply = small.call(&[b"GET", key.as_bytes()]).expect("a reply");
        assert!(is_bytes(&reply, text.as_bytes()));
        assert!(large.receive().expect("a reply").is_ok());
        large.send(&Resp::encode(&[b"GET", b"large"])).expect("sent");
        // Nobody reads the large value yet.
        let reply = small.call(&[b"GET", key.as_bytes()]).expect("a reply");
        assert!(is_bytes(&reply, text.as_bytes()));
        assert!(is_bytes(&large.receive().expect("a reply"), &value));
    }
}
