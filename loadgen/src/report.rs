//! What a run found out: each second as it passes, and the whole at the end.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::options::{Options, Pacing};
use crate::record::{Counts, Interval, Phase, histogram};
use crate::worker::Summary;

/// Part of a core's time above which a thread of the generator is the bottleneck.
const BUSY_SHARE: f64 = 0.9;
/// Part of the sends that may be late.
const LATE_SHARE: f64 = 0.01;

/// One second of a run, of all threads together.
#[derive(Clone, Debug)]
pub struct Second {
    /// The part of the run.
    pub phase: Phase,
    /// When it starts, in nanoseconds on the clock of the run.
    pub start_ns: u64,
    /// How long it lasts. A second where two phases meet is shorter.
    pub length_ns: u64,
    /// Latencies of the reads that ended in it, in nanoseconds.
    pub reads: Histogram<u64>,
    /// Latencies of the writes that ended in it, in nanoseconds.
    pub writes: Histogram<u64>,
    /// Latencies of requests that the warm-up left over.
    pub carried: Histogram<u64>,
    /// Counts of this second.
    pub counts: Counts,
    /// Requests that the warm-up left over.
    pub carried_done: u64,
}

impl Second {
    /// Adds up the parts of all threads; nothing without parts.
    pub(crate) fn merge(parts: &[&Interval]) -> Option<Second> {
        let (first, rest) = parts.split_first()?;
        let mut end_ns = first.end_ns;
        let mut second = Second {
            phase: first.phase,
            start_ns: first.start_ns,
            length_ns: 0,
            reads: first.reads.clone(),
            writes: first.writes.clone(),
            carried: first.carried.clone(),
            counts: first.counts.clone(),
            carried_done: first.carried_done,
        };
        for part in rest {
            second.start_ns = second.start_ns.min(part.start_ns);
            end_ns = end_ns.max(part.end_ns);
            add(&mut second.reads, &part.reads);
            add(&mut second.writes, &part.writes);
            add(&mut second.carried, &part.carried);
            second.counts.add(&part.counts);
            second.carried_done += part.carried_done;
        }
        second.length_ns = end_ns.saturating_sub(second.start_ns);
        Some(second)
    }

    /// Requests that were answered in it.
    pub fn done(&self) -> u64 {
        self.counts.done() + self.carried_done
    }

    /// Requests answered per second.
    pub fn rate(&self) -> f64 {
        per_second(self.done(), self.length_ns)
    }

    /// The latencies of all requests that were answered in it.
    pub fn latencies(&self) -> Histogram<u64> {
        let mut all = self.reads.clone();
        add(&mut all, &self.writes);
        add(&mut all, &self.carried);
        all
    }

    /// The live line.
    pub fn line(&self, since_ns: u64) -> String {
        let all = self.latencies();
        let phase = match self.phase {
            Phase::Warmup => "  warm-up",
            Phase::Measured => "",
            Phase::Drain => "  draining",
        };
        let at_s = (self.start_ns + self.length_ns).saturating_sub(since_ns) as f64 / 1e9;
        format!(
            "{at_s:>6.1} s {:>11.0} op/s  p50 {:>9}  p99 {:>9}  max {:>9}  errors {}{phase}",
            self.rate(),
            milliseconds(all.value_at_quantile(0.5)),
            milliseconds(all.value_at_quantile(0.99)),
            milliseconds(all.max()),
            self.counts.failed(),
        )
    }
}

fn add(sum: &mut Histogram<u64>, part: &Histogram<u64>) {
    // Adding can only fail between histograms of different ranges; all here have the same.
    let _ = sum.add(part);
}

fn per_second(count: u64, length_ns: u64) -> f64 {
    if length_ns == 0 { 0.0 } else { count as f64 * 1e9 / length_ns as f64 }
}

fn milliseconds(nanoseconds: u64) -> String {
    format!("{:.3} ms", nanoseconds as f64 / 1e6)
}

/// How latencies are distributed, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Requests.
    pub count: u64,
    /// Mean.
    pub mean_ns: f64,
    /// Shortest.
    pub min_ns: u64,
    /// Half of all requests took at most this long; and so on.
    pub p50_ns: u64,
    /// 90 %.
    pub p90_ns: u64,
    /// 99 %.
    pub p99_ns: u64,
    /// 99.9 %.
    pub p999_ns: u64,
    /// 99.99 %.
    pub p9999_ns: u64,
    /// Longest.
    pub max_ns: u64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Latency {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Latency {
            count: histogram.len(),
            mean_ns: histogram.mean(),
            min_ns: histogram.min(),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            p9999_ns: at(0.9999),
            max_ns: histogram.max(),
        }
    }
}

/// What was run.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// The servers.
    pub addresses: Vec<String>,
    /// What they speak.
    pub protocol: &'static str,
    /// "closed" or "open".
    pub pacing: &'static str,
    /// Requests per second of an open loop.
    pub rate: Option<f64>,
    /// Connections asked for.
    pub connections: u32,
    /// Threads.
    pub threads: u32,
    /// Requests in flight per connection.
    pub pipeline: u32,
    /// Keys.
    pub keys: u64,
    /// Their popularity.
    pub distribution: String,
    /// Bytes of a value.
    pub value_size: String,
    /// Part of the requests that read.
    pub read_share: f64,
    /// Seed.
    pub seed: u64,
}

/// Requests that failed, by what is known about them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Errors {
    /// Did not happen.
    pub not_done: u64,
    /// Of these: were due and never sent.
    pub unsent: u64,
    /// May have happened.
    pub unknown: u64,
    /// Had a reply that was not theirs, or none at all in the protocol's sense.
    pub protocol: u64,
    /// Attempts to connect that failed; no requests.
    pub connects_failed: u64,
    /// Connections lost, no requests.
    pub connections_lost: u64,
    /// Of these: for lack of replies.
    pub timeouts: u64,
    /// Server errors by code.
    pub codes: Vec<(String, u64)>,
}

/// What the generator itself did and cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Generator {
    /// CPU time per request, in nanoseconds.
    pub cpu_ns_per_operation: f64,
    /// Of that in the kernel.
    pub system_ns_per_operation: f64,
    /// The busiest thread's part of a core.
    pub busiest_thread: f64,
    /// Sends more than a millisecond after their time by the generator's own fault.
    pub late_sends: u64,
    /// The latest of them.
    pub lateness_ns_max: u64,
    /// Connections open at the end.
    pub connections: u32,
}

/// One second in the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SecondSummary {
    /// "warm-up", "measured" or "drain".
    pub phase: &'static str,
    /// When it ended, in seconds from the start of the load.
    pub end_s: f64,
    /// Requests answered per second.
    pub rate: f64,
    /// Median latency.
    pub p50_ns: u64,
    /// 99 %.
    pub p99_ns: u64,
    /// Longest.
    pub max_ns: u64,
    /// Requests that failed.
    pub failed: u64,
}

/// What a run found out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of this program.
    pub version: &'static str,
    /// What was run.
    pub setting: Setting,
    /// Length of the measured part in seconds.
    pub measured_s: f64,
    /// Requests answered per second of the measured part.
    pub throughput: f64,
    /// All requests.
    pub all: Latency,
    /// Reads.
    pub reads: Latency,
    /// Writes.
    pub writes: Latency,
    /// Part of the reads that found a value.
    pub hit_ratio: Option<f64>,
    /// Requests that failed.
    pub errors: Errors,
    /// Redirects followed.
    pub redirects: u64,
    /// Cluster maps fetched during the run.
    pub maps: u64,
    /// Bytes sent while measuring.
    pub bytes_sent: u64,
    /// Bytes received while measuring.
    pub bytes_received: u64,
    /// The generator's own part.
    pub generator: Generator,
    /// What to keep in mind when reading the figures.
    pub warnings: Vec<String>,
    /// Each second.
    pub seconds: Vec<SecondSummary>,
    /// Latencies of all measured reads, in nanoseconds.
    #[serde(skip)]
    pub read_histogram: Histogram<u64>,
    /// Latencies of all measured writes, in nanoseconds.
    #[serde(skip)]
    pub write_histogram: Histogram<u64>,
    #[serde(skip)]
    counts: Counts,
    #[serde(skip)]
    done_in_time: u64,
    #[serde(skip)]
    measured_ns: u64,
    #[serde(skip)]
    start_ns: Option<u64>,
}

impl Report {
    pub(crate) fn new(options: &Options) -> Report {
        let (pacing, rate) = match options.pacing {
            Pacing::Closed => ("closed", None),
            Pacing::Open { rate, .. } => ("open", Some(rate)),
        };
        Report {
            version: env!("CARGO_PKG_VERSION"),
            setting: Setting {
                addresses: options.addresses.iter().map(ToString::to_string).collect(),
                protocol: options.mode.name(),
                pacing,
                rate,
                connections: options.connections,
                threads: options.threads,
                pipeline: options.pipeline(),
                keys: options.keys,
                distribution: options.distribution.to_string(),
                value_size: options.value_size.to_string(),
                read_share: options.read_share,
                seed: options.seed,
            },
            measured_s: 0.0,
            throughput: 0.0,
            all: Latency::default(),
            reads: Latency::default(),
            writes: Latency::default(),
            hit_ratio: None,
            errors: Errors::default(),
            redirects: 0,
            maps: 0,
            bytes_sent: 0,
            bytes_received: 0,
            generator: Generator::default(),
            warnings: Vec::new(),
            seconds: Vec::new(),
            read_histogram: histogram(),
            write_histogram: histogram(),
            counts: Counts::default(),
            done_in_time: 0,
            measured_ns: 0,
            start_ns: None,
        }
    }

    pub(crate) fn add(&mut self, second: &Second) {
        let start_ns = *self.start_ns.get_or_insert(second.start_ns);
        let all = second.latencies();
        self.seconds.push(SecondSummary {
            phase: match second.phase {
                Phase::Warmup => "warm-up",
                Phase::Measured => "measured",
                Phase::Drain => "drain",
            },
            end_s: (second.start_ns + second.length_ns - start_ns) as f64 / 1e9,
            rate: second.rate(),
            p50_ns: all.value_at_quantile(0.5),
            p99_ns: all.value_at_quantile(0.99),
            max_ns: all.max(),
            failed: second.counts.failed(),
        });
        if second.phase == Phase::Warmup {
            return;
        }
        add(&mut self.read_histogram, &second.reads);
        add(&mut self.write_histogram, &second.writes);
        self.counts.add(&second.counts);
        if second.phase == Phase::Measured {
            self.done_in_time += second.done();
            self.measured_ns += second.length_ns;
            self.bytes_sent += second.counts.bytes_sent;
            self.bytes_received += second.counts.bytes_received;
        }
    }

    pub(crate) fn finish(&mut self, summaries: &[Summary]) {
        let counts = &self.counts;
        self.measured_s = self.measured_ns as f64 / 1e9;
        self.throughput = per_second(self.done_in_time, self.measured_ns);
        let mut all = self.read_histogram.clone();
        add(&mut all, &self.write_histogram);
        self.all = Latency::of(&all);
        self.reads = Latency::of(&self.read_histogram);
        self.writes = Latency::of(&self.write_histogram);
        self.hit_ratio = (counts.reads > 0).then(|| counts.hits as f64 / counts.reads as f64);
        self.errors = Errors {
            not_done: counts.not_done(),
            unsent: counts.unsent,
            unknown: counts.unknown(),
            protocol: counts.malformed,
            connects_failed: counts.connects_failed,
            connections_lost: counts.connections_lost,
            timeouts: counts.timeouts,
            codes: counts.codes.clone(),
        };
        (self.redirects, self.maps) = (counts.redirects, counts.maps);
        let per_operation = |ns: u64| ns as f64 / self.done_in_time.max(1) as f64;
        let busy =
            |summary: &Summary| summary.cpu.total_ns() as f64 / summary.measured_ns.max(1) as f64;
        self.generator = Generator {
            cpu_ns_per_operation: per_operation(summaries.iter().map(|s| s.cpu.total_ns()).sum()),
            system_ns_per_operation: per_operation(summaries.iter().map(|s| s.cpu.system_ns).sum()),
            busiest_thread: summaries.iter().map(busy).fold(0.0, f64::max),
            late_sends: counts.late_sends,
            lateness_ns_max: counts.lateness_ns_max,
            connections: summaries.iter().map(|summary| summary.connections).sum(),
        };
        self.warnings = self.warn();
    }

    fn warn(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let counts = &self.counts;
        let busiest = self.generator.busiest_thread;
        if busiest > BUSY_SHARE && self.measured_s >= 0.5 {
            warnings.push(format!(
                "the load generator is the bottleneck: a thread used {:.0} % of a core; \
                 use more threads, or read the throughput as a lower bound",
                busiest * 100.0
            ));
        }
        if counts.late_sends as f64 > LATE_SHARE * self.all.count.max(1) as f64 {
            warnings.push(format!(
                "the load generator was late: {} requests were sent more than 1 ms after their \
                 time, the latest by {}; their latencies include that",
                counts.late_sends,
                milliseconds(counts.lateness_ns_max)
            ));
        }
        if counts.unsent > 0 {
            warnings.push(format!(
                "the servers did not keep up: {} requests were due and could not be sent; \
                 latencies are those of the others and would grow with the duration",
                counts.unsent
            ));
        }
        if counts.foreign_values > 0 {
            warnings.push(format!(
                "{} values had a length that this run does not write: other data is loaded; \
                 use --prefill",
                counts.foreign_values
            ));
        }
        if counts.reads > 0 && counts.hits == 0 {
            warnings.push("no read found a value: use --prefill to load the keys first".into());
        }
        if counts.codes.iter().any(|(code, _)| code == "MOVED") {
            warnings.push("the servers redirect: use --protocol resp-cluster".into());
        }
        if self.all.count == 0 {
            warnings.push("not a single request was measured".into());
        }
        warnings
    }

    /// The report as a table for people.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.render_to(&mut text);
        text
    }

    fn render_to(&self, out: &mut String) -> std::fmt::Result {
        let setting = &self.setting;
        write!(out, "\n{} over {}", setting.protocol, setting.addresses.join(", "))?;
        match setting.rate {
            Some(rate) => write!(out, ", open loop at {rate:.0} op/s")?,
            None => write!(out, ", closed loop")?,
        }
        writeln!(
            out,
            ", {} connections, pipeline {}, {} thread(s)\n{} keys ({}), values of {} bytes, \
             {:.0} % reads, {:.1} s measured\n",
            setting.connections,
            setting.pipeline,
            setting.threads,
            setting.keys,
            setting.distribution,
            setting.value_size,
            setting.read_share * 100.0,
            self.measured_s,
        )?;
        writeln!(out, "throughput {:>14.0} op/s\n", self.throughput)?;
        writeln!(
            out,
            "{:<8}{:>12}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "ms", "count", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"
        )?;
        for (name, latency) in
            [("all", &self.all), ("reads", &self.reads), ("writes", &self.writes)]
        {
            if latency.count == 0 && name != "all" {
                continue;
            }
            let ms = |nanoseconds: u64| format!("{:.3}", nanoseconds as f64 / 1e6);
            writeln!(
                out,
                "{name:<8}{:>12}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
                latency.count,
                ms(latency.mean_ns as u64),
                ms(latency.p50_ns),
                ms(latency.p90_ns),
                ms(latency.p99_ns),
                ms(latency.p999_ns),
                ms(latency.p9999_ns),
                ms(latency.max_ns),
            )?;
        }
        self.render_rest(out)
    }

    fn render_rest(&self, out: &mut String) -> std::fmt::Result {
        let errors = &self.errors;
        writeln!(
            out,
            "\nerrors     not done {} (never sent {}), unknown {}, protocol {}",
            errors.not_done, errors.unsent, errors.unknown, errors.protocol
        )?;
        for (code, count) in &errors.codes {
            writeln!(out, "           {code} {count}")?;
        }
        writeln!(
            out,
            "links      {} open, {} lost ({} silent too long), {} attempts failed",
            self.generator.connections,
            errors.connections_lost,
            errors.timeouts,
            errors.connects_failed
        )?;
        if self.redirects + self.maps > 0 {
            writeln!(out, "cluster    {} redirects, {} maps fetched", self.redirects, self.maps)?;
        }
        if let Some(hit_ratio) = self.hit_ratio {
            writeln!(out, "hits       {:.2} % of reads", hit_ratio * 100.0)?;
        }
        writeln!(
            out,
            "bytes      {:.1} MB sent, {:.1} MB received",
            self.bytes_sent as f64 / 1e6,
            self.bytes_received as f64 / 1e6
        )?;
        writeln!(
            out,
            "generator  {:.2} µs CPU per operation ({:.2} in the kernel), busiest thread {:.0} % \
             of a core, {} sends late",
            self.generator.cpu_ns_per_operation / 1e3,
            self.generator.system_ns_per_operation / 1e3,
            self.generator.busiest_thread * 100.0,
            self.generator.late_sends
        )?;
        for warning in &self.warnings {
            writeln!(out, "warning    {warning}")?;
        }
        Ok(())
    }

    /// The report as JSON.
    ///
    /// # Errors
    /// None that a report can cause; the type is the serializer's.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}
