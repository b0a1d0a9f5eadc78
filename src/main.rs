//! The `coracle` binary: the server and its command line.
//!
//! This crate is the only code that knows sockets, files, clocks and threads. The engine is the
//! crate `shards`, the bytes on the wire are the crate `proto`.

mod cli;
mod cluster_map;
mod commands;
mod config;
mod control;
mod core_loop;
mod disk;
mod logging;
mod mesh;
mod net;
mod node;
mod peers;
mod session;
mod startup;

use std::process::ExitCode;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let code = cli::run(node::run);
    logging::flush();
    code
}
