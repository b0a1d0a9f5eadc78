//! What all clients share: the clock, the keys, and the counts of a run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use history::{Stamped, versions_follow_time};

use crate::keys::{Key, Ring};

/// Gaps between two acknowledgements of a shard that are shorter are not kept.
const GAP_MIN: Duration = Duration::from_millis(100);

/// What happened to the nodes, as far as a client's complaint depends on it: odd while something is
/// being done to the node, and higher after every change.
#[derive(Debug, Default)]
pub struct Trouble(Vec<AtomicU64>);

impl Trouble {
    fn new(nodes: u16) -> Self {
        Trouble((0..nodes).map(|_| AtomicU64::new(0)).collect())
    }

    /// Something is about to be done to a node.
    pub fn begin(&self, node: u16) {
        self.0[usize::from(node) - 1].fetch_or(1, Ordering::SeqCst);
    }

    /// It is over.
    pub fn end(&self, node: u16) {
        let trouble = &self.0[usize::from(node) - 1];
        let before = trouble.fetch_or(1, Ordering::SeqCst) | 1;
        trouble.store(before + 1, Ordering::SeqCst);
    }

    /// Which quiet time of the node this is; `None` while it is not quiet.
    pub fn quiet_time(&self, node: u16) -> Option<u64> {
        let trouble = self.0[usize::from(node) - 1].load(Ordering::SeqCst);
        trouble.is_multiple_of(2).then_some(trouble)
    }
}

/// A time in which a shard acknowledged nothing.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    /// Which shard.
    pub shard: u16,
    /// From when, in nanoseconds of the run,
    pub from: u64,
    /// to when.
    pub to: u64,
}

#[derive(Debug, Default)]
struct Acknowledged {
    last: u64,
    versions: Vec<Stamped>,
}

/// What all clients share.
#[derive(Debug)]
pub struct Record {
    began: Instant,
    /// The keys.
    pub ring: Ring,
    /// What is being done to the nodes.
    pub trouble: Trouble,
    is_stopped: AtomicBool,
    operations: AtomicU64,
    outcomes: Mutex<BTreeMap<String, u64>>,
    failures: Mutex<Vec<String>>,
    replaced: Mutex<Vec<Arc<Key>>>,
    acknowledged: Vec<Mutex<Acknowledged>>,
    gaps: Mutex<Vec<Gap>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Record {
    /// Nothing happened yet.
    pub fn new(nodes: u16, shards: u16) -> Self {
        Record {
            began: Instant::now(),
            ring: Ring::new(shards),
            trouble: Trouble::new(nodes),
            is_stopped: AtomicBool::new(false),
            operations: AtomicU64::new(0),
            outcomes: Mutex::default(),
            failures: Mutex::default(),
            replaced: Mutex::default(),
            acknowledged: (0..shards).map(|_| Mutex::default()).collect(),
            gaps: Mutex::default(),
        }
    }

    /// Nanoseconds since the run began.
    pub fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Whether clients should end.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    /// Tells clients to end.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Notes what must not happen, and ends the run.
    pub fn fail(&self, text: String) {
        println!("{:.3} FAILURE {text}", self.now() as f64 / 1e9);
        lock(&self.failures).push(text);
    }

    /// Whether anything happened that must not.
    pub fn has_failed(&self) -> bool {
        !lock(&self.failures).is_empty()
    }

    /// What happened that must not.
    pub fn failures(&self) -> Vec<String> {
        lock(&self.failures).clone()
    }

    /// Counts an outcome other than success.
    pub fn count(&self, outcome: &str) {
        *lock(&self.outcomes).entry(outcome.to_owned()).or_default() += 1;
    }

    /// Outcomes other than success.
    pub fn outcomes(&self) -> BTreeMap<String, u64> {
        lock(&self.outcomes).clone()
    }

    /// Operations that were answered with success.
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    /// A key was replaced.
    pub fn shelve(&self, key: Arc<Key>) {
        lock(&self.replaced).push(key);
    }

    /// The keys replaced since the last call.
    pub fn take_replaced(&self) -> Vec<Arc<Key>> {
        std::mem::take(&mut lock(&self.replaced))
    }

    /// A shard has answered. `version` is the place of a write in its log, if that is known.
    pub fn acknowledge(&self, shard: u16, called: u64, returned: u64, version: Option<u64>) {
        self.operations.fetch_add(1, Ordering::Relaxed);
        let mut acknowledged = lock(&self.acknowledged[usize::from(shard)]);
        let from = acknowledged.last;
        if from != 0 && returned.saturating_sub(from) >= GAP_MIN.as_nanos() as u64 {
            lock(&self.gaps).push(Gap { shard, from, to: returned });
        }
        acknowledged.last = acknowledged.last.max(returned);
        if let Some(version) = version {
            acknowledged.versions.push(Stamped { called, returned, version });
        }
    }

    /// When a shard answered last, in nanoseconds of the run.
    pub fn last_acknowledged(&self, shard: u16) -> u64 {
        lock(&self.acknowledged[usize::from(shard)]).last
    }

    /// All gaps.
    pub fn gaps(&self) -> Vec<Gap> {
        lock(&self.gaps).clone()
    }

    /// Checks that writes took their places in each shard's log in the order of time.
    pub fn judge_versions(&self) -> Result<usize, String> {
        let mut count = 0;
        for (shard, acknowledged) in self.acknowledged.iter().enumerate() {
            let versions = &lock(acknowledged).versions;
            count += versions.len();
            versions_follow_time(versions)
                .map_err(|misordered| format!("shard {shard}: {misordered:?}"))?;
        }
        Ok(count)
    }
}
