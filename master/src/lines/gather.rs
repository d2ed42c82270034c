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
//! it, 32 clients that pause 10 ms each lose a tenth.
//!
//! In memory a batch costs too little: there, 64 clients gained nothing by it, and 256 lost 9 %.

use std::time::{Duration, Instant};

use common::entries::Seq;

/// It pays to wait when at least so many entries come in the time that a batch takes. With 8, 8
/// clients are waited for too seldom; with 4, some that pause are waited for.
const PACE: u32 = 6;

/// The expected ones may come half as fast as the last ones did, and take this long at most.
const MOST: Duration = Duration::from_millis(5);

/// What is expected to be in the next batch; at first nothing.
#[derive(Debug)]
pub(super) struct Gather {
    /// When the last batch was over.
    over_at: Instant,
    /// How many entries have come since, and when the latest did.
    came: u32,
    latest: Instant,
    /// How much time they took each, after the last batch that any came after.
    pace: Duration,
    /// With this entry the next batch is full.
    expected: Seq,
    /// How long it waits for that: not at all if it does not pay.
    patience: Duration,
}

impl Gather {
    pub(super) fn new(now: Instant) -> Gather {
        let (came, pace) = (0, Duration::MAX);
        let (expected, patience) = (Seq::NONE, Duration::ZERO);
        Gather { over_at: now, came, latest: now, pace, expected, patience }
    }

    /// An entry was appended now.
    pub(super) fn appended(&mut self, now: Instant) {
        (self.came, self.latest) = (self.came.saturating_add(1), now);
    }

    /// A batch is over now, for `count` of whose entries a client has waited; it took so long. The
    /// log ends with `end`.
    pub(super) fn batch_over(&mut self, count: u32, took: Duration, end: Seq, now: Instant) {
        if let Some(pace) = (self.latest - self.over_at).checked_div(self.came) {
            self.pace = pace;
        }
        let pays = self.pace <= took / PACE;
        let twice = self.pace.saturating_mul(count).saturating_mul(2);
        self.patience = if pays { twice.min(MOST) } else { Duration::ZERO };
        (self.over_at, self.came, self.latest) = (now, 0, now);
        self.expected = Seq(end.0 + u64::from(count));
    }

    /// A batch has left: who is not back by now is not expected any more.
    pub(super) fn batch_left(&mut self) {
        self.expected = Seq::NONE;
    }

    /// Until when the next batch waits if the log ends with `end` and something has been waiting
    /// since then; `None` if it does not.
    pub(super) fn until(&self, end: Seq, since: Instant) -> Option<Instant> {
        let waits = end < self.expected && !self.patience.is_zero();
        waits.then(|| since + self.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn two_secondaries_that_are_done_one_after_the_other_make_one_batch() {
        // Goal: nobody comes between the two, for each client waits for both.
        let start = Instant::now();
        let mut gather = Gather::new(start);
        gather.batch_over(8, 3 * MS, Seq(8), start);
        (0..8).for_each(|_| gather.appended(start + MS));
        gather.batch_over(8, 3 * MS, Seq(16), start + 4 * MS);
        assert_eq!(gather.until(Seq(17), start), Some(start + 2 * MS));
        gather.batch_over(8, 4 * MS, Seq(16), start + 5 * MS);
        assert_eq!(gather.until(Seq(17), start), Some(start + 2 * MS));
        assert_eq!(gather.until(Seq(24), start), None, "it is full");
    }
}
