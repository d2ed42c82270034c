//! A bound address. Accepted sockets inherit the options of the one that listens.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::SockRef;

use super::Limits;

/// Connections that the system completes before anybody accepts them.
const BACKLOG: i32 = 1024;

/// A bound address, not yet served.
pub struct Listener(TcpListener);

impl Listener {
    /// Binds `host:port`; port 0 picks a free one.
    ///
    /// # Errors
    /// When the host does not resolve or the address cannot be bound.
    pub fn bind(host: &str, port: u16) -> io::Result<Listener> {
        let listener = TcpListener::bind((host, port))?;
        let socket = SockRef::from(&listener);
        // Without it an answer of several segments waits 40 ms.
        socket.set_tcp_nodelay(true)?;
        socket.listen(BACKLOG)?;
        Ok(Listener(listener))
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// When the system does not say, which it does for every bound socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// A peer that neither sends nor reads is given up. Accepting does not time out by that, for
    /// the server makes connections to itself more often.
    pub(super) fn with_timeouts(self, limits: &Limits) -> io::Result<TcpListener> {
        SockRef::from(&self.0).set_read_timeout(Some(limits.idle_timeout()))?;
        SockRef::from(&self.0).set_write_timeout(Some(limits.timeout))?;
        Ok(self.0)
    }
}
