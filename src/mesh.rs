//! The channels between the cores of a node: whole frames, at most one per pair and turn.
//!
//! Between each two cores there is one bounded queue in each direction with one sender and one
//! receiver, so that a core that is slow stands in nobody's way but its own. The receiver takes
//! everything that waits before its turn.
//!
//! The engine counts on these links never to lose a frame: the answer of a sibling may be the
//! only news of a write. A frame that finds its queue full is therefore kept by the sender and
//! goes first in a later turn. What may pile up there is bounded at its source: while any
//! sibling is behind, [`MeshPort::is_congested`] keeps the core from reading client input, so that
//! only the answers to what is already under way are added.
//!
//! Only the end of a sibling loses frames, and a node whose core has ended is stopping.

use std::collections::VecDeque;

use shards::ids::CoreIndex;

/// Frames that wait in one direction between two cores before the sender keeps them. A receiver
/// that runs takes all of them in one turn; so many mean that it has missed as many turns.
const QUEUE_FRAMES_MAX: usize = 128;

/// One core's end of all its channels.
#[derive(Debug)]
pub struct MeshPort {
    senders: Vec<Option<Outbound>>,
    receivers: Vec<(CoreIndex, flume::Receiver<Vec<u8>>)>,
    kept_frames: usize,
}

#[derive(Debug)]
struct Outbound {
    queue: flume::Sender<Vec<u8>>,
    kept: VecDeque<Vec<u8>>,
}

/// The channels of a node with so many cores, by core.
pub fn connect(cores: u16) -> Vec<MeshPort> {
    let port = |_| MeshPort { senders: Vec::new(), receivers: Vec::new(), kept_frames: 0 };
    let mut ports: Vec<MeshPort> = (0..cores).map(port).collect();
    for from in 0..cores {
        for to in 0..cores {
            let sender = (from != to).then(|| {
                let (queue, receiver) = flume::bounded(QUEUE_FRAMES_MAX);
                ports[usize::from(to)].receivers.push((CoreIndex(from), receiver));
                Outbound { queue, kept: VecDeque::new() }
            });
            ports[usize::from(from)].senders.push(sender);
        }
    }
    ports
}

impl MeshPort {
    /// Sends a frame to a sibling, or keeps it until there is room.
    ///
    /// # Panics
    /// If `to` is this core itself or no core of this node, which the engine never asks for.
    pub fn send(&mut self, to: CoreIndex, frame: Vec<u8>) {
        let outbound = self.senders.get_mut(usize::from(to.0)).and_then(Option::as_mut);
        let outbound = outbound.expect("frames of the engine go to cores that exist");
        if !outbound.kept.is_empty() {
            outbound.kept.push_back(frame);
            self.kept_frames += 1;
            return;
        }
        match outbound.queue.try_send(frame) {
            // A sibling that has ended has no use for it: the node is stopping.
            Ok(()) | Err(flume::TrySendError::Disconnected(_)) => {}
            Err(flume::TrySendError::Full(frame)) => {
                outbound.kept.push_back(frame);
                self.kept_frames += 1;
            }
        }
    }

    /// Sends what was kept, as far as there is room now.
    pub fn send_kept(&mut self) {
        if self.kept_frames == 0 {
            return;
        }
        for outbound in self.senders.iter_mut().flatten() {
            while let Some(frame) = outbound.kept.pop_front() {
                if let Err(flume::TrySendError::Full(frame)) = outbound.queue.try_send(frame) {
                    outbound.kept.push_front(frame);
                    break;
                }
                self.kept_frames -= 1;
            }
        }
    }

    /// Whether a sibling is so far behind that its frames have to be kept here.
    pub fn is_congested(&self) -> bool {
        self.kept_frames > 0
    }

    /// The receiving ends with the core they come from. They are handed out once; the tasks that
    /// wait on them own them.
    pub fn take_receivers(&mut self) -> Vec<(CoreIndex, flume::Receiver<Vec<u8>>)> {
        std::mem::take(&mut self.receivers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_core_reaches_every_other_and_not_itself() {
        let mut ports = connect(3);
        for from in 0..3_u8 {
            for to in (0..3_u16).filter(|&to| to != u16::from(from)) {
                ports[usize::from(from)].send(CoreIndex(to), vec![from]);
            }
        }
        for (core, port) in ports.iter_mut().enumerate() {
            let receivers = port.take_receivers();
            assert_eq!(receivers.len(), 2);
            for (from, receiver) in receivers {
                assert_ne!(usize::from(from.0), core);
                assert_eq!(receiver.try_recv(), Ok(vec![from.0 as u8]));
                assert!(receiver.is_empty());
            }
        }
    }

    #[test]
    fn frames_beyond_the_queue_are_kept_and_arrive_in_order() {
        let mut ports = connect(2);
        let mut receivers = ports[1].take_receivers();
        let (_, receiver) = receivers.remove(0);
        let total = QUEUE_FRAMES_MAX * 2 + 3;
        for number in 0..total {
            ports[0].send(CoreIndex(1), number.to_le_bytes().to_vec());
            assert_eq!(ports[0].is_congested(), number >= QUEUE_FRAMES_MAX);
        }
        let mut received = Vec::new();
        while received.len() < total {
            received.extend(receiver.drain());
            ports[0].send_kept();
        }
        assert!(!ports[0].is_congested());
        let expected: Vec<_> = (0..total).map(|number| number.to_le_bytes().to_vec()).collect();
        assert_eq!(received, expected);
    }

    #[test]
    fn a_sibling_that_has_ended_takes_nothing_with_it() {
        let mut ports = connect(2);
        ports.pop();
        for _ in 0..QUEUE_FRAMES_MAX * 2 {
            ports[0].send(CoreIndex(1), Vec::new());
        }
        assert!(!ports[0].is_congested());
    }
}
