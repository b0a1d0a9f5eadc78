//! Sockets, timers and tasks of a core, on top of the executor.
//!
//! [`runtime`] is the one place that names the executor's types: everything above it waits for
//! readiness, sleeps and spawns through it, so that the executor can be exchanged. [`stream`]
//! moves bytes with plain non-blocking calls and asks the executor only when a call would block.
//! [`listener`] binds, [`accept`] accepts. [`interrupts`] keeps waits from lasting for ever.
//! [`readiness`] tells which of many sockets have something to receive.
//!
//! Nothing here knows what the bytes mean.

pub mod accept;
pub mod input;
pub mod interrupts;
pub mod listener;
pub mod readiness;
pub mod runtime;
pub mod stream;
