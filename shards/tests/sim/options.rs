//! What a seed plays: cluster, network, faults, workload. Every seed draws its own mix.
//!
//! Many options are drawn as "off, or somewhere in a range": faults that never occur together hide
//! the bugs of their combinations, and faults that always occur together hide those that need
//! quiet.

use shards::contract::{Durability, ReadMode};
use shards::ids::{Eviction, Millis};

use crate::random::Random;

/// Nanoseconds in a microsecond.
pub const MICRO: u64 = 1_000;
/// Nanoseconds in a millisecond.
pub const MILLI: u64 = 1_000_000;
/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// By how much each of two clocks may run off, so that one is at most a tenth slower than the
/// other: the bound that leases allow for. In millionths.
pub const LEASE_DRIFT_MAX_PPM: u64 = 50_000;

/// What may make a value vanish, and so what can be concluded from a miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Nothing but commands: no acknowledged write may be missing.
    Strict,
    /// Some have a time to live.
    Expiring,
    /// Some have a time to live, and the shard is too small for all of them.
    Evicted,
}

/// How often a fault strikes, and what it does then. Times in nanoseconds, shares per mille.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Mean time between partitions; zero for none. The same below.
    pub partition_every: u64,
    /// Share of partitions in one direction only.
    pub one_way_share: u64,
    /// Mean length of a partition.
    pub partition_lasts: u64,
    /// Time after which a blocked link is given up, from a tenth of this up to this.
    pub detection_max: u64,
    /// Links that are reset.
    pub cut_every: u64,
    /// Nodes that lose their memory.
    pub crash_every: u64,
    /// How long such a node stays away.
    pub crash_lasts: u64,
    /// Whether a node may come back with another number of cores.
    pub recore: bool,
    /// Nodes that stop and go on.
    pub pause_every: u64,
    /// How long they stop.
    pub pause_lasts: u64,
    /// Single cores that stop and go on.
    pub stall_every: u64,
    /// Wall clocks that jump.
    pub clock_every: u64,
    /// Largest jump, in milliseconds.
    pub clock_step_max_ms: u64,
    /// Leaderships that are handed over by an operator.
    pub transfer_every: u64,
    /// Share of crashes that take the disk with them, where the shards can spare it.
    pub wipe_share: u64,
    /// Share of crashes after which the disk is damaged, likewise.
    pub damage_share: u64,
    /// Power losses of the whole cluster, where there are disks.
    pub power_loss_every: u64,
    /// Disks that stop for a while.
    pub disk_stall_every: u64,
    /// How long they stop.
    pub disk_stall_lasts: u64,
    /// Disks that fail.
    pub disk_fail_every: u64,
    /// Nodes that hand everything over, stop and come back.
    pub drain_every: u64,
    /// Shards whose limit is changed.
    pub limit_every: u64,
    /// Bits that flip in a replica's memory.
    #[cfg_attr(not(feature = "defects"), expect(dead_code, reason = "nothing flips them"))]
    pub flip_every: u64,
    /// Raft messages that are lost.
    pub raft_drop: u64,
    /// Raft messages that arrive twice.
    pub raft_duplicate: u64,
    /// Raft messages that arrive late.
    pub raft_delay: u64,
    /// How late.
    pub raft_delay_lasts: u64,
}

/// The disks of a seed. Times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Disks {
    /// Bytes of a segment of a log: so few that logs rotate all the time.
    pub segment_bytes: u64,
    /// Longest write that is not stalled.
    pub write_max: u64,
    /// Share of moves to other cores, per mille, that end in a crash.
    pub death_in_move_share: u64,
    /// How long a process goes on after its log has failed, at most; for ever if `None`.
    pub outlives_failure: Option<u64>,
}

/// Everything a seed decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed.
    pub seed: u64,
    /// Cores of each node.
    pub cores: Vec<u16>,
    /// Replicas of each shard where there are that many nodes.
    pub replicas: usize,
    /// How reads are made linearizable.
    pub reads: ReadMode,
    /// Shards of the cluster.
    pub shards: u16,
    /// Accounted bytes of a shard.
    pub shard_bytes_max: u64,
    /// Which entries are evicted first, until a request changes it.
    pub eviction: Eviction,
    /// How long a request may wait.
    pub request_deadline: u64,
    /// How long after a use reads leave no touch.
    pub touch_interval: Millis,
    /// Length from which entries are stubs to Raft.
    pub stub_bytes_min: usize,
    /// Bytes that a core looks at for damage per second.
    pub scrub_bytes_per_second: u64,
    /// Bytes that may wait for leaders.
    pub parked_bytes_max: usize,
    /// How long faults go on.
    pub faults_last: u64,
    /// Shortest and mean time on a link.
    pub delay_min: u64,
    /// See `delay_min`.
    pub delay_mean: u64,
    /// Longest time from the first input of a turn to its end.
    pub gather_max: u64,
    /// Whether nodes have disks.
    pub durability: Durability,
    /// The disks.
    pub disk: Disks,
    /// By how much monotonic clocks run faster or slower than the world's, at most, in millionths.
    pub drift_max_ppm: u64,
    /// Differences between the nodes' wall clocks at the start, at most, in milliseconds.
    pub wall_skew_ms: u64,
    /// Faults.
    pub faults: Faults,
    /// Kind of keys.
    pub keys: Keys,
    /// Keys of each shard.
    pub keys_per_shard: u64,
    /// Clients with one request at a time.
    pub single_clients: u64,
    /// Clients that send several requests at once.
    pub pipelining_clients: u64,
    /// Mean time between an answer and the next request.
    pub think_time: u64,
    /// Share of reads.
    pub read_share: u64,
    /// Share of the reads that any replica may answer.
    pub replica_read_share: u64,
    /// Bytes by which values are padded, at most.
    pub padding_max: u64,
}

impl Options {
    /// What `seed` plays.
    pub fn draw(seed: u64) -> Self {
        let mut random = Random::stream(seed, "options");
        let nodes = *random.pick(&[1, 3, 3, 3, 3, 3, 3, 5, 5]);
        let cores = random.between(1, 2);
        let uneven = random.chance(250);
        let cores =
            (0..nodes).map(|_| if uneven { random.between(1, 2) } else { cores } as u16).collect();
        let keys = *random.pick(&[Keys::Strict, Keys::Strict, Keys::Expiring, Keys::Evicted]);
        let faults_last = random.between(4, 12) * SECOND;
        let (single_clients, pipelining_clients) = (random.between(2, 8), random.between(0, 4));
        // Enough requests to meet the faults, and few enough to judge them soon.
        let requests = *random.pick(&[500, 1_500, 4_000]);
        let think_time = *random.pick(&[1, 5, 20, 50]) * MILLI;
        let think_time = think_time
            .max((2 * single_clients + 3 * pipelining_clients) * faults_last / requests / 2);
        let keys_per_shard = random.between(2, 6) * if keys == Keys::Evicted { 3 } else { 1 };
        let padding_max = *random.pick(&[0, 0, 20, 300]);
        let mut more = Random::stream(seed, "more options");
        let reads = *more.pick(&[ReadMode::Lease, ReadMode::Lease, ReadMode::Quorum]);
        // Beyond the bound only reads by quorum are promised to be right.
        let drift_max_ppm =
            *more.pick(&[0, 0, 100, 10_000, LEASE_DRIFT_MAX_PPM, 6 * LEASE_DRIFT_MAX_PPM]);
        // Older seeds play the same faults besides.
        let limit_every = match keys {
            Keys::Evicted => *Random::stream(seed, "limits").pick(&[0, 200, 1_000]) * MILLI,
            Keys::Strict | Keys::Expiring => 0,
        };
        // So much that logs are cut, and who was away needs a snapshot.
        let is_bulky = keys != Keys::Evicted && more.chance(25);
        Options {
            seed,
            cores,
            replicas: *more.pick(&[3, 3, 5]),
            reads: if drift_max_ppm > LEASE_DRIFT_MAX_PPM { ReadMode::Quorum } else { reads },
            shards: *random.pick(&[1, 1, 2, 3, 4, 6, 8]),
            shard_bytes_max: if keys == Keys::Evicted { 900 } else { 4 << 20 },
            eviction: *Random::stream(seed, "eviction").pick(&[Eviction::Lru, Eviction::Sieve]),
            request_deadline: *random.pick(&[500, 1_000, 2_000]) * MILLI,
            touch_interval: *Random::stream(seed, "touches").pick(&[
                Millis(0),
                Millis(20),
                Millis(20),
                Millis(5_000),
            ]),
            stub_bytes_min: *Random::stream(seed, "stubs").pick(&[1, 100, 16 << 10]),
            scrub_bytes_per_second: *Random::stream(seed, "scrubbing").pick(&[0, 1 << 20, 8 << 20]),
            parked_bytes_max: *random.pick(&[2 << 10, 1 << 20, 1 << 20]),
            faults_last,
            delay_min: *random.pick(&[20, 100, 100, 500]) * MICRO,
            delay_mean: *random.pick(&[50, 200, 200, 1_000, 10_000]) * MICRO,
            gather_max: *random.pick(&[1, 50, 50, 1_000, 10_000]) * MICRO,
            durability: *more.pick(&[Durability::Memory, Durability::Fsync, Durability::Fsync]),
            disk: Disks {
                segment_bytes: *more.pick(&[16, 64, 64, 1_024]) << 10,
                write_max: *more.pick(&[100, 1_000, 1_000, 5_000, 50_000]) * MICRO,
                death_in_move_share: *more.pick(&[0, 500]),
                outlives_failure: Some(300 * MILLI),
            },
            drift_max_ppm,
            wall_skew_ms: *random.pick(&[0, 10, 1_000, 3_600_000]),
            faults: Faults { limit_every, ..draw_faults(&mut random) },
            keys,
            keys_per_shard,
            single_clients,
            pipelining_clients,
            think_time,
            read_share: *random.pick(&[200, 500, 800]),
            // From a stream of its own, so that older seeds play the same faults.
            replica_read_share: *Random::stream(seed, "replica reads").pick(&[0, 500, 1_000]),
            padding_max: if is_bulky { 20_000 } else { padding_max },
        }
    }

    /// Number of nodes.
    pub fn nodes(&self) -> u16 {
        self.cores.len() as u16
    }
}

fn draw_faults(random: &mut Random) -> Faults {
    let mut every = |choices: &[u64]| {
        let mean = *random.pick(choices);
        if random.chance(450) { mean * MILLI } else { 0 }
    };
    let mut faults = Faults {
        partition_every: every(&[400, 1_000, 3_000]),
        cut_every: every(&[30, 200, 1_000]),
        crash_every: every(&[1_000, 3_000]),
        pause_every: every(&[300, 1_000, 3_000]),
        stall_every: every(&[300, 1_000, 3_000]),
        clock_every: every(&[200, 2_000]),
        transfer_every: every(&[200, 1_000]),
        drain_every: every(&[4_000]),
        power_loss_every: every(&[1_500, 4_000]),
        disk_stall_every: every(&[500, 2_000]),
        disk_fail_every: every(&[1_000, 3_000]),
        ..Faults::default()
    };
    let mut share = |choices: &[u64]| {
        let share = *random.pick(choices);
        if random.chance(350) { share } else { 0 }
    };
    faults.raft_drop = share(&[10, 50, 200]);
    faults.raft_duplicate = share(&[10, 100, 300]);
    faults.raft_delay = share(&[10, 100, 300]);
    faults.raft_delay_lasts = *random.pick(&[2, 20, 100, 400]) * MILLI;
    faults.one_way_share = *random.pick(&[0, 300, 1_000]);
    faults.partition_lasts = *random.pick(&[100, 500, 1_500]) * MILLI;
    faults.detection_max = *random.pick(&[100, 1_000, 5_000]) * MILLI;
    faults.crash_lasts = *random.pick(&[5, 300, 1_500]) * MILLI;
    faults.recore = random.chance(300);
    faults.pause_lasts = *random.pick(&[20, 200, 700, 2_000]) * MILLI;
    faults.wipe_share = *random.pick(&[0, 300, 1_000]);
    faults.damage_share = *random.pick(&[0, 300, 700]);
    faults.disk_stall_lasts = *random.pick(&[20, 300, 1_000, 3_000]) * MILLI;
    faults.clock_step_max_ms = *random.pick(&[50, 5_000, 3_600_000]);
    faults
}
