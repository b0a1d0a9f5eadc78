//! Coracle's load generator: honest tail latency for binary, RESP and etcd servers.
//!
//! [`run`] takes [`Options`] and returns a [`Report`]; `coracle-loadgen` and `coracle demo` are
//! both made of it. One thread drives many connections with an event loop of its own and shares
//! nothing with the others while requests run.
//!
//! What its figures mean: in a closed loop latency counts from the send. In an open loop it
//! counts from the time the request was due, so the wait that a slow server causes shows even
//! where no request was under way. A request that fails has no latency; it is counted by what is
//! known about it. The generator also measures itself and warns when it was the bottleneck.

mod arrivals;
pub mod cli;
mod connection;
mod cpu;
pub mod csv;
mod etcd;
mod events;
mod goal;
pub mod hdr_log;
mod keys;
mod newest;
mod options;
mod page;
mod plot;
mod presets;
mod random;
mod record;
mod replay;
mod report;
mod run;
mod search;
mod second;
mod shape;
mod shards;
mod timer;
mod trace;
#[cfg(test)]
mod truth;
pub mod units;
mod values;
mod wire;
mod worker;
mod workload;

pub use arrivals::Arrivals;
pub use client::Address;
pub use events::{Action, Event, Plan};
pub use goal::Goal;
pub use keys::{DEFAULT_THETA, Distribution, KeyChooser, THETA_MAX};
pub use options::{
    CONNECTIONS_MAX, KEY_DIGITS, Mode, OPEN_PIPELINE_DEFAULT, Options, PIPELINE_MAX, Pacing,
    ROWS_MAX, SPEED_MAX, THREADS_MAX, TimeToLive, Writes,
};
pub use page::{Named, compare, page};
pub use presets::Preset;
pub use random::{Random, mix};
pub use record::{Counts, Phase};
pub use replay::Misses;
pub use report::{
    Errors, Generator, Latency, Report, SecondSummary, Setting, StageSummary, TraceSummary,
};
pub use run::{Error, run};
pub use search::{BoundedBy, Outcome, SearchOptions, Trial, Verdict, search};
pub use second::Second;
pub use shape::{Shape, Stage};
pub use shards::{ShardSummary, UNAVAILABLE_NS_MIN, Window};
pub use trace::{
    RECORD_BYTES, TRACE_KEY_BYTES_MAX, TRACE_REQUESTS_DEFAULT, TRACE_REQUESTS_MAX, Trace,
};
pub use values::ValueSize;
