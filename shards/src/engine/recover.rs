//! The operator's last resort: a shard most of whose replicas are lost for good goes on from one.
//!
//! The chosen replica applies its whole log, which may hold entries that were never committed,
//! lacks what only the others had, and becomes the only member of a new formation: with a higher
//! epoch, so that everybody can tell which of two formations is over, under a new Raft id, so that
//! nothing said to the old group reaches the new one, and in a higher term, so that everybody
//! believes its leader. The other nodes' replicas join it as newcomers. A replica that has
//! nothing forms the shard anew, empty.
//!
//! A member of the old formation may still be alive, cut off, perhaps with others of it. Whoever
//! has no leader for a while asks around which formation the others belong to, and a leader tells
//! the nodes that it misses; who hears of a newer formation than its own starts over with nothing.
//!
//! Nothing of the new replica is seen outside before its log is durable: it has to write its vote
//! behind it to be elected.

use raft::eraftpb::{ConfState, HardState};

use super::Core;
use super::frames::Message;
use super::homes::{Home, Member, send_formation};
use super::replica::Replica;
use crate::contract::{Event, Now, Outputs};
use crate::ids::{Address, Formation, NodeId, ReplicaId, ShardId, Term};
use crate::raft_log::FORMATION;
use crate::store::{ShardClock, Store, StoreSettings};
use crate::wal::{RecoveredReplica, ReplicaRecord, Stage};

/// Ticks between two questions of a replica without a leader, and two announcements of a leader to
/// nodes that it misses (1 s).
pub(super) const ASTRAY_TICKS: u32 = 20;

impl Core {
    /// The epoch of the formation that the replica of `shard` on this core belongs to.
    pub fn epoch(&self, shard: ShardId) -> Option<u64> {
        match &self.homes.get(usize::from(shard.0))?.as_ref()?.member {
            Member::Replica(replica) => replica.formation().map(|formation| formation.epoch),
            Member::Outsider(_) => None,
        }
    }

    /// Notes the operator's wish; it is carried out at the end of the turn.
    pub(super) fn take_recover(&mut self, shard: ShardId) {
        if !self.recoveries.contains(&shard) {
            self.recoveries.push(shard);
        }
    }

    /// Carries out what the operator has wished.
    pub(super) fn run_recoveries(&mut self, now: Now, outputs: &mut Outputs) {
        for shard in std::mem::take(&mut self.recoveries) {
            let is_settled = self.replica_mut(shard).is_none_or(|replica| replica.is_settled());
            if !is_settled {
                self.recoveries.push(shard);
                self.mark_dirty(shard);
                continue;
            }
            if let Err(reason) = self.recover(now, shard, outputs) {
                outputs.events.push(Event::RecoverRefused(shard, reason));
            }
        }
    }

    fn recover(
        &mut self,
        now: Now,
        shard: ShardId,
        outputs: &mut Outputs,
    ) -> Result<(), &'static str> {
        let heard_term = self.router.view(shard).term;
        let settings = StoreSettings::of(&self.config);
        let salvaged =
            self.with_replica(shard, outputs, |replica, courier| match replica.view().leader {
                Some(_) => Err("its replica here knows a leader"),
                None => {
                    replica.salvage(settings, now, courier).map(|store| (store, replica.term()))
                }
            });
        let (salvaged, own_term) = match salvaged {
            Some(result) => result?,
            None => (None, Term(0)),
        };
        let id = ReplicaId::new(self.config.node, self.random.next());
        let Some(Some(home)) = self.homes.get_mut(usize::from(shard.0)) else {
            return Err("it has no replica here");
        };
        let epoch = home.epoch_to_come(now);
        let formation = Formation { epoch, members: vec![id] };
        let (store, clock) = salvaged
            .unwrap_or_else(|| (Box::new(Store::new(settings)), ShardClock::at_wall_clock(now)));
        let term = Term(heard_term.0.max(own_term.0).max(FORMATION.1.0));
        let record = ReplicaRecord { id, stage: Stage::Member(formation) };
        let hard_state = HardState { term: term.0, commit: FORMATION.0.0, ..HardState::default() };
        let conf_state = ConfState { voters: vec![id.0], ..ConfState::default() };
        let recovered = RecoveredReplica {
            record,
            hard_state,
            applied: FORMATION,
            conf_state,
            entries: Vec::new(),
            store,
        };
        let mut replica = Replica::resume(&self.config, now, shard, recovered);
        replica.set_clock(clock);
        if let Some(head) = replica.checkpoint_head()
            && let Some(writer) = self.journal.writer()
        {
            writer.replace(shard, &head, &replica.whole_snapshot());
            writer.want();
            self.journal.checkpoint.take_if(|checkpoint| checkpoint.shard == shard);
        }
        home.id = id;
        home.member = Member::Replica(Box::new(replica));
        self.mark_dirty(shard);
        outputs.events.push(Event::Recovered(shard, epoch));
        Ok(())
    }

    /// A replica of `from`'s node belongs to a formation with this epoch, and knows no leader.
    pub(super) fn take_astray(&mut self, from: Address, shard: ShardId, epoch: u64) {
        let Some(Some(home)) = self.homes.get_mut(usize::from(shard.0)) else { return };
        home.hear_of(epoch);
        if let Member::Replica(replica) = &home.member
            && let Some(formation) = replica.formation()
            && is_newer(formation.epoch, epoch)
        {
            let formed = Message::Formed(shard, formation.clone());
            send_formation(&mut self.outbox, shard, from.node, &formed);
        }
    }

    /// Hears which formation another replica belongs to; where it is newer than this one's, this
    /// one starts over with nothing.
    pub(super) fn take_newer_formation(
        &mut self,
        shard: ShardId,
        formation: &Formation,
        outputs: &mut Outputs,
    ) {
        let Some(Some(home)) = self.homes.get_mut(usize::from(shard.0)) else { return };
        home.hear_of(formation.epoch);
        let is_over = match &home.member {
            Member::Replica(replica) => {
                replica.formation().is_some_and(|own| is_newer(formation.epoch, own.epoch))
            }
            Member::Outsider(_) => false,
        };
        if !is_over {
            return;
        }
        self.with_replica(shard, outputs, |replica, courier| replica.retire(courier));
        let mut home = Home::outsider(&self.config, shard, &mut self.random);
        home.hear_of(formation.epoch);
        self.homes[usize::from(shard.0)] = Some(home);
        outputs.events.push(Event::Joining(shard));
    }

    /// Once per tick: a member without a leader asks around, and a leader tells nodes it misses.
    pub(super) fn tick_formation(&mut self, shard: ShardId) {
        let Some(Some(home)) = self.homes.get_mut(usize::from(shard.0)) else { return };
        let Member::Replica(replica) = &home.member else { return };
        let Some(formation) = replica.formation() else { return };
        let is_astray = replica.view().leader.is_none();
        home.astray_ticks = if is_astray { home.astray_ticks.saturating_add(1) } else { 0 };
        let is_due = match is_astray {
            true => home.astray_ticks.is_multiple_of(ASTRAY_TICKS),
            false => replica.leads() && self.ticks.is_multiple_of(ASTRAY_TICKS),
        };
        if !is_due {
            return;
        }
        let message = match is_astray {
            true => Message::Astray(shard, formation.epoch),
            false => Message::Formed(shard, formation.clone()),
        };
        let has_member = |node: NodeId| !is_astray && replica.has_member_on(node);
        let nodes: Vec<_> = self
            .config
            .placement
            .replicas(shard)
            .filter(|&node| node != self.config.node && !has_member(node))
            .collect();
        for node in nodes {
            send_formation(&mut self.outbox, shard, node, &message);
        }
    }
}

impl Home {
    /// Notes the epoch of a formation that somebody belongs to.
    pub(super) fn hear_of(&mut self, epoch: u64) {
        if self.heard_epoch == 0 || is_newer(epoch, self.heard_epoch) {
            self.heard_epoch = epoch;
        }
    }

    /// An epoch that is newer than any heard of here.
    fn epoch_to_come(&mut self, now: Now) -> u64 {
        if let Member::Replica(replica) = &self.member
            && let Some(epoch) = replica.formation().map(|formation| formation.epoch)
        {
            self.hear_of(epoch);
        }
        match self.heard_epoch {
            0 => super::formation::epoch_at(now.wall),
            heard => heard % crate::ids::Version::EPOCH_MAX + 1,
        }
    }
}

/// Whether `epoch` is newer than `other`. Epochs begin anew when a version has no more room for
/// them, so that the nearer way round decides: three days' worth of formations lie between.
fn is_newer(epoch: u64, other: u64) -> bool {
    let ahead = (epoch + crate::ids::Version::EPOCH_MAX - other) % crate::ids::Version::EPOCH_MAX;
    ahead != 0 && ahead <= crate::ids::Version::EPOCH_MAX / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Version;

    #[test]
    fn epochs_are_compared_the_nearer_way_round() {
        let last = Version::EPOCH_MAX;
        for (newer, older) in [(2, 1), (last, last - 1), (1, last), (8_000, 1), (5, last - 100)] {
            assert!(is_newer(newer, older), "{newer} after {older}");
            assert!(!is_newer(older, newer), "{older} before {newer}");
        }
        assert!(!is_newer(7, 7));
    }
}
