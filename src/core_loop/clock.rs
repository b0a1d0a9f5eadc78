//! The clocks of a core.
//!
//! Read once per turn and once per batch of input, never per request.

use shards::contract::Now;
use shards::ids::{Millis, Nanos};

/// Both clocks, now.
pub fn now() -> Now {
    // CLOCK_BOOTTIME goes on while the machine sleeps: a lease must not outlive a suspended host.
    let monotonic = read(libc::CLOCK_BOOTTIME);
    let wall = read(libc::CLOCK_REALTIME);
    Now { monotonic: Nanos(monotonic), wall: Millis(wall / 1_000_000) }
}

/// Nanoseconds of a clock. Before its epoch (a wall clock set before 1970) it stands at zero.
fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is valid for the call, which fills the structure.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    // Both clocks exist since Linux 2.6.39, so it cannot fail on a kernel that has io_uring.
    assert_eq!(result, 0, "clock {clock} cannot be read");
    u64::try_from(time.tv_sec).unwrap_or(0).saturating_mul(1_000_000_000)
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_monotonic_clock_never_goes_back_and_the_wall_clock_is_plausible() {
        let first = super::now();
        let second = super::now();
        assert!(second.monotonic >= first.monotonic);
        let year_2020_ms = 1_577_836_800_000;
        assert!(first.wall.0 > year_2020_ms);
    }
}
