//! Coracle's wire protocols: from bytes to requests and replies, and back.
//!
//! Everything here works on buffers that others fill and send. There is no IO, no clock, no
//! async. Parsers read in place, never panic on any input, and never allocate by an announced
//! length; what a peer or client sends is a value or an error.

pub mod limits;
pub mod memcached;
pub mod peer;
pub mod resp;
pub mod slot;

#[cfg(test)]
mod seeded;
