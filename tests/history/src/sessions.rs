//! What each client may rely on for itself: the cheap checks that need no search.
//!
//! A client's own operations on a key follow one another. Its versions of the key never go back,
//! it reads what it wrote or something later, and no answer belongs to another question. This
//! takes one pass over histories of any length. It sees less than the search does, and sees it
//! everywhere.

use std::collections::BTreeMap;

/// An operation that was answered, in the order in which its client asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Who asked. One client has one operation under way at a time.
    pub client: u64,
    /// The key.
    pub key: Vec<u8>,
    /// What the question was marked with, and what the answer bears; equal, or the answers were
    /// swapped.
    pub marks: (u64, u64),
    /// Whether it wrote.
    pub wrote: bool,
    /// The version that it gave or showed; `None` where the key was absent or none was told.
    pub version: Option<u64>,
}

/// What a client saw that it must not see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionViolation {
    /// An answer to another question.
    Swapped(Answered),
    /// An older version than this client knew of, after its own write or an earlier read.
    WentBack {
        /// The version it knew.
        known: u64,
        /// What it was shown.
        shown: Answered,
    },
    /// A write that gave a version this client knew already.
    Reused(Answered),
}

/// Checks the sessions of all clients. `answered` lists each client's operations in its order.
///
/// # Errors
/// The first thing a client must not see.
pub fn sessions_hold<'a>(
    answered: impl IntoIterator<Item = &'a Answered>,
) -> Result<(), SessionViolation> {
    let mut known: BTreeMap<(u64, &[u8]), u64> = BTreeMap::new();
    for operation in answered {
        if operation.marks.0 != operation.marks.1 {
            return Err(SessionViolation::Swapped(operation.clone()));
        }
        let Some(version) = operation.version else { continue };
        let known = known.entry((operation.client, &operation.key)).or_default();
        if version < *known {
            let shown = operation.clone();
            return Err(SessionViolation::WentBack { known: *known, shown });
        }
        if operation.wrote && version == *known {
            return Err(SessionViolation::Reused(operation.clone()));
        }
        *known = version;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(client: u64, key: &str, wrote: bool, version: u64) -> Answered {
        let key = key.as_bytes().to_vec();
        Answered { client, key, marks: (1, 1), wrote, version: Some(version) }
    }

    #[test]
    fn a_client_reads_its_writes_and_never_goes_back() {
        let write = answered(1, "a", true, 5);
        let later = answered(1, "a", false, 9);
        assert_eq!(sessions_hold(&[write.clone(), later.clone(), later.clone()]), Ok(()));
        let stale = answered(1, "a", false, 4);
        let expected = SessionViolation::WentBack { known: 5, shown: stale.clone() };
        assert_eq!(sessions_hold(&[write.clone(), stale]), Err(expected));
        let back = answered(1, "a", false, 5);
        assert!(sessions_hold(&[write, later, back]).is_err());
    }

    #[test]
    fn others_and_other_keys_have_histories_of_their_own() {
        let history =
            [answered(1, "a", true, 5), answered(2, "a", false, 3), answered(1, "b", true, 2)];
        assert_eq!(sessions_hold(&history), Ok(()));
    }

    #[test]
    fn a_miss_says_nothing_of_versions() {
        let miss = Answered { version: None, ..answered(1, "a", false, 0) };
        assert_eq!(sessions_hold(&[answered(1, "a", true, 5), miss]), Ok(()));
    }

    #[test]
    fn a_version_is_given_once_and_an_answer_belongs_to_its_question() {
        let twice = [answered(1, "a", true, 5), answered(1, "a", true, 5)];
        assert_eq!(sessions_hold(&twice), Err(SessionViolation::Reused(twice[1].clone())));
        let swapped = Answered { marks: (1, 2), ..answered(1, "a", false, 5) };
        let violation = SessionViolation::Swapped(swapped.clone());
        assert_eq!(sessions_hold(&[swapped]), Err(violation));
    }
}
