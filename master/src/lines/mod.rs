//! One line per secondary: what it has acknowledged, and the calls that are on their way.
//!
//! A call continues where the ones before it end and carries everything that the log holds from
//! there on, so entries that arrive while a call is out ride on the next one: batches without a
//! queue. Order, catch-up and the recognition of duplicates need nothing more. A secondary that
//! lacks entries answers so, and the line steps back to what it has.
//!
//! # Several calls in flight
//!
//! A fast secondary gets one call at a time and large batches. A slow one must not make clients
//! wait for a call that left without their entry: once the latest call has been out for
//! [`SPACING`] times the number of calls in flight, the next may start, up to [`WINDOW`]. The
//! factor makes the calls sparser as the delay grows: for a delay `d` about `√(2d / SPACING)` are
//! in flight, and an entry waits `√(2d · SPACING)` at most for its call to start: 8 % of 1.5 s.
//!
//! A master with a disk waits a little for full batches (`gather.rs`). While some line does, its own
//! disk is not written either: both leave together.
//!
//! # Failures
//!
//! After a failure a line is left alone for a while that doubles with each further one, however
//! many clients wait: [`backoff`](crate::health::backoff). A request of the original's kind, which fails fast, calls all the
//! same. A secondary that is heard of again is called at once.
//!
//! A call can be lost without a sign: its connection leads nowhere. When a later call has arrived
//! and was refused for what is missing before it, the earlier ones no longer count as on their
//! way, and the next call carries their entries again.
//!
//! # Who is there
//!
//! A secondary says in every answer which process it is. When that changes, whatever the former
//! one acknowledged is forgotten, and late answers of the former one no longer count.

mod gather;
mod line;
mod verdict;

use std::time::{Duration, Instant};

use common::entries::{Epoch, Log, Seq};
use common::store::StoreError;
use common::wire::Position;

use crate::concern;
use crate::health::{Status, Thresholds};

use gather::Gather;

pub use line::Line;
pub use verdict::Verdict;

/// See the module: what the latest call is out for, per call in flight, before the next starts.
pub const SPACING: Duration = Duration::from_millis(5);

/// Calls in flight to one secondary at most.
pub const WINDOW: usize = 32;

/// Which secondary, as an index into the list of them.
pub type LineId = usize;

/// A call to make: everything the thread that makes it needs.
#[derive(Debug)]
pub struct Call {
    /// Whom to call.
    pub line: LineId,
    /// The first entry carried.
    pub first: Seq,
    /// The last entry carried.
    pub last: Seq,
    /// What to post to `/replicate`.
    pub body: Vec<u8>,
    number: u64,
    since: Instant,
    /// It carries all that there was.
    is_whole: bool,
    /// What was acknowledged when it was claimed, and by which process: the number that goes with
    /// its name.
    acked: Seq,
    instance: Option<u64>,
}

/// Entries that a secondary did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which secondary.
    pub line: LineId,
    /// The first entry of the call that failed.
    pub first: Seq,
    /// The last entry of that call.
    pub last: Seq,
    /// The number of that call: those claimed later have greater ones.
    pub call: u64,
    /// Why, in words.
    pub detail: String,
}

/// What a starting master has heard of a secondary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing in time.
    Nothing,
    /// It is an original, which does not say where it stands.
    Original,
    /// It is one of ours.
    Ours,
}

/// All lines of a master.
#[derive(Debug)]
pub struct Lines {
    lines: Vec<Line>,
    epoch: Epoch,
    last_number: u64,
    /// The last entry of the log.
    last: Seq,
    /// The last entry that the master itself holds for good: with a disk, the last one on it.
    stored: Seq,
    has_disk: bool,
    disk_failed: Option<StoreError>,
    /// The last entry that a quorum has held.
    committed: Seq,
    /// How many nodes are a quorum, the master included.
    quorum: usize,
    thresholds: Thresholds,
    /// If batches are to be full.
    gather: Option<Gather>,
    /// A greater epoch that a secondary has heard of: this master's reign is over.
    fenced_by: Option<Epoch>,
}

impl Lines {
    /// Lines to the secondaries with these base URLs. A majority is a quorum.
    pub fn new(urls: &[String], thresholds: Thresholds) -> Lines {
        Lines {
            lines: urls.iter().map(|url| Line::new(url, thresholds)).collect(),
            epoch: Epoch::default(),
            last_number: 0,
            last: Seq::NONE,
            stored: Seq::NONE,
            has_disk: false,
            disk_failed: None,
            committed: Seq::NONE,
            quorum: concern::majority(urls.len() + 1),
            thresholds,
            gather: None,
            fenced_by: None,
        }
    }

    /// The log is kept on a disk, which holds it up to this entry.
    pub fn keep_on_disk(&mut self, stored: Seq) {
        (self.has_disk, self.last, self.stored) = (true, stored, stored);
        self.gather = Some(Gather::new(Instant::now()));
    }

    /// Begins the reign of this epoch, over a log that ends with this entry; `found` says what was
    /// heard of each secondary.
    pub fn begin_reign(&mut self, epoch: Epoch, last: Seq, found: &[Found]) {
        assert!(epoch > self.epoch, "epoch {epoch} must be greater than {}", self.epoch);
        (self.epoch, self.last) = (epoch, last);
        if !self.has_disk {
            self.stored = last;
        }
        for (line, found) in self.lines.iter_mut().zip(found) {
            line.begin_reign(last, *found, self.thresholds);
        }
    }

    /// An entry was appended.
    pub fn appended(&mut self, seq: Seq, now: Instant) {
        assert_eq!(seq, self.last.next(), "entries are appended one after another");
        self.last = seq;
        if !self.has_disk {
            self.stored = seq;
        }
        self.lines.iter_mut().for_each(|line| line.appended(now));
        if let Some(gather) = &mut self.gather {
            gather.appended(now);
        }
        self.commit();
    }

    /// When what is not yet on the master's disk should be written: `None` when there is nothing,
    /// or it has failed. `Some(None)` is now.
    pub fn save_at(&self) -> Option<Option<Instant>> {
        if self.stored >= self.last || self.disk_failed.is_some() {
            return None;
        }
        let gathers_until = (0..self.count()).filter_map(|line| self.gathers_until(line)).min();
        Some(gathers_until.filter(|_| self.left() <= self.stored))
    }

    /// Everything up to and including this entry is on the master's disk.
    pub fn store(&mut self, seq: Seq) {
        assert!(seq <= self.last, "entry {seq} stored, the last is {}", self.last);
        self.stored = self.stored.max(seq);
        self.commit();
    }

    /// The last entry that the master itself holds for good.
    pub fn stored_seq(&self) -> Seq {
        self.stored
    }

    /// The master's disk has failed: nothing more is stored.
    pub fn fail_disk(&mut self, error: StoreError) {
        self.disk_failed.get_or_insert(error);
    }

    /// Why nothing more is stored.
    pub fn disk_failed(&self) -> Option<&StoreError> {
        self.disk_failed.as_ref()
    }

    /// The last entry that a quorum has held. It does not go back when a secondary forgets.
    pub fn committed_seq(&self) -> Seq {
        self.committed
    }

    fn commit(&mut self) {
        let mut held: Vec<u64> = self.lines.iter().map(|line| line.acked_seq().0).collect();
        held.push(self.stored.0);
        self.committed = self.committed.max(Seq(concern::committed(held, self.quorum)));
    }

    /// A heartbeat was answered, or was not; returns the new status if it has changed.
    pub fn beat(&mut self, line: LineId, answered: bool) -> Option<Status> {
        self.lines[line].beat(answered, self.thresholds)
    }

    /// How a secondary is, as far as heartbeats tell.
    pub fn status(&self, line: LineId) -> Status {
        self.lines[line].status(self.thresholds)
    }

    /// Nodes that are not known to be away, the master included.
    pub fn reachable(&self) -> usize {
        let there = |line: &LineId| self.status(*line) != Status::Unhealthy;
        1 + (0..self.lines.len()).filter(there).count()
    }

    /// Every line, in the order of the settings.
    pub fn iter(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter()
    }

    /// How many secondaries there are.
    pub fn count(&self) -> usize {
        self.lines.len()
    }

    /// This reign.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The greater epoch that ended this reign, if one has.
    pub fn fenced_by(&self) -> Option<Epoch> {
        self.fenced_by
    }

    /// The last entry of the log.
    pub fn last_seq(&self) -> Seq {
        self.last
    }

    /// How many secondaries hold the entry.
    pub fn acks(&self, seq: Seq) -> usize {
        self.lines.iter().filter(|line| line.acked_seq() >= seq).count()
    }

    /// What this secondary holds, as far as is known.
    pub fn acked_seq(&self, line: LineId) -> Seq {
        self.lines[line].acked_seq()
    }

    /// The last number given to a call: those claimed from now on have greater ones.
    pub fn last_number(&self) -> u64 {
        self.last_number
    }

    /// A number for a question that is not a call, like a heartbeat: answers are ordered by it.
    pub fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Whether a call that begins now would carry this entry to this line.
    pub fn is_claimable(&self, line: LineId, seq: Seq, urgent: bool, now: Instant) -> bool {
        // Before its reign begins a master calls nobody: it may have no right to.
        let reigns = self.epoch > Epoch::default();
        let is_free = || self.free_at(line, urgent).is_some_and(|at| at.is_none_or(|at| at <= now));
        reigns && self.covered(line) < seq && is_free()
    }

    /// Whether a call that this secondary gets twice is stored once.
    pub fn recognises_repeats(&self, line: LineId) -> bool {
        self.lines[line].recognises_repeats()
    }

    /// Whether calls to this secondary that are not urgent wait out the pause after a failure.
    pub fn is_paused(&self, line: LineId) -> bool {
        self.lines[line].is_paused()
    }

    /// The last entry that the line has or will have by the calls in flight.
    pub fn covered(&self, line: LineId) -> Seq {
        self.lines[line].covered()
    }

    /// When a call that carries this entry may start, if the line lacks it and it is a matter of
    /// time.
    pub fn next_claim_at(&self, line: LineId, seq: Seq, urgent: bool) -> Option<Instant> {
        if self.covered(line) < seq { self.free_at(line, urgent)? } else { None }
    }

    /// When the next call to this secondary may start: `None` for not before one in flight has been
    /// answered. `Some(None)` is now.
    fn free_at(&self, line: LineId, urgent: bool) -> Option<Option<Instant>> {
        Some(self.lines[line].free_at(urgent)?.max(self.gathers_until(line)))
    }

    /// Until when the line waits for a fuller batch, if it does. Lines leave together: what one
    /// node is getting does not wait at another. Otherwise each might carry full batches, and every
    /// client wait for a part of the way of both.
    pub fn gathers_until(&self, line: LineId) -> Option<Instant> {
        let gather = self.gather.as_ref()?;
        let waits_since = self.lines[line].waits_since()?;
        let leads = self.left() <= self.covered(line);
        if leads { gather.until(self.last, waits_since) } else { None }
    }

    /// Whether it matters to [`Lines::settle`] how many requests wait.
    pub fn gathers(&self) -> bool {
        self.gather.is_some()
    }

    /// The last entry that has left for a secondary.
    fn left(&self) -> Seq {
        self.lines.iter().map(Line::covered).max().unwrap_or_default()
    }

    /// Claims the line, if it is free and lacks this entry: the call must then be made and settled.
    /// An urgent one does not wait out the pause after a failure.
    pub fn claim(
        &mut self,
        id: LineId,
        seq: Seq,
        urgent: bool,
        log: &Log,
        now: Instant,
    ) -> Option<Call> {
        if !self.is_claimable(id, seq, urgent, now) {
            return None;
        }
        let (number, epoch) = (self.next_number(), self.epoch);
        if let Some(gather) = &mut self.gather {
            gather.batch_left();
        }
        Some(self.lines[id].call(id, number, epoch, log, now))
    }

    /// Settles a call that was claimed, on which so many requests wait for their entry: `Some` if
    /// the entries were not taken. `random` spreads the pause before the next try.
    pub fn settle(
        &mut self,
        call: &Call,
        verdict: Verdict,
        awaited: u32,
        log: &Log,
        now: Instant,
        random: u64,
    ) -> Option<Failure> {
        match &verdict {
            Verdict::Acked(position) | Verdict::Gap(position) => self.hear_of(position.epoch),
            Verdict::Stale(position) => {
                self.fenced_by = self.fenced_by.max(Some(position.epoch));
            }
            _ => {}
        }
        let settled = self.lines[call.line].settle(call, verdict, log, now, random);
        // The next try, and the next piece of a long way to catch up, wait for nobody.
        let is_round = settled.is_ok() && call.is_whole && awaited > 0;
        if let Some(gather) = self.gather.as_mut().filter(|_| is_round) {
            gather.batch_over(awaited, now - call.since, self.last, now);
        }
        self.commit();
        let Call { line, first, last, number, .. } = *call;
        settled.err().map(|detail| Failure { line, first, last, call: number, detail })
    }

    fn hear_of(&mut self, epoch: Epoch) {
        if epoch > self.epoch {
            self.fenced_by = self.fenced_by.max(Some(epoch));
        }
    }

    /// Takes note of where a secondary says that it stands.
    ///
    /// # Errors
    /// When its log is not a prefix of the master's; then nothing of it counts as acknowledged.
    pub fn observe(
        &mut self,
        id: LineId,
        number: u64,
        position: &Position,
        log: &Log,
        now: Instant,
    ) -> Result<(), String> {
        self.hear_of(position.epoch);
        let observed = self.lines[id].observe(number, position, log, now);
        self.commit();
        observed
    }

    /// Why the last call to this secondary failed; `None` since it works again.
    pub fn last_error(&self, line: LineId) -> Option<String> {
        self.lines[line].last_error().map(str::to_string)
    }

    /// Takes note that a secondary could not be asked, or is not what it should be.
    pub fn note_error(&mut self, id: LineId, detail: String) {
        self.lines[id].note_error(detail);
    }
}

#[cfg(test)]
mod tests;
