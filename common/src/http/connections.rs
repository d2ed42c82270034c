//! What each connection is doing, and which of them have gone on for too long.
//!
//! Pure bookkeeping: no socket, no clock. Two facts make it necessary. tiny_http hands out
//! pipelined requests all at once, so a handler thread could block behind its own predecessor;
//! here the requests of one connection are taken one after another, in order. And tiny_http has
//! no timeouts; here each connection remembers since when it has been doing what it does.
//!
//! A connection goes by its peer's address. One that is distrusted is remembered for as long as
//! its socket is held: until then a request that it sent may still turn up.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Requests of one connection that may wait behind the one in progress.
pub const MAX_PIPELINED: usize = 64;

/// Bytes that may be read of a connection without completing a request, beside a body within its
/// own limit.
pub const MAX_HEAD_BYTES: u64 = 64 * 1024;

/// Bytes that may be read for each byte of a body: chunks of one byte take six.
const MOST_PER_BODY_BYTE: u64 = 8;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waiting for a request, or receiving the head of one.
    Idle,
    /// Receiving a body.
    Reading,
    /// A handler works on its request.
    Busy,
    /// It is told why it will be closed, and is closed then.
    Refusing,
}

#[derive(Debug)]
struct Connection<T> {
    phase: Phase,
    since: Instant,
    /// Counts changes of phase, so that a sweep can tell whether anything happened.
    changes: u64,
    /// `changes` and the bytes read, both as of the first sweep since the last change.
    swept: Option<(u64, u64)>,
    waiting: VecDeque<T>,
    /// Nothing that this connection still delivers is to be believed.
    distrusted: bool,
}

/// What to do with a request that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival<T> {
    /// Handle it now. `new` says that nothing had been known of this connection before.
    Handle { request: T, new: bool },
    /// It waits behind another one of the same connection.
    Waits,
    /// The connection is not to be believed, or not any more because too many wait.
    Refused(T),
}

/// A connection as a sweep has seen it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) peer: SocketAddr,
    /// Bytes read of it since it was opened, where the system tells.
    pub(super) bytes_read: Option<u64>,
}

/// What connections are allowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed {
    /// To be idle, to deliver a head, to deliver a body.
    pub(super) timeout: Duration,
    pub(super) body_bytes: u64,
    /// Connections.
    pub(super) most: usize,
}

/// What a sweep has found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Swept<T> {
    /// Connections to be closed: idle or trickling for too long, flooding, distrusted, or too
    /// many.
    pub(super) overdue: Vec<SocketAddr>,
    /// How many were seen of which nothing had been known before.
    pub(super) new: usize,
    /// Requests that waited for connections which are gone.
    pub(super) left_over: Vec<T>,
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
            waiting: VecDeque::new(),
            distrusted: false,
        })
    }

    /// A request has arrived. Must be called in the order in which tiny_http hands them out.
    pub(super) fn arrive(&mut self, peer: SocketAddr, request: T, now: Instant) -> Arrival<T> {
        let new = !self.by_peer.contains_key(&peer);
        let connection = self.entry(peer, now);
        connection.distrusted |= connection.waiting.len() >= MAX_PIPELINED;
        if connection.distrusted {
            return Arrival::Refused(request);
        }
        if connection.phase != Phase::Idle {
            connection.waiting.push_back(request);
            return Arrival::Waits;
        }
        connection.enter(Phase::Busy, now);
        Arrival::Handle { request, new }
    }

    /// Keeps a refused request until its connection has been closed.
    pub(super) fn keep(&mut self, peer: SocketAddr, request: T, now: Instant) {
        self.entry(peer, now).waiting.push_back(request);
    }

    /// The request in progress is being read, or has been.
    pub(super) fn enter(&mut self, peer: SocketAddr, phase: Phase, now: Instant) {
        self.entry(peer, now).enter(phase, now);
    }

    /// The request in progress has been answered; returns the next one, which is then in progress.
    pub(super) fn answered(&mut self, peer: SocketAddr, now: Instant) -> Option<T> {
        let connection = self.entry(peer, now);
        // What a distrusted connection left behind waits to be thrown away.
        let next = if connection.distrusted { None } else { connection.waiting.pop_front() };
        connection.enter(if next.is_some() { Phase::Busy } else { Phase::Idle }, now);
        next
    }

    /// Believes nothing more that comes from this connection; returns what was waiting.
    pub(super) fn distrust(&mut self, peer: SocketAddr, now: Instant) -> VecDeque<T> {
        let connection = self.entry(peer, now);
        connection.distrusted = true;
        std::mem::take(&mut connection.waiting)
    }

    /// To be taken before the connections are looked at, and given to the sweep after it: what was
    /// read of a connection that has changed in between says nothing.
    pub(super) fn marks(&self) -> Marks {
        self.by_peer.iter().map(|(peer, connection)| (*peer, connection.changes)).collect()
    }

    /// Compares with the connections that are open now, and with those that were closed and whose
    /// sockets are still held.
    pub(super) fn sweep(
        &mut self,
        marks: &Marks,
        open: &[Seen],
        held: &HashSet<SocketAddr>,
        now: Instant,
        allowed: Allowed,
    ) -> Swept<T> {
        let known = self.by_peer.len();
        let mut overdue = Vec::new();
        for seen in open {
            let connection = self.entry(seen.peer, now);
            let mark = marks.get(&seen.peer).copied().unwrap_or(0);
            let read = seen.bytes_read.filter(|_| mark == connection.changes);
            if connection.is_overdue(read, now, allowed) {
                overdue.push(seen.peer);
            }
        }
        let new = self.by_peer.len() - known;
        overdue.extend(self.longest_idle(open.len().saturating_sub(allowed.most)));
        let open: HashSet<SocketAddr> = open.iter().map(|seen| seen.peer).collect();
        // Keep what a handler still works on: its descriptor may be gone before the answer.
        let is_gone = |peer: &SocketAddr, connection: &Connection<T>| {
            connection.phase == Phase::Idle && !open.contains(peer) && !held.contains(peer)
        };
        let gone = self.by_peer.extract_if(|peer, connection| is_gone(peer, connection));
        let left_over = gone.flat_map(|(_, connection)| connection.waiting).collect();
        Swept { overdue, new, left_over }
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
}

impl<T> Connection<T> {
    fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.since = now;
        self.changes += 1;
    }

    fn is_overdue(&mut self, read: Option<u64>, now: Instant, allowed: Allowed) -> bool {
        let flooding = read.is_some_and(|bytes| self.floods(bytes, allowed.body_bytes));
        let waited = now.saturating_duration_since(self.since);
        match self.phase {
            Phase::Refusing => false,
            Phase::Busy => self.distrusted || flooding,
            Phase::Idle | Phase::Reading => {
                self.distrusted || flooding || waited >= allowed.timeout
            }
        }
    }

    /// Whether more was read of it than it may send while nothing happened.
    fn floods(&mut self, read: u64, most_in_body: u64) -> bool {
        let before = match self.swept {
            Some((changes, bytes)) if changes == self.changes => bytes,
            // Never heard of: all it ever sent was a head.
            None if self.changes == 0 => 0,
            _ => read,
        };
        self.swept = Some((self.changes, before));
        let most_in_body = match self.phase {
            Phase::Reading => most_in_body.saturating_mul(MOST_PER_BODY_BYTE),
            _ => 0,
        };
        read.saturating_sub(before) > most_in_body.saturating_add(MAX_HEAD_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);
    const ALLOWED: Allowed = Allowed { timeout: TIMEOUT, body_bytes: 1000, most: 9 };

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn seen(port: u16, bytes: u64) -> Seen {
        Seen { peer: peer(port), bytes_read: Some(bytes) }
    }

    fn handle<T>(request: T, new: bool) -> Arrival<T> {
        Arrival::Handle { request, new }
    }

    /// The ports of the connections that are overdue.
    fn sweep<T>(all: &mut Connections<T>, open: &[Seen], now: Instant) -> Vec<u16> {
        let swept = all.sweep(&all.marks(), open, &HashSet::new(), now, ALLOWED);
        let mut ports: Vec<u16> = swept.overdue.iter().map(SocketAddr::port).collect();
        ports.sort();
        ports
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
        assert_eq!(all.answered(peer(1), now), None, "none of them is handled any more");
        assert_eq!(sweep(&mut all, &[seen(1, 0)], now), [1]);
        assert_eq!(all.distrust(peer(1), now).len(), MAX_PIPELINED);
        assert_eq!(all.arrive(peer(1), 7, now), Arrival::Refused(7));
    }

    #[test]
    fn a_distrusted_connection_is_remembered_while_its_socket_is_held() {
        let (mut all, now) = (Connections::new(), Instant::now());
        all.distrust(peer(1), now);
        let held = HashSet::from([peer(1)]);
        all.sweep(&all.marks(), &[], &held, now, ALLOWED);
        assert_eq!(all.arrive(peer(1), "smuggled", now), Arrival::Refused("smuggled"));
        all.keep(peer(1), "smuggled", now);
        let swept = all.sweep(&all.marks(), &[], &HashSet::new(), now, ALLOWED);
        assert_eq!(swept.left_over, ["smuggled"]);
        assert_eq!(all.arrive(peer(1), "of another one", now), handle("of another one", true));
    }

    #[test]
    fn idle_and_trickling_connections_are_closed_and_busy_ones_are_not() {
        let (mut all, start) = (Connections::new(), Instant::now());
        all.arrive(peer(1), "busy", start);
        all.arrive(peer(2), "reading", start);
        all.enter(peer(2), Phase::Reading, start);
        all.distrust(peer(4), start);
        all.enter(peer(4), Phase::Refusing, start);
        let open = [seen(1, 9), seen(2, 9), seen(3, 0), seen(4, 9_000_000)];
        assert_eq!(sweep(&mut all, &open, start), [0; 0]);
        assert_eq!(sweep(&mut all, &open, start + TIMEOUT), [2, 3]);
        all.enter(peer(4), Phase::Idle, start);
        assert_eq!(sweep(&mut all, &open, start), [4], "it has been told");
    }

    #[test]
    fn an_endless_head_or_chunk_size_is_a_flood_and_a_large_body_is_not() {
        let (mut all, now) = (Connections::new(), Instant::now());
        assert_eq!(sweep(&mut all, &[seen(1, MAX_HEAD_BYTES + 1)], now), [1]);
        all.arrive(peer(2), "large", now);
        all.enter(peer(2), Phase::Reading, now);
        let read = |all: &mut Connections<_>, bytes| sweep(all, &[seen(2, bytes)], now);
        assert_eq!(read(&mut all, 100), [0; 0]);
        assert_eq!(read(&mut all, 100 + 8 * 1000 + MAX_HEAD_BYTES), [0; 0]);
        assert_eq!(read(&mut all, 101 + 8 * 1000 + MAX_HEAD_BYTES), [2], "no body needs as much");
        all.answered(peer(2), now);
        assert_eq!(read(&mut all, 1_000_000), [0; 0], "its own body");
        assert_eq!(read(&mut all, 1_000_000 + MAX_HEAD_BYTES), [0; 0], "a head");
        assert_eq!(read(&mut all, 1_000_001 + MAX_HEAD_BYTES), [2]);
    }

    #[test]
    fn beyond_the_limit_the_longest_idle_go_first_and_closed_ones_are_forgotten() {
        let (mut all, start) = (Connections::<()>::new(), Instant::now());
        let later = start + Duration::from_secs(1);
        assert_eq!(all.sweep(&all.marks(), &[seen(1, 0)], &HashSet::new(), start, ALLOWED).new, 1);
        let one = Allowed { most: 1, ..ALLOWED };
        let swept = all.sweep(&all.marks(), &[seen(1, 0), seen(2, 0)], &HashSet::new(), later, one);
        assert_eq!((swept.overdue, swept.new), (vec![peer(1)], 1));
        sweep(&mut all, &[], later);
        assert_eq!(all.by_peer.len(), 0);
    }

    #[test]
    fn what_was_read_before_a_change_says_nothing_about_what_came_after() {
        let (mut all, now) = (Connections::new(), Instant::now());
        all.arrive(peer(1), "large", now);
        all.enter(peer(1), Phase::Reading, now);
        let marks = all.marks();
        all.answered(peer(1), now);
        // Seen in the middle of the body, compared after its end.
        let early = all.sweep(&marks, &[seen(1, 100)], &HashSet::new(), now, ALLOWED);
        assert!(early.overdue.is_empty());
        assert_eq!(sweep(&mut all, &[seen(1, 900_000)], now), [0; 0]);
        assert_eq!(sweep(&mut all, &[seen(1, 1_000_000)], now), [1]);
    }
}
