//! What may happen very often and is logged once in a while.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::locked::locked;

/// Says when a repeated event is to be logged again.
#[derive(Debug)]
pub struct Seldom {
    interval: Duration,
    /// When it was logged last, and how often it has happened since.
    last: Mutex<(Option<Instant>, u64)>,
}

impl Seldom {
    /// Logged once in this time.
    pub const fn new(interval: Duration) -> Seldom {
        Seldom { interval, last: Mutex::new((None, 0)) }
    }

    /// Counts the event. Returns how often it has happened since it was logged last, when it is to
    /// be logged now.
    pub fn count(&self) -> Option<u64> {
        let (at, count) = &mut *locked(&self.last);
        *count += 1;
        if at.is_some_and(|at| at.elapsed() < self.interval) {
            return None;
        }
        *at = Some(Instant::now());
        Some(std::mem::take(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_event_is_counted_in_between() {
        let seldom = Seldom::new(Duration::from_secs(3600));
        let counted: Vec<_> = (0..3).map(|_| seldom.count()).collect();
        assert_eq!(counted, [Some(1), None, None]);
        locked(&seldom.last).0 = None;
        assert_eq!(seldom.count(), Some(3));
    }
}
