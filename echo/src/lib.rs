//! Iteration 0: a TCP echo server and a client for it, with the standard library alone.
//!
//! ```text
//! $ echo-server 9009                       $ echo-client 127.0.0.1 9009 "hello world"
//! listening on 127.0.0.1:9009              hello world
//! connected peer=127.0.0.1:51514
//! closed peer=127.0.0.1:51514 bytes=11
//! ```
//!
//! The protocol has no header, no length and no separator. The client sends its message and ends
//! its direction of the connection (a *half-close*). The server sends every byte back as it comes,
//! then ends the other direction. `nc -N 127.0.0.1 9009` speaks this protocol as well.
//!
//! A naive pair breaks in five places:
//!
//! - **Both sides send and neither reads.** A message longer than the buffers of both kernels
//!   leaves each side waiting for the other. [`client::exchange`] sends and reads at the same time.
//! - **A peer does not read.** The server reads the next bytes only after the kernel has taken the
//!   last ones, so its memory does not grow.
//! - **A peer is gone without a word.** A pulled cable sends no end of stream. The client gives up
//!   after [`client::TIMEOUT`] without a byte, the server after [`server::IDLE`].
//! - **Too many peers.** Each one costs a thread and a descriptor. The server closes connections
//!   beyond [`server::MOST_CONNECTIONS`] at once, or earlier if the system gives it no more.
//! - **A reply ends early.** The client compares the reply with its message.
//!
//! There is no encryption, no authentication, no retry and no orderly stop. A client that sends
//! nothing cannot tell an echo of nothing from a connection that was refused.

pub mod client;
pub mod server;

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::process::ExitCode;
use std::str::FromStr;

/// Why a program stops before its work is done, in one line: the exit code says whose fault it is.
#[derive(Debug)]
pub enum Stop {
    /// The arguments or the environment are wrong: exit code 2.
    Usage(String),
    /// The network or the other side failed: exit code 1.
    Failure(String),
}

/// Runs `program` with its arguments and reports how it ends. `--help` prints `usage`.
///
/// A stdout or stderr that nobody reads is no reason to panic: failures to print are ignored.
pub fn run(name: &str, usage: &str, program: fn(&[OsString]) -> Result<(), Stop>) -> ExitCode {
    let args: Vec<_> = env::args_os().skip(1).collect();
    if args.first().is_some_and(|first| first == "--help" || first == "-h") {
        let _ = writeln!(io::stdout(), "{usage}");
        return ExitCode::SUCCESS;
    }
    let synopsis = usage.lines().next().unwrap_or_default();
    let (code, line) = match program(&args) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Stop::Usage(what)) => (2, format!("{what} ({synopsis})")),
        Err(Stop::Failure(what)) => (1, what),
    };
    let _ = writeln!(io::stderr(), "{name}: {line}");
    ExitCode::from(code)
}

/// Parses the argument or variable `name`. The error escapes `value`, so it stays on one line.
pub fn parse<T: FromStr>(name: &str, value: &OsStr, expected: &str) -> Result<T, Stop> {
    let text = value.to_str().filter(|text| !text.is_empty());
    let parsed = text.and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| Stop::Usage(format!("{name} must be {expected}, got {value:?}")))
}
