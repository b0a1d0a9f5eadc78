//! Seeded defects that take more than a condition: see `defect.rs`. Nothing here is ever called
//! without the feature `defects`.

use super::{Courier, Replica};
use crate::command::{Command, Expiry, Operation, SetCondition};
use crate::entry::EntryReader;
use crate::ids::{Index, Millis, Term, Version};
use crate::reply::Status;
use crate::store::{Outcome, ReadOutcome};

impl Replica {
    /// Answers plain writes that are proposed and not yet committed.
    pub(super) fn answer_proposed(&mut self, courier: &mut Courier<'_>) {
        let (shard, view) = (self.shard, self.view());
        let epoch = self.formation.as_ref().map_or(0, |formation| formation.epoch);
        let unstable = &self.raw.raft.raft_log.unstable.entries;
        for proposed in &mut self.proposed {
            let entry = unstable.iter().find(|entry| entry.index == proposed.index.0);
            let mut entry: Vec<_> = entry.cloned().into_iter().collect();
            self.log.lend(&mut entry);
            let data = entry.first().map(|entry| entry.data.clone()).unwrap_or_default();
            self.log.take_back(&mut entry);
            let Ok(reader) = EntryReader::new(&data) else { continue };
            for (ordinal, command) in reader.commands().enumerate() {
                let is_plain = matches!(
                    command.operation,
                    Operation::Set {
                        condition: SetCondition::Always,
                        expiry: Expiry::Never,
                        return_old: false,
                        ..
                    }
                );
                let Some(origin) = is_plain.then(|| proposed.waiting.take_at(ordinal)).flatten()
                else {
                    continue;
                };
                let get = Command { key: command.key, operation: Operation::Get { peek: false } };
                let found = self.store.read(&get, Millis(0));
                let was_there = matches!(found, ReadOutcome::Done(o) if o.status == Status::Ok);
                let outcome = Outcome {
                    status: Status::Ok,
                    flags: 0,
                    version: Version::new(epoch, proposed.index, ordinal),
                    number: u64::from(was_there),
                    expires_in: None,
                    expires_at: None,
                    value: None,
                };
                courier.deliver(shard, view, origin, &outcome);
            }
        }
    }

    /// Reports own entries from `first` on as not done, because entries of another term replace
    /// them here.
    pub(super) fn disown_truncated(&mut self, first: (Index, Term), courier: &mut Courier<'_>) {
        let is_replaced = |own: &super::Proposed| own.index >= first.0 && own.term != first.1;
        while self.proposed.back().is_some_and(is_replaced) {
            let Some(own) = self.proposed.pop_back() else { return };
            self.proposed_bytes -= own.bytes;
            self.fail_proposed(&own, Status::Superseded, Status::Superseded, courier);
        }
    }
}
