//! The table of settings of a node: one row is a flag, a key of the TOML file and a variable of
//! the environment at once, so that none of the three can lack what the others have.
//!
//! The key `value_bytes_max` is the flag `--value-bytes-max` and the variable
//! `CORACLE_VALUE_BYTES_MAX`. Help texts and defaults live here too; what the values mean, and
//! which are possible, is decided in [`super::NodeConfig`].

use clap::{Arg, ArgAction, ArgMatches, Command};

/// What the names of the environment variables start with.
pub const ENVIRONMENT_PREFIX: &str = "CORACLE_";

/// A setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The key in the TOML file.
    pub key: &'static str,
    /// What stands for the value in help texts.
    pub value_name: &'static str,
    /// The default as it would be written, or what happens without a value, in parentheses.
    pub default: &'static str,
    /// What it does, for people.
    pub help: &'static str,
    /// What kind of flag it is.
    pub kind: Kind,
}

/// What kind of flag a setting is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Takes a value.
    Value,
    /// Stands alone and means `true`; a value may follow an equals sign.
    Switch,
}

const fn setting(
    key: &'static str,
    value_name: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { key, value_name, default, help, kind: Kind::Value }
}

/// Every setting, in the order in which help lists them.
pub const SETTINGS: &[Setting] = &[
    setting(
        "node_id",
        "ID",
        "(the only member)",
        "This node's number among the members, from 1. Required with more than one member",
    ),
    setting(
        "members",
        "ID=ADDRESS,..",
        "1=127.0.0.1",
        "All nodes of the cluster with their IPv4 or IPv6 addresses. The same on every node",
    ),
    setting(
        "cluster",
        "NAME",
        "coracle",
        "Name of the cluster. Nodes of differently named clusters refuse each other",
    ),
    setting(
        "data_dir",
        "DIR",
        "(none)",
        "Directory of the log, which outlives the process. Required with --durability fsync; \
         nothing is written with --durability memory",
    ),
    setting(
        "cores",
        "COUNT",
        "(the CPUs this process may use)",
        "Number of cores, each one executor thread that owns a share of the shards",
    ),
    setting(
        "cpus",
        "LIST",
        "(chosen)",
        "CPUs to pin the cores to, such as 0,2,4-7: one core on each. Instead of --cores",
    ),
    setting(
        "pin",
        "auto|pinned|float",
        "auto",
        "Whether each core's thread stays on a CPU of its own. auto pins unless --cores is more \
         than the CPUs there are; float suits several nodes on one machine",
    ),
    setting(
        "shards",
        "COUNT",
        "32",
        "Number of shards, 1 to 16384. Fixed when the cluster is created; the same on every node",
    ),
    setting(
        "memory",
        "SIZE",
        "1GiB",
        "Accounted bytes of keys and values on this node, divided evenly over the replicas it \
         holds. The same on every node",
    ),
    setting(
        "eviction",
        "lru|sieve",
        "lru",
        "Which keys go first when memory is needed: those unused for longest, or (sieve) those \
         unused since the last look at them, which keeps more of what is popular and is not upset \
         by scans. For a cluster that is new; `coracle limits set --eviction` changes it later. \
         The same on every node",
    ),
    setting(
        "touch_interval",
        "DURATION",
        "5s",
        "A read counts as a use of its key unless the key was used within this time, or less where \
         evictions outrun it; uses decide what is evicted. 0s lets only writes count",
    ),
    setting(
        "scrub_bytes_per_second",
        "SIZE",
        "16MiB",
        "Bytes of keys and values that each core looks at per second for damage in memory; all of \
         them, one after the other, again and again. 0 looks at nothing",
    ),
    setting(
        "durability",
        "fsync|memory",
        "fsync",
        "What an acknowledged write has reached: the disks of a majority, which survives a power \
         loss of all nodes at once, or their memory. The same on every node",
    ),
    setting(
        "segment_bytes",
        "SIZE",
        "16MiB",
        "Length of the files that make up a core's log, 64KiB to 1GiB",
    ),
    setting(
        "reads",
        "lease|quorum",
        "lease",
        "How the leader makes sure that a read is linearizable: by a lease of a few ticks, or by \
         asking a majority once per shard and turn",
    ),
    setting(
        "port",
        "PORT",
        "7400",
        "Data port that every core serves: any key, any shard, both protocols",
    ),
    setting(
        "core_port_base",
        "PORT",
        "7401",
        "Data port of core 0; core N has this plus N. What a core does not lead it redirects",
    ),
    setting(
        "peer_port_base",
        "PORT",
        "7501",
        "Port of core 0 for the other nodes; core N has this plus N. The same on every node",
    ),
    setting("http_port", "PORT", "7480", "HTTP: health, shards, metrics. The same on every node"),
    setting(
        "bind",
        "ADDRESS",
        "(this node's address in --members)",
        "Address to listen on. Any but a loopback address needs --insecure",
    ),
    Setting {
        key: "insecure",
        value_name: "BOOL",
        default: "false",
        help: "Listen on an address that others can reach, although this version has neither \
               authentication nor encryption",
        kind: Kind::Switch,
    },
    setting(
        "advertise",
        "core|node",
        "core",
        "Which ports cluster-aware clients are told: each core's own, or the one of the node",
    ),
    setting(
        "connections_max",
        "COUNT",
        "10000",
        "Client connections of this node, 1 to 1000000. One more is turned away with an error",
    ),
    setting(
        "value_bytes_max",
        "SIZE",
        "1MiB",
        "Longest value a client may store, at most 16MiB. The same on every node",
    ),
    setting(
        "request_deadline",
        "DURATION",
        "2s",
        "How long a request may wait for a leader or for its outcome, 100ms to 60s",
    ),
    setting(
        "tick",
        "DURATION",
        "50ms",
        "One Raft tick, which is also the heartbeat, 10ms to 1s. The same on every node",
    ),
    setting(
        "election_ticks",
        "COUNT",
        "6",
        "Ticks without a leader until a successor campaigns, 3 to 100. The same on every node",
    ),
    setting(
        "log",
        "FILTER",
        "info",
        "What to log: error, warn, info, debug, trace, or a filter per module as in \
         info,coracle::control=debug",
    ),
    setting(
        "log_format",
        "auto|pretty|json",
        "auto",
        "How to log. auto is pretty on a terminal and JSON, one object per line, elsewhere",
    ),
];

impl Setting {
    /// The flag, without the dashes in front.
    pub fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// The variable of the environment.
    pub fn variable(&self) -> String {
        format!("{ENVIRONMENT_PREFIX}{}", self.key.to_ascii_uppercase())
    }

    /// The setting with this key.
    pub fn find(key: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    fn arg(&self) -> Arg {
        let flag = self.flag();
        let default = self.default.trim_start_matches('(').trim_end_matches(')');
        let help = format!("{} [default: {default}] [env: {}]", self.help, self.variable());
        let arg = Arg::new(self.key).long(flag).value_name(self.value_name).help(help);
        match self.kind {
            Kind::Value => arg.action(ArgAction::Set),
            Kind::Switch => arg
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true"),
        }
    }
}

/// Gives `command` a flag for each setting, and `--config`.
pub fn add_flags(command: Command) -> Command {
    let config = Arg::new("config").long("config").value_name("FILE").help(
        "TOML file with settings; the environment and flags override it. A setting is named as \
         its flag, with underscores [env: CORACLE_CONFIG]",
    );
    command.arg(config).args(SETTINGS.iter().map(Setting::arg))
}

/// The settings given as flags, and the file named by `--config`.
pub fn given_flags(matches: &ArgMatches) -> (Option<String>, Vec<(&'static Setting, String)>) {
    let given = SETTINGS.iter().filter_map(|setting| {
        let value = matches.get_one::<String>(setting.key)?;
        Some((setting, value.clone()))
    });
    (matches.get_one::<String>("config").cloned(), given.collect())
}
