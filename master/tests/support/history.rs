//! Decides whether what clients were told and what nodes hold fit together.

use std::collections::HashMap;

/// What one writer did: its messages in the order in which it posted them, each one again with
/// the same key until it was acknowledged.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    /// Each message, and the place that its 201 named; `None` if it was never acknowledged.
    pub posted: Vec<(String, Option<u64>)>,
}

/// Checks the promises against the logs of all nodes, the master's first.
///
/// - one order: all logs are equal;
/// - every acknowledged message is there exactly once, at the place that was named;
/// - a message that was never acknowledged is there once at most, and nothing else is there;
/// - each writer's own order is kept.
pub fn check(writers: &[Writer], logs: &[Vec<String>]) -> Result<(), String> {
    let log = &logs[0];
    for (node, other) in logs.iter().enumerate() {
        if other != log {
            let at = other.iter().zip(log).take_while(|(a, b)| a == b).count();
            let lengths = (log.len(), other.len());
            return Err(format!("node {node} differs from place {}: {lengths:?}", at + 1));
        }
    }
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (index, message) in log.iter().enumerate() {
        if let Some(first) = places.insert(message, index + 1) {
            return Err(format!("{message} is at {first} and at {}", index + 1));
        }
    }
    for writer in writers {
        let mut last = 0;
        for (message, acknowledged) in &writer.posted {
            let place = places.remove(message.as_str());
            if acknowledged.is_some() && place.map(|place| place as u64) != *acknowledged {
                return Err(format!("{message} is at {place:?}, its 201 said {acknowledged:?}"));
            }
            let Some(place) = place else { continue };
            if place < last {
                return Err(format!("{message} is at {place}, before its predecessor at {last}"));
            }
            last = place;
        }
    }
    match places.keys().next() {
        Some(message) => Err(format!("{message} was never posted")),
        None => Ok(()),
    }
}

/// Numbers that look random and are the same for the same seed.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A number below this one.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}
