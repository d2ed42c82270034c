//! The master's process.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use common::access::{Access, Rules};
use common::client::Bearer;
use common::node;
use common::settings::NodeSettings;
use common::store::Role;
use master::directory;
use master::health::Thresholds;
use master::routes::Routes;
use master::settings::{Cli, Command, Settings};
use master::state::Options;
use master::succession::Succession;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (node, settings) = match cli.check() {
        Ok(settings) => settings,
        Err(problems) => return node::bad_settings("master", &problems),
    };
    match cli.command {
        None => serve(&node, &settings, cli.takeover),
        Some(Command::Healthcheck) => node::healthcheck("master", &node),
        Some(Command::Verify) => directory::verify(&node),
        Some(Command::Dump) => directory::dump(&node),
        Some(Command::Promote) => directory::promote(&node),
        Some(Command::ResetEpochs) => directory::reset_epochs(&node),
    }
}

fn serve(node: &NodeSettings, settings: &Settings, takeover: bool) -> ExitCode {
    let begun = OnceCell::new();
    let code = node::run("master", node, &settings.describe(), |address, mut rules| {
        let options = options(node, settings, address, &rules);
        rules.allow_host_of(&options.url);
        let disk = node::open_store(node, Role::Master)?;
        let succession = Succession::start(options, disk, takeover)?;
        let succession = begun.get_or_init(|| succession);
        let wtimeout = Duration::from_millis(settings.wtimeout_ms);
        let access = Access::new(rules);
        Ok(Routes::new(Arc::clone(succession), wtimeout, node.max_followers, access))
    });
    begun.get().into_iter().for_each(|succession| succession.abdicate());
    code
}

fn options(
    node: &NodeSettings,
    settings: &Settings,
    address: SocketAddr,
    rules: &Rules,
) -> Options {
    let ms = Duration::from_millis;
    let &Settings { suspected_after, unhealthy_after, quorum, recovery, .. } = settings;
    let own_url = || node::advertised_url(node, address.port());
    Options {
        secondaries: settings.secondaries.clone(),
        ack_timeout: ms(settings.ack_timeout_ms),
        quorum,
        idempotency_keys: node.idempotency_keys,
        thresholds: Thresholds { suspected_after, unhealthy_after },
        max_log_bytes: node.max_log_bytes,
        heartbeat: ms(settings.heartbeat_ms),
        recovery_timeout: ms(settings.recovery_timeout_ms),
        recovery,
        url: settings.advertise_url.clone().unwrap_or_else(own_url),
        token: Bearer::first_of(&rules.cluster),
    }
}
