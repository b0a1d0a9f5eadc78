//! The groups of STAT: lines of a name and a value, ended by an empty one.
//!
//! The names of the general group and of `settings` are memcached's, because tools look for them;
//! what it has and this server has not is left out rather than invented. Figures of the whole node
//! are as fresh as the core's last report. `shards` is this server's own.

use std::fmt::{Arguments, Write as _};

use proto::memcached::{Echo, Status};
use shards::contract::{Durability, Now};

use crate::cluster_map::ClusterMap;
use crate::session::context::ServerFacts;

/// The version of memcached whose behaviour clients may expect. libmemcached parses it as three
/// numbers and refuses a server whose first one is zero, as our own is.
pub const MEMCACHED_VERSION: &str = "1.6.0";

/// Appends the packets of `group`, or of an error if there is no such group.
pub fn write(
    echo: Echo,
    group: &[u8],
    now: Now,
    cluster: &ClusterMap,
    facts: &ServerFacts,
    out: &mut Vec<u8>,
) {
    let mut lines = Lines { echo, text: String::new(), out };
    match group {
        b"" => general(now, cluster, facts, &mut lines),
        b"settings" => settings(cluster, facts, &mut lines),
        b"shards" => shards(cluster, &mut lines),
        // There are no slab classes to tell of; and the counters only ever grow, since resetting
        // them for one reader would falsify them for all others.
        b"items" | b"sizes" | b"reset" => {}
        _ => return echo.error(out, Status::NOT_FOUND, b"Not found"),
    }
    echo.stat(out, b"", b"");
}

/// Packets of one group on their way into the output.
struct Lines<'a> {
    echo: Echo,
    text: String,
    out: &'a mut Vec<u8>,
}

impl Lines<'_> {
    fn add(&mut self, name: &str, value: Arguments<'_>) {
        self.text.clear();
        // Writing into a string cannot fail.
        let _ = self.text.write_fmt(value);
        self.echo.stat(self.out, name.as_bytes(), self.text.as_bytes());
    }
}

fn general(now: Now, cluster: &ClusterMap, facts: &ServerFacts, lines: &mut Lines<'_>) {
    let totals = &facts.totals;
    let up_seconds = now.monotonic.0.saturating_sub(facts.started.monotonic.0) / 1_000_000_000;
    let numbers: [(&str, u64); 19] = [
        ("pid", facts.process_id.into()),
        ("uptime", up_seconds),
        ("time", now.wall.0 / 1_000),
        ("pointer_size", u64::from(usize::BITS)),
        ("max_connections", facts.connections_max.into()),
        ("curr_connections", totals.connections),
        ("total_connections", totals.connections_accepted),
        ("rejected_connections", totals.connections_refused),
        ("cmd_total", totals.commands),
        ("cmd_get", totals.hits.saturating_add(totals.misses)),
        ("get_hits", totals.hits),
        ("get_misses", totals.misses),
        ("bytes_read", totals.bytes_in),
        ("bytes_written", totals.bytes_out),
        ("limit_maxbytes", facts.memory_bytes),
        ("threads", facts.cores.into()),
        ("bytes", totals.bytes),
        ("curr_items", totals.keys),
        ("evictions", totals.evicted),
    ];
    for (name, number) in numbers {
        lines.add(name, format_args!("{number}"));
    }
    lines.add("version", format_args!("{MEMCACHED_VERSION}"));
    lines.add("coracle_version", format_args!("{}", env!("CARGO_PKG_VERSION")));
    lines.add("rusage_user", format_args!("{:.6}", totals.cpu_user.as_secs_f64()));
    lines.add("rusage_system", format_args!("{:.6}", totals.cpu_system.as_secs_f64()));
    lines.add("node", format_args!("{}", cluster.layout().node));
    lines.add("core", format_args!("{}", cluster.layout().core));
    lines.add("cluster", format_args!("{}", cluster.layout().name));
}

fn settings(cluster: &ClusterMap, facts: &ServerFacts, lines: &mut Lines<'_>) {
    let placement = &cluster.layout().placement;
    let durability = match facts.durability {
        Durability::Memory => "memory",
        Durability::Fsync => "fsync",
    };
    lines.add("maxbytes", format_args!("{}", facts.memory_bytes));
    lines.add("maxconns", format_args!("{}", facts.connections_max));
    lines.add("tcpport", format_args!("{}", facts.port));
    lines.add("udpport", format_args!("0"));
    lines.add("evictions", format_args!("on"));
    lines.add("num_threads", format_args!("{}", facts.cores));
    lines.add("item_size_max", format_args!("{}", facts.value_bytes_max));
    lines.add("cas_enabled", format_args!("yes"));
    lines.add("flush_enabled", format_args!("yes"));
    lines.add("auth_enabled_sasl", format_args!("no"));
    lines.add("binding_protocol", format_args!("auto-negotiate"));
    lines.add("shards", format_args!("{}", placement.shards()));
    lines.add("replication", format_args!("{}", placement.replication()));
    lines.add("durability", format_args!("{durability}"));
}

/// One line per shard: its number, and `slots=0-511 leader=1/0 addr=127.0.0.1:7401 term=3`; a
/// shard without a known leader has `leader=none` and no address.
fn shards(cluster: &ClusterMap, lines: &mut Lines<'_>) {
    for shard in cluster.shards() {
        let (first, last) = cluster.slots(shard);
        let view = cluster.leader(shard);
        let name = format!("shard_{shard}");
        let owner = view.leader.zip(cluster.leader_address(shard));
        match owner {
            Some((node, (host, port))) => {
                let core = cluster.home_core(shard, node);
                let address = std::net::SocketAddr::new(host, port);
                lines.add(
                    &name,
                    format_args!(
                        "slots={first}-{last} leader={node}/{core} addr={address} term={}",
                        view.term
                    ),
                );
            }
            None => lines
                .add(&name, format_args!("slots={first}-{last} leader=none term={}", view.term)),
        }
    }
}
