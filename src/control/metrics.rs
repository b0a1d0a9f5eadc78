//! `/metrics`: what the cores counted, in the text format of Prometheus.
//!
//! The text is written here rather than by a library: the numbers live in the cores, are copied
//! once per scrape, and a registry would be a second copy of them to keep in step. Names follow
//! the convention `coracle_<what>_<unit>[_total]`; each metric is written in one place, with its
//! help, so that no name can occur twice with two meanings.

use std::fmt::{self, Write as _};

use shards::contract::{Health, Role, ShardStatus};
use shards::ids::CoreIndex;

use super::collector::{Collector, NodeReport, Worst};
use super::messages::{CoreCounters, CoreReport};

/// Whether a metric only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric with one value per core: name, kind, help and where it stands.
type CoreMetric = (&'static str, Kind, &'static str, fn(&CoreCounters) -> u64);

const CORE_METRICS: &[CoreMetric] = &[
    ("connections", Kind::Gauge, "Open client connections.", |c| c.connections),
    ("connections_accepted_total", Kind::Counter, "Client connections accepted.", |c| {
        c.connections_accepted
    }),
    ("connections_refused_total", Kind::Counter, "Client connections beyond the limit.", |c| {
        c.connections_refused
    }),
    ("protocol_errors_total", Kind::Counter, "Connections closed for what they sent.", |c| {
        c.protocol_errors
    }),
    ("commands_total", Kind::Counter, "Commands taken from clients.", |c| c.commands),
    ("commands_to_siblings_total", Kind::Counter, "Commands owned by another core here.", |c| {
        c.commands_to_siblings
    }),
    ("commands_to_nodes_total", Kind::Counter, "Commands led by another node.", |c| {
        c.commands_to_nodes
    }),
    ("client_received_bytes_total", Kind::Counter, "Bytes from clients.", |c| c.client_bytes_in),
    ("client_sent_bytes_total", Kind::Counter, "Bytes to clients.", |c| c.client_bytes_out),
    ("peer_links", Kind::Gauge, "Links to cores of other nodes that are up.", |c| c.peer_links),
    ("peer_frames_received_total", Kind::Counter, "Frames from other nodes.", |c| c.peer_frames_in),
    ("peer_frames_sent_total", Kind::Counter, "Frames to other nodes.", |c| c.peer_frames_out),
    ("peer_frames_dropped_total", Kind::Counter, "Frames that found no link or no room.", |c| {
        c.peer_frames_dropped
    }),
    ("peer_received_bytes_total", Kind::Counter, "Bytes from other nodes.", |c| c.peer_bytes_in),
    ("peer_sent_bytes_total", Kind::Counter, "Bytes to other nodes.", |c| c.peer_bytes_out),
    ("reads_by_lease_total", Kind::Counter, "Reads answered by a leader's lease.", |c| {
        c.reads.lease
    }),
    ("reads_by_quorum_total", Kind::Counter, "Reads answered after asking a majority.", |c| {
        c.reads.quorum
    }),
    ("reads_by_follower_total", Kind::Counter, "Linearizable reads answered by followers.", |c| {
        c.reads.follower
    }),
    ("reads_stale_total", Kind::Counter, "Reads answered by a replica as it was.", |c| {
        c.reads.stale
    }),
    ("read_rounds_total", Kind::Counter, "Rounds to a majority, for reads and leases.", |c| {
        c.reads.rounds
    }),
    ("read_questions_total", Kind::Counter, "Questions of followers to their leaders.", |c| {
        c.reads.questions
    }),
    ("log_writes_total", Kind::Counter, "Durable writes of the log.", |c| c.log.writes),
    ("log_written_bytes_total", Kind::Counter, "Bytes written to the log.", |c| c.log.bytes),
    ("log_write_nanoseconds_total", Kind::Counter, "Time that writes of the log took.", |c| {
        c.log.write_ns
    }),
    ("log_segments", Kind::Gauge, "Segments of the log in use.", |c| c.log.segments),
    ("log_spare_segments", Kind::Gauge, "Files ready to become segments.", |c| c.log.spares),
    ("log_released_segments_total", Kind::Counter, "Segments of no use any more.", |c| {
        c.log.released
    }),
    ("log_disk_full", Kind::Gauge, "1 while there is no room for the next segment.", |c| {
        c.log.disk_full
    }),
    ("log_failed", Kind::Gauge, "1 once the log could not be written: the core is silent.", |c| {
        c.log.failed
    }),
];

/// Metrics about the state of replicas, likewise with one value per core, under their own names.
const CARE_METRICS: &[CoreMetric] = &[
    ("scrub_bytes_total", Kind::Counter, "Bytes of stores looked at for damage.", |c| {
        c.care.scrubbed_bytes
    }),
    (
        "scrub_passes_total",
        Kind::Counter,
        "Times a whole store was looked at and is intact.",
        |c| c.care.scrub_passes,
    ),
    ("scrub_damages_total", Kind::Counter, "Damaged entries found.", |c| c.care.damages),
    ("digest_comparisons_total", Kind::Counter, "Comparisons of the replicas of a shard.", |c| {
        c.care.comparisons
    }),
    ("digest_mismatches_total", Kind::Counter, "Comparisons that found a difference.", |c| {
        c.care.mismatches
    }),
    ("replicas_quarantined_total", Kind::Counter, "Replicas taken out of service.", |c| {
        c.care.quarantined
    }),
    ("replicas_rebuilt_total", Kind::Counter, "Replicas rebuilt after that.", |c| c.care.rebuilt),
];

/// A metric with the worst of the last ten to twenty seconds per core: name, help, value.
type WorstMetric = (&'static str, &'static str, fn(&Worst) -> u64);

const WORST_METRICS: &[WorstMetric] = &[
    ("turn", "Longest turn of the last ten to twenty seconds.", |w| w.turn_ns),
    (
        "lateness",
        "Worst lateness to a deadline of the engine in the last ten to twenty seconds.",
        |w| w.lateness_ns,
    ),
    ("log_write", "Longest write of the log in the last ten to twenty seconds.", |w| {
        w.log_write_ns
    }),
];

/// A metric with one value per replica on this node.
type ShardMetric = (&'static str, Kind, &'static str, fn(&ShardStatus) -> u64);

const SHARD_METRICS: &[ShardMetric] = &[
    ("leads", Kind::Gauge, "1 if this node leads the shard.", |s| {
        u64::from(s.role == Role::Leader)
    }),
    ("leader_known", Kind::Gauge, "1 if this replica knows a leader.", |s| {
        u64::from(s.leader.leader.is_some())
    }),
    ("term", Kind::Gauge, "Raft term.", |s| s.leader.term.0),
    ("commit_index", Kind::Gauge, "Raft commit index.", |s| s.commit.0),
    ("applied_index", Kind::Gauge, "Raft index applied to the store.", |s| s.applied.0),
    ("keys", Kind::Gauge, "Live keys.", |s| s.keys),
    ("bytes", Kind::Gauge, "Accounted bytes.", |s| s.bytes),
    ("limit_bytes", Kind::Gauge, "Accounted bytes allowed.", |s| s.bytes_max),
    ("evicted_total", Kind::Counter, "Entries evicted.", |s| s.evicted),
    ("expired_total", Kind::Counter, "Entries expired.", |s| s.expired),
    ("operations_total", Kind::Counter, "Commands applied or read.", |s| s.operations),
    ("hits_total", Kind::Counter, "Reads that found their key.", |s| s.hits),
    ("misses_total", Kind::Counter, "Reads that did not find their key.", |s| s.misses),
    ("touches_sent_total", Kind::Counter, "Uses by reads here, on their way into the log.", |s| {
        s.touches_sent
    }),
    ("touches_applied_total", Kind::Counter, "Uses by reads that were applied.", |s| {
        s.touches_applied
    }),
];

/// The whole page.
pub fn render(collector: &Collector, report: &NodeReport, started_unix_s: u64) -> String {
    let mut page = String::new();
    // Writing to a String cannot fail.
    let _ = write_node(&mut page, collector, started_unix_s);
    let _ = write_cores(&mut page, report);
    let _ = write_shards(&mut page, report);
    page
}

fn write_head(page: &mut String, name: &str, kind: Kind, help: &str) -> fmt::Result {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn write_node(page: &mut String, collector: &Collector, started_unix_s: u64) -> fmt::Result {
    let config = collector.config();
    write_head(page, "coracle_node_info", Kind::Gauge, "Which node this is.")?;
    // The name of a cluster has no character that would need escaping.
    writeln!(
        page,
        "coracle_node_info{{node=\"{}\",cluster=\"{}\",version=\"{}\"}} 1",
        config.node,
        config.cluster,
        env!("CARGO_PKG_VERSION")
    )?;
    write_head(page, "coracle_memory_limit_bytes", Kind::Gauge, "Accounted bytes allowed.")?;
    writeln!(page, "coracle_memory_limit_bytes {}", config.memory_bytes)?;
    let name = "process_start_time_seconds";
    write_head(page, name, Kind::Gauge, "Start of the process, seconds since the epoch.")?;
    writeln!(page, "{name} {started_unix_s}")?;
    if let Some(bytes) = resident_bytes() {
        let name = "process_resident_memory_bytes";
        write_head(page, name, Kind::Gauge, "Resident memory of the process.")?;
        writeln!(page, "{name} {bytes}")?;
    }
    Ok(())
}

/// Resident memory as the kernel counts it.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    // SAFETY: sysconf reads a constant of the system; it has no preconditions.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * u64::try_from(page_bytes).ok()?)
}

fn write_cores(page: &mut String, report: &NodeReport) -> fmt::Result {
    let name = "coracle_core_answers";
    write_head(page, name, Kind::Gauge, "1 if the core answered this scrape in time.")?;
    for (core, answer) in report.cores.iter().enumerate() {
        writeln!(page, "{name}{{core=\"{core}\"}} {}", u64::from(answer.is_some()))?;
    }
    for (suffix, kind, help, value) in CORE_METRICS {
        let name = format!("coracle_core_{suffix}");
        write_head(page, &name, *kind, help)?;
        for CoreReport { core, counters, .. } in report.cores.iter().flatten() {
            writeln!(page, "{name}{{core=\"{core}\"}} {}", value(counters))?;
        }
    }
    for (suffix, kind, help, value) in CARE_METRICS {
        let name = format!("coracle_{suffix}");
        write_head(page, &name, *kind, help)?;
        for CoreReport { core, counters, .. } in report.cores.iter().flatten() {
            writeln!(page, "{name}{{core=\"{core}\"}} {}", value(counters))?;
        }
    }
    for (suffix, help, value) in WORST_METRICS {
        let name = format!("coracle_core_{suffix}_worst_nanoseconds");
        write_head(page, &name, Kind::Gauge, help)?;
        for (core, worst) in report.worst.iter().enumerate() {
            writeln!(page, "{name}{{core=\"{core}\"}} {}", value(worst))?;
        }
    }
    write_turn_times(page, report)
}

/// Whether a bound of turn times is told: three per decade, and from 1 to 10 ms all there are.
fn is_told(bound_ns: u64) -> bool {
    let mut mantissa = bound_ns;
    while mantissa.is_multiple_of(10) {
        mantissa /= 10;
    }
    matches!(mantissa, 1 | 2 | 5) || (1_000_000..=10_000_000).contains(&bound_ns)
}

/// Nanoseconds as seconds, exactly.
fn seconds(ns: u64) -> String {
    let text = format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn write_turn_times(page: &mut String, report: &NodeReport) -> fmt::Result {
    let name = "coracle_turn_seconds";
    let help = "Time a core was busy before it waited or let other tasks run.";
    write_head(page, name, Kind::Histogram, help)?;
    for CoreReport { core, turn_times, .. } in report.cores.iter().flatten() {
        for (bound, count) in turn_times.cumulated().filter(|&(bound, _)| is_told(bound)) {
            let bound = seconds(bound);
            writeln!(page, "{name}_bucket{{core=\"{core}\",le=\"{bound}\"}} {count}")?;
        }
        let (sum, count) = (seconds(turn_times.sum_ns()), turn_times.count());
        writeln!(page, "{name}_bucket{{core=\"{core}\",le=\"+Inf\"}} {count}")?;
        writeln!(page, "{name}_sum{{core=\"{core}\"}} {sum}")?;
        writeln!(page, "{name}_count{{core=\"{core}\"}} {count}")?;
    }
    let name = "coracle_turn_max_seconds";
    write_head(page, name, Kind::Gauge, "Longest turn since the node started.")?;
    for CoreReport { core, turn_times, .. } in report.cores.iter().flatten() {
        writeln!(page, "{name}{{core=\"{core}\"}} {}", seconds(turn_times.max_ns()))?;
    }
    Ok(())
}

fn write_shards(page: &mut String, report: &NodeReport) -> fmt::Result {
    let mut replicas: Vec<(CoreIndex, &ShardStatus)> = report.replicas().collect();
    replicas.sort_by_key(|(_, status)| status.shard);
    for (suffix, kind, help, value) in SHARD_METRICS {
        let name = format!("coracle_shard_{suffix}");
        write_head(page, &name, *kind, help)?;
        for (core, status) in &replicas {
            let (shard, value) = (status.shard, value(status));
            writeln!(page, "{name}{{shard=\"{shard}\",core=\"{core}\"}} {value}")?;
        }
    }
    let name = "coracle_shards_quarantined";
    let help = "Replicas here that are out of service, or being filled anew after that.";
    write_head(page, name, Kind::Gauge, help)?;
    let is_unwell = |(_, status): &&(CoreIndex, &ShardStatus)| status.health != Health::Sound;
    writeln!(page, "{name} {}", replicas.iter().filter(is_unwell).count())?;
    let name = "coracle_shard_replica_lag_entries";
    write_head(page, name, Kind::Gauge, "Entries a replica lacks, told by the shard's leader.")?;
    for (_, status) in &replicas {
        for replica in &status.replicas {
            let (shard, node, lag) = (status.shard, replica.node, replica.lag);
            writeln!(page, "{name}{{shard=\"{shard}\",node=\"{node}\"}} {lag}")?;
        }
    }
    Ok(())
}
