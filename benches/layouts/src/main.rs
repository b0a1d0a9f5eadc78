//! What an entry takes in memory, by how entries are laid out.
//!
//! The candidates of ADR 10, reduced to the question of where the bytes of entries lie: a block
//! each from an allocator (mimalloc, or jemalloc with the feature of that name), items of size
//! classes (the store's own `arena.rs`), and segments that are only appended to and compacted.
//! Each process measures one case, so that nothing is left over from the one before. Everything
//! beside the layout is alike: 23 bytes of header, and a handle per entry in an array, of which a
//! table would have 8 bytes for a pointer and 4 for an address.
//!
//! It does not measure lookups, and a compaction that has to ask a table whether a record is still
//! in use would cost more than here, where each record names its handle.

#[path = "../../../shards/src/store/arena.rs"]
#[allow(dead_code, reason = "the store uses more of it")]
mod arena;
mod log_structured;

use std::time::Instant;

use arena::{Address, Arena};
use log_structured::Log;

#[cfg(not(feature = "jemalloc"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Bytes of an entry's header.
const HEADER_BYTES: usize = 23;
/// Bytes of a key.
const KEY_BYTES: usize = 16;
/// Entries that are moved per write at most, as the store does per log entry.
const MOVED_PER_WRITE_MAX: usize = 2;

/// Where entries lie. They are named by number.
trait Layout {
    /// Bytes of a handle in a table.
    const HANDLE_BYTES: usize;

    /// Writes entry `number`, which may be there already, with so many bytes.
    fn write(&mut self, number: usize, bytes: usize);

    /// Bytes that were moved to make room.
    fn moved_bytes(&self) -> u64;
}

/// A block each.
struct Blocks(Vec<Box<[u8]>>);

impl Layout for Blocks {
    const HANDLE_BYTES: usize = 8;

    fn write(&mut self, number: usize, bytes: usize) {
        self.0[number] = Box::default();
        let mut block = vec![0; bytes].into_boxed_slice();
        block.fill(number as u8 | 1);
        self.0[number] = block;
    }

    fn moved_bytes(&self) -> u64 {
        0
    }
}

/// Items of size classes in pages.
struct Items {
    arena: Arena,
    handles: Vec<(Address, u32)>,
    moved_bytes: u64,
}

impl Items {
    fn place(&mut self, number: usize, bytes: usize) {
        let address = self.arena.allocate(bytes);
        let item = &mut self.arena.item_mut(address)[..bytes];
        item.fill(1);
        item[8..16].copy_from_slice(&(number as u64).to_le_bytes());
        self.handles[number] = (address, bytes as u32);
    }
}

impl Layout for Items {
    const HANDLE_BYTES: usize = 4;

    fn write(&mut self, number: usize, bytes: usize) {
        let (former, _) = self.handles[number];
        if former.is_some() {
            self.arena.release(former);
        }
        self.place(number, bytes);
        for _ in 0..MOVED_PER_WRITE_MAX {
            let Some(former) = self.arena.next_to_move() else { break };
            let mut name = [0; 8];
            name.copy_from_slice(&self.arena.item(former)[8..16]);
            let moved = u64::from_le_bytes(name) as usize;
            let bytes = self.handles[moved].1 as usize;
            self.place(moved, bytes);
            self.moved_bytes += bytes as u64;
            self.arena.release(former);
        }
    }

    fn moved_bytes(&self) -> u64 {
        self.moved_bytes
    }
}

/// Numbers that look random: xorshift64* (S. Vigna, "An experimental exploration of Marsaglia's
/// xorshift generators, scrambled", 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((u128::from(number) * bound as u128) >> 64) as usize
    }
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4_096
}

/// Fills, then replaces entries at random by others of other sizes, and prints one row.
fn measure<L: Layout>(name: &str, mut layout: L, count: usize, value_bytes: usize) {
    let before = resident_bytes();
    let beside = |payload: usize| {
        let taken = resident_bytes() as f64 - before as f64;
        (taken - payload as f64) / count as f64 + L::HANDLE_BYTES as f64
    };
    let began = Instant::now();
    for number in 0..count {
        layout.write(number, HEADER_BYTES + KEY_BYTES + value_bytes);
    }
    let fill_ns = began.elapsed().as_nanos() as f64 / count as f64;
    let filled = beside(count * (KEY_BYTES + value_bytes));
    let mut random = Random(88_172_645_463_325_252);
    let mut lengths = vec![value_bytes as u32; count];
    let (moved_before, mut written_bytes) = (layout.moved_bytes(), 0);
    let lengths_bytes = count * size_of::<u32>();
    let began = Instant::now();
    for _ in 0..4 * count {
        let number = random.below(count);
        let length = random.below(2 * value_bytes + 1);
        layout.write(number, HEADER_BYTES + KEY_BYTES + length);
        lengths[number] = length as u32;
        written_bytes += HEADER_BYTES + KEY_BYTES + length;
    }
    let churn_ns = began.elapsed().as_nanos() as f64 / (4 * count) as f64;
    let payload: usize = lengths.iter().map(|length| KEY_BYTES + *length as usize).sum();
    let churned = beside(payload + lengths_bytes);
    let moved = (layout.moved_bytes() - moved_before) as f64 / written_bytes as f64;
    println!(
        "| {name} | {count} | {value_bytes} | {filled:.1} | {churned:.1} | {moved:.2} | \
         {fill_ns:.0} | {churn_ns:.0} |"
    );
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [layout, count, value_bytes] = &words[..] else {
        eprintln!("usage: layouts blocks|classes|log COUNT VALUE-BYTES");
        std::process::exit(2);
    };
    let number = |word: &String| word.parse::<usize>().ok();
    let (Some(count), Some(value_bytes)) = (number(count), number(value_bytes)) else {
        eprintln!("the number of entries and of bytes per value are numbers");
        std::process::exit(2);
    };
    let allocator = if cfg!(feature = "jemalloc") { "jemalloc" } else { "mimalloc" };
    match layout.as_str() {
        "blocks" => {
            let blocks = Blocks(vec![Box::default(); count]);
            measure(&format!("a block each, {allocator}"), blocks, count, value_bytes);
        }
        "classes" => {
            let handles = vec![(Address::NONE, 1); count];
            let items = Items { arena: Arena::new(), handles, moved_bytes: 0 };
            measure("size classes, pages of 16 KiB", items, count, value_bytes);
        }
        "log" => measure("log-structured segments", Log::new(count), count, value_bytes),
        other => {
            eprintln!("no such layout: {other}");
            std::process::exit(2);
        }
    }
}
