//! The presets at work: what reaches a server is what YCSB defines.

mod servers;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use loadgen::{Arrivals, Mode, Options, Pacing, Preset, Shape};
use servers::{Act, Server, Store, is, is_probe, measure, options, settled};

fn preset(preset: Preset, server: &Server) -> Options {
    let mut options = options(server, Mode::Resp);
    preset.apply(&mut options).expect("a workload");
    options
}

#[test]
fn a_read_modify_write_is_a_read_and_then_a_write_of_the_same_key_and_one_operation() {
    let store = Arc::new(Store::default());
    let kept = Arc::clone(&store);
    // How many more reads than writes each key has had: a write comes after a read of its key.
    let balance: Arc<Mutex<HashMap<Vec<u8>, i64>>> = Arc::default();
    let counted = Arc::clone(&balance);
    let server = Server::new(move |arguments| {
        if !is_probe(arguments) {
            let mut balance = counted.lock().expect("a lock");
            let reads = balance.entry(arguments[1].clone()).or_default();
            *reads += if is(arguments, "GET") { 1 } else { -1 };
            assert!(*reads >= 0, "a write that nothing was read for");
        }
        Act::Say(kept.reply(arguments))
    });
    let open = Pacing::Open { shape: Shape::Constant(5000.0), arrivals: Arrivals::Constant };
    for (pacing, pipeline) in [(Pacing::Closed, 1), (Pacing::Closed, 8), (open, 16)] {
        let before = [&store.gets, &store.sets].map(|count| count.load(Ordering::Relaxed));
        let report = measure(Options {
            pacing,
            pipeline: Some(pipeline),
            threads: 2,
            requests: Some(4000),
            ..preset(Preset::F, &server)
        });
        assert_eq!((report.all.count, settled(&report)), (4000, 4000));
        let after = [&store.gets, &store.sets].map(|count| count.load(Ordering::Relaxed));
        // Each operation reads; those that count as writes write besides.
        assert_eq!(after[0] - before[0], 4000 + 1, "with the probe");
        assert_eq!(after[1] - before[1], report.writes.count);
        // Six standard deviations of the binomial are 190.
        assert!(report.writes.count.abs_diff(2000) < 190, "{}", report.writes.count);
        assert_eq!(report.setting.writes, "read-modify-write");
    }
}

#[test]
fn inserts_are_new_keys_and_reads_of_the_newest_find_them() {
    let store = Arc::new(Store::default());
    let kept = Arc::clone(&store);
    let server = Server::new(move |arguments| Act::Say(kept.reply(arguments)));
    let report = measure(Options {
        prefill: true,
        verify: true,
        threads: 3,
        pipeline: Some(4),
        requests: Some(20_000),
        ..preset(Preset::D, &server)
    });
    assert_eq!((report.all.count, settled(&report)), (20_000, 20_000));
    assert_eq!(report.hit_ratio, Some(1.0), "what is read has been written");
    let values = store.values.lock().expect("a lock");
    assert_eq!(values.len() as u64, 1000 + report.writes.count, "every insert is a new key");
    // Six standard deviations of the binomial are 185.
    assert!(report.writes.count.abs_diff(1000) < 185, "{}", report.writes.count);
}

#[test]
fn a_connection_that_ends_between_the_halves_settles_the_operation() {
    let count = AtomicU64::new(0);
    let store = Store::default();
    let server = Server::new(move |arguments| {
        match !is_probe(arguments) && count.fetch_add(1, Ordering::Relaxed) % 50 == 49 {
            true => Act::Close,
            false => Act::Say(store.reply(arguments)),
        }
    });
    let report = measure(Options {
        pipeline: Some(4),
        requests: Some(1000),
        timeout: Duration::from_secs(20),
        ..preset(Preset::F, &server)
    });
    assert_eq!(settled(&report), 1000);
    let errors = &report.errors;
    assert!(errors.not_done > 0 && errors.unknown > 0, "{errors:?}");
}
