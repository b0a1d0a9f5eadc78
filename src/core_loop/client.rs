//! One client connection: what it owns, and the two moments at which bytes move.
//!
//! Reading happens in the connection's task: it is woken when bytes are there, receives into the
//! core's buffer, lets the session parse all of it, and leaves the requests in the core's batch
//! for the turn. Writing happens in the turn, once for each connection with output. Only a socket
//! that has no room gets a task of its own that waits for room and writes on.
//!
//! A connection ends in one of two ways. *Finished*: its session wants to close, or the client or
//! the server ended the input, and all replies were written; the sending side is shut down and
//! what still comes in is read and dropped for a moment, since closing with unread input would
//! reset the connection and could take the last replies with it. *Broken*: the socket failed, or
//! the client did not keep a deadline; it is closed at once.
//!
//! Invariants: one task reads, and it alone removes the connection from the table. `in_flight`
//! is the number of requests pushed for this connection whose replies have not come.

use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use shards::reply::Reply;

use super::Shared;
use super::signal::Signal;
use super::state::Lent;
use super::table::ConnectionId;
use crate::net::input::{Input, Received};
use crate::net::runtime::{with_deadline, yield_now};
use crate::net::stream::{Stream, Transfer, Transport};
use crate::session::clients::ClientDirectory;
use crate::session::{BufferPool, Session, SessionContext};

/// Encoded bytes of requests that one turn takes. A connection that finds so many waits for the
/// next one.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Receives per wake-up before the others on this core get their turn.
const RECEIVES_PER_WAKE: usize = 4;
/// Bytes written to one connection before the others get their turn. A large value leaves in
/// pieces.
const SEND_BYTES_MAX: usize = 256 << 10;
/// How long a finished connection's last input is read and dropped.
const LINGER_DEADLINE: Duration = Duration::from_secs(1);
/// How long a client may leave its replies lying without taking any.
const SEND_DEADLINE: Duration = Duration::from_secs(60);
/// A request that has begun must end within so many seconds,
const PROGRESS_SECONDS: u64 = 10;
/// or at least bring so many bytes in each such period.
const PROGRESS_BYTES: usize = 64 << 10;
/// A connection without requests for so many seconds gives its buffers back.
const IDLE_SECONDS: u64 = 5;

/// An open client connection.
#[derive(Debug)]
pub struct Client {
    stream: Rc<Stream>,
    session: Session,
    input: Input,
    /// How long `input` must have become until parsing makes sense.
    awaited: usize,
    /// Whether `input` may hold whole requests that the session had no room for.
    is_blocked: bool,
    in_flight: u32,
    /// Whether it is on the list of connections to be written.
    pub is_dirty: bool,
    /// Whether a task waits for room to write on.
    is_sending: bool,
    is_broken: bool,
    /// Whether the reading task waits for `resume` and not for input.
    is_paused: bool,
    resume: Signal,
    /// When the request that is incomplete began or was last seen to grow, in seconds.
    progress_second: u64,
    /// Bytes received since.
    progress_bytes: usize,
    /// When something was last received, in seconds; zero once its buffers were given back.
    active_second: u64,
}

/// What the reading task waits for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Input.
    Readable,
    /// Its turn: it has had its share of this one.
    Again,
    /// Room for more requests, or the end of what is under way.
    Resumed,
    /// The client to close as well, for a moment.
    Linger,
    /// Nothing.
    Close,
}

/// What a write to a client came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// There is nothing left to write, or somebody already waits for room.
    Done,
    /// The socket has no room: somebody must wait for it.
    NeedsRoom,
}

impl Client {
    /// A connection that was just accepted.
    pub fn new(stream: Rc<Stream>, session: Session, now_second: u64) -> Self {
        Client {
            stream,
            session,
            input: Input::default(),
            awaited: 1,
            is_blocked: false,
            in_flight: 0,
            is_dirty: false,
            is_sending: false,
            is_broken: false,
            is_paused: false,
            resume: Signal::default(),
            progress_second: now_second,
            progress_bytes: 0,
            active_second: now_second,
        }
    }

    /// Requests of this connection that the engine has not answered.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Takes a reply of the engine.
    pub fn reply(&mut self, reply: &Reply, value: Option<&[u8]>, buffers: &mut BufferPool) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.session.reply(reply, value, buffers);
    }

    /// Wakes the reading task if it waits for what has come now: room for requests, or the end.
    pub fn resume_if_due(&mut self) {
        let is_due = || self.is_broken || self.is_finished() || self.session.wants_input();
        if self.is_paused && is_due() {
            self.is_paused = false;
            self.resume.raise();
        }
    }

    /// Ready when the reading task is to look again.
    pub fn poll_resumed(&self, context: &mut Context<'_>) -> Poll<()> {
        self.resume.poll(context)
    }

    /// Whether there is something to send.
    pub fn has_output(&self) -> bool {
        !self.session.output().is_empty()
    }

    /// Takes no more requests: what is under way is answered, then the connection ends.
    pub fn end_input(&mut self) {
        self.session.end_of_input();
        // The task may wait for input that is of no interest any more.
        self.stream.shutdown(Shutdown::Read);
        self.resume_if_due();
    }

    /// Closes the connection as soon as its task runs.
    pub fn break_off(&mut self) {
        self.is_broken = true;
        self.stream.shutdown(Shutdown::Both);
        self.resume_if_due();
    }

    /// The stream, to wait for room on.
    pub fn stream(&self) -> Rc<Stream> {
        self.stream.clone()
    }

    /// Leaves the directory and gives buffers back, before the connection is dropped.
    pub fn close(mut self, directory: &mut ClientDirectory, buffers: &mut BufferPool) {
        self.session.close(directory, buffers);
    }

    /// Sends what the session has to say, as far as there is room and it is not too much at once.
    /// With `Flushed::NeedsRoom` the caller has to see to the rest with [`Client::flush_rest`].
    pub fn flush(&mut self, buffers: &mut BufferPool, sent_bytes: &mut u64) -> Flushed {
        if self.is_sending || self.is_broken {
            return Flushed::Done;
        }
        let flushed = self.flush_rest(buffers, sent_bytes);
        self.is_sending = flushed == Flushed::NeedsRoom;
        flushed
    }

    /// Goes on where [`Client::flush`] found no room. Only the task that waited for room calls it.
    pub fn flush_rest(&mut self, buffers: &mut BufferPool, sent_bytes: &mut u64) -> Flushed {
        if self.session.is_aborted() {
            self.break_off();
            return Flushed::Done;
        }
        loop {
            let output = self.session.output();
            if output.is_empty() {
                self.is_sending = false;
                return Flushed::Done;
            }
            let length = output.len();
            match self.stream.send(&output[..length.min(SEND_BYTES_MAX)]) {
                Ok(Transfer::Bytes(count)) => {
                    *sent_bytes += count as u64;
                    self.session.consume_output(count, buffers);
                    if count < length {
                        return Flushed::NeedsRoom;
                    }
                }
                Ok(Transfer::WouldBlock) => return Flushed::NeedsRoom,
                Ok(Transfer::End) | Err(_) => {
                    self.break_off();
                    return Flushed::Done;
                }
            }
        }
    }

    /// Once a second: closes who began a request and does not go on with it, and takes buffers
    /// back from who has been idle. Returns whether it closed the connection.
    pub fn check_progress(&mut self, now_second: u64) -> bool {
        if self.active_second != 0 && now_second.saturating_sub(self.active_second) > IDLE_SECONDS {
            self.session.trim();
            self.active_second = 0;
        }
        let waits_for_client = !self.is_blocked && self.session.wants_input();
        if !waits_for_client || (self.input.is_empty() && !self.session.is_within_request()) {
            self.progress_second = now_second;
            self.progress_bytes = 0;
            return false;
        }
        if now_second.saturating_sub(self.progress_second) < PROGRESS_SECONDS {
            return false;
        }
        if self.progress_bytes >= PROGRESS_BYTES {
            self.progress_second = now_second;
            self.progress_bytes = 0;
            return false;
        }
        self.break_off();
        true
    }

    fn is_finished(&self) -> bool {
        self.session.is_closing() && self.session.output().is_empty()
    }

    /// Parses what is there and receives what has come. Returns what to wait for.
    pub fn read(&mut self, lent: &mut Lent<'_>) -> Next {
        let before = lent.context.requests.requests().len();
        let next = self.receive(lent);
        self.in_flight += (lent.context.requests.requests().len() - before) as u32;
        self.is_paused = next == Next::Resumed;
        next
    }

    fn receive(&mut self, lent: &mut Lent<'_>) -> Next {
        if let Some(next) = self.obstacle(lent) {
            return next;
        }
        if self.is_blocked {
            let mut parser = Parser::new(&mut self.session, &mut self.awaited);
            self.input.parse_again(|bytes| parser.parse(bytes, &mut lent.context));
            self.is_blocked = parser.is_blocked;
        }
        for _ in 0..RECEIVES_PER_WAKE {
            if let Some(next) = self.obstacle(lent) {
                return next;
            }
            if self.is_blocked {
                return Next::Again;
            }
            let mut parser = Parser::new(&mut self.session, &mut self.awaited);
            let received = self.input.receive(&*self.stream, lent.scratch, |bytes| {
                parser.parse(bytes, &mut lent.context)
            });
            self.is_blocked = parser.is_blocked;
            match received {
                Ok(Received { transfer: Transfer::Bytes(count), filled }) => {
                    self.note_progress(count, lent);
                    if !filled && !self.is_blocked {
                        return self.obstacle(lent).unwrap_or(Next::Readable);
                    }
                }
                Ok(Received { transfer: Transfer::WouldBlock, .. }) => return Next::Readable,
                Ok(Received { transfer: Transfer::End, .. }) => {
                    self.session.end_of_input();
                    return self.obstacle(lent).unwrap_or(Next::Resumed);
                }
                Err(_) => {
                    self.is_broken = true;
                    return Next::Close;
                }
            }
        }
        self.obstacle(lent).unwrap_or(Next::Again)
    }

    /// What stands against receiving now, if anything does.
    fn obstacle(&self, lent: &Lent<'_>) -> Option<Next> {
        if self.is_broken || self.session.is_aborted() {
            Some(Next::Close)
        } else if self.is_finished() {
            Some(Next::Linger)
        } else if !self.session.wants_input() || lent.is_congested {
            Some(Next::Resumed)
        } else if lent.context.requests.bytes_len() >= BATCH_BYTES_MAX {
            Some(Next::Again)
        } else {
            None
        }
    }

    fn note_progress(&mut self, received: usize, lent: &mut Lent<'_>) {
        *lent.received_bytes += received as u64;
        self.active_second = lent.now_second;
        if self.input.is_empty() && !self.session.is_within_request() {
            self.progress_second = lent.now_second;
            self.progress_bytes = 0;
        } else {
            self.progress_bytes += received;
        }
    }
}

/// Hands input to a session, and remembers what it said about the rest.
struct Parser<'a> {
    session: &'a mut Session,
    awaited: &'a mut usize,
    is_blocked: bool,
}

impl<'a> Parser<'a> {
    fn new(session: &'a mut Session, awaited: &'a mut usize) -> Self {
        Parser { session, awaited, is_blocked: false }
    }

    fn parse(&mut self, bytes: &[u8], context: &mut SessionContext<'_>) -> usize {
        // A long request would be looked at again with every piece of it that arrives.
        if bytes.len() < *self.awaited {
            return 0;
        }
        let received = self.session.receive(bytes, context);
        let rest = bytes.len() - received.consumed.min(bytes.len());
        *self.awaited = rest + received.needed;
        self.is_blocked = received.needed == 0 && rest > 0;
        received.consumed
    }
}

/// Serves one connection until it ends.
pub async fn serve_client(shared: Rc<Shared>, id: ConnectionId, stream: Rc<Stream>) {
    loop {
        match shared.read_client(id) {
            Next::Readable => {
                if stream.readable().await.is_err() {
                    break;
                }
            }
            Next::Again => yield_now().await,
            Next::Resumed => {
                std::future::poll_fn(|context| shared.poll_client_resumed(id, context)).await;
            }
            Next::Linger => {
                stream.shutdown(Shutdown::Write);
                with_deadline(LINGER_DEADLINE, drop_input(&stream)).await;
                break;
            }
            Next::Close => break,
        }
    }
    shared.remove_client(id);
}

/// Writes on whenever there is room, until nothing is left.
pub async fn write_on(shared: Rc<Shared>, id: ConnectionId, stream: Rc<Stream>) {
    loop {
        let ready = with_deadline(SEND_DEADLINE, stream.writable()).await;
        let has_room = matches!(ready, Some(Ok(())));
        if shared.flush_client_rest(id, has_room) == Flushed::Done {
            return;
        }
    }
}

async fn drop_input(stream: &Stream) {
    loop {
        match drop_some(stream) {
            Ok(Transfer::Bytes(_)) => yield_now().await,
            Ok(Transfer::WouldBlock) => {
                if stream.readable().await.is_err() {
                    return;
                }
            }
            Ok(Transfer::End) | Err(_) => return,
        }
    }
}

/// The buffer must not become part of the task, of which there is one per connection.
fn drop_some(stream: &Stream) -> io::Result<Transfer> {
    stream.receive(&mut [MaybeUninit::uninit(); 4_096])
}
