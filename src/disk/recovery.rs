//! From a data directory to what each core goes on with: before any executor runs.
//!
//! Each core's log is read by a thread of its own. Its segments are mapped into memory and brought
//! in by the kernel ahead of the reader, so that a log in the page cache costs no copy and one on
//! disk is read in sequence. What the bytes mean, the engine says ([`shards::wal`]).
//!
//! A log that is another node's ends the start. One that is damaged is set aside under another
//! name, and its core starts empty: its replicas come back under new ids and are filled by their
//! peers, which is slow but loses nothing that a majority has. A log that was only cut short by a
//! crash is neither.
//!
//! If the number of cores has changed, everything is read, written anew in a layout for as many
//! cores as there are now, and read again: what is then served has come off the disk that it will
//! come off the next time.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memmap2::{Advice, Mmap};
use shards::contract::{CoreConfig, DiskOperation};
use shards::ids::{CoreIndex, NodeId, ShardId};
use shards::wal::{self, LogIdentity, ReadError, Recovered, RecoveredReplica, Segment};

use super::data_directory::{DataDirectory, DataDirectoryError, Layout};
use super::segments::{self, SegmentFiles, SegmentName};

/// How long a write of a process that was killed may still be under way.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// How often it is looked for.
const WRITE_RETRY_INTERVAL: Duration = Duration::from_millis(2);

/// Why a node does not start from its data directory.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// It cannot be used at all.
    #[error(transparent)]
    Directory(#[from] DataDirectoryError),
    /// It is somebody else's.
    #[error(
        "the data directory {} is of another cluster, another node or another number of shards: \
         {reason}; choose another with --data-dir",
        path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What its log says.
        reason: String,
    },
}

/// What a core goes on with.
#[derive(Debug)]
pub struct CoreLog {
    /// Where its log is.
    pub directory: PathBuf,
    /// Whose it is.
    pub identity: LogIdentity,
    /// What it held.
    pub recovered: Recovered,
}

/// What all cores of a node go on with.
#[derive(Debug)]
pub struct NodeLogs {
    /// By core.
    pub cores: Vec<CoreLog>,
    /// Bytes of log that were read.
    pub log_bytes: u64,
}

impl NodeLogs {
    /// Keys of all stores.
    pub fn keys(&self) -> u64 {
        let replicas = self.cores.iter().flat_map(|core| core.recovered.replicas.values());
        replicas.map(|replica| replica.store.keys()).sum()
    }

    /// Number of replicas.
    pub fn replicas(&self) -> usize {
        self.cores.iter().map(|core| core.recovered.replicas.len()).sum()
    }
}

/// A log as one thread found it.
enum Found {
    Sound(Recovered),
    Foreign(String),
    Damaged(String),
}

/// Reads what the cores of a node go on with. `engine` is the configuration of any of them; of its
/// log's identity the cluster and the node count.
///
/// # Errors
/// If the directory cannot be used, or is another node's.
pub fn recover(data: &DataDirectory, engine: &CoreConfig) -> Result<NodeLogs, RecoveryError> {
    let mut layout = match data.layout()? {
        Some(layout) => layout,
        None => data.complete_layout(data.begin_layout(1, engine.cores)?)?,
    };
    loop {
        let (found, log_bytes) = read_layout(data, &layout, engine)?;
        if layout.cores == engine.cores && is_at_home(&found, engine) {
            let cores = found.into_iter().zip(0..).map(|(recovered, core)| CoreLog {
                directory: layout.core(core),
                identity: identity(engine, &layout, core),
                recovered,
            });
            return Ok(NodeLogs { cores: cores.collect(), log_bytes });
        }
        layout = move_layout(data, &layout, engine, found)?;
    }
}

fn identity(engine: &CoreConfig, layout: &Layout, core: u16) -> LogIdentity {
    let (layout, core) = (layout.number, CoreIndex(core));
    LogIdentity { layout, core, ..engine.log }
}

/// Whether each replica lies on the core on which its shard lives.
fn is_at_home(found: &[Recovered], engine: &CoreConfig) -> bool {
    found.iter().zip(0..).all(|(recovered, core)| {
        let home = |shard: &ShardId| engine.placement.core(*shard, engine.cores);
        recovered.replicas.keys().all(|shard| home(shard) == CoreIndex(core))
    })
}

/// Reads the logs of all cores of a layout; sets aside those that are damaged.
fn read_layout(
    data: &DataDirectory,
    layout: &Layout,
    engine: &CoreConfig,
) -> Result<(Vec<Recovered>, u64), RecoveryError> {
    for core in 0..layout.cores {
        data.ensure_core(layout, core)?;
    }
    let results: Vec<_> = std::thread::scope(|scope| {
        let read = |core| {
            let config = CoreConfig {
                core: CoreIndex(core),
                cores: layout.cores,
                log: identity(engine, layout, core),
                ..engine.clone()
            };
            scope.spawn(move || read_log(&layout.core(core), &config))
        };
        let threads: Vec<_> = (0..layout.cores).map(read).collect();
        let ended = |_| Err(io::Error::other("the thread that reads the log ended early"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(ended)).collect()
    });
    let mut logs = Vec::new();
    let mut log_bytes = 0;
    for (result, core) in results.into_iter().zip(0..) {
        let (found, bytes) = result.map_err(data.failed(&layout.core(core)))?;
        log_bytes += bytes;
        match found {
            Found::Sound(recovered) => logs.push(recovered),
            Found::Foreign(reason) => {
                return Err(RecoveryError::Foreign { path: data.path().to_owned(), reason });
            }
            Found::Damaged(reason) => {
                let aside = data.set_aside(layout, core)?;
                data.ensure_core(layout, core)?;
                tracing::error!(
                    core,
                    reason,
                    aside = %aside.display(),
                    "the log of this core is damaged and was set aside; the core starts empty \
                     and is filled by the other nodes"
                );
                logs.push(Recovered::default());
            }
        }
    }
    Ok((logs, log_bytes))
}

/// Reads the log of one core. Returns also how many bytes it has.
fn read_log(directory: &Path, config: &CoreConfig) -> io::Result<(Found, u64)> {
    let mut maps = Vec::new();
    for segment in segments::list(directory)? {
        let file = File::open(&segment.path)?;
        wait_for_writes(&file)?;
        // SAFETY: the file belongs to this process, which holds the directory's lock, and nobody
        // writes or truncates it before the map is gone.
        let map = unsafe { Mmap::map(&file) }?;
        // Advice makes it faster and nothing else.
        let _ = map.advise(Advice::WillNeed);
        maps.push((segment, map));
    }
    let bytes = maps.iter().map(|(_, map)| map.len() as u64).sum();
    for (segment, map) in &maps {
        if let Err(error) = bring_in(map) {
            let reason = format!("segment {} cannot be read: {error}", segment.number);
            return Ok((Found::Damaged(reason), bytes));
        }
    }
    let parts: Vec<_> = maps
        .iter()
        .map(|(SegmentName { number, bytes, .. }, map)| Segment {
            number: *number,
            created_bytes: *bytes,
            bytes: map,
        })
        .collect();
    let found = match wal::read(config.log, &parts).and_then(|log| log.restore(config)) {
        Ok(recovered) => Found::Sound(recovered),
        Err(ReadError::Foreign(reason)) => Found::Foreign(reason),
        Err(ReadError::Damaged(reason)) => Found::Damaged(reason),
    };
    Ok((found, bytes))
}

/// Waits until nobody writes to a segment any more. A write that was under way when its process was
/// killed goes on without it; read before its end, the log would be cut in front of a frame that
/// then comes to be there after all.
fn wait_for_writes(file: &File) -> io::Result<()> {
    let deadline = Instant::now() + WRITE_DEADLINE;
    loop {
        match file.try_lock_shared() {
            // The lock goes with the descriptor.
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(WRITE_RETRY_INTERVAL);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("a killed process still has a write under way"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Brings a map's pages in. A page that the disk cannot read would otherwise end the process when
/// it is looked at.
fn bring_in(map: &Mmap) -> io::Result<()> {
    match map.advise(Advice::PopulateRead) {
        // Linux before 5.14 does not know it.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        result => result,
    }
}

/// Writes a layout for as many cores as there are now, makes it the one that counts, and removes
/// the old one.
fn move_layout(
    data: &DataDirectory,
    old: &Layout,
    engine: &CoreConfig,
    found: Vec<Recovered>,
) -> Result<Layout, RecoveryError> {
    let mut parts: Vec<BTreeMap<ShardId, RecoveredReplica>> =
        (0..engine.cores).map(|_| BTreeMap::new()).collect();
    let mut replicas = 0;
    for (shard, replica) in found.into_iter().flat_map(|recovered| recovered.replicas) {
        let home = engine.placement.core(shard, engine.cores);
        if let Some(part) = parts.get_mut(usize::from(home.0)) {
            part.insert(shard, replica);
            replicas += 1;
        }
    }
    tracing::info!(from = old.cores, to = engine.cores, replicas, "moving the logs to other cores");
    let new = data.begin_layout(old.number + 1, engine.cores)?;
    let results: Vec<(u16, io::Result<()>)> = std::thread::scope(|scope| {
        let write = |(part, core)| {
            let (directory, log) = (new.core(core), identity(engine, &new, core));
            let write = move || write_log(&directory, log, engine.segment_bytes, part);
            (core, scope.spawn(write))
        };
        let threads: Vec<_> = parts.into_iter().zip(0..).map(write).collect();
        let ended = |_| Err(io::Error::other("the thread that writes the log ended early"));
        threads.into_iter().map(|(core, t)| (core, t.join().unwrap_or_else(ended))).collect()
    });
    for (core, result) in results {
        result.map_err(data.failed(&new.core(core)))?;
    }
    let new = data.complete_layout(new)?;
    data.remove_layout(old);
    Ok(new)
}

fn write_log(
    directory: &Path,
    identity: LogIdentity,
    segment_bytes: u64,
    mut replicas: BTreeMap<ShardId, RecoveredReplica>,
) -> io::Result<()> {
    let mut files = SegmentFiles::open(directory, segment_bytes)?;
    let mut current: Option<(u64, File)> = None;
    wal::rewrite(identity, segment_bytes, &mut replicas, &mut |operation| {
        let DiskOperation::Write { segment, segment_bytes, offset, bytes, .. } = operation else {
            return Ok(());
        };
        let file = match current.take_if(|(number, _)| *number == segment) {
            Some((_, file)) => file,
            None => {
                let path = files.provide(segment, segment_bytes)?;
                File::options().write(true).open(path)?
            }
        };
        file.write_all_at(&bytes, offset)?;
        // The layout does not count before all of it is durable.
        file.sync_data()?;
        current = Some((segment, file));
        Ok::<(), io::Error>(())
    })
}

/// What stands for the fixed settings of a cluster in its logs: its name, members and shards.
pub fn cluster_identity(name: &str, nodes: &[NodeId], shards: u16) -> u64 {
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    text.extend(shards.to_le_bytes());
    text.extend(nodes.iter().flat_map(|node| node.0.to_le_bytes()));
    xxhash_rust::xxh3::xxh3_64(&text)
}
