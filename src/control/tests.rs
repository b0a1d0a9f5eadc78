//! What operators see of a cluster, over real HTTP and cores that are played by threads.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::de::DeserializeOwned;
use shards::contract::{AdminCommand, Health, LeaderView, ReplicaStatus, Role, ShardStatus};
use shards::ids::{CoreIndex, Eviction, Index, Nanos, NodeId, ShardId, Term};

use super::messages::{CONTROL_QUEUE_MAX, CoreCounters, CoreReport};
use super::view::{CoresView, ReadinessView, ReplicasView, RoleView, ShardsView, TransferDone};
use super::*;
use crate::config::{Machine, add_flags};
use crate::core_loop::turn_times::TurnTimes;
use crate::disk::writer::LogCounters;

const SHARDS: u16 = 6;
const NODES: u16 = 2;
const CORES: u16 = 2;
/// Longer than anything here takes, shorter than a person waits.
const DEADLINE: Duration = Duration::from_secs(20);

fn config(node: u16, http_port: u16) -> Arc<NodeConfig> {
    let arguments = [
        "serve".to_owned(),
        format!("--node-id={node}"),
        "--members=1=127.0.0.1,2=127.0.0.2".to_owned(),
        format!("--shards={SHARDS}"),
        format!("--cores={CORES}"),
        format!("--http-port={http_port}"),
        "--durability=memory".to_owned(),
    ];
    let command = add_flags(clap::Command::new("serve"));
    let matches = command.try_get_matches_from(arguments).expect("valid flags");
    let machine = Machine { cpus: vec![0] };
    Arc::new(NodeConfig::load(&matches, [], &machine).expect("a valid configuration"))
}

/// The leaders of a played cluster, and what its cores were told.
#[derive(Debug, Default)]
struct Script {
    leaders: BTreeMap<ShardId, NodeId>,
    commands: Vec<(NodeId, CoreIndex, AdminCommand)>,
    drained: Vec<(NodeId, CoreIndex)>,
    stopped: Vec<(NodeId, CoreIndex)>,
    stopped_before_all_were_drained: Vec<(NodeId, CoreIndex)>,
    operations: u64,
    silent: Option<(NodeId, CoreIndex)>,
    log_failed: Option<(NodeId, CoreIndex)>,
    health: BTreeMap<(NodeId, ShardId), Health>,
}

type SharedScript = Arc<Mutex<Script>>;

fn locked(script: &SharedScript) -> std::sync::MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

fn report(config: &NodeConfig, core: CoreIndex, script: &Script) -> CoreReport {
    let placement = config.placement();
    let view = |shard: ShardId| LeaderView {
        term: Term(script.leaders.get(&shard).map_or(0, |node| 3 + u64::from(node.0))),
        leader: script.leaders.get(&shard).copied(),
    };
    let status = |shard: ShardId| {
        let leads = script.leaders.get(&shard) == Some(&config.node);
        let replica = |node: NodeId| ReplicaStatus {
            node,
            role: if node == config.node { Role::Leader } else { Role::Follower },
            matched: Index(if node == config.node { 90 } else { 88 }),
            lag: if node == config.node { 0 } else { 2 },
            health: Health::Sound,
        };
        ShardStatus {
            shard,
            role: if leads { Role::Leader } else { Role::Follower },
            health: script.health.get(&(config.node, shard)).copied().unwrap_or_default(),
            leader: view(shard),
            commit: Index(90),
            applied: Index(90),
            keys: 7,
            bytes: 700,
            bytes_max: 1 << 20,
            eviction: Eviction::Lru,
            digest: 0xfeed_f00d_dead_beef,
            evicted: 1,
            expired: 2,
            operations: script.operations,
            hits: 3,
            misses: 4,
            touches_sent: 5,
            touches_applied: 6,
            lease: leads.then_some(Nanos(212_000_000)),
            replicas: if leads { placement.replicas(shard).map(replica).collect() } else { vec![] },
        }
    };
    let own = |shard: &ShardId| placement.core(*shard, CORES) == core;
    CoreReport {
        core,
        shards: (0..SHARDS).map(ShardId).filter(own).map(status).collect(),
        leaders: (0..SHARDS).map(ShardId).map(view).collect(),
        cores_of: (1..=NODES).map(|node| (NodeId(node), CORES)).collect(),
        counters: CoreCounters {
            commands: 11,
            turn_ns_max: 5_000,
            log: LogCounters {
                failed: u64::from(script.log_failed == Some((config.node, core))),
                ..LogCounters::default()
            },
            ..CoreCounters::default()
        },
        turn_times: played_turns(),
    }
}

/// Three turns: of 40 µs, of 4.5 ms and of 20 s.
fn played_turns() -> TurnTimes {
    let mut times = TurnTimes::default();
    [40_000, 4_500_000, 20_000_000_000].into_iter().for_each(|ns| times.record(ns));
    times
}

/// Plays a core until it is told to stop or its channel closes.
fn play_core(
    config: Arc<NodeConfig>,
    core: CoreIndex,
    script: SharedScript,
) -> flume::Sender<ControlRequest> {
    let (sender, requests) = flume::bounded(CONTROL_QUEUE_MAX);
    std::thread::spawn(move || {
        for request in requests {
            let mut script = locked(&script);
            match request {
                ControlRequest::Status(_) if script.silent == Some((config.node, core)) => {}
                ControlRequest::Status(answer) => {
                    let _ = answer.try_send(report(&config, core, &script));
                }
                ControlRequest::Admin(command, taken) => {
                    script.commands.push((config.node, core, command));
                    if let AdminCommand::Transfer { shard, to } = command {
                        script.leaders.insert(shard, to);
                    }
                    let _ = taken.try_send(());
                }
                ControlRequest::Drain(done) => {
                    script.drained.push((config.node, core));
                    let _ = done.try_send(());
                }
                ControlRequest::Stop => {
                    if script.drained.len() < usize::from(CORES) {
                        script.stopped_before_all_were_drained.push((config.node, core));
                    }
                    script.stopped.push((config.node, core));
                    return;
                }
            }
        }
    });
    sender
}

/// Two nodes on one HTTP port, each shard led by its preferred node.
struct Cluster {
    port: u16,
    script: SharedScript,
    nodes: Vec<ControlHandle>,
}

fn cluster() -> Cluster {
    let placement = config(1, 7_480).placement();
    let leaders = (0..SHARDS).map(ShardId);
    let leaders = leaders.filter_map(|shard| Some((shard, placement.replicas(shard).next()?)));
    let script: SharedScript =
        Arc::new(Mutex::new(Script { leaders: leaders.collect(), ..Script::default() }));
    let (port, listeners) = listeners();
    let start = |(node, listener)| {
        let config = config(node, port);
        let core = |core| play_core(config.clone(), CoreIndex(core), script.clone());
        let cores = (0..CORES).map(core).collect();
        let control = spawn(Signals::Ignore).expect("a control thread");
        control.serve(ControlOptions { config: config.clone(), listener, cores }).expect("begun");
        control
    };
    let nodes = (1..).zip(listeners).map(start).collect();
    Cluster { port, script, nodes }
}

/// One port that is free on the addresses of both nodes.
fn listeners() -> (u16, Vec<TcpListener>) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let first = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = first.local_addr().expect("a bound address").port();
        match TcpListener::bind(("127.0.0.2", port)) {
            Ok(second) => return (port, vec![first, second]),
            Err(error) => assert!(Instant::now() < deadline, "no port is free on both: {error}"),
        }
    }
}

impl Cluster {
    fn exchange(&self, node: u16, request: impl Future<Output = fetch::Answer>) -> fetch::Answer {
        assert!((1..=NODES).contains(&node));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(request)
    }

    fn address(&self, node: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, node as u8], self.port))
    }

    fn get(&self, node: u16, path: &str) -> (u16, String) {
        let address = self.address(node);
        let answer = self.exchange(node, async {
            fetch::get(address, path, DEADLINE).await.expect("an answer")
        });
        let body = String::from_utf8(answer.body.to_vec()).expect("text");
        (answer.status.as_u16(), body)
    }

    fn post(&self, node: u16, path: &str, document: &str) -> (u16, String) {
        let address = self.address(node);
        let answer = self.exchange(node, async {
            fetch::post_json(address, path, document.into(), DEADLINE).await.expect("an answer")
        });
        let body = String::from_utf8(answer.body.to_vec()).expect("text");
        (answer.status.as_u16(), body)
    }

    fn view<T: DeserializeOwned>(&self, node: u16, path: &str) -> T {
        let (status, body) = self.get(node, path);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("the documented shape")
    }
}

#[test]
fn every_node_tells_the_same_of_all_shards() {
    let cluster = cluster();
    let one: ShardsView = cluster.view(1, "/v1/shards");
    let two: ShardsView = cluster.view(2, "/v1/shards");
    assert_eq!(one, two);
    assert_eq!(one.shards.len(), usize::from(SHARDS));
    let second = &one.shards[1];
    let leader = second.leader.as_ref().expect("a leader");
    assert_eq!((leader.node, leader.addr.as_str()), (2, "127.0.0.2:7401"));
    assert_eq!(second.replicas.len(), 2, "told by the leader: {second:?}");
    assert_eq!(second.replicas[1].lag, 2);
}

#[test]
fn the_json_of_a_shard_has_the_documented_shape() {
    let (_, body) = cluster().get(1, "/v1/shards?local=true");
    let document: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let expected = serde_json::json!({
        "shard": 4, "slots": [10923, 13653],
        "leader": {"node": 1, "core": 0, "addr": "127.0.0.1:7401"},
        "term": 4, "commit": 90, "applied": 90, "lease_ms": 212,
        "keys": 7, "bytes": 700, "ops_per_s": 0,
        "replicas": [
            {
                "node": 1, "core": 0, "role": "leader", "match": 90, "lag": 0, "health": "sound",
            },
            {
                "node": 2, "core": 0, "role": "follower", "match": 88, "lag": 2, "health": "sound",
            },
        ],
    });
    assert_eq!(document["shards"][4], expected);
}

#[test]
fn a_dead_node_leaves_its_shards_as_the_others_know_them() {
    let mut cluster = cluster();
    drop(cluster.nodes.pop());
    let view: ShardsView = cluster.view(1, "/v1/shards");
    assert_eq!(view.shards[0].replicas.len(), 2);
    let orphan = &view.shards[1];
    assert_eq!(orphan.leader.as_ref().map(|leader| leader.node), Some(2));
    assert_eq!(orphan.replicas.len(), 1, "only the own replica: {orphan:?}");
    assert_eq!(orphan.replicas[0].role, RoleView::Follower);
    let replicas: ReplicasView = cluster.view(1, "/v1/replicas");
    assert_eq!(replicas.unanswered, vec![2]);
}

#[test]
fn replicas_are_listed_with_their_digests() {
    let view: ReplicasView = cluster().view(2, "/v1/replicas");
    assert_eq!(view.replicas.len(), usize::from(SHARDS * NODES));
    assert!(view.unanswered.is_empty());
    assert_eq!(view.replicas[0].digest, "feedf00ddeadbeef");
    assert_eq!((view.replicas[3].shard, view.replicas[3].node), (1, 2));
}

#[test]
fn a_transfer_reaches_the_leader_from_any_node() {
    let cluster = cluster();
    let (status, body) = cluster.post(1, "/v1/shards/1/transfer", r#"{"to":1}"#);
    assert_eq!(status, 200, "{body}");
    let done: TransferDone = serde_json::from_str(&body).expect("the documented shape");
    assert_eq!((done.shard, done.leader), (1, 1));
    let told = AdminCommand::Transfer { shard: ShardId(1), to: NodeId(1) };
    assert_eq!(locked(&cluster.script).commands, vec![(NodeId(2), CoreIndex(0), told)]);
}

#[test]
fn an_impossible_transfer_is_refused_with_a_reason() {
    let cluster = cluster();
    let check = |path: &str, document: &str, status: u16, part: &str| {
        let answer = cluster.post(1, path, document);
        assert_eq!(answer.0, status, "{path} {document}: {}", answer.1);
        assert!(answer.1.contains(part), "{} lacks {part}", answer.1);
    };
    check("/v1/shards/6/transfer", r#"{"to":1}"#, 404, "does not exist");
    check("/v1/shards/0/transfer", r#"{"to":3}"#, 400, "on the nodes 1, 2");
    check("/v1/shards/0/transfer", r#"{"to":"two"}"#, 422, "error");
    check("/v1/shards/0/transfer", r#"{"from":2,"to":2}"#, 422, "from");
    check("/v1/shards/0/transfer", "{", 400, "error");
    check("/v1/shards/1/transfer?forwarded=true", r#"{"to":1}"#, 409, "does not lead");
    locked(&cluster.script).leaders.remove(&ShardId(2));
    let deadline = Instant::now() + DEADLINE;
    while cluster.get(1, "/readyz").0 == 200 {
        assert!(Instant::now() < deadline, "the lost leader must show");
    }
    check("/v1/shards/2/transfer", r#"{"to":2}"#, 503, "no known leader");
    assert!(locked(&cluster.script).commands.is_empty());
}

#[test]
fn readiness_names_what_is_missing() {
    let cluster = cluster();
    assert_eq!(cluster.get(1, "/readyz").0, 200);
    locked(&cluster.script).leaders.remove(&ShardId(5));
    locked(&cluster.script).silent = Some((NodeId(1), CoreIndex(1)));
    let deadline = Instant::now() + DEADLINE;
    let reasons = loop {
        let (status, body) = cluster.get(1, "/readyz");
        let view: ReadinessView = serde_json::from_str(&body).expect("the documented shape");
        assert_eq!(status == 200, view.ready);
        if view.reasons.len() > 2 {
            break view.reasons;
        }
        assert!(Instant::now() < deadline, "{view:?}");
    };
    let has = |part: &str| reasons.iter().any(|reason| reason.contains(part));
    assert!(has("core 1 does not answer") && has("shard 5 has no known leader"), "{reasons:?}");
    assert!(has("replica of shard 2 has not started"), "{reasons:?}");
    assert_eq!(cluster.get(1, "/healthz"), (200, "ok\n".to_owned()));
}

#[test]
fn a_core_whose_log_failed_shows_in_health_and_readiness() {
    let cluster = cluster();
    assert_eq!(cluster.get(1, "/healthz").0, 200);
    locked(&cluster.script).log_failed = Some((NodeId(1), CoreIndex(1)));
    let deadline = Instant::now() + DEADLINE;
    while cluster.get(1, "/healthz").0 == 200 {
        assert!(Instant::now() < deadline, "the failure must show");
    }
    let (status, said) = cluster.get(1, "/healthz");
    assert!(status == 503 && said.contains("log of core 1"), "{status} {said}");
    let (status, body) = cluster.get(1, "/readyz");
    assert!(status == 503 && body.contains("the log of core 1"), "{status} {body}");
    assert_eq!(cluster.get(2, "/healthz").0, 200);
}

#[test]
fn a_node_with_a_damaged_replica_is_not_ready_until_it_is_rebuilt() {
    let cluster = cluster();
    let gauge = |node| {
        let (_, page) = cluster.get(node, "/metrics");
        let line = page.lines().find(|line| line.starts_with("coracle_shards_quarantined "));
        line.expect("the metric").to_owned()
    };
    for (health, word, said) in [
        (Health::Quarantined, "quarantined", "shard 3 is damaged, and out of service"),
        (Health::Rebuilding, "rebuilding", "shard 3 was damaged, and is being rebuilt"),
    ] {
        locked(&cluster.script).health.insert((NodeId(1), ShardId(3)), health);
        let deadline = Instant::now() + DEADLINE;
        let body = loop {
            let (status, body) = cluster.get(1, "/readyz");
            if status == 503 && body.contains(said) {
                break body;
            }
            assert!(Instant::now() < deadline, "{body}");
        };
        let view: ReadinessView = serde_json::from_str(&body).expect("the documented shape");
        assert_eq!(view.reasons.len(), 1, "{view:?}");
        assert_eq!(cluster.get(2, "/readyz").0, 200);
        assert_eq!(gauge(1), "coracle_shards_quarantined 1");
        let (_, replicas) = cluster.get(1, "/v1/replicas?local=true");
        assert!(replicas.contains(&format!("\"health\":\"{word}\"")), "{replicas}");
    }
    locked(&cluster.script).health.clear();
    let deadline = Instant::now() + DEADLINE;
    while cluster.get(1, "/readyz").0 != 200 {
        assert!(Instant::now() < deadline, "it is ready again");
    }
    assert_eq!(gauge(1), "coracle_shards_quarantined 0");
}

#[test]
fn metrics_are_well_formed_and_each_name_has_one_meaning() {
    let (status, page) = cluster().get(1, "/metrics");
    assert_eq!(status, 200);
    let mut kinds = BTreeMap::new();
    for line in page.lines() {
        if let Some(head) = line.strip_prefix("# TYPE ") {
            let (name, kind) = head.split_once(' ').expect("a name and a kind");
            assert!(kinds.insert(name, kind).is_none(), "{name} is described twice");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{name} is a {kind}");
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            let name = series.split('{').next().expect("a name");
            let of_histogram = ["_bucket", "_sum", "_count"].iter().any(|part| {
                let whole = name.strip_suffix(part);
                whole.is_some_and(|whole| kinds.get(whole) == Some(&"histogram"))
            });
            assert!(of_histogram || kinds.contains_key(name), "{name} has no description");
            assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
        }
    }
    for line in [
        "coracle_core_commands_total{core=\"1\"} 11",
        "coracle_core_turn_worst_nanoseconds{core=\"0\"} 5000",
        "coracle_core_log_write_worst_nanoseconds{core=\"0\"} 0",
        "coracle_core_log_disk_full{core=\"1\"} 0",
        "coracle_turn_seconds_bucket{core=\"0\",le=\"0.00002\"} 0",
        "coracle_turn_seconds_bucket{core=\"0\",le=\"0.00005\"} 1",
        "coracle_turn_seconds_bucket{core=\"0\",le=\"0.004\"} 1",
        "coracle_turn_seconds_bucket{core=\"0\",le=\"0.005\"} 2",
        "coracle_turn_seconds_bucket{core=\"0\",le=\"10\"} 2",
        "coracle_turn_seconds_bucket{core=\"0\",le=\"+Inf\"} 3",
        "coracle_turn_seconds_sum{core=\"0\"} 20.00454",
        "coracle_turn_seconds_count{core=\"0\"} 3",
        "coracle_turn_max_seconds{core=\"1\"} 20",
        "coracle_shard_leads{shard=\"0\",core=\"0\"} 1",
        "coracle_shard_leads{shard=\"1\",core=\"0\"} 0",
        "coracle_shard_replica_lag_entries{shard=\"0\",node=\"2\"} 2",
    ] {
        assert!(page.lines().any(|have| have == line), "{line} is missing");
    }
}

#[test]
fn cores_tell_how_long_their_turns_took() {
    let view: CoresView = cluster().view(1, "/v1/cores");
    assert_eq!((view.cores.len(), view.unanswered.len()), (usize::from(CORES), 0));
    let core = &view.cores[1];
    assert_eq!((core.core, core.turns, core.commands), (1, 3, 11));
    assert_eq!((core.turn_p50_us, core.turn_max_us), (5_000, 20_000_000));
    assert_eq!((core.turn_p99_us, core.turn_worst_us), (20_000_000, 5));
}

#[test]
fn operations_per_second_come_from_two_samples() {
    let cluster = cluster();
    let deadline = Instant::now() + DEADLINE;
    loop {
        locked(&cluster.script).operations += 1_000;
        let view: ShardsView = cluster.view(1, "/v1/shards?local=true");
        if view.shards[0].ops_per_s > 0 {
            return;
        }
        assert!(Instant::now() < deadline, "no rate shows");
    }
}

#[test]
fn a_stop_drains_every_core_before_it_stops_any() {
    let cluster = cluster();
    cluster.nodes[0].stop();
    let deadline = Instant::now() + DEADLINE;
    while locked(&cluster.script).stopped.len() < usize::from(CORES) {
        assert!(Instant::now() < deadline, "{:?}", cluster.script);
        std::thread::yield_now();
    }
    let mut script = locked(&cluster.script);
    script.drained.sort_unstable();
    assert_eq!(script.drained, vec![(NodeId(1), CoreIndex(0)), (NodeId(1), CoreIndex(1))]);
    assert!(script.stopped_before_all_were_drained.is_empty());
    assert!(script.stopped.iter().all(|(node, _)| *node == NodeId(1)));
}

/// Sends bytes and reads until the other side closes; the answer's first line.
fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn oversized_requests_are_turned_away() {
    let cluster = cluster();
    let address = cluster.address(1);
    let head = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(64 << 10));
    assert!(!raw(address, head.as_bytes()).contains(" 200 "));
    let fields = "x: y\r\n".repeat(65);
    let many = format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{fields}\r\n");
    assert!(raw(address, many.as_bytes()).contains(" 431 "));
    let (status, body) = cluster.post(1, "/v1/shards/0/transfer", &" ".repeat(5 << 10));
    assert_eq!(status, 413, "{body}");
    let plain = "POST /v1/shards/0/transfer HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                 content-type: text/plain\r\ncontent-length: 8\r\n\r\n{\"to\":2}";
    assert!(raw(address, plain.as_bytes()).contains(" 415 "));
    assert!(raw(address, b"*1\r\n$4\r\nPING\r\n\r\n").contains(" 400 "));
    assert_eq!(cluster.get(1, "/healthz").0, 200);
}
