//! The client's side: send one message, take what comes back, compare.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::CHUNK_BYTES;
use crate::command::Stop;

/// How long `echo-client` waits for a connection, and then for any byte to move.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Why an exchange failed. Each is a connection error: the echo cannot be relied on.
#[derive(Debug)]
pub enum Error {
    /// No connection was made: unknown host, refused, unreachable or too late.
    Connect {
        /// Host as it was given.
        host: String,
        /// Port as it was given.
        port: u16,
        /// What the last attempt failed with.
        source: io::Error,
    },
    /// No byte moved in either direction for the time allowed.
    Silent {
        /// The time allowed.
        silence: Duration,
        /// Bytes that had come back.
        received: usize,
        /// Bytes of the message.
        expected: usize,
    },
    /// The connection broke.
    Broken {
        /// Bytes that had come back.
        received: usize,
        /// Bytes of the message.
        expected: usize,
        /// What reading failed with.
        source: io::Error,
    },
    /// The reply ended in order, but before all of the message had come back.
    CutShort {
        /// Bytes that had come back.
        received: usize,
        /// Bytes of the message.
        expected: usize,
    },
    /// The reply is not the message: other bytes, or more of them.
    Different {
        /// Bytes that had come back.
        received: usize,
        /// Bytes of the message.
        expected: usize,
    },
    /// What came back could not be written to the output.
    Output(io::Error),
    /// The sending thread could not be started.
    Thread(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Connect { host, port, source } => {
                write!(f, "cannot connect to {} port {port}: {source}", host.escape_debug())
            }
            Error::Silent { silence, received, expected } => {
                write!(f, "nothing moved for {silence:?}, {received} of {expected} bytes came back")
            }
            Error::Broken { received, expected, source } => {
                let came = format_args!("{received} of {expected} bytes came back");
                write!(f, "connection broken, {came}: {source}")
            }
            Error::CutShort { received, expected } => {
                write!(f, "connection cut short, {received} of {expected} bytes came back")
            }
            Error::Different { received, expected } => {
                let sizes = format_args!("{expected} bytes sent, {received} came back");
                write!(f, "the reply differs from the message, {sizes}")
            }
            Error::Output(source) => write!(f, "cannot write the reply: {source}"),
            Error::Thread(source) => write!(f, "cannot start a thread: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Connect { source, .. } | Error::Broken { source, .. } => Some(source),
            Error::Output(source) | Error::Thread(source) => Some(source),
            Error::Silent { .. } | Error::CutShort { .. } | Error::Different { .. } => None,
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Connection(error.to_string())
    }
}

/// Connects to `host` (a name or an address) within `timeout`, looking up the name included.
///
/// A name may stand for several addresses. They are tried in turn, each with its share of the
/// time left, so that one that does not answer leaves time for the next.
///
/// # Errors
///
/// [`Error::Connect`] with the failure of the last address tried.
pub fn connect(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, Error> {
    let failed = |source| Error::Connect { host: host.to_owned(), port, source };
    let start = Instant::now();
    let addresses = look_up(host, port, timeout).map_err(failed)?;
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for (tried, address) in addresses.iter().enumerate() {
        let left = timeout.saturating_sub(start.elapsed());
        let untried = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        // The standard library refuses a timeout of zero.
        let share = (left / untried).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(address, share) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

/// Asks the system for the addresses of `host`.
///
/// The system's call takes no timeout and can take long, so it runs in a thread that is left
/// behind if it does.
fn look_up(host: &str, port: u16, timeout: Duration) -> io::Result<Vec<SocketAddr>> {
    let (sender, receiver) = mpsc::channel();
    let target = (host.to_owned(), port);
    thread::Builder::new().spawn(move || {
        let found = target.to_socket_addrs().map(Iterator::collect);
        // It fails when nobody waits for the answer any more.
        let _ = sender.send(found);
    })?;
    let late = |_| Err(io::Error::new(ErrorKind::TimedOut, "looking up the name timed out"));
    receiver.recv_timeout(timeout).unwrap_or_else(late)
}

/// Sends `message` over `stream`, ends the sending side, and writes to `output` all that comes
/// back, as it comes, until the other side ends its own.
///
/// A second thread sends while this one reads; otherwise a message longer than the buffers of
/// both kernels would leave both sides waiting for the other to read.
///
/// # Errors
///
/// What comes back is not `message`, byte for byte, or nothing moved in either direction for
/// `silence`, or the connection or the output failed. All that came back until then has been
/// written to `output`.
pub fn exchange(
    stream: TcpStream,
    message: &[u8],
    silence: Duration,
    output: &mut impl Write,
) -> Result<(), Error> {
    let progress = Progress::new();
    thread::scope(|scope| {
        thread::Builder::new()
            // Its failure needs no report: then the reply breaks off, ends early or stays away.
            .spawn_scoped(scope, || send(&stream, message, &progress))
            .map_err(Error::Thread)?;
        let outcome = receive(&stream, message, silence, &progress, output);
        // Wakes the sender if it still waits for a peer that has stopped reading.
        let _ = stream.shutdown(Shutdown::Both);
        outcome
    })
}

/// Sends `message` and ends the sending side of `stream`.
fn send(mut stream: &TcpStream, message: &[u8], progress: &Progress) -> io::Result<()> {
    for chunk in message.chunks(CHUNK_BYTES) {
        stream.write_all(chunk)?;
        progress.mark();
    }
    stream.shutdown(Shutdown::Write)
}

/// Copies `stream` to `output` until it ends, and compares it with `message` on the way.
///
/// The silence is judged here alone: while this thread waits for the output, it is not the peer
/// that is silent.
fn receive(
    mut stream: &TcpStream,
    message: &[u8],
    silence: Duration,
    progress: &Progress,
    output: &mut impl Write,
) -> Result<(), Error> {
    let expected = message.len();
    let mut received = 0;
    let mut same = true;
    let mut buffer = [0; CHUNK_BYTES];
    loop {
        let left = silence.saturating_sub(progress.age());
        if left.is_zero() {
            return Err(Error::Silent { silence, received, expected });
        }
        let read = stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut buffer));
        let part = match read {
            Ok(0) => break,
            Ok(length) => &buffer[..length],
            Err(error) if is_pause(&error) => continue,
            Err(source) => return Err(Error::Broken { received, expected, source }),
        };
        output.write_all(part).and_then(|()| output.flush()).map_err(Error::Output)?;
        same &= message.get(received..received + part.len()) == Some(part);
        received += part.len();
        progress.mark();
    }
    if !same {
        return Err(Error::Different { received, expected });
    }
    if received < expected {
        return Err(Error::CutShort { received, expected });
    }
    Ok(())
}

/// Whether reading only stopped for a moment: its timeout passed, or a signal came.
fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// When a byte last moved, in either direction. Shared by the sender and the receiver.
struct Progress(Mutex<Instant>);

impl Progress {
    fn new() -> Progress {
        Progress(Mutex::new(Instant::now()))
    }

    fn mark(&self) {
        *self.0.lock().expect("nothing panics while it holds the lock") = Instant::now();
    }

    fn age(&self) -> Duration {
        self.0.lock().expect("nothing panics while it holds the lock").elapsed()
    }
}
