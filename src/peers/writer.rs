//! The sending side of one connection between nodes: frames go out at once, and wait in a bounded
//! buffer when the socket has no room.
//!
//! A frame that would exceed the buffer breaks the connection, because the receiver could not make
//! sense of a gap. The engine takes part of what it sent for lost then, which it must be able to
//! do anyway.

use std::io::IoSlice;
use std::net::Shutdown;
use std::rc::Rc;

use crate::net::stream::{Stream, Transfer, Transport};

/// Bytes that may wait for a socket that has no room.
pub const WAITING_BYTES_MAX: usize = 64 << 20;
/// Capacity kept by a buffer that was emptied.
const KEPT_BYTES_MAX: usize = 256 << 10;

/// What a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// All of it is with the kernel.
    Sent,
    /// Some of it waits, and somebody already sees to it.
    Queued,
    /// Some of it waits: the caller waits for room and calls [`Writer::write_on`].
    NeedsRoom,
    /// It waits for a connection, which the caller opens.
    NeedsConnection,
    /// The connection is of no use any more.
    Broken(&'static str),
}

/// See the module's description.
#[derive(Debug)]
pub struct Writer {
    stream: Option<Rc<Stream>>,
    waiting: Vec<u8>,
    /// How much of the front of `waiting` has been sent.
    sent: usize,
    /// Whether somebody waits for room or a connection.
    attended: bool,
}

impl Writer {
    /// Writes to a connection.
    pub fn new(stream: Rc<Stream>) -> Self {
        Writer { stream: Some(stream), waiting: Vec::new(), sent: 0, attended: false }
    }

    /// Keeps what is written until there is a connection.
    pub fn unconnected() -> Self {
        Writer { stream: None, waiting: Vec::new(), sent: 0, attended: false }
    }

    /// Takes the connection; who opened it calls [`write_on`](Self::write_on) next.
    pub fn connect(&mut self, stream: Rc<Stream>) {
        self.stream = Some(stream);
    }

    /// The connection.
    pub fn stream(&self) -> Option<Rc<Stream>> {
        self.stream.clone()
    }

    /// Ends the connection, which wakes whoever waits on it.
    pub fn shutdown(&self) {
        if let Some(stream) = &self.stream {
            stream.shutdown(Shutdown::Both);
        }
    }

    /// Sends `header` and `body`, or lets wait what finds no room.
    pub fn write(&mut self, header: &[u8], body: &[u8]) -> Written {
        let mut done = 0;
        if self.waiting.is_empty()
            && let Some(stream) = &self.stream
        {
            match stream.send_vectored(&[IoSlice::new(header), IoSlice::new(body)]) {
                Ok(Transfer::Bytes(count)) => done = count,
                Ok(Transfer::WouldBlock) => {}
                Ok(Transfer::End) | Err(_) => return Written::Broken("the connection broke"),
            }
            if done == header.len() + body.len() {
                return Written::Sent;
            }
        }
        let more = header.len() + body.len() - done;
        if self.waiting.len() - self.sent + more > WAITING_BYTES_MAX {
            return Written::Broken("the peer does not take what it is sent");
        }
        self.waiting.extend_from_slice(&header[done.min(header.len())..]);
        self.waiting.extend_from_slice(&body[done.saturating_sub(header.len())..]);
        match (std::mem::replace(&mut self.attended, true), &self.stream) {
            (true, _) => Written::Queued,
            (false, Some(_)) => Written::NeedsRoom,
            (false, None) => Written::NeedsConnection,
        }
    }

    /// Sends what waits, as far as there is room. Only who was told to attend calls it.
    pub fn write_on(&mut self) -> Written {
        let Some(stream) = &self.stream else { return Written::NeedsConnection };
        while self.sent < self.waiting.len() {
            match stream.send(&self.waiting[self.sent..]) {
                Ok(Transfer::Bytes(count)) => self.sent += count,
                Ok(Transfer::WouldBlock) => {
                    self.drop_sent();
                    return Written::NeedsRoom;
                }
                Ok(Transfer::End) | Err(_) => return Written::Broken("the connection broke"),
            }
        }
        self.waiting.clear();
        self.waiting.shrink_to(KEPT_BYTES_MAX);
        self.sent = 0;
        self.attended = false;
        Written::Sent
    }

    /// Moves the rest to the front once at least half is sent, so that each byte moves at most
    /// once on average.
    fn drop_sent(&mut self) {
        if self.sent >= self.waiting.len() / 2 {
            self.waiting.drain(..self.sent);
            self.sent = 0;
        }
    }
}
