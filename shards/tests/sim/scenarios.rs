//! Schedules played by hand: each is the way in which an obvious version of the engine fails, and
//! too rare to be left to random faults.
//!
//! A scenario is played in several variants, which differ in its timing. It comes to a violation,
//! or says whether it met the situation it is about: for that, some variant must.
//! `defects.rs` plays them against the version of the engine that each is about.

use history::register::{Condition, Input};
use shards::command::RequestBatch;
use shards::contract::{AdminCommand, Durability, ReadMode, Role, ShardStatus};
use shards::ids::{Address, CoreIndex, Millis, NodeId, ShardId};

use crate::options::{Disks, Faults, Keys, MICRO, MILLI, Options, SECOND};
use crate::world::{Loss, Mail, TICK_NS, World};

/// What a variant came to: a violation, or whether the situation was met.
pub type Played = Result<bool, String>;

/// A schedule with its variants.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Number of variants.
    pub variants: u64,
    /// Plays one of them.
    pub play: fn(u64) -> Played,
}

/// The shard of scenarios.
pub const SHARD: ShardId = ShardId(0);
/// No lease and no election lasts as long as this.
pub const LONG: u64 = 3 * SECOND;

/// Three nodes with one shard on one core each, no clients, no faults.
pub fn quiet() -> Options {
    Options {
        cores: vec![1; 3],
        replicas: 3,
        reads: ReadMode::Quorum,
        shards: 1,
        shard_bytes_max: 1 << 20,
        request_deadline: 2 * SECOND,
        parked_bytes_max: 1 << 20,
        delay_min: 100 * MICRO,
        delay_mean: 100 * MICRO,
        gather_max: 10 * MICRO,
        durability: Durability::Memory,
        disk: Disks {
            segment_bytes: 64 << 10,
            write_max: MILLI,
            death_in_move_share: 0,
            outlives_failure: None,
        },
        drift_max_ppm: 0,
        wall_skew_ms: 0,
        faults: Faults::default(),
        keys: Keys::Expiring,
        keys_per_shard: 1,
        single_clients: 0,
        pipelining_clients: 0,
        replica_read_share: 0,
        ..Options::draw(1)
    }
}

/// A cluster with the means to play it by hand. Nodes are named by their numbers.
pub struct Stage {
    /// The cluster.
    pub world: World,
}

impl Stage {
    /// A cluster that has just started.
    pub fn new(options: Options) -> Self {
        Stage { world: World::new(options, false) }
    }

    /// A cluster whose node 1 leads.
    pub fn settled(options: Options) -> Result<Self, String> {
        Self::settled_with_skew(options, &[])
    }

    /// The same with differences between the wall clocks, in milliseconds.
    pub fn settled_with_skew(options: Options, wall_skew_ms: &[i64]) -> Result<Self, String> {
        let mut stage = Stage::new(options);
        for (process, &skew) in stage.world.processes.iter_mut().zip(wall_skew_ms) {
            process.wall_offset_ms = skew;
        }
        stage.pass(2 * SECOND)?;
        match stage.leads(1) {
            true => Ok(stage),
            false => Err("node 1 is preferred, and does not lead".into()),
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: u64) -> Result<(), String> {
        self.world.run_until(self.world.now + time)
    }

    /// Lets time pass, at most `within`, until `is_so`. Says whether it is.
    pub fn pass_until(
        &mut self,
        within: u64,
        is_so: impl Fn(&Self) -> bool,
    ) -> Result<bool, String> {
        let until = self.world.now + within;
        while !is_so(self) {
            if self.world.now >= until {
                return Ok(false);
            }
            self.pass(20 * MICRO)?;
        }
        Ok(true)
    }

    pub fn status(&self, node: u16) -> Option<ShardStatus> {
        self.world.seat(at(node)).and_then(|seat| seat.core.status(SHARD))
    }

    pub fn role(&self, node: u16) -> Option<Role> {
        self.status(node).map(|status| status.role)
    }

    /// Whether a node's replica leads.
    pub fn leads(&self, node: u16) -> bool {
        self.role(node) == Some(Role::Leader)
    }

    pub fn client(&mut self, node: u16) -> usize {
        self.world.add_client(at(node))
    }

    /// Sends a request through the connection of client `place` at `node`.
    pub fn ask(&mut self, node: u16, place: usize, input: Input) {
        let mut batch = RequestBatch::default();
        self.world.request(place, SHARD, 0, input, &mut batch);
        self.world.mail(at(node), None, Mail::Requests(batch));
    }

    /// Asks from a connection of its own.
    pub fn ask_anew(&mut self, node: u16, input: Input) {
        let place = self.client(node);
        self.ask(node, place, input);
    }

    /// Holds up what each of `from` sends to each of `to`.
    pub fn block(&mut self, from: &[u16], to: &[u16]) {
        for (from, to) in pairs(from, to) {
            self.world.network.block(from, to);
        }
    }

    /// Lets it through again.
    pub fn unblock(&mut self, from: &[u16], to: &[u16]) {
        self.world.unblock(&pairs(from, to));
    }

    /// Hands the leadership over.
    pub fn transfer(&mut self, from: u16, to: u16) {
        let command = AdminCommand::Transfer { shard: SHARD, to: NodeId(to) };
        self.world.mail(at(from), None, Mail::Admin(command));
    }

    /// Ends all trouble, waits until everybody is answered, and judges what they were told.
    pub fn judge(mut self) -> Result<(), String> {
        self.world.heal();
        self.pass(LONG)?;
        if self.world.workload.is_waiting() {
            return Err("somebody was never answered".into());
        }
        self.world.workload.judge(Keys::Expiring).map(|_| ())
    }
}

/// The core of a node with one.
pub fn at(node: u16) -> Address {
    Address { node: NodeId(node), core: CoreIndex(0) }
}

fn pairs(from: &[u16], to: &[u16]) -> Vec<(NodeId, NodeId)> {
    let pair = |&from: &u16| to.iter().map(move |&to| (NodeId(from), NodeId(to)));
    from.iter().flat_map(pair).filter(|(from, to)| from != to).collect()
}

/// A plain write.
pub fn set(text: &str, lives: Option<u64>) -> Input {
    let value = text.as_bytes().into();
    Input::Set { value, condition: Condition::Always, lives, return_old: false }
}

/// The entry of the write leaves, and the answers to it do not come: another leader commits it,
/// and later writes as well.
pub const READ_BEHIND_A_WRITE: Scenario = Scenario {
    variants: 1,
    play: |_| {
        let mut stage = Stage::settled(quiet())?;
        let early = stage.client(1);
        stage.ask(1, early, set("first", None));
        stage.block(&[2, 3], &[1]);
        stage.pass(MILLI)?;
        stage.world.freeze(at(1), SECOND);
        stage.pass(800 * MILLI)?;
        let met = stage.leads(2);
        stage.ask_anew(2, set("second", None));
        stage.pass(50 * MILLI)?;
        // The old leader has not heard of all that when it takes the read.
        stage.ask(1, early, Input::Get);
        stage.pass(MILLI)?;
        stage.unblock(&[2, 3], &[1]);
        stage.judge()?;
        Ok(met)
    },
};

/// The confirmations of a round of reads are held up until another leads; one of them ends that
/// round, the other comes into the next.
pub const LATE_CONFIRMATIONS: Scenario = Scenario {
    variants: 12,
    play: |variant| {
        let mut stage = Stage::settled(quiet())?;
        stage.ask_anew(1, set("first", None));
        stage.pass(100 * MILLI + variant * TICK_NS / 2)?;
        stage.block(&[2, 3], &[1]);
        stage.ask_anew(1, Input::Get);
        stage.pass(5 * MILLI)?;
        stage.block(&[1], &[2, 3]);
        let confirmations = stage.world.take_held(at(1));
        for _ in 0..20 {
            stage.pass(20 * MILLI)?;
            if stage.leads(2) {
                break;
            }
        }
        stage.ask_anew(2, set("second", None));
        stage.pass(5 * MILLI)?;
        let (one, other): (Vec<_>, Vec<_>) =
            confirmations.into_iter().partition(|flight| flight.ends.0 == at(2));
        for flight in one {
            stage.world.hand_over(flight);
        }
        stage.pass(MILLI)?;
        stage.ask_anew(1, Input::Get);
        stage.pass(MILLI)?;
        let met = stage.leads(1) && stage.leads(2);
        for flight in other {
            stage.world.hand_over(flight);
        }
        stage.pass(TICK_NS)?;
        stage.judge()?;
        Ok(met)
    },
};

/// The members lose their memory one after the other, the second before the first is taken in.
pub const MEMORY_LOST_ONE_BY_ONE: Scenario = Scenario {
    variants: 5,
    play: |variant| {
        let gap = [100, 150, 250, 400, 600][variant as usize % 5];
        let mut stage = Stage::settled(quiet())?;
        for node in [1, 2, 3].map(NodeId) {
            stage.world.crash(node, Loss::Everything);
            stage.pass(50 * MILLI)?;
            stage.world.boot(node);
            stage.pass(gap * MILLI)?;
        }
        stage.world.checkers.forget();
        stage.world.heal();
        stage.pass(10 * SECOND)?;
        let roles = [1, 2, 3].map(|node| stage.role(node));
        let [follower, leader] = [Some(Role::Follower), Some(Role::Leader)];
        match roles == [leader, follower, follower] {
            true => Ok(true),
            false => Err(format!("after gaps of {gap} ms the shard is not whole: {roles:?}")),
        }
    },
};

/// The others' wall clocks are an hour ahead, and the leader goes before it has told them that the
/// write is committed.
pub const FAST_WALL_CLOCK: Scenario = Scenario {
    variants: 1,
    play: |_| {
        let hour_ms = 3_600_000;
        let mut stage = Stage::settled_with_skew(quiet(), &[0, hour_ms, hour_ms])?;
        stage.ask_anew(1, set("value", Some(10 * SECOND)));
        stage.pass(2 * MILLI)?;
        let is_acknowledged = !stage.world.workload.is_waiting();
        stage.world.crash(NodeId(1), Loss::Everything);
        stage.pass(SECOND)?;
        let met = is_acknowledged && stage.leads(2);
        for _ in 0..2 {
            stage.ask_anew(2, Input::Get);
            stage.pass(SECOND)?;
        }
        stage.judge()?;
        Ok(met)
    },
};

/// A leader is elected again after others led for a while, with a write at hand that it has kept
/// meanwhile. It must not stamp the write as if no time had passed since its last one: replicas
/// whose clocks went on would expire the value early when they lead.
pub const ELECTED_AGAIN: Scenario = Scenario {
    variants: 1,
    play: |_| {
        let mut stage = Stage::settled(quiet())?;
        stage.ask_anew(1, set("first", None));
        stage.pass(SECOND)?;
        stage.transfer(1, 3);
        stage.pass(SECOND)?;
        let met = stage.leads(3);
        stage.world.freeze(at(3), LONG);
        let has_none = |stage: &Stage| stage.status(1).is_some_and(|s| s.leader.leader.is_none());
        let met = stage.pass_until(SECOND, has_none)? && met;
        // It waits for a leader, and is proposed in the moment in which there is one.
        stage.ask_anew(1, set("mortal", Some(800 * MILLI)));
        stage.pass(100 * MILLI)?;
        let met = met && stage.leads(1) && !stage.world.workload.is_waiting();
        stage.transfer(1, 2);
        stage.pass(100 * MILLI)?;
        let met = met && stage.leads(2);
        stage.ask_anew(2, Input::Get);
        stage.pass(100 * MILLI)?;
        stage.judge()?;
        Ok(met)
    },
};

/// A leader that is cut off proposes as much as it may, and its entries are truncated. When it
/// leads again, they must not count any more.
pub const PROPOSED_IN_VAIN: Scenario = Scenario {
    variants: 1,
    play: |_| {
        let mut stage = Stage::settled(quiet())?;
        stage.block(&[1], &[2, 3]);
        stage.block(&[2, 3], &[1]);
        let value = "x".repeat(60_000);
        stage.world.checkers.asked_bytes_max = 180 * 64_000;
        for _ in 0..20 {
            stage.ask_anew(1, set("small", None));
            stage.pass(MILLI)?;
        }
        for _ in 0..180 {
            stage.ask_anew(1, set(&value, None));
        }
        stage.pass(20 * MILLI)?;
        let proposed = stage.world.seat(at(1)).map_or(0, |seat| seat.core.held().proposed_bytes);
        stage.pass(2 * SECOND)?;
        let met = stage.leads(2) && proposed >= 8 << 20;
        stage.world.heal();
        let met = stage.pass_until(2 * LONG, |stage| stage.leads(1))? && met;
        stage.world.start_probes();
        stage.pass(LONG)?;
        match stage.world.workload.served.is_empty() {
            true => Err("a leader that once proposed in vain proposes nothing any more".into()),
            false => Ok(met),
        }
    },
};

/// A leader holds a lease, asks another to take over, and does not hear that it did.
pub const READ_AFTER_HANDING_OVER: Scenario = Scenario {
    variants: 1,
    play: |_| {
        let mut stage = Stage::settled(Options { reads: ReadMode::Lease, ..quiet() })?;
        stage.ask_anew(1, set("first", None));
        stage.pass(10 * MILLI)?;
        stage.ask_anew(1, Input::Get);
        stage.pass(10 * MILLI)?;
        let had_lease = stage.status(1).is_some_and(|status| status.lease.is_some());
        stage.block(&[2, 3], &[1]);
        stage.transfer(1, 2);
        let met = stage.pass_until(100 * MILLI, |stage| stage.leads(2))? && had_lease;
        stage.ask_anew(2, set("second", None));
        stage.pass(10 * MILLI)?;
        stage.ask_anew(1, Input::Get);
        stage.pass(10 * MILLI)?;
        stage.judge()?;
        Ok(met)
    },
};

/// A leader stands still until another leads, and wakes up with a read at hand and no news.
pub const PAUSED_LEADER: Scenario = Scenario {
    variants: 2,
    play: |variant| {
        let reads = [ReadMode::Quorum, ReadMode::Lease][variant as usize % 2];
        let mut stage = Stage::settled(Options { reads, ..quiet() })?;
        stage.ask_anew(1, set("first", None));
        stage.ask_anew(1, Input::Get);
        stage.pass(20 * MILLI)?;
        stage.world.freeze(at(1), SECOND);
        stage.block(&[2, 3], &[1]);
        stage.pass(800 * MILLI)?;
        let met = stage.leads(1) && stage.leads(2);
        stage.ask_anew(2, set("second", None));
        stage.pass(50 * MILLI)?;
        stage.ask_anew(1, Input::Get);
        stage.pass(200 * MILLI)?;
        stage.judge()?;
        Ok(met)
    },
};

/// A leader and one of its followers stand still until the others have elected another, and wake up
/// with a read at the follower's hand and no news.
pub const PAUSED_WITH_A_FOLLOWER: Scenario = Scenario {
    variants: 2,
    play: |variant| {
        let reads = [ReadMode::Quorum, ReadMode::Lease][variant as usize % 2];
        let options = Options { reads, replica_read_share: 1_000, ..quiet() };
        let mut stage = Stage::settled(Options { cores: vec![1; 5], replicas: 5, ..options })?;
        stage.ask_anew(1, set("first", None));
        stage.ask_anew(2, Input::Get);
        stage.pass(20 * MILLI)?;
        stage.world.freeze(at(1), SECOND);
        stage.world.freeze(at(2), SECOND);
        stage.block(&[3, 4, 5], &[1, 2]);
        stage.pass(900 * MILLI)?;
        let met = stage.leads(1) && stage.leads(3);
        stage.ask_anew(3, set("second", None));
        stage.pass(50 * MILLI)?;
        stage.ask_anew(2, Input::Get);
        stage.pass(200 * MILLI)?;
        stage.judge()?;
        Ok(met)
    },
};

/// A follower hears of a write only after it was acknowledged, and is asked for it before.
pub const READ_AT_A_FOLLOWER_BEHIND: Scenario = Scenario {
    variants: 1,
    play: |_| {
        let mut stage = Stage::settled(Options { replica_read_share: 1_000, ..quiet() })?;
        stage.ask_anew(1, set("first", None));
        stage.pass(100 * MILLI)?;
        // What node 1 sends to node 3 is held up, and goes on in its order.
        stage.block(&[1], &[3]);
        stage.ask_anew(1, set("second", None));
        stage.pass(5 * MILLI)?;
        let met = !stage.world.workload.is_waiting();
        stage.ask_anew(3, Input::Get);
        stage.pass(5 * MILLI)?;
        let waits = stage.world.workload.is_waiting();
        stage.unblock(&[1], &[3]);
        stage.judge()?;
        Ok(met && waits)
    },
};

/// The leader's disk is slow: its followers have committed and applied a write, and shown it to a
/// reader, when the leader itself may not apply it yet. Its lease says that it leads, and nothing
/// of what it has.
pub const LEADER_BEHIND_ITS_FOLLOWERS: Scenario = Scenario {
    variants: 1,
    play: |_| {
        let options = Options { reads: ReadMode::Lease, durability: Durability::Fsync, ..quiet() };
        let mut stage = Stage::settled(Options { replica_read_share: 1_000, ..options })?;
        stage.ask_anew(1, set("first", None));
        stage.pass(100 * MILLI)?;
        stage.ask_anew(1, Input::Get);
        stage.pass(10 * MILLI)?;
        let until = stage.world.now + 300 * MILLI;
        if let Some(seat) = stage.world.seat_mut(at(1)) {
            seat.disk_stalled_until = until;
        }
        stage.ask_anew(1, set("second", None));
        stage.pass(80 * MILLI)?;
        stage.ask_anew(2, Input::Get);
        stage.pass(5 * MILLI)?;
        let applied = |node| stage.status(node).map(|status| status.applied);
        let met =
            applied(1) < applied(2) && stage.status(1).is_some_and(|status| status.lease.is_some());
        stage.ask_anew(1, Input::Get);
        stage.pass(5 * MILLI)?;
        stage.judge()?;
        Ok(met)
    },
};

/// The followers stand still for almost an election timeout. On waking up they confirm a round,
/// which gives a lease, and must not elect another before it has ended.
pub const PAUSED_FOLLOWERS: Scenario = Scenario {
    variants: 8,
    play: |variant| {
        let mut stage = Stage::settled(Options { reads: ReadMode::Lease, ..quiet() })?;
        stage.ask_anew(1, set("first", None));
        stage.pass(100 * MILLI + variant * TICK_NS / 4)?;
        for node in [2, 3] {
            stage.world.freeze(at(node), 270 * MILLI);
        }
        stage.pass(268 * MILLI)?;
        stage.ask_anew(1, Input::Get);
        let has_lease = |stage: &Stage| stage.status(1).is_some_and(|s| s.lease.is_some());
        let met = stage.pass_until(10 * MILLI, has_lease)?;
        stage.block(&[2, 3], &[1]);
        stage.block(&[1], &[2, 3]);
        let lease_ends = |stage: &Stage| stage.leads(2) || !has_lease(stage);
        stage.pass_until(300 * MILLI, lease_ends)?;
        stage.ask_anew(2, set("second", None));
        stage.pass(5 * MILLI)?;
        stage.ask_anew(1, Input::Get);
        stage.pass(5 * MILLI)?;
        stage.judge()?;
        Ok(met)
    },
};

/// Of five replicas, nodes 1 and 3 have an entry that a leader elected by the rest truncates on
/// node 1. That leader goes, and node 3 wins with the entry.
pub const TRUNCATED_HERE_ALIVE_ELSEWHERE: Scenario = Scenario {
    variants: 1,
    play: |_| {
        let options = Options { cores: vec![1; 5], replicas: 5, ..quiet() };
        let mut stage = Stage::settled(Options { request_deadline: 10 * SECOND, ..options })?;
        let term = stage.status(1).map(|status| status.leader.term);
        stage.block(&[1], &[2, 4, 5]);
        stage.ask_anew(1, set("disputed", None));
        stage.pass(5 * MILLI)?;
        stage.block(&[3], &[2, 4, 5]);
        stage.block(&[2, 4, 5], &[1, 3]);
        let has_voted = |stage: &Stage| {
            [4, 5].iter().all(|&n| stage.status(n).map(|status| status.leader.term) > term)
        };
        let has_quorum = stage.pass_until(SECOND, has_voted)?;
        stage.block(&[2], &[4, 5]);
        let is_elected = stage.pass_until(10 * MILLI, |stage| stage.leads(2))?;
        // Its first entry replaces the disputed one on node 1, and is on no other.
        stage.unblock(&[2], &[1]);
        let is_deposed = stage.pass_until(SECOND, |stage| !stage.leads(1))?;
        stage.pass(5 * MILLI)?;
        stage.block(&[2], &[1]);
        stage.block(&[1], &[3]);
        stage.unblock(&[3], &[4, 5]);
        stage.unblock(&[4, 5], &[3]);
        let met = stage.pass_until(LONG, |stage| stage.leads(3))?;
        stage.ask_anew(3, Input::Get);
        stage.pass(100 * MILLI)?;
        stage.judge()?;
        Ok(met && has_quorum && is_elected && is_deposed)
    },
};

/// A key is due by the leader's clock. The next leader heard of the write later, and its clock
/// lags by as much.
pub const SEEN_ABSENT_BEFORE_HANDING_OVER: Scenario = Scenario {
    variants: 8,
    play: |variant| {
        let mut stage = Stage::settled(quiet())?;
        stage.pass(variant * TICK_NS / 4)?;
        stage.ask_anew(1, set("mortal", Some(300 * MILLI)));
        stage.pass(305 * MILLI)?;
        stage.ask_anew(1, Input::Get);
        stage.pass(3 * MILLI)?;
        stage.transfer(1, 2);
        let met = stage.pass_until(50 * MILLI, |stage| stage.leads(2))?;
        stage.ask_anew(2, Input::Get);
        stage.pass(3 * MILLI)?;
        stage.judge()?;
        Ok(met)
    },
};

/// Nodes 2 and 3 say that they are empty, and start over before the shard is formed: it must not
/// be formed with what they were.
pub const EMPTY_ANSWERS_OF_FORMER_LIVES: Scenario = Scenario {
    variants: 40,
    play: |variant| {
        let mut stage = Stage::new(quiet());
        stage.pass(100 * MILLI + variant * 5 * MILLI)?;
        let is_formed = |stage: &Stage, node: u16| {
            stage.world.seat(at(node)).is_some_and(|seat| seat.core.store(SHARD).is_some())
        };
        if [1, 2, 3].iter().any(|&node| is_formed(&stage, node)) {
            return Ok(false);
        }
        for node in [2, 3].map(NodeId) {
            stage.world.crash(node, Loss::Everything);
        }
        stage.pass(20 * MILLI)?;
        for node in [2, 3].map(NodeId) {
            stage.world.boot(node);
        }
        match stage.pass_until(10 * SECOND, |stage| stage.leads(1))? {
            true => Ok(true),
            false => Err("the shard was formed with members that are gone".into()),
        }
    },
};

/// A leader that holds a lease is cut off, and the follower that granted it starts anew with its
/// log. It remembers no promise, and must not elect another before the lease has ended.
pub const VOTER_STARTS_ANEW: Scenario = Scenario {
    variants: 20,
    play: |variant| {
        let options = Options { reads: ReadMode::Lease, ..quiet() };
        let mut stage = Stage::settled(Options { durability: Durability::Fsync, ..options })?;
        stage.ask_anew(1, set("first", None));
        stage.pass(20 * MILLI)?;
        // Node 3 hears of nobody any more, and asks for votes.
        stage.block(&[1], &[3]);
        stage.block(&[3], &[1]);
        stage.pass(SECOND + variant * 15 * MILLI)?;
        stage.ask_anew(1, Input::Get);
        let has_lease = |stage: &Stage| stage.status(1).is_some_and(|s| s.lease.is_some());
        let met = stage.pass_until(10 * MILLI, has_lease)?;
        stage.block(&[1], &[2]);
        stage.block(&[2], &[1]);
        stage.world.crash(NodeId(2), Loss::Memory);
        stage.pass(MILLI)?;
        stage.world.boot(NodeId(2));
        stage.pass_until(250 * MILLI, |stage| stage.leads(3) || !has_lease(stage))?;
        stage.ask_anew(3, set("second", None));
        stage.pass(10 * MILLI)?;
        stage.ask_anew(1, Input::Get);
        stage.pass(10 * MILLI)?;
        stage.judge()?;
        Ok(met)
    },
};

/// The leader's log cannot be written any more, and nobody ends its process: the others go on.
pub const POISONED_LEADER: Scenario = Scenario {
    variants: 1,
    play: |_| {
        let mut stage = Stage::settled(Options { durability: Durability::Fsync, ..quiet() })?;
        if let Some(seat) = stage.world.seat_mut(at(1)) {
            seat.disk_fails = true;
        }
        stage.ask_anew(2, set("first", None));
        let has_failed = |stage: &Stage| stage.world.tally.failed_disks > 0;
        let met = stage.pass_until(SECOND, has_failed)?;
        stage.pass(SECOND)?;
        stage.ask_anew(3, set("second", None));
        stage.pass(SECOND)?;
        match stage.leads(2) && stage.status(2).map(|s| s.keys) == Some(1) {
            true => Ok(met),
            false => Err("a shard whose leader cannot write its log serves nobody".into()),
        }
    },
};

/// A replica was away for so long that it gets a snapshot, and nothing after it. Then the leader
/// goes, and it campaigns with a log that begins behind the snapshot.
pub const CAMPAIGN_RIGHT_AFTER_A_SNAPSHOT: Scenario = Scenario {
    variants: 1,
    play: |_| {
        let mut stage = Stage::settled(Options { durability: Durability::Fsync, ..quiet() })?;
        stage.world.crash(NodeId(3), Loss::Memory);
        stage.pass(LONG)?;
        let value = "x".repeat(60_000);
        for _ in 0..60 {
            stage.ask_anew(1, set(&value, None));
            stage.pass(5 * MILLI)?;
        }
        stage.world.boot(NodeId(3));
        let is_restored = |stage: &Stage| stage.world.checkers.restores > 0;
        let met = stage.pass_until(2 * SECOND, is_restored)?;
        stage.world.freeze(at(1), LONG);
        stage.world.freeze(at(2), LONG);
        stage.pass(2 * SECOND)?;
        stage.judge()?;
        Ok(met)
    },
};

/// Two of three members lose their memory for good. The third lacks the last write, and holds the
/// one before. The operator lets the shard go on from it, or (variants) from one that has nothing,
/// while the third is cut off and comes back later. With a disk, the power then fails for all.
pub const MAJORITY_LOST: Scenario = Scenario {
    variants: 8,
    play: |variant| {
        let from_survivor = variant % 2 == 0;
        let durability = [Durability::Memory, Durability::Fsync][variant as usize / 4];
        let mut stage = Stage::settled(Options { durability, ..quiet() })?;
        stage.ask_anew(1, set("kept", None));
        stage.pass(200 * MILLI)?;
        for node in [1, 2].map(NodeId) {
            stage.world.crash(node, Loss::Everything);
        }
        stage.pass(variant % 4 * 100 * MILLI)?;
        for node in [1, 2].map(NodeId) {
            stage.world.boot(node);
        }
        stage.pass(5 * SECOND)?;
        if [1, 2, 3].iter().any(|&node| stage.leads(node)) {
            return Err("the shard goes on though a majority of it is lost".into());
        }
        let chosen = if from_survivor { 3 } else { 2 };
        if !from_survivor {
            stage.block(&[3], &[1, 2]);
            stage.block(&[1, 2], &[3]);
        }
        stage.world.checkers.forget();
        let command = AdminCommand::Recover { shard: SHARD };
        stage.world.mail(at(chosen), None, Mail::Admin(command));
        stage.pass(2 * SECOND)?;
        let met = [1, 2, 3].iter().any(|&node| stage.leads(node));
        stage.world.heal();
        stage.pass(10 * SECOND)?;
        let roles = [1, 2, 3].map(|node| stage.role(node));
        let [follower, leader] = [Some(Role::Follower), Some(Role::Leader)];
        if roles != [leader, follower, follower] {
            return Err(format!("after the recovery the shard is not whole: {roles:?}"));
        }
        let keys = [1, 2, 3].map(|node| stage.status(node).map(|status| status.keys));
        let expected = Some(u64::from(from_survivor));
        if keys != [expected; 3] {
            return Err(format!("the replicas hold {keys:?} keys, and not {expected:?}"));
        }
        if durability == Durability::Fsync {
            for node in [1, 2, 3].map(NodeId) {
                stage.world.crash(node, Loss::Memory);
            }
            stage.pass(100 * MILLI)?;
            for node in [1, 2, 3].map(NodeId) {
                stage.world.boot(node);
            }
            stage.pass(5 * SECOND)?;
            let keys = [1, 2, 3].map(|node| stage.status(node).map(|status| status.keys));
            if keys != [expected; 3] || !stage.leads(1) {
                return Err(format!("after a power loss the replicas hold {keys:?} keys"));
            }
        }
        let before = stage.world.workload.len();
        stage.ask_anew(1, set("new", None));
        stage.pass(SECOND)?;
        match stage.world.workload.is_waiting() || stage.world.workload.len() != before + 1 {
            true => Err("the shard does not serve".into()),
            false => Ok(met),
        }
    },
};

/// Reads one after the other for two seconds, with a pause between them, at a leader that reads by
/// its lease. Returns how many it has read so, and the rounds that took.
fn read_by_lease(pause: u64) -> Result<(u64, u64), String> {
    let mut stage = Stage::settled(Options { reads: ReadMode::Lease, ..quiet() })?;
    stage.ask_anew(1, set("first", None));
    stage.ask_anew(1, Input::Get);
    stage.pass(100 * MILLI)?;
    let counts = |stage: &Stage| {
        stage.world.seat(at(1)).map(|seat| seat.core.read_counts()).unwrap_or_default()
    };
    let before = counts(&stage);
    let reader = stage.client(1);
    let until = stage.world.now + 2 * SECOND;
    while stage.world.now < until {
        stage.ask(1, reader, Input::Get);
        stage.pass(pause)?;
    }
    let after = counts(&stage);
    if after.quorum != before.quorum {
        return Err(format!("a read went without a lease: {before:?}, {after:?}"));
    }
    Ok((after.lease - before.lease, after.rounds - before.rounds))
}

#[test]
fn reads_by_lease_cost_rounds_by_time_and_not_by_number() {
    // A lease lasts nine tenths of five ticks, and is renewed in its second half.
    let half_lease = TICK_NS * 5 / 10 * 9 / 2;
    let rounds_max = 2 * SECOND / half_lease + 1;
    let mut most = 0;
    for pause in [10 * MILLI, MILLI, 100 * MICRO] {
        let (reads, rounds) = read_by_lease(pause).expect("no violation");
        assert!(reads >= 2 * SECOND / pause - 2, "{reads} reads with pauses of {pause} ns");
        assert!(rounds <= rounds_max, "{rounds} rounds for {reads} reads in two seconds");
        most = most.max(reads);
    }
    assert!(most > 1_000 * rounds_max, "{most} reads");
}

/// A key that only a follower's clients read counts as used on all replicas, although nobody
/// writes: the shard is nearly full, and the next write evicts what was not used.
#[test]
fn what_readers_of_a_follower_use_is_used_on_all_replicas() {
    let options = Options {
        keys: Keys::Evicted,
        shard_bytes_max: 480,
        replica_read_share: 1_000,
        touch_interval: Millis(20),
        ..quiet()
    };
    let mut stage = Stage::settled(options).expect("no violation");
    stage.ask_anew(1, set(&"v".repeat(390), None));
    stage.pass(SECOND).expect("no violation");
    let status = |stage: &Stage, node| stage.status(node).expect("a replica");
    assert!(status(&stage, 1).bytes > 420, "{} bytes", status(&stage, 1).bytes);
    let before = status(&stage, 1).applied;
    stage.ask_anew(2, Input::Get);
    stage.pass(2 * SECOND).expect("no violation");
    let sent = [1, 2, 3].map(|node| status(&stage, node).touches_sent);
    // The leader sends on what it was sent.
    assert_eq!(sent, [1, 1, 0]);
    let applied = [1, 2, 3].map(|node| status(&stage, node).touches_applied);
    assert_eq!(applied, [1; 3]);
    let entries = status(&stage, 1).applied.0 - before.0;
    assert!(entries <= 2, "{entries} entries for one touch");
    stage.judge().expect("no violation");
}

/// A read of a key that is due waits for an entry with a stamp, and that entry for the end of a
/// write, not for a moment without one: there are few while another shard is written all the time.
#[test]
fn a_read_that_waits_for_a_stamp_does_not_wait_for_an_idle_log() {
    let options = Options { shards: 2, durability: Durability::Fsync, ..quiet() };
    let mut stage = Stage::settled(options).expect("no violation");
    let other = stage.client(2);
    let batch_of_another_shard = |stage: &mut Stage| {
        let mut batch = RequestBatch::default();
        stage.world.request(other, ShardId(1), 0, set("busy", None), &mut batch);
        stage.world.mail(at(2), None, Mail::Requests(batch));
    };
    for round in 0..20 {
        stage.ask_anew(1, set("mortal", Some(100 * MILLI)));
        stage.pass(101 * MILLI + round * 5 * MILLI).expect("no violation");
        let reader = stage.client(1);
        stage.ask(1, reader, Input::Get);
        for _ in 0..150 {
            batch_of_another_shard(&mut stage);
            stage.pass(100 * MICRO).expect("no violation");
        }
        assert!(!stage.world.workload.waits(reader), "no answer within 15 ms in round {round}");
        stage.pass(100 * MILLI).expect("no violation");
    }
    stage.judge().expect("no violation");
}

/// Commands that come while the log is being written are one entry afterwards: they cost the group
/// one message each way and not one each.
#[test]
fn commands_that_come_during_a_write_share_an_entry() {
    let options = Options { durability: Durability::Fsync, ..quiet() };
    let mut stage = Stage::settled(options).expect("no violation");
    stage.ask_anew(1, set("first", None));
    stage.pass(100 * MILLI).expect("no violation");
    let commit = |stage: &Stage| stage.status(1).expect("a replica").commit.0;
    let before = commit(&stage);
    for number in 0..100 {
        stage.ask_anew(1, set(&number.to_string(), None));
        stage.pass(MICRO).expect("no violation");
    }
    stage.pass(100 * MILLI).expect("no violation");
    assert!(!stage.world.workload.is_waiting(), "all are answered");
    let entries = commit(&stage) - before;
    assert!((2..=10).contains(&entries), "{entries} entries for 100 commands within 100 us");
}

/// Plays all variants of a scenario.
fn hold(scenario: Scenario) {
    let mut met = 0;
    for variant in 0..scenario.variants {
        match (scenario.play)(variant) {
            Ok(is_met) => met += u64::from(is_met),
            Err(violation) => panic!("variant {variant}: {violation}"),
        }
    }
    assert!(met > 0, "no variant met the situation");
}

#[test]
fn a_read_behind_a_write_that_another_leader_committed_is_not_stale() {
    hold(READ_BEHIND_A_WRITE);
}

#[test]
fn late_confirmations_of_a_read_do_not_confirm_its_repetition() {
    hold(LATE_CONFIRMATIONS);
}

#[test]
fn a_shard_whose_members_lose_their_memory_one_after_the_other_forms_anew() {
    hold(MEMORY_LOST_ONE_BY_ONE);
}

#[test]
fn a_new_leader_with_a_fast_wall_clock_expires_nothing_early() {
    hold(FAST_WALL_CLOCK);
}

#[test]
fn a_leader_that_hands_over_reads_by_its_lease_no_more() {
    hold(READ_AFTER_HANDING_OVER);
}

#[test]
fn paused_leader_never_serves_a_stale_read() {
    hold(PAUSED_LEADER);
}

#[test]
fn paused_follower_of_a_paused_leader_never_serves_a_stale_read() {
    hold(PAUSED_WITH_A_FOLLOWER);
}

#[test]
fn a_follower_that_lags_answers_once_it_has_caught_up() {
    hold(READ_AT_A_FOLLOWER_BEHIND);
}

#[test]
fn a_leader_whose_store_lags_reads_what_is_committed() {
    hold(LEADER_BEHIND_ITS_FOLLOWERS);
}

#[test]
fn a_leader_elected_again_expires_nothing_early() {
    hold(ELECTED_AGAIN);
}

#[test]
fn a_leader_that_once_proposed_in_vain_serves_again() {
    hold(PROPOSED_IN_VAIN);
}

#[test]
fn a_shard_that_lost_its_majority_stands_still_until_the_operator_lets_it_go_on() {
    hold(MAJORITY_LOST);
}

#[test]
fn paused_followers_elect_nobody_while_a_lease_they_granted_lasts() {
    hold(PAUSED_FOLLOWERS);
}

#[test]
fn an_entry_truncated_here_and_alive_elsewhere_is_not_reported_as_not_done() {
    hold(TRUNCATED_HERE_ALIVE_ELSEWHERE);
}

#[test]
fn a_key_seen_absent_does_not_come_back_with_the_next_leader() {
    hold(SEEN_ABSENT_BEFORE_HANDING_OVER);
}

#[test]
fn a_voter_that_starts_anew_elects_nobody_while_a_lease_it_granted_lasts() {
    hold(VOTER_STARTS_ANEW);
}

#[test]
fn others_lead_soon_when_a_leader_cannot_write_its_log() {
    hold(POISONED_LEADER);
}

#[test]
fn a_replica_may_campaign_right_after_a_snapshot() {
    hold(CAMPAIGN_RIGHT_AFTER_A_SNAPSHOT);
}

#[test]
fn a_shard_is_not_formed_with_former_lives_of_its_members() {
    hold(EMPTY_ANSWERS_OF_FORMER_LIVES);
}
