//! Replaces keys, reads those on the shelf, and judges them.
//!
//! A replaced key is read now and then for a while before it is judged, so that the loss of a
//! write is seen although nobody works on the key any more. Some stay on the shelf to the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use history::Outcome;
use history::register::{Input, Status, Value};

use crate::clients::{Directory, seen};
use crate::cluster::{ANY_CORE_PORT, pause};
use crate::connection::{Answer, Connection, Protocol};
use crate::keys::{Key, Settled};
use crate::random::Random;
use crate::record::Record;

/// How long a key stands in its place at most.
const PLACE_TIME: Duration = Duration::from_secs(5);
/// How long most keys rest on the shelf,
const SHELF_TIME: Duration = Duration::from_secs(60);
/// and how many of a hundred stay there to the end.
const STAY_PERCENT: u64 = 5;
/// Time between two reads of keys on the shelf.
const READ_PERIOD: Duration = Duration::from_millis(25);
/// How long the last read of everything may take.
const FINAL_DEADLINE: Duration = Duration::from_secs(60);

struct Shelved {
    key: Arc<Key>,
    /// When it is judged; never before the end if `None`.
    due: Option<Instant>,
}

/// What the keeper has found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Keys that were judged.
    pub keys: usize,
    /// Operations in their histories.
    pub operations: usize,
    /// Those of unknown outcome.
    pub unknown: usize,
    /// Keys whose value was compared once more at the end.
    pub settled: usize,
    /// Time spent on judging.
    pub judging: Duration,
}

/// The keeper of the keys.
pub struct Keeper {
    record: Arc<Record>,
    directory: Directory,
    random: Random,
    shelf: Vec<Shelved>,
    settled: Vec<(String, Option<Value>)>,
    /// What it found so far.
    pub findings: Findings,
    connections: Vec<Option<Connection>>,
}

impl Keeper {
    /// Begins with empty shelves.
    pub fn new(record: Arc<Record>, directory: Directory, nodes: u16, seed: u64) -> Self {
        Keeper {
            record,
            directory,
            random: Random::stream(seed, "keeper"),
            shelf: Vec::new(),
            settled: Vec::new(),
            findings: Findings::default(),
            connections: (0..nodes).map(|_| None).collect(),
        }
    }

    /// Keeps until the clients are told to stop.
    pub fn run(&mut self) {
        let places = self.record.ring.count();
        let mut next_place = 0;
        let mut next_replacement = Instant::now() + PLACE_TIME;
        while !self.record.is_stopped() {
            pause(READ_PERIOD);
            if Instant::now() >= next_replacement {
                // One place after the other, so that the checker's work is spread.
                next_replacement += PLACE_TIME / places as u32;
                let replaced = self.record.ring.replace(next_place, None);
                replaced.into_iter().for_each(|key| self.shelve(key));
                next_place = (next_place + 1) % places;
            }
            for key in self.record.take_replaced() {
                self.shelve(key);
            }
            self.read_one();
            self.judge_due();
        }
    }

    fn shelve(&mut self, key: Arc<Key>) {
        let stays = self.random.chance(STAY_PERCENT);
        let due = (!stays).then(|| Instant::now() + SHELF_TIME);
        self.shelf.push(Shelved { key, due });
    }

    /// Reads any key on the shelf, from any node.
    fn read_one(&mut self) {
        if self.shelf.is_empty() {
            return;
        }
        let place = self.random.below(self.shelf.len() as u64) as usize;
        let node = self.random.below(self.connections.len() as u64) as u16 + 1;
        let key = self.shelf[place].key.clone();
        let _ = self.read(&key, node);
    }

    fn read(&mut self, key: &Key, node: u16) -> Option<()> {
        let called = self.record.now();
        let output = match self.ask(&key.name, node)? {
            Answer::Done(output) => output,
            _ => return None,
        };
        let at = self.record.now();
        self.record.acknowledge(key.shard, called, at, None);
        key.record(seen(Input::Get, called, Outcome::Returned { at, output }));
        Some(())
    }

    /// Asks a node for a value. Connections of which an answer may still come are given up.
    fn ask(&mut self, name: &str, node: u16) -> Option<Answer> {
        let slot = &mut self.connections[usize::from(node) - 1];
        if slot.is_none() {
            let address = self.directory.socket(node, ANY_CORE_PORT);
            *slot = Connection::open(Protocol::Resp, address).ok();
        }
        let answer = slot.as_mut()?.ask(name, &Input::Get);
        match &answer {
            Answer::Done(_) | Answer::NotDone(_) => {}
            Answer::Unexpected(text) => self.record.fail(format!("the keeper: {text}")),
            _ => *slot = None,
        }
        Some(answer)
    }

    fn judge_due(&mut self) {
        let now = Instant::now();
        let is_due = |shelved: &Shelved| {
            shelved.due.is_some_and(|due| due <= now) && Arc::strong_count(&shelved.key) == 1
        };
        let Some(place) = self.shelf.iter().position(is_due) else { return };
        let node = self.random.below(self.connections.len() as u64) as u16 + 1;
        let key = self.shelf[place].key.clone();
        // The judgement is about a last read as well; where none can be had it waits for one.
        if self.read(&key, node).is_some() {
            self.shelf.swap_remove(place);
            self.judge(&key);
        }
    }

    fn judge(&mut self, key: &Key) {
        let began = Instant::now();
        let (operations, unknown) = key.counts();
        self.findings.keys += 1;
        self.findings.operations += operations;
        self.findings.unknown += unknown;
        match key.judge() {
            Ok(Settled::Known(value)) => self.settled.push((key.name.clone(), value)),
            Ok(Settled::Uncertain) => {}
            Err(text) => self.record.fail(text),
        }
        self.findings.judging += began.elapsed();
    }

    /// After the clients have ended and all nodes serve: reads every key on every node, and judges
    /// everything that is left.
    pub fn finish(&mut self) {
        for place in 0..self.record.ring.count() {
            let replaced = self.record.ring.replace(place, None);
            replaced.into_iter().for_each(|key| self.shelve(key));
        }
        for key in self.record.take_replaced() {
            self.shelve(key);
        }
        let deadline = Instant::now() + FINAL_DEADLINE;
        let left: Vec<_> = std::mem::take(&mut self.shelf);
        for shelved in &left {
            for node in 1..=self.connections.len() as u16 {
                while self.read(&shelved.key, node).is_none() {
                    if Instant::now() > deadline {
                        self.record.fail(format!("{} cannot be read at the end", shelved.key.name));
                        return;
                    }
                    pause(READ_PERIOD);
                }
            }
        }
        for shelved in left {
            self.judge(&shelved.key);
        }
        let settled = std::mem::take(&mut self.settled);
        for (place, (name, expected)) in settled.iter().enumerate() {
            let node = place as u16 % self.connections.len() as u16 + 1;
            self.compare(name, expected.as_ref(), node, deadline);
        }
        self.findings.settled = settled.len();
    }

    /// Compares a value that nobody has written since.
    fn compare(&mut self, name: &str, expected: Option<&Value>, node: u16, deadline: Instant) {
        loop {
            if let Some(Answer::Done(output)) = self.ask(name, node) {
                let found = output.value.filter(|_| output.status == Status::Ok);
                if found.as_ref() != expected {
                    self.record.fail(format!(
                        "{name} was judged to hold {expected:?} for good, and holds {found:?}"
                    ));
                }
                return;
            }
            if Instant::now() > deadline {
                self.record.fail(format!("{name} cannot be read at the end"));
                return;
            }
            pause(READ_PERIOD);
        }
    }
}
