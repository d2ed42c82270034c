//! One line: a secondary as the master sees it.
//!
//! Two cursors say everything about the entries of a line: `acked` is the last entry that the
//! secondary holds, `next` is the first entry of the next call. Entries between the two are on
//! their way. Every position that a secondary gives moves `acked`: in an acknowledgement, in a
//! refusal for a gap, in the answer to a heartbeat. A call that fails takes `next` back to its
//! first entry. An example, in which the log holds five entries:
//!
//! | event | `acked` | `next` | on their way |
//! |---|---|---|---|
//! | nothing has been sent | 0 | 1 | |
//! | a call begins, three entries are in the log | 0 | 4 | 1..3 |
//! | two entries are appended, a second call begins | 0 | 6 | 1..3, 4..5 |
//! | the first call is acknowledged | 3 | 6 | 4..5 |
//! | the second call fails | 3 | 4 | |
//! | a call begins | 3 | 6 | 4..5 |
//! | it is acknowledged | 5 | 6 | |
//! | the secondary has restarted with an empty log | 0 | 1 | |

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::entries::{Epoch, Log, Seq};
use common::wire::{Caller, Position, replicate_body};

use super::{Call, Found, LineId, SPACING, Verdict, WINDOW, When};
use crate::health::{Health, Heartbeats, Thresholds, backoff};

/// How much a secondary can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The secondary has not answered yet.
    Unknown,
    /// The secondary numbers its entries, as ours do.
    Numbering,
    /// The secondary knows no places: one entry a call, one call at a time, no catch-up promised.
    Original,
}

#[derive(Debug)]
struct InFlight {
    number: u64,
    first: Seq,
    since: Instant,
    /// A later call has arrived there and this one has not.
    lost: bool,
}

/// The process that answers for a secondary.
#[derive(Debug)]
struct Process {
    name: String,
    /// The number of the first call or heartbeat that it answered.
    since: u64,
}

/// One secondary, as the master sees it.
///
/// Invariant: `acked < next ≤ last + 1`, where `last` is the master's last entry.
#[derive(Debug)]
pub struct Line {
    url: Arc<str>,
    kind: Kind,
    /// The last entry that the secondary holds, as far as is known.
    acked: Seq,
    /// The first entry of the next call.
    next: Seq,
    /// The calls in flight, oldest first.
    calls: Vec<InFlight>,
    calls_made: u64,
    process: Option<Process>,
    /// Why the last call failed, if it did.
    last_error: Option<String>,
    /// The secondary's log is not a prefix of the master's.
    diverged: bool,
    heartbeats: Heartbeats,
    /// The number of the last heartbeat that was answered in the epoch of this reign.
    answered: u64,
    /// The number of calls that failed in a row.
    failures: u32,
    /// The end of the pause after a failure.
    retry_at: Option<Instant>,
    /// Since when the secondary has lacked something without making progress.
    behind_since: Option<Instant>,
}

impl Line {
    pub(super) fn new(url: &str, thresholds: Thresholds) -> Line {
        Line {
            url: url.into(),
            kind: Kind::Unknown,
            acked: Seq::NONE,
            next: Seq::NONE.next(),
            calls: Vec::new(),
            calls_made: 0,
            process: None,
            last_error: None,
            diverged: false,
            heartbeats: Heartbeats::new(thresholds),
            answered: 0,
            failures: 0,
            retry_at: None,
            behind_since: None,
        }
    }

    /// The base URL of the secondary.
    pub fn url(&self) -> &Arc<str> {
        &self.url
    }

    /// The last entry that the secondary holds, as far as is known.
    pub fn acked_seq(&self) -> Seq {
        self.acked
    }

    /// The first entry of the next call.
    pub fn next_seq(&self) -> Seq {
        self.next
    }

    /// The number of calls made to the secondary.
    pub fn calls_made(&self) -> u64 {
        self.calls_made
    }

    /// Why the last call failed; `None` since it works again.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Whether the secondary's log is not a prefix of the master's.
    pub fn diverged(&self) -> bool {
        self.diverged
    }

    /// For how long the secondary has lacked something without making progress.
    pub fn lag(&self, now: Instant) -> Duration {
        self.behind_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Whether a call that arrives twice is stored once.
    pub fn recognises_repeats(&self) -> bool {
        self.kind == Kind::Numbering
    }

    /// The reign of the master begins over a log that ends with `last`.
    pub(super) fn begin_reign(&mut self, last: Seq, found: &Found) {
        self.beat(matches!(found, Found::Original | Found::Ours(_)));
        if *found == Found::Original {
            // An original cannot say what it holds; sent again, it would hold everything twice.
            (self.kind, self.acked, self.next) = (Kind::Original, last, last.next());
        }
    }

    /// The master has appended an entry.
    pub(super) fn appended(&mut self, now: Instant) {
        self.behind_since.get_or_insert(now);
    }

    /// The health of the secondary, as far as heartbeats tell.
    pub fn health(&self) -> Health {
        self.heartbeats.health()
    }

    /// Whether the secondary has promised this reign, or followed it.
    pub fn follows(&self) -> bool {
        self.answered > 0
    }

    /// The number of the last heartbeat that was answered in the epoch of this reign.
    pub(super) fn answered(&self) -> u64 {
        self.answered
    }

    /// The heartbeat of this number was answered in the epoch of this reign.
    pub(super) fn note_answer(&mut self, number: u64) {
        self.answered = self.answered.max(number);
    }

    /// A heartbeat was answered, or was not; returns the new health if it has changed.
    pub(super) fn beat(&mut self, answered: bool) -> Option<Health> {
        let before = self.health();
        self.heartbeats.beat(answered);
        let changed = Some(self.health()).filter(|after| *after != before);
        if changed == Some(Health::Healthy) {
            self.end_pause();
        }
        changed
    }

    fn end_pause(&mut self) {
        (self.failures, self.retry_at) = (0, None);
    }

    /// Whether no call is on its way.
    pub fn is_idle(&self) -> bool {
        self.latest_call().is_none()
    }

    /// Whether calls that are not urgent wait out the pause after a failure.
    pub fn is_paused(&self) -> bool {
        self.retry_at.is_some()
    }

    fn latest_call(&self) -> Option<&InFlight> {
        self.calls.iter().rfind(|call| !call.lost)
    }

    /// When the next call may start. An urgent call does not wait out the pause after a failure.
    pub fn free_at(&self, urgent: bool) -> When {
        let room_at = self.room_at();
        match self.retry_at {
            Some(at) if !urgent => room_at.max(When::At(at)),
            _ => room_at,
        }
    }

    /// When the calls in flight leave room for another one.
    fn room_at(&self) -> When {
        match self.latest_call() {
            _ if self.calls.len() >= WINDOW => When::Blocked,
            None => When::Now,
            Some(_) if self.kind != Kind::Numbering => When::Blocked,
            Some(latest) => {
                let count = u32::try_from(self.calls.len()).expect("at most WINDOW calls");
                When::At(latest.since + SPACING * count)
            }
        }
    }

    /// Begins a call with the entries from `next` on.
    pub(super) fn begin_call(
        &mut self,
        id: LineId,
        number: u64,
        caller: Caller,
        log: &Log,
        now: Instant,
    ) -> Call {
        let first = self.next;
        // A secondary that may be an original gets one entry, in the original's form.
        let until = if self.kind == Kind::Numbering { log.last_seq() } else { first };
        let (body, last) = replicate_body(log, caller, first, until);
        self.next = last.next();
        self.calls_made += 1;
        self.calls.push(InFlight { number, first, since: now, lost: false });
        self.check(log);
        let process = self.process.as_ref().map(|process| process.since);
        let is_whole = last == log.last_seq();
        Call {
            line: id,
            first,
            last,
            body,
            number,
            since: now,
            is_whole,
            acked: self.acked,
            process,
        }
    }

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

    fn check(&self, log: &Log) {
        let (acked, next, last) = (self.acked, self.next, log.last_seq());
        assert!(acked < next && next <= last.next(), "acked {acked} < next {next} ≤ {last} + 1");
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
            Verdict::AckedByOriginal => {
                self.kind = Kind::Original;
                self.advance(call.last, log.last_seq(), now);
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
            Verdict::Failed(detail) => Err(detail),
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
    }

    fn advance(&mut self, to: Seq, last: Seq, now: Instant) {
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
        self.kind = Kind::Numbering;
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
