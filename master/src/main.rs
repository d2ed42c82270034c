//! The master's process.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Parser;
use common::entries::Epoch;
use common::node;
use master::heartbeat;
use master::replication::Replication;
use master::routes::Routes;
use master::settings::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let settings = match cli.check() {
        Ok(settings) => settings,
        Err(problems) => return node::bad_settings("master", &problems),
    };
    if let Some(Command::Healthcheck) = cli.command {
        return node::healthcheck("master", &settings.node);
    }
    let epoch = new_epoch();
    let describe = format!(
        "role=master epoch={epoch} secondaries={} ack_timeout_ms={} heartbeat_ms={}",
        settings.secondaries.join(","),
        settings.ack_timeout.as_millis(),
        settings.heartbeat.as_millis(),
    );
    node::run("master", &settings.node, &describe, |_| {
        let replication = Replication::new(&settings.secondaries, epoch, settings.ack_timeout);
        let replication = Arc::new(replication);
        heartbeat::start(&replication, settings.heartbeat)?;
        Ok(Routes::new(replication))
    })
}

/// Each start begins a reign that is greater than those before it: the time in milliseconds.
fn new_epoch() -> Epoch {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let milliseconds = since_1970.as_ref().map_or(1, Duration::as_millis);
    Epoch(u64::try_from(milliseconds).unwrap_or(u64::MAX))
}
