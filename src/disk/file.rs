//! A segment that is open for writing on an executor.
//!
//! Beside [`net`](crate::net) this is the only place that knows the executor's library. A segment
//! is opened with `O_DIRECT|O_DSYNC`, so that a write that has returned is durable. A file system
//! that refuses direct access gets buffered writes and `fdatasync`.
//!
//! The library reads what it must know of a device when the first file on it is opened, and that
//! blocks for a moment; it also takes for granted that the file is still there. Segments are only
//! removed after they were closed here.

use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use glommio::io::{BufferedFile, DmaFile, OpenOptions};
use shards::wal::BLOCK_BYTES;

/// Bytes written by one request to the kernel. Longer writes become several, so that the aligned
/// copy stays small.
const PIECE_BYTES_MAX: usize = 1 << 20;

/// A segment that is open for writing.
#[derive(Debug)]
pub enum SegmentFile {
    /// Past the page cache; each write is durable by itself.
    Direct(DmaFile),
    /// Through the page cache, with a sync after each write.
    Buffered(BufferedFile),
}

impl SegmentFile {
    /// Opens an existing file.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_DSYNC);
        let file = match options.dma_open(path).await {
            Ok(file) => SegmentFile::Direct(file),
            Err(error) => match io::Error::from(error) {
                error if is_refusal(&error) => SegmentFile::open_buffered(path).await?,
                error => return Err(error),
            },
        };
        file.lock()?;
        Ok(file)
    }

    async fn open_buffered(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).buffered_open(path).await?;
        Ok(SegmentFile::Buffered(file))
    }

    /// Locks the file until it is closed and no write to it is under way any more. A write outlives
    /// its process if that is killed, and whoever reads the log then must wait for it.
    fn lock(&self) -> io::Result<()> {
        let descriptor = match self {
            SegmentFile::Direct(file) => file.as_raw_fd(),
            SegmentFile::Buffered(file) => file.as_raw_fd(),
        };
        // SAFETY: a plain system call on a descriptor that `self` keeps open.
        match unsafe { libc::flock(descriptor, libc::LOCK_EX | libc::LOCK_NB) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Opens a file so that every write to it fails.
    #[cfg(test)]
    pub async fn open_read_only(path: &Path) -> io::Result<Self> {
        Ok(SegmentFile::Direct(OpenOptions::new().read(true).dma_open(path).await?))
    }

    /// Writes all of `bytes` at `offset` and returns once they are durable. Both are whole blocks.
    ///
    /// # Errors
    /// What the operating system says. What the file then holds is unknown.
    pub async fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut at = offset;
        for piece in bytes.chunks(PIECE_BYTES_MAX) {
            let mut left = piece;
            while !left.is_empty() {
                let written = self.write_some(at, left).await?;
                at += written as u64;
                left = left.get(written..).unwrap_or_default();
            }
        }
        match self {
            SegmentFile::Direct(_) => Ok(()),
            SegmentFile::Buffered(file) => Ok(file.fdatasync().await?),
        }
    }

    /// Writes some of `bytes`, at least a block.
    async fn write_some(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let written = match self {
            SegmentFile::Direct(file) => {
                let mut buffer = file.alloc_dma_buffer(bytes.len());
                buffer.as_bytes_mut().copy_from_slice(bytes);
                file.write_at(buffer, offset).await?
            }
            SegmentFile::Buffered(file) => file.write_at(bytes.to_vec(), offset).await?,
        };
        // A part of a block could not be continued: direct writes begin at blocks.
        match written - written % BLOCK_BYTES {
            0 => Err(io::ErrorKind::WriteZero.into()),
            whole => Ok(whole),
        }
    }

    /// Closes the file.
    pub async fn close(self) {
        let closed = match self {
            SegmentFile::Direct(file) => file.close().await,
            SegmentFile::Buffered(file) => file.close().await,
        };
        if let Err(error) = closed {
            tracing::warn!(%error, "a log segment could not be closed");
        }
    }
}

/// Whether a file system has refused direct access.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}
