//! Keeps tiny_http accepting, and its connections served.
//!
//! Its pool hands a new connection to a queue whenever some thread looked idle a moment ago. In a
//! burst more connections are queued than threads are idle, and with keep-alive clients no thread
//! comes back for the rest: they wait for ever. A connection made from here and closed at once
//! finds no idle thread, so the pool makes one; it ends our connection and takes the first of the
//! queue. So each connection that is heard of or seen for the first time is worth a nudge, and a
//! slow pulse finds those which nobody precedes.

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
/// Nudges on their way: where so many have not been answered, more would only be in the way.
const MAX_UNANSWERED: usize = 32;
/// A nudge that was not answered for this long is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);

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

    /// Makes one connection, and lets go of those that were answered.
    pub(super) fn nudge(&mut self) {
        self.unanswered
            .retain_mut(|(stream, at)| at.elapsed() < ANSWER_TIMEOUT && !is_answered(stream));
        if self.unanswered.len() < MAX_UNANSWERED {
            // It fails when nobody accepts; then there is nobody to nudge.
            let answerable = self.knock().map(|stream| (stream, Instant::now()));
            self.unanswered.extend(answerable);
        }
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
    fn a_nudge_is_let_go_of_when_it_was_answered_and_when_it_never_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut nudger = Nudger::new(listener.local_addr().unwrap());
        nudger.nudge();
        drop(listener.accept().unwrap());
        let deadline = Instant::now() + Duration::from_secs(5);
        while !is_answered(&mut nudger.unanswered[0].0) {
            assert!(Instant::now() < deadline, "the closed connection was never noticed");
            std::thread::yield_now();
        }
        nudger.nudge();
        assert_eq!(nudger.unanswered.len(), 1, "the answered one is let go of");
        nudger.unanswered[0].1 = Instant::now() - 2 * ANSWER_TIMEOUT;
        nudger.nudge();
        assert_eq!(nudger.unanswered.len(), 1, "the old one is let go of");
        assert!(nudger.unanswered[0].1.elapsed() < ANSWER_TIMEOUT);
    }
}
