//! Where answers end: each is checked, measured, and settles its request.

use client::{Answer, Class, Redirect};

use crate::connection::{Flight, Purpose};
use crate::record::{Failure, Recorder};
use crate::shards::Shards;
use crate::workload::{Kind, Workload};

/// What redirects mean to this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Redirects {
    /// They are followed.
    Follow,
    /// They are errors: the run does not know about clusters.
    Refuse,
}

/// What becomes of a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failures {
    /// It is counted.
    Count,
    /// Its key is written again: the keys are being loaded.
    Repeat,
}

/// How the bytes of values are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// Only their length.
    Length,
    /// Every byte.
    Bytes,
}

/// Settles requests.
#[derive(Debug)]
pub(super) struct Sink {
    pub record: Recorder,
    pub workload: Workload,
    pub check: Check,
    pub redirects: Redirects,
    pub failures: Failures,
    /// Operations that have been started and not settled.
    pub outstanding: u64,
    /// Operations that were answered as asked, ever.
    pub done: u64,
    /// Operations that were redirected and must go on; at most those outstanding.
    pub redirected: Vec<(Flight, Redirect)>,
    /// Operations that have read and are about to write, and writes of what a read has not found;
    /// at most those outstanding.
    pub read_to_write: Vec<Flight>,
    /// Keys to be loaded again; at most those outstanding.
    pub repeated: Vec<u64>,
    /// The latest reply to CLUSTER SLOTS.
    pub map_reply: Option<Vec<u8>>,
    /// What each shard does, if that is wanted.
    pub shards: Option<Shards>,
    /// Why an operation was refused last.
    pub latest_refusal: Option<String>,
}

impl Sink {
    /// An answer to a request in flight.
    #[inline]
    pub fn answer(&mut self, flight: Flight, answer: Answer<'_>, now_ns: u64) {
        let kind = match flight.purpose {
            Purpose::Operation(kind) => kind,
            Purpose::Asking | Purpose::Greeting => return,
            Purpose::Map => {
                if let Answer::Aggregate(reply) = answer {
                    self.map_reply = Some(reply.to_vec());
                }
                return;
            }
        };
        match answer {
            Answer::Value { bytes, .. } if kind.is_read() => {
                self.value(flight, kind, bytes, now_ns);
            }
            Answer::Missing if kind.is_read() => self.done(flight, kind, false, now_ns),
            Answer::Done { .. } if !kind.is_read() => self.done(flight, kind, false, now_ns),
            // A removal says whether the key was there.
            Answer::Number(_) | Answer::Missing if kind == Kind::Delete => {
                self.done(flight, kind, false, now_ns);
            }
            Answer::Redirect(redirect) if self.redirects == Redirects::Follow => {
                self.redirected.push((flight, redirect));
            }
            Answer::Redirect(_) => {
                self.failed(flight, Failure::Refused { class: Class::NotDone, code: "MOVED" });
            }
            Answer::Refused(refusal) => {
                // A read changes nothing, so it can only be not done.
                let class = if kind.is_read() { Class::NotDone } else { refusal.class };
                if self.failures == Failures::Repeat {
                    let text = String::from_utf8_lossy(refusal.text).into_owned();
                    self.latest_refusal = Some(text);
                }
                self.failed(flight, Failure::Refused { class, code: refusal.code });
            }
            _ => self.failed(flight, Failure::Malformed),
        }
    }

    fn value(&mut self, flight: Flight, kind: Kind, bytes: &[u8], now_ns: u64) {
        let matches = match self.check {
            Check::Bytes => self.workload.is_value(flight.key, bytes),
            Check::Length => {
                let foreign = !self.workload.is_value_length(flight.key, bytes.len());
                self.record.counts().foreign_values += u64::from(foreign);
                true
            }
        };
        if matches {
            self.done(flight, kind, true, now_ns);
        } else {
            self.failed(flight, Failure::Malformed);
        }
    }

    #[inline]
    fn done(&mut self, flight: Flight, kind: Kind, hit: bool, now_ns: u64) {
        if kind.has_sequel() && self.goes_on(flight, kind, hit, now_ns) {
            return;
        }
        self.outstanding -= 1;
        self.done += 1;
        self.record.done(kind, hit, flight.intended_ns, now_ns);
        if let Some(shards) = &mut self.shards {
            shards.done(flight.slot, flight.intended_ns, now_ns);
        }
    }

    /// What comes after an operation of a kind that has a sequel. True if it is not over.
    #[inline(never)]
    fn goes_on(&mut self, flight: Flight, kind: Kind, hit: bool, now_ns: u64) -> bool {
        match kind {
            Kind::Modify => {
                let purpose = Purpose::Operation(Kind::WriteBack);
                self.read_to_write.push(Flight { purpose, redirects: 0, ..flight });
                return true;
            }
            // An operation of its own, due as soon as it is known that it is needed.
            Kind::Lookup if !hit => {
                let purpose = Purpose::Operation(Kind::Fill);
                let fill = Flight { intended_ns: now_ns, purpose, redirects: 0, ..flight };
                self.read_to_write.push(fill);
                self.outstanding += 1;
            }
            Kind::Lookup => {}
            Kind::Fill | Kind::Delete => self.record.done_apart(kind, flight.intended_ns),
            _ => self.workload.settle_insert(flight.key),
        }
        false
    }

    /// A request was in flight on a connection that is over.
    pub fn lost(&mut self, flight: Flight) {
        if let Purpose::Operation(kind) = flight.purpose {
            self.failed(flight, Failure::Lost(Class::of_unanswered(kind.is_read())));
        }
    }

    /// An operation failed. Anything else is passed over.
    pub fn failed(&mut self, flight: Flight, failure: Failure<'_>) {
        let Purpose::Operation(kind) = flight.purpose else { return };
        if kind == Kind::Insert {
            self.workload.settle_insert(flight.key);
        }
        self.outstanding -= 1;
        match self.failures {
            Failures::Count => {
                self.record.failed(failure, flight.intended_ns);
                if let Some(shards) = &mut self.shards {
                    shards.failed(flight.slot, flight.intended_ns);
                }
            }
            Failures::Repeat => self.repeated.push(flight.key),
        }
    }
}
