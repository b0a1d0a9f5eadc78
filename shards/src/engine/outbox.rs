//! The frames of a turn, one per destination and lane, and which destinations can be reached.
//!
//! Messages for a node whose link is down are dropped here, before anything is encoded: Raft and
//! the request router both repeat what matters. Sibling cores are always reachable.

use super::frames::FrameBuilder;
use crate::contract::{Lane, OutFrame, Outputs};
use crate::ids::{Address, CoreIndex, NodeId, ShardId};
use crate::placement::Placement;

/// A frame that has grown to this many bytes is closed, and the next message begins another: a
/// receiver works a frame off at once, and only when it is there as a whole.
const FRAME_BYTES_MAX: usize = 256 << 10;

/// All frames being built on one core.
#[derive(Debug)]
pub struct Outbox {
    own: Address,
    placement: Placement,
    /// Cores of each node, by position in the placement's member list.
    cores: Vec<u16>,
    /// Sorted by address and lane.
    frames: Vec<((Address, Lane), FrameBuilder)>,
    /// Frames of this turn that were closed because of their size.
    closed: Vec<OutFrame>,
    /// Links that are up, sorted.
    links: Vec<Address>,
    /// Cores to which outcomes were lost, sorted. They are told when their link is up again.
    owed: Vec<Address>,
}

impl Outbox {
    /// Nothing to send, nothing linked, and every node assumed to have as many cores as this one.
    pub fn new(own: Address, cores: u16, placement: Placement) -> Self {
        let cores = vec![cores.max(1); placement.nodes().len()];
        Outbox {
            own,
            placement,
            cores,
            frames: Vec::new(),
            closed: Vec::new(),
            links: Vec::new(),
            owed: Vec::new(),
        }
    }

    fn position(&self, node: NodeId) -> Option<usize> {
        self.placement.nodes().binary_search(&node).ok()
    }

    /// Notes that a link is up; says whether the node's number of cores has changed with it.
    pub fn link_up(&mut self, to: Address, cores: u16) -> bool {
        if let Err(place) = self.links.binary_search(&to) {
            self.links.insert(place, to);
        }
        if let Ok(place) = self.owed.binary_search(&to) {
            self.owed.remove(place);
            if let Some(frame) = self.frame(to, Lane::Turn) {
                frame.replies_lost();
            }
        }
        let Some(position) = self.position(to.node) else { return false };
        let changed = self.cores[position] != cores.max(1);
        self.cores[position] = cores.max(1);
        changed
    }

    /// Notes that a link is down, and forgets what was gathered for it.
    pub fn link_down(&mut self, to: Address) {
        self.owe(to);
        if let Ok(place) = self.links.binary_search(&to) {
            self.links.remove(place);
        }
        self.frames.retain(|((address, _), _)| *address != to);
        self.closed.retain(|frame| frame.to != to);
    }

    /// Addresses of all links that are up.
    pub fn links(&self) -> &[Address] {
        &self.links
    }

    /// Whether frames can be sent to `to`.
    pub fn reaches(&self, to: Address) -> bool {
        to.node == self.own.node || self.links.binary_search(&to).is_ok()
    }

    /// Number of cores `node` is known to have.
    pub fn cores_of(&self, node: NodeId) -> u16 {
        self.position(node).map_or(1, |position| self.cores[position])
    }

    /// Where `shard` lives on `node`.
    pub fn home(&self, shard: ShardId, node: NodeId) -> Address {
        Address { node, core: self.placement.core(shard, self.cores_of(node)) }
    }

    /// The frame for `to`, unless it cannot be reached.
    pub fn frame(&mut self, to: Address, lane: Lane) -> Option<&mut FrameBuilder> {
        if !self.reaches(to) {
            return None;
        }
        let key = (to, lane);
        let place = match self.frames.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(place) => place,
            Err(place) => {
                self.frames.insert(place, (key, FrameBuilder::default()));
                place
            }
        };
        let builder = &mut self.frames[place].1;
        if builder.len() >= FRAME_BYTES_MAX {
            let bytes = builder.take(Vec::new());
            self.closed.push(OutFrame { to, lane, bytes });
        }
        Some(builder)
    }

    /// A frame of its own for a message that is long: what was gathered before does not wait until
    /// all of it has arrived.
    pub fn new_frame(&mut self, to: Address, lane: Lane) -> Option<&mut FrameBuilder> {
        if let Ok(place) = self.frames.binary_search_by_key(&(to, lane), |(key, _)| *key)
            && !self.frames[place].1.is_empty()
        {
            let bytes = self.frames[place].1.take(Vec::new());
            self.closed.push(OutFrame { to, lane, bytes });
        }
        self.frame(to, lane)
    }

    /// The frame for outcomes that `to` waits for, unless it cannot be reached; then it will be
    /// told that some were lost.
    pub fn reply_frame(&mut self, to: Address) -> Option<&mut FrameBuilder> {
        if !self.reaches(to) {
            self.owe(to);
        }
        self.frame(to, Lane::Turn)
    }

    fn owe(&mut self, to: Address) {
        if let Err(place) = self.owed.binary_search(&to) {
            self.owed.insert(place, to);
        }
    }

    /// The frames for all other cores of this node.
    pub fn for_each_sibling(&mut self, mut fill: impl FnMut(&mut FrameBuilder)) {
        for core in (0..self.cores_of(self.own.node)).map(CoreIndex) {
            if core != self.own.core
                && let Some(frame) = self.frame(Address { node: self.own.node, core }, Lane::Turn)
            {
                fill(frame);
            }
        }
    }

    /// Hands all frames over to the driver.
    pub fn flush(&mut self, outputs: &mut Outputs) {
        outputs.frames.append(&mut self.closed);
        for ((to, lane), builder) in &mut self.frames {
            if !builder.is_empty() {
                let spare = outputs.spare.pop().unwrap_or_default();
                let bytes = builder.take(spare);
                outputs.frames.push(OutFrame { to: *to, lane: *lane, bytes });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::frames::{Message, Messages, SnapshotChunk};
    use crate::ids::ReplicaId;

    #[test]
    fn what_was_gathered_before_a_long_message_does_not_wait_for_it() {
        let placement = Placement::new(vec![NodeId(1), NodeId(2)], 1).expect("a layout");
        let own = Address { node: NodeId(1), core: CoreIndex(0) };
        let to = Address { node: NodeId(2), core: CoreIndex(0) };
        let mut outbox = Outbox::new(own, 1, placement);
        assert!(outbox.new_frame(to, Lane::Turn).is_none(), "there is no link");
        outbox.link_up(to, 1);
        outbox.frame(to, Lane::Turn).expect("a link").draining();
        outbox.new_frame(to, Lane::Turn).expect("a link").replies_lost();
        let mut outputs = Outputs::default();
        outbox.flush(&mut outputs);
        let first = |place: usize| Messages::new(&outputs.frames[place].bytes).next();
        assert_eq!(outputs.frames.len(), 2);
        assert!(matches!(first(0), Some(Ok(Message::Draining))));
        assert!(matches!(first(1), Some(Ok(Message::RepliesLost))));
    }

    #[test]
    fn a_large_turn_leaves_in_several_frames_in_order() {
        let nodes = vec![NodeId(1), NodeId(2)];
        let placement = Placement::new(nodes, 1).expect("a layout");
        let own = Address { node: NodeId(1), core: CoreIndex(0) };
        let to = Address { node: NodeId(2), core: CoreIndex(0) };
        let mut outbox = Outbox::new(own, 1, placement);
        outbox.link_up(to, 1);
        let bytes = vec![7; 1 << 20];
        for transfer in 0..40 {
            let frame = outbox.frame(to, Lane::Turn).expect("a link");
            frame.snapshot_chunk(&SnapshotChunk {
                shard: ShardId(0),
                transfer,
                to: ReplicaId(1),
                offset: 0,
                total: 1,
                raft: &[],
                bytes: &bytes,
            });
        }
        let mut outputs = Outputs::default();
        outbox.flush(&mut outputs);
        assert!(outputs.frames.len() > 3);
        let mut transfers = Vec::new();
        for frame in &outputs.frames {
            assert!(frame.bytes.len() < FRAME_BYTES_MAX + bytes.len() + 1_000);
            for message in Messages::new(&frame.bytes) {
                if let Ok(Message::SnapshotChunk(chunk)) = message {
                    transfers.push(chunk.transfer);
                }
            }
        }
        assert_eq!(transfers, (0..40).collect::<Vec<_>>());
    }
}
