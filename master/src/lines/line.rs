//! One line: a secondary as the master sees it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::entries::{Epoch, Log, Seq};
use common::wire::{Position, replicate_body};

use super::{Call, Found, LineId, SPACING, Verdict, WINDOW};
use crate::health::{Health, Status, Thresholds, backoff};

/// How much a secondary can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing has been heard of it.
    Unknown,
    /// One of ours.
    Numbering,
    /// One that knows no places: one entry a call, one call at a time, no catch-up promised.
    Original,
}

#[derive(Debug)]
struct InFlight {
    number: u64,
    first: Seq,
    last: Seq,
    since: Instant,
    /// A later call has arrived there, and this one has not.
    lost: bool,
}

/// One secondary, as the master sees it.
///
/// Invariants: `acked` is at most the master's last entry; every call in flight continues where
/// another one, or `acked`, ended at the time it was claimed.
#[derive(Debug)]
pub struct Line {
    url: Arc<str>,
    kind: Kind,
    /// It holds everything up to and including this, as far as is known.
    acked: Seq,
    /// Those in flight, oldest first.
    calls: Vec<InFlight>,
    calls_made: u64,
    /// Which process answers there, and the number of the first call that it answered.
    instance: Option<(String, u64)>,
    /// Why the last call failed, if it did.
    last_error: Option<String>,
    /// Its log is not a prefix of the master's.
    diverged: bool,
    health: Health,
    /// Calls that failed in a row, and when the next may be made.
    failures: u32,
    retry_at: Option<Instant>,
    /// Since when it has lacked something without making progress.
    behind_since: Option<Instant>,
}

impl Line {
    pub(super) fn new(url: &str, thresholds: Thresholds) -> Line {
        Line {
            url: url.into(),
            kind: Kind::Unknown,
            acked: Seq::NONE,
            calls: Vec::new(),
            calls_made: 0,
            instance: None,
            last_error: None,
            diverged: false,
            health: Health::first(false, thresholds),
            failures: 0,
            retry_at: None,
            behind_since: None,
        }
    }

    /// Its base URL.
    pub fn url(&self) -> &Arc<str> {
        &self.url
    }

    /// It holds everything up to and including this entry, as far as is known.
    pub fn acked_seq(&self) -> Seq {
        self.acked
    }

    /// How many calls were made to it.
    pub fn calls_made(&self) -> u64 {
        self.calls_made
    }

    /// Why the last call failed; `None` since it works again.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Whether its log is not a prefix of the master's.
    pub fn diverged(&self) -> bool {
        self.diverged
    }

    /// For how long it has lacked something without making progress.
    pub fn lag(&self, now: Instant) -> Duration {
        self.behind_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// The master's reign begins over a log that ends with `last`.
    pub(super) fn begin_reign(&mut self, last: Seq, found: Found, thresholds: Thresholds) {
        self.health = Health::first(found != Found::Nothing, thresholds);
        if found == Found::Original {
            // It cannot say what it holds; sent again, it would hold everything twice.
            (self.kind, self.acked) = (Kind::Original, last);
        }
    }

    /// The master has appended an entry.
    pub(super) fn appended(&mut self, now: Instant) {
        self.behind_since.get_or_insert(now);
    }

    pub(super) fn status(&self, thresholds: Thresholds) -> Status {
        self.health.status(thresholds)
    }

    /// A heartbeat was answered, or was not; returns the new status if it has changed.
    pub(super) fn beat(&mut self, answered: bool, thresholds: Thresholds) -> Option<Status> {
        let before = self.status(thresholds);
        self.health.beat(answered);
        let after = self.status(thresholds);
        if after == before {
            return None;
        }
        if after == Status::Healthy {
            self.forgive();
        }
        Some(after)
    }

    /// Calls may be made at once again.
    fn forgive(&mut self) {
        (self.failures, self.retry_at) = (0, None);
    }

    /// The last entry such that it and all before it are acknowledged or on their way.
    pub(super) fn covered(&self) -> Seq {
        let mut covered = self.acked;
        // A call's entries may begin before, inside or after what others carry: repeat until
        // nothing more connects. There are at most WINDOW of them.
        while let Some(call) =
            self.on_their_way().find(|call| call.first <= covered.next() && call.last > covered)
        {
            covered = call.last;
        }
        covered
    }

    fn on_their_way(&self) -> impl DoubleEndedIterator<Item = &InFlight> {
        self.calls.iter().filter(|call| !call.lost)
    }

    /// Whether a call that it gets twice is stored once.
    pub(super) fn recognises_repeats(&self) -> bool {
        self.kind == Kind::Numbering
    }

    /// Whether calls that are not urgent wait out the pause after a failure.
    pub(super) fn is_paused(&self) -> bool {
        self.retry_at.is_some()
    }

    /// When the next call may start: `None` for not before one in flight has been answered.
    /// `Some(None)` is now.
    pub(super) fn free_at(&self, urgent: bool) -> Option<Option<Instant>> {
        let spaced = self.spaced_at()?;
        Some(if urgent { spaced } else { spaced.max(self.retry_at) })
    }

    fn spaced_at(&self) -> Option<Option<Instant>> {
        if self.calls.len() >= WINDOW {
            return None;
        }
        match self.on_their_way().next_back() {
            None => Some(None),
            Some(_) if self.kind != Kind::Numbering => None,
            Some(latest) => {
                let count = u32::try_from(self.calls.len()).expect("at most WINDOW calls");
                Some(Some(latest.since + SPACING * count))
            }
        }
    }

    /// Since when it has lacked something that it could be called for at once.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let is_free = self.on_their_way().next().is_none() && !self.is_paused();
        self.behind_since.filter(|_| is_free)
    }

    /// Begins the call of this number: it carries what is not covered yet.
    pub(super) fn call(
        &mut self,
        id: LineId,
        number: u64,
        epoch: Epoch,
        log: &Log,
        now: Instant,
    ) -> Call {
        let first = self.covered().next();
        // Until it is known to understand more, one entry in the original's form.
        let until = if self.kind == Kind::Numbering { log.last_seq() } else { first };
        let (body, last) = replicate_body(log, epoch, self.acked, first, until);
        self.calls_made += 1;
        self.calls.push(InFlight { number, first, last, since: now, lost: false });
        let (acked, instance) = (self.acked, self.instance.as_ref().map(|(_, since)| *since));
        let is_whole = last == log.last_seq();
        Call { line: id, first, last, body, number, since: now, is_whole, acked, instance }
    }

    /// The call is over. Takes note of what it means.
    ///
    /// # Errors
    /// Why the entries were not taken.
    pub(super) fn settle(
        &mut self,
        call: &Call,
        verdict: Verdict,
        log: &Log,
        now: Instant,
        random: u64,
    ) -> Result<(), String> {
        self.calls.retain(|in_flight| in_flight.number != call.number);
        let settled = self.weigh(call, verdict, log, now);
        match &settled {
            Ok(()) => {
                self.last_error = None;
                self.forgive();
            }
            Err(detail) => {
                self.last_error = Some(detail.clone());
                self.failures = self.failures.saturating_add(1);
                self.retry_at = Some(now + backoff(self.failures, random));
            }
        }
        settled
    }

    fn weigh(
        &mut self,
        call: &Call,
        verdict: Verdict,
        log: &Log,
        now: Instant,
    ) -> Result<(), String> {
        match verdict {
            Verdict::Acked(position) if position.last_seq < call.last => {
                Err(format!("acknowledged entry {} and holds {}", call.last, position.last_seq))
            }
            Verdict::Acked(position) => {
                self.observe(call.number, &position, log, now)?;
                if self.is(&position.instance) {
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
                self.observe(call.number, &position, log, now)?;
                if position.last_seq.next() >= call.first || self.takes_back(call, &position) {
                    let held = position.last_seq;
                    return Err(format!("refused entry {} and holds {held}", call.first));
                }
                // It has waited for those that were to come before. They are sent again; should
                // they arrive after all, they are duplicates.
                let earlier = self.calls.iter_mut().filter(|other| other.number < call.number);
                earlier.for_each(|other| other.lost = true);
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

    /// Takes note of where it says that it stands, as the answer to the question of this number.
    ///
    /// # Errors
    /// When its log is not a prefix of the master's; then nothing of it counts as acknowledged.
    pub(super) fn observe(
        &mut self,
        number: u64,
        position: &Position,
        log: &Log,
        now: Instant,
    ) -> Result<(), String> {
        if !self.identify(&position.instance, number) {
            return Ok(());
        }
        let last = position.last_seq;
        self.diverged = true;
        if last > log.last_seq() {
            return Err(format!("diverged: holds {last} entries, the master {}", log.last_seq()));
        }
        if log.epoch_of(last) != position.last_epoch {
            return Err(format!("diverged: holds another entry at {last}"));
        }
        self.diverged = false;
        // Epoch 0 names no entry: two of them at one place may differ. Those are sent and compared.
        let held = if position.last_epoch == Epoch::default() { Seq::NONE } else { last };
        self.advance(held, log.last_seq(), now);
        if self.acked == log.last_seq() {
            self.last_error = None;
        }
        Ok(())
    }

    /// Takes note that it could not be asked, or is not what it should be.
    pub(super) fn note_error(&mut self, detail: String) {
        self.last_error = Some(detail);
    }

    fn advance(&mut self, to: Seq, last: Seq, now: Instant) {
        let progress = to > self.acked;
        self.acked = self.acked.max(to);
        if self.acked >= last {
            self.behind_since = None;
        } else if progress || self.behind_since.is_none() {
            self.behind_since = Some(now);
        }
    }

    fn is(&self, instance: &str) -> bool {
        self.instance.as_ref().is_some_and(|(known, _)| known == instance)
    }

    /// Whether it lacks what it had acknowledged, as the same process, when the call was claimed.
    fn takes_back(&self, call: &Call, position: &Position) -> bool {
        let same = |(name, since): &(String, u64)| {
            *name == position.instance && Some(*since) == call.instance
        };
        self.instance.as_ref().is_some_and(same) && position.last_seq < call.acked
    }

    /// Takes note of which process has answered the question of this number; `false` if a later
    /// one has answered already.
    fn identify(&mut self, instance: &str, number: u64) -> bool {
        self.kind = Kind::Numbering;
        match &self.instance {
            Some((known, _)) if known == instance => true,
            Some((_, since)) if number < *since => false,
            _ => {
                // Also what an original acknowledged there before.
                self.acked = Seq::NONE;
                self.forgive();
                self.instance = Some((instance.to_string(), number));
                true
            }
        }
    }
}
