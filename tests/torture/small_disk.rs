//! A disk of its own for a node, small enough to be filled.
//!
//! It is mounted where only the calling thread and the processes it starts see it, and goes with
//! them. That takes the right to mount, which tests do not have everywhere.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;

/// Room on the disk, in bytes: several times what a node of these tests needs.
const BYTES: u64 = 128 << 20;
/// What fills it.
const FILLER: &str = "filler";

/// Mounts a disk at `directory`, which is made.
///
/// # Errors
/// Without the right to mount.
pub fn mount(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let c_string = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::other);
    let target = c_string(directory.as_os_str().as_bytes())?;
    let options = c_string(format!("size={BYTES}").as_bytes())?;
    let check = |code: libc::c_int| match code {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: the calls take pointers to strings that end with a zero and live until they return,
    // and null where they need none. Leaving the mount namespace touches this thread alone.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        check(libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), private, ptr::null()))?;
        let kind = c"tmpfs".as_ptr();
        check(libc::mount(kind, target.as_ptr(), kind, 0, options.as_ptr().cast()))
    }
}

/// Takes the disk away again.
pub fn unmount(directory: &Path) {
    let Ok(target) = CString::new(directory.as_os_str().as_bytes()) else { return };
    // SAFETY: as above. Where nothing is mounted nothing happens.
    unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
}

/// Fills a disk to the last byte.
///
/// # Errors
/// If anything but the lack of room ends it.
pub fn fill(directory: &Path) -> io::Result<()> {
    let mut file = File::create(directory.join(FILLER))?;
    let chunk = vec![0x55; 1 << 20];
    let mut length = chunk.len();
    while length > 0 {
        match file.write(&chunk[..length]) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => length /= 2,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes room again.
///
/// # Errors
/// If the file that fills it cannot be removed.
pub fn free(directory: &Path) -> io::Result<()> {
    match fs::remove_file(directory.join(FILLER)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
