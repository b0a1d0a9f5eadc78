//! One connection: a non-blocking socket, what is to be sent, and how it stands.
//!
//! Requests gather in one buffer and leave in one write. Received bytes are read into a large
//! buffer that all connections of a thread share. What they mean, and which requests are in
//! flight, is known to the connection's [`Wire`].

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;

use client::Answer;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::wire::Wire;
use crate::workload::{Kind, Workload};

/// Unsent bytes above which a connection takes no further request. One large value may exceed
/// it; many cannot.
pub const UNSENT_BYTES_MAX: usize = 1 << 20;
/// Bytes of the read buffer of a thread: many pipelines of replies, still within a core's cache.
pub const READ_BUFFER_BYTES: usize = 256 << 10;

/// What a request in flight is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A measured operation.
    Operation(Kind),
    /// ASKING, ahead of a redirected operation.
    Asking,
    /// What a connection says first.
    Greeting,
    /// CLUSTER SLOTS.
    Map,
}

/// A request in flight or waiting to be.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// When it was meant to start, in nanoseconds from the start of the run.
    pub intended_ns: u64,
    /// Its key.
    pub key: u64,
    /// What it is for.
    pub purpose: Purpose,
    /// How often it was redirected.
    pub redirects: u8,
    /// The slot of its key, as soon as it has been routed in a cluster.
    pub slot: u16,
}

/// How a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not connected; to be opened at a time, if ever.
    Closed {
        /// When, in nanoseconds from the start of the run.
        retry_at_ns: u64,
    },
    /// Being connected, and given up at a time.
    Connecting {
        /// When, in nanoseconds from the start of the run.
        give_up_at_ns: u64,
    },
    /// In use.
    Open,
}

/// Why a connection is over.
#[derive(Debug)]
pub enum Broken {
    /// The peer closed it, or the system says it is gone.
    Lost,
    /// What came is no reply to what was sent.
    Malformed,
}

/// A connection, through all its lives.
#[derive(Debug)]
pub struct Connection<W> {
    /// Which server it is to.
    pub endpoint: usize,
    /// How it stands.
    pub state: State,
    /// Attempts to connect since it was last open.
    pub attempts: u32,
    /// When a reply last came, or the first request was sent after a silence.
    pub progress_ns: u64,
    /// A start that was due before this was held up by this connection, not by the generator.
    pub excused_until_ns: u64,
    /// Whether its endpoint lists it as able to take requests.
    pub listed: bool,
    /// Whether it is noted as having something to send.
    pub dirty: bool,
    /// Requests of a trace that wait for room here, because their keys belong to it. Whoever adds
    /// to it bounds it.
    pub waiting: VecDeque<Flight>,
    /// Since when the first of them waits to be the next, or for a new connection to be made.
    pub waiting_since_ns: u64,
    stream: Option<TcpStream>,
    output: Vec<u8>,
    sent: usize,
    wire: W,
}

impl<W: Wire> Connection<W> {
    /// A connection to be opened, which will speak like this.
    pub fn new(endpoint: usize, wire: W) -> Connection<W> {
        Connection {
            endpoint,
            state: State::Closed { retry_at_ns: 0 },
            attempts: 0,
            progress_ns: 0,
            excused_until_ns: 0,
            listed: false,
            dirty: false,
            waiting: VecDeque::new(),
            waiting_since_ns: 0,
            stream: None,
            output: Vec::new(),
            sent: 0,
            wire,
        }
    }

    /// Lets a request wait for room.
    pub fn wait(&mut self, flight: Flight, now_ns: u64) {
        if self.waiting.is_empty() {
            self.waiting_since_ns = now_ns;
        }
        self.waiting.push_back(flight);
    }

    /// The request that has waited longest, if one does.
    pub fn next_waiting(&mut self, now_ns: u64) -> Option<Flight> {
        self.waiting_since_ns = now_ns;
        self.waiting.pop_front()
    }

    /// Starts to connect.
    pub fn open(
        &mut self,
        address: SocketAddr,
        registry: &Registry,
        token: Token,
        give_up_at_ns: u64,
    ) -> io::Result<()> {
        self.attempts += 1;
        let mut stream = TcpStream::connect(address)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(stream);
        self.state = State::Connecting { give_up_at_ns };
        Ok(())
    }

    /// Looks whether the connection is made. True as soon as it is.
    pub fn finish_opening(&mut self, now_ns: u64) -> io::Result<bool> {
        let Some(stream) = &self.stream else { return Ok(false) };
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(false),
            Err(error) => return Err(error),
        }
        stream.set_nodelay(true)?;
        self.state = State::Open;
        self.attempts = 0;
        self.progress_ns = now_ns;
        self.excused_until_ns = now_ns;
        self.wire.begin(now_ns, &mut self.output)?;
        Ok(true)
    }

    /// Drops the socket and what it carried; returns the requests without an answer.
    pub fn close(&mut self, retry_at_ns: u64) -> VecDeque<Flight> {
        self.state = State::Closed { retry_at_ns };
        self.stream = None;
        self.output.clear();
        self.sent = 0;
        self.wire.end()
    }

    /// How many requests are in flight.
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.wire.in_flight()
    }

    /// Since when a reply is owed, where one is.
    pub fn owes_since_ns(&self) -> u64 {
        self.wire.owes_since_ns(self.progress_ns)
    }

    /// Whether it can take a request now, `pipeline` being the most in flight.
    #[inline]
    pub fn has_room(&self, pipeline: usize) -> bool {
        self.state == State::Open
            && self.wire.in_flight() < pipeline
            && self.output.len() - self.sent < UNSENT_BYTES_MAX
    }

    /// Whether there is something to send.
    #[inline]
    pub fn has_output(&self) -> bool {
        self.sent < self.output.len() || self.wire.has_output()
    }

    /// Takes an operation.
    #[inline]
    pub fn push(&mut self, flight: Flight, kind: Kind, workload: &Workload, now_ns: u64) {
        self.note_progress(now_ns);
        self.wire.push(flight, kind, workload, now_ns, &mut self.output);
    }

    /// Takes an encoded request for a purpose of the generator's own.
    pub fn push_encoded(&mut self, request: &[u8], purpose: Purpose, now_ns: u64) {
        self.note_progress(now_ns);
        self.wire.push_encoded(request, purpose, now_ns, &mut self.output);
    }

    #[inline]
    fn note_progress(&mut self, now_ns: u64) {
        if self.wire.in_flight() == 0 {
            self.progress_ns = now_ns;
        }
    }

    /// Sends as far as that goes without waiting; returns how many bytes.
    pub fn flush(&mut self) -> Result<u64, Broken> {
        self.dirty = false;
        let Some(stream) = &mut self.stream else { return Ok(0) };
        self.wire.gather(&mut self.output)?;
        let mut total = 0;
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match stream.write(rest) {
                Ok(0) => return Err(Broken::Lost),
                Ok(sent) => {
                    self.sent += sent;
                    total += sent as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Keeps the buffer from growing for ever behind a slow reader.
                    self.output.drain(..self.sent);
                    self.sent = 0;
                    return Ok(total);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Broken::Lost),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(total)
    }

    /// Receives once. Returns the number of bytes in `buffer`, or none if there are none now.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Broken> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        loop {
            return match stream.read(buffer) {
                Ok(0) => Err(Broken::Lost),
                Ok(received) => Ok(Some(received)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => Err(Broken::Lost),
            };
        }
    }

    /// Takes received bytes apart. Each answer goes to `take` with its request.
    pub fn answers(
        &mut self,
        received: &[u8],
        now_ns: u64,
        take: impl FnMut(Flight, Answer<'_>),
    ) -> Result<(), Broken> {
        self.wire.answers(received, now_ns, &mut self.progress_ns, take)
    }
}
