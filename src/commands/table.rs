//! The list of all RESP commands, from which they are found, checked, and described to clients.
//!
//! A command is found by a hash of its name that is computed at compile time into a table, because
//! it happens once per request. Names are matched without regard to case.

use proto::resp::request::Arguments;

use crate::commands::{Execution, connection, keys, strings};

/// Carries a command out whose number of arguments is right.
pub type Handler = fn(&mut Execution<'_, '_>, Arguments<'_>);

/// What kind of command it is; several may hold. The names are those of COMMAND INFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    const NAMES: &'static [(Flags, &'static str)] = &[
        (WRITE, "write"),
        (READ, "readonly"),
        (DENY_OOM, "denyoom"),
        (ADMIN, "admin"),
        (NO_SCRIPT, "noscript"),
        (LOADING, "loading"),
        (STALE, "stale"),
        (FAST, "fast"),
        (NO_AUTH, "no_auth"),
        (MOVABLE, "movablekeys"),
    ];

    const fn and(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether all of `other` hold.
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names of those that hold.
    pub fn names(self) -> impl Iterator<Item = &'static str> + Clone {
        Self::NAMES.iter().filter(move |(flag, _)| self.has(*flag)).map(|&(_, name)| name)
    }
}

const NONE: Flags = Flags(0);
/// It may change a key.
pub const WRITE: Flags = Flags(1);
/// It reads keys only.
pub const READ: Flags = Flags(1 << 1);
const DENY_OOM: Flags = Flags(1 << 2);
const ADMIN: Flags = Flags(1 << 3);
const NO_SCRIPT: Flags = Flags(1 << 4);
const LOADING: Flags = Flags(1 << 5);
const STALE: Flags = Flags(1 << 6);
/// It takes constant or logarithmic time.
pub const FAST: Flags = Flags(1 << 7);
const NO_AUTH: Flags = Flags(1 << 8);
const MOVABLE: Flags = Flags(1 << 9);

/// Where the keys stand among the arguments. No keys: all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPositions {
    /// The first.
    pub first: i16,
    /// The last; negative: counted from the end.
    pub last: i16,
    /// The distance between two.
    pub step: i16,
}

const NO_KEYS: KeyPositions = KeyPositions { first: 0, last: 0, step: 0 };
const ONE_KEY: KeyPositions = KeyPositions { first: 1, last: 1, step: 1 };
const ALL_KEYS: KeyPositions = KeyPositions { first: 1, last: -1, step: 1 };
const KEYS_AND_VALUES: KeyPositions = KeyPositions { first: 1, last: -1, step: 2 };

/// The chapter of the documentation a command belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Values.
    String,
    /// Keys whatever their values.
    Generic,
    /// The connection.
    Connection,
    /// The server.
    Server,
    /// The cluster.
    Cluster,
}

impl Group {
    /// The name that COMMAND DOCS has for it.
    pub fn name(self) -> &'static str {
        match self {
            Group::String => "string",
            Group::Generic => "generic",
            Group::Connection => "connection",
            Group::Server => "server",
            Group::Cluster => "cluster",
        }
    }
}

/// A command or a subcommand.
#[derive(Debug)]
pub struct CommandSpec {
    /// Its name in lower case.
    pub name: &'static str,
    /// Number of arguments with the names of command and subcommand; negative: at least so many.
    pub arity: i16,
    /// What kind of command it is.
    pub flags: Flags,
    /// Where its keys stand.
    pub keys: KeyPositions,
    /// Where it is documented.
    pub group: Group,
    /// What it does, in one line.
    pub summary: &'static str,
    /// The version of Redis that has it since.
    pub since: &'static str,
    /// Carries it out.
    pub handler: Handler,
    /// Its subcommands, if it is a container of them.
    pub subcommands: &'static [CommandSpec],
}

impl CommandSpec {
    /// Whether the command takes so many arguments.
    pub fn accepts(&self, arguments: usize) -> bool {
        let wanted = usize::from(self.arity.unsigned_abs());
        if self.arity >= 0 { arguments == wanted } else { arguments >= wanted }
    }

    /// The subcommand called `name`.
    pub fn find_subcommand(&self, name: &[u8]) -> Option<&'static CommandSpec> {
        self.subcommands.iter().find(|spec| name.eq_ignore_ascii_case(spec.name.as_bytes()))
    }
}

const fn command(
    name: &'static str,
    arity: i16,
    flags: Flags,
    keys: KeyPositions,
    group: Group,
    documentation: (&'static str, &'static str),
    handler: Handler,
) -> CommandSpec {
    let (since, summary) = documentation;
    CommandSpec { name, arity, flags, keys, group, summary, since, handler, subcommands: &[] }
}

const fn container(spec: CommandSpec, subcommands: &'static [CommandSpec]) -> CommandSpec {
    CommandSpec { subcommands, ..spec }
}

/// A command on the connection or the server, without keys.
const fn plain(
    name: &'static str,
    arity: i16,
    flags: Flags,
    group: Group,
    documentation: (&'static str, &'static str),
    handler: Handler,
) -> CommandSpec {
    command(name, arity, flags, NO_KEYS, group, documentation, handler)
}

/// All commands.
pub static COMMANDS: &[CommandSpec] = &ALL;

const fn read_key(
    name: &'static str,
    arity: i16,
    group: Group,
    documentation: (&'static str, &'static str),
    handler: Handler,
) -> CommandSpec {
    command(name, arity, READ.and(FAST), ONE_KEY, group, documentation, handler)
}

const fn write_key(
    name: &'static str,
    arity: i16,
    group: Group,
    documentation: (&'static str, &'static str),
    handler: Handler,
) -> CommandSpec {
    command(name, arity, WRITE.and(DENY_OOM).and(FAST), ONE_KEY, group, documentation, handler)
}

use Group::{Cluster, Connection, Generic, Server, String as Value};

const ALL: [CommandSpec; COUNT] = [
    read_key("get", 2, Value, ("1.0.0", "Returns the value of a key."), strings::get),
    write_key("set", -3, Value, ("1.0.0", "Sets the value of a key."), strings::set),
];
const COUNT: usize = 2;

/// Number of entries of the index: a power of two, sparse enough for short probes.
const INDEX_LENGTH: usize = 512;
const VACANT: u8 = u8::MAX;

/// Positions in [`ALL`] by hash of the name, with linear probing.
static INDEX: [u8; INDEX_LENGTH] = {
    assert!(COUNT < VACANT as usize && COUNT * 4 < INDEX_LENGTH);
    let mut index = [VACANT; INDEX_LENGTH];
    let mut position = 0;
    while position < COUNT {
        let mut place = hash(ALL[position].name.as_bytes());
        while index[place] != VACANT {
            place = (place + 1) % INDEX_LENGTH;
        }
        index[place] = position as u8;
        position += 1;
    }
    index
};

/// Longest name of a command, in bytes. Longer words are not looked up.
const NAME_BYTES_MAX: usize = 16;

/// A hash that is blind to the case of letters.
const fn hash(name: &[u8]) -> usize {
    let mut hash = name.len() as u32;
    let mut position = 0;
    while position < name.len() {
        hash = (hash ^ (name[position] | 0x20) as u32).wrapping_mul(0x0100_0193);
        position += 1;
    }
    (hash ^ hash >> 15) as usize % INDEX_LENGTH
}

/// The command called `name`, in any case.
pub fn find(name: &[u8]) -> Option<&'static CommandSpec> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let mut place = hash(name);
    loop {
        let spec = COMMANDS.get(usize::from(INDEX[place]))?;
        if name.eq_ignore_ascii_case(spec.name.as_bytes()) {
            return Some(spec);
        }
        place = (place + 1) % INDEX_LENGTH;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_by_its_name_in_any_case() {
        for spec in COMMANDS {
            assert!(spec.name.len() <= NAME_BYTES_MAX, "{}", spec.name);
            assert!(spec.name.bytes().all(|byte| byte.is_ascii_lowercase()), "{}", spec.name);
            for name in [spec.name.to_owned(), spec.name.to_uppercase()] {
                assert_eq!(find(name.as_bytes()).map(|found| found.name), Some(spec.name));
            }
        }
        for name in [&b""[..], b"gett", b"ge", b"g\0t", b"\xc7\xc5\xd4", &[b'x'; 10_000]] {
            assert!(find(name).is_none(), "{name:?}");
        }
    }

    #[test]
    fn names_are_unique_and_keys_lie_within_the_arity() {
        let mut names: Vec<&str> = COMMANDS.iter().map(|spec| spec.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), COMMANDS.len());
        for spec in COMMANDS {
            assert!(spec.arity.abs() > spec.keys.first, "{}", spec.name);
            assert_eq!(spec.flags.has(READ) || spec.flags.has(WRITE), spec.keys != NO_KEYS);
        }
    }
}
