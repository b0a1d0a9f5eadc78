//! What a client may negotiate with HELO, and what its connection then does differently.
//!
//! A client that never says HELO gets plain memcached. Codes below 0xc000 are those of the
//! vbucket dialect and mean what they mean there; ours start at 0xc001. Each HELO replaces what
//! an earlier one negotiated.

use proto::memcached;

/// Frame extras in requests (magic 0x08). They are understood without it as well; a client that
/// asks learns so.
const FRAME_EXTRAS: u16 = 0x0010;
/// A NOT_MY_VBUCKET carries the cluster map only if the connection has not been sent this
/// revision.
const DEDUPLICATE_CLUSTER_MAP: u16 = 0x001e;
/// The vbucket field names the shard and is checked, on any port.
const STRICT_VBUCKET: u16 = 0xc001;
/// Keys may have up to 65,535 bytes.
const LONG_KEYS: u16 = 0xc002;

/// Longest key that a client can negotiate, in bytes.
const LONG_KEY_BYTES_MAX: u16 = u16::MAX;

/// The features of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Whether the vbucket field is checked.
    pub strict_vbucket: bool,
    /// Whether keys may be longer than memcached's.
    pub long_keys: bool,
    /// Whether a cluster map is sent once per revision.
    pub deduplicate_cluster_map: bool,
}

impl Features {
    /// Negotiates what the list asks for. The codes that are granted are appended to `granted`,
    /// as they go into the response; unknown ones and repetitions are left out.
    pub fn negotiate(list: &[u8], granted: &mut Vec<u8>) -> Self {
        let mut features = Features::default();
        let mut frame_extras = false;
        for code in memcached::features(list) {
            let flag = match code {
                FRAME_EXTRAS => &mut frame_extras,
                DEDUPLICATE_CLUSTER_MAP => &mut features.deduplicate_cluster_map,
                STRICT_VBUCKET => &mut features.strict_vbucket,
                LONG_KEYS => &mut features.long_keys,
                _ => continue,
            };
            if !std::mem::replace(flag, true) {
                granted.extend_from_slice(&code.to_be_bytes());
            }
        }
        features
    }

    /// Longest key of the connection, in bytes.
    pub fn key_bytes_max(self) -> u16 {
        if self.long_keys { LONG_KEY_BYTES_MAX } else { memcached::KEY_BYTES_MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_features_are_granted_and_each_once() {
        let mut granted = Vec::new();
        let list = [0x00, 0x01, 0xc0, 0x01, 0xc0, 0x01, 0x00, 0x1e, 0x00, 0x10, 0xff, 0xff];
        let features = Features::negotiate(&list, &mut granted);
        assert_eq!(granted, [0xc0, 0x01, 0x00, 0x1e, 0x00, 0x10]);
        let expected =
            Features { strict_vbucket: true, long_keys: false, deduplicate_cluster_map: true };
        assert_eq!(features, expected);
    }

    #[test]
    fn a_later_list_replaces_an_earlier_one() {
        let mut granted = Vec::new();
        assert_eq!(Features::negotiate(&[], &mut granted), Features::default());
        assert!(granted.is_empty());
        let long_keys = Features::negotiate(&[0xc0, 0x02], &mut granted);
        assert_eq!(long_keys.key_bytes_max(), 65_535);
        assert_eq!(Features::default().key_bytes_max(), 250);
    }
}
