//! `/v1/limits`: what a node may hold, and the wish to change it for the whole cluster.
//!
//! The limit is part of each shard's replicated state, and the way to change that is a command. So
//! the wish goes where commands go: to this node's data port, as any client's would. The answer
//! says that every shard has agreed; how soon what exceeds a lower limit is gone is another matter.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use shards::ids::Eviction;

use super::collector::Collector;
use super::view::{LimitsView, LimitsWish};

/// How long the shards may take to agree: longer than a request may wait.
const AGREEMENT_DEADLINE: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 4_096;

/// Why a limit was not changed, or is not known to have been.
#[derive(Debug, thiserror::Error)]
pub enum LimitsError {
    /// The data port takes no connection.
    #[error("this node's data port does not answer ({0}); nothing was done")]
    Unreachable(std::io::Error),
    /// It was refused.
    #[error("{0}")]
    Refused(String),
    /// No answer, or half of one.
    #[error("not every shard has agreed in time; the limit may have changed for some")]
    Unknown,
}

impl LimitsError {
    /// The HTTP status that says this.
    pub fn status(&self) -> StatusCode {
        match self {
            LimitsError::Unreachable(_) => StatusCode::SERVICE_UNAVAILABLE,
            LimitsError::Refused(_) => StatusCode::BAD_REQUEST,
            LimitsError::Unknown => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

fn name(eviction: Eviction) -> String {
    eviction.name().to_owned()
}

/// What this node holds and may hold.
pub async fn limits(collector: &Collector) -> LimitsView {
    let report = collector.report().await;
    let eviction = collector.config().eviction;
    let mut view =
        LimitsView { memory_bytes: 0, used_bytes: 0, evicted: 0, eviction: name(eviction) };
    for (_, status) in report.replicas() {
        view.memory_bytes += status.bytes_max;
        view.used_bytes += status.bytes;
        view.evicted += status.evicted;
        view.eviction = name(status.eviction);
    }
    view
}

/// Changes the limit of every shard, so that a node holds at most what the wish says, or the
/// policy.
///
/// # Errors
/// See [`LimitsError`].
pub async fn set_limits(
    collector: &Collector,
    wish: &LimitsWish,
) -> Result<LimitsView, LimitsError> {
    let address = collector.config().data_listen_address();
    let answer = tokio::time::timeout(AGREEMENT_DEADLINE, ask(address, wish)).await;
    let answer = answer.map_err(|_| LimitsError::Unknown)??;
    match answer.as_str() {
        "+OK" => Ok(limits(collector).await),
        other => match other.strip_prefix("-ERR ") {
            Some(reason) => Err(LimitsError::Refused(reason.to_owned())),
            None => Err(LimitsError::Unknown),
        },
    }
}

/// The first line of the answer to CONFIG SET.
async fn ask(address: SocketAddr, wish: &LimitsWish) -> Result<String, LimitsError> {
    let mut stream = TcpStream::connect(address).await.map_err(LimitsError::Unreachable)?;
    let mut request = "CONFIG SET".to_owned();
    if let Some(bytes) = wish.memory_bytes {
        request += &format!(" maxmemory {bytes}");
    }
    if let Some(eviction) = &wish.eviction {
        request += match Eviction::from_name(eviction) {
            Some(Eviction::Lru) => " maxmemory-policy allkeys-lru",
            Some(Eviction::Sieve) => " maxmemory-policy allkeys-sieve",
            None => return Err(LimitsError::Refused(format!("there is no policy {eviction:?}"))),
        };
    }
    request += "\r\n";
    stream.write_all(request.as_bytes()).await.map_err(|_| LimitsError::Unknown)?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n") && answer.len() < ANSWER_BYTES_MAX {
        match stream.read_buf(&mut answer).await {
            Ok(0) | Err(_) => return Err(LimitsError::Unknown),
            Ok(_) => {}
        }
    }
    Ok(String::from_utf8_lossy(&answer).trim_end().to_owned())
}
