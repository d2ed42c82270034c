//! Everything that writes have in common, and the one lock that protects it: the log, the lines to
//! the nodes that keep it, and the requests that wait. The lock is never held during a call.
//!
//! Who makes the next call? A request calls every line that it finds free, on scoped threads that it
//! joins; entries that are left over, the line's courier sends.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::Thread;
use std::time::{Duration, Instant};

use common::client::Client;
use common::entries::{Batch, Draft, Epoch, Log, Seq};
use common::follow::{Bell, Source};
use common::locked::locked;
use common::store::{Opened, Store, StoreError, TRANSACTION_BYTES};
use common::wire::SecondaryStatus;
use log::error;

use crate::concern::Concern;
use crate::health::Thresholds;
use crate::lines::{Call, Found, Line, LineId, Lines, When};
use crate::metrics::Metrics;
use crate::timeline::Timeline;
use crate::waiters::{Ticket, Waiters};

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
    /// The size that the messages of the log may have, in bytes of JSON.
    pub max_log_bytes: u64,
}

/// The replication of one master, shared by all its threads.
#[derive(Debug)]
pub struct Replication {
    state: Mutex<State>,
    /// The reign has begun, or never will.
    pub(crate) begun: Condvar,
    pub(crate) store: Option<Store>,
    pub(crate) clients: Vec<Client>,
    pub(crate) options: Arc<Options>,
    /// What is counted and measured.
    pub metrics: Metrics,
    pub(crate) bell: Bell,
}

/// The state that the lock protects.
#[derive(Debug)]
pub struct State {
    /// The log.
    pub log: Log,
    /// What each node holds and gets.
    pub lines: Lines,
    /// What happened to the last appends.
    pub timeline: Timeline,
    pub(crate) waiters: Waiters<Thread>,
    /// The thread of each line that sends what is left over; the last one is the disk's.
    couriers: Vec<Courier>,
    recovering: bool,
    /// Why this master must not reign.
    barred: Option<String>,
    disk_failure: Option<StoreError>,
    options: Arc<Options>,
}

#[derive(Debug)]
struct Courier {
    thread: Thread,
    /// `Now` while it is awake.
    sleeps_until: When,
}

/// The next work of a courier.
#[derive(Debug)]
pub enum Errand {
    /// A call to make.
    Call(Call),
    /// Entries to write to the disk.
    Write(Batch),
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
    /// The log on disk contradicts the logs of the secondaries.
    Barred(String),
    /// The disk has failed.
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

/// Why an entry was not appended.
#[derive(Debug)]
pub enum NotAppended {
    /// The idempotency key belongs to this entry, which is another message.
    KeyReused(Seq),
    /// The log has reached its limit.
    LogFull,
    /// Nothing can be appended now.
    ReadOnly(ReadOnly),
}

impl Replication {
    /// A replication over the log that was found on the disk, if it is kept there. Nothing is
    /// written before [`Replication::begin_reign`].
    pub fn new(options: Options, disk: Option<Opened>) -> Replication {
        let (log, store) = match disk {
            None => (Log::new(options.idempotency_keys), None),
            Some(Opened { log, store, .. }) => (log, Some(store)),
        };
        let (bell, last) = (Bell::default(), log.last_seq());
        bell.ring(last);
        let on_disk = store.as_ref().map(|_| last);
        let lines = Lines::new(&options.secondaries, options.thresholds, on_disk, Instant::now());
        let options = Arc::new(options);
        let state = State {
            log,
            lines,
            timeline: Timeline::default(),
            waiters: Waiters::default(),
            couriers: Vec::new(),
            recovering: true,
            barred: None,
            disk_failure: None,
            options: Arc::clone(&options),
        };
        let client = |url: &String| Client::new(url, options.ack_timeout);
        let clients = options.secondaries.iter().map(client).collect();
        let metrics = Metrics::new(options.secondaries.len());
        let (state, begun) = (Mutex::new(state), Condvar::new());
        Replication { state, begun, store, clients, options, metrics, bell }
    }

    /// The state, locked; keep it short.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// The base URLs of the secondaries.
    pub fn urls(&self) -> &[String] {
        &self.options.secondaries
    }

    /// The size that the messages of the log may have, in bytes.
    pub fn max_log_bytes(&self) -> u64 {
        self.options.max_log_bytes
    }

    /// Begins a reign over the log and the entries that were recovered beyond it. `couriers` are the
    /// threads of the lines, and `found` holds the answer of each secondary to the recovery.
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
        let last = state.log.last_seq();
        state.lines.begin_reign(epoch, last, found);
        let asleep = |thread| Courier { thread, sleeps_until: When::Blocked };
        state.couriers = couriers.into_iter().map(asleep).collect();
        state.recovering = false;
        self.bell.ring(state.lines.stored_seq());
        wake(state, None);
        self.begun.notify_all();
    }

    /// Writes the epoch to the disk before any entry is sent in it: a restart must not begin it again.
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

impl Source for Replication {
    fn read<T>(&self, read: impl FnOnce(&Log, Seq, Seq) -> T) -> T {
        let state = self.lock();
        read(&state.log, state.lines.stored_seq(), state.lines.committed_seq())
    }

    fn bell(&self) -> &Bell {
        &self.bell
    }
}

impl State {
    /// Whether the log is still being read back from the secondaries.
    pub fn recovering(&self) -> bool {
        self.recovering
    }

    /// How each secondary stands, by base URL.
    pub fn statuses(&self, now: Instant) -> Vec<(Arc<str>, SecondaryStatus)> {
        let last = self.lines.last_seq();
        let status = |line: &Line| {
            let acked_seq = line.acked_seq();
            let status = SecondaryStatus {
                status: line.health(),
                acked_seq,
                lag_entries: last.0 - acked_seq.0,
                lag_seconds: line.lag(now).as_millis() as f64 / 1000.0,
                calls: line.calls_made(),
                diverged: line.diverged(),
                last_error: line.last_error().map(str::to_string),
            };
            (Arc::clone(line.url()), status)
        };
        self.lines.secondaries().iter().map(status).collect()
    }

    /// Ends all appends until the node is started again.
    pub(crate) fn fail_disk(&mut self, error: StoreError) {
        error!("became read-only, the disk has failed error={:?}", error.problem);
        self.disk_failure.get_or_insert(error);
    }

    /// Why the disk has failed, if it has.
    pub fn disk_failure(&self) -> Option<&StoreError> {
        self.disk_failure.as_ref()
    }

    /// Why nothing can be appended now; `None` when it can.
    pub fn read_only(&self) -> Option<ReadOnly> {
        if let Some(why) = &self.barred {
            return Some(ReadOnly::Barred(why.clone()));
        }
        if let Some(epoch) = self.lines.fenced_by() {
            return Some(ReadOnly::Fenced(epoch));
        }
        if let Some(error) = &self.disk_failure {
            return Some(ReadOnly::DiskFailed(error.clone()));
        }
        let (quorum, reachable) = (self.options.quorum?, self.lines.reachable());
        (reachable < quorum).then_some(ReadOnly::NoQuorum { reachable, quorum })
    }

    /// Appends an entry, unless its idempotency key is known. Returns its place, and whether it was
    /// there before.
    ///
    /// # Errors
    /// When it must not be appended.
    pub fn append(&mut self, draft: &Draft, now: Instant) -> Result<(Seq, bool), NotAppended> {
        // A known key first: it tells truly that the message is stored, whatever can be now.
        if let Some(seq) = draft.key.as_deref().and_then(|key| self.log.find_key(key)) {
            let is_same = self.log.json(seq) == draft.message.json().as_bytes();
            return if is_same { Ok((seq, true)) } else { Err(NotAppended::KeyReused(seq)) };
        }
        if let Some(read_only) = self.read_only() {
            return Err(NotAppended::ReadOnly(read_only));
        }
        if self.log.bytes() + draft.message.json().len() as u64 > self.options.max_log_bytes {
            return Err(NotAppended::LogFull);
        }
        let seq = self.log.append(self.lines.epoch(), draft);
        self.lines.appended(seq, now);
        Ok((seq, false))
    }

    /// Whether a call could begin now that carries the entry.
    pub fn can_call(&self, ticket: Ticket, concern: Concern, now: Instant) -> bool {
        let urgent = concern == Concern::AllOrFail;
        (0..self.lines.secondaries().len())
            .any(|line| self.lines.is_claimable(line, ticket.seq, urgent, now))
    }

    /// Begins a call on every free line that lacks the entry and has not failed the request.
    pub fn claim_free(&mut self, ticket: Ticket, concern: Concern, now: Instant) -> Vec<Call> {
        let urgent = concern == Concern::AllOrFail;
        let State { log, lines, waiters, .. } = self;
        let able = (0..lines.secondaries().len()).filter(|line| !waiters.has_failed(ticket, *line));
        let mut claim = |line| lines.claim(line, ticket.seq, urgent, log, now);
        let mut calls: Vec<Call> = able.clone().filter_map(&mut claim).collect();
        if !calls.is_empty() {
            // The batch has left with the first call: a line before it does not wait either.
            calls.extend(able.filter_map(claim));
        }
        calls
    }

    /// When a busy line that lacks the entry has room for a further call.
    pub fn room_at(&self, ticket: Ticket) -> Option<Instant> {
        let lacking = (0..self.lines.secondaries().len())
            .filter(|line| !self.waiters.has_failed(ticket, *line))
            .filter_map(|line| self.lines.room_for(line, ticket.seq).instant());
        lacking.min()
    }

    /// The next errand of the courier of this line, or until when there is none.
    pub(crate) fn next_errand(&mut self, line: LineId, now: Instant) -> Result<Errand, When> {
        let (due, urgent) = (self.left_over_at(line), self.is_urgent(line));
        let State { log, lines, couriers, .. } = self;
        let errand = if line == lines.disk_id() {
            lines.claim_disk(log, TRANSACTION_BYTES, now).map(Errand::Write)
        } else {
            lines.claim(line, log.last_seq(), urgent, log, now).map(Errand::Call)
        };
        let sleeps_until = if errand.is_some() { When::Now } else { due };
        couriers.iter_mut().skip(line).take(1).for_each(|own| own.sleeps_until = sleeps_until);
        errand.ok_or(due)
    }

    /// When the courier of this line has something to send.
    pub(crate) fn left_over_at(&self, line: LineId) -> When {
        self.lines.due(line, self.is_urgent(line))
    }

    fn is_urgent(&self, line: LineId) -> bool {
        let is_paused = self.lines.secondaries().get(line).is_some_and(Line::is_paused);
        is_paused && self.waiters.is_urgent(line, &self.lines)
    }

    /// The couriers to wake after something has changed. They count as awake from now on.
    fn due_couriers(&mut self, now: Instant) -> Vec<Thread> {
        let mut threads = Vec::new();
        for line in 0..self.couriers.len() {
            let due = self.left_over_at(line);
            // While a call is out, its end wakes the courier.
            let waits =
                due.is_due(now) || self.lines.secondaries().get(line).is_none_or(Line::is_idle);
            let courier = &mut self.couriers[line];
            if waits && due < courier.sleeps_until {
                courier.sleeps_until = When::Now;
                threads.push(courier.thread.clone());
            }
        }
        threads
    }
}

/// Lets go of the state and wakes the threads that a change concerns. `took` is the time that a
/// whole batch took which is acknowledged now.
pub(crate) fn wake(mut state: MutexGuard<'_, State>, took: Option<Duration>) {
    let now = Instant::now();
    let State { lines, waiters, .. } = &mut *state;
    let decided = waiters.decided(lines);
    if let Some(took) = took {
        lines.batch_answered(decided.len(), took, now);
    }
    let couriers = state.due_couriers(now);
    drop(state);
    couriers.iter().chain(&decided).for_each(Thread::unpark);
}

/// Lets go of the state and wakes the couriers that have something to send.
pub(crate) fn wake_couriers(mut state: MutexGuard<'_, State>, now: Instant) {
    let couriers = state.due_couriers(now);
    drop(state);
    couriers.iter().for_each(Thread::unpark);
}

#[cfg(test)]
mod tests {
    use std::thread;

    use common::entries::Message;
    use common::wire::Position;

    use super::*;
    use crate::lines::{SPACING, Verdict};

    fn replication() -> Replication {
        let options = Options {
            secondaries: vec!["http://a".into()],
            ack_timeout: Duration::from_secs(1),
            quorum: None,
            idempotency_keys: 9,
            thresholds: Thresholds { suspected_after: 2, unhealthy_after: 4 },
            max_log_bytes: u64::MAX,
        };
        let replication = Replication::new(options, None);
        let found = Found::Ours(position(0));
        replication.begin_reign(Epoch(1), &[], vec![thread::current()], &[found]);
        replication
    }

    fn position(last: u64) -> Position {
        let last_epoch = if last == 0 { Epoch(0) } else { Epoch(1) };
        Position { last_seq: Seq(last), last_epoch, epoch: Epoch(1), instance: "1".into() }
    }

    impl State {
        fn post(&mut self, concern: Concern, now: Instant) -> Ticket {
            let (seq, _) = self.append(&Message::new("m").into(), now).unwrap();
            self.waiters.add(seq, concern, thread::current(), &self.lines)
        }

        fn end(&mut self, call: &Call, verdict: Verdict, now: Instant) {
            if let Some(failure) = self.lines.settle(call, verdict, &self.log, now, 0) {
                self.waiters.note_failure(&failure, now);
            }
        }
    }

    const ANY: Concern = Concern::Nodes { w: 2, timeout: None };

    #[test]
    fn a_courier_sends_what_requests_left_over() {
        let (replication, now) = (replication(), Instant::now());
        let mut state = replication.lock();
        let first = state.post(ANY, now);
        let calls = state.claim_free(first, ANY, now);
        assert_eq!(calls.len(), 1);
        let second = state.post(ANY, now);
        assert!(state.claim_free(second, ANY, now).is_empty(), "the line is busy");
        assert!(state.due_couriers(now).is_empty(), "the end of the call will wake it");
        state.end(&calls[0], Verdict::Acked(position(1)), now);
        assert_eq!(state.due_couriers(now).len(), 1);
        assert_eq!(state.due_couriers(now).len(), 0, "it is awake");
        let Ok(Errand::Call(call)) = state.next_errand(0, now) else { panic!("nothing to send") };
        assert_eq!((call.first, call.last), (Seq(2), Seq(2)));
        state.end(&call, Verdict::Acked(position(2)), now);
        assert_eq!(state.next_errand(0, now).unwrap_err(), When::Blocked);
    }

    #[test]
    fn a_request_looks_again_when_a_busy_line_has_room() {
        let (replication, now) = (replication(), Instant::now());
        let mut state = replication.lock();
        let number = state.lines.next_number();
        let State { lines, log, .. } = &mut *state;
        lines.observe(0, number, &position(0), log, now).unwrap();
        let first = state.post(ANY, now);
        assert_eq!(state.claim_free(first, ANY, now).len(), 1);
        assert_eq!(state.room_at(first), None, "its entry is on its way");
        let second = state.post(ANY, now);
        assert_eq!(state.room_at(second), Some(now + SPACING));
        assert_eq!(state.claim_free(second, ANY, now + SPACING).len(), 1);
    }

    #[test]
    fn a_courier_waits_out_the_pause_unless_someone_is_urgent() {
        let (replication, now) = (replication(), Instant::now());
        let mut state = replication.lock();
        let patient = state.post(ANY, now);
        let call = state.claim_free(patient, ANY, now).remove(0);
        let fast = state.post(Concern::AllOrFail, now);
        state.end(&call, Verdict::Failed("no answer".into()), now);
        assert_eq!(state.left_over_at(0), When::Now, "the second request fails fast");
        state.waiters.remove(fast);
        let due = state.left_over_at(0);
        assert!(due > When::At(now), "{due:?}");
        assert_eq!(state.due_couriers(now).len(), 1, "to wait until the pause is over");
        assert_eq!(state.next_errand(0, now).unwrap_err(), due);
        assert_eq!(state.due_couriers(now).len(), 0, "it will look by itself");
    }
}
