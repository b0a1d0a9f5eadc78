//! The load generator against servers whose behaviour is known: what it reports must be true.
//!
//! Each server runs in this process on a port of its own choosing and follows a script. Where a
//! script delays its replies, the server measures for how long, and the tests only use bounds
//! that hold however slow the machine is: a busy machine makes latencies longer, never shorter.

mod servers;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use loadgen::{
    Address, Arrivals, Error, Mode, Options, Pacing, Phase, Report, Second, Shape, ValueSize, run,
};
use servers::{Act, Cluster, Server, Store, bulk, is, is_probe, measure, options, settled};

/// How many measured requests took at least this long.
fn at_least(report: &Report, latency: Duration) -> u64 {
    let from = latency.as_nanos() as u64;
    [&report.read_histogram, &report.write_histogram]
        .map(|histogram| histogram.count_between(from, u64::MAX >> 1))
        .iter()
        .sum()
}

/// A server that stands still once, for a while that it measures, after so many requests.
fn stalling_server(after: u64, stall: Duration) -> (Server, Arc<Mutex<Duration>>) {
    let store = Store::default();
    let seen = Mutex::new(0);
    let stalled = Arc::new(Mutex::new(Duration::ZERO));
    let measured = Arc::clone(&stalled);
    let server = Server::new(move |arguments| {
        // The lock is held through the stall: all connections stand still.
        let mut seen = seen.lock().expect("a lock");
        *seen += 1;
        if *seen == after {
            let start = Instant::now();
            std::thread::sleep(stall);
            *measured.lock().expect("a lock") = start.elapsed();
        }
        Act::Say(store.reply(arguments))
    });
    (server, stalled)
}

#[test]
fn an_open_loop_reports_a_stall_in_full() {
    let rate = 2000.0;
    for (arrivals, pipeline) in
        [(Arrivals::Constant, None), (Arrivals::Constant, Some(1)), (Arrivals::Poisson, Some(3))]
    {
        let (server, stalled) = stalling_server(500, Duration::from_millis(500));
        let report = measure(Options {
            pacing: Pacing::Open { shape: Shape::Constant(rate), arrivals },
            duration: Some(Duration::from_millis(1500)),
            requests: None,
            pipeline,
            ..options(&server, Mode::Resp)
        });
        let stalled = *stalled.lock().expect("a lock");
        assert!(stalled >= Duration::from_millis(500));
        assert_eq!(settled(&report), report.all.count, "no errors: {:?}", report.errors);
        // Whoever was due in the first (1 - x) of the stall waited for at least x of it. A
        // Poisson count may miss its mean by six standard deviations.
        for tenths in 1..10 {
            let wait = stalled * tenths / 10;
            let due = rate * (stalled - wait).as_secs_f64();
            let spread = if arrivals == Arrivals::Poisson { 6.0 * due.sqrt() } else { 1.0 };
            let waited = at_least(&report, wait) as f64;
            assert!(
                waited >= due * 0.99 - spread,
                "{arrivals:?}, pipeline {pipeline:?}: {waited} of {due} waited for {wait:?}"
            );
        }
    }
}

#[test]
fn an_open_loop_starts_exactly_what_is_due() {
    let store = Arc::new(Store::default());
    let kept = Arc::clone(&store);
    let server = Server::new(move |arguments| Act::Say(kept.reply(arguments)));
    let report = measure(Options {
        pacing: Pacing::Open { shape: Shape::Constant(3000.0), arrivals: Arrivals::Constant },
        duration: Some(Duration::from_millis(700)),
        requests: None,
        threads: 3,
        warmup: Duration::from_millis(300),
        ..options(&server, Mode::Resp)
    });
    // 2,100 were due in the measured time and 900 in the warm-up.
    assert_eq!(settled(&report), 2100);
    let seen = store.gets.load(Ordering::Relaxed) + store.sets.load(Ordering::Relaxed);
    assert_eq!(seen, 3000 + 1, "with the probe");
}

#[test]
fn a_closed_loop_sees_a_stall_once_per_request_in_flight() {
    let stall = Duration::from_secs(1);
    let (server, stalled) = stalling_server(500, stall);
    let options = Options { pipeline: Some(2), ..options(&server, Mode::Resp) };
    let in_flight = 10 * 2;
    let report = measure(options);
    assert_eq!(report.all.count, 10_000);
    let waited = at_least(&report, *stalled.lock().expect("a lock") / 2);
    assert!((1..=in_flight).contains(&waited), "{waited} requests waited");
}

#[test]
fn a_closed_loop_makes_exactly_the_requests_it_was_asked_for() {
    let store = Arc::new(Store::default());
    let kept = Arc::clone(&store);
    let server = Server::new(move |arguments| Act::Say(kept.reply(arguments)));
    for (threads, pipeline) in [(1, 1), (3, 7), (2, 100)] {
        let before = store.gets.load(Ordering::Relaxed) + store.sets.load(Ordering::Relaxed);
        let report = measure(Options {
            threads,
            pipeline: Some(pipeline),
            read_share: 0.5,
            requests: Some(10_001),
            ..options(&server, Mode::Resp)
        });
        assert_eq!((report.all.count, settled(&report)), (10_001, 10_001));
        assert_eq!(report.reads.count + report.writes.count, 10_001);
        let seen = store.gets.load(Ordering::Relaxed) + store.sets.load(Ordering::Relaxed);
        assert_eq!(seen - before, 10_001 + 1, "with the probe");
        assert!(report.throughput > 0.0);
    }
}

#[test]
fn loading_writes_every_key_once_and_reads_find_it() {
    let store = Arc::new(Store::default());
    let kept = Arc::clone(&store);
    let server = Server::new(move |arguments| Act::Say(kept.reply(arguments)));
    let report = measure(Options {
        prefill: true,
        verify: true,
        threads: 2,
        read_share: 1.0,
        value_size: ValueSize { min: 0, max: 3000 },
        requests: Some(2000),
        ..options(&server, Mode::Resp)
    });
    assert_eq!(store.sets.load(Ordering::Relaxed), 1000);
    assert_eq!(store.values.lock().expect("a lock").len(), 1000);
    assert_eq!((report.hit_ratio, settled(&report)), (Some(1.0), 2000));
    assert_eq!(report.errors.protocol, 0);
}

#[test]
fn loading_goes_on_through_refusals_and_gives_up_where_there_is_no_hope() {
    let store = Arc::new(Store::default());
    let (kept, count) = (Arc::clone(&store), AtomicU64::new(0));
    let server = Server::new(move |arguments| match count.fetch_add(1, Ordering::Relaxed) % 5 {
        _ if is_probe(arguments) => Act::Say(kept.reply(arguments)),
        1 => Act::Say(b"-TRYAGAIN electing\r\n".to_vec()),
        2 => Act::Close,
        _ => Act::Say(kept.reply(arguments)),
    });
    let options = Options { prefill: true, ..options(&server, Mode::Resp) };
    measure(Options { requests: Some(1), ..options });
    assert_eq!(store.values.lock().expect("a lock").len(), 1000);

    let hopeless = Server::new(|arguments| {
        Act::Say(if is(arguments, "GET") { b"$-1\r\n".to_vec() } else { b"-OOM full\r\n".to_vec() })
    });
    let options = Options {
        prefill: true,
        timeout: Duration::from_millis(50),
        ..Options::new(vec![hopeless.address.clone()], Mode::Resp)
    };
    let error = run(options, &mut |_| {}).expect_err("no memory");
    assert!(matches!(&error, Error::Prefill(reason) if reason.contains("OOM")), "{error}");
}

#[test]
fn replies_in_pieces_are_put_together() {
    let store = Store::default();
    let server = Server::new(move |arguments| Act::Stutter(store.reply(arguments)));
    let report = measure(Options {
        verify: true,
        prefill: true,
        keys: 50,
        connections: 3,
        pipeline: Some(5),
        requests: Some(500),
        ..options(&server, Mode::Resp)
    });
    assert_eq!((report.all.count, settled(&report)), (500, 500));
    assert_eq!(report.hit_ratio, Some(1.0));
}

#[test]
fn errors_are_counted_by_class() {
    for (refusal, not_done, unknown) in [
        ("-OOM full\r\n", 1000, 0),
        ("-TRYAGAIN electing\r\n", 1000, 0),
        ("-UNKNOWN outcome\r\n", 0, 1000),
        ("-MOVED 7 127.0.0.1:9\r\n", 1000, 0),
    ] {
        let server = Server::new(move |arguments| {
            Act::Say(if is(arguments, "SET") { refusal } else { "$-1\r\n" }.as_bytes().to_vec())
        });
        let report = measure(Options {
            read_share: 0.0,
            requests: Some(1000),
            ..options(&server, Mode::Resp)
        });
        let errors = &report.errors;
        assert_eq!((errors.not_done, errors.unknown, report.all.count), (not_done, unknown, 0));
        assert_eq!(errors.codes.len(), 1);
        assert!(refusal.starts_with(&format!("-{} ", errors.codes[0].0)));
    }
}

#[test]
fn a_read_that_fails_is_never_unknown() {
    let server = Server::new(|arguments| match is_probe(arguments) {
        true => Act::Say(b"$-1\r\n".to_vec()),
        false => Act::Say(b"-UNKNOWN outcome\r\n".to_vec()),
    });
    let options = Options { read_share: 1.0, requests: Some(100), ..options(&server, Mode::Resp) };
    let errors = measure(options).errors;
    assert_eq!((errors.not_done, errors.unknown), (100, 0));
}

#[test]
fn wrong_values_are_found_where_asked_and_other_data_is_mentioned() {
    let server = Server::new(|_| Act::Say(bulk(&[b'x'; 64])));
    let base = Options { read_share: 1.0, requests: Some(100), ..options(&server, Mode::Resp) };
    let verified = measure(Options { verify: true, ..base.clone() });
    assert_eq!((verified.errors.protocol, verified.all.count), (100, 0));
    let trusting = measure(base.clone());
    assert_eq!((trusting.errors.protocol, trusting.all.count), (0, 100));
    assert!(trusting.warnings.is_empty(), "{:?}", trusting.warnings);
    let other = measure(Options { value_size: ValueSize { min: 9, max: 9 }, ..base });
    assert!(other.warnings.iter().any(|text| text.contains("--prefill")), "{:?}", other.warnings);
}

#[test]
fn connections_that_end_settle_their_requests_by_class_and_come_back() {
    let (count, store) = (AtomicU64::new(0), Store::default());
    let server = Server::new(move |arguments| {
        match !is_probe(arguments) && count.fetch_add(1, Ordering::Relaxed) % 100 == 99 {
            true => Act::Close,
            false => Act::Say(store.reply(arguments)),
        }
    });
    let report = measure(Options {
        read_share: 0.5,
        pipeline: Some(4),
        requests: Some(2000),
        ..options(&server, Mode::Resp)
    });
    let errors = &report.errors;
    assert_eq!(settled(&report), 2000);
    // At each of the ends up to four requests were in flight, reads as well as writes.
    assert!((15..=20).contains(&errors.connections_lost), "{errors:?}");
    assert!(errors.not_done > 0 && errors.unknown > 0, "{errors:?}");
    assert!(errors.not_done + errors.unknown <= errors.connections_lost * 4, "{errors:?}");
    assert_eq!(errors.protocol, 0);
}

#[test]
fn garbage_ends_the_connection_and_counts_as_such() {
    let count = AtomicU64::new(0);
    let server = Server::new(move |arguments| {
        match !is_probe(arguments) && count.fetch_add(1, Ordering::Relaxed) % 100 == 99 {
            true => Act::Say(b"HTTP/1.1 400 no\r\n".to_vec()),
            false => Act::Say(b"$-1\r\n".to_vec()),
        }
    });
    let options = Options { read_share: 1.0, requests: Some(1000), ..options(&server, Mode::Resp) };
    let report = measure(options);
    assert_eq!(settled(&report), 1000);
    let errors = &report.errors;
    assert!((9..=10).contains(&errors.protocol), "{errors:?}");
    assert_eq!(errors.protocol, errors.connections_lost);
}

#[test]
fn silence_ends_by_itself() {
    let server = Server::new(|arguments| match is_probe(arguments) {
        true => Act::Say(b"$-1\r\n".to_vec()),
        false => Act::Ignore,
    });
    let silent = Options {
        timeout: Duration::from_millis(50),
        read_share: 0.0,
        ..options(&server, Mode::Resp)
    };
    let timed =
        Options { duration: Some(Duration::from_millis(200)), requests: None, ..silent.clone() };
    let open = Options {
        pacing: Pacing::Open { shape: Shape::Constant(10_000.0), arrivals: Arrivals::Constant },
        pipeline: Some(5),
        ..timed.clone()
    };
    for (name, options) in [("by number", silent), ("by time", timed), ("open loop", open)] {
        let report = measure(options);
        assert_eq!(report.all.count, 0, "{name}");
        assert!(report.errors.unknown >= 10, "{name}: {:?}", report.errors);
        assert!(report.warnings.iter().any(|text| text.contains("not a single")), "{name}");
        if name == "open loop" {
            assert_eq!(settled(&report), 2000, "what was never sent counts: {:?}", report.errors);
            assert!(report.errors.unsent > 0);
        }
    }
}

#[test]
fn a_run_that_is_stopped_reports_what_it_has() {
    let store = Store::default();
    let server = Server::new(move |arguments| Act::Say(store.reply(arguments)));
    let stop = Arc::new(AtomicBool::new(false));
    let options = Options {
        duration: Some(Duration::from_secs(3600)),
        requests: None,
        stop: Some(Arc::clone(&stop)),
        ..options(&server, Mode::Resp)
    };
    let mut seconds = 0;
    let report = run(options, &mut |second: &Second| {
        assert!(second.phase != Phase::Warmup);
        seconds += 1;
        stop.store(true, Ordering::Relaxed);
    })
    .expect("a report");
    assert!(report.all.count > 0 && seconds >= 1);
    assert_eq!(settled(&report), report.all.count);
}

#[test]
fn what_cannot_be_run_is_refused_before_it_starts() {
    // A port that was given back could be the next test's; on this one nobody listens.
    let closed = Address::from(SocketAddr::from(([127, 97, 53, 2], 1)));
    let error = |options| run(options, &mut |_| {}).expect_err("no run");
    assert!(matches!(error(Options::new(vec![closed], Mode::Resp)), Error::Connect { .. }));
    assert!(matches!(error(Options::new(vec![], Mode::Resp)), Error::Options(_)));
    let resp = Server::new(|_| Act::Say(b"-ERR no cluster\r\n".to_vec()));
    for mode in [Mode::RespCluster, Mode::Binary] {
        let error = error(options(&resp, mode));
        assert!(matches!(error, Error::Protocol(_)), "{mode:?}: {error}");
    }
    let locked = Server::new(|_| Act::Say(b"-NOAUTH Authentication required.\r\n".to_vec()));
    assert!(matches!(error(options(&locked, Mode::Resp)), Error::Protocol(_)));
}

#[test]
fn in_a_cluster_every_key_goes_straight_to_its_owner() {
    let cluster = Cluster::new(4096, None);
    for (pacing, pipeline) in [
        (Pacing::Closed, 1),
        (Pacing::Closed, 16),
        (Pacing::Open { shape: Shape::Constant(20_000.0), arrivals: Arrivals::Poisson }, 4),
    ] {
        let before = cluster.seen();
        let report = measure(Options {
            pacing,
            pipeline: Some(pipeline),
            threads: 2,
            requests: Some(8000),
            ..options(&cluster.servers[0], Mode::RespCluster)
        });
        assert_eq!((report.all.count, settled(&report), report.redirects), (8000, 8000, 0));
        let [first, second] = [0, 1].map(|index| cluster.seen()[index] - before[index]);
        assert_eq!(first + second, 8000);
        // A quarter of the slots; of 1,000 keys six standard deviations are 82.
        assert!((1300..2700).contains(&first), "{first} of 8000");
    }
}

#[test]
fn a_map_that_is_out_of_date_is_corrected_by_redirects() {
    // Both servers say that the first one leads everything, which half of the time is wrong.
    let cluster = Cluster::new(8192, Some(16_384));
    let report = measure(Options {
        requests: Some(8000),
        pipeline: Some(8),
        verify: true,
        ..options(&cluster.servers[0], Mode::RespCluster)
    });
    assert_eq!((report.all.count, settled(&report)), (8000, 8000));
    assert!(report.redirects > 0);
    assert!(cluster.seen()[1] > 2000, "{:?}", cluster.seen());
}

#[test]
fn the_load_survives_the_loss_of_a_server() {
    let cluster = Cluster::new(8192, None);
    let options = Options {
        requests: None,
        duration: Some(Duration::from_millis(2500)),
        pipeline: Some(4),
        read_share: 0.5,
        ..options(&cluster.servers[1], Mode::RespCluster)
    };
    let before = Mutex::new(None);
    let report = run(options, &mut |_| {
        let mut before = before.lock().expect("a lock");
        if before.is_none() {
            // From now on the second server leads everything.
            cluster.border.store(0, Ordering::Relaxed);
            cluster.servers[0].kill();
            *before = Some(cluster.seen());
        }
    })
    .expect("a report");
    let errors = &report.errors;
    assert!(errors.connections_lost > 0 && report.maps > 0, "{errors:?}");
    // No more can have failed than was in flight, and everything is accounted for.
    assert!(errors.not_done + errors.unknown <= 10 * 4 * 2, "{errors:?}");
    assert_eq!(errors.protocol, 0);
    let [_, second] = before.into_inner().expect("a lock").expect("a first second");
    assert!(cluster.seen()[1] > second + 100, "the load went on");
    let seen: u64 = cluster.seen().iter().sum();
    assert!(seen >= report.all.count && seen <= settled(&report));
}

/// A server of the binary protocol whose opaques go wrong after so many requests.
fn binary_server(right_opaques: u64) -> Server {
    let (store, count) = (Store::default(), AtomicU64::new(0));
    Server::binary(move |packet, mut echo, output| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        echo.opaque += u32::from(number >= right_opaques && number % 50 == 0);
        store.reply_packet(packet, echo, output);
    })
}

#[test]
fn the_binary_protocol_is_spoken_and_its_order_checked() {
    let server = binary_server(u64::MAX);
    let base = Options {
        verify: true,
        pipeline: Some(16),
        value_size: ValueSize { min: 0, max: 2000 },
        ..options(&server, Mode::Binary)
    };
    let report = measure(Options { prefill: true, ..base.clone() });
    assert_eq!((report.all.count, settled(&report)), (10_000, 10_000));
    assert_eq!(report.hit_ratio, Some(1.0));

    let confused = binary_server(2);
    let addresses = vec![confused.address.clone()];
    let report = measure(Options { addresses, requests: Some(1000), ..base });
    assert_eq!(settled(&report), 1000);
    assert!(report.errors.protocol > 0, "{:?}", report.errors);
    assert_eq!(report.errors.protocol, report.errors.connections_lost);
}

#[test]
fn equal_seeds_ask_for_equal_keys() {
    let keys_of = |seed| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let seen_by = Arc::clone(&seen);
        let server = Server::new(move |arguments| {
            seen_by.lock().expect("a lock").push(arguments[1].clone());
            Act::Say(if is(arguments, "GET") { b"$-1\r\n".to_vec() } else { b"+OK\r\n".to_vec() })
        });
        let options =
            Options { connections: 1, seed, requests: Some(500), ..options(&server, Mode::Resp) };
        measure(options);
        std::mem::take(&mut *seen.lock().expect("a lock"))
    };
    assert_eq!(keys_of(3), keys_of(3));
    assert_ne!(keys_of(3), keys_of(4));
}
