//! Ports that nobody else gets.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use socket2::{Domain, Socket, Type};

/// A port that is taken and where nobody listens: connections to it are refused.
#[derive(Debug)]
pub struct Port {
    _socket: Socket,
    number: u16,
}

impl Port {
    /// Takes a port; 0 is any. A node may still bind it, for both allow the address to be reused.
    pub fn reserve(number: u16) -> Port {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be had");
        socket.set_reuse_address(true).expect("a new socket takes options");
        let addr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, number));
        socket.bind(&addr.into()).expect("nobody listens there");
        let addr = socket.local_addr().ok().and_then(|addr| addr.as_socket());
        Port { _socket: socket, number: addr.expect("a bound socket has an address").port() }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.number)
    }
}
