//! The `coracle` binary: the server and its command line.
//!
//! This crate is the only code that knows sockets, files, clocks and threads. The engine is the
//! crate `shards`, the bytes on the wire are the crate `proto`.

mod config;
mod control;
mod core_loop;
mod mesh;
mod net;
mod startup;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() {}
