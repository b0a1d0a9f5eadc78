//! Members of a shard compare what they hold: about once a second, at one applied index.
//!
//! The leader names the last index of its log. Everybody tells the digest of its store at the
//! moment when exactly that entry is applied; what is committed at an index is the same for all,
//! whoever leads then. The question travels in front of the word that the entry is committed, so
//! that nobody under load has passed it yet; who has, says nothing, and is compared the next time.
//! Where nothing was added to the log since the last comparison, there is none.
//!
//! A digest that a majority of all members has counts as right, learners included. Whoever has
//! another one is told so, and believes it only about its own last word, from its own leader. If
//! no majority agrees, nobody knows who is right: there is an alarm, and nothing is rebuilt.

use super::{Courier, Replica};
use crate::contract::{Difference, Event, Finding, Lane};
use crate::ids::{Address, Index, Nanos, NodeId, ReplicaId, Term};

/// Ticks between two comparisons (1 s).
const COMPARISON_TICKS: u32 = 20;
/// Comparisons that find a difference again, between two events that say so.
const REPEATED_ALARM: u32 = 60;

/// A comparison that the leader has begun.
#[derive(Debug)]
struct Round {
    term: Term,
    index: Index,
    /// Who told what. One per member at most.
    told: Vec<(ReplicaId, u64)>,
}

/// What a replica knows of comparisons.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    ticks: u32,
    /// The index of the last comparison that found no difference.
    compared: Index,
    round: Option<Round>,
    /// Comparisons in a row that found a difference.
    differences: u32,
    /// The index at which a leader wants to know the digest, and where that one lives.
    wanted: Option<(Index, Address)>,
    /// What was told last.
    told: Option<(Index, u64)>,
}

impl Replica {
    /// Counts a tick: the leader ends a comparison, and begins the next.
    pub(super) fn tick_comparison(&mut self, now: Nanos, courier: &mut Courier<'_>) {
        let term = Term(self.raw.raft.term);
        self.comparison.ticks = self.comparison.ticks.saturating_add(1);
        if !self.leads() || self.applied.1 != term {
            self.comparison.round = None;
            return;
        }
        if self.comparison.ticks < COMPARISON_TICKS {
            return;
        }
        self.comparison.ticks = 0;
        self.judge_round(now, courier);
        let index = Index(self.raw.raft.raft_log.last_index());
        let conf = self.log.conf_state();
        let has_others = conf.voters.len() + conf.learners.len() > 1;
        if index <= self.comparison.compared || !has_others || self.is_quarantined() {
            return;
        }
        self.comparison.round = Some(Round { term, index, told: Vec::new() });
        for &id in conf.voters.iter().chain(&conf.learners).filter(|&&id| id != self.me.0) {
            let to = courier.outbox.home(self.shard, ReplicaId(id).node());
            if let Some(frame) = courier.outbox.frame(to, Lane::Turn) {
                frame.compare(self.shard, self.me, index);
            }
        }
        self.note_applied(courier);
    }

    /// Takes a leader's question.
    pub fn take_comparison(
        &mut self,
        from: Address,
        leader: ReplicaId,
        index: Index,
        courier: &mut Courier<'_>,
    ) {
        let is_fit = leader.node() == from.node && self.nodes.contains(&from.node);
        if is_fit && !self.is_quarantined() && self.formation.is_some() {
            self.comparison.wanted = Some((index, from));
            self.note_applied(courier);
        }
    }

    /// Tells the digest, if it is wanted at the index that was just applied.
    pub(super) fn note_applied(&mut self, courier: &mut Courier<'_>) {
        let applied = self.applied.0;
        if let Some(round) = &mut self.comparison.round
            && round.index == applied
            && round.told.iter().all(|(id, _)| *id != self.me)
        {
            round.told.push((self.me, self.store.digest()));
        }
        let Some((index, to)) = self.comparison.wanted else { return };
        if index > applied {
            return;
        }
        self.comparison.wanted = None;
        if index == applied && !self.is_quarantined() {
            let digest = self.store.digest();
            self.comparison.told = Some((index, digest));
            if let Some(frame) = courier.outbox.frame(to, Lane::Turn) {
                frame.digest(self.shard, self.me, index, digest);
            }
        }
    }

    /// Takes what a member has told.
    pub fn take_digest(&mut self, from: NodeId, id: ReplicaId, index: Index, digest: u64) {
        let conf = self.log.conf_state();
        let is_member = conf.voters.contains(&id.0) || conf.learners.contains(&id.0);
        if let Some(round) = &mut self.comparison.round
            && round.index == index
            && id.node() == from
            && id != self.me
            && is_member
            && round.told.iter().all(|(known, _)| *known != id)
        {
            round.told.push((id, digest));
        }
    }

    /// Ends the round under way, if there is one.
    fn judge_round(&mut self, now: Nanos, courier: &mut Courier<'_>) {
        let term = Term(self.raw.raft.term);
        let Some(round) = self.comparison.round.take().filter(|round| round.term == term) else {
            return;
        };
        let Some(&(_, first)) = round.told.first() else { return };
        if round.told.len() == 1 {
            return;
        }
        courier.care.comparisons += 1;
        if round.told.iter().all(|(_, digest)| *digest == first) {
            self.comparison.compared = round.index;
            self.comparison.differences = 0;
            return;
        }
        courier.care.mismatches += 1;
        let conf = self.log.conf_state();
        let members = conf.voters.len() + conf.learners.len();
        let agreed = majority(&round.told, members);
        if self.comparison.differences.is_multiple_of(REPEATED_ALARM) || agreed.is_some() {
            let digests = round.told.iter().map(|(id, digest)| (id.node(), *digest)).collect();
            let difference = Difference { index: round.index, agreed, digests };
            courier.event(Event::DigestsDiffer(self.shard, difference));
        }
        self.comparison.differences = self.comparison.differences.saturating_add(1);
        let Some(agreed) = agreed else { return };
        for &(id, digest) in round.told.iter().filter(|(_, digest)| *digest != agreed) {
            if id == self.me {
                let finding = Finding::Odd { index: round.index, own: digest, agreed };
                self.quarantine(now, finding, courier);
                continue;
            }
            let to = courier.outbox.home(self.shard, id.node());
            if let Some(frame) = courier.outbox.frame(to, Lane::Turn) {
                frame.odd(self.shard, id, round.index, agreed);
            }
        }
    }

    /// Takes the word that it differs from a majority.
    pub fn take_odd(
        &mut self,
        now: Nanos,
        from: NodeId,
        (id, index, agreed): (ReplicaId, Index, u64),
        courier: &mut Courier<'_>,
    ) {
        let leader = ReplicaId(self.raw.raft.leader_id);
        let Some((told_at, own)) = self.comparison.told else { return };
        let is_fit = id == self.me && leader.0 != 0 && leader.node() == from;
        if is_fit && told_at == index && own != agreed {
            self.quarantine(now, Finding::Odd { index, own, agreed }, courier);
        }
    }
}

/// The digest that more than half of `members` have told.
fn majority(told: &[(ReplicaId, u64)], members: usize) -> Option<u64> {
    let count = |digest: u64| told.iter().filter(|(_, other)| *other == digest).count();
    told.iter().map(|(_, digest)| *digest).find(|&digest| 2 * count(digest) > members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_one_of_all_members_and_not_of_those_who_told() {
        let told = |digests: &[u64]| -> Vec<_> {
            digests.iter().enumerate().map(|(id, &d)| (ReplicaId(id as u64 + 1), d)).collect()
        };
        assert_eq!(majority(&told(&[7, 8, 7]), 3), Some(7));
        assert_eq!(majority(&told(&[8, 7, 7]), 4), None, "a fourth said nothing");
        assert_eq!(majority(&told(&[7, 8]), 2), None);
        assert_eq!(majority(&told(&[7, 8]), 3), None);
        assert_eq!(majority(&told(&[7, 7]), 3), Some(7));
        assert_eq!(majority(&told(&[1, 2, 3]), 3), None);
        assert_eq!(majority(&[], 3), None);
    }
}
