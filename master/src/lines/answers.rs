//! What the answers of a secondary change on its line.

use std::time::Instant;

use common::entries::{Epoch, Log, Seq};
use common::wire::Position;

use super::line::{InFlight, Kind, Line, Process};
use super::{Call, Verdict};
use crate::health::backoff;

impl Line {
    /// Ends a call: its entries are acknowledged, or are to be sent again.
    /// The error says why the entries were not taken.
    pub(super) fn settle(
        &mut self,
        call: &Call,
        verdict: Verdict,
        epoch: Epoch,
        log: &Log,
        now: Instant,
        random: u64,
    ) -> Result<(), String> {
        let is_lost = |other: &InFlight| other.number == call.number && other.lost;
        let lost = self.calls.iter().any(is_lost);
        self.calls.retain(|other| other.number != call.number);
        let was_sent = !matches!(verdict, Verdict::Unsent(_));
        let settled = self.weigh(call, verdict, epoch, log, now);
        match &settled {
            Ok(()) => {
                self.last_error = None;
                self.end_pause();
            }
            Err(detail) => {
                self.last_error = Some(detail.clone());
                self.failures = self.failures.saturating_add(1);
                self.retry_at = Some(now + backoff(self.failures, random));
                if was_sent {
                    self.doubt_call(now.saturating_duration_since(call.since), now);
                }
            }
        }
        // A younger call may carry the entries. Those of a lost call were taken back when it was
        // lost.
        let mut younger = self.calls.iter().filter(|other| other.number > call.number);
        let again = younger.any(|other| !other.lost && other.first <= call.first);
        if !lost && !again && self.acked < call.last {
            self.send_again(call.first);
        }
        self.check(log);
        settled
    }

    /// Has the next call begin with this entry, unless it is acknowledged.
    fn send_again(&mut self, first: Seq) {
        self.next = self.next.min(first).max(self.acked.next());
    }

    fn weigh(
        &mut self,
        call: &Call,
        verdict: Verdict,
        epoch: Epoch,
        log: &Log,
        now: Instant,
    ) -> Result<(), String> {
        match verdict {
            Verdict::Acked(position) if position.last_seq < call.last => {
                Err(format!("acknowledged entry {} and holds {}", call.last, position.last_seq))
            }
            Verdict::Acked(position) => {
                self.observe(call.number, &position, epoch, log, now)?;
                if self.is(&position.instance) {
                    self.diverged = false;
                    self.advance(call.last, log.last_seq(), now);
                }
                Ok(())
            }
            Verdict::AckedByOriginal(place) => {
                self.acked_by_original(call.last, place, log.last_seq(), now);
                Ok(())
            }
            Verdict::Counted(count) => {
                // The next call begins where the count says. What contradicts is shown as diverged.
                let _ = self.take_count(count, log.last_seq(), now);
                Ok(())
            }
            Verdict::Gap(position) => {
                self.observe(call.number, &position, epoch, log, now)?;
                if position.last_seq.next() >= call.first || self.takes_back(call, &position) {
                    let held = position.last_seq;
                    return Err(format!("refused entry {} and holds {held}", call.first));
                }
                self.lose_calls_before(call.number);
                Ok(())
            }
            Verdict::Stale(position) => {
                Err(format!("its epoch is {}: this master's reign is over", position.epoch))
            }
            Verdict::Failed(detail) | Verdict::Unsent(detail) => Err(detail),
            Verdict::Diverged(detail) => {
                self.diverged = true;
                Err(format!("diverged: {detail}"))
            }
        }
    }

    /// The calls before this one count as lost: the secondary has waited for them in vain. Their
    /// entries are sent again. The secondary recognises a call that arrives late.
    fn lose_calls_before(&mut self, number: u64) {
        let mut first = self.next;
        for earlier in self.calls.iter_mut().filter(|other| other.number < number && !other.lost) {
            earlier.lost = true;
            first = first.min(earlier.first);
        }
        self.send_again(first);
    }

    /// Takes note of the position that the secondary gave as the answer to the call or heartbeat of
    /// this number, in the reign of this epoch.
    /// Fails when its log does not match the master's; the next call begins where the two may have
    /// parted, and the secondary drops what it must not keep.
    pub(super) fn observe(
        &mut self,
        number: u64,
        position: &Position,
        epoch: Epoch,
        log: &Log,
        now: Instant,
    ) -> Result<(), String> {
        if !self.identify(&position.instance, number) {
            return Ok(());
        }
        let last = position.last_seq;
        let common = log.last_not_after(position.last_epoch, last);
        if common < last || log.epoch_of(last) != position.last_epoch {
            let first = common.min(last.previous()).next();
            if self.calls.is_empty() {
                self.next = first.max(self.acked.next());
            }
            self.send_again(first);
            return Err(match last > log.last_seq() {
                true => format!("holds {last} entries, the master {}", log.last_seq()),
                false => format!("holds another entry at {last}"),
            });
        }
        // Entries of epoch 0 are not named by their epoch. They are sent again and compared there.
        let held = if position.last_epoch == Epoch::default() { Seq::NONE } else { last };
        if position.log_epoch.is_some_and(|log_epoch| log_epoch != epoch) {
            // What the copy holds beyond the beginning of the reign is not weighed yet.
            self.next = self.next.max(held.next());
            return Ok(());
        }
        self.diverged = false;
        self.advance(held, log.last_seq(), now);
        if self.acked == log.last_seq() {
            self.last_error = None;
        }
        Ok(())
    }

    /// Takes note that the secondary could not be asked, or that its answer was wrong.
    pub(super) fn note_error(&mut self, detail: String) {
        self.last_error = Some(detail);
        self.doubt_count();
    }

    pub(super) fn advance(&mut self, to: Seq, last: Seq, now: Instant) {
        let progress = to > self.acked;
        self.acked = self.acked.max(to);
        self.next = self.next.max(self.acked.next());
        if self.acked >= last {
            self.behind_since = None;
        } else if progress || self.behind_since.is_none() {
            self.behind_since = Some(now);
        }
    }

    fn is(&self, name: &str) -> bool {
        self.process.as_ref().is_some_and(|process| process.name == name)
    }

    /// Whether the same process now holds less than it had acknowledged when the call began.
    fn takes_back(&self, call: &Call, position: &Position) -> bool {
        let since = self.process.as_ref().map(|process| process.since);
        self.is(&position.instance) && since == call.process && position.last_seq < call.acked
    }

    /// Takes note of which process has answered the call or heartbeat of this number. Returns
    /// `false` when a later process has answered already.
    fn identify(&mut self, name: &str, number: u64) -> bool {
        (self.kind, self.tally.doubt) = (Kind::Numbering, None);
        match &self.process {
            Some(known) if known.name == name => true,
            Some(known) if number < known.since => false,
            _ => {
                // Acknowledgements of the former process, or of an original, count no more.
                (self.acked, self.next) = (Seq::NONE, Seq::NONE.next());
                self.end_pause();
                self.process = Some(Process { name: name.to_string(), since: number });
                true
            }
        }
    }
}
