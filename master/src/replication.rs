//! The life of one write.
//!
//! A request appends its message, which gives it a place, and then, inside a scope of threads:
//!
//! - it claims every line that is free and lacks its entry, and calls those secondaries on scoped
//!   threads. One that needs every acknowledgement makes the last call on its own thread: a
//!   thread costs more than the call;
//! - whoever has made a call settles the line and wakes those whose entry is decided by it, and
//!   one request to make the next call if there is something to send. When no request waits any
//!   more, the line's courier does ([`courier`](crate::heartbeat));
//! - when enough nodes hold the entry, or one has failed a request that fails fast, or time is up,
//!   the client is answered. Leaving the scope joins what is still out.
//!
//! One mutex protects the log, the lines and the waiters. It is never held during a call.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope, Thread};
use std::time::{Duration, Instant};

use common::client::Client;
use common::entries::{Draft, Epoch, Log, Seq};
use common::follow::{Bell, Source};
use common::store::{Opened, Store, StoreError, TRANSACTION_BYTES};
use common::wire::{AckStatus, Heartbeat, Position, SecondaryStatus};
use log::{debug, error, info, warn};

use crate::concern::Concern;
use crate::health::{Status, Thresholds};
use crate::lines::{Call, Found, Line, LineId, Lines, Verdict};
use crate::metrics::Metrics;
use crate::timeline::Timeline;
use crate::waiters::{Place, Standing, Waiters};

/// After the first failure of a write, how long the other secondaries may take to report before
/// the client is told: so that one answer names everything that is wrong.
const FAILURE_GRACE: Duration = Duration::from_millis(100);

/// How often a request lets other threads run before it calls: those that are about to append ride
/// on the call. When nobody else is ready to run it costs nothing; with 64 clients it saves 10 % of
/// the CPU time of an append (three times; once saves nothing, eight times no more). All that find a
/// line free do so: to have one of them wait for the others costs 15 %, for these then go to sleep.
const YIELDS: usize = 3;

/// How writes are replicated.
#[derive(Debug, Clone)]
pub struct Options {
    /// Base URLs of the secondaries.
    pub secondaries: Vec<String>,
    /// Bounds each call, and each write that fails fast.
    pub ack_timeout: Duration,
    /// Nodes that must be reachable for a write, the master included; `None` for no matter.
    pub quorum: Option<usize>,
    /// How many idempotency keys are remembered.
    pub idempotency_keys: usize,
    /// What missed heartbeats mean.
    pub thresholds: Thresholds,
    /// What the messages of the log may take, in bytes of JSON.
    pub max_log_bytes: u64,
}

/// Everything that writes have in common.
#[derive(Debug)]
pub struct Replication {
    state: Mutex<State>,
    /// The reign has begun.
    begun: Condvar,
    store: Option<Store>,
    /// Something is not on the disk yet.
    unsaved: Condvar,
    clients: Vec<Client>,
    options: Options,
    /// What is counted and measured.
    pub metrics: Metrics,
    bell: Bell,
}

/// What the lock protects.
#[derive(Debug)]
pub struct State {
    /// The log.
    pub log: Log,
    /// What each secondary has and gets.
    pub lines: Lines,
    /// What happened to the last appends.
    pub timeline: Timeline,
    waiters: Waiters<Thread>,
    recovering: bool,
    /// Why this master must not reign.
    barred: Option<String>,
    quorum: Option<usize>,
    max_log_bytes: u64,
}

/// Why nothing can be appended now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadOnly {
    /// A greater epoch has begun.
    Fenced(Epoch),
    /// Fewer nodes are reachable than must be.
    NoQuorum {
        /// How many are.
        reachable: usize,
        /// How many must be.
        quorum: usize,
    },
    /// Its log on disk contradicts what the secondaries hold.
    Barred(String),
    /// Its disk has failed.
    DiskFailed(StoreError),
}

impl fmt::Display for ReadOnly {
    /// In words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadOnly::Fenced(epoch) => {
                write!(f, "epoch {epoch} has begun: another master reigns")
            }
            ReadOnly::NoQuorum { reachable, quorum } => {
                write!(f, "no quorum: {reachable} nodes are reachable, {quorum} must be")
            }
            ReadOnly::Barred(why) => f.write_str(why),
            ReadOnly::DiskFailed(error) => write!(f, "the disk has failed: {error}"),
        }
    }
}

/// How a write ended.
#[derive(Debug)]
pub enum Written {
    /// As many nodes as it takes hold the entry.
    Acknowledged(Stored),
    /// The entry is in the log and will reach every secondary, but has not yet.
    Unacknowledged {
        /// The entry.
        stored: Stored,
        /// The secondary to be named first, and why.
        failed: AckStatus,
    },
    /// Nothing was appended: the idempotency key belongs to this entry, which is another message.
    KeyReused(Seq),
    /// Nothing was appended: the log has reached its limit.
    LogFull,
    /// Nothing was appended.
    ReadOnly(ReadOnly),
    /// The master's disk failed before the entry was on it: nobody knows whether it is in the log
    /// after a restart.
    DiskFailed(Seq, StoreError),
}

/// An entry that is in the log.
#[derive(Debug)]
pub struct Stored {
    /// Its place.
    pub seq: Seq,
    /// It was there before: the idempotency key is known.
    pub duplicate: bool,
    /// It is on the master's disk, if it has one.
    pub is_saved: bool,
    /// Every secondary and what it did.
    pub acks: Vec<AckStatus>,
}

impl Replication {
    /// With what was found on the disk, if the log is kept there. Nothing is written before
    /// [`Replication::begin_reign`].
    pub fn new(options: Options, disk: Option<Opened>) -> Replication {
        let mut lines = Lines::new(&options.secondaries, options.thresholds);
        let (log, store) = match disk {
            None => (Log::new(options.idempotency_keys), None),
            Some(Opened { log, store, .. }) => {
                lines.keep_on_disk(log.last_seq());
                (log, Some(store))
            }
        };
        let state = State {
            log,
            lines,
            timeline: Timeline::default(),
            waiters: Waiters::default(),
            recovering: true,
            barred: None,
            quorum: options.quorum,
            max_log_bytes: options.max_log_bytes,
        };
        let client = |url: &String| Client::new(url, options.ack_timeout);
        let clients = options.secondaries.iter().map(client).collect();
        let (begun, unsaved, bell) = (Condvar::new(), Condvar::new(), Bell::default());
        bell.ring(state.lines.stored_seq());
        let (state, metrics) = (Mutex::new(state), Metrics::new(options.secondaries.len()));
        Replication { state, begun, store, unsaved, clients, options, metrics, bell }
    }

    /// The state, locked; keep it short.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        // Log, lines and waiters are changed by methods that leave them valid at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The base URLs of the secondaries.
    pub fn urls(&self) -> &[String] {
        &self.options.secondaries
    }

    /// What the messages of the log may take, in bytes.
    pub fn max_log_bytes(&self) -> u64 {
        self.options.max_log_bytes
    }

    /// Begins a reign over the log and what was recovered beyond it. `couriers` are the threads that
    /// call when no request does, and `found` says who took part in the recovery: one per secondary.
    pub fn begin_reign(
        &self,
        epoch: Epoch,
        recovered: &[(Epoch, Vec<Draft>)],
        couriers: Vec<Thread>,
        found: &[Found],
    ) {
        self.note(epoch);
        let mut state = self.lock();
        for (epoch, drafts) in recovered {
            drafts.iter().for_each(|draft| _ = state.log.append(*epoch, draft));
        }
        let last = state.log.last_seq();
        state.lines.begin_reign(epoch, last, found);
        state.waiters.set_couriers(couriers);
        state.recovering = false;
        self.bell.ring(state.lines.stored_seq());
        drop(state);
        self.begun.notify_all();
        self.unsaved.notify_one();
    }

    /// Writes the epoch to the disk before any entry is sent in it: a restart must not begin it again.
    fn note(&self, epoch: Epoch) {
        let Some(store) = &self.store else { return };
        let none = {
            let state = self.lock();
            state.log.batch(state.log.last_seq().next(), 0)
        };
        if let Err(error) = store.write(&none, epoch) {
            self.lock().fail_disk(error);
        }
    }

    /// This master does not reign: it serves what it has, and says why.
    pub fn bar(&self, why: String) {
        let mut state = self.lock();
        (state.barred, state.recovering) = (Some(why), false);
        drop(state);
        self.begun.notify_all();
    }

    /// Waits up to `patience` until something is to be written to the disk, and writes it:
    /// everything at once, however many requests wait for it.
    pub fn save(&self, patience: Duration) {
        let Some(store) = &self.store else { return };
        let Some(state) = self.wait_for_unsaved(patience) else { return };
        let batch = state.log.batch(state.lines.stored_seq().next(), TRANSACTION_BYTES);
        let epoch = state.lines.epoch();
        drop(state);
        let written = store.write(&batch, epoch);
        let mut state = self.lock();
        match written {
            Ok(()) => {
                state.lines.store(batch.last());
                self.bell.ring(state.lines.stored_seq());
            }
            Err(error) => state.fail_disk(error),
        }
        wake(state);
    }

    fn wait_for_unsaved(&self, patience: Duration) -> Option<MutexGuard<'_, State>> {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            let (now, save_at) = (Instant::now(), state.lines.save_at());
            let until = match save_at {
                Some(at) if at.is_none_or(|at| at <= now) => return Some(state),
                None if deadline <= now => return None,
                at => at.flatten().unwrap_or(deadline),
            };
            let waited = self.unsaved.wait_timeout(state, until - now);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Tells the thread that writes to the disk to look again: something has been appended, or has
    /// left for a secondary.
    fn hint_unsaved(&self, state: &State) {
        let lines = &state.lines;
        let is_first = lines.stored_seq().next() == lines.last_seq();
        if self.store.is_some() && (is_first || lines.save_at() == Some(None)) {
            self.unsaved.notify_one();
        }
    }

    /// Appends an entry, unless its idempotency key is known, and replicates it. `answer` is called
    /// once it is known how that ended; calls that are still out are waited for after it.
    pub fn write(&self, draft: &Draft, concern: Concern, answer: impl FnOnce(&Self, Written)) {
        let recovered = self.begun.wait_while(self.lock(), |state| state.recovering);
        let mut state = recovered.unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        let (seq, duplicate) = match state.append(draft, start) {
            Ok(appended) => appended,
            Err(refused) => {
                drop(state);
                return answer(self, refused);
            }
        };
        let State { lines, waiters, timeline, .. } = &mut *state;
        let place = waiters.add(seq, concern, thread::current(), lines);
        if !duplicate {
            self.metrics.appends.fetch_add(1, Relaxed);
            let w = concern.acks_needed(lines.count()) + 1;
            timeline.appended(seq, w, lines.count(), start);
            self.bell.ring(lines.stored_seq());
        }
        self.hint_unsaved(&state);
        thread::scope(|scope| {
            let (mut state, failures) = self.replicate(scope, state, place, concern, start);
            let written = self.outcome(&state, place, concern, duplicate, &failures);
            let ok = matches!(written, Written::Acknowledged(_));
            state.timeline.answered(seq, ok, Instant::now());
            // It may have been woken to make a call that somebody else must make now.
            wake(state);
            answer(self, written);
        });
    }

    /// Returns when it is decided, with why each line failed for a request that fails fast.
    fn replicate<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        mut state: MutexGuard<'scope, State>,
        place: Place,
        concern: Concern,
        start: Instant,
    ) -> (MutexGuard<'scope, State>, Vec<(LineId, String)>) {
        let deadline = match concern {
            // A call that is made at once ends before this, with a reason of its own.
            Concern::AllOrFail => Some(start + self.options.ack_timeout + FAILURE_GRACE),
            Concern::Nodes { timeout, .. } => timeout.map(|timeout| start + timeout),
        };
        loop {
            let mut now = Instant::now();
            for _ in 0..YIELDS {
                if !state.could_call(place, concern, now) {
                    break;
                }
                drop(state);
                thread::yield_now();
                state = self.lock();
                now = Instant::now();
            }
            let standing = state.look(place);
            let mut calls = state.claim_lacking(place, concern, now);
            // Whoever needs every ack makes the last call itself, unless it has its answer or the
            // call might outlast the deadline.
            let bounded = now <= start + FAILURE_GRACE;
            let pending = bounded && standing == Standing::Pending;
            let own = if pending && concern == Concern::AllOrFail { calls.pop() } else { None };
            if own.is_some() || !calls.is_empty() {
                if own.is_some() {
                    state.waiters.calls_itself(place);
                }
                self.hint_unsaved(&state);
                drop(state);
                calls.into_iter().for_each(|call| self.make_on(scope, call));
                if let Some(own) = own {
                    self.make(&own);
                }
                state = self.lock();
                continue;
            }
            let until = match standing {
                Standing::Satisfied | Standing::Failed => break,
                Standing::Failing(at) => Some(at + FAILURE_GRACE),
                Standing::Pending => None,
            };
            let until = [until, deadline].into_iter().flatten().min();
            if until.is_some_and(|until| now >= until) {
                break;
            }
            let State { lines, waiters, .. } = &mut *state;
            let until = [until, waiters.set_timer(place, lines)].into_iter().flatten().min();
            drop(state);
            match until {
                Some(until) => thread::park_timeout(until.saturating_duration_since(now)),
                None => thread::park(),
            }
            state = self.lock();
        }
        let failures = state.waiters.remove(place);
        (state, failures)
    }

    fn make_on<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, call: Call) {
        let line = call.line;
        let call = Arc::new(call);
        let theirs = Arc::clone(&call);
        let spawned = thread::Builder::new()
            .name("replicate".into())
            .spawn_scoped(scope, move || self.make(&theirs));
        if let Err(error) = spawned {
            warn!("failed to start a thread secondary={} error={error}", self.clients[line].base());
            self.make(&call);
        }
    }

    /// Makes a call, settles the line, and wakes whom that concerns.
    fn make(&self, call: &Call) {
        let client = &self.clients[call.line];
        let start = Instant::now();
        // A line whose call is never settled would be stopped for good.
        let posted = catch_unwind(AssertUnwindSafe(|| client.post("/replicate", &call.body)));
        let verdict = match posted {
            Ok(Ok(answer)) => Verdict::of(answer.status, &answer.body),
            Ok(Err(error)) => Verdict::Failed(error.to_string()),
            Err(_) => Verdict::Failed("panicked".into()),
        };
        let now = Instant::now();
        debug!(
            "called secondary={} first_seq={} last_seq={} verdict={verdict:?} duration_us={}",
            client.base(),
            call.first,
            call.last,
            (now - start).as_micros(),
        );
        let mut state = self.lock();
        let State { log, lines, waiters, timeline, .. } = &mut *state;
        let was_failing = lines.last_error(call.line);
        let awaited = if lines.gathers() { waiters.count_waiting(call, lines) } else { 0 };
        let failure = lines.settle(call, verdict, awaited, log, now, random());
        self.metrics.called(call.line, call.last.0 + 1 - call.first.0, failure.is_none());
        if let Some(failure) = failure {
            waiters.note_failure(&failure, now);
        }
        timeline.acked(lines, now);
        self.log_change(lines, call.line, was_failing);
        wake(state);
    }

    /// What a line's courier does when it looks: it makes one call if no request is going to.
    /// `Err` says until when there is nothing to do; `Err(None)` that it will be woken.
    pub fn courier_call(&self, line: LineId) -> Result<(), Option<Instant>> {
        let now = Instant::now();
        let mut state = self.lock();
        let State { log, lines, waiters, .. } = &mut *state;
        if !waiters.courier_looks(line, lines) {
            return Err(None);
        }
        let last = log.last_seq();
        let Some(call) = lines.claim(line, last, false, log, now) else {
            return Err(lines.next_claim_at(line, last, false));
        };
        self.hint_unsaved(&state);
        drop(state);
        self.make(&call);
        Ok(())
    }

    /// A number for a heartbeat, and what it tells this secondary.
    pub fn heartbeat(&self, line: LineId) -> (u64, Heartbeat) {
        let mut state = self.lock();
        let State { log, lines, .. } = &mut *state;
        let committed_seq = lines.committed_seq();
        let heartbeat = Heartbeat {
            epoch: lines.epoch(),
            last_seq: lines.last_seq(),
            committed_seq,
            committed_epoch: log.epoch_of(committed_seq),
            diverged: lines.iter().nth(line).is_some_and(Line::diverged),
        };
        (lines.next_number(), heartbeat)
    }

    /// Takes note of what a secondary answered to the heartbeat of this number, or why it did not;
    /// `Ok(None)` is an original's, which does not say where it stands.
    pub fn observe(&self, line: LineId, number: u64, said: Result<Option<Position>, String>) {
        let (now, secondary) = (Instant::now(), self.clients[line].base());
        let mut state = self.lock();
        let State { log, lines, timeline, .. } = &mut *state;
        let was_failing = lines.last_error(line);
        let changed = lines.beat(line, said.is_ok());
        match changed {
            None => {}
            Some(Status::Healthy) => info!("became healthy secondary={secondary}"),
            Some(status) => warn!("became {status:?} secondary={secondary}"),
        }
        let observed = match said {
            Ok(Some(position)) => lines.observe(line, number, &position, log, now),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = observed {
            lines.note_error(line, error);
        }
        timeline.acked(lines, now);
        self.log_change(lines, line, was_failing);
        let is_back = changed == Some(Status::Healthy) && lines.recognises_repeats(line);
        wake(state);
        if is_back {
            // Calls from before may hang on connections that lead nowhere; they are made again.
            self.clients[line].reconnect();
        }
    }

    /// A failure that repeats is logged when it begins and when it ends.
    fn log_change(&self, lines: &Lines, line: LineId, was_failing: Option<String>) {
        let secondary = self.clients[line].base();
        match (was_failing, lines.last_error(line)) {
            (None, Some(error)) => warn!("secondary failed secondary={secondary} error={error:?}"),
            (Some(_), None) => info!("secondary recovered secondary={secondary}"),
            _ => {}
        }
    }

    fn outcome(
        &self,
        state: &State,
        place: Place,
        concern: Concern,
        duplicate: bool,
        failures: &[(LineId, String)],
    ) -> Written {
        let (seq, lines) = (place.seq, &state.lines);
        let acks = acks(lines, seq, failures);
        let is_saved = lines.stored_seq() >= seq;
        let stored = Stored { seq, duplicate, is_saved, acks };
        if is_saved && lines.acks(seq) >= concern.acks_needed(lines.count()) {
            return Written::Acknowledged(stored);
        }
        if let Some(error) = lines.disk_failed().filter(|_| !is_saved) {
            return Written::DiskFailed(seq, error.clone());
        }
        let named = |status| stored.acks.iter().find(|ack| ack.ack == status).cloned();
        let own_disk =
            || AckStatus { secondary: "the master".into(), ack: "pending", detail: None };
        let missing = named("failed").or_else(|| named("pending"));
        let mut failed = missing.unwrap_or_else(own_disk);
        if lines.fenced_by().is_some() {
            let over = "fenced: another master reigns, which may not have the entry";
            failed.detail = Some(over.to_string());
        } else if failed.detail.is_none() {
            let waited = match concern {
                Concern::AllOrFail => self.options.ack_timeout,
                Concern::Nodes { timeout, .. } => timeout.unwrap_or_default(),
            };
            failed.detail = Some(format!("no ack within {} ms", waited.as_millis()));
        }
        Written::Unacknowledged { stored, failed }
    }
}

impl Source for Replication {
    fn read<T>(&self, read: impl FnOnce(&Log, Seq, Seq) -> T) -> T {
        let state = self.lock();
        read(&state.log, state.lines.stored_seq(), state.lines.committed_seq())
    }

    fn bell(&self) -> &Bell {
        &self.bell
    }
}

/// Lets go of the state and wakes those whom the change concerns.
fn wake(mut state: MutexGuard<'_, State>) {
    let State { lines, waiters, .. } = &mut *state;
    let woken = waiters.choose_woken(lines, Instant::now());
    drop(state);
    woken.iter().for_each(Thread::unpark);
}

/// Spreads pauses and epochs; not for secrets.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn acks(lines: &Lines, seq: Seq, failures: &[(LineId, String)]) -> Vec<AckStatus> {
    let status = |(id, line): (LineId, &Line)| {
        let failure = failures.iter().find(|(failed, _)| *failed == id);
        let (ack, detail) = match failure {
            _ if line.acked_seq() >= seq => ("ok", None),
            Some((_, detail)) => ("failed", Some(detail.clone())),
            None => ("pending", None),
        };
        AckStatus { secondary: Arc::clone(line.url()), ack, detail }
    };
    lines.iter().enumerate().map(status).collect()
}

impl State {
    /// Whether the log is still being read back from the secondaries.
    pub fn recovering(&self) -> bool {
        self.recovering
    }

    /// How each secondary stands, by base URL.
    pub fn statuses(&self, now: Instant) -> Vec<(Arc<str>, SecondaryStatus)> {
        let last = self.lines.last_seq();
        let status = |(id, line): (LineId, &Line)| {
            let acked_seq = line.acked_seq();
            let status = SecondaryStatus {
                status: format!("{:?}", self.lines.status(id)),
                acked_seq,
                lag_entries: last.0 - acked_seq.0,
                lag_seconds: line.lag(now).as_millis() as f64 / 1000.0,
                calls: line.calls_made(),
                diverged: line.diverged(),
                last_error: line.last_error().map(str::to_string),
            };
            (Arc::clone(line.url()), status)
        };
        self.lines.iter().enumerate().map(status).collect()
    }

    /// Nothing is appended any more until the node is started again.
    fn fail_disk(&mut self, error: StoreError) {
        error!("became read-only, the disk has failed error={:?}", error.problem);
        self.lines.fail_disk(error);
    }

    /// Why nothing can be appended now; `None` when it can.
    pub fn read_only(&self) -> Option<ReadOnly> {
        if let Some(why) = &self.barred {
            return Some(ReadOnly::Barred(why.clone()));
        }
        if let Some(epoch) = self.lines.fenced_by() {
            return Some(ReadOnly::Fenced(epoch));
        }
        if let Some(error) = self.lines.disk_failed() {
            return Some(ReadOnly::DiskFailed(error.clone()));
        }
        let (quorum, reachable) = (self.quorum?, self.lines.reachable());
        (reachable < quorum).then_some(ReadOnly::NoQuorum { reachable, quorum })
    }

    /// The entry's place, and whether it was there before.
    fn append(&mut self, draft: &Draft, now: Instant) -> Result<(Seq, bool), Written> {
        // A known key first: it tells truly that the message is stored, whatever can be now.
        match draft.key.as_deref().and_then(|key| self.log.find_key(key)) {
            Some(seq) if self.log.json(seq) == draft.message.json().as_bytes() => Ok((seq, true)),
            Some(seq) => Err(Written::KeyReused(seq)),
            None => {
                if let Some(read_only) = self.read_only() {
                    return Err(Written::ReadOnly(read_only));
                }
                if self.log.bytes() + draft.message.json().len() as u64 > self.max_log_bytes {
                    return Err(Written::LogFull);
                }
                let seq = self.log.append(self.lines.epoch(), draft);
                self.lines.appended(seq, now);
                Ok((seq, false))
            }
        }
    }

    fn look(&mut self, place: Place) -> Standing {
        self.waiters.look(place, &self.lines)
    }

    /// Whether some line could be claimed for the entry.
    fn could_call(&self, place: Place, concern: Concern, now: Instant) -> bool {
        let urgent = concern == Concern::AllOrFail;
        let claimable = |line| self.lines.is_claimable(line, place.seq, urgent, now);
        (0..self.lines.count()).any(claimable)
    }

    /// Claims the lines that lack the entry and have not failed the request.
    fn claim_lacking(&mut self, place: Place, concern: Concern, now: Instant) -> Vec<Call> {
        let urgent = concern == Concern::AllOrFail;
        let State { log, lines, waiters, .. } = self;
        let able = (0..lines.count()).filter(|line| !waiters.has_failed(place, *line));
        let mut claim = |line| lines.claim(line, place.seq, urgent, log, now);
        let mut calls: Vec<Call> = able.clone().filter_map(&mut claim).collect();
        if !calls.is_empty() {
            // What has left for one does not wait at another, be it one before it.
            calls.extend(able.filter_map(claim));
        }
        calls
    }
}
