//! One report, or several beside each other, as a page that needs nothing but a browser, and
//! their comparison as text.
//!
//! The first report is what the others are compared with. A page with one report shows several
//! percentiles over time, one with more of them the 99th of each.

use std::fmt::Write;

use crate::plot::{Axis, Chart, Line, escape, short};
use crate::report::{Report, SecondSummary};
use crate::shards::{ShardSummary, Window};

/// A report and what it is called.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// The name, such as that of its file.
    pub name: &'a str,
    /// The report.
    pub report: &'a Report,
}

/// A figure that is compared.
struct Figure {
    name: &'static str,
    unit: &'static str,
    of: fn(&Report) -> f64,
}

const FIGURES: [Figure; 11] = [
    Figure { name: "throughput", unit: "op/s", of: |report| report.throughput },
    Figure { name: "mean", unit: "ms", of: |report| report.all.mean_ns / 1e6 },
    Figure { name: "p50", unit: "ms", of: |report| ms(report.all.p50_ns) },
    Figure { name: "p90", unit: "ms", of: |report| ms(report.all.p90_ns) },
    Figure { name: "p99", unit: "ms", of: |report| ms(report.all.p99_ns) },
    Figure { name: "p99.9", unit: "ms", of: |report| ms(report.all.p999_ns) },
    Figure { name: "p99.99", unit: "ms", of: |report| ms(report.all.p9999_ns) },
    Figure { name: "max", unit: "ms", of: |report| ms(report.all.max_ns) },
    Figure { name: "requests", unit: "", of: |report| report.all.count as f64 },
    Figure { name: "errors", unit: "", of: |report| report.failed() as f64 },
    Figure {
        name: "generator CPU",
        unit: "µs/op",
        of: |report| report.generator.cpu_ns_per_operation / 1e3,
    },
];

fn ms(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}

/// The ratio to the first report, where there is one.
fn ratio(figure: &Figure, reports: &[Named<'_>], report: &Report) -> Option<f64> {
    let first = (figure.of)(reports.first()?.report);
    let is_first = std::ptr::eq(reports.first()?.report, report);
    (!is_first && first > 0.0).then(|| (figure.of)(report) / first)
}

/// The figures of all reports as a table for people, each with its ratio to the first.
pub fn compare(reports: &[Named<'_>]) -> String {
    let mut out = format!("{:<22}", "");
    for Named { name, .. } in reports {
        // Writing to a string cannot fail, here and below.
        let _ = write!(out, "{name:>26}");
    }
    out.push('\n');
    for figure in &FIGURES {
        let _ = write!(out, "{:<22}", format!("{} {}", figure.name, figure.unit));
        for Named { report, .. } in reports {
            let ratio = ratio(figure, reports, report);
            let ratio = ratio.map_or(String::new(), |ratio| format!(" ({ratio:.2}×)"));
            let _ = write!(out, "{:>26}", format!("{}{ratio}", short((figure.of)(report))));
        }
        out.push('\n');
    }
    for Named { name, report } in reports {
        for warning in &report.warnings {
            let _ = writeln!(out, "warning    {name}: {warning}");
        }
    }
    out
}

/// A page with all reports.
pub fn page(reports: &[Named<'_>]) -> String {
    let mut out = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <title>coracle-loadgen</title>\n<style>\n\
         body { font-family: sans-serif; max-width: 960px; margin: 2em auto; color: #202020; }\n\
         table { border-collapse: collapse; margin: 1em 0; }\n\
         td, th { padding: 0.2em 0.8em; text-align: right; border-bottom: 1px solid #e0e0e0; }\n\
         td:first-child, th:first-child { text-align: left; }\n\
         .warning { color: #b2182b; }\n</style>\n</head>\n<body>\n<h1>Load report</h1>\n",
    );
    settings(&mut out, reports);
    for Named { name, report } in reports {
        for warning in &report.warnings {
            let (name, warning) = (escape(name), escape(warning));
            let _ = writeln!(out, "<p class=\"warning\">{name}: {warning}</p>");
        }
    }
    figures(&mut out, reports);
    traces(&mut out, reports);
    for chart in [curve(reports), throughput(reports), latency(reports)] {
        out.push_str(&chart.svg());
    }
    for Named { name, report } in reports {
        stages(&mut out, name, report);
        events(&mut out, name, report);
        shards(&mut out, name, report);
    }
    out.push_str("</body>\n</html>\n");
    out
}

/// A row of a table.
fn row(out: &mut String, tag: &str, cells: &[String]) {
    out.push_str("<tr>");
    for cell in cells {
        let _ = write!(out, "<{tag}>{}</{tag}>", escape(cell));
    }
    out.push_str("</tr>\n");
}

fn settings(out: &mut String, reports: &[Named<'_>]) {
    out.push_str("<table>\n");
    let titles = ["run", "protocol", "load", "connections", "pipeline", "threads", "reads", "keys"];
    row(out, "th", &titles.map(str::to_owned));
    for Named { name, report } in reports {
        let setting = &report.setting;
        let load = match (setting.rate, &setting.shape) {
            (Some(rate), _) => format!("{} op/s", short(rate)),
            (None, Some(shape)) => shape.clone(),
            (None, None) => match report.trace.as_ref().and_then(|trace| trace.speed) {
                Some(speed) => format!("the trace's time × {speed}"),
                None => format!("{} loop", setting.pacing),
            },
        };
        row(
            out,
            "td",
            &[
                (*name).to_owned(),
                format!("{} {}", setting.protocol, setting.addresses.join(" ")),
                load,
                setting.connections.to_string(),
                setting.pipeline.to_string(),
                setting.threads.to_string(),
                format!("{:.0} %", setting.read_share * 100.0),
                format!("{} {}", setting.keys, setting.distribution),
            ],
        );
    }
    out.push_str("</table>\n");
}

fn figures(out: &mut String, reports: &[Named<'_>]) {
    out.push_str("<table>\n");
    let names = reports.iter().map(|named| named.name.to_owned());
    row(out, "th", &std::iter::once(String::new()).chain(names).collect::<Vec<String>>());
    for figure in &FIGURES {
        let title = format!("{} {}", figure.name, figure.unit);
        let cells = reports.iter().map(|Named { report, .. }| {
            let ratio = ratio(figure, reports, report);
            let ratio = ratio.map_or(String::new(), |ratio| format!(" ({ratio:.2}×)"));
            format!("{}{ratio}", short((figure.of)(report)))
        });
        row(out, "td", &std::iter::once(title).chain(cells).collect::<Vec<String>>());
    }
    out.push_str("</table>\n");
}

/// What was replayed, where a trace was.
fn traces(out: &mut String, reports: &[Named<'_>]) {
    if reports.iter().all(|Named { report, .. }| report.trace.is_none()) {
        return;
    }
    out.push_str("<h2>Traces</h2>\n<table>\n");
    let titles = [
        "run",
        "trace",
        "requests",
        "keys",
        "hit ratio",
        "hits",
        "misses",
        "filled",
        "writes",
        "removals",
    ];
    row(out, "th", &titles.map(str::to_owned));
    for Named { name, report } in reports {
        let Some(trace) = &report.trace else { continue };
        let hit_ratio = report.hit_ratio.map(|ratio| format!("{:.2} %", ratio * 100.0));
        let counts = [trace.hits, trace.misses, trace.fills, trace.writes, trace.deletes];
        let mut cells = vec![
            (*name).to_owned(),
            trace.name.clone(),
            trace.requests.to_string(),
            trace.keys.to_string(),
            hit_ratio.unwrap_or_else(|| "–".into()),
        ];
        cells.extend(counts.map(|count| count.to_string()));
        row(out, "td", &cells);
    }
    out.push_str("</table>\n");
}

fn curve(reports: &[Named<'_>]) -> Chart {
    let line = |named: &Named<'_>| Line {
        name: named.name.to_owned(),
        points: named.report.curve.iter().map(|at| (at.part, ms(at.latency_ns))).collect(),
    };
    Chart {
        title: "Latency by percentile (ms)".into(),
        x_name: "part of the requests that were at least as fast",
        x: Axis::Tail,
        y: Axis::Logarithmic,
        lines: reports.iter().map(line).collect(),
        marks: Vec::new(),
    }
}

fn over_time(
    name: String,
    report: &Report,
    figure: impl Fn(&SecondSummary) -> Option<f64>,
) -> Line {
    let middle = |row: &SecondSummary| (row.start_s + row.end_s) / 2.0;
    let rows = report.seconds.iter().filter(|row| row.phase != "drain");
    Line { name, points: rows.filter_map(|row| Some((middle(row), figure(row)?))).collect() }
}

fn throughput(reports: &[Named<'_>]) -> Chart {
    let mut lines = Vec::new();
    for Named { name, report } in reports {
        lines.push(over_time((*name).to_owned(), report, |row| Some(row.rate)));
        let has_times = report.trace.as_ref().is_some_and(|trace| trace.speed.is_some());
        if report.setting.shape.is_some() || has_times {
            lines.push(over_time(format!("{name}: offered"), report, |row| row.offered));
        }
    }
    Chart {
        title: "Throughput over time (op/s)".into(),
        x_name: "seconds from the start of the load",
        x: Axis::Linear,
        y: Axis::Linear,
        lines,
        marks: marks(reports),
    }
}

fn latency(reports: &[Named<'_>]) -> Chart {
    let some = |nanoseconds: u64| (nanoseconds > 0).then(|| ms(nanoseconds));
    let lines = match reports {
        [Named { report, .. }] => vec![
            over_time("p50".into(), report, |row| some(row.p50_ns)),
            over_time("p99".into(), report, |row| some(row.p99_ns)),
            over_time("p99.9".into(), report, |row| some(row.p999_ns)),
            over_time("max".into(), report, |row| some(row.max_ns)),
        ],
        _ => reports
            .iter()
            .map(|Named { name, report }| {
                over_time(format!("{name}: p99"), report, |row| some(row.p99_ns))
            })
            .collect(),
    };
    Chart {
        title: "Latency over time (ms)".into(),
        x_name: "seconds from the start of the load",
        x: Axis::Linear,
        y: Axis::Logarithmic,
        lines,
        marks: marks(reports),
    }
}

fn stages(out: &mut String, name: &str, report: &Report) {
    if report.stages.is_empty() {
        return;
    }
    let _ = writeln!(out, "<h2>Stages of {}</h2>\n<table>", escape(name));
    let titles = ["stage", "offered/s", "op/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "errors"];
    row(out, "th", &titles.map(str::to_owned));
    for stage in &report.stages {
        let latency = &stage.latency;
        row(
            out,
            "td",
            &[
                format!("{:.1} – {:.1} s", stage.start_s, stage.end_s),
                short(stage.offered),
                short(stage.rate),
                short(ms(latency.p50_ns)),
                short(ms(latency.p99_ns)),
                short(ms(latency.p999_ns)),
                short(ms(latency.max_ns)),
                stage.failed.to_string(),
            ],
        );
    }
    out.push_str("</table>\n");
}

/// What happened, where it is clear in which run.
fn marks(reports: &[Named<'_>]) -> Vec<(f64, String)> {
    match reports {
        [Named { report, .. }] => {
            report.events.iter().map(|event| (event.at_s, event.what.clone())).collect()
        }
        _ => Vec::new(),
    }
}

fn events(out: &mut String, name: &str, report: &Report) {
    if report.events.is_empty() {
        return;
    }
    let _ = writeln!(out, "<h2>Events of {}</h2>\n<table>", escape(name));
    row(out, "th", &["time", "event", "outcome"].map(str::to_owned));
    for event in &report.events {
        let at = format!("{:.3} s", event.at_s);
        row(out, "td", &[at, event.what.clone(), event.outcome.clone()]);
    }
    out.push_str("</table>\n");
}

fn shards(out: &mut String, name: &str, report: &Report) {
    if report.shards.is_empty() {
        return;
    }
    let _ = writeln!(out, "<h2>Shards of {}</h2>", escape(name));
    out.push_str(&shard_chart(report).svg());
    out.push_str("<table>\n");
    let titles = ["slots", "requests", "p50 ms", "p99 ms", "max ms", "errors", "unavailable"];
    row(out, "th", &titles.map(str::to_owned));
    for shard in &report.shards {
        let window = |window: &Window| {
            let length = window.end_s - window.start_s;
            let rest = if window.recovered { "" } else { ", to the end" };
            format!("{length:.3} s from {:.3} s{rest}", window.start_s)
        };
        let windows: Vec<String> = shard.unavailable.iter().map(window).collect();
        row(
            out,
            "td",
            &[
                format!("{}–{}", shard.slots.0, shard.slots.1),
                shard.latency.count.to_string(),
                short(ms(shard.latency.p50_ns)),
                short(ms(shard.latency.p99_ns)),
                short(ms(shard.latency.max_ns)),
                shard.failed.to_string(),
                windows.join("; "),
            ],
        );
    }
    out.push_str("</table>\n");
}

/// Throughput of each shard over time.
fn shard_chart(report: &Report) -> Chart {
    let line = |shard: &ShardSummary| {
        let rows = report.seconds.iter().zip(&shard.done).filter(|(row, _)| row.phase != "drain");
        let point = |(row, done): (&SecondSummary, &u32)| {
            let length_s = (row.end_s - row.start_s).max(1e-9);
            ((row.start_s + row.end_s) / 2.0, f64::from(*done) / length_s)
        };
        Line {
            name: format!("slots {}–{}", shard.slots.0, shard.slots.1),
            points: rows.map(point).collect(),
        }
    };
    Chart {
        title: "Throughput of each shard over time (op/s)".into(),
        x_name: "seconds from the start of the load",
        x: Axis::Linear,
        y: Axis::Linear,
        lines: report.shards.iter().map(line).collect(),
        marks: report.events.iter().map(|event| (event.at_s, event.what.clone())).collect(),
    }
}
