//! What disks do to the files of a node that is down.
//!
//! Only what was written is damaged: a log's files are made ahead, and what is not used yet holds
//! zeroes. Files are found by walking the data directory, so that this knows nothing of how they
//! are laid out, except that their names end with `.log`.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::random::Random;

/// The unit in which disks write.
const BLOCK_BYTES: u64 = 4_096;

/// A way to damage a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damage {
    /// Some bits are turned over.
    FlippedBits,
    /// The file ends early.
    CutShort,
    /// A block holds what belongs to another one.
    Misdirected,
    /// A block holds zeroes.
    Blank,
}

/// Damages one of the logs below `directory`. Says what was done; `None` if nothing was there.
///
/// # Errors
/// If a file cannot be read or written.
pub fn damage(directory: &Path, damage: Damage, salt: u64) -> io::Result<Option<String>> {
    let mut random = Random::stream(salt, "damage");
    let mut files = Vec::new();
    find_logs(directory, &mut files)?;
    files.sort();
    let mut used = Vec::new();
    for path in files {
        let length = used_length(&path)?;
        if length > 0 {
            used.push((path, length));
        }
    }
    if used.is_empty() {
        return Ok(None);
    }
    // The newest files are the most interesting ones, and the last is among them in any case.
    let place = used.len() - 1 - random.below(used.len().min(4) as u64) as usize;
    let (path, length) = &used[place];
    let file = File::options().read(true).write(true).open(path)?;
    let at = random.below(*length);
    let block = at / BLOCK_BYTES * BLOCK_BYTES;
    match damage {
        Damage::FlippedBits => {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at)?;
            byte[0] ^= 1 << random.below(8);
            file.write_all_at(&byte, at)?;
        }
        Damage::CutShort => file.set_len(at)?,
        Damage::Misdirected => {
            let mut bytes = vec![0; BLOCK_BYTES as usize];
            let from = random.below(length.div_ceil(BLOCK_BYTES)) * BLOCK_BYTES;
            let count = file.read_at(&mut bytes, from)?;
            file.write_all_at(&bytes[..count], block)?;
        }
        Damage::Blank => {
            let count = (length - block).min(BLOCK_BYTES) as usize;
            file.write_all_at(&vec![0; count], block)?;
        }
    }
    file.sync_all()?;
    Ok(Some(format!("{damage:?} at byte {at} of {length} in {}", path.display())))
}

fn find_logs(directory: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            find_logs(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
    Ok(())
}

/// Length up to the last byte that is not zero.
fn used_length(path: &Path) -> io::Result<u64> {
    let bytes = fs::read(path)?;
    Ok(bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last as u64 + 1))
}

/// Removes everything in a directory, and leaves the directory, which may be a mount.
///
/// # Errors
/// If something cannot be removed.
pub fn wipe(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}
