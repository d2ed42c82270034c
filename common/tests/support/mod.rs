//! What the tests of the HTTP layer share: a node to attack, and a client that sends any bytes.

#![allow(dead_code, reason = "each test file uses its part of it")]
#![allow(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

pub(crate) mod peer;

use std::collections::HashSet;
use std::fmt::Debug;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use common::chunk::Chunk;
use common::http::{Handler, Limits, Listener, Reply, Request, Response, Server, Stats};
use socket2::{Domain, SockRef, Socket, Type};

/// How long anything may take that should happen at once, on the busiest machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Between looks at a condition.
const POLL: Duration = Duration::from_millis(5);

/// Limits that are in nobody's way.
pub(crate) const WIDE: Limits =
    Limits { max_in_flight: 256, max_body_bytes: 1 << 20, timeout: Duration::from_secs(60) };

/// A server and what its handler has seen. Dropping it releases what blocks and stops it.
pub(crate) struct Node {
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
}

/// The handler.
struct Watched(Arc<Seen>);

impl Handler for Watched {
    fn is_brief(&self, head: &Request) -> bool {
        head.path == "/brief"
    }

    fn handle(&self, request: &mut Request, reply: Reply) {
        self.0.handle(request, reply);
    }
}

/// What the handler has seen.
#[derive(Default)]
struct Seen {
    calls: Mutex<Calls>,
    changed: Condvar,
}

#[derive(Default)]
struct Calls {
    /// Method and path of each request, as they began.
    begun: Vec<String>,
    threads: HashSet<ThreadId>,
    blocked: usize,
    /// Requests inside the handler, and the most of them at one time.
    inside: usize,
    most_inside: usize,
    released: bool,
}

impl Node {
    pub(crate) fn start(limits: Limits) -> Node {
        let listener = Listener::bind("127.0.0.1", 0).unwrap();
        let seen = Arc::new(Seen::default());
        let server = Server::start(listener, limits, Watched(Arc::clone(&seen))).unwrap();
        Node { address: server.local_addr(), server, seen }
    }

    pub(crate) fn connect(&self) -> Wire {
        Wire::connect(self.address)
    }

    /// `GET path` on a connection of its own.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.connect().get(path)
    }

    /// Passes if a new client is served: the node lives.
    pub(crate) fn assert_alive(&self) {
        assert_eq!(self.get("/hello").status, 200);
    }

    /// Method and path of each request that reached the handler.
    pub(crate) fn begun(&self) -> Vec<String> {
        self.seen.calls.lock().unwrap().begun.clone()
    }

    /// How many threads the handler ran on so far.
    pub(crate) fn handler_threads(&self) -> usize {
        self.seen.calls.lock().unwrap().threads.len()
    }

    /// The most requests that were inside the handler at one time.
    pub(crate) fn most_inside(&self) -> usize {
        self.seen.calls.lock().unwrap().most_inside
    }

    /// Waits until this many `/block` requests block.
    pub(crate) fn wait_until_blocked(&self, count: usize) {
        eventually("requests that block", || {
            let blocked = self.seen.calls.lock().unwrap().blocked;
            if blocked == count { Ok(()) } else { Err((blocked, self.server.stats())) }
        });
    }

    /// Lets `/block` requests, present and future, be answered.
    pub(crate) fn release(&self) {
        self.seen.calls.lock().unwrap().released = true;
        self.seen.changed.notify_all();
    }

    /// Waits until the figures are as they should be.
    pub(crate) fn wait_for_stats(&self, what: &str, right: impl Fn(Stats) -> bool) {
        eventually(what, || {
            let stats = self.server.stats();
            if right(stats) { Ok(()) } else { Err(stats) }
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.release();
        self.server.stop(Duration::from_secs(1));
    }
}

impl Seen {
    fn handle(&self, request: &Request, reply: Reply) {
        let mut calls = self.calls.lock().unwrap();
        calls.begun.push(format!("{} {}", request.method, request.path));
        calls.threads.insert(thread::current().id());
        calls.inside += 1;
        calls.most_inside = calls.most_inside.max(calls.inside);
        drop(calls);
        let response = match request.path.as_str() {
            "/panic" | "/drop" => None,
            "/block" => Some(self.block()),
            "/wait" => Some(self.wait_for(&reply)),
            "/bytes" => {
                let count = request.query.parse().unwrap();
                Some(Response::chunks(200, vec![Chunk::Owned(vec![b'x'; count])]))
            }
            "/echo" => {
                let body = Chunk::Owned(request.body.clone());
                Some(Response::chunks(200, vec![body]))
            }
            "/stream" => return self.stream(reply),
            path => Some(Response::json(200, &path)),
        };
        self.calls.lock().unwrap().inside -= 1;
        assert!(request.path != "/panic", "a panic in the handler, as asked for");
        if let Some(response) = response {
            reply.send(response);
        }
    }

    /// Three pieces, of which one is empty.
    fn stream(&self, reply: Reply) {
        if let Some(mut stream) = reply.begin(Response::text(200, "text/plain", "")) {
            for piece in ["one", "", "two"] {
                stream.send(piece.as_bytes()).unwrap();
            }
        }
        self.calls.lock().unwrap().inside -= 1;
    }

    /// Until the client has gone, or all are released.
    fn wait_for(&self, reply: &Reply) -> Response {
        let start = Instant::now();
        while !reply.is_gone() && !self.calls.lock().unwrap().released {
            assert!(start.elapsed() < 3 * DEADLINE, "nobody has gone");
            thread::sleep(POLL);
        }
        Response::json(200, &"waited")
    }

    fn block(&self) -> Response {
        let mut calls = self.calls.lock().unwrap();
        calls.blocked += 1;
        // Bounded, so that a failing test ends.
        let wait = self.changed.wait_timeout_while(calls, 3 * DEADLINE, |calls| !calls.released);
        wait.unwrap().0.blocked -= 1;
        Response::json(200, &"released")
    }
}

/// An answer as it came over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Status line and header fields.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The value of a header field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// Passes if this is an error of this status, told in JSON.
    pub(crate) fn assert_error(&self, status: u16) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.field("Content-Type"), Some("application/json"), "{self:?}");
        assert!(self.body.starts_with("{\"error\":\""), "{self:?}");
    }
}

/// One connection to a node.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub(crate) fn connect(address: SocketAddr) -> Wire {
        Wire::over(TcpStream::connect(address).unwrap())
    }

    /// From this port, which another connection may have used just before.
    pub(crate) fn connect_from(port: u16, address: SocketAddr) -> Wire {
        let stream = eventually("the port can be used again", || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into())?;
            socket.connect(&address.into()).map(|()| TcpStream::from(socket))
        });
        Wire::over(stream)
    }

    fn over(stream: TcpStream) -> Wire {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Wire { stream, buffer: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Ends the connection with a reset, so that its port can be used again at once.
    pub(crate) fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Sends as much as the node takes: it may have closed the connection in between.
    pub(crate) fn send_if_open(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    pub(crate) fn ask(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n"));
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.ask(path);
        self.final_answer()
    }

    pub(crate) fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The next answer, body included.
    pub(crate) fn answer(&mut self) -> Answer {
        self.next_answer(false).expect("the connection was closed without an answer")
    }

    /// The next answer after the interim one that any answer may have before it.
    pub(crate) fn final_answer(&mut self) -> Answer {
        while self.buffer.len() < 12 && self.receive() > 0 {}
        if self.buffer.starts_with(b"HTTP/1.1 100") {
            self.answer_without_body();
        }
        self.answer()
    }

    /// The next answer, which has no body because the request was a HEAD or it is a 100.
    pub(crate) fn answer_without_body(&mut self) -> Answer {
        self.next_answer(true).expect("the connection was closed without an answer")
    }

    /// The next answer, or `None` when the node closes the connection instead.
    pub(crate) fn answer_if_any(&mut self) -> Option<Answer> {
        self.next_answer(false)
    }

    fn next_answer(&mut self, without_body: bool) -> Option<Answer> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            if self.receive() == 0 {
                assert!(self.buffer.is_empty(), "cut off in a head: {:?}", self.text());
                return None;
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not an answer: {head:?}"));
        let mut answer = Answer { status, head, body: String::new() };
        assert_eq!(answer.field("Transfer-Encoding"), None, "{answer:?}");
        if !without_body {
            let length = answer.field("Content-Length").expect("no Content-Length");
            let length: usize = length.parse().unwrap();
            while self.buffer.len() < length {
                assert_ne!(self.receive(), 0, "cut off in the body of {answer:?}");
            }
            answer.body = String::from_utf8(self.buffer.drain(..length).collect()).unwrap();
        }
        Some(answer)
    }

    /// Passes if the node closes the connection, without a further word.
    pub(crate) fn assert_closed(&mut self) {
        while self.receive() > 0 {}
        assert!(self.buffer.is_empty(), "before the end came {:?}", self.text());
    }

    /// Everything up to the end of the connection.
    pub(crate) fn rest(&mut self) -> String {
        while self.receive() > 0 {}
        self.text()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    /// Reads once; 0 when the connection has ended.
    fn receive(&mut self) -> usize {
        let mut piece = [0; 64 * 1024];
        match self.stream.read(&mut piece) {
            Ok(count) => {
                self.buffer.extend_from_slice(&piece[..count]);
                count
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                panic!("nothing came for {DEADLINE:?}; so far {:?}", self.text())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => self.receive(),
            Err(_) => 0,
        }
    }
}

/// A port that the system gives to nobody who asks for any.
pub(crate) fn port_of_ones_own() -> u16 {
    let first = 10_000 + (std::process::id() % 10_000) as u16;
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (first..first + 1000).find(is_free).expect("a port is free")
}

/// Looks again and again until it is `Ok`; fails with the last state seen.
pub(crate) fn eventually<T, E: Debug>(what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(state) if start.elapsed() > DEADLINE => {
                panic!("{what}: not after {DEADLINE:?}, last {state:?}")
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}
