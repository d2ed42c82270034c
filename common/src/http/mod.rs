//! The HTTP layer: blocking, one thread per request in progress, behind one small interface.
//!
//! A node hands a [`Handler`] to [`Server::start`]. For each request the handler gets a
//! [`Request`], already read and checked, and a [`Reply`] to send the answer with. Nothing
//! outside this module knows which server library does the parsing.
//!
//! The library is tiny_http 0.12. It parses well and has open ends, which these files close:
//!
//! | file | what it does |
//! |---|---|
//! | `server.rs` | takes requests from tiny_http, reads and refuses them, stops in good order |
//! | `crew.rs` | threads: reused when idle, hired when none is idle, bounded |
//! | `turns.rs` | one request of a connection at a time, in order; what a connection may not do; who has gone |
//! | `head.rs`, `framing.rs` | the head in one form, and where the body ends; refuse what is ambiguous |
//! | `reply.rs`, `response.rs` | the way to answer, bounded in time, and the bytes of an answer |
//! | `farewell.rs` | lets the answer to a refused request arrive before its connection ends |
//! | `foreign.rs` | keeps TLS and HTTP/2 away from tiny_http |
//! | `stats.rs` | how many requests are in progress, and other figures |
//! | `nudge.rs` | frees connections that tiny_http's pool left waiting |
//! | `guard.rs` | finds and closes connections, which tiny_http cannot |
//!
//! A thread of tiny_http's reads it and puts it into a queue. One thread of the crew at a time
//! takes requests from there. It gives each to an idle thread, but for the last one that it finds:
//! that one it handles itself, after another thread has taken its place. So a lone request is
//! handled by the thread that waited for it, and of many none waits for the one before it. The end
//! of the request's turn lets the connection's next request begin.
//!
//! # Limits
//!
//! | what | limit | beyond it |
//! |---|---|---|
//! | requests in progress | [`Limits::max_in_flight`] | 503 with `Retry-After`, but for [brief](Handler::is_brief) ones |
//! | bodies that are being received and answers that are being sent, of more than 1024 bytes | half as many | the one that has taken longest gives way, if that is more than a second; otherwise a body gets 503 |
//! | bytes of all such bodies that are being received | [`MAX_BODIES`] of the greatest length | the same |
//! | body of a request | [`Limits::max_body_bytes`] | 413; what the client still sends is thrown away for up to a second or 16 MiB, then the connection is closed |
//! | an idle connection, or a peer that does not read its answer | [`Limits::timeout`], idle at least a second | closed |
//! | a head or a body that trickles | [`Limits::timeout`] and up to half as much more | closed |
//! | a peer that reads its answer slowly | [`MIN_READ_RATE`] bytes per second after the timeout | closed |
//! | a request that is handled for more than half of the timeout | | its answer says `Connection: close` |
//! | bytes of a request's head | [`MAX_HEAD_BYTES`], checked every [`TICK`], more seldom with many connections | closed |
//! | a control character in the request line or a header field, a name that is no token | none | 400, and the connection is closed |
//! | `Host` fields of a request; one of HTTP/1.0 may have none | one | the same |
//! | a `Content-Encoding` other than `identity` | none | 415, and the connection is closed |
//! | requests of one connection waiting behind the one in progress | [`MAX_PIPELINED`] | closed |
//! | connections | a quarter of the process's descriptors, see [`max_connections`] | the longest idle are closed |
//!
//! # Clients that have gone
//!
//! A handler that waits asks [`Reply::is_gone`] whether somebody still waits with it. The guard
//! notices within some looks that a connection is closed, that its client has ended its side for a
//! second, or that another connection has come from the same address.
//!
//! # What cannot be cured from outside
//!
//! Two requests make tiny_http lose a thread, which sleeps, and two descriptors for good: a request
//! line with `HTTP/2.0`, unless it is the whole one that a client of HTTP/2 begins with, and an
//! announced body of more than [`MAX_DISCARD_BYTES`]. Their connections
//! are closed and counted ([`Stats::stuck`]). A node goes on as long as it has descriptors. On a hostile
//! network put a reverse proxy in front.
//!
//! Some answers are tiny_http's own: a request line or a header field that cannot be parsed gets
//! an empty 400, an unknown expectation an empty 417, which overtakes the answers to earlier
//! requests of its connection. A head with a byte beyond ASCII, a head whose lines end with a bare
//! LF, and a body of at most 1024 bytes that is cut off get none. A chunked body that is cut off
//! inside a chunk ends there without an error: the handler must notice by its sense, as JSON that
//! ends too early never parses.
//!
//! A folded line of a head is a field of its own to tiny_http, and nobody else sees the fold. Behind
//! a proxy that passes folds on as they are, such a line could announce a body that the proxy does
//! not know of. The proxy of `docker/tls` passes none on.
//!
//! A connection is known by its peer's address. A client that was refused and uses its port again
//! within moments is told apart from the connection before by an interim answer 100. One that gives
//! up a request and uses its port again waits until the guard has noticed, or, within 20 ms of that
//! request, for its end.

mod crew;
mod farewell;
#[cfg(target_os = "linux")]
mod foreign;
mod framing;
mod guard;
mod head;
mod listener;
mod nudge;
mod reply;
mod response;
mod server;
mod stats;
mod turns;

pub use guard::{TICK, max_connections};
pub use listener::Listener;
pub use reply::{MIN_READ_RATE, Reply, Stream};
pub use response::Response;
pub use server::{Drained, MAX_DISCARD_BYTES, Server};
pub use stats::Stats;
pub use turns::{MAX_HEAD_BYTES, MAX_PIPELINED};

use std::net::SocketAddr;
use std::time::Duration;

/// So many bodies of the greatest length may be received at the same time.
pub const MAX_BODIES: usize = 64;

/// What a server refuses and how long it waits.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Requests in progress at the same time.
    pub max_in_flight: usize,
    /// Bytes in the body of one request.
    pub max_body_bytes: usize,
    /// How long a connection may be idle between requests, take to deliver a head or a body, or
    /// refuse to read an answer.
    pub timeout: Duration,
}

impl Limits {
    /// How long the `number`th request in progress may wait.
    fn room(&self, number: usize) -> Room {
        match number {
            _ if number > self.max_in_flight => Room::Gone,
            _ if number > self.max_in_flight.div_ceil(2) => Room::Scarce,
            _ => Room::Ample,
        }
    }

    /// Bytes of all bodies together that are longer than 1024 bytes.
    fn most_body_bytes(&self) -> usize {
        self.max_body_bytes.saturating_mul(MAX_BODIES)
    }

    /// After this long without a byte the system ends a connection: at least a second, for a
    /// listener with a shorter one would stop accepting between two nudges.
    fn idle_timeout(&self) -> Duration {
        self.timeout.max(Duration::from_secs(1))
    }
}

/// How long a request may wait, with so many in progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// [`Limits::max_in_flight`] are in progress: it must not wait for anybody.
    Gone,
    /// More than half of that: it may wait for a bounded time.
    Scarce,
    /// As long as it likes.
    #[default]
    Ample,
}

/// One request, read to its end and checked.
#[derive(Debug, Default)]
pub struct Request {
    /// The method as sent: `GET`, `POST`, …
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// What follows the `?`, or the empty string.
    pub query: String,
    /// Names and values of its header fields, in the order in which they were sent.
    pub headers: Vec<(String, String)>,
    /// The body; empty when there is none.
    pub body: Vec<u8>,
    /// How long it may wait.
    pub room: Room,
}

impl Request {
    /// The values of all header fields of this name, in any case.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.headers.iter().filter(move |(field, _)| field.eq_ignore_ascii_case(name));
        named.map(|(_, value)| &**value)
    }

    /// The first of these values.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.values(name).next()
    }
}

/// Answers requests. Called on a thread of its own for each request in progress.
pub trait Handler: Send + Sync + 'static {
    /// Decides by its head whether a request is answered at all, before its body is read.
    ///
    /// # Errors
    /// The refusal.
    fn admit(&self, _head: &Request, _peer: SocketAddr) -> Result<(), Response> {
        Ok(())
    }

    /// Whether a request with this head may be answered without waiting for anybody. Such a one is
    /// handled however many are in progress: how the node is must be told above all when it is busy,
    /// and clients that wait must not keep nodes apart. [`Request::room`] says so then.
    fn is_brief(&self, _head: &Request) -> bool {
        false
    }

    /// Answers one request by [`Reply::send`]. It may go on working after that. One that waits lets
    /// go of the body first. A reply that is
    /// dropped unsent, by a panic too, becomes a 500.
    fn handle(&self, request: &mut Request, reply: Reply);
}

impl<F: Fn(&Request, Reply) + Send + Sync + 'static> Handler for F {
    fn handle(&self, request: &mut Request, reply: Reply) {
        self(request, reply);
    }
}
