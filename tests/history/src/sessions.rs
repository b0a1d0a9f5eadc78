//! What each client may rely on for itself: the cheap check that needs no search.
//!
//! A client that asks one thing at a time sees the versions of a key never go back: it reads what
//! it wrote or something later, from whatever replica, and each write gives a version of its own.
//! This takes one pass over histories of any length. It sees less than the search does, and sees
//! it while the history still grows.

use std::collections::BTreeMap;

/// The newest version of each key that one client knows of.
#[derive(Clone, Debug, Default)]
pub struct Session {
    known: BTreeMap<Vec<u8>, u64>,
}

/// What a client saw that it must not see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionViolation {
    /// An older version than it knew of, from its own write or an earlier read.
    WentBack {
        /// The version it knew.
        known: u64,
        /// The one it was shown.
        shown: u64,
    },
    /// A write that gave a version that the client knew already.
    Reused(u64),
}

/// Whether an operation wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It only showed what was there.
    Read,
    /// The version is its own.
    Wrote,
}

impl Session {
    /// Takes an answer: the version of `key` that it showed or gave. Answers that tell no version
    /// are left out.
    ///
    /// # Errors
    /// If the client must not see it.
    pub fn answered(
        &mut self,
        key: &[u8],
        effect: Effect,
        version: u64,
    ) -> Result<(), SessionViolation> {
        let Some(known) = self.known.get_mut(key) else {
            self.known.insert(key.to_vec(), version);
            return Ok(());
        };
        if version < *known {
            return Err(SessionViolation::WentBack { known: *known, shown: version });
        }
        if effect == Effect::Wrote && version == *known {
            return Err(SessionViolation::Reused(version));
        }
        *known = version;
        Ok(())
    }

    /// Forgets what is known of a key that is used no more.
    pub fn forget(&mut self, key: &[u8]) {
        self.known.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_reads_its_writes_and_never_goes_back() {
        let mut session = Session::default();
        assert_eq!(session.answered(b"a", Effect::Wrote, 5), Ok(()));
        assert_eq!(session.answered(b"a", Effect::Read, 5), Ok(()));
        assert_eq!(session.answered(b"a", Effect::Read, 9), Ok(()));
        let expected = SessionViolation::WentBack { known: 9, shown: 5 };
        assert_eq!(session.answered(b"a", Effect::Read, 5), Err(expected));
    }

    #[test]
    fn keys_and_clients_have_histories_of_their_own() {
        let (mut one, mut other) = (Session::default(), Session::default());
        assert_eq!(one.answered(b"a", Effect::Wrote, 5), Ok(()));
        assert_eq!(one.answered(b"b", Effect::Wrote, 2), Ok(()));
        assert_eq!(other.answered(b"a", Effect::Read, 3), Ok(()));
        one.forget(b"a");
        assert_eq!(one.answered(b"a", Effect::Read, 1), Ok(()));
    }

    #[test]
    fn a_version_is_given_once() {
        let mut session = Session::default();
        assert_eq!(session.answered(b"a", Effect::Read, 5), Ok(()));
        let violation = SessionViolation::Reused(5);
        assert_eq!(session.answered(b"a", Effect::Wrote, 5), Err(violation));
    }
}
