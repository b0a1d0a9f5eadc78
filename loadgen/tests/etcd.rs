//! The load generator against servers that speak etcd's v3 API and follow a script.
//!
//! That its percentiles are the truth, also with a stalled server, is in `scripted_delays`.

mod servers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use client::ReadFrom;
use loadgen::{Arrivals, Error, Mode, Options, Pacing, Preset, Shape, ValueSize, run};
use servers::etcd::{Act, Call, Entries, serve};
use servers::{Server, measure, options, settled};

/// A server that keeps what is written.
fn server() -> (Server, Arc<Entries>) {
    let entries = Arc::new(Entries::default());
    let kept = Arc::clone(&entries);
    let server = serve(move |call| std::future::ready(Act::Say(kept.reply(&call))));
    (server, entries)
}

/// A server that does something else about some calls, which it numbers from 0.
fn server_that(act: impl Fn(u64, &Call, Vec<u8>) -> Act + Send + Sync + 'static) -> Server {
    let (entries, number) = (Entries::default(), AtomicU64::new(0));
    serve(move |call| {
        let reply = entries.reply(&call);
        std::future::ready(match call.is_probe() {
            true => Act::Say(reply),
            false => act(number.fetch_add(1, Ordering::Relaxed), &call, reply),
        })
    })
}

#[test]
fn what_was_written_is_read_whatever_its_size_and_in_whatever_order_replies_come() {
    for (size, pipeline, requests) in [(0..2000, 16, 10_000), (1_000_000..1_400_000, 3, 100)] {
        let entries = Arc::new(Entries::default());
        let (kept, number) = (Arc::clone(&entries), AtomicU64::new(0));
        let server = serve(move |call| {
            let (reply, number) = (kept.reply(&call), number.fetch_add(1, Ordering::Relaxed));
            async move {
                // Every third call is overtaken by later ones.
                if number.is_multiple_of(3) {
                    tokio::time::sleep(Duration::from_millis(1 + number % 3)).await;
                }
                Act::Say(reply)
            }
        });
        let report = measure(Options {
            verify: true,
            prefill: true,
            keys: 20,
            value_size: ValueSize { min: size.start, max: size.end },
            read_share: 0.5,
            pipeline: Some(pipeline),
            requests: Some(requests),
            threads: 2,
            ..options(&server, Mode::Etcd)
        });
        assert_eq!((report.all.count, settled(&report)), (requests, requests), "{size:?}");
        assert_eq!(report.hit_ratio, Some(1.0));
        assert_eq!(entries.seen() as u64, 20 + requests);
        let (sent, received) = (report.bytes_sent, report.bytes_received);
        let least = size.start as u64 * requests / 4;
        assert!(sent > least && received > least, "{sent} bytes sent, {received} received");
    }
}

#[test]
fn a_value_longer_than_a_window_arrives_while_nothing_else_is_sent() {
    let (server, _) = server();
    let report = measure(Options {
        pacing: Pacing::Open { shape: Shape::Constant(20.0), arrivals: Arrivals::Constant },
        verify: true,
        prefill: true,
        keys: 2,
        connections: 1,
        pipeline: Some(1),
        value_size: ValueSize { min: 5 << 20, max: 5 << 20 },
        read_share: 1.0,
        requests: Some(10),
        ..options(&server, Mode::Etcd)
    });
    assert_eq!((report.all.count, settled(&report)), (10, 10), "{:?}", report.errors);
    assert_eq!(report.errors.connections_lost, 0);
}

#[test]
fn values_that_were_not_written_are_counted_when_they_are_looked_at() {
    for (verify, wrong) in [(true, 200), (false, 0)] {
        let server = server_that(|number, call, mut reply| {
            if matches!(call, Call::Range(_)) && number.is_multiple_of(50) {
                // The last bytes are the count, before it the value ends.
                let place = reply.len() - 3;
                reply[place] ^= 1;
            }
            Act::Say(reply)
        });
        let base = Options {
            keys: 50,
            prefill: true,
            read_share: 1.0,
            verify,
            ..options(&server, Mode::Etcd)
        };
        let report = measure(base);
        assert_eq!(settled(&report), 10_000);
        assert_eq!(report.errors.protocol, wrong, "{:?}", report.errors);
        assert_eq!(report.errors.connections_lost, 0);
    }
}

#[test]
fn a_status_other_than_success_is_an_error_of_its_class_and_code() {
    for (status, code, write_is_not_done) in
        [(8, "RESOURCE_EXHAUSTED", true), (14, "UNAVAILABLE", false)]
    {
        for read_share in [0.0, 1.0] {
            let server = server_that(move |number, _, reply| match number % 10 {
                0 => Act::Refuse(status),
                _ => Act::Say(reply),
            });
            let base = options(&server, Mode::Etcd);
            let report = measure(Options { read_share, requests: Some(1000), ..base });
            let errors = &report.errors;
            assert_eq!((report.all.count, settled(&report)), (900, 1000), "{errors:?}");
            let not_done = if write_is_not_done || read_share == 1.0 { 100 } else { 0 };
            assert_eq!((errors.not_done, errors.unknown), (not_done, 100 - not_done), "{code}");
            assert_eq!(errors.codes, [(code.to_owned(), 100)]);
            assert_eq!(errors.connections_lost, 0);
        }
    }
}

#[test]
fn a_refused_stream_is_an_error_and_ends_no_connection() {
    let server = server_that(|number, _, reply| match number % 10 {
        0 => Act::Reset,
        _ => Act::Say(reply),
    });
    let base = options(&server, Mode::Etcd);
    let report = measure(Options { read_share: 0.0, requests: Some(1000), ..base });
    let errors = &report.errors;
    assert_eq!((report.all.count, errors.not_done, errors.connections_lost), (900, 100, 0));
    assert_eq!(errors.codes, [("RST_STREAM".to_owned(), 100)]);
}

#[test]
fn a_reply_that_is_none_is_counted_once_and_ends_its_connection() {
    let wrong: [fn(Vec<u8>) -> Act; 4] = [
        |_| Act::Say(vec![0xff; 9]),
        |reply| Act::Say([reply.clone(), reply].concat()),
        Act::SayAndEnd,
        |_| Act::Http(502),
    ];
    for (place, wrong) in wrong.into_iter().enumerate() {
        let server = server_that(move |number, _, reply| match number % 100 {
            99 => wrong(reply),
            _ => Act::Say(reply),
        });
        let base = Options { keys: 1, prefill: true, ..options(&server, Mode::Etcd) };
        let report = measure(Options { read_share: 1.0, requests: Some(1000), ..base });
        let errors = &report.errors;
        assert_eq!(settled(&report), 1000, "{place}: {errors:?}");
        assert!((5..=11).contains(&errors.protocol), "{place}: {errors:?}");
        assert_eq!(errors.protocol, errors.connections_lost, "{place}: {errors:?}");
    }
}

#[test]
fn a_connection_that_ends_comes_back_and_costs_only_what_was_in_flight() {
    for goodbye in [false, true] {
        let server = server_that(move |number, _, reply| match number % 500 {
            499 if goodbye => Act::SayGoodbye(reply),
            499 => Act::Close,
            _ => Act::Say(reply),
        });
        let base = options(&server, Mode::Etcd);
        let report = measure(Options { pipeline: Some(4), read_share: 0.5, ..base });
        let errors = &report.errors;
        assert_eq!(settled(&report), 10_000, "{errors:?}");
        assert!((15..=20).contains(&errors.connections_lost), "{errors:?}");
        let failed = errors.not_done + errors.unknown;
        assert!(failed <= errors.connections_lost * 4, "{errors:?}");
        assert!(goodbye || failed >= errors.connections_lost, "{errors:?}");
        assert_eq!((errors.unsent, errors.protocol), (0, 0), "{errors:?}");
    }
}

#[test]
fn a_connection_that_takes_no_more_calls_is_left_though_one_is_never_answered() {
    let server = server_that(|number, _, reply| match number {
        10 => Act::Ignore,
        20 => Act::SayGoodbye(reply),
        _ => Act::Say(reply),
    });
    let base = Options { connections: 1, pipeline: Some(2), ..options(&server, Mode::Etcd) };
    let report = measure(Options { read_share: 1.0, requests: Some(1000), ..base });
    let errors = &report.errors;
    assert_eq!(settled(&report), 1000, "{errors:?}");
    assert_eq!((errors.connections_lost, errors.timeouts), (1, 0), "{errors:?}");
    assert!((1..=2).contains(&errors.not_done), "{errors:?}");
}

#[test]
fn a_server_that_waits_for_a_sign_of_life_gets_one() {
    let server = server_that(|_, _, reply| Act::SayAfterPing(reply));
    let report = measure(Options {
        pacing: Pacing::Open { shape: Shape::Constant(1000.0), arrivals: Arrivals::Constant },
        connections: 1,
        pipeline: Some(1),
        requests: Some(20),
        ..options(&server, Mode::Etcd)
    });
    assert_eq!((report.all.count, settled(&report)), (20, 20), "{:?}", report.errors);
}

#[test]
fn a_call_that_is_never_answered_ends_its_connection_though_others_are_answered() {
    let server = server_that(|number, _, reply| match number {
        100 => Act::Ignore,
        _ => Act::Say(reply),
    });
    let report = measure(Options {
        pacing: Pacing::Open { shape: Shape::Constant(1000.0), arrivals: Arrivals::Constant },
        connections: 1,
        read_share: 0.0,
        requests: None,
        duration: Some(Duration::from_millis(1500)),
        timeout: Duration::from_millis(300),
        ..options(&server, Mode::Etcd)
    });
    let errors = &report.errors;
    assert_eq!(settled(&report), 1500, "{errors:?}");
    assert_eq!((errors.timeouts, errors.connections_lost), (1, 1), "{errors:?}");
    assert!(errors.unknown >= 1 && report.all.count > 1000, "{errors:?}");
    // It ended while others were answered, so there is another one since.
    assert_eq!(report.generator.connections, 1);
}

#[test]
fn an_open_loop_starts_exactly_what_is_due_on_all_servers_alike() {
    let servers = [server(), server(), server()];
    let report = measure(Options {
        addresses: servers.iter().map(|(server, _)| server.address.clone()).collect(),
        pacing: Pacing::Open { shape: Shape::Constant(3000.0), arrivals: Arrivals::Constant },
        duration: Some(Duration::from_millis(700)),
        requests: None,
        connections: 6,
        threads: 2,
        warmup: Duration::from_millis(300),
        ..options(&servers[0].0, Mode::Etcd)
    });
    assert_eq!((report.all.count, settled(&report)), (2100, 2100));
    assert_eq!(servers.each_ref().map(|(_, entries)| entries.seen()), [1000; 3]);
}

#[test]
fn reads_are_linearizable_unless_stale_ones_are_asked_for() {
    for (read_from, serializable) in [(ReadFrom::Leader, false), (ReadFrom::Stale, true)] {
        let (server, entries) = server();
        let base = options(&server, Mode::Etcd);
        measure(Options { read_from, requests: Some(100), read_share: 0.5, ..base });
        let calls = entries.calls.lock().expect("a lock");
        let (mut reads, mut writes) = (0, 0);
        for call in calls.iter().filter(|call| !call.is_probe()) {
            match call {
                Call::Range(range) => {
                    assert_eq!((range.serializable, &*range.range_end), (serializable, &b""[..]));
                    reads += 1;
                }
                Call::Put(put) => {
                    assert_eq!((put.value.len(), put.lease), (64, 0));
                    writes += 1;
                }
            }
            assert!(call.key().starts_with(b"key:000") && call.key().len() == 16, "{call:?}");
        }
        assert!(reads > 10 && writes > 10 && reads + writes == 100);
    }
}

#[test]
fn a_read_modify_write_is_one_operation_of_two_calls() {
    let (server, entries) = server();
    let mut base = Options { prefill: true, keys: 100, ..options(&server, Mode::Etcd) };
    Preset::F.apply(&mut base).expect("a preset");
    let report = measure(Options { requests: Some(1000), pipeline: Some(4), ..base });
    assert_eq!((report.all.count, settled(&report)), (1000, 1000));
    assert_eq!(entries.seen() as u64, 100 + 1000 + report.writes.count);
}

#[test]
fn a_server_that_is_not_there_or_speaks_otherwise_is_named_before_the_run() {
    let (gone, _) = server();
    gone.kill();
    let error = run(options(&gone, Mode::Etcd), &mut |_| {}).expect_err("nobody listens");
    assert!(matches!(error, Error::Connect { .. } | Error::Protocol(_)), "{error}");
    let resp = Server::new(|_| servers::Act::Say(b"-ERR unknown command\r\n".to_vec()));
    let error = run(options(&resp, Mode::Etcd), &mut |_| {}).expect_err("no etcd");
    assert!(error.to_string().contains("does not answer in etcd's v3 API"), "{error}");
    assert!(error.to_string().contains(&resp.address.to_string()), "{error}");
    let protected = serve(|_| std::future::ready(Act::Refuse(3)));
    let report = measure(Options { requests: Some(10), ..options(&protected, Mode::Etcd) });
    assert_eq!((report.all.count, settled(&report)), (0, 10));
}
