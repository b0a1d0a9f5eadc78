//! `coracle limits`: what the nodes may hold and what they evict first; and `set`, which changes
//! either for all of them.

use std::io::{self, Write as _};

use clap::{Args, Subcommand};

use super::CommandError;
use super::shards::Whom;
use super::table::{bytes, grouped};
use crate::config::size;
use crate::control::view::{LimitsView, LimitsWish};

/// The flags of `coracle limits`.
#[derive(Clone, Debug, Args)]
pub struct LimitsOptions {
    #[command(flatten)]
    whom: Whom,
    /// What to do instead of showing the limit
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// Changes what each node may hold, or what it evicts first, on all nodes at once
    ///
    /// It becomes part of the data: it holds after restarts, whatever the configuration says. What
    /// exceeds a lower limit is evicted little by little.
    #[command(arg_required_else_help = true)]
    Set {
        /// Accounted bytes of keys and values on a node, as in 8GiB
        #[arg(long, value_name = "SIZE", value_parser = size)]
        memory: Option<u64>,
        /// Which keys go first
        #[arg(long, value_name = "POLICY", value_parser = ["lru", "sieve"])]
        eviction: Option<String>,
    },
}

/// Runs the command.
pub fn run(options: LimitsOptions) -> Result<(), CommandError> {
    let node = options.whom.resolve()?;
    let view: LimitsView = match options.action {
        None => node.get("/v1/limits")?,
        Some(Action::Set { memory: memory_bytes, eviction }) => {
            let document = serde_json::to_string(&LimitsWish { memory_bytes, eviction });
            let document = document.map_err(|error| CommandError::Failed(error.to_string()))?;
            node.post("/v1/limits", &document)?
        }
    };
    let (used, limit) = (bytes(view.used_bytes), bytes(view.memory_bytes));
    let (evicted, eviction) = (grouped(view.evicted), view.eviction);
    writeln!(
        io::stdout(),
        "{used} of {limit} are in use on this node; {evicted} keys evicted by {eviction}"
    )?;
    Ok(())
}
