//! The `coracle-loadgen` command.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use hdrhistogram::serialization::V2DeflateSerializer;

use loadgen::cli::{Cli, Command};
use loadgen::hdr_log::HdrLog;
use loadgen::{BoundedBy, Named, Report, SearchOptions, Second, Trial};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code of a search that found no rate.
const EXIT_NO_RATE: u8 = 3;
/// The exit code of a search that something else than the server ended.
const EXIT_LOWER_BOUND: u8 = 4;

/// Whether the user has asked for the end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Command::Compare { reports, html }) = &cli.command {
        return match compare(reports, html.as_deref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("coracle-loadgen: {error}");
                ExitCode::FAILURE
            }
        };
    }
    if let Some(path) = cli.trace.as_ref().filter(|_| !cli.quiet) {
        eprintln!("reading {}", path.display());
    }
    let parsed = cli.options().and_then(|options| Ok((options, cli.search()?)));
    let (options, wanted) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("coracle-loadgen: {error}");
            return ExitCode::from(2);
        }
    };
    catch_interrupt();
    allow_many_connections();
    let ended = match &wanted {
        Some(wanted) => find(&cli, options, wanted),
        None => measure(&cli, options).map(|()| ExitCode::SUCCESS),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("coracle-loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(cli: &Cli, mut options: loadgen::Options) -> Result<(), String> {
    let stop = Arc::new(AtomicBool::new(false));
    options.stop = Some(Arc::clone(&stop));
    watch_interrupt(stop)?;
    // Files are made first: a run of an hour must not end at a typing error in a path.
    let mut json = json_file(cli)?;
    let mut html = cli.html.as_deref().map(create).transpose()?;
    let mut hdr = cli.hdr.as_deref().map(create).transpose()?;
    let mut serializer = V2DeflateSerializer::new();
    let mut log = match &mut hdr {
        Some(file) => Some(HdrLog::begin(file, &mut serializer).map_err(|e| format!("hdr: {e}"))?),
        None => None,
    };
    let mut log_error = None;
    let mut start_ns = None;
    let mut progress = |second: &Second| {
        let start_ns = *start_ns.get_or_insert(second.start_ns);
        if !cli.quiet && second.length_ns >= 10_000_000 {
            eprintln!("{}", second.line(start_ns));
        }
        if let Some(error) = log.as_mut().and_then(|log| log.add(second).err()) {
            log_error.get_or_insert(format!("hdr: {error}"));
        }
    };
    if cli.prefill && !cli.quiet {
        eprintln!("loading {} keys", cli.keys);
    }
    let report = loadgen::run(options, &mut progress).map_err(|error| error.to_string())?;
    drop(log);
    if let Some(file) = &mut hdr {
        file.flush().map_err(|error| format!("hdr: {error}"))?;
    }
    write_page(html.as_mut(), &report)?;
    show(cli, &report, json.as_mut())?;
    log_error.map_or(Ok(()), Err)
}

/// Shows reports beside each other.
fn compare(paths: &[PathBuf], html: Option<&Path>) -> Result<(), String> {
    let mut reports = Vec::new();
    for path in paths {
        let wrong = |error: String| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        reports.push((name, Report::from_json(&text).map_err(wrong)?));
    }
    let named: Vec<Named<'_>> =
        reports.iter().map(|(name, report)| Named { name, report }).collect();
    print!("{}", loadgen::compare(&named));
    match html {
        Some(path) => write(&mut create(path)?, &loadgen::page(&named)),
        None => Ok(()),
    }
}

/// Writes the page of a report, if one is wanted.
fn write_page(file: Option<&mut BufWriter<File>>, report: &Report) -> Result<(), String> {
    match file {
        Some(file) => write(file, &loadgen::page(&[Named { name: "run", report }])),
        None => Ok(()),
    }
}

/// Searches for the highest rate that meets the goals.
fn find(
    cli: &Cli,
    mut options: loadgen::Options,
    wanted: &SearchOptions,
) -> Result<ExitCode, String> {
    let stop = Arc::new(AtomicBool::new(false));
    options.stop = Some(Arc::clone(&stop));
    watch_interrupt(stop)?;
    let mut json = json_file(cli)?;
    let mut html = cli.html.as_deref().map(create).transpose()?;
    let mut progress = |trial: &Trial| {
        if !cli.quiet {
            eprintln!("{}", trial.line());
        }
    };
    let outcome =
        loadgen::search(&options, wanted, &mut progress).map_err(|error| error.to_string())?;
    if let Some(best) = outcome.best() {
        write_page(html.as_mut(), best)?;
    }
    let to_json = || outcome.to_json().map_err(|error| format!("json: {error}"));
    match &mut json {
        Some(file) => write(file, &to_json()?)?,
        None if cli.json.is_some() => println!("{}", to_json()?),
        None => {}
    }
    if json.is_some() || cli.json.is_none() {
        if let Some(report) = outcome.best() {
            println!("{}", report.render());
        }
        print!("{}", outcome.render());
    }
    Ok(match (outcome.rate, outcome.bounded_by) {
        (Some(_), BoundedBy::Server) => ExitCode::SUCCESS,
        (None, BoundedBy::Server) => ExitCode::from(EXIT_NO_RATE),
        (_, BoundedBy::Generator | BoundedBy::Trials) => ExitCode::from(EXIT_LOWER_BOUND),
    })
}

/// The file for the JSON, if there is one.
fn json_file(cli: &Cli) -> Result<Option<BufWriter<File>>, String> {
    match &cli.json {
        Some(path) if path.as_os_str() != "-" => create(path).map(Some),
        _ => Ok(None),
    }
}

fn write(file: &mut BufWriter<File>, text: &str) -> Result<(), String> {
    let written = file.write_all(text.as_bytes()).and_then(|()| file.flush());
    written.map_err(|error| format!("the report cannot be written: {error}"))
}

fn create(path: &Path) -> Result<BufWriter<File>, String> {
    let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(BufWriter::new(file))
}

fn show(cli: &Cli, report: &Report, file: Option<&mut BufWriter<File>>) -> Result<(), String> {
    let json = || report.to_json().map_err(|error| format!("json: {error}"));
    match file {
        Some(file) => write(file, &json()?)?,
        None if cli.json.is_some() => {
            println!("{}", json()?);
            return Ok(());
        }
        None => {}
    }
    println!("{}", report.render());
    if cli.over_time {
        println!("{}", report.render_over_time());
    }
    Ok(())
}

/// Passes the user's wish on to the run, which looks at a flag of its own.
fn watch_interrupt(stop: Arc<AtomicBool>) -> Result<(), String> {
    let watch = move || {
        while !INTERRUPTED.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        stop.store(true, Ordering::Relaxed);
    };
    let thread = std::thread::Builder::new().name("interrupt".into()).spawn(watch);
    thread.map(drop).map_err(|error| error.to_string())
}

extern "C" fn interrupted(_signal: libc::c_int) {
    if INTERRUPTED.swap(true, Ordering::Relaxed) {
        // The second time nobody wants to wait for a report.
        // SAFETY: _exit may be called in a signal handler and does not return.
        unsafe { libc::_exit(130) };
    }
}

/// The first interrupt ends the run early with its report, the second one ends the process.
fn catch_interrupt() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only touches an atomic or ends the process, both allowed in a
        // signal handler; no other handler is replaced.
        unsafe { libc::signal(signal, interrupted as *const () as libc::sighandler_t) };
    }
}

/// Raises the limit of open files to what the system allows. If that fails, the run says which
/// connection could not be made.
fn allow_many_connections() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a value of the right type that outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: as above; the call only reads.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    }
}
