//! Lets an answer arrive before its connection ends: the refusal of a request, and the end of a
//! stream.
//!
//! A client that is still sending loses an answer when its connection ends at once. So what it sends
//! is read on for a moment. No handler waits for that: refused clients take nobody's place.

use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, unbounded};
use socket2::SockRef;

use super::guard::{Guard, Handle};

/// A pause of a refused client, and bytes of it, before it is cut off.
const LINGER: Duration = Duration::from_millis(250);
const LINGER_BYTES: usize = 16 << 20;

/// How often one of them is read at a look.
const READS: usize = 64;

/// Between two looks at refused clients.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);

/// Between two looks at whether the server is over.
const PATIENCE: Duration = Duration::from_millis(100);

/// Refused clients whose connections are going to be closed.
pub(super) struct Farewells(Sender<Farewell>, Receiver<Farewell>);

/// One of them.
struct Farewell {
    peer: SocketAddr,
    /// `None` when the client has gone already.
    handle: Option<Handle>,
    begun: Instant,
    heard_at: Instant,
    bytes: usize,
    /// What is done when the connection has been closed.
    leftover: Box<dyn FnOnce() + Send>,
}

impl Farewells {
    pub(super) fn new() -> Farewells {
        let (sender, receiver) = unbounded();
        Farewells(sender, receiver)
    }
}

impl Guard {
    /// Sends these last bytes past tiny_http, and closes the connection when they have had the time to
    /// arrive. `leftover` is done after that.
    pub(super) fn part(
        &self,
        peer: SocketAddr,
        bytes: Vec<u8>,
        is_refusal: bool,
        leftover: impl FnOnce() + Send + 'static,
    ) {
        self.figures.refuse();
        self.order(peer, is_refusal, move |guard, handle| {
            if let Some(Handle { stream, .. }) = &handle {
                // A peer that has gone, or does not read, is told nothing.
                let _ = SockRef::from(stream).send_with_flags(&bytes, libc::MSG_DONTWAIT);
                let _ = stream.shutdown(Shutdown::Write);
            }
            let (begun, leftover) = (Instant::now(), Box::new(leftover));
            let farewell = Farewell { peer, handle, begun, heard_at: begun, bytes: 0, leftover };
            // Both ends of the channel live as long as the guard.
            let _ = guard.farewells.0.send(farewell);
        });
    }

    /// Closes the connections of refused clients until the server is over.
    pub(super) fn see_off(&self) {
        let mut staying: Vec<Farewell> = Vec::new();
        while !self.figures.is_over() {
            match staying.is_empty() {
                true => staying.extend(self.farewells.1.recv_timeout(PATIENCE)),
                false => thread::sleep(LOOK_INTERVAL),
            }
            staying.extend(self.farewells.1.try_iter());
            for farewell in staying.extract_if(.., Farewell::is_over) {
                self.close(farewell.peer, farewell.handle);
                (farewell.leftover)();
                self.figures.refused();
            }
        }
    }
}

impl Farewell {
    /// Whether the client has ended its side, or has had its time.
    fn is_over(&mut self) -> bool {
        let Some(handle) = &self.handle else { return true };
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        if self.bytes >= LINGER_BYTES || self.begun.elapsed() >= 4 * LINGER {
            return true;
        }
        // Whoever sends without a pause holds up nobody else.
        for _ in 0..READS {
            match SockRef::from(&handle.stream).recv_with_flags(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(count @ 1..) => {
                    (self.heard_at, self.bytes) = (Instant::now(), self.bytes + count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return self.heard_at.elapsed() >= LINGER && !handle.is_sending();
                }
                Ok(0) | Err(_) => return true,
            }
        }
        false
    }
}
