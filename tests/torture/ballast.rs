//! Keys that are written once before anything goes wrong and must be there at the end. They give
//! snapshots and logs some weight.

use std::net::SocketAddr;

use crate::wire::{Resp, Value};

/// How many there are.
const COUNT: usize = 4_000;
/// Requests sent before their answers are read.
const BATCH: usize = 100;

fn key(number: usize) -> String {
    format!("ballast:{number}")
}

fn value(number: usize) -> Vec<u8> {
    // Lengths from a few bytes to two kilobytes, each value another one.
    number.to_string().repeat(1 + number % 400).into_bytes()
}

/// Writes all of them.
pub fn write(address: SocketAddr) -> Result<(), String> {
    let mut resp = Resp::connect(address).map_err(|error| error.to_string())?;
    for first in (0..COUNT).step_by(BATCH) {
        let mut pipeline = Vec::new();
        for number in first..first + BATCH {
            pipeline.extend(Resp::encode(&[b"SET", key(number).as_bytes(), &value(number)]));
        }
        resp.send(&pipeline).map_err(|error| error.to_string())?;
        for number in first..first + BATCH {
            match resp.receive() {
                Ok(reply) if reply.is_ok() => {}
                other => return Err(format!("{} was answered by {other:?}", key(number))),
            }
        }
    }
    Ok(())
}

/// Reads all of them, and says how many there are.
///
/// # Errors
/// If one is not what it was.
pub fn check(address: SocketAddr) -> Result<usize, String> {
    let mut resp = Resp::connect(address).map_err(|error| error.to_string())?;
    for first in (0..COUNT).step_by(BATCH) {
        let mut pipeline = Vec::new();
        for number in first..first + BATCH {
            pipeline.extend(Resp::encode(&[b"GET", key(number).as_bytes()]));
        }
        resp.send(&pipeline).map_err(|error| error.to_string())?;
        for number in first..first + BATCH {
            match resp.receive() {
                Ok(Value::Bulk(found)) if found == value(number) => {}
                other => return Err(format!("{} on {address} is {other:?}", key(number))),
            }
        }
    }
    Ok(COUNT)
}
