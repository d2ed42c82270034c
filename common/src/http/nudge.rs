//! Keeps tiny_http's connections served.
//!
//! Its pool hands a new connection to a queue whenever some thread looked idle a moment ago. In a
//! burst more connections are queued than threads are idle, and with keep-alive clients no thread
//! comes back for the rest: they wait for ever. A connection made from here and closed at once
//! finds no idle thread, so the pool makes one; it ends our connection and takes the first of the
//! queue. While connections are heard of for the first time many such nudges are made; a slow pulse
//! finds those which nobody precedes.

use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Between nudges for so long after the last new connection.
const BUSY_INTERVAL: Duration = Duration::from_millis(5);
const BUSY_FOR: Duration = Duration::from_secs(1);
/// Between nudges otherwise: the longest that a lone connection can be left waiting.
const IDLE_INTERVAL: Duration = Duration::from_millis(100);
/// Nudges on their way: more would only be in the way, and later ones are given up.
const MAX_UNANSWERED: usize = 32;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);

/// Makes connections to the server's own address.
#[derive(Debug)]
pub(super) struct Nudger {
    address: SocketAddr,
    unanswered: Vec<(TcpStream, Instant)>,
    busy_until: Instant,
    heard: u64,
}

impl Nudger {
    pub(super) fn new(bound: SocketAddr) -> Nudger {
        let ip = match bound.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let address = SocketAddr::new(ip, bound.port());
        Nudger { address, unanswered: Vec::new(), busy_until: Instant::now(), heard: 0 }
    }

    /// How long to wait until the next nudge.
    pub(super) fn interval(&self) -> Duration {
        if Instant::now() < self.busy_until { BUSY_INTERVAL } else { IDLE_INTERVAL }
    }

    /// Makes one connection, and lets go of those that were answered. `heard` is how many
    /// connections have been heard of.
    pub(super) fn nudge(&mut self, heard: u64) {
        self.unanswered
            .retain_mut(|(stream, at)| at.elapsed() < ANSWER_TIMEOUT && !is_answered(stream));
        if heard > self.heard {
            (self.heard, self.busy_until) = (heard, Instant::now() + BUSY_FOR);
        }
        // It fails when nobody accepts; then there is nobody to nudge.
        let made = (self.unanswered.len() < MAX_UNANSWERED).then(|| self.knock().ok()).flatten();
        self.unanswered.extend(made.map(|stream| (stream, Instant::now())));
    }

    fn knock(&self) -> io::Result<TcpStream> {
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
    fn answered_and_old_nudges_are_let_go() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut nudger = Nudger::new(listener.local_addr().unwrap());
        nudger.nudge(0);
        drop(listener.accept().unwrap());
        let deadline = Instant::now() + Duration::from_secs(5);
        while !is_answered(&mut nudger.unanswered[0].0) {
            assert!(Instant::now() < deadline, "the closed connection was never noticed");
            std::thread::yield_now();
        }
        nudger.nudge(0);
        assert_eq!(nudger.unanswered.len(), 1, "the answered one is let go of");
        nudger.unanswered[0].1 = Instant::now() - 2 * ANSWER_TIMEOUT;
        nudger.nudge(0);
        assert_eq!(nudger.unanswered.len(), 1, "the old one is let go of");
        assert!(nudger.unanswered[0].1.elapsed() < ANSWER_TIMEOUT);
    }
}
