//! Entries in segments that are only appended to.
//!
//! A write appends; what was there before is dead. While more than an eighth of all bytes are dead,
//! the segment with the most of them is emptied: its live entries are appended anew. (M. Rosenblum,
//! J. Ousterhout, "The design and implementation of a log-structured file system", 1992; S. Rumble
//! et al., "Log-structured memory for DRAM-based storage", 2014.) Which segment is emptied follows
//! from the writes alone.

use super::Layout;

const SEGMENT_BYTES: usize = 1 << 20;
/// Entries begin at multiples of so many bytes, so that four bytes name one.
const UNIT_BYTES: usize = 8;
/// No segment.
const NONE: u32 = u32::MAX;

#[derive(Default)]
struct Segment {
    bytes: Vec<u8>,
    live_bytes: usize,
}

/// Segments, and where each entry is: segment, offset, length.
pub struct Log {
    segments: Vec<Segment>,
    vacant: Vec<u32>,
    handles: Vec<(u32, u32, u32)>,
    head: u32,
    live_bytes: usize,
    moved_bytes: u64,
}

impl Log {
    /// Without entries, but with room for so many handles.
    pub fn new(count: usize) -> Self {
        Log {
            segments: vec![Segment { bytes: Vec::with_capacity(SEGMENT_BYTES), live_bytes: 0 }],
            vacant: Vec::new(),
            handles: vec![(NONE, 0, 1); count],
            head: 0,
            live_bytes: 0,
            moved_bytes: 0,
        }
    }

    fn append(&mut self, number: usize, bytes: usize) {
        let whole = bytes.next_multiple_of(UNIT_BYTES);
        if self.segments[self.head as usize].bytes.len() + whole > SEGMENT_BYTES {
            self.head = self.vacant.pop().unwrap_or_else(|| {
                self.segments.push(Segment::default());
                (self.segments.len() - 1) as u32
            });
            self.segments[self.head as usize].bytes = Vec::with_capacity(SEGMENT_BYTES);
        }
        let segment = &mut self.segments[self.head as usize];
        let offset = segment.bytes.len();
        segment.bytes.resize(offset + whole, 1);
        // Number and length stand for what an entry's header has, by which a table finds it.
        segment.bytes[offset..offset + 4].copy_from_slice(&(number as u32).to_le_bytes());
        segment.bytes[offset + 4..offset + 8].copy_from_slice(&(bytes as u32).to_le_bytes());
        segment.live_bytes += whole;
        self.live_bytes += whole;
        self.handles[number] = (self.head, offset as u32, bytes as u32);
    }

    fn kill(&mut self, number: usize) {
        let (segment, _, bytes) = self.handles[number];
        if segment != NONE {
            let whole = (bytes as usize).next_multiple_of(UNIT_BYTES);
            self.segments[segment as usize].live_bytes -= whole;
            self.live_bytes -= whole;
        }
    }

    /// Empties the segment with the most dead bytes.
    fn compact(&mut self) {
        let dead = |(number, segment): &(usize, &Segment)| match *number as u32 == self.head {
            true => 0,
            false => segment.bytes.len() - segment.live_bytes,
        };
        let Some((emptied, _)) = self.segments.iter().enumerate().max_by_key(dead) else { return };
        let bytes = std::mem::take(&mut self.segments[emptied].bytes);
        let mut offset = 0;
        while offset < bytes.len() {
            let mut name = [0; 4];
            name.copy_from_slice(&bytes[offset..offset + 4]);
            let number = u32::from_le_bytes(name) as usize;
            let mut length = [0; 4];
            length.copy_from_slice(&bytes[offset + 4..offset + 8]);
            let length = u32::from_le_bytes(length) as usize;
            if self.handles[number].0 == emptied as u32 && self.handles[number].1 == offset as u32 {
                self.kill(number);
                self.append(number, length);
                self.moved_bytes += length as u64;
            }
            offset += length.next_multiple_of(UNIT_BYTES);
        }
        self.segments[emptied] = Segment::default();
        self.vacant.push(emptied as u32);
    }
}

impl Layout for Log {
    const HANDLE_BYTES: usize = 4;

    fn write(&mut self, number: usize, bytes: usize) {
        self.kill(number);
        self.append(number, bytes);
        let held = (self.segments.len() - self.vacant.len()) * SEGMENT_BYTES;
        if held > 16 * SEGMENT_BYTES && (held - self.live_bytes) * 8 > held {
            self.compact();
        }
    }

    fn moved_bytes(&self) -> u64 {
        self.moved_bytes
    }
}
