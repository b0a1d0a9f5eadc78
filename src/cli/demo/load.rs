//! The load of the demonstration: a run of the load generator within this process.
//!
//! It goes to each shard's leader directly, as any Redis Cluster client would, and checks every
//! value it reads. The generator blocks, so it has a thread of its own; what it says comes over a
//! channel, so that an interruption is heard while it runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use loadgen::{Address, Mode, Options, Report, Second};

use crate::cli::CommandError;

/// Connections of the load.
const CONNECTIONS: u32 = 50;
/// Keys of the load. All of them are written before the first is read.
const KEYS: u64 = 100_000;
/// Part of the requests that read.
const READ_SHARE: f64 = 0.8;
/// How long the load runs before it is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// Lines that may wait to be shown. The generator waits when this many do, which only happens
/// where nobody takes the output.
const LINES_MAX: usize = 16;

/// What a running load says.
#[derive(Debug)]
enum Word {
    /// A second has passed.
    Line(String),
    /// It is over.
    End(Result<Box<Report>, loadgen::Error>),
}

/// Ends the run when it is dropped, so that an interrupted demonstration leaves no load behind.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Puts load on the cluster behind `addresses` for `seconds`, calls `show` with a line for each,
/// and gives the report.
pub async fn run(
    addresses: &[SocketAddr],
    seconds: u16,
    mut show: impl FnMut(&str) -> Result<(), CommandError>,
) -> Result<Report, CommandError> {
    let options = options(addresses, seconds)?;
    let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
    let options = Options { stop: Some(stop.0.clone()), ..options };
    let (sender, words) = flume::bounded(LINES_MAX);
    let body = move || {
        let mut start_ns = None;
        let mut progress = |second: &Second| {
            let start_ns = *start_ns.get_or_insert(second.start_ns);
            // Nobody listens any more if the demonstration was interrupted.
            let _ = sender.send(Word::Line(second.line(start_ns)));
        };
        let report = loadgen::run(options, &mut progress);
        let _ = sender.send(Word::End(report.map(Box::new)));
    };
    std::thread::Builder::new().name("load".into()).spawn(body)?;
    loop {
        match words.recv_async().await {
            Ok(Word::Line(line)) => show(&line)?,
            Ok(Word::End(Ok(report))) => return Ok(*report),
            Ok(Word::End(Err(error))) => {
                return Err(CommandError::Failed(format!("the load failed: {error}")));
            }
            Err(_) => return Err(CommandError::Failed("the load ended without a word".into())),
        }
    }
}

fn options(addresses: &[SocketAddr], seconds: u16) -> Result<Options, CommandError> {
    let mut parsed = Vec::with_capacity(addresses.len());
    for address in addresses {
        let address: Address = address
            .to_string()
            .parse()
            .map_err(|error| CommandError::Failed(format!("{address}: {error}")))?;
        parsed.push(address);
    }
    Ok(Options {
        connections: CONNECTIONS,
        duration: Some(Duration::from_secs(u64::from(seconds))),
        warmup: WARM_UP,
        keys: KEYS,
        read_share: READ_SHARE,
        prefill: true,
        verify: true,
        ..Options::new(parsed, Mode::RespCluster)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_is_one_that_the_generator_takes() {
        let addresses = ["127.0.0.1:7400".parse().expect("an address")];
        let options = options(&addresses, 10).expect("options");
        assert_eq!(options.check(), Ok(()));
    }
}
