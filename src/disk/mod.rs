//! What a node keeps on disk: the files of its cores' logs. The engine owns the bytes in them.
//!
//! A data directory holds one *layout*: a directory `logs-<n>` with one directory `core-<k>` for
//! each core, which holds the segments of that core's log. A node that starts with another number
//! of cores writes a new layout and then removes the old one ([`data_directory`], [`recovery`]).
//!
//! While a core runs, two parties share its files. The core itself writes, through its executor's
//! ring, one write at a time ([`writer`]). A thread beside it creates, fills, renames and deletes
//! ([`provisioner`]), always ahead of need, since all of that can block for long. A file belongs
//! to the thread until it has handed its number over, and again once the core released it.
//!
//! With `--durability memory` none of this exists.
//!
//! Invariants:
//! - A file with a segment's name has its full length, has been filled once, and is durable with
//!   its name. Whatever is not yet so has another name.
//! - A write that failed is never repeated: what the disk then holds is unknown, and the core that
//!   owns the log falls silent. To find no room for a new segment is no such failure, as nothing
//!   was written; it is tried again until there is room.

pub mod data_directory;
mod file;
pub mod provisioner;
pub mod recovery;
mod segments;
pub mod writer;

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes the entries of a directory durable.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The number in a name such as `logs-7`, written as we write it.
fn number_in(name: &str, prefix: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests;
