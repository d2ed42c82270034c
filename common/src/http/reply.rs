//! The way to answer one request.

use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{Level, debug, log_enabled};

use super::Request;
use super::response::{Part, Response};
use super::stats::{Figures, Stats};
use crate::logging::beginning;

/// A peer that reads an answer more slowly, after its timeout is over, loses its connection.
pub const MIN_READ_RATE: u64 = 64 * 1024;

/// Why a request is refused that would have to wait.
pub(super) const TOO_MANY: &str = "Too many requests in progress";

/// Answers with longer bodies may take as long as their clients like.
const SHORT_BYTES: usize = 1024;

/// The end of an answer in chunks.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What becomes of a connection at the end of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its next request begins.
    Next,
    /// It is closed at once.
    Close,
    /// It is closed when the peer has had the time to read what was sent.
    Farewell,
}

impl End {
    /// The end of a turn whose answer could not be sent. A connection that the peer has ended need
    /// not be closed, and another one may come from the same port.
    fn after(error: &io::Error) -> End {
        match error.kind() {
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => End::Next,
            _ => End::Close,
        }
    }
}

/// The connections of a server, as the answers to their requests need them.
pub(super) trait Connections: Send + Sync {
    /// Ends the turn of the request in progress.
    fn end_turn(self: Arc<Self>, peer: SocketAddr, end: End);

    /// The answer to the request in progress is going to be sent, which may take long.
    fn begin_answer(&self, peer: SocketAddr);

    /// Whether the client of the request in progress has gone.
    fn is_gone(&self, peer: SocketAddr) -> bool;
}

/// The turn of the request in progress. Its end lets the connection's next request begin.
pub(super) struct Turn {
    pub(super) peer: SocketAddr,
    pub(super) end: End,
    pub(super) of: Arc<dyn Connections>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        Arc::clone(&self.of).end_turn(self.peer, self.end);
    }
}

/// The way to answer one request, once.
pub struct Reply {
    pub(super) turn: Turn,
    pub(super) figures: Arc<Figures>,
    /// Method and path of the request, for the log; empty if nobody reads it there.
    pub(super) asked: String,
    /// Whether the answer has no body.
    pub(super) head_only: bool,
    /// Whether the client understands chunks.
    pub(super) chunked: bool,
    /// What the answer says about the connection.
    pub(super) connection: Option<&'static str>,
    /// When the request had been read.
    pub(super) since: Instant,
    /// `None` once it has been used.
    pub(super) writer: Option<Box<dyn Write + Send>>,
}

impl Reply {
    /// Sends the answer. A peer that has gone, or does not read, loses its connection.
    pub fn send(mut self, response: Response) {
        self.answer(&response);
    }

    /// Refuses a request that would have to wait when too many are in progress.
    pub fn refuse_busy(self) {
        let refusal = Response::busy(TOO_MANY);
        self.figures.count(&refusal);
        self.send(refusal);
    }

    /// Begins an answer that ends when one of both sides ends it, with this head; `None` if the peer
    /// wanted no more than the head, or has gone.
    pub fn begin(mut self, head: Response) -> Option<Stream> {
        let mut writer = self.writer.take()?;
        let mut paced = PacedWriter::new(&mut *writer, self.figures.limits.timeout);
        let part = Part::Beginning { chunked: self.chunked };
        let begun = head.write_to(&mut paced, part, Some("close"));
        let written = paced.written;
        self.log(head.status, written);
        self.turn.end = match begun {
            Ok(()) => End::Farewell,
            Err(error) => End::after(&error),
        };
        let goes_on = self.turn.end == End::Farewell && !self.head_only;
        goes_on.then(|| Stream { writer, reply: self })
    }

    /// Figures of the server.
    pub fn stats(&self) -> Stats {
        self.figures.stats()
    }

    /// Whether the client has been gone for a while, so that nobody reads the answer. A client that
    /// has ended its side of the connection counts as gone.
    pub fn is_gone(&self) -> bool {
        self.turn.of.is_gone(self.turn.peer)
    }

    /// Whether the server is going to stop: nobody should be kept waiting.
    pub fn is_stopping(&self) -> bool {
        self.figures.is_stopping()
    }

    pub(super) fn answer(&mut self, response: &Response) {
        let Some(mut writer) = self.writer.take() else { return };
        let mut paced = PacedWriter::new(&mut *writer, self.figures.limits.timeout);
        let part = if self.head_only { Part::Head } else { Part::Whole };
        if !self.head_only && response.body_len() > SHORT_BYTES {
            self.turn.of.begin_answer(self.turn.peer);
        }
        // The socket has waited for the next request since this one was read: after half of its
        // timeout the client should not begin another one.
        let is_late = self.since.elapsed() > self.figures.limits.idle_timeout() / 2;
        let connection = if is_late { Some("close") } else { self.connection };
        if let Err(error) = response.write_to(&mut paced, part, connection) {
            debug!("failed to answer peer={} error={error}", self.turn.peer);
            // What is left of this answer must not become the beginning of the next.
            self.turn.end = End::after(&error);
        }
        let written = paced.written;
        self.log(response.status, written);
    }

    fn log(&self, status: u16, bytes: u64) {
        log_answer(&self.asked, status, bytes, self.since, self.turn.peer);
    }

    /// Whether the connection is open: it takes an interim answer, which a client passes over.
    /// Otherwise no answer is sent.
    pub(super) fn is_heard(&mut self) -> bool {
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
        self.writer = self.writer.take().and_then(|mut out| {
            let sent = out.write_all(interim).and_then(|()| out.flush());
            sent.is_ok().then_some(out)
        });
        self.writer.is_some()
    }
}

/// Method and path of a request, if the log shows requests.
pub(super) fn asked(head: &Request) -> String {
    match log_enabled!(Level::Debug) {
        true => format!("method={:?} path={:?}", beginning(&head.method), beginning(&head.path)),
        false => String::new(),
    }
}

/// Logs that a request was answered, with so many bytes. It had been read at the instant `since`.
pub(super) fn log_answer(asked: &str, status: u16, bytes: u64, since: Instant, peer: SocketAddr) {
    if !asked.is_empty() {
        let ms = since.elapsed().as_millis();
        debug!("answered {asked} status={status} bytes={bytes} duration_ms={ms} peer={peer}");
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.answer(&Response::error(500, "Internal error: the request was not answered"));
    }
}

/// An answer that has begun and has no end of its own. Dropping it ends the answer and closes the
/// connection.
pub struct Stream {
    // Dropped first: the connection's next answer waits for it.
    writer: Box<dyn Write + Send>,
    reply: Reply,
}

impl Stream {
    /// Sends some more, which arrives as one chunk.
    ///
    /// # Errors
    /// When the peer has gone, or has not taken enough in time.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.reply.chunked {
            // An empty chunk would be the last one.
            true if bytes.is_empty() => Ok(()),
            true => {
                let size = format!("{:x}\r\n", bytes.len());
                self.write(&[size.as_bytes(), bytes, b"\r\n"].concat())
            }
            false => self.write(bytes),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut paced = PacedWriter::new(&mut *self.writer, self.reply.figures.limits.timeout);
        let written = paced.write_all(bytes).and_then(|()| paced.flush());
        if let Err(error) = &written {
            self.reply.turn.end = End::after(error);
        }
        written
    }

    /// Whether the server is going to stop: nothing should be sent any more.
    pub fn is_stopping(&self) -> bool {
        self.reply.is_stopping()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.reply.chunked && self.reply.turn.end == End::Farewell {
            // A peer that has gone needs no end.
            let _ = self.write(LAST_CHUNK);
        }
    }
}

/// Writes for as long as the peer takes enough. The socket's own timeout ends a single write that
/// makes no progress; a peer that takes a little at a time would hold its thread for ever.
struct PacedWriter<'a> {
    out: &'a mut dyn Write,
    start: Instant,
    timeout: Duration,
    written: u64,
}

impl<'a> PacedWriter<'a> {
    fn new(out: &'a mut dyn Write, timeout: Duration) -> PacedWriter<'a> {
        PacedWriter { out, start: Instant::now(), timeout, written: 0 }
    }
}

impl Write for PacedWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let allowed = self.timeout + Duration::from_millis(1000 * self.written / MIN_READ_RATE);
        if self.start.elapsed() > allowed {
            return Err(ErrorKind::TimedOut.into());
        }
        let count = self.out.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a byte at a time, and some time for each.
    struct Slow;

    impl Write for Slow {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(1));
            Ok(1)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_reader_is_given_up() {
        let error = PacedWriter::new(&mut Slow, Duration::from_millis(20)).write_all(&[0; 1 << 20]);
        assert_eq!(error.unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn a_quick_reader_is_not_given_up() {
        let mut out = Vec::new();
        let mut paced = PacedWriter::new(&mut out, Duration::ZERO);
        paced.start = Instant::now() - Duration::from_secs(10);
        paced.written = 20 * MIN_READ_RATE;
        paced.write_all(b"rest").unwrap();
        assert_eq!(out, b"rest");
    }
}
