//! The clients: each asks one thing at a time, on connections of its own, and goes on elsewhere
//! or waits when its node is gone.
//!
//! Some are pinned to a node, so that every node is asked whatever state it is in; the others go
//! to the next one when theirs fails. Some speak to the any-core port, which forwards, and some to
//! core ports, which redirect. An operation of unknown outcome stays open in the history for ever;
//! the client goes on as if it were another one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use history::register::{Condition, Input, Output, Status, UNTOLD};
use history::{Effect, Outcome, Session};

use crate::cluster::{ANY_CORE_PORT, CORE_PORT, Cluster, pause};
use crate::connection::{Answer, Connection, Protocol};
use crate::keys::{Key, Kind, Seen};
use crate::random::Random;
use crate::record::Record;

/// Redirections that are followed before a request is given up as not done.
const REDIRECTIONS_MAX: usize = 5;
/// Mean pause between two operations of a client.
const PAUSE_MEAN_US: u64 = 6_000;
/// Pause after a connection could not be made.
const RECONNECT_PAUSE: Duration = Duration::from_millis(30);

/// Where a client goes when its node fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loyalty {
    Pinned,
    Roaming,
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// Reads and writes.
    Works,
    /// Only reads, and lets replicas answer.
    ReadsReplicas,
}

/// Which kind of client.
#[derive(Clone, Copy, Debug)]
struct Profile {
    protocol: Protocol,
    port: u16,
    home: u16,
    loyalty: Loyalty,
    habit: Habit,
}

/// The clients of a run: both protocols, both kinds of ports, every node.
fn profiles(nodes: u16) -> Vec<Profile> {
    use Habit::{ReadsReplicas, Works};
    use Loyalty::{Pinned, Roaming};
    use Protocol::{Binary, Resp};
    let kinds = [
        (Resp, ANY_CORE_PORT, Pinned, Works),
        (Binary, ANY_CORE_PORT, Pinned, Works),
        (Resp, CORE_PORT, Roaming, Works),
        (Resp, ANY_CORE_PORT, Roaming, Works),
        (Binary, CORE_PORT, Roaming, Works),
        (Resp, CORE_PORT, Pinned, ReadsReplicas),
    ];
    let of_kind = |(protocol, port, loyalty, habit)| {
        (1..=nodes).map(move |home| Profile { protocol, port, home, loyalty, habit })
    };
    kinds.into_iter().flat_map(of_kind).collect()
}

/// The addresses of the nodes, as clients may use them.
#[derive(Clone, Debug)]
pub struct Directory {
    nodes: Vec<IpAddr>,
    translations: Vec<(IpAddr, IpAddr)>,
}

impl Directory {
    /// The addresses of a cluster.
    pub fn of(cluster: &Cluster) -> Self {
        let nodes = (1..=cluster.shape.nodes).map(|node| cluster.socket(node, 0).ip()).collect();
        Directory { nodes, translations: cluster.translations() }
    }

    /// A port of a node.
    pub fn socket(&self, node: u16, port: u16) -> SocketAddr {
        SocketAddr::new(self.nodes[usize::from(node) - 1], port)
    }

    fn translate(&self, address: SocketAddr) -> SocketAddr {
        let found = self.translations.iter().find(|(link, _)| *link == address.ip());
        SocketAddr::new(found.map_or(address.ip(), |(_, own)| *own), address.port())
    }

    fn node_of(&self, address: SocketAddr) -> Option<u16> {
        let place = self.nodes.iter().position(|node| *node == address.ip())?;
        Some(place as u16 + 1)
    }
}

/// Starts all clients.
pub fn start(record: &Arc<Record>, directory: &Directory, seed: u64) -> Vec<JoinHandle<()>> {
    let profiles = profiles(directory.nodes.len() as u16);
    let start_one = |(number, profile)| {
        let mut client = Client {
            record: record.clone(),
            directory: directory.clone(),
            profile,
            number,
            written: 0,
            address: directory.socket(profile.home, profile.port),
            connection: None,
            random: Random::stream(seed, &format!("client {number}")),
            session: Session::default(),
        };
        std::thread::spawn(move || client.run())
    };
    profiles.into_iter().enumerate().map(start_one).collect()
}

struct Client {
    record: Arc<Record>,
    directory: Directory,
    profile: Profile,
    number: usize,
    written: u64,
    address: SocketAddr,
    connection: Option<Connection>,
    random: Random,
    session: Session,
}

impl Client {
    fn run(&mut self) {
        while !self.record.is_stopped() {
            pause(Duration::from_micros(self.random.below(2 * PAUSE_MEAN_US)));
            if self.connection.is_none() && !self.connect() {
                continue;
            }
            let (place, key) = self.record.ring.pick(&mut self.random);
            let input = self.draw(&key);
            if self.perform(&key, input)
                && let Some(old) = self.record.ring.replace(place, Some(&key))
            {
                self.record.shelve(old);
            }
        }
    }

    fn connect(&mut self) -> bool {
        let opened = Connection::open(self.profile.protocol, self.address);
        let opened = opened.and_then(|mut connection| match self.profile.habit {
            Habit::Works => Ok(connection),
            Habit::ReadsReplicas => connection.let_replicas_answer().map(|()| connection),
        });
        match opened {
            Ok(connection) => self.connection = Some(connection),
            Err(_) => {
                self.record.count("not done: no connection");
                self.turn_elsewhere();
                pause(RECONNECT_PAUSE);
            }
        }
        self.connection.is_some()
    }

    /// Drops the connection; the next one goes home, or on to the next node.
    fn turn_elsewhere(&mut self) {
        self.connection = None;
        let nodes = self.directory.nodes.len() as u16;
        let node = match self.profile.loyalty {
            Loyalty::Pinned => self.profile.home,
            Loyalty::Roaming => {
                let current = self.directory.node_of(self.address).unwrap_or(self.profile.home);
                current % nodes + 1
            }
        };
        self.address = self.directory.socket(node, self.profile.port);
    }

    /// Whatever node answers, this client never sees a key go back.
    fn check_session(&mut self, key: &Key, input: &Input, output: &Output) {
        let version = output.version;
        if version == 0 || version == UNTOLD {
            return;
        }
        let effect = match !input.is_read() && output.status == Status::Ok {
            true => Effect::Wrote,
            false => Effect::Read,
        };
        let seen = self.session.answered(key.name.as_bytes(), effect, version);
        if let Err(violation) = seen {
            let (number, name) = (self.number, &key.name);
            self.record.fail(format!("client {number}: {input:?} on {name}: {violation:?}"));
        }
    }

    /// Asks, follows redirections, and records. Says whether the key has seen enough.
    fn perform(&mut self, key: &Key, input: Input) -> bool {
        for _ in 0..=REDIRECTIONS_MAX {
            let Some(connection) = self.connection.as_mut() else { return false };
            let node = self.directory.node_of(self.address);
            let quiet_before = node.and_then(|node| self.record.trouble.quiet_time(node));
            let called = self.record.now();
            let answer = connection.ask(&key.name, &input);
            let at = self.record.now();
            let class = match answer {
                Answer::Done(output) => {
                    let version = (!input.is_read() && output.status == Status::Ok)
                        .then_some(output.version)
                        .filter(|version| *version != UNTOLD);
                    self.record.acknowledge(key.shard, called, at, version);
                    self.check_session(key, &input, &output);
                    let outcome = Outcome::Returned { at, output };
                    return key.record(seen(input, called, outcome));
                }
                Answer::Moved(address) => {
                    self.record.count("not done: MOVED");
                    self.address = self.directory.translate(address);
                    self.connection = None;
                    if !self.connect() {
                        return false;
                    }
                    continue;
                }
                Answer::NotDone(class) => {
                    self.record.count(&format!("not done: {class}"));
                    return false;
                }
                Answer::Unexpected(text) => {
                    self.record.fail(format!("client {}: {text}", self.number));
                    "unexpected".to_owned()
                }
                Answer::Late => {
                    let quiet_after = node.and_then(|node| self.record.trouble.quiet_time(node));
                    if quiet_before.is_some() && quiet_before == quiet_after {
                        self.record.fail(format!(
                            "client {}: no answer to {input:?} on {} of shard {} from {} although \
                             nothing was done to that node",
                            self.number, key.name, key.shard, self.address
                        ));
                    }
                    "no answer".to_owned()
                }
                Answer::Unknown(class) => class,
            };
            self.record.count(&format!("unknown: {class}"));
            if class != "UNKNOWN" && class != "0xa3" {
                self.turn_elsewhere();
            }
            return !input.is_read() && key.record(seen(input, called, Outcome::Unknown));
        }
        self.record.count("not done: too many redirections");
        false
    }

    fn token(&mut self) -> String {
        self.written += 1;
        format!("{}.{}", self.number, self.written)
    }

    fn draw(&mut self, key: &Key) -> Input {
        let is_resp = self.profile.protocol == Protocol::Resp;
        let dice = self.random.below(100);
        let by_kind = match key.kind {
            Kind::Register => 40,
            Kind::Counter => 50,
            Kind::List => 45,
        };
        if dice < by_kind || self.profile.habit == Habit::ReadsReplicas {
            return Input::Get;
        }
        if dice >= 90 {
            // Deleting is common enough that lists stay short.
            return Input::Delete { return_old: is_resp && self.random.chance(50) };
        }
        match key.kind {
            Kind::Counter => Input::Increment(self.random.between(1, 5) as i64),
            Kind::List if is_resp => {
                Input::Append(format!("{};", self.token()).into_bytes().into())
            }
            Kind::List => Input::Get,
            Kind::Register => self.draw_set(key, is_resp),
        }
    }

    fn draw_set(&mut self, key: &Key, is_resp: bool) -> Input {
        let padding = match self.random.below(50) {
            0 => self.random.below(60_000),
            1..10 => self.random.below(2_000),
            _ => 0,
        };
        let value = format!("{}:{padding}:", self.token()).into_bytes().into();
        let condition = match self.random.below(8) {
            0 => Condition::IfAbsent,
            1 => Condition::IfPresent,
            2..5 if !is_resp && key.recent_version() != 0 => {
                Condition::IfVersion(key.recent_version())
            }
            _ => Condition::Always,
        };
        let return_old = is_resp && condition == Condition::Always && self.random.chance(15);
        Input::Set { value, condition, lives: None, return_old }
    }
}

/// An operation that depends on no other one.
pub fn seen(input: Input, called: u64, outcome: Outcome<history::register::Output>) -> Seen {
    Seen { input, called, outcome, after: Vec::new(), likely_after: Vec::new() }
}
