//! What the generator itself costs: CPU time of the calling thread, and its wait for a CPU.
//!
//! A thread that uses little CPU can still be the bottleneck: on a machine that others use, too,
//! it may be ready to run and not get to. Linux counts that wait per thread; where the kernel does
//! not, it counts as none.

/// CPU time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In the program.
    pub user_ns: u64,
    /// In the kernel on its behalf.
    pub system_ns: u64,
    /// Ready to run, and waiting for a CPU.
    pub waited_ns: u64,
}

impl CpuTime {
    /// What the calling thread has used so far.
    pub fn of_thread() -> CpuTime {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the pointer is to memory of the right type that outlives the call.
        let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
        if result != 0 {
            return CpuTime::default();
        }
        // SAFETY: the call has succeeded and filled it; all zeros is a valid value anyway.
        let usage = unsafe { usage.assume_init() };
        let nanoseconds =
            |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
        CpuTime {
            user_ns: nanoseconds(usage.ru_utime),
            system_ns: nanoseconds(usage.ru_stime),
            waited_ns: waited_ns().unwrap_or(0),
        }
    }

    /// What was used between an earlier reading and this one.
    pub fn since(self, earlier: CpuTime) -> CpuTime {
        CpuTime {
            user_ns: self.user_ns.saturating_sub(earlier.user_ns),
            system_ns: self.system_ns.saturating_sub(earlier.system_ns),
            waited_ns: self.waited_ns.saturating_sub(earlier.waited_ns),
        }
    }

    /// The time it ran.
    pub fn total_ns(self) -> u64 {
        self.user_ns + self.system_ns
    }
}

/// How long the calling thread has been ready to run without running, as the scheduler says.
fn waited_ns() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    second_number(&text)
}

/// The second of a line of numbers between blanks.
fn second_number(text: &str) -> Option<u64> {
    text.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_for_a_cpu_is_the_second_number_of_the_scheduler() {
        assert_eq!(second_number("12 345 6\n"), Some(345));
        assert_eq!(second_number("12"), None);
        assert_eq!(second_number("12 x 3"), None);
    }

    #[test]
    fn work_of_this_thread_shows_and_that_of_others_does_not() {
        let before = CpuTime::of_thread();
        let spin = || {
            let mut sum = 0u64;
            while CpuTime::of_thread().total_ns() < 20_000_000 {
                sum = crate::random::mix(sum);
            }
            std::hint::black_box(sum);
        };
        std::thread::spawn(spin).join().expect("a thread");
        let others = CpuTime::of_thread().since(before);
        assert!(others.total_ns() < 20_000_000, "{others:?}");
    }
}
