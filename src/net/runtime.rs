//! The executor, behind the few calls the server needs of it.
//!
//! One executor runs on one thread. It waits with io_uring; the tasks on it are woken in the order
//! in which their wake-ups came, which the turn relies on (see [`core_loop`](crate::core_loop)):
//! a task woken while others are runnable runs after them.
//!
//! Invariants: everything here but [`ExecutorSettings`] and [`ExecutorThread`] is used on an
//! executor's own thread only. At most one task waits for one direction of one descriptor.

use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use glommio::io::PollableFd;
use glommio::timer::Timer;
use glommio::{GlommioError, LocalExecutorBuilder, Placement};

use super::interrupts::Interrupts;

/// Memory an executor registers for file IO, in bytes. Locked memory is scarce (often 8 MiB for
/// all processes of a user) and sockets use none of it.
const IO_MEMORY_BYTES: usize = 256 << 10;

/// How long tasks may run until the executor looks at sockets and timers again. One tick must not
/// wait for a whole queue of busy connections.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How long an executor sleeps at most. Where its preemption timer rings before it has run the
/// first task of a round, as happens when the kernel takes the CPU away at that point, it takes the
/// round for an idle one and sleeps although tasks could run. If all timers had just rung, nothing
/// of its own would ever wake it again.
const SLEEP_INTERVAL_MAX: Duration = Duration::from_millis(20);

/// How a core's executor runs.
#[derive(Clone, Debug)]
pub struct ExecutorSettings {
    /// Name of its thread.
    pub name: String,
    /// The CPU it is pinned to, or none to leave the choice to the kernel.
    pub cpu: Option<usize>,
    /// How long it looks for work before it sleeps. Only sensible on CPUs of its own.
    pub spin: Duration,
}

/// Why an executor could not start, or how it ended.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// It was asked to run on a CPU that this machine does not have.
    #[error("CPU {0} does not exist")]
    NoSuchCpu(usize),
    /// The kernel refused something it needs.
    #[error("the executor cannot run: {0}")]
    Failed(String),
}

impl<T> From<GlommioError<T>> for ExecutorError {
    fn from(error: GlommioError<T>) -> Self {
        match error {
            GlommioError::BuilderError(glommio::BuilderErrorKind::NonExistentCpus { cpu }) => {
                ExecutorError::NoSuchCpu(cpu)
            }
            other => ExecutorError::Failed(other.to_string()),
        }
    }
}

/// The thread of a started executor.
#[derive(Debug)]
pub struct ExecutorThread<T: Send + 'static>(JoinHandle<Result<T, ExecutorError>>);

impl<T: Send + 'static> ExecutorThread<T> {
    /// Waits for its main task to end.
    ///
    /// # Errors
    /// If the executor never ran, or its thread panicked.
    pub fn join(self) -> Result<T, ExecutorError> {
        let panicked = |_| Err(ExecutorError::Failed("its thread panicked".to_owned()));
        self.0.join().unwrap_or_else(panicked)
    }
}

/// Starts a thread with an executor and runs on it what `main` makes.
///
/// # Errors
/// If the thread cannot be started. What fails on the thread itself is told by
/// [`ExecutorThread::join`].
pub fn start_executor<M, F, T>(
    settings: &ExecutorSettings,
    main: M,
) -> Result<ExecutorThread<T>, ExecutorError>
where
    M: FnOnce() -> F + Send + 'static,
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let failed = |error: io::Error| ExecutorError::Failed(error.to_string());
    let settings = settings.clone();
    let thread = std::thread::Builder::new().name(settings.name.clone());
    let handle = thread.spawn(move || {
        let _interrupts = Interrupts::start(SLEEP_INTERVAL_MAX).map_err(failed)?;
        let placement = settings.cpu.map_or(Placement::Unbound, Placement::Fixed);
        let executor = LocalExecutorBuilder::new(placement)
            .io_memory(IO_MEMORY_BYTES)
            .preempt_timer(POLL_INTERVAL)
            .spin_before_park(settings.spin)
            .make()?;
        Ok(executor.run(async move { main().await }))
    });
    handle.map(ExecutorThread).map_err(failed)
}

/// Starts a task of this executor, which runs until it ends by itself. It first runs once the
/// caller has returned to the executor, so that the caller may hold borrows.
///
/// # Panics
/// Outside of an executor.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    let queue = glommio::executor().current_task_queue();
    let task = glommio::spawn_local_into(future, queue);
    task.expect("the queue that a task runs in exists").detach();
}

/// Waits for so long.
pub async fn sleep(span: Duration) {
    Timer::new(span).await;
}

/// Lets every other runnable task run first.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Waits for `future`, but not longer than `span`; `None` if that has passed.
pub async fn with_deadline<F: Future>(span: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut alarm = Alarm::new(span);
    std::future::poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        alarm.poll(context).map(|()| None)
    })
    .await
}

/// One timer of one task, which can be set again and again.
///
/// The executor's timer registers anew each time it is polled, so this one does not poll it each
/// time its task was woken by something else, and compares the time itself. Near the end it does:
/// the executor's timer has its own idea of when it is due, and wakes the task once. A task that
/// looked a moment too early then would never be woken again. (A thread that was not running
/// between two looks at the clock made that moment long enough to happen.)
#[derive(Debug)]
pub struct Alarm {
    timer: Timer,
    due: Instant,
    registered: bool,
}

/// The executor's timer may wake a task so much too early, and more.
const TIMER_PRECISION: Duration = Duration::from_millis(5);

impl Alarm {
    /// An alarm that rings after `span`.
    pub fn new(span: Duration) -> Self {
        // In this order: then the executor's timer is not due before this is.
        let due = Instant::now() + span;
        Alarm { timer: Timer::new(span), due, registered: false }
    }

    /// Sets it to ring `span` from now.
    pub fn set(&mut self, span: Duration) {
        self.due = Instant::now() + span;
        self.timer.reset(span);
        self.registered = false;
    }

    /// Ready once it rings, and until it is set again.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let left = self.due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Poll::Ready(());
        }
        if self.registered && left > TIMER_PRECISION {
            return Poll::Pending;
        }
        if self.registered {
            self.timer.reset(left);
        }
        self.registered = true;
        Pin::new(&mut self.timer).poll(context).map(|_| ())
    }
}

/// A descriptor whose readiness can be waited for.
#[derive(Debug)]
pub struct Watched<T: AsRawFd>(PollableFd<T>);

impl<T: AsRawFd> Watched<T> {
    /// Takes the descriptor, which stays with this executor.
    ///
    /// # Errors
    /// If the executor does not take it.
    pub fn new(inner: T) -> io::Result<Self> {
        Ok(Watched(PollableFd::new(inner)?))
    }

    /// The descriptor.
    pub fn get(&self) -> &T {
        self.0.get_ref()
    }

    /// Waits until a read would not block: data, the end, or an error is there.
    ///
    /// # Errors
    /// If the executor cannot watch the descriptor.
    pub async fn readable(&self) -> io::Result<()> {
        Ok(self.0.readable().await?)
    }

    /// Waits until a write would not block.
    ///
    /// # Errors
    /// If the executor cannot watch the descriptor.
    pub async fn writable(&self) -> io::Result<()> {
        Ok(self.0.writable().await?)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    /// Runs a task on an executor of its own.
    fn on_executor<F: Future<Output = ()> + 'static>(main: impl FnOnce() -> F + Send + 'static) {
        let settings = ExecutorSettings { name: "test".into(), cpu: None, spin: Duration::ZERO };
        let thread = start_executor(&settings, main).expect("an executor");
        thread.join().expect("the task ends");
    }

    #[test]
    fn an_alarm_rings_although_the_executors_timer_was_due_before() {
        on_executor(async || {
            // As where the executor counts in coarser steps.
            let timer = Timer::new(Duration::from_millis(5));
            let due = Instant::now() + Duration::from_millis(8);
            let mut alarm = Alarm { timer, due, registered: false };
            let rang = Rc::new(Cell::new(false));
            let ringing = rang.clone();
            spawn(async move {
                std::future::poll_fn(|context| alarm.poll(context)).await;
                ringing.set(true);
            });
            let began = Instant::now();
            while !rang.get() {
                sleep(Duration::from_millis(1)).await;
                assert!(began.elapsed() < Duration::from_secs(20), "it never rang");
            }
        });
    }
}
