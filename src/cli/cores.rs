//! `coracle cores`: what the cores of one node do, and how long their turns take.

use std::io::{self, Write as _};

use clap::Args;

use super::CommandError;
use super::shards::Whom;
use super::table::{Side, Table, grouped};
use crate::control::view::CoresView;

/// The flags of `coracle cores`.
#[derive(Clone, Debug, Args)]
pub struct CoresOptions {
    #[command(flatten)]
    whom: Whom,
}

/// Runs the command.
pub fn run(options: &CoresOptions) -> Result<(), CommandError> {
    let view: CoresView = options.whom.resolve()?.get("/v1/cores")?;
    write!(io::stdout(), "{}", table(&view).render())?;
    for core in view.unanswered {
        writeln!(io::stdout(), "core {core} does not answer")?;
    }
    Ok(())
}

fn table(view: &CoresView) -> Table {
    let mut table = Table::new(&[
        ("CORE", Side::Right),
        ("CONNECTIONS", Side::Right),
        ("COMMANDS", Side::Right),
        ("REPLICAS", Side::Right),
        ("LEADERS", Side::Right),
        ("TURNS", Side::Right),
        ("P50 MS", Side::Right),
        ("P99 MS", Side::Right),
        ("P99.9 MS", Side::Right),
        ("MAX MS", Side::Right),
        ("LATELY MS", Side::Right),
    ]);
    for core in &view.cores {
        table.row(vec![
            core.core.to_string(),
            grouped(core.connections),
            grouped(core.commands),
            core.replicas.to_string(),
            core.leaders.to_string(),
            grouped(core.turns),
            milliseconds(core.turn_p50_us),
            milliseconds(core.turn_p99_us),
            milliseconds(core.turn_p999_us),
            milliseconds(core.turn_max_us),
            milliseconds(core.turn_worst_us),
        ]);
    }
    table
}

fn milliseconds(microseconds: u64) -> String {
    format!("{}.{:03}", microseconds / 1_000, microseconds % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::view::CoreView;

    #[test]
    fn a_row_tells_how_long_turns_took() {
        let core = CoreView { core: 3, turns: 1_000, turn_max_us: 4_321, ..CoreView::default() };
        let text = table(&CoresView { cores: vec![core], unanswered: vec![] }).render();
        let row: Vec<&str> = text.lines().last().unwrap_or_default().split_whitespace().collect();
        assert_eq!((row[0], row[5], row[9]), ("3", "1,000", "4.321"));
    }
}
