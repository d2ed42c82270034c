//! Decides whether what clients were told and what nodes hold fit together.

use std::collections::HashMap;
use std::time::Instant;

/// What a client was told of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// A majority holds it at this place.
    Stored(u64),
    /// It is not in the log and will not be.
    Refused,
    /// Anything else, or nothing.
    Unknown,
}

/// What was done with one message.
#[derive(Debug, Clone)]
pub struct Append {
    pub message: String,
    /// Before it was posted for the first time.
    pub begun: Instant,
    /// After the last answer.
    pub ended: Instant,
    pub told: Told,
}

/// An answer that shows committed entries.
#[derive(Debug, Clone)]
pub struct Read {
    pub begun: Instant,
    pub ended: Instant,
    /// Reads over the same connection have the same number.
    pub connection: usize,
    /// It was to show all that is committed when it began.
    pub is_confirmed: bool,
    /// The place of the first message.
    pub from: u64,
    pub messages: Vec<String>,
    /// The last committed entry, as it says.
    pub last_seq: u64,
}

/// What clients did and were told.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The messages of each client that posts one after the other, each again with the same key
    /// until it is acknowledged.
    pub writers: Vec<Vec<Append>>,
    /// Messages that were posted once, without a key.
    pub single: Vec<Append>,
    pub reads: Vec<Read>,
}

impl History {
    /// The number of messages that were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.appends().filter(|append| matches!(append.told, Told::Stored(_))).count()
    }

    fn appends(&self) -> impl Iterator<Item = &Append> {
        self.writers.iter().flatten().chain(&self.single)
    }

    /// Checks the promises against the logs of all nodes, the master's first.
    ///
    /// - one order: all logs are equal;
    /// - every acknowledged message is there exactly once, at the place that was named; one that was
    ///   refused is not there, any other once at most, and nothing else is there;
    /// - each writer's own order is kept, and that of messages of which one was acknowledged, or
    ///   read, before the other was posted;
    /// - every read shows a part of the log, over one connection never less than before, and a
    ///   confirmed one everything that was acknowledged or read before it.
    pub fn check(&self, logs: &[Vec<String>]) -> Result<(), String> {
        let log = &logs[0];
        for (node, other) in logs.iter().enumerate() {
            if other != log {
                let at = other.iter().zip(log).take_while(|(a, b)| a == b).count();
                let lengths = (log.len(), other.len());
                return Err(format!("node {node} differs from place {}: {lengths:?}", at + 1));
            }
        }
        let mut places = HashMap::new();
        for (message, place) in log.iter().zip(1..) {
            if let Some(first) = places.insert(message.as_str(), place) {
                return Err(format!("{message} is at {first} and at {place}"));
            }
        }
        self.appends().try_for_each(|append| append.check(&places))?;
        self.check_order(&places)?;
        self.reads.iter().try_for_each(|read| read.check(log))?;
        self.check_real_time(&places)?;
        self.appends().for_each(|append| _ = places.remove(append.message.as_str()));
        match places.keys().next() {
            Some(message) => Err(format!("{message} was never posted")),
            None => Ok(()),
        }
    }

    fn check_order(&self, places: &HashMap<&str, u64>) -> Result<(), String> {
        for writer in &self.writers {
            let mut last = 0;
            for Append { message, .. } in writer {
                let Some(place) = places.get(message.as_str()) else { continue };
                if *place < last {
                    return Err(format!(
                        "{message} is at {place}, before its predecessor at {last}"
                    ));
                }
                last = *place;
            }
        }
        let mut shown = HashMap::new();
        for Read { connection, last_seq, .. } in &self.reads {
            let before = shown.insert(connection, *last_seq).unwrap_or_default();
            if *last_seq < before {
                return Err(format!(
                    "entries up to {last_seq} were read, up to {before} before that"
                ));
            }
        }
        Ok(())
    }

    fn check_real_time(&self, places: &HashMap<&str, u64>) -> Result<(), String> {
        let acknowledged = self.appends().filter_map(|append| match append.told {
            Told::Stored(place) => Some((append.ended, place)),
            _ => None,
        });
        let read = self.reads.iter().map(|read| (read.ended, read.last_seq));
        let mut known: Vec<_> = acknowledged.chain(read).collect();
        known.sort();
        let mut most = 0;
        for (_, place) in &mut known {
            most = most.max(*place);
            *place = most;
        }
        let known_at = |at| match known.partition_point(|(ended, _)| *ended < at) {
            0 => 0,
            count => known[count - 1].1,
        };
        for Append { message, begun, .. } in self.appends() {
            let (place, before) = (places.get(message.as_str()), known_at(*begun));
            if place.is_some_and(|place| *place <= before) {
                return Err(format!("{message} is at {place:?}, but {before} was known before it"));
            }
        }
        for read in self.reads.iter().filter(|read| read.is_confirmed) {
            let (last, before) = (read.last_seq, known_at(read.begun));
            if last < before {
                return Err(format!("a confirmed read ends at {last}, {before} was known before"));
            }
        }
        Ok(())
    }
}

impl Append {
    fn check(&self, places: &HashMap<&str, u64>) -> Result<(), String> {
        let (message, place) = (&self.message, places.get(self.message.as_str()).copied());
        match self.told {
            Told::Stored(told) if place != Some(told) => {
                Err(format!("{message} is at {place:?}, its answer said {told}"))
            }
            Told::Refused if place.is_some() => {
                Err(format!("{message} is at {place:?}, but was refused"))
            }
            _ => Ok(()),
        }
    }
}

impl Read {
    fn check(&self, log: &[String]) -> Result<(), String> {
        for (message, place) in self.messages.iter().zip(self.from..) {
            let held = usize::try_from(place - 1).ok().and_then(|index| log.get(index));
            if held != Some(message) {
                return Err(format!(
                    "{message} was read as committed at {place}, where is {held:?}"
                ));
            }
        }
        let (last, len) = (self.last_seq, log.len() as u64);
        if last > len {
            Err(format!("{last} was committed, the log ends at {len}"))
        } else {
            Ok(())
        }
    }
}

/// Numbers that look random and are the same for the same seed.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        // Neighbouring seeds are not to begin with neighbouring numbers.
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// A number below this one.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// True once in so many times.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}
