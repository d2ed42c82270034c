//! The secondary's process.

use std::process::ExitCode;

use clap::Parser;
use common::node;
use common::store::Role;
use secondary::faults::FaultInjector;
use secondary::replica::Replica;
use secondary::routes::Routes;
use secondary::settings::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let settings = match cli.check() {
        Ok(settings) => settings,
        Err(problems) => return node::bad_settings("secondary", &problems),
    };
    if let Some(Command::Healthcheck) = cli.command {
        return node::healthcheck("secondary", &settings.node);
    }
    let describe = format!(
        "role=secondary delay_ms={} chaos={} idempotency_keys={}",
        settings.delay.as_millis(),
        u8::from(settings.chaos),
        settings.node.idempotency_keys,
    );
    node::run("secondary", &settings.node, &describe, |_| {
        let (keys, bytes) = (settings.node.idempotency_keys, settings.node.max_log_bytes);
        let disk = node::open_store(&settings.node, Role::Secondary)?;
        Ok(Routes::new(
            Replica::new(disk, keys, bytes),
            FaultInjector::new(settings.delay),
            settings.chaos,
            settings.node.max_followers,
        ))
    })
}
