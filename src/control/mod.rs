//! The control thread: what a node tells operators, and how it is stopped.
//!
//! It is the only thread with a tokio runtime, and the only one that speaks HTTP. It owns nothing
//! the data path needs: it asks the cores over bounded channels ([`messages`]) and they answer
//! when a turn ends, without ever waiting for it. If it stalls, clients notice nothing; if a core
//! stalls, it says so.
//!
//! The thread starts before anything else of the node, so that a signal finds it: while the node is
//! not serving yet, the first one ends the process, since there is nothing to hand over.
//!
//! Stopping: the first SIGTERM or SIGINT drains (readiness goes, the cores hand their leaderships
//! over within [`DRAIN_DEADLINE`]), then tells the cores to stop. A second signal ends the process
//! at once, and so does a core that does not stop within [`STOP_DEADLINE`].

mod cluster;
mod collector;
pub mod fetch;
mod http;
mod limits;
pub mod messages;
mod metrics;
mod readiness;
mod recover;
mod stop;
mod transfer;
pub mod view;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::NodeConfig;
use messages::ControlRequest;

/// How long the cores have to hand their leaderships over before a stop.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// How long the process may live on after its cores were told to stop.
pub const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Why the control thread does not run.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The HTTP port cannot be had.
    #[error("cannot listen on {address} for HTTP: {source}{}", remedy(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The thread or its runtime cannot be made.
    #[error("cannot start the control thread: {0}")]
    Start(#[from] io::Error),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; choose another port with --http-port",
        io::ErrorKind::AddrNotAvailable => {
            "; the address in --members (or --bind) is not one of this machine"
        }
        _ => "",
    }
}

/// Who decides when the node stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signals {
    /// SIGTERM and SIGINT, as of a server. One per process.
    Handle,
    /// Only [`ControlHandle::stop`]: for nodes that run within a test's process.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests run nodes in their process"))]
    Ignore,
}

/// What the control thread is told at its start.
#[derive(Debug)]
pub struct ControlOptions {
    /// The node's configuration.
    pub config: Arc<NodeConfig>,
    /// Where HTTP is served, from [`listen`].
    pub listener: TcpListener,
    /// The control channels of all cores, in the order of cores. Each has room for
    /// [`messages::CONTROL_QUEUE_MAX`] requests.
    pub cores: Vec<flume::Sender<ControlRequest>>,
}

/// Binds the HTTP port of a node, so that a port in use is an error of the start and not a line in
/// the log of a node that runs.
pub fn listen(config: &NodeConfig) -> Result<TcpListener, ControlError> {
    let address = config.http_listen_address();
    TcpListener::bind(address).map_err(|source| ControlError::Listen { address, source })
}

/// The running control thread.
#[derive(Debug)]
pub struct ControlHandle {
    thread: Option<JoinHandle<()>>,
    order: flume::Sender<Order>,
    begin: flume::Sender<(Arc<http::Face>, TcpListener)>,
}

/// What the control thread is told by its own process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Drain the node and stop its cores.
    Stop,
    /// The cores have ended: end too.
    End,
}

impl ControlHandle {
    /// Serves HTTP from now on, and on a signal stops the node in order: each core receives
    /// [`ControlRequest::Drain`] and then [`ControlRequest::Stop`]; whoever started the cores waits
    /// for their end and then calls [`ControlHandle::join`]. To be called once.
    ///
    /// # Errors
    /// If the listener cannot be used.
    pub fn serve(&self, options: ControlOptions) -> Result<(), ControlError> {
        let ControlOptions { config, listener, cores } = options;
        listener.set_nonblocking(true)?;
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let face = Arc::new(http::Face {
            collector: collector::Collector::new(config, cores),
            draining: AtomicBool::new(false),
            started_unix_s: since_epoch.as_secs(),
        });
        let ended = |_| io::Error::other("the control thread has ended");
        Ok(self.begin.try_send((face, listener)).map_err(ended)?)
    }

    /// Drains the node and tells its cores to stop, as the first SIGTERM does. Returns at once.
    #[cfg_attr(not(test), expect(dead_code, reason = "elsewhere signals say so"))]
    pub fn stop(&self) {
        // A full channel holds an order already, and a closed one belongs to a thread that ended.
        let _ = self.order.try_send(Order::Stop);
    }

    /// Ends the control thread, after the cores have ended.
    pub fn join(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.order.try_send(Order::End);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control thread panicked");
        }
    }
}

impl Drop for ControlHandle {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts the control thread. Until [`ControlHandle::serve`] all it does is to end the process when
/// a signal comes.
pub fn spawn(signals: Signals) -> Result<ControlHandle, ControlError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let received = {
        let _context = runtime.enter();
        stop::Received::install(signals)?
    };
    // Room for a stop and an end: there is nothing else to say.
    let (order, orders) = flume::bounded(2);
    let (begin, begins) = flume::bounded(1);
    let thread = std::thread::Builder::new()
        .name("control".into())
        .spawn(move || runtime.block_on(run(begins, received, orders)))?;
    Ok(ControlHandle { thread: Some(thread), order, begin })
}

async fn run(
    begins: flume::Receiver<(Arc<http::Face>, TcpListener)>,
    mut received: stop::Received,
    orders: flume::Receiver<Order>,
) {
    let begun = tokio::select! {
        biased;
        begun = begins.recv_async() => begun,
        () = stop::end_on_signal(&mut received) => return,
        // A node that could not start: nothing else is ordered this early.
        _ = orders.recv_async() => return,
    };
    let Ok((face, listener)) = begun else { return };
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "HTTP cannot be served");
            return;
        }
    };
    let sampling = async {
        let mut period = tokio::time::interval(collector::SAMPLE_PERIOD);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            period.tick().await;
            face.collector.sample().await;
        }
    };
    tokio::select! {
        () = http::serve(listener, http::router(face.clone())) => {}
        () = sampling => {}
        () = stop::supervise(&face, received, orders) => {}
    }
}

#[cfg(test)]
mod tests;
