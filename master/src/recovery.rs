//! How a master begins: it asks its secondaries what they hold.
//!
//! A master that starts with an empty memory would number other messages with places that are
//! taken. So it adopts the longest log of the highest epoch that any secondary holds. Before it
//! looks at their logs it tells them its own epoch, greater than every one they have heard of:
//! from then on they take nothing more from a former master, and what they say they hold is final.
//!
//! It waits until all have answered, or for `RECOVERY_TIMEOUT_MS`; what only a secondary holds that
//! does not answer in time is lost to the others, and that secondary will be found diverged.
//! Writes wait meanwhile; reads do not.

use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime};

use common::client::Client;
use common::entries::{Epoch, Log, Seq};
use common::wire::{Heartbeat, Position, Replicate};
use log::{debug, info, warn};

use crate::heartbeat::{HEARTBEAT_TIMEOUT, ask};
use crate::lines::Found;
use crate::replication::Replication;

/// Between two questions to a secondary that did not answer.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// How long one batch of entries may take to arrive.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// A secondary that answered, and where it stands.
struct Copy<'a> {
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
    let urls = replication.urls();
    let (epoch, answers) = announce(urls, Instant::now() + timeout);
    let found: Vec<Found> = answers.iter().map(what_was_found).collect();
    let copies = urls.iter().zip(answers);
    let copies = copies.filter_map(|(url, answer)| Some(Copy { url, position: answer?? }));
    let mut copies: Vec<Copy<'_>> = copies.collect();
    // The best last: the highest epoch, and of those the longest log.
    copies.sort_by_key(|copy| (copy.position.last_epoch, copy.position.last_seq));
    let mut log = Log::new(most_keys);
    while let Some(best) = copies.pop() {
        match fetch_patiently(&best, most_keys, Instant::now() + timeout) {
            Ok(fetched) => {
                log = fetched;
                break;
            }
            Err(error) => warn!("failed to recover from={} error={error:?}", best.url),
        }
    }
    let last_seq = log.last_seq();
    replication.begin_reign(epoch, log, couriers, &found);
    info!("began a reign epoch={epoch} last_seq={last_seq}");
}

fn what_was_found(answer: &Option<Option<Position>>) -> Found {
    match answer {
        None => Found::Nothing,
        Some(None) => Found::Original,
        Some(Some(_)) => Found::Ours,
    }
}

/// Finds an epoch that is greater than every one the secondaries have heard of, tells it to them,
/// and returns what they answered to that.
fn announce(urls: &[String], deadline: Instant) -> (Epoch, Vec<Option<Option<Position>>>) {
    // An epoch of 0 tells nothing; it only asks.
    let all: Vec<&String> = urls.iter().collect();
    let mut answers = ask_all(&all, Epoch::default(), deadline);
    loop {
        let positions = answers.iter().flatten().flatten();
        let epoch = new_epoch(positions.map(|position| position.epoch).max().unwrap_or_default());
        // Those that have answered answer again soon; the others have had their time.
        let soon = deadline.max(Instant::now() + HEARTBEAT_TIMEOUT);
        let present: Vec<&String> = urls
            .iter()
            .zip(&answers)
            .filter_map(|(url, answer)| answer.as_ref().map(|_| url))
            .collect();
        let mut told = ask_all(&present, epoch, soon).into_iter();
        answers = answers.iter().map(|answer| answer.as_ref().and_then(|_| told.next()?)).collect();
        // Somebody else has begun a reign meanwhile: begin a greater one.
        let mut positions = answers.iter().flatten().flatten();
        if positions.all(|position| position.epoch <= epoch) {
            return (epoch, answers);
        }
    }
}

/// Asks every secondary at the same time until it has answered or the deadline has passed: `None`
/// for one that has not, `Some(None)` for an original.
fn ask_all(urls: &[&String], epoch: Epoch, deadline: Instant) -> Vec<Option<Option<Position>>> {
    thread::scope(|scope| {
        let threads = urls.iter().map(|url| scope.spawn(move || ask_until(url, epoch, deadline)));
        let asked: Vec<_> = threads.collect();
        asked.into_iter().map(|thread| thread.join().ok().flatten()).collect()
    })
}

fn ask_until(url: &str, epoch: Epoch, deadline: Instant) -> Option<Option<Position>> {
    let left = deadline.saturating_duration_since(Instant::now());
    let client = Client::new(url, left.clamp(Duration::from_millis(1), HEARTBEAT_TIMEOUT));
    let nothing = Heartbeat { epoch, ..Heartbeat::default() };
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

/// Tries again while there is time: a copy that was found must not be lost to one failed call.
fn fetch_patiently(from: &Copy<'_>, most_keys: usize, deadline: Instant) -> Result<Log, String> {
    loop {
        match fetch(from, most_keys) {
            Err(error) if Instant::now() < deadline => {
                debug!("failed to fetch from={} error={error:?}", from.url);
                thread::sleep(ASK_INTERVAL);
            }
            result => return result,
        }
    }
}

fn fetch(from: &Copy<'_>, most_keys: usize) -> Result<Log, String> {
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
