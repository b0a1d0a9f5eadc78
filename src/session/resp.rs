//! RESP on a connection: takes requests apart, and keeps what HELLO and CLIENT change.

use proto::limits::KEY_BYTES_MAX;
use proto::resp::Version;
use proto::resp::encode;
use proto::resp::request::{Parsed, ProtocolError, RequestParser, TooLarge};

use crate::commands::{self, Execution};
use crate::session::context::SessionContext;
use crate::session::{BATCH_BYTES_MAX, Connection, Received};

/// Which replies a connection gets (CLIENT REPLY).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    /// All.
    #[default]
    On,
    /// None.
    Off,
    /// All but the one to the next command.
    SkipNext,
    /// All but the one to the command under way.
    Skip,
}

/// What a RESP connection has been set to.
#[derive(Clone, Copy, Debug, Default)]
pub struct RespSettings {
    /// The version of the protocol.
    pub version: Version,
    /// Which replies it gets.
    pub reply_mode: ReplyMode,
}

/// The state of a connection that speaks RESP.
#[derive(Debug, Default)]
pub struct RespState {
    parser: RequestParser,
    settings: RespSettings,
}

impl RespState {
    /// Takes whole requests from the front of `input`, as many as the limits allow.
    pub fn receive(
        &mut self,
        connection: &mut Connection,
        input: &[u8],
        context: &mut SessionContext<'_>,
    ) -> Received {
        let argument_bytes_max = context.facts.value_bytes_max.max(KEY_BYTES_MAX);
        let mut consumed = 0;
        let mut last_command = None;
        let mut commands = 0;
        let needed = loop {
            if !connection.wants_input() || context.requests.bytes_len() > BATCH_BYTES_MAX {
                break 0;
            }
            let rest = input.get(consumed..).unwrap_or_default();
            match self.parser.parse(rest, argument_bytes_max) {
                Ok(Parsed::Incomplete { needed }) => break needed,
                Ok(Parsed::Request { consumed: length }) => {
                    let arguments = self.parser.arguments(rest);
                    let mut execution = Execution {
                        connection: &mut *connection,
                        settings: &mut self.settings,
                        context: &mut *context,
                        only_reads: false,
                    };
                    last_command = commands::execute(&mut execution, arguments).or(last_command);
                    commands += 1;
                    consumed += length;
                }
                Ok(Parsed::Ignored { consumed: length } | Parsed::Skipped { consumed: length }) => {
                    consumed += length;
                }
                Ok(Parsed::TooLarge { consumed: length, reason }) => {
                    consumed += length;
                    answer_too_large(connection, reason, argument_bytes_max, context);
                }
                Err(error) => {
                    answer_protocol_error(connection, error, context);
                    break 1;
                }
            }
        };
        if commands > 0 {
            context.counters.commands += commands;
            if let Some(client) = connection.client(context.clients) {
                client.active = context.now.monotonic;
                client.commands += commands;
                client.last_command = last_command.unwrap_or(client.last_command);
            }
        }
        Received { consumed, needed }
    }

    /// Whether a request has begun and not ended.
    pub fn is_within_request(&self) -> bool {
        self.parser.is_within_request()
    }
}

fn answer_too_large(
    connection: &mut Connection,
    reason: TooLarge,
    limit: usize,
    context: &mut SessionContext<'_>,
) {
    let text = match reason {
        TooLarge::Argument(bytes) => {
            format!("ERR an argument of {bytes} bytes exceeds the limit of {limit} bytes")
        }
        TooLarge::Request => format!(
            "ERR the request exceeds the limit of {} bytes",
            proto::limits::REQUEST_BYTES_MAX
        ),
    };
    context.counters.refused += 1;
    connection.replies.answer(context.buffers, |out| encode::error(out, text.as_bytes()));
}

fn answer_protocol_error(
    connection: &mut Connection,
    error: ProtocolError,
    context: &mut SessionContext<'_>,
) {
    context.counters.protocol_errors += 1;
    tracing::debug!(peer = %connection.peer(), %error, "closed for what it sent");
    let text = format!("ERR {error}");
    connection.replies.answer(context.buffers, |out| encode::error(out, text.as_bytes()));
    connection.close_after_replies();
}
