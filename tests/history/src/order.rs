//! The order of versions in time, over all keys of a shard at once.
//!
//! A version says where in the shard's log a write took effect. A write that was called after
//! another had returned must come later in the log. This takes one pass, so that it holds for
//! histories of any length, and it sees across keys, which the search per key does not.

/// A write that took effect, or a read of what it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamped {
    /// When it was called.
    pub called: u64,
    /// When it returned.
    pub returned: u64,
    /// The version that it gave.
    pub version: u64,
}

/// Two writes in the wrong order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misordered {
    /// It returned first.
    pub earlier: Stamped,
    /// It was called afterwards, and has the smaller version or the same.
    pub later: Stamped,
}

/// Checks that the versions of `writes` of one shard follow time.
///
/// # Errors
/// Two writes that contradict it.
pub fn versions_follow_time(writes: &[Stamped]) -> Result<(), Misordered> {
    let mut by_call = writes.to_vec();
    by_call.sort_by_key(|write| write.called);
    let mut by_return = writes.to_vec();
    by_return.sort_by_key(|write| write.returned);
    let mut returned = by_return.into_iter().peekable();
    let mut highest: Option<Stamped> = None;
    for later in by_call {
        while let Some(write) = returned.next_if(|write| write.returned < later.called) {
            if highest.is_none_or(|highest| highest.version < write.version) {
                highest = Some(write);
            }
        }
        if let Some(earlier) = highest.filter(|earlier| earlier.version >= later.version) {
            return Err(Misordered { earlier, later });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(called: u64, returned: u64, version: u64) -> Stamped {
        Stamped { called, returned, version }
    }

    #[test]
    fn overlapping_writes_may_have_any_order() {
        assert_eq!(versions_follow_time(&[write(0, 10, 2), write(5, 15, 1)]), Ok(()));
        assert_eq!(versions_follow_time(&[write(0, 10, 2), write(10, 15, 1)]), Ok(()));
        assert_eq!(versions_follow_time(&[]), Ok(()));
    }

    #[test]
    fn a_later_write_must_have_a_higher_version() {
        let (earlier, later) = (write(0, 10, 2), write(11, 15, 1));
        let expected = Err(Misordered { earlier, later });
        assert_eq!(versions_follow_time(&[later, earlier]), expected);
        assert!(versions_follow_time(&[write(0, 1, 7), write(2, 3, 7)]).is_err());
        let long_ago = [write(0, 1, 9), write(2, 3, 10), write(4, 5, 11), write(6, 7, 10)];
        assert!(versions_follow_time(&long_ago).is_err());
    }
}
