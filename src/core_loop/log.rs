//! The core's log within its loop: what a turn asks of the disk is carried out by a task of its
//! own, and its end is an input like any other.
//!
//! The engine has at most one write under way, so the queue between turn and task holds that and
//! the releases around it. While a write runs, turns go on and the engine gathers for the next.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use shards::contract::{DiskError, DiskOperation, Input};

use super::Shared;
use super::state::State;
use crate::disk::provisioner::FileCounts;
use crate::disk::writer::{LogCounters, LogWrite, LogWriter};
use crate::net::runtime::yield_now;

/// What the core's state knows of its log. Without a log, nothing ever gets into it.
#[derive(Debug, Default)]
pub struct LogPort {
    queue: VecDeque<DiskOperation>,
    counters: LogCounters,
    files: Option<Arc<FileCounts>>,
}

impl LogPort {
    /// The port of a core that writes its log with `writer`, if it has one.
    pub fn new(writer: Option<&LogWriter>) -> Self {
        LogPort { files: writer.map(LogWriter::counts), ..LogPort::default() }
    }

    /// Takes over what the engine asks for. Returns whether that is anything.
    pub fn take(&mut self, operations: &mut Vec<DiskOperation>) -> bool {
        self.queue.extend(operations.drain(..));
        !self.queue.is_empty()
    }

    /// What the log has done until now. Its gauges of the worst start anew.
    pub fn report(&mut self) -> LogCounters {
        if let Some(files) = &self.files {
            self.counters.add_files(files);
        }
        let counters = self.counters;
        self.counters.write_ns_max = 0;
        counters
    }
}

impl State {
    /// Notes the end of a write and tells the engine.
    fn log_written(&mut self, id: u64, bytes: Vec<u8>, result: io::Result<u64>) {
        let counters = &mut self.log.counters;
        let result = match result {
            Ok(nanos) => {
                counters.writes += 1;
                counters.bytes += bytes.len() as u64;
                counters.write_ns += nanos;
                counters.write_ns_max = counters.write_ns_max.max(nanos);
                Ok(())
            }
            Err(error) => {
                counters.failed = 1;
                tracing::error!(
                    core = %self.here.core,
                    %error,
                    "the log could not be written; the core is silent until the node is restarted"
                );
                Err(DiskError(error.to_string()))
            }
        };
        self.begin_input();
        self.refresh_now();
        self.step(Input::Disk { id, result });
        self.outputs.recycle(bytes);
    }
}

/// Carries out what turns ask of the disk, one operation after the other.
pub async fn write_log(shared: Rc<Shared>, mut writer: LogWriter) {
    loop {
        shared.log_asked.wait().await;
        loop {
            let operation = shared.state.borrow_mut().log.queue.pop_front();
            match operation {
                None => break,
                Some(DiskOperation::Release { before }) => writer.release(before),
                Some(DiskOperation::Write { id, segment, segment_bytes, offset, bytes }) => {
                    let write = LogWrite { segment, segment_bytes, offset, bytes: &bytes };
                    shared.gate.close();
                    let result = shared.measured(writer.write(write)).await;
                    shared.gate.end_write();
                    // What has come on the sockets meanwhile is part of the turn that follows.
                    yield_now().await;
                    shared.state.borrow_mut().log_written(id, bytes, result);
                    shared.turn.raise();
                }
            }
        }
    }
}
