//! Finds the memory in which a server holds the wanted number of entries: it is filled with more
//! than that, what it holds is counted, the memory is corrected, and so on.
//!
//! Servers charge an entry with different overheads, some have a fixed part beside the entries
//! (tables, buffers), some hold nothing at all with too little, and memcached takes whole
//! mebibytes. So the memory is bracketed between a setting that held too few and one that held too
//! many, and looked for on the line between them.

/// Trials at most.
const TRIALS_MAX: usize = 12;
/// Near enough: one part of so many.
const NEAR: u64 = 1_000;
/// A server is filled with so many times the room.
pub const FILLED_PER_ROOM: u64 = 2;

/// A memory setting and the entries that a filled server held with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fitted {
    /// The setting of each process, in bytes.
    pub memory_bytes: u64,
    /// What it held.
    pub entries: u64,
}

/// Calls `hold` with memory settings, all multiples of `step`, until it returns nearly `room`
/// entries; the first is `guess`.
///
/// # Errors
/// The first error of `hold`.
pub fn fit<E>(
    room: u64,
    guess: u64,
    step: u64,
    mut hold: impl FnMut(u64) -> Result<u64, E>,
) -> Result<Fitted, E> {
    let round = |memory: f64| ((memory / step as f64).round() as u64).max(1) * step;
    let distance = |fitted: &Fitted| fitted.entries.abs_diff(room);
    let mut memory_bytes = round(guess as f64);
    let mut trials: Vec<Fitted> = Vec::new();
    loop {
        trials.push(Fitted { memory_bytes, entries: hold(memory_bytes)? });
        let last = trials[trials.len() - 1];
        memory_bytes = round(next(room, &trials));
        let tried = trials.iter().any(|trial| trial.memory_bytes == memory_bytes);
        if tried || distance(&last) * NEAR <= room || trials.len() == TRIALS_MAX {
            return Ok(trials.into_iter().min_by_key(distance).unwrap_or(last));
        }
    }
}

/// Where the room may lie, after these trials.
fn next(room: u64, trials: &[Fitted]) -> f64 {
    let (few, many) = (
        trials.iter().filter(|trial| trial.entries <= room).max_by_key(|trial| trial.memory_bytes),
        trials.iter().filter(|trial| trial.entries > room).min_by_key(|trial| trial.memory_bytes),
    );
    let last = trials[trials.len() - 1];
    let (Some(few), Some(many)) = (few, many) else {
        // No further than tenfold: nothing at all says nothing about how much is missing.
        let memory = last.memory_bytes as f64;
        let proportional = memory * room as f64 / last.entries.max(1) as f64;
        return proportional.clamp(memory / 10.0, memory * 10.0);
    };
    let (low, high) = (few.memory_bytes as f64, many.memory_bytes as f64);
    let part = (room - few.entries) as f64 / (many.entries - few.entries) as f64;
    low + (high - low) * part
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(room: u64, guess: u64, step: u64, hold: impl Fn(u64) -> u64) -> Fitted {
        fit(room, guess, step, |memory| Ok::<u64, ()>(hold(memory))).expect("no error")
    }

    #[test]
    fn a_fixed_part_and_an_overhead_are_found() {
        let hold = |memory: u64| memory.saturating_sub(3_000_000) / 170;
        for guess in [1_000_000, 16_000_000, 400_000_000] {
            let found = fitted(100_000, guess, 1, hold);
            assert!(found.entries.abs_diff(100_000) <= 100, "{found:?}");
            assert_eq!(hold(found.memory_bytes), found.entries);
        }
    }

    #[test]
    fn nothing_and_all_on_both_sides_are_told_from_a_line() {
        let hold = |memory: u64| (memory.saturating_sub(2_500_000) / 170).min(20_000);
        let found = fitted(10_000, 1_700_000, 1, hold);
        assert!(found.entries.abs_diff(10_000) <= 10, "{found:?}");
    }

    #[test]
    fn whole_steps_are_kept_and_the_nearest_is_taken() {
        let step = 1 << 20;
        let found = fitted(100_000, 20 << 20, step, |memory| memory / 152);
        assert_eq!(found.memory_bytes % step, 0);
        assert!(found.entries.abs_diff(100_000) <= step / 152, "{found:?}");
    }

    #[test]
    fn a_server_that_counts_always_the_same_ends_it() {
        assert_eq!(fitted(1_000, 4_000, 1, |_| 7).entries, 7);
        let failed = fit(1_000, 4_000, 1, |_| Err::<u64, &str>("gone"));
        assert_eq!(failed, Err("gone"));
    }
}
