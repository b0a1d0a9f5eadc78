//! What the generator itself costs: CPU time of the calling thread.

/// CPU time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In the program.
    pub user_ns: u64,
    /// In the kernel on its behalf.
    pub system_ns: u64,
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
        CpuTime { user_ns: nanoseconds(usage.ru_utime), system_ns: nanoseconds(usage.ru_stime) }
    }

    /// What was used between an earlier reading and this one.
    pub fn since(self, earlier: CpuTime) -> CpuTime {
        CpuTime {
            user_ns: self.user_ns.saturating_sub(earlier.user_ns),
            system_ns: self.system_ns.saturating_sub(earlier.system_ns),
        }
    }

    /// Both parts together.
    pub fn total_ns(self) -> u64 {
        self.user_ns + self.system_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
