//! The program through a socket: what it answers has the length of what Coracle answers, whose own
//! encoder says it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use proto::resp::encode;

const VALUE_BYTES: usize = 64;
const DEADLINE: Duration = Duration::from_secs(60);

struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_coracle-echo"))
            .args(["--addr", "127.0.31.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let output = process.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on ").expect("its address");
        Server { process, address: address.parse().expect("an address") }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        stream.set_write_timeout(Some(DEADLINE)).expect("a deadline");
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Requests, and what Coracle answers to them if every key has a value.
fn exchange(count: usize) -> (Vec<u8>, Vec<u8>) {
    let (mut requests, mut answers) = (Vec::new(), Vec::new());
    let value = [b'v'; VALUE_BYTES];
    for number in 0..count {
        let key = format!("key:{number:012}").into_bytes();
        if number % 3 == 0 {
            encode::request(&mut requests, &[b"GET", &key]);
            encode::bulk(&mut answers, &value);
        } else {
            encode::request(&mut requests, &[b"SET", &key, &value]);
            encode::ok(&mut answers);
        }
    }
    (requests, answers)
}

#[test]
fn answers_have_the_length_of_coracles_however_the_requests_are_cut() {
    let server = Server::start();
    let (requests, answers) = exchange(500);
    for piece_bytes in [37, 700, requests.len()] {
        let mut stream = server.connect();
        for piece in requests.chunks(piece_bytes) {
            stream.write_all(piece).expect("sent");
        }
        let mut received = vec![0; answers.len()];
        stream.read_exact(&mut received).expect("as many bytes");
        assert_eq!(received.escape_ascii().to_string(), answers.escape_ascii().to_string());
        stream.shutdown(std::net::Shutdown::Write).expect("ended");
        assert_eq!(stream.read(&mut received).expect("the end"), 0, "pieces of {piece_bytes}");
    }
}

#[test]
fn more_answers_than_a_socket_takes_at_once_all_arrive() {
    let server = Server::start();
    let stream = server.connect();
    let mut requests = Vec::new();
    let count = 200_000;
    for _ in 0..count {
        encode::request(&mut requests, &[b"GET", b"k"]);
    }
    let mut answer = Vec::new();
    encode::bulk(&mut answer, &[b'v'; VALUE_BYTES]);
    std::thread::scope(|scope| {
        scope.spawn(|| (&stream).write_all(&requests).expect("sent"));
        let mut received = vec![0; answer.len() * count];
        (&stream).read_exact(&mut received).expect("all of them");
        assert!(received.chunks(answer.len()).all(|one| one == answer));
    });
}

#[test]
fn what_is_no_request_ends_the_connection_behind_the_answers_before_it() {
    let server = Server::start();
    let mut stream = server.connect();
    stream.write_all(b"*1\r\n$4\r\nPING\r\n?").expect("sent");
    let mut received = Vec::new();
    stream.read_to_end(&mut received).expect("the end");
    assert_eq!(received, b"+PONG\r\n");
    // Another connection does not notice.
    let mut stream = server.connect();
    stream.write_all(b"*1\r\n$4\r\nping\r\n").expect("sent");
    let mut received = [0; 7];
    stream.read_exact(&mut received).expect("an answer");
    assert_eq!(&received, b"+PONG\r\n");
}
