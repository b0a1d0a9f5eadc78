//! The memcached binary protocol, with the vbucket field and frame extras of its later dialect.
//!
//! Both directions of both sides are here: a server parses [`Request`]s and encodes responses
//! through [`Echo`], a client encodes requests and parses [`Response`]s. Parsing works in place on
//! whatever has been received so far and allocates nothing; encoding appends to a `Vec<u8>`.
//! docs/protocol.md specifies what the server makes of the requests.
//!
//! Invariants: no input makes a parser panic; a result depends on the bytes alone and not on how
//! they were split; a reported length never exceeds the bytes given, except where it says so; no
//! announced length is used before it was compared with a limit.

mod frame;
mod request;
mod response;
mod status;

pub use frame::{
    Echo, FLEXIBLE_REQUEST_MAGIC, FLEXIBLE_RESPONSE_MAGIC, FrameError, HEADER_BYTES, REQUEST_MAGIC,
    RESPONSE_MAGIC,
};
pub use request::{
    Command, Direction, EncodeError, End, KEY_BYTES_MAX, Limits, Loudness, NO_CREATE,
    ParsedRequest, Refusal, Request, ReturnKey, SKIPPED_BODY_BYTES_MAX, StoreMode, VALUE_BYTES_MAX,
    features, packet_bytes_max, parse_request,
};
pub use response::{ParsedResponse, Response, parse_response};
pub use status::{Class, Status};

#[cfg(test)]
mod tests;
