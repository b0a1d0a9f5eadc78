//! How touches get from the readers of a replica into the log.
//!
//! The leader adds them to the entries that it proposes anyway. Where no command comes along and
//! the store is nearly full, so that the next ones will evict, they get an entry of their own.
//! Followers send theirs to the leader once per tick. All of it is bounded: touches are worth less
//! than what they could delay.

use super::Replica;
use crate::contract::Lane;
use crate::engine::Courier;
use crate::entry::ENTRY_TOUCHES_MAX;

/// Touches that a replica proposes, or sends to its leader, within a tick, at most: ten thousand
/// per second and shard with ticks of 50 ms.
pub(super) const TOUCHES_PER_TICK: usize = 512;
/// Ticks for which touches wait for a command that takes them along (400 ms).
const TOUCH_TICKS_MAX: u32 = 8;

impl Replica {
    /// The touches that go with the next entry, encoded.
    pub(super) fn touches_to_propose(&mut self) -> Vec<u8> {
        let mut touches = Vec::new();
        let count_max = self.touch_allowance.min(ENTRY_TOUCHES_MAX);
        self.touch_allowance -= self.store.take_touches(count_max, &mut touches);
        self.touch_ticks = 0;
        touches
    }

    /// Takes what readers of a follower have used.
    pub fn receive_touches(&mut self, touches: &[u8]) {
        if self.leads() {
            self.store.add_touches(touches);
        }
    }

    /// Counts a tick.
    pub(super) fn tick_touches(&mut self, courier: &mut Courier<'_>) {
        self.touch_allowance = TOUCHES_PER_TICK;
        let waiting = self.store.touches_waiting();
        if waiting == 0 {
            self.touch_ticks = 0;
            return;
        }
        if self.leads() {
            self.touch_ticks = self.touch_ticks.saturating_add(1);
            let is_time = self.touch_ticks >= TOUCH_TICKS_MAX || waiting >= ENTRY_TOUCHES_MAX;
            self.stamp_wanted |= is_time && self.store.is_nearly_full();
        } else if let Some(leader) = self.follows() {
            let to = courier.outbox.home(self.shard, leader);
            if let Some(frame) = courier.outbox.frame(to, Lane::Turn) {
                let store = &mut self.store;
                frame.touches(self.shard, |out| {
                    store.take_touches(TOUCHES_PER_TICK, out);
                });
            }
        }
    }
}
