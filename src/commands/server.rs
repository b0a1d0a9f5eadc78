//! Commands on the server: its clock, its configuration, what it replicates.

use proto::resp::request::Arguments;
use proto::resp::{encode, parse_integer};
use shards::command::Operation;
use shards::contract::Durability;
use shards::ids::Eviction;

use crate::commands::render::Shape;
use crate::commands::{Execution, errors, shown};
use crate::session::context::ServerFacts;
use crate::session::replies::Aggregate;

/// TIME
pub(super) fn time(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    let wall_ms = execution.context.now.wall.0;
    execution.answer(|out, _| {
        encode::array(out, 2);
        encode::bulk(out, (wall_ms / 1_000).to_string().as_bytes());
        encode::bulk(out, (wall_ms % 1_000 * 1_000).to_string().as_bytes());
    });
}

/// WAIT replicas timeout: an acknowledged write is on a majority already, and this answer comes
/// after the acknowledgements of all earlier writes of the connection.
pub(super) fn wait(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let numbers = (parse_integer(arguments.at(1)), parse_integer(arguments.at(2)));
    match numbers {
        (Some(_), Some(timeout)) if timeout < 0 => execution.error("ERR timeout is negative"),
        (Some(_), Some(_)) => {
            let followers = execution.context.cluster.layout().placement.replication() / 2;
            execution.answer(|out, _| encode::integer(out, followers as i64));
        }
        _ => execution.error(errors::NOT_AN_INTEGER),
    }
}

/// ROLE
pub(super) fn role(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    let offset = i64::try_from(execution.context.facts.totals.applied).unwrap_or(i64::MAX);
    execution.answer(|out, _| {
        encode::array(out, 3);
        encode::bulk(out, b"master");
        encode::integer(out, offset);
        encode::array(out, 0);
    });
}

/// What CONFIG GET knows: the parameters that clients and tools ask for, under Redis' names.
fn parameters(facts: &ServerFacts) -> Vec<(&'static str, String)> {
    let on_disk = facts.durability == Durability::Fsync;
    let number = |number: u64| number.to_string();
    vec![
        ("appendfsync", "always".into()),
        ("appendonly", if on_disk { "yes" } else { "no" }.into()),
        ("cluster-allow-reads-when-down", "no".into()),
        ("cluster-enabled", "yes".into()),
        ("cluster-require-full-coverage", "no".into()),
        ("databases", "1".into()),
        ("maxclients", number(u64::from(facts.connections_max))),
        ("maxmemory", number(facts.memory_limit())),
        ("maxmemory-policy", facts.eviction_policy().into()),
        ("notify-keyspace-events", String::new()),
        ("port", number(u64::from(facts.port))),
        ("proto-max-bulk-len", number(facts.value_bytes_max as u64)),
        ("replica-read-only", "yes".into()),
        ("requirepass", String::new()),
        ("save", String::new()),
        ("slave-read-only", "yes".into()),
        ("timeout", "0".into()),
    ]
}

/// CONFIG GET pattern \[pattern ...\]
pub(super) fn config_get(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let patterns = arguments.from(2);
    let mut found = parameters(execution.context.facts);
    found.retain(|(name, _)| patterns.iter().any(|pattern| matches_glob(pattern, name.as_bytes())));
    execution.answer(|out, version| {
        encode::map(out, version, found.len());
        for (name, value) in found {
            encode::bulk(out, name.as_bytes());
            encode::bulk(out, value.as_bytes());
        }
    });
}

/// CONFIG SET parameter value \[parameter value ...\]: `maxmemory` and `maxmemory-policy` can be
/// set, for every node of the cluster alike, and nothing else.
pub(super) fn config_set(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let (mut bytes_max, mut eviction) = (None, None);
    for place in (2..arguments.len()).step_by(2) {
        let Some(value) = arguments.get(place + 1) else {
            return execution.error("ERR wrong number of arguments for 'config|set' command");
        };
        match parameter(execution, arguments.at(place), value) {
            Ok(Parameter::BytesMax(bytes)) => bytes_max = Some(bytes),
            Ok(Parameter::Eviction(policy)) => eviction = Some(policy),
            Err(error) => return execution.error(&error),
        }
    }
    let operation = Operation::Limit { bytes_max, eviction };
    execution.request_all_shards(Shape::Ok, Aggregate::AllOk, operation);
}

/// What CONFIG SET can change.
enum Parameter {
    /// Bytes per shard.
    BytesMax(u64),
    Eviction(Eviction),
}

/// What a parameter of CONFIG SET asks for.
fn parameter(
    execution: &Execution<'_, '_>,
    name: &[u8],
    value: &[u8],
) -> Result<Parameter, String> {
    let facts = execution.context.facts;
    let failed = |name: &[u8], reason: &str| {
        let name = shown(name, 128);
        let intro = "ERR CONFIG SET failed (possibly related to argument";
        Err(format!("{intro} '{name}') - {reason}"))
    };
    if name.eq_ignore_ascii_case(b"maxmemory-policy") {
        return match value.to_ascii_lowercase().as_slice() {
            b"allkeys-lru" => Ok(Parameter::Eviction(Eviction::Lru)),
            b"allkeys-sieve" => Ok(Parameter::Eviction(Eviction::Sieve)),
            _ => failed(name, "argument must be one of the following: allkeys-lru, allkeys-sieve"),
        };
    }
    if !name.eq_ignore_ascii_case(b"maxmemory") {
        let is_known =
            parameters(facts).iter().any(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()));
        return match is_known {
            true => failed(name, "can't set immutable config"),
            false => {
                let name = shown(name, 128);
                Err(format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'"))
            }
        };
    }
    let Some(bytes) = parse_memory(value) else {
        return failed(name, "argument must be a memory value");
    };
    let placement = &execution.context.cluster.layout().placement;
    let per_shard = bytes / placement.replicas_per_node_max();
    if per_shard < 2 * facts.value_bytes_max as u64 {
        let reason = format!(
            "it leaves {per_shard} bytes for a shard, and two values of the longest allowed length \
             must fit"
        );
        return failed(name, &reason);
    }
    Ok(Parameter::BytesMax(per_shard))
}

/// A size as Redis writes it: `100mb` are 100 times 2^20 bytes, `100m` 100 times 10^6.
fn parse_memory(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = std::str::from_utf8(number).ok()?.parse().ok()?;
    let factor = match unit.to_ascii_lowercase().as_slice() {
        b"" | b"b" => 1,
        b"k" => 1_000,
        b"kb" => 1 << 10,
        b"m" => 1_000_000,
        b"mb" => 1 << 20,
        b"g" => 1_000_000_000,
        b"gb" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// CONFIG HELP
pub(super) fn config_help(execution: &mut Execution<'_, '_>, _: Arguments<'_>) {
    execution.help("CONFIG");
}

/// Whether `text` matches the glob `pattern` without regard to case: `*`, `?`, and anything else
/// literally. It backtracks to the last star only, so it takes at most the product of both lengths.
fn matches_glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at_pattern, mut at_text) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(at_text) {
        match pattern.get(at_pattern) {
            Some(b'*') => {
                last_star = Some((at_pattern, at_text));
                at_pattern += 1;
            }
            Some(&wanted) if wanted == b'?' || wanted.eq_ignore_ascii_case(&byte) => {
                at_pattern += 1;
                at_text += 1;
            }
            _ => {
                let Some((star, covered)) = last_star else { return false };
                last_star = Some((star, covered + 1));
                (at_pattern, at_text) = (star + 1, covered + 1);
            }
        }
    }
    pattern.get(at_pattern..).unwrap_or_default().iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_in_redis() {
        for (pattern, text, matches) in [
            ("*", "save", true),
            ("save", "save", true),
            ("SAVE", "save", true),
            ("sav", "save", false),
            ("save*", "save", true),
            ("maxmemory*", "maxmemory-policy", true),
            ("*memory*", "maxmemory-policy", true),
            ("*-*-*-*", "cluster-require-full-coverage", true),
            ("*-*-*-*-*", "cluster-require-full-coverage", false),
            ("s?ve", "save", true),
            ("?", "", false),
            ("", "", true),
            ("**", "", true),
        ] {
            assert_eq!(matches_glob(pattern.as_bytes(), text.as_bytes()), matches, "{pattern}");
        }
        let (pattern, text) = ("*a".repeat(1_000), "a".repeat(999));
        assert!(!matches_glob(pattern.as_bytes(), text.as_bytes()));
    }
}
