//! What goes wrong when: drawn from a seed, before it happens.
//!
//! A run is a sequence of *episodes*: a fault or two that overlap, then everything is put right
//! again, then some quiet. An episode is a list of steps, each at its time. What is drawn is only
//! what the promises survive: at most one node lacks its memory at any time, and the next one loses
//! its own only when that one is whole again, which the episode waits for before it begins
//! ([`Episode::loses`]). A damaged log may look like one that was merely not synced to its end;
//! then the node forgets without knowing it, so the others must have everything before. Pauses and
//! cut links take nobody's memory, so they may hit anybody, also nodes that are just recovering.

use std::time::Duration;

use crate::cluster::{CORES_MAX, Durability, Shape, pairs};
use crate::damage::Damage;
use crate::proxy::Rule;
use crate::random::Random;

/// Something that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// SIGKILL.
    Kill(u16),
    /// Start, with so many cores; nodes that run are left alone.
    Start(u16, u16),
    /// SIGSTOP.
    Stop(u16),
    /// SIGCONT.
    Continue(u16),
    /// SIGTERM, and wait for the end.
    Terminate(u16),
    /// Remove what is in a data directory.
    Wipe(u16),
    /// Wait until the others have everything that this one has acknowledged.
    AwaitOthers(u16),
    /// Damage a log of a node that is down, as a number says.
    Damage(u16, Damage, u64),
    /// Fill the disk of a node.
    Fill(u16),
    /// Make room on it.
    Free(u16),
    /// A rule for one direction between two nodes.
    Rule(u16, u16, Rule),
    /// Break the connections of one node to another off.
    Reset(u16, u16),
    /// Hand a shard over.
    Transfer(u16, u16),
}

/// What kinds of faults there are, to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL of a node and a restart.
    Kill,
    /// The same, and again while it recovers.
    KillTwice,
    /// SIGKILL of all nodes at once.
    KillAll,
    /// SIGKILL and the data directory gone.
    Wipe,
    /// SIGKILL and a damaged log.
    Damage(Damage),
    /// No room on the disk of a node.
    FullDisk,
    /// SIGSTOP of one node or two.
    Pause,
    /// SIGSTOP of a node that is cut off until some time after it woke.
    PauseCutOff,
    /// SIGTERM and a restart.
    Terminate,
    /// SIGTERM of one node after the other.
    RollingRestart,
    /// Links refuse and reset in both directions.
    Partition,
    /// Links carry nothing in both directions.
    BlackHole,
    /// A link carries nothing in one direction.
    OneWay,
    /// Links are slow.
    Delay,
    /// Links carry little.
    Throttle,
    /// Links stop one after the other and come back in another order.
    Swizzle,
    /// Leaderships are handed around.
    Transfers,
    /// A node comes back with another number of cores.
    OtherCores,
}

/// Faults that overlap, until all is right again.
#[derive(Clone, Debug)]
pub struct Episode {
    /// What it is made of.
    pub kinds: Vec<Kind>,
    /// The node that loses its memory in it.
    pub loses: Option<u16>,
    /// What is done, by time from its beginning.
    pub steps: Vec<(Duration, Step)>,
    /// How long nothing is done after it.
    pub quiet: Duration,
}

/// Draws episodes.
pub struct Schedule {
    random: Random,
    durability: Durability,
    nodes: u16,
    shards: u16,
    /// The node whose disk can be filled.
    small_disk: Option<u16>,
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

impl Schedule {
    /// The schedule of a seed.
    pub fn new(seed: u64, shape: &Shape, small_disk: Option<u16>) -> Self {
        let Shape { nodes, shards, durability, .. } = *shape;
        let random = Random::stream(seed, "schedule");
        Schedule { random, durability, nodes, shards, small_disk }
    }

    /// The next episode.
    pub fn next(&mut self) -> Episode {
        let quiet = ms(match self.random.chance(25) {
            true => self.random.between(2_000, 5_000),
            false => self.random.between(200, 1_500),
        });
        let mut episode = Episode { kinds: Vec::new(), loses: None, steps: Vec::new(), quiet };
        let has_disk = self.durability == Durability::Fsync;
        match self.random.below(100) {
            0..20 if has_disk => self.draw_disk_fault(&mut episode),
            0..45 => self.draw_process_fault(&mut episode),
            45..70 => self.draw_network_fault(&mut episode),
            70..95 => {
                self.draw_process_fault(&mut episode);
                self.draw_network_fault(&mut episode);
            }
            _ => self.draw_transfers(&mut episode),
        }
        episode.steps.sort_by_key(|(at, _)| *at);
        episode
    }

    fn node(&mut self) -> u16 {
        self.random.between(1, u64::from(self.nodes)) as u16
    }

    fn cores(&mut self, episode: &mut Episode) -> u16 {
        if self.random.chance(30) {
            episode.kinds.push(Kind::OtherCores);
            return self.random.between(1, u64::from(CORES_MAX)) as u16;
        }
        1
    }

    fn draw_process_fault(&mut self, episode: &mut Episode) {
        let begin = ms(self.random.below(300));
        match self.random.below(100) {
            0..30 => self.draw_kill(episode, begin),
            30..38 if self.durability == Durability::Fsync => self.draw_kill_all(episode, begin),
            30..45 => self.draw_wipe(episode, begin),
            45..65 => self.draw_pause(episode, begin),
            65..80 => self.draw_pause_cut_off(episode, begin),
            80..92 => {
                episode.kinds.push(Kind::Terminate);
                let node = self.node();
                let cores = self.cores(episode);
                episode.loses = self.loss(node);
                episode.steps.push((begin, Step::Terminate(node)));
                let back = begin + ms(self.random.magnitude(100, 4_000));
                episode.steps.push((back, Step::Start(node, cores)));
            }
            _ => episode.kinds.push(Kind::RollingRestart),
        }
    }

    /// Whether the end of a process is the end of its memory.
    fn loss(&self, node: u16) -> Option<u16> {
        (self.durability == Durability::Memory).then_some(node)
    }

    fn draw_kill(&mut self, episode: &mut Episode, begin: Duration) {
        let node = self.node();
        let mut cores = self.cores(episode);
        episode.loses = self.loss(node);
        episode.steps.push((begin, Step::Kill(node)));
        let mut back = begin + ms(self.random.magnitude(50, 4_000));
        if self.random.chance(25) {
            episode.kinds.push(Kind::KillTwice);
            episode.steps.push((back, Step::Start(node, cores)));
            back += ms(self.random.magnitude(20, 1_500));
            episode.steps.push((back, Step::Kill(node)));
            back += ms(self.random.magnitude(20, 500));
            cores = self.cores(episode);
        } else {
            episode.kinds.push(Kind::Kill);
        }
        episode.steps.push((back, Step::Start(node, cores)));
    }

    fn draw_kill_all(&mut self, episode: &mut Episode, begin: Duration) {
        episode.kinds.push(Kind::KillAll);
        for node in 1..=self.nodes {
            episode.steps.push((begin, Step::Kill(node)));
            let back = begin + ms(self.random.magnitude(20, 1_500));
            let cores = self.cores(episode);
            episode.steps.push((back, Step::Start(node, cores)));
        }
    }

    fn draw_wipe(&mut self, episode: &mut Episode, begin: Duration) {
        episode.kinds.push(Kind::Wipe);
        let node = self.node();
        let cores = self.cores(episode);
        episode.loses = Some(node);
        episode.steps.push((begin, Step::Kill(node)));
        episode.steps.push((begin, Step::Wipe(node)));
        let back = begin + ms(self.random.magnitude(20, 2_000));
        episode.steps.push((back, Step::Start(node, cores)));
    }

    fn draw_disk_fault(&mut self, episode: &mut Episode) {
        if let Some(node) = self.small_disk.filter(|_| self.random.chance(40)) {
            episode.kinds.push(Kind::FullDisk);
            episode.steps.push((ms(0), Step::Fill(node)));
            let until = ms(self.random.magnitude(500, 8_000));
            episode.steps.push((until, Step::Free(node)));
            return;
        }
        let node = self.node();
        let ways = [Damage::FlippedBits, Damage::CutShort, Damage::Misdirected, Damage::Blank];
        let way = ways[self.random.below(ways.len() as u64) as usize];
        episode.kinds.push(Kind::Damage(way));
        episode.loses = Some(node);
        let cores = self.cores(episode);
        let salt = self.random.next();
        for step in [
            Step::Kill(node),
            Step::AwaitOthers(node),
            Step::Damage(node, way, salt),
            Step::Start(node, cores),
        ] {
            episode.steps.push((ms(0), step));
        }
    }

    fn draw_pause(&mut self, episode: &mut Episode, begin: Duration) {
        episode.kinds.push(Kind::Pause);
        let first = self.node();
        let mut stopped = vec![first];
        if self.random.chance(20) {
            stopped.push(first % self.nodes + 1);
        }
        for node in stopped {
            let from = begin + ms(self.random.below(400));
            let until = from + ms(self.random.magnitude(200, 10_000));
            episode.steps.push((from, Step::Stop(node)));
            episode.steps.push((until, Step::Continue(node)));
        }
    }

    fn draw_pause_cut_off(&mut self, episode: &mut Episode, begin: Duration) {
        episode.kinds.push(Kind::PauseCutOff);
        let node = self.node();
        let wakes = begin + ms(self.random.magnitude(200, 5_000));
        let returns = wakes + ms(self.random.magnitude(100, 2_000));
        episode.steps.push((begin, Step::Stop(node)));
        episode.steps.push((wakes, Step::Continue(node)));
        for (a, b) in pairs(self.nodes).filter(|(a, b)| *a == node || *b == node) {
            episode.steps.push((begin, Step::Rule(a, b, Rule::Hold)));
            episode.steps.push((returns, Step::Rule(a, b, Rule::Pass)));
        }
    }

    fn draw_transfers(&mut self, episode: &mut Episode) {
        episode.kinds.push(Kind::Transfers);
        let mut at = ms(0);
        for _ in 0..self.random.between(3, 12) {
            let shard = self.random.below(u64::from(self.shards)) as u16;
            let to = self.node();
            episode.steps.push((at, Step::Transfer(shard, to)));
            at += ms(self.random.magnitude(10, 500));
        }
    }

    /// The directed links of a random cut: one node off, a bridge, or any of them.
    fn cut(&mut self) -> Vec<(u16, u16)> {
        let alone = self.node();
        let all: Vec<_> = pairs(self.nodes).collect();
        match self.random.below(3) {
            0 => all.into_iter().filter(|(a, b)| *a == alone || *b == alone).collect(),
            1 => {
                let other = alone % self.nodes + 1;
                vec![(alone, other), (other, alone)]
            }
            _ => {
                let mut some: Vec<_> = all;
                some.retain(|_| self.random.chance(50));
                some
            }
        }
    }

    fn draw_network_fault(&mut self, episode: &mut Episode) {
        let from = ms(self.random.below(500));
        let until = from + ms(self.random.magnitude(200, 8_000));
        let (kind, links, rule) = match self.random.below(100) {
            0..25 => {
                let mut links = self.cut();
                // What refuses in one direction refuses the connections of both.
                let back: Vec<_> = links.iter().map(|&(a, b)| (b, a)).collect();
                links.extend(back);
                links.sort_unstable();
                links.dedup();
                (Kind::Partition, links, Rule::Refuse)
            }
            25..45 => (Kind::BlackHole, self.cut(), Rule::Hold),
            45..70 => (Kind::OneWay, self.one_way(), Rule::Hold),
            70..80 => {
                let delay = ms(self.random.magnitude(5, 300));
                (Kind::Delay, self.cut(), Rule::Delay(delay))
            }
            80..88 => {
                let rate = self.random.magnitude(2_000, 2_000_000);
                (Kind::Throttle, self.cut(), Rule::Throttle(rate))
            }
            _ => return self.draw_swizzle(episode),
        };
        episode.kinds.push(kind);
        // What was held may arrive late, or be lost with its connections.
        let breaks = self.random.chance(50);
        for (a, b) in links {
            episode.steps.push((from, Step::Rule(a, b, rule)));
            if breaks {
                episode.steps.push((until, Step::Reset(a, b)));
            }
            episode.steps.push((until, Step::Rule(a, b, Rule::Pass)));
        }
    }

    /// Links that carry nothing while those in the other direction do.
    fn one_way(&mut self) -> Vec<(u16, u16)> {
        let alone = self.node();
        let all = pairs(self.nodes);
        match self.random.below(3) {
            0 => all.filter(|(a, _)| *a == alone).collect(),
            1 => all.filter(|(_, b)| *b == alone).collect(),
            _ => vec![(alone, alone % self.nodes + 1)],
        }
    }

    fn draw_swizzle(&mut self, episode: &mut Episode) {
        episode.kinds.push(Kind::Swizzle);
        let mut links: Vec<_> = pairs(self.nodes).collect();
        links.retain(|_| self.random.chance(70));
        let mut at = ms(self.random.below(300));
        for &(a, b) in &links {
            episode.steps.push((at, Step::Rule(a, b, Rule::Hold)));
            at += ms(self.random.magnitude(20, 800));
        }
        while !links.is_empty() {
            let place = self.random.below(links.len() as u64) as usize;
            let (a, b) = links.swap_remove(place);
            episode.steps.push((at, Step::Rule(a, b, Rule::Pass)));
            at += ms(self.random.magnitude(20, 800));
        }
    }
}
