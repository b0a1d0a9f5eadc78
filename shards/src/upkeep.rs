//! What a log entry does to a store before its commands: time goes on, what is due or above the
//! limit goes, memory of flushed entries is handed back.
//!
//! How much of that one entry does is part of what it means, since all replicas must do the same.
//! It grows with the number of commands, so that removal keeps up with writing however full
//! entries are; and it is little where there are few, because entries of all shards of a core may
//! come in one of its turns, and somebody waits for each. An entry without commands is there for
//! nothing else, and does more.

use crate::store::{Opening, Store};

/// For so many commands another round is due, which removes as many entries.
const COMMANDS_PER_ROUND: usize = 64;
/// Rounds of an entry without commands.
const ROUNDS_WITHOUT_COMMANDS: usize = 8;

/// Begins an entry with so many commands.
pub fn begin_entry(store: &mut Store, opening: Opening<'_>, commands: usize) {
    let rounds = match commands {
        0 => ROUNDS_WITHOUT_COMMANDS,
        commands => 1 + commands / COMMANDS_PER_ROUND,
    };
    store.begin_entry(opening);
    for _ in 1..rounds {
        store.begin_entry(Opening::at(opening.stamp));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, Expiry, Operation, SetCondition};
    use crate::entry::ENTRY_COMMANDS_MAX;
    use crate::ids::{Eviction, Millis, Version};
    use crate::store::{Answer, EXPIRED_PER_ENTRY_MAX, StoreSettings};

    /// How many due keys an entry with so many commands removes.
    fn removed_by(commands: usize) -> u64 {
        let mut store = Store::new(StoreSettings {
            bytes_max: 1 << 30,
            value_bytes_max: 1 << 20,
            eviction: Eviction::Lru,
            touch_interval: Millis(0),
        });
        let operation = Operation::Set {
            value: b"",
            flags: 0,
            condition: SetCondition::Always,
            expiry: Expiry::At(Millis(10)),
            return_old: false,
        };
        for number in 0..10_000_u64 {
            let key = format!("due{number}");
            let command = Command { key: key.as_bytes(), operation };
            store.apply(Version(number + 1), &command, Answer::Unwanted);
        }
        begin_entry(&mut store, Opening::at(Millis(20)), commands);
        store.check();
        store.expired()
    }

    #[test]
    fn an_entry_removes_at_least_as_much_as_it_can_add_and_little_where_it_adds_little() {
        for commands in [1, 63, 64, 65, 500, ENTRY_COMMANDS_MAX] {
            let removed = removed_by(commands);
            assert!(removed >= commands as u64, "{commands} commands removed {removed}");
            assert!(removed <= (commands + EXPIRED_PER_ENTRY_MAX) as u64, "{removed}");
        }
        let alone = removed_by(0);
        assert_eq!(alone, (ROUNDS_WITHOUT_COMMANDS * EXPIRED_PER_ENTRY_MAX) as u64);
    }
}
