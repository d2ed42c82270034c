//! Following the log: entries are sent as they are committed, or, to a follower that asks for
//! `committed=false`, as they come.
//!
//! | request | answer |
//! |---|---|
//! | `GET /messages/stream` | Server-Sent Events from `Last-Event-ID` + 1 or `?from=` on |
//! | `GET /messages?from=7&wait=30000` | as without `wait`, once entry 7 is there or time is over |
//!
//! A committed entry stays in the log. An entry that is not committed can be lost with the master,
//! and another one takes its place: a follower of all entries never learns of that.
//!
//! Each follower holds a thread, and no lock while it writes or waits. An append or a commit rings
//! a [`Bell`], which costs next to nothing while nobody waits. A follower that has sent everything
//! sleeps for [`GATHER`] before it waits again, so a fast log does not wake it more often than that.
//! A follower that does not read is dropped after `READ_TIMEOUT_MS`, one that is gone at the next
//! [`SIGN_OF_LIFE`], or within some seconds if it waits for the end of a poll.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::entries::{Log, Seq};
use crate::http::{Reply, Request, Response, Stream};
use crate::locked::locked;
use crate::reading::{self, Range};

/// The pause of a follower that has sent everything: entries gather meanwhile.
pub const GATHER: Duration = Duration::from_millis(20);

/// The longest silence of a stream: a comment is sent then, which fails when the follower is gone.
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// The time between two looks of a waiting follower at whether the node is stopping or the client
/// has gone.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The number of bytes after which a piece of a stream ends. The log is locked for one piece.
const PIECE_BYTES: usize = 128 * 1024;

/// A log that can be read and followed.
pub trait Source {
    /// Calls `read` under a lock, with the log, its last readable entry, and the last entry that a
    /// quorum is known to hold. Keep it short.
    fn read<T>(&self, read: impl FnOnce(&Log, Seq, Seq) -> T) -> T;

    /// The bells that ring when more can be read.
    fn bells(&self) -> &Bells;

    /// Why the log must not be read now, in words. A stream ends then.
    fn hidden(&self) -> Option<String> {
        None
    }

    /// The last entry that a quorum holds, which no other node can know better.
    /// Fails with the answer when this node cannot say.
    fn confirm(&self) -> Result<Seq, Response> {
        Err(Response::error(400, "Only the master can confirm a read"))
    }
}

/// The bells of a log.
#[derive(Debug, Default)]
pub struct Bells {
    all: Bell,
    committed: Bell,
}

impl Bells {
    /// Tells the last entry that can be read, and the last one that a quorum is known to hold. The
    /// log must be locked, so that the last ring is the one that counts.
    pub fn ring(&self, last: Seq, committed: Seq) {
        self.all.ring(last.0);
        self.committed.ring(committed.0);
    }

    /// The bell for committed entries, or the one for all.
    pub fn of(&self, committed: bool) -> &Bell {
        if committed { &self.committed } else { &self.all }
    }
}

/// Wakes threads that wait until a number is reached: the place of an entry.
#[derive(Debug, Default)]
pub struct Bell {
    last: AtomicU64,
    waiting: AtomicUsize,
    lock: Mutex<()>,
    rung: Condvar,
}

impl Bell {
    /// Tells that this number is reached. One thread rings at a time.
    pub fn ring(&self, last: u64) {
        if self.last.load(SeqCst) == last {
            return;
        }
        self.last.store(last, SeqCst);
        // A thread that registers after this load sees the new `last`, so it need not be woken.
        if self.waiting.load(SeqCst) > 0 {
            drop(locked(&self.lock));
            self.rung.notify_all();
        }
    }

    /// Whether this number is reached.
    pub fn has_reached(&self, number: u64) -> bool {
        self.last.load(SeqCst) >= number
    }

    /// Waits until this number is reached; `false` when the time is over before.
    pub fn wait(&self, number: u64, timeout: Duration) -> bool {
        if self.has_reached(number) {
            return true;
        }
        self.waiting.fetch_add(1, SeqCst);
        let lock = locked(&self.lock);
        drop(self.rung.wait_timeout_while(lock, timeout, |()| !self.has_reached(number)));
        self.waiting.fetch_sub(1, SeqCst);
        self.has_reached(number)
    }
}

/// The number of followers, and its limit.
#[derive(Debug)]
pub struct Followers {
    count: AtomicUsize,
    pub(crate) most: usize,
}

/// A follower's place, given back when it is dropped.
#[derive(Debug)]
pub struct Seat<'a>(&'a Followers);

impl Followers {
    /// No followers yet, and at most so many.
    pub fn new(most: usize) -> Followers {
        Followers { count: AtomicUsize::new(0), most }
    }

    /// The number of followers.
    pub fn count(&self) -> usize {
        self.count.load(SeqCst)
    }

    /// Takes a place. Fails with the answer 503 when none is left.
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

/// Answers a `GET` or `HEAD` of `/messages` or below it: a stream, a long poll or a read.
pub fn answer(request: &Request, reply: Reply, source: &impl Source, followers: &Followers) {
    if request.path == "/messages/stream" {
        let asked = readable(source).and_then(|()| begin_at(request));
        return match asked.and_then(|asked| Ok((asked, followers.sit()?))) {
            Err(refusal) => reply.send(refusal),
            Ok(((from, committed), _seat)) => stream(from, committed, reply, source),
        };
    }
    let read = read(request, &reply, source, followers);
    reply.send(read.unwrap_or_else(|refusal| refusal));
}

fn read(
    request: &Request,
    reply: &Reply,
    source: &impl Source,
    followers: &Followers,
) -> Result<Response, Response> {
    readable(source)?;
    let asked = if request.path == "/messages" { reading::parse(&request.query) } else { Ok(None) };
    match asked {
        Ok(Some(Range { confirmed: true, .. })) => {
            let last = source.confirm()?;
            return Ok(source.read(|log, _, _| reading::answer(request, log, last, last)));
        }
        Ok(Some(Range { from, wait: Some(wait), committed, .. })) => {
            let _seat = followers.sit()?;
            wait_for(from, wait, reply, source.bells().of(committed.unwrap_or(true)));
            readable(source)?;
        }
        _ => {}
    }
    Ok(source.read(|log, last, committed| reading::answer(request, log, last, committed)))
}

fn readable(source: &impl Source) -> Result<(), Response> {
    source.hidden().map_or(Ok(()), |why| Err(unreadable(&why)))
}

/// The answer 503 to a read of a log that must not be read now.
pub fn unreadable(why: &str) -> Response {
    let refused = Response::error(503, &format!("The log cannot be read now: {why}"));
    refused.with_header("Retry-After", "1")
}

/// The first entry of a stream, and whether it is of committed entries only. A client that comes
/// back names its last entry in `Last-Event-ID`, beside the query of its first request.
fn begin_at(request: &Request) -> Result<(Seq, bool), Response> {
    let refuse = |problem: &str| Err(Response::error(400, problem));
    let (asked, committed) = match reading::parse(&request.query) {
        Ok(None) => (Seq(1), true),
        Ok(Some(Range { from, limit: u64::MAX, committed, confirmed: false, wait: None })) => {
            (from, committed.unwrap_or(true))
        }
        Ok(_) => return refuse("A stream has no limit, no wait, and is not confirmed"),
        Err(problem) => return refuse(&problem),
    };
    match request.header("Last-Event-ID").map(reading::whole) {
        None => Ok((asked, committed)),
        Some(Some(last)) => Ok((Seq(last).next(), committed)),
        Some(None) => refuse("Last-Event-ID must be the place of an entry"),
    }
}

fn wait_for(seq: Seq, wait: Duration, reply: &Reply, bell: &Bell) {
    let start = Instant::now();
    while !reply.is_stopping() && !reply.is_gone() {
        let left = wait.saturating_sub(start.elapsed());
        if left.is_zero() || bell.wait(seq.0, left.min(LOOK_INTERVAL)) {
            break;
        }
    }
}

fn stream(mut next: Seq, committed: bool, reply: Reply, source: &impl Source) {
    let Some(mut stream) = begin(reply) else { return };
    let (mut said, bell) = (Instant::now(), source.bells().of(committed));
    while !stream.is_stopping() && source.hidden().is_none() {
        let is_there = bell.wait(next.0, LOOK_INTERVAL);
        let (piece, following) = match is_there {
            true => source.read(|log, last, known| {
                events(log, next, if committed { known.min(last) } else { last })
            }),
            false if said.elapsed() >= SIGN_OF_LIFE => (b":\n\n".to_vec(), next),
            false => continue,
        };
        if stream.send(&piece).is_err() {
            break;
        }
        (said, next) = (Instant::now(), following);
        if is_there && piece.len() < PIECE_BYTES {
            thread::sleep(GATHER);
        }
    }
}

/// Begins an answer of Server-Sent Events; `None` if the request is a HEAD or the client is gone.
pub fn begin(reply: Reply) -> Option<Stream> {
    // UTF-8 in any case, but some clients look here.
    let head = Response::text(200, "text/event-stream; charset=utf-8", "");
    // Proxies must not hold events back.
    let head = head.with_header("Cache-Control", "no-store").with_header("X-Accel-Buffering", "no");
    reply.begin(head)
}

/// A piece of the stream from entry `next` on, and the first entry of the piece after it.
fn events(log: &Log, mut next: Seq, last: Seq) -> (Vec<u8>, Seq) {
    let (mut events, mut head) = (Vec::new(), String::new());
    while next <= last && events.len() < PIECE_BYTES {
        head.clear();
        write!(head, "id: {next}\ndata: {{\"seq\":{next},\"msg\":").expect("a string has room");
        events.extend_from_slice(head.as_bytes());
        // JSON text of a message has no line breaks.
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
    fn a_bell_wakes_only_those_whose_entry_came() {
        let bell = Bell::default();
        assert!(!bell.wait(1, Duration::ZERO));
        thread::scope(|scope| {
            let first = scope.spawn(|| bell.wait(1, Duration::from_secs(60)));
            let third = scope.spawn(|| bell.wait(3, Duration::from_millis(50)));
            bell.ring(2);
            assert!(first.join().unwrap());
            assert!(!third.join().unwrap());
        });
        assert!(bell.has_reached(2));
        bell.ring(1);
        assert!(!bell.has_reached(2), "the last ring counts");
    }

    #[test]
    fn a_stream_begins_where_it_is_told() {
        // Goal: the header wins over `from`, only `committed=false` is of all entries, and a bad
        // query is refused beside a good header too.
        let first = |query: &str, id: Option<&str>| {
            let own = |id: &&str| ("last-event-id".to_string(), id.to_string());
            let headers = id.iter().map(own).collect();
            begin_at(&Request { query: query.into(), headers, ..Request::default() }).ok()
        };
        assert_eq!(first("", None), Some((Seq(1), true)));
        assert_eq!(first("from=5", None), Some((Seq(5), true)));
        assert_eq!(first("committed=true", None), Some((Seq(1), true)));
        assert_eq!(first("from=5&committed=false", Some("7")), Some((Seq(8), false)));
        assert_eq!(first("", Some("18446744073709551615")), Some((Seq(u64::MAX), true)));
        let bad = [
            ("from=0", None),
            ("from=0", Some("7")),
            ("limit=1", Some("7")),
            ("confirmed=true", None),
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
