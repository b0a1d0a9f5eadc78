//! Coracle's Rust client: it finds the server of a key, pipelines, and says of every error
//! whether the request can have happened.
//!
//! [`Client`] is for programs. Its parts are sans-IO and public, because the load generator
//! drives them from an event loop of its own: [`ClusterMap`] (the resolver's result, fetched by
//! [`fetch_map`]), [`Picker`] (leader or replica), [`Channel`] (requests in flight on one
//! connection), [`Protocol`] (commands and answers as bytes).
//!
//! It speaks to Redis, Redis Cluster and memcached (binary protocol) as well as to Coracle. Not
//! here: TLS, authentication, commands on several keys.

mod address;
mod channel;
mod client;
mod cluster_map;
mod command;
mod error;
mod link;
mod map_source;
mod picker;
mod wire;

pub use address::Address;
pub use channel::{ANSWER_BYTES_MAX, Channel, ChannelError, PushError, Ticket};
pub use client::{Client, Options, Routing};
pub use cluster_map::{ClusterMap, MapError, SERVERS_MAX, ServerIndex};
pub use command::{Command, Condition, Reply, SetOptions, Value};
pub use error::{Class, Error};
pub use map_source::{fetch_map, round_trip};
pub use picker::{Picker, ReadFrom};
pub use wire::{
    ASKING, Answer, CLUSTER_SLOTS, DecodeError, Decoded, EncodeError, Protocol, READONLY,
    READONLY_STALE, Redirect, RedirectScope, Refusal,
};
