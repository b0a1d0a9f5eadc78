//! The search for the highest rate that meets a set of goals.
//!
//! Short trials in an open loop: the rate doubles until a trial misses a goal (or is halved until
//! one meets them), then the gap is bisected until it is narrow enough. The number of trials is
//! bounded, and each of them ends by itself, so the search does, too.
//!
//! A trial that missed a goal while the generator itself was late or had no core to run on says
//! nothing about the server. It is made once more; if that says no more, the rate bounds the
//! search as one that was missed does, but the outcome names the generator as what bounds it.
//!
//! [`Bisection`] decides which rate is next and knows neither servers nor time; [`search`] makes
//! the trials.

use std::time::Duration;

use serde::Serialize;

use crate::goal::Goal;
use crate::options::{Options, Pacing};
use crate::report::Report;
use crate::run::{Error, run};
use crate::second::milliseconds;
use crate::shape::{RATE_MAX, Shape};

/// Lowest rate that is tried, in requests a second.
const RATE_MIN: f64 = 1.0;
/// Part of a core's time, waits for one included, above which a trial that missed its goals is
/// the generator's.
const BUSY_SHARE: f64 = 0.9;
/// How often a rate is tried at which the generator was the bottleneck.
const ATTEMPTS_MAX: u32 = 2;

/// What to search for, and how.
#[derive(Clone, Debug)]
pub struct SearchOptions {
    /// What a rate must meet.
    pub goals: Vec<Goal>,
    /// The first rate, in requests a second.
    pub start: f64,
    /// Most trials.
    pub trials_max: u32,
    /// The search ends when the lowest rate that misses is no further above the highest that
    /// meets than this part of it.
    pub precision: f64,
}

/// What became of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// All goals were met.
    Met,
    /// A goal was missed, by the server.
    Missed,
    /// A goal was missed, and the generator may be the reason.
    GeneratorLimited,
}

/// What keeps the rate from being higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BoundedBy {
    /// The server missed the goals at a rate just above.
    Server,
    /// The generator could not tell.
    Generator,
    /// The number of trials, the highest rate there is, or the user.
    Trials,
}

/// Which rate is tried next.
#[derive(Clone, Debug)]
struct Bisection {
    met: Option<f64>,
    missed: Option<(f64, BoundedBy)>,
    next: f64,
    precision: f64,
    attempts: u32,
}

impl Bisection {
    fn new(start: f64, precision: f64) -> Bisection {
        Bisection { met: None, missed: None, next: start, precision, attempts: 0 }
    }

    /// The rate of the next trial; nothing once more trials would not tell more.
    fn next(&self) -> Option<f64> {
        match (self.met, self.missed) {
            (Some(met), Some((missed, _))) if missed <= met * (1.0 + self.precision) => None,
            (Some(met), None) if met >= RATE_MAX => None,
            (None, Some((missed, _))) if missed <= RATE_MIN => None,
            _ => Some(self.next),
        }
    }

    fn judge(&mut self, verdict: Verdict) {
        let rate = self.next;
        match verdict {
            Verdict::Met => self.met = Some(rate),
            Verdict::Missed => self.missed = Some((rate, BoundedBy::Server)),
            Verdict::GeneratorLimited => {
                self.attempts += 1;
                if self.attempts < ATTEMPTS_MAX {
                    return;
                }
                self.missed = Some((rate, BoundedBy::Generator));
            }
        }
        self.attempts = 0;
        self.next = match (self.met, self.missed) {
            (Some(met), Some((missed, _))) => (met + missed) / 2.0,
            (Some(met), None) => (met * 2.0).min(RATE_MAX),
            (None, Some((missed, _))) => (missed / 2.0).max(RATE_MIN),
            (None, None) => rate,
        };
    }

    /// What keeps the rate from being higher.
    fn bounded_by(&self) -> BoundedBy {
        match (self.next(), self.missed) {
            (None, Some((_, by))) => by,
            _ => BoundedBy::Trials,
        }
    }
}

/// One trial.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// Requests due per second.
    pub rate: f64,
    /// What became of it.
    pub verdict: Verdict,
    /// Which goals were missed, and by what.
    pub missed: Vec<String>,
    /// How the generator may be the reason for that.
    pub generator: Vec<String>,
    /// What was measured.
    pub report: Report,
}

impl Trial {
    fn judge(rate: f64, goals: &[Goal], report: Report) -> Trial {
        let missed: Vec<&Goal> =
            goals.iter().filter(|goal| goal.missed_by(&report).is_some()).collect();
        let generator = limits(&missed, &report);
        let verdict = match (missed.is_empty(), generator.is_empty()) {
            (true, _) => Verdict::Met,
            (false, true) => Verdict::Missed,
            (false, false) => Verdict::GeneratorLimited,
        };
        let missed = missed.iter().filter_map(|goal| goal.missed_by(&report)).collect();
        Trial { rate, verdict, missed, generator, report }
    }

    /// The trial in a line.
    pub fn line(&self) -> String {
        let all = &self.report.all;
        let verdict = match self.verdict {
            Verdict::Met => "met".to_owned(),
            Verdict::Missed => format!("missed ({})", self.missed.join(", ")),
            Verdict::GeneratorLimited => format!(
                "not the server's ({}): {}",
                self.missed.join(", "),
                self.generator.join("; ")
            ),
        };
        format!(
            "{:>12.0} op/s offered {:>12.0} answered  p50 {:>10}  p99 {:>10}  p99.9 {:>10}  \
             max {:>10}  failed {}  {verdict}",
            self.rate,
            self.report.throughput,
            milliseconds(all.p50_ns),
            milliseconds(all.p99_ns),
            milliseconds(all.p999_ns),
            milliseconds(all.max_ns),
            self.report.failed(),
        )
    }
}

/// How the generator may be the reason that goals were missed.
fn limits(missed: &[&Goal], report: &Report) -> Vec<String> {
    let generator = &report.generator;
    let mut limits = Vec::new();
    let missed: Vec<&&Goal> =
        missed.iter().filter(|goal| goal.may_be_the_generators(report)).collect();
    if missed.is_empty() {
        return limits;
    }
    let need = generator.threads.iter().map(|thread| thread.cpu + thread.waited);
    let need = need.fold(0.0, f64::max);
    if need > BUSY_SHARE {
        limits.push(format!("a thread of the generator needed {:.0} % of a core", need * 100.0));
    }
    let due = report.all.count + report.failed();
    let late = generator.late_sends;
    if missed.iter().any(|goal| late as f64 > goal.late_sends_allowed(due)) {
        limits.push(format!(
            "{} of {due} requests were sent more than {} late",
            late,
            milliseconds(generator.late_after_ns)
        ));
    }
    limits
}

/// What a search found.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The version of this program.
    pub version: String,
    /// What was asked for.
    pub goals: Vec<String>,
    /// The highest rate that met all goals, in requests a second.
    pub rate: Option<f64>,
    /// What keeps it from being higher.
    pub bounded_by: BoundedBy,
    /// Each trial, in order.
    pub trials: Vec<Trial>,
}

impl Outcome {
    /// The report of the highest rate that met all goals.
    pub fn best(&self) -> Option<&Report> {
        let met = self.trials.iter().filter(|trial| trial.verdict == Verdict::Met);
        met.max_by(|left, right| left.rate.total_cmp(&right.rate)).map(|trial| &trial.report)
    }

    /// The outcome in words.
    pub fn render(&self) -> String {
        let goals = self.goals.join(", ");
        let trials = self.trials.len();
        let rate = match self.rate {
            None => format!("no rate met {goals} in {trials} trials"),
            Some(rate) => format!("{rate:.0} op/s meet {goals}, found in {trials} trials"),
        };
        let bound = match self.bounded_by {
            BoundedBy::Server => "the server misses a goal just above",
            BoundedBy::Generator => {
                "the load generator, and not the server, ended the search: the server may do more; \
                 give the generator more threads, or CPUs of its own"
            }
            BoundedBy::Trials => "the search ended before it met a bound: the server may do more",
        };
        match (self.rate, self.bounded_by) {
            (None, BoundedBy::Server) => format!("{rate}\n"),
            _ => format!("{rate}\n{bound}\n"),
        }
    }

    /// The outcome as JSON.
    ///
    /// # Errors
    /// None that an outcome can cause; the type is the serializer's.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}

/// Searches for the highest rate that meets the goals, with trials that are runs of `options` in
/// an open loop, and calls `progress` after each of them. Keys are loaded once.
///
/// It takes at most `trials_max` times the warm-up, the duration and the timeout of a trial, and
/// what connecting and loading the keys takes. `options.stop` ends it after the trial under way,
/// which does not count.
///
/// # Errors
/// If the options make no sense or a trial could not be made.
pub fn search(
    options: &Options,
    search: &SearchOptions,
    progress: &mut dyn FnMut(&Trial),
) -> Result<Outcome, Error> {
    search.check().map_err(Error::Options)?;
    let mut goals = search.goals.clone();
    if !goals.iter().any(Goal::is_about_errors) {
        goals.push(Goal::no_errors());
    }
    let late_after = goals.iter().filter_map(Goal::latency).map(|most| most / 10).min();
    let mut options = options.clone();
    options.late_after = late_after.unwrap_or(options.late_after).min(options.late_after);
    let mut bisection = Bisection::new(search.start, search.precision);
    let mut trials = Vec::new();
    while let Some(rate) = bisection.next() {
        if trials.len() >= search.trials_max as usize || is_stopped(&options) {
            break;
        }
        let report = run(at_rate(&options, rate), &mut |_| {})?;
        if is_stopped(&options) {
            break;
        }
        options.prefill = false;
        let trial = Trial::judge(rate, &goals, report);
        bisection.judge(trial.verdict);
        progress(&trial);
        trials.push(trial);
    }
    Ok(Outcome {
        version: env!("CARGO_PKG_VERSION").into(),
        goals: goals.iter().map(ToString::to_string).collect(),
        rate: bisection.met,
        bounded_by: bisection.bounded_by(),
        trials,
    })
}

impl SearchOptions {
    /// Says what makes no sense.
    ///
    /// # Errors
    /// The name of the option and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let wrong =
            |condition: bool, text: &str| if condition { Err(text.to_owned()) } else { Ok(()) };
        wrong(self.goals.is_empty(), "slo: give at least one goal")?;
        wrong(!(self.start >= RATE_MIN && self.start <= RATE_MAX), "rate: 1 to 10^9 per second")?;
        wrong(self.trials_max == 0, "trials: at least 1")?;
        let precise = self.precision >= 0.001 && self.precision <= 1.0;
        wrong(!precise, "precision: 0.001 to 1")
    }
}

fn at_rate(options: &Options, rate: f64) -> Options {
    let arrivals = match options.pacing {
        Pacing::Open { arrivals, .. } => arrivals,
        Pacing::Closed | Pacing::Recorded { .. } => crate::arrivals::Arrivals::default(),
    };
    Options {
        pacing: Pacing::Open { shape: Shape::Constant(rate), arrivals },
        duration: Some(options.duration.unwrap_or(Duration::from_secs(3))),
        requests: None,
        ..options.clone()
    }
}

fn is_stopped(options: &Options) -> bool {
    let stop = options.stop.as_ref();
    stop.is_some_and(|stop| stop.load(std::sync::atomic::Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a server that meets the goals up to `capacity`, through a generator that can tell
    /// up to `reach`. Returns what was found and the number of trials.
    fn find(start: f64, capacity: f64, reach: f64) -> (Option<f64>, BoundedBy, u32) {
        let mut bisection = Bisection::new(start, 0.05);
        let mut trials = 0;
        while let Some(rate) = bisection.next() {
            bisection.judge(match rate {
                rate if rate <= capacity.min(reach) => Verdict::Met,
                rate if rate > reach => Verdict::GeneratorLimited,
                _ => Verdict::Missed,
            });
            trials += 1;
            assert!(trials < 100, "no end: {bisection:?}");
        }
        (bisection.met, bisection.bounded_by(), trials)
    }

    #[test]
    fn the_rate_found_is_within_the_precision_below_the_capacity_from_any_start() {
        for capacity in [1.0, 3.0, 999.0, 1000.0, 12_345.0, 5e6, RATE_MAX] {
            for start in [1.0, 1000.0, 1e6] {
                let (rate, by, trials) = find(start, capacity, f64::INFINITY);
                let rate = rate.expect("a rate");
                assert!(rate <= capacity && rate * 1.05 >= capacity, "{rate} of {capacity}");
                let expected =
                    if capacity == RATE_MAX { BoundedBy::Trials } else { BoundedBy::Server };
                assert_eq!(by, expected, "{capacity}");
                assert!(trials <= 36, "{trials} trials from {start} to {capacity}");
            }
        }
    }

    #[test]
    fn a_server_that_meets_the_goals_at_no_rate_ends_the_search() {
        let (rate, by, trials) = find(1000.0, 0.5, f64::INFINITY);
        assert_eq!((rate, by), (None, BoundedBy::Server));
        assert!(trials <= 12, "{trials}");
    }

    #[test]
    fn the_generators_limit_is_never_taken_for_the_servers() {
        let (rate, by, _) = find(1000.0, 50_000.0, 20_000.0);
        assert_eq!(by, BoundedBy::Generator);
        assert!(rate.is_some_and(|rate| rate <= 20_000.0 && rate * 1.05 >= 20_000.0), "{rate:?}");
        let (_, by, _) = find(1000.0, 20_000.0, 50_000.0);
        assert_eq!(by, BoundedBy::Server);
    }

    #[test]
    fn a_rate_at_which_the_generator_was_late_once_is_tried_again() {
        let mut bisection = Bisection::new(1000.0, 0.05);
        bisection.judge(Verdict::GeneratorLimited);
        assert_eq!(bisection.next(), Some(1000.0));
        bisection.judge(Verdict::Met);
        assert_eq!(bisection.next(), Some(2000.0));
        bisection.judge(Verdict::GeneratorLimited);
        bisection.judge(Verdict::GeneratorLimited);
        assert_eq!(bisection.next(), Some(1500.0));
    }
}
