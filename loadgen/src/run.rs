//! A whole run: from options to a report.
//!
//! The calling thread is the collector. It makes sure that the servers speak what they are
//! expected to, starts the workers, lets them start together once all are connected and all keys
//! are loaded, adds up their intervals and shows each second as it is complete.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use client::{Address, Client, ClusterMap, Protocol, Routing, fetch_map};

use crate::etcd::{self, Streams};
use crate::events::{Event, happen};
use crate::options::{Mode, Options, Pacing};
use crate::record::{Interval, Phase};
use crate::report::Report;
use crate::second::Second;
use crate::shape::Profile;
use crate::shards::{Shards, summarize};
use crate::trace::Trace;
use crate::wire::{InOrder, Wire};
use crate::worker::{Clock, Lines, Message, Share, Summary, Times, Worker};

/// How long the servers may take to show that they are there.
pub(crate) const PROBE_MAX: Duration = Duration::from_secs(2);
/// How often the collector and waiting workers look around.
const LOOK_AROUND: Duration = Duration::from_millis(20);
/// Time for all workers to learn when the run starts.
const START_DELAY_NS: u64 = 30_000_000;

/// Intervals each worker has to record into, while others are being added up.
const INTERVALS_PER_WORKER: usize = 4;

/// Why a run did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The options make no sense.
    #[error("{0}")]
    Options(String),
    /// A server cannot be reached.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Which.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// A server does not speak what it should, or refuses to.
    #[error("{0}")]
    Protocol(String),
    /// The keys could not be loaded.
    #[error("loading the keys failed: {0}")]
    Prefill(String),
    /// The operating system refused something.
    #[error("the operating system refused: {0}")]
    System(io::Error),
    /// A thread ended without a word, which is a fault of this program.
    #[error("a thread of the load generator failed")]
    Worker,
}

/// Runs the load and calls `progress` once for each second, as soon as it is complete.
///
/// It blocks until the run is over: warm-up, duration and at most one timeout more.
///
/// # Errors
/// If the run could not be made. Errors of single requests are part of the report.
pub fn run(options: Options, progress: &mut dyn FnMut(&Second)) -> Result<Report, Error> {
    options.check().map_err(Error::Options)?;
    let map = probe(&options)?;
    let clock = Clock(Instant::now());
    let aborted = Arc::new(AtomicBool::new(false));
    let times = Arc::new(OnceLock::new());
    let (sender, receiver) = channel();
    let options = Arc::new(options);
    let (mut threads, mut returns) = (Vec::new(), Vec::new());
    for index in 0..options.threads {
        let (return_to, intervals) = channel();
        for _ in 0..INTERVALS_PER_WORKER {
            let mut interval = Box::new(Interval::new(Phase::Warmup, 0));
            interval.clear();
            // The receiver is right here.
            let _ = return_to.send(interval);
        }
        returns.push(return_to);
        let setup = Setup {
            options: Arc::clone(&options),
            share: share(&options, index),
            map: map.clone(),
            aborted: Arc::clone(&aborted),
            times: Arc::clone(&times),
            lines: Lines { messages: sender.clone(), intervals },
            clock,
        };
        let name = format!("loadgen-{index}");
        let thread = std::thread::Builder::new().name(name).spawn(move || setup.work());
        threads.push(thread.map_err(Error::System)?);
    }
    drop(sender);
    let happening = happening(&options, clock, &times, &aborted)?;
    let collected = Collector::new(&options, &receiver, returns).collect(clock, &times, progress);
    aborted.store(true, Ordering::Relaxed);
    // Every thread is joined, so none outlives the run.
    let panics = threads.into_iter().filter_map(|thread| thread.join().err()).count();
    let events = happening.map(JoinHandle::join).transpose().map_err(|_| Error::Worker)?;
    let mut report = collected?;
    report.events = events.unwrap_or_default();
    if panics > 0 { Err(Error::Worker) } else { Ok(report) }
}

/// The thread that does what is to happen during the run, if anything is.
fn happening(
    options: &Arc<Options>,
    clock: Clock,
    times: &Arc<OnceLock<Times>>,
    ended: &Arc<AtomicBool>,
) -> Result<Option<JoinHandle<Vec<Event>>>, Error> {
    if options.events.is_empty() {
        return Ok(None);
    }
    let (plans, times, ended) = (options.events.clone(), Arc::clone(times), Arc::clone(ended));
    let body = move || {
        while times.get().is_none() && !ended.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        times.get().map_or(Vec::new(), |times| happen(plans, clock, *times, &ended))
    };
    let thread = std::thread::Builder::new().name("events".into()).spawn(body);
    thread.map(Some).map_err(Error::System)
}

/// Sees whether the servers are there and speak the protocol, and fetches the cluster map.
fn probe(options: &Options) -> Result<Option<ClusterMap>, Error> {
    if options.mode == Mode::RespCluster {
        let mut turn = options.addresses.len() - 1;
        let map =
            fetch_map(&options.addresses, &mut turn, options.read_from, Instant::now() + PROBE_MAX);
        return map.map(Some).map_err(|error| match error {
            client::Error::Connect { address, source } => Error::Connect { address, source },
            other => Error::Protocol(format!("no cluster map: {other}")),
        });
    }
    let Some(protocol) = options.mode.protocol() else {
        options.addresses.iter().try_for_each(|address| etcd::probe(options, address))?;
        return Ok(None);
    };
    for address in &options.addresses {
        let mut probe = client::Options::new(vec![address.clone()]);
        (probe.protocol, probe.routing) = (protocol, Routing::Direct);
        (probe.deadline, probe.connect_timeout) = (PROBE_MAX, PROBE_MAX);
        let outcome = Client::connect(probe).and_then(|mut client| client.get(b"loadgen:probe"));
        match outcome {
            Ok(_) => {}
            Err(client::Error::Refused { text, .. }) if text.starts_with("NOAUTH") => {
                return Err(Error::Protocol(format!("{address} wants a password: {text}")));
            }
            // A server may refuse for a moment; the run will tell.
            Err(client::Error::Refused { .. }) => {}
            Err(client::Error::Connect { address, source }) => {
                return Err(Error::Connect { address, source });
            }
            Err(error) => {
                let name = match protocol {
                    Protocol::Binary => "the memcached binary protocol",
                    Protocol::Resp => "RESP",
                };
                let text = format!("{address} does not answer in {name}: {error}");
                return Err(Error::Protocol(text));
            }
        }
    }
    Ok(None)
}

/// The share of thread `index`: all shares together are the whole, and differ by one at most.
fn share(options: &Options, index: u32) -> Share {
    let threads = u64::from(options.threads);
    let cut = |whole: u64, index: u32| {
        let share = u128::from(whole) * u128::from(index) / u128::from(threads);
        share as u64
    };
    let connections = u64::from(options.connections);
    let requests = options.requests.map(|all| cut(all, index + 1) - cut(all, index));
    let keys = if options.prefill { options.keys } else { 0 };
    Share {
        index,
        threads: options.threads,
        connections: cut(connections, index) as u32..cut(connections, index + 1) as u32,
        prefill: cut(keys, index)..cut(keys, index + 1),
        requests,
    }
}

/// What a worker's thread starts with.
struct Setup {
    options: Arc<Options>,
    share: Share,
    map: Option<ClusterMap>,
    aborted: Arc<AtomicBool>,
    times: Arc<OnceLock<Times>>,
    lines: Lines,
    clock: Clock,
}

impl Setup {
    fn work(self) {
        let sender = self.lines.messages.clone();
        if let Err(error) = self.try_work() {
            // Without a collector nobody wants to know.
            let _ = sender.send(Message::Failed(error));
        }
    }

    fn try_work(self) -> Result<(), Error> {
        match self.options.mode {
            Mode::Etcd => self.run::<Streams>(),
            Mode::Binary | Mode::Resp | Mode::RespCluster => self.run::<InOrder>(),
        }
    }

    fn run<W: Wire>(self) -> Result<(), Error> {
        let Setup { options, share, map, aborted, times, lines, clock } = self;
        let told = Arc::clone(&aborted);
        let prefills = options.prefill;
        let ready = lines.messages.clone();
        let mut worker = Worker::<W>::new(options, share, clock, map.as_ref(), told, lines)?;
        worker.connect()?;
        if prefills {
            worker.prefill()?;
        }
        // Without a collector the run is aborted, which the loop below sees.
        let _ = ready.send(Message::Ready);
        loop {
            if aborted.load(Ordering::Relaxed) {
                return Ok(());
            }
            if let Some(times) = times.get() {
                return worker.run(*times);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Adds up what the workers measure.
struct Collector<'a> {
    options: &'a Options,
    messages: &'a Receiver<Message>,
    ready: u32,
    pending: Vec<VecDeque<Box<Interval>>>,
    /// Where the intervals of each worker go back to.
    returns: Vec<Sender<Box<Interval>>>,
    summaries: Vec<Option<Summary>>,
    report: Report,
    /// What each thread knows about shards, if they are told apart.
    shards: Vec<Shards>,
    /// What is due when, as soon as the run has started, if its loop is open.
    due: Option<Due>,
}

/// What is due when in an open loop.
enum Due {
    /// By the shape of the load, up to the end of a trace if one is replayed.
    Shaped { profile: Profile, requests: f64 },
    /// By the times of a trace.
    Recorded { trace: Arc<Trace>, start_ns: u64, speed: f64 },
}

impl Due {
    /// What the options make due in a run with these times.
    fn of(options: &Options, times: &Times) -> Option<Due> {
        match (&options.pacing, &options.trace) {
            (Pacing::Open { shape, .. }, trace) => Some(Due::Shaped {
                profile: Profile::new(shape, times.start_ns, times.measure_ns),
                requests: trace.as_ref().map_or(f64::INFINITY, |trace| trace.requests() as f64),
            }),
            (Pacing::Recorded { speed }, Some(trace)) => Some(Due::Recorded {
                trace: Arc::clone(trace),
                start_ns: times.start_ns,
                speed: *speed,
            }),
            (Pacing::Recorded { .. } | Pacing::Closed, _) => None,
        }
    }

    /// How many requests are due before a time.
    fn before(&self, at_ns: u64) -> f64 {
        match self {
            Due::Shaped { profile, requests } => profile.due_before(at_ns).min(*requests),
            Due::Recorded { trace, start_ns, speed } => {
                trace.due_before((at_ns.saturating_sub(*start_ns) as f64 * speed) as u64) as f64
            }
        }
    }

    /// The stage of the load that a time lies in.
    fn stage_at(&self, at_ns: u64) -> usize {
        match self {
            Due::Shaped { profile, .. } => profile.stage_at(at_ns),
            Due::Recorded { .. } => 0,
        }
    }
}

impl<'a> Collector<'a> {
    fn new(
        options: &'a Options,
        messages: &'a Receiver<Message>,
        returns: Vec<Sender<Box<Interval>>>,
    ) -> Collector<'a> {
        let threads = options.threads as usize;
        Collector {
            options,
            messages,
            ready: 0,
            pending: vec![VecDeque::new(); threads],
            returns,
            summaries: vec![None; threads],
            report: Report::new(options),
            shards: Vec::new(),
            due: None,
        }
    }

    fn collect(
        mut self,
        clock: Clock,
        times: &OnceLock<Times>,
        progress: &mut dyn FnMut(&Second),
    ) -> Result<Report, Error> {
        while self.summaries.iter().any(Option::is_none) {
            match self.messages.recv_timeout(LOOK_AROUND) {
                Ok(Message::Ready) => {
                    self.ready += 1;
                    if self.ready == self.options.threads {
                        let at = self.times(clock);
                        self.due = Due::of(self.options, &at);
                        // Nobody else sets them.
                        let _ = times.set(at);
                    }
                }
                Ok(Message::Interval(worker, interval)) => {
                    if let Some(pending) = self.pending.get_mut(worker as usize) {
                        pending.push_back(interval);
                    }
                    self.emit(progress);
                }
                Ok(Message::Finished(summary, shards)) => {
                    self.shards.extend(shards);
                    if let Some(slot) = self.summaries.get_mut(summary.index as usize) {
                        *slot = Some(summary);
                    }
                    self.emit(progress);
                }
                Ok(Message::Failed(error)) => return Err(error),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Worker),
            }
        }
        let summaries: Vec<Summary> = self.summaries.into_iter().flatten().collect();
        self.report.finish(&summaries);
        let start_ns = times.get().map_or(0, |times| times.start_ns);
        self.report.shards = summarize(&self.shards, start_ns);
        Ok(self.report)
    }

    fn times(&self, clock: Clock) -> Times {
        let nanoseconds = |span: Duration| span.as_nanos() as u64;
        let start_ns = clock.now_ns() + START_DELAY_NS;
        let measure_ns = start_ns + nanoseconds(self.options.warmup);
        let duration = self.options.duration.map(nanoseconds);
        let end_ns = duration.map_or(u64::MAX, |duration| measure_ns.saturating_add(duration));
        Times { start_ns, measure_ns, end_ns }
    }

    /// Shows every interval of which all workers have delivered their part.
    fn emit(&mut self, progress: &mut dyn FnMut(&Second)) {
        loop {
            let lags = self
                .pending
                .iter()
                .zip(&self.summaries)
                .any(|(pending, summary)| pending.is_empty() && summary.is_none());
            if lags {
                return;
            }
            let fronts: Vec<&Interval> =
                self.pending.iter().filter_map(|pending| pending.front().map(|i| &**i)).collect();
            let Some(mut second) = Second::merge(&fronts) else { return };
            for (pending, return_to) in self.pending.iter_mut().zip(&self.returns) {
                if let Some(mut interval) = pending.pop_front() {
                    interval.clear();
                    // A worker that has ended needs no more.
                    let _ = return_to.send(interval);
                }
            }
            let stage = self.place(&mut second);
            progress(&second);
            self.report.add(&second, stage);
        }
    }
}

impl Collector<'_> {
    /// Says what was due in an interval, and in which stage of the load it lies.
    fn place(&self, second: &mut Second) -> usize {
        let Some(due) = &self.due else { return 0 };
        let (start_ns, end_ns) = (second.start_ns, second.start_ns + second.length_ns);
        second.offered = match second.phase {
            Phase::Drain => Some(0.0),
            _ => Some(due.before(end_ns) - due.before(start_ns)),
        };
        // What is left to do at the end of the last stage still belongs to it.
        let at_ns =
            if second.phase == Phase::Drain { start_ns.saturating_sub(1) } else { start_ns };
        due.stage_at(at_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_everything_once() {
        let address = "127.0.0.1:1".parse().expect("an address");
        let mut options = Options::new(vec![address], Mode::Resp);
        (options.connections, options.threads) = (50, 7);
        (options.requests, options.keys, options.prefill) = (Some(1001), 999, true);
        let shares: Vec<Share> = (0..7).map(|index| share(&options, index)).collect();
        assert_eq!(shares.iter().map(|s| s.requests.unwrap_or(0)).sum::<u64>(), 1001);
        assert_eq!((shares[0].connections.start, shares[6].connections.end), (0, 50));
        assert_eq!((shares[0].prefill.start, shares[6].prefill.end), (0, 999));
        for pair in shares.windows(2) {
            assert_eq!(pair[0].connections.end, pair[1].connections.start);
            assert_eq!(pair[0].prefill.end, pair[1].prefill.start);
            assert!(pair[1].connections.len().abs_diff(pair[0].connections.len()) <= 1);
        }
    }
}
