//! The loop of one core.
mod clock;
mod signal;
mod table;
