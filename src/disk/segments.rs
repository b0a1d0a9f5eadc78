//! The files of one core's log, created, recycled and removed by calls that block.
//!
//! A segment is `<number>-<bytes>.log`; the length in the name tells a file that was cut short. A
//! file becomes one in three steps: it is made under a name of its own and filled with zeroes, so
//! that its blocks are allocated and a later write changes nothing but them; it is synced, under a
//! name that says it is spare; it is renamed to its number, and the directory is synced. A released
//! segment becomes a spare again by a rename, without being filled: its old content does no harm,
//! because every frame names its segment.
//!
//! Invariants: segments are removed in the order of their numbers, so that what a crash leaves is
//! the end of the log and never one with a hole. Not more spares are kept than segments are in use
//! (at least [`SPARES_MIN`]).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use super::{number_in, sync_directory};

/// Spares that are kept however small the log is.
const SPARES_MIN: usize = 2;
/// Zeroes are written in pieces of this size, in bytes.
const FILL_BYTES: usize = 1 << 20;

/// The files of one core's log.
#[derive(Debug)]
pub struct SegmentFiles {
    directory: PathBuf,
    /// Length of new segments, in bytes.
    segment_bytes: u64,
    /// Segments by number.
    segments: BTreeMap<u64, SegmentName>,
    /// Spares, all of `segment_bytes`.
    spares: Vec<PathBuf>,
    /// Number in the name of the next spare.
    next_spare: u64,
}

/// A segment as its name tells.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    /// Its number.
    pub number: u64,
    /// The length it was made with, in bytes.
    pub bytes: u64,
    /// Where it is.
    pub path: PathBuf,
}

impl SegmentName {
    fn new(directory: &Path, number: u64, bytes: u64) -> Self {
        let path = directory.join(format!("{number:010}-{bytes}.log"));
        SegmentName { number, bytes, path }
    }

    fn parse(directory: &Path, name: &str) -> Option<Self> {
        let (number, bytes) = name.split_once('-')?;
        let (number, bytes) = (number_in(number, "", "")?, number_in(bytes, "", ".log")?);
        Some(SegmentName { number, bytes, path: directory.join(name) })
    }
}

/// The segments in a directory, ascending.
///
/// # Errors
/// If the directory cannot be read.
pub fn list(directory: &Path) -> io::Result<Vec<SegmentName>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        segments.extend(SegmentName::parse(directory, &name.to_string_lossy()));
    }
    segments.sort();
    Ok(segments)
}

impl SegmentFiles {
    /// Takes over what is in `directory`. Half-made files are removed, as are spares of another
    /// length.
    ///
    /// # Errors
    /// If the directory cannot be read or cleaned.
    pub fn open(directory: &Path, segment_bytes: u64) -> io::Result<Self> {
        let mut files = SegmentFiles {
            directory: directory.to_owned(),
            segment_bytes,
            segments: BTreeMap::new(),
            spares: Vec::new(),
            next_spare: 0,
        };
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(segment) = SegmentName::parse(directory, &name) {
                files.segments.insert(segment.number, segment);
            } else if let Some(number) = number_in(&name, "spare-", "") {
                files.next_spare = files.next_spare.max(number + 1);
                match entry.metadata()?.len() == segment_bytes {
                    true => files.spares.push(entry.path()),
                    false => fs::remove_file(entry.path())?,
                }
            } else if number_in(&name, "spare-", ".incomplete").is_some() {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(files)
    }

    /// Makes the segment `number` ready to be written, with `bytes` bytes, unless it is, and
    /// returns its path. An existing file of another length is replaced.
    ///
    /// # Errors
    /// If the file cannot be made; see [`is_full`].
    pub fn provide(&mut self, number: u64, bytes: u64) -> io::Result<PathBuf> {
        let segment = SegmentName::new(&self.directory, number, bytes);
        let path = segment.path.clone();
        match self.segments.remove(&number) {
            Some(known) if known == segment => {
                self.segments.insert(number, known);
                return Ok(path);
            }
            // It was made ahead of need and nothing was written into it.
            Some(other) => {
                fs::remove_file(other.path)?;
                sync_directory(&self.directory)?;
            }
            None => {}
        }
        let spare = match self.spares.last() {
            Some(spare) if bytes == self.segment_bytes => spare.clone(),
            _ => self.make_spare(bytes)?,
        };
        fs::rename(&spare, &path)?;
        self.spares.retain(|known| *known != spare);
        self.segments.insert(number, segment);
        sync_directory(&self.directory)?;
        Ok(path)
    }

    /// Takes the segments below `before` back: they become spares, or are removed.
    ///
    /// # Errors
    /// If one cannot be renamed or removed. It is tried again with the next release.
    pub fn release(&mut self, before: u64) -> io::Result<u64> {
        let mut released = 0;
        while let Some(first) = self.segments.first_entry()
            && *first.key() < before
        {
            let SegmentName { number, bytes, path } = first.get().clone();
            let spares_max = SPARES_MIN.max(self.segments.range(before..).count());
            if bytes == self.segment_bytes && self.spares.len() < spares_max {
                let spare = self.spare_path("");
                fs::rename(&path, &spare)?;
                self.next_spare += 1;
                self.spares.push(spare);
            } else {
                fs::remove_file(&path)?;
            }
            self.segments.remove(&number);
            released += 1;
        }
        Ok(released)
    }

    /// Number of segments.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Number of spares.
    pub fn spares(&self) -> usize {
        self.spares.len()
    }

    fn spare_path(&self, suffix: &str) -> PathBuf {
        self.directory.join(format!("spare-{:010}{suffix}", self.next_spare))
    }

    fn make_spare(&mut self, bytes: u64) -> io::Result<PathBuf> {
        let (incomplete, spare) = (self.spare_path(".incomplete"), self.spare_path(""));
        if let Err(error) = make_filled(&incomplete, bytes) {
            // It is named so that nobody takes it for a segment, should this fail too.
            let _ = fs::remove_file(&incomplete);
            return Err(error);
        }
        fs::rename(&incomplete, &spare)?;
        self.next_spare += 1;
        Ok(spare)
    }
}

/// Whether an error says that there is no room on the disk, which may come back.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes a file with so many zero bytes in allocated, written blocks, and syncs it.
fn make_filled(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(true).open(path)?;
    let length = i64::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: a plain system call on a descriptor that lives until the end of this function.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) } != 0 {
        let error = io::Error::last_os_error();
        // A file system without it allocates while the zeroes are written.
        if !matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) {
            return Err(error);
        }
    }
    let zeroes = vec![0; FILL_BYTES.min(usize::try_from(bytes).unwrap_or(FILL_BYTES))];
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(zeroes.len() as u64);
        file.write_all(&zeroes[..piece as usize])?;
        left -= piece;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 64 << 10;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("a directory");
        let name = |entry: io::Result<fs::DirEntry>| {
            entry.expect("an entry").file_name().to_string_lossy().into_owned()
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }

    fn open(directory: &Path) -> SegmentFiles {
        SegmentFiles::open(directory, BYTES).expect("a readable directory")
    }

    #[test]
    fn a_segment_has_its_length_and_its_blocks_from_the_start() {
        use std::os::unix::fs::MetadataExt as _;
        let directory = tempfile::tempdir().expect("a directory");
        let path = open(directory.path()).provide(3, BYTES).expect("room");
        let metadata = fs::metadata(&path).expect("the file");
        assert_eq!(metadata.len(), BYTES);
        assert!(metadata.blocks() * 512 >= BYTES, "the blocks are allocated");
        assert_eq!(names(directory.path()), ["0000000003-65536.log"]);
    }

    #[test]
    fn released_segments_become_later_ones_under_their_new_numbers() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut files = open(directory.path());
        for number in 1..=6 {
            let path = files.provide(number, BYTES).expect("room");
            fs::write(&path, vec![number as u8; BYTES as usize]).expect("a write");
        }
        assert_eq!(files.release(6).expect("a release"), 5);
        assert_eq!((files.segments(), files.spares()), (1, SPARES_MIN));
        let path = files.provide(7, BYTES).expect("room");
        let content = fs::read(&path).expect("the file");
        assert_eq!(content.len() as u64, BYTES);
        assert!((1..6).contains(&content[0]), "it is one of the released");
        assert_eq!(fs::read(&files.segments[&6].path).expect("the file")[0], 6);
        let listed = list(directory.path()).expect("a list");
        let numbers: Vec<u64> = listed.iter().map(|segment| segment.number).collect();
        assert_eq!(numbers, [6, 7]);
    }

    #[test]
    fn as_many_spares_are_kept_as_segments_are_in_use() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut files = open(directory.path());
        for number in 0..12 {
            files.provide(number, BYTES).expect("room");
        }
        files.release(8).expect("a release");
        assert_eq!((files.segments(), files.spares()), (4, 4));
        assert_eq!(files.release(8).expect("nothing left to release"), 0);
        assert_eq!(names(directory.path()).len(), 8);
    }

    #[test]
    fn what_a_crash_left_half_made_is_removed_and_the_rest_is_used_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut files = open(directory.path());
        files.provide(1, BYTES).expect("room");
        files.provide(2, BYTES).expect("room");
        files.provide(3, BYTES).expect("room");
        assert_eq!(files.release(2).expect("a release"), 1);
        let at = |name: &str| directory.path().join(name);
        fs::write(at("spare-0000000009.incomplete"), b"half").expect("a write");
        fs::write(at("spare-0000000008"), b"of another length").expect("a write");
        fs::write(at("not-ours"), b"").expect("a write");
        let mut files = open(directory.path());
        assert_eq!((files.segments(), files.spares()), (2, 1));
        files.provide(3, BYTES).expect("it is there");
        files.provide(4, BYTES).expect("the spare");
        files.provide(5, BYTES).expect("room");
        let listed = list(directory.path()).expect("a list");
        let numbers: Vec<u64> = listed.iter().map(|segment| segment.number).collect();
        assert_eq!(numbers, [2, 3, 4, 5]);
        assert_eq!(names(directory.path()).len(), 5, "and what is not ours");
    }

    #[test]
    fn segments_of_another_length_are_read_but_not_written_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut before = SegmentFiles::open(directory.path(), BYTES / 2).expect("a directory");
        for number in 1..=3 {
            before.provide(number, BYTES / 2).expect("room");
        }
        let mut files = open(directory.path());
        files.provide(4, BYTES).expect("room");
        assert_eq!(files.release(3).expect("a release"), 2);
        assert_eq!((files.segments(), files.spares()), (2, 0));
        let path = files.provide(3, BYTES).expect("room");
        assert_eq!(fs::metadata(path).expect("the file").len(), BYTES);
    }

    #[test]
    fn a_longer_segment_takes_the_place_of_one_that_was_made_too_short() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut files = open(directory.path());
        files.provide(1, BYTES).expect("room");
        let path = files.provide(1, 3 * BYTES).expect("room");
        assert_eq!(fs::metadata(&path).expect("the file").len(), 3 * BYTES);
        files.provide(2, BYTES).expect("room");
        assert_eq!(files.release(2).expect("a release"), 1);
        assert_eq!((files.segments(), files.spares()), (1, 0));
        assert_eq!(names(directory.path()), ["0000000002-65536.log"]);
    }

    #[test]
    fn a_directory_that_is_gone_is_an_error_and_not_a_full_disk() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut files = open(directory.path());
        fs::remove_dir(directory.path()).expect("an empty directory");
        assert!(!is_full(&files.provide(1, BYTES).expect_err("no directory")));
    }
}
