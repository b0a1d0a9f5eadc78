//! The rules of the tree that neither rustfmt nor clippy holds, as functions from text to
//! complaints.
//!
//! They know no file system: `tests/tree.rs` applies them to every file, and the tests below show
//! that each of them can fail. A complaint is one line that begins with the line number where it
//! has one.

/// Lines a file of code may have. A longer one hides a second subject.
pub const FILE_LINES_MAX: usize = 1_000;
/// Columns a line of code may have, in characters.
pub const LINE_COLUMNS_MAX: usize = 100;
/// Lines a function should have at most; longer ones are listed.
pub const FUNCTION_LINES_ADVISED: usize = 70;
/// Lines a function may have at most: a table or a long match may run over the advice.
pub const FUNCTION_LINES_MAX: usize = 100;

/// Names that say nothing about what is in a file.
const EMPTY_FILE_NAMES: [&str; 7] =
    ["util", "utils", "helper", "helpers", "manager", "misc", "stuff"];

/// Words that admit something unfinished, in lower case.
const UNFINISHED_WORDS: [&str; 7] =
    ["todo", "fixme", "xxx", "for now", "placeholder", "dummy", "unimplemented"];

/// Complaints about the size of a file of code and of its lines.
pub fn check_size(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let count = text.lines().count();
    if count > FILE_LINES_MAX {
        complaints.push(format!("{count} lines, more than {FILE_LINES_MAX}"));
    }
    for (number, line) in text.lines().enumerate() {
        let columns = line.chars().count();
        // A link cannot be broken.
        if columns > LINE_COLUMNS_MAX && !line.contains("://") {
            complaints.push(format!("{}: {columns} columns", number + 1));
        }
    }
    complaints
}

/// Complaints about how a Rust file begins.
pub fn check_opening(text: &str) -> Vec<String> {
    match text.starts_with("//! ") {
        true => Vec::new(),
        false => vec!["1: the file does not open with what it is (`//! `)".to_owned()],
    }
}

/// Complaints about words that admit something unfinished.
pub fn check_words(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.to_lowercase();
        for word in UNFINISHED_WORDS {
            if has_word(&line, word) {
                complaints.push(format!("{}: the word {word:?}", number + 1));
            }
        }
    }
    complaints
}

/// Whether `word` stands in `line` with no letter, digit or underscore next to it.
fn has_word(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        !before.is_some_and(part_of_word) && !after.is_some_and(part_of_word)
    })
}

/// Complaints about tests that cannot hold what they promise: switched off, or with names that do
/// not say what holds.
pub fn check_tests(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.starts_with("#[ignore") {
            complaints.push(format!("{}: a test that is switched off", number + 1));
        }
        if line.starts_with("#[should_panic") {
            complaints.push(format!("{}: a test that passes for any panic", number + 1));
        }
        if function_name(line).is_some_and(|name| name.starts_with("test_")) {
            complaints.push(format!("{}: a name that begins with `test_`", number + 1));
        }
    }
    complaints
}

/// Complaints about the name of a file, without its extension.
pub fn check_file_name(stem: &str) -> Vec<String> {
    match EMPTY_FILE_NAMES.contains(&stem) {
        true => vec![format!("the name {stem:?} says nothing about what is in it")],
        false => Vec::new(),
    }
}

/// The functions of a formatted Rust file that are longer than `lines_max`, with their first
/// lines' numbers and their lengths.
pub fn long_functions(text: &str, lines_max: usize) -> Vec<(usize, String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut long = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line.trim_start()) else { continue };
        let indent = line.len() - line.trim_start().len();
        let closing = format!("{}}}", " ".repeat(indent));
        // A formatted function ends with a brace in the column where it began; a declaration
        // without a body ends with a semicolon before that.
        let end = lines[start..].iter().position(|line| **line == closing);
        let declared = lines[start..].iter().position(|line| line.ends_with(';'));
        let opened = lines[start..].iter().position(|line| line.ends_with('{'));
        let has_body = match (opened, declared) {
            (Some(opened), Some(declared)) => opened <= declared,
            (opened, _) => opened.is_some(),
        };
        if let Some(end) = end
            && has_body
            && end + 1 > lines_max
        {
            long.push((start + 1, name.to_owned(), end + 1));
        }
    }
    long
}

/// The name of the function whose definition begins on this line, if one does.
fn function_name(line: &str) -> Option<&str> {
    let mut rest = line;
    if let Some(public) = rest.strip_prefix("pub") {
        rest = match public.strip_prefix('(') {
            Some(scope) => scope.split_once(')')?.1.trim_start(),
            None => public.strip_prefix(' ')?,
        };
    }
    for word in ["const ", "async ", "unsafe ", "extern \"C\" "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let rest = rest.strip_prefix("fn ")?;
    rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().filter(|name| !name.is_empty())
}

/// The lines of a Markdown text outside its code blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        (!in_code && !fence).then_some((number + 1, line))
    })
}

/// Complaints about the title of a Markdown page.
pub fn check_title(text: &str) -> Vec<String> {
    let titles: Vec<usize> =
        prose(text).filter(|(_, line)| line.starts_with("# ")).map(|(number, _)| number).collect();
    match titles[..] {
        [1] => Vec::new(),
        [] => vec!["1: the page has no title".to_owned()],
        [first] => vec![format!("{first}: the title is not on the first line")],
        [_, second, ..] => vec![format!("{second}: a second title")],
    }
}

/// The targets of a Markdown page's links to files of the tree, with their lines' numbers and
/// without what follows a `#`.
pub fn links(text: &str) -> Vec<(usize, String)> {
    let mut targets = Vec::new();
    for (number, line) in prose(text) {
        for part in line.split("](").skip(1) {
            let Some((target, _)) = part.split_once(')') else { continue };
            let target = target.split('#').next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                targets.push((number, target.to_owned()));
            }
        }
    }
    targets
}

/// The rows of the first table that follows the line `after` of a Markdown page, as cells. Its
/// head and the line under it are left out.
pub fn table_after(text: &str, after: &str) -> Vec<Vec<String>> {
    let lines = text.lines().skip_while(|line| line.trim() != after).skip(1);
    let table = lines.skip_while(|line| !line.starts_with('|'));
    let rows = table.take_while(|line| line.starts_with('|')).skip(2);
    let cells = |row: &str| {
        let row = row.trim().trim_matches('|');
        row.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    rows.map(cells).collect()
}

/// What stands between backticks.
pub fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_held() {
        let line = |columns: usize| "é".repeat(columns);
        assert!(check_size(&line(100)).is_empty());
        assert_eq!(check_size(&line(101)), ["1: 101 columns"]);
        assert!(check_size(&format!("// https://{}", line(100))).is_empty());
        assert!(check_size(&"x\n".repeat(1_000)).is_empty());
        assert_eq!(check_size(&"x\n".repeat(1_001)).len(), 1);
    }

    #[test]
    fn a_file_says_what_it_is() {
        assert!(check_opening("//! A file.\n").is_empty());
        assert_eq!(check_opening("use std::io;\n//! Late.\n").len(), 1);
        assert_eq!(check_opening("").len(), 1);
    }

    #[test]
    fn unfinished_words_are_found_as_words() {
        for text in ["// TODO: x", "a todo!()", "for now, x", "a PlaceHolder.", "fixme"] {
            assert_eq!(check_words(text).len(), 1, "{text}");
        }
        for text in ["todos_left", "for nowhere", "xxxx", "mastodon", "0xXXXX"] {
            assert!(check_words(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn tests_that_hold_nothing_are_found() {
        for text in ["#[ignore]", "  #[ignore = \"slow\"]", "#[should_panic]", "fn test_it() {"] {
            assert_eq!(check_tests(text).len(), 1, "{text}");
        }
        assert!(check_tests("fn it_holds() {}\nfn tests() {}\n").is_empty());
    }

    #[test]
    fn file_names_say_something() {
        assert_eq!(check_file_name("utils").len(), 1);
        assert!(check_file_name("placement").is_empty());
    }

    #[test]
    fn functions_are_measured_from_signature_to_brace() {
        let body = "    x;\n".repeat(3);
        let text = format!("pub(crate) async fn long(\n    a: u8,\n) -> u8 {{\n{body}}}\n");
        assert_eq!(long_functions(&text, 6), [(1, "long".to_owned(), 7)]);
        assert!(long_functions(&text, 7).is_empty());
        let declared = "trait T {\n    fn short(&self);\n    fn next(&self) {\n    }\n}\n";
        assert!(long_functions(declared, 2).is_empty());
        assert!(long_functions("    // fn in a comment\n", 0).is_empty());
    }

    #[test]
    fn pages_have_one_title_on_top() {
        assert!(check_title("# One\n\n## Two\n```\n# code\n```\n").is_empty());
        assert_eq!(check_title("# One\n# Two\n"), ["2: a second title"]);
        assert_eq!(check_title("\n# One\n").len(), 1);
        assert_eq!(check_title("text\n").len(), 1);
    }

    #[test]
    fn links_into_the_tree_are_found() {
        let text = "[a](docs/a.md#part) and [b](https://x.y) [c](#here)\n![d](d.svg)\n";
        assert_eq!(links(text), [(1, "docs/a.md".to_owned()), (2, "d.svg".to_owned())]);
    }

    #[test]
    fn tables_are_read_by_the_line_above_them() {
        let text = "## One\n| a | b |\n|---|---|\n| `x` | `y`, `z` |\n| w | – |\n\n| no |\n";
        let rows = table_after(text, "## One");
        assert_eq!(rows, [vec!["`x`", "`y`, `z`"], vec!["w", "–"]]);
        assert_eq!(quoted(&rows[0][1]), ["y", "z"]);
        assert!(table_after(text, "## Two").is_empty());
    }
}
