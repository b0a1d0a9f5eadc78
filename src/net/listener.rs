//! Listening sockets, bound before any core runs, so that a port in use is said at once and with
//! the flag that changes it.
//!
//! The any-core port is bound once per core with SO_REUSEPORT, and the kernel spreads connections
//! over them. That option would also let a second server of the same user bind the port in
//! silence, therefore it is used there alone: the core ports, which are bound first and
//! exclusively, notice the second server.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Connections that may wait to be accepted. The kernel caps it at net.core.somaxconn.
pub const BACKLOG: i32 = 4_096;

/// Who may bind the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody else.
    Exclusive,
    /// The other cores of this process.
    BetweenCores,
}

/// A bound socket that is not yet on an executor.
#[derive(Debug)]
pub struct Listener(Socket);

impl Listener {
    /// Binds and listens. Port 0 lets the kernel choose.
    ///
    /// # Errors
    /// If the address is in use or not this machine's.
    pub fn bind(address: SocketAddr, sharing: Sharing) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Without it a restart fails for a minute on the closed connections of the last life.
        socket.set_reuse_address(true)?;
        if sharing == Sharing::BetweenCores {
            socket.set_reuse_port(true)?;
        }
        // Accepted sockets inherit it, which saves a system call for each.
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::from(address))?;
        socket.listen(BACKLOG)?;
        Ok(Listener(socket))
    }

    /// The address it is bound to, with the port that the kernel chose.
    #[cfg(test)]
    pub fn address(&self) -> io::Result<SocketAddr> {
        let address = self.0.local_addr()?;
        address.as_socket().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The socket, to be accepted from.
    pub fn into_socket(self) -> Socket {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any_port() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn an_exclusive_port_in_use_is_refused() {
        let first = Listener::bind(any_port(), Sharing::Exclusive).expect("a free port");
        let address = first.address().expect("an address");
        let error = Listener::bind(address, Sharing::Exclusive).expect_err("the port is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let error = Listener::bind(address, Sharing::BetweenCores).expect_err("the port is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_port_can_be_shared_between_cores() {
        let first = Listener::bind(any_port(), Sharing::BetweenCores).expect("a free port");
        let address = first.address().expect("an address");
        let second = Listener::bind(address, Sharing::BetweenCores).expect("the same port");
        assert_eq!(second.address().expect("an address"), address);
    }
}
