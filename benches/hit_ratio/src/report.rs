//! What a run found, as Markdown and as JSON.

use std::fmt::Write;

use serde::Serialize;

use crate::contestants::{Contestant, Course, Run};
use crate::trace::{Tally, Windows};

/// What one policy or contestant made of one trace.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Who.
    pub name: String,
    /// Entries held: at the end, for a server.
    pub entries: u64,
    /// Hits of a hundred reads that count.
    pub percent: Option<f64>,
    /// The same of every window.
    pub window_percent: Vec<Option<f64>>,
    /// What only servers have.
    pub server: Option<ServerRow>,
}

/// What a server has besides.
#[derive(Clone, Debug, Serialize)]
pub struct ServerRow {
    /// What exact LRU makes of the trace with as many entries as the server held.
    pub lru_percent: Option<f64>,
    /// The memory of each process, in bytes.
    pub memory_bytes: u64,
    /// Reads behind the warm-up that failed or were not answered.
    pub read_errors: u64,
    /// Writes, of the whole trace, that did.
    pub write_errors: u64,
    /// How often a client had to find another server.
    pub reconnects: u64,
    /// One of the errors.
    pub first_error: Option<String>,
    /// The whole trace, in seconds.
    pub seconds: f64,
    /// When each window began, in seconds.
    pub began_s: Vec<f64>,
    /// Who is the same without failover, if one happened.
    pub compared_with: Option<&'static str>,
    /// What was counted in each window.
    #[serde(skip)]
    pub tallies: Vec<Tally>,
}

/// What a failover cost.
#[derive(Clone, Debug, Serialize)]
pub struct Failover {
    /// Who.
    pub name: String,
    /// Who is the same without failover.
    pub compared_with: String,
    /// The first window after the failover.
    pub first_window: usize,
    /// How many windows are compared.
    pub windows: usize,
    /// How long they took in the run with the failover, in seconds.
    pub seconds: f64,
    /// Hits of a hundred reads in these windows.
    pub percent: Option<f64>,
    /// The same windows without failover.
    pub percent_without: Option<f64>,
    /// Reads in these windows that failed or were not answered.
    pub read_errors: u64,
}

/// One trace.
#[derive(Clone, Debug, Serialize)]
pub struct TraceReport {
    /// Its name.
    pub trace: String,
    /// How many keys it has.
    pub keys: usize,
    /// How many entries the contestants were to hold.
    pub room: u64,
    /// How it was counted.
    pub windows: Windows,
    /// Policies, then servers.
    pub rows: Vec<Row>,
    /// Who lost a server.
    pub failovers: Vec<Failover>,
    /// Who did not take part, or not as an equal, and why.
    pub notes: Vec<String>,
}

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The command line.
    pub command: String,
    /// CPUs of the machine.
    pub cpus: usize,
    /// Every trace.
    pub traces: Vec<TraceReport>,
}

impl Row {
    /// The row of a policy.
    pub fn of_policy(name: &str, entries: u64, tallies: &[Tally], windows: &Windows) -> Row {
        Row {
            name: name.into(),
            entries,
            percent: windows.total(tallies).percent(),
            window_percent: tallies.iter().map(Tally::percent).collect(),
            server: None,
        }
    }

    /// The row of a server. `lru` is what exact LRU makes of the trace with as many entries.
    pub fn of_run(contestant: &Contestant, run: Run, lru: Option<f64>, windows: &Windows) -> Row {
        let Run { outcome, entries, memory_bytes } = run;
        let row = Row::of_policy(&contestant.name, entries, &outcome.tallies, windows);
        let server = ServerRow {
            lru_percent: lru,
            memory_bytes,
            read_errors: windows.total(&outcome.tallies).errors,
            write_errors: outcome.write_errors,
            reconnects: outcome.reconnects,
            first_error: outcome.first_error,
            seconds: outcome.seconds,
            began_s: outcome.began_s,
            compared_with: match contestant.course {
                Course::Failover => contestant.compared_with,
                Course::Undisturbed => None,
            },
            tallies: outcome.tallies,
        };
        Row { server: Some(server), ..row }
    }
}

/// Compares what lost a server with what is the same and lost none, over the windows that began
/// within `after_s` seconds of the failover.
pub fn failovers(rows: &[Row], windows: &Windows, after_s: f64) -> Vec<Failover> {
    let compared = rows.iter().filter_map(|row| {
        let server = row.server.as_ref()?;
        let compared_with = server.compared_with?;
        let other = rows.iter().find(|other| other.name == compared_with)?.server.as_ref()?;
        let first = windows.failover();
        let began = *server.began_s.get(first)?;
        let later = server.began_s[first..].iter();
        let count = later.take_while(|&&start| start < began + after_s).count().max(1);
        let sum = |tallies: &[Tally]| {
            let mut sum = Tally::default();
            tallies.iter().skip(first).take(count).for_each(|tally| sum.add(tally));
            sum
        };
        let end = server.began_s.get(first + count).copied().unwrap_or(server.seconds);
        Some(Failover {
            name: row.name.clone(),
            compared_with: compared_with.into(),
            first_window: first,
            windows: count,
            seconds: end - began,
            percent: sum(&server.tallies).percent(),
            percent_without: sum(&other.tallies).percent(),
            read_errors: sum(&server.tallies).errors,
        })
    });
    compared.collect()
}

impl Report {
    /// The tables.
    pub fn markdown(&self) -> String {
        let mut text = format!("# Hit ratios\n\n    {}\n\n{} CPUs.\n", self.command, self.cpus);
        for trace in &self.traces {
            trace.append_markdown(&mut text);
        }
        text
    }
}

impl TraceReport {
    fn append_markdown(&self, text: &mut String) {
        let Windows { requests, count, warm_up } = self.windows;
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        line(format!("\n## {}\n", self.trace));
        line(format!(
            "{} requests for {} keys, the first {} to warm up; room for {} entries.\n",
            grouped(requests as u64),
            grouped(self.keys as u64),
            grouped(self.windows.start(warm_up) as u64),
            grouped(self.room),
        ));
        line(
            "| who | entries held | hit ratio % | exact LRU with as many % | difference | \
             read errors | write errors | MiB per process | requests/s |"
                .into(),
        );
        line("|---|---|---|---|---|---|---|---|---|".into());
        for row in &self.rows {
            line(row.markdown(requests));
        }
        for row in &self.rows {
            if let Some(error) = row.server.as_ref().and_then(|s| s.first_error.as_ref()) {
                line(format!("\nAn error of {}: `{}`", row.name, error.replace('`', "'")));
            }
        }
        self.notes.iter().for_each(|note| line(format!("\n{note}")));
        if !self.failovers.is_empty() {
            line(
                "\n| after a failover | windows | seconds | hit ratio % | without failover % | \
                 difference | read errors |"
                    .into(),
            );
            line("|---|---|---|---|---|---|---|".into());
        }
        for failover in &self.failovers {
            line(format!(
                "| {} | {} of {count} | {:.1} | {} | {} ({}) | {} | {} |",
                failover.name,
                failover.windows,
                failover.seconds,
                shown(failover.percent),
                shown(failover.percent_without),
                failover.compared_with,
                difference(failover.percent, failover.percent_without),
                failover.read_errors,
            ));
        }
    }
}

impl Row {
    fn markdown(&self, requests: usize) -> String {
        let mut cells =
            format!("| {} | {} | {} |", self.name, grouped(self.entries), shown(self.percent));
        let more = match &self.server {
            None => " | | | | | |".to_owned(),
            Some(server) => format!(
                " {} | {} | {} | {} | {:.1} | {} |",
                shown(server.lru_percent),
                difference(self.percent, server.lru_percent),
                server.read_errors,
                server.write_errors,
                server.memory_bytes as f64 / f64::from(1 << 20),
                grouped((requests as f64 / server.seconds.max(1e-9)) as u64),
            ),
        };
        cells.push_str(&more);
        cells
    }
}

fn shown(percent: Option<f64>) -> String {
    percent.map_or("–".to_owned(), |percent| format!("{percent:.2}"))
}

fn difference(percent: Option<f64>, other: Option<f64>) -> String {
    match (percent, other) {
        (Some(percent), Some(other)) => format!("{:+.2}", percent - other),
        _ => "–".to_owned(),
    }
}

/// A number with a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        // Writing into a String cannot fail.
        let _ = text.write_char(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, hits: [u64; 6], compared_with: Option<&'static str>) -> Row {
        let windows = Windows { requests: 60, count: 6, warm_up: 2 };
        let tallies = hits.map(|hits| Tally { hits, misses: 9 - hits, errors: 1 });
        let server = ServerRow {
            lru_percent: Some(50.0),
            memory_bytes: 3 << 20,
            read_errors: 4,
            write_errors: 2,
            reconnects: 1,
            first_error: Some("it `broke`".into()),
            seconds: 60.0,
            began_s: vec![0.0, 10.0, 20.0, 30.0, 40.0, 50.0],
            compared_with,
            tallies: tallies.to_vec(),
        };
        Row { server: Some(server), ..Row::of_policy(name, 1_234_567, &tallies, &windows) }
    }

    #[test]
    fn windows_behind_a_failover_are_compared_with_the_same_without() {
        let windows = Windows { requests: 60, count: 6, warm_up: 2 };
        let rows = [
            server("plain", [0, 0, 5, 5, 5, 5], None),
            server("failed", [0, 0, 5, 3, 5, 5], Some("plain")),
            server("alone", [0; 6], Some("nobody")),
        ];
        let short = failovers(&rows, &windows, 5.0);
        assert_eq!(short.len(), 1);
        assert_eq!((short[0].first_window, short[0].windows, short[0].seconds), (3, 1, 10.0));
        assert_eq!((short[0].percent, short[0].percent_without), (Some(30.0), Some(50.0)));
        let long = &failovers(&rows, &windows, 60.0)[0];
        assert_eq!((long.windows, long.seconds, long.percent), (3, 30.0, Some(130.0 / 3.0)));
        assert_eq!(long.read_errors, 3);
    }

    #[test]
    fn every_row_of_a_table_has_as_many_cells_as_its_head() {
        let windows = Windows { requests: 60, count: 6, warm_up: 2 };
        let mut rows = vec![Row::of_policy("exact LRU", 10, &[Tally::default(); 6], &windows)];
        rows.push(server("plain", [5; 6], None));
        rows.push(server("failed", [4; 6], Some("plain")));
        let failovers = failovers(&rows, &windows, 60.0);
        let notes = vec!["nobody is not there".into()];
        let trace = "t".into();
        let trace = TraceReport { trace, keys: 9, room: 8, windows, rows, failovers, notes };
        let report = Report { command: "hit-ratio".into(), cpus: 2, traces: vec![trace] };
        let text = report.markdown();
        let tables: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(tables.len(), 5 + 3, "{text}");
        let cells = |line: &&str| line.matches('|').count();
        assert!(tables[..5].iter().all(|line| cells(line) == cells(&tables[0])), "{text}");
        assert!(tables[5..].iter().all(|line| cells(line) == cells(&tables[5])), "{text}");
        assert!(text.contains("| plain | 1,234,567 | 50.00 | 50.00 | +0.00 |"), "{text}");
        assert!(text.contains("nobody is not there") && text.contains("`it 'broke'`"), "{text}");
        assert!(serde_json::to_string(&report).expect("JSON").contains("\"hit-ratio\""));
    }
}
