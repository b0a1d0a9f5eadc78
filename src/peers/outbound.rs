//! Opening links and keeping them open: one task per core of every other node.
//!
//! A task connects, greets, hands the connection over to [`Peers`](super::Peers) and waits for its
//! end; nothing but that end ever comes in on a connection that this side opened. Then it starts
//! again, after a pause that grows from 50 ms to a second and ends early when the other node
//! greets. Every step has a deadline. What stands in the way for longer than a start takes is
//! logged once, and again when the reason changes.

use std::io;
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::time::Duration;

use proto::peer::{Acceptance, HelloReply, Parsed};
use shards::contract::Lane;
use shards::ids::Address;

use super::writer::Written;
use super::{Need, Pending, SILENCE_DEADLINE, address};
use crate::core_loop::Shared;
use crate::net::runtime::{sleep, spawn, with_deadline};
use crate::net::stream::{Stream, Transfer, Transport, received};

/// How long a connection may take to be made.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// How long the answer to a greeting may take.
const GREETING_DEADLINE: Duration = Duration::from_secs(2);
/// How long a peer may take nothing of what waits for it.
const WRITE_DEADLINE: Duration = Duration::from_secs(2);
/// First pause before connecting again,
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// and the longest.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why a connection to a peer could not be had.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("the address of {0} is not known")]
    NoAddress(Address),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the peer did not answer the greeting in time")]
    Silent,
    #[error("the peer refuses this node: {0}")]
    Refused(String),
    #[error("the peer does not speak the protocol: {0}")]
    Protocol(#[from] proto::peer::PeerError),
    #[error("{0} answered in its place")]
    WrongPeer(Address),
    #[error("an earlier life of the peer answered")]
    Outlived,
}

/// Keeps the link to `to` open until the node stops, or until `to` turns out not to exist.
pub async fn keep_link(shared: Rc<Shared>, to: Address) {
    let mut pause = PAUSE_MIN;
    let mut complaint = String::new();
    while !shared.is_stopping() && shared.state.borrow_mut().peers.is_wanted(to) {
        match open(&shared, to, Lane::Turn).await {
            Ok((stream, acceptance)) => {
                if !complaint.is_empty() {
                    tracing::info!(peer = %to, "connected to the peer");
                    complaint.clear();
                }
                pause = PAUSE_MIN;
                let serial = shared.link_up(to, &stream, acceptance);
                wait_for_end(&stream).await;
                if shared.link_down(to, Some(serial)) && !shared.is_stopping() {
                    tracing::info!(peer = %to, "the link to the peer ended");
                }
            }
            Err(error) => {
                let text = error.to_string();
                // Nodes that start together do not find each other at once.
                if pause == PAUSE_MAX && text != complaint && !shared.is_stopping() {
                    tracing::info!(peer = %to, %error, "no link to the peer");
                    complaint = text;
                }
            }
        }
        let nudge = shared.state.borrow_mut().peers.nudge_of(to);
        let Some(nudge) = nudge else { return };
        // Two nodes that break each other's links must not drive each other on without a pause.
        sleep(PAUSE_MIN).await;
        if with_deadline(pause - PAUSE_MIN, nudge.wait()).await.is_none() {
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Sees to bytes that found no room: waits for it, or opens the connection they need.
pub async fn attend(shared: Rc<Shared>, pending: Pending) {
    let outcome = match pending.need {
        Need::Room => write_on(&shared, pending).await,
        Need::Connection => open_bulk(&shared, pending).await,
    };
    if let Err(reason) = outcome
        && shared.link_down(pending.to, Some(pending.serial))
    {
        tracing::warn!(peer = %pending.to, reason, "the link to the peer was given up");
    }
}

async fn write_on(shared: &Rc<Shared>, pending: Pending) -> Result<(), &'static str> {
    loop {
        let Some(stream) = shared.state.borrow_mut().peers.stream(pending) else {
            return Ok(());
        };
        match with_deadline(WRITE_DEADLINE, stream.writable()).await {
            Some(Ok(())) => {}
            Some(Err(_)) => return Err("the connection broke"),
            None => return Err("the peer took nothing for too long"),
        }
        match shared.within_turn(|state| state.peers.write_on(pending)) {
            Some(Written::NeedsRoom) => {}
            Some(Written::Broken(reason)) => return Err(reason),
            _ => return Ok(()),
        }
    }
}

async fn open_bulk(shared: &Rc<Shared>, pending: Pending) -> Result<(), &'static str> {
    let Ok((stream, _)) = open(shared, pending.to, Lane::Bulk).await else {
        return Err("the connection for bulk could not be made");
    };
    let installed =
        shared.state.borrow_mut().peers.set_bulk(pending.to, pending.serial, stream.clone());
    if installed.is_none() {
        return Ok(());
    }
    spawn(watch_bulk(shared.clone(), stream, pending));
    write_on(shared, Pending { need: Need::Room, ..pending }).await
}

async fn watch_bulk(shared: Rc<Shared>, stream: Rc<Stream>, pending: Pending) {
    wait_for_end(&stream).await;
    shared.link_down(pending.to, Some(pending.serial));
}

async fn open(
    shared: &Rc<Shared>,
    to: Address,
    lane: Lane,
) -> Result<(Rc<Stream>, Acceptance), OpenError> {
    let (target, hello) = {
        let state = shared.state.borrow();
        (state.peers.address(to), state.peers.hello(to, lane))
    };
    let target = target.ok_or(OpenError::NoAddress(to))?;
    let stream = Rc::new(Stream::connect(target, CONNECT_DEADLINE).await?);
    stream.give_up_after(SILENCE_DEADLINE)?;
    let mut bytes = Vec::new();
    hello.encode(&mut bytes);
    // A new connection has room for a greeting; one that has not is of no use.
    if stream.send(&bytes)? != Transfer::Bytes(bytes.len()) {
        return Err(OpenError::Silent);
    }
    let reply = with_deadline(GREETING_DEADLINE, receive_reply(&stream)).await;
    match reply.unwrap_or(Err(OpenError::Silent))? {
        HelloReply::Refused(reason) => Err(OpenError::Refused(reason)),
        HelloReply::Accepted(acceptance) if address(acceptance.endpoint) != to => {
            Err(OpenError::WrongPeer(address(acceptance.endpoint)))
        }
        HelloReply::Accepted(acceptance) => {
            if shared.note_life(to.node, acceptance.incarnation).is_err() {
                return Err(OpenError::Outlived);
            }
            Ok((stream, acceptance))
        }
    }
}

async fn receive_reply(stream: &Stream) -> Result<HelloReply, OpenError> {
    let mut bytes = Vec::new();
    loop {
        match HelloReply::parse(&bytes)? {
            Parsed::Complete { item, .. } => return Ok(item),
            Parsed::Incomplete { .. } => receive_some(stream, &mut bytes).await?,
        }
    }
}

/// Waits for bytes of a greeting and appends them to `bytes`.
///
/// # Errors
/// If the connection ends instead.
pub async fn receive_some(stream: &Stream, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 512];
    loop {
        match stream.receive(&mut buffer)? {
            Transfer::Bytes(count) => {
                // SAFETY: the receive wrote so many bytes at the front.
                bytes.extend_from_slice(unsafe { received(&buffer[..count]) });
                return Ok(());
            }
            Transfer::WouldBlock => stream.readable().await?,
            Transfer::End => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Waits until the other end closes, the connection breaks, or bytes come that should not.
async fn wait_for_end(stream: &Stream) {
    let mut byte = [MaybeUninit::<u8>::uninit(); 1];
    loop {
        match stream.receive(&mut byte) {
            Ok(Transfer::WouldBlock) => {
                if stream.readable().await.is_err() {
                    return;
                }
            }
            Ok(Transfer::Bytes(_) | Transfer::End) | Err(_) => return,
        }
    }
}
