//! The thread beside a core that makes its segments and takes them back.
//!
//! The core asks for a segment by number, always for the one after the one it has, and gets its
//! path when it is ready to be written. Two requests can wait at a time, and as many releases as
//! fit their queue; a release that finds no room is taken up by the next one, since each names the
//! first segment that is kept.
//!
//! A disk without room is no failure: nothing of the log was written yet. The thread says so once
//! in the log and in a gauge, and tries again every [`RETRY_INTERVAL`] and after each release.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use shards::ids::CoreIndex;

use super::segments::{SegmentFiles, is_full};

/// How often a segment is tried for which there was no room.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Requests that may wait for the thread.
const REQUESTS_MAX: usize = 8;

/// What the core asks for.
#[derive(Debug)]
enum Request {
    Provide(u64, u64),
    Release(u64),
}

/// A segment that is ready, or why it never will be.
#[derive(Debug)]
pub struct Provided {
    /// Its number.
    pub number: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its path.
    pub result: io::Result<PathBuf>,
}

/// What others may know of a core's files. Written by the thread alone, now and then.
#[derive(Debug, Default)]
pub struct FileCounts {
    /// Segments in use.
    pub segments: AtomicU64,
    /// Files ready to become segments.
    pub spares: AtomicU64,
    /// Segments released since the start.
    pub released: AtomicU64,
    /// Whether there is no room for the next segment.
    pub is_full: AtomicBool,
}

/// The core's end of the thread, which ends with it.
#[derive(Debug)]
pub struct Provisioner {
    requests: Option<flume::Sender<Request>>,
    provided: flume::Receiver<Provided>,
    counts: Arc<FileCounts>,
    thread: Option<JoinHandle<()>>,
}

impl Provisioner {
    /// Starts the thread of `core` over the files in `directory`, which exists.
    ///
    /// # Errors
    /// If the directory cannot be read, or the thread cannot be started.
    pub fn start(core: CoreIndex, directory: &Path, segment_bytes: u64) -> io::Result<Self> {
        let files = SegmentFiles::open(directory, segment_bytes)?;
        let counts = Arc::new(FileCounts::default());
        let (requests, incoming) = flume::bounded(REQUESTS_MAX);
        let (outgoing, provided) = flume::bounded(REQUESTS_MAX);
        let mut work = Work { core, files, wanted: VecDeque::new(), outgoing, counts };
        work.publish();
        let counts = work.counts.clone();
        let thread = std::thread::Builder::new()
            .name(format!("disk{core}"))
            .spawn(move || work.run(&incoming))?;
        Ok(Provisioner { requests: Some(requests), provided, counts, thread: Some(thread) })
    }

    /// Asks for a segment of so many bytes.
    ///
    /// # Errors
    /// If the thread is gone or has more to do than can be.
    pub fn ask_for(&self, number: u64, bytes: u64) -> io::Result<()> {
        let gone = || io::Error::other("the thread that makes segments does not answer");
        let requests = self.requests.as_ref().ok_or_else(gone)?;
        requests.try_send(Request::Provide(number, bytes)).map_err(|_| gone())
    }

    /// Gives back all segments below `before`.
    pub fn release(&self, before: u64) {
        // Without room in the queue a later release does the same and more.
        let _ = self.requests.as_ref().map(|queue| queue.try_send(Request::Release(before)));
    }

    /// The next segment that is ready.
    ///
    /// # Errors
    /// If the thread is gone.
    pub async fn next(&self) -> io::Result<Provided> {
        let gone = |_| io::Error::other("the thread that makes segments has ended");
        self.provided.recv_async().await.map_err(gone)
    }

    /// What others may know.
    pub fn counts(&self) -> &Arc<FileCounts> {
        &self.counts
    }
}

impl Drop for Provisioner {
    /// Waits for the thread, which at most finishes the file it is making: afterwards nobody
    /// touches the directory any more.
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    core: CoreIndex,
    files: SegmentFiles,
    /// Numbers and lengths.
    wanted: VecDeque<(u64, u64)>,
    outgoing: flume::Sender<Provided>,
    counts: Arc<FileCounts>,
}

impl Work {
    fn run(&mut self, incoming: &flume::Receiver<Request>) {
        loop {
            let request = match self.wanted.is_empty() {
                true => incoming.recv().map_err(|_| flume::RecvTimeoutError::Disconnected),
                false => incoming.recv_timeout(RETRY_INTERVAL),
            };
            match request {
                Ok(Request::Provide(number, bytes)) => self.wanted.push_back((number, bytes)),
                Ok(Request::Release(before)) => self.release(before),
                Err(flume::RecvTimeoutError::Timeout) => {}
                Err(flume::RecvTimeoutError::Disconnected) => return,
            }
            self.provide();
            self.publish();
        }
    }

    fn provide(&mut self) {
        while let Some(&(number, bytes)) = self.wanted.front() {
            let result = self.files.provide(number, bytes);
            match &result {
                Err(error) if is_full(error) => return self.note_full(number, error),
                Err(error) => {
                    tracing::error!(core = %self.core, number, %error, "no log segment");
                }
                Ok(_) if self.counts.is_full.swap(false, Ordering::Relaxed) => {
                    tracing::info!(core = %self.core, number, "there is room for the log again");
                }
                Ok(_) => {}
            }
            self.wanted.pop_front();
            // The core has gone, or has as many answers waiting as it may ask for.
            let _ = self.outgoing.try_send(Provided { number, bytes, result });
        }
    }

    fn note_full(&self, number: u64, error: &io::Error) {
        if !self.counts.is_full.swap(true, Ordering::Relaxed) {
            tracing::error!(
                core = %self.core,
                number,
                %error,
                "no room on the disk for the next log segment; writes wait until there is some"
            );
        }
    }

    fn release(&mut self, before: u64) {
        match self.files.release(before) {
            Ok(released) => {
                self.counts.released.fetch_add(released, Ordering::Relaxed);
            }
            Err(error) => {
                tracing::warn!(core = %self.core, before, %error, "log segments stay for longer");
            }
        }
    }

    fn publish(&self) {
        self.counts.segments.store(self.files.segments() as u64, Ordering::Relaxed);
        self.counts.spares.store(self.files.spares() as u64, Ordering::Relaxed);
    }
}
