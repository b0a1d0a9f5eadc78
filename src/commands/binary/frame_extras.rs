//! Frame extras of requests: additions of this server to the binary protocol that one request asks
//! for and no connection has to negotiate.
//!
//! Each is a byte with its id in the high and its length in the low four bits, and as many bytes.
//! What is not known, or makes no sense with the command, is refused: to ignore it
//! could mean less than its sender relies on.

use proto::memcached::{Command, Status};
use shards::command::ReadFrom;

/// Who may answer a read: one byte, 1 for any replica, 2 for any replica as it is.
const READ_FROM: u8 = 0xe;
/// A read that does not count as a use of its key: no bytes.
const PEEK: u8 = 0xd;

/// What the frame extras of a request ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameExtras {
    /// Who may answer.
    pub read_from: ReadFrom,
    /// Whether it does not count as a use.
    pub peek: bool,
}

impl FrameExtras {
    /// Reads `bytes`, which came with `command`; an error is the status to refuse it with.
    pub fn read(mut bytes: &[u8], command: &Command<'_>) -> Result<Self, Status> {
        let mut extras = FrameExtras::default();
        while let Some((&head, rest)) = bytes.split_first() {
            let (id, length) = (head >> 4, usize::from(head & 0xf));
            let Some((value, rest)) = rest.split_at_checked(length) else {
                return Err(Status::INVALID_ARGUMENTS);
            };
            bytes = rest;
            match (id, value, command) {
                (READ_FROM, [1], Command::Get { .. }) => extras.read_from = ReadFrom::Replica,
                (READ_FROM, [2], Command::Get { .. }) => extras.read_from = ReadFrom::Stale,
                (PEEK, [], Command::Get { .. }) => extras.peek = true,
                (READ_FROM | PEEK, ..) => return Err(Status::INVALID_ARGUMENTS),
                _ => return Err(Status::UNKNOWN_FRAME_EXTRA),
            }
        }
        Ok(extras)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::memcached::ReturnKey;

    const GET: Command<'_> = Command::Get { key: b"k", return_key: ReturnKey::No };

    #[test]
    fn a_read_may_name_who_answers_and_nothing_else_may() {
        let read_from = |bytes: &[u8]| FrameExtras::read(bytes, &GET).map(|e| e.read_from);
        assert_eq!(read_from(&[]), Ok(ReadFrom::Leader));
        assert_eq!(read_from(&[0xe1, 1]), Ok(ReadFrom::Replica));
        assert_eq!(read_from(&[0xe1, 2]), Ok(ReadFrom::Stale));
        for wrong in [&[0xe1][..], &[0xe1, 0], &[0xe1, 3], &[0xe0], &[0xe2, 1, 1], &[0xe2, 1]] {
            assert_eq!(read_from(wrong), Err(Status::INVALID_ARGUMENTS), "{wrong:?}");
        }
        for unknown in [&[0x11, 1][..], &[0x00], &[0xf1, 1], &[0xe1, 1, 0x20]] {
            assert_eq!(read_from(unknown), Err(Status::UNKNOWN_FRAME_EXTRA), "{unknown:?}");
        }
        assert_eq!(FrameExtras::read(&[0xd0], &GET).map(|extras| extras.peek), Ok(true));
        assert_eq!(FrameExtras::read(&[0xd1, 1], &GET), Err(Status::INVALID_ARGUMENTS));
        let both = FrameExtras { read_from: ReadFrom::Replica, peek: true };
        assert_eq!(FrameExtras::read(&[0xe1, 1, 0xd0], &GET), Ok(both));
        let delete = Command::Delete { key: b"k" };
        assert_eq!(FrameExtras::read(&[0xe1, 1], &delete), Err(Status::INVALID_ARGUMENTS));
        assert_eq!(FrameExtras::read(&[], &delete), Ok(FrameExtras::default()));
    }
}
