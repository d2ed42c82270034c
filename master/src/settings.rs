//! How the master was started.

use std::time::Duration;

use crate::concern::majority;
use crate::health::Thresholds;
use clap::{Parser, Subcommand};
use common::settings::{EXAMPLE, NodeArgs, NodeSettings, Problems, base_urls, given};

/// The master of the replicated log: orders messages and replicates them to every secondary
#[derive(Debug, Parser)]
#[command(name = "master", version, about, long_about = None, after_help = EXAMPLE)]
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
    /// Heartbeats missed in a row until a secondary is Suspected [default: 2]
    #[arg(long, env, value_name = "COUNT")]
    suspected_after: Option<String>,
    /// Heartbeats missed in a row until a secondary is Unhealthy [default: 5]
    #[arg(long, env, value_name = "COUNT")]
    unhealthy_after: Option<String>,
    /// How long a POST with w waits if it does not say, in milliseconds; 0 for as long as it takes
    /// [default: 60000]
    #[arg(long, env, value_name = "MS")]
    wtimeout_ms: Option<String>,
    /// Nodes, the master included, that must be reachable or a POST is refused: a number,
    /// majority, or off [default: off]
    #[arg(long, env, value_name = "NODES")]
    quorum: Option<String>,
    /// How long a starting master waits for secondaries to say what they hold, in milliseconds
    /// [default: 5000]
    #[arg(long, env, value_name = "MS")]
    recovery_timeout_ms: Option<String>,
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask the master on this machine whether it is well; exit code 0 if so
    Healthcheck,
    /// Check the log in --data-dir, of a stopped master or secondary, and say what it holds
    Verify,
    /// Print the log in --data-dir, of a stopped master or secondary: one JSON object a line
    Dump,
    /// Make the log in --data-dir, a copy of a stopped secondary's, a master's
    Promote,
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
    /// What missed heartbeats mean.
    pub thresholds: Thresholds,
    /// For a POST with `w` that does not say how long to wait.
    pub wtimeout: Duration,
    /// Nodes that must be reachable; `None` for no matter.
    pub quorum: Option<usize>,
    /// How long a start waits for the secondaries.
    pub recovery_timeout: Duration,
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
        let thresholds = self.thresholds(&mut problems);
        let wtimeout = problems.milliseconds("WTIMEOUT_MS", &self.wtimeout_ms, 60_000, 0);
        let quorum = self.quorum(secondaries.len() + 1, &mut problems);
        let recovery_timeout =
            problems.milliseconds("RECOVERY_TIMEOUT_MS", &self.recovery_timeout_ms, 5000, 0);
        problems.none()?;
        Ok(Settings {
            node,
            secondaries,
            ack_timeout,
            heartbeat,
            thresholds,
            wtimeout,
            quorum,
            recovery_timeout,
        })
    }

    fn thresholds(&self, problems: &mut Problems) -> Thresholds {
        let suspected_after =
            problems.number("SUSPECTED_AFTER", &self.suspected_after, 2, 1..=1000);
        let unhealthy_after =
            problems.number("UNHEALTHY_AFTER", &self.unhealthy_after, 5, 1..=1000);
        if unhealthy_after < suspected_after {
            problems.add("UNHEALTHY_AFTER must not be less than SUSPECTED_AFTER".into());
        }
        Thresholds { suspected_after, unhealthy_after }
    }

    fn quorum(&self, nodes: usize, problems: &mut Problems) -> Option<usize> {
        match given(&self.quorum)? {
            "off" | "0" => None,
            "majority" => Some(majority(nodes)),
            _ => Some(problems.number("QUORUM", &self.quorum, 1, 1..=nodes)),
        }
    }
}

impl Settings {
    /// The effective settings for the first log line.
    pub fn describe(&self) -> String {
        let quorum = self.quorum.map_or("off".to_string(), |quorum| quorum.to_string());
        format!(
            "role=master secondaries={} ack_timeout_ms={} heartbeat_ms={} suspected_after={} \
             unhealthy_after={} wtimeout_ms={} quorum={quorum} recovery_timeout_ms={} \
             idempotency_keys={}",
            self.secondaries.join(","),
            self.ack_timeout.as_millis(),
            self.heartbeat.as_millis(),
            self.thresholds.suspected_after,
            self.thresholds.unhealthy_after,
            self.wtimeout.as_millis(),
            self.recovery_timeout.as_millis(),
            self.node.idempotency_keys,
        )
    }
}
