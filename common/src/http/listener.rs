//! A bound address.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use log::warn;
use socket2::{Domain, Socket, Type};

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
        let mut last = io::Error::other("the host has no address");
        for address in (host, port).to_socket_addrs()? {
            match listen(address) {
                Ok(socket) => return Ok(Listener(socket.into())),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// When the system does not say, which it does for every bound socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A socket that listens there. Whatever its connections inherit is set before the first of them.
fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A node that is started again finds its port in use by connections that have ended.
    socket.set_reuse_address(true)?;
    // Without it an answer of several segments waits 40 ms.
    socket.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    super::foreign::keep_away(&socket)
        .unwrap_or_else(|error| warn!("failed to keep TLS and HTTP/2 away error={error}"));
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}
