//! Which server a command goes to.
//!
//! Writes go to the leader: anything else would only be forwarded or redirected. Reads go there
//! too unless the caller wants the replicas to share them. The round robin over the replicas
//! starts anew for every picker, which spreads well enough over many clients.

use crate::address::Address;
use crate::cluster_map::ClusterMap;
use crate::command::Command;

/// Who answers reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadFrom {
    /// The leader of the key's shard.
    #[default]
    Leader,
    /// Every replica in turn, each as fresh as the leader: it asks the leader how far it must have
    /// come.
    Replica,
    /// Every replica in turn, each as it is: answers may be old and need not agree.
    Stale,
}

impl ReadFrom {
    /// What a RESP connection must say first, if anything.
    pub fn greeting(self) -> Option<&'static [u8]> {
        match self {
            ReadFrom::Leader => None,
            ReadFrom::Replica => Some(crate::wire::READONLY),
            ReadFrom::Stale => Some(crate::wire::READONLY_STALE),
        }
    }

    /// The frame extras of a read in the binary protocol.
    pub fn frame_extras(self) -> &'static [u8] {
        match self {
            ReadFrom::Leader => &[],
            ReadFrom::Replica => &[0xe1, 1],
            ReadFrom::Stale => &[0xe1, 2],
        }
    }
}

/// Picks servers.
#[derive(Clone, Debug)]
pub struct Picker {
    read_from: ReadFrom,
    turn: usize,
}

impl Picker {
    /// Picks by this rule.
    pub fn new(read_from: ReadFrom) -> Picker {
        Picker { read_from, turn: 0 }
    }

    /// The server for `command`; none if the map does not cover its slot.
    pub fn pick<'a>(&mut self, map: &'a ClusterMap, command: &Command<'_>) -> Option<&'a Address> {
        let holders = map.holders(proto::slot::slot_of(command.key()));
        let server = match self.read_from {
            ReadFrom::Replica | ReadFrom::Stale if command.is_read() && !holders.is_empty() => {
                self.turn = self.turn.wrapping_add(1);
                holders.get(self.turn % holders.len())?
            }
            _ => holders.first()?,
        };
        map.servers().get(usize::from(*server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::SetOptions;

    #[test]
    fn reads_are_spread_only_where_asked_and_writes_never() {
        let reply = b"*1\r\n*4\r\n:0\r\n:16383\r\n*2\r\n$1\r\na\r\n:1\r\n*2\r\n$1\r\nb\r\n:1\r\n";
        let asked = Address { host: "x".into(), port: 1 };
        let map = ClusterMap::from_slots_reply(reply, &asked).expect("a map");
        let get = Command::Get { key: b"k" };
        let set = Command::Set { key: b"k", value: b"v", options: SetOptions::default() };
        let hosts = |picker: &mut Picker, command: &Command<'_>| -> Vec<String> {
            let pick = |_| picker.pick(&map, command).map(|address| address.host.to_string());
            (0..4).filter_map(pick).collect()
        };
        assert_eq!(hosts(&mut Picker::new(ReadFrom::Leader), &get), ["a"; 4]);
        assert_eq!(hosts(&mut Picker::new(ReadFrom::Replica), &get), ["b", "a", "b", "a"]);
        assert_eq!(hosts(&mut Picker::new(ReadFrom::Replica), &set), ["a"; 4]);
        assert_eq!(Picker::new(ReadFrom::Replica).pick(&ClusterMap::default(), &get), None);
    }
}
