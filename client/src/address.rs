//! Where a server listens: a host as the cluster names it, and a port.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// A host and a port. IPv6 hosts stand without brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// A host name or an IP address.
    pub host: Box<str>,
    /// The port, not 0.
    pub port: u16,
}

impl Address {
    /// The socket address. A host that is not an IP address is looked up, which may block for as
    /// long as the system's resolver allows.
    ///
    /// # Errors
    /// If the host is not known.
    pub fn resolve(&self) -> io::Result<SocketAddr> {
        (&*self.host, self.port)
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host has no address"))
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address { host: address.ip().to_string().into(), port: address.port() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Address {
    type Err = String;

    /// Reads `HOST:PORT`, `[IPV6]:PORT` or, as MOVED writes it, `IPV6:PORT`.
    fn from_str(text: &str) -> Result<Address, String> {
        let (host, port) =
            text.rsplit_once(':').ok_or_else(|| format!("`{text}` is not HOST:PORT"))?;
        let port = match port.parse() {
            Ok(port) if port != 0 => port,
            _ => return Err(format!("`{port}` in `{text}` is not a port")),
        };
        let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(format!("`{text}` names no host"));
        }
        Ok(Address { host: host.into(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, host, port, written) in [
            ("127.0.0.1:7400", "127.0.0.1", 7400, "127.0.0.1:7400"),
            ("localhost:1", "localhost", 1, "localhost:1"),
            ("[::1]:7400", "::1", 7400, "[::1]:7400"),
            ("::1:7400", "::1", 7400, "[::1]:7400"),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!((&*address.host, address.port), (host, port));
            assert_eq!(address.to_string(), written);
        }
        for wrong in ["", "7400", ":7400", "host:", "host:0", "host:65536", "a b:1", "host:1x"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
