//! The health of a secondary by its heartbeats, and the pause after failed calls.
//!
//! No health is called "dead": a master cannot know.

use std::time::Duration;

use serde::Serialize;

/// The health of a secondary, as far as heartbeats tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Health {
    /// The secondary answers.
    Healthy,
    /// The secondary has missed some heartbeats.
    Suspected,
    /// The secondary has missed many heartbeats.
    Unhealthy,
}

/// How many heartbeats in a row may be missed.
#[derive(Debug, Clone, Copy)]
pub struct Thresholds {
    /// From this many on the secondary is suspected.
    pub suspected_after: u32,
    /// From this many on the secondary is unhealthy.
    pub unhealthy_after: u32,
}

/// The heartbeats of one secondary.
#[derive(Debug, Clone, Copy)]
pub struct Heartbeats {
    missed: u32,
    thresholds: Thresholds,
}

impl Heartbeats {
    /// The start: unhealthy.
    pub fn new(thresholds: Thresholds) -> Heartbeats {
        Heartbeats { missed: thresholds.unhealthy_after, thresholds }
    }

    /// A heartbeat was answered, or was not.
    pub fn beat(&mut self, answered: bool) {
        self.missed = if answered { 0 } else { self.missed.saturating_add(1) };
    }

    /// The health that they tell.
    pub fn health(self) -> Health {
        if self.missed >= self.thresholds.unhealthy_after {
            Health::Unhealthy
        } else if self.missed >= self.thresholds.suspected_after {
            Health::Suspected
        } else {
            Health::Healthy
        }
    }
}

/// The pause after the first failure; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// How long to wait after this many failures in a row: exponential, capped, and between half and
/// the whole of that, as `random` says, so that many masters do not call in step.
pub fn backoff(failures: u32, random: u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let whole = FIRST_BACKOFF.saturating_mul(1 << doublings).min(LONGEST_BACKOFF);
    let half = whole / 2;
    half + half.mul_f64((random % 1000) as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_heartbeats_make_a_secondary_unhealthy() {
        let thresholds = Thresholds { suspected_after: 2, unhealthy_after: 4 };
        let mut heartbeats = Heartbeats::new(thresholds);
        let mut beat = |answered| {
            heartbeats.beat(answered);
            heartbeats.health()
        };
        use Health::{Healthy, Suspected, Unhealthy};
        let script = [
            (false, Unhealthy),
            (true, Healthy),
            (false, Healthy),
            (false, Suspected),
            (false, Suspected),
            (false, Unhealthy),
            (false, Unhealthy),
            (true, Healthy),
        ];
        for (step, (answered, expected)) in script.into_iter().enumerate() {
            assert_eq!(beat(answered), expected, "step {step}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_cap() {
        let shortest: Vec<u128> = (1..=8).map(|n| backoff(n, 0).as_millis()).collect();
        assert_eq!(shortest, [25, 50, 100, 200, 400, 800, 1000, 1000]);
        assert!(backoff(1, 999) <= FIRST_BACKOFF && backoff(1, 999) > backoff(1, 1));
        assert_eq!(backoff(u32::MAX, 999).as_secs(), 1);
    }
}
