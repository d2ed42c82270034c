//! The secondary's process.

use std::process::ExitCode;

use clap::Parser;
use common::node;
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
    let describe = format!("role=secondary delay_ms={}", settings.delay.as_millis());
    node::run("secondary", &settings.node, &describe, |_| {
        Ok(Routes::new(Replica::new(settings.delay)))
    })
}
