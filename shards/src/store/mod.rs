//! The state machine of one shard: keys with values, an order of use, deadlines, a limit.
//!
//! Its state is a pure function of the log. [`Store::begin_entry`] and [`Store::apply`] are the
//! only ways to change it, and neither knows a clock, a random number or the replica's role:
//! eviction and expiry happen inside of them, on every replica alike, and are not logged. Reads
//! change nothing but statistics. That includes what decides the future without being visible:
//! which slot is used next, the order of use, the counter behind it; all of it is in the snapshot
//! and in the digest. Statistics (hits, evictions) are each replica's own.
//!
//! An entry due by the applied stamp is absent, whether or not its turn to be removed has come.
//!
//! Invariants, which [`Store::check`] tests: the table, the recency list and the slab hold the
//! same entries; the expiry index holds those with a deadline; bytes and digest are what a fresh
//! count gives; bytes do not exceed the limit between commands, and after it was lowered they only
//! fall until they do not.

mod accounting;
mod apply;
mod clock;
mod digest;
mod expiry;
mod numbers;
mod pages;
mod recency;
mod slab;
mod snapshot;
mod table;
#[cfg(test)]
mod tests;
mod touches;
mod warm;

pub use accounting::ENTRY_OVERHEAD_BYTES;
pub use clock::ShardClock;
pub use snapshot::{RestoreError, Restorer, SnapshotProgress};
pub use touches::TOUCH_BYTES;
pub use warm::WARM_COMMANDS_MAX;

use crate::command::{Command, Operation};
use crate::contract::CoreConfig;
use crate::defect::{self, Defect};
use crate::ids::{Millis, ShardId, Version};
use crate::reply::{Replies, Reply, Status, Token};
use accounting::entry_bytes;
use digest::Sum;
use expiry::ExpiryIndex;
use recency::RecencyList;
use slab::{NO_DEADLINE, Slab, Slot};
use snapshot::Cursor;
use std::fmt;
use table::{KeyHash, Table};
use touches::{Touch, Touches};

/// Due entries removed in one round at the start of a log entry, at most. `upkeep.rs` says how many
/// rounds an entry is worth.
pub const EXPIRED_PER_ENTRY_MAX: usize = 64;
/// Entries evicted in such a round after the limit was lowered, at most.
pub(crate) const EVICTED_PER_ENTRY_MAX: usize = 64;
/// Entries of a flushed shard whose memory is freed in such a round, at most. Freeing keeps ahead
/// of writing, and a flush costs the same for any number of keys.
const FREED_PER_ENTRY_MAX: usize = 2 * EXPIRED_PER_ENTRY_MAX;
/// The last deadline, in milliseconds of shard time: clients count in signed numbers.
const DEADLINE_MAX: u64 = i64::MAX as u64;

/// What a store is told at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Accounted bytes the shard may hold. Replicated: all replicas start with the same number,
    /// and a snapshot carries it.
    pub bytes_max: u64,
    /// Longest value, in bytes. Replicated likewise.
    pub value_bytes_max: u64,
    /// Seed of the key table. Each process has its own, unknown to clients.
    pub hash_seed: u64,
    /// How long after a use reads leave no touch of an entry, in shard time; zero if they never do.
    /// Each replica's own.
    pub touch_interval: Millis,
}

impl StoreSettings {
    /// The settings of `shard`'s store on the core that `config` describes.
    pub fn of(config: &CoreConfig, shard: ShardId) -> Self {
        StoreSettings {
            bytes_max: config.shard_bytes_max,
            value_bytes_max: config.value_bytes_max as u64,
            hash_seed: config.seed ^ u64::from(shard.0),
            touch_interval: config.touch_interval,
        }
    }
}

/// Whether somebody waits for the outcome of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The outcome will be read: old values are kept for it.
    Wanted,
    /// Nobody looks: the outcome carries no old value.
    Unwanted,
}

/// What a command came to. It borrows the store until the next command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// What came of it.
    pub status: Status,
    /// The client's flags of the value.
    pub flags: u32,
    /// The version of the entry after the command; zero where there is none.
    pub version: Version,
    /// See [`Reply::number`]; also 1 or 0 for `Set`, whether the key was there before.
    pub number: u64,
    /// Time left until the entry expires, counted from the stamp for writes and from the running
    /// clock for reads; `None` without deadline.
    pub expires_in: Option<Millis>,
    /// The deadline in shard time; `None` without.
    pub expires_at: Option<Millis>,
    /// The value, if the command returns one.
    pub value: Option<&'a [u8]>,
}

impl Outcome<'_> {
    fn bare(status: Status) -> Self {
        Outcome {
            status,
            flags: 0,
            version: Version(0),
            number: 0,
            expires_in: None,
            expires_at: None,
            value: None,
        }
    }

    /// Adds the outcome to `replies`, as the reply to `token`.
    pub fn push_to(&self, replies: &mut Replies, token: Token) {
        let reply = Reply {
            token,
            status: self.status,
            flags: self.flags,
            version: self.version,
            number: self.number,
            expires_in: self.expires_in,
            expires_at: self.expires_at,
            value: None,
        };
        replies.push(reply, self.value);
    }
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome<'a> {
    /// The answer.
    Done(Outcome<'a>),
    /// The key is due by the running clock, but not by the applied stamp. To answer that it is
    /// absent, an entry with a stamp must be applied first; then the read is repeated.
    Due,
}

/// What a replica has seen since it started. Not replicated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Statistics {
    evicted: u64,
    expired: u64,
    hits: u64,
    misses: u64,
    touched: u64,
    touches_taken: u64,
}

/// The state machine of one shard.
pub struct Store {
    slab: Slab,
    table: Table,
    recency: RecencyList,
    expiry: ExpiryIndex,
    /// Terms of all entries.
    terms: Sum,
    bytes: u64,
    bytes_max: u64,
    value_bytes_max: u64,
    stamp: Millis,
    /// The allocation of an entry that the last command removed or replaced and whose value its
    /// outcome returns.
    parting: Box<[u8]>,
    /// Flushed entries whose memory is not yet free.
    retired: Vec<Vec<Slot>>,
    touches: Touches,
    /// The snapshot under way.
    cursor: Option<Box<Cursor>>,
    statistics: Statistics,
}

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Store")
            .field("keys", &self.keys())
            .field("bytes", &self.bytes)
            .field("stamp", &self.stamp)
            .field("digest", &self.digest())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// An empty store whose shard time is at its beginning.
    pub fn new(settings: StoreSettings) -> Self {
        Store {
            slab: Slab::new(),
            table: Table::new(settings.hash_seed),
            recency: RecencyList::new(1),
            expiry: ExpiryIndex::default(),
            terms: Sum::default(),
            bytes: 0,
            bytes_max: settings.bytes_max,
            value_bytes_max: settings.value_bytes_max,
            stamp: Millis(0),
            parting: Box::default(),
            retired: Vec::new(),
            touches: Touches::new(settings.touch_interval),
            cursor: None,
            statistics: Statistics::default(),
        }
    }

    /// Starts a log entry: moves the applied stamp forward (never back), removes entries that are
    /// due by it in the order (deadline, version), at most [`EXPIRED_PER_ENTRY_MAX`], and makes
    /// those that `touches` mean the ones used last, in this order. What a touch meant and is gone
    /// is passed over.
    pub fn begin_entry(&mut self, stamp: Millis, touches: &[u8]) {
        self.touches.turn_to(self.stamp.max(stamp), self.stamp, self.recency.next_number());
        self.stamp = self.stamp.max(stamp);
        self.parting = Box::default();
        self.free_retired();
        for _ in 0..EXPIRED_PER_ENTRY_MAX {
            if !self.expire_first() {
                break;
            }
        }
        self.apply_touches(touches);
        for _ in 0..EVICTED_PER_ENTRY_MAX {
            if !self.is_above_limit() {
                break;
            }
            self.evict_one();
        }
    }

    fn apply_touches(&mut self, touches: &[u8]) {
        for touch in Touch::decode_all(touches) {
            let is_slot = (touch.slot as usize) < self.slab.len();
            let Some(entry) = is_slot.then(|| &self.slab[touch.slot]) else { continue };
            if entry.is_vacant() || !touch.means(entry.version) || entry.is_due(self.stamp.0) {
                continue;
            }
            self.touch(touch.slot);
            self.statistics.touched += 1;
        }
    }

    /// Makes an entry the one used last.
    fn touch(&mut self, slot: u32) {
        self.spare(slot);
        self.terms.subtract(self.slab[slot].term(slot));
        self.recency.renew(&mut self.slab, slot);
        self.terms.add(self.slab[slot].term(slot));
    }

    /// Takes touches that another replica's readers left.
    pub fn add_touches(&mut self, touches: &[u8]) {
        for touch in Touch::decode_all(touches) {
            self.touches.add(touch);
        }
    }

    /// Moves up to `count_max` touches that readers left to `out`, encoded in
    /// [`TOUCH_BYTES`] each. Returns how many.
    pub fn take_touches(&mut self, count_max: usize, out: &mut Vec<u8>) -> usize {
        let count = self.touches.take(count_max, out);
        self.statistics.touches_taken += count as u64;
        count
    }

    /// How many touches wait to be taken.
    pub fn touches_waiting(&self) -> usize {
        self.touches.len()
    }

    /// Whether the limit was lowered, and more entries must come before the bytes are within it.
    pub fn is_above_limit(&self) -> bool {
        self.bytes > self.bytes_max
    }

    /// Whether the next writes may evict: less than an eighth of the limit is left.
    pub fn is_nearly_full(&self) -> bool {
        self.bytes > self.bytes_max / 8 * 7
    }

    /// Runs a read at the applied state. `running` is the leader's running shard clock.
    ///
    /// `KeyCount` counts the entries that are live by the applied stamp, and never waits: under
    /// load something is always about to expire. A command that is not a read comes to
    /// [`Status::Invalid`].
    pub fn read(&mut self, command: &Command<'_>, running: Millis) -> ReadOutcome<'_> {
        let (key, peek) = match command.operation {
            Operation::Get { peek } | Operation::Inspect { peek } => (command.key, peek),
            Operation::KeyCount => {
                let number = self.keys() - self.expiry.count_due(self.stamp.0);
                return ReadOutcome::Done(Outcome { number, ..Outcome::bare(Status::Ok) });
            }
            _ => return ReadOutcome::Done(Outcome::bare(Status::Invalid)),
        };
        let found = self.table.find(&self.slab, self.table.hash(key), key);
        let live = found.filter(|slot| !self.slab[*slot].is_due(self.stamp.0));
        let Some(slot) = live else {
            self.statistics.misses += 1;
            return ReadOutcome::Done(Outcome::bare(Status::NotFound));
        };
        if self.slab[slot].is_due(running.0) {
            return match defect::is(Defect::ExpiryByRunningClock) {
                true => ReadOutcome::Done(Outcome::bare(Status::NotFound)),
                false => ReadOutcome::Due,
            };
        }
        self.statistics.hits += 1;
        if defect::is(Defect::RecencyMovedByReads) {
            self.touch(slot);
        }
        let entry = &self.slab[slot];
        if !peek {
            let now = running.max(self.stamp);
            self.touches.turn_to(now, self.stamp, self.recency.next_number());
            let fresh_from = match self.is_nearly_full() {
                true => self.recency.newest_eighth(&self.slab),
                false => 0,
            };
            self.touches.note(slot, entry.version, entry.recency, fresh_from);
        }
        let value = entry.value();
        ReadOutcome::Done(Outcome {
            status: Status::Ok,
            flags: entry.flags,
            version: entry.version,
            number: value.len() as u64,
            expires_in: time_left(entry.deadline, running.max(self.stamp)),
            expires_at: point(entry.deadline),
            value: matches!(command.operation, Operation::Get { .. }).then_some(value),
        })
    }

    /// The applied stamp: the shard time of the last log entry.
    pub fn stamp(&self) -> Millis {
        self.stamp
    }

    /// Entries held, among them those that are due and not yet removed.
    pub fn keys(&self) -> u64 {
        self.table.len() as u64
    }

    /// Accounted bytes held: [`ENTRY_OVERHEAD_BYTES`] says how they are counted.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Accounted bytes allowed.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// One number for the whole replicated state; replicas compare it at equal applied index.
    pub fn digest(&self) -> u64 {
        let [free_sum, free_first, slots] = self.slab.free_words();
        self.terms.finish([
            free_sum,
            free_first,
            slots,
            self.keys(),
            self.bytes,
            self.bytes_max,
            self.value_bytes_max,
            self.stamp.0,
            self.recency.next_number(),
        ])
    }

    /// Entries evicted since this replica started.
    pub fn evicted(&self) -> u64 {
        self.statistics.evicted
    }

    /// Entries expired since this replica started.
    pub fn expired(&self) -> u64 {
        self.statistics.expired
    }

    /// Reads that found their key since this replica started.
    pub fn hits(&self) -> u64 {
        self.statistics.hits
    }

    /// Reads that did not find their key since this replica started.
    pub fn misses(&self) -> u64 {
        self.statistics.misses
    }

    /// Touches applied since this replica started.
    pub fn touched(&self) -> u64 {
        self.statistics.touched
    }

    /// Touches proposed, or sent to the leader, since this replica started.
    pub fn touches_taken(&self) -> u64 {
        self.statistics.touches_taken
    }

    /// The earliest deadline. Once the running clock has passed it, the leader proposes an entry
    /// for its stamp's sake; while it is not after the applied stamp, another one.
    pub fn next_due(&self) -> Option<Millis> {
        self.expiry.first().map(|(deadline, _)| Millis(deadline))
    }

    /// The keys from the one used last to the one that is evicted next.
    pub fn keys_in_recency_order(&self) -> impl Iterator<Item = &[u8]> {
        self.recency.iter(&self.slab).map(|slot| self.slab[slot].key())
    }

    /// Checks the invariants by counting everything anew. For tests: it takes time and memory in
    /// proportion to the store.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        let mut terms = Sum::default();
        let mut bytes = 0;
        let mut entries = 0;
        for (slot, entry) in self.slab.entries() {
            entries += 1;
            bytes += entry_bytes(entry.key_and_value_len());
            terms.add(entry.term(slot));
            assert!(entry.content_is_intact(), "slot {slot} has a stale hash");
            let found = self.table.find(&self.slab, self.table.hash(entry.key()), entry.key());
            assert_eq!(found, Some(slot), "the table does not lead to slot {slot}");
        }
        assert_eq!((terms, bytes), (self.terms, self.bytes), "digest or bytes have drifted");
        assert_eq!(entries, self.table.len(), "the table and the slab differ");
        assert_eq!(entries + self.slab.free_slots().count(), self.slab.len(), "a slot leaked");
        assert!(self.slab.free_slots().all(|slot| self.slab[slot].is_vacant()));
        self.table.check_len();
        self.expiry.check(&self.slab);
        let order: Vec<_> =
            self.recency.iter(&self.slab).map(|slot| self.slab[slot].recency).collect();
        assert_eq!(order.len(), entries, "the recency list and the slab differ");
        assert!(order.is_sorted_by(|newer, older| newer > older), "recency is out of order");
        assert!(order.first().is_none_or(|newest| *newest < self.recency.next_number()));
        let backward = self.slab.chain(self.recency.oldest(), |slot| slot.newer);
        assert_eq!(backward.count(), entries, "the recency list is broken backwards");
    }

    /// Adds an entry under a key that is not there.
    fn insert(&mut self, hash: KeyHash, key: &[u8], value: &[u8], set: impl FnOnce(&mut Slot)) {
        self.spare_next_free();
        let slot = self.slab.occupy(key, value);
        set(&mut self.slab[slot]);
        self.table.insert(hash, slot);
        self.recency.push(&mut self.slab, slot);
        self.expiry.update(&mut self.slab, slot);
        self.bytes += entry_bytes(self.slab[slot].key_and_value_len());
        self.terms.add(self.slab[slot].term(slot));
    }

    /// Changes an entry, and makes it the one used last.
    fn change(&mut self, slot: u32, change: impl FnOnce(&mut Slot)) {
        self.spare(slot);
        let entry = &mut self.slab[slot];
        self.terms.subtract(entry.term(slot));
        self.bytes -= entry_bytes(entry.key_and_value_len());
        change(entry);
        self.bytes += entry_bytes(entry.key_and_value_len());
        self.expiry.update(&mut self.slab, slot);
        self.recency.renew(&mut self.slab, slot);
        self.terms.add(self.slab[slot].term(slot));
    }

    /// Removes an entry, and hands out its allocation.
    fn remove(&mut self, slot: u32) -> Box<[u8]> {
        self.spare(slot);
        let entry = &self.slab[slot];
        self.terms.subtract(entry.term(slot));
        self.bytes -= entry_bytes(entry.key_and_value_len());
        self.table.remove(self.table.hash(entry.key()), slot);
        self.recency.remove(&mut self.slab, slot);
        self.expiry.remove(&mut self.slab, slot);
        self.slab.vacate(slot)
    }

    /// Removes the entry with the earliest deadline if it is due; says whether it was.
    fn expire_first(&mut self) -> bool {
        let due = self.expiry.first().filter(|(deadline, _)| *deadline <= self.stamp.0);
        if let Some((_, slot)) = due {
            self.remove(slot);
            self.statistics.expired += 1;
        }
        due.is_some()
    }

    /// Makes room until so many bytes are left. The entry written last is the newest and fits into
    /// the limit alone, so it stays.
    pub(crate) fn evict_to(&mut self, bytes_max: u64) {
        while self.bytes > bytes_max {
            self.evict_one();
        }
    }

    /// Removes one entry of those there are: a due one if there is any, else the one unused for
    /// longest.
    fn evict_one(&mut self) {
        if !self.expire_first() {
            self.remove(self.recency.oldest());
            self.statistics.evicted += 1;
        }
    }

    /// Removes all entries. Slots are given out from the first again.
    fn flush(&mut self) {
        let slab = std::mem::replace(&mut self.slab, Slab::new());
        let unneeded = match &mut self.cursor {
            Some(cursor) => cursor.keep(slab),
            None => Some(slab),
        };
        self.retired.extend(unneeded.map(Slab::into_pages).unwrap_or_default());
        self.table.clear();
        self.expiry.clear();
        self.recency = RecencyList::new(self.recency.next_number());
        self.terms = Sum::default();
        self.bytes = 0;
    }

    /// Frees some of the memory of flushed entries.
    fn free_retired(&mut self) {
        let mut budget = FREED_PER_ENTRY_MAX;
        while let Some(page) = self.retired.last_mut().filter(|_| budget > 0) {
            let freed = page.len().min(budget);
            page.truncate(page.len() - freed);
            budget -= freed;
            if page.is_empty() {
                self.retired.pop();
            }
        }
    }
}

/// A deadline for people who do not know [`NO_DEADLINE`].
fn point(deadline: u64) -> Option<Millis> {
    (deadline != NO_DEADLINE).then_some(Millis(deadline))
}

/// The time from `now` until `deadline`.
fn time_left(deadline: u64, now: Millis) -> Option<Millis> {
    point(deadline).map(|deadline| Millis(deadline.0.saturating_sub(now.0)))
}
