//! Reported percentiles against the truth, over sockets: servers that delay their replies by a
//! script and write down by how much they really did.
//!
//! What is reported can never be shorter than what the server measured between reading a request
//! and writing its reply, on any machine; that holds in every attempt. It is at most one percent
//! longer where the machine has a core to spare; a run that was disturbed is made again, while a
//! generator that reports wrong figures reports them every time.

mod servers;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use loadgen::{Arrivals, Mode, Options, Pacing, Report, Shape, mix};
use servers::{Server, etcd, measure, options, parse};

/// Attempts before a difference counts.
const ATTEMPTS: u32 = 12;

/// One run at a time, so that they do not disturb each other.
static ALONE: Mutex<()> = Mutex::new(());

/// How long each reply takes. The percentiles that are compared lie well within these parts.
fn delay(number: u64) -> Duration {
    let milliseconds = match mix(number) % 1000 {
        0..800 => 200,
        800..960 => 300,
        960..996 => 500,
        _ => 900,
    };
    Duration::from_millis(milliseconds)
}

/// What a server did.
#[derive(Default)]
struct Script {
    /// From when on, after the first request, it stands still, and for how long.
    stall: Option<(Duration, Duration)>,
    number: AtomicU64,
    first: OnceLock<Instant>,
    /// How long each request stayed with the server.
    stays: Mutex<Vec<Duration>>,
}

impl Script {
    /// When the reply to a request is due that arrived at `arrival`.
    fn due(&self, arrival: Instant) -> Instant {
        let first = *self.first.get_or_init(|| arrival);
        let due = arrival + delay(self.number.fetch_add(1, Ordering::Relaxed));
        match self.stall {
            Some((from, length)) if due >= first + from => due.max(first + from + length),
            _ => due,
        }
    }

    /// Serves in the protocol of a mode.
    fn serve(script: &Arc<Script>, mode: Mode) -> Server {
        if mode == Mode::Etcd {
            return Script::serve_etcd(Arc::clone(script));
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let script = Arc::clone(script);
        Server::conversing(listener, move |stream| script.converse(stream))
    }

    fn serve_etcd(script: Arc<Script>) -> Server {
        etcd::serve(move |call| {
            let (script, arrival) = (Arc::clone(&script), Instant::now());
            // The probe before the run is none of its requests.
            let due = (!call.is_probe()).then(|| script.due(arrival));
            async move {
                if let Some(due) = due {
                    tokio::time::sleep_until(due.into()).await;
                    script.stays.lock().expect("a lock").push(arrival.elapsed());
                }
                etcd::Act::Say(etcd::nothing())
            }
        })
    }

    /// One thread reads, so that every arrival is seen when it happens; another one replies.
    fn converse(self: &Arc<Script>, mut stream: TcpStream) {
        let (replies, due) = channel::<(Instant, Instant)>();
        let mut writer = stream.try_clone().expect("a handle");
        let script = Arc::clone(self);
        std::thread::spawn(move || {
            for (arrival, due) in due {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                script.stays.lock().expect("a lock").push(arrival.elapsed());
                if writer.write_all(b"$-1\r\n").is_err() {
                    return;
                }
            }
        });
        let (mut input, mut chunk) = (Vec::new(), [0; 64 << 10]);
        while let Ok(received) = stream.read(&mut chunk) {
            if received == 0 {
                return;
            }
            let arrival = Instant::now();
            input.extend_from_slice(&chunk[..received]);
            while let Some((arguments, length)) = parse(&input) {
                input.drain(..length);
                // The probe before the run is none of its requests.
                if arguments.get(1).is_some_and(|key| key == b"loadgen:probe") {
                    stream.write_all(b"$-1\r\n").expect("a reply");
                    continue;
                }
                if replies.send((arrival, self.due(arrival))).is_err() {
                    return;
                }
            }
        }
    }
}

/// The value that a part of all does not exceed.
fn at(sorted: &[Duration], quantile: f64) -> f64 {
    let rank = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1].as_nanos() as f64
}

/// How far the report is above the truth, at worst over all its figures. Panics if it is below.
fn excess(report: &Report, script: &Script) -> f64 {
    let mut stays = script.stays.lock().expect("a lock").clone();
    stays.sort_unstable();
    assert_eq!(report.all.count, stays.len() as u64);
    let mean = stays.iter().sum::<Duration>().as_nanos() as f64 / stays.len() as f64;
    let all = &report.all;
    [
        ("mean", all.mean_ns, mean),
        ("p50", all.p50_ns as f64, at(&stays, 0.5)),
        ("p90", all.p90_ns as f64, at(&stays, 0.9)),
        ("p99", all.p99_ns as f64, at(&stays, 0.99)),
        ("p99.9", all.p999_ns as f64, at(&stays, 0.999)),
        ("max", all.max_ns as f64, at(&stays, 1.0)),
    ]
    .into_iter()
    .map(|(name, reported, truth)| {
        // The histogram has three digits.
        assert!(reported >= truth * 0.999, "{name}: {reported} reported, {truth} true");
        // The longest is a single request, which anything may disturb.
        if name == "max" { 0.0 } else { reported / truth - 1.0 }
    })
    .fold(0.0, f64::max)
}

/// Runs until a report is within one percent of what its server measured.
fn agrees(
    mode: Mode,
    stall: Option<(Duration, Duration)>,
    setup: impl Fn(Options) -> Options,
) -> Report {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut excesses = Vec::new();
    for _ in 0..ATTEMPTS {
        let script = Arc::new(Script { stall, ..Script::default() });
        let server = Script::serve(&script, mode);
        let base = Options { read_share: 1.0, ..options(&server, mode) };
        let report = measure(setup(base));
        let excess = excess(&report, &script);
        if excess <= 0.01 {
            return report;
        }
        excesses.push(excess);
    }
    panic!("the reports are above the truth by {excesses:?}");
}

fn a_closed_loop_reports_scripted_delays(mode: Mode) {
    let setup = |base| Options { connections: 100, requests: Some(2000), ..base };
    let report = agrees(mode, None, setup);
    assert!(report.all.max_ns >= 900_000_000, "{:?}", report.all);
}

fn a_stall_of_a_second_shows_in_full(mode: Mode) {
    let second = Duration::from_secs(1);
    let rate = 300.0;
    let report = agrees(mode, Some((second, second)), |base| Options {
        pacing: Pacing::Open { shape: Shape::Constant(rate), arrivals: Arrivals::Constant },
        connections: 100,
        duration: Some(Duration::from_secs(3)),
        requests: None,
        ..base
    });
    // Whoever was due in the first (1 - x) of the stall waited for at least x of it.
    for tenths in 1..10 {
        let wait_ns = second.as_nanos() as u64 * tenths / 10;
        let waited = report.read_histogram.count_between(wait_ns, u64::MAX >> 1) as f64;
        let due = rate * (1.0 - tenths as f64 / 10.0);
        assert!(waited >= due * 0.97 - 1.0, "{waited} of {due} waited for {tenths} tenths");
    }
}

#[test]
fn a_closed_loop_reports_scripted_delays_within_one_percent() {
    a_closed_loop_reports_scripted_delays(Mode::Resp);
}

#[test]
fn a_stall_of_a_second_shows_in_full_within_one_percent() {
    a_stall_of_a_second_shows_in_full(Mode::Resp);
}

#[test]
fn a_closed_loop_of_etcd_reports_scripted_delays_within_one_percent() {
    a_closed_loop_reports_scripted_delays(Mode::Etcd);
}

#[test]
fn a_stall_of_an_etcd_shows_in_full_within_one_percent() {
    a_stall_of_a_second_shows_in_full(Mode::Etcd);
}
