//! One connection without its socket: requests to bytes, bytes to answers, each answer with the
//! ticket of its request.
//!
//! Answers come in the order of the requests in both protocols. The binary one also names its
//! request by an opaque, and a mismatch means that an answer was lost or doubled: then no later
//! answer can be trusted, and the channel is of no more use. The number of requests in flight is
//! bounded; a full channel refuses the next one and its caller waits.

use std::collections::VecDeque;
use std::ops::Range;

use crate::command::Command;
use crate::picker::ReadFrom;
use crate::wire::{Answer, DecodeError, Decoded, EncodeError, Protocol};

/// Longest answer in bytes: four times the longest value, as no command here returns more.
pub const ANSWER_BYTES_MAX: usize = 4 * proto::limits::VALUE_BYTES_MAX;

/// Names a request of the caller; the channel only carries it.
pub type Ticket = u64;

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// As many requests as allowed wait for their answers.
    #[error("too many requests are in flight")]
    Full,
    /// The protocol cannot express it.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// Why the answers cannot be trusted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The bytes are no answer.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The answer is longer than [`ANSWER_BYTES_MAX`].
    #[error("an answer of {0} bytes is too long")]
    TooLong(usize),
    /// An answer came that nobody asked for.
    #[error("an answer without a request")]
    Unasked,
    /// The answer is that of another request.
    #[error("the answer to request {got} came instead of that to {expected}")]
    OutOfOrder {
        /// The opaque of the oldest request in flight.
        expected: u32,
        /// The opaque that came.
        got: u32,
    },
}

/// The state of one connection.
#[derive(Debug)]
pub struct Channel {
    protocol: Protocol,
    read_from: ReadFrom,
    in_flight: VecDeque<Option<Ticket>>,
    in_flight_max: usize,
    next_opaque: u32,
    output: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    /// Bytes of the input that answers have used up.
    used: usize,
    /// There is no point in decoding before the rest of the input has this length.
    needed: usize,
}

impl Channel {
    /// Lets `read_from` answer the reads of this connection, which is fresh.
    pub fn reading_from(mut self, read_from: ReadFrom) -> Channel {
        self.read_from = read_from;
        if self.protocol == Protocol::Resp
            && let Some(greeting) = read_from.greeting()
        {
            self.push_aside(greeting);
        }
        self
    }

    /// A fresh connection that takes up to `in_flight_max` requests at a time.
    pub fn new(protocol: Protocol, in_flight_max: usize) -> Channel {
        Channel {
            protocol,
            read_from: ReadFrom::Leader,
            in_flight: VecDeque::new(),
            in_flight_max,
            next_opaque: 0,
            output: Vec::new(),
            sent: 0,
            input: Vec::new(),
            used: 0,
            needed: 0,
        }
    }

    /// Takes a request. Its answer will come with `ticket`.
    ///
    /// # Errors
    /// If the channel is full or the protocol has no such request; nothing changes then.
    pub fn push(&mut self, command: &Command<'_>, ticket: Ticket) -> Result<(), PushError> {
        if self.is_full() {
            return Err(PushError::Full);
        }
        self.protocol.encode(command, self.read_from, self.next_opaque, &mut self.output)?;
        self.next_opaque = self.next_opaque.wrapping_add(1);
        self.in_flight.push_back(Some(ticket));
        Ok(())
    }

    /// Takes an encoded RESP request whose answer nobody waits for, READONLY for instance.
    pub fn push_aside(&mut self, request: &[u8]) {
        self.output.extend_from_slice(request);
        self.next_opaque = self.next_opaque.wrapping_add(1);
        self.in_flight.push_back(None);
    }

    /// Whether the next request has to wait.
    pub fn is_full(&self) -> bool {
        self.in_flight.len() >= self.in_flight_max
    }

    /// Whether no answer is awaited.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// What is to be sent.
    pub fn output(&self) -> &[u8] {
        self.output.get(self.sent..).unwrap_or_default()
    }

    /// So many bytes of the output were sent.
    pub fn advance_output(&mut self, sent: usize) {
        self.sent += sent;
        if self.sent >= self.output.len() {
            self.output.clear();
            self.sent = 0;
        }
    }

    /// Takes received bytes. Call [`next_answer`](Self::next_answer) until it has none.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.used > 0 {
            self.input.drain(..self.used);
            self.used = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// The next whole answer and the ticket of its request.
    ///
    /// # Errors
    /// If the connection is of no more use.
    pub fn next_answer(&mut self) -> Result<Option<(Ticket, Answer<'_>)>, ChannelError> {
        loop {
            let rest = self.input.get(self.used..).unwrap_or_default();
            if rest.is_empty() || rest.len() < self.needed {
                return Ok(None);
            }
            let (range, opaque, answered): (Range<usize>, _, _) =
                match self.protocol.decode(rest)? {
                    Decoded::Incomplete { needed } if needed > ANSWER_BYTES_MAX => {
                        return Err(ChannelError::TooLong(needed));
                    }
                    Decoded::Incomplete { needed } => {
                        self.needed = needed;
                        return Ok(None);
                    }
                    Decoded::Push { consumed } => (self.used..self.used + consumed, None, false),
                    Decoded::Answer { opaque, consumed, .. } => {
                        (self.used..self.used + consumed, opaque, true)
                    }
                };
            self.used = range.end;
            self.needed = 0;
            if !answered {
                continue;
            }
            let oldest = self.next_opaque.wrapping_sub(self.in_flight.len() as u32);
            let ticket = self.in_flight.pop_front().ok_or(ChannelError::Unasked)?;
            if let Some(got) = opaque
                && got != oldest
            {
                return Err(ChannelError::OutOfOrder { expected: oldest, got });
            }
            let Some(ticket) = ticket else { continue };
            // Decoded once more, because the loop above cannot hand out what it borrowed.
            let whole = self.input.get(range).unwrap_or_default();
            return match self.protocol.decode(whole)? {
                Decoded::Answer { answer, .. } => Ok(Some((ticket, answer))),
                _ => Err(DecodeError::UnexpectedKind.into()),
            };
        }
    }

    /// The requests without an answer, oldest first. The connection is over.
    pub fn abandon(&mut self) -> impl Iterator<Item = Ticket> + '_ {
        self.in_flight.drain(..).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::SetOptions;
    use proto::memcached::Echo;

    const GET: Command<'_> = Command::Get { key: b"k" };

    fn tickets(channel: &mut Channel) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        while let Some((ticket, _)) = channel.next_answer().expect("an answer") {
            tickets.push(ticket);
        }
        tickets
    }

    #[test]
    fn split_replies_give_the_same_answers() {
        let replies = b"+OK\r\n$3\r\na\r\n\r\n>1\r\n+pushed\r\n$-1\r\n:4\r\n";
        for chunk in 1..replies.len() {
            let mut channel = Channel::new(Protocol::Resp, 10);
            channel.push_aside(crate::wire::READONLY);
            for ticket in 1..4 {
                channel.push(&GET, ticket).expect("room");
            }
            let mut got = Vec::new();
            for bytes in replies.chunks(chunk) {
                channel.receive(bytes);
                got.extend(tickets(&mut channel));
            }
            assert_eq!(got, [1, 2, 3], "in pieces of {chunk}");
            assert!(channel.is_idle());
        }
    }

    #[test]
    fn the_limit_in_flight_holds_at_its_edge() {
        let mut channel = Channel::new(Protocol::Resp, 2);
        channel.push(&GET, 1).expect("room");
        channel.push(&GET, 2).expect("room");
        assert_eq!(channel.push(&GET, 3), Err(PushError::Full));
        channel.receive(b"$-1\r\n");
        assert_eq!(tickets(&mut channel), [1]);
        channel.push(&GET, 3).expect("room again");
        assert_eq!(channel.abandon().collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn binary_answers_are_checked_against_their_opaque() {
        let mut channel = Channel::new(Protocol::Binary, 10);
        let set = Command::Set { key: b"k", value: b"v", options: SetOptions::default() };
        channel.push(&set, 7).expect("room");
        channel.push(&set, 8).expect("room");
        let mut bytes = Vec::new();
        Echo { opcode: 1, opaque: 0 }.ok(&mut bytes, 1);
        Echo { opcode: 1, opaque: 5 }.ok(&mut bytes, 1);
        channel.receive(&bytes);
        assert!(matches!(channel.next_answer(), Ok(Some((7, Answer::Done { version: 1 })))));
        let wrong = ChannelError::OutOfOrder { expected: 1, got: 5 };
        assert_eq!(channel.next_answer().err(), Some(wrong));
    }

    #[test]
    fn answers_nobody_asked_for_end_the_connection() {
        let mut channel = Channel::new(Protocol::Resp, 10);
        channel.receive(b"+OK\r\n");
        assert_eq!(channel.next_answer().err(), Some(ChannelError::Unasked));
    }

    #[test]
    fn an_endless_answer_is_refused_when_it_is_announced() {
        let mut channel = Channel::new(Protocol::Resp, 10);
        channel.push(&GET, 1).expect("room");
        channel.receive(format!("${}\r\n", ANSWER_BYTES_MAX).as_bytes());
        assert!(matches!(channel.next_answer(), Err(ChannelError::TooLong(_))));
    }

    #[test]
    fn a_request_that_cannot_be_sent_leaves_no_trace() {
        let mut channel = Channel::new(Protocol::Binary, 10);
        assert!(channel.push(&Command::Get { key: b"" }, 1).is_err());
        assert!(channel.is_idle() && channel.output().is_empty());
    }
}
