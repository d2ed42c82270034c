//! The life of one write.
//!
//! A request appends its message, which gives it a place, and then, inside a scope of threads:
//!
//! - it calls every secondary whose line is free and lacks the entry, on scoped threads. A request
//!   without `w` makes the last call to a healthy secondary on its own thread, for a thread costs
//!   more than the call, and looks again when that call ends;
//! - it waits until its entry is decided: enough nodes hold it, one has failed a request that fails
//!   fast, or time is up. A request whose entry no call to a line carries looks again when the line
//!   has room;
//! - the client is answered. Leaving the scope joins the calls that are still out.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use common::entries::{Draft, Seq};
use common::http::Reply;

use crate::bodies::{AckState, AckStatus};
use crate::concern::Concern;
use crate::couriers::wake_couriers;
use crate::health::Health;
use crate::lines::{Call, Line, LineId};
use crate::outcome::{Missing, Outcome, Stored};
use crate::state::{Phase, Replication, State};
use crate::waiters::{Standing, Ticket};

/// How long the other secondaries may take to report after the first failure of a write, so that
/// one answer names everything that is wrong.
const FAILURE_GRACE: Duration = Duration::from_millis(100);

/// How often a thread lets others run before it calls, as long as they append: their entries ride
/// on the call.
const YIELDS: usize = 30;

/// How long an entry waits at least for a call to end before a further one starts beside it. Fast
/// secondaries answer before that, and nobody looks in vain.
const PATIENCE: Duration = Duration::from_millis(20);

/// How often a request looks whether its client has gone.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// A request that waits.
#[derive(Clone, Copy)]
struct Waiting<'a> {
    ticket: Ticket,
    concern: Concern,
    since: Instant,
    deadline: Option<Instant>,
    client: &'a dyn Client,
}

/// The client of a request.
pub trait Client {
    /// Whether it does not wait any more.
    fn is_gone(&self) -> bool;
}

impl Client for Reply {
    fn is_gone(&self) -> bool {
        Reply::is_gone(self)
    }
}

/// A client that stays.
impl Client for () {
    fn is_gone(&self) -> bool {
        false
    }
}

impl Waiting<'_> {
    /// Whether the wait, which may have no other end, is in vain. A request without `w` ends soon.
    fn is_given_up(&self) -> bool {
        self.concern != Concern::AllOrFail && self.client.is_gone()
    }
}

impl Replication {
    /// Appends an entry, unless its idempotency key is known, and replicates it. `answer` is called
    /// with the outcome, and with the client, which is waited for no longer than it is there; the
    /// calls that are still out then are waited for after it.
    pub fn write<C: Client>(
        &self,
        draft: &Draft,
        concern: Concern,
        client: C,
        answer: impl FnOnce(&Self, C, Outcome),
    ) {
        let recovering = |state: &mut State| {
            matches!(state.phase, Phase::Waiting { is_new: true, .. })
                && state.disk_failure().is_none()
        };
        let left = self.begins_by.saturating_duration_since(Instant::now());
        let waited = self.begun.wait_timeout_while(self.lock(), left, recovering);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        let since = Instant::now();
        let (seq, duplicate) = match state.append(draft, since) {
            Ok(appended) => appended,
            Err(refused) => {
                drop(state);
                return answer(self, client, Outcome::NotAppended(refused));
            }
        };
        let State { lines, waiters, timeline, .. } = &mut *state;
        let ticket = waiters.add(seq, concern, thread::current(), lines);
        if !duplicate {
            self.metrics.appends.fetch_add(1, Relaxed);
            let w = concern.acks_needed(lines.secondaries().len()) + 1;
            timeline.appended(seq, w, lines.secondaries().len(), since);
            self.ring(lines);
        }
        let deadline = match concern {
            // A call that is made at once ends before this, with a reason of its own.
            Concern::AllOrFail => Some(since + self.options.ack_timeout + FAILURE_GRACE),
            Concern::Nodes { timeout, .. } => timeout.map(|timeout| since + timeout),
        };
        thread::scope(|scope| {
            let waiting = Waiting { ticket, concern, since, deadline, client: &client };
            let mut state = self.replicate(scope, state, waiting);
            let failures = state.waiters.remove(ticket);
            let outcome = self.outcome(&state, waiting, duplicate, &failures);
            let ok = matches!(outcome, Outcome::Acknowledged(_));
            state.timeline.answered(seq, ok, Instant::now());
            wake_couriers(state, Instant::now());
            answer(self, client, outcome);
        });
    }

    /// Returns when the request is decided.
    fn replicate<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        mut state: MutexGuard<'scope, State>,
        waiting: Waiting,
    ) -> MutexGuard<'scope, State> {
        let Waiting { ticket, concern, since, deadline, .. } = waiting;
        loop {
            state =
                self.let_others_append(state, |state, now| state.can_call(ticket, concern, now));
            let now = Instant::now();
            let standing = state.look(ticket);
            let mut calls = state.claim_free(ticket, concern, now);
            if !calls.is_empty() {
                // A call that begins late might outlast the deadline.
                let makes_one = concern == Concern::AllOrFail
                    && standing == Standing::Pending
                    && now <= since + FAILURE_GRACE;
                // One that is not answered would keep the thread from hearing of other failures.
                let is_healthy =
                    |call: &Call| state.lines.secondaries()[call.line].health() == Health::Healthy;
                let last = calls.iter().rposition(is_healthy).filter(|_| makes_one);
                let own = last.map(|at| calls.remove(at));
                if own.is_some() {
                    state.waiters.calls_itself(ticket);
                }
                wake_couriers(state, now);
                calls.into_iter().for_each(|call| self.make_call_on(scope, call));
                own.iter().for_each(|call| self.make_call(call));
                state = self.lock();
                continue;
            }
            let until = match standing {
                Standing::Satisfied | Standing::Failed => return state,
                Standing::Failing(at) => Some(at + FAILURE_GRACE),
                Standing::Pending => None,
            };
            let until = [until, deadline].into_iter().flatten().min();
            if until.is_some_and(|until| now >= until) || waiting.is_given_up() {
                return state;
            }
            let room = state.room_at(ticket, concern).map(|at| at.max(now + PATIENCE));
            wake_couriers(state, now);
            let until = [until, room].into_iter().flatten().min();
            let left = until.map_or(LOOK_INTERVAL, |until| until.saturating_duration_since(now));
            thread::park_timeout(left.min(LOOK_INTERVAL));
            state = self.lock();
        }
    }

    /// Lets other threads run while they append and `is_free` says that a call could begin.
    pub(crate) fn let_others_append<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        is_free: impl Fn(&State, Instant) -> bool,
    ) -> MutexGuard<'a, State> {
        for _ in 0..YIELDS {
            let last = state.lines.last_seq();
            if !is_free(&state, Instant::now()) {
                break;
            }
            drop(state);
            thread::yield_now();
            state = self.lock();
            if state.lines.last_seq() == last {
                break;
            }
        }
        state
    }

    fn outcome(
        &self,
        state: &State,
        waiting: Waiting,
        duplicate: bool,
        failures: &[(LineId, String)],
    ) -> Outcome {
        let (seq, lines, concern) = (waiting.ticket.seq, &state.lines, waiting.concern);
        let is_saved = lines.stored_seq() >= seq;
        let is_committed = lines.committed_seq() >= seq;
        let acks = state.acks(seq, failures);
        let stored = Stored { seq, duplicate, is_saved, is_committed, acks };
        if is_saved && lines.acks(seq) >= concern.acks_needed(lines.secondaries().len()) {
            return Outcome::Acknowledged(stored);
        }
        if let Some(error) = state.disk_failure().filter(|_| !is_saved) {
            return Outcome::DiskFailed(seq, error.clone());
        }
        let named = |state| stored.acks.iter().find(|ack| ack.ack == state);
        let missing = named(AckState::Failed).or_else(|| named(AckState::Pending));
        let node = missing.map_or("the master".into(), |ack| Arc::clone(&ack.secondary));
        let why = match missing.and_then(|ack| ack.detail.clone()) {
            _ if lines.fenced_by().is_some() => Missing::Fenced,
            Some(detail) => Missing::Failed(detail),
            None if waiting.is_given_up() => Missing::ClientGone,
            None => Missing::NotWithin(match concern {
                Concern::AllOrFail => self.options.ack_timeout,
                Concern::Nodes { timeout, .. } => timeout.unwrap_or_default(),
            }),
        };
        Outcome::Unacknowledged { stored, node, why }
    }
}

impl State {
    fn look(&mut self, ticket: Ticket) -> Standing {
        self.waiters.look(ticket, &self.lines)
    }

    fn acks(&self, seq: Seq, failures: &[(LineId, String)]) -> Vec<AckStatus> {
        let status = |(id, line): (LineId, &Line)| {
            let failure = failures.iter().find(|(failed, _)| *failed == id);
            let (ack, detail) = match failure {
                _ if line.acked_seq() >= seq => (AckState::Ok, None),
                Some((_, detail)) => (AckState::Failed, Some(detail.clone())),
                None => (AckState::Pending, None),
            };
            AckStatus { secondary: Arc::clone(line.url()), ack, detail }
        };
        self.lines.secondaries().iter().enumerate().map(status).collect()
    }
}
