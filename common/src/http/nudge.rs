//! Keeps tiny_http accepting, and its connections served.
//!
//! Its pool hands a new connection to a queue whenever some thread looked idle a moment ago. In a
//! burst more connections are queued than threads are idle, and with keep-alive clients no thread
//! comes back for the rest: they wait for ever. A connection made from here and closed at once
//! finds no idle thread, so the pool makes one; it ends our connection and takes the first of the
//! queue. So each connection that is heard of for the first time is worth a nudge to the next one,
//! and so is each that has been open for a while without a word; a slow pulse finds the rest.
//!
//! The pulse has a second use. tiny_http stops accepting for good after one failure; a nudge that
//! nobody answers within [`ACCEPT_TIMEOUT`] says so, and [`Pulse::Lost`] asks for a new start.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};

/// Between nudges while connections are arriving.
const BUSY_INTERVAL: Duration = Duration::from_millis(5);
/// Between nudges otherwise: the longest that a lone connection can be left waiting.
const IDLE_INTERVAL: Duration = Duration::from_millis(100);
/// How long after the last new connection the short interval applies.
const BUSY_FOR: Duration = Duration::from_secs(1);
/// When for this long none of several nudges is answered, nobody accepts any more.
pub(super) const ACCEPT_TIMEOUT: Duration = Duration::from_secs(1);
/// How many: a process that was frozen, and time with it, should not jump to conclusions.
const SEVERAL: usize = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);

/// What the nudger tells its server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pulse {
    /// Accepting goes on, as far as can be told.
    Beats,
    /// Nobody accepts any more.
    Lost,
}

/// Nudges that may be unanswered at the same time; the oldest give way to new ones, so that a
/// server which accepts nothing does not use up the descriptors.
const MAX_UNANSWERED: usize = 8;

/// Makes connections to the server's own address.
#[derive(Debug)]
pub(super) struct Nudger {
    address: SocketAddr,
    unanswered: VecDeque<TcpStream>,
    /// Since when nudges have been made and none has been answered, and how many.
    unanswered_since: Option<Instant>,
    missed: usize,
    busy_until: Option<Instant>,
}

impl Nudger {
    pub(super) fn new(bound: SocketAddr) -> Nudger {
        let ip = match bound.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let address = SocketAddr::new(ip, bound.port());
        let unanswered = VecDeque::new();
        Nudger { address, unanswered, unanswered_since: None, missed: 0, busy_until: None }
    }

    /// Waits until a nudge is due; `None` when there is nobody left to nudge for.
    pub(super) fn wait(&mut self, new_connections: &Receiver<()>) -> Option<()> {
        let busy = self.busy_until.is_some_and(|until| Instant::now() < until);
        let interval = if busy { BUSY_INTERVAL } else { IDLE_INTERVAL };
        match new_connections.recv_timeout(interval) {
            Ok(()) => self.busy_until = Some(Instant::now() + BUSY_FOR),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
        Some(())
    }

    /// Makes one connection, lets go of those that were answered, and tells how it stands.
    pub(super) fn nudge(&mut self) -> Pulse {
        let before = self.unanswered.len();
        self.unanswered.retain_mut(|stream| !is_answered(stream));
        if self.unanswered.len() < before {
            (self.unanswered_since, self.missed) = (None, 0);
        }
        if let Ok(stream) = self.knock() {
            self.unanswered.truncate(MAX_UNANSWERED - 1);
            self.unanswered.push_front(stream);
            self.unanswered_since.get_or_insert_with(Instant::now);
            self.missed += 1;
        }
        let silent = self.unanswered_since.is_some_and(|since| since.elapsed() > ACCEPT_TIMEOUT);
        let lost = silent && self.missed > SEVERAL;
        if lost { Pulse::Lost } else { Pulse::Beats }
    }

    /// Forgets the nudges that were sent to a server which has been replaced.
    pub(super) fn start_over(&mut self) {
        self.unanswered.clear();
        (self.unanswered_since, self.missed) = (None, 0);
    }

    fn knock(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT)?;
        // Closing resets, so that no port is left waiting out the protocol's minute.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        stream.set_nonblocking(true)?;
        stream.shutdown(Shutdown::Write)?;
        Ok(stream)
    }
}

/// Whether the server has ended this connection: somebody accepted it.
fn is_answered(stream: &mut TcpStream) -> bool {
    !matches!(stream.read(&mut [0; 64]), Err(e) if e.kind() == ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_nudge_that_is_accepted_and_closed_is_answered_and_one_that_is_not_is_missed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut nudger = Nudger::new(listener.local_addr().unwrap());
        assert_eq!(nudger.nudge(), Pulse::Beats);
        drop(listener.accept().unwrap());
        let deadline = Instant::now() + Duration::from_secs(5);
        while !is_answered(&mut nudger.unanswered[0]) {
            assert!(Instant::now() < deadline, "the closed connection was never noticed");
            std::thread::yield_now();
        }
        nudger.unanswered_since = Some(Instant::now() - 2 * ACCEPT_TIMEOUT);
        assert_eq!(nudger.nudge(), Pulse::Beats, "an answered nudge does not count");
        nudger.unanswered_since = Some(Instant::now() - 2 * ACCEPT_TIMEOUT);
        assert_eq!(nudger.nudge(), Pulse::Beats, "two are not several");
        (0..SEVERAL).for_each(|_| _ = nudger.nudge());
        assert_eq!(nudger.nudge(), Pulse::Lost);
    }

    #[test]
    fn unanswered_nudges_do_not_pile_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut nudger = Nudger::new(listener.local_addr().unwrap());
        (0..3 * MAX_UNANSWERED).for_each(|_| _ = nudger.nudge());
        assert_eq!(nudger.unanswered.len(), MAX_UNANSWERED);
    }
}
