//! A timer with nanoseconds in an event queue that knows only milliseconds.
//!
//! `epoll_wait` takes its timeout in milliseconds, which at 100,000 requests a second would bunch
//! a hundred of them. A timer descriptor in the same queue wakes the loop at the right time
//! without spinning, so the generator's CPU stays what its requests cost.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

/// A one-shot timer.
#[derive(Debug)]
pub struct Timer {
    descriptor: OwnedFd,
}

impl Timer {
    /// Makes a timer whose expiry is an event with `token`.
    ///
    /// # Errors
    /// If the system has no descriptor left.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Timer> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: the call takes no pointer; its result is checked before it is used.
        let descriptor = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is fresh and valid, and nobody else owns it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        registry.register(&mut SourceFd(&descriptor.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Timer { descriptor })
    }

    /// Expires once, `after_ns` from now (at least 1). An earlier setting is void.
    ///
    /// # Errors
    /// If the system refuses, which for a valid descriptor it has no reason to.
    pub fn set(&self, after_ns: u64) -> io::Result<()> {
        let after_ns = after_ns.max(1);
        let setting = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: libc::timespec {
                tv_sec: (after_ns / 1_000_000_000) as libc::time_t,
                tv_nsec: (after_ns % 1_000_000_000) as libc::c_long,
            },
        };
        // SAFETY: the descriptor is open, `setting` lives through the call, and a null pointer
        // for the old setting is allowed.
        let result = unsafe {
            libc::timerfd_settime(self.descriptor.as_raw_fd(), 0, &setting, std::ptr::null_mut())
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn it_fires_each_time_it_is_set_and_never_early() {
        let mut poll = mio::Poll::new().expect("a queue");
        let timer = Timer::new(poll.registry(), Token(7)).expect("a timer");
        let mut events = mio::Events::with_capacity(4);
        for _ in 0..3 {
            let start = Instant::now();
            timer.set(2_000_000).expect("a setting");
            poll.poll(&mut events, Some(Duration::from_secs(30))).expect("an event");
            assert!(events.iter().any(|event| event.token() == Token(7)));
            assert!(start.elapsed() >= Duration::from_millis(2));
        }
    }
}
