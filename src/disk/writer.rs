//! Writes a core's log, on the core's own executor.
//!
//! One write at a time: the engine asks for the next one when it was told of the last. A write into
//! a segment that is not there yet waits for it, and so does a core whose disk is full; nothing
//! else does. Failure is final, because what a disk holds after a failed write is unknown: the same
//! pages could be reported clean by a second sync.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use shards::ids::CoreIndex;

use super::file::SegmentFile;
use super::provisioner::{FileCounts, Provisioner};

/// What a core's log has done. All but the gauges only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogCounters {
    /// Durable writes.
    pub writes: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Nanoseconds from a write's start to its end, summed up.
    pub write_ns: u64,
    /// The longest write since this was last looked at, in nanoseconds (a gauge).
    pub write_ns_max: u64,
    /// Segments in use (a gauge).
    pub segments: u64,
    /// Files ready to become segments (a gauge).
    pub spares: u64,
    /// Segments released.
    pub released: u64,
    /// 1 while there is no room for the next segment (a gauge).
    pub disk_full: u64,
    /// 1 once a write has failed (a gauge).
    pub failed: u64,
}

impl LogCounters {
    /// Takes over what the thread beside the core counts.
    pub fn add_files(&mut self, counts: &FileCounts) {
        self.segments = counts.segments.load(Ordering::Relaxed);
        self.spares = counts.spares.load(Ordering::Relaxed);
        self.released = counts.released.load(Ordering::Relaxed);
        self.disk_full = u64::from(counts.is_full.load(Ordering::Relaxed));
    }
}

/// The writing end of a core's log.
#[derive(Debug)]
pub struct LogWriter {
    provisioner: Provisioner,
    /// Length of a segment unless said otherwise, in bytes.
    segment_bytes: u64,
    current: Option<(u64, SegmentFile)>,
    /// Segments that are ready and were not needed yet, by number and length.
    ready: BTreeMap<(u64, u64), PathBuf>,
    /// The segment asked for ahead of need.
    ahead: Option<u64>,
}

/// A write: whole blocks at a place in a segment.
#[derive(Clone, Copy, Debug)]
pub struct LogWrite<'a> {
    /// Number of the segment.
    pub segment: u64,
    /// Its length in bytes, with which it is made unless it is there.
    pub segment_bytes: u64,
    /// Where in the segment.
    pub offset: u64,
    /// What.
    pub bytes: &'a [u8],
}

impl LogWriter {
    /// A writer over `directory`, which exists.
    ///
    /// # Errors
    /// If the directory cannot be read, or the thread beside the core cannot be started.
    pub fn start(core: CoreIndex, directory: &Path, segment_bytes: u64) -> io::Result<Self> {
        let provisioner = Provisioner::start(core, directory, segment_bytes)?;
        Ok(LogWriter {
            provisioner,
            segment_bytes,
            current: None,
            ready: BTreeMap::new(),
            ahead: None,
        })
    }

    /// What the thread beside the core counts.
    pub fn counts(&self) -> Arc<FileCounts> {
        self.provisioner.counts().clone()
    }

    /// Carries a write out and returns once it is durable. Returns how long that took, without the
    /// wait for the segment, in nanoseconds.
    ///
    /// # Errors
    /// If it failed. The log must not be written again.
    pub async fn write(&mut self, write: LogWrite<'_>) -> io::Result<u64> {
        self.turn_to(write.segment, write.segment_bytes).await?;
        let Some((_, file)) = &self.current else {
            return Err(io::Error::other("the segment is not open"));
        };
        let began = Instant::now();
        file.write(write.offset, write.bytes).await?;
        Ok(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Gives back all segments below `before`. One that is open stays until another is.
    pub fn release(&self, before: u64) {
        let open = self.current.as_ref().map_or(u64::MAX, |(number, _)| *number);
        self.provisioner.release(before.min(open));
    }

    /// Puts another file in the place of the open one.
    #[cfg(test)]
    pub async fn replace_current(&mut self, number: u64, file: SegmentFile) {
        if let Some((_, former)) = self.current.replace((number, file)) {
            former.close().await;
        }
    }

    /// Opens a segment in place of the current one, and asks for the one after it.
    async fn turn_to(&mut self, number: u64, bytes: u64) -> io::Result<()> {
        if self.current.as_ref().is_some_and(|(current, _)| *current == number) {
            return Ok(());
        }
        if let Some((_, file)) = self.current.take() {
            file.close().await;
        }
        // What was asked for ahead is of the usual length.
        if self.ahead != Some(number) || bytes != self.segment_bytes {
            self.provisioner.ask_for(number, bytes)?;
        }
        let path = loop {
            if let Some(path) = self.ready.remove(&(number, bytes)) {
                break path;
            }
            let provided = self.provisioner.next().await?;
            self.ready.insert((provided.number, provided.bytes), provided.result?);
        };
        self.ready.retain(|&(ready, _), _| ready > number);
        self.current = Some((number, SegmentFile::open(&path).await?));
        self.provisioner.ask_for(number + 1, self.segment_bytes)?;
        self.ahead = Some(number + 1);
        Ok(())
    }
}
