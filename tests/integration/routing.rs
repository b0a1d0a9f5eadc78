//! Which port answers what: any key anywhere, redirections on core ports, order within pipelines.

use crate::cluster::{Cluster, Shape};
use crate::wire::{Resp, Value, binary_request, read_binary};

#[test]
fn any_core_port_serves_every_key_and_core_ports_redirect() {
    let cluster = Cluster::start(Shape { cores: 2, shards: 16, ..Shape::default() });
    let mut any = cluster.resp(2, 7400);
    let mut redirected = 0;
    for number in 0..200 {
        let key = format!("key:{number}");
        assert!(any.command(&format!("SET {key} v{number}")).is_ok());
        let mut core = cluster.resp(1, 7401);
        match core.command(&format!("GET {key}")) {
            Value::Bulk(value) => assert_eq!(value, format!("v{number}").into_bytes()),
            Value::Error(error) => {
                let target = error.strip_prefix("MOVED ").expect("a redirection");
                let address = target.split(' ').nth(1).expect("an address").parse().expect("one");
                let mut right = Resp::connect(address).expect("the leader's core port");
                let value = right.command(&format!("GET {key}"));
                assert_eq!(value, Value::Bulk(format!("v{number}").into_bytes()));
                redirected += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(redirected > 100, "five of six cores redirect, {redirected} of 200 did");
}

#[test]
fn a_pipeline_is_answered_in_order_and_sees_its_own_writes() {
    let cluster = Cluster::start(Shape { cores: 2, shards: 16, ..Shape::default() });
    for node in 1..=3 {
        let mut connection = cluster.resp(node, 7400);
        let mut pipeline = Vec::new();
        for number in 0..300 {
            let (key, value) = (format!("p{node}:{}", number % 20), format!("{number}"));
            pipeline.extend(Resp::encode(&[b"GET", key.as_bytes()]));
            pipeline.extend(Resp::encode(&[b"SET", key.as_bytes(), value.as_bytes()]));
            pipeline.extend(Resp::encode(&[b"GET", key.as_bytes()]));
        }
        connection.send(&pipeline).expect("the pipeline is sent");
        for number in 0..300 {
            let before = connection.receive().expect("a reply");
            let expected = match number {
                0..20 => Value::Nil,
                _ => Value::Bulk((number - 20).to_string().into_bytes()),
            };
            assert_eq!(before, expected, "the read before write {number} on node {node}");
            assert!(connection.receive().expect("a reply").is_ok());
            let after = connection.receive().expect("a reply");
            assert_eq!(after, Value::Bulk(number.to_string().into_bytes()));
        }
    }
}

#[test]
fn both_protocols_see_one_keyspace() {
    let cluster = Cluster::start(Shape::default());
    let mut resp = cluster.resp(1, 7400);
    assert!(resp.command("SET shared from-resp").is_ok());
    let mut binary = std::net::TcpStream::connect(cluster.socket(2, 7400)).expect("the same port");
    use std::io::Write as _;
    binary.write_all(&binary_request(0x00, 7, &[], b"shared", b"")).expect("a get is sent");
    let reply = read_binary(&mut binary).expect("a reply");
    assert_eq!((reply.status, reply.opaque, &reply.value[..]), (0, 7, &b"from-resp"[..]));
    assert_ne!(reply.cas, 0);
    let extras = [0, 0, 0, 9, 0, 0, 0, 0];
    binary.write_all(&binary_request(0x01, 8, &extras, b"shared", b"from-binary")).expect("sent");
    assert_eq!(read_binary(&mut binary).expect("a reply").status, 0);
    assert_eq!(resp.command("GET shared"), Value::Bulk(b"from-binary".to_vec()));
}
