//! The end of a node: who asks for it, and in which order things happen.

use std::io;
use std::process;
use std::sync::atomic::Ordering;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::http::Face;
use super::messages::ControlRequest;
use super::{DRAIN_DEADLINE, Order, STOP_DEADLINE, Signals};
use crate::logging;

/// The signals that arrive, if they are ours to handle.
#[derive(Debug)]
pub struct Received {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
}

impl Received {
    /// Installs the handlers. From here on the signals no longer end the process by themselves.
    /// Must run within the runtime.
    pub fn install(signals: Signals) -> io::Result<Received> {
        match signals {
            Signals::Ignore => Ok(Received { terminate: None, interrupt: None }),
            Signals::Handle => Ok(Received {
                terminate: Some(signal(SignalKind::terminate())?),
                interrupt: Some(signal(SignalKind::interrupt())?),
            }),
        }
    }

    /// Waits for the next signal, and gives its name and the exit code that tells of it.
    async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            () = arrive(&mut self.terminate) => ("SIGTERM", 128 + libc::SIGTERM),
            () = arrive(&mut self.interrupt) => ("SIGINT", 128 + libc::SIGINT),
        }
    }
}

/// Waits for a signal; for ever, if it is not ours to handle.
async fn arrive(signal: &mut Option<Signal>) {
    let arrived = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if arrived.is_none() {
        std::future::pending().await
    }
}

/// Ends the process with the first signal: of a node that does not serve yet nobody waits for
/// anything, and its log is as good as after a crash.
pub async fn end_on_signal(received: &mut Received) {
    let (name, _) = received.next().await;
    tracing::info!(signal = name, "stopped before it served");
    end(0)
}

/// Runs until the control thread may end. Returns when the cores have ended, or were told to and
/// the order to end has come; ends the process where that does not happen.
pub async fn supervise(face: &Face, mut received: Received, orders: flume::Receiver<Order>) {
    tokio::select! {
        (name, _) = received.next() => {
            tracing::info!(signal = name, "stopping; a second signal stops at once");
        }
        order = orders.recv_async() => match order {
            Ok(Order::Stop) => tracing::info!("stopping"),
            Ok(Order::End) | Err(_) => return,
        },
    }
    tokio::select! {
        () = drain_and_stop(face) => {}
        (name, code) = received.next() => {
            tracing::warn!(signal = name, "stopping at once");
            end(code);
        }
    }
    let deadline = Instant::now() + STOP_DEADLINE;
    loop {
        tokio::select! {
            order = orders.recv_async() => if !matches!(order, Ok(Order::Stop)) { return },
            (name, code) = received.next() => {
                tracing::warn!(signal = name, "stopping at once");
                end(code);
            }
            () = sleep_until(deadline) => {
                tracing::error!("a core did not stop in time; stopping without it");
                end(1);
            }
        }
    }
}

/// Has all cores hand their leaderships over, then tells them to stop.
async fn drain_and_stop(face: &Face) {
    face.draining.store(true, Ordering::Relaxed);
    let deadline = Instant::now() + DRAIN_DEADLINE;
    let mut answers = Vec::new();
    for core in face.collector.cores() {
        let (answer, receiver) = flume::bounded(1);
        let sent = core.send_async(ControlRequest::Drain(answer));
        if let Ok(Ok(())) = timeout_at(deadline, sent).await {
            answers.push(receiver);
        }
    }
    let mut drained = 0;
    for answer in &answers {
        if let Ok(Ok(())) = timeout_at(deadline, answer.recv_async()).await {
            drained += 1;
        }
    }
    let cores = face.collector.cores().len();
    if drained == cores {
        tracing::info!(cores, "all leaderships are handed over");
    } else {
        tracing::warn!(drained, cores, "not all cores handed their leaderships over in time");
    }
    let deadline = Instant::now() + STOP_DEADLINE;
    for core in face.collector.cores() {
        // A core that is gone, or too busy to take the order, is seen by the deadline of the stop.
        let _ = timeout_at(deadline, core.send_async(ControlRequest::Stop)).await;
    }
}

/// Ends the process where it stands, but for the lines of its log.
fn end(code: i32) -> ! {
    logging::flush();
    process::exit(code)
}
