//! One thread of a run: an event loop over its share of the connections.
//!
//! A turn issues what is due, sends each connection's requests in one write, waits, and reads
//! what has come. In a closed loop the replies of a connection are answered at once by as many
//! new requests. Clocks are read once per turn and once per read, never per request.
//!
//! What must not be added to the path of a request: allocation, locks, atomics, clock or system
//! calls of its own, anything that grows with the number of connections or keys.
//!
//! Invariants: every operation that was started is settled exactly once, whatever becomes of its
//! connection; the loop ends by itself, at the latest one timeout after its last start.

mod cluster;
mod issue;
mod replay;
mod routes;
mod sink;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use client::ClusterMap;
use mio::{Events, Poll, Token};

use crate::arrivals::Schedules;
use crate::connection::{Broken, Connection, READ_BUFFER_BYTES, State};
use crate::cpu::CpuTime;
use crate::options::{Mode, Options, Pacing};
use crate::random::Random;
use crate::record::{Failure, Interval, Phase, Recorder};
use crate::replay::Replay;
use crate::run::Error;
use crate::shape::Profile;
use crate::shards::{Division, Shards};
use crate::timer::Timer;
use crate::wire::Wire;
use crate::workload::Workload;
use routes::{Endpoint, Routes};
use sink::{Check, Failures, Redirects, Sink};

const TIMER: Token = Token(usize::MAX - 1);
/// Events taken from the queue at a time; more wait for the next turn.
const EVENTS_MAX: usize = 1024;
/// How often the loop looks after timeouts, reconnections and the end.
const CHECK_INTERVAL_NS: u64 = 10_000_000;
/// The first wait before connecting again; it doubles with each failure, up to the next.
const BACKOFF_NS_MIN: u64 = 20_000_000;
/// The longest wait before connecting again.
const BACKOFF_NS_MAX: u64 = 1_000_000_000;
/// How long one attempt to connect may take.
const CONNECT_NS_MAX: u64 = 2_000_000_000;
/// Requests in flight per connection while keys are loaded, at least.
const PREFILL_PIPELINE_MIN: usize = 64;
/// Timeouts without a single success after which loading the keys, or a run without a set
/// duration, gives up.
const STALLED_TIMEOUTS: u32 = 3;

/// A thread's share of the work.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    /// Which thread it is.
    pub index: u32,
    /// How many threads there are.
    pub threads: u32,
    /// Its connections, numbered over all threads.
    pub connections: std::ops::Range<u32>,
    /// The keys it loads before the run.
    pub prefill: std::ops::Range<u64>,
    /// How many requests it measures.
    pub requests: Option<u64>,
}

/// When things happen, in nanoseconds from the start of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Requests start.
    pub start_ns: u64,
    /// Requests are measured.
    pub measure_ns: u64,
    /// No more requests start. `u64::MAX` if only their number ends the run.
    pub end_ns: u64,
}

/// What a worker tells the collector.
#[derive(Debug)]
pub(crate) enum Message {
    /// It is connected, and its keys are loaded.
    Ready,
    /// An interval is over.
    Interval(u32, Box<Interval>),
    /// It is done.
    Finished(Summary, Option<Shards>),
    /// It cannot go on.
    Failed(Error),
}

/// What a worker knows at its end beyond its intervals.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    /// Which thread.
    pub index: u32,
    /// CPU time of the measured part.
    pub cpu: CpuTime,
    /// Length of the measured part.
    pub measured_ns: u64,
    /// Connections that are open at the end.
    pub connections: u32,
}

/// The clock of a run: nanoseconds from a common start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(pub Instant);

impl Clock {
    #[inline]
    pub fn now_ns(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
enum Operations {
    /// Each key once.
    Prefill { next: u64, end: u64 },
    /// By the workload, until the time or the number is used up.
    Drawn { left: Option<u64> },
    /// By a trace, until the time or the trace is used up.
    Replayed(Replay),
}

/// A thread's state.
pub(crate) struct Worker<W> {
    options: Arc<Options>,
    share: Share,
    clock: Clock,
    poll: Poll,
    events: Events,
    timer: Timer,
    timer_due_ns: u64,
    ready: Vec<(Token, bool)>,
    connections: Vec<Connection<W>>,
    endpoints: Vec<Endpoint>,
    routes: Option<Routes>,
    dirty: Vec<usize>,
    buffer: Vec<u8>,
    random: Random,
    jitter: Random,
    sink: Sink,
    operations: Operations,
    /// Requests of a trace that wait for room on their connections, all together.
    waiting: usize,
    /// Until when so many waited that no more were taken: what was due before is not late.
    full_until_ns: u64,
    schedules: Option<Schedules>,
    profile: Option<Arc<Profile>>,
    /// Which shards are told apart, if any.
    division: Option<Division>,
    pipeline: usize,
    times: Times,
    phase: Phase,
    next_rotation_ns: u64,
    next_check_ns: u64,
    progress_ns: u64,
    done_at_progress: u64,
    cpu_at_measure: CpuTime,
    summary: Summary,
    aborted: Arc<AtomicBool>,
    lines: Lines,
}

/// A worker's lines to the collector.
pub(crate) struct Lines {
    /// What it tells.
    pub messages: Sender<Message>,
    /// Empty intervals to record into. Memory that is touched for the first time while requests
    /// run would show in their latencies.
    pub intervals: Receiver<Box<Interval>>,
}

impl<W: Wire> Worker<W> {
    /// Sets up a thread. With a map the run is in cluster mode.
    pub fn new(
        options: Arc<Options>,
        share: Share,
        clock: Clock,
        map: Option<&ClusterMap>,
        aborted: Arc<AtomicBool>,
        lines: Lines,
    ) -> Result<Worker<W>, Error> {
        let poll = Poll::new().map_err(Error::System)?;
        let timer = Timer::new(poll.registry(), TIMER).map_err(Error::System)?;
        let mut endpoints = Vec::new();
        let routes = map.map(|map| Routes::new(map, options.read_from, &mut endpoints));
        if routes.is_none() {
            for address in &options.addresses {
                let endpoint = Endpoint::new(address.clone())
                    .map_err(|source| Error::Connect { address: address.clone(), source })?;
                endpoints.push(endpoint);
            }
        }
        if endpoints.is_empty() {
            return Err(Error::Protocol("the cluster map names no leader".into()));
        }
        let cluster = options.mode == Mode::RespCluster;
        let sink = Sink {
            record: Recorder::new(empty_interval(&lines), late_from_ns(&options)),
            workload: Workload::new(&options).of_thread(share.index, share.threads),
            check: if options.verify { Check::Bytes } else { Check::Length },
            redirects: if cluster { Redirects::Follow } else { Redirects::Refuse },
            failures: Failures::Count,
            outstanding: 0,
            done: 0,
            redirected: Vec::new(),
            read_to_write: Vec::new(),
            repeated: Vec::new(),
            map_reply: None,
            shards: None,
            latest_refusal: None,
        };
        let division = map.filter(|_| options.track_shards).map(Division::of);
        let mut worker = Worker {
            division,
            random: Random::stream(options.seed, 2 * u64::from(share.index)),
            jitter: Random::stream(options.seed, 2 * u64::from(share.index) + 1),
            pipeline: options.pipeline() as usize,
            summary: Summary { index: share.index, ..Summary::default() },
            options,
            share,
            clock,
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            timer,
            timer_due_ns: 0,
            ready: Vec::new(),
            connections: Vec::new(),
            endpoints,
            routes,
            dirty: Vec::new(),
            buffer: vec![0; READ_BUFFER_BYTES],
            sink,
            operations: Operations::Drawn { left: None },
            waiting: 0,
            full_until_ns: 0,
            schedules: None,
            profile: None,
            times: Times { start_ns: 0, measure_ns: 0, end_ns: 0 },
            phase: Phase::Warmup,
            next_rotation_ns: u64::MAX,
            next_check_ns: 0,
            progress_ns: 0,
            done_at_progress: 0,
            cpu_at_measure: CpuTime::default(),
            aborted,
            lines,
        };
        worker.add_connections();
        Ok(worker)
    }

    fn add_connections(&mut self) {
        let leaders: Vec<usize> = (0..self.endpoints.len())
            .filter(|index| self.routes.is_none() || self.endpoints[*index].leads)
            .collect();
        if leaders.is_empty() {
            return;
        }
        for number in self.share.connections.clone() {
            self.add_connection(leaders[number as usize % leaders.len()]);
        }
        // In cluster mode every leader needs one, however few were asked for.
        if self.routes.is_some() {
            for leader in leaders {
                if self.endpoints[leader].connections.is_empty() {
                    self.add_connection(leader);
                }
            }
        }
    }

    fn add_connection(&mut self, endpoint: usize) {
        self.endpoints[endpoint].connections.push(self.connections.len());
        let wire = W::new(&self.options, &self.endpoints[endpoint].address);
        self.connections.push(Connection::new(endpoint, wire));
    }

    /// Connects. Without a cluster every connection must succeed, so that a typing error in an
    /// address is not taken for a slow server; in a cluster one server must answer.
    pub fn connect(&mut self) -> Result<(), Error> {
        let give_up_ns = self.clock.now_ns() + CONNECT_NS_MAX;
        let first_failure = |worker: &Worker<W>, index: usize, source: std::io::Error| {
            let address = worker.endpoints[worker.connections[index].endpoint].address.clone();
            Error::Connect { address, source }
        };
        let mut latest = None;
        for index in 0..self.connections.len() {
            if let Err(source) = self.open(index, give_up_ns) {
                let failure = first_failure(self, index, source);
                if self.routes.is_none() {
                    return Err(failure);
                }
                latest = Some(failure);
            }
        }
        loop {
            let mut waiting = false;
            for index in 0..self.connections.len() {
                if !matches!(self.connections[index].state, State::Connecting { .. }) {
                    continue;
                }
                let now_ns = self.clock.now_ns();
                let outcome = match self.connections[index].finish_opening(now_ns) {
                    Ok(false) if now_ns < give_up_ns => {
                        waiting = true;
                        continue;
                    }
                    Ok(false) => Err(std::io::ErrorKind::TimedOut.into()),
                    Ok(true) => {
                        self.mark_dirty(index);
                        Ok(())
                    }
                    Err(error) => Err(error),
                };
                if let Err(source) = outcome {
                    let failure = first_failure(self, index, source);
                    if self.routes.is_none() {
                        return Err(failure);
                    }
                    latest = Some(failure);
                    self.connections[index].close(0);
                }
            }
            if !waiting {
                break;
            }
            self.wait(Duration::from_millis(10))?;
        }
        let open = self.connections.iter().any(|connection| connection.state == State::Open);
        match latest {
            Some(failure) if !open => Err(failure),
            _ => Ok(()),
        }
    }

    /// Writes this thread's share of the keys once.
    pub fn prefill(&mut self) -> Result<(), Error> {
        let std::ops::Range { start, end } = self.share.prefill.clone();
        self.operations = Operations::Prefill { next: start, end };
        self.sink.failures = Failures::Repeat;
        self.pipeline = self.pipeline.max(PREFILL_PIPELINE_MIN);
        self.times = Times { start_ns: 0, measure_ns: u64::MAX, end_ns: u64::MAX };
        self.drive()?;
        if !self.is_stopped() && (self.sink.outstanding > 0 || self.has_operations(0)) {
            let reason = self.sink.latest_refusal.take();
            return Err(Error::Prefill(reason.unwrap_or_else(|| "no replies".into())));
        }
        self.sink.failures = Failures::Count;
        self.pipeline = self.options.pipeline() as usize;
        Ok(())
    }

    /// Runs the measured load and hands its intervals to the collector.
    pub fn run(mut self, times: Times) -> Result<(), Error> {
        self.operations = Operations::Drawn { left: self.share.requests };
        self.times = times;
        if let Pacing::Open { shape, .. } = &self.options.pacing {
            self.profile = Some(Arc::new(Profile::new(shape, times.start_ns, times.measure_ns)));
        }
        let options = Arc::clone(&self.options);
        match (&options.trace, &options.pacing, &self.profile) {
            (Some(trace), ..) => self.operations = Operations::Replayed(self.replay(trace)),
            (None, Pacing::Open { arrivals, .. }, Some(profile)) => {
                self.schedules = Some(self.schedules(profile, *arrivals));
            }
            (None, ..) => {}
        }
        let warm = times.measure_ns > times.start_ns;
        self.phase = if warm { Phase::Warmup } else { Phase::Measured };
        let mut first = empty_interval(&self.lines);
        (first.phase, first.start_ns) = (self.phase, times.start_ns);
        self.sink.record = Recorder::new(first, late_from_ns(&self.options));
        self.sink.shards =
            self.division.take().map(|division| Shards::new(division, times.start_ns));
        self.next_rotation_ns = self.rotation_after(times.start_ns);
        self.cpu_at_measure = CpuTime::of_thread();
        while self.clock.now_ns() < times.start_ns {
            let left = times.start_ns.saturating_sub(self.clock.now_ns());
            std::thread::sleep(Duration::from_nanos(left));
        }
        self.drive()?;
        self.finish();
        Ok(())
    }

    /// Starts operations until there are no more, and settles them all.
    fn drive(&mut self) -> Result<(), Error> {
        self.progress_ns = self.clock.now_ns();
        self.next_check_ns = 0;
        for index in 0..self.connections.len() {
            self.has_room(index, self.progress_ns);
        }
        loop {
            let now_ns = self.clock.now_ns();
            if now_ns >= self.next_check_ns {
                self.check(now_ns);
            }
            self.issue(now_ns);
            self.flush_dirty(now_ns);
            if self.is_finished(now_ns) {
                return Ok(());
            }
            let wait = self.time_to_wait(now_ns)?;
            self.wait(wait)?;
            let ready = std::mem::take(&mut self.ready);
            for (token, closing) in &ready {
                if *token != TIMER {
                    self.handle(token.0, *closing);
                }
            }
            self.ready = ready;
        }
    }

    fn is_finished(&self, now_ns: u64) -> bool {
        if self.sink.outstanding == 0 && !self.has_operations(now_ns) {
            return true;
        }
        let timeout_ns = self.options.timeout.as_nanos() as u64;
        let overdue = now_ns >= self.times.end_ns.saturating_add(timeout_ns);
        let endless = self.times.end_ns == u64::MAX;
        let stalled =
            now_ns.saturating_sub(self.progress_ns) > timeout_ns * u64::from(STALLED_TIMEOUTS);
        overdue || (endless && stalled) || self.aborted.load(Ordering::Relaxed)
    }

    fn is_stopped(&self) -> bool {
        self.options.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    /// How long to sleep if no socket has anything.
    fn time_to_wait(&mut self, now_ns: u64) -> Result<Duration, Error> {
        let idle = Duration::from_nanos(self.next_check_ns.saturating_sub(now_ns));
        let Some(next_ns) = self.next_start() else { return Ok(idle) };
        if next_ns <= now_ns {
            return Ok(Duration::ZERO);
        }
        if next_ns != self.timer_due_ns {
            self.timer.set(next_ns - now_ns).map_err(Error::System)?;
            self.timer_due_ns = next_ns;
        }
        Ok(idle)
    }

    fn wait(&mut self, wait: Duration) -> Result<(), Error> {
        self.ready.clear();
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
            result => result.map_err(Error::System)?,
        }
        let ready = self.events.iter().map(|event| (event.token(), event.is_read_closed()));
        self.ready.extend(ready);
        Ok(())
    }

    /// Something happened to a connection.
    fn handle(&mut self, index: usize, closing: bool) {
        let now_ns = self.clock.now_ns();
        match self.connections[index].state {
            State::Closed { .. } => return,
            State::Connecting { .. } => match self.connections[index].finish_opening(now_ns) {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => return self.not_opened(index, now_ns),
            },
            State::Open => {}
        }
        if self.connections[index].has_output() && !self.flush(index, now_ns) {
            return;
        }
        match self.receive(index, closing) {
            Ok(now_ns) => {
                self.write_what_was_read(index, now_ns);
                self.has_room(index, now_ns);
                if W::ACKNOWLEDGES && self.connections[index].has_output() {
                    self.mark_dirty(index);
                }
            }
            Err(broken) => self.lost(index, &broken, now_ns),
        }
    }

    /// Reads all there is. Returns the time of the last read.
    fn receive(&mut self, index: usize, closing: bool) -> Result<u64, Broken> {
        let Worker { connections, endpoints, buffer, sink, clock, .. } = self;
        let connection = &mut connections[index];
        let mut now_ns = clock.now_ns();
        while let Some(received) = connection.receive(buffer)? {
            now_ns = clock.now_ns();
            sink.record.counts().bytes_received += received as u64;
            let bytes = buffer.get(..received).unwrap_or_default();
            connection.answers(bytes, now_ns, |flight, answer| {
                sink.answer(flight, answer, now_ns);
            })?;
            // An empty host in a redirect means the server that gave it.
            for (_, redirect) in &mut sink.redirected {
                if redirect.address.host.is_empty() {
                    redirect.address.host = endpoints[connection.endpoint].address.host.clone();
                }
            }
            // A read that did not fill the buffer has emptied the socket. Only the peer's end
            // could still be behind it, and its event says so.
            if received < READ_BUFFER_BYTES && !closing {
                break;
            }
        }
        Ok(now_ns)
    }

    /// Sends what a connection has. False if that ended it.
    fn flush(&mut self, index: usize, now_ns: u64) -> bool {
        match self.connections[index].flush() {
            Ok(sent) => {
                self.sink.record.counts().bytes_sent += sent;
                true
            }
            Err(broken) => {
                self.lost(index, &broken, now_ns);
                false
            }
        }
    }

    fn flush_dirty(&mut self, now_ns: u64) {
        while let Some(index) = self.dirty.pop() {
            if self.connections[index].dirty {
                self.flush(index, now_ns);
            }
        }
    }

    fn mark_dirty(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(index);
        }
    }

    fn open(&mut self, index: usize, give_up_at_ns: u64) -> std::io::Result<()> {
        let socket = self.endpoints[self.connections[index].endpoint].socket;
        let registry = self.poll.registry();
        self.connections[index].open(socket, registry, Token(index), give_up_at_ns)
    }

    fn not_opened(&mut self, index: usize, now_ns: u64) {
        self.sink.record.counts().connects_failed += 1;
        let retry_at_ns = now_ns + self.backoff_ns(index);
        self.connections[index].close(retry_at_ns);
        self.want_map();
    }

    fn backoff_ns(&mut self, index: usize) -> u64 {
        let doublings = self.connections[index].attempts.min(10);
        let backoff_ns = (BACKOFF_NS_MIN << doublings).min(BACKOFF_NS_MAX);
        backoff_ns / 2 + self.jitter.below(backoff_ns / 2)
    }

    /// A connection ended. What was in flight on it is settled by its class.
    fn lost(&mut self, index: usize, broken: &Broken, now_ns: u64) {
        self.sink.record.counts().connections_lost += 1;
        self.delist(index);
        let retry_at_ns = now_ns + self.backoff_ns(index);
        let mut flights = self.connections[index].close(retry_at_ns);
        // From now on they wait for another connection to be made.
        self.connections[index].waiting_since_ns = now_ns;
        if matches!(broken, Broken::Malformed)
            && let Some(flight) = flights.pop_front()
        {
            self.sink.failed(flight, Failure::Malformed);
        }
        flights.into_iter().for_each(|flight| self.sink.lost(flight));
        // Their writes were never sent.
        while let Some(flight) = self.sink.read_to_write.pop() {
            self.sink.failed(flight, Failure::Lost(client::Class::NotDone));
        }
        self.want_map();
    }

    /// What is not worth a look every turn.
    fn check(&mut self, now_ns: u64) {
        if self.is_stopped() && self.times.end_ns > now_ns {
            self.times.end_ns = now_ns;
            if self.next_rotation_ns != u64::MAX {
                self.next_rotation_ns = self.next_rotation_ns.min(now_ns);
            }
        }
        while now_ns >= self.next_rotation_ns {
            self.rotate();
        }
        self.next_check_ns = self.next_rotation_ns.min(now_ns + CHECK_INTERVAL_NS);
        if self.sink.done > self.done_at_progress || self.waits_for_its_time(now_ns) {
            (self.done_at_progress, self.progress_ns) = (self.sink.done, now_ns);
        }
        self.check_connections(now_ns);
        self.check_routes(now_ns);
        self.check_waiting(now_ns);
    }

    fn check_connections(&mut self, now_ns: u64) {
        let timeout_ns = self.options.timeout.as_nanos() as u64;
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            let silent_ns = || now_ns.saturating_sub(connection.owes_since_ns());
            match connection.state {
                State::Open if connection.in_flight() > 0 && silent_ns() > timeout_ns => {
                    self.sink.record.counts().timeouts += 1;
                    self.lost(index, &Broken::Lost, now_ns);
                }
                State::Connecting { give_up_at_ns } if now_ns >= give_up_at_ns => {
                    self.not_opened(index, now_ns);
                }
                State::Closed { retry_at_ns } if now_ns >= retry_at_ns => {
                    let opens = self.is_needed(index);
                    if opens && self.open(index, now_ns + CONNECT_NS_MAX).is_err() {
                        self.not_opened(index, now_ns);
                    }
                }
                _ => {}
            }
        }
    }

    /// When the interval that starts at `now_ns` ends: after its length, and where phases or
    /// stages of the load meet.
    fn rotation_after(&self, now_ns: u64) -> u64 {
        let full = now_ns + self.options.interval.as_nanos() as u64;
        let change = self.profile.as_ref().and_then(|profile| profile.change_after(now_ns));
        [Some(self.times.measure_ns), Some(self.times.end_ns), change]
            .into_iter()
            .flatten()
            .filter(|edge_ns| *edge_ns > now_ns)
            .fold(full, u64::min)
    }

    fn rotate(&mut self) {
        let at_ns = self.next_rotation_ns;
        let Times { measure_ns, end_ns, .. } = self.times;
        let before = self.phase;
        // Only the clock leads into the drain. A run that its number of requests ends is
        // measured until the last reply.
        self.phase = match at_ns {
            at if at >= end_ns => Phase::Drain,
            at if at >= measure_ns => Phase::Measured,
            _ => Phase::Warmup,
        };
        if before == Phase::Measured && self.phase == Phase::Drain {
            self.summary.cpu = CpuTime::of_thread().since(self.cpu_at_measure);
        }
        if before == Phase::Warmup && self.phase == Phase::Measured {
            self.cpu_at_measure = CpuTime::of_thread();
        }
        let belongs_from_ns = if self.phase == Phase::Warmup { 0 } else { measure_ns };
        let next = empty_interval(&self.lines);
        let interval = self.sink.record.rotate(next, self.phase, at_ns, belongs_from_ns);
        self.hand_over(interval);
        self.next_rotation_ns = self.rotation_after(at_ns);
    }

    fn hand_over(&mut self, interval: Box<Interval>) {
        if let Some(shards) = &mut self.sink.shards {
            shards.end_row();
        }
        if interval.phase == Phase::Measured {
            self.summary.measured_ns += interval.end_ns - interval.start_ns;
        }
        // Without a collector nobody wants the interval; the run ends by its flag.
        let _ = self.lines.messages.send(Message::Interval(self.share.index, interval));
    }

    /// Settles what nobody will answer any more, and says goodbye.
    fn finish(mut self) {
        let now_ns = self.clock.now_ns();
        while now_ns >= self.next_rotation_ns {
            self.rotate();
        }
        if self.phase != Phase::Drain {
            self.summary.cpu = CpuTime::of_thread().since(self.cpu_at_measure);
        }
        let open = self.connections.iter().filter(|c| c.state == State::Open).count();
        self.summary.connections = open as u32;
        self.settle_rest();
        let next = empty_interval(&self.lines);
        let last = self.sink.record.rotate(next, Phase::Drain, now_ns, self.times.measure_ns);
        self.hand_over(last);
        let mut shards = self.sink.shards.take();
        if let Some(shards) = &mut shards {
            shards.end(now_ns);
        }
        let _ = self.lines.messages.send(Message::Finished(self.summary, shards));
    }

    fn settle_rest(&mut self) {
        for index in 0..self.connections.len() {
            for flight in self.connections[index].close(u64::MAX) {
                self.sink.lost(flight);
            }
        }
        self.settle_parked();
        let end_ns = self.times.end_ns.min(self.clock.now_ns());
        if let Operations::Replayed(replay) = &mut self.operations {
            replay.abandon_before(self.times.measure_ns.min(end_ns));
            self.sink.record.counts().unsent += replay.abandon_before(end_ns);
            return;
        }
        let Some(schedules) = &mut self.schedules else { return };
        // What was due in the warm-up and never sent is not part of the measurement.
        schedules.abandon_before(self.times.measure_ns.min(end_ns));
        let requests_are_counted = matches!(self.operations, Operations::Drawn { left: Some(0) });
        if !requests_are_counted {
            self.sink.record.counts().unsent += schedules.abandon_before(end_ns);
        }
    }
}

/// An interval the collector has sent back, or should it be slow, a new one.
fn empty_interval(lines: &Lines) -> Box<Interval> {
    let fresh = |_| Box::new(Interval::new(Phase::Warmup, 0));
    lines.intervals.try_recv().unwrap_or_else(fresh)
}

fn late_from_ns(options: &Options) -> u64 {
    options.late_after.as_nanos() as u64
}
