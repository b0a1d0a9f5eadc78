//! The configuration of a node: what was asked for, checked as a whole before anything starts.
//!
//! Defaults lie under the TOML file, that under the `CORACLE_…` variables, those under the flags
//! ([`layers`]); the table of settings is in [`settings`]. Whatever is unknown, impossible or
//! contradicts something else is refused with the key's name and the place where it was written.
//! A [`NodeConfig`] therefore holds only what can be; the code behind it checks nothing again.
//!
//! Addresses of other nodes are arithmetic on this node's own settings: all nodes use the same
//! ports, each on its own address.

pub mod cpus;
mod layers;
mod network;
mod settings;
mod values;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use shards::contract::{Durability, ReadMode};
use shards::ids::{Eviction, NodeId};
use shards::placement::{Placement, PlacementError, SLOTS};

use layers::{Layers, Origin};
pub use settings::{ENVIRONMENT_PREFIX, add_flags, given_flags};
pub use values::size;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The value of a setting is not one, or not a possible one.
    #[error("`{key}` cannot be {text:?} ({origin}): {reason}")]
    Value {
        /// Which setting.
        key: &'static str,
        /// What was written.
        text: String,
        /// Where.
        origin: Origin,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting is needed and nobody gave it.
    #[error("`{key}` is required: {reason}")]
    Required {
        /// Which setting.
        key: &'static str,
        /// Why.
        reason: String,
    },
    /// The file has a key that is no setting.
    #[error("`{key}` in {} is not a setting{}", path.display(), did_you_mean(similar))]
    UnknownKey {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
        /// The setting that may have been meant.
        similar: Option<String>,
    },
    /// The environment has a variable with our prefix that is no setting.
    #[error("the variable `{variable}` is not a setting{}", did_you_mean(similar))]
    UnknownVariable {
        /// The variable.
        variable: String,
        /// The variable that may have been meant.
        similar: Option<String>,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    FileUnreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is not TOML, or gives a key twice.
    #[error("the configuration file {} is malformed: {reason}", path.display())]
    FileMalformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, with the line.
        reason: String,
    },
}

fn did_you_mean(similar: &Option<String>) -> String {
    similar.as_ref().map_or(String::new(), |similar| format!("; is `{similar}` meant?"))
}

/// Where the threads of the cores run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorePlan {
    /// Each on the CPU at its position, and on no other.
    Pinned(Vec<usize>),
    /// So many, wherever the scheduler puts them.
    Float(u16),
}

impl CorePlan {
    /// Number of cores, at least 1.
    pub fn count(&self) -> u16 {
        match self {
            CorePlan::Pinned(cpus) => cpus.len() as u16,
            CorePlan::Float(count) => *count,
        }
    }
}

/// Which data ports cluster-aware clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advertise {
    /// The port of the core that owns the shard.
    Core,
    /// The any-core port of its node.
    Node,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Pretty,
    /// One JSON object per line.
    Json,
}

/// Everything a node is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// This node.
    pub node: NodeId,
    /// All nodes with their addresses; `node` is among them.
    pub members: BTreeMap<NodeId, IpAddr>,
    /// Name of the cluster.
    pub cluster: String,
    /// Directory of the log, given whenever it is needed, which is with [`Durability::Fsync`].
    pub data_dir: Option<PathBuf>,
    /// Bytes of a segment of a core's log, whole blocks.
    pub segment_bytes: u64,
    /// Where the threads of the cores run.
    pub cores: CorePlan,
    /// Number of shards, fixed for the life of the cluster.
    pub shards: u16,
    /// Accounted bytes this node may hold.
    pub memory_bytes: u64,
    /// Which entries are evicted first, in a cluster that is new.
    pub eviction: Eviction,
    /// What an acknowledgement means.
    pub durability: Durability,
    /// How reads are confirmed.
    pub reads: ReadMode,
    /// The any-core data port.
    pub port: u16,
    /// Data port of core 0.
    pub core_port_base: u16,
    /// Peer port of core 0.
    pub peer_port_base: u16,
    /// HTTP port of the control thread.
    pub http_port: u16,
    /// Address to listen on.
    pub bind: IpAddr,
    /// Which ports cluster-aware clients are told.
    pub advertise: Advertise,
    /// Client connections of this node.
    pub connections_max: u32,
    /// Longest value a client may store, in bytes.
    pub value_bytes_max: usize,
    /// How long a request may wait.
    pub request_deadline: Duration,
    /// How long after a use reads leave no further touch; zero for never.
    pub touch_interval: Duration,
    /// Accounted bytes of its stores that each core looks at per second for damage; zero for none.
    pub scrub_bytes_per_second: u64,
    /// One Raft tick.
    pub tick: Duration,
    /// Ticks without a leader until the first successor campaigns.
    pub election_ticks: u32,
    /// Which log lines to write, in the language of `tracing_subscriber::EnvFilter`.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// What a configuration depends on besides its sources.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The CPUs this process may use, ascending, at least one.
    pub cpus: Vec<usize>,
}

impl NodeConfig {
    /// Reads and checks the configuration: `matches` are the flags of a command that went through
    /// [`add_flags`], `environment` is all of the environment.
    pub fn load(
        matches: &clap::ArgMatches,
        environment: impl IntoIterator<Item = (String, String)>,
        machine: &Machine,
    ) -> Result<NodeConfig, ConfigError> {
        let layers = Layers::read(given_flags(matches), environment)?;
        NodeConfig::resolve(&layers, machine)
    }

    fn resolve(layers: &Layers, machine: &Machine) -> Result<NodeConfig, ConfigError> {
        let reader = Reader { layers };
        let members = reader.read("members", values::members)?;
        let node = reader.node(&members)?;
        let own = members[&node];
        let bind = match layers.given("bind") {
            Some(_) => reader.read_given("bind", values::address)?,
            None => own,
        };
        let config = NodeConfig {
            node,
            members,
            cluster: reader.read("cluster", cluster_name)?,
            data_dir: reader.optional("data_dir", directory)?,
            segment_bytes: reader.read("segment_bytes", segment_size)?,
            cores: reader.cores(machine)?,
            shards: reader.integer("shards", 1, u64::from(SLOTS))? as u16,
            memory_bytes: reader.read("memory", values::size)?,
            eviction: reader.read("eviction", eviction)?,
            durability: reader.read("durability", durability)?,
            reads: reader.read("reads", reads)?,
            port: reader.port("port")?,
            core_port_base: reader.port("core_port_base")?,
            peer_port_base: reader.port("peer_port_base")?,
            http_port: reader.port("http_port")?,
            bind,
            advertise: reader.read("advertise", advertise)?,
            connections_max: reader.integer("connections_max", 1, 1_000_000)? as u32,
            value_bytes_max: reader.read("value_bytes_max", value_size)?,
            request_deadline: reader.duration("request_deadline", 100, 60_000)?,
            touch_interval: reader.duration("touch_interval", 0, 3_600_000)?,
            scrub_bytes_per_second: reader.read("scrub_bytes_per_second", values::size)?,
            tick: reader.duration("tick", 10, 1_000)?,
            election_ticks: reader.integer("election_ticks", 3, 100)? as u32,
            log: reader.read("log", log_filter)?,
            log_format: reader.read("log_format", log_format)?,
        };
        config.check_exposure(&reader)?;
        config.check_ports(&reader)?;
        config.check_memory(&reader)?;
        config.check_times(&reader)?;
        config.check_data_directory()?;
        Ok(config)
    }

    /// How the shards lie over the members.
    pub fn placement(&self) -> Placement {
        let nodes = self.members.keys().copied().collect();
        let placement: Result<Placement, PlacementError> = Placement::new(nodes, self.shards);
        placement.expect("the members and the number of shards were checked when they were read")
    }

    /// Accounted bytes one shard may hold.
    ///
    /// A shard's limit is replicated state, so every node must come to the same figure: it is the
    /// memory of a node divided by the most replicas that any node holds, and not by this node's.
    pub fn shard_bytes_max(&self) -> u64 {
        self.memory_bytes / self.placement().replicas_per_node_max()
    }

    fn check_exposure(&self, reader: &Reader<'_>) -> Result<(), ConfigError> {
        let insecure = reader.read("insecure", values::truth)?;
        if insecure || self.bind.is_loopback() {
            return Ok(());
        }
        let key = if reader.layers.given("bind").is_some() { "bind" } else { "members" };
        let reason = format!(
            "listening on {} lets others in, and this version has neither authentication nor \
             encryption; --insecure says that the network keeps them out",
            self.bind
        );
        Err(reader.refuse(key, reason))
    }

    fn check_ports(&self, reader: &Reader<'_>) -> Result<(), ConfigError> {
        let cores = self.cores.count();
        let ranges = [
            ("port", self.port, 1),
            ("core_port_base", self.core_port_base, cores),
            ("peer_port_base", self.peer_port_base, cores),
            ("http_port", self.http_port, 1),
        ];
        for (position, &(key, base, count)) in ranges.iter().enumerate() {
            let end = u32::from(base) + u32::from(count);
            if end > 1 << 16 {
                let reason = format!("{cores} cores need the ports up to {}", end - 1);
                return Err(reader.refuse(key, reason));
            }
            for &(other, other_base, other_count) in &ranges[..position] {
                let other_end = u32::from(other_base) + u32::from(other_count);
                if u32::from(base) < other_end && u32::from(other_base) < end {
                    let reason = format!(
                        "with {cores} cores its ports {base}..{} overlap those of `{other}`, \
                         {other_base}..{}",
                        end - 1,
                        other_end - 1
                    );
                    return Err(reader.refuse(key, reason));
                }
            }
        }
        Ok(())
    }

    /// A shard must have room for a few of the largest values, or a single client could empty it.
    fn check_memory(&self, reader: &Reader<'_>) -> Result<(), ConfigError> {
        let least = 2 * self.value_bytes_max as u64;
        if self.shard_bytes_max() >= least {
            return Ok(());
        }
        let replicas = self.placement().replicas_per_node_max();
        let reason = format!(
            "over {replicas} replicas per node it leaves {} bytes for a shard, and two values of \
             `value_bytes_max` must fit: at least {} bytes, or fewer `shards`",
            self.shard_bytes_max(),
            least * replicas
        );
        Err(reader.refuse("memory", reason))
    }

    /// A log has to be somewhere, and not in a place that nobody chose.
    fn check_data_directory(&self) -> Result<(), ConfigError> {
        if self.durability == Durability::Memory || self.data_dir.is_some() {
            return Ok(());
        }
        Err(ConfigError::Required {
            key: "data_dir",
            reason: "`durability` is fsync, so every node keeps a log on disk; --data-dir says \
                     where, and --durability memory does without"
                .into(),
        })
    }

    /// A request must be able to outwait an election, or every failover would be an error.
    fn check_times(&self, reader: &Reader<'_>) -> Result<(), ConfigError> {
        let election = self.tick * self.election_ticks;
        if self.request_deadline >= election {
            return Ok(());
        }
        let reason = format!(
            "it is shorter than an election, which takes `tick` times `election_ticks`: {} ms",
            election.as_millis()
        );
        Err(reader.refuse("request_deadline", reason))
    }
}

/// Reads settings from the layers, and puts keys and origins to what goes wrong.
struct Reader<'a> {
    layers: &'a Layers,
}

impl Reader<'_> {
    fn read<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let (text, origin) = self.layers.text(key);
        parse(text).map_err(|reason| value_error(key, text, origin, reason))
    }

    /// Like `read`, of a setting without a default, which was given.
    fn read_given<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let (text, origin) = self.layers.given(key).unwrap_or(("", &Origin::Default));
        parse(text).map_err(|reason| value_error(key, text, origin, reason))
    }

    /// An error about a value that could be read, but cannot be with the others.
    fn refuse(&self, key: &'static str, reason: String) -> ConfigError {
        let (text, origin) = self.layers.text(key);
        value_error(key, text, origin, reason)
    }

    fn integer(&self, key: &'static str, least: u64, most: u64) -> Result<u64, ConfigError> {
        self.read(key, |text| values::integer(text, least, most))
    }

    fn port(&self, key: &'static str) -> Result<u16, ConfigError> {
        Ok(self.integer(key, 1, u64::from(u16::MAX))? as u16)
    }

    fn duration(
        &self,
        key: &'static str,
        least_ms: u64,
        most_ms: u64,
    ) -> Result<Duration, ConfigError> {
        self.read(key, |text| {
            let limits = Duration::from_millis(least_ms)..=Duration::from_millis(most_ms);
            let duration = values::duration(text)?;
            let reason = || format!("it must lie between {least_ms}ms and {most_ms}ms");
            limits.contains(&duration).then_some(duration).ok_or_else(reason)
        })
    }

    /// Like `read`, of a setting without a default, if it was given.
    fn optional<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        self.layers.given(key).map(|_| self.read_given(key, parse)).transpose()
    }

    fn node(&self, members: &BTreeMap<NodeId, IpAddr>) -> Result<NodeId, ConfigError> {
        let ids = || members.keys().map(|id| id.to_string()).collect::<Vec<_>>().join(", ");
        if self.layers.given("node_id").is_none() {
            let only = members.keys().next().filter(|_| members.len() == 1);
            return only.copied().ok_or_else(|| ConfigError::Required {
                key: "node_id",
                reason: format!("it says which of the members {} this node is", ids()),
            });
        }
        self.read_given("node_id", |text| {
            let node = NodeId(values::integer(text, 1, u64::from(u16::MAX))? as u16);
            let reason = || format!("it is not one of `members`: {}", ids());
            members.contains_key(&node).then_some(node).ok_or_else(reason)
        })
    }

    fn cores(&self, machine: &Machine) -> Result<CorePlan, ConfigError> {
        /// Each core has a port of its own in two ranges of the same node.
        const CORES_MAX: u64 = 1_024;
        #[derive(Clone, Copy, PartialEq)]
        enum Pin {
            Auto,
            Pinned,
            Float,
        }
        let choices = [("auto", Pin::Auto), ("pinned", Pin::Pinned), ("float", Pin::Float)];
        let pin = self.read("pin", |text| values::choice(text, &choices))?;
        if let Some((text, origin)) = self.layers.given("cpus") {
            let error = |reason: String| Err(value_error("cpus", text, origin, reason));
            let cpus = self.read_given("cpus", values::cpus)?;
            if self.layers.given("cores").is_some() {
                return error(
                    "`cores` is given too; the number of CPUs is the number of cores".into(),
                );
            }
            if pin == Pin::Float {
                return error("`pin` is float, which is the opposite".into());
            }
            if let Some(cpu) = cpus.iter().find(|cpu| !machine.cpus.contains(cpu)) {
                return error(format!("this process may not use CPU {cpu}"));
            }
            return Ok(CorePlan::Pinned(cpus));
        }
        let count = match self.layers.given("cores") {
            Some(_) => self.read_given("cores", |text| values::integer(text, 1, CORES_MAX))?,
            None => machine.cpus.len() as u64,
        };
        let fits = count as usize <= machine.cpus.len();
        match pin {
            Pin::Float => Ok(CorePlan::Float(count as u16)),
            Pin::Auto if !fits => Ok(CorePlan::Float(count as u16)),
            _ if fits => Ok(CorePlan::Pinned(machine.cpus[..count as usize].to_vec())),
            _ => {
                let (text, origin) = self.layers.text("pin");
                let have = machine.cpus.len();
                let reason = format!("{count} cores cannot each have one of {have} CPUs");
                Err(value_error("pin", text, origin, reason))
            }
        }
    }
}

fn value_error(key: &'static str, text: &str, origin: &Origin, reason: String) -> ConfigError {
    ConfigError::Value { key, text: text.to_owned(), origin: origin.clone(), reason }
}

fn cluster_name(text: &str) -> Result<String, String> {
    /// It stands in every handshake.
    const NAME_BYTES_MAX: usize = 64;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err(format!("a name has 1 to {NAME_BYTES_MAX} letters, digits, dashes, dots, underscores"))
}

fn directory(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    Ok(PathBuf::from(text))
}

fn eviction(text: &str) -> Result<Eviction, String> {
    values::choice(text, &[("lru", Eviction::Lru), ("sieve", Eviction::Sieve)])
}

fn durability(text: &str) -> Result<Durability, String> {
    values::choice(text, &[("fsync", Durability::Fsync), ("memory", Durability::Memory)])
}

fn segment_size(text: &str) -> Result<u64, String> {
    let bytes = values::size(text)?;
    if (64 << 10..=1 << 30).contains(&bytes) {
        return Ok(bytes.next_multiple_of(shards::wal::BLOCK_BYTES as u64));
    }
    Err("it must lie between 64KiB and 1GiB".into())
}

fn reads(text: &str) -> Result<ReadMode, String> {
    values::choice(text, &[("quorum", ReadMode::Quorum), ("lease", ReadMode::Lease)])
}

fn advertise(text: &str) -> Result<Advertise, String> {
    values::choice(text, &[("core", Advertise::Core), ("node", Advertise::Node)])
}

fn value_size(text: &str) -> Result<usize, String> {
    let bytes = values::size(text)?;
    let most = shards::command::VALUE_BYTES_MAX;
    match usize::try_from(bytes) {
        Ok(bytes) if (1..=most).contains(&bytes) => Ok(bytes),
        _ => Err(format!("it must lie between 1 byte and {} MiB", most >> 20)),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("it is not a filter: {error}")),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    let choices =
        [("auto", LogFormat::Auto), ("pretty", LogFormat::Pretty), ("json", LogFormat::Json)];
    values::choice(text, &choices)
}

#[cfg(test)]
mod tests;
