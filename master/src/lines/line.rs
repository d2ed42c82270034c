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

use common::entries::{Log, Seq};
use common::wire::{Caller, replicate_body};

use super::original::Tally;
use super::{Call, Found, LineId, SPACING, WINDOW, When};
use crate::health::{Health, Heartbeats, Thresholds};

/// How much a secondary can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The secondary has not answered yet.
    Unknown,
    /// The secondary numbers its entries, as ours do.
    Numbering,
    /// The secondary knows no places: one entry a call, one call at a time. See `original.rs`.
    Original,
}

#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) number: u64,
    pub(super) first: Seq,
    since: Instant,
    /// A later call has arrived there and this one has not.
    pub(super) lost: bool,
}

/// The process that answers for a secondary.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) name: String,
    /// The number of the first call or heartbeat that it answered.
    pub(super) since: u64,
}

/// One secondary, as the master sees it.
///
/// Invariant: `acked < next ≤ last + 1`, where `last` is the master's last entry.
#[derive(Debug)]
pub struct Line {
    url: Arc<str>,
    pub(super) kind: Kind,
    pub(super) tally: Tally,
    /// The last entry that the secondary holds, as far as is known.
    pub(super) acked: Seq,
    /// The first entry of the next call.
    pub(super) next: Seq,
    /// The calls in flight, oldest first.
    pub(super) calls: Vec<InFlight>,
    calls_made: u64,
    pub(super) process: Option<Process>,
    /// Why the last call failed, if it did.
    pub(super) last_error: Option<String>,
    /// The secondary's log is not a prefix of the master's.
    pub(super) diverged: bool,
    heartbeats: Heartbeats,
    /// The number of the last heartbeat that was answered in the epoch of this reign.
    answered: u64,
    /// The number of calls that failed in a row.
    pub(super) failures: u32,
    /// The end of the pause after a failure.
    pub(super) retry_at: Option<Instant>,
    /// Since when the secondary has lacked something without making progress.
    pub(super) behind_since: Option<Instant>,
}

impl Line {
    pub(super) fn new(url: &str, thresholds: Thresholds) -> Line {
        Line {
            url: url.into(),
            kind: Kind::Unknown,
            tally: Tally::default(),
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
    pub(super) fn begin_reign(&mut self, last: Seq, found: &Found, now: Instant) {
        self.beat(matches!(found, Found::Original(_) | Found::Ours(_)));
        if let Found::Original(count) = *found {
            self.meet_original(count, last, now);
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

    pub(super) fn end_pause(&mut self) {
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
        let room_at = self.room_at().max(self.tally.doubt.unwrap_or(When::Now));
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
        let looks_first = self.tally.doubt.is_some();
        Call {
            line: id,
            first,
            last,
            body,
            number,
            since: now,
            is_whole,
            looks_first,
            held: self.tally.held,
            acked: self.acked,
            process,
        }
    }

    pub(super) fn check(&self, log: &Log) {
        let (acked, next, last) = (self.acked, self.next, log.last_seq());
        assert!(acked < next && next <= last.next(), "acked {acked} < next {next} ≤ {last} + 1");
    }
}
