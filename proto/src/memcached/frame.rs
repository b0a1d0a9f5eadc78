//! The 24-byte header that every packet of the binary protocol starts with, and the cut of its
//! body into sections.
//!
//! ```text
//! byte  0      magic: 0x80 request, 0x81 response, 0x08 and 0x18 the same with frame extras
//!       1      opcode
//!       2..4   key length; after magic 0x08 and 0x18: frame extras length, then key length
//!       4      extras length
//!       5      data type
//!       6..8   request: vbucket; response: status
//!       8..12  body length: frame extras, extras, key and value together
//!      12..16  opaque, echoed as it came
//!      16..24  CAS
//! ```
//!
//! Multi-byte fields are big-endian, except that the opaque is only ever copied. All arithmetic
//! on announced lengths happens here, once, checked: what leaves this file are sections whose sum
//! is the body length, and a body length below a limit. Nothing is allocated.

use std::ops::Range;

use super::status::Status;

/// Length of the header in bytes.
pub const HEADER_BYTES: usize = 24;

/// First byte of a request.
pub const REQUEST_MAGIC: u8 = 0x80;
/// First byte of a response.
pub const RESPONSE_MAGIC: u8 = 0x81;
/// First byte of a request with frame extras.
pub const FLEXIBLE_REQUEST_MAGIC: u8 = 0x08;
/// First byte of a response with frame extras.
pub const FLEXIBLE_RESPONSE_MAGIC: u8 = 0x18;

/// Why the bytes cannot be cut into packets any further. The connection has to be closed: no
/// later byte can be trusted to start a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first byte starts no packet of the expected direction.
    #[error("0x{0:02x} starts no packet")]
    Magic(u8),
    /// The sections are longer than the body they are part of.
    #[error("the sections of the packet are longer than its body")]
    SectionsExceedBody(Echo),
    /// The body is longer than anything that would be received, even only to be skipped.
    #[error("a body of {length} bytes is too long")]
    BodyTooLong {
        /// What to answer to.
        echo: Echo,
        /// The announced length.
        length: u32,
    },
}

impl FrameError {
    /// What to answer to before closing; `None` where nothing says that the other side speaks
    /// this protocol at all.
    pub fn echo(&self) -> Option<Echo> {
        match self {
            FrameError::Magic(_) => None,
            FrameError::SectionsExceedBody(echo) | FrameError::BodyTooLong { echo, .. } => {
                Some(*echo)
            }
        }
    }

    /// The status of that answer.
    pub fn status(&self) -> Status {
        match self {
            FrameError::BodyTooLong { .. } => Status::TOO_LARGE,
            _ => Status::INVALID_ARGUMENTS,
        }
    }
}

/// What a response repeats from its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echo {
    /// The opcode.
    pub opcode: u8,
    /// The opaque.
    pub opaque: u32,
}

/// The header's fields, before anything is known about their sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub magic: u8,
    pub opcode: u8,
    pub lengths: Lengths,
    pub data_type: u8,
    /// The vbucket of a request, the status of a response.
    pub vbucket_or_status: u16,
    pub opaque: u32,
    pub cas: u64,
}

/// The lengths a header announces, in bytes. They may contradict each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lengths {
    pub frame_extras: u8,
    pub extras: u8,
    pub key: u16,
    pub body: u32,
}

/// Lengths that add up. Made only by [`Lengths::checked`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sections {
    frame_extras: usize,
    extras: usize,
    key: usize,
    value: usize,
}

impl Header {
    /// Reads the header at the start of `bytes`; `None` if there are too few of them.
    pub fn read(bytes: &[u8]) -> Option<Header> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let [magic, opcode, high, low, extras, data_type, rest @ ..] = *bytes;
        let [v0, v1, b0, b1, b2, b3, o0, o1, o2, o3, cas @ ..] = rest;
        let flexible = magic == FLEXIBLE_REQUEST_MAGIC || magic == FLEXIBLE_RESPONSE_MAGIC;
        let (frame_extras, key) =
            if flexible { (high, u16::from(low)) } else { (0, u16::from_be_bytes([high, low])) };
        Some(Header {
            magic,
            opcode,
            lengths: Lengths {
                frame_extras,
                extras,
                key,
                body: u32::from_be_bytes([b0, b1, b2, b3]),
            },
            data_type,
            vbucket_or_status: u16::from_be_bytes([v0, v1]),
            opaque: u32::from_be_bytes([o0, o1, o2, o3]),
            cas: u64::from_be_bytes(cas),
        })
    }

    /// The header as bytes, the inverse of [`read`](Self::read).
    ///
    /// # Panics
    /// If the magic has one byte for the key length and the key is longer: callers have checked.
    pub fn bytes(&self) -> [u8; HEADER_BYTES] {
        let flexible =
            self.magic == FLEXIBLE_REQUEST_MAGIC || self.magic == FLEXIBLE_RESPONSE_MAGIC;
        let [mut high, low] = self.lengths.key.to_be_bytes();
        if flexible {
            assert!(high == 0, "a key of {} bytes behind frame extras", self.lengths.key);
            high = self.lengths.frame_extras;
        }
        let [v0, v1] = self.vbucket_or_status.to_be_bytes();
        let [b0, b1, b2, b3] = self.lengths.body.to_be_bytes();
        let [o0, o1, o2, o3] = self.opaque.to_be_bytes();
        let [c0, c1, c2, c3, c4, c5, c6, c7] = self.cas.to_be_bytes();
        [
            self.magic,
            self.opcode,
            high,
            low,
            self.lengths.extras,
            self.data_type,
            v0,
            v1,
            b0,
            b1,
            b2,
            b3,
            o0,
            o1,
            o2,
            o3,
            c0,
            c1,
            c2,
            c3,
            c4,
            c5,
            c6,
            c7,
        ]
    }

    /// What a response to this packet repeats.
    pub fn echo(&self) -> Echo {
        Echo { opcode: self.opcode, opaque: self.opaque }
    }

    /// The sections, if the body is at most `body_bytes_max` long and they fit into it.
    pub fn sections(&self, body_bytes_max: u32) -> Result<Sections, FrameError> {
        if self.lengths.body > body_bytes_max {
            return Err(FrameError::BodyTooLong { echo: self.echo(), length: self.lengths.body });
        }
        self.lengths.checked().ok_or(FrameError::SectionsExceedBody(self.echo()))
    }
}

impl Lengths {
    fn checked(self) -> Option<Sections> {
        let frame_extras = usize::from(self.frame_extras);
        let extras = usize::from(self.extras);
        let key = usize::from(self.key);
        let body = usize::try_from(self.body).ok()?;
        let value = body.checked_sub(frame_extras)?.checked_sub(extras)?.checked_sub(key)?;
        Some(Sections { frame_extras, extras, key, value })
    }
}

impl Sections {
    /// Length of the extras in bytes.
    pub fn extras(self) -> usize {
        self.extras
    }

    /// Length of the key in bytes.
    pub fn key(self) -> usize {
        self.key
    }

    /// Length of the value in bytes.
    pub fn value(self) -> usize {
        self.value
    }

    /// Length of the whole packet in bytes, header included.
    pub fn packet(self) -> usize {
        HEADER_BYTES + self.frame_extras + self.extras + self.key + self.value
    }

    /// Cuts the packet at the start of `bytes`; `None` if it is not there completely.
    pub fn cut(self, bytes: &[u8]) -> Option<Body<'_>> {
        let mut start = HEADER_BYTES;
        let mut next = |length: usize| -> Range<usize> {
            let range = start..start + length;
            start = range.end;
            range
        };
        let frame_extras = next(self.frame_extras);
        let extras = next(self.extras);
        let key = next(self.key);
        let value = next(self.value);
        Some(Body {
            value: bytes.get(value)?,
            key: bytes.get(key)?,
            extras: bytes.get(extras)?,
            frame_extras: bytes.get(frame_extras)?,
        })
    }
}

/// The sections of a packet's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Body<'a> {
    pub frame_extras: &'a [u8],
    pub extras: &'a [u8],
    pub key: &'a [u8],
    pub value: &'a [u8],
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(magic: u8, lengths: Lengths) -> Header {
        Header {
            magic,
            opcode: 7,
            lengths,
            data_type: 0,
            vbucket_or_status: 0x0102,
            opaque: 0xdead_beef,
            cas: 0x0102_0304_0506_0708,
        }
    }

    #[test]
    fn a_header_survives_its_encoding() {
        let plain = Lengths { frame_extras: 0, extras: 3, key: 0x0405, body: 0x0809_0a0b };
        let flexible = Lengths { frame_extras: 9, extras: 3, key: 0x05, body: 0x0809_0a0b };
        for header in [header(0x80, plain), header(0x81, plain)] {
            assert_eq!(Header::read(&header.bytes()), Some(header));
        }
        for header in [header(0x08, flexible), header(0x18, flexible)] {
            assert_eq!(Header::read(&header.bytes()), Some(header));
        }
        assert_eq!(Header::read(&header(0x80, plain).bytes()[..23]), None);
    }

    #[test]
    fn the_body_limit_holds_at_its_edge_and_before_any_arithmetic() {
        let with_body = |body| header(0x80, Lengths { body, ..Lengths::default() });
        assert!(with_body(99).sections(100).is_ok());
        assert!(with_body(100).sections(100).is_ok());
        for length in [101, i32::MAX as u32, i32::MAX as u32 + 1, u32::MAX] {
            assert!(matches!(
                with_body(length).sections(100),
                Err(FrameError::BodyTooLong { length: announced, .. }) if announced == length
            ));
        }
    }

    #[test]
    fn sections_never_exceed_the_body() {
        for (frame_extras, extras, key, body, value) in [
            (0, 0, 0, 0, Some(0)),
            (1, 1, 1, 3, Some(0)),
            (1, 1, 1, 4, Some(1)),
            (1, 1, 1, 2, None),
            (0, 255, 0, 254, None),
            (0, 0, u16::MAX, 1, None),
            (255, 255, u16::MAX, 0, None),
        ] {
            let lengths = Lengths { frame_extras, extras, key, body };
            assert_eq!(lengths.checked().map(Sections::value), value, "{lengths:?}");
        }
    }

    #[test]
    fn a_packet_is_cut_only_when_it_is_complete() {
        let header = header(0x08, Lengths { frame_extras: 1, extras: 2, key: 3, body: 10 });
        let mut bytes = header.bytes().to_vec();
        bytes.extend_from_slice(b"feekkkvvvvnext");
        let sections = header.sections(10).expect("sections");
        assert_eq!(sections.packet(), 34);
        for length in 0..34 {
            assert_eq!(sections.cut(&bytes[..length]), None);
        }
        let body = Body { frame_extras: b"f", extras: b"ee", key: b"kkk", value: b"vvvv" };
        assert_eq!(sections.cut(&bytes), Some(body));
    }
}
