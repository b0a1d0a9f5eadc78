//! Loads whose rate changes: each stage offers what it says, and each row what its stage does.

mod servers;

use std::time::Duration;

use loadgen::{Arrivals, Mode, Options, Pacing};
use servers::{Act, Server, Store, measure, options, settled};

#[test]
fn every_stage_and_every_row_offers_what_its_rate_says() {
    let store = Store::default();
    let server = Server::new(move |arguments| Act::Say(store.reply(arguments)));
    let shape: loadgen::Shape = "steps:1000,4000,500@400ms".parse().expect("a shape");
    let report = measure(Options {
        pacing: Pacing::Open { shape: shape.clone(), arrivals: Arrivals::Constant },
        duration: shape.length(),
        requests: None,
        warmup: Duration::from_millis(200),
        interval: Duration::from_millis(100),
        threads: 2,
        ..options(&server, Mode::Resp)
    });
    assert_eq!(settled(&report), 400 + 1600 + 200);
    assert_eq!(report.setting.shape.as_deref(), Some("steps:1000,4000,500@0.4s"));
    let about = |left: f64, right: f64| (left - right).abs() < right * 1e-6;
    assert_eq!(report.stages.len(), 3);
    for (stage, rate) in report.stages.iter().zip([1000.0, 4000.0, 500.0]) {
        assert!(about(stage.offered, rate), "{stage:?}");
        assert!(about(stage.end_s - stage.start_s, 0.4), "{stage:?}");
    }
    // Every request that was due in the measured time ended in one of the stages; what the
    // warm-up left over is no part of their latencies.
    let in_stages: u64 = report.stages.iter().map(|stage| stage.latency.count).sum();
    assert_eq!(in_stages, report.all.count);
    let rows: Vec<_> = report.seconds.iter().filter(|row| row.phase == "measured").collect();
    assert_eq!(rows.len(), 12);
    for (number, row) in rows.iter().enumerate() {
        let rate = [1000.0, 4000.0, 500.0][number / 4];
        assert!(about(row.offered.expect("an open loop"), rate), "{row:?}");
    }
    let warm_up = report.seconds.iter().find(|row| row.phase == "warm-up").expect("a warm-up");
    assert!(about(warm_up.offered.expect("an open loop"), 1000.0), "{warm_up:?}");
    assert!(report.render().contains("offered/s"));
    assert!(report.render_over_time().lines().count() > 14);
}

#[test]
fn a_closed_loop_offers_nothing_and_has_no_stages() {
    let store = Store::default();
    let server = Server::new(move |arguments| Act::Say(store.reply(arguments)));
    let report = measure(options(&server, Mode::Resp));
    assert!(report.seconds.iter().all(|row| row.offered.is_none()));
    assert!(report.stages.is_empty());
}

/// Nobody sends within a nanosecond: with that limit every send is late, and the report says so
/// in every form.
#[test]
fn a_generator_that_is_late_says_so() {
    let store = std::sync::Arc::new(Store::default());
    let kept = std::sync::Arc::clone(&store);
    let server = Server::new(move |arguments| Act::Say(kept.reply(arguments)));
    let options = Options {
        pacing: Pacing::Open {
            shape: loadgen::Shape::Constant(2000.0),
            arrivals: Arrivals::Constant,
        },
        duration: Some(Duration::from_millis(500)),
        requests: None,
        late_after: Duration::from_nanos(1),
        ..options(&server, Mode::Resp)
    };
    let report = measure(options);
    assert!(report.generator.late_share > 0.9, "{:?}", report.generator);
    assert!(report.generator.is_bottleneck);
    assert!(report.render().contains("the load generator was late"));
    let json: serde_json::Value =
        serde_json::from_str(&report.to_json().expect("a text")).expect("JSON");
    assert_eq!(json["generator"]["is_bottleneck"], true);
    assert!(json["warnings"][0].as_str().is_some_and(|text| text.contains("late")));
}
