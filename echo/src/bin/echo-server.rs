//! `echo-server [PORT]`: sends back what every connection sends. See the crate's front page.

use std::env;
use std::net::TcpListener;
use std::process::ExitCode;

use echo::{Stop, server};

const USAGE: &str = "\
usage: echo-server [PORT]

Listens for TCP connections and sends back what they send, until it is killed.
Its first line on stdout names the address: listening on 127.0.0.1:9009

  PORT   port to listen on, 0 to let the system pick one (default 9009)
  HOST   environment variable: address to listen on (default 127.0.0.1)

Serves up to 1024 connections at once, fewer if the system gives it fewer
descriptors or threads, and closes further ones immediately; drops a
connection on which nothing moved for ten minutes.
Exit code: 1 if it cannot listen, 2 if called wrongly.";

fn main() -> ExitCode {
    echo::run("echo-server", USAGE, |args| {
        let port: u16 = match args {
            [] => 9009,
            [port] => echo::parse("PORT", port, "a number from 0 to 65535")?,
            _ => return Err(Stop::Usage(format!("at most 1 argument, got {}", args.len()))),
        };
        let host = env::var_os("HOST").filter(|host| !host.is_empty());
        let host = host.unwrap_or_else(|| "127.0.0.1".into());
        let host: String = echo::parse("HOST", &host, "a host name or address")?;

        let failure = |error| {
            let host = host.escape_debug();
            Stop::Failure(format!("cannot listen on {host} port {port}: {error}"))
        };
        let listener = TcpListener::bind((host.as_str(), port)).map_err(failure)?;
        server::log(format_args!("listening on {}", listener.local_addr().map_err(failure)?));
        server::serve(&listener, server::MOST_CONNECTIONS, server::IDLE)
    })
}
