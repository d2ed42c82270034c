//! The threads that work without a client.
//!
//! Two threads for each secondary. The *heartbeat* asks it how it stands, on a connection of its
//! own, so that a secondary which is silent on the others is still noticed, and tells it how far the
//! log goes. The *courier* sends what requests have left over: retries, catch-up, entries that
//! arrived while a call was out. One courier more writes to the master's own disk.

use std::sync::{Arc, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};
use std::{io, thread};

use common::client::Client;
use common::wire::{Heartbeat, Position, SecondaryHealth};

use crate::lines::LineId;
use crate::state::{Errand, Replication};

/// How long a secondary may take to say how it is.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a sleeping courier looks whether its master is still there.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the heartbeats, every `interval`. They end when nobody else holds the replication.
///
/// # Errors
/// When a thread cannot be started.
pub fn start_heartbeats(replication: &Arc<Replication>, interval: Duration) -> io::Result<()> {
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

/// Asks a secondary where it stands. An original answers, but without a position.
///
/// # Errors
/// Why there is no answer, in words.
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

/// Starts the couriers, one for each line and one for the disk if there is one. Returns their
/// threads in that order.
///
/// # Errors
/// When a thread cannot be started.
pub fn start(replication: &Arc<Replication>) -> io::Result<Vec<Thread>> {
    let has_disk = usize::from(replication.store.is_some());
    let start = |line| {
        let replication = Arc::downgrade(replication);
        let thread = thread::Builder::new().name("courier".into());
        Ok(thread.spawn(move || carry(&replication, line))?.thread().clone())
    };
    (0..replication.urls().len() + has_disk).map(start).collect()
}

fn carry(replication: &Weak<Replication>, line: LineId) {
    while let Some(replication) = replication.upgrade() {
        match replication.next_errand(line) {
            Ok(Errand::Call(call)) => replication.make_call(&call),
            Ok(Errand::Write(batch)) => replication.write_batch(&batch),
            Err(until) => {
                drop(replication);
                let until = until.instant().map(|at| at.saturating_duration_since(Instant::now()));
                thread::park_timeout(until.unwrap_or(LOOK_INTERVAL).min(LOOK_INTERVAL));
            }
        }
    }
}
