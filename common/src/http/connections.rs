//! What each connection is doing, and which of them have gone on for too long.
//!
//! Pure bookkeeping: no socket, no clock. Two facts make it necessary. tiny_http hands out
//! pipelined requests all at once, so a handler thread could block behind its own predecessor;
//! here the requests of one connection are taken one after another, in order. And tiny_http has
//! no timeouts; here each connection remembers since when it has been doing what it does.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Requests of one connection that may wait behind the one in progress.
pub const MAX_PIPELINED: usize = 64;

/// Bytes that a connection may deliver without completing a request, beside a body that is being
/// read within its own limit.
pub const MAX_HEAD_BYTES: u64 = 64 * 1024;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waiting for a request, or receiving the head of one.
    Idle,
    /// Receiving a body.
    Reading,
    /// A handler works on its request.
    Busy,
}

#[derive(Debug)]
struct Connection<T> {
    phase: Phase,
    since: Instant,
    /// Counts changes of phase, so that a sweep can tell whether anything happened.
    changes: u64,
    /// `changes` and the bytes read, both as of the last sweep.
    swept: Option<(u64, u64)>,
    /// How many sweeps have seen it.
    sweeps: u32,
    waiting: VecDeque<T>,
    /// Nothing that this connection still delivers is to be believed.
    distrusted: bool,
}

/// What to do with a request that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival<T> {
    /// Handle it now. `new` says that nothing had been heard of this connection before.
    Handle { request: T, new: bool },
    /// It waits behind another one of the same connection.
    Waits,
    /// Too many wait, or the connection is not to be believed: drop it and close the connection.
    Refused(T),
}

/// A connection as a sweep has seen it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) peer: SocketAddr,
    /// Bytes read from it since it was opened, where the system tells.
    pub(super) bytes_read: Option<u64>,
}

/// How often each connection had changed at some moment.
pub(super) type Marks = HashMap<SocketAddr, u64>;

/// All connections that have been heard of or seen. `T` is a request.
#[derive(Debug)]
pub(super) struct Connections<T> {
    by_peer: HashMap<SocketAddr, Connection<T>>,
}

impl<T> Connections<T> {
    pub(super) fn new() -> Connections<T> {
        Connections { by_peer: HashMap::new() }
    }

    fn entry(&mut self, peer: SocketAddr, now: Instant) -> &mut Connection<T> {
        self.by_peer.entry(peer).or_insert_with(|| Connection {
            phase: Phase::Idle,
            since: now,
            changes: 0,
            swept: None,
            sweeps: 0,
            waiting: VecDeque::new(),
            distrusted: false,
        })
    }

    /// A request has arrived.
    pub(super) fn arrive(&mut self, peer: SocketAddr, request: T, now: Instant) -> Arrival<T> {
        let connection = self.entry(peer, now);
        if connection.distrusted || connection.waiting.len() >= MAX_PIPELINED {
            return Arrival::Refused(request);
        }
        if connection.phase != Phase::Idle {
            connection.waiting.push_back(request);
            return Arrival::Waits;
        }
        let new = connection.changes == 0;
        connection.enter(Phase::Busy, now);
        Arrival::Handle { request, new }
    }

    /// The request in progress is being read, or has been.
    pub(super) fn enter(&mut self, peer: SocketAddr, phase: Phase, now: Instant) {
        self.entry(peer, now).enter(phase, now);
    }

    /// The request in progress has been answered; returns the next one, which is then in progress.
    pub(super) fn answered(&mut self, peer: SocketAddr, now: Instant) -> Option<T> {
        let connection = self.entry(peer, now);
        let next = connection.waiting.pop_front();
        connection.enter(if next.is_some() { Phase::Busy } else { Phase::Idle }, now);
        next
    }

    /// Believes nothing more that comes from this connection; returns what was waiting.
    pub(super) fn distrust(&mut self, peer: SocketAddr, now: Instant) -> VecDeque<T> {
        let connection = self.entry(peer, now);
        connection.distrusted = true;
        std::mem::take(&mut connection.waiting)
    }

    /// To be taken before the connections are looked at, and given to the sweep after it: what is
    /// seen of a connection that has changed in between says nothing.
    pub(super) fn marks(&self) -> Marks {
        self.by_peer.iter().map(|(peer, connection)| (*peer, connection.changes)).collect()
    }

    /// How many connections have been open for a while, as of the last sweep, without a word: they
    /// may be waiting to be served. Each counts once.
    pub(super) fn silent(&self) -> usize {
        self.by_peer.values().filter(|c| c.changes == 0 && c.sweeps == 2).count()
    }

    /// Compares with the connections that are open now and returns those to be closed: idle or
    /// trickling for longer than `timeout`, flooding, distrusted, or more than `most`.
    pub(super) fn sweep(
        &mut self,
        marks: &Marks,
        open: &[Seen],
        now: Instant,
        timeout: Duration,
        most: usize,
    ) -> Vec<SocketAddr> {
        let mut still_open = HashMap::with_capacity(open.len());
        let mut overdue = Vec::new();
        for seen in open {
            let known = self.by_peer.remove(&seen.peer);
            let mut connection = match known {
                Some(connection) => connection,
                None => {
                    self.entry(seen.peer, now);
                    self.by_peer.remove(&seen.peer).expect("it was just made")
                }
            };
            connection.sweeps = connection.sweeps.saturating_add(1);
            let unchanged = marks.get(&seen.peer).copied().unwrap_or(0) == connection.changes;
            let bytes_read = seen.bytes_read.filter(|_| unchanged);
            if connection.is_overdue(bytes_read, now, timeout) {
                overdue.push(seen.peer);
            }
            still_open.insert(seen.peer, connection);
        }
        // Keep what a handler still works on: its descriptor may be gone before the answer.
        self.by_peer.retain(|_, connection| connection.phase != Phase::Idle);
        self.by_peer.extend(still_open);
        overdue.extend(self.longest_idle(open.len().saturating_sub(most)));
        overdue
    }

    fn longest_idle(&self, count: usize) -> Vec<SocketAddr> {
        if count == 0 {
            return Vec::new();
        }
        let idle = self.by_peer.iter().filter(|(_, connection)| connection.phase == Phase::Idle);
        let mut idle: Vec<_> = idle.map(|(peer, connection)| (connection.since, *peer)).collect();
        idle.sort();
        idle.into_iter().take(count).map(|(_, peer)| peer).collect()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.by_peer.len()
    }
}

impl<T> Connection<T> {
    fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.since = now;
        self.changes += 1;
    }

    fn is_overdue(&mut self, read: Option<u64>, now: Instant, timeout: Duration) -> bool {
        let waited = now.saturating_duration_since(self.since);
        let flooding = read.is_some_and(|bytes| self.floods(bytes));
        let slow = self.phase != Phase::Busy && waited >= timeout;
        self.distrusted || flooding || slow
    }

    /// Whether it delivered more than a head may have while nothing happened.
    fn floods(&mut self, read: u64) -> bool {
        let before = match self.swept {
            Some((changes, bytes)) if changes == self.changes => bytes,
            // Never heard of: all it ever sent was a head.
            None if self.changes == 0 => 0,
            _ => {
                self.swept = Some((self.changes, read));
                return false;
            }
        };
        self.swept = Some((self.changes, before));
        self.phase != Phase::Reading && read.saturating_sub(before) > MAX_HEAD_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn seen(port: u16, bytes: u64) -> Seen {
        Seen { peer: peer(port), bytes_read: Some(bytes) }
    }

    fn sweep<T>(
        all: &mut Connections<T>,
        open: &[Seen],
        now: Instant,
        timeout: Duration,
        most: usize,
    ) -> Vec<SocketAddr> {
        let marks = all.marks();
        all.sweep(&marks, open, now, timeout, most)
    }

    fn handle<T>(request: T, new: bool) -> Arrival<T> {
        Arrival::Handle { request, new }
    }

    #[test]
    fn requests_of_one_connection_are_taken_one_after_another() {
        let (mut all, now) = (Connections::new(), Instant::now());
        assert_eq!(all.arrive(peer(1), "a", now), handle("a", true));
        assert_eq!(all.arrive(peer(1), "b", now), Arrival::Waits);
        assert_eq!(all.arrive(peer(2), "c", now), handle("c", true));
        assert_eq!(all.answered(peer(1), now), Some("b"));
        assert_eq!(all.answered(peer(1), now), None);
        assert_eq!(all.arrive(peer(1), "d", now), handle("d", false));
    }

    #[test]
    fn a_connection_that_pipelines_too_much_or_is_distrusted_is_refused() {
        let (mut all, now) = (Connections::new(), Instant::now());
        all.arrive(peer(1), 0, now);
        for n in 0..MAX_PIPELINED {
            assert_eq!(all.arrive(peer(1), n, now), Arrival::Waits);
        }
        assert_eq!(all.arrive(peer(1), 99, now), Arrival::Refused(99));
        assert_eq!(all.distrust(peer(1), now).len(), MAX_PIPELINED);
        assert_eq!(all.arrive(peer(1), 7, now), Arrival::Refused(7));
        assert_eq!(sweep(&mut all, &[seen(1, 0)], now, TIMEOUT, 9), [peer(1)]);
    }

    #[test]
    fn idle_and_trickling_connections_are_closed_and_busy_ones_are_not() {
        let (mut all, start) = (Connections::new(), Instant::now());
        all.arrive(peer(1), "busy", start);
        all.arrive(peer(2), "reading", start);
        all.enter(peer(2), Phase::Reading, start);
        let open = [seen(1, 9), seen(2, 9), seen(3, 0)];
        assert!(sweep(&mut all, &open, start, TIMEOUT, 9).is_empty());
        let mut overdue = sweep(&mut all, &open, start + TIMEOUT, TIMEOUT, 9);
        overdue.sort();
        assert_eq!(overdue, [peer(2), peer(3)]);
    }

    #[test]
    fn an_endless_head_is_a_flood_and_a_large_body_is_not() {
        let (mut all, now) = (Connections::new(), Instant::now());
        assert_eq!(sweep(&mut all, &[seen(1, MAX_HEAD_BYTES + 1)], now, TIMEOUT, 9), [peer(1)]);
        all.arrive(peer(2), "large", now);
        all.enter(peer(2), Phase::Reading, now);
        assert!(sweep(&mut all, &[seen(2, 100)], now, TIMEOUT, 9).is_empty());
        assert!(sweep(&mut all, &[seen(2, 900_000)], now, TIMEOUT, 9).is_empty());
        all.answered(peer(2), now);
        assert!(sweep(&mut all, &[seen(2, 1_000_000)], now, TIMEOUT, 9).is_empty(), "its own body");
        assert!(sweep(&mut all, &[seen(2, 1_000_100)], now, TIMEOUT, 9).is_empty(), "a head");
        assert_eq!(sweep(&mut all, &[seen(2, 1_100_000)], now, TIMEOUT, 9), [peer(2)]);
    }

    #[test]
    fn a_connection_without_a_word_counts_once() {
        let (mut all, now) = (Connections::new(), Instant::now());
        let mut counts = Vec::new();
        all.arrive(peer(2), "heard of", now);
        for _ in 0..4 {
            sweep(&mut all, &[seen(1, 0), seen(2, 0)], now, TIMEOUT, 9);
            counts.push(all.silent());
        }
        assert_eq!(counts, [0, 1, 0, 0]);
    }

    #[test]
    fn beyond_the_limit_the_longest_idle_go_first_and_closed_ones_are_forgotten() {
        let (mut all, start) = (Connections::<()>::new(), Instant::now());
        let later = start + Duration::from_secs(1);
        sweep(&mut all, &[seen(1, 0)], start, TIMEOUT, 9);
        assert_eq!(sweep(&mut all, &[seen(1, 0), seen(2, 0)], later, TIMEOUT, 1), [peer(1)]);
        sweep(&mut all, &[], later, TIMEOUT, 1);
        assert_eq!(all.len(), 0);
    }

    #[test]
    fn what_was_seen_before_a_change_says_nothing_about_what_came_after() {
        let (mut all, now) = (Connections::new(), Instant::now());
        all.arrive(peer(1), "large", now);
        all.enter(peer(1), Phase::Reading, now);
        let marks = all.marks();
        all.answered(peer(1), now);
        // Taken in the middle of the body, compared after its end.
        assert!(all.sweep(&marks, &[seen(1, 100)], now, TIMEOUT, 9).is_empty());
        assert!(sweep(&mut all, &[seen(1, 900_000)], now, TIMEOUT, 9).is_empty());
        assert_eq!(sweep(&mut all, &[seen(1, 1_000_000)], now, TIMEOUT, 9), [peer(1)]);
    }
}
