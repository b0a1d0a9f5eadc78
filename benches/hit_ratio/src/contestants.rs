//! Who takes part, and one contestant's way through one trace.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::calibration::{self, Fitted};
use crate::options::{ContestantName, Options, words};
use crate::replay::{Event, Outcome, Pace, replay};
use crate::servers::{CoracleSettings, Running, ServerError, System};
use crate::trace::{KEY_BYTES, Trace, Windows};
use crate::wire::WireError;

/// Whether a server is killed in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// All servers live.
    Undisturbed,
    /// The first one is killed.
    Failover,
}

/// Who takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contestant {
    /// What it is called in tables.
    pub name: String,
    /// What is started.
    pub system: System,
    /// Over how many nodes clients begin spread.
    pub begin_at: usize,
    /// Whether any replica may answer reads.
    pub read_replicas: bool,
    /// What happens in the middle.
    pub course: Course,
    /// Of a failover: the contestant that is the same without it.
    pub compared_with: Option<&'static str>,
}

impl Contestant {
    fn new(name: &str, system: System, begin_at: usize) -> Contestant {
        Contestant {
            name: name.into(),
            system,
            begin_at,
            read_replicas: false,
            course: Course::Undisturbed,
            compared_with: None,
        }
    }

    fn of(name: ContestantName) -> Option<Contestant> {
        let redis = |replicas| System::Redis { replicas };
        let coracle = |nodes| System::Coracle { nodes, arguments: Vec::new() };
        let failover = |contestant, same| Contestant {
            course: Course::Failover,
            compared_with: Some(same),
            ..contestant
        };
        Some(match name {
            ContestantName::None => return None,
            ContestantName::Redis => Contestant::new("redis", redis(0), 1),
            ContestantName::RedisPromoted => {
                failover(Contestant::new("redis-promoted", redis(1), 1), "redis")
            }
            ContestantName::Memcached => Contestant::new("memcached", System::Memcached, 1),
            ContestantName::Coracle1 => Contestant::new("coracle-1", coracle(1), 1),
            ContestantName::Coracle3 => Contestant::new("coracle-3", coracle(3), 3),
            ContestantName::Coracle3Replicas => Contestant {
                read_replicas: true,
                ..Contestant::new("coracle-3-replicas", coracle(3), 3)
            },
            ContestantName::Coracle3Failover => {
                failover(Contestant::new("coracle-3-failover", coracle(3), 3), "coracle-3")
            }
        })
    }

    /// All that the options name, in their order.
    pub fn all(options: &Options) -> Vec<Contestant> {
        let named = options.contestants.iter().copied().filter_map(Contestant::of);
        let variants = options.variant.iter().map(|variant| {
            let system = System::Coracle { nodes: 3, arguments: variant.arguments.clone() };
            Contestant { read_replicas: true, ..Contestant::new(&variant.name, system, 3) }
        });
        named.chain(variants).collect()
    }
}

/// Why a contestant has no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its servers.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A worker found no server any more.
    #[error("no server is left to talk to: {0}")]
    Wire(#[from] WireError),
}

/// What a contestant made of a trace.
pub struct Run {
    /// What its clients saw.
    pub outcome: Outcome,
    /// Entries that it held at the end.
    pub entries: u64,
    /// The memory of each process, in bytes.
    pub memory_bytes: u64,
}

/// Starts contestants, with the memory that each needs for the room.
pub struct Ring<'a> {
    options: &'a Options,
    coracle: CoracleSettings,
    fitted: BTreeMap<(System, u64), Fitted>,
}

impl<'a> Ring<'a> {
    /// Nothing is started yet.
    pub fn new(options: &'a Options) -> Ring<'a> {
        let beside = || {
            let own = std::env::current_exe().unwrap_or_default();
            own.with_file_name("coracle")
        };
        let coracle = CoracleSettings {
            binary: options.coracle.clone().unwrap_or_else(beside),
            cores: options.cores,
            shards: options.shards,
            durability: options.durability.name().into(),
            arguments: words(&options.coracle_arguments),
        };
        Ring { options, coracle, fitted: BTreeMap::new() }
    }

    /// Replays a trace against a contestant that holds nearly `room` entries.
    ///
    /// # Errors
    /// If it does not start, does not answer, or is lost for good.
    pub fn run(
        &mut self,
        contestant: &Contestant,
        trace: &Trace,
        windows: &Windows,
        room: u64,
    ) -> Result<Run, RunError> {
        let memory_bytes = self.fit(&contestant.system, room)?.memory_bytes;
        let running = self.start(&contestant.system, memory_bytes)?;
        let servers = running.servers(contestant.begin_at, contestant.read_replicas);
        let failed = Mutex::new(None);
        let happen = || {
            *failed.lock().unwrap_or_else(PoisonError::into_inner) = running.fail_over().err();
        };
        let event = Event { position: windows.start(windows.failover()), happen: &happen };
        let event = (contestant.course == Course::Failover).then_some(&event);
        let outcome = replay(trace, windows, &servers, &self.options.pace(), event);
        // A failover that failed explains why no server was left.
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error.into());
        }
        Ok(Run { outcome: outcome?, entries: running.entries()?, memory_bytes })
    }

    fn start(&self, system: &System, memory_bytes: u64) -> Result<Running, ServerError> {
        let value_bytes = self.options.value_size as usize;
        system.start(memory_bytes, value_bytes, self.options.network, &self.coracle)
    }

    /// The memory in which such a system holds nearly `room` entries.
    fn fit(&mut self, system: &System, room: u64) -> Result<Fitted, RunError> {
        // Replicas of redis and followers of Coracle hold what the others hold, but the buffers
        // for them count, too: each number of processes is fitted by itself.
        let known = (system.clone(), room);
        if let Some(&fitted) = self.fitted.get(&known) {
            return Ok(fitted);
        }
        let entry_bytes =
            KEY_BYTES as u64 + self.options.value_size + system.overhead_guess_bytes();
        let fill = Trace::fill((room * calibration::FILLED_PER_ROOM) as u32);
        let windows = Windows::new(fill.requests.len(), 1, 0.0);
        let pace = Pace { rate: None, ..self.options.pace() };
        let guess = room * entry_bytes;
        let fitted = calibration::fit(room, guess, system.memory_step_bytes(), |memory_bytes| {
            let running = self.start(system, memory_bytes)?;
            replay(&fill, &windows, &running.servers(1, false), &pace, None)?;
            Ok::<u64, RunError>(running.entries()?)
        })?;
        self.fitted.insert(known, fitted);
        Ok(fitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn every_failover_has_its_run_without_and_names_differ() {
        let flags = ["hit-ratio", "--variant=sieve=--eviction sieve"];
        let all = Contestant::all(&Options::parse_from(flags));
        assert_eq!(all.len(), 8);
        for (position, contestant) in all.iter().enumerate() {
            assert!(all[..position].iter().all(|other| other.name != contestant.name));
            let same = contestant.compared_with.map(|name| all.iter().find(|c| c.name == name));
            assert_eq!(contestant.course == Course::Failover, same.is_some());
            assert!(same.is_none_or(|found| found.is_some()), "{}", contestant.name);
        }
        assert!(
            Contestant::all(&Options::parse_from(["hit-ratio", "--contestants=none"])).is_empty()
        );
    }
}
