//! The keys that clients work on, and what they saw of each.
//!
//! Every shard has a few *places*; the key that stands in one is replaced by a new one every few
//! seconds, and earlier when its history grows long or has many operations of unknown outcome:
//! that bounds what the checker has to search. A key that was replaced rests on the shelf, where it
//! is read from time to time, so that a loss long after its last write is seen, too; then it is
//! judged. What was accepted with no operation of unknown outcome has one possible value from then
//! on, and is compared with that at the very end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use history::register::{self, Eviction, Input, Output, Register, Status, Value};
use history::{Operation, Outcome, Violation};
use proto::slot::slot_of;

use crate::random::Random;

/// Operations on a key, after which a new one takes its place.
pub const OPERATIONS_MAX: usize = 3_000;
/// The same for operations of unknown outcome; those under way may yet be added.
pub const UNKNOWN_MAX: usize = 16;
/// Places per shard.
const PLACES_PER_SHARD: usize = 2;
/// Steps of the search for an order; a history that takes more is a failure.
const SEARCH_STEPS: u64 = 40_000_000;

/// An operation as a client saw it.
pub type Seen = Operation<Input, Output>;

/// What is done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Set, compared, deleted.
    Register,
    /// Incremented.
    Counter,
    /// Appended to.
    List,
}

/// A key, and everything that clients saw of it.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// What is done with it.
    pub kind: Kind,
    /// Its shard.
    pub shard: u16,
    history: Mutex<History>,
}

#[derive(Debug, Default)]
struct History {
    operations: Vec<Seen>,
    unknown: usize,
    /// The last version that somebody saw.
    version: u64,
}

impl Key {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds what a client saw, and says whether the key has seen enough.
    pub fn record(&self, operation: Seen) -> bool {
        let mut history = self.history();
        match operation.output() {
            None => history.unknown += 1,
            Some(output) if output.version != register::UNTOLD => history.version = output.version,
            Some(_) => {}
        }
        history.operations.push(operation);
        history.operations.len() >= OPERATIONS_MAX || history.unknown >= UNKNOWN_MAX
    }

    /// A version that the key had not long ago, or zero.
    pub fn recent_version(&self) -> u64 {
        self.history().version
    }

    /// Looks for an order of everything seen. Says what the key holds, if that is certain.
    ///
    /// # Errors
    /// A text that shows why there is no order.
    pub fn judge(&self) -> Result<Settled, String> {
        let history = self.history();
        let model = Register { eviction: Eviction::Impossible };
        match register::check(model, &history.operations, SEARCH_STEPS) {
            Ok(_) if history.unknown > 0 => Ok(Settled::Uncertain),
            Ok(_) => Ok(last_read(&history.operations)),
            Err(violation) => Err(self.explain(&history.operations, &violation)),
        }
    }

    /// Numbers of operations, and of those of unknown outcome.
    pub fn counts(&self) -> (usize, usize) {
        let history = self.history();
        (history.operations.len(), history.unknown)
    }

    fn explain(&self, operations: &[Seen], violation: &Violation) -> String {
        let (verdict, stuck_at) = match violation {
            Violation::NotLinearizable { stuck_at, .. } => ("not linearizable", *stuck_at),
            Violation::GaveUp { stuck_at, .. } => ("the search took too long", *stuck_at),
        };
        let stuck = &operations[stuck_at];
        let mut around: Vec<&Seen> = operations
            .iter()
            .filter(|other| {
                let is_unknown = other.returned() == u64::MAX;
                other.called <= stuck.returned()
                    && (is_unknown || other.returned() + AROUND_NS >= stuck.called)
            })
            .collect();
        around.sort_by_key(|operation| operation.called);
        let count = operations.len();
        let unknown = operations.iter().filter(|o| o.outcome == Outcome::Unknown).count();
        let mut text = format!(
            "{} of shard {}: {verdict}, {count} operations, {unknown} unknown; stuck at\n  {}\n\
             around it:\n",
            self.name,
            self.shard,
            line(stuck)
        );
        for operation in &around[around.len().saturating_sub(LINES_MAX)..] {
            text.push_str(&format!("  {}\n", line(operation)));
        }
        text
    }
}

/// How much before the place where a search got stuck is shown, and how many lines at most.
const AROUND_NS: u64 = 400_000_000;
const LINES_MAX: usize = 120;

fn line(operation: &Seen) -> String {
    let seconds = |ns: u64| ns as f64 / 1e9;
    let outcome = match &operation.outcome {
        Outcome::Unknown => "unknown".to_owned(),
        Outcome::Returned { at, output } => {
            let value = output.value.as_deref().map(shown).unwrap_or_default();
            format!(
                "{:.6} {:?} {value} version {} number {}",
                seconds(*at),
                output.status,
                output.version as i64,
                output.number as i64
            )
        }
    };
    let input = match &operation.input {
        Input::Set { value, condition, return_old, .. } => {
            let old = if *return_old { " returning old" } else { "" };
            format!("set {} {condition:?}{old}", shown(value))
        }
        Input::Append(tail) => format!("append {}", shown(tail)),
        other => format!("{other:?}"),
    };
    format!("{:.6} {input} -> {outcome}", seconds(operation.called))
}

fn shown(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}.. ({} bytes)", &text[..end], value.len()),
        None => text.into_owned(),
    }
}

/// What a key that nobody writes to any more holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// This, or nothing.
    Known(Option<Value>),
    /// It cannot be told.
    Uncertain,
}

/// What the last operation read, which came after all others.
fn last_read(operations: &[Seen]) -> Settled {
    let Some(last) = operations.iter().max_by_key(|operation| operation.called) else {
        return Settled::Known(None);
    };
    let came_last = operations
        .iter()
        .filter(|other| !std::ptr::eq(*other, last))
        .all(|other| other.returned() < last.called || other.input.is_read());
    match (&last.input, last.output()) {
        (Input::Get, Some(output)) if came_last => match output.status {
            Status::NotFound => Settled::Known(None),
            _ => Settled::Known(output.value.clone()),
        },
        _ => Settled::Uncertain,
    }
}

/// The keys that are worked on.
#[derive(Debug)]
pub struct Ring {
    shards: u16,
    places: RwLock<Vec<Arc<Key>>>,
    generation: AtomicU64,
}

impl Ring {
    /// New keys for all places.
    pub fn new(shards: u16) -> Self {
        let ring = Ring { shards, places: RwLock::new(Vec::new()), generation: AtomicU64::new(0) };
        let count = usize::from(shards) * PLACES_PER_SHARD;
        let keys = (0..count).map(|place| ring.fresh(place)).collect();
        *ring.places.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = keys;
        ring
    }

    /// Number of places.
    pub fn count(&self) -> usize {
        usize::from(self.shards) * PLACES_PER_SHARD
    }

    /// Shard of a key.
    pub fn shard_of(&self, name: &str) -> u16 {
        (u32::from(slot_of(name.as_bytes())) * u32::from(self.shards) / 16_384) as u16
    }

    fn fresh(&self, place: usize) -> Arc<Key> {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        let shard = (place % usize::from(self.shards)) as u16;
        let (kind, word) = match generation % 5 {
            0..=2 => (Kind::Register, "register"),
            3 => (Kind::List, "list"),
            _ => (Kind::Counter, "counter"),
        };
        let name = (0..)
            .map(|salt: u32| format!("{word}:{generation}:{salt}"))
            .find(|name| self.shard_of(name) == shard);
        let name = name.unwrap_or_default();
        Arc::new(Key { name, kind, shard, history: Mutex::default() })
    }

    /// The key in one of the places.
    pub fn pick(&self, random: &mut Random) -> (usize, Arc<Key>) {
        let places = self.places.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let place = random.below(places.len() as u64) as usize;
        (place, places[place].clone())
    }

    /// Puts a new key in a place; returns the old one. `None` if another than `old` stands there.
    pub fn replace(&self, place: usize, old: Option<&Arc<Key>>) -> Option<Arc<Key>> {
        let mut places = self.places.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if old.is_some_and(|old| !Arc::ptr_eq(old, &places[place])) {
            return None;
        }
        let fresh = self.fresh(place);
        Some(std::mem::replace(&mut places[place], fresh))
    }
}
