//! Traces replayed against servers that write down what they are asked for.
//!
//! What a server must have seen, and how many reads must have found something, follows from the
//! lines of the trace alone. Nothing here depends on how fast the machine is: where latencies are
//! compared, they may be longer than the bound and never shorter.

mod servers;

use std::collections::HashMap;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use loadgen::{Arrivals, Misses, Mode, Options, Pacing, Report, Shape, Trace, mix};
use servers::{Act, Cluster, Server, Store, is_probe, measure, options, settled};

/// A line of a trace.
#[derive(Clone, Debug)]
struct Line {
    time_s: f64,
    key: String,
    size: usize,
    operation: &'static str,
    ttl_s: u64,
}

impl Line {
    /// What a server that speaks RESP is asked for, with the value's length instead of it.
    fn asked(&self) -> Vec<String> {
        let mut words = match self.operation {
            "get" => vec!["GET".into(), self.key.clone()],
            "set" => vec!["SET".into(), self.key.clone(), self.size.to_string()],
            _ => vec!["DEL".into(), self.key.clone()],
        };
        if self.operation == "set" && self.ttl_s > 0 {
            words.extend(["EX".into(), self.ttl_s.to_string()]);
        }
        words
    }
}

/// So many requests, a millisecond apart, for keys of which a few are asked for very often.
fn lines(requests: u64) -> Vec<Line> {
    let line = |number: u64| {
        let draw = mix(number);
        let key = if draw.is_multiple_of(4) { draw % 3 } else { draw % 200 };
        Line {
            time_s: 1e9 + number as f64 / 1000.0,
            key: format!("user:{key}"),
            size: (mix(key) % 50 + number % 5) as usize,
            operation: ["get", "get", "get", "set", "delete"][(mix(draw) % 5) as usize],
            ttl_s: mix(draw) / 5 % 2 * (1 + draw % 5000),
        }
    };
    (0..requests).map(line).collect()
}

fn text(lines: &[Line]) -> String {
    let line =
        |l: &Line| format!("{:.3},{},{},{},{}\n", l.time_s, l.key, l.size, l.operation, l.ttl_s);
    lines.iter().map(line).collect()
}

fn trace(lines: &[Line]) -> Option<Arc<Trace>> {
    let trace = Trace::read(text(lines).as_bytes(), "recorded", u64::MAX);
    Some(Arc::new(trace.expect("a trace")))
}

/// Options that replay.
fn replaying(server: &Server, mode: Mode, lines: &[Line]) -> Options {
    Options { requests: None, trace: trace(lines), verify: true, ..options(server, mode) }
}

/// Ways to pace a replay, with requests in flight per connection.
fn pacings() -> [(Pacing, Option<u32>); 5] {
    let open = |arrivals| Pacing::Open { shape: Shape::Constant(20_000.0), arrivals };
    [
        (Pacing::Closed, None),
        (Pacing::Closed, Some(8)),
        (open(Arrivals::Constant), Some(2)),
        (open(Arrivals::Poisson), None),
        (Pacing::Recorded { speed: 20.0 }, None),
    ]
}

/// What was asked for, key by key.
fn by_key(log: &[Vec<String>]) -> HashMap<String, Vec<Vec<String>>> {
    let mut by_key: HashMap<String, Vec<Vec<String>>> = HashMap::new();
    for words in log.iter().filter(|words| words[1] != "loadgen:probe") {
        by_key.entry(words[1].clone()).or_default().push(words.clone());
    }
    by_key
}

#[test]
fn the_requests_of_a_key_arrive_in_the_order_of_the_trace_with_its_sizes_and_lives() {
    let lines = lines(4000);
    let expected = by_key(&lines.iter().map(Line::asked).collect::<Vec<_>>());
    for threads in [1, 3] {
        for (pacing, pipeline) in pacings() {
            let store = Arc::new(Store::default());
            let kept = Arc::clone(&store);
            let server = Server::new(move |arguments| Act::Say(kept.reply(arguments)));
            let base = replaying(&server, Mode::Resp, &lines);
            let report = measure(Options { pacing: pacing.clone(), pipeline, threads, ..base });
            let name = format!("{pacing:?}, pipeline {pipeline:?}, {threads} threads");
            assert_eq!((report.all.count, settled(&report)), (4000, 4000), "{name}");
            assert!(by_key(&store.log.lock().expect("a lock")) == expected, "{name}");
        }
    }
}

#[test]
fn in_a_cluster_each_key_keeps_its_order_at_its_owner() {
    let lines = lines(4000);
    let expected = by_key(&lines.iter().map(Line::asked).collect::<Vec<_>>());
    for (pacing, pipeline) in pacings() {
        let cluster = Cluster::new(6000, None);
        let base = replaying(&cluster.servers[0], Mode::RespCluster, &lines);
        let report = measure(Options { pacing: pacing.clone(), pipeline, threads: 2, ..base });
        let name = format!("{pacing:?}, pipeline {pipeline:?}");
        let counts = (report.all.count, settled(&report), report.redirects);
        assert_eq!(counts, (4000, 4000, 0), "{name}");
        let logs = cluster.stores.iter().map(|store| store.log.lock().expect("a lock").clone());
        let logs: Vec<Vec<Vec<String>>> = logs.collect();
        assert!(logs.iter().all(|log| log.len() > 100), "{name}: both servers are asked");
        assert!(by_key(&logs.concat()) == expected, "{name}");
    }
}

#[test]
fn a_map_that_is_out_of_date_costs_a_replay_redirects_and_no_request() {
    let cluster = Cluster::new(8192, Some(16_384));
    let base = replaying(&cluster.servers[0], Mode::RespCluster, &lines(4000));
    for (pacing, pipeline) in pacings() {
        let report = measure(Options { pacing, pipeline, misses: Misses::Fill, ..base.clone() });
        let replayed = report.trace.as_ref().expect("a trace");
        assert_eq!(report.errors.protocol, 0);
        assert_eq!((report.all.count, settled(&report)), (4000 + replayed.fills, report.all.count));
        assert!(report.redirects > 0);
    }
}

#[test]
fn the_binary_protocol_gets_the_same_requests() {
    let lines = lines(3000);
    let expected = by_key(&lines.iter().map(Line::asked).collect::<Vec<_>>());
    for (pacing, pipeline) in pacings() {
        let store = Arc::new(Store::default());
        let kept = Arc::clone(&store);
        let server = Server::binary(move |packet, echo, out| kept.reply_packet(packet, echo, out));
        let base = replaying(&server, Mode::Binary, &lines);
        let report = measure(Options { pacing: pacing.clone(), pipeline, threads: 2, ..base });
        assert_eq!((report.all.count, settled(&report)), (3000, 3000), "{pacing:?}");
        assert!(by_key(&store.log.lock().expect("a lock")) == expected, "{pacing:?}");
    }
}

/// What a cache without limits makes of the lines: hits, misses, and the lengths of its values.
fn cache(lines: &[Line], misses: Misses) -> (u64, u64, HashMap<String, usize>) {
    let (mut hits, mut absent, mut values) = (0, 0, HashMap::new());
    for line in lines {
        let key = line.key.clone();
        match line.operation {
            "get" if values.contains_key(&key) => hits += 1,
            "get" => {
                absent += 1;
                if misses == Misses::Fill {
                    values.insert(key, line.size);
                }
            }
            "set" => drop(values.insert(key, line.size)),
            _ => drop(values.remove(&key)),
        }
    }
    (hits, absent, values)
}

#[test]
fn hits_and_misses_are_those_of_a_cache_and_each_miss_is_filled_once() {
    let lines = lines(5000);
    let count = |operation| lines.iter().filter(|line| line.operation == operation).count() as u64;
    for misses in [Misses::Count, Misses::Fill] {
        let (hits, absent, values) = cache(&lines, misses);
        assert!(hits > 200 && absent > 200);
        let store = Arc::new(Store::default());
        let kept = Arc::clone(&store);
        let server = Server::new(move |arguments| Act::Say(kept.reply(arguments)));
        // One request in flight per connection: the next of a key waits for the fill of the last.
        let base = replaying(&server, Mode::Resp, &lines);
        let report = measure(Options { misses, threads: 2, ..base });
        let replayed = report.trace.as_ref().expect("a trace");
        let fills = if misses == Misses::Fill { absent } else { 0 };
        assert_eq!((replayed.hits, replayed.misses, replayed.fills), (hits, absent, fills));
        assert_eq!(report.hit_ratio, Some(hits as f64 / (hits + absent) as f64));
        assert_eq!((replayed.writes, replayed.deletes), (count("set"), count("delete")));
        assert_eq!((report.reads.count, report.all.count), (count("get"), 5000 + fills));
        assert_eq!(report.writes.count, count("set") + count("delete") + fills);
        assert_eq!(settled(&report), report.all.count);
        let held = store.values.lock().expect("a lock");
        let held: HashMap<String, usize> = held
            .iter()
            .map(|(key, value)| (String::from_utf8_lossy(key).into_owned(), value.len()))
            .collect();
        assert!(held == values, "{misses:?}: other values are held at the end");
    }
}

#[test]
fn a_cluster_fills_each_miss_before_the_next_request_of_its_key() {
    let lines = lines(5000);
    let (hits, absent, _) = cache(&lines, Misses::Fill);
    let cluster = Cluster::new(6000, None);
    let base = replaying(&cluster.servers[0], Mode::RespCluster, &lines);
    let report = measure(Options { misses: Misses::Fill, threads: 2, ..base });
    let replayed = report.trace.as_ref().expect("a trace");
    assert_eq!((replayed.hits, replayed.misses, replayed.fills), (hits, absent, absent));
    assert_eq!((report.all.count, settled(&report)), (5000 + absent, report.all.count));
}

#[test]
fn in_a_closed_loop_latency_counts_from_the_send() {
    let store = Store::default();
    let server = Server::new(move |arguments| Act::Say(store.reply(arguments)));
    let only = |line: Line| Line { key: "only".into(), ..line };
    let lines: Vec<Line> = lines(2000).into_iter().map(only).collect();
    let report = measure(replaying(&server, Mode::Resp, &lines));
    assert_eq!((report.all.count, settled(&report)), (2000, 2000));
    // One after the other, over the only connection that the key belongs to.
    let together_s = report.all.mean_ns * 2000.0 / 1e9;
    assert!(together_s <= report.measured_s * 1.01, "{together_s} in {} s", report.measured_s);
}

/// How many measured requests took at least this long.
fn at_least(report: &Report, latency: Duration) -> f64 {
    let from = latency.as_nanos() as u64;
    let count = |histogram: &hdrhistogram::Histogram<u64>| {
        histogram.count_between(from, u64::MAX >> 1) as f64
    };
    count(&report.read_histogram) + count(&report.write_histogram)
}

/// Replays with a stall in the middle. Which tenths of the stall too few requests waited for, with
/// how many did and how many were due.
fn too_few_waited(pipeline: Option<u32>) -> Vec<(u32, f64, f64)> {
    let (store, seen) = (Store::default(), Mutex::new(0));
    let stalled = Arc::new(Mutex::new(Duration::ZERO));
    let measured = Arc::clone(&stalled);
    let server = Server::new(move |arguments| {
        // The lock is held through the stall: all connections stand still.
        let mut seen = seen.lock().expect("a lock");
        *seen += 1;
        if *seen == 500 {
            let start = Instant::now();
            std::thread::sleep(Duration::from_millis(500));
            *measured.lock().expect("a lock") = start.elapsed();
        }
        Act::Say(store.reply(arguments))
    });
    // A millisecond apart, twice as fast: 2,000 a second, for one and a half.
    let report = measure(Options {
        pacing: Pacing::Recorded { speed: 2.0 },
        pipeline,
        ..replaying(&server, Mode::Resp, &lines(3000))
    });
    let stalled = *stalled.lock().expect("a lock");
    assert_eq!((settled(&report), report.all.count), (3000, 3000), "{:?}", report.errors);
    assert!(report.measured_s >= 1.49, "{} s", report.measured_s);
    // Whoever was due in the first (1 - x) of the stall waited for at least x of it.
    let tenth = |tenths: u32| {
        let wait = stalled * tenths / 10;
        (tenths, at_least(&report, wait), 2000.0 * (stalled - wait).as_secs_f64())
    };
    (1..10).map(tenth).filter(|(_, waited, due)| *waited < due * 0.99 - 1.0).collect()
}

#[test]
fn a_stall_shows_in_every_request_that_the_trace_made_due_meanwhile() {
    for pipeline in [None, Some(1), Some(3)] {
        // On a busy machine the stall may begin so late that the trace ends within it.
        let mut attempts = (0..5).map(|_| too_few_waited(pipeline));
        let found = attempts.find(Vec::is_empty);
        assert!(found.is_some(), "pipeline {pipeline:?}: {:?}", too_few_waited(pipeline));
    }
}

#[test]
fn a_duration_cuts_a_trace_where_its_times_say() {
    let lines = lines(3000);
    let store = Store::default();
    let server = Server::new(move |arguments| Act::Say(store.reply(arguments)));
    let report = measure(Options {
        pacing: Pacing::Recorded { speed: 2.0 },
        warmup: Duration::from_millis(300),
        duration: Some(Duration::from_millis(500)),
        threads: 3,
        ..replaying(&server, Mode::Resp, &lines)
    });
    // Two a millisecond. A timestamp near a billion is exact to a fraction of a microsecond, and
    // the one on each border may fall to either side of it.
    assert!(settled(&report).abs_diff(1000) <= 2, "{}", settled(&report));
    let offered: f64 = report
        .seconds
        .iter()
        .filter(|row| row.phase == "measured")
        .map(|row| row.offered.expect("an open loop") * (row.end_s - row.start_s))
        .sum();
    assert!((offered - 1000.0).abs() <= 2.0, "{offered}");
}

#[test]
fn connections_that_end_lose_what_was_in_flight_and_nothing_that_waits() {
    for (pacing, pipeline) in pacings() {
        let (count, store) = (AtomicU64::new(0), Store::default());
        let server = Server::new(move |arguments| {
            match !is_probe(arguments) && count.fetch_add(1, Ordering::Relaxed) % 500 == 499 {
                true => Act::Close,
                false => Act::Say(store.reply(arguments)),
            }
        });
        let report = measure(Options {
            pacing: pacing.clone(),
            pipeline,
            ..replaying(&server, Mode::Resp, &lines(3000))
        });
        let errors = &report.errors;
        assert_eq!(settled(&report), 3000, "{pacing:?}: {errors:?}");
        assert!((5..=6).contains(&errors.connections_lost), "{pacing:?}: {errors:?}");
        assert_eq!((errors.protocol, errors.unsent), (0, 0), "{pacing:?}: {errors:?}");
        let in_flight = u64::from(pipeline.unwrap_or(64));
        assert!(errors.not_done + errors.unknown <= errors.connections_lost * in_flight);
    }
}

#[test]
fn silence_ends_a_replay_by_itself_and_what_was_due_counts() {
    let silent = silent_server();
    let timeout = Duration::from_millis(50);
    for (pacing, pipeline) in pacings() {
        let open = pacing != Pacing::Closed;
        let base = replaying(&silent, Mode::Resp, &lines(500));
        let report = measure(Options { pacing, pipeline, timeout, ..base });
        assert_eq!(report.all.count, 0);
        assert!(report.errors.unknown > 0, "{:?}", report.errors);
        // What an open loop made due counts whether it was sent or not.
        assert!(!open || settled(&report) == 500, "{:?}", report.errors);
        assert!(settled(&report) <= 500);
    }
}

/// A server that answers nothing but the question whether it is there.
fn silent_server() -> Server {
    Server::new(|arguments| match is_probe(arguments) {
        true => Act::Say(b"$-1\r\n".to_vec()),
        false => Act::Ignore,
    })
}

#[test]
fn more_than_may_wait_is_not_taken_and_counts_all_the_same() {
    let silent = silent_server();
    // More than a million may wait.
    let requests = 1_100_000;
    let text: String =
        (0..requests).map(|number| format!("{number},k{},1,get\n", number % 500)).collect();
    let trace = Trace::read(text.as_bytes(), "long", u64::MAX).expect("a trace");
    let report = measure(Options {
        pacing: Pacing::Recorded { speed: 1e6 },
        timeout: Duration::from_millis(500),
        duration: Some(Duration::from_millis(1500)),
        trace: Some(Arc::new(trace)),
        ..replaying(&silent, Mode::Resp, &lines(1))
    });
    assert_eq!((settled(&report), report.all.count), (requests, 0), "{:?}", report.errors);
    assert!(report.errors.unsent > 0, "{:?}", report.errors);
}

#[test]
fn a_write_that_waits_for_room_is_not_overtaken_by_one_that_finds_some() {
    // Together four of these are more than a connection takes unsent, and a part of them leaves
    // without a reply.
    let line = |number: u64| Line {
        time_s: (number / 4) as f64 / 5000.0 + 0.5,
        key: "large".into(),
        size: 400_000 + number as usize,
        operation: "set",
        ttl_s: 0,
    };
    let lines: Vec<Line> = (0..200).map(line).collect();
    let store = Arc::new(Store::default());
    let kept = Arc::clone(&store);
    let server = Server::new(move |arguments| Act::Say(kept.reply(arguments)));
    let base = replaying(&server, Mode::Resp, &lines);
    let text: String = lines
        .iter()
        .map(|l| format!("{:.4},{},{},{},0\n", l.time_s, l.key, l.size, l.operation))
        .collect();
    let trace = Trace::read(text.as_bytes(), "large", u64::MAX).expect("a trace");
    let pacing = Pacing::Recorded { speed: 1.0 };
    let report = measure(Options { pacing, trace: Some(Arc::new(trace)), ..base });
    assert_eq!((report.all.count, settled(&report)), (200, 200), "{:?}", report.errors);
    let expected: Vec<Vec<String>> = lines.iter().map(Line::asked).collect();
    assert!(by_key(&store.log.lock().expect("a lock")) == by_key(&expected));
}

#[test]
fn a_request_that_is_sent_behind_its_time_counts_from_its_time() {
    let store = Store::default();
    let server = Server::new(move |arguments| Act::Say(store.reply(arguments)));
    let report = measure(Options {
        pacing: Pacing::Recorded { speed: 20.0 },
        // No timer is exact to a nanosecond.
        late_after: Duration::from_nanos(1),
        ..replaying(&server, Mode::Resp, &lines(1000))
    });
    assert!(report.generator.late_sends > 0, "{:?}", report.generator);
}

/// Runs the program with a trace.
fn loadgen(server: &Server, path: &std::path::Path, flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coracle-loadgen"))
        .args(["--quiet", "--addr", &server.address.to_string(), "--trace"])
        .arg(path)
        .args(flags)
        .output()
        .expect("the program runs")
}

#[test]
fn the_report_names_the_trace_in_text_json_and_page() {
    let folder = std::env::temp_dir().join(format!("loadgen-traces-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("evening.csv");
    let lines = lines(2000);
    std::fs::write(&path, text(&lines)).expect("a file");
    let (hits, absent, _) = cache(&lines, Misses::Fill);
    let ratio = hits as f64 / (hits + absent) as f64;
    let kept = Store::default();
    let server = Server::new(move |arguments| Act::Say(kept.reply(arguments)));
    let (json, html) = (folder.join("run.json"), folder.join("run.html"));
    let files = ["--json", json.to_str().expect("UTF-8"), "--html", html.to_str().expect("UTF-8")];
    let output = loadgen(&server, &path, &[&["--trace-fill"], &files[..]].concat());
    assert!(output.status.success(), "{output:?}");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let keys = by_key(&lines.iter().map(Line::asked).collect::<Vec<_>>()).len();
    let named = format!("trace      evening: 2000 requests of {keys} keys");
    let found = format!("{:.2} % of reads: {hits} hits, {absent} misses", ratio * 100.0);
    assert!(shown.contains(&named) && shown.contains(&found), "{shown}");
    let read = Report::from_json(&std::fs::read_to_string(&json).expect("a report"));
    let read = read.expect("a report");
    let replayed = read.trace.expect("a trace");
    assert_eq!((replayed.name.as_str(), replayed.requests), ("evening", 2000));
    assert_eq!((replayed.keys, replayed.hits, replayed.fills), (keys as u64, hits, absent));
    let page = std::fs::read_to_string(&html).expect("a page");
    for cell in
        ["evening".into(), "2000".into(), keys.to_string(), format!("{:.2} %", ratio * 100.0)]
    {
        assert!(page.contains(&format!("<td>{cell}</td>")), "{cell}");
    }

    let (first, rest) = lines.split_at(2);
    let broken = format!("{}1000000001,a,ten,get,0\n{}", text(first), text(rest));
    std::fs::write(&path, broken).expect("a file");
    let output = loadgen(&server, &path, &[]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("evening.csv: line 3 of the trace"), "{error}");
    assert_eq!(output.status.code(), Some(2));
    std::fs::remove_dir_all(&folder).expect("a folder");
}
