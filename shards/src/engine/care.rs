//! The care for replicas whose memory may have failed: a core looks at its stores for damage, hands
//! around what its replicas say of each other, and gives up the one that was removed.
//!
//! Scrubbing is paid in small pieces: each turn may look at a few tens of kibibytes, as many as the
//! rate has allowed since the last, so that nobody waits long behind one. A core that has nothing
//! else to do asks for turns of its own, unless everything was looked at within a tick.

use super::frames::{self, Message, Wish};
use super::recover::ASTRAY_TICKS;
use super::{Core, Home, Member};
use crate::contract::{CareCounts, Event, Finding, Lane, Now, Outputs};
use crate::ids::{Address, Nanos, NodeId, ReplicaId, ShardId, Term};
use crate::store::ScrubProgress;

/// Bytes looked at in one turn, at most.
const SLICE_BYTES: u64 = 64 << 10;
/// Ticks between two questions of a quarantined replica (200 ms).
const STANDING_TICKS: u32 = 4;

/// How far a core's look at its stores has come.
#[derive(Debug)]
pub(super) struct Scrubber {
    /// The shard that comes next.
    next: u16,
    /// Bytes that may be looked at.
    credit: u64,
    /// Until when credit was given.
    credited: Nanos,
    /// When the next turn is due for scrubbing's sake.
    pub(super) due: Nanos,
}

impl Default for Scrubber {
    fn default() -> Self {
        Scrubber { next: 0, credit: 0, credited: Nanos(0), due: Nanos(u64::MAX) }
    }
}

impl Core {
    /// What this core has found out about the state of its replicas.
    pub fn care_counts(&self) -> CareCounts {
        self.care
    }

    /// Looks at as much of the stores as the rate allows.
    pub(super) fn scrub(&mut self, now: Now, outputs: &mut Outputs) {
        let rate = self.config.scrub_bytes_per_second;
        let tick = self.config.tick.0;
        let bytes_in = |nanos: u64| (u128::from(rate) * u128::from(nanos) / 1_000_000_000) as u64;
        let passed = now.monotonic.0.saturating_sub(self.scrubber.credited.0).min(tick);
        let slice = SLICE_BYTES.min(bytes_in(tick));
        let credit = self.scrubber.credit + bytes_in(passed);
        if rate == 0 || credit < slice.max(1) {
            return;
        }
        self.scrubber.credited = now.monotonic;
        let mut left = slice;
        for _ in 0..self.homes.len() {
            if left == 0 {
                break;
            }
            let shard = ShardId(self.scrubber.next);
            let looked_at = self.scrub_one(now, shard, left, outputs);
            left = left.saturating_sub(looked_at.unwrap_or(left));
            if looked_at.is_some() {
                self.scrubber.next = (shard.0 + 1) % self.homes.len() as u16;
            }
        }
        self.care.scrubbed_bytes += slice - left;
        // Whoever has seen everything in one go need not hurry.
        let is_through = left > 0;
        self.scrubber.credit = if is_through { 0 } else { (credit - slice).min(bytes_in(tick)) };
        let wait = (u128::from(slice) * 1_000_000_000 / u128::from(rate)) as u64;
        self.scrubber.due = match is_through {
            true => Nanos(u64::MAX),
            false => Nanos(now.monotonic.0 + wait),
        };
    }

    /// Looks at `bytes_max` of a shard's store. Returns how many were left to look at, if the end
    /// of its store was reached.
    fn scrub_one(
        &mut self,
        now: Now,
        shard: ShardId,
        bytes_max: u64,
        outputs: &mut Outputs,
    ) -> Option<u64> {
        let Some(replica) = self.replica_mut(shard).filter(|replica| !replica.is_quarantined())
        else {
            return Some(0);
        };
        match replica.scrub(bytes_max as usize) {
            ScrubProgress::More => None,
            ScrubProgress::Intact => {
                let bytes = replica.store().bytes().min(bytes_max);
                self.care.scrub_passes += 1;
                Some(bytes)
            }
            ScrubProgress::Damaged => {
                self.care.damages += 1;
                self.with_replica(shard, outputs, |replica, courier| {
                    replica.quarantine(now.monotonic, Finding::Damage, courier)
                });
                self.mark_dirty(shard);
                Some(0)
            }
        }
    }

    /// Takes a Raft message; one that shows that the replica has forgotten something ends its
    /// service.
    pub(super) fn take_raft(
        &mut self,
        now: Now,
        from: NodeId,
        shard: ShardId,
        message: &[u8],
        outputs: &mut Outputs,
    ) {
        let Some(message) = frames::decode_raft(message) else { return };
        let Some(replica) = self.replica_mut(shard) else { return };
        if let Some(finding) = replica.what_is_forgotten(from, &message) {
            self.with_replica(shard, outputs, |replica, courier| {
                replica.quarantine(now.monotonic, finding, courier)
            });
            self.mark_dirty(shard);
        } else if replica.receive(from, message) {
            self.mark_dirty(shard);
        }
    }

    /// Takes what others say about the state of replicas.
    pub(super) fn take_care(
        &mut self,
        now: Now,
        from: Address,
        message: &Message<'_>,
        outputs: &mut Outputs,
    ) {
        match *message {
            Message::Compare(shard, leader, index) => {
                self.with_replica(shard, outputs, |replica, courier| {
                    replica.take_comparison(from, leader, index, courier);
                });
            }
            Message::Digest(shard, id, index, digest) => {
                if let Some(replica) = self.replica_mut(shard) {
                    replica.take_digest(from.node, id, index, digest);
                }
            }
            Message::Odd(shard, id, index, digest) => {
                self.with_replica(shard, outputs, |replica, courier| {
                    replica.take_odd(now.monotonic, from.node, (id, index, digest), courier);
                });
                self.mark_dirty(shard);
            }
            Message::Standing(shard, standing) => {
                if let Some(replica) = self.replica_mut(shard) {
                    replica.take_standing(from, standing);
                }
            }
            Message::Removed(shard, id, term) => {
                self.take_removed(from.node, (shard, id, term), outputs);
            }
            _ => {}
        }
    }

    /// This core's replica is a member no more, and what it holds is of no use to anybody.
    fn take_removed(
        &mut self,
        from: NodeId,
        (shard, id, term): (ShardId, ReplicaId, Term),
        outputs: &mut Outputs,
    ) {
        let is_peer = from != self.config.node && self.config.placement.rank(shard, from).is_some();
        let Some(replica) = self.replica_mut(shard) else { return };
        // What was said in its term was believed by others. If it left in a later one than the
        // leader's, nobody would believe the leader any more: that one has to come to its term.
        let is_late = replica.term() > term || replica.leads();
        if !is_peer || replica.id() != id || replica.formation().is_none() || is_late {
            return;
        }
        let epoch = replica.formation().map(|formation| formation.epoch);
        let found_at = replica.quarantined_at();
        self.with_replica(shard, outputs, |replica, courier| replica.retire(courier));
        let Some(Some(home)) = self.homes.get_mut(usize::from(shard.0)) else { return };
        home.rebuilding_since = found_at.or(home.rebuilding_since);
        home.start_over(&self.config, shard, &mut self.random);
        if let Some(epoch) = epoch {
            home.hear_of(epoch);
        }
        outputs.events.push(Event::GivenUp(shard));
    }

    /// Once per tick: a replica asks about itself, and one that was rebuilt is noticed.
    pub(super) fn tick_care(&mut self, now: Now, shard: ShardId, outputs: &mut Outputs) {
        let Some(Some(Home {
            member: Member::Replica(replica),
            astray_ticks,
            rebuilding_since,
            ..
        })) = self.homes.get_mut(usize::from(shard.0))
        else {
            return;
        };
        if replica.is_voter()
            && let Some(since) = rebuilding_since.take()
        {
            self.care.rebuilt += 1;
            let lasted = Nanos(now.monotonic.0.saturating_sub(since.0));
            outputs.events.push(Event::Rebuilt(shard, lasted));
        }
        let is_astray = *astray_ticks >= ASTRAY_TICKS;
        let Some(standing) = replica.standing(is_astray) else { return };
        let every = match standing.wish {
            Wish::Membership => ASTRAY_TICKS,
            Wish::Replacement | Wish::ReplacementLater => STANDING_TICKS,
        };
        if !self.ticks.is_multiple_of(every) {
            return;
        }
        for node in self.config.placement.replicas(shard).filter(|&node| node != self.own.node) {
            let to = self.outbox.home(shard, node);
            if let Some(frame) = self.outbox.frame(to, Lane::Turn) {
                frame.standing(shard, standing);
            }
        }
    }
}
