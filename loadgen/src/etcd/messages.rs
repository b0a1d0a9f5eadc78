//! The few messages of etcd's v3 API that reading and writing a key takes.
//!
//! They are written by hand, with the field numbers of the public API (`etcdserverpb`, `mvccpb`),
//! so that nobody needs a compiler of schemas and a copy of etcd's. Fields that the load generator
//! neither sets nor looks at are left out; decoding passes over them.

use bytes::Bytes;
use prost::Message;

/// Asks for a key. Nothing else of what the API's ranges can do is used.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Whether the member that is asked may answer by what it has, rather than by what the
    /// cluster has decided.
    #[prost(bool, tag = "7")]
    pub serializable: bool,
}

/// What there is under a key.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    pub entries: Vec<KeyValue>,
}

/// An entry.
#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
}

/// Writes a key.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// Says that a key has been written.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PutResponse {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_bytes_of_the_public_api() {
        let key = Bytes::from_static(b"k");
        let range = RangeRequest { key: key.clone(), serializable: false };
        assert_eq!(range.encode_to_vec(), [0x0a, 1, b'k']);
        let range = RangeRequest { key: key.clone(), serializable: true };
        assert_eq!(range.encode_to_vec(), [0x0a, 1, b'k', 0x38, 1]);
        let put = PutRequest { key, value: Bytes::from_static(b"vw") };
        assert_eq!(put.encode_to_vec(), [0x0a, 1, b'k', 0x12, 2, b'v', b'w']);
    }

    #[test]
    fn fields_that_nobody_asked_for_are_passed_over() {
        // A header with a revision, an entry with revisions of its own, and a count.
        let entry = [0x0a, 1, b'k', 0x10, 4, 0x18, 5, 0x20, 1, 0x2a, 2, b'v', b'w'];
        let mut bytes = vec![0x0a, 2, 0x18, 7, 0x12, entry.len() as u8];
        bytes.extend_from_slice(&entry);
        bytes.extend_from_slice(&[0x20, 1]);
        let response = RangeResponse::decode(Bytes::from(bytes)).expect("a response");
        assert_eq!(response.entries.len(), 1);
        assert_eq!(response.entries[0].value, "vw");
        assert_eq!(PutResponse::decode(&[0x0a, 2, 0x18, 7][..]), Ok(PutResponse {}));
    }
}
