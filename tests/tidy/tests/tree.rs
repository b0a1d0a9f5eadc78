//! Applies the rules to every file of the tree, and collects all complaints before it fails.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What is not ours or not text: built, fetched, or raw input of tests.
const SKIPPED: [&str; 6] = ["target", ".git", "corpus", "results", "node_modules", "__pycache__"];

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the root of the tree")
}

/// Every file below `directory`, without what is skipped.
fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory).expect("a readable directory");
    for entry in entries {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if SKIPPED.contains(&name.as_str()) || path.is_symlink() {
            continue;
        }
        match path.is_dir() {
            true => files(&path, found),
            false => found.push(path),
        }
    }
}

/// The files with one of these extensions, relative to the root, and their texts.
fn texts(extensions: &[&str]) -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    files(&root, &mut found);
    let wanted = |path: &PathBuf| {
        let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        extensions.contains(&extension.as_str())
    };
    let mut texts: Vec<(String, String)> = found
        .into_iter()
        .filter(wanted)
        .filter_map(|path| {
            let text = fs::read_to_string(&path).ok()?;
            let name = path.strip_prefix(&root).expect("below the root");
            Some((name.to_string_lossy().into_owned(), text))
        })
        .collect();
    texts.sort();
    texts
}

/// Fails with all complaints of `rule` about the files with these extensions.
fn hold(extensions: &[&str], rule: impl Fn(&str, &str) -> Vec<String>) {
    let texts = texts(extensions);
    assert!(!texts.is_empty(), "no file with one of the extensions {extensions:?}");
    let complaints: Vec<String> = texts
        .iter()
        .flat_map(|(name, text)| {
            rule(name, text).into_iter().map(move |complaint| format!("{name}:{complaint}"))
        })
        .collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn files_and_lines_keep_to_their_sizes() {
    hold(&["rs", "py", "sh", "proto"], |_, text| tidy::check_size(text));
}

#[test]
fn every_file_opens_with_what_it_is() {
    hold(&["rs"], |_, text| tidy::check_opening(text));
}

#[test]
fn nothing_admits_to_be_unfinished() {
    hold(&["rs", "py", "sh", "proto", "md", "toml"], |name, text| match name {
        // The list of the words itself, and its tests.
        "tests/tidy/src/lib.rs" => Vec::new(),
        // The lints that forbid the macros name them.
        "Cargo.toml" => Vec::new(),
        _ => tidy::check_words(text),
    });
}

#[test]
fn tests_are_on_and_named_for_their_promise() {
    hold(&["rs"], |name, text| match name {
        "tests/tidy/src/lib.rs" => Vec::new(),
        _ => tidy::check_tests(text),
    });
}

#[test]
fn file_names_say_what_is_inside() {
    hold(&["rs", "py", "md"], |name, _| {
        let stem = Path::new(name).file_stem().unwrap_or_default().to_string_lossy();
        tidy::check_file_name(&stem)
    });
}

#[test]
fn functions_are_short() {
    hold(&["rs"], |name, text| {
        for (line, function, length) in tidy::long_functions(text, tidy::FUNCTION_LINES_ADVISED) {
            println!("{name}:{line}: {function} has {length} lines");
        }
        let long = tidy::long_functions(text, tidy::FUNCTION_LINES_MAX);
        let complaint = |(line, function, length)| format!("{line}: {function} has {length} lines");
        long.into_iter().map(complaint).collect()
    });
}

#[test]
fn every_page_has_one_title() {
    hold(&["md"], |_, text| tidy::check_title(text));
}

#[test]
fn links_lead_somewhere() {
    let root = root();
    hold(&["md"], |name, text| {
        let folder = root.join(name).parent().expect("a folder").to_path_buf();
        let dead = |(_, target): &(usize, String)| !folder.join(target).exists();
        let complaint = |(line, target)| format!("{line}: the link to {target} is dead");
        tidy::links(text).into_iter().filter(dead).map(complaint).collect()
    });
}

/// A promise without a test is a wish; one whose test was renamed away is a lie.
#[test]
fn every_promise_names_a_test_that_exists() {
    let page = fs::read_to_string(root().join("docs/promises.md")).expect("the page of promises");
    let mut names = BTreeSet::new();
    for (name, text) in texts(&["rs", "py"]) {
        names.insert(name);
        for line in text.lines() {
            let line = line.trim_start();
            for word in ["fn ", "def ", "pub fn ", "async fn "] {
                let rest = line.strip_prefix(word);
                let name = rest.and_then(|rest| rest.split_once('('));
                names.extend(name.map(|(name, _)| name.to_owned()));
            }
        }
    }
    let rows = tidy::table_after(&page, "## Kept today");
    assert!(!rows.is_empty(), "docs/promises.md has no table under `## Kept today`");
    for row in rows {
        let tests = tidy::quoted(row.last().expect("a last column"));
        assert!(!tests.is_empty(), "no test is named for: {}", row[0]);
        for test in tests {
            assert!(names.contains(&test), "{test} does not exist; it is named for: {}", row[0]);
        }
    }
}
