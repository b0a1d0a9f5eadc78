//! One request in flight, and how its reply is taken apart: a unary gRPC call over HTTP/2.
//!
//! The reply is a head, one message behind a prefix of five bytes, and trailers with the status; a
//! refusal may be all in the head. Memory grows with the bytes received, never with a length that
//! was announced, and not beyond the longest answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use client::{Class, Refusal};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use http::{HeaderMap, StatusCode};
use prost::Message;

use super::messages::{PutResponse, RangeResponse};
use crate::connection::Flight;

/// A byte that says whether the message is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// The status code of a call that was done.
const OK: u32 = 0;

/// A message as it stands in the body of a request.
pub(super) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(PREFIX_BYTES + length);
    body.put_u8(0);
    body.put_u32(length as u32);
    // There is room for the whole of it, so encoding cannot fail.
    let _ = message.encode(&mut body);
    body.freeze()
}

/// What has become of a request.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It was written.
    Written,
    /// It was found.
    Found(Bytes),
    /// There is no such key.
    Missing,
    /// The server says no.
    Refused(Status),
    /// The reply is none to this request.
    Malformed,
    /// The connection is over.
    Lost,
}

/// Why a server refuses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub class: Class,
    pub code: &'static str,
    pub text: String,
}

impl Status {
    /// The refusal, for whoever counts it.
    pub fn refusal(&self) -> Refusal<'_> {
        let transient = matches!(self.code, "UNAVAILABLE" | "RESOURCE_EXHAUSTED");
        Refusal { class: self.class, transient, code: self.code, text: self.text.as_bytes() }
    }

    /// That of a gRPC status code. What is said of a request before it is proposed is known not to
    /// have happened; the rest may follow a proposal, as when a leader is lost.
    fn of(number: u32, text: String) -> Status {
        let (class, code) = match number {
            1 => (Class::Unknown, "CANCELLED"),
            3 => (Class::NotDone, "INVALID_ARGUMENT"),
            4 => (Class::Unknown, "DEADLINE_EXCEEDED"),
            5 => (Class::NotDone, "NOT_FOUND"),
            7 => (Class::NotDone, "PERMISSION_DENIED"),
            8 => (Class::NotDone, "RESOURCE_EXHAUSTED"),
            9 => (Class::NotDone, "FAILED_PRECONDITION"),
            11 => (Class::NotDone, "OUT_OF_RANGE"),
            // The server does not know the call.
            12 => (Class::NotDone, "NO_SUCH_CALL"),
            13 => (Class::Unknown, "INTERNAL"),
            14 => (Class::Unknown, "UNAVAILABLE"),
            16 => (Class::NotDone, "UNAUTHENTICATED"),
            _ => (Class::Unknown, "UNKNOWN"),
        };
        Status { class, code, text }
    }

    fn of_reset(reason: Reason) -> Status {
        // The server promises that it has not looked at such a stream.
        let class = if reason == Reason::REFUSED_STREAM { Class::NotDone } else { Class::Unknown };
        Status { class, code: "RST_STREAM", text: reason.description().to_owned() }
    }
}

/// The number and the text of a gRPC status, if there is one.
fn status(headers: &HeaderMap) -> Option<(u32, String)> {
    let number = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let text = headers.get("grpc-message").map_or("".into(), |text| {
        // Anything but printable ASCII is encoded in percents, which nobody reads here.
        String::from_utf8_lossy(text.as_bytes()).into_owned()
    });
    Some((number, text))
}

/// A request in flight.
#[derive(Debug)]
pub(super) struct Exchange {
    pub flight: Flight,
    /// When it was sent, in nanoseconds from the start of the run.
    pub sent_ns: u64,
    is_read: bool,
    stage: Stage,
    received: BytesMut,
}

#[derive(Debug)]
enum Stage {
    Head(ResponseFuture),
    Body(RecvStream),
}

impl Exchange {
    /// A request that has just been sent.
    pub fn new(flight: Flight, is_read: bool, sent_ns: u64, response: ResponseFuture) -> Exchange {
        let stage = Stage::Head(response);
        Exchange { flight, sent_ns, is_read, stage, received: BytesMut::new() }
    }

    fn proceed(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        loop {
            match &mut self.stage {
                Stage::Head(response) => {
                    let response = match ready!(Pin::new(response).poll(context)) {
                        Ok(response) => response,
                        Err(error) => return Poll::Ready(failed(&error)),
                    };
                    let (head, body) = response.into_parts();
                    if head.status != StatusCode::OK {
                        return Poll::Ready(Outcome::Malformed);
                    }
                    if let Some((number, text)) = status(&head.headers) {
                        return Poll::Ready(outcome(self.is_read, number, text, Bytes::new()));
                    }
                    self.stage = Stage::Body(body);
                }
                Stage::Body(body) => match ready!(body.poll_data(context)) {
                    Some(Ok(chunk)) => {
                        let room = client::ANSWER_BYTES_MAX - self.received.len();
                        let released = body.flow_control().release_capacity(chunk.len());
                        if chunk.len() > room || released.is_err() {
                            return Poll::Ready(Outcome::Malformed);
                        }
                        self.received.extend_from_slice(&chunk);
                    }
                    Some(Err(error)) => return Poll::Ready(failed(&error)),
                    None => break,
                },
            }
        }
        let Stage::Body(body) = &mut self.stage else { return Poll::Pending };
        let trailers = match ready!(body.poll_trailers(context)) {
            Ok(trailers) => trailers.unwrap_or_default(),
            Err(error) => return Poll::Ready(failed(&error)),
        };
        Poll::Ready(match status(&trailers) {
            Some((number, text)) => {
                let body = std::mem::take(&mut self.received).freeze();
                outcome(self.is_read, number, text, body)
            }
            None => Outcome::Malformed,
        })
    }
}

/// The outcome of a call by its status and what was received before it.
fn outcome(is_read: bool, number: u32, text: String, mut body: Bytes) -> Outcome {
    if number != OK {
        return Outcome::Refused(Status::of(number, text));
    }
    let is_plain = body.try_get_u8() == Ok(0);
    let length = body.try_get_u32().unwrap_or(u32::MAX);
    if !is_plain || length as usize != body.len() {
        return Outcome::Malformed;
    }
    if !is_read {
        return PutResponse::decode(body).map_or(Outcome::Malformed, |_| Outcome::Written);
    }
    match RangeResponse::decode(body).map(|response| response.entries) {
        Err(_) => Outcome::Malformed,
        Ok(mut entries) => match (entries.pop(), entries.is_empty()) {
            (None, _) => Outcome::Missing,
            (Some(entry), true) => Outcome::Found(entry.value),
            // One key was asked for.
            (Some(_), false) => Outcome::Malformed,
        },
    }
}

/// What an error of a stream means to its request.
fn failed(error: &h2::Error) -> Outcome {
    match error.reason() {
        Some(reason) if error.is_reset() && error.is_remote() => {
            Outcome::Refused(Status::of_reset(reason))
        }
        _ => Outcome::Lost,
    }
}

impl Future for Exchange {
    type Output = (Flight, Outcome);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<(Flight, Outcome)> {
        let outcome = ready!(self.proceed(context));
        Poll::Ready((self.flight, outcome))
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::{KeyValue, RangeResponse};
    use super::*;

    fn read(body: impl Into<Bytes>) -> Outcome {
        outcome(true, OK, String::new(), body.into())
    }

    fn found(values: &[&'static str]) -> Bytes {
        let entry = |value: &&'static str| KeyValue {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(value.as_bytes()),
        };
        frame(&RangeResponse { entries: values.iter().map(entry).collect() })
    }

    #[test]
    fn a_reply_is_what_its_message_says() {
        assert!(matches!(read(found(&["v"])), Outcome::Found(value) if value == "v"));
        assert!(matches!(read(found(&[])), Outcome::Missing));
        let written = outcome(false, OK, String::new(), frame(&PutResponse {}));
        assert!(matches!(written, Outcome::Written));
    }

    #[test]
    fn what_is_no_whole_message_with_at_most_one_entry_is_malformed() {
        let whole = found(&["v"]);
        for length in 0..whole.len() {
            assert!(matches!(read(whole.slice(..length)), Outcome::Malformed), "{length}");
        }
        let mut compressed = whole.to_vec();
        compressed[0] = 1;
        assert!(matches!(read(compressed), Outcome::Malformed));
        let longer = [&whole, &[0][..]].concat();
        assert!(matches!(read(longer), Outcome::Malformed));
        assert!(matches!(read(found(&["v", "w"])), Outcome::Malformed));
        // A prefix that announces four gigabytes.
        assert!(matches!(read(&[0, 255, 255, 255, 255, 0][..]), Outcome::Malformed));
    }

    #[test]
    fn a_refusal_says_whether_the_write_may_have_happened() {
        for (number, class, code) in [
            (3, Class::NotDone, "INVALID_ARGUMENT"),
            (8, Class::NotDone, "RESOURCE_EXHAUSTED"),
            (14, Class::Unknown, "UNAVAILABLE"),
            (99, Class::Unknown, "UNKNOWN"),
        ] {
            let Outcome::Refused(status) = outcome(false, number, "why".into(), Bytes::new())
            else {
                panic!("{number} is a refusal");
            };
            assert_eq!(status, Status { class, code, text: "why".into() });
        }
    }
}
