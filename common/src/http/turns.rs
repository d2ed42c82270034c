//! One request of a connection at a time, in the order in which they came.
//!
//! tiny_http hands out pipelined requests all at once. Handled at the same time they could
//! overtake each other, and a thread could block behind its own predecessor.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::mem;

/// Requests of one connection that may wait behind the one in progress.
pub const MAX_PIPELINED: usize = 64;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waiting for a request, or receiving the head of one.
    Idle,
    /// Receiving a body.
    Reading,
    /// A handler works on its request.
    Busy,
    /// Its request is being refused; the connection is closed after that.
    Refusing,
}

/// What may still come from a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Requests.
    Open,
    /// Nothing that counts: a request was dropped, so none after it may be handled.
    Doomed,
    /// Requests of a new connection with the same key, and what was left over of the closed one.
    Closed,
}

/// The requests of all connections. `K` tells connections apart, `T` is a request.
#[derive(Debug)]
pub(super) struct Turns<K, T> {
    lines: HashMap<K, Line<T>>,
    heard: u64,
}

#[derive(Debug)]
struct Line<T> {
    phase: Phase,
    /// Whether the phase was entered after the last look.
    changed: bool,
    trust: Trust,
    waiting: VecDeque<T>,
}

/// A request that may begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Begun<T> {
    pub(super) request: T,
    /// Whether it may have been left over of a connection that was closed.
    pub(super) is_suspect: bool,
}

/// What becomes of a request that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival<T> {
    Begins(Begun<T>),
    Waits,
    /// It is given back, and its connection must be closed.
    TooMany(T),
}

impl<K: Eq + Hash + Copy, T> Turns<K, T> {
    pub(super) fn new() -> Turns<K, T> {
        Turns { lines: HashMap::new(), heard: 0 }
    }

    fn line(&mut self, key: K) -> &mut Line<T> {
        self.lines.entry(key).or_insert_with(|| {
            self.heard += 1;
            let (phase, trust) = (Phase::Idle, Trust::Open);
            Line { phase, changed: true, trust, waiting: VecDeque::new() }
        })
    }

    /// Takes a request. Those of one connection must come in their order.
    pub(super) fn arrive(&mut self, key: K, request: T) -> Arrival<T> {
        let line = self.line(key);
        if line.trust == Trust::Doomed || line.waiting.len() >= MAX_PIPELINED {
            line.trust = Trust::Doomed;
            return Arrival::TooMany(request);
        }
        line.waiting.push_back(request);
        if line.phase != Phase::Idle {
            return Arrival::Waits;
        }
        line.next().map_or(Arrival::Waits, Arrival::Begins)
    }

    /// The request in progress enters this phase. Returns whether it is suspect by now.
    pub(super) fn enter(&mut self, key: K, phase: Phase) -> bool {
        let line = self.line(key);
        line.enter(phase);
        line.trust != Trust::Open
    }

    /// Ends the request in progress. Returns the next one, which begins.
    pub(super) fn end(&mut self, key: K) -> Option<Begun<T>> {
        self.line(key).next()
    }

    /// No request that arrives from now on is handled before the connection has been closed.
    pub(super) fn doom(&mut self, key: K) {
        self.line(key).trust = Trust::Doomed;
    }

    /// The connection is being closed. What has arrived of it may still turn up as requests.
    pub(super) fn close(&mut self, key: K) {
        self.line(key).trust = Trust::Closed;
    }

    /// Nothing is left of the closed connection.
    pub(super) fn forget_closed(&mut self, key: K) {
        if let Some(line) = self.lines.get_mut(&key).filter(|line| line.trust == Trust::Closed) {
            line.trust = Trust::Open;
        }
    }

    /// Whether a body is being received.
    pub(super) fn is_any_reading(&self) -> bool {
        self.lines.values().any(|line| line.phase == Phase::Reading)
    }

    /// How many connections were heard of for the first time, or again after a long silence.
    pub(super) fn heard(&self) -> u64 {
        self.heard
    }

    /// The phase of each connection, and whether it has changed since the last look. A connection
    /// that is not among them has been idle since before that look.
    pub(super) fn look(&mut self) -> HashMap<K, (Phase, bool)> {
        let mut seen = HashMap::with_capacity(self.lines.len());
        self.lines.retain(|key, line| {
            let changed = mem::take(&mut line.changed);
            seen.insert(*key, (line.phase, changed));
            changed || line.phase != Phase::Idle || line.trust != Trust::Open
        });
        seen
    }
}

impl<T> Line<T> {
    fn enter(&mut self, phase: Phase) {
        (self.phase, self.changed) = (phase, true);
    }

    fn next(&mut self) -> Option<Begun<T>> {
        let request = self.waiting.pop_front();
        self.enter(if request.is_some() { Phase::Busy } else { Phase::Idle });
        Some(Begun { request: request?, is_suspect: self.trust != Trust::Open })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begins<T>(request: T, is_suspect: bool) -> Arrival<T> {
        Arrival::Begins(Begun { request, is_suspect })
    }

    #[test]
    fn requests_of_one_connection_begin_one_after_another() {
        let mut turns = Turns::new();
        assert_eq!(turns.arrive(1, "a"), begins("a", false));
        assert_eq!(turns.arrive(1, "b"), Arrival::Waits);
        assert_eq!(turns.arrive(2, "c"), begins("c", false));
        assert_eq!(turns.end(1), Some(Begun { request: "b", is_suspect: false }));
        assert_eq!(turns.end(1), None);
        assert_eq!(turns.arrive(1, "d"), begins("d", false));
    }

    #[test]
    fn after_a_request_too_many_none_begins() {
        let mut turns = Turns::new();
        assert_eq!(turns.arrive(1, 0), begins(0, false));
        (1..=MAX_PIPELINED).for_each(|n| assert_eq!(turns.arrive(1, n), Arrival::Waits));
        assert_eq!(turns.arrive(1, 99), Arrival::TooMany(99));
        // There is room again, but not for one that comes after the one that was dropped.
        assert!(turns.end(1).is_some());
        assert_eq!(turns.arrive(1, 100), Arrival::TooMany(100));
        turns.close(1);
        assert_eq!(turns.arrive(1, 101), Arrival::Waits);
    }

    #[test]
    fn requests_after_a_close_are_suspect() {
        let mut turns = Turns::new();
        turns.arrive(1, "refused");
        turns.arrive(1, "left over");
        assert!(!turns.enter(1, Phase::Refusing));
        turns.close(1);
        assert!(turns.enter(1, Phase::Busy));
        assert_eq!(turns.end(1), Some(Begun { request: "left over", is_suspect: true }));
        assert_eq!(turns.end(1), None);
        turns.look();
        assert_eq!(turns.arrive(1, "of a new one"), begins("of a new one", true));
        turns.forget_closed(1);
        turns.end(1);
        assert_eq!(turns.arrive(1, "later"), begins("later", false));
    }

    #[test]
    fn a_look_tells_what_has_changed() {
        let mut turns = Turns::new();
        for key in [1, 2] {
            turns.arrive(key, "a");
        }
        turns.enter(2, Phase::Reading);
        let look = |turns: &mut Turns<_, _>| {
            let mut seen: Vec<_> = turns.look().into_iter().collect();
            seen.sort_by_key(|(key, _)| *key);
            seen
        };
        let expected = [(1, (Phase::Busy, true)), (2, (Phase::Reading, true))];
        assert_eq!(look(&mut turns), expected);
        turns.end(1);
        assert_eq!(look(&mut turns), [(1, (Phase::Idle, true)), (2, (Phase::Reading, false))]);
        assert_eq!(look(&mut turns), [(1, (Phase::Idle, false)), (2, (Phase::Reading, false))]);
        assert_eq!(look(&mut turns), [(2, (Phase::Reading, false))], "idle ones are forgotten");
        turns.enter(1, Phase::Busy);
        assert_eq!(turns.heard(), 3, "one of the two anew");
        assert!(turns.is_any_reading());
        turns.end(2);
        assert!(!turns.is_any_reading());
    }
}
