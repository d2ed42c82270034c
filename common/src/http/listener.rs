//! A bound address.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::SockRef;

/// Connections that the system completes before anybody accepts them.
const BACKLOG: i32 = 1024;

/// A bound address, not yet served.
pub struct Listener(pub(super) TcpListener);

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
}
