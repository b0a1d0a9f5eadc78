//! The connections that peers open: checks the greeting, then hands frame after frame to the
//! engine, from where they were received.
//!
//! A connection that is not (or no longer) a peer's is closed with a reason, which is logged once
//! per peer and reason. Bytes that are no frames end the connection; the sender starts anew.

use std::rc::Rc;
use std::time::Duration;

use proto::peer::{Acceptance, Hello, HelloReply, Parsed, PeerError};
use shards::contract::{Input as EngineInput, Lane};
use shards::ids::Address;
use socket2::Socket;

use super::outbound::receive_some;
use super::{SILENCE_DEADLINE, address, endpoint, lane};
use crate::core_loop::Shared;
use crate::net::input::Input;
use crate::net::runtime::{sleep, with_deadline, yield_now};
use crate::net::stream::{Stream, Transfer, Transport};

/// How long a greeting may take to arrive.
const GREETING_DEADLINE: Duration = Duration::from_secs(5);
/// How long a refusal may take to be read before the connection closes.
const REFUSAL_LINGER: Duration = Duration::from_millis(200);
/// Receives per wake-up before the others on this core get their turn.
const RECEIVES_PER_WAKE: usize = 4;

/// What a connection was let in as.
struct Admitted {
    from: Address,
    lane: Lane,
    serial: u64,
}

/// Serves a connection that was accepted on the peer port until it ends.
pub async fn serve_peer(shared: Rc<Shared>, socket: Socket) {
    let Ok(stream) = Stream::in_set(socket, &shared.sockets) else { return };
    let stream = Rc::new(stream);
    if stream.give_up_after(SILENCE_DEADLINE).is_err() {
        return;
    }
    let Some(admitted) = greet(&shared, &stream).await else { return };
    let Admitted { from, lane, serial, .. } = admitted;
    if let Err(error) = receive_frames(&shared, &stream, admitted).await {
        tracing::warn!(peer = %from, %error, "a peer sent what is no frame");
    }
    shared.state.borrow_mut().peers.dismiss(from, lane, serial);
}

async fn greet(shared: &Rc<Shared>, stream: &Rc<Stream>) -> Option<Admitted> {
    let mut bytes = Vec::new();
    let hello = with_deadline(GREETING_DEADLINE, receive_hello(stream, &mut bytes)).await??;
    // The sender waits for the answer before it sends a frame.
    if !bytes.is_empty() {
        return None;
    }
    let from = address(hello.from);
    let here = shared.state.borrow().peers.config().here;
    let mut reply = Vec::new();
    let refusal = {
        let state = shared.state.borrow();
        let check = proto::peer::check(&hello, &state.peers.config().settings, endpoint(here));
        check.err().map(|refusal| refusal.to_string())
    };
    let refusal = match refusal {
        None => shared.note_life(from.node, hello.incarnation).err().map(|error| error.to_string()),
        some => some,
    };
    if let Some(reason) = refusal {
        shared.complain_about(from, &reason);
        HelloReply::Refused(reason).encode(&mut reply);
        let _ = stream.send(&reply);
        sleep(REFUSAL_LINGER).await;
        return None;
    }
    let lane = lane(hello.lane);
    let serial = {
        let mut state = shared.state.borrow_mut();
        let config = state.peers.config();
        let acceptance = Acceptance {
            endpoint: endpoint(here),
            cores: config.cores,
            incarnation: config.incarnation,
        };
        HelloReply::Accepted(acceptance).encode(&mut reply);
        state.peers.nudge(from.node);
        state.peers.admit(from, lane, hello.incarnation, stream.clone())
    };
    shared.core_count_learned(from.node, hello.cores);
    // Nothing was sent before, so there is room for it.
    if !matches!(stream.send(&reply), Ok(Transfer::Bytes(count)) if count == reply.len()) {
        shared.state.borrow_mut().peers.dismiss(from, lane, serial);
        return None;
    }
    Some(Admitted { from, lane, serial })
}

/// Receives a greeting and leaves in `bytes` what came behind it. `None` if something else comes,
/// or nothing.
async fn receive_hello(stream: &Stream, bytes: &mut Vec<u8>) -> Option<Hello> {
    loop {
        match Hello::parse(bytes) {
            Ok(Parsed::Complete { item, length }) => {
                bytes.drain(..length);
                return Some(item);
            }
            Ok(Parsed::Incomplete { .. }) => receive_some(stream, bytes).await.ok()?,
            Err(error) => {
                tracing::debug!(address = ?stream.peer_address(), %error, "not a peer");
                return None;
            }
        }
    }
}

async fn receive_frames(
    shared: &Rc<Shared>,
    stream: &Stream,
    admitted: Admitted,
) -> Result<(), PeerError> {
    let mut connection = Connection {
        from: admitted.from,
        lane: admitted.lane,
        serial: admitted.serial,
        input: Input::default(),
    };
    loop {
        match connection.receive(shared, stream)? {
            Some(true) => yield_now().await,
            Some(false) => {
                if stream.readable().await.is_err() {
                    return Ok(());
                }
            }
            None => return Ok(()),
        }
    }
}

struct Connection {
    from: Address,
    lane: Lane,
    serial: u64,
    input: Input,
}

impl Connection {
    /// Receives what has come and feeds its frames to the engine. Returns whether more may wait,
    /// or `None` if the connection has ended or a newer one has taken its place.
    fn receive(&mut self, shared: &Shared, stream: &Stream) -> Result<Option<bool>, PeerError> {
        let mut state = shared.state.borrow_mut();
        let state = &mut *state;
        if !state.peers.is_current(self.from, self.lane, self.serial) {
            return Ok(None);
        }
        state.begin_input();
        let now = state.now;
        let (engine, outputs) = (&mut state.engine, &mut state.outputs);
        let counters = &mut state.counters;
        let from = self.from;
        for _ in 0..RECEIVES_PER_WAKE {
            let mut outcome = Ok(());
            let received = self.input.receive(stream, &mut state.scratch, |bytes| {
                let mut used = 0;
                loop {
                    match proto::peer::parse_frame(&bytes[used..]) {
                        Ok(Parsed::Complete { item, length }) => {
                            engine.step(now, EngineInput::Frame { from, bytes: item }, outputs);
                            counters.peer_frames_in += 1;
                            used += length;
                        }
                        Ok(Parsed::Incomplete { .. }) => return used,
                        Err(error) => {
                            outcome = Err(error);
                            return used;
                        }
                    }
                }
            });
            shared.turn.raise();
            outcome?;
            let Ok(received) = received else { return Ok(None) };
            match received.transfer {
                Transfer::Bytes(count) => counters.peer_bytes_in += count as u64,
                Transfer::WouldBlock => return Ok(Some(false)),
                Transfer::End => return Ok(None),
            }
            if !received.filled {
                return Ok(Some(false));
            }
        }
        Ok(Some(true))
    }
}
