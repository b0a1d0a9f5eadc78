//! The commands: what a client's words mean to the engine, or what the server answers by itself.
//!
//! [`table`] lists every RESP command with its handler; the families have a file each. A handler
//! checks its arguments and does exactly one thing: it answers, or it sends requests to the
//! engine whose outcome [`render`] puts into words. It never waits.
//!
//! On the any-core port every key is served. On a core port, keys whose leader is known to be
//! elsewhere get MOVED, keys of several slots get CROSSSLOT, and a shard without a known leader is
//! left to the engine, where the request waits for the next one. After READONLY, reads of what the
//! core follows are served as well.

pub mod binary;
mod cluster;

mod connection;
mod describe;
pub mod errors;
mod keys;
pub mod render;
mod server;
mod server_info;
mod strings;
pub mod table;

use proto::limits::KEY_BYTES_MAX;
use proto::resp::request::Arguments;
use proto::resp::{Version, encode};
use proto::slot;
use shards::command::{Command, Operation, ReadFrom};
use shards::ids::ShardId;

use crate::cluster_map::{Member, Ownership};
use crate::session::context::SessionContext;
use crate::session::replies::{Aggregate, ReplyContext};
use crate::session::resp::{ReplyMode, RespSettings};
use crate::session::{Connection, PortKind};

use render::{RespReply, Shape};
use table::CommandSpec;

/// Everything a handler may touch.
#[derive(Debug)]
pub struct Execution<'s, 'c> {
    /// The connection the command came on.
    pub connection: &'s mut Connection,
    /// What that connection has been set to.
    pub settings: &'s mut RespSettings,
    /// The core it runs on.
    pub context: &'s mut SessionContext<'c>,
    /// Whether the command under way only reads.
    pub only_reads: bool,
}

/// Carries a command out, or answers why not. Returns its name if there is such a command.
pub fn execute(
    execution: &mut Execution<'_, '_>,
    arguments: Arguments<'_>,
) -> Option<&'static str> {
    let is_skipped = execution.settings.reply_mode == ReplyMode::SkipNext;
    if is_skipped {
        execution.settings.reply_mode = ReplyMode::Skip;
    }
    let spec = table::find(arguments.at(0));
    match spec {
        Some(spec) => dispatch(execution, spec, arguments),
        None => unknown_command(execution, arguments),
    }
    if is_skipped && execution.settings.reply_mode == ReplyMode::Skip {
        execution.settings.reply_mode = ReplyMode::On;
    }
    spec.map(|spec| spec.name)
}

fn dispatch(
    execution: &mut Execution<'_, '_>,
    container: &'static CommandSpec,
    arguments: Arguments<'_>,
) {
    let mut spec = container;
    let mut subcommand = None;
    if !container.subcommands.is_empty() && arguments.len() > 1 {
        match container.find_subcommand(arguments.at(1)) {
            Some(found) => (spec, subcommand) = (found, Some(found.name)),
            None => {
                let text = format!(
                    "ERR unknown subcommand '{}'. Try {} HELP.",
                    shown(arguments.at(1), 128),
                    container.name.to_ascii_uppercase()
                );
                return execution.error(&text);
            }
        }
    }
    execution.only_reads = spec.flags.has(table::READ);
    if spec.accepts(arguments.len()) {
        return (spec.handler)(execution, arguments);
    }
    if arguments.iter().any(|argument| argument.starts_with(b"HTTP/")) {
        return execution.refuse_foreign_protocol("HTTP");
    }
    match subcommand {
        Some(subcommand) => {
            execution.wrong_number_of_arguments(&format!("{}|{subcommand}", container.name));
        }
        None => execution.wrong_number_of_arguments(spec.name),
    }
}

/// Words that other protocols start with, and no command does.
const FOREIGN_WORDS: &[(&str, &str)] = &[
    ("post", "HTTP"),
    ("host:", "HTTP"),
    ("put", "HTTP"),
    ("head", "HTTP"),
    ("options", "HTTP"),
    ("patch", "HTTP"),
    ("delete", "HTTP"),
    ("connect", "HTTP"),
    ("pri", "HTTP/2"),
];

fn unknown_command(execution: &mut Execution<'_, '_>, arguments: Arguments<'_>) {
    let name = arguments.at(0);
    if name.starts_with(b"SSH-") {
        return execution.refuse_foreign_protocol("SSH");
    }
    // Some of these words are plausible typing errors, so they need a sign of HTTP with them.
    let is_certain = name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:");
    if (is_certain || arguments.iter().any(|argument| argument.starts_with(b"HTTP/")))
        && let Some((_, protocol)) =
            FOREIGN_WORDS.iter().find(|(word, _)| name.eq_ignore_ascii_case(word.as_bytes()))
    {
        return execution.refuse_foreign_protocol(protocol);
    }
    let mut shown_arguments = String::new();
    for argument in arguments.iter().skip(1) {
        if shown_arguments.len() >= 128 {
            break;
        }
        let room = 128 - shown_arguments.len();
        shown_arguments.push_str(&format!("'{}' ", shown(argument, room)));
    }
    let name = shown(name, 128);
    execution.error(&format!(
        "ERR unknown command '{name}', with args beginning with: {shown_arguments}"
    ));
}

/// At most `length` bytes of what a client sent, for a message.
fn shown(text: &[u8], length: usize) -> String {
    String::from_utf8_lossy(text.get(..length).unwrap_or(text)).into_owned()
}

impl Execution<'_, '_> {
    /// Whether the client wants no reply to this command.
    fn is_silent(&self) -> bool {
        matches!(self.settings.reply_mode, ReplyMode::Off | ReplyMode::Skip)
    }

    /// Answers at once, in the place of this command.
    fn answer(&mut self, write: impl FnOnce(&mut Vec<u8>, Version)) {
        if !self.is_silent() {
            let version = self.settings.version;
            self.connection.replies.answer(self.context.buffers, |out| write(out, version));
        }
    }

    fn ok(&mut self) {
        self.answer(|out, _| encode::ok(out));
    }

    /// Answers with an error, whose code stands in front.
    fn error(&mut self, text: &str) {
        self.context.counters.refused += 1;
        self.answer(|out, _| encode::error(out, text.as_bytes()));
    }

    fn wrong_number_of_arguments(&mut self, name: &str) {
        self.error(&format!("ERR wrong number of arguments for '{name}' command"));
    }

    fn refuse_foreign_protocol(&mut self, name: &str) {
        crate::session::refuse_foreign_protocol(self.connection, name, self.context);
    }

    fn reply_context(&self, shape: Shape) -> ReplyContext {
        ReplyContext::Resp(RespReply {
            shape,
            version: self.settings.version,
            is_silent: self.is_silent(),
        })
    }

    /// The shard of `key`; or, after an error was answered, nothing.
    fn route(&mut self, key: &[u8]) -> Option<ShardId> {
        if !self.check_key(key) {
            return None;
        }
        let slot = slot::slot_of(key);
        let shard = self.context.cluster.shard_of_slot(slot);
        self.check_ownership(slot, shard).then_some(shard)
    }

    /// Whether `keys` may be served together here; if not, an error was answered.
    fn check_keys<'k>(&mut self, keys: impl Iterator<Item = &'k [u8]>) -> bool {
        let must_share = self.connection.port() == PortKind::Core;
        let mut common = None;
        for key in keys {
            if !self.check_key(key) {
                return false;
            }
            if !must_share {
                continue;
            }
            let slot = slot::slot_of(key);
            if *common.get_or_insert(slot) != slot {
                self.error(errors::CROSS_SLOT);
                return false;
            }
        }
        match common {
            Some(slot) => self.check_ownership(slot, self.context.cluster.shard_of_slot(slot)),
            None => true,
        }
    }

    fn check_key(&mut self, key: &[u8]) -> bool {
        if key.len() <= KEY_BYTES_MAX {
            return true;
        }
        let length = key.len();
        self.error(&format!("ERR a key of {length} bytes exceeds the limit of {KEY_BYTES_MAX}"));
        false
    }

    fn check_value(&mut self, value: &[u8]) -> bool {
        let limit = self.context.facts.value_bytes_max;
        if value.len() <= limit {
            return true;
        }
        let length = value.len();
        self.error(&format!("ERR a value of {length} bytes exceeds the limit of {limit}"));
        false
    }

    fn check_ownership(&mut self, slot: u16, shard: ShardId) -> bool {
        if self.connection.port() == PortKind::AnyCore {
            return true;
        }
        match self.context.cluster.ownership(shard) {
            Ownership::Here | Ownership::Unknown => true,
            Ownership::Elsewhere(_) if self.may_read_here(shard) => true,
            Ownership::Elsewhere(member) => {
                self.answer_moved(slot, member);
                false
            }
        }
    }

    /// Whether the command is a read that this core's replica may answer.
    fn may_read_here(&self, shard: ShardId) -> bool {
        self.only_reads
            && self.connection.replies.read_from() != ReadFrom::Leader
            && self.context.cluster.holds(shard)
    }

    fn answer_moved(&mut self, slot: u16, member: Member) {
        let (host, port) = self.context.cluster.advertised_address(member);
        self.context.counters.redirections += 1;
        self.error(&format!("MOVED {slot} {host}:{port}"));
    }

    /// Sends one request to the engine, whose outcome is the reply.
    fn request(&mut self, shape: Shape, shard: ShardId, key: &[u8], operation: Operation<'_>) {
        let context = self.reply_context(shape);
        let command = Command { key, operation };
        self.connection.replies.request(context, shard, &command, self.context.requests);
    }

    /// Sends the request of a command with one key, at position 1 of its arguments.
    fn request_key(&mut self, shape: Shape, arguments: Arguments<'_>, operation: Operation<'_>) {
        let key = arguments.at(1);
        if let Some(shard) = self.route(key) {
            self.request(shape, shard, key, operation);
        }
    }

    /// Sends one request per item, and combines the outcomes. The keys were checked.
    fn request_parts<'k>(
        &mut self,
        shape: Shape,
        aggregate: Aggregate,
        commands: impl Iterator<Item = Command<'k>>,
    ) {
        let context = self.reply_context(shape);
        let replies = &mut self.connection.replies;
        replies.begin_parts(context, aggregate, b"");
        for command in commands {
            let shard = self.context.cluster.shard_of_key(command.key);
            replies.part(shard, &command, self.context.requests);
        }
        replies.end_parts(self.context.buffers);
    }

    /// Sends `operation` to every shard that this port speaks for: all of them, or those this
    /// core leads.
    fn request_shards(&mut self, shape: Shape, aggregate: Aggregate, operation: Operation<'_>) {
        self.request_where(shape, aggregate, operation, |is_core_port, ownership| {
            !is_core_port || ownership == Ownership::Here
        });
    }

    /// The same for all shards, whatever the port.
    fn request_all_shards(&mut self, shape: Shape, aggregate: Aggregate, operation: Operation<'_>) {
        self.request_where(shape, aggregate, operation, |_, _| true);
    }

    fn request_where(
        &mut self,
        shape: Shape,
        aggregate: Aggregate,
        operation: Operation<'_>,
        is_asked: impl Fn(bool, Ownership) -> bool,
    ) {
        let context = self.reply_context(shape);
        let is_core_port = self.connection.port() == PortKind::Core;
        let replies = &mut self.connection.replies;
        replies.begin_parts(context, aggregate, b"");
        for shard in self.context.cluster.shards() {
            if !is_asked(is_core_port, self.context.cluster.ownership(shard)) {
                continue;
            }
            replies.part(shard, &Command { key: b"", operation }, self.context.requests);
        }
        replies.end_parts(self.context.buffers);
    }
}

#[cfg(test)]
mod tests;
