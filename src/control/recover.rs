//! `/v1/shards/{shard}/recover`: lets a shard whose majority is lost for good go on from one node.
//!
//! Whoever is asked looks first whether anybody knows a leader of the shard, and then passes the
//! wish on to the named node, once; that node tells the core with the replica, and waits until the
//! replica leads. The wish has to say that the loss of data is accepted.

use hyper::StatusCode;
use shards::contract::AdminCommand;
use shards::ids::{NodeId, ShardId};

use super::cluster;
use super::collector::Collector;
use super::transfer::{Hop, TransferError, command, pass_on, wait_for_leader};
use super::view::{RecoverWish, TransferDone};

/// Why a shard was not recovered, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The wish does not say that it knows what it costs.
    #[error("writes that only other replicas had will be lost: this must be accepted explicitly")]
    NotAccepted,
    /// Somebody leads the shard: it needs no recovery.
    #[error("shard {shard} has a leader, node {leader}; nothing was done")]
    HasLeader {
        /// The shard.
        shard: ShardId,
        /// Its leader.
        leader: u16,
    },
    /// What can go wrong with any order that is passed on to a core.
    #[error(transparent)]
    Order(#[from] TransferError),
}

impl RecoverError {
    /// The HTTP status that says this.
    pub fn status(&self) -> StatusCode {
        match self {
            RecoverError::NotAccepted => StatusCode::BAD_REQUEST,
            RecoverError::HasLeader { .. } => StatusCode::CONFLICT,
            RecoverError::Order(error) => error.status(),
        }
    }
}

/// Lets `shard` go on from the node named in `wish`, and waits until that leads.
pub async fn recover(
    collector: &Collector,
    shard: u16,
    wish: RecoverWish,
    hop: Hop,
) -> Result<TransferDone, RecoverError> {
    let placement = collector.placement();
    if !wish.accept_data_loss {
        return Err(RecoverError::NotAccepted);
    }
    if shard >= placement.shards() {
        return Err(TransferError::NoShard(shard).into());
    }
    let (shard, from) = (ShardId(shard), NodeId(wish.from));
    if placement.rank(shard, from).is_none() {
        let on: Vec<String> = placement.replicas(shard).map(|node| node.to_string()).collect();
        return Err(TransferError::NoReplica { shard, to: wish.from, on: on.join(", ") }.into());
    }
    let views = cluster::all_shards(collector).await;
    let known = views.get(usize::from(shard.0)).and_then(|view| view.leader.as_ref());
    if let Some(leader) = known {
        return Err(RecoverError::HasLeader { shard, leader: leader.node });
    }
    if from != collector.config().node {
        return match hop {
            Hop::Last => Err(TransferError::NotLeader(shard).into()),
            Hop::First => {
                let path = format!("/v1/shards/{shard}/recover?forwarded=true");
                Ok(pass_on(collector, &path, &wish, from).await?)
            }
        };
    }
    let report = collector.report().await;
    let home = report.replicas().find(|(_, status)| status.shard == shard).map(|(core, _)| core);
    let Some(core) = home else { return Err(TransferError::NotLeader(shard).into()) };
    command(collector, core, AdminCommand::Recover { shard }).await?;
    Ok(wait_for_leader(collector, shard, from).await?)
}
