//! How a connection speaks: requests to bytes, and bytes to the answers of requests in flight.
//!
//! Sans IO. RESP and the memcached binary protocol answer in order, so the oldest request in
//! flight is the one an answer belongs to; the binary protocol's opaque proves it. What answers
//! in any order has a wire of its own. The event loop is made once for each wire, so none of them
//! costs the others anything.

use std::collections::VecDeque;
use std::io;

use client::{Address, Answer, Decoded, Protocol};

use crate::connection::{Broken, Flight, Purpose};
use crate::options::Options;
use crate::workload::{Kind, Workload};

/// How a connection speaks, and its requests in flight.
pub trait Wire {
    /// Whether bytes that were received can have others to send as their consequence.
    const ACKNOWLEDGES: bool;

    /// That of a connection to a server.
    fn new(options: &Options, address: &Address) -> Self;

    /// The connection has been made: what is said first.
    ///
    /// # Errors
    /// If nothing can be said.
    fn begin(&mut self, now_ns: u64, output: &mut Vec<u8>) -> io::Result<()>;

    /// The connection is over. Forgets everything, and returns the requests without an answer.
    fn end(&mut self) -> VecDeque<Flight>;

    /// How many requests are in flight.
    fn in_flight(&self) -> usize;

    /// Since when a reply is owed, where one is. A reply last came, or the first request was sent
    /// after a silence, at `progress_ns`.
    fn owes_since_ns(&self, progress_ns: u64) -> u64;

    /// Whether [`Wire::gather`] may add to what is to be sent.
    fn has_output(&self) -> bool;

    /// Appends what is to be sent and was not appended by [`Wire::push`].
    ///
    /// # Errors
    /// If the connection is of no more use.
    fn gather(&mut self, output: &mut Vec<u8>) -> Result<(), Broken>;

    /// Takes an operation.
    fn push(
        &mut self,
        flight: Flight,
        kind: Kind,
        workload: &Workload,
        now_ns: u64,
        output: &mut Vec<u8>,
    );

    /// Takes an encoded request for a purpose of the generator's own. Where there are none, it
    /// does nothing.
    fn push_encoded(&mut self, request: &[u8], purpose: Purpose, now_ns: u64, output: &mut Vec<u8>);

    /// Takes received bytes apart. Each answer goes to `take` with its request, and is noted as
    /// progress.
    ///
    /// # Errors
    /// If the connection is of no more use.
    fn answers(
        &mut self,
        received: &[u8],
        now_ns: u64,
        progress_ns: &mut u64,
        take: impl FnMut(Flight, Answer<'_>),
    ) -> Result<(), Broken>;
}

/// RESP or the binary protocol: answers come in the order of their requests.
#[derive(Debug)]
pub struct InOrder {
    protocol: Protocol,
    /// What a connection says first, each time it is made.
    greeting: Option<&'static [u8]>,
    input: Vec<u8>,
    needed: usize,
    in_flight: VecDeque<Flight>,
    next_opaque: u32,
}

impl Wire for InOrder {
    const ACKNOWLEDGES: bool = false;

    fn new(options: &Options, _address: &Address) -> InOrder {
        let protocol = options.mode.protocol().unwrap_or(Protocol::Resp);
        InOrder {
            protocol,
            greeting: options.read_from.greeting().filter(|_| protocol == Protocol::Resp),
            input: Vec::new(),
            needed: 0,
            in_flight: VecDeque::new(),
            next_opaque: 0,
        }
    }

    fn begin(&mut self, now_ns: u64, output: &mut Vec<u8>) -> io::Result<()> {
        if let Some(greeting) = self.greeting {
            self.push_encoded(greeting, Purpose::Greeting, now_ns, output);
        }
        Ok(())
    }

    fn end(&mut self) -> VecDeque<Flight> {
        self.input.clear();
        (self.needed, self.next_opaque) = (0, 0);
        std::mem::take(&mut self.in_flight)
    }

    #[inline]
    fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn owes_since_ns(&self, progress_ns: u64) -> u64 {
        progress_ns
    }

    #[inline]
    fn has_output(&self) -> bool {
        false
    }

    #[inline]
    fn gather(&mut self, _output: &mut Vec<u8>) -> Result<(), Broken> {
        Ok(())
    }

    #[inline]
    fn push(
        &mut self,
        flight: Flight,
        kind: Kind,
        workload: &Workload,
        _now_ns: u64,
        output: &mut Vec<u8>,
    ) {
        workload.encode(flight.key, kind, self.next_opaque, output);
        self.track(flight);
    }

    fn push_encoded(
        &mut self,
        request: &[u8],
        purpose: Purpose,
        now_ns: u64,
        output: &mut Vec<u8>,
    ) {
        output.extend_from_slice(request);
        self.track(Flight { intended_ns: now_ns, key: 0, purpose, redirects: 0, slot: 0 });
    }

    fn answers(
        &mut self,
        received: &[u8],
        now_ns: u64,
        progress_ns: &mut u64,
        mut take: impl FnMut(Flight, Answer<'_>),
    ) -> Result<(), Broken> {
        if self.input.is_empty() {
            let used = self.parse(received, now_ns, progress_ns, &mut take)?;
            self.input.extend_from_slice(received.get(used..).unwrap_or_default());
            return Ok(());
        }
        self.input.extend_from_slice(received);
        if self.input.len() < self.needed {
            return Ok(());
        }
        let mut input = std::mem::take(&mut self.input);
        let used = self.parse(&input, now_ns, progress_ns, &mut take)?;
        input.drain(..used);
        self.input = input;
        Ok(())
    }
}

impl InOrder {
    #[inline]
    fn track(&mut self, flight: Flight) {
        self.next_opaque = self.next_opaque.wrapping_add(1);
        self.in_flight.push_back(flight);
    }

    fn parse(
        &mut self,
        input: &[u8],
        now_ns: u64,
        progress_ns: &mut u64,
        take: &mut impl FnMut(Flight, Answer<'_>),
    ) -> Result<usize, Broken> {
        let mut used = 0;
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty()) {
            match self.protocol.decode(rest).map_err(|_| Broken::Malformed)? {
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
                    *progress_ns = now_ns;
                    take(flight, answer);
                }
            }
        }
        self.needed = 0;
        Ok(used)
    }
}
