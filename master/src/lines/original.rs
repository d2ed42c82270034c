//! What the count of an original says about its line.
//!
//! An original knows no places. It appends what it is sent, a repeated entry too, and counts its
//! entries. While no call is out, the count is compared with the entries that it has acknowledged:
//!
//! | the count | so | then |
//! |---|---|---|
//! | is as expected | it holds what it has acknowledged | |
//! | has grown since a call without an answer | the entry of that call has arrived | it is acknowledged |
//! | is 0 | it was restarted | it is sent the log again, one entry a call |
//! | is any other | it holds something else | it is *diverged*, and still sent what is new |
//!
//! A call without an answer leaves its entry in doubt: a slow original appends it later. The entry
//! is sent again when the count still lacks it after twice the time that the call took, after four
//! times after the next one, and so on. Before each call that follows a failure the count is asked
//! for, since an original that was down has probably forgotten everything.

use std::time::{Duration, Instant};

use common::entries::Seq;

use super::line::{Kind, Line};
use super::{LineId, Lines, When};

/// The most that the doubt about an entry is lengthened, as a power of two.
const MOST_DOUBLINGS: u32 = 4;

/// What is known of the entries of an original.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// How many entries it holds, if it has ever said so.
    pub(super) held: Option<Seq>,
    /// Its count has agreed with its acknowledgements, so it can be believed.
    agrees: bool,
    /// Something has failed since the last count. No call begins before this.
    pub(super) doubt: Option<When>,
    /// The last number that was given before the last call ended.
    pub(super) settled: u64,
}

impl Line {
    /// Whether the entries must be counted that an original holds, however large its log is.
    pub fn wants_count(&self) -> bool {
        let is_unsure = self.tally.held.is_none() || self.tally.doubt.is_some();
        self.kind != Kind::Numbering && is_unsure
    }

    /// An original takes the place of whoever was there. It holds the beginning of the log, as many
    /// entries as it counts; the whole log if it does not count, for sent again it would hold
    /// everything twice. `last` is the last entry of the log.
    pub(super) fn meet_original(&mut self, count: Option<Seq>, last: Seq, now: Instant) {
        (self.kind, self.process) = (Kind::Original, None);
        self.tally = Tally { held: count, settled: self.tally.settled, ..Tally::default() };
        self.diverged = count > Some(last);
        (self.acked, self.next) = (Seq::NONE, Seq::NONE.next());
        self.advance(count.unwrap_or(last).min(last), last, now);
    }

    /// Takes note of the count in the answer to the heartbeat of this number.
    /// Fails when the original holds something else than the beginning of the log.
    pub(super) fn hear_count(
        &mut self,
        number: u64,
        count: Seq,
        last: Seq,
        now: Instant,
    ) -> Result<(), String> {
        // The entry of a call that was out meanwhile may have been counted or not.
        let is_clear = self.calls.is_empty() && number > self.tally.settled;
        if !is_clear || self.kind == Kind::Numbering {
            return Ok(());
        }
        self.take_count(count, last, now)?;
        if self.acked == last && !self.diverged {
            self.last_error = None;
        }
        Ok(())
    }

    /// Takes note of a count while no entry is on its way, but perhaps one in doubt.
    /// Fails as [`Line::hear_count`] does.
    pub(super) fn take_count(&mut self, count: Seq, last: Seq, now: Instant) -> Result<(), String> {
        if self.kind != Kind::Original {
            self.meet_original(Some(count), last, now);
            return Ok(());
        }
        let known = self.tally.held.unwrap_or(self.acked);
        self.tally.held = Some(count);
        if count == known {
            self.tally.agrees |= count > Seq::NONE;
            self.tally.doubt.take_if(|doubt| doubt.is_due(now));
            return Ok(());
        }
        let doubt = self.tally.doubt.take();
        if count > known && matches!(doubt, Some(When::At(_))) {
            self.advance(self.acked.next().min(last), last, now);
            if count == known.next() {
                return Ok(());
            }
        } else if count == Seq::NONE && (self.tally.agrees || doubt.is_some()) {
            self.meet_original(Some(count), last, now);
            return Ok(());
        }
        self.diverged = true;
        Err(format!("counts {count} entries, and has acknowledged {known}"))
    }

    /// An original has acknowledged this entry, at this place if it says so.
    pub(super) fn acked_by_original(
        &mut self,
        seq: Seq,
        place: Option<Seq>,
        last: Seq,
        now: Instant,
    ) {
        if self.kind != Kind::Original {
            (self.kind, self.process, self.tally.held) = (Kind::Original, None, None);
        }
        let held = self.tally.held.unwrap_or(seq.previous()).next();
        let held = place.unwrap_or(held);
        self.diverged |= held != seq;
        (self.tally.held, self.tally.doubt) = (Some(held), None);
        self.advance(seq, last, now);
    }

    /// A call to an original has failed after this time: nobody knows if its entry arrives.
    pub(super) fn doubt_call(&mut self, took: Duration, now: Instant) {
        if self.kind == Kind::Original {
            let until = now + took.saturating_mul(1 << self.failures.min(MOST_DOUBLINGS));
            self.tally.doubt = self.tally.doubt.max(Some(When::At(until)));
        }
    }

    /// A heartbeat has failed: an original may have been restarted.
    pub(super) fn doubt_count(&mut self) {
        if self.kind == Kind::Original {
            self.tally.doubt.get_or_insert(When::Now);
        }
    }
}

impl Lines {
    /// Takes note of the number of entries that an original gave as the answer to this heartbeat.
    /// Fails when it holds something else than the beginning of the log.
    pub fn count(
        &mut self,
        id: LineId,
        number: u64,
        count: Seq,
        now: Instant,
    ) -> Result<(), String> {
        let counted = self.secondaries[id].hear_count(number, count, self.last, now);
        self.commit();
        counted
    }
}
