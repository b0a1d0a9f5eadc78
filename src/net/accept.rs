//! The accept loop: takes every connection that waits, and never spins when it cannot.
//!
//! Out of descriptors or memory it backs off by a timer; the waiting connections stay in the
//! kernel's backlog. Errors of a single connection (it was reset before it was accepted) concern
//! nobody else.
//!
//! A listener waits in the epoll set and not in the executor's ring. The kernel takes the rings of
//! a killed process apart after its end, and what waits in one is held so long: connections would
//! be accepted in the name of nobody, and the next process would find the port in use. On a busy
//! machine that was seen to take seconds.

use std::cell::Cell;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use socket2::Socket;

use super::listener::{BACKLOG, Listener};
use super::readiness::{ReadySet, Registration};
use super::runtime::{sleep, yield_now};

/// How long to wait after the process ran out of descriptors or the kernel out of memory.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Connections taken before the others on this core get their turn again.
const ACCEPTS_PER_WAKE: usize = 64;

/// Stops an accept loop from outside.
#[derive(Clone, Debug)]
pub struct AcceptHandle {
    port: Rc<Port>,
    stopped: Rc<Cell<bool>>,
}

/// A listening socket. The registration is dropped after it.
#[derive(Debug)]
struct Port {
    socket: Socket,
    arrivals: Registration,
}

impl AcceptHandle {
    /// Takes a listener over. It learns of connections by `set`, whose executor accepts them.
    ///
    /// # Errors
    /// If the kernel does not take the socket into the set.
    pub fn new(listener: Listener, set: &Rc<ReadySet>) -> io::Result<Self> {
        let socket = listener.into_socket();
        let arrivals = set.register(&socket)?;
        Ok(AcceptHandle { port: Rc::new(Port { socket, arrivals }), stopped: Rc::default() })
    }

    /// Accepts no more. What waits already is handed to `take`, because its peer may have asked
    /// something and would be told of a broken connection; what comes later is refused by the
    /// kernel. The loop ends.
    pub fn stop(&self, mut take: impl FnMut(Socket, Option<SocketAddr>)) {
        for _ in 0..BACKLOG as usize / ACCEPTS_PER_WAKE {
            if !matches!(self.accept_waiting(&mut take), Ok(Waiting::More)) {
                break;
            }
        }
        self.stopped.set(true);
        // A shut-down listener leaves the listening state and wakes who waits for it.
        let _ = self.port.socket.shutdown(Shutdown::Both);
    }

    /// Accepts until [`stop`](Self::stop) and hands every socket with its peer's address to `take`.
    /// `name` stands in the log for the kind of port.
    pub async fn run(self, name: &'static str, mut take: impl FnMut(Socket, Option<SocketAddr>)) {
        let mut backing_off = false;
        while !self.stopped.get() {
            match self.accept_waiting(&mut take) {
                Ok(Waiting::None) => {
                    backing_off = false;
                    self.port.arrivals.ready().await;
                }
                Ok(Waiting::More) => {
                    backing_off = false;
                    yield_now().await;
                }
                Err(error) => {
                    if self.stopped.get() {
                        return;
                    }
                    if !backing_off {
                        tracing::warn!(port = name, %error, "connections cannot be accepted");
                    }
                    backing_off = true;
                    sleep(BACK_OFF).await;
                }
            }
        }
    }

    fn accept_waiting(
        &self,
        take: &mut impl FnMut(Socket, Option<SocketAddr>),
    ) -> io::Result<Waiting> {
        for _ in 0..ACCEPTS_PER_WAKE {
            match self.port.socket.accept() {
                Ok((socket, address)) => take(socket, address.as_socket()),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(Waiting::None),
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(Waiting::More)
    }
}

/// Whether more connections may wait.
enum Waiting {
    None,
    More,
}
