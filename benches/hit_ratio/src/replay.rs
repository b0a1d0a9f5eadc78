//! Replays a trace against servers as the client of a look-aside cache does: it reads, and what it
//! misses it writes.
//!
//! Some workers take the next batch of the trace in turn, so all of them together are never further
//! apart than a batch each, and the order of the trace is kept that closely. A worker sends the
//! reads of its batch at once, beside them the writes that its last batch left behind, on a
//! connection of their own: a server may treat reads behind writes of one connection differently,
//! and what is compared here is how reads count. So a key that was missed is written at most
//! `workers × batch` requests later.
//!
//! When a connection breaks, what it did not answer counts as errors, and the worker goes on at the
//! next server. Nothing is tried twice.

use std::net::SocketAddr;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::trace::{KeyId, Kind, Request, Tally, Trace, Windows};
use crate::wire::{Connection, Protocol, Reply, WireError, belongs};

/// How long one reply may take.
const REPLY_DEADLINE: Duration = Duration::from_secs(5);
/// How long a worker looks for a server that takes its connection.
const RECONNECT_DEADLINE: Duration = Duration::from_secs(20);
/// How long it waits when none of them does.
const RECONNECT_PAUSE: Duration = Duration::from_millis(10);

/// Whom workers talk to.
#[derive(Clone, Debug)]
pub struct Servers {
    /// What they speak.
    pub protocol: Protocol,
    /// All of them.
    pub addresses: Vec<SocketAddr>,
    /// Workers begin spread over so many of them, from the first; the others are for later.
    pub begin_at: usize,
    /// Whether any replica may answer reads: connections that read say READONLY.
    pub read_replicas: bool,
}

/// How a trace is replayed.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Workers, each with a thread and two connections.
    pub workers: usize,
    /// Requests that a worker takes at a time.
    pub batch: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Requests of the trace a second, over all workers; without it as fast as they are answered.
    pub rate: Option<f64>,
}

/// What a replay found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Reads that count, by window.
    pub tallies: Vec<Tally>,
    /// When each window began, in seconds from the start.
    pub began_s: Vec<f64>,
    /// How long all took, in seconds.
    pub seconds: f64,
    /// Writes and removals that failed or were not answered.
    pub write_errors: u64,
    /// How often a worker had to look for another server.
    pub reconnects: u64,
    /// The first thing that went wrong, of those that the first worker with one saw.
    pub first_error: Option<String>,
}

/// Something that happens to the servers when the replay reaches a position of the trace.
pub struct Event<'a> {
    /// Where.
    pub position: usize,
    /// What.
    pub happen: &'a (dyn Fn() + Sync),
}

/// Replays the whole trace.
///
/// # Errors
/// If a worker found no server any more.
pub fn replay(
    trace: &Trace,
    windows: &Windows,
    servers: &Servers,
    pace: &Pace,
    event: Option<&Event<'_>>,
) -> Result<Outcome, WireError> {
    let shared = Shared {
        trace,
        windows,
        servers,
        pace,
        event,
        happened: Once::new(),
        next: AtomicUsize::new(0),
        began: Instant::now(),
    };
    let results: Vec<Result<Outcome, WireError>> = thread::scope(|scope| {
        let shared = &shared;
        let workers = (0..pace.workers)
            .map(|worker| scope.spawn(move || Worker::new(shared, worker)?.run()))
            .collect::<Vec<_>>();
        let joined = workers.into_iter().map(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    });
    let mut whole = Outcome::new(windows.count);
    whole.seconds = shared.began.elapsed().as_secs_f64();
    for part in results {
        whole.add(part?);
    }
    // A window shorter than a batch may have begun within another one's batch.
    for window in (0..windows.count).rev() {
        let next = whole.began_s.get(window + 1).copied().unwrap_or(whole.seconds);
        whole.began_s[window] = whole.began_s[window].min(next);
    }
    Ok(whole)
}

impl Outcome {
    fn new(windows: usize) -> Outcome {
        Outcome {
            tallies: vec![Tally::default(); windows],
            began_s: vec![f64::INFINITY; windows],
            seconds: 0.0,
            write_errors: 0,
            reconnects: 0,
            first_error: None,
        }
    }

    fn add(&mut self, part: Outcome) {
        for (tally, more) in self.tallies.iter_mut().zip(&part.tallies) {
            tally.add(more);
        }
        for (began, other) in self.began_s.iter_mut().zip(part.began_s) {
            *began = began.min(other);
        }
        self.write_errors += part.write_errors;
        self.reconnects += part.reconnects;
        self.first_error = self.first_error.take().or(part.first_error);
    }
}

struct Shared<'a> {
    trace: &'a Trace,
    windows: &'a Windows,
    servers: &'a Servers,
    pace: &'a Pace,
    event: Option<&'a Event<'a>>,
    happened: Once,
    /// The position of the first request that nobody has taken.
    next: AtomicUsize,
    began: Instant,
}

/// The two connections of a worker.
struct Pair {
    reads: Connection,
    writes: Connection,
}

struct Worker<'a> {
    shared: &'a Shared<'a>,
    pair: Pair,
    /// Which of the addresses it talks to.
    server: usize,
    outcome: Outcome,
    /// Writes and removals that go out with the next batch.
    pending: Vec<Request>,
    requests: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared<'a>, number: usize) -> Result<Worker<'a>, WireError> {
        let server = number % shared.servers.begin_at.max(1);
        let pair = Pair::open(shared.servers, server)?;
        let outcome = Outcome::new(shared.windows.count);
        Ok(Worker { shared, pair, server, outcome, pending: Vec::new(), requests: Vec::new() })
    }

    fn run(mut self) -> Result<Outcome, WireError> {
        let (trace, batch) = (self.shared.trace, self.shared.pace.batch.max(1));
        loop {
            let start = self.shared.next.fetch_add(batch, Ordering::Relaxed);
            let taken = trace.requests.get(start..).unwrap_or_default();
            let taken = &taken[..taken.len().min(batch)];
            if taken.is_empty() && self.pending.is_empty() {
                return Ok(self.outcome);
            }
            self.wait_until_due(start);
            self.let_happen(start + taken.len());
            if !taken.is_empty() {
                let now = self.shared.began.elapsed().as_secs_f64();
                let began = &mut self.outcome.began_s[self.shared.windows.of(start)];
                *began = began.min(now);
            }
            self.exchange(start, taken)?;
        }
    }

    fn wait_until_due(&self, position: usize) {
        if let Some(rate) = self.shared.pace.rate {
            let due = self.shared.began + Duration::from_secs_f64(position as f64 / rate);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }

    /// Whoever comes first lets the event happen; the others wait for it here, or are in the midst
    /// of an exchange, which is where an event is to meet some of them.
    fn let_happen(&self, end: usize) {
        if let Some(event) = self.shared.event
            && end > event.position
        {
            self.shared.happened.call_once(event.happen);
        }
    }

    /// Sends the reads of a batch with the writes that wait, and takes all replies. The batch's own
    /// writes wait for the next one.
    fn exchange(&mut self, start: usize, taken: &[Request]) -> Result<(), WireError> {
        let writes = std::mem::take(&mut self.pending);
        self.pending.extend(taken.iter().filter(|request| !is_read(request)));
        let mut reads_left = taken.iter().filter(|request| is_read(request)).count();
        let mut writes_left = writes.len();
        let sent = self.send(taken, &writes);
        let done =
            sent.and_then(|()| self.take_replies(start, taken, &mut reads_left, &mut writes_left));
        let Err(error) = done else { return Ok(()) };
        self.note(|| error.to_string());
        self.outcome.write_errors += writes_left as u64;
        // What has no answer stands at the end of the batch, since answers come in order.
        let unanswered = taken.iter().enumerate().filter(|(_, request)| is_read(request)).rev();
        for (offset, request) in unanswered.take(reads_left) {
            if request.kind == Kind::Read {
                self.outcome.tallies[self.shared.windows.of(start + offset)].errors += 1;
            }
        }
        self.reconnect()
    }

    fn send(&mut self, taken: &[Request], writes: &[Request]) -> Result<(), WireError> {
        let (protocol, pace) = (self.shared.servers.protocol, self.shared.pace);
        self.requests.clear();
        for request in writes {
            match request.kind {
                Kind::Delete => protocol.delete(request.key, &mut self.requests),
                _ => protocol.set(request.key, pace.value_bytes, &mut self.requests),
            }
        }
        self.pair.writes.send(&self.requests)?;
        self.requests.clear();
        for request in taken.iter().filter(|request| is_read(request)) {
            protocol.get(request.key, &mut self.requests);
        }
        self.pair.reads.send(&self.requests)
    }

    fn take_replies(
        &mut self,
        start: usize,
        taken: &[Request],
        reads_left: &mut usize,
        writes_left: &mut usize,
    ) -> Result<(), WireError> {
        let value_bytes = self.shared.pace.value_bytes;
        for (offset, request) in taken.iter().enumerate() {
            if !is_read(request) {
                continue;
            }
            let found = self.pair.reads.reply(|reply| found(reply, request.key, value_bytes))?;
            *reads_left -= 1;
            if matches!(found, Ok(false)) {
                self.pending.push(Request { key: request.key, kind: Kind::Write });
            }
            let tally = &mut self.outcome.tallies[self.shared.windows.of(start + offset)];
            match (request.kind, &found) {
                (Kind::Read, Ok(found)) => tally.count(*found),
                (Kind::Read, Err(_)) => tally.errors += 1,
                _ => {}
            }
            if let Err(error) = found {
                self.note(|| error);
            }
        }
        while *writes_left > 0 {
            let failed = self.pair.writes.reply(|reply| match reply {
                Reply::Error(error) => Some(String::from_utf8_lossy(error).into_owned()),
                _ => None,
            })?;
            *writes_left -= 1;
            if let Some(error) = failed {
                self.outcome.write_errors += 1;
                self.note(|| error);
            }
        }
        Ok(())
    }

    fn note(&mut self, error: impl FnOnce() -> String) {
        self.outcome.first_error.get_or_insert_with(error);
    }

    /// Goes on at the next server that takes a connection.
    fn reconnect(&mut self) -> Result<(), WireError> {
        let deadline = Instant::now() + RECONNECT_DEADLINE;
        loop {
            self.server = (self.server + 1) % self.shared.servers.addresses.len();
            match Pair::open(self.shared.servers, self.server) {
                Ok(pair) => {
                    self.pair = pair;
                    self.outcome.reconnects += 1;
                    return Ok(());
                }
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => thread::sleep(RECONNECT_PAUSE),
            }
        }
    }
}

impl Pair {
    fn open(servers: &Servers, server: usize) -> Result<Pair, WireError> {
        let open = || Connection::open(servers.addresses[server], servers.protocol, REPLY_DEADLINE);
        let (mut reads, writes) = (open()?, open()?);
        if servers.read_replicas {
            let reply = reads.ask("READONLY")?;
            if reply != "OK" {
                return Err(WireError::Malformed(format!("READONLY is answered by {reply}")));
            }
        }
        Ok(Pair { reads, writes })
    }
}

fn is_read(request: &Request) -> bool {
    matches!(request.kind, Kind::Read | Kind::Scan)
}

/// Whether a read found its value, or what is wrong with the reply.
fn found(reply: Reply<'_>, key: KeyId, value_bytes: usize) -> Result<bool, String> {
    match reply {
        Reply::Value(value) if belongs(value, key, value_bytes) => Ok(true),
        Reply::Value(_) => Err("a value that belongs to another key".into()),
        Reply::Missing => Ok(false),
        Reply::Error(text) | Reply::Line(text) => Err(String::from_utf8_lossy(text).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex, PoisonError};

    /// Keeps keys without limit in the text protocol of memcached, and breaks a connection when
    /// more than `gets_max` reads have been answered by it. Ends with its process.
    struct Scripted {
        address: SocketAddr,
        keys: Arc<Mutex<HashSet<String>>>,
    }

    fn scripted(gets_max: usize) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let keys = Arc::new(Mutex::new(HashSet::new()));
        let shared = Arc::clone(&keys);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let keys = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &keys, gets_max));
            }
        });
        Scripted { address, keys }
    }

    fn serve(stream: TcpStream, keys: &Mutex<HashSet<String>>, gets_max: usize) -> Option<()> {
        let mut answers = stream.try_clone().ok()?;
        let mut lines = BufReader::new(stream);
        let mut gets = 0;
        loop {
            let mut line = String::new();
            lines.read_line(&mut line).ok().filter(|&bytes| bytes > 0)?;
            let mut words = line.split_whitespace();
            let (command, key) = (words.next()?.to_owned(), words.next()?.to_owned());
            let answer = match command.as_str() {
                "get" if gets == gets_max => return None,
                "get" => {
                    gets += 1;
                    let held = keys.lock().unwrap_or_else(PoisonError::into_inner);
                    let value = format!("VALUE {key} 0 16\r\n{key}\r\nEND\r\n");
                    if held.contains(&key) { value } else { "END\r\n".to_owned() }
                }
                "set" => {
                    let mut value = [0; 18];
                    lines.read_exact(&mut value).ok()?;
                    keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
                    "STORED\r\n".to_owned()
                }
                _ => {
                    keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                    "DELETED\r\n".to_owned()
                }
            };
            answers.write_all(answer.as_bytes()).ok()?;
        }
    }

    fn servers(scripted: &[&Scripted]) -> Servers {
        let addresses = scripted.iter().map(|server| server.address).collect();
        Servers { protocol: Protocol::Memcached, addresses, begin_at: 1, read_replicas: false }
    }

    fn requests(kind: Kind, keys: std::ops::Range<u32>) -> impl Iterator<Item = Request> {
        keys.map(move |key| Request { key: KeyId(key), kind })
    }

    fn trace(requests: impl Iterator<Item = Request>) -> Trace {
        Trace { name: "t".into(), requests: requests.collect(), keys: 1_000 }
    }

    const PACE: Pace = Pace { workers: 1, batch: 10, value_bytes: 16, rate: None };

    #[test]
    fn a_miss_is_written_and_found_later_and_scans_do_not_count() {
        let server = scripted(usize::MAX);
        let reads = requests(Kind::Read, 0..40).chain(requests(Kind::Scan, 40..50));
        let again = requests(Kind::Write, 50..60).chain(requests(Kind::Delete, 0..10));
        let trace = trace(reads.chain(again).chain(requests(Kind::Read, 0..60)));
        let windows = Windows::new(trace.requests.len(), 2, 0.0);
        let outcome = replay(&trace, &windows, &servers(&[&server]), &PACE, None);
        let outcome = outcome.expect("a replay");
        // The removals meet the last ten reads of their keys' batch: they went out with it.
        let total = windows.total(&outcome.tallies);
        assert_eq!(total.errors, 0, "{:?}", outcome.first_error);
        assert_eq!(total.hits + total.misses, 100);
        assert!((50..=60).contains(&total.hits), "{total:?}");
        assert_eq!(outcome.tallies[0].hits, 0);
        assert_eq!((outcome.write_errors, outcome.reconnects), (0, 0));
        assert!(outcome.began_s.is_sorted() && outcome.began_s[1] <= outcome.seconds);
    }

    #[test]
    fn what_a_broken_connection_owes_is_an_error_and_the_next_server_goes_on() {
        let (first, second) = (scripted(25), scripted(usize::MAX));
        let trace = trace(requests(Kind::Read, 0..100));
        let windows = Windows::new(100, 1, 0.0);
        let outcome = replay(&trace, &windows, &servers(&[&first, &second]), &PACE, None);
        let outcome = outcome.expect("a replay");
        assert_eq!(outcome.tallies, [Tally { hits: 0, misses: 95, errors: 5 }]);
        assert_eq!(outcome.reconnects, 1);
        assert!(outcome.first_error.is_some());
        // What was missed in the batch that broke is written at the next server.
        let held = second.keys.lock().unwrap_or_else(PoisonError::into_inner).len();
        assert_eq!(held, 75);
    }

    #[test]
    fn the_event_happens_once_and_before_its_position_is_read() {
        let server = scripted(usize::MAX);
        let trace = trace(requests(Kind::Read, 0..500));
        let windows = Windows::new(500, 5, 0.0);
        let times = AtomicUsize::new(0);
        let happen = || {
            times.fetch_add(1, Ordering::Relaxed);
        };
        let event = Event { position: 300, happen: &happen };
        let pace = Pace { workers: 4, ..PACE };
        let outcome = replay(&trace, &windows, &servers(&[&server]), &pace, Some(&event));
        assert_eq!(windows.total(&outcome.expect("a replay").tallies).misses, 500);
        assert_eq!(times.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_value_of_another_key_is_an_error() {
        let value = KeyId(1).on_the_wire();
        assert_eq!(found(Reply::Value(&value), KeyId(1), 16), Ok(true));
        assert!(found(Reply::Value(&value), KeyId(2), 16).is_err());
        assert_eq!(found(Reply::Missing, KeyId(2), 16), Ok(false));
    }
}
