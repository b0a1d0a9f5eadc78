//! Asks the cores what they own and have done, and makes one picture of a node of it.
//!
//! A core is asked at most once per [`REUSE_TIME`], however many HTTP requests there are, and has
//! [`CORE_DEADLINE`] to answer. One that does not is left out of the picture and named in it. What
//! happened per second is known from a look at the counters each second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shards::contract::{LeaderView, Role, ShardStatus};
use shards::ids::{CoreIndex, NodeId, ShardId};
use shards::placement::Placement;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::messages::{ControlRequest, CoreCounters, CoreReport};
use super::view::{CoreView, CoresView, LeaderPlace, ReplicaState, ReplicaView, ShardView};
use crate::config::NodeConfig;

/// How long a core may take to report. Its turns are far shorter; one that takes longer is stuck.
pub const CORE_DEADLINE: Duration = Duration::from_millis(500);

/// How old a report may be to be used again.
const REUSE_TIME: Duration = Duration::from_millis(20);

/// How often counters are looked at to tell what happened per second.
pub const SAMPLE_PERIOD: Duration = Duration::from_secs(1);

/// Samples over which the worst of a gauge is kept: a scrape every ten seconds misses nothing.
const WORST_SAMPLES: u32 = 10;

/// What the cores of this node reported, at about the same time.
#[derive(Debug)]
pub struct NodeReport {
    /// The reports by core; `None` for a core that did not answer in time.
    pub cores: Vec<Option<CoreReport>>,
    /// Who leads each shard of the cluster, by the newest word any core has heard.
    pub leaders: Vec<LeaderView>,
    /// How many cores each member has, as far as a core knows.
    pub cores_of: BTreeMap<NodeId, u16>,
    /// Commands per second by shard, for the replicas on this node.
    pub ops_per_s: BTreeMap<ShardId, u64>,
    /// Per core, the worst of the last ten to twenty seconds.
    pub worst: Vec<Worst>,
}

/// The worst that a core's gauges showed, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Worst {
    /// The longest turn.
    pub turn_ns: u64,
    /// The latest that it came to a deadline of the engine.
    pub lateness_ns: u64,
    /// The longest write of the log.
    pub log_write_ns: u64,
}

impl Worst {
    fn max(self, other: Worst) -> Worst {
        Worst {
            turn_ns: self.turn_ns.max(other.turn_ns),
            lateness_ns: self.lateness_ns.max(other.lateness_ns),
            log_write_ns: self.log_write_ns.max(other.log_write_ns),
        }
    }
}

impl From<&CoreCounters> for Worst {
    fn from(counters: &CoreCounters) -> Worst {
        Worst {
            turn_ns: counters.turn_ns_max,
            lateness_ns: counters.lateness_ns_max,
            log_write_ns: counters.log.write_ns_max,
        }
    }
}

/// Asks the cores.
#[derive(Debug)]
pub struct Collector {
    config: Arc<NodeConfig>,
    placement: Placement,
    cores: Vec<flume::Sender<ControlRequest>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    latest: Option<(Instant, Arc<NodeReport>)>,
    sampled: Option<(Instant, BTreeMap<ShardId, u64>)>,
    ops_per_s: BTreeMap<ShardId, u64>,
    /// Per core the worst gauges of the window that runs, and of the one before.
    worst_now: Vec<Worst>,
    worst_before: Vec<Worst>,
    samples: u32,
}

impl Collector {
    /// A collector over the control channels of all cores of this node, in the order of cores.
    pub fn new(config: Arc<NodeConfig>, cores: Vec<flume::Sender<ControlRequest>>) -> Self {
        let worst = vec![Worst::default(); cores.len()];
        Collector {
            placement: config.placement(),
            config,
            cores,
            state: Mutex::new(State {
                latest: None,
                sampled: None,
                ops_per_s: BTreeMap::new(),
                worst_now: worst.clone(),
                worst_before: worst,
                samples: 0,
            }),
        }
    }

    /// The node this is about.
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// How the shards lie over the members.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The control channels of the cores.
    pub fn cores(&self) -> &[flume::Sender<ControlRequest>] {
        &self.cores
    }

    /// What the cores report now, or reported just before.
    pub async fn report(&self) -> Arc<NodeReport> {
        // Who comes while another asks waits here, and finds the fresh report.
        let mut state = self.state.lock().await;
        if let Some((at, report)) = &state.latest
            && at.elapsed() < REUSE_TIME
        {
            return report.clone();
        }
        self.ask(&mut state).await
    }

    /// Looks at the counters, to tell what happened since the last look. Due each
    /// [`SAMPLE_PERIOD`].
    pub async fn sample(&self) {
        let mut state = self.state.lock().await;
        let report = self.ask(&mut state).await;
        let now = Instant::now();
        let counts: BTreeMap<ShardId, u64> =
            report.replicas().map(|(_, status)| (status.shard, status.operations)).collect();
        if let Some((at, before)) = &state.sampled {
            let elapsed_ms = (now - *at).as_millis().max(1) as u64;
            let rate = |(shard, count): (&ShardId, &u64)| {
                // A replica that was rebuilt counts from zero again.
                let since = count.saturating_sub(*before.get(shard)?);
                Some((*shard, since.saturating_mul(1_000).div_ceil(elapsed_ms)))
            };
            state.ops_per_s = counts.iter().filter_map(rate).collect();
        }
        state.sampled = Some((now, counts));
        state.samples += 1;
        if state.samples.is_multiple_of(WORST_SAMPLES) {
            let fresh = vec![Worst::default(); self.cores.len()];
            state.worst_before = std::mem::replace(&mut state.worst_now, fresh);
        }
    }

    async fn ask(&self, state: &mut State) -> Arc<NodeReport> {
        let deadline = Instant::now() + CORE_DEADLINE;
        let mut answers = Vec::with_capacity(self.cores.len());
        for core in &self.cores {
            let (answer, receiver) = flume::bounded(1);
            answers.push(core.try_send(ControlRequest::Status(answer)).ok().map(|()| receiver));
        }
        let mut cores = Vec::with_capacity(answers.len());
        for answer in answers {
            let report = match answer {
                Some(receiver) => tokio::time::timeout_at(deadline, receiver.recv_async()).await,
                None => Ok(Err(flume::RecvError::Disconnected)),
            };
            cores.push(report.ok().and_then(Result::ok));
        }
        for (worst, report) in state.worst_now.iter_mut().zip(&cores) {
            if let Some(CoreReport { counters, .. }) = report {
                *worst = worst.max(Worst::from(counters));
            }
        }
        let windows = state.worst_now.iter().zip(&state.worst_before);
        let report = Arc::new(NodeReport {
            leaders: newest_leaders(&cores, usize::from(self.placement.shards())),
            cores_of: cores.iter().flatten().flat_map(|core| core.cores_of.clone()).collect(),
            cores,
            ops_per_s: state.ops_per_s.clone(),
            worst: windows.map(|(now, before)| now.max(*before)).collect(),
        });
        state.latest = Some((Instant::now(), report.clone()));
        report
    }

    /// Every shard of the cluster as this node knows it: those it leads in full, of the others
    /// who leads them and what the own replica is.
    pub fn local_shards(&self, report: &NodeReport) -> Vec<ShardView> {
        let own = report.by_shard();
        (0..self.placement.shards())
            .map(ShardId)
            .map(|shard| self.shard_view(shard, own.get(&shard).copied(), report))
            .collect()
    }

    fn shard_view(
        &self,
        shard: ShardId,
        own: Option<(CoreIndex, &ShardStatus)>,
        report: &NodeReport,
    ) -> ShardView {
        let LeaderView { term, leader } = report.leader(shard);
        let (first, last) = self.placement.slots(shard);
        let leader = leader.map(|node| {
            let core = self.placement.core(shard, self.cores_of(node, report));
            let address = self.config.advertised_address(node, core);
            let addr = address.map_or(String::new(), |address| address.to_string());
            LeaderPlace { node: node.0, core: core.0, addr }
        });
        let mut view = ShardView {
            shard: shard.0,
            slots: [first, last],
            leader,
            term: term.0,
            ..ShardView::default()
        };
        if let Some((core, status)) = own {
            view.commit = status.commit.0;
            view.applied = status.applied.0;
            view.lease_ms = status.lease.map(|left| left.0 / 1_000_000);
            view.keys = status.keys;
            view.bytes = status.bytes;
            view.ops_per_s = report.ops_per_s.get(&shard).copied().unwrap_or_default();
            view.replicas = self.replica_views(core, status, report);
        }
        view
    }

    fn replica_views(
        &self,
        core: CoreIndex,
        status: &ShardStatus,
        report: &NodeReport,
    ) -> Vec<ReplicaView> {
        if status.role != Role::Leader {
            return vec![ReplicaView {
                node: self.config.node.0,
                core: core.0,
                role: status.role.into(),
                matched: status.applied.0,
                lag: status.commit.0.saturating_sub(status.applied.0),
                health: status.health.into(),
            }];
        }
        let view = |replica: &shards::contract::ReplicaStatus| ReplicaView {
            node: replica.node.0,
            core: self.placement.core(status.shard, self.cores_of(replica.node, report)).0,
            role: replica.role.into(),
            matched: replica.matched.0,
            lag: replica.lag,
            health: replica.health.into(),
        };
        status.replicas.iter().map(view).collect()
    }

    /// Number of cores of a member, as far as known: until its handshake, taken to be as ours.
    fn cores_of(&self, node: NodeId, report: &NodeReport) -> u16 {
        let own = self.config.cores.count();
        if node == self.config.node {
            return own;
        }
        report.cores_of.get(&node).copied().unwrap_or(own)
    }

    /// What the replicas on this node hold.
    pub fn local_replicas(&self, report: &NodeReport) -> Vec<ReplicaState> {
        let mut replicas: Vec<ReplicaState> = report
            .replicas()
            .map(|(core, status)| ReplicaState {
                shard: status.shard.0,
                node: self.config.node.0,
                core: core.0,
                role: status.role.into(),
                health: status.health.into(),
                term: status.leader.term.0,
                commit: status.commit.0,
                applied: status.applied.0,
                digest: format!("{:016x}", status.digest),
                keys: status.keys,
                bytes: status.bytes,
                bytes_max: status.bytes_max,
            })
            .collect();
        replicas.sort_by_key(|replica| replica.shard);
        replicas
    }
}

impl NodeReport {
    /// What the cores have done, for people.
    pub fn cores_view(&self) -> CoresView {
        let mut view = CoresView::default();
        for (core, report) in self.cores.iter().enumerate() {
            let worst = self.worst.get(core).copied().unwrap_or_default();
            match report {
                Some(report) => view.cores.push(core_view(report, worst)),
                None => view.unanswered.push(core as u16),
            }
        }
        view
    }

    /// All replicas of this node with the cores they live on.
    pub fn replicas(&self) -> impl Iterator<Item = (CoreIndex, &ShardStatus)> {
        let cores = self.cores.iter().flatten();
        cores.flat_map(|core| core.shards.iter().map(|status| (core.core, status)))
    }

    fn by_shard(&self) -> BTreeMap<ShardId, (CoreIndex, &ShardStatus)> {
        self.replicas().map(|(core, status)| (status.shard, (core, status))).collect()
    }

    /// The core of this node that leads `shard`, if one does.
    pub fn leading_core(&self, shard: ShardId) -> Option<CoreIndex> {
        self.replicas()
            .find(|(_, status)| status.shard == shard && status.role == Role::Leader)
            .map(|(core, _)| core)
    }

    /// Who leads `shard`, as far as this node knows.
    pub fn leader(&self, shard: ShardId) -> LeaderView {
        self.leaders.get(usize::from(shard.0)).copied().unwrap_or_default()
    }
}

fn core_view(report: &CoreReport, worst: Worst) -> CoreView {
    let CoreReport { core, shards, counters, turn_times, .. } = report;
    let quantile_us = |millionths| turn_times.quantile_ns(millionths).div_ceil(1_000);
    CoreView {
        core: core.0,
        connections: counters.connections,
        commands: counters.commands,
        replicas: shards.iter().filter(|status| status.role != Role::Outside).count() as u64,
        leaders: shards.iter().filter(|status| status.role == Role::Leader).count() as u64,
        turns: turn_times.count(),
        busy_us: turn_times.sum_ns() / 1_000,
        turn_p50_us: quantile_us(500_000),
        turn_p99_us: quantile_us(990_000),
        turn_p999_us: quantile_us(999_000),
        turn_max_us: turn_times.max_ns().div_ceil(1_000),
        turn_worst_us: worst.turn_ns.div_ceil(1_000),
    }
}

/// The newest word on each shard. Cores hear of leaders at different times.
fn newest_leaders(cores: &[Option<CoreReport>], shards: usize) -> Vec<LeaderView> {
    let mut newest = vec![LeaderView::default(); shards];
    let mut hear = |shard: usize, view: LeaderView| {
        if let Some(known) = newest.get_mut(shard)
            && rank(&view) > rank(known)
        {
            *known = view;
        }
    };
    for core in cores.iter().flatten() {
        core.leaders.iter().enumerate().for_each(|(shard, view)| hear(shard, *view));
        core.shards.iter().for_each(|own| hear(usize::from(own.shard.0), own.leader));
    }
    newest
}

/// A higher term is newer; within a term, to know the leader is newer than not to.
fn rank(view: &LeaderView) -> (u64, bool) {
    (view.term.0, view.leader.is_some())
}
