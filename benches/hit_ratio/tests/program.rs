//! The program as a whole: its files, its exit codes, and its way with the servers that happen to
//! be installed.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn hit_ratio(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hit-ratio"));
    command.args(arguments).output().expect("the program starts")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("the JSON file");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn files_are_written_where_they_are_asked_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let csv = directory.path().join("made by hand.csv");
    fs::write(&csv, "timestamp,key,size,operation,ttl\n0,a,1,get,0\n1,a,1,get,0\n")
        .expect("a file");
    let out = directory.path().join("v1.0");
    let [csv, out] = [&csv, &out].map(|path| path.to_str().expect("UTF-8").to_owned());
    let output = hit_ratio(&["--contestants=none", "--warm-up=0", "--csv", &csv, "--out", &out]);
    assert!(output.status.success(), "{}", errors(&output));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(fs::read_to_string(format!("{out}.md")).expect("the table"), table);
    assert!(table.contains("| exact LRU | 1 | 50.00 |"), "{table}");
    assert_eq!(json(Path::new(&format!("{out}.json")))["traces"][0]["rows"][3]["percent"], 50.0);
    let picture = fs::read_to_string(format!("{out}-made by hand.svg")).expect("the picture");
    assert!(picture.starts_with("<svg "));
}

#[test]
fn what_cannot_be_is_told_by_the_exit_code_and_a_line() {
    let nowhere = hit_ratio(&["--contestants=none", "--keys=1k", "--out=/nowhere/at/all"]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(errors(&nowhere).contains("/nowhere/at/all.md"), "{}", errors(&nowhere));
    let flag = hit_ratio(&["--keys=0"]);
    assert_eq!(flag.status.code(), Some(2));
    assert!(errors(&flag).contains("keys: "), "{}", errors(&flag));
    let directory = tempfile::tempdir().expect("a directory");
    let csv = directory.path().join("t.csv");
    fs::write(&csv, "0,a,1,get,0\n0,a,1,gut,0\n").expect("a file");
    let line = hit_ratio(&["--csv", csv.to_str().expect("UTF-8")]);
    assert_eq!(line.status.code(), Some(1));
    assert!(
        errors(&line).contains("line 2 ") && errors(&line).contains("gut"),
        "{}",
        errors(&line)
    );
}

/// Where a server is not installed the report says so, and the rest goes on.
#[test]
fn servers_that_are_installed_hold_the_room_and_the_others_are_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("run");
    let output = hit_ratio(&[
        "--contestants=redis,memcached",
        "--traces=zipf",
        "--keys=100k",
        "--room=20k",
        "--requests=60k",
        "--network=127.0.32",
        "--out",
        out.to_str().expect("UTF-8"),
    ]);
    assert!(output.status.success(), "{}", errors(&output));
    let report = json(&out.with_extension("json"));
    let trace = &report["traces"][0];
    let rows = trace["rows"].as_array().expect("rows");
    let notes = trace["notes"].as_array().expect("notes").iter().filter_map(Value::as_str);
    let absent = notes.filter(|note| note.contains("did not take part")).count();
    assert_eq!(rows.len() + absent, 4 + 2, "{report}");
    for row in rows {
        let entries = row["entries"].as_u64().expect("a count");
        let percent = row["percent"].as_f64().expect("a ratio");
        // memcached takes whole mebibytes: four of them hold some 20,000 entries.
        assert!((14_000..=26_000).contains(&entries), "{row}");
        assert!((40.0..95.0).contains(&percent), "{row}");
        assert!(row["server"].is_null() || row["server"]["read_errors"] == 0, "{row}");
    }
}

#[test]
fn an_address_that_is_taken_is_refused() {
    let taken = std::net::TcpListener::bind("127.0.33.1:17379").expect("the address is free");
    let output =
        hit_ratio(&["--contestants=redis", "--keys=1k", "--requests=1k", "--network=127.0.33"]);
    drop(taken);
    let installed = Command::new("redis-server").arg("--version").output().is_ok();
    assert_eq!(output.status.success(), !installed, "{}", errors(&output));
    assert!(!installed || errors(&output).contains("127.0.33.1:17379"), "{}", errors(&output));
}
