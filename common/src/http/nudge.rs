//! Keeps tiny_http accepting, and its connections served.
//!
//! Its pool hands a new connection to a queue whenever some thread looked idle a moment ago. In a
//! burst more connections are queued than threads are idle, and with keep-alive clients no thread
//! comes back for the rest: they wait for ever. A connection made from here and closed at once
//! finds no idle thread, so the pool makes one; it ends our connection and takes the first of the
//! queue. So each connection that is heard of for the first time is worth a nudge to the next one,
//! and a slow pulse finds those which nobody precedes.
//!
//! The pulse has a second use. tiny_http stops accepting for good after one failure; a nudge that
//! nobody answers within [`ACCEPT_TIMEOUT`] says so, and [`Pulse::Lost`] asks for a new start.

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
/// A nudge unanswered for this long means that nobody accepts any more.
pub(super) const ACCEPT_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);

/// What the nudger tells its server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pulse {
    /// Accepting goes on, as far as can be told.
    Beats,
    /// Nobody accepts any more.
    Lost,
}

/// Makes connections to the server's own address.
#[derive(Debug)]
pub(super) struct Nudger {
    address: SocketAddr,
    unanswered: Vec<(TcpStream, Instant)>,
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
        Nudger { address, unanswered: Vec::new(), busy_until: None }
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
        self.unanswered.retain_mut(|(stream, _)| !is_answered(stream));
        if let Ok(stream) = self.knock() {
            self.unanswered.push((stream, Instant::now()));
        }
        let lost = self.unanswered.first().is_some_and(|(_, at)| at.elapsed() > ACCEPT_TIMEOUT);
        if lost { Pulse::Lost } else { Pulse::Beats }
    }

    /// Forgets the nudges that were sent to a server which has been replaced.
    pub(super) fn start_over(&mut self) {
        self.unanswered.clear();
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
        while !is_answered(&mut nudger.unanswered[0].0) {
            assert!(Instant::now() < deadline, "the closed connection was never noticed");
            std::thread::yield_now();
        }
        nudger.unanswered[0].1 = Instant::now() - 2 * ACCEPT_TIMEOUT;
        assert_eq!(nudger.nudge(), Pulse::Beats, "an answered nudge does not count");
        nudger.unanswered[0].1 = Instant::now() - 2 * ACCEPT_TIMEOUT;
        assert_eq!(nudger.nudge(), Pulse::Lost);
    }
}
