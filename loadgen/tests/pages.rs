//! Reports as pages, and their comparison, through the program itself.

mod servers;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use servers::{Act, Server, Store};

/// A folder that is gone with this value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("loadgen-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn loadgen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coracle-loadgen"))
        .args(arguments)
        .output()
        .expect("the program runs")
}

/// Every element that opens closes again, in order; what is fetched from elsewhere is nothing.
fn assert_self_contained(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    for part in page.split('<').skip(1) {
        let (tag, _) = part.split_once('>').expect("a whole tag");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "near <{tag}>");
        } else if !tag.ends_with('/') && !tag.starts_with('!') && !tag.starts_with("meta") {
            open.push(tag.split_whitespace().next().expect("a name"));
        }
    }
    assert!(open.is_empty(), "{open:?}");
    for elsewhere in ["src=", "href=", "@import", "url("] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
}

#[test]
fn a_run_writes_a_page_and_two_reports_are_compared() {
    let store = Store::default();
    let server = Server::new(move |arguments| Act::Say(store.reply(arguments)));
    let address = server.address.to_string();
    let folder = Folder::new("pages");
    let files = ["one", "two"].map(|name| {
        let (json, html) = (folder.file(&format!("{name}.json")), folder.file("run.html"));
        let output = loadgen(&[
            "--addr",
            &address,
            "--shape",
            "steps:500,1500@200ms",
            "--keys",
            "100",
            "--quiet",
            "--json",
            &json,
            "--html",
            &html,
            "--interval",
            "100ms",
        ]);
        assert!(output.status.success(), "{output:?}");
        let page = fs::read_to_string(&html).expect("a page");
        assert_self_contained(&page);
        assert_eq!(page.matches("<svg").count(), 3);
        assert!(page.contains("Stages of run") && page.contains("99 %"));
        json
    });
    let html = folder.file("both.html");
    let output = loadgen(&["compare", &files[0], &files[1], "--html", &html]);
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    for word in ["one", "two", "throughput op/s", "p99.9 ms", "×)"] {
        assert!(table.contains(word), "{word} in {table}");
    }
    assert_self_contained(&fs::read_to_string(&html).expect("a page"));

    fs::write(folder.file("no.json"), "{}").expect("a file");
    let output = loadgen(&["compare", &files[0], &folder.file("no.json")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no.json: no report"), "{output:?}");
}

#[test]
fn the_exit_code_of_a_search_says_what_ended_it() {
    let refusing = Server::new(|arguments| match servers::is_probe(arguments) {
        true => Act::Say(b"$-1\r\n".to_vec()),
        false => Act::Say(b"-OOM no more\r\n".to_vec()),
    });
    let address = refusing.address.to_string();
    let base = ["--addr", &address, "--slo", "errors=0", "--duration", "100ms", "--quiet"];
    let output = loadgen(&[&base[..], &["--rate", "8"]].concat());
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let output = loadgen(&[&base[..], &["--rate", "1M", "--trials", "1"]].concat());
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let output = loadgen(&["--addr", &address, "--slo", "p99=fast"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
