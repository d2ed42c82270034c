//! How the master was started.

use std::time::Duration;

use clap::{Parser, Subcommand};
use common::settings::{NodeArgs, NodeSettings, Problems, base_urls, given};

/// The master of the replicated log: orders messages and replicates them to every secondary
#[derive(Debug, Parser)]
#[command(name = "master", version, about, long_about = None)]
pub struct Cli {
    /// What every node can be told.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Base URLs of the secondaries, separated by commas: http://host:port,… [default: none]
    #[arg(long, env, value_name = "URLS")]
    secondaries: Option<String>,
    /// How long a call to a secondary, and a write, may take, in milliseconds [default: 30000]
    #[arg(long, env, value_name = "MS")]
    ack_timeout_ms: Option<String>,
    /// How often each secondary is asked how it stands, in milliseconds [default: 500]
    #[arg(long, env, value_name = "MS")]
    heartbeat_ms: Option<String>,
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask the master on this machine whether it is well; exit code 0 if so
    Healthcheck,
}

/// A master's settings, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What every node has.
    pub node: NodeSettings,
    /// Base URLs of the secondaries, without a slash at the end.
    pub secondaries: Vec<String>,
    /// Bounds every call to a secondary, and every write.
    pub ack_timeout: Duration,
    /// Between two questions to a secondary.
    pub heartbeat: Duration,
}

impl Cli {
    /// The checked settings.
    ///
    /// # Errors
    /// Everything that is wrong, one a line.
    pub fn check(&self) -> Result<Settings, String> {
        let mut problems = Problems::default();
        let node = self.node.check(8000, &mut problems);
        let secondaries = given(&self.secondaries).unwrap_or("");
        let secondaries = base_urls("SECONDARIES", secondaries, &mut problems);
        let ack_timeout = problems.milliseconds("ACK_TIMEOUT_MS", &self.ack_timeout_ms, 30_000, 1);
        let heartbeat = problems.milliseconds("HEARTBEAT_MS", &self.heartbeat_ms, 500, 10);
        problems.none()?;
        Ok(Settings { node, secondaries, ack_timeout, heartbeat })
    }
}
