//! A node from its configuration to its end: starts the control thread, binds every port, starts
//! the cores, waits.
//!
//! Everything that can fail is tried before the first core runs, so that a node either serves or
//! says in one line why not. All ports are bound here; the exclusive ones come first, because the
//! any-core port is shared between the cores and would not notice a second server. The logs are
//! read before that: whoever connects meanwhile is refused at once and goes elsewhere, rather than
//! waiting for a node that is not there yet.
//!
//! The node ends when the control thread tells the cores to, or when a core ends by itself: a
//! node without one of its cores would be silent for the shards that live there, while its peers
//! wait for it.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::peer::Settings;
use shards::contract::{CoreConfig, Durability, STUB_BYTES_MIN};
use shards::ids::{Address, CoreIndex, Millis, Nanos};
use shards::wal::LogIdentity;

use crate::cluster_map::{ClusterLayout, Ports};
use crate::config::{CorePlan, NodeConfig};
use crate::control::messages::{CONTROL_QUEUE_MAX, ControlRequest};
use crate::control::{self, ControlError, ControlHandle, ControlOptions, Signals};
use crate::core_loop::{self, CorePorts, CoreStart, NodeBoard, Seats, clock};
use crate::disk::data_directory::DataDirectory;
use crate::disk::recovery::{self, CoreLog, NodeLogs, RecoveryError};
use crate::mesh;
use crate::net::listener::{Listener, Sharing};
use crate::net::runtime::{ExecutorError, ExecutorSettings, ExecutorThread, start_executor};
use crate::peers::PeerConfig;
use crate::session::ServerFacts;
use crate::startup::{self, StartupError};

/// How long a core may take to come up: its rings are made and its tasks started.
const CORE_START_DEADLINE: Duration = Duration::from_secs(10);
/// How long a port may be in use before it is an error. The kernel takes the rings of a killed
/// process apart after its end, and with them its listeners: who restarts it at once meets them.
/// On a machine with more to do than it can, that has taken more than a second.
const BIND_DEADLINE: Duration = Duration::from_secs(5);
/// How often a port in use is tried again.
const BIND_RETRY_INTERVAL: Duration = Duration::from_millis(10);
/// How long the other cores may take to end when one has ended by itself.
const CORE_STOP_DEADLINE: Duration = Duration::from_secs(5);
/// Encoded bytes of requests that may wait for leaders on one core.
const PARKED_BYTES_MAX: usize = 64 << 20;

/// Why a node does not run, or ran no longer.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Something it needs is missing.
    #[error(transparent)]
    Startup(#[from] StartupError),
    /// The control thread could not be started.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A core could not be started, or ended by itself.
    #[error("core {core} cannot run: {reason}")]
    Core {
        /// Which.
        core: u16,
        /// Why.
        reason: String,
    },
}

/// A core that runs.
struct RunningCore {
    thread: ExecutorThread<std::io::Result<()>>,
    /// Closed when the core has ended, however that came.
    ended: flume::Receiver<()>,
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// If it cannot start, or one of its cores ends by itself.
pub fn run(config: NodeConfig) -> Result<(), NodeError> {
    run_with(config, Signals::Handle, |_| {})
}

/// Runs a node; `started` gets the handle of its control thread once all cores run.
///
/// # Errors
/// As [`run`].
pub fn run_with(
    config: NodeConfig,
    signals: Signals,
    started: impl FnOnce(&ControlHandle),
) -> Result<(), NodeError> {
    let began = Instant::now();
    let control = control::spawn(signals)?;
    let cores = config.cores.count();
    let allowed = startup::check_host(cores, config.connections_max as usize)?;
    // Held until the cores have ended, and with them whatever touches the directory.
    let data = match (config.durability, &config.data_dir) {
        (Durability::Fsync, Some(path)) => Some(open_data_directory(path)?),
        _ => None,
    };
    let logs = match &data {
        Some(data) => recover(data, &config)?.cores.into_iter().map(Some).collect(),
        None => (0..cores).map(|_| None).collect(),
    };
    let ports = bind(&config)?;
    let listener = control::listen(&config)?;
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..cores).map(|_| flume::bounded(CONTROL_QUEUE_MAX)).unzip();
    let starts = core_starts(&config, logs, ports, receivers, allowed.connections)?;
    let running = start_cores(&config, starts, &senders)?;
    let options =
        ControlOptions { config: Arc::new(config.clone()), listener, cores: senders.clone() };
    if let Err(error) = control.serve(options) {
        stop_cores(&senders, running);
        return Err(error.into());
    }
    tracing::info!(
        node = %config.node,
        cores,
        data = %config.data_listen_address(),
        http = %config.http_listen_address(),
        milliseconds = began.elapsed().as_millis() as u64,
        "serving"
    );
    started(&control);
    let result = wait_for_end(&senders, running);
    control.join();
    drop(data);
    tracing::info!("stopped");
    result
}

fn open_data_directory(path: &std::path::Path) -> Result<DataDirectory, StartupError> {
    Ok(DataDirectory::open(path).map_err(RecoveryError::from)?)
}

/// Reads the logs of all cores.
fn recover(data: &DataDirectory, config: &NodeConfig) -> Result<NodeLogs, StartupError> {
    let began = Instant::now();
    let logs = recovery::recover(data, &engine_config(config, CoreIndex(0))?)?;
    tracing::info!(
        replicas = logs.replicas(),
        keys = logs.keys(),
        bytes = logs.log_bytes,
        milliseconds = began.elapsed().as_millis() as u64,
        "recovered"
    );
    Ok(logs)
}

/// What the engine of a core is told. The layout of its log is known once that was read.
fn engine_config(config: &NodeConfig, core: CoreIndex) -> Result<CoreConfig, StartupError> {
    let placement = config.placement();
    let cluster =
        recovery::cluster_identity(&config.cluster, placement.nodes(), placement.shards());
    Ok(CoreConfig {
        node: config.node,
        core,
        cores: config.cores.count(),
        placement,
        shard_bytes_max: config.shard_bytes_max(),
        eviction: config.eviction,
        value_bytes_max: config.value_bytes_max,
        durability: config.durability,
        reads: config.reads,
        log: LogIdentity { cluster, node: config.node, layout: 0, core },
        segment_bytes: config.segment_bytes,
        touch_interval: Millis(config.touch_interval.as_millis() as u64),
        stub_bytes_min: STUB_BYTES_MIN,
        scrub_bytes_per_second: config.scrub_bytes_per_second,
        tick: nanos(config.tick),
        election_ticks: config.election_ticks,
        request_deadline: nanos(config.request_deadline),
        parked_bytes_max: PARKED_BYTES_MAX,
        seed: startup::random()?,
    })
}

/// Binds the data and peer ports of all cores.
fn bind(config: &NodeConfig) -> Result<Vec<CorePorts>, StartupError> {
    let deadline = Instant::now() + BIND_DEADLINE;
    let bind = |address: SocketAddr, flag, sharing| loop {
        match Listener::bind(address, sharing) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(BIND_RETRY_INTERVAL);
            }
            Err(error) => return Err(StartupError::listening(address, flag, error)),
        }
    };
    let mut exclusive = Vec::new();
    for core in (0..config.cores.count()).map(CoreIndex) {
        let own = config.core_listen_address(core);
        let own = bind(own, "--core-port-base", Sharing::Exclusive)?;
        let peer = config.peer_listen_address(core);
        exclusive.push((own, bind(peer, "--peer-port-base", Sharing::Exclusive)?));
    }
    let any_core = config.data_listen_address();
    // Sharing the port would work even if another process that shares it too listened there.
    drop(bind(any_core, "--port", Sharing::Exclusive)?);
    exclusive
        .into_iter()
        .map(|(own, peer)| {
            let any_core = bind(any_core, "--port", Sharing::BetweenCores)?;
            Ok(CorePorts { any_core, own, peer })
        })
        .collect()
}

fn core_starts(
    config: &NodeConfig,
    logs: Vec<Option<CoreLog>>,
    ports: Vec<CorePorts>,
    receivers: Vec<flume::Receiver<ControlRequest>>,
    connections: usize,
) -> Result<Vec<CoreStart>, StartupError> {
    let cores = config.cores.count();
    let placement = config.placement();
    let incarnation = startup::random()?.max(1);
    let run_id =
        format!("{:016x}{:016x}{:08x}", startup::random()?, incarnation, startup::random()? as u32);
    let facts = ServerFacts::new(config, cores, run_id, clock::now());
    let settings = settings(config);
    let (seats, board) = (Seats::new(connections), Arc::new(NodeBoard::new(cores)));
    let others = config.members.iter().filter(|(node, _)| **node != config.node);
    let hosts: Vec<_> = others.map(|(&node, &host)| (node, host)).collect();
    let parts = ports.into_iter().zip(receivers).zip(mesh::connect(cores)).zip(logs);
    parts
        .zip((0..cores).map(CoreIndex))
        .map(|((((ports, control), mesh), log), core)| {
            Ok(CoreStart {
                engine: engine_config(config, core)?,
                log,
                layout: ClusterLayout {
                    name: config.cluster.clone(),
                    placement: placement.clone(),
                    hosts: config.members.values().copied().collect(),
                    node: config.node,
                    core,
                    cores,
                    ports: Ports {
                        any_core: config.port,
                        core_base: config.core_port_base,
                        peer_base: config.peer_port_base,
                        http: config.http_port,
                    },
                    advertise: config.advertise,
                },
                peers: PeerConfig {
                    here: Address { node: config.node, core },
                    cores,
                    incarnation,
                    settings: settings.clone(),
                    hosts: hosts.clone(),
                    port_base: config.peer_port_base,
                },
                facts: facts.clone(),
                ports,
                control,
                mesh,
                seats: seats.clone(),
                board: board.clone(),
            })
        })
        .collect()
}

fn settings(config: &NodeConfig) -> Settings {
    let placement = config.placement();
    Settings {
        cluster: config.cluster.clone(),
        members: placement.nodes().iter().map(|node| node.0).collect(),
        shards: config.shards,
        replication: placement.replication() as u16,
        tick_us: config.tick.as_micros() as u64,
        election_ticks: config.election_ticks,
        value_bytes_max: config.value_bytes_max as u64,
        shard_bytes_max: config.shard_bytes_max(),
        eviction: u32::from(config.eviction.code()),
        durability: match config.durability {
            Durability::Memory => proto::peer::Durability::Memory,
            Durability::Fsync => proto::peer::Durability::Fsync,
        },
    }
}

fn nanos(span: Duration) -> Nanos {
    Nanos(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
}

/// Starts all cores. If one does not come up, those that did are stopped again.
fn start_cores(
    config: &NodeConfig,
    starts: Vec<CoreStart>,
    senders: &[flume::Sender<ControlRequest>],
) -> Result<Vec<RunningCore>, NodeError> {
    let mut running = Vec::new();
    for (core, start) in starts.into_iter().enumerate() {
        let settings = ExecutorSettings {
            name: format!("core{core}"),
            cpu: match &config.cores {
                CorePlan::Pinned(cpus) => cpus.get(core).copied(),
                CorePlan::Float(_) => None,
            },
            spin: Duration::ZERO,
        };
        match start_core(&settings, start) {
            Ok(core) => running.push(core),
            Err(error) => {
                stop_cores(senders, running);
                return Err(NodeError::Core { core: core as u16, reason: error.to_string() });
            }
        }
    }
    Ok(running)
}

fn start_core(settings: &ExecutorSettings, start: CoreStart) -> Result<RunningCore, ExecutorError> {
    let (is_up, up) = flume::bounded::<()>(1);
    let (ends, ended) = flume::bounded::<()>(1);
    let thread = start_executor(settings, move || async move {
        // Dropped, and thereby the channel closed, however this task ends.
        let _ends = ends;
        let _ = is_up.try_send(());
        core_loop::run(start).await
    })?;
    match up.recv_timeout(CORE_START_DEADLINE) {
        Ok(()) => Ok(RunningCore { thread, ended }),
        // The thread dropped its end: it has failed and says why.
        Err(flume::RecvTimeoutError::Disconnected) => Err(match thread.join() {
            Err(error) => error,
            Ok(_) => ExecutorError::Failed("it ended at once".to_owned()),
        }),
        Err(flume::RecvTimeoutError::Timeout) => {
            Err(ExecutorError::Failed("it did not start in time".to_owned()))
        }
    }
}

/// Waits until the cores have ended. If one does so by itself, the others are stopped.
fn wait_for_end(
    senders: &[flume::Sender<ControlRequest>],
    running: Vec<RunningCore>,
) -> Result<(), NodeError> {
    let mut selector = flume::Selector::new();
    for (core, thread) in running.iter().enumerate() {
        selector = selector.recv(&thread.ended, move |_| core);
    }
    let first = selector.wait();
    let mut results = stop_cores(senders, running).into_iter().enumerate();
    match results.find(|(_, result)| result.is_err()) {
        None => Ok(()),
        Some((core, result)) => {
            let reason = result.err().map_or_else(String::new, |error| error.to_string());
            tracing::error!(core, first, reason, "a core ended by itself");
            Err(NodeError::Core { core: core as u16, reason })
        }
    }
}

/// Tells all cores to stop, if they have not been told yet, and waits for them.
fn stop_cores(
    senders: &[flume::Sender<ControlRequest>],
    running: Vec<RunningCore>,
) -> Vec<Result<(), ExecutorError>> {
    for sender in senders {
        // One that has ended takes no order, and needs none.
        let _ = sender.send_timeout(ControlRequest::Stop, CORE_STOP_DEADLINE);
    }
    let join = |core: RunningCore| match core.thread.join() {
        Ok(result) => result.map_err(|error| ExecutorError::Failed(error.to_string())),
        Err(error) => Err(error),
    };
    running.into_iter().map(join).collect()
}
