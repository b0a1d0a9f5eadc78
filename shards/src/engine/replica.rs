//! One member of one shard's Raft group: raft-rs around a store.
//!
//! A turn calls [`Replica::end_turn`] once: it proposes what was gathered as one entry, starts a
//! round for the gathered reads, and works off raft-rs' readies: messages leave at once, entries
//! go to the log and to the disk operation of the turn, committed entries are applied, and what
//! became of each command is handed to the [`Courier`]. Applying is the only place where the store
//! changes.
//!
//! Invariants:
//! - Nothing is proposed and no read round starts unless this replica leads: raft-rs forwards or
//!   drops such calls silently.
//! - Messages that raft-rs wants persisted first wait for the disk operation, in order.
//! - A command of this replica's origin list is answered exactly once: by its own entry, by another
//!   leader's entry applied in its place (not done), by a snapshot or a deadline (unknown).
//! - Snapshots handed to raft-rs name the applied index of this very moment.
//!
//! The hot path, per entry, and several times per turn of a busy shard: [`Replica::end_turn`] with
//! what it calls. `benches/instructions/run` counts what it costs. What must not be added there:
//! - memory that is not used again: lists, mailboxes and the sizes of buffers are kept;
//! - a copy of the members' configuration, as `RaftLog::conf_state` makes: ticks may, turns not;
//! - a look at raft-rs' terms, which go through the log, before something waits for the answer;
//! - work for a shard that nothing has happened to.

mod apply;
mod comparison;
mod following;
mod gathering;
mod inspect;
mod office;
mod quarantine;
mod salvage;
#[cfg(test)]
mod tests;
mod touching;
mod waiting;
mod wrong;

use std::collections::VecDeque;

use raft::eraftpb::{Entry, Message, MessageType};
use raft::{Config, RawNode, ReadOnlyOption, StateRole};

use self::comparison::Comparison;
use self::following::Asked;
use self::gathering::{Gathered, Proposed};
pub use self::inspect::SnapshotOpening;
use self::office::{CAUGHT_UP_ENTRIES, SILENT_TICKS_MAX};
use self::quarantine::Quarantine;
use self::touching::TOUCHES_PER_TICK;
use self::waiting::SpareLists;
use super::follower_reads::FollowerReads;
use super::journal::{Journal, Waiting as Unwritten};
use super::lease::Lease;
use super::reads::{ReadBatch, Reads};
use super::transfers::Arrived;
use super::{Courier, Parcel, SplitMix};
use crate::contract::{CoreConfig, Durability, Event, LeaderView, Now};
use crate::defect::{self, Defect};
use crate::ids::{Formation, Index, Nanos, NodeId, ReplicaId, ShardId, Term};
use crate::raft_log::{FORMATION, RaftLog, is_stub};
use crate::reply::Status;
use crate::store::{Opening, ShardClock, Store, StoreSettings};
use crate::wal::{RecoveredReplica, Stage};

/// Proposed and not yet applied bytes of one shard, at most. Beyond it entries wait to be proposed.
const PROPOSED_BYTES_MAX: usize = 8 << 20;
/// Bytes of commands that may wait to be proposed, or for a read round. Beyond it: overloaded.
const GATHERED_BYTES_MAX: usize = 32 << 20;
/// While a write is under way, commands are gathered up to this many bytes per shard and proposed
/// at its end: nothing proposed meanwhile would be durable here before the next write, and one
/// message with all of it costs the followers less than many.
const HELD_BYTES_MAX: usize = 64 << 10;
/// Messages of appended entries carry at most this much, but for a single entry.
pub const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// Committed bytes that wait to be applied. With more, nothing further is taken from raft-rs.
const COMMITTED_BYTES_MAX: usize = 1 << 20;
/// Appends on their way to one follower.
const INFLIGHT_MESSAGES_MAX: usize = 256;
/// How old the last stamp may get while there are deadlines. A replica that comes back knows time
/// by the stamps in its log alone.
const IDLE_STAMP_INTERVAL_MS: u64 = 5_000;
/// Who lacks entries older than so many ticks (250 ms) does not keep up, and is handed no
/// leadership.
const KEEPS_UP_TICKS: usize = 5;
/// A vector of messages with room for more is not kept.
const MAILBOX_MESSAGES_MAX: usize = 16;
/// Readies worked off in one turn before other shards get theirs.
const READIES_PER_TURN: usize = 8;

/// A ready that waits for the log.
#[derive(Debug)]
pub struct Persisting {
    /// Whose.
    pub shard: ShardId,
    /// The replica; a later one in its place must not take it for its own.
    pub id: ReplicaId,
    ready: u64,
    messages: Vec<Message>,
}

/// A snapshot that has arrived whole and waits for raft-rs to accept it.
#[derive(Debug)]
struct Staged {
    index: Index,
    formation: Formation,
    store: Box<Store>,
    /// The store's snapshot as it came, where it must go into the log.
    bytes: Vec<u8>,
}

/// A replica that is, or wants to become, part of a shard.
pub struct Replica {
    shard: ShardId,
    me: ReplicaId,
    rank: usize,
    replication: usize,
    /// The nodes of the shard, the preferred leader first.
    nodes: Vec<NodeId>,
    election_ticks: usize,
    formation: Option<Formation>,
    raw: RawNode<RaftLog>,
    log: RaftLog,
    store: Box<Store>,
    clock: ShardClock,
    applied: (Index, Term),
    stopped: Option<String>,
    led_term: Option<Term>,
    last_leader_rank: Option<usize>,
    /// The last term that had a leader, as far as known here.
    last_led_term: Term,
    /// What is drawn from in terms without one, and what was drawn in which term.
    lottery: SplitMix,
    lot: (Term, usize),
    gathered: VecDeque<Gathered>,
    gathered_bytes: usize,
    /// Length of the last entry that was proposed: about what the next one will need.
    last_entry_bytes: usize,
    spare_lists: SpareLists,
    /// In ascending order of their indices.
    proposed: VecDeque<Proposed>,
    /// Proposed in an earlier office, at indices where `proposed` has a newer entry: truncated
    /// here, but perhaps alive elsewhere. Their fate is known when their index is applied.
    doubtful: Vec<Proposed>,
    proposed_bytes: usize,
    stamp_wanted: bool,
    /// What this replica proposes for hashing keys with, should it lead the shard first.
    key_secret: u64,
    /// Whether more is to expire or to evict, which an entry without commands may do as well.
    removal_wanted: bool,
    /// Whether it may propose one such entry.
    removal_allowed: bool,
    /// Committed, and not applied yet. The data of commands is in the log.
    committed: VecDeque<Entry>,
    committed_bytes: usize,
    /// Touches that may still be proposed, or sent to the leader, in this tick.
    touch_allowance: usize,
    /// Ticks for which touches have waited that no command took along.
    touch_ticks: u32,
    reads: Reads,
    lease: Lease,
    follower_reads: FollowerReads,
    /// Questions of followers that wait for this leader's answer.
    questions: Vec<Asked>,
    /// Whether what is persisted must reach a disk first. In memory it is there at once.
    awaits_disk: bool,
    unpersisted: usize,
    staged: Option<Staged>,
    /// Ticks for which a replica that came back with its log says nothing to candidates.
    muted_ticks: u32,
    /// What candidates have asked it meanwhile: the last question of each.
    held_votes: Vec<Message>,
    /// The new incarnation that each restarted node asks in with.
    joins: Vec<(NodeId, ReplicaId)>,
    was_voter: bool,
    stable_ticks: u32,
    hold_ticks: u32,
    /// Ticks since each node of the shard was last heard of, by rank.
    silent_ticks: Vec<u32>,
    /// The last index of the log at each of the latest ticks, the oldest first.
    last_at_ticks: [Index; KEEPS_UP_TICKS],
    quarantine: Quarantine,
    comparison: Comparison,
    operations: u64,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Replica")
            .field("shard", &self.shard)
            .field("me", &self.me)
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

impl Replica {
    /// A founder of a shard.
    ///
    /// # Panics
    /// If raft-rs refuses the configuration, which is constant.
    pub fn found(
        config: &CoreConfig,
        now: Now,
        shard: ShardId,
        me: ReplicaId,
        formation: Formation,
    ) -> Self {
        let log = RaftLog::formed(formation.members.iter().map(|id| id.0).collect());
        Self::start(config, now, shard, me, log, Some(formation))
    }

    /// A replica with nothing, which waits for the leader to take it in.
    pub fn join(config: &CoreConfig, now: Now, shard: ShardId, me: ReplicaId) -> Self {
        Self::start(config, now, shard, me, RaftLog::joining(), None)
    }

    /// A replica that comes back with its log.
    ///
    /// What it promised a leader before it stopped it does not remember. Therefore it answers no
    /// candidate before an election timeout has passed: somebody may hold a lease that counts on
    /// it. It campaigns no earlier than that by itself.
    pub fn resume(
        config: &CoreConfig,
        now: Now,
        shard: ShardId,
        recovered: RecoveredReplica,
    ) -> Self {
        let RecoveredReplica { record, hard_state, applied, conf_state, entries, store } =
            recovered;
        let formation = match record.stage {
            Stage::Member(formation) => Some(formation),
            Stage::Outsider(_) | Stage::Newcomer => None,
        };
        let is_alone = conf_state.voters == [record.id.0];
        let log = RaftLog::recovered(applied, hard_state, conf_state, entries);
        let mut replica = Self::start(config, now, shard, record.id, log, formation);
        replica.store = store;
        replica.clock = ShardClock::resume(replica.store.stamp(), now);
        // The first tick may come at once, and is none.
        let is_mute = !is_alone && !defect::is(Defect::VoteRightAfterRestart);
        replica.muted_ticks = if is_mute { config.election_ticks + 1 } else { 0 };
        replica.was_voter = replica.is_voter();
        replica
    }

    fn start(
        config: &CoreConfig,
        now: Now,
        shard: ShardId,
        me: ReplicaId,
        log: RaftLog,
        formation: Option<Formation>,
    ) -> Self {
        let applied = log.applied();
        let nodes: Vec<_> = config.placement.replicas(shard).collect();
        let replication = nodes.len();
        let election_ticks = config.election_ticks as usize;
        let raft_config = Config {
            id: me.0,
            election_tick: election_ticks,
            heartbeat_tick: 1,
            applied: applied.0.0,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: INFLIGHT_MESSAGES_MAX,
            check_quorum: true,
            pre_vote: true,
            min_election_tick: election_ticks,
            // Exclusive: the highest lot, and the tick that a mute replica adds.
            max_election_tick: election_ticks + 2 * replication + 3,
            read_only_option: match defect::is(Defect::LeaseOfRaftRs) {
                true => ReadOnlyOption::LeaseBased,
                false => ReadOnlyOption::Safe,
            },
            // Followers learn the commit index with the next append or heartbeat: a message less
            // per entry and follower.
            skip_bcast_commit: true,
            batch_append: true,
            max_committed_size_per_ready: COMMITTED_BYTES_MAX as u64,
            ..Config::default()
        };
        log.make_stubs_from(config.stub_bytes_min);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = match RawNode::new(&raft_config, log.clone(), &logger) {
            Ok(raw) => raw,
            Err(error) => panic!("raft-rs refused a constant configuration: {error}"),
        };
        let settings = StoreSettings::of(config);
        let mut attempts = SplitMix(config.seed.rotate_left(17) ^ me.0);
        Replica {
            shard,
            me,
            rank: nodes.iter().position(|&node| node == me.node()).unwrap_or(0),
            replication,
            nodes,
            election_ticks,
            formation,
            raw,
            log,
            store: Box::new(Store::new(settings)),
            clock: ShardClock::at_wall_clock(now),
            applied,
            stopped: None,
            led_term: None,
            last_leader_rank: None,
            last_led_term: FORMATION.1,
            lottery: SplitMix(config.seed ^ me.0),
            lot: (Term(0), 0),
            gathered: VecDeque::new(),
            gathered_bytes: 0,
            last_entry_bytes: 0,
            spare_lists: SpareLists::default(),
            proposed: VecDeque::new(),
            doubtful: Vec::new(),
            proposed_bytes: 0,
            stamp_wanted: false,
            key_secret: attempts.next() | 1,
            removal_wanted: false,
            removal_allowed: false,
            committed: VecDeque::new(),
            committed_bytes: 0,
            touch_allowance: TOUCHES_PER_TICK,
            touch_ticks: 0,
            reads: Reads::new(attempts.next()),
            lease: Lease::new(config),
            follower_reads: FollowerReads::new(attempts.next()),
            questions: Vec::new(),
            awaits_disk: config.durability == Durability::Fsync,
            unpersisted: 0,
            staged: None,
            muted_ticks: 0,
            held_votes: Vec::new(),
            joins: Vec::new(),
            was_voter: false,
            stable_ticks: 0,
            hold_ticks: 0,
            silent_ticks: vec![0; replication],
            last_at_ticks: [Index(0); KEEPS_UP_TICKS],
            quarantine: Quarantine::default(),
            comparison: Comparison::default(),
            operations: 0,
        }
    }

    /// Its Raft id.
    pub fn id(&self) -> ReplicaId {
        self.me
    }

    /// The formation it is part of; `None` until it was taken in.
    pub fn formation(&self) -> Option<&Formation> {
        self.formation.as_ref()
    }

    /// Whether it is the only voter of its shard.
    fn is_alone(&self) -> bool {
        let conf = self.log.conf_state();
        conf.voters == [self.me.0]
    }

    /// Whether it has nothing of the shard it waits to be taken into, and nothing under way.
    pub fn is_untouched(&self) -> bool {
        self.formation.is_none() && self.unpersisted == 0
    }

    /// Whether it leads, as raft-rs sees it.
    pub fn leads(&self) -> bool {
        self.stopped.is_none() && self.raw.raft.state == StateRole::Leader
    }

    /// Whether it has been taken in as a voter.
    pub fn is_voter(&self) -> bool {
        self.log.conf_state().voters.contains(&self.me.0)
    }

    /// What it believes of the leader.
    pub fn view(&self) -> LeaderView {
        let leader = self.raw.raft.leader_id;
        LeaderView {
            term: Term(self.raw.raft.term),
            leader: (leader != 0).then(|| ReplicaId(leader).node()),
        }
    }

    /// Takes a command. The caller has made sure that this replica leads.
    pub fn submit(&mut self, parcel: &Parcel<'_>) -> Result<(), Status> {
        assert!(self.leads(), "a command for a replica that does not lead");
        self.operations += 1;
        if parcel.is_read {
            return self.submit_read(parcel);
        }
        if self.gathered_bytes + parcel.command.len() > GATHERED_BYTES_MAX {
            return Err(Status::Overloaded);
        }
        self.gather(parcel);
        Ok(())
    }

    /// A read behind writes that are not proposed yet rides on the entry that will carry the last
    /// of them: it runs right where its connection put it, and the entry's commit confirms it.
    /// The commit of an entry that was proposed before the read came in would not: another leader
    /// may have committed that entry long ago, and later writes since.
    fn submit_read(&mut self, parcel: &Parcel<'_>) -> Result<(), Status> {
        if self.reads.gathered_bytes() + parcel.command.len() > GATHERED_BYTES_MAX {
            return Err(Status::Overloaded);
        }
        if parcel.ordered {
            if let Some(gathered) = self.gathered.back_mut() {
                gathered.riders.push(gathered.builder.len(), parcel);
                return Ok(());
            }
            if defect::is(Defect::ReadConfirmedByEarlierWrite)
                && let Some(last) = self.proposed.back_mut()
            {
                last.riders.push(usize::MAX, parcel);
                return Ok(());
            }
            // What was proposed in an earlier term is in this leader's log, which it applies
            // before it reads, or lost for good.
            let term = Term(self.raw.raft.term);
            let last = self.proposed.back().filter(|last| last.term == term);
            self.reads.push(parcel, last.map_or(Index(0), |last| last.index));
            return Ok(());
        }
        self.reads.push(parcel, Index(0));
        Ok(())
    }

    /// Takes a Raft message from `from`'s node. Anything raft-rs would panic at, or that only a
    /// local caller may say, is refused: the answer is whether it was fit to be stepped.
    pub fn receive(&mut self, from: NodeId, mut message: Message) -> bool {
        if self.stopped.is_some() || self.has_forgotten() || !self.is_fit(from, &message) {
            return false;
        }
        if !self.takes_entries(&message) {
            message.entries.clear();
        }
        if message.entries.iter().any(is_stub) {
            return false;
        }
        if let Some(rank) = self.rank_of(message.from) {
            self.silent_ticks[rank] = 0;
        }
        let is_vote = matches!(
            message.msg_type(),
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
        );
        if is_vote && self.muted_ticks > 0 {
            self.held_votes.retain(|held| held.from != message.from);
            self.held_votes.push(message);
            return true;
        }
        self.log.lay_aside(&mut message.entries);
        // Errors say that a proposal was dropped or a peer is unknown: nothing waits on them.
        let _ = self.raw.step(message);
        true
    }

    /// Whether raft-rs looks at the entries of a message, and answers it. Of others nothing must be
    /// kept beside the log, least of all in place of what this replica has proposed itself.
    fn takes_entries(&self, message: &Message) -> bool {
        let raft = &self.raw.raft;
        let leads = raft.state == StateRole::Leader;
        message.msg_type() == MessageType::MsgAppend
            && (message.term > raft.term || message.term == raft.term && !leads)
    }

    fn is_fit(&self, from: NodeId, message: &Message) -> bool {
        let last = self.log.last().0;
        let is_ours = message.to == self.me.0
            && ReplicaId(message.from).node() == from
            && message.from != self.me.0;
        let entries_follow = message
            .entries
            .iter()
            .zip(message.index.saturating_add(1)..)
            .all(|(entry, index)| entry.index == index && entry.term <= message.term);
        if !is_ours || message.term == 0 || message.snapshot.is_some() || !entries_follow {
            return false;
        }
        match message.msg_type() {
            MessageType::MsgAppend => {
                let committed = self.raw.raft.raft_log.committed;
                message.entries.iter().take_while(|entry| entry.index <= committed).all(|entry| {
                    let known = self.log.term_at(Index(entry.index));
                    known.is_none_or(|term| term.0 == entry.term)
                })
            }
            MessageType::MsgHeartbeat => message.commit <= last,
            MessageType::MsgAppendResponse => message.index <= last || message.reject,
            MessageType::MsgHeartbeatResponse
            | MessageType::MsgRequestVote
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVote
            | MessageType::MsgRequestPreVoteResponse
            | MessageType::MsgTimeoutNow => true,
            _ => false,
        }
    }

    /// Takes a snapshot that has arrived whole, with its Raft message. Says whether it was meant
    /// for this replica.
    pub fn receive_snapshot(&mut self, from: NodeId, message: Message, arrived: Arrived) -> bool {
        let is_ours = message.to == self.me.0
            && ReplicaId(message.from).node() == from
            && message.msg_type() == MessageType::MsgSnapshot;
        if self.stopped.is_some() || self.has_forgotten() || !is_ours {
            return false;
        }
        let index = Index(message.get_snapshot().get_metadata().index);
        let _ = self.raw.step(message);
        // raft-rs ignores a snapshot of a former term or behind its commit index. What it has
        // accepted and not yet handed out must then stay staged.
        let accepted = self.raw.raft.raft_log.unstable.snapshot.as_ref();
        if accepted.is_some_and(|snapshot| snapshot.get_metadata().index == index.0) {
            let Arrived { formation, store, bytes, .. } = arrived;
            self.staged = Some(Staged { index, formation, store: Box::new(store), bytes });
        }
        true
    }

    /// Tells raft-rs how a snapshot transfer to `to` ended.
    pub fn report_snapshot(&mut self, to: ReplicaId, is_done: bool) {
        let status =
            if is_done { raft::SnapshotStatus::Finish } else { raft::SnapshotStatus::Failure };
        self.raw.report_snapshot(to.0, status);
    }

    /// Lets raft-rs send snapshots, or not while all places for them are taken. The store can be
    /// read for one at a time.
    pub fn allow_snapshots(&self, allowed: bool) {
        self.log.allow_snapshots(allowed && !self.is_snapshotting());
    }

    /// Tells raft-rs that messages to `node` were lost.
    pub fn report_unreachable(&mut self, node: NodeId) {
        let conf = self.log.conf_state();
        for &id in conf.voters.iter().chain(&conf.learners) {
            if ReplicaId(id).node() == node && id != self.me.0 {
                self.raw.report_unreachable(id);
            }
        }
    }

    /// One Raft tick. `avoid` lists nodes that must not be handed the leadership.
    pub fn tick(&mut self, now: Now, avoid: &[NodeId], courier: &mut Courier<'_>) {
        if self.stopped.is_some() {
            return;
        }
        let is_draining = avoid.contains(&self.me.node()) || self.withholds();
        let muted = usize::from(self.muted_ticks > 0);
        let ticks = self.election_timeout_ticks(is_draining) + muted;
        self.raw.raft.set_randomized_election_timeout(ticks);
        if !self.has_forgotten() {
            self.raw.tick();
        }
        self.tick_mute();
        if self.is_alone() && self.raw.raft.state == StateRole::Follower {
            // Nobody else can lead, and nobody's lease rests on this replica.
            let _ = self.raw.campaign();
        }
        self.lease.tick();
        if defect::is(Defect::EvictionOnFollowersOwn) && !self.leads() {
            self.store.evict_to(self.store.bytes_max() / 10 * 9);
        }
        if let Some(attempt) = self.reads.tick() {
            self.request_read_index(attempt, courier);
        }
        self.tick_follower_reads(now, courier);
        self.tick_touches(courier);
        self.store.free_some();
        self.expire(now.monotonic, courier);
        self.hold_ticks = self.hold_ticks.saturating_sub(1);
        self.last_at_ticks.rotate_left(1);
        self.last_at_ticks[KEEPS_UP_TICKS - 1] = self.log.last();
        for ticks in &mut self.silent_ticks {
            *ticks = ticks.saturating_add(1);
        }
        self.tick_standings(courier);
        self.tick_comparison(now.monotonic, courier);
        if self.leads() {
            self.tick_membership(avoid);
            self.tick_preference(avoid, is_draining);
            let running = self.clock.running(now);
            let next_due = self.store.next_due();
            self.removal_wanted |= self.store.is_above_limit();
            self.removal_wanted |= next_due.is_some_and(|due| due <= running);
            let is_old = self.store.stamp().0 + IDLE_STAMP_INTERVAL_MS <= running.0;
            self.stamp_wanted |= next_due.is_some() && is_old;
        }
    }

    /// Candidates get their answers when an election timeout has passed since the start.
    fn tick_mute(&mut self) {
        self.muted_ticks = self.muted_ticks.saturating_sub(1);
        if self.muted_ticks == 0 {
            for message in std::mem::take(&mut self.held_votes) {
                let _ = self.raw.step(message);
            }
        }
    }

    fn rank_of(&self, id: u64) -> Option<usize> {
        let node = ReplicaId(id).node();
        self.nodes.iter().position(|&known| known == node)
    }

    /// Answers what has waited too long. What was proposed is unknown, the rest is not done.
    fn expire(&mut self, now: Nanos, courier: &mut Courier<'_>) {
        self.expire_gathered(now, courier);
        let view = self.view();
        for proposed in self.doubtful.iter_mut().chain(&mut self.proposed) {
            let overdue = proposed.waiting.take_overdue(now);
            courier.fail(self.shard, view, &overdue, Status::DeadlinePassed);
            for parcel in proposed.riders.take_overdue(now).iter() {
                courier.fail(self.shard, view, &[parcel.origin], Status::ReadTimeout);
            }
        }
        self.forget_settled();
        for batch in self.reads.take_overdue(now) {
            for parcel in batch.iter() {
                courier.fail(self.shard, view, &[parcel.origin], Status::ReadTimeout);
            }
        }
    }

    /// Forgets entries of former offices that nobody waits for any more. Perhaps they are gone from
    /// every log; their bytes must not count for ever against what this replica may propose.
    fn forget_settled(&mut self) {
        let office = self.leads().then_some(Term(self.raw.raft.term));
        let is_settled =
            |proposed: &Proposed| Some(proposed.term) != office && proposed.is_settled();
        let mut forgotten = 0;
        let mut keep = |proposed: &Proposed| {
            let is_kept = !is_settled(proposed);
            forgotten += if is_kept { 0 } else { proposed.bytes };
            is_kept
        };
        self.doubtful.retain(&mut keep);
        self.proposed.retain(&mut keep);
        self.proposed_bytes -= forgotten;
    }

    /// Answers all who wait for an entry, and for reads that ride on it.
    fn fail_proposed(
        &self,
        proposed: &Proposed,
        write: Status,
        read: Status,
        courier: &mut Courier<'_>,
    ) {
        for origin in proposed.waiting.iter() {
            courier.fail(self.shard, self.view(), &[origin], write);
        }
        self.fail_batch(proposed.riders.batch(), read, courier);
    }

    fn fail_batch(&self, batch: &ReadBatch, status: Status, courier: &mut Courier<'_>) {
        for parcel in batch.iter() {
            courier.fail(self.shard, self.view(), &[parcel.origin], status);
        }
    }

    /// Ends the turn: proposes, sends, appends, applies, answers. `journal` takes what must become
    /// durable. Returns whether there is more to do at once.
    pub fn end_turn(&mut self, now: Now, journal: &mut Journal, courier: &mut Courier<'_>) -> bool {
        for _ in 0..READIES_PER_TURN {
            if self.stopped.is_some() {
                self.abandon(courier);
                return false;
            }
            if self.leads() {
                self.follow_log(now);
                // Rounds first: an entry that bars reads must be proposed after they came in, and
                // their index must lie before it.
                self.start_reads(now, courier);
                let is_held = journal.is_busy() && self.gathered_bytes < HELD_BYTES_MAX;
                if !is_held {
                    self.propose_gathered(now);
                }
                if defect::is(Defect::ReplyBeforeCommit) {
                    self.answer_proposed(courier);
                }
            } else {
                self.refuse_questions(courier);
            }
            self.ask_leader(courier);
            self.follow_commit();
            let has_ready = self.raw.has_ready();
            if has_ready && self.committed_bytes < COMMITTED_BYTES_MAX {
                self.work_off_ready(now, journal, courier);
            } else {
                self.apply(now, courier);
            }
            self.run_reads(now, courier);
            self.run_follower_reads(courier);
            self.note_office(courier);
            if !has_ready {
                return !self.committed.is_empty();
            }
        }
        true
    }

    /// A new leader's clock goes on from the last stamp in its log, also where that is not applied
    /// yet. Until then it may still run by this node's wall clock, hours ahead of the stamps that
    /// the deadlines in the log count from.
    fn follow_log(&mut self, now: Now) {
        if self.led_term == Some(Term(self.raw.raft.term)) {
            return;
        }
        if defect::is(Defect::NoTimeSinceOwnStamp) {
            self.clock.follow(self.store.stamp(), now);
        }
        if let Some(stamp) = self.log.last_unapplied_stamp()
            && !defect::is(Defect::NewLeaderByOwnClock)
        {
            self.clock.go_on_from(stamp, now);
        }
    }

    /// Whether it would propose an entry: commands wait for one, or reads for its stamp.
    pub fn has_to_propose(&self) -> bool {
        self.leads() && (self.wants_stamp() || !self.gathered.is_empty())
    }

    fn wants_stamp(&self) -> bool {
        let goes_on_removing = self.removal_wanted && self.removal_allowed;
        self.stamp_wanted || self.reads.wants_stamp() || goes_on_removing
    }

    fn propose_gathered(&mut self, now: Now) {
        if self.gathered.is_empty() && !self.wants_stamp() {
            return;
        }
        let transferring = self.raw.raft.lead_transferee.is_some() || self.withholds();
        while !transferring && self.proposed_bytes < PROPOSED_BYTES_MAX {
            let mut gathered = match self.gathered.pop_front() {
                Some(gathered) => gathered,
                None if self.wants_stamp() && self.raw.raft.commit_to_current_term() => {
                    Gathered::default()
                }
                None => return,
            };
            self.gathered_bytes -= gathered.builder.bytes_len();
            let touches = self.touches_to_propose();
            let data = gathered.builder.finish(Opening {
                stamp: self.clock.running(now),
                touches: &touches,
                key_secret: self.store.wants_key_secret().then_some(self.key_secret),
            });
            let bytes = data.len();
            self.last_entry_bytes = bytes;
            let index = Index(self.raw.raft.raft_log.last_index() + 1);
            let term = Term(self.raw.raft.term);
            let data = self.log.lay_data_aside(index, term, data);
            if self.raw.propose(Vec::new(), data).is_err() {
                // raft-rs drops proposals of a leader that was removed or hands over; this
                // replica checked for both, and otherwise sets no limit of raft-rs' own.
                unreachable!("a leader's proposal was dropped");
            }
            self.stamp_wanted = false;
            (self.removal_wanted, self.removal_allowed) = (false, false);
            // What waits for this stamp came in before this entry's commands, like other reads.
            self.reads.stamped(index);
            if gathered.bars_reads {
                self.reads.bar(index, term);
            }
            self.proposed_bytes += bytes;
            while self.proposed.back().is_some_and(|last| last.index >= index) {
                self.doubtful.extend(self.proposed.pop_back());
            }
            self.proposed.push_back(Proposed {
                index,
                term,
                bytes,
                waiting: gathered.waiting,
                riders: gathered.riders,
            });
        }
    }

    /// Confirms gathered reads by the lease, or else starts a round for them. A lease that reads
    /// make use of is renewed before it ends, by a round that no read waits for.
    fn start_reads(&mut self, now: Now, courier: &mut Courier<'_>) {
        let term = Term(self.raw.raft.term);
        let is_asked = self.reads.is_gathering() || !self.questions.is_empty();
        if !is_asked && !self.lease.wants_renewal(term, now.monotonic) {
            return;
        }
        if !self.raw.raft.commit_to_current_term() || self.withholds() {
            return;
        }
        if defect::is(Defect::AnswersWithoutProof) {
            self.answer_all(now, courier);
        }
        if is_asked && self.lease.holds(term, now.monotonic) {
            self.answer_all(now, courier);
            if self.applied.1 == term {
                let index = match defect::is(Defect::LeaseReadOnLaggingStore) {
                    true => self.applied.0,
                    false => Index(self.raw.raft.raft_log.committed),
                };
                courier.counts.lease += self.reads.confirm_gathered(index) as u64;
            }
        }
        let is_asked = self.reads.is_gathering() || !self.questions.is_empty();
        let wants_round = is_asked || self.lease.wants_renewal(term, now.monotonic);
        if wants_round && !self.reads.has_round() {
            let attempt = self.reads.start_round(now.monotonic);
            self.take_questions_along();
            self.request_read_index(attempt, courier);
        }
    }

    fn request_read_index(&mut self, attempt: u64, courier: &mut Courier<'_>) {
        if self.leads() && self.raw.raft.commit_to_current_term() {
            courier.counts.rounds += 1;
            let mut context = Vec::with_capacity(18);
            context.extend_from_slice(&self.me.0.to_le_bytes());
            context.extend_from_slice(&self.shard.0.to_le_bytes());
            context.extend_from_slice(&attempt.to_le_bytes());
            self.raw.read_index(context);
        }
    }

    fn work_off_ready(&mut self, now: Now, journal: &mut Journal, courier: &mut Courier<'_>) {
        let mut ready = self.raw.ready();
        self.send_all(ready.take_messages(), courier);
        let mut must_persist = false;
        if !ready.snapshot().is_empty() {
            let metadata = ready.snapshot().get_metadata();
            let (index, term) = (Index(metadata.index), Term(metadata.term));
            let conf_state = metadata.get_conf_state().clone();
            self.restore(now, (index, term), conf_state, journal, courier);
            must_persist = true;
        }
        let entries = ready.take_entries();
        must_persist |= !entries.is_empty();
        if defect::is(Defect::NotDoneForTruncated)
            && let Some(first) = entries.first()
        {
            self.disown_truncated((Index(first.index), Term(first.term)), courier);
        }
        let first = entries.first().map(|entry| Index(entry.index));
        self.log.append(entries);
        if let Some(writer) = journal.writer()
            && let Some(first) = first
        {
            self.log.with_tail(first, |entries| writer.entries(self.shard, entries));
        }
        if let Some(hard_state) = ready.hs() {
            must_persist |= ready.must_sync();
            if let Some(writer) = journal.writer() {
                writer.hard_state(self.shard, hard_state);
            }
            self.log.set_hard_state(hard_state.clone());
        }
        let messages = ready.take_persisted_messages();
        let committed = ready.take_committed_entries();
        let read_states = ready.take_read_states();
        let number = ready.number();
        self.raw.advance_append_async(ready);
        let awaits_disk = self.awaits_disk && !defect::is(Defect::SkippedSync);
        if awaits_disk && (must_persist || self.unpersisted > 0) {
            self.unpersisted += 1;
            let (shard, id) = (self.shard, self.me);
            let waiting = Unwritten::Ready(Persisting { shard, id, ready: number, messages });
            match must_persist {
                true => journal.wait(waiting),
                false => journal.wait_behind(waiting),
            }
        } else {
            self.raw.on_persist_ready(number);
            self.send_all(messages, courier);
        }
        let data_len = |entry: &Entry| self.log.data_len(Index(entry.index));
        self.committed_bytes += committed.iter().map(data_len).sum::<usize>();
        self.committed.extend(committed);
        self.apply(now, courier);
        for state in read_states {
            if let Some(attempt) = self.attempt_of(&state.request_ctx) {
                let (term, index) = (Term(self.raw.raft.term), Index(state.index));
                let Some(confirmed) = self.reads.confirm(attempt, index) else { continue };
                courier.counts.quorum += confirmed.reads as u64;
                self.answer_round(now, index, courier);
                if self.leads() {
                    self.lease.extend(term, confirmed.asked_at);
                }
            }
        }
    }

    fn attempt_of(&self, context: &[u8]) -> Option<u64> {
        let (me, rest) = context.split_first_chunk::<8>()?;
        let attempt = rest.get(2..)?.first_chunk::<8>()?;
        (u64::from_le_bytes(*me) == self.me.0).then(|| u64::from_le_bytes(*attempt))
    }

    /// A disk operation of an earlier turn has ended well.
    pub fn persisted(&mut self, persisted: Persisting, courier: &mut Courier<'_>) {
        self.unpersisted -= 1;
        self.raw.on_persist_ready(persisted.ready);
        self.send_all(persisted.messages, courier);
    }

    /// Sends messages, and hands their vector back to raft-rs, which would make a new one for the
    /// next: four messages are more than a kilobyte, which allocators are not quick about.
    fn send_all(&mut self, mut messages: Vec<Message>, courier: &mut Courier<'_>) {
        for message in messages.drain(..) {
            courier.send(self, self.shard, message);
        }
        let mailbox = &mut self.raw.raft.msgs;
        if mailbox.capacity() == 0 && messages.capacity() <= MAILBOX_MESSAGES_MAX {
            *mailbox = messages;
        }
    }

    /// Returns commands that were not proposed, and reads, to where they came from.
    fn give_back(&mut self, courier: &mut Courier<'_>) {
        let view = self.view();
        for batch in self.reads.take_unbarred() {
            for parcel in batch.iter() {
                courier.give_back(self.shard, view, &parcel);
            }
        }
        for gathered in std::mem::take(&mut self.gathered) {
            gathered.scatter(|parcel| courier.give_back(self.shard, view, parcel));
        }
        self.gathered_bytes = 0;
    }

    /// Stops for good: what this replica holds cannot be trusted or understood.
    fn stop(&mut self, reason: String, courier: &mut Courier<'_>) {
        courier.event(Event::ReplicaStopped(self.shard, reason.clone()));
        self.stopped = Some(reason);
        self.abandon(courier);
    }

    fn abandon(&mut self, courier: &mut Courier<'_>) {
        self.give_back(courier);
        self.abandon_follower_reads(courier);
        self.refuse_questions(courier);
        for batch in self.reads.take_all() {
            self.fail_batch(&batch, Status::ReadTimeout, courier);
        }
        let doubtful = std::mem::take(&mut self.doubtful);
        for proposed in doubtful.into_iter().chain(std::mem::take(&mut self.proposed)) {
            self.fail_proposed(&proposed, Status::ReplicaStopped, Status::ReadTimeout, courier);
        }
        self.proposed_bytes = 0;
    }
}
