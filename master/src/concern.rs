//! The write concern: how many nodes must hold an entry before its client is answered.

use std::time::Duration;

use common::json::Whole;
use common::settings::MAX_TIMEOUT_MS;
use serde::Deserialize;
use serde_json::Value;

/// What a client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concern {
    /// `w` was absent: all secondaries, and the first failure is the answer. The original's.
    AllOrFail,
    /// This many nodes, the master included; failures are retried until the time is up.
    Nodes {
        /// How many.
        w: usize,
        /// For how long; `None` for as long as it takes.
        timeout: Option<Duration>,
    },
}

impl Concern {
    /// Reads `w` and `wtimeout` of a request to a cluster of `nodes`, the master included. Fails
    /// with what is wrong, in words for the client.
    pub fn parse(
        w: Option<&Value>,
        wtimeout: Option<&Value>,
        nodes: usize,
        default: Duration,
    ) -> Result<Concern, String> {
        let timeout = wtimeout.map_or(Ok(default), |value| {
            let ms = whole(value).filter(|ms| *ms <= MAX_TIMEOUT_MS);
            ms.map(Duration::from_millis).ok_or_else(|| {
                format!(
                    "wtimeout must be a whole number of milliseconds up to {MAX_TIMEOUT_MS}, not \
                     {value}"
                )
            })
        })?;
        let Some(w) = w else { return Ok(Concern::AllOrFail) };
        let number = match w.as_str() {
            Some("majority") => Some(majority(nodes)),
            Some("all") => Some(nodes),
            _ => whole(w).and_then(|w| usize::try_from(w).ok()),
        };
        let Some(w) = number.filter(|w| (1..=nodes).contains(w)) else {
            return Err(format!(
                "Write concern w must be between 1 and {nodes}, \"majority\" or \"all\", not {w}"
            ));
        };
        Ok(Concern::Nodes { w, timeout: (!timeout.is_zero()).then_some(timeout) })
    }

    /// How many of `secondaries` must have acknowledged.
    pub fn acks_needed(self, secondaries: usize) -> usize {
        match self {
            Concern::AllOrFail => secondaries,
            Concern::Nodes { w, .. } => w - 1,
        }
    }
}

fn whole(value: &Value) -> Option<u64> {
    Whole::deserialize(value).ok().map(|Whole(number)| number)
}

/// The least number of nodes of which any two groups share one.
pub fn majority(nodes: usize) -> usize {
    nodes / 2 + 1
}

/// The last entry that `quorum` nodes hold, given what each node holds.
pub fn committed(mut held: Vec<u64>, quorum: usize) -> u64 {
    held.sort_unstable_by(|a, b| b.cmp(a));
    held.get(quorum - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DEFAULT: Duration = Duration::from_secs(60);

    #[test]
    fn a_write_concern_is_a_number_or_word() {
        let parse = |w: Value| Concern::parse(Some(&w), None, 3, DEFAULT);
        let nodes = |w| Ok(Concern::Nodes { w, timeout: Some(DEFAULT) });
        assert_eq!(parse(json!(1)), nodes(1));
        assert_eq!(parse(json!(3)), nodes(3));
        assert_eq!(parse(json!(2.0)), nodes(2), "JSON has only one kind of number");
        assert_eq!(parse(json!("majority")), nodes(2));
        assert_eq!(parse(json!("all")), nodes(3));
        assert_eq!(Concern::parse(None, None, 3, DEFAULT), Ok(Concern::AllOrFail));
        for bad in [json!(0), json!(4), json!(-1), json!(1.5), json!(4.0), json!(true)] {
            let error = parse(bad.clone()).unwrap_err();
            assert!(error.starts_with("Write concern w must be between 1 and 3"), "{error}");
        }
        for bad in [json!("2"), json!("ALL"), json!(null), json!([2]), json!({}), json!(1e99)] {
            assert!(parse(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_timeout_is_milliseconds_and_zero_has_no_limit() {
        let parse = |timeout| Concern::parse(Some(&json!(2)), Some(&timeout), 3, DEFAULT);
        let ms = Duration::from_millis(5);
        assert_eq!(parse(json!(5)), Ok(Concern::Nodes { w: 2, timeout: Some(ms) }));
        assert_eq!(parse(json!(5.0)), Ok(Concern::Nodes { w: 2, timeout: Some(ms) }));
        assert_eq!(parse(json!(0)), Ok(Concern::Nodes { w: 2, timeout: None }));
        for bad in [json!(-1), json!(1.5), json!("5"), json!(null), json!(u64::MAX)] {
            assert!(parse(bad.clone()).is_err(), "{bad}");
        }
        assert!(Concern::parse(None, Some(&json!("x")), 3, DEFAULT).is_err());
    }

    #[test]
    fn a_majority_is_more_than_half() {
        let majorities: Vec<usize> = (1..=7).map(majority).collect();
        assert_eq!(majorities, [1, 2, 2, 3, 3, 4, 4]);
    }

    /// Counts, for every entry, the nodes that hold it: slow and obvious.
    fn twin(held: &[u64], quorum: usize) -> u64 {
        let holders = |seq: u64| held.iter().filter(|last| **last >= seq).count();
        (0..=20).rev().find(|seq| holders(*seq) >= quorum).unwrap_or(0)
    }

    #[test]
    fn committed_agrees_with_a_twin_that_counts() {
        let mut seed = 1_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..20_000 {
            let nodes = usize::try_from(random(7)).unwrap() + 1;
            let held: Vec<u64> = (0..nodes).map(|_| random(20)).collect();
            let quorum = usize::try_from(random(nodes as u64)).unwrap() + 1;
            let expected = twin(&held, quorum);
            assert_eq!(committed(held.clone(), quorum), expected, "{held:?} quorum {quorum}");
        }
    }
}
