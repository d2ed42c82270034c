//! The HTTP layer: blocking, one thread per request in progress, behind one small interface.
//!
//! A node hands a [`Handler`] to [`Server::start`]; for each request the handler gets a
//! [`Request`], already read and checked, and a [`Reply`] to send the answer with. Nothing
//! outside this module knows which server library does the parsing.
//!
//! The library is tiny_http 0.12. It parses well and has open ends; the parts of this module are
//! named after what they close:
//!
//! | file | what it does |
//! |---|---|
//! | `server.rs` | the only user of tiny_http: takes requests in the order in which they came, reads them, refuses what must be refused, stops in good order |
//! | `crew.rs`, `in_flight.rs` | the threads: reused when idle, one more when none is idle, bounded; how many requests are in progress |
//! | `framing.rs` | where a body ends; refuses what is ambiguous |
//! | `reply.rs`, `response.rs` | the way to answer, bounded in time, and the bytes of an answer |
//! | `connections.rs` | what each connection is doing: one request at a time, the others wait in line; which connection has been idle, trickling or flooding for too long |
//! | `door.rs` | finds a connection's own descriptor and closes it, which tiny_http cannot |
//! | `nudge.rs` | frees connections that tiny_http's pool left waiting |
//!
//! # The way of a request
//!
//! A thread of tiny_http's reads it and puts it into a queue. One thread of the crew at a time
//! takes requests from there. It gives each to an idle thread, but for the last one that it finds:
//! that one it handles itself, after another thread has taken its place. So a lone request is
//! handled by the thread that was waiting for it, and of many none waits for the one before it.
//!
//! Tried and measured, and not kept: a thread that does nothing but take requests and pass them on
//! costs 6 % more CPU time at 64 clients, and a tenth more latency with one. To have
//! whoever settles a call write the answers of all whose entry it decides, so that a request's
//! thread is woken once and not twice, saves 12 %; but then a client that does not read its answer
//! holds up the others.
//!
//! # Limits
//!
//! | what | limit | beyond it |
//! |---|---|---|
//! | requests in progress | [`Limits::max_in_flight`] | 503 with `Retry-After`, but for [`Limits::always`] |
//! | body of a request | [`Limits::max_body_bytes`] | 413, and the connection is closed without reading the rest |
//! | a connection that is idle, trickles a head or a body, or does not read its answer | [`Limits::timeout`] | closed |
//! | a peer that reads its answer slowly | [`MIN_READ_RATE`] bytes per second after the timeout | closed |
//! | bytes of a request's head | [`MAX_HEAD_BYTES`], checked every [`SWEEP_INTERVAL`] | closed |
//! | requests of one connection waiting behind the one in progress | [`MAX_PIPELINED`] | closed |
//! | connections | half the process's descriptors, see [`max_connections`] | the longest idle are closed |
//! | connections that tiny_http lost for good | [`MAX_STUCK`] | the node stops in good order, to be restarted |
//!
//! # What cannot be cured from outside
//!
//! Two requests make tiny_http lose a thread and its descriptors for good: a request line with
//! `HTTP/2.0`, and an announced body of more than [`MAX_DISCARD_BYTES`]. Their connections are
//! closed and counted ([`Stats::stuck`]). On a hostile network put a reverse proxy in front.
//!
//! Three answers are tiny_http's own: a request line or a header field that cannot be parsed gets
//! an empty 400, an unknown expectation an empty 417, and a body of at most 1024 bytes that is cut
//! off gets none. And to tiny_http a chunked body that is cut off inside a chunk is whole, so a
//! client that ends its side of the connection right after a chunked body gets a 400.

mod connections;
mod crew;
mod door;
mod framing;
mod in_flight;
mod nudge;
mod reply;
mod response;
mod server;

pub use connections::{MAX_HEAD_BYTES, MAX_PIPELINED};
pub use door::{SWEEP_INTERVAL, max_connections};
pub use reply::{MIN_READ_RATE, Reply, Stream};
pub use response::Response;
pub use server::{Drained, Listener, MAX_DISCARD_BYTES, MAX_STUCK, Server, Stats};

use std::time::Duration;

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
    /// Paths that are answered however many requests are in progress: how the node is must be
    /// told above all when it is busy. Their handlers must not wait.
    pub always: &'static [&'static str],
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
    /// Header fields in the order in which they were sent.
    pub headers: Headers,
    /// The body; empty when there is none.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of the first header field of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.values(name).next()
    }
}

/// Header fields, in one piece of text: most requests have several, and few are looked at.
#[derive(Debug, Default)]
pub struct Headers {
    text: String,
    /// Where in it each name and each value end.
    ends: Vec<(usize, usize)>,
}

impl Headers {
    /// The values of all fields of this name, in any case.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.iter().filter(move |(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(_, value)| *value));
        let fields = starts.zip(&self.ends);
        fields.map(|(start, (name, value))| (&self.text[start..*name], &self.text[*name..*value]))
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Headers {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(fields: I) -> Headers {
        let mut headers = Headers { text: String::with_capacity(256), ends: Vec::with_capacity(8) };
        for (name, value) in fields {
            headers.text.push_str(name);
            let end_of_name = headers.text.len();
            headers.text.push_str(value);
            headers.ends.push((end_of_name, headers.text.len()));
        }
        headers
    }
}

/// Answers requests. Called on a thread of its own for each request in progress.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request by [`Reply::send`]. It may go on working after that. A reply that is
    /// dropped unsent, by a panic too, becomes a 500.
    fn handle(&self, request: &Request, reply: Reply);
}

impl<F: Fn(&Request, Reply) + Send + Sync + 'static> Handler for F {
    fn handle(&self, request: &Request, reply: Reply) {
        self(request, reply);
    }
}
