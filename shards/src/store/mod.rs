//! The state machine of one shard: keys with values, an order of eviction, deadlines, a limit.
//!
//! Its state is a pure function of the log. [`Store::begin_entry`] and [`Store::apply`] are the
//! only ways to change it, and neither knows a clock, a random number or the replica's role:
//! eviction and expiry happen inside of them, on every replica alike, and are not logged. Reads
//! change nothing but statistics. That includes what decides the future without being visible: the
//! order of eviction, what the policy remembers, the secret under which keys are hashed; all of it
//! is in the snapshot and in the digest. Statistics (hits, evictions) are each replica's own, and
//! so is where an entry lies in memory.
//!
//! An entry due by the applied stamp is absent, whether or not its turn to be removed has come.
//!
//! Invariants, which [`Store::check`] tests: the table, the order and the arena hold the same
//! entries; the expiry index holds those with a deadline; bytes and digest are what a fresh count
//! gives; bytes do not exceed the limit between commands, and after it was lowered they only fall
//! until they do not.

mod apply;
mod arena;
mod blocks;
mod chunks;
mod clock;
mod digest;
mod entries;
mod expiry;
mod numbers;
mod order;
mod pages;
mod pieces;
mod policy;
mod retired;
mod scrub;
mod snapshot;
mod table;
#[cfg(test)]
mod tests;
mod touches;
mod warm;

pub use clock::ShardClock;
pub use scrub::ScrubProgress;
pub use snapshot::{RestoreError, Restorer, SnapshotProgress};
pub use touches::TOUCH_BYTES;
pub use warm::WARM_COMMANDS_MAX;

use crate::command::{Command, Operation};
use crate::contract::CoreConfig;
use crate::defect::{self, Defect};
use crate::ids::{Eviction, Millis, Version};
use crate::reply::{Replies, Reply, Status, Token};
use arena::{ARENA_BYTES_MAX, Address};
use digest::Sum;
use entries::{Content, Entries, NO_DEADLINE, Shape};
use expiry::ExpiryIndex;
use order::{Order, Queue};
use policy::{ActivePolicy, Policy as _};
use retired::Retired;
use scrub::Scrub;
use snapshot::Cursor;
use std::fmt;
use table::{KeyHash, KeyName, Keys, Table};
use touches::Touches;

/// Due entries removed in one round at the start of a log entry, at most. `upkeep.rs` says how many
/// rounds an entry is worth.
pub const EXPIRED_PER_ENTRY_MAX: usize = 64;
/// Entries evicted in such a round after the limit was lowered, at most.
pub(crate) const EVICTED_PER_ENTRY_MAX: usize = 64;
/// Entries moved within memory in such a round, at most, so that sparse pages become empty: more
/// than the round and the commands that go with it can free.
const MOVED_PER_ENTRY_MAX: usize = 256;
/// The largest limit of a shard, in bytes: what its addresses reach, less what is lost to pages
/// that are partly free.
pub const SHARD_BYTES_MAX: u64 = ARENA_BYTES_MAX / 4 * 3;
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
    /// Which entries are evicted first. Replicated likewise.
    pub eviction: Eviction,
    /// How long after a use reads leave no touch of an entry, in shard time; zero if they never do.
    /// Each replica's own.
    pub touch_interval: Millis,
}

impl StoreSettings {
    /// The settings of a store on the core that `config` describes.
    pub fn of(config: &CoreConfig) -> Self {
        StoreSettings {
            bytes_max: config.shard_bytes_max,
            value_bytes_max: config.value_bytes_max as u64,
            eviction: config.eviction,
            touch_interval: config.touch_interval,
        }
    }
}

/// What a log entry says besides its commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening<'a> {
    /// The shard time at which it was proposed.
    pub stamp: Millis,
    /// Touches, encoded in [`TOUCH_BYTES`] each.
    pub touches: &'a [u8],
    /// What keys are to be hashed with. The first one counts, and none before it.
    pub key_secret: Option<u64>,
}

impl Opening<'_> {
    /// The opening of an entry that has a stamp alone.
    pub fn at(stamp: Millis) -> Self {
        Opening { stamp, ..Opening::default() }
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
    entries: Entries,
    table: Table,
    order: Order,
    policy: ActivePolicy,
    expiry: ExpiryIndex,
    /// What keys are hashed with; zero until an entry has brought it.
    key_secret: u64,
    /// Terms of all entries.
    terms: Sum,
    scrub: Scrub,
    bytes: u64,
    bytes_max: u64,
    value_bytes_max: u64,
    stamp: Millis,
    /// The value that the last command removed or replaced and that its outcome returns.
    parting: Vec<u8>,
    /// Flushed entries whose memory is not yet free.
    retired: Retired,
    touches: Touches,
    /// The snapshot under way.
    cursor: Option<Box<Cursor>>,
    /// The number of the last snapshot that was begun.
    snapshots: u8,
    /// Snapshots in a row that did not come to their end.
    unfinished_snapshots: u8,
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
            entries: Entries::new(),
            table: Table::new(),
            order: Order::new(),
            policy: ActivePolicy::new(settings.eviction, Address::NONE),
            expiry: ExpiryIndex::default(),
            key_secret: 0,
            terms: Sum::default(),
            scrub: Scrub::new(),
            bytes: 0,
            bytes_max: settings.bytes_max.min(SHARD_BYTES_MAX),
            value_bytes_max: settings.value_bytes_max,
            stamp: Millis(0),
            parting: Vec::new(),
            retired: Retired::default(),
            touches: Touches::new(settings.touch_interval),
            cursor: None,
            snapshots: 0,
            unfinished_snapshots: 0,
            statistics: Statistics::default(),
        }
    }

    /// Starts a log entry: moves the applied stamp forward (never back), removes entries that are
    /// due by it in the order (deadline, version), at most [`EXPIRED_PER_ENTRY_MAX`], and makes
    /// those that the touches name used, in this order. What a touch meant and is gone is passed
    /// over.
    pub fn begin_entry(&mut self, opening: Opening<'_>) {
        let stamp = self.stamp.max(opening.stamp);
        self.touches.turn_to(stamp, self.stamp);
        self.stamp = stamp;
        if let Some(secret) = opening.key_secret.filter(|_| self.wants_key_secret()) {
            self.key_secret = secret;
        }
        self.parting = Vec::new();
        self.retired.free_some();
        for _ in 0..EXPIRED_PER_ENTRY_MAX {
            if !self.expire_first() {
                break;
            }
        }
        self.apply_touches(opening.touches);
        for _ in 0..EVICTED_PER_ENTRY_MAX {
            if !self.is_above_limit() {
                break;
            }
            self.evict_one(Address::NONE);
        }
        self.move_some();
    }

    /// Gives some of the memory back that a flush has left. Nothing of it shows in the state.
    pub fn free_some(&mut self) {
        self.retired.free_some();
    }

    /// Whether the next entry should bring a secret for the hashes of keys: none has so far.
    pub fn wants_key_secret(&self) -> bool {
        self.key_secret == 0 && self.table.len() == 0
    }

    /// Makes room in the table for as many new keys, before a log with about as many commands is
    /// applied. It leaves no trace in what is replicated.
    pub fn expect_keys(&mut self, count: usize) {
        let keys = StoredKeys { entries: &self.entries, secret: self.key_secret };
        self.table.reserve(self.table.len() + count, &keys);
    }

    /// Gives back what [`Store::expect_keys`] took for keys that did not come.
    pub fn expect_no_more_keys(&mut self) {
        let keys = StoredKeys { entries: &self.entries, secret: self.key_secret };
        self.table.fit(&keys);
    }

    fn apply_touches(&mut self, touches: &[u8]) {
        for touches in touches.chunks(WARM_COMMANDS_MAX * TOUCH_BYTES) {
            self.warm_hashes(touches::decode_all(touches).map(KeyName::hash));
            for name in touches::decode_all(touches) {
                let keys = StoredKeys { entries: &self.entries, secret: self.key_secret };
                let Some(entry) = self.table.named(name, &keys) else { continue };
                if self.entries.deadline(entry) > self.stamp.0 {
                    self.touch(entry);
                    self.statistics.touched += 1;
                }
            }
        }
    }

    /// Counts a read of an entry as a use.
    fn touch(&mut self, entry: Address) {
        let used = self.touches.use_one(self.table.len() as u64);
        self.entries.set_used(entry, used);
        let (policy, mut queue) = self.policy_and_queue();
        policy.touch(&mut queue, entry);
    }

    /// Takes touches that another replica's readers left.
    pub fn add_touches(&mut self, touches: &[u8]) {
        for name in touches::decode_all(touches) {
            self.touches.add(name);
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
        let hash = self.hash(key);
        let found = self.find(hash, key);
        let found = found.map(|address| (address, self.entries.deadline(address)));
        let Some((address, deadline)) = found.filter(|(_, deadline)| *deadline > self.stamp.0)
        else {
            self.statistics.misses += 1;
            return ReadOutcome::Done(Outcome::bare(Status::NotFound));
        };
        if deadline <= running.0 {
            return match defect::is(Defect::ExpiryByRunningClock) {
                true => ReadOutcome::Done(Outcome::bare(Status::NotFound)),
                false => ReadOutcome::Due,
            };
        }
        self.statistics.hits += 1;
        if defect::is(Defect::RecencyMovedByReads) {
            self.touch(address);
        }
        if !peek {
            self.leave_touch(hash, address, running.max(self.stamp));
        }
        let entry = self.entries.get(address);
        let value = entry.value();
        ReadOutcome::Done(Outcome {
            status: Status::Ok,
            flags: entry.flags(),
            version: entry.version(),
            number: value.len() as u64,
            expires_in: time_left(deadline, running.max(self.stamp)),
            expires_at: point(deadline),
            value: matches!(command.operation, Operation::Get { .. }).then_some(value),
        })
    }

    /// Notes a read of an entry, unless the policy has no use for it.
    #[inline]
    fn leave_touch(&mut self, hash: KeyHash, address: Address, now: Millis) {
        self.touches.turn_to(now, self.stamp);
        let oldest = self.order.oldest().some().filter(|_| self.is_nearly_full());
        let oldest = oldest.map(|oldest| self.entries.used(oldest));
        let is_fresh = self.touches.is_fresh(self.entries.used(address), oldest);
        if self.policy.wants_touch(self.entries.is_visited(address), is_fresh) {
            self.touches.add(hash.name());
        }
    }

    /// The applied stamp: the shard time of the last log entry.
    pub fn stamp(&self) -> Millis {
        self.stamp
    }

    /// Entries held, among them those that are due and not yet removed.
    pub fn keys(&self) -> u64 {
        self.table.len() as u64
    }

    /// Accounted bytes held: [`accounted_bytes`] says how they are counted.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Accounted bytes allowed.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// One number for the whole replicated state; replicas compare it at equal applied index.
    pub fn digest(&self) -> u64 {
        let [pairs, visits] = self.order.words();
        self.terms.finish([
            pairs,
            visits,
            self.keys(),
            self.bytes,
            self.bytes_max,
            self.value_bytes_max,
            self.stamp.0,
            self.key_secret,
            u64::from(self.policy.eviction().code()),
            self.hand().0,
        ])
    }

    /// The version of the entry that the policy remembers, or zero.
    fn hand(&self) -> Version {
        self.policy.hand().some().map_or(Version(0), |entry| self.entries.version(entry))
    }

    /// Which entries are evicted first.
    pub fn eviction(&self) -> Eviction {
        self.policy.eviction()
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

    /// The keys from the newest to the oldest: with the policy LRU from the one used last to the
    /// one that is evicted next.
    pub fn keys_in_recency_order(&self) -> impl Iterator<Item = &[u8]> {
        self.order.iter(&self.entries).map(|entry| self.entries.get(entry).key())
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
        let mut with_deadline = 0;
        for address in self.order.iter(&self.entries) {
            let entry = self.entries.get(address);
            entries += 1;
            bytes += entry.shape().accounted_bytes();
            terms.add(entry.term());
            assert_eq!(entry.term(), entry.term_anew(), "a hash is stale");
            with_deadline += usize::from(entry.deadline() != NO_DEADLINE);
            let found = self.find(self.hash(entry.key()), entry.key());
            assert_eq!(found, Some(address), "the table does not lead to an entry");
        }
        assert_eq!((terms, bytes), (self.terms, self.bytes), "digest or bytes have drifted");
        assert_eq!(entries, self.table.len(), "the table and the order differ");
        assert_eq!(self.order.check(&self.entries), entries);
        assert_eq!(self.expiry.check(&self.entries), with_deadline);
        self.table.check(&StoredKeys { entries: &self.entries, secret: self.key_secret });
        self.entries.check();
    }

    #[inline]
    fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash::of(key, self.key_secret)
    }

    #[inline]
    fn find(&self, hash: KeyHash, key: &[u8]) -> Option<Address> {
        self.table.find(hash, |entry| self.entries.get(entry).key() == key)
    }

    /// The policy, and the line that it rules over.
    #[inline]
    fn policy_and_queue(&mut self) -> (&mut ActivePolicy, Queue<'_>) {
        let Store { policy, entries, order, cursor, .. } = self;
        (policy, Queue { entries, order, cursor })
    }

    /// Adds an entry under a key that is not there.
    fn insert(&mut self, hash: KeyHash, content: &Content<'_>) -> Address {
        let address = self.entries.insert(content);
        self.entries.set_snapshot(address, self.snapshots);
        let keys = StoredKeys { entries: &self.entries, secret: self.key_secret };
        self.table.insert(hash, address, &keys);
        let used = self.touches.use_one(self.table.len() as u64);
        self.entries.set_used(address, used);
        let (policy, mut queue) = self.policy_and_queue();
        policy.insert(&mut queue, address);
        self.expiry.update(&mut self.entries, address);
        self.count_in(address);
        address
    }

    /// Writes an entry over, which counts as a use. Returns where it is then.
    fn rewrite(&mut self, hash: KeyHash, former: Address, content: &Content<'_>) -> Address {
        let is_as_long = {
            let entry = self.entries.get(former);
            entry.shape() == content.shape() && content.value[1].is_empty()
        };
        self.rewrite_with(hash, former, content.deadline, |entries| {
            if is_as_long {
                let Content { version, flags, deadline, value, .. } = *content;
                entries.set_fields(former, version, flags, deadline);
                entries.overwrite_value(former, value[0]);
                former
            } else {
                entries.rewrite(former, content)
            }
        })
    }

    /// Gives an entry another version and deadline and leaves its value as it is, which counts as
    /// a use. Returns where it is then.
    fn renew(
        &mut self,
        hash: KeyHash,
        former: Address,
        version: Version,
        deadline: u64,
    ) -> Address {
        self.rewrite_with(hash, former, deadline, |entries| {
            entries.set_version_and_deadline(former, version, deadline)
        })
    }

    /// Changes an entry by `write`, which returns where it is then, and lets everybody know.
    fn rewrite_with(
        &mut self,
        hash: KeyHash,
        former: Address,
        deadline: u64,
        write: impl FnOnce(&mut Entries) -> Address,
    ) -> Address {
        let (policy, mut queue) = self.policy_and_queue();
        policy.lift(&mut queue, former);
        self.count_out(former);
        if deadline == NO_DEADLINE {
            self.expiry.remove(&mut self.entries, former);
        }
        let address = write(&mut self.entries);
        if address != former {
            self.table.replace(hash, former, address);
            self.expiry.entry_moved(&self.entries, address);
            self.entries.release(former);
        }
        let used = self.touches.use_one(self.table.len() as u64);
        self.entries.set_used(address, used);
        let (policy, mut queue) = self.policy_and_queue();
        policy.lower(&mut queue, former, address);
        self.expiry.update(&mut self.entries, address);
        self.count_in(address);
        address
    }

    /// Removes an entry.
    fn remove(&mut self, address: Address) {
        let (policy, mut queue) = self.policy_and_queue();
        policy.remove(&mut queue, address);
        self.count_out(address);
        let keys = StoredKeys { entries: &self.entries, secret: self.key_secret };
        self.table.remove(keys.hash(address), address, &keys);
        self.expiry.remove(&mut self.entries, address);
        self.entries.release(address);
    }

    fn count_in(&mut self, address: Address) {
        let entry = self.entries.get(address);
        let term = entry.term();
        self.terms.add(term);
        self.scrub.count_in(address, term);
        self.bytes += entry.shape().accounted_bytes();
    }

    fn count_out(&mut self, address: Address) {
        let entry = self.entries.get(address);
        let term = entry.term();
        self.terms.subtract(term);
        self.scrub.count_out(address, term);
        self.bytes -= entry.shape().accounted_bytes();
    }

    /// Removes the entry with the earliest deadline if it is due; says whether it was.
    fn expire_first(&mut self) -> bool {
        let due = self.expiry.first().filter(|(deadline, _)| *deadline <= self.stamp.0);
        if let Some((_, entry)) = due {
            self.remove(entry);
            self.statistics.expired += 1;
        }
        due.is_some()
    }

    /// Makes room until so many bytes are left. What was just written stays: it fits into the
    /// limit alone.
    fn make_room(&mut self, bytes_max: u64, written: Address) {
        while self.bytes > bytes_max {
            self.evict_one(written);
        }
    }

    /// Evicts outside of the log, which a store must not do: a defect, for tests.
    pub(crate) fn evict_to(&mut self, bytes_max: u64) {
        self.make_room(bytes_max, Address::NONE);
    }

    /// Removes one entry of those there are: a due one if there is any, else the one that the
    /// policy names, which is not the one that was just written.
    fn evict_one(&mut self, written: Address) {
        if !self.expire_first() {
            let (policy, mut queue) = self.policy_and_queue();
            let victim = policy.victim(&mut queue, written);
            self.remove(victim);
            self.statistics.evicted += 1;
        }
    }

    /// Moves some entries out of sparse pages and chunks.
    fn move_some(&mut self) {
        self.entries.move_blocks();
        for _ in 0..MOVED_PER_ENTRY_MAX {
            let Some(former) = self.entries.next_to_move() else { return };
            let address = self.entries.copy(former);
            let term = self.entries.get(address).term();
            self.scrub.count_out(former, term);
            self.scrub.count_in(address, term);
            let keys = StoredKeys { entries: &self.entries, secret: self.key_secret };
            let hash = keys.hash(address);
            self.table.replace(hash, former, address);
            self.expiry.entry_moved(&self.entries, address);
            let (policy, mut queue) = self.policy_and_queue();
            queue.entry_moved(former, address);
            policy.entry_moved(former, address);
            self.entries.release_moved(former);
        }
    }

    /// Removes all entries.
    fn flush(&mut self) {
        let entries = std::mem::replace(&mut self.entries, Entries::new());
        let unneeded = match &mut self.cursor {
            Some(cursor) => cursor.keep(entries),
            None => Some(entries),
        };
        let table = std::mem::replace(&mut self.table, Table::new());
        let expiry = std::mem::take(&mut self.expiry);
        self.retired.add(unneeded, Some(table), Some(expiry));
        self.order = Order::new();
        self.policy = ActivePolicy::new(self.policy.eviction(), Address::NONE);
        self.terms = Sum::default();
        self.scrub = Scrub::new();
        self.bytes = 0;
    }
}

/// What an entry counts for, in bytes: the memory that it takes, by a formula over lengths alone,
/// since the limit decides what is evicted and that must come out alike on every replica.
///
/// With a key of 16 bytes and a value of 64 that is 31 bytes more than those; a deadline takes
/// about 36 more, flags other than zero 4.
pub fn accounted_bytes(key_len: usize, value_len: usize, deadline: bool, flags: bool) -> u64 {
    Shape { key_len, value_len, has_deadline: deadline, has_flags: flags }.accounted_bytes()
}

/// The keys as the table asks for them.
struct StoredKeys<'a> {
    entries: &'a Entries,
    secret: u64,
}

impl Keys for StoredKeys<'_> {
    #[inline]
    fn hash(&self, address: Address) -> KeyHash {
        KeyHash::of(self.entries.get(address).key(), self.secret)
    }

    #[inline]
    fn first_byte(&self, address: Address) -> u8 {
        self.entries.first_byte(address)
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
