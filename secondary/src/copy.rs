//! The copy of the log and the rules for it, without lock, disk and clock.
//!
//! A call that continues the copy is accepted. Entries that the copy holds already are acknowledged
//! again. What contradicts the copy is weighed: entries that a majority is known to hold are never
//! given up, so the copy is *diverged* and an operator decides. Entries beyond them are dropped, for
//! the reigning master's log does not have them, and nobody was told by a majority that they are
//! stored.

use std::time::{Duration, Instant};

use common::entries::{Epoch, Log, Message, Seq};
use common::reign::{Facts, Reign};
use common::wire::{Heard, Heartbeat, Numbered};
use log::warn;

/// After this time without a heartbeat a master that does not say its limit counts as gone.
const SILENT_AFTER: Duration = Duration::from_millis(2500);

/// A master that was promised a reign has this time to begin it before another one is promised.
const EXPECTED_WITHIN: Duration = Duration::from_millis(500);

/// So long after its start a secondary listens for a living master before it promises anything to
/// another one.
const LISTENS: Duration = Duration::from_secs(1);

/// What is wrong between the copy and its master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contradiction {
    /// The entries from this one on are to be dropped.
    Droppable(Seq),
    /// The copy holds another entry at this place, and must not drop it.
    Final(Seq),
}

/// A copy of a master's log, and what is known of masters.
#[derive(Debug, Default)]
pub struct Copy {
    /// The log.
    pub log: Log,
    /// What must not be forgotten.
    pub facts: Facts,
    started: Option<Instant>,
    /// The last heartbeat of the promised reign, and when it came.
    heartbeat: Option<(Heartbeat, Instant)>,
    /// Who was promised that reign, and when: its heartbeats are about to come.
    candidate: Option<(Heard, Instant)>,
    /// Up to this entry the copy is known to be a prefix of the log of the promised reign.
    verified: Seq,
    /// The last entry that a quorum has held, as the master of the promised reign told.
    told: Seq,
    /// Entries dropped since the start.
    pub dropped: u64,
}

impl Copy {
    /// A copy that goes on from this log, in a process that is started now.
    pub fn new(log: Log, facts: Facts, now: Instant) -> Copy {
        Copy { log, facts, started: Some(now), ..Copy::default() }
    }

    /// Promises this reign, which must be allowed.
    pub fn promise(&mut self, reign: Reign) {
        if reign != self.facts.promised {
            (self.verified, self.told) = (Seq::NONE, Seq::NONE);
            self.heartbeat = None;
        }
        self.facts.promise(reign);
    }

    /// Follows this reign, which must be allowed.
    pub fn follow(&mut self, reign: Reign) {
        self.promise(reign);
        self.facts.follow(reign);
    }

    /// Takes note of the heartbeat of a reign that is followed.
    pub fn hear(&mut self, mut heartbeat: Heartbeat, now: Instant) {
        // One that was sent before the farewell may come after it.
        heartbeat.abdicates |= self.heartbeat.as_ref().is_some_and(|(last, _)| last.abdicates);
        self.candidate = None;
        let (own, masters) = (self.log.most_keys(), heartbeat.idempotency_keys);
        if self.heartbeat.is_none() && own < masters {
            warn!(
                "remembers fewer idempotency keys than its master, which a takeover would forget \
                 idempotency_keys={own} of_master={masters}"
            );
        }
        let (committed, epoch) = (heartbeat.committed_seq, heartbeat.committed_epoch);
        self.heartbeat = Some((heartbeat, now));
        self.verify(if self.holds(committed, epoch) { committed } else { Seq::NONE }, committed);
    }

    /// Appends an entry in the original's form. It does not count if a master of ours has filled the
    /// log so far.
    pub fn append(&mut self, message: Message) -> Seq {
        let seq = self.log.append(Epoch::default(), &message.into());
        let Facts { log_epoch, strays_from, .. } = &mut self.facts;
        if *log_epoch > Epoch::default() && *strays_from == Seq::NONE {
            *strays_from = seq;
        }
        seq
    }

    /// The last of the entries up to `stored` that counts.
    pub fn last_counted(&self, stored: Seq) -> Seq {
        match self.facts.strays_from {
            Seq::NONE => stored,
            first => stored.min(first.previous()),
        }
    }

    /// Takes note of whom the promise was given to.
    pub fn expect(&mut self, candidate: Heard, now: Instant) {
        // Who asks again and again, and begins nothing, keeps nobody else out.
        let is_same = |(known, _): &(Heard, Instant)| known.master == candidate.master;
        if !self.candidate.as_ref().is_some_and(is_same) {
            self.candidate = Some((candidate, now));
        }
    }

    /// It has been listening for long enough.
    #[cfg(test)]
    pub fn has_listened(&mut self) {
        self.started = None;
    }

    /// Whether the process was started too short a while ago to have heard of a living master, and
    /// this one may be another.
    pub fn may_have_missed(&self, reign: Reign, now: Instant) -> bool {
        let is_fresh = self.started.is_some_and(|at| now.saturating_duration_since(at) < LISTENS);
        let is_known = reign.is_first() || reign.master == self.facts.promised.master;
        is_fresh && self.heartbeat.is_none() && !is_known
    }

    /// The master whose heartbeats still come, or are about to.
    pub fn hears(&self, now: Instant) -> Option<Heard> {
        if self.heartbeat.is_none() {
            let (candidate, at) = self.candidate.as_ref()?;
            let is_soon = now.saturating_duration_since(*at) < EXPECTED_WITHIN;
            return is_soon.then(|| candidate.clone());
        }
        let (heartbeat, _) = self.heartbeat.as_ref().filter(|_| self.silence(now).is_none())?;
        let (master, url) = (heartbeat.reign.master, heartbeat.url.clone());
        (!heartbeat.abdicates).then_some(Heard { master, url, is_candidate: false })
    }

    /// For how long no heartbeat has come, if that is too long.
    fn silence(&self, now: Instant) -> Option<Duration> {
        let (heartbeat, at) = self.heartbeat.as_ref()?;
        let limit = match heartbeat.silent_after_ms {
            0 => SILENT_AFTER,
            ms => Duration::from_millis(ms),
        };
        Some(now.saturating_duration_since(*at)).filter(|silence| *silence >= limit)
    }

    /// Why this copy, of which `held` is the last entry, should not be read as if it were up to
    /// date; `None` when it may be.
    pub fn not_ready_reason(&self, held: Seq, now: Instant) -> Option<String> {
        let Some((heartbeat, _)) = &self.heartbeat else {
            return Some("no master has been heard".into());
        };
        if let Some(silence) = self.silence(now) {
            return Some(format!("no master has been heard for {} ms", silence.as_millis()));
        }
        if heartbeat.abdicates {
            return Some("the master has stopped".into());
        }
        if heartbeat.diverged {
            return Some("diverged: its log is not a prefix of the master's".into());
        }
        let last = heartbeat.last_seq;
        (last > held).then(|| format!("catching up: holds {held} of {last} entries"))
    }

    /// Whether this entry of the master's is held. Two entries at one place are the same when their
    /// epochs are, and so are all entries before them. Epoch 0 names no entry.
    fn holds(&self, seq: Seq, epoch: Epoch) -> bool {
        let named = epoch > Epoch::default() && seq <= self.log.last_seq();
        named && self.log.epoch_of(seq) == epoch
    }

    /// Records that the copy is a prefix of the master's log up to `seq`, and that a quorum has
    /// held the entries up to `committed`.
    pub fn verify(&mut self, seq: Seq, committed: Seq) {
        self.verified = self.verified.max(seq);
        self.told = self.told.max(committed);
        self.facts.committed = self.facts.committed.max(self.told.min(self.verified));
    }

    /// Whether the entries before this call are missing and on their way. Nothing is on its way if
    /// the master believes more to be acknowledged than the copy holds: the copy was started anew.
    pub fn is_early(&self, call: &Numbered) -> bool {
        let last = self.log.last_seq();
        call.first > last.next() && last >= call.acked && self.facts.allow(call.reign)
    }

    /// Whether the messages stay within `most` bytes. Entries that are held already need no room.
    pub fn has_room(&self, call: &Numbered, most: u64) -> bool {
        let last = self.log.last_seq().0;
        let new = (call.first.0..).zip(&call.drafts).filter(|(seq, _)| *seq > last);
        let new: u64 = new.map(|(_, draft)| draft.message.bytes_in_log()).sum();
        new == 0 || self.log.bytes() + new <= most
    }

    /// What contradicts this call, if anything does.
    pub fn contradiction(&self, call: &Numbered) -> Option<Contradiction> {
        let (previous, last) = (call.first.previous(), self.log.last_seq());
        let (at, epoch) = if previous <= last && self.log.epoch_of(previous) != call.prev_epoch {
            (previous, call.prev_epoch)
        } else {
            (self.log.find_difference(call.epoch, call.first, &call.drafts)?, call.epoch)
        };
        Some(self.weigh(at, epoch, call.reign_start.is_some()))
    }

    /// What contradicts the beginning of the reign: entry `start` of this epoch.
    pub fn contradiction_at_start(&self, start: Seq, epoch: Epoch) -> Option<Contradiction> {
        let is_another = start <= self.log.last_seq() && self.log.epoch_of(start) != epoch;
        (is_another && epoch > Epoch::default()).then(|| self.weigh(start, epoch, true))
    }

    /// The master's log has another entry at this place, of this epoch. Epochs grow along a log, so
    /// it has none of the entries before that are of a later epoch either.
    fn weigh(&self, at: Seq, epoch: Epoch, can_drop: bool) -> Contradiction {
        let first = self.log.last_not_after(epoch, at).next().min(at);
        match can_drop && first > self.facts.committed {
            true => Contradiction::Droppable(first),
            false => Contradiction::Final(first),
        }
    }

    /// The entries that remain beyond the beginning of the reign from before it. Once the copy is
    /// verified up to there, the master's log is known not to have them: it has only entries of its
    /// own reign there. They must go before the log counts as one of the reign, or an old log of the
    /// same length would rank as high as one with committed entries.
    pub fn remains(&self, start: Seq) -> Option<Contradiction> {
        let Reign { epoch, .. } = self.facts.promised;
        let first = start.next();
        let is_due = self.verified >= start && self.facts.log_epoch != epoch;
        let is_old = is_due && first <= self.log.last_seq() && self.log.epoch_of(first) != epoch;
        is_old.then(|| self.weigh(first, epoch, true))
    }

    /// The copy has reached the length that the log had at the beginning of the reign, if it has
    /// been verified up to there.
    pub fn reach(&mut self, start: Seq) {
        if self.verified >= start {
            self.facts.log_epoch = self.facts.promised.epoch;
        }
    }

    /// Records that the copy holds entry `start` of the reign's beginning, if it does.
    pub fn verify_start(&mut self, start: Seq, epoch: Epoch) {
        if self.holds(start, epoch) {
            self.verify(start, Seq::NONE);
        }
    }

    /// The master of an earlier release does not say with what its reign began: its last entry tells
    /// the reign.
    pub fn follow_unnamed(&mut self) {
        self.facts.log_epoch = self.facts.log_epoch.max(self.log.last_epoch());
    }

    /// Drops the entries from this one on.
    pub fn drop_from(&mut self, first: Seq) {
        self.dropped += self.log.last_seq().next().0 - first.0;
        self.log.drop_from(first);
        if first <= self.facts.strays_from {
            self.facts.strays_from = Seq::NONE;
        }
        self.verified = self.verified.min(self.log.last_seq());
    }
}
