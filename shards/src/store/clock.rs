//! Shard time: the clock that a leader stamps log entries with.
//!
//! Shard time advances with the monotonic clock from the last stamp, so that a step of the wall
//! clock moves no deadline. Where it has got ahead of the wall clock it runs slower, by at most
//! one part in 101, until they meet. It never runs faster than the monotonic clock: then a key
//! with a time to live of T lives at least T and, under one leader, at most T × 1.01 by the
//! monotonic clock, whatever the wall clock does. What it lags behind the wall clock it keeps
//! until [`ShardClock::step_forward`], which is for the day when every replica has restarted;
//! absolute deadlines then come late by as much, never early.
//!
//! A follower sets its clock by the stamps it applies and lets it run in between, so a new leader
//! goes on from there, and an outage counts as time passed. For this a leader with nothing to do
//! still proposes a stamp now and then: a replica that comes back has only the stamps in its log.
//!
//! The clock is local: the replicated state knows stamps alone.

use crate::contract::Now;
use crate::ids::Millis;

/// Shard time that passes more slowly than the monotonic clock loses one part in so many. 101
/// and not 100, because a deadline is reached when 100 of 101 parts have passed.
const SLEW_PARTS: u128 = 101;
/// Nanoseconds in a millisecond.
const NANOS_PER_MILLI: u128 = 1_000_000;

/// The running clock of one shard on one replica.
#[derive(Clone, Copy, Debug)]
pub struct ShardClock {
    /// Shard time at `anchor`, in nanoseconds.
    shard_ns: u128,
    /// The monotonic time when `shard_ns` was computed, in nanoseconds.
    anchor_ns: u64,
    /// The latest time given out or taken in.
    latest: Millis,
    /// The latest stamp taken in.
    stamp: Millis,
}

impl ShardClock {
    /// The clock of a shard that has no stamp yet: it starts at the wall clock.
    pub fn at_wall_clock(now: Now) -> Self {
        Self::resume(now.wall, now)
    }

    /// The clock of a replica that knows `stamp` from its log or a snapshot.
    pub fn resume(stamp: Millis, now: Now) -> Self {
        ShardClock {
            shard_ns: u128::from(stamp.0) * NANOS_PER_MILLI,
            anchor_ns: now.monotonic.0,
            latest: stamp,
            stamp,
        }
    }

    /// The running shard time. It never goes back.
    pub fn running(&mut self, now: Now) -> Millis {
        let elapsed_ns = u128::from(now.monotonic.0.saturating_sub(self.anchor_ns));
        let wall_ns = u128::from(now.wall.0) * NANOS_PER_MILLI;
        let ahead_ns = (self.shard_ns + elapsed_ns).saturating_sub(wall_ns);
        self.shard_ns += elapsed_ns - ahead_ns.min(elapsed_ns / SLEW_PARTS);
        self.anchor_ns = self.anchor_ns.max(now.monotonic.0);
        let shard = u64::try_from(self.shard_ns / NANOS_PER_MILLI).unwrap_or(u64::MAX);
        self.latest = self.latest.max(Millis(shard));
        self.latest
    }

    /// Takes a stamp that was applied here while another replica leads: the clock goes on from
    /// it, even if it had run ahead of it. One that is not later than the last is ignored.
    pub fn follow(&mut self, stamp: Millis, now: Now) {
        if stamp > self.stamp {
            *self = Self::resume(stamp, now);
        }
    }

    /// Takes a stamp that was applied here while this replica leads: its own stamps lie behind its
    /// running clock and change nothing; one of an earlier leader may move the clock forward.
    pub fn raise_to(&mut self, stamp: Millis, now: Now) {
        if stamp > self.running(now) {
            *self = Self::resume(stamp, now);
        }
    }

    /// Moves forward to the wall clock, if that is later. Entries may thereby expire before their
    /// time by the monotonic clock: only for when every replica has restarted, so that nobody
    /// knows how much time has passed but the wall clock.
    pub fn step_forward(&mut self, now: Now) {
        let running = self.running(now);
        *self = Self::resume(running.max(now.wall), now);
    }
}
