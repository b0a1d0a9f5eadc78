//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use loadgen::units;

use crate::generators::{Generator, Sizes};
use crate::replay::Pace;

/// Most requests of a drawn trace: eight bytes each have to fit into memory.
const REQUESTS_MAX: u64 = 1_000_000_000;
/// Most keys of a drawn trace.
const KEYS_MAX: u64 = 1_000_000_000;

/// Compares hit ratios: replays traces against Coracle, redis-server, memcached and policies that
/// are computed offline, all with room for the same number of entries.
///
/// Each contestant is started on loopback addresses, given the memory in which it holds --room
/// entries (found by filling it), and read as a look-aside cache is: what is missed is written.
/// The first part of each trace warms up and is not counted. An error is no hit. The table goes to
/// the standard output; files are written only with --out.
///
/// The exit code is 0 if the run took place, 1 if it could not, 2 for wrong flags.
#[derive(Clone, Debug, Parser)]
#[command(name = "hit-ratio", version, max_term_width = 100)]
pub struct Options {
    /// Traces that are drawn: zipf; scan, where every twentieth request asks for a fresh key and
    /// does not count; loop, half of which walks round more keys than there is room for; shift,
    /// whose hot set changes ten times.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "NAME,..",
        default_value = "zipf,scan,loop,shift"
    )]
    pub traces: Vec<Generator>,
    /// A trace to read instead: timestamp,key,size,operation,TTL a line. Sizes and TTLs are checked
    /// and not used. May be given several times.
    #[arg(long, value_name = "FILE")]
    pub csv: Vec<PathBuf>,
    /// Whom to start; none computes the policies alone. memcached is left out if it is not there.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "NAME,..",
        default_value = "redis,redis-promoted,memcached,coracle-1,coracle-3,coracle-3-replicas,\
                           coracle-3-failover"
    )]
    pub contestants: Vec<ContestantName>,
    /// One more contestant: as coracle-3-replicas, with more arguments of `coracle serve` between
    /// blanks. May be given several times.
    #[arg(long, value_name = "NAME=ARGUMENTS", value_parser = variant)]
    pub variant: Vec<Variant>,
    /// Keys of the zipf distribution (k and M are understood).
    #[arg(long, value_name = "N", value_parser = units::count, default_value = "2M")]
    pub keys: u64,
    /// Its exponent.
    #[arg(long, value_name = "NUMBER", default_value_t = loadgen::DEFAULT_THETA)]
    pub theta: f64,
    /// Entries that each contestant is to hold [default: a tenth of the keys; of a CSV trace its
    /// own keys].
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub room: Option<u64>,
    /// Requests of each trace; of a CSV trace at most so many.
    #[arg(long, short = 'n', value_name = "N", value_parser = units::count, default_value = "20M")]
    pub requests: u64,
    /// Part of each trace that is not counted.
    #[arg(long, value_name = "0..1", default_value_t = 1.0 / 3.0)]
    pub warm_up: f64,
    /// Windows that a trace is counted in: points of the plot.
    #[arg(long, value_name = "N", default_value_t = 120)]
    pub windows: usize,
    /// What traces are drawn from; equal seeds draw equal traces.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Length of values (B, KiB, MiB).
    #[arg(long, short = 'd', value_name = "BYTES", value_parser = units::bytes,
          default_value = "64")]
    pub value_size: u64,
    /// Workers of the client, each with a thread and a connection for reads and one for writes.
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub workers: usize,
    /// Requests a worker sends at a time.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub batch: usize,
    /// Requests per second (k and M are understood), for all contestants alike [default: as fast as
    /// they are answered].
    #[arg(long, value_name = "N", value_parser = units::rate)]
    pub rate: Option<f64>,
    /// How long behind a failover windows are compared with those of the run without it (s, m).
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "60s")]
    pub after: Duration,
    /// The program `coracle` [default: the one beside this program].
    #[arg(long, value_name = "FILE")]
    pub coracle: Option<PathBuf>,
    /// Cores of each of its nodes.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub cores: u16,
    /// Its shards.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub shards: u16,
    /// Its durability.
    #[arg(long, value_enum, default_value_t = Durability::Memory)]
    pub durability: Durability,
    /// More arguments of `coracle serve`, for all contestants, between blanks.
    #[arg(long, value_name = "ARGUMENTS", default_value = "", allow_hyphen_values = true)]
    pub coracle_arguments: String,
    /// First three numbers of the loopback addresses that servers listen on.
    #[arg(long, value_name = "127.A.B", default_value = "127.0.31", value_parser = network)]
    pub network: [u8; 3],
    /// Write FILES.md, FILES.json and FILES-TRACE.svg for each trace.
    #[arg(long, value_name = "FILES")]
    pub out: Option<PathBuf>,
}

/// Contestants on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ContestantName {
    /// Nobody.
    None,
    /// redis-server with allkeys-lru.
    Redis,
    /// The same with a replica that is promoted when the primary is killed in the middle.
    RedisPromoted,
    /// memcached.
    Memcached,
    /// Coracle, one node.
    #[value(name = "coracle-1")]
    Coracle1,
    /// Three nodes, reads by the leaders.
    #[value(name = "coracle-3")]
    Coracle3,
    /// Three nodes, reads by whichever replica is asked.
    #[value(name = "coracle-3-replicas")]
    Coracle3Replicas,
    /// Three nodes, reads by the leaders, one node killed in the middle.
    #[value(name = "coracle-3-failover")]
    Coracle3Failover,
}

/// Durability on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// The memory of a majority.
    Memory,
    /// The disks of a majority.
    Fsync,
}

impl Durability {
    /// As `coracle serve` has it.
    pub fn name(self) -> &'static str {
        match self {
            Durability::Memory => "memory",
            Durability::Fsync => "fsync",
        }
    }
}

/// A contestant of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// What it is called in tables.
    pub name: String,
    /// More arguments of `coracle serve`.
    pub arguments: Vec<String>,
}

/// What stands between blanks.
pub fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn variant(text: &str) -> Result<Variant, String> {
    match text.split_once('=') {
        Some((name, arguments)) if !name.trim().is_empty() && !name.starts_with('-') => {
            Ok(Variant { name: name.trim().to_owned(), arguments: words(arguments) })
        }
        _ => Err(format!("`{text}` is not NAME=ARGUMENTS")),
    }
}

fn network(text: &str) -> Result<[u8; 3], String> {
    let numbers: Result<Vec<u8>, _> = text.split('.').map(str::parse).collect();
    match numbers.map(<[u8; 3]>::try_from) {
        Ok(Ok(network)) if network[0] == 127 => Ok(network),
        _ => Err(format!("`{text}` is not the beginning of a loopback address, as 127.0.31")),
    }
}

impl Options {
    /// Says what makes no sense.
    ///
    /// # Errors
    /// The name of the option and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let wrong =
            |condition: bool, text: &str| if condition { Err(text.to_owned()) } else { Ok(()) };
        wrong(self.keys == 0 || self.keys > KEYS_MAX, "keys: 1 to 10^9")?;
        wrong(self.requests == 0 || self.requests > REQUESTS_MAX, "requests: 1 to 10^9")?;
        wrong(
            self.room.is_some_and(|room| !(100..=KEYS_MAX).contains(&room)),
            "room: 100 to 10^9 entries",
        )?;
        wrong(self.room.is_none() && self.keys < 1_000, "keys: at least 1000, or give a room")?;
        wrong(!(self.theta > 0.0 && self.theta <= loadgen::THETA_MAX), "theta: above 0 up to 8")?;
        wrong(!(0.0..=0.9).contains(&self.warm_up), "warm-up: 0 to 0.9")?;
        wrong(self.windows == 0 || self.windows > 10_000, "windows: 1 to 10000")?;
        wrong(self.value_size > 1 << 18, "value-size: at most 256KiB")?;
        wrong(self.workers == 0 || self.workers > 64, "workers: 1 to 64")?;
        wrong(self.batch == 0 || self.batch > 1_024, "batch: 1 to 1024")?;
        wrong(self.cores == 0, "cores: at least 1")?;
        wrong(self.shards == 0, "shards: at least 1")
    }

    /// The entries that contestants hold, where a trace has so many keys.
    pub fn room(&self, keys: u64) -> u64 {
        self.room.unwrap_or(keys.div_ceil(10)).max(1)
    }

    /// What traces are drawn from.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            keys: self.keys as u32,
            theta: self.theta,
            requests: self.requests as usize,
            room: self.room(self.keys) as u32,
            seed: self.seed,
        }
    }

    /// How traces are replayed.
    pub fn pace(&self) -> Pace {
        let value_bytes = self.value_size as usize;
        Pace { workers: self.workers, batch: self.batch, value_bytes, rate: self.rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_defaults_make_sense_and_contradictions_are_named() {
        Options::command().debug_assert();
        let options = Options::try_parse_from(["hit-ratio"]).expect("no flag is needed");
        assert_eq!(options.check(), Ok(()));
        assert_eq!(options.room(2_000_000), 200_000);
        assert_eq!((options.traces.len(), options.contestants.len()), (4, 7));
        for (name, value) in [
            ("keys", "0"),
            ("keys", "999"),
            ("requests", "0"),
            ("room", "99"),
            ("theta", "0"),
            ("theta", "NaN"),
            ("warm-up", "0.95"),
            ("windows", "0"),
            ("value-size", "2MiB"),
            ("workers", "0"),
            ("batch", "2000"),
            ("cores", "0"),
            ("shards", "0"),
        ] {
            let flags = ["hit-ratio", &format!("--{name}={value}")];
            let options = Options::try_parse_from(flags).expect("a flag");
            let error = options.check().expect_err(name);
            assert!(error.starts_with(name), "{error}");
        }
    }

    #[test]
    fn what_is_no_flag_is_refused() {
        for flag in [
            "--network=10.0.0",
            "--network=127.0",
            "--network=127.0.0.1",
            "--variant=sieve",
            "--variant==--x",
            "--traces=zap",
            "--contestants=etcd",
            "--rate=0",
        ] {
            assert!(Options::try_parse_from(["hit-ratio", flag]).is_err(), "{flag}");
        }
        let flag = "--variant=sieve=--eviction sieve";
        let options = Options::try_parse_from(["hit-ratio", flag]).expect("a variant");
        assert_eq!(options.variant[0].name, "sieve");
        assert_eq!(options.variant[0].arguments, ["--eviction", "sieve"]);
    }
}
