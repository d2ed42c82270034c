//! One line per node that keeps the log: the secondaries, and the master's own disk. A line knows
//! what its node holds, what is on its way there, and when more may be sent.
//!
//! A call carries everything that the log holds from the line's cursor `next` on, so entries that
//! arrive while a call is out ride on the next one: batches without a queue. Order, catch-up and
//! the recognition of duplicates need nothing more. A secondary that lacks entries answers so, and
//! the cursor steps back to what it holds.
//!
//! # Several calls in flight
//!
//! A fast secondary gets one call at a time and large batches. A slow one must not make clients
//! wait for a call that left without their entry: once the latest call has been out for
//! [`SPACING`] times the number of calls in flight, the next may start, up to [`WINDOW`]. The
//! factor makes the calls sparser as the delay grows: for a delay `d` about `√(2d / SPACING)` are
//! in flight, and an entry waits `√(2d · SPACING)` at most for its call to start: 8 % of 1.5 s.
//!
//! A master with a disk waits a little for full batches (`gather.rs`). Its lines send a batch at
//! the same time: sending in turn would make a client wait for two batches.
//!
//! # Failures
//!
//! After a failure a line pauses for a while that doubles with each further one, however many
//! clients wait: [`backoff`](crate::health::backoff). A request of the original's kind, which fails
//! fast, is urgent and ignores the pause. A secondary that is heard of again is called at once.
//!
//! A call can be lost without a sign: its connection leads nowhere. When a later call has arrived
//! and was refused for the entries missing before it, the earlier calls count as lost, and the next
//! call carries their entries again.
//!
//! An original that fails may store the entry all the same, twice if it is sent again. Its count of
//! entries is looked at first (`original.rs`).
//!
//! # Who is there
//!
//! A secondary says in every answer which process it is. When the process changes, everything that
//! the former one acknowledged is forgotten, and its late answers no longer count.

mod answers;
mod call;
mod disk;
mod gather;
mod line;
mod original;
mod quorum;
mod verdict;

use std::time::{Duration, Instant};

use common::entries::{Epoch, Log, Seq};
use common::reign::Reign;
use common::wire::{Caller, Position, Standing};

use crate::concern;
use crate::health::{Health, Thresholds};

use disk::Disk;
use gather::Gather;

pub use call::{Call, Failure};
pub use line::Line;
pub use verdict::Verdict;

/// How long the latest call is out, per call in flight, before the next may start.
pub const SPACING: Duration = Duration::from_millis(5);

/// The most calls in flight to one secondary.
pub const WINDOW: usize = 32;

/// Which secondary, as an index into the list of them.
pub type LineId = usize;

/// When something may happen, earliest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// At once.
    Now,
    /// From this instant on.
    At(Instant),
    /// Not before something else has happened.
    Blocked,
}

impl When {
    /// Whether it may happen now.
    pub fn is_due(self, now: Instant) -> bool {
        self <= When::At(now)
    }

    /// The instant to wait for, if there is one.
    pub fn instant(self) -> Option<Instant> {
        if let When::At(at) = self { Some(at) } else { None }
    }
}

/// Who has answered for a secondary.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Found {
    /// No answer in time.
    #[default]
    Nothing,
    /// Nobody is there.
    Refused,
    /// An original, and how many entries it holds; without a number perhaps something else that
    /// answers HTTP.
    Original(Option<Seq>),
    /// One of ours, and where it stands.
    Ours(Standing),
}

/// All lines of a master.
#[derive(Debug)]
pub struct Lines {
    secondaries: Vec<Line>,
    /// The line to the master's own disk, if the log is kept there.
    disk: Option<Disk>,
    /// Full batches; only for a log on disk, for in memory a batch costs too little.
    gather: Option<Gather>,
    /// The reign; epoch 0 before it begins.
    reign: Reign,
    /// The last entry of the log that the reign began with.
    reign_start: Seq,
    last_number: u64,
    /// The last entry of the log.
    last: Seq,
    /// The last entry that a quorum has held.
    committed: Seq,
    /// How many nodes are a quorum, the master included.
    quorum: usize,
    /// A greater epoch that a secondary has heard of: this master's reign is over.
    fenced_by: Option<Epoch>,
}

impl Lines {
    /// Lines to the secondaries with these base URLs, and to a disk that holds the log up to
    /// `on_disk`, if the log is kept on one. A majority is a quorum.
    pub fn new(
        urls: &[String],
        thresholds: Thresholds,
        on_disk: Option<Seq>,
        now: Instant,
    ) -> Lines {
        Lines {
            secondaries: urls.iter().map(|url| Line::new(url, thresholds)).collect(),
            disk: on_disk.map(Disk::new),
            gather: on_disk.map(|_| Gather::new(now)),
            reign: Reign::default(),
            reign_start: Seq::NONE,
            last_number: 0,
            last: on_disk.unwrap_or_default(),
            committed: Seq::NONE,
            quorum: concern::majority(urls.len() + 1),
            fenced_by: None,
        }
    }

    /// Begins a reign over this log, of which the disk, if there is one, holds the entries up to
    /// `on_disk`.
    pub fn begin_reign(
        &mut self,
        reign: Reign,
        log: &Log,
        on_disk: Option<Seq>,
        found: &[Found],
        now: Instant,
    ) {
        assert!(reign.epoch > self.reign.epoch, "{reign:?} must be greater than {:?}", self.reign);
        (self.reign, self.reign_start, self.last) = (reign, log.last_seq(), log.last_seq());
        self.disk = on_disk.map(Disk::new);
        for (id, found) in found.iter().enumerate() {
            self.secondaries[id].begin_reign(self.last, found, now);
            if let Found::Ours(standing) = found {
                let number = self.next_number();
                // An error is found again, and told, with the first heartbeat.
                let _ = self.observe(id, number, &standing.position, log, now);
            }
        }
        // Where the master alone is a quorum, nobody else tells.
        self.commit();
    }

    /// An entry was appended.
    pub fn appended(&mut self, seq: Seq, now: Instant) {
        assert_eq!(seq, self.last.next(), "entries are appended one after another");
        self.last = seq;
        self.secondaries.iter_mut().for_each(|line| line.appended(now));
        self.gather.iter_mut().for_each(|gather| gather.appended(now));
        self.commit();
    }

    /// A heartbeat was answered, or was not; returns the new health if it has changed.
    pub fn beat(&mut self, line: LineId, answered: bool) -> Option<Health> {
        self.secondaries[line].beat(answered)
    }

    /// The lines to the secondaries, in the order of the settings.
    pub fn secondaries(&self) -> &[Line] {
        &self.secondaries
    }

    /// The reign; epoch 0 before it begins.
    pub fn reign(&self) -> Reign {
        self.reign
    }

    /// The last entry of the log that the reign began with.
    pub fn reign_start(&self) -> Seq {
        self.reign_start
    }

    /// The greater epoch that ended this reign, if one has.
    pub fn fenced_by(&self) -> Option<Epoch> {
        self.fenced_by
    }

    /// The last entry of the log.
    pub fn last_seq(&self) -> Seq {
        self.last
    }

    /// The number of the last call: those that begin from now on have greater ones.
    pub fn last_number(&self) -> u64 {
        self.last_number
    }

    /// A number for a heartbeat: answers to calls and heartbeats are ordered by their numbers.
    pub fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// When the next call to this secondary, or the next write to the disk, may start.
    pub fn due(&self, line: LineId, urgent: bool) -> When {
        // A reign that is over sends nothing and writes nothing.
        if self.fenced_by.is_some() {
            return When::Blocked;
        }
        let Some(line) = self.secondaries.get(line) else {
            let Some(disk) = &self.disk else { return When::Blocked };
            return disk.free_at(self.last).max(self.batch_leaves_at(disk.next_seq()));
        };
        // Before its reign begins a master calls nobody: it may have no right to.
        if self.reign.epoch == Epoch::default() || line.next_seq() > self.last {
            return When::Blocked;
        }
        let free_at = line.free_at(urgent);
        if line.is_idle() && !line.is_paused() {
            free_at.max(self.batch_leaves_at(line.next_seq()))
        } else {
            free_at
        }
    }

    /// When a batch may leave from this cursor. The batch waits until it is full, and leaves at
    /// once if a secondary has been sent its entries.
    fn batch_leaves_at(&self, next: Seq) -> When {
        match &self.gather {
            Some(gather) if self.leads(next) => gather.leaves_at(self.last),
            _ => When::Now,
        }
    }

    /// Whether this cursor is ahead of, or level with, the `next` of every secondary.
    fn leads(&self, next: Seq) -> bool {
        self.secondaries.iter().all(|line| line.next_seq() <= next)
    }

    /// Whether batches gather before they leave.
    pub fn gathers(&self) -> bool {
        self.gather.is_some()
    }

    /// A batch is over. `count` is the number of clients that waited for it, `took` its duration.
    pub fn batch_over(&mut self, count: usize, took: Duration, now: Instant) {
        if let Some(gather) = self.gather.as_mut().filter(|_| count > 0) {
            gather.batch_over(u32::try_from(count).unwrap_or(u32::MAX), took, self.last, now);
        }
    }

    /// Whether a call that begins now would carry this entry to this line.
    pub fn is_claimable(&self, line: LineId, seq: Seq, urgent: bool, now: Instant) -> bool {
        self.secondaries[line].next_seq() <= seq && self.due(line, urgent).is_due(now)
    }

    /// Begins a call to this secondary, if one may start that carries this entry; the call must
    /// then be made and settled.
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
        let (number, reign, reign_start) = (self.next_number(), self.reign, self.reign_start);
        self.gather.iter_mut().for_each(Gather::left);
        let caller = Caller {
            reign,
            reign_start,
            acked: self.secondaries[id].acked_seq(),
            committed: self.committed,
        };
        Some(self.secondaries[id].begin_call(id, number, caller, log, now))
    }

    /// Settles a call: returns a failure if the entries were not taken. `random` spreads the pause
    /// before the next try.
    pub fn settle(
        &mut self,
        call: &Call,
        verdict: Verdict,
        log: &Log,
        now: Instant,
        random: u64,
    ) -> Option<Failure> {
        // Whoever obeys a greater reign has acknowledged nothing to this one.
        let verdict = match verdict {
            Verdict::Acked(position) | Verdict::Gap(position)
                if position.epoch > self.reign.epoch =>
            {
                Verdict::Stale(position)
            }
            verdict => verdict,
        };
        if let Verdict::Stale(position) = &verdict {
            self.fenced_by = self.fenced_by.max(Some(position.epoch));
        }
        let epoch = self.reign.epoch;
        let settled = self.secondaries[call.line].settle(call, verdict, epoch, log, now, random);
        self.secondaries[call.line].tally.settled = self.last_number;
        self.commit();
        let Call { line, first, last, number, .. } = *call;
        settled.err().map(|detail| Failure { line, first, last, call: number, detail })
    }

    /// Another master reigns, since this epoch.
    pub fn fence(&mut self, epoch: Epoch) {
        self.fenced_by = self.fenced_by.max(Some(epoch));
    }

    /// Takes note of the position that a secondary gave as the answer to this call or heartbeat.
    /// Fails when its log does not match the master's; then nothing of it counts as acknowledged.
    pub fn observe(
        &mut self,
        id: LineId,
        number: u64,
        position: &Position,
        log: &Log,
        now: Instant,
    ) -> Result<(), String> {
        if position.epoch > self.reign.epoch {
            self.fence(position.epoch);
            return Err(format!("its epoch is {}: this master's reign is over", position.epoch));
        }
        if position.epoch == self.reign.epoch {
            self.secondaries[id].note_answer(number);
        }
        let observed = self.secondaries[id].observe(number, position, self.reign.epoch, log, now);
        self.commit();
        observed
    }

    /// Takes note that a secondary could not be asked, or that its answer was wrong.
    pub fn note_error(&mut self, id: LineId, detail: String) {
        self.secondaries[id].note_error(detail);
    }
}

#[cfg(test)]
mod tests;
