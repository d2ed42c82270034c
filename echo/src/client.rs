//! The client: sends a message, prints what comes back, compares.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::Stop;

/// Time that the client allows for a connection, and then between two bytes of the reply.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to `host`, a name or an address, within `timeout`, and sets it as the read timeout.
///
/// Looking up a name takes no timeout, so a thread does it, and is left behind when it is late.
pub fn connect(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, Stop> {
    let (sender, receiver) = mpsc::channel();
    let target = (host.to_owned(), port);
    let late = |_| Err(ErrorKind::TimedOut.into());
    thread::Builder::new()
        .spawn(move || sender.send(TcpStream::connect(target)))
        .and_then(|_| receiver.recv_timeout(timeout).unwrap_or_else(late))
        .and_then(|stream| stream.set_read_timeout(Some(timeout)).map(|()| stream))
        .map_err(|error| {
            let host = host.escape_debug();
            Stop::Failure(format!("cannot connect to {host} port {port}: {error}"))
        })
}

/// Sends `message` over `stream` and, at the same time, writes the reply to `output` as it comes.
///
/// Fails if the reply is not the message, if the connection or the output fails, or if the reply
/// pauses for longer than the read timeout of `stream`.
pub fn exchange(stream: &TcpStream, message: &[u8], output: &mut impl Write) -> Result<(), Stop> {
    thread::scope(|scope| {
        // A failure to send needs no report: the reply shows it.
        let send = || (&*stream).write_all(message).and_then(|()| stream.shutdown(Shutdown::Write));
        let started = thread::Builder::new().spawn_scoped(scope, send);
        started.map_err(|error| Stop::Failure(format!("cannot start a thread: {error}")))?;
        let outcome = receive(stream, message, output);
        // A sender that still waits for the peer to read ends here.
        let _ = stream.shutdown(Shutdown::Both);
        outcome
    })
}

/// Copies `stream` to `output` until it ends, and compares it with `message` on the way.
fn receive(mut stream: &TcpStream, message: &[u8], output: &mut impl Write) -> Result<(), Stop> {
    let (mut received, mut same) = (0, true);
    let mut buffer = [0; 16 * 1024];
    let failure = loop {
        match stream.read(&mut buffer) {
            Ok(0) if !same => break "the reply differs from the message".to_owned(),
            Ok(0) if received < message.len() => break "connection cut short".to_owned(),
            Ok(0) => return Ok(()),
            Ok(length) => {
                let part = &buffer[..length];
                if let Err(error) = output.write_all(part).and_then(|()| output.flush()) {
                    break format!("cannot write the reply ({error})");
                }
                same &= message.get(received..received + length) == Some(part);
                received += length;
            }
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock | ErrorKind::TimedOut => break "timed out".to_owned(),
                _ => break format!("connection broken ({error})"),
            },
        }
    };
    Err(Stop::Failure(format!("{failure}, {received} of {} bytes came back", message.len())))
}
