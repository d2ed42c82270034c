//! `echo-server [PORT]`: sends back what every connection sends. See the crate's front page.

use std::env;
use std::net::TcpListener;
use std::process::ExitCode;

use echo::command::{self, Stop};
use echo::server::{self, Limits};

const USAGE: &str = "\
usage: echo-server [PORT]

Listens for TCP connections and sends back what they send, until it is killed.
Its first line on stdout names the address: listening on 127.0.0.1:9009

  PORT   port to listen on, 0 to let the system pick one (default 9009)
  HOST   environment variable: address to listen on (default 127.0.0.1)

Serves up to 128 connections at once and closes further ones immediately;
drops a connection on which nothing moved for ten minutes.
Exit code: 1 if it cannot listen, 2 if called wrongly.";

fn main() -> ExitCode {
    command::finish("echo-server", USAGE, run())
}

fn run() -> Result<(), Stop> {
    let (host, port) = settings()?;
    let failed = |error| {
        Stop::Connection(format!("cannot listen on {} port {port}: {error}", host.escape_debug()))
    };
    let listener = TcpListener::bind((host.as_str(), port)).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    server::log(format_args!("listening on {address}"));
    server::serve(&listener, Limits::DEFAULT)
}

/// The host and the port to listen on. An empty HOST counts as none.
fn settings() -> Result<(String, u16), Stop> {
    let args: Vec<_> = env::args_os().skip(1).collect();
    if command::asks_for_help(&args) {
        return Err(Stop::Help);
    }
    let port = match args.as_slice() {
        [] => 9009,
        [port] => command::parse("PORT", port, "a number from 0 to 65535")?,
        _ => return Err(Stop::Usage(format!("at most 1 argument, got {}", args.len()))),
    };
    let host = match env::var_os("HOST").filter(|host| !host.is_empty()) {
        None => "127.0.0.1".to_owned(),
        Some(host) => command::parse("HOST", &host, "a host name or address")?,
    };
    Ok((host, port))
}
