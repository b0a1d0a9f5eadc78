//! Responses of the binary protocol: the server's encoder and the client's parser.
//!
//! A response is its sections: which of them mean something depends on the request it answers,
//! and the client knows that one by the opaque. The parser reads one packet in place from the
//! start of a buffer and keeps nothing.

use super::frame::{
    Echo, FLEXIBLE_RESPONSE_MAGIC, FrameError, HEADER_BYTES, Header, Lengths, RESPONSE_MAGIC,
};
use super::status::Status;

/// A response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// The opcode of the request it answers.
    pub opcode: u8,
    /// What the request came to.
    pub status: Status,
    /// The opaque of the request.
    pub opaque: u32,
    /// The version of the entry; 0 where there is none.
    pub cas: u64,
    /// Frame extras; empty unless negotiated.
    pub frame_extras: &'a [u8],
    /// The flags of a value; empty for most.
    pub extras: &'a [u8],
    /// The key, where the request asked for it; the name of a statistic.
    pub key: &'a [u8],
    /// The value, the counter, the text of an error, the cluster map.
    pub value: &'a [u8],
}

/// What stands at the start of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParsedResponse<'a> {
    /// Not enough to say. The packet, or its header, ends `needed` bytes from the start of the
    /// buffer, which is more than there are.
    Incomplete {
        /// Bytes from the start of the buffer.
        needed: usize,
    },
    /// A response.
    Response {
        /// It.
        response: Response<'a>,
        /// Its length in bytes, at most that of the buffer.
        length: usize,
    },
}

/// Reads the response at the start of `bytes`. A body longer than `body_bytes_max` is an error:
/// who asks knows how long an answer can be.
///
/// # Errors
/// If no response can start here, or its announced lengths make no sense. The connection has to
/// be closed.
pub fn parse_response(bytes: &[u8], body_bytes_max: u32) -> Result<ParsedResponse<'_>, FrameError> {
    let Some(&magic) = bytes.first() else {
        return Ok(ParsedResponse::Incomplete { needed: HEADER_BYTES });
    };
    if magic != RESPONSE_MAGIC && magic != FLEXIBLE_RESPONSE_MAGIC {
        return Err(FrameError::Magic(magic));
    }
    let Some(header) = Header::read(bytes) else {
        return Ok(ParsedResponse::Incomplete { needed: HEADER_BYTES });
    };
    let sections = header.sections(body_bytes_max)?;
    let length = sections.packet();
    let Some(body) = sections.cut(bytes) else {
        return Ok(ParsedResponse::Incomplete { needed: length });
    };
    let response = Response {
        opcode: header.opcode,
        status: Status(header.vbucket_or_status),
        opaque: header.opaque,
        cas: header.cas,
        frame_extras: body.frame_extras,
        extras: body.extras,
        key: body.key,
        value: body.value,
    };
    Ok(ParsedResponse::Response { response, length })
}

impl Response<'_> {
    /// The flags of the value, if the extras are flags.
    pub fn flags(&self) -> Option<u32> {
        self.extras.try_into().ok().map(u32::from_be_bytes)
    }

    /// The counter, if the value is one.
    pub fn counter(&self) -> Option<u64> {
        self.value.try_into().ok().map(u64::from_be_bytes)
    }

    /// Appends the packet to `out`.
    ///
    /// # Panics
    /// If a section does not fit into its length field. What a server returns is bounded far
    /// below: keys came in a packet, values are at most 16 MiB, extras are a few bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let body = self.frame_extras.len() + self.extras.len() + self.key.len() + self.value.len();
        assert!(body <= u32::MAX as usize, "a response body of {body} bytes");
        assert!(self.key.len() <= usize::from(u16::MAX), "a key of {} bytes", self.key.len());
        assert!(self.extras.len() <= usize::from(u8::MAX), "{} extras", self.extras.len());
        assert!(self.frame_extras.len() <= usize::from(u8::MAX), "too many frame extras");
        let flexible = !self.frame_extras.is_empty();
        let header = Header {
            magic: if flexible { FLEXIBLE_RESPONSE_MAGIC } else { RESPONSE_MAGIC },
            opcode: self.opcode,
            lengths: Lengths {
                frame_extras: self.frame_extras.len() as u8,
                extras: self.extras.len() as u8,
                key: self.key.len() as u16,
                body: body as u32,
            },
            data_type: 0,
            vbucket_or_status: self.status.0,
            opaque: self.opaque,
            cas: self.cas,
        };
        out.reserve(HEADER_BYTES + body);
        out.extend_from_slice(&header.bytes());
        for section in [self.frame_extras, self.extras, self.key, self.value] {
            out.extend_from_slice(section);
        }
    }
}

/// The kinds of responses a server gives, each appended to `out`.
impl Echo {
    fn response(self, status: Status) -> Response<'static> {
        Response {
            opcode: self.opcode,
            status,
            opaque: self.opaque,
            cas: 0,
            frame_extras: &[],
            extras: &[],
            key: &[],
            value: &[],
        }
    }

    /// Success without a body. `cas` is the version of what was stored, else 0.
    pub fn ok(self, out: &mut Vec<u8>, cas: u64) {
        Response { cas, ..self.response(Status::OK) }.encode(out);
    }

    /// A hit: `key` is empty unless the request asked for it, `value` for a touch.
    pub fn value(self, out: &mut Vec<u8>, cas: u64, flags: u32, key: &[u8], value: &[u8]) {
        let extras = flags.to_be_bytes();
        Response { cas, extras: &extras, key, value, ..self.response(Status::OK) }.encode(out);
    }

    /// The new value of a counter.
    pub fn counter(self, out: &mut Vec<u8>, cas: u64, counter: u64) {
        let value = counter.to_be_bytes();
        Response { cas, value: &value, ..self.response(Status::OK) }.encode(out);
    }

    /// Success with a body but no flags: a version, a feature list, the cluster map.
    pub fn body(self, out: &mut Vec<u8>, value: &[u8]) {
        Response { value, ..self.response(Status::OK) }.encode(out);
    }

    /// A miss that names the key, as the commands that return keys give it.
    pub fn miss_with_key(self, out: &mut Vec<u8>, key: &[u8]) {
        Response { key, ..self.response(Status::NOT_FOUND) }.encode(out);
    }

    /// One line of statistics; an empty name and value end them.
    pub fn stat(self, out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        Response { key: name, value, ..self.response(Status::OK) }.encode(out);
    }

    /// Anything but success, with a text for people or, for
    /// [`Status::NOT_MY_VBUCKET`], the cluster map.
    pub fn error(self, out: &mut Vec<u8>, status: Status, text: &[u8]) {
        Response { value: text, ..self.response(status) }.encode(out);
    }
}
