//! How a shard comes into being, and how a replica without memory finds one that exists.
//!
//! A replica whose memory is gone never comes back under its old Raft id, because it could vote
//! twice in a term. Every life therefore draws a new id (its incarnation), and starts *empty*. An
//! empty replica asks the other members around:
//!
//! - A member of a formed shard answers with the formation. If the asker is one of its founders
//!   (it missed the news), it starts as the founder it is. Otherwise it is a newcomer, and the
//!   question doubles as the wish to be taken in: the leader replaces the node's former replica.
//!   A newcomer that hears of no formed shard any more starts over, empty and under a new id: its
//!   members may have lost their memory one after the other.
//! - If all members are empty, the preferred leader forms the shard anew in two phases. It asks
//!   everyone to promise to stay empty for this exact tuple of incarnations, and forms only when
//!   all have promised. An answer "empty" to another tuple replaces the promise.
//!
//! Why two groups can never form: forming needs the promise of every member of the tuple. A
//! member that formed promises nothing any more. A member that promised tuple T takes another
//! tuple's formation only from a formed member whose own incarnation is part of T, since then T
//! can never become complete. The transport never delivers a frame of a node's former life after
//! one of its newer, so that a promise is never replaced by an older one.
//!
//! This file holds the state machine of one replica without a shard. It sends nothing itself.

use std::collections::{BTreeMap, BTreeSet};

use super::frames::Message;
use crate::defect::{self, Defect};
use crate::ids::{Formation, Millis, NodeId, ReplicaId, ShardId, Version};

/// Ticks between two rounds of questions.
const PROBE_INTERVAL_TICKS: u32 = 4;

/// What the replica has learnt that it must act upon.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Wait,
    /// Start as a founder.
    Form(Formation),
    /// The shard goes on without this replica: start empty-handed and ask to be taken in.
    Join,
}

/// A replica that is not part of a shard yet.
#[derive(Debug)]
pub struct Outsider {
    shard: ShardId,
    me: ReplicaId,
    /// All nodes of the shard, the preferred leader first.
    nodes: Vec<NodeId>,
    /// The last "empty" of each other node.
    empty: BTreeMap<NodeId, ReplicaId>,
    /// The one formation this replica has promised to stay empty for.
    promised: Option<Formation>,
    /// The formation this replica gathers promises for, as the preferred leader.
    proposal: Option<(Formation, BTreeSet<ReplicaId>)>,
    ticks_to_probe: u32,
}

impl Outsider {
    /// A replica with the id `me` on one of `nodes` (the preferred leader first).
    pub fn new(shard: ShardId, me: ReplicaId, nodes: Vec<NodeId>) -> Self {
        Outsider {
            shard,
            me,
            nodes,
            empty: BTreeMap::new(),
            promised: None,
            proposal: None,
            ticks_to_probe: 0,
        }
    }

    /// A replica that comes back and keeps its promise.
    pub fn resume(shard: ShardId, me: ReplicaId, nodes: Vec<NodeId>, promised: Formation) -> Self {
        Outsider { promised: Some(promised), ..Outsider::new(shard, me, nodes) }
    }

    /// What it has promised to stay empty for.
    pub fn promised(&self) -> Option<&Formation> {
        self.promised.as_ref()
    }

    fn others(&self) -> impl Iterator<Item = NodeId> + '_ {
        let own = self.me.node();
        self.nodes.iter().copied().filter(move |&node| node != own)
    }

    /// One tick: asks around at intervals, and proposes a formation once everybody is empty.
    pub fn tick(
        &mut self,
        wall: Millis,
        send: &mut dyn FnMut(NodeId, Message<'static>),
    ) -> Verdict {
        if self.nodes.len() == 1 {
            return Verdict::Form(Formation { epoch: epoch_at(wall), members: vec![self.me] });
        }
        self.ticks_to_probe = self.ticks_to_probe.saturating_sub(1);
        if self.ticks_to_probe > 0 {
            return Verdict::Wait;
        }
        self.ticks_to_probe = PROBE_INTERVAL_TICKS;
        for node in self.others() {
            send(node, Message::Probe(self.shard, self.me));
        }
        if self.nodes[0] == self.me.node() && self.others().all(|n| self.empty.contains_key(&n)) {
            self.propose(wall, send);
            if defect::is(Defect::FormedOnStaleEmpty)
                && let Some((formation, _)) = self.proposal.take()
            {
                self.others()
                    .for_each(|node| send(node, Message::Form(self.shard, formation.clone())));
                return Verdict::Form(formation);
            }
        }
        Verdict::Wait
    }

    fn propose(&mut self, wall: Millis, send: &mut dyn FnMut(NodeId, Message<'static>)) {
        let mut members: Vec<_> = self.empty.values().copied().collect();
        members.push(self.me);
        members.sort_unstable();
        let same = self.proposal.as_ref().is_some_and(|(known, _)| known.members == members);
        if !same {
            let formation = Formation { epoch: epoch_at(wall), members };
            self.promised = Some(formation.clone());
            self.proposal = Some((formation, BTreeSet::from([self.me])));
        }
        if let Some((formation, _)) = &self.proposal {
            for node in self.others() {
                send(node, Message::Prepare(self.shard, formation.clone()));
            }
        }
    }

    /// Takes a message of another member.
    pub fn receive(
        &mut self,
        from: NodeId,
        message: Message<'_>,
        send: &mut dyn FnMut(NodeId, Message<'static>),
    ) -> Verdict {
        match message {
            Message::Probe(_, id) if id.node() == from => {
                send(from, Message::Empty(self.shard, self.me));
                Verdict::Wait
            }
            Message::Empty(_, id) if id.node() == from => {
                if self.empty.insert(from, id) != Some(id) {
                    self.ticks_to_probe = self.ticks_to_probe.min(1);
                }
                Verdict::Wait
            }
            Message::Prepare(_, formation) => {
                if self.is_possible(&formation) && from == self.nodes[0] {
                    send(from, Message::Promise(self.shard, self.me, formation.clone()));
                    self.promised = Some(formation);
                }
                Verdict::Wait
            }
            Message::Promise(_, id, formation) if id.node() == from => {
                self.take_promise(id, &formation, send)
            }
            Message::Form(_, formation) => {
                let is_promised = self.promised.as_ref() == Some(&formation)
                    || defect::is(Defect::FormedOnStaleEmpty) && self.is_possible(&formation);
                if is_promised { Verdict::Form(formation) } else { Verdict::Wait }
            }
            Message::Formed(_, formation) => self.take_formed(from, formation),
            _ => Verdict::Wait,
        }
    }

    /// Whether `formation` names this incarnation and one of every node.
    fn is_possible(&self, formation: &Formation) -> bool {
        formation.members.contains(&self.me)
            && formation.members.len() == self.nodes.len()
            && self.nodes.iter().all(|&node| formation.members.iter().any(|id| id.node() == node))
    }

    fn take_promise(
        &mut self,
        id: ReplicaId,
        formation: &Formation,
        send: &mut dyn FnMut(NodeId, Message<'static>),
    ) -> Verdict {
        let Some((proposed, promises)) = &mut self.proposal else { return Verdict::Wait };
        if proposed != formation || !formation.members.contains(&id) {
            return Verdict::Wait;
        }
        promises.insert(id);
        if promises.len() < formation.members.len() {
            return Verdict::Wait;
        }
        for node in self.others() {
            send(node, Message::Form(self.shard, formation.clone()));
        }
        Verdict::Form(formation.clone())
    }

    fn take_formed(&mut self, from: NodeId, formation: Formation) -> Verdict {
        if !formation.members.contains(&self.me) {
            return Verdict::Join;
        }
        let promise_is_dead = match &self.promised {
            None => true,
            Some(promised) if *promised == formation => true,
            Some(promised) => formation
                .members
                .iter()
                .any(|id| id.node() == from && promised.members.contains(id)),
        };
        if promise_is_dead { Verdict::Form(formation) } else { Verdict::Wait }
    }
}

/// The epoch of a formation at this time.
///
/// With the memory of every member gone, nobody knows the epochs of former lives; the clock keeps
/// them apart. It counts in steps of 16 seconds and wraps after three days, since 14 bits are what
/// a version has room for.
pub(super) fn epoch_at(wall: Millis) -> u64 {
    wall.0 / 16_000 % Version::EPOCH_MAX + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(0);
    const WALL: Millis = Millis(1_800_000_000_000);

    fn id(node: u16, life: u64) -> ReplicaId {
        ReplicaId::new(NodeId(node), life)
    }

    fn nodes() -> Vec<NodeId> {
        vec![NodeId(1), NodeId(2), NodeId(3)]
    }

    /// Runs messages among `replicas` until none is left; those of `down` nodes are lost.
    fn settle(
        replicas: &mut BTreeMap<NodeId, Outsider>,
        down: &[NodeId],
    ) -> BTreeMap<NodeId, Verdict> {
        type Mail = Vec<(NodeId, NodeId, Message<'static>)>;
        fn own(message: Message<'_>) -> Message<'static> {
            match message {
                Message::Probe(shard, id) => Message::Probe(shard, id),
                Message::Empty(shard, id) => Message::Empty(shard, id),
                Message::Prepare(shard, formation) => Message::Prepare(shard, formation),
                Message::Promise(shard, id, formation) => Message::Promise(shard, id, formation),
                Message::Form(shard, formation) => Message::Form(shard, formation),
                other => panic!("unexpected {other:?}"),
            }
        }
        let mut verdicts = BTreeMap::new();
        for _ in 0..40 {
            let mut mail: Mail = Vec::new();
            for (&node, replica) in replicas.iter_mut().filter(|(node, _)| !down.contains(node)) {
                replica.tick(WALL, &mut |to, message| mail.push((node, to, own(message))));
            }
            while !mail.is_empty() {
                for (from, to, message) in std::mem::take(&mut mail) {
                    if down.contains(&to) || verdicts.contains_key(&to) {
                        continue;
                    }
                    let Some(replica) = replicas.get_mut(&to) else { continue };
                    let verdict = replica.receive(from, message, &mut |next, message| {
                        mail.push((to, next, own(message)));
                    });
                    if verdict != Verdict::Wait {
                        verdicts.insert(to, verdict);
                    }
                }
            }
        }
        verdicts
    }

    fn outsiders(lives: [u64; 3]) -> BTreeMap<NodeId, Outsider> {
        (1..=3)
            .map(|node| {
                let me = id(node, lives[usize::from(node) - 1]);
                (NodeId(node), Outsider::new(SHARD, me, nodes()))
            })
            .collect()
    }

    #[test]
    fn three_empty_members_form_one_shard() {
        let verdicts = settle(&mut outsiders([11, 12, 13]), &[]);
        let members = vec![id(1, 11), id(2, 12), id(3, 13)];
        assert_eq!(verdicts.len(), 3);
        for verdict in verdicts.values() {
            assert_eq!(
                *verdict,
                Verdict::Form(Formation { epoch: epoch_at(WALL), members: members.clone() })
            );
        }
    }

    #[test]
    fn nothing_forms_while_a_member_is_silent() {
        assert!(settle(&mut outsiders([11, 12, 13]), &[NodeId(3)]).is_empty());
        assert!(settle(&mut outsiders([11, 12, 13]), &[NodeId(1)]).is_empty());
    }

    #[test]
    fn a_newer_promise_bars_the_older_formation() {
        let mut replica = Outsider::new(SHARD, id(2, 12), nodes());
        let first = Formation { epoch: 1, members: vec![id(1, 11), id(2, 12), id(3, 13)] };
        let second = Formation { epoch: 2, members: vec![id(1, 99), id(2, 12), id(3, 13)] };
        let mut quiet = |_: NodeId, _: Message<'_>| {};
        for formation in [&first, &second] {
            let prepare = Message::Prepare(SHARD, formation.clone());
            assert_eq!(replica.receive(NodeId(1), prepare, &mut quiet), Verdict::Wait);
        }
        let form = Message::Form(SHARD, first.clone());
        assert_eq!(replica.receive(NodeId(1), form, &mut quiet), Verdict::Wait);
        // The former incarnation of node 1 is not part of the second tuple: it proves nothing.
        let formed = Message::Formed(SHARD, first.clone());
        assert_eq!(replica.receive(NodeId(1), formed, &mut quiet), Verdict::Wait);
        // Node 3 is part of both under the same id, and formed by the first: the second is dead.
        let formed = Message::Formed(SHARD, first.clone());
        assert_eq!(replica.receive(NodeId(3), formed, &mut quiet), Verdict::Form(first));
    }

    #[test]
    fn a_replica_with_a_new_life_joins_instead_of_founding() {
        let mut replica = Outsider::new(SHARD, id(2, 50), nodes());
        let formation = Formation { epoch: 1, members: vec![id(1, 11), id(2, 12), id(3, 13)] };
        let verdict = replica.receive(NodeId(1), Message::Formed(SHARD, formation), &mut |_, _| {});
        assert_eq!(verdict, Verdict::Join);
    }

    #[test]
    fn a_promise_names_exactly_the_own_incarnation() {
        let mut replica = Outsider::new(SHARD, id(2, 12), nodes());
        for members in [
            vec![id(1, 11), id(2, 77), id(3, 13)],
            vec![id(1, 11), id(2, 12)],
            vec![id(1, 11), id(1, 12), id(2, 12)],
        ] {
            let prepare = Message::Prepare(SHARD, Formation { epoch: 1, members });
            let mut promises = 0;
            replica.receive(NodeId(1), prepare, &mut |_, _| promises += 1);
            assert_eq!(promises, 0);
        }
    }
}
