//! Epochs and the clock: which epoch a new reign has, and which epochs are believed.
//!
//! The epoch of a reign is the time in milliseconds, with a random number after it. A greater epoch
//! ends every reign before it, so one that is out of reach of the clock would end all reigns for
//! good. Nobody follows, promises, adopts or believes an epoch that is more than a day ahead of the
//! own clock, whoever names it. The greatest one that is believed can always be followed by a
//! greater one: a moment later that is within the day too.

use std::time::{Duration, SystemTime};

use log::warn;

use crate::entries::Epoch;
use crate::random::random;
use crate::reign::FIRST_EPOCHS;
use crate::seldom::Seldom;

/// An epoch ends with one of so many numbers. A JavaScript number still holds all of it.
pub const PER_MILLISECOND: u64 = 1 << 11;

/// So far the clocks of two nodes may be apart.
const TOLERANCE: Duration = Duration::from_secs(24 * 60 * 60);

static LOGGED: Seldom = Seldom::new(Duration::from_secs(10));

/// The first epoch of this millisecond.
fn at(time: SystemTime) -> Epoch {
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let milliseconds = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
    Epoch(milliseconds.saturating_mul(PER_MILLISECOND))
}

/// The greatest epoch that is believed now.
pub fn latest() -> Epoch {
    at(SystemTime::now() + TOLERANCE)
}

/// Greater than every epoch heard of, and than those of earlier starts that nobody remembers: the
/// time in milliseconds, or more, and then a number that no other master draws at the same moment.
/// In one epoch two masters would take each other's entries for their own.
pub fn draw(highest: Epoch) -> Epoch {
    let least = at(SystemTime::now()).0.max(highest.0.saturating_add(1)).max(FIRST_EPOCHS.end);
    Epoch(least.saturating_add(random() % PER_MILLISECOND))
}

/// Refuses an epoch that is out of reach of the clock, and says so in the log once in a while.
///
/// # Errors
/// The reason in words. `from` says who has named the epoch.
pub fn check(epoch: Epoch, from: &str) -> Result<(), String> {
    if epoch <= latest() {
        return Ok(());
    }
    let why = format!("epoch {epoch} is more than a day ahead of the clock");
    if let Some(count) = LOGGED.count() {
        warn!("refused from={from} count={count} reason={why:?}");
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn masters_that_start_together_draw_different_epochs() {
        let highest = draw(Epoch::default());
        // Beyond the clock, which two masters that have heard the same cannot tell apart.
        let ahead = Epoch(highest.0 << 1);
        for heard in [Epoch::default(), ahead] {
            let epochs: HashSet<u64> = (0..100).map(|_| draw(heard).0).collect();
            assert!(epochs.len() > 80, "{} of 100 differ", epochs.len());
            assert!(epochs.iter().all(|epoch| *epoch > heard.0 && *epoch < 1 << 54));
        }
        assert!(draw(highest) > highest);
    }

    #[test]
    fn an_epoch_within_the_day_is_believed() {
        for epoch in [Epoch(0), Epoch(7), Epoch(1 << 40), draw(Epoch(0)), latest()] {
            assert_eq!(check(epoch, "a test"), Ok(()), "{epoch}");
        }
        let minute = 60 * 1000 * PER_MILLISECOND;
        for beyond in [latest().0 + minute, 1 << 60, u64::MAX] {
            let why = check(Epoch(beyond), "a test").unwrap_err();
            assert!(why.contains("a day ahead of the clock"), "{why}");
        }
    }

    #[test]
    fn the_greatest_epoch_can_be_followed() {
        let greatest = latest();
        let next = draw(greatest);
        assert!(next > greatest);
        std::thread::sleep(Duration::from_millis(3));
        assert_eq!(check(next, "a test"), Ok(()), "the clock has gone on");
    }
}
