//! etcd's v3 API: keys are read by `Range` and written by `Put`, each a gRPC call of its own.
//!
//! HTTP/2 is the crate `h2`'s; what gRPC adds to it for single calls is in `exchange`. It runs
//! without sockets and without a runtime: the event loop that drives the other protocols feeds it
//! and sends for it, so that an etcd's figures come from the same loop, clocks and timers as
//! theirs, and the generator, which shares the machine with the servers, costs little.
//!
//! Connections are HTTP/2 connections, and requests in flight are streams, which a server may
//! answer in any order. A member answers reads linearizably or, with `--read-from stale`, by what
//! it has (*serializable*). There is no TLS, no authentication and no balancing: a connection goes
//! to the server it was made for.
//!
//! What must not be added to the path of a request: anything that grows with the requests in
//! flight.

mod exchange;
mod messages;
mod pipe;
mod probe;

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use client::{Address, Answer, ReadFrom};
use futures_util::stream::{FuturesUnordered, StreamExt};
use h2::client::{Builder, Connection, SendRequest};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use http::{Method, Request, Uri, Version};

use crate::connection::{Broken, Flight, Purpose};
use crate::options::Options;
use crate::wire::Wire;
use crate::workload::{Kind, Workload};
use exchange::{Exchange, Outcome, frame};
use messages::{PutRequest, RangeRequest};
use pipe::Pipe;

pub(crate) use probe::probe;

/// Bytes of a reply that a server may send before the reader has taken them: more than etcd lets a
/// value have, so that a reply never waits for a window.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// The same over all replies of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// The call that reads.
const RANGE: &str = "/etcdserverpb.KV/Range";
/// The call that writes.
const PUT: &str = "/etcdserverpb.KV/Put";

/// An HTTP/2 connection to an etcd, and its requests in flight.
#[derive(Debug)]
pub(crate) struct Streams {
    range: Uri,
    put: Uri,
    headers: HeaderMap,
    serializable: bool,
    session: Option<Session>,
    /// Requests that will have no answer, because the connection is of no more use; the one that
    /// shows it stands first.
    unanswered: VecDeque<Flight>,
    has_output: bool,
}

/// One life of a connection.
#[derive(Debug)]
struct Session {
    pipe: Pipe,
    requests: SendRequest<Bytes>,
    connection: Connection<Pipe, Bytes>,
    exchanges: FuturesUnordered<Exchange>,
}

impl Session {
    fn begin() -> io::Result<Session> {
        let pipe = Pipe::default();
        let mut builder = Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .enable_push(false);
        let handshake = pin!(builder.handshake(pipe.clone()));
        // It writes its part without waiting for the server's, and the pipe always has room.
        match handshake.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok((requests, connection))) => {
                Ok(Session { pipe, requests, connection, exchanges: FuturesUnordered::new() })
            }
            Poll::Ready(Err(error)) => Err(io::Error::other(error)),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Lets HTTP/2 take what is in the pipe and write what it has.
    fn work(&mut self) -> Result<(), Broken> {
        let context = &mut Context::from_waker(Waker::noop());
        match Pin::new(&mut self.connection).poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(Err(error)) if error.is_go_away() && !error.is_remote() => {
                Err(Broken::Malformed)
            }
            Poll::Ready(_) => Err(Broken::Lost),
        }
    }

    fn send(&mut self, request: Request<()>, body: Bytes) -> Option<h2::client::ResponseFuture> {
        // A clone takes a request at any time; what exceeds the server's limit of streams waits
        // inside.
        let (response, mut stream) = self.requests.clone().send_request(request, false).ok()?;
        stream.send_data(body, true).ok()?;
        Some(response)
    }

    /// The next request that has come to an end.
    fn next_settled(&mut self) -> Option<(Flight, Outcome)> {
        let context = &mut Context::from_waker(Waker::noop());
        match self.exchanges.poll_next_unpin(context) {
            Poll::Ready(settled) => settled,
            Poll::Pending => None,
        }
    }
}

impl Streams {
    /// A connection to a server.
    fn to(address: &Address, serializable: bool) -> Streams {
        let uri = |path: &str| {
            let uri = Uri::builder().scheme("http").authority(address.to_string());
            uri.path_and_query(path).build().unwrap_or_default()
        };
        let mut headers = HeaderMap::new();
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Streams {
            range: uri(RANGE),
            put: uri(PUT),
            headers,
            serializable,
            session: None,
            unanswered: VecDeque::new(),
            has_output: false,
        }
    }

    fn read(&mut self, flight: Flight, key: Bytes, now_ns: u64) {
        let body = frame(&RangeRequest { key, serializable: self.serializable });
        self.call(flight, true, self.range.clone(), body, now_ns);
    }

    fn write(&mut self, flight: Flight, key: Bytes, value: Bytes, now_ns: u64) {
        let body = frame(&PutRequest { key, value });
        self.call(flight, false, self.put.clone(), body, now_ns);
    }

    fn call(&mut self, flight: Flight, is_read: bool, uri: Uri, body: Bytes, now_ns: u64) {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers.clone();
        self.has_output = true;
        let session = self.session.as_mut();
        match session.and_then(|session| Some((session.send(request, body)?, session))) {
            Some((response, session)) => {
                session.exchanges.push(Exchange::new(flight, is_read, now_ns, response));
            }
            // The next `gather` tells.
            None => self.unanswered.push_back(flight),
        }
    }

    /// Hands all requests that have come to an end to `take`.
    fn settle(
        &mut self,
        now_ns: u64,
        progress_ns: &mut u64,
        mut take: impl FnMut(Flight, Answer<'_>),
    ) -> Result<(), Broken> {
        let Some(session) = &mut self.session else { return Ok(()) };
        while let Some((flight, outcome)) = session.next_settled() {
            let answer = match &outcome {
                Outcome::Written => Answer::Done { version: 0 },
                Outcome::Found(value) => Answer::Value { bytes: value, flags: 0, version: 0 },
                Outcome::Missing => Answer::Missing,
                Outcome::Refused(status) => Answer::Refused(status.refusal()),
                Outcome::Malformed => {
                    self.unanswered.push_front(flight);
                    return Err(Broken::Malformed);
                }
                Outcome::Lost => {
                    self.unanswered.push_back(flight);
                    continue;
                }
            };
            *progress_ns = now_ns;
            take(flight, answer);
        }
        if self.unanswered.is_empty() { Ok(()) } else { Err(Broken::Lost) }
    }
}

impl Wire for Streams {
    const ACKNOWLEDGES: bool = true;

    fn new(options: &Options, address: &Address) -> Streams {
        Streams::to(address, options.read_from == ReadFrom::Stale)
    }

    fn begin(&mut self, _now_ns: u64, _output: &mut Vec<u8>) -> io::Result<()> {
        self.session = Some(Session::begin()?);
        self.has_output = true;
        Ok(())
    }

    fn end(&mut self) -> VecDeque<Flight> {
        let mut flights = std::mem::take(&mut self.unanswered);
        if let Some(session) = self.session.take() {
            flights.extend(session.exchanges.into_iter().map(|exchange| exchange.flight));
        }
        self.has_output = false;
        flights
    }

    fn in_flight(&self) -> usize {
        let exchanges = self.session.as_ref().map_or(0, |session| session.exchanges.len());
        exchanges + self.unanswered.len()
    }

    /// Others may be answered while one is not.
    fn owes_since_ns(&self, progress_ns: u64) -> u64 {
        let exchanges = self.session.iter().flat_map(|session| session.exchanges.iter());
        exchanges.map(|exchange| exchange.sent_ns).min().unwrap_or(progress_ns)
    }

    fn has_output(&self) -> bool {
        self.has_output
    }

    fn gather(&mut self, output: &mut Vec<u8>) -> Result<(), Broken> {
        let Some(session) = &mut self.session else { return Ok(()) };
        if std::mem::take(&mut self.has_output) {
            session.work()?;
            session.pipe.drain(output);
        }
        if self.unanswered.is_empty() { Ok(()) } else { Err(Broken::Lost) }
    }

    fn push(
        &mut self,
        flight: Flight,
        kind: Kind,
        workload: &Workload,
        now_ns: u64,
        _output: &mut Vec<u8>,
    ) {
        let mut key = Vec::new();
        workload.append_key(flight.key, &mut key);
        if kind.is_read() {
            return self.read(flight, key.into(), now_ns);
        }
        let mut value = Vec::new();
        workload.append_value(flight.key, &mut value);
        self.write(flight, key.into(), value.into(), now_ns);
    }

    /// Clusters of this kind are not asked for a map.
    fn push_encoded(
        &mut self,
        _request: &[u8],
        _purpose: Purpose,
        _now_ns: u64,
        _output: &mut Vec<u8>,
    ) {
    }

    fn answers(
        &mut self,
        received: &[u8],
        now_ns: u64,
        progress_ns: &mut u64,
        take: impl FnMut(Flight, Answer<'_>),
    ) -> Result<(), Broken> {
        let Some(session) = &mut self.session else { return Ok(()) };
        session.pipe.feed(received);
        let worked = session.work();
        // There may be acknowledgements and windows.
        self.has_output = true;
        // What was answered before the connection ended was answered.
        self.settle(now_ns, progress_ns, take)?;
        worked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(key: u64) -> Flight {
        let purpose = Purpose::Operation(Kind::Read);
        Flight { intended_ns: 0, key, purpose, redirects: 0, slot: 0 }
    }

    #[test]
    fn a_server_that_takes_no_more_calls_is_left_when_there_is_one() {
        let address = "127.0.0.1:1".parse().expect("an address");
        let (mut wire, mut output) = (Streams::to(&address, false), Vec::new());
        wire.begin(0, &mut output).expect("a beginning");
        wire.read(flight(1), Bytes::from_static(b"first"), 0);
        wire.gather(&mut output).expect("something to send");
        assert!(output.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        // Empty settings, and a goodbye to all streams but the first.
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let goodbye = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        let received = [&settings[..], &goodbye].concat();
        let none = |_, answer: Answer<'_>| panic!("{answer:?}");
        wire.answers(&received, 0, &mut 0, none).expect("the first may still be answered");
        wire.gather(&mut output).expect("nothing is wrong yet");
        wire.read(flight(2), Bytes::from_static(b"second"), 0);
        assert_eq!(wire.in_flight(), 2);
        assert!(matches!(wire.gather(&mut output), Err(Broken::Lost)));
        let mut keys: Vec<u64> = wire.end().iter().map(|flight| flight.key).collect();
        keys.sort_unstable();
        assert_eq!((keys, wire.in_flight(), wire.has_output()), (vec![1, 2], 0, false));
    }
}
