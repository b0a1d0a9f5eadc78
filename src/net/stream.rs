//! A connected TCP socket: receive first, wait only when there is nothing.
//!
//! The calls are plain `recv` and `send` with MSG_DONTWAIT, because a well-fed connection never
//! waits then; the executor is asked for readiness only after a call would have blocked. The two
//! calls stand behind [`Transport`], so that a completion-based one, or TLS, can take their place.
//!
//! It keeps no buffers and does not retry; EINTR alone is retried here.

use std::future::Future;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use super::readiness::{ReadySet, Registration};
use super::runtime::{Watched, with_deadline};

/// What a receive or send came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// So many bytes moved, at least one.
    Bytes(usize),
    /// None could move without waiting.
    WouldBlock,
    /// The other end sends nothing more.
    End,
}

/// The bytes that a receive has written at the front of `buffer`.
///
/// # Safety
/// All of `buffer` was written.
pub unsafe fn received(buffer: &[MaybeUninit<u8>]) -> &[u8] {
    // SAFETY: the two types have the same layout, and the caller vouches for the content.
    unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast(), buffer.len()) }
}

/// Copies `bytes` to a buffer of the same length.
///
/// # Panics
/// If the lengths differ.
pub fn fill(buffer: &mut [MaybeUninit<u8>], bytes: &[u8]) {
    assert_eq!(buffer.len(), bytes.len(), "a copy between different lengths");
    for (to, &from) in buffer.iter_mut().zip(bytes) {
        to.write(from);
    }
}

/// What moves bytes without waiting.
pub trait Transport {
    /// Fills the beginning of `buffer` with what has arrived.
    ///
    /// # Errors
    /// If the connection is broken.
    fn receive(&self, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Transfer>;

    /// Sends as much of `bytes`, which is not empty, as there is room for.
    ///
    /// # Errors
    /// If the connection is broken.
    fn send(&self, bytes: &[u8]) -> io::Result<Transfer>;

    /// Sends as much of `parts`, one after the other, as there is room for.
    ///
    /// # Errors
    /// If the connection is broken.
    fn send_vectored(&self, parts: &[IoSlice<'_>]) -> io::Result<Transfer>;
}

/// A connected TCP socket of this executor.
#[derive(Debug)]
pub struct Stream {
    pub(super) socket: Watched<Socket>,
    /// How it learns that there is something to receive, if not from the executor by itself.
    pub(super) arrivals: Option<Registration>,
}

const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

fn transfer(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<Transfer> {
    loop {
        return match call() {
            Ok(0) => Ok(Transfer::End),
            Ok(count) => Ok(Transfer::Bytes(count)),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => continue,
                io::ErrorKind::WouldBlock => Ok(Transfer::WouldBlock),
                _ => Err(error),
            },
        };
    }
}

impl Transport for Stream {
    fn receive(&self, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Transfer> {
        transfer(|| self.socket.get().recv_with_flags(buffer, libc::MSG_DONTWAIT))
    }

    fn send(&self, bytes: &[u8]) -> io::Result<Transfer> {
        transfer(|| self.socket.get().send_with_flags(bytes, SEND_FLAGS))
    }

    fn send_vectored(&self, parts: &[IoSlice<'_>]) -> io::Result<Transfer> {
        transfer(|| self.socket.get().send_vectored_with_flags(parts, SEND_FLAGS))
    }
}

impl Stream {
    /// Takes an accepted or connected socket.
    ///
    /// # Errors
    /// If the executor does not take it.
    pub fn new(socket: Socket) -> io::Result<Self> {
        Ok(Stream { socket: Watched::new(socket)?, arrivals: None })
    }

    /// Takes a socket that learns from `set` when there is something to receive.
    ///
    /// # Errors
    /// If the executor or the set does not take it.
    pub fn in_set(socket: Socket, set: &Rc<ReadySet>) -> io::Result<Self> {
        let arrivals = Some(set.register(&socket)?);
        Ok(Stream { socket: Watched::new(socket)?, arrivals })
    }

    /// Connects to `address` within `deadline`.
    ///
    /// # Errors
    /// If the connection is refused or cannot be made in time.
    pub async fn connect(address: SocketAddr, deadline: Duration) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&SockAddr::from(address)) {
            Ok(()) => return Stream::new(socket),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let stream = Stream::new(socket)?;
        match with_deadline(deadline, stream.writable()).await {
            Some(ready) => ready?,
            None => return Err(io::ErrorKind::TimedOut.into()),
        }
        match stream.socket.get().take_error()? {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    }

    /// Makes the kernel give the connection up when the other end has not acknowledged anything
    /// for `span`, whether data is under way or not. A host that vanished is noticed by this.
    ///
    /// # Errors
    /// If the socket refuses.
    pub fn give_up_after(&self, span: Duration) -> io::Result<()> {
        let probes = TcpKeepalive::new()
            .with_time(Duration::from_secs(1))
            .with_interval(Duration::from_secs(1))
            .with_retries(2);
        self.socket.get().set_tcp_keepalive(&probes)?;
        self.socket.get().set_tcp_user_timeout(Some(span))
    }

    /// Waits until a receive finds something: bytes, the end or an error. It may be woken for
    /// nothing.
    ///
    /// # Errors
    /// If the executor cannot watch the socket.
    pub async fn readable(&self) -> io::Result<()> {
        match &self.arrivals {
            Some(arrivals) => {
                arrivals.ready().await;
                Ok(())
            }
            None => self.socket.readable().await,
        }
    }

    /// Waits until a send finds room, or an error.
    ///
    /// # Errors
    /// If the executor cannot watch the socket.
    pub fn writable(&self) -> impl Future<Output = io::Result<()>> + '_ {
        self.socket.writable()
    }

    /// Ends one direction or both. Whoever waits for readability is woken by the end of reading,
    /// which is how a task that waits is told to stop. A socket that is already broken has
    /// nothing left to end, so failure is of no interest.
    pub fn shutdown(&self, how: Shutdown) {
        let _ = self.socket.get().shutdown(how);
    }

    /// The other end's address, while there is one.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.socket.get().peer_addr().ok()?.as_socket()
    }
}
