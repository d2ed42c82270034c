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
//! # Failures
//!
//! After a failure a line is left alone for a while that doubles with each further one, however
//! many clients wait: [`backoff`]. A request of the original's kind, which fails fast, calls all the
//! same. A secondary that is heard of again is called at once.
//!
//! # Who is there
//!
//! A secondary says in every answer which process it is. When that changes, whatever the former
//! one acknowledged is forgotten, and late answers of the former one no longer count.

use std::time::{Duration, Instant};

use common::client::{Answer, CallError};
use common::entries::{Epoch, Log, Seq};
use common::wire::{Ack, Conflict, Position, Refusal, replicate_body};

use crate::concern;
use crate::health::{Health, Status, Thresholds, backoff};

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
    /// What was acknowledged when it was claimed, and by which process: the number that goes with
    /// its name.
    acked: Seq,
    instance: Option<u64>,
}

/// What a secondary's answer to a call means.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds the entries, and says where it stands.
    Acked(Position),
    /// An original secondary holds the entry.
    AckedByOriginal,
    /// It lacks entries before the first.
    Gap(Position),
    /// It has heard of a greater epoch.
    Stale(Position),
    /// It did not take the entries, or nobody knows whether it did.
    Failed(String),
    /// It holds other entries.
    Diverged(String),
}

impl Verdict {
    /// Reads an answer, or the lack of one. Nothing that a peer may send goes further than this.
    pub fn of(result: Result<Answer, CallError>) -> Verdict {
        let answer = match result {
            Ok(answer) => answer,
            Err(error) => return Verdict::Failed(error.to_string()),
        };
        match answer.status {
            200 => Verdict::of_200(&answer.body),
            409 => match serde_json::from_slice::<Refusal>(&answer.body) {
                Ok(Refusal { code: Conflict::Gap, position, .. }) => Verdict::Gap(position),
                Ok(Refusal { code: Conflict::StaleEpoch, position, .. }) => {
                    Verdict::Stale(position)
                }
                Ok(Refusal { code: Conflict::Diverged, error, .. }) => Verdict::Diverged(error),
                Err(_) => Verdict::Failed(format!("answered 409: {}", beginning(&answer.body))),
            },
            status => Verdict::Failed(format!("answered {status}: {}", beginning(&answer.body))),
        }
    }

    fn of_200(body: &[u8]) -> Verdict {
        if let Ok(ack) = serde_json::from_slice::<Ack>(body) {
            return Verdict::Acked(ack.position);
        }
        match serde_json::from_slice::<serde_json::Value>(body) {
            Ok(json) if json["status"] == "ok" && json.get("seq").is_none() => {
                Verdict::AckedByOriginal
            }
            Ok(_) => Verdict::Failed(format!("answered 200 without an ack: {}", beginning(body))),
            Err(_) => Verdict::Failed(format!("answered 200 without JSON: {}", beginning(body))),
        }
    }
}

/// The beginning of a body that was not understood, fit for a log line and an answer.
fn beginning(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(80)]).escape_debug().to_string()
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
}

/// One secondary, as the master sees it.
///
/// Invariants: `acked` is at most the master's last entry; every call in flight continues where
/// another one, or `acked`, ended at the time it was claimed.
#[derive(Debug)]
pub struct Line {
    url: String,
    kind: Kind,
    /// It holds everything up to and including this, as far as is known.
    acked: Seq,
    /// Oldest first.
    calls: Vec<InFlight>,
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
    fn new(url: &str, thresholds: Thresholds) -> Line {
        Line {
            url: url.to_string(),
            kind: Kind::Unknown,
            acked: Seq::NONE,
            calls: Vec::new(),
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
    pub fn url(&self) -> &str {
        &self.url
    }

    /// It holds everything up to and including this entry, as far as is known.
    pub fn acked_seq(&self) -> Seq {
        self.acked
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

    fn advance(&mut self, to: Seq, last: Seq, now: Instant) {
        let progress = to > self.acked;
        self.acked = self.acked.max(to);
        if self.acked >= last {
            self.behind_since = None;
        } else if progress || self.behind_since.is_none() {
            self.behind_since = Some(now);
        }
    }

    /// Calls may be made at once again.
    fn forgive(&mut self) {
        (self.failures, self.retry_at) = (0, None);
    }

    /// The last entry such that it and all before it are acknowledged or on their way.
    fn covered(&self) -> Seq {
        let mut covered = self.acked;
        // A call's entries may begin before, inside or after what others carry: repeat until
        // nothing more connects. There are at most WINDOW of them.
        while let Some(call) =
            self.calls.iter().find(|c| c.first <= covered.next() && c.last > covered)
        {
            covered = call.last;
        }
        covered
    }

    /// When the next call may start: `None` for not before one in flight has been answered.
    /// `Some(None)` is now.
    fn free_at(&self, urgent: bool) -> Option<Option<Instant>> {
        let spaced = self.spaced_at()?;
        Some(if urgent { spaced } else { spaced.max(self.retry_at) })
    }

    fn spaced_at(&self) -> Option<Option<Instant>> {
        match self.calls.last() {
            None => Some(None),
            Some(_) if self.kind != Kind::Numbering || self.calls.len() >= WINDOW => None,
            Some(latest) => {
                let count = u32::try_from(self.calls.len()).expect("at most WINDOW calls");
                Some(Some(latest.since + SPACING * count))
            }
        }
    }

    fn is_free(&self, urgent: bool, now: Instant) -> bool {
        self.free_at(urgent).is_some_and(|at| at.is_none_or(|at| at <= now))
    }

    /// Whether it lacks what it had acknowledged, as the same process, when the call was claimed.
    fn takes_back(&self, call: &Call, position: &Position) -> bool {
        let same = |(name, since): &(String, u64)| {
            *name == position.instance && Some(*since) == call.instance
        };
        self.instance.as_ref().is_some_and(same) && position.last_seq < call.acked
    }

    /// Takes note of which process has answered the call of this number; `false` if a later one
    /// has answered already.
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

/// All lines of a master.
#[derive(Debug)]
pub struct Lines {
    lines: Vec<Line>,
    epoch: Epoch,
    last_number: u64,
    /// The last entry of the log.
    last: Seq,
    /// The last entry that a quorum has held.
    committed: Seq,
    /// How many nodes are a quorum, the master included.
    quorum: usize,
    thresholds: Thresholds,
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
            committed: Seq::NONE,
            quorum: concern::majority(urls.len() + 1),
            thresholds,
            fenced_by: None,
        }
    }

    /// Begins the reign of this epoch, over a log that ends with this entry; `found` says what was
    /// heard of each secondary.
    pub fn begin_reign(&mut self, epoch: Epoch, last: Seq, found: &[Found]) {
        assert!(epoch > self.epoch, "epoch {epoch} must be greater than {}", self.epoch);
        (self.epoch, self.last) = (epoch, last);
        for (line, found) in self.lines.iter_mut().zip(found) {
            line.health = Health::first(*found != Found::Nothing, self.thresholds);
            if *found == Found::Original {
                // It cannot say what it holds; sent again, it would hold everything twice.
                (line.kind, line.acked) = (Kind::Original, last);
            }
        }
    }

    /// An entry was appended.
    pub fn appended(&mut self, seq: Seq, now: Instant) {
        assert_eq!(seq, self.last.next(), "entries are appended one after another");
        self.last = seq;
        for line in &mut self.lines {
            line.behind_since.get_or_insert(now);
        }
        self.commit();
    }

    /// The last entry that a quorum has held. It does not go back when a secondary forgets.
    pub fn committed_seq(&self) -> Seq {
        self.committed
    }

    fn commit(&mut self) {
        let mut held: Vec<u64> = self.lines.iter().map(|line| line.acked.0).collect();
        held.push(self.last.0);
        self.committed = self.committed.max(Seq(concern::committed(held, self.quorum)));
    }

    /// A heartbeat was answered, or was not; returns the new status if it has changed.
    pub fn beat(&mut self, line: LineId, answered: bool) -> Option<Status> {
        let before = self.status(line);
        self.lines[line].health.beat(answered);
        let after = self.status(line);
        if after == before {
            return None;
        }
        if after == Status::Healthy {
            self.lines[line].forgive();
        }
        Some(after)
    }

    /// How a secondary is, as far as heartbeats tell.
    pub fn status(&self, line: LineId) -> Status {
        self.lines[line].health.status(self.thresholds)
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
        self.lines.iter().filter(|line| line.acked >= seq).count()
    }

    /// What this secondary holds, as far as is known.
    pub fn acked_seq(&self, line: LineId) -> Seq {
        self.lines[line].acked
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
        let line = &self.lines[line];
        line.covered() < seq && line.is_free(urgent, now)
    }

    /// The last entry that the line has or will have by the calls in flight.
    pub fn covered(&self, line: LineId) -> Seq {
        self.lines[line].covered()
    }

    /// When a call that carries this entry may start, if the line lacks it and it is a matter of
    /// time.
    pub fn next_claim_at(&self, line: LineId, seq: Seq, urgent: bool) -> Option<Instant> {
        let line = &self.lines[line];
        if line.covered() < seq { line.free_at(urgent)? } else { None }
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
        let line = &mut self.lines[id];
        let first = line.covered().next();
        // Until it is known to understand more, one entry in the original's form.
        let until = if line.kind == Kind::Numbering { log.last_seq() } else { first };
        let (body, last) = replicate_body(log, epoch, line.acked, first, until);
        line.calls.push(InFlight { number, first, last, since: now });
        let (acked, instance) = (line.acked, line.instance.as_ref().map(|(_, since)| *since));
        Some(Call { line: id, first, last, body, number, acked, instance })
    }

    /// Settles a call that was claimed: `Some` if the entries were not taken. `random` spreads the
    /// pause before the next try.
    pub fn settle(
        &mut self,
        call: &Call,
        verdict: Verdict,
        log: &Log,
        now: Instant,
        random: u64,
    ) -> Option<Failure> {
        let line = &mut self.lines[call.line];
        line.calls.retain(|in_flight| in_flight.number != call.number);
        let failed = match verdict {
            Verdict::Acked(position) if position.last_seq < call.last => {
                Err(format!("acknowledged entry {} and holds {}", call.last, position.last_seq))
            }
            Verdict::Acked(position) => {
                let observed = self.observe(call.line, call.number, &position, log, now);
                let line = &mut self.lines[call.line];
                let current = line.instance.as_ref().is_some_and(|(i, _)| *i == position.instance);
                if observed.is_ok() && current {
                    line.advance(call.last, log.last_seq(), now);
                }
                observed
            }
            Verdict::AckedByOriginal => {
                line.kind = Kind::Original;
                line.advance(call.last, log.last_seq(), now);
                Ok(())
            }
            Verdict::Gap(position) => {
                let observed = self.observe(call.line, call.number, &position, log, now);
                let contradiction = position.last_seq.next() >= call.first
                    || self.lines[call.line].takes_back(call, &position);
                observed.and(if contradiction {
                    Err(format!("refused entry {} and holds {}", call.first, position.last_seq))
                } else {
                    Ok(())
                })
            }
            Verdict::Stale(position) => {
                self.fenced_by = self.fenced_by.max(Some(position.epoch));
                Err(format!("its epoch is {}: this master's reign is over", position.epoch))
            }
            Verdict::Failed(detail) => Err(detail),
            Verdict::Diverged(detail) => {
                line.diverged = true;
                Err(format!("diverged: {detail}"))
            }
        };
        self.commit();
        let line = &mut self.lines[call.line];
        let Err(detail) = failed else {
            line.last_error = None;
            line.forgive();
            return None;
        };
        line.last_error = Some(detail.clone());
        line.failures = line.failures.saturating_add(1);
        line.retry_at = Some(now + backoff(line.failures, random));
        let Call { line, first, last, number, .. } = *call;
        Some(Failure { line, first, last, call: number, detail })
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
        if position.epoch > self.epoch {
            self.fenced_by = self.fenced_by.max(Some(position.epoch));
        }
        let line = &mut self.lines[id];
        if !line.identify(&position.instance, number) {
            return Ok(());
        }
        let last = position.last_seq;
        line.diverged = true;
        if last > log.last_seq() {
            return Err(format!("diverged: holds {last} entries, the master {}", log.last_seq()));
        }
        if log.epoch_of(last) != position.last_epoch {
            return Err(format!("diverged: holds another entry at {last}"));
        }
        line.diverged = false;
        // Epoch 0 names no entry: two of them at one place may differ. Those are sent and compared.
        let held = if position.last_epoch == Epoch::default() { Seq::NONE } else { last };
        line.advance(held, log.last_seq(), now);
        if line.acked == log.last_seq() {
            line.last_error = None;
        }
        self.commit();
        Ok(())
    }

    /// Why the last call to this secondary failed; `None` since it works again.
    pub fn last_error(&self, line: LineId) -> Option<String> {
        self.lines[line].last_error.clone()
    }

    /// Takes note that a secondary could not be asked, or is not what it should be.
    pub fn note_error(&mut self, id: LineId, detail: String) {
        self.lines[id].last_error = Some(detail);
    }
}

#[cfg(test)]
mod tests;
