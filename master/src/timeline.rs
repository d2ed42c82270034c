//! The last appends and the times of their acknowledgements, for the live page.
//!
//! Appends are kept only while somebody watches. A fast log is sampled: one append in 20 ms, and
//! all of a short burst.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::entries::Seq;

use crate::lines::Lines;

/// The mean time between kept appends is at least this.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

/// The number of appends that may come ahead of that mean: eight clients at once are all seen.
const BURST: u32 = 9;

/// The most appends that are kept.
const MOST: usize = 30;

/// One append.
#[derive(Debug)]
pub struct Timed {
    /// The entry.
    pub seq: Seq,
    /// The number of nodes that its client waits for, the master included.
    pub w: usize,
    /// The time from the append to the answer, and whether the answer was 201.
    pub answered: Option<(Duration, bool)>,
    /// The time from the append to each secondary's acknowledgement.
    pub acks: Vec<Option<Duration>>,
    at: Instant,
}

/// The last appends.
#[derive(Debug, Default)]
pub struct Timeline {
    /// Each watcher holds a clone.
    watchers: Arc<()>,
    recent: VecDeque<Timed>,
    /// The end of the time that kept appends account for, one [`SAMPLE_INTERVAL`] each.
    filled: Option<Instant>,
}

impl Timeline {
    /// Adds a watcher, who watches until the value is dropped.
    pub fn watch(&mut self) -> Arc<()> {
        if !self.is_watched() {
            self.recent.clear();
        }
        Arc::clone(&self.watchers)
    }

    fn is_watched(&self) -> bool {
        Arc::strong_count(&self.watchers) > 1
    }

    /// Notes an append for a client that waits for `w` nodes.
    pub fn appended(&mut self, seq: Seq, w: usize, secondaries: usize, now: Instant) {
        let filled = self.filled.map_or(now, |filled| filled.max(now));
        if !self.is_watched() || filled > now + BURST * SAMPLE_INTERVAL {
            return;
        }
        self.filled = Some(filled + SAMPLE_INTERVAL);
        if self.recent.len() == MOST {
            self.recent.pop_front();
        }
        let acks = vec![None; secondaries];
        self.recent.push_back(Timed { seq, w, answered: None, acks, at: now });
    }

    /// Notes the acknowledgements that the lines have had since the last call.
    pub fn acked(&mut self, lines: &Lines, now: Instant) {
        for timed in &mut self.recent {
            for (ack, line) in timed.acks.iter_mut().zip(lines.secondaries().iter()) {
                if ack.is_none() && line.acked_seq() >= timed.seq {
                    *ack = Some(now - timed.at);
                }
            }
        }
    }

    /// Notes the answer to the client of this entry; `ok` for 201.
    pub fn answered(&mut self, seq: Seq, ok: bool, now: Instant) {
        let waiting = self.recent.iter_mut().rfind(|timed| timed.seq == seq);
        if let Some(timed) = waiting {
            timed.answered.get_or_insert((now - timed.at, ok));
        }
    }

    /// The last appends, oldest first.
    pub fn recent(&self) -> impl Iterator<Item = &Timed> {
        self.recent.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watched_timeline_keeps_a_sample() {
        // Goal: nothing is kept without a watcher; with one, bursts whole and fast logs in part.
        let mut timeline = Timeline::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        timeline.appended(Seq(1), 3, 2, at(0));
        assert_eq!(timeline.recent().count(), 0, "nobody watches");
        let watching = timeline.watch();
        for n in 2..12 {
            timeline.appended(Seq(n), 3, 2, at(20));
        }
        assert_eq!(timeline.recent().count(), 10, "a burst is kept whole");
        for n in 12..210 {
            timeline.appended(Seq(n), 3, 2, at(10 * n));
        }
        timeline.answered(Seq(208), true, at(2_087));
        let kept: Vec<u64> = timeline.recent().map(|timed| timed.seq.0).collect();
        assert_eq!((kept.len(), kept[0], kept[29]), (MOST, 150, 208), "one in 20 ms");
        let last = timeline.recent().last().unwrap();
        assert_eq!(last.answered, Some((Duration::from_millis(7), true)));
        drop(watching);
        timeline.appended(Seq(210), 3, 2, at(9_000));
        assert_eq!(timeline.recent().last().unwrap().seq, Seq(208), "nobody watches any more");
        let _watching = timeline.watch();
        assert_eq!(timeline.recent().count(), 0, "a watcher sees what comes");
    }
}
