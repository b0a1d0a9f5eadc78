//! The data directory: who may use it, which layout counts, and what is set aside.
//!
//! ```text
//! <data-dir>/lock                       held by the process that uses the directory
//! <data-dir>/logs-2/cores               number of cores of layout 2, as text
//! <data-dir>/logs-2/core-0/0000000017-16777216.log
//! <data-dir>/logs-3.incomplete/         a layout that is being written, or was given up
//! <data-dir>/damaged-2-1-1/             the log of core 1 of layout 2, set aside for a human: the
//!                                       last one of each core
//! ```
//!
//! A layout counts from the moment in which its directory has its final name. Of two complete
//! ones the higher counts, and the lower one is of no use any more: it was read when the higher
//! one was written. So a crash at any point of a move leaves one layout that counts, whole.
//!
//! Invariant: nothing is removed before what replaces it is durable with its name. What was set
//! aside takes no more room than the logs do, since a node serves from neither.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use shards::wal::current_layout;

use super::{number_in, sync_directory};

/// Cores that a layout can say it has; more are not believed.
const CORES_MAX: u16 = 1_024;

/// What the name of a log that was set aside begins with; layout, core and a count follow.
const ASIDE_PREFIX: &str = "damaged-";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirectoryError {
    /// Another process holds it.
    #[error(
        "the data directory {} is in use by process {holder}: stop that, or choose another \
         directory with --data-dir",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that says it holds it.
        holder: String,
    },
    /// It cannot be read or written.
    #[error(
        "the data directory {} cannot be used: {}: {source}; {}",
        path.display(), at.display(), remedy(source)
    )]
    Io {
        /// The directory.
        path: PathBuf,
        /// What in it.
        at: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room (a directory damaged-* in it is of use to nobody but a human)"
        }
        _ => "change its owner or choose another with --data-dir",
    }
}

/// A layout that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Its number, from 1.
    pub number: u64,
    /// The cores it was written for.
    pub cores: u16,
    path: PathBuf,
}

impl Layout {
    /// The directory of a core's log.
    pub fn core(&self, core: u16) -> PathBuf {
        self.path.join(format!("core-{core}"))
    }
}

/// A data directory that this process holds.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    /// Locked until it is closed, which the kernel does too.
    _lock: File,
}

impl DataDirectory {
    /// Makes the directory if there is none, and takes hold of it.
    ///
    /// # Errors
    /// If it cannot be written, or another process holds it.
    pub fn open(path: &Path) -> Result<Self, DataDirectoryError> {
        let failed = |at: &Path, source| DataDirectoryError::Io {
            path: path.to_owned(),
            at: at.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(|error| failed(path, error))?;
        let at = path.join("lock");
        let lock = File::options().read(true).write(true).create(true).truncate(false).open(&at);
        let mut lock = lock.map_err(|error| failed(&at, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(failed(&at, error)),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = (&mut lock).take(20).read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "of unknown number".to_owned(),
                    holder => holder.to_owned(),
                };
                return Err(DataDirectoryError::InUse { path: path.to_owned(), holder });
            }
        }
        let write_holder = |lock: &mut File| {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        };
        write_holder(&mut lock).map_err(|error| failed(&at, error))?;
        Ok(DataDirectory { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The layout that counts, if there is one. What moves and crashes have left is removed.
    ///
    /// # Errors
    /// If the directory cannot be read or cleaned.
    pub fn layout(&self) -> Result<Option<Layout>, DataDirectoryError> {
        let mut complete = BTreeMap::new();
        let mut rest = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(self.failed(&self.path))? {
            let entry = entry.map_err(self.failed(&self.path))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(number) = number_in(&name, "logs-", "") {
                complete.insert(number, entry.path());
            } else if number_in(&name, "logs-", ".incomplete").is_some() {
                rest.push(entry.path());
            }
        }
        let current = current_layout(complete.keys().copied());
        let last = current.and_then(|number| complete.remove_entry(&number));
        rest.extend(complete.into_values());
        if !rest.is_empty() {
            // The name of the one that counts may not be durable yet.
            sync_directory(&self.path).map_err(self.failed(&self.path))?;
        }
        for path in rest {
            fs::remove_dir_all(&path).map_err(self.failed(&path))?;
        }
        let Some((number, path)) = last else { return Ok(None) };
        let cores = self.core_count(&path)?;
        Ok(Some(Layout { number, cores, path }))
    }

    /// Number of cores of the layout at `path`. A file that says nothing sensible is no reason to
    /// stop: as many as there are directories for is the best guess then.
    fn core_count(&self, path: &Path) -> Result<u16, DataDirectoryError> {
        let at = path.join("cores");
        let said = match fs::read(&at) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).trim().parse().ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(self.failed(&at)(error)),
        };
        if let Some(cores) = said.filter(|cores| (1..=CORES_MAX).contains(cores)) {
            return Ok(cores);
        }
        let mut cores = 1;
        for entry in fs::read_dir(path).map_err(self.failed(path))? {
            let name = entry.map_err(self.failed(path))?.file_name();
            let core = number_in(&name.to_string_lossy(), "core-", "");
            let count = core.and_then(|core| u16::try_from(core + 1).ok());
            cores = cores.max(count.unwrap_or(1).min(CORES_MAX));
        }
        tracing::warn!(layout = %path.display(), cores, "the layout's number of cores is a guess");
        Ok(cores)
    }

    /// Begins a layout, with an empty directory for each core. It does not count yet.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn begin_layout(&self, number: u64, cores: u16) -> Result<Layout, DataDirectoryError> {
        let path = self.path.join(format!("logs-{number}.incomplete"));
        fs::create_dir(&path).map_err(self.failed(&path))?;
        let layout = Layout { number, cores, path };
        for core in 0..cores {
            let path = layout.core(core);
            fs::create_dir(&path).map_err(self.failed(&path))?;
        }
        let at = layout.path.join("cores");
        let write = || {
            let mut file = File::create(&at)?;
            writeln!(file, "{cores}")?;
            file.sync_all()
        };
        write().map_err(self.failed(&at))?;
        Ok(layout)
    }

    /// Makes a layout that was begun, and whose files are durable, the one that counts.
    ///
    /// # Errors
    /// If that is not certain.
    pub fn complete_layout(&self, layout: Layout) -> Result<Layout, DataDirectoryError> {
        for core in 0..layout.cores {
            let path = layout.core(core);
            sync_directory(&path).map_err(self.failed(&path))?;
        }
        sync_directory(&layout.path).map_err(self.failed(&layout.path))?;
        let path = self.path.join(format!("logs-{}", layout.number));
        fs::rename(&layout.path, &path).map_err(self.failed(&path))?;
        sync_directory(&self.path).map_err(self.failed(&self.path))?;
        Ok(Layout { path, ..layout })
    }

    /// Makes the directory of a core's log, if it is missing, as after it was set aside.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn ensure_core(&self, layout: &Layout, core: u16) -> Result<(), DataDirectoryError> {
        let path = layout.core(core);
        match fs::create_dir(&path) {
            Ok(()) => sync_directory(&layout.path).map_err(self.failed(&layout.path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(self.failed(&path)(error)),
        }
    }

    /// Sets the log of a core aside, for a human to look at, and removes the one that was set aside
    /// before. Returns where it is then.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub fn set_aside(&self, layout: &Layout, core: u16) -> Result<PathBuf, DataDirectoryError> {
        let former = self.logs_aside(core).map_err(self.failed(&self.path))?;
        let counts = former.iter().filter(|aside| aside.layout == layout.number);
        let count = counts.map(|aside| aside.count).max().unwrap_or(0) + 1;
        let aside = self.path.join(format!("{ASIDE_PREFIX}{}-{core}-{count}", layout.number));
        fs::rename(layout.core(core), &aside).map_err(self.failed(&aside))?;
        sync_directory(&self.path).map_err(self.failed(&self.path))?;
        sync_directory(&layout.path).map_err(self.failed(&layout.path))?;
        for former in former {
            if let Err(error) = fs::remove_dir_all(&former.path) {
                let path = former.path.display();
                tracing::warn!(log = %path, %error, "a log that was set aside earlier stays");
            }
        }
        Ok(aside)
    }

    /// The logs of one core that were set aside.
    fn logs_aside(&self, core: u16) -> io::Result<Vec<LogAside>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(numbers) = name.and_then(|name| name.strip_prefix(ASIDE_PREFIX)) else {
                continue;
            };
            let mut numbers = numbers.split('-').map(str::parse::<u64>);
            let (Some(Ok(layout)), Some(Ok(of)), Some(Ok(count)), None) =
                (numbers.next(), numbers.next(), numbers.next(), numbers.next())
            else {
                continue;
            };
            if of == u64::from(core) {
                found.push(LogAside { path, layout, count });
            }
        }
        Ok(found)
    }

    /// Removes a layout that does not count any more.
    pub fn remove_layout(&self, layout: &Layout) {
        if let Err(error) = fs::remove_dir_all(&layout.path) {
            // The next start tries again.
            let path = layout.path.display();
            tracing::warn!(layout = %path, %error, "a layout of no use any more stays for longer");
        }
    }

    /// Puts the directory to what went wrong at `at`.
    pub fn failed<'a>(&'a self, at: &'a Path) -> impl Fn(io::Error) -> DataDirectoryError + 'a {
        move |source| DataDirectoryError::Io { path: self.path.clone(), at: at.to_owned(), source }
    }
}

/// A log that was set aside: its path, and the numbers in its name.
struct LogAside {
    path: PathBuf,
    layout: u64,
    count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> DataDirectory {
        DataDirectory::open(path).expect("a writable directory")
    }

    fn names(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).expect("a directory");
        let name = |entry: io::Result<fs::DirEntry>| {
            entry.expect("an entry").file_name().to_string_lossy().into_owned()
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }

    fn complete(data: &DataDirectory, number: u64, cores: u16) -> Layout {
        let begun = data.begin_layout(number, cores).expect("a layout");
        data.complete_layout(begun).expect("a durable layout")
    }

    #[test]
    fn one_process_at_a_time_holds_a_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("made/on/the/way");
        let held = open(&path);
        let error = DataDirectory::open(&path).expect_err("it is held").to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert!(error.contains("--data-dir") && !error.contains('\n'), "{error}");
        drop(held);
        open(&path);
    }

    #[test]
    fn a_directory_that_cannot_be_made_or_written_is_refused_in_one_line() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let error = DataDirectory::open(&file.path().join("below")).expect_err("no directory");
        let line = error.to_string();
        assert!(line.contains("--data-dir") && !line.contains('\n'), "{line}");
    }

    #[test]
    fn the_highest_complete_layout_counts_and_the_rest_is_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = open(directory.path());
        assert_eq!(data.layout().expect("readable"), None);
        complete(&data, 9, 2);
        let ten = complete(&data, 10, 3);
        data.begin_layout(11, 4).expect("a layout");
        fs::create_dir(directory.path().join("damaged-9-0-1")).expect("a directory");
        assert_eq!(data.layout().expect("readable"), Some(ten));
        assert_eq!(names(directory.path()), ["damaged-9-0-1", "lock", "logs-10"]);
    }

    #[test]
    fn a_layout_keeps_its_number_of_cores_when_a_log_is_set_aside() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = open(directory.path());
        let layout = complete(&data, 1, 3);
        fs::write(layout.core(2).join("0000000001.log"), b"x").expect("a write");
        let aside = data.set_aside(&layout, 2).expect("a rename");
        assert_eq!(names(&aside), ["0000000001.log"]);
        let found = data.layout().expect("readable").expect("a layout");
        assert_eq!(found.cores, 3);
        data.ensure_core(&found, 2).expect("a new directory");
        data.ensure_core(&found, 2).expect("nothing to do");
        let again = data.set_aside(&found, 2).expect("a rename");
        assert_ne!(aside, again);
        assert_eq!(names(directory.path()), ["damaged-1-2-2", "lock", "logs-1"]);
    }

    #[test]
    fn of_the_logs_that_were_set_aside_the_last_one_of_each_core_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = open(directory.path());
        let layout = complete(&data, 1, 2);
        for core in [0, 1, 0, 0, 1] {
            data.ensure_core(&layout, core).expect("a directory");
            data.set_aside(&layout, core).expect("a rename");
        }
        fs::create_dir(directory.path().join("damaged-by-somebody")).expect("a directory");
        let next = complete(&data, 2, 2);
        data.set_aside(&next, 1).expect("a rename");
        let kept = ["damaged-1-0-3", "damaged-2-1-1", "damaged-by-somebody"];
        assert_eq!(names(directory.path())[..3], kept);
    }

    #[test]
    fn a_lost_number_of_cores_is_counted_by_the_logs() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = open(directory.path());
        let layout = complete(&data, 1, 4);
        for content in [&b"many"[..], b"0", b"99999", b""] {
            fs::write(layout.path.join("cores"), content).expect("a write");
            assert_eq!(data.layout().expect("readable").expect("a layout").cores, 4);
        }
        fs::remove_file(layout.path.join("cores")).expect("a file");
        assert_eq!(data.layout().expect("readable").expect("a layout").cores, 4);
    }
}
