//! What happens without a client: asking every secondary how it stands, and levelling the ones
//! that lack something.
//!
//! One thread per secondary. It asks on a connection of its own, so that a secondary which is
//! busy or silent on the others is still noticed, and it makes the same calls as a write does.

use std::sync::{Arc, Weak};
use std::time::Duration;
use std::{io, thread};

use common::client::Client;
use common::wire::{Position, SecondaryHealth};

use crate::lines::LineId;
use crate::replication::Replication;

/// How long a secondary may take to say how it is.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(1);

/// Starts a thread per secondary, which asks every `interval`. They end when nobody else holds
/// the replication any more.
///
/// # Errors
/// When a thread cannot be started.
pub fn start(replication: &Arc<Replication>, interval: Duration) -> io::Result<()> {
    for (line, url) in replication.urls().into_iter().enumerate() {
        let (client, replication) =
            (Client::new(&url, HEARTBEAT_TIMEOUT), Arc::downgrade(replication));
        thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || beat(&replication, line, &client, interval))?;
    }
    Ok(())
}

fn beat(replication: &Weak<Replication>, line: LineId, client: &Client, interval: Duration) {
    while let Some(replication) = replication.upgrade() {
        let number = replication.lock().lines.next_number();
        let said = ask(client);
        let is_ours = matches!(said, Ok(Some(_)));
        replication.observe(line, number, said);
        if is_ours {
            replication.catch_up(line);
        }
        drop(replication);
        thread::sleep(interval);
    }
}

/// Where the secondary stands; `None` if it is an original, which does not say.
fn ask(client: &Client) -> Result<Option<Position>, String> {
    let answer = client.get("/health").map_err(|error| error.to_string())?;
    if answer.status != 200 {
        return Err(format!("answered {} to GET /health", answer.status));
    }
    let health: SecondaryHealth = serde_json::from_slice(&answer.body)
        .map_err(|_| "answered GET /health with something else".to_string())?;
    Ok(health.position)
}
