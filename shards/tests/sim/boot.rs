//! How a node starts: with nothing, with what its disk holds, or with that on other cores.
//!
//! This is the driver's part of recovery, as the server does it: which layout counts, what happens
//! to a damaged log, and the move to another number of cores. The bytes are read and written by
//! the engine's own code.

use std::collections::BTreeMap;

use shards::contract::{CoreConfig, DiskOperation, Durability};
use shards::engine::Core;
use shards::ids::{CoreIndex, Nanos, NodeId, ShardId};
use shards::wal::{self, LogIdentity, ReadError, Recovered, RecoveredReplica};

use crate::disk::{Layout, Write};
use crate::options::{Options, SECOND};
use crate::world::{TICK_NS, World};

/// Operations of a move to another number of cores, about: a crash strikes among so many.
const MOVE_OPERATIONS: u64 = 12;

/// The process died on its way up.
#[derive(Debug)]
pub struct Died;

/// What a log came to.
enum Found {
    Whole(Recovered),
    Damaged(String),
}

impl World {
    fn config(
        &self,
        node: NodeId,
        cores: u16,
        core: CoreIndex,
        layout: u64,
        seed: u64,
    ) -> CoreConfig {
        let options: &Options = &self.options;
        CoreConfig {
            node,
            core,
            cores,
            placement: self.placement.clone(),
            shard_bytes_max: options.shard_bytes_max,
            eviction: options.eviction,
            value_bytes_max: 1 << 16,
            durability: options.durability,
            reads: options.reads,
            log: LogIdentity { cluster: 7, node, layout, core },
            segment_bytes: options.disk.segment_bytes,
            tick: Nanos(TICK_NS),
            election_ticks: 6,
            request_deadline: Nanos(options.request_deadline),
            touch_interval: options.touch_interval,
            stub_bytes_min: options.stub_bytes_min,
            scrub_bytes_per_second: options.scrub_bytes_per_second,
            parked_bytes_max: options.parked_bytes_max,
            seed: seed ^ u64::from(core.0),
        }
    }

    /// The engines of a node that starts.
    pub fn start_cores(&mut self, node: NodeId, seed: u64) -> Result<Vec<Core>, Died> {
        let cores = self.process(node).cores;
        let now = self.clocks(node);
        if self.options.durability == Durability::Memory {
            let fresh = |core| Core::new(self.config(node, cores, CoreIndex(core), 1, seed));
            return Ok((0..cores).map(fresh).collect());
        }
        let disk = &mut self.process_mut(node).disk;
        let current = match wal::current_layout(disk.complete()) {
            Some(current) => current,
            None => {
                disk.begin_layout(1, cores).is_complete = true;
                1
            }
        };
        disk.keep_only(current);
        let mut layout = current;
        let mut found = self.read_layout(node, layout, seed);
        if found.len() != usize::from(cores) {
            layout = self.move_to_cores(node, layout, found, seed)?;
            found = self.read_layout(node, layout, seed);
        }
        let start = |(core, recovered): (usize, Recovered)| {
            let config = self.config(node, cores, CoreIndex(core as u16), layout, seed);
            Core::resume(config, now, recovered)
        };
        Ok(found.into_iter().enumerate().map(start).collect())
    }

    /// Reads all logs of a layout. One that is damaged is set aside, and its core starts empty.
    fn read_layout(&mut self, node: NodeId, number: u64, seed: u64) -> Vec<Recovered> {
        let count = self.process_mut(node).disk.layout(number).map_or(0, |l| l.cores.len());
        let mut all = Vec::new();
        for core in (0..count as u16).map(CoreIndex) {
            let config = self.config(node, count as u16, core, number, seed);
            match self.read_log(&config) {
                Ok(Found::Whole(recovered)) => {
                    self.tally.recoveries += u64::from(!recovered.replicas.is_empty());
                    all.push(recovered);
                }
                Ok(Found::Damaged(what)) => {
                    self.tell(|| format!("the log of {node}/{core} is set aside: {what}"));
                    self.tally.logs_set_aside += 1;
                    if !self.process(node).is_damaged {
                        let text = format!("{node}/{core} finds its log damaged: {what}");
                        self.checkers.violation(text);
                    }
                    if let Some(layout) = self.process_mut(node).disk.layout(number) {
                        layout.cores[usize::from(core.0)] = Default::default();
                    }
                    all.push(Recovered::default());
                }
                Err(what) => {
                    self.checkers.violation(format!("{node}/{core} reads another's log: {what}"));
                    all.push(Recovered::default());
                }
            }
        }
        all
    }

    fn read_log(&mut self, config: &CoreConfig) -> Result<Found, String> {
        let disk = &mut self.process_mut(config.node).disk;
        let log = disk.layout(config.log.layout).map(|l| &l.cores[usize::from(config.core.0)]);
        let Some(log) = log else { return Ok(Found::Whole(Recovered::default())) };
        let read = wal::read(config.log, &log.segments());
        match read.and_then(|log| log.restore(config)) {
            Ok(recovered) => Ok(Found::Whole(recovered)),
            Err(ReadError::Damaged(what)) => Ok(Found::Damaged(what)),
            Err(ReadError::Foreign(what)) => Err(what),
        }
    }

    /// Writes what was found into a new layout with another number of cores, which then counts.
    fn move_to_cores(
        &mut self,
        node: NodeId,
        old: u64,
        found: Vec<Recovered>,
        seed: u64,
    ) -> Result<u64, Died> {
        let cores = self.process(node).cores;
        let new = old + 1;
        self.tally.moves += 1;
        self.tell(|| format!("node {node} moves from layout {old} to {cores} cores"));
        let mut homes: Vec<BTreeMap<ShardId, RecoveredReplica>> =
            (0..cores).map(|_| BTreeMap::new()).collect();
        for (shard, replica) in found.into_iter().flat_map(|recovered| recovered.replicas) {
            let core = self.placement.core(shard, cores);
            homes[usize::from(core.0)].insert(shard, replica);
        }
        let dies = self.is_troubled && self.chaos.chance(self.options.disk.death_in_move_share);
        let mut budget = if dies { self.chaos.below(MOVE_OPERATIONS) } else { u64::MAX };
        let mut step = |layout: &mut Layout, core: usize, operation: DiskOperation| {
            budget = budget.checked_sub(1).ok_or(Died)?;
            if let DiskOperation::Write { id, segment, segment_bytes, offset, bytes } = operation {
                let log = &mut layout.cores[core];
                log.begin(Write { id, segment, segment_bytes, offset, bytes });
                log.complete();
            }
            Ok(())
        };
        let segment_bytes = self.options.disk.segment_bytes;
        let layout = self.process_mut(node).disk.begin_layout(new, cores);
        for (core, replicas) in homes.iter_mut().enumerate() {
            let identity =
                LogIdentity { cluster: 7, node, layout: new, core: CoreIndex(core as u16) };
            let mut carry_out = |operation| step(layout, core, operation);
            wal::rewrite(identity, segment_bytes, replicas, &mut carry_out)?;
        }
        layout.is_complete = true;
        let _ = seed;
        if dies {
            // It dies before the old layout is removed: both are there, and both are whole.
            return Err(Died);
        }
        self.process_mut(node).disk.keep_only(new);
        Ok(new)
    }

    /// Starts a node with what its disk holds.
    pub fn boot(&mut self, node: NodeId) {
        if !self.process(node).seats.is_empty() {
            return;
        }
        let seed = self.draw_seed();
        match self.start_cores(node, seed) {
            Ok(cores) => self.seat_cores(node, cores),
            Err(Died) => {
                self.tell(|| format!("node {node} dies on its way up"));
                self.tally.deaths_in_moves += 1;
                if self.chaos.chance(300) {
                    self.process_mut(node).cores = self.chaos.between(1, 3) as u16;
                }
                let at = self.now + self.chaos.below(SECOND / 2) + 1;
                self.schedule(at, crate::world::Event::Boot(node));
            }
        }
    }
}
