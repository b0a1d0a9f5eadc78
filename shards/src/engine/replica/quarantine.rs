//! What becomes of a replica whose store is not what it should be: it serves nobody, and is
//! replaced.
//!
//! Its log and its vote are as good as before, so it goes on as a member of its group: commits and
//! elections count on it. It answers no reads, hands a leadership over at once, and asks the others
//! to be replaced. The leader removes it when it can be spared: while all others keep up, and none
//! is being taken in. Only when the removal, and everything before it, is on the disks (or in the
//! memories) of a majority of those that remain does the leader tell it so, and only then does it
//! forget what it has. From there it is like a node that lost its disk: it asks in under a new id.
//! So no acknowledged write ever depends on a replica that forgets it, and of one shard's replicas
//! one is rebuilt at a time: who is removed is decided by entries of the log.
//!
//! One whose log has lost its end is worse: it has forgotten what it acknowledged, and perhaps for
//! whom it voted. No disk that keeps its word does that, but there are others. It shows when a
//! leader in whose term it acknowledged an entry tells it that this is committed. From then on it
//! takes no part in elections, so that the entries it forgot stay with those who have them, and is
//! replaced like the others. (raft-rs would leave it alone for as long as that leader is in office:
//! a rejection of what was acknowledged looks like an old message.)
//!
//! If nobody is left who is sound, it goes on serving: a shard that stands still helps nobody.
//!
//! A replica that has campaigned may be in a later term than the leader that removed it, and others
//! may have heard of that. The leader then steps down into that term, so that the next one is
//! believed by everybody.
//!
//! A member that restarts between its removal and the word of it would wait for a leader for ever.
//! Therefore whoever hears of no leader asks, too, whether it is a member at all.
//!
//! Why a leader may believe its own configuration here: it answers only who asks in a term no later
//! than its own, and only after it has applied an entry of its own term. Then it has applied every
//! change of members that was committed in an earlier term, and made those of its own term itself.
//! A member it does not know was removed, and ids never return.

use raft::ProgressState;
use raft::eraftpb::{ConfChangeType, Message, MessageType};

use super::{Courier, Replica};
use crate::command::{Operation, SetCondition};
use crate::contract::{Event, Finding, Health, Lane};
use crate::engine::frames::{Standing, Wish};
use crate::ids::{Address, Index, Nanos, NodeId, ReplicaId, Term};
use crate::store::ScrubProgress;

/// Ticks for which a question is remembered (1 s). Whoever asks repeats it sooner.
const REMEMBERED_TICKS: u32 = 20;
/// A follower that was not heard of for more ticks may be gone; nobody else is removed meanwhile.
const PRESENT_TICKS_MAX: u32 = 1;

/// A member's question about itself, as others remember it.
#[derive(Debug)]
struct Asked {
    from: Address,
    standing: Standing,
    ticks_left: u32,
    /// The leader's term, and what was committed when it first saw that the asker is no member.
    removed_by: Option<(Term, Index)>,
}

/// What is known of replicas that are not what they should be, this one among them.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    /// What was found here, and when.
    found: Option<(Finding, Nanos)>,
    /// At most one question per node of the shard.
    asked: Vec<Asked>,
}

impl Replica {
    /// Takes it out of service. Says whether that is news.
    pub fn quarantine(&mut self, now: Nanos, finding: Finding, courier: &mut Courier<'_>) -> bool {
        let is_worse = matches!(finding, Finding::Forgotten { .. }) && !self.has_forgotten();
        if self.stopped.is_some() || self.quarantine.found.is_some() && !is_worse {
            return false;
        }
        let found_at = self.quarantined_at().unwrap_or(now);
        self.quarantine.found = Some((finding, found_at));
        courier.care.quarantined += 1;
        courier.event(Event::Quarantined(self.shard, finding));
        self.abandon_follower_reads(courier);
        // Whoever receives it would find at its end that it does not add up.
        self.store.abandon_snapshot();
        true
    }

    /// What a heartbeat shows to be missing here. Its sender counts on all of this replica's log up
    /// to the commit index in it, by this replica's own word. No former leader can say so of
    /// entries that another has overwritten: its term has passed.
    pub fn what_is_forgotten(&self, from: NodeId, message: &Message) -> Option<Finding> {
        let last = self.log.last();
        let is_counted_on = message.msg_type() == MessageType::MsgHeartbeat
            && message.to == self.me.0
            && ReplicaId(message.from).node() == from
            && message.term >= self.raw.raft.term
            && message.commit > last.0;
        let is_news = !self.has_forgotten() && self.stopped.is_none();
        let acknowledged = Index(message.commit);
        (is_counted_on && is_news).then_some(Finding::Forgotten { last, acknowledged })
    }

    /// Whether its word is worth nothing any more.
    pub(super) fn has_forgotten(&self) -> bool {
        matches!(self.quarantine.found, Some((Finding::Forgotten { .. }, _)))
    }

    /// Damages the store.
    #[cfg(feature = "defects")]
    pub fn flip_bit(&mut self, nth_byte: u64) {
        self.store.flip_bit_of_value(nth_byte);
    }

    /// Looks at a part of the store for damage.
    pub fn scrub(&mut self, bytes_max: usize) -> ScrubProgress {
        self.store.scrub(bytes_max)
    }

    /// Whether it was taken out of service.
    pub fn is_quarantined(&self) -> bool {
        self.quarantine.found.is_some()
    }

    /// Whether it is what it should be.
    pub fn health(&self) -> Health {
        match self.is_quarantined() {
            true => Health::Quarantined,
            false => Health::Sound,
        }
    }

    /// When something was found here.
    pub fn quarantined_at(&self) -> Option<Nanos> {
        self.quarantine.found.map(|(_, at)| at)
    }

    /// A snapshot has replaced the store.
    pub(super) fn end_quarantine(&mut self, now: Nanos, courier: &mut Courier<'_>) {
        if let Some((_, found_at)) = self.quarantine.found.take() {
            courier.care.rebuilt += 1;
            courier.event(Event::Rebuilt(self.shard, Nanos(now.0.saturating_sub(found_at.0))));
        }
    }

    /// What a member has said of itself.
    pub(super) fn health_of(&self, id: u64) -> Health {
        if id == self.me.0 {
            return self.health();
        }
        match self.is_known_damaged(id) {
            true => Health::Quarantined,
            false => Health::Sound,
        }
    }

    /// Whether a member has said that it is not what it should be.
    pub(super) fn is_known_damaged(&self, id: u64) -> bool {
        let mut wishes = self.wishes_of(id);
        wishes.any(|wish| matches!(wish, Wish::Replacement | Wish::ReplacementLater))
    }

    /// Whether a member wants to be removed, now.
    fn wants_replacement(&self, id: u64) -> bool {
        self.wishes_of(id).any(|wish| wish == Wish::Replacement)
    }

    fn wishes_of(&self, id: u64) -> impl Iterator<Item = Wish> {
        let of_it = self.quarantine.asked.iter().filter(move |asked| asked.standing.id.0 == id);
        of_it.map(|asked| asked.standing.wish)
    }

    /// Whether it keeps to itself what it holds, because others can serve in its place.
    pub(super) fn withholds(&self) -> bool {
        self.is_quarantined()
            && self
                .log
                .conf_state()
                .voters
                .iter()
                .any(|&id| id != self.me.0 && !self.is_known_damaged(id))
    }

    /// Whether the outcome of a write can be told by who does not trust its store.
    pub(super) fn can_tell(&self, operation: &Operation<'_>) -> bool {
        let is_blind = matches!(
            operation,
            Operation::Set { condition: SetCondition::Always, return_old: false, .. }
                | Operation::Flush
        );
        is_blind || !self.withholds()
    }

    /// What to ask the other members about this one, if there is anything; `is_astray` says
    /// whether it has heard of no leader for long.
    pub fn standing(&self, is_astray: bool) -> Option<Standing> {
        // What it proposed as a leader is decided first: nobody would tell it later.
        let is_settled = !self.leads() && self.proposed.is_empty() && self.doubtful.is_empty();
        // One that has applied its own removal goes on believing in the leader it had.
        let is_in_doubt = is_astray || !self.is_member(self.me.0);
        let wish = match (self.is_quarantined(), is_in_doubt) {
            (true, _) if is_settled => Wish::Replacement,
            (true, _) => Wish::ReplacementLater,
            (false, true) => Wish::Membership,
            (false, false) => return None,
        };
        let is_asking = self.formation.is_some() && self.stopped.is_none();
        let term = Term(self.raw.raft.term);
        is_asking.then_some(Standing { id: self.me, term, wish })
    }

    /// Remembers a question of another member.
    pub fn take_standing(&mut self, from: Address, standing: Standing) {
        let node = standing.id.node();
        let belongs = node == from.node && node != self.me.node() && self.nodes.contains(&node);
        if !belongs || self.formation.is_none() {
            return;
        }
        if self.leads() && standing.term.0 > self.raw.raft.term {
            // As any other word of a later term would do. It comes to nobody as a Raft message once
            // its sender is removed.
            self.raw.raft.become_follower(standing.term.0, 0);
        }
        let asked = &mut self.quarantine.asked;
        let known = asked.iter().position(|asked| asked.standing.id.node() == node);
        let before = known.map(|place| asked.swap_remove(place));
        let removed_by = before.filter(|asked| asked.standing.id == standing.id);
        let removed_by = removed_by.and_then(|asked| asked.removed_by);
        asked.push(Asked { from, standing, ticks_left: REMEMBERED_TICKS, removed_by });
    }

    /// Counts a tick, and tells those who were removed so.
    pub(super) fn tick_standings(&mut self, courier: &mut Courier<'_>) {
        let mut asked = std::mem::take(&mut self.quarantine.asked);
        asked.retain_mut(|asked| {
            asked.ticks_left = asked.ticks_left.saturating_sub(1);
            let is_over = self.is_over(asked);
            if is_over && let Some(frame) = courier.outbox.frame(asked.from, Lane::Turn) {
                frame.removed(self.shard, asked.standing.id, Term(self.raw.raft.term));
            }
            !is_over && asked.ticks_left > 0
        });
        self.quarantine.asked = asked;
    }

    /// Whether who asks was removed, and nothing depends on what it holds: everything that was
    /// committed when the leader saw that is with a majority of those that remain.
    fn is_over(&self, asked: &mut Asked) -> bool {
        let term = Term(self.raw.raft.term);
        let knows = self.leads() && self.applied.1 == term && asked.standing.term <= term;
        if !knows || self.is_member(asked.standing.id.0) {
            asked.removed_by = None;
            return false;
        }
        let committed = Index(self.raw.raft.raft_log.committed);
        let mark = match asked.removed_by {
            Some((known, mark)) if known == term => mark,
            _ => committed,
        };
        asked.removed_by = Some((term, mark));
        let conf = self.log.conf_state();
        let progress = self.raw.raft.prs();
        let has_it =
            |id: &&u64| progress.get(**id).is_some_and(|progress| progress.matched >= mark.0);
        2 * conf.voters.iter().filter(has_it).count() > conf.voters.len()
    }

    fn is_member(&self, id: u64) -> bool {
        let conf = self.log.conf_state();
        conf.voters.contains(&id) || conf.learners.contains(&id)
    }

    /// Removes a member that wants to be replaced, if it can be spared. `avoid` lists nodes that
    /// are about to stop.
    pub(super) fn remove_who_can_be_spared(&mut self, avoid: &[NodeId]) {
        if let Some(id) = self.who_can_be_spared(avoid) {
            self.propose_change(ConfChangeType::RemoveNode, id);
        }
    }

    fn who_can_be_spared(&self, avoid: &[NodeId]) -> Option<u64> {
        if self.quarantine.asked.is_empty()
            || self.is_quarantined()
            || self.applied.1 != Term(self.raw.raft.term)
        {
            return None;
        }
        let conf = self.log.conf_state();
        // Nothing counts on a learner.
        let learner = conf.learners.iter().find(|&&id| self.wants_replacement(id));
        if let Some(&learner) = learner {
            return Some(learner);
        }
        let is_whole = conf.learners.is_empty() && conf.voters.len() == self.replication;
        let damaged = conf.voters.iter().copied().filter(|&id| self.wants_replacement(id)).min()?;
        let others_are_well = conf.voters.iter().all(|&id| {
            let stays = !avoid.contains(&ReplicaId(id).node());
            let is_there =
                self.rank_of(id).is_some_and(|rank| self.silent_ticks[rank] <= PRESENT_TICKS_MAX);
            id == damaged || stays && (id == self.me.0 || is_there && self.keeps_up(id))
        });
        (is_whole && others_are_well).then_some(damaged)
    }

    /// Whether a follower is heard of, and has what is old.
    pub(super) fn keeps_up(&self, id: u64) -> bool {
        let last = self.raw.raft.raft_log.last_index();
        // raft-rs' own mark of activity is cleared in every election timeout, and says little.
        let is_heard =
            self.rank_of(id).is_some_and(|rank| self.silent_ticks[rank] <= super::SILENT_TICKS_MAX);
        is_heard
            && self.raw.raft.prs().get(id).is_some_and(|progress| {
                let is_served = progress.state == ProgressState::Replicate
                    && progress.matched + super::CAUGHT_UP_ENTRIES >= last
                    && progress.matched >= self.last_at_ticks[0].0;
                // Whoever lacks nothing is sent nothing, and raft-rs then does not notice that a
                // link is up again.
                is_served || progress.matched == last
            })
    }

    /// Whether it should ask to be taken in: it never was, or is a learner. One that was removed
    /// must not come back under its id.
    pub fn wants_in(&self) -> bool {
        let is_new = self.formation.is_none();
        let conf = self.log.conf_state();
        !self.is_voter() && !self.is_quarantined() && (is_new || conf.learners.contains(&self.me.0))
    }
}
