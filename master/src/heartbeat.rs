//! What happens without a client: asking every secondary how it stands, and sending it what it
//! lacks when no request is about to.
//!
//! Two threads per secondary. The *heartbeat* asks on a connection of its own, so that a secondary
//! which is silent on the others is still noticed, and tells it how far the log goes. The
//! *courier* makes the same calls as a request does: retries, catch-up, and what is left over by
//! requests that did not wait for this secondary.

use std::sync::{Arc, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};
use std::{io, thread};

use common::client::Client;
use common::wire::{Heartbeat, Position, SecondaryHealth};

use crate::lines::LineId;
use crate::replication::Replication;

/// How long a secondary may take to say how it is.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(1);

/// A courier that is not woken looks by itself this often: it ends then, if its master has.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the heartbeats, every `interval`. They end when nobody else holds the replication.
///
/// # Errors
/// When a thread cannot be started.
pub fn start(replication: &Arc<Replication>, interval: Duration) -> io::Result<()> {
    for (line, url) in replication.urls().iter().enumerate() {
        let (client, replication) =
            (Client::new(url, HEARTBEAT_TIMEOUT), Arc::downgrade(replication));
        thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || beat(&replication, line, &client, interval))?;
    }
    Ok(())
}

fn beat(replication: &Weak<Replication>, line: LineId, client: &Client, interval: Duration) {
    while let Some(replication) = replication.upgrade() {
        let (number, heartbeat) = replication.heartbeat(line);
        replication.observe(line, number, ask(client, &heartbeat));
        drop(replication);
        thread::sleep(interval);
    }
}

/// Where the secondary stands; `None` if it is an original, which does not say.
///
/// # Errors
/// Why it did not answer, in words.
pub fn ask(client: &Client, heartbeat: &Heartbeat) -> Result<Option<Position>, String> {
    let body = serde_json::to_vec(heartbeat).expect("a heartbeat has only string keys");
    let answer = client.post("/heartbeat", &body).map_err(|error| error.to_string())?;
    match (answer.status, serde_json::from_slice(&answer.body)) {
        (200, Ok(position)) => Ok(Some(position)),
        (404 | 405, _) => ask_original(client),
        (status, _) => Err(format!("answered {status} to a heartbeat")),
    }
}

fn ask_original(client: &Client) -> Result<Option<Position>, String> {
    let answer = client.get("/health").map_err(|error| error.to_string())?;
    match serde_json::from_slice::<SecondaryHealth>(&answer.body) {
        Ok(health) if answer.status == 200 => Ok(health.position),
        _ => Err(format!("answered {} to GET /health", answer.status)),
    }
}

/// Starts the couriers; returns what it takes to wake each.
///
/// # Errors
/// When a thread cannot be started.
pub fn start_couriers(replication: &Arc<Replication>) -> io::Result<Vec<Thread>> {
    let start = |line| {
        let replication = Arc::downgrade(replication);
        let spawned =
            thread::Builder::new().name("courier".into()).spawn(move || carry(&replication, line));
        Ok(spawned?.thread().clone())
    };
    (0..replication.urls().len()).map(start).collect()
}

fn carry(replication: &Weak<Replication>, line: LineId) {
    while let Some(replication) = replication.upgrade() {
        let idle = replication.courier_call(line);
        drop(replication);
        if let Err(until) = idle {
            let until = until.map(|until| until.saturating_duration_since(Instant::now()));
            thread::park_timeout(until.unwrap_or(LOOK_INTERVAL).min(LOOK_INTERVAL));
        }
    }
}
