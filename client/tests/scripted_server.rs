//! The client against servers that follow a script: redirects, losses, refusals, silence.
//!
//! Each server runs on a port of its own choosing and answers by a closure that sees the
//! arguments of each request. Nothing here sleeps or measures time; where a deadline must pass,
//! the test asks only what the outcome is.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use client::{
    Address, Class, Client, Command, Error, Options, Protocol, ReadFrom, Reply, Routing, SetOptions,
};

/// What a server does about a request.
enum Act {
    Say(String),
    Ignore,
    Close,
}

type Script = dyn Fn(&[String]) -> Act + Send + Sync;

fn serve(script: impl Fn(&[String]) -> Act + Send + Sync + 'static) -> Address {
    serve_on(TcpListener::bind("127.0.0.1:0").expect("a port"), Arc::new(script))
}

fn serve_on(listener: TcpListener, script: Arc<Script>) -> Address {
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let script = Arc::clone(&script);
            std::thread::spawn(move || converse(stream, &*script));
        }
    });
    address.into()
}

fn converse(stream: TcpStream, script: &Script) {
    let mut writer = stream.try_clone().expect("a second handle");
    let mut reader = BufReader::new(stream);
    while let Some(arguments) = read_request(&mut reader) {
        match script(&arguments) {
            Act::Say(reply) => {
                if writer.write_all(reply.as_bytes()).is_err() {
                    return;
                }
            }
            Act::Ignore => {}
            Act::Close => return,
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Vec<String>> {
    let count = read_number(reader)?;
    let mut arguments = Vec::new();
    for _ in 0..count {
        let mut bytes = vec![0; read_number(reader)? + 2];
        reader.read_exact(&mut bytes).ok()?;
        bytes.truncate(bytes.len() - 2);
        arguments.push(String::from_utf8(bytes).ok()?);
    }
    Some(arguments)
}

fn read_number(reader: &mut impl BufRead) -> Option<usize> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    line.get(1..)?.trim_end().parse().ok()
}

fn bulk(text: &str) -> Act {
    Act::Say(format!("${}\r\n{text}\r\n", text.len()))
}

/// One range of all slots with these servers, the leader first.
fn slots(servers: &[&Address]) -> Act {
    let mut text = format!("*1\r\n*{}\r\n:0\r\n:16383\r\n", servers.len() + 2);
    for server in servers {
        let (host, port) = (&server.host, server.port);
        text += &format!("*2\r\n${}\r\n{host}\r\n:{port}\r\n", host.len());
    }
    Act::Say(text)
}

fn is(arguments: &[String], command: &str) -> bool {
    arguments.first().is_some_and(|first| first == command)
}

fn direct(seeds: Vec<Address>) -> Client {
    let options = Options { routing: Routing::Direct, ..Options::new(seeds) };
    Client::connect(options).expect("a client")
}

fn short(options: Options) -> Client {
    let deadline = Duration::from_millis(300);
    Client::connect(Options { deadline, ..options }).expect("a client")
}

/// A listener whose address can be told to others before it serves.
fn reserved() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").into();
    (listener, address)
}

#[test]
fn a_pipeline_returns_outcomes_in_the_order_of_its_commands() {
    let server = serve(|arguments| match arguments[0].as_str() {
        "GET" => bulk(&arguments[1]),
        "SET" => Act::Say("+OK\r\n".into()),
        "INCRBY" => Act::Say(format!(":{}\r\n", arguments[2])),
        _ => Act::Say("-ERR unknown command\r\n".into()),
    });
    let options =
        Options { routing: Routing::Direct, in_flight_max: 3, ..Options::new(vec![server]) };
    let mut client = Client::connect(options).expect("a client");
    let keys: Vec<String> = (0..1000).map(|number| format!("key{number}")).collect();
    let mut commands: Vec<Command<'_>> =
        keys.iter().map(|key| Command::Get { key: key.as_bytes() }).collect();
    commands.push(Command::Increment { key: b"n", delta: -3 });
    commands.push(Command::Delete { key: b"n" });
    let outcomes = client.pipeline(&commands);
    for (key, outcome) in keys.iter().zip(&outcomes) {
        let Ok(Reply::Value(Some(value))) = outcome else { panic!("{outcome:?}") };
        assert_eq!(value.bytes, key.as_bytes());
    }
    assert!(matches!(outcomes[1000], Ok(Reply::Counter(-3))));
    let Err(error @ Error::Refused { .. }) = &outcomes[1001] else { panic!("a refusal") };
    assert_eq!(error.class(), Class::NotDone);
}

#[test]
fn moved_is_followed_and_the_map_fetched_again() {
    let (old_listener, old) = reserved();
    let new = serve(|arguments| match arguments[0].as_str() {
        "SET" => Act::Say("+OK\r\n".into()),
        _ => Act::Say("-ERR not here\r\n".into()),
    });
    let moved_to = new.clone();
    let asked = Arc::new(AtomicUsize::new(0));
    let (asked_by, seed) = (Arc::clone(&asked), old.clone());
    serve_on(
        old_listener,
        Arc::new(move |arguments: &[String]| {
            if is(arguments, "CLUSTER") {
                // The first map is out of date, the next one is not.
                let first = asked_by.fetch_add(1, Ordering::Relaxed) == 0;
                return slots(&[if first { &seed } else { &moved_to }]);
            }
            Act::Say(format!("-MOVED 0 {moved_to}\r\n"))
        }),
    );
    let mut client = Client::connect(Options::new(vec![old])).expect("a client");
    client.set(b"06S", b"value").expect("a redirected write");
    // Fetches are rate-limited, so it takes some calls.
    let deadline = Instant::now() + Duration::from_secs(10);
    while client.cluster_map().servers() != [new.clone()] && Instant::now() < deadline {
        client.set(b"any", b"value").expect("a write");
    }
    assert_eq!(client.cluster_map().servers(), [new]);
}

#[test]
fn ask_is_announced_and_changes_no_map() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seen_by = Arc::clone(&seen);
    let importer = serve(move |arguments| {
        seen_by.lock().expect("a lock").push(arguments[0].clone());
        if is(arguments, "ASKING") { Act::Say("+OK\r\n".into()) } else { bulk("there") }
    });
    let (listener, leader) = reserved();
    let (leader_address, importer_address) = (leader.clone(), importer);
    serve_on(
        listener,
        Arc::new(move |arguments: &[String]| match arguments[0].as_str() {
            "CLUSTER" => slots(&[&leader_address]),
            _ => Act::Say(format!("-ASK 7 {importer_address}\r\n")),
        }),
    );
    let mut client = Client::connect(Options::new(vec![leader.clone()])).expect("a client");
    assert_eq!(client.get(b"k").expect("a value").expect("a hit").bytes, b"there");
    assert_eq!(*seen.lock().expect("a lock"), ["ASKING", "GET"]);
    assert_eq!(client.cluster_map().servers(), [leader]);
}

#[test]
fn servers_that_redirect_in_a_circle_end_as_not_done() {
    let (listener, address) = reserved();
    let own = address.clone();
    serve_on(
        listener,
        Arc::new(move |arguments: &[String]| match arguments[0].as_str() {
            "CLUSTER" => slots(&[&own]),
            _ => Act::Say(format!("-MOVED 7 {own}\r\n")),
        }),
    );
    let mut client = short(Options::new(vec![address]));
    let error = client.set(b"k", b"v").expect_err("no server takes it");
    assert_eq!(error.class(), Class::NotDone, "{error}");
}

#[test]
fn a_lost_connection_leaves_writes_unknown_and_repeats_reads() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let server = serve(move |arguments| {
        let first_of_its_kind = counted.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        match arguments[0].as_str() {
            "GET" if !first_of_its_kind => bulk("again"),
            _ => Act::Close,
        }
    });
    let mut client = direct(vec![server]);
    assert_eq!(client.get(b"k").expect("a value").expect("a hit").bytes, b"again");
    let error = client.set(b"k", b"v").expect_err("a lost connection");
    assert!(matches!(error, Error::ConnectionLost { class: Class::Unknown, .. }), "{error}");
    assert_eq!(requests.load(Ordering::Relaxed), 3, "the write was sent once");
}

#[test]
fn silence_ends_at_the_deadline_by_class_and_its_late_reply_is_not_mistaken() {
    let server = serve(|arguments| match arguments.get(1).map(String::as_str) {
        Some("silent") => Act::Ignore,
        _ => bulk("own"),
    });
    let options = Options { routing: Routing::Direct, ..Options::new(vec![server]) };
    let mut client = short(options);
    let set = SetOptions::default();
    let outcomes = client.pipeline(&[
        Command::Get { key: b"heard" },
        Command::Get { key: b"silent" },
        Command::Set { key: b"silent", value: b"v", options: set },
    ]);
    assert!(outcomes[0].is_ok());
    let classes: Vec<Class> =
        outcomes[1..].iter().filter_map(|o| o.as_ref().err().map(Error::class)).collect();
    assert_eq!(classes, [Class::NotDone, Class::Unknown]);
    assert_eq!(client.get(b"heard").expect("a value").expect("a hit").bytes, b"own");
}

#[test]
fn transient_refusals_are_repeated_and_others_are_not() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let server = serve(move |arguments| {
        match (counted.fetch_add(1, Ordering::Relaxed), arguments[1].as_str()) {
            (_, "oom") => Act::Say("-OOM full\r\n".into()),
            (_, "odd") => Act::Say("-ODD what\r\n".into()),
            (0..3, _) => Act::Say("-TRYAGAIN electing\r\n".into()),
            _ => Act::Say("+OK\r\n".into()),
        }
    });
    let mut client = direct(vec![server]);
    client.set(b"k", b"v").expect("done in the end");
    assert_eq!(requests.load(Ordering::Relaxed), 4);
    assert_eq!(client.set(b"oom", b"v").expect_err("full").class(), Class::NotDone);
    assert_eq!(client.set(b"odd", b"v").expect_err("strange").class(), Class::Unknown);
    assert_eq!(requests.load(Ordering::Relaxed), 6);
}

#[test]
fn another_seed_is_used_when_one_is_down() {
    // A port that was given back could be the next test's; on this one nobody listens.
    let down = Address::from(SocketAddr::from(([127, 97, 53, 1], 1)));
    let up = serve(|arguments| if is(arguments, "GET") { bulk("v") } else { Act::Close });
    assert!(direct(vec![down.clone(), up]).get(b"k").expect("a value").is_some());
    let options = Options { routing: Routing::Direct, ..Options::new(vec![down]) };
    let error = short(options).set(b"k", b"v").expect_err("nobody there");
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert_eq!(error.class(), Class::NotDone);
}

#[test]
fn replicas_are_read_only_where_asked_and_told_so_first() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seen_by = Arc::clone(&seen);
    let replica = serve(move |arguments| {
        seen_by.lock().expect("a lock").push(arguments[0].clone());
        if is(arguments, "READONLY") { Act::Say("+OK\r\n".into()) } else { bulk("replica") }
    });
    let (listener, leader) = reserved();
    let own = leader.clone();
    serve_on(
        listener,
        Arc::new(move |arguments: &[String]| match arguments[0].as_str() {
            "CLUSTER" => slots(&[&own, &replica]),
            "GET" => bulk("leader"),
            _ => Act::Say("+OK\r\n".into()),
        }),
    );
    let mut plain = Client::connect(Options::new(vec![leader.clone()])).expect("a client");
    assert_eq!(plain.get(b"k").expect("a value").expect("a hit").bytes, b"leader");
    assert!(seen.lock().expect("a lock").is_empty());
    let options = Options { read_from: ReadFrom::Replica, ..Options::new(vec![leader]) };
    let mut spread = Client::connect(options).expect("a client");
    let mut values: Vec<Vec<u8>> =
        (0..4).map(|_| spread.get(b"k").expect("a value").expect("a hit").bytes).collect();
    spread.set(b"k", b"v").expect("a write");
    values.sort();
    assert_eq!(values, [&b"leader"[..], b"leader", b"replica", b"replica"]);
    assert_eq!(*seen.lock().expect("a lock"), ["READONLY", "GET", "GET"]);
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let seed: Address = "127.0.0.1:1".parse().expect("an address");
    for options in [
        Options::new(vec![]),
        Options { protocol: Protocol::Binary, ..Options::new(vec![seed.clone()]) },
        Options { in_flight_max: 0, ..Options::new(vec![seed]) },
    ] {
        assert!(matches!(Client::connect(options), Err(Error::Invalid(_))));
    }
}
