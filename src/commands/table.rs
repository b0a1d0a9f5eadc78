//! The list of all RESP commands, from which they are found, checked, and described to clients.
//!
//! A command is found by a hash of its name that is computed at compile time into a table, because
//! it happens once per request. Names are matched without regard to case.

use proto::resp::request::Arguments;

use crate::commands::{
    Execution, cluster, connection, describe, keys, server, server_info, strings,
};

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
/// What holds for commands that clients send before anything else.
const HANDSHAKE: Flags = FAST.and(LOADING).and(STALE).and(NO_SCRIPT);

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

const COUNT: usize = 51;

const ALL: [CommandSpec; COUNT] = [
    read_key("get", 2, Value, ("1.0.0", "Returns the value of a key."), strings::get),
    read_key("strlen", 2, Value, ("2.2.0", "Returns the length of a value."), strings::length),
    read_key(
        "type",
        2,
        Generic,
        ("1.0.0", "Returns the type of the value of a key."),
        keys::value_type,
    ),
    read_key(
        "ttl",
        2,
        Generic,
        ("1.0.0", "Returns the time to live of a key in seconds."),
        keys::seconds_left,
    ),
    read_key(
        "pttl",
        2,
        Generic,
        ("2.6.0", "Returns the time to live of a key in milliseconds."),
        keys::millis_left,
    ),
    read_key(
        "expiretime",
        2,
        Generic,
        ("7.0.0", "Returns the deadline of a key in Unix seconds."),
        keys::deadline_seconds,
    ),
    read_key(
        "pexpiretime",
        2,
        Generic,
        ("7.0.0", "Returns the deadline of a key in Unix milliseconds."),
        keys::deadline_millis,
    ),
    write_key("set", -3, Value, ("1.0.0", "Sets the value of a key."), strings::set),
    write_key(
        "setnx",
        3,
        Value,
        ("1.0.0", "Sets the value of a key that does not exist."),
        strings::set_if_absent,
    ),
    write_key(
        "setex",
        4,
        Value,
        ("2.0.0", "Sets the value and the time to live in seconds."),
        strings::set_seconds,
    ),
    write_key(
        "psetex",
        4,
        Value,
        ("2.6.0", "Sets the value and the time to live in milliseconds."),
        strings::set_millis,
    ),
    write_key(
        "getset",
        3,
        Value,
        ("1.0.0", "Sets a value and returns the one before."),
        strings::get_and_set,
    ),
    write_key(
        "getdel",
        2,
        Value,
        ("6.2.0", "Returns the value of a key and deletes it."),
        strings::get_and_delete,
    ),
    write_key(
        "getex",
        -2,
        Value,
        ("6.2.0", "Returns the value of a key and sets its deadline."),
        strings::get_and_expire,
    ),
    write_key("append", 3, Value, ("2.0.0", "Appends to the value of a key."), strings::append),
    write_key("incr", 2, Value, ("1.0.0", "Increments a counter by one."), strings::increment),
    write_key("decr", 2, Value, ("1.0.0", "Decrements a counter by one."), strings::decrement),
    write_key(
        "incrby",
        3,
        Value,
        ("1.0.0", "Increments a counter by a number."),
        strings::increment_by,
    ),
    write_key(
        "decrby",
        3,
        Value,
        ("1.0.0", "Decrements a counter by a number."),
        strings::decrement_by,
    ),
    write_key(
        "expire",
        -3,
        Generic,
        ("1.0.0", "Sets the time to live of a key in seconds."),
        keys::expire_seconds,
    ),
    write_key(
        "pexpire",
        -3,
        Generic,
        ("2.6.0", "Sets the time to live of a key in milliseconds."),
        keys::expire_millis,
    ),
    write_key(
        "expireat",
        -3,
        Generic,
        ("1.2.0", "Sets the deadline of a key in Unix seconds."),
        keys::expire_at_seconds,
    ),
    write_key(
        "pexpireat",
        -3,
        Generic,
        ("2.6.0", "Sets the deadline of a key in Unix milliseconds."),
        keys::expire_at_millis,
    ),
    write_key("persist", 2, Generic, ("2.2.0", "Removes the deadline of a key."), keys::persist),
    command(
        "mget",
        -2,
        READ.and(FAST),
        ALL_KEYS,
        Value,
        ("1.0.0", "Returns the values of keys."),
        strings::get_many,
    ),
    command(
        "mset",
        -3,
        WRITE.and(DENY_OOM),
        KEYS_AND_VALUES,
        Value,
        ("1.0.1", "Sets the values of keys."),
        strings::set_many,
    ),
    command("del", -2, WRITE, ALL_KEYS, Generic, ("1.0.0", "Deletes keys."), keys::delete),
    command(
        "unlink",
        -2,
        WRITE.and(FAST),
        ALL_KEYS,
        Generic,
        ("4.0.0", "Deletes keys."),
        keys::delete,
    ),
    command(
        "exists",
        -2,
        READ.and(FAST),
        ALL_KEYS,
        Generic,
        ("1.0.0", "Counts the keys that exist."),
        keys::exists,
    ),
    command(
        "touch",
        -2,
        READ.and(FAST),
        ALL_KEYS,
        Generic,
        ("3.2.1", "Counts the keys that exist."),
        keys::touch,
    ),
    plain("dbsize", 1, READ.and(FAST), Server, ("1.0.0", "Counts the keys."), keys::database_size),
    plain("flushall", -1, WRITE, Server, ("1.0.0", "Removes all keys."), keys::flush),
    plain("flushdb", -1, WRITE, Server, ("1.0.0", "Removes all keys."), keys::flush),
    plain(
        "ping",
        -1,
        HANDSHAKE,
        Connection,
        ("1.0.0", "Returns its argument, or PONG."),
        connection::ping,
    ),
    plain("echo", 2, HANDSHAKE, Connection, ("1.0.0", "Returns its argument."), connection::echo),
    plain(
        "quit",
        -1,
        HANDSHAKE.and(NO_AUTH),
        Connection,
        ("1.0.0", "Closes the connection."),
        connection::quit,
    ),
    plain(
        "reset",
        1,
        HANDSHAKE.and(NO_AUTH),
        Connection,
        ("6.2.0", "Resets the connection."),
        connection::reset,
    ),
    plain(
        "hello",
        -1,
        HANDSHAKE.and(NO_AUTH),
        Connection,
        ("6.0.0", "Shakes hands with the server."),
        connection::hello,
    ),
    plain(
        "auth",
        -2,
        HANDSHAKE.and(NO_AUTH),
        Connection,
        ("1.0.0", "Authenticates the connection."),
        connection::authenticate,
    ),
    plain("select", 2, HANDSHAKE, Connection, ("1.0.0", "Selects database 0."), connection::select),
    plain(
        "time",
        1,
        FAST.and(LOADING).and(STALE),
        Server,
        ("2.6.0", "Returns the server's time."),
        server::time,
    ),
    plain(
        "info",
        -1,
        LOADING.and(STALE),
        Server,
        ("1.0.0", "Returns facts and figures of the server."),
        server_info::info,
    ),
    plain("role", 1, HANDSHAKE, Server, ("2.8.12", "Returns the replication role."), server::role),
    plain(
        "wait",
        3,
        NONE,
        Generic,
        ("3.0.0", "Waits until earlier writes are replicated."),
        server::wait,
    ),
    plain(
        "readonly",
        -1,
        HANDSHAKE,
        Cluster,
        ("3.0.0", "Allows reads from replicas."),
        cluster::read_only,
    ),
    plain(
        "readwrite",
        1,
        HANDSHAKE,
        Cluster,
        ("3.0.0", "Forbids reads from replicas."),
        cluster::read_write,
    ),
    plain(
        "asking",
        1,
        HANDSHAKE,
        Cluster,
        ("3.0.0", "Announces a redirected command."),
        cluster::accept,
    ),
    container(
        plain(
            "client",
            -2,
            LOADING.and(STALE),
            Connection,
            ("2.4.0", "Asks and tells about connections."),
            connection::client_help,
        ),
        CLIENT,
    ),
    container(
        plain(
            "command",
            -1,
            LOADING.and(STALE),
            Server,
            ("2.8.13", "Describes all commands."),
            describe::command,
        ),
        COMMAND,
    ),
    container(
        plain(
            "config",
            -2,
            LOADING.and(STALE),
            Server,
            ("2.0.0", "Asks for parameters."),
            server::config_help,
        ),
        CONFIG,
    ),
    container(
        plain(
            "cluster",
            -2,
            LOADING.and(STALE),
            Cluster,
            ("3.0.0", "Asks about the cluster."),
            cluster::help,
        ),
        CLUSTER,
    ),
];

const CLIENT: &[CommandSpec] = &[
    plain(
        "id",
        2,
        LOADING.and(STALE),
        Connection,
        ("5.0.0", "Returns the id of the connection."),
        connection::client_id,
    ),
    plain(
        "info",
        2,
        LOADING.and(STALE),
        Connection,
        ("6.2.0", "Returns facts about the connection."),
        connection::client_info,
    ),
    plain(
        "list",
        -2,
        LOADING.and(STALE),
        Connection,
        ("2.4.0", "Lists the connections of this core."),
        connection::client_list,
    ),
    plain(
        "getname",
        2,
        LOADING.and(STALE),
        Connection,
        ("2.6.9", "Returns the name of the connection."),
        connection::client_get_name,
    ),
    plain(
        "setname",
        3,
        LOADING.and(STALE),
        Connection,
        ("2.6.9", "Names the connection."),
        connection::client_set_name,
    ),
    plain(
        "setinfo",
        4,
        LOADING.and(STALE),
        Connection,
        ("7.2.0", "Names the client's library."),
        connection::client_set_info,
    ),
    plain(
        "no-evict",
        3,
        LOADING.and(STALE),
        Connection,
        ("7.0.0", "Has no effect."),
        connection::client_no_evict,
    ),
    plain(
        "no-touch",
        3,
        LOADING.and(STALE),
        Connection,
        ("7.2.0", "Has no effect."),
        connection::client_no_touch,
    ),
    plain(
        "reply",
        3,
        LOADING.and(STALE),
        Connection,
        ("3.2.0", "Switches replies on and off."),
        connection::client_reply,
    ),
    plain(
        "help",
        2,
        LOADING.and(STALE),
        Connection,
        ("5.0.0", "Lists the subcommands."),
        connection::client_help,
    ),
];

const COMMAND: &[CommandSpec] = &[
    plain(
        "count",
        2,
        LOADING.and(STALE),
        Server,
        ("2.8.13", "Counts the commands."),
        describe::count,
    ),
    plain(
        "info",
        -2,
        LOADING.and(STALE),
        Server,
        ("2.8.13", "Describes commands."),
        describe::info,
    ),
    plain("docs", -2, LOADING.and(STALE), Server, ("7.0.0", "Documents commands."), describe::docs),
    plain("list", -2, LOADING.and(STALE), Server, ("7.0.0", "Lists the commands."), describe::list),
    plain(
        "getkeys",
        -3,
        LOADING.and(STALE),
        Server,
        ("2.8.13", "Extracts the keys of a command."),
        describe::get_keys,
    ),
    plain(
        "getkeysandflags",
        -3,
        LOADING.and(STALE),
        Server,
        ("7.0.0", "Extracts the keys of a command."),
        describe::get_keys_and_flags,
    ),
    plain(
        "help",
        2,
        LOADING.and(STALE),
        Server,
        ("5.0.0", "Lists the subcommands."),
        describe::help,
    ),
];

const CONFIG: &[CommandSpec] = &[
    plain(
        "get",
        -3,
        LOADING.and(STALE),
        Server,
        ("2.0.0", "Returns parameters."),
        server::config_get,
    ),
    plain(
        "set",
        -4,
        ADMIN,
        Server,
        (
            "2.0.0",
            "Changes maxmemory or maxmemory-policy, on all nodes. Others are fixed at start.",
        ),
        server::config_set,
    ),
    plain(
        "help",
        2,
        LOADING.and(STALE),
        Server,
        ("5.0.0", "Lists the subcommands."),
        server::config_help,
    ),
];

const CLUSTER: &[CommandSpec] = &[
    plain(
        "slots",
        2,
        LOADING.and(STALE),
        Cluster,
        ("3.0.0", "Lists the owners of slots."),
        cluster::slots,
    ),
    plain(
        "shards",
        2,
        LOADING.and(STALE),
        Cluster,
        ("7.0.0", "Lists the shards and their replicas."),
        cluster::shards,
    ),
    plain("nodes", 2, LOADING.and(STALE), Cluster, ("3.0.0", "Lists the nodes."), cluster::nodes),
    plain(
        "info",
        2,
        LOADING.and(STALE),
        Cluster,
        ("3.0.0", "Returns the state of the cluster."),
        cluster::info,
    ),
    plain(
        "myid",
        2,
        LOADING.and(STALE),
        Cluster,
        ("3.0.0", "Returns the id of this node."),
        cluster::my_id,
    ),
    plain(
        "keyslot",
        3,
        LOADING.and(STALE),
        Cluster,
        ("3.0.0", "Returns the slot of a key."),
        cluster::key_slot,
    ),
    plain(
        "help",
        2,
        LOADING.and(STALE),
        Cluster,
        ("5.0.0", "Lists the subcommands."),
        cluster::help,
    ),
    plain(
        "addslots",
        -2,
        ADMIN,
        Cluster,
        ("3.0.0", "Is refused: the layout is fixed by the configuration."),
        cluster::refuse_change,
    ),
    plain(
        "addslotsrange",
        -2,
        ADMIN,
        Cluster,
        ("3.0.0", "Is refused: the layout is fixed by the configuration."),
        cluster::refuse_change,
    ),
    plain(
        "delslots",
        -2,
        ADMIN,
        Cluster,
        ("3.0.0", "Is refused: the layout is fixed by the configuration."),
        cluster::refuse_change,
    ),
    plain(
        "delslotsrange",
        -2,
        ADMIN,
        Cluster,
        ("3.0.0", "Is refused: the layout is fixed by the configuration."),
        cluster::refuse_change,
    ),
    plain(
        "failover",
        -2,
        ADMIN,
        Cluster,
        ("3.0.0", "Is refused: the layout is fixed by the configuration."),
        cluster::refuse_change,
    ),
    plain(
        "flushslots",
        -2,
        ADMIN,
        Cluster,
        ("3.0.0", "Is refused: the layout is fixed by the configuration."),
        cluster::refuse_change,
    ),
    plain(
        "forget",
        -2,
        ADMIN,
        Cluster,
        ("3.0.0", "Is refused: the layout is fixed by the configuration."),
        cluster::refuse_change,
    ),
    plain(
        "meet",
        -2,
        ADMIN,
        Cluster,
        ("3.0.0", "Is refused: the layout is fixed by the configuration."),
        cluster::refuse_change,
    ),
    plain(
        "replicate",
        -2,
        ADMIN,
        Cluster,
        ("3.0.0", "Is refused: the layout is fixed by the configuration."),
        cluster::refuse_change,
    ),
    plain(
        "reset",
        -2,
        ADMIN,
        Cluster,
        ("3.0.0", "Is refused: the layout is fixed by the configuration."),
        cluster::refuse_change,
    ),
    plain(
        "saveconfig",
        -2,
        ADMIN,
        Cluster,
        ("3.0.0", "Is refused: the layout is fixed by the configuration."),
        cluster::refuse_change,
    ),
    plain(
        "setslot",
        -2,
        ADMIN,
        Cluster,
        ("3.0.0", "Is refused: the layout is fixed by the configuration."),
        cluster::refuse_change,
    ),
];

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
            let touches_data = spec.flags.has(READ) || spec.flags.has(WRITE);
            assert!(touches_data || spec.keys == NO_KEYS, "{}", spec.name);
        }
    }
}
