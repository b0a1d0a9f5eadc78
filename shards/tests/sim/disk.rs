//! A node's disk: the bytes of its logs, and what crashes, wear and bad luck make of them.
//!
//! It keeps what the contract of a disk operation promises and nothing beyond. A write is durable
//! when it is complete. One that is under way in a crash is there, or not, or in part: block by
//! block, or up to some byte. A file that becomes a segment keeps what it held before. Segments
//! that were released may come back after a crash, as long as nothing has synced the directory.
//!
//! Damage is done to nodes that are down. It leaves the last completed write alone: a log whose
//! end is gone without a trace looks like one that was cut by a crash, for every program.

use std::collections::BTreeMap;

use shards::ids::CoreIndex;
use shards::wal::{BLOCK_BYTES, Segment};

use crate::random::Random;

/// A write under way.
#[derive(Clone, Debug)]
pub struct Write {
    /// Named in the completion.
    pub id: u64,
    /// Number of the segment.
    pub segment: u64,
    /// Length it is created with.
    pub segment_bytes: u64,
    /// Where.
    pub offset: u64,
    /// What.
    pub bytes: Vec<u8>,
}

/// A file that is a segment.
#[derive(Clone, Debug)]
struct File {
    created_bytes: u64,
    bytes: Vec<u8>,
}

/// The log of one core.
#[derive(Clone, Debug, Default)]
pub struct Log {
    files: BTreeMap<u64, File>,
    /// Released, and not known to be gone for good; ascending.
    released: Vec<(u64, File)>,
    /// Files to become segments, with what they held.
    recycled: Vec<Vec<u8>>,
    under_way: Option<Write>,
    /// Segment and offset of the last completed write.
    last: Option<(u64, u64)>,
}

impl Log {
    /// Begins a write. There must be none under way.
    pub fn begin(&mut self, write: Write) {
        assert!(self.under_way.is_none(), "two writes are under way");
        self.under_way = Some(write);
    }

    /// Whether the write `id` is under way.
    pub fn is_writing(&self, id: u64) -> bool {
        self.under_way.as_ref().is_some_and(|write| write.id == id)
    }

    /// The write under way.
    pub fn write_under_way(&self) -> Option<u64> {
        self.under_way.as_ref().map(|write| write.id)
    }

    /// The write under way is durable now.
    pub fn complete(&mut self) {
        let Some(write) = self.under_way.take() else { return };
        self.last = Some((write.segment, write.offset));
        let is_new = !self.has_file(&write);
        self.file(&write);
        self.put(&write, 0..write.bytes.len());
        if is_new {
            // The directory was synced for its sake.
            self.released.clear();
        }
    }

    /// The write under way has failed: what it has left is as uncertain as after a crash.
    pub fn fail(&mut self, random: &mut Random) {
        if let Some(write) = self.under_way.take() {
            self.tear(&write, random);
        }
    }

    /// Takes segments out; returns how many.
    pub fn release(&mut self, before: u64, random: &mut Random) -> u64 {
        let kept = self.files.split_off(&before);
        let count = self.files.len() as u64;
        for (number, file) in std::mem::replace(&mut self.files, kept) {
            if random.chance(500) && self.recycled.len() < 4 {
                self.recycled.push(file.bytes);
                // Whoever came before it in the directory is gone with it.
                self.released.clear();
            } else {
                self.released.push((number, file));
            }
        }
        count
    }

    /// The power fails, or the process dies: nobody is there to see the end of what is under way.
    pub fn crash(&mut self, random: &mut Random) {
        self.fail(random);
        let returning = random.below(self.released.len() as u64 + 1) as usize;
        let first = self.released.len() - returning;
        self.files.extend(self.released.drain(first..));
        self.released.clear();
        self.recycled.clear();
    }

    /// The segments as a start finds them.
    pub fn segments(&self) -> Vec<Segment<'_>> {
        let files = self.files.iter();
        files
            .map(|(&number, file)| Segment {
                number,
                created_bytes: file.created_bytes,
                bytes: &file.bytes,
            })
            .collect()
    }

    /// Whether the file of a write is there. One of another length is not: it was made for a write
    /// that did not come about.
    fn has_file(&self, write: &Write) -> bool {
        let file = self.files.get(&write.segment);
        file.is_some_and(|file| file.created_bytes == write.segment_bytes)
    }

    /// The file of a write, which is created if it is not there.
    fn file(&mut self, write: &Write) {
        if !self.has_file(write) {
            let mut bytes = self.recycled.pop().unwrap_or_default();
            bytes.resize(write.segment_bytes as usize, 0);
            let file = File { created_bytes: write.segment_bytes, bytes };
            self.files.insert(write.segment, file);
        }
    }

    /// Puts a part of a write where it belongs, in the file that [`Log::file`] made.
    fn put(&mut self, write: &Write, range: std::ops::Range<usize>) {
        let start = write.offset as usize;
        let place = &mut self.bytes(write.segment)[start + range.start..start + range.end];
        place.copy_from_slice(&write.bytes[range]);
    }

    /// A write of which nobody knows how far it came.
    fn tear(&mut self, write: &Write, random: &mut Random) {
        let is_created = self.has_file(write) || random.chance(700);
        if !is_created {
            // One of another length is removed before its successor is made.
            if random.chance(500) {
                self.files.remove(&write.segment);
            }
            return;
        }
        self.file(write);
        let length = write.bytes.len();
        match random.below(4) {
            0 => {}
            1 => self.put(write, 0..length),
            2 => self.put(write, 0..random.below(length as u64 + 1) as usize),
            _ => {
                for start in (0..length).step_by(BLOCK_BYTES) {
                    if random.chance(500) {
                        self.put(write, start..(start + BLOCK_BYTES).min(length));
                    }
                }
            }
        }
    }

    /// Loses the last completed write without a trace, as a disk does that has lied about it.
    #[cfg(feature = "defects")]
    pub fn forget_last(&mut self) {
        if let Some((segment, offset)) = self.last {
            self.bytes(segment)[offset as usize..].fill(0);
        }
    }

    /// Damages something that was durable; says what, or nothing if there is nothing to damage.
    pub fn damage(&mut self, random: &mut Random) -> Option<String> {
        let (last_segment, last_offset) = self.last?;
        let numbers: Vec<_> = self.files.range(..=last_segment).map(|(&n, _)| n).collect();
        let number = *random.pick(&numbers);
        let length = match number == last_segment {
            true => last_offset as usize,
            false => self.files[&number].bytes.len(),
        };
        if length == 0 {
            return None;
        }
        let donor = *random.pick(&numbers);
        let start = random.below(length as u64) as usize;
        let block = start / BLOCK_BYTES * BLOCK_BYTES;
        let blocks = |count: u64| (block + count as usize * BLOCK_BYTES).min(length);
        match random.below(4) {
            0 => {
                let bit = random.below(8);
                self.bytes(number)[start] ^= 1 << bit;
                Some(format!("bit {bit} of byte {start} of segment {number} is flipped"))
            }
            1 => {
                let end = blocks(random.between(1, 3));
                self.bytes(number)[block..end].fill(0);
                Some(format!("bytes {block}..{end} of segment {number} are zero"))
            }
            2 => {
                let end = blocks(1);
                let from = random.below((self.bytes(donor).len() / BLOCK_BYTES) as u64) as usize;
                let from = from * BLOCK_BYTES;
                let copy = self.bytes(donor)[from..].iter().copied().take(end - block);
                let copy: Vec<u8> = copy.collect();
                self.bytes(number)[block..block + copy.len()].copy_from_slice(&copy);
                Some(format!("block {from} of segment {donor} is at {block} of {number}"))
            }
            _ if number != last_segment => {
                self.files.get_mut(&number)?.bytes.truncate(start);
                Some(format!("segment {number} is cut at {start}"))
            }
            _ => None,
        }
    }

    fn bytes(&mut self, number: u64) -> &mut [u8] {
        self.files.get_mut(&number).map_or(&mut [], |file| &mut file.bytes)
    }
}

/// The logs of a node in one layout over its cores.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Its number.
    pub number: u64,
    /// Whether it has its final name.
    pub is_complete: bool,
    /// The logs by core.
    pub cores: Vec<Log>,
}

/// The disk of a node.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// In the order in which they were begun.
    pub layouts: Vec<Layout>,
    /// Removed, and perhaps not for good.
    removed: Vec<Layout>,
}

impl Disk {
    /// Begins a layout, which does not count yet.
    pub fn begin_layout(&mut self, number: u64, cores: u16) -> &mut Layout {
        self.layouts.retain(|layout| layout.number != number);
        let cores = (0..cores).map(|_| Log::default()).collect();
        self.layouts.push(Layout { number, is_complete: false, cores });
        let last = self.layouts.len() - 1;
        &mut self.layouts[last]
    }

    /// The complete layouts' numbers.
    pub fn complete(&self) -> impl Iterator<Item = u64> + '_ {
        self.layouts.iter().filter(|layout| layout.is_complete).map(|layout| layout.number)
    }

    /// The layout of this number.
    pub fn layout(&mut self, number: u64) -> Option<&mut Layout> {
        self.layouts.iter_mut().find(|layout| layout.number == number)
    }

    /// Removes every layout but this one. What was removed before is gone for good now.
    pub fn keep_only(&mut self, number: u64) {
        let (kept, removed) =
            std::mem::take(&mut self.layouts).into_iter().partition(|l| l.number == number);
        (self.layouts, self.removed) = (kept, removed);
    }

    /// The log that a core writes.
    pub fn log(&mut self, core: CoreIndex) -> Option<&mut Log> {
        self.layouts.last_mut()?.cores.get_mut(usize::from(core.0))
    }

    /// See [`Log::crash`].
    pub fn crash(&mut self, random: &mut Random) {
        let logs = self.layouts.iter_mut().flat_map(|layout| &mut layout.cores);
        logs.for_each(|log| log.crash(random));
        for layout in self.removed.drain(..) {
            if layout.is_complete && random.chance(500) {
                self.layouts.insert(0, layout);
            }
        }
    }

    /// Damages one of the logs; says what was done.
    pub fn damage(&mut self, random: &mut Random) -> Option<String> {
        let logs = &mut self.layouts.last_mut()?.cores;
        let place = random.below(logs.len() as u64) as usize;
        let damage = logs[place].damage(random)?;
        Some(format!("log {place}: {damage}"))
    }
}
