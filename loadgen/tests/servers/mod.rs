//! Servers in the process of a test, each on a port of its own choosing and following a script.

// Each test program uses a part of this.
#![allow(dead_code)]

pub mod etcd;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use loadgen::{Address, Mode, Options, Report, run};
use proto::memcached::{Command, Echo, Limits, ParsedRequest, Status, StoreMode, parse_request};

/// What a server does about a request.
pub enum Act {
    Say(Vec<u8>),
    /// Says it in pieces of one byte, each sent alone.
    Stutter(Vec<u8>),
    Ignore,
    Close,
}

pub type Script = dyn Fn(&[Vec<u8>]) -> Act + Send + Sync;

/// What a server of the binary protocol does about a command: it appends the reply, whose header
/// follows the request's.
pub type BinaryScript = dyn Fn(Command<'_>, Echo, &mut Vec<u8>) + Send + Sync;

/// A server that lives as long as this value.
pub struct Server {
    pub address: Address,
    ended: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Server {
    pub fn new(script: impl Fn(&[Vec<u8>]) -> Act + Send + Sync + 'static) -> Server {
        Server::on(TcpListener::bind("127.0.0.1:0").expect("a port"), Arc::new(script))
    }

    pub fn on(listener: TcpListener, script: Arc<Script>) -> Server {
        Server::conversing(listener, move |stream| converse(stream, &*script))
    }

    /// A server of the binary protocol.
    pub fn binary(
        script: impl Fn(Command<'_>, Echo, &mut Vec<u8>) + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        Server::conversing(listener, move |stream| converse_binary(stream, &script))
    }

    pub fn conversing(
        listener: TcpListener,
        converse: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Server {
        let address = Address::from(listener.local_addr().expect("an address"));
        let ended = Arc::new(AtomicBool::new(false));
        let streams = Arc::new(Mutex::new(Vec::new()));
        let server = Server { address, ended: Arc::clone(&ended), streams: Arc::clone(&streams) };
        let converse = Arc::new(converse);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                stream.set_nodelay(true).expect("an option");
                streams.lock().expect("a lock").push(stream.try_clone().expect("a handle"));
                let converse = Arc::clone(&converse);
                std::thread::spawn(move || converse(stream));
            }
        });
        server
    }

    /// Closes its port and all its connections.
    pub fn kill(&self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect((&*self.address.host, self.address.port));
        for stream in self.streams.lock().expect("a lock").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn converse(mut stream: TcpStream, script: &Script) {
    let (mut input, mut chunk) = (Vec::new(), [0; 64 << 10]);
    loop {
        let mut output = Vec::new();
        while let Some((arguments, length)) = parse(&input) {
            input.drain(..length);
            match script(&arguments) {
                Act::Say(reply) => output.extend_from_slice(&reply),
                Act::Ignore => {}
                Act::Stutter(reply) => {
                    for byte in output.drain(..).chain(reply) {
                        if stream.write_all(&[byte]).is_err() {
                            return;
                        }
                    }
                }
                Act::Close => {
                    let _ = stream.write_all(&output);
                    let _ = stream.shutdown(Shutdown::Both);
                    return;
                }
            }
        }
        if !exchange(&mut stream, &output, &mut input, &mut chunk) {
            return;
        }
    }
}

fn converse_binary(mut stream: TcpStream, script: &BinaryScript) {
    let (mut input, mut chunk) = (Vec::new(), [0; 64 << 10]);
    loop {
        let mut output = Vec::new();
        while let Ok(ParsedRequest::Request { request, length }) =
            parse_request(&input, &Limits::default())
        {
            let opcode = request.opcode().expect("an opcode");
            script(request.command, Echo { opcode, opaque: request.opaque }, &mut output);
            input.drain(..length);
        }
        if !exchange(&mut stream, &output, &mut input, &mut chunk) {
            return;
        }
    }
}

/// Sends what there is and receives what comes. False at the connection's end.
fn exchange(stream: &mut TcpStream, output: &[u8], input: &mut Vec<u8>, chunk: &mut [u8]) -> bool {
    if stream.write_all(output).is_err() {
        return false;
    }
    match stream.read(chunk) {
        Ok(received) if received > 0 => {
            input.extend_from_slice(&chunk[..received]);
            true
        }
        _ => false,
    }
}

/// A whole array of bulk strings at the start of `input`, and its length.
pub fn parse(input: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let number = |at: usize| {
        let end = at + input.get(at..)?.iter().position(|byte| *byte == b'\r')?;
        let text = std::str::from_utf8(input.get(at + 1..end)?).ok()?;
        Some((text.parse::<usize>().ok()?, end + 2))
    };
    let (count, mut at) = number(0)?;
    let mut arguments = Vec::new();
    for _ in 0..count {
        let (length, start) = number(at)?;
        arguments.push(input.get(start..start + length)?.to_vec());
        at = start + length + 2;
    }
    (at <= input.len()).then_some((arguments, at))
}

/// What a server keeps.
#[derive(Default)]
pub struct Store {
    pub values: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    pub gets: AtomicU64,
    pub sets: AtomicU64,
    /// What was asked for, in order, with the lengths of values instead of them.
    pub log: Mutex<Vec<Vec<String>>>,
}

impl Store {
    pub fn reply(&self, arguments: &[Vec<u8>]) -> Vec<u8> {
        let mut values = self.values.lock().expect("a lock");
        let word = |(place, argument): (usize, &Vec<u8>)| match place {
            2 => argument.len().to_string(),
            _ => String::from_utf8_lossy(argument).into_owned(),
        };
        let words = arguments.iter().enumerate().map(word).collect();
        self.log.lock().expect("a lock").push(words);
        match arguments[0].as_slice() {
            b"GET" => {
                self.gets.fetch_add(1, Ordering::Relaxed);
                values.get(&arguments[1]).map_or(b"$-1\r\n".to_vec(), |value| bulk(value))
            }
            b"SET" => {
                self.sets.fetch_add(1, Ordering::Relaxed);
                values.insert(arguments[1].clone(), arguments[2].clone());
                b"+OK\r\n".to_vec()
            }
            b"DEL" => format!(":{}\r\n", u8::from(values.remove(&arguments[1]).is_some())).into(),
            _ => b"-ERR unknown command\r\n".to_vec(),
        }
    }

    /// The same for the binary protocol.
    pub fn reply_packet(&self, command: Command<'_>, echo: Echo, output: &mut Vec<u8>) {
        let mut values = self.values.lock().expect("a lock");
        let name = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        let words = match command {
            Command::Get { key, .. } => {
                self.gets.fetch_add(1, Ordering::Relaxed);
                match values.get(key) {
                    Some(value) => echo.value(output, 1, 0, b"", value),
                    None => echo.error(output, Status::NOT_FOUND, b"Not found"),
                }
                vec!["GET".into(), name(key)]
            }
            Command::Store { mode: StoreMode::Set, key, value, expiration, .. } => {
                self.sets.fetch_add(1, Ordering::Relaxed);
                values.insert(key.to_vec(), value.to_vec());
                echo.ok(output, 1);
                let mut words = vec!["SET".into(), name(key), value.len().to_string()];
                if expiration > 0 {
                    words.extend(["EX".into(), expiration.to_string()]);
                }
                words
            }
            Command::Delete { key } => {
                match values.remove(key) {
                    Some(_) => echo.ok(output, 0),
                    None => echo.error(output, Status::NOT_FOUND, b"Not found"),
                }
                vec!["DEL".into(), name(key)]
            }
            _ => {
                echo.error(output, Status::UNKNOWN_COMMAND, b"");
                vec!["?".into(), "?".into()]
            }
        };
        self.log.lock().expect("a lock").push(words);
    }
}

pub fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

pub fn is(arguments: &[Vec<u8>], command: &str) -> bool {
    arguments[0] == command.as_bytes()
}

/// Whether it is the question by which a run sees whether the server is there.
pub fn is_probe(arguments: &[Vec<u8>]) -> bool {
    arguments.get(1).is_some_and(|key| key == b"loadgen:probe")
}

pub fn options(server: &Server, mode: Mode) -> Options {
    Options {
        connections: 10,
        keys: 1000,
        duration: None,
        requests: Some(10_000),
        ..Options::new(vec![server.address.clone()], mode)
    }
}

pub fn measure(options: Options) -> Report {
    run(options, &mut |_| {}).expect("a report")
}

/// Requests that ended, one way or the other.
pub fn settled(report: &Report) -> u64 {
    let errors = &report.errors;
    report.all.count + errors.not_done + errors.unknown + errors.protocol
}

/// Two servers, each of which leads the slots that `leads_first` says and redirects the rest.
pub struct Cluster {
    pub servers: Vec<Server>,
    pub stores: Vec<Arc<Store>>,
    /// Slots below this belong to the first server.
    pub border: Arc<AtomicU64>,
}

impl Cluster {
    pub fn new(border: u64, map_border: Option<u64>) -> Cluster {
        let listeners: Vec<TcpListener> =
            (0..2).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let addresses: Vec<Address> = listeners
            .iter()
            .map(|listener| Address::from(listener.local_addr().expect("an address")))
            .collect();
        let border = Arc::new(AtomicU64::new(border));
        let stores: Vec<Arc<Store>> = (0..2).map(|_| Arc::default()).collect();
        let mut servers = Vec::new();
        for (index, listener) in listeners.into_iter().enumerate() {
            let (border, addresses) = (Arc::clone(&border), addresses.clone());
            let store = Arc::clone(&stores[index]);
            let script = move |arguments: &[Vec<u8>]| {
                let now = border.load(Ordering::Relaxed);
                if is(arguments, "CLUSTER") {
                    return Act::Say(slots(&addresses, map_border.unwrap_or(now)));
                }
                let slot = u64::from(proto::slot::slot_of(&arguments[1]));
                let owner = usize::from(slot >= now);
                if owner == index {
                    return Act::Say(store.reply(arguments));
                }
                Act::Say(format!("-MOVED {slot} {}\r\n", addresses[owner]).into_bytes())
            };
            servers.push(Server::on(listener, Arc::new(script)));
        }
        Cluster { servers, stores, border }
    }

    pub fn seen(&self) -> [u64; 2] {
        [0, 1].map(|index| {
            let store = &self.stores[index];
            store.gets.load(Ordering::Relaxed) + store.sets.load(Ordering::Relaxed)
        })
    }
}

fn slots(addresses: &[Address], border: u64) -> Vec<u8> {
    let ranges = [(0, border), (border, 16_384)];
    let ranges = ranges.iter().zip(addresses).filter(|((first, end), _)| first < end);
    let texts: Vec<String> = ranges
        .map(|((first, end), address)| {
            let (host, port) = (&address.host, address.port);
            format!(
                "*3\r\n:{first}\r\n:{}\r\n*2\r\n${}\r\n{host}\r\n:{port}\r\n",
                end - 1,
                host.len()
            )
        })
        .collect();
    format!("*{}\r\n{}", texts.len(), texts.concat()).into_bytes()
}
