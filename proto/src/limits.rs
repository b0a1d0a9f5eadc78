//! Limits of what a client may send or be owed, each with its reason.
//!
//! They bound memory and time per connection before anything is allocated. Settings may lower
//! some of them, none may raise them. Tests hold each at its value, one below and one above.

/// Longest key, in bytes: the length field of the encoded command has 16 bits.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;

/// Longest value that any setting may allow, in bytes. A value travels in one log entry and one
/// peer frame; larger ones would hold up everything behind them for too long.
pub const VALUE_BYTES_MAX: usize = 16 << 20;

/// Longest value unless the settings say otherwise, in bytes: memcached's default.
pub const VALUE_BYTES_DEFAULT: usize = 1 << 20;

/// Most arguments of one request: what Redis allowed for years, and far above honest use.
pub const ARGUMENTS_MAX: usize = 1_048_576;

/// Longest announced bulk string that is skipped with an error, in bytes, while the connection
/// lives on; above it the connection is closed. It is Redis' default `proto-max-bulk-len`.
pub const BULK_SKIP_BYTES_MAX: u64 = 512 << 20;

/// Most bytes one whole request may keep in the input buffer. An MSET above it is answered with
/// an error. Four of the largest values fit.
pub const REQUEST_BYTES_MAX: usize = 4 * VALUE_BYTES_MAX + (1 << 20);

/// Longest inline command, in bytes: Redis' `PROTO_INLINE_MAX_SIZE`.
pub const INLINE_BYTES_MAX: usize = 64 << 10;

/// Longest line that announces a number in a request, with its line end, in bytes. A number has
/// at most 20 digits, therefore a longer line is refused as soon as that is known.
pub const NUMBER_LINE_BYTES_MAX: usize = 32;

/// Deepest nesting of aggregates a reply may have. Redis itself stays below 8.
pub const REPLY_DEPTH_MAX: usize = 32;

/// Requests of one connection that may wait for their replies; above it no more input is taken.
/// Deep enough for one round trip between nodes at the rate one core sustains.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 1_024;

/// Bytes of unsent replies of one connection above which no more input is taken.
pub const OUTPUT_HIGH_WATER_BYTES: usize = 1 << 20;

/// Bytes of unsent replies of one connection above which it is closed. Requests that are already
/// under way when the high-water mark is reached may still fill it up to here.
pub const OUTPUT_BYTES_MAX: usize = 64 << 20;

/// Longest connection name or library name a client may set, in bytes, so that 10,000
/// connections cannot fill the memory with names.
pub const CLIENT_NAME_BYTES_MAX: usize = 256;
