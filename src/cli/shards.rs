//! `coracle shards`: who leads what, as a table or as JSON; and `transfer`, `recover`, `digest`.
//!
//! One node is asked, over HTTP; it knows or finds out about the others.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use clap::{Args, Subcommand};

use super::table::{Side, Table, bytes, grouped};
use super::{CommandError, digest};
use crate::control::fetch;
use crate::control::view::{
    ErrorView, RecoverWish, ShardView, ShardsView, TransferDone, TransferWish,
};

/// How long a node may take to answer. It may have to wait for others and for a transfer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two looks of `--watch`.
const WATCH_PERIOD: Duration = Duration::from_secs(1);
/// The port of HTTP where the address names none.
const HTTP_PORT: u16 = 7_480;

/// Which node a command asks.
#[derive(Clone, Debug, Args)]
pub struct Whom {
    /// HTTP address of any node of the cluster; the port is 7480 unless given
    #[arg(
        long,
        global = true,
        value_name = "HOST[:PORT]",
        default_value = "127.0.0.1:7480",
        env = "CORACLE_ADDR"
    )]
    addr: String,
}

impl Whom {
    /// The node.
    pub fn resolve(&self) -> Result<Node, CommandError> {
        Node::resolve(&self.addr)
    }
}

/// The flags of `coracle shards`.
#[derive(Clone, Debug, Args)]
pub struct ShardsOptions {
    #[command(flatten)]
    whom: Whom,
    /// Print JSON, as /v1/shards gives it: one document, one per second with --watch
    #[arg(long)]
    json: bool,
    /// Look again every second until interrupted
    #[arg(long)]
    watch: bool,
    /// What to do instead of listing the shards
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// Hands the leadership of a shard to a node, and waits until it leads
    Transfer {
        /// The shard
        shard: u16,
        /// The node that shall lead; it must hold a replica
        #[arg(long, value_name = "NODE")]
        to: u16,
    },
    /// Lets a shard whose majority is lost for good go on from one node; may lose data
    ///
    /// Only for a shard that stands still because most of its replicas will never come back. The
    /// replica on NODE becomes the only one: writes that only the others had are lost, even
    /// acknowledged ones, and writes that were reported as failed may turn out to have happened.
    /// If it holds nothing, the shard starts empty. The other nodes' replicas are replaced.
    Recover {
        /// The shard
        shard: u16,
        /// The node whose replica the shard goes on from
        #[arg(long, value_name = "NODE")]
        from: u16,
        /// Do not ask whether the loss of data is accepted
        #[arg(long)]
        accept_data_loss: bool,
    },
    /// Compares what the replicas of each shard hold, at equal positions of the log
    Digest,
}

/// Runs the command.
pub fn run(options: ShardsOptions) -> Result<(), CommandError> {
    if options.action.is_some() && (options.json || options.watch) {
        let reason = "--json and --watch belong to the list of shards";
        return Err(CommandError::NotBegun(reason.into()));
    }
    let node = options.whom.resolve()?;
    match options.action {
        None if options.watch => watch(&node, options.json),
        None => {
            let text = look(&node, options.json)?;
            io::stdout().write_all(text.as_bytes())?;
            Ok(())
        }
        Some(Action::Transfer { shard, to }) => transfer(&node, shard, to),
        Some(Action::Recover { shard, from, accept_data_loss }) => {
            recover(&node, shard, from, accept_data_loss)
        }
        Some(Action::Digest) => digest::run(&node),
    }
}

/// The node that is asked.
#[derive(Debug)]
pub struct Node {
    addresses: Vec<SocketAddr>,
    runtime: tokio::runtime::Runtime,
}

impl Node {
    /// Finds the addresses behind `HOST[:PORT]`.
    fn resolve(text: &str) -> Result<Node, CommandError> {
        let error = |reason: &dyn std::fmt::Display| {
            CommandError::NotBegun(format!("--addr {text:?}: {reason}"))
        };
        let addresses = match text.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(host) => vec![SocketAddr::new(host, HTTP_PORT)],
            Err(_) => {
                let with_port = match text.rsplit_once(':') {
                    Some((_, port)) if !port.ends_with(']') => text.to_owned(),
                    _ => format!("{text}:{HTTP_PORT}"),
                };
                with_port.to_socket_addrs().map_err(|source| error(&source))?.collect()
            }
        };
        if addresses.is_empty() {
            return Err(error(&"the name has no address"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Node { addresses, runtime: runtime.map_err(|source| error(&source))? })
    }

    /// The answer to a `GET` from the first address that gives one.
    pub fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, CommandError> {
        self.ask(|address| fetch::get(address, path, ANSWER_DEADLINE))
    }

    /// The answer to a `POST` of a JSON document, from the first address that gives one.
    pub fn post<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        document: &str,
    ) -> Result<T, CommandError> {
        let post = |address| fetch::post_json(address, path, document.into(), ANSWER_DEADLINE);
        self.ask(post)
    }

    fn ask<T, F>(&self, request: impl Fn(SocketAddr) -> F) -> Result<T, CommandError>
    where
        T: serde::de::DeserializeOwned,
        F: Future<Output = Result<fetch::Answer, fetch::FetchError>>,
    {
        let mut last = None;
        for address in &self.addresses {
            match self.runtime.block_on(request(*address)) {
                Ok(answer) => return read_answer(&answer),
                // A name with two addresses of which only one is served, as localhost often is.
                Err(error @ fetch::FetchError::Connect { .. }) => last = Some(error),
                Err(error) => return Err(CommandError::Failed(error.to_string())),
            }
        }
        let reason = last.map_or_else(String::new, |error| error.to_string());
        Err(CommandError::Failed(format!("{reason}; is a node running there? (--addr)")))
    }
}

fn read_answer<T: serde::de::DeserializeOwned>(answer: &fetch::Answer) -> Result<T, CommandError> {
    if answer.status.is_success() {
        return serde_json::from_slice(&answer.body)
            .map_err(|error| CommandError::Failed(format!("the answer makes no sense: {error}")));
    }
    let reason = serde_json::from_slice::<ErrorView>(&answer.body).map(|view| view.error);
    Err(CommandError::Failed(reason.unwrap_or_else(|_| format!("the node says {}", answer.status))))
}

fn look(node: &Node, json: bool) -> Result<String, CommandError> {
    let view: ShardsView = node.get("/v1/shards")?;
    if !json {
        return Ok(render(&view.shards));
    }
    let document = serde_json::to_string(&view);
    Ok(document.map_err(|error| CommandError::Failed(error.to_string()))? + "\n")
}

/// Looks until interrupted. A node that does not answer is told, and asked again.
fn watch(node: &Node, json: bool) -> Result<(), CommandError> {
    /// Clears the screen and goes to its first line.
    const CLEAR: &str = "\x1b[2J\x1b[H";
    let mut out = io::stdout();
    let clear = if out.is_terminal() && !json { CLEAR } else { "" };
    loop {
        match look(node, json) {
            Ok(text) => write!(out, "{clear}{text}")?,
            Err(error) if json => eprintln!("coracle: {error}"),
            Err(error) => writeln!(out, "{clear}{error}")?,
        }
        if clear.is_empty() && !json {
            writeln!(out)?;
        }
        out.flush()?;
        std::thread::sleep(WATCH_PERIOD);
    }
}

fn transfer(node: &Node, shard: u16, to: u16) -> Result<(), CommandError> {
    let document = serde_json::to_string(&TransferWish { to });
    let document = document.map_err(|error| CommandError::Failed(error.to_string()))?;
    let done: TransferDone = node.post(&format!("/v1/shards/{shard}/transfer"), &document)?;
    writeln!(io::stdout(), "shard {} is led by node {}", done.shard, done.leader)?;
    Ok(())
}

/// Lets a shard go on from one node, after the operator has accepted what that costs.
fn recover(node: &Node, shard: u16, from: u16, is_accepted: bool) -> Result<(), CommandError> {
    let warning = format!(
        "Shard {shard} will go on from node {from} alone.\n\
         - Writes that only its other replicas had are lost, even if they were acknowledged.\n\
         - Writes that were reported as not done may turn out to have happened.\n\
         - If node {from} holds nothing of the shard, the shard starts empty.\n\
         - Replicas on other nodes are discarded, whatever they hold.\n\
         Do this only if most replicas of the shard are lost for good. It cannot be undone."
    );
    eprintln!("{warning}");
    if !is_accepted {
        if !io::stdin().is_terminal() {
            let reason = "the loss of data must be accepted, with --accept-data-loss";
            return Err(CommandError::NotBegun(reason.into()));
        }
        eprint!("Type \"yes\" to go on: ");
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        if answer.trim() != "yes" {
            return Err(CommandError::NotBegun("nothing was done".into()));
        }
    }
    let document = serde_json::to_string(&RecoverWish { from, accept_data_loss: true });
    let document = document.map_err(|error| CommandError::Failed(error.to_string()))?;
    let done: TransferDone = node.post(&format!("/v1/shards/{shard}/recover"), &document)?;
    writeln!(io::stdout(), "shard {} goes on, led by node {}", done.shard, done.leader)?;
    Ok(())
}

/// The table of shards, and below it how leaders spread.
pub fn render(shards: &[ShardView]) -> String {
    let mut table = Table::new(&[
        ("SHARD", Side::Right),
        ("SLOTS", Side::Left),
        ("LEADER", Side::Left),
        ("ADDRESS", Side::Left),
        ("TERM", Side::Right),
        ("COMMIT", Side::Right),
        ("APPLIED", Side::Right),
        ("REPLICAS (LAG)", Side::Left),
        ("KEYS", Side::Right),
        ("BYTES", Side::Right),
        ("OPS/S", Side::Right),
    ]);
    for shard in shards {
        let (place, address) = match &shard.leader {
            Some(leader) => (format!("{}/{}", leader.node, leader.core), leader.addr.clone()),
            None => ("none".to_owned(), String::new()),
        };
        table.row(vec![
            shard.shard.to_string(),
            format!("{}-{}", shard.slots[0], shard.slots[1]),
            place,
            address,
            shard.term.to_string(),
            shard.commit.to_string(),
            shard.applied.to_string(),
            replicas(shard),
            grouped(shard.keys),
            bytes(shard.bytes),
            grouped(shard.ops_per_s),
        ]);
    }
    table.render() + &summary(shards)
}

/// The followers with how far they are behind; who is not simply following, or not sound, says
/// what it is.
fn replicas(shard: &ShardView) -> String {
    let leader = shard.leader.as_ref().map(|leader| leader.node);
    let others = shard.replicas.iter().filter(|replica| Some(replica.node) != leader);
    let words = others.map(|replica| {
        let lag = grouped(replica.lag);
        match (replica.role.name(), replica.health.name()) {
            ("follower", "sound") => format!("{} ({lag})", replica.node),
            (role, "sound") => format!("{} ({lag}, {role})", replica.node),
            (_, health) => format!("{} ({lag}, {health})", replica.node),
        }
    });
    words.collect::<Vec<_>>().join("  ")
}

fn summary(shards: &[ShardView]) -> String {
    let mut leaders: BTreeMap<u16, BTreeMap<u16, usize>> = BTreeMap::new();
    for leader in shards.iter().filter_map(|shard| shard.leader.as_ref()) {
        *leaders.entry(leader.node).or_default().entry(leader.core).or_default() += 1;
    }
    let mut text = format!("\n{} shards.", shards.len());
    for (node, cores) in &leaders {
        let total: usize = cores.values().sum();
        let counts: Vec<String> = cores.values().map(usize::to_string).collect();
        text += &format!(" Node {node} leads {total} ({} by core).", counts.join(" + "));
    }
    let orphans = shards.iter().filter(|shard| shard.leader.is_none()).count();
    if orphans > 0 {
        text += &format!(" {orphans} without a leader.");
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::view::{HealthView, LeaderPlace, ReplicaView, RoleView};

    fn shard(number: u16, leader: Option<u16>) -> ShardView {
        let place = |node| LeaderPlace { node, core: 1, addr: format!("127.0.0.{node}:7402") };
        let replica = |node, role, lag| ReplicaView {
            node,
            core: 1,
            role,
            matched: 9,
            lag,
            health: HealthView::Sound,
        };
        ShardView {
            shard: number,
            slots: [0, 511],
            leader: leader.map(place),
            term: 3,
            commit: 901,
            applied: 901,
            keys: 31_250,
            bytes: 4_000_000,
            ops_per_s: 1_200,
            replicas: vec![
                replica(1, RoleView::Leader, 0),
                replica(2, RoleView::Follower, 0),
                replica(3, RoleView::Learner, 1_500),
            ],
            ..ShardView::default()
        }
    }

    #[test]
    fn the_table_shows_leaders_and_lag() {
        let text = render(&[shard(0, Some(1)), shard(1, None)]);
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = text.lines().take(3).map(words).collect();
        let head = "SHARD SLOTS LEADER ADDRESS TERM COMMIT APPLIED REPLICAS (LAG) KEYS BYTES OPS/S";
        let numbers = "31,250 3.81 MiB 1,200";
        let led = "0 0-511 1/1 127.0.0.1:7402 3 901 901 2 (0) 3 (1,500, learner)";
        let orphan = "1 0-511 none 3 901 901 1 (0, leader) 2 (0) 3 (1,500, learner)";
        assert_eq!(
            lines,
            [head.to_owned(), format!("{led} {numbers}"), format!("{orphan} {numbers}")]
        );
        let mut unwell = shard(0, Some(1));
        unwell.replicas[1].health = HealthView::Quarantined;
        assert!(render(&[unwell]).contains(" 2 (0, quarantined)  3 (1,500, learner) "));
        assert!(text.ends_with("\n2 shards. Node 1 leads 1 (1 by core). 1 without a leader.\n"));
    }

    #[test]
    fn addresses_may_leave_the_port_out() {
        for (text, address) in [
            ("127.0.0.1", "127.0.0.1:7480"),
            ("127.0.0.2:8000", "127.0.0.2:8000"),
            ("::1", "[::1]:7480"),
            ("[::1]", "[::1]:7480"),
            ("[::1]:8000", "[::1]:8000"),
        ] {
            let node = Node::resolve(text).expect("an address");
            assert_eq!(node.addresses[0].to_string(), address);
        }
        assert!(Node::resolve("127.0.0.1:http").is_err());
        assert!(Node::resolve("").is_err());
    }
}
