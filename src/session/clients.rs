//! The directory of a core's client connections: what CLIENT LIST tells and CLIENT SETNAME sets.
//!
//! It is core-local, so that no request takes a lock. CLIENT LIST therefore lists the connections
//! of the core it is asked on. Entries are written once per batch of input, not once per request.

use std::fmt::Write;
use std::net::SocketAddr;

use shards::contract::Now;
use shards::ids::{CoreIndex, Nanos};

/// Identifies an entry of a [`ClientDirectory`] as long as its connection is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientSlot(u32);

/// What is known of a client connection.
#[derive(Clone, Debug)]
pub struct Client {
    /// Unique on the node since its start, from 1.
    pub id: u64,
    /// The client's address.
    pub peer: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// When the connection was opened, by the monotonic clock.
    pub opened: Nanos,
    /// When it last sent a command, by the monotonic clock.
    pub active: Nanos,
    /// Name of the last command, lower case.
    pub last_command: &'static str,
    /// The name it gave itself.
    pub name: String,
    /// The library it says it uses.
    pub library: String,
    /// The version of that library.
    pub library_version: String,
    /// The protocol as CLIENT LIST has it: 2 or 3, 0 for the binary protocol.
    pub protocol: u8,
    /// Commands taken from it.
    pub commands: u64,
}

/// All client connections of one core.
#[derive(Debug)]
pub struct ClientDirectory {
    core: CoreIndex,
    cores: u16,
    accepted: u64,
    entries: Vec<Option<Client>>,
    free: Vec<u32>,
}

impl ClientDirectory {
    /// An empty directory of `core`, one of `cores`.
    pub fn new(core: CoreIndex, cores: u16) -> Self {
        let cores = cores.max(1);
        ClientDirectory { core, cores, accepted: 0, entries: Vec::new(), free: Vec::new() }
    }

    /// Enters a new connection.
    pub fn open(&mut self, now: Now, peer: SocketAddr, local: SocketAddr) -> ClientSlot {
        let id = self.accepted * u64::from(self.cores) + u64::from(self.core.0) + 1;
        self.accepted += 1;
        let client = Client {
            id,
            peer,
            local,
            opened: now.monotonic,
            active: now.monotonic,
            last_command: "NULL",
            name: String::new(),
            library: String::new(),
            library_version: String::new(),
            protocol: 2,
            commands: 0,
        };
        if let Some(index) = self.free.pop() {
            self.entries[index as usize] = Some(client);
            return ClientSlot(index);
        }
        self.entries.push(Some(client));
        ClientSlot((self.entries.len() - 1) as u32)
    }

    /// Strikes a connection off. Its slot means nothing any more.
    pub fn close(&mut self, slot: ClientSlot) {
        let entry = self.entries.get_mut(slot.0 as usize);
        if entry.and_then(Option::take).is_some() {
            self.free.push(slot.0);
        }
    }

    /// The connection at `slot`.
    pub fn get_mut(&mut self, slot: ClientSlot) -> Option<&mut Client> {
        self.entries.get_mut(slot.0 as usize)?.as_mut()
    }

    /// All connections.
    pub fn iter(&self) -> impl Iterator<Item = &Client> {
        self.entries.iter().flatten()
    }

    /// Number of open connections.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}

impl Client {
    /// Appends the line that CLIENT LIST and CLIENT INFO have for this connection.
    pub fn describe(&self, now: Now, out: &mut String) {
        let seconds = |since: Nanos| now.monotonic.0.saturating_sub(since.0) / 1_000_000_000;
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags=N db=0 sub=0 psub=0 ssub=0 \
             multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 \
             tot-mem=0 events=r cmd={} user=default redir=-1 resp={} lib-name={} lib-ver={} \
             tot-cmds={}",
            self.id,
            self.peer,
            self.local,
            self.name,
            seconds(self.opened),
            seconds(self.active),
            self.last_command,
            self.protocol,
            self.library,
            self.library_version,
            self.commands,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique_over_the_cores_of_a_node() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut ids = BTreeSet::new();
        for core in 0..3 {
            let mut directory = ClientDirectory::new(CoreIndex(core), 3);
            for _ in 0..10 {
                let slot = directory.open(Now::default(), address, address);
                ids.extend(directory.get_mut(slot).map(|client| client.id));
                directory.close(slot);
                assert!(directory.get_mut(slot).is_none());
            }
            assert_eq!(directory.len(), 0);
            assert!(directory.entries.len() == 1, "slots are used again");
        }
        assert_eq!(ids.len(), 30);
        assert!(!ids.contains(&0));
    }
}
