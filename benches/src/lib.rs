//! Micro benchmarks live in `benches/benches/` and `benches/instructions/`; this library holds what
//! they share.

pub mod allocations;
pub mod cluster;
