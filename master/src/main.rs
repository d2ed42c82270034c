//! The master's process.

use std::process::ExitCode;
use std::sync::Arc;
use std::{io, thread};

use clap::Parser;
use common::entries::Epoch;
use common::node;
use common::store::Role;
use master::routes::Routes;
use master::settings::{Cli, Command, Settings};
use master::state::{Options, Replication};
use master::{couriers, directory, recovery};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let settings = match cli.check() {
        Ok(settings) => settings,
        Err(problems) => return node::bad_settings("master", &problems),
    };
    match cli.command {
        None => {}
        Some(Command::Healthcheck) => return node::healthcheck("master", &settings.node),
        Some(Command::Verify) => return directory::verify(&settings.node),
        Some(Command::Dump) => return directory::dump(&settings.node),
        Some(Command::Promote) => return directory::promote(&settings.node),
    }
    node::run("master", &settings.node, &settings.describe(), |_| begin(&settings))
}

/// Recovers in the background, so that reads are served meanwhile.
fn begin(settings: &Settings) -> io::Result<Routes> {
    let disk = node::open_store(&settings.node, Role::Master)?;
    let epoch = disk.as_ref().map_or(Epoch::default(), |disk| disk.epoch);
    let options = Options {
        secondaries: settings.secondaries.clone(),
        ack_timeout: settings.ack_timeout,
        quorum: settings.quorum,
        idempotency_keys: settings.node.idempotency_keys,
        thresholds: settings.thresholds,
        max_log_bytes: settings.node.max_log_bytes,
    };
    let replication = Arc::new(Replication::new(options, disk));
    let threads = couriers::start(&replication)?;
    let (recovering, settings) = (Arc::clone(&replication), settings.clone());
    let (wtimeout, followers) = (settings.wtimeout, settings.node.max_followers);
    thread::Builder::new().name("recovery".into()).spawn(move || {
        recovery::recover(&recovering, threads, settings.recovery_timeout, epoch);
        if let Err(error) = couriers::start_heartbeats(&recovering, settings.heartbeat) {
            log::error!("failed to start heartbeats error={error}");
        }
    })?;
    Ok(Routes::new(replication, wtimeout, followers))
}
