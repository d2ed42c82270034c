//! How a master begins: it asks its secondaries what they hold.
//!
//! A master that starts with an empty memory would number other messages with places that are
//! taken. So it adopts the longest log of the highest epoch that any secondary holds, and begins
//! an epoch greater than every one they have heard of. It waits until all have answered, or for
//! `RECOVERY_TIMEOUT_MS`; what only a secondary holds that does not answer in time is lost to the
//! others, and that secondary will be found diverged. Writes wait meanwhile; reads do not.

use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime};

use common::client::Client;
use common::entries::{Epoch, Log, Seq};
use common::wire::{Heartbeat, Position, Replicate};
use log::{info, warn};

use crate::heartbeat::{HEARTBEAT_TIMEOUT, ask};
use crate::replication::Replication;

/// Between two questions to a secondary that did not answer.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// How long one batch of entries may take to arrive.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// A secondary that answered, and where it stands.
struct Found<'a> {
    url: &'a str,
    position: Position,
}

/// Recovers the log and begins a reign.
pub fn recover(
    replication: &Arc<Replication>,
    couriers: Vec<Thread>,
    timeout: Duration,
    most_keys: usize,
) {
    let deadline = Instant::now() + timeout;
    let answers = ask_all(replication.urls(), deadline);
    let answered: Vec<bool> = answers.iter().map(Option::is_some).collect();
    let positions = replication.urls().iter().zip(answers);
    let found = positions.filter_map(|(url, answer)| Some(Found { url, position: answer?? }));
    let mut found: Vec<Found<'_>> = found.collect();
    let highest = found.iter().map(|found| found.position.epoch).max().unwrap_or_default();
    // The best last: the highest epoch, and of those the longest log.
    found.sort_by_key(|found| (found.position.last_epoch, found.position.last_seq));
    let mut log = Log::new(most_keys);
    while let Some(best) = found.pop() {
        match fetch(&best, most_keys) {
            Ok(fetched) => {
                log = fetched;
                break;
            }
            Err(error) => warn!("failed to recover from={} error={error:?}", best.url),
        }
    }
    let epoch = new_epoch(highest);
    let last_seq = log.last_seq();
    replication.begin_reign(epoch, log, couriers, &answered);
    info!("began a reign epoch={epoch} last_seq={last_seq}");
}

/// Asks every secondary at the same time until it has answered or the deadline has passed: `None`
/// for one that has not, `Some(None)` for an original.
fn ask_all(urls: &[String], deadline: Instant) -> Vec<Option<Option<Position>>> {
    thread::scope(|scope| {
        let threads = urls.iter().map(|url| scope.spawn(move || ask_until(url, deadline)));
        let asked: Vec<_> = threads.collect();
        asked.into_iter().map(|thread| thread.join().ok().flatten()).collect()
    })
}

fn ask_until(url: &str, deadline: Instant) -> Option<Option<Position>> {
    let left = deadline.saturating_duration_since(Instant::now());
    let client = Client::new(url, left.clamp(Duration::from_millis(1), HEARTBEAT_TIMEOUT));
    // Of no reign yet: it tells the secondary nothing.
    let epoch = Epoch::default();
    let nothing = Heartbeat { epoch, last_seq: Seq::NONE, committed_seq: Seq::NONE };
    loop {
        match ask(&client, &nothing) {
            Ok(position) => return Some(position),
            Err(error) if Instant::now() + ASK_INTERVAL >= deadline => {
                warn!("began without a secondary secondary={url} error={error:?}");
                return None;
            }
            Err(_) => thread::sleep(ASK_INTERVAL),
        }
    }
}

fn fetch(from: &Found<'_>, most_keys: usize) -> Result<Log, String> {
    let client = Client::new(from.url, FETCH_TIMEOUT);
    let mut log = Log::new(most_keys);
    while log.last_seq() < from.position.last_seq {
        let next = log.last_seq().next();
        let answer =
            client.get(&format!("/entries?from={next}")).map_err(|error| error.to_string())?;
        let mut batch: Replicate = serde_json::from_slice(&answer.body)
            .map_err(|_| format!("answered {} to GET /entries", answer.status))?;
        let epoch = batch.entry_epoch.ok_or("sent entries without an epoch")?;
        let drafts = batch.drafts().filter(|drafts| !drafts.is_empty());
        let drafts = drafts.ok_or("sent no entries")?;
        if batch.seq != Some(next) {
            return Err(format!("sent other entries than those from {next} on"));
        }
        drafts.iter().for_each(|draft| _ = log.append(epoch, draft));
    }
    if log.last_seq() > Seq::NONE {
        info!("recovered entries from={} last_seq={}", from.url, log.last_seq());
    }
    Ok(log)
}

/// Greater than every epoch heard of, and than those of earlier starts that nobody remembers: the
/// time in milliseconds, or more.
fn new_epoch(highest: Epoch) -> Epoch {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let milliseconds = since_1970.as_ref().map_or(1, Duration::as_millis);
    Epoch(u64::try_from(milliseconds).unwrap_or(u64::MAX).max(highest.0.saturating_add(1)))
}
