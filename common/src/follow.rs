//! Following the log: being told of entries as they come.
//!
//! | request | answer |
//! |---|---|
//! | `GET /messages/stream` | every entry from `Last-Event-ID` + 1 or `?from=` on, as Server-Sent Events |
//! | `GET /messages?from=7&wait=30000` | as without `wait`, once entry 7 is there or the time is over |
//!
//! Each follower holds a thread, and no lock while it writes or waits. Whoever appends rings a
//! [`Bell`], which costs next to nothing while nobody waits; a follower that was woken gathers for
//! [`GATHER`] before it waits again, so however fast the log grows it is rung that often at most.
//! A follower that does not read is dropped after `READ_TIMEOUT_MS`, one that has gone at the next
//! sign of life.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::entries::{Log, Seq};
use crate::http::{Reply, Request, Response, Stream};
use crate::reading::{self, Range};

/// How long a follower that has everything lets entries gather before it waits for the next.
pub const GATHER: Duration = Duration::from_millis(20);

/// An idle stream carries a sign of life this often, by which a follower that has gone is noticed.
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// How often a waiting follower asks whether the node is stopping.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// About as many bytes are copied out of the log at once.
const PIECE_BYTES: usize = 128 * 1024;

/// A log that can be read and followed.
pub trait Source {
    /// Reads the log up to an entry, and the last one known to be held by a quorum, under a lock;
    /// keep it short.
    fn read<T>(&self, read: impl FnOnce(&Log, Seq, Seq) -> T) -> T;

    /// It is rung when there is more to be read.
    fn bell(&self) -> &Bell;
}

/// Wakes those who wait for an entry.
#[derive(Debug, Default)]
pub struct Bell {
    /// The last entry that can be read.
    last: AtomicU64,
    waiting: AtomicUsize,
    lock: Mutex<()>,
    rung: Condvar,
}

impl Bell {
    /// Everything up to this entry can be read.
    pub fn ring(&self, last: Seq) {
        self.last.fetch_max(last.0, SeqCst);
        // Who begins to wait after this look has seen the number above.
        if self.waiting.load(SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.rung.notify_all();
        }
    }

    /// Waits until this entry can be read; `false` when the time is over.
    pub fn wait(&self, seq: Seq, timeout: Duration) -> bool {
        let is_there = || self.last.load(SeqCst) >= seq.0;
        if is_there() {
            return true;
        }
        self.waiting.fetch_add(1, SeqCst);
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.rung.wait_timeout_while(lock, timeout, |()| !is_there());
        drop(waited);
        self.waiting.fetch_sub(1, SeqCst);
        is_there()
    }
}

/// How many follow, and how many may.
#[derive(Debug)]
pub struct Followers {
    count: AtomicUsize,
    most: usize,
}

/// A follower's place among them.
#[derive(Debug)]
pub struct Seat<'a>(&'a Followers);

impl Followers {
    /// None yet, and at most so many.
    pub fn new(most: usize) -> Followers {
        Followers { count: AtomicUsize::new(0), most }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count.load(SeqCst)
    }

    /// How many there may be.
    pub fn most(&self) -> usize {
        self.most
    }

    /// One more.
    ///
    /// # Errors
    /// The answer to one too many.
    pub fn sit(&self) -> Result<Seat<'_>, Response> {
        let seat = Seat(self);
        if self.count.fetch_add(1, SeqCst) < self.most {
            return Ok(seat);
        }
        let refused = Response::refused(503, "Too many followers");
        Err(refused.with_header("Retry-After", "1"))
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, SeqCst);
    }
}

/// Answers a `GET` or `HEAD` of `/messages` or below it, whether it follows or not.
pub fn answer(request: &Request, reply: Reply, source: &impl Source, followers: &Followers) {
    let seated = match request.path.as_str() {
        "/messages/stream" => match first_entry(request) {
            Err(problem) => return reply.send(Response::error(400, &problem)),
            Ok(from) => match followers.sit() {
                Err(refusal) => return reply.send(refusal),
                Ok(_seat) => return stream(from, reply, source),
            },
        },
        "/messages" => match reading::parse(&request.query) {
            Ok(Some(Range { from, wait: Some(wait), .. })) => match followers.sit() {
                Err(refusal) => return reply.send(refusal),
                Ok(seat) => {
                    wait_for(from, wait, &reply, source.bell());
                    Some(seat)
                }
            },
            _ => None,
        },
        _ => None,
    };
    drop(seated);
    reply.send(source.read(|log, last, committed| reading::answer(request, log, last, committed)));
}

/// Where a stream begins. A client that comes back says where it was, and all the rest as before.
fn first_entry(request: &Request) -> Result<Seq, String> {
    let asked = match reading::parse(&request.query)? {
        None => Seq(1),
        Some(Range { from, limit: u64::MAX, committed: false, wait: None }) => from,
        Some(_) => {
            return Err("A stream has no limit, no wait, and is not of what is committed".into());
        }
    };
    let Some(id) = request.header("Last-Event-ID") else { return Ok(asked) };
    match id.parse::<u64>() {
        Ok(last) if id.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Seq(last).next()),
        _ => Err("Last-Event-ID must be the place of an entry".into()),
    }
}

fn wait_for(seq: Seq, wait: Duration, reply: &Reply, bell: &Bell) {
    let start = Instant::now();
    while !reply.is_stopping() {
        let left = wait.saturating_sub(start.elapsed());
        if left.is_zero() || bell.wait(seq, left.min(LOOK_INTERVAL)) {
            break;
        }
    }
}

fn stream(mut next: Seq, reply: Reply, source: &impl Source) {
    let Some(mut stream) = begin(reply) else { return };
    let mut said = Instant::now();
    while !stream.is_stopping() {
        if !source.bell().wait(next, LOOK_INTERVAL) {
            if said.elapsed() >= SIGN_OF_LIFE {
                said = Instant::now();
                if stream.send(b":\n\n").is_err() {
                    break;
                }
            }
            continue;
        }
        let (events, following) = source.read(|log, last, _| events(log, next, last));
        if stream.send(&events).is_err() {
            break;
        }
        said = Instant::now();
        if events.len() < PIECE_BYTES {
            thread::sleep(GATHER);
        }
        next = following;
    }
}

/// Begins an answer of Server-Sent Events; `None` if nobody wants to hear them.
pub fn begin(reply: Reply) -> Option<Stream> {
    let head = Response::text(200, "text/event-stream", "");
    // Proxies must not hold them back.
    let head = head.with_header("Cache-Control", "no-store").with_header("X-Accel-Buffering", "no");
    reply.begin(head)
}

/// Some entries from this place on, and the place of the one after them.
fn events(log: &Log, mut next: Seq, last: Seq) -> (Vec<u8>, Seq) {
    let (mut events, mut head) = (Vec::new(), String::new());
    while next <= last && events.len() < PIECE_BYTES {
        head.clear();
        write!(head, "id: {next}\ndata: {{\"seq\":{next},\"msg\":").expect("a string has room");
        events.extend_from_slice(head.as_bytes());
        // JSON has no line breaks of its own.
        events.extend_from_slice(log.json(next));
        events.extend_from_slice(b"}\n\n");
        next = next.next();
    }
    (events, next)
}

#[cfg(test)]
mod tests {
    use crate::entries::{Draft, Epoch, Message};

    use super::*;

    #[test]
    fn a_bell_wakes_who_waits_for_an_entry_and_nobody_for_a_later_one() {
        let bell = Bell::default();
        assert!(!bell.wait(Seq(1), Duration::ZERO));
        thread::scope(|scope| {
            let first = scope.spawn(|| bell.wait(Seq(1), Duration::from_secs(60)));
            let third = scope.spawn(|| bell.wait(Seq(3), Duration::from_millis(50)));
            bell.ring(Seq(2));
            bell.ring(Seq(1));
            assert!(first.join().unwrap());
            assert!(!third.join().unwrap());
        });
        assert!(bell.wait(Seq(2), Duration::ZERO));
    }

    #[test]
    fn a_stream_begins_where_its_client_was_and_nonsense_is_refused_all_the_same() {
        let first = |query: &str, id: Option<&str>| {
            let headers = id.iter().map(|id| ("last-event-id", *id)).collect();
            first_entry(&Request { query: query.into(), headers, ..Request::default() }).ok()
        };
        assert_eq!(first("", None), Some(Seq(1)));
        assert_eq!(first("from=5", None), Some(Seq(5)));
        assert_eq!(first("from=5", Some("7")), Some(Seq(8)));
        assert_eq!(first("", Some("18446744073709551615")), Some(Seq(u64::MAX)));
        let bad = [
            ("from=0", None),
            ("from=0", Some("7")),
            ("limit=1", Some("7")),
            ("", Some("+7")),
            ("", Some("")),
        ];
        for (query, id) in bad {
            assert_eq!(first(query, id), None, "{query} {id:?}");
        }
    }

    #[test]
    fn seats_are_counted_and_given_back() {
        let followers = Followers::new(2);
        let (first, second) = (followers.sit(), followers.sit());
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(followers.sit().unwrap_err().status, 503);
        drop(first);
        assert!(followers.sit().is_ok());
        assert_eq!(followers.count(), 1);
    }

    #[test]
    fn events_name_their_place_and_come_in_pieces() {
        let mut log = Log::new(0);
        let long = "\n".repeat(PIECE_BYTES);
        for text in ["a", &long, "c"] {
            log.append(Epoch(1), &Draft { message: Message::new(text), key: None });
        }
        let (first, next) = events(&log, Seq(1), Seq(3));
        assert!(first.starts_with(b"id: 1\ndata: {\"seq\":1,\"msg\":\"a\"}\n\nid: 2\n"));
        assert_eq!(first.iter().filter(|byte| **byte == b'\n').count(), 6);
        assert_eq!(next, Seq(3));
        let (second, next) = events(&log, next, Seq(3));
        assert_eq!(second, b"id: 3\ndata: {\"seq\":3,\"msg\":\"c\"}\n\n");
        assert_eq!(next, Seq(4));
    }
}
