//! Leaves what comes in on its sockets while a core could only gather it.
//!
//! While the log is being written, commands and entries that are to become durable wait for the
//! end of the write in any case. To be woken for each of them costs more than to carry them out.
//! Left on their sockets, they are all received at once when the write has ended, in one turn with
//! what that sets free.
//!
//! Reads need no log. So this is done only on cores that nobody has read from for [`QUIET_TIME`],
//! and only after a write that took no longer than [`WRITE_TIME_MAX`]: a slow disk does not hold up
//! acknowledgements. Each tick of the core opens it, whatever the disk does. It has no timer of its
//! own, since it would be set for every write.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::signal::Signal;

/// After a longer write sockets are not left alone during the next.
const WRITE_TIME_MAX: Duration = Duration::from_micros(1_000);
/// For how long nobody must have read.
const QUIET_TIME: Duration = Duration::from_millis(10);

/// See the module's description. Open at first.
#[derive(Debug)]
pub struct Gate {
    write_began: Cell<Option<Instant>>,
    is_closed: Cell<bool>,
    opened: Signal,
    is_disk_fast: Cell<bool>,
    reads: Cell<u64>,
    last_read: Cell<Instant>,
}

impl Default for Gate {
    fn default() -> Self {
        Gate {
            write_began: Cell::new(None),
            is_closed: Cell::new(false),
            opened: Signal::default(),
            is_disk_fast: Cell::new(false),
            reads: Cell::new(0),
            last_read: Cell::new(Instant::now()),
        }
    }
}

impl Gate {
    /// Takes note of how many reads this core was asked for since it started.
    pub fn note_reads(&self, reads: u64) {
        if self.reads.replace(reads) != reads {
            self.last_read.set(Instant::now());
        }
    }

    /// Closes it because a write begins, if nobody reads here and the disk is fast.
    pub fn close(&self) {
        let now = Instant::now();
        self.write_began.set(Some(now));
        let is_unread = now.duration_since(self.last_read.get()) >= QUIET_TIME;
        self.is_closed.set(is_unread && self.is_disk_fast.get());
    }

    /// Opens it because the write has ended.
    pub fn end_write(&self) {
        if let Some(began) = self.write_began.take() {
            self.is_disk_fast.set(began.elapsed() <= WRITE_TIME_MAX);
        }
        self.open();
    }

    /// Opens it until the next write.
    pub fn open(&self) {
        if self.is_closed.replace(false) {
            self.opened.raise();
        }
    }

    /// Waits while it is closed. At most one task does.
    pub async fn passed(&self) {
        while self.is_closed.get() {
            self.opened.wait().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long_unread() -> Gate {
        let gate = Gate::default();
        let before = Instant::now().checked_sub(QUIET_TIME);
        gate.last_read.set(before.expect("the clock has run for a while"));
        gate.is_disk_fast.set(true);
        gate
    }

    #[test]
    fn a_write_closes_it_and_its_end_or_a_tick_opens_it() {
        let gate = long_unread();
        gate.close();
        assert!(gate.is_closed.get());
        gate.open();
        assert!(!gate.is_closed.get());
        gate.close();
        gate.end_write();
        assert!(!gate.is_closed.get());
    }

    #[test]
    fn it_stays_open_where_somebody_reads_and_where_the_disk_is_slow() {
        let gate = long_unread();
        gate.note_reads(1);
        gate.close();
        assert!(!gate.is_closed.get());
        let gate = long_unread();
        gate.is_disk_fast.set(false);
        gate.close();
        assert!(!gate.is_closed.get());
    }
}
