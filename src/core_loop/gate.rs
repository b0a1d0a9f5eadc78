//! Leaves what comes in on its sockets while a core could only gather it.
//!
//! While the log is being written, commands and entries that are to become durable wait for the
//! end of the write in any case. To be woken for each of them costs more than to carry them out.
//! Left on their sockets, they are all received at once when the write has ended, in one turn with
//! what that sets free.
//!
//! Reads need no log. So this is done only on cores that nobody has read from for [`QUIET_TIME`],
//! and never for longer than [`CLOSED_TIME_MAX`] at a time: a slow disk does not hold up
//! acknowledgements and heartbeats.

use std::cell::Cell;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::signal::Signal;
use crate::net::runtime::Alarm;

/// How long sockets are left alone at most.
const CLOSED_TIME_MAX: Duration = Duration::from_micros(500);
/// For how long nobody must have read.
const QUIET_TIME: Duration = Duration::from_millis(10);

/// See the module's description. Open at first.
#[derive(Debug)]
pub struct Gate {
    closed_at: Cell<Option<Instant>>,
    opened: Signal,
    reads: Cell<u64>,
    last_read: Cell<Instant>,
}

impl Default for Gate {
    fn default() -> Self {
        Gate {
            closed_at: Cell::new(None),
            opened: Signal::default(),
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

    /// Closes it because a write begins, if nobody reads here.
    pub fn close(&self) {
        let now = Instant::now();
        if now.duration_since(self.last_read.get()) >= QUIET_TIME {
            self.closed_at.set(Some(now));
        }
    }

    /// Opens it because the write has ended.
    pub fn open(&self) {
        if self.closed_at.take().is_some() {
            self.opened.raise();
        }
    }

    /// Waits while it is closed. At most one task does, with an alarm of its own.
    pub async fn passed(&self, alarm: &mut Alarm) {
        while let Some(closed_at) = self.closed_at.get() {
            let left = CLOSED_TIME_MAX.saturating_sub(closed_at.elapsed());
            if left.is_zero() {
                return;
            }
            alarm.set(left);
            std::future::poll_fn(|context| match self.opened.poll(context) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => alarm.poll(context),
            })
            .await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::runtime::{ExecutorSettings, start_executor};

    fn on_an_executor<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F + Send + 'static) {
        let settings =
            ExecutorSettings { name: "gate".to_owned(), cpu: None, spin: Duration::ZERO };
        start_executor(&settings, test).expect("an executor").join().expect("the test holds");
    }

    fn long_unread() -> Gate {
        let gate = Gate::default();
        let before = Instant::now().checked_sub(QUIET_TIME);
        gate.last_read.set(before.expect("the clock has run for a while"));
        gate
    }

    #[test]
    fn a_write_that_does_not_end_holds_nobody_up_for_long() {
        on_an_executor(|| async {
            let gate = long_unread();
            gate.close();
            assert!(gate.closed_at.get().is_some());
            gate.passed(&mut Alarm::new(Duration::ZERO)).await;
            assert!(gate.closed_at.get().is_some(), "nobody has opened it");
        });
    }

    #[test]
    fn it_is_open_where_somebody_reads() {
        let gate = long_unread();
        gate.note_reads(1);
        gate.close();
        assert_eq!(gate.closed_at.get(), None);
    }

    #[test]
    fn the_end_of_a_write_opens_it() {
        on_an_executor(|| async {
            let gate = long_unread();
            gate.close();
            gate.open();
            gate.passed(&mut Alarm::new(Duration::ZERO)).await;
            assert_eq!(gate.closed_at.get(), None);
        });
    }
}
