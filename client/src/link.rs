//! One connection to a server: a non-blocking socket and its [`Channel`].

use std::io::{self, Read, Write};
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::address::Address;
use crate::channel::{Channel, ChannelError, Ticket};
use crate::wire::Answer;

/// A connection, perhaps still being made.
#[derive(Debug)]
pub(crate) struct Link {
    pub address: Address,
    pub channel: Channel,
    stream: TcpStream,
    connected: bool,
    connect_deadline: Instant,
}

/// How a link stands after it was driven.
#[derive(Debug)]
pub(crate) enum LinkState {
    /// Go on.
    Alive,
    /// The connection was never made; the server has seen nothing.
    NeverMade(io::Error),
    /// It ended: the peer closed it, or it broke.
    Lost,
    /// The server's bytes make no sense.
    Garbled(ChannelError),
}

enum Received {
    Open,
    Closed,
}

enum ReceiveError {
    Socket,
    Channel(ChannelError),
}

impl Link {
    /// Starts to connect.
    pub fn open(
        address: &Address,
        channel: Channel,
        registry: &Registry,
        token: Token,
        connect_deadline: Instant,
    ) -> io::Result<Link> {
        let mut stream = TcpStream::connect(address.resolve()?)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Link { address: address.clone(), channel, stream, connected: false, connect_deadline })
    }

    /// Whether the server can have seen anything of what the channel took.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// When a link that is not connected is given up.
    pub fn connect_deadline(&self) -> Option<Instant> {
        (!self.connected).then_some(self.connect_deadline)
    }

    /// Connects and sends as far as that goes without waiting.
    pub fn send(&mut self, now: Instant) -> LinkState {
        if !self.connected {
            match self.finish_connecting() {
                Ok(true) => self.connected = true,
                Ok(false) if now < self.connect_deadline => return LinkState::Alive,
                Ok(false) => return LinkState::NeverMade(io::ErrorKind::TimedOut.into()),
                Err(error) => return LinkState::NeverMade(error),
            }
        }
        match self.flush() {
            Ok(()) => LinkState::Alive,
            Err(_) => LinkState::Lost,
        }
    }

    /// Sends and receives as far as that goes without waiting. Every answer goes to `take` as
    /// soon as it is whole, so that no more than one unfinished answer is kept.
    pub fn drive(&mut self, now: Instant, take: impl FnMut(Ticket, Answer<'_>)) -> LinkState {
        let sent = self.send(now);
        if !self.connected || matches!(sent, LinkState::NeverMade(_)) {
            return sent;
        }
        // A peer that refuses more may have answered before: what it said comes first.
        match self.receive(take) {
            Ok(Received::Open) => sent,
            Ok(Received::Closed) | Err(ReceiveError::Socket) => LinkState::Lost,
            Err(ReceiveError::Channel(error)) => LinkState::Garbled(error),
        }
    }

    fn finish_connecting(&self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => self.stream.set_nodelay(true).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.channel.output().is_empty() {
            match self.stream.write(self.channel.output()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => self.channel.advance_output(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive(
        &mut self,
        mut take: impl FnMut(Ticket, Answer<'_>),
    ) -> Result<Received, ReceiveError> {
        let mut chunk = [0; 64 << 10];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(Received::Closed),
                Ok(received) => {
                    self.channel.receive(chunk.get(..received).unwrap_or_default());
                    while let Some((ticket, answer)) = self.channel.next_answer()? {
                        take(ticket, answer);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Received::Open);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(ReceiveError::Socket),
            }
        }
    }
}

impl From<ChannelError> for ReceiveError {
    fn from(error: ChannelError) -> ReceiveError {
        ReceiveError::Channel(error)
    }
}
