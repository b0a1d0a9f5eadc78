//! Numbers with units, as a person types them. A unit that is not known is refused, because a
//! silently ignored `10gb` is a wrong measurement.

use std::time::Duration;

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

/// Bytes: a whole number, alone or with `B`, `KiB`, `MiB`, `GiB`.
///
/// # Errors
/// Says what is wrong with the text.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(format!("`{unit}` in `{text}` is none of B, KiB, MiB, GiB")),
    };
    let number: u64 =
        number.parse().map_err(|_| format!("`{text}` does not start with a whole number"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is too large"))
}

/// A span of time: a number with `ms`, `s`, `m` or `h`; seconds if it stands alone.
///
/// # Errors
/// Says what is wrong with the text.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{unit}` in `{text}` is none of ms, s, m, h")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("`{text}` does not start with a number"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| format!("`{text}` is too long"))
}

/// A latency: a number above 0 with `ns`, `us`, `ms` or `s`.
///
/// # Errors
/// Says what is wrong with the text.
pub fn latency(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let nanoseconds = match unit {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => return Err(format!("`{unit}` in `{text}` is none of ns, us, ms, s")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("`{text}` does not start with a number"))?;
    let latency_ns = (number * nanoseconds).round();
    if (1.0..=6e11).contains(&latency_ns) {
        Ok(Duration::from_nanos(latency_ns as u64))
    } else {
        Err(format!("`{text}` does not lie between 1ns and ten minutes"))
    }
}

/// A count: a number, alone or with `k`, `M`, `G`; it must come out whole.
///
/// # Errors
/// Says what is wrong with the text.
pub fn count(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        _ => return Err(format!("`{unit}` in `{text}` is none of k, M, G")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("`{text}` does not start with a number"))?;
    let product = (number * factor).round();
    if (product - number * factor).abs() > 1e-6 || product > 1e15 {
        return Err(format!("`{text}` is not a whole number up to 10^15"));
    }
    Ok(product as u64)
}

/// A rate per second: a positive number, alone or with `k` or `M`.
///
/// # Errors
/// Says what is wrong with the text.
pub fn rate(text: &str) -> Result<f64, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        _ => return Err(format!("`{unit}` in `{text}` is none of k, M")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("`{text}` does not start with a number"))?;
    let rate = number * factor;
    if rate > 0.0 && rate <= 1e9 {
        Ok(rate)
    } else {
        Err(format!("`{text}` does not lie above 0 and up to 10^9 per second"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(bytes("64B"), Ok(64));
        assert_eq!(bytes("3MiB"), Ok(3 << 20));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(count("1.5M"), Ok(1_500_000));
        assert_eq!(count("12"), Ok(12));
        assert_eq!(rate("2.5k"), Ok(2500.0));
        assert_eq!(rate("0.5"), Ok(0.5));
        assert_eq!(latency("1.5ms"), Ok(Duration::from_micros(1500)));
        assert_eq!(latency("250us"), latency("250µs"));
    }

    #[test]
    fn typing_errors_are_refused() {
        for wrong in
            ["", "b", "10gb", "10gbb", "1KB", "1kib", "-1", "1.5KiB", "1 B", "99999999999GiB"]
        {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "s", "10sec", "-1s", "1d", "5 s", "1.2.3", "99999999999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "1", "ms", "0ms", "-1ms", "1m", "601s", "1.2.3s"] {
            assert!(latency(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "k", "10K", "1m", "0.5", "-3", "1e9", "9999999G"] {
            assert!(count(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "0", "-1", "fast", "1kops", "2000M"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
