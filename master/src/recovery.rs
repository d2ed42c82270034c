//! How a master begins: it asks its secondaries what they hold.
//!
//! A master that starts with an empty memory would number other messages with places that are
//! taken. So it adopts the longest log of the highest epoch that any secondary holds. Before it
//! looks at their logs it tells them its own epoch, greater than every one they have heard of:
//! from then on they take nothing more from a former master, and what they say they hold is final.
//!
//! A master with a disk takes its own log for one more copy. If a secondary has the better one, the
//! own must be the beginning of it, and is continued. If it is not, this master must not reign: it
//! overwrites nothing, and the operator decides.
//!
//! It waits until all have answered, or for `RECOVERY_TIMEOUT_MS`; a secondary may not answer in
//! time. Entries that it alone holds are then missing from the new log, and it will be found
//! diverged. Writes wait meanwhile; reads are refused.

use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime};

use common::client::Client;
use common::entries::{Draft, Epoch, Seq};
use common::random::random;
use common::wire::{Heartbeat, Numbered, Position, Replicate};
use log::{debug, error, info, warn};

use crate::couriers::{HEARTBEAT_TIMEOUT, ask, wake_couriers};
use crate::lines::{Found, When};
use crate::state::{Courier, Replication, State};

/// Between two questions to a secondary that did not answer.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// How long one batch of entries may take to arrive.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// An epoch ends with one of so many numbers. A JavaScript number still holds all of it.
const DRAWN_FROM: u64 = 1 << 11;

/// A secondary that answered, and where it stands.
struct Copy<'a> {
    url: &'a str,
    position: Position,
}

/// Entries that are to follow the log, in the order and the epochs they were appended in.
type Recovered = Vec<(Epoch, Vec<Draft>)>;

/// Recovers what the log lacks and begins a reign; `epoch` is the greatest one noted on the disk.
pub fn recover(
    replication: &Arc<Replication>,
    couriers: Vec<Thread>,
    timeout: Duration,
    epoch: Epoch,
) {
    let urls = replication.urls();
    let own = {
        let state = replication.lock();
        (state.log.last_epoch(), state.log.last_seq())
    };
    let heard =
        ask_all(&urls.iter().collect::<Vec<_>>(), Epoch::default(), Instant::now() + timeout);
    // Before anybody is told of a new epoch: a master that must not reign must not end a reign.
    let bar = |why: String| {
        error!("must not reign reason={why:?}");
        replication.bar(why);
    };
    if let Err(why) = all_continue(&copies(urls, &heard), own) {
        return bar(why);
    }
    let (epoch, told) = announce(urls, heard.clone(), epoch, Instant::now() + timeout);
    let found = with_untold(urls, &heard, told.clone());
    let mut copies = copies(urls, &found);
    // Again: somebody else may have appended until then.
    if let Err(why) = all_continue(&copies, own) {
        return bar(why);
    }
    let mut recovered = Recovered::new();
    while let Some(best) = copies.pop().filter(|copy| copy.rank() > own) {
        match fetch_patiently(&best, own, Instant::now() + timeout) {
            Ok(fetched) => {
                recovered = fetched;
                break;
            }
            Err(error) => warn!("failed to recover from={} error={error:?}", best.url),
        }
    }
    replication.begin_reign(epoch, &recovered, couriers, &told);
    info!("began a reign epoch={epoch} last_seq={}", replication.lock().log.last_seq());
}

/// The secondaries of ours that have answered; the best last: the highest epoch, and of those the
/// longest log.
fn copies<'a>(urls: &'a [String], answers: &[Found]) -> Vec<Copy<'a>> {
    let copies = urls.iter().zip(answers).filter_map(|(url, answer)| match answer {
        Found::Ours(position) => Some(Copy { url, position: position.clone() }),
        Found::Nothing | Found::Original => None,
    });
    let mut copies: Vec<Copy<'_>> = copies.collect();
    copies.sort_by_key(Copy::rank);
    copies
}

/// Fills the gaps in `told`: a secondary whose disk has failed cannot record the new epoch, but its
/// log can still be read, so it is asked again without one.
fn with_untold(urls: &[String], heard: &[Found], mut told: Vec<Found>) -> Vec<Found> {
    let is_untold = |line: &usize| heard[*line] != Found::Nothing && told[*line] == Found::Nothing;
    let untold: Vec<usize> = (0..urls.len()).filter(is_untold).collect();
    let asked: Vec<&String> = untold.iter().map(|line| &urls[*line]).collect();
    // It has had its time; one that lives answers at once.
    let soon = Instant::now() + 2 * ASK_INTERVAL;
    for (line, answer) in untold.iter().zip(ask_all(&asked, Epoch::default(), soon)) {
        told[*line] = answer;
    }
    told
}

/// That the better ones of these logs begin with the own one.
fn all_continue(copies: &[Copy<'_>], own: (Epoch, Seq)) -> Result<(), String> {
    copies.iter().rev().try_for_each(|copy| copy.continues(own))
}

impl Copy<'_> {
    fn rank(&self) -> (Epoch, Seq) {
        (self.position.last_epoch, self.position.last_seq)
    }

    /// That its log begins with the own one, if it is the better of the two.
    fn continues(&self, own: (Epoch, Seq)) -> Result<(), String> {
        let (epoch, last) = own;
        if last == Seq::NONE || self.rank() <= own {
            return Ok(());
        }
        let diverged = || {
            format!(
                "the log on disk ends with entry {last} of epoch {epoch}, which {} does not have: \
                 it has another log of a later epoch",
                self.url
            )
        };
        if self.position.last_seq <= last {
            return Err(diverged());
        }
        match batch(&Client::new(self.url, FETCH_TIMEOUT), last.next()) {
            Ok(batch) if batch.prev_epoch != epoch => Err(diverged()),
            // It is asked again before anything is taken from it.
            _ => Ok(()),
        }
    }
}

/// Finds an epoch that is greater than every one the secondaries have heard of, tells it to them,
/// and returns it with their answers.
fn announce(
    urls: &[String],
    heard: Vec<Found>,
    own: Epoch,
    deadline: Instant,
) -> (Epoch, Vec<Found>) {
    let mut answers = heard;
    loop {
        let epoch = new_epoch(greatest_epoch(&answers).max(own));
        // Those that have answered answer again soon; the others have had their time.
        let soon = deadline.max(Instant::now() + HEARTBEAT_TIMEOUT);
        let present = urls.iter().zip(&answers).filter(|(_, answer)| **answer != Found::Nothing);
        let present: Vec<&String> = present.map(|(url, _)| url).collect();
        let told = ask_all(&present, epoch, soon);
        let heard = answers.iter_mut().filter(|answer| **answer != Found::Nothing);
        heard.zip(told).for_each(|(answer, told)| *answer = told);
        // If somebody else has begun a reign meanwhile, begin a greater one.
        if greatest_epoch(&answers) <= epoch {
            return (epoch, answers);
        }
    }
}

fn greatest_epoch(answers: &[Found]) -> Epoch {
    let epoch = |answer: &Found| match answer {
        Found::Ours(position) => position.epoch,
        Found::Nothing | Found::Original => Epoch::default(),
    };
    answers.iter().map(epoch).max().unwrap_or_default()
}

/// Asks every secondary at the same time until it has answered or the deadline has passed.
fn ask_all(urls: &[&String], epoch: Epoch, deadline: Instant) -> Vec<Found> {
    thread::scope(|scope| {
        let threads = urls.iter().map(|url| scope.spawn(move || ask_until(url, epoch, deadline)));
        let asked: Vec<_> = threads.collect();
        asked.into_iter().map(|thread| thread.join().unwrap_or(Found::Nothing)).collect()
    })
}

fn ask_until(url: &str, epoch: Epoch, deadline: Instant) -> Found {
    let left = deadline.saturating_duration_since(Instant::now());
    let client = Client::new(url, left.clamp(Duration::from_millis(1), HEARTBEAT_TIMEOUT));
    let nothing = Heartbeat { epoch, ..Heartbeat::default() };
    loop {
        match ask(&client, &nothing) {
            Ok(Some(heard)) => return Found::Ours(heard.position),
            Ok(None) => return Found::Original,
            Err(error) if Instant::now() + ASK_INTERVAL >= deadline => {
                warn!("began without a secondary secondary={url} error={error:?}");
                return Found::Nothing;
            }
            Err(_) => thread::sleep(ASK_INTERVAL),
        }
    }
}

/// Tries again while there is time: a copy that was found must not be lost to one failed call.
fn fetch_patiently(
    from: &Copy<'_>,
    own: (Epoch, Seq),
    deadline: Instant,
) -> Result<Recovered, String> {
    loop {
        match fetch(from, own) {
            Err(error) if Instant::now() < deadline => {
                debug!("failed to fetch from={} error={error:?}", from.url);
                thread::sleep(ASK_INTERVAL);
            }
            result => return result,
        }
    }
}

/// Everything that follows the own log.
fn fetch(from: &Copy<'_>, (own_epoch, own_last): (Epoch, Seq)) -> Result<Recovered, String> {
    let client = Client::new(from.url, FETCH_TIMEOUT);
    let (mut recovered, mut last, mut last_epoch) = (Recovered::new(), own_last, own_epoch);
    while last < from.position.last_seq {
        let batch = batch(&client, last.next())?;
        if batch.prev_epoch != last_epoch {
            return Err(format!("has another entry at {last}"));
        }
        (last, last_epoch) = (batch.last(), batch.epoch);
        recovered.push((batch.epoch, batch.drafts));
    }
    info!("recovered entries from={} last_seq={last}", from.url);
    Ok(recovered)
}

/// Some entries from this one on, in the form of a call.
fn batch(client: &Client, first: Seq) -> Result<Numbered, String> {
    let answer = client.get(&format!("/entries?from={first}"));
    let answer = answer.map_err(|error| error.to_string())?;
    match serde_json::from_slice(&answer.body) {
        Ok(Replicate::Numbered(batch)) if batch.first == first && !batch.drafts.is_empty() => {
            Ok(batch)
        }
        Ok(_) => Err(format!("sent other entries than those from {first} on")),
        Err(_) => Err(format!("answered {} to GET /entries", answer.status)),
    }
}

/// Greater than every epoch heard of, and than those of earlier starts that nobody remembers: the
/// time in milliseconds, or more, and then a number that no other master draws at the same moment.
/// In one epoch two masters would take each other's entries for their own.
fn new_epoch(highest: Epoch) -> Epoch {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let milliseconds = since_1970.as_ref().map_or(0, Duration::as_millis);
    let now = u64::try_from(milliseconds).unwrap_or_default().saturating_mul(DRAWN_FROM);
    let least = now.max(highest.0.saturating_add(1));
    Epoch(least.saturating_add(random() % DRAWN_FROM))
}

impl Replication {
    /// Begins a reign over the log and the entries that were recovered beyond it. `couriers` are
    /// the threads of the lines, and `found` holds the answer of each secondary to the recovery.
    pub fn begin_reign(
        &self,
        epoch: Epoch,
        recovered: &[(Epoch, Vec<Draft>)],
        couriers: Vec<Thread>,
        found: &[Found],
    ) {
        self.persist_epoch(epoch);
        let mut state = self.lock();
        for (epoch, drafts) in recovered {
            drafts.iter().for_each(|draft| _ = state.log.append(*epoch, draft));
        }
        let State { log, lines, .. } = &mut *state;
        lines.begin_reign(epoch, log, found, Instant::now());
        let asleep = |thread| Courier { thread, sleeps_until: When::Blocked, out_with: None };
        state.couriers = couriers.into_iter().map(asleep).collect();
        state.recovering = false;
        self.ring(&state.lines);
        self.rounds.answered.ring(state.lines.answered_number());
        wake_couriers(state, Instant::now());
        self.begun.notify_all();
    }

    /// Writes the epoch to the disk before any entry is sent in it: a restart must not begin it
    /// again.
    fn persist_epoch(&self, epoch: Epoch) {
        let Some(store) = &self.store else { return };
        let none = {
            let state = self.lock();
            state.log.batch(state.log.last_seq().next(), 0)
        };
        if let Err(error) = store.write(&none, epoch) {
            self.lock().fail_disk(error);
        }
    }

    /// Keeps this master from reigning: it serves what it has, and says why.
    pub fn bar(&self, why: String) {
        let mut state = self.lock();
        (state.barred, state.recovering) = (Some(why), false);
        drop(state);
        self.begun.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn masters_that_start_together_draw_different_epochs() {
        let highest = new_epoch(Epoch::default());
        // Beyond the clock, which two masters that have heard the same cannot tell apart.
        let ahead = Epoch(highest.0 << 1);
        for heard in [Epoch::default(), ahead] {
            let epochs: HashSet<u64> = (0..100).map(|_| new_epoch(heard).0).collect();
            assert!(epochs.len() > 80, "{} of 100 differ", epochs.len());
            assert!(epochs.iter().all(|epoch| *epoch > heard.0 && *epoch < 1 << 54));
        }
        assert!(new_epoch(highest) > highest);
    }
}
