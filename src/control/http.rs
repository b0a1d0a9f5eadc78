//! The HTTP face of a node: routes, and the limits around them.
//!
//! Everything a client of this port can make the control thread do is bounded: connections, the
//! time a connection or a request may take, the size of heads and bodies. None of it reaches the
//! cores, which answer a bounded number of questions per second whoever asks.
//!
//! A `POST` needs the content type `application/json`, which a page in a browser cannot send to
//! another origin without asking first: an operator's browser cannot be made to move leaders.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::collector::Collector;
use super::limits::{limits, set_limits};
use super::messages::CoreReport;
use super::recover::recover;
use super::transfer::{Hop, transfer};
use super::view::{
    CoresView, ErrorView, LimitsView, LimitsWish, RecoverWish, ReplicasView, ShardsView,
    TransferDone, TransferWish,
};
use super::{cluster, metrics, readiness};

/// Connections at a time. Probes, a scraper and a few operators need a handful; one more is
/// closed at once.
const CONNECTIONS_MAX: usize = 128;
/// How long a client may take to send the head of a request, or to stay idle between two.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long a request may take from its head to its answer.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may live: the bound for clients that do not read their answers.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(120);
/// Largest head of a request, in bytes, and the read buffer of a connection.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Largest number of header fields.
const HEADERS_MAX: usize = 64;
/// Largest body of a request, in bytes: the only one there is has a single number.
const BODY_BYTES_MAX: usize = 4 << 10;
/// Pause after a failed accept, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the routes work with.
#[derive(Debug)]
pub struct Face {
    /// Asks the cores.
    pub collector: Collector,
    /// Set once the node is about to stop.
    pub draining: AtomicBool,
    /// When the process started, in seconds since the epoch.
    pub started_unix_s: u64,
}

/// The routes.
pub fn router(face: Arc<Face>) -> Router {
    let routes = Router::new();
    #[cfg(feature = "defects")]
    let routes = routes.route("/v1/shards/{shard}/flip", post(flip_bit));
    routes
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_page))
        .route("/v1/shards", get(shards))
        .route("/v1/shards/{shard}/transfer", post(transfer_shard))
        .route("/v1/shards/{shard}/recover", post(recover_shard))
        .route("/v1/replicas", get(replicas))
        .route("/v1/cores", get(cores))
        .route("/v1/limits", get(show_limits).post(change_limits))
        .fallback(|| async { failure(StatusCode::NOT_FOUND, "no such page") })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn(within_deadline))
        .with_state(face)
}

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, routes: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes.clone()));
        tokio::spawn(async move {
            match tokio::time::timeout(CONNECTION_LIFETIME, connection).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(error)) => tracing::debug!(%error, "an HTTP connection ended early"),
            }
            drop(place);
        });
    }
}

async fn within_deadline(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => failure(StatusCode::GATEWAY_TIMEOUT, "the request took too long"),
    }
}

fn failure(status: StatusCode, error: impl ToString) -> Response {
    (status, Json(ErrorView { error: error.to_string() })).into_response()
}

/// Which knowledge is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scope {
    /// Only what this node knows itself.
    #[serde(default)]
    local: bool,
}

/// How a wish came.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Way {
    /// From another node.
    #[serde(default)]
    forwarded: bool,
}

/// Whether a restart would help: a core whose log has failed stays silent for the rest of its
/// life. One that does not answer in time may only be busy.
async fn healthz(State(face): State<Arc<Face>>) -> Response {
    let report = face.collector.report().await;
    let failed = report.cores.iter().flatten().find(|core| core.counters.log.failed > 0);
    match failed {
        None => "ok\n".into_response(),
        Some(CoreReport { core, .. }) => {
            let said = format!("the log of core {core} could not be written: the core is silent\n");
            (StatusCode::SERVICE_UNAVAILABLE, said).into_response()
        }
    }
}

async fn readyz(State(face): State<Arc<Face>>) -> Response {
    let report = face.collector.report().await;
    let draining = face.draining.load(Ordering::Relaxed);
    let view = readiness::judge(&face.collector, &report, draining);
    let status = if view.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(view)).into_response()
}

async fn metrics_page(State(face): State<Arc<Face>>) -> Response {
    let report = face.collector.report().await;
    let page = metrics::render(&face.collector, &report, face.started_unix_s);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}

async fn shards(State(face): State<Arc<Face>>, Query(scope): Query<Scope>) -> Json<ShardsView> {
    let shards = if scope.local {
        let report = face.collector.report().await;
        face.collector.local_shards(&report)
    } else {
        cluster::all_shards(&face.collector).await
    };
    Json(ShardsView { shards })
}

async fn replicas(State(face): State<Arc<Face>>, Query(scope): Query<Scope>) -> Json<ReplicasView> {
    if !scope.local {
        return Json(cluster::all_replicas(&face.collector).await);
    }
    let report = face.collector.report().await;
    let replicas = face.collector.local_replicas(&report);
    Json(ReplicasView { replicas, unanswered: Vec::new() })
}

async fn cores(State(face): State<Arc<Face>>) -> Json<CoresView> {
    Json(face.collector.report().await.cores_view())
}

async fn show_limits(State(face): State<Arc<Face>>) -> Json<LimitsView> {
    Json(limits(&face.collector).await)
}

async fn change_limits(
    State(face): State<Arc<Face>>,
    wish: Result<Json<LimitsWish>, JsonRejection>,
) -> Result<Json<LimitsView>, Response> {
    let Json(wish) =
        wish.map_err(|rejection| failure(rejection.status(), rejection.body_text()))?;
    let result = set_limits(&face.collector, &wish).await;
    result.map(Json).map_err(|error| failure(error.status(), error))
}

async fn recover_shard(
    State(face): State<Arc<Face>>,
    Path(shard): Path<u16>,
    Query(way): Query<Way>,
    wish: Result<Json<RecoverWish>, JsonRejection>,
) -> Result<Json<TransferDone>, Response> {
    let Json(wish) =
        wish.map_err(|rejection| failure(rejection.status(), rejection.body_text()))?;
    let hop = if way.forwarded { Hop::Last } else { Hop::First };
    let result = recover(&face.collector, shard, wish, hop).await;
    result.map(Json).map_err(|error| failure(error.status(), error))
}

/// Flips a bit in a byte of the values that this node's replica of a shard holds. For tests, in
/// builds with the feature `defects` alone.
#[cfg(feature = "defects")]
async fn flip_bit(State(face): State<Arc<Face>>, Path(shard): Path<u16>, body: String) -> Response {
    use super::transfer::{TransferError, command};
    use shards::contract::AdminCommand;
    use shards::ids::ShardId;

    let (shard, nth_byte) = (ShardId(shard), body.trim().parse().unwrap_or(0));
    let report = face.collector.report().await;
    let home = report.replicas().find(|(_, status)| status.shard == shard).map(|(core, _)| core);
    let done = match home {
        Some(core) => {
            command(&face.collector, core, AdminCommand::FlipBit { shard, nth_byte }).await
        }
        None => Err(TransferError::NoShard(shard.0)),
    };
    match done {
        Ok(()) => "a bit was flipped\n".into_response(),
        Err(error) => failure(error.status(), error),
    }
}

async fn transfer_shard(
    State(face): State<Arc<Face>>,
    Path(shard): Path<u16>,
    Query(way): Query<Way>,
    wish: Result<Json<TransferWish>, JsonRejection>,
) -> Result<Json<TransferDone>, Response> {
    let Json(wish) =
        wish.map_err(|rejection| failure(rejection.status(), rejection.body_text()))?;
    let hop = if way.forwarded { Hop::Last } else { Hop::First };
    let result = transfer(&face.collector, shard, wish, hop).await;
    result.map(Json).map_err(|error| failure(error.status(), error))
}
