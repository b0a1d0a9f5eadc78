//! The command line: flags to options.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use client::{Address, ReadFrom};

use crate::arrivals::Arrivals;
use crate::events::{KillPlan, MarkPlan, Plan};
use crate::goal::Goal;
use crate::keys::Distribution;
use crate::options::{Mode, Options, Pacing, TimeToLive};
use crate::presets::Preset;
use crate::replay::Misses;
use crate::search::SearchOptions;
use crate::shape::Shape;
use crate::trace::{TRACE_REQUESTS_DEFAULT, TRACE_REQUESTS_MAX, Trace};
use crate::units;
use crate::values::ValueSize;

/// The first rate of a search.
const SEARCH_START: f64 = 1000.0;
/// How long a trial of a search is measured.
const TRIAL_DEFAULT: Duration = Duration::from_secs(3);

/// Measures the latency and throughput of Coracle, Redis, memcached and etcd servers.
///
/// In a closed loop (the default) every connection keeps --pipeline requests in flight. With
/// --rate the loop is open: requests start when they are due, whatever the server does, and their
/// latency counts from then, so that a stalled server cannot hide the requests it delayed.
///
/// The exit code is 0 if the run took place, 1 if it could not, 2 for wrong flags or a wrong trace.
/// Requests that fail are part of the report. A search (--slo) ends with 0 if it found a rate that
/// the server bounds, with 3 if no rate meets the goals, and with 4 if something else than the
/// server ended it: its rate is a lower bound then.
#[derive(Clone, Debug, Parser)]
#[command(name = "coracle-loadgen", version, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    /// What to do instead of a run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Servers; may be given several times. Connections are spread over them. With
    /// --protocol resp-cluster they are asked for the map of the cluster.
    #[arg(long, value_name = "HOST:PORT[,..]", required = true, value_delimiter = ',')]
    pub addr: Vec<Address>,
    /// What the servers speak.
    #[arg(long, value_enum, default_value_t = ProtocolName::Resp)]
    pub protocol: ProtocolName,
    /// Open loop: requests per second over all connections (k and M are understood).
    #[arg(long, value_name = "OPS", value_parser = units::rate)]
    pub rate: Option<f64>,
    /// Open loop whose rate changes: steps:RATE,RATE,..@TIME with each rate for so long, or
    /// spike:BASE,PEAK@FROM-TO, such as spike:10k,50k@2s-3s. Times count from the start of the
    /// measured part; steps end the run unless --duration says otherwise.
    #[arg(long, value_name = "SHAPE", conflicts_with = "rate")]
    pub shape: Option<Shape>,
    /// How the starts of an open loop are spaced.
    #[arg(long, value_enum, default_value_t = ArrivalsName::Constant)]
    pub arrivals: ArrivalsName,
    /// Connections, over all threads.
    #[arg(long, short = 'c', value_name = "N", default_value_t = 50)]
    pub connections: u32,
    /// Threads.
    #[arg(long, short = 't', value_name = "N", default_value_t = 1)]
    pub threads: u32,
    /// Requests in flight per connection: always so many in a closed loop [default: 1], at most
    /// so many in an open one [default: 64].
    #[arg(long, short = 'P', value_name = "N")]
    pub pipeline: Option<u32>,
    /// How long to measure (ms, s, m, h). [default: 10s; with --shape its steps; with --requests or
    /// --trace no limit]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub duration: Option<Duration>,
    /// How many requests to measure at most (k, M, G are understood).
    #[arg(long, short = 'n', value_name = "N", value_parser = units::count)]
    pub requests: Option<u64>,
    /// How long to run before measuring.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "0s")]
    pub warmup: Duration,
    /// Number of keys (k, M, G are understood).
    #[arg(long, value_name = "N", value_parser = units::count, default_value = "100k")]
    pub keys: u64,
    /// What each key starts with; twelve digits follow.
    #[arg(long, value_name = "TEXT", default_value = "key:")]
    pub key_prefix: String,
    /// Popularity of keys: uniform, zipf[:THETA], latest[:THETA] (the newest key is the most
    /// popular one), hot:FRACTION:SHARE (of keys, of requests).
    #[arg(long, value_name = "NAME", default_value = "uniform")]
    pub distribution: Distribution,
    /// Length of values (B, KiB, MiB); between two bounds each key has a length of its own.
    /// [default: 64, with --ycsb 1000]
    #[arg(long, short = 'd', value_name = "BYTES|MIN-MAX")]
    pub value_size: Option<ValueSize>,
    /// A core workload of YCSB: its shares of reads and writes and its popularity of keys. E is
    /// refused, because it scans.
    #[arg(long, value_enum, value_name = "NAME",
          conflicts_with_all = ["reads", "ratio", "distribution", "ttl"])]
    pub ycsb: Option<YcsbName>,
    /// Replay the requests of a trace: lines of timestamp,key,size,operation,TTL. Keys, sizes,
    /// reads, writes, removals and times to live are the trace's, and its end ends the run. Without
    /// --trace-speed, --rate or --shape the loop is closed. The requests of a key keep their order.
    #[arg(long, value_name = "FILE",
          conflicts_with_all = ["keys", "key_prefix", "distribution", "value_size", "ycsb", "reads",
                                "ratio", "ttl", "ttl_share", "prefill", "requests", "slo"])]
    pub trace: Option<PathBuf>,
    /// Open loop: start the requests of the trace at its own times, so many times as fast. Requests
    /// of a trace in whole seconds are spread evenly over each second.
    #[arg(long, value_name = "FACTOR", requires = "trace", conflicts_with_all = ["rate", "shape"])]
    pub trace_speed: Option<f64>,
    /// Write what a read of the trace does not find, with the size that the trace gives for it, as
    /// users of a cache do. Each such write counts as an operation of its own.
    #[arg(long, requires = "trace")]
    pub trace_fill: bool,
    /// Read at most so many requests of the trace (k, M, G are understood). Each takes 24 bytes of
    /// memory, each distinct key its length and 8 more. [default: 100M]
    #[arg(long, value_name = "N", value_parser = units::count, requires = "trace")]
    pub trace_requests_max: Option<u64>,
    /// Part of the requests that read. [default: 0.9]
    #[arg(long, value_name = "0..1", conflicts_with = "ratio")]
    pub reads: Option<f64>,
    /// Reads to writes, for instance 9:1; another way to say --reads.
    #[arg(long, value_name = "READ:WRITE", value_parser = parse_ratio)]
    pub ratio: Option<f64>,
    /// Who may answer reads: leaders, any replica as fresh as its leader, or any replica as it is.
    /// With --protocol etcd any member answers: linearizable with leader, serializable with stale.
    #[arg(long, value_name = "NAME", default_value = "leader")]
    pub read_from: ReadFromName,
    /// Part of the writes that carry a time to live.
    #[arg(long, value_name = "0..1", requires = "ttl")]
    pub ttl_share: Option<f64>,
    /// The time to live, in seconds. Without --ttl-share all writes carry it.
    #[arg(long, value_name = "SECONDS")]
    pub ttl: Option<u32>,
    /// Write every key once before the run.
    #[arg(long)]
    pub prefill: bool,
    /// Compare every byte that is read with what must have been written.
    #[arg(long)]
    pub verify: bool,
    /// What the random numbers start from; equal seeds ask for equal keys.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// How long a connection may owe a reply, and a run may outlast its duration for replies.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "5s")]
    pub timeout: Duration,
    /// How long the rows of latency and throughput over time are (ms, s).
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "1s")]
    pub interval: Duration,
    /// Show latency and throughput over time below the report, too. The JSON always has them.
    #[arg(long)]
    pub over_time: bool,
    /// Search for the highest rate that meets these goals: pN=TIME, mean=TIME, max=TIME, and
    /// errors=SHARE (without it none may fail), such as p99.9=1ms,errors=0.1%. The trials start at
    /// --rate [default: 1k] and last --duration [default: 3s] each.
    #[arg(long, value_name = "GOAL[,..]", value_delimiter = ',',
          conflicts_with_all = ["shape", "requests", "hdr", "over_time"])]
    pub slo: Vec<Goal>,
    /// Most trials of a search.
    #[arg(long, value_name = "N", default_value_t = 24, requires = "slo")]
    pub trials: u32,
    /// How close the rate found is to one that misses a goal, as a part of it.
    #[arg(long, value_name = "0..1", default_value_t = 0.05, requires = "slo")]
    pub precision: f64,
    /// Kill a process (SIGKILL) at a time from the start of the measured part, and tell shards
    /// apart (--shards). May be given several times.
    #[arg(long, value_name = "TIME:PID", conflicts_with = "slo")]
    pub kill_at: Vec<KillPlan>,
    /// Run a shell command at a time, as --kill-at does with a process; its output goes to the
    /// standard error. May be given several times.
    #[arg(long, value_name = "TIME:COMMAND", conflicts_with = "slo")]
    pub mark_at: Vec<MarkPlan>,
    /// Tell requests apart by shard (with --protocol resp-cluster): throughput over time, and when
    /// each shard served nobody. It costs a little per request.
    #[arg(long)]
    pub shards: bool,
    /// Write the report as JSON, - for the standard output instead of the table.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report as a page with plots that needs nothing but a browser.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write an HdrHistogram interval log (V2, nanoseconds).
    #[arg(long, value_name = "FILE")]
    pub hdr: Option<PathBuf>,
    /// Show no live line.
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

/// What to do instead of a run.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Compares JSON reports: a table of their figures, each with its ratio to the first.
    Compare {
        /// Two or more reports, as --json writes them. Of a search its best trial counts.
        #[arg(required = true, num_args = 2..)]
        reports: Vec<PathBuf>,
        /// Write the comparison as a page with plots.
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
}

/// The protocols on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProtocolName {
    /// The memcached binary protocol.
    Binary,
    /// RESP2, the protocol of Redis.
    Resp,
    /// RESP2, each key sent to the server that leads it.
    RespCluster,
    /// The key-value part of etcd's v3 API over gRPC, without TLS.
    Etcd,
}

/// The core workloads of YCSB on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum YcsbName {
    /// Half reads, half updates.
    A,
    /// 95 % reads, 5 % updates.
    B,
    /// Only reads.
    C,
    /// 95 % reads of the newest, 5 % inserts.
    D,
    /// Scans and inserts; refused.
    E,
    /// Half reads, half read-modify-writes.
    F,
}

impl YcsbName {
    fn preset(self) -> Preset {
        match self {
            YcsbName::A => Preset::A,
            YcsbName::B => Preset::B,
            YcsbName::C => Preset::C,
            YcsbName::D => Preset::D,
            YcsbName::E => Preset::E,
            YcsbName::F => Preset::F,
        }
    }
}

/// Who may answer reads, on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReadFromName {
    /// The leader of the key's shard.
    Leader,
    /// Any replica; it asks the leader how far it must have come.
    Replica,
    /// Any replica, as it is.
    Stale,
}

/// The arrivals on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ArrivalsName {
    /// At equal distances.
    Constant,
    /// At random, independent of each other.
    Poisson,
}

fn parse_ratio(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is not READ:WRITE with numbers of which one is above 0");
    let (reads, writes) = text.split_once(':').ok_or_else(wrong)?;
    let number = |part: &str| {
        part.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0).ok_or_else(wrong)
    };
    let (reads, writes) = (number(reads)?, number(writes)?);
    if reads + writes > 0.0 { Ok(reads / (reads + writes)) } else { Err(wrong()) }
}

impl Cli {
    /// The options of the run.
    ///
    /// # Errors
    /// If flags contradict each other; names the flag.
    pub fn options(&self) -> Result<Options, String> {
        let mode = match self.protocol {
            ProtocolName::Binary => Mode::Binary,
            ProtocolName::Resp => Mode::Resp,
            ProtocolName::RespCluster => Mode::RespCluster,
            ProtocolName::Etcd => Mode::Etcd,
        };
        let arrivals = match self.arrivals {
            ArrivalsName::Constant => Arrivals::Constant,
            ArrivalsName::Poisson => Arrivals::Poisson,
        };
        let shape = self.shape.clone().or(self.rate.map(Shape::Constant));
        let searches = !self.slo.is_empty();
        let shape = shape.or(searches.then_some(Shape::Constant(SEARCH_START)));
        if shape.is_none() && arrivals == Arrivals::Poisson {
            return Err("arrivals: only an open loop has them; give --rate or --shape".into());
        }
        if self.shards && mode == Mode::Etcd {
            return Err("shards: not with etcd, which has none".into());
        }
        let trace = self.trace.as_deref().map(|path| self.read_trace(path)).transpose()?;
        let trial = searches.then_some(TRIAL_DEFAULT);
        let length = shape.as_ref().and_then(Shape::length).or(trial);
        let defaults = Options::new(self.addr.clone(), mode);
        let mut options = Options {
            pacing: match (shape, self.trace_speed) {
                (Some(shape), _) => Pacing::Open { shape, arrivals },
                (None, Some(speed)) => Pacing::Recorded { speed },
                (None, None) => Pacing::Closed,
            },
            connections: self.connections,
            threads: self.threads,
            pipeline: self.pipeline,
            duration: match self.duration.or(length) {
                None if self.requests.is_some() || trace.is_some() => None,
                duration => duration.or(defaults.duration),
            },
            requests: self.requests,
            warmup: self.warmup,
            keys: self.keys,
            key_prefix: self.key_prefix.clone(),
            distribution: self.distribution,
            value_size: self.value_size.unwrap_or(match self.ycsb {
                Some(_) => Preset::VALUE_SIZE,
                None => defaults.value_size,
            }),
            read_from: match self.read_from {
                ReadFromName::Leader => ReadFrom::Leader,
                ReadFromName::Replica => ReadFrom::Replica,
                ReadFromName::Stale => ReadFrom::Stale,
            },
            read_share: self.reads.or(self.ratio).unwrap_or(defaults.read_share),
            time_to_live: self
                .ttl
                .map(|seconds| TimeToLive { share: self.ttl_share.unwrap_or(1.0), seconds }),
            prefill: self.prefill,
            verify: self.verify,
            seed: self.seed,
            timeout: self.timeout,
            interval: self.interval,
            events: self.events(),
            track_shards: self.shards || !self.events().is_empty(),
            misses: if self.trace_fill { Misses::Fill } else { Misses::Count },
            trace,
            ..defaults
        };
        if let Some(ycsb) = self.ycsb {
            ycsb.preset().apply(&mut options)?;
        }
        options.check()?;
        Ok(options)
    }

    /// Reads the trace into memory.
    fn read_trace(&self, path: &Path) -> Result<Arc<Trace>, String> {
        let requests_max = self.trace_requests_max.unwrap_or(TRACE_REQUESTS_DEFAULT);
        if !(1..=TRACE_REQUESTS_MAX).contains(&requests_max) {
            return Err(format!("trace-requests-max: 1 to {TRACE_REQUESTS_MAX}"));
        }
        let wrong = |error: String| format!("trace: {}: {error}", path.display());
        let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let trace = Trace::read(BufReader::new(file), &name, requests_max);
        trace.map(Arc::new).map_err(|error| wrong(error.to_string()))
    }

    /// What is to happen during the run.
    fn events(&self) -> Vec<Plan> {
        let kills = self.kill_at.iter().map(|plan| plan.0.clone());
        kills.chain(self.mark_at.iter().map(|plan| plan.0.clone())).collect()
    }

    /// The search that is asked for, if one is.
    ///
    /// # Errors
    /// If flags contradict each other; names the flag.
    pub fn search(&self) -> Result<Option<SearchOptions>, String> {
        if self.slo.is_empty() {
            return Ok(None);
        }
        let search = SearchOptions {
            goals: self.slo.clone(),
            start: self.rate.unwrap_or(SEARCH_START),
            trials_max: self.trials,
            precision: self.precision,
        };
        search.check()?;
        Ok(Some(search))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(flags: &str) -> Result<Options, String> {
        let arguments = ["coracle-loadgen", "--addr", "127.0.0.1:1"];
        let arguments = arguments.into_iter().chain(flags.split_whitespace());
        Cli::try_parse_from(arguments).map_err(|error| error.to_string())?.options()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_library() {
        let ours = parse("").expect("options");
        let address = "127.0.0.1:1".parse().expect("an address");
        let library = Options::new(vec![address], Mode::Resp);
        assert_eq!(format!("{ours:?}"), format!("{library:?}"));
    }

    #[test]
    fn flags_become_options() {
        let options = parse(
            "--addr 127.0.0.2:2,127.0.0.3:3 --protocol resp-cluster --rate 20k --arrivals poisson \
             -c 8 -t 2 -P 16 -n 1M --warmup 500ms --keys 1M --distribution zipf:1.1 \
             --value-size 1-1KiB --ratio 1:3 --ttl 60 --ttl-share 0.5 --prefill --verify --seed 7",
        )
        .expect("options");
        assert_eq!(options.addresses.len(), 3);
        let arrivals = Arrivals::Poisson;
        assert_eq!(options.pacing, Pacing::Open { shape: Shape::Constant(20_000.0), arrivals });
        assert_eq!((options.duration, options.requests), (None, Some(1_000_000)));
        assert_eq!((options.read_share, options.keys), (0.25, 1_000_000));
        assert_eq!(options.time_to_live, Some(TimeToLive { share: 0.5, seconds: 60 }));
    }

    #[test]
    fn steps_last_as_long_as_they_say_and_a_duration_overrides_them() {
        let duration = |flags| parse(flags).expect("options").duration;
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(duration("--shape steps:1k,2k,4k@5s"), seconds(15));
        assert_eq!(duration("--shape steps:1k,2k,4k@5s --duration 7s"), seconds(7));
        assert_eq!(duration("--shape spike:1k,2k@1s-2s"), seconds(10));
    }

    #[test]
    fn goals_make_a_search_of_short_trials() {
        let arguments = ["coracle-loadgen", "--addr", "127.0.0.1:1", "--slo", "p99=1ms,errors=1%"];
        let cli = Cli::try_parse_from(arguments).expect("flags");
        let search = cli.search().expect("a search").expect("one");
        assert_eq!((search.goals.len(), search.start, search.trials_max), (2, 1000.0, 24));
        assert_eq!(cli.options().expect("options").duration, Some(Duration::from_secs(3)));
        let none = Cli::try_parse_from(&arguments[..3]).expect("flags");
        assert!(none.search().expect("no search").is_none());
    }

    #[test]
    fn presets_set_what_they_define_and_leave_the_rest() {
        let options = parse("--ycsb d --keys 5k").expect("options");
        assert_eq!((options.keys, options.read_share), (5000, 0.95));
        assert_eq!(options.value_size, Preset::VALUE_SIZE);
        let small = parse("--ycsb a -d 100").expect("options");
        assert_eq!(small.value_size, ValueSize { min: 100, max: 100 });
    }

    #[test]
    fn a_comparison_takes_two_reports_and_no_server() {
        let parse = |flags: &str| {
            let words = flags.split_whitespace();
            Cli::try_parse_from(std::iter::once("coracle-loadgen").chain(words))
        };
        let cli = parse("compare a.json b.json --html c.html").expect("flags");
        assert!(matches!(cli.command, Some(Command::Compare { reports, html: Some(_) })
            if reports.len() == 2));
        assert!(parse("compare a.json").is_err());
        assert!(parse("--rate 1k").is_err(), "a run needs a server");
    }

    #[test]
    fn mistakes_are_refused_with_the_name_of_the_flag() {
        for (flags, name) in [
            ("--duration 10sec", "--duration"),
            ("--duration 0s", "duration"),
            ("--value-size 64kb", "--value-size"),
            ("--rate fast", "--rate"),
            ("--shape steps:1k", "--shape"),
            ("--shape steps:1k@1s --rate 1k", "--rate"),
            ("--interval 1ms", "interval"),
            ("--slo p99", "--slo"),
            ("--kill-at 5s:1", "--kill-at"),
            ("--mark-at 5s", "--mark-at"),
            ("--ycsb e", "ycsb"),
            ("--ycsb a --reads 0.5", "--reads"),
            ("--ycsb g", "--ycsb"),
            ("--slo p99=1ms --shape steps:1k@1s", "--shape"),
            ("--trials 3", "--slo"),
            ("--keys 1.5", "--keys"),
            ("--keys 0", "keys"),
            ("--ratio 1", "--ratio"),
            ("--ratio 0:0", "--ratio"),
            ("--reads 2", "reads"),
            ("--reads 0.5 --ratio 1:1", "--ratio"),
            ("--ttl-share 0.5", "--ttl"),
            ("--arrivals poisson", "arrivals"),
            ("--distribution zipf:0", "--distribution"),
            ("--threads 60", "connections"),
            ("--protocol http", "--protocol"),
            ("--protocol etcd --shards", "shards"),
            ("--protocol etcd --ttl 5", "ttl"),
            ("--protocol etcd --read-from replica", "read-from"),
            ("--addr nowhere", "--addr"),
            ("--speed 9", "--speed"),
            ("--trace-speed 2", "--trace"),
            ("--trace-fill", "--trace"),
            ("--trace-requests-max 5", "--trace"),
            ("--trace /no/such/file", "/no/such/file"),
            ("--trace t --keys 5", "--keys"),
            ("--trace t --key-prefix k", "--key-prefix"),
            ("--trace t --distribution uniform", "--distribution"),
            ("--trace t --value-size 5", "--value-size"),
            ("--trace t --ycsb a", "--ycsb"),
            ("--trace t --reads 1", "--reads"),
            ("--trace t --ratio 1:1", "--ratio"),
            ("--trace t --ttl 5", "--ttl"),
            ("--trace t --prefill", "--prefill"),
            ("--trace t --requests 5", "--requests"),
            ("--trace t --slo p99=1ms", "--slo"),
            ("--trace t --trace-speed 2 --rate 5", "--rate"),
            ("--trace t --trace-speed 2 --shape steps:1k@1s", "--shape"),
            ("--trace t --trace-speed 2 --arrivals poisson", "arrivals"),
            ("--trace t --trace-requests-max 0", "trace-requests-max"),
        ] {
            let error = parse(flags).expect_err(flags);
            assert!(error.contains(name), "{flags}: {error}");
        }
    }
}
