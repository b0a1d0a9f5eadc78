//! What happens during a run besides the load: a process is killed, a command is run.
//!
//! One thread waits for the times and does it, so that no request waits for it. Each event is
//! reported with the time at which it really happened. A command that has not ended with the run
//! goes on; the report says so.

use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units;
use crate::worker::{Clock, Times};

/// Most events of a run.
pub const EVENTS_MAX: usize = 64;
/// How often a waiting thread looks whether the run has ended.
const LOOK_AROUND: Duration = Duration::from_millis(20);

/// What is to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A process gets SIGKILL.
    Kill(i32),
    /// A shell runs a command.
    Run(String),
}

/// Something that is to happen at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// When, from the start of the measured part.
    pub at: Duration,
    /// What.
    pub action: Action,
}

/// TIME:PID, as a flag says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KillPlan(pub Plan);

/// TIME:COMMAND, as a flag says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkPlan(pub Plan);

fn split(text: &str) -> Result<(Duration, &str), String> {
    let (at, rest) = text.split_once(':').ok_or_else(|| format!("`{text}` has no `TIME:`"))?;
    Ok((units::duration(at)?, rest))
}

impl FromStr for KillPlan {
    type Err = String;

    fn from_str(text: &str) -> Result<KillPlan, String> {
        let (at, pid) = split(text)?;
        // Zero and negative numbers name groups of processes, and 1 is never meant.
        let pid = pid.parse::<i32>().ok().filter(|pid| *pid > 1);
        let pid = pid.ok_or_else(|| format!("`{text}` names no process"))?;
        Ok(KillPlan(Plan { at, action: Action::Kill(pid) }))
    }
}

impl FromStr for MarkPlan {
    type Err = String;

    fn from_str(text: &str) -> Result<MarkPlan, String> {
        let (at, command) = split(text)?;
        if command.trim().is_empty() {
            return Err(format!("`{text}` has no command"));
        }
        Ok(MarkPlan(Plan { at, action: Action::Run(command.into()) }))
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, in seconds from the start of the load.
    pub at_s: f64,
    /// What.
    pub what: String,
    /// What came of it.
    pub outcome: String,
}

/// Waits for each plan's time and does it, until all is done or the run has ended.
pub(crate) fn happen(
    mut plans: Vec<Plan>,
    clock: Clock,
    times: Times,
    ended: &AtomicBool,
) -> Vec<Event> {
    plans.sort_by_key(|plan| plan.at);
    let mut events = Vec::new();
    let mut children: Vec<(usize, Child)> = Vec::new();
    for plan in plans {
        let due_ns = times.measure_ns.saturating_add(plan.at.as_nanos() as u64);
        while clock.now_ns() < due_ns && !ended.load(Ordering::Relaxed) {
            let left = Duration::from_nanos(due_ns.saturating_sub(clock.now_ns()));
            std::thread::sleep(left.min(LOOK_AROUND));
        }
        let in_time = clock.now_ns() >= due_ns;
        let at_ns = clock.now_ns().saturating_sub(times.start_ns);
        let (what, outcome) = match plan.action {
            Action::Kill(pid) => (format!("kill -9 {pid}"), in_time.then(|| kill(pid))),
            Action::Run(command) => {
                let outcome = in_time.then(|| match spawn(&command) {
                    Ok(child) => {
                        children.push((events.len(), child));
                        "started".to_owned()
                    }
                    Err(error) => format!("failed: {error}"),
                });
                (command, outcome)
            }
        };
        let outcome = outcome.unwrap_or_else(|| "not done: the run ended before".into());
        events.push(Event { at_s: at_ns as f64 / 1e9, what, outcome });
    }
    while !ended.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK_AROUND);
    }
    for (number, mut child) in children {
        let outcome = match child.try_wait() {
            Ok(Some(status)) => status.to_string(),
            Ok(None) => "still running at the end".into(),
            Err(error) => format!("lost: {error}"),
        };
        if let Some(event) = events.get_mut(number) {
            event.outcome = outcome;
        }
    }
    events
}

fn kill(pid: i32) -> String {
    // SAFETY: the call takes no pointer; the process is one that the user named.
    match unsafe { libc::kill(pid, libc::SIGKILL) } {
        0 => "killed".into(),
        _ => format!("failed: {}", std::io::Error::last_os_error()),
    }
}

/// Starts a command. What it says goes where warnings go, since a report may be on the output.
fn spawn(command: &str) -> std::io::Result<Child> {
    Command::new("sh").args(["-c", command]).stdin(Stdio::null()).stdout(std::io::stderr()).spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_parsed_and_mistakes_refused() {
        let at = Duration::from_secs(5);
        assert_eq!("5s:42".parse(), Ok(KillPlan(Plan { at, action: Action::Kill(42) })));
        let action = Action::Run("echo a:b".into());
        assert_eq!("5s:echo a:b".parse(), Ok(MarkPlan(Plan { at, action })));
        for wrong in ["", "5s", "5s:", "5s:0", "5s:1", "5s:-7", "5s:x", "5sec:7"] {
            assert!(wrong.parse::<KillPlan>().is_err(), "{wrong}");
        }
        for wrong in ["", "5s", "5s: ", "x:true"] {
            assert!(wrong.parse::<MarkPlan>().is_err(), "{wrong}");
        }
    }
}
