//! A session between a client that sends bytes and an engine in miniature, which answers in any
//! order it likes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proto::memcached::{
    Command, Direction, Loudness, ParsedResponse, Request, ReturnKey, Status as Wire, StoreMode,
    parse_response,
};
use shards::command::{Command as EngineCommand, Operation, RequestBatch, SetCondition};
use shards::contract::{Durability, Now};
use shards::ids::{CoreIndex, Millis, Nanos, ShardId, Version};
use shards::reply::{Replies, Reply, Status, Token};

use crate::cluster_map::ClusterMap;
use crate::cluster_map::tests::{layout, preferred_leaders};
use crate::session::clients::ClientDirectory;
use crate::session::context::{NodeTotals, SessionCounters};
use crate::session::{BufferPool, PortKind, ServerFacts, Session, SessionContext};

pub const VALUE_BYTES_MAX: usize = 1_000;

/// SplitMix64 with a seed that is printed.
pub struct Seeded(pub u64);

impl Seeded {
    pub fn new(name: &str) -> Self {
        let seed = std::env::var("CORACLE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(0x0b1a_57ed);
        println!("{name}: CORACLE_TEST_SEED={seed}");
        Seeded(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub value: Vec<u8>,
    pub flags: u32,
    pub version: u64,
}

/// A store without time: enough to tell outcomes apart.
#[derive(Default)]
pub struct Model {
    pub entries: BTreeMap<Vec<u8>, Entry>,
    version: u64,
    /// Answers everything with this instead.
    pub failure: Option<Status>,
}

impl Model {
    fn run(&mut self, token: Token, command: &EngineCommand<'_>) -> (Reply, Option<Vec<u8>>) {
        let mut reply = Reply::bare(token, Status::Ok);
        if let Some(status) = self.failure {
            reply.status = status;
            return (reply, None);
        }
        self.version += 1;
        let old = self.entries.get(command.key);
        match outcome(&command.operation, old, self.version) {
            Err(status) => reply.status = status,
            Ok(Change::None) => {}
            Ok(Change::Remove) if command.key.is_empty() => self.entries.clear(),
            Ok(Change::Remove) => drop(self.entries.remove(command.key)),
            Ok(Change::Store(entry)) => drop(self.entries.insert(command.key.to_vec(), entry)),
        }
        let Some(entry) = self.entries.get(command.key).filter(|_| reply.status == Status::Ok)
        else {
            return (reply, None);
        };
        (reply.version, reply.flags) = (Version(entry.version), entry.flags);
        let value = match command.operation {
            Operation::Get { .. } | Operation::Expire { return_value: true, .. } => {
                Some(&entry.value)
            }
            Operation::Count { .. } => {
                reply.number = number_of(entry).expect("a number that was just stored");
                None
            }
            _ => None,
        };
        (reply, value.cloned())
    }
}

/// What a command does to its key.
enum Change {
    None,
    Remove,
    Store(Entry),
}

fn number_of(entry: &Entry) -> Option<u64> {
    std::str::from_utf8(&entry.value).ok()?.parse().ok()
}

fn outcome(operation: &Operation<'_>, old: Option<&Entry>, next: u64) -> Result<Change, Status> {
    let check = |version: Version| match old {
        None => Err(Status::NotFound),
        Some(old) if ![0, old.version].contains(&version.0) => Err(Status::ConditionFailed),
        Some(old) => Ok(old),
    };
    let any = Version(0);
    Ok(match *operation {
        Operation::Get { .. } | Operation::Expire { .. } => check(any).map(|_| Change::None)?,
        Operation::Set { value, flags, condition, .. } => {
            match condition {
                SetCondition::IfAbsent if old.is_some() => return Err(Status::Exists),
                SetCondition::Always | SetCondition::IfAbsent => {}
                SetCondition::IfPresent => drop(check(any)?),
                SetCondition::IfVersion(version) => drop(check(version)?),
            }
            Change::Store(Entry { value: value.to_vec(), flags, version: next })
        }
        Operation::Extend { end, value, version, .. } => {
            let old = check(version)?;
            let value = match end {
                shards::command::End::Front => [value, &old.value].concat(),
                shards::command::End::Back => [&old.value, value].concat(),
            };
            Change::Store(Entry { value, version: next, flags: old.flags })
        }
        Operation::Count { delta, decrement, initial, version } => {
            let number = match (old, initial) {
                (None, None) => return Err(Status::NotFound),
                (None, Some((initial, _))) => initial,
                (Some(_), _) => {
                    let number = number_of(check(version)?).ok_or(Status::NotANumber)?;
                    if decrement {
                        number.saturating_sub(delta)
                    } else {
                        number.wrapping_add(delta)
                    }
                }
            };
            let flags = old.map_or(0, |entry| entry.flags);
            Change::Store(Entry { value: number.to_string().into_bytes(), flags, version: next })
        }
        Operation::Delete { version, .. } => check(version).map(|_| Change::Remove)?,
        Operation::Flush => Change::Remove,
        Operation::Inspect { .. }
        | Operation::KeyCount
        | Operation::Increment { .. }
        | Operation::Limit { .. } => {
            return Err(Status::Invalid);
        }
    })
}

/// A session with everything around it.
pub struct Harness {
    pub session: Session,
    pub requests: RequestBatch,
    pub cluster: ClusterMap,
    pub facts: ServerFacts,
    pub clients: ClientDirectory,
    pub buffers: BufferPool,
    pub counters: SessionCounters,
    pub model: Model,
    /// Every command that reached the engine, with its shard.
    pub seen: Vec<(ShardId, Vec<u8>)>,
    /// What the client has sent and the session has not consumed.
    pub unconsumed: Vec<u8>,
    pub received: Vec<u8>,
    pub shuffle: Option<Seeded>,
}

impl Harness {
    pub fn new(port: PortKind) -> Self {
        let mut cluster = ClusterMap::new(layout(32));
        preferred_leaders(&mut cluster);
        let mut clients = ClientDirectory::new(CoreIndex(0), 2);
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let now = Now { monotonic: Nanos(5_000_000_000), wall: Millis(1_700_000_000_000) };
        let session = Session::new(7, port, address, address, now, &mut clients);
        Harness {
            session,
            requests: RequestBatch::default(),
            cluster,
            facts: ServerFacts {
                run_id: "r".repeat(40),
                process_id: 4_711,
                started: Now::default(),
                cores: 2,
                port: 7_400,
                memory_bytes: 1 << 30,
                eviction: shards::ids::Eviction::Lru,
                connections_max: 10_000,
                value_bytes_max: VALUE_BYTES_MAX,
                durability: Durability::Memory,
                totals: NodeTotals {
                    hits: 3,
                    cpu_user: Duration::from_millis(1_500),
                    ..NodeTotals::default()
                },
            },
            clients,
            buffers: BufferPool::default(),
            counters: SessionCounters::default(),
            model: Model::default(),
            seen: Vec::new(),
            unconsumed: Vec::new(),
            received: Vec::new(),
            shuffle: None,
        }
    }

    /// Gives bytes to the session, runs the engine until nothing moves, and takes the output.
    pub fn send(&mut self, bytes: &[u8]) {
        self.unconsumed.extend_from_slice(bytes);
        loop {
            let mut context = SessionContext {
                now: Now { monotonic: Nanos(9_000_000_000), wall: Millis(1_700_000_004_000) },
                requests: &mut self.requests,
                cluster: &self.cluster,
                facts: &self.facts,
                clients: &mut self.clients,
                buffers: &mut self.buffers,
                counters: &mut self.counters,
            };
            let received = self.session.receive(&self.unconsumed, &mut context);
            assert!(received.consumed <= self.unconsumed.len());
            self.unconsumed.drain(..received.consumed);
            let was_empty = self.requests.is_empty();
            self.run_engine();
            self.received.extend_from_slice(self.session.output());
            let length = self.session.output().len();
            self.session.consume_output(length, &mut self.buffers);
            if (was_empty && received.consumed == 0) || self.session.is_closing() {
                break;
            }
        }
    }

    fn run_engine(&mut self) {
        let mut replies = Replies::default();
        for request in self.requests.requests() {
            let bytes = self.requests.command_bytes(request);
            self.seen.push((request.shard, bytes.to_vec()));
            let (command, _) = EngineCommand::decode(bytes).expect("an encoded command");
            let (reply, value) = self.model.run(request.token, &command);
            replies.push(reply, value.as_deref());
        }
        self.requests.clear();
        let mut headers = replies.headers.clone();
        if let Some(seeded) = &mut self.shuffle {
            for last in (1..headers.len()).rev() {
                headers.swap(last, seeded.below(last + 1));
            }
        }
        for reply in &headers {
            self.session.reply(reply, replies.value(reply), &mut self.buffers);
        }
    }

    pub fn request(&mut self, request: Request<'_>) {
        let bytes = encoded(&[request]);
        self.send(&bytes);
    }

    /// The responses received since the last call.
    pub fn responses(&mut self) -> Vec<Answer> {
        let bytes = std::mem::take(&mut self.received);
        answers(&bytes)
    }

    /// Sends one request and takes its one response.
    pub fn ask(&mut self, request: Request<'_>) -> Answer {
        self.request(request);
        let mut responses = self.responses();
        assert_eq!(responses.len(), 1, "{request:?} was answered with {responses:?}");
        responses.remove(0)
    }

    pub fn set(&mut self, key: &[u8], value: &[u8]) -> u64 {
        let answer = self.ask(Request::new(store(StoreMode::Set, key, value), 0));
        assert_eq!(answer.status, Wire::OK);
        answer.cas
    }
}

/// A response that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub opcode: u8,
    pub status: Wire,
    pub opaque: u32,
    pub cas: u64,
    pub flags: Option<u32>,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

pub fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Ok(ParsedResponse::Response { response, length }) = parse_response(bytes, 1 << 24) {
        answers.push(Answer {
            opcode: response.opcode,
            status: response.status,
            opaque: response.opaque,
            cas: response.cas,
            flags: response.flags(),
            key: response.key.to_vec(),
            value: response.value.to_vec(),
        });
        bytes = &bytes[length..];
    }
    assert!(bytes.is_empty(), "{} bytes are no response", bytes.len());
    answers
}

pub fn encoded(requests: &[Request<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for request in requests {
        request.encode(&mut bytes).expect("an encodable request");
    }
    bytes
}

pub fn get(key: &[u8]) -> Command<'_> {
    Command::Get { key, return_key: ReturnKey::No }
}

pub fn store<'a>(mode: StoreMode, key: &'a [u8], value: &'a [u8]) -> Command<'a> {
    Command::Store { mode, key, value, flags: 0xdead_beef, expiration: 0 }
}

pub fn count(key: &[u8], direction: Direction, expiration: u32) -> Command<'_> {
    Command::Count { direction, key, delta: 5, initial: 40, expiration }
}

pub fn quiet(command: Command<'_>, opaque: u32) -> Request<'_> {
    Request { loudness: Loudness::Quiet, ..Request::new(command, opaque) }
}
