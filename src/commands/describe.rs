//! COMMAND: the table of commands, told to clients.

use proto::resp::request::Arguments;
use proto::resp::{Version, encode};

use crate::commands::table::{self, COMMANDS, CommandSpec, FAST, KeyPositions, WRITE};
use crate::commands::{Execution, errors};

/// COMMAND
pub(super) fn command(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    execution.answer(|out, version| {
        encode::array(out, COMMANDS.len());
        for spec in COMMANDS {
            describe(out, version, None, spec);
        }
    });
}

/// COMMAND COUNT
pub(super) fn count(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    execution.answer(|out, _| encode::integer(out, COMMANDS.len() as i64));
}

/// COMMAND LIST
pub(super) fn list(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    if arguments.len() > 2 {
        return execution.error(errors::SYNTAX);
    }
    execution.answer(|out, version| {
        encode::set(out, version, COMMANDS.len());
        for spec in COMMANDS {
            encode::bulk(out, spec.name.as_bytes());
        }
    });
}

/// A command or a subcommand by its name, which is `container|subcommand` for the latter.
fn find(name: &[u8]) -> Option<(Option<&'static CommandSpec>, &'static CommandSpec)> {
    match name.iter().position(|&byte| byte == b'|') {
        None => Some((None, table::find(name)?)),
        Some(bar) => {
            let container = table::find(name.get(..bar)?)?;
            Some((Some(container), container.find_subcommand(name.get(bar + 1..)?)?))
        }
    }
}

/// COMMAND INFO \[name ...\]
pub(super) fn info(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let names = arguments.from(2);
    if names.is_empty() {
        return command(execution, arguments);
    }
    execution.answer(|out, version| {
        encode::array(out, names.len());
        for name in names.iter() {
            match find(name) {
                Some((container, spec)) => describe(out, version, container, spec),
                None => encode::nil_array(out, version),
            }
        }
    });
}

fn full_name(container: Option<&CommandSpec>, spec: &CommandSpec) -> String {
    match container {
        Some(container) => format!("{}|{}", container.name, spec.name),
        None => spec.name.to_owned(),
    }
}

/// One entry of COMMAND: ten fields as since Redis 7.
fn describe(
    out: &mut Vec<u8>,
    version: Version,
    container: Option<&CommandSpec>,
    spec: &CommandSpec,
) {
    encode::array(out, 10);
    encode::bulk(out, full_name(container, spec).as_bytes());
    encode::integer(out, i64::from(spec.arity));
    encode::set(out, version, spec.flags.names().count());
    for name in spec.flags.names() {
        encode::simple(out, name);
    }
    encode::integer(out, i64::from(spec.keys.first));
    encode::integer(out, i64::from(spec.keys.last));
    encode::integer(out, i64::from(spec.keys.step));
    let categories = categories(spec);
    encode::set(out, version, categories.len());
    for category in categories {
        encode::simple(out, &category);
    }
    encode::array(out, 0);
    if spec.keys.first == 0 {
        encode::array(out, 0);
    } else {
        encode::array(out, 1);
        describe_keys(out, version, spec);
    }
    encode::array(out, spec.subcommands.len());
    for subcommand in spec.subcommands {
        describe(out, version, Some(spec), subcommand);
    }
}

fn categories(spec: &CommandSpec) -> Vec<String> {
    let mut categories = Vec::new();
    if spec.keys.first > 0 {
        categories.push("@keyspace".to_owned());
        categories.push(if spec.flags.has(WRITE) { "@write" } else { "@read" }.to_owned());
    }
    categories.push(format!("@{}", spec.group.name()));
    categories.push(if spec.flags.has(FAST) { "@fast" } else { "@slow" }.to_owned());
    categories
}

/// A key specification: from which argument on, and how many.
fn describe_keys(out: &mut Vec<u8>, version: Version, spec: &CommandSpec) {
    let KeyPositions { first, last, step } = spec.keys;
    let flags: &[&str] = if spec.flags.has(WRITE) { &["RW", "update"] } else { &["RO", "access"] };
    encode::map(out, version, 3);
    encode::bulk(out, b"flags");
    encode::set(out, version, flags.len());
    for flag in flags {
        encode::simple(out, flag);
    }
    let mut search = |name: &str, kind: &str, fields: &[(&str, i64)]| {
        encode::bulk(out, name.as_bytes());
        encode::map(out, version, 2);
        encode::bulk(out, b"type");
        encode::bulk(out, kind.as_bytes());
        encode::bulk(out, b"spec");
        encode::map(out, version, fields.len());
        for (field, number) in fields {
            encode::bulk(out, field.as_bytes());
            encode::integer(out, *number);
        }
    };
    search("begin_search", "index", &[("index", i64::from(first))]);
    // The last key counts from the first one here.
    let last = if last >= 0 { last - first } else { last };
    let range = [("lastkey", i64::from(last)), ("keystep", i64::from(step)), ("limit", 0)];
    search("find_keys", "range", &range);
}

/// COMMAND DOCS \[name ...\]
pub(super) fn docs(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let names = arguments.from(2);
    let found: Vec<_> = if names.is_empty() {
        COMMANDS.iter().map(|spec| (None, spec)).collect()
    } else {
        names.iter().filter_map(find).collect()
    };
    execution.answer(|out, version| {
        encode::map(out, version, found.len());
        for (container, spec) in found {
            document(out, version, container, spec);
        }
    });
}

fn document(
    out: &mut Vec<u8>,
    version: Version,
    container: Option<&CommandSpec>,
    spec: &CommandSpec,
) {
    encode::bulk(out, full_name(container, spec).as_bytes());
    encode::map(out, version, 3 + usize::from(!spec.subcommands.is_empty()));
    for (key, value) in
        [("summary", spec.summary), ("since", spec.since), ("group", spec.group.name())]
    {
        encode::bulk(out, key.as_bytes());
        encode::bulk(out, value.as_bytes());
    }
    if !spec.subcommands.is_empty() {
        encode::bulk(out, b"subcommands");
        encode::map(out, version, spec.subcommands.len());
        for subcommand in spec.subcommands {
            document(out, version, Some(spec), subcommand);
        }
    }
}

/// COMMAND GETKEYS command \[argument ...\]
pub(super) fn get_keys(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    match keys_of(arguments.from(2)) {
        Err(text) => execution.error(text),
        Ok((_, keys)) => execution.answer(|out, _| {
            encode::array(out, keys.len());
            for key in keys {
                encode::bulk(out, key);
            }
        }),
    }
}

/// COMMAND GETKEYSANDFLAGS command \[argument ...\]
pub(super) fn get_keys_and_flags(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    match keys_of(arguments.from(2)) {
        Err(text) => execution.error(text),
        Ok((spec, keys)) => execution.answer(|out, version| {
            let flags: &[&str] =
                if spec.flags.has(WRITE) { &["RW", "update"] } else { &["RO", "access"] };
            encode::array(out, keys.len());
            for key in keys {
                encode::array(out, 2);
                encode::bulk(out, key);
                encode::set(out, version, flags.len());
                for flag in flags {
                    encode::simple(out, flag);
                }
            }
        }),
    }
}

fn keys_of<'a>(
    command: Arguments<'a>,
) -> Result<(&'static CommandSpec, Vec<&'a [u8]>), &'static str> {
    let spec = table::find(command.at(0)).ok_or("ERR Invalid command specified")?;
    let spec = command.get(1).and_then(|name| spec.find_subcommand(name)).unwrap_or(spec);
    if spec.keys.first == 0 {
        return Err("ERR The command has no key arguments");
    }
    if !spec.accepts(command.len()) {
        return Err("ERR Invalid number of arguments specified for command");
    }
    let KeyPositions { first, last, step } = spec.keys;
    let first = usize::from(first.unsigned_abs());
    let back = usize::from(last.unsigned_abs());
    let last = if last < 0 { command.len().saturating_sub(back) } else { back };
    let count = (last + 1).saturating_sub(first);
    Ok((
        spec,
        command.iter().skip(first).take(count).step_by(usize::from(step.unsigned_abs())).collect(),
    ))
}

/// COMMAND HELP
pub(super) fn help(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    execution.help("COMMAND");
}

impl Execution<'_, '_> {
    /// Answers with what the subcommands of `container` do.
    pub(super) fn help(&mut self, container: &str) {
        let subcommands =
            table::find(container.as_bytes()).map(|spec| spec.subcommands).unwrap_or_default();
        self.answer(|out, _| {
            encode::array(out, 1 + 2 * subcommands.len());
            encode::simple(
                out,
                &format!("{container} <subcommand> [<arg> [value] ...]. Subcommands are:"),
            );
            for spec in subcommands {
                encode::simple(out, &spec.name.to_ascii_uppercase());
                encode::simple(out, &format!("    {}", spec.summary));
            }
        });
    }
}
