//! Reads the values of settings from text: sizes, durations, lists, members.
//!
//! Units are part of a value, and exact: `10gbb`, `1 gib` or a bare `50` where a duration is meant
//! are refused rather than guessed. Each function returns a reason that ends up in an error next
//! to the setting's name, so the reasons say what would have been right.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use shards::ids::NodeId;

/// Why a text is not the value of a setting.
pub type Reason = String;

/// Units of sizes and their number of bytes.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Units of durations and their number of microseconds.
const DURATION_UNITS: [(&str, u64); 5] =
    [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000)];

/// The number of digits and the unit after it. Only ASCII digits count, without sign or space.
fn number_and_unit(text: &str) -> Result<(u64, &str), Reason> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err("it does not start with a number".into());
    }
    let number = number.parse().map_err(|_| Reason::from("the number is too large"))?;
    Ok((number, unit))
}

/// A size in bytes: `65536`, `512MiB`, `10GB`.
pub fn size(text: &str) -> Result<u64, Reason> {
    let (number, unit) = number_and_unit(text)?;
    let factor = match SIZE_UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => *factor,
        None if unit.is_empty() => 1,
        None => {
            return Err(format!(
                "{unit:?} is not a unit of size: use B, KiB, MiB, GiB, TiB, KB, MB, GB or TB"
            ));
        }
    };
    number.checked_mul(factor).ok_or_else(|| "the size is too large".into())
}

/// A duration: `50ms`, `2s`. The unit is not optional, because its absence is how milliseconds
/// turn into seconds.
pub fn duration(text: &str) -> Result<Duration, Reason> {
    let (number, unit) = number_and_unit(text)?;
    let Some((_, factor)) = DURATION_UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("a duration needs one of the units us, ms, s, m, h, not {unit:?}"));
    };
    let micros = number.checked_mul(*factor).ok_or("the duration is too long")?;
    Ok(Duration::from_micros(micros))
}

/// A whole number between two limits, both allowed.
pub fn integer(text: &str, least: u64, most: u64) -> Result<u64, Reason> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("it must be a whole number between {least} and {most}"));
    }
    match text.parse::<u64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("it must lie between {least} and {most}")),
    }
}

/// `true` or `false`.
pub fn truth(text: &str) -> Result<bool, Reason> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("it must be true or false".into()),
    }
}

/// One of several words.
pub fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, Reason> {
    let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        format!("it must be one of {}", names.join(", "))
    })
}

/// A list of CPU numbers and ranges of them, each number once: `0,2,4-7`.
pub fn cpus(text: &str) -> Result<Vec<usize>, Reason> {
    /// Above what the kernel's affinity masks hold, and a bound for what a range may expand to.
    const CPU_MAX: u64 = 4_095;
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (integer(first, 0, CPU_MAX)?, integer(last, 0, CPU_MAX)?);
        if first > last {
            return Err(format!("the range {part} runs backwards"));
        }
        for cpu in first..=last {
            let cpu = cpu as usize;
            if all.contains(&cpu) {
                return Err(format!("CPU {cpu} is listed twice"));
            }
            all.push(cpu);
        }
    }
    Ok(all)
}

/// An IP address. Names are refused: what they resolve to may change between two nodes' starts.
pub fn address(text: &str) -> Result<IpAddr, Reason> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| format!("{text:?} is not an IPv4 or IPv6 address"))
}

/// The members of a cluster: `1=10.0.0.1,2=10.0.0.2`.
pub fn members(text: &str) -> Result<BTreeMap<NodeId, IpAddr>, Reason> {
    /// Every core keeps a link to every core of the other members; more than this wants another
    /// topology.
    const MEMBERS_MAX: usize = 64;
    let mut all = BTreeMap::new();
    for part in text.split(',') {
        let Some((node, host)) = part.split_once('=') else {
            return Err(format!("{part:?} is not of the form NODE=ADDRESS"));
        };
        let node = integer(node, 1, u64::from(u16::MAX))
            .map_err(|reason| format!("the node id {node:?} is not right: {reason}"))?;
        let host = address(host)?;
        if host.is_unspecified() || host.is_multicast() {
            return Err(format!("{host} is not the address of one machine"));
        }
        if let Some((other, _)) = all.iter().find(|(_, taken)| **taken == host) {
            return Err(format!("{host} is listed for node {other} and for node {node}"));
        }
        if all.insert(NodeId(node as u16), host).is_some() {
            return Err(format!("node {node} is listed twice"));
        }
    }
    if all.len() > MEMBERS_MAX {
        return Err(format!("a cluster has at most {MEMBERS_MAX} members, not {}", all.len()));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_exact_units() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65_536),
            ("1B", 1),
            ("1KiB", 1_024),
            ("3MB", 3_000_000),
            ("1GiB", 1 << 30),
            ("16777215TiB", 16_777_215 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "GiB",
            "10gbb",
            "1gib",
            "1 GiB",
            "-1",
            "+1",
            "1.5GiB",
            "1GiBB",
            "0x10",
            "16777216TiB",
            "18446744073709551616",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("7us"), Ok(Duration::from_micros(7)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3_600)));
        for text in ["", "50", "ms", "50 ms", "50msec", "2S", "-1s", "1.5s", "99999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn integers_keep_to_their_limits() {
        assert_eq!(integer("1", 1, 3), Ok(1));
        assert_eq!(integer("3", 1, 3), Ok(3));
        for text in ["0", "4", "", "+2", "-1", "2 ", "two", "99999999999999999999"] {
            assert!(integer(text, 1, 3).is_err(), "{text}");
        }
    }

    #[test]
    fn cpu_lists_take_numbers_and_ranges_once() {
        assert_eq!(cpus("0"), Ok(vec![0]));
        assert_eq!(cpus("4,0-2"), Ok(vec![4, 0, 1, 2]));
        for text in ["", ",", "0,", "0,0", "0-2,1", "3-1", "a", "0-", "-1", "4096", "0-99999999"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn members_take_both_address_families() {
        let three = members("1=127.0.0.1,3=[::1],2=fd00::7").expect("valid members");
        assert_eq!(three.len(), 3);
        assert_eq!(three[&NodeId(3)], "::1".parse::<IpAddr>().expect("an address"));
        for text in [
            "",
            "127.0.0.1",
            "0=127.0.0.1",
            "65536=127.0.0.1",
            "1=127.0.0.1,1=127.0.0.2",
            "1=127.0.0.1,2=127.0.0.1",
            "1=localhost",
            "1=127.0.0.1:7400",
            "1=0.0.0.0",
            "1=[::1",
            "1=127.0.0.1,",
        ] {
            assert!(members(text).is_err(), "{text}");
        }
    }
}
