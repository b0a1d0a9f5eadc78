//! The binary through its sockets: clusters of real processes on loopback addresses.
//!
//! One cluster at a time, since the machines are small and locked memory is limited per user;
//! every cluster has a loopback network of its own, so that nothing collides with what else runs.
//! Waiting is for conditions with a deadline. No product code is used here, only the binary.

mod cluster;
#[cfg(feature = "defects")]
mod damage;
mod durability;
mod failover;
mod http;
mod large_values;
mod leadership;
mod limits;
mod malformed;
mod recency;
mod recovery;
mod rolling;
mod routing;
mod wire;
