//! How the master was started.

use clap::{Parser, Subcommand};
use common::client::check_base_url;
use common::setting_table;
use common::settings::{EXAMPLE, MAX_TIMEOUT_MS, NodeArgs, NodeSettings};

use crate::concern::majority;
use crate::takeover::Recovery;

/// The master of the replicated log: orders messages and replicates them to every secondary
#[derive(Debug, Parser)]
#[command(name = "master", version, about, long_about = None, after_help = EXAMPLE)]
pub struct Cli {
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    own: Args,
    /// Begin a reign now, whoever reigns: an operator's word
    #[arg(long)]
    pub takeover: bool,
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
    /// Make the log in --data-dir a new master's: a copy of a stopped secondary's, or a backup of a
    /// master's
    Promote,
    /// Make a log that names epochs more than a day ahead of the clock the log of a new cluster
    ///
    /// First stop all nodes and set their clocks. If those epochs are wrong still, choose one
    /// directory: of those with the greatest last_epoch, as `verify` prints it, the one with the
    /// most entries. Run this on it, start its node, and every other node with an empty directory.
    ResetEpochs,
}

setting_table! {
    /// Settings of a master alone.
    Settings from Args();
    /// Base URLs of the secondaries, separated by commas: http://host:port,… [default: none]
    secondaries: Vec<String>, "URLS" => base_urls();
    /// How long a call to a secondary, and a write, may take, in milliseconds [default: 30000]
    ack_timeout_ms: u64, "MS" => number(30_000, 1..=MAX_TIMEOUT_MS);
    /// How often each secondary is asked how it stands, in milliseconds [default: 500]
    heartbeat_ms: u64, "MS" => number(500, 10..=MAX_TIMEOUT_MS);
    /// Heartbeats missed in a row until a secondary is Suspected [default: 2]
    suspected_after: u32, "COUNT" => number(2, 1..=1000);
    /// Heartbeats missed in a row until a secondary is Unhealthy [default: 5]
    unhealthy_after: u32, "COUNT" => number(5, 1..=1000);
    /// How long a POST with w waits if it does not say, in milliseconds; 0 for as long as it takes
    /// [default: 60000]
    wtimeout_ms: u64, "MS" => number(60_000, 0..=MAX_TIMEOUT_MS);
    /// Nodes, the master included, that must be reachable or a POST is refused: a number,
    /// majority, or off [default: off]
    quorum: Option<usize>, "NODES" => parse(
        None,
        format!("a whole number from 1 to {}", secondaries.len() + 1),
        |text| parse_quorum(text, secondaries.len() + 1)
    );
    /// How long a first reign, and RECOVERY=any, waits for all secondaries to answer, in
    /// milliseconds; 0 for as long as it takes [default: 5000]
    recovery_timeout_ms: u64, "MS" => number(5000, 0..=MAX_TIMEOUT_MS);
    /// With how many secondaries a reign begins: auto with as many as no acknowledged entry needs
    /// more, a first reign with those that answer; quorum with as many in a first reign too; any
    /// with those that answer in time, at the cost of entries [default: auto]
    recovery: Recovery, "auto|quorum|any" => parse(
        Recovery::Auto,
        "auto, quorum or any",
        parse_recovery
    );
    /// The base URL of this master for clients and secondaries [default: http://HOST:PORT, for
    /// 0.0.0.0 with the name of the machine]
    advertise_url: Option<String>, "URL" => parse(None, "http://host:port", |text| {
        let url = text.trim_end_matches('/');
        check_base_url(url).ok().map(|()| Some(url.to_string()))
    });
}

fn parse_recovery(text: &str) -> Option<Recovery> {
    match text {
        "auto" => Some(Recovery::Auto),
        "quorum" => Some(Recovery::Quorum),
        "any" => Some(Recovery::Any),
        _ => None,
    }
}

fn parse_quorum(text: &str, nodes: usize) -> Option<Option<usize>> {
    match text {
        "off" | "0" => Some(None),
        "majority" => Some(Some(majority(nodes))),
        _ => text.parse().ok().filter(|quorum| (1..=nodes).contains(quorum)).map(Some),
    }
}

impl Cli {
    /// The checked settings. Fails with everything that is wrong, each in words.
    pub fn check(&self) -> Result<(NodeSettings, Settings), Vec<String>> {
        let mut problems = Vec::new();
        let node = self.node.check(8000, &mut problems);
        let own = self.own.check(&mut problems);
        if own.unhealthy_after < own.suspected_after {
            problems.push("UNHEALTHY_AFTER must not be less than SUSPECTED_AFTER".into());
        }
        if problems.is_empty() { Ok((node, own)) } else { Err(problems) }
    }
}

impl Settings {
    /// The effective settings for the first log line.
    pub fn describe(&self) -> String {
        let Settings { ack_timeout_ms, heartbeat_ms, suspected_after, unhealthy_after, .. } = self;
        let Settings { secondaries, wtimeout_ms, quorum, recovery_timeout_ms, .. } = self;
        let Settings { recovery, .. } = self;
        let secondaries = secondaries.join(",");
        let quorum = quorum.map_or("off".to_string(), |quorum| quorum.to_string());
        format!(
            "role=master secondaries={secondaries} ack_timeout_ms={ack_timeout_ms} \
             heartbeat_ms={heartbeat_ms} suspected_after={suspected_after} \
             unhealthy_after={unhealthy_after} wtimeout_ms={wtimeout_ms} quorum={quorum} \
             recovery_timeout_ms={recovery_timeout_ms} recovery={recovery:?}"
        )
    }
}
