//! One HTTP request to a node: with a deadline for the whole of it, and a bound for the answer.
//!
//! Nodes ask each other this way, and so does the command line. Every request has a connection of
//! its own: there are few of them, and a kept connection would have to be watched.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Largest answer that is taken, in bytes: 16,384 shards with five replicas each, twice over.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody listens there, or the way is blocked.
    #[error("cannot connect to http://{address}: {source}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The connection was made, but what came over it was not an answer.
    #[error("no HTTP answer from {address}: {reason}")]
    Broken {
        /// From where.
        address: SocketAddr,
        /// What went wrong.
        reason: String,
    },
    /// It took too long.
    #[error("no answer from http://{address} within {} ms", deadline.as_millis())]
    Late {
        /// From where.
        address: SocketAddr,
        /// How long was waited.
        deadline: Duration,
    },
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
}

/// Asks `address` for `path`.
pub async fn get(
    address: SocketAddr,
    path: &str,
    deadline: Duration,
) -> Result<Answer, FetchError> {
    within(address, deadline, exchange(address, Method::GET, path, Bytes::new())).await
}

/// Posts a JSON document to `path` of `address`.
pub async fn post_json(
    address: SocketAddr,
    path: &str,
    document: String,
    deadline: Duration,
) -> Result<Answer, FetchError> {
    within(address, deadline, exchange(address, Method::POST, path, document.into())).await
}

async fn within(
    address: SocketAddr,
    deadline: Duration,
    exchange: impl Future<Output = Result<Answer, FetchError>>,
) -> Result<Answer, FetchError> {
    match tokio::time::timeout(deadline, exchange).await {
        Ok(result) => result,
        Err(_) => Err(FetchError::Late { address, deadline }),
    }
}

async fn exchange(
    address: SocketAddr,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Answer, FetchError> {
    let broken =
        |error: &dyn std::fmt::Display| FetchError::Broken { address, reason: error.to_string() };
    let stream = TcpStream::connect(address)
        .await
        .map_err(|source| FetchError::Connect { address, source })?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, address.to_string())
        .header(hyper::header::CONNECTION, "close")
        .header(hyper::header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| broken(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| broken(&error))?.to_bytes();
        Ok(Answer { status, body })
    };
    drive(connection, exchange).await
}

/// Drives the connection while the exchange runs over it, in the caller's task: nothing is left
/// behind when the deadline drops both.
async fn drive<T>(
    connection: impl Future<Output = hyper::Result<()>>,
    exchange: impl Future<Output = T>,
) -> T {
    tokio::pin!(connection, exchange);
    let mut connected = true;
    loop {
        tokio::select! {
            outcome = &mut exchange => return outcome,
            // What went wrong on the connection shows in the exchange as well.
            _ = &mut connection, if connected => connected = false,
        }
    }
}
