//! The secondary's process.

use std::process::ExitCode;

use clap::Parser;
use common::access::Access;
use common::node;
use common::store::Role;
use secondary::replica::Replica;
use secondary::routes::Routes;
use secondary::settings::{Cli, Command, Settings};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (node, settings) = match cli.check() {
        Ok(settings) => settings,
        Err(problems) => return node::bad_settings("secondary", &problems),
    };
    if let Some(Command::Healthcheck) = cli.command {
        return node::healthcheck("secondary", &node);
    }
    let Settings { delay_ms, chaos, .. } = settings;
    let describe = format!("role=secondary delay_ms={delay_ms} chaos={chaos}");
    node::run("secondary", &node, &describe, |_, rules| {
        let disk = node::open_store(&node, Role::Secondary)?;
        let replica = Replica::new(disk, node.idempotency_keys, node.max_log_bytes);
        Ok(Routes::new(replica, &settings, node.max_followers, Access::new(rules)))
    })
}
