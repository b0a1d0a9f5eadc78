//! What a connection has received and not yet used up.
//!
//! All connections of a core receive into one large buffer that the core owns ([`Scratch`]) and
//! their bytes are parsed there in place. Only the beginning of a message whose end has not come
//! is kept, so an idle connection owns no buffer at all. A long message is received where it is
//! kept, which grows with the bytes that came and never with a length that was announced. The
//! memory of the last long message serves the next: memory that is touched for the first time
//! costs more than what is received into it.

use std::io;
use std::mem::MaybeUninit;

use super::stream::{Transfer, Transport, fill, received};

/// Size of the buffer that a core receives into, in bytes.
pub const SCRATCH_BYTES: usize = 256 << 10;
/// Up to so many kept bytes are moved to the core's buffer to be received behind; more are
/// received where they are kept.
const MOVED_BYTES_MAX: usize = 16 << 10;
/// Least room made for receiving where the bytes are kept.
const ROOM_BYTES_MIN: usize = 64 << 10;
/// Capacity a connection may keep beyond what it holds.
const SLACK_BYTES_MAX: usize = 4 << 10;
/// Largest buffer of a long message that a core keeps for the next, in bytes. It keeps one.
const SPARE_BYTES_MAX: usize = 4 << 20;

/// The receive buffer of a core.
#[derive(Debug)]
pub struct Scratch {
    buffer: Box<[MaybeUninit<u8>]>,
    /// What a long message was received into, empty.
    spare: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch { buffer: Box::new_uninit_slice(SCRATCH_BYTES), spare: Vec::new() }
    }
}

/// Takes a buffer over as the spare one if it is larger, and not too large.
fn give_spare(spare: &mut Vec<u8>, buffer: Vec<u8>) {
    if (spare.capacity()..=SPARE_BYTES_MAX).contains(&buffer.capacity()) {
        *spare = buffer;
        spare.clear();
    }
}

/// Bytes received that did not make up a whole message yet.
#[derive(Debug, Default)]
pub struct Input {
    kept: Vec<u8>,
}

/// What one receive came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// What the transport said.
    pub transfer: Transfer,
    /// Whether the buffer was filled, so that more may wait.
    pub filled: bool,
}

impl Input {
    /// Receives once, and gives everything there is to `parse`, which returns how much of it, from
    /// the front, it has used up. `parse` is not called if nothing came.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn receive(
        &mut self,
        transport: &impl Transport,
        scratch: &mut Scratch,
        parse: impl FnOnce(&[u8]) -> usize,
    ) -> io::Result<Received> {
        if self.kept.len() > MOVED_BYTES_MAX {
            return self.receive_in_place(transport, &mut scratch.spare, parse);
        }
        let start = self.kept.len();
        let Scratch { buffer, spare } = scratch;
        let (front, room) = buffer.split_at_mut(start);
        let transfer = transport.receive(room)?;
        let Transfer::Bytes(count) = transfer else {
            return Ok(Received { transfer, filled: false });
        };
        let filled = count == room.len();
        fill(front, &self.kept);
        // SAFETY: the front was written from what was kept, and the transport wrote `count` bytes
        // behind it.
        let bytes = unsafe { received(&buffer[..start + count]) };
        let used = parse(bytes).min(bytes.len());
        self.keep(&bytes[used..], spare);
        Ok(Received { transfer, filled })
    }

    /// Gives what is kept to `parse` once more, for instance because it had no room for it before.
    pub fn parse_again(&mut self, parse: impl FnOnce(&[u8]) -> usize) {
        let used = parse(&self.kept).min(self.kept.len());
        self.use_up(used, &mut Vec::new());
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    fn receive_in_place(
        &mut self,
        transport: &impl Transport,
        spare: &mut Vec<u8>,
        parse: impl FnOnce(&[u8]) -> usize,
    ) -> io::Result<Received> {
        let needed = self.kept.len() + ROOM_BYTES_MIN;
        if self.kept.capacity() < needed && spare.capacity() >= needed {
            spare.extend_from_slice(&self.kept);
            std::mem::swap(&mut self.kept, spare);
            spare.clear();
        }
        // The buffer doubles, so a message of n bytes is copied O(n) times in all.
        self.kept.reserve(ROOM_BYTES_MIN);
        let room = self.kept.spare_capacity_mut();
        let room_bytes = room.len();
        let transfer = transport.receive(room)?;
        let Transfer::Bytes(count) = transfer else {
            return Ok(Received { transfer, filled: false });
        };
        // SAFETY: the transport wrote `count` bytes of the spare capacity.
        unsafe { self.kept.set_len(self.kept.len() + count) };
        let used = parse(&self.kept).min(self.kept.len());
        self.use_up(used, spare);
        Ok(Received { transfer, filled: count == room_bytes })
    }

    fn use_up(&mut self, used: usize, spare: &mut Vec<u8>) {
        if used == self.kept.len() {
            self.keep(&[], spare);
        } else if used > 0 {
            let rest = self.kept.split_off(used);
            give_spare(spare, std::mem::replace(&mut self.kept, rest));
        }
    }

    fn keep(&mut self, rest: &[u8], spare: &mut Vec<u8>) {
        if self.kept.capacity() > rest.len() + SLACK_BYTES_MAX || rest.is_empty() {
            let former = std::mem::take(&mut self.kept);
            if former.capacity() > ROOM_BYTES_MIN {
                give_spare(spare, former);
            }
        }
        self.kept.clear();
        self.kept.extend_from_slice(rest);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::IoSlice;

    use super::*;

    /// Hands out its bytes in pieces of a given size.
    struct Pieces(RefCell<Vec<u8>>, usize);

    impl Transport for Pieces {
        fn receive(&self, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Transfer> {
            let mut rest = self.0.borrow_mut();
            let count = rest.len().min(self.1).min(buffer.len());
            if count == 0 {
                return Ok(Transfer::End);
            }
            fill(&mut buffer[..count], &rest[..count]);
            rest.drain(..count);
            Ok(Transfer::Bytes(count))
        }

        fn send(&self, _: &[u8]) -> io::Result<Transfer> {
            Ok(Transfer::WouldBlock)
        }

        fn send_vectored(&self, _: &[IoSlice<'_>]) -> io::Result<Transfer> {
            Ok(Transfer::WouldBlock)
        }
    }

    /// Messages of four bytes of length and a body.
    fn parse(bytes: &[u8], messages: &mut Vec<Vec<u8>>) -> usize {
        let mut used = 0;
        while let Some(head) = bytes[used..].first_chunk::<4>() {
            let length = u32::from_le_bytes(*head) as usize;
            let Some(body) = bytes[used + 4..].get(..length) else { break };
            messages.push(body.to_vec());
            used += 4 + length;
        }
        used
    }

    #[test]
    fn messages_arrive_whole_however_they_are_cut() {
        let bodies: Vec<Vec<u8>> = [0, 1, 3, 20_000, 5, 300_000, 16_384, 2, 1_000_000, 7]
            .iter()
            .enumerate()
            .map(|(position, &length)| vec![position as u8; length])
            .collect();
        let mut sent = Vec::new();
        for body in &bodies {
            sent.extend_from_slice(&(body.len() as u32).to_le_bytes());
            sent.extend_from_slice(body);
        }
        for piece in [7, 1_000, 16_385, 65_536, usize::MAX] {
            let pieces = Pieces(RefCell::new(sent.clone()), piece);
            let (mut input, mut scratch) = (Input::default(), Scratch::default());
            let mut messages = Vec::new();
            loop {
                let outcome = input
                    .receive(&pieces, &mut scratch, |bytes| parse(bytes, &mut messages))
                    .expect("no error");
                if outcome.transfer == Transfer::End {
                    break;
                }
            }
            assert_eq!(messages, bodies, "in pieces of {piece}");
            assert_eq!(input.kept.capacity(), 0, "nothing is kept when all is used up");
        }
    }

    #[test]
    fn a_long_message_is_received_into_the_memory_of_the_one_before() {
        let message = |length: u32, fill: u8| {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.resize(4 + length as usize, fill);
            bytes
        };
        let mut scratch = Scratch::default();
        let receive = |sent: Vec<u8>, scratch: &mut Scratch| {
            let expected = sent[4..].to_vec();
            let (mut input, mut messages) = (Input::default(), Vec::new());
            let pieces = Pieces(RefCell::new(sent), 100_000);
            loop {
                let outcome = input
                    .receive(&pieces, scratch, |bytes| parse(bytes, &mut messages))
                    .expect("no error");
                if outcome.transfer == Transfer::End {
                    break;
                }
            }
            assert_eq!(messages, [expected]);
        };
        receive(message(1 << 20, 1), &mut scratch);
        let spare = scratch.spare.as_ptr();
        assert!(scratch.spare.capacity() > 1 << 20);
        receive(message(1 << 20, 2), &mut scratch);
        assert_eq!(scratch.spare.as_ptr(), spare, "the same memory again");
        receive(message(9 << 20, 3), &mut scratch);
        assert!(scratch.spare.capacity() <= SPARE_BYTES_MAX, "an idle core keeps little");
    }

    #[test]
    fn an_announced_length_reserves_nothing() {
        let mut sent = u32::MAX.to_le_bytes().to_vec();
        sent.extend_from_slice(&[1; 100]);
        let pieces = Pieces(RefCell::new(sent), usize::MAX);
        let (mut input, mut scratch) = (Input::default(), Scratch::default());
        input.receive(&pieces, &mut scratch, |bytes| parse(bytes, &mut Vec::new())).expect("bytes");
        assert_eq!(input.kept.len(), 104);
        assert!(input.kept.capacity() < 1_024);
    }
}
