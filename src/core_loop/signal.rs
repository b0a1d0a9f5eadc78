//! A flag that one task of this core waits for and any other raises.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

/// Raised any number of times before it is looked at, it counts once. At most one task waits.
#[derive(Debug, Default)]
pub struct Signal {
    raised: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Signal {
    /// Raises it. The waiting task becomes runnable behind the tasks that already are.
    pub fn raise(&self) {
        if !self.raised.replace(true)
            && let Some(waiter) = self.waiter.take()
        {
            waiter.wake();
        }
    }

    /// Whether it was raised and nobody has looked at it yet.
    pub fn is_raised(&self) -> bool {
        self.raised.get()
    }

    /// Ready, and lowered again, once it has been raised.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.raised.replace(false) {
            return Poll::Ready(());
        }
        let mut waiter = self.waiter.borrow_mut();
        match waiter.as_mut() {
            Some(waiter) => waiter.clone_from(context.waker()),
            None => *waiter = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Waits until it is raised, and lowers it.
    pub async fn wait(&self) {
        std::future::poll_fn(|context| self.poll(context)).await;
    }
}
