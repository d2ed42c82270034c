//! `echo-client HOST PORT [MESSAGE]`: sends a message and prints what comes back. See the crate's
//! front page.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::num::NonZeroU16;
use std::process::ExitCode;

use echo::client;
use echo::command::{self, Stop};

const USAGE: &str = "\
usage: echo-client HOST PORT [MESSAGE]

Sends MESSAGE to an echo server and prints what comes back, exactly; only on
a terminal a line end follows.

  HOST      host name or address
  PORT      port, 1 to 65535
  MESSAGE   what to send, any bytes, may be empty (default hello)

Gives up after 5 seconds without a connection, or without a byte moving.
Exit code: 1 if the connection failed or the reply is not the message,
2 if called wrongly.";

fn main() -> ExitCode {
    command::finish("echo-client", USAGE, run())
}

fn run() -> Result<(), Stop> {
    let (host, port, message) = settings()?;
    let stream = client::connect(&host, port, client::TIMEOUT)?;
    let mut stdout = io::stdout().lock();
    let outcome = client::exchange(stream, &message, client::TIMEOUT, &mut stdout);
    if stdout.is_terminal() {
        // Else the prompt, or the line about an error, would stick to the reply.
        let _ = writeln!(stdout);
    }
    Ok(outcome?)
}

/// The host and the port to connect to, and the message.
fn settings() -> Result<(String, u16, Vec<u8>), Stop> {
    let args: Vec<_> = env::args_os().skip(1).collect();
    if command::asks_for_help(&args) {
        return Err(Stop::Help);
    }
    let (host, port, message) = match args.as_slice() {
        [host, port] => (host, port, b"hello".to_vec()),
        [host, port, message] => (host, port, message.as_encoded_bytes().to_vec()),
        _ => return Err(Stop::Usage(format!("2 or 3 arguments, got {}", args.len()))),
    };
    if host.is_empty() {
        return Err(Stop::Usage("HOST must not be empty".to_owned()));
    }
    let host = command::parse("HOST", host, "a host name or address")?;
    let port: NonZeroU16 = command::parse("PORT", port, "a number from 1 to 65535")?;
    Ok((host, port.get(), message))
}
