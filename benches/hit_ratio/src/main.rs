//! `hit-ratio` compares hit ratios: of Coracle, redis-server and memcached, started here, and of
//! policies computed offline over the same traces with room for the same number of entries.
//!
//! | file | what |
//! |--|--|
//! | `options.rs` | the command line |
//! | `trace.rs`, `generators.rs`, `csv.rs` | what is asked for, drawn or read |
//! | `policies/` | exact LRU, SIEVE, FIFO, the optimum |
//! | `wire.rs`, `replay.rs` | the client of a look-aside cache |
//! | `servers.rs`, `calibration.rs`, `contestants.rs` | who is started, and with how much memory |
//! | `report.rs`, `plot.rs` | tables, JSON, pictures |
//!
//! It measures whom a cache evicts, not how fast it is: the client waits for each batch, so that
//! the order of the trace is kept. The load generator is for speed.

mod calibration;
mod contestants;
mod csv;
mod generators;
mod options;
mod plot;
mod policies;
mod replay;
mod report;
mod servers;
mod trace;
mod wire;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;

use contestants::{Contestant, Ring, RunError};
use options::Options;
use policies::Reference;
use report::{Report, Row, TraceReport};
use trace::{Trace, Windows};

/// A server whose entries differ from the room by more than one part of so many is pointed out.
const FAR: u64 = 20;

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// A trace.
    #[error("{path}: {source}")]
    Trace {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: loadgen::csv::CsvError,
    },
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A contestant.
    #[error("{name}: {source}")]
    Contestant {
        /// Which.
        name: String,
        /// What happened to it.
        source: RunError,
    },
    /// The report.
    #[error("the report cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(error) = options.check() {
        eprintln!("hit-ratio: {error}");
        return ExitCode::from(2);
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hit-ratio: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Error> {
    // The place is looked at first: a run of an hour must not end at a typing error in a path.
    if let Some(out) = &options.out {
        write(&with_ending(out, ".md"), "")?;
    }
    let contestants = Contestant::all(options);
    let mut ring = Ring::new(options);
    let command: Vec<String> = std::env::args().skip(1).collect();
    let mut report = Report {
        command: format!("hit-ratio {}", command.join(" ")),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        traces: Vec::new(),
    };
    for source in sources(options) {
        let trace = source.trace(options)?;
        let room = match source {
            Source::Drawn(_) => options.room(options.keys),
            Source::Read(_) => options.room(trace.keys as u64),
        };
        report.traces.push(compare(options, &contestants, &mut ring, &trace, room)?);
        // What has been found is kept, should the next trace fail.
        save(options, &report)?;
    }
    print!("{}", report.markdown());
    Ok(())
}

/// Where a trace comes from.
enum Source {
    Drawn(generators::Generator),
    Read(PathBuf),
}

/// CSV files instead of drawn traces, if there are any.
fn sources(options: &Options) -> Vec<Source> {
    match options.csv.is_empty() {
        true => options.traces.iter().copied().map(Source::Drawn).collect(),
        false => options.csv.iter().cloned().map(Source::Read).collect(),
    }
}

impl Source {
    fn trace(&self, options: &Options) -> Result<Trace, Error> {
        match self {
            Source::Drawn(generator) => Ok(generator.draw(&options.sizes())),
            Source::Read(path) => {
                let file = File::open(path)
                    .map_err(|source| Error::File { path: path.clone(), source })?;
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let requests = Some(options.requests as usize);
                csv::read(BufReader::new(file), &name, requests)
                    .map_err(|source| Error::Trace { path: path.clone(), source })
            }
        }
    }
}

/// Lets all policies and contestants loose on one trace.
fn compare(
    options: &Options,
    contestants: &[Contestant],
    ring: &mut Ring<'_>,
    trace: &Trace,
    room: u64,
) -> Result<TraceReport, Error> {
    let windows = Windows::new(trace.requests.len(), options.windows, options.warm_up);
    let mut rows = Vec::new();
    for reference in Reference::ALL {
        let tallies = reference.simulate(trace, room as usize, &windows);
        rows.push(Row::of_policy(reference.name(), room, &tallies, &windows));
        tell(trace, &rows);
    }
    let mut lru_percents: BTreeMap<u64, Option<f64>> = BTreeMap::new();
    let mut notes = Vec::new();
    for contestant in contestants {
        if let Some(program) = contestant.system.program()
            && !is_installed(program)
        {
            notes.push(format!("{} did not take part: no {program} here.", contestant.name));
            continue;
        }
        let run = ring.run(contestant, trace, &windows, room).map_err(|source| {
            let name = contestant.name.clone();
            Error::Contestant { name, source }
        })?;
        if run.entries.abs_diff(room) * FAR > room {
            let name = &contestant.name;
            let entries = run.entries;
            notes.push(format!("{name} is no equal: it held {entries} entries and not {room}."));
        }
        let lru = *lru_percents.entry(run.entries).or_insert_with(|| {
            let tallies = Reference::Lru.simulate(trace, run.entries as usize, &windows);
            windows.total(&tallies).percent()
        });
        rows.push(Row::of_run(contestant, run, lru, &windows));
        tell(trace, &rows);
    }
    let failovers = report::failovers(&rows, &windows, options.after.as_secs_f64());
    let (trace, keys) = (trace.name.clone(), trace.keys);
    Ok(TraceReport { trace, keys, room, windows, rows, failovers, notes })
}

/// Says on the standard error how far the run is.
fn tell(trace: &Trace, rows: &[Row]) {
    if let Some(row) = rows.last() {
        let percent = row.percent.unwrap_or(f64::NAN);
        eprintln!("{} {}: {percent:.2} % with {} entries", trace.name, row.name, row.entries);
    }
}

fn is_installed(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok()
}

/// Writes the files that were asked for.
fn save(options: &Options, report: &Report) -> Result<(), Error> {
    let Some(out) = &options.out else { return Ok(()) };
    write(&with_ending(out, ".md"), &report.markdown())?;
    let json = serde_json::to_string_pretty(report)?;
    write(&with_ending(out, ".json"), &(json + "\n"))?;
    for trace in &report.traces {
        let ending = format!("-{}.svg", trace.trace);
        write(&with_ending(out, &ending), &plot::svg(trace))?;
    }
    Ok(())
}

/// Appends to a name that may have dots of its own.
fn with_ending(out: &Path, ending: &str) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|source| Error::File { path: path.to_owned(), source })
}
