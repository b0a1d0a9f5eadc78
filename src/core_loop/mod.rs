//! The loop of one core: everything that happens on its thread.
//!
//! Tasks on one executor bring input: one for each client connection, one for each connection
//! that a peer opened, one for each sibling, one for the control thread, one for the log, one for
//! the clock. What
//! they bring goes into the core's state, and they raise the *turn* ([`turn`]). Its task is woken
//! behind the tasks that are already runnable, so that one turn takes what all connections brought
//! that were ready: the work per request is in the batch, the work per turn is shared.
//!
//! The turn hands the batch to the engine, and sends what comes of it: one write for each link,
//! one for each connection that got replies.
//!
//! One task learns for all connections on which of them something has come, and does not look
//! while the core could only gather it ([`gate`]).
//!
//! There is one timer per core, set to the engine's next deadline; what a second long deadline
//! needs is looked at once a second.
//!
//! Invariants: the state is borrowed between waits and never across one. Tasks are started when
//! no borrow is held that they need, since they first run after the caller returned.

mod client;
pub mod clock;
mod gate;
mod log;
mod seats;
mod signal;
mod state;
mod table;
mod turn;
pub mod turn_times;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use proto::peer::Acceptance;
use shards::command::RequestBatch;
use shards::contract::{AdminCommand, CoreConfig, Input, Outputs};
use shards::engine::Core;
use shards::ids::{Address, NodeId};
use socket2::Socket;

pub use seats::Seats;
pub use signal::Signal;
pub use state::NodeBoard;

use crate::cluster_map::{ClusterLayout, ClusterMap};
use crate::control::messages::{ControlRequest, CoreCounters};
use crate::disk::recovery::CoreLog;
use crate::disk::writer::LogWriter;
use crate::mesh::MeshPort;
use crate::net::accept::AcceptHandle;
use crate::net::input::Scratch;
use crate::net::listener::Listener;
use crate::net::readiness::ReadySet;
use crate::net::runtime::{Alarm, sleep, spawn, yield_now};
use crate::net::stream::{Stream, Transport};
use crate::peers::inbound::serve_peer;
use crate::peers::lives::Outlived;
use crate::peers::outbound::{attend, keep_link};
use crate::peers::{PeerConfig, Peers};
use crate::session::clients::ClientDirectory;
use crate::session::context::{NodeTotals, SessionCounters};
use crate::session::{BufferPool, PortKind, ServerFacts};
use client::{Flushed, Next, serve_client, write_on};
use gate::Gate;
use log::{LogPort, write_log};
use state::State;
use table::{ConnectionId, Table};
use turn::FollowUps;
use turn_times::TurnTimes;

#[cfg(test)]
mod tests;

/// What a client is told for which there is no room. One that speaks the binary protocol takes it
/// for garbage, which comes to the same.
const NO_ROOM: &[u8] = b"-ERR max number of clients reached\r\n";
/// How long connections have to end by themselves when the core stops.
const STOP_DEADLINE: Duration = Duration::from_secs(2);
/// How often a stopping core looks whether they have.
const STOP_POLL: Duration = Duration::from_millis(5);
/// How often connections and totals are looked after, in nanoseconds.
const LOOK_AFTER_INTERVAL: u64 = 1_000_000_000;

/// The ports of one core.
#[derive(Debug)]
pub struct CorePorts {
    /// The any-core port, which the cores of a node share.
    pub any_core: Listener,
    /// The core's own port.
    pub own: Listener,
    /// The port for peers.
    pub peer: Listener,
}

/// What a core is given at its start.
#[derive(Debug)]
pub struct CoreStart {
    /// For the engine.
    pub engine: CoreConfig,
    /// What the core's log held, if there is one.
    pub log: Option<CoreLog>,
    /// For the map that clients are told.
    pub layout: ClusterLayout,
    /// For the links to other nodes.
    pub peers: PeerConfig,
    /// What clients are told of the server.
    pub facts: ServerFacts,
    /// Where it listens.
    pub ports: CorePorts,
    /// Orders and questions of the control thread.
    pub control: flume::Receiver<ControlRequest>,
    /// Channels to the siblings.
    pub mesh: MeshPort,
    /// Room for connections.
    pub seats: Seats,
    /// Totals of all cores.
    pub board: Arc<NodeBoard>,
}

/// What the tasks of a core share.
pub struct Shared {
    /// What the core owns. Borrowed between waits, never across one.
    pub state: RefCell<State>,
    /// Raised when a turn is due.
    pub turn: Signal,
    /// Raised when a turn has asked something of the disk.
    log_asked: Signal,
    /// The sockets of clients and of peers that connected.
    pub sockets: Rc<ReadySet>,
    /// Whether they are looked at now.
    gate: Gate,
    /// When the engine wants its next turn, in nanoseconds of the monotonic clock.
    deadline: Cell<u64>,
    /// Raised when `deadline` came nearer.
    deadline_moved: Signal,
    stop_asked: Signal,
    stopping: Cell<bool>,
    listeners: RefCell<Vec<(AcceptHandle, PortKind)>>,
    /// What was last said about each peer that was refused.
    complaints: RefCell<std::collections::BTreeMap<Address, String>>,
}

/// Runs a core until it is told to stop.
///
/// # Errors
/// If a listener cannot be used on this executor, or the log's directory cannot.
pub async fn run(start: CoreStart) -> io::Result<()> {
    let nodes: Vec<NodeId> = start.peers.hosts.iter().map(|(node, _)| *node).collect();
    let (here, cores) = (start.peers.here, start.peers.cores);
    let Assembled { shared, ports, control, writer } = assemble(start)?;
    let receivers = shared.state.borrow_mut().mesh.take_receivers();
    let any_core_port = AcceptHandle::new(ports.any_core, &shared.sockets)?;
    let core_port = AcceptHandle::new(ports.own, &shared.sockets)?;
    let peer_port = AcceptHandle::new(ports.peer, &shared.sockets)?;
    shared
        .listeners
        .borrow_mut()
        .extend([(any_core_port.clone(), PortKind::AnyCore), (core_port.clone(), PortKind::Core)]);
    accept_clients(&shared, any_core_port, "any-core", PortKind::AnyCore);
    accept_clients(&shared, core_port, "core", PortKind::Core);
    let serving = shared.clone();
    spawn(peer_port.clone().run("peer", move |socket, _| {
        spawn(serve_peer(serving.clone(), socket));
    }));
    for node in nodes {
        shared.core_count_learned(node, cores);
    }
    for (core, receiver) in receivers {
        spawn(receive_from_sibling(shared.clone(), Address { core, ..here }, receiver));
    }
    spawn(serve_control(shared.clone(), control));
    spawn(keep_time(shared.clone()));
    spawn(attend_sockets(shared.clone()));
    if let Some(writer) = writer {
        spawn(write_log(shared.clone(), writer));
    }
    spawn(run_turns(shared.clone()));
    shared.turn.raise();
    shared.stop_asked.wait().await;
    shared.stop().await;
    // Peers that wait would greet a core that is gone.
    peer_port.stop(|_, _| {});
    Ok(())
}

/// What the tasks of a core share, and what single ones of them take over.
struct Assembled {
    shared: Rc<Shared>,
    ports: CorePorts,
    control: flume::Receiver<ControlRequest>,
    writer: Option<LogWriter>,
}

/// The engine, which goes on with what its log held, and who writes that log.
fn assemble_engine(
    config: CoreConfig,
    log: Option<CoreLog>,
) -> io::Result<(Core, Option<LogWriter>)> {
    let Some(CoreLog { directory, identity, recovered }) = log else {
        return Ok((Core::new(config), None));
    };
    let writer = LogWriter::start(config.core, &directory, config.segment_bytes)?;
    let config = CoreConfig { log: identity, ..config };
    Ok((Core::resume(config, clock::now(), recovered), Some(writer)))
}

/// Makes everything that the tasks of a core share.
fn assemble(start: CoreStart) -> io::Result<Assembled> {
    let (here, cores) = (start.peers.here, start.peers.cores);
    let (engine, writer) = assemble_engine(start.engine, start.log)?;
    let state = State {
        here,
        engine,
        log: LogPort::new(writer.as_ref()),
        outputs: Outputs::default(),
        batch: RequestBatch::default(),
        clients: Table::default(),
        dirty: Vec::new(),
        congested: Vec::new(),
        scratch: Scratch::default(),
        mesh: start.mesh,
        peers: Peers::new(start.peers),
        cluster: ClusterMap::new(start.layout),
        facts: start.facts,
        directory: ClientDirectory::new(here.core, cores),
        buffers: BufferPool::default(),
        session_counters: SessionCounters::default(),
        counters: CoreCounters::default(),
        seats: start.seats,
        totals: start.board,
        drained: Vec::new(),
        led_nothing_since: None,
        now: clock::now(),
        busy_since: None,
        turn_times: TurnTimes::default(),
    };
    let shared = Shared {
        state: RefCell::new(state),
        turn: Signal::default(),
        log_asked: Signal::default(),
        sockets: ReadySet::new()?,
        gate: Gate::default(),
        deadline: Cell::new(u64::MAX),
        deadline_moved: Signal::default(),
        stop_asked: Signal::default(),
        stopping: Cell::new(false),
        listeners: RefCell::default(),
        complaints: RefCell::default(),
    };
    let (ports, control) = (start.ports, start.control);
    Ok(Assembled { shared: Rc::new(shared), ports, control, writer })
}

impl Shared {
    /// Whether the core is about to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Tells the engine that the link to `to` is up, with `stream` for its turn lane. Returns the
    /// serial number of this life of the link.
    pub fn link_up(self: &Rc<Self>, to: Address, stream: &Rc<Stream>, peer: Acceptance) -> u64 {
        self.core_count_learned(to.node, peer.cores);
        let mut state = self.state.borrow_mut();
        let serial = state.peers.set_up(to, stream.clone(), peer.incarnation);
        state.begin_input();
        state.step(Input::LinkUp { to, cores: peer.cores });
        self.turn.raise();
        serial
    }

    /// Ends the link to `to` and tells the engine, if it was up; see
    /// [`Peers::take_down`](crate::peers::Peers::take_down). Returns whether it was.
    pub fn link_down(&self, to: Address, serial: Option<u64>) -> bool {
        let was_up = self.state.borrow_mut().link_down(to, serial);
        if was_up {
            self.turn.raise();
        }
        was_up
    }

    /// Notes which life of a node spoke. Links that led to an earlier one are down from here on.
    ///
    /// # Errors
    /// If this life was replaced by a later one before.
    pub fn note_life(&self, node: NodeId, incarnation: u64) -> Result<(), Outlived> {
        let outlived = self.state.borrow_mut().peers.note_life(node, incarnation)?;
        for to in outlived {
            tracing::info!(peer = %to, "the peer has restarted");
            self.link_down(to, None);
        }
        Ok(())
    }

    /// Notes how many cores a node has, and starts to keep links to those that are new.
    pub fn core_count_learned(self: &Rc<Self>, node: NodeId, cores: u16) {
        for to in self.state.borrow_mut().note_cores(node, cores) {
            spawn(keep_link(self.clone(), to));
        }
    }

    /// Logs why a peer was refused, once for each reason.
    pub fn complain_about(&self, from: Address, reason: &str) {
        let mut complaints = self.complaints.borrow_mut();
        // Strangers can claim any address: what they make us remember is bounded.
        if complaints.len() >= 1_024 {
            complaints.clear();
        }
        let last = complaints.entry(from).or_default();
        if last != reason {
            tracing::warn!(peer = %from, reason, "refused a peer");
            reason.clone_into(last);
        }
    }

    fn read_client(&self, id: ConnectionId) -> Next {
        let (next, turn_is_due) = self.state.borrow_mut().read_client(id);
        if turn_is_due {
            self.turn.raise();
        } else {
            self.end_without_turn();
        }
        next
    }

    fn poll_client_resumed(&self, id: ConnectionId, context: &mut Context<'_>) -> Poll<()> {
        match self.state.borrow_mut().clients.get_mut(id) {
            Some(client) => client.poll_resumed(context),
            None => Poll::Ready(()),
        }
    }

    fn flush_client_rest(&self, id: ConnectionId, has_room: bool) -> Flushed {
        self.within_turn(|state| state.flush_client_rest(id, has_room))
    }

    /// Does work that calls for no turn and yet counts as time in which the core is busy.
    pub fn within_turn<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        let result = {
            let mut state = self.state.borrow_mut();
            state.begin_input();
            work(&mut state)
        };
        self.end_without_turn();
        result
    }

    /// Ends the count of busy time, unless a turn is about to come, which does.
    fn end_without_turn(&self) {
        if !self.turn.is_raised() {
            self.state.borrow_mut().end_busy();
        }
    }

    /// Carries out `work`; what it does between its waits counts as time in which the core is busy.
    async fn measured<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        std::future::poll_fn(|context| {
            self.state.borrow_mut().begin_input();
            let polled = work.as_mut().poll(context);
            self.end_without_turn();
            polled
        })
        .await
    }

    fn remove_client(&self, id: ConnectionId) {
        self.state.borrow_mut().remove_client(id);
    }

    fn take_client(self: &Rc<Self>, socket: Socket, peer: Option<SocketAddr>, port: PortKind) {
        let mut state = self.state.borrow_mut();
        if !state.seats.take() {
            state.counters.connections_refused += 1;
            if let Ok(stream) = Stream::new(socket) {
                let _ = stream.send(NO_ROOM);
            }
            return;
        }
        let unknown = SocketAddr::from((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
        let local = socket.local_addr().ok().and_then(|address| address.as_socket());
        let addresses = (peer.unwrap_or(unknown), local.unwrap_or(unknown));
        let opened = Stream::in_set(socket, &self.sockets).ok().and_then(|stream| {
            let stream = Rc::new(stream);
            Some((state.open_client(stream.clone(), port, addresses)?, stream))
        });
        match opened {
            Some((id, stream)) => spawn(serve_client(self.clone(), id, stream)),
            None => {
                state.counters.connections_refused += 1;
                state.seats.leave();
            }
        }
    }

    /// Sets the timer to the deadline that the last turn left. If the former one has passed and
    /// nobody took notice, the timer is late or lost, and is set anew.
    fn set_deadline(&self, at: u64) {
        let former = self.deadline.replace(at);
        if at < former || former < clock::now().monotonic.0 {
            self.deadline_moved.raise();
        }
    }

    /// Ends all connections: what is under way is answered, within [`STOP_DEADLINE`].
    async fn stop(self: &Rc<Self>) {
        self.stopping.set(true);
        self.stop_accepting();
        for (_, client) in self.state.borrow_mut().clients.iter_mut() {
            client.end_input();
        }
        self.turn.raise();
        let mut polls = STOP_DEADLINE.as_millis() / STOP_POLL.as_millis();
        while self.state.borrow().clients.len() > 0 && polls > 0 {
            polls -= 1;
            sleep(STOP_POLL).await;
        }
        let left = self.state.borrow().clients.len();
        if left > 0 {
            tracing::warn!(left, "connections were closed with requests under way");
        }
        self.state.borrow_mut().peers.stop();
    }

    fn stop_accepting(self: &Rc<Self>) {
        for (listener, kind) in self.listeners.borrow_mut().drain(..) {
            listener.stop(|socket, peer| self.take_client(socket, peer, kind));
        }
    }
}

impl State {
    /// See [`Shared::link_down`].
    fn link_down(&mut self, to: Address, serial: Option<u64>) -> bool {
        let was_up = self.peers.take_down(to, serial);
        if was_up {
            self.begin_input();
            self.step(Input::LinkDown { to });
        }
        was_up
    }
}

fn accept_clients(shared: &Rc<Shared>, port: AcceptHandle, name: &'static str, kind: PortKind) {
    let shared = shared.clone();
    spawn(port.run(name, move |socket, peer| shared.take_client(socket, peer, kind)));
}

/// Wakes the tasks of connections on which something has come.
async fn attend_sockets(shared: Rc<Shared>) {
    loop {
        shared.gate.passed().await;
        let attended = match shared.sockets.collect() {
            // Those who were woken run before this looks again.
            Ok(true) => {
                yield_now().await;
                Ok(())
            }
            Ok(false) => shared.sockets.wait().await,
            Err(error) => Err(error),
        };
        if let Err(error) = attended {
            tracing::error!(%error, "the core cannot learn what has come on its sockets, and ends");
            shared.stop_asked.raise();
            return;
        }
    }
}

async fn run_turns(shared: Rc<Shared>) {
    let mut follow_ups = FollowUps::default();
    loop {
        shared.turn.wait().await;
        {
            let mut state = shared.state.borrow_mut();
            state.turn(&mut follow_ups);
            shared.gate.note_reads(state.engine.reads_asked());
            shared.set_deadline(state.next_turn().0);
        }
        if std::mem::take(&mut follow_ups.log_asked) {
            shared.log_asked.raise();
        }
        for (id, stream) in follow_ups.blocked_clients.drain(..) {
            spawn(write_on(shared.clone(), id, stream));
        }
        for pending in follow_ups.pending_links.drain(..) {
            spawn(attend(shared.clone(), pending));
        }
        if std::mem::take(&mut follow_ups.again) {
            shared.turn.raise();
        }
    }
}

/// Raises the turn when the engine wants it, and looks after what needs it once a second.
async fn keep_time(shared: Rc<Shared>) {
    let mut look_after_at = clock::now().monotonic.0 + LOOK_AFTER_INTERVAL;
    let mut last_totals = NodeTotals::default();
    let mut alarm = Alarm::new(Duration::ZERO);
    loop {
        let now = clock::now().monotonic.0;
        if now >= look_after_at {
            shared.within_turn(|state| state.look_after(&mut last_totals));
            look_after_at = now + LOOK_AFTER_INTERVAL;
        }
        if now >= shared.deadline.get() {
            // What has come on sockets waits no longer than until here, whatever became of the
            // write that it waits for, or of a wake-up. The set tells its errors elsewhere.
            shared.gate.open();
            let _ = shared.sockets.collect();
            // The turn sets the next one.
            shared.deadline.set(u64::MAX);
            shared.turn.raise();
        }
        let due = shared.deadline.get().min(look_after_at);
        alarm.set(Duration::from_nanos(due.saturating_sub(now)));
        std::future::poll_fn(|context| {
            if shared.deadline_moved.poll(context).is_ready() {
                return Poll::Ready(());
            }
            alarm.poll(context)
        })
        .await;
    }
}

async fn receive_from_sibling(
    shared: Rc<Shared>,
    from: Address,
    receiver: flume::Receiver<Vec<u8>>,
) {
    while let Ok(frame) = receiver.recv_async().await {
        {
            let mut state = shared.state.borrow_mut();
            state.begin_input();
            for frame in std::iter::once(frame).chain(receiver.drain()) {
                state.step(Input::Frame { from, bytes: &frame });
                state.outputs.recycle(frame);
            }
        }
        shared.turn.raise();
        yield_now().await;
    }
}

async fn serve_control(shared: Rc<Shared>, requests: flume::Receiver<ControlRequest>) {
    while let Ok(request) = requests.recv_async().await {
        match request {
            ControlRequest::Status(answer) => {
                let report = shared.within_turn(State::report);
                let _ = answer.try_send(report);
            }
            ControlRequest::Admin(command, answer) => {
                shared.state.borrow_mut().administer(command);
                shared.turn.raise();
                let _ = answer.try_send(());
            }
            ControlRequest::Drain(answer) => {
                shared.stop_accepting();
                let mut state = shared.state.borrow_mut();
                state.drained.push(answer);
                state.administer(AdminCommand::Drain);
                shared.turn.raise();
            }
            ControlRequest::Stop => {
                shared.stop_asked.raise();
                return;
            }
        }
    }
    // Without a control thread nobody could stop this core later.
    shared.stop_asked.raise();
}
