//! The CPUs this process may run on.
//!
//! Containers and `taskset` narrow them, and a thread can only be pinned to one of these; the
//! number of CPUs of the machine says nothing about that.

/// CPUs that fit into the kernel's fixed-size mask.
const CPUS_MAX: usize = libc::CPU_SETSIZE as usize;

/// The numbers of the CPUs in this process's affinity mask, ascending. If the kernel does not say
/// (more CPUs than the mask holds), as many as the standard library counts, from 0.
pub fn available() -> Vec<usize> {
    // SAFETY: `cpu_set_t` is a plain array of integers, for which all zeroes is a valid value.
    let mut mask: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a mask of exactly the size that is passed, and lives for the call.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut mask) };
    if result != 0 {
        let count = std::thread::available_parallelism().map_or(1, |count| count.get());
        return (0..count).collect();
    }
    // SAFETY: the mask was filled in above, and every number asked for is below its size.
    (0..CPUS_MAX).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &mask) }).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn at_least_one_cpu_runs_this_test() {
        let cpus = super::available();
        assert!(!cpus.is_empty());
        assert!(cpus.is_sorted());
    }
}
