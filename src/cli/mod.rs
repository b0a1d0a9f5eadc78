//! The command line: `coracle serve | demo | shards | cores | limits | version`.
//!
//! Exit codes: 0 for success; 1 when what was asked for failed; 2 when it could not begin, for a
//! wrong flag, an impossible configuration or a port in use. Results go to the standard output,
//! everything else to the standard error output. A reader that goes away (`coracle shards | head`)
//! is no failure.

mod cores;
mod demo;
mod digest;
mod limits;
mod shards;
mod table;

use std::io;
use std::process::ExitCode;

use clap::{ArgMatches, Args as _, Command};

use crate::config::{Machine, NodeConfig, add_flags, cpus};
use crate::logging;
use crate::node::NodeError;

/// What was asked for failed.
const FAILED: u8 = 1;
/// What was asked for could not begin.
const NOT_BEGUN: u8 = 2;

/// Why a command ends without success.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not begin.
    #[error("{0}")]
    NotBegun(String),
    /// It failed.
    #[error("{0}")]
    Failed(String),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// The whole command line.
fn command() -> Command {
    let serve = Command::new("serve").about("Runs a node of a cluster").long_about(
        "Runs a node of a cluster. Each setting is a flag here, a key of the TOML file named by \
         --config (with underscores for dashes), and a variable of the environment; a flag beats \
         the variable, which beats the file.",
    );
    // The texts come after the flags, whose type would give its own.
    let demo = demo::DemoOptions::augment_args(Command::new("demo")).about(
        "Runs a cluster on this machine, puts load on it, and shows who leads what and how long \
         requests took",
    );
    let shards = shards::ShardsOptions::augment_args(Command::new("shards"))
        .about("Shows which node and core leads each shard, and moves leaderships");
    let cores = cores::CoresOptions::augment_args(Command::new("cores"))
        .about("Shows what the cores of a node do, and how long their turns take");
    let limits = limits::LimitsOptions::augment_args(Command::new("limits"))
        .about("Shows how much the nodes may hold, and changes it");
    Command::new("coracle")
        .about("A replicated in-memory cache that keeps every write it acknowledged")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(add_flags(serve))
        .subcommand(demo)
        .subcommand(shards)
        .subcommand(cores)
        .subcommand(limits)
        .subcommand(Command::new("version").about("Prints the version"))
}

/// Runs the command line of this process. `serve` runs a node until it was told to stop.
pub fn run(serve: impl FnOnce(NodeConfig) -> Result<(), NodeError>) -> ExitCode {
    let matches = command().get_matches();
    match dispatch(&matches, serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(CommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("coracle: {error}");
            match error {
                CommandError::NotBegun(_) => ExitCode::from(NOT_BEGUN),
                CommandError::Failed(_) | CommandError::Output(_) => ExitCode::from(FAILED),
            }
        }
    }
}

fn dispatch(
    matches: &ArgMatches,
    serve: impl FnOnce(NodeConfig) -> Result<(), NodeError>,
) -> Result<(), CommandError> {
    match matches.subcommand() {
        Some(("serve", matches)) => {
            let environment = std::env::vars_os().map(|(key, value)| (lossy(&key), lossy(&value)));
            let machine = Machine { cpus: cpus::available() };
            let config = NodeConfig::load(matches, environment, &machine)
                .map_err(|error| CommandError::NotBegun(error.to_string()))?;
            logging::init(&config.log, config.log_format);
            serve(config).map_err(|error| match error {
                NodeError::Core { .. } => CommandError::Failed(error.to_string()),
                NodeError::Startup(_) | NodeError::Control(_) => {
                    CommandError::NotBegun(error.to_string())
                }
            })
        }
        Some(("demo", matches)) => demo::run(&options(matches)?),
        Some(("shards", matches)) => shards::run(options(matches)?),
        Some(("cores", matches)) => cores::run(&options(matches)?),
        Some(("limits", matches)) => limits::run(options(matches)?),
        Some(("version", _)) => {
            use std::io::Write as _;
            writeln!(io::stdout(), "coracle {}", env!("CARGO_PKG_VERSION"))?;
            Ok(())
        }
        _ => Err(CommandError::NotBegun("there is no such command".into())),
    }
}

fn lossy(text: &std::ffi::OsStr) -> String {
    text.to_string_lossy().into_owned()
}

fn options<T: clap::FromArgMatches>(matches: &ArgMatches) -> Result<T, CommandError> {
    T::from_arg_matches(matches).map_err(|error| CommandError::NotBegun(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_command_has_a_complete_help_text() {
        for sub in command().get_subcommands_mut() {
            let help = sub.render_long_help().to_string();
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
            for arg in sub.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", sub.get_name(), arg.get_id());
                let long = arg.get_long().expect("a flag, or else its value name");
                assert!(help.contains(long), "{} lacks {long}", sub.get_name());
            }
        }
    }
}
