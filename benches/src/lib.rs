//! Micro benchmarks live in `benches/benches/`; this library holds what they share.
