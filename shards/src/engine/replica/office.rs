//! Who is a member, and who leads: replacing restarted replicas, ranked elections, handing over.
//!
//! Members change one at a time, by simple changes: a restarted node's former replica goes first,
//! then the new one comes as a learner, and becomes a voter when it has caught up. In between the
//! group has one voter fewer, and tolerates as much as it did with a dead one. There is no central
//! balancer: each leader that is not the preferred one hands over by itself.

use raft::ProgressState;
use raft::eraftpb::{ConfChange, ConfChangeType};

use super::{Courier, Replica};
use crate::contract::Event;
use crate::defect::{self, Defect};
use crate::ids::{NodeId, ReplicaId, Term};

/// A learner that lacks at most so many entries is promoted; a preferred leader, handed over to.
pub(super) const CAUGHT_UP_ENTRIES: u64 = 256;
/// Ticks for which the preferred leader must be caught up before it is handed the shard (2 s).
const STABLE_TICKS: u32 = 40;
/// A node that was not heard of for more ticks is handed no leadership.
pub(super) const SILENT_TICKS_MAX: u32 = 3;
/// Ticks for which an operator's transfer keeps the preferred leader out (10 s).
const TRANSFER_HOLD_TICKS: u32 = 200;

impl Replica {
    /// Notes that `node` is empty and asks to be taken in as `id`.
    pub fn note_join(&mut self, node: NodeId, id: ReplicaId) {
        let conf = self.log.conf_state();
        let is_member = conf.voters.contains(&id.0) || conf.learners.contains(&id.0);
        let belongs = id.node() == node && node != self.me.node() && self.nodes.contains(&node);
        self.joins.retain(|(known, _)| *known != node);
        if self.leads() && belongs && !is_member {
            self.joins.push((node, id));
        }
    }

    /// Ranked successors instead of a lottery: the distance to the last leader decides who
    /// campaigns first, late enough that others no longer hold the old leader for alive.
    ///
    /// Replicas that remember different leaders may have the same rank, and would split the votes
    /// for ever. Therefore, once a term has passed without a leader, it is a lottery after all.
    pub(super) fn election_timeout_ticks(&mut self, is_draining: bool) -> usize {
        let term = Term(self.raw.raft.term);
        if self.raw.raft.leader_id == 0 && term > self.last_led_term && !is_draining {
            if self.lot.0 != term {
                let range = 2 * self.replication as u64 + 2;
                self.lot = (term, (self.lottery.next() % range) as usize);
            }
            return self.election_ticks + self.lot.1;
        }
        let distance = match self.last_leader_rank {
            None => self.rank,
            Some(leader) => match (self.rank + self.replication - leader) % self.replication {
                0 => self.replication,
                distance => distance,
            },
        };
        let distance = if is_draining { self.replication } else { distance };
        self.election_ticks + 2 * distance
    }

    /// Replaces restarted nodes' former replicas by their new ones, and removes damaged ones, one
    /// change at a time. `avoid` lists nodes that are about to stop.
    pub(super) fn tick_membership(&mut self, avoid: &[NodeId]) {
        if self.raw.raft.has_pending_conf() || self.raw.raft.lead_transferee.is_some() {
            return;
        }
        let conf = self.log.conf_state();
        let last = self.raw.raft.raft_log.last_index();
        for &learner in &conf.learners {
            let caught_up = self.raw.raft.prs().get(learner).is_some_and(|progress| {
                progress.state == ProgressState::Replicate
                    && progress.matched + CAUGHT_UP_ENTRIES >= last
            });
            if caught_up {
                self.propose_change(ConfChangeType::AddNode, learner);
                return;
            }
        }
        // Who asked again before its admission was applied here is a member by now; to add it as a
        // learner once more would take its vote away.
        let is_member =
            |id: &ReplicaId| conf.voters.contains(&id.0) || conf.learners.contains(&id.0);
        self.joins.retain(|(_, id)| !is_member(id));
        let Some(&(node, id)) = self.joins.first() else {
            return self.remove_who_can_be_spared(avoid);
        };
        let members = conf.voters.iter().chain(&conf.learners);
        let stale = members.copied().find(|&m| ReplicaId(m).node() == node && m != id.0);
        if let Some(stale) = stale {
            self.propose_change(ConfChangeType::RemoveNode, stale);
        } else {
            self.joins.remove(0);
            self.propose_change(ConfChangeType::AddLearnerNode, id.0);
        }
    }

    pub(super) fn propose_change(&mut self, change_type: ConfChangeType, id: u64) {
        let mut change = ConfChange { node_id: id, ..ConfChange::default() };
        change.set_change_type(change_type);
        // A dropped proposal is made again at a later tick.
        let _ = self.raw.propose_conf_change(Vec::new(), change);
    }

    /// Hands the leadership to the preferred leader once it has been caught up for a while, or to
    /// anybody able when this node is about to stop.
    pub(super) fn tick_preference(&mut self, avoid: &[NodeId], is_draining: bool) {
        if self.raw.raft.lead_transferee.is_some() {
            return;
        }
        if is_draining {
            let target = (0..self.replication)
                .filter(|&rank| rank != self.rank && !avoid.contains(&self.nodes[rank]))
                .find_map(|rank| self.caught_up_voter(self.nodes[rank]));
            if let Some(target) = target {
                self.hand_over(target);
            }
            return;
        }
        if self.rank == 0 || self.hold_ticks > 0 || avoid.contains(&self.nodes[0]) {
            self.stable_ticks = 0;
            return;
        }
        match self.caught_up_voter(self.nodes[0]) {
            None => self.stable_ticks = 0,
            Some(preferred) => {
                self.stable_ticks += 1;
                if self.stable_ticks >= STABLE_TICKS {
                    self.stable_ticks = 0;
                    self.hand_over(preferred);
                }
            }
        }
    }

    /// Asks raft-rs to hand the leadership to `id`. From here on another may lead in the next term
    /// at any moment, elected by votes that no lease holds back.
    fn hand_over(&mut self, id: u64) {
        if !defect::is(Defect::LeaseAfterTimeoutNow) {
            self.lease.forgo(Term(self.raw.raft.term));
        }
        self.raw.transfer_leader(id);
    }

    /// The voter on `node`, if it is heard of, keeps up and is sound. One whose disk stands still
    /// lacks what is old, however little that is.
    pub(super) fn caught_up_voter(&self, node: NodeId) -> Option<u64> {
        let conf = self.log.conf_state();
        conf.voters.iter().copied().find(|&id| {
            ReplicaId(id).node() == node && self.keeps_up(id) && !self.is_known_damaged(id)
        })
    }

    /// An operator's wish: hands the leadership to `node`, and says whether that can be tried.
    pub fn transfer_to(&mut self, node: NodeId) -> bool {
        match self.caught_up_voter(node) {
            Some(id) if self.leads() => {
                self.hold_ticks = TRANSFER_HOLD_TICKS;
                self.hand_over(id);
                true
            }
            _ => false,
        }
    }

    pub(super) fn note_membership(&mut self, courier: &mut Courier<'_>) {
        let is_voter = self.is_voter();
        if is_voter && !self.was_voter {
            courier.event(Event::Promoted(self.shard));
        }
        self.was_voter = is_voter;
    }

    /// Notices that this replica took or left office, and gives back what it can no longer do.
    pub(super) fn note_office(&mut self, courier: &mut Courier<'_>) {
        let term = Term(self.raw.raft.term);
        if self.raw.raft.leader_id != 0 {
            self.last_leader_rank = self.rank_of(self.raw.raft.leader_id);
            self.last_led_term = term;
        }
        let leads = self.leads();
        if let Some(led) = self.led_term
            && (!leads || led != term)
        {
            self.led_term = None;
            courier.event(Event::LostLeadership(self.shard, led));
            self.give_back(courier);
        }
        // An office won and lost within one turn is not noticed above, but may have taken commands.
        if !leads && (!self.gathered.is_empty() || self.reads.has_unbarred()) {
            self.give_back(courier);
        }
        if leads && self.led_term.is_none() {
            self.led_term = Some(term);
            self.stable_ticks = 0;
            self.joins.clear();
            courier.event(Event::BecameLeader(self.shard, term));
        }
    }
}
