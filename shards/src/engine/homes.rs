//! The homes of shards on a core: who lives there, and how a replica comes to be a member.
//!
//! A home holds an outsider, which has nothing and asks around, or a replica. `formation.rs`
//! decides what an outsider says and when it becomes a replica; here its messages are sent, behind
//! what the log must have first, and the replica is put in its place.

use super::formation::{Outsider, Verdict};
use super::frames::Message;
use super::journal::Waiting;
use super::outbox::Outbox;
use super::replica::Replica;
use super::{Core, SplitMix};
use crate::contract::{CoreConfig, Event, Health, Lane, LeaderView, Now, Outputs};
use crate::defect::{self, Defect};
use crate::ids::{Address, Nanos, NodeId, ReplicaId, ShardId};
use crate::wal::{RecoveredReplica, ReplicaRecord, Stage};

/// A shard's replica on this core, in one of the stages of its life.
#[derive(Debug)]
pub(super) enum Member {
    /// It has nothing, and asks around.
    Outsider(Outsider),
    /// It takes part in the group, or waits to be taken in.
    Replica(Box<Replica>),
}

/// A shard whose home is this core.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) id: ReplicaId,
    pub(super) member: Member,
    pub(super) is_dirty: bool,
    /// Whether its next entry waits for the end of the write that is under way.
    pub(super) is_held: bool,
    /// Whether it waits until it may go on removing what is due or above the limit.
    pub(super) is_removing: bool,
    /// What the core last told others of this replica's leader.
    pub(super) told: LeaderView,
    /// Ticks since a newcomer last heard that there is a shard.
    pub(super) unheard_ticks: u32,
    /// Ticks since a member last knew a leader.
    pub(super) astray_ticks: u32,
    /// The newest epoch of a formation heard of; zero for none.
    pub(super) heard_epoch: u64,
    /// When something was found wrong with the replica that was given up here, until another has
    /// become a voter in its place.
    pub(super) rebuilding_since: Option<Nanos>,
}

impl Home {
    pub(super) fn outsider(config: &CoreConfig, shard: ShardId, random: &mut SplitMix) -> Self {
        let incarnation = random.next();
        let incarnation = if defect::is(Defect::OldIdAfterWipe) { 1 } else { incarnation };
        let id = ReplicaId::new(config.node, incarnation);
        let nodes = config.placement.replicas(shard).collect();
        Home {
            id,
            member: Member::Outsider(Outsider::new(shard, id, nodes)),
            is_dirty: false,
            is_held: false,
            is_removing: false,
            told: LeaderView::default(),
            unheard_ticks: 0,
            astray_ticks: 0,
            heard_epoch: 0,
            rebuilding_since: None,
        }
    }

    /// Begins anew, with nothing and under a new id.
    pub(super) fn start_over(
        &mut self,
        config: &CoreConfig,
        shard: ShardId,
        random: &mut SplitMix,
    ) {
        let (heard_epoch, rebuilding_since) = (self.heard_epoch, self.rebuilding_since);
        *self = Home { heard_epoch, rebuilding_since, ..Home::outsider(config, shard, random) };
    }

    /// Whether the replica is what it should be.
    pub(super) fn health(&self) -> Health {
        match (&self.member, self.rebuilding_since) {
            (Member::Replica(replica), _) if replica.is_quarantined() => Health::Quarantined,
            (_, Some(_)) => Health::Rebuilding,
            (_, None) => Health::Sound,
        }
    }
}

impl Home {
    /// Goes on with what the log knows of the replica.
    pub(super) fn resume(
        &mut self,
        config: &CoreConfig,
        now: Now,
        shard: ShardId,
        known: RecoveredReplica,
    ) {
        self.id = known.record.id;
        self.member = match known.record.stage {
            Stage::Outsider(promised) => {
                let nodes = config.placement.replicas(shard).collect();
                Member::Outsider(Outsider::resume(shard, self.id, nodes, promised))
            }
            Stage::Member(_) | Stage::Newcomer => {
                Member::Replica(Box::new(Replica::resume(config, now, shard, known)))
            }
        };
    }
}

impl Core {
    /// Lets one of the shards in which more is to be removed propose an entry for that alone.
    pub(super) fn allow_removal(&mut self, now: Nanos) {
        let Some(shard) = self.work.take_removal(now) else { return };
        if let Some(Some(home)) = self.homes.get_mut(usize::from(shard.0)) {
            home.is_removing = false;
            if let Member::Replica(replica) = &mut home.member {
                replica.allow_removal();
            }
        }
        self.mark_dirty(shard);
    }

    pub(super) fn take_formation(
        &mut self,
        now: Now,
        from: Address,
        shard: ShardId,
        message: Message<'_>,
        outputs: &mut Outputs,
    ) {
        if let Message::Formed(_, formation) = &message {
            self.take_newer_formation(shard, formation, outputs);
        }
        let Some(Some(home)) = self.homes.get_mut(usize::from(shard.0)) else { return };
        let outbox = &mut self.outbox;
        let mut mail = Vec::new();
        let verdict = match &mut home.member {
            Member::Outsider(outsider) => {
                outsider.receive(from.node, message, &mut |to, answer| mail.push((to, answer)))
            }
            Member::Replica(replica) => {
                if let Message::Probe(_, id) = message {
                    if let Some(formation) = replica.formation() {
                        let formed = Message::Formed(shard, formation.clone());
                        send_formation(outbox, shard, from.node, &formed);
                    }
                    replica.note_join(from.node, id);
                }
                if let Message::Formed(..) = message {
                    home.unheard_ticks = 0;
                }
                Verdict::Wait
            }
        };
        self.post_formation(shard, mail);
        self.take_verdict(now, shard, verdict, outputs);
    }

    /// Sends an outsider's messages. Those that rest on its promise leave when that is durable.
    pub(super) fn post_formation(&mut self, shard: ShardId, mail: Vec<(NodeId, Message<'static>)>) {
        let Some(Some(home)) = self.homes.get_mut(usize::from(shard.0)) else { return };
        for (to, message) in mail {
            let binds = matches!(message, Message::Prepare(..) | Message::Promise(..));
            if let Member::Outsider(outsider) = &home.member
                && let Some(promised) = outsider.promised()
                && let Some(writer) = self.journal.writer()
                && binds
            {
                let stage = Stage::Outsider(promised.clone());
                writer.replica(shard, &ReplicaRecord { id: home.id, stage });
                self.journal.wait(Waiting::Formation(shard, to, message));
            } else {
                send_formation(&mut self.outbox, shard, to, &message);
            }
        }
    }

    pub(super) fn take_verdict(
        &mut self,
        now: Now,
        shard: ShardId,
        verdict: Verdict,
        outputs: &mut Outputs,
    ) {
        let Some(Some(home)) = self.homes.get_mut(usize::from(shard.0)) else { return };
        let (stage, replica) = match verdict {
            Verdict::Wait => return,
            Verdict::Form(formation) => {
                outputs.events.push(Event::Formed(shard));
                let stage = Stage::Member(formation.clone());
                (stage, Replica::found(&self.config, now, shard, home.id, formation))
            }
            Verdict::Join => {
                outputs.events.push(Event::Joining(shard));
                (Stage::Newcomer, Replica::join(&self.config, now, shard, home.id))
            }
        };
        // Nobody waits for this record: it lies before everything that the replica will log.
        if let Some(writer) = self.journal.writer() {
            writer.replica(shard, &ReplicaRecord { id: home.id, stage });
        }
        home.member = Member::Replica(Box::new(replica));
        home.unheard_ticks = 0;
        self.mark_dirty(shard);
    }
}

pub(super) fn send_formation(
    outbox: &mut Outbox,
    shard: ShardId,
    node: NodeId,
    message: &Message<'_>,
) {
    let to = outbox.home(shard, node);
    if let Some(frame) = outbox.frame(to, Lane::Turn) {
        frame.formation(message);
    }
}
