//! The search for the highest rate that meets goals, against a server that says yes and no by a
//! script: one word for each trial.

mod servers;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use loadgen::{BoundedBy, Mode, Options, SearchOptions, Verdict, search};
use servers::{Act, Server, is_probe, options};

/// A server that answers in the trials for which `good` says so and refuses in the others. Each
/// trial begins with a probe.
fn server(good: &'static [bool]) -> (Server, Arc<AtomicUsize>) {
    let trials = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&trials);
    let server = Server::new(move |arguments| {
        if is_probe(arguments) {
            counted.fetch_add(1, Ordering::Relaxed);
            return Act::Say(b"$-1\r\n".to_vec());
        }
        match good.get(counted.load(Ordering::Relaxed) - 1) {
            Some(true) => Act::Say(b"$-1\r\n".to_vec()),
            _ => Act::Say(b"-OOM no more\r\n".to_vec()),
        }
    });
    (server, trials)
}

fn short(server: &Server) -> Options {
    Options {
        read_share: 1.0,
        requests: None,
        duration: Some(Duration::from_millis(100)),
        ..options(server, Mode::Resp)
    }
}

fn goals(trials_max: u32) -> SearchOptions {
    let goals = vec!["errors=0".parse().expect("a goal")];
    SearchOptions { goals, start: 1000.0, trials_max, precision: 0.2 }
}

#[test]
fn the_highest_rate_without_a_refusal_is_found_by_doubling_and_bisection() {
    let (server, _) = server(&[true, true, false, false, true]);
    let mut rates = Vec::new();
    let outcome = search(&short(&server), &goals(20), &mut |trial| {
        rates.push(trial.rate);
        assert!(!trial.line().is_empty());
    })
    .expect("an outcome");
    assert_eq!(rates, [1000.0, 2000.0, 4000.0, 3000.0, 2500.0]);
    assert_eq!((outcome.rate, outcome.bounded_by), (Some(2500.0), BoundedBy::Server));
    assert_eq!(outcome.best().expect("a report").setting.rate, Some(2500.0));
    assert_eq!(outcome.trials[2].verdict, Verdict::Missed);
    assert!(outcome.trials[2].missed[0].contains("100.000 % failed"), "{:?}", outcome.trials[2]);
    assert!(outcome.render().contains("2500 op/s meet errors=0"));
    let json: serde_json::Value =
        serde_json::from_str(&outcome.to_json().expect("a text")).expect("JSON");
    assert_eq!((&json["rate"], &json["bounded_by"]), (&2500.0.into(), &"server".into()));
    assert_eq!(json["trials"][3]["verdict"], "missed");
}

#[test]
fn a_server_that_meets_a_goal_at_no_rate_is_said_to() {
    let (server, trials) = server(&[]);
    let outcome = search(&short(&server), &goals(30), &mut |_| {}).expect("an outcome");
    assert_eq!((outcome.rate, outcome.bounded_by), (None, BoundedBy::Server));
    assert!(outcome.best().is_none());
    assert!(trials.load(Ordering::Relaxed) <= 12);
}

#[test]
fn the_search_ends_with_its_trials() {
    let (server, trials) = server(&[true; 50]);
    let outcome = search(&short(&server), &goals(4), &mut |_| {}).expect("an outcome");
    assert_eq!((outcome.rate, outcome.bounded_by), (Some(8000.0), BoundedBy::Trials));
    assert_eq!(trials.load(Ordering::Relaxed), 4);
}

/// No generator sends within a nanosecond, which a goal of ten makes the limit: that such a goal
/// is missed is never laid at the server's door.
#[test]
fn a_goal_that_the_generator_misses_by_itself_is_not_the_servers_failure() {
    let (server, _) = server(&[true; 50]);
    let goals = vec!["p50=10ns".parse().expect("a goal")];
    let wanted = SearchOptions { goals, trials_max: 2, ..goals_from(1000.0) };
    let outcome = search(&short(&server), &wanted, &mut |_| {}).expect("an outcome");
    let verdicts: Vec<Verdict> = outcome.trials.iter().map(|trial| trial.verdict).collect();
    assert_eq!(verdicts, [Verdict::GeneratorLimited; 2]);
    assert!(outcome.trials[0].generator.iter().any(|text| text.contains("late")));
    assert_eq!(outcome.rate, None);
}

fn goals_from(start: f64) -> SearchOptions {
    SearchOptions { start, ..goals(1) }
}
