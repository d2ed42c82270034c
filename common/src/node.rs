//! The life of a node's process: settings, logging, a bound port, one ready line, requests, and a
//! stop in good order.

use std::fmt::Display;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use std::{fs, io};

use crossbeam::channel::{Receiver, bounded};
use log::{info, warn};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::access::Rules;
use crate::client::Client;
use crate::epochs;
use crate::http::{Drained, Handler, Limits, Listener, Server};
use crate::logging;
use crate::settings::NodeSettings;
use crate::store::{Opened, Role, Store};
use crate::tokens::{Source, Tokens};
use crate::vital;

/// How long `healthcheck` waits for an answer.
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a stopping node waits for the reader of its log lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Reports settings that cannot be used, one a line, and gives the exit code for that.
pub fn bad_settings(role: &str, problems: &[String]) -> ExitCode {
    problems.iter().for_each(|problem| eprintln!("{role}: {problem}"));
    ExitCode::from(2)
}

/// Runs a node until it is told to stop: exit code 0 after a stop, 1 when it could not start.
/// `prepare` makes the handler once the address is bound, from the rules for who may ask it;
/// `describe` is the role's part of the first log line.
pub fn run<H: Handler>(
    role: &str,
    settings: &NodeSettings,
    describe: &str,
    prepare: impl FnOnce(SocketAddr, Rules) -> io::Result<H>,
) -> ExitCode {
    let code = match serve(role, settings, describe, prepare) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{role}: cannot start on {}:{}: {error}", settings.host, settings.port);
            ExitCode::FAILURE
        }
    };
    logging::flush(FLUSH_TIMEOUT);
    code
}

/// Serves until a signal comes.
fn serve<H: Handler>(
    role: &str,
    settings: &NodeSettings,
    describe: &str,
    prepare: impl FnOnce(SocketAddr, Rules) -> io::Result<H>,
) -> io::Result<()> {
    // Before anything else, so that a signal during the start stops in good order too.
    let stop = stop_signals()?;
    let listener = Listener::bind(&settings.host, settings.port)?;
    let address = listener.local_addr()?;
    let rules = rules(settings, address)?;
    let default_name =
        if role == "master" { role.to_string() } else { format!("{role}-{}", address.port()) };
    let name = settings.node_name.clone().unwrap_or(default_name);
    logging::start(settings.log_level, &name).map_err(io::Error::other)?;
    logging::tame_panics();
    let NodeSettings { max_in_flight, max_message_bytes, read_timeout_ms, .. } = *settings;
    let NodeSettings { idempotency_keys, shutdown_timeout_ms, .. } = *settings;
    info!(
        "started version={} {describe} idempotency_keys={idempotency_keys} \
         max_in_flight={max_in_flight} max_message_bytes={max_message_bytes} \
         read_timeout_ms={read_timeout_ms} shutdown_timeout_ms={shutdown_timeout_ms}",
        env!("CARGO_PKG_VERSION"),
    );
    if rules.cluster.is_empty() && !address.ip().is_loopback() {
        warn!(
            "anybody who reaches {address} can write to the log and end the cluster: set \
             CLUSTER_TOKEN on every node, and API_TOKEN for clients"
        );
    }
    let limits = Limits {
        max_in_flight,
        max_body_bytes: max_message_bytes,
        timeout: Duration::from_millis(read_timeout_ms),
    };
    let server = Server::start(listener, limits, prepare(address, rules)?)?;
    info!("ready addr={address}");
    let name = if stop.recv() == Ok(SIGINT) { "SIGINT" } else { "SIGTERM" };
    info!("stopping reason={name} in_flight={}", server.stats().in_flight);
    match server.stop(Duration::from_millis(shutdown_timeout_ms)) {
        Drained { unfinished: 0 } => info!("stopped unfinished=0"),
        Drained { unfinished } => warn!("stopped unfinished={unfinished}"),
    }
    Ok(())
}

/// Who may ask this node for what. Fails when a file of tokens cannot be used.
fn rules(settings: &NodeSettings, address: SocketAddr) -> io::Result<Rules> {
    let cluster = tokens(&settings.cluster_token_file)?;
    let clients = tokens(&settings.api_token_file)?;
    let (hosts, read_open) = (settings.allowed_hosts.clone(), settings.read_open == 1);
    let mut rules = Rules { hosts, cluster, clients, read_open };
    rules.allow_host_of(&advertised_url(settings, address.port()));
    Ok(rules)
}

fn tokens(source: &Source) -> io::Result<Tokens> {
    let file = match source {
        Source::Nowhere => return Ok(Tokens::default()),
        Source::Given(tokens) => return Ok(tokens.clone()),
        Source::File(file) => file,
    };
    let why = |why: &dyn Display| io::Error::other(format!("the tokens in {file:?}: {why}"));
    let text = fs::read_to_string(file).map_err(|error| why(&error))?;
    Tokens::parse(&text).ok_or_else(|| why(&format!("they must be {}", Tokens::RULE)))
}

/// Opens the log on disk, if it is kept there. Fails when the directory or the file cannot be used.
pub fn open_store(settings: &NodeSettings, role: Role) -> io::Result<Option<Opened>> {
    let Some(directory) = &settings.data_dir else { return Ok(None) };
    let opened =
        Store::open(directory, role, settings.idempotency_keys).map_err(io::Error::other)?;
    let (last_seq, epoch) = (opened.log.last_seq(), opened.facts.promised.epoch);
    let greatest = epoch.max(opened.log.last_epoch()).max(opened.facts.log_epoch);
    epochs::check(greatest, "the log on disk").map_err(|why| {
        io::Error::other(format!(
            "{}: {why}: set the clock, or see `master reset-epochs --help`",
            directory.display()
        ))
    })?;
    info!("read the log from disk dir={directory:?} last_seq={last_seq} epoch={epoch}");
    Ok(Some(opened))
}

fn stop_signals() -> io::Result<Receiver<i32>> {
    let (sender, receiver) = bounded(1);
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    vital::start("signals", move || {
        for signal in signals.forever() {
            // One is enough; the node is stopping already.
            let _ = sender.try_send(signal);
        }
    })?;
    Ok(receiver)
}

/// The base URL of the node at this port, as this machine reaches it.
fn own_url(settings: &NodeSettings) -> String {
    let (host, port) = (settings.host.as_str(), settings.port);
    match host {
        "0.0.0.0" | "" => base_url("127.0.0.1", port),
        "::" => base_url("::1", port),
        host => base_url(host, port),
    }
}

/// The base URL of the node at this port for other machines: by its host's name if it listens on
/// all addresses and the name is known.
pub fn advertised_url(settings: &NodeSettings, port: u16) -> String {
    match settings.host.as_str() {
        "0.0.0.0" | "::" | "" => {
            let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let name = name.trim();
            base_url(if name.is_empty() { "localhost" } else { name }, port)
        }
        host => base_url(host, port),
    }
}

fn base_url(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("http://[{host}]:{port}")
    } else {
        format!("http://{host}:{port}")
    }
}

/// Asks the node on this machine whether it is well: exit code 0, or 1 and a line that says why.
pub fn healthcheck(role: &str, settings: &NodeSettings) -> ExitCode {
    let client = Client::new(&own_url(settings), HEALTHCHECK_TIMEOUT);
    let problem = match client.get("/health") {
        Ok(answer) if answer.status == 200 => return ExitCode::SUCCESS,
        Ok(answer) => format!("answered {}", answer.status),
        Err(error) => error.to_string(),
    };
    eprintln!("{role}: {}/health: {problem}", client.base());
    ExitCode::FAILURE
}
