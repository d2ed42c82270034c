//! A master and its secondaries, all of them real processes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::node::{Node, Settings};
use super::{SOON, wait_until};

/// Dropped in the order of the fields: first the master, so that it complains about nobody.
#[derive(Debug)]
pub struct Cluster {
    pub master: Node,
    pub secondaries: Vec<Node>,
}

impl Cluster {
    /// One secondary for each of these settings, and a master with its own.
    pub fn start(secondaries: &[Settings], master: Settings) -> Cluster {
        let secondaries: Vec<_> = secondaries.iter().map(|s| Node::secondary(s)).collect();
        let urls: Vec<_> = secondaries.iter().map(Node::url).collect();
        let urls: Vec<_> = urls.iter().map(String::as_str).collect();
        Cluster { master: Node::master(&urls, master), secondaries }
    }

    /// Every node, the master first.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> + Clone {
        std::iter::once(&self.master).chain(&self.secondaries)
    }

    /// Posts a message and expects that every node acknowledges it.
    pub fn post(&self, message: &str) {
        let answer = self.master.post_message(message);
        assert_eq!(answer.status, 201, "{}", answer.text());
    }

    /// The log of each node, the master's first.
    pub fn logs(&self) -> Vec<Vec<String>> {
        self.nodes().map(Node::log).collect()
    }

    /// Waits until all logs are equal, and returns that log and how long it took.
    pub fn wait_until_equal(&self, within: Duration) -> (Vec<String>, Duration) {
        let start = Instant::now();
        let mut logs = wait_until("equal logs", within, || {
            let logs = self.logs();
            let lengths: Vec<_> = logs.iter().map(Vec::len).collect();
            let equal = logs.iter().all(|log| *log == logs[0]);
            if equal { Ok(logs) } else { Err(format!("lengths {lengths:?}")) }
        });
        (logs.swap_remove(0), start.elapsed())
    }

    /// Asserts that every secondary's log is a prefix of the master's.
    pub fn assert_prefixes(&self) {
        // The copies first: the master's may only grow meanwhile.
        let copies: Vec<_> = self.secondaries.iter().map(Node::log).collect();
        let log = self.master.log();
        for copy in &copies {
            assert!(log.starts_with(copy), "not a prefix: {copy:?} of {log:?}");
        }
    }

    /// Waits until the master accepts writes.
    pub fn wait_until_ready(&self) {
        self.master.wait_until_ready();
    }

    /// Waits until the master knows that everybody has everything.
    pub fn wait_until_level(&self) {
        wait_until("level", SOON, || {
            let health = self.master.health();
            let statuses = health["secondary_statuses"].as_object().cloned().unwrap_or_default();
            let level = |(_, s): (&String, &serde_json::Value)| {
                s["lag_entries"] == 0 && s["last_error"].is_null()
            };
            if statuses.iter().all(level) { Ok(()) } else { Err(health) }
        });
    }
}

/// Asserts that every one of these messages is in the log exactly once, and nothing else is.
pub fn assert_each_once(log: &[String], sent: &[String]) {
    let mut counts: HashMap<&str, i64> = HashMap::new();
    sent.iter().for_each(|message| *counts.entry(message).or_default() += 1);
    log.iter().for_each(|message| *counts.entry(message).or_default() -= 1);
    let lost: Vec<_> = counts.iter().filter(|(_, count)| **count > 0).collect();
    let extra: Vec<_> = counts.iter().filter(|(_, count)| **count < 0).collect();
    assert!(lost.is_empty() && extra.is_empty(), "lost {lost:?}, too often {extra:?}");
}
