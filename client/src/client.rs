//! The client a program uses: blocking calls over non-blocking sockets, with a deadline on each.
//!
//! A call takes a batch of commands and spreads it over the servers that own the keys, so a
//! pipeline to six cores waits for the slowest of them and not for their sum. There is no
//! background thread: connections are driven while a call runs, and what a server did to an idle
//! connection is noticed at the start of the next call, before anything is sent on it.
//!
//! Tried again, until the deadline: reads, whatever happened to them, and other commands whose
//! outcome is known to be *not done* (the server said so, or never saw them). A write that was
//! sent and not answered ends as *unknown*; only its caller knows whether twice is harmless.
//! Commands of one batch for the same slot run in their order unless one is tried again.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use crate::address::Address;
use crate::channel::{Channel, PushError};
use crate::cluster_map::ClusterMap;
use crate::command::{Command, Reply, SetOptions, Value};
use crate::error::{Class, Error};
use crate::link::{Link, LinkState};
use crate::map_source::fetch_map;
use crate::picker::{Picker, ReadFrom};
use crate::wire::{ASKING, Answer, Protocol, Redirect, RedirectScope};

/// Redirects that one command follows. Two servers that name each other end here.
const REDIRECTS_MAX: u32 = 5;
/// Shortest time between two fetches of the map.
const MAP_INTERVAL: Duration = Duration::from_millis(100);
/// Wait before the first repetition; it doubles with each, up to `BACKOFF_MAX`.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// Longest wait before a repetition.
const BACKOFF_MAX: Duration = Duration::from_millis(200);

/// How a client finds the server of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// By the cluster map. RESP only.
    #[default]
    Cluster,
    /// It does not: every request goes to the first of the given servers that can be reached,
    /// which serves or forwards it.
    Direct,
}

/// How a client works.
#[derive(Clone, Debug)]
pub struct Options {
    /// The servers that are known from the start. At least one.
    pub seeds: Vec<Address>,
    /// What to speak.
    pub protocol: Protocol,
    /// How to find the server of a key.
    pub routing: Routing,
    /// Who answers reads.
    pub read_from: ReadFrom,
    /// How long one call may take, all repetitions included.
    pub deadline: Duration,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// Requests in flight per connection; the rest of a batch waits. At least one.
    pub in_flight_max: usize,
}

impl Options {
    /// The defaults: routed RESP, reads from leaders, three seconds for a call, which covers the
    /// time a shard may need to elect a leader.
    pub fn new(seeds: Vec<Address>) -> Options {
        Options {
            seeds,
            protocol: Protocol::Resp,
            routing: Routing::Cluster,
            read_from: ReadFrom::Leader,
            deadline: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(1),
            in_flight_max: 256,
        }
    }
}

/// A client of one cluster or server. It belongs to one thread.
#[derive(Debug)]
pub struct Client {
    options: Options,
    poll: Poll,
    events: Events,
    links: HashMap<Token, Link>,
    link_of: HashMap<Address, Token>,
    next_token: usize,
    map: ClusterMap,
    map_wanted: bool,
    map_fetched_at: Option<Instant>,
    seed_turn: usize,
    picker: Picker,
}

/// A command of a batch on its way.
struct Job<'a> {
    command: &'a Command<'a>,
    outcome: Option<Result<Reply, Error>>,
    /// Why the latest attempt failed; told if the deadline passes before another one.
    latest: Option<Error>,
    redirect: Option<Redirect>,
    redirects: u32,
    attempts: u32,
}

/// A batch on its way.
struct Batch<'a> {
    jobs: Vec<Job<'a>>,
    ready: VecDeque<usize>,
    later: Vec<(Instant, usize)>,
    unfinished: usize,
    deadline: Instant,
}

/// What an answer means for its job.
enum Verdict {
    Finished(Result<Reply, Error>),
    Redirected(Redirect),
    Again(Error),
}

impl Client {
    /// Makes a client and, for [`Routing::Cluster`], fetches the cluster map.
    ///
    /// # Errors
    /// If the options contradict each other or no server gives a map in time.
    pub fn connect(options: Options) -> Result<Client, Error> {
        if options.seeds.is_empty() {
            return Err(Error::Invalid("no servers given".into()));
        }
        if options.in_flight_max == 0 {
            return Err(Error::Invalid("at least one request must be allowed in flight".into()));
        }
        let routed = options.routing == Routing::Cluster;
        if routed && options.protocol == Protocol::Binary {
            return Err(Error::Invalid("the binary protocol has no cluster routing".into()));
        }
        let deadline = Instant::now() + options.deadline;
        let mut client = Client {
            poll: Poll::new().map_err(Error::System)?,
            events: Events::with_capacity(256),
            links: HashMap::new(),
            link_of: HashMap::new(),
            next_token: 0,
            map: ClusterMap::default(),
            map_wanted: false,
            map_fetched_at: None,
            seed_turn: options.seeds.len() - 1,
            picker: Picker::new(options.read_from),
            options,
        };
        if routed {
            let read_from = client.options.read_from;
            let turn = &mut client.seed_turn;
            client.map = fetch_map(&client.options.seeds, turn, read_from, deadline)?;
            client.map_fetched_at = Some(Instant::now());
        } else {
            client.seed_turn = 0;
        }
        Ok(client)
    }

    /// The cluster map as last heard; empty without [`Routing::Cluster`].
    pub fn cluster_map(&self) -> &ClusterMap {
        &self.map
    }

    /// Reads a value.
    ///
    /// # Errors
    /// Always *not done*.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Value>, Error> {
        match self.one(Command::Get { key })? {
            Reply::Value(value) => Ok(value),
            other => Err(mismatch(&other)),
        }
    }

    /// Stores a value, whatever was there before, without a time to live. Returns its version.
    ///
    /// # Errors
    /// See [`Error::class`].
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<u64, Error> {
        match self.set_with(key, value, SetOptions::default())? {
            Some(version) => Ok(version),
            None => Err(mismatch(&Reply::ConditionFailed)),
        }
    }

    /// Stores a value by these options. Returns its version, or none if the condition failed.
    ///
    /// # Errors
    /// See [`Error::class`].
    pub fn set_with(
        &mut self,
        key: &[u8],
        value: &[u8],
        options: SetOptions,
    ) -> Result<Option<u64>, Error> {
        match self.one(Command::Set { key, value, options })? {
            Reply::Stored { version } => Ok(Some(version)),
            Reply::ConditionFailed => Ok(None),
            other => Err(mismatch(&other)),
        }
    }

    /// Stores a value if the entry still has this version. Returns the new version, or none if
    /// it has another one or is gone. Binary protocol only.
    ///
    /// # Errors
    /// See [`Error::class`].
    pub fn compare_and_set(
        &mut self,
        key: &[u8],
        value: &[u8],
        version: u64,
    ) -> Result<Option<u64>, Error> {
        let condition = crate::command::Condition::IfVersion(version);
        self.set_with(key, value, SetOptions { condition, ..SetOptions::default() })
    }

    /// Removes a key. Returns whether it was there.
    ///
    /// # Errors
    /// See [`Error::class`].
    pub fn delete(&mut self, key: &[u8]) -> Result<bool, Error> {
        self.existed(Command::Delete { key })
    }

    /// Gives an entry a new time to live. Returns whether there was one.
    ///
    /// # Errors
    /// See [`Error::class`].
    pub fn expire(&mut self, key: &[u8], time_to_live: Duration) -> Result<bool, Error> {
        self.existed(Command::Expire { key, time_to_live })
    }

    /// Adds to a counter and returns its new value.
    ///
    /// # Errors
    /// See [`Error::class`].
    pub fn increment(&mut self, key: &[u8], delta: i64) -> Result<i64, Error> {
        match self.one(Command::Increment { key, delta })? {
            Reply::Counter(counter) => Ok(counter),
            other => Err(mismatch(&other)),
        }
    }

    fn existed(&mut self, command: Command<'_>) -> Result<bool, Error> {
        match self.one(command)? {
            Reply::Existed(existed) => Ok(existed),
            other => Err(mismatch(&other)),
        }
    }

    fn one(&mut self, command: Command<'_>) -> Result<Reply, Error> {
        let class = Class::of_unanswered(command.is_read());
        self.pipeline(&[command]).pop().unwrap_or(Err(Error::DeadlinePassed { class }))
    }

    /// Runs a batch. The outcomes stand in the order of the commands; each is its own, and one
    /// that failed says nothing about the others.
    pub fn pipeline(&mut self, commands: &[Command<'_>]) -> Vec<Result<Reply, Error>> {
        let mut batch = Batch::new(commands, Instant::now() + self.options.deadline);
        // What happened to the connections since the last call.
        let _ = self.turn(&mut batch, Duration::ZERO);
        while batch.unfinished > 0 {
            let now = Instant::now();
            if now >= batch.deadline {
                self.give_up(&mut batch);
                break;
            }
            self.refresh_map(&batch, now);
            batch.wake(now);
            self.dispatch(&mut batch, now);
            if batch.unfinished == 0 {
                break;
            }
            let wait = self.next_event(&batch).saturating_duration_since(Instant::now());
            if let Err(error) = self.turn(&mut batch, wait) {
                batch.fail_all(&error);
            }
        }
        batch.outcomes()
    }

    fn refresh_map(&mut self, batch: &Batch<'_>, now: Instant) {
        let due = self.map_fetched_at.is_none_or(|at| now >= at + MAP_INTERVAL);
        if self.options.routing != Routing::Cluster || !self.map_wanted || !due {
            return;
        }
        let mut servers = self.map.servers().to_vec();
        servers.extend(self.options.seeds.iter().cloned());
        let read_from = self.options.read_from;
        if let Ok(map) = fetch_map(&servers, &mut self.seed_turn, read_from, batch.deadline) {
            self.map = map;
            self.map_wanted = false;
        }
        self.map_fetched_at = Some(Instant::now());
    }

    /// When the loop has something to do even if no socket has.
    fn next_event(&self, batch: &Batch<'_>) -> Instant {
        let connecting = self.links.values().filter_map(Link::connect_deadline);
        let later = batch.later.iter().map(|(at, _)| *at);
        let map = self.map_fetched_at.filter(|_| self.map_wanted).map(|at| at + MAP_INTERVAL);
        connecting.chain(later).chain(map).fold(batch.deadline, Instant::min)
    }

    /// Gives every command that can be sent to its link, and sends.
    fn dispatch(&mut self, batch: &mut Batch<'_>, now: Instant) {
        for _ in 0..batch.ready.len() {
            let Some(index) = batch.ready.pop_front() else { break };
            let Some(job) = batch.jobs.get_mut(index) else { continue };
            let target = match &job.redirect {
                Some(redirect) => Some(redirect.address.clone()),
                None => self.target(job.command),
            };
            let Some(address) = target else {
                self.map_wanted = true;
                let text = "the cluster map names no server for the slot".into();
                batch.again(index, now, Error::Refused { class: Class::NotDone, text });
                continue;
            };
            let link = match self.link(&address, now) {
                Ok(link) => link,
                Err(source) => {
                    self.server_failed();
                    batch.again(index, now, Error::Connect { address, source });
                    continue;
                }
            };
            if link.channel.is_full() {
                batch.ready.push_back(index);
                continue;
            }
            let asks = matches!(&job.redirect, Some(r) if r.scope == RedirectScope::Ask);
            if asks {
                link.channel.push_aside(ASKING);
            }
            job.redirect = None;
            match link.channel.push(job.command, index as u64) {
                Ok(()) => {}
                Err(PushError::Full) => batch.ready.push_back(index),
                Err(PushError::Encode(error)) => {
                    batch.finish(index, Err(Error::Invalid(error.to_string())));
                }
            }
        }
        let tokens: Vec<Token> = self.links.keys().copied().collect();
        for token in tokens {
            let Some(link) = self.links.get_mut(&token) else { continue };
            let state = link.send(now);
            if !matches!(state, LinkState::Alive) {
                self.close(token, &state, batch, now);
            }
        }
    }

    fn target(&mut self, command: &Command<'_>) -> Option<Address> {
        match self.options.routing {
            Routing::Cluster => self.picker.pick(&self.map, command).cloned(),
            Routing::Direct => {
                let turn = self.seed_turn % self.options.seeds.len();
                self.options.seeds.get(turn).cloned()
            }
        }
    }

    fn link(&mut self, address: &Address, now: Instant) -> std::io::Result<&mut Link> {
        let token = match self.link_of.get(address) {
            Some(token) => *token,
            None => {
                let token = Token(self.next_token);
                let channel = Channel::new(self.options.protocol, self.options.in_flight_max)
                    .reading_from(self.options.read_from);
                let deadline = now + self.options.connect_timeout;
                let link = Link::open(address, channel, self.poll.registry(), token, deadline)?;
                self.next_token += 1;
                self.links.insert(token, link);
                self.link_of.insert(address.clone(), token);
                token
            }
        };
        self.links.get_mut(&token).ok_or_else(|| std::io::ErrorKind::NotConnected.into())
    }

    fn server_failed(&mut self) {
        self.map_wanted = true;
        if self.options.routing == Routing::Direct {
            self.seed_turn = (self.seed_turn + 1) % self.options.seeds.len();
        }
    }

    /// Waits for sockets and drives those that have something.
    fn turn(&mut self, batch: &mut Batch<'_>, wait: Duration) -> std::io::Result<()> {
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let now = Instant::now();
        let mut tokens: Vec<Token> = self.events.iter().map(|event| event.token()).collect();
        let overdue = |link: &Link| link.connect_deadline().is_some_and(|deadline| now >= deadline);
        tokens.extend(self.links.iter().filter(|(_, link)| overdue(link)).map(|(token, _)| *token));
        for token in tokens {
            self.drive(token, batch, now);
        }
        Ok(())
    }

    fn drive(&mut self, token: Token, batch: &mut Batch<'_>, now: Instant) {
        let Some(link) = self.links.get_mut(&token) else { return };
        let mut verdicts = Vec::new();
        let host = link.address.host.clone();
        let state = link.drive(now, |ticket, answer| {
            let index = ticket as usize;
            if let Some(job) = batch.jobs.get(index) {
                verdicts.push((index, verdict(job, answer, &host)));
            }
        });
        for (index, verdict) in verdicts {
            match verdict {
                Verdict::Finished(outcome) => batch.finish(index, outcome),
                Verdict::Again(error) => {
                    self.map_wanted = true;
                    batch.again(index, now, error);
                }
                Verdict::Redirected(redirect) => {
                    if redirect.scope == RedirectScope::Moved {
                        self.map.moved(redirect.slot, &redirect.address);
                        self.map_wanted = true;
                    }
                    batch.redirect(index, redirect);
                }
            }
        }
        if !matches!(state, LinkState::Alive) {
            self.close(token, &state, batch, now);
        }
    }

    /// Ends a link. What it carried is tried again or ends by its class.
    fn close(&mut self, token: Token, state: &LinkState, batch: &mut Batch<'_>, now: Instant) {
        let Some(mut link) = self.links.remove(&token) else { return };
        self.link_of.remove(&link.address);
        self.server_failed();
        let seen = link.is_connected();
        let address = link.address.clone();
        for ticket in link.channel.abandon() {
            let index = ticket as usize;
            let Some(job) = batch.jobs.get(index) else { continue };
            let class =
                if seen { Class::of_unanswered(job.command.is_read()) } else { Class::NotDone };
            let error = match state {
                LinkState::NeverMade(source) => {
                    let source = std::io::Error::from(source.kind());
                    Error::Connect { address: address.clone(), source }
                }
                LinkState::Garbled(reason) => Error::Protocol { reason: reason.to_string(), class },
                LinkState::Lost | LinkState::Alive => {
                    Error::ConnectionLost { address: address.clone(), class }
                }
            };
            match class {
                Class::NotDone => batch.again(index, now, error),
                Class::Unknown => batch.finish(index, Err(error)),
            }
        }
    }

    /// The deadline has passed. Links that still owe answers are closed: a late one would be
    /// taken for the answer to a later command.
    fn give_up(&mut self, batch: &mut Batch<'_>) {
        let owing = |link: &Link| !link.channel.is_idle();
        let tokens: Vec<Token> =
            self.links.iter().filter(|(_, link)| owing(link)).map(|(token, _)| *token).collect();
        for token in tokens {
            let Some(mut link) = self.links.remove(&token) else { continue };
            self.link_of.remove(&link.address);
            self.server_failed();
            let seen = link.is_connected();
            for ticket in link.channel.abandon() {
                let index = ticket as usize;
                let Some(job) = batch.jobs.get(index) else { continue };
                let class =
                    if seen { Class::of_unanswered(job.command.is_read()) } else { Class::NotDone };
                batch.finish(index, Err(Error::DeadlinePassed { class }));
            }
        }
        for index in 0..batch.jobs.len() {
            let latest = batch.jobs.get_mut(index).and_then(|job| job.latest.take());
            let not_sent = Error::DeadlinePassed { class: Class::NotDone };
            batch.finish(index, Err(latest.unwrap_or(not_sent)));
        }
    }
}

fn mismatch(reply: &Reply) -> Error {
    Error::Protocol { reason: format!("an unfitting reply: {reply:?}"), class: Class::Unknown }
}

fn verdict(job: &Job<'_>, answer: Answer<'_>, host: &str) -> Verdict {
    match answer {
        Answer::Redirect(mut redirect) => {
            if redirect.address.host.is_empty() {
                redirect.address.host = host.into();
            }
            if job.redirects >= REDIRECTS_MAX {
                let text = format!("redirected more than {REDIRECTS_MAX} times");
                return Verdict::Again(Error::Refused { class: Class::NotDone, text });
            }
            Verdict::Redirected(redirect)
        }
        Answer::Refused(refusal) => {
            let text = String::from_utf8_lossy(refusal.text).into_owned();
            let error = Error::Refused { class: refusal.class, text };
            let harmless = refusal.class == Class::NotDone || job.command.is_read();
            if refusal.transient && harmless {
                Verdict::Again(error)
            } else {
                Verdict::Finished(Err(error))
            }
        }
        answer => Verdict::Finished(job.command.reply(&answer).ok_or_else(|| Error::Protocol {
            reason: "an answer of a kind that the command never gets".into(),
            class: Class::of_unanswered(job.command.is_read()),
        })),
    }
}

impl<'a> Batch<'a> {
    fn new(commands: &'a [Command<'a>], deadline: Instant) -> Batch<'a> {
        let job = |command| Job {
            command,
            outcome: None,
            latest: None,
            redirect: None,
            redirects: 0,
            attempts: 0,
        };
        Batch {
            jobs: commands.iter().map(job).collect(),
            ready: (0..commands.len()).collect(),
            later: Vec::new(),
            unfinished: commands.len(),
            deadline,
        }
    }

    fn finish(&mut self, index: usize, outcome: Result<Reply, Error>) {
        if let Some(job) = self.jobs.get_mut(index)
            && job.outcome.is_none()
        {
            job.outcome = Some(outcome);
            self.unfinished -= 1;
        }
    }

    fn again(&mut self, index: usize, now: Instant, error: Error) {
        if let Some(job) = self.jobs.get_mut(index) {
            let backoff = BACKOFF_MIN.saturating_mul(1 << job.attempts.min(16)).min(BACKOFF_MAX);
            job.attempts += 1;
            job.redirects = 0;
            job.latest = Some(error);
            self.later.push((now + backoff, index));
        }
    }

    fn redirect(&mut self, index: usize, redirect: Redirect) {
        if let Some(job) = self.jobs.get_mut(index) {
            job.redirects += 1;
            job.redirect = Some(redirect);
            self.ready.push_back(index);
        }
    }

    /// What has waited long enough is ready.
    fn wake(&mut self, now: Instant) {
        let ready = &mut self.ready;
        self.later.retain(|(at, index)| {
            let waits = *at > now;
            if !waits {
                ready.push_back(*index);
            }
            waits
        });
    }

    fn fail_all(&mut self, error: &std::io::Error) {
        for index in 0..self.jobs.len() {
            self.finish(index, Err(Error::System(error.kind().into())));
        }
    }

    fn outcomes(self) -> Vec<Result<Reply, Error>> {
        let lost = || Err(Error::DeadlinePassed { class: Class::Unknown });
        self.jobs.into_iter().map(|job| job.outcome.unwrap_or_else(lost)).collect()
    }
}
