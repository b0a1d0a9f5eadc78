//! How the rate of an open loop goes over time: constant, in steps, or with a spike.
//!
//! A shape is a few stages of constant rate. Their times count from the start of the measured
//! part; the warm-up runs at the rate of the first stage, and the last stage goes on for as long
//! as the run does. [`Profile`] is a shape laid onto the clock of a run: which request of all is
//! due when, and how many are due before a time. Both are arithmetic on at most [`STAGES_MAX`]
//! pieces; nothing is stored per request.

use std::str::FromStr;
use std::time::Duration;

use crate::units;

/// Most stages of a shape.
pub const STAGES_MAX: usize = 64;
/// Highest rate, in requests a second.
pub const RATE_MAX: f64 = 1e9;
/// Shortest stage.
const STAGE_MIN: Duration = Duration::from_millis(10);

/// The rate of an open loop over time, in requests a second.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// The same all the time.
    Constant(f64),
    /// One rate after the other.
    Steps {
        /// The rates, in order.
        rates: Vec<f64>,
        /// How long each of them lasts.
        each: Duration,
    },
    /// A rate that is higher (or lower) for a while.
    Spike {
        /// Before and after.
        base: f64,
        /// In between.
        peak: f64,
        /// When it begins.
        from: Duration,
        /// When it ends.
        to: Duration,
    },
}

/// A part of a shape with one rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// When it begins, from the start of the measured part.
    pub from: Duration,
    /// Requests a second.
    pub rate: f64,
}

impl Shape {
    /// The stages in order; the first begins at zero.
    pub fn stages(&self) -> Vec<Stage> {
        match self {
            Shape::Constant(rate) => vec![Stage { from: Duration::ZERO, rate: *rate }],
            Shape::Steps { rates, each } => {
                let stage = |(rate, number)| Stage { from: *each * number, rate };
                rates.iter().copied().zip(0..).map(stage).collect()
            }
            Shape::Spike { base, peak, from, to } => {
                let stages =
                    [(Duration::ZERO, *base), (*from, *peak), (*to, *base)].into_iter().skip(
                        // A spike at the very beginning has nothing before it.
                        usize::from(from.is_zero()),
                    );
                stages.map(|(from, rate)| Stage { from, rate }).collect()
            }
        }
    }

    /// How long the shape itself lasts, if it says so.
    pub fn length(&self) -> Option<Duration> {
        match self {
            Shape::Steps { rates, each } => Some(*each * rates.len() as u32),
            Shape::Constant(_) | Shape::Spike { .. } => None,
        }
    }

    /// The rate, if it is always the same.
    pub fn constant_rate(&self) -> Option<f64> {
        match self {
            Shape::Constant(rate) => Some(*rate),
            Shape::Steps { .. } | Shape::Spike { .. } => None,
        }
    }

    /// Says what makes no sense.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let stages = match self {
            Shape::Steps { rates, .. } if rates.is_empty() => {
                return Err("steps need at least one rate".into());
            }
            Shape::Steps { rates, .. } if rates.len() > STAGES_MAX => {
                return Err(format!("at most {STAGES_MAX} steps"));
            }
            Shape::Spike { from, to, .. } if from >= to => {
                return Err("a spike ends after it begins".into());
            }
            _ => self.stages(),
        };
        if stages.iter().any(|stage| !(stage.rate > 0.0 && stage.rate <= RATE_MAX)) {
            return Err("a rate lies above 0 and up to 10^9 per second".into());
        }
        let short = |pair: &[Stage]| pair[1].from - pair[0].from < STAGE_MIN;
        let each_is_short = matches!(self, Shape::Steps { each, .. } if *each < STAGE_MIN);
        if each_is_short || stages.windows(2).any(short) {
            return Err("each stage lasts at least 10ms".into());
        }
        Ok(())
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Shape, String> {
        let wrong = || {
            format!(
                "`{text}` is neither steps:RATE,RATE,..@TIME nor spike:BASE,PEAK@FROM-TO, such \
                 as steps:10k,20k,40k@5s or spike:10k,50k@2s-3s"
            )
        };
        let (name, rest) = text.split_once(':').ok_or_else(wrong)?;
        let (rates, times) = rest.split_once('@').ok_or_else(wrong)?;
        let rates = rates.split(',').map(units::rate).collect::<Result<Vec<f64>, String>>()?;
        let shape = match (name, rates.as_slice()) {
            ("steps", _) => Shape::Steps { each: units::duration(times)?, rates },
            ("spike", &[base, peak]) => {
                let (from, to) = times.split_once('-').ok_or_else(wrong)?;
                let (from, to) = (units::duration(from)?, units::duration(to)?);
                Shape::Spike { base, peak, from, to }
            }
            _ => return Err(wrong()),
        };
        shape.check()?;
        Ok(shape)
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Shape::Constant(rate) => write!(formatter, "{rate:.0} op/s"),
            Shape::Steps { rates, each } => {
                let rates: Vec<String> = rates.iter().map(ToString::to_string).collect();
                write!(formatter, "steps:{}@{}s", rates.join(","), each.as_secs_f64())
            }
            Shape::Spike { base, peak, from, to } => {
                let (from, to) = (from.as_secs_f64(), to.as_secs_f64());
                write!(formatter, "spike:{base},{peak}@{from}s-{to}s")
            }
        }
    }
}

/// A stretch of constant rate on the clock of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    /// When it begins, in nanoseconds.
    pub start_ns: f64,
    /// How many requests are due before it, over all sources.
    pub first: f64,
    /// How many are due before the next piece.
    pub end: f64,
    /// Nanoseconds between two requests.
    pub interval_ns: f64,
}

impl Piece {
    /// When the request at `position` is due, if that lies in this piece.
    #[inline]
    pub fn due_ns(&self, position: f64) -> f64 {
        self.start_ns + (position - self.first) * self.interval_ns
    }
}

/// A shape on the clock of a run. Requests of all sources together are numbered from 0.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pieces: Vec<Piece>,
}

impl Profile {
    /// Lays the shape's stages onto a clock on which requests start at `start_ns` and are
    /// measured from `measure_ns` on.
    pub fn new(shape: &Shape, start_ns: u64, measure_ns: u64) -> Profile {
        let stages = shape.stages();
        let mut pieces: Vec<Piece> = Vec::with_capacity(stages.len());
        for stage in &stages {
            let begins_ns = measure_ns.saturating_add(stage.from.as_nanos() as u64) as f64;
            let interval_ns = 1e9 / stage.rate;
            let piece = match pieces.last_mut() {
                None => {
                    Piece { start_ns: start_ns as f64, first: 0.0, end: f64::INFINITY, interval_ns }
                }
                Some(before) => {
                    before.end = before.first + (begins_ns - before.start_ns) / before.interval_ns;
                    let first = before.end;
                    Piece { start_ns: begins_ns, first, end: f64::INFINITY, interval_ns }
                }
            };
            pieces.push(piece);
        }
        Profile { pieces }
    }

    /// The piece with this number, the last one if there are fewer.
    pub fn piece(&self, number: usize) -> Piece {
        let last = self.pieces.len().saturating_sub(1);
        self.pieces.get(number.min(last)).copied().unwrap_or(Piece {
            start_ns: f64::INFINITY,
            first: 0.0,
            end: f64::INFINITY,
            interval_ns: f64::INFINITY,
        })
    }

    /// The first time after `now_ns` at which the rate changes.
    pub fn change_after(&self, now_ns: u64) -> Option<u64> {
        let changes = self.pieces.iter().skip(1).map(|piece| piece.start_ns as u64);
        changes.filter(|change_ns| *change_ns > now_ns).min()
    }

    /// The number of the stage that a time lies in.
    pub fn stage_at(&self, at_ns: u64) -> usize {
        let begun = self.pieces.iter().filter(|piece| piece.start_ns as u64 <= at_ns).count();
        begun.saturating_sub(1)
    }

    /// How many requests are due before a time.
    pub fn due_before(&self, at_ns: u64) -> f64 {
        let piece = self.piece(self.stage_at(at_ns));
        let position = piece.first + (at_ns as f64 - piece.start_ns) / piece.interval_ns;
        position.clamp(0.0, piece.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_parsed_shown_and_mistakes_refused() {
        let seconds = Duration::from_secs;
        let steps = Shape::Steps { rates: vec![10_000.0, 20_000.0], each: seconds(5) };
        assert_eq!("steps:10k,20k@5s".parse(), Ok(steps));
        let spike =
            Shape::Spike { base: 10_000.0, peak: 50_000.0, from: seconds(2), to: seconds(3) };
        assert_eq!("spike:10k,50k@2s-3s".parse(), Ok(spike.clone()));
        assert_eq!(spike.to_string().parse(), Ok(spike));
        for wrong in [
            "",
            "10k",
            "steps:10k",
            "steps:@5s",
            "steps:10k,0@5s",
            "steps:10k@5ms",
            "steps:10k@5sec",
            "spike:10k@2s-3s",
            "spike:10k,50k@2s",
            "spike:10k,50k@3s-2s",
            "spike:10k,50k@2s-2s",
            "spike:1,2,3@2s-3s",
            "saw:1,2@2s",
        ] {
            assert!(wrong.parse::<Shape>().is_err(), "{wrong}");
        }
        let many = format!("steps:{}@1s", vec!["1"; STAGES_MAX + 1].join(","));
        assert!(many.parse::<Shape>().is_err());
        let most = format!("steps:{}@1s", vec!["1"; STAGES_MAX].join(","));
        assert!(most.parse::<Shape>().is_ok());
    }

    #[test]
    fn a_spike_at_the_beginning_has_two_stages() {
        let shape: Shape = "spike:10,50@0s-3s".parse().expect("a shape");
        let rates: Vec<f64> = shape.stages().iter().map(|stage| stage.rate).collect();
        assert_eq!(rates, [50.0, 10.0]);
    }

    #[test]
    fn what_is_due_follows_the_stages_and_the_warm_up_runs_at_the_first_rate() {
        let shape: Shape = "steps:1000,4000@2s".parse().expect("a shape");
        let second = 1_000_000_000;
        let profile = Profile::new(&shape, second, 2 * second);
        for (at, expected) in
            [(0, 0.0), (1, 0.0), (2, 1000.0), (4, 3000.0), (5, 7000.0), (7, 15_000.0)]
        {
            assert_eq!(profile.due_before(at * second), expected, "at {at} s");
        }
        assert_eq!(profile.change_after(0), Some(4 * second));
        assert_eq!(profile.change_after(4 * second), None);
        assert_eq!((profile.stage_at(0), profile.stage_at(4 * second)), (0, 1));
        let piece = profile.piece(1);
        assert_eq!(piece.due_ns(3000.0), 4e9);
    }
}
