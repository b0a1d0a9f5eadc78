//! Goals of a search: what latencies and errors a rate may have.
//!
//! A goal is a figure and the most it may be. Latencies are those of the requests that were
//! answered; requests that failed count in the error share alone, which has a goal of its own
//! even where nobody gave one: none may fail.

use std::str::FromStr;
use std::time::Duration;

use crate::report::Report;
use crate::units;

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Figure {
    /// The latency that this part of the requests does not exceed.
    Quantile(f64),
    /// The mean latency.
    Mean,
    /// The longest latency.
    Max,
    /// The part of the requests that failed.
    Errors,
}

/// A figure and the most it may be.
#[derive(Clone, Debug, PartialEq)]
pub struct Goal {
    figure: Figure,
    /// In nanoseconds, or a part of 1.
    most: f64,
    text: String,
}

impl Goal {
    /// That no request fails.
    pub fn no_errors() -> Goal {
        Goal { figure: Figure::Errors, most: 0.0, text: "errors=0".into() }
    }

    /// Whether it bounds the part of the requests that fail.
    pub fn is_about_errors(&self) -> bool {
        self.figure == Figure::Errors
    }

    /// The longest latency that it allows, if it is about one.
    pub fn latency(&self) -> Option<Duration> {
        (!self.is_about_errors()).then(|| Duration::from_nanos(self.most as u64))
    }

    /// How a run misses it; nothing if the run meets it.
    pub fn missed_by(&self, report: &Report) -> Option<String> {
        let measured = match self.figure {
            Figure::Errors => {
                let failed = report.failed();
                let share = failed as f64 / (failed + report.all.count).max(1) as f64;
                if share > self.most {
                    return Some(format!("{}: {:.3} % failed", self.text, share * 100.0));
                }
                return None;
            }
            Figure::Quantile(quantile) => report.latency_at(quantile) as f64,
            Figure::Mean => report.all.mean_ns,
            Figure::Max => report.all.max_ns as f64,
        };
        (measured > self.most).then(|| format!("{}: {:.3} ms", self.text, measured / 1e6))
    }

    /// How many late sends, with that many requests, may decide about it: a tenth of the
    /// requests that may be slower than it says.
    pub fn late_sends_allowed(&self, requests: u64) -> f64 {
        match self.figure {
            Figure::Quantile(quantile) => (1.0 - quantile) * requests as f64 / 10.0,
            Figure::Mean => requests as f64 / 100.0,
            Figure::Max => 0.0,
            Figure::Errors => f64::INFINITY,
        }
    }

    /// Whether a generator without time to run may be the reason that this run missed it. What a
    /// server refused is its own word.
    pub fn may_be_the_generators(&self, report: &Report) -> bool {
        match self.figure {
            Figure::Errors => report.errors.unsent + report.errors.timeouts > 0,
            _ => true,
        }
    }
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Goal, String> {
        let wrong = || {
            format!(
                "`{text}` is none of pN=TIME (such as p99.9=1ms), mean=TIME, max=TIME, \
                 errors=SHARE (such as 0.1%)"
            )
        };
        let (name, most) = text.split_once('=').ok_or_else(wrong)?;
        if name == "errors" {
            let (number, unit) = match most.strip_suffix('%') {
                Some(number) => (number, 100.0),
                None => (most, 1.0),
            };
            let share = number.parse::<f64>().map_err(|_| wrong())? / unit;
            if !(0.0..1.0).contains(&share) {
                return Err(format!("`{most}` is no share below 1"));
            }
            return Ok(Goal { figure: Figure::Errors, most: share, text: text.into() });
        }
        let figure = match name {
            "mean" => Figure::Mean,
            "max" => Figure::Max,
            _ => {
                let percent = name.strip_prefix('p').and_then(|number| number.parse::<f64>().ok());
                let percent = percent.filter(|percent| *percent > 0.0 && *percent < 100.0);
                Figure::Quantile(percent.ok_or_else(wrong)? / 100.0)
            }
        };
        let most = units::latency(most)?;
        Ok(Goal { figure, most: most.as_nanos() as f64, text: text.into() })
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_parsed_and_mistakes_refused() {
        let goal = |text: &str| text.parse::<Goal>().expect("a goal");
        assert_eq!(goal("p99.9=1ms").figure, Figure::Quantile(99.9 / 100.0));
        assert_eq!(goal("p50=250us").latency(), Some(Duration::from_micros(250)));
        assert_eq!(goal("mean=2s").latency(), Some(Duration::from_secs(2)));
        assert_eq!(goal("max=20ms").figure, Figure::Max);
        assert_eq!((goal("errors=0.1%").most, goal("errors=0.001").most), (0.001, 0.001));
        assert_eq!(goal("p99=1ms").to_string(), "p99=1ms");
        for wrong in [
            "",
            "p99",
            "p99=",
            "p=1ms",
            "p0=1ms",
            "p100=1ms",
            "pNaN=1ms",
            "q99=1ms",
            "p99=0ms",
            "p99=1",
            "p99=-1ms",
            "p99=1min",
            "errors=1",
            "errors=-1%",
            "errors=all",
        ] {
            assert!(wrong.parse::<Goal>().is_err(), "{wrong}");
        }
    }
}
