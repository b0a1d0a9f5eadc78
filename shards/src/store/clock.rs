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
use crate::defect::{self, Defect};
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
    /// The latest stamp that was applied; zero where the clock knows none.
    stamp: Millis,
}

impl ShardClock {
    /// The clock of a shard that has no stamp yet: it starts at the wall clock.
    pub fn at_wall_clock(now: Now) -> Self {
        ShardClock { stamp: Millis(0), ..Self::resume(now.wall, now) }
    }

    /// The clock of a replica that knows `stamp` from its log or a snapshot.
    pub fn resume(stamp: Millis, now: Now) -> Self {
        ShardClock {
            shard_ns: u128::from(stamp.0) * NANOS_PER_MILLI,
            anchor_ns: now.monotonic.0,
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
        Millis(u64::try_from(self.shard_ns / NANOS_PER_MILLI).unwrap_or(u64::MAX))
    }

    /// Takes a stamp that was applied here while another replica leads: the clock goes on from
    /// it, even if it had run ahead of it. So it does where the stamp is the last one once more: it
    /// says that no time has passed for the leader since. An earlier one is ignored.
    pub fn follow(&mut self, stamp: Millis, now: Now) {
        let is_again = stamp == self.stamp && !defect::is(Defect::NoTimeSinceOwnStamp);
        if stamp > self.stamp || is_again {
            *self = Self::resume(stamp, now);
        }
    }

    /// Takes a stamp that was applied here while this replica leads: its own stamps lie behind its
    /// running clock and leave it alone; one of an earlier leader may move the clock forward.
    pub fn raise_to(&mut self, stamp: Millis, now: Now) {
        if stamp > self.running(now) {
            *self = Self::resume(stamp, now);
        }
        if !defect::is(Defect::NoTimeSinceOwnStamp) {
            self.stamp = self.stamp.max(stamp);
        }
    }

    /// Goes on from a stamp that this replica, which begins to lead, has in its log and has not
    /// applied yet, even if the clock had run ahead of it.
    pub fn go_on_from(&mut self, stamp: Millis, now: Now) {
        *self = ShardClock { stamp: self.stamp, ..Self::resume(stamp.max(self.stamp), now) };
    }

    /// Moves forward to the wall clock, if that is later. Entries may thereby expire before their
    /// time by the monotonic clock: only for when every replica has restarted, so that nobody
    /// knows how much time has passed but the wall clock.
    pub fn step_forward(&mut self, now: Now) {
        let running = self.running(now);
        *self = ShardClock { stamp: self.stamp, ..Self::resume(running.max(now.wall), now) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Nanos;

    const SECOND: u64 = 1_000;
    const HOUR: u64 = 3_600 * SECOND;
    const DAY: u64 = 24 * HOUR;
    /// The wall clock at the monotonic clock's zero.
    const START: u64 = 1_700_000_000_000;

    /// The clocks `elapsed` milliseconds after the start, the wall clock off by `offset`.
    fn now(elapsed: u64, offset: i64) -> Now {
        Now {
            monotonic: Nanos(elapsed * 1_000_000),
            wall: Millis((START + elapsed).saturating_add_signed(offset)),
        }
    }

    #[test]
    fn a_fresh_clock_is_the_wall_clock_and_a_resumed_one_goes_on_from_its_stamp() {
        let mut fresh = ShardClock::at_wall_clock(now(0, 0));
        let mut resumed = ShardClock::resume(Millis(500), now(0, 0));
        for elapsed in [0, 1, 7, 1_000, HOUR, 30 * DAY] {
            assert_eq!(fresh.running(now(elapsed, 0)), Millis(START + elapsed));
            assert_eq!(resumed.running(now(elapsed, 0)), Millis(500 + elapsed));
        }
    }

    /// The wall clock steps by `step` at `step_at`; the clock is asked every `interval`. Says how
    /// long a key with this time to live, stamped at `set_at`, lives by the monotonic clock.
    fn life_of(time_to_live: u64, set_at: u64, step_at: u64, step: i64, interval: u64) -> u64 {
        let offset = |elapsed| if elapsed >= step_at { step } else { 0 };
        let mut clock = ShardClock::at_wall_clock(now(0, 0));
        let mut last = Millis(0);
        let mut deadline = None;
        for elapsed in (0..).step_by(interval as usize) {
            let running = clock.running(now(elapsed, offset(elapsed)));
            assert!(running >= last, "the clock went back");
            last = running;
            match deadline {
                None if elapsed >= set_at => deadline = Some((elapsed, running.0 + time_to_live)),
                Some((set_at, deadline)) if running.0 >= deadline => return elapsed - set_at,
                _ => {}
            }
        }
        unreachable!("the clock stood still");
    }

    #[test]
    fn a_step_of_the_wall_clock_expires_no_key_early_and_keeps_none() {
        let steps = [HOUR, 30 * DAY].map(|step| step as i64);
        for step in steps.into_iter().flat_map(|step| [step, -step]) {
            for time_to_live in [10, 10 * SECOND, HOUR, DAY, 30 * DAY] {
                for set_at in [0, 50, 100, 500] {
                    let interval = (time_to_live / 100_000).max(1);
                    let lived = life_of(time_to_live, set_at, 100, step, interval);
                    let context = format!("step {step}, time to live {time_to_live}");
                    assert!(lived >= time_to_live, "{context}: lived only {lived}");
                    let longest = time_to_live + time_to_live / 100 + SECOND;
                    assert!(lived <= longest, "{context}: lived {lived}");
                }
            }
        }
    }

    #[test]
    fn a_clock_ahead_of_the_wall_clock_waits_for_it_by_going_slower() {
        let hour_ahead = Millis(START + HOUR);
        let mut clock = ShardClock::resume(hour_ahead, now(0, 0));
        let slow = 101 * SECOND;
        assert_eq!(clock.running(now(slow, 0)), Millis(hour_ahead.0 + 100 * SECOND));
        for elapsed in (slow..102 * HOUR).step_by(HOUR as usize / 7) {
            clock.running(now(elapsed, 0));
        }
        assert_eq!(clock.running(now(102 * HOUR, 0)), Millis(START + 102 * HOUR));
    }

    #[test]
    fn the_slew_does_not_depend_on_how_often_the_clock_is_asked() {
        let mut often = ShardClock::at_wall_clock(now(0, 0));
        let mut seldom = often;
        let offset = -(HOUR as i64);
        for micros in (0..=10_100_000).step_by(100) {
            let mut asked = now(0, offset);
            asked.monotonic = Nanos(micros * 1_000);
            often.running(asked);
        }
        let last = now(10_100, offset);
        assert!(often.running(last).0.abs_diff(seldom.running(last).0) <= 1);
        assert!(seldom.running(last).0.abs_diff(START + 10_000) <= 1);
    }

    #[test]
    fn a_follower_goes_on_from_the_stamps_it_applies() {
        let mut clock = ShardClock::resume(Millis(1_000), now(0, 0));
        assert_eq!(clock.running(now(500, 0)), Millis(1_500));
        clock.follow(Millis(1_200), now(500, 0));
        assert_eq!(clock.running(now(600, 0)), Millis(1_300), "it had run ahead of the leader");
        clock.follow(Millis(1_100), now(900, 0));
        assert_eq!(clock.running(now(900, 0)), Millis(1_600), "old stamps are ignored");
        clock.follow(Millis(1_200), now(900, 0));
        assert_eq!(clock.running(now(900, 0)), Millis(1_200), "no time passed for the leader");
        clock.follow(Millis(9_000), now(1_000, 0));
        assert_eq!(clock.running(now(1_001, 0)), Millis(9_001));
    }

    #[test]
    fn the_first_stamp_counts_and_not_the_wall_clock_before_it() {
        for stamp in [Millis(START - HOUR), Millis(START), Millis(START + HOUR)] {
            let mut fresh = ShardClock::at_wall_clock(now(0, 0));
            let mut stepped = ShardClock::resume(Millis(1_000), now(0, 0));
            stepped.step_forward(now(0, 0));
            for clock in [&mut fresh, &mut stepped] {
                clock.running(now(10, 0));
                clock.follow(stamp, now(10, 0));
                assert!(clock.running(now(20, 0)).0.abs_diff(stamp.0 + 10) <= 1, "{stamp}");
            }
        }
    }

    #[test]
    fn a_leader_is_moved_forward_by_stamps_and_never_back() {
        let mut clock = ShardClock::resume(Millis(1_000), now(0, 0));
        clock.raise_to(Millis(1_200), now(500, 0));
        assert_eq!(clock.running(now(500, 0)), Millis(1_500));
        clock.raise_to(Millis(2_000), now(500, 0));
        assert_eq!(clock.running(now(501, 0)), Millis(2_001));
        assert_eq!(clock.running(now(400, 0)), Millis(2_001));
        assert_eq!(clock.running(now(502, 0)), Millis(2_002), "time was counted twice");
    }

    #[test]
    fn a_leader_that_is_elected_again_does_not_set_its_clock_back_to_its_own_stamps() {
        let mut clock = ShardClock::resume(Millis(1_000), now(0, 0));
        clock.raise_to(Millis(1_500), now(500, 0));
        clock.follow(Millis(1_400), now(700, 0));
        assert_eq!(clock.running(now(900, 0)), Millis(1_900));
        clock.go_on_from(Millis(1_300), now(900, 0));
        assert_eq!(clock.running(now(900, 0)), Millis(1_500), "never behind what is applied");
        clock.go_on_from(Millis(1_800), now(900, 0));
        assert_eq!(clock.running(now(950, 0)), Millis(1_850), "the log says less than the clock");
        clock.follow(Millis(1_500), now(1_000, 0));
        assert_eq!(clock.running(now(1_000, 0)), Millis(1_500), "that entry was never applied");
    }

    #[test]
    fn only_a_step_forward_follows_the_wall_clock_at_once() {
        let mut clock = ShardClock::resume(Millis(1_000), now(0, 0));
        clock.step_forward(now(10, 0));
        assert_eq!(clock.running(now(10, 0)), Millis(START + 10));
        clock.step_forward(now(20, -(HOUR as i64)));
        assert_eq!(clock.running(now(20, 0)), Millis(START + 19), "slower by one part in 101");
    }
}
