//! What happened to the last appends, and when: for the live page.
//!
//! Kept only while somebody watches. Of a fast log it is a sample: one append in 20 ms, and a
//! short burst whole.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use common::entries::Seq;

use crate::lines::Lines;

/// In the long run at most one append in this time is kept.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

/// Of a burst after some quiet so many more are: eight clients at once are all seen.
const BURST: u32 = 9;

/// How many are kept.
const MOST: usize = 30;

/// One append.
#[derive(Debug)]
pub struct Timed {
    /// The entry.
    pub seq: Seq,
    /// How many nodes its client waits for, the master included.
    pub w: usize,
    /// When it was answered, and whether as its client wished.
    pub answered: Option<(Duration, bool)>,
    /// When each secondary had acknowledged it.
    pub acks: Vec<Option<Duration>>,
    at: Instant,
}

/// The last appends.
#[derive(Debug, Default)]
pub struct Timeline {
    watchers: usize,
    recent: VecDeque<Timed>,
    /// What is kept fills the time up to here.
    filled: Option<Instant>,
}

impl Timeline {
    /// Somebody watches from now on.
    pub fn watch(&mut self) {
        self.watchers += 1;
    }

    /// Somebody watches no longer.
    pub fn unwatch(&mut self) {
        self.watchers -= 1;
        if self.watchers == 0 {
            self.recent.clear();
        }
    }

    /// An entry was appended for a client that waits for `w` nodes.
    pub fn appended(&mut self, seq: Seq, w: usize, secondaries: usize, now: Instant) {
        let filled = self.filled.map_or(now, |filled| filled.max(now));
        if self.watchers == 0 || filled > now + BURST * SAMPLE_INTERVAL {
            return;
        }
        self.filled = Some(filled + SAMPLE_INTERVAL);
        if self.recent.len() == MOST {
            self.recent.pop_front();
        }
        let acks = vec![None; secondaries];
        self.recent.push_back(Timed { seq, w, answered: None, acks, at: now });
    }

    /// Secondaries may have acknowledged more.
    pub fn acked(&mut self, lines: &Lines, now: Instant) {
        for timed in &mut self.recent {
            for (ack, line) in timed.acks.iter_mut().zip(lines.iter()) {
                if ack.is_none() && line.acked_seq() >= timed.seq {
                    *ack = Some(now - timed.at);
                }
            }
        }
    }

    /// The client of this entry was answered.
    pub fn answered(&mut self, seq: Seq, ok: bool, now: Instant) {
        let waiting = self.recent.iter_mut().rfind(|timed| timed.seq == seq);
        if let Some(timed) = waiting.filter(|timed| timed.answered.is_none()) {
            timed.answered = Some((now - timed.at, ok));
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
    fn only_what_is_watched_is_kept_and_of_that_a_sample() {
        let mut timeline = Timeline::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        timeline.appended(Seq(1), 3, 2, at(0));
        assert_eq!(timeline.recent().count(), 0, "nobody watches");
        timeline.watch();
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
        timeline.unwatch();
        assert_eq!(timeline.recent().count(), 0);
    }
}
