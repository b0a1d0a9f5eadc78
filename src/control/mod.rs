//! The control thread.

pub mod messages;

use std::time::Duration;

/// How long the cores have to hand their leaderships over before a stop.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
