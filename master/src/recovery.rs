//! How a master begins: it looks who reigns, asks for promises, and takes over the best log.
//!
//! A look asks the secondaries where they stand and whom they hear, and changes nothing: a master
//! that has no right to reign harms nobody. What follows from the answers decides
//! [`takeover`](crate::takeover). While another master lives, this one stands by and keeps its log
//! level with what is committed there, so that a takeover finds little to fetch.
//!
//! A promise ends all earlier reigns: from then on the secondary takes nothing more from a former
//! master, and what it says it holds is final. The best log among those that promised and the own
//! one is the log of the new reign. What it lacks is fetched. What it has beyond the best log nobody
//! was told by a majority to be stored; it is set aside. When all of that is on the own disk, the
//! reign begins.
//!
//! Nothing of this gives up: whatever is missing is waited for, and told in `/health` and `/ready`.

use std::thread::{self, ScopedJoinHandle, Thread};
use std::time::{Duration, Instant, SystemTime};

use common::client::{Client, NO_SUCH_NAME, REFUSED};
use common::epochs;
use common::random::random;
use common::reign::{Facts, Reign};
use common::store::StoreError;
use common::wire::{Heard, Heartbeat, Promise, Standing};
use log::{debug, info, warn};

use crate::ask::ask;
use crate::couriers::wake_couriers;
use crate::fetch::{Better, Delay};
use crate::lines::{Found, LineId, When};
use crate::state::{Courier, Options, Phase, Replication, State};
use crate::takeover::{Candidate, Next, Recovery, best, greatest_epoch};

/// How long a secondary may take to say where it stands, and to promise, which it writes down.
const LOOK_TIMEOUT: Duration = Duration::from_millis(250);
const PROMISE_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two looks; the random part lets one of two candidates be first.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How long one piece of a log may take to arrive; a master that stands by must go on looking.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(1);

/// A master that stands by begins to fetch no piece after this time since its last look.
const FOLLOW_TIME: Duration = Duration::from_millis(200);

/// Begins a reign as soon as this master may; returns without one when its disk has failed.
/// `couriers` are the threads of the lines.
pub fn recover(replication: &Replication, couriers: Vec<Thread>, takeover: bool) {
    let first = Reign::first(replication.lock().facts.id);
    let start = Instant::now();
    let mut tried = Try {
        start,
        takeover,
        first,
        has_heard: false,
        has_stood_by: false,
        is_new: true,
        master: None,
    };
    loop {
        match replication.attempt(&mut tried) {
            Ok((reign, found)) => return replication.begin_reign(reign, couriers, &found),
            Err(Delay::Wait(why) | Delay::Unfetched(why)) => {
                let (master, is_new) = (tried.master.take(), tried.is_new);
                replication.wait(Phase::Waiting { why, master, is_new });
            }
            Err(Delay::DiskFailed(error)) => {
                replication.lock().fail_disk(error);
                return replication.begun.notify_all();
            }
        }
        thread::sleep(LOOK_INTERVAL + Duration::from_millis(random() % 50));
    }
}

/// What one attempt leaves to the next.
struct Try {
    /// Since when nobody reigns, as far as is known.
    start: Instant,
    takeover: bool,
    /// The reign, if it is the first one of the cluster.
    first: Reign,
    /// Somebody has told of a reign of another master.
    has_heard: bool,
    /// Another master has reigned meanwhile, perhaps by the same URL.
    has_stood_by: bool,
    /// Nobody who answered has ever heard of a reign.
    is_new: bool,
    /// The master that reigns meanwhile.
    master: Option<Heard>,
}

impl Replication {
    /// Tries to get the right to reign, and the log for it. Returns the reign and the standings of
    /// the secondaries that promised it, or how this master waits.
    fn attempt(&self, tried: &mut Try) -> Result<(Reign, Vec<Found>), Delay> {
        let urls = self.urls();
        let looked = on_each(urls.len(), |line| look(&urls[line], &self.options));
        let candidate = self.candidate(tried);
        tried.is_new = candidate.is_first(&looked);
        tried.has_heard |= !tried.is_new;
        let is_first = match candidate.look(urls, &looked) {
            Next::Ask { is_first } => is_first,
            Next::Wait(why) => return Err(Delay::Wait(why)),
            Next::StandBy(heard) => return Err(self.stand_by(heard, &looked, tried)),
        };
        let (reign, promised) = self.gather_promises(&candidate, tried, &looked, is_first)?;
        self.take_over_best(&candidate, reign, &promised, looked)?;
        self.persist_reign(reign)?;
        Ok((reign, promised))
    }

    /// Another master reigns, or is about to.
    fn stand_by(&self, heard: Heard, looked: &[Found], tried: &mut Try) -> Delay {
        (tried.start, tried.has_stood_by, tried.is_new) = (Instant::now(), true, false);
        if let Err(delay) = self.follow(looked) {
            return delay;
        }
        // One that does not reign yet perhaps never will: clients are not led there.
        tried.master = Some(heard).filter(|heard| !heard.is_candidate);
        Delay::Wait("standby".into())
    }

    /// Asks the secondaries that have answered for their promises. Returns the reign and the
    /// standings of those that promise it, if those are enough.
    fn gather_promises(
        &self,
        candidate: &Candidate<'_>,
        tried: &Try,
        looked: &[Found],
        is_first: bool,
    ) -> Result<(Reign, Vec<Found>), Delay> {
        let heard = greatest_epoch(looked).max(candidate.facts.promised.epoch);
        let reign = match is_first {
            true => tried.first,
            false => Reign { epoch: epochs::draw(heard), master: candidate.id },
        };
        let (url, takeover) = (candidate.url.to_string(), tried.takeover);
        let promise = Promise { reign, url, takeover };
        let promised = on_each(looked.len(), |line| match &looked[line] {
            Found::Ours(_) => {
                ask_promise(&self.options.client(&self.urls()[line], PROMISE_TIMEOUT), &promise)
            }
            other => other.clone(),
        });
        // Whoever refuses a first reign has heard of another one.
        let count =
            |found: &[Found]| found.iter().filter(|it| matches!(it, Found::Ours(_))).count();
        let is_refused = is_first && count(&promised) < count(looked);
        if is_refused || !candidate.is_enough(&promised, is_first) {
            return Err(Delay::Wait("too few secondaries promise to follow".into()));
        }
        Ok((reign, promised))
    }

    /// Makes the best log among those of these secondaries and the own one the own log.
    fn take_over_best(
        &self,
        candidate: &Candidate<'_>,
        reign: Reign,
        promised: &[Found],
        looked: Vec<Found>,
    ) -> Result<(), Delay> {
        let mut known = promised.to_vec();
        if candidate.recovery == Recovery::Any {
            // Whoever cannot promise, as on a full disk, may have the better log all the same.
            let silent = known.iter_mut().zip(looked).filter(|(it, _)| **it == Found::Nothing);
            silent.for_each(|(it, looked)| *it = looked);
        }
        let own = candidate.rank(promised);
        let Some((index, standing)) = best(&known, own) else { return Ok(()) };
        let client = self.options.client(&self.urls()[index], FETCH_TIMEOUT);
        let (until, epoch) = (standing.position.last_seq, reign.epoch);
        self.take_over(&Better { client, standing, until, epoch }, None)
    }

    fn candidate(&self, tried: &Try) -> Candidate<'_> {
        let (state, recovery) = (self.lock(), self.options.recovery);
        let (facts, last_seq) = (state.facts, state.log.last_seq());
        let timeout = self.options.recovery_timeout;
        let is_late = !timeout.is_zero() && tried.start.elapsed() >= timeout;
        let url = if tried.has_stood_by { "" } else { &self.options.url };
        let Try { takeover, has_heard, .. } = *tried;
        Candidate { id: facts.id, url, facts, last_seq, recovery, takeover, is_late, has_heard }
    }

    /// Notes how this master waits, and says so in the log when it changes.
    fn wait(&self, phase: Phase) {
        let mut state = self.lock();
        if state.phase != phase {
            if let Phase::Waiting { why, master, .. } = &phase {
                let master = master.as_ref().map_or("", |heard| heard.url.as_str());
                warn!("waiting reason={why:?} master={master:?}");
            }
            state.phase = phase;
        }
        drop(state);
        self.begun.notify_all();
    }

    /// Keeps the log of a master that stands by level with what is committed.
    fn follow(&self, found: &[Found]) -> Result<(), Delay> {
        let standings = self.urls().iter().zip(found).filter_map(|(url, found)| match found {
            Found::Ours(standing) => Some((url, standing)),
            _ => None,
        });
        let furthest = standings.max_by_key(|(_, standing)| standing.committed_seq);
        let Some((url, standing)) = furthest else { return Ok(()) };
        if standing.committed_seq <= self.lock().log.last_seq() {
            return Ok(());
        }
        let (client, until) = (self.options.client(url, FOLLOW_TIMEOUT), standing.committed_seq);
        let better = Better { client, standing, until, epoch: standing.position.epoch };
        match self.take_over(&better, Some(Instant::now() + FOLLOW_TIME)) {
            Err(Delay::Unfetched(why)) => {
                // The next look tries again, several times a second.
                debug!("failed to follow error={why:?}");
                Ok(())
            }
            followed => followed,
        }
    }

    /// Writes the reign to the disk before anything is sent in it. The log counts as the reign's
    /// from now on.
    fn persist_reign(&self, reign: Reign) -> Result<(), StoreError> {
        let state = self.lock();
        let log_epoch = if reign.is_first() { state.facts.log_epoch } else { reign.epoch };
        let facts = Facts { promised: reign, followed: true, log_epoch, ..state.facts };
        let nothing = state.log.batch(state.log.last_seq().next(), 0);
        drop(state);
        if let Some(store) = &self.store {
            store.write(&nothing, &facts)?;
        }
        self.lock().facts = facts;
        Ok(())
    }

    /// Begins a reign. `couriers` are the threads of the lines, and `found` holds the answer of each
    /// secondary.
    pub fn begin_reign(&self, reign: Reign, couriers: Vec<Thread>, found: &[Found]) {
        let mut state = self.lock();
        let State { log, lines, .. } = &mut *state;
        let on_disk = self.store.as_ref().map(|_| log.last_seq());
        lines.begin_reign(reign, log, on_disk, found, Instant::now());
        let asleep = |thread| Courier { thread, sleeps_until: When::Blocked, out_with: None };
        state.couriers = couriers.into_iter().map(asleep).collect();
        (state.phase, state.reigns_since) = (Phase::Reigning, Some(SystemTime::now()));
        let last = state.lines.stored_seq();
        self.ring(&state.lines);
        self.rounds.answered.ring(state.lines.answered_number());
        wake_couriers(state, Instant::now());
        self.begun.notify_all();
        info!("began a reign epoch={reign} last_seq={last}");
    }
}

/// Does this for each line at the same time.
fn on_each(lines: usize, ask: impl Fn(LineId) -> Found + Sync) -> Vec<Found> {
    let ask = &ask;
    thread::scope(|scope| {
        let ask_one = |line| thread::Builder::new().spawn_scoped(scope, move || ask(line)).ok();
        let asked: Vec<_> = (0..lines).map(ask_one).collect();
        // Whoever could not be asked has said nothing.
        let answer = |thread: ScopedJoinHandle<'_, Found>| thread.join().unwrap_or_default();
        asked.into_iter().map(|thread| thread.map(answer).unwrap_or_default()).collect()
    })
}

/// Asks a secondary where it stands. The master that asks says its own URL.
fn look(url: &str, options: &Options) -> Found {
    let question = Heartbeat { url: options.url.clone(), ..Heartbeat::default() };
    let found = ask(&options.client(url, LOOK_TIMEOUT), &question, true);
    found.unwrap_or_else(|error| match [REFUSED, NO_SUCH_NAME].contains(&error.as_str()) {
        true => Found::Refused,
        false => Found::Nothing,
    })
}

fn ask_promise(client: &Client, promise: &Promise) -> Found {
    let url = client.base();
    let body = serde_json::to_vec(promise).expect("a promise has only string keys");
    let answer = match client.post("/promise", &body) {
        Ok(answer) => answer,
        Err(error) => {
            warn!("no promise secondary={url} error={error:?}");
            return Found::Nothing;
        }
    };
    match serde_json::from_slice::<Standing>(&answer.body) {
        Ok(standing)
            if answer.status == 200
                && epochs::check(standing.position.greatest_epoch(), url).is_ok() =>
        {
            Found::Ours(standing)
        }
        _ => {
            let body = String::from_utf8_lossy(&answer.body);
            warn!("no promise secondary={url} status={} answer={body:?}", answer.status);
            Found::Nothing
        }
    }
}
