//! Faults on demand in answers to `/replicate`: a delay that makes blocking visible, and errors.
//!
//! The delay is set when the secondary starts. With `CHAOS=1`, `PUT /chaos` can change every fault.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use common::json::{Whole, read_object};
use common::locked::locked;
use common::settings::MAX_TIMEOUT_MS;
use serde::{Deserialize, Serialize};

/// The delay and the rates of errors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Faults {
    /// Each call sleeps this long before anything is stored, in milliseconds.
    pub delay_ms: u64,
    /// The share of calls that answer 500 and store nothing, 0 to 1.
    pub error_rate: f64,
    /// The share of calls that store and then answer 500 all the same, 0 to 1.
    pub error_after_store: f64,
}

/// The body of `PUT /chaos`. Absent values stay as they are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    #[serde(default)]
    delay_ms: Option<Whole>,
    #[serde(default)]
    error_rate: Option<f64>,
    #[serde(default)]
    error_after_store: Option<f64>,
}

/// The faults of one secondary, and the dice for them.
#[derive(Debug)]
pub struct FaultInjector {
    faults: Mutex<Faults>,
    dice: RandomState,
    throws: AtomicU64,
}

impl FaultInjector {
    /// A delay in milliseconds, and no errors.
    pub fn new(delay_ms: u64) -> FaultInjector {
        let faults = Mutex::new(Faults { delay_ms, error_rate: 0.0, error_after_store: 0.0 });
        FaultInjector { faults, dice: RandomState::new(), throws: AtomicU64::new(0) }
    }

    /// The present faults.
    pub fn faults(&self) -> Faults {
        *locked(&self.faults)
    }

    /// Changes faults as the body of a `PUT /chaos` says. Fails with the problem of the body, in
    /// words; nothing has changed then.
    pub fn change(&self, body: &[u8]) -> Result<Faults, String> {
        let change: Change = read_object(body)?;
        let old = self.faults();
        let new = Faults {
            delay_ms: change.delay_ms.map_or(old.delay_ms, |Whole(ms)| ms),
            error_rate: change.error_rate.unwrap_or(old.error_rate),
            error_after_store: change.error_after_store.unwrap_or(old.error_after_store),
        };
        if new.delay_ms > MAX_TIMEOUT_MS {
            return Err(format!("delay_ms must be at most {MAX_TIMEOUT_MS}"));
        }
        if ![new.error_rate, new.error_after_store].iter().all(|r| (0.0..=1.0).contains(r)) {
            return Err("error_rate and error_after_store must be between 0 and 1".into());
        }
        *locked(&self.faults) = new;
        Ok(new)
    }

    /// Whether a fault of this rate happens now.
    pub fn strikes(&self, rate: f64) -> bool {
        let throw = self.dice.hash_one(self.throws.fetch_add(1, Relaxed));
        // 53 bits are a uniformly distributed double from 0 on and below 1.
        ((throw >> 11) as f64) / ((1_u64 << 53) as f64) < rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_change_one_by_one() {
        // Goal: absent values stay, and a bad body changes nothing.
        let injector = FaultInjector::new(5);
        injector.change(br#"{"error_rate":0.25}"#).unwrap();
        let expected = Faults { delay_ms: 5, error_rate: 0.25, error_after_store: 0.0 };
        assert_eq!(injector.faults(), expected);
        injector.change(br#"{"delay_ms":null,"error_after_store":null}"#).unwrap();
        assert_eq!(injector.faults(), expected, "null is absent");
        let bad = [r#""error_rate":2"#, r#""error_after_store":"1""#, r#""delay_ms":-1"#];
        for bad in bad.iter().chain(&[r#""delay_ms":1.5"#, r#""delay":1"#, "1"]) {
            let body = format!("{{{bad}}}");
            assert!(injector.change(body.as_bytes()).is_err(), "{body}");
        }
        assert_eq!(injector.faults(), expected);
        assert_eq!(injector.change(br#"{"delay_ms":7.0}"#).unwrap().delay_ms, 7);
    }

    #[test]
    fn faults_strike_as_often_as_they_should() {
        let injector = FaultInjector::new(0);
        let count = |rate| (0..4000).filter(|_| injector.strikes(rate)).count();
        assert_eq!((count(0.0), count(1.0)), (0, 4000));
        let quarter = count(0.25);
        assert!((800..1200).contains(&quarter), "{quarter} of 4000");
    }
}
