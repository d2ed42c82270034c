//! `echo-client HOST PORT [MESSAGE]`: sends a message and prints what comes back. See the crate's
//! front page.

use std::io::{self, Write};
use std::num::NonZeroU16;
use std::process::ExitCode;

use echo::{Stop, client};

const USAGE: &str = "\
usage: echo-client HOST PORT [MESSAGE]

Sends MESSAGE to an echo server and prints what comes back, exactly, and a
line end after it.

  HOST      host name or address
  PORT      port, 1 to 65535
  MESSAGE   what to send, any bytes, may be empty (default hello)

Gives up after 5 seconds without a connection, or without a byte coming back.
Exit code: 1 if the connection failed or the reply is not the message,
2 if called wrongly.";

fn main() -> ExitCode {
    echo::run("echo-client", USAGE, |args| {
        let (host, port, message) = match args {
            [host, port] => (host, port, b"hello".as_slice()),
            [host, port, message] => (host, port, message.as_encoded_bytes()),
            _ => return Err(Stop::Usage(format!("2 or 3 arguments, got {}", args.len()))),
        };
        let host: String = echo::parse("HOST", host, "a host name or address")?;
        let port: NonZeroU16 = echo::parse("PORT", port, "a number from 1 to 65535")?;

        let stream = client::connect(&host, port.get(), client::TIMEOUT)?;
        let mut stdout = io::stdout().lock();
        let outcome = client::exchange(&stream, message, &mut stdout);
        // The exchange says whether something is wrong; here only the line is ended.
        let _ = writeln!(stdout);
        outcome
    })
}
