//! Where log lines go and how they look.
//!
//! They go to the standard error output: the standard output belongs to what a command prints. A
//! terminal gets lines for people; anything else gets one JSON object per line, for what collects
//! logs. An error means that a human must look, a warning that one may want to.
//!
//! A thread of its own writes the lines, since whoever reads them may be slow or stand still, and a
//! core must not wait for that. Lines beyond [`LINES_MAX`] that wait are dropped. What waits when
//! the process ends is written by [`flush`].

use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, PoisonError};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;

use crate::config::LogFormat;

/// Lines that may wait to be written: some megabytes.
const LINES_MAX: usize = 16_384;

/// Whose end has the waiting lines written.
static GUARD: Mutex<Option<WorkerGuard>> = Mutex::new(None);

/// Installs the log for the rest of the process. `filter` was checked with the configuration;
/// the second call in one process changes nothing.
pub fn init(filter: &str, format: LogFormat) {
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Pretty => false,
        LogFormat::Auto => !io::stderr().is_terminal(),
    };
    let (lines, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_MAX)
        .thread_name("log")
        .finish(io::stderr());
    let builder = SubscriberBuilder::default()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(lines)
        .with_ansi(io::stderr().is_terminal());
    let installed = match json {
        true => builder.json().flatten_event(true).with_current_span(false).try_init(),
        false => builder.try_init(),
    };
    match installed {
        Ok(()) => *GUARD.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard),
        Err(error) => tracing::debug!(error, "the log was installed before"),
    }
}

/// Writes what waits, before the process ends. Waits for a second at most; the log is over then.
pub fn flush() {
    drop(GUARD.lock().unwrap_or_else(PoisonError::into_inner).take());
}
