//! Links between cores: delay, partitions, resets, and mischief with single Raft messages.
//!
//! A link is directed and keeps the contract of a stream: its frames arrive in order, or it goes
//! down. A *blocked* link holds what arrives and, if the block ends soon enough, hands it over
//! late; after a while without a sign it is given up with everything it holds, as a transport that
//! repeats would do. A *cut* link is reset at once. Only Raft messages, which Raft itself secures,
//! are also lost, doubled and delayed one by one.
//!
//! Frames of a node's former life are not delivered to a core that has seen its newer one.

use std::collections::{BTreeMap, VecDeque};

use shards::contract::Lane;
use shards::engine::frames::{Message, Messages};
use shards::ids::{Address, NodeId};

use crate::options::{Faults, MILLI, Options};
use crate::random::Random;

/// The two ends of a link: sender and receiver.
pub type Ends = (Address, Address);

/// A frame on its way.
#[derive(Clone, Debug)]
pub struct Flight {
    /// Who sent it, and to whom.
    pub ends: Ends,
    /// On which of the link's connections; `None` for a Raft message on its own.
    pub connection: Option<u64>,
    /// The sender's life.
    pub sender_life: u64,
    /// The receiver's life.
    pub receiver_life: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// One directed link.
#[derive(Debug, Default)]
pub struct Link {
    /// Whether frames can be sent.
    pub is_up: bool,
    /// What the sender was told last.
    pub told_up: bool,
    /// The connection that is up, or was last.
    pub connection: u64,
    /// Whether an attempt to connect is under way.
    pub connects: bool,
    /// Frames that arrived while the link was blocked.
    pub held: VecDeque<Flight>,
    /// When the last frame of each lane arrives.
    pub last_arrival: [u64; 2],
}

/// All links, and who is cut off from whom.
#[derive(Debug)]
pub struct Network {
    /// By their ends.
    pub links: BTreeMap<Ends, Link>,
    blocked: BTreeMap<(NodeId, NodeId), u32>,
    random: Random,
    mischief: Random,
    delay_min: u64,
    delay_mean: u64,
    faults: Faults,
    /// Raft messages lost, doubled and delayed.
    pub mischiefs: u64,
}

impl Network {
    /// No links yet.
    pub fn new(options: &Options) -> Self {
        Network {
            links: BTreeMap::new(),
            blocked: BTreeMap::new(),
            random: Random::stream(options.seed, "network"),
            mischief: Random::stream(options.seed, "raft messages"),
            delay_min: options.delay_min,
            delay_mean: options.delay_mean,
            faults: options.faults.clone(),
            mischiefs: 0,
        }
    }

    /// Ends the mischief with single messages.
    pub fn calm(&mut self) {
        self.faults.raft_drop = 0;
        self.faults.raft_duplicate = 0;
        self.faults.raft_delay = 0;
    }

    /// Whether nothing gets from one node to the other.
    pub fn is_blocked(&self, from: NodeId, to: NodeId) -> bool {
        self.blocked.get(&(from, to)).is_some_and(|&count| count > 0)
    }

    /// Blocks a direction once more.
    pub fn block(&mut self, from: NodeId, to: NodeId) {
        *self.blocked.entry((from, to)).or_insert(0) += 1;
    }

    /// Takes a block back.
    pub fn unblock(&mut self, from: NodeId, to: NodeId) {
        if let Some(count) = self.blocked.get_mut(&(from, to)) {
            *count = count.saturating_sub(1);
        }
    }

    /// When something sent now arrives.
    fn delay(&mut self) -> u64 {
        self.delay_min + self.random.around(self.delay_mean)
    }

    /// Sends a frame; returns when which pieces arrive.
    pub fn send(&mut self, now: u64, lane: Lane, flight: Flight) -> Vec<(u64, Flight)> {
        let delay = self.delay();
        let is_local = flight.ends.0.node == flight.ends.1.node;
        let delay = if is_local { delay.min(MILLI) / 10 + 1 } else { delay };
        let mut arrivals = Vec::new();
        let bytes =
            if is_local { flight.bytes.clone() } else { self.meddle(now, &flight, &mut arrivals) };
        let Some(link) = self.links.get_mut(&flight.ends) else { return Vec::new() };
        if !link.is_up {
            return Vec::new();
        }
        if !bytes.is_empty() {
            let last = &mut link.last_arrival[usize::from(lane == Lane::Bulk)];
            let at = (now + delay).max(*last + 1);
            *last = at;
            let connection = Some(link.connection);
            arrivals.push((at, Flight { connection, bytes, ..flight }));
        }
        arrivals
    }

    /// Takes single Raft messages out of a frame, and returns what is left of it.
    fn meddle(&mut self, now: u64, flight: &Flight, arrivals: &mut Vec<(u64, Flight)>) -> Vec<u8> {
        if self.faults.raft_drop + self.faults.raft_duplicate + self.faults.raft_delay == 0 {
            return flight.bytes.clone();
        }
        let mut rest = Vec::with_capacity(flight.bytes.len());
        let mut start = 0;
        for message in Messages::new(&flight.bytes) {
            // A message is its kind (1 byte), its length (4 bytes) and as many bytes more.
            let length = flight.bytes[start + 1..start + 5].try_into().map(u32::from_le_bytes);
            let end = start + 5 + length.expect("four bytes") as usize;
            let bytes = &flight.bytes[start..end];
            start = end;
            let is_raft = matches!(message, Ok(Message::Raft(..)));
            let mut stays = true;
            if is_raft {
                stays = !self.mischief.chance(self.faults.raft_drop);
                let is_late = stays && self.mischief.chance(self.faults.raft_delay);
                let is_doubled = self.mischief.chance(self.faults.raft_duplicate);
                stays &= !is_late;
                for _ in 0..u8::from(is_late) + u8::from(is_doubled) {
                    let lasts = self.mischief.around(self.faults.raft_delay_lasts);
                    let at = now + self.delay_min + lasts;
                    let (connection, bytes) = (None, bytes.to_vec());
                    arrivals.push((at, Flight { connection, bytes, ..flight.clone() }));
                }
                self.mischiefs += u64::from(!stays || is_doubled);
            }
            if stays {
                rest.extend_from_slice(bytes);
            }
        }
        rest
    }
}
