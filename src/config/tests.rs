//! What the configuration accepts, what it refuses, and that the sources rank as promised.

use std::io::Write as _;

use super::*;

fn command() -> clap::Command {
    add_flags(clap::Command::new("serve"))
}

/// Loads with flags, variables and a file on a machine with the CPUs 0 to 3, and with some data
/// directory if none of them names one.
fn load(flags: &[&str], variables: &[(&str, &str)], file: &str) -> Result<NodeConfig, String> {
    let mut path = tempfile::NamedTempFile::new().expect("a temporary file");
    path.write_all(file.as_bytes()).expect("a written file");
    let mut arguments = vec!["serve".to_owned()];
    if !file.is_empty() {
        arguments.push(format!("--config={}", path.path().display()));
    }
    arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
    let matches = command().try_get_matches_from(arguments).map_err(|error| error.to_string())?;
    let mut environment: Vec<(String, String)> =
        variables.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    // What would be in the way of every other question.
    let is_given = flags.iter().any(|flag| flag.contains("data-dir"))
        || variables.iter().any(|(key, _)| *key == "CORACLE_DATA_DIR")
        || file.contains("data_dir")
        || flags.contains(&"--durability=memory");
    if !is_given {
        environment.push(("CORACLE_DATA_DIR".into(), "/tmp/x".into()));
    }
    let machine = Machine { cpus: vec![0, 1, 2, 3] };
    NodeConfig::load(&matches, environment, &machine).map_err(|error| error.to_string())
}

fn flags(flags: &[&str]) -> Result<NodeConfig, String> {
    load(flags, &[], "")
}

/// Asserts that the flags are refused with an error that has all of `parts` in it.
fn refused(given: &[&str], parts: &[&str]) {
    let error = flags(given).expect_err(&format!("{given:?} must be refused"));
    for part in parts {
        assert!(error.contains(part), "{given:?} gave {error:?}, which lacks {part:?}");
    }
}

const THREE: &str = "--members=1=127.0.0.1,2=127.0.0.2,3=127.0.0.3";

#[test]
fn a_node_needs_a_place_for_its_log_and_nothing_else() {
    let config = flags(&[]).expect("the defaults are valid");
    assert_eq!(config.node, NodeId(1));
    assert_eq!(config.bind, IpAddr::from([127, 0, 0, 1]));
    assert_eq!(config.cores, CorePlan::Pinned(vec![0, 1, 2, 3]));
    assert_eq!((config.port, config.core_port_base), (7_400, 7_401));
    assert_eq!((config.peer_port_base, config.http_port), (7_501, 7_480));
    assert_eq!(config.shards, 32);
    assert_eq!(config.memory_bytes, 1 << 30);
    assert_eq!(config.durability, Durability::Fsync);
    assert_eq!(config.segment_bytes, 16 << 20);
    assert_eq!(config.tick * config.election_ticks, Duration::from_millis(300));
}

#[test]
fn a_log_without_a_directory_is_refused_by_name() {
    let matches = command().try_get_matches_from(["serve"]).expect("no flags");
    let machine = Machine { cpus: vec![0] };
    let error = NodeConfig::load(&matches, [], &machine).expect_err("nowhere to write");
    let said = error.to_string();
    for part in ["`data_dir`", "--data-dir", "--durability memory"] {
        assert!(said.contains(part), "{said}");
    }
    let config = flags(&["--durability=memory"]).expect("nothing is written");
    assert_eq!(config.data_dir, None);
    let config = flags(&["--data-dir=/tmp/y", "--segment-bytes=65537"]).expect("a directory");
    assert_eq!(config.data_dir.as_deref(), Some(std::path::Path::new("/tmp/y")));
    assert_eq!(config.segment_bytes, 69_632, "whole blocks");
}

#[test]
fn flags_beat_the_environment_which_beats_the_file_which_beats_the_default() {
    let file = "shards = 5\nmemory = \"2GiB\"\nport = 7000\n";
    let variables = [("CORACLE_MEMORY", "3GiB"), ("CORACLE_PORT", "7001"), ("HOME", "/")];
    let config = load(&["--port=7002"], &variables, file).expect("a valid configuration");
    assert_eq!(config.port, 7_002);
    assert_eq!(config.memory_bytes, 3 << 30);
    assert_eq!(config.shards, 5);
    assert_eq!(config.connections_max, 10_000);
}

#[test]
fn every_setting_can_be_given_in_all_three_places() {
    for setting in settings::SETTINGS {
        let value = match setting.key {
            "node_id" => "1",
            "data_dir" => "/tmp/x",
            "cores" => "2",
            "cpus" => "2-3",
            "bind" => "127.0.0.1",
            _ => setting.default,
        };
        let as_flag = flags(&[&format!("--{}={value}", setting.flag())]);
        let as_variable = load(&[], &[(&setting.variable(), value)], "");
        let as_key = load(&[], &[], &format!("{} = \"{value}\"\n", setting.key));
        assert!(as_flag.is_ok(), "{as_flag:?}");
        assert_eq!(as_flag, as_variable, "{}", setting.key);
        assert_eq!(as_flag, as_key, "{}", setting.key);
    }
}

#[test]
fn the_file_may_use_the_types_of_toml() {
    let file = "node_id = 2\ncpus = [1, 3]\ninsecure = false\n\
                [members]\n1 = \"127.0.0.1\"\n2 = \"::1\"\n";
    let config = load(&[], &[], file).expect("a valid configuration");
    assert_eq!(config.node, NodeId(2));
    assert_eq!(config.cores, CorePlan::Pinned(vec![1, 3]));
    assert_eq!(config.bind, "::1".parse::<IpAddr>().expect("an address"));
}

#[test]
fn what_is_unknown_is_refused_by_name() {
    let check = |variables: &[(&str, &str)], file: &str, parts: &[&str]| {
        let error = load(&[], variables, file).expect_err("an unknown name");
        for part in parts {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    };
    check(&[], "shrads = 32\n", &["`shrads`", "`shards`"]);
    check(&[], "value-bytes-max = 32\n", &["`value-bytes-max`", "`value_bytes_max`"]);
    check(&[], "[server]\nshards = 1\n", &["`server`"]);
    check(&[("CORACLE_SHRADS", "1")], "", &["`CORACLE_SHRADS`", "`CORACLE_SHARDS`"]);
    assert!(flags(&["--shrads=1"]).expect_err("an unknown flag").contains("--shrads"));
    let others = [("CORACLE_ADDR", "localhost"), ("CORACLE_SIM_SEEDS", "9"), ("XCORACLE_Y", "1")];
    assert!(load(&[], &others, "").is_ok());
}

#[test]
fn what_is_given_twice_is_refused_by_name() {
    let error = load(&[], &[], "shards = 1\nshards = 2\n").expect_err("a duplicate key");
    assert!(error.contains("shards") && error.contains("duplicate"), "{error}");
    assert!(
        flags(&["--shards=1", "--shards=2"]).expect_err("a duplicate flag").contains("--shards")
    );
    refused(&["--members=1=127.0.0.1,1=127.0.0.2", "--node-id=1"], &["`members`", "twice"]);
}

#[test]
fn a_wrong_value_is_refused_with_its_name_and_place() {
    refused(&["--memory=10gbb"], &["`memory`", "10gbb", "--memory", "GiB"]);
    refused(&["--tick=50"], &["`tick`", "unit"]);
    refused(&["--tick=9ms"], &["`tick`", "10ms"]);
    refused(&["--shards=0"], &["`shards`", "1 and 16384"]);
    refused(&["--shards=16385", "--memory=100GiB"], &["`shards`"]);
    refused(&["--port=0"], &["`port`"]);
    refused(&["--port=65536"], &["`port`"]);
    refused(&["--value-bytes-max=17MiB", "--memory=8GiB"], &["`value_bytes_max`", "16 MiB"]);
    refused(&["--advertise=host"], &["`advertise`", "core, node"]);
    refused(&["--cluster=two words"], &["`cluster`"]);
    refused(&["--cluster="], &["`cluster`"]);
    refused(&["--data-dir="], &["`data_dir`"]);
    refused(&["--log==x=y=z"], &["`log`"]);
    refused(&["--insecure=yes"], &["`insecure`"]);
    let error = load(&[], &[("CORACLE_TICK", "1d")], "").expect_err("a unit that does not exist");
    assert!(error.contains("CORACLE_TICK"), "{error}");
    assert!(load(&[], &[], "shards = 1.5\n").expect_err("a fraction").contains("`shards`"));
    assert!(load(&[], &[], "cpus = [[1]]\n").expect_err("a nested list").contains("`cpus`"));
}

#[test]
fn what_this_version_lacks_is_refused_with_what_it_has() {
    refused(&["--durability=disk"], &["`durability`", "fsync, memory"]);
    refused(&["--segment-bytes=65535"], &["`segment_bytes`", "64KiB"]);
    refused(&["--segment-bytes=2GiB"], &["`segment_bytes`", "1GiB"]);
}

#[test]
fn a_node_must_be_one_of_its_members() {
    refused(&[THREE], &["`node_id`", "required", "1, 2, 3"]);
    refused(&[THREE, "--node-id=4"], &["`node_id`", "`members`"]);
    let config = flags(&[THREE, "--node-id=2"]).expect("a valid configuration");
    assert_eq!(config.bind, IpAddr::from([127, 0, 0, 2]));
}

#[test]
fn exposing_a_node_takes_a_word() {
    refused(&["--members=1=10.1.2.3"], &["`members`", "--insecure", "authentication"]);
    refused(&["--bind=0.0.0.0"], &["`bind`", "--insecure"]);
    assert!(flags(&["--members=1=10.1.2.3", "--insecure"]).is_ok());
    assert!(flags(&["--bind=0.0.0.0", "--insecure=true"]).is_ok());
    assert!(flags(&["--members=1=10.1.2.3", "--bind=127.0.0.1"]).is_ok());
}

#[test]
fn ports_may_not_overlap_or_run_out() {
    refused(&["--core-port-base=7400"], &["`core_port_base`", "`port`"]);
    refused(&["--http-port=7404"], &["`http_port`", "`core_port_base`"]);
    assert!(flags(&["--http-port=7405"]).is_ok());
    refused(&["--peer-port-base=65533"], &["`peer_port_base`", "65536"]);
    assert!(flags(&["--peer-port-base=65532"]).is_ok());
}

#[test]
fn cores_are_pinned_where_there_is_room() {
    let cores = |given: &[&str]| flags(given).expect("a valid configuration").cores;
    assert_eq!(cores(&["--cores=2"]), CorePlan::Pinned(vec![0, 1]));
    assert_eq!(cores(&["--cores=5"]), CorePlan::Float(5));
    assert_eq!(cores(&["--cores=2", "--pin=float"]), CorePlan::Float(2));
    assert_eq!(cores(&["--cpus=3,1"]), CorePlan::Pinned(vec![3, 1]));
    refused(&["--cores=5", "--pin=pinned"], &["`pin`", "5 cores"]);
    refused(&["--cpus=4"], &["`cpus`", "CPU 4"]);
    refused(&["--cpus=0", "--cores=1"], &["`cpus`", "`cores`"]);
    refused(&["--cpus=0", "--pin=float"], &["`cpus`", "`pin`"]);
    refused(&["--cores=0"], &["`cores`"]);
}

#[test]
fn memory_is_divided_alike_on_all_nodes() {
    let four = "--members=1=127.0.0.1,2=127.0.0.2,3=127.0.0.3,4=127.0.0.4";
    let limits: Vec<u64> = ["1", "2", "3", "4"]
        .iter()
        .map(|id| {
            let given = [four, "--node-id", id, "--shards=33"];
            flags(&given).expect("a valid configuration").shard_bytes_max()
        })
        .collect();
    assert_eq!(limits, vec![(1 << 30) / 25; 4], "99 replicas on 4 nodes: at most 25 on one");
    assert_eq!(flags(&[]).expect("the defaults").shard_bytes_max(), 32 << 20);
}

#[test]
fn memory_must_hold_two_of_the_largest_values_per_shard() {
    assert!(flags(&["--memory=64MiB"]).is_ok());
    refused(&["--memory=67108863"], &["`memory`", "`value_bytes_max`", "67108864"]);
}

#[test]
fn a_request_may_outwait_an_election() {
    assert!(flags(&["--request-deadline=300ms"]).is_ok());
    refused(&["--request-deadline=299ms"], &["`request_deadline`", "300 ms"]);
}

#[test]
fn the_help_text_names_every_setting_and_its_variable() {
    let help = command().render_long_help().to_string();
    for setting in settings::SETTINGS {
        assert!(help.contains(&format!("--{}", setting.flag())), "{}", setting.key);
        assert!(help.contains(&setting.variable()), "{}", setting.key);
    }
    assert!(help.contains("[default: fsync]"), "{help}");
}

#[test]
fn addresses_follow_from_the_members() {
    let config = flags(&[THREE, "--node-id=1"]).expect("a valid configuration");
    let text = |address: Option<std::net::SocketAddr>| address.map(|a| a.to_string());
    use shards::ids::CoreIndex;
    assert_eq!(text(config.data_address(NodeId(2))).as_deref(), Some("127.0.0.2:7400"));
    assert_eq!(
        text(config.core_address(NodeId(3), CoreIndex(1))).as_deref(),
        Some("127.0.0.3:7402")
    );
    assert_eq!(text(config.http_address(NodeId(1))).as_deref(), Some("127.0.0.1:7480"));
    assert_eq!(text(config.data_address(NodeId(4))), None);
    assert_eq!(config.peer_listen_address(CoreIndex(1)).to_string(), "127.0.0.1:7502");
}
