//! INFO: what the server says about itself, in the fields that tools parse.
//!
//! Figures are totals of the node, as last published by its cores; who leads what is as this core
//! knows it. A field that would have to be invented is left out, unless clients refuse to work
//! without it.

use std::fmt::Write;

use proto::resp::encode;
use proto::resp::request::Arguments;
use shards::contract::Durability;

use crate::cluster_map::Ownership;
use crate::commands::Execution;
use crate::session::SessionContext;

/// The version of Redis whose behaviour clients may expect.
pub const REDIS_VERSION: &str = "7.2.0";
/// Our own version.
pub const CORACLE_VERSION: &str = env!("CARGO_PKG_VERSION");

type Section = fn(&SessionContext<'_>, &mut String) -> std::fmt::Result;

const SECTIONS: &[(&str, &str, Section)] = &[
    ("server", "Server", server),
    ("clients", "Clients", clients),
    ("memory", "Memory", memory),
    ("persistence", "Persistence", persistence),
    ("stats", "Stats", stats),
    ("replication", "Replication", replication),
    ("cpu", "CPU", cpu),
    ("cluster", "Cluster", cluster),
    ("keyspace", "Keyspace", keyspace),
    ("coracle", "Coracle", coracle),
];

/// INFO \[section ...\]
pub(super) fn info(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let wanted = arguments.from(1);
    let is_everything = wanted.is_empty()
        || wanted.iter().any(|name| {
            [&b"all"[..], b"everything", b"default"]
                .iter()
                .any(|group| name.eq_ignore_ascii_case(group))
        });
    let mut text = String::new();
    for (name, title, write) in SECTIONS {
        if is_everything || wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(name.as_bytes()))
        {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            // Writing to a string cannot fail.
            let _ = write!(text, "# {title}\r\n");
            let _ = write(execution.context, &mut text);
        }
    }
    execution.answer(|out, version| encode::verbatim(out, version, text.as_bytes()));
}

fn server(context: &SessionContext<'_>, text: &mut String) -> std::fmt::Result {
    let facts = context.facts;
    let uptime_s =
        context.now.monotonic.0.saturating_sub(facts.started.monotonic.0) / 1_000_000_000;
    write!(
        text,
        "redis_version:{REDIS_VERSION}\r\nredis_git_sha1:00000000\r\nredis_git_dirty:0\r\n\
         redis_mode:cluster\r\ncoracle_version:{CORACLE_VERSION}\r\nos:{}\r\narch_bits:{}\r\n\
         multiplexing_api:io_uring\r\nprocess_id:{}\r\nrun_id:{}\r\ntcp_port:{}\r\n\
         server_time_usec:{}\r\nuptime_in_seconds:{uptime_s}\r\nuptime_in_days:{}\r\nhz:10\r\n\
         configured_hz:10\r\n",
        std::env::consts::OS,
        usize::BITS,
        facts.process_id,
        facts.run_id,
        facts.port,
        context.now.wall.0.saturating_mul(1_000),
        uptime_s / 86_400,
    )
}

fn clients(context: &SessionContext<'_>, text: &mut String) -> std::fmt::Result {
    // Until the first totals are published, this core's own connections are what is known.
    let connected = context.facts.totals.connections.max(context.clients.len() as u64);
    write!(
        text,
        "connected_clients:{connected}\r\ncluster_connections:0\r\nmaxclients:{}\r\n\
         blocked_clients:0\r\ntracking_clients:0\r\n",
        context.facts.connections_max,
    )
}

fn memory(context: &SessionContext<'_>, text: &mut String) -> std::fmt::Result {
    let totals = &context.facts.totals;
    let limit = context.facts.memory_limit();
    write!(
        text,
        "used_memory:{}\r\nused_memory_human:{}\r\nused_memory_rss:{}\r\n\
         used_memory_rss_human:{}\r\nmaxmemory:{limit}\r\nmaxmemory_human:{}\r\n\
         maxmemory_policy:{}\r\nmem_allocator:mimalloc\r\n",
        totals.bytes,
        human(totals.bytes),
        totals.resident_bytes,
        human(totals.resident_bytes),
        human(limit),
        context.facts.eviction_policy(),
    )
}

fn human(bytes: u64) -> String {
    let units = [(1 << 40, 'T'), (1 << 30, 'G'), (1 << 20, 'M'), (1 << 10, 'K')];
    match units.iter().find(|&&(size, _)| bytes >= size) {
        Some(&(size, unit)) => format!("{:.2}{unit}", bytes as f64 / size as f64),
        None => format!("{bytes}B"),
    }
}

fn persistence(context: &SessionContext<'_>, text: &mut String) -> std::fmt::Result {
    let on_disk = u8::from(context.facts.durability == Durability::Fsync);
    write!(
        text,
        "loading:0\r\nasync_loading:0\r\nrdb_changes_since_last_save:0\r\n\
         rdb_bgsave_in_progress:0\r\nrdb_last_save_time:{}\r\nrdb_last_bgsave_status:ok\r\n\
         aof_enabled:{on_disk}\r\naof_rewrite_in_progress:0\r\naof_last_write_status:ok\r\n",
        context.facts.started.wall.0 / 1_000,
    )
}

fn stats(context: &SessionContext<'_>, text: &mut String) -> std::fmt::Result {
    let totals = &context.facts.totals;
    for (name, number) in [
        ("total_connections_received", totals.connections_accepted),
        ("total_commands_processed", totals.commands),
        ("instantaneous_ops_per_sec", totals.commands_per_second),
        ("total_net_input_bytes", totals.bytes_in),
        ("total_net_output_bytes", totals.bytes_out),
        ("rejected_connections", totals.connections_refused),
        ("expired_keys", totals.expired),
        ("evicted_keys", totals.evicted),
        ("keyspace_hits", totals.hits),
        ("keyspace_misses", totals.misses),
    ] {
        write!(text, "{name}:{number}\r\n")?;
    }
    Ok(())
}

fn replication(context: &SessionContext<'_>, text: &mut String) -> std::fmt::Result {
    write!(
        text,
        "role:master\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\n\
         master_replid:{}\r\nmaster_repl_offset:{}\r\n",
        context.facts.run_id, context.facts.totals.applied,
    )
}

fn cpu(context: &SessionContext<'_>, text: &mut String) -> std::fmt::Result {
    let totals = &context.facts.totals;
    write!(
        text,
        "used_cpu_sys:{:.6}\r\nused_cpu_user:{:.6}\r\n",
        totals.cpu_system.as_secs_f64(),
        totals.cpu_user.as_secs_f64(),
    )
}

fn cluster(_: &SessionContext<'_>, text: &mut String) -> std::fmt::Result {
    write!(text, "cluster_enabled:1\r\n")
}

fn keyspace(context: &SessionContext<'_>, text: &mut String) -> std::fmt::Result {
    match context.facts.totals.keys_led {
        0 => Ok(()),
        keys => write!(text, "db0:keys={keys},expires=0,avg_ttl=0\r\n"),
    }
}

fn coracle(context: &SessionContext<'_>, text: &mut String) -> std::fmt::Result {
    let cluster = context.cluster;
    let layout = cluster.layout();
    let led_here =
        cluster.shards().filter(|&shard| cluster.ownership(shard) == Ownership::Here).count();
    let without_leader =
        cluster.shards().filter(|&shard| cluster.leader(shard).leader.is_none()).count();
    let durability = match context.facts.durability {
        Durability::Memory => "memory",
        Durability::Fsync => "fsync",
    };
    write!(
        text,
        "node:{}\r\ncore:{}\r\ncores:{}\r\nshards:{}\r\nshards_led_by_core:{led_here}\r\n\
         shards_without_leader:{without_leader}\r\ndurability:{durability}\r\n",
        layout.node,
        layout.core,
        context.facts.cores,
        cluster.shard_count(),
    )
}
