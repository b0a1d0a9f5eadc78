//! Interrupts a thread's system calls now and then, so that none lasts for ever.
//!
//! A timer of the kernel sends the thread a signal whose handler does nothing. A wait for io_uring
//! completions returns then, and its caller looks again at what there is to do. Other system calls
//! are restarted by the kernel.
//!
//! The signal is SIGURG, which nothing else here uses and which is ignored by default: one that
//! comes late, to a thread without its timer, does no harm.

use std::io;
use std::time::Duration;

/// Interrupts the thread that made it until it is dropped.
#[derive(Debug)]
pub struct Interrupts {
    timer: libc::timer_t,
}

extern "C" fn do_nothing(_signal: libc::c_int) {}

impl Interrupts {
    /// Interrupts this thread every `interval`.
    ///
    /// # Errors
    /// If the kernel gives no timer.
    pub fn start(interval: Duration) -> io::Result<Self> {
        handle_signal()?;
        // SAFETY: the structure is plain numbers and pointers, for which zeroes are valid values.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGURG;
        // SAFETY: a plain system call without arguments.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut timer = std::ptr::null_mut();
        // SAFETY: both pointers are valid for the call.
        check(unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) })?;
        let interrupts = Interrupts { timer };
        let interval = libc::timespec {
            tv_sec: interval.as_secs() as libc::time_t,
            tv_nsec: interval.subsec_nanos().into(),
        };
        let setting = libc::itimerspec { it_interval: interval, it_value: interval };
        let former = std::ptr::null_mut();
        // SAFETY: the timer is ours, and the setting is valid for the call; nothing is written.
        check(unsafe { libc::timer_settime(interrupts.timer, 0, &setting, former) })?;
        Ok(interrupts)
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        // SAFETY: the timer is ours and is not used again.
        unsafe { libc::timer_delete(self.timer) };
    }
}

/// Gives the signal a handler: one that is ignored interrupts nothing.
fn handle_signal() -> io::Result<()> {
    // SAFETY: the structure is plain numbers and a set of bits, for which zeroes are valid values.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = do_nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the action is valid for the call, and its handler may run at any time.
    check(unsafe { libc::sigaction(libc::SIGURG, &action, std::ptr::null_mut()) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_for_completions_does_not_last_for_ever() {
        let _interrupts = Interrupts::start(Duration::from_millis(5)).expect("a timer");
        let mut parameters = [0_u32; 30];
        // SAFETY: the kernel reads and writes the parameters within their 120 bytes.
        let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr()) };
        assert!(ring >= 0, "{}", io::Error::last_os_error());
        const WAIT: libc::c_uint = 1;
        // SAFETY: a wait for one completion on our ring; nothing was asked of it, so none comes.
        let waited = unsafe { libc::syscall(libc::SYS_io_uring_enter, ring, 0, 1, WAIT, 0, 0) };
        assert_eq!(waited, -1);
        assert_eq!(io::Error::last_os_error().kind(), io::ErrorKind::Interrupted);
        // SAFETY: the descriptor is ours and is not used again.
        unsafe { libc::close(ring as i32) };
    }
}
