//! How a secondary was started.

use std::time::Duration;

use clap::{Parser, Subcommand};
use common::settings::{EXAMPLE, NodeArgs, NodeSettings, Problems};
use common::wire::{BATCH_BYTES, CALL_OVERHEAD_BYTES};

/// A secondary of the replicated log: holds a copy of the master's log and acknowledges it
#[derive(Debug, Parser)]
#[command(name = "secondary", version, about, long_about = None, after_help = EXAMPLE)]
pub struct Cli {
    /// What every node can be told.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Sleep this long in each call before storing, in milliseconds: makes the blocking visible
    /// [default: 0]
    #[arg(long, env, value_name = "MS")]
    delay_ms: Option<String>,
    /// 1 lets PUT /chaos change the delay and inject errors at run time: for teaching and tests
    /// [default: 0]
    #[arg(long, env, value_name = "0|1")]
    chaos: Option<String>,
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask the secondary on this machine whether it is well; exit code 0 if so
    Healthcheck,
}

/// A secondary's settings, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What every node has.
    pub node: NodeSettings,
    /// The artificial delay of each call.
    pub delay: Duration,
    /// `PUT /chaos` is there.
    pub chaos: bool,
}

impl Cli {
    /// The checked settings.
    ///
    /// # Errors
    /// Everything that is wrong, one a line.
    pub fn check(&self) -> Result<Settings, String> {
        let mut problems = Problems::default();
        let mut node = self.node.check(8001, &mut problems);
        // A call carries a batch, or one message that may be as long as the master allows.
        let longest_call = node.limits.max_body_bytes.max(BATCH_BYTES) + CALL_OVERHEAD_BYTES;
        node.limits.max_body_bytes = longest_call;
        let delay = problems.milliseconds("DELAY_MS", &self.delay_ms, 0, 0);
        let chaos = problems.number("CHAOS", &self.chaos, 0, 0..=1) == 1;
        problems.none()?;
        Ok(Settings { node, delay, chaos })
    }
}
