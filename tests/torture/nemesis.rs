//! Does what the schedule says, and keeps account of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Durability, pairs, pause};
use crate::damage::{self, Damage};
use crate::proxy::Rule;
use crate::record::{Gap, Record};
use crate::schedule::{Episode, Kind, Schedule, Step};
use crate::small_disk;

/// How long a healed cluster may take until every replica votes and has caught up.
const WHOLE_DEADLINE: Duration = Duration::from_secs(60);
/// How long a healed cluster may take until every node serves.
const SERVING_DEADLINE: Duration = Duration::from_secs(30);
/// How often is looked after the processes while nothing is to be done.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// Sets of nodes as bits.
type Nodes = u16;

/// Applies faults to a cluster.
pub struct Nemesis<'a> {
    cluster: &'a mut Cluster,
    record: &'a Record,
    /// How often each kind of fault happened.
    pub counts: BTreeMap<Kind, u64>,
    rules: BTreeMap<(u16, u16), Rule>,
    /// Nodes that lost their memory and are not known to be whole again.
    recovering: BTreeSet<u16>,
    /// The node whose disk is full.
    full: Option<u16>,
    /// From when on which nodes each touch all faults there are.
    timeline: Vec<(u64, Nodes)>,
    looked_at: Instant,
}

impl<'a> Nemesis<'a> {
    /// Nothing is wrong yet.
    pub fn new(cluster: &'a mut Cluster, record: &'a Record) -> Self {
        Nemesis {
            cluster,
            record,
            counts: BTreeMap::new(),
            rules: BTreeMap::new(),
            recovering: BTreeSet::new(),
            full: None,
            timeline: Vec::new(),
            looked_at: Instant::now(),
        }
    }

    fn say(&self, text: &str) {
        println!("{:>9.3} {text}", self.record.now() as f64 / 1e9);
    }

    /// Plays episodes until the time is over or something went wrong; then all is healed.
    pub fn run(&mut self, schedule: &mut Schedule, until: Instant) {
        self.note_faults();
        while Instant::now() < until && !self.record.has_failed() {
            let episode = schedule.next();
            let is_rolling = episode.kinds.contains(&Kind::RollingRestart);
            if (episode.loses.is_some() || is_rolling) && !self.wait_until_whole() {
                break;
            }
            self.play(&episode);
            if is_rolling {
                self.roll();
            }
            self.heal();
            self.wait(episode.quiet);
        }
        self.heal();
    }

    fn play(&mut self, episode: &Episode) {
        self.say(&format!("{:?}, loses {:?}", episode.kinds, episode.loses));
        for kind in &episode.kinds {
            *self.counts.entry(*kind).or_default() += 1;
        }
        let began = Instant::now();
        for (at, step) in &episode.steps {
            let left = (began + *at).saturating_duration_since(Instant::now());
            self.wait(left);
            if self.record.has_failed() {
                return;
            }
            self.take(step);
        }
    }

    fn take(&mut self, step: &Step) {
        if !matches!(step, Step::Rule(_, _, Rule::Pass) | Step::Reset(..)) {
            self.say(&format!("  {step:?}"));
        }
        match *step {
            Step::Kill(node) => {
                self.record.trouble.begin(node);
                self.lose(node);
                self.cluster.kill(node);
            }
            Step::Start(node, cores) => self.start(node, cores),
            Step::Stop(node) => {
                self.record.trouble.begin(node);
                self.cluster.stop(node);
            }
            Step::Continue(node) => {
                self.cluster.carry_on(node);
                self.record.trouble.end(node);
            }
            Step::Terminate(node) => self.terminate(node),
            Step::Wipe(node) => {
                self.recovering.insert(node);
                let wiped = damage::wipe(&self.cluster.data_directory(node));
                self.expect(&format!("wiping node {node}"), wiped);
            }
            Step::AwaitOthers(node) => self.await_others(node),
            Step::Damage(node, way, salt) => self.damage(node, way, salt),
            Step::Fill(node) => {
                self.full = Some(node);
                let filled = small_disk::fill(&self.cluster.data_directory(node));
                self.expect("filling a disk", filled);
            }
            Step::Free(node) => {
                let freed = small_disk::free(&self.cluster.data_directory(node));
                self.expect("making room on a disk", freed);
                self.full = None;
            }
            Step::Rule(from, to, rule) => {
                self.cluster.proxy.set(from, to, rule);
                match rule {
                    Rule::Pass => self.rules.remove(&(from, to)),
                    _ => self.rules.insert((from, to), rule),
                };
            }
            Step::Reset(from, to) => self.cluster.proxy.reset(from, to),
            Step::Transfer(shard, to) => {
                let done = self.cluster.transfer(to, shard, to);
                self.record.count(if done { "transfers done" } else { "transfers refused" });
            }
        }
        self.note_faults();
    }

    fn expect(&self, what: &str, outcome: std::io::Result<()>) {
        if let Err(error) = outcome {
            self.record.fail(format!("{what}: {error}"));
        }
    }

    /// Waits until the nodes but one lead everything, and each of them has what any of them knew
    /// was committed after that.
    fn await_others(&mut self, node: u16) {
        let others: Vec<u16> = (1..=self.cluster.shape.nodes).filter(|n| *n != node).collect();
        let began = Instant::now();
        let since = self.record.now();
        let mut wanted: Option<Vec<u64>> = None;
        while !self.record.has_failed() {
            let shards = 0..self.cluster.shape.shards;
            let have = |field: &str| -> Option<Vec<Vec<u64>>> {
                let of = |other: &u16| {
                    let replicas = self.cluster.replicas(*other)?;
                    replicas.iter().map(|replica| replica[field].as_u64()).collect()
                };
                others.iter().map(of).collect()
            };
            // What was answered now was answered by a leader that has committed in its own term.
            if wanted.is_none()
                && shards.clone().all(|shard| self.record.last_acknowledged(shard) > since)
                && let Some(commits) = have("commit")
            {
                let highest = |shard: usize| commits.iter().map(|of| of[shard]).max();
                wanted = shards.map(|shard| highest(usize::from(shard))).collect();
            }
            if let (Some(wanted), Some(applied)) = (&wanted, have("applied"))
                && applied.iter().all(|of| of.iter().zip(wanted).all(|(a, b)| a >= b))
            {
                return;
            }
            if began.elapsed() > SERVING_DEADLINE {
                self.record.fail(format!("without node {node} the others do not serve"));
            }
            self.wait(LOOK_PERIOD);
        }
    }

    fn damage(&mut self, node: u16, way: Damage, salt: u64) {
        if self.record.has_failed() {
            return;
        }
        self.recovering.insert(node);
        match damage::damage(&self.cluster.data_directory(node), way, salt) {
            Ok(Some(text)) => self.say(&format!("    {text}")),
            Ok(None) => self.record.fail(format!("node {node} has nothing on disk")),
            Err(error) => self.record.fail(format!("damaging node {node}: {error}")),
        }
    }

    fn lose(&mut self, node: u16) {
        if self.cluster.shape.durability == Durability::Memory {
            self.recovering.insert(node);
        }
        // From here on the node is part of what is wrong.
        self.note_faults();
    }

    fn start(&mut self, node: u16, cores: u16) {
        if self.cluster.is_started(node) {
            return;
        }
        if let Err(error) = self.cluster.start_node(node, cores) {
            self.record.fail(format!("node {node} cannot be started: {error}"));
        }
        self.record.trouble.end(node);
    }

    fn terminate(&mut self, node: u16) {
        self.record.trouble.begin(node);
        self.lose(node);
        match self.cluster.terminate(node) {
            Ok(took) => self.say(&format!("  node {node} ended after {} ms", took.as_millis())),
            Err(error) => self.record.fail(error),
        }
    }

    /// SIGTERM and a restart, one node after the other.
    fn roll(&mut self) {
        for node in 1..=self.cluster.shape.nodes {
            if self.record.has_failed() || !self.wait_until_whole() {
                return;
            }
            self.take(&Step::Terminate(node));
            let cores = self.cluster.cores(node);
            self.take(&Step::Start(node, cores));
        }
    }

    /// Puts everything right that can be put right from outside.
    fn heal(&mut self) {
        for (from, to) in pairs(self.cluster.shape.nodes) {
            self.take(&Step::Rule(from, to, Rule::Pass));
        }
        for node in self.cluster.stopped() {
            self.take(&Step::Continue(node));
        }
        if let Some(node) = self.full {
            self.take(&Step::Free(node));
        }
        for node in 1..=self.cluster.shape.nodes {
            if !self.cluster.is_started(node) {
                let cores = self.cluster.cores(node);
                self.take(&Step::Start(node, cores));
            }
        }
    }

    /// Waits, with an eye on the processes.
    fn wait(&mut self, duration: Duration) {
        let until = Instant::now() + duration;
        while !self.record.has_failed() {
            let left = until.saturating_duration_since(Instant::now());
            pause(left.min(LOOK_PERIOD));
            self.look_after();
            if left.is_zero() {
                return;
            }
        }
    }

    fn look_after(&mut self) {
        for (node, status) in self.cluster.ended_by_themselves() {
            let tail = self.cluster.log_tail(node, 40);
            self.record.fail(format!("node {node} ended by itself: {status}\n{tail}"));
        }
        // A node that is cut off or stopped would make each look take seconds.
        if self.looked_at.elapsed() < 4 * LOOK_PERIOD || !self.rules.is_empty() {
            return;
        }
        self.looked_at = Instant::now();
        let stopped = self.cluster.stopped();
        let candidates: Vec<_> = self.recovering.iter().copied().collect();
        for node in candidates {
            let may_answer = self.cluster.is_started(node) && !stopped.contains(&node);
            if may_answer && self.cluster.is_whole(node) {
                self.recovering.remove(&node);
                self.note_faults();
            }
        }
    }

    /// Waits until every replica of every node votes and has caught up.
    fn wait_until_whole(&mut self) -> bool {
        let began = Instant::now();
        let nodes = 1..=self.cluster.shape.nodes;
        while !nodes.clone().all(|node| self.cluster.is_whole(node)) {
            if began.elapsed() > WHOLE_DEADLINE {
                let states: Vec<_> = nodes.clone().map(|node| self.describe(node)).collect();
                self.record.fail(format!(
                    "a healed cluster is not whole after {WHOLE_DEADLINE:?}:\n{}",
                    states.join("\n")
                ));
            }
            self.wait(LOOK_PERIOD);
            if self.record.has_failed() {
                return false;
            }
        }
        self.recovering.clear();
        self.note_faults();
        true
    }

    fn describe(&self, node: u16) -> String {
        let ready = crate::http::get(self.cluster.socket(node, 7480), "/readyz");
        let replicas: Vec<String> = self
            .cluster
            .replicas(node)
            .unwrap_or_default()
            .iter()
            .map(|r| format!("{}:{} {}/{}", r["shard"], r["role"], r["applied"], r["commit"]))
            .collect();
        format!("node {node}: {ready:?}; {}", replicas.join(", "))
    }

    /// Waits until every node is ready and every shard has answered since now.
    pub fn wait_until_all_serve(&mut self) {
        let began = Instant::now();
        let since = self.record.now();
        let shards = self.cluster.shape.shards;
        loop {
            let ready = (1..=self.cluster.shape.nodes).all(|node| self.cluster.is_ready(node));
            if ready && (0..shards).all(|shard| self.record.last_acknowledged(shard) > since) {
                break;
            }
            if began.elapsed() > SERVING_DEADLINE {
                let nodes = 1..=self.cluster.shape.nodes;
                let states: Vec<_> = nodes.clone().map(|node| self.describe(node)).collect();
                self.record.fail(format!(
                    "not all serve {SERVING_DEADLINE:?} after all was healed:\n{}",
                    states.join("\n")
                ));
            }
            if self.record.has_failed() {
                return;
            }
            self.wait(LOOK_PERIOD);
        }
        self.say(&format!("all serve {} ms after all was healed", began.elapsed().as_millis()));
        self.wait_until_whole();
    }

    /// Notes which nodes each touch all faults there are.
    fn note_faults(&mut self) {
        let nodes = self.cluster.shape.nodes;
        let is_sick = |node: u16| {
            !self.cluster.is_started(node)
                || self.cluster.stopped().contains(&node)
                || self.recovering.contains(&node)
                || self.full == Some(node)
                || self.record.trouble.quiet_time(node).is_none()
        };
        let sick: Vec<u16> = (1..=nodes).filter(|&node| is_sick(node)).collect();
        let touches_all = |node: u16| {
            sick.iter().all(|&other| other == node)
                && self.rules.keys().all(|&(a, b)| a == node || b == node)
        };
        let covers = (1..=nodes).filter(|&node| touches_all(node));
        let covers = covers.fold(0, |bits, node| bits | 1 << node);
        self.timeline.push((self.record.now(), covers));
    }

    /// Whether during a gap all faults touched one node only, so that a majority could have served.
    pub fn had_majority(&self, gap: &Gap) -> bool {
        let first = self.timeline.partition_point(|(at, _)| *at <= gap.from).saturating_sub(1);
        let during = self.timeline[first..].iter().take_while(|(at, _)| *at <= gap.to);
        during.fold(Nodes::MAX, |bits, (_, covers)| bits & covers) != 0
    }
}
