//! The master's process.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use clap::Parser;
use common::entries::Epoch;
use common::node;
use common::settings::NodeSettings;
use common::store::Role;
use master::health::Thresholds;
use master::routes::Routes;
use master::settings::{Cli, Command, Settings};
use master::state::{Options, Replication};
use master::{couriers, directory, recovery};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (node, settings) = match cli.check() {
        Ok(settings) => settings,
        Err(problems) => return node::bad_settings("master", &problems),
    };
    match cli.command {
        None => node::run("master", &node, &settings.describe(), || begin(&node, &settings)),
        Some(Command::Healthcheck) => node::healthcheck("master", &node),
        Some(Command::Verify) => directory::verify(&node),
        Some(Command::Dump) => directory::dump(&node),
        Some(Command::Promote) => directory::promote(&node),
    }
}

/// Recovers in the background: meanwhile the node answers, and says that it recovers.
fn begin(node: &NodeSettings, settings: &Settings) -> io::Result<Routes> {
    let disk = node::open_store(node, Role::Master)?;
    let epoch = disk.as_ref().map_or(Epoch::default(), |disk| disk.epoch);
    let &Settings { suspected_after, unhealthy_after, .. } = settings;
    let options = Options {
        secondaries: settings.secondaries.clone(),
        ack_timeout: Duration::from_millis(settings.ack_timeout_ms),
        quorum: settings.quorum,
        idempotency_keys: node.idempotency_keys,
        thresholds: Thresholds { suspected_after, unhealthy_after },
        max_log_bytes: node.max_log_bytes,
    };
    let replication = Arc::new(Replication::new(options, disk));
    let threads = couriers::start(&replication)?;
    let recovering = Arc::clone(&replication);
    let ms = Duration::from_millis;
    let (timeout, heartbeat) = (ms(settings.recovery_timeout_ms), ms(settings.heartbeat_ms));
    thread::Builder::new().name("recovery".into()).spawn(move || {
        recovery::recover(&recovering, threads, timeout, epoch);
        if let Err(error) = couriers::start_heartbeats(&recovering, heartbeat) {
            log::error!("failed to start heartbeats error={error}");
        }
    })?;
    Ok(Routes::new(replication, ms(settings.wtimeout_ms), node.max_followers))
}
