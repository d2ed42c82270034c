//! The server's side: accept a connection, give it a thread, send back what it sends.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::CHUNK_BYTES;

/// How long the server waits, after it failed to accept a connection, before it tries again.
///
/// What is missing then (descriptors, threads) comes back only when connections end, so trying
/// at once would cost a processor and gain nothing.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What bounds the server's use of threads, descriptors and memory.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections served at the same time; each one costs a thread, a descriptor and
    /// [`CHUNK_BYTES`]. Every further connection is closed as soon as it is accepted.
    pub connections: usize,
    /// How long a connection may stay without a byte received, or without a byte taken by the
    /// peer, before the server drops it. Must not be zero.
    pub idle: Duration,
}

impl Limits {
    /// The limits of `echo-server`: 128 connections, which leaves room below the 256 descriptors
    /// that some systems allow a process, and ten minutes, enough for a human typing into `nc`.
    pub const DEFAULT: Limits = Limits { connections: 128, idle: Duration::from_secs(600) };
}

/// Serves the connections of `listener` until the process ends.
///
/// A failure to accept a connection, or to start a thread for it, costs at most that connection.
/// It is logged once when it starts and once when it is over.
pub fn serve(listener: &TcpListener, limits: Limits) -> ! {
    // Every connection holds a clone, so the count is right however its thread ends.
    let places = Arc::new(());
    let mut failures: u64 = 0;
    loop {
        match accept(listener, limits, &places) {
            Ok(()) if failures > 0 => {
                log(format_args!("accepted again failures={failures}"));
                failures = 0;
            }
            Ok(()) => {}
            Err(error) => {
                if failures == 0 {
                    let error = error.to_string();
                    log(format_args!("failed to accept error={error:?} (trying again)"));
                }
                failures += 1;
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

/// Accepts the next connection and hands it to a thread of its own, if there is a place left.
fn accept(listener: &TcpListener, limits: Limits, places: &Arc<()>) -> io::Result<()> {
    let (stream, peer) = listener.accept()?;
    let open = Arc::strong_count(places) - 1;
    if open >= limits.connections {
        log(format_args!("refused peer={peer} open={open} limit={}", limits.connections));
        return Ok(());
    }
    let place = Arc::clone(places);
    thread::Builder::new().spawn(move || {
        converse(&stream, peer, limits.idle);
        // In this order: who has seen its connection end can count on its place being free.
        drop(place);
        drop(stream);
    })?;
    Ok(())
}

/// Echoes one connection from its first byte to its last and logs both ends of it.
fn converse(stream: &TcpStream, peer: SocketAddr, idle: Duration) {
    log(format_args!("connected peer={peer}"));
    let mut bytes = 0;
    let outcome = stream
        .set_read_timeout(Some(idle))
        .and_then(|()| stream.set_write_timeout(Some(idle)))
        .and_then(|()| echo(stream, &mut bytes));
    match outcome {
        Ok(()) => log(format_args!("closed peer={peer} bytes={bytes}")),
        Err(error) => {
            let reason = match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("idle for {idle:?}"),
                _ => error.to_string(),
            };
            log(format_args!("closed peer={peer} bytes={bytes} error={reason:?}"));
        }
    }
}

/// Sends back what `stream` sends, until its sending side ends.
///
/// Adds to `bytes` what was sent back, and does so as it goes: the count is also right when the
/// connection breaks. Nothing is read before the bytes read last were handed to the kernel, so a
/// peer that does not read slows down itself and costs no memory.
///
/// # Errors
///
/// The connection broke, or one of the stream's timeouts passed.
pub fn echo(mut stream: &TcpStream, bytes: &mut u64) -> io::Result<()> {
    let mut buffer = [0; CHUNK_BYTES];
    loop {
        let length = match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        stream.write_all(&buffer[..length])?;
        *bytes += length as u64;
    }
}

/// Prints one event to stdout, as a whole line.
///
/// The server outlives whoever reads its output, so a failure to print is ignored.
pub fn log(event: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{event}");
}
