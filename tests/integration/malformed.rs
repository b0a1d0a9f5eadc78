//! Malformed input of both protocols: a clear error or a close, never a crash, and no memory by
//! announced length.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::cluster::{Cluster, Shape};
use crate::wire::{Resp, Value, binary_request, read_binary};

/// What must come of an input.
enum Expected {
    /// The reply starts with this, and the connection ends.
    ErrorAndClose(&'static str),
    /// The reply is exactly this, and the connection lives.
    Reply(&'static str),
    /// The connection ends, with whatever reply.
    Close,
}
use Expected::{Close, ErrorAndClose, Reply};

fn rows() -> Vec<(Vec<u8>, Expected)> {
    let text = |text: &str| text.as_bytes().to_vec();
    let mut rows = vec![
        (text("\r\n"), Reply("")),
        (text("*0\r\n"), Reply("")),
        (text("*-1\r\n"), Reply("")),
        (text("*-10\r\n"), Reply("")),
        (text("*3000000000\r\n"), ErrorAndClose("-ERR Protocol error: invalid multibulk length")),
        (
            text("*99999999999999999999\r\n"),
            ErrorAndClose("-ERR Protocol error: invalid multibulk length"),
        ),
        (text("*1\r\nfoo\r\n"), ErrorAndClose("-ERR Protocol error: expected '$', got 'f'")),
        (text("*1\r\n$-10\r\n"), ErrorAndClose("-ERR Protocol error: invalid bulk length")),
        (text("*1\r\n$2000000000\r\n"), ErrorAndClose("-ERR Protocol error: invalid bulk length")),
        (text("*1\r\n$blabla\r\n"), ErrorAndClose("-ERR Protocol error: invalid bulk length")),
        (text("GET \"unbalanced\r\n"), ErrorAndClose("-ERR Protocol error: unbalanced quotes")),
        (text("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), Close),
        (text("POST / HTTP/1.1\r\n\r\n"), Close),
        (text("*1\r\n$7\r\nNOSUCHC\r\n"), Reply("-ERR unknown command 'NOSUCHC'")),
        (text("*1\r\n$3\r\nGET\r\n"), Reply("-ERR wrong number of arguments for 'get' command")),
        (text("*2\r\n$4\r\nINCR\r\n$1\r\n \r\n"), Reply(":")),
        (text("SET k v EX 0\r\n"), Reply("-ERR invalid expire time in 'set' command")),
        (text("SET k v NX XX\r\n"), Reply("-ERR syntax error")),
        (text("SET k v EX 9223372036854775807\r\n"), Reply("-ERR invalid expire time")),
        (text("HELLO 4\r\n"), Reply("-NOPROTO")),
        (text("CLUSTER KEYSLOT {}{x}\r\n"), Reply(":")),
    ];
    // 64 KiB and more without a line end.
    rows.push((vec![b'a'; 70_000], ErrorAndClose("-ERR Protocol error: too big inline request")));
    let mut nested = Vec::new();
    for _ in 0..100_000 {
        nested.extend_from_slice(b"*1\r\n");
    }
    rows.push((nested, ErrorAndClose("-ERR Protocol error: expected '$', got '*'")));
    rows.push((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), Close));
    rows.push((b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\r\n".to_vec(), Reply("-ERR unknown command")));
    rows
}

fn read_for_a_while(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (all, true),
            Ok(length) => all.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                return (all, true);
            }
            Err(_) => return (all, false),
        }
        // A reply to the PING that follows each input ends the wait.
        if all.ends_with(b"+PONG\r\n") {
            return (all, false);
        }
    }
}

#[test]
fn malformed_resp_ends_in_an_error_or_a_close() {
    let cluster = Cluster::start(Shape { nodes: 1, shards: 4, ..Shape::default() });
    for port in [7400, 7401] {
        for (input, expected) in rows() {
            let mut stream = TcpStream::connect(cluster.socket(1, port)).expect("accepted");
            stream.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout");
            // The server may close before it has taken everything.
            let _ = stream.write_all(&input);
            if matches!(expected, Reply(_)) {
                stream.write_all(b"PING\r\n").expect("sent");
            }
            let (answer, is_closed) = read_for_a_while(&mut stream);
            let shown = String::from_utf8_lossy(&answer).into_owned();
            let input = String::from_utf8_lossy(&input[..input.len().min(60)]).into_owned();
            match expected {
                ErrorAndClose(error) => {
                    assert!(shown.starts_with(error), "{input:?} got {shown:?}");
                    assert!(is_closed, "{input:?} left the connection open");
                }
                Reply(reply) => {
                    assert!(shown.starts_with(reply), "{input:?} got {shown:?}");
                    assert!(shown.ends_with("+PONG\r\n"), "{input:?} got {shown:?}");
                }
                Close => assert!(is_closed, "{input:?} left the connection open: {shown:?}"),
            }
        }
    }
    assert_alive(&cluster);
}

fn assert_alive(cluster: &Cluster) {
    let mut connection = cluster.resp(1, 7400);
    assert!(connection.command("SET alive yes").is_ok());
    assert_eq!(connection.command("GET alive"), Value::Bulk(b"yes".to_vec()));
}

#[test]
fn announced_lengths_take_no_memory_and_slow_input_is_not_for_ever() {
    let cluster = Cluster::start(Shape { nodes: 1, shards: 4, ..Shape::default() });
    let resident = |cluster: &Cluster| {
        let path = format!("/proc/{}/statm", cluster.process_id(1));
        let statm = std::fs::read_to_string(path).expect("the process runs");
        statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("pages") * 4096
    };
    let before = resident(&cluster);
    let mut open = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(cluster.socket(1, 7400)).expect("accepted");
        stream.write_all(b"*1048576\r\n$1048576\r\nabc").expect("sent");
        open.push(stream);
        let mut stream = TcpStream::connect(cluster.socket(1, 7400)).expect("accepted");
        let mut request = binary_request(0x01, 1, &[0; 8], b"key", b"");
        request[8..12].copy_from_slice(&(1_000_000_u32).to_be_bytes());
        stream.write_all(&request).expect("sent");
        open.push(stream);
    }
    assert_alive(&cluster);
    let grown = resident(&cluster).saturating_sub(before);
    println!("400 connections that announce a mebibyte each: {} KiB grown", grown >> 10);
    assert!(grown < 64 << 20, "{grown} bytes for announcements");
}

#[test]
fn malformed_binary_ends_in_a_status_or_a_close() {
    let cluster = Cluster::start(Shape { nodes: 1, shards: 4, ..Shape::default() });
    let connect = || {
        let stream = TcpStream::connect(cluster.socket(1, 7400)).expect("accepted");
        stream.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout");
        stream
    };
    // Every opcode without a body: an answer or a close, and the server lives.
    for opcode in 0..=255_u8 {
        let mut stream = connect();
        stream.write_all(&binary_request(opcode, 0xabcd, &[], b"", b"")).expect("sent");
        stream.write_all(&binary_request(0x0a, 0x99, &[], b"", b"")).unwrap_or_default();
        let mut first = None;
        while let Ok(reply) = read_binary(&mut stream) {
            if reply.opcode == 0x0a && reply.opaque == 0x99 {
                break;
            }
            assert_eq!(reply.opaque, 0xabcd, "opcode {opcode:#x}");
            first.get_or_insert(reply.status);
        }
        if opcode > 0x25 && !(0x30..=0x3c).contains(&opcode) && opcode != 0xb5 {
            assert_eq!(first, Some(0x81), "opcode {opcode:#x} is unknown");
        }
    }
    // Header fields that contradict each other.
    let mutate = |at: usize, bytes: &[u8]| {
        let mut request = binary_request(0x00, 5, &[], b"key", b"");
        request[at..at + bytes.len()].copy_from_slice(bytes);
        request
    };
    let hostile = [
        mutate(2, &[0xff, 0xff]),
        mutate(4, &[0xff]),
        mutate(5, &[0x01]),
        mutate(8, &0_u32.to_be_bytes()),
        mutate(8, &1_u32.to_be_bytes()),
        mutate(8, &(i32::MAX as u32).to_be_bytes()),
        mutate(8, &(i32::MAX as u32 + 1).to_be_bytes()),
        mutate(8, &u32::MAX.to_be_bytes()),
        mutate(2, &[0, 0]),
        mutate(0, &[0x81]),
    ];
    for request in hostile {
        let mut stream = connect();
        let _ = stream.write_all(&request);
        let mut answer = Vec::new();
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 4096, "{request:?} got {} bytes", answer.len());
    }
    // A header, and then nothing.
    let mut stream = connect();
    stream.write_all(&binary_request(0x00, 5, &[], b"key", b"")[..24]).expect("sent");
    drop(stream);
    assert_alive(&cluster);
}

#[test]
fn requests_split_at_every_byte_get_the_same_answer() {
    let cluster = Cluster::start(Shape { nodes: 1, shards: 4, ..Shape::default() });
    let request = Resp::encode(&[b"SET", b"split", b"a value\r\nwith\0bytes"]);
    for at in 1..request.len() {
        let mut connection = cluster.resp(1, 7400);
        connection.send(&request[..at]).expect("sent");
        // A round trip on another connection makes the server see the first part alone.
        cluster.resp(1, 7400).command("PING");
        connection.send(&request[at..]).expect("sent");
        assert!(connection.receive().expect("a reply").is_ok(), "split at {at}");
    }
    let request = binary_request(0x01, 3, &[0; 8], b"split", b"value");
    for at in 1..request.len() {
        let mut stream = TcpStream::connect(cluster.socket(1, 7400)).expect("accepted");
        stream.write_all(&request[..at]).expect("sent");
        cluster.resp(1, 7400).command("PING");
        stream.write_all(&request[at..]).expect("sent");
        assert_eq!(read_binary(&mut stream).expect("a reply").status, 0, "split at {at}");
    }
}
