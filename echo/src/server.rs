//! The server: accepts a connection, gives it a thread, sends back what it sends.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Connections served at the same time. Each one costs a thread and a descriptor.
pub const MOST_CONNECTIONS: usize = 1024;

/// Time without a byte after which a connection is dropped: enough for a human who types.
pub const IDLE: Duration = Duration::from_secs(600);

/// Time between two attempts to accept while they fail, so that they do not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves up to `most` connections of `listener` at a time, until the process ends.
pub fn serve(listener: &TcpListener, most: usize, idle: Duration) -> ! {
    // The thread of each connection holds a clone, so the count is right however a thread ends.
    let places = Arc::new(());
    let mut failures = 0;
    loop {
        let (stream, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) => {
                if failures == 0 {
                    let error = error.to_string();
                    log(format_args!("failed to accept error={error:?} (trying again)"));
                }
                failures += 1;
                thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        if failures > 0 {
            log(format_args!("accepted again failures={failures}"));
            failures = 0;
        }
        let open = Arc::strong_count(&places) - 1;
        let place = Arc::clone(&places);
        let conversation = move || {
            converse(&stream, peer, idle);
            // In this order: a peer that sees the end of its connection finds the place free.
            drop(place);
            drop(stream);
        };
        let admitted = if open < most {
            // One descriptor stays free for `accept`: whoever is not served is closed at once.
            let spare = listener.try_clone();
            spare.and_then(|_| thread::Builder::new().spawn(conversation).map(drop))
        } else {
            Err(io::Error::other("no place is free"))
        };
        if let Err(error) = admitted {
            let error = error.to_string();
            log(format_args!("refused peer={peer} open={open} limit={most} error={error:?}"));
        }
    }
}

/// Sends back what `stream` sends, until its end, and logs both ends of the connection.
fn converse(stream: &TcpStream, peer: SocketAddr, idle: Duration) {
    log(format_args!("connected peer={peer}"));
    let outcome = stream
        .set_read_timeout(Some(idle))
        .and_then(|()| stream.set_write_timeout(Some(idle)))
        .and_then(|()| io::copy(&mut &*stream, &mut &*stream));
    match outcome {
        Ok(bytes) => log(format_args!("closed peer={peer} bytes={bytes}")),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            log(format_args!("closed peer={peer} error=\"idle for {idle:?}\""));
        }
        Err(error) => log(format_args!("closed peer={peer} error={:?}", error.to_string())),
    }
}

/// Prints one event. The server outlives the reader of its output: a failure to print is ignored.
pub fn log(event: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{event}");
}
