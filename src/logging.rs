//! Where log lines go and how they look.
//!
//! They go to the standard error output: the standard output belongs to what a command prints. A
//! terminal gets lines for people; anything else gets one JSON object per line, for what collects
//! logs. An error means that a human must look, a warning that one may want to.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;

use crate::config::LogFormat;

/// Installs the log for the rest of the process. `filter` was checked with the configuration;
/// the second call in one process changes nothing.
pub fn init(filter: &str, format: LogFormat) {
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Pretty => false,
        LogFormat::Auto => !io::stderr().is_terminal(),
    };
    let builder = SubscriberBuilder::default()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let installed = match json {
        true => builder.json().flatten_event(true).with_current_span(false).try_init(),
        false => builder.try_init(),
    };
    if let Err(error) = installed {
        tracing::debug!(error, "the log was installed before");
    }
}
