//! The engine: everything that decides what Coracle holds and says, as one deterministic state
//! machine per core, without IO.
//!
//! [`engine::Core`] takes inputs and appends to outputs ([`contract`]). It owns the replicas of the
//! core's shards: each a Raft group member over a store whose state is a pure function of the
//! log. There are no clocks, threads, files, sockets and no randomness from outside; `clippy.toml`
//! of this crate refuses them. It knows nothing of client protocols.

pub mod command;
pub mod contract;
#[cfg(feature = "defects")]
pub mod defect;
#[cfg(not(feature = "defects"))]
mod defect;
pub mod engine;
pub mod entry;
pub mod ids;
pub mod placement;
mod raft_log;
mod reader;
pub mod reply;
pub mod store;
mod upkeep;
pub mod wal;
