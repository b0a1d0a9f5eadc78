//! What a connection has received and not yet used up.
//!
//! All connections of a core receive into one large buffer that the core owns ([`Scratch`]) and
//! their bytes are parsed there in place. Only the beginning of a message whose end has not come
//! is kept, so an idle connection owns no buffer at all. A long message is received where it is
//! kept, which grows with the bytes that came and never with a length that was announced.

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

/// The receive buffer of a core.
#[derive(Debug)]
pub struct Scratch(Box<[MaybeUninit<u8>]>);

impl Default for Scratch {
    fn default() -> Self {
        Scratch(Box::new_uninit_slice(SCRATCH_BYTES))
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
            return self.receive_in_place(transport, parse);
        }
        let start = self.kept.len();
        let (front, room) = scratch.0.split_at_mut(start);
        let transfer = transport.receive(room)?;
        let Transfer::Bytes(count) = transfer else {
            return Ok(Received { transfer, filled: false });
        };
        let filled = count == room.len();
        fill(front, &self.kept);
        // SAFETY: the front was written from what was kept, and the transport wrote `count` bytes
        // behind it.
        let bytes = unsafe { received(&scratch.0[..start + count]) };
        let used = parse(bytes).min(bytes.len());
        self.keep(&bytes[used..]);
        Ok(Received { transfer, filled })
    }

    /// Gives what is kept to `parse` once more, for instance because it had no room for it before.
    pub fn parse_again(&mut self, parse: impl FnOnce(&[u8]) -> usize) {
        let used = parse(&self.kept).min(self.kept.len());
        self.use_up(used);
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    fn receive_in_place(
        &mut self,
        transport: &impl Transport,
        parse: impl FnOnce(&[u8]) -> usize,
    ) -> io::Result<Received> {
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
        self.use_up(used);
        Ok(Received { transfer, filled: count == room_bytes })
    }

    fn use_up(&mut self, used: usize) {
        if used == self.kept.len() {
            self.keep(&[]);
        } else if used > 0 {
            let rest = self.kept.split_off(used);
            self.kept = rest;
        }
    }

    fn keep(&mut self, rest: &[u8]) {
        if self.kept.capacity() > rest.len() + SLACK_BYTES_MAX || rest.is_empty() {
            self.kept = Vec::new();
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
