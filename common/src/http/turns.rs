//! One request of a connection at a time, in order; which connections have been idle, trickling or
//! flooding for too long; and which clients have gone.
//!
//! tiny_http hands out pipelined requests all at once. Handled at the same time they could
//! overtake each other, and a thread could block behind its own predecessor.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Limits;

/// Requests of one connection that may wait behind the one in progress.
pub const MAX_PIPELINED: usize = 64;

/// Bytes that may be read of a connection without completing a request, beside a body within its
/// own limit.
pub const MAX_HEAD_BYTES: u64 = 64 * 1024;

/// A body or an answer has so much time in any case, and so has a client that has ended its side.
const GRACE: Duration = Duration::from_secs(1);

/// The system counts time in steps of at most this.
const JIFFY: Duration = Duration::from_millis(20);

/// Bytes that may be read for each byte of a body: chunks of one byte take six.
const MOST_PER_BODY_BYTE: u64 = 8;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waiting for its first request, or receiving the head of it.
    Silent,
    /// Waiting for a further request, or receiving the head of one.
    Idle,
    /// Receiving a body.
    Reading,
    /// A handler works on its request.
    Busy,
    /// Its answer is being sent, which its peer may read slowly.
    Answering,
    /// Its request is being refused; the connection is closed after that.
    Refusing,
}

/// The requests `T` of all connections, which their peers' addresses tell apart.
#[derive(Debug)]
pub(super) struct Turns<T> {
    lines: HashMap<SocketAddr, Line<T>>,
    heard: u64,
    /// How many are receiving a body, and how many are sending an answer.
    bodies: usize,
    answers: usize,
    /// Whose body gives way to others, at the last time that one had to.
    giving_way: Option<SocketAddr>,
}

#[derive(Debug)]
struct Line<T> {
    phase: Phase,
    /// When the phase began.
    since: Instant,
    /// Bytes read of the connection at the first look after that.
    bytes: Option<u64>,
    /// The client of the request in progress has gone.
    is_gone: bool,
    /// A request was dropped: no further one is handled before the connection has been closed.
    is_doomed: bool,
    waiting: VecDeque<T>,
}

/// What a look has seen of an open connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Bytes read of it.
    pub(super) read: Option<u64>,
    /// Its client will send no more.
    pub(super) is_ended: bool,
    /// The time since it was made, if nothing has been sent to its client.
    pub(super) unsent_for: Option<Duration>,
    /// Something was dropped of it, and nothing has arrived.
    pub(super) is_foreign: bool,
}

/// What becomes of a body or an answer that takes time.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    Begins,
    /// It begins, and this peer, whose transfer has taken longest, must be closed.
    InPlaceOf(SocketAddr),
    TooMany,
}

/// What becomes of a request that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival<T> {
    Begins(T),
    Waits,
    /// It is given back, and its connection must be closed.
    TooMany(T),
}

impl<T> Turns<T> {
    pub(super) fn new() -> Turns<T> {
        Turns { lines: HashMap::new(), heard: 0, bodies: 0, answers: 0, giving_way: None }
    }

    fn line(&mut self, peer: SocketAddr) -> &mut Line<T> {
        self.lines.entry(peer).or_insert_with(|| Line {
            phase: Phase::Silent,
            since: Instant::now(),
            bytes: Some(0),
            is_gone: false,
            is_doomed: false,
            waiting: VecDeque::new(),
        })
    }

    /// Takes a request. Those of one connection must come in their order.
    pub(super) fn arrive(&mut self, peer: SocketAddr, request: T) -> Arrival<T> {
        let line = self.line(peer);
        line.is_doomed |= line.waiting.len() >= MAX_PIPELINED;
        if line.is_doomed {
            return Arrival::TooMany(request);
        }
        let before = line.phase;
        if !before.is_between() {
            line.waiting.push_back(request);
            return Arrival::Waits;
        }
        line.enter(Phase::Busy);
        self.heard += u64::from(before == Phase::Silent);
        Arrival::Begins(request)
    }

    /// The request in progress enters this phase.
    pub(super) fn enter(&mut self, peer: SocketAddr, phase: Phase) {
        let before = mem::replace(&mut self.line(peer).phase, phase);
        self.line(peer).enter(phase);
        for (counted, count) in
            [(Phase::Reading, &mut self.bodies), (Phase::Answering, &mut self.answers)]
        {
            *count += usize::from(phase == counted);
            *count -= usize::from(before == counted);
        }
    }

    /// The request in progress has received its body; `false` if it has given way meanwhile.
    pub(super) fn received(&mut self, peer: SocketAddr) -> bool {
        let is_in_time = self.line(peer).phase == Phase::Reading;
        if is_in_time {
            self.enter(peer, Phase::Busy);
        }
        is_in_time
    }

    /// The request in progress begins to receive its body or to send its answer, as one of at most
    /// so many that do. The one that has taken longest gives way, if that is too long: otherwise
    /// clients that are slow would keep out all others.
    pub(super) fn transfer(&mut self, peer: SocketAddr, phase: Phase, most: usize) -> Transfer {
        let mut begins = Transfer::Begins;
        if self.bodies + self.answers >= most {
            match self.slowest(|_, phase| matches!(phase, Phase::Reading | Phase::Answering)) {
                Some(slow) => begins = Transfer::InPlaceOf(slow),
                None if phase == Phase::Reading && self.bodies >= most => return Transfer::TooMany,
                None => {}
            }
        }
        self.enter(peer, phase);
        begins
    }

    /// Whether a body may take more memory than all together may have, for another one gives way to
    /// it: this peer must be closed, if it is not going to be.
    pub(super) fn make_way(&mut self, asker: SocketAddr) -> (bool, Option<SocketAddr>) {
        if self.giving_way.is_some_and(|peer| self.is_giving_way(peer)) {
            // One place is made; its memory is not free yet.
            return (false, None);
        }
        let is_such = |peer: &SocketAddr, phase| *peer != asker && phase == Phase::Reading;
        self.giving_way = self.slowest(is_such);
        (self.giving_way.is_some(), self.giving_way)
    }

    /// Whether this peer's request was told to give way and is still there.
    pub(super) fn is_giving_way(&self, peer: SocketAddr) -> bool {
        self.lines.get(&peer).is_some_and(|line| line.phase == Phase::Refusing)
    }

    /// Has the one of these that has been in its phase for longest refused, if that is too long.
    fn slowest(&mut self, is_such: impl Fn(&SocketAddr, Phase) -> bool) -> Option<SocketAddr> {
        let gives_way = |peer: &SocketAddr, line: &Line<T>| {
            is_such(peer, line.phase) && line.since.elapsed() >= GRACE
        };
        let slow = self.lines.iter().filter(|(peer, line)| gives_way(peer, line));
        let (slowest, _) = slow.min_by_key(|(_, line)| line.since)?;
        let slowest = *slowest;
        self.enter(slowest, Phase::Refusing);
        Some(slowest)
    }

    /// Ends the request in progress. Returns the next one, which begins.
    pub(super) fn end(&mut self, peer: SocketAddr) -> Option<T> {
        let next = self.line(peer).waiting.pop_front();
        self.enter(peer, if next.is_some() { Phase::Busy } else { Phase::Idle });
        next
    }

    /// No request that arrives from now on is handled before the connection has been closed.
    pub(super) fn doom(&mut self, peer: SocketAddr) {
        self.line(peer).is_doomed = true;
    }

    /// The connection is being closed; the next one from there begins anew.
    pub(super) fn close(&mut self, peer: SocketAddr) {
        let line = self.line(peer);
        line.is_doomed = false;
        line.enter(line.phase);
    }

    /// Whether a request of this peer is in progress, or waits for its turn.
    pub(super) fn is_used(&self, peer: SocketAddr) -> bool {
        self.lines.get(&peer).is_some_and(|line| !line.phase.is_between())
    }

    /// Whether the client of the request in progress has gone.
    pub(super) fn is_gone(&self, peer: SocketAddr) -> bool {
        self.lines.get(&peer).is_some_and(|line| line.is_gone)
    }

    /// How many connections have sent a request.
    pub(super) fn heard(&self) -> u64 {
        self.heard
    }

    /// The connections that must be closed. `open` are those that a look has seen, which began at
    /// `begun`.
    pub(super) fn overdue(
        &mut self,
        open: &HashMap<SocketAddr, Seen>,
        begun: Instant,
        limits: &Limits,
        most_connections: usize,
    ) -> Vec<SocketAddr> {
        self.lines.retain(|peer, line| {
            let is_used = !line.phase.is_between() || line.is_doomed || line.since >= begun;
            is_used || open.contains_key(peer)
        });
        for (peer, line) in &mut self.lines {
            line.is_gone |= line.has_lost(open.get(peer), begun);
        }
        let (mut overdue, mut idle) = (Vec::new(), Vec::new());
        for (peer, seen) in open {
            let line = self.line(*peer);
            if line.is_overdue(seen.read, begun, limits) || seen.is_foreign {
                overdue.push(*peer);
            } else if line.phase.is_between() {
                idle.push((line.since, *peer));
            }
        }
        idle.sort();
        let excess = open.len().saturating_sub(overdue.len() + most_connections);
        overdue.extend(idle.into_iter().take(excess).map(|(_, peer)| peer));
        overdue
    }
}

impl<T> Line<T> {
    fn enter(&mut self, phase: Phase) {
        (self.phase, self.since, self.bytes) = (phase, Instant::now(), None);
        self.is_gone = false;
    }

    /// Whether the client of the request in progress had gone at the time of a look, which found
    /// this connection with its address. One that is younger than the request is another one.
    fn has_lost(&self, found: Option<&Seen>, begun: Instant) -> bool {
        let busy_for = begun.saturating_duration_since(self.since);
        self.phase == Phase::Busy
            && self.since < begun
            && found.is_none_or(|seen| {
                (seen.is_ended && busy_for >= GRACE)
                    || seen.unsent_for.is_some_and(|silence| silence + JIFFY < busy_for)
            })
    }

    fn is_overdue(&mut self, read: Option<u64>, begun: Instant, limits: &Limits) -> bool {
        if self.since < begun {
            self.bytes = self.bytes.or(read);
        }
        let most_in_body = match self.phase {
            Phase::Reading => (limits.max_body_bytes as u64).saturating_mul(MOST_PER_BODY_BYTE),
            _ => 0,
        };
        let most = most_in_body.saturating_add(MAX_HEAD_BYTES);
        let floods = read.zip(self.bytes).is_some_and(|(read, before)| read > before + most);
        match self.phase {
            Phase::Refusing => false,
            Phase::Busy | Phase::Answering => floods,
            _ => floods || begun.saturating_duration_since(self.since) >= limits.timeout,
        }
    }
}

impl Phase {
    /// Whether no request is in progress.
    fn is_between(self) -> bool {
        matches!(self, Phase::Silent | Phase::Idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);
    const LIMITS: Limits = Limits { max_in_flight: 1, max_body_bytes: 1000, timeout: TIMEOUT };

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// The ports that are overdue, of open ones with the bytes read of them.
    fn look<T>(turns: &mut Turns<T>, open: &[(u16, u64)], begun: Instant, most: usize) -> Vec<u16> {
        let seen = |bytes: &u64| Seen { read: Some(*bytes), ..Seen::default() };
        let open = open.iter().map(|(port, bytes)| (peer(*port), seen(bytes))).collect();
        let overdue = turns.overdue(&open, begun, &LIMITS, most);
        let mut ports: Vec<u16> = overdue.iter().map(SocketAddr::port).collect();
        ports.sort();
        ports
    }

    #[test]
    fn requests_of_one_connection_begin_one_after_another() {
        let mut turns = Turns::new();
        assert_eq!(turns.arrive(peer(1), "a"), Arrival::Begins("a"));
        assert_eq!(turns.arrive(peer(1), "b"), Arrival::Waits);
        assert_eq!(turns.arrive(peer(2), "c"), Arrival::Begins("c"));
        assert_eq!(turns.end(peer(1)), Some("b"));
        assert_eq!(turns.end(peer(1)), None);
        assert_eq!(turns.arrive(peer(1), "d"), Arrival::Begins("d"));
        assert_eq!(turns.heard(), 2);
    }

    #[test]
    fn the_slowest_transfer_gives_way_to_a_new_one() {
        let mut turns = Turns::new();
        let begin = |turns: &mut Turns<()>, port, phase| turns.transfer(peer(port), phase, 2);
        (1..=4).for_each(|port| _ = turns.arrive(peer(port), ()));
        assert_eq!(begin(&mut turns, 1, Phase::Reading), Transfer::Begins);
        assert_eq!(begin(&mut turns, 2, Phase::Reading), Transfer::Begins);
        assert_eq!(begin(&mut turns, 3, Phase::Reading), Transfer::TooMany, "all are quick");
        turns.line(peer(1)).since -= GRACE;
        assert_eq!(begin(&mut turns, 3, Phase::Answering), Transfer::InPlaceOf(peer(1)));
        assert!(!turns.received(peer(1)), "it was refused");
        assert_eq!(begin(&mut turns, 4, Phase::Reading), Transfer::Begins, "of bodies it is one");
        assert_eq!(begin(&mut turns, 1, Phase::Answering), Transfer::Begins, "an answer always");
        turns.line(peer(1)).since -= GRACE;
        assert_eq!(turns.make_way(peer(4)), (false, None), "only a body has memory to give");
        turns.line(peer(2)).since -= GRACE;
        assert_eq!(turns.make_way(peer(2)), (false, None), "not to itself");
        assert_eq!(turns.make_way(peer(4)), (true, Some(peer(2))));
        assert_eq!(turns.make_way(peer(4)), (false, None), "one at a time");
        assert!(turns.received(peer(4)));
        (1..=4).for_each(|port| _ = turns.end(peer(port)));
        assert_eq!((turns.bodies, turns.answers), (0, 0));
    }

    #[test]
    fn a_client_that_has_gone_is_noticed() {
        let (before, late) = (Instant::now(), Instant::now() + 2 * GRACE);
        let here = Seen { unsent_for: Some(3 * GRACE), ..Seen::default() };
        let gone = |seen: Option<Seen>, phase, begun| {
            let mut turns = Turns::new();
            turns.arrive(peer(1), ());
            turns.enter(peer(1), phase);
            let open = seen.map(|seen| (peer(1), seen)).into_iter().collect();
            turns.overdue(&open, begun, &LIMITS, 9);
            turns.is_gone(peer(1))
        };
        assert!(!gone(Some(here), Phase::Busy, late));
        assert!(gone(None, Phase::Busy, late));
        assert!(!gone(None, Phase::Busy, before), "it came after the look had begun");
        let ended = Seen { is_ended: true, ..here };
        assert!(gone(Some(ended), Phase::Busy, late));
        assert!(!gone(Some(ended), Phase::Busy, Instant::now() + GRACE / 2), "it may still read");
        // A new connection from the same port.
        let other = Seen { unsent_for: Some(GRACE), ..Seen::default() };
        assert!(gone(Some(other), Phase::Busy, late));
        assert!(!gone(Some(other), Phase::Answering, late), "something is being sent to it");
    }

    #[test]
    fn after_a_request_too_many_none_begins() {
        let mut turns = Turns::new();
        assert_eq!(turns.arrive(peer(1), 0), Arrival::Begins(0));
        (1..=MAX_PIPELINED).for_each(|n| assert_eq!(turns.arrive(peer(1), n), Arrival::Waits));
        assert_eq!(turns.arrive(peer(1), 99), Arrival::TooMany(99));
        // There is room again, but not for one that comes after the one that was dropped.
        assert!(turns.end(peer(1)).is_some());
        assert_eq!(turns.arrive(peer(1), 100), Arrival::TooMany(100));
        turns.close(peer(1));
        assert_eq!(turns.arrive(peer(1), 101), Arrival::Waits);
    }

    #[test]
    fn only_idle_and_trickling_connections_are_late() {
        let mut turns = Turns::new();
        let open = [(1, 0), (2, 0), (3, 0), (4, 0)];
        (2..=4).for_each(|port| _ = turns.arrive(peer(port), ()));
        turns.enter(peer(2), Phase::Reading);
        turns.enter(peer(4), Phase::Refusing);
        assert_eq!(look(&mut turns, &open, Instant::now(), 9), [0; 0]);
        let late = Instant::now() + TIMEOUT;
        assert_eq!(look(&mut turns, &open, late, 9), [1, 2]);
        turns.lines.get_mut(&peer(2)).unwrap().since = late;
        assert_eq!(look(&mut turns, &open[1..], late, 9), [0; 0], "it has gone on");
        turns.end(peer(3));
        look(&mut turns, &[], late, 9);
        assert_eq!(turns.lines.len(), 2, "idle ones that are gone are forgotten");
    }

    #[test]
    fn endless_heads_and_chunk_sizes_are_floods() {
        let mut turns = Turns::new();
        turns.arrive(peer(2), ());
        let (before, now) = (Instant::now() - TIMEOUT / 2, Instant::now() + TIMEOUT / 2);
        assert_eq!(look(&mut turns, &[(1, MAX_HEAD_BYTES + 1)], before, 9), [1]);
        let mut read = |bytes, begun, phase: Option<Phase>| {
            phase.into_iter().for_each(|phase| turns.enter(peer(2), phase));
            !look(&mut turns, &[(2, bytes)], begun, 9).is_empty()
        };
        // What was read before the phase began says nothing about it.
        assert!(!read(1 << 40, before, Some(Phase::Reading)));
        assert!(!read(100, now, None));
        assert!(!read(100 + 8000 + MAX_HEAD_BYTES, now, None));
        assert!(read(101 + 8000 + MAX_HEAD_BYTES, now, None));
        assert!(!read(500_000, before, Some(Phase::Idle)));
        assert!(!read(1_000_000, now, None));
        assert!(!read(1_000_000 + MAX_HEAD_BYTES, now, None));
        assert!(read(1_000_001 + MAX_HEAD_BYTES, now, None));
        assert!(!read(1 << 40, now, Some(Phase::Refusing)), "it is being told");
    }

    #[test]
    fn beyond_the_limit_the_longest_idle_are_overdue() {
        let (mut turns, now) = (Turns::new(), Instant::now());
        assert_eq!(look(&mut turns, &[(1, 0), (2, 0)], now, 2), [0; 0]);
        turns.arrive(peer(1), ());
        assert_eq!(look(&mut turns, &[(3, 0), (2, 0), (1, 0)], now, 2), [2]);
    }
}
