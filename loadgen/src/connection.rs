//! One connection: a non-blocking socket, what is to be sent, and which requests are in flight.
//!
//! Requests gather in one buffer and leave in one write. Received bytes are read into a large
//! buffer that all connections of a thread share, and parsed there; only an unfinished reply is
//! kept with its connection. Both protocols answer in order, so the oldest request in flight is
//! the one an answer belongs to; the binary protocol's opaque proves it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;

use client::{Answer, Decoded, Protocol};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

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
pub struct Connection {
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
    /// What it says first, each time it is made.
    greeting: Option<&'static [u8]>,
    stream: Option<TcpStream>,
    output: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    needed: usize,
    in_flight: VecDeque<Flight>,
    next_opaque: u32,
}

impl Connection {
    /// A connection to be opened, which says `greeting` first.
    pub fn new(endpoint: usize, greeting: Option<&'static [u8]>) -> Connection {
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
            greeting,
            stream: None,
            output: Vec::new(),
            sent: 0,
            input: Vec::new(),
            needed: 0,
            in_flight: VecDeque::new(),
            next_opaque: 0,
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
        if let Some(greeting) = self.greeting {
            self.push_encoded(greeting, Purpose::Greeting, now_ns);
        }
        Ok(true)
    }

    /// Drops the socket and what it carried; returns the requests without an answer.
    pub fn close(&mut self, retry_at_ns: u64) -> VecDeque<Flight> {
        self.state = State::Closed { retry_at_ns };
        self.stream = None;
        self.output.clear();
        self.input.clear();
        (self.sent, self.needed, self.next_opaque) = (0, 0, 0);
        std::mem::take(&mut self.in_flight)
    }

    /// How many requests are in flight.
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether it can take a request now, `pipeline` being the most in flight.
    #[inline]
    pub fn has_room(&self, pipeline: usize) -> bool {
        self.state == State::Open
            && self.in_flight.len() < pipeline
            && self.output.len() - self.sent < UNSENT_BYTES_MAX
    }

    /// Whether there is something to send.
    #[inline]
    pub fn has_output(&self) -> bool {
        self.sent < self.output.len()
    }

    /// Takes an operation.
    #[inline]
    pub fn push(&mut self, flight: Flight, kind: Kind, workload: &Workload, now_ns: u64) {
        workload.encode(flight.key, kind, self.next_opaque, &mut self.output);
        self.track(flight, now_ns);
    }

    /// Takes an encoded request for a purpose of the generator's own.
    pub fn push_encoded(&mut self, request: &[u8], purpose: Purpose, now_ns: u64) {
        self.output.extend_from_slice(request);
        let flight = Flight { intended_ns: now_ns, key: 0, purpose, redirects: 0, slot: 0 };
        self.track(flight, now_ns);
    }

    #[inline]
    fn track(&mut self, flight: Flight, now_ns: u64) {
        self.next_opaque = self.next_opaque.wrapping_add(1);
        if self.in_flight.is_empty() {
            self.progress_ns = now_ns;
        }
        self.in_flight.push_back(flight);
    }

    /// Sends as far as that goes without waiting; returns how many bytes.
    pub fn flush(&mut self) -> Result<u64, Broken> {
        self.dirty = false;
        let Some(stream) = &mut self.stream else { return Ok(0) };
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
        protocol: Protocol,
        received: &[u8],
        now_ns: u64,
        mut take: impl FnMut(Flight, Answer<'_>),
    ) -> Result<(), Broken> {
        if self.input.is_empty() {
            let used = self.parse(protocol, received, now_ns, &mut take)?;
            self.input.extend_from_slice(received.get(used..).unwrap_or_default());
            return Ok(());
        }
        self.input.extend_from_slice(received);
        if self.input.len() < self.needed {
            return Ok(());
        }
        let mut input = std::mem::take(&mut self.input);
        let used = self.parse(protocol, &input, now_ns, &mut take)?;
        input.drain(..used);
        self.input = input;
        Ok(())
    }

    fn parse(
        &mut self,
        protocol: Protocol,
        input: &[u8],
        now_ns: u64,
        take: &mut impl FnMut(Flight, Answer<'_>),
    ) -> Result<usize, Broken> {
        let mut used = 0;
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty()) {
            match protocol.decode(rest).map_err(|_| Broken::Malformed)? {
                Decoded::Incomplete { needed } if needed > client::ANSWER_BYTES_MAX => {
                    return Err(Broken::Malformed);
                }
                Decoded::Incomplete { needed } => {
                    self.needed = needed;
                    return Ok(used);
                }
                Decoded::Push { consumed } => used += consumed,
                Decoded::Answer { answer, opaque, consumed } => {
                    used += consumed;
                    let expected = self.next_opaque.wrapping_sub(self.in_flight.len() as u32);
                    let flight = self.in_flight.pop_front().ok_or(Broken::Malformed)?;
                    if opaque.is_some_and(|opaque| opaque != expected) {
                        // Its request is not answered by this; it ends with the connection.
                        self.in_flight.push_front(flight);
                        return Err(Broken::Malformed);
                    }
                    self.progress_ns = now_ns;
                    take(flight, answer);
                }
            }
        }
        self.needed = 0;
        Ok(used)
    }
}
