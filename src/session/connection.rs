//! What every client connection has, whatever protocol it speaks: where it comes from, its place
//! in the client directory, its reply queue, and whether it is about to close.

use std::net::SocketAddr;

use proto::limits::{OUTPUT_HIGH_WATER_BYTES, REQUESTS_IN_FLIGHT_MAX};

use crate::session::clients::{Client, ClientDirectory, ClientSlot};
use crate::session::replies::ReplyQueue;

/// Which kind of listener a connection came in at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// The node's any-core port: every key is served, wherever it lives.
    AnyCore,
    /// A core's own port: what the core does not lead is redirected.
    Core,
}

/// How far a connection is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It takes input.
    Open,
    /// It takes no more input and closes when everything is answered and flushed.
    Draining,
    /// It is to be closed at once.
    Aborted,
}

/// The protocol-neutral half of a session.
#[derive(Debug)]
pub struct Connection {
    port: PortKind,
    peer: SocketAddr,
    client: ClientSlot,
    phase: Phase,
    /// Where replies are put in order.
    pub replies: ReplyQueue,
}

impl Connection {
    pub(super) fn new(id: u32, port: PortKind, peer: SocketAddr, client: ClientSlot) -> Self {
        Connection { port, peer, client, phase: Phase::Open, replies: ReplyQueue::new(id) }
    }

    /// Where it came in.
    pub fn port(&self) -> PortKind {
        self.port
    }

    /// The client's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Its place in the directory of clients.
    pub fn client_slot(&self) -> ClientSlot {
        self.client
    }

    /// Its entry in the directory of clients.
    pub fn client<'a>(&self, clients: &'a mut ClientDirectory) -> Option<&'a mut Client> {
        clients.get_mut(self.client)
    }

    /// Takes no more input: what was taken is answered, then the connection closes.
    pub fn close_after_replies(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Draining;
        }
    }

    /// Closes the connection without another word.
    pub fn abort(&mut self) {
        self.phase = Phase::Aborted;
    }

    /// Whether it takes input at all, now or later.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether to close at once: aborted, or it owes more than a connection may.
    pub fn is_aborted(&self) -> bool {
        self.phase == Phase::Aborted || self.replies.is_overflowed()
    }

    /// Whether everything is answered and the connection closes once the output is flushed.
    pub fn is_closing(&self) -> bool {
        self.is_aborted() || (self.phase == Phase::Draining && self.replies.slots_len() == 0)
    }

    /// Whether another request may be taken now.
    pub fn wants_input(&self) -> bool {
        self.phase == Phase::Open
            && self.replies.slots_len() < REQUESTS_IN_FLIGHT_MAX
            && self.replies.outstanding() < REQUESTS_IN_FLIGHT_MAX as u32
            && self.replies.buffered_bytes() < OUTPUT_HIGH_WATER_BYTES
            && !self.replies.is_overflowed()
    }
}
