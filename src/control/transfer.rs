//! `/v1/shards/{shard}/transfer`: hands the leadership of a shard to a named node.
//!
//! Whoever is asked passes the wish on to the leader's node, once; that node tells its core and
//! waits until the new leader shows, so that the answer says what happened and not what was asked.

use std::time::Duration;

use hyper::StatusCode;
use shards::contract::AdminCommand;
use shards::ids::{CoreIndex, NodeId, ShardId};
use tokio::time::Instant;

use super::collector::{CORE_DEADLINE, Collector};
use super::fetch;
use super::messages::ControlRequest;
use super::view::{ErrorView, TransferDone, TransferWish};

/// How long a transfer may take to show. It takes a few round trips, or an election if it fails.
pub const TRANSFER_DEADLINE: Duration = Duration::from_secs(3);

/// How often is looked whether it shows.
const LOOK_PERIOD: Duration = Duration::from_millis(25);

/// Whether a wish may be passed on to the leader's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// It came from outside.
    First,
    /// It was passed on already.
    Last,
}

/// Why a transfer did not take place, or is not known to have.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// There is no such shard.
    #[error("shard {0} does not exist")]
    NoShard(u16),
    /// The node is no member, or holds no replica of the shard.
    #[error("node {to} holds no replica of shard {shard}; it is on the nodes {on}")]
    NoReplica {
        /// The shard.
        shard: ShardId,
        /// The node that was named.
        to: u16,
        /// The nodes that do.
        on: String,
    },
    /// Nobody leads, as far as known.
    #[error("shard {0} has no known leader; nothing was done")]
    NoLeader(ShardId),
    /// The leader changed while the wish was on its way.
    #[error("this node does not lead shard {0} any more; nothing was done")]
    NotLeader(ShardId),
    /// The core that leads does not answer.
    #[error("core {0} does not answer; nothing was done")]
    CoreSilent(CoreIndex),
    /// The leader's node does not answer, or not as it should.
    #[error("the leader's node {node}: {reason}")]
    Peer {
        /// The node.
        node: NodeId,
        /// What went wrong.
        reason: String,
    },
    /// The leader's node refused.
    #[error("{reason}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its reason.
        reason: String,
    },
    /// The leader was told, but no change shows.
    #[error("the leader was told, but node {to} did not take shard {shard} over in time")]
    NotSeen {
        /// The shard.
        shard: ShardId,
        /// The node that should lead.
        to: NodeId,
    },
}

impl TransferError {
    /// The HTTP status that says this.
    pub fn status(&self) -> StatusCode {
        match self {
            TransferError::NoShard(_) => StatusCode::NOT_FOUND,
            TransferError::NoReplica { .. } => StatusCode::BAD_REQUEST,
            TransferError::NotLeader(_) => StatusCode::CONFLICT,
            TransferError::NoLeader(_) | TransferError::CoreSilent(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            TransferError::Peer { .. } => StatusCode::BAD_GATEWAY,
            TransferError::Refused { status, .. } => *status,
            TransferError::NotSeen { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// Transfers `shard` to the node named in `wish`, and waits until it leads.
pub async fn transfer(
    collector: &Collector,
    shard: u16,
    wish: TransferWish,
    hop: Hop,
) -> Result<TransferDone, TransferError> {
    let placement = collector.placement();
    if shard >= placement.shards() {
        return Err(TransferError::NoShard(shard));
    }
    let (shard, to) = (ShardId(shard), NodeId(wish.to));
    if placement.rank(shard, to).is_none() {
        let on: Vec<String> = placement.replicas(shard).map(|node| node.to_string()).collect();
        return Err(TransferError::NoReplica { shard, to: wish.to, on: on.join(", ") });
    }
    let report = collector.report().await;
    if let Some(core) = report.leading_core(shard) {
        if to != collector.config().node {
            command(collector, core, AdminCommand::Transfer { shard, to }).await?;
        }
        return wait_for_leader(collector, shard, to).await;
    }
    match (report.leader(shard).leader, hop) {
        (_, Hop::Last) => Err(TransferError::NotLeader(shard)),
        (None, _) => Err(TransferError::NoLeader(shard)),
        (Some(node), _) if node == collector.config().node => Err(TransferError::NotLeader(shard)),
        (Some(node), Hop::First) => {
            let path = format!("/v1/shards/{shard}/transfer?forwarded=true");
            pass_on(collector, &path, &wish, node).await
        }
    }
}

/// Gives a command to a core and waits until the core has taken it.
pub(super) async fn command(
    collector: &Collector,
    core: CoreIndex,
    command: AdminCommand,
) -> Result<(), TransferError> {
    let (taken, receiver) = flume::bounded(1);
    let request = ControlRequest::Admin(command, taken);
    let sent = collector.cores().get(usize::from(core.0)).map(|sender| sender.try_send(request));
    if !matches!(sent, Some(Ok(()))) {
        return Err(TransferError::CoreSilent(core));
    }
    match tokio::time::timeout(CORE_DEADLINE, receiver.recv_async()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(TransferError::CoreSilent(core)),
    }
}

/// Waits until `to` leads `shard`.
pub(super) async fn wait_for_leader(
    collector: &Collector,
    shard: ShardId,
    to: NodeId,
) -> Result<TransferDone, TransferError> {
    let deadline = Instant::now() + TRANSFER_DEADLINE;
    loop {
        if collector.report().await.leader(shard).leader == Some(to) {
            return Ok(TransferDone { shard: shard.0, leader: to.0 });
        }
        if Instant::now() >= deadline {
            return Err(TransferError::NotSeen { shard, to });
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}

/// Posts `wish` to `path` of another node, and gives its answer.
pub(super) async fn pass_on<W: serde::Serialize>(
    collector: &Collector,
    path: &str,
    wish: &W,
    node: NodeId,
) -> Result<TransferDone, TransferError> {
    let peer = |reason: String| TransferError::Peer { node, reason };
    let address =
        collector.config().http_address(node).ok_or_else(|| peer("it is no member".into()))?;
    let document = serde_json::to_string(wish).map_err(|error| peer(error.to_string()))?;
    let deadline = TRANSFER_DEADLINE + 2 * CORE_DEADLINE;
    let answer = fetch::post_json(address, path, document, deadline)
        .await
        .map_err(|error| peer(error.to_string()))?;
    if answer.status.is_success() {
        return serde_json::from_slice(&answer.body).map_err(|error| peer(error.to_string()));
    }
    let reason = match serde_json::from_slice::<ErrorView>(&answer.body) {
        Ok(view) => view.error,
        Err(_) => format!("node {node} answered {}", answer.status),
    };
    Err(TransferError::Refused { status: answer.status, reason })
}
