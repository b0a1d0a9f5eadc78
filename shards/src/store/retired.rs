//! Memory of entries that are no more, given back little by little.
//!
//! A flush, and the state that comes with a snapshot, make a whole store superfluous at once. To
//! free it takes as long as it is large; so it is put aside here, and some of it is freed at the
//! start of each log entry and at each tick: the more, the more flushes wait.

use std::collections::VecDeque;

use super::entries::Entries;
use super::expiry::ExpiryIndex;
use super::table::Table;

/// Pages of entries, blocks and parts of tables that are freed at once for each flush that waits: a
/// megabyte of small entries.
const FREED_AT_ONCE: usize = 64;

/// What waits to be freed. It grows with each flush by what the flush removed, and shrinks the
/// faster the more there is.
#[derive(Debug, Default)]
pub(super) struct Retired {
    entries: VecDeque<Entries>,
    tables: VecDeque<Table>,
    indexes: VecDeque<ExpiryIndex>,
}

impl Retired {
    /// Puts memory aside.
    pub fn add(
        &mut self,
        entries: Option<Entries>,
        table: Option<Table>,
        index: Option<ExpiryIndex>,
    ) {
        self.entries.extend(entries);
        self.tables.extend(table);
        self.indexes.extend(index);
    }

    /// Takes what another one has put aside.
    pub fn append(&mut self, other: Retired) {
        self.entries.extend(other.entries);
        self.tables.extend(other.tables);
        self.indexes.extend(other.indexes);
    }

    /// How many flushes have left something that is not freed yet. A table takes longer than the
    /// few entries that may have been in it.
    pub fn waiting(&self) -> usize {
        self.entries.len().max(self.tables.len()).max(self.indexes.len())
    }

    /// Whether there is nothing to be freed.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.waiting() == 0
    }

    /// Frees some.
    pub fn free_some(&mut self) {
        let mut budget = FREED_AT_ONCE * self.waiting();
        while let Some(entries) = self.entries.front_mut().filter(|_| budget > 0) {
            let freed = entries.tear_down(budget);
            budget = budget.saturating_sub(freed);
            if freed == 0 {
                self.entries.pop_front();
            }
        }
        while let Some(table) = self.tables.front_mut().filter(|_| budget > 0) {
            let freed = table.tear_down(budget);
            budget = budget.saturating_sub(freed);
            if freed == 0 {
                self.tables.pop_front();
            }
        }
        while let Some(index) = self.indexes.front_mut().filter(|_| budget > 0) {
            let freed = index.tear_down(budget);
            budget = budget.saturating_sub(freed);
            if freed == 0 {
                self.indexes.pop_front();
            }
        }
    }
}
