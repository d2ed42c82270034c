//! The life of one write.
//!
//! A request appends its message, which gives it a place, and then, inside a scope of threads:
//!
//! - it claims every line that is free and lacks its entry. The last of these calls it makes on
//!   its own thread, the others on scoped ones: a thread costs more than the call;
//! - whoever has made a call settles the line and wakes those whose entry is decided by it, and
//!   one request to make the next call if there is something to send;
//! - when every secondary holds the entry, or one has failed, or time is up, the client is
//!   answered. Leaving the scope joins what is still out.
//!
//! One mutex protects the log, the lines and the waiters. It is never held during a call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope, Thread};
use std::time::{Duration, Instant};

use common::client::Client;
use common::entries::{Epoch, Log, Message, Seq};
use common::wire::{AckStatus, Position};
use log::{debug, info, warn};

use crate::lines::{Call, Line, LineId, Lines, Verdict};
use crate::waiters::{Standing, Waiters};

/// After the first failure of a write, how long the other secondaries may take to report before
/// the client is told: so that one answer names everything that is wrong.
const FAILURE_GRACE: Duration = Duration::from_millis(100);

/// Everything that writes have in common.
#[derive(Debug)]
pub struct Replication {
    state: Mutex<State>,
    clients: Vec<Client>,
    ack_timeout: Duration,
}

/// What the lock protects.
#[derive(Debug)]
pub struct State {
    /// The log.
    pub log: Log,
    /// What each secondary has and gets.
    pub lines: Lines,
    waiters: Waiters<Thread>,
}

/// How a write ended.
#[derive(Debug)]
pub enum Written {
    /// Every secondary holds the entry.
    Acknowledged {
        /// Its place.
        seq: Seq,
        /// Every secondary.
        acks: Vec<AckStatus>,
    },
    /// The entry is in the log and will reach every secondary, but has not yet.
    Unacknowledged {
        /// Its place.
        seq: Seq,
        /// The secondary to be named first, and why.
        failed: AckStatus,
        /// Every secondary and what it did.
        acks: Vec<AckStatus>,
    },
    /// Nothing was appended: a greater epoch has begun.
    Fenced(Epoch),
}

impl Replication {
    /// Replicates to the secondaries with these base URLs, for the reign `epoch`. Each call, and
    /// each write, is bounded by `ack_timeout`.
    pub fn new(urls: &[String], epoch: Epoch, ack_timeout: Duration) -> Replication {
        let state =
            State { log: Log::new(), lines: Lines::new(urls, epoch), waiters: Waiters::default() };
        let clients = urls.iter().map(|url| Client::new(url, ack_timeout)).collect();
        Replication { state: Mutex::new(state), clients, ack_timeout }
    }

    /// The state, locked; keep it short.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        // Log, lines and waiters are changed by methods that leave them valid at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a message and replicates it. `answer` is called once it is known how that ended;
    /// calls that are still out are waited for after it.
    pub fn write(&self, message: &Message, answer: impl FnOnce(&Self, Written)) {
        let start = Instant::now();
        let mut state = self.lock();
        if let Some(epoch) = state.lines.fenced_by() {
            drop(state);
            return answer(self, Written::Fenced(epoch));
        }
        let epoch = state.lines.epoch();
        let seq = state.log.append(epoch, message);
        let State { lines, waiters, .. } = &mut *state;
        waiters.add(seq, thread::current(), lines);
        thread::scope(|scope| {
            let written = self.replicate(scope, state, seq, start);
            answer(self, written);
        });
    }

    fn replicate<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        mut state: MutexGuard<'scope, State>,
        seq: Seq,
        start: Instant,
    ) -> Written {
        // A call that is made at once ends before this, with a reason of its own.
        let deadline = start + self.ack_timeout + FAILURE_GRACE;
        loop {
            let now = Instant::now();
            let wait_until = match state.look(seq) {
                Standing::Satisfied | Standing::Failed => break,
                Standing::Failing(at) if now >= at + FAILURE_GRACE => break,
                _ if now >= deadline => break,
                Standing::Failing(at) => deadline.min(at + FAILURE_GRACE),
                Standing::Pending => deadline,
            };
            let mut calls = state.claim_lacking(seq, now);
            if calls.is_empty() {
                let State { lines, waiters, .. } = &mut *state;
                let due = waiters.set_timer(seq, lines);
                let wait_until = due.map_or(wait_until, |at| at.min(wait_until));
                drop(state);
                thread::park_timeout(wait_until.saturating_duration_since(now));
                state = self.lock();
                continue;
            }
            // A call made on this thread must not outlast the deadline.
            let own = if now + self.ack_timeout <= deadline { calls.pop() } else { None };
            if own.is_some() {
                state.waiters.calls_itself(seq);
            }
            drop(state);
            for call in calls {
                self.make_on(scope, call);
            }
            if let Some(own) = own {
                self.make(&own);
            }
            state = self.lock();
        }
        let failures = state.waiters.remove(seq);
        let written = state.outcome(seq, &failures, self.ack_timeout);
        // It may have been woken to make a call that somebody else must make now.
        let woken = state.choose_woken();
        drop(state);
        woken.iter().for_each(Thread::unpark);
        written
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
    pub fn make(&self, call: &Call) {
        let client = &self.clients[call.line];
        let start = Instant::now();
        let verdict = Verdict::of(client.post("/replicate", &call.body));
        debug!(
            "called secondary={} first_seq={} last_seq={} verdict={verdict:?} duration_us={}",
            client.base(),
            call.first,
            call.last,
            start.elapsed().as_micros(),
        );
        let mut state = self.lock();
        let State { log, lines, waiters } = &mut *state;
        let was_failing = lines.last_error(call.line);
        if let Some(failure) = lines.settle(call, verdict, log) {
            waiters.note_failure(&failure, Instant::now());
        }
        self.log_change(lines, call.line, was_failing);
        let woken = state.choose_woken();
        drop(state);
        woken.iter().for_each(Thread::unpark);
    }

    /// The base URLs of the secondaries.
    pub fn urls(&self) -> Vec<String> {
        self.clients.iter().map(|client| client.base().to_string()).collect()
    }

    /// Sends a secondary what it lacks, batch by batch, until it lacks nothing, does not take it,
    /// or somebody else is sending.
    pub fn catch_up(&self, line: LineId) {
        loop {
            let mut state = self.lock();
            let State { log, lines, .. } = &mut *state;
            let before = lines.acked_seq(line);
            let Some(call) = lines.claim(line, log.last_seq(), log, Instant::now()) else { return };
            drop(state);
            self.make(&call);
            if self.lock().lines.acked_seq(line) <= before {
                return;
            }
        }
    }

    /// Takes note of what a secondary said about itself, or why it said nothing.
    pub fn observe(&self, line: LineId, number: u64, said: Result<Option<Position>, String>) {
        let mut state = self.lock();
        let State { log, lines, .. } = &mut *state;
        let was_failing = lines.last_error(line);
        let observed = match said {
            Ok(Some(position)) => lines.observe(line, number, &position, log),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = observed {
            lines.note_error(line, error);
        }
        self.log_change(lines, line, was_failing);
        let woken = state.choose_woken();
        drop(state);
        woken.iter().for_each(Thread::unpark);
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
}

impl State {
    fn look(&mut self, seq: Seq) -> Standing {
        self.waiters.look(seq, &self.lines)
    }

    fn choose_woken(&mut self) -> Vec<Thread> {
        self.waiters.choose_woken(&self.lines, Instant::now())
    }

    /// Lines that lack the entry and have not failed the request that waits for it.
    fn lacking(&self, seq: Seq) -> impl Iterator<Item = LineId> + use<'_> {
        (0..self.lines.count()).filter(move |line| !self.waiters.has_failed(seq, *line))
    }

    fn claim_lacking(&mut self, seq: Seq, now: Instant) -> Vec<Call> {
        let lacking: Vec<LineId> = self.lacking(seq).collect();
        let State { log, lines, .. } = self;
        lacking.into_iter().filter_map(|line| lines.claim(line, seq, log, now)).collect()
    }

    fn outcome(&self, seq: Seq, failures: &[(LineId, String)], timeout: Duration) -> Written {
        let acks: Vec<AckStatus> = self.acks(seq, failures);
        let failed = acks.iter().find(|ack| ack.ack == "failed").cloned();
        let pending = || {
            let mut pending = acks.iter().find(|ack| ack.ack == "pending").cloned()?;
            pending.detail = Some(format!("no ack within {} ms", timeout.as_millis()));
            Some(pending)
        };
        match failed.or_else(pending) {
            Some(failed) => Written::Unacknowledged { seq, failed, acks },
            None => Written::Acknowledged { seq, acks },
        }
    }

    fn acks(&self, seq: Seq, failures: &[(LineId, String)]) -> Vec<AckStatus> {
        let status = |(id, line): (LineId, &Line)| {
            let failure = failures.iter().find(|(failed, _)| *failed == id);
            let (ack, detail) = match failure {
                _ if line.acked_seq() >= seq => ("ok", None),
                Some((_, detail)) => ("failed", Some(detail.clone())),
                None => ("pending", None),
            };
            AckStatus { secondary: line.url().to_string(), ack: ack.to_string(), detail }
        };
        self.lines.iter().enumerate().map(status).collect()
    }
}
