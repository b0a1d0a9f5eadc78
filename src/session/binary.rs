//! memcached's binary protocol on a connection: cuts the input into requests, and skips what is
//! refused.
//!
//! A request that is refused by its header is answered before its body has arrived, and the body
//! is dropped as it comes in, so that a value above the limit never takes more memory than one
//! receive. Only what makes the rest of the stream unreadable ends the connection: lengths that
//! contradict each other, a body too long even to be skipped, a foreign first byte. What was taken
//! before is still answered then.

use proto::memcached::{FrameError, Limits, ParsedRequest, parse_request};

use super::{BATCH_BYTES_MAX, Connection, Received};
use crate::commands::binary::{self, BinarySettings};
use crate::session::context::SessionContext;

/// The state of a connection that speaks the binary protocol.
#[derive(Debug, Default)]
pub struct BinaryState {
    settings: BinarySettings,
    /// Bytes of a refused request that have not arrived.
    skip: usize,
    is_within_request: bool,
}

impl BinaryState {
    /// Takes whole requests from the front of `input`, as many as the limits allow.
    pub fn receive(
        &mut self,
        connection: &mut Connection,
        input: &[u8],
        context: &mut SessionContext<'_>,
    ) -> Received {
        let (mut consumed, mut commands, mut last_command) = (0, 0, None);
        let needed = loop {
            consumed += self.skip(input.len() - consumed);
            if self.skip > 0 {
                break 1;
            }
            if !connection.wants_input() || context.requests.bytes_len() > BATCH_BYTES_MAX {
                break 0;
            }
            let rest = input.get(consumed..).unwrap_or_default();
            let limits = Limits {
                key_bytes_max: self.settings.features.key_bytes_max(),
                value_bytes_max: u32::try_from(context.facts.value_bytes_max).unwrap_or(u32::MAX),
            };
            match parse_request(rest, &limits) {
                Ok(ParsedRequest::Incomplete { needed }) => {
                    self.is_within_request = !rest.is_empty();
                    break needed - rest.len();
                }
                Ok(ParsedRequest::Request { request, length }) => {
                    consumed += length;
                    commands += 1;
                    last_command = Some(binary::name(&request.command));
                    binary::dispatch(&request, &mut self.settings, connection, context);
                }
                Ok(ParsedRequest::Refused { echo, refusal, length }) => {
                    self.skip = length;
                    commands += 1;
                    let text = refusal.to_string();
                    binary::refuse(echo, refusal.status(), &text, connection, context);
                }
                Err(error) => {
                    end_stream(error, connection, context);
                    break 1;
                }
            }
        };
        if commands > 0 {
            context.counters.commands += commands;
            if let Some(client) = connection.client(context.clients) {
                client.protocol = 0;
                client.active = context.now.monotonic;
                client.commands += commands;
                client.last_command = last_command.unwrap_or(client.last_command);
            }
        }
        Received { consumed, needed }
    }

    /// How many of the next `available` bytes belong to a refused request.
    fn skip(&mut self, available: usize) -> usize {
        let skipped = self.skip.min(available);
        self.skip -= skipped;
        self.is_within_request = self.skip > 0;
        skipped
    }

    /// Whether a request has begun and not ended.
    pub fn is_within_request(&self) -> bool {
        self.is_within_request
    }
}

/// Answers what can be answered, and takes no more input.
fn end_stream(error: FrameError, connection: &mut Connection, context: &mut SessionContext<'_>) {
    context.counters.protocol_errors += 1;
    tracing::debug!(peer = %connection.peer(), %error, "closed for what it sent");
    if let Some(echo) = error.echo() {
        let text = error.to_string();
        connection.replies.answer(context.buffers, |out| {
            echo.error(out, error.status(), text.as_bytes());
        });
    }
    connection.close_after_replies();
}

#[cfg(test)]
mod tests;
