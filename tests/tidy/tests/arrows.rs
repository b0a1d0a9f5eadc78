//! The arrows between the crates, as docs/architecture.md draws them and as cargo knows them.
//!
//! The page and the manifests cannot drift apart: a new edge is written on the page, where it is
//! seen, or it does not pass.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What a crate may use of the others: always, and in its tests besides.
#[derive(Debug, Default, PartialEq, Eq)]
struct Arrows {
    always: BTreeSet<String>,
    in_tests: BTreeSet<String>,
    /// Outside crates it must not have.
    never: BTreeSet<String>,
}

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn drawn() -> BTreeMap<String, Arrows> {
    let page = std::fs::read_to_string(root().join("docs/architecture.md"));
    let page = page.expect("the page of the architecture");
    let rows = tidy::table_after(&page, "## Arrows");
    let arrows = rows.into_iter().map(|row| {
        assert_eq!(row.len(), 4, "the table of arrows has four columns: {row:?}");
        let names = |cell: &str| tidy::quoted(cell).into_iter().collect();
        let name = tidy::quoted(&row[0]).pop().expect("the name of a crate");
        let [always, in_tests, never] = [names(&row[1]), names(&row[2]), names(&row[3])];
        (name, Arrows { always, in_tests, never })
    });
    arrows.collect()
}

/// The packages of the workspace, each with its dependencies as (name, kind).
fn built() -> BTreeMap<String, Vec<(String, String)>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version=1", "--offline", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |value: &Value| value.as_str().unwrap_or("normal").to_owned();
    let packages = metadata["packages"].as_array().expect("packages").iter();
    let packages = packages.map(|package| {
        let dependencies = package["dependencies"].as_array().expect("dependencies").iter();
        let dependencies = dependencies.map(|edge| (text(&edge["name"]), text(&edge["kind"])));
        (text(&package["name"]), dependencies.collect())
    });
    packages.collect()
}

#[test]
fn crates_depend_on_each_other_as_the_page_says() {
    let (drawn, built) = (drawn(), built());
    let names =
        |names: &mut dyn Iterator<Item = &String>| names.cloned().collect::<Vec<_>>().join(", ");
    assert_eq!(names(&mut drawn.keys()), names(&mut built.keys()), "the crates themselves");
    for (name, edges) in &built {
        let ours = |kinds: &[&str]| -> BTreeSet<String> {
            let kept = edges
                .iter()
                .filter(|(to, kind)| built.contains_key(to) && kinds.contains(&kind.as_str()));
            kept.map(|(to, _)| to.clone()).collect()
        };
        assert_eq!(drawn[name].always, ours(&["normal", "build"]), "what {name} uses");
        assert_eq!(drawn[name].in_tests, ours(&["dev"]), "what the tests of {name} use besides");
    }
}

#[test]
fn crates_keep_away_from_what_the_page_bars() {
    for (name, arrows) in drawn() {
        for (to, kind) in &built()[&name] {
            assert!(!arrows.never.contains(to), "{name} has {to} ({kind}), which the page bars");
        }
    }
}

/// An edge that leads back would make two crates one.
#[test]
fn arrows_run_one_way() {
    let drawn = drawn();
    for start in drawn.keys() {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&String> = drawn[start].always.iter().collect();
        while let Some(name) = next.pop() {
            assert_ne!(name, start, "{start} reaches itself");
            if reached.insert(name) {
                next.extend(&drawn[name].always);
            }
        }
    }
}
