//! memcached's expirations: 32 bits of seconds, relative or absolute by their size.

use shards::command::Expiry;
use shards::ids::Millis;

/// Largest number that counts from now: 30 days. Anything above it is a point of the Unix clock.
const RELATIVE_SECONDS_MAX: u32 = 30 * 24 * 60 * 60;

/// The deadline that `expiration` asks for. 0 is none; a point that has passed expires at once.
pub fn expiry(expiration: u32) -> Expiry {
    let millis = Millis(u64::from(expiration) * 1_000);
    match expiration {
        0 => Expiry::Never,
        1..=RELATIVE_SECONDS_MAX => Expiry::In(millis),
        _ => Expiry::At(millis),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_days_are_the_last_relative_expiration() {
        assert_eq!(expiry(0), Expiry::Never);
        assert_eq!(expiry(1), Expiry::In(Millis(1_000)));
        assert_eq!(expiry(2_592_000), Expiry::In(Millis(2_592_000_000)));
        assert_eq!(expiry(2_592_001), Expiry::At(Millis(2_592_001_000)));
        assert_eq!(expiry(u32::MAX), Expiry::At(Millis(4_294_967_295_000)));
    }
}
