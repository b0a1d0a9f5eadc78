//! The turn: what all connections have gathered goes to the engine at once, and what follows from
//! it goes out at once.
//!
//! Frames leave before replies, since other nodes wait for them with the same requests in hand.
//! What the engine wants written begins behind the turn ([`log`](super::log)), so the frames to the
//! followers and the write of the own log are under way together.

use std::rc::Rc;

use shards::command::RequestBatch;
use shards::contract::{Difference, Event, Input, OutFrame};
use shards::ids::{Nanos, ShardId};

use super::state::State;
use super::table::ConnectionId;
use crate::net::stream::Stream;
use crate::peers::{Pending, Sent};

/// Larger buffers than this are not kept for the next turn, in bytes.
pub const KEPT_BYTES_MAX: usize = 8 << 20;
/// How soon frames that found a sibling's queue full are tried again.
const CONGESTION_RETRY: u64 = 1_000_000;
/// How soon a turn follows that the engine asks for at once, because it has left work over: time
/// for the executor to look at sockets and timers, and for who has waited there to be heard.
const TURN_INTERVAL_MIN: u64 = 50_000;

/// How long a core that has handed its leaderships over goes on: what other nodes had asked of it
/// gets its answer, or is sent to the new leaders, before the links end.
const SETTLING_TIME: u64 = 500_000_000;

/// What is left to do after a turn: for tasks, as it involves waiting.
#[derive(Debug, Default)]
pub struct FollowUps {
    /// Clients whose sockets have no room.
    pub blocked_clients: Vec<(ConnectionId, Rc<Stream>)>,
    /// Links whose sockets have no room or no connection.
    pub pending_links: Vec<Pending>,
    /// Whether the engine asked something of the disk.
    pub log_asked: bool,
    /// Whether another turn is due at once.
    pub again: bool,
}

/// The replicas of a shard that is led here hold different things.
fn tell_difference(shard: ShardId, difference: &Difference) {
    let digests: Vec<String> = difference
        .digests
        .iter()
        .map(|(node, digest)| format!("node {node}: {digest:016x}"))
        .collect();
    let (index, digests) = (difference.index, digests.join(", "));
    match difference.agreed {
        Some(_) => tracing::error!(%shard, %index, digests, "a replica differs from a majority"),
        None => tracing::error!(
            %shard,
            %index,
            digests,
            "replicas differ, and no majority agrees: nothing is rebuilt"
        ),
    }
}

impl State {
    /// One turn. What is left to do is added to `follow_ups`.
    pub fn turn(&mut self, follow_ups: &mut FollowUps) {
        self.begin_input();
        // A lease is looked up by a clock that was read after the requests were in hand.
        self.refresh_now();
        let began = self.now.monotonic.0;
        let asked_for = self.outputs.next_deadline.0;
        if asked_for != 0 && began > asked_for {
            let lateness = &mut self.counters.lateness_ns_max;
            *lateness = (*lateness).max(began - asked_for);
        }
        if !self.batch.is_empty() {
            self.count_destinations();
            self.engine.step(self.now, Input::Requests(&self.batch), &mut self.outputs);
            self.clear_batch();
        }
        self.step(Input::EndOfTurn);
        follow_ups.log_asked |= self.log.take(&mut self.outputs.disk);
        self.send_frames(follow_ups);
        self.take_events();
        self.deliver_replies();
        self.flush_dirty(&mut follow_ups.blocked_clients);
        self.resume_congested();
        self.answer_drained();
        self.end_busy();
    }

    /// Tells who waits for the end of this core's leaderships that it has come.
    fn answer_drained(&mut self) {
        if self.drained.is_empty() {
            return;
        }
        if !self.is_alone() && self.leads_anything() {
            self.led_nothing_since = None;
            return;
        }
        let since = *self.led_nothing_since.get_or_insert(self.now.monotonic.0);
        if !self.is_alone() && self.now.monotonic.0 - since < SETTLING_TIME {
            return;
        }
        for answer in self.drained.drain(..) {
            // Whoever asked may have given up.
            let _ = answer.try_send(());
        }
    }

    /// When the next turn is due without input.
    pub fn next_turn(&self) -> Nanos {
        let now = self.now.monotonic.0;
        let asked_for = match self.outputs.next_deadline.0 {
            0 => u64::MAX,
            at => at.max(now + TURN_INTERVAL_MIN),
        };
        let retry = if self.mesh.is_congested() { now + CONGESTION_RETRY } else { u64::MAX };
        Nanos(asked_for.min(retry))
    }

    fn clear_batch(&mut self) {
        match self.batch.bytes_len() > KEPT_BYTES_MAX {
            true => self.batch = RequestBatch::default(),
            false => self.batch.clear(),
        }
    }

    fn send_frames(&mut self, follow_ups: &mut FollowUps) {
        self.mesh.send_kept();
        let mut frames = std::mem::take(&mut self.outputs.frames);
        for frame in frames.drain(..) {
            if frame.to.node == self.here.node {
                self.mesh.send(frame.to.core, frame.bytes);
            } else {
                self.send_to_peer(frame, follow_ups);
            }
        }
        frames.append(&mut self.outputs.frames);
        self.outputs.frames = frames;
    }

    fn send_to_peer(&mut self, frame: OutFrame, follow_ups: &mut FollowUps) {
        let to = frame.to;
        match self.peers.send(frame) {
            Sent::Accepted(bytes, pending) => {
                self.counters.peer_frames_out += 1;
                self.counters.peer_bytes_out += bytes.len() as u64;
                self.outputs.recycle(bytes);
                follow_ups.pending_links.extend(pending);
            }
            Sent::Dropped => self.counters.peer_frames_dropped += 1,
            Sent::Broken(reason) => {
                self.counters.peer_frames_dropped += 1;
                tracing::warn!(peer = %to, reason, "the link to the peer was given up");
                self.link_down(to, None);
                follow_ups.again = true;
            }
        }
    }

    /// What concerns many shards at once, as after a start, is one line and not one each.
    fn take_events(&mut self) {
        let (mut formed, mut led, mut lost) = (0, 0, 0);
        let (mut joining, mut restored, mut promoted) = (0, 0, 0);
        for event in self.outputs.events.drain(..) {
            match event {
                Event::LeaderChanged(shard, view) => {
                    self.cluster.set_leader(shard, view);
                    tracing::debug!(%shard, term = %view.term, leader = ?view.leader, "leader");
                }
                Event::BecameLeader(shard, term) => {
                    led += 1;
                    tracing::debug!(%shard, %term, "leads");
                }
                Event::LostLeadership(shard, term) => {
                    lost += 1;
                    tracing::debug!(%shard, %term, "leads no longer");
                }
                Event::Formed(shard) => {
                    formed += 1;
                    tracing::debug!(%shard, "formed");
                }
                Event::Joining(shard) => {
                    joining += 1;
                    tracing::debug!(%shard, "asks to be taken in");
                }
                Event::SnapshotRestored(shard, index) => {
                    restored += 1;
                    tracing::debug!(%shard, %index, "restored from a snapshot");
                }
                Event::Promoted(shard) => {
                    promoted += 1;
                    tracing::debug!(%shard, "has become a voter");
                }
                Event::Recovered(shard, epoch) => {
                    tracing::warn!(%shard, epoch, "goes on from this replica alone, as ordered");
                }
                Event::RecoverRefused(shard, reason) => {
                    tracing::warn!(%shard, reason, "does not go on from this replica alone");
                }
                Event::Quarantined(shard, finding) => {
                    tracing::error!(%shard, %finding, "the replica serves nobody any more");
                }
                Event::GivenUp(shard) => {
                    tracing::warn!(%shard, "the replica was given up, to be filled anew");
                }
                Event::Rebuilt(shard, lasted) => {
                    let milliseconds = lasted.0 / 1_000_000;
                    tracing::warn!(%shard, milliseconds, "the replica was rebuilt");
                }
                Event::DigestsDiffer(shard, difference) => tell_difference(shard, &difference),
                Event::ReplicaStopped(shard, reason) => {
                    tracing::error!(%shard, reason, "the replica stopped for good");
                }
            }
        }
        let core = self.here.core;
        if formed + led + lost > 0 {
            tracing::info!(%core, formed, led, lost, "shards formed; leaderships won and lost");
        }
        if joining + restored + promoted > 0 {
            tracing::info!(%core, joining, restored, promoted, "replicas on their way to a voter");
        }
    }
}
