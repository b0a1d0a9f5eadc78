//! Counts allocations, in front of the allocator that the server uses.
//!
//! Counters belong to the process and count while they are switched on. The benchmarks that use
//! them have one thread.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use mimalloc::MiMalloc;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// mimalloc with counters. A program that wants them declares it as its global allocator.
#[derive(Debug)]
pub struct Counting;

fn count(bytes: usize) {
    if IS_COUNTING.load(Relaxed) {
        COUNT.store(COUNT.load(Relaxed) + 1, Relaxed);
        BYTES.store(BYTES.load(Relaxed) + bytes as u64, Relaxed);
    }
}

// SAFETY: every call is handed to mimalloc unchanged, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of this very method.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { MiMalloc.dealloc(place, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above.
        unsafe { MiMalloc.realloc(place, layout, size) }
    }
}

/// Allocations, reallocations included, and the bytes that were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many.
    pub count: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Counts from here on.
pub fn start() {
    IS_COUNTING.store(true, Relaxed);
}

/// Counts no more.
pub fn stop() {
    IS_COUNTING.store(false, Relaxed);
}

/// Takes what was counted, and begins anew.
pub fn take() -> Counts {
    Counts { count: COUNT.swap(0, Relaxed), bytes: BYTES.swap(0, Relaxed) }
}
