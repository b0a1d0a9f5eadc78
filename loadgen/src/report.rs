//! What a run found out, as a whole and over time.
//!
//! A request belongs to the row, and to the stage, in which it *ended*: a backlog that one stage
//! leaves behind shows in the next one. What ends after the last request was due belongs to the
//! last stage, and to no rate.

mod text;
mod trace;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::events::Event;
use crate::options::{Options, Pacing, ROWS_MAX};
use crate::record::{Counts, Phase, histogram};
use crate::second::{Second, add, milliseconds, per_second};
use crate::shape::Shape;
use crate::shards::ShardSummary;
use crate::worker::Summary;
pub use trace::TraceSummary;

/// Part of a core's time above which a thread of the generator is the bottleneck.
/// Its time without a core counts with it.
const BUSY_SHARE: f64 = 0.9;
/// Part of the sends that may be late.
const LATE_SHARE: f64 = 0.01;
/// Points of the latency curve for each further nine.
const CURVE_POINTS_PER_DECADE: f64 = 20.0;
/// Shortest measurement of which the CPU time is judged, in seconds.
const MEASURED_S_MIN: f64 = 0.5;

/// How latencies are distributed, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    pub(crate) fn of(histogram: &Histogram<u64>) -> Latency {
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setting {
    /// The servers.
    pub addresses: Vec<String>,
    /// What they speak.
    pub protocol: String,
    /// "closed" or "open".
    pub pacing: String,
    /// Requests per second of an open loop, if they are the same all the time.
    pub rate: Option<f64>,
    /// How the rate of an open loop changes, as the flag says it.
    pub shape: Option<String>,
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
    /// What the others do: "update", "insert" or "read-modify-write".
    pub writes: String,
    /// Seed.
    pub seed: u64,
}

/// Requests that failed, by what is known about them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// CPU time per request, in nanoseconds.
    pub cpu_ns_per_operation: f64,
    /// Of that in the kernel.
    pub system_ns_per_operation: f64,
    /// The busiest thread's part of a core.
    pub busiest_thread: f64,
    /// The part of its time in which the most hindered thread was ready to run and had no core.
    pub waiting_thread: f64,
    /// Each thread's part of a core, and the part of its time that it waited for one.
    pub threads: Vec<ThreadUse>,
    /// How much after its time a send counts as late, in nanoseconds.
    pub late_after_ns: u64,
    /// Sends later than that by the generator's own fault.
    pub late_sends: u64,
    /// Their part of all requests that were due.
    pub late_share: f64,
    /// By how much they were late, on average.
    pub lateness_ns_mean: f64,
    /// The latest of them.
    pub lateness_ns_max: u64,
    /// Whether the generator limited what was measured; `warnings` say how.
    pub is_bottleneck: bool,
    /// Connections open at the end.
    pub connections: u32,
}

/// A thread of the generator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ThreadUse {
    /// The part of a core that it used.
    pub cpu: f64,
    /// The part of its time in which it was ready to run and had no core.
    pub waited: f64,
}

impl ThreadUse {
    fn of(summary: &Summary) -> ThreadUse {
        let measured_ns = summary.measured_ns.max(1) as f64;
        ThreadUse {
            cpu: summary.cpu.total_ns() as f64 / measured_ns,
            waited: summary.cpu.waited_ns as f64 / measured_ns,
        }
    }
}

/// One row over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecondSummary {
    /// "warm-up", "measured" or "drain".
    pub phase: String,
    /// When it began, in seconds from the start of the load.
    pub start_s: f64,
    /// When it ended.
    pub end_s: f64,
    /// Requests due per second, if the loop is open.
    pub offered: Option<f64>,
    /// Requests answered per second.
    pub rate: f64,
    /// Median latency of what ended in it.
    pub p50_ns: u64,
    /// 99 %.
    pub p99_ns: u64,
    /// 99.9 %.
    pub p999_ns: u64,
    /// Longest.
    pub max_ns: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that the generator sent late.
    pub late_sends: u64,
}

/// One stage of an open loop whose rate changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageSummary {
    /// When it began, in seconds from the start of the load.
    pub start_s: f64,
    /// When it ended.
    pub end_s: f64,
    /// Requests due per second.
    pub offered: f64,
    /// Requests answered per second.
    pub rate: f64,
    /// Latencies of what ended in it.
    pub latency: Latency,
    /// Requests that failed.
    pub failed: u64,
}

/// A point of the latency curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// A part of the requests, in 0 to 1.
    pub part: f64,
    /// What they did not exceed.
    pub latency_ns: u64,
}

/// The latency curve, with points that are equally far from each other where each further nine
/// takes the same room, up to the last part that is a whole request.
fn curve(histogram: &Histogram<u64>) -> Vec<CurvePoint> {
    let decades = (histogram.len().max(1) as f64).log10();
    let points = (decades * CURVE_POINTS_PER_DECADE).floor() as u32;
    let parts =
        (0..=points).map(|point| 1.0 - 10f64.powf(-f64::from(point) / CURVE_POINTS_PER_DECADE));
    parts.map(|part| CurvePoint { part, latency_ns: histogram.value_at_quantile(part) }).collect()
}

/// A stage as it fills.
#[derive(Clone, Debug)]
struct StageSum {
    start_ns: u64,
    end_ns: u64,
    offered: f64,
    done: u64,
    failed: u64,
    latencies: Histogram<u64>,
}

/// What a run found out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The version of this program.
    pub version: String,
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
    /// The trace, if one was replayed.
    pub trace: Option<TraceSummary>,
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
    /// Row after row over time, each a second long unless the options say otherwise.
    pub seconds: Vec<SecondSummary>,
    /// The latencies as a curve: which of them each part of the requests did not exceed.
    pub curve: Vec<CurvePoint>,
    /// Each stage, if the rate of an open loop changes.
    pub stages: Vec<StageSummary>,
    /// What happened besides the load.
    pub events: Vec<Event>,
    /// Each shard, where they are told apart.
    pub shards: Vec<ShardSummary>,
    /// Latencies of all measured reads, in nanoseconds.
    #[serde(skip, default = "histogram")]
    pub read_histogram: Histogram<u64>,
    /// Latencies of all measured writes, in nanoseconds.
    #[serde(skip, default = "histogram")]
    pub write_histogram: Histogram<u64>,
    #[serde(skip)]
    counts: Counts,
    #[serde(skip)]
    late_after_ns: u64,
    #[serde(skip)]
    done_in_time: u64,
    #[serde(skip)]
    measured_ns: u64,
    #[serde(skip)]
    start_ns: Option<u64>,
    #[serde(skip)]
    stage_sums: Vec<StageSum>,
}

impl SecondSummary {
    fn of(second: &Second, start_ns: u64) -> SecondSummary {
        let all = second.latencies();
        let length_s = second.length_ns as f64 / 1e9;
        SecondSummary {
            phase: match second.phase {
                Phase::Warmup => "warm-up",
                Phase::Measured => "measured",
                Phase::Drain => "drain",
            }
            .into(),
            start_s: (second.start_ns - start_ns) as f64 / 1e9,
            end_s: (second.start_ns + second.length_ns - start_ns) as f64 / 1e9,
            offered: second.offered.filter(|_| length_s > 0.0).map(|due| due / length_s),
            rate: second.rate(),
            p50_ns: all.value_at_quantile(0.5),
            p99_ns: all.value_at_quantile(0.99),
            p999_ns: all.value_at_quantile(0.999),
            max_ns: all.max(),
            failed: second.counts.failed(),
            late_sends: second.counts.late_sends,
        }
    }
}

impl StageSummary {
    fn of(sum: &StageSum, start_ns: u64) -> StageSummary {
        let length_ns = sum.end_ns.saturating_sub(sum.start_ns);
        StageSummary {
            start_s: sum.start_ns.saturating_sub(start_ns) as f64 / 1e9,
            end_s: sum.end_ns.saturating_sub(start_ns) as f64 / 1e9,
            offered: sum.offered * 1e9 / length_ns.max(1) as f64,
            rate: per_second(sum.done, length_ns),
            latency: Latency::of(&sum.latencies),
            failed: sum.failed,
        }
    }
}

impl Report {
    pub(crate) fn new(options: &Options) -> Report {
        let (pacing, shape) = match &options.pacing {
            Pacing::Closed => ("closed", None),
            Pacing::Open { shape, .. } => ("open", Some(shape)),
            Pacing::Recorded { .. } => ("open", None),
        };
        let rate = shape.and_then(Shape::constant_rate);
        let trace = options.trace.as_deref();
        let changing = shape.filter(|shape| shape.constant_rate().is_none());
        Report {
            version: env!("CARGO_PKG_VERSION").into(),
            setting: Setting {
                addresses: options.addresses.iter().map(ToString::to_string).collect(),
                protocol: options.mode.name().into(),
                pacing: pacing.into(),
                rate,
                shape: changing.map(ToString::to_string),
                connections: options.connections,
                threads: options.threads,
                pipeline: options.pipeline(),
                keys: trace.map_or(options.keys, |trace| trace.keys()),
                distribution: trace
                    .map_or(options.distribution.to_string(), |_| "those of a trace".into()),
                value_size: trace.map_or(options.value_size, |trace| trace.sizes()).to_string(),
                read_share: trace.map_or(options.read_share, |trace| trace.read_share()),
                writes: options.writes.name().into(),
                seed: options.seed,
            },
            measured_s: 0.0,
            throughput: 0.0,
            all: Latency::default(),
            reads: Latency::default(),
            writes: Latency::default(),
            hit_ratio: None,
            trace: TraceSummary::of(options),
            errors: Errors::default(),
            redirects: 0,
            maps: 0,
            bytes_sent: 0,
            bytes_received: 0,
            generator: Generator::default(),
            warnings: Vec::new(),
            seconds: Vec::new(),
            curve: Vec::new(),
            stages: Vec::new(),
            events: Vec::new(),
            shards: Vec::new(),
            read_histogram: histogram(),
            write_histogram: histogram(),
            counts: Counts::default(),
            late_after_ns: options.late_after.as_nanos() as u64,
            done_in_time: 0,
            measured_ns: 0,
            start_ns: None,
            stage_sums: Vec::new(),
        }
    }

    /// Adds an interval, which lies in the stage with this number.
    pub(crate) fn add(&mut self, second: &Second, stage: usize) {
        let start_ns = *self.start_ns.get_or_insert(second.start_ns);
        if self.seconds.len() < ROWS_MAX {
            self.seconds.push(SecondSummary::of(second, start_ns));
        }
        if second.phase == Phase::Warmup {
            return;
        }
        if self.setting.shape.is_some() {
            self.add_to_stage(second, stage);
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

    fn add_to_stage(&mut self, second: &Second, stage: usize) {
        while self.stage_sums.len() <= stage {
            self.stage_sums.push(StageSum {
                start_ns: second.start_ns,
                end_ns: second.start_ns,
                offered: 0.0,
                done: 0,
                failed: 0,
                latencies: histogram(),
            });
        }
        let Some(sum) = self.stage_sums.get_mut(stage) else { return };
        add(&mut sum.latencies, &second.reads);
        add(&mut sum.latencies, &second.writes);
        sum.failed += second.counts.failed();
        if second.phase == Phase::Measured {
            sum.end_ns = second.start_ns + second.length_ns;
            sum.offered += second.offered.unwrap_or(0.0);
            sum.done += second.done();
        }
    }

    pub(crate) fn finish(&mut self, summaries: &[Summary]) {
        let counts = &self.counts;
        self.measured_s = self.measured_ns as f64 / 1e9;
        self.throughput = per_second(self.done_in_time, self.measured_ns);
        let mut all = self.read_histogram.clone();
        add(&mut all, &self.write_histogram);
        let start_ns = self.start_ns.unwrap_or(0);
        self.stages = self.stage_sums.iter().map(|sum| StageSummary::of(sum, start_ns)).collect();
        self.all = Latency::of(&all);
        self.curve = curve(&all);
        self.reads = Latency::of(&self.read_histogram);
        self.writes = Latency::of(&self.write_histogram);
        self.hit_ratio = (counts.reads > 0).then(|| counts.hits as f64 / counts.reads as f64);
        if let Some(trace) = &mut self.trace {
            trace.count(counts);
        }
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
        self.generator = self.generator(summaries);
        let limits = self.limits();
        self.generator.is_bottleneck = !limits.is_empty();
        self.warnings = limits;
        self.warnings.extend(self.warn());
    }

    fn generator(&self, summaries: &[Summary]) -> Generator {
        let counts = &self.counts;
        let per_operation = |ns: u64| ns as f64 / self.done_in_time.max(1) as f64;
        let threads: Vec<ThreadUse> = summaries.iter().map(ThreadUse::of).collect();
        let due = self.all.count + counts.failed();
        Generator {
            cpu_ns_per_operation: per_operation(summaries.iter().map(|s| s.cpu.total_ns()).sum()),
            system_ns_per_operation: per_operation(summaries.iter().map(|s| s.cpu.system_ns).sum()),
            busiest_thread: threads.iter().map(|thread| thread.cpu).fold(0.0, f64::max),
            waiting_thread: threads.iter().map(|thread| thread.waited).fold(0.0, f64::max),
            threads,
            late_after_ns: self.late_after_ns,
            late_sends: counts.late_sends,
            late_share: counts.late_sends as f64 / due.max(1) as f64,
            lateness_ns_mean: counts.lateness_ns_sum as f64 / counts.late_sends.max(1) as f64,
            lateness_ns_max: counts.lateness_ns_max,
            is_bottleneck: false,
            connections: summaries.iter().map(|summary| summary.connections).sum(),
        }
    }

    /// In which ways the generator, and not the servers, limited what was measured.
    fn limits(&self) -> Vec<String> {
        let generator = &self.generator;
        let mut limits = Vec::new();
        // Of a short run the CPU time is too coarse to say anything.
        let fullest = generator.threads.iter().max_by(|left, right| {
            let need = |thread: &ThreadUse| thread.cpu + thread.waited;
            need(left).total_cmp(&need(right))
        });
        if let Some(ThreadUse { cpu, waited }) = fullest.copied()
            && cpu + waited > BUSY_SHARE
            && self.measured_s >= MEASURED_S_MIN
        {
            limits.push(format!(
                "the load generator is the bottleneck: a thread used {:.0} % of a core and \
                 waited {:.0} % of its time for one; use more threads or CPUs of its own, or \
                 read the throughput as a lower bound",
                cpu * 100.0,
                waited * 100.0
            ));
        }
        if generator.late_share > LATE_SHARE {
            limits.push(format!(
                "the load generator was late: {} requests ({:.1} %) were sent more than {} after \
                 their time, on average by {}, the latest by {}; their latencies include that",
                generator.late_sends,
                generator.late_share * 100.0,
                milliseconds(generator.late_after_ns),
                milliseconds(generator.lateness_ns_mean as u64),
                milliseconds(generator.lateness_ns_max)
            ));
        }
        limits
    }

    fn warn(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let counts = &self.counts;
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
            let remedy = match &self.trace {
                Some(_) => "use --trace-fill to write what is missing, as users of a cache do",
                None => "use --prefill to load the keys first",
            };
            warnings.push(format!("no read found a value: {remedy}"));
        }
        if let Some(trace) = self.trace.as_ref().filter(|trace| trace.is_cut) {
            warnings.push(format!(
                "the trace has more than the {} requests that were read: see --trace-requests-max",
                trace.requests
            ));
        }
        if counts.codes.iter().any(|(code, _)| code == "MOVED") {
            warnings.push("the servers redirect: use --protocol resp-cluster".into());
        }
        if self.all.count == 0 {
            warnings.push("not a single request was measured".into());
        }
        warnings
    }

    /// Requests that failed, in whichever way.
    pub fn failed(&self) -> u64 {
        self.errors.not_done + self.errors.unknown + self.errors.protocol
    }

    /// The latency in nanoseconds that this part of the requests did not exceed.
    pub fn latency_at(&self, quantile: f64) -> u64 {
        let mut all = self.read_histogram.clone();
        add(&mut all, &self.write_histogram);
        all.value_at_quantile(quantile)
    }

    /// Reads a report back, or of a search that of the highest rate that met its goals. Its
    /// histograms are empty.
    ///
    /// # Errors
    /// Says why the text is no report.
    pub fn from_json(text: &str) -> Result<Report, String> {
        let mut value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
        if let Some(trials) = value.get_mut("trials").and_then(serde_json::Value::as_array_mut) {
            let rate = |trial: &serde_json::Value| trial["rate"].as_f64().unwrap_or(0.0);
            let met = trials.iter_mut().filter(|trial| trial["verdict"] == "met");
            let best = met.max_by(|left, right| rate(left).total_cmp(&rate(right)));
            value = best.ok_or("a search that found no rate")?["report"].take();
        }
        serde_json::from_value(value).map_err(|error| format!("no report: {error}"))
    }

    /// The report as JSON.
    ///
    /// # Errors
    /// None that a report can cause; the type is the serializer's.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::CpuTime;
    use crate::options::Mode;
    use crate::record::Interval;

    const SECOND_NS: u64 = 1_000_000_000;

    fn report(summaries: &[Summary], interval: &Interval) -> Report {
        let address = "127.0.0.1:1".parse().expect("an address");
        let mut report = Report::new(&Options::new(vec![address], Mode::Resp));
        report.add(&Second::merge(&[interval]).expect("a second"), 0);
        report.finish(summaries);
        report
    }

    fn summary(user_ns: u64, waited_ns: u64) -> Summary {
        let cpu = CpuTime { user_ns, system_ns: 0, waited_ns };
        Summary { cpu, measured_ns: SECOND_NS, ..Summary::default() }
    }

    fn second() -> Interval {
        let mut interval = Interval::new(Phase::Measured, 0);
        interval.end_ns = SECOND_NS;
        for _ in 0..1000 {
            interval.reads.saturating_record(1000);
        }
        interval.counts.reads = 1000;
        interval
    }

    #[test]
    fn a_thread_without_time_to_spare_is_named_as_the_bottleneck() {
        for (user_ns, waited_ns, limited) in [
            (SECOND_NS / 2, SECOND_NS / 5, false),
            (SECOND_NS * 19 / 20, 0, true),
            (SECOND_NS / 20, SECOND_NS * 9 / 10, true),
        ] {
            let idle = summary(SECOND_NS / 100, 0);
            let report = report(&[idle, summary(user_ns, waited_ns)], &second());
            assert_eq!(report.generator.is_bottleneck, limited, "{:?}", report.generator);
            let said = report.warnings.iter().any(|text| text.contains("is the bottleneck"));
            assert_eq!(said, limited, "{:?}", report.warnings);
            assert_eq!(report.generator.threads.len(), 2);
        }
    }

    #[test]
    fn a_report_can_be_read_back() {
        let report = report(&[summary(1000, 0)], &second());
        let json = report.to_json().expect("a text");
        let read = Report::from_json(&json).expect("a report");
        // Parsing may move the last bit of a fraction, so what is compared has none.
        assert_eq!((&read.all, &read.seconds), (&report.all, &report.seconds));
        assert_eq!((read.curve.len(), &read.warnings), (report.curve.len(), &report.warnings));
        let search = format!(
            "{{\"trials\": [{{\"rate\": 1, \"verdict\": \"met\", \"report\": {json}}}, \
             {{\"rate\": 9, \"verdict\": \"missed\", \"report\": {{}}}}]}}"
        );
        assert_eq!(Report::from_json(&search).expect("a report").all, report.all);
        for wrong in ["", "[]", "{}", "{\"trials\": []}"] {
            assert!(Report::from_json(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_curve_ends_with_the_last_whole_request() {
        let mut latencies = histogram();
        (1..=1000).for_each(|latency_us| latencies.saturating_record(latency_us * 1000));
        let curve = curve(&latencies);
        assert_eq!((curve.len(), curve[0].part), (61, 0.0));
        let [.., last] = curve[..] else { panic!("points") };
        assert!((last.part - 0.999).abs() < 1e-9, "{last:?}");
        assert!(curve.windows(2).all(|pair| pair[0].latency_ns <= pair[1].latency_ns));
        assert!(last.latency_ns.abs_diff(999_000) < 1000, "{last:?}");
    }

    #[test]
    fn late_sends_are_named_from_one_in_a_hundred_on() {
        for (late, limited) in [(10, false), (11, true)] {
            let mut interval = second();
            (interval.counts.late_sends, interval.counts.lateness_ns_sum) = (late, late * 2000);
            let report = report(&[summary(1000, 0)], &interval);
            assert_eq!(report.generator.is_bottleneck, limited, "{:?}", report.generator);
            let said = report.warnings.iter().any(|text| text.contains("was late"));
            assert_eq!(said, limited, "{:?}", report.warnings);
            assert_eq!(report.generator.lateness_ns_mean, 2000.0);
            assert_eq!(report.seconds[0].late_sends, late);
        }
    }
}
