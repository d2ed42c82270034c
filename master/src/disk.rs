//! The thread that writes the log to the disk: one more line, to the master itself.
//!
//! It writes while the calls to the secondaries are out. Everything that was appended meanwhile
//! goes into the next transaction.

use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use crate::replication::Replication;

/// How long it waits for entries before it asks whether its master is still there.
const PATIENCE: Duration = Duration::from_secs(1);

/// Starts the thread. It ends when nobody else holds the replication.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(replication: &Arc<Replication>) -> io::Result<()> {
    let replication = Arc::downgrade(replication);
    let spawned = thread::Builder::new().name("disk".into()).spawn(move || {
        while let Some(replication) = replication.upgrade() {
            replication.save(PATIENCE);
        }
    });
    spawned.map(|_| ())
}
