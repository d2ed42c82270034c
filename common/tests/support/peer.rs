//! A node to be called that does as it is told, byte by byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use super::DEADLINE;

/// A listener whose connections are each served by a thread of the given function. It gets the
/// number of the connection, from 0.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    accepted: AtomicUsize,
    requests: AtomicUsize,
    over: AtomicBool,
}

impl Peer {
    pub(crate) fn start(serve: impl Fn(usize, Connection) + Send + Sync + 'static) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, shared) = (listener.local_addr().unwrap(), Arc::new(Shared::default()));
        let (serve, of_peer) = (Arc::new(serve), Arc::clone(&shared));
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if of_peer.over.load(SeqCst) {
                    break;
                }
                let number = of_peer.accepted.fetch_add(1, SeqCst);
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                stream.set_write_timeout(Some(DEADLINE)).unwrap();
                stream.set_nodelay(true).unwrap();
                let connection = Connection { stream, shared: Arc::clone(&of_peer) };
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(number, connection));
            }
        });
        Peer { address, shared }
    }

    /// A peer that gives this answer to every request, over kept connections.
    pub(crate) fn answering(answer: impl Into<String>) -> Peer {
        let answer = answer.into();
        Peer::start(move |_, mut connection| {
            while connection.request().is_some() {
                connection.send(&answer);
            }
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connections that were made to it.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(SeqCst)
    }

    /// Requests that it has read to their end.
    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(SeqCst)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        // Wakes the accept, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

/// One connection that a client has made.
pub(crate) struct Connection {
    stream: TcpStream,
    shared: Arc<Shared>,
}

impl Connection {
    /// The next request, head and body; `None` when the client has gone.
    pub(crate) fn request(&mut self) -> Option<String> {
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            let text = String::from_utf8_lossy(&bytes);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let fields = head.lines().filter_map(|line| line.split_once(": "));
                let mut lengths = fields.filter(|(f, _)| f.eq_ignore_ascii_case("content-length"));
                let length = lengths.next().map_or(0, |(_, length)| length.parse().unwrap());
                if body.len() >= length {
                    self.shared.requests.fetch_add(1, SeqCst);
                    return Some(text.into_owned());
                }
            }
            match self.stream.read(&mut piece) {
                Ok(0) | Err(_) => return None,
                Ok(count) => bytes.extend_from_slice(&piece[..count]),
            }
        }
    }

    /// Sends these bytes; `false` when the client has gone.
    pub(crate) fn send(&mut self, bytes: &str) -> bool {
        self.stream.write_all(bytes.as_bytes()).is_ok()
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }

    /// Keeps the connection open until the client has gone.
    pub(crate) fn hold(&mut self) {
        while matches!(self.stream.read(&mut [0; 4096]), Ok(1..)) {}
    }
}
