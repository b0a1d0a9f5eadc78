//! What a run does: the options, and which of them contradict each other.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use client::{Address, Protocol, ReadFrom};

use crate::arrivals::Arrivals;
use crate::events::{EVENTS_MAX, Plan};
use crate::keys::Distribution;
use crate::replay::Misses;
use crate::shape::Shape;
use crate::trace::Trace;
use crate::values::ValueSize;

/// Most connections of a run: more would need more ports than one address has.
pub const CONNECTIONS_MAX: u32 = 60_000;
/// Most threads of a run.
pub const THREADS_MAX: u32 = 256;
/// Most requests in flight per connection.
pub const PIPELINE_MAX: u32 = 65_536;
/// Digits of a key's number; there can be no more keys than they tell apart.
pub const KEY_DIGITS: usize = 12;
/// Requests a connection of an open loop may have in flight unless the options say otherwise.
/// High enough that a server that keeps up is never limited by it, low enough that one that does
/// not is not flooded: what waits longer waits here, and its wait counts.
pub const OPEN_PIPELINE_DEFAULT: u32 = 64;
/// Longest prefix of keys, in bytes; with the digits it stays below what memcached takes.
const KEY_PREFIX_BYTES_MAX: usize = 200;
/// Bytes that the pipelines of all connections may need at once.
const PIPELINE_BYTES_MAX: u64 = 4 << 30;

/// Highest factor between a trace's time and that of the run.
pub const SPEED_MAX: f64 = 1e6;
/// How much after its time a send is late unless the options say otherwise.
const LATE_AFTER_DEFAULT: Duration = Duration::from_millis(1);
/// Shortest interval of the rows over time.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Most rows over time: a day of seconds.
pub const ROWS_MAX: usize = 86_400;

/// What the servers speak, and how the owner of a key is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The memcached binary protocol; any connection takes any key.
    Binary,
    /// RESP; any connection takes any key.
    Resp,
    /// RESP; each key goes to the server that CLUSTER SLOTS names.
    RespCluster,
    /// etcd's v3 API over gRPC; any connection takes any key.
    Etcd,
}

impl Mode {
    /// What goes over the wire, where it is one of the client's own protocols.
    pub fn protocol(self) -> Option<Protocol> {
        match self {
            Mode::Binary => Some(Protocol::Binary),
            Mode::Resp | Mode::RespCluster => Some(Protocol::Resp),
            Mode::Etcd => None,
        }
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Binary => "binary",
            Mode::Resp => "resp",
            Mode::RespCluster => "resp-cluster",
            Mode::Etcd => "etcd",
        }
    }
}

/// When the next request starts.
#[derive(Clone, Debug, PartialEq)]
pub enum Pacing {
    /// When a reply has come: the number of requests in flight is constant.
    Closed,
    /// When it is due, whatever the server does. Latency counts from then.
    Open {
        /// Requests a second over all connections, as time goes on.
        shape: Shape,
        /// How they are spaced.
        arrivals: Arrivals,
    },
    /// When the trace says, whatever the server does. Latency counts from then.
    Recorded {
        /// How many seconds of the trace pass in one, above 0 and up to [`SPEED_MAX`].
        speed: f64,
    },
}

/// Which writes carry a time to live.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimeToLive {
    /// The part of the writes, in 0 to 1.
    pub share: f64,
    /// The time in seconds, at least 1.
    pub seconds: u32,
}

/// What requests do that are no reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// They write a key that there is.
    Update,
    /// They write a key that there was not, numbered behind all others.
    Insert,
    /// They read a key, and write it when the reply has come: one operation, whose latency spans
    /// both.
    Modify,
}

impl Writes {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Writes::Update => "update",
            Writes::Insert => "insert",
            Writes::Modify => "read-modify-write",
        }
    }
}

/// What a run does.
#[derive(Clone, Debug)]
pub struct Options {
    /// The servers. For `RespCluster` those to ask for the map, otherwise the connections are
    /// spread over them.
    pub addresses: Vec<Address>,
    /// What they speak.
    pub mode: Mode,
    /// When requests start.
    pub pacing: Pacing,
    /// Connections, over all threads. For `RespCluster` they are spread over the leaders, and
    /// some more are opened where a leader has more requests at a time than connections.
    pub connections: u32,
    /// Threads, each with a loop of its own.
    pub threads: u32,
    /// Requests in flight per connection: always so many in a closed loop, at most so many in an
    /// open one. Without it 1 and [`OPEN_PIPELINE_DEFAULT`].
    pub pipeline: Option<u32>,
    /// How long requests are measured. Without it, until `requests` have run.
    pub duration: Option<Duration>,
    /// How many requests are measured at most.
    pub requests: Option<u64>,
    /// How long requests run before they are measured.
    pub warmup: Duration,
    /// How many keys there are.
    pub keys: u64,
    /// What each key starts with; twelve digits follow.
    pub key_prefix: String,
    /// How popular each key is.
    pub distribution: Distribution,
    /// How long values are.
    pub value_size: ValueSize,
    /// Which part of the requests reads, in 0 to 1.
    pub read_share: f64,
    /// What the others do.
    pub writes: Writes,
    /// Who may answer reads. In cluster mode they are spread over all who may.
    pub read_from: ReadFrom,
    /// Which writes expire; without it none.
    pub time_to_live: Option<TimeToLive>,
    /// Whether every key is written once before the run.
    pub prefill: bool,
    /// Whether the bytes of every value read are compared with what must have been written.
    pub verify: bool,
    /// What the random numbers start from.
    pub seed: u64,
    /// How long a connection may owe a reply before it counts as lost; also how long a run goes
    /// on after its end for replies that are still owed.
    pub timeout: Duration,
    /// How long the rows are that show latency and throughput over time.
    pub interval: Duration,
    /// How much after its time a send of an open loop is late, if nothing but the generator
    /// itself held it up.
    pub late_after: Duration,
    /// What happens during the run besides the load.
    pub events: Vec<Plan>,
    /// Whether requests are told apart by shard, in cluster mode: it costs a little per request.
    pub track_shards: bool,
    /// The requests to replay, instead of requests that are drawn. Keys, sizes, reads, writes and
    /// times to live are the trace's then, and its end ends the run.
    pub trace: Option<Arc<Trace>>,
    /// What follows a read of the trace that found nothing.
    pub misses: Misses,
    /// Ends the run early when it becomes true; what has been measured is reported.
    pub stop: Option<Arc<AtomicBool>>,
}

impl Options {
    /// The defaults, those of the command line: 50 connections on one thread, a closed loop
    /// without pipelining, ten seconds, 100,000 uniform keys, values of 64 bytes, nine reads in
    /// ten requests.
    pub fn new(addresses: Vec<Address>, mode: Mode) -> Options {
        Options {
            addresses,
            mode,
            pacing: Pacing::Closed,
            connections: 50,
            threads: 1,
            pipeline: None,
            duration: Some(Duration::from_secs(10)),
            requests: None,
            warmup: Duration::ZERO,
            keys: 100_000,
            key_prefix: "key:".into(),
            distribution: Distribution::Uniform,
            value_size: ValueSize { min: 64, max: 64 },
            read_share: 0.9,
            writes: Writes::Update,
            read_from: ReadFrom::Leader,
            time_to_live: None,
            prefill: false,
            verify: false,
            seed: 1,
            timeout: Duration::from_secs(5),
            interval: Duration::from_secs(1),
            late_after: LATE_AFTER_DEFAULT,
            events: Vec::new(),
            track_shards: false,
            trace: None,
            misses: Misses::Count,
            stop: None,
        }
    }

    /// Requests in flight per connection.
    pub fn pipeline(&self) -> u32 {
        self.pipeline.unwrap_or(match self.pacing {
            Pacing::Closed => 1,
            Pacing::Open { .. } | Pacing::Recorded { .. } => OPEN_PIPELINE_DEFAULT,
        })
    }

    /// Says what makes no sense.
    ///
    /// # Errors
    /// The name of the option and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let wrong =
            |condition: bool, text: &str| if condition { Err(text.to_owned()) } else { Ok(()) };
        let share = |value: f64| (0.0..=1.0).contains(&value);
        wrong(self.addresses.is_empty(), "addr: give at least one HOST:PORT")?;
        wrong(self.threads == 0 || self.threads > THREADS_MAX, "threads: 1 to 256")?;
        wrong(self.connections > CONNECTIONS_MAX, "connections: at most 60000")?;
        wrong(self.connections < self.threads, "connections: at least one per thread")?;
        let pipeline = self.pipeline();
        wrong(pipeline == 0 || pipeline > PIPELINE_MAX, "pipeline: 1 to 65536")?;
        wrong(self.keys == 0, "keys: at least 1")?;
        wrong(self.keys > 10u64.pow(KEY_DIGITS as u32), "keys: at most 10^12")?;
        let prefix = self.key_prefix.as_bytes();
        wrong(prefix.len() > KEY_PREFIX_BYTES_MAX, "key-prefix: at most 200 bytes")?;
        let printable = prefix.iter().all(|byte| byte.is_ascii_graphic());
        wrong(!printable, "key-prefix: only printable ASCII characters without blanks")?;
        wrong(!share(self.read_share), "reads: 0 to 1")?;
        if let Some(ttl) = self.time_to_live {
            wrong(!share(ttl.share), "ttl-share: 0 to 1")?;
            wrong(ttl.seconds == 0 || ttl.seconds > 2_592_000, "ttl: 1 s to 30 days")?;
        }
        self.check_trace()?;
        self.check_etcd()?;
        let ends = self.requests.is_some() || self.trace.is_some();
        let endless = self.duration.is_none() && !ends;
        wrong(endless, "duration: without it the run needs requests")?;
        wrong(self.duration == Some(Duration::ZERO), "duration: must be above 0")?;
        wrong(self.requests == Some(0), "requests: at least 1")?;
        wrong(self.timeout < Duration::from_millis(10), "timeout: at least 10ms")?;
        wrong(self.interval < INTERVAL_MIN, "interval: at least 10ms")?;
        wrong(self.events.len() > EVENTS_MAX, "events: at most 64")?;
        let whole = self.warmup.saturating_add(self.duration.unwrap_or_default());
        let rows = whole.as_nanos() / self.interval.as_nanos().max(1);
        wrong(rows > ROWS_MAX as u128, "interval: more than 86400 rows")?;
        if let Pacing::Open { shape, .. } = &self.pacing {
            shape.check().map_err(|text| format!("shape: {text}"))?;
        }
        let request_bytes = (self.value_size.max + prefix.len() + 128) as u64;
        let bytes = u64::from(self.connections) * u64::from(pipeline) * request_bytes;
        let closed = self.pacing == Pacing::Closed;
        wrong(
            closed && bytes > PIPELINE_BYTES_MAX,
            "pipeline: connections × pipeline × value-size exceeds 4 GiB",
        )
    }
}

impl Options {
    /// Says what etcd has no counterpart of.
    fn check_etcd(&self) -> Result<(), String> {
        let wrong = |condition: bool, text: &str| {
            if condition && self.mode == Mode::Etcd { Err(text.to_owned()) } else { Ok(()) }
        };
        wrong(self.trace.is_some(), "trace: not with etcd, which may answer out of order")?;
        wrong(self.time_to_live.is_some(), "ttl: not with etcd, where leases expire, not keys")?;
        let replica = self.read_from == ReadFrom::Replica;
        wrong(replica, "read-from: with etcd leader or stale; any member answers either")
    }

    /// Says what makes no sense where a trace is replayed, and what only a trace gives sense to.
    fn check_trace(&self) -> Result<(), String> {
        let wrong =
            |condition: bool, text: &str| if condition { Err(text.to_owned()) } else { Ok(()) };
        let Some(trace) = &self.trace else {
            let recorded = matches!(self.pacing, Pacing::Recorded { .. });
            wrong(recorded, "trace-speed: only a trace has times; give --trace")?;
            return wrong(self.misses == Misses::Fill, "trace-fill: only with --trace");
        };
        wrong(self.prefill, "prefill: not with a trace, which writes what it writes")?;
        wrong(self.requests.is_some(), "requests: not with a trace; see --trace-requests-max")?;
        wrong(self.writes != Writes::Update, "ycsb: not with a trace, which has its own requests")?;
        wrong(self.time_to_live.is_some(), "ttl: not with a trace, which has its own")?;
        let Pacing::Recorded { speed } = self.pacing else { return Ok(()) };
        wrong(!(speed > 0.0 && speed <= SPEED_MAX), "trace-speed: above 0 and up to 10^6")?;
        if let Some(line) = trace.unordered_line() {
            return Err(format!(
                "trace-speed: the timestamp of line {line} is before that of the line above"
            ));
        }
        let rows = trace.length_s() / speed / self.interval.as_secs_f64().max(1e-9);
        let endless = self.duration.is_none() && rows > ROWS_MAX as f64;
        wrong(endless, "interval: more than 86400 rows; or cut the trace with --duration")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(lines: &str) -> Option<Arc<Trace>> {
        Some(Arc::new(Trace::read(lines.as_bytes(), "t", 100).expect("a trace")))
    }

    #[test]
    fn what_a_trace_brings_itself_is_refused_by_name() {
        let address: Address = "127.0.0.1:1".parse().expect("an address");
        let drawn = Options::new(vec![address], Mode::Resp);
        let base =
            Options { trace: trace("0,a,1,get\n2,a,1,get\n"), duration: None, ..drawn.clone() };
        assert_eq!(base.check(), Ok(()));
        let recorded = Pacing::Recorded { speed: 2.0 };
        assert_eq!(Options { pacing: recorded.clone(), ..base.clone() }.check(), Ok(()));
        let speed = |speed| Options { pacing: Pacing::Recorded { speed }, ..base.clone() };
        let ttl = TimeToLive { share: 0.5, seconds: 1 };
        let back = trace("5,a,1,get\n4,a,1,get\n");
        let week = trace("0,a,1,get\n604800,a,1,get\n");
        for (name, options) in [
            ("prefill", Options { prefill: true, ..base.clone() }),
            ("requests", Options { requests: Some(5), ..base.clone() }),
            ("ycsb", Options { writes: Writes::Modify, ..base.clone() }),
            ("ttl", Options { time_to_live: Some(ttl), ..base.clone() }),
            ("trace-speed", speed(0.0)),
            ("trace-speed", speed(f64::NAN)),
            ("trace-speed", speed(SPEED_MAX * 1.1)),
            ("trace-speed", Options { pacing: recorded.clone(), ..drawn.clone() }),
            ("trace-speed", Options { trace: back.clone(), ..speed(1.0) }),
            ("trace-fill", Options { misses: Misses::Fill, ..drawn.clone() }),
            ("interval", Options { trace: week.clone(), ..speed(1.0) }),
        ] {
            let error = options.check().expect_err(name);
            assert!(error.starts_with(&format!("{name}:")), "{error}");
        }
        assert_eq!(Options { trace: week, ..speed(10.0) }.check(), Ok(()));
        assert_eq!(Options { trace: back, ..base.clone() }.check(), Ok(()));
    }

    #[test]
    fn what_etcd_does_not_have_is_refused_by_name() {
        let address: Address = "127.0.0.1:1".parse().expect("an address");
        let base = Options::new(vec![address], Mode::Etcd);
        assert_eq!(base.check(), Ok(()));
        assert_eq!(Options { read_from: ReadFrom::Stale, ..base.clone() }.check(), Ok(()));
        let ttl = TimeToLive { share: 0.5, seconds: 1 };
        for (name, options) in [
            ("trace", Options { trace: trace("0,a,1,get\n"), ..base.clone() }),
            ("ttl", Options { time_to_live: Some(ttl), ..base.clone() }),
            ("read-from", Options { read_from: ReadFrom::Replica, ..base.clone() }),
        ] {
            let error = options.check().expect_err(name);
            assert!(error.starts_with(&format!("{name}:")), "{error}");
        }
    }

    #[test]
    fn contradictions_are_named() {
        let address: Address = "127.0.0.1:1".parse().expect("an address");
        let base = Options::new(vec![address], Mode::Resp);
        assert_eq!(base.check(), Ok(()));
        let ttl = TimeToLive { share: 0.5, seconds: 0 };
        let endless =
            Pacing::Open { shape: Shape::Constant(f64::INFINITY), arrivals: Arrivals::Constant };
        for (name, options) in [
            ("addr", Options { addresses: vec![], ..base.clone() }),
            ("threads", Options { threads: 0, ..base.clone() }),
            ("connections", Options { connections: 60_001, ..base.clone() }),
            ("connections", Options { threads: 51, ..base.clone() }),
            ("pipeline", Options { pipeline: Some(0), ..base.clone() }),
            ("pipeline", Options { pipeline: Some(65_537), ..base.clone() }),
            ("keys", Options { keys: 0, ..base.clone() }),
            ("key-prefix", Options { key_prefix: "a b".into(), ..base.clone() }),
            ("reads", Options { read_share: 1.1, ..base.clone() }),
            ("reads", Options { read_share: f64::NAN, ..base.clone() }),
            ("ttl", Options { time_to_live: Some(ttl), ..base.clone() }),
            ("duration", Options { duration: None, ..base.clone() }),
            ("requests", Options { requests: Some(0), ..base.clone() }),
            ("timeout", Options { timeout: Duration::ZERO, ..base.clone() }),
            ("interval", Options { interval: Duration::from_millis(9), ..base.clone() }),
            ("interval", Options { duration: Some(Duration::from_secs(86_401)), ..base.clone() }),
            ("shape", Options { pacing: endless, ..base.clone() }),
        ] {
            let error = options.check().expect_err(name);
            assert!(error.starts_with(&format!("{name}:")), "{error}");
        }
    }
}
