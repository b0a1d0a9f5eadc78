//! What happens during a run is in its report, and so is when which shard served nobody.

mod servers;

use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use loadgen::{Action, Arrivals, Mode, Options, Pacing, Plan, Second, Shape, run};
use servers::{Act, Cluster, Server, Store, measure, options};

fn plan(at_ms: u64, action: Action) -> Plan {
    Plan { at: Duration::from_millis(at_ms), action }
}

#[test]
fn a_process_is_killed_and_commands_are_run_when_they_are_due() {
    let store = Store::default();
    let server = Server::new(move |arguments| Act::Say(store.reply(arguments)));
    let mut victim =
        Command::new("sleep").arg("600").stdout(Stdio::null()).spawn().expect("a process");
    let pid = i32::try_from(victim.id()).expect("a process id");
    let report = measure(Options {
        duration: Some(Duration::from_millis(500)),
        requests: None,
        events: vec![
            plan(3_600_000, Action::Run("true".into())),
            plan(200, Action::Kill(pid)),
            plan(100, Action::Run("exit 3".into())),
        ],
        ..options(&server, Mode::Resp)
    });
    let status = victim.wait().expect("an end");
    assert!(!status.success() && status.code().is_none(), "ended by a signal: {status}");
    let [mark, kill, never] = &report.events[..] else { panic!("{:?}", report.events) };
    assert!(mark.at_s >= 0.1 && mark.outcome.contains('3'), "{mark:?}");
    assert!(kill.at_s >= 0.2 && kill.outcome == "killed", "{kill:?}");
    assert!(kill.what.contains(&pid.to_string()));
    assert!(never.outcome.starts_with("not done"), "{never:?}");
    assert!(report.render().contains("kill -9"));
}

/// The second of two servers ends, and the first one takes its slots over after a while.
#[test]
fn the_window_in_which_a_shard_served_nobody_is_in_the_report() {
    let cluster = Cluster::new(8192, None);
    let options = Options {
        pacing: Pacing::Open { shape: Shape::Constant(2000.0), arrivals: Arrivals::Constant },
        requests: None,
        duration: Some(Duration::from_millis(2500)),
        interval: Duration::from_millis(100),
        track_shards: true,
        threads: 2,
        ..options(&cluster.servers[0], Mode::RespCluster)
    };
    let mut rows = 0;
    let mut killed_s = None;
    let mut moved_s = None;
    let report = run(options, &mut |_: &Second| {
        rows += 1;
        let end_s = f64::from(rows) / 10.0;
        if rows >= 8 && killed_s.is_none() {
            cluster.servers[1].kill();
            killed_s = Some(end_s);
        } else if rows >= 14 && moved_s.is_none() {
            cluster.border.store(16_384, Ordering::Relaxed);
            moved_s = Some(end_s);
        }
    })
    .expect("a report");
    let (killed_s, moved_s) = (killed_s.expect("a kill"), moved_s.expect("a move"));
    assert_eq!(report.shards.len(), 2);
    let [_, lost] = &report.shards[..] else { panic!("{:?}", report.shards) };
    assert_eq!(lost.slots, (8192, 16_383));
    // Between the kill and the move nobody could be served, however slow the machine; a row is
    // shown up to a while after its end, which moves both.
    let covers = |window: &loadgen::Window| window.end_s >= moved_s && window.start_s <= moved_s;
    let window = lost.unavailable.iter().find(|window| covers(window));
    let window = window.unwrap_or_else(|| panic!("{:?}", lost.unavailable));
    assert!(window.start_s >= killed_s - 0.5, "{window:?}, killed at {killed_s}");
    assert!(window.recovered);
    assert!(lost.latency.count > 500, "{lost:?}");
    let in_rows: u64 = lost.done.iter().map(|done| u64::from(*done)).sum();
    assert_eq!((in_rows, lost.done.len()), (lost.latency.count, report.seconds.len()));
    assert!(report.render().contains("slots 8192-16383"));
    let page = loadgen::page(&[loadgen::Named { name: "run", report: &report }]);
    assert!(page.contains("8192–16383") && page.matches("<svg").count() == 4);
}
