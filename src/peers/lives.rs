//! Which life of a node is the current one.

/// Earlier lives of a node that are remembered. A connection of one that is forgotten would have
/// to have outlasted so many restarts.
const OUTLIVED_MAX: usize = 64;

/// The incarnations of one node that were heard of.
#[derive(Debug, Default)]
pub struct Lives {
    current: Option<u64>,
    outlived: Vec<u64>,
}

/// An incarnation was replaced by a later one and must not be listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node has restarted since")]
pub struct Outlived;

impl Lives {
    /// Notes an incarnation that spoke, and says whether it replaced another one.
    ///
    /// # Errors
    /// If it was replaced before.
    pub fn note(&mut self, incarnation: u64) -> Result<bool, Outlived> {
        if self.current == Some(incarnation) {
            return Ok(false);
        }
        if self.outlived.contains(&incarnation) {
            return Err(Outlived);
        }
        let Some(earlier) = self.current.replace(incarnation) else { return Ok(false) };
        if self.outlived.len() == OUTLIVED_MAX {
            self.outlived.remove(0);
        }
        self.outlived.push(earlier);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_that_was_replaced_never_returns() {
        let mut lives = Lives::default();
        assert_eq!(lives.note(5), Ok(false));
        assert_eq!(lives.note(5), Ok(false));
        assert_eq!(lives.note(9), Ok(true));
        assert_eq!(lives.note(5), Err(Outlived));
        assert_eq!(lives.note(9), Ok(false));
        assert_eq!(lives.note(7), Ok(true));
        assert_eq!(lives.note(9), Err(Outlived));
        assert_eq!(lives.note(5), Err(Outlived));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut lives = Lives::default();
        for incarnation in 1..1_000 {
            lives.note(incarnation).expect("a new life");
        }
        assert_eq!(lives.outlived.len(), OUTLIVED_MAX);
        assert_eq!(lives.note(998), Err(Outlived));
    }
}
