//! What must hold before the server runs, each with one line that says what is wrong and how to
//! put it right.
//!
//! The checks run on the main thread before any executor exists, so that a missing permission is
//! told as such and not as a panic from within a runtime. They change only what the process may
//! change for itself: its soft limits.

use std::ffi::CStr;
use std::io;
use std::net::SocketAddr;

use crate::disk::recovery::RecoveryError;

/// Locked memory an executor insists on, in bytes.
const LOCKED_MEMORY_BYTES_MIN: u64 = 512 << 10;
/// The oldest kernel whose io_uring has what is used, as (major, minor).
const KERNEL_MIN: (u32, u32) = (5, 8);
/// Descriptors a core needs beyond its clients: rings, listeners, event descriptors, peers.
const DESCRIPTORS_PER_CORE: u64 = 64;
/// Descriptors the process needs beyond its cores: the control port, logs, files.
const DESCRIPTORS_RESERVED: u64 = 64;

/// Why the server does not start. Each is one line with its remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// The kernel is older than [`KERNEL_MIN`].
    #[error(
        "kernel {release} is too old: io_uring as needed here came with Linux {}.{}; \
         run a newer kernel",
        KERNEL_MIN.0, KERNEL_MIN.1
    )]
    KernelTooOld {
        /// What the kernel calls itself.
        release: String,
    },
    /// The kernel was built without io_uring.
    #[error("this kernel has no io_uring (ENOSYS): run a kernel built with CONFIG_IO_URING=y")]
    NoIoUring,
    /// io_uring is there, but not for this process.
    #[error("io_uring is not permitted (EPERM): {remedy}")]
    IoUringDenied {
        /// What forbids it, and what to do.
        remedy: &'static str,
    },
    /// io_uring failed in another way.
    #[error("io_uring does not work here: {0}")]
    IoUring(io::Error),
    /// RLIMIT_MEMLOCK is too small.
    #[error(
        "only {have} bytes of memory may be locked and io_uring needs {LOCKED_MEMORY_BYTES_MIN}: \
         raise `ulimit -l`, set LimitMEMLOCK=infinity in the systemd unit, or run the container \
         with --ulimit memlock=-1"
    )]
    LockedMemory {
        /// The hard limit, in bytes.
        have: u64,
    },
    /// RLIMIT_NOFILE leaves no room for clients.
    #[error(
        "only {have} files may be open and the server needs {need} before its first client: \
         raise `ulimit -n` or set LimitNOFILE=65536 in the systemd unit"
    )]
    OpenFiles {
        /// The hard limit.
        have: u64,
        /// What is needed.
        need: u64,
    },
    /// Somebody else listens there.
    #[error("{address} is in use by another process: stop it, or choose another port with {flag}")]
    AddressInUse {
        /// Where.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
    },
    /// The address cannot be bound for another reason.
    #[error("cannot listen on {address}: {source}; {flag} chooses another address")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Logs(#[from] RecoveryError),
    /// The kernel gives no random numbers.
    #[error("the kernel gives no random numbers: {0}")]
    Randomness(io::Error),
}

impl StartupError {
    /// The error of binding `address`, which `flag` changes.
    pub fn listening(address: SocketAddr, flag: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => StartupError::AddressInUse { address, flag },
            _ => StartupError::Listen { address, flag, source },
        }
    }
}

/// What the process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Client connections there are descriptors for, at most those asked for.
    pub connections: usize,
}

/// Checks the kernel and the limits of the process, and raises the soft limits to the hard ones.
///
/// # Errors
/// The first thing that is missing.
pub fn check_host(cores: u16, connections: usize) -> Result<Allowance, StartupError> {
    check_kernel(&kernel_release())?;
    let (_, locked) = raise_limit(libc::RLIMIT_MEMLOCK);
    if locked < LOCKED_MEMORY_BYTES_MIN {
        return Err(StartupError::LockedMemory { have: locked });
    }
    check_io_uring()?;
    let (_, files) = raise_limit(libc::RLIMIT_NOFILE);
    allow_connections(files, cores, connections)
}

fn allow_connections(
    files: u64,
    cores: u16,
    connections: usize,
) -> Result<Allowance, StartupError> {
    let own = DESCRIPTORS_RESERVED + DESCRIPTORS_PER_CORE * u64::from(cores);
    if files <= own {
        return Err(StartupError::OpenFiles { have: files, need: own + 1 });
    }
    let room = usize::try_from(files - own).unwrap_or(usize::MAX);
    if room < connections {
        tracing::warn!(
            wanted = connections,
            allowed = room,
            "`ulimit -n` leaves room for fewer connections than configured"
        );
    }
    Ok(Allowance { connections: connections.min(room) })
}

/// Eight bytes of the kernel's randomness.
///
/// # Errors
/// If there is none.
pub fn random() -> Result<u64, StartupError> {
    let mut bytes = [0_u8; 8];
    // SAFETY: the pointer and the length describe `bytes`, which outlives the call.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if count == bytes.len() as isize {
        Ok(u64::from_ne_bytes(bytes))
    } else {
        Err(StartupError::Randomness(io::Error::last_os_error()))
    }
}

fn kernel_release() -> String {
    // SAFETY: `utsname` is plain arrays of characters, for which zeroes are a valid value.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid for the call, which fills the structure.
    if unsafe { libc::uname(&mut name) } != 0 {
        return String::new();
    }
    // SAFETY: uname ends every field with a NUL within its array, which lives on.
    let release = unsafe { CStr::from_ptr(name.release.as_ptr()) };
    release.to_string_lossy().into_owned()
}

/// An unreadable release passes: the probe of io_uring that follows says more.
fn check_kernel(release: &str) -> Result<(), StartupError> {
    let mut parts = release.split(|character: char| !character.is_ascii_digit());
    let mut number = || parts.next().and_then(|part| part.parse::<u32>().ok());
    match (number(), number()) {
        (Some(major), Some(minor)) if (major, minor) < KERNEL_MIN => {
            Err(StartupError::KernelTooOld { release: release.to_owned() })
        }
        _ => Ok(()),
    }
}

/// Sets up the smallest ring and gives it back.
fn check_io_uring() -> Result<(), StartupError> {
    // struct io_uring_params, 120 bytes, where zero means "nothing special".
    let mut parameters = [0_u32; 30];
    // SAFETY: the kernel reads and writes the parameters within their 120 bytes during the call.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr()) };
    if ring >= 0 {
        // SAFETY: the descriptor was just made here and nobody else knows it.
        unsafe { libc::close(ring as i32) };
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(match error.raw_os_error() {
        Some(libc::ENOSYS) => StartupError::NoIoUring,
        Some(libc::EPERM | libc::EACCES) => {
            let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
            StartupError::IoUringDenied { remedy: denied_remedy(setting.ok().as_deref()) }
        }
        _ => StartupError::IoUring(error),
    })
}

fn denied_remedy(io_uring_disabled: Option<&str>) -> &'static str {
    match io_uring_disabled.map(str::trim) {
        Some("1") => {
            "kernel.io_uring_disabled=1 keeps it to privileged processes; \
             set it to 0 with sysctl"
        }
        Some("2") => "kernel.io_uring_disabled=2 switches it off; set it to 0 with sysctl",
        _ => {
            "a seccomp profile blocks it, as containers often do; run the container with \
             --security-opt seccomp=unconfined or a profile that allows io_uring"
        }
    }
}

/// Raises a soft limit to its hard one, and returns both as they are then.
fn raise_limit(resource: libc::__rlimit_resource_t) -> (u64, u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is valid for the call, which fills the structure.
    if unsafe { libc::getrlimit(resource, &mut limit) } != 0 {
        return (0, 0);
    }
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
        // SAFETY: the pointer is valid for the call, which only reads the structure.
        if unsafe { libc::setrlimit(resource, &raised) } == 0 {
            limit = raised;
        } else {
            // What counts is what the process has, and that stayed at the soft limit.
            limit.rlim_max = limit.rlim_cur;
        }
    }
    (limit.rlim_cur, limit.rlim_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_without_the_needed_io_uring_are_refused() {
        for release in ["4.18.0-553.el8.x86_64", "5.7.19", "3.10"] {
            let error = check_kernel(release).expect_err("too old");
            assert!(error.to_string().contains(release), "{error}");
        }
        for release in ["5.8.0", "5.15.0-100-generic", "6.1", "10.0.0-rc1", "", "strange"] {
            check_kernel(release).expect("new enough, or unknown");
        }
    }

    #[test]
    fn every_refusal_names_its_remedy() {
        let cases = [
            (StartupError::LockedMemory { have: 65_536 }.to_string(), "ulimit -l"),
            (StartupError::OpenFiles { have: 64, need: 129 }.to_string(), "ulimit -n"),
            (
                StartupError::IoUringDenied { remedy: denied_remedy(Some("2\n")) }.to_string(),
                "io_uring_disabled",
            ),
            (StartupError::IoUringDenied { remedy: denied_remedy(None) }.to_string(), "seccomp"),
            (
                StartupError::listening(
                    SocketAddr::from(([127, 0, 0, 1], 7400)),
                    "--port",
                    io::ErrorKind::AddrInUse.into(),
                )
                .to_string(),
                "127.0.0.1:7400 is in use by another process: stop it, or choose another port \
                 with --port",
            ),
        ];
        for (line, remedy) in cases {
            assert!(line.contains(remedy), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn connections_are_limited_to_the_descriptors_there_are() {
        let allowed = |files, wanted| allow_connections(files, 2, wanted).map(|a| a.connections);
        assert_eq!(allowed(20_000, 10_000).expect("room"), 10_000);
        assert_eq!(allowed(1_024, 10_000).expect("some room"), 1_024 - 192);
        assert!(allowed(192, 10_000).is_err());
    }

    #[test]
    fn this_machine_runs_the_server() {
        check_io_uring().expect("io_uring");
        assert_ne!(random().expect("random"), random().expect("random"));
    }
}
