//! Which connections have been idle, trickling or flooding for too long.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use super::Limits;
use super::turns::Phase;

/// Bytes that may be read of a connection without completing a request, beside a body within its
/// own limit.
pub const MAX_HEAD_BYTES: u64 = 64 * 1024;

/// Bytes that may be read for each byte of a body: chunks of one byte take six.
const MOST_PER_BODY_BYTE: u64 = 8;

/// What is remembered of each connection from look to look.
#[derive(Debug, Default)]
pub(super) struct Marks(HashMap<SocketAddr, Mark>);

#[derive(Debug, Clone, Copy)]
struct Mark {
    /// The first look after the last change of its phase.
    since: Instant,
    /// Bytes read of it by a later look, before anything changed again.
    bytes: Option<u64>,
}

impl Marks {
    /// The connections that must be closed. `read` are the bytes read of each open one. `phases`
    /// tells what each is doing and whether that has changed since the last call; it must be taken
    /// after `read`, for what was read before a change says nothing about the time after it.
    pub(super) fn overdue(
        &mut self,
        read: &[(SocketAddr, Option<u64>)],
        phases: &HashMap<SocketAddr, (Phase, bool)>,
        now: Instant,
        limits: &Limits,
        most_connections: usize,
    ) -> Vec<SocketAddr> {
        // Also those that were opened after `read` was taken.
        let changed = phases.iter().filter(|(_, (_, changed))| *changed);
        let mut next: HashMap<_, _> =
            changed.map(|(peer, _)| (*peer, Mark { since: now, bytes: None })).collect();
        let (mut overdue, mut idle) = (Vec::new(), Vec::new());
        for (peer, bytes) in read {
            let (phase, _) = *phases.get(peer).unwrap_or(&(Phase::Idle, false));
            let mark = next.entry(*peer).or_insert(match self.0.get(peer) {
                // Never heard of: all it ever sent was a head.
                None => Mark { since: now, bytes: Some(0) },
                Some(mark) => Mark { bytes: mark.bytes.or(*bytes), ..*mark },
            });
            if mark.is_overdue(phase, *bytes, now, limits) {
                overdue.push(*peer);
            } else if phase == Phase::Idle {
                idle.push((mark.since, *peer));
            }
        }
        self.0 = next;
        idle.sort();
        let excess = read.len().saturating_sub(overdue.len() + most_connections);
        overdue.extend(idle.into_iter().take(excess).map(|(_, peer)| peer));
        overdue
    }
}

impl Mark {
    fn is_overdue(&self, phase: Phase, read: Option<u64>, now: Instant, limits: &Limits) -> bool {
        let most_in_body = match phase {
            Phase::Reading => (limits.max_body_bytes as u64).saturating_mul(MOST_PER_BODY_BYTE),
            _ => 0,
        };
        let most = most_in_body.saturating_add(MAX_HEAD_BYTES);
        let floods = read.zip(self.bytes).is_some_and(|(read, before)| read > before + most);
        let is_late = now - self.since >= limits.timeout;
        match phase {
            Phase::Refusing => false,
            Phase::Busy => floods,
            Phase::Idle | Phase::Reading => floods || is_late,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);
    const LIMITS: Limits =
        Limits { max_in_flight: 1, max_body_bytes: 1000, timeout: TIMEOUT, always: &[] };

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// The ports that are overdue, of open ones with the bytes read and of phases.
    fn look(
        marks: &mut Marks,
        open: &[(u16, u64)],
        phases: &[(u16, Phase, bool)],
        now: Instant,
        most: usize,
    ) -> Vec<u16> {
        let read: Vec<_> = open.iter().map(|(port, bytes)| (peer(*port), Some(*bytes))).collect();
        let phases = phases.iter().map(|(port, phase, changed)| (peer(*port), (*phase, *changed)));
        let overdue = marks.overdue(&read, &phases.collect(), now, &LIMITS, most);
        overdue.iter().map(SocketAddr::port).collect()
    }

    #[test]
    fn only_idle_and_trickling_connections_are_late() {
        let (mut marks, start) = (Marks::default(), Instant::now());
        let open = [(1, 0), (2, 0), (3, 0), (4, 0)];
        let mut phases =
            [(2, Phase::Reading, true), (3, Phase::Busy, true), (4, Phase::Refusing, true)];
        assert_eq!(look(&mut marks, &open, &phases, start, 9), [0; 0]);
        phases.iter_mut().for_each(|(_, _, changed)| *changed = false);
        let late = start + TIMEOUT;
        assert_eq!(look(&mut marks, &open, &phases, late, 9), [1, 2]);
        phases[0].2 = true;
        assert_eq!(look(&mut marks, &open[1..], &phases, late, 9), [0; 0], "it has gone on");
    }

    #[test]
    fn endless_heads_and_chunk_sizes_are_floods() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        assert_eq!(look(&mut marks, &[(1, MAX_HEAD_BYTES + 1)], &[], now, 9), [1]);
        let mut read = |bytes, phase, changed| {
            !look(&mut marks, &[(2, bytes)], &[(2, phase, changed)], now, 9).is_empty()
        };
        assert!(!read(1 << 40, Phase::Reading, true));
        assert!(!read(100, Phase::Reading, false));
        assert!(!read(100 + 8000 + MAX_HEAD_BYTES, Phase::Reading, false));
        assert!(read(101 + 8000 + MAX_HEAD_BYTES, Phase::Reading, false));
        // Seen in the middle of a body, then at its end: nothing is known of the time after it.
        assert!(!read(500_000, Phase::Idle, true));
        assert!(!read(1_000_000, Phase::Idle, false));
        assert!(!read(1_000_000 + MAX_HEAD_BYTES, Phase::Idle, false));
        assert!(read(1_000_001 + MAX_HEAD_BYTES, Phase::Idle, false));
        assert!(!read(1 << 40, Phase::Refusing, false), "it is being told");
    }

    #[test]
    fn beyond_the_limit_the_longest_idle_are_overdue() {
        let (mut marks, start) = (Marks::default(), Instant::now());
        let later = start + Duration::from_secs(1);
        assert_eq!(look(&mut marks, &[(1, 0), (2, 0)], &[], start, 2), [0; 0]);
        let phases = [(1, Phase::Busy, true)];
        assert_eq!(look(&mut marks, &[(3, 0), (2, 0), (1, 0)], &phases, later, 2), [2]);
    }
}
