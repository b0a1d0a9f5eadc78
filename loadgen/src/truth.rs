//! Reported percentiles against the truth, in virtual time.
//!
//! The schedules, the recorder, the intervals and the report are those of a real run; the sockets
//! and the clock are a model in which every delay is known to the nanosecond. The truth is worked
//! out from the model's definition alone, per connection and without any of that code. So a wrong
//! percentile, a request that belongs to the wrong phase, or a stall that hides the requests it
//! kept from being sent shows here whatever the machine does.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::arrivals::{Arrivals, Schedule, Schedules, Share};
use crate::options::{Mode, Options, Pacing};
use crate::random::mix;
use crate::record::{Interval, Phase, Recorder};
use crate::report::Report;
use crate::second::Second;
use crate::shape::{Profile, Shape};
use crate::worker::Summary;
use crate::workload::Kind;

const SECOND_NS: u64 = 1_000_000_000;
const MEASURE_NS: u64 = SECOND_NS;
const END_NS: u64 = 6 * SECOND_NS;

/// A server with a delay for each request, which sends no reply between two times, and answers
/// each connection in order.
#[derive(Clone, Copy, Debug)]
struct Model {
    rate: f64,
    connections: u32,
    pipeline: usize,
    stall: Option<(u64, u64)>,
}

impl Model {
    /// When the reply to a request leaves that was sent at a time, with nothing before it.
    fn reply_ns(&self, sent_ns: u64, number: u64) -> u64 {
        let milliseconds = match mix(number) % 100_000 {
            0..92_000 => 20,
            92_000..99_300 => 50,
            99_300..99_930 => 100,
            99_930..99_993 => 300,
            _ => 700,
        };
        let reply_ns = sent_ns + milliseconds * 1_000_000 + mix(!number) % 1_000_000;
        match self.stall {
            Some((from_ns, to_ns)) if reply_ns >= from_ns => reply_ns.max(to_ns),
            _ => reply_ns,
        }
    }

    /// The latencies of all requests that were due in the measured time, from when they were due,
    /// in order of size.
    fn truth(&self) -> Vec<u64> {
        let mut latencies = Vec::new();
        for connection in 0..u64::from(self.connections) {
            let mut replies: Vec<u64> = Vec::new();
            for turn in 0usize.. {
                let number = connection + turn as u64 * u64::from(self.connections);
                let due_ns = (number as f64 * 1e9 / self.rate).round() as u64;
                if due_ns >= END_NS {
                    break;
                }
                let room = turn.checked_sub(self.pipeline).map_or(0, |turn| replies[turn]);
                let reply_ns = self.reply_ns(due_ns.max(room), number);
                let reply_ns = reply_ns.max(replies.last().copied().unwrap_or(0));
                replies.push(reply_ns);
                if due_ns >= MEASURE_NS {
                    latencies.push(reply_ns - due_ns);
                }
            }
        }
        latencies.sort_unstable();
        latencies
    }

    /// What the generator's own code makes of it.
    fn report(&self) -> Report {
        let shape = Shape::Constant(self.rate);
        let profile = Arc::new(Profile::new(&shape, 0, MEASURE_NS));
        let schedule = |index| {
            let share = Share { index, sources: self.connections };
            Schedule::new(Arrivals::Constant, &profile, share, 1)
        };
        let schedules = Schedules::new((0..self.connections).map(schedule).collect());
        let address = "127.0.0.1:1".parse().expect("an address");
        let pacing = Pacing::Open { shape, arrivals: Arrivals::Constant };
        let options = Options { pacing, ..Options::new(vec![address], Mode::Resp) };
        let mut run = Run {
            model: *self,
            schedules,
            connections: vec![Connection::default(); self.connections as usize],
            recorder: Recorder::new(Box::new(Interval::new(Phase::Warmup, 0)), SECOND_NS),
            report: Report::new(&options),
            rotation_ns: SECOND_NS,
            now_ns: 0,
        };
        run.drive();
        run.rotate(u64::MAX);
        run.report.finish(&[Summary::default()]);
        run.report
    }
}

#[derive(Clone, Debug, Default)]
struct Connection {
    /// Intended starts and replies, in order.
    in_flight: VecDeque<(u64, u64)>,
    started: u64,
    latest_reply_ns: u64,
}

struct Run {
    model: Model,
    schedules: Schedules,
    connections: Vec<Connection>,
    recorder: Recorder,
    report: Report,
    rotation_ns: u64,
    now_ns: u64,
}

impl Run {
    fn drive(&mut self) {
        loop {
            let start = self.schedules.next().filter(|(start_ns, _)| *start_ns < END_NS);
            let front = |connection: &Connection| connection.in_flight.front().map(|(_, at)| *at);
            let replies = self.connections.iter().enumerate();
            let reply =
                replies.filter_map(|(index, connection)| Some((front(connection)?, index))).min();
            match (start, reply) {
                (None, None) => return,
                (Some((start_ns, source)), reply)
                    if reply.is_none_or(|(reply_ns, _)| start_ns.max(self.now_ns) <= reply_ns) =>
                {
                    self.start(start_ns, source);
                }
                (_, Some((reply_ns, index))) => self.answer(reply_ns, index),
                (Some(_), None) => unreachable!("the guard takes every start without a reply"),
            }
        }
    }

    fn start(&mut self, start_ns: u64, source: usize) {
        let connection = &mut self.connections[source];
        if connection.in_flight.len() >= self.model.pipeline {
            return self.schedules.hold();
        }
        self.schedules.take();
        let number = source as u64 + connection.started * u64::from(self.model.connections);
        connection.started += 1;
        let reply_ns = self.model.reply_ns(start_ns.max(self.now_ns), number);
        connection.latest_reply_ns = connection.latest_reply_ns.max(reply_ns);
        connection.in_flight.push_back((start_ns, connection.latest_reply_ns));
        self.now_ns = self.now_ns.max(start_ns);
    }

    fn answer(&mut self, reply_ns: u64, index: usize) {
        self.rotate(reply_ns);
        self.now_ns = reply_ns;
        if let Some((intended_ns, _)) = self.connections[index].in_flight.pop_front() {
            self.recorder.done(Kind::Read, true, intended_ns, reply_ns);
        }
        self.schedules.release(index);
    }

    /// Ends the intervals before a time; with the greatest one the last of them.
    fn rotate(&mut self, at_ns: u64) {
        while at_ns >= self.rotation_ns {
            let phase = if self.rotation_ns >= END_NS { Phase::Drain } else { Phase::Measured };
            let next = Box::new(Interval::new(phase, self.rotation_ns));
            let ended = self.recorder.rotate(next, phase, self.rotation_ns, MEASURE_NS);
            self.report.add(&Second::merge(&[&ended]).expect("a second"), 0);
            if self.rotation_ns > self.now_ns.max(END_NS) {
                return;
            }
            self.rotation_ns += SECOND_NS;
        }
    }
}

fn check(model: Model) {
    let (truth, report) = (model.truth(), model.report());
    assert_eq!(report.all.count, truth.len() as u64, "{model:?}");
    assert_eq!(truth.len(), (5.0 * model.rate) as usize);
    let mean = truth.iter().sum::<u64>() as f64 / truth.len() as f64;
    let at = |quantile: f64| {
        let rank = (truth.len() as f64 * quantile).ceil() as usize;
        truth[rank.clamp(1, truth.len()) - 1] as f64
    };
    let all = &report.all;
    for (name, reported, true_ns) in [
        ("mean", all.mean_ns, mean),
        ("min", all.min_ns as f64, at(0.0)),
        ("p50", all.p50_ns as f64, at(0.5)),
        ("p90", all.p90_ns as f64, at(0.9)),
        ("p99", all.p99_ns as f64, at(0.99)),
        ("p99.9", all.p999_ns as f64, at(0.999)),
        ("p99.99", all.p9999_ns as f64, at(0.9999)),
        ("max", all.max_ns as f64, at(1.0)),
    ] {
        let error = (reported / true_ns - 1.0).abs();
        assert!(error <= 0.01, "{model:?}: {name} is {reported}, in truth {true_ns}");
    }
}

#[test]
fn percentiles_are_within_one_percent_of_scripted_delays() {
    for (connections, pipeline) in [(1, 10_000), (50, 64), (200, 1)] {
        check(Model { rate: 4000.0, connections, pipeline, stall: None });
    }
}

/// With one request in flight per connection most of those that were due during the stall could
/// not even be sent: they must show as if they had been.
#[test]
fn a_stall_of_a_second_counts_for_every_request_that_was_due_meanwhile() {
    let stall = Some((3 * SECOND_NS, 4 * SECOND_NS));
    for (connections, pipeline) in [(1, 10_000), (50, 64), (200, 1), (200, 3)] {
        let model = Model { rate: 2000.0, connections, pipeline, stall };
        check(model);
        let report = model.report();
        for tenths in 1..10 {
            let wait_ns = SECOND_NS * tenths / 10;
            let waited = report.read_histogram.count_between(wait_ns, u64::MAX >> 1);
            assert!(waited as f64 >= 2000.0 * (1.0 - tenths as f64 / 10.0), "{model:?}");
        }
    }
}
