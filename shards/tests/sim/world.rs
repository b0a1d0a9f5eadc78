//! The simulated cluster: cores driven through the contract by one queue of events.
//!
//! Nothing happens but by taking the next event of the queue: the time of the world jumps to it.
//! A core gathers what arrives and then runs a turn, as the real driver does. Faults live in
//! `faults.rs`, clients in `workload.rs`; what must hold is checked by `checkers.rs` after each
//! turn. The first violation ends the run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shards::command::RequestBatch;
use shards::contract::{AdminCommand, DiskError, DiskOperation, Input, Lane, Now, Outputs};
use shards::engine::Core;
use shards::ids::{Address, CoreIndex, Millis, Nanos, NodeId};
use shards::placement::Placement;
use shards::reply::Class;
use xxhash_rust::xxh3::Xxh3;

use crate::checkers::Checkers;
use crate::disk::{Disk, Write};
use crate::faults::Fault;
use crate::network::{Ends, Flight, Link, Network};
use crate::options::{MICRO, MILLI, Options, SECOND};
use crate::random::Random;
use crate::workload::Workload;

/// The wall clock at the start of the simulated time, in milliseconds.
const WALL_START_MS: u64 = 1_800_000_000_000;
/// Time a turn takes: two turns of a core are at least so far apart.
const TURN_NS: u64 = 10 * MICRO;
/// A frame of so many bytes is sent before its turn ends, and another may follow it.
const LARGE_FRAME_BYTES: usize = 64 << 10;
/// Raft's tick.
pub const TICK_NS: u64 = 50 * MILLI;

/// Something that arrived at a core and waits for its next turn.
#[derive(Debug)]
pub enum Mail {
    /// A frame.
    Frame(Address, Vec<u8>),
    /// See [`Input::LinkUp`].
    LinkUp(Address, u16),
    /// See [`Input::LinkDown`].
    LinkDown(Address),
    /// The end of a disk operation.
    Disk(u64, Result<(), DiskError>),
    /// Requests of a client.
    Requests(RequestBatch),
    /// An operator's wish.
    Admin(AdminCommand),
}

/// What happens next.
#[derive(Debug)]
pub enum Event {
    /// A core's turn ends.
    Turn(Address, u64),
    /// A frame arrives.
    Arrival(Flight),
    /// A disk operation ends.
    Disk(Address, u64, u64),
    /// A link blocked for this long is given up, if it is still the same connection.
    GiveUp(Ends, u64),
    /// The sender notices that its link is gone.
    NoticeLoss(Ends),
    /// The sender tries to connect.
    Connect(Ends),
    /// A client thinks of something to ask.
    Client(usize),
    /// A request should have been answered by now.
    Alarm(usize, u32),
    /// A fault strikes.
    Fault(Fault),
    /// A partition ends.
    Unblock(Vec<(NodeId, NodeId)>),
    /// A node that has handed everything over stops.
    Restart(NodeId),
    /// A node starts.
    Boot(NodeId),
    /// A process whose log failed in this life ends.
    End(NodeId, u64),
}

/// A core with what waits for it.
#[derive(Debug)]
pub struct Seat {
    /// The engine.
    pub core: Core,
    outputs: Outputs,
    inbox: VecDeque<Mail>,
    turn_at: u64,
    /// It does nothing before this time.
    pub frozen_until: u64,
    /// How long it has been kept from doing anything, in all.
    pub frozen_ns: u64,
    /// Its disk answers nothing before this time.
    pub disk_stalled_until: u64,
    /// Its next disk operation fails.
    pub disk_fails: bool,
    /// What it is told behind everything else of its next turn.
    pub last_order: Option<AdminCommand>,
    seen_lives: BTreeMap<NodeId, u64>,
}

/// A node.
#[derive(Debug)]
pub struct Process {
    /// Which of its lives it lives, or lived last.
    pub life: u64,
    /// Number of its cores.
    pub cores: u16,
    /// Its cores while it lives.
    pub seats: Vec<Seat>,
    /// Its wall clock against that of the world, in milliseconds.
    pub wall_offset_ms: i64,
    /// Its monotonic clock against that of the world at the start, in nanoseconds.
    pub monotonic_offset: u64,
    /// How much faster its monotonic clock runs than that of the world, in millionths.
    pub drift_ppm: i64,
    /// What outlives it.
    pub disk: Disk,
    /// Whether its disk was damaged since it last started.
    pub is_damaged: bool,
}

impl Process {
    fn monotonic(&self, now: u64) -> u64 {
        let ahead = i128::from(now) * i128::from(self.drift_ppm) / 1_000_000;
        self.monotonic_offset + now.saturating_add_signed(ahead as i64)
    }

    /// When its monotonic clock says `monotonic`, or shortly after.
    fn time_of(&self, monotonic: u64) -> u64 {
        let since_start = monotonic.saturating_sub(self.monotonic_offset);
        let rate = 1_000_000_i128 + i128::from(self.drift_ppm);
        (i128::from(since_start) * 1_000_000 / rate + 1) as u64
    }
}

/// What a node that stops loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// What is not on its disk.
    Memory,
    /// Its disk as well.
    Everything,
    /// Its memory, and its disk is damaged.
    Damage,
}

/// Everything.
pub struct World {
    /// What the seed plays.
    pub options: Options,
    /// The time since the start, in nanoseconds.
    pub now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    events: u64,
    /// By position in the placement.
    pub processes: Vec<Process>,
    /// Who has which shard.
    pub placement: Placement,
    /// Links.
    pub network: Network,
    /// Clients.
    pub workload: Workload,
    /// What must hold.
    pub checkers: Checkers,
    /// What strikes is drawn from here.
    pub chaos: Random,
    timing: Random,
    seeds: Random,
    /// What becomes of bytes is drawn from here.
    pub wear: Random,
    trace: Xxh3,
    /// Whether faults still strike.
    pub is_troubled: bool,
    /// Nodes that were asked to stop and have not restarted yet.
    pub draining: BTreeSet<NodeId>,
    is_verbose: bool,
    /// Turns run so far.
    pub turns: u64,
    /// What disks went through.
    pub tally: Tally,
}

/// What disks went through.
#[derive(Debug, Default)]
pub struct Tally {
    /// Times all nodes stopped at once.
    pub power_losses: u64,
    /// Starts of a node from what its disk held.
    pub recoveries: u64,
    /// Damages done.
    pub damages: u64,
    /// Logs that were found damaged.
    pub logs_set_aside: u64,
    /// Disks that failed.
    pub failed_disks: u64,
    /// Moves to another number of cores.
    pub moves: u64,
    /// Nodes that died while they moved.
    pub deaths_in_moves: u64,
    /// Segments that were released.
    pub released_segments: u64,
}

impl World {
    /// A cluster whose nodes start at time zero. With `is_verbose` it tells what happens.
    pub fn new(options: Options, is_verbose: bool) -> Self {
        let nodes = (1..=options.nodes()).map(NodeId).collect();
        let placement = Placement::with_replicas(nodes, options.shards, options.replicas)
            .expect("a possible layout");
        let mut clocks = Random::stream(options.seed, "clocks");
        let processes = (0..usize::from(options.nodes()))
            .map(|position| Process {
                life: 0,
                cores: options.cores[position],
                seats: Vec::new(),
                wall_offset_ms: clocks.between(0, 2 * options.wall_skew_ms) as i64
                    - options.wall_skew_ms as i64,
                monotonic_offset: clocks.between(0, 1_000) * SECOND,
                drift_ppm: clocks.between(0, 2 * options.drift_max_ppm) as i64
                    - options.drift_max_ppm as i64,
                disk: Disk::default(),
                is_damaged: false,
            })
            .collect();
        let mut world = World {
            now: 0,
            queue: BTreeMap::new(),
            events: 0,
            processes,
            network: Network::new(&options),
            workload: Workload::new(&options),
            checkers: Checkers::new(),
            chaos: Random::stream(options.seed, "faults"),
            timing: Random::stream(options.seed, "timing"),
            seeds: Random::stream(options.seed, "engine seeds"),
            wear: Random::stream(options.seed, "disks"),
            trace: Xxh3::new(),
            is_troubled: true,
            draining: BTreeSet::new(),
            is_verbose,
            turns: 0,
            tally: Tally::default(),
            placement,
            options,
        };
        for node in world.placement.nodes().to_vec() {
            let at = world.timing.below(100 * MILLI);
            world.schedule(at, Event::Boot(node));
        }
        world.start_faults();
        world.start_clients();
        world
    }

    /// Puts an event into the queue.
    pub fn schedule(&mut self, at: u64, event: Event) {
        self.events += 1;
        self.queue.insert((at.max(self.now), self.events), event);
    }

    /// Lets time pass until `until`, or up to the first violation.
    pub fn run_until(&mut self, until: u64) -> Result<(), String> {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > until {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.happen(event);
            self.checkers.verdict()?;
        }
        self.now = until;
        Ok(())
    }

    fn happen(&mut self, event: Event) {
        if let Event::GiveUp(ends, _) | Event::NoticeLoss(ends) | Event::Connect(ends) = &event {
            let (from, to) = ends;
            self.tell(|| format!("link {from} to {to}: {event:?}"));
        }
        match event {
            Event::Turn(at, life) => self.turn(at, life),
            Event::Arrival(flight) => self.arrive(flight),
            Event::Disk(at, life, id) => self.end_write(at, life, id),
            Event::GiveUp(ends, connection) => self.give_up(ends, connection),
            Event::NoticeLoss(ends) => self.notice_loss(ends),
            Event::Connect(ends) => self.connect(ends),
            Event::Client(client) => self.wake_client(client),
            Event::Alarm(client, sequence) => self.alarm(client, sequence),
            Event::Fault(fault) => self.strike(fault),
            Event::Unblock(pairs) => self.unblock(&pairs),
            Event::Restart(node) => self.restart(node),
            Event::Boot(node) => self.boot(node),
            Event::End(node, life) => self.end(node, life),
        }
    }

    /// Tells what happens to whoever replays a seed.
    pub fn tell(&self, text: impl FnOnce() -> String) {
        if self.is_verbose {
            println!("{:>12.6} {}", self.now as f64 / SECOND as f64, text());
        }
    }

    /// The hash of all outputs of all cores so far.
    pub fn trace(&self) -> u64 {
        self.trace.digest()
    }

    /// The node at its position.
    pub fn process(&self, node: NodeId) -> &Process {
        &self.processes[usize::from(node.0) - 1]
    }

    /// See [`process`](Self::process).
    pub fn process_mut(&mut self, node: NodeId) -> &mut Process {
        &mut self.processes[usize::from(node.0) - 1]
    }

    /// What a wall clock says that is not off, in milliseconds.
    pub fn wall_ms(&self) -> u64 {
        WALL_START_MS + self.now / MILLI
    }

    /// The core at `at`, while its node lives.
    pub fn seat(&self, at: Address) -> Option<&Seat> {
        self.process(at.node).seats.get(usize::from(at.core.0))
    }

    /// See [`seat`](Self::seat).
    pub fn seat_mut(&mut self, at: Address) -> Option<&mut Seat> {
        self.process_mut(at.node).seats.get_mut(usize::from(at.core.0))
    }

    /// The addresses of all living cores.
    pub fn living(&self) -> Vec<Address> {
        let nodes = self.placement.nodes().iter();
        nodes
            .flat_map(|&node| {
                (0..self.process(node).seats.len() as u16)
                    .map(move |core| Address { node, core: CoreIndex(core) })
            })
            .collect()
    }

    /// The clocks as `node` reads them.
    pub fn clocks(&self, node: NodeId) -> Now {
        let process = self.process(node);
        let wall = self.wall_ms();
        Now {
            monotonic: Nanos(process.monotonic(self.now)),
            wall: Millis(wall.saturating_add_signed(process.wall_offset_ms)),
        }
    }

    /// Puts something into a core's inbox; nothing if that life is over.
    pub fn mail(&mut self, to: Address, life: Option<u64>, mail: Mail) {
        let (now, gather_max) = (self.now, self.options.gather_max);
        if life.is_some_and(|life| self.process(to.node).life != life) {
            return;
        }
        let at = now + 1 + self.timing.below(gather_max);
        if let Some(seat) = self.seat_mut(to) {
            seat.inbox.push_back(mail);
            self.schedule_turn(to, at);
        }
    }

    fn schedule_turn(&mut self, at: Address, time: u64) {
        let life = self.process(at.node).life;
        let Some(seat) = self.seat_mut(at) else { return };
        let time = time.max(seat.frozen_until);
        if time < seat.turn_at {
            seat.turn_at = time;
            self.schedule(time, Event::Turn(at, life));
        }
    }

    fn turn(&mut self, at: Address, life: u64) {
        let (now, clocks) = (self.now, self.clocks(at.node));
        if self.process(at.node).life != life {
            return;
        }
        let Some(seat) = self.seat_mut(at) else { return };
        if seat.turn_at != now {
            return;
        }
        seat.turn_at = u64::MAX;
        if seat.frozen_until > now {
            let until = seat.frozen_until;
            self.schedule_turn(at, until);
            return;
        }
        let Seat { core, outputs, inbox, last_order, .. } = seat;
        let mut is_told = false;
        while let Some(mail) = inbox.pop_front() {
            let input = match &mail {
                Mail::Frame(from, bytes) => Input::Frame { from: *from, bytes },
                Mail::LinkUp(to, cores) => Input::LinkUp { to: *to, cores: *cores },
                Mail::LinkDown(to) => Input::LinkDown { to: *to },
                Mail::Disk(id, result) => Input::Disk { id: *id, result: result.clone() },
                Mail::Requests(batch) => Input::Requests(batch),
                Mail::Admin(command) => Input::Admin(*command),
            };
            is_told |= matches!(mail, Mail::Disk(_, Err(_)));
            core.step(clocks, input, outputs);
            if let Mail::Frame(_, bytes) = mail {
                outputs.recycle(bytes);
            }
        }
        if let Some(order) = last_order.take() {
            core.step(clocks, Input::Admin(order), outputs);
        }
        core.step(clocks, Input::EndOfTurn, outputs);
        let mut outputs = std::mem::take(outputs);
        self.turns += 1;
        // It may tell its own clients that nothing more is done; but nobody that something was.
        let is_done = |reply: &shards::reply::Reply| reply.status.class() == Class::Done;
        let says_something =
            !outputs.frames.is_empty() || outputs.replies.headers.iter().any(is_done);
        if says_something && self.checkers.silent.contains(&at) {
            self.checkers.violation(format!("{at} goes on without a log"));
        }
        if is_told {
            self.checkers.silent.insert(at);
        }
        self.drain(at, life, &mut outputs);
        let wanted = self.process(at.node).time_of(outputs.next_deadline.0);
        if let Some(seat) = self.seat_mut(at) {
            seat.outputs = outputs;
        }
        self.schedule_turn(at, wanted.max(now + TURN_NS));
        self.observe_replicas(at);
    }

    /// Carries out what a core wants, and takes note of it for the trace.
    fn drain(&mut self, at: Address, life: u64, outputs: &mut Outputs) {
        self.trace.update(&self.now.to_le_bytes());
        self.trace.update(&[at.node.0 as u8, at.core.0 as u8]);
        for event in outputs.events.drain(..) {
            self.trace.update(format!("{event:?}").as_bytes());
            self.tell(|| format!("{at} {event:?}"));
            let seats = &self.processes[usize::from(at.node.0) - 1].seats;
            let core = seats.get(usize::from(at.core.0)).map(|seat| &seat.core);
            self.checkers.event(at, life, &event, core);
        }
        for reply in &outputs.replies.headers {
            self.trace.update(format!("{reply:?}").as_bytes());
            let value = outputs.replies.value(reply).map(<[u8]>::to_vec);
            self.trace.update(value.as_deref().unwrap_or_default());
            self.take_reply(at, reply, value);
        }
        outputs.replies.clear();
        for operation in outputs.disk.drain(..) {
            self.carry_out(at, life, operation);
        }
        let mut sent: Vec<(Address, Lane, usize)> = Vec::new();
        for frame in outputs.frames.drain(..) {
            self.trace.update(&[frame.to.node.0 as u8, frame.to.core.0 as u8]);
            self.trace.update(&frame.bytes);
            let length = frame.bytes.len();
            // A long message ends the frame before it, and may end its own.
            let is_small = |length| length < LARGE_FRAME_BYTES;
            let last = sent.iter().rfind(|&&(to, lane, _)| (to, lane) == (frame.to, frame.lane));
            if last.is_some_and(|&(_, _, last)| is_small(last) && is_small(length)) {
                self.checkers.violation(format!("{at} sent two frames to {} in a turn", frame.to));
            }
            sent.push((frame.to, frame.lane, length));
            let flight = Flight {
                ends: (at, frame.to),
                connection: None,
                sender_life: life,
                receiver_life: self.process(frame.to.node).life,
                bytes: frame.bytes,
            };
            for (at, flight) in self.network.send(self.now, frame.lane, flight) {
                self.schedule(at, Event::Arrival(flight));
            }
        }
    }

    fn carry_out(&mut self, at: Address, life: u64, operation: DiskOperation) {
        let Some(log) = self.processes[usize::from(at.node.0) - 1].disk.log(at.core) else {
            self.checkers.violation(format!("{at} writes, and has no disk"));
            return;
        };
        match operation {
            DiskOperation::Write { id, segment, segment_bytes, offset, bytes } => {
                for word in [id, segment, segment_bytes, offset] {
                    self.trace.update(&word.to_le_bytes());
                }
                self.trace.update(&bytes);
                log.begin(Write { id, segment, segment_bytes, offset, bytes });
                let takes = self.timing.below(self.options.disk.write_max + 1);
                self.schedule(self.now + takes, Event::Disk(at, life, id));
            }
            DiskOperation::Release { before } => {
                self.trace.update(&before.to_le_bytes());
                self.tally.released_segments += log.release(before, &mut self.wear);
            }
        }
    }

    /// A write is durable, or has failed; unless the disk is stalled, or that life is over.
    fn end_write(&mut self, at: Address, life: u64, id: u64) {
        let now = self.now;
        if self.process(at.node).life != life {
            return;
        }
        let Some(seat) = self.seat_mut(at) else { return };
        if seat.disk_stalled_until > now {
            let until = seat.disk_stalled_until;
            self.schedule(until, Event::Disk(at, life, id));
            return;
        }
        let fails = std::mem::take(&mut seat.disk_fails);
        let Some(log) = self.processes[usize::from(at.node.0) - 1].disk.log(at.core) else {
            return;
        };
        if !log.is_writing(id) {
            return;
        }
        if fails {
            log.fail(&mut self.wear);
            self.tell(|| format!("{at} cannot write its log any more"));
            self.checkers.failed_disks.insert(at);
            self.tally.failed_disks += 1;
            if let Some(most) = self.options.disk.outlives_failure {
                let ends_at = now + self.chaos.below(most) + 1;
                self.schedule(ends_at, Event::End(at.node, life));
            }
        } else {
            log.complete();
        }
        let result = if fails { Err(DiskError("input/output error".into())) } else { Ok(()) };
        self.mail(at, Some(life), Mail::Disk(id, result));
    }

    fn arrive(&mut self, flight: Flight) {
        let (from, to) = flight.ends;
        let Some(link) = self.network.links.get(&flight.ends) else { return };
        let is_stale = flight.connection.is_some_and(|connection| connection != link.connection)
            || self.process(to.node).life != flight.receiver_life;
        if is_stale {
            return;
        }
        let holds = !link.held.is_empty() || self.network.is_blocked(from.node, to.node);
        if holds {
            if flight.connection.is_some()
                && let Some(link) = self.network.links.get_mut(&flight.ends)
            {
                link.held.push_back(flight);
            }
            return;
        }
        self.hand_over(flight);
    }

    /// Takes what is held up on the links to a core.
    pub fn take_held(&mut self, to: Address) -> Vec<Flight> {
        let links = self.network.links.iter_mut().filter(|(ends, _)| ends.1 == to);
        links.flat_map(|(_, link)| link.held.drain(..)).collect()
    }

    /// Hands a frame to its receiver.
    pub fn hand_over(&mut self, flight: Flight) {
        let (from, to) = flight.ends;
        let Some(seat) = self.seat_mut(to) else { return };
        let seen = seat.seen_lives.entry(from.node).or_insert(0);
        if *seen > flight.sender_life {
            return;
        }
        *seen = flight.sender_life;
        self.mail(to, Some(flight.receiver_life), Mail::Frame(from, flight.bytes));
    }

    /// Ends partitions: what was held arrives.
    pub fn unblock(&mut self, pairs: &[(NodeId, NodeId)]) {
        for &(from, to) in pairs {
            self.network.unblock(from, to);
        }
        self.release();
    }

    /// Hands over what links hold that are not blocked any more.
    pub fn release(&mut self) {
        let ends: Vec<_> = self.network.links.keys().copied().collect();
        for ends in ends {
            if self.network.is_blocked(ends.0.node, ends.1.node) {
                continue;
            }
            let Some(link) = self.network.links.get_mut(&ends) else { continue };
            for flight in std::mem::take(&mut link.held) {
                self.hand_over(flight);
            }
        }
    }

    fn give_up(&mut self, ends: Ends, connection: u64) {
        let is_blocked = self.network.is_blocked(ends.0.node, ends.1.node);
        let Some(link) = self.network.links.get_mut(&ends) else { return };
        if is_blocked && link.is_up && link.connection == connection {
            link.is_up = false;
            link.connection += 1;
            link.held.clear();
            self.notice_loss(ends);
        }
    }

    /// Breaks a link. What is under way may still arrive, until it is connected again.
    pub fn cut(&mut self, ends: Ends, all_is_lost: bool, noticed_after: u64) {
        let now = self.now;
        let Some(link) = self.network.links.get_mut(&ends) else { return };
        if !link.is_up {
            return;
        }
        link.is_up = false;
        if all_is_lost {
            link.connection += 1;
            link.held.clear();
        }
        self.schedule(now + noticed_after, Event::NoticeLoss(ends));
    }

    /// The sender of a link that is down notices it, and tries to connect again.
    pub fn notice_loss(&mut self, ends: Ends) {
        let Some(link) = self.network.links.get_mut(&ends) else { return };
        if link.is_up {
            return;
        }
        if link.told_up {
            link.told_up = false;
            self.mail(ends.0, None, Mail::LinkDown(ends.1));
        }
        self.connect_after(ends, 100 * MILLI);
    }

    /// Tries to connect within `most`, unless that is under way.
    pub fn connect_after(&mut self, ends: Ends, most: u64) {
        let at = self.now + 1 + self.timing.below(most);
        let Some(link) = self.network.links.get_mut(&ends) else { return };
        if !link.connects {
            link.connects = true;
            self.schedule(at, Event::Connect(ends));
        }
    }

    fn connect(&mut self, ends: Ends) {
        let (from, to) = ends;
        let can_connect = !self.network.is_blocked(from.node, to.node)
            && !self.network.is_blocked(to.node, from.node);
        let (sender_lives, receiver) = (self.seat(from).is_some(), self.process(to.node));
        let (cores, receiver_lives) = (receiver.cores, self.seat(to).is_some());
        let Some(link) = self.network.links.get_mut(&ends) else { return };
        link.connects = false;
        if link.is_up || !sender_lives {
            return;
        }
        if !can_connect || !receiver_lives {
            self.connect_after(ends, 200 * MILLI);
            return;
        }
        let told_up = link.told_up;
        *link =
            Link { is_up: true, told_up: true, connection: link.connection + 1, ..Link::default() };
        if told_up {
            self.mail(from, None, Mail::LinkDown(to));
        }
        self.mail(from, None, Mail::LinkUp(to, cores));
    }

    /// The seed of a node's next life.
    pub fn draw_seed(&mut self) -> u64 {
        self.seeds.next()
    }

    /// A node's next life begins with these engines.
    pub fn seat_cores(&mut self, node: NodeId, cores: Vec<Core>) {
        let now = self.now;
        self.checkers.boot(node);
        let process = &mut self.processes[usize::from(node.0) - 1];
        process.life += 1;
        process.is_damaged = false;
        process.seats = cores
            .into_iter()
            .map(|core| Seat {
                core,
                outputs: Outputs::default(),
                inbox: VecDeque::new(),
                turn_at: u64::MAX,
                frozen_until: 0,
                frozen_ns: 0,
                disk_stalled_until: 0,
                disk_fails: false,
                last_order: None,
                seen_lives: BTreeMap::new(),
            })
            .collect();
        let cores = process.seats.len() as u16;
        self.tell(|| format!("node {node} starts with {cores} cores"));
        for core in (0..cores).map(CoreIndex) {
            self.schedule_turn(Address { node, core }, now + 1);
        }
        self.lay_links(node);
    }

    /// Makes the links from and to the cores that `node` has now.
    fn lay_links(&mut self, node: NodeId) {
        let cores = self.process(node).cores;
        let gone = |at: Address| at.node == node && at.core.0 >= cores;
        let obsolete: Vec<_> = self
            .network
            .links
            .keys()
            .copied()
            .filter(|ends| gone(ends.0) || gone(ends.1))
            .collect();
        for ends in obsolete {
            if let Some(link) = self.network.links.remove(&ends)
                && link.told_up
            {
                self.mail(ends.0, None, Mail::LinkDown(ends.1));
            }
        }
        for here in (0..cores).map(|core| Address { node, core: CoreIndex(core) }) {
            for other in self.placement.nodes().to_vec() {
                for core in (0..self.process(other).cores).map(CoreIndex) {
                    let there = Address { node: other, core };
                    if here == there {
                        continue;
                    }
                    for ends in [(here, there), (there, here)] {
                        let is_local = node == other;
                        self.network
                            .links
                            .entry(ends)
                            .or_insert_with(|| Link { is_up: is_local, ..Link::default() });
                        if !is_local {
                            self.connect_after(ends, 50 * MILLI);
                        }
                    }
                }
            }
        }
    }

    /// Stops a node at once. Frames it has sent may still arrive.
    pub fn crash(&mut self, node: NodeId, loss: Loss) {
        if self.process(node).seats.is_empty() {
            return;
        }
        self.tell(|| format!("node {node} crashes and loses {loss:?}"));
        let process = &mut self.processes[usize::from(node.0) - 1];
        process.seats.clear();
        process.disk.crash(&mut self.wear);
        match loss {
            Loss::Memory => {}
            Loss::Everything => process.disk = Disk::default(),
            Loss::Damage => {
                let damage = process.disk.damage(&mut self.wear);
                process.is_damaged |= damage.is_some();
                self.tally.damages += u64::from(damage.is_some());
                self.tell(|| format!("disk of {node}: {damage:?}"));
            }
        }
        self.draining.remove(&node);
        let ends: Vec<_> = self.network.links.keys().copied().collect();
        for ends in ends {
            let (from, to) = (ends.0.node == node, ends.1.node == node);
            if from && to {
                continue;
            }
            if from {
                let all_is_lost = self.chaos.chance(500);
                if let Some(link) = self.network.links.get_mut(&ends) {
                    link.is_up = false;
                    link.told_up = false;
                    link.connection += u64::from(all_is_lost);
                }
            } else if to {
                let is_silent = self.chaos.chance(200);
                let most = if is_silent { 2 * SECOND } else { 20 * MILLI };
                let noticed_after = self.chaos.below(most);
                self.cut(ends, true, noticed_after);
            }
        }
        self.lose_clients(node);
    }

    /// Keeps a core from doing anything for a while.
    pub fn freeze(&mut self, at: Address, lasts: u64) {
        let now = self.now;
        if let Some(seat) = self.seat_mut(at) {
            let until = seat.frozen_until.max(now + lasts);
            seat.frozen_ns += until - seat.frozen_until.max(now);
            seat.frozen_until = until;
        }
    }

    /// A process whose log has failed ends, and comes back.
    fn end(&mut self, node: NodeId, life: u64) {
        if self.process(node).life == life {
            self.crash(node, Loss::Memory);
            let at = self.now + 1 + self.chaos.around(self.options.faults.crash_lasts);
            self.schedule(at, Event::Boot(node));
        }
    }

    /// Ends all stalls of disks.
    pub fn release_disks(&mut self) {
        let now = self.now;
        for at in self.living() {
            let life = self.process(at.node).life;
            let Some(seat) = self.seat_mut(at) else { continue };
            seat.disk_fails = false;
            if seat.disk_stalled_until > now {
                seat.disk_stalled_until = now;
                let log = self.processes[usize::from(at.node.0) - 1].disk.log(at.core);
                if let Some(id) = log.and_then(|log| log.write_under_way()) {
                    self.schedule(now + 1, Event::Disk(at, life, id));
                }
            }
        }
    }

    /// Ends all freezes.
    pub fn thaw(&mut self) {
        let now = self.now;
        for at in self.living() {
            if let Some(seat) = self.seat_mut(at) {
                if seat.frozen_until > now {
                    seat.frozen_ns -= seat.frozen_until - now;
                }
                seat.frozen_until = now.min(seat.frozen_until);
                seat.turn_at = u64::MAX;
            }
            self.schedule_turn(at, now + 1);
        }
    }

    fn observe_replicas(&mut self, at: Address) {
        let Some(seat) =
            self.processes[usize::from(at.node.0) - 1].seats.get(usize::from(at.core.0))
        else {
            return;
        };
        self.checkers.observe(at, &seat.core, self.placement.shards());
        self.checkers.weigh(at, seat.core.held());
    }
}
