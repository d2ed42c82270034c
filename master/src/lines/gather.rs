//! Full batches: when the next one leaves.
//!
//! A batch that goes to a disk costs a transaction and a sync on every node, however little it
//! carries. Left alone, busy clients split into two halves: while the batch of one half is out, the
//! entries of the other half gather. So after the clients of a batch have been answered, the next
//! batch waits for as many entries as clients were answered. PostgreSQL knows the same as
//! `commit_delay` and `commit_siblings`.
//!
//! The wait pays when the clients come back at once. Their pace is measured after every batch, also
//! after one that did not wait.

use std::time::{Duration, Instant};

use common::entries::Seq;

use super::When;

/// The wait pays when at least this many entries come in the time that a batch takes.
const LEAST_ENTRIES: u32 = 6;

/// The longest wait.
const MOST: Duration = Duration::from_millis(5);

/// The entries that the next batch waits for; none at first.
#[derive(Debug)]
pub(super) struct Gather {
    /// When the last batch was over.
    over_at: Instant,
    /// The number of entries since then, and the time of the latest.
    came: u32,
    latest: Instant,
    /// The time between two entries after a batch.
    pace: Duration,
    /// The last entry of a full batch.
    expected: Seq,
    /// When the next batch leaves even if it is not full.
    until: Instant,
}

impl Gather {
    pub(super) fn new(now: Instant) -> Gather {
        let (came, pace, expected) = (0, Duration::MAX, Seq::NONE);
        Gather { over_at: now, came, latest: now, pace, expected, until: now }
    }

    /// An entry was appended.
    pub(super) fn appended(&mut self, now: Instant) {
        (self.came, self.latest) = (self.came.saturating_add(1), now);
    }

    /// A batch is over that took this long and that `count` clients waited for; the log ends with
    /// `last`.
    pub(super) fn batch_over(&mut self, count: u32, took: Duration, last: Seq, now: Instant) {
        if let Some(pace) = (self.latest - self.over_at).checked_div(self.came) {
            self.pace = pace;
        }
        let pays = self.pace <= took / LEAST_ENTRIES;
        // The clients may come half as fast as they did after the batch before.
        let twice = self.pace.saturating_mul(count).saturating_mul(2).min(MOST);
        self.until = if pays { now + twice } else { now };
        (self.over_at, self.came, self.latest) = (now, 0, now);
        self.expected = Seq(last.0 + u64::from(count));
    }

    /// A batch has left for one node. No other node waits for a full batch now.
    pub(super) fn left(&mut self) {
        self.expected = Seq::NONE;
    }

    /// When a batch may leave that ends with `last`.
    pub(super) fn leaves_at(&self, last: Seq) -> When {
        if last < self.expected { When::At(self.until) } else { When::Now }
    }
}
