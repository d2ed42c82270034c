//! A call to a secondary, and what its answer changes.

use std::sync::Arc;
use std::thread::{self, Scope};
use std::time::Instant;

use common::client::Client;
use common::epochs;
use common::random::random;
use log::{debug, info, warn};

use crate::ask::ask;
use crate::couriers::{HEARTBEAT_TIMEOUT, wake};
use crate::lines::{Call, Found, LineId, Lines, Verdict};
use crate::state::{Replication, State};

impl Replication {
    /// Makes a call on a thread of the scope.
    pub(crate) fn make_call_on<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, call: Call) {
        let call = Arc::new(call);
        let theirs = Arc::clone(&call);
        let thread = thread::Builder::new().name("replicate".into());
        if let Err(error) = thread.spawn_scoped(scope, move || self.make_call(&theirs)) {
            let secondary = self.clients[call.line].base();
            warn!("failed to start a thread secondary={secondary} error={error}");
            self.make_call(&call);
        }
    }

    /// Makes a call, settles its line, and wakes the threads that its answer concerns.
    pub(crate) fn make_call(&self, call: &Call) {
        let (client, since) = (&self.clients[call.line], Instant::now());
        let (first, last) = (call.first, call.last);
        let verdict = believe(client, self.deliver(call));
        let now = Instant::now();
        let (secondary, us) = (client.base(), (now - since).as_micros());
        debug!(
            "called secondary={secondary} first_seq={first} last_seq={last} verdict={verdict:?} \
             duration_us={us}"
        );
        let mut state = self.lock();
        let State { log, lines, waiters, timeline, couriers, .. } = &mut *state;
        // A courier that was out with this call looks next.
        couriers.iter_mut().for_each(|own| _ = own.out_with.take_if(|out| *out == call.number));
        let was_failing = lines.secondaries()[call.line].last_error().is_some();
        let awaited = if lines.gathers() { waiters.count_pending(call, lines) } else { 0 };
        let failure = lines.settle(call, verdict, log, now, random());
        self.metrics.called(call.line, last.0 + 1 - first.0, failure.is_none());
        match failure {
            Some(failure) => waiters.note_failure(&failure, now),
            // The next piece of a long way to catch up does not wait for a full batch.
            None if call.is_whole => lines.batch_over(awaited, now - call.since, now),
            None => {}
        }
        timeline.acked(lines, now);
        self.ring(lines);
        self.log_change(lines, call.line, was_failing);
        if lines.fenced_by().is_some() {
            self.begun.notify_all();
        }
        wake(state, call.line);
    }

    /// Sends the entries of a call, unless an original turns out to hold something else than was
    /// thought.
    fn deliver(&self, call: &Call) -> Verdict {
        let client = &self.clients[call.line];
        if call.looks_first {
            let (_, heartbeat) = self.heartbeat(call.line);
            let asking = self.options.client(client.base(), HEARTBEAT_TIMEOUT);
            match ask(&asking, &heartbeat, true) {
                Ok(Found::Original(Some(count))) if call.held != Some(count) => {
                    return Verdict::Counted(count);
                }
                Ok(_) => {}
                Err(error) => return Verdict::Unsent(error),
            }
        }
        match client.post("/replicate", &call.body) {
            Ok(answer) => Verdict::of(answer.status, &answer.body),
            Err(error) => Verdict::Failed(error),
        }
    }

    /// Logs a failure when it begins and when it ends, however often it repeats.
    pub(crate) fn log_change(&self, lines: &Lines, line: LineId, was_failing: bool) {
        let secondary = self.clients[line].base();
        match (was_failing, lines.secondaries()[line].last_error()) {
            (false, Some(error)) => warn!("secondary failed secondary={secondary} error={error:?}"),
            (true, None) => info!("secondary recovered secondary={secondary}"),
            _ => {}
        }
    }
}

/// Whoever names an epoch that is out of reach of the clock has acknowledged nothing.
fn believe(client: &Client, verdict: Verdict) -> Verdict {
    let checked = match &verdict {
        Verdict::Acked(position) | Verdict::Gap(position) | Verdict::Stale(position) => {
            epochs::check(position.greatest_epoch(), client.base())
        }
        _ => Ok(()),
    };
    checked.map_or_else(Verdict::Failed, |()| verdict)
}
