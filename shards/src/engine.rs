//! The engine of one core: its replicas, the routing of its requests, its part in the cluster.
//!
//! [`Core::step`] takes one input and appends to the outputs. Requests and frames are only sorted
//! in when they arrive; the work of a turn happens at [`Input::EndOfTurn`]: ticks that are due, one
//! pass over the replicas that have something to do, then one disk operation and one frame per
//! destination. What must not be added here: clocks, allocation per request, anything that visits
//! every shard in every turn (ticks do, turns do not).
//!
//! A tick is due one full tick after the last one was *delivered*: after a pause the engine ticks
//! once, never in a burst, so that a stalled process does not depose anybody on waking up.

mod care;
mod checkpoint;
mod courier;
mod follower_reads;
mod formation;
pub mod frames;
mod held;
mod homes;
mod journal;
mod lease;
mod outbox;
mod poison;
mod raft_messages;
mod random;
mod read_from;
mod reads;
mod recover;
mod replica;
mod router;
mod siblings;
mod status;
mod transfers;
mod work;

pub use self::held::Held;

use self::care::Scrubber;
use self::courier::{Courier, Refusals};
use self::frames::{Items, Message, Messages, RepliesHeader, ReplyItem, RequestsHeader};
use self::homes::{Home, Member, send_formation};
use self::journal::{Journal, Waiting};
use self::outbox::Outbox;
use self::random::SplitMix;
use self::replica::{Persisting, Replica};
use self::router::{Parked, Router};
use self::siblings::SiblingReads;
use self::transfers::{Ended, Transfers};
use self::work::Work;
use crate::command::{ReadFrom, RequestBatch};
use crate::contract::{
    AdminCommand, CareCounts, CoreConfig, DiskError, Event, Input, Lane, LeaderView, Now, Outputs,
    ReadCounts,
};
use crate::defect::{self, Defect};
use crate::ids::{Address, Nanos, NodeId, ShardId};
use crate::reply::{Reply, Status, Token};
use crate::store::SnapshotProgress;
use crate::wal::Recovered;

/// Ticks between two announcements of a core's leaderships to nodes without a replica (1 s).
const ANNOUNCE_TICKS: u32 = 20;
/// Ticks for which a node that said it was about to stop gets no leaderships (10 s). Stopping takes
/// less; if it has not stopped by then, it hands over what it gets.
const DRAINING_TICKS_MAX: u32 = 200;
/// Ticks for which a newcomer asks to be taken in without hearing of the shard (2 s).
const FORSAKEN_TICKS: u32 = 40;

/// Who waits for the outcome of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// A connection of this core.
    Local(Token),
    /// A batch of another core.
    Remote {
        /// Its core.
        to: Address,
        /// The batch.
        batch: u64,
        /// The command's place in the batch.
        ordinal: u32,
    },
}

/// A command with all that goes with it.
#[derive(Clone, Copy, Debug)]
struct Parcel<'a> {
    origin: Origin,
    /// See [`crate::command::Request::ordered`].
    ordered: bool,
    is_read: bool,
    command: &'a [u8],
    deadline: Nanos,
}

/// All replicas that live on one core, and the routing of that core's requests.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    own: Address,
    homes: Vec<Option<Home>>,
    leaders: Vec<LeaderView>,
    router: Router,
    outbox: Outbox,
    transfers: Transfers,
    refusals: Refusals,
    siblings: SiblingReads,
    counts: ReadCounts,
    care: CareCounts,
    scrubber: Scrubber,
    reads_asked: u64,
    /// Shards that the operator wants to go on from the replica here.
    recoveries: Vec<ShardId>,
    dirty: Vec<ShardId>,
    /// Never used. raft-rs makes two vectors of entries of this size per proposal, and little else
    /// has their size: where none is left, the allocator gives its page back, and takes another
    /// for the next, which costs more than all that raft-rs does.
    _page_keeper: Vec<raft::eraftpb::Entry>,
    /// Empty: memory for the shards that a turn looks at.
    shards_of_turn: Vec<ShardId>,
    work: Work,
    /// Shards whose next entry waits for the end of the write that is under way.
    held: Vec<ShardId>,
    journal: Journal,
    poisoned: Option<DiskError>,
    next_tick: Option<Nanos>,
    /// The monotonic clock of the last step.
    clock: Nanos,
    ticks: u32,
    returned: Vec<(ShardId, Parked)>,
    verdicts: Vec<router::Verdict>,
    /// Nodes that are about to stop, this one included.
    draining: Vec<NodeId>,
    /// The tick at which each of the others was last said to be.
    draining_since: Vec<(NodeId, u32)>,
    /// Where incarnations come from.
    random: SplitMix,
}

impl Core {
    /// An engine without memory of an earlier life.
    pub fn new(config: CoreConfig) -> Self {
        Self::start(config, &Recovered::default())
    }

    /// An engine that goes on with what its log holds: each replica under its own Raft id. Shards
    /// that the log does not know start empty.
    pub fn resume(config: CoreConfig, now: Now, mut recovered: Recovered) -> Self {
        let replicas = std::mem::take(&mut recovered.replicas);
        let mut core = Self::start(config, &recovered);
        for (shard, replica) in replicas {
            if let Some(Some(home)) = core.homes.get_mut(usize::from(shard.0)) {
                home.resume(&core.config, now, shard, replica);
                core.mark_dirty(shard);
            }
        }
        core
    }

    fn start(config: CoreConfig, recovered: &Recovered) -> Self {
        let shards = config.placement.shards();
        let own = Address { node: config.node, core: config.core };
        let mut random = SplitMix(config.seed);
        let homes = (0..shards)
            .map(ShardId)
            .map(|shard| {
                let is_here = config.placement.rank(shard, config.node).is_some()
                    && config.placement.core(shard, config.cores) == config.core;
                is_here.then(|| Home::outsider(&config, shard, &mut random))
            })
            .collect();
        Core {
            own,
            homes,
            leaders: vec![LeaderView::default(); usize::from(shards)],
            router: Router::new(own, shards, config.parked_bytes_max, random.next()),
            outbox: Outbox::new(own, config.cores, config.placement.clone()),
            transfers: Transfers::new(random.next()),
            refusals: Refusals::new(),
            siblings: SiblingReads::new(config.parked_bytes_max, random.next()),
            counts: ReadCounts::default(),
            care: CareCounts::default(),
            scrubber: Scrubber::default(),
            reads_asked: 0,
            recoveries: Vec::new(),
            dirty: Vec::new(),
            _page_keeper: Vec::with_capacity(4),
            shards_of_turn: Vec::new(),
            work: Work::default(),
            held: Vec::new(),
            journal: Journal::new(&config, recovered),
            poisoned: None,
            next_tick: None,
            clock: Nanos(0),
            ticks: 0,
            returned: Vec::new(),
            verdicts: Vec::new(),
            draining: Vec::new(),
            draining_since: Vec::new(),
            random,
            config,
        }
    }

    /// Takes one input, and appends what follows from it to `outputs`.
    pub fn step(&mut self, now: Now, input: Input<'_>, outputs: &mut Outputs) {
        self.clock = now.monotonic;
        if self.poisoned.is_some() {
            if let Input::Requests(batch) = input {
                Self::refuse(batch, outputs);
            }
            // What this core knows can no longer be made durable: it says nothing to anybody.
            outputs.next_deadline = Nanos(now.monotonic.0 + self.config.tick.0);
            return;
        }
        match input {
            Input::Requests(batch) => self.take_requests(now, batch, outputs),
            Input::Frame { from, bytes } => self.take_frame(now, from, bytes, outputs),
            Input::LinkUp { to, cores } => self.link_up(to, cores),
            Input::LinkDown { to } => self.link_down(to, outputs),
            Input::Disk { id, result } => self.take_completion(id, result, outputs),
            Input::Admin(command) => self.take_admin(command),
            Input::EndOfTurn => self.end_turn(now, outputs),
        }
    }

    /// Who leads each shard as far as this core knows, by shard id.
    pub fn leaders(&self) -> &[LeaderView] {
        &self.leaders
    }

    /// The cores that `node` is known to have, and this node's own number before it is known.
    pub fn cores_of(&self, node: NodeId) -> u16 {
        self.outbox.cores_of(node)
    }

    /// How reads were answered so far.
    pub fn read_counts(&self) -> ReadCounts {
        self.counts
    }

    /// Reads, and questions about reads, that this core was asked since it started.
    pub fn reads_asked(&self) -> u64 {
        self.reads_asked
    }

    /// The error that made this core fall silent, if one did.
    pub fn poisoned(&self) -> Option<&DiskError> {
        self.poisoned.as_ref()
    }

    fn take_requests(&mut self, now: Now, batch: &RequestBatch, outputs: &mut Outputs) {
        let deadline = Nanos(now.monotonic.0 + self.config.request_deadline.0);
        for request in batch.requests() {
            self.reads_asked += u64::from(request.is_read);
            let parcel = Parcel {
                origin: Origin::Local(request.token),
                ordered: request.ordered,
                is_read: request.is_read,
                command: batch.command_bytes(request),
                deadline,
            };
            let shard = request.shard;
            assert!(self.router.has(shard), "a request for shard {shard}, which does not exist");
            let (token, read_from) = (request.token, request.read_from);
            if request.is_read && read_from != ReadFrom::Leader {
                let is_free = !request.ordered || read_from == ReadFrom::Stale;
                if is_free && self.take_replica_read(shard, token, read_from, &parcel, outputs) {
                    continue;
                }
            } else if request.ordered && !request.is_read {
                self.recall(shard, token.connection, outputs);
            }
            self.take_for_leader(shard, token, &parcel, outputs);
        }
    }

    fn replica_mut(&mut self, shard: ShardId) -> Option<&mut Replica> {
        match &mut self.homes.get_mut(usize::from(shard.0))?.as_mut()?.member {
            Member::Replica(replica) => Some(replica),
            Member::Outsider(_) => None,
        }
    }

    /// Lets the replica of `shard` on this core do something that may answer or send.
    fn with_replica<R>(
        &mut self,
        shard: ShardId,
        outputs: &mut Outputs,
        work: impl FnOnce(&mut Replica, &mut Courier<'_>) -> R,
    ) -> Option<R> {
        let home = self.homes.get_mut(usize::from(shard.0))?.as_mut()?;
        let Member::Replica(replica) = &mut home.member else { return None };
        let mut courier = Courier {
            outbox: &mut self.outbox,
            replies: &mut outputs.replies,
            events: &mut outputs.events,
            returned: &mut self.returned,
            transfers: &mut self.transfers,
            refusals: &mut self.refusals,
            counts: &mut self.counts,
            care: &mut self.care,
            work: &mut self.work,
        };
        Some(work(replica, &mut courier))
    }

    fn leads(&self, shard: ShardId) -> bool {
        matches!(
            self.homes.get(usize::from(shard.0)),
            Some(Some(Home { member: Member::Replica(replica), .. })) if replica.leads()
        )
    }

    fn submit(&mut self, shard: ShardId, parcel: &Parcel<'_>) -> Result<(), Status> {
        self.mark_dirty(shard);
        match self.replica_mut(shard) {
            Some(replica) => replica.submit(parcel),
            None => Err(Status::NotLeader),
        }
    }

    fn mark_dirty(&mut self, shard: ShardId) {
        if let Some(Some(home)) = self.homes.get_mut(usize::from(shard.0))
            && !home.is_dirty
        {
            home.is_dirty = true;
            self.dirty.push(shard);
        }
    }

    fn take_frame(&mut self, now: Now, from: Address, bytes: &[u8], outputs: &mut Outputs) {
        for message in Messages::new(bytes) {
            let Ok(message) = message else { return };
            match message {
                Message::Raft(shard, raft) => self.take_raft(now, from.node, shard, raft, outputs),
                Message::Requests(header, items) if siblings::is_for_replica(header.batch) => {
                    self.reads_asked += 1;
                    self.take_sibling_reads(now, from, header, items, outputs);
                }
                Message::Requests(header, items) => self.take_forward(now, from, header, items),
                Message::Replies(header, items) => {
                    self.take_replies(from, header, items, outputs);
                }
                Message::Leaders(views) => {
                    for (shard, view) in views {
                        self.observe(shard, view, outputs);
                    }
                }
                Message::SnapshotChunk(chunk) => self.take_chunk(from, &chunk),
                Message::SnapshotAck(shard, ack) => {
                    if let Some(ended) = self.transfers.acknowledge(from, shard, ack) {
                        self.end_transfer(ended);
                    }
                }
                Message::Draining => {
                    if !self.draining.contains(&from.node) {
                        self.draining.push(from.node);
                        self.draining_since.retain(|(node, _)| *node != from.node);
                        self.draining_since.push((from.node, self.ticks));
                    }
                }
                Message::RepliesLost => {
                    self.router.link_down(from, &mut self.verdicts);
                    self.deliver_verdicts(outputs);
                }
                Message::Question(shard, question) => {
                    self.reads_asked += 1;
                    if let Some(replica) = self.replica_mut(shard) {
                        replica.take_question(from, question);
                        self.mark_dirty(shard);
                    }
                }
                Message::Answer(shard, answer) => {
                    if let Some(replica) = self.replica_mut(shard) {
                        replica.take_answer(&answer);
                        self.mark_dirty(shard);
                    }
                }
                Message::Touches(shard, touches) => {
                    if let Some(replica) = self.replica_mut(shard) {
                        replica.receive_touches(touches);
                    }
                }
                Message::Compare(..)
                | Message::Digest(..)
                | Message::Odd(..)
                | Message::Standing(..)
                | Message::Removed(..) => self.take_care(now, from, &message, outputs),
                Message::Astray(shard, epoch) => self.take_astray(from, shard, epoch),
                Message::Probe(shard, _)
                | Message::Empty(shard, _)
                | Message::Prepare(shard, _)
                | Message::Promise(shard, ..)
                | Message::Form(shard, _)
                | Message::Formed(shard, _) => {
                    self.take_formation(now, from, shard, message, outputs);
                }
            }
        }
    }

    /// Runs another core's requests, or says that this replica does not lead.
    fn take_forward(
        &mut self,
        now: Now,
        from: Address,
        header: RequestsHeader,
        mut items: Items<'_>,
    ) {
        let deadline = Nanos(now.monotonic.0 + self.config.request_deadline.0);
        // A batch behind one that was refused would overtake it, if this replica took it.
        let origin = (header.shard, from);
        let is_late = self.refusals.get(&origin).is_some_and(|&refused| refused >= header.oldest);
        let leads = self.leads(header.shard) && !is_late;
        if !leads && self.router.has(header.shard) {
            self.refusals.insert(origin, header.batch);
        }
        let view = if self.router.has(header.shard) {
            self.router.view(header.shard)
        } else {
            LeaderView::default()
        };
        let mut ordinal = 0;
        while let Some(Ok((flags, command))) = items.next_request() {
            let origin = Origin::Remote { to: from, batch: header.batch, ordinal };
            let is_read = crate::command::is_encoded_read(command);
            self.reads_asked += u64::from(is_read);
            let parcel = Parcel { origin, ordered: flags.ordered(), is_read, command, deadline };
            let outcome = match leads {
                true => self.submit(header.shard, &parcel),
                false => Err(Status::NotLeader),
            };
            if let Err(status) = outcome
                && let Some(frame) = self.outbox.reply_frame(from)
            {
                let header = RepliesHeader { shard: header.shard, batch: header.batch, view };
                frame.reply(header, &ReplyItem::bare(ordinal, status));
            }
            ordinal += 1;
        }
    }

    fn take_replies(
        &mut self,
        from: Address,
        header: RepliesHeader,
        mut items: Items<'_>,
        outputs: &mut Outputs,
    ) {
        if !self.router.has(header.shard) {
            return;
        }
        while let Some(Ok(item)) = items.next_reply() {
            let answered = if siblings::is_for_replica(header.batch) {
                self.take_sibling_answer(from, header, &item, outputs)
            } else {
                if item.status == Status::NotLeader {
                    self.router.disbelieve(header.shard, from, header.view);
                    self.observe(header.shard, header.view, outputs);
                }
                self.router.answer(header.batch, from, item.ordinal, item.status)
            };
            if let Some(token) = answered {
                let reply = Reply {
                    flags: item.flags,
                    version: item.version,
                    number: item.number,
                    expires_in: item.expires.map(|(left, _)| left),
                    expires_at: item.expires.map(|(_, deadline)| deadline),
                    ..Reply::bare(token, item.status)
                };
                outputs.replies.push(reply, item.value);
            }
        }
    }

    /// Learns from others who leads a shard.
    fn observe(&mut self, shard: ShardId, view: LeaderView, outputs: &mut Outputs) {
        if self.router.observe(shard, view) {
            self.publish(shard, outputs);
        }
    }

    fn publish(&mut self, shard: ShardId, outputs: &mut Outputs) {
        let view = self.router.view(shard);
        let known = &mut self.leaders[usize::from(shard.0)];
        if *known != view {
            *known = view;
            outputs.events.push(Event::LeaderChanged(shard, view));
        }
    }

    fn take_chunk(&mut self, from: Address, chunk: &frames::SnapshotChunk<'_>) {
        let shard = chunk.shard;
        let is_ours = self.replica_mut(shard).is_some_and(|replica| replica.id() == chunk.to);
        let (mut ack, arrived) = self.transfers.receive(&self.config, from, chunk);
        if !is_ours {
            ack.received = frames::SnapshotAck::REFUSED;
        } else if let Some(arrived) = arrived {
            let message = frames::decode_raft(&arrived.raft);
            let is_sound =
                message.zip(self.replica_mut(shard)).is_some_and(|(message, replica)| {
                    replica.receive_snapshot(from.node, message, arrived)
                });
            if !is_sound {
                ack.received = frames::SnapshotAck::REFUSED;
            }
            self.mark_dirty(shard);
        }
        if let Some(frame) = self.outbox.frame(from, Lane::Turn) {
            frame.snapshot_ack(shard, ack);
        }
    }

    fn end_transfer(&mut self, ended: Ended) {
        if let Some(replica) = self.replica_mut(ended.shard) {
            if ended.is_reading {
                replica.abandon_snapshot();
            }
            replica.report_snapshot(ended.to, ended.is_done);
        }
        self.mark_dirty(ended.shard);
    }

    fn pump_transfers(&mut self) {
        let homes = &mut self.homes;
        let ended = self.transfers.pump(&mut self.outbox, |shard, out, bytes_max| {
            match homes.get_mut(usize::from(shard.0)) {
                Some(Some(Home { member: Member::Replica(replica), .. })) => {
                    replica.snapshot_chunk(out, bytes_max)
                }
                _ => SnapshotProgress::Abandoned,
            }
        });
        for ended in ended {
            self.end_transfer(ended);
        }
    }

    fn link_up(&mut self, to: Address, cores: u16) {
        self.outbox.link_up(to, cores);
        self.draining.retain(|&node| node != to.node);
        if self.draining.contains(&self.own.node)
            && let Some(frame) = self.outbox.frame(to, Lane::Turn)
        {
            frame.draining();
        }
        self.router.stir_all();
    }

    fn link_down(&mut self, to: Address, outputs: &mut Outputs) {
        self.outbox.link_down(to);
        for ended in self.transfers.link_down(to) {
            self.end_transfer(ended);
        }
        self.router.link_down(to, &mut self.verdicts);
        self.deliver_verdicts(outputs);
        for shard in (0..self.homes.len() as u16).map(ShardId) {
            if self.outbox.home(shard, to.node) == to
                && let Some(replica) = self.replica_mut(shard)
            {
                replica.report_unreachable(to.node);
                self.mark_dirty(shard);
            }
        }
    }

    fn deliver_verdicts(&mut self, outputs: &mut Outputs) {
        for (token, status) in self.verdicts.drain(..) {
            outputs.replies.push(Reply::bare(token, status), None);
        }
    }

    fn take_completion(&mut self, id: u64, result: Result<(), DiskError>, outputs: &mut Outputs) {
        if let Err(error) = result {
            self.poison(error, outputs);
            return;
        }
        for shard in std::mem::take(&mut self.held) {
            if let Some(Some(home)) = self.homes.get_mut(usize::from(shard.0)) {
                home.is_held = false;
            }
            self.mark_dirty(shard);
        }
        for _ in 0..self.journal.complete(id) {
            match self.journal.next_ripe() {
                Some(Waiting::Ready(persisted)) => self.take_persisted(persisted, outputs),
                Some(Waiting::Formation(shard, to, message)) => {
                    send_formation(&mut self.outbox, shard, to, &message);
                }
                None => {}
            }
        }
    }

    fn take_persisted(&mut self, persisted: Persisting, outputs: &mut Outputs) {
        let shard = persisted.shard;
        let Some(Some(Home { member: Member::Replica(replica), .. })) =
            self.homes.get_mut(usize::from(shard.0))
        else {
            return;
        };
        if replica.id() != persisted.id {
            return;
        }
        let mut courier = Courier {
            outbox: &mut self.outbox,
            replies: &mut outputs.replies,
            events: &mut outputs.events,
            returned: &mut self.returned,
            transfers: &mut self.transfers,
            refusals: &mut self.refusals,
            counts: &mut self.counts,
            care: &mut self.care,
            work: &mut self.work,
        };
        replica.persisted(persisted, &mut courier);
        self.mark_dirty(shard);
    }

    fn take_admin(&mut self, command: AdminCommand) {
        match command {
            AdminCommand::Transfer { shard, to } => {
                if let Some(replica) = self.replica_mut(shard) {
                    replica.transfer_to(to);
                    self.mark_dirty(shard);
                }
            }
            AdminCommand::Recover { shard } => self.take_recover(shard),
            #[cfg(feature = "defects")]
            AdminCommand::FlipBit { shard, nth_byte } => {
                if let Some(replica) = self.replica_mut(shard) {
                    replica.flip_bit(nth_byte);
                }
            }
            AdminCommand::Drain => {
                if !self.draining.contains(&self.own.node) {
                    self.draining.push(self.own.node);
                    for to in self.outbox.links().to_vec() {
                        if let Some(frame) = self.outbox.frame(to, Lane::Turn) {
                            frame.draining();
                        }
                    }
                    // The next tick hands over; it need not wait its full time.
                    self.next_tick = self.next_tick.map(|_| Nanos(0));
                }
            }
        }
    }

    fn end_turn(&mut self, now: Now, outputs: &mut Outputs) {
        let next_tick = *self.next_tick.get_or_insert(now.monotonic);
        if now.monotonic >= next_tick {
            self.tick(now, outputs);
            let delivered = match defect::is(Defect::TickBurst) {
                true => next_tick,
                false => now.monotonic,
            };
            self.next_tick = Some(Nanos(delivered.0 + self.config.tick.0));
        }
        self.scrub(now, outputs);
        self.stir(outputs);
        let mut shards = std::mem::take(&mut self.shards_of_turn);
        self.work.begin_turn(&mut shards);
        if shards.is_empty() {
            self.allow_removal(now.monotonic);
        }
        shards.append(&mut self.dirty);
        for shard in shards.drain(..) {
            self.end_turn_of(now, shard, outputs);
        }
        self.shards_of_turn = shards;
        self.run_recoveries(now, outputs);
        self.router.put_back(&mut self.returned);
        self.pump_checkpoint();
        self.journal.flush(&mut outputs.disk, &mut outputs.spare);
        self.stir(outputs);
        self.router.seal(&mut self.outbox);
        self.siblings.seal(&mut self.outbox);
        self.pump_transfers();
        self.outbox.flush(outputs);
        let next_tick = self.next_tick.unwrap_or(now.monotonic);
        outputs.next_deadline = match self.dirty.is_empty() {
            true => {
                let left_over = self.work.next_turn(now.monotonic).unwrap_or(next_tick);
                left_over.min(next_tick).min(self.scrubber.due)
            }
            false => now.monotonic,
        };
    }

    /// Finds a way for parked requests where something changed.
    fn stir(&mut self, outputs: &mut Outputs) {
        let Core { router, outbox, homes, dirty, .. } = self;
        router.stir(outbox, |shard, parcel| {
            let Some(Some(home)) = homes.get_mut(usize::from(shard.0)) else { return false };
            let Member::Replica(replica) = &mut home.member else { return false };
            if !replica.leads() {
                return false;
            }
            if !home.is_dirty {
                home.is_dirty = true;
                dirty.push(shard);
            }
            match (replica.submit(parcel), parcel.origin) {
                (Err(status), Origin::Local(token)) => {
                    outputs.replies.push(Reply::bare(token, status), None);
                }
                (Err(_), Origin::Remote { .. }) | (Ok(()), _) => {}
            }
            true
        });
    }

    fn end_turn_of(&mut self, now: Now, shard: ShardId, outputs: &mut Outputs) {
        let Some(Some(home)) = self.homes.get_mut(usize::from(shard.0)) else { return };
        home.is_dirty = false;
        let Member::Replica(replica) = &mut home.member else { return };
        replica.allow_snapshots(self.transfers.has_room());
        let mut courier = Courier {
            outbox: &mut self.outbox,
            replies: &mut outputs.replies,
            events: &mut outputs.events,
            returned: &mut self.returned,
            transfers: &mut self.transfers,
            refusals: &mut self.refusals,
            counts: &mut self.counts,
            care: &mut self.care,
            work: &mut self.work,
        };
        let goes_on = replica.end_turn(now, &mut self.journal, &mut courier);
        home.is_dirty = self.work.end_part(shard);
        if replica.wants_removal() && !home.is_removing {
            home.is_removing = true;
            self.work.queue_removal(shard);
        }
        let is_held = self.journal.is_busy() && !home.is_held && replica.has_to_propose();
        if is_held {
            home.is_held = true;
            self.held.push(shard);
        }
        let (view, leads) = (replica.view(), replica.leads());
        // What others said may be newer or older; this replica's own view is told in any case,
        // since the cores without a replica hear of most changes from here only.
        let is_untold = view != home.told;
        home.told = view;
        if is_untold {
            self.tell(shard, view, leads);
        }
        if self.router.observe_own(shard, view) || is_untold {
            self.publish(shard, outputs);
        }
        if goes_on {
            self.mark_dirty(shard);
        }
    }

    /// Tells the other cores of this node, and a new leader all nodes without a replica.
    fn tell(&mut self, shard: ShardId, view: LeaderView, leads: bool) {
        self.outbox.for_each_sibling(|frame| frame.leaders(std::iter::once((shard, view))));
        if leads {
            self.announce(shard, view);
        }
    }

    fn announce(&mut self, shard: ShardId, view: LeaderView) {
        for node in self.config.placement.nodes() {
            if self.config.placement.rank(shard, *node).is_none() {
                for core in 0..self.outbox.cores_of(*node) {
                    let to = Address { node: *node, core: crate::ids::CoreIndex(core) };
                    if let Some(frame) = self.outbox.frame(to, Lane::Turn) {
                        frame.leaders(std::iter::once((shard, view)));
                    }
                }
            }
        }
    }

    /// A node that stopped comes back without its intention. Its link says so, but its last words
    /// may arrive after that.
    fn forget_drained(&mut self) {
        let ticks = self.ticks;
        self.draining_since.retain(|&(node, since)| {
            let is_recent = ticks.wrapping_sub(since) < DRAINING_TICKS_MAX;
            if !is_recent {
                self.draining.retain(|&draining| draining != node);
            }
            is_recent
        });
    }

    /// One tick of every replica on this core.
    fn tick(&mut self, now: Now, outputs: &mut Outputs) {
        self.ticks = self.ticks.wrapping_add(1);
        // A core whose disk does not answer leads no better than one that is about to stop.
        self.forget_drained();
        let mut avoid = self.draining.clone();
        if self.journal.is_stalled() && !avoid.contains(&self.own.node) {
            avoid.push(self.own.node);
        }
        for shard in (0..self.homes.len() as u16).map(ShardId) {
            self.tick_one(now, shard, &avoid, outputs);
            self.tick_formation(shard);
            self.tick_care(now, shard, outputs);
        }
        for ended in self.transfers.tick() {
            self.end_transfer(ended);
        }
        self.tick_journal();
        self.router.tick();
        self.router.expire(now.monotonic, &mut self.verdicts);
        self.siblings.expire(now.monotonic, &mut self.verdicts);
        self.deliver_verdicts(outputs);
        self.router.stir_all();
        if self.ticks.is_multiple_of(ANNOUNCE_TICKS) {
            self.announce_all();
        }
    }

    fn tick_one(&mut self, now: Now, shard: ShardId, avoid: &[NodeId], outputs: &mut Outputs) {
        let Some(Some(home)) = self.homes.get_mut(usize::from(shard.0)) else { return };
        let outbox = &mut self.outbox;
        match &mut home.member {
            Member::Outsider(outsider) => {
                let mut mail = Vec::new();
                let verdict = outsider.tick(now.wall, &mut |to, message| mail.push((to, message)));
                self.post_formation(shard, mail);
                self.take_verdict(now, shard, verdict, outputs);
            }
            Member::Replica(replica) => {
                replica.allow_snapshots(self.transfers.has_room());
                let mut courier = Courier {
                    outbox,
                    replies: &mut outputs.replies,
                    events: &mut outputs.events,
                    returned: &mut self.returned,
                    transfers: &mut self.transfers,
                    refusals: &mut self.refusals,
                    counts: &mut self.counts,
                    care: &mut self.care,
                    work: &mut self.work,
                };
                replica.tick(now, avoid, &mut courier);
                // Until it is a voter, a newcomer goes on asking to be taken in.
                if self.ticks.is_multiple_of(4) && replica.wants_in() {
                    let probe = Message::Probe(shard, home.id);
                    for node in self.config.placement.replicas(shard) {
                        if node != self.config.node {
                            send_formation(&mut self.outbox, shard, node, &probe);
                        }
                    }
                }
                let is_forsaken = replica.is_untouched()
                    && home.unheard_ticks >= FORSAKEN_TICKS
                    && !defect::is(Defect::ForsakenForEver);
                home.unheard_ticks = home.unheard_ticks.saturating_add(1);
                if is_forsaken {
                    // Whoever had the shard has lost its memory too, perhaps. This replica starts
                    // over as if its node had restarted, under a new id, so that the shard can be
                    // formed anew.
                    home.start_over(&self.config, shard, &mut self.random);
                } else {
                    self.mark_dirty(shard);
                }
            }
        }
    }

    fn announce_all(&mut self) {
        if self.config.placement.nodes().len() <= self.config.placement.replication() {
            return;
        }
        for shard in (0..self.homes.len() as u16).map(ShardId) {
            if self.leads(shard) {
                self.announce(shard, self.router.view(shard));
            }
        }
    }
}
