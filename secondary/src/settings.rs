//! How a secondary was started.

use clap::{Parser, Subcommand};
use common::setting_table;
use common::settings::{EXAMPLE, MAX_TIMEOUT_MS, NodeArgs, NodeSettings};
use common::wire::{BATCH_BYTES, CALL_OVERHEAD_BYTES};

/// A secondary of the replicated log: holds a copy of the master's log and acknowledges it
#[derive(Debug, Parser)]
#[command(name = "secondary", version, about, long_about = None, after_help = EXAMPLE)]
pub struct Cli {
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    own: Args,
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

setting_table! {
    /// Settings of a secondary alone.
    Settings from Args();
    /// Sleep this long in each call before storing, in milliseconds: makes the blocking visible
    /// [default: 0]
    delay_ms: u64, "MS" => number(0, 0..=MAX_TIMEOUT_MS);
    /// 1 lets PUT /chaos change the delay and inject errors at run time: for teaching and tests
    /// [default: 0]
    chaos: u8, "0|1" => number(0, 0..=1);
    /// 1 takes POST /replicate in the original's form also where a master of this release has been
    /// heard: for clusters with masters of both kinds [default: 0]
    accept_original: u8, "0|1" => number(0, 0..=1);
}

impl Cli {
    /// The checked settings. Fails with everything that is wrong, each in words.
    pub fn check(&self) -> Result<(NodeSettings, Settings), Vec<String>> {
        let mut problems = Vec::new();
        let mut node = self.node.check(8001, &mut problems);
        // A call carries a batch, or one message that may be as long as the master allows.
        node.max_message_bytes = node.max_message_bytes.max(BATCH_BYTES) + CALL_OVERHEAD_BYTES;
        let own = self.own.check(&mut problems);
        if problems.is_empty() { Ok((node, own)) } else { Err(problems) }
    }
}
