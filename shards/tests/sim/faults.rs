//! What strikes the cluster, and when: each kind of fault on its own clock.
//!
//! A node only loses its memory while every shard it holds is whole elsewhere: never more than a
//! minority of a shard's replicas is without memory. That is what the promises cover.

use shards::command::{Command, Operation, RequestBatch};
use shards::contract::{AdminCommand, Durability, Health, Role};
use shards::ids::{Address, CoreIndex, Eviction, NodeId, ShardId};
use shards::reply::Token;

use crate::options::{MILLI, SECOND};
use crate::workload::NOBODY;
use crate::world::{Event, Loss, Mail, World};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Some nodes are cut off from others.
    Partition,
    /// A link is reset.
    Cut,
    /// A node loses its memory.
    Crash,
    /// A node stops for a while.
    Pause,
    /// A core stops for a while.
    Stall,
    /// A wall clock jumps.
    Clock,
    /// An operator hands a leadership over.
    Transfer,
    /// A node hands everything over and restarts.
    Drain,
    /// All nodes stop at once.
    PowerLoss,
    /// A disk answers nothing for a while.
    DiskStall,
    /// A disk fails.
    DiskFailure,
    /// An operator changes what a shard may hold.
    Limit,
    /// A bit of a value flips in some replica's memory.
    #[cfg(feature = "defects")]
    Flip,
}

const FAULTS: [Fault; 12] = [
    Fault::Partition,
    Fault::Cut,
    Fault::Crash,
    Fault::Pause,
    Fault::Stall,
    Fault::Clock,
    Fault::Transfer,
    Fault::Drain,
    Fault::PowerLoss,
    Fault::DiskStall,
    Fault::DiskFailure,
    Fault::Limit,
];

impl World {
    fn every(&self, fault: Fault) -> u64 {
        let faults = &self.options.faults;
        match fault {
            Fault::Partition => faults.partition_every,
            Fault::Cut => faults.cut_every,
            Fault::Crash => faults.crash_every,
            Fault::Pause => faults.pause_every,
            Fault::Stall => faults.stall_every,
            Fault::Clock => faults.clock_every,
            Fault::Transfer => faults.transfer_every,
            Fault::Drain => faults.drain_every,
            Fault::Limit => faults.limit_every,
            #[cfg(feature = "defects")]
            Fault::Flip => faults.flip_every,
            Fault::PowerLoss if self.has_disks() => faults.power_loss_every,
            Fault::DiskStall if self.has_disks() => faults.disk_stall_every,
            Fault::DiskFailure if self.has_disks() => faults.disk_fail_every,
            Fault::PowerLoss | Fault::DiskStall | Fault::DiskFailure => 0,
        }
    }

    /// Starts the clocks of all faults this seed has.
    pub fn start_faults(&mut self) {
        for fault in FAULTS {
            self.plan(fault);
        }
        #[cfg(feature = "defects")]
        self.plan(Fault::Flip);
    }

    fn plan(&mut self, fault: Fault) {
        let every = self.every(fault);
        if every > 0 {
            let at = self.now + self.chaos.around(every) + 1;
            self.schedule(at, Event::Fault(fault));
        }
    }

    /// A fault strikes, and its next time is drawn.
    pub fn strike(&mut self, fault: Fault) {
        if !self.is_troubled {
            return;
        }
        match fault {
            Fault::Partition => self.partition(),
            Fault::Cut => self.cut_some_link(),
            Fault::Crash => self.crash_some_node(),
            Fault::Pause => self.pause_some_node(),
            Fault::Stall => self.stall_some_core(),
            Fault::Clock => self.move_some_clock(),
            Fault::Transfer => self.transfer_some_shard(),
            Fault::Drain => self.drain_some_node(),
            Fault::PowerLoss => self.lose_power(),
            Fault::DiskStall => self.stall_some_disk(),
            Fault::DiskFailure => self.break_some_disk(),
            Fault::Limit => self.limit_some_shard(),
            #[cfg(feature = "defects")]
            Fault::Flip => self.flip_some_bit(),
        }
        self.plan(fault);
    }

    fn some_node(&mut self) -> NodeId {
        *self.chaos.pick(self.placement.nodes())
    }

    /// Each node is put on one of two sides, or one node alone on one; in one direction or both.
    fn partition(&mut self) {
        let nodes = self.placement.nodes().to_vec();
        let alone = self.chaos.chance(500).then(|| *self.chaos.pick(&nodes));
        let sides: Vec<_> = nodes
            .iter()
            .map(|node| alone.map_or_else(|| self.chaos.chance(500), |alone| alone == *node))
            .collect();
        let one_way = self.chaos.chance(self.options.faults.one_way_share);
        let first_way = self.chaos.chance(500);
        let mut pairs = Vec::new();
        for (from, &side) in nodes.iter().zip(&sides) {
            for (to, &other) in nodes.iter().zip(&sides) {
                if side != other && (!one_way || side == first_way) {
                    pairs.push((*from, *to));
                }
            }
        }
        self.tell(|| format!("blocked: {pairs:?}"));
        let ends: Vec<_> =
            self.network.links.iter().map(|(ends, l)| (*ends, l.connection)).collect();
        for &(from, to) in &pairs {
            self.network.block(from, to);
        }
        for (ends, connection) in ends {
            if pairs.contains(&(ends.0.node, ends.1.node)) {
                let most = self.options.faults.detection_max;
                let at = self.now + self.chaos.between(most / 10, most);
                self.schedule(at, Event::GiveUp(ends, connection));
            }
        }
        let ends_at = self.now + self.chaos.around(self.options.faults.partition_lasts);
        // Links heal one by one as often as all at once.
        if self.chaos.chance(500) {
            self.schedule(ends_at, Event::Unblock(pairs));
        } else {
            for pair in pairs {
                let at = ends_at + self.chaos.below(500 * MILLI);
                self.schedule(at, Event::Unblock(vec![pair]));
            }
        }
    }

    fn cut_some_link(&mut self) {
        let ends: Vec<_> =
            self.network.links.keys().copied().filter(|(from, to)| from.node != to.node).collect();
        if !ends.is_empty() {
            let ends = *self.chaos.pick(&ends);
            let all_is_lost = self.chaos.chance(500);
            let noticed_after = self.chaos.below(30 * MILLI);
            self.tell(|| format!("link {} to {} is cut", ends.0, ends.1));
            self.cut(ends, all_is_lost, noticed_after);
        }
    }

    /// Whether every shard would keep all its other replicas, with their memory and a vote.
    fn can_spare(&self, node: NodeId) -> bool {
        (0..self.placement.shards())
            .map(ShardId)
            .filter(|&shard| self.placement.rank(shard, node).is_some())
            .all(|shard| self.can_spare_replica(shard, node))
    }

    /// Whether a shard would keep all its other replicas, with their memory and a vote.
    pub fn can_spare_replica(&self, shard: ShardId, node: NodeId) -> bool {
        let is_whole = |other: NodeId| {
            let core = self.placement.core(shard, self.process(other).cores);
            let seat = self.seat(Address { node: other, core });
            let leaves_until = self.checkers.leaving.get(&(shard, other)).copied().unwrap_or(0);
            seat.and_then(|seat| seat.core.status(shard)).is_some_and(|status| {
                matches!(status.role, Role::Leader | Role::Follower | Role::Candidate)
                    && status.health == Health::Sound
                    && self.checkers.votes(shard, other)
                    && leaves_until <= self.now
            })
        };
        self.placement.replication() > 1
            && self.placement.replicas(shard).filter(|&other| other != node).all(is_whole)
    }

    fn crash_some_node(&mut self) {
        let node = self.some_node();
        let can_spare = self.can_spare(node);
        let faults = &self.options.faults;
        let (damage, wipe) = (faults.damage_share, faults.wipe_share);
        let loss = match can_spare {
            true if !self.has_disks() || self.chaos.chance(wipe) => Loss::Everything,
            true if self.chaos.chance(damage) => Loss::Damage,
            _ => Loss::Memory,
        };
        if can_spare || self.has_disks() {
            self.crash(node, loss);
            self.come_back(node);
        }
    }

    fn has_disks(&self) -> bool {
        self.options.durability == Durability::Fsync
    }

    fn lose_power(&mut self) {
        self.tell(|| "the power fails".into());
        self.tally.power_losses += 1;
        for node in self.placement.nodes().to_vec() {
            self.crash(node, Loss::Memory);
            self.come_back(node);
        }
    }

    fn some_core(&mut self) -> Address {
        let node = self.some_node();
        let core = CoreIndex(self.chaos.below(u64::from(self.process(node).cores)) as u16);
        Address { node, core }
    }

    fn stall_some_disk(&mut self) {
        let at = self.some_core();
        let until = self.now + self.chaos.around(self.options.faults.disk_stall_lasts);
        self.tell(|| format!("the disk of {at} stalls"));
        if let Some(seat) = self.seat_mut(at) {
            seat.disk_stalled_until = seat.disk_stalled_until.max(until);
        }
    }

    fn break_some_disk(&mut self) {
        let at = self.some_core();
        if let Some(seat) = self.seat_mut(at) {
            seat.disk_fails = true;
        }
    }

    fn come_back(&mut self, node: NodeId) {
        if self.options.faults.recore && self.chaos.chance(500) {
            self.process_mut(node).cores = self.chaos.between(1, 3) as u16;
        }
        let at = self.now + 1 + self.chaos.around(self.options.faults.crash_lasts);
        self.schedule(at, Event::Boot(node));
    }

    fn cores_of(&self, node: NodeId) -> impl Iterator<Item = Address> + use<> {
        (0..self.process(node).cores).map(move |core| Address { node, core: CoreIndex(core) })
    }

    fn pause_some_node(&mut self) {
        let node = self.some_node();
        let lasts = self.chaos.around(self.options.faults.pause_lasts);
        self.tell(|| format!("node {node} stops for {} ms", lasts / MILLI));
        for at in self.cores_of(node) {
            self.freeze(at, lasts);
        }
    }

    fn stall_some_core(&mut self) {
        let at = self.some_core();
        let lasts = self.chaos.around(self.options.faults.pause_lasts);
        self.tell(|| format!("core {at} stops for {} ms", lasts / MILLI));
        self.freeze(at, lasts);
    }

    fn move_some_clock(&mut self) {
        let node = self.some_node();
        let most = self.options.faults.clock_step_max_ms;
        let step = self.chaos.between(0, 2 * most) as i64 - most as i64;
        self.tell(|| format!("the wall clock of node {node} jumps by {step} ms"));
        self.process_mut(node).wall_offset_ms += step;
    }

    fn transfer_some_shard(&mut self) {
        let shard = ShardId(self.chaos.below(u64::from(self.placement.shards())) as u16);
        let to = self.some_node();
        for node in self.placement.nodes().to_vec() {
            for at in self.cores_of(node) {
                self.mail(at, None, Mail::Admin(AdminCommand::Transfer { shard, to }));
            }
        }
    }

    /// Some core is asked to change a shard's limit, by nobody who waits for the answer.
    fn limit_some_shard(&mut self) {
        let shard = ShardId(self.chaos.below(u64::from(self.placement.shards())) as u16);
        let at = self.some_core();
        let most = self.options.shard_bytes_max;
        let bytes_max = self.chaos.between(most / 2, most);
        let eviction = [None, Some(Eviction::Lru), Some(Eviction::Sieve)];
        let eviction = *self.chaos.pick(&eviction);
        let operation = Operation::Limit { bytes_max: Some(bytes_max), eviction };
        let command = Command { key: b"", operation };
        let mut batch = RequestBatch::default();
        let token = Token { connection: NOBODY, sequence: 0, part: 0 };
        batch.push(shard, token, false, &command);
        self.tell(|| format!("{at} is asked to let {shard} hold {bytes_max} bytes, {eviction:?}"));
        self.mail(at, None, Mail::Requests(batch));
    }

    /// A node is asked to stop, does so a while later, and comes back.
    fn drain_some_node(&mut self) {
        let node = self.some_node();
        let can_stop = self.has_disks() || self.can_spare(node);
        if self.process(node).seats.is_empty() || !can_stop {
            return;
        }
        self.tell(|| format!("node {node} drains"));
        for at in self.cores_of(node) {
            self.mail(at, None, Mail::Admin(AdminCommand::Drain));
        }
        self.draining.insert(node);
        let at = self.now + self.chaos.between(SECOND / 10, 2 * SECOND);
        self.schedule(at, Event::Restart(node));
    }

    /// A node that was asked to stop does so, as soon as the shards can spare it.
    pub fn restart(&mut self, node: NodeId) {
        if !self.draining.contains(&node) {
            return;
        }
        if self.has_disks() || self.can_spare(node) {
            self.crash(node, Loss::Memory);
            self.come_back(node);
        } else {
            self.schedule(self.now + 100 * MILLI, Event::Restart(node));
        }
    }

    /// Ends all trouble: everything lives, nothing is blocked, cut, lost or late.
    pub fn heal(&mut self) {
        self.tell(|| "all is healed".into());
        self.is_troubled = false;
        self.network.calm();
        let nodes = self.placement.nodes().to_vec();
        for &from in &nodes {
            for &to in &nodes {
                while self.network.is_blocked(from, to) {
                    self.network.unblock(from, to);
                }
            }
        }
        self.release();
        for at in self.checkers.failed_disks.clone() {
            self.crash(at.node, Loss::Memory);
        }
        if self.has_disks() {
            // Who was asked to stop does so now, and comes back.
            for node in self.draining.clone() {
                self.crash(node, Loss::Memory);
            }
        }
        self.release_disks();
        self.thaw();
        for node in nodes {
            self.boot(node);
        }
        // Losses that nobody has noticed yet would swallow frames for seconds.
        for ends in self.network.links.keys().copied().collect::<Vec<_>>() {
            self.notice_loss(ends);
        }
    }
}
