//! The way to answer one request.

use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::debug;

use super::response::{Part, Response};
use super::server::{Core, Stats};

/// A peer that reads an answer more slowly, after its timeout is over, loses its connection.
pub const MIN_READ_RATE: u64 = 64 * 1024;

/// The way to answer one request, once.
pub struct Reply {
    core: Arc<Core>,
    peer: SocketAddr,
    timeout: Duration,
    wish: Wish,
    /// `None` once it has been used.
    writer: Option<Box<dyn Write + Send>>,
}

/// What a request wants of its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    /// No body.
    pub(super) head_only: bool,
    /// What to say about the connection.
    pub(super) connection: Option<&'static str>,
}

impl Reply {
    pub(super) fn new(
        core: Arc<Core>,
        peer: SocketAddr,
        timeout: Duration,
        wish: Wish,
        writer: Box<dyn Write + Send>,
    ) -> Reply {
        Reply { core, peer, timeout, wish, writer: Some(writer) }
    }

    /// Sends the answer. A peer that has gone, or does not read, loses its connection.
    pub fn send(mut self, response: Response) {
        self.answer(&response);
    }

    /// Begins an answer that ends when one of both sides closes the connection; `None` if the peer
    /// wanted no more than its head, or has gone.
    pub fn begin(mut self, response: Response) -> Option<Stream> {
        if self.wish.head_only {
            self.wish.connection = Some("close");
            self.answer(&response);
            return None;
        }
        let mut writer = self.writer.take()?;
        let mut patient = Patient::new(&mut *writer, self.timeout);
        let begun = response.write_to(&mut patient, Part::Beginning, Some("close"));
        let (core, peer, timeout) = (Arc::clone(&self.core), self.peer, self.timeout);
        let stream = Stream { core, peer, timeout, writer: Some(writer) };
        begun.is_ok().then_some(stream)
    }

    /// Figures of the server.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Whether the server is going to stop: nobody should be kept waiting.
    pub fn is_stopping(&self) -> bool {
        self.core.is_stopping()
    }

    pub(super) fn answer(&mut self, response: &Response) {
        let Some(mut writer) = self.writer.take() else { return };
        let mut patient = Patient::new(&mut *writer, self.timeout);
        let part = if self.wish.head_only { Part::Head } else { Part::Whole };
        let written = response.write_to(&mut patient, part, self.wish.connection);
        if let Err(error) = written {
            debug!("failed to answer peer={} error={error}", self.peer);
            // What is left of this answer must not become the beginning of the next.
            self.core.close_peer(self.peer);
        }
        drop(writer);
        self.core.finish(self.peer);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.writer.is_none() {
            return;
        }
        self.answer(&Response::error(500, "Internal error: the request was not answered"));
    }
}

/// An answer that has begun and has no end of its own. Dropping it closes the connection.
pub struct Stream {
    core: Arc<Core>,
    peer: SocketAddr,
    timeout: Duration,
    writer: Option<Box<dyn Write + Send>>,
}

impl Stream {
    /// Sends some more.
    ///
    /// # Errors
    /// When the peer has gone, or has not taken enough in time.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let writer = self.writer.as_mut().expect("it is there until the stream is dropped");
        let mut patient = Patient::new(&mut **writer, self.timeout);
        patient.write_all(bytes)?;
        patient.flush()
    }

    /// Whether the server is going to stop: nothing should be sent any more.
    pub fn is_stopping(&self) -> bool {
        self.core.is_stopping()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        drop(self.writer.take());
        self.core.close_peer(self.peer);
        self.core.finish(self.peer);
    }
}

/// Writes for as long as the peer takes enough. The socket's own timeout ends a single write that
/// makes no progress; a peer that takes a little at a time would hold its thread for ever.
struct Patient<'a> {
    out: &'a mut dyn Write,
    start: Instant,
    timeout: Duration,
    written: u64,
}

impl<'a> Patient<'a> {
    fn new(out: &'a mut dyn Write, timeout: Duration) -> Patient<'a> {
        Patient { out, start: Instant::now(), timeout, written: 0 }
    }
}

impl Write for Patient<'_> {
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
    fn a_reader_that_takes_a_little_at_a_time_is_given_up() {
        let error = Patient::new(&mut Slow, Duration::from_millis(20)).write_all(&[0; 1 << 20]);
        assert_eq!(error.unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn a_reader_that_takes_enough_is_not_given_up() {
        let mut out = Vec::new();
        let mut patient = Patient::new(&mut out, Duration::ZERO);
        patient.start = Instant::now() - Duration::from_secs(10);
        patient.written = 20 * MIN_READ_RATE;
        patient.write_all(b"rest").unwrap();
        assert_eq!(out, b"rest");
    }
}
