//! The commands of the memcached binary protocol: from a parsed request to engine commands or an
//! answer at once, and from the engine's replies to responses.
//!
//! # Which shard a request is for
//!
//! Stock clients know no vbuckets and send 0 in that field, so it cannot be believed everywhere:
//! - After a HELO that negotiated strict vbuckets, on any port, the field names the shard. If the
//!   key belongs to another shard the request is refused as invalid; if this core does not lead
//!   the shard, the answer is NOT_MY_VBUCKET with the cluster map.
//! - Without it, on a core port, a field other than 0 is checked in the same way: whoever fills it
//!   in means it. With 0 the key is hashed, and the engine forwards what this core does not lead.
//! - Without it, on the any-core port, the field is ignored and the key hashed.
//! - A read that any replica may answer is served by every core that has one.
//!
//! A shard without a known leader is nobody's: such requests go to the engine, where they wait for
//! the next leader.
//!
//! # What is silent
//!
//! Quiet requests answer what is unusual: a quiet read answers a hit, every other quiet command
//! answers a failure. Responses keep the order of their requests.
//!
//! What this file does not do: it cuts no bytes into requests (`session::binary`), and keeps no
//! order (`session::replies`).

mod cluster_config;
mod expiration;
mod features;
mod frame_extras;
mod stats;
mod status;

use proto::memcached::{
    self, Command, Direction, Echo, End, Loudness, NO_CREATE, Request, ReturnKey, StoreMode,
};
use shards::command::{
    Command as EngineCommand, ExpireCondition, Operation, ReadFrom, SetCondition,
};
use shards::ids::{ShardId, Version};
use shards::reply::{Reply, Status};

use crate::cluster_map::{ClusterMap, Ownership};
use crate::session::replies::{Aggregate, ReplyContext};
use crate::session::{Connection, PortKind, SessionContext};
use expiration::expiry;
pub use features::Features;
use frame_extras::FrameExtras;
use status::{Context, wire_status, wire_text};

/// What the response to a success consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Success {
    /// Flags and value; the key too if the request left it with the reply queue.
    Value(ReturnKey),
    /// Flags.
    Flags,
    /// The version of what was stored.
    Stored,
    /// The same for an append or a prepend, whose failures have other names.
    Extended,
    /// The counter and its version.
    Counter,
    /// Nothing.
    Nothing,
}

/// What it takes to put an outcome into words.
#[derive(Clone, Copy, Debug)]
pub struct BinaryReply {
    echo: Echo,
    loudness: Loudness,
    success: Success,
}

impl BinaryReply {
    /// Appends the response to `out`, or nothing where the request was quiet about it. `key` is
    /// what the request left with the reply queue.
    pub fn render(self, reply: &Reply, value: Option<&[u8]>, key: &[u8], out: &mut Vec<u8>) {
        if reply.status == Status::Ok {
            return self.render_success(reply, value.unwrap_or_default(), key, out);
        }
        if let (Success::Value(return_key), Status::NotFound) = (self.success, reply.status) {
            match (self.loudness, return_key) {
                (Loudness::Quiet, _) => return,
                (Loudness::Loud, ReturnKey::Yes) => return self.echo.miss_with_key(out, key),
                (Loudness::Loud, ReturnKey::No) => {}
            }
        }
        let context =
            if self.success == Success::Extended { Context::Extend } else { Context::Other };
        let wire = wire_status(reply.status, context);
        self.echo.error(out, wire, wire_text(reply.status, wire).as_bytes());
    }

    fn render_success(self, reply: &Reply, value: &[u8], key: &[u8], out: &mut Vec<u8>) {
        if let Success::Value(_) = self.success {
            return self.echo.value(out, reply.version.0, reply.flags, key, value);
        }
        if self.loudness == Loudness::Quiet {
            return;
        }
        match self.success {
            Success::Flags => self.echo.value(out, reply.version.0, reply.flags, b"", b""),
            Success::Stored | Success::Extended => self.echo.ok(out, reply.version.0),
            Success::Counter => self.echo.counter(out, reply.version.0, reply.number),
            Success::Value(_) | Success::Nothing => self.echo.ok(out, 0),
        }
    }
}

/// What a connection of this protocol has been set to, and has been told.
#[derive(Clone, Copy, Debug, Default)]
pub struct BinarySettings {
    /// What its client negotiated.
    pub features: Features,
    /// The revision of the cluster map that was sent last; 0 for none.
    sent_revision: u64,
}

/// Carries out `request`: pushes commands for the engine, or answers at once in its place.
pub fn dispatch(
    request: &Request<'_>,
    settings: &mut BinarySettings,
    connection: &mut Connection,
    context: &mut SessionContext<'_>,
) {
    let echo = Echo { opcode: request.opcode().unwrap_or_default(), opaque: request.opaque };
    let extras = match FrameExtras::read(request.frame_extras, &request.command) {
        Ok(extras) => extras,
        Err(status) => return refuse(echo, status, status.text(), connection, context),
    };
    connection.replies.set_read_from(extras.read_from);
    if let Some((key, operation, success)) = engine_command(request, extras.peek) {
        let reply = BinaryReply { echo, loudness: request.loudness, success };
        let command = EngineCommand { key, operation };
        return keyed(reply, request.vbucket, &command, settings, connection, context);
    }
    let (replies, buffers) = (&mut connection.replies, &mut *context.buffers);
    match request.command {
        Command::Quit => {
            if request.loudness == Loudness::Loud {
                replies.answer(buffers, |out| echo.ok(out, 0));
            }
            connection.close_after_replies();
        }
        Command::Flush { expiration: None | Some(0) } => {
            flush(echo, request.loudness, settings.features, connection, context);
        }
        Command::Flush { expiration: Some(_) } => {
            let status = memcached::Status::INVALID_ARGUMENTS;
            refuse(echo, status, "Invalid arguments: no delayed flush", connection, context);
        }
        Command::Version => {
            replies.answer(buffers, |out| echo.body(out, stats::MEMCACHED_VERSION.as_bytes()));
        }
        Command::Stat { group } => {
            let (now, cluster, facts) = (context.now, context.cluster, context.facts);
            replies.answer(buffers, |out| stats::write(echo, group, now, cluster, facts, out));
        }
        Command::Hello { features, .. } => {
            let mut granted = Vec::new();
            settings.features = Features::negotiate(features, &mut granted);
            replies.answer(buffers, |out| echo.body(out, &granted));
        }
        Command::ClusterConfig => {
            settings.sent_revision = cluster_config::revision(context.cluster);
            let config = cluster_config::cluster_config(context.cluster);
            replies.answer(buffers, |out| echo.body(out, config.as_bytes()));
        }
        Command::SaslList | Command::SaslAuth { .. } | Command::SaslStep { .. } => {
            // The status that memcached gives where authentication is off; clients that were told
            // to authenticate take it for "not needed".
            let status = memcached::Status::UNKNOWN_COMMAND;
            refuse(echo, status, "Authentication is not enabled", connection, context);
        }
        // A verbosity changes nothing: what is logged is for the operator to say. The others have
        // gone to the engine above.
        _ => replies.answer(buffers, |out| echo.ok(out, 0)),
    }
}

/// Answers a request that came to nothing before it reached the engine.
pub fn refuse(
    echo: Echo,
    status: memcached::Status,
    text: &str,
    connection: &mut Connection,
    context: &mut SessionContext<'_>,
) {
    context.counters.refused += 1;
    connection.replies.answer(context.buffers, |out| echo.error(out, status, text.as_bytes()));
}

/// The engine's command for a request about one key, with what its success is answered with.
fn engine_command<'a>(
    request: &Request<'a>,
    peek: bool,
) -> Option<(&'a [u8], Operation<'a>, Success)> {
    let version = Version(request.cas);
    Some(match request.command {
        Command::Get { key, return_key } => {
            (key, Operation::Get { peek }, Success::Value(return_key))
        }
        Command::Store { mode, key, value, flags, expiration } => {
            let condition = match mode {
                // A version makes the same of all three, as it does in memcached.
                _ if request.cas != 0 => SetCondition::IfVersion(version),
                StoreMode::Set => SetCondition::Always,
                StoreMode::Add => SetCondition::IfAbsent,
                StoreMode::Replace => SetCondition::IfPresent,
            };
            let expiry = expiry(expiration);
            let set = Operation::Set { value, flags, condition, expiry, return_old: false };
            (key, set, Success::Stored)
        }
        Command::Extend { end, key, value } => {
            let end = match end {
                End::Append => shards::command::End::Back,
                End::Prepend => shards::command::End::Front,
            };
            let extend = Operation::Extend { end, value, create: false, version };
            (key, extend, Success::Extended)
        }
        Command::Delete { key } => {
            (key, Operation::Delete { version, return_old: false }, Success::Nothing)
        }
        Command::Count { direction, key, delta, initial, expiration } => {
            let decrement = direction == Direction::Decrement;
            let initial = (expiration != NO_CREATE).then(|| (initial, expiry(expiration)));
            (key, Operation::Count { delta, decrement, initial, version }, Success::Counter)
        }
        Command::Touch { key, expiration } => {
            let condition = ExpireCondition::Always;
            let expiry = expiry(expiration);
            let expire = Operation::Expire { expiry, condition, return_value: false };
            (key, expire, Success::Flags)
        }
        Command::GetAndTouch { key, expiration, return_key } => {
            let condition = ExpireCondition::Always;
            let expiry = expiry(expiration);
            let expire = Operation::Expire { expiry, condition, return_value: true };
            (key, expire, Success::Value(return_key))
        }
        _ => return None,
    })
}

/// Where a request about a key goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// To the engine, for this shard.
    Engine(ShardId),
    /// Back to the client, which has to ask another core.
    Elsewhere,
    /// Back to the client, which does not know how keys map to shards.
    WrongShard,
}

/// The rule of this module's description.
fn route(
    key: &[u8],
    vbucket: u16,
    features: Features,
    port: PortKind,
    read_from: ReadFrom,
    cluster: &ClusterMap,
) -> Route {
    let shard = cluster.shard_of_key(key);
    let is_strict = features.strict_vbucket || (port == PortKind::Core && vbucket != 0);
    if !is_strict {
        return Route::Engine(shard);
    }
    // A client that computes with another number of shards has another cluster's map.
    if vbucket >= cluster.shard_count() {
        return Route::Elsewhere;
    }
    if vbucket != shard.0 {
        return Route::WrongShard;
    }
    match cluster.ownership(shard) {
        Ownership::Here | Ownership::Unknown => Route::Engine(shard),
        Ownership::Elsewhere(_) if read_from != ReadFrom::Leader && cluster.holds(shard) => {
            Route::Engine(shard)
        }
        Ownership::Elsewhere(_) => Route::Elsewhere,
    }
}

fn keyed(
    reply: BinaryReply,
    vbucket: u16,
    command: &EngineCommand<'_>,
    settings: &mut BinarySettings,
    connection: &mut Connection,
    context: &mut SessionContext<'_>,
) {
    let echo = reply.echo;
    let (port, read_from) = (connection.port(), connection.replies.read_from());
    let route = route(command.key, vbucket, settings.features, port, read_from, context.cluster);
    match route {
        Route::Engine(shard) => {
            let held = match reply.success {
                Success::Value(ReturnKey::Yes) => command.key,
                _ => b"",
            };
            let reply = ReplyContext::Binary(reply);
            connection.replies.request_holding(reply, held, shard, command, context.requests);
        }
        Route::WrongShard => {
            let status = memcached::Status::INVALID_ARGUMENTS;
            let text = "Invalid arguments: the key is not of this vbucket";
            refuse(echo, status, text, connection, context);
        }
        Route::Elsewhere => {
            context.counters.refused += 1;
            context.counters.redirections += 1;
            let status = memcached::Status::NOT_MY_VBUCKET;
            let revision = cluster_config::revision(context.cluster);
            let is_known = settings.sent_revision == revision;
            let config = if settings.features.deduplicate_cluster_map && is_known {
                String::new()
            } else {
                cluster_config::cluster_config(context.cluster)
            };
            settings.sent_revision = revision;
            connection.replies.answer(context.buffers, |out| {
                echo.error(out, status, config.as_bytes());
            });
        }
    }
}

/// Empties every shard that the connection is served: those this core leads for a client of a
/// core port that goes to each core by itself, all for anyone else.
fn flush(
    echo: Echo,
    loudness: Loudness,
    features: Features,
    connection: &mut Connection,
    context: &mut SessionContext<'_>,
) {
    let reply = BinaryReply { echo, loudness, success: Success::Nothing };
    let serves_all = connection.port() == PortKind::AnyCore || !features.strict_vbucket;
    let replies = &mut connection.replies;
    replies.begin_parts(ReplyContext::Binary(reply), Aggregate::AllOk, b"");
    let flush = EngineCommand { key: b"", operation: Operation::Flush };
    for shard in context.cluster.shards() {
        if serves_all || context.cluster.ownership(shard) == Ownership::Here {
            replies.part(shard, &flush, context.requests);
        }
    }
    replies.end_parts(context.buffers);
}

/// The name of a command for people.
pub fn name(command: &Command<'_>) -> &'static str {
    match command {
        Command::Get { .. } => "get",
        Command::Store { mode: StoreMode::Set, .. } => "set",
        Command::Store { mode: StoreMode::Add, .. } => "add",
        Command::Store { mode: StoreMode::Replace, .. } => "replace",
        Command::Delete { .. } => "delete",
        Command::Count { direction: Direction::Increment, .. } => "increment",
        Command::Count { direction: Direction::Decrement, .. } => "decrement",
        Command::Quit => "quit",
        Command::Flush { .. } => "flush",
        Command::Noop => "noop",
        Command::Version => "version",
        Command::Extend { end: End::Append, .. } => "append",
        Command::Extend { end: End::Prepend, .. } => "prepend",
        Command::Stat { .. } => "stat",
        Command::Verbosity { .. } => "verbosity",
        Command::Touch { .. } => "touch",
        Command::GetAndTouch { .. } => "gat",
        Command::Hello { .. } => "hello",
        Command::SaslList => "sasl-list",
        Command::SaslAuth { .. } => "sasl-auth",
        Command::SaslStep { .. } => "sasl-step",
        Command::ClusterConfig => "cluster-config",
    }
}
