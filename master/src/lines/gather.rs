//! Full batches: when the next one leaves.
//!
//! A disk makes a batch dear, however little it carries: on every node a transaction, its pages
//! and a sync. Left alone, clients that wait for the disk split into two halves, and the entries of
//! one half are gathered while the batch of the other is out: twice as many batches as need be. So
//! after a batch is over, the next one waits for those who were answered by it to come back with
//! their next entry. 64 busy clients then put 64 entries into a batch in place of 40, which makes
//! 1.4 times as many appends at 0.7 times the CPU time each.
//!
//! It pays when they come back at once, and that is measured after every batch, waited for or not.
//! To wait without that measure doubled the median time of clients that pause between appends; with
//! it, 32 clients that pause 10 ms each lose 8 %.
//!
//! In memory a batch costs too little: there, waiting made 64 clients 4 to 8 % slower.

use std::time::{Duration, Instant};

use common::entries::Seq;

/// It pays to wait for those who come in at least so many entries in the time that a batch takes.
/// With 8 times, 8 clients are waited for too seldom; with 4, some that pause are waited for.
const PACE: u32 = 6;

/// They may take twice as long as the last time, and at most this.
const MOST: Duration = Duration::from_millis(5);

/// What is expected to be in the next batch; at first nothing.
#[derive(Debug)]
pub(super) struct Gather {
    /// When the last batch was over, and when those answered by it must be back to be worth
    /// waiting for.
    over_at: Instant,
    worth_until: Instant,
    /// With this entry they are, and the next batch is full.
    expected: Seq,
    /// How long the next batch waits for that: not at all if it is not worth it.
    patience: Duration,
}

impl Gather {
    pub(super) fn new(now: Instant) -> Gather {
        let (expected, patience) = (Seq::NONE, Duration::ZERO);
        Gather { over_at: now, worth_until: now, expected, patience }
    }

    /// A batch of `count` entries is over now, which took so long. The log ends with `end`.
    pub(super) fn batch_over(&mut self, count: u32, took: Duration, end: Seq, now: Instant) {
        self.expected = Seq(end.0 + u64::from(count));
        (self.over_at, self.worth_until) = (now, now + took.saturating_mul(count) / PACE);
    }

    /// An entry was appended now.
    pub(super) fn appended(&mut self, seq: Seq, now: Instant) {
        if seq == self.expected {
            let came_in = now - self.over_at;
            let is_worth = now <= self.worth_until;
            self.patience = if is_worth { (came_in * 2).min(MOST) } else { Duration::ZERO };
        }
    }

    /// Until when the next batch waits if the log ends with `end` and something has been waiting
    /// since then; `None` if it does not.
    pub(super) fn until(&self, end: Seq, since: Instant) -> Option<Instant> {
        let waits = end < self.expected && !self.patience.is_zero();
        waits.then(|| since + self.patience)
    }
}
