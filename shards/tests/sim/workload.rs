//! Clients, what they ask, what they get, and whether that can be true.
//!
//! Every request is recorded with the times of its call and its answer. Single clients wait for
//! each answer; pipelining ones send several requests at once and say, as connections do, where
//! the order matters. Checked at once: every answer belongs to a request that waits for it, comes
//! once and in time, and has a class that fits. Checked at the end, by the `history` crate: each
//! key on its own is linearizable, and versions follow time.
//!
//! A request answered as *not done* is left out of the history: had it an effect after all, the
//! rest would not be linearizable. A client whose node crashes goes on at another core.

use std::collections::BTreeMap;

use history::register::{self, Condition, Eviction, Input, Register, Value};
use history::{Operation as Recorded, Outcome, Stamped, versions_follow_time};
use shards::command::{Command, End, Expiry, Operation, ReadFrom, RequestBatch, SetCondition};
use shards::ids::{Address, Millis, NodeId, ShardId, Version};
use shards::reply::{Class, Reply, Status, Token};

use crate::options::{Keys, MILLI, Options};
use crate::random::Random;
use crate::world::{Mail, TICK_NS, World};

/// An answer may come so much after the deadline: the next tick finds it, and turns take time.
const DEADLINE_SLACK_NS: u64 = 2 * TICK_NS + 50 * MILLI;
/// Steps the search may take for one key.
const SEARCH_STEPS: u64 = 800_000;
/// With so many requests of unknown outcome on a key, a search that gives up is no violation. How
/// often that happens is bounded by `seeds_without_violation`.
const UNDECIDABLE_FROM: usize = 15;
/// Requests a pipelining client has under way at most.
const PIPELINE_MAX: usize = 24;
/// Shard time counts in milliseconds, so that a life may end a part of one early.
const EXPIRY_GRAIN_NS: u64 = MILLI;

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// One request at a time.
    Single,
    /// Several at once.
    Pipelining,
    /// Writes to one shard until it succeeds once.
    Probe(ShardId),
}

#[derive(Debug)]
struct Pending {
    record: usize,
    shard: ShardId,
    is_read: bool,
    called: u64,
    frozen_at_call: u64,
}

#[derive(Debug)]
struct Client {
    style: Style,
    at: Option<Address>,
    next_sequence: u32,
    pending: BTreeMap<u32, Pending>,
    /// Versions it has seen last.
    versions: BTreeMap<(ShardId, u64), u64>,
}

/// A request as it went into the history.
#[derive(Debug)]
struct Record {
    shard: ShardId,
    key: u64,
    client: usize,
    /// The outcome is unknown until it is answered.
    operation: Recorded<Input, register::Output>,
    is_left_out: bool,
}

/// What can be said of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    Linearizable,
    Undecided,
}

/// All clients and the history.
#[derive(Debug)]
pub struct Workload {
    clients: Vec<Client>,
    records: Vec<Record>,
    random: Random,
    /// Which reads replicas may answer.
    replica_reads: Random,
    next_value: u64,
    is_stopped: bool,
    /// Answers by status.
    pub answers: BTreeMap<u8, u64>,
    /// When each shard first answered a probe.
    pub served: BTreeMap<ShardId, u64>,
    /// The longest time a request took.
    pub slowest: u64,
}

impl Workload {
    /// The clients of a seed.
    pub fn new(options: &Options) -> Self {
        let styles = (0..options.single_clients)
            .map(|_| Style::Single)
            .chain((0..options.pipelining_clients).map(|_| Style::Pipelining));
        Workload {
            clients: styles.map(client).collect(),
            records: Vec::new(),
            random: Random::stream(options.seed, "workload"),
            replica_reads: Random::stream(options.seed, "replica reads"),
            next_value: 0,
            is_stopped: false,
            answers: BTreeMap::new(),
            served: BTreeMap::new(),
            slowest: 0,
        }
    }

    /// Requests recorded.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether the client in this place waits for an answer.
    pub fn waits(&self, place: usize) -> bool {
        !self.clients[place].pending.is_empty()
    }

    /// Whether requests are under way.
    pub fn is_waiting(&self) -> bool {
        self.clients.iter().any(|client| !client.pending.is_empty())
    }

    /// Whether the request that was recorded last was answered by a value. `None` if it was not
    /// answered.
    pub fn last_found(&self) -> Option<bool> {
        let output = self.records.last()?.operation.output()?;
        Some(output.status == register::Status::Ok)
    }

    /// No client asks anything any more.
    pub fn stop(&mut self) {
        self.is_stopped = true;
    }

    /// Judges the whole history. Returns how many keys had too many requests of unknown outcome to
    /// tell.
    pub fn judge(&self, keys: Keys) -> Result<u64, String> {
        let mut by_key: BTreeMap<(ShardId, u64), Vec<usize>> = BTreeMap::new();
        let mut writes: BTreeMap<ShardId, Vec<Stamped>> = BTreeMap::new();
        for (place, record) in self.records.iter().enumerate() {
            let operation = &record.operation;
            let is_blind = operation.input.is_read() && operation.outcome == Outcome::Unknown;
            if record.is_left_out || is_blind {
                continue;
            }
            by_key.entry((record.shard, record.key)).or_default().push(place);
            if let Outcome::Returned { at, output } = &operation.outcome
                && output.status == register::Status::Ok
                && !operation.input.is_read()
                && output.version != 0
            {
                let (called, version) = (operation.called, output.version);
                writes.entry(record.shard).or_default().push(Stamped {
                    called,
                    returned: *at,
                    version,
                });
            }
        }
        for (shard, writes) in writes {
            versions_follow_time(&writes).map_err(|error| {
                format!("versions of shard {shard} are out of order: {error:?}")
            })?;
        }
        let eviction = match keys {
            Keys::Evicted => Eviction::Possible,
            Keys::Strict | Keys::Expiring => Eviction::Impossible,
        };
        let mut undecided = 0;
        for ((shard, key), places) in by_key {
            let judgement = self
                .judge_key(Register { eviction }, &places)
                .map_err(|error| format!("key {key} of shard {shard}: {error}"))?;
            undecided += u64::from(judgement == Judgement::Undecided);
        }
        Ok(undecided)
    }

    fn judge_key(&self, model: Register, places: &[usize]) -> Result<Judgement, String> {
        let mut operations: Vec<_> = places
            .iter()
            .map(|&place| {
                let mut operation = self.records[place].operation.clone();
                let place_of = |before: &usize| places.binary_search(before).ok();
                let is_known =
                    |before: &&usize| self.records[**before].operation.outcome != Outcome::Unknown;
                let (known, unknown): (Vec<_>, Vec<_>) = operation.after.iter().partition(is_known);
                operation.likely_after = unknown.into_iter().filter_map(place_of).collect();
                operation.after = known.into_iter().filter_map(place_of).collect();
                operation
            })
            .collect();
        follow_versions(&mut operations);
        let error = match register::check(model, &operations, SEARCH_STEPS) {
            Ok(_) => return Ok(Judgement::Linearizable),
            Err(history::Violation::GaveUp { stuck_at, .. }) => {
                let is_unknown = |o: &&Recorded<_, _>| o.outcome == Outcome::Unknown;
                let unknown = operations.iter().filter(is_unknown).count();
                if unknown >= UNDECIDABLE_FROM {
                    return Ok(Judgement::Undecided);
                }
                let count = operations.len();
                return Err(format!(
                    "{count} operations ({unknown} unknown) took too long, at {}",
                    line(&operations[stuck_at])
                ));
            }
            Err(history::Violation::NotLinearizable { stuck_at, .. }) => stuck_at,
        };
        let stuck = &operations[error];
        let mut text = format!("not linearizable; stuck at {}\n", line(stuck));
        let mut around: Vec<_> = places
            .iter()
            .zip(&operations)
            .filter(|(_, other)| {
                other.called <= stuck.returned()
                    && (other.returned() == u64::MAX
                        || other.returned() + 400 * MILLI >= stuck.called)
            })
            .collect();
        around.sort_by_key(|(_, operation)| operation.called);
        for (&place, operation) in around {
            let client = self.records[place].client;
            text.push_str(&format!("  client {client:>2} {}\n", line(operation)));
        }
        Err(text)
    }
}

/// Versions are positions in the log: what shows one stands between the writes around it. This
/// makes the search short, and it is a promise to be kept besides.
fn follow_versions(operations: &mut [Recorded<Input, register::Output>]) {
    let seen = |operation: &Recorded<Input, register::Output>| {
        operation.output().map_or(0, |output| output.version)
    };
    let mut shown: Vec<_> = (0..operations.len())
        .filter(|&place| seen(&operations[place]) != 0)
        .map(|place| {
            let operation = &operations[place];
            let is_write = !operation.input.is_read()
                && operation.output().is_some_and(|output| output.status == register::Status::Ok);
            (seen(operation), !is_write, place)
        })
        .collect();
    shown.sort_unstable();
    let mut write = None;
    let mut since = Vec::new();
    for (_, is_read, place) in shown {
        if is_read {
            operations[place].after.extend(write);
            since.push(place);
        } else {
            operations[place].after.extend(write);
            operations[place].after.append(&mut since);
            write = Some(place);
        }
    }
}

fn client(style: Style) -> Client {
    Client {
        style,
        at: None,
        next_sequence: 0,
        pending: BTreeMap::new(),
        versions: BTreeMap::new(),
    }
}

/// An operation as a line for people.
fn line(operation: &Recorded<Input, register::Output>) -> String {
    let show = |value: &Value| String::from_utf8_lossy(&value[..value.len().min(40)]).into_owned();
    let asked = match &operation.input {
        Input::Get => "get".into(),
        Input::Set { value, condition, lives, return_old } => {
            format!("set {} {condition:?} {lives:?} {return_old}", show(value))
        }
        Input::Increment(delta) => format!("increment {delta}"),
        Input::Append(value) => format!("append {}", show(value)),
        Input::Delete { return_old } => format!("delete {return_old}"),
    };
    let called = operation.called as f64 / 1e9;
    match &operation.outcome {
        Outcome::Unknown => format!("{called:.6}-?        {asked}: unknown"),
        Outcome::Returned { at, output } => {
            let value = output.value.as_ref().map(show);
            format!(
                "{called:.6}-{:.6} {asked}: {:?} {value:?} version {:x} number {}",
                *at as f64 / 1e9,
                output.status,
                output.version,
                output.number
            )
        }
    }
}

/// The name of a key, which is the same in all shards.
pub fn key_name(key: u64) -> Vec<u8> {
    format!("key-{key}").into_bytes()
}

impl World {
    /// Lets all clients begin.
    pub fn start_clients(&mut self) {
        for client in 0..self.workload.clients.len() {
            let at = self.workload.random.below(200 * MILLI);
            self.schedule(at, crate::world::Event::Client(client));
        }
    }

    /// Adds a client that tries to write to each shard until it succeeds.
    pub fn start_probes(&mut self) {
        for shard in (0..self.placement.shards()).map(ShardId) {
            self.workload.clients.push(client(Style::Probe(shard)));
            let place = self.workload.clients.len() - 1;
            self.schedule(self.now, crate::world::Event::Client(place));
        }
    }

    /// Reads every key through a client of every node.
    pub fn read_everything(&mut self) {
        let living = self.living();
        for at in living.into_iter().filter(|at| at.core.0 == 0) {
            let place = self.add_client(at);
            let mut batch = RequestBatch::default();
            for shard in (0..self.placement.shards()).map(ShardId) {
                for key in 0..self.options.keys_per_shard {
                    self.request(place, shard, key, Input::Get, &mut batch);
                }
            }
            self.mail(at, None, Mail::Requests(batch));
        }
    }

    /// A client asks something, if it has somebody to ask.
    pub fn wake_client(&mut self, place: usize) {
        let client = &self.workload.clients[place];
        let style = client.style;
        if self.workload.is_stopped && !matches!(style, Style::Probe(_)) {
            return;
        }
        let lives = client.at.is_some_and(|at| self.seat(at).is_some());
        if !lives {
            let living = self.living();
            let at = (!living.is_empty()).then(|| *self.workload.random.pick(&living));
            self.workload.clients[place].at = at;
        }
        let Some(at) = self.workload.clients[place].at else {
            self.wake_later(place, 50 * MILLI);
            return;
        };
        let mut batch = RequestBatch::default();
        match style {
            Style::Single => self.request_something(place, &mut batch),
            Style::Pipelining => {
                let room = PIPELINE_MAX - self.workload.clients[place].pending.len();
                let count = self.workload.random.between(1, 8).min(room as u64);
                for _ in 0..count {
                    self.request_something(place, &mut batch);
                }
                let think_time = self.options.think_time;
                let next = self.workload.random.around(3 * think_time);
                self.wake_later(place, next);
            }
            Style::Probe(shard) => {
                let key = 0;
                let input = self.some_set(key);
                self.request(place, shard, key, input, &mut batch);
            }
        }
        if !batch.is_empty() {
            self.mail(at, None, Mail::Requests(batch));
        }
    }

    fn wake_later(&mut self, place: usize, after: u64) {
        self.schedule(self.now + after + 1, crate::world::Event::Client(place));
    }

    fn some_set(&mut self, key: u64) -> Input {
        let keys = self.options.keys;
        let random = &mut self.workload.random;
        self.workload.next_value += 1;
        let number = self.workload.next_value;
        let text = match key % 3 {
            1 => number.to_string(),
            kind => {
                // What appends build upon stays short: the checker looks at all its beginnings.
                let most = self.options.padding_max.min(if kind == 2 { 300 } else { u64::MAX });
                let padding = random.below(most + 1) as usize;
                format!("v{number}{}", ".".repeat(padding))
            }
        };
        let has_deadline = keys != Keys::Strict && random.chance(400);
        Input::Set {
            value: text.into_bytes().into(),
            condition: Condition::Always,
            lives: has_deadline.then(|| random.between(1, 1_500) * MILLI),
            return_old: random.chance(200),
        }
    }

    fn request_something(&mut self, place: usize, batch: &mut RequestBatch) {
        let shard = ShardId(self.workload.random.below(u64::from(self.placement.shards())) as u16);
        let key = self.workload.random.below(self.options.keys_per_shard);
        let input = if self.workload.random.chance(self.options.read_share) {
            Input::Get
        } else {
            self.some_write(place, shard, key)
        };
        self.request(place, shard, key, input, batch);
    }

    fn some_write(&mut self, place: usize, shard: ShardId, key: u64) -> Input {
        let set = self.some_set(key);
        let random = &mut self.workload.random;
        let kind = random.below(100);
        let return_old = random.chance(500);
        if kind < 10 {
            return Input::Delete { return_old };
        }
        // Whole pipelines end with unknown outcomes; too many of these on values that build upon
        // each other could not be judged.
        let building = match self.workload.clients[place].style {
            Style::Pipelining => 35,
            Style::Single | Style::Probe(_) => 70,
        };
        match key % 3 {
            1 if kind < building => return Input::Increment(random.between(0, 20) as i64 - 5),
            2 if kind < building => {
                // Different lengths tell appends apart even where nobody sees the value.
                let padding = "-".repeat(random.below(24) as usize);
                let text = format!("+{}{padding}", self.workload.next_value);
                return Input::Append(text.into_bytes().into());
            }
            _ => {}
        }
        let known = self.workload.clients[place].versions.get(&(shard, key)).copied();
        let condition = match kind {
            _ if kind < 75 => Condition::Always,
            _ if kind < 82 => Condition::IfAbsent,
            _ if kind < 86 => Condition::IfPresent,
            _ => known.filter(|&v| v != 0).map_or(Condition::Always, Condition::IfVersion),
        };
        match set {
            Input::Set { value, lives, return_old, .. } => {
                Input::Set { value, condition, lives, return_old }
            }
            other => other,
        }
    }

    /// Adds a client that asks nothing by itself; returns its place.
    pub fn add_client(&mut self, at: Address) -> usize {
        self.workload.clients.push(Client { at: Some(at), ..client(Style::Pipelining) });
        self.workload.clients.len() - 1
    }

    /// Adds a request to a batch and to the history.
    pub fn request(
        &mut self,
        place: usize,
        shard: ShardId,
        key: u64,
        input: Input,
        batch: &mut RequestBatch,
    ) {
        let now = self.now;
        let frozen_at_call = self.frozen_ns(place);
        let record = self.workload.records.len();
        let Workload { clients, records, replica_reads, .. } = &mut self.workload;
        let client = &mut clients[place];
        let is_read = input.is_read();
        let read_from = match is_read && replica_reads.chance(self.options.replica_read_share) {
            true => ReadFrom::Replica,
            false => ReadFrom::Leader,
        };
        let rivals = |other: &&Pending| other.shard == shard && !(is_read && other.is_read);
        let ordered = client.pending.values().filter(rivals).any(|p| p.is_read != is_read);
        let after = client
            .pending
            .values()
            .filter(rivals)
            .map(|other| other.record)
            .filter(|&other| records[other].key == key)
            .collect();
        let sequence = client.next_sequence;
        client.next_sequence += 1;
        let token = Token { connection: place as u32, sequence, part: part_of(place, sequence) };
        let name = key_name(key);
        let command = Command { key: &name, operation: operation_of(&input) };
        batch.push_read(shard, token, ordered, read_from, &command);
        client
            .pending
            .insert(sequence, Pending { record, shard, is_read, called: now, frozen_at_call });
        let input = match input {
            Input::Set { value, condition, lives, return_old } => {
                let shortest = |lives: u64| {
                    (lives * 1_000_000 / (1_000_000 + self.options.drift_max_ppm))
                        .saturating_sub(EXPIRY_GRAIN_NS)
                };
                let lives = lives.map(shortest);
                Input::Set { value, condition, lives, return_old }
            }
            other => other,
        };
        let client = &self.workload.clients[place];
        self.tell(|| {
            let at = client.at.map(|at| at.to_string()).unwrap_or_default();
            let order = if ordered { "in order" } else { "" };
            format!(
                "{at} client {place} {sequence} asks {shard}/{key} {input:?} {read_from:?} {order}"
            )
        });
        let (outcome, likely_after) = (Outcome::Unknown, Vec::new());
        let operation = Recorded { input, called: now, outcome, after, likely_after };
        self.workload.records.push(Record {
            shard,
            key,
            client: place,
            operation,
            is_left_out: false,
        });
        let due = now + self.answered_within();
        self.schedule(due, crate::world::Event::Alarm(place, sequence));
    }

    /// How long a request may take by the world's clock, whatever the node's own says.
    fn answered_within(&self) -> u64 {
        let most = self.options.request_deadline + DEADLINE_SLACK_NS;
        most * 1_000_000 / (1_000_000 - self.options.drift_max_ppm)
    }

    /// How long the client's core has stood still so far.
    fn frozen_ns(&self, place: usize) -> u64 {
        let at = self.workload.clients[place].at;
        let still_ahead = |until: u64| until.saturating_sub(self.now);
        at.and_then(|at| self.seat(at))
            .map_or(0, |seat| seat.frozen_ns - still_ahead(seat.frozen_until))
    }

    /// A request must be answered by now, unless its core stood still meanwhile.
    pub fn alarm(&mut self, place: usize, sequence: u32) {
        let Some(pending) = self.workload.clients[place].pending.get(&sequence) else { return };
        let frozen = self.frozen_ns(place).saturating_sub(pending.frozen_at_call);
        let due = pending.called + self.answered_within() + frozen;
        if self.now < due {
            self.schedule(due, crate::world::Event::Alarm(place, sequence));
            return;
        }
        let at = self.workload.clients[place].at;
        if at.is_some_and(|at| self.checkers.failed_disks.contains(&at)) {
            // A core that cannot write its log says nothing more, and its process ends.
            self.schedule(self.now + TICK_NS, crate::world::Event::Alarm(place, sequence));
            return;
        }
        let text = format!(
            "client {place} was not answered in time by {:?}: {}",
            self.workload.clients[place].at,
            line(&self.workload.records[pending.record].operation)
        );
        self.checkers.violation(text);
    }

    /// The core at `at` answers.
    pub fn take_reply(&mut self, at: Address, reply: &Reply, value: Option<Vec<u8>>) {
        if reply.token.connection == NOBODY {
            return;
        }
        let place = reply.token.connection as usize;
        let sequence = reply.token.sequence;
        let now = self.now;
        self.tell(|| format!("{at} answers client {place} {sequence}: {:?}", reply.status));
        let Some(client) = self.workload.clients.get_mut(place) else {
            self.checkers.violation(format!("{at} answers nobody: {reply:?}"));
            return;
        };
        let is_known = client.at == Some(at) && reply.token.part == part_of(place, sequence);
        let Some(pending) = client.pending.remove(&sequence).filter(|_| is_known) else {
            self.checkers.violation(format!("{at} answers what was not asked: {reply:?}"));
            return;
        };
        *self.workload.answers.entry(reply.status as u8).or_insert(0) += 1;
        self.workload.slowest = self.workload.slowest.max(now - pending.called);
        let record = &mut self.workload.records[pending.record];
        let class = reply.status.class();
        if reply.status == Status::NotLeader || pending.is_read && class == Class::Unknown {
            self.checkers.violation(format!(
                "{at} answers {:?} to {}",
                reply.status,
                line(&record.operation)
            ));
        }
        match (class, status_of(reply.status)) {
            (Class::Done, Some(status)) => {
                let output = register::Output {
                    status,
                    version: reply.version.0,
                    value: value.map(Into::into),
                    number: reply.number,
                };
                record.operation.outcome = Outcome::Returned { at: now, output };
                if !pending.is_read && reply.version.0 != 0 {
                    self.checkers.acknowledge(pending.shard, reply.version.index());
                }
                client.versions.insert((pending.shard, record.key), reply.version.0);
            }
            (Class::Done, None) | (Class::NotDone, _) => record.is_left_out = true,
            (Class::Unknown, _) => {}
        }
        let key = record.key;
        match client.style {
            Style::Single => {
                let think_time = self.options.think_time;
                let next = self.workload.random.around(think_time);
                self.wake_later(place, next);
            }
            Style::Probe(shard) if key == 0 && class == Class::Done => {
                self.workload.served.entry(shard).or_insert(now);
            }
            Style::Probe(_) => self.wake_later(place, MILLI),
            Style::Pipelining => {}
        }
    }

    /// The connections of a node are gone; their clients go elsewhere.
    pub fn lose_clients(&mut self, node: NodeId) {
        for place in 0..self.workload.clients.len() {
            let client = &mut self.workload.clients[place];
            if client.at.is_none_or(|at| at.node != node) {
                continue;
            }
            client.at = None;
            let was_waiting = !client.pending.is_empty();
            client.pending.clear();
            if was_waiting && client.style != Style::Pipelining {
                let later = self.workload.random.below(100 * MILLI);
                self.wake_later(place, later);
            }
        }
    }
}

/// The connection of requests whose replies nobody waits for.
pub const NOBODY: u32 = u32::MAX;

/// A number that a reply must carry back, different for each request.
fn part_of(place: usize, sequence: u32) -> u32 {
    (place as u32).wrapping_mul(0x9e37_79b9) ^ sequence.wrapping_mul(0x85eb_ca6b)
}

fn operation_of(input: &Input) -> Operation<'_> {
    match input {
        Input::Get => Operation::Get { peek: false },
        Input::Set { value, condition, lives, return_old } => Operation::Set {
            value,
            flags: 0,
            condition: match *condition {
                Condition::Always => SetCondition::Always,
                Condition::IfAbsent => SetCondition::IfAbsent,
                Condition::IfPresent => SetCondition::IfPresent,
                Condition::IfVersion(version) => SetCondition::IfVersion(Version(version)),
            },
            expiry: lives.map_or(Expiry::Never, |lives| Expiry::In(Millis(lives / MILLI))),
            return_old: *return_old,
        },
        Input::Increment(delta) => Operation::Increment { delta: *delta },
        Input::Append(value) => {
            Operation::Extend { end: End::Back, value, create: true, version: Version(0) }
        }
        Input::Delete { return_old } => {
            Operation::Delete { version: Version(0), return_old: *return_old }
        }
    }
}

/// The status in the terms of the model; `None` for what was done and has no effect by its nature.
fn status_of(status: Status) -> Option<register::Status> {
    match status {
        Status::Ok => Some(register::Status::Ok),
        Status::NotFound => Some(register::Status::NotFound),
        Status::Exists => Some(register::Status::Exists),
        Status::ConditionFailed => Some(register::Status::ConditionFailed),
        Status::NotANumber => Some(register::Status::NotANumber),
        _ => None,
    }
}
