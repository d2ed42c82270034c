//! The master's process.

use std::process::ExitCode;
use std::sync::Arc;
use std::{io, thread};

use clap::Parser;
use common::node;
use master::replication::{Options, Replication};
use master::routes::Routes;
use master::settings::{Cli, Command, Settings};
use master::{heartbeat, recovery};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let settings = match cli.check() {
        Ok(settings) => settings,
        Err(problems) => return node::bad_settings("master", &problems),
    };
    if let Some(Command::Healthcheck) = cli.command {
        return node::healthcheck("master", &settings.node);
    }
    node::run("master", &settings.node, &settings.describe(), |_| begin(&settings))
}

/// Recovers in the background, so that reads are served meanwhile.
fn begin(settings: &Settings) -> io::Result<Routes> {
    let replication = Arc::new(Replication::new(Options {
        secondaries: settings.secondaries.clone(),
        ack_timeout: settings.ack_timeout,
        quorum: settings.quorum,
        idempotency_keys: settings.node.idempotency_keys,
        thresholds: settings.thresholds,
    }));
    let couriers = heartbeat::start_couriers(&replication)?;
    let (recovering, settings) = (Arc::clone(&replication), settings.clone());
    let wtimeout = settings.wtimeout;
    thread::Builder::new().name("recovery".into()).spawn(move || {
        let (timeout, keys) = (settings.recovery_timeout, settings.node.idempotency_keys);
        recovery::recover(&recovering, couriers, timeout, keys);
        if let Err(error) = heartbeat::start(&recovering, settings.heartbeat) {
            log::error!("failed to start heartbeats error={error}");
        }
    })?;
    Ok(Routes::new(replication, wtimeout))
}
