//! One client connection as a state machine without IO: bytes in, requests to the engine, the
//! engine's replies in, bytes out.
//!
//! The core loop owns the socket. It calls [`Session::receive`] with what it has read and keeps
//! what was not consumed, hands the batch of requests to the engine, calls [`Session::reply`] for
//! each reply, and sends [`Session::output`] once per turn. The first byte tells the protocol:
//! 0x80 is memcached's binary protocol, 0x16 a TLS handshake (which ends the connection, as there
//! is no TLS), anything else RESP.
//!
//! Limits: a session takes no input while it has 1,024 requests under way or 1 MiB of replies
//! unsent, and has to be closed when it owes 64 MiB. An idle session holds no buffers.

pub mod binary;
pub mod clients;
pub mod connection;
pub mod context;
pub mod replies;
pub mod resp;

use std::net::SocketAddr;

use shards::reply::Reply;

pub use connection::{Connection, PortKind};
pub use context::{BufferPool, ServerFacts, SessionContext};

use binary::BinaryState;
use clients::ClientDirectory;
use resp::RespState;

/// The first byte of every request in memcached's binary protocol.
const BINARY_REQUEST_MAGIC: u8 = 0x80;
/// The first byte of a TLS connection: a handshake record.
const TLS_HANDSHAKE: u8 = 0x16;
/// Encoded bytes in the batch above which no more requests are added before it is handed over.
const BATCH_BYTES_MAX: usize = 64 << 20;

/// The protocol of a connection.
#[derive(Debug)]
enum Protocol {
    /// Nothing was received yet.
    Undetermined,
    /// RESP.
    Resp(Box<RespState>),
    /// memcached's binary protocol.
    Binary(Box<BinaryState>),
}

/// What became of the input given to [`Session::receive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes at the front of the input that are dealt with. The rest is given again next time.
    pub consumed: usize,
    /// How many more bytes must follow the rest before another call makes sense. Zero means that
    /// the rest may hold whole requests, which wait until [`Session::wants_input`] is true again
    /// and the batch was handed over.
    pub needed: usize,
}

/// One client connection. See the module's description.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    protocol: Protocol,
}

impl Session {
    /// A connection that was just accepted, and its entry in the directory of clients. `id` is
    /// what tokens call it.
    pub fn new(
        id: u32,
        port: PortKind,
        peer: SocketAddr,
        local: SocketAddr,
        now: shards::contract::Now,
        clients: &mut ClientDirectory,
    ) -> Self {
        let client = clients.open(now, peer, local);
        Session {
            connection: Connection::new(id, port, peer, client),
            protocol: Protocol::Undetermined,
        }
    }

    /// Takes whole requests from the front of `input`, as many as the limits allow. Requests for
    /// the engine go to the context's batch, what can be answered here is answered in its place.
    ///
    /// After the connection has begun to close, all input is consumed and ignored.
    pub fn receive(&mut self, input: &[u8], context: &mut SessionContext<'_>) -> Received {
        if matches!(self.protocol, Protocol::Undetermined) {
            self.protocol = match input.first() {
                None => return Received { consumed: 0, needed: 1 },
                Some(&BINARY_REQUEST_MAGIC) => Protocol::Binary(Box::default()),
                Some(&TLS_HANDSHAKE) => {
                    refuse_foreign_protocol(&mut self.connection, "TLS", context);
                    Protocol::Undetermined
                }
                Some(_) => Protocol::Resp(Box::default()),
            };
        }
        if !self.connection.is_open() {
            return Received { consumed: input.len(), needed: 1 };
        }
        let received = match &mut self.protocol {
            Protocol::Undetermined => Received { consumed: 0, needed: 1 },
            Protocol::Resp(state) => state.receive(&mut self.connection, input, context),
            Protocol::Binary(state) => state.receive(&mut self.connection, input, context),
        };
        if self.connection.is_open() {
            received
        } else {
            // What follows a QUIT or a protocol error must never be taken for requests.
            Received { consumed: input.len(), needed: 1 }
        }
    }

    /// Takes the engine's reply to a request of this session, in any order. `value` is what
    /// `Replies::value` has for it.
    pub fn reply(&mut self, reply: &Reply, value: Option<&[u8]>, buffers: &mut BufferPool) {
        self.connection.replies.reply(reply, value, buffers);
    }

    /// The client will send no more: what it has sent is answered, then the connection closes.
    /// Also how a server that shuts down ends its connections.
    pub fn end_of_input(&mut self) {
        self.connection.close_after_replies();
    }

    /// Bytes that are ready to be sent.
    pub fn output(&self) -> &[u8] {
        self.connection.replies.output()
    }

    /// Drops the first `count` bytes of [`output`](Self::output), which have been sent.
    pub fn consume_output(&mut self, count: usize, buffers: &mut BufferPool) {
        self.connection.replies.consume_output(count, buffers);
    }

    /// Whether requests would be taken now. While it is false the socket is not read, so that TCP
    /// slows the client down.
    pub fn wants_input(&self) -> bool {
        self.connection.wants_input()
    }

    /// Whether to close the connection as soon as [`output`](Self::output) has been sent.
    pub fn is_closing(&self) -> bool {
        self.connection.is_closing()
    }

    /// Whether to close the connection at once, with output unsent.
    pub fn is_aborted(&self) -> bool {
        self.connection.is_aborted()
    }

    /// Whether a request has begun and its end is owed by the client: such a connection must not
    /// stay so for ever.
    pub fn is_within_request(&self) -> bool {
        match &self.protocol {
            Protocol::Undetermined => false,
            Protocol::Resp(state) => state.is_within_request(),
            Protocol::Binary(state) => state.is_within_request(),
        }
    }

    /// Replies the engine owes to this session.
    #[cfg(test)]
    pub fn outstanding(&self) -> u32 {
        self.connection.replies.outstanding()
    }

    /// Gives memory back; called now and then for sessions that have been idle for a while.
    pub fn trim(&mut self) {
        self.connection.replies.trim();
    }

    /// Leaves the directory of clients. Called once, when the socket is closed.
    pub fn close(&mut self, clients: &mut ClientDirectory, buffers: &mut BufferPool) {
        clients.close(self.connection.client_slot());
        let unsent = self.connection.replies.output().len();
        self.connection.replies.consume_output(unsent, buffers);
    }
}

/// Ends a connection that speaks something else, without an answer that might be taken for one.
pub(crate) fn refuse_foreign_protocol(
    connection: &mut Connection,
    name: &str,
    context: &mut SessionContext<'_>,
) {
    context.counters.protocol_errors += 1;
    let peer = connection.peer();
    tracing::debug!(%peer, protocol = name, "closed: not a protocol of this port");
    connection.abort();
}

#[cfg(test)]
pub(crate) mod tests;
