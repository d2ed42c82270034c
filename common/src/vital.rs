//! Threads without which a node is not what it says it is.
//!
//! A heartbeat that is gone would leave its secondary Healthy for ever, a guard that is gone would
//! close no connection any more. So a panic of such a thread ends the node, which says so and can be
//! restarted; what it has acknowledged is where it was.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, Thread};
use std::time::Duration;
use std::{io, process};

use log::error;

use crate::logging;

/// How long the last line may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Starts such a thread, which may end in good order.
///
/// # Errors
/// When the system starts no thread now.
pub fn start(name: &'static str, work: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
    let whole = move || {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            error!("stopping reason=panicked thread={name}");
            logging::flush(FLUSH_TIMEOUT);
            process::exit(1);
        }
    };
    Ok(thread::Builder::new().name(name.into()).spawn(whole)?.thread().clone())
}
