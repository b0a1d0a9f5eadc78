//! Everything a core owns, in one place that its tasks borrow for a moment and never across a
//! wait.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use shards::command::RequestBatch;
use shards::contract::{AdminCommand, Input, LeaderView, Now, Outputs, Role};
use shards::engine::Core;
use shards::ids::{Address, NodeId, ShardId};
use shards::placement::Placement;

use super::client::{Client, Flushed, Next};
use super::clock;
use super::log::LogPort;
use super::seats::Seats;
use super::table::{ConnectionId, Table};
use super::turn::KEPT_BYTES_MAX;
use super::turn_times::TurnTimes;
use crate::cluster_map::ClusterMap;
use crate::control::messages::{CoreCounters, CoreReport};
use crate::mesh::MeshPort;
use crate::net::input::Scratch;
use crate::net::stream::Stream;
use crate::peers::Peers;
use crate::session::clients::ClientDirectory;
use crate::session::context::{NodeTotals, SessionCounters};
use crate::session::{BufferPool, PortKind, ServerFacts, Session, SessionContext};

/// Connections closed in one second for not going on. Closing costs time that the others lack.
const CLOSED_PER_SECOND_MAX: u64 = 1_000;

/// What a core owns.
pub struct State {
    /// This core.
    pub here: Address,
    /// The engine.
    pub engine: Core,
    /// The core's log, as far as turns have to do with it.
    pub log: LogPort,
    /// What the engine wants done.
    pub outputs: Outputs,
    /// Requests for the next turn.
    pub batch: RequestBatch,
    /// Client connections.
    pub clients: Table<Client>,
    /// Connections that have output and are written at the end of the turn.
    pub dirty: Vec<ConnectionId>,
    /// Connections that wait until the siblings have caught up.
    pub congested: Vec<ConnectionId>,
    /// The buffer all connections receive into.
    pub scratch: Scratch,
    /// Channels to the siblings.
    pub mesh: MeshPort,
    /// Links to the other nodes.
    pub peers: Peers,
    /// What clients are told of the cluster.
    pub cluster: ClusterMap,
    /// What clients are told of the server.
    pub facts: ServerFacts,
    /// What clients are told of each other.
    pub directory: ClientDirectory,
    /// Output buffers of the sessions.
    pub buffers: BufferPool,
    /// What the sessions count.
    pub session_counters: SessionCounters,
    /// What the loop counts.
    pub counters: CoreCounters,
    /// Room for connections, shared with the other cores.
    pub seats: Seats,
    /// Totals of all cores.
    pub totals: Arc<NodeBoard>,
    /// What the control thread is told when this core leads nothing any more.
    pub drained: Vec<flume::Sender<()>>,
    /// Since when it has led nothing while somebody waited for that, in nanoseconds.
    pub led_nothing_since: Option<u64>,
    /// The clocks, as read at the last turn or at the first input after it.
    pub now: Now,
    /// When the turn that runs or comes next got its first input, in nanoseconds of the monotonic
    /// clock. `now` is as fresh as that.
    pub busy_since: Option<u64>,
    /// How long turns took.
    pub turn_times: TurnTimes,
}

/// What reading a client connection borrows.
pub struct Lent<'a> {
    /// What the session needs.
    pub context: SessionContext<'a>,
    /// The buffer to receive into.
    pub scratch: &'a mut Scratch,
    /// Counts bytes received.
    pub received_bytes: &'a mut u64,
    /// The monotonic clock in seconds.
    pub now_second: u64,
    /// Whether a sibling is so far behind that no more input is taken.
    pub is_congested: bool,
}

/// Where the cores of a node put their totals, and read those of all.
#[derive(Debug)]
pub struct NodeBoard(Mutex<Vec<NodeTotals>>);

impl NodeBoard {
    /// A board for so many cores.
    pub fn new(cores: u16) -> Self {
        NodeBoard(Mutex::new(vec![NodeTotals::default(); usize::from(cores)]))
    }

    /// Replaces what one core has put there, and returns the sum over all.
    pub fn publish(&self, core: usize, own: NodeTotals) -> NodeTotals {
        // Plain numbers stay usable whatever happened to who held the lock.
        let mut all = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(place) = all.get_mut(core) {
            *place = own;
        }
        all.iter().fold(NodeTotals::default(), |mut sum, core| {
            sum.connections += core.connections;
            sum.connections_accepted += core.connections_accepted;
            sum.connections_refused += core.connections_refused;
            sum.commands += core.commands;
            sum.commands_per_second += core.commands_per_second;
            sum.bytes_in += core.bytes_in;
            sum.bytes_out += core.bytes_out;
            sum.keys_led += core.keys_led;
            sum.keys += core.keys;
            sum.bytes += core.bytes;
            sum.limit_bytes += core.limit_bytes;
            sum.eviction = core.eviction.or(sum.eviction);
            sum.hits += core.hits;
            sum.misses += core.misses;
            sum.evicted += core.evicted;
            sum.expired += core.expired;
            sum.applied += core.applied;
            sum
        })
    }
}

impl State {
    /// Seconds of the monotonic clock.
    pub fn now_second(&self) -> u64 {
        self.now.monotonic.0 / 1_000_000_000
    }

    /// Reads the clocks.
    pub fn refresh_now(&mut self) {
        self.now = clock::now();
    }

    /// Begins to take input for a turn, and reads the clocks unless that has begun already: what
    /// has been gathered for one turn arrived at one time. Whoever calls it raises the turn
    /// behind, or calls [`end_busy`](Self::end_busy).
    pub fn begin_input(&mut self) {
        if self.busy_since.is_none() {
            self.refresh_now();
            self.busy_since = Some(self.now.monotonic.0);
        }
    }

    /// The core waits, or lets others run: what it has done since the first input is counted as
    /// one turn.
    pub fn end_busy(&mut self) {
        if let Some(since) = self.busy_since.take() {
            self.refresh_now();
            let spent = self.now.monotonic.0.saturating_sub(since);
            self.turn_times.record(spent);
            self.counters.turn_ns_max = self.counters.turn_ns_max.max(spent);
        }
    }

    /// Feeds one input to the engine.
    pub fn step(&mut self, input: Input<'_>) {
        self.engine.step(self.now, input, &mut self.outputs);
    }

    /// Takes a connection in that was just accepted.
    pub fn open_client(
        &mut self,
        stream: Rc<Stream>,
        port: PortKind,
        (peer, local): (SocketAddr, SocketAddr),
    ) -> Option<ConnectionId> {
        self.refresh_now();
        let (now, second) = (self.now, self.now_second());
        let directory = &mut self.directory;
        let id = self.clients.insert(|id| {
            let session = Session::new(id.0, port, peer, local, now, directory);
            Client::new(stream, session, second)
        })?;
        self.counters.connections_accepted += 1;
        Some(id)
    }

    /// Reads from a connection. Returns what its task waits for, and whether a turn is due.
    pub fn read_client(&mut self, id: ConnectionId) -> (Next, bool) {
        self.begin_input();
        let now_second = self.now_second();
        let Some(client) = self.clients.get_mut(id) else { return (Next::Close, false) };
        let mut lent = Lent {
            context: SessionContext {
                now: self.now,
                requests: &mut self.batch,
                cluster: &self.cluster,
                facts: &self.facts,
                clients: &mut self.directory,
                buffers: &mut self.buffers,
                counters: &mut self.session_counters,
            },
            scratch: &mut self.scratch,
            received_bytes: &mut self.counters.client_bytes_in,
            now_second,
            is_congested: self.mesh.is_congested(),
        };
        let next = client.read(&mut lent);
        if client.has_output() && !client.is_dirty {
            client.is_dirty = true;
            self.dirty.push(id);
        }
        if next == Next::Resumed && self.mesh.is_congested() {
            self.congested.push(id);
        }
        (next, !self.batch.is_empty() || !self.dirty.is_empty())
    }

    /// Takes a connection out that has ended.
    pub fn remove_client(&mut self, id: ConnectionId) {
        let second = self.now_second();
        let in_flight = self.clients.get_mut(id).map_or(0, |client| client.in_flight());
        if let Some(client) = self.clients.remove(id, in_flight, second) {
            client.close(&mut self.directory, &mut self.buffers);
            self.seats.leave();
        }
    }

    /// Writes every connection that has output, once. Returns those whose sockets have no room.
    pub fn flush_dirty(&mut self, blocked: &mut Vec<(ConnectionId, Rc<Stream>)>) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            let Some(client) = self.clients.get_mut(id) else { continue };
            client.is_dirty = false;
            let sent_bytes = &mut self.counters.client_bytes_out;
            if client.flush(&mut self.buffers, sent_bytes) == Flushed::NeedsRoom {
                blocked.push((id, client.stream()));
            }
            client.resume_if_due();
        }
        self.dirty = dirty;
    }

    /// Writes on to a connection whose socket had no room. Without room for too long it is given
    /// up.
    pub fn flush_client_rest(&mut self, id: ConnectionId, has_room: bool) -> Flushed {
        let Some(client) = self.clients.get_mut(id) else { return Flushed::Done };
        if !has_room {
            client.break_off();
            return Flushed::Done;
        }
        let flushed = client.flush_rest(&mut self.buffers, &mut self.counters.client_bytes_out);
        client.resume_if_due();
        flushed
    }

    /// Gives the engine's replies to their sessions.
    pub fn deliver_replies(&mut self) {
        let replies = &mut self.outputs.replies;
        for reply in &replies.headers {
            let id = ConnectionId(reply.token.connection);
            let Some(client) = self.clients.get_mut(id) else {
                self.clients.count_late_reply(id);
                continue;
            };
            client.reply(reply, replies.value(reply), &mut self.buffers);
            if !client.is_dirty {
                client.is_dirty = true;
                self.dirty.push(id);
            }
        }
        replies.clear();
        replies.bytes.shrink_to(KEPT_BYTES_MAX);
    }

    /// Wakes who waited for the siblings, once they have caught up.
    pub fn resume_congested(&mut self) {
        if self.congested.is_empty() || self.mesh.is_congested() {
            return;
        }
        for id in std::mem::take(&mut self.congested) {
            if let Some(client) = self.clients.get_mut(id) {
                client.resume_if_due();
            }
        }
    }

    /// Counts the requests of the batch by where they go.
    pub fn count_destinations(&mut self) {
        let placement: &Placement = &self.cluster.layout().placement;
        let cores = self.cluster.layout().cores;
        let leaders = self.engine.leaders();
        let (mut siblings, mut nodes) = (0, 0);
        for request in self.batch.requests() {
            let leader = leaders.get(usize::from(request.shard.0)).and_then(|view| view.leader);
            match leader {
                Some(node) if node != self.here.node => nodes += 1,
                _ if placement.core(request.shard, cores) != self.here.core => siblings += 1,
                _ => {}
            }
        }
        self.counters.commands_to_siblings += siblings;
        self.counters.commands_to_nodes += nodes;
    }

    /// The shards of the cluster.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.cluster.layout().placement.shards()).map(ShardId)
    }

    /// What the control thread wants to know.
    pub fn report(&mut self) -> CoreReport {
        let nodes = self.cluster.layout().placement.nodes();
        let cores_of = nodes.iter().map(|&node| (node, self.cluster.cores_of(node))).collect();
        let mut counters = self.counters;
        counters.connections = self.clients.len() as u64;
        counters.commands = self.session_counters.commands;
        counters.protocol_errors = self.session_counters.protocol_errors;
        counters.peer_links = self.peers.up_count() as u64;
        counters.reads = self.engine.read_counts();
        counters.care = self.engine.care_counts();
        counters.log = self.log.report();
        self.counters.turn_ns_max = 0;
        self.counters.lateness_ns_max = 0;
        CoreReport {
            core: self.here.core,
            shards: self.shards().filter_map(|shard| self.engine.status(shard)).collect(),
            leaders: self.engine.leaders().to_vec(),
            cores_of,
            counters,
            turn_times: self.turn_times.clone(),
        }
    }

    /// Whether there is nobody that could take leaderships over.
    pub fn is_alone(&self) -> bool {
        self.cluster.layout().placement.replication() == 1
    }

    /// Whether any replica of this core leads its shard.
    pub fn leads_anything(&self) -> bool {
        let leads = |view: &LeaderView| view.leader == Some(self.here.node);
        let mut led =
            self.engine.leaders().iter().zip(self.shards()).filter(|(view, _)| leads(view));
        led.any(|(_, shard)| {
            self.engine.status(shard).is_some_and(|status| status.role == Role::Leader)
        })
    }

    /// Takes an order of the operator.
    pub fn administer(&mut self, command: AdminCommand) {
        self.begin_input();
        self.step(Input::Admin(command));
    }

    /// Notes how many cores another node has.
    pub fn note_cores(&mut self, node: NodeId, cores: u16) -> Vec<Address> {
        self.cluster.set_cores(node, cores);
        self.peers.note_cores(node, cores)
    }

    /// Once a second: looks after connections and totals.
    pub fn look_after(&mut self, last: &mut NodeTotals) {
        let second = self.now_second();
        let mut closed = 0_u64;
        for (_, client) in self.clients.iter_mut() {
            closed += u64::from(client.check_progress(second));
            if closed == CLOSED_PER_SECOND_MAX {
                break;
            }
        }
        self.session_counters.protocol_errors += closed;
        let overdue = self.clients.release_overdue(second);
        if overdue > 0 {
            tracing::error!(overdue, "the engine left requests of closed connections unanswered");
        }
        self.cluster.set_leaders(self.engine.leaders());
        let own = self.own_totals(last);
        *last = own;
        let resident = self.facts.totals;
        self.facts.totals = self.totals.publish(usize::from(self.here.core.0), own);
        self.facts.totals.resident_bytes = resident.resident_bytes;
    }

    fn own_totals(&self, last: &NodeTotals) -> NodeTotals {
        let commands = self.session_counters.commands;
        let mut own = NodeTotals {
            connections: self.clients.len() as u64,
            connections_accepted: self.counters.connections_accepted,
            connections_refused: self.counters.connections_refused,
            commands,
            commands_per_second: commands.saturating_sub(last.commands),
            bytes_in: self.counters.client_bytes_in,
            bytes_out: self.counters.client_bytes_out,
            ..NodeTotals::default()
        };
        for status in self.shards().filter_map(|shard| self.engine.status(shard)) {
            own.keys += status.keys;
            own.keys_led += if status.role == Role::Leader { status.keys } else { 0 };
            own.bytes += status.bytes;
            own.limit_bytes += status.bytes_max;
            own.eviction = Some(status.eviction);
            own.hits += status.hits;
            own.misses += status.misses;
            own.evicted += status.evicted;
            own.expired += status.expired;
            own.applied += status.applied.0;
        }
        own
    }
}
