//! The secondary's process.

use std::process::ExitCode;

use clap::Parser;
use common::node;
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
        let replica = Replica::new(settings.node.idempotency_keys);
        Ok(Routes::new(replica, FaultInjector::new(settings.delay), settings.chaos))
    })
}
