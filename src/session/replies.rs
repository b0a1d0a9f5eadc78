//! The ordered reply queue of one connection, for every protocol alike.
//!
//! Clients get their replies in the order of their requests; the engine answers in any order. Each
//! request takes a slot in a ring. A reply for the head of the ring is encoded straight into the
//! output; one that comes early is encoded into a stash and copied when its turn comes. A request
//! over several keys or shards has parts, whose replies are combined in its slot.
//!
//! In steady state nothing is allocated: ring and stash keep their memory while the connection is
//! busy, the output buffer comes from a pool and goes back when it is flushed.
//!
//! Invariants:
//! - Every slot gets exactly one outcome. Replies for unknown slots and second replies are ignored.
//! - A failed part makes the whole request fail: *unknown* beats *not done* beats *done*; and a
//!   write that is done in part and not done in part is *unknown*, never *not done*.
//! - Output and stash together never exceed [`OUTPUT_BYTES_MAX`] by more than one reply; beyond it
//!   the queue is *overflowed*, forgets everything, and the connection has to be closed.

use std::collections::VecDeque;

use proto::limits::OUTPUT_BYTES_MAX;
use shards::command::{Command, ReadFrom, RequestBatch};
use shards::ids::ShardId;
use shards::reply::{Class, Reply, Status, Token};

use crate::commands::binary::BinaryReply;
use crate::commands::render::RespReply;
use crate::session::context::BufferPool;

/// How the outcome of a request is put into words, with what the protocol needs for it.
#[derive(Clone, Copy, Debug)]
pub enum ReplyContext {
    /// RESP.
    Resp(RespReply),
    /// memcached's binary protocol.
    Binary(BinaryReply),
}

impl ReplyContext {
    /// Appends the encoding of `reply` to `out`. `held` is what the request left with
    /// [`ReplyQueue::hold`].
    fn render(self, reply: &Reply, value: Option<&[u8]>, held: &[u8], out: &mut Vec<u8>) {
        match self {
            ReplyContext::Resp(context) => context.render(reply, value, out),
            ReplyContext::Binary(context) => context.render(reply, value, held, out),
        }
    }

    /// Appends the error for a write of which only parts were carried out.
    fn render_partly_done(self, held: &[u8], out: &mut Vec<u8>) {
        match self {
            ReplyContext::Resp(context) => context.render_partly_done(out),
            ReplyContext::Binary(context) => {
                let reply = Reply::bare(Token::default(), Status::DeadlinePassed);
                context.render(&reply, None, held, out);
            }
        }
    }

    /// Appends what stands before the parts of an [`Aggregate::Array`].
    fn render_array_header(self, length: usize, out: &mut Vec<u8>) {
        match self {
            ReplyContext::Resp(context) => context.render_array_header(length, out),
            ReplyContext::Binary(_) => {}
        }
    }
}

/// How the replies to the parts of a request become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// There is one part, and its reply is that of the request.
    Single,
    /// The replies of the parts in the order of the parts, behind a header.
    Array,
    /// The number of parts whose status is `Ok`.
    CountOk,
    /// The sum of the parts' numbers.
    Sum,
    /// `Ok` if all parts are.
    AllOk,
}

/// A range of a stash. Empty ranges may start anywhere.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    length: u32,
}

/// Bytes that wait for their slot to become the head.
#[derive(Debug, Default)]
struct Stash {
    bytes: Vec<u8>,
    live: usize,
}

/// Size from which a stash is worth compacting, in bytes.
const STASH_COMPACT_BYTES: usize = 64 << 10;

impl Stash {
    fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Span {
        let start = self.bytes.len();
        write(&mut self.bytes);
        let length = self.bytes.len() - start;
        self.live += length;
        Span { start: start as u32, length: length as u32 }
    }

    fn get(&self, span: Span) -> &[u8] {
        let start = span.start as usize;
        self.bytes.get(start..start + span.length as usize).unwrap_or_default()
    }

    fn release(&mut self, span: Span) {
        self.live -= (span.length as usize).min(self.live);
        if self.live == 0 {
            self.bytes.clear();
        }
    }

    fn is_sparse(&self) -> bool {
        self.bytes.len() > STASH_COMPACT_BYTES && self.live < self.bytes.len() / 2
    }

    /// Moves what `span` covers to the end of `target`, and the span with it.
    fn relocate(&self, span: &mut Span, target: &mut Vec<u8>) {
        let start = target.len() as u32;
        target.extend_from_slice(self.get(*span));
        span.start = start;
    }

    fn forget(&mut self) {
        *self = Stash::default();
    }
}

/// One part of a request with several.
#[derive(Clone, Copy, Debug)]
struct Part {
    encoded: Span,
    shard: ShardId,
    is_write: bool,
    is_done: bool,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    context: ReplyContext,
    aggregate: Aggregate,
    /// Parts without a reply. Zero: ready.
    waiting: u32,
    /// For a slot with parts: how many, and the number of the first.
    parts: u32,
    first_part: u32,
    /// The encoded reply of a ready slot without parts.
    encoded: Span,
    held: Span,
    /// For the one part of [`Aggregate::Single`].
    shard: ShardId,
    is_write: bool,
    /// The worst failure of a part so far.
    failure: Option<Status>,
    /// Whether a part that writes is done.
    some_written: bool,
    total: u64,
}

/// Counters of unanswered requests; shards share one if their ids are equal modulo this.
const SHARD_COUNTERS: usize = 32;

/// Requests to a shard that are at the engine.
#[derive(Clone, Copy, Debug, Default)]
struct Unanswered {
    reads: u32,
    writes: u32,
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct ReplyQueue {
    connection: u32,
    slots: VecDeque<Slot>,
    /// Sequence number of the first slot.
    head: u32,
    parts: VecDeque<Part>,
    /// Number of the first part.
    parts_head: u32,
    /// Requests at the engine.
    outstanding: u32,
    stash: Stash,
    held: Stash,
    output: Vec<u8>,
    sent: usize,
    unanswered: [Unanswered; SHARD_COUNTERS],
    overflowed: bool,
    /// Who may answer the reads that are sent from now on.
    read_from: ReadFrom,
    /// Whether reads do not count as uses of their keys.
    is_peeking: bool,
}

/// Bytes that were sent already and may stay at the front of the output before it is moved.
const SENT_BYTES_KEPT: usize = 256 << 10;

impl ReplyQueue {
    /// The queue of the connection that tokens call `connection`.
    pub fn new(connection: u32) -> Self {
        ReplyQueue { connection, ..ReplyQueue::default() }
    }

    /// Sends `command` to the engine, and takes the next slot for its reply.
    pub fn request(
        &mut self,
        context: ReplyContext,
        shard: ShardId,
        command: &Command<'_>,
        requests: &mut RequestBatch,
    ) {
        self.request_holding(context, b"", shard, command, requests);
    }

    /// Like [`request`](Self::request); `held` is given to the rendering of the reply.
    pub fn request_holding(
        &mut self,
        context: ReplyContext,
        held: &[u8],
        shard: ShardId,
        command: &Command<'_>,
        requests: &mut RequestBatch,
    ) {
        let sequence = self.next_sequence();
        let is_write = !command.operation.is_read();
        let held = self.hold(held);
        self.slots.push_back(Slot {
            context,
            aggregate: Aggregate::Single,
            waiting: 1,
            parts: 0,
            first_part: 0,
            encoded: Span::default(),
            held,
            shard,
            is_write,
            failure: None,
            some_written: false,
            total: 0,
        });
        self.send(
            Token { connection: self.connection, sequence, part: 0 },
            shard,
            command,
            requests,
        );
    }

    /// Takes the next slot for a request whose parts follow as calls of [`part`](Self::part),
    /// before anything else happens to the queue. Without any part the request is `Ok` with a
    /// total of zero.
    pub fn begin_parts(&mut self, context: ReplyContext, aggregate: Aggregate, held: &[u8]) {
        let held = self.hold(held);
        self.slots.push_back(Slot {
            context,
            aggregate,
            waiting: 0,
            parts: 0,
            first_part: self.parts_head.wrapping_add(self.parts.len() as u32),
            encoded: Span::default(),
            held,
            shard: ShardId(0),
            is_write: false,
            failure: None,
            some_written: false,
            total: 0,
        });
    }

    /// Sends the next part of the request that [`begin_parts`](Self::begin_parts) opened.
    pub fn part(&mut self, shard: ShardId, command: &Command<'_>, requests: &mut RequestBatch) {
        let sequence = self.next_sequence().wrapping_sub(1);
        let Some(slot) = self.slots.back_mut() else { return };
        let part = slot.parts;
        slot.parts += 1;
        slot.waiting += 1;
        let is_write = !command.operation.is_read();
        self.parts.push_back(Part { encoded: Span::default(), shard, is_write, is_done: false });
        self.send(Token { connection: self.connection, sequence, part }, shard, command, requests);
    }

    /// Ends the request that [`begin_parts`](Self::begin_parts) opened.
    pub fn end_parts(&mut self, buffers: &mut BufferPool) {
        if self.slots.len() == 1 {
            self.advance(buffers);
        }
    }

    /// Answers a request at once, in its place behind those that still wait.
    pub fn answer(&mut self, buffers: &mut BufferPool, write: impl FnOnce(&mut Vec<u8>)) {
        if self.slots.is_empty() {
            write(output_buffer(&mut self.output, buffers, 0));
        } else {
            let encoded = self.stash.add(write);
            self.slots.push_back(Slot {
                context: ReplyContext::Resp(RespReply::default()),
                aggregate: Aggregate::Single,
                waiting: 0,
                parts: 0,
                first_part: 0,
                encoded,
                held: Span::default(),
                shard: ShardId(0),
                is_write: false,
                failure: None,
                some_written: false,
                total: 0,
            });
        }
        self.check_overflow();
    }

    /// Takes the engine's reply to one of the requests. `value` is the reply's value.
    pub fn reply(&mut self, reply: &Reply, value: Option<&[u8]>, buffers: &mut BufferPool) {
        let offset = reply.token.sequence.wrapping_sub(self.head) as usize;
        let Some(slot) = self.slots.get_mut(offset) else { return };
        if slot.waiting == 0 {
            return;
        }
        if slot.aggregate == Aggregate::Single {
            slot.waiting = 0;
            let slot = *slot;
            self.settle(slot.shard, slot.is_write);
            let held = self.held.get(slot.held);
            if offset == 0 {
                let length = value.map_or(0, <[u8]>::len);
                let output = output_buffer(&mut self.output, buffers, length);
                slot.context.render(reply, value, held, output);
            } else {
                let encoded = self.stash.add(|out| slot.context.render(reply, value, held, out));
                self.slots[offset].encoded = encoded;
            }
        } else if !self.reply_to_part(offset, reply, value) {
            return;
        }
        if offset == 0 {
            self.advance(buffers);
        }
        self.check_overflow();
    }

    /// Combines the reply to a part; false if there is no such part waiting.
    fn reply_to_part(&mut self, offset: usize, reply: &Reply, value: Option<&[u8]>) -> bool {
        let slot = &mut self.slots[offset];
        if reply.token.part >= slot.parts {
            return false;
        }
        let number = slot.first_part.wrapping_add(reply.token.part);
        let Some(part) = self.parts.get_mut(number.wrapping_sub(self.parts_head) as usize) else {
            return false;
        };
        if part.is_done {
            return false;
        }
        part.is_done = true;
        slot.waiting -= 1;
        match slot.aggregate {
            Aggregate::Sum => slot.total = slot.total.saturating_add(reply.number),
            Aggregate::CountOk => slot.total += u64::from(reply.status == Status::Ok),
            Aggregate::Single | Aggregate::Array | Aggregate::AllOk => {}
        }
        let is_failure = match slot.aggregate {
            Aggregate::AllOk => reply.status != Status::Ok,
            _ => !matches!(reply.status, Status::Ok | Status::NotFound),
        };
        if !is_failure {
            slot.some_written |= part.is_write && reply.status == Status::Ok;
            if slot.aggregate == Aggregate::Array {
                let held = self.held.get(slot.held);
                part.encoded = self.stash.add(|out| slot.context.render(reply, value, held, out));
            }
        } else if slot.failure.is_none_or(|failure| rank(failure) < rank(reply.status)) {
            slot.failure = Some(reply.status);
        }
        let (shard, is_write) = (part.shard, part.is_write);
        self.settle(shard, is_write);
        true
    }

    /// Moves everything that is ready from the head of the ring to the output.
    fn advance(&mut self, buffers: &mut BufferPool) {
        while let Some(slot) = self.slots.front()
            && slot.waiting == 0
        {
            let slot = *slot;
            self.slots.pop_front();
            self.head = self.head.wrapping_add(1);
            if slot.aggregate != Aggregate::Single {
                self.emit_parts(&slot, buffers);
            } else if slot.encoded.length > 0 {
                let length = slot.encoded.length as usize;
                let output = output_buffer(&mut self.output, buffers, length);
                output.extend_from_slice(self.stash.get(slot.encoded));
                self.stash.release(slot.encoded);
            }
            self.held.release(slot.held);
        }
        if self.stash.is_sparse() || self.held.is_sparse() {
            self.compact();
        }
    }

    fn emit_parts(&mut self, slot: &Slot, buffers: &mut BufferPool) {
        let output = output_buffer(&mut self.output, buffers, 0);
        let is_array = slot.aggregate == Aggregate::Array && slot.failure.is_none();
        if is_array {
            slot.context.render_array_header(slot.parts as usize, output);
        } else {
            let held = self.held.get(slot.held);
            let status = slot.failure.unwrap_or(Status::Ok);
            let reply = Reply { number: slot.total, ..Reply::bare(Token::default(), status) };
            // If a part of the command has happened, the whole has not *not* happened.
            if slot.some_written && status.class() == Class::NotDone {
                slot.context.render_partly_done(held, output);
            } else {
                slot.context.render(&reply, None, held, output);
            }
        }
        for _ in 0..slot.parts {
            let Some(part) = self.parts.pop_front() else { break };
            self.parts_head = self.parts_head.wrapping_add(1);
            if is_array {
                output.extend_from_slice(self.stash.get(part.encoded));
            }
            self.stash.release(part.encoded);
        }
    }

    /// Copies what lives in the stashes to the front of new ones. It happens only when more than
    /// half of a large stash is dead, so its cost is shared by as many bytes as it copies.
    fn compact(&mut self) {
        let mut encoded = Vec::with_capacity(self.stash.live);
        let mut held = Vec::with_capacity(self.held.live);
        for slot in &mut self.slots {
            self.stash.relocate(&mut slot.encoded, &mut encoded);
            self.held.relocate(&mut slot.held, &mut held);
        }
        for part in &mut self.parts {
            self.stash.relocate(&mut part.encoded, &mut encoded);
        }
        (self.stash.bytes, self.held.bytes) = (encoded, held);
    }

    fn hold(&mut self, bytes: &[u8]) -> Span {
        if bytes.is_empty() {
            return Span::default();
        }
        self.held.add(|out| out.extend_from_slice(bytes))
    }

    fn send(
        &mut self,
        token: Token,
        shard: ShardId,
        command: &Command<'_>,
        requests: &mut RequestBatch,
    ) {
        // Neither may a read overtake a write of this connection, nor a write a read.
        let unanswered = &mut self.unanswered[usize::from(shard.0) % SHARD_COUNTERS];
        let ordered = if command.operation.is_read() {
            unanswered.reads += 1;
            unanswered.writes > 0
        } else {
            unanswered.writes += 1;
            unanswered.reads > 0
        };
        self.outstanding += 1;
        requests.push_read(shard, token, ordered, self.read_from, command);
    }

    fn settle(&mut self, shard: ShardId, is_write: bool) {
        self.outstanding = self.outstanding.saturating_sub(1);
        let unanswered = &mut self.unanswered[usize::from(shard.0) % SHARD_COUNTERS];
        let count = if is_write { &mut unanswered.writes } else { &mut unanswered.reads };
        *count = count.saturating_sub(1);
    }

    fn next_sequence(&self) -> u32 {
        self.head.wrapping_add(self.slots.len() as u32)
    }

    fn check_overflow(&mut self) {
        if self.buffered_bytes() > OUTPUT_BYTES_MAX {
            self.overflowed = true;
            self.output = Vec::new();
            self.sent = 0;
            self.slots.clear();
            self.parts.clear();
            self.stash.forget();
            self.held.forget();
        }
    }

    /// Whether reads count as uses of their keys from now on.
    pub fn set_peeking(&mut self, is_peeking: bool) {
        self.is_peeking = is_peeking;
    }

    /// Whether reads do not count as uses of their keys.
    pub fn is_peeking(&self) -> bool {
        self.is_peeking
    }

    /// Who may answer reads from now on.
    pub fn set_read_from(&mut self, read_from: ReadFrom) {
        self.read_from = read_from;
    }

    /// Who may answer reads.
    pub fn read_from(&self) -> ReadFrom {
        self.read_from
    }

    /// What is ready to be sent.
    pub fn output(&self) -> &[u8] {
        self.output.get(self.sent..).unwrap_or_default()
    }

    /// Drops the first `count` bytes of the output, which have been sent.
    pub fn consume_output(&mut self, count: usize, buffers: &mut BufferPool) {
        self.sent = (self.sent + count).min(self.output.len());
        if self.sent == self.output.len() {
            self.sent = 0;
            buffers.give(std::mem::take(&mut self.output));
        } else if self.sent > SENT_BYTES_KEPT && self.sent > self.output.len() / 2 {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Bytes of replies that are not sent.
    pub fn buffered_bytes(&self) -> usize {
        self.output.len() - self.sent + self.stash.live + self.held.live
    }

    /// Requests, answered or not, whose replies are not in the output.
    pub fn slots_len(&self) -> usize {
        self.slots.len()
    }

    /// Requests and parts of requests at the engine.
    pub fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// Whether more output gathered than a connection may owe.
    pub fn is_overflowed(&self) -> bool {
        self.overflowed
    }

    /// Starts at another sequence number than zero.
    #[cfg(test)]
    pub fn start_at(&mut self, sequence: u32) {
        self.head = sequence;
        self.parts_head = sequence;
    }

    /// Size of the stash with its dead bytes.
    #[cfg(test)]
    pub fn stash_bytes(&self) -> usize {
        self.stash.bytes.len()
    }

    /// Memory held.
    #[cfg(test)]
    pub fn capacity_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
            + self.parts.capacity() * size_of::<Part>()
            + self.stash.bytes.capacity()
            + self.held.bytes.capacity()
            + self.output.capacity()
    }

    /// Gives memory back that an idle connection does not need.
    pub fn trim(&mut self) {
        if self.slots.is_empty() {
            self.slots = VecDeque::new();
            self.parts = VecDeque::new();
            self.stash.forget();
            self.held.forget();
        }
    }
}

/// The output, which takes a buffer from the pool when it has none.
/// The output, with a buffer for about `length` bytes more if it has none.
fn output_buffer<'a>(
    output: &'a mut Vec<u8>,
    buffers: &mut BufferPool,
    length: usize,
) -> &'a mut Vec<u8> {
    if output.capacity() == 0 {
        *output = buffers.take_for(length);
    }
    output
}

/// How bad a failure is: the order of classes in which one part's failure beats another's.
fn rank(status: Status) -> u8 {
    match status.class() {
        Class::Done => 0,
        Class::NotDone => 1,
        Class::Unknown => 2,
    }
}
