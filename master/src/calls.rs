//! A call to a secondary, from the request for it to what its answer changes; and the same for a
//! heartbeat and for a transaction on the master's own disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use common::entries::Batch;
use common::random::random;
use common::wire::{Health, Heartbeat, Position};
use log::{debug, info, warn};

use crate::lines::{Call, LineId, Lines, Verdict, When};
use crate::state::{Errand, Replication, State, wake, wake_couriers};

impl Replication {
    /// Makes a call, settles its line, and wakes the threads that its answer concerns.
    pub(crate) fn make_call(&self, call: &Call) {
        let client = &self.clients[call.line];
        let (first, last) = (call.first, call.last);
        // A line whose call is never settled would be stopped for good.
        let posted = catch_unwind(AssertUnwindSafe(|| client.post("/replicate", &call.body)));
        let verdict = match posted {
            Ok(Ok(answer)) => Verdict::of(answer.status, &answer.body),
            Ok(Err(error)) => Verdict::Failed(error.to_string()),
            Err(_) => Verdict::Failed("panicked".into()),
        };
        let now = Instant::now();
        let (secondary, us) = (client.base(), (now - call.since).as_micros());
        debug!(
            "called secondary={secondary} first_seq={first} last_seq={last} verdict={verdict:?} \
             duration_us={us}"
        );
        let mut state = self.lock();
        let State { log, lines, waiters, timeline, .. } = &mut *state;
        let was_failing = lines.secondaries()[call.line].last_error().is_some();
        let failure = lines.settle(call, verdict, log, now, random());
        self.metrics.called(call.line, last.0 + 1 - first.0, failure.is_none());
        // Neither the next try nor the next piece of a long way to catch up waits for a full batch.
        let took = (failure.is_none() && call.is_whole).then(|| now - call.since);
        if let Some(failure) = failure {
            waiters.note_failure(&failure, now);
        }
        timeline.acked(lines, now);
        self.log_change(lines, call.line, was_failing);
        wake(state, took);
    }

    /// Writes a batch to the disk, with the epoch of this reign, and settles it.
    pub(crate) fn write_batch(&self, batch: &Batch) {
        let Some(store) = &self.store else { return };
        let (since, epoch) = (Instant::now(), self.lock().lines.epoch());
        let written = store.write(batch, epoch);
        let mut state = self.lock();
        state.lines.settle_disk(batch.last(), written.is_ok());
        match written {
            Ok(()) => self.bell.ring(state.lines.stored_seq()),
            Err(error) => state.fail_disk(error),
        }
        wake(state, Some(since.elapsed()));
    }

    /// The next errand of the courier of this line, or until when there is none.
    pub(crate) fn next_errand(&self, line: LineId) -> Result<Errand, When> {
        let mut state =
            self.let_others_append(self.lock(), |state, now| state.left_over_at(line).is_due(now));
        let now = Instant::now();
        let errand = state.next_errand(line, now);
        if errand.is_ok() {
            // The batch has left: it waits at no other node.
            wake_couriers(state, now);
        }
        errand
    }

    /// A number for a heartbeat, and what it tells this secondary.
    pub(crate) fn heartbeat(&self, line: LineId) -> (u64, Heartbeat) {
        let mut state = self.lock();
        let State { log, lines, .. } = &mut *state;
        let committed_seq = lines.committed_seq();
        let heartbeat = Heartbeat {
            epoch: lines.epoch(),
            last_seq: lines.last_seq(),
            committed_seq,
            committed_epoch: log.epoch_of(committed_seq),
            diverged: lines.secondaries()[line].diverged(),
        };
        (lines.next_number(), heartbeat)
    }

    /// Takes note of the answer of a secondary to the heartbeat of this number, or of why there is
    /// none. An original answers without a position.
    pub(crate) fn observe(
        &self,
        line: LineId,
        number: u64,
        answer: Result<Option<Position>, String>,
    ) {
        let (now, secondary) = (Instant::now(), self.clients[line].base());
        let mut state = self.lock();
        let State { log, lines, timeline, .. } = &mut *state;
        let was_failing = lines.secondaries()[line].last_error().is_some();
        let changed = lines.beat(line, answer.is_ok());
        match changed {
            None => {}
            Some(Health::Healthy) => info!("became healthy secondary={secondary}"),
            Some(health) => warn!("became {health:?} secondary={secondary}"),
        }
        let observed = match answer {
            Ok(Some(position)) => lines.observe(line, number, &position, log, now),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = observed {
            lines.note_error(line, error);
        }
        timeline.acked(lines, now);
        self.log_change(lines, line, was_failing);
        let is_back =
            changed == Some(Health::Healthy) && lines.secondaries()[line].recognises_repeats();
        wake(state, None);
        if is_back {
            // Calls from before may hang on connections that lead nowhere; they are made again.
            self.clients[line].reconnect();
        }
    }

    /// Logs a failure when it begins and when it ends, however often it repeats.
    fn log_change(&self, lines: &Lines, line: LineId, was_failing: bool) {
        let secondary = self.clients[line].base();
        match (was_failing, lines.secondaries()[line].last_error()) {
            (false, Some(error)) => warn!("secondary failed secondary={secondary} error={error:?}"),
            (true, None) => info!("secondary recovered secondary={secondary}"),
            _ => {}
        }
    }
}
