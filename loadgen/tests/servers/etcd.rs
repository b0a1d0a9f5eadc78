//! Servers of etcd's v3 API that follow a script, as far as reading and writing keys goes.
//!
//! The messages are written here once more, by the public API: what the load generator has wrong
//! about them must not be right here, too.

use std::collections::HashMap;
use std::future::Future;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::{Builder, SendResponse};
use http::{HeaderMap, Request, Response};
use prost::Message;
use tokio::task::LocalSet;

use super::Server;

#[derive(Clone, PartialEq, Message)]
pub struct Range {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub limit: i64,
    #[prost(bool, tag = "7")]
    pub serializable: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Put {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub lease: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(uint64, tag = "1")]
    cluster: u64,
    #[prost(uint64, tag = "2")]
    member: u64,
    #[prost(int64, tag = "3")]
    revision: i64,
    #[prost(uint64, tag = "4")]
    term: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(int64, tag = "2")]
    create_revision: i64,
    #[prost(int64, tag = "3")]
    mod_revision: i64,
    #[prost(int64, tag = "4")]
    version: i64,
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    entries: Vec<Entry>,
    #[prost(int64, tag = "4")]
    count: i64,
}

#[derive(Clone, PartialEq, Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

/// What a server is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    Range(Range),
    Put(Put),
}

impl Call {
    pub fn key(&self) -> &[u8] {
        match self {
            Call::Range(range) => &range.key,
            Call::Put(put) => &put.key,
        }
    }

    /// Whether it is the question by which a run sees whether the server is there.
    pub fn is_probe(&self) -> bool {
        self.key() == b"loadgen:probe"
    }
}

/// What a server does about a call.
pub enum Act {
    /// A message, and the status of success behind it.
    Say(Vec<u8>),
    /// The same, as soon as the client has acknowledged a ping.
    SayAfterPing(Vec<u8>),
    /// A message without a status behind it.
    SayAndEnd(Vec<u8>),
    /// A status other than success, all in the head.
    Refuse(u32),
    /// An HTTP status and nothing else.
    Http(u16),
    Reset,
    /// Nothing, ever.
    Ignore,
    /// The connection ends.
    Close,
    /// The connection takes no more calls and ends once all it took are answered.
    SayGoodbye(Vec<u8>),
}

/// The entries of a server.
#[derive(Default)]
pub struct Entries {
    pub values: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    pub calls: Mutex<Vec<Call>>,
}

impl Entries {
    /// The message that answers a call.
    pub fn reply(&self, call: &Call) -> Vec<u8> {
        let header = Some(Header { cluster: 1 << 60, member: 2, revision: 3, term: 4 });
        let mut values = self.values.lock().expect("a lock");
        self.calls.lock().expect("a lock").push(call.clone());
        match call {
            Call::Range(range) => {
                let value = values.get(&range.key).cloned();
                let entry = |value| Entry {
                    key: range.key.clone(),
                    create_revision: 5,
                    mod_revision: 6,
                    version: 7,
                    value,
                };
                let entries: Vec<Entry> = value.map(entry).into_iter().collect();
                let count = entries.len() as i64;
                RangeResponse { header, entries, count }.encode_to_vec()
            }
            Call::Put(put) => {
                values.insert(put.key.clone(), put.value.clone());
                PutResponse { header }.encode_to_vec()
            }
        }
    }

    /// Calls of the run.
    pub fn seen(&self) -> usize {
        self.calls.lock().expect("a lock").iter().filter(|call| !call.is_probe()).count()
    }
}

/// The answer to a read that finds nothing.
pub fn nothing() -> Vec<u8> {
    RangeResponse::default().encode_to_vec()
}

/// A server that does what a script says, which may take its time over each call.
pub fn serve<F>(script: impl Fn(Call) -> F + Send + Sync + 'static) -> Server
where
    F: Future<Output = Act> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let script = Arc::new(script);
    Server::conversing(listener, move |stream| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let local = LocalSet::new();
        runtime.expect("a runtime").block_on(local.run_until(converse(stream, script.clone())));
    })
}

async fn converse<F>(stream: TcpStream, script: Arc<impl Fn(Call) -> F + 'static>)
where
    F: Future<Output = Act> + 'static,
{
    let end = stream.try_clone().expect("a handle");
    stream.set_nonblocking(true).expect("an option");
    let stream = tokio::net::TcpStream::from_std(stream).expect("a stream");
    let mut builder = Builder::new();
    builder.max_concurrent_streams(100);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let pings = Arc::new(tokio::sync::Mutex::new(connection.ping_pong().expect("the first")));
    let goodbye = Arc::new(tokio::sync::Notify::new());
    loop {
        let accepted = tokio::select! {
            () = goodbye.notified() => {
                connection.graceful_shutdown();
                continue;
            }
            accepted = connection.accept() => accepted,
        };
        let Some(Ok((request, respond))) = accepted else { return };
        let (script, goodbye) = (Arc::clone(&script), Arc::clone(&goodbye));
        let pings = Arc::clone(&pings);
        let end = end.try_clone().expect("a handle");
        tokio::task::spawn_local(async move {
            let Some(call) = receive(request).await else { return };
            match script(call).await {
                Act::Close => drop(end.shutdown(Shutdown::Both)),
                Act::SayGoodbye(message) => {
                    goodbye.notify_one();
                    answer(respond, Act::Say(message)).await;
                }
                Act::SayAfterPing(message) => {
                    if pings.lock().await.ping(h2::Ping::opaque()).await.is_ok() {
                        answer(respond, Act::Say(message)).await;
                    }
                }
                act => answer(respond, act).await,
            }
        });
    }
}

/// The call of a request, if the client stays for it.
async fn receive(request: Request<h2::RecvStream>) -> Option<Call> {
    let (head, mut body) = request.into_parts();
    assert_eq!((head.method.as_str(), &head.headers["te"]), ("POST", &"trailers".parse().ok()?));
    assert_eq!(head.headers["content-type"], "application/grpc");
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.ok()?;
        body.flow_control().release_capacity(chunk.len()).ok()?;
        bytes.extend_from_slice(&chunk);
    }
    let message = bytes.split_off(5);
    assert_eq!(bytes[0], 0, "not compressed");
    assert_eq!(bytes[1..], (message.len() as u32).to_be_bytes());
    Some(match head.uri.path() {
        "/etcdserverpb.KV/Range" => Call::Range(Range::decode(message).expect("a range")),
        "/etcdserverpb.KV/Put" => Call::Put(Put::decode(message).expect("a put")),
        path => panic!("no call: {path}"),
    })
}

async fn answer(mut respond: SendResponse<Bytes>, act: Act) {
    let head =
        |status| Response::builder().status(status).header("content-type", "application/grpc");
    // The client may be gone, which is its own affair.
    match act {
        Act::Say(message) => drop(say(&mut respond, &message, Some(0)).await),
        Act::SayAndEnd(message) => drop(say(&mut respond, &message, None).await),
        Act::Refuse(status) => {
            let response = head(200).header("grpc-status", status).header("grpc-message", "why");
            drop(respond.send_response(response.body(()).expect("a response"), true));
        }
        Act::Http(status) => {
            drop(respond.send_response(head(status).body(()).expect("a response"), true));
        }
        Act::Reset => respond.send_reset(h2::Reason::REFUSED_STREAM),
        Act::Ignore => std::future::pending().await,
        Act::Close | Act::SayGoodbye(_) | Act::SayAfterPing(_) => {}
    }
}

async fn say(
    respond: &mut SendResponse<Bytes>,
    message: &[u8],
    status: Option<u32>,
) -> Result<(), h2::Error> {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.extend_from_slice(message);
    let mut stream = respond.send_response(Response::new(()), false)?;
    stream.send_data(framed.freeze(), status.is_none())?;
    if let Some(status) = status {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.into());
        stream.send_trailers(trailers)?;
    }
    Ok(())
}
