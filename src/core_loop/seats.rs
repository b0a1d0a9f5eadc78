//! How many client connections the node has room for, over all of its cores.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the connections of all cores. It is touched when one opens or closes, and only then.
#[derive(Clone, Debug)]
pub struct Seats {
    taken: Arc<AtomicUsize>,
    limit: usize,
}

impl Seats {
    /// Room for so many.
    pub fn new(limit: usize) -> Self {
        Seats { taken: Arc::default(), limit }
    }

    /// Takes a seat; false if there is none.
    pub fn take(&self) -> bool {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        if before < self.limit {
            return true;
        }
        self.leave();
        false
    }

    /// Gives a seat back.
    pub fn leave(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_seats_are_taken_than_there_are() {
        let seats = Seats::new(2);
        let other_core = seats.clone();
        assert!(seats.take());
        assert!(other_core.take());
        assert!(!seats.take());
        assert!(!other_core.take());
        other_core.leave();
        assert!(seats.take());
        assert!(!seats.take());
    }
}
