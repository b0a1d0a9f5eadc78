//! `coracle shards digest`: do the replicas of each shard hold the same?
//!
//! A replica's state is a function of its log, so two replicas must have equal digests at equal
//! applied positions, whenever each was asked. The nodes are asked several times; what each said
//! at which position is kept, and a shard is judged at any position that all of its replicas were
//! seen at. Under heavy writes no such position may turn up; that is said, not guessed.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::time::Duration;

use super::CommandError;
use super::shards::Node;
use super::table::{Side, Table};
use crate::control::view::{ReplicaState, ReplicasView, RoleView};

/// How often the nodes are asked at most.
const LOOKS_MAX: usize = 25;
/// Time between two looks.
const LOOK_PERIOD: Duration = Duration::from_millis(200);

/// What is known of one shard.
#[derive(Debug, Default)]
struct Comparison {
    /// The nodes whose replicas take part, by the last look.
    nodes: Vec<u16>,
    /// Digests by position and node.
    seen: BTreeMap<u64, BTreeMap<u16, String>>,
}

/// What came of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// All replicas hold the same at this position.
    Same(u64, String),
    /// They do not.
    Different(u64),
    /// They were not seen at one position.
    Unseen,
}

impl Comparison {
    fn add(&mut self, replica: &ReplicaState) {
        let digests = self.seen.entry(replica.applied).or_default();
        digests.insert(replica.node, replica.digest.clone());
    }

    fn verdict(&self) -> Verdict {
        // A difference between any two counts, even where a third was not seen.
        for (applied, digests) in &self.seen {
            let mut values = digests.values();
            let first = values.next();
            if values.any(|digest| Some(digest) != first) {
                return Verdict::Different(*applied);
            }
        }
        let complete = self.seen.iter().rev().find(|(_, digests)| {
            !self.nodes.is_empty() && self.nodes.iter().all(|node| digests.contains_key(node))
        });
        match complete.and_then(|(applied, digests)| Some((applied, digests.values().next()?))) {
            Some((applied, digest)) => Verdict::Same(*applied, digest.clone()),
            None => Verdict::Unseen,
        }
    }
}

/// Compares, prints, and fails unless all replicas that were reached agree.
pub fn run(node: &Node) -> Result<(), CommandError> {
    let mut shards: BTreeMap<u16, Comparison> = BTreeMap::new();
    let mut unanswered = Vec::new();
    for look in 0..LOOKS_MAX {
        if look > 0 {
            std::thread::sleep(LOOK_PERIOD);
        }
        let view: ReplicasView = node.get("/v1/replicas")?;
        take(&mut shards, &view);
        unanswered = view.unanswered;
        if shards.values().all(|shard| shard.verdict() != Verdict::Unseen) {
            break;
        }
    }
    let (table, problems) = judge(&shards);
    io::stdout().write_all(table.as_bytes())?;
    if !unanswered.is_empty() {
        let nodes: Vec<String> = unanswered.iter().map(u16::to_string).collect();
        eprintln!("coracle: no answer from the nodes {}", nodes.join(", "));
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(CommandError::Failed(problems.join("; "))),
    }
}

fn take(shards: &mut BTreeMap<u16, Comparison>, view: &ReplicasView) {
    for comparison in shards.values_mut() {
        comparison.nodes.clear();
    }
    for replica in &view.replicas {
        let comparison = shards.entry(replica.shard).or_default();
        // The others hold nothing, or what they hold no longer follows the log.
        if !matches!(replica.role, RoleView::Outside | RoleView::Stopped) {
            comparison.nodes.push(replica.node);
            comparison.add(replica);
        }
    }
}

fn judge(shards: &BTreeMap<u16, Comparison>) -> (String, Vec<String>) {
    let mut table = Table::new(&[
        ("SHARD", Side::Right),
        ("APPLIED", Side::Right),
        ("DIGEST", Side::Left),
        ("NODES", Side::Left),
        ("VERDICT", Side::Left),
    ]);
    let (mut different, mut unseen) = (Vec::new(), Vec::new());
    for (shard, comparison) in shards {
        let nodes: Vec<String> = comparison.nodes.iter().map(u16::to_string).collect();
        let (applied, digest, verdict) = match comparison.verdict() {
            Verdict::Same(applied, digest) => (applied.to_string(), digest, "same"),
            Verdict::Different(applied) => {
                different.push(shard.to_string());
                (applied.to_string(), String::new(), "DIFFERENT")
            }
            Verdict::Unseen => {
                unseen.push(shard.to_string());
                (String::new(), String::new(), "not seen at one position")
            }
        };
        let verdict = verdict.to_owned();
        table.row(vec![shard.to_string(), applied, digest, nodes.join(","), verdict]);
    }
    let mut problems = Vec::new();
    if !different.is_empty() {
        problems.push(format!("replicas differ on the shards {}", different.join(", ")));
    }
    if !unseen.is_empty() {
        let shards = unseen.join(", ");
        problems.push(format!("not compared, for want of a calm moment: the shards {shards}"));
    }
    (table.render(), problems)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::view::HealthView;

    fn replica(node: u16, applied: u64, digest: &str, role: RoleView) -> ReplicaState {
        ReplicaState {
            shard: 0,
            node,
            core: 0,
            role,
            health: HealthView::Sound,
            term: 1,
            commit: applied,
            applied,
            digest: digest.to_owned(),
            keys: 0,
            bytes: 0,
            bytes_max: 0,
        }
    }

    fn verdict(looks: &[&[ReplicaState]]) -> Verdict {
        let mut shards = BTreeMap::new();
        for look in looks {
            take(&mut shards, &ReplicasView { replicas: look.to_vec(), unanswered: vec![] });
        }
        shards[&0].verdict()
    }

    #[test]
    fn replicas_are_compared_at_equal_positions_of_any_look() {
        use RoleView::{Follower, Leader, Outside};
        let (a, b, c) = (
            replica(1, 5, "x", Leader),
            replica(2, 5, "x", Follower),
            replica(3, 5, "x", Follower),
        );
        let same = Verdict::Same(5, "x".into());
        assert_eq!(verdict(&[&[a.clone(), b.clone(), c.clone()]]), same);
        let late = replica(3, 4, "w", Follower);
        assert_eq!(verdict(&[&[a.clone(), b.clone(), late.clone()]]), Verdict::Unseen);
        let ahead = replica(1, 6, "y", Leader);
        assert_eq!(
            verdict(&[&[a.clone(), b.clone(), late.clone()], &[ahead, b.clone(), c.clone()]]),
            same
        );
        let odd = replica(2, 5, "z", Follower);
        assert_eq!(verdict(&[&[a.clone(), odd, late]]), Verdict::Different(5));
        let outside = replica(3, 0, "", Outside);
        assert_eq!(verdict(&[&[a, b, outside]]), same);
    }

    #[test]
    fn a_difference_is_a_failure_that_names_the_shard() {
        let mut shards = BTreeMap::new();
        let replicas =
            vec![replica(1, 5, "x", RoleView::Leader), replica(2, 5, "y", RoleView::Follower)];
        take(&mut shards, &ReplicasView { replicas, unanswered: vec![] });
        let (table, problems) = judge(&shards);
        assert!(table.contains("DIFFERENT"), "{table}");
        assert_eq!(problems, vec!["replicas differ on the shards 0".to_owned()]);
    }
}
