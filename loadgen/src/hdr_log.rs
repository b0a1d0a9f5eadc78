//! The run as an HdrHistogram interval log, for the plotters and processors that exist for it.
//!
//! One line per second and kind of request, tagged `read` and `write`, in the compressed V2
//! encoding; values are nanoseconds. Warm-up seconds are left out.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriter, IntervalLogWriterBuilder, Tag};

use crate::record::Phase;
use crate::second::Second;

/// Writes an interval log.
pub struct HdrLog<'a, W: Write> {
    writer: IntervalLogWriter<'a, 'a, W, V2DeflateSerializer>,
    start_ns: Option<u64>,
}

impl<'a, W: Write> HdrLog<'a, W> {
    /// Writes the head of a log that starts now.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn begin(out: &'a mut W, serializer: &'a mut V2DeflateSerializer) -> io::Result<Self> {
        let now = SystemTime::now();
        let writer = IntervalLogWriterBuilder::new()
            .add_comment("[Logged with coracle-loadgen; values in nanoseconds]")
            .with_start_time(now)
            .with_base_time(now)
            .with_max_value_divisor(1e6)
            .begin_log_with(out, serializer)?;
        Ok(HdrLog { writer, start_ns: None })
    }

    /// Adds a second.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn add(&mut self, second: &Second) -> io::Result<()> {
        if second.phase == Phase::Warmup {
            return Ok(());
        }
        let start_ns = *self.start_ns.get_or_insert(second.start_ns);
        let start = Duration::from_nanos(second.start_ns.saturating_sub(start_ns));
        let length = Duration::from_nanos(second.length_ns);
        for (name, histogram) in [("read", &second.reads), ("write", &second.writes)] {
            if !histogram.is_empty() {
                self.writer
                    .write_histogram(histogram, start, length, Tag::new(name))
                    .map_err(|error| io::Error::other(format!("{error:?}")))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Interval;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn what_is_logged_can_be_read_back() {
        let mut out = Vec::new();
        let mut serializer = V2DeflateSerializer::new();
        let mut log = HdrLog::begin(&mut out, &mut serializer).expect("a log");
        for (phase, start_ns) in [(Phase::Warmup, 0), (Phase::Measured, 7), (Phase::Measured, 1007)]
        {
            let mut interval = Interval::new(phase, start_ns);
            interval.end_ns = start_ns + 1000;
            interval.reads.saturating_record(5_000_000);
            let second = Second::merge(&[&interval]).expect("a second");
            log.add(&second).expect("an entry");
        }
        let mut starts = Vec::new();
        for entry in IntervalLogIterator::new(&out) {
            let Ok(LogEntry::Interval(interval)) = entry else { continue };
            assert_eq!(interval.tag().map(|tag| tag.as_str()), Some("read"));
            starts.push(interval.start_timestamp().as_nanos());
            let encoded = interval.encoded_histogram();
            assert!(encoded.starts_with("HISTFAAA"), "{encoded}");
            let bytes = base64(encoded);
            let read: hdrhistogram::Histogram<u64> =
                Deserializer::new().deserialize(&mut &bytes[..]).expect("a histogram");
            assert!(read.max().abs_diff(5_000_000) < 5000);
        }
        assert_eq!(starts.len(), 2, "{}", String::from_utf8_lossy(&out));
    }

    fn base64(text: &str) -> Vec<u8> {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let (mut bits, mut length, mut bytes) = (0u32, 0, Vec::new());
        for byte in text.bytes().filter(|byte| *byte != b'=') {
            let digit = ALPHABET.iter().position(|known| *known == byte).expect("base64");
            bits = bits << 6 | digit as u32;
            length += 6;
            if length >= 8 {
                length -= 8;
                bytes.push((bits >> length) as u8);
            }
        }
        bytes
    }
}
