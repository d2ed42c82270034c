//! How both programs end: one exit code per reason, one line on stderr for what went wrong.
//!
//! | exit code | reason | output |
//! |---|---|---|
//! | 0 | done, or help was asked for | usage on stdout for `--help` |
//! | 1 | the network or the other side failed | one line on stderr |
//! | 2 | the program was called wrongly | one line on stderr |

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::process::ExitCode;

/// Why a program stops before its work is done.
#[derive(Debug)]
pub enum Stop {
    /// The user asked for the usage text.
    Help,
    /// The arguments or the environment are wrong; the text says which and why.
    Usage(String),
    /// The network or the other side failed; the text says how.
    Connection(String),
}

/// Reports `outcome` to the user of `program` and turns it into an exit code.
///
/// The first line of `usage` is repeated behind a usage error. A stdout or stderr that nobody
/// reads any more is no reason to panic, so failures to print are ignored.
pub fn finish(program: &str, usage: &str, outcome: Result<(), Stop>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Help) => {
            let _ = writeln!(io::stdout(), "{usage}");
            ExitCode::SUCCESS
        }
        Err(Stop::Usage(what)) => {
            let synopsis = usage.lines().next().unwrap_or_default();
            let _ = writeln!(io::stderr(), "{program}: {what} ({synopsis})");
            ExitCode::from(2)
        }
        Err(Stop::Connection(what)) => {
            let _ = writeln!(io::stderr(), "{program}: {what}");
            ExitCode::from(1)
        }
    }
}

/// Whether the arguments ask for help: `--help` or `-h` in the first place.
///
/// Only there, because further back the same bytes may be a message to send.
pub fn asks_for_help(args: &[OsString]) -> bool {
    args.first().is_some_and(|first| first == "--help" || first == "-h")
}

/// Reads `value` as text and parses it; `expected` completes the sentence "must be ..." if that
/// fails. The value is escaped in the error, which therefore stays on one line.
pub fn parse<T: std::str::FromStr>(name: &str, value: &OsStr, expected: &str) -> Result<T, Stop> {
    let parsed = value.to_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| Stop::Usage(format!("{name} must be {expected}, got {value:?}")))
}
