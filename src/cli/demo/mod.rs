//! `coracle demo`: a cluster of real processes on this machine, seen at work within seconds.
//!
//! It starts the nodes on 127.0.0.1, 127.0.0.2 and so on in a temporary directory, waits until
//! they are ready, puts load on them with the load generator, prints who leads what and how long
//! requests took, and stays up until Ctrl-C. Whatever way it ends, the nodes end with it.

mod cluster;
mod load;

use std::io::{self, Write as _};
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{CommandError, shards};
use crate::config::cpus;
use crate::control::fetch;
use crate::control::view::ShardsView;
use cluster::{Cluster, host};

/// How long the table of shards may take.
const TABLE_DEADLINE: Duration = Duration::from_secs(5);
/// Time between two looks whether the nodes still run.
const WATCH_PERIOD: Duration = Duration::from_millis(500);

/// The flags of `coracle demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoOptions {
    /// Number of nodes; a shard has three replicas, or as many as there are nodes
    #[arg(long, value_name = "COUNT", default_value_t = 3,
          value_parser = clap::value_parser!(u16).range(1..=16))]
    pub nodes: u16,
    /// Seconds of load; 0 for none
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u16).range(0..=3_600))]
    pub seconds: u16,
    /// Stop after the load instead of staying up until Ctrl-C
    #[arg(long)]
    pub exit: bool,
    /// Data port of every node; the other ports follow it at the distances of the defaults
    #[arg(long, value_name = "PORT", default_value_t = 7_400,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Cores of each node (default: the CPUs there are divided by the nodes, 2 to 8)
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub cores: Option<u16>,
    /// Number of shards
    #[arg(long, value_name = "COUNT", default_value_t = 32,
          value_parser = clap::value_parser!(u16).range(1..=16_384))]
    pub shards: u16,
    /// Accounted bytes of each node
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub memory: String,
}

impl DemoOptions {
    /// Cores of each node. Two at least, even on one CPU, so that there is something to see.
    pub fn cores_per_node(&self) -> u16 {
        let share = cpus::available().len() / usize::from(self.nodes);
        self.cores.unwrap_or(share.clamp(2, 8) as u16)
    }
}

/// Runs the command.
pub fn run(options: &DemoOptions) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(demonstrate(options))
}

async fn demonstrate(options: &DemoOptions) -> Result<(), CommandError> {
    // The handlers come first: from here on no signal ends this process without its children.
    let mut interruption = Interruption::install()?;
    let mut cluster = Cluster::start(options)?;
    let outcome = tokio::select! {
        outcome = session(&mut cluster, options) => outcome,
        name = interruption.next() => {
            writeln!(io::stdout(), "\n{name}: stopping the nodes; a second one kills them")?;
            Ok(())
        }
    };
    let complaints = tokio::select! {
        complaints = cluster.stop() => complaints,
        _ = interruption.next() => vec!["the nodes were killed".to_owned()],
    };
    drop(cluster);
    outcome?;
    match complaints.is_empty() {
        true => Ok(()),
        false => Err(CommandError::Failed(complaints.join("; "))),
    }
}

async fn session(cluster: &mut Cluster, options: &DemoOptions) -> Result<(), CommandError> {
    let mut out = io::stdout();
    let (nodes, cores) = (options.nodes, options.cores_per_node());
    writeln!(out, "Starting {nodes} nodes with {cores} cores each, {} shards ..", options.shards)?;
    cluster.wait_until_ready().await?;
    for (id, process) in cluster.process_ids() {
        let port = cluster.ports().data;
        writeln!(out, "  node {id} serves on {}:{port} (process {process})", host(id))?;
    }
    if options.seconds > 0 {
        writeln!(out, "\nLoad for {} s, straight to the leaders ..", options.seconds)?;
        let show = |line: &str| Ok(writeln!(io::stdout(), "  {line}")?);
        let report = load::run(&cluster.data_addresses(), options.seconds, show).await?;
        write!(out, "\n{}{}", leadership(cluster).await?, report.render())?;
        if report.errors.protocol > 0 {
            let count = report.errors.protocol;
            return Err(CommandError::Failed(format!("{count} replies were wrong")));
        }
    } else {
        write!(out, "\n{}", leadership(cluster).await?)?;
    }
    if options.exit {
        return Ok(());
    }
    write!(out, "\n{}", directions(cluster))?;
    out.flush()?;
    stay_up(cluster).await
}

async fn leadership(cluster: &Cluster) -> Result<String, CommandError> {
    let failed = |error: &dyn std::fmt::Display| CommandError::Failed(error.to_string());
    let address = cluster.http_address(1);
    let answer = fetch::get(address, "/v1/shards", TABLE_DEADLINE).await;
    let answer = answer.map_err(|error| failed(&error))?;
    let view: ShardsView = serde_json::from_slice(&answer.body).map_err(|error| failed(&error))?;
    Ok(shards::render(&view.shards))
}

fn directions(cluster: &Cluster) -> String {
    let ports = cluster.ports();
    let (data, core, http) = (ports.data, ports.core_base, ports.http);
    format!(
        "The cluster stays up until Ctrl-C. To use it:\n\
         \x20 redis-cli -h 127.0.0.1 -p {data}          any key on any node\n\
         \x20 redis-cli -c -h 127.0.0.1 -p {core}       as a Redis Cluster, each key at its core\n\
         \x20 coracle shards --addr 127.0.0.1:{http} --watch\n\
         \x20 curl http://127.0.0.1:{http}/metrics\n\
         Kill a node's process (kill -9) and watch its shards move.\n"
    )
}

/// Stays up, and tells of nodes that end. Fails once none is left.
async fn stay_up(cluster: &mut Cluster) -> Result<(), CommandError> {
    let mut left = cluster.process_ids().len();
    while left > 0 {
        tokio::time::sleep(WATCH_PERIOD).await;
        for (id, how) in cluster.newly_ended() {
            left -= 1;
            writeln!(io::stdout(), "node {id} has ended ({how}); {left} left")?;
        }
    }
    Err(CommandError::Failed("all nodes have ended".into()))
}

/// The signals that ask for the end.
struct Interruption {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Interruption {
    fn install() -> io::Result<Interruption> {
        Ok(Interruption {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
